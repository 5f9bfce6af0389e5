package kdc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// Name is the realm's name. Its lower case is the one DNS domain mapped to
	// it, beside localhost.
	Name = "SEALCTX.TEST"

	// startTimeout bounds the wait for the KDC's port. It answers in 0.2 s on
	// an idle machine; a loaded one is given the rest.
	startTimeout = 20 * time.Second

	// startTries is how often another port is tried: between choosing a free
	// one and the KDC's bind somebody else may take it.
	startTries = 5
)

var (
	// ErrMissing means that a program of the Debian packages krb5-kdc,
	// krb5-admin-server or krb5-user is not installed; the text names it.
	ErrMissing = errors.New("kdc: program missing")

	// ErrStart means that the KDC did not answer on any of the ports tried.
	ErrStart = errors.New("kdc: not answering")
)

// enctypes are the encryption types of the realm, by the names that both MIT
// and Heimdal read in krb5.conf, keyed by their numbers (RFC 3962, RFC 8009).
var enctypes = map[int]string{
	17: "aes128-cts-hmac-sha1-96",
	18: "aes256-cts-hmac-sha1-96",
	19: "aes128-cts-hmac-sha256-128",
	20: "aes256-cts-hmac-sha384-192",
}

// numbers are their numbers, the most usual one first.
var numbers = []int{18, 17, 20, 19}

// service is the service of an encryption type, see [Realm.Populate].
func service(n int) string { return fmt.Sprintf("e%d/localhost", n) }

// Enctype names an encryption type; the empty string for a number that the
// realm does not have.
func Enctype(number int) string { return enctypes[number] }

// Realm is a running KDC and its files. It is not safe for concurrent use.
type Realm struct {
	dir  string
	port int
	done chan struct{}
	proc *os.Process
	log  bytes.Buffer
}

// tool finds a program of the KDC's packages, which plain users do not have on
// their PATH.
func tool(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, d := range []string{"/usr/sbin", "/usr/local/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(d, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: %s (Debian: krb5-kdc, krb5-admin-server, krb5-user)", ErrMissing, name)
}

// Start makes a realm in dir, which must exist and be empty, and waits until
// its KDC answers. The KDC dies with the calling process. Errors: [ErrMissing],
// [ErrStart], or what the programs said.
func Start(dir string) (*Realm, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	r := &Realm{dir: dir}
	if err := r.configure(88); err != nil {
		return nil, err
	}
	if _, err := r.run("kdb5_util", "create", "-s", "-r", Name, "-P", "not-a-secret"); err != nil {
		return nil, err
	}
	for range startTries {
		if err = r.serve(); err == nil {
			return r, nil
		}
		if errors.Is(err, ErrMissing) {
			break
		}
	}
	return nil, err
}

// path names a file of the realm.
func (r *Realm) path(name string) string { return filepath.Join(r.dir, name) }

// Keytab is the path of the keytab that holds the keys of every service and
// user of the realm.
func (r *Realm) Keytab() string { return r.path("keytab") }

// CCache is the path of the credential cache that [Realm.Login] fills.
func (r *Realm) CCache() string { return r.path("ccache") }

// Dir is the directory of the realm.
func (r *Realm) Dir() string { return r.dir }

// Env is the environment in which a program belongs to this realm: appended
// to os.Environ it wins over what stands there.
func (r *Realm) Env() []string {
	return []string{
		"KRB5_CONFIG=" + r.path("krb5.conf"),
		"KRB5_KDC_PROFILE=" + r.path("kdc.conf"),
		"KRB5_KTNAME=FILE:" + r.Keytab(),
		"KRB5CCNAME=FILE:" + r.CCache(),
		"KRB5RCACHEDIR=" + r.path("rcache"),
	}
}

