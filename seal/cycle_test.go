package seal

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/stretchr/testify/require"
)

// Every size around a border of the padding, and the ends.
func TestSizes(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		h := memHost(t, &keyring.Options{Suite: st})
		for _, n := range []int{0, 1, 15, 16, 17, 510, 511, 512, 766, 767, 768, 1023, 1024, 1165, 4095, 4096,
			32 << 10, 48<<10 - 2, token.MaxPlain} {
			plain := randomBytes(n)
			sealed := sealToken(t, h, testRequest, plain)
			require.LessOrEqual(t, len(sealed), token.MaxToken)
			requireOpens(t, h, sealed, plain)
			requireRefused(t, h, sealed, ErrSpent)
		}
		require.Zero(t, outstanding(t, h))

		r := reserve(t, h, testRequest)
		_, err := r.Seal(make([]byte, token.MaxPlain+1))
		require.ErrorIs(t, err, ErrRequest)
		require.Zero(t, outstanding(t, h), "the slot must come back")
		_, err = r.Seal(nil)
		require.ErrorIs(t, err, ErrRequest)
	})
}

// A plain token that ends like padding does must come back whole.
func TestPlainLikePadding(t *testing.T) {
	h := memHost(t, nil)
	for _, end := range []string{"\x80", "\x80\x00\x00", "\x00\x00\x00", strings.Repeat("\x80", 600), strings.Repeat("\x00", 600)} {
		plain := []byte("x" + end)
		requireOpens(t, h, sealToken(t, h, testRequest, plain), plain)
	}
}

// The token grows in steps, so that its length does not tell the context's.
func TestPadding(t *testing.T) {
	h := memHost(t, nil)
	sizes := map[int]bool{}
	for n := 0; n <= token.MaxPlain; n += 97 {
		sealed := sealToken(t, h, testRequest, make([]byte, n))
		sizes[len(sealed)] = true
		requireOpens(t, h, sealed, make([]byte, n))
	}
	require.Len(t, sizes, 15) // 512, 768, 1024, ... 49152
}

// The same context sealed twice looks like two contexts.
func TestTokensDiffer(t *testing.T) {
	h := memHost(t, nil)
	plain := randomBytes(600)
	a, b := sealToken(t, h, testRequest, plain), sealToken(t, h, testRequest, plain)
	same := 0
	for i := range a {
		if a[i] == b[i] {
			same++
		}
	}
	// Equal are the clear parts that do not vary and one byte in 256 of the rest.
	require.Less(t, same, len(a)/4)
	for _, sealed := range [][]byte{a, b} {
		requireOpens(t, h, sealed, plain)
	}
}

func TestReservationIsGoodOnce(t *testing.T) {
	h := memHost(t, nil)
	second := map[string]func(*Reservation) error{
		"Seal":   func(r *Reservation) error { _, err := r.Seal(nil); return err },
		"Cancel": (*Reservation).Cancel,
	}
	for name, use := range second {
		t.Run("Seal then "+name, func(t *testing.T) {
			r := reserve(t, h, testRequest)
			plain := randomBytes(100)
			sealed, err := r.Seal(plain)
			require.NoError(t, err)
			require.ErrorIs(t, use(r), ErrRequest)
			requireOpens(t, h, sealed, plain)
		})
		t.Run("Cancel then "+name, func(t *testing.T) {
			r := reserve(t, h, testRequest)
			require.Equal(t, 1, outstanding(t, h))
			require.NoError(t, r.Cancel())
			require.Zero(t, outstanding(t, h))
			require.ErrorIs(t, use(r), ErrRequest)
		})
	}
}

// Of many who use one reservation at once one does, and only one token is made.
func TestReservationContested(t *testing.T) {
	h := memHost(t, nil)
	plain := randomBytes(100)
	for range 200 {
		r := reserve(t, h, testRequest)
		var wg sync.WaitGroup
		var sealed atomic.Pointer[[]byte]
		var won, used atomic.Int32
		for i := range 8 {
			wg.Go(func() {
				var err error
				if i%2 == 0 {
					var b []byte
					if b, err = r.Seal(plain); err == nil {
						sealed.Store(&b)
					}
				} else {
					err = r.Cancel()
				}
				if err == nil {
					won.Add(1)
				} else if errors.Is(err, ErrRequest) {
					used.Add(1)
				}
			})
		}
		wg.Wait()
		require.EqualValues(t, 1, won.Load())
		require.EqualValues(t, 7, used.Load())
		if b := sealed.Load(); b != nil {
			requireOpens(t, h, *b, plain)
		}
		require.Zero(t, outstanding(t, h))
	}
}

