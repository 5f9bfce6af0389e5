package agent

import "time"

// Limits of this package, and why.
const (
	// idleTimeout is how long the server keeps a connection without a request.
	// Clients of ours give theirs up sooner, so that they do not send into a
	// connection that is being closed.
	idleTimeout = 3 * time.Minute

	// frameTimeout is how long a frame may take, from its first byte to the last
	// of its answer's. On one host that takes microseconds; a stopped peer
	// holds a request of its user's quota until then.
	frameTimeout = 5 * time.Second

	// drainTimeout is how long requests under way may take when Serve ends.
	drainTimeout = frameTimeout

	// closeTimeout is how long Serve waits beyond that for descriptors of peers to
	// be closed.
	closeTimeout = time.Second

	// housekeeping is how often the server looks for epochs whose time is over. A key
	// does not outlive its age while no request comes.
	housekeeping = 10 * time.Second

	// slotLinger is how much longer than its token a slot is taken, at most: the
	// register counts in whole seconds. The quota counts slots.
	slotLinger = 2 * time.Second

	// maxGroupLists is how many lists of groups an account keeps for the tokens
	// of its user. A list has a hundred bytes, or 256 KiB at most.
	maxGroupLists = 8

	// maxOutstanding is the most that a quota can say: as many tokens as a key's
	// register has room for.
	maxOutstanding = 1 << 24

	// maxPolicyLine bounds a line of a policy, in bytes.
	maxPolicyLine = 4096

	// smallFrame is the size of the buffers that requests are read into, in
	// bytes; a larger request gets one of its own.
	smallFrame = 4 << 10

	// maxConnections bounds all connections together. RLIMIT_NOFILE may bound them
	// further.
	maxConnections = 8 << 10

	// connectionDescriptors is what a connection may take: its own, that of its
	// process, and one that its request brings.
	connectionDescriptors = 3

	// spareDescriptors are left for the rest of the process: log, metrics, poller,
	// the policy while it is read.
	spareDescriptors = 64

	// maxClosing bounds the refused connections, of all users, whose close may wait,
	// since their peers sent descriptors with them. closingShare is their share of the
	// descriptors that RLIMIT_NOFILE allows, and closingUserShare one user's share of
	// them, both as divisors.
	maxClosing       = 1 << 10
	closingShare     = 8
	closingUserShare = 8

	// leastDescriptors leave room for a connection.
	leastDescriptors = (spareDescriptors+connectionDescriptors)*closingShare/(closingShare-1) + 1

	// closingPatience is how long Serve waits for a user's refused connections to be
	// closed when they have used up the user's share, before it takes room of all.
	// Most take a fraction of a millisecond each.
	closingPatience = 20 * time.Millisecond

	// backlogShare is how many connections may wait to be accepted, as a divisor of
	// maxClosing: all of them may turn out to be slow to close.
	backlogShare = 2

	// lockedPart is the part of the locked memory, in eighths, that one user's secrets
	// may take. waitingPart is the part that answers which peers do not read may take in
	// all, and waitingUserPart those of one user.
	lockedPart      = 4
	waitingPart     = 4
	waitingUserPart = 3

	// preparedPart is the part that the keys of prepared reservations may take in all:
	// they stay as long as their connections, and other requests need the rest.
	preparedPart = 6

	// acceptPause and acceptPauseMax are how long Serve waits when the kernel
	// has no descriptor for it: others give theirs back meanwhile.
	acceptPause    = 5 * time.Millisecond
	acceptPauseMax = time.Second

	// notifyTimeout is how long a service manager may take to take a message.
	notifyTimeout = 2 * time.Second

	// defaultTimeout is how long a client waits for the agent: four orders of
	// magnitude more than an answer takes, and still short enough to fail over.
	defaultTimeout = 5 * time.Second

	// recentGrant is how old a reservation may be for its token to be sealed without
	// another question to the agent (doc/adr/0018). A mechanism exports a context in
	// a few microseconds, so that a handover asks nothing; a question costs it 7 %.
	recentGrant = 50 * time.Microsecond

	// clientIdle is how long a client keeps a connection that it does not use.
	clientIdle = time.Minute

	// rightsPause is how long a client waits before it sends a descriptor again that
	// the kernel refused since the agent has not accepted the connection yet.
	rightsPause = time.Millisecond

	// clientConnections is how many connections a client has at most; further
	// requests wait for one.
	clientConnections = 32

	// reserveTries is how often a client sends a reserve request before it gives
	// up; all other requests are sent once.
	reserveTries = 3
)
