package seal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/sealctx/sealctx/internal/pidfd"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal/internal/ask"
)

// A Party is a user, a group, a named service or one process of this host. As
// the audience of a token it says which processes may open it; the zero value is
// the user that reserves the token. As an exporter it says whose tokens an
// importer takes. A Host without an agent knows its own user and its own process;
// groups and services need the agent. Parties compare with ==.
type Party struct {
	kind  uint8
	value string // as in the token
}

// User is every process that runs with this effective user id.
func User(uid uint32) Party {
	return Party{token.KindUser, string(binary.BigEndian.AppendUint32(nil, uid))}
}

// Group is every process that is in this group.
func Group(gid uint32) Party {
	return Party{token.KindGroup, string(binary.BigEndian.AppendUint32(nil, gid))}
}

// Service is every process that the agent's policy gives this name. A name has 1
// to 64 bytes: letters, digits, '.', '_' and '-'. Any other is ErrRequest.
func Service(name string) (Party, error) {
	p := Party{token.KindService, name}
	if !p.valid() {
		return Party{}, fmt.Errorf("%w: %q is not the name of a service: 1 to %d letters, digits, '.', '_' and '-'",
			errAudience, name, token.MaxAudience)
	}
	return p, nil
}

// Process is one process: its id, and a number that no later process with this id
// has (doc/SPEC.md, section 7). It returns an error wrapping ErrRequest if no such
// process is alive, and ErrUnavailable if the kernel does not tell. Both have the
// status GSS_S_FAILURE. Process is safe for concurrent use.
func Process(pid int) (Party, error) {
	n, err := pidfd.Number(pid)
	if err != nil {
		return Party{}, noProcess(fmt.Sprintf("process %d", pid), err)
	}
	return process(uint32(pid), n), nil
}

func process(pid uint32, number uint64) Party {
	return Party{token.KindProcess, string(processValue(pid, number))}
}

func processValue(pid uint32, number uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, pid), number)
}

func noProcess(what string, err error) error {
	kind := ErrUnavailable
	if errors.Is(err, pidfd.ErrEnded) || errors.Is(err, pidfd.ErrForeign) {
		kind = errAudience
	}
	return fmt.Errorf("%w: %s: %w", kind, what, err)
}

// A kind is what there is to know of one kind of party. Its number, the index in
// the table, stands in tokens for good; doc/CHANGING.md says how one is added.
type kind struct {
	least, most int  // length of the value in bytes
	name        bool // the value is a name, see Service

	text func(value []byte) string

	// is reports whether somebody is the party with this value.
	is func(who ask.Somebody, value []byte) (bool, error)

	// agent: only the agent knows who it is. exporter: an importer can demand it.
	agent, exporter bool
}

var kinds = [...]kind{
	token.KindUser: {
		least: 4, most: 4,
		text:     func(v []byte) string { return fmt.Sprintf("user %d", binary.BigEndian.Uint32(v)) },
		is:       func(who ask.Somebody, v []byte) (bool, error) { return who.User() == binary.BigEndian.Uint32(v), nil },
		exporter: true,
	},
	token.KindGroup: {
		least: 4, most: 4,
		text: func(v []byte) string { return fmt.Sprintf("group %d", binary.BigEndian.Uint32(v)) },
		is: func(who ask.Somebody, v []byte) (bool, error) {
			return slices.Contains(who.Groups(), binary.BigEndian.Uint32(v)), nil
		},
		agent: true, exporter: true,
	},
	token.KindService: {
		least: 1, most: token.MaxAudience, name: true,
		text: func(v []byte) string { return "service " + string(v) },
		is: func(who ask.Somebody, v []byte) (bool, error) {
			return slices.Contains(who.Services(), string(v)), nil
		},
		agent: true, exporter: true,
	},
	token.KindProcess: {
		least: 12, most: 12,
		text: func(v []byte) string { return fmt.Sprintf("process %d", binary.BigEndian.Uint32(v)) },
		is: func(who ask.Somebody, v []byte) (bool, error) {
			itself, err := who.Process()
			return string(itself) == string(v), err
		},
	},
}

// known reports whether the table has a kind. Zero is no kind.
func known(k uint8) bool { return int(k) < len(kinds) && kinds[k].is != nil }

// validParty reports whether kind and value go together.
func validParty[V string | []byte](k uint8, value V) bool {
	if !known(k) || len(value) < kinds[k].least || len(value) > kinds[k].most {
		return false
	}
	return !kinds[k].name || isName(value)
}

func isName[V string | []byte](s V) bool {
	for i := range len(s) {
		c := s[i]
		if c|0x20 < 'a' || c|0x20 > 'z' {
			if (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
				return false
			}
		}
	}
	return true
}

func (p Party) valid() bool { return validParty(p.kind, p.value) }

// String says in words which party this is, for logs and errors.
func (p Party) String() string {
	switch {
	case p == (Party{}):
		return "the reserving user"
	case !p.valid():
		return "nobody known to this version"
	}
	return kinds[p.kind].text([]byte(p.value))
}

// isParty reports whether somebody is the party that stands in a token. No process is a
// party of an unknown kind.
func isParty(who ask.Somebody, p token.Audience) (bool, error) {
	if !validParty(p.Kind, p.Value) {
		return false, nil
	}
	return kinds[p.Kind].is(who, p.Value)
}

// AppendBinary appends the party as the agent's protocol has it: its kind, one
// byte, and its value. The zero party is a single zero byte. It never fails.
func (p Party) AppendBinary(b []byte) ([]byte, error) {
	return append(append(b, p.kind), p.value...), nil
}

// MarshalBinary returns what AppendBinary appends.
func (p Party) MarshalBinary() ([]byte, error) { return p.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary writes. It returns an error wrapping
// ErrRequest for anything else, and leaves the party as it was.
func (p *Party) UnmarshalBinary(b []byte) error {
	if len(b) == 1 && b[0] == 0 {
		*p = Party{}
		return nil
	}
	if len(b) == 0 || !(Party{b[0], string(b[1:])}).valid() {
		return fmt.Errorf("%w: no such user, group, service or process", errAudience)
	}
	*p = Party{b[0], string(b[1:])}
	return nil
}

func (p Party) wire() token.Audience {
	return token.Audience{Kind: p.kind, Value: []byte(p.value)}
}

func fromWire(w token.Audience) Party { return Party{w.Kind, string(w.Value)} }
