#!/bin/bash
# Builds the image without a registry, with buildah: k8s/build.sh makes the
# files, and the last stage of k8s/Dockerfile the image. The same files give the
# same image, to the digest.
#
#   k8s/image.sh             localhost/watchmark:<version>, in the containers storage of whoever calls
#   k8s/image.sh ARCHIVE     and as an OCI archive, for `kind load image-archive`, skopeo, ctr
#
# IMAGE_ROOT: take the files from there instead of building them.
# BUILDAH_FLAGS: of buildah itself, e.g. another storage.
set -euo pipefail
archive=${1:+$(realpath -m "$1")}
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
name=localhost/watchmark:$version
root=${IMAGE_ROOT:-}
if [ -z "$root" ]; then
	k8s/build.sh target/image >&2
	root=target/image/root
fi

# COPY --from=build finds $context instead of the stage of that name.
context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT
mkdir "$context/out"
cp -a "$root" "$context/out/root"
sed -n '/^FROM scratch$/,$p' k8s/Dockerfile >"$context/Dockerfile"
# chroot: nothing is run in it.
# shellcheck disable=SC2086 # a list of words
buildah ${BUILDAH_FLAGS:-} build --isolation chroot --format oci --timestamp 0 --quiet \
	--build-context "build=$context" --file "$context/Dockerfile" --tag "$name" "$context" >&2
if [ -n "$archive" ]; then
	rm -f "$archive"
	# shellcheck disable=SC2086
	buildah ${BUILDAH_FLAGS:-} push --quiet "$name" "oci-archive:$archive:$name" >&2
fi
echo "$name"
