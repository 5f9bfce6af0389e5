// Package handoff hands an established security context and its connection to
// a worker process of this host, and takes the context back if the worker does
// not take it.
//
//	err := handoff.Send(ctx, worker, sc, conn, read)       // in the acceptor
//	sc, conn, err := handoff.Receive(ctx, acceptor, p)     // in the worker
//
// Both ends of the worker's connection are Unix stream sockets. The worker made the
// connection, or it inherited one end of a socketpair ([Spawn], [FromParent]). Both
// processes wrap their provider with package secctx and the same sealer: this user's
// keyring, or the agent if acceptor and worker are different users. A [Pool] keeps
// several workers and waits for a free one.
//
// # Who owns the context
//
// At every instant at most one process owns the context: the acceptor, then nobody, then
// the worker. Only the claim of the sealed token decides. The worker's answer is
// information. If the worker does not answer in time, or if it says that it has the
// context while the register shows the token outstanding, Send takes the token back. Send
// looks at the register if this process has it mapped, and asks an agent if [Sender] says
// Verify. Otherwise Send believes the worker.
//
// The connection goes with the token. A worker makes sure that it has the connection
// before it claims the context, because it may have no file descriptor left and a claim
// cannot be undone. So Send returns nil only if the worker has both. If Send fails, one of
// two things is true, whichever process dies, stops or lies:
//
//   - the take-back won: ErrReturned. The context works again and the connection is open
//   - the take-back lost, or nobody can tell: ErrClaimed. The connection is shut down for
//     its peer and closed
//
// After ErrReturned an honest worker has closed its copy of the connection, or closes it
// when it runs again. Until then, or until the worker is killed, the connection does not
// end for its peer when the acceptor closes it. A worker that lies can keep its copy. It
// can read from the connection and write to it, beside the process that has the context.
// It has no key of the context, so it can only break messages that the context protects.
// Send gave it the same chance in every handoff that it took. Bytes that no context
// protects are as safe as the worst worker that they were offered to.
//
// For READY Send waits until its ctx ends. For the answer to a token it waits for at most
// three quarters of the token's lifetime and of the time until ctx's deadline. The rest is
// for the take-back.
//
// # Who the worker is
//
// The worker is the process that the kernel names as the sender of each message
// (SCM_CREDENTIALS). SO_PEERCRED would name the maker of a socketpair, and the process that
// connected even after the socket went through fork and a change of user. One exchange is
// with one process: a message of another process ends it. By default a token is for that
// very process ([seal.Process]). Neither a child with the same socket nor a later process
// with the same id can open it. [Sender] can name another audience, or refuse. A worker in
// another process namespace, for which the kernel has no id here, is refused.
//
// # Messages
//
// A frame is a header of 8 bytes and a body. Numbers are big-endian. Worker and acceptor
// speak in turn. Anything else ends the exchange.
//
//	magic     2  'S' 'H'
//	version   1  2
//	kind      1
//	length    4  of the body
//
//	1 READY       worker    empty: it waits for a context
//	2 OFFER       acceptor  4: the length of read
//	                        0 .. MaxRead: read, bytes that were read from the connection
//	                        and not used
//	                        1 .. MaxToken of package seal: the sealed token
//	                        With the frame's first byte comes one descriptor (SCM_RIGHTS),
//	                        the connection
//	3 IMPORTED    worker    empty: it has the connection and the context
//	4 REFUSED     worker    1: why it has not imported the token: the number of a routine
//	                        error of RFC 2744 (3.9.1), or 255 if it had no file descriptor
//	                        left. READY may follow
//	5 WITHDRAWN   acceptor  empty: no offer comes. READY follows
//
// A worker's frame carries the worker's credentials and no descriptor. While the acceptor
// has not yet set SO_PASSCRED, the kernel adds credentials only if the worker sends them.
// A process of another version ends the exchange with ErrProtocol before it imports, so
// the context is returned. Version 1 sent the connection after IMPORTED.
//
// # Descriptors
//
// A worker that has fewer than two descriptors left does not say READY. If the kernel
// drops the connection's descriptor all the same (the limit was lowered, another goroutine
// was quicker, a security module forbids it), the worker answers REFUSED. An acceptor
// leaves descriptors that a worker sends in the worker's connection, where they take no
// place in the acceptor's table. Closing that connection may take long. A Pool starts no
// worker in that place meanwhile.
//
// # What ends when
//
// No function leaves a goroutine behind, but for one that waits until a connection with
// such descriptors is closed. No path leaves a descriptor open. Send may be called for
// different workers at the same time, and so may Receive for different acceptors. On one
// connection one call runs at a time.
package handoff
