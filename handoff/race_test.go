//go:build race

package handoff

// raceEnabled: everything takes several times as long.
const raceEnabled = true
