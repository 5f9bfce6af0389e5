//go:build linux

package permsg

import (
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"hash"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/memscan"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

// typeVar tells a victim which enctype to use.
const typeVar = "PERMSG_ETYPE"

func TestMain(m *testing.M) {
	memscan.Main(m, map[string]func(*memscan.Victim){
		"wiped":           func(v *memscan.Victim) { leakVictim(v, (*Session).Wipe) },
		"exported":        func(v *memscan.Victim) { leakVictim(v, exportAndDrop) },
		"refused message": func(v *memscan.Victim) { mismatchVictim(v, false) },
		"kept message":    func(v *memscan.Victim) { mismatchVictim(v, true) },
		"lane not wiped": func(v *memscan.Victim) {
			leakVictim(v, func(s *Session) { kept, s.out.idle = s.out.idle, nil; s.Wipe() })
		},
		"state on the heap": func(v *memscan.Victim) {
			leakVictim(v, func(s *Session) { kept, _ = s.Export(make([]byte, 0, MaxStateSize)) })
		},
	})
}

// kept keeps what a leaking victim leaves behind alive: an erasing build clears
// it otherwise.
var kept any

// exportAndDrop moves the session away and forgets the state, as the process
// that exports does.
func exportAndDrop(s *Session) {
	pool, err := memsafe.NewPool(4096)
	if err != nil {
		panic(err)
	}
	buf, err := pool.Alloc(s.StateSize())
	if err != nil {
		panic(err)
	}
	if _, err := s.Export(buf.Bytes()[:0]); err != nil {
		panic(err)
	}
	_ = pool.Close()
}

// names of the keys of one direction, in their order.
var keyNames = []string{"Ke", "Ki", "Kc seal", "Kc sign"}

func (k keys) all() [][]byte { return [][]byte{k.ke, k.ki, k.kcSeal, k.kcSign} }

// leakVictim makes both ends of a context, uses them, stops at "live", ends
// them, and stops at "ended".
func leakVictim(v *memscan.Victim, end func(*Session)) {
	n, err := strconv.Atoi(os.Getenv(typeVar))
	v.Check(err)
	id := etype.ID(n)
	pool, err := memsafe.NewPool(16 << 10)
	v.Check(err)
	key, err := pool.Alloc(id.KeySize())
	v.Check(err)
	v.Check(etype.RandomKey(key.Bytes(), id))
	v.Needle("key", key.Bytes())

	var ends [2]*Session
	for i := range ends {
		ends[i], err = New(pool, Params{Initiator: i == 0, Etype: id, Key: key.Bytes()})
		v.Check(err)
	}
	key.Wipe()
	for i, b := range append(ends[0].out.keys.all(), ends[0].in.keys.all()...) {
		v.Needle(strconv.Itoa(i/4)+" "+keyNames[i%4], b)
	}
	v.UnderLoad(func() {
		converse(v, ends[0], ends[1])
		tooManyLanes(v, ends[0])
	})
	v.Checkpoint("live")
	end(ends[0])
	end(ends[1])
	v.Checkpoint("ended")
}

// tooManyLanes has more messages under way at once than there are lanes to keep.
func tooManyLanes(v *memscan.Victim, s *Session) {
	var lanes []*lane
	for range 2 * maxIdleLanes {
		l, err := s.out.lane(s.id)
		v.Check(err)
		lanes = append(lanes, l)
	}
	for _, l := range lanes {
		s.out.done(l)
	}
}

// converse sends every kind of message both ways, in goroutines of their own, so
// that what follows does not overwrite their frames.
func converse(v *memscan.Victim, a, b *Session) {
	var wg sync.WaitGroup
	for i := range 8 {
		if i%2 == 1 {
			a, b = b, a
		}
		wg.Go(func() {
			for n := range 50 {
				msg := make([]byte, n*20)
				tok, err := a.Wrap(msg, i < 4)
				v.Check(err)
				_, _, err = b.Unwrap(tok)
				v.Check(err)
				tok[len(tok)-1]++
				if _, _, err = b.Unwrap(tok); err == nil {
					v.Fatal(os.ErrInvalid)
				}
				mic, err := a.GetMIC(msg)
				v.Check(err)
				v.Check(b.VerifyMIC(msg, mic))
			}
		})
		wg.Wait()
	}
}

// needles are the context's key, the eight keys made from it, and every form
// that AES and HMAC give them.
func needles(t testing.TB, tg *memscan.Target, id etype.ID) *memscan.Set {
	t.Helper()
	h := map[etype.ID]func() hash.Hash{
		etype.AES128SHA1: sha1.New, etype.AES256SHA1: sha1.New,
		etype.AES128SHA256: sha256.New, etype.AES256SHA384: sha512.New384,
	}[id]
	set := new(memscan.Set)
	set.Bytes("key", tg.Secret("key"))
	set.AES("key", tg.Secret("key"))
	set.HMAC("key", h, tg.Secret("key"))
	for i := range 8 {
		name := strconv.Itoa(i/4) + " " + keyNames[i%4]
		set.Bytes(name, tg.Secret(name))
		if i%4 == 0 {
			set.AES(name, tg.Secret(name))
		} else {
			set.HMAC(name, h, tg.Secret(name))
		}
	}
	require.NoError(t, set.Err())
	return set
}

// ended runs a victim to the end of its sessions and returns what is left of
// them. While they are alive their expanded keys must be found: that is the
// control of the scan.
func ended(t testing.TB, scenario string, id etype.ID, o *memscan.Options) []memscan.Hit {
	t.Helper()
	o.Env = append(o.Env, typeVar+"="+strconv.Itoa(int(id)))
	tg := memscan.Start(t, scenario, o)
	tg.At("live")
	set := needles(t, tg, id)
	if memsafe.Erasing {
		tg.Collect(1) // what preempted messages left is erased by a collection
	}
	live := tg.Scan(set)
	for _, ke := range []string{"0 Ke: AES round keys", "1 Ke: AES decryption round keys"} {
		require.NotEmpty(t, live.Of(ke, ke+", portable"), "%v", live) // portable: no AES instructions
	}
	if o.Signal == 0 { // between messages there are no pads and no states made from them
		require.Empty(t, live.Where(func(h memscan.Hit) bool {
			return h.Kind != memscan.Registers && strings.Contains(h.Needle, "HMAC")
		}), "%v", live)
	}
	tg.Resume()
	tg.At("ended")
	hits := tg.Left(set)
	tg.Resume()
	tg.Wait()
	return hits
}

// TestNothingLeft: after Wipe and after Export no 16 bytes of the context's key,
// of the keys made from it, or of what AES and HMAC made of those, are in the
// process. In an erasing build, not in registers either.
func TestNothingLeft(t *testing.T) {
	eachID(t, func(t *testing.T, id etype.ID) {
		for _, scenario := range []string{"wiped", "exported"} {
			require.Empty(t, ended(t, scenario, id, memscan.Quiet()), scenario)
		}
	})
}

// TestLeaksAreFound is the control of TestNothingLeft: sessions that end
// without one of the steps.
func TestLeaksAreFound(t *testing.T) {
	for _, scenario := range []string{"lane not wiped", "state on the heap"} {
		require.NotEmpty(t, ended(t, scenario, etype.AES256SHA1, memscan.Quiet()), scenario)
	}
}

// BenchmarkLeftBySignals counts the runs after which something was left, where
// signals and collections interrupt the messages all the time, and how many
// places it was in: the number for doc/THREATS.md.
func BenchmarkLeftBySignals(b *testing.B) {
	leaky, places := 0, 0
	for b.Loop() {
		o := &memscan.Options{Collectors: 2, Signal: syscall.SIGURG, Rate: 5000}
		if n := len(ended(b, "wiped", etype.AES256SHA1, o)); n > 0 {
			leaky++
			places += n
		}
	}
	b.ReportMetric(float64(leaky)/float64(b.N), "leaky/op")
	b.ReportMetric(float64(places)/float64(b.N), "places/op")
}
