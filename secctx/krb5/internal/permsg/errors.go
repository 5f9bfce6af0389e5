package permsg

import (
	"errors"

	"github.com/golang-auth/go-gssapi/v3"
)

// Calling errors of New, Restore and Export. GSS_S_FAILURE.
var (
	// ErrParams is a key of the wrong length or an unknown enctype.
	ErrParams = errors.New("permsg: no such session can be made")
	// ErrBuffer is a buffer without room for the state.
	ErrBuffer = errors.New("permsg: buffer too small for the state")
	// ErrState is state that Export did not write.
	ErrState = errors.New("permsg: malformed session state")
)

// The reasons behind a status, for people.
var (
	errGone      = errors.New("permsg: session wiped or exported")
	errForm      = errors.New("permsg: malformed token")
	errDirection = errors.New("permsg: token was not sent by the peer")
	errWrongKey  = errors.New("permsg: token under another key than the context's")
	errNotEqual  = errors.New("permsg: integrity check failed")
)

// Fatal codes of RFC 2744 section 3.9.1, in the numbering of go-gssapi, which
// does not export them.
const (
	codeBadMIC         gssapi.FatalErrorCode = 6
	codeNoContext      gssapi.FatalErrorCode = 8
	codeDefectiveToken gssapi.FatalErrorCode = 9
	codeFailure        gssapi.FatalErrorCode = 13
)

// Informational codes, likewise.
const (
	infoDuplicate gssapi.InformationCode = 1 << 1
	infoOld       gssapi.InformationCode = 1 << 2
	infoUnseq     gssapi.InformationCode = 1 << 3
	infoGap       gssapi.InformationCode = 1 << 4
)

func fatal(code gssapi.FatalErrorCode, why error) error {
	return gssapi.FatalStatus{
		FatalErrorCode: code,
		InfoStatus:     gssapi.InfoStatus{MechErrors: []error{why}},
	}
}

// info returns the error that goes with a genuine message, nil for code 0.
func info(code gssapi.InformationCode) error {
	if code == 0 {
		return nil
	}
	return gssapi.InfoStatus{InformationCode: code}
}
