package seal

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"

	"github.com/sealctx/sealctx/internal/token"
)

// The audit events. An event is built only if the log takes its level. Its fields
// are a token's clear header and the reason, and no secret.
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

func (h *Host) opened(t *token.Token, op operation) {
	if !h.logs(slog.LevelInfo) {
		return
	}
	event := eventOpened
	if op == takingBack {
		event = eventTakenBack
	}
	h.log.Info(event, headerAttrs(t)...)
}

// refused logs the reason, which the caller of Open is told only if the token is
// authentic. The header is logged even if it is not authentic.
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
// token is no refusal: by it an exporter finds out that the context has been handed
// over.
func (h *Host) unclaimed(t *token.Token, op operation, err error) {
	if op != takingBack || !errors.Is(err, ErrSpent) {
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
