#!/bin/sh
# Builds the newest stable etcd of one minor version, once, into .etcd/<minor>/
# (etcd, etcdutl). Needs Go; everything else comes through Go's module proxy.
#
#   scripts/etcd.sh 3.6      -> .etcd/3.6/etcd
#   scripts/etcd.sh 3.7 -f   builds again, if a newer patch is out
set -eu

minor=${1:?usage: scripts/etcd.sh 3.6|3.7 [-f]}
root=$(cd "$(dirname "$0")/.." && pwd)
out=$root/.etcd/$minor

# What is built when the list of versions cannot be had.
case $minor in
3.6) fallback=v3.6.16 ;;
3.7) fallback=v3.7.3 ;;
*)
	echo "etcd.sh: $minor: only 3.6 and 3.7 are known here" >&2
	exit 2
	;;
esac

if [ -x "$out/etcd" ] && [ -x "$out/etcdutl" ] && [ "${2:-}" != -f ]; then
	echo "$out/etcd"
	exit 0
fi
if ! command -v go >/dev/null; then
	echo "etcd.sh: go is not on PATH; it is needed to build etcd $minor" >&2
	exit 1
fi

work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
cd "$work"

# Pre-releases (v3.7.0-rc.1) do not match.
pattern=$(echo "v$minor" | sed 's/\./\\./g')'\.[0-9][0-9]*'
version=$(go list -m -versions go.etcd.io/etcd/server/v3 2>/dev/null |
	tr ' ' '\n' | grep -x "$pattern" | sort -V | tail -n 1) || true
version=${version:-$fallback}
echo "building etcd $version" >&2

cat >main.go <<'GO'
// Command etcd is etcd's own server.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
GO
cat >tools.go <<'GO'
//go:build tools

package main

import _ "go.etcd.io/etcd/etcdutl/v3"
GO
go mod init watchmark.test/etcd 2>/dev/null
go get "go.etcd.io/etcd/server/v3@$version" "go.etcd.io/etcd/etcdutl/v3@$version" >&2
go mod tidy >&2
mkdir -p "$out"
CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$out/etcdutl.new" go.etcd.io/etcd/etcdutl/v3
CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$out/etcd.new" .
mv "$out/etcdutl.new" "$out/etcdutl"
mv "$out/etcd.new" "$out/etcd"
"$out/etcd" --version >&2
echo "$out/etcd"
