// Package agent seals and opens tokens for other processes, over a Unix socket. One
// process, the agent, holds the keys and the register of outstanding tokens. Processes
// of different users can then hand contexts to each other. A keyring serves the
// processes of one user only.
//
// A program that uses contexts needs only [Dial]:
//
//	sealer, err := agent.Dial("/run/sealctx/agent.sock")
//	p := secctx.Wrap(provider, sealer)
//
// The other end is a [Server], which the command runs (sealctx agent) or another
// program:
//
//	l, err := agent.Listen("/run/sealctx/agent.sock")
//	server, err := agent.NewServer(&agent.Options{Policy: policy})
//	err = server.Serve(ctx, l)
//
// # Who asks
//
// The kernel says who a peer is, for each message. A request counts only if it comes
// from the process that made the connection, under the user that made it, and while
// that process lives. A connection that was handed on is refused: through a fork, over
// another socket, or across a change of user. The process that holds it connects
// itself. A user is the effective user. Groups are those that the process had when it
// connected. The agent refuses the overflow user, which stands for the users of other
// namespaces, and processes outside its process namespace.
//
// A [Policy] says who may reserve tokens for whom. Without one, every user may for
// itself. A token opens for its audience only: a user, a group, a named service of the
// policy, or one process. The exporter hands a process over as a descriptor, so that a
// later process with the same number gets nothing.
//
// # What ends with the agent
//
// Keys and registers live in the agent's locked memory alone. When the agent ends,
// every outstanding token is worthless, and none can be opened a second time. If the
// answer to an open is lost, the token is spent: at most one process gets a context.
//
// The protocol is in doc/agent-protocol.md, so that programs in other languages
// can speak it.
package agent
