package keyring

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/suite"
)

// helpMake opens a ring, waits for the word, and tells the epoch that it got.
func helpMake() error {
	r, err := Open(os.Getenv(dirVariable), nil)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, _ = io.ReadAll(os.Stdin)
	e, err := r.Current()
	if err != nil {
		return err
	}
	key, err := derive(e)
	fmt.Printf("%x %x\n", e.ID(), key)
	return err
}

// Of many processes that want the first epoch at once one makes it and the
// others adopt it.
func TestCreationRace(t *testing.T) {
	const processes, rounds = 16, 6
	for range rounds {
		dir := shmDir(t, false) + "/ring"
		var cmds []*exec.Cmd
		var outs []*bufio.Reader
		gate, open, err := os.Pipe()
		require.NoError(t, err)
		for range processes {
			cmd := helper(t, "make", dir)
			cmd.Stdin = gate
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			cmds, outs = append(cmds, cmd), append(outs, bufio.NewReader(out))
		}
		for _, out := range outs {
			line, err := out.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, "ready\n", line)
		}
		require.NoError(t, gate.Close())
		require.NoError(t, open.Close())
		got := map[string]int{}
		for i, out := range outs {
			line, err := out.ReadString('\n')
			require.NoError(t, err, "%s", cmds[i].Stderr)
			got[line]++
			wait(t, cmds[i])
		}
		require.Len(t, got, 1, "one epoch won")
		require.Len(t, files(t, dir), 1)
	}
}

// helpWatch tells the current epoch whenever it is another, and whether the
// token of the command line is still there.
func helpWatch() error {
	r, err := Open(os.Getenv(dirVariable), nil)
	if err != nil {
		return err
	}
	go func() { _, _ = io.ReadAll(os.Stdin); os.Exit(0) }()
	var last [16]byte
	var held *Epoch
	for ; ; time.Sleep(time.Millisecond) {
		e, err := r.Current()
		if err != nil {
			return err
		}
		if e.ID() != last {
			last = e.ID()
			fmt.Printf("current %x\n", last)
		}
		if held == nil {
			held = e // what it was when this process began
		} else {
			e.Release()
		}
		if err := held.ClaimFresh(Slot{}); errors.Is(err, ErrRetired) {
			_, err := derive(held)
			fmt.Println("retired", errors.Is(err, ErrRetired))
			held = nil
		}
	}
}

// Running processes learn of a rotation, by hand and by age, and of a
// retirement.
func TestOthersSee(t *testing.T) {
	dir := shmDir(t, false)
	r := openRing(t, dir, &Options{Age: time.Second})
	current(t, r)
	cmd := helper(t, "watch", dir)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	see := func(want string) {
		t.Helper()
		require.True(t, lines.Scan(), "%s", cmd.Stderr)
		require.Equal(t, want, lines.Text())
	}
	show := func() string {
		e := current(t, r)
		id := e.ID()
		return "current " + hex.EncodeToString(id[:])
	}
	first := current(t, r)
	see(show())
	require.NoError(t, r.Rotate())
	require.NotEqual(t, first.ID(), current(t, r).ID())
	see(show())
	require.NoError(t, r.Retire(first.ID()))
	see("retired true")
	// By age: the other process is the one that asks, and so the one that rotates.
	require.True(t, lines.Scan(), "%s", cmd.Stderr)
	eventually(t, "to adopt what the other made", func() bool { return show() == lines.Text() })
	require.NoError(t, in.Close())
	wait(t, cmd)
}

