package doctor

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/holder"
	"github.com/sealctx/sealctx/seal"
)

// The token of a round trip: of a plain format that no mechanism has, for a
// moment, and as large as a context's.
const (
	probeFormat   = "sealctx/probe"
	probeLifetime = 10 * time.Second
	probeSize     = 1024
)

// RoundTrip seals random bytes for this user, opens the token, and checks that
// the same bytes came back and that the token is gone. It returns how long
// sealing and opening took. Nothing of it stays outstanding.
func RoundTrip(h holder.Holder) (time.Duration, error) {
	plain := make([]byte, probeSize)
	if _, err := rand.Read(plain); err != nil {
		return 0, err
	}
	began := time.Now()
	r, err := h.Reserve(seal.Request{Format: probeFormat, Lifetime: probeLifetime})
	if err != nil {
		return 0, fmt.Errorf("reserving: %w", err)
	}
	token, err := r.Seal(plain)
	if err != nil {
		return 0, fmt.Errorf("sealing: %w", err)
	}
	opened, err := h.Open(token, probeFormat)
	if err != nil {
		return 0, fmt.Errorf("opening: %w", err)
	}
	took := time.Since(began)
	same := bytes.Equal(opened.Bytes(), plain)
	opened.Wipe()
	switch {
	case !same:
		return took, errors.New("what was opened is not what was sealed")
	case bytes.Contains(token, plain[:16]):
		return took, errors.New("the token has the plain bytes in clear")
	}
	// Asked and not tried: a second opening is an alarm in an agent's log.
	state, err := h.Status(token)
	switch {
	case err != nil:
		return took, fmt.Errorf("asking for the state of the opened token: %w", err)
	case state != seal.Gone:
		return took, fmt.Errorf("the opened token is %v and not gone: it could be opened twice", state)
	}
	return took, nil
}
