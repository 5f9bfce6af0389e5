package ccache

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5/internal/filetest"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/internal/stream"
)

func sample() *Cache {
	alice := kmsg.Principal{Type: kmsg.NTPrincipal, Realm: "EXAMPLE.TEST", Parts: []string{"alice"}}
	cred := func(parts ...string) Credential {
		return Credential{
			Client:    alice,
			Server:    kmsg.Principal{Type: kmsg.NTSrvInst, Realm: "EXAMPLE.TEST", Parts: parts},
			Key:       kmsg.Key{EType: 18, Value: bytes.Repeat([]byte{1}, 32)},
			AuthTime:  time.Unix(1_700_000_000, 0),
			StartTime: time.Unix(1_700_000_001, 0),
			EndTime:   time.Unix(1_700_036_000, 0),
			Flags:     kmsg.FlagInitial,
			Ticket:    []byte("ticket"),
		}
	}
	return &Cache{Client: alice, Credentials: []Credential{cred("krbtgt", "EXAMPLE.TEST"), cred("http", "www.example.test")}}
}

func encode(t testing.TB, c *Cache) []byte {
	b, err := c.MarshalTo(make([]byte, c.Size()))
	require.NoError(t, err)
	return b
}

func TestRoundTrip(t *testing.T) {
	got, err := Parse(encode(t, sample()))
	require.NoError(t, err)
	require.Equal(t, sample(), got)
}

// TestMIT reads what MIT's and Heimdal's programs wrote: configuration entries
// are left out.
func TestMIT(t *testing.T) {
	for f, b := range filetest.Captured(t, "testdata/*.ccache") {
		c, err := Parse(b)
		require.NoError(t, err, f)
		require.Equal(t, "alice@SEALCTX.TEST", c.Client.String())
		require.Len(t, c.Credentials, 5)
		require.True(t, c.Credentials[0].Server.IsTGS())
		for _, cr := range c.Credentials {
			require.True(t, cr.Client.Equal(c.Client))
			require.Equal(t, 24*time.Hour, cr.EndTime.Sub(cr.AuthTime).Round(time.Hour))
			_, err := kmsg.ParseTicket(cr.Ticket)
			require.NoError(t, err)
		}
	}
}

// TestVersion3: the older version has no header and the enctype twice.
func TestVersion3(t *testing.T) {
	c := &Cache{Client: sample().Client}
	v3 := append([]byte{5, 3}, encode(t, c)[4:]...)
	got, err := Parse(v3)
	require.NoError(t, err)
	require.Equal(t, c, got)

	one := &Cache{Client: sample().Client, Credentials: sample().Credentials[:1]}
	v3 = append([]byte{5, 3}, encode(t, one)[4:]...)
	key := append([]byte{0, 18, 0, 0, 0, 32}, one.Credentials[0].Key.Value...)
	v3 = bytes.Replace(v3, key, append([]byte{0, 18}, key...), 1)
	got, err = Parse(v3)
	require.NoError(t, err)
	require.Equal(t, one, got)
}

// patch writes fields behind the key of the credential for http/www.example.test.
func patch(b []byte, authTime, endTime []byte, skey byte) []byte {
	at := bytes.LastIndex(b, bytes.Repeat([]byte{1}, 32)) + 32
	copy(b[at:], authTime)
	copy(b[at+8:], endTime)
	b[at+16] = skey
	return b
}

// TestLeftOut: what is no living ticket for a service is left out, and what
// stands behind it is not.
func TestLeftOut(t *testing.T) {
	long := strings.Repeat("x", kmsg.MaxName+1)
	for name, spoil := range map[string]func(c *Cache) []byte{
		"user to user":       func(c *Cache) []byte { return patch(encode(t, c), nil, nil, 1) },
		"removed by MIT":     func(c *Cache) []byte { return patch(encode(t, c), []byte{255, 255, 255, 255}, []byte{0, 0, 0, 0}, 0) },
		"removed by Heimdal": func(c *Cache) []byte { return patch(encode(t, c), nil, []byte{0, 0, 0, 0}, 0) },
		"note":               func(c *Cache) []byte { c.Credentials[1].Server.Realm = configRealm; return encode(t, c) },
		"removed note": func(c *Cache) []byte {
			c.Credentials[1].Server.Realm = "X-RMED-CONF:"
			return patch(encode(t, c), []byte{255, 255, 255, 255}, []byte{0, 0, 0, 0}, 0)
		},
		"many components": func(c *Cache) []byte {
			c.Credentials[1].Server.Parts = strings.Split(strings.Repeat("a/", kmsg.MaxParts)+"a", "/")
			return encode(t, c)
		},
		"long name": func(c *Cache) []byte { c.Credentials[1].Server.Parts[1] = long; return encode(t, c) },
		"NUL":       func(c *Cache) []byte { c.Credentials[1].Server.Parts[1] = "a\x00b"; return encode(t, c) },
		"long key":  func(c *Cache) []byte { c.Credentials[1].Key.Value = make([]byte, maxKey+1); return encode(t, c) },
	} {
		t.Run(name, func(t *testing.T) {
			c := sample()
			c.Credentials = append(c.Credentials, c.Credentials[0])
			control, err := Parse(patch(encode(t, c), nil, nil, 0))
			require.NoError(t, err)
			require.Equal(t, c, control, "the control")
			c.Credentials[2].Key.Value = bytes.Repeat([]byte{2}, 32) // not the one to patch
			got, err := Parse(spoil(c))
			require.NoError(t, err)
			require.Len(t, got.Credentials, 2)
			require.Equal(t, sample().Credentials[0], got.Credentials[0])
			require.Equal(t, c.Credentials[2], got.Credentials[1])
		})
	}
}

