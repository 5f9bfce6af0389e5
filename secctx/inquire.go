package secctx

import (
	"bytes"
	"slices"

	"github.com/golang-auth/go-gssapi/v3"
)

// The arcs below which Kerberos libraries number the inquiries about a context, as DER
// without tag and length.
const (
	arcMIT     = "\x2a\x86\x48\x86\xf7\x12\x01\x02\x02\x05" // 1.2.840.113554.1.2.2.5
	arcHeimdal = "\x2a\x85\x70\x2b\x0d"                     // 1.2.752.43.13
)

// harmless returns the inquiries that are known to return no keys. All others are
// refused: the SSPI session key (MIT 5), the lucid contexts (MIT 6, Heimdal 6), NegoEx
// keys (MIT 16, 17), Heimdal's subkeys (8, 9, 10), service key (13) and NTLM session keys
// (20, 27), and the inquiries of later releases.
func harmless() []gssapi.Oid {
	return []gssapi.Oid{
		gssapi.Oid(arcMIT + "\x01"),     // ticket flags
		gssapi.Oid(arcMIT + "\x0a"),     // authorization data, by type
		gssapi.Oid(arcMIT + "\x0c"),     // time of authentication
		gssapi.Oid(arcMIT + "\x0f"),     // SASL security strength factor
		gssapi.Oid(arcHeimdal + "\x02"), // ticket flags
		gssapi.Oid(arcHeimdal + "\x03"), // authorization data, by type
		gssapi.Oid(arcHeimdal + "\x0c"), // time of authentication
	}
}

// inquirable returns the harmless inquiries and the caller's. An empty identifier allows
// nothing, though every identifier is below it.
func inquirable(allow []gssapi.Oid) []gssapi.Oid {
	oids := harmless()
	for _, o := range allow {
		if len(o) > 0 {
			oids = append(oids, slices.Clone(o))
		}
	}
	return oids
}

// mayInquire reports whether an inquiry is allowed, by itself or by an arc above it. Both
// libraries look for the longest beginning that they know. An encoded arc does not begin
// another arc's encoding, so a beginning in bytes is a beginning in arcs.
func (p *provider) mayInquire(oid gssapi.Oid) bool {
	return slices.ContainsFunc(p.inquire, func(o gssapi.Oid) bool { return bytes.HasPrefix(oid, o) })
}
