package fuzz

import (
	"bytes"
	"encoding/binary"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/internal/vectors"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// openers are the two ways to open.
func openers(h *seal.Host) []func([]byte, ...string) (*memsafe.Secret, error) {
	return []func([]byte, ...string) (*memsafe.Secret, error){h.Open, h.TakeBack}
}

// ownProcess is this process as an audience's value, asked of the kernel as
// doc/SPEC.md, section 7, says.
func ownProcess(tb testing.TB) []byte {
	tb.Helper()
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	require.NoError(tb, err)
	defer unix.Close(fd)
	var fs unix.Statfs_t
	var st unix.Stat_t
	require.NoError(tb, unix.Fstatfs(fd, &fs))
	require.NoError(tb, unix.Fstat(fd, &st))
	number := st.Ino
	if fs.Type != 0x50494446 {
		stat, err := os.ReadFile("/proc/self/stat")
		require.NoError(tb, err)
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		number, err = strconv.ParseUint(fields[22-3], 10, 64)
		require.NoError(tb, err)
	}
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, uint32(os.Getpid())), number)
}

var serviceName = regexp.MustCompile(`\A[A-Za-z0-9._-]{1,64}\z`)

// FuzzAudience takes any audience that a token can hold: it compares equal to
// the one that the API makes of it, is refused by Reserve if it is nobody or
// needs the agent, and else is written as it was read.
func FuzzAudience(f *testing.F) {
	for _, v := range readVectors(f) {
		if h, _, err := token.ParseHeader(v.Token); err == nil {
			f.Add(h.Audience.Kind, h.Audience.Value)
		}
	}
	user := binary.BigEndian.AppendUint32(nil, uint32(os.Geteuid()))
	own := ownProcess(f)
	for kind := range uint8(6) {
		for _, value := range [][]byte{nil, user, {1, 2, 3, 4}, {1, 2, 3, 4, 5}, own, make([]byte, 12), []byte("httpd"), []byte("a b"),
			[]byte("A-Z_0.9"), []byte("caf\xc3\xa9"), []byte("{"), []byte("`"), []byte("@"), []byte("["), []byte("/"), []byte(":"),
			bytes.Repeat([]byte("s"), 64)} {
			f.Add(kind, value)
		}
	}
	h, err := seal.OpenHost(&seal.Options{Private: true, Pool: newPool(f)})
	require.NoError(f, err)
	f.Cleanup(func() { _ = h.Close() })
	f.Fuzz(func(t *testing.T, kind uint8, value []byte) {
		value = value[:min(len(value), 64)]
		a := audienceOf(t, kind, value)
		require.Equal(t, a, audienceOf(t, kind, value))
		require.NotEmpty(t, a.String())
		service, err := seal.Service(string(value))
		require.Equal(t, serviceName.Match(value), err == nil)

		switch {
		case kind == vectors.KindUser && len(value) == 4:
			require.Equal(t, seal.User(binary.BigEndian.Uint32(value)), a)
		case kind == vectors.KindGroup && len(value) == 4:
			require.Equal(t, seal.Group(binary.BigEndian.Uint32(value)), a)
		case kind == vectors.KindService && err == nil:
			require.Equal(t, service, a)
		}
		r, err := h.Reserve(seal.Request{Format: anyFormat, Audience: a, Lifetime: time.Minute})
		nobody := kind == 0 && len(value) == 0 // the zero value: this user
		if !nobody && !(kind == vectors.KindUser && bytes.Equal(value, user)) && !(kind == vectors.KindProcess && len(value) == 12) {
			require.ErrorIs(t, err, seal.ErrRequest)
			return
		}
		require.NoError(t, err)
		sealed, err := r.Seal([]byte("plain"))
		require.NoError(t, err)
		inspected, err := seal.Inspect(sealed)
		require.NoError(t, err)
		if nobody {
			a = seal.User(uint32(os.Geteuid()))
		}
		require.Equal(t, a, inspected.Audience)
		checkAudience(t, h, sealed, nobody || kind == vectors.KindUser || bytes.Equal(value, own))
	})
}

// checkAudience opens a token that is or is not for this process, and takes it
// back if it is not.
func checkAudience(t *testing.T, h *seal.Host, sealed []byte, ours bool) {
	secret, err := h.Open(sealed, anyFormat)
	if !ours {
		require.ErrorIs(t, err, seal.ErrUnauthorized)
		secret, err = h.TakeBack(sealed, anyFormat)
	}
	require.NoError(t, err)
	require.Equal(t, "plain", string(secret.Bytes()))
	secret.Wipe()
}

// audienceOf returns the audience that a token with this kind and value has.
func audienceOf(t *testing.T, kind uint8, value []byte) seal.Party {
	t.Helper()
	p := vectors.Parts{
		HostKey: hostKey, Magic: "SLCX", Version: 1, Suite: 1, Epoch: epochID(1), Salt: make([]byte, 32), Expires: 1,
		Format: []byte(anyFormat), Kind: kind, Audience: value, Nonce: make([]byte, 12), Body: vectors.Pad(nil),
	}
	sealed, err := p.Seal()
	require.NoError(t, err)
	h, err := seal.Inspect(sealed)
	require.NoError(t, err)
	return h.Audience
}
