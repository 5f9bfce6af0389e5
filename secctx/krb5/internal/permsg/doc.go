// Package permsg is the per-message layer of the Kerberos 5 mechanism, RFC
// 4121 section 4, for an established context: Wrap and MIC tokens under the
// enctypes of package etype, 64-bit sequence numbers, and the replay and
// sequence services of RFC 2743 section 1.2.3.
//
// A [Session] is made by [New] from the key that the exchange agreed on, or by
// [Restore] from the state that another process got from [Session.Export]. It
// derives the eight keys of a context once and keeps them, and only them, in
// locked memory: neither a Session nor its exported state holds the key that
// they came from. An expanded AES key is made when a message needs one, kept
// for the next, and zeroed by Wipe and Export.
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
// Where replay detection and sequencing are both on, a message too old for the
// window answers Old and Unseq together: it did come out of sequence, and
// nobody can say whether it is a duplicate. The C libraries report only the
// first half of that.
package permsg
