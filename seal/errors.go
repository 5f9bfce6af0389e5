package seal

import "errors"

// Errors of this package, each with the GSS status that a mechanism would
// report. Package secctx adds the status, so that errors.Is matches both.
var (
	// ErrDefective: the bytes are no authentic token of this host's living
	// epochs (GSS_S_DEFECTIVE_TOKEN). Whatever is wrong with them, the error is
	// this very value, with one exception: if the keyring has no epoch with the
	// token's id, the error wraps this value and says where it looked. Anyone can
	// read that id, so the text tells nothing about what is authentic. It names a
	// directory or a process, and is for this host's logs, not for a remote peer.
	// Nothing is spent.
	ErrDefective = errors.New("seal: defective token")

	// ErrFormat: an authentic token whose plain form is another
	// implementation's (GSS_S_DEFECTIVE_TOKEN). Nothing is spent.
	ErrFormat = errors.New("seal: token of another plain format")

	// ErrExpired: an authentic token whose lifetime is over (GSS_S_NO_CONTEXT).
	// Nothing is spent that was still good.
	ErrExpired = errors.New("seal: token expired")

	// ErrUnauthorized: an authentic token that is for another audience or, where
	// the importer demands an exporter, of another one; or a policy refuses
	// (GSS_S_UNAUTHORIZED). The text says which. Nothing is spent.
	ErrUnauthorized = errors.New("seal: unauthorized")

	// ErrSpent: the token was opened, cancelled or taken back before
	// (GSS_S_NO_CONTEXT).
	ErrSpent = errors.New("seal: token already imported")

	// ErrLost: this call claimed the token, and by then its time was over or its
	// epoch retired: nobody has the context (GSS_S_NO_CONTEXT). What it wraps
	// says which; of an agent's, only the text does.
	ErrLost = errors.New("seal: token claimed too late")

	// ErrAudience: this sealer cannot hold a token to that audience, and so does
	// not make one; or it cannot tell whether that exporter is the token's, and
	// so does not open it (GSS_S_FAILURE). Nothing is spent.
	ErrAudience = errors.New("seal: audience cannot be enforced here")

	// ErrTooLarge: the plain token is longer than MaxPlain (GSS_S_FAILURE).
	ErrTooLarge = errors.New("seal: plain token too large")

	// ErrRequest: a field of a Request is out of range (GSS_S_FAILURE).
	ErrRequest = errors.New("seal: bad request")

	// ErrUnavailable: the surroundings fail: no runtime directory, no memory to
	// lock, register full. What it wraps says which and what to do
	// (GSS_S_FAILURE). Nothing is spent, but for an agent's ErrUncertain.
	ErrUnavailable = errors.New("seal: sealer unavailable")

	// ErrUsed: a Reservation was sealed or cancelled before (GSS_S_FAILURE).
	ErrUsed = errors.New("seal: reservation used already")
)
