package kmsg

import (
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// A Key is an EncryptionKey (RFC 4120 section 5.2.9). It prints as redacted.
type Key struct {
	EType int32
	Value []byte // a slice of the message it was read from
}

// Format keeps the key out of every log.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "[key of enctype %d]", k.EType) }

func readKey(s *cryptobyte.String, n uint8, k *Key) bool {
	var seq cryptobyte.String
	return sequence(s, n, &seq) && readInt32(&seq, 0, &k.EType) && readOctets(&seq, 1, &k.Value) && seq.Empty()
}

func addKey(b *cryptobyte.Builder, n uint8, k Key) {
	b.AddASN1(field(n), func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 0, int64(k.EType))
			addOctets(b, 1, k.Value)
		})
	})
}

// Encrypted is an EncryptedData (RFC 4120 section 5.2.9).
type Encrypted struct {
	EType   int32
	KVNO    uint32
	HasKVNO bool
	Cipher  []byte
}

func readEncrypted(s *cryptobyte.String, n uint8, e *Encrypted) bool {
	var seq cryptobyte.String
	if !sequence(s, n, &seq) || !readInt32(&seq, 0, &e.EType) {
		return false
	}
	if e.HasKVNO = has(&seq, 1); e.HasKVNO && !readUint32(&seq, 1, &e.KVNO) {
		return false
	}
	return readOctets(&seq, 2, &e.Cipher) && seq.Empty()
}

func addEncrypted(b *cryptobyte.Builder, n uint8, e Encrypted) {
	b.AddASN1(field(n), func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addInt(b, 0, int64(e.EType))
			if e.HasKVNO {
				addInt(b, 1, int64(e.KVNO))
			}
			addOctets(b, 2, e.Cipher)
		})
	})
}

// readHead reads the fields pvno [0] and msg-type [1].
func readHead(s *cryptobyte.String, msgType int64) error {
	var pvno, mt int64
	if !readInt(s, 0, 0, 255, &pvno) {
		return ErrMalformed
	}
	if pvno != Version {
		return ErrVersion
	}
	if !readInt(s, 1, 0, 255, &mt) {
		return ErrMalformed
	}
	if mt != msgType {
		return ErrMsgType
	}
	return nil
}

func addHead(b *cryptobyte.Builder, msgType int64) {
	addInt(b, 0, Version)
	addInt(b, 1, msgType)
}
