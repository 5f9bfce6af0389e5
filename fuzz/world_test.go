package fuzz

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/boottime"
	"github.com/sealctx/sealctx/internal/vectors"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal"
	"github.com/stretchr/testify/require"
)

const (
	slots     = 64
	slot      = 5
	slotWord  = 7<<24 | 3600<<2 | 2 // generation 7, out
	anyFormat = "fuzz/1/any"
	farAway   = 1 << 62 // nanoseconds since boot
)

// hostKey is known, so that a target can seal what it likes.
var hostKey = []byte("the one key of all fuzz targets.")

func epochID(suite uint8) []byte { return append([]byte("the fuzz epoch "), suite) }

// readVectors returns the vectors; the seeds of most targets are made of them.
func readVectors(f *testing.F) []*vectors.Vector {
	f.Helper()
	all, err := vectors.Read(filepath.Join("..", filepath.FromSlash(vectors.Dir)))
	require.NoError(f, err)
	return all
}

// newPool returns locked memory that suffices for one token at a time.
func newPool(f *testing.F) *memsafe.Pool {
	f.Helper()
	pool, err := memsafe.NewPool(64 << 10)
	require.NoError(f, err)
	f.Cleanup(func() { _ = pool.Close() })
	return pool
}

// tmpfs returns a new directory on tmpfs.
func tmpfs(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-fuzz-")
	require.NoError(tb, err)
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// A known is a Host over an epoch whose key is hostKey, with one token
// outstanding: slotWord in slot.
type known struct {
	*seal.Host
	file   *os.File
	reason string // what the audit log said last
}

func newKnown(f *testing.F, suite uint8, pool *memsafe.Pool) *known {
	f.Helper()
	dir := tmpfs(f)
	path, err := genuineEpoch(f, suite).Write(dir)
	require.NoError(f, err)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(f, err)
	k := &known{file: file}
	k.Host, err = seal.OpenHost(&seal.Options{Directory: dir, Pool: pool, Log: slog.New(reasons{k})})
	require.NoError(f, err)
	f.Cleanup(func() { _ = errors.Join(k.Close(), file.Close()) })
	return k
}

// genuineEpoch is the epoch before it is written to a file.
func genuineEpoch(tb testing.TB, suite uint8) *vectors.Epoch {
	tb.Helper()
	boot, err := boottime.BootID()
	require.NoError(tb, err)
	return &vectors.Epoch{
		HostKey: hostKey, Suite: suite, ID: epochID(suite), Boot: boot[:], Birth: 1, Sequence: 1,
		Outstanding: slots / 2, Age: uint64(time.Hour), MaxLifetime: uint64(time.Hour),
		State: vectors.StateOpen, Words: map[uint32]uint64{slot: slotWord},
	}
}

// word reads the slot from the shared file, and restore puts it back.
func (k *known) word(t *testing.T) uint64 {
	t.Helper()
	var b [8]byte
	_, err := k.file.ReadAt(b[:], 4096+8*slot)
	require.NoError(t, err)
	return binary.NativeEndian.Uint64(b[:])
}

func (k *known) restore(t *testing.T) {
	t.Helper()
	_, err := k.file.WriteAt(binary.NativeEndian.AppendUint64(nil, slotWord), 4096+8*slot)
	require.NoError(t, err)
}

// reasons keeps the reason of the last audit event.
type reasons struct{ k *known }

func (reasons) Enabled(context.Context, slog.Level) bool { return true }
func (r reasons) WithAttrs([]slog.Attr) slog.Handler     { return r }
func (r reasons) WithGroup(string) slog.Handler          { return r }

func (r reasons) Handle(_ context.Context, record slog.Record) error {
	r.k.reason = ""
	record.Attrs(func(a slog.Attr) bool {
		if a.Key == "reason" {
			r.k.reason = a.Value.String()
		}
		return true
	})
	return nil
}
