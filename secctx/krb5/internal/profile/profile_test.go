package profile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5/internal/ownfile"
)

// texts are the values' texts.
func texts(values []Value) (all []string) {
	for _, v := range values {
		all = append(all, v.Text)
	}
	return all
}

// dump writes a profile as lines of name.name = value.
func dump(p *Profile) (lines []string) {
	var walk func(names []string)
	walk = func(names []string) {
		for _, name := range p.Names(false, names...) {
			path := append(append([]string{}, names...), name)
			for _, v := range p.Values(path...) {
				lines = append(lines, strings.Join(path, ".")+"="+v.Text)
			}
		}
		for _, name := range p.Names(true, names...) {
			walk(append(append([]string{}, names...), name))
		}
	}
	walk(nil)
	return lines
}

// TestGrammar: what MIT's library reads out of a text, or that it refuses it.
// interop's TestConfigurations asks the library itself about some of them.
func TestGrammar(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string // nil: refused
	}{
		"plain":                    {"[a]\nx = y\n", []string{"a.x=y"}},
		"no newline at the end":    {"[a]\nx = y", []string{"a.x=y"}},
		"CRLF":                     {"[a]\r\nx = y\r\n b = {\r\n z = 1\r\n }\r\n", []string{"a.x=y", "a.b.z=1"}},
		"byte order mark":          {"\ufeff[a]\nx = y\n", []string{"a.x=y"}},
		"empty":                    {"", []string{}},
		"text before":              {"anything\nx = 1\n}\n[a]\nx = y\n", []string{"a.x=y"}},
		"comments":                 {"# c\n[a]\n; c\n  # [b]\n\t;x\nx = y\n", []string{"a.x=y"}},
		"no comment":               {"[a]\nx = y # z\nw = ;\n", []string{"a.x=y # z", "a.w=;"}},
		"white space":              {"[a] \t\n\tx\t=\ty z  \nw=1\n", []string{"a.x=y z", "a.w=1"}},
		"indented section":         {" [a]\nx = y\n", []string{"a.x=y"}},
		"sections repeated":        {"[a]\nx = 1\n[b]\nx = 2\n[a]\nx = 3\ny = 4\n", []string{"a.x=1", "a.x=3", "a.y=4", "b.x=2"}},
		"block":                    {"[a]\nb = {\n x = 1\n x = 2\n}\nx = 3\n", []string{"a.x=3", "a.b.x=1", "a.b.x=2"}},
		"blocks repeated":          {"[a]\nb = {\n x = 1\n}\nb = {\n x = 2\n}\n", []string{"a.b.x=1", "a.b.x=2"}},
		"blocks within":            {"[a]\nb = {\n c = {\n  d = {\n   x = 1\n  }\n }\n y = 2\n}\n", []string{"a.b.y=2", "a.b.c.d.x=1"}},
		"block begins below":       {"[a]\nb =\n  {\n x = 1\n}\n", []string{"a.b.x=1"}},
		"text behind the brace":    {"[a]\nb = {  \n x = 1\n} ; end\ny = 2\n", []string{"a.y=2", "a.b.x=1"}},
		"block in one line":        {"[a]\nb = { x = 1 }\n", []string{"a.b={ x = 1 }"}},
		"never ended":              {"[a]\nb = {\n x = 1\n", []string{"a.b.x=1"}},
		"block and relation":       {"[a]\nb = 1\nb = {\n x = 2\n}\n", []string{"a.b=1", "a.b.x=2"}},
		"dots and signs":           {"[a.b]\nx-1.y_2/z:k = v\n", []string{"a.b.x-1.y_2/z:k=v"}},
		"equals signs":             {"[a]\nx = y=z\nw == 1\n", []string{"a.x=y=z", "a.w== 1"}},
		"quotes":                   {`[a]` + "\n" + `x = "a b  " c` + "\n" + `y = "\t\n\b\"\\\q"` + "\n" + `z = "open`, []string{"a.x=a b  ", "a.y=\t\n\b\"\\q", "a.z=open"}},
		"quote within":             {"[a]\nx = a\"b\"\n", []string{`a.x=a"b"`}},
		"empty quotes":             {"[a]\nx = \"\"\n", []string{"a.x="}},
		"final relation":           {"[a]\nx = 1\nx* = 2\nx = 3\ny = 4\n", []string{"a.x=1", "a.x=2", "a.y=4"}},
		"final section":            {"[a]*\nx = 1\n[b]\nx = 2\n[a]\nx = 3\nb = {\n x = 4\n}\n[b]\ny = 5\n", []string{"a.x=1", "b.x=2", "b.y=5"}},
		"final block":              {"[a]\nb* = {\n x = 1\n}\nb = {\n x = 2\n c = {\n y = 3\n }\n}\nz = 4\n", []string{"a.z=4", "a.b.x=1"}},
		"final by its end":         {"[a]\nb = {\n x = 1\n}*\nb = {\n x = 2\n}\nz = 4\n", []string{"a.z=4", "a.b.x=1"}},
		"not ASCII":                {"[ä]\nö = ü\n", []string{"ä.ö=ü"}},
		"very long line":           {"[a]\nx = " + strings.Repeat("y", 100_000) + "\n", []string{"a.x=" + strings.Repeat("y", 100_000)}},
		"include is a name too":    {"[a]\n include = 1\n b = {\n  includedir = 2\n }\n", []string{"a.include=1", "a.b.includedir=2"}},
		"module behind a section":  {"[a]\nmodule = x\n", []string{"a.module=x"}},
		"section in a block":       {"[a]\nb = {\n[c]\n}\n", nil},
		"section not ended":        {"[a\nx = y\n", nil},
		"text behind a section":    {"[a] b\n", nil},
		"no equals sign":           {"[a]\nx\n", nil},
		"no name":                  {"[a]\n = x\n", nil},
		"name of two words":        {"[a]\nx y = z\n", nil},
		"brace too many":           {"[a]\n}\n", nil},
		"second brace too many":    {"[a]\nb = {\n}\n}\n", nil},
		"empty value":              {"[a]\nx =\ny = z\n", nil},
		"blank line for the brace": {"[a]\nx =\n\n{\n}\n", nil},
		"module":                   {"module /x.so:y\n[a]\n", nil},
		"NUL":                      {"[a]\nx = \x00\n", nil},
		"UTF-16":                   {"[\x00a\x00]\x00\n\x00", nil},
		"too many blocks":          {"[a]\n" + strings.Repeat("b = {\n", maxBlocks+1), nil},
		"as many blocks as there may be": {"[a]\n" + strings.Repeat("b = {\n", maxBlocks-1) + "x = 1\n",
			[]string{"a" + strings.Repeat(".b", maxBlocks-1) + ".x=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Parse("krb5.conf", c.text, nil)
			if c.want == nil {
				require.ErrorIs(t, err, ErrSyntax)
				require.Regexp(t, `krb5\.conf:\d+: `, err.Error())
				return
			}
			require.NoError(t, err)
			require.ElementsMatch(t, c.want, dump(p))
		})
	}
}

