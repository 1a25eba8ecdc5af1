#!/usr/bin/env bash
# What comes from outside, at random. Replays the inputs in tests/fuzz/corpus under the sanitizers; S=60 tests/fuzz/run.sh [TARGET...] (make fuzz
# S=60) fuzzes each target for so many seconds with clang's libFuzzer from these, keeps what it finds of interest in build/fuzz/TARGET, and in
# build/fuzz/TARGET-crash-* what failed. Targets: those of texts.c and model.c; S=0 builds only; PLAIN=1: comparisons are not followed, which
# is faster; many.sh has machines with many processors. Ends with "N passed, N failed".
cd "$(dirname "$0")/../.." || exit 1
S=${S:-} CC=${CC:-cc}
mkdir -p build/fuzz
passed=0 failed=0
check() { # WHAT COMMAND...: the command succeeds
    if "${@:2}" >build/fuzz/log 2>&1; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "FAILED: $1" && tail -n 30 build/fuzz/log; fi
}
sanitize=-fsanitize=address,undefined
how="$CC -DFUZZ_REPLAY"
[ "$S" ] && how=${CLANG:-clang} sanitize=-fsanitize=fuzzer,address,undefined
echo 'int main(void) { return 0; }' >build/fuzz/try.c
if [ "$S" ] && ! $how -fsanitize=fuzzer-no-link build/fuzz/try.c -o build/fuzz/try 2>/dev/null; then
    echo "$how has no libFuzzer here: left out" && echo '0 passed, 0 failed' && exit 0
fi
[ "$S" ] || $how -UFUZZ_REPLAY $sanitize build/fuzz/try.c -o build/fuzz/try 2>/dev/null || sanitize=

# The kernels are those of build/mla.o, as fast as ever; all else has the sanitizers in it.
flags="-g -O1 $sanitize -std=c99 -D_DEFAULT_SOURCE -I. -Iexamples"
[ "$sanitize" ] && flags="$flags -fno-sanitize-recover=all"
libraries=$(nm build/mla.o | grep -q GOMP && echo -lgomp)
link="$how $sanitize"
[ "$S" ] && link="$how++ -static-libstdc++ -static-libgcc $sanitize" && libraries=${libraries:+-l:libgomp.a}
plain= # numbers that are sizes and choices: there is nothing to be found by their comparisons
[ "$S" ] && plain=-fno-sanitize-coverage=trace-cmp
program() { # NAME FLAGS...
    # shellcheck disable=SC2086
    check "$1.c builds" $how $flags "${@:2}" -c tests/fuzz/"$1".c -o build/fuzz/"$1".o
    # shellcheck disable=SC2086
    check "$1 is linked" $link build/fuzz/"$1".o build/mla.o $libraries -lm -o build/fuzz/"$1"
}
program texts ${PLAIN:+$plain} -DMLA__IMPLEMENTED -DMLA__INSTANTIATED
program model $plain -DMLA_API=static -DMLA__SELECT=extern -DMLA__SELECTED

[ "$S" = 0 ] && set -- ' '
for target in ${*:-json safetensors config gguf text tokenizer jinja grammar http requests calls model caches load}; do
    program=build/fuzz/texts
    case $target in model | caches | load) program=build/fuzz/model ;; esac
    if [ ! "$S" ]; then
        check "$target: the corpus" $program "$target" tests/fuzz/corpus/"$target"/*
        continue
    fi
    mkdir -p build/fuzz/"$target"
    TARGET=$target check "$target" $program -max_total_time="$S" -max_len=4096 -timeout=60 -rss_limit_mb=3000 -print_final_stats=1 \
        -artifact_prefix=build/fuzz/"$target"- build/fuzz/"$target" tests/fuzz/corpus/"$target"
    echo "$target: $(sed -n 's/.*number_of_executed_units: *//p' build/fuzz/log) executions in $S s"
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
