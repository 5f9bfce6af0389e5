package secctx

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
)

// bench is a rig over a sealer that a fault can be put into.
type bench struct {
	*rig
	host   *seal.Host
	pool   *memsafe.Pool
	sealer *failing
}

func newBench(t *testing.T) *bench {
	t.Helper()
	pool, err := memsafe.NewPool(16 << 10)
	require.NoError(t, err)
	host := newHost(t, &seal.Options{Capacity: 2, Pool: pool})
	b := &bench{host: host, pool: pool, sealer: &failing{Sealer: host}}
	b.rig = newRigOf(t, &Config{Sealer: b.sealer, Lifetime: time.Minute}, &fakeProvider{})
	b.talk(t, b.sc)
	return b
}

// during runs f when the mechanism comes to a step, once.
func (b *bench) during(step string, f func() error) {
	b.fake.at = func(s string) error {
		if s != step {
			return nil
		}
		b.fake.at = nil
		return f()
	}
}

// fill takes all the locked memory that is left.
func (b *bench) fill(t *testing.T) {
	for {
		if _, err := b.pool.Alloc(64); err != nil {
			require.ErrorIs(t, err, memsafe.ErrLimit)
			return
		}
	}
}

// exportFaults are faults before and after each step of an export. Whatever
// happens, there is no token; and either the context is here and the peer's next
// message opens, or every call answers NO_CONTEXT and the error says so.
var exportFaults = []struct {
	name   string
	cause  func(*testing.T, *bench)
	err    error // what the error matches
	status error // its GSS status
	gone   bool
}{
	{"reserve: register full", func(t *testing.T, b *bench) {
		for range 2 {
			_, err := b.host.Reserve(seal.Request{Format: "x"})
			require.NoError(t, err)
		}
	}, keyring.ErrFull, gssapi.ErrFailure, false},
	{"reserve: no locked memory", func(t *testing.T, b *bench) { b.fill(t) }, memsafe.ErrLimit, gssapi.ErrFailure, false},
	{"reserve: no keyring", func(t *testing.T, b *bench) { require.NoError(t, b.host.Close()) }, keyring.ErrClosed, gssapi.ErrFailure, false},
	{"reserve: random source", func(_ *testing.T, b *bench) { b.sealer.reserve = errFake }, errFake, gssapi.ErrFailure, false},
	{"reserve: agent's policy", func(_ *testing.T, b *bench) { b.sealer.reserve = seal.ErrUnauthorized }, seal.ErrUnauthorized, gssapi.ErrUnauthorized, false},
	{"lifetime: mechanism fails", func(_ *testing.T, b *bench) {
		b.during("expires", func() error { return gssapi.ErrContextExpired })
	}, gssapi.ErrContextExpired, gssapi.ErrContextExpired, false},
	{"export: mechanism fails", func(_ *testing.T, b *bench) {
		b.during("export", func() error { return errFake })
	}, errFake, errFake, false},
	{"export: empty token", func(_ *testing.T, b *bench) { b.fake.empty = true }, errEmptyToken, gssapi.ErrNoContext, true},
	{"seal: epoch retired", func(t *testing.T, b *bench) {
		b.during("export", func() error { retire(t, b.host); return nil })
	}, keyring.ErrRetired, gssapi.ErrFailure, false},
	{"seal: clock ran out", func(_ *testing.T, b *bench) {
		b.sc.(*secContext).p.lifetime = 20 * time.Millisecond
		b.during("export", func() error { time.Sleep(25 * time.Millisecond); return nil })
	}, seal.ErrExpired, gssapi.ErrFailure, false},
	{"seal: token too large", func(_ *testing.T, b *bench) { b.fake.pad = token.MaxPlain }, seal.ErrRequest, gssapi.ErrFailure, false},
	{"seal and import back", func(_ *testing.T, b *bench) {
		b.fake.pad = token.MaxPlain
		b.during("import", func() error { return errFake })
	}, errFake, gssapi.ErrNoContext, true},
}

func TestExportFaults(t *testing.T) {
	for _, f := range exportFaults {
		t.Run(f.name, func(t *testing.T) {
			b := newBench(t)
			f.cause(t, b)
			token, err := b.sc.Export()
			require.Nil(t, token)
			require.ErrorIs(t, err, f.err)
			require.ErrorIs(t, err, f.status)
			if b.fake.plain != nil {
				require.NotContains(t, string(b.fake.plain), fakeMagic, "the plain token was not wiped")
			}
			require.Equal(t, f.gone, errors.Is(err, ErrLost))
			require.Equal(t, f.gone, errors.Is(err, gssapi.ErrNoContext))
			require.NotErrorIs(t, err, seal.ErrDefective)
			if f.gone {
				b.dead(t, b.sc)
				require.ErrorIs(t, TakeBack(b.sc, []byte("token")), ErrLost)
				_, err = b.sc.Delete()
				require.NoError(t, err)
				return
			}
			b.talk(t, b.sc)
			_, _, err = b.sc.Continue(nil)
			if b.fake.exports.Load() > 0 {
				require.ErrorIs(t, err, errEstablished, "Continue might begin anew")
			}
			require.Zero(t, b.fake.restarts.Load())
			b.fake.pad = 0
		})
	}
}

