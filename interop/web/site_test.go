package web

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long a program may take, on a machine under load.
const patience = 3 * time.Minute

// output is what a process writes while a test reads it.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// command is a program in the realm.
func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), realm.Env()...)
	return cmd
}

// run runs a program in the realm and returns what it printed.
func run(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		require.NoError(t, err, "%s", out.String())
	case <-time.After(patience):
		_ = cmd.Process.Kill()
		require.Fail(t, "no end of "+cmd.Path, "%s", out.String())
	}
	return out.String()
}

// certificate is a certificate of localhost and its key, in files.
func certificate(t *testing.T) (cert, key string, leaf *x509.Certificate) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	require.NoError(t, err)
	leaf, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(t, err)
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	return cert, key, leaf
}

// site is examples/negotiate, running in the realm.
type site struct {
	port string
	log  *output
}

var listening = regexp.MustCompile(`listening at .*:([0-9]+)\n`)

// startSite runs the example until the test ends.
func startSite(t *testing.T, args ...string) *site {
	t.Helper()
	path := build(t, "negotiate", func(out string) *exec.Cmd {
		cmd := exec.Command("go", "build", "-o", out, "./examples/negotiate")
		cmd.Dir = "../.."
		return cmd
	})
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-web-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{log: new(output)}
	cmd := command(path, append([]string{"-listen", "localhost:0", "-service", "HTTP@localhost"}, args...)...)
	cmd.Env = append(cmd.Env, "SEALCTX_DIR="+dir, "KRB5RCACHEDIR="+filepath.Join(t.TempDir(), "replay"))
	cmd.Stderr = s.log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(s.log.String())
		}
	})
	require.Eventually(t, func() bool {
		m := listening.FindStringSubmatch(s.log.String())
		if m != nil {
			s.port = m[1]
		}
		return m != nil
	}, patience, 5*time.Millisecond, "%s", s.log)
	return s
}

// freePort asks the kernel for a port that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0")
	require.NoError(t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)
	return port
}
