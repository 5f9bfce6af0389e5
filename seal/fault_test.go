package seal

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/stretchr/testify/require"
)

// hookedHost is a host over the ring and pool of another, with an audit log of
// its own; tests put their hooks into it.
func hookedHost(t testing.TB, h *Host, log slog.Handler) *Host {
	t.Helper()
	hooked, err := newHost(h.ring, &Options{Pool: h.pool, Log: slog.New(log)})
	require.NoError(t, err)
	return hooked
}

// hookReader is a random source that calls f each time.
type hookReader func()

func (f hookReader) Read(b []byte) (int, error) { f(); return rand.Read(b) }

func once(f func()) func() { return sync.OnceFunc(f) }

// hookAudience is a process that does not exist. Hosts of tests that say they
// are it say so at the moment they look themselves up: between authentication
// and claim.
var hookAudience = process(1, 1)

var hookRequest = Request{Format: testFormat, Audience: hookAudience}

// openHooked opens a token for hookAudience with a hook in front of the claim.
func openHooked(h *Host, sealed []byte, hook func()) (*memsafe.Secret, error) {
	return as(h, func() ([]byte, error) {
		hook()
		return []byte(hookAudience.value), nil
	}).Open(sealed, testFormat)
}

// as is the host for this process with another answer to what process it is.
func as(h *Host, process func() ([]byte, error)) *Host {
	who := *h.who.(*self)
	who.process = process
	return h.As(&who, h.log)
}

// errNoEntropy is what a failing random source returns.
var errNoEntropy = errors.New("no entropy")

func TestRandomFails(t *testing.T) {
	suites(t, func(t *testing.T, st suite.Suite) {
		h := memHost(t, &keyring.Options{Suite: st})
		for name, source := range map[string]io.Reader{
			"at once": iotest.ErrReader(errNoEntropy),
			"in the middle of the salt": io.MultiReader(
				bytes.NewReader(make([]byte, token.SaltSize-1)), iotest.ErrReader(errNoEntropy)),
		} {
			h.random = source
			r, err := h.Reserve(testRequest)
			require.ErrorIs(t, err, ErrUnavailable, name)
			require.ErrorIs(t, err, errNoEntropy, name)
			require.Nil(t, r)
			require.Zero(t, outstanding(t, h), "nothing may stay reserved")
			require.Zero(t, h.pool.InUse())
		}
		h.random = rand.Reader
		r := reserve(t, h, testRequest)
		r.random = iotest.ErrReader(errNoEntropy)
		sealed, err := r.Seal([]byte("plain"))
		if st == suite.AES256GCM {
			// Its nonce is drawn by the standard library, as FIPS 140 wants it.
			require.NoError(t, err)
			requireOpens(t, h, sealed, []byte("plain"))
			return
		}
		require.ErrorIs(t, err, ErrUnavailable)
		require.ErrorIs(t, err, errNoEntropy)
		require.Nil(t, sealed)
		require.Zero(t, outstanding(t, h))
		require.ErrorIs(t, r.Cancel(), ErrRequest)
	})
}

// fill takes all of a pool but some bytes, until the function it returns gives
// it back.
func fill(t testing.TB, p *memsafe.Pool, leave int) (drain func()) {
	t.Helper()
	s, err := p.Alloc(p.Size() - p.InUse() - leave)
	require.NoError(t, err)
	return s.Wipe
}

func TestNoLockedMemory(t *testing.T) {
	ring, err := keyring.New(nil)
	require.NoError(t, err)
	h := hostOver(t, ring, &Options{Pool: smallPool(t)})
	plain := randomBytes(100)
	sealed := sealToken(t, h, testRequest, plain)

	drain := fill(t, h.pool, 0)
	r, err := h.Reserve(testRequest)
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, err, memsafe.ErrLimit)
	require.Nil(t, r)
	require.Equal(t, 1, outstanding(t, h), "only the sealed one")
	requireRefused(t, h, sealed, ErrUnavailable) // no room for the keys
	requireRefused(t, h, sealed, memsafe.ErrLimit)
	drain()

	drain = fill(t, h.pool, 64)
	requireRefused(t, h, sealed, ErrUnavailable) // for the keys, but not for the body
	requireRefused(t, h, sealed, memsafe.ErrLimit)
	require.Equal(t, h.pool.Size()-64, h.pool.InUse())
	drain()

	require.Equal(t, 1, outstanding(t, h), "nothing may be spent")
	requireOpens(t, h, sealed, plain)
}

// Who this process is cannot be told: a token for a process does not open, and
// others do.
func TestProcessUnknown(t *testing.T) {
	h := memHost(t, nil)
	self, err := Process(os.Getpid())
	require.NoError(t, err)
	req := testRequest
	req.Audience = self
	mine, users := sealToken(t, h, req, nil), sealToken(t, h, testRequest, nil)
	blind := as(h, func() ([]byte, error) { return nil, unavailable(errNoEntropy) })
	requireRefused(t, blind, mine, ErrUnavailable)
	requireOpens(t, blind, users, []byte{})
	requireOpens(t, h, mine, []byte{})
}

func TestClosedHost(t *testing.T) {
	h := memHost(t, nil)
	sealed := sealToken(t, h, testRequest, nil)
	r := reserve(t, h, testRequest)
	require.NoError(t, h.Close())
	_, err := h.Reserve(testRequest)
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, err, keyring.ErrClosed)
	requireRefused(t, h, sealed, ErrUnavailable)
	b, err := r.Seal([]byte("plain"))
	require.ErrorIs(t, err, ErrUnavailable)
	require.Nil(t, b)
	require.NoError(t, h.Close(), "a second Close does nothing")
}

// A pool that the caller brought is the caller's to close.
func TestCloseLeavesCallersPool(t *testing.T) {
	ring, err := keyring.New(nil)
	require.NoError(t, err)
	pool := smallPool(t)
	h, err := newHost(ring, &Options{Pool: pool})
	require.NoError(t, err)
	require.NoError(t, h.Close())
	s, err := pool.Alloc(32)
	require.NoError(t, err)
	s.Wipe()
}

func TestOpenHost(t *testing.T) {
	dir := shmDir(t) + "/ring"
	t.Setenv(keyring.DirVariable, dir)
	h, err := OpenHost(nil)
	require.NoError(t, err)
	require.Equal(t, dir, h.ring.Dir())
	plain := randomBytes(1165)
	sealed := sealToken(t, h, testRequest, plain)
	other, err := OpenHost(nil)
	require.NoError(t, err)
	requireOpens(t, other, sealed, plain)
	require.NoError(t, h.Close())
	require.NoError(t, other.Close())

	require.NoError(t, os.Chmod(dir, 0o750))
	h, err = OpenHost(nil)
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, err, keyring.ErrUnsafeDir)
	require.Nil(t, h)
}

// Options that a ring refuses, and a random source that fails when an epoch is
// made, leave nothing behind either; the ring's own tests go further.
func TestNoKey(t *testing.T) {
	dir := shmDir(t) + "/ring"
	h := dirHost(t, dir, nil)
	require.NoError(t, os.Chmod(dir, 0o500))
	defer func() { require.NoError(t, os.Chmod(dir, 0o700)) }()
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.WriteFile(dir, nil, 0o600)) // a file where the directory was
	_, err := h.Reserve(testRequest)
	require.ErrorIs(t, err, ErrUnavailable)
	require.ErrorIs(t, err, keyring.ErrUnsafeDir)
	require.NoError(t, os.Remove(dir))
	requireOpens(t, h, sealToken(t, h, testRequest, nil), []byte{})
}
