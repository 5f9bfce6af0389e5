package permsg

import (
	"bytes"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

// forged is a sealed token of the initiator made by hand from the context's
// key, with whatever stands inside and outside.
type forged struct {
	outside, inside header
	filler          int
	msg             []byte
	cutInside       int // bytes to leave out at the end of the header inside
}

func (f *forged) token(t testing.TB, id etype.ID, key []byte) []byte {
	t.Helper()
	var in, out [headerSize]byte
	f.inside.put(in[:])
	f.outside.put(out[:])
	plain := append(append([]byte{}, f.msg...), bytes.Repeat([]byte{0xFF}, f.filler)...)
	plain = append(plain, in[:headerSize-f.cutInside]...)
	tok, err := etype.Encrypt(out[:], id, key, usageInitiatorSeal, plain)
	require.NoError(t, err)
	return rotate(tok[:], f.outside.rrc)
}

// genuine is what the initiator of pair would send, with filler.
func genuine(filler int) forged {
	h := header{id: idWrap, flags: flagSealed | flagAcceptorSubkey, ec: uint16(filler), seq: 1000}
	return forged{outside: h, inside: h, filler: filler, msg: []byte("a message of 24 bytes...")}
}

// TestFiller: any EC, with any RRC, outside and inside.
func TestFiller(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		pool := newPool(t)
		for _, filler := range []int{0, 1, 15, 16, 300, 65535} {
			for _, rrc := range []uint16{0, 28, 65535} {
				f := genuine(filler)
				f.inside.rrc = rrc / 2 // not looked at
				tok := f.token(t, id, pattern(id.KeySize()))
				b := one(t, pool, id, false)
				msg, conf, err := b.Unwrap(rotate(tok, rrc))
				b.Wipe()
				require.NoError(t, err, "EC %d RRC %d", filler, rrc)
				require.True(t, conf)
				require.Equal(t, f.msg, msg)
			}
		}
	})
}

// TestHeaderInside: a token is refused unless the header inside, which is
// encrypted, is the one outside. EC is the case that C libraries got wrong: it
// says where the message ends, and whoever carries the token can alter it.
func TestHeaderInside(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		_, b := pair(t, id)
		for name, change := range map[string]func(*forged){
			"EC outside larger":  func(f *forged) { f.outside.ec += 8 },
			"EC outside smaller": func(f *forged) { f.outside.ec -= 8 },
			"EC inside":          func(f *forged) { f.inside.ec-- },
			"EC beyond":          func(f *forged) { f.outside.ec = 16 + 24 },
			"sequence outside":   func(f *forged) { f.outside.seq++ },
			"sequence inside":    func(f *forged) { f.inside.seq++ },
			"flags inside":       func(f *forged) { f.inside.flags ^= flagAcceptorSubkey },
			"other flag inside":  func(f *forged) { f.inside.flags ^= 0x80 },
			"token id inside":    func(f *forged) { f.inside.id = idMIC },
			"no header inside":   func(f *forged) { f.cutInside = headerSize },
			"half a header":      func(f *forged) { f.cutInside = 8 },
		} {
			f := genuine(16)
			change(&f)
			_, _, err := b.Unwrap(f.token(t, id, pattern(id.KeySize())))
			require.True(t, isRefusal(err), "%s: %v", name, err)
		}
		f := genuine(16)
		_, _, err := b.Unwrap(f.token(t, id, pattern(id.KeySize())))
		require.NoError(t, err, "what the changes were made to is genuine")
	})
}

// TestUndefinedFlags: bits without a meaning are ignored, RFC 4121 section
// 4.2.2, if they are genuine.
func TestUndefinedFlags(t *testing.T) {
	_, b := pair(t, etype.AES256SHA384)
	f := genuine(0)
	f.inside.flags |= 0xF8
	f.outside.flags |= 0xF8
	msg, _, err := b.Unwrap(f.token(t, etype.AES256SHA384, pattern(32)))
	require.NoError(t, err)
	require.Equal(t, f.msg, msg)
}

// TestMalformed: bytes that are no token of the right form, whatever the key.
func TestMalformed(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		a, b := pair(t, id)
		mac := id.MACSize()
		sealed, err := a.Wrap(nil, true)
		require.NoError(t, err)
		signed, err := a.Wrap(nil, false)
		require.NoError(t, err)
		mic, err := a.GetMIC(nil)
		require.NoError(t, err)
		with := func(tok []byte, at int, v ...byte) []byte {
			tok = bytes.Clone(tok)
			copy(tok[at:], v)
			return tok
		}
		for name, tok := range map[string][]byte{
			"nothing":               nil,
			"half a header":         sealed[:8],
			"header alone":          sealed[:headerSize],
			"a MIC":                 mic,
			"the old token's id":    with(sealed, 0, 0x02, 0x01),
			"filler":                with(sealed, 3, 0),
			"shorter than its MAC":  sealed[:headerSize+mac-1],
			"sealed, no header":     sealed[:len(sealed)-1],
			"EC beyond the end":     with(sealed, 4, 0xFF, 0xFF),
			"signed, EC 0":          with(signed, 4, 0, 0),
			"signed, EC too small":  with(signed, 4, 0, byte(mac-1)),
			"signed, EC too large":  with(signed, 4, 0, byte(mac+1)),
			"signed, checksum cut":  signed[:len(signed)-1],
			"signed, nothing there": signed[:headerSize],
			"signed, RRC too":       with(signed[:headerSize], 6, 0, 9),
		} {
			msg, _, err := b.Unwrap(tok)
			require.ErrorIs(t, err, gssapi.ErrDefectiveToken, name)
			require.Nil(t, msg)
		}
		for name, tok := range map[string][]byte{
			"nothing": nil, "half": mic[:8], "no checksum": mic[:headerSize], "cut": mic[:len(mic)-1],
			"longer": append(bytes.Clone(mic), 0), "a Wrap token": signed, "sealed": with(mic, 2, mic[2]|flagSealed),
			"filler 3": with(mic, 3, 0), "filler 7": with(mic, 7, 0),
		} {
			require.ErrorIs(t, b.VerifyMIC(nil, tok), gssapi.ErrDefectiveToken, name)
		}
		_, _, err = b.Unwrap(sealed)
		require.NoError(t, err)
		_, _, err = b.Unwrap(signed)
		require.NoError(t, err)
		require.NoError(t, b.VerifyMIC(nil, mic))
	})
}

// TestSealedForm takes a sealed token apart: header, and inside it the message
// and the same header.
func TestSealedForm(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		_, b := pair(t, id)
		tok, err := b.Wrap([]byte("message"), true)
		require.NoError(t, err)
		want := []byte{5, 4, 7, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF}
		require.Equal(t, want, tok[:headerSize])
		plain, err := etype.Decrypt(nil, id, pattern(id.KeySize()), usageAcceptorSeal, tok[headerSize:])
		require.NoError(t, err)
		require.Equal(t, append([]byte("message"), want...), plain)
	})
}

func TestUnrotate(t *testing.T) {
	unrotate(nil, nil, 5) // nothing to turn, and no division by it
	dst := make([]byte, 5)
	for rrc, want := range map[uint16]string{0: "abcde", 1: "bcdea", 4: "eabcd", 5: "abcde", 6: "bcdea", 65535: "abcde"} {
		unrotate(dst, []byte("abcde"), rrc)
		require.Equal(t, want, string(dst), "RRC %d", rrc)
	}
}
