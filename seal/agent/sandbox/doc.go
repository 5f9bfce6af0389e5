// Package sandbox locks a process in that has made its sockets and keys and has
// nothing left to do but to serve: the agent.
//
//   - no_new_privs: nothing that it might execute gains rights;
//   - not dumpable: no core, no ptrace, see memsafe.Harden;
//   - Landlock: no file can be opened but those below the given paths and
//     /proc, and those only to be read;
//   - seccomp: a system call that serving does not need is refused with EPERM:
//     making a socket of any kind, executing, ptrace, mapping executable
//     memory, opening a file to write, signals to other processes, by kill, by
//     their limits or by a descriptor, and all the rest.
//
// The filter cannot see the address that sendmsg is given: it is behind a pointer.
// Over a datagram socket that it had before, or that a client passes to it, a
// process that was taken over can send to whatever takes datagrams from it.
//
// It is a package of its own so that clients of the agent carry none of it.
package sandbox
