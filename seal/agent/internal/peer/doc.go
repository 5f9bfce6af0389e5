// Package peer is the kernel's word for who is at the other end of a Unix
// socket, and the receiving of bytes with that word on each of them.
//
// A connection has the credentials of the process that connected
// (SO_PEERCRED, SO_PEERPIDFD, SO_PEERGROUPS). They stay the same whoever holds
// the descriptor later: after a fork, a change of user, or a pass over another
// socket. So each message is asked for its sender's too (SO_PASSCRED), and a
// request counts only if it was sent by the process that connected, under the
// user that connected, and that process is alive: then it is that process and
// no later one with its id.
package peer