// TestWhere: errors and values say their line.
func TestWhere(t *testing.T) {
	p, err := Parse("f", "# c\n[a]\n\nx = y\n", nil)
	require.NoError(t, err)
	v, ok := p.Value("a", "x")
	require.True(t, ok)
	require.Equal(t, Value{"y", "f:4"}, v)
	_, ok = p.Value("a", "none")
	require.False(t, ok)
	_, err = Parse("f", "# c\n[a]\n\nx y\n", nil)
	require.ErrorContains(t, err, "f:4: ")
}

// write writes files into a directory and returns it.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o644))
	}
	return dir
}

func load(t *testing.T, dir string, names ...string) (*Profile, error) {
	t.Helper()
	for i := range names {
		names[i] = filepath.Join(dir, names[i])
	}
	return Load(names)
}

// TestInclude: what is included stands in sections of its own, in the order of
// the lines; a section that was begun goes on behind it.
func TestInclude(t *testing.T) {
	dir := write(t, map[string]string{
		"krb5.conf":     "include DIR/first\n[a]\nx = 1\ninclude DIR/second \nx = 3\nincludedir DIR/d\nx = 9\n",
		"first":         "text\n[a]\nx = 0\n",
		"second":        "x = lost, for it is in no section\n[a]\nx = 2\n[b]\ny = 1\nz = {\n",
		"d/10":          "[a]\nx = 4\n",
		"d/9-first_":    "[a]\nx = 5\n",
		"d/a.conf":      "[a]\nx = 6\n",
		"d/A b.conf":    "[a]\nx = 5.5\n",
		"d/.hid.conf":   "[a]\nx = hidden\n",
		"d/a.conf~":     "[a]\nx = backup\n",
		"d/b.rpmsave":   "[a]\nx = saved\n",
		"d/dir/ignored": "[a]\nx = below\n",
	})
	require.NoError(t, os.Symlink("../second", filepath.Join(dir, "d", "zlink")))
	p, err := load(t, dir, "krb5.conf")
	require.NoError(t, err)
	require.Equal(t, []string{"0", "1", "2", "3", "4", "5", "5.5", "6", "2", "9"}, texts(p.Values("a", "x")))
	require.Equal(t, []string{"1", "1"}, texts(p.Values("b", "y")))

	// The control: each line alone.
	for line, want := range map[string][]string{
		"include DIR/first\n": {"0"}, "  include\tDIR/first\r\n": {"0"}, "includedir DIR/d\n": {"4", "5", "5.5", "6", "2"},
		"includedir DIR/none\n": nil, "# include DIR/first\n": nil, "xinclude DIR/first\n": nil,
	} {
		p, err := load(t, write(t, map[string]string{"c": strings.ReplaceAll(line, "DIR", dir)}), "c")
		require.NoError(t, err, line)
		require.Equal(t, want, texts(p.Values("a", "x")), line)
	}
}

