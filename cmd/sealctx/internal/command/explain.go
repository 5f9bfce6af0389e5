package command

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/sealctx/sealctx/seal/agent"
)

type policyExplainCmd struct {
	File place  `arg:"" help:"The policy."`
	User string `arg:"" help:"A user's name or number."`
	JSON bool   `help:"Print JSON."`
}

// An explainReport is what a policy gives to a user.
type explainReport struct {
	report
	File string `json:"file"`
	explanation
}

func (p *policyExplainCmd) Run(c *console) error {
	r := explainReport{File: p.File.String()}
	text, err := p.explain()
	if !p.JSON {
		if err == nil {
			_, err = fmt.Fprint(c.out, text)
		}
		return err
	}
	if err == nil {
		r.explanation, err = parseExplanation(text)
	}
	r.report = newReport("policy explain", err)
	return errors.Join(asJSON(c.out, &r), err)
}

func (p *policyExplainCmd) explain() (string, error) {
	policy, err := readPolicy(p.File)
	if errors.Is(err, agent.ErrPolicy) {
		return "", fmt.Errorf("%v: %w", p.File, err)
	}
	if err != nil {
		return "", err
	}
	return policy.Explain(p.User)
}

// An explanation is the text of agent.Policy.Explain in parts.
type explanation struct {
	User    string         `json:"user,omitempty"` // number, and name in brackets
	Groups  []string       `json:"groups,omitempty"`
	Refused bool           `json:"refused,omitempty"` // an agent refuses every connection of the user
	Reserve []string       `json:"reserve_for,omitempty"`
	Open    []string       `json:"open_for,omitempty"`
	Import  []string       `json:"import_only_from,omitempty"` // absent: from every exporter
	Limits  map[string]int `json:"limits,omitempty"`
}

// explainedLimits are the keys of explanation.Limits by the words of the text.
var explainedLimits = map[string]string{
	"tokens outstanding": "outstanding",
	"requests under way": "requests",
	"connections":        "connections",
	"tokens of bytes":    "token_bytes",
}

// parseExplanation takes the text apart. The text is the one interface that package agent
// has for this; words that are not known here are an error.
func parseExplanation(text string) (e explanation, err error) {
	parts := map[string]*[]string{
		"may reserve tokens for":          &e.Reserve,
		"may open tokens for":             &e.Open,
		"opens only what was exported by": &e.Import,
	}
	var list *[]string // nil: the limits
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		item, isItem := strings.CutPrefix(line, "  ")
		group, isGroup := strings.CutPrefix(item, "is in group ")
		user, isUser := strings.CutPrefix(line, "user ")
		switch {
		case isUser:
			e.User = user
		case isItem && list != nil:
			*list = append(*list, item)
		case isItem && isGroup:
			e.Groups = append(e.Groups, group)
		case isItem && strings.HasPrefix(item, "stands for all users"):
			e.Refused = true
		case isItem:
			err = errors.Join(err, e.addLimit(item))
		case line == "may have at a time":
			list, e.Limits = nil, map[string]int{}
		case parts[line] != nil:
			list = parts[line]
		default:
			err = errors.Join(err, unexplained(line))
		}
	}
	return e, err
}

// addLimit takes the number out of a line, and looks up what remains.
func (e *explanation) addLimit(item string) error {
	n, words := -1, []string{}
	for _, word := range strings.Fields(item) {
		if i, err := strconv.Atoi(word); err == nil {
			n = i
		} else {
			words = append(words, word)
		}
	}
	key := explainedLimits[strings.Join(words, " ")]
	if key == "" || n < 0 || e.Limits == nil {
		return unexplained(item)
	}
	e.Limits[key] = n
	return nil
}

func unexplained(line string) error {
	return fmt.Errorf("the explanation has a line that --json does not know: %q; leave out --json", line)
}
