package secctx

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/golang-auth/go-gssapi/v3"
)

// cProviders are the names of the providers over a C library. The plain tokens of
// such a provider are the library's.
var cProviders = []string{"github.com/golang-auth/go-gssapi-c"}

// plainFormats returns the names of a provider's plain formats. Exports are sealed as the
// first one. Imports take all of them. If the format is not certain, plainFormats returns
// an error wrapping ErrFormatUnknown.
func plainFormats(config string, p gssapi.Provider) ([]string, error) {
	if config != "" {
		return []string{contextFormat(config)}, nil
	}
	if f, ok := p.(interface{ PlainFormat() string }); ok && f.PlainFormat() != "" {
		formats := []string{contextFormat(f.PlainFormat())}
		if f, ok := p.(interface{ ImportFormats() []string }); ok {
			for _, name := range f.ImportFormats() {
				formats = append(formats, contextFormat(name))
			}
		}
		return formats, nil
	}
	linked, all, err := gssLibraries()
	if err != nil {
		return nil, unknownFormat(err.Error())
	}
	return formatsOver(p.Name(), linked, all)
}

// formatsOver is plainFormats for a provider of this name in a program that is
// linked with one GSS-API library and has these loaded.
func formatsOver(name, linked string, all []string) ([]string, error) {
	overC := slices.Contains(cProviders, name)
	switch {
	case overC && linked != "":
	case overC && len(all) == 1:
		linked = all[0]
	case overC && len(all) == 0:
		return nil, unknownFormat("no GSS-API library is loaded under a name that is known")
	case len(all) > 1:
		return nil, unknownFormat("this process has " + strings.Join(all, " and ") + " loaded")
	default: // a mechanism in Go, or a provider that may be over the one library
		return []string{contextFormat(strings.Join(append([]string{name, runtime.GOARCH}, all...), "/"))}, nil
	}
	// The second name is the older one of the same tokens.
	return []string{
		contextFormat(linked + "/" + runtime.GOARCH),
		contextFormat(strings.Join([]string{name, runtime.GOARCH, linked}, "/")),
	}, nil
}

func unknownFormat(why string) error {
	return status(gssapi.ErrFailure, fmt.Errorf("%w: %s; set secctx.Config.Format, to the same name wherever contexts of this provider are exported and imported, such as %q", ErrFormatUnknown, why, "libgssapi_krb5.so.2/"+runtime.GOARCH))
}

// credentialPrefix begins the plain format of every credential, and of no context.
const credentialPrefix = "cred/"

// contextFormat returns the plain format of contexts for a name.
func contextFormat(name string) string {
	if rest, ok := strings.CutPrefix(name, credentialPrefix); ok {
		return digested("cred_"+rest, name)
	}
	return printable(name)
}

// credentialFormat returns the plain format of credentials of the provider whose
// contexts have this one.
func credentialFormat(context string) string { return printable(credentialPrefix + context) }

// Limits of a plain format's name, see seal.Request.
const (
	maxFormat    = 64
	formatDigest = 8 // bytes of SHA-256, twice as many characters
)

// printable returns name if it can stand in a token, or a name that can.
func printable(name string) string {
	if len(name) <= maxFormat && !strings.ContainsFunc(name, unprintable) {
		return name
	}
	return digested(name, name)
}

// digested returns what can stand in a token of name, with a digest of original.
func digested(name, original string) string {
	name = strings.Map(func(r rune) rune {
		if unprintable(r) {
			return '_'
		}
		return r
	}, name)
	sum := sha256.Sum256([]byte(original))
	digest := "#" + hex.EncodeToString(sum[:formatDigest])
	return name[:min(len(name), maxFormat-len(digest))] + digest
}

func unprintable(r rune) bool { return r <= ' ' || r > '~' }
