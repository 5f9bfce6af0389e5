package keytab

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5/internal/filetest"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

func sample() []Entry {
	p := kmsg.Principal{Type: kmsg.NTSrvHst, Realm: "EXAMPLE.TEST", Parts: []string{"http", "www.example.test"}}
	at := time.Unix(1_700_000_000, 0)
	return []Entry{
		{Principal: p, Time: at, KVNO: 2, Key: kmsg.Key{EType: 18, Value: bytes.Repeat([]byte{1}, 32)}},
		{Principal: p, Time: at, KVNO: 259, Key: kmsg.Key{EType: 17, Value: bytes.Repeat([]byte{2}, 16)}},
	}
}

func encode(t testing.TB, entries []Entry) []byte {
	b, err := MarshalTo(make([]byte, 4096), entries)
	require.NoError(t, err)
	return bytes.Clone(b)
}

func TestRoundTrip(t *testing.T) {
	got, err := Parse(encode(t, sample()))
	require.NoError(t, err)
	require.Equal(t, sample(), got)
}

// TestMIT reads what MIT's kadmin wrote.
func TestMIT(t *testing.T) {
	for f, b := range filetest.Captured(t, "testdata/*.keytab") {
		entries, err := Parse(b)
		require.NoError(t, err, f)
		require.Len(t, entries, 5, f)
		for i, e := range entries[:4] {
			require.Equal(t, int32(17+i), e.Key.EType)
			require.Equal(t, "SEALCTX.TEST", e.Principal.Realm)
			require.Equal(t, uint32(1), e.KVNO)
			require.False(t, e.Short)
			require.Len(t, e.Key.Value, map[int32]int{17: 16, 18: 32, 19: 16, 20: 32}[e.Key.EType])
		}
		require.Equal(t, "e17/localhost@SEALCTX.TEST", entries[0].Principal.String())
	}
}

// TestHoles: deleted entries are stepped over, an entry of size 0 is the end,
// and an entry without the long key version has the short one.
func TestHoles(t *testing.T) {
	one := encode(t, sample()[:1])[2:]
	hole := append([]byte{0xff, 0xff, 0xff, 0xf8}, make([]byte, 8)...)
	b := append([]byte{5, 2}, hole...)
	b = append(b, one...)
	b = append(b, hole...)
	entries, err := Parse(append(bytes.Clone(b), 0, 0, 0, 0, 'x'))
	require.NoError(t, err)
	require.Equal(t, sample()[:1], entries)

	short := bytes.Clone(one[:len(one)-4])
	short[3] -= 4
	entries, err = Parse(append([]byte{5, 2}, short...))
	require.NoError(t, err)
	require.True(t, entries[0].Short)
	require.True(t, entries[0].Matches(2))
	require.True(t, entries[0].Matches(258), "the short form is the low eight bits")
	require.False(t, entries[0].Matches(3))
	require.False(t, sample()[0].Matches(258))
}

func TestDamage(t *testing.T) {
	good := encode(t, sample())
	sizes := map[int]bool{2: true, len(encode(t, sample()[:1])): true} // whole records, then the end
	parse := func(b []byte) error {
		_, err := Parse(b)
		return err
	}
	filetest.Damage(t, parse, ErrMalformed, good, sizes, map[string][]byte{
		"version 1":            {5, 1},
		"other file":           []byte("#!/bin/sh"),
		"hole past the end":    {5, 2, 0xff, 0xff, 0xff, 0xff},
		"largest hole":         {5, 2, 0x80, 0, 0, 0},
		"record past the end":  {5, 2, 0x7f, 0xff, 0xff, 0xff, 0},
		"too large":            append([]byte{5, 2}, make([]byte, MaxSize)...),
		"no components":        {5, 2, 0, 0, 0, 5, 0, 0, 0, 1, 'R'},
		"too many components":  {5, 2, 0, 0, 0, 5, 0, 17, 0, 1, 'R'},
		"components not there": {5, 2, 0, 0, 0, 5, 0, 1, 0, 1, 'R'},
	})
}

// FuzzParse: what is read is written so that it is read again.
func FuzzParse(f *testing.F) {
	f.Add(encode(f, sample()))
	f.Add([]byte{5, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0})
	for _, b := range filetest.Captured(f, "testdata/*.keytab") {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := Parse(b)
		if err != nil {
			return
		}
		for i := range entries { // what MarshalTo does not keep apart
			if entries[i].KVNO == 0 {
				return
			}
			entries[i].Short = false
		}
		again, err := MarshalTo(make([]byte, 2*len(b)+64), entries)
		require.NoError(t, err)
		got, err := Parse(again)
		require.NoError(t, err)
		require.Equal(t, entries, got)
	})
}
