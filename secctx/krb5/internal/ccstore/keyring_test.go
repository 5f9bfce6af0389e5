package ccstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/secctx/krb5/internal/ownfile"
)

// session gives this goroutine's thread a session ring of its own.
func session(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if _, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0); err != nil {
		t.Skip("key rings are not to be had here: " + err.Error())
	}
}

func addKey(t *testing.T, kind, name string, payload []byte, ring int) int {
	t.Helper()
	id, err := unix.AddKey(kind, name, payload, ring)
	require.NoError(t, err)
	return id
}

// addCache puts the sample cache into a ring, as MIT's library does.
func addCache(t *testing.T, name, client string, ring int) int {
	t.Helper()
	_, head, credentials := sample(t, client)
	cache := addKey(t, "keyring", name, nil, ring)
	addKey(t, "user", clientKey, head, cache)
	addKey(t, "user", offsetKey, binary.BigEndian.AppendUint64(nil, (0xffffffff-89)<<32), cache) // -90 s
	for i, c := range credentials {
		addKey(t, "user", fmt.Sprint(i), c, cache)
	}
	return cache
}

func primaryIs(t *testing.T, name string, collection int) {
	t.Helper()
	b := binary.BigEndian.AppendUint64(nil, primaryVersion<<32|uint64(len(name)))
	addKey(t, "user", primaryKey, append(b, name...), collection)
}

// TestKeyring: the named cache of a collection is read, or its primary one, by
// every way to name it.
func TestKeyring(t *testing.T) {
	session(t)
	collection := addKey(t, "keyring", "_krb_x", nil, unix.KEY_SPEC_SESSION_KEYRING)
	addCache(t, "x", "alice", collection)
	addCache(t, "second", "bob", collection)
	for _, primary := range []string{"", "second", "x"} {
		if primary != "" {
			primaryIs(t, primary, collection)
		}
		for name, client := range map[string]string{
			"KEYRING:x": "alice", "KEYRING:session:x": "alice", "KEYRING:legacy:x": "alice",
			"KEYRING:session:x:x": "alice", "KEYRING:session:x:second": "bob",
		} {
			if primary == "second" {
				client = "bob"
			}
			if name == "KEYRING:session:x:x" {
				client = "alice"
			}
			if name == "KEYRING:session:x:second" {
				client = "bob"
			}
			want, _, _ := sample(t, client)
			got, err := read(t, name, Options{})
			require.NoError(t, err, name)
			require.Equal(t, want.Client, got.Client)
			require.Equal(t, want.Offset, got.Offset)
			require.ElementsMatch(t, want.Credentials, got.Credentials)
		}
	}
	for _, name := range []string{"KEYRING:y", "KEYRING:session:x:none", "KEYRING:user:sealctx-test-none"} {
		_, err := read(t, name, Options{})
		require.ErrorIs(t, err, fs.ErrNotExist, name)
	}
	for _, name := range []string{"KEYRING:thread:x", "KEYRING:process:x", "KEYRING:what:x", "KEYRING:persistent:x"} {
		_, err := read(t, name, Options{})
		require.ErrorIs(t, err, ErrKind, name)
	}
	primaryIs(t, "none", collection)
	_, err := read(t, "KEYRING:x", Options{})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// TestUserKeyring: a ring of the user's is read, though its keys let only a
// holder read them; and nothing of it stays with the thread.
func TestUserKeyring(t *testing.T) {
	session(t)
	name := fmt.Sprint("sealctx-test-", os.Getpid())
	collection := addKey(t, "keyring", "_krb_"+name, nil, unix.KEY_SPEC_SESSION_KEYRING)
	addCache(t, name, "alice", collection)
	_, err := unix.KeyctlInt(unix.KEYCTL_LINK, collection, unix.KEY_SPEC_USER_KEYRING, 0, 0)
	require.NoError(t, err)
	defer unix.KeyctlInt(unix.KEYCTL_UNLINK, collection, unix.KEY_SPEC_USER_KEYRING, 0, 0)
	_, err = unix.KeyctlInt(unix.KEYCTL_UNLINK, collection, unix.KEY_SPEC_SESSION_KEYRING, 0, 0)
	require.NoError(t, err)
	for range 2 {
		want, _, _ := sample(t, "alice")
		got, err := read(t, "KEYRING:user:"+name, Options{})
		require.NoError(t, err)
		require.ElementsMatch(t, want.Credentials, got.Credentials)
	}
	if ring, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_THREAD_KEYRING, false); err == nil {
		n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, ring, nil, 0)
		require.NoError(t, err)
		require.Zero(t, n, "links that stay")
	}
}

