package seal

import (
	"fmt"
	"os"
	"sync/atomic"

	"github.com/sealctx/sealctx/internal/pidfd"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal/internal/ask"
)

// self is this process as the process that asks. It is safe for concurrent use. All
// processes of its user hold the same keys, so it may inspect any token. It is in no
// group and no service: without an agent nothing enforces which processes are.
type self struct {
	uid     uint32
	user    Party
	process func() ([]byte, error)
}

func thisProcess() *self {
	uid := uint32(os.Geteuid())
	return &self{uid, User(uid), itself()}
}

func (s *self) User() uint32       { return s.uid }
func (s *self) Groups() []uint32   { return nil }
func (s *self) Services() []string { return nil }
func (s *self) Process() ([]byte, error) {
	if s.process == nil {
		return nil, errAudience
	}
	return s.process()
}

func (s *self) MayInspect() bool { return true }

func (s *self) MayImport(token.Header) error { return nil }

// MayReserve allows the audiences that another process of this user enforces when it
// opens the token.
func (s *self) MayReserve(kind uint8, value string) error {
	to := Party{kind, value}
	if to == s.user || kind == token.KindProcess {
		return nil
	}
	return fmt.Errorf("%w: this process can hold a token only to its own user (%d) or to one process; %v needs the agent", errAudience, s.uid, to)
}

// Exporter returns a process of which only the user is known.
func (s *self) Exporter(t token.Header) (ask.Somebody, error) {
	return &self{uid: t.Exporter}, nil
}

// itself returns a function that returns the value of this process as an audience. It
// asks the kernel once. It does not keep an error, since a lack of descriptors passes.
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
