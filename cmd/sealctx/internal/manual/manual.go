// Package manual writes man pages and a completion for bash from the definition of the
// command line, so that they say what the command does.
package manual

import (
	"bytes"
	"fmt"
	"sort"
	"strings"

	"github.com/alecthomas/kong"
)

// Files returns the files by their path below /usr/share: a man page for the command
// and for each subcommand, in section 1, and the completion. date stands in the pages.
func Files(app *kong.Application, date string) map[string][]byte {
	files := map[string][]byte{"bash-completion/completions/" + app.Name: completion(app)}
	files["man/man1/"+app.Name+".1"] = page(app.Node, app.Name, date)
	for _, leaf := range app.Leaves(true) {
		name := strings.ReplaceAll(path(leaf), " ", "-")
		files["man/man1/"+name+".1"] = page(leaf, name, date)
	}
	return files
}

// path is a command as it is typed, without its arguments.
func path(n *kong.Node) string {
	if n.Parent == nil {
		return n.Name
	}
	return path(n.Parent) + " " + n.Name
}

// page writes one man page in roff.
func page(n *kong.Node, name, date string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, ".TH %s 1 %s sealctx \"User Commands\"\n.SH NAME\n%s \\- %s\n", strings.ToUpper(roff(name)), roff(date), roff(name), roff(strings.TrimSuffix(n.Help, ".")))
	synopsis := n.Summary()
	if n.Parent != nil {
		synopsis = path(n.Parent) + " " + synopsis
	}
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(synopsis))
	if n.Detail != "" {
		fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", roff(n.Detail))
	}
	if leaves := n.Leaves(true); n.Parent == nil && len(leaves) > 0 {
		b.WriteString(".SH COMMANDS\n")
		for _, leaf := range leaves {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(path(leaf)), roff(leaf.Help))
		}
	}
	if len(n.Positional) > 0 {
		b.WriteString(".SH ARGUMENTS\n")
		for _, p := range n.Positional {
			fmt.Fprintf(&b, ".TP\n.I %s\n%s\n", roff(p.Name), roff(p.Help))
		}
	}
	b.WriteString(".SH OPTIONS\n")
	for _, f := range flags(n) {
		short := ""
		if f.Short != 0 {
			short = "\\-" + string(f.Short) + ", "
		}
		fmt.Fprintf(&b, ".TP\n.B %s\\-\\-%s\n%s\n", short, roff(f.Name+value(f)), roff(f.Help))
	}
	b.WriteString(".SH SEE ALSO\nThe project's documents: OPERATIONS, THREATS, SPEC.\n")
	return b.Bytes()
}

func flags(n *kong.Node) []*kong.Flag {
	var all []*kong.Flag
	for _, group := range n.AllFlags(true) {
		all = append(all, group...)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all
}

func value(f *kong.Flag) string {
	if f.IsBool() {
		return ""
	}
	return "=" + f.FormatPlaceHolder()
}

// roff escapes what the formatter would take for its own.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		switch {
		case line == "":
			lines[i] = ".PP"
		case line[0] == '.' || line[0] == '\'':
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}

// completion completes commands and flags, and file names elsewhere.
func completion(app *kong.Application) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `# bash completion for %[1]s
_%[1]s() {
	local cur=${COMP_WORDS[COMP_CWORD]} line=" ${COMP_WORDS[*]:1:COMP_CWORD-1} " words=
	case $line in
`, app.Name)
	leaves := app.Leaves(true)
	sort.Slice(leaves, func(i, j int) bool { return len(path(leaves[i])) > len(path(leaves[j])) })
	for _, leaf := range leaves {
		var names []string
		for _, f := range flags(leaf) {
			names = append(names, "--"+f.Name)
		}
		fmt.Fprintf(&b, "\t*\" %s \"*) words=%q ;;\n", strings.TrimPrefix(path(leaf), app.Name+" "), strings.Join(names, " "))
	}
	for _, group := range app.Children {
		if len(group.Children) == 0 {
			continue
		}
		var names []string
		for _, child := range group.Children {
			names = append(names, child.Name)
		}
		fmt.Fprintf(&b, "\t*\" %s \"*) words=%q ;;\n", group.Name, strings.Join(names, " "))
	}
	var names []string
	for _, child := range app.Children {
		if !child.Hidden {
			names = append(names, child.Name)
		}
	}
	fmt.Fprintf(&b, `	*) words=%q ;;
	esac
	COMPREPLY=($(compgen -W "$words" -- "$cur"))
	[ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- "$cur"))
}
complete -F _%s %s
`, strings.Join(names, " "), app.Name, app.Name)
	return b.Bytes()
}
