// Command coverage tells how many statements of the parsers a coverage profile
// has reached, and fails below a threshold in percent:
//
//	coverage PROFILE PERCENT
//
// It runs at the top of the module; coverage.sh makes the profile.
package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const module = "github.com/sealctx/sealctx/"

// parsers are the functions that turn bytes of others into something, or decide
// on them, by file.
var parsers = []struct{ file, functions string }{
	{"internal/token/format.go", "Append valid ValidFormat Parse ParseHeader read readLen8"},
	{"internal/token/pad.go", "paddedSize isPadded unpad"},
	{"internal/token/crypt.go", "CommitsTo SuiteOf Open open BodySize"},
	{"internal/suite/suite.go", "Known"},
	{"seal/open.go", "open authenticate genuine decrypt epochOf"},
	{"seal/authorize.go", "authorize"},
	{"seal/sealer.go", "Inspect"},
	{"seal/party.go", "Service String valid known validParty isName isParty fromWire"},
	{"keyring/record.go", "parseFixed mac authentic"},
	{"keyring/file.go", "parseFileName loadFile adopt"},
	{"keyring/register.go", "claim"},
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: coverage PROFILE PERCENT")
		os.Exit(2)
	}
	if err := check(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "coverage:", err)
		os.Exit(1)
	}
}

func check(path, percent string) error {
	least, err := strconv.ParseFloat(percent, 64)
	if err != nil {
		return err
	}
	blocks, err := readProfile(path)
	if err != nil {
		return err
	}
	reached, all := 0, 0
	for _, p := range parsers {
		found, err := find(p.file, strings.Fields(p.functions))
		if err != nil {
			return err
		}
		for _, f := range found {
			r, n := f.count(blocks)
			if n == 0 {
				return fmt.Errorf("%s: %s is not in the profile", p.file, f.name)
			}
			fmt.Printf("%-26s %-14s %3d of %3d\n", p.file, f.name, r, n)
			reached, all = reached+r, all+n
		}
	}
	got := 100 * float64(reached) / float64(all)
	fmt.Printf("%d of %d statements of the parsers: %.1f %%\n", reached, all, got)
	if got < least {
		return fmt.Errorf("that is less than %s %%", percent)
	}
	return nil
}

// A function is where one stands.
type function struct {
	file, name  string
	first, last int // lines
}

// find returns the named functions of a file. One that is not there is an
// error: it was renamed, and the list above was not.
func find(file string, names []string) ([]function, error) {
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, filepath.FromSlash(file), nil, 0)
	if err != nil {
		return nil, err
	}
	missing := slices.Clone(names)
	var found []function
	for _, decl := range parsed.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok || !slices.Contains(names, f.Name.Name) {
			continue
		}
		found = append(found, function{file, f.Name.Name, set.Position(f.Pos()).Line, set.Position(f.End()).Line})
		missing = slices.DeleteFunc(missing, func(name string) bool { return name == f.Name.Name })
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("%s has no %s", file, strings.Join(missing, ", "))
	}
	return found, nil
}

// count returns the statements of a function, and how many were reached.
func (f function) count(blocks map[block]state) (reached, all int) {
	for b, s := range blocks {
		if b.file != f.file || b.first < f.first || b.last > f.last {
			continue
		}
		all += s.statements
		if s.reached {
			reached += s.statements
		}
	}
	return reached, all
}

// A block is a run of statements in a profile.
type block struct {
	file        string
	place       string // as the profile has it, with columns
	first, last int
}

type state struct {
	statements int
	reached    bool
}

// readProfile reads a coverage profile, whose lines are
// file:line.column,line.column statements times.
func readProfile(path string) (map[block]state, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	blocks := map[block]state{}
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		if i == 0 {
			continue // mode:
		}
		file, rest, _ := strings.Cut(line, ":")
		var first, last, column, statements, times int
		if _, err := fmt.Sscanf(rest, "%d.%d,%d.%d %d %d", &first, &column, &last, &column, &statements, &times); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, line, err)
		}
		b := block{strings.TrimPrefix(file, module), rest[:strings.IndexByte(rest, ' ')], first, last}
		blocks[b] = state{statements, blocks[b].reached || times > 0}
	}
	if len(blocks) == 0 {
		return nil, errors.New("the profile is empty")
	}
	return blocks, nil
}
