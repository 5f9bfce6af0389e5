//go:build !race

package soak

// residentTells is whether resident memory says what the program holds.
const residentTells = true
