// Package holder is whoever holds host keys: this process, with the keys of its
// user, or an agent.
package holder

import (
	"fmt"
	"path/filepath"

	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
)

// A Holder seals and opens tokens and knows how its keys stand.
type Holder interface {
	seal.Sealer

	// Name says who it is.
	Name() string

	// Epochs lists the living epochs. known is false for a user whom the agent
	// does not tell.
	Epochs() (list []keyring.Info, known bool, err error)

	// State tells how a token stands, without spending it.
	State(token []byte) (seal.State, error)

	// Rotate makes new keys; outstanding tokens stay good.
	Rotate() error

	// Retire ends an epoch; its outstanding tokens are worthless.
	Retire(id [16]byte) error

	Close() error
}

// Open returns the agent at a socket or, where that is empty, the keyring of
// this process's user. It hardens this process first, which may hold a key.
func Open(socket string) (Holder, error) {
	if err := memsafe.Harden(); err != nil {
		return nil, err
	}
	if socket != "" {
		path, err := filepath.Abs(socket)
		if err != nil {
			return nil, err
		}
		c, err := agent.Dial(path)
		if err != nil {
			return nil, fmt.Errorf("agent at %s: %w", path, err)
		}
		return &remote{c, path}, nil
	}
	h, err := seal.OpenHost()
	if err != nil {
		return nil, err
	}
	return &own{h}, nil
}

// own is the keyring of this user.
type own struct{ *seal.Host }

func (o *own) Name() string { return "keyring " + o.Ring().Dir() }

func (o *own) Epochs() ([]keyring.Info, bool, error) {
	list, err := o.Ring().Epochs()
	return list, true, err
}

func (o *own) State(token []byte) (seal.State, error) {
	_, state, err := o.Status(token)
	return state, err
}

func (o *own) Rotate() error            { return o.Ring().Rotate() }
func (o *own) Retire(id [16]byte) error { return o.Ring().Retire(id) }

// remote is an agent.
type remote struct {
	*agent.Client
	path string
}

func (r *remote) Name() string { return "agent " + r.path }

func (r *remote) Epochs() ([]keyring.Info, bool, error) {
	st, err := r.Status()
	if err != nil {
		return nil, false, err
	}
	return st.Epochs, st.Admin, nil
}

func (r *remote) State(token []byte) (seal.State, error) { return r.Inspect(token) }
