package krb5

import (
	"errors"
	"fmt"
	"slices"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ccstore"
	"github.com/sealctx/sealctx/secctx/krb5/internal/keytab"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ownfile"
	"github.com/sealctx/sealctx/secctx/krb5/internal/rcache"
)

// A Code is an error number of the Kerberos protocol (RFC 4120 section 7.5.9) and
// the minor status of a failed call. It is an error: errors.Is(err,
// KRB_AP_ERR_SKEW) reports whether err has that code.
type Code int32

// The codes that this mechanism finds by itself. A peer's KRB-ERROR can bring
// any other.
const (
	KDC_ERR_ETYPE_NOSUPP       Code = 14
	KRB_AP_ERR_BAD_INTEGRITY   Code = 31
	KRB_AP_ERR_TKT_EXPIRED     Code = 32
	KRB_AP_ERR_TKT_NYV         Code = 33
	KRB_AP_ERR_REPEAT          Code = 34
	KRB_AP_ERR_BADMATCH        Code = 36
	KRB_AP_ERR_SKEW            Code = 37
	KRB_AP_ERR_BADVERSION      Code = 39
	KRB_AP_ERR_MSG_TYPE        Code = 40
	KRB_AP_ERR_BADKEYVER       Code = 44
	KRB_AP_ERR_NOKEY           Code = 45
	KRB_AP_ERR_MUT_FAIL        Code = 46
	KRB_AP_ERR_INAPP_CKSUM     Code = 50
	KRB_AP_PATH_NOT_ACCEPTED   Code = 51
	KRB_ERR_GENERIC            Code = 60
	KRB_AP_ERR_NO_TGT          Code = 67
	KRB_AP_ERR_USER_TO_USER_RQ Code = 69
)

var codeText = map[Code]string{
	KDC_ERR_ETYPE_NOSUPP:       "encryption type is not supported",
	KRB_AP_ERR_BAD_INTEGRITY:   "integrity check on a decrypted field failed",
	KRB_AP_ERR_TKT_EXPIRED:     "ticket has expired",
	KRB_AP_ERR_TKT_NYV:         "ticket is not yet valid",
	KRB_AP_ERR_REPEAT:          "request is a replay",
	KRB_AP_ERR_BADMATCH:        "ticket and authenticator do not match",
	KRB_AP_ERR_SKEW:            "clock skew is too great",
	KRB_AP_ERR_BADVERSION:      "protocol version mismatch",
	KRB_AP_ERR_MSG_TYPE:        "invalid message type",
	KRB_AP_ERR_BADKEYVER:       "specified version of the key is not available",
	KRB_AP_ERR_NOKEY:           "service key is not available",
	KRB_AP_ERR_MUT_FAIL:        "mutual authentication failed",
	KRB_AP_ERR_INAPP_CKSUM:     "inappropriate type of checksum in message",
	KRB_AP_PATH_NOT_ACCEPTED:   "policy rejects the transited path",
	KRB_ERR_GENERIC:            "generic error",
	KRB_AP_ERR_NO_TGT:          "no ticket-granting ticket presented",
	KRB_AP_ERR_USER_TO_USER_RQ: "user-to-user authentication is not supported",
}

// Error returns the RFC's words for the code.
func (c Code) Error() string {
	if text, ok := codeText[c]; ok {
		return text
	}
	return fmt.Sprintf("Kerberos error %d", int32(c))
}

// Reasons that have no code of the protocol. Each is the minor status of the
// GSS statuses beside it.
var (
	ErrNotEstablished = errors.New("krb5: context is not established yet")              // GSS_S_UNAVAILABLE from Export, else GSS_S_NO_CONTEXT
	ErrEstablished    = errors.New("krb5: context is established already")              // GSS_S_FAILURE
	ErrGone           = errors.New("krb5: context was exported, deleted or failed")     // GSS_S_NO_CONTEXT
	ErrNotStarted     = errors.New("krb5: context was not started")                     // GSS_S_NO_CONTEXT
	ErrPeer           = errors.New("krb5: the peer answered with an error")             // GSS_S_FAILURE
	ErrNoTicket       = errors.New("krb5: no ticket for this service")                  // GSS_S_NO_CRED
	ErrForeign        = errors.New("krb5: name or credential of another provider")      // GSS_S_BAD_NAME, GSS_S_DEFECTIVE_CREDENTIAL
	ErrReleased       = errors.New("krb5: credential or provider was released")         // GSS_S_NO_CRED, GSS_S_FAILURE
	ErrFormat         = errors.New("krb5: interprocess token is not of this mechanism") // GSS_S_DEFECTIVE_TOKEN
	ErrUntrusted      = ownfile.ErrUntrusted                                            // GSS_S_NO_CRED
	ErrStore          = ccstore.ErrKind                                                 // GSS_S_UNAVAILABLE, GSS_S_NO_CRED
)

