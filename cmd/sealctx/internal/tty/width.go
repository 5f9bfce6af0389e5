package tty

import (
	"io"
	"os"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sealctx/sealctx/internal/secureenv"
	"golang.org/x/sys/unix"
)

// Width returns the number of columns of the terminal that w is, or 0 if w is no terminal
// or does not know its width. The variable COLUMNS counts first, as POSIX has it.
func Width(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	if n, err := strconv.Atoi(secureenv.Get("COLUMNS")); err == nil && n > 0 {
		return n
	}
	return int(size.Col)
}

// Wrap breaks a text between words into lines of at most width columns. A word that is
// longer has a line of its own, so that paths and commands stay whole. A width of 0 or
// less breaks nothing.
func Wrap(text string, width int) []string {
	if width <= 0 || utf8.RuneCountInString(text) <= width {
		return []string{text}
	}
	var lines []string
	line, columns := "", 0
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case line == "":
			line, columns = word, n
		case columns+1+n <= width:
			line, columns = line+" "+word, columns+1+n
		default:
			lines = append(lines, line)
			line, columns = word, n
		}
	}
	return append(lines, line)
}
