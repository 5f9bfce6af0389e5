package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/internal/secureenv"
	"github.com/sealctx/sealctx/secctx/krb5/krb5test"
)

const (
	realmName = "EXAMPLE.TEST"
	service   = "http/www.example.test"
	batch     = 100 // messages before and after each handover
	brief     = 50 * time.Millisecond
)

// longest is how long the play may take; it takes a second.
const longest = time.Minute

// Run plays the demonstration and writes its page to out. An error means that
// something did not go as sealctx promises, or could not be tried; where ctx was
// cancelled or out could not be written, it is the cause of that. Whatever
// happens, no process and no file of the play is left behind.
//
// The play ends with a scene of that many initiators at once: 0 to MaxCrowd.
func Run(ctx context.Context, out io.Writer, crowd int) error {
	if crowd < 0 || crowd > MaxCrowd {
		return fmt.Errorf("a crowd of %d: between 0 and %d can play", crowd, MaxCrowd)
	}
	began := time.Now()
	dir, err := stage()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeoutCause(ctx, longest, fmt.Errorf("the demonstration took longer than %v", longest))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	d := &director{page: newPage(out, stop), ctx: ctx, dir: dir}
	defer d.close()
	if err := d.play(crowd); err != nil {
		return err
	}
	d.text("\n%d processes, %.1f seconds, and every line above was checked before it was printed.\n",
		len(d.players), time.Since(began).Seconds())
	return context.Cause(ctx)
}

