package agent

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/peer"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
	"github.com/sealctx/sealctx/seal/internal/ask"
)

// A token for a user, a group or a service opens for a worker that is that, of
// whatever user, and for nobody else. Root.
func TestAudienceOfOthers(t *testing.T) {
	needRoot(t)
	in := serveHere(t, withPolicy(t, `
allow user 0 to user %d
allow user 0 to group %d
allow user 0 to service mail
service mail is user %d group %d`, otherUID, someGID, otherUID, someGID))
	c := in.dial(t)
	service, err := seal.Service("mail")
	require.NoError(t, err)
	other, third := opener(t, in.path, as(otherUID)), opener(t, in.path, as(thirdUID))
	member := opener(t, in.path, as(thirdUID, someGID))
	primary := opener(t, in.path, func(cmd *exec.Cmd) { as(thirdUID)(cmd); cmd.SysProcAttr.Credential.Gid = someGID })

	for _, tt := range []struct {
		name string
		to   seal.Party
		may  []*process
		not  []*process
	}{
		{"user", seal.User(otherUID), []*process{other}, []*process{third, member, primary}},
		{"group", seal.Group(someGID), []*process{member, primary}, []*process{other, third}},
		{"service", service, []*process{other, member, primary}, []*process{third}},
		{"ourselves", seal.Party{}, nil, []*process{other, third, member}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, p := range tt.may {
				b := reserve(t, c, tt.to)
				for _, n := range tt.not {
					require.Contains(t, n.open(t, b), "for another audience")
				}
				_, err := c.Open(b, testFormat)
				require.ErrorIs(t, err, seal.ErrUnauthorized, "root is no audience")
				require.Equal(t, "opened plain", p.open(t, b))
				require.Contains(t, p.open(t, b), "already imported")
			}
		})
	}
	// The worker reserves for nobody but itself: what it may open it may not make.
	for _, to := range []seal.Party{seal.User(0), seal.Group(someGID), service} {
		req := testRequest
		req.Audience = to
		in.SetPolicy(nil)
		_, err := c.Reserve(req)
		if to == seal.User(0) {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, ErrRefused)
	}
}

// A token for a process opens for that process, and not for another of the same
// user.
func TestAudienceProcess(t *testing.T) {
	in := serveHere(t, nil)
	c := in.dial(t)
	one, two := opener(t, in.path), opener(t, in.path)
	b := reserve(t, c, processOf(t, one))
	require.Contains(t, two.open(t, b), "for another audience")
	_, err := c.Open(b, testFormat)
	require.ErrorIs(t, err, seal.ErrUnauthorized)
	require.Equal(t, "opened plain", one.open(t, b))

	// An earlier process with the id of one that lives.
	before, err := c.Account()
	require.NoError(t, err)
	bin, err := processOf(t, two).MarshalBinary()
	require.NoError(t, err)
	bin[len(bin)-1] ^= 1
	var earlier seal.Party
	require.NoError(t, earlier.UnmarshalBinary(bin))
	_, err = c.Reserve(seal.Request{Format: testFormat, Audience: earlier})
	require.ErrorIs(t, err, ask.ErrAudience)
	after, err := c.Account()
	require.NoError(t, err)
	require.Equal(t, before.Outstanding, after.Outstanding, "the slot came back")

	gone := processOf(t, two)
	two.kill()
	req := testRequest
	req.Audience = gone
	_, err = c.Reserve(req)
	require.ErrorIs(t, err, ask.ErrAudience)
}

// Another user's process is an audience only where that user is one. Root.
func TestAudienceProcessOfOthers(t *testing.T) {
	needRoot(t)
	in := serveHere(t, nil)
	c := in.dial(t)
	worker := opener(t, in.path, as(otherUID))
	req := testRequest
	req.Audience = processOf(t, worker)
	_, err := c.Reserve(req)
	require.ErrorIs(t, err, ErrRefused)
	in.SetPolicy(withPolicy(t, "allow user 0 to user %d", otherUID).Policy)
	require.Equal(t, "opened plain", worker.open(t, reserve(t, c, req.Audience)))
}

// A process that gets the number of a dead worker does not get its token. Root,
// to choose the number.
func TestReusedProcessID(t *testing.T) {
	needRoot(t)
	in := serveHere(t, nil)
	c := in.dial(t)
	for try := range 200 {
		worker := opener(t, in.path)
		control, lost := reserve(t, c, processOf(t, worker)), reserve(t, c, processOf(t, worker))
		if try == 0 {
			require.Equal(t, "opened plain", worker.open(t, control))
		}
		pid := worker.Process.Pid
		worker.kill()
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			require.NoError(t, err)
		}
		heir := opener(t, in.path)
		if heir.Process.Pid != pid { // somebody else was quicker
			heir.kill()
			continue
		}
		require.Contains(t, heir.open(t, lost), "for another audience")
		return
	}
	require.Fail(t, "no process got the number of another")
}

// openFrame is a request that opens a token.
func openFrame(t testing.TB, b []byte) []byte {
	t.Helper()
	frame, err := (&wire.OpenRequest{Format: []byte(testFormat), Token: b}).Marshal(wire.Open)
	require.NoError(t, err)
	return frame
}

