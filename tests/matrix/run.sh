#!/usr/bin/env bash
# mla.h and tests of it, by each compiler, language, level and machine of the table below; what has run stands in README's table.
#     tests/matrix/run.sh [ROW...]      all rows, or those whose names begin so; rows that have passed with this tree's headers
#                                       are not run again (AGAIN=1: they are)
#     INSTALL=1 tests/matrix/run.sh     gets what is missing by apt-get; else such a row says "not here"
#     tests/matrix/run.sh --table       only writes README's table, between its two marker lines, of the rows that ran
# Ends with "N passed, N failed".
cd "$(dirname "$0")/../.." || exit 1
results=build/matrix
mkdir -p $results
basic='api modules'
full='api modules kernels tales'

# name | tests | compiler and flags | what runs programs | Debian's packages
rows="
gcc-12 C99 -O2|$full|gcc-12 -std=c99 -O2||gcc-12
gcc-12 C11 -O0|$basic|gcc-12 -std=c11 -O0||gcc-12
gcc-12 C17 -O3|$full|gcc-12 -std=c17 -O3||gcc-12
gcc-12 C23 -Os|$basic|gcc-12 -std=c2x -Os||gcc-12
gcc-12 C99 -O2 OpenMP|$basic|gcc-12 -std=c99 -O2 -fopenmp||gcc-12
gcc-12 C99 -O2 LTO|$basic|gcc-12 -std=c99 -O2 -flto||gcc-12
gcc-12 C99 -O2 -march=native|$full|gcc-12 -std=c99 -O2 -march=native||gcc-12
gcc-12 C99 -fshort-enums|refused:mla__enums_are_ints|gcc-12 -std=c99 -O1 -fshort-enums||gcc-12
gcc-12 C99 -O1 -funsigned-char|$full|gcc-12 -std=c99 -O1 -funsigned-char||gcc-12
g++-12 C++11 -O1|headers|g++-12 -std=c++11 -O1||g++-12
g++-12 C++17 -O0|headers|g++-12 -std=c++17 -O0||g++-12
g++-12 C++20 -O0|headers|g++-12 -std=c++20 -O0||g++-12
g++-12 C++23 -O2|headers|g++-12 -std=c++23 -O2||g++-12
clang-14 C99 -O2|$full|clang-14 -std=c99 -O2||clang-14
clang-14 C11 -O0|$basic|clang-14 -std=c11 -O0||clang-14
clang-14 C17 -Os|$basic|clang-14 -std=c17 -Os||clang-14
clang-14 C++11 -O0|headers|clang++-14 -std=c++11 -O0||clang-14
clang-14 C++20 -O1|headers|clang++-14 -std=c++20 -O1||clang-14
clang-19 C99 -O3|$full|clang-19 -std=c99 -O3||clang-19
clang-19 C23 -O2|$basic|clang-19 -std=c23 -O2||clang-19
clang-19 C99 -O2 -march=native|$full|clang-19 -std=c99 -O2 -march=native||clang-19
clang-19 C99 -fshort-enums|refused:mla__enums_are_ints|clang-19 -std=c99 -O1 -fshort-enums||clang-19
clang-19 C++17 -O0|headers|clang++-19 -std=c++17 -O0||clang-19
clang-19 C++23 -O1|headers|clang++-19 -std=c++23 -O1||clang-19
musl gcc C99 -O2|$full|musl-gcc -std=c99 -O2 -static||musl-tools
i686 gcc -O1 SSE2|$basic|i686-linux-gnu-gcc -std=c99 -O1 -msse2 -mfpmath=sse -D_FILE_OFFSET_BITS=64 -static|qemu-i386 -cpu max|gcc-i686-linux-gnu libc6-dev-i386-cross qemu-user
i686 gcc x87|refused:-mfpmath=sse|i686-linux-gnu-gcc -std=c99 -mno-sse||gcc-i686-linux-gnu libc6-dev-i386-cross
aarch64 gcc -O2|$basic|aarch64-linux-gnu-gcc -std=c99 -O2 -static|qemu-aarch64|gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
aarch64 gcc -O2 dotprod|kernels|aarch64-linux-gnu-gcc -std=c99 -O2 -fno-tree-vectorize -march=armv8.2-a+dotprod -static|qemu-aarch64|gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
armhf gcc -O2|$basic|arm-linux-gnueabihf-gcc -std=c99 -O2 -D_FILE_OFFSET_BITS=64 -static|qemu-arm|gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user
riscv64 gcc -O2|$basic|riscv64-linux-gnu-gcc -std=c99 -O2 -static|qemu-riscv64|gcc-riscv64-linux-gnu libc6-dev-riscv64-cross qemu-user
ppc64le gcc -O2|$basic|powerpc64le-linux-gnu-gcc -std=c99 -O2 -static|qemu-ppc64le|gcc-powerpc64le-linux-gnu libc6-dev-ppc64el-cross qemu-user
s390x gcc|refused:little-endian|s390x-linux-gnu-gcc -std=c99||gcc-s390x-linux-gnu libc6-dev-s390x-cross
mingw-w64 gcc -O1|script:windows|x86_64-w64-mingw32-gcc|wine64|gcc-mingw-w64-x86-64 wine64
wasm clang-19 -O1, Node|script:web|clang-19|node|clang-19 lld-19 libclang-rt-19-dev-wasm32 wasi-libc nodejs
"
warnings='-Wall -Wextra -Wpedantic -Wconversion -Wshadow'
stamp=$(cat mla.h examples/checkpoint.h examples/tokenizer.h | cksum | cut -d' ' -f1)
passed=0 failed=0

