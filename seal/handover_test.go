package seal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/keyring"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What is done to a process in a round.
type deed int

const (
	killAt   deed = iota // killed at a step
	stopAt               // stopped at a step, while the others go on
	expireAt             // stopped at a step until the token's time is over
	killSome             // killed at some moment
	stopSome             // stopped at some moment, while the others go on
)

// A plan is one round: an exporter makes a token, which two importers and the
// exporter want; to one of them something is done.
type plan struct {
	deed   deed
	step   int  // for the deeds at a step
	victim int  // for the deeds at some moment
	broken bool // the claims are load-then-store
}

// tooSlow says that the token ended before the step was reached: the machine has
// other work.
func (p plan) tooSlow(a answer) bool {
	return p.deed == expireAt && a.Kind == "refused" && strings.HasPrefix(a.Error, ErrExpired.Error())
}

// The hands of a fleet.
const (
	exporter = iota
	importer1
	importer2
	hands
)

const (
	longLife  = 20 * time.Second        // a token's, where time plays no part
	shortLife = 60 * time.Millisecond   // where it is to end
	maxDelay  = 1200 * time.Microsecond // before a deed at some moment; a handover takes as long
)

// A fleet is the processes of the test.
type fleet struct {
	t     *testing.T
	dir   string
	path  string // of the shared page
	page  []byte
	hands [hands]*remote
	round uint64
	seen  [stepCount]int // at which step a process was when something was done to it
}

// remote is a party as the test sees it.
type remote struct {
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
	fds [2]*os.File
	off bool // killed
}

func newFleet(t *testing.T, dir string) *fleet {
	f := &fleet{t: t, dir: dir, path: filepath.Join(shmDir(t), "page")}
	require.NoError(t, os.WriteFile(f.path, make([]byte, os.Getpagesize()), 0o600))
	var err error
	f.page, err = sharedPage(f.path)
	require.NoError(t, err)
	for i := range f.hands {
		f.start(i)
	}
	t.Cleanup(func() {
		for i := range f.hands {
			f.kill(i)
		}
		require.NoError(t, unix.Munmap(f.page))
	})
	return f
}

func (f *fleet) start(i int) {
	cmd := child(f.t, "handover", dirVar+"="+f.dir, pageVar+"="+f.path, fmt.Sprintf("%s=%d", indexVar, i))
	cmd.Stderr = os.Stderr
	theirIn, ourOut, err := os.Pipe()
	require.NoError(f.t, err)
	ourIn, theirOut, err := os.Pipe()
	require.NoError(f.t, err)
	cmd.Stdin, cmd.Stdout = theirIn, theirOut
	require.NoError(f.t, cmd.Start())
	require.NoError(f.t, errors.Join(theirIn.Close(), theirOut.Close(), cmd.ExtraFiles[0].Close()))
	f.hands[i] = &remote{cmd, json.NewEncoder(ourOut), json.NewDecoder(ourIn), [2]*os.File{ourIn, ourOut}, false}
}

// kill is SIGKILL; the process is gone when it returns.
func (f *fleet) kill(i int) {
	p := f.hands[i]
	if p.off {
		return
	}
	p.off = true
	require.NoError(f.t, p.cmd.Process.Kill())
	_ = p.cmd.Wait() // "signal: killed"
	require.NoError(f.t, errors.Join(p.fds[0].Close(), p.fds[1].Close()))
}

func (f *fleet) signal(i int, s unix.Signal) {
	require.NoError(f.t, unix.Kill(f.hands[i].cmd.Process.Pid, s))
}

func (f *fleet) step(i int) int { return int(stepOf(f.page, i).Load()) }

// tell gives an order. What the process last did is forgotten before.
func (f *fleet) tell(i int, o order) {
	if o.Do != "continue" {
		stepOf(f.page, i).Store(stepNone)
	}
	require.NoError(f.t, f.hands[i].in.Encode(o))
}

func (f *fleet) hear(i int) answer {
	f.t.Helper()
	p := f.hands[i]
	require.NoError(f.t, p.fds[0].SetReadDeadline(time.Now().Add(patience)))
	var a answer
	require.NoError(f.t, p.out.Decode(&a))
	return a
}

