package command

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/doctor"
	"github.com/sealctx/sealctx/cmd/sealctx/internal/holder"
	"github.com/sealctx/sealctx/keyring"
	"github.com/sealctx/sealctx/seal/agent"
)

type keyringCmd struct {
	Status keyringStatusCmd `cmd:"" help:"Seal and open a token, and list the epochs."`
	Rotate keyringRotateCmd `cmd:"" help:"Make new keys; outstanding tokens stay good."`
	Retire keyringRetireCmd `cmd:"" help:"End keys now; every outstanding token under them is worthless."`
}

// of says whose keys are meant; every subcommand about keys has it.
type of struct {
	Agent place `placeholder:"SOCKET" help:"Ask the agent at this socket instead of this user's keyring."`
}

func (o of) with(use func(holder.Holder) error) error {
	h, err := holder.Open(string(o.Agent))
	if err != nil {
		return err
	}
	return errors.Join(use(h), h.Close())
}

type keyringStatusCmd struct {
	of   `embed:""`
	JSON bool `help:"Print JSON."`
}

func (k *keyringStatusCmd) Run(c *console) error {
	told := false
	err := k.with(func(h holder.Holder) error {
		took, sick := doctor.RoundTrip(h)
		list, known, err := h.Epochs()
		if err != nil {
			return err
		}
		told = true
		if k.JSON {
			err = k.printJSON(c, h.Name(), sick, list, known)
		} else {
			fmt.Fprintln(c.out, h.Name())
			if known {
				err = printEpochs(c.out, list)
			} else {
				fmt.Fprintln(c.out, "The agent tells its epochs only to root and to its own user.")
			}
			if sick == nil {
				fmt.Fprintf(c.out, "A token was sealed, opened and spent in %v.\n", took.Round(time.Microsecond))
			}
		}
		if sick != nil {
			return fmt.Errorf("no token can be handed over: %w", sick)
		}
		return err
	})
	if err != nil && k.JSON && !told {
		name := "keyring"
		if k.Agent != "" {
			name = "agent " + string(k.Agent)
		}
		err = errors.Join(k.printJSON(c, name, err, nil, false), err)
	}
	return err
}

func (*keyringStatusCmd) printJSON(c *console, name string, sick error, list []keyring.Info, known bool) error {
	v := struct {
		Holder  string      `json:"holder"`
		Healthy bool        `json:"healthy"`
		Error   string      `json:"error,omitempty"`
		Epochs  []epochJSON `json:"epochs,omitempty"`
	}{Holder: name, Healthy: sick == nil}
	if sick != nil {
		v.Error = sick.Error()
	}
	if known {
		v.Epochs = epochsJSON(list)
	}
	return asJSON(c.out, v)
}

type keyringRotateCmd struct {
	of `embed:""`
}

func (k *keyringRotateCmd) Run(c *console) error {
	return k.with(func(h holder.Holder) error {
		err := h.Rotate()
		if errors.Is(err, agent.ErrRefused) {
			return errors.New("the agent lets only root and its own user rotate keys")
		}
		return err
	})
}

type keyringRetireCmd struct {
	of    `embed:""`
	Epoch string `arg:"" optional:"" help:"Id of the epoch, as status prints it; its beginning will do, of 4 digits at least."`
	All   bool   `help:"Retire every epoch: after a theft, say."`
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

func (k *keyringRetireCmd) Run(c *console) error {
	return k.with(func(h holder.Holder) error {
		list, known, err := h.Epochs()
		switch {
		case err != nil:
			return err
		case !known:
			return errors.New("the agent lets only root and its own user retire keys")
		}
		if !k.All {
			if list, err = named(list, k.Epoch); err != nil {
				return err
			}
		}
		var errs []error
		for _, e := range list {
			errs = append(errs, h.Retire(e.ID))
		}
		return errors.Join(errs...)
	})
}

// named returns the one epoch whose id begins so.
func named(list []keyring.Info, prefix string) ([]keyring.Info, error) {
	list = slices.DeleteFunc(list, func(e keyring.Info) bool {
		return !strings.HasPrefix(hex.EncodeToString(e.ID[:]), strings.ToLower(prefix))
	})
	switch len(list) {
	case 0:
		return nil, fmt.Errorf("%w: none begins with %q; sealctx keyring status lists those alive", keyring.ErrUnknown, prefix)
	case 1:
		return list, nil
	}
	return nil, fmt.Errorf("%d epochs begin with %q; give more of the id", len(list), prefix)
}
