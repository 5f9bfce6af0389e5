//go:build race

package soak

// residentTells is false where the race detector is in the program: it keeps
// notes of all memory that was ever used, and more the longer it runs.
const residentTells = false
