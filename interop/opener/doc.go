// Package opener holds a second opener of sealed tokens, in Python, and the test
// that runs it. It was written from doc/SPEC.md alone: where the two disagree,
// one of them has changed the format.
package opener
