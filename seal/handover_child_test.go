package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/seal/internal/ask"
	"golang.org/x/sys/unix"
)

// The steps of a handover, in order. A process writes the one it has reached
// into a page that it shares with the test, so that the test can read it from a
// process that is dead.
const (
	stepNone          = iota
	stepExportAsked   // nothing done yet
	stepSlotTaken     // after the register's swap, before the salt is drawn
	stepKeysDerived   // Reserve is about to return
	stepContextGone   // the mechanism has given up the context
	stepBodySealed    // sealed; the clock and the epoch's state not yet read again
	stepSealed        // Seal has returned; no byte has left
	stepTokenSent     // the other processes have the token
	stepBackAsked     // taking back
	stepBackClaimed   // taken back, TakeBack has not returned
	stepOpenAsked     // opening
	stepAuthenticated // decrypted and authorized, not claimed
	stepClaimed       // claimed, Open has not returned
	stepOpened        // Open has returned
	stepCount
)

var stepNames = [stepCount]string{"nothing yet", "export asked", "slot taken", "keys derived", "context gone", "body sealed",
	"sealed", "token sent", "back asked", "back claimed", "open asked", "authenticated", "claimed", "opened"}

// order is what the test tells a process to do; JSON, one a line.
type order struct {
	Do       string // "export", "open", "back", "continue"
	Pause    int    // the step to report and wait at
	Plain    []byte
	Token    []byte
	Lifetime time.Duration
	Broken   bool // claim by load-then-store
}

// answer is what a process says.
type answer struct {
	Kind  string // "token", "opened", "refused", "paused"
	Token []byte
	Plain []byte
	Error string
}

// A party is the exporter or an importer.
type party struct {
	h     *Host
	in    *json.Decoder
	out   *json.Encoder
	at    *atomic.Uint32
	pause int
}

// Variables of a party.
const (
	pageVar  = "SEALCTX_SEAL_TEST_PAGE" // path of the shared page
	indexVar = "SEALCTX_SEAL_TEST_INDEX"
)

// handoverChild is a party, until its standard input ends.
func handoverChild() {
	ring, err := keyring.Open(os.Getenv(dirVar), nil)
	childCheck(err)
	w := &party{in: json.NewDecoder(os.Stdin), out: json.NewEncoder(os.Stdout)}
	page, err := sharedPage(os.Getenv(pageVar))
	childCheck(err)
	index, err := strconv.Atoi(os.Getenv(indexVar))
	childCheck(err)
	w.at = stepOf(page, index)
	w.h, err = newHost(ring, &Options{Log: slog.New(hookLog{w})})
	childCheck(err)
	w.h.random = hookReader(func() { w.step(stepSlotTaken) })
	w.h = as(w.h, func() ([]byte, error) {
		w.step(stepAuthenticated)
		return []byte(hookAudience.value), nil
	})
	for {
		var o order
		if err := w.in.Decode(&o); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			childFailed(err)
		}
		w.pause = o.Pause
		a, err := w.obey(&o)
		if err != nil {
			a = answer{Kind: "refused", Error: err.Error()}
		}
		if a.Kind == "token" {
			w.at.Store(stepTokenSent) // before the test can know, and forget, where this is
		}
		childCheck(w.out.Encode(a))
		if a.Kind == "token" {
			w.wait(stepTokenSent)
		}
	}
}

func (w *party) obey(o *order) (answer, error) {
	if o.Do == "export" {
		return w.export(o)
	}
	open := w.h.Open
	if o.Do == "back" {
		w.step(stepBackAsked)
		open = w.h.TakeBack
	} else {
		w.step(stepOpenAsked)
	}
	if o.Broken {
		open = func(b []byte, _ ...string) (*memsafe.Secret, error) {
			return loadThenStore(w.h, b, func() { w.step(stepAuthenticated) })
		}
	}
	s, err := open(o.Token, testFormat)
	if err != nil {
		return answer{}, err
	}
	defer s.Wipe()
	if o.Do == "open" {
		w.step(stepOpened)
	}
	return answer{Kind: "opened", Plain: bytes.Clone(s.Bytes())}, nil
}

func (w *party) export(o *order) (answer, error) {
	w.step(stepExportAsked)
	r, err := w.h.Reserve(Request{Format: testFormat, Audience: hookAudience, Lifetime: o.Lifetime})
	if err != nil {
		return answer{}, err
	}
	r.random = rand.Reader
	r.grant.Slot = hookSlot{r.grant.Slot, func() { w.step(stepBodySealed) }}
	w.step(stepContextGone)
	sealed, err := r.Seal(o.Plain)
	if err != nil {
		return answer{}, err
	}
	w.step(stepSealed)
	return answer{Kind: "token", Token: sealed}, nil
}

// step notes where this process is, and waits there if it was told to.
func (w *party) step(n int) {
	w.at.Store(uint32(n))
	w.wait(n)
}

func (w *party) wait(n int) {
	if w.pause != n {
		return
	}
	w.pause = stepNone
	childCheck(w.out.Encode(answer{Kind: "paused"}))
	var o order
	if err := w.in.Decode(&o); err != nil || o.Do != "continue" {
		childFailed(errors.Join(errors.New("not told to continue"), err))
	}
}

// hookSlot calls a function before the last check of Seal.
type hookSlot struct {
	ask.Slot
	before func()
}

func (s hookSlot) Valid(b []byte) error { s.before(); return s.Slot.Valid(b) }

// hookLog takes steps at audit events: those stand just behind what they tell.
type hookLog struct{ w *party }

func (hookLog) Enabled(context.Context, slog.Level) bool { return true }
func (l hookLog) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l hookLog) WithGroup(string) slog.Handler          { return l }
func (l hookLog) Handle(_ context.Context, r slog.Record) error {
	switch {
	case r.Message == eventReserved:
		l.w.step(stepKeysDerived)
	case r.Message == eventTakenBack:
		l.w.step(stepBackClaimed)
	case r.Message == eventOpened:
		l.w.step(stepClaimed)
	}
	return nil
}

// loadThenStore is the fault that the tests of single use must catch: an Open
// that looks whether the slot still holds its word, and then lets go of it.
func loadThenStore(h *Host, b []byte, between func()) (*memsafe.Secret, error) {
	t, err := token.Parse(b)
	if err != nil {
		return nil, err
	}
	e, err := h.ring.Epoch(t.Epoch)
	if err != nil {
		return nil, err
	}
	defer e.Release()
	plain, err := h.authenticate(e, &t)
	if err != nil {
		return nil, err
	}
	slot := keyring.Slot{Index: t.Slot, Word: t.Word}
	held, err := e.Holds(slot)
	if err == nil && !held {
		err = ErrSpent
	}
	if err != nil {
		plain.Wipe()
		return nil, err
	}
	between()
	_ = e.ClaimFresh(slot) // the store: all who have loaded store
	runtime.KeepAlive(slot)
	return plain, nil
}

// sharedPage maps the page of steps.
func sharedPage(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// stepOf is the word of one process in the page, on a cache line of its own.
func stepOf(page []byte, index int) *atomic.Uint32 {
	return (*atomic.Uint32)(unsafe.Pointer(&page[64*index]))
}
