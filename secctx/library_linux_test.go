package secctx

import (
	"debug/elf"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/golang-auth/go-gssapi/v3"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/seal"
)

// mapFile maps a file of this name into the process, until unmap is called or the
// test ends.
func mapFile(t *testing.T, name string) (unmap func()) {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(t, os.WriteFile(file, make([]byte, 4096), 0o600))
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
	require.NoError(t, err)
	unmap = func() {
		if m != nil {
			require.NoError(t, unix.Munmap(m))
		}
		m = nil
	}
	t.Cleanup(unmap)
	return unmap
}

const (
	mitFile, mitName         = "libgssapi_krb5.so.2.2", "libgssapi_krb5.so.2"
	heimdalFile, heimdalName = "libgssapi.so.3.0.0", "libgssapi.so.3"
	cProvider                = "github.com/golang-auth/go-gssapi-c"
)

func TestLibraryNames(t *testing.T) {
	for file, want := range map[string]string{
		mitFile:                     mitName,
		heimdalFile:                 heimdalName,
		"libgssapi-samba4.so.2.0.0": "libgssapi-samba4.so.2",
		"libgss.so.3.0.3":           "libgss.so.3",
		"libgssglue.so.1":           "libgssglue.so.1",
		"libgssapi.so":              "libgssapi.so",
		"libgssdp-1.6.so.0":         "",
		"mylibgssapi.so.3":          "",
		"libgssapi.a":               "",
	} {
		require.Equal(t, want, gssLibrary.FindString(file), file)
	}
	linked, all, err := gssLibraries()
	require.NoError(t, err)
	require.Empty(t, linked)
	require.Empty(t, all, "this test is built without cgo's libraries")
}

func TestParseMappings(t *testing.T) {
	const text = `55d0c0a00000-55d0c0a01000 r-xp 00001000 fe:01 1234 /usr/bin/my program
7f0000000000-7f0000002000 r--p 00000000 fe:01 99 /usr/lib/libgssapi.so.3.0.0 (deleted)
7f0000002000-7f0000003000 rw-p 00000000 00:00 0
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
7f0000004000-7f0000005000 r-xs 00000000 00:01 7 /memfd:libsealctx-gss.so (deleted)
`
	all := parseMappings(text)
	require.Equal(t, []mapping{
		{0x55d0c0a00000, 0x55d0c0a01000, true, 1234, "/usr/bin/my program"},
		{0x7f0000000000, 0x7f0000002000, false, 99, "/usr/lib/libgssapi.so.3.0.0 (deleted)"},
		{0x7f0000004000, 0x7f0000005000, true, 7, "/memfd:libsealctx-gss.so (deleted)"},
	}, all)
	require.Equal(t, []string{"my program"}, all[0].names())
	require.Equal(t, []string{"libgssapi.so.3.0.0"}, all[1].names())
	require.Equal(t, []string{"libsealctx-gss.so"}, all[2].names())
	l := &libraries{mappings: all}
	require.Equal(t, "/usr/bin/my program", l.objectOf(0x55d0c0a00fff))
	require.Empty(t, l.objectOf(0x55d0c0a01000))
}

func TestOrigin(t *testing.T) {
	const export, imports = "gss_export_sec_context", "gss_import_sec_context"
	for _, tc := range []struct {
		name    string
		symbols []elf.ImportedSymbol
		want    string
	}{
		{"nothing imported", nil, ""},
		{"other functions", []elf.ImportedSymbol{{Name: "gss_wrap", Library: heimdalName}}, ""},
		{"one library", []elf.ImportedSymbol{{Name: export, Library: mitName}, {Name: "gss_localname", Library: heimdalName}, {Name: imports, Library: mitName}}, mitName},
		{"one function", []elf.ImportedSymbol{{Name: imports, Library: heimdalName}}, heimdalName},
		{"two libraries", []elf.ImportedSymbol{{Name: export, Library: mitName}, {Name: imports, Library: heimdalName}}, ""},
		{"without versions", []elf.ImportedSymbol{{Name: export}, {Name: imports}}, ""},
		{"one without a version", []elf.ImportedSymbol{{Name: export, Library: mitName}, {Name: imports}}, ""},
	} {
		require.Equal(t, tc.want, origin(tc.symbols), tc.name)
	}
}

