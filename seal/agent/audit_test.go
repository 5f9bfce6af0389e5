package agent

import (
	"bytes"
	"encoding/hex"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/peer"
)

// A journal is a log that a test reads while it is written.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// take returns what was logged since the last time.
func (j *journal) take() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.b.String()
	j.b.Reset()
	return s
}

// counts is an Observer that remembers.
type counts struct {
	mu sync.Mutex
	m  map[string]int
}

func (c *counts) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[string]int{}
	}
	c.m[what]++
}

func (c *counts) of(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[what]
}

func (c *counts) Answered(op, status string, took time.Duration) {
	if took <= 0 || took > time.Minute {
		op = "no time"
	}
	c.add(op + " " + status)
}
func (c *counts) Refused(where, status string) { c.add(where + " " + status) }
func (c *counts) SecondImport()                { c.add("second import") }

// Each thing that happens is in the log, with who did it, and is counted; only a
// second import of a token is an alarm, and a take-back that came too late is
// none.
func TestAudit(t *testing.T) {
	var log journal
	var seen counts
	in := serveHere(t, &Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Observer: &seen})
	c := in.dial(t)
	expect := func(words ...string) string {
		t.Helper()
		var got string
		require.Eventually(t, func() bool {
			got += log.take()
			for _, w := range words {
				if !strings.Contains(got, w) {
					return false
				}
			}
			return true
		}, time.Second, time.Millisecond, "%q not in %s", words, &got)
		if !strings.Contains(strings.Join(words, " "), "ERROR") {
			require.NotContains(t, got, "level=ERROR")
		}
		return got
	}
	b := reserve(t, c, seal.Party{})
	expect("token reserved", "peer_uid=", "peer_pid=")
	_, err := c.Open(b[:len(b)-1], testFormat)
	require.Error(t, err)
	expect("token refused", "malformed")
	secret, err := c.Open(b, testFormat)
	require.NoError(t, err)
	secret.Wipe()
	expect("token opened")
	_, err = c.TakeBack(b, testFormat)
	require.ErrorIs(t, err, seal.ErrSpent)
	require.NotContains(t, expect("token to take back is gone", "peer_uid="), "level=WARN", "that is no refusal")
	_, err = c.Open(b, testFormat)
	require.ErrorIs(t, err, seal.ErrSpent)
	expect("level=ERROR", eventAlarm)

	b = reserve(t, c, seal.Party{})
	secret, err = c.TakeBack(b, testFormat)
	require.NoError(t, err)
	secret.Wipe()
	expect("token taken back")
	r, err := c.Reserve(testRequest)
	require.NoError(t, err)
	require.NoError(t, r.Cancel())
	expect(eventCancelled)
	require.NoError(t, c.Rotate())
	expect(eventRotated)
	head, err := seal.Inspect(b)
	require.NoError(t, err)
	require.NoError(t, c.Retire(head.Epoch))
	expect(eventRetired, hex.EncodeToString(head.Epoch[:]))
	req := testRequest
	req.Audience = seal.Group(4242)
	_, err = c.Reserve(req)
	require.ErrorIs(t, err, ErrRefused)
	expect(eventDenied, "group 4242")
	in.SetPolicy(nil)
	expect(eventPolicy)
	require.Error(t, reload(in, "nonsense"))
	require.Empty(t, log.take())
	in.raw(t).expect(11, []byte("nonsense, and more of it"))
	expect(eventPeer)

	for what, n := range map[string]int{"reserve ok": 3, "reserve refused": 1, "open ok": 1, "open defective": 1, "open spent": 1,
		"take back ok": 1, "take back claimed": 1, "cancel ok": 1, "rotate ok": 1, "retire ok": 1, "receive protocol": 1, "second import": 1} {
		require.Eventually(t, func() bool { return seen.of(what) == n }, time.Second, time.Millisecond, what)
	}
	require.Zero(t, seen.of("no time"))
}

// Housekeeping says which epochs came and went, rotates in time, and makes none.
func TestHousekeeping(t *testing.T) {
	var log journal
	s, err := NewServer(&Options{
		Suites: []string{"AES-256-GCM"}, Log: slog.New(slog.NewTextHandler(&log, nil)),
		Age: time.Second, MaxLifetime: time.Second,
	})
	require.NoError(t, err)
	defer s.Close()
	require.Contains(t, log.take(), eventPolicy)
	s.tidy()
	require.Empty(t, log.take())
	require.NoError(t, s.hosts[0].Rotate()) // which makes the first
	keys, err := s.hosts[0].Keys()
	require.NoError(t, err)
	require.Len(t, keys, 1)
	first := keys[0].ID
	s.tidy()
	require.Contains(t, log.take(), eventEpoch)
	s.tidy()
	require.Empty(t, log.take())

	time.Sleep(1100 * time.Millisecond) // it is too old to seal, and nobody asks
	s.tidy()
	require.Contains(t, log.take(), eventEpoch)
	time.Sleep(1100 * time.Millisecond) // and now too old to open
	s.tidy()
	require.Contains(t, log.take(), "msg=\""+eventEpochOver+"\" epoch="+hex.EncodeToString(first[:]))
	keys, err = s.hosts[0].Keys()
	require.NoError(t, err)
	for _, k := range keys {
		require.NotEqual(t, first, k.ID)
	}
}

