package kdc

import (
	"github.com/go-krb5/krb5/config"
	"github.com/go-krb5/krb5/crypto"
	option "github.com/go-krb5/krb5/iana/flags"
	"github.com/go-krb5/krb5/iana/keyusage"
	"github.com/go-krb5/krb5/iana/patype"
	"github.com/go-krb5/krb5/messages"
	"github.com/go-krb5/krb5/types"
)

// A requestMaker makes the TGS-REQ for a service.
type requestMaker = func(realm string, conf *config.Config, t *tgt, service types.PrincipalName) (messages.TGSReq, error)

// plainRequest asks for a service ticket.
func plainRequest(realm string, conf *config.Config, t *tgt, service types.PrincipalName) (messages.TGSReq, error) {
	return messages.NewTGSReq(t.library.Credentials.CName(), realm, realm, conf, t.ticket, t.key, service, false)
}

// forwardRequest asks for a forwarded ticket-granting ticket. The library has no
// call for that: the options are set in its request, and the proof over the
// request, which comes with it, is made anew (RFC 4120 section 3.3.2: the
// authenticator's checksum covers the body).
func forwardRequest(realm string, conf *config.Config, t *tgt, service types.PrincipalName) (messages.TGSReq, error) {
	req, err := plainRequest(realm, conf, t, service)
	if err != nil {
		return req, err
	}
	types.SetFlag(&req.ReqBody.KDCOptions, option.Forwardable)
	types.SetFlag(&req.ReqBody.KDCOptions, option.Forwarded)
	req.ReqBody.Addresses = nil
	body, err := req.ReqBody.Marshal()
	if err != nil {
		return req, err
	}
	etype, err := crypto.GetEtype(t.key.KeyType)
	if err != nil {
		return req, err
	}
	auth, err := types.NewAuthenticator(realm, req.ReqBody.CName)
	if err != nil {
		return req, err
	}
	auth.Cksum.CksumType = etype.GetHashID()
	auth.Cksum.Checksum, err = etype.GetChecksumHash(t.key.KeyValue, body, keyusage.TGS_REQ_PA_TGS_REQ_AP_REQ_AUTHENTICATOR_CHKSUM)
	if err != nil {
		return req, err
	}
	ap, err := messages.NewAPReq(t.ticket, t.key, auth)
	if err != nil {
		return req, err
	}
	value, err := ap.Marshal()
	if err != nil {
		return req, err
	}
	req.PAData = types.PADataSequence{{PADataType: patype.PA_TGS_REQ, PADataValue: value}}
	return req, nil
}
