//go:build linux

package memscan

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long the parent waits for the next word of a victim.
const patience = 90 * time.Second

// Options says how a victim runs. Nil and the zero value mean a quiet process
// with the environment of the parent.
type Options struct {
	// Env is added to the environment, "GODEBUG=cpu.aes=off" for instance. It
	// must hold nothing secret.
	Env []string

	// Collectors is how many goroutines allocate and collect garbage inside
	// Victim.UnderLoad, at most 255. Zero means none.
	Collectors int

	// Signal is sent to the victim's threads in turn inside Victim.UnderLoad, Rate
	// times a second. Zero means none. SIGURG is what the Go runtime sends to
	// preempt a goroutine; it is harmless.
	Signal syscall.Signal
	Rate   int

	// DumpDir is the victim's working directory and where [Target.Dump] finds
	// its core dump; it should be empty. Without it the victim works where the
	// test does.
	DumpDir string

	// SysProcAttr, if not nil, is used for the new process, to run it as another
	// user for instance.
	SysProcAttr *syscall.SysProcAttr
}

// Target is a victim process, as the test that started it sees it. Its methods
// fail the test if the victim fails, ends early or stays silent for 90 seconds;
// they are for the test's goroutine only.
type Target struct {
	t        testing.TB
	cmd      *exec.Cmd
	commands *os.File
	messages *os.File
	in       *bufio.Reader
	stderr   *bytes.Buffer
	mask     []byte
	opts     Options

	secrets map[string][]byte
	values  map[string]uint64
	ended   bool

	stopLoad chan struct{}
	loadDone sync.WaitGroup
}

// Start re-executes the test binary to run a scenario that the package's
// TestMain gave to [Main]. The process is killed at the end of the test if it
// has not ended by then.
func Start(t testing.TB, scenario string, o *Options) *Target {
	t.Helper()
	tg := &Target{t: t, stderr: &bytes.Buffer{}, secrets: map[string][]byte{}, values: map[string]uint64{}}
	if o != nil {
		tg.opts = *o
	}
	var childIn, childOut *os.File
	var err error
	childIn, tg.commands, err = os.Pipe()
	tg.check(err)
	defer childIn.Close()
	tg.messages, childOut, err = os.Pipe()
	tg.check(err)
	defer childOut.Close()
	tg.in = bufio.NewReader(tg.messages)

	// By descriptor, since another user may not reach the path of the binary.
	self, err := os.Open("/proc/self/exe")
	tg.check(err)
	defer self.Close()
	tg.cmd = exec.Command("/proc/self/fd/5")
	// Without this a victim built with -race sleeps for a second as it exits.
	tg.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	tg.cmd.Env = append(append(tg.cmd.Env, tg.opts.Env...), scenarioVar+"="+scenario)
	if tg.cmd.Dir = tg.opts.DumpDir; tg.cmd.Dir != "" {
		tg.cmd.Env = append(tg.cmd.Env, dumpEnv)
	}
	tg.cmd.Stderr = tg.stderr
	tg.cmd.ExtraFiles = []*os.File{childIn, childOut, self}
	tg.cmd.SysProcAttr = tg.opts.SysProcAttr
	tg.check(tg.cmd.Start())
	t.Cleanup(tg.kill)

	tg.mask = newMask()
	_, err = tg.commands.Write(append([]byte{byte(tg.opts.Collectors)}, tg.mask...))
	tg.check(err)
	return tg
}

// newMask makes a mask without zero bytes: each byte of a needle is changed.
func newMask() []byte {
	mask := make([]byte, maskSize)
	rand.Read(mask) // does not fail
	for i := range mask {
		if mask[i] == 0 {
			mask[i] = 0xa5
		}
	}
	return mask
}

// PID returns the process id of the victim.
func (tg *Target) PID() int { return tg.cmd.Process.Pid }

// At waits until the victim is at its next checkpoint, which must have this
// name.
func (tg *Target) At(checkpoint string) {
	tg.t.Helper()
	m := tg.next()
	if m.kind != msgCheckpoint || m.name != checkpoint {
		tg.t.Fatalf("memscan: victim is at %c %q, not at checkpoint %q", m.kind, m.name, checkpoint)
	}
}

// Secret returns a copy of what the victim has handed over under this name; the
// latest, where it has handed over more than one.
func (tg *Target) Secret(name string) []byte {
	tg.t.Helper()
	b, ok := tg.secrets[name]
	if !ok {
		tg.t.Fatalf("memscan: victim has handed over no %q", name)
	}
	return bytes.Clone(b)
}

// Value returns a number that the victim has handed over.
func (tg *Target) Value(name string) uint64 {
	tg.t.Helper()
	n, ok := tg.values[name]
	if !ok {
		tg.t.Fatalf("memscan: victim has handed over no %q", name)
	}
	return n
}

