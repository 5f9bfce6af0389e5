package keyring

import (
	"fmt"
	"time"

	"github.com/sealctx/sealctx/internal/suite"
)

// Options say how epochs are made. They bind the epochs that this ring makes;
// those that it finds keep what they were born with. The zero value is the
// recommendation.
type Options struct {
	// Suite of new epochs. Zero: the one for this processor.
	Suite suite.Suite

	// Outstanding is how many tokens may be outstanding in one epoch. Zero:
	// DefaultOutstanding. At most MaxOutstanding. The register takes 16 bytes for
	// each.
	Outstanding int

	// Age is how long an epoch seals before the next takes over. Zero:
	// DefaultAge. One second to MaxAge. Where there is no room for the next, it
	// seals on.
	Age time.Duration

	// MaxLifetime is the longest lifetime of a token, and how long a closed
	// epoch still opens before it is retired. Zero: DefaultMaxLifetime. One
	// second to MaxLifetime.
	MaxLifetime time.Duration

	// AnyFilesystem allows a runtime directory that is not on tmpfs. The host
	// key then reaches the disk. False: refuse.
	AnyFilesystem bool
}

// withDefaults returns the options in full, or what is wrong with them.
func (o *Options) withDefaults() (Options, error) {
	var full Options
	if o != nil {
		full = *o
	}
	if full.Suite == 0 {
		full.Suite = suite.Default()
	}
	if full.Outstanding == 0 {
		full.Outstanding = DefaultOutstanding
	}
	if full.Age == 0 {
		full.Age = DefaultAge
	}
	if full.MaxLifetime == 0 {
		full.MaxLifetime = DefaultMaxLifetime
	}
	switch {
	case !full.Suite.Known():
		return full, fmt.Errorf("%w: unknown %v", ErrOptions, full.Suite)
	case full.Outstanding < 1 || full.Outstanding > MaxOutstanding:
		return full, fmt.Errorf("%w: Outstanding is %d, not between 1 and %d", ErrOptions, full.Outstanding, MaxOutstanding)
	case full.Age < time.Second || full.Age > MaxAge:
		return full, fmt.Errorf("%w: Age is %v, not between 1s and %v", ErrOptions, full.Age, MaxAge)
	case full.MaxLifetime < time.Second || full.MaxLifetime > MaxLifetime:
		return full, fmt.Errorf("%w: MaxLifetime is %v, not between 1s and %v", ErrOptions, full.MaxLifetime, MaxLifetime)
	}
	return full, nil
}
