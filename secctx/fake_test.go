package secctx

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
)

// fakeProvider is a mechanism small enough to be driven into every corner, and
// real enough that "the peer's next message opens" means something: two ends
// share a key and count their messages. It has the manners of go-gssapi-c where
// they are bad: Inquire releases names that it gave out, Continue on an
// exported context begins anew or panics, absent credentials are nil pointers.
type fakeProvider struct {
	name       string
	contextSet int // extensions of the contexts it makes
	importSet  int // extensions of the contexts it imports

	imports  atomic.Int64 // calls of ImportSecContext
	exports  atomic.Int64
	restarts atomic.Int64 // handshakes begun on an exported context
	deletes  atomic.Int64
	inquired atomic.Int64
	released bool

	at func(step string) error // called at each step; an error fails it, a panic is a panic

	pad          int // bytes added to plain tokens
	empty        bool
	halfImports  bool   // imported contexts are not fully established
	plain        []byte // what Export returned last
	imported     []byte // what ImportSecContext was given last, itself
	importedCopy []byte

	log []string // calls of extensions

	credentialSet int    // extensions of its credentials
	used          string // secret of the credential that the last context was made with
}

// step runs the hook.
func (b *fakeProvider) step(name string) error {
	if b.at == nil {
		return nil
	}
	return b.at(name)
}

func (b *fakeProvider) Name() string { return b.name }

func (b *fakeProvider) ImportName(name string, _ gssapi.GssNameType) (gssapi.GssName, error) {
	return &fakeName{text: name}, nil
}

func (b *fakeProvider) AcquireCredential(name gssapi.GssName, _ []gssapi.GssMech, _ gssapi.CredUsage, _ *gssapi.GssLifetime) (gssapi.Credential, error) {
	if _, ok := name.(*fakeName); !ok {
		return nil, gssapi.ErrBadName
	}
	return &fakeCredential{}, nil
}

func (b *fakeProvider) InitSecContext(name gssapi.GssName, opts ...gssapi.InitSecContextOption) (gssapi.SecContext, error) {
	if _, ok := name.(*fakeName); !ok {
		return nil, gssapi.ErrBadName
	}
	var o gssapi.InitSecContextOptions
	for _, opt := range opts {
		opt(&o)
	}
	c := b.newContext()
	c.initiator, c.flags = true, o.Flags
	return c.combine(b.contextSet), nil
}

func (b *fakeProvider) AcceptSecContext(opts ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	if err := b.step("accept"); err != nil {
		return nil, err
	}
	return b.newContext().combine(b.contextSet), nil
}

func (b *fakeProvider) newContext() *fakeSecContext {
	return &fakeSecContext{b: b, transferable: true, expiry: gssapi.GssLifetime{Status: gssapi.GssLifetimeIndefinite}}
}

const fakeMagic = "fake context 1"

func (b *fakeProvider) ImportSecContext(token []byte) (gssapi.SecContext, error) {
	b.imports.Add(1)
	b.imported, b.importedCopy = token, slices.Clone(token)
	if err := b.step("import"); err != nil {
		return nil, err
	}
	rest, ok := bytes.CutPrefix(token, []byte(fakeMagic))
	if !ok || len(rest) < 50 {
		return nil, gssapi.ErrDefectiveToken
	}
	c := b.newContext()
	copy(c.key[:], rest)
	c.out, c.in = binary.BigEndian.Uint64(rest[32:]), binary.BigEndian.Uint64(rest[40:])
	c.initiator, c.established = rest[48] == 1, rest[49] == 1 && !b.halfImports
	c.imported = true
	return c.combine(b.importSet), nil
}

func (b *fakeProvider) InquireNamesForMech(gssapi.GssMech) ([]gssapi.GssNameType, error) {
	return []gssapi.GssNameType{gssapi.GSS_NT_USER_NAME}, nil
}

func (b *fakeProvider) IndicateMechs() ([]gssapi.GssMech, error) {
	return []gssapi.GssMech{gssapi.GSS_MECH_KRB5}, nil
}

func (b *fakeProvider) HasExtension(e gssapi.GssapiExtension) bool {
	return e == gssapi.HasExtLocalname
}

func (b *fakeProvider) Release() error {
	b.released = true
	return nil
}

