#!/bin/sh
# Builds the packages of this machine's architecture and has lintian look at them: no
# error is allowed. Installs lintian when root on Debian.
set -eu
cd "$(dirname "$0")/../release"
if ! command -v lintian >/dev/null && [ "$(id -u)" = 0 ]; then
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update -q >/dev/null
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends lintian >/dev/null
fi
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
go vet ./...
go run . -dirty -arch "$(go env GOARCH)" -out "$out"
lintian --allow-root --fail-on error "$out"/*.deb
for deb in "$out"/*.deb; do
	dpkg-deb --contents "$deb" | grep '/usr/share/doc/.*/copyright$' >/dev/null || { echo "$deb has no copyright file" >&2; exit 1; }
done
echo "packages: $(cd "$out" && ls ./*.deb ./*.rpm | wc -l), no error of lintian"
