#!/bin/sh
# Prints what watchmark costs, beside a direct client of etcd: benches/README.md.
#
#   RUNS=5 ETCD=/path/to/etcd scripts/bench.sh [figure...]
set -eu
cd "$(dirname "$0")/.."

name=${ETCD:-etcd}
etcd=$(command -v "$name") || {
	echo "etcd: $name: not found; give its path: make bench ETCD=/path/to/etcd" >&2
	exit 1
}
ETCD=$(realpath "$etcd")

# Every server keeps its data on the disk of the build: /tmp may be memory.
# Also after Ctrl-C nothing of it stays.
target=${CARGO_TARGET_DIR:-$PWD/target}
mkdir -p "$target"
TMPDIR=$(mktemp -d "$target/figures.XXXXXX")
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
export ETCD TMPDIR

# Last, so that it is measured: cargo bench's own watchmark has the features of
# our tests' dependencies.
program=$(cargo bench --locked --no-run --bench figures --message-format=json-render-diagnostics |
	sed -n 's|.*"executable":"\([^"]*/figures-[^"]*\)".*|\1|p')
[ -n "$program" ]
cargo build --locked --release --bin watchmark
"$program" --bench "$@"
