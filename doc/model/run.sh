#!/usr/bin/env bash
# Searches the models of this directory with Spin, whole: the model must hold, and each
# broken variant must fail. `run.sh all` searches the larger ones too, which takes
# minutes and 4 GB. Installs spin and gcc where root runs it on Debian.
set -euo pipefail
cd "$(dirname "$0")"
if ! command -v spin >/dev/null || ! command -v gcc >/dev/null; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
		DEBIAN_FRONTEND=noninteractive apt-get update -q >/dev/null
		DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends spin gcc libc6-dev >/dev/null
	else
		echo "the model needs Spin and a C compiler; as root: apt-get install spin gcc libc6-dev" >&2
		exit 1
	fi
fi
here=$PWD
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

# search MODEL DEFINES...: prints what Spin found in the whole state space.
search() {
	local model=$1
	shift
	cd "$dir"
	rm -f pan pan.* ./*.trail
	spin "${@/#/-D}" -a "$here/$model.pml" >spin.log 2>&1 || { cat spin.log >&2; exit 1; }
	gcc -O2 -w -DSAFETY -DCOLLAPSE -DVECTORSZ=1024 -o pan pan.c
	./pan -m10000 -w24 >pan.log 2>&1 || true
	cd "$here"
}

# number PATTERN: a number of the search's report.
number() { sed -n "s/$1/\\1/p" "$dir/pan.log" | head -n 1; }

report() { printf '%-10s %-46s %12s states  %s\n' "$1" "$2" "$(number '^ *\([0-9.e+]*\) states, stored.*')" "$3"; }

# holds MODEL DEFINES...: no property fails, and no state was left out.
holds() {
	local verdict="holds, all states searched"
	search "$@"
	if [ "$(number '.*errors: \([0-9]*\).*')" != 0 ] || grep -qE 'Search not completed|max search depth too small|out of memory|hash conflicts.*lossy' "$dir/pan.log"; then
		verdict=FAILED failed=1
		cat "$dir/pan.log"
		[ ! -e "$dir/$1.pml.trail" ] || (cd "$dir" && cp "$here/$1.pml" . && spin "${@:2}" -t -p "$1.pml" 2>&1 | tail -n 100) || true
	fi
	report "$1" "${*:2}" "$verdict"
}

# fails PROPERTY MODEL VARIANT DEFINES...: this property of the broken variant fails.
fails() {
	local verdict="fails, as it must: $1" assertion
	case $1 in
	"one claim") assertion='!(spent\[' ;;
	"no token loses its slot") assertion='standing\[.*holder\[' ;;
	"no token is lost to make room") assertion='standing\[i\]' ;;
	"what is late is refused") assertion='!(1)' ;;
	"what leaves was not swept") assertion='slot\[at\[k\]\]!=' ;;
	"no key that is going is used") assertion='!(ok)|| *b)\|state==3' ;;
	"the limit") assertion='<=tokens' ;;
	esac
	shift
	search "$@"
	if ! grep -q "^pan:1: assertion violated.*$assertion" "$dir/pan.log"; then
		verdict="DOES NOT FAIL SO" failed=1
		grep '^pan:' "$dir/pan.log" || true
	fi
	report "$1" "${*:2}" "$verdict"
}

small="EXPORTERS=2 IMPORTERS=2"
# shellcheck disable=SC2086 # words
{
	holds ownership $small
	holds count $small
	fails "one claim" ownership LOADSTORE $small
	fails "one claim" ownership KEEPGEN $small
	fails "no token is lost to make room" ownership NOLOOK $small
	fails "what is late is refused" ownership NOCHECK $small
	fails "no token loses its slot" ownership ROUND $small
	fails "what leaves was not swept" ownership DEADLAST $small
	fails "no key that is going is used" ownership WIPEFIRST $small
	for variant in CORRECTING NOTURN ONETURN NOMADE ANYTURN; do
		fails "the limit" count $variant $small
	done
	if [ "${1:-}" = all ]; then
		holds ownership EXPORTERS=2 IMPORTERS=3
		holds ownership EXPORTERS=2 IMPORTERS=3 AGENT
		holds ownership EXPORTERS=1 IMPORTERS=3 TRIES=2
		holds ownership EXPORTERS=2 IMPORTERS=1 TICKS=2 LASTTICK=4
		fails "no token loses its slot" ownership ROUND EXPORTERS=2 IMPORTERS=1 TICKS=2 LASTTICK=4
		holds count EXPORTERS=2 IMPORTERS=3
		holds count EXPORTERS=2 IMPORTERS=1 RECOUNTERS=2
	fi
}
exit $failed