// helpChurn does everything there is to do with a ring until it is killed.
func helpChurn() error {
	for {
		r, err := Open(os.Getenv(dirVariable), nil)
		if err != nil {
			return err
		}
		for range 50 {
			if err := churn(r); err != nil {
				return err
			}
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
}

// churn is a round of it; being overtaken by the others is no error.
func churn(r *Ring) error {
	overtaken := func(err error) bool {
		return errors.Is(err, ErrRetired) || errors.Is(err, errNotOpen) || errors.Is(err, ErrUnknown) || errors.Is(err, ErrFull)
	}
	err := func() error {
		e, err := r.Current()
		if err != nil {
			return err
		}
		defer e.Release()
		l, err := e.Reserve(time.Minute)
		if err != nil {
			return err
		}
		switch rand.IntN(4) {
		case 0:
			return r.Rotate()
		case 1:
			return r.Retire(e.ID())
		case 2:
			_, err := derive(e)
			return err
		default:
			return e.ClaimFresh(l.Slot)
		}
	}()
	if errors.Is(err, ErrFull) {
		err = makeRoom(r)
	}
	if overtaken(err) {
		return nil
	}
	return err
}

// makeRoom retires the oldest epoch, since churn rotates more than is good.
func makeRoom(r *Ring) error {
	list, err := r.Epochs()
	if err != nil || len(list) < MaxEpochs {
		return err
	}
	return r.Retire(list[0].ID)
}

// Processes killed in the middle of whatever they do: the next who comes finds
// or makes an epoch that works, and finishes what they began.
func TestKilledAnywhere(t *testing.T) {
	dir := shmDir(t, false) + "/ring"
	r := openRing(t, dir, nil)
	start := func() *exec.Cmd {
		cmd := helper(t, "churn", dir)
		require.NoError(t, cmd.Start())
		return cmd
	}
	rounds := 150
	if testing.Short() || raceDetector {
		rounds = 30
	}
	live := []*exec.Cmd{start(), start(), start()}
	for round := range rounds {
		time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
		victim := round % len(live)
		require.NoError(t, live[victim].Process.Kill())
		err := live[victim].Wait()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit)
		require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "%s", live[victim].Stderr)
		live[victim] = start()
		require.NoError(t, churn(r), "round %d", round)
	}
	for _, cmd := range live {
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait()
	}
	require.NoError(t, makeRoom(r))
	wholesome(t, dir)
}

// wholesome checks a directory that all others have left: one epoch is open, it
// seals and opens, and no file is there that no ring would load.
func wholesome(t *testing.T, dir string) *Ring {
	t.Helper()
	r := openRing(t, dir, nil)
	e := current(t, r)
	mustDerive(t, e)
	l, err := e.Reserve(time.Minute)
	require.NoError(t, err)
	require.NoError(t, e.ClaimFresh(l.Slot))
	require.ErrorIs(t, e.ClaimFresh(l.Slot), ErrSpent)
	require.Len(t, files(t, dir), len(r.epochs))
	for _, other := range r.epochs {
		require.Equal(t, other == e, other.open())
		if other != e {
			require.NotZero(t, other.closedAt.Load(), "an epoch that nobody would ever retire")
		}
	}
	return r
}

// dieAt kills this process, as kill -9 would, when it is called.
func dieAt() {
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}

// deadlyReader dies when it is asked for more than n bytes.
type deadlyReader struct{ n int }

func (r *deadlyReader) Read(b []byte) (int, error) {
	if r.n -= len(b); r.n < 0 {
		dieAt()
	}
	for i := range b {
		b[i] = byte(r.n + i + 1)
	}
	return len(b), nil
}

// deadlyBacking dies where the file's name is to be removed.
type deadlyBacking struct{ backing }

func (deadlyBacking) unlink() error { dieAt(); return nil }

// steps are where a process may die, by name.
var steps = map[string]func(r *Ring) error{
	"before the id":         func(r *Ring) error { r.random = &deadlyReader{0}; return r.Rotate() },
	"with a file half made": func(r *Ring) error { r.random = &deadlyReader{16}; return r.Rotate() },
	"linked, the old one open": func(r *Ring) error {
		now, err := r.clock.Now()
		f := fixed{suite: suite.AES256GCM, id: [16]byte{9}, boot: r.boot, birth: now, seq: r.lastSeq + 1,
			outstanding: 8, age: time.Hour, maxLifetime: time.Hour}
		_, err2 := createFile(r, f)
		return errors.Join(err, err2)
	},
	"closed, without the time": func(r *Ring) error { r.latest.state.Store(stateClosed); return nil },
	"rotated":                  func(r *Ring) error { return r.Rotate() },
	"dead, nothing swept":      func(r *Ring) error { r.latest.state.Store(stateDead); return nil },
	"dead, half swept": func(r *Ring) error {
		r.latest.state.Store(stateDead)
		half := r.latest.reg
		half.slots = half.slots[:len(half.slots)/2]
		half.sweep()
		return nil
	},
	"swept, with its name": func(r *Ring) error {
		r.latest.back = deadlyBacking{r.latest.back}
		return r.Retire(r.latest.ID())
	},
	"retired":  func(r *Ring) error { return r.Retire(r.latest.ID()) },
	"reserved": func(r *Ring) error { _, err := r.latest.Reserve(time.Second); return err },
	"counted, not reserved": func(r *Ring) error {
		r.latest.reg.count.Add(oneMore)
		return nil
	},
}

