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

	// Capacity is how many tokens can be outstanding in one epoch. Zero: 16,384.
	// At most 16,777,216. The register takes 16 bytes for each.
	Capacity int

	// Age is how long an epoch seals before the next takes over. Zero: one hour.
	// One second to 30 days. If there is no room for the next, it seals on.
	Age time.Duration

	// MaxLifetime is the longest lifetime of a token, and how long a closed
	// epoch still opens before it is retired. Zero: one hour. One second to 7
	// days.
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
	if full.Capacity == 0 {
		full.Capacity = defaultCapacity
	}
	if full.Age == 0 {
		full.Age = defaultAge
	}
	if full.MaxLifetime == 0 {
		full.MaxLifetime = defaultMaxLifetime
	}
	switch {
	case !full.Suite.Known():
		return full, fmt.Errorf("%w: unknown %v", ErrOptions, full.Suite)
	case full.Capacity < 1 || full.Capacity > maxCapacity:
		return full, fmt.Errorf("%w: Capacity is %d, not between 1 and %d", ErrOptions, full.Capacity, maxCapacity)
	case full.Age < time.Second || full.Age > maxAge:
		return full, fmt.Errorf("%w: Age is %v, not between 1s and %v", ErrOptions, full.Age, maxAge)
	case full.MaxLifetime < time.Second || full.MaxLifetime > longestLifetime:
		return full, fmt.Errorf("%w: MaxLifetime is %v, not between 1s and %v", ErrOptions, full.MaxLifetime, longestLifetime)
	}
	return full, nil
}
