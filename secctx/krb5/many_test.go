package krb5_test

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/memscan"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5"
)

// manyContexts is how many contexts live at once under the usual limit.
const manyContexts = 10_000

// manyVictim is a plain user with 8 MiB of memory to lock. It imports contexts
// until there are manyContexts, uses some, and then goes on until the limit
// says no.
func manyVictim(v *memscan.Victim) {
	v.Check(unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 8 << 20, Max: 8 << 20}))
	p, err := krb5.New(nil)
	v.Check(err)
	tok, err := os.ReadFile(os.Getenv(leakDirVar))
	v.Check(err)
	var live []gssapi.SecContext
	for range manyContexts {
		sc, err := p.ImportSecContext(tok)
		v.Check(err)
		live = append(live, sc)
	}
	for i := 0; i < len(live); i += 1000 {
		_, _, err := live[i].Wrap([]byte("m"), true, 0)
		v.Check(err)
	}
	v.Value("locked", uint64(p.LockedBytes()))
	v.Checkpoint("many")
	for {
		sc, err := p.ImportSecContext(tok)
		if errors.Is(err, memsafe.ErrLimit) && errors.Is(err, gssapi.ErrFailure) {
			break
		}
		v.Check(err)
		live = append(live, sc)
		if len(live) > 40_000 {
			v.Fatal(fmt.Errorf("no limit"))
		}
	}
	v.Value("most", uint64(len(live)))
	for _, sc := range live {
		_, err := sc.Delete()
		v.Check(err)
	}
	sc, err := p.ImportSecContext(tok)
	v.Check(err)
	_, err = sc.GetMIC([]byte("m"), 0)
	v.Check(err)
	v.Checkpoint("after")
}

// TestManyContexts: 10,000 established contexts live under a limit of 8 MiB,
// and where the limit is reached an import is an error that says so, nothing
// breaks, and room comes back.
func TestManyContexts(t *testing.T) {
	b := newBench(t, krb5.Config{})
	dir := t.TempDir()
	path := dir + "/token"
	require.NoError(t, os.WriteFile(path, exported(t, b), 0o644))
	o := &memscan.Options{Env: []string{leakDirVar + "=" + path}}
	if os.Getuid() == 0 {
		for _, d := range []string{dir, dir + "/.."} { // TempDir's parent is closed to others
			require.NoError(t, os.Chmod(d, 0o755))
		}
		o.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	tg := memscan.Start(t, "many", o)
	tg.At("many")
	locked := tg.Value("locked")
	require.LessOrEqual(t, locked, uint64(8<<20))
	tg.Resume()
	tg.At("after")
	require.Greater(t, tg.Value("most"), uint64(manyContexts))
	t.Logf("%d contexts lock %d bytes; %d fit", manyContexts, locked, tg.Value("most"))
	tg.Resume()
	tg.Wait()
}
