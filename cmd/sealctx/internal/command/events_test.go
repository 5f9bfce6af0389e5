package command

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../../../.."

// TestEvents compares the operator's table of events with what the agent logs, in
// both directions: an alarm is set for the words of the table.
func TestEvents(t *testing.T) {
	text, err := os.ReadFile(root + "/doc/OPERATIONS.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(text), "\n## Events\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")

	logged := map[string]bool{}
	for _, dir := range []string{"seal", "seal/agent", "cmd/sealctx/internal/command"} {
		for _, event := range events(t, filepath.Join(root, dir)) {
			logged[event] = true
		}
	}
	// The controls: a constant of each package, and a message in its place.
	for _, event := range []string{"token opened", "second import of a token", "agent ready", "sandbox"} {
		require.Contains(t, logged, event)
	}
	told := tableEvents(section)
	require.Contains(t, told, "token opened")
	for event := range told {
		require.Contains(t, logged, event, "OPERATIONS has an event that nobody logs")
	}
	prose := strings.Join(strings.Fields(section), " ")
	for event := range logged {
		if !strings.Contains(prose, strconv.Quote(event)) { // in the text, not the table
			require.Contains(t, told, event, "OPERATIONS lacks an event")
		}
	}
}

// tableEvents are the names of the first column.
func tableEvents(section string) map[string]bool {
	told := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| (.*?) \| `).FindAllStringSubmatch(section, -1) {
		for event := range strings.SplitSeq(row[1], ", ") {
			told[event] = true
		}
	}
	delete(told, "msg") // the head of the table
	return told
}

// events are the messages that a package logs: constants whose name says so, and
// literals in a call.
func events(t *testing.T, dir string) (all []string) {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.go")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	add := func(x ast.Expr) {
		if lit, ok := x.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			event, err := strconv.Unquote(lit.Value)
			require.NoError(t, err)
			all = append(all, event)
		}
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				for i, name := range n.Names {
					if strings.HasPrefix(name.Name, "event") && i < len(n.Values) {
						add(n.Values[i])
					}
				}
			case *ast.CallExpr:
				call, ok := n.Fun.(*ast.SelectorExpr)
				if !ok || len(n.Args) == 0 {
					break
				}
				switch call.Sel.Name {
				case "Info", "Warn", "Error":
					add(n.Args[0])
				case "Log":
					add(n.Args[min(2, len(n.Args)-1)])
				}
			}
			return true
		})
	}
	return all
}
