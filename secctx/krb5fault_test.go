package secctx

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/apart"
	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/secctx/krb5"
)

// What may come of a fault.
type outcome int

const (
	kept   outcome = iota // an error; the context is where it was
	moved                 // no error: the context goes on in the importer
	nobody                // the handle is NO_CONTEXT, and the error says so
)

var errNoEntropy = errors.New("no entropy")

// A cause puts a fault into the process s.
type cause func(t *testing.T, r *krb5Rig, s *side)

// krb5Fault is a fault in one step of an export or an import.
type krb5Fault struct {
	name      string
	cause     cause
	err       error // what the error matches; nil where there is none
	status    error // its GSS status
	outcome   outcome
	worthless bool        // so are the epoch's tokens after it
	suite     suite.Suite // the one that it concerns; zero: both
}

// during has f happen in a step of the mechanism, which then goes on.
func during(step string, f func(*krb5Rig, *side) error) cause {
	return func(t *testing.T, r *krb5Rig, s *side) {
		s.mech.at[step] = func() error {
			require.NoError(t, f(r, s))
			return nil
		}
	}
}

// fails fails a step of the mechanism, after what else happens there.
func fails(step string, err error, f func(*krb5Rig, *side) error) cause {
	return func(t *testing.T, r *krb5Rig, s *side) {
		s.mech.at[step] = func() error {
			require.NoError(t, f(r, s))
			return err
		}
	}
}

func both(a, b cause) cause {
	return func(t *testing.T, r *krb5Rig, s *side) { a(t, r, s); b(t, r, s) }
}

func nothing(*krb5Rig, *side) error { return nil }

func noEntropy(_ *krb5Rig, s *side) error { s.failRandom(); return nil }

// before has f happen before the call.
func before(f func(*krb5Rig, *side) error) cause {
	return func(t *testing.T, r *krb5Rig, s *side) { require.NoError(t, f(r, s)) }
}

func noMemory(leave int) cause {
	return func(t *testing.T, _ *krb5Rig, s *side) { s.fill(t, leave) }
}

func closeRing(_ *krb5Rig, s *side) error { return s.host.Close() }

func (r *krb5Rig) release(s *side) error { return s.mech.Release() }

// fillRegister reserves until the register is full.
func (r *krb5Rig) fillRegister(s *side) error {
	for range maxOutstanding - r.taken {
		reservation, err := s.host.Reserve(seal.Request{Format: "x"})
		if err != nil {
			return err
		}
		s.undo = append(s.undo, func() { _ = reservation.Cancel() })
	}
	return nil
}

// noDir puts a file in the place of the runtime directory.
func (r *krb5Rig) noDir(s *side) error {
	s.undo = append(s.undo, func() { _ = os.Remove(r.dir) })
	return errors.Join(os.RemoveAll(r.dir), os.WriteFile(r.dir, nil, 0o600))
}

// retireAll retires every epoch as soon as a random number is asked for: within
// each of Reserve's attempts.
func (r *krb5Rig) retireAll(s *side) error {
	s.random.hook = func() error {
		ring := r.elsewhere(s)
		list, err := ring.Keys()
		for _, e := range list {
			err = errors.Join(err, ring.Retire(e.ID))
		}
		return err
	}
	return nil
}

