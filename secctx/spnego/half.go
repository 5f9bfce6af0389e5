package spnego

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"golang.org/x/crypto/cryptobyte"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
)

// HalfLifetime is how long a sealed half-open negotiation can be taken up. A
// client answers at once; a person who types a password takes a minute.
const HalfLifetime = time.Minute

// The plain form of a half-open negotiation is
//
//	"SCSH" | version u8 = 1 | phase u8 | required u8 | legs u8 |
//	length u8 | chosen identifier | length u16 | mechTypes | inner token
//
// The inner token is there in phaseMIC alone, where the mechanism is established
// and the initiator's signature is missing. Before the mechanism's first token
// there is no key at all. Numbers are big-endian.
const (
	halfMagic  = "SCSH\x01"
	halfFormat = "spnego-half/1/"
)

// ExportHalf seals an acceptor's half-open negotiation, so that another process of
// this user on this host can take it up with ImportHalf: once, within HalfLifetime,
// and with the same bind. bind is whatever the negotiation must not leave: the
// service, the TLS channel, the client's connection. On success sc is gone. On an
// error it is as it was, unless the inner provider lost it.
//
// The sealed token is no Export: it is of another plain format, which has a digest
// of bind in it, and holds no established context. It may leave the host.
//
// ExportHalf needs a context of a [Provider], or of package secctx around one.
// Errors: GSS_S_UNAVAILABLE for other contexts, initiators, established contexts
// and those whose mechanism is half open itself; GSS_S_NO_CONTEXT for a context
// that is gone; seal's errors with GSS_S_FAILURE.
func ExportHalf(sc gssapi.SecContext, s seal.Sealer, bind []byte) ([]byte, error) {
	h, ok := sc.(interface {
		ExportHalf(s seal.Sealer, bind []byte) ([]byte, error)
	})
	if !ok {
		return nil, errNotHalf
	}
	return h.ExportHalf(s, bind)
}

// ImportHalf takes up a negotiation that ExportHalf sealed. p is the provider, or
// package secctx's around it. Options are those of AcceptSecContext, for the
// mechanism's first token. A token with another bind, or of a provider with another
// plain format, is refused and not spent, and so is a token that another user
// sealed. Errors: seal's with their GSS status as
// of secctx's ImportSecContext, GSS_S_UNAVAILABLE for another provider.
func ImportHalf(p gssapi.Provider, s seal.Sealer, token, bind []byte, opts ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	h, ok := p.(interface {
		ImportHalf(s seal.Sealer, token, bind []byte, opts ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error)
	})
	if !ok {
		return nil, errNotHalf
	}
	return h.ImportHalf(s, token, bind, opts...)
}

// format is the plain format of a half-open negotiation. The digest makes it that
// of one bind and of one inner provider: a sealer compares it before it claims.
func (p *Provider) format(bind []byte) string {
	h := sha256.New()
	for _, part := range [][]byte{bind, []byte(p.innerFormat()), p.list} {
		_ = binary.Write(h, binary.BigEndian, uint64(len(part))) // a digest takes everything
		h.Write(part)
	}
	return halfFormat + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// ExportHalf is the method behind the function of that name.
func (c *secContext) ExportHalf(s seal.Sealer, bind []byte) ([]byte, error) {
	c.gate.Lock()
	defer c.gate.Unlock()
	switch {
	case c.phase == phaseGone:
		return nil, errGone
	case c.initiator, c.phase == phaseNew, c.phase == phaseEstablished,
		c.phase == phaseMech && c.inner != nil: // the mechanism is half open
		return nil, errNotHalf
	}
	r, err := s.Reserve(seal.Request{Format: c.p.format(bind), Mechanism: oidSPNEGO, Lifetime: HalfLifetime})
	if err != nil {
		return nil, status(gssapi.ErrFailure, err)
	}
	defer func() { _ = r.Cancel() }() // for every way out but a successful Seal
	var inner []byte
	if c.inner != nil {
		if inner, err = c.inner.Export(); err != nil {
			return nil, err
		}
		defer memsafe.Wipe(inner)
	}
	plain := c.halfState(inner)
	defer memsafe.Wipe(plain)
	token, err := r.Seal(plain)
	if err != nil {
		return nil, c.restore(inner, err)
	}
	c.end()
	return token, nil
}

// restore takes the inner context back after sealing failed.
func (c *secContext) restore(inner []byte, why error) error {
	err := status(gssapi.ErrFailure, why)
	if inner == nil {
		return err
	}
	back, lost := c.p.inner.ImportSecContext(inner)
	if lost != nil {
		c.end()
		return errors.Join(err, lost)
	}
	_, _ = c.inner.Delete() // what the mechanism kept of the exported one
	c.inner = back
	return err
}

func (c *secContext) halfState(inner []byte) []byte {
	n := c.neg
	b := make([]byte, 0, len(halfMagic)+6+len(n.wire)+len(n.mechTypes)+len(inner))
	b = append(b, halfMagic...)
	b = append(b, byte(c.phase), role(n.required), byte(n.legs), byte(len(n.wire)))
	b = append(b, n.wire...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(n.mechTypes)))
	b = append(b, n.mechTypes...)
	return append(b, inner...)
}

