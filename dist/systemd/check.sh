#!/bin/sh
# Checks that the shipped unit exposes little: at most 1.5 of 10 by the measure of
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

got=$(exposure "$PWD/sealctx-agent.service")
test -n "$got" || { echo "systemd-analyze said nothing" >&2; exit 1; }

# The measure must be able to fail: the same unit without its hardening is bad.
bare=$(mktemp -d)
trap 'rm -rf "$bare"' EXIT
sed -n '/^\[Unit\]/,/^ExecReload/p' sealctx-agent.service >"$bare/bare.service"
open=$(exposure "$bare/bare.service")
test "$open" -gt "$limit" || { echo "a bare unit passes too ($open): the check is blind" >&2; exit 1; }

echo "exposure of sealctx-agent.service: $((got / 10)).$((got % 10)), bare: $((open / 10)).$((open % 10)), at most $((limit / 10)).$((limit % 10))"
test "$got" -le "$limit" || { systemd-analyze security --offline=true --no-pager "$PWD/sealctx-agent.service" >&2; exit 1; }