var krb5ExportFaults = []krb5Fault{
	// Before a slot is reserved.
	{name: "lifetime not told", cause: fails("expiry", errFake, nothing), err: errFake, status: errFake},
	{name: "no key, keyring closed", cause: before(closeRing), err: keyring.ErrClosed, status: gssapi.ErrFailure},
	{name: "no key, random source fails", cause: both(before((*krb5Rig).retire), before(noEntropy)),
		err: errNoEntropy, status: gssapi.ErrFailure, worthless: true},
	{name: "no key, runtime directory gone", cause: both(before((*krb5Rig).retire), before((*krb5Rig).noDir)),
		err: keyring.ErrUnsafeDir, status: gssapi.ErrFailure, worthless: true},

	// While it is reserved.
	{name: "register full", cause: before((*krb5Rig).fillRegister), err: keyring.ErrFull, status: gssapi.ErrFailure},
	{name: "no memory to lock", cause: noMemory(0), err: memsafe.ErrLimit, status: gssapi.ErrFailure},
	{name: "random source fails for the salt", cause: before(noEntropy), err: errNoEntropy, status: gssapi.ErrFailure},
	{name: "retired within each attempt", cause: before((*krb5Rig).retireAll),
		err: keyring.ErrRetired, status: gssapi.ErrFailure, worthless: true},

	// The mechanism, with the slot to be cancelled.
	{name: "mechanism fails", cause: fails("before export", errFake, nothing), err: errFake, status: errFake},
	{name: "mechanism fails, epoch closed before cancel", cause: fails("before export", errFake, (*krb5Rig).rotate),
		err: errFake, status: errFake},
	{name: "mechanism fails, epoch retired before cancel", cause: fails("before export", errFake, (*krb5Rig).retire),
		err: errFake, status: errFake, worthless: true},
	{name: "mechanism fails, register truncated before cancel", cause: fails("before export", errFake, (*krb5Rig).truncate),
		err: errFake, status: errFake, worthless: true},
	{name: "empty plain token", cause: fails("after export", errEmptyToken, nothing),
		err: errEmptyToken, status: gssapi.ErrNoContext, outcome: nobody},

	// Between reserve and seal, before the mechanism has given up the context
	// and after it.
	{name: "epoch closed before the mechanism", cause: during("before export", (*krb5Rig).rotate), outcome: moved},
	{name: "epoch closed before seal", cause: during("after export", (*krb5Rig).rotate), outcome: moved},
	{name: "epoch retired before the mechanism", cause: during("before export", (*krb5Rig).retire),
		err: keyring.ErrRetired, status: gssapi.ErrFailure, worthless: true},
	{name: "epoch retired before seal", cause: during("after export", (*krb5Rig).retire),
		err: keyring.ErrRetired, status: gssapi.ErrFailure, worthless: true},
	{name: "register truncated before seal", cause: during("after export", (*krb5Rig).truncate),
		err: keyring.ErrDamaged, status: gssapi.ErrFailure, worthless: true},
	{name: "clock ran out before seal", cause: during("after export", func(r *krb5Rig, _ *side) error {
		time.Sleep(shortLife)
		return nil
	}), err: seal.ErrExpired, status: gssapi.ErrFailure},
	{name: "no memory to lock before seal", cause: func(t *testing.T, r *krb5Rig, s *side) {
		during("after export", func(r *krb5Rig, s *side) error { s.fill(t, 0); return nil })(t, r, s)
	}, outcome: moved},
	{name: "random source fails for the nonce", cause: during("after export", noEntropy),
		err: errNoEntropy, status: gssapi.ErrFailure, suite: suite.ChaCha20Poly1305},
	{name: "random source fails, nonce is the standard library's", cause: during("after export", noEntropy),
		outcome: moved, suite: suite.AES256GCM},

	// Importing back.
	{name: "leftover not deleted", cause: both(during("after export", (*krb5Rig).retire), fails("delete", errFake, nothing)),
		err: keyring.ErrRetired, status: gssapi.ErrFailure, worthless: true},
	{name: "import back fails", cause: both(during("after export", (*krb5Rig).retire), fails("before import", errFake, nothing)),
		err: errFake, status: gssapi.ErrNoContext, outcome: nobody, worthless: true},
	{name: "import back fails when it is done", cause: both(during("after export", (*krb5Rig).retire), fails("after import", errFake, nothing)),
		err: errFake, status: gssapi.ErrNoContext, outcome: nobody, worthless: true},
	{name: "mechanism released before seal", cause: both(during("before export", (*krb5Rig).retire), during("after export", (*krb5Rig).release)),
		err: krb5.ErrReleased, status: gssapi.ErrNoContext, outcome: nobody, worthless: true},
}

// krb5OpenFaults strike an import or a take-back.
var krb5OpenFaults = []krb5Fault{
	// Before the claim.
	{name: "keyring closed", cause: before(closeRing), err: keyring.ErrClosed, status: gssapi.ErrFailure},
	{name: "no memory to lock for the keys", cause: noMemory(0), err: memsafe.ErrLimit, status: gssapi.ErrFailure},
	{name: "no memory to lock for the plain token", cause: noMemory(128), err: memsafe.ErrLimit, status: gssapi.ErrFailure},
	{name: "epoch closed", cause: before((*krb5Rig).rotate), outcome: moved},
	{name: "random source fails", cause: before(noEntropy), outcome: moved},
	{name: "epoch retired", cause: before((*krb5Rig).retire), err: seal.ErrDefective, status: gssapi.ErrDefectiveToken, worthless: true},
	{name: "register truncated", cause: before((*krb5Rig).truncate), err: keyring.ErrDamaged, status: gssapi.ErrFailure, worthless: true},

	// Behind it.
	{name: "epoch retired after the claim", cause: during("before import", (*krb5Rig).retire), outcome: moved, worthless: true},
	{name: "register truncated after the claim", cause: during("before import", (*krb5Rig).truncate), outcome: moved, worthless: true},
	{name: "mechanism fails", cause: fails("before import", errFake, nothing), err: errFake, status: gssapi.ErrNoContext, outcome: nobody},
	{name: "mechanism fails when it is done", cause: fails("after import", errFake, nothing), err: errFake, status: gssapi.ErrNoContext, outcome: nobody},
	{name: "mechanism released", cause: before((*krb5Rig).release), err: krb5.ErrReleased, status: gssapi.ErrNoContext, outcome: nobody},
}

