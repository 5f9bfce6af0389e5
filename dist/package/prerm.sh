#!/bin/sh
# Stops what runs, unless this is an upgrade. Outstanding tokens end with the agent.
set -e
if [ "$1" = remove ] || [ "$1" = 0 ]; then
	if command -v systemctl >/dev/null; then
		systemctl disable --now sealctx-agent.socket sealctx-agent.service sealctx-metrics.socket sealctx-metrics.service || true
	fi
fi
