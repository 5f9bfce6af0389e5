package seal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing/iotest"
	"time"

	"github.com/sealctx/sealctx/internal/memscan"
	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/internal/token"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/memsafe"
)

// Variables of a victim. None holds a secret.
const (
	caseVar   = "SEALCTX_SEAL_TEST_CASE"
	tokensVar = "SEALCTX_SEAL_TEST_TOKENS" // path of a file of sealed tokens
	opsVar    = "SEALCTX_SEAL_TEST_OPS"
)

// victimPlain is the size of the plain tokens: of a usual Kerberos context.
const victimPlain = 1165

// victims are the processes that the memory scanner looks into.
var victims = map[string]func(*memscan.Victim){"seal": sealVictim}

// A victimCase is what a victim does, and what is scanned for.
type victimCase struct {
	name  string
	does  func(*memscan.Victim, *Host, [][]byte) error
	opens bool   // it is given tokens that the test has sealed
	hands int    // what it hands over itself
	ops   int    // how often it does it; zero: a few times
	env   string // more environment
	suite suite.Suite
	// alter changes the tokens that it is given.
	alter func([]byte)
	// keyGone: the host key must not even be in its own page afterwards.
	keyGone bool
	// holds: it keeps opened tokens in locked memory, and keeps no other secret.
	holds bool
	// leaks: these needles must be found: a control.
	leaks []string
}

func alterBody(b []byte)   { b[len(b)-20] ^= 1 }
func alterHeader(b []byte) { b[40] ^= 1 }

const (
	handsStart = 1 << iota // beginnings of tokens that it reserved
	handsPlain             // plain tokens that it made
)

var victimCases = []victimCase{
	{name: "seal", does: victimSeals, hands: handsStart | handsPlain},
	{name: "open", does: victimOpens, opens: true},
	{name: "take back", does: victimTakesBack, opens: true},
	{name: "cancel", does: victimCancels, hands: handsStart},
	{name: "open altered body", does: victimIsRefused, opens: true, alter: alterBody},
	{name: "open altered header", does: victimIsRefused, opens: true, alter: alterHeader},
	{name: "open in new goroutines", does: victimOpensAside, opens: true, ops: 64},
	{name: "work in new goroutines", does: victimWorks, hands: handsPlain, ops: 64},
	{name: "open and hold", does: victimHolds, opens: true, holds: true},
	{name: "ask for the status", does: victimAsks, opens: true},
	{name: "cancel for a peer", does: victimCancelsFor(nil), opens: true},
	{name: "cancel with altered header", does: victimCancelsFor(ErrDefective), opens: true, alter: alterHeader},
	{name: "open twice", does: victimOpensTwice, opens: true},
	{name: "seal too late", does: victimSealsTooLate, hands: handsStart | handsPlain},
	{name: "random source fails", does: victimWithoutRandom, hands: handsStart | handsPlain},
	{name: "no room for the body", does: victimWithoutRoom, opens: true},
	{name: "suite forbidden", does: victimForbidden, opens: true, hands: handsStart | handsPlain, env: "fips140=only", suite: suite.ChaCha20Poly1305},
	{name: "retired under way", does: victimRetires, opens: true, hands: handsStart, keyGone: true},
	{name: "closed", does: victimCloses, hands: handsStart | handsPlain, keyGone: true},
	{name: "control", does: victimLeaks, hands: handsStart | handsPlain, leaks: []string{"plain", "K_enc"}},
}

// sealVictim does what its case says, and waits to be scanned.
func sealVictim(v *memscan.Victim) {
	ring, err := keyring.Open(os.Getenv(dirVar), nil)
	v.Check(err)
	h, err := newHost(ring, nil)
	v.Check(err)
	tokens, err := readTokens(os.Getenv(tokensVar))
	v.Check(err)
	for _, c := range victimCases {
		if c.name == os.Getenv(caseVar) {
			for _, b := range tokens {
				if c.alter != nil {
					c.alter(b)
				}
			}
			v.UnderLoad(func() { v.Check(c.does(v, h, tokens)) })
		}
	}
	// So that nothing the case made is reachable, and all of it collected.
	clear(tokens)
	v.Value("in use", uint64(h.pool.InUse()))
	v.Checkpoint("done")
	runtime.KeepAlive(held)
}

// victimOps is how often a case does what it does.
func victimOps() int {
	n, err := strconv.Atoi(os.Getenv(opsVar))
	if err != nil {
		panic(err) // the test's mistake
	}
	return n
}

// hand gives the test a needle, numbered, so that it gets all of them.
func hand(v *memscan.Victim, name string, b []byte) {
	handed[name]++
	v.Needle(fmt.Sprint(name, handed[name]), b)
	v.Value(name, uint64(handed[name]))
}

var handed = map[string]int{}

// reserveFor reserves and hands the token's beginning over: the test derives
// the keys from it by itself.
func reserveFor(v *memscan.Victim, h *Host) (*Reservation, error) {
	r, err := h.Reserve(testRequest)
	if err != nil {
		return nil, err
	}
	hand(v, "start", r.grant.Start)
	return r, nil
}

