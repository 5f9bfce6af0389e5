package agent

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// The sizes of what goes over the socket for a context of about 1,165 bytes.
const benchPlain = 1165

// roleEcho is the other end of a bare request and reply: it reads one message of
// a size and answers with one of another, as Go's net package does it plainly.
func roleEcho(path string) error {
	var request, reply int
	if _, err := fmt.Sscan(os.Getenv("AGENT_TEST_SIZES"), &request, &reply); err != nil {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	c, err := l.Accept()
	if err != nil {
		return err
	}
	in, out := make([]byte, request), make([]byte, reply)
	for {
		if _, err := io.ReadFull(c, in); err != nil {
			return nil
		}
		if _, err := c.Write(out); err != nil {
			return err
		}
	}
}

// exchange asks an echo process of those sizes.
func exchange(b *testing.B, request, reply int) {
	path := filepath.Join(publicDir(b), "echo.sock")
	b.Setenv("AGENT_TEST_SIZES", fmt.Sprint(request, reply))
	p := spawn(b, "echo", path)
	require.Equal(b, "ready", p.line(b))
	c, err := net.Dial("unix", path)
	require.NoError(b, err)
	defer c.Close()
	out, in := make([]byte, request), make([]byte, reply)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(out); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, in); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAgent is a reserve and an open through an agent of another process,
// each beside a bare request and reply of the same sizes between two processes.
// All of them share one processor: where the scheduler puts two processes that
// wait for each other is worth more than what is measured, a bare exchange taking
// 20 µs or 80 on two processors of a virtual machine.
func BenchmarkAgent(b *testing.B) {
	onOneProcessor(b)
	path := filepath.Join(publicDir(b), "agent.sock")
	b.Setenv("AGENT_TEST_POLICY", "quota everyone outstanding 4000000")
	b.Setenv("AGENT_TEST_OUTSTANDING", "4000000")
	agentProcess(b, path)
	c, err := Dial(path)
	require.NoError(b, err)
	defer c.Close()

	frame, _, err := reserveRequest(testRequest, []byte{1, 2})
	require.NoError(b, err)
	g, err := c.reserve(frame, -1, c.deadline())
	require.NoError(b, err)
	g.Key.Wipe()
	token := benchTokens(b, c, 1)[0]
	open, err := (&wire.OpenRequest{Format: []byte(testFormat), Token: token}).Marshal(wire.Open)
	require.NoError(b, err)

	b.Run("reserve/bare", func(b *testing.B) { exchange(b, len(frame), wire.HeaderSize+2+32+2+len(g.Start)) })
	b.Run("reserve/agent", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			g, err := c.reserve(frame, -1, c.deadline())
			if err != nil {
				b.Fatal(err)
			}
			g.Key.Wipe() // as sealing does; a cancel would be another request
		}
	})
	b.Run("open/bare", func(b *testing.B) { exchange(b, len(open), wire.PlainPrefixSize+benchPlain) })
	b.Run("open/agent", func(b *testing.B) {
		b.ReportAllocs()
		var tokens [][]byte
		for b.Loop() {
			if len(tokens) == 0 {
				b.StopTimer()
				tokens = benchTokens(b, c, 500)
				b.StartTimer()
			}
			secret, err := c.Open(tokens[0], testFormat)
			if err != nil {
				b.Fatal(err)
			}
			secret.Wipe()
			tokens = tokens[1:]
		}
	})
}

// onOneProcessor keeps this process, and those that it starts, on one of the
// processors that it may use.
func onOneProcessor(b *testing.B) {
	var before, one unix.CPUSet
	require.NoError(b, unix.SchedGetaffinity(0, &before))
	for cpu := range 1024 {
		if before.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	setAffinity(b, &one)
	b.Cleanup(func() { setAffinity(b, &before) })
}

// setAffinity moves every thread: the kernel knows no processes here.
func setAffinity(b *testing.B, cpus *unix.CPUSet) {
	tasks, err := os.ReadDir("/proc/self/task")
	require.NoError(b, err)
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		require.NoError(b, err)
		if err := unix.SchedSetaffinity(tid, cpus); err != unix.ESRCH { // one that has ended
			require.NoError(b, err)
		}
	}
}

func benchTokens(b *testing.B, s seal.Sealer, n int) (tokens [][]byte) {
	b.Helper()
	for range n {
		r, err := s.Reserve(testRequest)
		require.NoError(b, err)
		token, err := r.Seal(make([]byte, benchPlain))
		require.NoError(b, err)
		tokens = append(tokens, token)
	}
	return tokens
}