// krb5ImportFaults strike an import only.
var krb5ImportFaults = []krb5Fault{
	{name: "another format", cause: func(_ *testing.T, _ *krb5Rig, s *side) {
		whole := s.p
		s.p = (&Config{Sealer: s.host, Format: "other/1"}).Wrap(s.mech)
		s.undo = append(s.undo, func() { s.p = whole })
	}, err: seal.ErrFormat, status: gssapi.ErrDefectiveToken},
	{name: "inquiry fails", cause: fails("inquire", errFake, nothing), err: errFake, status: gssapi.ErrNoContext, outcome: nobody},
	{name: "half-established", cause: fails("inquire", errHalf, nothing), err: errHalf, status: gssapi.ErrNoContext, outcome: nobody},
	{name: "half-established, not deleted", cause: both(fails("inquire", errHalf, nothing), fails("delete", errFake, nothing)),
		err: errHalf, status: gssapi.ErrNoContext, outcome: nobody},
}

// eachFault runs f for each fault and each suite that it concerns.
func eachFault(t *testing.T, faults []krb5Fault, f func(*testing.T, krb5Fault, *krb5Rig)) {
	for _, fault := range faults {
		for _, st := range suite.All() {
			if fault.suite == 0 || fault.suite == st {
				t.Run(fault.name+"/"+st.String(), func(t *testing.T) { f(t, fault, newKrb5Rig(t, st)) })
			}
		}
	}
}

// requireFault requires the fault's error and status, and the word that the
// context is lost where, and only where, it is.
func requireFault(t *testing.T, f krb5Fault, err error) {
	t.Helper()
	require.ErrorIs(t, err, f.err)
	require.ErrorIs(t, err, f.status)
	require.Equal(t, f.outcome == nobody, errors.Is(err, ErrLost))
}

// shortLife is a token's lifetime that is over when it is sealed.
const shortLife = 20 * time.Millisecond

// TestKerberosExportFaults: a fault before and after each step of an export, of
// a real context over a real sealer. There is no token, and what the peer sent
// before the fault and sends after it opens; or the handle is NO_CONTEXT and the
// error says so. No slot stays taken and nothing else is spent. TestFaultOracle
// is the control.
func TestKerberosExportFaults(t *testing.T) { eachFault(t, krb5ExportFaults, exportFault) }

func exportFault(t *testing.T, f krb5Fault, r *krb5Rig) {
	if errors.Is(f.err, seal.ErrExpired) {
		r.shortLived(shortLife)
	}
	f.cause(t, r, r.exporter)
	token, err := r.sc.Export()
	r.exporter.mend()
	if f.outcome != moved {
		require.Nil(t, token)
		requireFault(t, f, err)
	}
	switch f.outcome {
	case kept:
		require.NoError(t, r.goesOn(r.sc))
	case moved:
		require.NoError(t, err)
		noContext(t, r.sc)
		sc, err := r.importer.p.ImportSecContext(token)
		require.NoError(t, err)
		require.NoError(t, r.goesOn(sc))
	case nobody:
		noContext(t, r.sc)
		require.ErrorIs(t, TakeBack(r.sc, make([]byte, 100)), ErrLost)
		_, err = r.sc.Delete()
		require.NoError(t, err)
	}
	r.settled(t, f.worthless)
}

// TestKerberosImportFaults: before the claim nothing is spent, and the token
// still brings the context once the fault is gone; after it the context is lost
// and the error says so.
func TestKerberosImportFaults(t *testing.T) {
	eachFault(t, append(krb5ImportFaults, krb5OpenFaults...), importFault)
}

