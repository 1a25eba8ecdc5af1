#!/usr/bin/env bash
# The kernels in WebAssembly, SIMD128 with and without relaxed SIMD, against plain loops as everywhere (tests/test_kernels.c), and the
# demo model's logits and greedy tokens (tests/test_tales.c), under Node; the size of the module, where wasm-opt is. Left out without Debian's clang-19, lld-19,
# libclang-rt-19-dev-wasm32 and wasi-libc (or older ones, which have no relaxed SIMD). WASM_CC: another compiler.
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
WASM_CC=${WASM_CC:-$(MAKEFLAGS='' make -s wasm_cc)}
left_out() { echo "$1: left out" && echo "0 passed, 0 failed" && exit 0; }
command -v node >/dev/null || left_out "node is not here"
[ -n "$WASM_CC" ] || left_out "no clang for wasm32-wasi is here (clang-19 lld-19 libclang-rt-19-dev-wasm32 wasi-libc)"
passed=0 failed=0

# count: adds up what a log says
count() {
    grep -E '^tests/|rror' "$1"
    set -- $(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$1")
    passed=$((passed + ${1:-0})) failed=$((failed + ${2:-1}))
}
# wasm FLAGS TEST NODE'S FLAGS...: builds and runs a test. With -O, linking would call any wasm-opt that is here, which may know less.
wasm() {
    local flags=$1 test=$2
    shift 2
    # shellcheck disable=SC2086
    $WASM_CC --target=wasm32-wasi -std=c99 -D_DEFAULT_SOURCE -O1 -Wall -Wextra -Wpedantic -Wconversion -Wshadow $flags -DCHECKPOINT_NO_MMAP \
        -I. -Iexamples -c "tests/$test.c" -o "$tmp/$test.o" >"$tmp/log" 2>&1 && [ ! -s "$tmp/log" ] &&
        $WASM_CC --target=wasm32-wasi -Wl,-z,stack-size=4194304 "$tmp/$test.o" -o "$tmp/$test.wasm" -lm >"$tmp/log" 2>&1 &&
        node "$@" tests/web/run.mjs "$tmp/$test.wasm" >"$tmp/log" 2>&1
    count "$tmp/log"
}
wasm "-msimd128" test_kernels
wasm "-msimd128" test_tales
wasm "-msimd128 -DMLA_SMALL -DMLA_NO_SCALAR" test_kernels
# Node 20 has relaxed SIMD, but only asked, and its baseline compiler gets dot products wrong.
if printf '#include <wasm_simd128.h>\nv128_t f(v128_t a) { return wasm_f32x4_relaxed_madd(a, a, a); }' |
    $WASM_CC --target=wasm32-wasi -std=c99 -Werror -mrelaxed-simd -x c -c - -o "$tmp/a.o" 2>/dev/null; then
    relaxed=$(node --v8-options | grep -q experimental-wasm-relaxed-simd && echo --experimental-wasm-relaxed-simd)
    wasm "-msimd128 -mrelaxed-simd" test_kernels $relaxed --no-liftoff
    wasm "-msimd128 -mrelaxed-simd" test_tales $relaxed --no-liftoff
else
    echo "$WASM_CC has no relaxed SIMD: left out"
fi

# The module that browsers load: README has its size, which is with wasm-opt.
if command -v wasm-opt >/dev/null; then
    MAKEFLAGS='' make -s WASM_CC="$WASM_CC" build/web/mla-simd.wasm.gz >"$tmp/log" 2>&1 || cat "$tmp/log"
    size=$(gunzip -c build/web/mla-simd.wasm.gz | wc -c)
    if [ "$size" -gt 100000 ] && [ "$size" -lt 400000 ]; then passed=$((passed + 1)); else
        failed=$((failed + 1)) && echo "FAILED: the module with SIMD128 has $size bytes, not less than 400000"
    fi
else
    echo 'wasm-opt (binaryen) is not here: the size of the module is left out'
fi

# The page, where Chromium and playwright-core are, or npm gets it (NODE_MODULES=DIR has it already; SHOTS=DIR: screenshots go there).
modules=${NODE_MODULES:-$tmp/node_modules}
[ -d "$modules/playwright-core" ] || (cd "$tmp" && npm init -y && npm install playwright-core) >"$tmp/npm" 2>&1
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
if [ -d "$modules/playwright-core" ] && [ "$chromium" ]; then
    MAKEFLAGS='' make -s WASM_CC="$WASM_CC" web build/generate build/convert >"$tmp/log" 2>&1 || cat "$tmp/log"
    build/generate --quiet --model examples/tales --prompt "Once upon a time the Rat said to the Mole, “" -n 100 --temp 0 >"$tmp/expected"
    build/convert --quiet --force --model examples/tales --to q5_k --out "$tmp/tales.gguf" >"$tmp/log" 2>&1 || cat "$tmp/log"
    head -c 100000 "$tmp/tales.gguf" >"$tmp/cut.gguf" && truncate -s 4100000000 "$tmp/large.gguf"
    node tests/web/page.mjs "$modules" "$chromium" build/web "$tmp" ${SHOTS:+"$SHOTS"} >"$tmp/log" 2>&1
    cat "$tmp/log" && count "$tmp/log"
else
    echo 'playwright-core or Chromium is not here: left out'
fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
