package seal

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/boottime"
	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/vectors"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/stretchr/testify/require"
)

// vectorErrors is the table of doc/SPEC.md section 10.
var vectorErrors = map[string]error{
	vectors.Success:      nil,
	vectors.Malformed:    ErrDefective,
	vectors.UnknownEpoch: ErrDefective,
	vectors.WrongSuite:   ErrDefective,
	vectors.Header:       ErrDefective,
	vectors.Body:         ErrDefective,
	vectors.Expired:      ErrExpired,
	vectors.Unauthorized: ErrUnauthorized,
	vectors.WrongFormat:  ErrFormat,
	vectors.Spent:        ErrSpent,
}

// vectorReasons is what the audit log says where the caller is told nothing.
var vectorReasons = map[string]string{
	vectors.Malformed:    "malformed",
	vectors.UnknownEpoch: "epoch unknown or retired",
	vectors.WrongSuite:   "suite is not the epoch's",
	vectors.Header:       "header not authentic",
	vectors.Body:         "header genuine, body altered",
}

// TestVectors opens the vectors through a Host, over an epoch's file that was written
// from the specification. It leaves out the vectors that need a clock of their own.
func TestVectors(t *testing.T) {
	all, err := vectors.Read(filepath.Join("..", vectors.Dir))
	require.NoError(t, err)
	pool, err := memsafe.NewPool(128 << 10)
	require.NoError(t, err)
	defer func() { require.NoError(t, pool.Close()) }()
	skipped := 0
	for _, v := range all {
		if v.Now != nil {
			skipped++
			continue
		}
		t.Run(v.Name, func(t *testing.T) { runVector(t, v, pool) })
	}
	require.Equal(t, 4, skipped, "the last and the first instant, in both suites")
	require.Zero(t, pool.InUse())
}

// Every suite has as many vectors as the others.
func TestVectorsOfEverySuite(t *testing.T) {
	all, err := vectors.Read(filepath.Join("..", vectors.Dir))
	require.NoError(t, err)
	count := map[suite.Suite]int{}
	for _, v := range all {
		count[suite.Suite(v.Suite)]++
	}
	for _, st := range suite.All() {
		require.Greater(t, count[st], 10, st)
		require.Equal(t, count[suite.Default()], count[st], st)
	}
}

// The specification has a row for each suite and each kind of party.
func TestSpecNamesChoices(t *testing.T) {
	b, err := os.ReadFile("../doc/SPEC.md")
	require.NoError(t, err)
	spec := string(b)
	for _, st := range suite.All() {
		require.Contains(t, spec, fmt.Sprintf("%d %v", st, st))
	}
	for k := range kinds {
		if known(uint8(k)) {
			require.Regexp(t, fmt.Sprintf(`(?m)^\| %d %s \|`, k, strings.Fields(kinds[k].text(bytes.Repeat([]byte("1"), kinds[k].least)))[0]), spec)
		}
	}
}

func runVector(t *testing.T, v *vectors.Vector, pool *memsafe.Pool) {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o700))
	path := writeEpoch(t, v, dir)
	ring, err := keyring.Open(dir, &keyring.Options{AnyFilesystem: true})
	require.NoError(t, err)
	var log bytes.Buffer
	h, err := newHost(ring, &Options{Pool: pool, Log: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	defer func() { require.NoError(t, h.Close()) }()
	h.who, h.user = &self{v.User, User(v.User), func() ([]byte, error) { return v.Process, nil }}, User(v.User)
	open := h.Open
	if v.Action == "take-back" {
		open = h.TakeBack
	}

	plain, err := open(v.Token, v.Format)
	if v.Expect != vectors.Success {
		require.Nil(t, plain)
		require.ErrorIs(t, err, vectorErrors[v.Expect])
		if reason, ok := vectorReasons[v.Expect]; ok {
			if v.Expect == vectors.UnknownEpoch {
				require.ErrorContains(t, err, "seal: defective token: no living key ")
			} else {
				require.Equal(t, ErrDefective, err, "one and the same value")
			}
			require.Contains(t, log.String(), reason)
		}
		require.Equal(t, v.Word, slotWord(t, path, v.Slot), "something was spent")
		return
	}
	require.NoError(t, err)
	require.Equal(t, v.PlainLength, plain.Len())
	sum := sha256.Sum256(plain.Bytes())
	require.Equal(t, v.PlainSHA256, sum[:])
	plain.Wipe()
	require.Equal(t, v.Word>>24<<24|1, slotWord(t, path, v.Slot), "the slot is free, its generation kept")
	_, err = open(v.Token, v.Format)
	require.ErrorIs(t, err, ErrSpent)
}

// writeEpoch writes the vector's epoch and register, and returns the path.
func writeEpoch(t *testing.T, v *vectors.Vector, dir string) string {
	t.Helper()
	boot, err := boottime.BootID()
	require.NoError(t, err)
	e := vectors.Epoch{
		HostKey: v.HostKey, Suite: v.Suite, ID: v.Epoch, Boot: boot[:], Birth: 1, Sequence: 1,
		Outstanding: v.Slots / 2, Age: uint64(time.Hour), MaxLifetime: uint64(time.Hour),
		State: vectors.StateOpen, Words: map[uint32]uint64{v.Slot: v.Word},
	}
	path, err := e.Write(dir)
	require.NoError(t, err)
	return path
}

// slotWord reads a slot from an epoch's file.
func slotWord(t *testing.T, path string, slot uint32) uint64 {
	t.Helper()
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	return binary.NativeEndian.Uint64(file[4096+8*slot:])
}
