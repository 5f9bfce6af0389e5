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
	// Sealer seals and opens the tokens. It is a *seal.Host or a client of the agent.
	// The caller closes it after the last wrapped context has been deleted.
	Sealer seal.Sealer

	// Audience says which processes may import what the Export method of a context or
	// a credential makes. [Export] and [ExportCredential] name another audience. Zero:
	// processes of the exporting user.
	Audience seal.Party

	// Exporters says whose tokens are imported: a user, a group or a service of these
	// (seal.User, seal.Group, seal.Service) must have exported the token, 16 at most.
	// Any other token is refused with GSS_S_UNAUTHORIZED before anything is spent, and
	// the error names the token's exporter.
	//
	// A user who may reserve tokens for an audience can invent a context with any
	// client's name in it. Set Exporters wherever more users than the acceptor's may do
	// that. Groups and services need the agent: with a seal.Host every import then
	// fails with seal.ErrRequest. Empty: any user who could reserve the token.
	Exporters []seal.Party

	// Lifetime is how long a token can be imported. It is cut to what is left of the
	// context's own lifetime, and to what the sealer allows. Zero or less:
	// two minutes.
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

	// AllowInquire adds object identifiers that InquireByOid of contexts and
	// credentials accepts. An identifier stands for everything below it too. Those known
	// to return no keys are accepted anyway: ticket flags, authorization data, time of
	// authentication and SASL's strength factor, of MIT and of Heimdal. InquireByOid
	// refuses all others with GSS_S_UNAVAILABLE, because a session key or a lucid context
	// that leaves this way is a second export, and not sealed.
	AllowInquire []gssapi.Oid
}

// defaultLifetime is that of a seal.Request; a test holds it to it.
const defaultLifetime = 2 * time.Minute

// Wrap is [Config.Wrap] with only the sealer set.
func Wrap(p gssapi.Provider, s seal.Sealer) gssapi.Provider {
	return (&Config{Sealer: s}).Wrap(p)
}

// Wrap returns a provider that does what p does, except that its contexts and
// credentials export sealed tokens, and that it imports only sealed tokens. The provider
// has p's Name, and exactly those of go-gssapi's optional interfaces that p has. Call
// other methods of p on p. Release releases p, not the sealer.
//
// If libsealctx-gss is loaded in the process, every call that would make or import a
// context returns an error wrapping ErrSealedBelow. Wrap looks once: the library cannot
// take over calls after the program has started.
//
// The Config may be used again and changed afterwards. Wrap panics if the provider or
// the sealer is nil, which is a programmer's mistake.
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
		w.lifetime = defaultLifetime
	}
	return w.combine()
}
