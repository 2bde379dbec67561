#!/bin/sh
# Builds the consumers of examples/ by the commands of their READMEs, in a copy
# under target/clients.
#
#   scripts/clients.sh [python go java typescript rust]
set -eu
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- python go java typescript rust
copy=$PWD/target/clients
mkdir -p "$copy"
git ls-files --cached --others --exclude-standard -z examples proto |
	tar --create --null --files-from=- --ignore-failed-read 2>/dev/null | tar --extract --directory="$copy"
unset CARGO_TARGET_DIR
for language; do
	echo "examples/$language" >&2
	# The first block.
	build=$(sed -n '/^```sh$/,/^```$/{/^```$/q;/^```sh$/d;p}' "examples/$language/README.md")
	(cd "$copy/examples/$language" && sh -euc "$build")
done
