// Package interop has no code of its own: its tests hand live contexts of real
// Kerberos libraries, MIT's and Heimdal's, from one process to another while a
// peer of another maker keeps talking to them.
//
// run.sh installs or names the Debian packages that the tests need, and runs
// them. The programs that take part, some with tests of their own:
//
//	kdc       a private realm, any user, one directory
//	cpeer     a peer in C, over either library
//	node      a process that uses GSS-API through Go and hands contexts on
//	mitbench  MIT's library in a loop, for comparison
//	opener    opens sealed tokens in Python, from doc/SPEC.md alone
//	pyinit    a peer in Python over python3-gssapi
//	web       tests of HTTP clients, and of Apache beside package negotiate
//	negpeer   the negotiation of either library, without a network
//	webbench  HTTP requests: package negotiate, MIT's library, gokrb5, Apache
//	withkdc   runs a command inside a private realm
package interop
