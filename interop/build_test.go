package interop

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// maker is a C library, or sealctx's own mechanism.
type maker string

const (
	mit     maker = "mit"
	heimdal maker = "heimdal"
	golang  maker = "go"
)

// libraries are the makers that have a peer in C; makers are all.
var (
	libraries = []maker{mit, heimdal}
	makers    = []maker{mit, heimdal, golang}
)

// module is the name of the library's pkg-config module.
func (m maker) module() string {
	if m == heimdal {
		return "heimdal-gssapi"
	}
	return "mit-krb5-gssapi"
}

// need skips the test where the library's headers are not installed. run.sh
// takes such a skip for a failure.
func (m maker) need(t *testing.T) {
	t.Helper()
	if m != golang && exec.Command("pkg-config", "--exists", m.module()).Run() != nil {
		t.Skipf("pkg-config does not know %s (Debian: libkrb5-dev, heimdal-multidev)", m.module())
	}
}

// builds remembers what has been built, by output name.
var builds sync.Map

// build makes a program once and answers its path.
func build(t *testing.T, name string, f func(out string) *exec.Cmd) string {
	t.Helper()
	once, _ := builds.LoadOrStore(name, sync.OnceValues(func() (string, error) {
		out := filepath.Join(buildDir, name)
		text, err := f(out).CombinedOutput()
		return string(text), err
	}))
	text, err := once.(func() (string, error))()
	require.NoError(t, err, "building %s: %s", name, text)
	return filepath.Join(buildDir, name)
}

// buildCPeer compiles the C peer over the library.
func buildCPeer(t *testing.T, m maker) string {
	m.need(t)
	return build(t, "cpeer-"+string(m), func(out string) *exec.Cmd {
		flags := "-std=c11 -D_GNU_SOURCE -O2 -Wall -Wextra -Werror"
		if m == heimdal {
			flags += " -DHEIMDAL"
		}
		return exec.Command("sh", "-c",
			"exec cc "+flags+" -o "+out+" cpeer/*.c $(pkg-config --cflags --libs "+m.module()+")")
	})
}

// tags are the build tags of a node; MIT's needs none.
var tags = map[maker]string{heimdal: "heimdal", golang: "nolibrary"}

// buildNode compiles the Go node over the maker's mechanism.
func buildNode(t *testing.T, m maker, flags ...string) string {
	m.need(t)
	name := "node-" + string(m) + strings.Join(flags, "")
	return build(t, name, func(out string) *exec.Cmd {
		args := append([]string{"build", "-o", out}, flags...)
		if tag, ok := tags[m]; ok {
			args = append(args, "-tags", tag)
		}
		cmd := exec.Command("go", append(args, "./node")...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
		switch {
		case m == golang && len(flags) == 0:
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // the race detector needs cgo
		case m == heimdal:
			// The define makes cgo's flags differ between the libraries: the
			// build cache goes by them, and not by what pkg-config answers.
			cmd.Env = append(cmd.Env, "CGO_CFLAGS=-O2 -g -DHEIMDAL", "PKG_CONFIG_PATH="+absolute("heimdal"))
		}
		return cmd
	})
}

// absolute is a path of this module, absolute.
func absolute(path string) string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err) // the tests' own directory is gone
	}
	return filepath.Join(dir, path)
}
