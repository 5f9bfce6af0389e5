package command

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/demo"
)

type demoCmd struct {
	Crowd int `placeholder:"N" help:"End with N initiators, ${crowd} at most, that talk at once while their sessions are handed on."`
}

// Validate is called by kong.
func (d *demoCmd) Validate() error { return within("--crowd", &d.Crowd, 0, demo.MaxCrowd) }

func (*demoCmd) Help() string {
	return `Initiators, an acceptor and workers, each a process of its own, and a Kerberos
session that is handed from one to the next while it goes on; then what becomes of
those who try to cheat. Needs no KDC, no root and no configuration, and leaves
nothing behind.`
}

func (d *demoCmd) Run(c *console) error {
	ctx, stop := untilSignal(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	defer stop()
	// A reader that ends early ("| head") must not kill the director before it has
	// cleared the stage. The signal is caught, and the write fails.
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	return demo.Run(ctx, c.out, d.Crowd)
}
