package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The configuration file: which line counts, what a bad one does, and that only root's
// file is believed.
func TestInterposeConfiguration(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, whose file it is")
	}
	in := interpose(t, mit, "")
	dir, err := os.MkdirTemp(buildDir, "conf-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	file := filepath.Join(dir, "gss.conf")
	in.lib = buildInterpose(t, "libsealctx-gss-conf.so", `CFLAGS=-O2 -DCONFIG_FILE=\"`+file+`\"`)
	in.options = ""
	write := func(format string, args ...any) {
		t.Helper()
		require.NoError(t, os.WriteFile(file, []byte(fmt.Sprintf(format, args...)), 0o644))
	}
	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(in.program, link))

	for name, text := range map[string]string{
		"path":       "/usr/sbin/named off\n" + in.program + " socket=" + in.socket + "\n* off\n",
		"inode":      link + "\tsocket=" + in.socket + " # by the file behind the link\n",
		"any":        "# comment\n\n* socket=" + in.socket + " lifetime=60 audience=user\r\n",
		"no newline": "* socket=" + in.socket,
	} {
		write("%s", text)
		before := in.opened()
		require.Equal(t, "ok\n", in.run(t, nil, "roundtrip", "2"), name)
		in.requireOpened(t, before+2, name)
	}

	write("%s off\n", in.program)
	before := in.opened()
	require.Equal(t, "ok\n", in.run(t, nil, "roundtrip", "2"))
	require.Equal(t, before, in.opened(), "off leaves the program alone")

	for _, option := range []string{
		"socket=relative", "socket=" + "/" + strings.Repeat("x", 200), "lifetime=0", "lifetime=", "lifetime=1h", "lifetime=99999999999999999999",
		"audience=", "audience=root", "audience=user:", "audience=user:-1", "audience=user:4294967296", "audience=service:", "audience=service:" + strings.Repeat("s", 65),
		"accept-plains", "nonsense", "=",
	} {
		write("# first\n%s %s\n", in.program, option)
		require.Contains(t, in.run(t, nil, "refused"), "sealctx: the configuration cannot be used: "+file+": line 2", option)
		require.Contains(t, in.run(t, []byte("SLCX token"), "import"), "000d0000 sealctx: the configuration", option)
	}
	write("named off\n* socket=%s\n", in.socket)
	require.Contains(t, in.run(t, nil, "refused"), "line 1: a program is named by its absolute path")
	write("* socket=%s\n\x00", in.socket)
	require.Contains(t, in.run(t, nil, "refused"), "is no text")
	write("* socket=%s off\n", in.socket)
	forced := *in
	forced.options = "on"
	before = in.opened()
	require.Equal(t, "ok\n", forced.run(t, nil, "roundtrip", "2"))
	in.requireOpened(t, before+2)
	forced.options = strings.Repeat("lifetime=60 ", 100)
	require.Contains(t, forced.run(t, nil, "refused"), "SEALCTX_GSS: is longer than 1,000 bytes")
	write("* socket=%s\n%s", in.socket, strings.Repeat("#", 70_000))
	require.Contains(t, in.run(t, nil, "refused"), "64 KiB")

	// Whoever can write the file can switch the sealing off, so it counts only for root's sake.
	const unsafe = "must be a file of root"
	write("* socket=%s\n", in.socket)
	require.Equal(t, "ok\n", in.run(t, nil, "roundtrip", "1"), "the control")
	require.NoError(t, os.Chmod(file, 0o666))
	require.Contains(t, in.run(t, nil, "refused"), unsafe)
	require.NoError(t, os.Chmod(file, 0o644))
	require.NoError(t, os.Chown(file, 12345, 0))
	require.Contains(t, in.run(t, nil, "refused"), unsafe)
	require.NoError(t, os.Chown(file, 0, 0))
	require.NoError(t, os.Chmod(dir, 0o777))
	require.Contains(t, in.run(t, nil, "refused"), unsafe)
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, os.Rename(file, file+".real"))
	require.NoError(t, os.Symlink(file+".real", file))
	require.Contains(t, in.run(t, nil, "refused"), "cannot be opened")
	require.NoError(t, os.Remove(file))
	require.NoError(t, os.Mkdir(file, 0o755))
	require.Contains(t, in.run(t, nil, "refused"), unsafe)
	require.NoError(t, os.Remove(file))
	require.NoError(t, os.Rename(file+".real", file))
	require.Equal(t, "ok\n", in.run(t, nil, "roundtrip", "1"))
}
