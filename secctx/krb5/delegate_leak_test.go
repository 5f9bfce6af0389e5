//go:build linux

package krb5_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/memscan"
	"github.com/sealctx/sealctx/secctx/krb5"
)

// leakedCache is what the control keeps.
var leakedCache []byte

// delegateVictim takes a delegated credential, uses it, and ends it in the way that
// the environment says.
func delegateVictim(v *memscan.Victim) {
	dir, end := os.Getenv(leakDirVar), os.Getenv(leakEndVar)
	p, err := krb5.New(&krb5.Config{
		Keytab: filepath.Join(dir, "keytab"), CCache: filepath.Join(dir, "ccache"), ReplayCache: filepath.Join(dir, "replay"),
		AcceptDelegation: end != "not wanted",
	})
	v.Check(err)
	request, err := os.ReadFile(filepath.Join(dir, "request"))
	v.Check(err)
	sc, err := p.AcceptSecContext()
	v.Check(err)
	_, info, err := sc.Continue(request)
	v.Check(err)
	cred := info.DelegatedCredential
	if (cred == nil) != (end == "not wanted") {
		v.Fatal(fmt.Errorf("delegated credential: %v", cred))
	}
	switch end {
	case "not wanted":
		_, err = sc.Delete()
		v.Check(err)
	case "released":
		_, err = cred.Inquire()
		v.Check(err)
		v.Check(cred.Release())
		_, err = sc.Delete()
		v.Check(err)
	case "stored", "leaked":
		_, err = sc.Delete()
		v.Check(err)
		stored := filepath.Join(dir, "stored")
		_, _, err = cred.(gssapi.CredentialExtCredStore).StoreInto(nil, gssapi.CredUsageInitiateOnly, false, false, gssapi.WithCredStoreCCache(stored))
		v.Check(err)
		v.Check(cred.Release())
		if end == "leaked" {
			leakedCache, err = os.ReadFile(stored)
			v.Check(err)
		}
	case "exported":
		tok, err := sc.Export()
		v.Check(err)
		leakedCache = tok // the context's token is no place for it
		v.Check(cred.Release())
	case "dropped":
		sc, cred, info.DelegatedCredential = nil, nil, nil
		collectUntilWiped(v, p)
	}
	v.Checkpoint("ended")
}

// TestNothingLeftOfDelegation: of a delegated ticket's session key nothing is left
// once the credential is released, stored and released, or dropped, and where it was
// not wanted; and nothing of it is in the context's token. The control keeps a copy
// of the cache.
func TestNothingLeftOfDelegation(t *testing.T) {
	for _, end := range []string{"released", "stored", "exported", "dropped", "not wanted", "leaked"} {
		t.Run(end, func(t *testing.T) {
			w := newWatcher(t)
			b, f := delegation(t, krb5.Config{})
			require.NoError(t, b.realm.WriteKeytab(filepath.Join(w.dir, "keytab")))
			init, _ := b.start(t, gssapi.ContextFlagDeleg)
			request, info, err := init.Continue(nil)
			require.NoError(t, err)
			require.NotZero(t, info.Flags&gssapi.ContextFlagDeleg)
			w.write(t, "request", request)
			w.key("forwarded ticket's session key", f.forwarded[0].Key)
			require.NoError(t, w.set.Err())
			after := w.end(startVictim(t, w, "delegate", end))
			if end == "leaked" {
				require.NotEmpty(t, after, "the control")
				return
			}
			require.Empty(t, after)
		})
	}
}
