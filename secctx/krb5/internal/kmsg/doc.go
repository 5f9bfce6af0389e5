// Package kmsg reads and writes the Kerberos messages of the AP exchange (RFC
// 4120) and the tokens that carry them in GSS-API (RFC 2743 section 3.1, RFC
// 4121 section 4.1): AP-REQ, Ticket, Authenticator, AP-REP, KRB-ERROR, KRB-CRED
// and the authenticator checksum 0x8003.
//
// Every byte that it reads comes from a peer, most of them before anything is
// authenticated. It reads strict DER with golang.org/x/crypto/cryptobyte: lengths in
// their shortest form, fields in order, and no element behind the last one. Its
// allocations are in proportion to the input.
//
// # Keys
//
// Parsed messages alias their input: [Key.Value] and the octet strings are
// slices of what was parsed, so that a message decrypted into locked memory
// leaves no copy of its key elsewhere. The functions that write a message with
// a key in it write into a buffer of the caller.
package kmsg

import "errors"

// What is wrong with a message: GSS_S_DEFECTIVE_TOKEN, unless another status is
// given. A name that comes from the program and not in a message is GSS_S_BAD_NAME.
var (
	ErrMalformed = errors.New("kmsg: malformed message")
	ErrVersion   = errors.New("kmsg: protocol version is not 5")
	ErrMsgType   = errors.New("kmsg: unexpected message type")
	ErrMech      = errors.New("kmsg: token of another mechanism") // GSS_S_BAD_MECH
	ErrName      = errors.New("kmsg: malformed principal name")

	// ErrCritical is authorization data that must be understood and is not known.
	// GSS_S_UNAUTHORIZED.
	ErrCritical = errors.New("kmsg: authorization data that must be understood")
)

// Limits on what a message may hold. Kerberos itself sets none.
const (
	// MaxToken is the longest context token in bytes. Windows' own largest
	// token, a ticket full of group memberships, is 65,535 bytes.
	MaxToken = 1 << 16

	// MaxParts is how many components a principal name may have. Two are
	// usual, services of DCE and of Active Directory have three.
	MaxParts = 16

	// MaxName is the length in bytes of a principal name, realm and components
	// together. Host names end at 255.
	MaxName = 1024
)

// Version is the protocol version in every message.
const Version = 5

// Name types of RFC 4120 section 6.2 and RFC 6111. They are hints and take no
// part in comparing names.
const (
	NTPrincipal  int32 = 1
	NTSrvInst    int32 = 2
	NTSrvHst     int32 = 3
	NTEnterprise int32 = 10
	NTWellknown  int32 = 11
)

// Key usages of RFC 4120 section 7.5.1.
const (
	UsageTicket        uint32 = 2
	UsageAuthenticator uint32 = 11
	UsageAPRepPart     uint32 = 12
	UsageCredPart      uint32 = 14
)
