package interop

import (
	"fmt"
	"os"
	"testing"

	"github.com/sealctx/sealctx/interop/kdc"
)

// user is the realm's one user; "localhost" is where its services are.
const user = "alice"

// The one realm of this test binary, a credential cache of its user that holds
// a ticket for every service, and the directory for what the tests build.
var (
	realm    *kdc.Realm
	tickets  string
	buildDir string
)

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "interop:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "sealctx-interop-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	buildDir = dir
	if err := os.Mkdir(dir+"/realm", 0o700); err != nil {
		return 0, err
	}
	if realm, err = kdc.Start(dir + "/realm"); err != nil {
		return 0, err
	}
	defer realm.Stop()
	if err := realm.Populate(user); err != nil {
		return 0, err
	}
	if tickets, err = realm.Tickets(user); err != nil {
		return 0, err
	}
	return m.Run(), nil
}
