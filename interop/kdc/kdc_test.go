package kdc

import (
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRealm shows that the realm issues tickets, that it refuses a principal it
// does not have, and that nothing of it outlives Stop.
func TestRealm(t *testing.T) {
	r, err := Start(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(r.Stop)

	require.NoError(t, r.AddUser("alice"))
	require.Error(t, r.AddUser("alice"), "kadmin.local reports failures although it exits with 0")
	require.NoError(t, r.AddService("e20/localhost", Enctype(20)))
	require.NoError(t, r.Login("alice"))
	require.Error(t, r.Login("nobody"))

	cache, err := r.LoginFor("alice", time.Minute)
	require.NoError(t, err)
	out, err := r.run("klist", "-c", cache)
	require.NoError(t, err)
	require.Contains(t, out, "krbtgt/"+Name)

	// kvno obtains a service ticket, klist -e shows the type of its session key.
	_, err = r.run("kvno", "e20/localhost")
	require.NoError(t, err)
	out, err = r.run("klist", "-e")
	require.NoError(t, err)
	require.Contains(t, out, "(skey, tkt): "+Enctype(20)+", "+Enctype(20))

	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(r.Port()))
	c, err := net.Dial("tcp4", address)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	r.Stop()
	_, err = net.Dial("tcp4", address)
	require.Error(t, err)
}

// TestEnctype pins the names, which both libraries must find in krb5.conf.
func TestEnctype(t *testing.T) {
	require.Equal(t, "aes256-cts-hmac-sha384-192", Enctype(20))
	require.Empty(t, Enctype(23), "RC4 is not of this realm")
}
