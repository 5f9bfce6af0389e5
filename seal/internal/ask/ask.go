// Package ask is what package agent needs of package seal and other programs do not:
// who asks a host, and what a reservation is made of.
package ask

import (
	"errors"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/memsafe"
)

// Who is the one that asks a host: this process, or a peer of the agent. It decides
// what it is. One goroutine at a time uses it, unless it says otherwise.
type Who interface {
	Somebody

	// Exporter returns the exporter of an authentic token that is in time. The
	// error refuses the token.
	Exporter(token.Header) (Somebody, error)

	// MayReserve returns why it may not reserve a token for an audience, or nil.
	MayReserve(kind uint8, value string) error

	// MayImport returns why it may not open what an exporter reserved, or nil.
	MayImport(token.Header) error

	// MayInspect reports whether it may ask how any token stands, also another's.
	MayInspect() bool
}

// Somebody is a process, by what the kernel and a policy say of it.
type Somebody interface {
	User() uint32
	Groups() []uint32
	Services() []string

	// Process returns the value of a process audience. The error says that it is
	// not known now.
	Process() ([]byte, error)
}

// ErrAudience is the seal.ErrRequest that the agent's protocol tells from others: the
// audience is nobody, or cannot be held to here.
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
	// Valid returns nil if the sealed token may leave the process, and else
	// seal.ErrExpired or another reason.
	Valid(sealed []byte) error

	// Cancel returns nil if no process can open the token any more.
	Cancel() error

	// State tells how the slot stands, without asking another process. It may be
	// called at any time, after Release too.
	State() State

	// Release lets go of what keeps the register at hand. It is called once.
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
