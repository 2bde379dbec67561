#!/bin/bash
# Holds Cargo.lock to deny.toml: licences, versions, sources, and RustSec's
# advisories where their database can be had. Without it that is said loudly,
# and only what was looked at decides.
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=0.20.2
TOOLS=$PWD/target/tools
DENY=$TOOLS/bin/cargo-deny

if [ "$("$DENY" --version 2>/dev/null)" != "cargo-deny $VERSION" ]; then
	echo "installing cargo-deny $VERSION" >&2
	# It runs for a second: building it is what takes time.
	CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
		cargo install --quiet --locked --root "$TOOLS" --version "$VERSION" cargo-deny
fi

deny() { "$DENY" --locked "$@"; }

deny check --allow duplicate bans licenses sources
if timeout 60 "$DENY" --locked fetch db >/dev/null 2>&1; then
	deny --offline check advisories
else
	echo "deny.sh: NOT CHECKED: RustSec's advisories, whose database cannot be fetched from here" >&2
fi
