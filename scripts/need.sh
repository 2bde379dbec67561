#!/bin/sh
# Installs the Debian packages of the commands, or files, that are missing.
#
#   scripts/need.sh protoc:protobuf-compiler /usr/include/stdio.h:libc6-dev
set -eu

PATH=$PATH:/usr/sbin:/sbin
missing=
for pair; do
	case $pair in
	/*) [ -e "${pair%%:*}" ] ;;
	*) command -v "${pair%%:*}" >/dev/null ;;
	esac || missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "missing:$missing (Debian's package names); there is no apt-get here: install them by hand" >&2
	exit 1
fi
sudo=
if [ "$(id -u)" -ne 0 ]; then
	command -v sudo >/dev/null || {
		echo "missing:$missing; run as root: apt-get install$missing" >&2
		exit 1
	}
	sudo=sudo
fi
echo "installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # a list of words
$sudo apt-get install -y --no-install-recommends $missing >&2 || {
	$sudo apt-get update >&2
	$sudo apt-get install -y --no-install-recommends $missing >&2
}
