package keyring

import (
	"fmt"
	"runtime/debug"
)

// guard runs f, which touches a mapped file, and turns the fault of a file that
// is truncated under way into ErrDamaged. Other panics pass through.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		// The runtime's error for a fault is the only one with an address.
		fault, ok := p.(interface {
			error
			Addr() uintptr
		})
		if !ok {
			panic(p)
		}
		err = fmt.Errorf("%w: its file was truncated (%w)", ErrDamaged, fault)
	}()
	return f()
}
