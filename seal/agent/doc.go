// Package agent serves sealing and opening over a Unix socket, from the one
// process that holds the keys and the register of outstanding tokens. Processes
// of different users can so hand contexts to each other, which a keyring that
// one user's processes share cannot offer.
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
// The kernel says who a peer is, and says it on each message: a request counts
// only if it comes from the process that made the connection, under the user
// with which it did, and while that process lives. A connection that was handed
// on, through a fork, over another socket or across a change of user, is
// refused; whoever has it makes one of its own. A user is the effective one;
// groups are those that the process had when it connected. The overflow user, by
// which the kernel stands for users of other namespaces, is refused, and so is a
// process that is not in the agent's process namespace.
//
// Who may reserve tokens for whom is a [Policy]; without one, every user for
// itself. A token's audience is held to when it is opened: a user, a group, a
// named service of the policy, or one process, which the exporter hands over as
// a descriptor, so that a later process with the same number gets nothing.
//
// # What ends with the agent
//
// Keys and registers live in the agent's locked memory alone. When it ends,
// however it ends, every outstanding token is worthless, and none can be opened
// a second time. An open whose answer is lost leaves its token spent: at most
// one process gets a context.
//
// The protocol is in doc/agent-protocol.md, so that programs in other languages
// can speak it.
package agent
