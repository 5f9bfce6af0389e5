package krb5

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/internal/secureenv"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ccstore"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
)

// A Config says where keys and tickets are and what is accepted. The zero value
// uses the same places as MIT's and Heimdal's libraries without a krb5.conf, which
// the package does not read. The environment of a program that the kernel started
// with more rights than its caller has (setuid, file capabilities) does not count.
type Config struct {
	// Keytab is the acceptor's key table, a path with or without "FILE:". Empty:
	// $KRB5_KTNAME, or /etc/krb5.keytab.
	Keytab string

	// CCache is the name of the initiator's credential cache: a path with or
	// without "FILE:", the primary cache of a directory ("DIR:" and the
	// directory) or one of its caches ("DIR::" and the path), a cache of a
	// credential server ("KCM:", and the cache's name unless it is the default
	// one), or of the kernel's key rings ("KEYRING:persistent:UID",
	// "KEYRING:user:NAME", "KEYRING:session:NAME"). Empty: $KRB5CCNAME, or
	// /tmp/krb5cc_UID.
	CCache string

	// KCMSocket is the path at which the credential server listens. It must be
	// root's, the effective user's or FileOwner's. Empty:
	// /var/run/.heim_org.h5l.kcm-socket, as for MIT's library, Heimdal and SSSD.
	KCMSocket string

	// ClientKeytab is the path of a keytab with an initiator's own keys. A Granter
	// gets tickets with it if the cache has none. Empty: $KRB5_CLIENT_KTNAME, or
	// none.
	ClientKeytab string

	// FileOwner is a user whose keytabs, credential caches and credential servers
	// are believed, beside those of root and of the process's effective user: the user of a sidecar
	// that writes the cache, say. Files that others can write are refused all the
	// same. Zero, which is root: no further user.
	FileOwner int

	// ReplayCache is the directory in which this user's processes share the
	// replay cache. It is made if it does not exist, and must be this user's
	// alone. Empty: $KRB5RCACHEDIR, else /var/tmp/sealctx-krb5-EUID, which another
	// local user can make first to have every context refused.
	//
	// A new cache refuses requests that are older than itself. [New] makes it in a
	// directory that was chosen here or by $KRB5RCACHEDIR; elsewhere the first
	// acceptor's credential does, or the first AcceptSecContext without one. Where
	// a running process finds that the cache was removed or damaged, requests are
	// refused for as long as the clock skew. Keep it where it outlives the process
	// and no cleaner comes: a StateDirectory= or CacheDirectory= of systemd.
	//
	// Of processes that share it each may have its own ClockSkew: the largest
	// says how long records are kept. The first one with a larger skew has
	// authenticators refused that are older than the skew before.
	ReplayCache string

	// ReplayCapacity is how many records of 32 bytes a new replay cache has.
	// Contexts are refused when it is full, which begins at two thirds. Zero:
	// 1,048,576, good for a thousand contexts a second. An existing cache keeps
	// its size.
	ReplayCapacity int

	// Realm is given to user and principal names that have none, and to
	// host-based ones for comparing. Empty: they stay without. A credential can be
	// acquired, and a context initiated, for such a name, but it compares equal to
	// no name of a peer. A service of another realm than this is compared as a
	// principal name with its realm.
	Realm string

	// ClockSkew is how far the clocks of peers and KDC may differ from this
	// host's. Zero: five minutes.
	ClockSkew time.Duration

	// Enctypes are the encryption types of tickets and session keys that are
	// taken, of 17, 18, 19 and 20. Empty: all four. Under GODEBUG=fips140=only 17
	// and 18 are not taken, whatever stands here, since they need SHA-1.
	Enctypes []int32

	// Granter gets tickets from a KDC where the cache has none. Nil: contexts
	// are initiated with the tickets that the cache holds. Package kdc has one.
	Granter Granter

	// BindingsIfSent makes acceptors that were given channel bindings take
	// clients that send none, or could not know of any. Bindings that a client
	// does send must match, and so must those of a client that says it would have
	// sent them (MS-KILE 3.2.5.8, KERB_AP_OPTIONS_CBT): otherwise
	// GSS_S_BAD_BINDINGS. The flag GSS_C_CHANNEL_BOUND_FLAG of the context,
	// gssapi.ContextFlagChannelBound, is set if and only if the bindings were sent
	// and matched, so that one provider serves listeners that require bindings,
	// which look at the flag, and listeners that do not. False: an acceptor with
	// bindings refuses clients without (RFC 2743 section 1.1.6).
	BindingsIfSent bool

	// AcceptDelegation makes acceptors take the credentials that clients delegate.
	// Then a context's information has a DelegatedCredential and its flags have
	// gssapi.ContextFlagDeleg. The credential is the program's to release. It holds
	// a ticket-granting ticket of the client, its key in 256 bytes of locked memory:
	// it initiates in the client's name, with a Granter, and StoreInto writes it into
	// a cache. It is no part of the context, and travels with no Export. False: what
	// clients delegate is dropped, and the flag not shown.
	AcceptDelegation bool

	// NoAcceptorSubkey makes acceptors use the initiator's subkey instead of
	// asserting one of their own (RFC 4121 section 2). It is there for peers
	// that cannot do otherwise, and for testing against them.
	NoAcceptorSubkey bool
}

// A Granter asks a KDC for tickets. Only the context that is being initiated waits
// for it, and that context's Delete. Implementations are safe for concurrent use.
type Granter interface {
	// Grant returns a ticket for the service, or an error. It returns soon after
	// ctx is done, which is after a minute at most: the context waits for it. The
	// mechanism wipes the ticket's Key.
	Grant(ctx context.Context, r Request) (*Ticket, error)
}

