package agent

// The audit events of the agent, besides those of package seal: that a token was
// reserved, opened, taken back or refused, with the peer's user and process. None
// has a field that is secret.
const (
	eventAlarm        = "second import of a token"      // level Error: the token was copied, or its sender sent it twice
	eventAlarms       = "more second imports of tokens" // level Error: how many were not logged one by one
	eventDropped      = "more was refused"              // level Warn: how many lines were not logged
	eventLost         = "answer not delivered"          // an opened token is spent, and its context lost
	eventDenied       = "request refused"
	eventPeer         = "peer refused"
	eventCancelled    = "reservation cancelled"
	eventRotated      = "keys rotated"
	eventRetired      = "epoch retired on request"
	eventEpoch        = "epoch made"
	eventEpochOver    = "epoch retired"
	eventPolicy       = "policy in force"
	eventNoDescriptor = "no descriptor for another connection"
	eventTrouble      = "keyring in trouble"
)