// What the fake's extensions do: say that they were called.
type (
	fakeProviderRFC5587      struct{ b *fakeProvider }
	fakeProviderRFC5801      struct{ b *fakeProvider }
	fakeProviderGGF          struct{ b *fakeProvider }
	fakeProviderCredPassword struct{ b *fakeProvider }
	fakeProviderKrb5Identity struct{ b *fakeProvider }
	fakeProviderCredStore    struct{ b *fakeProvider }
)

var errFake = errors.New("fake mechanism's own error")

func (e fakeProviderRFC5587) IndicateMechsByAttrs(d, x, c []gssapi.GssMechAttr) ([]gssapi.GssMech, error) {
	e.b.log = append(e.b.log, "IndicateMechsByAttrs")
	return []gssapi.GssMech{gssapi.GSS_MECH_SPNEGO}, errFake
}

func (e fakeProviderRFC5801) InquireSASLNameForMech(m gssapi.GssMech) (gssapi.SASLMechInfo, error) {
	e.b.log = append(e.b.log, "InquireSASLNameForMech "+m.String())
	return gssapi.SASLMechInfo{SASLName: "GS2"}, errFake
}

func (e fakeProviderRFC5801) InquireMechForSASLName(name string) (gssapi.GssMech, error) {
	e.b.log = append(e.b.log, "InquireMechForSASLName "+name)
	return gssapi.GSS_MECH_SPKM, errFake
}

func (e fakeProviderGGF) ImportCredential(cred []byte) (gssapi.Credential, error) {
	e.b.log = append(e.b.log, "ImportCredential "+string(cred))
	return &fakeCredential{}, errFake
}

func (e fakeProviderCredPassword) AcquireCredentialWithPassword(_ gssapi.GssName, _ string, lifetime time.Duration, _ []gssapi.GssMech, _ gssapi.CredUsage) (gssapi.Credential, error) {
	e.b.log = append(e.b.log, "AcquireCredentialWithPassword "+lifetime.String())
	return &fakeCredential{}, errFake
}

func (e fakeProviderKrb5Identity) RegisterAcceptorIdentity(identity string) error {
	e.b.log = append(e.b.log, "RegisterAcceptorIdentity "+identity)
	return errFake
}

func (e fakeProviderKrb5Identity) SetCCacheName(name string) error {
	e.b.log = append(e.b.log, "SetCCacheName "+name)
	return errFake
}

func (e fakeProviderCredStore) AcquireCredentialFrom(_ gssapi.GssName, _ []gssapi.GssMech, _ gssapi.CredUsage, _ *gssapi.GssLifetime, opts ...gssapi.CredStoreOption) (gssapi.Credential, error) {
	e.b.log = append(e.b.log, "AcquireCredentialFrom")
	return &fakeCredential{}, errFake
}

// fakeSecContext is one end. It may be used concurrently, as MIT's may.
type fakeSecContext struct {
	b *fakeProvider

	mu           sync.Mutex
	key          [32]byte
	out, in      uint64
	flags        gssapi.ContextFlag
	initiator    bool
	established  bool
	imported     bool
	exported     bool
	deleted      bool
	transferable bool
	wantsMore    bool // ContinueNeeded, whatever Continue and Inquire say
	expiry       gssapi.GssLifetime
	names        []*fakeName // given out, released by Inquire and Delete
	delegated    *fakeCredential
}

