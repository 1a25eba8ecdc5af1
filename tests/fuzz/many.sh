#!/usr/bin/env bash
# Many executions on a machine of many processors, which needs no compiler.
#     tests/fuzz/many.sh pack                     builds for it, into build/fuzz/many (needs clang)
#     tests/fuzz/many.sh run S OUT [TARGET...]    runs that for S seconds, on all processors, until each target has been executed
#                                                 as often as GOAL says, half of it from seeds and half from nothing
# Prints how often each was; OUT gets the inputs that failed, and what was said of them. Exit status 1: some did.
cd "$(dirname "$0")/../.." || exit 1
pack=build/fuzz/many
all='json safetensors config gguf text tokenizer jinja grammar http requests calls model caches load'

if [ "$1" = pack ]; then
    PLAIN=1 S=0 tests/fuzz/run.sh || exit 1
    rm -rf $pack && mkdir -p $pack
    for p in texts model; do strip -o $pack/$p build/fuzz/$p; done
    # Where the C library is another one, this one and its loader are used.
    ldd $pack/texts $pack/model | grep -o '/[^ ]*' | grep -v : | sort -u | xargs -I '{}' cp -L '{}' $pack
    du -sh $pack
    exit
fi
[ "$1" = run ] && [ $# -ge 3 ] || { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" && exit 2; }

until=$(($(date +%s) + $2)) out=$3 processes=$(getconf _NPROCESSORS_ONLN) loader='' leaks=''
turn=$((1 + $2 * processes / 56 < 25 ? 1 + $2 * processes / 56 : 25)) # seconds
shift 3
mkdir -p "$out/work" && : >"$out/counts" || exit 1
export ASAN_OPTIONS=quarantine_size_mb=8:symbolize=0
tried() { TARGET=json $loader $pack/texts -runs=10 $leaks >"$out/work/try" 2>&1; }
tried || loader="$pack/ld-linux-x86-64.so.2 --library-path $pack"
tried || leaks=-detect_leaks=0
tried || { cat "$out/work/try" && exit 1; }
echo "$processes processes${loader:+, with their own C library}${leaks:+, leaks are not looked for}"

goal() { case $1 in caches) echo "${GOAL:-1000000}" ;; model) echo "${GOAL:-5000000}" ;; *) echo "${GOAL:-10000000}" ;; esac; }
count() { awk -v t="$1" -v f="$2" '$1 == t && $2 == f { n += $3 } END { print n + 0 }' "$out/counts"; }
# one TARGET FROM RUNS SECONDS
one() {
    local seeds='' program=$pack/texts log
    log=$(mktemp "$out/work/log.XXXXXX")
    case $1 in model | caches | load) program=$pack/model ;; esac
    [ "$2" = seeds ] && seeds=tests/fuzz/corpus/$1
    mkdir -p "$out/work/$1-$2"
    # shellcheck disable=SC2086
    TARGET=$1 $loader $program -runs="$3" -max_total_time="$4" -max_len=1024 -timeout=60 -rss_limit_mb=3000 -entropic=0 $leaks \
        -print_final_stats=1 -artifact_prefix="$out/$1-" "$out/work/$1-$2" $seeds >"$log" 2>&1 || cp "$log" "$out/$1-$(basename "$log")"
    echo "$1 $2 $(sed -n 's/.*number_of_executed_units: *//p' "$log")" >>"$out/counts"
    rm -f "$log"
}
running=0 some=1
while [ $some ]; do
    some=
    for target in ${*:-$all}; do
        for from in seeds empty; do
            [ $running -lt "$processes" ] || { wait -n && running=$((running - 1)); }
            left=$((until - $(date +%s))) more=$(($(goal "$target") / 2 - $(count "$target" $from)))
            [ $left -gt 1 ] && [ $more -gt 0 ] || continue
            one "$target" $from $more $((left < turn ? left : turn)) &
            running=$((running + 1)) some=1
        done
    done
done
wait
for target in ${*:-$all}; do
    printf '%-12s %10d executions from seeds, %10d from nothing, %d failed\n' "$target" "$(count "$target" seeds)" "$(count "$target" empty)" \
        "$(find "$out" -maxdepth 1 -name "$target-log*" | wc -l)"
done | tee "$out/report"
rm -rf "$out/work"
! ls "$out"/*-log* >/dev/null 2>&1
