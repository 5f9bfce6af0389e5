package secctx

import (
	"errors"
	"slices"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/seal"
)

// Errors of this package. Through errors.Is each matches the GSS status beside it. The
// errors of a sealer or a mechanism stay in the chain, so the errors of package seal
// match as themselves too.
var (
	// ErrLost: the context is in no process any more (GSS_S_NO_CONTEXT). Either the
	// mechanism gave the context up and could not take it back, or the token was claimed
	// and the claim came too late, or the mechanism did not import the token.
	ErrLost = errors.New("secctx: context is lost")

	// ErrNotWrapped: Export, TakeBack or Status was given a context that does not come
	// from a wrapped provider (GSS_S_FAILURE).
	ErrNotWrapped = errors.New("secctx: not a context of a wrapped provider")

	// ErrFormatUnknown: it is not certain which library's plain tokens a provider makes
	// (GSS_S_FAILURE). Nothing was exported or claimed. Set Config.Format.
	ErrFormatUnknown = errors.New("secctx: plain format of the provider is not known")

	// ErrSealedBelow: the process has libsealctx-gss loaded, which seals the tokens of
	// the C library itself (GSS_S_UNAVAILABLE). A provider that was wrapped in such a
	// process makes and imports no context.
	ErrSealedBelow = errors.New("secctx: libsealctx-gss is loaded in this process and seals below secctx: take it out of LD_PRELOAD, /etc/ld.so.preload or the program's needed libraries, or use the provider without secctx")
)

// The errors that never change. errDefective stands for all bytes that are not an
// authentic token.
var (
	errDefective          = status(gssapi.ErrDefectiveToken, seal.ErrDefective)
	errLost               = status(gssapi.ErrNoContext, ErrLost)
	errNotWrapped         = status(gssapi.ErrFailure, ErrNotWrapped)
	errExported           = status(gssapi.ErrNoContext, errors.New("secctx: context was exported"))
	errDeleted            = status(gssapi.ErrNoContext, errors.New("secctx: context was deleted"))
	errHalf               = status(gssapi.ErrNoContext, errors.New("secctx: context is not fully established"))
	errBlindHandler       = status(gssapi.ErrNoContext, errors.New("secctx: context is not fully established or names no initiator, and go-gssapi's http.Handler does not look; serve HTTP with a handler that checks FullyEstablished"))
	errSealedBelow        = status(gssapi.ErrUnavailable, ErrSealedBelow)
	errUntransferable     = status(gssapi.ErrUnavailable, errors.New("secctx: mechanism cannot transfer this context"))
	errExpired            = status(gssapi.ErrContextExpired, errors.New("secctx: context has expired"))
	errEstablished        = status(gssapi.ErrFailure, errors.New("secctx: context is established already"))
	errNotExported        = status(gssapi.ErrFailure, errors.New("secctx: context is here, not exported"))
	errNoInquiry          = status(gssapi.ErrUnavailable, errors.New("secctx: inquiry by this object identifier is not allowed, it might return keys"))
	errNoCredentialExport = status(gssapi.ErrUnavailable, errors.New("secctx: not a credential of a wrapped provider that can be exported"))
	errNoExtension        = status(gssapi.ErrUnavailable, errors.New("secctx: context that came back lacks this extension"))

	errEmptyToken = errors.New("secctx: plain token is empty")
)

// statusError is an error with its GSS status. Only errors.Is sees the status, because
// the error's text says more than the status's.
type statusError struct{ err, status error }

func status(status, err error) error   { return &statusError{err, status} }
func (e *statusError) Error() string   { return e.err.Error() }
func (e *statusError) Unwrap() []error { return []error{e.err, e.status} }

// lostError is ErrLost with its cause. The cause matches through errors.Is, except for
// its GSS status: if a mechanism finds its own token defective, the token is spent all
// the same, and the status is GSS_S_NO_CONTEXT.
type lostError struct{ why error }

func lost(why error) error { return &lostError{why} }

func (e *lostError) Error() string { return ErrLost.Error() + ": " + e.why.Error() }

// Is implements errors.Is.
func (e *lostError) Is(target error) bool {
	if target == ErrLost || target == gssapi.ErrNoContext {
		return true
	}
	return !slices.Contains(statuses, target) && errors.Is(e.why, target)
}

// statuses are the errors of go-gssapi that stand for a status of RFC 2743.
var statuses = []error{
	gssapi.ErrBadMech, gssapi.ErrBadName, gssapi.ErrBadNameType, gssapi.ErrBadBindings, gssapi.ErrBadStatus,
	gssapi.ErrBadMic, gssapi.ErrNoCred, gssapi.ErrNoContext, gssapi.ErrDefectiveToken, gssapi.ErrDefectiveCredential,
	gssapi.ErrCredentialsExpired, gssapi.ErrContextExpired, gssapi.ErrFailure, gssapi.ErrBadQop, gssapi.ErrUnauthorized,
	gssapi.ErrUnavailable, gssapi.ErrDuplicateElement, gssapi.ErrNameNotMn, gssapi.ErrBadMechAttr,
}

// refused gives a sealer's refusal to seal its status. The status is never
// GSS_S_NO_CONTEXT, because the context is still here.
func refused(err error) error {
	if errors.Is(err, seal.ErrUnauthorized) {
		return status(gssapi.ErrUnauthorized, err)
	}
	return status(gssapi.ErrFailure, err)
}

// unopened gives a sealer's refusal to open a token its status.
func unopened(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, seal.ErrLost):
		return lost(err)
	case err == seal.ErrDefective: //nolint:errorlint // wrapped, it says where the keys were looked for
		return errDefective
	case errors.Is(err, seal.ErrDefective):
		return status(gssapi.ErrDefectiveToken, err)
	case errors.Is(err, seal.ErrFormat):
		return status(gssapi.ErrDefectiveToken, err)
	case errors.Is(err, seal.ErrUnauthorized):
		return status(gssapi.ErrUnauthorized, err)
	case errors.Is(err, seal.ErrExpired), errors.Is(err, seal.ErrSpent):
		return status(gssapi.ErrNoContext, err)
	}
	return status(gssapi.ErrFailure, err)
}
