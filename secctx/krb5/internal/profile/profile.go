// Package profile reads krb5.conf: the grammar of MIT's profile library, which
// Heimdal shares in essence.
//
//	file     = line*
//	line     = blank | comment | section | relation | block | end | include
//	comment  = blanks ("#" | ";") anything            nowhere but on a line of its own
//	section  = "[" name "]" ["*"]
//	relation = tag ["*"] "=" value
//	block    = tag ["*"] "=" "{"                       or "{" first on the next line
//	end      = "}" ["*"] anything
//	include  = ("include" | "includedir") blanks path
//
// A value ends with its line, less blanks, or is quoted: then \n, \t and \b are
// what they are in C, and what follows the second quote is left aside. What
// stands before the first section is left aside, but for include lines. Sections
// and blocks of one name are one. A star ends what it stands at: later entries of
// that name do not count, neither in further files nor, as in newer versions of
// MIT's library, in the same file.
//
// An included file begins outside of any section and shares the including
// file's sections. includedir includes the files whose names consist of letters,
// digits, "-" and "_", or end in ".conf" and do not begin with a dot, in the
// order of their bytes.
//
// # Where this package differs from MIT's
//
// A line may be as long as it likes. A byte order mark, and blanks before the
// first section, are passed over. An includedir of a directory that does not
// exist includes nothing. A "module" line, which would load a library, and a NUL
// byte are errors. Includes and blocks within each other are bounded. Files count
// only if they are of the right users, see package ownfile.
package profile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/sealctx/sealctx/secctx/krb5/internal/ownfile"
)

// Limits of what one profile reads.
const (
	maxSize  = 4 << 20 // bytes in all files
	maxFiles = 1000
	maxDepth = 16 // includes within includes; a loop ends here
)

// ErrSyntax means that a file is not in the grammar, or includes too much. The
// error that wraps it names file and line.
var ErrSyntax = errors.New("krb5.conf: malformed")

// A Profile is what one or more files say. Safe for concurrent use.
type Profile struct{ files []*node }

// A Value is the value of a relation, and the place where it stands.
type Value struct {
	Text  string
	Where string // file:line
}

// A node is a relation, or a section or block of others.
type node struct {
	name     string
	value    Value
	section  bool
	final    bool
	children []*node
	blocks   map[string]*node // those of children that are blocks
	ended    map[string]bool  // names of final relations
}

// Load reads the files that exist, the first one's values first. Files of root,
// the effective user and the further owners count. The error wraps ErrSyntax,
// ownfile's errors, or fs.ErrNotExist if there is no file at all.
func Load(paths []string, owners ...int) (*Profile, error) {
	p := new(Profile)
	budget := &budget{size: maxSize, files: maxFiles}
	var missing error
	for _, path := range paths {
		l := &loader{owners: owners, budget: budget, root: new(node)}
		err := l.path(path)
		switch {
		case err == nil:
			p.files = append(p.files, l.root)
		case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrSyntax):
			missing = errors.Join(missing, err)
		default:
			return nil, err
		}
	}
	if p.files == nil {
		if missing == nil {
			missing = fs.ErrNotExist
		}
		return nil, missing
	}
	return p, nil
}

// Parse reads text as a file of that name. Files that it includes are not
// followed: include, which may be nil, gets them.
func Parse(name, text string, include func(path string, dir bool) error) (*Profile, error) {
	root := new(node)
	if include == nil {
		include = func(string, bool) error { return nil }
	}
	if err := parse(name, text, root, include); err != nil {
		return nil, err
	}
	return &Profile{[]*node{root}}, nil
}

// Values returns the values of all relations with a name, within the sections
// and blocks whose names go before it.
func (p *Profile) Values(names ...string) (values []Value) {
	tag := names[len(names)-1]
	for _, n := range p.find(names[:len(names)-1]) {
		final := n.final
		for _, c := range n.node.children {
			if c.name == tag && !c.section {
				values = append(values, c.value)
				final = final || c.final
			}
		}
		if final {
			break
		}
	}
	return values
}

