package seal

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"

	"github.com/sealctx/sealctx/internal/token"
)

// The audit events. Each is built only if somebody listens, and none has a
// field that is secret: a token's clear header and the reason.
const (
	eventReserved    = "token reserved"
	eventNotReserved = "reservation refused"
	eventOpened      = "token opened"
	eventTakenBack   = "token taken back"
	eventRefused     = "token refused"
	eventGone        = "token to take back is gone"
)

func (h *Host) reserved(head *token.Header) {
	if h.logs(slog.LevelInfo) {
		h.log.Info(eventReserved, "exporter", head.Exporter, "audience", fromWire(head.Audience).String())
	}
}

func (h *Host) notReserved(head *token.Header, reason error) {
	if h.logs(slog.LevelWarn) {
		h.log.Warn(eventNotReserved, "exporter", head.Exporter, "audience", fromWire(head.Audience).String(), "reason", reason)
	}
}

func (h *Host) opened(t *token.Token, event string) {
	if h.logs(slog.LevelInfo) {
		h.log.Info(event, headerAttrs(t)...)
	}
}

// refused logs the reason that the caller of Open is not told before the token
// is known to be authentic. A header that is not is logged all the same.
func (h *Host) refused(t *token.Token, reason string) {
	if !h.logs(slog.LevelWarn) {
		return
	}
	attrs := []any{"reason", reason}
	if t != nil {
		attrs = append(attrs, headerAttrs(t)...)
	}
	h.log.Warn(eventRefused, attrs...)
}

// unclaimed logs why an authentic token was not claimed. A take-back of a spent
// one is no refusal: whoever hands a context over finds out so that it is gone.
func (h *Host) unclaimed(t *token.Token, event string, err error) {
	if event != eventTakenBack || !errors.Is(err, ErrSpent) {
		h.refused(t, err.Error())
	} else if h.logs(slog.LevelInfo) {
		h.log.Info(eventGone, headerAttrs(t)...)
	}
}

func headerAttrs(t *token.Token) []any {
	return []any{"epoch", hex.EncodeToString(t.Epoch[:]), "slot", t.Slot,
		"exporter", t.Exporter, "audience", fromWire(t.Audience).String()}
}

func (h *Host) logs(level slog.Level) bool {
	return h.log.Enabled(context.Background(), level)
}
