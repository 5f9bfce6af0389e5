package wire

import "fmt"

// An Op is an operation.
type Op uint8

// The operations.
const (
	Reserve  Op = 1
	Open     Op = 2
	TakeBack Op = 3
	Cancel   Op = 4
	Inspect  Op = 5
	Stat     Op = 6
	Rotate   Op = 7
	Retire   Op = 8
	Prepare  Op = 9
	Seal     Op = 10
	OpenAny  Op = 11
)

// An Operation is what the protocol says of an Op.
type Operation struct {
	// Name is for logs and metrics.
	Name string

	// Admin: only root and the agent's user may.
	Admin bool

	// Spends: the request may spend a token. It is not sent again. Without an answer the
	// client does not know whether the token is spent.
	Spends bool

	// Descriptor: the request brings a descriptor of the process that is its audience.
	Descriptor bool

	// Body says how long the request's body may be.
	Body Body
}

// A Body is a kind of request body.
type Body uint8

// The kinds of body, by what they carry.
const (
	Small     Body = iota // neither a token nor a plain token: a few hundred bytes
	WithToken             // a token, and at most MaxBesideToken bytes
	WithPlain             // a plain token, and at most MaxBesidePlain bytes
)

// operations is the protocol's table. An operation is known if it has a name here.
var operations = [...]Operation{
	Reserve:  {Name: "reserve", Descriptor: true},
	Open:     {Name: "open", Spends: true, Body: WithToken},
	TakeBack: {Name: "take back", Spends: true, Body: WithToken},
	Cancel:   {Name: "cancel", Spends: true},
	Inspect:  {Name: "inspect", Body: WithToken},
	Stat:     {Name: "status"},
	Rotate:   {Name: "rotate", Admin: true},
	Retire:   {Name: "retire", Admin: true},
	Prepare:  {Name: "prepare", Descriptor: true},
	Seal:     {Name: "seal", Body: WithPlain},
	OpenAny:  {Name: "open any", Spends: true, Body: WithToken},
}

// Known reports whether this version has the operation.
func (o Op) Known() bool { return o.Operation().Name != "" }

// Operation returns what the protocol says of the operation: the zero value if this
// version does not have it.
func (o Op) Operation() Operation {
	if int(o) >= len(operations) {
		return Operation{}
	}
	return operations[o]
}

// String returns the operation's name, "none" for 0, and the number of an unknown one.
func (o Op) String() string {
	switch name := o.Operation().Name; {
	case name != "":
		return name
	case o == 0:
		return "none"
	}
	return fmt.Sprintf("operation %d", uint8(o))
}
