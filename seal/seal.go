package seal

import (
	"time"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/memsafe"
)

// Limits of this package.
const (
	// DefaultLifetime is how long a token can be opened unless the request says
	// otherwise: a handover takes milliseconds, a queue of them seconds.
	DefaultLifetime = 2 * time.Minute

	// MaxPlain is the longest plain token, in bytes.
	MaxPlain = token.MaxPlain

	// MaxToken is the longest sealed token, in bytes.
	MaxToken = token.MaxToken
)

// A Sealer reserves and opens tokens. *Host is one, and so is a client of the
// agent. All methods are safe for concurrent use.
type Sealer interface {
	// Reserve does everything that can fail before a context is given up: it
	// takes a slot of the register and derives the token's keys. Errors:
	// ErrRequest, ErrAudience, ErrUnavailable, and ErrUnauthorized where a policy
	// does not allow it.
	Reserve(Request) (*Reservation, error)

	// Open authenticates a token, then checks its lifetime, its audience and that
	// its plain format is one of formats, then claims it (doc/SPEC.md, section 9).
	// It returns the plain token, which the caller wipes. Errors, in this order:
	// ErrDefective, ErrExpired, ErrUnauthorized, ErrFormat, ErrSpent, ErrLost; at
	// any step ErrUnavailable. Only a nil error and ErrLost spend the token, and
	// maybe the ErrUncertain of package agent; where ErrLost wraps another, it
	// comes first.
	Open(token []byte, formats ...string) (*memsafe.Secret, error)

	// OpenFrom is Open for a token that one of exporters must have exported, a
	// user, a group or a service: else ErrUnauthorized, which names the exporter.
	// A group or a service counts as it was when the token was reserved, a service
	// by the policy of now. Further errors, before the token is looked at:
	// ErrRequest for no exporter or more than 16; ErrAudience for a
	// process, and without an agent for a group or a service.
	OpenFrom(exporters []Party, token []byte, formats ...string) (*memsafe.Secret, error)

	// TakeBack is Open for the user who reserved the token, whatever its
	// audience: ErrUnauthorized for others. Of Open and TakeBack one wins.
	TakeBack(token []byte, formats ...string) (*memsafe.Secret, error)
}

// A Request says what a token will be.
type Request struct {
	// Format names the family of programs that read the plain token: say
	// "mit/2/amd64". 1 to 64 printable ASCII characters. Only an opener that
	// asks for the same gets it.
	Format string

	// Mechanism is the object identifier of the context's mechanism, DER
	// without tag and length, at most 64 bytes; it may be empty.
	Mechanism []byte

	// Audience is who may open the token. Zero: the reserving user.
	Audience Audience

	// Lifetime is how long the token can be opened. Zero: DefaultLifetime. A
	// longer one than the epoch allows is cut to that.
	Lifetime time.Duration
}

// A Header is what stands in clear in a token.
type Header struct {
	Suite     string        // the AEAD
	Epoch     [16]byte      // the id of the host key
	Slot      uint32        // its place in the register
	Issued    time.Duration // since the host booted
	Expires   time.Duration // since the host booted
	Mechanism []byte        // object identifier, DER without tag and length
	Format    string        // plain format
	Exporter  uint32        // user id
	Audience  Audience
}

// Inspect reads the clear part of a token. Nothing of it is authenticated:
// anybody can write such bytes. It returns ErrDefective for what is no token
// (doc/SPEC.md, section 2). The Header holds copies.
func Inspect(b []byte) (Header, error) {
	t, err := token.Parse(b)
	if err != nil {
		return Header{}, ErrDefective
	}
	return Header{
		Suite:     suiteName(t.Suite),
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
