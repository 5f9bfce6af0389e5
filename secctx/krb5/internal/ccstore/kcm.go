package ccstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ownfile"
	"github.com/sealctx/sealctx/secctx/krb5/internal/stream"
)

// DefaultKCMSocket is where Heimdal's kcm and SSSD's listen.
const DefaultKCMSocket = "/var/run/.heim_org.h5l.kcm-socket"

// The protocol is Heimdal's, which has no other description than its code and
// that of those who speak it:
//
//	request = length u32 | 2 | 0 | operation u16 | parameters
//	answer  = length u32 | fault u32 | status u32 | result
//
// with big-endian integers; the length of an answer counts status and result. A
// fault, which is not 0, says that there was no operation: nothing is behind it.
// Names end with a zero byte; principals and credentials are as in a cache file.
const (
	kcmGetPrincipal    = 8     // name: principal
	kcmGetUUIDs        = 9     // name: 16 bytes for each credential
	kcmGetByUUID       = 10    // name, 16 bytes: credential
	kcmGetDefaultCache = 20    // nothing: name
	kcmGetOffset       = 22    // name: int32, seconds
	kcmGetList         = 13001 // name: count u32, then for each length u32, credential
)

// Statuses are numbers of MIT's library.
const (
	kcmNotFound    = -1765328243
	kcmNoFile      = -1765328189
	kcmInternal    = -1765328188 // Heimdal: an operation that it does not know
	kcmIO          = -1765328191 // SSSD: the same
	kcmUnsupported = -1765328137 // SSSD: one that it does not have
)

const (
	kcmTimeout  = 20 * time.Second // for a whole cache; a server may have to be started
	maxKCMReply = 10 << 20         // bytes; MIT's library takes as many
	maxKCMName  = 1 << 10
)

// A kcmError is a server's refusal.
type kcmError int32

func (e kcmError) Error() string {
	switch e {
	case kcmNotFound, kcmNoFile:
		return "the credential server has no such cache of this user"
	}
	return fmt.Sprintf("the credential server answers with error %d", int32(e))
}

// Is makes a cache that is not there fs.ErrNotExist, as a file would be.
func (e kcmError) Is(target error) bool {
	return target == fs.ErrNotExist && (e == kcmNotFound || e == kcmNoFile)
}

var errKCM = errors.New("the credential server's answer is malformed")

// A kcmConn is a connection to a server.
type kcmConn struct {
	net.Conn
	buf  []byte // answers pass through it
	left *stream.Reader
}

// readKCM fetches a cache from a credential server.
func readKCM(name string, o Options, m Memory) (*ccache.Cache, error) {
	buf, wipe, err := m.Scratch(4 << 10)
	if err != nil {
		return nil, err
	}
	defer wipe()
	conn, err := dialKCM(o)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	c := &kcmConn{Conn: conn, buf: buf}
	if name == "" {
		if name, err = c.defaultCache(); err != nil {
			return nil, err
		}
	}
	return c.cache(name, m)
}

func dialKCM(o Options) (*net.UnixConn, error) {
	path := o.KCMSocket
	if path == "" {
		path = DefaultKCMSocket
	}
	d := net.Dialer{Timeout: kcmTimeout}
	conn, err := d.Dial("unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, fmt.Errorf("%w: no credential server listens at %s (sssd-kcm, heimdal-kcm)", ErrKind, path)
	}
	if err != nil {
		return nil, err
	}
	c := conn.(*net.UnixConn)
	if err := errors.Join(checkServer(c, path, o), c.SetDeadline(time.Now().Add(kcmTimeout))); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// checkServer makes sure that the server is root's or the user's own: what it says
// decides who this process is.
func checkServer(c *net.UnixConn, path string, o Options) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return errors.Join(err, credErr)
	}
	if uid := int(cred.Uid); uid != 0 && uid != os.Geteuid() && uid != o.Owner {
		return fmt.Errorf("%w: user %d listens at %s, and only servers of root, of user %d or of the allowed owner count",
			ownfile.ErrUntrusted, uid, path, os.Geteuid())
	}
	return nil
}

