package krb5

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
)

// A vault is a keytab or credential cache in locked memory: a file, read again
// whenever it changed, or bytes that the program brought. T aliases the locked
// memory, so it is used only inside use.
type vault[T any] struct {
	arena *arena
	path  string // empty: held, not a file
	limit int
	parse func([]byte) (T, error)

	held *heldSecret

	mu     sync.RWMutex
	closed bool
	id     fileID
	value  T
}

// heldSecret is apart from the vault, so that a cleanup of the vault can hold it.
type heldSecret struct {
	mu     sync.Mutex
	secret *memsafe.Secret
}

func (h *heldSecret) replace(s *memsafe.Secret) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.secret.Wipe()
	h.secret = s
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

func newVault[T any](a *arena, limit int, parse func([]byte) (T, error)) *vault[T] {
	v := &vault[T]{arena: a, limit: limit, parse: parse, held: new(heldSecret)}
	runtime.AddCleanup(v, func(h *heldSecret) { h.replace(nil) }, v.held)
	return v
}

// openVault reads a file for the first time.
func openVault[T any](a *arena, path string, limit int, parse func([]byte) (T, error)) (*vault[T], error) {
	v := newVault(a, limit, parse)
	v.path = path
	return v, v.refresh()
}

// holdVault takes a copy of b.
func holdVault[T any](a *arena, b []byte, limit int, parse func([]byte) (T, error)) (*vault[T], error) {
	if len(b) == 0 || len(b) > limit {
		return nil, failf(gssapi.ErrDefectiveCredential, "%d bytes; between 1 and %d are taken", len(b), limit)
	}
	v := newVault(a, limit, parse)
	s, err := a.copy(b)
	if err != nil {
		return nil, err
	}
	return v, v.set(s)
}

// set parses s and puts it in place of what the vault held. On an error s is
// wiped and the vault as it was.
func (v *vault[T]) set(s *memsafe.Secret) error {
	value, err := v.parse(s.Bytes())
	if err != nil {
		s.Wipe()
		return err
	}
	v.value = value
	v.held.replace(s)
	return nil
}

// use calls f with the present content. What f is given must not outlive it.
func (v *vault[T]) use(f func(T) error) error {
	if v.path != "" {
		if err := v.refresh(); err != nil {
			return storeError(err)
		}
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.closed {
		return fail(gssapi.ErrNoCred, ErrReleased)
	}
	return f(v.value)
}

// refresh reads the file if it is not the one that was read before.
func (v *vault[T]) refresh() error {
	// Without waiting: a named pipe without a writer would take for ever.
	f, err := os.OpenFile(v.path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	id := identify(st)
	v.mu.RLock()
	same, closed := id == v.id, v.closed
	v.mu.RUnlock()
	if same || closed {
		return nil
	}
	if !st.Mode().IsRegular() || id.size <= 0 || id.size > int64(v.limit) {
		return fmt.Errorf("%s: not a file of between 1 and %d bytes", v.path, v.limit)
	}
	s, err := v.arena.alloc(int(id.size))
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(f, s.Bytes()); err != nil {
		s.Wipe()
		return fmt.Errorf("%s: %w", v.path, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		s.Wipe()
		return nil
	}
	if err := v.set(s); err != nil {
		return fmt.Errorf("%s: %w", v.path, err)
	}
	v.id = id
	return nil
}

// wipe ends the vault.
func (v *vault[T]) wipe() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	var none T
	v.value = none
	v.held.replace(nil)
}
