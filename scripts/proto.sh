#!/bin/sh
# What the protos promise to those who generate code from them.
#
#   scripts/proto.sh check      buf's lint; nothing broken since the baseline,
#                               and since the last tag; proto/README.md is up to date
#   scripts/proto.sh docs       writes proto/README.md
#   scripts/proto.sh baseline   at a release: writes proto/baseline.binpb
#
# The baseline is committed, as a clone may come without tags. Both it and the
# tag are compared with, where there is one.
set -eu
cd "$(dirname "$0")/.."

tools=$PWD/target/tools
buf=$tools/node_modules/.bin/buf
baseline=proto/baseline.binpb
buf_version=1.74.0
doc_version=1.5.1

# document FILE: the reference of the API.
document() {
	[ -x "$tools/protoc-gen-doc" ] || GOBIN=$tools go install \
		"github.com/pseudomuto/protoc-gen-doc/cmd/protoc-gen-doc@v$doc_version"
	PATH=$tools:$PATH protoc -I proto --doc_out="$(dirname "$1")" \
		--doc_opt="proto/README.tmpl,$(basename "$1")" watchmark/v1/watch.proto watchmark/v1/admin.proto
}

mkdir -p "$tools"
if [ "$("$buf" --version 2>/dev/null)" != $buf_version ]; then
	npm install --prefix "$tools" --no-save --no-audit --no-fund --loglevel=error "@bufbuild/buf@$buf_version" >&2
fi
case ${1:-} in
check)
	"$buf" lint
	"$buf" breaking --against $baseline
	tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null) || tag=
	if [ -n "$tag" ]; then
		"$buf" breaking --against "$(git rev-parse --git-common-dir)#tag=$tag"
	else
		echo "no tag here: compared with $baseline alone"
	fi
	document "$tools/README.md"
	diff -u proto/README.md "$tools/README.md" || {
		echo 'proto/README.md is not what the protos say: make proto-docs' >&2
		exit 1
	}
	;;
docs) document proto/README.md ;;
baseline) "$buf" build --exclude-source-info -o $baseline ;;
*)
	echo 'usage: scripts/proto.sh check|docs|baseline' >&2
	exit 2
	;;
esac
