#!/bin/sh
# Runs the interop tests, over MIT's library and over Heimdal's, with the race
# detector. What they need and is missing is installed where root runs this on
# Debian, and named otherwise. A skipped test fails the run unless skips.txt
# has its name and the reason. Arguments go to go test: ./run.sh -run TestRelay
set -eu
cd "$(dirname "$0")"

# Each line: the Debian package, and a command that succeeds where it is there.
needs() {
	cat <<-EOF
	gcc cc --version
	libc6-dev test -e /usr/include/stdio.h
	pkg-config pkg-config --version
	libkrb5-dev pkg-config --exists mit-krb5-gssapi
	heimdal-multidev pkg-config --exists heimdal-gssapi
	krb5-kdc env PATH=$PATH:/usr/sbin which krb5kdc
	krb5-admin-server env PATH=$PATH:/usr/sbin which kadmin.local
	krb5-user which kinit
	krb5-gss-samples which gss-client
	python3-gssapi /usr/bin/python3 -c "import gssapi"
	python3-cryptography /usr/bin/python3 -c "import cryptography"
	EOF
}

missing() {
	needs | while read -r package probe; do
		eval "$probe" >/dev/null 2>&1 </dev/null || printf '%s ' "$package"
	done
}

packages=$(missing)
if [ -n "$packages" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	echo "interop: installing $packages"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q >/dev/null
	# shellcheck disable=SC2086 # one word a package
	apt-get install -y -q --no-install-recommends $packages >/dev/null
	packages=$(missing)
fi
if [ -n "$packages" ]; then
	echo "interop: missing Debian packages: $packages" >&2
	echo "interop: as root: apt-get install --no-install-recommends $packages" >&2
	exit 1
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
go vet ./...
go vet -tags nolibrary ./node
status=0
go test -race -count=1 -timeout 15m -v "$@" ./... >"$log" 2>&1 || status=$?
grep -v -e '^=== ' -e '^ *--- PASS: .*/' "$log" || true

# skips.txt: the test's full name, a space, the reason; # begins a comment.
skipped=$(sed -n 's/^ *--- SKIP: \([^ ]*\) .*/\1/p' "$log" | sort -u)
for name in $skipped; do
	if ! grep -v '^#' skips.txt | cut -d' ' -f1 | grep -q -x -F -e "$name"; then
		echo "interop: $name was skipped and is not in skips.txt" >&2
		status=1
	fi
done
exit "$status"