// play runs the scenes. When the context ends the players are killed, so that
// whatever a scene waits for fails; the cause is then the error that matters.
func (d *director) play(crowd int) error {
	scenes := []func() error{d.cast, d.session, d.secrets, d.cheats, d.handover, d.onward, d.late}
	if crowd > 0 {
		scenes = append(scenes, func() error { return d.crowd(crowd) })
	}
	for _, scene := range scenes {
		err := scene()
		if cause := context.Cause(d.ctx); cause != nil {
			return cause
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stage makes the play's own directory, on tmpfs as a keyring wants it. A directory
// that a variable names must be this user's: root may have another user's session.
func stage() (string, error) {
	session := secureenv.Get("XDG_RUNTIME_DIR")
	for _, parent := range []string{session, "/dev/shm", "/run"} {
		var fs unix.Statfs_t
		var st unix.Stat_t
		if parent == "" || unix.Statfs(parent, &fs) != nil || fs.Type != unix.TMPFS_MAGIC {
			continue
		}
		if parent == session && (unix.Stat(parent, &st) != nil || int(st.Uid) != os.Geteuid()) {
			continue
		}
		if dir, err := os.MkdirTemp(parent, "sealctx-demo-"); err == nil {
			return dir, nil
		}
	}
	return "", errors.New("no tmpfs that can be written in $XDG_RUNTIME_DIR, /dev/shm or /run; mount one and set XDG_RUNTIME_DIR")
}

// A director has the players and what they have come to.
type director struct {
	page
	ctx     context.Context
	dir     string
	players []*player

	alice, bob, acceptor, a, b *player

	realm *krb5test.Realm
	addr  string
	token []byte // alice's session, exported for worker A
	held  Outcome
}

func (d *director) close() {
	for _, p := range d.players {
		p.stop()
	}
}

// cast starts everybody. Only the acceptor is told where the keytab is.
func (d *director) cast() (err error) {
	if d.realm, err = krb5test.NewRealm(realmName, service); err != nil {
		return err
	}
	keytab := filepath.Join(d.dir, "keytab")
	if err := d.realm.WriteKeytab(keytab); err != nil {
		return err
	}
	d.head("sealctx demo: one Kerberos session, three owners")
	for _, p := range []struct {
		as                         **player
		role, name, keytab, legend string
	}{
		{&d.alice, "initiator", "alice", "", "initiator, with a ticket"},
		{&d.bob, "initiator", "bob", "", "initiator, with a ticket"},
		{&d.acceptor, "node", "acceptor", keytab, "has the service's keytab and takes connections"},
		{&d.a, "node", "worker A", "", "has no keytab"},
		{&d.b, "node", "worker B", "", "has no keytab"},
	} {
		if *p.as, err = start(d.ctx, d.dir, p.role, p.name, p.keytab); err != nil {
			return err
		}
		d.players = append(d.players, *p.as)
		d.row(p.name, "process %-8d %s", (*p.as).pid, p.legend)
	}
	d.note("Process ids are the kernel's word. There is no KDC: the tickets are minted from the keytab.")
	for _, p := range []*player{d.alice, d.bob} {
		if err := d.realm.WriteCCache(d.ccache(p.name), p.name); err != nil {
			return err
		}
	}
	return nil
}

func (d *director) connect(p *player) error {
	_, err := do[struct{}](p, "Client.Connect", ConnectArgs{d.addr, service, d.ccache(p.name)})
	return err
}

// talk exchanges a batch of messages and says with whom.
func (d *director) talk(p, with *player, session, before int) error {
	x, err := do[Exchanged](p, "Client.Exchange", batch)
	if err != nil {
		return err
	}
	served, err := do[int](with, "Node.Served", session)
	if err != nil {
		return err
	}
	if served-before != batch || x.Last-x.First+1 != batch {
		return fmt.Errorf("%s served %d messages and not %d", with.name, served-before, batch)
	}
	d.row(fmt.Sprintf("messages %d to %d", x.First, x.Last), "%d sealed, %d signed, answered by %s, all in sequence", x.Sealed, x.Signed, with.name)
	return nil
}

func (d *director) session() (err error) {
	d.head("1. A session")
	if d.addr, err = do[string](d.acceptor, "Node.Accept", struct{}{}); err != nil {
		return err
	}
	if err := d.connect(d.alice); err != nil {
		return err
	}
	d.row("alice", "authenticated to %s, and it to her", service)
	return d.talk(d.alice, d.acceptor, 0, 0)
}

func (d *director) secrets() error {
	d.head("2. The acceptor exports it, for worker A")
	x, err := do[Exported](d.acceptor, "Node.Export", ExportArgs{Session: 0, Pid: d.a.pid})
	if err != nil {
		return err
	}
	if x.PlainKeyAt < 0 || x.Stolen == "" {
		return errors.New("no keys were found in the plain token: this demonstration cannot show what it should")
	}
	if x.SealedKeyAt >= 0 {
		return fmt.Errorf("the sealed token has the session's keys at offset %d", x.SealedKeyAt)
	}
	if x.After != "NO_CONTEXT" {
		return fmt.Errorf("the exporter's handle answers %s", x.After)
	}
	d.row("the plain token", "%d bytes; the %d at offset %d are keys: with them a recorded", x.Plain, x.PlainKey, x.PlainKeyAt)
	d.row("", "message reads %q", x.Stolen)
	d.row("the sealed one", "%d bytes; no bytes of it open anything", len(x.Token))
	d.row("the acceptor", "%s, from now on", x.After)
	d.token = x.Token
	return nil
}

// refused has a node import a token and checks that it is refused as it should,
// and that the genuine token is as good as before.
func (d *director) refused(what string, by *player, token []byte, status, genuine string) error {
	out, err := do[Outcome](by, "Node.Import", token)
	if err != nil {
		return err
	}
	if out.Status != status {
		return fmt.Errorf("%s: %s and not %s %s", what, out.Status, status, out.Reason)
	}
	if state, err := do[string](by, "Node.State", d.token); err != nil || state != genuine {
		return errors.Join(fmt.Errorf("%s: the genuine token is %s", what, state), err)
	}
	d.row(what, "%s: %s", out.Status, out.Reason)
	return nil
}

func (d *director) cheats() error {
	d.head("3. Tokens that are not right")
	altered := slices.Clone(d.token)
	altered[len(altered)/2] ^= 1
	for _, c := range []struct {
		what   string
		by     *player
		token  []byte
		status string
	}{
		{"one bit altered", d.a, altered, "DEFECTIVE_TOKEN"},
		{"cut short", d.a, d.token[:len(d.token)-1], "DEFECTIVE_TOKEN"},
		{"shown by worker B", d.b, d.token, "UNAUTHORIZED"},
	} {
		if err := d.refused(c.what, c.by, c.token, c.status, "outstanding"); err != nil {
			return err
		}
	}
	d.note("After each of them the genuine token was still outstanding.")
	return nil
}

// hand has a node import a token of a session of from's and take over the connection.
func (d *director) hand(token []byte, from *player, session int, to *player) (Outcome, error) {
	out, err := do[Outcome](to, "Node.Import", token)
	if err != nil {
		return out, err
	}
	if out.Status != "COMPLETE" {
		return out, fmt.Errorf("%s could not import the genuine token: %s", to.name, out.Reason)
	}
	if _, err := do[struct{}](from, "Node.Pass", PassArgs{session, to.socket, out.Session}); err != nil {
		return out, err
	}
	if _, err = do[struct{}](to, "Node.Taken", out.Session); err == nil {
		d.took(to, out)
	}
	return out, err
}

func (d *director) took(to *player, out Outcome) {
	d.row(to.name, "%s: imported the session of %s, got the connection", out.Status, out.Peer)
}

// handOver has package handoff move a session with a peer. It returns how many messages
// its former holder has served too.
func (d *director) handOver(peer string, from *player, session int, to *player) (out Outcome, served int, err error) {
	if served, err = do[int](from, "Node.HandOver", HandOverArgs{session, to.socket}); err != nil {
		return out, served, err
	}
	out, err = do[Outcome](to, "Node.Received", peer+"@"+realmName)
	return out, served, err
}

func (d *director) handover() (err error) {
	d.head("4. The handover")
	if d.held, err = d.hand(d.token, d.acceptor, 0, d.a); err != nil {
		return err
	}
	if err := d.talk(d.alice, d.a, d.held.Session, 0); err != nil {
		return err
	}
	return d.refused("the token again", d.a, d.token, "NO_CONTEXT", "gone")
}

func (d *director) onward() error {
	d.head("5. And on, from worker A to worker B, by handoff.Send and handoff.Receive")
	out, _, err := d.handOver("alice", d.a, d.held.Session, d.b)
	if err != nil {
		return err
	}
	d.took(d.b, out)
	return d.talk(d.alice, d.b, out.Session, 0)
}

func (d *director) late() error {
	d.head("6. Too late")
	if err := d.connect(d.bob); err != nil {
		return err
	}
	if err := d.talk(d.bob, d.acceptor, 1, 0); err != nil {
		return err
	}
	x, err := do[Exported](d.acceptor, "Node.Export", ExportArgs{Session: 1, Pid: d.a.pid, Lifetime: brief})
	if err != nil {
		return err
	}
	time.Sleep(2 * brief)
	d.token = x.Token
	return d.refused(fmt.Sprintf("after %v of %v", 2*brief, brief), d.a, x.Token, "NO_CONTEXT", "expired")
}
