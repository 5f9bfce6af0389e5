package krb5_test

import (
	"encoding/asn1"
	"slices"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/keytab"
)

// adElement is an element of RFC 4120's AuthorizationData.
type adElement struct {
	Type int    `asn1:"explicit,tag:0"`
	Data []byte `asn1:"explicit,tag:1"`
}

func authData(t *testing.T, elements ...adElement) []byte {
	t.Helper()
	b, err := asn1.Marshal(elements)
	require.NoError(t, err)
	return b
}

// TestCriticalAuthorizationData: of authorization data that we do not know only
// AD-IF-RELEVANT may be ignored (RFC 4120 section 5.2.6), in the ticket and in
// the authenticator.
func TestCriticalAuthorizationData(t *testing.T) {
	const ifRelevant = 1
	pac := adElement{128, []byte("PAC")}
	wrapped := adElement{ifRelevant, authData(t, pac)}
	for _, c := range []struct {
		name     string
		elements []adElement
		major    error
	}{
		{"none", nil, nil},
		{"if relevant", []adElement{wrapped}, nil},
		{"twice", []adElement{wrapped, {ifRelevant, nil}}, nil},
		{"bare PAC", []adElement{pac}, gssapi.ErrUnauthorized},
		{"AND-OR", []adElement{{5, []byte("restriction")}}, gssapi.ErrUnauthorized},
		{"mandatory for KDC", []adElement{{8, []byte("restriction")}}, gssapi.ErrUnauthorized},
		{"unknown", []adElement{{999, nil}}, gssapi.ErrUnauthorized},
		{"unknown, first", []adElement{{999, nil}, wrapped}, gssapi.ErrUnauthorized},
		{"unknown, negative", []adElement{wrapped, {-17, nil}}, gssapi.ErrUnauthorized},
		{"reserved", []adElement{{0, nil}}, gssapi.ErrDefectiveToken},
	} {
		for place, put := range map[string]func(*forgery, []byte){
			"ticket":        func(f *forgery, ad []byte) { f.part.AuthData = ad },
			"authenticator": func(f *forgery, ad []byte) { f.plainAuth = func(b []byte) []byte { return addField8(t, b, ad) } },
		} {
			t.Run(c.name+", "+place, func(t *testing.T) {
				b := newBench(t, krb5.Config{})
				f := b.forge(t, 18)
				put(f, authData(t, c.elements...))
				_, out, err := b.show(t, f.bytes(t))
				require.ErrorIs(t, err, c.major)
				if c.major == gssapi.ErrUnauthorized {
					requireCode(t, err, c.major, krb5.KRB_ERR_GENERIC, out)
				}
			})
		}
	}
}

// addField8 appends the field [8], authorization data, to an Authenticator.
func addField8(t *testing.T, plain, ad []byte) []byte {
	t.Helper()
	var app, seq asn1.RawValue
	_, err := asn1.Unmarshal(plain, &app)
	require.NoError(t, err)
	_, err = asn1.Unmarshal(app.Bytes, &seq)
	require.NoError(t, err)
	field, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 8, IsCompound: true, Bytes: ad})
	require.NoError(t, err)
	inner, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: append(slices.Clone(seq.Bytes), field...)})
	require.NoError(t, err)
	outer, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassApplication, Tag: app.Tag, IsCompound: true, Bytes: inner})
	require.NoError(t, err)
	return outer
}

// TestErrorDoesNotObey: a service name, which anybody can write, brings no
// control character into an error and so into a log.
func TestErrorDoesNotObey(t *testing.T) {
	b := newBench(t, krb5.Config{})
	f := b.forge(t, 18)
	f.service.Parts = []string{"x\r\x1b[2J\x85\u202e 2026 login OK\xff"}
	_, _, err := b.show(t, f.bytes(t))
	require.ErrorIs(t, err, krb5.KRB_AP_ERR_NOKEY)
	require.Contains(t, err.Error(), `x\x0d\x1b[2J\x85\xe2\x80\xae 2026 login OK\xff`)
}

// TestIntegrityComesFirst: where one key has the right version and does not
// open the ticket, that is the error, whatever other keys there are and in
// whatever order.
func TestIntegrityComesFirst(t *testing.T) {
	for name, order := range map[string][]uint32{"before": {1, 2}, "after": {2, 1}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, krb5.Config{})
			f := b.forge(t, 18)
			var entries []keytab.Entry
			for _, kvno := range order {
				e := f.key
				e.KVNO, e.Key.Value = kvno, randomKey(18)
				entries = append(entries, e)
			}
			data, err := keytab.MarshalTo(make([]byte, 4096), entries)
			require.NoError(t, err)
			b.acceptor, err = b.p.KeytabCredential(nil, data)
			require.NoError(t, err)
			_, out, err := b.show(t, f.bytes(t))
			requireCode(t, err, gssapi.ErrBadMic, krb5.KRB_AP_ERR_BAD_INTEGRITY, out)
			f.kvno = 3
			_, out, err = b.show(t, f.bytes(t))
			requireCode(t, err, gssapi.ErrNoCred, krb5.KRB_AP_ERR_BADKEYVER, out)
		})
	}
}
