#!/bin/bash
# Builds the release twice: in different directories, with different module and build
# caches and, as root, by different users. Fails unless every file is the same.
#
#	dist/release/reproduce.sh [-arch amd64,arm64]
set -euo pipefail
source=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d)
chmod 755 "$work"
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
build() { # NAME UID ARG...
	local dir=$work/$1 uid=$2 as=()
	shift 2
	mkdir -p "$dir/home" "$dir/out"
	git clone -q "$source" "$dir/a/clone"
	if [ "$(id -u)" = 0 ]; then
		chown -R "$uid:$uid" "$dir"
		as=(setpriv --reuid="$uid" --regid="$uid" --clear-groups --)
	fi
	(cd "$dir/a/clone/dist/release" && "${as[@]}" env HOME="$dir/home" TMPDIR="$dir/home" GOCACHE="$dir/home/cache" GOMODCACHE="$dir/home/mod" \
		GOFLAGS=-modcacherw go run . -out "$dir/out" "$@")
}
build first 12345 "$@"
build second-with-another-name 23456 "$@"
diff "$work/first/out/SHA256SUMS" "$work/second-with-another-name/out/SHA256SUMS"
(cd "$work/first/out" && sha256sum --quiet -c SHA256SUMS)
echo "two builds, the same bytes:"
cat "$work/first/out/SHA256SUMS"
