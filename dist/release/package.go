package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	_ "github.com/goreleaser/nfpm/v2/rpm"
)

const maintainer = "sealctx maintainers <security@sealctx.invalid>"

// packages writes the two packages of an architecture, in both forms.
func (r *release) packages(arch string) error {
	for _, form := range []string{"deb", "rpm"} {
		packager, err := nfpm.Get(form)
		if err != nil {
			return err
		}
		for _, p := range []*nfpm.Info{r.agentPackage(arch), r.libraryPackage(arch, form)} {
			p = nfpm.WithDefaults(p)
			if err := nfpm.PrepareForPackager(p, form); err != nil {
				return err
			}
			f, err := os.Create(filepath.Join(r.out, packager.ConventionalFileName(p)))
			if err != nil {
				return err
			}
			if err := packager.Package(p, f); err != nil {
				return fmt.Errorf("%s of %s: %w", form, p.Name, err)
			}
			if err := f.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *release) info(name, arch, description string) *nfpm.Info {
	return &nfpm.Info{
		Name: name, Arch: arch, Platform: "linux", Version: r.version, Release: "1", Section: "net", Priority: "optional",
		Maintainer: maintainer, Description: description, Homepage: "https://github.com/sealctx/sealctx", License: "Apache-2.0", MTime: r.time,
	}
}

// agentPackage has the command, the units and a policy that allows nothing.
func (r *release) agentPackage(arch string) *nfpm.Info {
	p := r.info("sealctx", arch, "seals GSS-API security contexts that processes hand to each other\n"+
		"The agent holds the keys and the register of outstanding tokens of a host. A\ntoken opens once, and only in the process that it is meant for.")
	units := filepath.Join(r.source, "dist/systemd")
	pkg := filepath.Join(r.source, "dist/package")
	p.Recommends = []string{"systemd"}
	p.Contents = files.Contents{
		r.file(r.path(arch, "sealctx"), "/usr/bin/sealctx", 0o755),
		r.file(filepath.Join(units, "sealctx.sysusers"), "/usr/lib/sysusers.d/sealctx.conf", 0o644),
		r.config(filepath.Join(pkg, "policy"), "/etc/sealctx/policy"),
		r.file(filepath.Join(pkg, "sealctx.lintian-overrides"), "/usr/share/lintian/overrides/sealctx", 0o644),
	}
	for _, unit := range []string{"sealctx-agent.service", "sealctx-agent.socket", "sealctx-metrics.service", "sealctx-metrics.socket"} {
		p.Contents = append(p.Contents, r.file(filepath.Join(units, unit), "/usr/lib/systemd/system/"+unit, 0o644))
	}
	p.Contents = append(p.Contents,
		r.file(filepath.Join(r.source, "dist/prometheus/sealctx.rules.yml"), "/usr/share/doc/sealctx/examples/sealctx.rules.yml", 0o644),
		r.file(filepath.Join(r.source, "dist/grafana/sealctx.json"), "/usr/share/doc/sealctx/examples/grafana.json", 0o644))
	pages, _ := filepath.Glob(r.path("share", "man/man1/*.gz")) // the pattern is well-formed
	for _, page := range pages {
		p.Contents = append(p.Contents, r.file(page, "/usr/share/man/man1/"+filepath.Base(page), 0o644))
	}
	p.Contents = append(p.Contents, r.file(r.path("share", "bash-completion/completions/sealctx"), "/usr/share/bash-completion/completions/sealctx", 0o644))
	p.Contents = append(p.Contents, r.docs("sealctx", "OPERATIONS.md", "THREATS.md", "SPEC.md", "agent-protocol.md", "krb5-context.md", "json.md")...)
	p.Scripts = nfpm.Scripts{
		PostInstall: filepath.Join(pkg, "postinst.sh"), PreRemove: filepath.Join(pkg, "prerm.sh"), PostRemove: filepath.Join(pkg, "postrm.sh"),
	}
	return p
}

// libraryPackage has libsealctx-gss. It changes no program until one is named.
func (r *release) libraryPackage(arch, form string) *nfpm.Info {
	p := r.info("sealctx-gss", arch, "seals the GSS-API contexts that C programs export\n"+
		"A library in front of MIT's or Heimdal's GSS-API: the sealctx agent seals what\nBIND, python-gssapi and other programs export.")
	pkg := filepath.Join(r.source, "dist/package")
	libc := "libc6 (>= 2.34)"
	if form == "rpm" {
		libc = "glibc >= 2.34"
	}
	p.Depends, p.Recommends = []string{libc}, []string{"sealctx"}
	p.Contents = files.Contents{
		r.file(r.path(arch, "libsealctx-gss.so.1"), "/usr/lib/sealctx/libsealctx-gss.so.1", 0o644),
		{Source: "libsealctx-gss.so.1", Destination: "/usr/lib/sealctx/libsealctx-gss.so", Type: files.TypeSymlink, FileInfo: &files.ContentFileInfo{MTime: r.time}},
		r.config(filepath.Join(pkg, "gss.conf"), "/etc/sealctx/gss.conf"),
	}
	p.Contents = append(p.Contents, r.docs("sealctx-gss", "c-programs.md")...)
	return p
}

func (r *release) file(from, to string, mode os.FileMode) *files.Content {
	return &files.Content{Source: from, Destination: to, FileInfo: &files.ContentFileInfo{Mode: mode, Owner: "root", Group: "root", MTime: r.time}}
}

// config is a file that an upgrade leaves as the operator wrote it.
func (r *release) config(from, to string) *files.Content {
	c := r.file(from, to, 0o644)
	c.Type = files.TypeConfigNoReplace
	return c
}

func (r *release) docs(name string, pages ...string) (all files.Contents) {
	dir := "/usr/share/doc/" + name + "/"
	all = append(all, r.file(r.path("copyright"), dir+"copyright", 0o644), r.file(r.path("changelog.gz"), dir+"changelog.gz", 0o644),
		r.file(r.path(name+".Debian.gz"), dir+"changelog.Debian.gz", 0o644))
	if name == "sealctx" {
		all = append(all, r.file(r.path("modules.gz"), dir+"modules.gz", 0o644))
	}
	for _, page := range pages {
		all = append(all, r.file(filepath.Join(r.source, "doc", page), dir+page, 0o644))
	}
	return all
}
