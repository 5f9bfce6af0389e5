package agent

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// roleExporter seals a token for each audience that it is given, one a line.
func roleExporter(path string) error {
	c, err := Dial(path)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		bin, err := hex.DecodeString(lines.Text())
		if err != nil {
			return err
		}
		req := testRequest
		if err := req.Audience.UnmarshalBinary(bin); err != nil {
			return err
		}
		r, err := c.Reserve(req)
		if err != nil {
			fmt.Println(err)
			continue
		}
		b, err := r.Seal([]byte("made up"))
		if err != nil {
			return err
		}
		fmt.Printf("%x\n", b)
	}
	return nil
}

// seals has an exporter seal a token.
func (p *process) seals(t testing.TB, to seal.Party) []byte {
	t.Helper()
	bin, err := to.MarshalBinary()
	require.NoError(t, err)
	_, err = fmt.Fprintf(p.in, "%x\n", bin)
	require.NoError(t, err)
	text := p.line(t)
	b, err := hex.DecodeString(text)
	require.NoError(t, err, text)
	return b
}

func service(t testing.TB, name string) seal.Party {
	t.Helper()
	s, err := seal.Service(name)
	require.NoError(t, err)
	return s
}

// An exporter that may reserve for an audience can make a context up, with any
// client's name in it. An importer that demands who exported does not get it, and
// what is refused is not spent.
func TestExporterDemanded(t *testing.T) {
	needRoot(t)
	in := serveHere(t, withPolicy(t, `
		service web is user %d
		service front is user %d group %d
		service back is group 61999
		allow everyone to service web
	`, selfUID, otherUID, someGID))
	importer := in.dial(t)
	web := service(t, "web")
	front := spawn(t, "exporter", in.path, as(otherUID, 61301))
	grouped := spawn(t, "exporter", in.path, as(thirdUID, someGID))
	stranger := spawn(t, "exporter", in.path, as(thirdUID))
	for _, p := range []*process{front, grouped, stranger} {
		require.Equal(t, "ready", p.line(t))
	}
	user, third := seal.User(otherUID), seal.User(thirdUID)
	for _, tt := range []struct {
		name     string
		exporter *process
		yes, no  []seal.Party
	}{
		{"user", front, []seal.Party{user}, []seal.Party{third, seal.User(0), seal.Group(61302), service(t, "back"), service(t, "none")}},
		{"group", front, []seal.Party{seal.Group(61301)}, []seal.Party{seal.Group(someGID)}},
		{"primary group", front, []seal.Party{seal.Group(otherUID)}, []seal.Party{seal.Group(0)}},
		{"service by user", front, []seal.Party{service(t, "front")}, []seal.Party{web}},
		{"service by group", grouped, []seal.Party{service(t, "front")}, []seal.Party{user, seal.Group(61301)}},
		{"user of two processes", stranger, []seal.Party{third}, []seal.Party{seal.Group(someGID), service(t, "front")}},
		{"one of several", grouped, []seal.Party{user, service(t, "back"), seal.Group(someGID)}, []seal.Party{user, service(t, "back")}},
	} {
		b := tt.exporter.seals(t, web)
		for _, p := range tt.no {
			_, err := importer.OpenFrom([]seal.Party{p}, b, testFormat)
			require.ErrorIs(t, err, seal.ErrUnauthorized, "%s: %v", tt.name, p)
			require.ErrorContains(t, err, p.String()+" is demanded")
			require.ErrorContains(t, err, " exported it")
		}
		state, err := importer.Status(b)
		require.NoError(t, err)
		require.Equal(t, seal.Outstanding, state, tt.name)
		secret, err := importer.OpenFrom(tt.yes, b, testFormat)
		require.NoError(t, err, tt.name)
		secret.Wipe()
		for _, p := range append(tt.no, tt.yes...) { // the alarm is for every importer
			_, err = importer.OpenFrom([]seal.Party{p}, b, testFormat)
			if p == user || p == third || p == seal.User(0) {
				continue
			}
			require.ErrorIs(t, err, seal.ErrSpent, "%s: %v", tt.name, p)
		}
	}
	// What makes this necessary: without a demand the stranger's context comes in.
	secret, err := importer.Open(stranger.seals(t, web), testFormat)
	require.NoError(t, err)
	require.Equal(t, "made up", string(secret.Bytes()))
	secret.Wipe()
}

