//go:build !race

package seal

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A token takes at most eight allocations there and eight back. (The race
// detector adds its own.)
func TestAllocations(t *testing.T) {
	const most = 8
	h := memHost(t, nil)
	plain := make([]byte, 1165)
	var tokens [][]byte
	const runs = 200
	there := testing.AllocsPerRun(runs, func() {
		r, err := h.Reserve(testRequest)
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := r.Seal(plain)
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, sealed)
	})
	back := testing.AllocsPerRun(runs, func() {
		s, err := h.Open(tokens[0], testFormat)
		if err != nil {
			t.Fatal(err)
		}
		s.Wipe()
		tokens = tokens[1:]
	})
	require.LessOrEqual(t, there, float64(most))
	require.LessOrEqual(t, back, float64(most))
	// The control: one more allocation a token is noticed.
	var kept []*[64]byte
	require.Greater(t, testing.AllocsPerRun(runs, func() {
		for range most + 1 {
			kept = append(kept[:0], new([64]byte))
		}
	}), float64(most))
}
