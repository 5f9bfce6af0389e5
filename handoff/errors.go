package handoff

import (
	"errors"

	"github.com/golang-auth/go-gssapi/v3"
)

// Errors of this package, matched with errors.Is. The outcomes carry the GSS
// status beside them; causes have none of their own.
var (
	// ErrReturned: the context works here as before, except that it has no delegated
	// credentials if it was exported, and the connection is open. Another worker may be
	// tried (GSS_S_FAILURE).
	ErrReturned = errors.New("handoff: context is the caller's still")

	// ErrClaimed: the worker has claimed the context and did not say so in time, or
	// nobody can tell any more. The connection is shut down and closed
	// (GSS_S_NO_CONTEXT).
	ErrClaimed = errors.New("handoff: context was claimed")

	// ErrRefused: the worker did not import the token and said so in order. Its
	// connection is good for the next context.
	ErrRefused = errors.New("handoff: worker refused the token")

	// ErrBusy: no worker was ready in time. Nothing was sent, and the worker's
	// connection is good for another call.
	ErrBusy = errors.New("handoff: no worker is ready")

	// ErrProtocol: the other end sent something that is not in the protocol, or
	// said that it had imported a token that it had not claimed.
	ErrProtocol = errors.New("handoff: peer breaks the protocol")

	// ErrPeer: the kernel does not say who sent a message, or it was another
	// process than before, or Sender.Audience refused it.
	ErrPeer = errors.New("handoff: not the worker that was meant")

	// ErrConn: the connection to hand over is not a stream socket of TCP or Unix with a
	// descriptor of its own. A TLS connection is not. Nothing was done.
	ErrConn = errors.New("handoff: connection cannot be handed over")

	// ErrTooLarge: more than MaxRead bytes were read from the connection and not
	// used. Nothing was done.
	ErrTooLarge = errors.New("handoff: too many bytes read from the connection")
)

// failure is an outcome and how it came to that.
type failure struct{ outcome, why, status error }

func (f *failure) Error() string   { return f.outcome.Error() + ": " + f.why.Error() }
func (f *failure) Unwrap() []error { return []error{f.outcome, f.why, f.status} }

func returned(why error) error { return &failure{ErrReturned, why, gssapi.ErrFailure} }
func claimed(why error) error  { return &failure{ErrClaimed, why, gssapi.ErrNoContext} }
