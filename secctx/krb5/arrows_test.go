package krb5_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// imports lists what a package imports, whatever way.
func imports(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", pkg).Output()
	require.NoError(t, err)
	return strings.Fields(string(out))
}

// TestNoKDCLibrary: the mechanism, and what it parses peers' bytes with, has
// nothing of go-krb5 and no cgo; package kdc has, which shows that the test would
// see it.
func TestNoKDCLibrary(t *testing.T) {
	has := func(pkg string) bool {
		for _, dep := range imports(t, pkg) {
			if strings.Contains(dep, "go-krb5") {
				return true
			}
		}
		return false
	}
	require.False(t, has("."))
	require.False(t, has("./krb5test"))
	require.True(t, has("./kdc"))
	require.NotContains(t, imports(t, "."), "github.com/sealctx/sealctx/seal")
	require.Contains(t, imports(t, "."), "github.com/sealctx/sealctx/memsafe")
}
