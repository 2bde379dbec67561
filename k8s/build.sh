#!/bin/bash
# Builds what the image holds, into a directory: the static binary and the
# authorities of public certificates. Run by the Dockerfile, and by image.sh
# where there is no registry. Needs Rust, cc, protoc, and Debian's ca-certificates.
#
#   k8s/build.sh DIRECTORY [EXAMPLE...]
#
# DIRECTORY/root has the image's files; DIRECTORY/EXAMPLE is that example, static too.
set -euo pipefail
directory=$(realpath -m "${1:?usage: k8s/build.sh DIRECTORY [EXAMPLE...]}")
shift
cd "$(dirname "$0")/.."

# What Debian's package ships, without what this machine's administrator added.
authorities=/usr/share/ca-certificates/mozilla
target=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}

# glibc, linked in: its resolver reads files and asks DNS without any plug-in.
# Paths of this machine would make each machine's binary another one.
export CARGO_ENCODED_RUSTFLAGS=$(printf '%s\x1f' -Ctarget-feature=+crt-static \
	"--remap-path-prefix=$PWD=/watchmark" \
	"--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" \
	"--remap-path-prefix=$(rustc --print sysroot)=/rust")
CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%$'\x1f'}
examples=()
for example; do examples+=(--example "$example"); done
cargo build --locked --release --target "$target" --bin watchmark "${examples[@]}"

built=$CARGO_TARGET_DIR/$target/release
if ldd "$built/watchmark" >/dev/null 2>&1 && ! ldd "$built/watchmark" | grep -q 'statically linked'; then
	echo "build.sh: $built/watchmark is not static" >&2
	exit 1
fi
rm -rf "$directory/root"
install -D -m 755 "$built/watchmark" "$directory/root/usr/bin/watchmark"
for example; do install -m 755 "$built/examples/$example" "$directory/$example"; done
install -D -m 644 /dev/null "$directory/root/etc/ssl/certs/ca-certificates.crt"
find "$authorities" -name '*.crt' -print0 | LC_ALL=C sort -z | xargs -0 cat \
	>"$directory/root/etc/ssl/certs/ca-certificates.crt"