// TestSealedBelow: a provider that is wrapped in a process with the library for C
// programs makes and imports no context, so that none is lost.
func TestSealedBelow(t *testing.T) {
	h := newHost(t, nil)
	r := newRig(t, h)
	token, err := r.sc.Export()
	require.NoError(t, err)
	for _, name := range []string{"libsealctx-gss.so", "libsealctx-gss.so.1", "libsealctx-gss.so.1.0.0", "my lib/libsealctx-gss.so"} {
		t.Run(name, func(t *testing.T) {
			unmap := mapFile(t, name)
			fake := &fakeProvider{name: "fake"}
			fake.at = func(step string) error { t.Errorf("%q reached the mechanism", step); return nil }
			for _, p := range []gssapi.Provider{
				Wrap(fake.combine(0), h),
				(&Config{Sealer: h, Format: "configured"}).Wrap(fake.combine(63)),
				Wrap(named{fake, "krb5/1"}, h),
			} {
				_, err := p.AcceptSecContext()
				requireSealedBelow(t, err)
				_, err = p.InitSecContext(&fakeName{})
				requireSealedBelow(t, err)
				_, err = p.ImportSecContext(token)
				requireSealedBelow(t, err)
				_, err = p.ImportName("alice", gssapi.GSS_NT_USER_NAME)
				require.NoError(t, err)
			}
			unmap()
			sc, err := Wrap(r.fake.combine(0), h).AcceptSecContext()
			require.NoError(t, err, "positive control: without the library")
			require.NotNil(t, sc)
		})
	}
	mapFile(t, "libother-gss.so")
	sc, err := Wrap(r.fake.combine(0), h).ImportSecContext(token)
	require.NoError(t, err, "the refusals spent the token")
	r.talk(t, sc)
}

func requireSealedBelow(t *testing.T, err error) {
	t.Helper()
	require.ErrorIs(t, err, ErrSealedBelow)
	require.ErrorIs(t, err, gssapi.ErrUnavailable)
	require.ErrorContains(t, err, "LD_PRELOAD")
}

// TestFormatsOver: the plain format is the C library's, and never a guess.
func TestFormatsOver(t *testing.T) {
	arch := "/" + runtime.GOARCH
	for _, tc := range []struct {
		name, provider, linked string
		all                    []string
		want                   []string // nil: ErrFormatUnknown
	}{
		{"linked with MIT", cProvider, mitName, []string{mitName}, []string{mitName + arch, cProvider + arch + "/" + mitName}},
		{"linked with MIT, Heimdal is there", cProvider, mitName, []string{heimdalName, mitName}, []string{mitName + arch, cProvider + arch + "/" + mitName}},
		{"linked with Heimdal, MIT is there", cProvider, heimdalName, []string{heimdalName, mitName}, []string{heimdalName + arch, cProvider + arch + "/" + heimdalName}},
		{"does not say, one is there", cProvider, "", []string{heimdalName}, []string{heimdalName + arch, cProvider + arch + "/" + heimdalName}},
		{"does not say, both are there", cProvider, "", []string{heimdalName, mitName}, nil},
		{"linked statically", cProvider, "", nil, nil},
		{"in Go", "fake", "", nil, []string{"fake" + arch}},
		{"in Go, or over the one that is there", "fake", "", []string{mitName}, []string{"fake" + arch + "/" + mitName}},
		{"in Go, or over one of two", "fake", "", []string{heimdalName, mitName}, nil},
		{"in Go, or over one of two, linked with one", "fake", mitName, []string{heimdalName, mitName}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := formatsOver(tc.provider, tc.linked, tc.all)
			require.Equal(t, tc.want, got)
			if tc.want == nil {
				require.ErrorIs(t, err, ErrFormatUnknown)
				require.ErrorIs(t, err, gssapi.ErrFailure)
				require.ErrorContains(t, err, "secctx.Config.Format")
				return
			}
			require.NoError(t, err)
			for _, name := range got {
				require.LessOrEqual(t, len(name), maxFormat)
			}
		})
	}
}

