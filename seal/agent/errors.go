package agent

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sealctx/sealctx/seal"
	"github.com/sealctx/sealctx/seal/agent/internal/wire"
	"github.com/sealctx/sealctx/seal/internal/ask"
)

// Errors of a Client, besides those of package seal, which it returns as a Host
// does. Each matches the error of package seal beside it through errors.Is, and
// so gets its GSS status.
var (
	// ErrAway: there is no agent, or it did not answer in time (seal.ErrUnavailable,
	// GSS_S_FAILURE). A request that was sent may have been carried out all the same,
	// see ErrUncertain.
	ErrAway = fmt.Errorf("%w: agent does not answer", seal.ErrUnavailable)

	// ErrUncertain: the agent went away between an open, take-back or cancel and its
	// answer (ErrAway). The token may be spent. The client does not ask again by itself.
	// Asking again is safe: at most one process gets the context.
	ErrUncertain = fmt.Errorf("%w: whether the token is spent is not known", ErrAway)

	// ErrImpostor: the process that listens at the socket's path is not the agent, or
	// another user could put a socket there (seal.ErrUnavailable, GSS_S_FAILURE).
	// Nothing was sent.
	ErrImpostor = fmt.Errorf("%w: not to be trusted as an agent", seal.ErrUnavailable)

	// ErrProtocol: the bytes that came are no answer of the protocol
	// (seal.ErrUnavailable, GSS_S_FAILURE).
	ErrProtocol = fmt.Errorf("%w: not the agent's protocol", seal.ErrUnavailable)

	// ErrQuota: this user has as much as it may have; nothing is spent
	// (seal.ErrUnavailable, GSS_S_FAILURE).
	ErrQuota = fmt.Errorf("%w: quota of this user", seal.ErrUnavailable)

	// ErrRefused: the agent's policy does not let this user do that
	// (seal.ErrUnauthorized, GSS_S_UNAUTHORIZED).
	ErrRefused = fmt.Errorf("%w: refused by the agent's policy", seal.ErrUnauthorized)

	// ErrUnknownEpoch: there is no living key with that id (seal.ErrRequest,
	// GSS_S_FAILURE).
	ErrUnknownEpoch = fmt.Errorf("%w: no such key", seal.ErrRequest)

	// ErrClosed: the client was closed (seal.ErrUnavailable, GSS_S_FAILURE).
	ErrClosed = fmt.Errorf("%w: client is closed", seal.ErrUnavailable)
)

// errAudience is the error of an audience that is nobody or cannot be held to.
var errAudience = fmt.Errorf("%w: %w", seal.ErrRequest, ask.ErrAudience)

// codeOf is the code of an error of package seal. The order matters if an error wraps
// several: seal.ErrLost comes before the error that it wraps.
func codeOf(err error) wire.Code {
	if errors.Is(err, ask.ErrAudience) { // which is a seal.ErrRequest too
		return wire.BadAudience
	}
	for _, c := range sealCodes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return wire.Unavailable
}

// errorOf is the error of a code, with the agent's text behind it.
func errorOf(code wire.Code, text string) error {
	err := seal.ErrUnavailable
	for _, c := range sealCodes {
		if c.code == code {
			err = c.err
		}
	}
	for _, c := range ownCodes {
		if c.code == code {
			err = c.err
		}
	}
	// The text of an error of package seal begins as the error here does.
	text = strings.TrimPrefix(strings.TrimPrefix(text, err.Error()), ": ")
	if text == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, text)
}

type coded struct {
	code wire.Code
	err  error
}

var sealCodes = []coded{
	{wire.Lost, seal.ErrLost},
	{wire.Defective, seal.ErrDefective},
	{wire.Expired, seal.ErrExpired},
	{wire.Unauthorized, seal.ErrUnauthorized},
	{wire.OtherFormat, seal.ErrFormat},
	{wire.Spent, seal.ErrSpent},
	{wire.BadAudience, errAudience},
	{wire.BadRequest, seal.ErrRequest},
	{wire.Unavailable, seal.ErrUnavailable},
}

var ownCodes = []coded{
	{wire.Refused, ErrRefused},
	{wire.Quota, ErrQuota},
	{wire.Protocol, ErrProtocol},
	{wire.NotYou, ErrRefused},
	{wire.Unknown, ErrUnknownEpoch},
	{wire.Stopping, ErrAway},
}
