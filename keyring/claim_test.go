package keyring

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	claimProcesses  = 16
	claimGoroutines = 4
	claimSlots      = 1024

	// claimWindow is how far the exporter may be ahead of the slowest claimant,
	// in tokens, so that all of them are after the same few.
	claimWindow = 256
)

// A board is what exporter and claimants share beside the register: the tokens
// in the order they were made, and how often each was won.
type board struct {
	*progress
	tokens []Slot
	wins   []atomic.Int32
}

type progress struct {
	id        [16]byte     // the epoch, set before the first token
	published atomic.Int64 // tokens made
	claimed   [claimProcesses * claimGoroutines]atomic.Int64
}

// openBoard maps the board of a file, which is made if need be.
func openBoard(name string, tokens int) (*board, error) {
	const head, slot, win = unsafe.Sizeof(progress{}), unsafe.Sizeof(Slot{}), unsafe.Sizeof(atomic.Int32{})
	size := head + uintptr(tokens)*(slot+win)
	fd, err := unix.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, err
	}
	at, err := unix.MmapPtr(fd, 0, nil, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return &board{
		progress: (*progress)(at),
		tokens:   unsafe.Slice((*Slot)(unsafe.Add(at, head)), tokens),
		wins:     unsafe.Slice((*atomic.Int32)(unsafe.Add(at, head+uintptr(tokens)*slot)), tokens),
	}, nil
}

// slowest is how far the last claimant is.
func (b *board) slowest() int64 {
	low := b.claimed[0].Load()
	for i := range b.claimed {
		low = min(low, b.claimed[i].Load())
	}
	return low
}

// verdict is the checker: every token was won by exactly one claimant.
func (b *board) verdict() error {
	var lost, twice int
	for i := range b.wins {
		switch n := b.wins[i].Load(); {
		case n == 0:
			lost++
		case n > 1:
			twice++
		}
	}
	if lost+twice > 0 {
		return fmt.Errorf("of %d tokens %d were lost and %d won more than once", len(b.wins), lost, twice)
	}
	return nil
}

// loadThenStore is the claim of a register that is wrong: what the control runs.
// The yield stands for the other processors that a small machine does not have:
// without it one or two in 10,000 tokens are won twice on two processors.
func loadThenStore(e *Epoch, s Slot) error {
	if atomic.LoadUint64(&e.reg.slots[s.Index]) != s.Word {
		return ErrSpent
	}
	runtime.Gosched()
	atomic.StoreUint64(&e.reg.slots[s.Index], uint64(makeWord(word(s.Word).gen(), 0, slotFree)))
	e.reg.uncount(tally(e.reg.count.Load()), oneLess)
	return nil
}

// helpClaim is one of the processes that claim every token of the board.
func helpClaim() error {
	tokens, err1 := strconv.Atoi(os.Getenv("TOKENS"))
	number, err2 := strconv.Atoi(os.Getenv("NUMBER"))
	b, err3 := openBoard(os.Getenv("BOARD"), tokens)
	r, err4 := Open(os.Getenv(dirVariable), nil)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	e, err := r.Epoch(b.id)
	if err != nil {
		return err
	}
	claim := (*Epoch).ClaimFresh
	if os.Getenv("CLAIM") == "load-then-store" {
		claim = loadThenStore
	}
	results := make(chan error)
	for g := range claimGoroutines {
		go func() { results <- b.claimAll(&b.claimed[number*claimGoroutines+g], e, claim) }()
	}
	for range claimGoroutines {
		err = errors.Join(err, <-results)
	}
	return err
}

func (b *board) claimAll(done *atomic.Int64, e *Epoch, claim func(*Epoch, Slot) error) error {
	for i := range b.tokens {
		for b.published.Load() <= int64(i) {
			time.Sleep(20 * time.Microsecond)
		}
		switch err := claim(e, b.tokens[i]); {
		case err == nil:
			b.wins[i].Add(1)
		case !errors.Is(err, ErrSpent):
			return fmt.Errorf("token %d: %w", i, err)
		}
		done.Store(int64(i) + 1)
	}
	return nil
}

// claimRace reserves tokens one after the other and has 16 processes of 4
// goroutines claim each of them. It returns the checker's verdict.
func claimRace(t *testing.T, tokens int, claim string) (*Epoch, error) {
	dir := shmDir(t, false)
	r := openRing(t, filepath.Join(dir, "ring"), &Options{Capacity: claimSlots / 2})
	e := current(t, r)
	require.Len(t, e.reg.slots, claimSlots)
	name := filepath.Join(dir, "board")
	b, err := openBoard(name, tokens)
	require.NoError(t, err)
	b.id = e.ID()

	var claimants []*exec.Cmd
	for i := range claimProcesses {
		cmd := helper(t, "claim", r.Dir(), "BOARD="+name, "CLAIM="+claim,
			fmt.Sprintf("TOKENS=%d", tokens), fmt.Sprintf("NUMBER=%d", i))
		require.NoError(t, cmd.Start())
		claimants = append(claimants, cmd)
	}
	// Before the first token, so that none of them claims the beginning alone.
	deadline := time.Now().Add(5 * time.Minute)
	for i := range b.tokens {
		for int64(i)-b.slowest() >= claimWindow {
			time.Sleep(20 * time.Microsecond)
			require.True(t, time.Now().Before(deadline), "claimants stand still at %d", b.slowest())
		}
		lease, err := e.Reserve(time.Hour)
		require.NoError(t, err, "token %d", i)
		b.tokens[i] = lease.Slot
		b.published.Store(int64(i) + 1)
	}
	for _, cmd := range claimants {
		wait(t, cmd)
	}
	return e, b.verdict()
}

// Every token is claimed by 64 goroutines of 16 processes at once, and each
// slot is used about a hundred times: each token is won once, none is lost.
func TestClaimOnce(t *testing.T) {
	tokens := 100_000
	if testing.Short() || raceDetector {
		tokens = 10_000
	}
	e, err := claimRace(t, tokens, "")
	require.NoError(t, err)
	left, err := e.Outstanding()
	require.NoError(t, err)
	require.Zero(t, left)
	require.Zero(t, tally(e.reg.count.Load()).tokens())
	var uses uint64
	for i, w := range e.reg.slots {
		if tokens == 100_000 {
			require.Greater(t, word(w).gen(), uint64(40), "slot %d was hardly used", i)
		}
		uses += word(w).gen()
	}
	require.EqualValues(t, tokens, uses)
}

// The control of TestClaimOnce: it finds a claim that is no compare-and-swap.
func TestClaimOnceFindsLoadThenStore(t *testing.T) {
	_, err := claimRace(t, 5_000, "load-then-store")
	t.Log(err)
	require.ErrorContains(t, err, "won more than once")
}
