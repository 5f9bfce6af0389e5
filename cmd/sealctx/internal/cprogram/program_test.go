package cprogram

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// compile makes a program, or a library with the flag -shared.
func compile(t *testing.T, name, source string, flags ...string) string {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("needs a C compiler")
	}
	dir := t.TempDir()
	src, out := filepath.Join(dir, "x.c"), filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(src, []byte(source), 0o600))
	text, err := exec.Command(cc, append([]string{"-o", out, src}, flags...)...).CombinedOutput()
	if err != nil && len(flags) > 0 && flags[0] == "-static" {
		t.Skipf("needs a static C library: %s", text)
	}
	require.NoError(t, err, "%s", text)
	return out
}

// Each kind of program that the library cannot protect is refused with its reason, and
// the control, which is linked with a GSS-API library, is not.
func TestCheck(t *testing.T) {
	library := compile(t, "libsealctx-gss.so", "int sealctx;", "-shared", "-fPIC")
	gss := compile(t, "libgssapi_krb5.so.2", "int gss_export_sec_context(void) { return 0; }", "-shared", "-fPIC", "-Wl,-soname,libgssapi_krb5.so.2")
	const main = "int gss_export_sec_context(void); int main(void) { return gss_export_sec_context(); }"
	linked := func() string {
		return compile(t, "linked", main, gss, "-Wl,-rpath,"+filepath.Dir(gss))
	}
	good := linked()
	path, err := Check(good, library, false)
	require.NoError(t, err)
	require.Equal(t, good, path)

	script := func(first string) string {
		name := filepath.Join(t.TempDir(), "script")
		require.NoError(t, os.WriteFile(name, []byte(first+"\n"), 0o700))
		return name
	}
	path, err = Check(script("#!"+good+" -x"), library, false)
	require.NoError(t, err)
	require.Contains(t, path, "script")

	setuid, setgid := linked(), linked()
	require.NoError(t, os.Chmod(setuid, 0o755|os.ModeSetuid))
	require.NoError(t, os.Chmod(setgid, 0o755|os.ModeSetgid))
	own := compile(t, "own", "int main(void) { return 0; }")
	for want, program := range map[string]string{
		"is setuid":             setuid,
		"is setgid":             setgid,
		"is not linked with":    own,
		"is no ELF program":     script("text"),
		"without an interprete": script("#!"),
		"is linked statically":  compile(t, "static", "int main(void) { return 0; }", "-static"),
	} {
		_, err := Check(program, library, false)
		require.ErrorIs(t, err, ErrUnprotected, want)
		require.ErrorContains(t, err, want)
	}
	loop := script("")
	require.NoError(t, os.WriteFile(loop, []byte("#!"+loop+"\n"), 0o700))
	_, err = Check(loop, library, false)
	require.ErrorIs(t, err, ErrUnprotected)
	_, err = Check(own, library, true) // loads its library later
	require.NoError(t, err)

	_, err = Check(good, filepath.Join(t.TempDir(), "nothing"), false)
	require.ErrorContains(t, err, "install the package")
	require.NoError(t, os.Chmod(library, 0o777))
	_, err = Check(good, library, false)
	require.ErrorContains(t, err, "can be written by users other than root")
}

func TestCapabilities(t *testing.T) {
	program := compile(t, "own", "int main(void) { return 0; }")
	// cap_net_bind_service=ep, as setcap writes it.
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if err := unix.Setxattr(program, "security.capability", capability, 0); err != nil {
		t.Skipf("needs the right to give capabilities: %v", err)
	}
	_, err := Check(program, compile(t, "lib.so", "int x;", "-shared", "-fPIC"), true)
	require.ErrorIs(t, err, ErrUnprotected)
	require.ErrorContains(t, err, "capabilities")
}

func TestEnvironment(t *testing.T) {
	got := environment([]string{"A=1", "LD_PRELOAD=/other.so", "SEALCTX_GSS=old", "LD_PRELOAD="}, "/lib.so", []string{"socket=/s", "lifetime=1"})
	require.Equal(t, []string{"A=1", "LD_PRELOAD=/lib.so:/other.so", "SEALCTX_GSS=socket=/s lifetime=1"}, got)
}

// A process is found by what it has mapped, and known for protected by the library.
func TestRunning(t *testing.T) {
	library := compile(t, "libsealctx-gss.so.1", "int sealctx;", "-shared", "-fPIC", "-Wl,-soname,libsealctx-gss.so.1")
	gss := compile(t, "libgssapi_krb5.so.2", "int gss;", "-shared", "-fPIC", "-Wl,-soname,libgssapi_krb5.so.2")
	program := compile(t, "waits", "#include <unistd.h>\nextern int gss; int main(void) { write(1, \"x\", 1); gss = read(0, &gss, 1); return 0; }", gss, "-Wl,-rpath,"+filepath.Dir(gss))
	for _, protected := range []bool{false, true} {
		cmd := exec.Command(program)
		if protected {
			cmd.Env = append(os.Environ(), "LD_PRELOAD="+library)
		}
		in, err := cmd.StdinPipe()
		require.NoError(t, err)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		_, err = out.Read(make([]byte, 1)) // it runs
		require.NoError(t, err)
		want := Process{PID: cmd.Process.Pid, Program: program, Library: gss, Protected: protected}
		p, ok := Examine(cmd.Process.Pid)
		require.True(t, ok)
		require.Equal(t, want, p)
		all, _, err := Running()
		require.NoError(t, err)
		require.Contains(t, all, want)
		require.NoError(t, in.Close())
		require.NoError(t, cmd.Wait())
	}
	_, ok := Examine(1 << 30)
	require.False(t, ok)
}