// Value returns the first of Values.
func (p *Profile) Value(names ...string) (Value, bool) {
	if v := p.Values(names...); len(v) > 0 {
		return v[0], true
	}
	return Value{}, false
}

// Names returns the names of the blocks within a section or block, each once. If
// blocks is false it returns the names of the relations instead.
func (p *Profile) Names(blocks bool, names ...string) (all []string) {
	seen := map[string]bool{}
	for _, n := range p.find(names) {
		for _, c := range n.node.children {
			if c.section == blocks && !seen[c.name] {
				seen[c.name] = true
				all = append(all, c.name)
			}
		}
		if n.final {
			break
		}
	}
	return all
}

// A place is a section or block of one file; final if further files do not count.
type place struct {
	node  *node
	final bool
}

// find returns a section or block in each file that has it.
func (p *Profile) find(names []string) (places []place) {
	for _, n := range p.files {
		at := place{node: n}
		for _, name := range names {
			if at.node = at.node.blocks[name]; at.node == nil {
				break
			}
			at.final = at.final || at.node.final
		}
		if at.node != nil {
			places = append(places, at)
		}
	}
	return places
}

// block returns n's block of a name and makes it if it is new.
func (n *node) block(name string) *node {
	if b := n.blocks[name]; b != nil {
		return b
	}
	b := &node{name: name, section: true}
	n.children = append(n.children, b)
	if n.blocks == nil {
		n.blocks = map[string]*node{}
	}
	n.blocks[name] = b
	return b
}

// add adds a relation, unless one of that name was final.
func (n *node) add(name string, v Value, final bool) {
	if n.ended[name] {
		return
	}
	n.children = append(n.children, &node{name: name, value: v, final: final})
	if final {
		if n.ended == nil {
			n.ended = map[string]bool{}
		}
		n.ended[name] = true
	}
}

// A budget bounds what is read for one profile.
type budget struct{ size, files int }

// A loader reads one file and what it includes.
type loader struct {
	owners []int
	budget *budget
	root   *node
	depth  int
}

// path reads a file, or a directory as includedir does.
func (l *loader) path(path string) error {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return l.dir(path)
	}
	return l.file(path)
}

func (l *loader) file(path string) error {
	if l.depth >= maxDepth {
		return fmt.Errorf("%w: %s: more than %d includes within each other; they may go round in a circle", ErrSyntax, path, maxDepth)
	}
	if l.budget.files--; l.budget.files < 0 {
		return fmt.Errorf("%w: %s: more than %d files", ErrSyntax, path, maxFiles)
	}
	f, st, err := ownfile.Open(path, l.owners...)
	if err != nil {
		return err
	}
	defer f.Close()
	if st.Size() > int64(l.budget.size) {
		return fmt.Errorf("%w: %s: more than %d bytes in all", ErrSyntax, path, maxSize)
	}
	text, err := io.ReadAll(io.LimitReader(f, int64(l.budget.size)))
	if err != nil {
		return err
	}
	l.budget.size -= len(text)
	l.depth++
	defer func() { l.depth-- }()
	return parse(path, string(text), l.root, l.include)
}

func (l *loader) include(path string, dir bool) error {
	if dir {
		return l.dir(path)
	}
	return l.file(path)
}

// dir reads the files of a directory that have the right names.
func (l *loader) dir(path string) error {
	entries, err := os.ReadDir(path) // in order
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path + "/" + e.Name()
		if !validName(e.Name()) {
			continue
		}
		if st, err := os.Stat(name); err == nil && st.IsDir() {
			continue
		}
		if err := l.file(name); err != nil {
			return err
		}
	}
	return nil
}

// validName reports whether includedir includes a file.
func validName(name string) bool {
	if strings.HasPrefix(name, ".") {
		return false
	}
	return strings.HasSuffix(name, ".conf") || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}
