#!/bin/bash
# Builds the demo's application, static, from what protoc generates here.
# Needs Go and protoc.
#
#   k8s/demo/app/build.sh PROGRAM
set -euo pipefail
program=$(realpath -m "${1:?usage: k8s/demo/app/build.sh PROGRAM}")
cd "$(dirname "$0")"

plugins=$(mktemp -d)
trap 'rm -rf "$plugins"' EXIT
export CGO_ENABLED=0
go build -o "$plugins/" google.golang.org/protobuf/cmd/protoc-gen-go \
	google.golang.org/grpc/cmd/protoc-gen-go-grpc
mkdir -p pb
package=Mwatchmark/v1/watch.proto=watchmark.example/follower/pb
PATH=$plugins:$PATH protoc --proto_path=../../../proto \
	--go_out=pb --go_opt="$package,module=watchmark.example/follower/pb" \
	--go-grpc_out=pb --go-grpc_opt="$package,module=watchmark.example/follower/pb" \
	watchmark/v1/watch.proto
go build -trimpath -ldflags='-s -w' -o "$program" .
