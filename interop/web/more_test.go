package web

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/negotiate"
	"github.com/sealctx/sealctx/seal/agent"
)

// TestLibrariesOverHTTP sends the first tokens of both libraries over HTTP, and gives
// them the last token of the answer.
func TestLibrariesOverHTTP(t *testing.T) {
	addr := startOurs(t, negotiate.Options{})
	for _, l := range libraries {
		t.Run(l.name, func(t *testing.T) {
			n := startNegpeer(t, l)
			_, token := n.do("initiate", "HTTP@localhost", "mutual")
			status, last := newVisit(t, addr).send(token)
			require.Equal(t, http.StatusOK, status)
			done, _ := n.do("give", last)
			require.Equal(t, "complete", done)
		})
	}
}

const bindingsScript = `
import sys, ssl, base64, http.client, gssapi
from gssapi.raw import ChannelBindings
port, cert, data = int(sys.argv[1]), sys.argv[2], bytes.fromhex(sys.argv[3])
name = gssapi.Name("HTTP@localhost", gssapi.NameType.hostbased_service)
sc = gssapi.SecurityContext(name=name, usage="initiate", mech=gssapi.OID.from_int_seq("1.3.6.1.5.5.2"),
    channel_bindings=ChannelBindings(application_data=data) if data else None)
c = http.client.HTTPSConnection("localhost", port, context=ssl.create_default_context(cafile=cert))
c.request("GET", "/", headers={"Authorization": "Negotiate " + base64.b64encode(sc.step()).decode()})
print(c.getresponse().status)
`

// TestPythonBindings lets python3-gssapi send channel bindings over TLS: those of the
// certificate, others, and none.
func TestPythonBindings(t *testing.T) {
	if exec.Command("/usr/bin/python3", "-c", "import gssapi").Run() != nil {
		t.Skip("no python3-gssapi")
	}
	cert, key, leaf := certificate(t)
	sum := sha256.Sum256(leaf.Raw) // of ecdsa-with-SHA256
	for mode, want := range map[string]map[string]string{
		"require": {"true": "200", "false": "401", "none": "401"},
		"ifsent":  {"true": "200", "false": "401", "none": "200"},
		"ignore":  {"true": "200", "false": "200", "none": "200"},
	} {
		s := startSite(t, "-cert", cert, "-key", key, "-bindings", mode)
		for name, data := range map[string][]byte{
			"true":  append([]byte("tls-server-end-point:"), sum[:]...),
			"false": append([]byte("tls-server-end-point:"), make([]byte, 32)...),
			"none":  nil,
		} {
			out := run(t, command("/usr/bin/python3", "-c", bindingsScript, s.port, cert, hex.EncodeToString(data)))
			require.Equal(t, want[name], strings.TrimSpace(out), "%s, %s", mode, name)
		}
	}
}

var byUser = regexp.MustCompile(`process [0-9]+ of user ([0-9]+) serves`)

// TestWorkersOfAnotherUser has workers that run as another user, with contexts through
// the agent, and half-open negotiations too.
func TestWorkersOfAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("takes root")
	}
	const other = 54321
	s := startSite(t, "-agent", startAgent(t, other), "-user", strconv.Itoa(other), "-workers", "2")
	out := run(t, command("curl", "-sS", "--fail", "--negotiate", "-u", ":", "http://localhost:"+s.port+"/"))
	require.Contains(t, out, hello)
	for _, m := range byUser.FindAllStringSubmatch(s.log.String(), -1) {
		require.Equal(t, strconv.Itoa(other), m[1])
	}
	v := newVisit(t, "localhost:"+s.port)
	half, err := base64.StdEncoding.DecodeString("YBsGBisGAQUFAqARMA+gDTALBgkqhkiG9xIBAgI=")
	require.NoError(t, err)
	status, token := v.send(half)
	require.Equal(t, http.StatusUnauthorized, status)
	require.NotEmpty(t, token, "the negotiation goes on: %s", s.log)
}

// startAgent serves an agent that lets this user reserve for another one, and returns
// its socket, which both can reach.
func startAgent(t *testing.T, user int) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sealctx-web-agent-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755)) //nolint:gosec // the other user reaches the socket
	policy, err := agent.ParsePolicy(strings.NewReader(fmt.Sprintf("allow user %d to user %d\n", os.Getuid(), user)))
	require.NoError(t, err)
	server, err := agent.NewServer(&agent.Options{Policy: policy})
	require.NoError(t, err)
	l, err := agent.Listen(dir + "/agent.sock")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		<-ended
		_ = server.Close()
	})
	return dir + "/agent.sock"
}
