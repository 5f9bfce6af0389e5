package krb5_test

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/internal/memscan"
	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/etype"
	"github.com/sealctx/sealctx/secctx/krb5/internal/keytab"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

// The victim of these tests establishes a context with the test that watches
// it, by files in a directory, uses it, ends it in the way that the
// environment says, and is scanned. Its other end, the test, knows every key.
const (
	leakDirVar = "KRB5_TEST_DIR"
	leakEndVar = "KRB5_TEST_END"
)

func TestMain(m *testing.M) {
	memscan.Main(m, map[string]func(*memscan.Victim){
		"acceptor":  acceptorVictim,
		"initiator": initiatorVictim,
		"many":      manyVictim,
		"fips":      fipsVictim,
		"delegate":  delegateVictim,
	})
}

func leakProvider(v *memscan.Victim) (*krb5.Provider, string) {
	dir := os.Getenv(leakDirVar)
	p, err := krb5.New(&krb5.Config{
		Keytab:      filepath.Join(dir, "keytab"),
		CCache:      filepath.Join(dir, "ccache"),
		ReplayCache: filepath.Join(dir, "replay"),
	})
	v.Check(err)
	return p, dir
}

// acceptorVictim establishes, stops at "live" with the context in use, ends
// it, and stops at "ended".
func acceptorVictim(v *memscan.Victim) {
	p, dir := leakProvider(v)
	sc, err := p.AcceptSecContext()
	v.Check(err)
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		v.Check(err)
		return b
	}
	out, _, err := sc.Continue(read("request"))
	v.Check(err)
	v.Check(os.WriteFile(filepath.Join(dir, "reply"), out, 0o600))
	v.Checkpoint("answered")
	useVictim(v, sc, read("sealed"), read("signed"))
	v.Checkpoint("live")
	endVictim(v, p, sc, read)
	v.Checkpoint("ended")
}

// initiatorVictim is acceptorVictim for the other side.
func initiatorVictim(v *memscan.Victim) {
	p, dir := leakProvider(v)
	target, err := p.ImportName(service, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
	v.Check(err)
	sc, err := p.InitSecContext(target, gssapi.WithInitiatorFlags(allFlags))
	v.Check(err)
	out, _, err := sc.Continue(nil)
	v.Check(err)
	v.Check(os.WriteFile(filepath.Join(dir, "request"), out, 0o600))
	v.Checkpoint("asked")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		v.Check(err)
		return b
	}
	if os.Getenv(leakEndVar) == "drop waiting" {
		sc = nil
		collectUntilWiped(v, p)
		v.Checkpoint("ended")
		return
	}
	reply := read("reply")
	if os.Getenv(leakEndVar) == "bad reply" {
		reply[len(reply)-1] ^= 1
		if _, _, err := sc.Continue(reply); !errors.Is(err, krb5.KRB_AP_ERR_BAD_INTEGRITY) {
			v.Fatal(fmt.Errorf("a bad reply: %w", err))
		}
		v.Checkpoint("ended")
		return
	}
	_, _, err = sc.Continue(reply)
	v.Check(err)
	useVictim(v, sc, read("sealed"), read("signed"))
	v.Checkpoint("live")
	endVictim(v, p, sc, read)
	v.Checkpoint("ended")
}

func useVictim(v *memscan.Victim, sc gssapi.SecContext, sealed, signed []byte) {
	for _, conf := range []bool{true, false} {
		_, _, err := sc.Wrap([]byte("a message that is sent"), conf, 0)
		v.Check(err)
	}
	for _, tok := range [][]byte{sealed, signed} {
		_, _, _, err := sc.Unwrap(tok)
		v.Check(err)
	}
	_, err := sc.GetMIC([]byte("another message"), 0)
	v.Check(err)
}

// leakedToken is what the control keeps.
var leakedToken []byte

