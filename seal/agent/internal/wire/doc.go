// Package wire is the bytes of the agent's protocol: what doc/agent-protocol.md
// says, and nothing about sockets or who is asking. It sees hostile bytes and
// keeps to cryptobyte for them.
//
// Both directions are streams of frames, each a header of 12 bytes and a body:
//
//	header = "SLXA" | version(1) | operation(1) | flags(1) | status(1) | length(4)
//
// Integers are big-endian; length counts the body. A frame takes at most 64 KiB.
// flags is 0 in a request and 1 in a reply; status is 0 in a request. The body
// of a reply with a status other than OK is always GSS major status(4) | len16
// text.
//
//	operation    request                                             reply
//	1 reserve    lifetime(8) | len8 suites | len16 mechanism |       len16 K_enc | len16 start
//	             len16 format | len16 audience
//	2 open       len16 format | len32 token | exporters              len32 plain token
//	3 take back  len16 format | len32 token                          len32 plain token
//	4 cancel     len16 start                                         empty
//	5 inspect    len32 token                                         state(1)
//	6 status     empty                                               see Status
//	7 rotate     suite(1), 0 for all                                 empty
//	8 retire     epoch(16)                                           empty
//	9 prepare    see PrepareRequest                                  count(1), then each len16 start
//	10 seal      len16 start | len32 plain token                     len32 token
//	11 open any  count(1), then each len16 format | len32 token |    len32 plain token
//	             exporters
//
// exporters is empty, or up to 16 times len8 exporter, to the end of the body: one
// of them must have exported the token.
//
// lenN is a length of N bits before the bytes it counts. An audience is its
// kind, one byte, and its value as in a token, or empty for the peer's own
// user; for kind 4 (process) the value is empty and the request carries a
// pidfd of the process as its one descriptor. start is header, context and
// commitment of the token to be.
package wire