// run goes through one round. Its error says how ownership was broken.
func (f *fleet) run(p plan) error {
	f.round++
	life := longLife
	if p.deed == expireAt {
		life = shortLife
	}
	plain := binary.BigEndian.AppendUint64(make([]byte, 100), f.round)
	export := order{Do: "export", Plain: plain, Lifetime: life}
	atStep := p.deed <= expireAt
	if atStep && p.step <= stepTokenSent {
		export.Pause = p.step
	}
	f.tell(exporter, export)
	if export.Pause != stepNone && p.step < stepTokenSent {
		done, err := f.interrupt(exporter, p)
		if done || err != nil {
			return err
		}
	}
	a := f.hear(exporter)
	if a.Kind == "refused" && p.deed == expireAt {
		return nil // no token, as it must be; the exporter has its context
	}
	if a.Kind != "token" {
		return fmt.Errorf("export: %s %s", a.Kind, a.Error)
	}
	o := order{Token: a.Token, Broken: p.broken}
	if !atStep {
		return f.race(p, o, plain)
	}
	return f.take(p, o, plain)
}

// interrupt does the deed to an exporter that still has its token. It returns
// true if nothing can come of the round any more.
func (f *fleet) interrupt(i int, p plan) (done bool, err error) {
	switch a := f.hear(i); {
	case p.tooSlow(a):
		return true, nil
	case a.Kind != "paused":
		return false, fmt.Errorf("%s: %s %s", stepNames[p.step], a.Kind, a.Error)
	}
	f.seen[f.step(i)]++
	if p.deed == killAt {
		f.kill(i)
		f.start(i)
		return true, nil
	}
	f.signal(i, unix.SIGSTOP)
	if p.deed == expireAt {
		time.Sleep(shortLife)
	}
	f.signal(i, unix.SIGCONT)
	f.tell(i, order{Do: "continue"})
	return false, nil
}

// take lets one process go up to a step, does the deed, and lets the others
// try. It counts the processes that have the context.
func (f *fleet) take(p plan, o order, plain []byte) error {
	victim, others := importer1, []int{importer2, exporter}
	if p.step <= stepBackClaimed {
		victim, others = exporter, []int{importer1, importer2}
	}
	if p.step >= stepBackAsked {
		mine := o
		mine.Do, mine.Pause = does(victim), p.step
		f.tell(victim, mine)
	}
	if p.step >= stepTokenSent {
		switch a := f.hear(victim); {
		case p.tooSlow(a):
			return nil
		case a.Kind != "paused":
			return fmt.Errorf("%s: %s %s", stepNames[p.step], a.Kind, a.Error)
		}
		f.seen[f.step(victim)]++
		if p.deed == killAt {
			f.kill(victim)
		} else {
			f.signal(victim, unix.SIGSTOP)
		}
	}
	if p.deed == expireAt {
		time.Sleep(shortLife)
	}
	owners := 0
	for _, i := range others {
		mine := o
		mine.Do = does(i)
		f.tell(i, mine)
	}
	for _, i := range others {
		n, err := owns(f.hear(i), plain, p)
		if err != nil {
			return err
		}
		owners += n
	}
	claimed := p.step == stepBackClaimed || p.step >= stepClaimed
	switch {
	case p.step < stepTokenSent:
	case p.deed == killAt:
		if claimed {
			owners++ // it died with it
		}
		f.start(victim)
	default:
		f.signal(victim, unix.SIGCONT)
		f.tell(victim, order{Do: "continue"})
		if p.step == stepTokenSent {
			break // it was only stopped, and wants nothing
		}
		n, err := owns(f.hear(victim), plain, p)
		if err != nil {
			return err
		}
		owners += n
	}
	want := 1
	if p.deed == expireAt && !claimed {
		want = 0
	}
	if owners != want {
		return fmt.Errorf("%d owners", owners)
	}
	return nil
}

// race lets all three try at once, and does the deed at some moment.
func (f *fleet) race(p plan, o order, plain []byte) error {
	for _, i := range rand.Perm(hands) {
		mine := o
		mine.Do = does(i)
		f.tell(i, mine)
	}
	for began, d := time.Now(), rand.N(maxDelay); time.Since(began) < d; {
	}
	f.signal(p.victim, unix.SIGSTOP)
	if p.deed == killSome {
		f.kill(p.victim)
	}
	step := f.step(p.victim)
	f.seen[step]++
	owners := 0
	for i := range f.hands {
		if i == p.victim {
			continue
		}
		n, err := owns(f.hear(i), plain, p)
		if err != nil {
			return err
		}
		owners += n
	}
	if p.deed == killSome {
		f.start(p.victim)
		if step == stepBackClaimed || step >= stepClaimed {
			owners++ // it died with it
		} else if owners == 0 && (step == stepBackAsked || step == stepAuthenticated) {
			owners++ // both others were told that it is spent, so it was by the dead
		}
	} else {
		f.signal(p.victim, unix.SIGCONT)
		n, err := owns(f.hear(p.victim), plain, p)
		if err != nil {
			return err
		}
		owners += n
	}
	if owners != 1 {
		return fmt.Errorf("%d owners, the victim was at %q", owners, stepNames[step])
	}
	return nil
}

