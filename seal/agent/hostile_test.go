package agent

import (
	"encoding/binary"
	"io"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// Bytes that are not the protocol end the connection, at once, and no other.
func TestNotTheProtocol(t *testing.T) {
	in := serveHere(t, nil)
	good := statFrame(t)
	change := func(at int, to byte) []byte {
		b := append([]byte(nil), good...)
		b[at] = to
		return b
	}
	reply := change(6, 1)
	huge := append([]byte(nil), good...)
	binary.BigEndian.PutUint32(huge[8:], 1<<32-1)
	over := append([]byte(nil), good...)
	binary.BigEndian.PutUint32(over[8:], wire.MaxBody+1)
	other := in.raw(t)
	for name, b := range map[string][]byte{
		"magic": change(0, 'x'), "version": change(4, 9), "operation": change(5, 77), "flags": change(6, 0x80),
		"status": change(7, 1), "a reply": reply, "4 GiB": huge, "a byte too many": over,
		"two requests at once":   append(append([]byte(nil), good...), good...),
		"a body of status":       append(change(11, 1), 0),
		"trailing bytes":         append(func() []byte { b := reserveFrame(t); b[11]++; return b }(), 0),
		"text of another server": []byte("GET / HTTP/1.1\r\n\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			c := in.raw(t)
			c.expect(wire.Protocol, b)
			c.expectEnd()
			other.expect(wire.OK, good) // and goes on
		})
	}
}

// A descriptor that the protocol does not have is closed, with its connection; a
// descriptor that is no process is no audience.
func TestDescriptorTooMany(t *testing.T) {
	in := serveHere(t, nil)
	in.raw(t).expect(wire.OK, statFrame(t))
	before := descriptors(t)
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	require.NoError(t, err)

	for _, tt := range []struct {
		name  string
		frame []byte
		fds   []int
		want  wire.Code
		ends  bool
	}{
		{"with status", statFrame(t), []int{self}, wire.Protocol, true},
		{"two with reserve", reserveFrame(t, token.KindProcess), []int{self, self}, wire.Protocol, true},
		{"many with reserve", reserveFrame(t, token.KindProcess), []int{self, null, null, null, null, null, null, null}, wire.Protocol, true},
		{"with reserve for a user", reserveFrame(t), []int{self}, wire.Protocol, true},
		{"none with reserve for a process", reserveFrame(t, token.KindProcess), nil, wire.Protocol, true},
		{"a file", reserveFrame(t, token.KindProcess), []int{null}, wire.BadAudience, false},
		{"a process, by number", reserveFrame(t, append([]byte{token.KindProcess}, make([]byte, 12)...)...), nil, wire.BadAudience, false},
		{"a process", reserveFrame(t, token.KindProcess), []int{self}, wire.OK, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := in.raw(t)
			c.expect(tt.want, tt.frame, tt.fds...)
			if tt.ends {
				c.expectEnd()
			} else {
				c.expect(wire.OK, statFrame(t))
			}
			require.NoError(t, c.Close())
		})
	}
	require.NoError(t, unix.Close(null))
	require.NoError(t, unix.Close(self))
	settles(t, before, func() int { return descriptors(t) })
}

// A million tiny frames, sent without waiting for answers, end with the first
// that came too soon; answered one by one they cost others nothing.
func TestTinyFrames(t *testing.T) {
	in := serveHere(t, nil)
	flood := make([]byte, 0, 1<<20)
	for len(flood) < 1<<20-wire.HeaderSize {
		flood = append(flood, statFrame(t)...)
	}
	start := time.Now()
	c := in.raw(t)
	_ = c.SetWriteDeadline(time.Now().Add(5 * time.Second))
	sent := 0
	for sent < 1e6*wire.HeaderSize {
		n, err := c.Write(flood)
		sent += n
		if err != nil {
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
			break
		}
	}
	require.Less(t, sent, 1<<20, "the flood was read")
	require.Less(t, time.Since(start), 2*time.Second)
	in.dial(t)
}

// Half a frame holds nothing of anybody else's; its connection ends when its
// time is up, and so does one that does not read its answers.
func TestHalfFrame(t *testing.T) {
	s, err := NewServer(nil)
	require.NoError(t, err)
	s.times.frame = 300 * time.Millisecond
	in := serveAs(t, s)
	var halves []*rawConn
	for n := range wire.HeaderSize + 8 {
		c := in.raw(t)
		_, err := c.Write(reserveFrame(t)[:n+1])
		require.NoError(t, err)
		halves = append(halves, c)
	}
	start := time.Now()
	others := in.dial(t)
	for range 100 {
		_, err := others.Account()
		require.NoError(t, err)
	}
	require.Less(t, time.Since(start), s.times.frame, "others waited for the halves")
	for _, c := range halves {
		c.expectEnd()
	}
	require.GreaterOrEqual(t, time.Since(start), s.times.frame/2)

	slow := in.raw(t) // a frame byte by byte is fine as long as it is in time
	frame := statFrame(t)
	for _, b := range frame[:len(frame)-1] {
		_, err := slow.Write([]byte{b})
		require.NoError(t, err)
		time.Sleep(time.Millisecond)
	}
	slow.expect(wire.OK, frame[len(frame)-1:])
	slow.expect(wire.OK, frame)
}

// Silent peers cost a little memory each and nobody's time; an idle connection
// ends when its time is up.
func TestSilentPeers(t *testing.T) {
	s, err := NewServer(nil)
	require.NoError(t, err)
	s.times.idle = 3 * time.Second
	in := serveAs(t, s)
	c := in.dial(t)
	before := heap()
	var silent []*rawConn
	for range 400 {
		silent = append(silent, in.raw(t))
	}
	require.Eventually(t, func() bool { return in.connections() >= 400 }, time.Second, time.Millisecond)
	require.Less(t, heap()-before, 400*32<<10)
	start := time.Now()
	for range 200 {
		_, err := c.Account()
		require.NoError(t, err)
	}
	require.Less(t, time.Since(start), time.Second)
	for _, p := range silent {
		p.expectEnd()
	}
}

func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// However hostile, nothing is left of a peer that is gone.
func TestNoLeaks(t *testing.T) {
	goroutines, fds := runtime.NumGoroutine(), descriptors(t)
	in := serveHere(t, nil)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				c := in.raw(t)
				switch (i + j) % 4 {
				case 0:
					_, _ = c.Write(reserveFrame(t)[:7])
				case 1:
					_, _ = c.Write([]byte("nonsense, and more of it"))
				case 2:
					_, _, _ = c.WriteMsgUnix(reserveFrame(t), unix.UnixRights(0, 1, 2), nil)
					_, _ = io.Copy(io.Discard, c) // until they are closed: nothing is taken of this user before
				case 3:
					_, _ = c.Write(reserveFrame(t)) // and do not wait for the answer
				}
				_ = c.Close()
			}
		})
	}
	wg.Wait()
	c, err := Dial(in.path)
	require.NoError(t, err)
	for range 50 {
		b := reserve(t, c, seal.Party{})
		secret, err := c.Open(b, testFormat)
		require.NoError(t, err)
		secret.Wipe()
	}
	require.NoError(t, c.Close())
	settles(t, 0, in.connections)
	require.Zero(t, in.pool.InUse(), "secrets are left")
	in.stop()
	settles(t, goroutines, runtime.NumGoroutine)
	settles(t, fds, func() int { return descriptors(t) })
}
