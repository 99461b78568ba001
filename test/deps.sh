#!/bin/sh
# Installs what the tests need from Debian's packages. Does nothing when all of it is there; without root it only says
# what is missing.
set -eu
packages="zookeeper:/usr/share/java/zookeeper.jar python3-kazoo:/usr/lib/python3/dist-packages/kazoo libcurator-recipes-java:/usr/share/java/curator-recipes.jar protobuf-compiler:/usr/bin/protoc libprotobuf-dev:/usr/include/google/protobuf/duration.proto crun:/usr/bin/crun runc:/usr/sbin/runc xz-utils:/usr/bin/xz bzip2:/usr/bin/bzip2 docker.io:/usr/sbin/dockerd containerd:/usr/bin/ctr iptables:/usr/sbin/iptables util-linux:/usr/bin/nsenter containernetworking-plugins:/usr/lib/cni/bridge iproute2:/usr/sbin/ip conntrack:/usr/sbin/conntrack procps:/usr/sbin/sysctl busybox-static:/bin/busybox chromium:/usr/bin/chromium libpcap-dev:/usr/include/pcap.h python3-requests:/usr/lib/python3/dist-packages/requests prometheus:/usr/bin/promtool"
missing=
for p in $packages; do
	[ -e "${p#*:}" ] || missing="$missing ${p%%:*}"
done
# Virtual machines of the tests are x86-64 ones. Their kernel is unpacked, never installed: no boot loader hears of it.
kernel=/var/cache/orchestrator-tests/kernel
if [ "$(uname -m)" = x86_64 ]; then
	[ -e /usr/bin/qemu-system-x86_64 ] || missing="$missing qemu-system-x86"
	[ -e /usr/sbin/mkfs.xfs ] || missing="$missing xfsprogs"
	[ -e /usr/sbin/mkfs.btrfs ] || missing="$missing btrfs-progs"
	[ -e "$kernel" ] || missing="$missing linux-image-cloud-amd64"
fi
command -v javac >/dev/null 2>&1 || missing="$missing default-jdk-headless"
command -v node >/dev/null 2>&1 || missing="$missing nodejs"
command -v npm >/dev/null 2>&1 || missing="$missing npm"
# What comes from npm, as the lock files name it: the console's tools and libraries, and strangers' programs.
modules() {
	for d in web test/clients/npm; do (
		cd "$(dirname "$0")/../$d"
		lock=$(sha256sum <package-lock.json)
		[ "$(cat node_modules/.installed 2>/dev/null)" = "$lock" ] && exit
		npm ci --silent
		echo "$lock" >node_modules/.installed
	); done
}
if [ -z "$missing" ]; then
	modules
	exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "test/deps.sh: missing$missing: tests that need them will say so. Run as root, it installs them." >&2
	[ -z "${CI:-}" ] || exit 1
	exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
case " $missing " in *" linux-image-cloud-amd64 "*)
	missing=$(echo " $missing " | sed 's/ linux-image-cloud-amd64 / /')
	name=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p' | head -n 1)
	if [ -n "$name" ]; then
		work=$(mktemp -d)
		(cd "$work" && mkdir x && apt-get -o APT::Sandbox::User=root download -qq "$name" && dpkg-deb -x "$name"_*.deb x)
		mkdir -p "$(dirname "$kernel")"
		mv "$work/x" "$kernel"
		rm -r "$work"
	else
		echo "test/deps.sh: this distribution has no package linux-image-cloud-amd64, whose kernel internal/vmtest boots" >&2
		[ -z "${CI:-}" ] || exit 1
	fi
	;;
esac
# shellcheck disable=SC2086
[ -z "$(echo $missing)" ] || apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends $missing >/dev/null
modules
