#!/bin/sh
# Puts a copy of the project under target/scratch, to be broken on purpose, and
# prints its directory. What is up to date there stays as it is, so that cargo
# builds only what changed.
#
#   scripts/scratch.sh whole   everything
#   scripts/scratch.sh resume  src/resume alone, the machine and its tests, which
#                              depends on next to nothing and builds in seconds
set -eu
cd "$(dirname "$0")/.."

kind=${1:?usage: scripts/scratch.sh whole|resume}
copy=target/scratch/$kind
next=target/scratch/$kind.next
rm -rf "$next"
mkdir -p "$copy" "$next"

case $kind in
whole)
	git ls-files --cached --others --exclude-standard -z |
		tar --create --null --files-from=- --ignore-failed-read 2>/dev/null | tar --extract --directory="$next"
	;;
resume)
	mkdir "$next/src"
	cp -R src/resume "$next/src/resume"
	printf '#![allow(missing_docs)]\npub mod resume;\n' >"$next/src/lib.rs"
	cp Cargo.lock "$next/"
	# The same versions.
	{
		sed -n '/^\[package\]/,/^edition/p' Cargo.toml
		printf 'publish = false\n\n[workspace]\n\n[dependencies]\n'
		grep -E '^(bytes|thiserror) = ' Cargo.toml
		printf '\n[dev-dependencies]\n'
		grep -E '^proptest = ' Cargo.toml
		printf '\n[profile.dev]\ndebug = false\n'
	} >"$next/Cargo.toml"
	;;
*)
	echo "scratch.sh: $kind: only whole and resume are known here" >&2
	exit 2
	;;
esac

# Only what differs is written, so it is newer than what was built of it.
(cd "$next" && find . -type f) | while read -r file; do
	if ! cmp -s "$next/$file" "$copy/$file"; then
		mkdir -p "$(dirname "$copy/$file")"
		cp "$next/$file" "$copy/$file"
	fi
done
(cd "$copy" && find . -type d -name target -prune -o -type f -print) | while read -r file; do
	[ -e "$next/$file" ] || rm -f "$copy/$file"
done
rm -rf "$next"
echo "$PWD/$copy"
