//go:build linux

package memscan

import (
	"crypto/rand"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Main(m, map[string]func(*Victim){
		"plant":     plantVictim,
		"freed":     freedVictim,
		"leak":      leakVictim,
		"secretmem": secretmemVictim,
		"truncated": truncatedVictim,
		"signals":   signalsVictim,
		"dump":      dumpVictim,
		"fatal":     func(v *Victim) { v.Fatal(os.ErrInvalid) },
		"panic":     func(*Victim) { panic("on purpose") },
		"early":     func(*Victim) {},
		"aes":       aesVictim,
		"aes busy":  aesBusyVictim,
		"hmac":      hmacVictim,
		"hmac busy": hmacBusyVictim,
		"chacha":    func(v *Victim) { chachaVictim(v, func(f func()) { f() }) },
		"erased":    func(v *Victim) { chachaVictim(v, erase) },
	})
}

const keySize = 32

// placeVar tells the plant scenario where to put its key.
const placeVar = "MEMSCAN_PLACE"

// madvGuardInstall is Linux's MADV_GUARD_INSTALL, which x/sys does not have.
const madvGuardInstall = 102

var globalKey [keySize]byte

// fill makes a key in its place, so that there is no other copy, and tells the
// parent.
func fill(v *Victim, b []byte) {
	rand.Read(b)
	v.Needle("key", b)
	v.Value("addr", uint64(uintptr(unsafe.Pointer(&b[0]))))
}