// TestKeyringDamage: keys that hold something else are passed over, and a ring
// without a client's name is no cache.
func TestKeyringDamage(t *testing.T) {
	session(t)
	collection := addKey(t, "keyring", "_krb_x", nil, unix.KEY_SPEC_SESSION_KEYRING)
	cache := addCache(t, "x", "alice", collection)
	addKey(t, "user", "odd", []byte("neither"), cache)
	addKey(t, "keyring", "a ring", nil, cache)
	got, err := read(t, "KEYRING:x", Options{})
	require.NoError(t, err)
	require.Len(t, got.Credentials, 2)

	for _, bad := range [][]byte{[]byte("x"), binary.BigEndian.AppendUint64(nil, 2<<32), binary.BigEndian.AppendUint64(nil, 1<<32|9)} {
		addKey(t, "user", primaryKey, bad, collection)
		_, err = read(t, "KEYRING:x", Options{})
		require.ErrorContains(t, err, "malformed")
	}
	primaryIs(t, "x", collection)
	addKey(t, "user", clientKey, []byte("x"), cache)
	_, err = read(t, "KEYRING:x", Options{})
	require.Error(t, err)
	addKey(t, "keyring", "empty", nil, collection)
	_, err = read(t, "KEYRING:session:x:empty", Options{})
	require.ErrorIs(t, err, fs.ErrNotExist)

	id, err := unix.KeyctlSearch(collection, "keyring", "x", 0)
	require.NoError(t, err)
	_, err = unix.KeyctlInt(unix.KEYCTL_REVOKE, id, 0, 0, 0)
	require.NoError(t, err)
	_, err = read(t, "KEYRING:x", Options{})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// TestKeyringOfAnother: no key or ring counts that another user owns or can
// write, be it the session's own ring.
func TestKeyringOfAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("gives keys to another user, which takes root")
	}
	const everybodyWrites = 0x3f3f0004
	type change func(id int) error
	chown := func(id int) error {
		_, err := unix.KeyctlInt(unix.KEYCTL_CHOWN, id, stranger, -1, 0)
		return err
	}
	chmod := func(id int) error { return unix.KeyctlSetperm(id, everybodyWrites) }
	for what := range 4 {
		for how, c := range map[string]change{"owned": chown, "written": chmod} {
			t.Run(fmt.Sprint(what, how), func(t *testing.T) {
				session(t)
				collection := addKey(t, "keyring", "_krb_x", nil, unix.KEY_SPEC_SESSION_KEYRING)
				cache := addCache(t, "x", "alice", collection)
				key, err := unix.KeyctlSearch(cache, "user", "0", 0)
				require.NoError(t, err)
				ring, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false)
				require.NoError(t, err)
				_, err = read(t, "KEYRING:x", Options{})
				require.NoError(t, err, "the control")
				require.NoError(t, c([]int{ring, collection, cache, key}[what]))
				_, err = read(t, "KEYRING:x", Options{})
				require.ErrorIs(t, err, ownfile.ErrUntrusted)
				if how == "owned" {
					_, err = read(t, "KEYRING:x", Options{Owner: stranger})
					require.NoError(t, err)
				}
			})
		}
	}
}

// TestScratchFails: where there is no memory for what is on the way, that is the
// error.
func TestScratchFails(t *testing.T) {
	session(t)
	collection := addKey(t, "keyring", "_krb_x", nil, unix.KEY_SPEC_SESSION_KEYRING)
	addCache(t, "x", "alice", collection)
	full := errors.New("full")
	s, err := New("KEYRING:x", Options{})
	require.NoError(t, err)
	_, err = s.Read(Memory{Scratch: func(int) ([]byte, func(), error) { return nil, nil, full }})
	require.ErrorIs(t, err, full)
}
