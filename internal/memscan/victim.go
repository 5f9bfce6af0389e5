//go:build linux

package memscan

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// scenarioVar names the scenario in the victim's environment. Nothing secret
// travels that way.
const scenarioVar = "SEALCTX_MEMSCAN_SCENARIO"

// Descriptors of the victim: commands of the parent, and messages to it.
const (
	commandFD = 3
	messageFD = 4
)

// Commands, one byte each.
const (
	cmdGo      = 'g' // leave the checkpoint
	cmdCollect = 'c' // one garbage collection, then answer
	cmdChurn   = 'h' // use the heap and the stacks for something else, then answer
)

// Messages: kind, length of the name and of the body (4 bytes each), both.
const (
	msgNeedle     = 'n'
	msgValue      = 'v'
	msgCheckpoint = 'p'
	msgDone       = 'd'
	msgLoad       = 'l' // UnderLoad begins or ends, answered with cmdGo
	msgError      = 'e'
)

// maskSize is the length of the mask under which needles travel. It is odd and
// prime, so that it does not fall into step with anything.
const maskSize = 4099

// Victim is the process that is scanned, as its scenario sees it. Its methods
// end the process where the parent has gone; they are for the scenario's
// goroutine only.
type Victim struct {
	commands io.Reader
	messages io.Writer
	mask     []byte
	buf      []byte
	load     int
}

// Main is the body of a TestMain: it runs the tests of the package, or, in a
// process that [Start] made, the scenario of that name. It does not return.
func Main(m *testing.M, scenarios map[string]func(*Victim)) {
	name := os.Getenv(scenarioVar)
	if name == "" {
		os.Exit(m.Run())
	}
	os.Unsetenv(scenarioVar) // the scenario's own children are not victims
	v := &Victim{
		commands: os.NewFile(commandFD, "commands"),
		messages: os.NewFile(messageFD, "messages"),
		mask:     make([]byte, maskSize),
	}
	var load [1]byte
	if _, err := io.ReadFull(v.commands, load[:]); err != nil {
		v.gone(err)
	}
	if _, err := io.ReadFull(v.commands, v.mask); err != nil {
		v.gone(err)
	}
	v.load = int(load[0])
	run, ok := scenarios[name]
	if !ok {
		v.Fatal(fmt.Errorf("no scenario %q", name))
	}
	run(v)
	os.Exit(0)
}

// Needle hands a secret of this process to the parent, which finds it under
// the name. The secret stays the caller's, to wipe or to leak.
//
// It travels under a mask that the parent chose, and it is masked byte by byte
// on its way from the caller's memory into the buffer that is written: a plain
// copy in that buffer, in the pipe or in a vector register would be found by
// the scan and taken for a leak of the code under test. What stays behind here,
// the mask and the masked bytes, does not hold 16 bytes of the secret.
func (v *Victim) Needle(name string, secret []byte) {
	v.head(msgNeedle, name, len(secret))
	for i := range secret {
		v.buf = append(v.buf, secret[i]^v.mask[i%maskSize])
	}
	v.send()
}

// Value hands a number to the parent that is not secret: the address of a page,
// for instance.
func (v *Victim) Value(name string, n uint64) {
	v.head(msgValue, name, 8)
	v.buf = binary.BigEndian.AppendUint64(v.buf, n)
	v.send()
}

// Checkpoint tells the parent that it has reached a place of this name, and
// waits. Meanwhile the parent may scan, and may make this process collect
// garbage; it ends the wait with [Target.Resume].
func (v *Victim) Checkpoint(name string) {
	v.head(msgCheckpoint, name, 0)
	v.send()
	for {
		switch v.command() {
		case cmdGo:
			return
		case cmdCollect:
			runtime.GC()
		case cmdChurn:
			churn()
		}
		v.head(msgDone, "", 0)
		v.send()
	}
}

func (v *Victim) command() byte {
	var cmd [1]byte
	if _, err := io.ReadFull(v.commands, cmd[:]); err != nil {
		v.gone(err)
	}
	return cmd[0]
}

// UnderLoad runs f while as many goroutines as Options.Collectors says allocate
// and collect garbage beside it, and while the parent sends the signals that
// Options asks for. They have ended when it returns. The parent must be waiting
// in [Target.At] or [Target.Wait], as it does between checkpoints.
func (v *Victim) UnderLoad(f func()) {
	v.tell("begin")
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range v.load {
		wg.Go(func() {
			for !stop.Load() {
				keep := make([][]byte, 64)
				for i := range keep {
					keep[i] = make([]byte, 1+i*64)
				}
				runtime.GC()
			}
		})
	}
	defer v.tell("end")
	defer wg.Wait()
	defer stop.Store(true)
	f()
}

// tell announces the begin or the end of load and waits until it is so.
func (v *Victim) tell(what string) {
	v.head(msgLoad, what, 0)
	v.send()
	v.command()
}

// Check ends the scenario if err is not nil; the parent's test fails with it.
func (v *Victim) Check(err error) {
	if err != nil {
		v.Fatal(err)
	}
}

// Fatal ends the scenario; the parent's test fails with err.
func (v *Victim) Fatal(err error) {
	v.head(msgError, err.Error(), 0)
	v.send()
	os.Exit(1)
}

func (v *Victim) gone(err error) {
	fmt.Fprintln(os.Stderr, "memscan: the parent has gone:", err)
	os.Exit(1)
}

func (v *Victim) head(kind byte, name string, body int) {
	v.buf = append(v.buf[:0], kind)
	v.buf = binary.BigEndian.AppendUint32(v.buf, uint32(len(name)))
	v.buf = binary.BigEndian.AppendUint32(v.buf, uint32(body))
	v.buf = append(v.buf, name...)
}

func (v *Victim) send() {
	if _, err := v.messages.Write(v.buf); err != nil {
		v.gone(err)
	}
}

// message is one message of the victim, read by the parent.
type message struct {
	kind byte
	name string
	body []byte
}

func readMessage(r *bufio.Reader) (message, error) {
	var head [9]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, err
	}
	name := make([]byte, binary.BigEndian.Uint32(head[1:]))
	body := make([]byte, binary.BigEndian.Uint32(head[5:]))
	for _, b := range [][]byte{name, body} {
		if _, err := io.ReadFull(r, b); err != nil {
			return message{}, err
		}
	}
	return message{head[0], string(name), body}, nil
}

// churn overwrites freed heap objects of common sizes and freed stacks, as a
// program that goes on working would.
func churn() {
	for size := 16; size <= 32<<10; size *= 2 {
		keep := make([][]byte, 0, (8<<20)/size)
		for range cap(keep) {
			b := make([]byte, size)
			b[size-1] = 1
			keep = append(keep, b)
		}
		runtime.KeepAlive(keep)
	}
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() { deepen(64) })
	}
	wg.Wait()
}

//go:noinline
func deepen(n int) byte {
	var frame [512]byte
	for i := range frame {
		frame[i] = byte(n)
	}
	if n > 0 {
		return frame[n] + deepen(n-1)
	}
	return frame[0]
}
