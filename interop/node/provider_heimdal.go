//go:build heimdal && !nolibrary

package main

// defaultFormat names what Heimdal 7's library exports on this architecture.
// The build tag does not choose the library, pkg-config does; see run.sh.
const defaultFormat = "heimdal/7/amd64"
