#!/bin/sh
# Runs every fuzz target of the module in turn, each for a while.
#
#   fuzz/run.sh [FUZZTIME [TARGET...]]     30s by default; a target: FuzzParse
#
# A failing input is kept in the target's testdata/fuzz, and the run goes on.
set -eu
cd "$(dirname "$0")/.."
time=${1:-30s}
[ $# -eq 0 ] || shift
fuzz/coverage.sh

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# fuzz PACKAGE TARGET: fuzzes one target. Go before 1.27 now and then fails a
# target whose time is up with nothing but the words below (go.dev/issue/75804);
# a failing input is reported in other words.
fuzz() {
	# Minimizing what is only interesting would take most of a short run.
	if go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 10x "$1" >"$log" 2>&1; then
		cat "$log"
		return 0
	fi
	cat "$log"
	grep -A1 '^--- FAIL: ' "$log" | tail -n 1 | grep -q -x '    context deadline exceeded' &&
		! grep -q 'Failing input written' "$log"
}

failed=
found=0
for package in $(go list ./...); do
	dir=$(go list -f '{{.Dir}}' "$package")
	for target in $(grep -h -o '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go 2>/dev/null | cut -d' ' -f2 | sort -u); do
		case " $* " in
		"  " | *" $target "*) ;;
		*) continue ;;
		esac
		found=$((found + 1))
		echo "== ${package#github.com/sealctx/sealctx/} $target"
		fuzz "$package" "$target" || failed="$failed $target"
	done
done
[ "$found" -gt 0 ] || { echo "fuzz: no targets" >&2; exit 1; }
[ -z "$failed" ] || { echo "fuzz: failed:$failed" >&2; exit 1; }
echo "fuzz: $found targets, $time each"
