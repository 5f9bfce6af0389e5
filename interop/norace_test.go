//go:build !race

package interop

// raceFlags are handed on to the programs that the tests build.
var raceFlags []string
