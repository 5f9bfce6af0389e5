package fuzz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/sealctx/sealctx/internal/boottime"
	"github.com/sealctx/sealctx/internal/vectors"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/stretchr/testify/require"
)

// The bits of FuzzReseal's mode.
const (
	modeRawBody  = 1 << iota // the body is not padded
	modeTakeBack             // the exporter opens
	modeUnbound              // the length is not in the additional data
	modeSwapped              // K_enc and K_com are exchanged
	modeOwnUser              // exporter and audience are this user
	modeOwnProc              // the audience is this process
	modeChaCha               // the epoch's suite
	modeLength               // the length is off by one
)

var openClasses = []struct {
	class  string
	err    error
	reason string
}{
	{vectors.Success, nil, ""},
	{vectors.Malformed, seal.ErrDefective, "malformed"},
	{vectors.UnknownEpoch, seal.ErrDefective, "epoch unknown or retired"},
	{vectors.WrongSuite, seal.ErrDefective, "suite is not the epoch's"},
	{vectors.Header, seal.ErrDefective, "header not authentic"},
	{vectors.Body, seal.ErrDefective, "header genuine, body altered"},
	{vectors.Expired, seal.ErrExpired, ""},
	{vectors.Unauthorized, seal.ErrUnauthorized, ""},
	{vectors.WrongFormat, seal.ErrFormat, ""},
	{vectors.Spent, seal.ErrSpent, ""},
}

// FuzzReseal seals any fields and any body under the right host key, which takes
// it past the commitment, and compares what Host says with the model.
func FuzzReseal(f *testing.F) {
	krb5 := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 0x01, 0x02, 0x02}
	add := func(version, suite uint8, slot uint32, word, issued, expires uint64, mechanism, format []byte, kind uint8, audience, body []byte, mode uint8) {
		f.Add(version, suite, epochID(1 + mode&modeChaCha/modeChaCha)[15], slot, word, issued, expires, mechanism, format, uint32(1), kind, audience, body, mode, anyFormat)
	}
	for _, mode := range []uint8{modeOwnUser, modeOwnUser | modeChaCha} {
		s := 1 + mode&modeChaCha/modeChaCha
		good := func(body []byte, more uint8) {
			add(s, s, slot, slotWord, 1, farAway, krb5, []byte(anyFormat), vectors.KindUser, nil, body, mode|more)
		}
		good([]byte("plain"), 0)
		good(make([]byte, 512), modeRawBody)
		good(vectors.PadTo([]byte("plain"), 1024), modeRawBody)
		good(make([]byte, 513), modeRawBody)
		good(append(bytes.Repeat([]byte{0x81}, 500), make([]byte, 12)...), modeRawBody)
		good([]byte("plain"), modeTakeBack)
		good([]byte("plain"), modeUnbound)
		good([]byte("plain"), modeSwapped)
		good([]byte("plain"), modeOwnProc)
		good([]byte("plain"), modeLength)
		add(3-s, s, slot, slotWord, 1, farAway, krb5, []byte(anyFormat), 1, nil, nil, mode)
		add(3, s, slot, slotWord, 1, farAway, krb5, []byte(anyFormat), 1, nil, nil, mode)
		add(s, 3-s, slot, slotWord, 1, farAway, krb5, []byte(anyFormat), 1, nil, nil, mode)
		add(s, s, slots, slotWord, 1, farAway, krb5, []byte(anyFormat), 1, nil, nil, mode)
		add(s, s, slot, slotWord|1, 1, farAway, nil, []byte(anyFormat), 1, nil, nil, mode)
		add(s, s, slot+1, slotWord, 1, farAway, nil, []byte(anyFormat), 1, nil, nil, mode)
		add(s, s, slot+1, vectors.FreshWord, 1, farAway, nil, []byte(anyFormat), 1, nil, nil, mode)
		add(s, s, slot, slotWord, 2, 2, krb5, []byte(anyFormat), 1, nil, nil, mode)
		add(s, s, slot, slotWord, 2, 1, krb5, []byte(anyFormat), 1, nil, nil, mode)
		add(s, s, slot, slotWord, 1, 2, krb5, []byte(anyFormat), 1, nil, nil, mode)
		add(s, s, slot, slotWord, 1, farAway, krb5, []byte("x/1"), 1, nil, nil, mode)
		add(s, s, slot, slotWord, 1, farAway, krb5, []byte("x 1"), 1, nil, nil, mode)
		add(s, s, slot, slotWord, 1, farAway, krb5, []byte("x\x7f1"), 1, nil, nil, mode)
		add(s, s, slot, slotWord, 1, farAway, make([]byte, 65), []byte(anyFormat), 1, nil, nil, mode)
		add(s, s, slot, slotWord, 1, farAway, krb5, []byte(anyFormat), vectors.KindService, []byte("httpd"), nil, mode&^modeOwnUser)
		add(s, s, slot, slotWord, 1, farAway, krb5, []byte(anyFormat), vectors.KindService, make([]byte, 65), nil, mode&^modeOwnUser)
		add(s, s, slot, slotWord, 1, farAway, krb5, []byte(anyFormat), vectors.KindProcess, make([]byte, 12), nil, mode&^modeOwnUser|modeTakeBack)
	}
	pool := newPool(f)
	hosts := map[bool]*known{false: newKnown(f, vectors.GCM, pool), true: newKnown(f, vectors.ChaCha, pool)}
	own := ownProcess(f)
	f.Fuzz(func(t *testing.T, version, suite, epoch uint8, slot uint32, word, issued, expires uint64, mechanism, format []byte,
		exporter uint32, kind uint8, audience, body []byte, mode uint8, asked string) {
		k := hosts[mode&modeChaCha != 0]
		p := &vectors.Parts{
			HostKey: hostKey, Magic: "SLCX", Version: version, Suite: suite, Epoch: epochID(epoch), Slot: slot, Word: word,
			Salt: make([]byte, 32), Issued: issued, Expires: expires, Mechanism: clip(mechanism), Format: clip(format),
			Exporter: exporter, Kind: kind, Audience: clip(audience), Nonce: make([]byte, 12), Body: body,
			LengthUnbound: mode&modeUnbound != 0, KeysSwapped: mode&modeSwapped != 0,
		}
		if mode&modeRawBody == 0 {
			p.Body = vectors.Pad(body)
		}
		if mode&modeLength != 0 {
			p.LengthError = 1
		}
		if mode&modeOwnUser != 0 {
			p.Exporter = uint32(os.Geteuid())
			p.Kind, p.Audience = vectors.KindUser, binary.BigEndian.AppendUint32(nil, p.Exporter)
		}
		if mode&modeOwnProc != 0 {
			p.Kind, p.Audience = vectors.KindProcess, own
		}
		sealed, err := p.Seal()
		require.NoError(t, err)
		m := model{p, 1 + mode&modeChaCha/modeChaCha, own, mode&modeTakeBack != 0, asked}
		checkOpen(t, k, m, sealed)
		require.Zero(t, pool.InUse())
	})
}

