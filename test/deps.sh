#!/bin/sh
# Installs what the tests need from Debian's packages. Does nothing when all of it is there; without root it only says
# what is missing.
set -eu
packages="zookeeper:/usr/share/java/zookeeper.jar python3-kazoo:/usr/lib/python3/dist-packages/kazoo protobuf-compiler:/usr/bin/protoc libprotobuf-dev:/usr/include/google/protobuf/duration.proto crun:/usr/bin/crun runc:/usr/sbin/runc xz-utils:/usr/bin/xz bzip2:/usr/bin/bzip2 docker.io:/usr/sbin/dockerd containerd:/usr/bin/ctr iptables:/usr/sbin/iptables util-linux:/usr/bin/nsenter containernetworking-plugins:/usr/lib/cni/bridge iproute2:/usr/sbin/ip busybox-static:/bin/busybox chromium:/usr/bin/chromium"
missing=
for p in $packages; do
	[ -e "${p#*:}" ] || missing="$missing ${p%%:*}"
done
command -v java >/dev/null 2>&1 || missing="$missing default-jre-headless"
command -v node >/dev/null 2>&1 || missing="$missing nodejs"
command -v npm >/dev/null 2>&1 || missing="$missing npm"
# The console's tools and libraries, as its lock file names them.
console() {
	cd "$(dirname "$0")/../web"
	lock=$(sha256sum <package-lock.json)
	[ "$(cat node_modules/.installed 2>/dev/null)" = "$lock" ] && return
	npm ci --silent
	echo "$lock" >node_modules/.installed
}
if [ -z "$missing" ]; then
	console
	exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "test/deps.sh: missing$missing: tests that need them will say so. To install: apt-get install$missing" >&2
	[ -z "${CI:-}" ] || exit 1
	exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends $missing >/dev/null
console
