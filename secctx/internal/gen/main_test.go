package main

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGenerated: what is checked in is what this command writes.
func TestGenerated(t *testing.T) {
	for file, fakes := range map[string]bool{"combine_gen.go": false, "fakes_gen_test.go": true} {
		want, err := generate(fakes)
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join("..", "..", file))
		require.NoError(t, err)
		require.Equal(t, string(want), string(got), "run go generate in secctx")
	}
}

// TestSets: each set is written once.
func TestSets(t *testing.T) {
	src, err := generate(false)
	require.NoError(t, err)
	for _, f := range families {
		n := bytes.Count(src, []byte("return &"+f.Base))
		require.Equal(t, 1<<len(f.Names)-1, n, f.Iface) // the empty set is the base itself
	}
}

// elsewhere are interfaces of go-gssapi that are no part of what is wrapped, but for
// CredentialExtGGF, which every wrapped credential has.
var elsewhere = []string{
	"CredentialExtGGF", "CredStore",
	"GssMech", "GssMechAttr", "GssMechExtRFC5587", "GssName", "GssNameExtLocalname", "GssNameExtRFC6680", "GssNameType",
}

// known are the interfaces that the wrapper knows what to do with.
func known() []string {
	names := slices.Clone(elsewhere)
	for _, f := range families {
		names = append(names, f.Iface)
		for _, n := range f.Names {
			names = append(names, f.Iface+"Ext"+n)
		}
	}
	slices.Sort(names)
	return names
}

// TestGoGSSAPIHasNoOtherInterface fails when a release of go-gssapi gains, or
// loses, an interface: the wrapper would hide it, or let it past the seal.
func TestGoGSSAPIHasNoOtherInterface(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/golang-auth/go-gssapi/v3").Output()
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "*.go"))
	require.NoError(t, err)
	var found []string
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") {
			found = append(found, interfaces(t, f, nil)...)
		}
	}
	slices.Sort(found)
	require.Equal(t, known(), found)
}

// TestInterfacesAreFound is the positive control of the test above.
func TestInterfacesAreFound(t *testing.T) {
	found := interfaces(t, "new.go", `package gssapi
		type ( ProviderExtNew interface { Provider; New() }
			Alias = interface { SecContext }
			hidden interface { New() }
			Struct struct{} )`)
	require.Equal(t, []string{"ProviderExtNew", "Alias"}, found)
	require.NotSubset(t, known(), found)
}

// interfaces returns the names of the exported interfaces that a file declares.
func interfaces(t *testing.T, file string, src any) (names []string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, src, parser.SkipObjectResolution)
	require.NoError(t, err)
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if _, ok := spec.Type.(*ast.InterfaceType); ok && spec.Name.IsExported() {
			names = append(names, spec.Name.Name)
		}
		return true
	})
	return names
}
