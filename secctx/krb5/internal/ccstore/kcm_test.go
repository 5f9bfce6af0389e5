package ccstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ownfile"
)

// An answer is a status and a result.
type answer struct {
	status int32
	result []byte
}

func (a answer) bytes() []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(4+len(a.result)))
	b = append(b, 0, 0, 0, 0)
	return append(binary.BigEndian.AppendUint32(b, uint32(a.status)), a.result...)
}

// startKCM answers requests, by operation and parameters, at a path that it
// returns.
func startKCM(t *testing.T, answers func(op uint16, parameters string) answer) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kcm")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	var wg sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				for {
					var n [4]byte
					if _, err := io.ReadFull(conn, n[:]); err != nil {
						return
					}
					q := make([]byte, binary.BigEndian.Uint32(n[:]))
					if _, err := io.ReadFull(conn, q); err != nil {
						return
					}
					if q[0] != 2 || q[1] != 0 {
						t.Errorf("version %d.%d", q[0], q[1])
					}
					if _, err := conn.Write(answers(binary.BigEndian.Uint16(q[2:]), string(q[4:])).bytes()); err != nil {
						return
					}
				}
			})
		}
	})
	return path
}

// like is a server with two caches, of alice and bob; bob's is the default one.
// unknown is its status for operations that it does not have; lists says whether
// it has the newer one that gives all credentials at once.
func like(t *testing.T, unknown int32, lists bool) func(uint16, string) answer {
	caches := map[string]string{"1000:a": "alice", "1000:b": "bob"}
	return func(op uint16, parameters string) answer {
		name, more, named := bytes.Cut([]byte(parameters), []byte{0})
		if op == kcmGetDefaultCache {
			return answer{0, []byte("1000:b\x00")}
		}
		client := caches[string(name)]
		if !named || client == "" {
			return answer{status: kcmNoFile}
		}
		_, head, credentials := sample(t, client)
		switch op {
		case kcmGetPrincipal:
			return answer{0, head}
		case kcmGetOffset:
			return answer{0, binary.BigEndian.AppendUint32(nil, uint32(0xffffffff-89))} // -90
		case kcmGetList:
			if !lists {
				return answer{status: unknown}
			}
			b := binary.BigEndian.AppendUint32(nil, uint32(len(credentials)))
			for _, c := range credentials {
				b = append(binary.BigEndian.AppendUint32(b, uint32(len(c)+3)), c...)
				b = append(b, "new"...) // what a later version may say besides
			}
			return answer{0, b}
		case kcmGetUUIDs:
			return answer{0, []byte("0---------------X---------------1---------------")}
		case kcmGetByUUID:
			switch string(more[:1]) {
			case "0":
				return answer{0, credentials[0]}
			case "1":
				return answer{0, credentials[1]}
			}
			return answer{status: kcmNotFound}
		}
		return answer{status: unknown}
	}
}

// TestKCM: a cache of that name, or the default one, is read from servers of
// both kinds.
func TestKCM(t *testing.T) {
	for _, unknown := range []int32{kcmInternal, kcmIO, kcmUnsupported} {
		for _, lists := range []bool{true, false} {
			o := Options{KCMSocket: startKCM(t, like(t, unknown, lists))}
			for name, client := range map[string]string{"KCM:1000:a": "alice", "KCM:": "bob"} {
				want, _, _ := sample(t, client)
				got, err := read(t, name, o)
				require.NoError(t, err)
				require.Equal(t, want, got)
			}
			for _, name := range []string{"KCM:none", "KCM:1000:a\x00b", "KCM:" + string(bytes.Repeat([]byte("x"), 2000))} {
				_, err := read(t, name, o)
				require.ErrorIs(t, err, fs.ErrNotExist)
			}
		}
	}
}

