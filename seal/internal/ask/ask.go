// Package ask is what package agent needs of package seal and other programs do not:
// who asks a host, and what a reservation is made of.
package ask

import (
	"errors"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/memsafe"
)

// Who is the process that asks a host: the host's own, or a peer of the agent. It knows
// what it is. One goroutine at a time uses a Who, unless the type says otherwise.
type Who interface {
	Somebody

	// Exporter returns the exporter of an authentic token that is in time. An error
	// refuses the token.
	Exporter(token.Header) (Somebody, error)

	// MayReserve returns nil if the process may reserve a token for an audience.
	MayReserve(kind uint8, value string) error

	// MayImport returns nil if the process may open tokens of the token's exporter.
	MayImport(token.Header) error

	// MayInspect reports whether the process may ask how every token stands.
	MayInspect() bool
}

// Somebody is a process as the kernel and a policy describe it.
type Somebody interface {
	User() uint32
	Groups() []uint32
	Services() []string

	// Process returns the process as the value of an audience. An error says that it
	// is not known now.
	Process() ([]byte, error)
}

// ErrAudience is a kind of seal.ErrRequest that has a status of its own in the agent's
// protocol: no process is the audience, or this sealer cannot hold a token to it.
var ErrAudience = errors.New("audience cannot be enforced here")

// A Grant is what a reservation is made of.
type Grant struct {
	Start []byte          // header, context and commitment of the token, as they will stand
	Key   *memsafe.Secret // the token's encryption key; the holder of the Grant wipes it
	Slot  Slot
}

// A Slot is what a reservation holds in a register, here or at the agent. One
// goroutine at a time uses it, except for State.
type Slot interface {
	// Valid returns nil if the sealed token may leave the process. It returns an error
	// wrapping seal.ErrExpired if the token's time is over.
	Valid(sealed []byte) error

	// Cancel returns nil if no process can open the token any more.
	Cancel() error

	// State tells how the slot stands, without asking another process. It may be
	// called at any time, after Release too.
	State() State

	// Release gives back what keeps the register mapped. It is called once.
	Release()
}

// A State is a seal.State.
type State uint8

// The states; the first is that of the zero value. The numbers are those of the
// agent's protocol.
const (
	Unknown     State = 0
	Outstanding State = 1
	Gone        State = 2
	Expired     State = 3
)
