// Withkdc runs a command inside a private Kerberos realm that lives as long as
// the command does:
//
//	withkdc COMMAND [ARGUMENT ...]
//
// The realm has a user alice, who is logged in, and one service for each
// encryption type: e17@localhost, e18@localhost, e19@localhost, e20@localhost,
// named after the numbers of RFC 3962 and RFC 8009. The exit status is the
// command's.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/sealctx/sealctx/interop/kdc"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: withkdc COMMAND [ARGUMENT ...]")
		os.Exit(2)
	}
	err := run(os.Args[1], os.Args[2:])
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		os.Exit(exit.ExitCode())
	case err != nil:
		fmt.Fprintln(os.Stderr, "withkdc:", err)
		os.Exit(1)
	}
}

func run(name string, args []string) error {
	dir, err := os.MkdirTemp("", "withkdc-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	realm, err := kdc.Start(dir)
	if err != nil {
		return err
	}
	defer realm.Stop()
	if err := realm.Populate("alice"); err != nil {
		return err
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), realm.Env()...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}
