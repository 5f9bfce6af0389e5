package seal

import (
	"fmt"
	"strings"

	"github.com/sealctx/sealctx/internal/token"
)

// An operation is what a caller wants with an authentic token.
type operation int

const (
	opening operation = iota
	takingBack
	cancelling
	inspecting
)

// authorize decides whether the process that asks may do an operation with an authentic
// token. Its error wraps ErrUnauthorized and names the audience or the exporter. Any
// other error says why the answer is not known now.
func (h *Host) authorize(op operation, t token.Header, exporters []Party) error {
	own := t.Exporter == h.who.User()
	switch op {
	case takingBack, cancelling:
		if !own {
			return fmt.Errorf("%w: user %d reserved it", ErrUnauthorized, t.Exporter)
		}
		return nil
	case inspecting:
		if own || h.who.MayInspect() {
			return nil
		}
	}
	is, err := isParty(h.who, t.Audience)
	if err != nil {
		return err
	}
	if !is {
		return fmt.Errorf("%w: token for another audience: it is for %v", ErrUnauthorized, fromWire(t.Audience))
	}
	if op == inspecting {
		return nil
	}
	if err := h.who.MayImport(t); err != nil || len(exporters) == 0 {
		return err
	}
	exporter, err := h.who.Exporter(t)
	if err != nil {
		return err
	}
	for _, e := range exporters {
		if is, err := isParty(exporter, e.wire()); is || err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: user %d exported it, and %s is demanded", ErrUnauthorized, t.Exporter, names(exporters))
}

// checkExporters refuses a demand that no exporter can meet, and a demand whose answer
// only an agent knows.
func (h *Host) checkExporters(exporters []Party) error {
	if n := len(exporters); n == 0 || n > token.MaxExporters {
		return fmt.Errorf("%w: %d exporters, 1 to %d can be demanded", ErrRequest, n, token.MaxExporters)
	}
	_, alone := h.who.(*self)
	for _, e := range exporters {
		switch {
		case !e.valid() || !kinds[e.kind].exporter:
			return fmt.Errorf("%w: %v as exporter; a user, a group or a service can be demanded", errAudience, e)
		case alone && kinds[e.kind].agent:
			return fmt.Errorf("%w: %v as exporter needs the agent; here only a user can be demanded", errAudience, e)
		}
	}
	return nil
}

func names(parties []Party) string {
	all := make([]string, len(parties))
	for i, p := range parties {
		all[i] = p.String()
	}
	return strings.Join(all, " or ")
}
