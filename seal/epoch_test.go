package seal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/stretchr/testify/require"
)

const (
	// patience is how long a test waits for what must come.
	patience = 10 * time.Second
	tick     = 10 * time.Millisecond
)

// A token opens only in the ring that it was made in.
func TestAnotherRing(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		o := &keyring.Options{Suite: st}
		plain := randomBytes(100)
		a, b := memHost(t, o), memHost(t, o)
		dir := shmDir(t)
		c, d := dirHost(t, dir+"/one", o), dirHost(t, dir+"/two", o)
		for i, from := range []*Host{a, b, c, d} {
			sealed := sealToken(t, from, testRequest, plain)
			for k, to := range []*Host{a, b, c, d} {
				if i != k {
					requireRefused(t, to, sealed, ErrDefective)
				}
			}
			requireOpens(t, from, sealed, plain)
		}
	})
}

// An epoch with the same id but another key, as a machine rolled back and
// restarted might have: the commitment tells.
func TestAnotherKey(t *testing.T) {
	a, b := memHost(t, nil), memHost(t, nil)
	id := current(t, b).ID()
	sealed := forge(t, a, nil, func(head *token.Header) { head.Epoch = id })
	requireRefused(t, b, sealed, ErrDefective)
}

// Two hosts over one directory are as one, in both directions.
func TestTwoHostsOneDirectory(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		dir := shmDir(t) + "/ring"
		o := &keyring.Options{Suite: st}
		a, b := dirHost(t, dir, o), dirHost(t, dir, o)
		plain := randomBytes(1165)
		for range 3 {
			for _, pair := range [][2]*Host{{a, b}, {b, a}} {
				sealed := sealToken(t, pair[0], testRequest, plain)
				requireOpens(t, pair[1], sealed, plain)
				requireRefused(t, pair[0], sealed, ErrSpent)
				requireRefused(t, pair[1], sealed, ErrSpent)
			}
			require.NoError(t, a.ring.Rotate())
		}
	})
}

// Rotation between any two steps loses nothing.
func TestRotateBetweenSteps(t *testing.T) {
	for step := range 3 {
		dir := shmDir(t) + "/ring"
		a, b := dirHost(t, dir, nil), dirHost(t, dir, nil)
		plain := randomBytes(100)
		rotate := func(at int) {
			if at == step {
				require.NoError(t, b.ring.Rotate())
			}
		}
		old := current(t, a).ID()
		rotate(0)
		r := reserve(t, a, testRequest)
		rotate(1)
		sealed, err := r.Seal(plain)
		require.NoError(t, err)
		rotate(2)
		head, err := Inspect(sealed)
		require.NoError(t, err)
		if step > 0 {
			require.Equal(t, old, head.Epoch)
		}
		requireOpens(t, b, sealed, plain)
		requireRefused(t, a, sealed, ErrSpent)
		require.NotEqual(t, old, current(t, a).ID())
	}
}

// Retirement between any two steps makes the token worthless, by whichever
// process it is done, and the next one is sealed in the next epoch.
func TestRetireBetweenSteps(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		o := &keyring.Options{Suite: st}
		for _, byOther := range []bool{false, true} {
			dir := shmDir(t) + "/ring"
			a, b := dirHost(t, dir, o), dirHost(t, dir, o)
			retire := func() {
				by := a
				if byOther {
					by = b
				}
				require.NoError(t, by.ring.Retire(current(t, a).ID()))
			}
			r := reserve(t, a, testRequest)
			retire()
			sealed, err := r.Seal([]byte("plain"))
			require.ErrorIs(t, err, ErrUnavailable)
			require.ErrorIs(t, err, keyring.ErrRetired)
			require.Nil(t, sealed)

			r = reserve(t, a, testRequest)
			retire()
			require.ErrorIs(t, r.Cancel(), keyring.ErrRetired)

			sealed = sealToken(t, a, testRequest, []byte("plain"))
			retire()
			for _, h := range []*Host{a, b} {
				requireRefused(t, h, sealed, ErrDefective)
				_, err = h.TakeBack(sealed, testFormat)
				require.ErrorIs(t, err, ErrDefective)
			}
			sealed = sealToken(t, a, testRequest, []byte("plain"))
			requireOpens(t, b, sealed, []byte("plain"))
		}
	})
}

