package agent

import (
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/seal/agent/internal/wire"
)

// eachOp calls f for every number that a frame can have as its operation.
func eachOp(f func(op wire.Op)) {
	for n := range math.MaxUint8 + 1 {
		f(wire.Op(n))
	}
}

// Each operation that the protocol names has a handler, a vector and a row in the
// document, and each of those has a name. There are the eleven that there are.
func TestOperations(t *testing.T) {
	text, err := os.ReadFile("../../doc/agent-protocol.md")
	require.NoError(t, err)
	rows := map[string][]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) ([a-z ]+) \|.*\| ([^|]+) \|$`).FindAllStringSubmatch(string(text), -1) {
		rows[row[1]] = row[2:]
	}
	vectors, err := filepath.Glob("internal/wire/testdata/*.txt")
	require.NoError(t, err)
	names := map[string]wire.Op{}
	eachOp(func(op wire.Op) {
		o := op.Operation()
		require.Equal(t, op.Known(), known(op), "%v: known to the protocol and to the agent", op)
		if !op.Known() {
			require.Zero(t, o, op)
			return
		}
		require.NotContains(t, names, o.Name)
		names[o.Name] = op
		require.Equal(t, o.Name, op.String())
		row := rows[strconv.Itoa(int(op))]
		require.NotNil(t, row, "agent-protocol.md has no row for %v", op)
		require.Equal(t, o.Name, row[0])
		if o.Spends {
			require.Contains(t, []string{"**never**", "no"}, row[1], "%v may spend a token", op)
		}
		if row[1] == "**never**" {
			require.True(t, o.Spends, op)
		}
		require.True(t, hasVector(t, vectors, op), "no vector of %v", op)
	})
	require.Len(t, names, len(handlers)-1) // but for number 0
	count := 0
	for number := range rows {
		n, err := strconv.Atoi(number)
		require.NoError(t, err)
		if known(wire.Op(n)) && rows[number][0] == wire.Op(n).String() {
			count++
		}
	}
	require.Equal(t, len(names), count)
	require.Len(t, names, 11)
}

// hasVector reports whether a good request of an operation is among the vectors.
func hasVector(t *testing.T, files []string, op wire.Op) bool {
	t.Helper()
	require.NotEmpty(t, files)
	want := "frame: 534c584101" + strconv.FormatUint(0x100|uint64(op), 16)[1:] + "00"
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		if strings.Contains(string(text), want) && strings.Contains(string(text), "expect: ok") {
			return true
		}
	}
	return false
}

// Every number gets an answer: a known operation's own, and the end of the connection
// for all others. What the table says of an operation holds on the wire.
func TestOperationsOnTheWire(t *testing.T) {
	needRoot(t)
	var seen counts
	in := serveHere(t, &Options{Observer: &seen})
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	require.NoError(t, err)
	defer unix.Close(self)
	status := func(c *rawConn, frame []byte, fds ...int) wire.Code {
		oob := c.cred
		if len(fds) > 0 {
			oob = append(oob[:len(oob):len(oob)], unix.UnixRights(fds...)...)
		}
		_, _, err := c.WriteMsgUnix(frame, oob, nil)
		require.NoError(t, err)
		h, _, err := c.answer()
		require.NoError(t, err, "no answer")
		return h.Status
	}
	header := func(op wire.Op, length int) []byte {
		b := make([]byte, wire.HeaderSize)
		wire.Header{Op: op, Length: length}.Put(b)
		return b
	}
	good := map[wire.Op][]byte{}
	good[wire.Rotate], err = wire.MarshalRotate(0)
	require.NoError(t, err)
	good[wire.Retire], err = wire.MarshalRetire([16]byte{1})
	require.NoError(t, err)
	eachOp(func(op wire.Op) {
		o, empty := op.Operation(), header(op, 0)
		c := in.raw(t)
		if !op.Known() {
			require.Equal(t, wire.Protocol, status(c, empty), op)
			c.expectEnd()
			return
		}
		want := wire.Protocol // no other has an empty body
		if op == wire.Stat {
			want = wire.OK
		}
		require.Equal(t, want, status(c, empty), op)

		// A descriptor that does not belong there ends the connection before the request
		// is looked at.
		before := seen.of("receive protocol")
		require.Equal(t, wire.Protocol, status(in.raw(t), empty, self), op)
		require.Equal(t, !o.Descriptor, seen.of("receive protocol") > before, op)

		// The longest body, and one byte more, which is refused before it is read.
		longest := smallFrame
		switch o.Body {
		case wire.WithToken:
			longest = DefaultQuota().TokenSize + wire.MaxBesideToken
		case wire.WithPlain:
			longest = DefaultQuota().TokenSize + wire.MaxBesidePlain
		}
		require.Equal(t, wire.Quota, status(in.raw(t), header(op, longest+1)), op)
		require.Equal(t, wire.Protocol, status(in.raw(t), append(header(op, longest), make([]byte, longest)...)), "%v: it is read", op)

		if o.Admin {
			require.NotNil(t, good[op], op)
			require.Equal(t, wire.Refused, status(in.as(t, otherUID), good[op]), op)
			require.NotEqual(t, wire.Refused, status(in.raw(t), good[op]), "%v: the control", op)
		} else {
			require.Nil(t, good[op], op)
		}
	})
}

// Without an answer nobody knows whether a request that may spend a token has spent it.
func TestLostAnswers(t *testing.T) {
	eachOp(func(op wire.Op) {
		err := lost(op, os.ErrDeadlineExceeded)
		require.ErrorIs(t, err, ErrAway)
		if op.Operation().Spends {
			require.ErrorIs(t, err, ErrUncertain, op)
		} else {
			require.NotErrorIs(t, err, ErrUncertain, op)
		}
	})
	require.True(t, wire.OpenAny.Operation().Spends && wire.Open.Operation().Spends && !wire.Reserve.Operation().Spends)
}
