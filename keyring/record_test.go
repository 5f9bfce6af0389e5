package keyring

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/suite"
)

func someFixed() fixed {
	return fixed{
		suite: suite.ChaCha20Poly1305, id: [16]byte{1, 2}, boot: [16]byte{3, 4}, dev: 5, ino: 6,
		birth: 7 * time.Hour, seq: 8, outstanding: 9, age: 10 * time.Minute, maxLifetime: 11 * time.Minute,
	}
}

func TestRecordRoundTrip(t *testing.T) {
	f, b := someFixed(), make([]byte, recordSize)
	f.marshal(b)
	require.Equal(t, recordMagic, string(b[:8]))
	require.Equal(t, make([]byte, recordSize-fixedSize), b[fixedSize:], "marshal keeps to its part")
	got, err := parseFixed(b)
	require.NoError(t, err)
	require.Equal(t, &f, got)
	require.Equal(t, 18, f.capacity())
	require.Equal(t, pageSize+8*18, f.fileSize())
}

func TestRecordRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*fixed, []byte){
		"suite 0":          func(f *fixed, _ []byte) { f.suite = 0 },
		"suite 3":          func(f *fixed, _ []byte) { f.suite = 3 },
		"no slots":         func(f *fixed, _ []byte) { f.outstanding = 0 },
		"too many slots":   func(f *fixed, _ []byte) { f.outstanding = maxCapacity + 1 },
		"huge slots":       func(f *fixed, _ []byte) { f.outstanding = math.MaxUint32 },
		"negative birth":   func(f *fixed, _ []byte) { f.birth = -1 },
		"far birth":        func(f *fixed, _ []byte) { f.birth = math.MaxInt64/2 + 1 },
		"short age":        func(f *fixed, _ []byte) { f.age = time.Second - 1 },
		"long age":         func(f *fixed, _ []byte) { f.age = maxAge + 1 },
		"negative age":     func(f *fixed, _ []byte) { f.age = math.MinInt64 },
		"short lifetime":   func(f *fixed, _ []byte) { f.maxLifetime = time.Second - 1 },
		"long lifetime":    func(f *fixed, _ []byte) { f.maxLifetime = longestLifetime + 1 },
		"magic":            func(_ *fixed, b []byte) { b[3] ^= 1 },
		"format":           func(_ *fixed, b []byte) { b[8]++ },
		"padding not zero": func(_ *fixed, b []byte) { b[79] = 1 },
		"zeroed":           func(_ *fixed, b []byte) { clear(b) },
	} {
		f, b := someFixed(), make([]byte, recordSize)
		spoil(&f, b)
		f.marshal(b)
		spoil(new(fixed), b)
		_, err := parseFixed(b)
		require.ErrorIs(t, err, ErrDamaged, name)
	}
	f, b := someFixed(), make([]byte, recordSize)
	f.marshal(b)
	for n := range recordSize {
		_, err := parseFixed(b[:n])
		require.ErrorIs(t, err, ErrDamaged, "%d bytes", n)
	}
}

func TestFileName(t *testing.T) {
	for _, seq := range []uint64{0, 1, 0xabc, maxSeq} {
		got, ok := parseFileName(fileName(seq))
		require.True(t, ok)
		require.Equal(t, seq, got)
	}
	for _, name := range []string{"", "epoch-", "epoch-1", "epoch-000000000000000A", "epoch-00000000000000001", "epoch-000000000000000g", "Epoch-0000000000000001", fileName(maxSeq + 1), fileName(math.MaxUint64), ".epoch-0000000000000001"} {
		_, ok := parseFileName(name)
		require.False(t, ok, name)
	}
}

func TestOptions(t *testing.T) {
	full, err := (*Options)(nil).withDefaults()
	require.NoError(t, err)
	require.Equal(t, Options{Suite: suite.Default(), Capacity: defaultCapacity, Age: defaultAge, MaxLifetime: defaultMaxLifetime}, full)
	_, err = full.withDefaults()
	require.NoError(t, err)
	for name, o := range map[string]Options{
		"suite":          {Suite: 3},
		"few":            {Capacity: -1},
		"many":           {Capacity: maxCapacity + 1},
		"short age":      {Age: time.Second - 1},
		"long age":       {Age: maxAge + 1},
		"short lifetime": {MaxLifetime: -time.Second},
		"long lifetime":  {MaxLifetime: longestLifetime + 1},
	} {
		_, err := Open(shmDir(t, false), &o)
		require.Error(t, err, name)
		_, err = New(&o)
		require.Error(t, err, name)
	}
	require.LessOrEqual(t, int64((maxAge+longestLifetime)/time.Second)+1, int64(maxExpiry), "the 22 bits of a word's expiry")
	require.Equal(t, "AES-256-GCM", suite.AES256GCM.String())
	require.Equal(t, "ChaCha20-Poly1305", suite.ChaCha20Poly1305.String())
	require.Equal(t, "suite 9", suite.Suite(9).String())
}

type recorder string

func (r *recorder) Errorf(format string, args ...any) { *r += recorder(fmt.Sprintf(format, args...)) }

// No way of printing an epoch or a ring shows a byte of the host key, and
// neither can be compared with ==.
func TestPrintsNoKey(t *testing.T) {
	for name, r := range map[string]*Ring{"Open": openRing(t, shmDir(t, false), nil), "New": newRingT(t, nil)} {
		e := current(t, r)
		for i := range e.record.key() { // a key that is easy to see
			e.record.key()[i] = "hush"[i%4]
		}
		leaks := func(text string) bool {
			text = strings.ToLower(text)
			for _, shape := range []string{"hushhush", "68757368", "68 75 73 68", "104 117 115 104", "104, 117, 115", "0x68, 0x75, 0x73, 0x68", "ahvzac"} {
				if strings.Contains(text, shape) {
					return true
				}
			}
			return false
		}
		for _, v := range []any{e, r, struct{ e *Epoch }{e}, map[string]any{"ring": r}, e.back, e.record} {
			for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "% x", "%d", "%q"} {
				require.False(t, leaks(fmt.Sprintf(format, v)), "%s: %T by %s", name, v, format)
			}
			var diff recorder // follows every pointer
			assert.Equal(&diff, v, nil)
			require.NotEmpty(t, diff)
			require.False(t, leaks(string(diff)), "%s: %T by testify", name, v)
			b, _ := json.Marshal(v)
			require.False(t, leaks(string(b)), "%s: %T by json", name, v)
		}
		for _, format := range []string{"%v", "%#v", "%s", "%x", "% x"} {
			require.True(t, leaks(fmt.Sprintf(format, e.record.key())), "the control: %s", format)
		}
	}
	require.False(t, reflect.TypeFor[Epoch]().Comparable())
	require.False(t, reflect.TypeFor[Ring]().Comparable())
	require.True(t, reflect.TypeOf(Slot{}).Comparable(), "the control")
}