func endVictim(v *memscan.Victim, p *krb5.Provider, sc gssapi.SecContext, read func(string) []byte) {
	switch end := os.Getenv(leakEndVar); end {
	case "export":
		tok, err := sc.Export()
		v.Check(err)
		memsafe.Wipe(tok)
	case "delete":
		_, err := sc.Delete()
		v.Check(err)
	case "drop":
		sc = nil
		collectUntilWiped(v, p)
	case "replay": // refused when all of it has been decrypted
		_, err := sc.Delete()
		v.Check(err)
		again, err := p.AcceptSecContext()
		v.Check(err)
		if _, _, err := again.Continue(read("request")); !errors.Is(err, krb5.KRB_AP_ERR_REPEAT) {
			v.Fatal(fmt.Errorf("a replay: %w", err))
		}
	case "import":
		tok, err := sc.Export()
		v.Check(err)
		next, err := p.ImportSecContext(tok)
		v.Check(err)
		useVictim(v, next, read("sealed 2"), read("signed 2"))
		_, err = next.Delete()
		v.Check(err)
		memsafe.Wipe(tok)
	case "failed import":
		tok, err := sc.Export()
		v.Check(err)
		tok[len("SCK5")+1+1] |= 0x80 // an unknown flag
		_, err = p.ImportSecContext(tok)
		if err == nil {
			v.Fatal(fmt.Errorf("the token was imported"))
		}
		memsafe.Wipe(tok)
	case "late failed import":
		tok, err := sc.Export()
		v.Check(err)
		if _, err = p.ImportSecContext(tok[:len(tok)-1]); err == nil {
			v.Fatal(fmt.Errorf("the token was imported"))
		}
		memsafe.Wipe(tok)
	case "leak":
		tok, err := sc.Export()
		v.Check(err)
		leakedToken = tok
	default:
		v.Fatal(fmt.Errorf("no end %q", end))
	}
}

// collectUntilWiped waits for the cleanups to have run.
func collectUntilWiped(v *memscan.Victim, p *krb5.Provider) {
	for deadline := time.Now().Add(20 * time.Second); p.LockedBytes() > 0; {
		if time.Now().After(deadline) {
			v.Fatal(fmt.Errorf("%d bytes of a dropped context are still locked", p.LockedBytes()))
		}
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
}

// watcher is the test's side.
type watcher struct {
	dir   string
	realm *krb5test.Realm
	p     *krb5.Provider
	set   memscan.Set
}

func newWatcher(t *testing.T) *watcher {
	t.Helper()
	w := &watcher{dir: t.TempDir()}
	var err error
	w.realm, err = krb5test.NewRealm("EXAMPLE.TEST", service)
	require.NoError(t, err)
	require.NoError(t, w.realm.WriteKeytab(filepath.Join(w.dir, "keytab")))
	require.NoError(t, w.realm.WriteCCache(filepath.Join(w.dir, "ccache"), "alice"))
	w.p, err = krb5.New(&krb5.Config{ // made before the victim's request is
		Keytab: filepath.Join(w.dir, "keytab"), CCache: filepath.Join(w.dir, "ccache"), ReplayCache: filepath.Join(w.dir, "replay"),
	})
	require.NoError(t, err)
	return w
}

func (w *watcher) write(t *testing.T, name string, b []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(w.dir, name), b, 0o600))
}

func (w *watcher) read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, name))
	require.NoError(t, err)
	return b
}

// know makes needles of all that the context is made of.
func (w *watcher) know(t *testing.T, request, reply []byte) {
	t.Helper()
	_, msg, err := kmsg.ParseToken(request)
	require.NoError(t, err)
	req, err := kmsg.ParseAPReq(msg)
	require.NoError(t, err)
	data, err := w.realm.Keytab()
	require.NoError(t, err)
	entries, err := keytab.Parse(data)
	require.NoError(t, err)
	var part *kmsg.TicketPart
	for _, e := range entries {
		w.key(fmt.Sprintf("service key %d", e.Key.EType), e.Key.Value)
		if e.Key.EType == req.Ticket.Enc.EType {
			plain, err := etype.Decrypt(nil, etype.ID(e.Key.EType), e.Key.Value, kmsg.UsageTicket, req.Ticket.Enc.Cipher)
			require.NoError(t, err)
			part, err = kmsg.ParseTicketPart(plain)
			require.NoError(t, err)
		}
	}
	require.Equal(t, int32(18), part.Key.EType)
	w.key("session key", part.Key.Value)
	plain, err := etype.Decrypt(nil, 18, part.Key.Value, kmsg.UsageAuthenticator, req.Authenticator.Cipher)
	require.NoError(t, err)
	auth, err := kmsg.ParseAuthenticator(plain)
	require.NoError(t, err)
	w.key("initiator's subkey", auth.Subkey.Value)
	if reply == nil {
		return
	}
	_, msg, err = kmsg.ParseToken(reply)
	require.NoError(t, err)
	enc, err := kmsg.ParseAPRep(msg)
	require.NoError(t, err)
	plain, err = etype.Decrypt(nil, 18, part.Key.Value, kmsg.UsageAPRepPart, enc.Cipher)
	require.NoError(t, err)
	rep, err := kmsg.ParseAPRepPart(plain)
	require.NoError(t, err)
	w.key("acceptor's subkey", rep.Subkey.Value)
}

func (w *watcher) key(name string, key []byte) {
	w.set.Bytes(name, key)
	w.set.AES(name, key)
}

