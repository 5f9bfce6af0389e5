package command

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"text/tabwriter"

	"github.com/alecthomas/kong"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/memsafe"
)

type versionCmd struct {
	JSON bool `help:"Print JSON."`
}

// versionFlag is --version: the text of the subcommand version.
type versionFlag bool

// BeforeReset is called by kong as soon as the flag is met.
func (versionFlag) BeforeReset(app *kong.Kong, e *early) error {
	b, err := thisBuild()
	if err == nil {
		err = b.print(app.Stdout)
	}
	e.err = err
	app.Exit(exitOK)
	return err
}

// A build is this program and what it protects.
type build struct {
	report
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified"` // the source was not as committed
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Erasing  bool   `json:"erased_execution"`
	Memory   string `json:"locked_memory"` // what this kernel gives
	Suite    string `json:"suite"`         // for this processor

	Dependencies []dependency `json:"dependencies"` // modules that are built in
}

// A dependency is a module at a version.
type dependency struct {
	Path    string `json:"path"`
	Version string `json:"version"`
}

func thisBuild() (build, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return build{}, errors.New("this program was built without module support and does not know its version")
	}
	return buildOf(info)
}

func buildOf(info *debug.BuildInfo) (build, error) {
	st, err := memsafe.Report()
	if err != nil {
		return build{}, err
	}
	b := build{
		report: newReport("version", nil), Dependencies: []dependency{},
		Version: info.Main.Version, Go: info.GoVersion, Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Erasing: memsafe.Erasing, Memory: st.Backing, Suite: suite.Default().String(),
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value
		case "vcs.modified":
			b.Modified = s.Value == "true"
		}
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		b.Dependencies = append(b.Dependencies, dependency{m.Path, m.Version})
	}
	return b, nil
}

func (v *versionCmd) Run(c *console) error {
	b, err := thisBuild()
	if err != nil {
		return err
	}
	if v.JSON {
		return asJSON(c.out, b)
	}
	return b.print(c.out)
}

func (b *build) print(w io.Writer) error {
	revision := b.Revision
	switch {
	case revision == "":
		revision = "unknown"
	case b.Modified:
		revision += ", modified"
	}
	erasing := "no: built without GOEXPERIMENT=runtimesecret"
	if b.Erasing {
		erasing = "yes"
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "sealctx\t%s\nrevision\t%s\nbuilt by\t%s for %s\nerased execution\t%s\nlocked memory\t%s\nsuite\t%s\n",
		b.Version, revision, b.Go, b.Platform, erasing, b.Memory, b.Suite)
	for i, d := range b.Dependencies {
		head := ""
		if i == 0 {
			head = "built with"
		}
		fmt.Fprintf(t, "%s\t%s %s\n", head, d.Path, d.Version)
	}
	return t.Flush()
}
