#!/bin/sh
# Runs the interop tests, over MIT's library and over Heimdal's, with the race
# detector. needs.sh sees to what they need. A skipped test fails the run unless
# skips.txt has its name and the reason. Arguments go to go test: ./run.sh -run TestRelay
set -eu
cd "$(dirname "$0")"

./needs.sh

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
