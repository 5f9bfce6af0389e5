// Package doctor finds out what protects tokens on this host and what does not.
//
//	facts.go      what is so: asked of the kernel and of the holder of the keys
//	findings.go   what it means, and how to mend it: no look at the system
//	process.go    what can be seen of the agent's process
//	roundtrip.go  the proof: a token that is sealed, opened and spent
package doctor
