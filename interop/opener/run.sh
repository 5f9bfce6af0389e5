#!/bin/sh
# Runs the second opener over the vectors and over fresh tokens. Needs Debian's
# python3-cryptography, which it installs if it may.
set -eu
cd "$(dirname "$0")"
if ! /usr/bin/python3 -c 'import cryptography' 2>/dev/null; then
	if [ "$(id -u)" != 0 ]; then
		echo "opener: missing: python3-cryptography; apt-get install python3-cryptography" >&2
		exit 1
	fi
	apt-get update -q >/dev/null
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-cryptography >/dev/null
fi
go vet .
go test -count=1 -v .
