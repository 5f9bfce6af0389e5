// Command sealctx shows, serves and inspects sealed GSS-API contexts.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/demo"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sealctx:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "demo":
		return demo.Run(context.Background(), os.Stdout)
	case len(args) > 1 && args[0] == demo.Role:
		return demo.Play(args[1:])
	}
	return fmt.Errorf("usage: sealctx demo")
}
