package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	root   = "../.."
	module = "github.com/sealctx/sealctx"
)

// A pkg is what the go command says of a package.
type pkg struct {
	ImportPath, Name, Doc, Dir         string
	GoFiles, CgoFiles, TestGoFiles     []string
	Imports, TestImports, XTestImports []string
	Deps                               []string
}

// path is the package's place in the module; the root is ".".
func (p *pkg) path() string { return inModule(p.ImportPath) }

func inModule(importPath string) string {
	if importPath == module {
		return "."
	}
	rest, _ := strings.CutPrefix(importPath, module+"/")
	return rest
}

func ours(importPath string) bool {
	return importPath == module || strings.HasPrefix(importPath, module+"/")
}

// within reports whether a path is a tree's root or below it.
func within(path, tree string) bool {
	return path == tree || strings.HasPrefix(path, tree+"/")
}

func withinAny(path string, trees []string) bool {
	for _, tree := range trees {
		if within(path, tree) {
			return true
		}
	}
	return false
}

var list = sync.OnceValues(func() ([]*pkg, error) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Dir,GoFiles,CgoFiles,TestGoFiles,Imports,TestImports,XTestImports,Deps", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, errors.Join(err, errors.New(stderr.String()))
	}
	var all []*pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		p := &pkg{}
		if err := d.Decode(p); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
})

// packages are all packages of this module.
func packages(t testing.TB) []*pkg {
	t.Helper()
	all, err := list()
	require.NoError(t, err)
	require.Greater(t, len(all), 8, "the go command has not found this module")
	return all
}

// A source is one file, parsed.
type source struct {
	name string // from the module's root
	fset *token.FileSet
	file *ast.File
}

// files parses the Go files of a package, those of other platforms and builds
// too.
func files(t testing.TB, p *pkg, tests bool) (all []source) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
	require.NoError(t, err)
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") && !tests {
			continue
		}
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		all = append(all, parse(t, p.path()+"/"+filepath.Base(name), string(b)))
	}
	return all
}

func parse(t testing.TB, name, text string) source {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, text, parser.ParseComments)
	require.NoError(t, err)
	return source{name, fset, f}
}

// imports are the paths that a file imports.
func (s source) imports() map[string]bool {
	all := map[string]bool{}
	for _, i := range s.file.Imports {
		all[strings.Trim(i.Path.Value, `"`)] = true
	}
	return all
}

func (s source) at(n ast.Node) string { return s.fset.Position(n.Pos()).String() }
