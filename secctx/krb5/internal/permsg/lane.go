package permsg

import (
	"sync"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

// maxIdleLanes is how many lanes a direction keeps between messages. It is enough
// for a few goroutines at once, and bounds the memory of a context at rest: a lane
// has about 1.3 KiB.
const maxIdleLanes = 4

// A lane is what one message needs for itself: an expanded AES key, a digest, and
// a header to authenticate. Messages of one context are worked on at the same
// time, each in its own lane.
type lane struct {
	cipher *etype.Cipher
	head   [headerSize]byte
}

// direction is one half of a session: sending or receiving.
type direction struct {
	mu   sync.Mutex
	idle []*lane
	dir  etype.Direction
	keys keys

	next uint64 // sending: the number of the next message
	win  window // receiving
}

// lane returns an idle lane, or a new one.
func (d *direction) lane(id etype.ID) (*lane, error) {
	d.mu.Lock()
	if n := len(d.idle); n > 0 {
		l := d.idle[n-1]
		d.idle = d.idle[:n-1]
		d.mu.Unlock()
		return l, nil
	}
	d.mu.Unlock()

	l := new(lane)
	var err error
	memsafe.Do(func() { l.cipher, err = etype.NewCipher(id, d.keys.ke, d.dir) })
	if err != nil {
		return nil, fatal(codeFailure, err)
	}
	return l, nil
}

// done gives a lane back.
func (d *direction) done(l *lane) {
	d.mu.Lock()
	if len(d.idle) < maxIdleLanes {
		d.idle = append(d.idle, l)
		l = nil
	}
	d.mu.Unlock()
	if l != nil {
		l.cipher.Wipe()
	}
}

// take returns the number of the message to be sent. Nothing may fail after it: a
// number that is taken must be sent.
func (d *direction) take() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.next
	d.next++
	return n
}

// accept records the number of a genuine message.
func (d *direction) accept(seq uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return info(d.win.accept(seq))
}

// wipe clears the idle lanes. No message may be under way.
func (d *direction) wipe() {
	for _, l := range d.idle {
		l.cipher.Wipe()
	}
	d.idle, d.keys = nil, keys{}
}