func TestCancelledNeverOpens(t *testing.T) {
	h := memHost(t, nil)
	r := reserve(t, h, testRequest)
	// What a thief of the reservation's memory would make of it.
	sealed, err := token.Seal(token.SuiteOf(r.grant.Start), r.grant.Start, r.grant.Key.Bytes(), []byte("plain"), r.random)
	require.NoError(t, err)
	require.NoError(t, r.Cancel())
	requireRefused(t, h, sealed, ErrSpent)
}

func TestTakeBack(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		h := memHost(t, &keyring.Options{Suite: st})
		plain := randomBytes(1165)
		for _, audience := range []Party{{}, process(1, 1)} { // for us, and for one that is not us
			req := testRequest
			req.Audience = audience
			sealed := sealToken(t, h, req, plain)
			s, err := h.TakeBack(sealed, testFormat)
			require.NoError(t, err)
			require.Equal(t, plain, append([]byte{}, s.Bytes()...))
			s.Wipe()
			_, err = h.TakeBack(sealed, testFormat)
			require.ErrorIs(t, err, ErrSpent)
		}
		sealed := sealToken(t, h, testRequest, plain)
		requireRefused(t, h, append(sealed, 0), ErrDefective)
		requireOpens(t, h, sealed, plain)
		_, err := h.TakeBack(sealed, testFormat)
		require.ErrorIs(t, err, ErrSpent)
	})
}

// A reservation knows whether its token waits still, and what it cannot know.
func TestOutstanding(t *testing.T) {
	for name, claim := range map[string]func(h *Host, sealed []byte) (*memsafe.Secret, error){
		"opened":     func(h *Host, sealed []byte) (*memsafe.Secret, error) { return h.Open(sealed, testFormat) },
		"taken back": func(h *Host, sealed []byte) (*memsafe.Secret, error) { return h.TakeBack(sealed, testFormat) },
	} {
		h := memHost(t, nil)
		r := reserve(t, h, testRequest)
		shows(t, r, Outstanding)
		sealed, err := r.Seal([]byte("plain"))
		require.NoError(t, err, name)
		requireRefused(t, h, append(sealed, 0), ErrDefective)
		shows(t, r, Outstanding)
		s, err := claim(h, sealed)
		require.NoError(t, err, name)
		s.Wipe()
		shows(t, r, Gone)
		require.NoError(t, h.ring.Retire(current(t, h).ID()))
		shows(t, r, Unknown)
		require.NoError(t, h.ring.Close())
		shows(t, r, Unknown)
	}
}

// So it is when the slot was given back, and when the register is gone under it.
func TestOutstandingNoMore(t *testing.T) {
	dir := shmDir(t) + "/ring"
	h := dirHost(t, dir, nil)
	r, damaged := reserve(t, h, testRequest), reserve(t, h, testRequest)
	require.NoError(t, r.Cancel())
	shows(t, r, Gone)
	shows(t, damaged, Outstanding)
	require.NoError(t, os.Truncate(epochFiles(t, dir)[0], 0))
	shows(t, damaged, Unknown)
	shows(t, r, Unknown)
	require.ErrorIs(t, damaged.Cancel(), keyring.ErrDamaged)
}

func shows(t *testing.T, r *Reservation, want State) {
	t.Helper()
	require.Equal(t, want, r.State())
}

func TestInspect(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		h := memHost(t, &keyring.Options{Suite: st})
		req := testRequest
		req.Lifetime = time.Minute
		before, err := h.ring.Now()
		require.NoError(t, err)
		sealed := sealToken(t, h, req, nil)
		defer requireOpens(t, h, sealed, []byte{})

		head, err := Inspect(sealed)
		require.NoError(t, err)
		require.Equal(t, st.String(), head.Suite)
		require.Equal(t, current(t, h).ID(), head.Epoch)
		require.GreaterOrEqual(t, head.Issued, before)
		require.Equal(t, time.Minute, head.Expires-head.Issued)
		require.Equal(t, req.Mechanism, head.Mechanism)
		require.Equal(t, testFormat, head.Format)
		require.Equal(t, h.who.User(), head.Exporter)
		require.Equal(t, User(h.who.User()), head.Audience)

		// The result is the caller's own: it must not reach into the token.
		head.Mechanism[0] ^= 1
		again, err := Inspect(sealed)
		require.NoError(t, err)
		require.Equal(t, req.Mechanism, again.Mechanism)

		for _, bad := range [][]byte{nil, {}, []byte("SLCX"), sealed[:len(sealed)-1], append([]byte{1}, sealed...)} {
			_, err := Inspect(bad)
			require.Equal(t, ErrDefective, err)
		}
	})
}