// newPlain makes a plain token on the heap. On a stack that grows it would be copied, and
// the first copy could not be wiped.
//
//go:noinline
func newPlain() []byte {
	b := make([]byte, victimPlain)
	_, _ = rand.Read(b) // crypto/rand does not fail
	return b
}

// sealOne seals a plain token of random bytes. The plain token is the caller's,
// and wiped as its caller should.
func sealOne(v *memscan.Victim, h *Host) ([]byte, error) {
	plain := newPlain()
	defer memsafe.Wipe(plain)
	hand(v, "plain", plain)
	r, err := reserveFor(v, h)
	if err != nil {
		return nil, err
	}
	return r.Seal(plain)
}

func victimSeals(v *memscan.Victim, h *Host, _ [][]byte) error {
	for range victimOps() {
		if _, err := sealOne(v, h); err != nil {
			return err
		}
	}
	return nil
}

func victimOpens(_ *memscan.Victim, h *Host, tokens [][]byte) error {
	for _, b := range tokens {
		s, err := h.Open(b, testFormat)
		if err != nil {
			return err
		}
		s.Wipe()
	}
	return nil
}

// victimOpensAside opens on stacks that have yet to grow, each from another
// depth, so that some grow in the middle of the work. The goroutines are all
// there before the first opens: none takes over what another has left.
func victimOpensAside(v *memscan.Victim, h *Host, tokens [][]byte) error {
	errs, begin := make(chan error), make(chan bool)
	for i := range tokens {
		go func() {
			<-begin
			sink(deeper(i, func() { errs <- victimOpens(v, h, tokens[i:i+1]) }))
		}()
	}
	for range tokens {
		begin <- true
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// deeper calls f from n frames further down the stack.
//
//go:noinline
func deeper(n int, f func()) byte {
	var frame [48]byte
	if n == 0 {
		f()
		return frame[0]
	}
	return deeper(n-1, f) + frame[n%len(frame)]
}

//go:noinline
func sink(byte) {}

// victimWorks has a secret on a stack that has yet to grow, as a cipher might.
func victimWorks(v *memscan.Victim, h *Host, _ [][]byte) error {
	e, err := h.ring.Current() // the host key is here as in the other cases
	if err != nil {
		return err
	}
	defer e.Release()
	plain := newPlain()
	defer memsafe.Wipe(plain)
	hand(v, "plain", plain)
	done, begin := make(chan bool), make(chan bool)
	for i := range victimOps() {
		go func() {
			<-begin
			sink(deeper(i, func() { memsafe.Do(func() { sink(onStack(plain)) }) }))
			done <- true
		}()
	}
	for range victimOps() {
		begin <- true
		<-done
	}
	return nil
}

//go:noinline
func onStack(secret []byte) byte {
	var frame [256]byte
	copy(frame[:], secret)
	return deeper(30, func() {}) + frame[secret[0]]
}

func victimIsRefused(_ *memscan.Victim, h *Host, tokens [][]byte) error {
	for _, b := range tokens {
		if _, err := h.Open(b, testFormat); err != ErrDefective {
			return errors.Join(errors.New("not defective"), err)
		}
	}
	return nil
}

// victimHolds keeps what it opened.
func victimHolds(_ *memscan.Victim, h *Host, tokens [][]byte) error {
	for _, b := range tokens {
		s, err := h.Open(b, testFormat)
		if err != nil {
			return err
		}
		held = append(held, s)
	}
	return nil
}

var held []*memsafe.Secret

func victimAsks(_ *memscan.Victim, h *Host, tokens [][]byte) error {
	for _, b := range tokens {
		if state, err := h.Status(b); err != nil || state != Outstanding {
			return errors.Join(errors.New(state.String()), err)
		}
	}
	return nil
}

// victimCancelsFor tries to cancel reservations by headers that no Host made.
func victimCancelsFor(want error) func(*memscan.Victim, *Host, [][]byte) error {
	return func(_ *memscan.Victim, h *Host, tokens [][]byte) error {
		for _, b := range tokens {
			parsed, err := token.Parse(b)
			if err != nil {
				return err
			}
			start := b[:len(parsed.Bound)+token.CommitmentSize]
			if err := h.Cancel(start); err != want {
				return fmt.Errorf("%w, and not %w", err, want)
			}
		}
		return nil
	}
}

func victimTakesBack(_ *memscan.Victim, h *Host, tokens [][]byte) error {
	for _, b := range tokens {
		s, err := h.TakeBack(b, testFormat)
		if err != nil {
			return err
		}
		s.Wipe()
	}
	return nil
}

func victimOpensTwice(_ *memscan.Victim, h *Host, tokens [][]byte) error {
	for _, b := range tokens {
		s, err := h.Open(b, testFormat)
		if err != nil {
			return err
		}
		s.Wipe()
		if _, err := h.Open(b, testFormat); err != ErrSpent {
			return errors.Join(errors.New("opened twice"), err)
		}
	}
	return nil
}

func victimCancels(v *memscan.Victim, h *Host, _ [][]byte) error {
	for range victimOps() {
		r, err := reserveFor(v, h)
		if err != nil {
			return err
		}
		if err := r.Cancel(); err != nil {
			return err
		}
	}
	return nil
}

func victimSealsTooLate(v *memscan.Victim, h *Host, _ [][]byte) error {
	for range victimOps() {
		plain := newPlain()
		hand(v, "plain", plain)
		req := testRequest
		req.Lifetime = time.Millisecond
		r, err := h.Reserve(req)
		if err != nil {
			return err
		}
		hand(v, "start", r.grant.Start)
		time.Sleep(req.Lifetime)
		_, err = r.Seal(plain)
		memsafe.Wipe(plain)
		if !errors.Is(err, ErrExpired) {
			return errors.Join(errors.New("sealed too late"), err)
		}
	}
	return nil
}

func victimWithoutRandom(v *memscan.Victim, h *Host, _ [][]byte) error {
	for range victimOps() {
		h.random = iotest.ErrReader(errNoEntropy)
		if _, err := h.Reserve(testRequest); !errors.Is(err, errNoEntropy) {
			return err
		}
		h.random = rand.Reader
		plain := newPlain()
		hand(v, "plain", plain)
		r, err := reserveFor(v, h)
		if err != nil {
			return err
		}
		r.random = iotest.ErrReader(errNoEntropy)
		_, err = r.Seal(plain) // st 1 draws its nonce elsewhere
		memsafe.Wipe(plain)
		if err != nil && !errors.Is(err, errNoEntropy) {
			return err
		}
	}
	return nil
}

// victimWithoutRoom opens with locked memory for less than a body and keys.
func victimWithoutRoom(_ *memscan.Victim, h *Host, tokens [][]byte) error {
	all, err := h.pool.Alloc(h.pool.Size() - 1024)
	if err != nil {
		return err
	}
	defer all.Wipe()
	for _, b := range tokens {
		if _, err := h.Open(b, testFormat); !errors.Is(err, memsafe.ErrLimit) {
			return errors.Join(errors.New("opened without room"), err)
		}
	}
	return nil
}

// victimForbidden runs where the suite is forbidden, and fails late.
func victimForbidden(v *memscan.Victim, h *Host, tokens [][]byte) error {
	for range victimOps() {
		if _, err := sealOne(v, h); !errors.Is(err, ErrUnavailable) {
			return errors.Join(errors.New("sealed all the same"), err)
		}
	}
	for _, b := range tokens {
		if _, err := h.Open(b, testFormat); !errors.Is(err, ErrUnavailable) {
			return errors.Join(errors.New("opened all the same"), err)
		}
	}
	return nil
}

// victimRetires retires the epoch of a reservation and of tokens in the middle
// of their use, and keeps the epoch mapped: its page must be without the key.
func victimRetires(v *memscan.Victim, h *Host, tokens [][]byte) error {
	parsed, err := token.Parse(tokens[0])
	if err != nil {
		return err
	}
	kept, err := h.ring.Epoch(parsed.Epoch)
	if err != nil {
		return err
	}
	r, err := reserveFor(v, h)
	if err != nil {
		return err
	}
	h.random = hookReader(func() { v.Check(h.ring.Retire(parsed.Epoch)) })
	if _, err := h.reserve(reservedHeader(h), time.Minute); !errors.Is(err, keyring.ErrRetired) {
		return errors.Join(errors.New("reserved all the same"), err)
	}
	if _, err := r.Seal(nil); !errors.Is(err, keyring.ErrRetired) {
		return errors.Join(errors.New("sealed all the same"), err)
	}
	if _, err := h.authenticate(kept, &parsed); err != ErrDefective {
		return errors.Join(errors.New("opened all the same"), err)
	}
	return nil // kept is never released
}

func reservedHeader(h *Host) token.Header {
	req := testRequest
	req.Audience = User(h.who.User())
	return req.header(h.who.User())
}

func victimCloses(v *memscan.Victim, h *Host, _ [][]byte) error {
	if err := victimSeals(v, h, nil); err != nil {
		return err
	}
	return h.Close()
}

// The control's leaks.
var leakedPlain, leakedKey []byte

func victimLeaks(v *memscan.Victim, h *Host, _ [][]byte) error {
	leakedPlain = newPlain()
	hand(v, "plain", leakedPlain)
	r, err := reserveFor(v, h)
	if err != nil {
		return err
	}
	leakedKey = append(leakedKey, r.grant.Key.Bytes()...)
	_, err = r.Seal(leakedPlain)
	return err
}

// writeTokens and readTokens carry sealed tokens from the test to the victim.
func writeTokens(path string, tokens [][]byte) error {
	var b []byte
	for _, t := range tokens {
		b = append(binary.BigEndian.AppendUint32(b, uint32(len(t))), t...)
	}
	return os.WriteFile(path, b, 0o600)
}

func readTokens(path string) (tokens [][]byte, err error) {
	b, err := os.ReadFile(path)
	for len(b) >= 4 {
		n := 4 + int(binary.BigEndian.Uint32(b))
		tokens = append(tokens, b[4:n:n])
		b = b[n:]
	}
	return tokens, err
}