func does(i int) string {
	if i == exporter {
		return "back"
	}
	return "open"
}

// owns reads an answer: 1 if the process has the context. One that has not must
// have been told why.
func owns(a answer, plain []byte, p plan) (int, error) {
	why := ErrSpent.Error()
	if p.deed == expireAt && strings.HasSuffix(a.Error, ErrExpired.Error()) {
		why = a.Error // before its claim, or after: ErrLost
	}
	switch {
	case a.Kind == "opened" && string(a.Plain) == string(plain):
		return 1, nil
	case a.Kind == "opened":
		return 0, errors.New("opened another context")
	case a.Kind == "refused" && a.Error == why:
		return 0, nil
	}
	return 0, fmt.Errorf("%s %s", a.Kind, a.Error)
}

// plans are the rounds of the test: each step killed, stopped and outlived so
// often, and the rest of the rounds at some moment.
func plans(each, rounds int) []plan {
	var all []plan
	for step := stepExportAsked; step < stepCount; step++ {
		for range each / 2 {
			all = append(all, plan{deed: killAt, step: step}, plan{deed: stopAt, step: step})
		}
	}
	for step := stepSlotTaken; step < stepCount; step++ {
		for range each / 10 {
			all = append(all, plan{deed: expireAt, step: step})
		}
	}
	for len(all) < rounds {
		all = append(all, plan{deed: killSome + deed(len(all)%2), victim: rand.N(hands)})
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// Exporters and importers are killed and stopped at each step and at any moment
// between: there is never a second owner, and what they leave in the register
// comes back.
func TestKilledAndStopped(t *testing.T) {
	each, rounds := 24, 1000
	if underRace || testing.Short() {
		each, rounds = 10, 250
	}
	const limit = 2048 // dead exporters leave slots behind until their tokens' time is over
	o := &keyring.Options{Capacity: limit, MaxLifetime: longLife, Suite: suite.AES256GCM}
	dir := shmDir(t) + "/ring"
	h := dirHost(t, dir, o)
	epoch := current(t, h).ID()
	f := newFleet(t, dir)
	began := time.Now()
	all := plans(each, rounds)
	for _, p := range all {
		require.NoError(t, f.run(p), "round %d: %+v (%s)", f.round, p, stepNames[p.step])
	}
	took := time.Since(began)

	leaked := outstanding(t, h)
	var table strings.Builder
	for step, n := range f.seen {
		fmt.Fprintf(&table, "\n%6d  %s", n, stepNames[step])
		if step != stepNone {
			require.GreaterOrEqual(t, n, each, stepNames[step])
		}
	}
	t.Logf("%d rounds in %v; slots left behind at the end: %d; killed or stopped at:%s",
		len(all), took.Round(time.Second), leaked, table.String())

	// The register is as good as new: all slots, and not one more.
	require.Eventually(t, func() bool { return outstanding(t, h) == 0 }, longLife+patience, tick)
	require.Equal(t, epoch, current(t, h).ID())
	var held []*Reservation
	require.Eventually(t, func() bool {
		r, err := h.Reserve(testRequest)
		if err == nil {
			held = append(held, r)
		}
		return len(held) == limit
	}, patience, time.Microsecond)
	_, err := h.Reserve(testRequest)
	require.ErrorIs(t, err, keyring.ErrFull)
	for _, r := range held {
		require.NoError(t, r.Cancel())
	}

	// The control: the same rounds find a claim that is load-then-store.
	for _, p := range []plan{
		{deed: stopAt, step: stepAuthenticated, broken: true},
	} {
		err := f.run(p)
		require.Error(t, err)
		require.Regexp(t, "[23] owners", err.Error()) // three where the taker-back is late
	}
}
