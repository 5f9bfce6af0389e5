package wire

import "fmt"

// A Code is the status of a reply.
type Code uint8

// The codes. Each has one GSS major status.
const (
	OK           Code = 0
	Defective    Code = 1  // not an authentic token of a living epoch; nothing spent
	Expired      Code = 2  // an authentic token, too late; nothing spent
	Unauthorized Code = 3  // an authentic token for another audience; nothing spent
	OtherFormat  Code = 4  // an authentic token of another plain format; nothing spent
	Spent        Code = 5  // opened, cancelled or taken back before
	Unavailable  Code = 6  // the agent lacks something; nothing spent
	BadRequest   Code = 7  // a field is out of range
	BadAudience  Code = 8  // the agent cannot hold a token to that audience
	Refused      Code = 9  // the policy does not allow it
	Quota        Code = 10 // a limit of the peer's user; nothing spent, try later
	Protocol     Code = 11 // not this protocol, or not this version; the connection is closed
	NotYou       Code = 12 // sent by another process than the one that connected; closed
	Unknown      Code = 13 // no epoch of that id
	Stopping     Code = 14 // the agent shuts down; the connection is closed
	Lost         Code = 15 // this request spent the token, too late: no process has the context
)

const lastCode = Lost

// The GSS major status values that occur (RFC 2744, 3.9.1): the routine error
// in bits 16 to 23.
const (
	MajorComplete     = 0
	MajorNoContext    = 8 << 16
	MajorDefective    = 9 << 16
	MajorFailure      = 13 << 16
	MajorUnauthorized = 15 << 16
)

var codes = [lastCode + 1]struct {
	name  string
	major uint32
}{
	OK:           {"ok", MajorComplete},
	Defective:    {"defective", MajorDefective},
	Expired:      {"expired", MajorNoContext},
	Unauthorized: {"unauthorized", MajorUnauthorized},
	OtherFormat:  {"other_format", MajorDefective},
	Spent:        {"spent", MajorNoContext},
	Unavailable:  {"unavailable", MajorFailure},
	BadRequest:   {"bad_request", MajorFailure},
	BadAudience:  {"bad_audience", MajorFailure},
	Refused:      {"refused", MajorUnauthorized},
	Quota:        {"quota", MajorFailure},
	Protocol:     {"protocol", MajorFailure},
	NotYou:       {"not_you", MajorUnauthorized},
	Unknown:      {"unknown", MajorFailure},
	Stopping:     {"stopping", MajorFailure},
	Lost:         {"lost", MajorNoContext},
}

// Known reports whether this version has the code.
func (c Code) Known() bool { return c <= lastCode }

// Major returns the code's GSS major status; GSS_S_FAILURE for an unknown one.
func (c Code) Major() uint32 {
	if !c.Known() {
		return MajorFailure
	}
	return codes[c].major
}

// String returns the code's name, for logs and metrics.
func (c Code) String() string {
	if !c.Known() {
		return fmt.Sprintf("code %d", uint8(c))
	}
	return codes[c].name
}
