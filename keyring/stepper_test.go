//go:build linux && amd64 && !race

package keyring

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// The tests of this file stop a process at each instruction of an operation, do
// another operation meanwhile, and let the process go on. What they find does not hang
// on how many processors there are or how busy they are.

// A stepBoard is what the process that is stepped and the test share beside the epoch.
type stepBoard struct {
	anchor  uintptr // where the process has its functions
	id      [16]byte
	slot    Slot
	second  uint64
	now     time.Duration
	failure int32 // index in stepErrors, or -1 for another error
	lease   Slot  // what a reservation returned
	key     [keySize]byte
}

// stepErrors are the errors that an operation may return, by their number on the board.
var stepErrors = []error{nil, ErrSpent, ErrRetired, errNotOpen, ErrFull, ErrExpired, ErrDamaged}

// stepOps are the operations that a process can be stepped through.
var stepOps = map[string]func(e *Epoch, b *stepBoard) error{
	"ClaimFresh":  func(e *Epoch, b *stepBoard) error { return e.ClaimFresh(b.slot) },
	"ClaimRecent": func(e *Epoch, b *stepBoard) error { return e.ClaimRecent(b.slot, b.now) },
	"load then store": func(e *Epoch, b *stepBoard) error {
		if atomic.LoadUint64(&e.reg.slots[b.slot.Index]) != b.slot.Word {
			return ErrSpent
		}
		atomic.StoreUint64(&e.reg.slots[b.slot.Index], uint64(makeWord(word(b.slot.Word).gen(), 0, slotFree)))
		return nil
	},
	"Reserve": func(e *Epoch, b *stepBoard) (err error) {
		l, err := e.reserve(time.Minute, b.now)
		b.lease = l.Slot
		return err
	},
	"reserve without a second look": func(e *Epoch, b *stepBoard) (err error) {
		if err := e.sealing(); err != nil {
			return err
		}
		b.lease, err = e.reg.reserve(b.second, b.second+60, b.now)
		return err
	},
	"recount": func(e *Epoch, b *stepBoard) error { e.reg.recount(b.second, b.now); return nil },
	"recount that corrects": func(e *Epoch, b *stepBoard) error {
		before := e.reg.tokens()
		e.reg.count.Add(uint64(e.reg.outstanding(b.second) - before))
		return nil
	},
	"Derive": func(e *Epoch, b *stepBoard) error {
		return e.Derive("step", nil, func(key []byte) error { copy(b.key[:], key); return nil }, nil)
	},
	"retire": func(e *Epoch, _ *stepBoard) error { return e.retire() },
	"wipe, then retire": func(e *Epoch, _ *stepBoard) error {
		clear(e.record.key())
		return e.retire()
	},
	"sweep, then retire": func(e *Epoch, _ *stepBoard) error {
		e.reg.sweep()
		return e.retire()
	},
	"close": func(e *Epoch, _ *stepBoard) error { return e.close() },
}

func init() { helpers["step"] = helpStep }

// stepAnchor tells how far apart the functions of two processes of this binary are.
func stepAnchor() uintptr {
	pc, _, _, _ := runtime.Caller(0)
	return runtime.FuncForPC(pc).Entry()
}

