package krb5_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
)

// again is another process of the bench: another provider over the same files.
func (b *bench) again(t *testing.T) *bench {
	t.Helper()
	other := *b
	var err error
	other.p, err = krb5.New(&krb5.Config{ReplayCache: b.replay})
	require.NoError(t, err)
	t.Cleanup(func() { _ = other.p.Release() })
	other.acceptor, err = b.realm.Acceptor(other.p)
	require.NoError(t, err)
	return &other
}

// TestReplayAfterLoss: when the replay cache is lost, a request that was accepted
// before is refused. The process that had the cache in use refuses all requests
// for as long as the clock skew; a new one takes a new request at once. The control
// keeps the cache.
func TestReplayAfterLoss(t *testing.T) {
	file := func(b *bench) string { return filepath.Join(b.replay, "krb5.rcache") }
	for name, lose := range map[string]func(b *bench) error{
		"kept":              nil,
		"file removed":      func(b *bench) error { return os.Remove(file(b)) },
		"directory removed": func(b *bench) error { return os.RemoveAll(b.replay) },
		"emptied":           func(b *bench) error { return os.Truncate(file(b), 0) },
		"cut":               func(b *bench) error { return os.Truncate(file(b), 4096) },
	} {
		for _, who := range []string{"running process", "idle process", "new process"} {
			t.Run(name+", "+who, func(t *testing.T) {
				b := newBench(t, krb5.Config{ReplayCache: filepath.Join(t.TempDir(), "replay")})
				idle := b.again(t)
				tok := b.forge(t, 18).bytes(t)
				_, _, err := b.show(t, tok)
				require.NoError(t, err)
				if lose != nil {
					require.NoError(t, lose(b))
				}
				to := map[string]*bench{"running process": b, "idle process": idle}[who]
				if to == nil {
					to = b.again(t)
				}
				_, out, err := to.show(t, tok)
				requireCode(t, err, gssapi.ErrFailure, krb5.KRB_AP_ERR_REPEAT, out)
				require.ErrorIs(t, err, gssapi.InfoDuplicateToken)

				_, _, err = to.show(t, b.forge(t, 18).bytes(t))
				cut := name == "cut" // whoever finds a damaged file knows what it means
				if lose == nil || who == "new process" && !cut {
					require.NoError(t, err)
					return
				}
				require.ErrorIs(t, err, krb5.KRB_AP_ERR_REPEAT)
				require.ErrorContains(t, err, b.replay, "where")
				require.ErrorContains(t, err, "lost", "why")
				require.ErrorContains(t, err, "accepted again", "how it ends")
			})
		}
	}
}

// TestLossIsOver: after the clock skew all is as it was.
func TestLossIsOver(t *testing.T) {
	const skew = 300 * time.Millisecond
	b := newBench(t, krb5.Config{ReplayCache: filepath.Join(t.TempDir(), "replay"), ClockSkew: skew})
	init, acc := b.establish(t, allFlags)
	converse(t, init, acc)
	require.NoError(t, os.RemoveAll(b.replay))
	_, _, err := b.show(t, b.forge(t, 18).bytes(t))
	require.ErrorIs(t, err, krb5.KRB_AP_ERR_REPEAT)
	require.Eventually(t, func() bool {
		_, _, err := b.show(t, b.forge(t, 18).bytes(t))
		return err == nil
	}, time.Minute, skew/3)
	converse(t, init, acc)
}

// TestFirstRequest: on a new host the first request is accepted if it was made
// after the replay cache, which New makes where a directory was chosen, and the
// acceptor's credential elsewhere. A request from before is refused, and the
// client's next is not.
func TestFirstRequest(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "keytab")
	b := newBench(t, krb5.Config{})
	require.NoError(t, b.realm.WriteKeytab(keys))
	chosen := func(t *testing.T) *bench {
		other := *b
		other.replay = filepath.Join(t.TempDir(), "replay")
		return other.again(t)
	}
	t.Run("chosen directory", func(t *testing.T) {
		early := b.forge(t, 18).bytes(t)
		n := chosen(t)
		_, _, err := n.show(t, b.forge(t, 18).bytes(t))
		require.NoError(t, err)
		_, _, err = n.show(t, early)
		require.ErrorIs(t, err, krb5.KRB_AP_ERR_REPEAT)
		require.ErrorContains(t, err, "try again at once")
		_, _, err = n.show(t, b.forge(t, 18).bytes(t))
		require.NoError(t, err)
	})
	t.Run("directory of the credential", func(t *testing.T) {
		p, err := krb5.New(&krb5.Config{Keytab: keys})
		require.NoError(t, err)
		defer p.Release()
		dir := filepath.Join(t.TempDir(), "replay")
		cred, err := p.AcquireCredentialFrom(nil, nil, gssapi.CredUsageAcceptOnly, nil, gssapi.WithCredStoreRCache("dir:"+dir))
		require.NoError(t, err)
		require.FileExists(t, filepath.Join(dir, "krb5.rcache"))
		n := &bench{realm: b.realm, p: p, acceptor: cred}
		_, _, err = n.show(t, b.forge(t, 18).bytes(t))
		require.NoError(t, err)
	})
	t.Run("directory of the environment", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "replay")
		t.Setenv("KRB5RCACHEDIR", dir)
		p, err := krb5.New(nil)
		require.NoError(t, err)
		defer p.Release()
		require.FileExists(t, filepath.Join(dir, "krb5.rcache"))
	})
}

// TestReplayAfterClockWasAhead: a request whose record was overwritten while the
// clock was an hour ahead is refused when the clock is right again; its control is
// one whose record was not. An honest client is accepted at once.
func TestReplayAfterClockWasAhead(t *testing.T) {
	b := newBench(t, krb5.Config{ReplayCapacity: 1})
	b.ageReplayCache(t)
	start := time.Now()
	at := func(after time.Duration) []byte {
		f := b.forge(t, 18)
		f.part.EndTime = start.Add(10 * time.Hour)
		f.auth.CTime = start.Add(after)
		f.auth.CUSec = f.auth.CTime.Nanosecond() / 1000
		return f.bytes(t)
	}
	show := func(clock time.Duration, tok []byte) error {
		b.p.Clock(func() time.Time { return start.Add(clock) })
		_, _, err := b.show(t, tok)
		return err
	}
	first, second := at(0), at(time.Second)
	require.NoError(t, show(0, first))
	require.NoError(t, show(time.Second, second))
	require.NoError(t, show(time.Hour, at(time.Hour)), "over the first's record")
	err := show(2*time.Second, first)
	require.ErrorIs(t, err, krb5.KRB_AP_ERR_REPEAT)
	require.ErrorContains(t, err, "clock")
	require.ErrorIs(t, show(2*time.Second, second), krb5.KRB_AP_ERR_REPEAT)
	require.NoError(t, show(2*time.Second, at(2*time.Second)))
}
