package spnego

import (
	"errors"
	"fmt"

	"github.com/golang-auth/go-gssapi/v3"
)

// ErrRejected means that the peer ended the negotiation. Its GSS status is
// GSS_S_BAD_MECH if the peer named no other reason, and GSS_S_FAILURE otherwise.
var ErrRejected = errors.New("spnego: the peer rejected the negotiation")

// The errors that never change, with their GSS status.
var (
	errGone         = status(gssapi.ErrNoContext, errors.New("spnego: context was exported, deleted or failed"))
	errHalf         = status(gssapi.ErrNoContext, errors.New("spnego: context is not fully established"))
	errEstablished  = status(gssapi.ErrFailure, errors.New("spnego: context is established already"))
	errNoCommonMech = status(gssapi.ErrBadMech, errors.New("spnego: the initiator offers no mechanism that is available here"))
	errOtherMech    = status(gssapi.ErrBadMech, errors.New("spnego: token of another mechanism"))
	errMICMissing   = status(gssapi.ErrDefectiveToken, errors.New("spnego: the signature of the mechanism list is missing"))
	errBlind        = status(gssapi.ErrFailure, errors.New("spnego: go-gssapi's HTTP handler does not see that the context is not established; use package negotiate"))
	errNotHalf      = status(gssapi.ErrUnavailable, errors.New("spnego: not a half-open negotiation that can be exported"))
	errNoExtension  = status(gssapi.ErrUnavailable, errors.New("spnego: the inner provider lacks this extension"))
	errPlain        = status(gssapi.ErrDefectiveToken, errors.New("spnego: interprocess token is not of this mechanism"))
)

// statusError is an error with its GSS status. Only errors.Is sees the status:
// its text adds nothing.
type statusError struct{ err, status error }

func status(status, err error) error   { return &statusError{err, status} }
func (e *statusError) Error() string   { return e.err.Error() }
func (e *statusError) Unwrap() []error { return []error{e.err, e.status} }

// defective is GSS_S_DEFECTIVE_TOKEN with the reason.
func defective(format string, args ...any) error {
	return status(gssapi.ErrDefectiveToken, fmt.Errorf("spnego: "+format, args...))
}