// checkOpen opens a token and compares with the model.
func checkOpen(t *testing.T, k *known, m model, sealed []byte) {
	open := k.Open
	if m.takeBack {
		open = k.TakeBack
	}
	clock, err := boottime.New()
	require.NoError(t, err)
	early, err := clock.Now()
	require.NoError(t, err)
	secret, openErr := open(sealed, m.asked)
	late, err := clock.Now()
	require.NoError(t, err)

	var got []string
	for _, c := range openClasses {
		if errors.Is(openErr, c.err) && (c.reason == "" || errors.Is(openErr, seal.ErrDefective) && c.reason == k.reason) {
			got = append(got, c.class)
		}
	}
	require.Len(t, got, 1, "%v (%s)", openErr, k.reason)
	want := m.class(uint64(early))
	if got[0] != want { // it expired just now
		want = m.class(uint64(late))
	}
	require.Equal(t, want, got[0])
	if openErr != nil {
		require.Nil(t, secret)
		require.Equal(t, uint64(slotWord), k.word(t), "refused, and spent all the same")
		return
	}
	checkOpened(t, k, m, secret, sealed)
}

func checkOpened(t *testing.T, k *known, m model, secret *memsafe.Secret, sealed []byte) {
	plain, ok := unpad(m.Body)
	require.True(t, ok)
	require.True(t, bytes.Equal(plain, secret.Bytes()))
	secret.Wipe()
	require.Equal(t, uint64(slotWord)>>24<<24|1, k.word(t))
	_, err := k.Open(sealed, m.asked)
	require.Error(t, err, "opened twice")
	k.restore(t)
}

// A model is section 9 of doc/SPEC.md over the parts of a token.
type model struct {
	*vectors.Parts
	suite    uint8 // the epoch's
	process  []byte
	takeBack bool
	asked    string
}

func (m model) class(now uint64) string {
	plain, padded := unpad(m.Body)
	switch {
	case !m.parses():
		return vectors.Malformed
	case !bytes.Equal(m.Epoch, epochID(m.suite)):
		return vectors.UnknownEpoch
	case m.Version != m.suite:
		return vectors.WrongSuite
	case m.KeysSwapped:
		return vectors.Header
	case m.isChaCha() != (m.Version == vectors.ChaCha) || m.LengthUnbound || !padded || len(vectors.Pad(plain)) != len(m.Body):
		return vectors.Body
	case now >= m.Expires:
		return vectors.Expired
	case !m.allowed():
		return vectors.Unauthorized
	case string(m.Format) != m.asked:
		return vectors.WrongFormat
	case m.Slot != slot || m.Word != slotWord: // no other slot has an OUT word
		return vectors.Spent
	}
	return vectors.Success
}

// isChaCha says which AEAD the writer used.
func (m model) isChaCha() bool { return m.Suite == vectors.ChaCha }

func (m model) parses() bool {
	sizes := []int{512, 768, 1024, 1536, 2048, 2864, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152}
	printable := !bytes.ContainsFunc(m.Format, func(r rune) bool { return r < '!' || r > '~' })
	return (m.Version == 1 || m.Version == 2) && m.Issued < m.Expires && m.Expires < 1<<63 &&
		len(m.Mechanism) <= 64 && len(m.Format) >= 1 && len(m.Format) <= 64 && printable &&
		len(m.Audience) <= 64 && slices.Contains(sizes, len(m.Body)) && m.LengthError == 0
}

func (m model) allowed() bool {
	user := uint32(os.Geteuid())
	if m.takeBack {
		return m.Exporter == user
	}
	return m.Kind == vectors.KindUser && bytes.Equal(m.Audience, binary.BigEndian.AppendUint32(nil, user)) ||
		m.Kind == vectors.KindProcess && bytes.Equal(m.Audience, m.process)
}

// unpad takes the padding off, without judging the size.
func unpad(body []byte) ([]byte, bool) {
	return bytes.CutSuffix(bytes.TrimRight(body, "\x00"), []byte{0x80})
}

// clip shortens what a length of one byte has to count.
func clip(b []byte) []byte { return b[:min(len(b), 255)] }
