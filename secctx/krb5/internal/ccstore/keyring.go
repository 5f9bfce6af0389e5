package ccstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ownfile"
	"github.com/sealctx/sealctx/secctx/krb5/internal/stream"
)

// The layout is MIT's. An anchor is a key ring of the kernel's: the user's, the
// session's, or the one that the kernel keeps for a user between logins. A
// collection is a ring "_krb_" COLLECTION in the anchor, and in the persistent
// ring "_krb". It holds rings, which are caches, and a key "krb_ccache:primary"
// that names one of them. A cache's ring holds keys: the client's name, perhaps
// the clock offset, and the credentials, all as in a cache file.
const (
	collectionPrefix     = "_krb_"
	persistentCollection = "_krb"
	primaryKey           = "krb_ccache:primary" // version u32, length u32, name
	clientKey            = "__krb5_princ__"
	offsetKey            = "__krb5_time_offsets__" // seconds int32, microseconds int32
	primaryVersion       = 1
)

const (
	maxKey     = 1 << 20 // bytes of one key; the kernel's own limit for big_key
	maxKeys    = 10_000  // keys in one ring
	defaultSub = "tkt"   // the primary cache of a collection without a name
)

// writableByOthers are the bits of a key's permissions that let its group and
// others write it or set its attributes.
const writableByOthers = 0x00002424

// readKeyring reads a cache from the kernel's key rings.
func readKeyring(rest string, o Options, m Memory) (*ccache.Cache, error) {
	anchor, collection, sub := splitKeyring(rest)
	// Rings of a user do not let their processes read what is in them, but rings of
	// a thread do: the collection is linked to this thread's for so long.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r := &rings{Options: o, Memory: m}
	defer r.unlink()
	ring, err := r.collection(anchor, collection)
	if err != nil {
		return nil, err
	}
	if sub == "" {
		if sub, err = r.primary(ring, collection); err != nil {
			return nil, err
		}
	}
	cache, err := r.find(ring, "keyring", sub)
	if err != nil {
		return nil, err
	}
	return r.cache(cache)
}

// splitKeyring takes ANCHOR:COLLECTION:NAME apart. The anchor may be left out,
// and the name.
func splitKeyring(rest string) (anchor, collection, sub string) {
	parts := strings.SplitN(rest, ":", 3)
	switch len(parts) {
	case 1:
		return "session", parts[0], ""
	case 2:
		return parts[0], parts[1], ""
	}
	return parts[0], parts[1], parts[2]
}

// rings is one reading of a cache.
type rings struct {
	Options
	Memory
	linked []int // to this thread's ring
}

func (r *rings) unlink() {
	for _, id := range r.linked {
		_, _ = unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING, 0, 0) // it ends with the thread
	}
}

