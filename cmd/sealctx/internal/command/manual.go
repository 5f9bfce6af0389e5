package command

import (
	"os"
	"path/filepath"

	"github.com/alecthomas/kong"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/manual"
)

type manualCmd struct {
	Date string `default:"unknown" help:"The date that stands in the pages."`
	Dir  place  `arg:"" help:"Where to write: the files go below man/ and bash-completion/."`
}

func (m *manualCmd) Run(_ *console, app *kong.Kong) error {
	for name, text := range manual.Files(app.Model, m.Date) {
		file := filepath.Join(string(m.Dir), name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
