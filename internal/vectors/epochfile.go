package vectors

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// States of an epoch.
const (
	StateOpen   = 1
	StateClosed = 2
	StateDead   = 3
)

// FreshWord is what a slot holds that was never reserved.
const FreshWord = 1

// recordPage is where the slots start in an epoch's file.
const recordPage = 4096

// An Epoch is an epoch's file, to be written with any value, allowed or not.
type Epoch struct {
	HostKey     []byte
	Suite       uint8
	ID, Boot    []byte
	Device      uint64
	Inode       uint64
	Birth       uint64
	Sequence    uint64
	Outstanding uint32
	Age         uint64
	MaxLifetime uint64
	State       uint32
	ClosedAt    uint64
	Words       map[uint32]uint64 // of the slots that are not fresh
}

// Fixed returns the part that never changes: what the MAC is over.
func (e *Epoch) Fixed() []byte {
	b := append([]byte("SLCXRING"), 1, e.Suite)
	b = append(b, e.ID...)
	b = append(b, e.Boot...)
	b = binary.BigEndian.AppendUint64(b, e.Device)
	b = binary.BigEndian.AppendUint64(b, e.Inode)
	b = binary.BigEndian.AppendUint64(b, e.Birth)
	b = binary.BigEndian.AppendUint64(b, e.Sequence)
	b = append(b, make([]byte, 6)...)
	b = binary.BigEndian.AppendUint32(b, e.Outstanding)
	b = binary.BigEndian.AppendUint64(b, e.Age)
	return binary.BigEndian.AppendUint64(b, e.MaxLifetime)
}

// MAC returns the MAC over a fixed part.
func MAC(hostKey, fixed []byte) ([]byte, error) {
	return hkdf.Expand(sha256.New, hostKey, "sealctx epoch mac\x00"+string(fixed), 32)
}

// File returns the bytes of the epoch's file.
func (e *Epoch) File() ([]byte, error) {
	file := make([]byte, recordPage+16*int(e.Outstanding))
	fixed := e.Fixed()
	mac, err := MAC(e.HostKey, fixed)
	if err != nil {
		return nil, err
	}
	copy(file, fixed)
	copy(file[100:], mac)
	binary.NativeEndian.PutUint32(file[256:], e.State)
	binary.NativeEndian.PutUint64(file[264:], uint64(len(e.Words)))
	binary.NativeEndian.PutUint64(file[280:], e.ClosedAt)
	copy(file[512:], e.HostKey)
	for i := range 2 * e.Outstanding {
		w, ok := e.Words[i]
		if !ok {
			w = FreshWord
		}
		binary.NativeEndian.PutUint64(file[recordPage+8*i:], w)
	}
	return file, nil
}

// Write puts the file into a directory under its name, with device and inode
// set to the file's own, and returns its path. The caller sets Boot.
func (e *Epoch) Write(dir string) (string, error) {
	path := filepath.Join(dir, fmt.Sprintf("epoch-%016x", e.Sequence))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("vectors: %s has no inode", path)
	}
	e.Device, e.Inode = uint64(st.Dev), st.Ino
	file, err := e.File()
	if err != nil {
		return "", err
	}
	_, err = f.Write(file)
	return path, err
}