// The policy demands the same for a user, a group or a service, of clients that
// demand nothing.
func TestPolicyDemandsExporter(t *testing.T) {
	needRoot(t)
	base := fmt.Sprintf(`
		service web is user %d
		service front is user %d
		allow everyone to service web
		allow everyone to user %d
	`, otherUID, thirdUID, otherUID)
	in := serveHere(t, withPolicy(t, "%s", base))
	web := service(t, "web")
	front := spawn(t, "exporter", in.path, as(thirdUID))
	require.Equal(t, "ready", front.line(t))
	mine := in.dial(t)
	importer := opener(t, in.path, as(otherUID, someGID))
	for _, tt := range []struct {
		line    string
		refuses bool // what root exports
	}{
		{"", false},
		{"import service web from service front", true},
		{"import user 61234 from user 61235", true},
		{"import group 61300 from group 61235", true},
		{"import everyone from user 61235", true},
		{"import user 61235 from user 61235", false}, // of another importer
		{"import group 61301 from user 61235", false},
		{"import everyone from user 61235 user 0", false},
		{"import everyone from user 61235 user 0\nimport service web from service front", true}, // each counts
	} {
		p, err := ParsePolicy(strings.NewReader(base + tt.line))
		require.NoError(t, err)
		in.SetPolicy(p)
		for _, to := range []seal.Party{web, seal.User(otherUID)} {
			require.Equal(t, "opened made up", importer.open(t, front.seals(t, to)), tt.line)
			b := reserve(t, mine, to)
			text := importer.open(t, b)
			if !tt.refuses {
				require.Equal(t, "opened plain", text, tt.line)
				continue
			}
			require.Contains(t, text, "user 0 (root) exported it", tt.line)
			require.Contains(t, text, `with "user root" at its end it would allow this`)
			lines := strings.Split(tt.line, "\n")
			require.Contains(t, text, fmt.Sprintf("is %q", lines[len(lines)-1]))
			secret, err := mine.TakeBack(b, testFormat) // which is not importing, and nothing was spent
			require.NoError(t, err)
			secret.Wipe()
		}
	}
}

// A refusal to reserve names the line that would allow it, to the client and in
// the log, and with that line it is allowed.
func TestRefusalNamesLine(t *testing.T) {
	var log journal
	o := withPolicy(t, "service web is user 0")
	o.Log = slog.New(slog.NewJSONHandler(&log, nil))
	in := serveHere(t, o)
	c := in.dial(t)
	for _, to := range []seal.Party{seal.User(61999), seal.Group(61998), service(t, "web"), service(t, "new")} {
		req := testRequest
		req.Audience = to
		_, err := c.Reserve(req)
		require.ErrorIs(t, err, ErrRefused)
		_, line, ok := strings.Cut(err.Error(), `the line "`)
		require.True(t, ok, err)
		line, _, _ = strings.Cut(line, `"`)
		require.Contains(t, log.String(), line)
		text := "service web is user 0\n" + line
		if to == service(t, "new") {
			require.ErrorContains(t, err, "no line says who service new is")
			text += "\nservice new is user 0"
		}
		p, err := ParsePolicy(strings.NewReader(text))
		require.NoError(t, err, text)
		before := in.policy.Load()
		in.SetPolicy(p)
		reserve(t, c, to)
		in.SetPolicy(before)
	}
}