// call asks, and leaves the result to be read from c.left.
func (c *kcmConn) call(op uint16, name string, more []byte) error {
	if c.left != nil && !c.left.Skip(c.left.Left()) {
		return errKCM
	}
	c.left = nil
	var parameters []byte
	if name != "" {
		parameters = append(append([]byte(name), 0), more...)
	}
	q := binary.BigEndian.AppendUint32(nil, uint32(4+len(parameters)))
	q = binary.BigEndian.AppendUint16(append(q, 2, 0), op)
	if _, err := c.Write(append(q, parameters...)); err != nil {
		return err
	}
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return fmt.Errorf("%w: %w", errKCM, err)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxKCMReply {
		return fmt.Errorf("%w: %d bytes", errKCM, n)
	}
	if fault := int32(binary.BigEndian.Uint32(head[4:])); fault != 0 {
		return kcmError(fault)
	}
	c.left = stream.NewReader(c, int64(n), c.buf)
	var status uint32
	if !c.left.Uint32(&status) {
		return errors.Join(errKCM, c.left.Err())
	}
	if status != 0 {
		return kcmError(int32(status))
	}
	return nil
}

// bytes returns a result that is no secret.
func (c *kcmConn) bytes(most int64) ([]byte, error) {
	if c.left.Left() > most {
		return nil, errKCM
	}
	b := make([]byte, c.left.Left())
	if !c.left.Full(b) {
		return nil, errors.Join(errKCM, c.left.Err())
	}
	return b, nil
}

func (c *kcmConn) defaultCache() (string, error) {
	if err := c.call(kcmGetDefaultCache, "", nil); err != nil {
		return "", err
	}
	b, err := c.bytes(maxKCMName)
	name, ok := strings.CutSuffix(string(b), "\x00")
	if err == nil && (!ok || name == "") {
		err = errKCM
	}
	return name, err
}

func (c *kcmConn) cache(name string, m Memory) (*ccache.Cache, error) {
	if len(name) > maxKCMName || strings.IndexByte(name, 0) >= 0 {
		return nil, fs.ErrNotExist
	}
	if err := c.call(kcmGetPrincipal, name, nil); err != nil {
		return nil, err
	}
	b, err := c.bytes(1 << 16)
	if err != nil {
		return nil, err
	}
	if len(b) == 0 { // SSSD: a cache that was made and not filled
		return nil, fs.ErrNotExist
	}
	cache, err := ccache.New(b)
	if err != nil {
		return nil, err
	}
	if cache.Offset, err = c.offset(name); err != nil {
		return nil, err
	}
	err = c.call(kcmGetList, name, nil)
	var refused kcmError
	switch {
	case err == nil:
		err = c.list(cache, m)
	case errors.As(err, &refused) && slices.Contains([]kcmError{kcmInternal, kcmIO, kcmUnsupported}, refused):
		err = c.oneByOne(cache, name, m)
	}
	return cache, err
}

// offset returns the clock offset, zero from a server that knows none.
func (c *kcmConn) offset(name string) (time.Duration, error) {
	err := c.call(kcmGetOffset, name, nil)
	if refused := kcmError(0); errors.As(err, &refused) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var sec uint32
	if !c.left.Uint32(&sec) {
		return 0, errKCM
	}
	return time.Duration(int32(sec)) * time.Second, nil
}

// list reads all credentials of one answer.
func (c *kcmConn) list(cache *ccache.Cache, m Memory) error {
	var count, n uint32
	if !c.left.Uint32(&count) {
		return errKCM
	}
	for range count {
		if !c.left.Uint32(&n) || int64(n) > c.left.Left() {
			return errKCM
		}
		before := c.left.Left()
		if err := cache.Add(c.left, m.Key); err != nil {
			return err
		}
		if !c.left.Skip(int64(n) - (before - c.left.Left())) {
			return errKCM
		}
	}
	return nil
}

// oneByOne asks for each credential.
func (c *kcmConn) oneByOne(cache *ccache.Cache, name string, m Memory) error {
	if err := c.call(kcmGetUUIDs, name, nil); err != nil {
		return err
	}
	const size = 16
	ids, err := c.bytes(maxKCMReply)
	if err != nil || len(ids)%size != 0 {
		return errors.Join(errKCM, err)
	}
	for id := range slices.Chunk(ids, size) {
		err := c.call(kcmGetByUUID, name, id)
		if refused := kcmError(0); errors.As(err, &refused) {
			continue // removed meanwhile
		}
		if err == nil {
			err = cache.Add(c.left, m.Key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
