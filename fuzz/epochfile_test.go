package fuzz

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/boottime"
	"github.com/sealctx/sealctx/internal/vectors"
	"github.com/sealctx/sealctx/keyring"
	"github.com/stretchr/testify/require"
)

// The bits of FuzzEpochFile's keep: what is put right again after the change.
const (
	keepBoot    = 1 << iota // the boot id
	keepPlace               // device and inode
	keepKey                 // the host key
	keepMAC                 // the MAC, under the key that is there
	otherInode              // but the inode is another file's
	otherDevice             // but the device is another filesystem's
)

// recordSize is how much of the file the fuzzer writes, at most.
const recordSize = 1024

// FuzzEpochFile changes an epoch's file: bytes of the record are XORed, the file
// is cut or grown, and what a fuzzer cannot guess is put right. keyring.Open
// must load it exactly if the model does, and a damaged one must not keep the
// ring from sealing.
func FuzzEpochFile(f *testing.F) {
	const all = keepBoot | keepPlace | keepKey | keepMAC
	xor := func(off int, b ...byte) []byte { return append(make([]byte, off), b...) }
	for _, keep := range []uint8{all, all &^ keepBoot, all &^ keepPlace, all &^ keepKey, all &^ keepMAC} {
		for _, change := range [][]byte{nil,
			xor(0, 1), xor(8, 3), xor(9, 3), xor(9, 2), xor(10, 1), xor(26, 1), xor(42, 1), xor(50, 1), xor(58, 0x80), xor(58, 0x40), xor(65, 1), xor(73, 2),
			xor(74, 1), xor(79, 1), xor(80, 1), xor(83, 1), xor(83, 32), xor(84, 0x80), xor(85, 0x10), xor(91, 1), xor(92, 0x80), xor(93, 0x10), xor(100, 1), xor(131, 1),
			xor(256, 1), xor(256, 2), xor(256, 3), xor(257, 1), xor(272, 1), xor(280, 1), xor(200, 1), xor(511, 1), xor(512, 1), xor(543, 1), xor(544, 1),
		} {
			f.Add(change, int16(0), keep, "epoch-0000000000000001")
		}
	}
	f.Add(xor(512, hostKey...), int16(0), uint8(all&^keepKey), "epoch-0000000000000001") // no key
	f.Add(xor(256, 1^3, 0, 0, 0), int16(0), uint8(all), "epoch-0000000000000001")        // dead
	f.Add(xor(256, 1^2), int16(0), uint8(all), "epoch-0000000000000001")                 // closed
	f.Add(xor(256, append([]byte{1 ^ 2}, xor(23, 1)...)...), int16(0), uint8(all), "epoch-0000000000000001")
	f.Add([]byte{}, int16(0), uint8(all|otherInode), "epoch-0000000000000001")
	f.Add([]byte{}, int16(0), uint8(all|otherDevice), "epoch-0000000000000001")
	for _, grow := range []int16{-32768, -4096, -513, -512, -8, -1, 1, 8, 4096} {
		f.Add([]byte{}, grow, uint8(all), "epoch-0000000000000001")
	}
	for _, name := range []string{"epoch-1", "epoch-0000000000000002", "epoch-000000000000000A", "epoch-00000000000000001", "Epoch-0000000000000001", "x"} {
		f.Add([]byte{}, int16(0), uint8(all), name)
	}
	genuine := genuineEpoch(f, vectors.GCM)
	genuine.Birth = nowSinceBoot(f)
	image, err := genuine.File()
	require.NoError(f, err)
	place := tmpfs(f)
	f.Fuzz(func(t *testing.T, change []byte, grow int16, keep uint8, name string) {
		if len(name) > 100 || strings.ContainsAny(name, "/\x00") || name == "" || name == "." || name == ".." {
			return // no name of a file
		}
		dir, err := os.MkdirTemp(place, "")
		require.NoError(t, err)
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, name)
		file, st := writeMutated(t, path, image, change, int(grow), keep)
		ring, err := keyring.Open(dir, nil)
		require.NoError(t, err)
		defer ring.Close()

		id := [16]byte(image[10:26])
		if len(file) >= recordSize {
			id = [16]byte(file[10:26])
		}
		e, err := ring.Epoch(id)
		want, sure := loads(t, file, st, name)
		if sure {
			require.Equal(t, want, err == nil, "%v", err)
		}
		if errors.Is(err, keyring.ErrOtherBoot) { // a living process may use it: nothing is touched
			_, err := ring.Current()
			require.ErrorIs(t, err, keyring.ErrOtherBoot)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, file, after)
			return
		}
		if err != nil {
			known := errors.Is(err, keyring.ErrUnknown) || errors.Is(err, keyring.ErrRetired) || errors.Is(err, keyring.ErrDamaged)
			require.True(t, known, "%v", err)
		} else {
			checkEpoch(t, e, file)
			e.Release()
		}
		current, err := ring.Current()
		require.NoError(t, err, "a file that is there must not keep the ring from sealing")
		_, err = current.Reserve(time.Second)
		current.Release()
		require.NoError(t, err)
	})
}

