#!/bin/sh
# Fuzzes every target for an equal share of some minutes.
#
#   scripts/fuzz.sh [minutes]
#
# What a target finds lies in fuzz/artifacts; `cargo fuzz run -s none <target> <file>`
# repeats it. What it learned lies in fuzz/corpus, and the next run begins there.
set -eu
cd "$(dirname "$0")/.."

minutes=${1:-7}
targets=$(sed -n 's/^name = "\(.*\)"/\1/p' fuzz/Cargo.toml | grep -v '^watchmark-fuzz$')
count=$(echo "$targets" | wc -l)
seconds=$((minutes * 60 / count))
[ "$seconds" -gt 0 ] || seconds=1

# The address sanitizer needs a nightly Rust and has nothing to find: there is
# no unsafe code here.
cargo fuzz build --sanitizer none
built=fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for target in $targets; do
	mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
	if ! "$built/$target" -max_total_time="$seconds" -max_len=4096 -timeout=20 \
		-artifact_prefix="fuzz/artifacts/$target/" "fuzz/corpus/$target" >"$log" 2>&1; then
		cat "$log"
		echo "fuzz: $target failed; the input is in fuzz/artifacts/$target" >&2
		exit 1
	fi
	printf '%-20s %s\n' "$target" "$(grep '^Done' "$log")"
done
