// Package arch has the tests of what no single package can hold: which package
// may import which, and which code of others; where unsafe is used; that nothing
// prints; that each package says what it is for; and that the tests that the
// documents name are there.
//
// A rule that stands in the way of a good change is changed with it, in the same
// commit, with its reason.
package arch