// A token of another directory, another process's memory or retired keys: the
// importer reads which key it lacks and where it looked. An altered token of its
// own keys tells nothing.
func TestOtherKeyring(t *testing.T) {
	one, two := shmDir(t)+"/one", shmDir(t)+"/two"
	exporter, importer := dirHost(t, one, nil), dirHost(t, two, nil)
	sealed := sealToken(t, exporter, testRequest, nil)
	id := current(t, exporter).ID()
	check := func(h *Host, where string) {
		t.Helper()
		_, opening := h.Open(sealed, testFormat)
		_, takingBack := h.TakeBack(sealed, testFormat)
		_, asking := h.Status(sealed)
		for _, err := range []error{opening, takingBack, asking} {
			require.ErrorIs(t, err, ErrDefective)
			require.ErrorContains(t, err, fmt.Sprintf("no living key %x in the keyring %s", id, where))
		}
	}
	check(importer, fmt.Sprintf("%s of user %d", two, os.Geteuid()))
	check(memHost(t, nil), fmt.Sprintf("in the memory of process %d", os.Getpid()))

	altered := bytes.Clone(sealed)
	altered[len(altered)-1] ^= 1
	_, err := exporter.Open(altered, testFormat)
	require.True(t, err == ErrDefective)
	requireOpens(t, exporter, sealed, []byte{})
	sealed = sealToken(t, exporter, testRequest, nil)
	require.NoError(t, exporter.ring.Retire(id))
	check(exporter, one)
}

// Retired in the moments that only a hook reaches: while the token is prepared,
// between authentication and claim, and just before the claim.
func TestRetireWithinSteps(t *testing.T) {
	h := memHost(t, nil)
	log := &recorder{}
	hooked := hookedHost(t, h, log)
	retire := func() { require.NoError(t, h.ring.Retire(current(t, h).ID())) }

	// Once: Reserve takes the next epoch.
	hooked.random = hookReader(once(retire))
	r := reserve(t, hooked, testRequest)
	require.NoError(t, r.Cancel())

	// Each time: Reserve gives up, with nothing reserved.
	hooked.random = hookReader(retire)
	_, err := hooked.Reserve(testRequest)
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, err, keyring.ErrRetired)
	require.Equal(t, eventNotReserved, log.last(t).message)
	require.Zero(t, outstanding(t, h))

	sealed := sealToken(t, h, hookRequest, nil)
	_, err = openHooked(h, sealed, retire)
	require.True(t, err == ErrDefective)
	require.Zero(t, h.pool.InUse())

	// In the middle of Open, in front of each check that can see it.
	sealed = sealToken(t, h, testRequest, nil)
	parsed, err := token.Parse(sealed)
	require.NoError(t, err)
	e := current(t, h)
	retire()
	_, err = h.authenticate(e, &parsed)
	require.True(t, err == ErrDefective)
	require.True(t, claim(t, h, e, &parsed) == ErrDefective)
}

// claim is the step of open that claims a token.
func claim(t *testing.T, h *Host, e *keyring.Epoch, parsed *token.Token) error {
	t.Helper()
	now, err := h.ring.Now()
	require.NoError(t, err)
	return fromRing(e.ClaimRecent(keyring.Slot{Index: parsed.Slot, Word: parsed.Word}, now))
}

// A wiped runtime directory makes its tokens worthless, for processes that run
// on as well, and they go on with a new one.
func TestWipedDirectory(t *testing.T) {
	for _, whole := range []bool{false, true} {
		dir := shmDir(t) + "/ring"
		a, b := dirHost(t, dir, nil), dirHost(t, dir, nil)
		plain := randomBytes(100)
		requireOpens(t, b, sealToken(t, a, testRequest, plain), plain)
		sealed := sealToken(t, a, testRequest, plain)
		old := current(t, a).ID()
		files := epochFiles(t, dir)
		require.Len(t, files, 1)
		if whole {
			require.NoError(t, os.RemoveAll(dir))
		} else {
			require.NoError(t, os.Remove(files[0]))
		}
		for _, h := range []*Host{a, b} {
			requireRefused(t, h, sealed, ErrDefective)
		}
		// Sealing looks for the file every 50 ms.
		require.Eventually(t, func() bool { return current(t, a).ID() != old }, patience, tick)
		sealed = sealToken(t, a, testRequest, plain)
		requireOpens(t, b, sealed, plain)
		requireRefused(t, a, sealed, ErrSpent)
	}
}

// A truncated epoch is an error of the surroundings, no crash, and the next
// reservation is made in another epoch; so is one that was grown again.
func TestTruncatedEpoch(t *testing.T) {
	for _, grown := range []bool{false, true} {
		dir := shmDir(t) + "/ring"
		h := dirHost(t, dir, nil)
		plain := randomBytes(100)
		sealed := sealToken(t, h, testRequest, plain)
		r := reserve(t, h, testRequest)
		cancelled := reserve(t, h, testRequest)
		e := current(t, h)
		parsed, err := token.Parse(sealed)
		require.NoError(t, err)
		files := epochFiles(t, dir)
		require.Len(t, files, 1)
		info, err := os.Stat(files[0])
		require.NoError(t, err)
		require.NoError(t, os.Truncate(files[0], 0))
		if grown {
			require.NoError(t, os.Truncate(files[0], info.Size()))
		}

		_, err = r.Seal(plain)
		require.ErrorIs(t, err, ErrUnavailable)
		require.ErrorIs(t, err, keyring.ErrDamaged)
		require.ErrorIs(t, cancelled.Cancel(), keyring.ErrDamaged)
		s, err := h.Open(sealed, testFormat)
		require.Nil(t, s)
		require.ErrorIs(t, err, ErrUnavailable)
		require.ErrorIs(t, err, keyring.ErrDamaged)
		// By now the ring may have let go of it.
		s, err = h.Open(sealed, testFormat)
		require.Nil(t, s)
		require.True(t, errors.Is(err, ErrDefective) || errors.Is(err, ErrUnavailable), err)
		_, err = h.authenticate(e, &parsed)
		require.ErrorIs(t, err, ErrUnavailable)
		require.ErrorIs(t, claim(t, h, e, &parsed), ErrUnavailable)
		require.Zero(t, h.pool.InUse())

		again := sealToken(t, h, testRequest, plain)
		requireOpens(t, h, again, plain)
	}
}