// writeMutated writes the changed image and returns it.
func writeMutated(t *testing.T, path string, image, change []byte, grow int, keep uint8) ([]byte, *syscall.Stat_t) {
	t.Helper()
	file := bytes.Clone(image)
	for i, x := range change[:min(len(change), recordSize)] {
		file[i] ^= x
	}
	if grow < 0 {
		file = file[:max(len(file)+grow, 0)]
	} else {
		file = append(file, make([]byte, grow)...)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	require.NoError(t, err)
	defer f.Close()
	info, err := f.Stat()
	require.NoError(t, err)
	st := info.Sys().(*syscall.Stat_t)
	if len(file) >= recordSize {
		putRight(t, file, image, st, keep)
	}
	_, err = f.Write(file)
	require.NoError(t, err)
	return file, st
}

func putRight(t *testing.T, file, image []byte, st *syscall.Stat_t, keep uint8) {
	if keep&keepBoot != 0 {
		copy(file[26:42], image[26:42])
	}
	if keep&keepPlace != 0 {
		binary.BigEndian.PutUint64(file[42:], uint64(st.Dev))
		binary.BigEndian.PutUint64(file[50:], st.Ino)
	}
	if keep&otherDevice != 0 {
		file[49] ^= 1
	}
	if keep&otherInode != 0 {
		file[57] ^= 1
	}
	if keep&keepKey != 0 {
		copy(file[512:544], image[512:544])
	}
	if keep&keepMAC != 0 {
		mac, err := vectors.MAC(file[512:544], file[:100])
		require.NoError(t, err)
		copy(file[100:], mac)
	}
}

// loads is section 12 of doc/SPEC.md: whether a ring has the epoch. It is not
// sure of closing times that no clock can have told.
func loads(t *testing.T, file []byte, st *syscall.Stat_t, name string) (loads, sure bool) {
	t.Helper()
	if len(file) < 4096 {
		return false, true
	}
	u64 := func(off int) uint64 { return binary.BigEndian.Uint64(file[off:]) }
	boot, err := boottime.BootID()
	require.NoError(t, err)
	outstanding := binary.BigEndian.Uint32(file[80:])
	state := binary.NativeEndian.Uint32(file[256:])
	closed := binary.NativeEndian.Uint64(file[280:])
	key := file[512:544]
	mac, err := vectors.MAC(key, file[:100])
	require.NoError(t, err)
	good := string(file[:9]) == "SLCXRING\x01" && (file[9] == 1 || file[9] == 2) &&
		bytes.Equal(file[26:42], boot[:]) && u64(42) == uint64(st.Dev) && u64(50) == st.Ino &&
		u64(58) < 1<<62 && u64(66) == 1 && name == "epoch-0000000000000001" && bytes.Equal(file[74:80], make([]byte, 6)) &&
		outstanding >= 1 && outstanding <= 1<<24 && len(file) == 4096+16*int(outstanding) &&
		binary.NativeEndian.Uint64(file[len(file)-8:])&3 != 0 && // else it was cut off and grown again
		within(u64(84), 30*24*time.Hour) && within(u64(92), 7*24*time.Hour) &&
		(state == vectors.StateOpen || state == vectors.StateClosed) &&
		!bytes.Equal(key, make([]byte, 32)) && bytes.Equal(mac, file[100:132])
	if !good || state == vectors.StateOpen || closed == 0 {
		return good, true
	}
	now := nowSinceBoot(t)
	if closed > farAway || now < closed+u64(92)+uint64(time.Second) && now+uint64(time.Second) > closed+u64(92) {
		return false, false
	}
	return now <= closed+u64(92), true
}

func within(ns uint64, most time.Duration) bool {
	return ns >= uint64(time.Second) && ns <= uint64(most)
}

func nowSinceBoot(tb testing.TB) uint64 {
	tb.Helper()
	clock, err := boottime.New()
	require.NoError(tb, err)
	now, err := clock.Now()
	require.NoError(tb, err)
	return uint64(now)
}

// checkEpoch: a loaded epoch derives what its key in the file derives, and lets
// the token that is outstanding in it be claimed once.
func checkEpoch(t *testing.T, e *keyring.Epoch, file []byte) {
	t.Helper()
	var got []byte
	require.NoError(t, e.Derive("label ", []byte("info"), func(key []byte) error {
		got = bytes.Clone(key)
		return nil
	}, nil))
	want, err := hkdf.Expand(sha256.New, file[512:544], "label info", 32)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, e.ClaimFresh(keyring.Slot{Index: slot, Word: slotWord}))
	require.ErrorIs(t, e.ClaimFresh(keyring.Slot{Index: slot, Word: slotWord}), keyring.ErrSpent)
}
