package secctx

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// hooked is the Kerberos mechanism with a hook at each of its steps: an error
// fails the step, before it was done or after.
type hooked struct {
	*krb5.Provider
	at       map[string]func() error
	plain    []byte // the very slice that Export returned last
	released bool
}

func (h *hooked) Release() error {
	h.released = true
	return h.Provider.Release()
}

func (h *hooked) step(name string) error {
	if f := h.at[name]; f != nil {
		return f()
	}
	return nil
}

func (h *hooked) AcceptSecContext(o ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	sc, err := h.Provider.AcceptSecContext(o...)
	return &hookedContext{sc, h}, err
}

func (h *hooked) ImportSecContext(b []byte) (gssapi.SecContext, error) {
	if err := h.step("before import"); err != nil {
		return nil, err
	}
	sc, err := h.Provider.ImportSecContext(b)
	if err != nil {
		return nil, err
	}
	if err := h.step("after import"); err != nil {
		_, _ = sc.Delete()
		return nil, err
	}
	return &hookedContext{sc, h}, nil
}

type hookedContext struct {
	gssapi.SecContext
	h *hooked
}

func (c *hookedContext) Export() ([]byte, error) {
	if err := c.h.step("before export"); err != nil {
		return nil, err
	}
	plain, err := c.SecContext.Export()
	if err != nil {
		return nil, err
	}
	c.h.plain = plain
	if errors.Is(c.h.step("after export"), errEmptyToken) {
		memsafe.Wipe(plain)
		return nil, nil
	}
	return plain, nil
}

func (c *hookedContext) ExpiresAt() (*gssapi.GssLifetime, error) {
	if err := c.h.step("expiry"); err != nil {
		return nil, err
	}
	return c.SecContext.ExpiresAt()
}

func (c *hookedContext) Inquire() (*gssapi.SecContextInfo, error) {
	err := c.h.step("inquire")
	if err != nil && !errors.Is(err, errHalf) {
		return nil, err
	}
	info, inner := c.SecContext.Inquire()
	if err != nil {
		info.FullyEstablished = false
	}
	return info, inner
}

func (c *hookedContext) Delete() ([]byte, error) {
	token, err := c.SecContext.Delete()
	return token, errors.Join(err, c.h.step("delete"))
}

// source is a random source that can be told to do something else first, and to
// fail.
type source struct {
	io.Reader
	hook func() error
}

func (s *source) Read(b []byte) (int, error) {
	if s.hook != nil {
		if err := s.hook(); err != nil {
			return 0, err
		}
	}
	return s.Reader.Read(b)
}

// side is a process: a ring over the runtime directory, a sealer and a wrapped
// mechanism. Nothing of them is replaced.
type side struct {
	host   *seal.Host
	ring   *keyring.Ring // over the same directory, to look at
	pool   *memsafe.Pool
	random *source
	mech   *hooked
	p      gssapi.Provider
	undo   []func()
}

func newSide(t *testing.T, o seal.Options) *side {
	t.Helper()
	s := &side{random: &source{Reader: rand.Reader}}
	// A host keeps the source that it finds when it is made.
	rand.Reader = s.random
	defer func() { rand.Reader = s.random.Reader }()
	var err error
	s.pool, err = memsafe.NewPool(16 << 10)
	require.NoError(t, err)
	o.Pool = s.pool
	s.host, err = seal.OpenHost(&o)
	require.NoError(t, err)
	s.ring, err = keyring.Open(o.Directory, nil)
	require.NoError(t, err)
	k, err := krb5.New(&krb5.Config{ReplayCache: t.TempDir()})
	require.NoError(t, err)
	s.mech = &hooked{Provider: k, at: map[string]func() error{}}
	s.p = Wrap(s.mech, s.host)
	t.Cleanup(func() {
		require.NoError(t, s.host.Close())
		require.NoError(t, s.ring.Close())
		require.NoError(t, s.pool.Close())
		require.NoError(t, k.Release())
	})
	return s
}

// fill takes all the locked memory that is left, but some bytes.
func (s *side) fill(t *testing.T, leave int) {
	t.Helper()
	m, err := s.pool.Alloc(s.pool.Size() - s.pool.InUse() - leave)
	require.NoError(t, err)
	s.undo = append(s.undo, m.Wipe)
}

// failRandom makes the random source fail.
func (s *side) failRandom() { s.random.hook = func() error { return errNoEntropy } }