// run executes a program of the realm and answers what it printed.
func (r *Realm) run(name string, args ...string) (string, error) {
	p, err := tool(name)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p, args...)
	cmd.Env = append(os.Environ(), r.Env()...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kdc: %s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// admin executes one request of kadmin.local. The program reports most
// failures on its standard error and exits with 0 all the same.
func (r *Realm) admin(request string) error {
	out, err := r.run("kadmin.local", "-r", Name, "-q", request)
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(out, "\n") {
		if strings.Contains(line, "while ") {
			return fmt.Errorf("kdc: kadmin.local: %s", line)
		}
	}
	return nil
}

// AddService makes a service, say "host/localhost", with one key of the named
// encryption type, and session keys of the same; its key goes into the keytab.
func (r *Realm) AddService(name, enctype string) error {
	return r.add(name, enctype, "setstr "+name+" session_enctypes "+enctype)
}

// AddUser makes a user whose key is in the keytab, for [Realm.Login].
func (r *Realm) AddUser(name string) error {
	return r.add(name, enctypes[18])
}

// add makes a principal, then performs the further requests.
func (r *Realm) add(name, enctype string, further ...string) error {
	requests := append([]string{
		"addprinc -randkey -e " + enctype + ":normal " + name,
	}, further...)
	requests = append(requests, "ktadd -k "+r.Keytab()+" -norandkey "+name)
	for _, q := range requests {
		if err := r.admin(q); err != nil {
			return err
		}
	}
	return nil
}

// Tickets is Login into a cache of its own, filled with tickets for all services
// that [Realm.Populate] makes, and answers its path: for initiators that do not
// talk to the KDC.
func (r *Realm) Tickets(user string) (string, error) {
	cache := r.path("ccache-tickets")
	if _, err := r.run("kinit", "-k", "-t", r.Keytab(), "-c", cache, user); err != nil {
		return "", err
	}
	services := []string{"-c", cache}
	for _, n := range numbers {
		services = append(services, service(n))
	}
	_, err := r.run("kvno", services...)
	return cache, err
}

// UserKeytab makes a keytab that holds the user's key alone, and answers its path.
func (r *Realm) UserKeytab(user string) (string, error) {
	keytab := r.path("keytab-" + user)
	return keytab, r.admin("ktadd -k " + keytab + " -norandkey " + user)
}

// Login fills the credential cache with a ticket for the user, by the keytab.
func (r *Realm) Login(user string) error {
	_, err := r.run("kinit", "-k", "-t", r.Keytab(), "-c", r.CCache(), user)
	return err
}

// LoginFor is Login into another cache with a ticket of a given lifetime, and
// answers the path of that cache.
func (r *Realm) LoginFor(user string, life time.Duration) (string, error) {
	cache := r.path("ccache-" + strconv.Itoa(int(life.Seconds())))
	_, err := r.run("kinit", "-k", "-t", r.Keytab(), "-c", cache,
		"-l", strconv.Itoa(int(life.Seconds()))+"s", user)
	return cache, err
}

// freePort asks the kernel for a port that nobody listens at.
func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// serve configures a free port and starts the KDC there.
func (r *Realm) serve() error {
	port, err := freePort()
	if err != nil {
		return err
	}
	if err := r.configure(port); err != nil {
		return err
	}
	r.port = port
	if err := r.spawn(); err != nil {
		return err
	}
	deadline := time.Now().Add(startTimeout)
	for time.Now().Before(deadline) {
		select {
		case <-r.done:
			return fmt.Errorf("%w: it ended: %s", ErrStart, r.log.Bytes())
		case <-time.After(10 * time.Millisecond):
		}
		c, err := net.DialTimeout("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), time.Second)
		if err == nil {
			return c.Close()
		}
	}
	r.Stop()
	return fmt.Errorf("%w after %v: %s", ErrStart, startTimeout, r.log.Bytes())
}

// spawn starts krb5kdc and leaves a goroutine waiting for it. That goroutine
// keeps its thread, since the parent-death signal fires when the thread that
// forked is gone, not the process.
func (r *Realm) spawn() error {
	p, err := tool("krb5kdc")
	if err != nil {
		return err
	}
	cmd := exec.Command(p, "-n", "-r", Name)
	cmd.Env = append(os.Environ(), r.Env()...)
	cmd.Stdout, cmd.Stderr = &r.log, &r.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	done, started := make(chan struct{}), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // killed by Stop, or its log says why it ended
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	r.proc, r.done = cmd.Process, done
	return nil
}

// Port is the KDC's port on 127.0.0.1, TCP and UDP.
func (r *Realm) Port() int { return r.port }

// Stop kills the KDC and waits until it is gone. The directory stays.
func (r *Realm) Stop() {
	if r.proc == nil {
		return
	}
	_ = r.proc.Kill() // it may have ended
	<-r.done
	r.proc = nil
}

// Populate makes the principals that the tests of this module share: the user,
// logged in, and for each encryption type one service, e17/localhost to
// e20/localhost.
func (r *Realm) Populate(user string) error {
	for _, n := range numbers {
		if err := r.AddService(service(n), enctypes[n]); err != nil {
			return err
		}
	}
	if err := r.AddUser(user); err != nil {
		return err
	}
	return r.Login(user)
}
