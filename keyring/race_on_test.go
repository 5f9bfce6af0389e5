//go:build race

package keyring

// raceDetector shortens what the race detector makes ten times slower.
const raceDetector = true
