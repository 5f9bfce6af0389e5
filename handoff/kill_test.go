package handoff

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal/agent"
)

// A stage has one agent, one exporter and the importers, each a process, and
// keeps the account of who got which context.
type stage struct {
	t      testing.TB
	dir    string
	format string
	client *agent.Client // of the test: one more who wants every token
	actors []*cast

	handed atomic.Int64 // contexts that were handed over and served

	mu       sync.Mutex
	owners   map[string]int
	shown    map[string][]byte // the tokens of this round
	outcomes map[string]int
	ended    [exporters]int // how many handoffs each of them has behind it
	faults   []string
}

// A cast is an actor as the test sees it.
type cast struct {
	role string
	cmd  *exec.Cmd
	in   *os.File
	last atomic.Value  // the step that it reached
	gone chan struct{} // closed when it has ended and all it told was heard
	left bool          // it finished and closed everything
}

func newStage(t testing.TB, exporter string) *stage {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-handoff-")
	require.NoError(t, err)
	s := &stage{t: t, dir: dir, owners: map[string]int{}, shown: map[string][]byte{}, outcomes: map[string]int{}}
	t.Cleanup(func() {
		for _, c := range s.actors {
			_ = c.cmd.Process.Kill()
			c.end()
		}
		_ = os.RemoveAll(dir)
	})
	s.actors = append(s.actors, s.enter("the agent"))
	s.client, err = (&agent.Dialer{Timeout: agentPatience}).Dial(dir + "/agent.sock")
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.client.Close() })
	s.actors = append(s.actors, s.enter(exporter))
	for range importers {
		s.actors = append(s.actors, s.enter("the importer"))
	}
	return s
}

// enter starts an actor, and waits until it is ready.
func (s *stage) enter(role string) *cast {
	s.t.Helper()
	out, stdout, err := os.Pipe()
	require.NoError(s.t, err)
	stdin, in, err := os.Pipe()
	require.NoError(s.t, err)
	c := &cast{role: role, cmd: exec.Command("/proc/self/exe"), in: in, gone: make(chan struct{})}
	c.cmd.Env = append(os.Environ(), roleVariable+"="+role, agentVariable+"="+s.dir)
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = stdin, stdout, os.Stderr
	require.NoError(s.t, c.cmd.Start())
	_, _ = stdin.Close(), stdout.Close()
	ready := make(chan struct{})
	go func() {
		defer close(c.gone)
		defer out.Close()
		s.listen(c, bufio.NewReaderSize(out, 1<<16), sync.OnceFunc(func() { close(ready) }))
	}()
	select {
	case <-ready:
	case <-c.gone:
		require.Fail(s.t, "an actor did not start", "%s: %v", role, s.faults)
	case <-time.After(ample):
		require.Fail(s.t, "an actor does not start", role)
	}
	return c
}

// listen hears an actor to its end.
func (s *stage) listen(c *cast, r io.Reader, ready func()) {
	for {
		var head [3]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint16(head[1:]))
		if _, err := io.ReadFull(r, b); err != nil {
			return
		}
		switch s.mu.Lock(); head[0] {
		case reached:
			c.last.Store(string(b))
			ready()
		case asks:
			s.shown[string(nameOf(b))] = b
		case owns:
			s.own(string(b), c.role)
			s.outcomes["claimed by "+c.role]++
		case served:
			s.handed.Add(1)
		case outcome:
			s.ended[b[0]]++
			s.outcomes[string(b[1:])]++
		case fault:
			s.faults = append(s.faults, c.role+": "+string(b))
		case left:
			c.left = true
		}
		s.mu.Unlock()
	}
}

// own is called with the lock held.
func (s *stage) own(name, who string) {
	if s.owners[name]++; s.owners[name] > 1 {
		s.faults = append(s.faults, fmt.Sprintf("%s is owner number %d", who, s.owners[name]))
	}
}

// end waits for an actor that ends.
func (c *cast) end() {
	_ = c.in.Close()
	<-c.gone
	_ = c.cmd.Wait() // how it ended was seen
}

// A blow is what befalls an actor: at the next time that it comes to a step, or
// from outside, at any time.
type blow struct {
	sign syscall.Signal
	step string
}

func (b blow) verb() string {
	if b.sign == syscall.SIGKILL {
		return "kill"
	}
	return "stop"
}

// strike lets a blow befall an actor and returns what the histogram says of it.
func (s *stage) strike(c *cast, b blow) string {
	s.t.Helper()
	if b.step != "" {
		_, err := fmt.Fprintf(c.in, "%s %s\n", b.verb(), b.step)
		require.NoError(s.t, err)
	} else {
		time.Sleep(rand.N(2 * time.Millisecond))
		require.NoError(s.t, c.cmd.Process.Signal(b.sign))
	}
	if b.sign == syscall.SIGKILL {
		select {
		case <-c.gone:
		case <-time.After(ample):
			require.Fail(s.t, "an actor does not die", "%s %v", c.role, b)
		}
	} else {
		require.Eventually(s.t, func() bool { return halted(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid)) }, ample, 200*time.Microsecond, "%s %v", c.role, b)
	}
	if b.step != "" {
		return fmt.Sprintf("%s %-4s at:        %s", c.role, b.verb(), b.step)
	}
	return fmt.Sprintf("%s %-4s any time:  %v", c.role, b.verb(), c.last.Load())
}

// stops are how long an actor is stopped at most, mostly shorter than others wait.
// Zero is for as long as they do.
var stops = []time.Duration{5 * time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, longestStop, 0}

// bounded reports whether nobody waits for an actor that is stopped there longer
// than the library lets it: neither a client for a worker that has its
// connection, nor a worker for the next context.
func (b blow) bounded() bool {
	return strings.HasPrefix(b.step, "token") || b.step == "claim"
}

