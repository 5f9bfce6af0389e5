package memsafe

import (
	"fmt"
	"log/slog"
	"runtime"
)

// redacted is what every way of printing a secret prints.
const redacted = "[redacted]"

// A Secret is a run of bytes in a [Pool]. It prints as redacted and its value
// cannot be compared with ==; compare contents with crypto/subtle. One
// goroutine at a time may use it.
type Secret struct {
	_ [0]func() // not comparable

	// Offsets and not a slice: a printer that reaches unexported fields by
	// reflection finds no bytes to print.
	pool *Pool
	off  int
	n    int
	room int
}

// Bytes returns the secret itself, not a copy. The slice is valid until Wipe
// or the pool's Close; after either, Bytes returns nil.
func (s *Secret) Bytes() []byte {
	if s == nil || s.room == 0 || s.pool.closed.Load() {
		return nil
	}
	return s.pool.mem.bytes()[s.off : s.off+s.n : s.off+s.n]
}

// Len returns the length of the secret in bytes, zero after Wipe.
func (s *Secret) Len() int {
	if s == nil {
		return 0
	}
	return s.n
}

// Truncate shortens the secret to n bytes and wipes those behind them. It does
// nothing where n is not shorter.
func (s *Secret) Truncate(n int) {
	if b := s.Bytes(); n >= 0 && n < len(b) {
		Wipe(b[n:])
		s.n = n
	}
}

// Wipe zeroes the secret and gives its bytes back to the pool. A second Wipe,
// and one after the pool's Close, does nothing.
func (s *Secret) Wipe() {
	if s == nil || s.room == 0 {
		return
	}
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed.Load() {
		Wipe(p.mem.bytes()[s.off : s.off+s.room])
		p.mark(s.off/granule, s.room/granule, false)
		p.next = min(p.next, s.off/granule)
	}
	s.n, s.room = 0, 0
}

// Wipe zeroes b, which stays the caller's. The stores are not optimised away.
func Wipe(b []byte) {
	clear(b)
	runtime.KeepAlive(b)
}

// Format prints the secret as redacted, whatever the verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (Secret) GoString() string { return redacted }

// LogValue logs the secret as redacted.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText writes the secret as redacted, in JSON and elsewhere.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
