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

// A status is a code of an answer and its error.
type status struct {
	code wire.Code
	err  error // of a client
	of   error // of package seal, which the agent answers with the code; nil: no such error

	closes bool // the connection ends with the answer
}

// statuses are all codes but OK. The order matters if an error of package seal wraps
// several: seal.ErrLost comes before the error that it wraps.
var statuses = []status{
	{wire.Lost, seal.ErrLost, seal.ErrLost, false},
	{wire.Defective, seal.ErrDefective, seal.ErrDefective, false},
	{wire.Expired, seal.ErrExpired, seal.ErrExpired, false},
	{wire.Unauthorized, seal.ErrUnauthorized, seal.ErrUnauthorized, false},
	{wire.OtherFormat, seal.ErrFormat, seal.ErrFormat, false},
	{wire.Spent, seal.ErrSpent, seal.ErrSpent, false},
	{wire.BadAudience, errAudience, ask.ErrAudience, false},
	{wire.BadRequest, seal.ErrRequest, seal.ErrRequest, false},
	{wire.Unavailable, seal.ErrUnavailable, seal.ErrUnavailable, false},
	{wire.Refused, ErrRefused, nil, false},
	{wire.Quota, ErrQuota, nil, true},
	{wire.Protocol, ErrProtocol, nil, true},
	{wire.NotYou, ErrRefused, nil, true},
	{wire.Unknown, ErrUnknownEpoch, nil, false},
	{wire.Stopping, ErrAway, nil, true},
}

// codeOf is the code of an error of package seal.
func codeOf(err error) wire.Code {
	for _, s := range statuses {
		if s.of != nil && errors.Is(err, s.of) {
			return s.code
		}
	}
	return wire.Unavailable
}

// errorOf is the error of a code, with the agent's text behind it.
func errorOf(code wire.Code, text string) error {
	err := seal.ErrUnavailable
	for _, s := range statuses {
		if s.code == code {
			err = s.err
		}
	}
	// The text of an error of package seal begins as the error here does.
	text = strings.TrimPrefix(strings.TrimPrefix(text, err.Error()), ": ")
	if text == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, text)
}