// keys makes needles of the derived keys, which the test's side of the context
// has too: it is exported for them.
func (w *watcher) keys(t *testing.T, sc gssapi.SecContext) {
	t.Helper()
	tok, err := sc.Export()
	require.NoError(t, err)
	keys := tok[len(tok)-2*4*32:] // Ke, Ki, Kc, Kc of each direction, enctype 18
	for i, name := range []string{"Ke", "Ki", "Kc seal", "Kc sign", "Ke'", "Ki'", "Kc seal'", "Kc sign'"} {
		k := keys[32*i : 32*i+32]
		w.set.Bytes(name, k)
		if strings.HasPrefix(name, "Ke") {
			w.set.AES(name, k)
		} else {
			w.set.HMAC(name, sha1.New, k)
		}
	}
	require.NoError(t, w.set.Err())
}

// messages writes what the victim unwraps.
func (w *watcher) messages(t *testing.T, sc gssapi.SecContext) {
	t.Helper()
	for _, suffix := range []string{"", " 2"} {
		for _, name := range []string{"sealed", "signed"} { // the order in which they are unwrapped
			tok, _, err := sc.Wrap(bytes.Repeat([]byte("m"), 100), name == "sealed", 0)
			require.NoError(t, err)
			w.write(t, name+suffix, tok)
		}
	}
}

// startVictim starts a victim that is to end its context in a certain way.
func startVictim(t *testing.T, w *watcher, scenario, end string) *memscan.Target {
	return memscan.Start(t, scenario, memscan.Quiet(leakDirVar+"="+w.dir, leakEndVar+"="+end))
}

// end takes a victim to its end and returns what is left there.
func (w *watcher) end(tg *memscan.Target) []memscan.Hit {
	tg.At("ended")
	hits := tg.Left(&w.set)
	tg.Resume()
	tg.Wait()
	return hits
}

// watchAcceptor takes an acceptor to its end and returns what is found in its
// memory while the context lives, and after.
func watchAcceptor(t *testing.T, end string) (live, after []memscan.Hit) {
	t.Helper()
	w := newWatcher(t)
	target, err := w.p.ImportName(service, gssapi.GSS_KRB5_NT_PRINCIPAL_NAME)
	require.NoError(t, err)
	init, err := w.p.InitSecContext(target, gssapi.WithInitiatorFlags(allFlags))
	require.NoError(t, err)
	request, _, err := init.Continue(nil)
	require.NoError(t, err)
	w.write(t, "request", request)

	tg := startVictim(t, w, "acceptor", end)
	tg.At("answered")
	reply := w.read(t, "reply")
	_, _, err = init.Continue(reply)
	require.NoError(t, err)
	w.messages(t, init)
	w.know(t, request, reply)
	w.keys(t, init)
	tg.Resume()
	tg.At("live")
	live = tg.Scan(&w.set).InMemory()
	tg.Resume()
	return live, w.end(tg)
}

// watchInitiator is watchAcceptor for the other side.
func watchInitiator(t *testing.T, end string) (live, after []memscan.Hit) {
	t.Helper()
	w := newWatcher(t)
	acc, err := w.p.AcceptSecContext()
	require.NoError(t, err)
	tg := startVictim(t, w, "initiator", end)
	tg.At("asked")
	request := w.read(t, "request")
	reply, _, err := acc.Continue(request)
	require.NoError(t, err)
	w.write(t, "reply", reply)
	w.messages(t, acc)
	w.know(t, request, reply)
	w.keys(t, acc)
	tg.Resume()
	if waits := end == "drop waiting" || end == "bad reply"; !waits {
		tg.At("live")
		live = tg.Scan(&w.set).InMemory()
		tg.Resume()
	}
	return live, w.end(tg)
}

// TestNothingLeft: however a context ends, nothing of its keys, of the keys
// that led to it, of their schedules and HMAC states is in the process. The
// controls: while it lives its schedules are found, and a token that is not
// wiped is found.
func TestNothingLeft(t *testing.T) {
	for _, end := range []string{"export", "delete", "drop", "replay", "import", "failed import", "late failed import"} {
		t.Run("acceptor "+end, func(t *testing.T) {
			live, after := watchAcceptor(t, end)
			require.NotEmpty(t, live, "control: a live context's schedules")
			require.Empty(t, after)
		})
	}
	for _, end := range []string{"export", "delete", "drop", "drop waiting", "bad reply"} {
		t.Run("initiator "+end, func(t *testing.T) {
			live, after := watchInitiator(t, end)
			if end != "drop waiting" && end != "bad reply" {
				require.NotEmpty(t, live, "control: a live context's schedules")
			}
			require.Empty(t, after)
		})
	}
	t.Run("control", func(t *testing.T) {
		_, after := watchAcceptor(t, "leak")
		require.NotEmpty(t, after, "a token that was not wiped")
	})
}
