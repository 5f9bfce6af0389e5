package ccstore

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ownfile"
)

// stranger is a user that is neither root nor runs the tests.
const stranger = 64991

// memory is ordinary memory, and counts what is on the way and not wiped.
func memory(t testing.TB) Memory {
	open := 0
	t.Cleanup(func() { require.Zero(t, open, "memory on the way was not wiped") })
	return Memory{
		Key: func(n int) ([]byte, error) { return make([]byte, n), nil },
		Scratch: func(n int) ([]byte, func(), error) {
			open++
			return make([]byte, n), func() { open-- }, nil
		},
	}
}

// sample is a cache with two tickets, and its pieces in the format of a file.
func sample(t testing.TB, client string) (c *ccache.Cache, head []byte, credentials [][]byte) {
	who := kmsg.Principal{Type: kmsg.NTPrincipal, Realm: "EXAMPLE.TEST", Parts: []string{client}}
	c = &ccache.Cache{Client: who, Offset: -90 * time.Second}
	encode := func(c *ccache.Cache) []byte {
		b, err := c.MarshalTo(make([]byte, c.Size()))
		require.NoError(t, err)
		return bytes.Clone(b)
	}
	const fixed = 4 // version and the length of a header without fields
	head = encode(&ccache.Cache{Client: who})[fixed:]
	for i, service := range []string{"krbtgt", "http"} {
		cr := ccache.Credential{
			Client: who, Server: kmsg.Principal{Type: kmsg.NTSrvInst, Realm: "EXAMPLE.TEST", Parts: []string{service, "EXAMPLE.TEST"}},
			Key:     kmsg.Key{EType: 18, Value: bytes.Repeat([]byte{byte(i + 1)}, 32)},
			EndTime: time.Unix(1_900_000_000, 0), Ticket: bytes.Repeat([]byte("t"), 700),
		}
		c.Credentials = append(c.Credentials, cr)
		credentials = append(credentials, encode(&ccache.Cache{Client: who, Credentials: []ccache.Credential{cr}})[fixed+len(head):])
	}
	return c, head, credentials
}

func TestNames(t *testing.T) {
	for name, isFile := range map[string]bool{
		"/tmp/krb5cc_0": true, "relative": true, "FILE:/x": true, "WRFILE:/x": true, "/with:colon": true, "DIR:/x": true, "DIR::/x/tkt": true,
		"KCM:": false, "KCM:0": false, "KEYRING:x": false, "KEYRING:persistent:0": false,
	} {
		s, err := New(name, Options{})
		require.NoError(t, err, name)
		require.Equal(t, isFile, s.IsFile(), name)
		require.Equal(t, name, s.String())
	}
	for _, name := range []string{"MEMORY:x", "API:x", "SCC:/x", "file:/x", "FILE:", "DIR:", "KEYRING:", ":x", "KCMX:"} {
		_, err := New(name, Options{})
		require.ErrorIs(t, err, ErrKind, name)
		require.ErrorContains(t, err, "kinit -c FILE:", name)
	}
}

func TestFileNames(t *testing.T) {
	for name, want := range map[string]string{"/x": "/x", "FILE:/x": "/x", "WRFILE:/x": "/x", "x": "x", "FILE:x:y": "x:y", "DIR::/d/tktx": "/d/tktx"} {
		s, err := New(name, Options{})
		require.NoError(t, err)
		path, err := s.Path()
		require.NoError(t, err)
		require.Equal(t, want, path)
	}
}

// TestDirectory: the primary cache is the one that the directory's file names,
// and "tkt" where there is no such file.
func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	s, err := New("DIR:"+dir, Options{})
	require.NoError(t, err)
	path, err := s.Path()
	require.NoError(t, err)
	require.Equal(t, dir+"/tkt", path)

	primary := filepath.Join(dir, "primary")
	write := func(text string) { require.NoError(t, os.WriteFile(primary, []byte(text), 0o600)) }
	write("tktABC\n")
	path, err = s.Path()
	require.NoError(t, err)
	require.Equal(t, dir+"/tktABC", path)
	for _, bad := range []string{"", "tktABC", "x\n", "tkt/../../x\n", "../tkt\n", "tkt\x00\n", "tkt\\x\n", string(bytes.Repeat([]byte("tkt"), 100)) + "\n"} {
		write(bad)
		_, err = s.Path()
		require.Error(t, err, "%q", bad)
	}
	write("tktABC\n")
	require.NoError(t, os.Chmod(primary, 0o666))
	_, err = s.Path()
	require.ErrorIs(t, err, ownfile.ErrUntrusted)
	for _, name := range []string{"DIR::/d/x", "DIR::/d/"} {
		s, err := New(name, Options{})
		require.NoError(t, err)
		_, err = s.Path()
		require.ErrorIs(t, err, ErrKind)
	}
}

// read reads a cache that is not a file.
func read(t testing.TB, name string, o Options) (*ccache.Cache, error) {
	t.Helper()
	s, err := New(name, o)
	require.NoError(t, err)
	c, err := s.Read(memory(t))
	if err != nil {
		require.Nil(t, c)
		require.ErrorContains(t, err, name)
	}
	return c, err
}

func TestNoServer(t *testing.T) {
	_, err := read(t, "KCM:", Options{KCMSocket: filepath.Join(t.TempDir(), "none")})
	require.ErrorIs(t, err, ErrKind)
	require.NotErrorIs(t, err, fs.ErrNotExist, "a client keytab is no cure for it")
	require.ErrorContains(t, err, "sssd-kcm")
	require.Contains(t, fmt.Sprint(kcmError(1)), "1")
}
