//go:build race

package seal

// underRace says that the race detector makes everything some ten times slower.
const underRace = true
