// Command sealctx shows, serves and inspects sealed GSS-API contexts.
//
//	sealctx demo             one Kerberos session, three owners
//	sealctx agent            hold keys for other users' processes
//	sealctx doctor           what protects this host's tokens, and what does not
//	sealctx keyring status   the host keys and their outstanding tokens
//	sealctx keyring rotate   make new keys
//	sealctx keyring retire   end keys, and every token under them
//	sealctx token inspect    what a token says, and how it stands
//	sealctx policy check     read an agent's policy
//	sealctx policy explain   what a policy gives to a user
//	sealctx version          this build and its protections
//
// The variable SEALCTX_AGENT names the agent that a command asks, unless its flag --agent
// does. doc/OPERATIONS.md describes the command, doc/json.md what --json prints.
package main

import (
	"os"

	"github.com/sealctx/sealctx/cmd/sealctx/internal/command"
)

func main() { os.Exit(command.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
