package krb5

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
	"github.com/sealctx/sealctx/secctx/krb5/internal/keytab"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

// encodeWith returns a keytab and a cache of one name, with keys of one byte
// value: all of the same length.
func encodeWith(t *testing.T, fill byte) (table, cache []byte) {
	t.Helper()
	key := kmsg.Key{EType: 18, Value: make([]byte, 32)}
	for i := range key.Value {
		key.Value[i] = fill
	}
	who := kmsg.Principal{Realm: "EXAMPLE.TEST", Parts: []string{"alice"}}
	table, err := keytab.MarshalTo(make([]byte, 512), []keytab.Entry{{Principal: who, KVNO: 1, Key: key}})
	require.NoError(t, err)
	c := ccache.Cache{Client: who, Credentials: []ccache.Credential{{Client: who, Server: who, Key: key, EndTime: time.Now().Add(time.Hour)}}}
	cache, err = c.MarshalTo(make([]byte, c.Size()))
	require.NoError(t, err)
	return table, cache
}

// overwrite changes a file in place.
func overwrite(t *testing.T, path string, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.Write(b)
	require.NoError(t, err)
}

// changedTwice changes a file again after it was read, and lets the vault believe
// that this was within one tick of the file system's clock: that the file looks
// to it as it did when it was read. It returns the key that the vault then uses.
func changedTwice[T any](t *testing.T, kind fileKind[T], contents [3][]byte, age time.Duration, key func(T) byte) byte {
	t.Helper()
	a, err := newArena()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, contents[0], 0o600))
	v, err := openVault(a, fileAt[T](path, nil), kind)
	require.NoError(t, err)
	overwrite(t, path, contents[1])
	require.NoError(t, v.use(func(value T) error { require.Equal(t, byte(1), key(value)); return nil }))
	overwrite(t, path, contents[2])
	st, err := os.Stat(path)
	require.NoError(t, err)
	v.id = identify(st)
	v.young = v.id.youngAt(time.Unix(v.id.changedSec, v.id.changedNsec).Add(age))
	var got byte
	require.NoError(t, v.use(func(value T) error { got = key(value); return nil }))
	return got
}

// TestTwoChangesInATick: a file that changed a moment ago is read at each use,
// since its next change may not show. The control is the same file when its
// change is old enough to show the next one.
func TestTwoChangesInATick(t *testing.T) {
	var tables, caches [3][]byte
	for i := range 3 {
		tables[i], caches[i] = encodeWith(t, byte(i))
	}
	ofTable := func(e []keytab.Entry) byte { return e[0].Key.Value[7] }
	ofCache := func(c *ccache.Cache) byte { return c.Credentials[0].Key.Value[7] }
	require.Equal(t, byte(2), changedTwice(t, keytabs, tables, 0, ofTable))
	require.Equal(t, byte(1), changedTwice(t, keytabs, tables, settled, ofTable), "the control")
	require.Equal(t, byte(2), changedTwice(t, ccaches, caches, 0, ofCache))
	require.Equal(t, byte(1), changedTwice(t, ccaches, caches, settled, ofCache), "the control")
	require.Equal(t, byte(2), changedTwice(t, ccaches, caches, -time.Hour, ofCache), "the file is from the future")
}

// TestYoungFileSettles: a file is no longer read at each use once its change is
// old enough.
func TestYoungFileSettles(t *testing.T) {
	table, _ := encodeWith(t, 1)
	a, err := newArena()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, table, 0o600))
	v, err := openVault(a, fileAt[[]keytab.Entry](path, nil), keytabs)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		require.NoError(t, v.refresh())
		return !v.young
	}, time.Minute, 100*time.Millisecond)
}

// TestVaultKeys: a vault's keys are in locked memory, and are gone from it when
// they are replaced and when the vault ends.
func TestVaultKeys(t *testing.T) {
	a, err := newArena()
	require.NoError(t, err)
	inUse := func() (n int) {
		for _, p := range a.list() {
			n += p.InUse()
		}
		return n
	}
	table, cache := encodeWith(t, 1)
	path := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(path, cache, 0o600))
	v, err := openVault(a, fileAt[*ccache.Cache](path, nil), ccaches)
	require.NoError(t, err)
	require.Equal(t, firstPiece, inUse())
	require.NoError(t, v.use(func(c *ccache.Cache) error {
		require.Equal(t, &v.held.keys.all[0].Bytes()[0], &c.Credentials[0].Key.Value[0])
		return nil
	}))
	for range 3 {
		require.NoError(t, v.refresh())
	}
	require.Equal(t, firstPiece, inUse())
	overwrite(t, path, table)
	require.ErrorIs(t, v.use(func(*ccache.Cache) error { return nil }), ccache.ErrMalformed)
	require.Equal(t, firstPiece, inUse())
	v.wipe()
	require.Zero(t, inUse())
	require.NoError(t, v.refresh())
	require.Zero(t, inUse())
}

// TestKeySpace: many keys take few pieces, and none overlaps another.
func TestKeySpace(t *testing.T) {
	a, err := newArena()
	require.NoError(t, err)
	var k keySpace
	alloc := k.from(a)
	var all [][]byte
	for i := range 2000 {
		b, err := alloc(i%64 + 1)
		require.NoError(t, err)
		require.Len(t, b, i%64+1)
		require.Equal(t, make([]byte, len(b)), b[:cap(b)])
		for j := range b {
			b[j] = byte(i)
		}
		all = append(all, b)
	}
	for i, b := range all {
		for _, v := range b {
			require.Equal(t, byte(i), v)
		}
	}
	require.Less(t, len(k.all), 20)
	k.wipe()
	require.Zero(t, a.list()[0].InUse())
}
