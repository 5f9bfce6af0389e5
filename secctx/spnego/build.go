package spnego

// A builder writes DER from its end to its beginning, so that each length is
// known when it is written. It makes one allocation.
type builder struct {
	buf []byte
	at  int // what is written begins here
}

// frameRoom is the most bytes that a token takes beside what it carries: seven
// nested tags with lengths of up to four bytes, a state, and two object
// identifiers with their tags, the mechanism's own not counted.
const frameRoom = 96

// newBuilder returns a builder with room for a token that carries size bytes.
func newBuilder(size int) *builder {
	n := size + frameRoom
	return &builder{make([]byte, n), n}
}

// mark is a place to close from: the end of what will be written next.
func (b *builder) mark() int { return b.at }

func (b *builder) put(p []byte) {
	b.at -= len(p)
	copy(b.buf[b.at:], p)
}

// header puts a tag and the length of everything up to end.
func (b *builder) header(tag byte, end int) {
	n := end - b.at
	if n < 0x80 {
		b.put([]byte{tag, byte(n)})
		return
	}
	count := byte(0)
	for ; n > 0; n >>= 8 {
		b.at--
		b.buf[b.at] = byte(n)
		count++
	}
	b.put([]byte{tag, 0x80 | count})
}

// value puts a value with its tag, in the field [n].
func (b *builder) value(n, tag byte, v []byte) {
	end := b.mark()
	b.put(v)
	b.header(tag, end)
	b.header(byte(field(n)), end)
}

func (b *builder) bytes() []byte { return b.buf[b.at:] }

// DER tags that are written.
const (
	derOctets   = 0x04
	derOID      = 0x06
	derEnum     = 0x0a
	derString   = 0x1b
	derSequence = 0x30
	derFrame    = 0x60
)

// build returns the token of a response.
func (t *respToken) build() []byte {
	b := newBuilder(len(t.mech) + len(t.token) + len(t.mic))
	end := b.mark()
	if len(t.mic) > 0 {
		b.value(3, derOctets, t.mic)
	}
	if len(t.token) > 0 {
		b.value(2, derOctets, t.token)
	}
	if t.mech != nil {
		b.value(1, derOID, t.mech)
	}
	if t.state != noState {
		b.value(0, derEnum, []byte{byte(t.state)})
	}
	b.header(derSequence, end)
	b.header(byte(field(respChoice)), end)
	return b.bytes()
}

// build returns the initial token.
func (t *initToken) build() []byte {
	b := newBuilder(len(t.mechTypes) + len(t.mechToken))
	end := b.mark()
	if len(t.mechToken) > 0 {
		b.value(2, derOctets, t.mechToken)
	}
	b.initial(t.mechTypes, end)
	return b.bytes()
}

// hintName is what MS-SPNG section 2.2.1 has every acceptor say.
const hintName = "not_defined_in_RFC4178@please_ignore"

// hints returns the token that an acceptor sends first: a NegTokenInit2 (MS-SPNG
// section 2.2.1) with the mechanisms that it has.
func hints(mechTypes []byte) []byte {
	b := newBuilder(len(mechTypes) + len(hintName))
	end := b.mark()
	b.value(0, derString, []byte(hintName))
	b.header(derSequence, end)
	b.header(byte(field(3)), end)
	b.initial(mechTypes, end)
	return b.bytes()
}

// initial puts the mechanisms before what is there, and the frame around it.
func (b *builder) initial(mechTypes []byte, end int) {
	list := b.mark()
	b.put(mechTypes)
	b.header(byte(field(0)), list)
	b.header(derSequence, end)
	b.header(byte(field(initChoice)), end)
	id := b.mark()
	b.put(oidSPNEGO)
	b.header(derOID, id)
	b.header(derFrame, end)
}

// buildMechs returns the MechTypeList of object identifiers.
func buildMechs(oids [][]byte) []byte {
	size := 0
	for _, o := range oids {
		size += len(o) + 2
	}
	b := newBuilder(size)
	end := b.mark()
	for i := len(oids) - 1; i >= 0; i-- {
		id := b.mark()
		b.put(oids[i])
		b.header(derOID, id)
	}
	b.header(derSequence, end)
	return b.bytes()
}