func file(t testing.TB, c *net.UnixConn) *os.File {
	t.Helper()
	f, err := c.File()
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// A connection that another process got by a fork is worth nothing to it, and
// spends nothing; the process that made it can use it.
func TestConnectionThroughFork(t *testing.T) {
	in := serveHere(t, nil)
	b := reserve(t, in.dial(t), seal.Party{})
	heir := func(c *rawConn, change ...func(*exec.Cmd)) string {
		p := spawn(t, "inherited", "", append(change, func(cmd *exec.Cmd) {
			cmd.ExtraFiles = []*os.File{file(t, c.UnixConn)}
			cmd.Stdin = bytes.NewReader(openFrame(t, b))
		})...)
		return p.line(t)
	}
	require.Equal(t, wire.NotYou.String(), heir(in.raw(t)), "the same user")
	used := in.raw(t)
	used.expect(wire.OK, statFrame(t))
	require.Equal(t, wire.NotYou.String(), heir(used), "after a request of its maker's")
	if os.Geteuid() == 0 {
		require.Equal(t, wire.NotYou.String(), heir(in.raw(t), as(otherUID)), "another user")
	}
	in.raw(t).expect(wire.OK, openFrame(t, b))
}

// A process that changed its user after it connected is not that user any more.
// Root.
func TestConnectionThroughSetuid(t *testing.T) {
	needRoot(t)
	in := serveHere(t, nil)
	b := reserve(t, in.dial(t), seal.Party{})
	p := spawn(t, "setuid", in.path, func(cmd *exec.Cmd) { cmd.Stdin = bytes.NewReader(openFrame(t, b)) })
	require.Equal(t, wire.NotYou.String(), p.line(t))
	in.raw(t).expect(wire.OK, openFrame(t, b))
}

// A client whose process changes its user connects again as the new one. Here
// its connection only looks like that of another user, which is all it goes by.
func TestClientConnectsAgain(t *testing.T) {
	in := serveHere(t, nil)
	c := in.dial(t)
	_, err := c.Account()
	require.NoError(t, err)
	c.idle[0].uid++
	stale := c.idle[0]
	_, err = c.Account()
	require.NoError(t, err)
	require.NotSame(t, stale, c.idle[0])
}

// The overflow user stands for everybody that is not mapped here, so it is
// nobody. Root.
func TestOverflowUser(t *testing.T) {
	needRoot(t)
	in := serveHere(t, nil)
	text, err := os.ReadFile("/proc/sys/kernel/overflowuid")
	require.NoError(t, err)
	uid, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 32)
	require.NoError(t, err)
	b := reserve(t, in.dial(t), seal.Party{})
	require.Contains(t, opener(t, in.path, as(uint32(uid))).open(t, b), "refused by the agent's policy")
	require.Contains(t, opener(t, in.path, as(uint32(uid)-1)).open(t, b), "for another audience")
}

// A message may carry credentials by the sender's own word only where the kernel
// has checked it; root could lie, and that buys it a refusal.
func TestForgedCredentials(t *testing.T) {
	needRoot(t)
	in := serveHere(t, nil)
	frame := statFrame(t)
	for name, cred := range map[string]unix.Ucred{
		"user":    {Pid: int32(os.Getpid()), Uid: otherUID},
		"process": {Pid: 1, Uid: 0},
	} {
		c := in.raw(t)
		_, _, err := c.WriteMsgUnix(frame, unix.UnixCredentials(&cred), nil)
		require.NoError(t, err, name)
		h, _, err := c.answer()
		require.NoError(t, err, name)
		require.Equal(t, wire.NotYou, h.Status, name)
	}
	c := in.raw(t)
	own := unix.Ucred{Pid: int32(os.Getpid()), Uid: 0}
	_, _, err := c.WriteMsgUnix(frame, unix.UnixCredentials(&own), nil)
	require.NoError(t, err)
	h, _, err := c.answer()
	require.NoError(t, err)
	require.Equal(t, wire.OK, h.Status)
}

// Frames whose halves come from two processes are nobody's.
func TestHalvesOfTwoProcesses(t *testing.T) {
	in := serveHere(t, nil)
	frame := statFrame(t)
	c := in.raw(t)
	_, err := c.Write(frame[:6])
	require.NoError(t, err)
	p := spawn(t, "inherited", "", func(cmd *exec.Cmd) {
		cmd.ExtraFiles = []*os.File{file(t, c.UnixConn)}
		cmd.Stdin = bytes.NewReader(frame[6:])
	})
	require.Equal(t, wire.NotYou.String(), p.line(t))
}

// Who is at the other end of a socketpair the kernel does not say: it names who
// made it. An agent never serves one, since it accepts what it serves; this is
// why.
func TestSocketpairNamesItsMaker(t *testing.T) {
	ns, err := peer.NewNamespace()
	require.NoError(t, err)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fds[0])
	f := os.NewFile(uintptr(fds[1]), "pair")
	defer f.Close()
	conn, err := net.FileConn(f)
	require.NoError(t, err)
	defer conn.Close()
	cred, err := ns.Who(conn.(*net.UnixConn))
	require.NoError(t, err)
	id, err := ns.Identify(conn.(*net.UnixConn), cred)
	require.NoError(t, err)
	defer id.Close()
	require.Equal(t, os.Getpid(), id.PID)
	require.True(t, id.Alive())
	_, err = id.Process()
	require.NoError(t, err)
}