// An Error is a failed call: the GSS status that go-gssapi names, and the
// mechanism's reason. errors.Is finds both, errors.As finds the
// gssapi.FatalStatus.
type Error struct {
	gssapi.FatalStatus
	Minor error
}

// Error returns the status and the reason.
func (e *Error) Error() string {
	if e.Minor == nil {
		return "krb5: " + e.Fatal().Error()
	}
	return "krb5: " + e.Fatal().Error() + ": " + e.Minor.Error()
}

// Unwrap returns the GSS status and the reason.
func (e *Error) Unwrap() []error {
	if e.Minor == nil {
		return []error{e.FatalStatus}
	}
	return []error{e.FatalStatus, e.Minor}
}

// majors holds go-gssapi's errors by the number of the routine error in RFC 2744
// section 3.9.1. Index 0 is GSS_S_COMPLETE.
var majors = [...]error{
	nil, gssapi.ErrBadMech, gssapi.ErrBadName, gssapi.ErrBadNameType, gssapi.ErrBadBindings,
	gssapi.ErrBadStatus, gssapi.ErrBadMic, gssapi.ErrNoCred, gssapi.ErrNoContext,
	gssapi.ErrDefectiveToken, gssapi.ErrDefectiveCredential, gssapi.ErrCredentialsExpired,
	gssapi.ErrContextExpired, gssapi.ErrFailure, gssapi.ErrBadQop, gssapi.ErrUnauthorized,
	gssapi.ErrUnavailable, gssapi.ErrDuplicateElement, gssapi.ErrNameNotMn, gssapi.ErrBadMechAttr,
}

// duplicateToken is the supplementary bit GSS_S_DUPLICATE_TOKEN.
const duplicateToken gssapi.InformationCode = 1 << 1

// fail makes an Error of one of go-gssapi's errors and a reason. The reason may be
// nil.
func fail(major, minor error) error {
	e := &Error{Minor: minor}
	e.FatalErrorCode = gssapi.FatalErrorCode(slices.Index(majors[:], major))
	if minor != nil {
		e.MechErrors = []error{minor}
	}
	if errors.Is(minor, KRB_AP_ERR_REPEAT) {
		e.InformationCode = duplicateToken
	}
	return e
}

// failf is fail with words around the reason.
func failf(major error, format string, args ...any) error {
	return fail(major, fmt.Errorf(format, args...))
}

// tokenError gives an error of package kmsg its status.
func tokenError(err error) error {
	switch {
	case errors.Is(err, kmsg.ErrMech):
		return fail(gssapi.ErrBadMech, err)
	case errors.Is(err, kmsg.ErrVersion):
		return failf(gssapi.ErrDefectiveToken, "%w: %w", KRB_AP_ERR_BADVERSION, err)
	case errors.Is(err, kmsg.ErrMsgType):
		return failf(gssapi.ErrDefectiveToken, "%w: %w", KRB_AP_ERR_MSG_TYPE, err)
	case errors.Is(err, kmsg.ErrCritical):
		return failf(gssapi.ErrUnauthorized, "%w: %w", KRB_ERR_GENERIC, err)
	}
	return fail(gssapi.ErrDefectiveToken, err)
}

// replayError gives an error of package rcache its status. To the peer, a request
// that may be a replay is a replay: its next request will be a new one.
func replayError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rcache.ErrReplay):
		return failf(gssapi.ErrFailure, "%w: %w", KRB_AP_ERR_REPEAT, err)
	case errors.Is(err, rcache.ErrForgotten):
		return fail(gssapi.ErrFailure, possibleReplay{err})
	}
	return fail(gssapi.ErrFailure, err)
}

// A possibleReplay is KRB_AP_ERR_REPEAT with a text that does not claim a replay.
type possibleReplay struct{ error }

func (e possibleReplay) Unwrap() []error { return []error{KRB_AP_ERR_REPEAT, e.error} }

// storeError gives an error from reading a keytab or a credential cache its
// status.
func storeError(err error) error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return err
	case errors.Is(err, keytab.ErrMalformed), errors.Is(err, ccache.ErrMalformed):
		return fail(gssapi.ErrDefectiveCredential, err)
	}
	return fail(gssapi.ErrNoCred, err)
}
