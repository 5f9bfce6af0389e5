//go:build linux

package permsg

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/memscan"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

// A mismatch is a sealed token under the right keys whose header outside is not
// the one inside.
type mismatch struct {
	name   string
	inside func(h *header)     // changes the header that is encrypted
	raw    func(inside []byte) // and its bytes
}

var mismatches = []mismatch{
	{name: "sequence number", inside: func(h *header) { h.seq++ }},
	{name: "extra count", inside: func(h *header) { h.ec++ }},
	{name: "flag that is ignored", inside: func(h *header) { h.flags |= 0x80 }},
	{name: "direction", inside: func(h *header) { h.flags ^= flagSentByAcceptor }},
	{name: "not sealed", inside: func(h *header) { h.flags &^= flagSealed }},
	{name: "subkey", inside: func(h *header) { h.flags ^= flagAcceptorSubkey }},
	{name: "MIC's token id", raw: func(b []byte) { b[0], b[1] = 0x04, 0x04 }},
	{name: "filler", raw: func(b []byte) { b[3] = 0 }},
	{name: "nothing", raw: func(b []byte) { clear(b) }},
}

// token seals plain, which is wiped with the buffer that it is made in.
func (m mismatch) token(s *Session, plain []byte) ([]byte, error) {
	h := header{id: idWrap, flags: s.flags(s.initiator) | flagSealed, seq: s.out.take()}
	tok := make([]byte, headerSize+etype.BlockSize+len(plain)+headerSize+s.id.MACSize())
	h.put(tok)
	body := tok[headerSize:]
	_, _ = rand.Read(body[:etype.BlockSize])
	etype.CopyKey(body[etype.BlockSize:], plain)
	inside := h
	if m.inside != nil {
		m.inside(&inside)
	}
	at := body[etype.BlockSize+len(plain):]
	inside.put(at)
	if m.raw != nil {
		m.raw(at[:headerSize])
	}
	l, err := s.out.lane(s.id)
	if err != nil {
		return nil, err
	}
	defer s.out.done(l)
	memsafe.Do(func() { err = l.cipher.Seal(s.out.keys.ki, body, nil) })
	return tok, err
}

// TestInnerHeaderMismatch: a token whose header outside is not the authentic one
// inside is GSS_S_BAD_MIC, gives no message, and moves no window. The control has
// the same header in both places.
func TestInnerHeaderMismatch(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		a, b := pair(t, id)
		for _, m := range mismatches {
			before := b.in.win
			tok, err := m.token(a, pattern(100))
			require.NoError(t, err)
			msg, conf, err := b.Unwrap(tok)
			require.ErrorIs(t, err, gssapi.ErrBadMic, m.name)
			require.Nil(t, msg, m.name)
			require.False(t, conf, m.name)
			require.Equal(t, before, b.in.win, m.name)
			b.in.win.next++ // the number that the token took
		}
		tok, err := mismatch{}.token(a, pattern(100))
		require.NoError(t, err)
		msg, conf, err := b.Unwrap(tok)
		require.NoError(t, err)
		require.True(t, conf)
		require.Equal(t, pattern(100), msg)
	})
}

// messageSize is how long the victim's message is, in bytes.
const messageSize = 512

// keptMessage is what the control keeps.
var keptMessage []byte

// mismatchVictim unwraps tokens that are refused after they were decrypted: those
// of all mismatches, and one with another MAC. With "kept" it unwraps a good one and
// keeps the message.
func mismatchVictim(v *memscan.Victim, keep bool) {
	n, err := strconv.Atoi(os.Getenv(typeVar))
	v.Check(err)
	id := etype.ID(n)
	pool, err := memsafe.NewPool(16 << 10)
	v.Check(err)
	secret, err := pool.Alloc(messageSize)
	v.Check(err)
	_, _ = rand.Read(secret.Bytes())
	v.Needle("message", secret.Bytes())
	a, err := New(pool, params(id, true))
	v.Check(err)
	b, err := New(pool, params(id, false))
	v.Check(err)
	var toks [][]byte
	for _, m := range append(mismatches, mismatch{name: "MAC"}) {
		tok, err := m.token(a, secret.Bytes())
		v.Check(err)
		if m.name == "MAC" {
			tok[len(tok)-1] ^= 1
		}
		toks = append(toks, tok)
	}
	good, err := mismatch{}.token(a, secret.Bytes())
	v.Check(err)
	secret.Wipe()
	v.Checkpoint("made")
	for _, tok := range toks {
		if msg, _, err := b.Unwrap(bytes.Clone(tok)); err == nil || msg != nil {
			v.Fatal(fmt.Errorf("unwrapped: %w", err))
		}
	}
	if keep {
		keptMessage, _, err = b.Unwrap(good)
		if len(keptMessage) != messageSize {
			v.Fatal(err)
		}
	}
	v.Checkpoint("ended")
}

// TestRefusedMessageIsWiped: of a message that was decrypted and refused nothing
// stays in the process. The control keeps a message that was accepted.
func TestRefusedMessageIsWiped(t *testing.T) {
	left := func(t *testing.T, scenario string, id etype.ID) []memscan.Hit {
		o := memscan.Quiet(typeVar + "=" + strconv.Itoa(int(id)))
		tg := memscan.Start(t, scenario, o)
		tg.At("made")
		set := new(memscan.Set)
		set.Bytes("message", tg.Secret("message"))
		require.NoError(t, set.Err())
		tg.Resume()
		tg.At("ended")
		hits := tg.Left(set)
		tg.Resume()
		tg.Wait()
		return hits
	}
	eachID(t, func(t *testing.T, id etype.ID) {
		require.Empty(t, left(t, "refused message", id))
		require.NotEmpty(t, left(t, "kept message", id), "the control")
	})
}
