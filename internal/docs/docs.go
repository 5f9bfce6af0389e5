// Package docs has the tests of what the documents say: that the README's
// commands print what stands there.
package docs