// openStepBoard maps a board.
func openStepBoard(name string) (*stepBoard, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(int64(unsafe.Sizeof(stepBoard{}))); err != nil {
		return nil, err
	}
	at, err := unix.MmapPtr(int(f.Fd()), 0, nil, unsafe.Sizeof(stepBoard{}), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	return (*stepBoard)(at), err
}

// helpStep does an operation again and again, each time between two breakpoints, at
// which the test stops it.
func helpStep() error {
	debug.SetGCPercent(-1)
	b, err := openStepBoard(os.Getenv("BOARD"))
	if err != nil {
		return err
	}
	b.anchor = stepAnchor()
	r, err := Open(os.Getenv(dirVariable), nil)
	if err != nil {
		return err
	}
	op := stepOps[os.Getenv("OP")]
	for {
		runtime.Breakpoint() // the test says which epoch
		e, err := r.Epoch(b.id)
		if err != nil {
			return err
		}
		runtime.Breakpoint() // from here
		err = op(e, b)
		runtime.Breakpoint() // to here
		b.failure = -1
		for i, known := range stepErrors {
			if err == known || known != nil && errors.Is(err, known) { //nolint:errorlint // nil
				b.failure = int32(i)
			}
		}
		e.Release()
	}
}

// A stepped is a process that an operation is stepped through in.
type stepped struct {
	t      *testing.T
	board  *stepBoard
	pid    int
	out    *os.File
	shift  uintptr
	inside bool // the operation: it has left the breakpoint before
}

// startStepped starts one, with a ring in a directory. The calling test is its tracer,
// and stays on its thread.
func startStepped(t *testing.T, dir, op string) *stepped {
	t.Helper()
	runtime.LockOSThread()
	name := shmDir(t, false) + "/board"
	board, err := openStepBoard(name)
	require.NoError(t, err)
	out, w, err := os.Pipe()
	require.NoError(t, err)
	cmd := helper(t, "step", dir, "BOARD="+name, "OP="+op, "GODEBUG=asyncpreemptoff=1")
	p, err := os.StartProcess("/proc/self/exe", []string{"step"}, &os.ProcAttr{
		Env: cmd.Env, Files: []*os.File{nil, w, w}, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	require.NoError(t, w.Close())
	if errors.Is(err, unix.EPERM) {
		t.Skip("this kernel lets no process trace its child")
	}
	require.NoError(t, err)
	s := &stepped{t: t, board: board, pid: p.Pid, out: out}
	t.Cleanup(func() {
		_ = p.Kill()
		_, _ = p.Wait()
		_ = out.Close()
		_ = unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(board)), unsafe.Sizeof(stepBoard{})))
		runtime.UnlockOSThread()
	})
	s.wait(unix.SIGTRAP) // it has executed the test binary
	s.cont()             // to its first breakpoint
	s.shift = board.anchor - stepAnchor()
	return s
}

// wait waits until the process has stopped for want. It hands on other signals.
func (s *stepped) wait(want unix.Signal) {
	s.t.Helper()
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(s.pid, &ws, unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		require.NoError(s.t, err)
		if !ws.Stopped() {
			said, _ := io.ReadAll(s.out)
			require.FailNow(s.t, "the process ended", "%v: %s", ws, said)
		}
		if ws.StopSignal() == want {
			return
		}
		require.NoError(s.t, unix.PtraceCont(s.pid, int(ws.StopSignal())))
	}
}

func (s *stepped) cont() {
	s.t.Helper()
	require.NoError(s.t, unix.PtraceCont(s.pid, 0))
	s.wait(unix.SIGTRAP)
}

// at returns the function that the process is in, and its registers.
func (s *stepped) at() (name string, regs unix.PtraceRegs) {
	s.t.Helper()
	require.NoError(s.t, unix.PtraceGetRegs(s.pid, &regs))
	return s.function(uintptr(regs.Rip)), regs
}

// function returns the function that an address is in: not one that was inlined there.
func (s *stepped) function(pc uintptr) string {
	f := runtime.FuncForPC(pc - s.shift)
	if f == nil {
		return ""
	}
	return runtime.FuncForPC(f.Entry()).Name()
}

// ours reports whether a function is this module's.
func ours(name string) bool { return strings.HasPrefix(name, "github.com/sealctx/sealctx/") }

// atBreakpoint reports whether a function is runtime.Breakpoint, or what it calls.
func atBreakpoint(name string) bool { return strings.EqualFold(name, "runtime.breakpoint") }

// step goes one instruction on, or through a call of code that is not this module's.
// It returns false at the operation's end.
func (s *stepped) step() bool {
	s.t.Helper()
	for {
		_, before := s.at()
		require.NoError(s.t, unix.PtraceSingleStep(s.pid))
		s.wait(unix.SIGTRAP)
		name, regs := s.at()
		switch {
		case atBreakpoint(name) && s.inside:
			s.cont() // over its instruction, which stops
			return false
		case ours(name):
			s.inside = true
			return true
		}
		if to := s.caller(uintptr(regs.Rsp)); s.inside && ours(s.function(to)) && to-uintptr(before.Rip) <= longest {
			return s.returned(to)
		}
	}
}

// longest is the length of an instruction at most, in bytes.
const longest = 15

// caller returns where a function returns to if it was just called.
func (s *stepped) caller(stack uintptr) uintptr {
	var addr [8]byte
	_, err := unix.PtracePeekData(s.pid, stack, addr[:])
	require.NoError(s.t, err)
	return uintptr(binary.LittleEndian.Uint64(addr[:]))
}

