#!/bin/bash
# Runs the shipped units under a real systemd: a small Debian that is booted in a
# container, in which the package is installed, used, upgraded, removed and purged.
# Needs root, a Debian host, its mirror, and two minutes; .ci/run does it with SYSTEMD=1.
set -euo pipefail
cd "$(dirname "$0")/../.."
for tool in debootstrap systemd-nspawn; do
	command -v $tool >/dev/null && continue
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update -q >/dev/null
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends debootstrap systemd-container >/dev/null
done
root=$(mktemp -d)
chmod 755 "$root" # the root directory of every user in there
leader=
finish() {
	status=$?
	if [ -n "$leader" ]; then
		[ $status = 0 ] || inside journalctl --no-pager -n 50 -u 'sealctx*' || true
		kill -s RTMIN+4 "$leader" || true # power off
		wait || true
	fi
	rm -rf "$root"
	exit $status
}
trap finish EXIT
inside() { nsenter -t "$leader" -a -- "$@"; }
as() { # USER COMMAND...
	local user=$1
	shift
	inside setpriv --reuid "$user" --regid "$user" --init-groups -- "$@"
}
refused() { if "$@"; then echo "not refused: $*" >&2; exit 1; fi; }

debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus bookworm "$root" >/dev/null
arch=$(dpkg --print-architecture)
mkdir "$root/packages"
for version in 0.1.0 0.1.1; do
	(cd dist/release && go run . -dirty -arch "$arch" -version $version -out "$root/packages")
done

# The container's own filter of system calls is older than these.
systemd-nspawn --quiet --directory="$root" --boot --register=no --keep-unit \
	--system-call-filter='memfd_secret landlock_create_ruleset landlock_add_rule landlock_restrict_self' \
	</dev/null >"$root/console" 2>&1 &
for _ in $(seq 300); do
	leader=$(pgrep -P $! || true)
	[ -n "$leader" ] && inside systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded' && break
	sleep 0.1
done

echo "== the package is installed, and its socket listens"
install_package() { inside dpkg -i "/packages/sealctx_$1-1_$arch.deb" "/packages/sealctx-gss_$1-1_$arch.deb" >/dev/null; }
install_package 0.1.0
inside systemctl is-active sealctx-agent.socket
inside sealctx policy check /etc/sealctx/policy
inside sh -c 'echo "allow user www-data to user games" >>/etc/sealctx/policy'
inside systemctl enable --now sealctx-metrics.socket 2>/dev/null

socket=/run/sealctx/agent.sock
pid() { inside systemctl show -p MainPID --value sealctx-agent; }
echo "== whoever asks for the metrics starts the agent"
metrics() {
	inside bash -c 'exec 3<>/dev/tcp/127.0.0.1/9464; printf "GET /metrics HTTP/1.0\r\n\r\n" >&3; cat <&3'
}
metrics | grep -E '^sealctx_agent_connections'

echo "== root and others seal and open through it, and are counted"
inside sealctx doctor --brief --agent $socket >"$root/doctor" || { cat "$root/doctor"; exit 1; }
grep -E '^ok.*(seal and open|agent|keys)' "$root/doctor"
as games sealctx keyring status --agent $socket >/dev/null
metrics | grep -E '^sealctx_agent_requests_total.*reserve.*ok'
inside grep -E '^(NoNewPrivs:.1|Seccomp:.2|CapEff:.0*)$' "/proc/$(pid)/status"

echo "== who may do what"
refused as games sealctx keyring rotate --agent $socket
inside sealctx keyring rotate --agent $socket

echo "== a good policy is read again, a bad one fails the reload and changes nothing"
inside systemctl reload sealctx-agent
inside sed -i '$a alow user games' /etc/sealctx/policy
refused inside systemctl reload sealctx-agent
inside sed -i '$d' /etc/sealctx/policy
as games sealctx keyring status --agent $socket >/dev/null

echo "== killed, it comes back; stopped, it drains and the next client starts it"
before=$(pid)
inside sh -c "kill -9 $before"
inside sealctx doctor --agent $socket >/dev/null
test "$(pid)" != "$before"
inside systemctl stop sealctx-agent 2>/dev/null
test "$(inside systemctl is-active sealctx-agent)" = inactive
inside sealctx doctor --agent $socket >/dev/null
test "$(inside systemctl is-active sealctx-agent)" = active
test -z "$(inside systemctl --failed --quiet)"

echo "== an upgrade keeps the operator's policy and a working agent"
install_package 0.1.1
inside grep -q '^allow user www-data' /etc/sealctx/policy
inside sealctx doctor --agent $socket >/dev/null
test "$(inside dpkg-query -W -f '${Version}' sealctx)" = 0.1.1-1

echo "== removed, nothing runs and the configuration stays; purged, it is gone"
inside dpkg -r sealctx sealctx-gss >/dev/null
refused inside systemctl is-active sealctx-agent.socket
refused inside test -e /usr/bin/sealctx
inside test -e /etc/sealctx/policy
inside dpkg -P sealctx sealctx-gss >/dev/null
refused inside test -e /etc/sealctx
test -z "$(inside systemctl --failed --quiet)"
echo "== the units work under $(inside systemctl --version | head -1)"