// helpDie goes to one step and dies there.
func helpDie() error {
	r, err := Open(os.Getenv(dirVariable), nil)
	if err != nil {
		return err
	}
	if _, err := r.Current(); err != nil {
		return err
	}
	if err := steps[os.Getenv("STEP")](r); err != nil {
		return err
	}
	dieAt()
	return nil
}

func TestKilledAtEachStep(t *testing.T) {
	for step := range steps {
		t.Run(step, func(t *testing.T) {
			dir := shmDir(t, false)
			r := openRing(t, dir, &Options{Capacity: 1})
			e := current(t, r)
			l, err := e.Reserve(time.Minute)
			require.NoError(t, err)
			require.NoError(t, e.ClaimFresh(l.Slot))
			cmd := helper(t, "die", dir, "STEP="+step)
			err = cmd.Run()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "%s", cmd.Stderr)

			// Of those two one had the ring open all the while and one comes anew.
			time.Sleep(linkCheck)
			var first *Epoch
			eventually(t, "a token to be sealed", func() bool {
				first = current(t, r)
				l, err = first.Reserve(time.Second)
				require.True(t, err == nil || errors.Is(err, ErrFull), err)
				return err == nil
			})
			require.NoError(t, first.ClaimFresh(l.Slot))
			later := wholesome(t, dir)
			require.Equal(t, current(t, r).ID(), current(t, later).ID())
			switch step {
			case "dead, nothing swept", "dead, half swept", "swept, with its name", "retired":
				require.Equal(t, make([]byte, keySize), e.record.key())
				for _, w := range e.reg.slots {
					require.EqualValues(t, slotSpent, word(w).state())
				}
			case "before the id", "with a file half made", "reserved", "counted, not reserved":
				require.Equal(t, e.ID(), first.ID())
			default:
				require.NotEqual(t, e.ID(), current(t, r).ID())
				mustDerive(t, e)
			}
		})
	}
}

// A process that is stopped between looking and swapping, and goes on when the
// slot has long been another token's, claims nothing.
func TestStoppedBeforeSwap(t *testing.T) {
	e := current(t, newRingT(t, &Options{Capacity: 1}))
	old, err := e.Reserve(time.Second)
	require.NoError(t, err)
	stopped, release := make(chan bool), make(chan bool)
	result := make(chan error)
	go func() {
		held, err := e.Holds(old.Slot)
		stopped <- held && err == nil
		<-release
		result <- e.ClaimFresh(old.Slot)
	}()
	require.True(t, <-stopped)
	var next Lease
	eventually(t, "the slot to be taken over", func() bool {
		next, err = e.Reserve(time.Minute)
		if err == nil && next.Index != old.Index {
			require.NoError(t, e.ClaimFresh(next.Slot)) // the other slot
		}
		return err == nil && next.Index == old.Index
	})
	close(release)
	require.ErrorIs(t, <-result, ErrSpent)
	require.NoError(t, e.ClaimFresh(next.Slot))
}

// Many processes of one ring in this one: rotation by each of them at once makes
// few epochs, not one each.
func TestRotationRace(t *testing.T) {
	dir := shmDir(t, false)
	rings := make([]*Ring, 8)
	for i := range rings {
		rings[i] = openRing(t, dir, nil)
		current(t, rings[i]).makeOlder(defaultAge)
	}
	var all sync.WaitGroup
	for _, r := range rings {
		all.Go(func() {
			e, err := r.Current()
			if err != nil {
				t.Error(err)
				return
			}
			e.Release()
		})
	}
	all.Wait()
	id := current(t, rings[0]).ID()
	for _, r := range rings {
		require.Equal(t, id, current(t, r).ID())
	}
	require.Len(t, files(t, dir), 2)
}
