package keyring

import "errors"

// Errors of this package. What wraps them says which object is meant and what
// to do. The GSS status is what packages above report for each.
var (
	// ErrUnsafeDir: the runtime directory or an epoch's file has the wrong
	// owner, mode, type or filesystem (GSS_S_FAILURE).
	ErrUnsafeDir = errors.New("keyring: unsafe runtime directory")

	// ErrNoDir: no place for epochs was found (GSS_S_FAILURE).
	ErrNoDir = errors.New("keyring: no runtime directory")

	// ErrNoSpace: the filesystem of the runtime directory is full
	// (GSS_S_FAILURE).
	ErrNoSpace = errors.New("keyring: no space in the runtime directory")

	// ErrDamaged: an epoch's file was truncated, overwritten or copied
	// (GSS_S_FAILURE).
	ErrDamaged = errors.New("keyring: epoch is damaged")

	// ErrOtherBoot: the runtime directory has an epoch that was made under another
	// boot id, and none of this process's. A process that sees that boot id may
	// still use it, so the file stays (GSS_S_FAILURE).
	ErrOtherBoot = errors.New("keyring: epochs of another boot")

	// ErrFull: as many tokens are outstanding as the epoch allows, or as many
	// epochs alive (GSS_S_FAILURE).
	ErrFull = errors.New("keyring: full")

	// ErrSpent: the slot does not hold the word: the token was claimed,
	// cancelled or taken back before, or was taken over after it had expired
	// (GSS_S_NO_CONTEXT).
	ErrSpent = errors.New("keyring: already claimed")

	// ErrExpired: the time that was asked about is over (GSS_S_NO_CONTEXT).
	ErrExpired = errors.New("keyring: lifetime is over")

	// errNotOpen: the epoch no longer seals; take the current one
	// (GSS_S_FAILURE).
	errNotOpen = errors.New("keyring: epoch is closed")

	// ErrRetired: the epoch is retired, or its file is gone
	// (GSS_S_DEFECTIVE_TOKEN for its tokens).
	ErrRetired = errors.New("keyring: epoch is retired")

	// ErrUnknown: no epoch has this id (GSS_S_DEFECTIVE_TOKEN).
	ErrUnknown = errors.New("keyring: unknown epoch")

	// ErrOptions: a value of Options is out of range (GSS_S_FAILURE).
	ErrOptions = errors.New("keyring: bad options")

	// ErrClosed: the ring was closed (GSS_S_FAILURE).
	ErrClosed = errors.New("keyring: ring is closed")
)
