// Package vectors makes and reads the test vectors of doc/SPEC.md: sealed tokens
// of every kind, good and bad, with the surroundings in which they are opened
// and what comes of it. It writes tokens and epoch files from the specification
// and the standard library alone, with nothing of the packages under test, and
// with none of their checks: it can write what they must refuse.
//
// The files are made by
//
//	go run ./internal/vectors/generate
//
// which writes the same bytes every time. Nothing here is for real keys.
package vectors
