package seal

import (
	"encoding/binary"
	"fmt"

	"github.com/sealctx/sealctx/internal/token"
)

// A Party is a user, a group, a named service or one process of this host. As
// the audience of a token it says who may open it; the zero value is the user
// that reserves it. As an exporter it says whose tokens an importer takes.
// [Host] knows its own user and its own process; groups and services need the
// agent. Parties compare with ==.
type Party struct {
	kind  uint8
	value string // as in the token
}

// An Audience is the Party that may open a token. A sealer that cannot hold a
// token to its audience refuses to make one.
type Audience = Party

// User is every process that runs as a user id.
func User(uid uint32) Audience {
	return Audience{token.KindUser, string(binary.BigEndian.AppendUint32(nil, uid))}
}

// Group is every process that is in a group.
func Group(gid uint32) Audience {
	return Audience{token.KindGroup, string(binary.BigEndian.AppendUint32(nil, gid))}
}

// Service is every process that the agent's policy gives the name. The name has
// 1 to 64 bytes of letters, digits, '.', '_' and '-': else ErrAudience.
func Service(name string) (Audience, error) {
	a := Audience{token.KindService, name}
	if !a.valid() {
		return Audience{}, fmt.Errorf("%w: %q is not the name of a service", ErrAudience, name)
	}
	return a, nil
}

// process is a process, see Process.
func process(pid uint32, number uint64) Audience {
	v := binary.BigEndian.AppendUint32(nil, pid)
	return Audience{token.KindProcess, string(binary.BigEndian.AppendUint64(v, number))}
}

// String says who is meant, for logs and errors.
func (a Audience) String() string {
	if a == (Audience{}) {
		return "the reserving user"
	}
	if !a.valid() {
		return "nobody known to this version"
	}
	v := []byte(a.value)
	switch a.kind {
	case token.KindUser:
		return fmt.Sprintf("user %d", binary.BigEndian.Uint32(v))
	case token.KindGroup:
		return fmt.Sprintf("group %d", binary.BigEndian.Uint32(v))
	case token.KindService:
		return fmt.Sprintf("service %s", a.value)
	}
	return fmt.Sprintf("process %d", binary.BigEndian.Uint32(v))
}

// valid reports whether kind and value go together.
func (a Audience) valid() bool {
	switch a.kind {
	case token.KindUser, token.KindGroup:
		return len(a.value) == 4
	case token.KindProcess:
		return len(a.value) == 12
	case token.KindService:
		return serviceName(a.value)
	}
	return false
}

func serviceName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c|0x20 < 'a' || c|0x20 > 'z' {
			if (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
				return false
			}
		}
	}
	return len(s) >= 1 && len(s) <= token.MaxAudience
}

func (a Audience) wire() token.Audience {
	return token.Audience{Kind: a.kind, Value: []byte(a.value)}
}

func fromWire(w token.Audience) Audience { return Audience{w.Kind, string(w.Value)} }
