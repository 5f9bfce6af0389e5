// Package cprogram says which C programs libsealctx-gss can protect, starts them with
// it, and finds running ones without it.
//
//	program.go  a program file: whether the library would be in front of its GSS-API
//	exec.go     starting it
//	running.go  processes: what they have mapped
package cprogram
