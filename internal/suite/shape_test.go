package suite

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// memory returns the bytes that wipe.Object would zero, found without it.
func memory(object any) []byte {
	t := reflect.TypeOf(object)
	v := reflect.ValueOf(object)
	if t.Kind() == reflect.Struct {
		t, v = t.Field(0).Type, v.Field(0)
	}
	return unsafe.Slice((*byte)(v.UnsafePointer()), t.Elem().Size())
}

// holdsKey reports whether 16 bytes of key stand in memory, as they are or with
// the bytes of each word turned round, as a key schedule may have them.
func holdsKey(memory, key []byte) bool {
	turned := make([]byte, len(key))
	for i := 0; i < len(key); i += 4 {
		binary.BigEndian.PutUint32(turned[i:], binary.LittleEndian.Uint32(key[i:]))
	}
	for at := 0; at+16 <= len(key); at += 4 {
		if bytes.Contains(memory, key[at:at+16]) || bytes.Contains(memory, turned[at:at+16]) {
			return true
		}
	}
	return false
}

// TestCipherShapes holds what wipe.Object counts on: that each cipher in use is a
// pointer to memory without pointers, that its key is in there, and that after
// wiping it is not.
func TestCipherShapes(t *testing.T) {
	for _, st := range All() {
		t.Run(string('0'+rune(st)), func(t *testing.T) {
			key := []byte("a key of 32 bytes, not all equal")
			k, err := st.New(key)
			require.NoError(t, err)
			objects := []any{k.AEAD}
			if st == AES256GCM {
				objects = append(objects, k.block)
			}
			k.Seal(nil, make([]byte, k.NonceSize()), make([]byte, 100), nil) // whatever is made at first use
			for _, object := range objects {
				require.True(t, holdsKey(memory(object), key), "control: no key found in %T", object)
			}
			k.Wipe()
			for _, object := range objects {
				require.False(t, holdsKey(memory(object), key), "%T", object)
				require.Equal(t, make([]byte, len(memory(object))), memory(object), "%T", object)
			}
		})
	}
}
