#!/usr/bin/env bash
# The NEON kernels, with and without the dot product instructions, under qemu: right, if slow. Needs Debian's gcc-aarch64-linux-gnu,
# libc6-dev-arm64-cross and qemu-user, and is left out without them. On an aarch64 machine `make test` itself tests these kernels.
cd "$(dirname "$0")/../.." || exit 1
for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
    command -v $tool >/dev/null || { echo "$tool is not here: left out" && echo "0 passed, 0 failed" && exit 0; }
done
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

# arm FLAGS TEST: builds and runs a test, adds up what it counts
arm() {
    # gcc 12's vectorizer breaks off on this test's own loops
    if aarch64-linux-gnu-gcc -std=c99 -O2 -fno-tree-vectorize $1 -static -I. -Iexamples "tests/$2.c" -o "$tmp/$2" -lm; then
        qemu-aarch64 "$tmp/$2" >"$tmp/log" 2>&1
        set -- $(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$tmp/log")
        grep 'tests/' "$tmp/log"
    else
        set --
    fi
    passed=$((passed + ${1:-0})) failed=$((failed + ${2:-1}))
}
arm "" test_modules
arm "" test_kernels
arm "-march=armv8.2-a+dotprod" test_kernels
arm "-march=armv8.2-a+dotprod -DMLA_SMALL -DMLA_NO_SCALAR" test_kernels
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
