// Package demo runs the main job of sealctx before the reader's eyes: a
// Kerberos session that is handed from process to process while it goes on, and
// what becomes of attempts to cheat.
//
// Run is the director. It starts every player as a process of its own, this
// program again, and tells it over a Unix socket what to do; the player that
// connects is known by its pid as the kernel tells it. A line is printed once
// what it says has happened and was checked, and not before.
//
//	demo.go    the play, scene by scene
//	cast.go    starting the players and talking to them
//	node.go    acceptor and worker: hold contexts and serve their peers
//	hand.go    what moves a session from one to the other
//	crowd.go   its last scene, with many initiators
//	client.go  initiator
//	tap.go     the thief: sees plain tokens as the mechanism makes them
//	wire.go    frames
package demo
