package krb5

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/golang-auth/go-gssapi/v3"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/internal/mitctx"
	"github.com/sealctx/sealctx/secctx/krb5/internal/permsg"
)

// mitFormats are the plain formats of MIT's library, of one architecture: as
// libsealctx-gss and secctx name them, and as secctx named them before. The replay
// window in such a token is a copy of memory, so another architecture's is not read.
var mitFormats = []string{
	"libgssapi_krb5.so.2/" + runtime.GOARCH,
	"github.com/golang-auth/go-gssapi-c/" + runtime.GOARCH + "/libgssapi_krb5.so.2",
}

// ImportFormats names the plain formats of other implementations that ImportSecContext
// reads: those of MIT's library, on amd64 and arm64. A context that a C program has
// accepted can so go on in a program without C. Export always writes PlainFormat.
func (p *Provider) ImportFormats() []string {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		return nil
	}
	return mitFormats
}

// errMIT is the cause where a context of MIT's library is not taken.
func errMIT(err error) error {
	return failf(gssapi.ErrDefectiveToken, "%w: %w", ErrFormat, err)
}

// importMIT makes the context of a token that MIT's library exported. What it does not
// need is dropped: delegated credentials, authorization data, the library's settings.
func (p *Provider) importMIT(b []byte) (gssapi.SecContext, error) {
	m, err := mitctx.Parse(b)
	if err != nil {
		return nil, errMIT(err)
	}
	f, err := mitFacts(m)
	if err != nil {
		return nil, errMIT(err)
	}
	if !p.now().Before(f.expires) {
		return nil, fail(gssapi.ErrContextExpired, nil)
	}
	var s *permsg.Session
	err = p.arena.try(0, func(pool *memsafe.Pool) error {
		s, err = permsg.New(pool, permsg.Params{
			Initiator: m.Initiator, AcceptorSubkey: m.AcceptorSubkey, Etype: etype.ID(m.Enctype), Key: m.Key,
			SendSeq: m.SendSeq, RecvSeq: m.RecvSeq, Seen: m.Seen, Replay: m.Replay, Sequence: m.Sequence,
		})
		return err
	})
	switch {
	case errors.Is(err, permsg.ErrParams):
		return nil, errMIT(err)
	case err != nil:
		return nil, fail(gssapi.ErrFailure, err)
	}
	c := p.newContext(m.Initiator)
	c.establish(f, s)
	return c, nil
}

// mitFacts checks what a token says beside its keys.
func mitFacts(m *mitctx.Context) (facts, error) {
	const unknown = gssapi.ContextFlagDceStyle | gssapi.ContextFlagAnon
	flags := gssapi.ContextFlag(m.Flags)
	switch {
	case flags&unknown != 0:
		return facts{}, fmt.Errorf("%w: DCE style or anonymous", mitctx.ErrFormat)
	case m.Replay != (flags&gssapi.ContextFlagReplay != 0), m.Sequence != (flags&gssapi.ContextFlagSequence != 0):
		return facts{}, fmt.Errorf("%w: flags and window do not match", mitctx.ErrFormat)
	case m.EndTime == 0:
		return facts{}, fmt.Errorf("%w: no end time", mitctx.ErrFormat)
	}
	own, err := mitName(m.Own)
	if err != nil {
		return facts{}, err
	}
	peer, err := mitName(m.Peer)
	if err != nil {
		return facts{}, err
	}
	f := facts{initiator: peer, acceptor: own, flags: flags & exportFlags, expires: time.Unix(int64(m.EndTime), 0)}
	if m.Initiator {
		f.initiator, f.acceptor = own, peer
	}
	return f, nil
}

func mitName(text []byte) (*name, error) {
	principal, err := kmsg.ParseExported(string(text))
	if err == nil {
		err = importable(principal)
	}
	if err != nil {
		return nil, err
	}
	return &name{principal: principal, mn: true}, nil
}
