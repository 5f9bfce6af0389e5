package secctx

import (
	"slices"
	"sync"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/seal"
)

// A Config says how a provider is wrapped. Only Sealer is required.
type Config struct {
	// Sealer seals and opens the tokens: a *seal.Host, or a client of the agent.
	// It stays the caller's, who closes it when no wrapped context is left.
	Sealer seal.Sealer

	// Audience is who may import what the Export method of a context makes;
	// the function [Export] names another. Zero: the exporting user.
	Audience seal.Audience

	// Exporters are whose tokens ImportSecContext takes: a token must have been
	// exported by a user, a group or a service of them (seal.User, seal.Group,
	// seal.Service). Any other is refused with GSS_S_UNAUTHORIZED before anything
	// is spent, and the error names its exporter. Whoever may reserve for an
	// audience can invent a context, with any client's name in it: set Exporters
	// wherever more users than the acceptor's may do that. A group or a service
	// needs the agent: a seal.Host refuses every import then, with
	// seal.ErrAudience. At most 16. Empty: whoever could reserve the token.
	Exporters []seal.Party

	// Lifetime is how long a token can be imported. Zero, or less:
	// seal.DefaultLifetime. It is cut to what is left of the context's own, and
	// to what the sealer allows.
	Lifetime time.Duration

	// Format names the plain tokens of the provider, so that a token reaches no
	// other parser than the one that it was made for. Tokens of another format are
	// refused before the mechanism sees a byte, and are not spent. Use the same name
	// wherever contexts are exported and imported, and another name for other plain
	// tokens: implementation, version of its format, architecture. A name has 1 to
	// 64 characters from '!' to '~'; any other name is replaced by one that is made
	// of it and of a digest.
	//
	// Empty, for a provider with a method PlainFormat() string: what that returns. What
	// a method ImportFormats() []string returns is imported too.
	//
	// Empty, for go-gssapi-c: the soname of the GSS-API library that the program is
	// linked with, and the architecture, as in "libgssapi_krb5.so.2/amd64" for MIT's.
	// Programs in C that export through libsealctx-gss use the same names. If the
	// program does not say what it is linked with, the one such library that the
	// process has loaded counts. If there are several, or none, every Export and
	// ImportSecContext returns an error wrapping ErrFormatUnknown and changes nothing.
	//
	// Empty, for any other provider: its Name, the architecture, and the GSS-API
	// library that the process has loaded, if there is one; several are ErrFormatUnknown.
	Format string

	// AllowInquire are the object identifiers, each with all that is below it,
	// that InquireByOid of a context may be asked for besides those known to
	// return no keys: ticket flags, authorization data, time of authentication
	// and SASL's strength factor, of MIT and of Heimdal. Everything else is
	// refused with GSS_S_UNAVAILABLE, since a session key or a lucid export that
	// leaves by this way is a second and unsealed export.
	AllowInquire []gssapi.Oid
}

// Wrap is [Config.Wrap] with nothing but a sealer set.
func Wrap(p gssapi.Provider, s seal.Sealer) gssapi.Provider {
	return (&Config{Sealer: s}).Wrap(p)
}

// Wrap returns a provider that is p, except that the contexts it makes export
// sealed tokens and that it imports nothing else. It implements exactly those
// of go-gssapi's optional interfaces that p implements, and answers with p's
// Name; other methods of p are to be called on p itself. Names and credentials
// are p's own. Release releases p, not the sealer.
//
// The Config may be used again and changed after. Wrap panics without a
// provider or a sealer, which is a mistake of the program.
func (c *Config) Wrap(p gssapi.Provider) gssapi.Provider {
	if isNil(p) || isNil(c.Sealer) {
		panic("secctx: Wrap needs a provider and a sealer")
	}
	w := &provider{
		inner:    p,
		sealer:   c.Sealer,
		audience: c.Audience,
		from:     slices.Clone(c.Exporters),
		lifetime: c.Lifetime,
		inquire:  inquirable(c.AllowInquire),
		refusal:  sealedBelow(),
	}
	format := c.Format
	find := func() ([]string, error) { return plainFormats(format, p) }
	w.exportFormats, w.importFormats = sync.OnceValues(find), sync.OnceValues(find)
	if w.lifetime <= 0 {
		w.lifetime = seal.DefaultLifetime
	}
	return w.combine()
}
