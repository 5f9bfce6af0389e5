// Package handoff hands an established security context and its connection to
// a worker process of this host, and takes the context back if the worker does
// not take it.
//
//	err := handoff.Send(ctx, worker, sc, conn, read)       // in the acceptor
//	sc, conn, err := handoff.Receive(ctx, acceptor, p)     // in the worker
//
// Both ends of the worker's connection are Unix stream sockets: one that the
// worker made, or a socketpair that it inherited ([Spawn], [FromParent]). Both
// processes wrap their provider with package secctx and the same sealer: this
// user's keyring, or the agent where acceptor and worker are different users.
// A [Pool] keeps several workers and waits for a free one.
//
// # Who owns the context
//
// At every instant at most one process: the acceptor, then nobody, then the
// worker. The claim of the sealed token decides and nothing else. What the
// worker says is information: where it does not say in time that it has the
// context, or says so while the register shows the token outstanding, Send takes
// the token back. The register is looked at where this process has it mapped, and
// an agent's with Verify of [Sender]; otherwise the worker's word is enough, and
// one that lies gets a connection whose context nobody has before it claims it. So
// where Send fails it is in one of two ways, whenever either process dies, stops
// or lies:
//
//   - the take-back won: ErrReturned, the context works again, and the connection
//     was never out of the acceptor's hands
//   - the take-back lost, or nobody can tell: ErrClaimed, and the connection is
//     closed, since nobody else can serve it
//
// For READY Send waits until its ctx ends; for the answer to a token also no
// longer than three quarters of the token's lifetime, because an expired one
// cannot be taken back.
//
// # Who the worker is
//
// The kernel's word for who sent each of its messages (SCM_CREDENTIALS), and not
// who made the connection: SO_PEERCRED names the maker of a socketpair, and the
// one who connected even after the socket went through fork and a change of
// user. One exchange is one process: a message of another one ends it. By
// default a token is for that very process ([seal.Process]), so that neither a
// child with the same socket nor a later process with the same id can open it;
// [Sender] can name another audience, or refuse. A worker in another process
// namespace, whose id the kernel cannot tell here, is refused.
//
// # Messages
//
// A frame is a header of 8 bytes and a body; numbers are big-endian. Worker and
// acceptor speak in turn, and an acceptor's frame is never followed by another
// before the worker's. Anything else ends the exchange.
//
//	magic     2  'S' 'H'
//	version   1  1
//	kind      1
//	length    4  of the body
//
//	1 READY       worker    empty        I wait for a context
//	2 TOKEN       acceptor  1 .. MaxToken of package seal: the sealed token
//	3 IMPORTED    worker    empty        I have it: the connection, please
//	4 REFUSED     worker    1: the number of the routine error of RFC 2744
//	                        (3.9.1) that the import ended with. READY may follow
//	5 CONNECTION  acceptor  0 .. MaxRead: bytes that were read from the connection
//	                        and not used; with the frame's first byte, and with no
//	                        other, comes one descriptor (SCM_RIGHTS)
//	6 WITHDRAWN   acceptor  empty        nothing came of it; READY follows
//
// A worker's frame carries the worker's credentials: where the acceptor has not
// yet set SO_PASSCRED, the kernel adds them only if the worker sends them.
//
// # What ends when
//
// Neither function leaves a goroutine behind, and no path leaves a descriptor
// open. Send may be called for different workers at the same time, and so may
// Receive for different acceptors; on one connection one call at a time.
package handoff