// So does a refusal for a quota.
func TestQuotaNamesLine(t *testing.T) {
	var log journal
	o := withPolicy(t, "quota everyone outstanding 1 token 700")
	o.Log = slog.New(slog.NewJSONHandler(&log, nil))
	in := serveHere(t, o)
	c := in.dial(t)
	b := reserve(t, c, seal.Party{})
	_, err := c.Reserve(testRequest)
	require.ErrorIs(t, err, ErrQuota)
	require.Regexp(t, `too many tokens outstanding: 1; the line "quota user \S+ outstanding N"`, err.Error())
	_, err = c.Open(append(b, make([]byte, 200)...), testFormat)
	require.ErrorIs(t, err, ErrQuota)
	require.Regexp(t, `token too large for this user: 700; the line "quota user \S+ token N"`, err.Error())
	require.Contains(t, log.String(), "outstanding N")
	require.Contains(t, log.String(), "token N")
}

// The groups of exporters are counted: tokens share the lists, and one user cannot
// make the agent keep more than a few.
func TestGroupLists(t *testing.T) {
	a := account{outstanding: map[slotKey]reserved{}}
	add := func(i uint32, groups ...uint32) {
		require.True(t, a.reserve(1000, 0))
		a.reserved(slotKey{index: i}, time.Hour, groups)
	}
	for i := range uint32(100) {
		add(i, 7, 8)
	}
	require.Len(t, a.groups, 1)
	for i := range uint32(50) {
		add(100+i, i)
	}
	require.Len(t, a.groups, maxGroupLists)
	groups, ok := a.groupsOf(slotKey{index: 99})
	require.True(t, ok)
	require.Equal(t, []uint32{7, 8}, groups)
	groups, ok = a.groupsOf(slotKey{index: 149})
	require.True(t, ok)
	require.Empty(t, groups, "a token of one list too many is of no group")
	_, ok = a.groupsOf(slotKey{index: 150})
	require.False(t, ok)
	for i := range uint32(100) {
		a.spent(slotKey{index: i})
		a.spent(slotKey{index: i}) // which it is already
	}
	require.Len(t, a.groups, maxGroupLists-1)
	add(200, 9)
	groups, _ = a.groupsOf(slotKey{index: 200})
	require.Equal(t, []uint32{9}, groups)
	a.mu.Lock()
	a.expire(2 * time.Hour)
	a.mu.Unlock()
	require.Empty(t, a.groups)
	require.Empty(t, a.outstanding)
}

// A token of a program without an agent, or of another agent, is not this agent's:
// the importer reads which agent it asked.
func TestOtherAgent(t *testing.T) {
	in := serveHere(t, nil)
	b := reserve(t, serveHere(t, nil).dial(t), seal.Party{})
	c := in.dial(t)
	head, err := seal.Inspect(b)
	require.NoError(t, err)
	_, opening := c.Open(b, testFormat)
	_, takingBack := c.TakeBack(b, testFormat)
	_, asking := c.Status(b)
	for _, err := range []error{opening, takingBack, asking} {
		require.ErrorIs(t, err, seal.ErrDefective)
		require.ErrorContains(t, err, fmt.Sprintf("no living key %x in ", head.Epoch))
		require.ErrorContains(t, err, "(agent at "+in.path+")")
	}
	own := reserve(t, c, seal.Party{})
	own[len(own)-1] ^= 1
	_, err = c.Open(own, testFormat)
	require.Equal(t, seal.ErrDefective, err)
}

// A demand that cannot be read opens nothing.
func TestBadDemand(t *testing.T) {
	in := serveHere(t, nil)
	b := reserve(t, in.dial(t), seal.Party{})
	for _, tt := range []struct {
		exporter []byte
		want     wire.Code
	}{
		{[]byte{9, 1}, wire.BadAudience},
		{[]byte{1, 0, 0}, wire.BadAudience},
		{[]byte{0}, wire.BadAudience},
		{append([]byte{4}, make([]byte, 12)...), wire.BadAudience},
	} {
		frame, err := (&wire.OpenRequest{Format: []byte(testFormat), Token: b, Exporters: [][]byte{tt.exporter}}).Marshal(wire.Open)
		require.NoError(t, err)
		c := in.raw(t)
		c.expect(tt.want, frame)
	}
	secret, err := in.dial(t).Open(b, testFormat)
	require.NoError(t, err)
	secret.Wipe()
}
