package web

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/interop/kdc"
)

// user is the realm's one user; the services are at localhost.
const user = "alice"

// The realm of this test binary, and the directory for what the tests build.
var (
	realm    *kdc.Realm
	buildDir string
)

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "sealctx-web-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // Apache's workers have a user of their own
		return 0, err
	}
	buildDir = dir
	if err := os.Mkdir(dir+"/realm", 0o755); err != nil {
		return 0, err
	}
	if realm, err = kdc.Start(dir + "/realm"); err != nil {
		return 0, err
	}
	defer realm.Stop()
	for _, service := range []string{"HTTP/localhost", "nfs/localhost"} {
		if err := realm.AddService(service, kdc.Enctype(18)); err != nil {
			return 0, err
		}
	}
	if err := realm.AddUser(user); err != nil {
		return 0, err
	}
	if err := realm.Login(user); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// builds remembers what has been built, by output name.
var builds sync.Map

// build makes a program once and answers its path.
func build(t *testing.T, name string, f func(out string) *exec.Cmd) string {
	t.Helper()
	once, _ := builds.LoadOrStore(name, sync.OnceValues(func() (string, error) {
		text, err := f(filepath.Join(buildDir, name)).CombinedOutput()
		return string(text), err
	}))
	text, err := once.(func() (string, error))()
	require.NoError(t, err, "building %s: %s", name, text)
	return filepath.Join(buildDir, name)
}

// need skips a test where a program is not installed. run.sh takes such a skip for
// a failure.
func need(t *testing.T, program, pkg string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/usr/local/sbin/"} {
		if path, err := exec.LookPath(dir + program); err == nil {
			return path
		}
	}
	t.Skipf("no %s (Debian: %s)", program, pkg)
	return ""
}
