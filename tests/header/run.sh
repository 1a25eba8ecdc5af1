#!/usr/bin/env bash
# The headers in every language they promise, without a warning, with each compiler of CC (default "gcc clang"), with and without
# OpenMP: alone, implemented, and used from a second translation unit. Without TEST_ALL=1 only as the oldest C++ of
# the first compiler, which does not translate the implementation but links what build/ has of it as C. The last line is "N passed, N failed".
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
CC=${CC:-gcc clang}
all=${TEST_ALL:-}
[ "$all" ] || CC=${CC%% *}
warnings="-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0 left_out=

# check WHAT COMMAND...: the command succeeds
check() {
    local what=$1
    shift
    if "$@" >"$tmp/log" 2>&1; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAILED: $what"
        echo "    $*"
        head -n 12 "$tmp/log" | sed 's/^/    /'
        return 1
    fi
}

# matrix COMPILER STANDARD FLAGS LANGUAGE FILE...: each file; linked; run
matrix() {
    local cc=$1 std=$2 flags=$3 language=$4 name="$1 $2 $3" ok=1 file
    shift 4
    rm -f "$tmp"/*.o "$tmp/program"
    for file in "$@"; do
        # shellcheck disable=SC2086
        check "$name: $file.c" $cc -x "$language" -std="$std" $warnings $flags -I"$root" -I"$root/examples" -c "$here/$file.c" -o "$tmp/$file.o" || ok=0
    done
    [ $ok = 1 ] || return
    # shellcheck disable=SC2086
    check "$name: link" $cc $flags "$tmp"/*.o -o "$tmp/program" -lm && check "$name: run" "$tmp/program"
}

# refuses WHAT PATTERN COMMAND...: it does not translate the implementation, and says why
refuses() {
    local what=$1 pattern=$2
    shift 2
    "$@" -I"$root" -I"$root/examples" -fsyntax-only "$here/impl.c" >"$tmp/refused" 2>&1
    check "$what is an error" test $? -ne 0
    check "$what: $pattern" grep -q "$pattern" "$tmp/refused"
}

# The C++ compiler that belongs to a C compiler, or nothing.
cxx_of() {
    local name=${1##*/}
    case $name in
    *clang*) echo "${1%"$name"}${name/clang/clang++}" ;;
    *gcc*) echo "${1%"$name"}${name/gcc/g++}" ;;
    *) echo "c++" ;;
    esac
}

openmp_of() { # COMPILER LANGUAGE
    printf '#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n' >"$tmp/omp.c"
    $1 -x "$2" -fopenmp "$tmp/omp.c" -o "$tmp/omp" >/dev/null 2>&1 && "$tmp/omp"
}

for cc in $CC; do
    if ! command -v "$cc" >/dev/null; then
        echo "$cc is not installed: left out"
        left_out=1
        continue
    fi
    cxx=$(cxx_of "$cc")
    for language in c c++; do
        [ "$all" ] || [ $language = c++ ] || continue # as C99 everything else is compiled
        compiler=$cc standards="c99 c11"
        [ $language = c++ ] && compiler=$cxx standards="c++11 c++17"
        [ "$all" ] || standards=${standards%% *}
        if ! command -v "$compiler" >/dev/null || ! printf '#include <math.h>\nint main(void) { return 0; }\n' | "$compiler" -x $language - -o "$tmp/try" >/dev/null 2>&1; then
            echo "$compiler is not installed: left out"
            left_out=1
            continue
        fi
        if [ ! "$all" ]; then
            flags="-x c++ -std=$standards $warnings -O0 -fopenmp -I$root -I$root/examples"
            # shellcheck disable=SC2086
            check "$compiler $standards: impl.c" $compiler $flags -fsyntax-only "$here/impl.c"
            # shellcheck disable=SC2086
            check "$compiler $standards: decl.c, use.c" $compiler $flags "$here/decl.c" "$here/use.c" -x none "$root/build/examples.a" "$root/build/mla.o" \
                -o "$tmp/program" -lm -pthread && check "$compiler $standards: run" "$tmp/program"
            continue
        fi
        omp=1
        openmp_of "$compiler" $language || { omp=0; echo "$compiler has no OpenMP here: left out"; }
        for std in $standards; do
            case $std in # a private copy beside the public one, once for each language: it takes as long as the implementation
            c99 | c++11) matrix "$compiler" "$std" "-O0 -DWITH_PRIVATE_COPY" $language decl impl use private ;;
            *) matrix "$compiler" "$std" "-O0" $language decl impl use ;;
            esac
            [ $omp = 1 ] && matrix "$compiler" "$std" "-O0 -fopenmp" $language decl impl use
        done
        # -ffast-math is refused, and says why; declarations alone do not mind
        "$compiler" -x $language -ffast-math -I"$root" -I"$root/examples" -c "$here/impl.c" -o "$tmp/fast.o" >"$tmp/fast" 2>&1
        status=$?
        check "$compiler $language: -ffast-math is an error" test $status -ne 0
        check "$compiler $language: the error names -ffast-math" grep -q "error.*mla\.h.*-ffast-math" "$tmp/fast"
        # parts of it that the compiler tells of, 32 bits without SSE, big-endian machines: by name; what clang does not tell of, a context does
        parts='-ffinite-math-only'
        case $compiler in *clang*) ;; *g++* | *gcc*) parts="$parts -funsafe-math-optimizations -freciprocal-math" ;; esac
        for part in $parts; do
            refuses "$compiler $language: $part" 'error.*mla\.h.*-ffast-math and parts' "$compiler" -x $language "$part"
        done
        refuses "$compiler $language: x87" 'error.*mla\.h.*-mfpmath=sse' "$compiler" -x $language -U__FLT_EVAL_METHOD__ -D__FLT_EVAL_METHOD__=2
        refuses "$compiler $language: big-endian" 'error.*mla\.h.*little-endian' "$compiler" -x $language -U__BYTE_ORDER__ -D__BYTE_ORDER__=4321
        check "$compiler $language: declarations with -ffast-math" "$compiler" -x $language -ffast-math -I"$root" -I"$root/examples" -c "$here/decl.c" -o "$tmp/fast.o"
        # with the path of the file mapped away (the header includes itself); optimised, which finds other warnings but takes long, in C alone
        level=-O0
        [ $language = c ] && level=-O1
        # shellcheck disable=SC2086
        check "$compiler $language: $level -ffile-prefix-map" "$compiler" -x $language $level $warnings -ffile-prefix-map="$root"=/elsewhere -I"$root" -I"$root/examples" \
            -c "$here/impl.c" -o "$tmp/fast.o"
    done
done

echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ "$left_out$passed" != 0 ]