// returned lets the process go on to an address. It returns false if the process came
// to the breakpoint at the operation's end.
func (s *stepped) returned(to uintptr) bool {
	s.t.Helper()
	var was [8]byte
	_, err := unix.PtracePeekText(s.pid, to, was[:])
	require.NoError(s.t, err)
	stop := was
	stop[0] = 0xcc // int3
	_, err = unix.PtracePokeText(s.pid, to, stop[:])
	require.NoError(s.t, err)
	s.cont()
	_, err = unix.PtracePokeText(s.pid, to, was[:])
	require.NoError(s.t, err)
	name, regs := s.at()
	if atBreakpoint(name) {
		return false
	}
	require.Equal(s.t, to+1, uintptr(regs.Rip))
	regs.Rip = uint64(to)
	require.NoError(s.t, unix.PtraceSetRegs(s.pid, &regs))
	return true
}

// run does the operation on an epoch, and calls meanwhile when it has gone so many
// steps. It returns false if the operation ended before that, and its error.
func (s *stepped) run(e *Epoch, steps int, meanwhile func()) (reached bool, err error) {
	s.t.Helper()
	s.board.id, s.inside = e.ID(), false
	s.cont() // it finds the epoch
	for range steps {
		if !s.step() {
			return false, s.result()
		}
	}
	meanwhile()
	s.cont() // to the operation's end
	return true, s.result()
}

// observe does the operation, and calls look at each step.
func (s *stepped) observe(e *Epoch, look func()) error {
	s.t.Helper()
	s.board.id, s.inside = e.ID(), false
	s.cont()
	for s.step() {
		look()
	}
	return s.result()
}

// result lets the process write its result down, and stops it where it waits for the
// next epoch.
func (s *stepped) result() error {
	s.t.Helper()
	s.cont()
	if s.board.failure < 0 {
		return errors.New("an unexpected error")
	}
	return stepErrors[s.board.failure]
}

// eachStep does an operation once for each of its steps, on an epoch that f prepares.
// meanwhile is what happens at the step, and check gets the operation's error. It
// returns what check found.
func eachStep(t *testing.T, op string, outstanding int, f func(e *Epoch, s *stepped) (meanwhile func(), check func(error) error)) (steps int, found []error) {
	return everyStep(t, op, outstanding, 1, f)
}

// everyStep is eachStep for one in so many steps.
func everyStep(t *testing.T, op string, outstanding, every int, f func(e *Epoch, s *stepped) (meanwhile func(), check func(error) error)) (steps int, found []error) {
	dir := shmDir(t, false)
	r := openRing(t, dir, &Options{Capacity: outstanding})
	s := startStepped(t, dir, op)
	if testing.Short() && !strings.HasPrefix(t.Name(), "TestSteppedClaim/") {
		every *= 5
	}
	for steps = 0; ; steps += every {
		e, err := r.Current()
		require.NoError(t, err)
		now, err := r.Now()
		require.NoError(t, err)
		s.board.now, s.board.second = now, e.second(now)
		meanwhile, check := f(e, s)
		reached, err := s.run(e, steps, meanwhile)
		if !reached {
			meanwhile() // after the operation, then
		}
		if err := check(err); err != nil {
			found = append(found, fmt.Errorf("%s stopped after %d steps: %w", op, steps, err))
		}
		_ = r.Retire(e.ID())
		e.Release()
		if !reached {
			require.Greater(t, steps, 10, "the operation was not stepped through")
			t.Logf("%s: %d steps", op, steps)
			return steps, found
		}
	}
}

// A claim that is stopped at any instruction while another process claims the same
// token: one of them gets it. The control is a claim that loads and then stores.
func TestSteppedClaim(t *testing.T) {
	claimed := func(e *Epoch, s *stepped) (func(), func(error) error) {
		l, err := e.Reserve(time.Minute)
		require.NoError(t, err)
		s.board.slot = l.Slot
		var other error
		return func() { other = e.ClaimFresh(l.Slot) }, func(err error) error {
			if (err == nil) == (other == nil) {
				return fmt.Errorf("it got %v and another process %v", err, other)
			}
			return nil
		}
	}
	for _, op := range []string{"ClaimFresh", "ClaimRecent"} {
		t.Run(op, func(t *testing.T) {
			steps, found := eachStep(t, op, 1, claimed)
			require.Empty(t, found)
			t.Logf("%d steps", steps)
		})
	}
	t.Run("control", func(t *testing.T) {
		_, found := eachStep(t, "load then store", 1, claimed)
		require.NotEmpty(t, found)
		require.ErrorContains(t, found[0], "it got <nil> and another process <nil>")
		t.Logf("%d steps at which two processes get a token; the first: %v", len(found), found[0])
	})
}

