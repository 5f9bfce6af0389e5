package command

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/doctor"
	"github.com/sealctx/sealctx/cmd/sealctx/internal/holder"
	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent"
)

type keyringCmd struct {
	Status keyringStatusCmd `cmd:"" help:"Seal and open a token, and list the epochs."`
	Rotate keyringRotateCmd `cmd:"" help:"Make new keys; outstanding tokens stay good."`
	Retire keyringRetireCmd `cmd:"" help:"End keys now; every outstanding token under them is worthless."`
}

type keyringStatusCmd struct {
	whose `embed:""`
	JSON  bool `help:"Print JSON."`
}

// A keyringReport is how a keyring stands.
type keyringReport struct {
	report
	asked
	Healthy bool        `json:"healthy"`
	Seconds float64     `json:"round_trip_seconds,omitempty"` // sealed, opened and spent
	Epochs  []epochJSON `json:"epochs,omitempty"`             // absent: the agent does not tell this user
}

func (k *keyringStatusCmd) Run(c *console) error {
	var r keyringReport
	err := k.with(&r.asked, func(h holder.Holder) error {
		took, sick := doctor.RoundTrip(h)
		list, err := h.Keys()
		known := !errors.Is(err, agent.ErrRefused)
		if known && err != nil {
			return err
		}
		if known {
			r.Epochs = epochsJSON(list)
		}
		if sick == nil {
			r.Healthy, r.Seconds = true, took.Seconds()
		} else {
			sick = fmt.Errorf("no token can be handed over: %w", sick)
		}
		if k.JSON {
			return sick
		}
		return errors.Join(k.print(c, &r, took, list, known), sick)
	})
	if k.JSON {
		r.report = newReport("keyring status", err)
		err = errors.Join(asJSON(c.out, &r), err)
	}
	return err
}

func (*keyringStatusCmd) print(c *console, r *keyringReport, took time.Duration, list []seal.Key, known bool) error {
	fmt.Fprintln(c.out, r.asked)
	var err error
	if known {
		err = printEpochs(c.out, list)
	} else {
		_, err = fmt.Fprintln(c.out, "The agent tells its epochs only to root and to its own user.")
	}
	if r.Healthy {
		fmt.Fprintf(c.out, "A token was sealed, opened and spent in %v.\n", took.Round(time.Microsecond))
	}
	return err
}

type keyringRotateCmd struct {
	whose `embed:""`
	JSON  bool `help:"Print JSON."`
}

// A rotateReport is what a rotation made.
type rotateReport struct {
	report
	asked
	Epochs []epochJSON `json:"epochs,omitempty"` // those alive after it
}

func (k *keyringRotateCmd) Run(c *console) error {
	var r rotateReport
	err := k.with(&r.asked, func(h holder.Holder) error {
		err := h.Rotate()
		if errors.Is(err, agent.ErrRefused) {
			return fmt.Errorf("%v lets only root and its own user rotate keys", h)
		}
		if err != nil {
			return err
		}
		list, err := h.Keys()
		if err != nil {
			return fmt.Errorf("the keys were rotated, and then: %w", err)
		}
		r.Epochs = epochsJSON(list)
		return nil
	})
	switch {
	case k.JSON:
		r.report = newReport("keyring rotate", err)
		return errors.Join(asJSON(c.out, &r), err)
	case err != nil:
		return err
	}
	return r.print(c.out)
}

func (r *rotateReport) print(w io.Writer) error {
	fmt.Fprintln(w, r.asked)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, e := range r.Epochs {
		if e.Seals {
			fmt.Fprintf(t, "%s\t%s\tseals now\n", e.ID, e.Suite)
		} else {
			fmt.Fprintf(t, "%s\t%s\topens only\t%s\n", e.ID, e.Suite, counted(e.Outstanding, "token")+" outstanding")
		}
	}
	return t.Flush()
}

type keyringRetireCmd struct {
	whose `embed:""`
	Epoch string `arg:"" optional:"" help:"Id of the epoch, as status prints it; its beginning will do, of 4 digits at least."`
	All   bool   `help:"Retire every epoch: after a theft, say."`
	JSON  bool   `help:"Print JSON."`
}

// Validate is called by kong.
func (k *keyringRetireCmd) Validate() error {
	if k.All == (k.Epoch != "") {
		return errors.New("name one epoch, or --all of them; sealctx keyring status lists them")
	}
	if !k.All && !epochPrefix.MatchString(k.Epoch) {
		return fmt.Errorf("%q is not the beginning of an epoch's id: 4 to 32 hexadecimal digits, as sealctx keyring status lists them", k.Epoch)
	}
	return nil
}

// epochPrefix has so many digits that a slip of the finger retires nothing.
var epochPrefix = regexp.MustCompile(`^[0-9a-fA-F]{4,32}$`)

// A retireReport is what a retirement ended, also where an error stopped it.
type retireReport struct {
	report
	asked
	Retired []retiredJSON `json:"retired"`
}

// A retiredJSON is an epoch that was retired.
type retiredJSON struct {
	ID          string `json:"id"`
	Suite       string `json:"suite"`
	Outstanding int    `json:"outstanding"` // just before
}

func (k *keyringRetireCmd) Run(c *console) error {
	r := retireReport{Retired: []retiredJSON{}}
	err := k.with(&r.asked, func(h holder.Holder) error { return k.retire(h, &r) })
	if k.JSON {
		r.report = newReport("keyring retire", err)
		return errors.Join(asJSON(c.out, &r), err)
	}
	if err == nil || len(r.Retired) > 0 {
		err = errors.Join(r.print(c.out), err)
	}
	return err
}

func (k *keyringRetireCmd) retire(h holder.Holder, r *retireReport) error {
	list, err := h.Keys()
	switch {
	case errors.Is(err, agent.ErrRefused):
		return fmt.Errorf("%v lets only root and its own user retire keys", h)
	case err != nil:
		return err
	}
	if !k.All {
		if list, err = named(list, k.Epoch); err != nil {
			return err
		}
	}
	var errs []error
	for _, e := range list {
		if err := h.Retire(e.ID); err != nil {
			errs = append(errs, fmt.Errorf("epoch %x is not retired: %w", e.ID, err))
			continue
		}
		r.Retired = append(r.Retired, retiredJSON{hex.EncodeToString(e.ID[:]), e.Suite, e.Outstanding})
	}
	return errors.Join(errs...)
}

func (r *retireReport) print(w io.Writer) error {
	fmt.Fprintln(w, r.asked)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	sum := 0
	for _, e := range r.Retired {
		fmt.Fprintf(t, "%s\t%s\tretired\t%s outstanding\n", e.ID, e.Suite, counted(e.Outstanding, "token"))
		sum += e.Outstanding
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "Ended: %s and %s.\n", counted(len(r.Retired), "epoch"), counted(sum, "outstanding token"))
	return err
}

// counted is a number of things in words.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// named returns the one epoch whose id begins so.
func named(list []seal.Key, prefix string) ([]seal.Key, error) {
	list = slices.DeleteFunc(list, func(e seal.Key) bool {
		return !strings.HasPrefix(hex.EncodeToString(e.ID[:]), strings.ToLower(prefix))
	})
	switch len(list) {
	case 0:
		return nil, fmt.Errorf("unknown epoch: none begins with %q; sealctx keyring status lists those alive", prefix)
	case 1:
		return list, nil
	}
	return nil, fmt.Errorf("%d epochs begin with %q; give more of the id", len(list), prefix)
}
