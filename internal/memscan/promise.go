//go:build linux

package memscan

// What a build promises: an erasing one leaves nothing once a collection has
// run; a plain one nothing in memory, as long as no signal interrupts what it
// does, since the registers that a signal saves are its known remainder.
// doc/THREATS.md has the numbers. erasing is memsafe.Erasing: to import that
// package is to give up core dumps, which this one's tests need.

// Quiet are the options of a victim that must keep its build's promise: in a
// plain build preemption by signals is off.
func Quiet(env ...string) *Options {
	if !erasing {
		env = append(env, "GODEBUG=asyncpreemptoff=1")
	}
	return &Options{Env: env}
}

// Left scans the stopped victim and returns the hits that break its build's
// promise.
func (tg *Target) Left(s *Set) []Hit {
	tg.t.Helper()
	if erasing {
		tg.Collect(1)
		return tg.Scan(s).Hits
	}
	return tg.Scan(s).InMemory()
}
