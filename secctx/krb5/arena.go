package krb5

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
)

// An arena is a provider's locked memory. It consists of pools, which are added as
// contexts need them. A pool is locked as a whole before the first secret is in
// it.
type arena struct {
	mu    sync.Mutex
	pools *poolList
}

// poolList is a separate object, so that a cleanup of the arena can hold it.
type poolList struct{ all []*memsafe.Pool }

func (l *poolList) close() {
	for _, p := range l.all {
		_ = p.Close()
	}
}

// newArena locks the first pool, so that a process without locked memory fails
// here. Contexts and credentials keep the arena alive. Its pools are closed when
// it is collected.
func newArena() (*arena, error) {
	p, err := lockPool(0, 0)
	if err != nil {
		return nil, err
	}
	a := &arena{pools: &poolList{all: []*memsafe.Pool{p}}}
	runtime.AddCleanup(a, (*poolList).close, a.pools)
	return a, nil
}

// Sizes of pools in bytes. The first is small, since a program may have many
// providers. Each further one is twice as large.
const (
	firstPool   = 16 << 10
	largestPool = 1 << 20
)

// lockPool locks an arena's pool number n, of at least size bytes. If the limit
// allows no more, the pool is smaller than its number says.
func lockPool(n, size int) (*memsafe.Pool, error) {
	p, err := memsafe.NewPool(max(min(firstPool<<min(n, 16), largestPool), size))
	if !errors.Is(err, memsafe.ErrLimit) {
		return p, err
	}
	p, err = memsafe.NewPool(0)
	if err == nil && p.Size() < size {
		_ = p.Close()
		return memsafe.NewPool(size)
	}
	return p, err
}

// try calls f with one pool after the other, the newest first, until one has room.
// Then it calls f with a new pool of at least size bytes.
func (a *arena) try(size int, f func(*memsafe.Pool) error) error {
	seen := 0
	for {
		all := a.list()
		for i := len(all) - 1; i >= seen; i-- {
			if err := f(all[i]); !errors.Is(err, memsafe.ErrLimit) {
				return err
			}
		}
		seen = len(all)
		if err := a.grow(seen, size); err != nil {
			return err
		}
	}
}

func (a *arena) list() []*memsafe.Pool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pools.all
}

// grow adds a pool, unless the list has more than n already.
func (a *arena) grow(n, size int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.pools.all) > n {
		return nil
	}
	p, err := lockPool(n, size)
	if err != nil {
		return err
	}
	a.pools.all = append(a.pools.all[:n:n], p)
	return nil
}

// alloc returns n bytes of locked memory. Its error is GSS_S_FAILURE.
func (a *arena) alloc(n int) (s *memsafe.Secret, err error) {
	err = a.try(n, func(p *memsafe.Pool) error {
		s, err = p.Alloc(n)
		return err
	})
	if err != nil {
		return nil, fail(gssapi.ErrFailure, fmt.Errorf("no room for a secret: %w", err))
	}
	return s, nil
}

// copy returns b in locked memory.
func (a *arena) copy(b []byte) (*memsafe.Secret, error) {
	s, err := a.alloc(len(b))
	if err != nil {
		return nil, err
	}
	memsafe.Do(func() { copy(s.Bytes(), b) })
	return s, nil
}

// marshal encodes a message that holds a key into locked memory of at least
// size bytes. The caller wipes mem.
func (a *arena) marshal(m interface{ MarshalTo([]byte) ([]byte, error) }, size int) (plain []byte, mem *memsafe.Secret, err error) {
	if mem, err = a.alloc(size); err != nil {
		return nil, nil, err
	}
	memsafe.Do(func() { plain, err = m.MarshalTo(mem.Bytes()) })
	if err != nil {
		mem.Wipe()
		return nil, nil, fail(gssapi.ErrFailure, err)
	}
	return plain, mem, nil
}
