package seal

import (
	"fmt"
	"os"
	"sync/atomic"

	"github.com/sealctx/sealctx/internal/pidfd"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal/internal/ask"
)

// self is this process as the one that asks. It is safe for concurrent use. All
// processes of its user hold the same keys, so it may ask about any token, and it
// is in no group and no service: which processes those are, nothing here could
// enforce.
type self struct {
	uid     uint32
	user    Party
	process func() ([]byte, error)
}

func thisProcess() *self {
	uid := uint32(os.Geteuid())
	return &self{uid, User(uid), itself()}
}

func (s *self) User() uint32             { return s.uid }
func (s *self) Groups() []uint32         { return nil }
func (s *self) Services() []string       { return nil }
func (s *self) Process() ([]byte, error) { return s.process() }
func (s *self) MayInspect() bool         { return true }

func (s *self) MayImport(token.Header) error { return nil }

// MayReserve holds this process to what it can hold an importer to.
func (s *self) MayReserve(kind uint8, value string) error {
	to := Party{kind, value}
	if to == s.user || kind == token.KindProcess {
		return nil
	}
	return fmt.Errorf("%w: this process can hold a token only to its own user (%d) or to one process; %v needs the agent", errAudience, s.uid, to)
}

// Exporter returns somebody of the exporter's user, of whom no more is known.
func (s *self) Exporter(t token.Header) (ask.Somebody, error) {
	return &self{uid: t.Exporter}, nil
}

// itself returns a function that tells this process as the value of an audience.
// It reads that once. An error is not kept: a lack of descriptors passes.
func itself() func() ([]byte, error) {
	var known atomic.Pointer[[]byte]
	return func() ([]byte, error) {
		if v := known.Load(); v != nil {
			return *v, nil
		}
		pid := os.Getpid()
		n, err := pidfd.Number(pid)
		if err != nil {
			return nil, unavailable(err)
		}
		v := processValue(uint32(pid), n)
		known.Store(&v)
		return v, nil
	}
}
