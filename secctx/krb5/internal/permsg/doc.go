// Package permsg is the per-message layer of the Kerberos 5 mechanism, RFC
// 4121 section 4, for an established context: Wrap and MIC tokens under the
// enctypes of package etype, 64-bit sequence numbers, and the replay and
// sequence services of RFC 2743 section 1.2.3.
//
// [New] makes a [Session] from the key that the exchange agreed on. [Restore] makes
// one from the state that [Session.Export] returned in another process. A Session
// derives the eight keys of a context once and keeps them in locked memory. Neither
// the Session nor its state holds the key that they were derived from. An AES key is
// expanded when a message needs it, kept for the next message, and zeroed by Wipe and
// Export.
//
// # Status
//
// Errors are go-gssapi's FatalStatus, so that errors.Is(err,
// gssapi.ErrDefectiveToken) works:
//
//   - ErrNoContext: the session was wiped or exported
//   - ErrDefectiveToken: the bytes are not a token of the right form
//   - ErrBadMic: a token of the right form that is not genuine, or was made by
//     this side, or under another key
//   - ErrFailure: the surroundings (no locked memory, FIPS 140 rules)
//
// An InfoStatus is information about a message that is genuine and returned
// with it: InfoDuplicateToken, InfoOldToken, InfoUnseqToken, InfoGapToken, as in
// RFC 2744 section 3.9.1. A caller that drops the data of every non-nil error
// drops those messages; a caller that wants them asks with errors.As.
//
// If replay detection and sequencing are both on, a message that is too old for the
// window has Old and Unseq together: it came out of sequence, and may be a duplicate.
// The C libraries report Old alone.
package permsg
