package interop

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// info is what a node says of its context, without the lifetime.
func info(t *testing.T, p *proc) string {
	t.Helper()
	words := strings.Fields(p.do("info"))
	require.Len(t, words, 4)
	return strings.Join(words[:3], " ")
}

// requireDead shows that a node which has exported its context cannot use it:
// every call answers NO_CONTEXT, a second export too.
func requireDead(t *testing.T, p *proc) {
	t.Helper()
	for _, command := range [][]any{{"make", "W", 0}, {"make", "S", 0}, {"make", "M", 0}, {"export"}, {"info"}} {
		_, err := p.try(command...)
		require.ErrorContains(t, err, "no-context", "%v after export", command)
	}
}
