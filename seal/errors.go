package seal

import (
	"errors"
	"fmt"

	"github.com/sealctx/sealctx/seal/internal/ask"
)

// Errors of this package, each with the GSS status that a mechanism would report.
// Package secctx adds the status, so that errors.Is matches both.
var (
	// ErrDefective: the bytes are no authentic token of a living key of this host
	// (GSS_S_DEFECTIVE_TOKEN). Whatever is wrong with them, the error is this very
	// value, with one exception: if there is no key with the token's id, the error
	// wraps this value and says where it looked. The id is in clear in the token, so
	// that text tells the token's sender nothing. But it names a directory or a
	// process: log it, and do not send it to a remote peer. Nothing is spent.
	ErrDefective = errors.New("seal: defective token")

	// ErrFormat: the token is authentic, and its plain token is of another format
	// than those asked for (GSS_S_DEFECTIVE_TOKEN). Nothing is spent.
	ErrFormat = errors.New("seal: token of another plain format")

	// ErrExpired: the token is authentic, and its lifetime is over
	// (GSS_S_NO_CONTEXT).
	ErrExpired = errors.New("seal: token expired")

	// ErrUnauthorized: the token is authentic, and it is for another audience, or of
	// another exporter than those demanded; or a policy refuses
	// (GSS_S_UNAUTHORIZED). The text says which. Nothing is spent.
	ErrUnauthorized = errors.New("seal: unauthorized")

	// ErrSpent: the token was opened, taken back or cancelled before
	// (GSS_S_NO_CONTEXT).
	ErrSpent = errors.New("seal: token already imported")

	// ErrLost: this call claimed the token, and then the token's time was over or
	// its key retired. No process has the context (GSS_S_NO_CONTEXT). The error
	// wraps ErrExpired or ErrDefective; an agent's only names it.
	ErrLost = errors.New("seal: token claimed too late")

	// ErrRequest: an argument is out of range; or this sealer cannot hold a token to
	// the audience, or cannot tell who the demanded exporter is; or a Reservation was
	// used before (GSS_S_FAILURE). The text says which. Nothing is spent.
	ErrRequest = errors.New("seal: bad request")

	// ErrUnavailable: something that sealing needs fails: the runtime directory, the
	// memory to lock, the register, the clock or the agent. What it wraps says which,
	// and the text what to do (GSS_S_FAILURE). Nothing is spent, except as the agent's
	// ErrUncertain says.
	ErrUnavailable = errors.New("seal: sealer unavailable")
)

// Kinds of ErrRequest.
var (
	errAudience = fmt.Errorf("%w: %w", ErrRequest, ask.ErrAudience)
	errUsed     = fmt.Errorf("%w: the reservation was sealed or cancelled before", ErrRequest)
)
