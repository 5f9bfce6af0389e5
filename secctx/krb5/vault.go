package krb5

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ccstore"
	"github.com/sealctx/sealctx/secctx/krb5/internal/keytab"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ownfile"
	"github.com/sealctx/sealctx/secctx/krb5/internal/stream"
)

// A vault is a keytab or credential cache whose keys lie in locked memory: a
// file, read again whenever it changed, something else that is read at each use,
// or bytes that the program brought. The keys in T alias the locked memory, so T
// is used only inside use.
type vault[T any] struct {
	arena *arena
	from  origin[T]
	kind  fileKind[T]

	held *heldKeys

	mu     sync.RWMutex
	closed bool
	id     fileID
	young  bool // the file may have changed since without another fileID
	value  T
}

// An origin says where a vault's content comes from. The zero value: it is held,
// and does not change.
type origin[T any] struct {
	path   func() (string, error)               // of a file
	owners []int                                // users whose file counts, beside root and the effective user
	fetch  func(allocator) (value T, err error) // of what is not a file
}

// fileAt is a file.
func fileAt[T any](path string, owners []int) origin[T] {
	return origin[T]{path: func() (string, error) { return path, nil }, owners: owners}
}

// cacheOf is the credential cache of a name.
func (a *arena) cacheOf(s *ccstore.Store, owners []int) origin[*ccache.Cache] {
	if s.IsFile() {
		return origin[*ccache.Cache]{path: s.Path, owners: owners}
	}
	return origin[*ccache.Cache]{fetch: func(alloc allocator) (*ccache.Cache, error) {
		return s.Read(ccstore.Memory{Key: alloc, Scratch: a.scratch})
	}}
}

// scratch returns memory for what is only passing through.
func (a *arena) scratch(n int) ([]byte, func(), error) {
	s, err := a.alloc(n)
	if err != nil {
		return nil, nil, err
	}
	return s.Bytes(), s.Wipe, nil
}

// A fileKind is what a vault needs to know of a file format.
type fileKind[T any] struct {
	limit int64 // bytes
	read  func(*stream.Reader, allocator) (T, error)
	clone func(T, allocator) (T, error)
}

// An allocator returns memory for a key.
type allocator = func(n int) ([]byte, error)

var (
	keytabs = fileKind[[]keytab.Entry]{keytab.MaxSize, keytab.Read, keytab.Clone}
	ccaches = fileKind[*ccache.Cache]{ccache.MaxSize, ccache.Read, (*ccache.Cache).Clone}
)

// heldKeys is apart from the vault, so that a cleanup of the vault can hold it.
type heldKeys struct {
	mu   sync.Mutex
	keys keySpace
}

func (h *heldKeys) replace(k keySpace) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keys.wipe()
	h.keys = k
}

// A keySpace is the locked memory of one file's keys.
type keySpace struct {
	all  []*memsafe.Secret
	free []byte // of the last one
}

// Sizes in bytes of the pieces of a keySpace: small, since most files hold a few
// keys, and twice as large each time.
const (
	firstPiece   = 256
	largestPiece = 8 << 10
)

func (k *keySpace) from(a *arena) allocator {
	return func(n int) ([]byte, error) {
		if n > len(k.free) {
			s, err := a.alloc(max(n, min(firstPiece<<min(len(k.all), 16), largestPiece)))
			if err != nil {
				return nil, err
			}
			k.all, k.free = append(k.all, s), s.Bytes()
		}
		b := k.free[:n:n]
		k.free = k.free[n:]
		return b, nil
	}
}

func (k *keySpace) wipe() {
	for _, s := range k.all {
		s.Wipe()
	}
	k.all, k.free = nil, nil
}

// fileID tells one content of a file from the next.
type fileID struct {
	dev, ino    uint64
	size        int64
	mtime       time.Time
	changedSec  int64
	changedNsec int64
}

func identify(st os.FileInfo) fileID {
	id := fileID{size: st.Size(), mtime: st.ModTime()}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		id.dev, id.ino = uint64(sys.Dev), sys.Ino
		id.changedSec, id.changedNsec = int64(sys.Ctim.Sec), int64(sys.Ctim.Nsec)
	}
	return id
}

