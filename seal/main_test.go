package seal

import (
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/memscan"
	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/stretchr/testify/require"
)

// roleVar names what a re-executed test binary is to do instead of testing.
const roleVar = "SEALCTX_SEAL_TEST_ROLE"

// TestMain runs the tests, or in a child process one of the roles: a victim of
// the memory scanner, or a process of the tests that need more than one.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		roles[role]()
		os.Exit(0)
	}
	memscan.Main(m, victims)
}

// roles are what a child process can be, besides a victim of the scanner.
var roles = map[string]func(){
	"handover":    handoverChild,
	"opener":      openerChild,
	"limit":       limitChild,
	"timens":      timensChild,
	"shifted":     shiftedChild,
	"fips":        fipsChild,
	"descriptors": descriptorsChild,
}

const (
	testFormat = "test/1/amd64"
	otherForm  = "test/2/amd64"
)

// testRequest is what most tests reserve.
var testRequest = Request{Format: testFormat, Mechanism: []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02}}

// suites runs a test once for each suite.
func suites(t *testing.T, f func(*testing.T, suite.Suite)) {
	for _, s := range suite.All() {
		t.Run(s.String(), func(t *testing.T) { f(t, s) })
	}
}

// shmDir makes a directory on tmpfs that goes with the test.
func shmDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// memHost makes a host over a ring in memory. At the end of the test nothing of
// its pool may be in use: what a call takes, it gives back on every way out.
func memHost(t testing.TB, o *keyring.Options) *Host {
	t.Helper()
	ring, err := keyring.New(o)
	require.NoError(t, err)
	return hostOver(t, ring, nil)
}

// dirHost makes a host over a ring in a directory, as one of several processes
// would.
func dirHost(t testing.TB, dir string, o *keyring.Options) *Host {
	t.Helper()
	ring, err := keyring.Open(dir, o)
	require.NoError(t, err)
	return hostOver(t, ring, nil)
}

func hostOver(t testing.TB, ring *keyring.Ring, o *Options) *Host {
	t.Helper()
	h, err := newHost(ring, o)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.Zero(t, h.pool.InUse(), "locked memory not given back")
		require.NoError(t, h.Close())
	})
	return h
}

// randomBytes makes a plain token.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // crypto/rand does not fail
	return b
}

func reserve(t testing.TB, h *Host, req Request) *Reservation {
	t.Helper()
	r, err := h.Reserve(req)
	require.NoError(t, err)
	return r
}

// sealToken reserves and seals.
func sealToken(t testing.TB, h *Host, req Request, plain []byte) []byte {
	t.Helper()
	sealed, err := reserve(t, h, req).Seal(plain)
	require.NoError(t, err)
	return sealed
}

// requireOpens opens a token that must open, to this plain one.
func requireOpens(t testing.TB, h *Host, sealed, plain []byte) {
	t.Helper()
	s, err := h.Open(sealed, testFormat)
	require.NoError(t, err)
	require.Equal(t, plain, append([]byte{}, s.Bytes()...))
	s.Wipe()
}

// requireRefused opens a token that must not open: the error matches want and
// no secret comes with it.
func requireRefused(t testing.TB, h *Host, sealed []byte, want error) {
	t.Helper()
	s, err := h.Open(sealed, testFormat)
	require.ErrorIs(t, err, want)
	require.Nil(t, s)
}

// current is the epoch that seals now; released with the test.
func current(t testing.TB, h *Host) *keyring.Epoch {
	t.Helper()
	e, err := h.ring.Current()
	require.NoError(t, err)
	t.Cleanup(e.Release)
	return e
}

// outstanding counts the tokens of the current epoch.
func outstanding(t testing.TB, h *Host) int {
	t.Helper()
	n, err := current(t, h).Outstanding()
	require.NoError(t, err)
	return n
}

// forge makes an authentic token whose header is not what Reserve would have
// written: the same keys, another header.
func forge(t testing.TB, h *Host, plain []byte, change func(*token.Header)) []byte {
	t.Helper()
	e := current(t, h)
	lease, err := e.Reserve(time.Minute)
	require.NoError(t, err)
	req := testRequest
	req.Audience = User(h.who.User())
	head := req.header(h.who.User())
	head.Suite, head.Epoch = suite.Suite(e.Suite()), e.ID()
	head.Slot, head.Word = lease.Index, lease.Word
	head.Issued, head.Expires = lease.Issued, lease.Expires
	copy(head.Salt[:], randomBytes(token.SaltSize))
	change(&head)
	bound, err := head.Append(nil)
	require.NoError(t, err)
	key, commitment := make([]byte, token.KeySize), make([]byte, token.CommitmentSize)
	require.NoError(t, e.Derive(token.EncLabel, bound, func(enc []byte) error {
		copy(key, enc)
		token.Commit(commitment, enc)
		return nil
	}, nil))
	sealed, err := token.Seal(head.Suite, append(bound, commitment...), key, plain, rand.Reader)
	require.NoError(t, err)
	return sealed
}

// A recorder is the audit log of a test.
type recorder struct {
	mu     sync.Mutex
	level  slog.Level
	events []event
}

type event struct {
	message string
	attrs   map[string]string
}

func (r *recorder) Enabled(_ context.Context, l slog.Level) bool { return l >= r.level }
func (r *recorder) WithAttrs([]slog.Attr) slog.Handler           { return r }
func (r *recorder) WithGroup(string) slog.Handler                { return r }
func (r *recorder) Handle(_ context.Context, rec slog.Record) error {
	e := event{rec.Message, map[string]string{}}
	rec.Attrs(func(a slog.Attr) bool {
		e.attrs[a.Key] = a.Value.String()
		return true
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	return nil
}

// last is the latest event.
func (r *recorder) last(t testing.TB) event {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.NotEmpty(t, r.events)
	return r.events[len(r.events)-1]
}

// epochFiles are the paths of a directory's epochs.
func epochFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "epoch-*"))
	require.NoError(t, err)
	return files
}

// smallPool makes a pool of one page, which goes with the test.
func smallPool(t testing.TB) *memsafe.Pool {
	t.Helper()
	p, err := memsafe.NewPool(1)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}
