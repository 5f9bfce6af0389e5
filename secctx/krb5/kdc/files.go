package kdc

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	gokeytab "github.com/go-krb5/krb5/keytab"

	"github.com/sealctx/sealctx/memsafe"
	"github.com/sealctx/sealctx/secctx/krb5"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ccache"
	"github.com/sealctx/sealctx/secctx/krb5/internal/keytab"
	"github.com/sealctx/sealctx/secctx/krb5/internal/kmsg"
	"github.com/sealctx/sealctx/secctx/krb5/internal/ownfile"
	"github.com/sealctx/sealctx/secctx/krb5/internal/stream"
)

// readFile reads a keytab or credential cache that only its rightful owner can
// have written.
func readFile[T any](path string, owner int, limit int64, read func(*stream.Reader, func(int) ([]byte, error)) (T, error)) (value T, err error) {
	f, st, err := ownfile.Open(path, owner)
	if err != nil {
		return value, fmt.Errorf("kdc: %w", err)
	}
	defer f.Close()
	if st.Size() > limit {
		return value, fmt.Errorf("kdc: %s: %d bytes; at most %d are read", path, st.Size(), limit)
	}
	buf := make([]byte, stream.MinBuffer)
	defer memsafe.Wipe(buf)
	value, err = read(stream.NewReader(f, st.Size(), buf), func(n int) ([]byte, error) { return make([]byte, n), nil })
	if err != nil {
		return value, fmt.Errorf("kdc: %s: %w", path, err)
	}
	return value, nil
}

// readCCache returns the cache and the best of its ticket-granting tickets. The
// caller wipes the cache's keys.
func readCCache(r krb5.Request) (*ccache.Cache, *ccache.Credential, error) {
	if r.CCache == "" {
		return nil, nil, ErrNoTGT
	}
	cache, err := readFile(r.CCache, r.FileOwner, ccache.MaxSize, ccache.Read)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, ErrNoTGT
	}
	if err != nil {
		return nil, nil, err
	}
	best := cache.Granting(time.Now().Add(cache.Offset), func(etype int32) bool { return slices.Contains(enctypes[:], etype) })
	if best == nil {
		wipeCache(cache)
		return nil, nil, ErrNoTGT
	}
	return cache, best, nil
}

func wipeCache(c *ccache.Cache) {
	for _, cr := range c.Credentials {
		memsafe.Wipe(cr.Key.Value)
	}
}

// readKeytab returns the principal that was asked for, or the keytab's first,
// and its keys in gokrb5's form. gokrb5 gets a table that was written anew, and
// never the file.
func readKeytab(r krb5.Request) (kmsg.Principal, *gokeytab.Keytab, error) {
	fails := func(err error) (kmsg.Principal, *gokeytab.Keytab, error) { return kmsg.Principal{}, nil, err }
	entries, err := readFile(r.ClientKeytab, r.FileOwner, keytab.MaxSize, keytab.Read)
	if err != nil {
		return fails(err)
	}
	defer func() {
		for _, e := range entries {
			memsafe.Wipe(e.Key.Value)
		}
	}()
	var who kmsg.Principal
	switch {
	case r.Client != "":
		if who, err = kmsg.ParsePrincipal(r.Client); err != nil {
			return fails(err)
		}
	case len(entries) > 0:
		who = entries[0].Principal
	}
	own := newest(entries, who)
	if len(own) == 0 {
		return fails(fmt.Errorf("%w: %s holds no key for %s", ErrNoTGT, r.ClientKeytab, r.Client))
	}
	who.Realm = own[0].Principal.Realm
	buf := make([]byte, 64+len(own)*(kmsg.MaxName+4*kmsg.MaxParts+128))
	defer memsafe.Wipe(buf)
	b, err := keytab.MarshalTo(buf, own)
	if err != nil {
		return fails(fmt.Errorf("kdc: %w", err))
	}
	kt := gokeytab.New()
	if err := kt.Unmarshal(b); err != nil {
		return fails(fmt.Errorf("kdc: %s: %w", r.ClientKeytab, err))
	}
	return who, kt, nil
}

// newest returns a client's keys, for each encryption type the one with the
// highest version. The KDC has no use for older ones.
func newest(entries []keytab.Entry, who kmsg.Principal) (own []keytab.Entry) {
	for _, e := range entries {
		if !e.Principal.SameName(who) || who.Realm != "" && e.Principal.Realm != who.Realm {
			continue
		}
		who.Realm = e.Principal.Realm
		at := slices.IndexFunc(own, func(o keytab.Entry) bool { return o.Key.EType == e.Key.EType })
		switch {
		case at < 0:
			own = append(own, e)
		case e.KVNO > own[at].KVNO:
			own[at] = e
		}
	}
	return own
}