// word is a slot's word as the register has it.
func (e *Epoch) word(i int) word { return word(atomic.LoadUint64(&e.reg.slots[i])) }

// states are the states of an epoch's slots.
func (e *Epoch) states() (n [4]int) {
	for i := range e.reg.slots {
		n[e.word(i).state()]++
	}
	return n
}

// A reservation that is stopped at any instruction while another process closes the
// epoch: what was not reserved by then is not reserved at all. The control does not
// read the state again.
func TestSteppedReserveAndClose(t *testing.T) {
	closed := func(e *Epoch, _ *stepped) (func(), func(error) error) {
		taken := 0
		return func() { taken = e.states()[slotOut]; require.NoError(t, e.close()) }, func(err error) error {
			switch out := e.states()[slotOut]; {
			case err == nil && taken == 0:
				return errors.New("a slot of a closed epoch was reserved")
			case err != nil && !errors.Is(err, errNotOpen):
				return err
			case err != nil && out > 0:
				return errors.New("a slot was not given back")
			case err == nil && out != 1:
				return errors.New("the slot is gone")
			}
			return nil
		}
	}
	_, found := eachStep(t, "Reserve", 1, closed)
	require.Empty(t, found)
	_, found = eachStep(t, "reserve without a second look", 1, closed)
	require.NotEmpty(t, found)
	require.ErrorContains(t, found[0], "of a closed epoch")
}

// The same while another process retires the epoch: no slot is left that could be
// claimed.
func TestSteppedReserveAndRetire(t *testing.T) {
	retired := func(e *Epoch, _ *stepped) (func(), func(error) error) {
		taken := 0
		return func() { taken = e.states()[slotOut]; require.NoError(t, e.retire()) }, func(err error) error {
			switch states := e.states(); {
			case states[slotSpent] != len(e.reg.slots):
				return fmt.Errorf("a slot of a retired epoch is not spent: %v", states)
			case err == nil && taken == 0:
				return errors.New("a slot of a retired epoch was reserved")
			case err != nil && !errors.Is(err, ErrRetired):
				return err
			}
			return nil
		}
	}
	_, found := eachStep(t, "Reserve", 1, retired)
	require.Empty(t, found)
}

// A claim that is stopped at any instruction while another process retires the epoch
// succeeds only if it swapped before.
func TestSteppedClaimAndRetire(t *testing.T) {
	for _, op := range []string{"ClaimFresh", "ClaimRecent"} {
		_, found := eachStep(t, op, 1, func(e *Epoch, s *stepped) (func(), func(error) error) {
			l, err := e.Reserve(time.Minute)
			require.NoError(t, err)
			s.board.slot = l.Slot
			swapped := false
			return func() { swapped = e.states()[slotOut] == 0; require.NoError(t, e.retire()) }, func(err error) error {
				if swapped != (err == nil) || !swapped && !errors.Is(err, ErrRetired) {
					return fmt.Errorf("claimed before: %v; it got %w", swapped, err)
				}
				return nil
			}
		})
		require.Empty(t, found)
	}
}

// expiredOnly leaves an epoch one slot, of a token whose time is over by the board.
func expiredOnly(t *testing.T, e *Epoch, s *stepped) Slot {
	const later = 10
	old, err := e.reg.take(s.board.second, s.board.second+1)
	require.NoError(t, err)
	for i := range e.reg.slots {
		if i != int(old.Index) {
			atomic.StoreUint64(&e.reg.slots[i], uint64(makeWord(maxGen, 0, slotSpent)))
		}
	}
	s.board.slot = old
	s.board.second += later
	s.board.now += later * time.Second
	return old
}

