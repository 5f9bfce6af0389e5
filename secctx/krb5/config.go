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
// takes the places that MIT's and Heimdal's libraries take. krb5.conf is not read.
// In a privileged program (setuid, file capabilities) the environment counts for
// nothing.
type Config struct {
	// Keytab is the acceptor's key table, a path with or without "FILE:". Empty:
	// $KRB5_KTNAME, or /etc/krb5.keytab.
	Keytab string

	// CCache is the name of the initiator's credential cache. Empty: $KRB5CCNAME,
	// else /tmp/krb5cc_UID. The names are
	//
	//   - PATH or FILE:PATH,
	//   - DIR:PATH for the primary cache of a directory, DIR::PATH for one of its caches,
	//   - KCM: for the default cache of a credential server, KCM:NAME for another,
	//   - KEYRING:persistent:UID, KEYRING:user:NAME or KEYRING:session:NAME.
	CCache string

	// KCMSocket is the path at which the credential server listens. The socket must
	// belong to root, the effective user or FileOwner. Empty:
	// /var/run/.heim_org.h5l.kcm-socket, as for MIT's library, Heimdal and SSSD.
	KCMSocket string

	// ClientKeytab holds an initiator's own keys. A Granter gets tickets with them
	// if the cache has none. Empty: $KRB5_CLIENT_KTNAME, else none.
	ClientKeytab string

	// FileOwner is a further user whose keytabs, credential caches and credential
	// servers are believed, besides root and the effective user. A sidecar that
	// writes the cache may need it. A file that other users can write is refused,
	// whatever its owner. Zero, which is root: no further user.
	FileOwner int

	// ReplayCache is the directory in which this user's processes share the replay
	// cache. It is made if it does not exist. No other user may own or write it.
	// Empty: $KRB5RCACHEDIR, else /var/tmp/sealctx-krb5-EUID, which another local
	// user can make first to have every context refused.
	//
	// A new cache refuses requests that are older than itself. [New] makes the cache
	// if the directory was chosen here or by $KRB5RCACHEDIR. A default directory is
	// made with the first acceptor's credential, or by the first AcceptSecContext
	// without one. If a running process finds that its cache was removed or damaged,
	// requests are refused for as long as the clock skew. Keep the directory where it
	// outlives the process and no cleaner empties it: use StateDirectory= or
	// CacheDirectory= of systemd.
	//
	// Processes that share a cache may differ in ClockSkew. The largest one decides
	// how long records are kept. When it grows, requests that are older than the
	// former skew are refused.
	ReplayCache string

	// ReplayCapacity is how many records of 32 bytes a new replay cache has. A full
	// cache refuses contexts. That begins at two thirds of the capacity. Zero:
	// 1,048,576, good for a thousand contexts a second. An existing cache keeps its
	// size.
	ReplayCapacity int

	// Realm is given to user and principal names that have none, and to host-based
	// names when they are compared. Empty: they stay without a realm. Such a name can
	// be acquired and initiated to, but equals no name of a peer. To compare with a
	// service of another realm, use a principal name with its realm.
	Realm string

	// ClockSkew is how far the clocks of peers and KDC may differ from this host's.
	// Zero: five minutes.
	ClockSkew time.Duration

	// Enctypes are the accepted encryption types of tickets and session keys, out of
	// 17, 18, 19 and 20. Empty: all four. Under GODEBUG=fips140=only 17 and 18 are
	// never accepted, because they need SHA-1.
	Enctypes []int32

	// Granter gets tickets from a KDC if the cache has none. Nil: contexts are
	// initiated with the cache's tickets alone. Package kdc has a Granter.
	Granter Granter

	// BindingsIfSent makes acceptors with channel bindings accept clients that send
	// none. Bindings that a client sends must match. A client that says that it sends
	// bindings wherever it has a channel (MS-KILE section 3.2.5.8,
	// KERB_AP_OPTIONS_CBT) must send them. Otherwise the status is
	// GSS_S_BAD_BINDINGS.
	//
	// gssapi.ContextFlagChannelBound (GSS_C_CHANNEL_BOUND_FLAG) is set if and only if
	// bindings were sent and matched. A listener that requires bindings looks at the
	// flag, so one provider serves it beside listeners that do not.
	//
	// False: an acceptor with bindings refuses clients without (RFC 2743 section
	// 1.1.6).
	BindingsIfSent bool

	// AcceptDelegation makes acceptors take the credentials that clients delegate.
	// Then a context's information has a DelegatedCredential and its flags have
	// gssapi.ContextFlagDeleg. The credential holds a ticket-granting ticket of the
	// client, with the key in 256 bytes of locked memory. It initiates in the client's
	// name, if there is a Granter, and StoreInto writes it into a cache. The program
	// releases it. Export does not move it.
	//
	// False: what clients delegate is dropped, and the flag not shown.
	AcceptDelegation bool

	// NoAcceptorSubkey makes acceptors use the initiator's subkey instead of
	// asserting one of their own (RFC 4121 section 2), for peers that cannot do
	// otherwise.
	NoAcceptorSubkey bool
}

// A Granter asks a KDC for tickets. Only the context that is being initiated, and
// its Delete, wait for it. Implementations are safe for concurrent use.
type Granter interface {
	// Grant returns a ticket for the service. It must return soon after ctx is done,
	// which is after a minute at most: until then the context cannot be used or
	// deleted. The mechanism wipes the Key of the ticket.
	Grant(ctx context.Context, r Request) (*Ticket, error)
}

// A Request describes the ticket that a Granter is to get, and what it may use.
// Principals are in text form.
type Request struct {
	Service string // without a realm if that is not known
	Client  string // empty: the cache's, or the keytab's first

	// TGT is the cache's ticket-granting ticket, the first choice. Nil: the cache
	// holds none that is valid. The mechanism wipes its Key when Grant has returned.
	TGT *Ticket
	// Offset is how far the KDC's clock is ahead of this host's. Zero: the cache
	// does not know. The times of TGT are by the KDC's clock.
	Offset time.Duration
	// CCache is the path of the cache, if it is a file. Its ticket-granting ticket
	// is the second choice, for callers that have no TGT at hand.
	CCache string
	// ClientKeytab is the path of a keytab, the third choice. Empty: none.
	ClientKeytab string
	// FileOwner is Config.FileOwner.
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

// chosenReplayCache is the directory that the program or its environment chose,
// empty for none.
func (c *Config) chosenReplayCache() string {
	return cmp.Or(c.ReplayCache, secureenv.Get("KRB5RCACHEDIR"))
}
