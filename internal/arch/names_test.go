package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// mostNames is how many names godoc may show at the top of a package: constants,
// variables, types and functions, without methods. A reader who has to choose among
// more reads none of them.
var mostNames = map[string]int{
	"seal":    28,
	"keyring": 22,
	"secctx":  10,
}

// topNames returns the exported names of a package's files.
func topNames(files []*ast.File) []string {
	var names []string
	add := func(id *ast.Ident) {
		if id.IsExported() {
			names = append(names, id.Name)
		}
	}
	for _, f := range files {
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil {
					add(d.Name)
				}
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						add(s.Name)
					case *ast.ValueSpec:
						for _, id := range s.Names {
							add(id)
						}
					}
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func filesOf(t *testing.T, dir string) []*ast.File {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
	require.NoError(t, err)
	var files []*ast.File
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, f)
	}
	require.NotEmpty(t, files, "%s: %v", dir, fs.ErrNotExist)
	return files
}

// The page of a package stays short.
func TestNames(t *testing.T) {
	for dir, most := range mostNames {
		names := topNames(filesOf(t, dir))
		require.LessOrEqual(t, len(names), most, "%s: %v", dir, names)
	}
	// The control.
	f, err := parser.ParseFile(token.NewFileSet(), "p.go", `package p
const A, b = 1, 2
var C int
type ( D int; e int )
func F() {}
func g() {}
func (D) H() {}`, 0)
	require.NoError(t, err)
	require.Equal(t, []string{"A", "C", "D", "F"}, topNames([]*ast.File{f}))
}
