package command

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/sealctx/sealctx/seal/agent"
)

// health answers whether the agent serves and could seal: 200 if so, else 503, with one
// line that says why. It reads the registers and seals nothing, so that a check neither
// costs a token nor stands in the audit log.
type health struct {
	ctx   atomic.Pointer[context.Context] // done when the agent begins to end; nil: it does not serve
	stats func() (agent.Stats, error)
}

func (h *health) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if err := h.check(); err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, err)
		return
	}
	fmt.Fprintln(w, "ok")
}

// check returns nil, or why no token can be sealed.
func (h *health) check() error {
	ctx := h.ctx.Load()
	switch {
	case ctx == nil:
		return errors.New("the agent does not serve yet, or no longer")
	case (*ctx).Err() != nil:
		return errors.New("the agent is ending; it answers the requests under way")
	}
	st, err := h.stats()
	if err != nil {
		return fmt.Errorf("the keyring cannot be read; restart the agent if this stays: %w", err)
	}
	for _, suite := range st.Suites {
		if err := canSeal(st, suite); err != nil {
			return err
		}
	}
	return nil
}

// canSeal returns an error if a suite has epochs and none of them can seal. A suite
// without any epoch, as after keyring retire --all, gets one at the next request.
func canSeal(st agent.Stats, suite string) error {
	epochs, seals := 0, 0
	for _, e := range st.Keys {
		if e.Suite != suite {
			continue
		}
		epochs++
		if !e.Seals {
			continue
		}
		seals++
		if e.Outstanding >= e.Capacity {
			return fmt.Errorf("%s: all tokens that can be outstanding (%d) are; find the program that exports and is not imported", suite, e.Capacity)
		}
	}
	if epochs > 0 && seals == 0 {
		return fmt.Errorf("%s: no key seals; the next request or ten seconds make one, and if they do not, the log says why", suite)
	}
	return nil
}