func importFault(t *testing.T, f krb5Fault, r *krb5Rig) {
	token, err := r.sc.Export()
	require.NoError(t, err)
	r.taken++
	f.cause(t, r, r.importer)
	sc, err := r.importer.p.ImportSecContext(token)
	r.importer.mend()
	noContext(t, r.sc)
	if f.outcome == moved {
		require.NoError(t, err)
	} else {
		require.Nil(t, sc)
		requireFault(t, f, err)
	}
	r.opened(t, f, token, sc)
}

// TestKerberosTakeBackFaults: the same of a take-back.
func TestKerberosTakeBackFaults(t *testing.T) { eachFault(t, krb5OpenFaults, takeBackFault) }

func takeBackFault(t *testing.T, f krb5Fault, r *krb5Rig) {
	token, err := r.sc.Export()
	require.NoError(t, err)
	r.taken++
	f.cause(t, r, r.exporter)
	err = TakeBack(r.sc, token)
	r.exporter.mend()
	if f.outcome == moved {
		require.NoError(t, err)
	} else {
		requireFault(t, f, err)
		noContext(t, r.sc)
	}
	r.opened(t, f, token, r.sc)
}

// opened requires what is to be of a token, and of its context, which is at sc
// if it has moved, after a fault of an import or a take-back.
func (r *krb5Rig) opened(t *testing.T, f krb5Fault, token []byte, sc gssapi.SecContext) {
	t.Helper()
	switch {
	case f.outcome == moved:
		require.NoError(t, r.goesOn(sc))
	case f.outcome == kept && !f.worthless:
		r.counted(t, false)
		sc, err := r.whole().ImportSecContext(token)
		require.NoError(t, err)
		require.NoError(t, r.goesOn(sc))
	}
	r.taken--
	_, err := r.whole().ImportSecContext(token)
	if f.worthless {
		require.ErrorIs(t, err, seal.ErrDefective)
	} else {
		require.ErrorIs(t, err, seal.ErrSpent)
	}
	r.settled(t, f.worthless)
}

// TestKerberosNoLockableMemory: RLIMIT_MEMLOCK leaves nothing for the next
// epoch, or for the mechanism's keys at an import and when it imports back.
func TestKerberosNoLockableMemory(t *testing.T) {
	if !apart.Run(t, apart.PlainUser) { // root may lock what it wants
		return
	}
	full := func(step string, before func(*krb5Rig, *side) error) cause {
		return func(t *testing.T, r *krb5Rig, s *side) {
			during(step, func(r *krb5Rig, s *side) error {
				require.NoError(t, before(r, s))
				r.fillMechanism(t, s)
				return nil
			})(t, r, s)
		}
	}
	f := krb5Fault{err: memsafe.ErrLimit, status: gssapi.ErrNoContext, outcome: nobody}
	f.name, f.cause = "import", full("before import", nothing)
	eachFault(t, []krb5Fault{f}, importFault)
	f.name = "take back"
	eachFault(t, []krb5Fault{f}, takeBackFault)
	f.name, f.cause, f.worthless = "import back", full("after export", (*krb5Rig).retire), true
	eachFault(t, []krb5Fault{f}, exportFault)
	f.name, f.cause = "epoch", both(before((*krb5Rig).retire), before((*krb5Rig).lockNothing))
	f.status, f.outcome = gssapi.ErrFailure, kept
	eachFault(t, []krb5Fault{f}, exportFault)
}

// lockNothing lowers the limit of locked memory to nothing.
func (r *krb5Rig) lockNothing(s *side) error {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old); err != nil {
		return err
	}
	s.undo = append(s.undo, func() { _ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old) })
	return unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Max: old.Max})
}

// fillMechanism makes contexts until the mechanism has no memory to lock for
// another.
func (r *krb5Rig) fillMechanism(t *testing.T, s *side) {
	t.Helper()
	pair := s.establish(t, r.realm)
	spare, err := unwrap(pair.sc)
	require.NoError(t, err)
	plain, err := spare.inner.(*hookedContext).SecContext.Export()
	require.NoError(t, err)
	require.NoError(t, r.lockNothing(s))
	for {
		sc, err := s.mech.Provider.ImportSecContext(plain)
		if err != nil {
			require.ErrorIs(t, err, memsafe.ErrLimit)
			return
		}
		s.undo = append(s.undo, func() { _, _ = sc.Delete() })
	}
}
