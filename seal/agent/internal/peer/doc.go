// Package peer asks the kernel which process is at the other end of a Unix socket, for a
// connection and for each message that comes over it.
//
// A connection has the credentials of the process that connected (SO_PEERCRED,
// SO_PEERPIDFD, SO_PEERGROUPS). They stay the same if another process holds the descriptor
// later: after a fork, a change of user, or a pass over another socket. So each message
// has its sender's credentials too (SO_PASSCRED). A request counts only if the process
// that connected sent it, under the user that connected, and if that process is alive.
// Then the sender is no later process with the same id.
package peer