// Scan scans the victim, as the function [Scan] does. It fails the test if less
// than [MinCoverage] was read, if registers could not be, or if s is empty.
func (tg *Target) Scan(s *Set) *Report {
	tg.t.Helper()
	r, err := Scan(tg.PID(), s)
	tg.check(err)
	if s.Windows() == 0 {
		tg.t.Fatal("memscan: a scan for no needle proves nothing")
	}
	if r.Coverage() < MinCoverage {
		tg.t.Fatalf("memscan: scanned too little: %v", r)
	}
	tg.check(r.RegistersErr)
	return r
}

// Collect makes the victim, at a checkpoint, collect garbage n times.
func (tg *Target) Collect(n int) {
	tg.t.Helper()
	for range n {
		tg.command(cmdCollect)
	}
}

// Churn makes the victim, at a checkpoint, overwrite free heap memory and free
// stacks, as a program does that goes on working. It takes about 0.1 s.
func (tg *Target) Churn() {
	tg.t.Helper()
	tg.command(cmdChurn)
}

// Resume lets the victim go on from its checkpoint.
func (tg *Target) Resume() {
	tg.t.Helper()
	_, err := tg.commands.Write([]byte{cmdGo})
	tg.check(err)
}

// Wait waits until the scenario has returned, past its last checkpoint.
func (tg *Target) Wait() {
	tg.t.Helper()
	if m := tg.next(); m.kind != 0 {
		tg.t.Fatalf("memscan: victim is at %c %q, not at its end", m.kind, m.name)
	}
}

func (tg *Target) command(c byte) {
	tg.t.Helper()
	_, err := tg.commands.Write([]byte{c})
	tg.check(err)
	if m := tg.next(); m.kind != msgDone {
		tg.t.Fatalf("memscan: victim said %c %q", m.kind, m.name)
	}
}

// next answers messages about needles, values and load, and returns the first
// that is about something else. The end of a victim that has ended well is a
// message of kind zero.
func (tg *Target) next() message {
	tg.t.Helper()
	for {
		tg.check(tg.messages.SetReadDeadline(time.Now().Add(patience)))
		m, err := readMessage(tg.in)
		if err != nil {
			return tg.end(err)
		}
		switch m.kind {
		case msgNeedle:
			for i := range m.body {
				m.body[i] ^= tg.mask[i%maskSize]
			}
			tg.secrets[m.name] = m.body
		case msgValue:
			tg.values[m.name] = binary.BigEndian.Uint64(m.body)
		case msgLoad:
			if m.name == "begin" {
				tg.beginLoad()
			} else {
				tg.endLoad()
			}
			_, err := tg.commands.Write([]byte{cmdGo})
			tg.check(err)
		case msgError:
			tg.fail("victim: " + m.name)
		default:
			return m
		}
	}
}

// end waits for the victim after its last message.
func (tg *Target) end(err error) message {
	tg.t.Helper()
	if err != io.EOF {
		tg.fail("victim: " + err.Error()) // silent for too long, or cut off
	}
	tg.endLoad()
	tg.ended = true
	if err := tg.cmd.Wait(); err != nil {
		tg.t.Fatalf("memscan: victim: %v\n%s", err, tg.stderr)
	}
	return message{}
}

// beginLoad starts to send signals, if any are asked for: every millisecond its
// share of the rate, to one thread after the other.
func (tg *Target) beginLoad() {
	if tg.opts.Rate == 0 || tg.stopLoad != nil {
		return
	}
	stop := make(chan struct{})
	tg.stopLoad = stop
	pid := tg.PID()
	tg.loadDone.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for sent, began := 0, time.Now(); ; {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			ids, err := tasks(pid)
			if err != nil {
				return
			}
			for due := int(time.Since(began).Seconds() * float64(tg.opts.Rate)); sent < due; sent++ {
				_ = unix.Tgkill(pid, ids[sent%len(ids)], tg.opts.Signal)
			}
		}
	})
}

// endLoad stops the signals and waits until no more are sent.
func (tg *Target) endLoad() {
	if tg.stopLoad != nil {
		close(tg.stopLoad)
		tg.stopLoad = nil
	}
	tg.loadDone.Wait()
}

func (tg *Target) kill() {
	tg.endLoad()
	tg.commands.Close()
	tg.messages.Close()
	if !tg.ended && tg.cmd != nil && tg.cmd.Process != nil {
		_ = tg.cmd.Process.Kill()
		_ = tg.cmd.Wait()
	}
	tg.ended = true
}

func (tg *Target) check(err error) {
	tg.t.Helper()
	if err != nil {
		tg.fail(err.Error())
	}
}

// fail ends the victim and the test. The victim's standard error is complete
// only when it has ended.
func (tg *Target) fail(why string) {
	tg.t.Helper()
	tg.kill()
	tg.t.Fatalf("memscan: %s\n%s", why, tg.stderr)
}