// A claim of a token that has expired, while another process takes over its slot, and
// the other way round: the slot is in the end the new token's, and the old one was
// claimed before or not at all.
func TestSteppedTakeOver(t *testing.T) {
	verdict := func(e *Epoch, old Slot, claimed bool, before word, next Slot) error {
		switch {
		case claimed != (before.state() == slotFree):
			return fmt.Errorf("the old token was claimed: %v; its slot had %x when the new one took it", claimed, before)
		case uint64(e.word(int(old.Index))) != next.Word || word(next.Word).gen() != word(old.Word).gen()+1:
			return fmt.Errorf("the new token's slot is not its own: %x, and it has %x", e.word(int(old.Index)), next.Word)
		}
		return nil
	}
	_, found := eachStep(t, "ClaimFresh", 1, func(e *Epoch, s *stepped) (func(), func(error) error) {
		old := expiredOnly(t, e, s)
		var before word
		var next Slot
		return func() {
			var err error
			before = e.word(int(old.Index))
			next, err = e.reg.take(s.board.second, s.board.second+60)
			require.NoError(t, err)
		}, func(err error) error { return verdict(e, old, err == nil, before, next) }
	})
	require.Empty(t, found)
	_, found = eachStep(t, "Reserve", 1, func(e *Epoch, s *stepped) (func(), func(error) error) {
		old := expiredOnly(t, e, s)
		var before word
		var claim error
		return func() { before = e.word(int(old.Index)); claim = e.ClaimFresh(old) }, func(err error) error {
			if err != nil {
				return err
			}
			if (before == word(old.Word)) != (claim == nil) {
				return fmt.Errorf("the slot had %x, and the old token's claim got %v", before, claim)
			}
			return verdict(e, old, true, word(freshWord), s.board.lease)
		}
	})
	require.Empty(t, found)
}

// A recount that frees the slot of an expired token while another process takes it
// over: the new token keeps it.
func TestSteppedTidy(t *testing.T) {
	_, found := eachStep(t, "recount", 1, func(e *Epoch, s *stepped) (func(), func(error) error) {
		expiredOnly(t, e, s)
		var next Slot
		return func() {
			var err error
			next, err = e.reg.take(s.board.second, s.board.second+60)
			require.NoError(t, err)
		}, func(error) error { return e.ClaimFresh(next) }
	})
	require.Empty(t, found)
}

// Two processes want the last token that the limit allows, and one recounts: no more
// than one gets it.
func TestSteppedLimit(t *testing.T) {
	_, found := eachStep(t, "Reserve", 1, func(e *Epoch, s *stepped) (func(), func(error) error) {
		var other error
		return func() { _, other = e.reserve(time.Minute, s.board.now) }, func(err error) error {
			if err == nil && other == nil {
				return errors.New("two tokens are outstanding, and the limit is one")
			}
			if e.states()[slotOut] > 1 {
				return errors.New("two slots are taken")
			}
			return nil
		}
	})
	require.Empty(t, found)
}

// The count is never below what is outstanding, whichever of two operations is stopped
// beside a recount, or is one. The next recount makes it right. The control is a
// recount that corrects the count by what it found wrong.
func TestSteppedRecount(t *testing.T) {
	const limit = 4
	run := func(op string, between func(e *Epoch, s *stepped, held []Slot)) error {
		_, found := everyStep(t, op, limit, 2, func(e *Epoch, s *stepped) (func(), func(error) error) {
			var held []Slot
			for range limit - 1 {
				l, err := e.Reserve(time.Minute)
				require.NoError(t, err)
				held = append(held, l.Slot)
			}
			s.board.slot = held[0]
			return func() { between(e, s, held[1:]) }, func(err error) error {
				out := e.reg.outstanding(s.board.second)
				if n := e.reg.tokens(); n < out || n > out+4 {
					return fmt.Errorf("%d are outstanding and %d counted", out, n)
				}
				recounting(&e.reg, func() {}, func() {})
				if n := e.reg.tokens(); n != out {
					return fmt.Errorf("%d are outstanding and %d counted anew", out, n)
				}
				if errors.Is(err, ErrFull) {
					return nil // of the last place, since the count may be too high
				}
				return err
			}
		})
		return errors.Join(found...)
	}
	recount := func(e *Epoch, s *stepped, _ []Slot) { e.reg.recount(s.board.second, s.board.now) }
	claim := func(e *Epoch, _ *stepped, held []Slot) {
		for _, slot := range held {
			require.NoError(t, e.ClaimFresh(slot))
		}
	}
	reserve := func(e *Epoch, s *stepped, _ []Slot) { _, _ = e.reserve(time.Minute, s.board.now) }
	both := func(e *Epoch, s *stepped, held []Slot) { claim(e, s, held); reserve(e, s, held); reserve(e, s, held) }
	require.NoError(t, run("ClaimRecent", recount))
	require.NoError(t, run("Reserve", recount))
	require.NoError(t, run("recount", claim))
	require.NoError(t, run("recount", reserve))
	require.NoError(t, run("recount", both))
	require.NoError(t, run("recount", recount))
	require.ErrorContains(t, run("recount that corrects", claim), "outstanding and")
}

