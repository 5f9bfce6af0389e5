package permsg

import (
	"bufio"
	"encoding/hex"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

// captured is one line of testdata/tokens.txt: a token that a C library made.
type captured struct {
	name            string
	call            string
	byInitiator     bool
	params          Params // but for Initiator and the numbers
	aad, msg, token []byte
	header          header
}

func readCaptured(t testing.TB) []captured {
	t.Helper()
	f, err := os.Open("testdata/tokens.txt")
	require.NoError(t, err)
	defer f.Close()
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(strings.TrimPrefix(s, "-"))
		require.NoError(t, err)
		return b
	}
	var all []captured
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if strings.HasPrefix(sc.Text(), "#") {
			continue
		}
		w := strings.Fields(sc.Text())
		require.Len(t, w, 9)
		n, err := strconv.Atoi(w[1])
		require.NoError(t, err)
		c := captured{
			name: strings.Join(w[:5], " "), call: w[4], byInitiator: w[2] == "i",
			params: Params{AcceptorSubkey: w[3] == "true", Etype: etype.ID(n), Key: unhex(w[5]), Replay: true, Sequence: true},
			aad:    unhex(w[6]), msg: unhex(w[7]), token: unhex(w[8]),
		}
		id := uint16(idWrap)
		if c.call == "mic" {
			id = idMIC
		}
		require.True(t, c.header.parse(c.token, id), c.name)
		all = append(all, c)
	}
	require.Len(t, all, 100)
	return all
}

// session makes the sender or the receiver of the token, about to make it or to
// get it.
func (c *captured) session(t testing.TB, pool *memsafe.Pool, sender bool) *Session {
	t.Helper()
	p := c.params
	p.Initiator = c.byInitiator == sender
	p.SendSeq, p.RecvSeq = c.header.seq, c.header.seq
	s, err := New(pool, p)
	require.NoError(t, err)
	t.Cleanup(s.Wipe)
	return s
}

func (c *captured) receive(s *Session, tok []byte) ([]byte, error) {
	if c.call == "mic" {
		return c.msg, s.VerifyMIC(c.msg, tok)
	}
	msg, conf, err := s.UnwrapAEAD(tok, c.aad)
	if err == nil && conf != strings.HasSuffix(c.call, "1") {
		return nil, os.ErrInvalid
	}
	return msg, err
}

// TestCapturedTokens: tokens of the C libraries are accepted, and where nothing
// in one is random ours is the same, rotation apart.
func TestCapturedTokens(t *testing.T) {
	pool := newPool(t)
	for _, c := range readCaptured(t) {
		t.Run(c.name, func(t *testing.T) {
			msg, err := c.receive(c.session(t, pool, false), c.token)
			require.NoError(t, err)
			require.Equal(t, c.msg, msg)

			if strings.HasSuffix(c.call, "1") {
				return
			}
			s := c.session(t, pool, true)
			var ours []byte
			if c.call == "mic" {
				ours, err = s.GetMIC(c.msg)
			} else {
				ours, err = s.WrapAEAD(c.msg, c.aad, false)
			}
			require.NoError(t, err)
			require.Equal(t, rotate(c.token, 0), ours)
		})
	}
}

// rotate returns a Wrap token with its RRC changed, its body turned to match;
// a MIC token as it is.
func rotate(tok []byte, rrc uint16) []byte {
	var h header
	if !h.parse(tok, idWrap) {
		return tok
	}
	body := make([]byte, len(tok)-headerSize)
	unrotate(body, tok[headerSize:], h.rrc)
	n := len(body)
	out := make([]byte, headerSize, len(tok))
	h.rrc = rrc
	h.put(out)
	if n > 0 {
		cut := n - int(rrc)%n
		body = append(append([]byte{}, body[cut:]...), body[:cut]...)
	}
	return append(out, body...)
}

// TestRotation: any RRC, larger than the token too.
func TestRotation(t *testing.T) {
	pool := newPool(t)
	for _, c := range readCaptured(t) {
		if c.call == "mic" {
			continue
		}
		for _, rrc := range []uint16{0, 1, 12, 16, 28, 60, 61, 100, 1000, 65535} {
			s := c.session(t, pool, false)
			msg, err := c.receive(s, rotate(c.token, rrc))
			s.Wipe()
			require.NoError(t, err, "%s RRC %d", c.name, rrc)
			require.Equal(t, c.msg, msg)
		}
		// The control: a body that is not turned as RRC says.
		bad := rotate(c.token, 0)
		bad[7] = 1
		s := c.session(t, pool, false)
		_, err := c.receive(s, bad)
		s.Wipe()
		require.ErrorIs(t, err, gssapi.ErrBadMic)
	}
}

// TestEveryBit: a bit altered anywhere in a genuine token is refused, in RRC
// too, since the body is not turned to match, and so is every other length.
// After all that the genuine token is accepted.
func TestEveryBit(t *testing.T) {
	pool := newPool(t)
	for _, c := range readCaptured(t) {
		s := c.session(t, pool, false)
		for i := range len(c.token) * 8 {
			bad := append([]byte{}, c.token...)
			bad[i/8] ^= 1 << (i % 8)
			_, err := c.receive(s, bad)
			require.Error(t, err, "%s bit %d", c.name, i)
			require.True(t, isRefusal(err), "%s bit %d: %v", c.name, i, err)
		}
		for n := range len(c.token) {
			_, err := c.receive(s, c.token[:n])
			require.True(t, isRefusal(err), "%s cut to %d: %v", c.name, n, err)
		}
		_, err := c.receive(s, append(append([]byte{}, c.token...), 0))
		require.True(t, isRefusal(err), "%s trailing byte: %v", c.name, err)

		msg, err := c.receive(s, c.token)
		require.NoError(t, err, c.name)
		require.Equal(t, c.msg, msg)
		s.Wipe()
	}
}

// isRefusal reports whether err is one of the two fatal answers to bad bytes.
func isRefusal(err error) bool {
	return errors.Is(err, gssapi.ErrBadMic) || errors.Is(err, gssapi.ErrDefectiveToken)
}
