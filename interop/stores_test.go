package interop

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/kdc"
)

// useStore fills a credential cache with MIT's kinit and kvno, and requires that
// sealctx's own mechanism initiates with what lies there: first with the service's
// ticket, and, when MIT's library has removed that, with one that it asks the KDC
// for. env is for MIT's programs.
func useStore(t *testing.T, cache string, config krb5.Config, env []string) {
	t.Helper()
	run := func(name string, args ...string) {
		t.Helper()
		out, err := tool(t, env, name, args...)
		require.NoError(t, err, "%s %v: %s", name, args, out)
	}
	run("kinit", "-k", "-t", realm.Keytab(), "-c", cache, user)
	t.Cleanup(func() { _, _ = tool(t, env, "kdestroy", "-c", cache) }) // it may be gone
	run("kvno", "-c", cache, "e18/localhost")
	var err error
	config.CCache = cache
	p, err := krb5.New(&config)
	require.NoError(t, err)
	defer p.Release()
	cred, err := p.AcquireCredential(nil, nil, gssapi.CredUsageInitiateOnly, nil)
	require.NoError(t, err)
	defer cred.Release()
	info, err := cred.Inquire()
	require.NoError(t, err)
	require.Equal(t, user+"@SEALCTX.TEST", info.Name)
	require.WithinDuration(t, time.Now().Add(24*time.Hour), info.InitiatorExpiry.ExpiresAt, time.Hour)
	first := func(service string, p *krb5.Provider, cred gssapi.Credential) error {
		target, err := p.ImportName(service, gssapi.GSS_NT_HOSTBASED_SERVICE)
		require.NoError(t, err)
		sc, err := p.InitSecContext(target, gssapi.WithInitiatorCredential(cred))
		require.NoError(t, err)
		_, _, err = sc.Continue(nil)
		return err
	}
	require.NoError(t, first("e18@localhost", p, cred))
	require.ErrorIs(t, first("e17@localhost", p, cred), krb5.ErrNoTicket, "the control: it is not in the cache")

	config.Granter, err = kdc.New(filepath.Join(realm.Dir(), "krb5.conf"))
	require.NoError(t, err)
	asking, err := krb5.New(&config)
	require.NoError(t, err)
	defer asking.Release()
	cred2, err := asking.AcquireCredential(nil, nil, gssapi.CredUsageInitiateOnly, nil)
	require.NoError(t, err)
	defer cred2.Release()
	require.NoError(t, first("e17@localhost", asking, cred2))

	run("kdestroy", "-c", cache)
	require.Error(t, first("e18@localhost", p, cred), "the cache is gone")
}

// TestStores: caches of every kind that MIT's library keeps on Linux.
func TestStores(t *testing.T) {
	dir := t.TempDir()
	for _, cache := range []string{
		"FILE:" + filepath.Join(dir, "ccache"), "DIR:" + dir, "DIR::" + filepath.Join(dir, "tktother"),
		"KEYRING:sealctx-interop", "KEYRING:session:sealctx-interop", "KEYRING:session:sealctx-interop:second",
		"KEYRING:user:sealctx-interop", fmt.Sprintf("KEYRING:persistent:%d:sealctx-interop", os.Geteuid()),
	} {
		t.Run(cache[:min(len(cache), 24)], func(t *testing.T) { useStore(t, cache, krb5.Config{}, nil) })
	}
}

// TestCredentialServer: a cache that MIT's programs keep at Heimdal's server.
func TestCredentialServer(t *testing.T) {
	kcm, err := filepath.Abs("bin/kcm")
	require.NoError(t, err)
	if _, err := os.Stat(kcm); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and Heimdal's kcm, see needs.sh")
	}
	// The server listens in /run, whatever it is told. In a mount namespace of its
	// own that is a directory of the test's.
	dir, err := os.MkdirTemp("", "kcm")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "sh", "-c", "mount --make-rprivate / && mount --bind "+dir+" /run && exec "+kcm)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out := new(syncBuffer)
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	defer func() { cancel(); _ = cmd.Wait() }()
	socket := filepath.Join(dir, ".heim_org.h5l.kcm-socket")
	require.Eventually(t, func() bool { _, err := os.Stat(socket); return err == nil }, time.Minute, 10*time.Millisecond, "%s", out)

	conf, err := os.ReadFile(filepath.Join(realm.Dir(), "krb5.conf"))
	require.NoError(t, err)
	own := filepath.Join(t.TempDir(), "krb5.conf")
	require.NoError(t, os.WriteFile(own, append(conf, "\n[libdefaults]\n kcm_socket = "+socket+"\n"...), 0o600))
	env := []string{"KRB5_CONFIG=" + own}
	for _, cache := range []string{"KCM:", fmt.Sprintf("KCM:%d", os.Geteuid()), fmt.Sprintf("KCM:%d:other", os.Geteuid())} {
		t.Run(cache, func(t *testing.T) { useStore(t, cache, krb5.Config{KCMSocket: socket}, env) })
	}
}
