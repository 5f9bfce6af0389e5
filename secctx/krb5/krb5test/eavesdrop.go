package krb5test

import (
	"bytes"
	"encoding/binary"

	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

// Eavesdrop does what a thief does that has some bytes and a recording of the
// wire: at every offset of data it takes what stands there for the keys of an
// encryption type, and tries them on a sealed Wrap token (RFC 4121 section
// 4.2.6.2). It returns where the keys stand and the message that they opened,
// authenticated; ok is false where no bytes of data are the token's keys.
func Eavesdrop(data, token []byte) (offset, size int, message []byte, ok bool) {
	const header, rrcAt = 16, 6 // RRC, behind it, may differ inside
	if len(token) < header || binary.BigEndian.Uint16(token) != 0x0504 {
		return 0, 0, nil, false
	}
	ec, rrc := int(binary.BigEndian.Uint16(token[4:])), int(binary.BigEndian.Uint16(token[6:]))
	body := token[header:]
	if len(body) > 0 { // undo the rotation to the right
		n := rrc % len(body)
		body = append(bytes.Clone(body[n:]), body[:n]...)
	}
	for _, id := range Enctypes() {
		id := etype.ID(id)
		size := id.KeySize() + id.MACKeySize()
		end := len(body) - id.MACSize() - header - ec
		for at := 0; at+size <= len(data) && end >= etype.BlockSize; at++ {
			ke, ki := data[at:at+id.KeySize()], data[at+id.KeySize():at+size]
			plain := open(id, ke, ki, body)
			// Types 19 and 20 authenticate the ciphertext, so Ki alone is right
			// where the header inside is not the one outside.
			if plain != nil && bytes.Equal(plain[end+ec:end+ec+rrcAt], token[:rrcAt]) {
				return at, size, plain[etype.BlockSize:end], true
			}
		}
	}
	return 0, 0, nil, false
}

func open(id etype.ID, ke, ki, body []byte) []byte {
	c, err := etype.NewCipher(id, ke, etype.Opening)
	if err != nil {
		return nil
	}
	defer c.Wipe()
	b := bytes.Clone(body)
	if c.Open(ki, b, nil) != nil {
		return nil
	}
	return b
}