// A retirement as all others see it, instruction for instruction: DEAD first, then the
// slots, then the key, then the name.
func TestSteppedRetirement(t *testing.T) {
	watch := func(op string) error {
		dir := shmDir(t, false)
		e := current(t, openRing(t, dir, &Options{Capacity: 2}))
		key := bytes.Clone(e.record.key())
		_, err := e.Reserve(time.Minute)
		require.NoError(t, err)
		s := startStepped(t, dir, op)
		var wrong []error
		err = s.observe(e, func() {
			dead := e.state.Load() == stateDead
			spent := e.states()[slotSpent]
			whole := bytes.Equal(key, e.record.key())
			wiped := bytes.Equal(make([]byte, keySize), e.record.key())
			_, named := os.Stat(epochFile(dir, e))
			switch {
			case spent > 0 && !dead:
				wrong = append(wrong, errors.New("a slot is spent and the epoch is not dead"))
			case !whole && spent < len(e.reg.slots):
				wrong = append(wrong, errors.New("the key is going and a slot is not spent"))
			case !whole && !dead:
				wrong = append(wrong, errors.New("the key is going and the epoch is not dead"))
			case named != nil && !wiped:
				wrong = append(wrong, errors.New("the name is gone and the key is not"))
			}
		})
		require.NoError(t, err)
		require.NoFileExists(t, epochFile(dir, e))
		require.Equal(t, make([]byte, keySize), e.record.key())
		return errors.Join(wrong...)
	}
	require.NoError(t, watch("retire"))
	require.ErrorContains(t, watch("wipe, then retire"), "the key is going")
	require.ErrorContains(t, watch("sweep, then retire"), "the epoch is not dead")
}

// A key that is derived while another process retires the epoch is the genuine one, or
// there is none, whichever of the two is stopped.
func TestSteppedDerive(t *testing.T) {
	derives := func(e *Epoch) ([]byte, error) { return deriveKey(e, "step", nil) }
	genuine := func(key, want []byte, err error) error {
		if err == nil && !bytes.Equal(key, want) || err != nil && !errors.Is(err, ErrRetired) {
			return fmt.Errorf("a wrong key, or %w", err)
		}
		return nil
	}
	_, found := everyStep(t, "Derive", 1, 17, func(e *Epoch, s *stepped) (func(), func(error) error) {
		want, err := derives(e)
		require.NoError(t, err)
		return func() { require.NoError(t, e.retire()) }, func(err error) error { return genuine(s.board.key[:], want, err) }
	})
	require.Empty(t, found)
	for op, want := range map[string]string{"retire": "", "wipe, then retire": "a wrong key"} {
		_, found = everyStep(t, op, 1, 3, func(e *Epoch, _ *stepped) (func(), func(error) error) {
			want, err := derives(e)
			require.NoError(t, err)
			var key []byte
			var derived error
			return func() { key, derived = derives(e) }, func(error) error { return genuine(key, want, derived) }
		})
		if want == "" {
			require.Empty(t, found)
		} else {
			require.ErrorContains(t, errors.Join(found...), want, "the control")
		}
	}
}

// When an epoch was closed is written after it is closed: no token is issued later.
func TestSteppedClose(t *testing.T) {
	dir := shmDir(t, false)
	e := current(t, openRing(t, dir, nil))
	s := startStepped(t, dir, "close")
	seen := map[uint32]bool{}
	require.NoError(t, s.observe(e, func() {
		seen[e.state.Load()] = true
		if at := e.closedAt.Load(); at != 0 {
			require.EqualValues(t, stateClosed, e.state.Load(), "its time is written before it is closed")
			now, err := e.ring.clock.Now()
			require.NoError(t, err)
			require.LessOrEqual(t, at, int64(now))
		}
	}))
	require.Equal(t, map[uint32]bool{stateOpen: true, stateClosed: true}, seen)
}
