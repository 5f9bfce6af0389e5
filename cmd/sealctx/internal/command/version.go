package command

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"text/tabwriter"

	"github.com/sealctx/sealctx/internal/suite"
	"github.com/sealctx/sealctx/memsafe"
)

type versionCmd struct {
	JSON bool `help:"Print JSON."`
}

// A build is this program and what it protects.
type build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified"` // the source was not as committed
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Erasing  bool   `json:"erased_execution"`
	Memory   string `json:"locked_memory"` // what this kernel gives
	Suite    string `json:"suite"`         // for this processor
}

func thisBuild() (build, error) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return build{}, errors.New("this program was built without module support and does not know its version")
	}
	st, err := memsafe.Report()
	if err != nil {
		return build{}, err
	}
	b := build{
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
	t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "sealctx\t%s\nrevision\t%s\nbuilt by\t%s for %s\nerased execution\t%s\nlocked memory\t%s\nsuite\t%s\n",
		b.Version, revision, b.Go, b.Platform, erasing, b.Memory, b.Suite)
	return t.Flush()
}