// TestOffset: the header's clock offset is signed, and other fields are passed
// over.
func TestOffset(t *testing.T) {
	for _, offset := range []time.Duration{0, time.Hour + time.Millisecond, -7*time.Minute - time.Microsecond} {
		c := sample()
		c.Offset = offset
		got, err := Parse(encode(t, c))
		require.NoError(t, err)
		require.Equal(t, c, got)
	}
	b := encode(t, &Cache{Client: sample().Client, Offset: time.Minute})
	b = append([]byte{5, 4, 0, 18, 0, 9, 0, 2, 'x', 'y'}, b[4:]...)
	got, err := Parse(b)
	require.NoError(t, err)
	require.Equal(t, time.Minute, got.Offset)
}

// TestLarge: a cache is read whatever its length, and only what is kept takes
// memory for keys.
func TestLarge(t *testing.T) {
	c := sample()
	note := c.Credentials[0]
	note.Server.Realm = configRealm
	note.Ticket = make([]byte, 1<<20)
	c.Credentials = []Credential{c.Credentials[0], note, note, note, c.Credentials[1]}
	b := encode(t, c)
	require.Greater(t, len(b), 3<<20)
	taken := 0
	got, err := Read(stream.NewReader(bytes.NewReader(b), int64(len(b)), make([]byte, stream.MinBuffer)), func(n int) ([]byte, error) {
		taken += n
		return make([]byte, n), nil
	})
	require.NoError(t, err)
	require.Equal(t, sample(), got)
	require.Equal(t, 64, taken)

	_, err = Read(stream.NewReader(bytes.NewReader(b), MaxSize+1, make([]byte, stream.MinBuffer)), nil)
	require.ErrorIs(t, err, ErrMalformed)
}

// TestReadFails: no memory for keys, and a source that fails, are not a malformed
// cache.
func TestReadFails(t *testing.T) {
	b := encode(t, sample())
	full := errors.New("full")
	_, err := Read(stream.NewReader(bytes.NewReader(b), int64(len(b)), make([]byte, stream.MinBuffer)), func(int) ([]byte, error) { return nil, full })
	require.ErrorIs(t, err, full)
	src := io.MultiReader(bytes.NewReader(b[:len(b)-9]), iotest.ErrReader(full))
	_, err = Read(stream.NewReader(src, int64(len(b)), make([]byte, stream.MinBuffer)), func(n int) ([]byte, error) { return make([]byte, n), nil })
	require.ErrorIs(t, err, full)
	require.NotErrorIs(t, err, ErrMalformed)
}

func TestClone(t *testing.T) {
	c := sample()
	d, err := c.Clone(func(n int) ([]byte, error) { return make([]byte, n), nil })
	require.NoError(t, err)
	require.Equal(t, c, d)
	clear(c.Credentials[0].Key.Value)
	require.Equal(t, sample(), d)
	_, err = c.Clone(func(int) ([]byte, error) { return nil, io.ErrShortBuffer })
	require.ErrorIs(t, err, io.ErrShortBuffer)
}

func TestDamage(t *testing.T) {
	good := encode(t, sample())
	none := len(encode(t, &Cache{Client: sample().Client}))
	one := len(encode(t, &Cache{Client: sample().Client, Credentials: sample().Credentials[:1]}))
	kept := func(n int) int {
		switch {
		case n == none:
			return 0
		case n >= one:
			return 1
		}
		return -1
	}
	parse := func(b []byte) (int, error) {
		c, err := Parse(b)
		if err != nil {
			return 0, err
		}
		return len(c.Credentials), nil
	}
	filetest.Damage(t, parse, ErrMalformed, good, kept, map[string][]byte{
		"version 2":           {5, 2, 0, 0},
		"header past the end": {5, 4, 0, 9, 0},
		"no client":           {5, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 'R'},
		"4 GiB":               {5, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff},
		"many components":     {5, 4, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 'R'},
		"field past header":   {5, 4, 0, 8, 0, 1, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0},
		"short offset":        {5, 4, 0, 8, 0, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0},
		"three bytes left":    {5, 4, 0, 3, 0, 1, 0},
	})
}

// FuzzParse: what is read is written so that it is read again.
func FuzzParse(f *testing.F) {
	f.Add(encode(f, sample()))
	for _, b := range filetest.Captured(f, "testdata/*.ccache") {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse(b)
		if err != nil {
			return
		}
		buf, err := c.MarshalTo(make([]byte, c.Size()))
		require.NoError(t, err)
		got, err := Parse(buf)
		require.NoError(t, err)
		require.Equal(t, c, got)
	})
}
