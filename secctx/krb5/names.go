package krb5

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

// A name is a GssName. It never changes. Goroutines may share it. It stays good
// after its context and after Release.
type name struct {
	principal kmsg.Principal
	// hostbased is set for a name that was imported as service or
	// service@host. principal is its Kerberos form.
	hostbased string
	// assumed is the provider's realm, for comparing a host-based name, whose
	// principal has none.
	assumed string
	// mn is set for a mechanism name: canonicalized, or from a context.
	mn bool
}

var nameTypes = []gssapi.GssNameType{
	gssapi.GSS_NT_HOSTBASED_SERVICE, gssapi.GSS_NT_USER_NAME, gssapi.GSS_NT_EXPORT_NAME,
	gssapi.GSS_KRB5_NT_PRINCIPAL_NAME, gssapi.GSS_KRB5_NT_ENTERPRISE_NAME,
}

// ImportName makes a name (RFC 2743 section 2.4.5). No name service is asked.
// Names need no Release. Errors: GSS_S_BAD_NAME, GSS_S_BAD_NAMETYPE.
//
// User names and the default type are principals in text form,
// primary/instance@REALM. Without a realm they get the provider's.
//
// A host-based service "http@www.example.com" stands for the principal
// http/www.example.com. The host is taken in lower case and without a dot at its
// end. Without a host it is this host. As a target, and in a credential, the
// service may be in any realm. Compare takes it for one of the provider's realm.
func (p *Provider) ImportName(text string, nameType gssapi.GssNameType) (gssapi.GssName, error) {
	switch nameType {
	case gssapi.GSS_NT_HOSTBASED_SERVICE:
		return p.importHostbased(text)
	case gssapi.GSS_NT_EXPORT_NAME:
		return importExported([]byte(text))
	case gssapi.GSS_KRB5_NT_ENTERPRISE_NAME:
		return p.importPrincipal(kmsg.ParseEnterprise(text))
	case gssapi.GSS_NT_USER_NAME, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME, gssapi.GSS_NO_OID, nil:
		return p.importPrincipal(kmsg.ParsePrincipal(text))
	}
	return nil, failf(gssapi.ErrBadNameType, "name type %s", nameType)
}

func (p *Provider) importPrincipal(pr kmsg.Principal, err error) (gssapi.GssName, error) {
	if err != nil {
		return nil, fail(gssapi.ErrBadName, err)
	}
	if pr.Realm == "" {
		pr.Realm = p.config.Realm
	}
	return &name{principal: pr}, nil
}

func (p *Provider) importHostbased(text string) (gssapi.GssName, error) {
	service, host, _ := strings.Cut(text, "@")
	if service == "" || strings.ContainsAny(service, "/@") {
		return nil, failf(gssapi.ErrBadName, "%w: host-based service without a service", kmsg.ErrName)
	}
	if host == "" {
		var err error
		if host, err = os.Hostname(); err != nil {
			return nil, failf(gssapi.ErrBadName, "this host's name: %w", err)
		}
	}
	host, ok := canonicalHost(host)
	if !ok {
		return nil, failf(gssapi.ErrBadName, "%w: the host's last label is empty", kmsg.ErrName)
	}
	pr := kmsg.Principal{Type: kmsg.NTSrvHst, Parts: []string{service, host}}
	if err := pr.Check(); err != nil {
		return nil, fail(gssapi.ErrBadName, err)
	}
	return &name{principal: pr, hostbased: text, assumed: p.config.Realm}, nil
}

// canonicalHost returns a host as principals name it: in lower case, and without
// the dot at the end of an absolute name, as SRV records have it. It reports
// whether the last label is not empty.
func canonicalHost(host string) (string, bool) {
	b := []byte(strings.TrimSuffix(host, "."))
	for i, c := range b { // other bytes than ASCII stay as they are
		if 'A' <= c && c <= 'Z' {
			b[i] = c - 'A' + 'a'
		}
	}
	host = string(b)
	return host, host != "" && !strings.HasSuffix(host, ".")
}

// anyHost reports whether n names a service on no particular host.
func (n *name) anyHost() bool {
	return n.hostbased != "" && (!strings.Contains(n.hostbased, "@") || strings.HasSuffix(n.hostbased, "@"))
}

// matches reports whether n names a service principal. In an acceptor's name, a
// service without a host is the service of every host.
func (n *name) matches(p kmsg.Principal) bool {
	if n.anyHost() {
		return len(p.Parts) == 2 && p.Parts[0] == n.principal.Parts[0]
	}
	return n.names(p)
}