// TestFormatUnknown: where it is not certain whose plain tokens they are, nothing
// is exported and nothing is claimed, and the context goes on.
func TestFormatUnknown(t *testing.T) {
	h := newHost(t, nil)
	other := newRigOf(t, &Config{Sealer: h, Format: mitName + "/" + runtime.GOARCH}, &fakeProvider{})
	token, err := other.sc.Export()
	require.NoError(t, err)
	mapFile(t, mitFile)
	unmap := mapFile(t, heimdalFile)

	r := newRigOf(t, &Config{Sealer: h}, &fakeProvider{name: cProvider})
	before := outstanding(t, h)
	_, err = r.sc.Export()
	require.ErrorIs(t, err, ErrFormatUnknown)
	require.ErrorContains(t, err, heimdalName+" and "+mitName)
	require.Equal(t, before, outstanding(t, h))
	require.Zero(t, r.fake.exports.Load())
	r.talk(t, r.sc)
	_, err = r.p.ImportSecContext(token)
	require.ErrorIs(t, err, ErrFormatUnknown)
	require.Zero(t, r.fake.imports.Load())

	// With Config.Format there is nothing to find out.
	r = newRigOf(t, &Config{Sealer: h, Format: "mit/1"}, &fakeProvider{name: cProvider})
	own, err := r.sc.Export()
	require.NoError(t, err)
	_, err = r.p.ImportSecContext(own)
	require.NoError(t, err)

	// The positive control: with one library the token is of its format.
	unmap()
	r = newRigOf(t, &Config{Sealer: h}, &fakeProvider{name: cProvider})
	sc, err := r.p.ImportSecContext(token)
	require.NoError(t, err)
	other.talk(t, sc)
	own, err = r.sc.Export()
	require.NoError(t, err)
	head, err := seal.Inspect(own)
	require.NoError(t, err)
	require.Equal(t, mitName+"/"+runtime.GOARCH, head.Format)
}

// TestOlderFormat: an import takes the older name of its library's plain tokens,
// and no other library's.
func TestOlderFormat(t *testing.T) {
	h := newHost(t, nil)
	mapFile(t, mitFile)
	self := seal.User(uint32(os.Geteuid()))
	importers := []gssapi.Provider{
		Wrap(&fakeProvider{name: cProvider}, h),
		(&Config{Sealer: h, Exporters: []seal.Party{self}}).Wrap(&fakeProvider{name: cProvider}),
	}
	for format, good := range map[string]bool{
		mitName + "/" + runtime.GOARCH:                                       true,
		cProvider + "/" + runtime.GOARCH + "/" + mitName:                     true,
		heimdalName + "/" + runtime.GOARCH:                                   false,
		cProvider + "/" + runtime.GOARCH + "/" + heimdalName:                 false,
		cProvider + "/" + runtime.GOARCH + "/" + heimdalName + "/" + mitName: false,
		mitName + "/sparc":                                                   false,
	} {
		r := newRigOf(t, &Config{Sealer: h, Format: format}, &fakeProvider{name: cProvider})
		for _, importer := range importers {
			r.establish(t)
			token, err := r.sc.Export()
			require.NoError(t, err)
			sc, err := importer.ImportSecContext(token)
			if good {
				require.NoError(t, err, format)
				r.talk(t, sc)
				continue
			}
			require.ErrorIs(t, err, seal.ErrFormat, format)
			require.ErrorIs(t, err, gssapi.ErrDefectiveToken)
			require.NoError(t, TakeBack(r.sc, token), "the refusal spent the token")
		}
	}
}

// TestLibraryLoadedLate: a provider that loads its library after Wrap names it in
// its tokens, because the format is found out at the first export.
func TestLibraryLoadedLate(t *testing.T) {
	h := newHost(t, nil)
	r := newRigOf(t, &Config{Sealer: h}, &fakeProvider{name: "late"})
	unmap := mapFile(t, heimdalFile)
	token, err := r.sc.Export()
	require.NoError(t, err)
	head, err := seal.Inspect(token)
	require.NoError(t, err)
	require.Equal(t, "late/"+runtime.GOARCH+"/"+heimdalName, head.Format)
	unmap()
	mapFile(t, mitFile)
	_, err = Wrap(r.fake, h).ImportSecContext(token)
	require.ErrorIs(t, err, seal.ErrFormat, "a process with the other library")
}

// BenchmarkWrapProvider is what finding out the loaded libraries costs, once for
// each Wrap.
func BenchmarkWrapProvider(b *testing.B) {
	h := newHost(b, nil)
	for b.Loop() {
		Wrap(&fakeProvider{name: "fake"}, h)
	}
}
