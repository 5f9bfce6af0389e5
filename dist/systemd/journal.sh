#!/bin/sh
# Checks with systemd's own journal that journalctl -p err shows the agent's errors, and
# the errors alone. The journal runs without systemd, in namespaces of its own. Needs root
# and the systemd package.
set -eu
test "$(id -u)" = 0 || { echo "not root: left out"; exit 0; }
journald=/lib/systemd/systemd-journald
test -x $journald || { echo "$journald is not installed: left out"; exit 0; }
if [ -z "${SEALCTX_JOURNAL_INSIDE:-}" ]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	(cd "$(dirname "$0")/../.." && go build -o "$work/sealctx" ./cmd/sealctx)
	SEALCTX_JOURNAL_INSIDE=$work unshare --mount --net sh "$0"
	exit
fi
sealctx=$SEALCTX_JOURNAL_INSIDE/sealctx
mount -t tmpfs none /run
mkdir -p /run/systemd/journal /run/sealctx "/run/log/journal/$(cat /etc/machine-id)"
$journald 2>/run/journald & journald=$!
agent=
trap 'kill $agent $journald' EXIT

# until_true COMMAND...: until it holds, for a minute.
until_true() {
	for _ in $(seq 600); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done
	echo "never: $*" >&2
	return 1
}
# shown PRIORITY: the lines of programs from that priority on.
shown() { journalctl -D /run/log/journal --no-pager -o cat -p "$1" _TRANSPORT=stdout; }
# said PRIORITY TEXT: whether one of them has the text.
said() { shown "$1" | grep -q "$2"; }

until_true test -S /run/systemd/journal/stdout
start='exec "$0" agent --socket /run/sealctx/agent.sock'
told='JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2)' # as the service manager does
systemd-cat sh -c "$told $start" "$sealctx" & agent=$!
until_true said info 'agent ready'
kill -HUP $agent
until_true said warning 'nothing to read again'
systemd-cat sh -c "$told $start" "$sealctx" || true
until_true said err 'another agent listens there'
# The control: without the variable the same error is none to the journal.
JOURNAL_STREAM= systemd-cat sh -c "$start" "$sealctx" || true
twice() { test "$(shown info | grep -c 'another agent listens there')" = 2; }
until_true twice
test "$(shown err | grep -c .)" = 1
test "$(shown warning | grep -c .)" = 2
! shown debug | grep '^<'
echo "the journal has the agent's priorities: $(systemd-cat --version | head -n 1)"
