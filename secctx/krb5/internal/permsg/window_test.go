package permsg

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
)

// step is a number that comes, relative to the first expected one, and what it
// must be called.
type step struct {
	seq  int64
	want gssapi.InformationCode
}

// TestWindow runs each row from several first numbers, those round the turn at
// 2^64 among them.
func TestWindow(t *testing.T) {
	const (
		ok  gssapi.InformationCode = 0
		dup                        = infoDuplicate
		old                        = infoOld
		uns                        = infoUnseq
		gap                        = infoGap
	)
	for _, row := range []struct {
		name             string
		replay, sequence bool
		steps            []step
	}{
		{"no service", false, false, []step{{0, ok}, {0, ok}, {99, ok}, {5, ok}, {-1, ok}}},
		{"in order", true, true, []step{{0, ok}, {1, ok}, {2, ok}, {3, ok}}},
		{"duplicates", true, true, []step{{0, ok}, {0, dup}, {1, ok}, {0, dup}, {1, dup}}},
		{"a gap filled late", true, true, []step{{0, ok}, {3, gap}, {1, uns}, {2, uns}, {1, dup}, {2, dup}, {3, dup}, {4, ok}}},
		{"replay only: order is of no interest", true, false, []step{{3, ok}, {1, ok}, {1, dup}, {0, ok}, {2, ok}, {2, dup}, {3, dup}}},
		{"sequence only: duplicates are late", false, true, []step{{0, ok}, {0, uns}, {2, gap}, {1, uns}, {1, uns}}},
		{"the window's edge", true, true, []step{{0, ok}, {64, gap}, {1, uns}, {0, old | uns}, {64, dup}}},
		{"the window's edge, seen", true, true, []step{{0, ok}, {63, gap}, {0, dup}, {64, ok}, {0, old | uns}}},
		{"too old, replay only", true, false, []step{{100, ok}, {36, old}, {37, ok}, {37, dup}}},
		{"too old, sequence only", false, true, []step{{100, gap}, {36, uns}, {36, uns}}},
		{"a jump of 63", true, true, []step{{0, ok}, {1, ok}, {64, gap}, {1, dup}, {2, uns}, {63, uns}}},
		{"a jump of exactly 64", true, true, []step{{0, ok}, {64, gap}, {63, uns}, {2, uns}, {1, uns}}},
		{"a jump of 65", true, true, []step{{0, ok}, {65, gap}, {64, uns}, {2, uns}, {1, old | uns}, {0, old | uns}}},
		{"a jump of 64 from a full window", true, true, append(inOrder(64), step{127, gap}, step{64, uns}, step{126, uns}, step{63, old | uns})},
		{"a jump of 64 numbers left out", true, true, append(inOrder(64), step{128, gap}, step{65, uns}, step{127, uns}, step{64, old | uns}, step{128, dup})},
		{"a great jump", true, true, []step{{0, ok}, {1 << 40, gap}, {1<<40 - 1, uns}, {1<<40 + 1, ok}, {0, old | uns}}},
		{"the greatest jumps", true, true, []step{{1 << 62, gap}, {0, old | uns}, {1<<62 + 1, ok}}},
		{"2^63-2 ahead", true, true, []step{{1<<63 - 2, gap}, {1<<63 - 3, uns}, {0, old | uns}, {1<<63 - 1, ok}}},
		{"2^63-1 ahead, the furthest", true, true, []step{{1<<63 - 1, gap}, {1<<63 - 2, uns}, {0, old | uns}}},
		{"2^63 is behind", true, true, []step{{-1 << 63, old | uns}, {0, ok}, {1<<62 + 5, gap}, {1, old | uns}}},
		{"the greatest jumps, replay only", true, false, []step{{1 << 62, ok}, {0, old}, {1<<63 - 1, ok}, {1 << 62, old}}},
		{"the greatest jumps, sequence only", false, true, []step{{1 << 62, gap}, {0, uns}, {1<<63 - 1, gap}}},
		{"before the first", true, true, []step{{-1, uns}, {-1, dup}, {-64, uns}, {-65, old | uns}, {0, ok}}},
	} {
		for _, base := range []uint64{0, 1, 1000, 1<<32 - 2, 1<<63 - 1, 1 << 63, ^uint64(0) - 64, ^uint64(0) - 1, ^uint64(0)} {
			w := window{next: base, replay: row.replay, sequence: row.sequence}
			for i, s := range row.steps {
				require.Equal(t, s.want, w.accept(base+uint64(s.seq)), "%s, from %d, step %d (%d)", row.name, base, i, s.seq)
			}
		}
	}
}

func inOrder(n int) []step {
	s := make([]step, n)
	for i := range s {
		s[i].seq = int64(i)
	}
	return s
}