// A user that is refused without end fills no log, and what it did is counted.
func TestLogFlood(t *testing.T) {
	var log journal
	var seen counts
	in := serveHere(t, &Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Observer: &seen})
	c := in.dial(t)
	for range 1000 {
		_, err := c.Open([]byte("nonsense"), testFormat)
		require.Equal(t, seal.ErrDefective, err)
	}
	lines := strings.Count(log.take(), "token refused")
	require.GreaterOrEqual(t, lines, logBurst)
	require.Less(t, lines, 500)
	require.Eventually(t, func() bool { return seen.of("open defective") == 1000 }, time.Second, time.Millisecond)

	var b logBucket
	now := time.Unix(1000, 0)
	for range logBurst {
		ok, dropped := b.take(now)
		require.True(t, ok)
		require.Zero(t, dropped)
	}
	for range 7 {
		ok, _ := b.take(now)
		require.False(t, ok)
	}
	ok, dropped := b.take(now.Add(time.Second))
	require.True(t, ok)
	require.Equal(t, 7, dropped)
}

// A second import is told of however often the same user is refused meanwhile, one by one
// up to a limit for each exporter, and then by number. The control: refusals are dropped.
func TestAlarmsAmongRefusals(t *testing.T) {
	var log journal
	var seen counts
	in := serveHere(t, &Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Observer: &seen})
	owner, thief := in.dial(t), in.dial(t)
	const stolen, refusals = 3 * logBurst, 3 * logBurst
	for range refusals {
		_, err := thief.Open([]byte("rubbish"), testFormat)
		require.Equal(t, seal.ErrDefective, err)
	}
	for range stolen {
		b := reserve(t, owner, seal.Party{})
		plain, err := thief.Open(b, testFormat)
		require.NoError(t, err)
		plain.Wipe()
		_, err = owner.Open(b, testFormat)
		require.ErrorIs(t, err, seal.ErrSpent)
		_, err = thief.Open([]byte("rubbish"), testFormat)
		require.Equal(t, seal.ErrDefective, err)
	}
	require.Eventually(t, func() bool { return seen.of("second import") == stolen }, time.Minute, time.Millisecond)
	in.tidy()
	text := log.take()
	require.Less(t, strings.Count(text, "token refused"), refusals+2*stolen, "the control")
	require.GreaterOrEqual(t, strings.Count(text, `"`+eventAlarm+`"`), logBurst)
	require.Equal(t, stolen, alarmsIn(text), "each is told of, one by one or by number")
	require.Regexp(t, `level=WARN msg="`+eventDropped+`" peer_uid=\d+ lines=[1-9]`, text)

	// Of another exporter there is room all the same.
	in.alarmOf(t, 4711)
	require.Contains(t, log.take(), "exporter=4711")
	// What was told by number is not told again.
	in.tidy()
	require.NotContains(t, log.take(), eventAlarms)
}

// alarmOf has the agent see a second import of another exporter's token.
func (in *instance) alarmOf(t *testing.T, exporter uint32) {
	c := &conn{s: in.Server, id: &peer.Identity{UID: uint32(selfUID)}}
	c.alarm(&token.Token{Header: token.Header{Exporter: exporter}})
}

// alarmsIn counts the second imports that a log tells of.
func alarmsIn(text string) (n int) {
	for line := range strings.Lines(text) {
		switch {
		case strings.Contains(line, `msg="`+eventAlarm+`"`):
			n++
			if _, dropped, ok := strings.Cut(line, droppedBefore+"="); ok {
				more, _ := strconv.Atoi(strings.Fields(dropped)[0])
				n += more
			}
		case strings.Contains(line, `msg="`+eventAlarms+`"`):
			_, told, _ := strings.Cut(line, "second_imports=")
			more, _ := strconv.Atoi(strings.TrimSpace(told))
			n += more
		}
	}
	return n
}

// An account that has had its share of the log is kept until it would be as good as new:
// to go away and come back makes no room.
func TestSweepKeepsBuckets(t *testing.T) {
	a := accounts{bounds: bounds{connections: 8, closing: 2, closingUser: 1}}
	acct, ok := a.connect(1, 1)
	require.True(t, ok)
	for range 2 * logBurst {
		acct.log.take(time.Now())
	}
	acct.disconnect()
	a.sweep(0)
	require.Same(t, acct, a.find(1))
	acct.log.forgotten()
	acct.log.since = time.Now().Add(-time.Hour)
	a.sweep(0)
	require.Nil(t, a.find(1))
}
