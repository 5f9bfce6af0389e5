package memsafe

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrLimit means that memory could not be locked, or that a pool has no room
// left. The error that wraps it names the limit and the remedy. It has no GSS
// status of its own; packages above report GSS_S_FAILURE.
var ErrLimit = errors.New("memsafe: no locked memory left")

// ErrClosed is returned by Alloc on a pool that was closed; GSS_S_FAILURE above,
// as for ErrLimit.
var ErrClosed = errors.New("memsafe: pool is closed")

const (
	// granule is the unit of allocation in bytes: one cache line, so that two
	// secrets never share one.
	granule = 64

	// defaultPool is the largest region that NewPool(0) takes, in bytes: room
	// for 16,384 secrets of a granule, an eighth of the usual 8 MiB limit.
	defaultPool = 1 << 20

	// maxPool bounds what a caller can ask for in one region.
	maxPool = 1 << 30
)

// A Pool is one region of locked memory. It is locked whole when it is made
// and never grows, so that running out is an error of Alloc and never a
// surprise at a moment when secrets are already alive. Safe for concurrent use.
type Pool struct {
	_ [0]func() // not comparable

	region region
	mem    span // the region's bytes, for as long as closed is false
	closed atomic.Bool

	mu   sync.Mutex
	used []uint64 // one bit a granule
	next int      // where the next search starts, a granule's index
	live int      // granules in use
}

// NewPool locks a region of at least size bytes, rounded up to whole pages, at
// most 1 GiB. Zero means half of what RLIMIT_MEMLOCK still allows, in whole
// pages, at most 1 MiB and at least one page. It returns an error that wraps
// ErrLimit, at once and with nothing locked, where the limit does not allow the
// region. The caller closes the pool.
func NewPool(size int) (*Pool, error) {
	page := os.Getpagesize()
	switch {
	case size < 0 || size > maxPool:
		return nil, fmt.Errorf("memsafe: pool of %d bytes: the size must be between 0 and %d", size, maxPool)
	case size == 0:
		size = defaultPool
		if free, limited := lockable(); limited {
			size = min(size, max(free/2/page*page, page))
		}
	}
	size = (size + page - 1) / page * page
	r, err := newRegion(size)
	if err != nil {
		return nil, err
	}
	return newPool(r), nil
}

func newPool(r region) *Pool {
	mem := r.bytes()
	n := len(mem) / granule
	p := &Pool{region: r, mem: span{unsafe.Pointer(&mem[0]), len(mem)}, used: make([]uint64, (n+63)/64)}
	for i := n; i < len(p.used)*64; i++ { // granules past the end are taken for ever
		p.used[i/64] |= 1 << (i % 64)
	}
	return p
}

// Room returns how many bytes of a pool a secret of n bytes takes, from Alloc to Wipe,
// whatever Truncate makes of it: whole cache lines of 64 bytes.
func Room(n int) int {
	if n <= 0 {
		return 0
	}
	return ((n-1)/granule + 1) * granule
}

// Alloc cuts a secret of n bytes, one or more, from the pool, zeroed; it takes
// whole cache lines of 64 bytes. The caller owns it and must call [Secret.Wipe].
// It returns an error that wraps ErrLimit when no run of free bytes is long
// enough, and ErrClosed.
func (p *Pool) Alloc(n int) (*Secret, error) {
	if n <= 0 {
		return nil, fmt.Errorf("memsafe: secret of %d bytes: the size must be positive", n)
	}
	need := (n-1)/granule + 1 // no overflow, whatever n is
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Load() {
		return nil, ErrClosed
	}
	at := p.find(p.next, need)
	if at < 0 {
		at = p.find(0, need)
	}
	if at < 0 {
		return nil, fmt.Errorf("%w: %d bytes wanted, %d of the pool's %d in use; make the pool larger, and raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK= in a unit) where that is what bounds it",
			ErrLimit, n, p.live*granule, p.mem.size)
	}
	p.mark(at, need, true)
	p.next = at + need
	return &Secret{pool: p, off: at * granule, n: n, room: need * granule}, nil
}

// find returns the first run of need free granules at or after from, or -1.
func (p *Pool) find(from, need int) int {
	total := len(p.used) * 64
	for i := from; i < total; {
		i += p.run(i, true)
		n := 0
		for n < need && i+n < total {
			free := p.run(i+n, false)
			if free == 0 {
				break
			}
			n += free
		}
		if n >= need {
			return i
		}
		i += n
	}
	return -1
}

// run returns how many granules from i on are used, or free, within the word
// that holds i.
func (p *Pool) run(i int, used bool) int {
	if i/64 >= len(p.used) {
		return 0
	}
	w := p.used[i/64]
	if used {
		w = ^w
	}
	return min(bits.TrailingZeros64(w>>(i%64)), 64-i%64)
}

// mark flips the n granules from at, all used or all free, to the other.
func (p *Pool) mark(at, n int, used bool) {
	if used {
		p.live += n
	} else {
		p.live -= n
	}
	for n > 0 {
		k := min(n, 64-at%64)
		p.used[at/64] ^= (^uint64(0) >> (64 - k)) << (at % 64)
		at += k
		n -= k
	}
}

// InUse returns how many bytes of the pool are taken, in whole cache lines.
func (p *Pool) InUse() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live * granule
}

// Size returns how many bytes the pool has.
func (p *Pool) Size() int { return p.mem.size }

// Backing says what holds the pool: "memfd_secret" or "memguard".
func (p *Pool) Backing() string { return p.region.backing() }

// Close wipes the whole region and gives it back. Every secret of the pool is
// gone with it: Bytes returns nil from now on, and a slice taken earlier
// faults. A second Close does nothing.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Swap(true) {
		return nil
	}
	p.live = 0
	Wipe(p.mem.bytes())
	return p.region.free()
}

// lockable returns how many bytes this process may still lock, and whether
// there is a limit at all. Root and CAP_IPC_LOCK have none.
func lockable() (free int, limited bool) {
	var rl unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &rl); err != nil || rl.Cur == unix.RLIM_INFINITY {
		return 0, false
	}
	if mayLockAll() {
		return 0, false
	}
	st, err := procStatus()
	if err != nil {
		return 0, true
	}
	if uint64(st.locked) >= rl.Cur {
		return 0, true
	}
	return int(min(rl.Cur-uint64(st.locked), maxPool)), true
}
