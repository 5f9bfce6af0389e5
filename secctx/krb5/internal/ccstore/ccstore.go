// Package ccstore finds credential caches by the names that Kerberos programs
// give them, as in $KRB5CCNAME, and reads those that are not files.
//
//	PATH, FILE:PATH        a file
//	DIR:DIRECTORY          the primary one of the files in a directory
//	DIR::PATH              one of them
//	KCM:[NAME]             a cache of the user's at a credential server; NAME
//	                       empty: the server's default
//	KEYRING:[ANCHOR:]COLLECTION[:NAME]
//	                       a cache in the kernel's key rings; NAME empty: the
//	                       collection's primary one
//
// ANCHOR is persistent, user or session; left out it is session.
package ccstore

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ownfile"
)

// ErrKind means that a name is of a kind of cache that cannot be read here.
var ErrKind = errors.New("krb5: this kind of credential store is not supported")

// Options are what a name does not say.
type Options struct {
	Owner     int    // user whose caches are believed, beside root and the effective user
	KCMSocket string // path; empty: DefaultKCMSocket
}

// Memory is where keys go.
type Memory struct {
	Key     func(n int) ([]byte, error)                    // to stay
	Scratch func(n int) (b []byte, wipe func(), err error) // on the way
}

// A Store is a cache's name. Its content is looked for each time anew.
type Store struct {
	name string
	opts Options
	kind kind
	rest string
}

// A kind says how its caches are found: as a file, or by reading them.
type kind struct {
	path func(rest string, o Options) (string, error)
	read func(rest string, o Options, m Memory) (*ccache.Cache, error)
}

var kinds = map[string]kind{
	"FILE":    {path: filePath},
	"WRFILE":  {path: filePath},
	"DIR":     {path: dirPath},
	"KCM":     {read: readKCM},
	"KEYRING": {read: readKeyring},
}

// New takes a cache's name apart. It does not look for the cache. The error wraps
// ErrKind.
func New(name string, o Options) (*Store, error) {
	label, rest, found := strings.Cut(name, ":")
	if !found || strings.HasPrefix(name, "/") {
		label, rest = "FILE", name
	}
	k, ok := kinds[label]
	if !ok || rest == "" && label != "KCM" {
		return nil, fmt.Errorf("%w: %q: caches of the kinds %s are read; kinit -c FILE:PATH makes one that is a file",
			ErrKind, name, strings.Join(slices.Sorted(maps.Keys(kinds)), ", "))
	}
	return &Store{name: name, opts: o, kind: k, rest: rest}, nil
}

// String returns the name.
func (s *Store) String() string { return s.name }

// IsFile reports whether the cache is a file.
func (s *Store) IsFile() bool { return s.kind.path != nil }

// Path returns the path of a cache that is a file. In a directory another one may
// be the primary one the next time.
func (s *Store) Path() (string, error) { return s.kind.path(s.rest, s.opts) }

// Read returns the content of a cache that is not a file. The error wraps
// fs.ErrNotExist if there is no such cache, and ErrKind if nothing here keeps
// caches of that kind.
func (s *Store) Read(m Memory) (*ccache.Cache, error) {
	c, err := s.kind.read(s.rest, s.opts, m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	return c, nil
}

func filePath(rest string, _ Options) (string, error) { return rest, nil }

// primaryName is the cache that is primary in a directory that does not say.
const primaryName = "tkt"

// dirPath returns the path of a directory's primary cache, or the one that is
// named.
func dirPath(rest string, o Options) (string, error) {
	if path, ok := strings.CutPrefix(rest, ":"); ok {
		if name := path[strings.LastIndexByte(path, '/')+1:]; !strings.HasPrefix(name, primaryName) {
			return "", fmt.Errorf("%w: %q: a cache in a directory has a name that begins with %q", ErrKind, "DIR:"+rest, primaryName)
		}
		return path, nil
	}
	f, _, err := ownfile.Open(rest+"/primary", o.Owner)
	if errors.Is(err, fs.ErrNotExist) {
		return rest + "/" + primaryName, nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	return primary(f, rest)
}

// primary reads the name of a directory's primary cache.
func primary(f *os.File, dir string) (string, error) {
	name, err := bufio.NewReader(io.LimitReader(f, 256)).ReadString('\n')
	name = strings.TrimSuffix(name, "\n")
	if err != nil || !strings.HasPrefix(name, primaryName) || strings.ContainsAny(name, "/\\\x00") {
		return "", fmt.Errorf("%s/primary does not name a cache in its directory; kswitch writes it", dir)
	}
	return dir + "/" + name, nil
}
