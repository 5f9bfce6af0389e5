package doctor

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
)

// host is a holder in this process; its faults are those that RoundTrip must see.
type host struct {
	*seal.Host
	altered bool // gives back other bytes
	kept    bool // says that an opened token is outstanding
}

func (h *host) Name() string { return "test" }

func (h *host) Epochs() ([]keyring.Info, bool, error) {
	list, err := h.Ring().Epochs()
	return list, true, err
}

func (h *host) Open(token []byte, formats ...string) (*memsafe.Secret, error) {
	s, err := h.Host.Open(token, formats...)
	if err == nil && h.altered {
		s.Bytes()[0] ^= 1
	}
	return s, err
}

func (h *host) State(token []byte) (seal.State, error) {
	_, state, err := h.Status(token)
	if h.kept {
		state = seal.Outstanding
	}
	return state, err
}

func (h *host) Rotate() error            { return h.Ring().Rotate() }
func (h *host) Retire(id [16]byte) error { return h.Ring().Retire(id) }

func TestRoundTrip(t *testing.T) {
	ring, err := keyring.New(&keyring.Options{Outstanding: 1})
	require.NoError(t, err)
	s, err := seal.NewHost(ring, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })

	for range 3 { // nothing stays outstanding, where one token may be
		took, err := RoundTrip(&host{Host: s})
		require.NoError(t, err)
		require.Positive(t, took)
	}
	_, err = RoundTrip(&host{Host: s, altered: true})
	require.ErrorContains(t, err, "not what was sealed")
	_, err = RoundTrip(&host{Host: s, kept: true})
	require.ErrorContains(t, err, "could be opened twice")

	r, err := s.Reserve(seal.Request{Format: "x"})
	require.NoError(t, err)
	_, err = RoundTrip(&host{Host: s})
	require.ErrorIs(t, err, keyring.ErrFull)
	require.NoError(t, r.Cancel())
}