// TestKCMFails: a server that refuses, lies or hangs up is an error.
func TestKCMFails(t *testing.T) {
	good := like(t, kcmInternal, true)
	for name, c := range map[string]struct {
		op     uint16
		answer answer
		err    error
	}{
		"refused":            {kcmGetList, answer{status: 13}, kcmError(13)},
		"refused principal":  {kcmGetPrincipal, answer{status: 13}, kcmError(13)},
		"no principal":       {kcmGetPrincipal, answer{}, fs.ErrNotExist},
		"malformed":          {kcmGetPrincipal, answer{0, []byte("x")}, ccache.ErrMalformed},
		"long principal":     {kcmGetPrincipal, answer{0, make([]byte, 1<<17)}, errKCM},
		"short offset":       {kcmGetOffset, answer{0, []byte("xx")}, errKCM},
		"no count":           {kcmGetList, answer{0, []byte("x")}, errKCM},
		"too few":            {kcmGetList, answer{0, []byte{0, 0, 0, 9}}, errKCM},
		"credential too big": {kcmGetList, answer{0, []byte{0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff}}, errKCM},
		"credential cut":     {kcmGetList, answer{0, []byte{0, 0, 0, 1, 0, 0, 0, 1, 0}}, ccache.ErrMalformed},
		"default unnamed":    {kcmGetDefaultCache, answer{0, []byte{0}}, errKCM},
		"default not ended":  {kcmGetDefaultCache, answer{0, []byte("x")}, errKCM},
		"no default":         {kcmGetDefaultCache, answer{status: kcmNotFound}, fs.ErrNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			path := startKCM(t, func(op uint16, parameters string) answer {
				if op == c.op {
					return c.answer
				}
				return good(op, parameters)
			})
			_, err := read(t, "KCM:", Options{KCMSocket: path})
			require.ErrorIs(t, err, c.err)
		})
	}
	faulty := scripted{Reader: bytes.NewReader([]byte{0, 0, 0, 0, 0, 0, 0, 13})}
	_, err := (&kcmConn{Conn: faulty, buf: make([]byte, 4<<10)}).defaultCache()
	require.ErrorIs(t, err, kcmError(13))
	uuids := startKCM(t, func(op uint16, parameters string) answer {
		if op == kcmGetList || op == kcmGetUUIDs {
			return map[uint16]answer{kcmGetList: {status: kcmIO}, kcmGetUUIDs: {0, []byte("0123")}}[op]
		}
		return good(op, parameters)
	})
	_, err = read(t, "KCM:", Options{KCMSocket: uuids})
	require.ErrorIs(t, err, errKCM)
}

// TestKCMServerOfAnother: only a server of root, the effective user or the
// allowed owner is believed. A peer's user is the one that made the connection's
// end, so the test gives the listening socket to another user by making it as one.
func TestKCMServerOfAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("listens as another user, which takes root")
	}
	path := listenAs(t, stranger)
	_, err := read(t, "KCM:", Options{KCMSocket: path})
	require.ErrorIs(t, err, ownfile.ErrUntrusted)
	require.ErrorContains(t, err, fmt.Sprint("user ", stranger))
	_, err = read(t, "KCM:", Options{KCMSocket: path, Owner: stranger})
	require.Error(t, err, "it hangs up")
	require.NotErrorIs(t, err, ownfile.ErrUntrusted, "the control")
}

// A scripted connection answers with what it is made of.
type scripted struct {
	net.Conn
	io.Reader
}

func (s scripted) Read(b []byte) (int, error)  { return s.Reader.Read(b) }
func (s scripted) Write(b []byte) (int, error) { return len(b), nil }

// FuzzKCM: whatever a server answers, a cache or an error comes of it.
func FuzzKCM(f *testing.F) {
	_, head, credentials := sample(f, "alice")
	list := binary.BigEndian.AppendUint32(nil, 1)
	list = append(binary.BigEndian.AppendUint32(list, uint32(len(credentials[0]))), credentials[0]...)
	join := func(answers ...answer) (b []byte) {
		for _, a := range answers {
			b = append(b, a.bytes()...)
		}
		return b
	}
	f.Add(join(answer{0, []byte("x\x00")}, answer{0, head}, answer{0, make([]byte, 4)}, answer{0, list}))
	f.Add(join(answer{0, []byte("x\x00")}, answer{0, head}, answer{status: 1}, answer{status: kcmIO}, answer{0, make([]byte, 32)},
		answer{0, credentials[0]}, answer{0, credentials[1]}))
	f.Add(join(answer{status: kcmNoFile}))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := memory(t)
		c := &kcmConn{Conn: scripted{Reader: bytes.NewReader(b)}, buf: make([]byte, 4<<10)}
		name, err := c.defaultCache()
		if err != nil {
			return
		}
		require.NotEmpty(t, name)
		cache, err := c.cache(name, m)
		if err == nil {
			require.NoError(t, cache.Client.Check())
		}
	})
}

// TestKCMDeadline: a server that does not answer does not hold its client for
// ever. The deadline itself is not waited for.
func TestKCMDeadline(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	require.NoError(t, err)
	defer l.Close()
	conn, err := dialKCM(Options{KCMSocket: filepath.Join(dir, "s")})
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Millisecond)))
	c := &kcmConn{Conn: conn, buf: make([]byte, 4<<10)}
	_, err = c.defaultCache()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}