// A Request describes the ticket that a Granter is to get, and what it may use.
// Principals are in text form.
type Request struct {
	Service string // without a realm where that is not known
	Client  string // empty: the cache's, or the keytab's first

	// TGT is the cache's ticket-granting ticket, the first choice. Nil: none is
	// alive. The mechanism wipes its Key when Grant has returned.
	TGT *Ticket
	// Offset is how far the KDC's clock is ahead of this host's. Zero: the cache
	// does not know. The times of TGT are by the KDC's clock.
	Offset time.Duration
	// CCache is the path of the cache, if it is a file. Its ticket-granting ticket
	// is the second choice, for callers that have no TGT at hand.
	CCache string
	// ClientKeytab is the path of a keytab, the third choice. Empty: none.
	ClientKeytab string
	// FileOwner is a user whose files are believed, beside root and the effective
	// user.
	FileOwner int
}

// A Ticket is a service ticket with its session key. Principals are in text
// form.
type Ticket struct {
	Client, Service string
	EType           int32
	Key             []byte    `json:"-"` // the session key
	Flags           uint32    // ticket flags as RFC 4120 numbers the bits, bit 0 the highest
	StartTime       time.Time // zero: it is valid already
	EndTime         time.Time
	Encoded         []byte // the DER of the Ticket of RFC 4120
}

// Format implements fmt.Formatter. It leaves out the session key.
func (t Ticket) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "[ticket of %s for %s]", t.Client, t.Service)
}

// LogValue implements slog.LogValuer. It leaves out the session key.
func (t Ticket) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(t)) }

const (
	defaultSkew   = 5 * time.Minute
	defaultKeytab = "/etc/krb5.keytab"
)

// check returns an error for values that are out of range, and fills in defaults
// that do not depend on the environment.
func (c *Config) check() error {
	if c.ClockSkew < 0 {
		return failf(gssapi.ErrFailure, "clock skew %v", c.ClockSkew)
	}
	if c.FileOwner < 0 {
		return failf(gssapi.ErrFailure, "file owner %d: a user id is not negative", c.FileOwner)
	}
	if c.ClockSkew == 0 {
		c.ClockSkew = defaultSkew
	}
	var why error
	usable := len(c.Enctypes) == 0
	for _, id := range c.Enctypes {
		err := etype.ID(id).Check()
		if etype.ID(id).KeySize() == 0 {
			return failf(gssapi.ErrFailure, "%w: enctype %d", KDC_ERR_ETYPE_NOSUPP, id)
		}
		usable, why = usable || err == nil, err
	}
	if !usable {
		return failf(gssapi.ErrFailure, "%w: no enctype of Config.Enctypes can be used: %w", KDC_ERR_ETYPE_NOSUPP, why)
	}
	return nil
}

// file returns the path of a keytab from the first of names that is not empty. It
// returns GSS_S_UNAVAILABLE for keytabs that are not files.
func file(names ...string) (string, error) {
	for _, n := range names {
		if n == "" {
			continue
		}
		kind, path, found := strings.Cut(n, ":")
		switch {
		case !found || strings.HasPrefix(n, "/"):
			return n, nil
		case (kind == "FILE" || kind == "WRFILE") && path != "":
			return path, nil
		}
		return "", failf(gssapi.ErrUnavailable, "%w: %q", ErrStore, n)
	}
	return "", nil
}

// owners returns the users whose files are believed, beside root and the effective
// user.
func (c *Config) owners() []int { return []int{c.FileOwner} }

func (c *Config) keytab(override string) (string, error) {
	return file(override, c.Keytab, secureenv.Get("KRB5_KTNAME"), defaultKeytab)
}

func (c *Config) ccache(override string) (*ccstore.Store, error) {
	return c.store(cmp.Or(override, c.CCache, secureenv.Get("KRB5CCNAME"), "/tmp/krb5cc_"+strconv.Itoa(os.Getuid())))
}

// store returns the credential cache of a name.
func (c *Config) store(name string) (*ccstore.Store, error) {
	s, err := ccstore.New(name, ccstore.Options{Owner: c.FileOwner, KCMSocket: c.KCMSocket})
	if err != nil {
		return nil, fail(gssapi.ErrUnavailable, err)
	}
	return s, nil
}

func (c *Config) clientKeytab(override string) (string, error) {
	return file(override, c.ClientKeytab, secureenv.Get("KRB5_CLIENT_KTNAME"))
}

// replayCache takes a directory; "dfl:" and "" are the default.
func (c *Config) replayCache(override string) (string, error) {
	switch kind, path, found := strings.Cut(override, ":"); {
	case override == "" || override == "dfl:":
	case found && kind == "dir" && path != "":
		return path, nil
	case strings.HasPrefix(override, "/"):
		return override, nil
	default:
		return "", failf(gssapi.ErrUnavailable, "%w: replay cache %q", ErrStore, override)
	}
	if dir := c.chosenReplayCache(); dir != "" {
		return dir, nil
	}
	return "/var/tmp/sealctx-krb5-" + strconv.Itoa(os.Geteuid()), nil
}

// chosenReplayCache is the directory if it was chosen by the program or by who
// runs it, else empty.
func (c *Config) chosenReplayCache() string {
	return cmp.Or(c.ReplayCache, secureenv.Get("KRB5RCACHEDIR"))
}
