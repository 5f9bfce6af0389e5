#!/bin/sh
# Tries the alerts on made series, and the names of a running agent's metrics, with
# promtool; installs Debian's prometheus for it when root.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
agent=
trap 'test -z "$agent" || kill "$agent"; rm -rf "$work"' EXIT
command -v curl >/dev/null || {
	DEBIAN_FRONTEND=noninteractive apt-get update -q >/dev/null
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends curl >/dev/null
}
if ! command -v promtool >/dev/null; then
	# Unpacked, not installed: the package would start a server.
	apt-get update -q >/dev/null
	(cd "$work" && apt-get download -q prometheus >/dev/null && dpkg-deb -x prometheus_*.deb .)
	PATH=$PATH:$work/usr/bin
fi

promtool check rules sealctx.rules.yml
promtool test rules sealctx.test.yml

# The controls: without any of the alerts, or with one that is too eager, the test fails.
cp sealctx.test.yml "$work"
for alert in $(sed -n 's/^ *- alert: //p' sealctx.rules.yml); do
	sed "s/alert: $alert\$/alert: Other/" sealctx.rules.yml >"$work/sealctx.rules.yml"
	! promtool test rules "$work/sealctx.test.yml" >/dev/null 2>&1 || { echo "the test does not see $alert" >&2; exit 1; }
done
sed 's/> 0.8$/> 0.7/' sealctx.rules.yml >"$work/sealctx.rules.yml"
! promtool test rules "$work/sealctx.test.yml" >/dev/null 2>&1 || { echo "the test takes an alert on a good agent" >&2; exit 1; }

# An agent's metrics as they are served.
(cd ../.. && go build -o "$work/sealctx" ./cmd/sealctx)
"$work/sealctx" agent --socket "$work/agent.sock" --metrics "unix:$work/metrics" 2>"$work/log" &
agent=$!
until grep -q 'agent ready' "$work/log"; do kill -0 "$agent"; sleep 0.1; done
"$work/sealctx" keyring status --agent "$work/agent.sock" >/dev/null
curl -sf --unix-socket "$work/metrics" http://agent/healthz
curl -sf --unix-socket "$work/metrics" http://agent/metrics >"$work/scrape"
grep -q '^sealctx_agent_requests_total' "$work/scrape"
promtool check metrics <"$work/scrape"
curl -sf --unix-socket "$work/metrics" -H 'Accept: application/openmetrics-text;version=1.0.0' http://agent/metrics | tail -n 1 | grep -qx '# EOF'
sed 's/requests_total/requests/' "$work/scrape" | promtool check metrics >"$work/control" 2>&1 && { echo "promtool takes a bad name" >&2; exit 1; }
grep -q requests "$work/control"
echo "the agent's alerts and metrics are as promtool has them"
