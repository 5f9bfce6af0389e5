#!/bin/sh
# Makes the agent's user and starts the socket; an upgrade lets the agent restart at
# its next request.
set -e
if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers sealctx.conf
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	if [ "$1" = configure ] && [ -z "$2" ] || [ "$1" = 1 ]; then
		systemctl enable --now sealctx-agent.socket
	else
		systemctl try-restart sealctx-agent.service
	fi
elif [ "$1" = configure ] && [ -z "$2" ] && command -v systemctl >/dev/null; then
	systemctl enable sealctx-agent.socket
fi
