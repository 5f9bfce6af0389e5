#!/bin/sh
# Holds that the seeds and the checked-in corpora of the fuzz targets reach 90 %
# of the statements of the parsers; with nothing but them, and no fuzzing.
set -eu
cd "$(dirname "$0")/.."
profile=$(mktemp)
trap 'rm -f "$profile"' EXIT
go test -count=1 -run '^Fuzz' -coverpkg=./internal/token,./internal/suite,./seal,./keyring -coverprofile="$profile" ./fuzz
go run ./fuzz/coverage "$profile" "${1:-90}"
