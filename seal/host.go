package seal

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal/internal/ask"
)

// A Host seals and opens tokens under the keys of this host's user. It is a
// Sealer. All processes of the user hold the same keys, so an audience within the
// user guards against mistakes and not against malice; doc/THREATS.md says more.
// A Host is safe for concurrent use.
type Host struct {
	_ [0]func() // not comparable

	ring   *keyring.Ring
	pool   *memsafe.Pool
	owned  bool // the pool is the host's to close
	random io.Reader
	log    *slog.Logger
	who    ask.Who
	user   Party // of who
}

// Options for OpenHost. The zero value is the recommendation. Suite, Capacity, Age
// and MaxLifetime bind the keys that this Host makes. Keys that it finds keep what
// they were made with.
type Options struct {
	// Directory holds the keys. Zero: the first of these that is on tmpfs,
	//
	//	$SEALCTX_DIR (an absolute path, which must be on tmpfs)
	//	$RUNTIME_DIRECTORY/sealctx (systemd)
	//	$XDG_RUNTIME_DIR/sealctx
	//	/run/sealctx-root (root)
	//	/dev/shm/sealctx-UID
	//
	// It is made with mode 0700 if it does not exist. It must belong to the
	// effective user, without rights for others.
	Directory string

	// Private keeps the keys in the memory of this process. No other process can
	// open its tokens. False: the keys are in Directory.
	Private bool

	// AnyFilesystem allows a Directory that is not on tmpfs. The keys then reach
	// the disk. False: such a directory is refused.
	AnyFilesystem bool

	// Suite is the AEAD of new keys: "AES-256-GCM" or "ChaCha20-Poly1305". Zero:
	// the one that this processor runs in constant time.
	Suite string

	// Capacity is how many tokens can be outstanding under one key. Zero: 16,384.
	// At most 16,777,216. A key's register takes 16 bytes for each.
	Capacity int

	// Age is how long a key seals before the next one takes over. Zero: one hour.
	// One second to 30 days.
	Age time.Duration

	// MaxLifetime is the longest lifetime of a token, and how long a key still
	// opens after the next one has taken over. Zero: one hour. One second to 7
	// days.
	MaxLifetime time.Duration

	// Pool is the locked memory for token keys and opened tokens. Nil: one of
	// memsafe.NewPool(0), which Close closes.
	Pool *memsafe.Pool

	// Log gets the audit events: what was reserved, opened and refused, and the
	// reason that the caller of Open is not told. Never a secret. Nil: no log.
	Log *slog.Logger
}

// OpenHost opens the keys of this process's user. Nil options are the zero
// Options. It makes no key before one is needed. It locks a page of memory or a few,
// and one more for each key. It returns an error that wraps ErrUnavailable and says
// what is missing, or ErrRequest for an option out of range.
func OpenHost(o *Options) (*Host, error) {
	if o == nil {
		o = &Options{}
	}
	ring, err := o.ring()
	if err != nil {
		return nil, err
	}
	h, err := newHost(ring, o)
	if err != nil {
		return nil, errors.Join(err, ring.Close())
	}
	return h, nil
}

func (o *Options) ring() (*keyring.Ring, error) {
	opts := &keyring.Options{
		Capacity: o.Capacity, Age: o.Age, MaxLifetime: o.MaxLifetime, AnyFilesystem: o.AnyFilesystem,
	}
	if o.Suite != "" {
		s, ok := suite.ByName(o.Suite)
		if !ok {
			return nil, fmt.Errorf("%w: no suite %q; there are %v", ErrRequest, o.Suite, suite.All())
		}
		opts.Suite = s
	}
	open := keyring.New
	if !o.Private {
		open = func(opts *keyring.Options) (*keyring.Ring, error) { return keyring.Open(o.Directory, opts) }
	}
	ring, err := open(opts)
	switch {
	case errors.Is(err, keyring.ErrOptions):
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	case err != nil:
		return nil, unavailable(err)
	}
	return ring, nil
}

// newHost returns a host over a ring, which it owns from now on. On an error the
// ring stays the caller's.
func newHost(ring *keyring.Ring, o *Options) (*Host, error) {
	if o == nil {
		o = &Options{}
	}
	who := thisProcess()
	h := &Host{ring: ring, pool: o.Pool, random: rand.Reader, log: o.Log, who: who, user: who.user}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if h.pool == nil {
		pool, err := memsafe.NewPool(0)
		if err != nil {
			return nil, unavailable(err)
		}
		h.pool, h.owned = pool, true
	}
	return h, nil
}

// As returns the host as who sees it, with its audit events going to log. Package
// agent uses it. The result is not to be closed.
func (h *Host) As(who ask.Who, log *slog.Logger) *Host {
	as := *h
	as.who, as.user, as.log = who, User(who.User()), log
	return &as
}

// Close takes the keys out of use in this process, and closes the pool unless the
// caller brought it. Outstanding tokens stay good for other processes; those of a
// Private host are worthless. Close must not run beside other calls. Secrets that
// Open returned are gone with their pool.
func (h *Host) Close() error {
	err := h.ring.Close()
	if h.owned {
		err = errors.Join(err, h.pool.Close())
	}
	return err
}

// String says where the keys are.
func (h *Host) String() string {
	if dir := h.ring.Dir(); dir != "" {
		return "keyring " + dir
	}
	return fmt.Sprintf("keyring in the memory of process %d", os.Getpid())
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", ErrUnavailable, err) }