// TestExportAgainAfterFault: a fault that passes leaves a context that can be
// exported, and no slot taken.
func TestExportAgainAfterFault(t *testing.T) {
	for _, step := range []string{"mechanism", "seal"} {
		t.Run(step, func(t *testing.T) {
			b := newBench(t)
			for range 5 { // more often than the register has slots
				b.fake.pad = 0
				if step == "seal" {
					b.fake.pad = token.MaxPlain
				} else {
					b.during("export", func() error { return errFake })
				}
				_, err := b.sc.Export()
				require.Error(t, err)
				b.talk(t, b.sc)
			}
			require.Zero(t, outstanding(t, b.host))
			b.fake.pad = 0
			token, err := b.sc.Export()
			require.NoError(t, err)
			sc, err := b.p.ImportSecContext(token)
			require.NoError(t, err)
			b.talk(t, sc)
			_, _, err = b.name.Display()
			require.NoError(t, err, "a name from before the faults")
			require.Zero(t, b.pool.InUse())
		})
	}
}

// TestExportPanics: a panic of the mechanism passes, the plain token is wiped,
// the slot comes back, the gate is open, and the handle is lost.
func TestExportPanics(t *testing.T) {
	for _, step := range []string{"export", "import"} {
		t.Run(step, func(t *testing.T) {
			b := newBench(t)
			b.fake.pad = token.MaxPlain // so that it comes to an import
			b.during(step, func() error { panic("mechanism") })
			require.PanicsWithValue(t, "mechanism", func() { _, _ = b.sc.Export() })
			require.NotContains(t, string(b.fake.plain), fakeMagic)
			require.Zero(t, outstanding(t, b.host))
			require.Zero(t, b.pool.InUse())
			b.dead(t, b.sc)
			_, _, err := b.sc.Wrap(nil, true, 0)
			require.ErrorIs(t, err, ErrLost)
			_, err = b.sc.Delete()
			require.NoError(t, err)
		})
	}
}

// errTooLate is what a sealer says of a claim that came when the time was over.
var errTooLate = fmt.Errorf("%w: %w", seal.ErrLost, seal.ErrExpired)

// TestImportFaults: before the claim nothing is spent and the mechanism is not
// asked; after it the context is lost, and the error says so.
func TestImportFaults(t *testing.T) {
	for _, f := range []struct {
		name   string
		cause  func(*testing.T, *bench)
		err    error
		status error
		lost   bool
	}{
		{"sealer away", func(_ *testing.T, b *bench) { b.sealer.open = seal.ErrUnavailable }, seal.ErrUnavailable, gssapi.ErrFailure, false},
		{"unknown error", func(_ *testing.T, b *bench) { b.sealer.open = errFake }, errFake, gssapi.ErrFailure, false},
		{"no locked memory", func(t *testing.T, b *bench) { b.fill(t) }, memsafe.ErrLimit, gssapi.ErrFailure, false},
		{"epoch retired", func(t *testing.T, b *bench) { retire(t, b.host) }, seal.ErrDefective, gssapi.ErrDefectiveToken, false},
		{"other format", func(_ *testing.T, b *bench) { b.sealer.open = seal.ErrFormat }, seal.ErrFormat, gssapi.ErrDefectiveToken, false},
		{"expired", func(_ *testing.T, b *bench) { b.sealer.open = seal.ErrExpired }, seal.ErrExpired, gssapi.ErrNoContext, false},
		{"claimed too late", func(_ *testing.T, b *bench) {
			b.sealer.open = errTooLate
		}, seal.ErrExpired, gssapi.ErrNoContext, true},
		{"claimed too late, epoch retired", func(_ *testing.T, b *bench) {
			b.sealer.open = fmt.Errorf("%w: %w", seal.ErrLost, seal.ErrDefective)
		}, seal.ErrLost, gssapi.ErrNoContext, true},
		{"claimed too late at the agent", func(_ *testing.T, b *bench) {
			b.sealer.open = fmt.Errorf("%w: %v", seal.ErrLost, seal.ErrExpired)
		}, seal.ErrLost, gssapi.ErrNoContext, true},
		{"mechanism fails", func(_ *testing.T, b *bench) {
			b.during("import", func() error { return errFake })
		}, errFake, gssapi.ErrNoContext, true},
		{"mechanism finds its own token defective", func(_ *testing.T, b *bench) {
			b.during("import", func() error { return gssapi.ErrDefectiveToken })
		}, ErrLost, gssapi.ErrNoContext, true},
		{"inquiry fails", func(_ *testing.T, b *bench) {
			b.during("inquire", func() error { return errFake })
		}, errFake, gssapi.ErrNoContext, true},
		{"half-established", func(_ *testing.T, b *bench) { b.fake.halfImports = true }, errHalf, gssapi.ErrNoContext, true},
		{"empty plain token", func(t *testing.T, b *bench) {
			b.sealer.plain = &memsafe.Secret{}
		}, errEmptyToken, gssapi.ErrNoContext, true},
	} {
		t.Run(f.name, func(t *testing.T) {
			b := newBench(t)
			token, err := b.sc.Export()
			require.NoError(t, err)
			before := b.fake.imports.Load()
			f.cause(t, b)
			sc, err := b.p.ImportSecContext(token)
			require.Nil(t, sc)
			require.ErrorIs(t, err, f.err)
			require.ErrorIs(t, err, f.status)
			require.Equal(t, f.lost, errors.Is(err, ErrLost))
			require.Equal(t, f.status == gssapi.ErrDefectiveToken, errors.Is(err, gssapi.ErrDefectiveToken), "the status of another failure")
			b.dead(t, b.sc)
			if !f.lost {
				require.Equal(t, before, b.fake.imports.Load(), "the mechanism saw a token before the claim")
				return
			}
			if b.fake.imports.Load() > before {
				require.NotContains(t, string(b.fake.imported), fakeMagic, "the plain token was not wiped")
				require.Zero(t, b.pool.InUse())
				require.ErrorIs(t, TakeBack(b.sc, token), seal.ErrSpent)
			}
		})
	}
}

