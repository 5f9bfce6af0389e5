package kmsg

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// A node is a DER element: a primitive one has content, another has children.
type node struct {
	tag      asn1.Tag
	content  []byte
	children []*node
}

const constructed = asn1.Tag(0x20)

// parseDER takes a message apart into its elements.
func parseDER(t *testing.T, b []byte) []*node {
	t.Helper()
	var nodes []*node
	for s := cryptobyte.String(b); !s.Empty(); {
		var content cryptobyte.String
		var tag asn1.Tag
		require.True(t, s.ReadAnyASN1(&content, &tag))
		n := &node{tag: tag, content: content}
		if tag&constructed != 0 {
			n.children = parseDER(t, content)
		}
		nodes = append(nodes, n)
	}
	return nodes
}

func (n *node) add(b *cryptobyte.Builder) {
	b.AddASN1(n.tag, func(b *cryptobyte.Builder) {
		if n.tag&constructed == 0 {
			b.AddBytes(n.content)
		}
		for _, c := range n.children {
			c.add(b)
		}
	})
}

func (n *node) bytes() []byte {
	var b cryptobyte.Builder
	n.add(&b)
	return b.BytesOrPanic()
}

// walk calls f with n and all that is in it.
func (n *node) walk(f func(*node)) {
	f(n)
	for _, c := range n.children {
		c.walk(f)
	}
}

// TestNothingBehind: no SEQUENCE, field or message of any kind takes an element
// more than it has: behind the authenticator of an AP-REQ, say, where it would
// travel in clear with a genuine request. The control is the message as it was.
func TestNothingBehind(t *testing.T) {
	extras := map[string]*node{
		"NULL":        {tag: asn1.NULL},
		"OCTETS":      {tag: asn1.OCTET_STRING, content: []byte("more")},
		"later field": {tag: field(29), children: []*node{{tag: asn1.INTEGER, content: []byte{1}}}},
	}
	for name, s := range samples(t) {
		if name == "token" {
			continue // its content is not DER
		}
		t.Run(name, func(t *testing.T) {
			top := parseDER(t, s.msg)
			require.Len(t, top, 1)
			require.Equal(t, s.msg, top[0].bytes())
			_, err := s.rewrite(top[0].bytes())
			require.NoError(t, err)
			places := 0
			top[0].walk(func(n *node) {
				if n.tag&constructed == 0 {
					return
				}
				places++
				for what, extra := range extras {
					n.children = append(n.children, extra)
					_, err := s.rewrite(top[0].bytes())
					require.ErrorIs(t, err, ErrMalformed, "%s in %x", what, n.tag)
					n.children = n.children[:len(n.children)-1]
				}
			})
			require.Greater(t, places, 2)
		})
	}
}

// TestVersionOfEach: every message has a version, and none but 5 is taken.
func TestVersionOfEach(t *testing.T) {
	version := []byte{0xa0, 3, 2, 1, Version}
	for name, s := range samples(t) {
		at := bytes.Index(s.msg, version)
		switch name {
		case "ticket part", "bare ticket part", "AP-REP part", "bare AP-REP part", "KRB-CRED part", "token":
			require.Negative(t, at, "%s has no version", name)
			continue
		}
		require.Positive(t, at, name)
		for _, v := range []byte{0, 4, 6, 127} {
			other := bytes.Clone(s.msg)
			other[at+4] = v
			_, err := s.rewrite(other)
			require.ErrorIs(t, err, ErrVersion, "%s, version %d", name, v)
		}
	}
}

// TestTransitedType: realms in an encoding that nobody knows are not read, and no
// KDC's flag makes them known. Without realms the encoding says nothing.
func TestTransitedType(t *testing.T) {
	part := sampleTicketPart()
	part.Flags |= FlagTransitPolicyChecked
	part.Transited = []byte("MIDDLE.TEST")
	full, err := part.MarshalTo(make([]byte, 4096))
	require.NoError(t, err)
	part.Transited = []byte{}
	empty, err := part.MarshalTo(make([]byte, 4096))
	require.NoError(t, err)
	for kind := range 256 {
		for _, c := range []struct {
			msg   []byte
			taken bool
		}{{full, kind == transitX500}, {empty, true}} {
			msg := bytes.Clone(c.msg)
			at := bytes.Index(msg, []byte{0xa4}) // transited [4]
			at += bytes.Index(msg[at:], []byte{0xa0, 3, 2, 1, transitX500})
			msg[at+4] = byte(kind)
			_, err := ParseTicketPart(msg)
			require.Equal(t, c.taken, err == nil, "type %d: %v", int8(kind), err)
			if !c.taken {
				require.ErrorIs(t, err, ErrMalformed)
			}
		}
	}
}