# said LOG: "passed failed" of a test's last line
said() { sed -n 's/^\([0-9][0-9]*\) passed, \([0-9][0-9]*\) failed\r*$/\1 \2/p' "$1" | tail -n 1; }

# row_of NAME TESTS COMMAND RUNNER DIRECTORY: runs a row; prints what came of it: how many checks passed, or what failed
row_of() {
    local name=$1 tests=$2 command=$3 runner=$4 dir=$5 test total=0 counted
    case $tests in
    refused:*)
        # shellcheck disable=SC2086
        if $command -fsyntax-only -I. -DMLA_IMPLEMENTATION -x c mla.h >"$dir/log" 2>&1; then echo 'FAILED: not refused'
        elif grep -q "error.*${tests#*:}" "$dir/log"; then echo 'refused, with a reason'
        else echo 'FAILED: refused without its reason'; fi
        return ;;
    script:*)
        "tests/${tests#*:}/run.sh" >"$dir/log" 2>&1
        counted=$(said "$dir/log")
        if [ -z "$counted" ] || [ "${counted#* }" != 0 ] || [ "${counted% *}" = 0 ]; then echo "FAILED: tests/${tests#*:}/run.sh: ${counted:-no result}"
        else echo "${counted% *} passed"; fi
        return ;;
    headers) # all headers, the implementation and its use from a second file
        for test in decl impl use; do
            # shellcheck disable=SC2086
            $command -x c++ $warnings -Werror -I. -Iexamples -c tests/header/$test.c -o "$dir/$test.o" >"$dir/log" 2>&1 || { echo "FAILED: $test.c"; return; }
        done
        # shellcheck disable=SC2086
        $command "$dir"/decl.o "$dir"/impl.o "$dir"/use.o -o "$dir/program" -lm -pthread >"$dir/log" 2>&1 && "$dir/program" >"$dir/log" 2>&1 &&
            echo 'headers, program' || echo 'FAILED: the program'
        return ;;
    esac
    # shellcheck disable=SC2086
    $command -I. -Iexamples -DMLA_IMPLEMENTATION -DMLA__SELECT=extern -x c -c mla.h -o "$dir/mla.o" >"$dir/log" 2>&1 || { echo 'FAILED: mla.h'; return; }
    for test in $tests; do
        local told='-DMLA__IMPLEMENTED -DMLA__INSTANTIATED'
        [ $test != kernels ] || told='-DMLA_API=static -DMLA__SELECT=extern -DMLA__SELECTED'
        # shellcheck disable=SC2086
        $command -D_DEFAULT_SOURCE $told -I. -Iexamples "tests/test_$test.c" "$dir/mla.o" -o "$dir/test_$test" -lm -pthread >"$dir/log" 2>&1 ||
            { echo "FAILED: test_$test does not compile"; return; }
        OMP_WAIT_POLICY=passive timeout 900 $runner "$dir/test_$test" >"$dir/log" 2>&1
        counted=$(said "$dir/log")
        [ -n "$counted" ] && [ "${counted#* }" = 0 ] && [ "${counted% *}" != 0 ] || { echo "FAILED: test_$test: ${counted:-no result}"; return; }
        total=$((total + ${counted% *}))
    done
    echo "$total passed"
}

