package keyring

import (
	"testing"

	"github.com/sealctx/sealctx/internal/memscan"
	"github.com/stretchr/testify/require"
)

// What the derivation left on the stack is erased before the key is lent to who
// may allocate or wait: a collection that moves the stack meanwhile would leave it
// where it was, for good.
func TestDeriveErasesFirst(t *testing.T) {
	e := current(t, newRingT(t, nil))
	result := make(chan [2]int)
	go func() { // whose stack is large enough for looking so deep
		var room [64 << 10]byte
		room[len(room)-1] = 1
		var inside, behind int
		look := func(found *int) func([]byte) error {
			return func(key []byte) error {
				pattern := [16]byte(key)
				*found = memscan.Below(&pattern)
				return nil
			}
		}
		if err := e.Derive("l", nil, look(&inside), look(&behind)); err != nil {
			t.Error(err)
		}
		result <- [2]int{inside, behind}
	}()
	found := <-result
	require.NotZero(t, found[0], "the control: where it was derived it is found")
	require.Zero(t, found[1])
}