// exportTag is the token id of RFC 2743 section 3.2.
const exportTag = 0x0401

// importExported reads RFC 2743 section 3.2: 04 01, the OID's DER with its
// length u16, and the name in text form with its length u32.
func importExported(b []byte) (gssapi.GssName, error) {
	bad := func() (gssapi.GssName, error) {
		return nil, failf(gssapi.ErrBadName, "%w: exported name", kmsg.ErrName)
	}
	head := exportHead()
	if len(b) < len(head)+4 || !slices.Equal(b[:len(head)], head) {
		return bad()
	}
	b = b[len(head):]
	if int64(binary.BigEndian.Uint32(b)) != int64(len(b)-4) {
		return bad()
	}
	pr, err := kmsg.ParseExported(string(b[4:]))
	if err != nil {
		return nil, failf(gssapi.ErrBadName, "exported name: %w", err)
	}
	return &name{principal: pr, mn: true}, nil
}

func exportHead() []byte {
	oid := gssapi.GSS_MECH_KRB5.Oid()
	b := binary.BigEndian.AppendUint16(nil, exportTag)
	b = binary.BigEndian.AppendUint16(b, uint16(len(oid)+2))
	return append(append(b, 0x06, byte(len(oid))), oid...)
}

// Export returns the mechanism name in the form of RFC 2743 section 3.2, the same
// bytes as MIT's library (RFC 1964 section 2.1.3). Exported names are equal if and
// only if the names are. The text inside may hold control characters: show what
// Display returns instead. ImportName reads an exported name back. A name that is
// no mechanism name is GSS_S_NAME_NOT_MN.
func (n *name) Export() ([]byte, error) {
	if !n.mn || n.principal.Realm == "" {
		return nil, fail(gssapi.ErrNameNotMn, nil)
	}
	text := n.principal.Exported()
	b := binary.BigEndian.AppendUint32(exportHead(), uint32(len(text)))
	return append(b, text...), nil
}

// Compare reports whether both names are the same principal. Realms count: a KDC
// may give its principals the names of other realms' hosts. A host-based name is
// in Config.Realm. Without Config.Realm it equals no name with a realm, nor does a
// user or principal name without a realm. A name of another provider is
// GSS_S_BAD_NAME.
func (n *name) Compare(other gssapi.GssName) (bool, error) {
	o, ok := other.(*name)
	if !ok || o == nil {
		return false, fail(gssapi.ErrBadName, ErrForeign)
	}
	return n.compared().Equal(o.compared()), nil
}

// compared returns the principal that Compare takes n for.
func (n *name) compared() kmsg.Principal {
	p := n.principal
	if p.Realm == "" {
		p.Realm = n.assumed
	}
	return p
}

// Display returns the name as text, and its type. A host-based name is as it was
// imported. Any other is a principal in text form.
//
// The text of a principal is safe for logs, terminals and headers: control and
// format characters, unusual white space and bytes that are not UTF-8 are written
// as \xHH. ImportName reads them back. To authorize, compare names or exported
// names.
func (n *name) Display() (string, gssapi.GssNameType, error) {
	if n.hostbased != "" && !n.mn {
		return n.hostbased, gssapi.GSS_NT_HOSTBASED_SERVICE, nil
	}
	return n.principal.String(), gssapi.GSS_KRB5_NT_PRINCIPAL_NAME, nil
}

// Release does nothing: a name owns nothing.
func (n *name) Release() error { return nil }

// InquireMechs returns the one mechanism.
func (n *name) InquireMechs() ([]gssapi.GssMech, error) {
	return []gssapi.GssMech{gssapi.GSS_MECH_KRB5}, nil
}

// Canonicalize returns the mechanism name. A name without a realm cannot be
// exported afterwards either. Another mechanism is GSS_S_BAD_MECH.
func (n *name) Canonicalize(mech gssapi.GssMech) (gssapi.GssName, error) {
	if !isKrb5(mech) {
		return nil, fail(gssapi.ErrBadMech, nil)
	}
	c := *n
	c.mn = n.principal.Realm != "" || n.hostbased != ""
	return &c, nil
}

// Duplicate returns a copy.
func (n *name) Duplicate() (gssapi.GssName, error) {
	d := *n
	return &d, nil
}

// isKrb5 reports whether mech is this mechanism, under its own OID or one that
// other makers gave it. nil is the default mechanism.
func isKrb5(mech gssapi.GssMech) bool {
	if mech == nil {
		return true
	}
	m, err := gssapi.MechFromOid(mech.Oid())
	return err == nil && m == gssapi.GSS_MECH_KRB5
}
