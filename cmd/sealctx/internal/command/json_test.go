package command

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
)

// A field is a row of doc/json.md.
type field struct {
	kind   string
	always bool
}

// schemas are the fields of doc/json.md by section, each by its path.
func schemas(t *testing.T) map[string]map[string]field {
	t.Helper()
	text, err := os.ReadFile(root + "/doc/json.md")
	require.NoError(t, err)
	all := map[string]map[string]field{}
	for _, section := range strings.Split(string(text), "\n## ")[1:] {
		name, body, _ := strings.Cut(section, "\n")
		all[name] = map[string]field{}
		for _, row := range regexp.MustCompile(`(?m)^\| ([a-z_.\[\]]+) \| ([a-z ]+) \| ([^|]+) \| [^|]+ \|$`).FindAllStringSubmatch(body, -1) {
			if row[1] != "field" {
				all[name][row[1]] = field{row[2], row[3] == "always"}
			}
		}
		require.NotEmpty(t, all[name], name)
	}
	return all
}

// A reading compares an object with a schema, and notes which fields it has.
type reading struct {
	schema map[string]field
	seen   map[string]bool
	faults []string
}

func (r *reading) read(path string, v any) {
	if path != "" {
		r.seen[path] = true
		f, ok := r.schema[path]
		switch {
		case !ok:
			r.faults = append(r.faults, path+" is not documented")
			return
		case !slices.Contains(strings.Split(f.kind, " or "), kindOf(v, f.kind)):
			r.faults = append(r.faults, path+" is "+kindOf(v, f.kind)+" and not "+f.kind)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		prefix := path
		if prefix != "" {
			prefix += "."
		}
		for name, f := range r.schema {
			rest, below := strings.CutPrefix(name, prefix)
			if _, has := v[rest]; below && f.always && !has && !strings.ContainsAny(rest, ".[") {
				r.faults = append(r.faults, name+" is not there")
			}
		}
		for name, value := range v {
			r.read(prefix+name, value)
		}
	case []any:
		for _, item := range v {
			if _, ok := item.(map[string]any); ok {
				r.readItem(path+"[]", item)
			} else {
				r.read(path+"[]", item)
			}
		}
	}
}

// readItem reads an object of a list, which has no row of its own.
func (r *reading) readItem(path string, v any) {
	r.schema[path] = field{kind: "object"}
	r.read(path, v)
	delete(r.schema, path)
	delete(r.seen, path)
}

// kindOf is a value's type in the words of doc/json.md. A whole number counts as a number
// where one is wanted.
func kindOf(v any, want string) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case json.Number:
		if _, err := strconv.ParseInt(v.String(), 10, 64); err == nil && want != "number" {
			return "integer"
		}
		return "number"
	case []any:
		return "array"
	}
	return "object"
}

// run runs a command in this process.
func run(args ...string) (status int, out, errs string) {
	var o, e bytes.Buffer
	status = Main(args, strings.NewReader(""), &o, &e)
	return status, o.String(), e.String()
}

