package krb5

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
)

// name is a GssName. It never changes, so it may be shared, used after its
// context is gone and after Release, and by many goroutines.
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

// ImportName makes a name (RFC 2743 section 2.4.5). User names and the default
// type are principals in text form, primary/instance@REALM; without a realm
// they get the provider's. A host-based service "http@www.example.com" stands
// for the principal http/www.example.com, as a target or of a credential in
// whatever realm has it, compared in the provider's; without a host it is this
// host's. The host is taken in lower case and without a dot behind it. No name
// service is asked. Names need no Release.
// Errors: GSS_S_BAD_NAME, GSS_S_BAD_NAMETYPE.
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
// the dot behind an absolute name, which SRV records and resolvers give. It
// reports whether there is something left.
func canonicalHost(host string) (string, bool) {
	b := []byte(strings.TrimSuffix(host, "."))
	for i, c := range b { // of ASCII alone: all other bytes stay as they are
		if 'A' <= c && c <= 'Z' {
			b[i] = c - 'A' + 'a'
		}
	}
	host = string(b)
	return host, host != "" && !strings.HasSuffix(host, ".")
}

// anyHost reports whether n names a service without saying on which host.
func (n *name) anyHost() bool {
	return n.hostbased != "" && (!strings.Contains(n.hostbased, "@") || strings.HasSuffix(n.hostbased, "@"))
}

// matches reports whether a service principal is one that n names: as an
// acceptor's name a service without a host is every host's.
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
// bytes that MIT's library makes of it (RFC 1964 section 2.1.3). Exported names are
// equal if and only if the names are. The text in it may hold control characters:
// it is for comparing, Display's is for showing. ImportName reads it back.
// GSS_S_NAME_NOT_MN for a name that is not a mechanism name.
func (n *name) Export() ([]byte, error) {
	if !n.mn || n.principal.Realm == "" {
		return nil, fail(gssapi.ErrNameNotMn, nil)
	}
	text := n.principal.Exported()
	b := binary.BigEndian.AppendUint32(exportHead(), uint32(len(text)))
	return append(b, text...), nil
}

// Compare reports whether both are the same principal, realm included: a KDC may
// give its principals the names of other realms' hosts. A host-based name is one
// of Config.Realm; without that it equals none that has a realm, as a user or
// principal name without one does not. GSS_S_BAD_NAME for a name of another
// provider.
func (n *name) Compare(other gssapi.GssName) (bool, error) {
	o, ok := other.(*name)
	if !ok || o == nil {
		return false, fail(gssapi.ErrBadName, ErrForeign)
	}
	return n.compared().Equal(o.compared()), nil
}

// compared is the principal that Compare takes n for.
func (n *name) compared() kmsg.Principal {
	p := n.principal
	if p.Realm == "" {
		p.Realm = n.assumed
	}
	return p
}

// Display returns the name as text and its type: a host-based name as it was
// imported, everything else as a principal. The text of a principal is safe for
// logs, terminals and headers: in it control and format characters, unusual white
// space and bytes that are no UTF-8 are written as \xHH, which ImportName reads
// back. To decide who may do what, compare names, or what Export returns.
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

// Canonicalize returns the mechanism name. A name without a realm stays one
// that cannot be exported. GSS_S_BAD_MECH for another mechanism.
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

// isKrb5 reports whether mech is this mechanism, under its own OID or one of
// those that other makers gave it; nil is the default mechanism.
func isKrb5(mech gssapi.GssMech) bool {
	if mech == nil {
		return true
	}
	m, err := gssapi.MechFromOid(mech.Oid())
	return err == nil && m == gssapi.GSS_MECH_KRB5
}
