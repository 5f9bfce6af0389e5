package permsg

import (
	"encoding/binary"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

// The state of a session, big-endian. It has no version of its own: the format
// around it has.
//
//	flags     1  initiator 1, acceptor subkey 2, replay 4, sequence 8
//	enctype   1  17 to 20
//	send      8  number of the next message to send
//	next      8  number expected next from the peer
//	seen      8  bit i: number next-1-i has been seen
//	keys      Ke, Ki, Kc of the SEAL usage, Kc of the SIGN usage, for the
//	          messages to send and then for the peer's
//
// The size follows from the enctype: 154 bytes for 17 and 19, 282 for 18, 234
// for 20.
const stateHead = 1 + 1 + 3*8

// Flags of the state.
const (
	stateInitiator = 1 << iota
	stateAcceptorSubkey
	stateReplay
	stateSequence
	stateAll = 1<<iota - 1
)

// MaxStateSize is the size in bytes of the largest state.
const MaxStateSize = stateHead + 2*4*etype.MaxKeySize

// StateSize returns the size in bytes of what Export writes.
func (s *Session) StateSize() int { return stateSize(s.id) }

func stateSize(id etype.ID) int { return stateHead + 2*keysSize(id) }

// Export appends the session's state to dst and ends the session in one act. A
// message under way completes before it or returns gssapi.ErrNoContext. dst needs
// room for StateSize bytes more and is never grown. It should be locked memory,
// since the state holds keys. On an error, ErrBuffer or gssapi.ErrNoContext, the
// session is untouched.
func (s *Session) Export(dst []byte) ([]byte, error) {
	s.life.Lock()
	defer s.life.Unlock()
	mem := s.mem.Bytes()
	if mem == nil {
		return nil, fatal(codeNoContext, errGone)
	}
	if cap(dst)-len(dst) < s.StateSize() {
		return nil, ErrBuffer
	}
	w := &s.in.win
	dst = append(dst, s.stateFlags(), byte(s.id))
	dst = binary.BigEndian.AppendUint64(dst, s.out.next)
	dst = binary.BigEndian.AppendUint64(dst, w.next)
	dst = binary.BigEndian.AppendUint64(dst, w.seen)
	n := len(dst)
	dst = dst[:n+len(mem)]
	etype.CopyKey(dst[n:], mem)
	s.end()
	return dst, nil
}

func (s *Session) stateFlags() byte {
	var f byte
	for _, b := range []struct {
		set bool
		bit byte
	}{
		{s.initiator, stateInitiator},
		{s.acceptorSubkey, stateAcceptorSubkey},
		{s.in.win.replay, stateReplay},
		{s.in.win.sequence, stateSequence},
	} {
		if b.set {
			f |= b.bit
		}
	}
	return f
}

// Restore makes the session that Export ended, with its keys in memory of pool. It
// does not keep state: the caller wipes it. Export of the session writes the same
// bytes again. Errors: ErrState; etype.ErrUnsupported if this process may not use
// the encryption type; and those of pool.Alloc.
func Restore(pool *memsafe.Pool, state []byte) (*Session, error) {
	if len(state) < stateHead || state[0]&^stateAll != 0 {
		return nil, ErrState
	}
	f, id := state[0], etype.ID(state[1])
	if id.KeySize() == 0 || len(state) != stateSize(id) {
		return nil, ErrState
	}
	if err := id.Check(); err != nil {
		return nil, err
	}
	mem, err := pool.Alloc(2 * keysSize(id))
	if err != nil {
		return nil, err
	}
	etype.CopyKey(mem.Bytes(), state[stateHead:])
	return build(mem, Params{
		Initiator:      f&stateInitiator != 0,
		AcceptorSubkey: f&stateAcceptorSubkey != 0,
		Etype:          id,
		SendSeq:        binary.BigEndian.Uint64(state[2:]),
		RecvSeq:        binary.BigEndian.Uint64(state[10:]),
		Replay:         f&stateReplay != 0,
		Sequence:       f&stateSequence != 0,
		Seen:           binary.BigEndian.Uint64(state[18:]),
	}), nil
}