// TestJSON compares what each command prints with doc/json.md, in both directions: each
// field that is printed is documented, and each that is documented is printed by one of
// these commands.
func TestJSON(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-test-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Setenv("SEALCTX_DIR", filepath.Join(dir, "keys"))
	t.Setenv(agentVariable, "")
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		return path
	}
	host, err := seal.OpenHost(nil)
	require.NoError(t, err)
	defer host.Close()
	r, err := host.Reserve(seal.Request{Format: "a/format"})
	require.NoError(t, err)
	sealed, err := r.Seal([]byte("a plain token"))
	require.NoError(t, err)
	token, noToken, away := write("token", sealed), write("none", []byte("1")), filepath.Join(dir, "away")
	policy := write("policy", []byte("service printing is user 4712\nallow user 0 to service printing\nimport user 0 from user 4712\n"))
	bad := write("bad", []byte("permit everyone\n"))

	all := schemas(t)
	seen := map[string]map[string]bool{}
	for _, args := range []string{
		"version",
		"keyring status", "keyring status --agent " + away,
		"token inspect " + token, "token inspect --header " + token, "token inspect " + noToken, "token inspect --agent " + away + " " + token,
		"doctor", "doctor --agent " + away, "doctor --process " + strconv.Itoa(os.Getpid()), "doctor --process 999999999",
		"policy check " + policy, "policy check " + bad, "policy check " + away,
		"policy explain " + policy + " 0", "policy explain " + policy + " 65534", "policy explain " + policy + " nobody-of-that-name", "policy explain " + bad + " 0",
		"keyring rotate", "keyring rotate --agent " + away,
		"keyring retire --all", "keyring retire 0123456789", "keyring retire --all --agent " + away,
	} {
		t.Run(args, func(t *testing.T) {
			words := strings.Fields(args)
			status, out, errs := run(append(words, "--json")...)
			require.NotEqual(t, exitUsage, status, errs)
			decoder := json.NewDecoder(strings.NewReader(out))
			decoder.UseNumber()
			var v map[string]any
			require.NoError(t, decoder.Decode(&v), out)
			require.False(t, decoder.More(), "more than one object")
			require.Equal(t, json.Number("1"), v["schema"])
			command, _ := v["command"].(string)
			require.True(t, strings.HasPrefix(args, command), command)
			got := check(all, command, v)
			require.Empty(t, got.faults, out)
			if status == exitFailed && v["faults"] == nil && v["level"] == nil {
				require.NotEmpty(t, v["error"])
			}
			if seen[command] == nil {
				seen[command] = map[string]bool{}
			}
			maps.Copy(seen[command], got.seen)

			// The control: the same object is no other command's.
			for other := range all {
				if _, always := seen[other]; always && other != command {
					require.NotEmpty(t, check(all, other, v).faults, "as one of %s", other)
				}
			}
		})
	}
	// The binary of a test knows neither its commit nor what it is built of.
	var out bytes.Buffer
	require.NoError(t, printAll(&out, &debug.BuildInfo{
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "0123"}},
		Deps:     []*debug.Module{{Path: "example.com/a", Version: "v1.0.0"}, {Path: "example.com/b", Replace: &debug.Module{Path: "../b"}}},
	}))
	var v map[string]any
	decoder := json.NewDecoder(&out)
	decoder.UseNumber()
	require.NoError(t, decoder.Decode(&v))
	got := check(all, "version", v)
	require.Empty(t, got.faults)
	maps.Copy(seen["version"], got.seen)

	for section, fields := range all {
		for name := range fields {
			switch printed := seen[section]; {
			case printed == nil: // of several commands
				found := slices.ContainsFunc(slices.Collect(maps.Values(seen)), func(m map[string]bool) bool { return m[name] })
				require.True(t, found, "%s: %s is documented, and no command prints it", section, name)
			default:
				require.True(t, printed[name], "%s: %s is documented, and is not printed", section, name)
			}
		}
	}
}

// printAll prints a build as sealctx version --json does.
func printAll(w io.Writer, info *debug.BuildInfo) error {
	b, err := buildOf(info)
	if err != nil {
		return err
	}
	return asJSON(w, b)
}

// check reads an object as one of a command, with the fields of several commands.
func check(all map[string]map[string]field, command string, v map[string]any) *reading {
	schema := maps.Clone(all[command])
	if schema == nil {
		schema = map[string]field{}
	}
	maps.Copy(schema, all["Every command"])
	if command != "version" && !strings.HasPrefix(command, "policy") {
		maps.Copy(schema, all["The holder of the keys"])
	}
	r := &reading{schema: schema, seen: map[string]bool{}}
	r.read("", v)
	return r
}

// The comparison finds what is wrong with an object.
func TestJSONControl(t *testing.T) {
	all := schemas(t)
	good := func() map[string]any {
		return map[string]any{"schema": json.Number("1"), "command": "keyring retire", "retired": []any{
			map[string]any{"id": "00", "suite": "AES-256-GCM", "outstanding": json.Number("1")},
		}}
	}
	require.Empty(t, check(all, "keyring retire", good()).faults)
	for want, spoil := range map[string]func(v map[string]any){
		"retired is not there":                            func(v map[string]any) { delete(v, "retired") },
		"extra is not documented":                         func(v map[string]any) { v["extra"] = true },
		"schema is string and not integer":                func(v map[string]any) { v["schema"] = "1" },
		"retired[].id is not there":                       func(v map[string]any) { delete(v["retired"].([]any)[0].(map[string]any), "id") },
		"retired[].outstanding is number and not integer": func(v map[string]any) { v["retired"].([]any)[0].(map[string]any)["outstanding"] = json.Number("1.5") },
	} {
		v := good()
		spoil(v)
		require.Contains(t, check(all, "keyring retire", v).faults, want)
	}
}

// Each command that reports has --json.
func TestReportsHaveJSON(t *testing.T) {
	all := schemas(t)
	for section := range all {
		if section == "Every command" || section == "The holder of the keys" {
			continue
		}
		_, help, _ := run(append(strings.Fields(section), "--help")...)
		require.Contains(t, help, "--json", section)
	}
	require.Len(t, all, 10)
}

// The document has the words of each state that a token can have.
func TestJSONStates(t *testing.T) {
	text, err := os.ReadFile(root + "/doc/json.md")
	require.NoError(t, err)
	_, row, found := strings.Cut(string(text), "\n| state |")
	require.True(t, found)
	row, _, _ = strings.Cut(row, "\n")
	for _, state := range []seal.State{seal.Outstanding, seal.Gone, seal.Expired} {
		require.Contains(t, row, strconv.Quote(state.String()))
	}
	require.Equal(t, 6, strings.Count(row, `"`), "words that no state has")
}