// TestIncludeFails: what cannot be included is an error that says where it is
// asked for.
func TestIncludeFails(t *testing.T) {
	endless := map[string]string{"krb5.conf": "[a]\nx = 1\n\ninclude DIR/other\n", "other": "include DIR/krb5.conf\n"}
	many := map[string]string{"krb5.conf": "includedir DIR/d\nincludedir DIR/d\n"}
	for i := range maxFiles/2 + 1 {
		many[fmt.Sprintf("d/%d", i)] = ""
	}
	for name, c := range map[string]struct {
		files map[string]string
		err   error
		words string
	}{
		"missing":         {map[string]string{"krb5.conf": "[a]\ninclude DIR/none\n"}, os.ErrNotExist, "krb5.conf:2: "},
		"malformed":       {map[string]string{"krb5.conf": "include DIR/bad\n", "bad": "[a]\nx\n"}, ErrSyntax, "bad:2: "},
		"itself":          {map[string]string{"krb5.conf": "include DIR/krb5.conf\n"}, ErrSyntax, "circle"},
		"one another":     {endless, ErrSyntax, "krb5.conf:4: "},
		"its directory":   {map[string]string{"krb5.conf": "includedir DIR\n", "a": ""}, ErrSyntax, "circle"},
		"too many":        {many, ErrSyntax, fmt.Sprint(maxFiles)},
		"too long":        {map[string]string{"krb5.conf": "[a]\ninclude DIR/a\ninclude DIR/a\n", "a": strings.Repeat("#\n", maxSize/4)}, ErrSyntax, fmt.Sprint(maxSize)},
		"a directory":     {map[string]string{"krb5.conf": "include DIR/d\n", "d/a": ""}, ownfile.ErrKind, "krb5.conf:1: "},
		"writable":        {map[string]string{"krb5.conf": "[a]\ninclude DIR/open\n", "open": ""}, ownfile.ErrUntrusted, "krb5.conf:2: "},
		"writable in dir": {map[string]string{"krb5.conf": "[a]\nincludedir DIR/d\n", "d/open": ""}, ownfile.ErrUntrusted, "krb5.conf:2: "},
	} {
		t.Run(name, func(t *testing.T) {
			dir := write(t, c.files)
			for _, open := range []string{"open", "d/open"} {
				if err := os.Chmod(filepath.Join(dir, open), 0o666); err != nil {
					require.ErrorIs(t, err, os.ErrNotExist)
				}
			}
			_, err := load(t, dir, "krb5.conf")
			require.ErrorIs(t, err, c.err)
			require.ErrorContains(t, err, c.words)
		})
	}
}

// TestFiles: the first file's values go first, a star ends what further files
// say, and files that do not exist are passed over unless all are.
func TestFiles(t *testing.T) {
	dir := write(t, map[string]string{
		"one": "[a]\nx = 1\n[b]*\nx = 1\n[c]\nr* = {\n k = 1\n}\ns = {\n k = 1\n}\n[d]\nx* = 1\ny = 1\n",
		"two": "[a]\nx = 2\n[b]\nx = 2\n[c]\nr = {\n k = 2\n}\ns = {\n k = 2\n}\n[d]\nx = 2\ny = 2\n",
	})
	p, err := load(t, dir, "none", "one", "two")
	require.NoError(t, err)
	for path, want := range map[string][]string{
		"a x": {"1", "2"}, "b x": {"1"}, "c r k": {"1"}, "c s k": {"1", "2"}, "d x": {"1"}, "d y": {"1", "2"},
	} {
		require.Equal(t, want, texts(p.Values(strings.Fields(path)...)), path)
	}
	require.Equal(t, []string{"r", "s"}, p.Names(true, "c"))
	p, err = load(t, dir, "two", "one")
	require.NoError(t, err)
	require.Equal(t, []string{"2", "1"}, texts(p.Values("b", "x")))
	_, err = load(t, dir, "none", "none2")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Load(nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bad"), []byte("[a\n"), 0o644))
	_, err = load(t, dir, "one", "bad")
	require.ErrorIs(t, err, ErrSyntax)

	// A directory is read as includedir reads it.
	p, err = load(t, write(t, map[string]string{"d/a": "[a]\nx = 1\n", "d/b~": "[a]\nx = 2\n"}), "d")
	require.NoError(t, err)
	require.Equal(t, []string{"1"}, texts(p.Values("a", "x")))
}

// TestStranger: a file of another user does not count unless that user was named.
func TestStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("gives files to another user, which takes root")
	}
	const stranger = 64991
	for _, file := range []string{"krb5.conf", "inc", "d/x"} {
		dir := write(t, map[string]string{"krb5.conf": "include DIR/inc\nincludedir DIR/d\n", "inc": "", "d/x": ""})
		path := filepath.Join(dir, "krb5.conf")
		_, err := Load([]string{path})
		require.NoError(t, err, "the control")
		require.NoError(t, os.Chown(filepath.Join(dir, file), stranger, stranger))
		_, err = Load([]string{path})
		require.ErrorIs(t, err, ownfile.ErrUntrusted, file)
		require.ErrorContains(t, err, filepath.Join(dir, file))
		_, err = Load([]string{path}, stranger)
		require.NoError(t, err)
	}
}
