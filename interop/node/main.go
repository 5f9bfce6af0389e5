// Node is a process of the interop tests that uses GSS-API through Go: through
// go-gssapi-c over MIT or Heimdal, whichever it was built against, or, built with
// the tag nolibrary, through sealctx's own mechanism; wrapped by secctx unless
// told otherwise. It holds one context at a time, and hands it to another node
// together with the connection.
//
// It obeys one command a line on its standard input and answers each with one
// line, "ok ..." or "error ...":
//
//	bind TEXT                      channel bindings from here on
//	connect PORT SERVICE FLAG,...  initiate over 127.0.0.1
//	listen                         choose a port
//	accept                         accept there
//	make KIND N                    protect message N; hex of the frame's body
//	put KIND HEX                   send a frame
//	take                           receive one: KIND STATUS [N]
//	serve FIRST COUNT              answer each message with one's own
//	travel                         export and import the own context, in place
//	export                         export; hex of the token
//	import HEX                     import; STATUS
//	give PATH                      export, and pass token and connection to the
//	                               node at this socket; hex of the token, and the
//	                               number of bytes already received by then
//	receive                        be that node
//	sampleaccept                   accept a gss-client of MIT's
//	sampleanswer                   answer one of its messages; the message
//	hello SERVICE                  first token of a SPNEGO negotiation, hex
//	negotiate HEX                  give it to go-gssapi's HTTP handler
//	info                           initiator, established, open, seconds left
//	imports                        how often the mechanism's import was called
//	collect                        run the garbage collector
//	close                          delete the context, close the connection
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	plain := flag.Bool("plain", false, "do not seal: the provider bare")
	leak := flag.Bool("leak", false, "keep a copy of each plain token")
	format := flag.String("format", "", "name of the plain format, secctx.Config.Format; empty: as secctx names it")
	also := flag.String("also", "", "name of a library to load besides; empty: none")
	var m mechanism
	flag.BoolVar(&m.noSubkey, "no-subkey", false, "accept without a subkey of one's own (only sealctx's mechanism)")
	flag.BoolVar(&m.grant, "grant", false, "ask the KDC for tickets (only sealctx's mechanism)")
	flag.DurationVar(&m.skew, "skew", 0, "clock skew (only sealctx's mechanism)")
	socket := flag.String("socket", "", "path at which to receive contexts; empty: none")
	flag.Parse()

	var n *node
	var err error
	if *also != "" {
		err = loadAlso(*also)
	}
	if err == nil {
		n, err = newNode(m, *format, !*plain, *leak, *socket)
	}
	if err == nil {
		err = n.obeyAll(os.Stdin, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
}

// maxLine bounds a command: the longest frame in hex, and a little.
const maxLine = 1 << 19

// obeyAll answers commands until the input ends.
func (n *node) obeyAll(in io.Reader, out io.Writer) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 4096), maxLine)
	for lines.Scan() {
		answer, err := n.obey(strings.Fields(lines.Text()))
		if err != nil {
			answer = "error " + explain(err)
		} else {
			answer = strings.TrimSpace("ok " + answer)
		}
		if _, err := fmt.Fprintln(out, strings.ReplaceAll(answer, "\n", "; ")); err != nil {
			return err
		}
	}
	return lines.Err()
}

var errCommand = errors.New("unknown command, or wrong arguments")

// commands are the verbs with the number of their arguments.
var commands = map[string]struct {
	args int
	run  func(*node, []string) (string, error)
}{
	"bind":         {1, (*node).bind},
	"connect":      {3, (*node).connect},
	"listen":       {0, (*node).listen},
	"accept":       {0, (*node).accept},
	"make":         {2, (*node).make},
	"put":          {2, (*node).put},
	"take":         {0, (*node).take},
	"serve":        {2, (*node).serve},
	"travel":       {0, (*node).travel},
	"export":       {0, (*node).export},
	"import":       {1, (*node).importToken},
	"give":         {1, (*node).give},
	"receive":      {0, (*node).receive},
	"sampleaccept": {0, (*node).sampleAccept},
	"sampleanswer": {0, (*node).sampleAnswer},
	"hello":        {1, (*node).hello},
	"negotiate":    {1, (*node).negotiate},
	"info":         {0, (*node).info},
	"imports":      {0, (*node).imports},
	"collect":      {0, (*node).collect},
	"close":        {0, (*node).close},
}

func (n *node) obey(words []string) (string, error) {
	if len(words) == 0 {
		return "", errCommand
	}
	c, ok := commands[words[0]]
	if !ok || len(words)-1 != c.args {
		return "", errCommand
	}
	return c.run(n, words[1:])
}
