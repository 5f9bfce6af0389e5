package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// An administrator sees epochs, rotates and retires; a token says how it stands.
func TestAdministrator(t *testing.T) {
	in := serveHere(t, &Options{Suites: []string{"AES-256-GCM"}})
	c := in.dial(t)
	st, err := c.Account()
	require.NoError(t, err)
	require.Equal(t, &Account{Admin: true, Limit: 1024, Suites: []string{"AES-256-GCM"}}, st)

	b := reserve(t, c, seal.Party{})
	head, err := seal.Inspect(b)
	require.NoError(t, err)
	expect := func(want seal.State) {
		t.Helper()
		state, err := c.Status(b)
		require.NoError(t, err)
		require.Equal(t, want, state)
	}
	expect(seal.Outstanding)
	require.NoError(t, c.Rotate())
	st, err = c.Account()
	require.NoError(t, err)
	require.Len(t, st.Keys, 2)
	require.Equal(t, head.Epoch, st.Keys[0].ID)
	require.Equal(t, 1, st.Keys[0].Outstanding)
	require.False(t, st.Keys[0].Seals)
	require.True(t, st.Keys[1].Seals)
	require.Equal(t, 1, st.Outstanding)
	stats, err := in.Stats()
	require.NoError(t, err)
	require.Len(t, stats.Keys, 2)
	require.Equal(t, 1, stats.Connections)

	secret, err := c.Open(b, testFormat)
	require.NoError(t, err)
	secret.Wipe()
	expect(seal.Gone)
	require.NoError(t, c.Retire(head.Epoch))
	require.ErrorIs(t, c.Retire(head.Epoch), ErrUnknownEpoch)
	_, err = c.Status(b)
	require.ErrorIs(t, err, seal.ErrDefective)
	_, err = c.Status(make([]byte, token.MaxToken+1))
	require.Equal(t, seal.ErrDefective, err)

	in.raw(t).expect(wire.BadRequest, mustFrame(wire.MarshalRotate(2)))
	in.raw(t).expect(wire.OK, mustFrame(wire.MarshalRotate(1)))
	in.raw(t).expect(wire.BadRequest, mustFrame((&wire.ReserveRequest{Suites: []byte{2, 3}, Format: []byte("x")}).Marshal()))
	in.raw(t).expect(wire.Defective, mustFrame(wire.MarshalCancel([]byte("nothing"))))
}

func mustFrame(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// Registers and rings too many for one process, or none at all, are errors.
func TestServerOptions(t *testing.T) {
	_, err := NewServer(&Options{Suites: []string{"AES-256-GCM", "AES-256-GCM"}})
	require.ErrorContains(t, err, "named twice")
	_, err = NewServer(&Options{Suites: []string{"suite 9"}})
	require.Error(t, err)
	_, err = NewServer(&Options{Capacity: -1})
	require.Error(t, err)
}

// roleAdmin tries what only an administrator may, and what anybody may.
func roleAdmin(path string) error {
	c, err := Dial(path)
	if err != nil {
		return err
	}
	st, err := c.Account()
	if err != nil {
		return err
	}
	println := func(err error) {
		if err == nil {
			err = errNone
		}
		_, _ = os.Stdout.WriteString(err.Error() + "\n")
	}
	if st.Admin || st.Keys != nil {
		println(errAdmin)
	} else {
		println(nil)
	}
	println(c.Rotate())
	println(c.Retire([16]byte{}))
	return nil
}

type plainError string

func (e plainError) Error() string { return string(e) }

const (
	errNone  = plainError("fine")
	errAdmin = plainError("sees everything")
)

// Other users than root and the agent's own see only their own, and change
// nothing. The agent runs as a user of its own, in its sandbox, and serves
// processes of others. Root.
func TestAgentOfItsOwnUser(t *testing.T) {
	needRoot(t)
	dir := filepath.Join(publicDir(t), "sub")
	require.NoError(t, os.Mkdir(dir, 0o755))
	require.NoError(t, os.Chown(dir, otherUID, otherUID))
	path := filepath.Join(dir, "agent.sock")
	t.Setenv("AGENT_TEST_POLICY", "allow user 0 to user 61235")
	require.Equal(t, "ready", spawn(t, "agent", path, as(otherUID)).line(t))

	stranger := spawn(t, "admin", path, as(thirdUID))
	require.Equal(t, "fine", stranger.line(t))
	for range 2 {
		require.True(t, strings.Contains(stranger.line(t), "refused by the agent's policy"))
	}
	for _, uid := range []uint32{otherUID, 0} {
		own := spawn(t, "admin", path, as(uid), func(cmd *exec.Cmd) {})
		require.Equal(t, string(errAdmin), own.line(t))
		require.Equal(t, "fine", own.line(t))
		require.Equal(t, ErrUnknownEpoch.Error(), own.line(t))
	}

	c, err := Dial(path)
	require.NoError(t, err)
	defer c.Close()
	worker, other := opener(t, path, as(thirdUID)), opener(t, path, as(thirdUID))
	b := reserve(t, c, processOf(t, worker))
	require.Contains(t, other.open(t, b), "for another audience")
	require.Equal(t, "opened plain", worker.open(t, b))
	require.Contains(t, worker.open(t, b), "already imported")
}
