package agent

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/internal/conformance"
)

// The sealer in the process and the agent's client are the same to a caller.
func TestConformance(t *testing.T) {
	t.Run("host", func(t *testing.T) {
		conformance.Run(t, conformance.Suite{
			Sealer: func(t *testing.T) seal.Sealer {
				h, err := seal.OpenHost(&seal.Options{Private: true})
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, h.Close()) })
				return h
			},
			Another: func(_ *testing.T, s seal.Sealer) seal.Sealer { return s },
			Retire: func(t *testing.T, s seal.Sealer, epoch [16]byte) {
				require.NoError(t, s.(*seal.Host).Retire(epoch))
			},
		})
	})
	for _, st := range suite.All() {
		t.Run("agent/"+st.String(), func(t *testing.T) {
			conformance.Run(t, conformance.Suite{
				Sealer: func(t *testing.T) seal.Sealer {
					return serveHere(t, &Options{Suites: []string{st.String()}}).dial(t)
				},
				Another: func(t *testing.T, s seal.Sealer) seal.Sealer {
					c, err := Dial(s.(*Client).path)
					require.NoError(t, err)
					t.Cleanup(func() { require.NoError(t, c.Close()) })
					return c
				},
				Retire: func(t *testing.T, s seal.Sealer, epoch [16]byte) {
					require.NoError(t, s.(*Client).Retire(epoch))
				},
			})
		})
	}
}
