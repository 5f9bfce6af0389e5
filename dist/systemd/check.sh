#!/bin/sh
# Checks that the shipped units expose little: at most 1.5 of 10 by the measure of
# systemd-analyze. Needs the systemd package; installs it when root on Debian.
set -eu
cd "$(dirname "$0")"
limit=15 # tenths
if ! command -v systemd-analyze >/dev/null; then
	DEBIAN_FRONTEND=noninteractive apt-get update -q >/dev/null
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends systemd >/dev/null
fi

# exposure UNIT: the overall level in tenths.
exposure() {
	systemd-analyze security --offline=true --no-pager "$1" |
		sed -n 's/.*Overall exposure level for [^:]*: \([0-9]*\)\.\([0-9]\).*/\1\2/p'
}

# The measure must be able to fail: the same unit without its hardening is bad.
bare=$(mktemp -d)
trap 'rm -rf "$bare"' EXIT
sed -n '/^\[Unit\]/,/^ExecReload/p' sealctx-agent.service >"$bare/bare.service"
open=$(exposure "$bare/bare.service")
test "$open" -gt "$limit" || { echo "a bare unit passes too ($open): the check is blind" >&2; exit 1; }

for unit in sealctx-agent.service sealctx-metrics.service; do
	got=$(exposure "$PWD/$unit")
	test -n "$got" || { echo "systemd-analyze said nothing of $unit" >&2; exit 1; }
	echo "exposure of $unit: $((got / 10)).$((got % 10)), of the agent's without hardening: $((open / 10)).$((open % 10)), at most $((limit / 10)).$((limit % 10))"
	test "$got" -le "$limit" || { systemd-analyze security --offline=true --no-pager "$PWD/$unit" >&2; exit 1; }
done