// ImportHalf is the method behind the function of that name.
func (p *Provider) ImportHalf(s seal.Sealer, token, bind []byte, opts ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	plain, err := s.OpenFrom(self(), token, p.format(bind))
	if err != nil {
		return nil, unopened(err)
	}
	defer plain.Wipe()
	return p.importHalf(plain.Bytes(), opts)
}

// self is the only exporter that is believed: this user. A sealed state can hold an
// established context, which another user that may seal for this one could invent.
func self() []seal.Party { return []seal.Party{seal.User(uint32(os.Geteuid()))} }

func (p *Provider) importHalf(plain []byte, opts []gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	c, inner, ok := p.parseHalf(plain)
	if !ok {
		return nil, errPlain
	}
	c.neg.accept = opts
	if c.phase != phaseMIC {
		return c, nil
	}
	var err error
	if c.inner, err = p.inner.ImportSecContext(inner); err != nil {
		return nil, err
	}
	info, err := c.inner.Inquire()
	if err == nil && info == nil {
		err = errPlain
	}
	if err == nil {
		c.neg.info = info.SecContextInfoPartial
		err = c.checkMech()
	}
	if err == nil && !c.mechDone() {
		err = errHalf
	}
	if err != nil {
		c.dropInner()
		return nil, err
	}
	return c, nil
}

// parseHalf takes the plain form of a half-open negotiation apart. inner is a part
// of it.
func (p *Provider) parseHalf(state []byte) (c *secContext, inner []byte, ok bool) {
	s := cryptobyte.String(state)
	var magic []byte
	var ph, required, legs uint8
	var wire, list cryptobyte.String
	if !s.ReadBytes(&magic, len(halfMagic)) || string(magic) != halfMagic || !s.ReadUint8(&ph) ||
		!s.ReadUint8(&required) || required > 1 || !s.ReadUint8(&legs) || legs > maxLegs ||
		!s.ReadUint8LengthPrefixed(&wire) || !s.ReadUint16LengthPrefixed(&list) {
		return nil, nil, false
	}
	n := &negotiation{required: required == 1, legs: int(legs), wire: bytes.Clone(wire), mechTypes: bytes.Clone(list)}
	c = &secContext{p: p, phase: phase(ph), neg: n}
	if c.phase == phaseHinted {
		return c, nil, len(wire) == 0 && len(list) == 0 && s.Empty()
	}
	n.mech, n.answered = p.mech(wire), true
	if n.mech == nil || !validMechs(list) {
		return nil, nil, false
	}
	switch c.phase {
	case phaseMech:
		return c, nil, s.Empty()
	case phaseMIC:
		n.sent = true
		return c, s, n.required && !s.Empty()
	}
	return nil, nil, false
}

// unopened gives a sealer's refusal its GSS status, as package secctx does.
func unopened(err error) error {
	switch {
	case errors.Is(err, seal.ErrLost), errors.Is(err, seal.ErrExpired), errors.Is(err, seal.ErrSpent):
		return status(gssapi.ErrNoContext, err)
	case errors.Is(err, seal.ErrDefective), errors.Is(err, seal.ErrFormat):
		return status(gssapi.ErrDefectiveToken, err)
	case errors.Is(err, seal.ErrUnauthorized):
		return status(gssapi.ErrUnauthorized, err)
	}
	return status(gssapi.ErrFailure, fmt.Errorf("spnego: half-open negotiation: %w", err))
}
