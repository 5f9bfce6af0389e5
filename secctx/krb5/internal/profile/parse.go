package profile

import (
	"fmt"
	"strings"
)

// blanks are C's white space.
const blanks = " \t\n\v\f\r"

// What the next line may be.
type state int

const (
	before  state = iota // the first section has not begun
	within               // in a section
	opening              // the last line announced a block
)

// A parser is in the middle of one file.
type parser struct {
	file    string
	line    int
	state   state
	root    *node
	current *node   // the section or block that relations go into
	above   []*node // those that it stands in
	depth   int     // of sections and blocks, those that are discarded included
	discard int     // the depth from which on entries are discarded, 0: none are
	include func(path string, dir bool) error
}

// parse reads one file into root.
func parse(file, text string, root *node, include func(path string, dir bool) error) error {
	p := &parser{file: file, root: root, current: root, include: include}
	text = strings.TrimPrefix(text, "\ufeff")
	for line := range strings.Lines(text) {
		p.line++
		if strings.IndexByte(line, 0) >= 0 {
			return p.errorf("a NUL byte: this is not a text in UTF-8")
		}
		if err := p.next(strings.TrimRight(line, "\r\n")); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) where() string { return fmt.Sprintf("%s:%d", p.file, p.line) }

func (p *parser) errorf(format string, args ...any) error {
	return fmt.Errorf("%w: %s: %w", ErrSyntax, p.where(), fmt.Errorf(format, args...))
}

func (p *parser) next(line string) error {
	if path, dir, ok := includeLine(line); ok {
		if err := p.include(path, dir); err != nil {
			return fmt.Errorf("%s: %w", p.where(), err)
		}
		return nil
	}
	if p.state == before && strings.HasPrefix(line, "module") && strings.IndexAny(line, blanks) == len("module") {
		return p.errorf("modules are not supported")
	}
	line = strings.Trim(line, blanks)
	switch p.state {
	case opening:
		if !strings.HasPrefix(line, "{") {
			return p.errorf("a line that ends in '=' announces a block: '{' must begin the next line")
		}
		p.state = within
		return nil
	case before:
		if !strings.HasPrefix(line, "[") {
			return nil
		}
		p.state = within
	}
	switch {
	case line == "" || line[0] == ';' || line[0] == '#':
		return nil
	case line[0] == '[':
		return p.section(line[1:])
	case line[0] == '}':
		return p.end(line[1:])
	}
	return p.relation(line)
}

// includeLine reports whether a line includes a file or directory. In a section
// a relation may be called include.
func includeLine(line string) (path string, dir, ok bool) {
	word, rest := line, ""
	if at := strings.IndexAny(line, blanks); at == 0 && !strings.Contains(line, "=") {
		return includeLine(strings.TrimLeft(line, blanks))
	} else if at > 0 {
		word, rest = line[:at], strings.Trim(line[at:], blanks)
	}
	return rest, word == "includedir", rest != "" && (word == "include" || word == "includedir")
}

func (p *parser) section(line string) error {
	if p.depth > 1 {
		return p.errorf("a section begins within a block: a '}' is missing above")
	}
	name, rest, ok := strings.Cut(line, "]")
	if !ok {
		return p.errorf("a section's name ends with ']'")
	}
	final := strings.HasPrefix(rest, "*")
	if rest = strings.TrimPrefix(rest, "*"); strings.Trim(rest, blanks) != "" {
		return p.errorf("%q stands behind a section's name", rest)
	}
	p.current = p.root.block(name)
	p.above = append(p.above[:0], p.root)
	p.depth, p.discard = 1, 0
	if p.current.final {
		p.discard = 1
	}
	p.current.final = p.current.final || final
	return nil
}

func (p *parser) end(rest string) error {
	if p.depth < 2 {
		return p.errorf("'}' ends no block")
	}
	if p.discard == 0 && strings.HasPrefix(rest, "*") {
		p.current.final = true
	}
	p.depth--
	if p.depth < p.discard {
		p.discard = 0
		// The block that ends here was entered before it was found to be final.
		p.up()
		return nil
	}
	if p.discard == 0 {
		p.up()
	}
	return nil
}

func (p *parser) up() {
	p.current = p.above[len(p.above)-1]
	p.above = p.above[:len(p.above)-1]
}

func (p *parser) relation(line string) error {
	tag, value, ok := strings.Cut(line, "=")
	tag = strings.TrimRight(tag, blanks)
	if !ok || tag == "" || strings.ContainsAny(tag, blanks) {
		return p.errorf("neither a comment, a section, nor a name of one word with '=' and its value")
	}
	tag, _, final := strings.Cut(tag, "*")
	value = strings.TrimLeft(value, blanks)
	if value == "" || value[0] == '{' && strings.Trim(value[1:], blanks) == "" {
		if value == "" {
			p.state = opening
		}
		return p.open(tag, final)
	}
	if value[0] == '"' {
		value = unquote(value[1:])
	}
	if p.discard == 0 {
		p.current.add(tag, Value{value, p.where()}, final)
	}
	return nil
}

// open begins a block.
func (p *parser) open(tag string, final bool) error {
	if p.depth >= maxBlocks {
		return p.errorf("more than %d blocks within each other", maxBlocks)
	}
	p.depth++
	if p.discard != 0 {
		return nil
	}
	p.above = append(p.above, p.current)
	p.current = p.current.block(tag)
	if p.current.final {
		p.discard = p.depth
	}
	p.current.final = p.current.final || final
	return nil
}

// maxBlocks bounds blocks within blocks. MIT's own settings have three.
const maxBlocks = 64

// unquote returns what stands before the closing quote.
func unquote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s) && s[i] != '"'; i++ {
		c := s[i]
		if c == '\\' && i+1 < len(s) {
			i++
			switch c = s[i]; c {
			case 'n':
				c = '\n'
			case 't':
				c = '\t'
			case 'b':
				c = '\b'
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}
