package seal

import (
	"time"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/memsafe"
)

// A Sealer reserves and opens tokens. A Host is one, and so is a client of the
// agent. All methods are safe for concurrent use.
type Sealer interface {
	// Reserve does everything that can fail before a context is given up: it
	// takes a slot of the register and derives the token's keys. It returns an
	// error wrapping
	//
	//   - ErrRequest, if a field of the Request is out of range, or if this sealer
	//     cannot hold a token to the audience
	//   - ErrUnauthorized, if a policy does not allow it
	//   - ErrUnavailable
	Reserve(Request) (*Reservation, error)

	// Open authenticates a token. It then checks the token's lifetime and
	// audience, and that its plain format is one of formats. Then it claims the
	// token (doc/SPEC.md, section 9) and returns the plain token, which the
	// caller wipes. It returns an error wrapping, in this order of checks,
	//
	//   - ErrDefective
	//   - ErrExpired
	//   - ErrUnauthorized
	//   - ErrFormat
	//   - ErrSpent
	//   - ErrLost, which may wrap another of these
	//   - ErrUnavailable, at any step
	//
	// Success and ErrLost spend the token, and maybe the ErrUncertain of package
	// agent. No other error does.
	Open(token []byte, formats ...string) (*memsafe.Secret, error)

	// OpenFrom is Open for a token that one of exporters has exported. An exporter
	// is a user, a group or a service. A group counts as it was when the token was
	// reserved, a service by the policy of now. If no exporter is the token's, the
	// error wraps ErrUnauthorized, and its text names the user who exported.
	//
	// Before it looks at the token, OpenFrom returns an error wrapping ErrRequest
	// for no exporter or more than 16, and for an exporter that is a process or,
	// without an agent, a group or a service.
	OpenFrom(exporters []Party, token []byte, formats ...string) (*memsafe.Secret, error)

	// TakeBack is Open for the user who reserved the token, whatever its audience.
	// For other users the error wraps ErrUnauthorized. Of all calls of Open and
	// TakeBack for a token one wins.
	TakeBack(token []byte, formats ...string) (*memsafe.Secret, error)
}

// A Request says what a token will be.
type Request struct {
	// Format names the family of programs that read the plain token, for example
	// "mit/2/amd64": 1 to 64 printable ASCII characters without spaces. Only an
	// opener that asks for this format gets the token.
	Format string

	// Mechanism is the object identifier of the context's mechanism: DER without
	// tag and length, at most 64 bytes. It may be empty.
	Mechanism []byte

	// Audience may open the token. Zero: the user that reserves it.
	Audience Party

	// Lifetime is how long the token can be opened. Zero: two minutes. It is cut
	// to the longest lifetime that the key allows.
	Lifetime time.Duration
}

// MaxToken is the length of the longest token, in bytes.
const MaxToken = token.MaxToken

// defaultLifetime is long for a handover, which takes milliseconds, and enough for
// a queue of them.
const defaultLifetime = 2 * time.Minute

// A Header is the part of a token that is in clear.
type Header struct {
	Suite     string        // the AEAD
	Epoch     [16]byte      // id of the host key
	Slot      uint32        // place in the key's register
	Issued    time.Duration // since the host booted
	Expires   time.Duration // since the host booted
	Mechanism []byte        // object identifier, DER without tag and length
	Format    string        // plain format
	Exporter  uint32        // user id
	Audience  Party
}

// Inspect reads the part of a token that is in clear. Nothing of it is
// authenticated: anybody can write such bytes. Host.Status and the agent's
// authenticate. Inspect returns ErrDefective for bytes that are no token
// (doc/SPEC.md, section 2). The Header holds copies.
func Inspect(b []byte) (Header, error) {
	t, err := token.Parse(b)
	if err != nil {
		return Header{}, ErrDefective
	}
	return Header{
		Suite:     t.Suite.String(),
		Epoch:     t.Epoch,
		Slot:      t.Slot,
		Issued:    t.Issued,
		Expires:   t.Expires,
		Mechanism: append([]byte(nil), t.Mechanism...),
		Format:    string(t.Format),
		Exporter:  t.Exporter,
		Audience:  fromWire(t.Audience),
	}, nil
}
