package interop

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sealctx/sealctx/seal"
)

// exported establishes a context with a node and exports it; the peer waits for
// whoever imports it.
func exported(t *testing.T, exporter *proc) (token string) {
	t.Helper()
	peer := cpeer(t, mit)
	establish(t, peer, exporter, "e18@localhost", allFlags)
	return exporter.do("export")
}

// TestForeignFormat shows that an authentic token of one library's context is
// refused by the other library's worker of the same host, before its parser
// sees it, and is good for the right worker afterwards. MIT, Heimdal and
// sealctx's own mechanism share one mechanism OID; the plain format tells them
// apart, as secctx names it by itself.
func TestForeignFormat(t *testing.T) {
	for _, from := range makers {
		for _, to := range makers {
			if from == to {
				continue
			}
			t.Run(string(from)+"-to-"+string(to), func(t *testing.T) {
				env := sealerEnv(t)
				exporter := node(t, buildNode(t, from, raceFlags...), "exporter", env)
				right := node(t, buildNode(t, from, raceFlags...), "right", env)
				wrong := node(t, buildNode(t, to, raceFlags...), "wrong", env)
				token := exported(t, exporter)

				_, err := wrong.try("import", token)
				require.ErrorContains(t, err, "defective-token")
				require.Equal(t, "0", wrong.do("imports"), "the mechanism saw the token")
				right.do("import", token)
				require.Equal(t, "1", right.do("imports"))

				// The control: a worker that lies about its format passes the
				// token on to its mechanism.
				token = exported(t, exporter)
				raw, err := hex.DecodeString(token)
				require.NoError(t, err)
				head, err := seal.Inspect(raw)
				require.NoError(t, err)
				liar := node(t, buildNode(t, to, raceFlags...), "liar", env, "-format", head.Format)
				_, err = liar.try("import", token)
				require.Equal(t, "1", liar.do("imports"))
				if from == mit && to == golang {
					require.NoError(t, err, "sealctx's own mechanism reads MIT's tokens, if it is told that they are")
					return
				}
				require.Error(t, err, "another maker's plain token")
			})
		}
	}
}

// sonames are the libraries' names, which the plain formats are called after.
var sonames = map[maker]string{mit: "libgssapi_krb5.so.2", heimdal: "libgssapi.so.3"}

// TestBothLibrariesLoaded: each process is linked with one library and has the
// other one loaded too, as a plugin brings it. The token names the library that
// the exporter is linked with; the other library's worker refuses it before its
// parser sees it, and the right worker imports it.
func TestBothLibrariesLoaded(t *testing.T) {
	for i, from := range libraries {
		to := libraries[1-i]
		t.Run(string(from)+"-to-"+string(to), func(t *testing.T) {
			env := sealerEnv(t)
			exporter := node(t, buildNode(t, from, raceFlags...), "exporter", env, "-also", sonames[to])
			wrong := node(t, buildNode(t, to, raceFlags...), "wrong", env, "-also", sonames[from])
			right := node(t, buildNode(t, from, raceFlags...), "right", env, "-also", sonames[to])
			for name, p := range map[string]*proc{"exporter": exporter, "wrong": wrong, "right": right} {
				maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.pid()))
				require.NoError(t, err)
				for _, library := range libraries {
					require.Contains(t, string(maps), sonames[library], "positive control: %s has both", name)
				}
			}
			token := exported(t, exporter)
			raw, err := hex.DecodeString(token)
			require.NoError(t, err)
			head, err := seal.Inspect(raw)
			require.NoError(t, err)
			require.Equal(t, sonames[from]+"/"+runtime.GOARCH, head.Format)

			_, err = wrong.try("import", token)
			require.ErrorContains(t, err, "defective-token")
			require.Equal(t, "0", wrong.do("imports"), "the other library's parser saw the token")
			right.do("import", token)
			require.Equal(t, "1", right.do("imports"))

			// The control: a worker that lies about its format passes the token on.
			token = exported(t, exporter)
			liar := node(t, buildNode(t, to, raceFlags...), "liar", env, "-format", head.Format)
			_, err = liar.try("import", token)
			require.Error(t, err)
			require.Equal(t, "1", liar.do("imports"))
		})
	}
}