// mend ends the faults that pass.
func (s *side) mend() {
	s.random.hook = nil
	clear(s.mech.at)
	for _, f := range s.undo {
		f()
	}
	s.undo = nil
}

// current is the epoch that seals, released at the test's end.
func (s *side) current(t *testing.T) *keyring.Epoch {
	t.Helper()
	e, err := s.ring.Current()
	require.NoError(t, err)
	t.Cleanup(e.Release)
	return e
}

// stream is an acceptor context and its peer, an initiator whose mechanism is
// neither wrapped nor hooked, with a message under way in each direction.
type stream struct {
	sc, peer  gssapi.SecContext
	toSC      []byte // sent before the fault, received after it
	toPeer    []byte
	delivered bool
}

// goesOn delivers what was under way when the fault struck, and then one more
// message each way. All of it must open, in its order: with the sequence flag
// whatever is lost, repeated or out of place is an error.
func (s *stream) goesOn(sc gssapi.SecContext) error {
	if !s.delivered {
		if err := open(sc, s.toSC); err != nil {
			return fmt.Errorf("sent before the fault: %w", err)
		}
		if err := open(s.peer, s.toPeer); err != nil {
			return fmt.Errorf("sent before the fault, to the peer: %w", err)
		}
		s.delivered = true
	}
	for _, dir := range [][2]gssapi.SecContext{{s.peer, sc}, {sc, s.peer}} {
		out, _, err := dir[0].Wrap([]byte("message"), true, 0)
		if err != nil {
			return err
		}
		if err := open(dir[1], out); err != nil {
			return err
		}
	}
	return nil
}

func open(sc gssapi.SecContext, message []byte) error {
	got, sealed, _, err := sc.Unwrap(message)
	if err == nil && (string(got) != "message" || !sealed) {
		return fmt.Errorf("message came out as %q", got)
	}
	return err
}

// krb5Rig is an exporting and an importing process, two streams of the
// exporter's, and a token of the second one that was made before the fault.
type krb5Rig struct {
	*stream
	exporter, importer *side
	epoch              *keyring.Epoch // the current one before the fault
	taken              int            // slots taken in it before the fault
	dir                string
	realm              *krb5test.Realm
	bystander          *stream
	token              []byte // the bystander's
}

// maxOutstanding is how many tokens a rig's register takes.
const maxOutstanding = 3

func newKrb5Rig(t *testing.T, st suite.Suite) *krb5Rig {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	r := &krb5Rig{dir: dir + "/ring"}
	o := seal.Options{Directory: r.dir, Capacity: maxOutstanding}
	if st != 0 {
		o.Suite = st.String()
	}
	r.exporter, r.importer = newSide(t, o), newSide(t, o)
	r.realm, err = krb5test.NewRealm("EXAMPLE.TEST", "http/www.example.test")
	require.NoError(t, err)
	r.stream, r.bystander = r.exporter.establish(t, r.realm), r.exporter.establish(t, r.realm)
	r.token, err = r.bystander.sc.Export()
	require.NoError(t, err)
	r.epoch, r.taken = r.exporter.current(t), 1
	for _, s := range []*side{r.exporter, r.importer} { // both have it before the fault
		require.Equal(t, r.epoch.ID(), current(t, s.host).ID)
	}
	return r
}

// establish makes a context and its peer, and leaves a message under way each
// way.
func (s *side) establish(t *testing.T, realm *krb5test.Realm) *stream {
	t.Helper()
	key, err := realm.Acceptor(s.mech.Provider)
	require.NoError(t, err)
	acc, err := s.p.AcceptSecContext(gssapi.WithAcceptorCredential(key))
	require.NoError(t, err)
	p, err := krb5.New(nil)
	require.NoError(t, err)
	alice, err := realm.Initiator(p, "alice")
	require.NoError(t, err)
	target, err := p.ImportName("http@www.example.test", gssapi.GSS_NT_HOSTBASED_SERVICE)
	require.NoError(t, err)
	init, err := p.InitSecContext(target, gssapi.WithInitiatorCredential(alice),
		gssapi.WithInitiatorFlags(gssapi.ContextFlagMutual|gssapi.ContextFlagReplay|gssapi.ContextFlagSequence))
	require.NoError(t, err)
	token, _, err := init.Continue(nil)
	require.NoError(t, err)
	token, _, err = acc.Continue(token)
	require.NoError(t, err)
	_, _, err = init.Continue(token)
	require.NoError(t, err)

	// A context or credential that is collected gives its locked memory back, at any time.
	s.undo = append(s.undo, func() { runtime.KeepAlive([]any{key, acc}) })
	st := &stream{sc: acc, peer: init}
	st.toSC, _, err = init.Wrap([]byte("message"), true, 0)
	require.NoError(t, err)
	st.toPeer, _, err = acc.Wrap([]byte("message"), true, 0)
	require.NoError(t, err)
	return st
}

