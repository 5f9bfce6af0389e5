//go:build !heimdal && !nolibrary

package main

// defaultFormat names what MIT's library exports on this architecture.
const defaultFormat = "mit/1/amd64"
