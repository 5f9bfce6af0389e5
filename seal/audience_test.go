package seal

import (
	"math"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/sealctx/sealctx/internal/pidfd"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/stretchr/testify/require"
)

// A host makes tokens only for audiences that it can hold them to.
func TestAudienceReserve(t *testing.T) {
	h := memHost(t, nil)
	uid := h.who.User()
	self, err := Process(os.Getpid())
	require.NoError(t, err)
	service, err := Service("mail.in-2_x")
	require.NoError(t, err)
	tests := []struct {
		name string
		to   Party
		want error
	}{
		{"zero", Party{}, nil},
		{"own user", User(uid), nil},
		{"this process", self, nil},
		{"another user", User(uid + 1), errAudience},
		{"the overflow user", User(math.MaxUint32), errAudience},
		{"own group", Group(uint32(os.Getegid())), errAudience},
		{"service", service, errAudience},
		{"unknown kind", Party{9, "1234"}, errAudience},
		{"user of three bytes", Party{token.KindUser, "123"}, errAudience},
		{"process without start", Party{token.KindProcess, "1234"}, errAudience},
		{"service without name", Party{kind: token.KindService}, errAudience},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := testRequest
			req.Audience = tt.to
			r, err := h.Reserve(req)
			require.ErrorIs(t, err, tt.want)
			if tt.want != nil {
				require.Nil(t, r)
				require.Zero(t, outstanding(t, h))
				return
			}
			sealed, err := r.Seal(nil)
			require.NoError(t, err)
			requireOpens(t, h, sealed, []byte{})
		})
	}
}

// The tokens that a host would not make, made all the same: an opener holds
// them to their audience by itself. A refusal spends nothing.
func TestAudienceOpen(t *testing.T) {
	h := memHost(t, nil)
	uid := h.who.User()
	number, err := pidfd.Number(os.Getpid())
	require.NoError(t, err)
	pid := uint32(os.Getpid())
	service, err := Service("mail")
	require.NoError(t, err)
	tests := []struct {
		name string
		to   Party
		want error
	}{
		{"own user", User(uid), nil},
		{"this process", process(pid, number), nil},
		{"another user", User(uid + 1), ErrUnauthorized},
		{"our pid, an earlier process", process(pid, number-1), ErrUnauthorized},
		{"our pid, a later process", process(pid, number+1), ErrUnauthorized},
		{"our number, another pid", process(pid+1, number), ErrUnauthorized},
		{"own group", Group(uint32(os.Getegid())), ErrUnauthorized},
		{"service", service, ErrUnauthorized},
		{"kind of our user with too many bytes", Party{token.KindUser, User(uid).value + "\x00"}, ErrUnauthorized},
		{"unknown kind with the bytes of our user", Party{9, User(uid).value}, ErrUnauthorized},
		{"no kind", Party{}, ErrUnauthorized},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			plain := randomBytes(40)
			sealed := forge(t, h, plain, func(head *token.Header) { head.Audience = tt.to.wire() })
			if tt.want == nil {
				requireOpens(t, h, sealed, plain)
				return
			}
			requireRefused(t, h, sealed, tt.want)
			// Nothing was spent: its exporter can take it back.
			s, err := h.TakeBack(sealed, testFormat)
			require.NoError(t, err)
			s.Wipe()
		})
	}
}

// TakeBack is for the user who reserved, and says so to others.
func TestTakeBackOfOthers(t *testing.T) {
	h := memHost(t, nil)
	plain := randomBytes(40)
	sealed := forge(t, h, plain, func(head *token.Header) { head.Exporter++ })
	s, err := h.TakeBack(sealed, testFormat)
	require.ErrorIs(t, err, ErrUnauthorized)
	require.Nil(t, s)
	requireOpens(t, h, sealed, plain) // the audience may
}

// A process is its id and its number. A process that has ended is no audience.
func TestProcess(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "60")
	require.NoError(t, cmd.Start())
	pid := cmd.Process.Pid
	a, err := Process(pid)
	require.NoError(t, err)
	again, err := Process(pid)
	require.NoError(t, err)
	require.Equal(t, a, again)
	self, err := Process(os.Getpid())
	require.NoError(t, err)
	require.NotEqual(t, a, self)

	h := memHost(t, nil)
	req := testRequest
	req.Audience = a
	sealed := sealToken(t, h, req, nil)
	requireRefused(t, h, sealed, ErrUnauthorized)
	s, err := h.TakeBack(sealed, testFormat)
	require.NoError(t, err)
	s.Wipe()

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	for _, pid := range []int{pid, -1, math.MaxInt32} {
		_, err = Process(pid)
		require.ErrorIs(t, err, errAudience)
	}
}

// Nor is a process that has ended and waits for its parent.
func TestProcessZombie(t *testing.T) {
	cmd := exec.Command("/bin/true")
	require.NoError(t, cmd.Start())
	defer func() { require.NoError(t, cmd.Wait()) }()
	require.Eventually(t, func() bool {
		_, err := Process(cmd.Process.Pid)
		return err != nil
	}, patience, tick)
	_, err := Process(cmd.Process.Pid)
	require.ErrorIs(t, err, errAudience)
}

func TestServiceNames(t *testing.T) {
	for _, name := range []string{"a", "Z9", "a.b-c_d", strings.Repeat("x", 64)} {
		a, err := Service(name)
		require.NoError(t, err, name)
		require.Equal(t, "service "+name, a.String())
	}
	for _, name := range []string{"", strings.Repeat("x", 65), "a b", "a/b", "a\n", "ä", "[", "`", "{", "@", "a\x00"} {
		_, err := Service(name)
		require.ErrorIs(t, err, errAudience, "%q", name)
	}
}

func TestAudienceString(t *testing.T) {
	for want, a := range map[string]Party{
		"the reserving user":           {},
		"user 1000":                    User(1000),
		"group 4294967295":             Group(math.MaxUint32),
		"process 7":                    process(7, 1<<40),
		"nobody known to this version": {token.KindUser, "x"},
	} {
		require.Equal(t, want, a.String())
	}
	require.NotEqual(t, User(5), Group(5))
	require.Equal(t, User(5), fromWire(User(5).wire()))
}
