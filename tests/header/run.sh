#!/usr/bin/env bash
# shellcheck disable=SC2030,SC2031 # a part has its own directory and counts
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
passed=0 failed=0 left_out='' parts=0

# part FUNCTION ARGUMENT...: it runs beside others, as many as there are processors, and in a directory of its own
part() {
    local dir=$tmp/part$parts
    while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-$(getconf _NPROCESSORS_ONLN)}" ]; do wait -n; done
    parts=$((parts + 1))
    mkdir "$dir"
    (
        tmp=$dir passed=0 failed=0
        "$@"
        echo "$passed $failed" >"$dir/counts"
    ) >"$dir/out" 2>&1 &
}
# The parts are over: what they said, and their counts.
gather() {
    local i p f
    wait
    for ((i = 0; i < parts; i++)); do
        cat "$tmp/part$i/out"
        p=0 f=1
        read -r p f <"$tmp/part$i/counts"
        passed=$((passed + p)) failed=$((failed + f))
    done
}

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
    for file in "$@"; do
        # shellcheck disable=SC2086
        check "$name: $file.c" $cc -x "$language" -std="$std" $warnings $flags -I"$root" -I"$root/examples" -c "$here/$file.c" -o "$tmp/$file.o" || ok=0
    done
    [ $ok = 1 ] || return
    # shellcheck disable=SC2086
    check "$name: link" $cc $flags "$tmp"/*.o -o "$tmp/program" -lm && check "$name: run" "$tmp/program"
}

# reads COMPILER STANDARD FLAGS LANGUAGE FILE...: each file, of which nothing is made: most of the time is taken by making, most warnings come before it
reads() {
    local cc=$1 std=$2 flags=$3 language=$4 file
    shift 4
    for file in "$@"; do
        # shellcheck disable=SC2086
        check "$cc $std $flags: $file.c" $cc -x "$language" -std="$std" $warnings $flags -I"$root" -I"$root/examples" -fsyntax-only "$here/$file.c"
    done
}

# refuses WHAT PATTERN COMMAND...: it does not read the implementation, and says why
refuses() {
    local what=$1 pattern=$2
    shift 2
    "$@" -I"$root" -I"$root/examples" -E "$here/impl.c" >/dev/null 2>"$tmp/refused"
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
        # All of it is made where OpenMP is (or is not), with the later standard; as C with the older one, too, optimised, which finds other warnings
        # but takes long; the rest is read. The first time with the path of the file mapped away: the header includes itself.
        read -r old new <<<"$standards"
        mapped="-ffile-prefix-map=$root=/elsewhere" omp=-fopenmp
        openmp_of "$compiler" $language || { omp='' && echo "$compiler has no OpenMP here: left out"; }
        # the copy beside the public one: once for each language, it is long to make, by the last compiler, as is the rule of what is whose
        own='' && [ "$cc" != "${CC##* }" ] || own="-DWITH_PRIVATE_COPY"
        [ $language = c++ ] || part matrix "$compiler" "$old" "-O1 $mapped" $language decl impl use
        # shellcheck disable=SC2086
        part matrix "$compiler" "$new" "-O0 $omp $own" $language decl impl use ${own:+private}
        part reads "$compiler" "$old" "-O0 $mapped" $language decl impl use private
        [ ! "$omp" ] || part reads "$compiler" "$old" "-O0 $omp" $language decl impl use
        part reads "$compiler" "$new" "-O0" $language decl impl use
        # -ffast-math is refused, and says why; declarations alone do not mind
        refuses "$compiler $language: -ffast-math" 'error.*mla\.h.*-ffast-math' "$compiler" -x $language -ffast-math
        # parts of it that the compiler tells of, 32 bits without SSE, big-endian machines: by name; what clang does not tell of, a context does
        parts_of='-ffinite-math-only'
        case $compiler in *clang*) ;; *g++* | *gcc*) parts_of="$parts_of -funsafe-math-optimizations -freciprocal-math" ;; esac
        for flag in $parts_of; do
            refuses "$compiler $language: $flag" 'error.*mla\.h.*-ffast-math and parts' "$compiler" -x $language "$flag"
        done
        refuses "$compiler $language: x87" 'error.*mla\.h.*-mfpmath=sse' "$compiler" -x $language -U__FLT_EVAL_METHOD__ -D__FLT_EVAL_METHOD__=2
        refuses "$compiler $language: big-endian" 'error.*mla\.h.*little-endian' "$compiler" -x $language -U__BYTE_ORDER__ -D__BYTE_ORDER__=4321
        check "$compiler $language: declarations with -ffast-math" "$compiler" -x $language -ffast-math -I"$root" -I"$root/examples" -fsyntax-only "$here/decl.c"
    done
done
gather

echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ "$left_out$passed" != 0 ]
