package secctx

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
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

	// Format names the family of programs that read each other's plain tokens:
	// implementation, version of its format, architecture, as in "mit/1/amd64".
	// It must be the same where a token is made and where it is imported, and
	// different wherever the plain tokens are: a token of another format is
	// refused before the mechanism sees it.
	//
	// Empty: what the provider's method PlainFormat() string returns, if it has
	// one, else the provider's Name, the architecture and the GSS-API libraries
	// that the process has loaded, as libgssapi_krb5.so.2: MIT's and Heimdal's
	// have one provider, and cannot read each other. Set it where a library is
	// linked in statically. A name longer than 64 characters, or with
	// others than '!' to '~' of ASCII, is replaced by one made of it and of a
	// digest, so that different names stay different.
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
		format:   plainFormat(c.Format, p),
		inquire:  inquirable(c.AllowInquire),
	}
	if w.lifetime <= 0 {
		w.lifetime = seal.DefaultLifetime
	}
	return w.combine()
}

func plainFormat(format string, p gssapi.Provider) string {
	if f, ok := p.(interface{ PlainFormat() string }); ok && format == "" {
		format = f.PlainFormat()
	}
	if format == "" {
		format = strings.Join(append([]string{p.Name(), runtime.GOARCH}, gssLibraries()...), "/")
	}
	return printable(format)
}

// gssLibraries returns the GSS-API libraries that this process has mapped, up to
// the number of their binary interface: libgssapi_krb5.so.2 is MIT's and
// libgssapi.so.3 Heimdal's, and one provider in Go may stand for either.
func gssLibraries() []string {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil // the name alone, then
	}
	var found []string
	for _, field := range strings.Fields(string(maps)) {
		if name := soname.FindString(path.Base(field)); name != "" && !slices.Contains(found, name) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}

var soname = regexp.MustCompile(`^libgssapi\w*\.so\.\d+`)

// Limits of a plain format's name, see seal.Request.
const (
	maxFormat    = 64
	formatDigest = 8 // bytes of SHA-256, twice as many characters
)

// printable returns name, if it can stand in a token, or a name that can.
func printable(name string) string {
	clean := strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, name)
	if clean == name && len(name) <= maxFormat {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	digest := "#" + hex.EncodeToString(sum[:formatDigest])
	return clean[:min(len(clean), maxFormat-len(digest))] + digest
}