// TestOlderFormat: a worker takes tokens that name the plain format as before, in
// an exporter of the previous version.
func TestOlderFormat(t *testing.T) {
	for _, library := range libraries {
		t.Run(string(library), func(t *testing.T) {
			env := sealerEnv(t)
			path := buildNode(t, library, raceFlags...)
			older := "github.com/golang-auth/go-gssapi-c/" + runtime.GOARCH + "/" + sonames[library]
			exporter := node(t, path, "exporter", env, "-format", older)
			importer := node(t, path, "importer", env)
			importer.do("import", exported(t, exporter))
		})
	}
}

// TestSealingLibraryLoaded: a node that has the library for C programs loaded,
// under whatever file name, makes no context, so that it loses none.
func TestSealingLibraryLoaded(t *testing.T) {
	makefile, err := os.ReadFile("../interpose/Makefile")
	require.NoError(t, err)
	soname := regexp.MustCompile(`-soname,([^ ,]+)`).FindSubmatch(makefile)
	require.NotNil(t, soname, "../interpose/Makefile names no soname")
	for _, library := range libraries {
		t.Run(string(library), func(t *testing.T) {
			env := sealerEnv(t)
			renamed := build(t, "audit.so", func(out string) *exec.Cmd {
				return exec.Command("cc", "-shared", "-nostdlib", "-Wl,-soname,"+string(soname[1]), "-o", out, "-x", "c", "/dev/null")
			})
			path := buildNode(t, library, raceFlags...)
			exporter := node(t, path, "exporter", env)
			token := exported(t, exporter)

			below := node(t, path, "below", append(env, "LD_PRELOAD="+renamed))
			_, err := below.try("import", token)
			require.ErrorContains(t, err, "libsealctx-gss is loaded")
			require.ErrorContains(t, err, "unavailable")
			require.Equal(t, "0", below.do("imports"))
			below.do("listen")
			_, err = below.try("connect", "1", "e18@localhost", "mutual")
			require.Error(t, err)

			// The control: the same library under another soname is no hindrance.
			other := build(t, "other.so", func(out string) *exec.Cmd {
				return exec.Command("cc", "-shared", "-nostdlib", "-Wl,-soname,libother-gss.so.1", "-o", out, "-x", "c", "/dev/null")
			})
			node(t, path, "beside", append(env, "LD_PRELOAD="+other)).do("import", token)
		})
	}
}

// livingKey is what the importer adds for a token whose key it does not have. The key's
// id stands in the token in clear.
var livingKey = regexp.MustCompile(`: no living key [0-9a-f]{32} in .*; it was sealed elsewhere, or the key was retired$`)

// TestBadTokens shows on real contexts that bytes which are no authentic token
// never reach the library's parser, and spend nothing: a bit flipped in every
// place, every truncation, a trailing byte, the library's own plain token, and
// nothing at all.
func TestBadTokens(t *testing.T) {
	for _, library := range makers {
		t.Run(string(library), func(t *testing.T) {
			n := nodes(t, library, 2)
			exporter, importer := n[0], n[1]
			plain := node(t, buildNode(t, library, raceFlags...), "plain", sealerEnv(t), "-plain")
			plainToken := exported(t, plain)
			token := exported(t, exporter)
			raw, err := hex.DecodeString(token)
			require.NoError(t, err)

			answers := map[string]bool{}
			refuse := func(what string, bad []byte) {
				t.Helper()
				_, err := importer.try("import", hex.EncodeToString(bad))
				require.ErrorContains(t, err, "defective-token", what)
				_, answer, _ := strings.Cut(err.Error(), "error ")
				answers[livingKey.ReplaceAllString(answer, "")] = true
			}
			for i := range raw {
				bad := slices.Clone(raw)
				bad[i] ^= 1 << (i % 8)
				refuse("altered", bad)
				if i > 0 { // an empty argument is no command
					refuse("truncated", raw[:i])
				}
			}
			refuse("trailing", append(slices.Clone(raw), 0))
			rawPlain, err := hex.DecodeString(plainToken)
			require.NoError(t, err)
			refuse("plain", rawPlain)
			require.Len(t, answers, 1, "one error for whatever is wrong: %v", answers)
			require.Equal(t, "0", importer.do("imports"), "the mechanism saw a token that was refused")

			importer.do("import", token)
			require.Equal(t, "1", importer.do("imports"))
			plain.do("import", plainToken) // the control: what was refused is a token
		})
	}
}
