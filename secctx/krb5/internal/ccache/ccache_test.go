package ccache

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5/internal/filetest"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
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

// TestUserToUser: a ticket that no service's key opens is left out.
func TestUserToUser(t *testing.T) {
	c := sample()
	c.Credentials = c.Credentials[1:]
	b := encode(t, c)
	at := bytes.LastIndex(b, []byte("ticket")) - 4 - 4 - 4 - 4 - 1 // length, two counts, flags
	require.Zero(t, b[at])
	b[at] = 1
	got, err := Parse(b)
	require.NoError(t, err)
	require.Empty(t, got.Credentials)
}

func TestDamage(t *testing.T) {
	good := encode(t, sample())
	whole := map[int]bool{
		len(encode(t, &Cache{Client: sample().Client})):                                        true,
		len(encode(t, &Cache{Client: sample().Client, Credentials: sample().Credentials[:1]})): true,
	}
	parse := func(b []byte) error {
		_, err := Parse(b)
		return err
	}
	filetest.Damage(t, parse, ErrMalformed, good, whole, map[string][]byte{
		"version 2":           {5, 2, 0, 0},
		"header past the end": {5, 4, 0, 9, 0},
		"no client":           {5, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 'R'},
		"4 GiB":               {5, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff},
		"many components":     {5, 4, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 'R'},
		"too large":           append(good, make([]byte, MaxSize)...),
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