// Requests at and beyond each limit.
func TestRequestLimits(t *testing.T) {
	h := memHost(t, nil)
	long := func(n int) string { return strings.Repeat("f", n) }
	tests := []struct {
		name   string
		change func(*Request)
		want   error
	}{
		{"longest format", func(r *Request) { r.Format = long(64) }, nil},
		{"format too long", func(r *Request) { r.Format = long(65) }, ErrRequest},
		{"no format", func(r *Request) { r.Format = "" }, ErrRequest},
		{"space in the format", func(r *Request) { r.Format = "a b" }, ErrRequest},
		{"newline in the format", func(r *Request) { r.Format = "a\n" }, ErrRequest},
		{"delete in the format", func(r *Request) { r.Format = "a\x7f" }, ErrRequest},
		{"format not ASCII", func(r *Request) { r.Format = "ä" }, ErrRequest},
		{"no mechanism", func(r *Request) { r.Mechanism = nil }, nil},
		{"longest mechanism", func(r *Request) { r.Mechanism = make([]byte, 64) }, nil},
		{"mechanism too long", func(r *Request) { r.Mechanism = make([]byte, 65) }, ErrRequest},
		{"negative lifetime", func(r *Request) { r.Lifetime = -1 }, ErrRequest},
		{"endless lifetime", func(r *Request) { r.Lifetime = 1<<63 - 1 }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := testRequest
			tt.change(&req)
			r, err := h.Reserve(req)
			require.ErrorIs(t, err, tt.want)
			if tt.want != nil {
				require.Nil(t, r)
				require.Zero(t, outstanding(t, h))
				return
			}
			sealed, err := r.Seal([]byte("plain"))
			require.NoError(t, err)
			s, err := h.Open(sealed, req.Format)
			require.NoError(t, err)
			s.Wipe()
		})
	}
}

// Sealers, openers and rotations beside each other.
func TestConcurrentUse(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		h := memHost(t, &keyring.Options{Suite: st, Capacity: 256})
		const workers, each = 8, 60
		var wg sync.WaitGroup
		errs := make(chan error, workers*each+16)
		for w := range workers {
			wg.Go(func() {
				for i := range each {
					errs <- cycle(h, fmt.Appendf(nil, "%d-%d-%s", w, i, strings.Repeat("x", i*20)))
				}
			})
		}
		wg.Go(func() {
			for range keyring.MaxEpochs / 2 {
				errs <- h.ring.Rotate()
				time.Sleep(time.Millisecond)
			}
		})
		wg.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
	})
}

// cycle is the life of a token; TakeBack ends every third.
func cycle(h *Host, plain []byte) error {
	r, err := h.Reserve(testRequest)
	if err != nil {
		return err
	}
	sealed, err := r.Seal(plain)
	if err != nil {
		return err
	}
	open := h.Open
	if len(plain)%3 == 0 {
		open = h.TakeBack
	}
	s, err := open(sealed, testFormat)
	if err != nil {
		return err
	}
	defer s.Wipe()
	if string(s.Bytes()) != string(plain) {
		return fmt.Errorf("%d bytes in, %d others out", len(plain), s.Len())
	}
	if _, err := open(sealed, testFormat); err != ErrSpent {
		return fmt.Errorf("second open: %v", err)
	}
	return nil
}

// A Reservation prints nothing of its key, whatever the verb.
func TestReservationPrintsNoKey(t *testing.T) {
	h := memHost(t, nil)
	r := reserve(t, h, testRequest)
	defer func() { require.NoError(t, r.Cancel()) }()
	// One pattern of bytes, that no address has by chance.
	copy(r.grant.Key.Bytes(), strings.Repeat("K", 32))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		out := fmt.Sprintf(verb, r)
		require.NotContains(t, out, "KKKK", verb)
		require.NotContains(t, out, "4b4b4b4b", verb)
		require.NotContains(t, out, "75 75 75 75", verb)
	}
	// The patterns are what printing the bytes would give.
	require.Contains(t, fmt.Sprintf("%x", r.grant.Key.Bytes()), "4b4b4b4b")
	require.Contains(t, fmt.Sprintf("%d", r.grant.Key.Bytes()), "75 75 75 75")
}
