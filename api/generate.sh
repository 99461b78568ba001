#!/bin/sh
# Generates the Go code of every .proto below api/ beside its source. Needs protoc (Debian: protobuf-compiler).
# OUT=dir writes the tree elsewhere, so that a test can compare.
set -eu
cd "$(dirname "$0")"
out=${OUT:-.}
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
for tool in google.golang.org/protobuf/cmd/protoc-gen-go github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto; do
	GOBIN=$bin go -C ../tools install "$tool"
done
module=github.com/orchestrator/orchestrator/api
PATH=$bin:$PATH protoc -I . \
	--go_out="$out" --go_opt=module=$module \
	--go-vtproto_out="$out" --go-vtproto_opt=module=$module,features=marshal+unmarshal+size+clone+equal \
	$(find . -name '*.proto' | sort)