// allReturn waits until every handoff under way has come to an end, whatever
// stands still.
func (s *stage) allReturn() {
	s.t.Helper()
	returned := func() [exporters]int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.ended
	}
	before := returned()
	require.Eventually(s.t, func() bool {
		for i, n := range returned() {
			if n == before[i] {
				return false
			}
		}
		return true
	}, ample, time.Millisecond, "a client hangs")
}

// round strikes one actor, under load, and sees all recover.
func (s *stage) round(i int, b blow) string {
	s.t.Helper()
	c := s.actors[i]
	line := s.strike(c, b)
	if i > 0 { // the agent answers
		s.claimAll()
	}
	if b.sign == syscall.SIGKILL {
		c.end()
		s.actors[i] = s.enter(c.role)
	} else {
		if limit := stops[rand.IntN(len(stops))]; limit > 0 || !b.bounded() {
			time.Sleep(rand.N(limit + time.Millisecond))
		} else {
			s.allReturn()
		}
		require.NoError(s.t, c.cmd.Process.Signal(syscall.SIGCONT))
	}
	s.recover()
	s.claimAll()
	return line
}

// recover waits until contexts are handed over again, with nobody told to
// connect again.
func (s *stage) recover() {
	s.t.Helper()
	before := s.handed.Load() // the first may be one that the blow came behind
	for end := time.Now().Add(ample); s.handed.Load() < before+2; time.Sleep(100 * time.Microsecond) {
		require.True(s.t, time.Now().Before(end), "nothing is handed over any more; %v", s.faults)
	}
}

// claimAll has the test claim tokens of the round, those on their way among them,
// and looks at the account.
func (s *stage) claimAll() {
	s.t.Helper()
	s.mu.Lock()
	shown := s.shown
	s.shown = map[string][]byte{}
	s.mu.Unlock()
	tries := 0
	for name, b := range shown {
		secret, err := s.client.TakeBack(b, s.format)
		if err == nil {
			secret.Wipe()
			s.mu.Lock()
			s.own(name, "the test")
			s.outcomes["claimed by the test"]++
			s.mu.Unlock()
		}
		if tries++; tries == 50 {
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Empty(s.t, s.faults)
}

// finish has every actor close what it has.
func (s *stage) finish() {
	s.t.Helper()
	for _, i := range []int{1, 2, 3, 0} { // who hands over first, the agent last
		c := s.actors[i]
		_, err := fmt.Fprintln(c.in, "finish")
		require.NoError(s.t, err)
		select {
		case <-c.gone:
		case <-time.After(ample):
			require.Fail(s.t, "an actor does not finish", c.role)
		}
		s.mu.Lock()
		require.Empty(s.t, s.faults, c.role)
		s.mu.Unlock()
		require.True(s.t, c.left, "%s has not finished", c.role)
	}
}

// TestAnyProcessDiesAndStops kills and stops agent, exporter and importers, each
// at each of its steps and at any time, while two of four processes hand contexts
// over to the others through the agent. Never has a context two owners, nobody
// waits longer than it would, all find each other again by themselves, and no
// process has a descriptor too many in the end, whatever the others did. It tells
// how far they came.
func TestAnyProcessDiesAndStops(t *testing.T) {
	rounds := 1000
	if testing.Short() || raceEnabled {
		rounds = 60
	}
	steps := [][]string{
		{"", "token reserved", "token opened", "token to take back is gone"},
		{"", "established", "reserved", "answer", "handed over"},
		{"", "token", "claim", "connection", "served"},
	}
	require.NoError(t, leaving(func() error { return nil })) // what is opened once, is
	before := descriptors(t)
	// Who verifies takes back each token, so that agent and exporter are struck
	// there too; importers die under the exporter that everybody has.
	exporters := []string{"the verifying exporter", "the verifying exporter", "the exporter"}
	for victim, steps := range steps {
		t.Run([]string{"agent", "exporter", "importer"}[victim], func(t *testing.T) {
			s := newStage(t, exporters[victim])
			s.format = formatHere(t)
			var blows []blow
			for _, step := range steps {
				blows = append(blows, blow{syscall.SIGKILL, step}, blow{syscall.SIGSTOP, step})
			}
			histogram := map[string]int{}
			s.recover()
			for n := range (rounds + 2) / 3 {
				histogram[s.round(victim, blows[n%len(blows)])]++
			}
			s.finish()
			for _, line := range sorted(histogram) {
				t.Log(line)
			}
			t.Logf("how handoffs ended: %v; %d served; %d tokens claimed", s.outcomes, s.handed.Load(), len(s.owners))
			require.GreaterOrEqual(t, len(histogram), len(blows), "every blow has its line")
		})
	}
	require.Eventually(t, func() bool { return descriptors(t) <= before }, slack, time.Millisecond, "a descriptor was left open")
}

// formatHere is the plain format of the mechanism.
func formatHere(t testing.TB) string {
	t.Helper()
	return newHouse(t).mech.PlainFormat()
}

// TestTwoOwnersThroughAgent is the control: an exporter that takes back whatever
// the agent says is seen. So is one that has left a descriptor open.
func TestTwoOwnersThroughAgent(t *testing.T) {
	s := newStage(t, "the careless exporter")
	seen := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return strings.Contains(strings.Join(s.faults, "\n"), "is owner number 2")
	}
	require.Eventually(t, seen, ample, time.Millisecond)
	require.ErrorContains(t, leaving(func() error {
		f, err := os.Open("/dev/null")
		t.Cleanup(func() { _ = f.Close() })
		return err
	}), "1 descriptors are left open")
}