table() {
    awk -v results=$results '
        /^<!-- matrix: begin/ { print; while ((getline line < (results "/table.md")) > 0) print line; skip = 1; next }
        /^<!-- matrix: end/ { skip = 0 }
        !skip { print }' README.md >$results/README.md && cat $results/README.md >README.md
}

write_table() {
    {
        echo
        echo "Run on $(date +%Y-%m-%d), by these versions:"
        echo
        echo '| | tests | what came of it | compiler |'
        echo '|---|---|---|---|'
        while IFS='|' read -r name tests command runner packages; do
            [ -n "$name" ] && [ -f "$results/${name// /_}/result" ] || continue
            case $tests in script:*) tests="tests/${tests#*:}/run.sh" ;; refused:*) tests='the implementation' ;; headers) tests='tests/header' ;; esac
            IFS='|' read -r _ result version <"$results/${name// /_}/result"
            echo "| $name | $tests | $result | $version |"
        done <<<"$rows"
        echo
    } >$results/table.md
    table
}

if [ "${1:-}" = --table ]; then
    write_table
    exit
fi
while IFS='|' read -r -u 3 name tests command runner packages; do
    [ -n "$name" ] || continue
    wanted=$([ $# -eq 0 ] && echo 1)
    for prefix; do case $name in "$prefix"*) wanted=1 ;; esac; done
    [ "$wanted" ] || continue
    dir="$results/${name// /_}"
    mkdir -p "$dir"
    if [ -z "${AGAIN:-}" ] && [ -f "$dir/result" ] && [ "$(cut -d'|' -f1 "$dir/result")" = "$stamp" ] && ! grep -q FAILED "$dir/result"; then
        passed=$((passed + 1))
        continue
    fi
    missing=
    for tool in ${command%% *} ${runner%% *}; do
        [ "$tool" = wine64 ] && [ -e /usr/lib/wine/wine64 ] || command -v "$tool" >/dev/null || missing="$missing $tool"
    done
    if [ -n "$missing" ] && [ "${INSTALL:-}" ]; then
        # shellcheck disable=SC2086
        apt-get install -y -qq --no-install-recommends $packages >"$dir/log" 2>&1 && missing=
    fi
    if [ -n "$missing" ]; then
        echo "$name: not here ($missing )"
        continue
    fi
    begin=$SECONDS
    result=$(row_of "$name" "$tests" "$command" "$runner" "$dir")
    version=$(${command%% *} --version | head -n 1 | sed 's/(Debian[^)]*) *//; s/Debian //; s/([^)]*) *//g; s/clang version/clang/; s/ *$//')
    echo "$stamp|$result|$version" >"$dir/result"
    echo "$name: $result ($((SECONDS - begin)) s)"
    case $result in FAILED*) failed=$((failed + 1)) && tail -n 12 "$dir/log" | sed 's/^/    /' ;; *) passed=$((passed + 1)) ;; esac
    rm -f "$dir"/*.o "$dir"/test_* "$dir"/program
done 3<<<"$rows"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
