// Package blind recognises the HTTP handler that serves half-open contexts.
package blind

import (
	"runtime"
	"strings"
)

// depth is how many callers are looked at. The handler calls Continue itself;
// between the two are only providers that wrap this one.
const depth = 64

// Handler reports whether go-gssapi's http.Handler is among the callers.
//
// That handler calls the next one after a single Continue without an error. It
// looks neither at FullyEstablished nor at ContinueNeeded, so a client that sends
// half of a negotiation is served. Only an error of Continue stops the handler,
// and the same error would stop honest acceptors, which go on with the next leg.
// The two differ in nothing but who they are.
func Handler() bool {
	var pcs [depth]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs[:])])
	for {
		frame, more := frames.Next()
		if isHandler(frame.Function) {
			return true
		}
		if !more {
			return false
		}
	}
}

// isHandler reports whether a function is a method of go-gssapi's Handler,
// of any version and any fork that keeps the module's name.
func isHandler(function string) bool {
	return strings.Contains(function, "go-gssapi/") && strings.Contains(function, "/http.(*Handler).")
}