// TestImportRefusedIsDeleted: what the mechanism imported and the wrapper does
// not want is not left behind.
func TestImportRefusedIsDeleted(t *testing.T) {
	b := newBench(t)
	token, err := b.sc.Export()
	require.NoError(t, err)
	b.fake.halfImports = true
	_, err = b.p.ImportSecContext(token)
	require.ErrorIs(t, err, errHalf)
	require.EqualValues(t, 1, b.fake.deletes.Load())
}

// TestImportPanics: the panic passes, and the plain token is wiped.
func TestImportPanics(t *testing.T) {
	b := newBench(t)
	token, err := b.sc.Export()
	require.NoError(t, err)
	b.during("import", func() error { panic("mechanism") })
	require.PanicsWithValue(t, "mechanism", func() { _, _ = b.p.ImportSecContext(token) })
	require.Zero(t, b.pool.InUse())
	require.NotContains(t, string(b.fake.imported), fakeMagic)
	require.Contains(t, string(b.fake.importedCopy), fakeMagic, "positive control: it was the token")
}

// TestTakeBackFaults: what is not claimed leaves the handle exported, and a
// later try can succeed.
func TestTakeBackFaults(t *testing.T) {
	for _, f := range []struct {
		name   string
		cause  func(*bench)
		err    error
		status error
		lost   bool
	}{
		{"sealer away", func(b *bench) { b.sealer.takeBack = seal.ErrUnavailable }, seal.ErrUnavailable, gssapi.ErrFailure, false},
		{"not the exporter", func(b *bench) { b.sealer.takeBack = seal.ErrUnauthorized }, seal.ErrUnauthorized, gssapi.ErrUnauthorized, false},
		{"claimed too late", func(b *bench) {
			b.sealer.takeBack = errTooLate
		}, seal.ErrExpired, gssapi.ErrNoContext, true},
		{"claimed too late at the agent", func(b *bench) {
			b.sealer.takeBack = fmt.Errorf("%w: %v", seal.ErrLost, seal.ErrExpired)
		}, seal.ErrLost, gssapi.ErrNoContext, true},
		{"mechanism fails", func(b *bench) {
			b.during("import", func() error { return errFake })
		}, errFake, gssapi.ErrNoContext, true},
	} {
		t.Run(f.name, func(t *testing.T) {
			b := newBench(t)
			token, err := b.sc.Export()
			require.NoError(t, err)
			f.cause(b)
			err = TakeBack(b.sc, token)
			require.ErrorIs(t, err, f.err)
			require.ErrorIs(t, err, f.status)
			require.Equal(t, f.lost, errors.Is(err, ErrLost))
			b.dead(t, b.sc)
			b.sealer.takeBack = nil
			err = TakeBack(b.sc, token)
			if f.lost {
				require.ErrorIs(t, err, ErrLost)
				return
			}
			require.NoError(t, err)
			b.talk(t, b.sc)
		})
	}
}