// keyError makes a key that is not there fs.ErrNotExist, as a file would be.
func keyError(what string, err error) error {
	switch {
	case errors.Is(err, unix.ENOKEY), errors.Is(err, unix.EKEYEXPIRED), errors.Is(err, unix.EKEYREVOKED), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%s: %w (%w)", what, fs.ErrNotExist, err)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: %s: key rings are not to be had in this process: %w", ErrKind, what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// collection finds a collection's ring.
func (r *rings) collection(anchor, collection string) (int, error) {
	name := collectionPrefix + collection
	var ring int
	var err error
	switch anchor {
	case "legacy", "session":
		ring = unix.KEY_SPEC_SESSION_KEYRING
	case "user":
		ring = unix.KEY_SPEC_USER_KEYRING
	case "persistent":
		uid := os.Geteuid()
		if collection != "" {
			if uid, err = strconv.Atoi(collection); err != nil {
				return 0, fmt.Errorf("%w: %q is no user id", ErrKind, collection)
			}
		}
		name = persistentCollection
		if ring, err = r.persistent(uid); err != nil {
			return 0, keyError("the persistent key ring", err)
		}
	default:
		// A ring of a process or thread is of one thread in a program whose work
		// wanders over many.
		return 0, fmt.Errorf("%w: key rings of a %q; those of a session, a user, and persistent ones are read", ErrKind, anchor)
	}
	// Whose the ring is in which the collection lies matters too: after su it may be
	// the session of another user, who can change what is in it.
	if _, _, err := r.describe(ring); err != nil {
		return 0, err
	}
	// The search links what it finds: a link by number would take the right that the
	// link is to give.
	id, err := r.search(ring, "keyring", name, unix.KEY_SPEC_THREAD_KEYRING)
	if err == nil {
		r.linked = append(r.linked, id)
	}
	return id, err
}

// persistent returns a user's persistent ring, or where the kernel has none the
// user's own.
func (r *rings) persistent(uid int) (int, error) {
	ring, err := unix.KeyctlInt(unix.KEYCTL_GET_PERSISTENT, uid, unix.KEY_SPEC_THREAD_KEYRING, 0, 0)
	if errors.Is(err, unix.EOPNOTSUPP) && uid == os.Geteuid() {
		return unix.KEY_SPEC_USER_KEYRING, nil
	}
	if err == nil {
		r.linked = append(r.linked, ring)
	}
	return ring, err
}

// find returns a key of a ring by its kind and description.
func (r *rings) find(ring int, kind, name string) (int, error) {
	return r.search(ring, kind, name, 0)
}

// search is find, and links the key to another ring, unless that is 0.
func (r *rings) search(ring int, kind, name string, link int) (int, error) {
	if strings.IndexByte(name, 0) >= 0 || name == "" {
		return 0, fs.ErrNotExist
	}
	id, err := unix.KeyctlSearch(ring, kind, name, link)
	if err != nil {
		return 0, keyError(name, err)
	}
	_, _, err = r.describe(id)
	return id, err
}

// describe returns a key's kind and description, after making sure of its owner.
func (r *rings) describe(id int) (kind, name string, err error) {
	text, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, id)
	if err != nil {
		return "", "", keyError("a key", err)
	}
	f := strings.SplitN(text, ";", 5) // kind;uid;gid;permissions;description
	if len(f) != 5 {
		return "", "", fmt.Errorf("the kernel describes a key as %q", text)
	}
	uid, err := strconv.Atoi(f[1])
	if err != nil {
		return "", "", fmt.Errorf("the kernel describes a key as %q", text)
	}
	perm, err := strconv.ParseUint(f[3], 16, 32)
	if err != nil {
		return "", "", fmt.Errorf("the kernel describes a key as %q", text)
	}
	if uid != 0 && uid != os.Geteuid() && uid != r.Owner || perm&writableByOthers != 0 {
		return "", "", fmt.Errorf("%w: key %q belongs to user %d with permissions %08x, and only keys of root, of user %d or of the allowed owner count, that nobody else can write",
			ownfile.ErrUntrusted, f[4], uid, perm, os.Geteuid())
	}
	return f[0], f[4], nil
}

// read calls f with a key's payload, which lies in memory that is wiped.
func (r *rings) read(id int, f func(payload []byte) error) error {
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, nil, 0)
	for err == nil {
		if n > maxKey {
			return fmt.Errorf("a key of %d bytes; at most %d are read", n, maxKey)
		}
		var b []byte
		var wipe func()
		if b, wipe, err = r.Scratch(max(n, 4)); err != nil {
			return err
		}
		var got int
		if got, err = unix.KeyctlBuffer(unix.KEYCTL_READ, id, b, 0); err == nil && got <= len(b) {
			defer wipe()
			return f(b[:got])
		}
		wipe()
		n = got // it grew
	}
	return keyError("a key", err)
}

// primary returns the name of a collection's primary cache.
func (r *rings) primary(ring int, collection string) (name string, err error) {
	id, err := r.find(ring, "user", primaryKey)
	if errors.Is(err, fs.ErrNotExist) {
		if collection == "" {
			return defaultSub, nil
		}
		return collection, nil
	}
	if err != nil {
		return "", err
	}
	err = r.read(id, func(b []byte) error {
		if len(b) < 8 || binary.BigEndian.Uint32(b) != primaryVersion || uint64(binary.BigEndian.Uint32(b[4:])) > uint64(len(b)-8) {
			return fmt.Errorf("the key %s is malformed", primaryKey)
		}
		name = string(b[8 : 8+binary.BigEndian.Uint32(b[4:])])
		return nil
	})
	return name, err
}

// members returns the keys in a ring.
func (r *rings) members(ring int) (ids []int, err error) {
	err = r.read(ring, func(b []byte) error {
		if len(b) > 4*maxKeys {
			return fmt.Errorf("a key ring of %d keys; at most %d are read", len(b)/4, maxKeys)
		}
		for id := range slices.Chunk(b[:len(b)&^3], 4) {
			ids = append(ids, int(int32(binary.NativeEndian.Uint32(id))))
		}
		return nil
	})
	return ids, err
}

// cache reads the keys of a cache's ring.
func (r *rings) cache(ring int) (*ccache.Cache, error) {
	id, err := r.find(ring, "user", clientKey)
	if err != nil {
		return nil, err
	}
	var c *ccache.Cache
	if err := r.read(id, func(b []byte) (err error) { c, err = ccache.New(b); return err }); err != nil {
		return nil, err
	}
	ids, err := r.members(ring)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		err := r.member(c, id)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ccache.ErrMalformed) {
			continue // removed meanwhile, or something else that lies there
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// member adds what one key holds.
func (r *rings) member(c *ccache.Cache, id int) error {
	kind, name, err := r.describe(id)
	if err != nil || kind == "keyring" || name == clientKey {
		return err
	}
	return r.read(id, func(b []byte) error {
		if name == offsetKey {
			if len(b) >= 8 {
				c.Offset = time.Duration(int32(binary.BigEndian.Uint32(b)))*time.Second +
					time.Duration(int32(binary.BigEndian.Uint32(b[4:])))*time.Microsecond
			}
			return nil
		}
		buf, wipe, err := r.Scratch(stream.MinBuffer)
		if err != nil {
			return err
		}
		defer wipe()
		return c.Add(stream.NewReader(bytes.NewReader(b), int64(len(b)), buf), r.Key)
	})
}