// naive is the same rules over a set of everything ever seen.
type naive struct {
	next             uint64
	seen             map[uint64]bool
	replay, sequence bool
}

func (m *naive) accept(seq uint64) gssapi.InformationCode {
	if !m.replay && !m.sequence {
		return 0
	}
	var code gssapi.InformationCode
	back := m.next - seq // 1 is the highest seen
	switch late := back > 0 && back <= 1<<63; {
	case !late && seq == m.next:
	case !late:
		code = infoGap
	case m.replay && back > windowSize:
		code = infoOld | infoUnseq
	case m.replay && m.seen[seq]:
		code = infoDuplicate
	default:
		code = infoUnseq
	}
	if back == 0 || back > 1<<63 {
		m.next = seq + 1
	}
	m.seen[seq] = true
	if !m.sequence {
		code &^= infoGap | infoUnseq
	}
	return code
}

// shiftsBy63 is the window with the classic fault: a shift by 64 that leaves
// the map as it was, as the processor does where a language does not say. It is
// the control of TestWindowAgainstModel.
type shiftsBy63 struct{ window }

func (w *shiftsBy63) accept(seq uint64) gssapi.InformationCode {
	if ahead := seq - w.next; ahead == 63 {
		keep := w.seen
		code := w.window.accept(seq)
		w.seen = keep | 1
		return code
	}
	return w.window.accept(seq)
}

// differs plays random numbers to both, near the edges of the window and of
// 2^64, and returns how many answers differ.
func differs(seed uint64, w interface {
	accept(uint64) gssapi.InformationCode
}, m *naive) int {
	rng := rand.New(rand.NewPCG(seed, 1))
	n := 0
	for range 2000 {
		var d int64
		switch rng.IntN(8) {
		case 0:
			d = 0
		case 1:
			d = rng.Int64N(4)
		case 2:
			d = 61 + rng.Int64N(6)
		case 3:
			d = -rng.Int64N(68)
		case 4:
			d = -62 - rng.Int64N(6)
		case 5:
			d = rng.Int64N(1<<40) - 1<<39
		case 6:
			d = 1<<62 + rng.Int64N(1<<62) // the upper half of what is ahead
		case 7:
			d = math.MinInt64 + rng.Int64N(1<<62)
		}
		if seq := m.next + uint64(d); w.accept(seq) != m.accept(seq) {
			n++
		}
	}
	return n
}

func TestWindowAgainstModel(t *testing.T) {
	caught := 0
	for seed := range uint64(200) {
		base := []uint64{0, ^uint64(0) - 1000, 1 << 32}[seed%3]
		replay, sequence := seed%4 != 0, seed%4 != 1
		model := func() *naive {
			return &naive{next: base, seen: map[uint64]bool{}, replay: replay, sequence: sequence}
		}
		w := window{next: base, replay: replay, sequence: sequence}
		require.Zero(t, differs(seed, &w, model()), "seed %d", seed)
		caught += differs(seed, &shiftsBy63{window{next: base, replay: replay, sequence: sequence}}, model())
	}
	require.NotZero(t, caught, "the model does not notice a window that shifts wrongly")
}

// TestStatuses: the four statuses through real tokens, each with its message.
func TestStatuses(t *testing.T) {
	for _, id := range allIDs {
		a, b := pair(t, id)
		var toks [][]byte
		for i := range 70 {
			tok, err := a.Wrap([]byte{byte(i)}, true)
			require.NoError(t, err)
			toks = append(toks, tok)
		}
		for _, v := range []struct {
			i    int
			want []error
		}{
			{0, nil}, {2, []error{gssapi.InfoGapToken}}, {1, []error{gssapi.InfoUnseqToken}}, {1, []error{gssapi.InfoDuplicateToken}},
			{69, []error{gssapi.InfoGapToken}}, {3, []error{gssapi.InfoOldToken, gssapi.InfoUnseqToken}}, {5, []error{gssapi.InfoOldToken}},
			{6, []error{gssapi.InfoUnseqToken}},
		} {
			msg, conf, err := b.Unwrap(toks[v.i])
			require.Equal(t, []byte{byte(v.i)}, msg, "the message comes with its status")
			require.True(t, conf)
			if v.want == nil {
				require.NoError(t, err)
				continue
			}
			var status gssapi.InfoStatus
			require.ErrorAs(t, err, &status)
			var fatal gssapi.FatalStatus
			require.NotErrorAs(t, err, &fatal)
			for _, want := range v.want {
				require.ErrorIs(t, err, want)
			}
		}
		mic, err := b.GetMIC(nil)
		require.NoError(t, err)
		require.NoError(t, a.VerifyMIC(nil, mic))
		require.ErrorIs(t, a.VerifyMIC(nil, mic), gssapi.InfoDuplicateToken)
	}
}