// Continue exchanges two tokens: the initiator's key, and the acceptor's word.
func (c *fakeSecContext) Continue(token []byte) ([]byte, gssapi.SecContextInfoPartial, error) {
	if err := c.b.step("continue"); err != nil {
		return []byte("error token"), gssapi.SecContextInfoPartial{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.exported {
		if c.imported {
			panic("Continue on a context that was imported and then exported")
		}
		c.b.restarts.Add(1)
		c.exported = false
	}
	var reply []byte
	switch {
	case c.initiator && token == nil:
		_, _ = rand.Read(c.key[:])
		reply = c.key[:]
	case c.initiator:
		c.established = true
	default:
		copy(c.key[:], token)
		c.established, reply = true, []byte("welcome")
	}
	return reply, c.info(), nil
}

// info is the lock holder's.
func (c *fakeSecContext) info() gssapi.SecContextInfoPartial {
	var name *fakeName
	if c.established {
		name = &fakeName{text: "initiator"}
		c.names = append(c.names, name)
	}
	return gssapi.SecContextInfoPartial{
		InitiatorName: name, Mech: gssapi.GSS_MECH_KRB5, Flags: c.flags, ExpiresAt: c.expiry, LocallyInitiated: c.initiator,
		FullyEstablished: c.established, ProtectionReady: c.established, Transferrable: c.transferable,
		DelegatedCredential: c.delegated, // a nil pointer in an interface, as go-gssapi-c has it
	}
}

func (c *fakeSecContext) ContinueNeeded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wantsMore || !c.established && !c.imported
}

func (c *fakeSecContext) Inquire() (*gssapi.SecContextInfo, error) {
	c.b.inquired.Add(1)
	if err := c.usable("inquire"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.release()
	info := c.info()
	var acceptor *fakeName
	return &gssapi.SecContextInfo{SecContextInfoPartial: info, AcceptorName: acceptor}, nil
}

func (c *fakeSecContext) release() {
	for _, n := range c.names {
		n.released = true
	}
	c.names = nil
}

// usable fails for a context that is not here, as the C library does.
func (c *fakeSecContext) usable(step string) error {
	if err := c.b.step(step); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.exported || c.deleted {
		return gssapi.ErrNoContext
	}
	return nil
}

func (c *fakeSecContext) Delete() ([]byte, error) {
	c.b.deletes.Add(1)
	err := c.b.step("delete")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.release()
	c.deleted = true
	return []byte("delete token"), err
}

func (c *fakeSecContext) Export() ([]byte, error) {
	c.b.exports.Add(1)
	if err := c.usable("export"); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	token := append([]byte(fakeMagic), c.key[:]...)
	token = binary.BigEndian.AppendUint64(token, c.out)
	token = binary.BigEndian.AppendUint64(token, c.in)
	token = append(token, flag(c.initiator), flag(c.established))
	token = append(token, make([]byte, c.b.pad)...)
	if c.b.empty {
		token = token[:0]
	}
	c.exported = true
	clear(c.key[:])
	c.b.plain = token
	return token, nil
}

func flag(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func (c *fakeSecContext) ProcessToken([]byte) error { return c.usable("process") }

func (c *fakeSecContext) ExpiresAt() (*gssapi.GssLifetime, error) {
	if err := c.usable("expires"); err != nil {
		return nil, err
	}
	if c.expiry.Status < 0 {
		return nil, nil
	}
	return &c.expiry, nil
}

func (c *fakeSecContext) WrapSizeLimit(_ bool, n uint, _ gssapi.QoP) (uint, error) {
	return n - 40, c.usable("limit")
}

func (c *fakeSecContext) mac(direction bool, seq uint64, msg []byte) []byte {
	h := hmac.New(sha256.New, c.key[:])
	h.Write(binary.BigEndian.AppendUint64([]byte{flag(direction)}, seq))
	h.Write(msg)
	return h.Sum(nil)
}

// protect gives a message its number and authenticates it.
func (c *fakeSecContext) protect(step string, msg []byte) ([]byte, error) {
	if err := c.usable(step); err != nil {
		return nil, err
	}
	c.mu.Lock()
	seq := c.out
	c.out++
	out := binary.BigEndian.AppendUint64(nil, seq)
	out = append(append(out, c.mac(c.initiator, seq, msg)...), msg...)
	c.mu.Unlock()
	return out, c.b.step(step + " numbered")
}

// verify checks that a message is the peer's next one.
func (c *fakeSecContext) verify(step string, in []byte) ([]byte, error) {
	if err := c.usable(step); err != nil {
		return nil, err
	}
	if len(in) < 40 {
		return nil, gssapi.ErrDefectiveToken
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	seq, mac, msg := binary.BigEndian.Uint64(in), in[8:40], in[40:]
	if !hmac.Equal(mac, c.mac(!c.initiator, seq, msg)) {
		return nil, gssapi.ErrBadMic
	}
	if seq != c.in {
		return nil, gssapi.InfoGapToken
	}
	c.in++
	return msg, nil
}

func (c *fakeSecContext) GetMIC(msg []byte, _ gssapi.QoP) ([]byte, error) {
	out, err := c.protect("getmic", msg)
	return out[:min(len(out), 40)], err
}

func (c *fakeSecContext) VerifyMIC(msg, mic []byte) (gssapi.QoP, error) {
	_, err := c.verify("verifymic", append(slices.Clone(mic), msg...))
	return 0, err
}

func (c *fakeSecContext) Wrap(msg []byte, conf bool, _ gssapi.QoP) ([]byte, bool, error) {
	out, err := c.protect("wrap", msg)
	return out, conf && err == nil, err
}

func (c *fakeSecContext) Unwrap(in []byte) ([]byte, bool, gssapi.QoP, error) {
	msg, err := c.verify("unwrap", in)
	return msg, err == nil, 0, err
}

type (
	fakeSecContextGGF     struct{ c *fakeSecContext }
	fakeSecContextRFC4121 struct{ c *fakeSecContext }
)

// InquireByOid gives away the session key, whatever it is asked for.
func (e fakeSecContextGGF) InquireByOid(oid gssapi.Oid) ([][]byte, error) {
	if err := e.c.usable("inquirebyoid"); err != nil {
		return nil, err
	}
	return [][]byte{e.c.key[:], oid}, nil
}

func (e fakeSecContextGGF) SetOption(option gssapi.Oid, value []byte) error {
	e.c.b.log = append(e.c.b.log, "SetOption "+string(option)+" "+string(value))
	return e.c.usable("setoption")
}

func (e fakeSecContextRFC4121) WrapAEAD(msg, associated []byte, conf bool, _ gssapi.QoP) ([]byte, bool, error) {
	out, err := e.c.protect("wrapaead", slices.Concat(msg, associated))
	return out, conf && err == nil, err
}

func (e fakeSecContextRFC4121) UnwrapAEAD(in, associated []byte) ([]byte, bool, error) {
	msg, err := e.c.verify("unwrapaead", in)
	return bytes.TrimSuffix(msg, associated), err == nil, err
}

// fakeName displays until it is released.
type fakeName struct {
	gssapi.GssName
	text     string
	released bool
}

func (n *fakeName) Display() (string, gssapi.GssNameType, error) {
	if n.released {
		return "", nil, gssapi.ErrBadName
	}
	return n.text, gssapi.GSS_NT_USER_NAME, nil
}

type fakeCredential struct{ gssapi.Credential }

// fakeExportable is a credential that can be exported, of a mechanism that knows no
// other type. It holds a secret, which its plain token has in clear.
type fakeExportable struct {
	b        *fakeProvider
	secret   string
	imported bool
}

const fakeCredentialMagic = "fake credential 1 "

func (c *fakeExportable) Export() ([]byte, error) {
	if err := c.b.step("export credential"); err != nil {
		return nil, err
	}
	token := append([]byte(fakeCredentialMagic), c.secret...)
	token = append(token, make([]byte, c.b.pad)...)
	if c.b.empty {
		token = token[:0]
	}
	c.b.plain = token
	return token, nil
}

func (c *fakeExportable) InquireByOid(oid gssapi.Oid) ([][]byte, error) {
	c.b.log = append(c.b.log, "InquireByOid")
	return [][]byte{[]byte(c.secret), oid}, errFake
}

func (c *fakeExportable) Release() error {
	c.b.log = append(c.b.log, "Release")
	return errFake
}

func (c *fakeExportable) Inquire() (*gssapi.CredInfo, error) {
	return &gssapi.CredInfo{Name: c.secret}, errFake
}

func (c *fakeExportable) InquireByMech(m gssapi.GssMech) (*gssapi.CredInfo, error) {
	return &gssapi.CredInfo{Name: c.secret + m.String()}, errFake
}

func (c *fakeExportable) Add(_ gssapi.GssName, _ gssapi.GssMech, _ gssapi.CredUsage, _, _ *gssapi.GssLifetime, mutate bool) (gssapi.Credential, error) {
	if mutate {
		return nil, nil
	}
	return (&fakeExportable{b: c.b, secret: c.secret + " added"}).combine(c.b.credentialSet), nil
}

// What the extensions of credentials do: say that they were called.
type (
	fakeExportableRFC4178      struct{ c *fakeExportable }
	fakeExportableRFC5588      struct{ c *fakeExportable }
	fakeExportableS4U          struct{ c *fakeExportable }
	fakeExportableCredPassword struct{ c *fakeExportable }
	fakeExportableCredStore    struct{ c *fakeExportable }
)

func (e fakeExportableRFC4178) SetNegotiationMechs(mechs []gssapi.GssMech) error {
	e.c.b.log = append(e.c.b.log, "SetNegotiationMechs")
	return errFake
}

func (e fakeExportableRFC4178) GetNegotiationMechs() ([]gssapi.GssMech, error) {
	return []gssapi.GssMech{gssapi.GSS_MECH_KRB5}, errFake
}

func (e fakeExportableRFC5588) StoreCredential(usage gssapi.CredUsage, mech gssapi.GssMech, overwrite, makeDefault bool) ([]gssapi.GssMech, gssapi.CredUsage, error) {
	return []gssapi.GssMech{mech}, usage, errFake
}

func (e fakeExportableS4U) AquireImpersonateName(gssapi.GssName, []gssapi.GssMech, gssapi.CredUsage, gssapi.GssLifetime) (gssapi.Credential, error) {
	return (&fakeExportable{b: e.c.b, secret: "impersonated"}).combine(e.c.b.credentialSet), nil
}

func (e fakeExportableS4U) AddImpersonateName(impersonator gssapi.Credential, _ gssapi.GssName, _ gssapi.GssMech, _ gssapi.CredUsage, _, _ gssapi.GssLifetime) (gssapi.Credential, error) {
	if _, err := e.c.b.own(impersonator); err != nil {
		return nil, err
	}
	return impersonator, nil
}

func (e fakeExportableCredPassword) AddWithPassword(gssapi.GssName, string, gssapi.GssMech, gssapi.CredUsage, gssapi.GssLifetime, gssapi.GssLifetime) (gssapi.Credential, error) {
	return (&fakeExportable{b: e.c.b, secret: "by password"}).combine(e.c.b.credentialSet), nil
}

func (e fakeExportableCredStore) StoreInto(mech gssapi.GssMech, usage gssapi.CredUsage, _, _ bool, _ ...gssapi.CredStoreOption) ([]gssapi.GssMech, gssapi.CredUsage, error) {
	return []gssapi.GssMech{mech}, usage, errFake
}

func (e fakeExportableCredStore) AddFrom(_ gssapi.GssName, _ gssapi.GssMech, _ gssapi.CredUsage, _, _ *gssapi.GssLifetime, mutate bool, _ ...gssapi.CredStoreOption) (gssapi.Credential, error) {
	return e.c.Add(nil, nil, 0, nil, nil, mutate)
}

// own returns the secret of a credential of this mechanism, or an error for
// another's, as go-gssapi-c does.
func (b *fakeProvider) own(c gssapi.Credential) (string, error) {
	if w, ok := c.(interface{ self() *fakeExportable }); ok {
		return w.self().secret, nil
	}
	return "", gssapi.ErrDefectiveCredential
}

func (c *fakeExportable) self() *fakeExportable { return c }

// exporter is a provider whose credentials can be exported and imported.
type exporter struct{ *fakeProvider }

func (e exporter) AcquireCredential(gssapi.GssName, []gssapi.GssMech, gssapi.CredUsage, *gssapi.GssLifetime) (gssapi.Credential, error) {
	return (&fakeExportable{b: e.fakeProvider, secret: "session key of alice"}).combine(e.credentialSet), nil
}

func (e exporter) ImportCredential(token []byte) (gssapi.Credential, error) {
	e.imports.Add(1)
	e.imported, e.importedCopy = token, slices.Clone(token)
	if err := e.step("import credential"); err != nil {
		return nil, err
	}
	secret, ok := bytes.CutPrefix(token, []byte(fakeCredentialMagic))
	if !ok {
		return nil, gssapi.ErrDefectiveCredential
	}
	return (&fakeExportable{b: e.fakeProvider, secret: string(secret), imported: true}).combine(e.credentialSet), nil
}

// The credentials that the last context was made with.
func (e exporter) InitSecContext(name gssapi.GssName, opts ...gssapi.InitSecContextOption) (gssapi.SecContext, error) {
	var o gssapi.InitSecContextOptions
	for _, opt := range opts {
		opt(&o)
	}
	if err := e.use(o.Credential); err != nil {
		return nil, err
	}
	return e.fakeProvider.InitSecContext(name, opts...)
}

func (e exporter) AcceptSecContext(opts ...gssapi.AcceptSecContextOption) (gssapi.SecContext, error) {
	var o gssapi.AcceptSecContextOptions
	for _, opt := range opts {
		opt(&o)
	}
	if err := e.use(o.Credential); err != nil {
		return nil, err
	}
	return e.fakeProvider.AcceptSecContext(opts...)
}

func (e exporter) use(c gssapi.Credential) error {
	e.used = ""
	if c == nil {
		return nil
	}
	var err error
	e.used, err = e.own(c)
	return err
}