// elsewhere is the host of the other process than the one that a fault strikes.
func (r *krb5Rig) elsewhere(s *side) *seal.Host {
	if s == r.exporter {
		return r.importer.host
	}
	return r.exporter.host
}

// retire ends the epoch, by another process than s; rotate closes it.
func (r *krb5Rig) retire(s *side) error { return r.elsewhere(s).Retire(r.epoch.ID()) }
func (r *krb5Rig) rotate(s *side) error { return r.elsewhere(s).Rotate() }

// truncate cuts the epoch's file off.
func (r *krb5Rig) truncate(*side) error {
	files, err := filepath.Glob(r.dir + "/*")
	for _, f := range files {
		err = errors.Join(err, os.Truncate(f, 0))
	}
	return err
}

// shortLived has the rig's first context export tokens of that lifetime.
func (r *krb5Rig) shortLived(d time.Duration) {
	c, _ := unwrap(r.sc)
	c.p.lifetime = d
}

// whole is the provider of a process that has its keyring and mechanism still.
func (r *krb5Rig) whole() gssapi.Provider {
	if _, err := r.importer.host.Keys(); err != nil || r.importer.mech.released {
		return r.exporter.p
	}
	return r.importer.p
}

// counted requires that the epoch's slots taken are those that the rig knows of.
func (r *krb5Rig) counted(t *testing.T, worthless bool) {
	t.Helper()
	want := r.taken
	if worthless {
		want = 0
	}
	n, err := r.epoch.Outstanding()
	if !worthless || !errors.Is(err, keyring.ErrDamaged) {
		require.NoError(t, err)
	}
	require.Equal(t, want, n, "slots of the epoch")
}

// settled requires that a fault has left no slot taken, no locked memory and
// nothing of the plain token, and has spent nothing: the token from before it
// still opens, once, and its context goes on.
func (r *krb5Rig) settled(t *testing.T, worthless bool) {
	t.Helper()
	r.counted(t, worthless)
	require.Zero(t, r.exporter.pool.InUse())
	require.Zero(t, r.importer.pool.InUse())
	plain := r.exporter.mech.plain
	require.Equal(t, make([]byte, len(plain)), plain, "the plain token was not wiped")
	sc, err := r.whole().ImportSecContext(r.token)
	if worthless {
		require.ErrorIs(t, err, seal.ErrDefective)
		return
	}
	require.NoError(t, err)
	require.NoError(t, r.bystander.goesOn(sc))
	_, err = r.whole().ImportSecContext(r.token)
	require.ErrorIs(t, err, seal.ErrSpent)
}

// noContext requires that every call on a handle, but Delete, answers so.
func noContext(t *testing.T, sc gssapi.SecContext) {
	t.Helper()
	for name, call := range calls(sc) {
		out, err := call()
		require.ErrorIs(t, err, gssapi.ErrNoContext, name)
		require.Empty(t, out, name)
	}
}

// TestFaultOracle is the control of the tests with faults: goesOn sees a context
// that is lost, another one, one that came back from an old copy, and a message
// that was lost.
func TestFaultOracle(t *testing.T) {
	r := newKrb5Rig(t, 0)
	c, err := unwrap(r.sc)
	require.NoError(t, err)
	plain, err := c.inner.Export()
	require.NoError(t, err)
	require.ErrorIs(t, r.goesOn(r.sc), gssapi.ErrNoContext, "lost")
	old := bytes.Clone(plain)

	sc, err := r.exporter.mech.ImportSecContext(plain)
	require.NoError(t, err)
	require.NoError(t, r.goesOn(sc))

	stale, err := r.exporter.mech.ImportSecContext(old)
	require.NoError(t, err)
	require.Error(t, r.goesOn(stale), "an old copy")

	other, err := r.importer.p.ImportSecContext(r.token)
	require.NoError(t, err)
	require.ErrorIs(t, r.goesOn(other), gssapi.ErrBadMic, "another context")

	_, _, err = r.bystander.peer.Wrap([]byte("message"), true, 0)
	require.NoError(t, err)
	require.ErrorIs(t, r.bystander.goesOn(other), gssapi.InfoGapToken, "a message lost")
}
