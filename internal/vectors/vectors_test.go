package vectors

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

var dir = filepath.Join("../..", Dir)

// TestFiles holds that the checked-in vectors are what the command writes.
func TestFiles(t *testing.T) {
	made, err := Files()
	require.NoError(t, err)
	require.Empty(t, differences(t, made))

	// Control: one bit of one file, and one file too many, are noticed.
	const name = "gcm-size-0.txt"
	made[name] = bytes.Replace(made[name], []byte("token: 5"), []byte("token: 4"), 1)
	made["gcm-extra.txt"] = nil
	require.ElementsMatch(t, []string{name, "gcm-extra.txt"}, differences(t, made))
}

// differences returns the names of files that are not as made, are missing, or
// are too many.
func differences(t *testing.T, made map[string][]byte) (names []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	found := map[string]bool{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		name := filepath.Base(path)
		found[name] = true
		if want, ok := made[name]; !ok || !bytes.Equal(want, text) {
			names = append(names, name)
		}
	}
	for name := range made {
		if !found[name] {
			names = append(names, name)
		}
	}
	return names
}

func TestEveryClassInBothSuites(t *testing.T) {
	all, err := Read(dir)
	require.NoError(t, err)
	count := map[string]map[uint8]int{}
	for _, v := range all {
		if count[v.Expect] == nil {
			count[v.Expect] = map[uint8]int{}
		}
		count[v.Expect][v.Suite]++
	}
	classes := []string{Success, Malformed, UnknownEpoch, WrongSuite, Header, Body, Expired, Unauthorized, WrongFormat, Spent}
	require.Len(t, count, len(classes))
	for _, class := range classes {
		require.Positive(t, count[class][GCM], class)
		require.Equal(t, count[class][GCM], count[class][ChaCha], class)
	}
}

func TestReadRefuses(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(dir, "gcm-size-1.txt"))
	require.NoError(t, err)
	_, err = Parse("whole", text)
	require.NoError(t, err)
	first, rest, _ := bytes.Cut(text, []byte("\n"))
	second, rest, _ := bytes.Cut(rest, []byte("\n"))
	line := func(lines ...[]byte) []byte { return append(bytes.Join(lines, []byte("\n")), rest...) }
	for name, text := range map[string][]byte{
		"unknown field": append([]byte("colour: red\n"), text...),
		"twice":         line(first, first, second, nil),
		"another order": line(second, first, nil),
		"no newline":    text[:len(text)-1],
		"upper case":    bytes.ToUpper(text),
		"no hex":        append(bytes.TrimSuffix(text, []byte("\n")), "zz\n"...),
		"no number":     bytes.Replace(text, []byte("suite: 1"), []byte("suite: x"), 1),
		"too large":     bytes.Replace(text, []byte("suite: 1"), []byte("suite: 257"), 1),
	} {
		_, err := Parse(name, text)
		require.Error(t, err, name)
	}
	_, err = Read(t.TempDir())
	require.ErrorContains(t, err, "none")
}

func TestPad(t *testing.T) {
	require.Len(t, Pad(nil), 512)
	require.Len(t, Pad(make([]byte, 511)), 512)
	require.Len(t, Pad(make([]byte, 512)), 768)
	require.Len(t, Pad(make([]byte, 49151)), 49152)
	require.Nil(t, Pad(make([]byte, 49152)))
}
