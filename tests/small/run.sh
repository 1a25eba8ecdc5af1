#!/usr/bin/env bash
# With MLA_SMALL: the kernels against plain loops as everywhere, and the demo model's logits and tokens.
# CC, default cc: the compiler. (tests/web and tests/arm do the same for their machines.)
cd "$(dirname "$0")/../.." || exit 1
CC=${CC:-cc}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

for test in test_kernels test_tales; do
    # shellcheck disable=SC2086
    $CC -std=c99 -D_DEFAULT_SOURCE -O1 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -DMLA_SMALL -I. -Iexamples "tests/$test.c" \
        -o "$tmp/$test" -lm -pthread >"$tmp/log" 2>&1 && "$tmp/$test" >"$tmp/log" 2>&1
    grep -E '^tests/|rror' "$tmp/log"
    set -- $(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$tmp/log")
    passed=$((passed + ${1:-0})) failed=$((failed + ${2:-1}))
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
