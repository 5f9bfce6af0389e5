package command

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/secureenv"
)

// The priorities of syslog(3) that lines begin with in the journal, see sd-daemon(3).
const (
	priorityError   = "<3>"
	priorityWarning = "<4>"
	priorityInfo    = "<6>"
)

// priorities are those of the levels of a log. All others are for information.
var priorities = map[string]string{"ERROR": priorityError, "WARN": priorityWarning}

// isJournal reports whether w is the stream that the service manager connected to its
// journal. JOURNAL_STREAM has the stream's device and inode, see systemd.exec(5). A
// program that was started with another stream inherits the variable, but not the stream.
func isJournal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	return secureenv.Get("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// A journal writes lines with their priority in front. Safe for concurrent use.
type journal struct {
	mu  sync.Mutex
	out io.Writer
	of  func(line []byte) string // priority of a line
}

// logTo returns where a log goes that is to be written to w: each of its lines gets its
// level's priority if w is the journal.
func logTo(w io.Writer) io.Writer {
	if !isJournal(w) {
		return w
	}
	return &journal{out: w, of: func(line []byte) string {
		if priority := priorities[levelOf(line)]; priority != "" {
			return priority
		}
		return priorityInfo
	}}
}

// faultsTo returns where errors go that are to be written to w.
func faultsTo(w io.Writer) io.Writer {
	if !isJournal(w) {
		return w
	}
	return &journal{out: w, of: func([]byte) string { return priorityError }}
}

// Write takes whole lines. The journal counts each line as a message.
func (j *journal) Write(b []byte) (int, error) {
	var all []byte
	for line := range bytes.Lines(b) {
		all = append(append(all, j.of(line)...), line...)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.out.Write(all); err != nil {
		return 0, err
	}
	return len(b), nil
}
