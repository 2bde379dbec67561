#!/bin/sh
# Runs cargo test against one etcd.
#
#   ETCD=/path/to/etcd scripts/test.sh [arguments of cargo test]
#
# ETCD defaults to the etcd on PATH. TEST_THREADS bounds how many tests, and
# so how many etcds, run at once. TEST_FLAGS go to the test program itself.
set -eu
cd "$(dirname "$0")/.."

# Tools of the administrator: mkfs.ext4, losetup.
PATH=$PATH:/usr/sbin:/sbin
name=${ETCD:-etcd}
etcd=$(command -v "$name") || {
	echo "etcd: $name: not found; give its path: make test ETCD=/path/to/etcd" >&2
	exit 1
}
ETCD=$(realpath "$etcd")
export ETCD PATH
echo "testing against $ETCD: $("$ETCD" --version | head -n 1)"
# shellcheck disable=SC2086 # a list of words
exec cargo test --locked --no-fail-fast "$@" -- --test-threads="${TEST_THREADS:-4}" ${TEST_FLAGS:-}