// Truncated between the checks and the claim.
func TestTruncatedBeforeClaim(t *testing.T) {
	dir := shmDir(t) + "/ring"
	h := dirHost(t, dir, nil)
	sealed := sealToken(t, h, hookRequest, nil)
	_, err := openHooked(h, sealed, func() { require.NoError(t, os.Truncate(epochFiles(t, dir)[0], 0)) })
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, err, keyring.ErrDamaged)
}

func TestLifetime(t *testing.T) {
	h := memHost(t, &keyring.Options{MaxLifetime: 3 * time.Minute})
	for ask, want := range map[time.Duration]time.Duration{
		0:               defaultLifetime,
		1:               1,
		time.Second:     time.Second,
		3 * time.Minute: 3 * time.Minute,
		time.Hour:       3 * time.Minute,
	} {
		req := testRequest
		req.Lifetime = ask
		r := reserve(t, h, req)
		head, _, err := token.ParseHeader(r.grant.Start)
		require.NoError(t, err)
		require.Equal(t, want, head.Expires-head.Issued, ask)
		require.NoError(t, r.Cancel())
	}
	h = memHost(t, &keyring.Options{MaxLifetime: time.Second})
	sealed := sealToken(t, h, testRequest, nil)
	head, err := Inspect(sealed)
	require.NoError(t, err)
	require.Equal(t, time.Second, head.Expires-head.Issued)
	requireOpens(t, h, sealed, []byte{})
}

func TestExpiry(t *testing.T) {
	h := memHost(t, nil)
	req := testRequest
	req.Lifetime = 500 * time.Millisecond
	r := reserve(t, h, req)
	sealed := sealToken(t, h, req, []byte("plain"))
	time.Sleep(req.Lifetime)

	requireRefused(t, h, sealed, ErrExpired)
	_, err := h.TakeBack(sealed, testFormat)
	require.ErrorIs(t, err, ErrExpired)
	b, err := r.Seal([]byte("plain"))
	require.ErrorIs(t, err, ErrExpired)
	require.Nil(t, b)
	// The reservation gave its slot back; the token's comes back by itself.
	require.Eventually(t, func() bool { return outstanding(t, h) == 0 }, patience, tick)
	requireRefused(t, h, sealed, ErrExpired)
}

// A process that is stopped within Open until the token's time is over gets
// nothing, whether that was before its claim or after.
func TestExpiryWithinOpen(t *testing.T) {
	h := memHost(t, nil)
	req := hookRequest
	req.Lifetime = 500 * time.Millisecond
	sealed := sealToken(t, h, req, []byte("plain"))
	called := false
	s, err := openHooked(h, sealed, func() {
		called = true
		time.Sleep(req.Lifetime)
	})
	require.True(t, called)
	require.ErrorIs(t, err, ErrLost, "the token is spent, and the caller must know")
	require.ErrorIs(t, err, ErrExpired)
	require.Nil(t, s)
	require.Zero(t, outstanding(t, h), "the claim was made")
	require.Zero(t, h.pool.InUse())
}

// The register's limit holds, and a slot comes back by opening, cancelling and
// expiring.
func TestRegisterFull(t *testing.T) {
	h := memHost(t, &keyring.Options{Capacity: 2})
	log := &recorder{}
	h = hookedHost(t, h, log)
	req := testRequest
	req.Lifetime = 500 * time.Millisecond
	full := func() {
		t.Helper()
		r, err := h.Reserve(testRequest)
		require.ErrorIs(t, err, ErrUnavailable)
		require.ErrorIs(t, err, keyring.ErrFull)
		require.Nil(t, r)
		require.Equal(t, eventNotReserved, log.last(t).message)
		require.Contains(t, log.last(t).attrs["reason"], "2 tokens outstanding")
	}
	a := sealToken(t, h, testRequest, nil)
	b := reserve(t, h, testRequest)
	full()
	requireOpens(t, h, a, []byte{})
	_ = sealToken(t, h, req, nil) // never opened
	full()
	require.NoError(t, b.Cancel())
	b = reserve(t, h, testRequest)
	full()
	require.Eventually(t, func() bool {
		r, err := h.Reserve(testRequest)
		if errors.Is(err, keyring.ErrFull) {
			return false
		}
		require.NoError(t, err)
		require.NoError(t, r.Cancel())
		return true
	}, patience, tick)
	require.NoError(t, b.Cancel())
}