// plantVictim puts a key where the environment says, stops at "planted", wipes
// it and stops at "wiped".
func plantVictim(v *Victim) {
	page := os.Getpagesize()
	region := func(flags int) []byte {
		b, err := unix.Mmap(-1, 0, 4*page, unix.PROT_READ|unix.PROT_WRITE, flags|unix.MAP_ANONYMOUS)
		v.Check(err)
		return b
	}
	protect := func(b []byte, prot int) { v.Check(unix.Mprotect(b, prot)) }
	planted := func(b []byte) {
		v.Checkpoint("planted")
		clear(b)
		v.Checkpoint("wiped")
	}
	switch place := os.Getenv(placeVar); place {
	case "heap":
		b := make([]byte, keySize)
		fill(v, b)
		planted(b)
	case "heap, odd address":
		b := make([]byte, keySize+13)[13:]
		fill(v, b)
		planted(b)
	case "goroutine stack":
		done := make(chan bool)
		go func() { stackPlant(v); done <- true }()
		<-done
	case "global":
		fill(v, globalKey[:])
		planted(globalKey[:])
	case "mmap":
		b := region(unix.MAP_PRIVATE)[100:][:keySize]
		fill(v, b)
		planted(b)
	case "shared mmap":
		b := region(unix.MAP_SHARED)[100:][:keySize]
		fill(v, b)
		planted(b)
	case "page border":
		b := region(unix.MAP_PRIVATE)[page-13:][:keySize]
		fill(v, b)
		planted(b)
	case "before a guard page":
		r := region(unix.MAP_PRIVATE)
		if err := unix.Madvise(r[page:2*page], madvGuardInstall); err != unix.EINVAL { // before Linux 6.13
			v.Check(err)
		}
		b := r[page-keySize:][:keySize]
		fill(v, b)
		planted(b)
	case "mapping border": // MADV_DONTDUMP makes a mapping of its own
		r := region(unix.MAP_PRIVATE)
		v.Check(unix.Madvise(r[page:2*page], unix.MADV_DONTDUMP))
		b := r[page-13:][:keySize]
		fill(v, b)
		planted(b)
	case "not dumped":
		r := region(unix.MAP_PRIVATE)
		v.Check(unix.Madvise(r, unix.MADV_DONTDUMP))
		fill(v, r[:keySize])
		planted(r[:keySize])
	case "PROT_NONE", "read only":
		prot := unix.PROT_NONE
		if place == "read only" {
			prot = unix.PROT_READ
		}
		r := region(unix.MAP_PRIVATE)
		fill(v, r[:keySize])
		protect(r, prot)
		v.Checkpoint("planted")
		protect(r, unix.PROT_READ|unix.PROT_WRITE)
		clear(r)
		v.Checkpoint("wiped")
	case "own copy of a code page":
		exe, err := os.Open("/proc/self/exe")
		v.Check(err)
		r, err := unix.Mmap(int(exe.Fd()), 0, 4*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
		v.Check(err)
		fill(v, r[page:][:keySize])
		protect(r, unix.PROT_READ|unix.PROT_EXEC)
		v.Checkpoint("planted")
		protect(r, unix.PROT_READ|unix.PROT_WRITE)
		clear(r[page:][:keySize])
		v.Checkpoint("wiped")
	default:
		v.Check(os.ErrInvalid)
	}
}

// stackPlant keeps its key in its frame: nothing here makes the array escape.
//
//go:noinline
func stackPlant(v *Victim) {
	var frame [keySize]byte
	_, err := unix.Getrandom(frame[:], 0)
	v.Check(err)
	v.Needle("key", frame[:])
	v.Value("addr", uint64(uintptr(unsafe.Pointer(&frame))))
	v.Checkpoint("planted")
	clear(frame[:])
	v.Checkpoint("wiped")
	runtime.KeepAlive(&frame)
}

// freedVictim drops a key without wiping it. Neighbours stay alive, so that
// the span is not given back.
func freedVictim(v *Victim) {
	var neighbours [][]byte
	for i := range 400 {
		b := make([]byte, keySize)
		if i == 201 {
			fill(v, b)
		} else if i%2 == 0 {
			neighbours = append(neighbours, b)
		}
	}
	v.Checkpoint("dropped")
	runtime.KeepAlive(neighbours)
}

// leakVictim hands its key over as Needle does, and once more as it must not be
// done, by way of a plain buffer.
func leakVictim(v *Victim) {
	b := make([]byte, keySize)
	fill(v, b)
	v.Checkpoint("masked")
	careless := append(make([]byte, 0, 100), b...)
	v.Checkpoint("careless")
	runtime.KeepAlive(careless)
	clear(b)
}

func secretmemVictim(v *Victim) {
	page := os.Getpagesize()
	fd, err := unix.MemfdSecret(unix.O_CLOEXEC)
	v.Check(err)
	v.Check(unix.Ftruncate(fd, int64(4*page)))
	b, err := unix.Mmap(fd, 0, 4*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	v.Check(err)
	fill(v, b[:keySize])
	v.Checkpoint("planted")
}

// truncatedVictim maps a file of 64 MiB and cuts it to one page.
func truncatedVictim(v *Victim) {
	const size = 64 << 20
	fd, err := unix.MemfdCreate("cut", unix.MFD_CLOEXEC)
	v.Check(err)
	v.Check(unix.Ftruncate(fd, size))
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	v.Check(err)
	fill(v, b[:keySize])
	v.Checkpoint("whole")
	v.Check(unix.Ftruncate(fd, int64(os.Getpagesize())))
	v.Checkpoint("cut")
}

// dumpVictim has one key in the heap and one where no dump reaches.
func dumpVictim(v *Victim) {
	b := make([]byte, keySize)
	fill(v, b)
	r, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	v.Check(err)
	v.Check(unix.Madvise(r, unix.MADV_DONTDUMP))
	rand.Read(r[:keySize])
	v.Needle("kept out", r[:keySize])
	v.Checkpoint("planted")
	runtime.KeepAlive(b)
}

// signalsVictim counts signals and collections while it works.
func signalsVictim(v *Victim) {
	var count atomic.Uint64
	signals := make(chan os.Signal, 1024)
	signal.Notify(signals, syscall.SIGUSR1)
	go func() {
		for range signals {
			count.Add(1)
		}
	}()
	v.Checkpoint("ready")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	v.UnderLoad(func() { time.Sleep(500 * time.Millisecond) })
	runtime.ReadMemStats(&after)
	v.Value("signals", count.Load())
	v.Value("collections", uint64(after.NumGC-before.NumGC))
	v.Checkpoint("loaded")
}

// asNobody runs the tests that match a pattern as a plain user.
func asNobody(t *testing.T, pattern string) {
	self, err := os.Open("/proc/self/exe")
	require.NoError(t, err)
	defer self.Close()
	cmd := exec.Command("/proc/self/fd/3", "-test.run="+pattern, "-test.v")
	cmd.ExtraFiles = []*os.File{self}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: ")
	require.NotContains(t, string(out), "no tests to run")
}
