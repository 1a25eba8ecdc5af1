#!/bin/sh
# The examples end well: tests/examples/run.sh [DIRECTORY [TOOL...]], which they were built into (default build), run by a tool.
cd "$(dirname "$0")/../.." || exit 1
dir=${1:-build/}
[ $# -eq 0 ] || shift
passed=0 failed=0
run() {
    echo "== $*"
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "exit status above 0"; fi
}
run "$@" "${dir}minimal"
run "$@" "${dir}threads"
run "$@" "${dir}layer" tests/fixtures/layer.safetensors heads=3 eps=1e-6 q=wq.weight kv_a=wkv_a.weight kv_b=wkv_b.weight \
    kv_norm=kv_norm.weight kv_norm.bias=kv_norm.bias o=wo.weight x=x y=y >/dev/null
run "$@" "${dir}generate" --model tests/fixtures/checkpoints/deepseek_v3 --tokens "1 2 3 4 5" -n 3 --chunk 2 --temp 1
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
