package keyring

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"

	"github.com/sealctx/sealctx/memsafe"
	"golang.org/x/sys/unix"
)

const (
	hashSize  = sha256.Size
	hashBlock = sha256.BlockSize

	// maxInfo bounds label and info together, in bytes; it is what the largest
	// token header needs, with room.
	maxInfo = 448

	// scratchSize is the locked memory that one expansion works in: the padded
	// key, the info and the counter.
	scratchSize = hashBlock + maxInfo + 1
)

// expand returns HKDF-Expand-SHA256(prk, label | info, 32) of RFC 5869 2.3, whose
// first and only block is HMAC(prk, label | info | 0x01). The HMAC of RFC 2104 is
// spelt out over Sum256, whose state lives on the stack: hmac.New would leave pads
// and midstates, each as good as the key, in the heap. scratch is scratchSize bytes
// of locked memory; the key is put at its front, and the rest is left dirty.
func expand(prk, scratch []byte, label string, info []byte) {
	pad(scratch[:hashBlock], prk, &ipad)
	n := hashBlock
	n += copy(scratch[n:], label)
	n += copy(scratch[n:], info)
	scratch[n] = 1
	inner := sha256.Sum256(scratch[:n+1])
	pad(scratch[:hashBlock], prk, &opad)
	copy(scratch[hashBlock:], inner[:])
	outer := sha256.Sum256(scratch[:hashBlock+hashSize])
	copy(scratch, outer[:])
	clear(inner[:])
	clear(outer[:])
}

// pad writes the HMAC key block: the key, zero-filled to a block, XOR the pad.
func pad(block, key []byte, with *[hashBlock]byte) {
	copy(block, with[:])
	subtle.XORBytes(block, key, with[:])
}

// The pads of RFC 2104.
var (
	ipad = [hashBlock]byte(bytes.Repeat([]byte{0x36}, hashBlock))
	opad = [hashBlock]byte(bytes.Repeat([]byte{0x5c}, hashBlock))
)

// A scratchpad is the locked memory that expansions of a ring work in: a few
// buffers, each used by one expansion at a time. An expansion that finds no free
// buffer waits until another has ended: a microsecond, and tens of microseconds
// while the largest token is opened.
type scratchpad struct {
	pool *memsafe.Pool
	bufs []scratchBuf
}

type scratchBuf struct {
	mu sync.Mutex
	*memsafe.Secret
}

// newScratchpad takes one page, and more only for more processors than its
// buffers serve, as far as the limit is generous.
func newScratchpad() (*scratchpad, error) {
	perPage := os.Getpagesize() / scratchSize
	pages := (runtime.GOMAXPROCS(0) + perPage - 1) / perPage
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err == nil {
		share := limit.Cur / scratchShare / uint64(os.Getpagesize())
		pages = int(min(uint64(pages), max(share, 1)))
	}
	pool, err := memsafe.NewPool(pages * os.Getpagesize())
	if err != nil {
		return nil, err
	}
	s := &scratchpad{pool: pool, bufs: make([]scratchBuf, pages*perPage)}
	for i := range s.bufs {
		if s.bufs[i].Secret, err = pool.Alloc(scratchSize); err != nil {
			s.bufs = s.bufs[:i] // rounding took a buffer; those there are suffice
			break
		}
	}
	return s, nil
}

// take returns a free buffer, locked.
func (s *scratchpad) take() *scratchBuf {
	for i := range s.bufs {
		if b := &s.bufs[i]; b.mu.TryLock() {
			return b
		}
	}
	b := &s.bufs[rand.IntN(len(s.bufs))]
	b.mu.Lock()
	return b
}

// work lends f a buffer, and wipes it.
func (s *scratchpad) work(f func(scratch []byte) error) error {
	b := s.take()
	buf := b.Bytes()
	defer func() {
		memsafe.Wipe(buf)
		b.mu.Unlock()
	}()
	return f(buf)
}
