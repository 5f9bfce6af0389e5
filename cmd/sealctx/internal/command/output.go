package command

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/sealctx/sealctx/seal"
)

// schemaVersion is the version of doc/json.md. It changes if a field goes, or changes its
// type or meaning, and not if a field is added.
const schemaVersion = 1

// A report is the beginning of each JSON object that a command prints.
type report struct {
	Schema  int    `json:"schema"`
	Command string `json:"command"`
	Error   string `json:"error,omitempty"`
}

// newReport returns the report of a command that ended with err.
func newReport(command string, err error) report {
	r := report{Schema: schemaVersion, Command: command}
	var code exitCode
	if err != nil && !errors.As(err, &code) {
		r.Error = err.Error()
	}
	return r
}

// asJSON prints v with indentation, since people read it too.
func asJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// An epochJSON is an epoch as scripts read it.
type epochJSON struct {
	ID          string  `json:"id"`
	Suite       string  `json:"suite"`
	Seals       bool    `json:"seals"`
	Age         float64 `json:"age_seconds"`
	Outstanding int     `json:"outstanding"`
	Limit       int     `json:"outstanding_limit"`
	MaxLifetime float64 `json:"max_lifetime_seconds"`
}

func epochsJSON(list []seal.Key) []epochJSON {
	all := make([]epochJSON, 0, len(list))
	for _, e := range list {
		all = append(all, epochJSON{
			ID: hex.EncodeToString(e.ID[:]), Suite: e.Suite, Seals: e.Seals, Age: e.Age.Seconds(),
			Outstanding: e.Outstanding, Limit: e.Capacity, MaxLifetime: e.MaxLifetime.Seconds(),
		})
	}
	return all
}

// printEpochs prints a line for each epoch.
func printEpochs(w io.Writer, list []seal.Key) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "EPOCH\tSUITE\tSTATE\tAGE\tOUTSTANDING")
	for _, e := range list {
		state := "opens only"
		if e.Seals {
			state = "seals"
		}
		fmt.Fprintf(t, "%x\t%v\t%s\t%v\t%d of %d\n", e.ID, e.Suite, state, e.Age.Truncate(time.Second), e.Outstanding, e.Capacity)
	}
	return t.Flush()
}
