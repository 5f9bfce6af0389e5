package krb5

import (
	"crypto/rand"
	"encoding/binary"
	"math"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/internal/permsg"
)

// answer establishes the context of an AP-REQ that passed every check. It returns
// the AP-REP, if there is to be one.
func (a *acceptance) answer(c *secContext) ([]byte, error) {
	key := a.auth.Subkey
	if key.Value == nil {
		key = a.ticket.Key
	}
	p := permsg.Params{RecvSeq: uint64(a.auth.Seq), SendSeq: uint64(a.auth.Seq)}
	var out []byte
	if a.flags()&gssapi.ContextFlagMutual != 0 {
		own, err := a.newSubkey(&key)
		if err != nil {
			return nil, err
		}
		defer own.Wipe()
		p.AcceptorSubkey = own != nil
		seq := initialSeq()
		p.SendSeq = uint64(seq)
		rep := kmsg.APRepPart{CTime: a.auth.CTime, CUSec: a.auth.CUSec, Seq: seq, HasSeq: true}
		if own != nil {
			rep.Subkey = key
		}
		if out, err = a.reply(&rep); err != nil {
			return nil, err
		}
	}
	f := facts{
		initiator: &name{principal: a.ticket.Client, mn: true},
		acceptor:  &name{principal: a.service, mn: true},
		flags:     a.flags() & peerFlags,
		expires:   wholeSecond(a.ticket.EndTime.Add(a.p.config.ClockSkew)),
	}
	if a.bound {
		f.flags |= gssapi.ContextFlagChannelBound
	}
	s, err := a.p.newSession(p, key, f.flags)
	if err != nil {
		return nil, err
	}
	if a.delegated != nil {
		f.delegated, a.delegated = a.delegated, nil
		f.flags |= gssapi.ContextFlagDeleg
	}
	c.establish(f, s)
	return out, nil
}

// wholeSecond cuts a time to what the interprocess token can hold.
func wholeSecond(t time.Time) time.Time { return time.Unix(t.Unix(), 0) }

// newSubkey makes the acceptor's subkey and puts it into key, whose type it keeps.
// It returns nil if no subkey is wanted.
func (a *acceptance) newSubkey(key *kmsg.Key) (*memsafe.Secret, error) {
	if a.p.config.NoAcceptorSubkey {
		return nil, nil
	}
	s, err := a.p.randomKey(etype.ID(key.EType))
	if err == nil {
		key.Value = s.Bytes()
	}
	return s, err
}

func (p *Provider) randomKey(id etype.ID) (*memsafe.Secret, error) {
	s, err := p.arena.alloc(id.KeySize())
	if err != nil {
		return nil, err
	}
	if err := etype.RandomKey(s.Bytes(), id); err != nil {
		s.Wipe()
		return nil, fail(gssapi.ErrFailure, err)
	}
	return s, nil
}

// smallMessage is enough room in bytes for an EncAPRepPart.
const smallMessage = 128

func (a *acceptance) reply(rep *kmsg.APRepPart) ([]byte, error) {
	plain, mem, err := a.p.arena.marshal(rep, smallMessage)
	if err != nil {
		return nil, err
	}
	defer mem.Wipe()
	e := kmsg.Encrypted{EType: a.ticket.Key.EType}
	if e.Cipher, err = etype.Encrypt(nil, etype.ID(e.EType), a.ticket.Key.Value, kmsg.UsageAPRepPart, plain); err != nil {
		return nil, fail(gssapi.ErrFailure, err)
	}
	msg, err := kmsg.MarshalAPRep(e)
	if err != nil {
		return nil, fail(gssapi.ErrFailure, err)
	}
	return kmsg.MarshalToken(kmsg.TokenAPRep, msg)
}

// initialSeq returns a random first sequence number. Its upper two bits are zero:
// old peers read it as signed and count in 32 bits.
func initialSeq() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint32(b[:]) & (math.MaxUint32 >> 2)
}

// newSession derives a context's keys from key, which stays the caller's.
func (p *Provider) newSession(params permsg.Params, key kmsg.Key, flags gssapi.ContextFlag) (s *permsg.Session, err error) {
	params.Etype, params.Key = etype.ID(key.EType), key.Value
	params.Replay = flags&gssapi.ContextFlagReplay != 0
	params.Sequence = flags&gssapi.ContextFlagSequence != 0
	err = p.arena.try(0, func(pool *memsafe.Pool) error {
		s, err = permsg.New(pool, params)
		return err
	})
	if err != nil {
		return nil, fail(gssapi.ErrFailure, err)
	}
	return s, nil
}
