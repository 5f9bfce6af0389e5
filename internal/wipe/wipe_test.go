package wipe

import (
	"reflect"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

type (
	numbers struct {
		a [2]uint64
		b struct {
			c uint16
			d bool
			e float32
		}
	}
	pointing struct{ p *[4]byte }
)

// TestObject: what is numbers through and through is zeroed, behind a pointer or
// a struct of one.
func TestObject(t *testing.T) {
	full := numbers{a: [2]uint64{1, 2}}
	full.b.c, full.b.d, full.b.e = 3, true, 4
	around := [3]numbers{full, full, full}
	require.True(t, Object(&around[1]))
	require.Equal(t, [3]numbers{full, {}, full}, around, "no more and no less")
	require.True(t, Object(struct{ p *numbers }{&around[0]}))
	require.Equal(t, [3]numbers{{}, {}, full}, around)
}

// TestOthersAreLeftAlone: what has pointers in it, or is none, is not touched.
func TestOthersAreLeftAlone(t *testing.T) {
	full := [4]byte{1, 2, 3, 4}
	kept := full
	for _, object := range []any{
		7, "text", kept[:], [1]int{7}, struct{ a, b *[4]byte }{&kept, &kept}, struct{ b []byte }{kept[:]},
		&pointing{&kept}, struct{ p *pointing }{&pointing{&kept}}, struct{ n int }{7}, struct{}{},
		map[int]int{1: 1}, make(chan int), func() {}, &struct{ f func() }{}, &struct{ s string }{"text"},
		&[2]any{1, 2}, &struct{ c chan int }{}, &map[int]int{1: 1}, &struct{ s []byte }{kept[:]},
		(*numbers)(nil), struct{ p *numbers }{}, &struct{}{},
	} {
		require.False(t, Object(object), "%T", object)
		require.Equal(t, full, kept, "%T", object)
	}
	require.False(t, Object(nil))
	text := struct{ s string }{"text"}
	Object(&text)
	require.Equal(t, "text", text.s)
	require.True(t, Object(&kept), "control")
	require.Zero(t, kept)
}

// TestConcurrently: the first look at a type may happen at once.
func TestConcurrently(t *testing.T) {
	type fresh [100]uint32
	var all [16]fresh
	var wg sync.WaitGroup
	for i := range all {
		all[i][99] = 1
		wg.Go(func() { Object(&all[i]) })
	}
	wg.Wait()
	require.Zero(t, all)
	Object(new(fresh)) // alone, should the others have kept one another from it
	require.Contains(t, *sizes.Load(), sized{reflect.TypeFor[*fresh](), reflect.TypeFor[fresh]().Size()})
}
