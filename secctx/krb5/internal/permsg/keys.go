package permsg

import (
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

// keys are the four keys of one direction: Ke, Ki and Kc of the SEAL usage, and Kc of
// the SIGN usage. They lie in locked memory one after the other. Those of the messages
// that this side sends come first, then the peer's: 128 to 256 bytes in all.
type keys struct{ ke, ki, kcSeal, kcSign []byte }

// keysSize is the size in bytes of the keys of one direction.
func keysSize(id etype.ID) int { return id.KeySize() + 3*id.MACKeySize() }

// cut takes the keys of one direction from the front of mem.
func cut(mem []byte, id etype.ID) keys {
	take := func(n int) []byte {
		b := mem[:n:n]
		mem = mem[n:]
		return b
	}
	mk := id.MACKeySize()
	return keys{ke: take(id.KeySize()), ki: take(mk), kcSeal: take(mk), kcSign: take(mk)}
}

// derive fills the keys of one direction from the context's key. Called inside
// memsafe.Do.
func (k keys) derive(id etype.ID, key []byte, seal, sign uint32) error {
	for _, d := range []struct {
		dst   []byte
		usage uint32
		kind  etype.Kind
	}{
		{k.ke, seal, etype.Ke},
		{k.ki, seal, etype.Ki},
		{k.kcSeal, seal, etype.Kc},
		{k.kcSign, sign, etype.Kc},
	} {
		if err := etype.Derive(d.dst, id, key, d.usage, d.kind); err != nil {
			return err
		}
	}
	return nil
}

// deriveAll fills mem, both directions' keys, from the context's key.
func deriveAll(mem []byte, id etype.ID, key []byte, initiator bool) (err error) {
	out, in := cut(mem, id), cut(mem[keysSize(id):], id)
	if !initiator {
		out, in = in, out
	}
	memsafe.Do(func() {
		if err = out.derive(id, key, usageInitiatorSeal, usageInitiatorSign); err == nil {
			err = in.derive(id, key, usageAcceptorSeal, usageAcceptorSign)
		}
	})
	return err
}
