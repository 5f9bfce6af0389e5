// Package holder opens the holder of host keys that a command is about: this process,
// with the keys of its user, or an agent.
package holder

import (
	"fmt"
	"path/filepath"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
)

// A Holder seals and opens tokens, and knows how its keys stand. A seal.Host is one,
// and so is a client of the agent. String says which holder it is.
type Holder interface {
	seal.Sealer
	fmt.Stringer

	Status(token []byte) (seal.State, error)
	Keys() ([]seal.Key, error)
	Rotate() error
	Retire(id [16]byte) error
	Close() error
}

var (
	_ Holder = (*seal.Host)(nil)
	_ Holder = (*agent.Client)(nil)
)

// Open returns the agent at a socket or, if that is empty, the keys of this process's
// user. It hardens this process first, which may hold a key.
func Open(socket string) (Holder, error) {
	if err := memsafe.Harden(); err != nil {
		return nil, err
	}
	if socket == "" {
		h, err := seal.OpenHost(nil)
		if err != nil {
			return nil, err
		}
		return h, nil
	}
	path, err := filepath.Abs(socket)
	if err != nil {
		return nil, err
	}
	c, err := agent.Dial(path)
	if err != nil {
		return nil, fmt.Errorf("agent at %s: %w", path, err)
	}
	return c, nil
}
