package command

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/holder"
	"github.com/sealctx/sealctx/internal/boottime"
	"github.com/sealctx/sealctx/seal"
)

type tokenCmd struct {
	Inspect tokenInspectCmd `cmd:"" help:"Say what a token's header has and how the token stands, without spending it."`
}

type tokenInspectCmd struct {
	whose  `embed:""`
	File   place `arg:"" optional:"" help:"The token; standard input if none is named."`
	Base64 bool  `name:"base64" help:"The token is in base64."`
	Header bool  `help:"Print only the header, which anyone could have written. Do not ask the holder of the keys."`
	JSON   bool  `help:"Print JSON."`
}

func (*tokenInspectCmd) Help() string {
	return `The header is in clear, and anyone could have written it. The holder of the keys says
whether the token is authentic. Then it says whether the token is outstanding, gone (opened,
taken back or cancelled) or expired; of an expired token it does not know whether it was
opened before. Exit status 0 says that the token is authentic or, with --header, that the
bytes are a token. A process of the token's audience that reads the file can import the
context: keep it from others.`
}

func (t *tokenInspectCmd) Run(c *console) error {
	r := &tokenReport{}
	err := t.inspect(c.in, r)
	switch {
	case t.JSON: // also for bytes that are no token: a script reads only this
		r.report = newReport("token inspect", err)
		return errors.Join(asJSON(c.out, r), err)
	case r.Header == nil:
		return err
	}
	return errors.Join(r.print(c.out), err)
}

// inspect fills the report as far as it gets.
func (t *tokenInspectCmd) inspect(in io.Reader, r *tokenReport) error {
	b, err := t.read(in)
	if err != nil {
		return err
	}
	head, err := seal.Inspect(b)
	if err != nil {
		return errors.New("these bytes are no sealed token; one in text needs --base64, and a plain GSS-API token has nothing to inspect")
	}
	if r.Header, err = newHeader(head); err != nil || t.Header {
		return err
	}
	r.asked = &asked{}
	return t.with(r.asked, func(h holder.Holder) error { return r.ask(h, b) })
}

// read takes no more than a token: one byte too many is enough to be none.
func (t *tokenInspectCmd) read(in io.Reader) ([]byte, error) {
	if t.File != "" && t.File != "-" {
		f, err := os.Open(string(t.File))
		if err != nil {
			return nil, t.File.fault(err)
		}
		defer f.Close()
		in = f
	}
	if t.Base64 {
		in = base64.NewDecoder(base64.StdEncoding, io.LimitReader(in, int64(2*seal.MaxToken))) // with its line ends
	}
	b, err := io.ReadAll(io.LimitReader(in, int64(seal.MaxToken)+1))
	if err != nil {
		return nil, fmt.Errorf("reading the token: %w", err)
	}
	return b, nil
}

// A tokenReport is what is known of a token.
type tokenReport struct {
	report
	*asked                 // absent: no holder was asked
	Authentic *bool        `json:"authentic"` // null: no holder was asked, or it could not tell
	State     string       `json:"state,omitempty"`
	Header    *tokenHeader `json:"header,omitempty"` // absent: it is no token
}

// A tokenHeader is a seal.Header as scripts read it.
type tokenHeader struct {
	Suite     string  `json:"suite"`
	Epoch     string  `json:"epoch"`
	Slot      uint32  `json:"slot"`
	Exporter  uint32  `json:"exporter_uid"`
	Audience  string  `json:"audience"`
	Mechanism string  `json:"mechanism"`
	Format    string  `json:"plain_format"`
	Age       float64 `json:"age_seconds"`
	Left      float64 `json:"left_seconds"` // negative: over
}

func newHeader(h seal.Header) (*tokenHeader, error) {
	clock, err := boottime.New()
	if err != nil {
		return nil, err
	}
	now, err := clock.Now()
	if err != nil {
		return nil, err
	}
	return &tokenHeader{
		Suite: h.Suite, Epoch: hex.EncodeToString(h.Epoch[:]), Slot: h.Slot,
		Exporter: h.Exporter, Audience: h.Audience.String(),
		Mechanism: mechanismOf(h.Mechanism), Format: h.Format,
		Age: (now - h.Issued).Seconds(), Left: (h.Expires - now).Seconds(),
	}, nil
}

// mechanismOf writes an object identifier with dots. It writes bytes that are no object
// identifier in hexadecimal digits.
func mechanismOf(der []byte) string {
	var oid x509.OID
	if err := oid.UnmarshalBinary(der); err != nil {
		return hex.EncodeToString(der)
	}
	return oid.String()
}

// ask fills in what the holder of the keys says. An error is one of the asking,
// or that the token is not authentic.
func (r *tokenReport) ask(h holder.Holder, token []byte) error {
	state, err := h.Status(token)
	authentic := err == nil
	switch {
	case err == nil:
		r.State = state.String()
	case errors.Is(err, seal.ErrDefective) && err != seal.ErrDefective: //nolint:errorlint // wrapped, it says where the keys were looked for
		err = fmt.Errorf("the token is not authentic: %w", err)
	case errors.Is(err, seal.ErrDefective):
		err = errors.New("the token is not authentic: it was altered, or its key is retired or another holder's")
	case errors.Is(err, seal.ErrUnauthorized):
		return fmt.Errorf("%w: the holder tells only exporter, audience, root and itself", err)
	default:
		return err
	}
	r.Authentic = &authentic
	return err
}

func (r *tokenReport) print(w io.Writer) error {
	h := r.Header
	authentic := r.Authentic != nil && *r.Authentic
	switch {
	case authentic:
		fmt.Fprintf(w, "Authentic, and %s. So says %s.\n", r.State, r.asked)
	case r.Authentic != nil:
		fmt.Fprintf(w, "NOT AUTHENTIC. So says %s.\nWhat stands in the header, which anyone could have written:\n", r.asked)
	default:
		fmt.Fprintln(w, "NOT AUTHENTICATED. What stands in the header, which anyone could have written:")
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "  audience\t%s\n", h.Audience)
	fmt.Fprintf(t, "  exporter\tuser %d\n", h.Exporter)
	fmt.Fprintf(t, "  issued\t%v ago\n", seconds(h.Age))
	if h.Left > 0 {
		fmt.Fprintf(t, "  expires\tin %v\n", seconds(h.Left))
	} else {
		fmt.Fprintf(t, "  expired\t%v ago\n", seconds(-h.Left))
	}
	fmt.Fprintf(t, "  mechanism\t%s\n  plain format\t%q\n  suite\t%s\n  epoch\t%s\n  slot\t%d\n", h.Mechanism, h.Format, h.Suite, h.Epoch, h.Slot)
	return t.Flush()
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Millisecond)
}
