package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/CycloneDX/cyclonedx-go"
)

// materials writes the bill of materials of a binary, as the binary itself tells it.
func (r *release) materials(arch string) error {
	info, err := buildinfo.ReadFile(r.path(arch, "sealctx"))
	if err != nil {
		return err
	}
	bom := cyclonedx.NewBOM()
	bom.Metadata = &cyclonedx.Metadata{
		Timestamp: r.time.Format("2006-01-02T15:04:05Z"),
		Component: &cyclonedx.Component{Type: cyclonedx.ComponentTypeApplication, Name: "sealctx", Version: r.version, PackageURL: "pkg:golang/github.com/sealctx/sealctx@v" + r.version},
	}
	components := []cyclonedx.Component{{Type: cyclonedx.ComponentTypePlatform, Name: "go", Version: info.GoVersion}}
	for _, m := range info.Deps {
		c := cyclonedx.Component{Type: cyclonedx.ComponentTypeLibrary, Name: m.Path, Version: m.Version, PackageURL: "pkg:golang/" + m.Path + "@" + m.Version, BOMRef: m.Path}
		if m.Sum != "" {
			c.Properties = &[]cyclonedx.Property{{Name: "go:sum", Value: m.Sum}}
		}
		components = append(components, c)
	}
	bom.Components = &components
	f, err := os.Create(filepath.Join(r.out, fmt.Sprintf("sealctx-%s-%s.cdx.json", r.version, arch)))
	if err != nil {
		return err
	}
	if err := cyclonedx.NewBOMEncoder(f, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bom); err != nil {
		return err
	}
	return f.Close()
}

// A digest names a file of the release.
type digest struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// digests are those of all files, in the order of their names. Records that are made
// from them are left out.
func (r *release) digests() (list []digest, err error) {
	err = filepath.WalkDir(r.out, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(r.out, path)
		if err != nil || name == "SHA256SUMS" || strings.HasSuffix(name, ".sig") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		list = append(list, digest{name, map[string]string{"sha256": hex.EncodeToString(sum[:])}})
		return nil
	})
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list, err
}

// provenance says from which commit and with which tools the files were built, as an
// in-toto statement with SLSA's predicate. Nobody but its maker vouches for it.
func (r *release) provenance() error {
	name := filepath.Join(r.out, fmt.Sprintf("sealctx-%s.provenance.json", r.version))
	_ = os.Remove(name) // of a run before: it is no subject of its own
	subjects, err := r.digests()
	if err != nil {
		return err
	}
	goVersion, err := output(r.source, "go", "env", "GOVERSION")
	if err != nil {
		return err
	}
	type object = map[string]any
	statement := object{
		"_type": "https://in-toto.io/Statement/v1", "subject": subjects, "predicateType": "https://slsa.dev/provenance/v1",
		"predicate": object{
			"buildDefinition": object{
				"buildType":            "https://github.com/sealctx/sealctx/dist/release",
				"externalParameters":   object{"version": r.version, "architectures": r.arches},
				"resolvedDependencies": []object{{"uri": "git+https://github.com/sealctx/sealctx", "digest": object{"gitCommit": r.commit}}},
			},
			"runDetails": object{"builder": object{"id": "dist/release", "version": object{"go": goVersion}}},
		},
	}
	text, err := json.MarshalIndent(statement, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(text, '\n'), 0o644)
}

// checksums writes SHA256SUMS, the file that is signed.
func (r *release) checksums() error {
	list, err := r.digests()
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, d := range list {
		fmt.Fprintf(&b, "%s  %s\n", d.Digest["sha256"], d.Name)
	}
	return os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), []byte(b.String()), 0o644)
}
