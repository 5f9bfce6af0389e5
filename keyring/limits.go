package keyring

import "time"

// Limits and defaults of this package, and why.
const (
	// defaultCapacity is how many tokens can be outstanding in an epoch
	// unless Options says otherwise. A register has two slots for each, so the
	// default one takes 256 KiB of the runtime directory.
	defaultCapacity = 16 << 10

	// maxCapacity bounds Options.Capacity: 16,777,216, or 256 MiB.
	maxCapacity = 1 << 24

	// defaultAge is how long an epoch seals before the next takes over. What a
	// thief of the key can decrypt of recorded tokens ends with the epoch.
	defaultAge = time.Hour

	// maxAge leaves room in the 22 bits of a word's expiry (48 days).
	maxAge = 30 * 24 * time.Hour

	// defaultMaxLifetime is the longest lifetime of a token unless Options says
	// otherwise, and so how long a closed epoch still opens.
	defaultMaxLifetime = time.Hour

	// longestLifetime bounds Options.MaxLifetime.
	longestLifetime = 7 * 24 * time.Hour

	// MaxEpochs is how many epochs may be alive at once. With the default ages
	// there are two; only rotating by hand comes near it.
	MaxEpochs = 16

	// probes is how many random slots Reserve tries. The register is at most
	// half full, so all of them are taken once in 2^32 times.
	probes = 32

	// rotationTries bounds how often a reservation takes another epoch because the one
	// that it had was closed meanwhile.
	rotationTries = 4

	// reserveTries bounds how often a reservation begins anew because the tokens
	// were counted meanwhile, which happens once in recountEvery.
	reserveTries = 4

	// recountEvery bounds how often a full register is counted anew.
	recountEvery = 100 * time.Millisecond

	// linkCheck bounds how often sealing looks whether an epoch's file is still
	// there, which costs a system call.
	linkCheck = 50 * time.Millisecond

	// claimCheck does so for claims that come one right after the other
	// (doc/adr/0014).
	claimCheck = 20 * time.Microsecond

	// refreshTries bounds how often a directory is read at once.
	refreshTries = 4

	// settleTime is longer than a tick of the kernel's coarse clock at 100 Hz.
	settleTime = 20 * time.Millisecond

	// allocateStep is how much of an epoch's file is allocated in one call, in
	// bytes.
	allocateStep = 1 << 20

	// scratchShare is the part of RLIMIT_MEMLOCK that a ring's working memory
	// may take, one in so many, so that many processors do not leave a small
	// limit without room for the keys.
	scratchShare = 16

	// maxSeq is the highest number of an epoch; files with a higher one are not
	// ours, and must not make the next number wrap.
	maxSeq = 1 << 62

	// pageSize is the size of an epoch's first page: header, state and key.
	pageSize = 4096

	// keySize is the size of a host key in bytes.
	keySize = 32
)
