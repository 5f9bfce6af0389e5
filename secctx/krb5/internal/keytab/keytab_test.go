package keytab

import (
	"bytes"
	"encoding/binary"
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

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		entry, ticket uint32
		want          bool
	}{
		{2, 2, true}, {2, 3, false}, {3, 2, false}, {259, 259, true}, {259, 3, false}, {259, 260, false},
		{0, 7, true}, {7, 0, true}, {0, 0, true}, // any
		{2, 258, false},
	} {
		e := Entry{KVNO: c.entry}
		require.Equal(t, c.want, e.Matches(c.ticket), c)
	}
}

func TestDamage(t *testing.T) {
	good := encode(t, sample())
	one := len(encode(t, sample()[:1]))
	kept := func(n int) int {
		switch {
		case n == 2:
			return 0
		case n >= one:
			return 1
		}
		return -1
	}
	parse := func(b []byte) (int, error) {
		entries, err := Parse(b)
		return len(entries), err
	}
	filetest.Damage(t, parse, ErrMalformed, good, kept, map[string][]byte{
		"version 1":            {5, 1},
		"other file":           []byte("#!/bin/sh"),
		"hole past the end":    {5, 2, 0xff, 0xff, 0xff, 0xff},
		"largest hole":         {5, 2, 0x80, 0, 0, 0},
		"record past the end":  {5, 2, 0x7f, 0xff, 0xff, 0xff, 0},
		"too large":            append([]byte{5, 2}, make([]byte, MaxSize)...),
		"a newline":            {5, 2, '\n'},
		"no components":        {5, 2, 0, 0, 0, 5, 0, 0, 0, 1, 'R'},
		"too many components":  {5, 2, 0, 0, 0, 5, 0, 17, 0, 1, 'R'},
		"components not there": {5, 2, 0, 0, 0, 5, 0, 1, 0, 1, 'R'},
	})
}

// TestTail: what editors, templates and interrupted writers leave behind the last
// record is its end, as it is for MIT's library.
func TestTail(t *testing.T) {
	good := encode(t, sample())
	for _, tail := range []string{"", "\n", "\r\n", "\x00", "\x00\x00\x00", "\n\n\n", "\x00\x00\x00\x00", "\x00\x00\x00\x00\n", "\n\n\n\n",
		"\x00\x00\x00\x5a12345", "\x80\x00\x00\x00", "\xff\xff\xff\x00", "\x7f\xff\xff\xff", string(good[2:40]), strings.Repeat("\x00", 9000)} {
		entries, err := Parse(append(bytes.Clone(good), tail...))
		require.NoError(t, err, "%q", tail)
		require.Equal(t, sample(), entries, "%q", tail)
	}
}

// TestDamagedRecord: a record that holds no entry loses none behind it.
func TestDamagedRecord(t *testing.T) {
	entry := encode(t, sample()[:1])[2:]
	for name, body := range map[string]string{
		"no components":   "\x00\x00\x00\x01R",
		"many components": "\x00\x11\x00\x01R",
		"cut name":        "\x00\x01\x00\x09R",
		"long name":       "\x00\x01\xff\xff" + strings.Repeat("R", 0xffff),
		"NUL in the name": strings.ReplaceAll(string(entry[4:]), "www.", "w\x00w."),
		"no key":          string(entry[4:len(entry)-4-34]) + "\x00\x00",
		"long key":        string(entry[4:len(entry)-4-34]) + "\x00\x41" + strings.Repeat("k", 65),
		"cut key":         string(entry[4 : len(entry)-10]),
		"zeroed":          strings.Repeat("\x00", 40),
	} {
		b := binary.BigEndian.AppendUint32([]byte{5, 2}, uint32(len(body)))
		b = append(append(b, body...), entry...)
		entries, err := Parse(b)
		require.NoError(t, err, name)
		require.Equal(t, sample()[:1], entries, name)
		_, err = Parse(b[:len(b)-len(entry)])
		require.ErrorIs(t, err, ErrMalformed, name)
	}
}

// TestReadFails: no memory for keys, and a source that fails, are not a malformed
// table.
func TestReadFails(t *testing.T) {
	b := encode(t, sample())
	full := errors.New("full")
	_, err := Read(stream.NewReader(bytes.NewReader(b), int64(len(b)), make([]byte, stream.MinBuffer)), func(int) ([]byte, error) { return nil, full })
	require.ErrorIs(t, err, full)
	src := io.MultiReader(bytes.NewReader(b[:len(b)-9]), iotest.ErrReader(full))
	_, err = Read(stream.NewReader(src, int64(len(b)), make([]byte, stream.MinBuffer)), func(n int) ([]byte, error) { return make([]byte, n), nil })
	require.ErrorIs(t, err, full)
	require.NotErrorIs(t, err, ErrMalformed)
	_, err = Clone(sample(), func(int) ([]byte, error) { return nil, full })
	require.ErrorIs(t, err, full)
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
			entries[i].Short = entries[i].KVNO == 0
		}
		again, err := MarshalTo(make([]byte, 2*len(b)+64), entries)
		require.NoError(t, err)
		got, err := Parse(again)
		require.NoError(t, err)
		require.Equal(t, entries, got)
	})
}