// settled is how old a file's last change must be for its fileID to tell the
// next change. Within one tick of the file system's clock two changes give one
// fileID. Ticks are up to two seconds long (FAT).
const settled = 3 * time.Second

// youngAt reports whether a file that was read at now may have changed since
// without another fileID.
func (id *fileID) youngAt(now time.Time) bool {
	return now.Sub(time.Unix(id.changedSec, id.changedNsec)) < settled
}

func newVault[T any](a *arena, kind fileKind[T]) *vault[T] {
	v := &vault[T]{arena: a, kind: kind, held: new(heldKeys)}
	runtime.AddCleanup(v, func(h *heldKeys) { h.replace(keySpace{}) }, v.held)
	return v
}

// openVault reads an origin for the first time.
func openVault[T any](a *arena, from origin[T], kind fileKind[T]) (*vault[T], error) {
	v := newVault(a, kind)
	v.from = from
	return v, v.refresh()
}

// holdVault takes a copy of what b holds.
func holdVault[T any](a *arena, b []byte, kind fileKind[T]) (*vault[T], error) {
	if len(b) == 0 || int64(len(b)) > kind.limit {
		return nil, failf(gssapi.ErrDefectiveCredential, "%d bytes; between 1 and %d are taken", len(b), kind.limit)
	}
	v := newVault(a, kind)
	return v, v.fill(fileID{}, false, func(alloc allocator) (T, error) { return v.read(bytes.NewReader(b), int64(len(b)), alloc) })
}

// copyVault makes another vault with the same content.
func copyVault[T any](v *vault[T]) (*vault[T], error) {
	if v.from.path != nil || v.from.fetch != nil {
		d, err := openVault(v.arena, v.from, v.kind)
		if err != nil {
			return nil, storeError(err)
		}
		return d, nil
	}
	d := newVault(v.arena, v.kind)
	return d, v.use(func(value T) error {
		return d.fill(fileID{}, false, func(alloc allocator) (T, error) { return v.kind.clone(value, alloc) })
	})
}

// fill puts new content in place of what the vault held. On an error the vault
// is as it was.
func (v *vault[T]) fill(id fileID, young bool, content func(allocator) (T, error)) error {
	var keys keySpace
	value, err := content(keys.from(v.arena))
	if err != nil {
		keys.wipe()
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		keys.wipe()
		return nil
	}
	v.value, v.id, v.young = value, id, young
	v.held.replace(keys)
	return nil
}

// use calls f with the present content. What f is given must not outlive it.
func (v *vault[T]) use(f func(T) error) error {
	if err := v.refresh(); err != nil {
		return storeError(err)
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.closed {
		return fail(gssapi.ErrNoCred, ErrReleased)
	}
	return f(v.value)
}

// refresh reads the origin, a file only if it is not the one that was read
// before.
func (v *vault[T]) refresh() error {
	if v.from.fetch != nil {
		return v.fill(fileID{}, false, v.from.fetch)
	}
	if v.from.path == nil {
		return nil
	}
	path, err := v.from.path()
	if err != nil {
		return err
	}
	f, st, err := ownfile.Open(path, v.from.owners...)
	if err != nil {
		return err
	}
	defer f.Close()
	id, now := identify(st), time.Now()
	v.mu.RLock()
	same, closed := id == v.id && !v.young, v.closed
	v.mu.RUnlock()
	if same || closed {
		return nil
	}
	if id.size <= 0 || id.size > v.kind.limit {
		return fmt.Errorf("%s: %d bytes; between 1 and %d are read", path, id.size, v.kind.limit)
	}
	err = v.fill(id, id.youngAt(now), func(alloc allocator) (T, error) { return v.read(f, id.size, alloc) })
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// readBuffer is the size in bytes of the locked buffer that files pass through.
const readBuffer = 4 << 10

// read reads a file's content through locked memory.
func (v *vault[T]) read(src io.Reader, size int64, alloc allocator) (value T, err error) {
	buf, err := v.arena.alloc(readBuffer)
	if err != nil {
		return value, err
	}
	defer buf.Wipe()
	return v.kind.read(stream.NewReader(src, size, buf.Bytes()), alloc)
}

// wipe ends the vault.
func (v *vault[T]) wipe() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	var none T
	v.value = none
	v.held.replace(keySpace{})
}
