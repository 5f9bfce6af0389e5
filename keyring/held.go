package keyring

import "github.com/sealctx/sealctx/memsafe"

// held is an epoch in the memory of this process alone.
type held struct{ secret *memsafe.Secret }

func (held) linked() error { return nil }
func (held) unlink() error { return nil }
func (h held) free() error { h.secret.Wipe(); return nil }

// createHeld makes an epoch whose record lives in the ring's pool. The slots
// are no secret and live in ordinary memory.
func createHeld(r *Ring, f fixed) (*Epoch, error) {
	secret, err := r.pool.Alloc(recordSize)
	if err != nil {
		return nil, err
	}
	e := &Epoch{fixed: f, record: recordAt(secret.Bytes()), ring: r, back: held{secret}}
	if err := e.fill(make([]uint64, f.capacity())); err != nil {
		secret.Wipe()
		return nil, err
	}
	return e, nil
}
