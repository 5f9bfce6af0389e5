#!/bin/sh
# Sees to the Debian packages that the interop tests and `make bench` need: what
# is missing is installed where root runs this on Debian, and named otherwise.
#
#   interop/needs.sh [PACKAGE...]     all of them by default
set -eu

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
	valgrind valgrind --version
	bind9 env PATH=$PATH:/usr/sbin which named
	bind9-dnsutils which nsupdate
	curl which curl
	chromium which chromium
	python3-requests-kerberos /usr/bin/python3 -c "import requests_kerberos"
	apache2 env PATH=$PATH:/usr/sbin which apache2
	libapache2-mod-auth-gssapi test -e /usr/lib/apache2/modules/mod_auth_gssapi.so
	python3-cryptography /usr/bin/python3 -c "import cryptography"
	EOF
}

missing() {
	needs | while read -r package probe; do
		case " $* " in
		"  " | *" $package "*) eval "$probe" >/dev/null 2>&1 </dev/null || printf '%s ' "$package" ;;
		esac
	done
}

# Heimdal's credential server, unpacked and not installed: its package would start
# it, at the place where the host's own one may be.
kcm() {
	[ ! -x bin/kcm ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
	dir=$(mktemp -d)
	chmod 755 "$dir"
	if (cd "$dir" && apt-get download -q heimdal-kcm >/dev/null 2>&1 && dpkg -x heimdal-kcm_*.deb .); then
		mkdir -p bin
		cp "$dir/usr/sbin/kcm" bin/kcm
	else
		echo "interop: heimdal-kcm could not be downloaded; TestCredentialServer will be skipped" >&2
	fi
	rm -rf "$dir"
}
cd "$(dirname "$0")"
kcm

packages=$(missing "$@")
if [ -n "$packages" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	echo "interop: installing $packages" >&2
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q >/dev/null
	# shellcheck disable=SC2086 # one word a package
	apt-get install -y -q --no-install-recommends $packages >/dev/null
	packages=$(missing "$@")
fi
if [ -n "$packages" ]; then
	echo "interop: missing Debian packages: $packages" >&2
	echo "interop: as root: apt-get install --no-install-recommends $packages" >&2
	exit 1
fi
