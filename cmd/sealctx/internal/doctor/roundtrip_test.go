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

func (h *host) Open(token []byte, formats ...string) (*memsafe.Secret, error) {
	s, err := h.Host.Open(token, formats...)
	if err == nil && h.altered {
		s.Bytes()[0] ^= 1
	}
	return s, err
}

func (h *host) Status(token []byte) (seal.State, error) {
	state, err := h.Host.Status(token)
	if h.kept {
		state = seal.Outstanding
	}
	return state, err
}

func TestRoundTrip(t *testing.T) {
	s, err := seal.OpenHost(&seal.Options{Private: true, Capacity: 1})
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
