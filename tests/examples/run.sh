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
# refused PATTERN COMMAND...: status 1, and a line of standard error that contains the pattern
refused() {
    pattern=$1 && shift
    echo "== $*"
    said=$("$@" 2>&1 >/dev/full)
    status=$?
    case $status$said in 1*"$pattern"*) passed=$((passed + 1)) ;; *) failed=$((failed + 1)) && echo "status $status: '$said', not '$pattern'" ;; esac
}
layer() { "${dir}layer" tests/fixtures/layer.safetensors "$@"; }
if [ $# -eq 0 ] && [ -e /dev/full ]; then
    for program in minimal threads; do refused 'cannot write to stdout' "${dir}$program"; done
    for heads in 3x '' 1e999 nan ' 3' 0x; do refused "layer: heads=$heads: not a number" layer heads="$heads" x=x; done
    for heads in 0 -1 2.5; do refused "layer: heads=$heads: not an integer from 1 to 65535" layer heads=$heads x=x; done
    for key in eps=0 theta=-1 scale=1e-46; do refused "layer: $key: not above 0 as F32" layer $key x=x; done
    for key in heads.bias=3 x.bias=x y.bias=y; do refused "layer: $key: not one of the keys" layer heads=3 $key; done
    refused 'layer: eps=1,5: not a number' layer eps=1,5 x=x
    refused 'layer: heads is missing' layer x=x
    refused 'layer: x is missing' layer heads=3
    refused 'layer: x=none: the file has no such tensor' layer heads=3 x=none
    refused 'layer: x=kv_norm.weight: not of the shape [tokens, width]' layer heads=3 x=kv_norm.weight
    refused 'layer: x: not as wide as kv_a' layer heads=3 kv_a=wkv_a.weight x=wo.weight
    for y in wkv_a.weight wo.weight; do refused 'layer: y: not of the shape of x' layer heads=3 x=x y=$y; done
    refused 'layer: no output' layer heads=3 eps=1e-6 q=wq.weight kv_a=wkv_a.weight kv_b=wkv_b.weight kv_norm=kv_norm.weight \
        kv_norm.bias=kv_norm.bias o=wo.weight x=x
    nan=$(mktemp)
    for which in x y; do # a NaN is no small difference
        cp tests/fixtures/layer.safetensors "$nan"
        head=$(od -An -tu8 -N8 "$nan" | tr -d ' ')
        at=$(head -c $((head + 8)) "$nan" | tail -c +9 | sed 's/.*"'$which'": *{[^}]*"data_offsets": *\[\([0-9]*\).*/\1/')
        printf '\0\0\300\177' | dd of="$nan" bs=1 seek=$((head + 8 + at + 8)) conv=notrunc 2>/dev/null
        said=$("${dir}layer" "$nan" heads=3 eps=1e-6 q=wq.weight kv_a=wkv_a.weight kv_b=wkv_b.weight kv_norm=kv_norm.weight \
            kv_norm.bias=kv_norm.bias o=wo.weight x=x y=y 2>&1 >/dev/null)
        case $?$said in
        "1layer: y is not finite" | "1layer: the y of the file is not finite") passed=$((passed + 1)) ;;
        *) failed=$((failed + 1)) && echo "NaN in $which: '$said'" ;;
        esac
    done
    rm "$nan"
fi
run "$@" "${dir}generate" --model tests/fixtures/checkpoints/deepseek_v3 --tokens "1 2 3 4 5" -n 3 --chunk 2 --temp 1
# The README's first program, from what `make install` puts into a directory, gives the token that generate gives.
if [ "$dir" = build/ ] && [ $# -eq 0 ]; then
    tmp=$(mktemp -d)
    trap 'rm -rf "$tmp"' EXIT
    run make -s install DESTDIR="$tmp" PREFIX=/usr LIBDIR=/usr/lib64
    sed -n '/^```c$/,/^```$/{/^```/d;p;}; /^## What runs/q' README.md >"$tmp/app.c"
    # shellcheck disable=SC2046
    run ${CC:-cc} -std=c99 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -D_DEFAULT_SOURCE -I"$tmp/usr/include" -I"$tmp/usr/include/mla" \
        -DMLA__IMPLEMENTED -DMLA__INSTANTIATED -DCHECKPOINT_IMPLEMENTED -DCHECKPOINT_GGUF_IMPLEMENTED \
        "$tmp/app.c" build/examples.a build/mla.o -o "$tmp/app" -lm -pthread $(nm build/mla.o | grep -q GOMP && echo -lgomp)
    run "$tmp/app" tests/fixtures/checkpoints/deepseek_v3 >"$tmp/said"
    run test "$(tail -n 1 "$tmp/said")" = "the next token is $(build/generate --model tests/fixtures/checkpoints/deepseek_v3 --tokens '1 2 3' -n 1 2>/dev/null)"
    run grep -q '^Version: 0\.' "$tmp/usr/lib64/pkgconfig/mla.pc"
    run make -s uninstall DESTDIR="$tmp" PREFIX=/usr LIBDIR=/usr/lib64
    run test -z "$(find "$tmp/usr" -type f)"
fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
