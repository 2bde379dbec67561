#!/bin/bash
# Builds the image of the demo's application, as ../../image.sh builds watchmark's.
#
#   k8s/demo/app/image.sh             localhost/follower:0.1.0
#   k8s/demo/app/image.sh ARCHIVE     and as an OCI archive
#
# FOLLOWER: take the program from there instead of building it.
set -euo pipefail
archive=${1:+$(realpath -m "$1")}
cd "$(dirname "$0")/../../.."

name=localhost/follower:0.1.0
program=${FOLLOWER:-}
if [ -z "$program" ]; then
	program=target/image/follower
	k8s/demo/app/build.sh "$program" >&2
fi
# shellcheck disable=SC2086 # a list of words
tool() { buildah ${BUILDAH_FLAGS:-} "$@"; }
container=$(tool from scratch)
tool copy --quiet "$container" "$program" /usr/bin/follower >/dev/null
tool config --entrypoint '["/usr/bin/follower"]' --user 65532:65532 "$container"
tool commit --quiet --timestamp 0 --rm "$container" "$name" >/dev/null
if [ -n "$archive" ]; then
	rm -f "$archive"
	tool push --quiet "$name" "oci-archive:$archive:$name" >&2
fi
echo "$name"
