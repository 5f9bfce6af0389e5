package ownfile

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// stranger is a user that is neither root nor runs the tests.
const stranger = 64991

func file(t *testing.T, name string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte("content"), 0o600))
	require.NoError(t, os.Chmod(path, mode))
	return path
}

// requireOpen requires that the file's content is read.
func requireOpen(t *testing.T, path string, owners ...int) {
	t.Helper()
	f, st, err := Open(path, owners...)
	require.NoError(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, "content", string(b))
	require.Equal(t, int64(len(b)), st.Size())
}

func TestModes(t *testing.T) {
	for mode, good := range map[os.FileMode]bool{
		0o600: true, 0o400: true, 0o640: true, 0o644: true, 0o755: true,
		0o620: false, 0o602: false, 0o660: false, 0o606: false, 0o664: false, 0o666: false, 0o622: false,
	} {
		path := file(t, "f", mode)
		if good {
			requireOpen(t, path)
			continue
		}
		_, _, err := Open(path, os.Geteuid())
		require.ErrorIs(t, err, ErrUntrusted, "%04o", mode)
		for _, word := range []string{path, fmt.Sprintf("user %d", os.Geteuid()), fmt.Sprintf("%04o", mode), "chmod go-w"} {
			require.ErrorContains(t, err, word)
		}
	}
}

func TestKinds(t *testing.T) {
	dir := t.TempDir()
	_, _, err := Open(dir)
	require.ErrorIs(t, err, ErrKind)
	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	_, _, err = Open(pipe)
	require.ErrorIs(t, err, ErrKind)
	_, _, err = Open(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, _, err = Open("/dev/null")
	require.ErrorIs(t, err, ErrKind)
}

func TestLinks(t *testing.T) {
	target := file(t, "target", 0o600)
	dir := t.TempDir()
	link := func(name, to string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.Symlink(to, path))
		return path
	}
	requireOpen(t, link("absolute", target))
	requireOpen(t, link("chain", "absolute"))

	// The way secrets are mounted into containers: links beside the link.
	require.NoError(t, os.Mkdir(filepath.Join(dir, "..v1"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "..v1", "keytab"), []byte("content"), 0o644))
	link("..data", "..v1")
	requireOpen(t, link("keytab", "..data/keytab"))

	// A step back is one from where a link led, not from where it stands.
	deep := filepath.Join(t.TempDir(), "a", "b")
	require.NoError(t, os.MkdirAll(deep, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(deep), "f"), []byte("content"), 0o600))
	link("through", deep)
	requireOpen(t, link("back", "through/../f"))

	link("loop1", "loop2")
	_, _, err := Open(link("loop2", "loop1"))
	require.ErrorIs(t, err, syscall.ELOOP)
	_, _, err = Open(link("broken", "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.Chmod(target, 0o606))
	_, _, err = Open(filepath.Join(dir, "chain"))
	require.ErrorIs(t, err, ErrUntrusted, "what the link leads to decides")
}

// TestDescriptor: a path that names an open descriptor leads to what is open.
func TestDescriptor(t *testing.T) {
	path := file(t, "f", 0o600)
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, os.Remove(path))
	requireOpen(t, fmt.Sprintf("/dev/fd/%d", f.Fd()))
	requireOpen(t, fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	require.NoError(t, f.Chmod(0o666))
	_, _, err = Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	require.ErrorIs(t, err, ErrUntrusted)
}

// TestStranger: a file or link of another user counts only if that user was
// named, and never while others can write it. The directory's owner is of no
// account.
func TestStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("gives files to another user, which takes root")
	}
	path := file(t, "f", 0o644)
	requireOpen(t, path) // the control
	require.NoError(t, os.Chown(path, stranger, stranger))
	_, _, err := Open(path)
	require.ErrorIs(t, err, ErrUntrusted)
	for _, word := range []string{path, fmt.Sprint("user ", stranger), "0644", "root", "chown"} {
		require.ErrorContains(t, err, word)
	}
	_, _, err = Open(path, stranger+1)
	require.ErrorIs(t, err, ErrUntrusted)
	require.ErrorContains(t, err, fmt.Sprint("user ", stranger+1))
	requireOpen(t, path, stranger+1, stranger)
	require.NoError(t, os.Chmod(path, 0o664))
	_, _, err = Open(path, stranger)
	require.ErrorIs(t, err, ErrUntrusted)

	open := t.TempDir()
	require.NoError(t, os.Chmod(open, 0o1777))
	require.NoError(t, os.Chown(open, stranger, stranger))
	mine := filepath.Join(open, "krb5cc_0")
	require.NoError(t, os.WriteFile(mine, []byte("content"), 0o600))
	requireOpen(t, mine)

	link := filepath.Join(open, "link")
	require.NoError(t, os.Symlink(mine, link))
	requireOpen(t, link) // the control
	require.NoError(t, os.Lchown(link, stranger, stranger))
	_, _, err = Open(link)
	require.ErrorIs(t, err, ErrUntrusted)
	require.True(t, strings.Contains(err.Error(), "symbolic link "+link), err)
	requireOpen(t, link, stranger)
}
