#!/usr/bin/env bash
# How fast is mla.h on this machine? Builds, tests every kernel that the processor has, and times decode, prefill, batches and
# numbers of threads in turns; prints one table in markdown: what, mla.h, fraction of the limit (bench.c says of what).
#     bench/machine.sh [--quick] [--against BENCH] > table.md
# --quick          fewer rows, one round unless told otherwise, and the tests as `make test` has them
# --against BENCH  another build of bench, in turns with this one: its times, and how many times as long they are
# --minutes N      end within so many, building and testing included [8; with less than eight processors 10]
# --rounds N       at most so many [as many as there is time for]
# --rows TEXT      only the measurements whose command has this text: "batch", "--weights q4x16 --pp 512"
# --no-tests       do not test
# --bench BENCH    measure this program; build nothing, test nothing
# Rounds of all measurements follow each other as long as there is time; what stands in the table are medians over them, and of
# the two programs' times the median of each round's ratios. Progress goes to stderr.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
fail() { echo "machine.sh: $2" >&2; exit "$1"; } # STATUS MESSAGE
program() { # OPTION: its value becomes a path that holds in any directory
    local path=${!1}
    if [ ! -f "$path" ] || [ ! -x "$path" ]; then fail 2 "--$1: '$path' is not a program"; fi
    declare -g "$1=$(realpath "$path")"
}

command="bench/machine.sh${*:+ $*}" quick='' against='' minutes='' rounds='' rows='' tests=1 bench=''
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=1 ;;
    --no-tests) tests='' ;;
    --help | -h) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit ;;
    --against | --bench | --minutes | --rounds | --rows)
        [ $# -gt 1 ] || fail 2 "$1: a value is missing"
        declare "${1#--}=$2"
        shift
        ;;
    *) fail 2 "unknown option '$1' (--help shows the options)" ;;
    esac
    shift
done
[[ ${minutes:-1} =~ ^[0-9]{0,3}(\.[0-9]+)?$ && ${minutes:-1} =~ [1-9] ]] || fail 2 "--minutes: '$minutes' is not a number from 0.1 to 999"
rounds=${rounds:-${quick:-999}}
[[ $rounds =~ ^[1-9][0-9]{0,2}$ ]] || fail 2 "--rounds: '$rounds' is not a number from 1 to 999"
[ -z "$against" ] || program against
[ -z "$bench" ] || program bench
all=$(nproc)
minutes=${minutes:-$([ "$all" -lt 8 ] && echo 10 || echo 8)}
deadline=$(awk -v m="$minutes" 'BEGIN { print int(m * 58) }') # the table takes time, too
left() { echo $((deadline - SECONDS)); }
say() { printf '%4d s  %s\n' "$SECONDS" "$1" >&2; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# ---- build and test ------------------------------------------------------------------------------------------------------

tested=
if [ -z "$bench" ]; then
    cd "$root" || exit 1
    programs=(test_kernels test_modules test_model)
    [ -n "$tests" ] || programs=()
    say 'building'
    make -s "-j$all" build/bench "${programs[@]/#/build/}" >&2 || fail 1 'it does not build'
    bench=$root/build/bench
    if [ -n "$tests" ]; then
        say "testing${quick:+ some} kernels, modules and models"
        [ -n "$quick" ] || export TEST_ALL=1
        JOBS=$all timeout "$(left)" tests/run.sh "${programs[@]}" >"$out/tests" || { cat "$out/tests" >&2 && fail 1 'tests failed'; }
        absent=$(sed -n 's/: not on this machine, its kernels are NOT tested$//p' build/log/test_kernels | paste -sd, | sed 's/,/, /g')
        tested="Tests of kernels, modules and models: $(tail -n 1 "$out/tests")${absent:+; not here, and so not tested: $absent}."
    fi
fi

# ---- what is measured ------------------------------------------------------------------------------------------------------

# measure ARGUMENTS...: one process each time; a line of arguments for each, in "$out/plan"
measure() { [[ "$*" != *"$rows"* ]] || echo "$*" >>"$out/plan"; }
# cut WEIGHTS: --layers, where memory would not hold all of them
available=$(awk '/^MemAvailable:/ { print int($2 / 1e6) }' /proc/meminfo 2>/dev/null)
cut() {
    local need=4
    case $1 in f32) need=16 ;; bf16 | f16) need=9 ;; esac
    [ "${available:-99}" -ge $need ] || echo "--layers 3"
}
counts=1
for n in $((all / 4)) $((all / 2)) "$all"; do [ "$n" -le "${counts##*,}" ] || counts+=,$n; done
: >"$out/plan"
formats='q4x16 q8x16 bf16 f16 q4_kx16 q6_kx16 fp8 q4 q8' full='q4x16 q8x16 bf16 f32' batches=1,4,8,16,32,64 depths=4096,16384
if [ -n "$quick" ]; then
    formats='q4x16 q8x16 bf16' full='q4x16 bf16' batches=1,8,32 depths=4096
    [ "$all" -eq 1 ] || counts=1,$all
fi
measure limits --threads "$([ "$all" -eq 1 ] || echo 1,)$all" --reps 3
for w in $formats; do
    # shellcheck disable=SC2046
    measure model --weights "$w" --depth 0 --pp 0 --only decode,moe --threads "$counts" --reps 2 $(cut "$w")
done
measure model --weights q4x16 --depth $depths --pp 0 --only decode --threads "$all" --reps 3
measure model --shape v3attn --weights q4x16 --depth 0,$depths --pp 0 --only decode --threads "$all" --reps 3
[ -n "$quick" ] || [ "${available:-99}" -lt 6 ] || measure model --shape v3 --weights q4x16 --depth 0,$depths --pp 0 --only decode --threads "$all" --reps 2
measure model --shape v32attn --weights q4x16 --depth 32768 --pp 0 --only decode --threads "$all" --reps 3
measure model --weights q4x16 --batch "$batches" --depth 1024 --threads "$all" --reps 2
for w in $full; do
    modes='auto f32 bf16' # int8 is what auto does
    [ "$w" != f32 ] || modes='auto bf16'
    for to in $modes; do
        # shellcheck disable=SC2046
        measure model --weights "$w" --activations "$to" --pp 512 --depth 0 --only prefill --threads "$all" --reps 1 $(cut "$w")
    done
    # shellcheck disable=SC2046
    [ "$w" = f32 ] || measure model --weights "$w" --activations bf16 --isa amx --pp 512 --depth 0 --only prefill --threads "$all" --reps 1 $(cut "$w")
done
measure model --weights q4x16 --pp 512 --depth $depths --only prefill --threads "$all" --reps 1
# shellcheck disable=SC2046
[ -n "$quick" ] || measure model --weights bf16 --activations bf16 --pp 512 --depth 0 --only layer --threads "$counts" --reps 1 $(cut bf16)
[ -s "$out/plan" ] || fail 2 "--rows: no measurement has '$rows'"

# ---- measuring -------------------------------------------------------------------------------------------------------------

# one ROUND NUMBER WHO PROGRAM ARGUMENTS...: lines "round number who arguments <tab> json"; what fails once is left out from then on
one() {
    local round=$1 number=$2 who=$3 program=$4
    shift 4
    [ ! -e "$out/left_out.$who.$number" ] || return
    if [ "$(left)" -gt 1 ] && timeout "$(left)" "$program" "$@" --json >"$out/json" 2>"$out/error"; then
        while IFS= read -r json; do printf '%s\t%s\t%s\t%s\t%s\n' "$round" "$number" "$who" "$*" "$json"; done <"$out/json" >>"$out/measured"
    elif [ "$(left)" -le 1 ]; then
        say "no more time: $* is left out"
    else
        : >"$out/left_out.$who.$number"
        say "left out for $who: $* ($(head -n 1 "$out/error"))"
    fi
}
# Whole rounds only, but for the first, whatever time it takes.
: >"$out/measured"
round=0 longest=0
while [ $round -eq 0 ] || { [ $round -lt "$rounds" ] && [ $((longest * 11 / 10)) -lt "$(left)" ]; }; do
    begin=$SECONDS number=0
    while read -r -a arguments; do
        number=$((number + 1))
        say "round $((round + 1)): ${arguments[*]}"
        turns=("mla.h $bench" "before $against")
        [ $((round % 2)) -eq 0 ] || turns=("before $against" "mla.h $bench")
        for turn in "${turns[@]}"; do
            [ "${turn#* }" = '' ] || one $round $number "${turn%% *}" "${turn#* }" "${arguments[@]}" </dev/null
        done
    done <"$out/plan"
    round=$((round + 1))
    [ $((SECONDS - begin)) -le $longest ] || longest=$((SECONDS - begin))
done
[ -s "$out/measured" ] || fail 1 'nothing could be measured'

# ---- the table -------------------------------------------------------------------------------------------------------------

cpu=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo 2>/dev/null | head -n 1)
revision=$(git -C "$root" describe --always --dirty 2>/dev/null)
version=$(sed -n 's/^#define MLA_VERSION *"\(.*\)"/\1/p' "$root/mla.h")
medians=$([ $round -eq 1 ] && echo 'one round' || echo "$round rounds")
echo "$(date -u +%F), ${cpu:-$(uname -m)}, $all processors, mla.h $version${revision:+ ($revision)}, \`$command\`, medians of $medians."
echo "DeepSeek-V2-Lite cut to 6 layers, random weights (kv_b in q8 beside blocks), bf16 cache, unless a row says otherwise."
printf '%s\n' ${tested:+"$tested"} ''
awk -F'\t' -v against="$against" '
    function of(key,   v) { # the value of a key in the line of JSON, or nothing
        if (!match($5, "\"" key "\":(\"[^\"]*\"|[^,}]*)")) return ""
        v = substr($5, RSTART + length(key) + 3, RLENGTH - length(key) - 3)
        gsub(/"/, "", v)
        return v == "null" ? "" : v
    }
    function option(name,   n, word, i) { # the value of an option in the arguments
        n = split($4, word, " ")
        for (i = 1; i < n; i++) if (word[i] == name) return word[i + 1]
        return ""
    }
    function label(   s) {
        if (of("what") == "limit") return "limit: " of("limit") ", " of("isa") ", " count(of("threads"), "thread")
        s = of("what") == "batch" ? "decode, " count(of("n"), "sequence") : of("what") == "moe" ? "one MoE layer, " count(of("n"), "token") \
            : of("what") == "layer" ? "one attention layer, " count(of("n"), "token") : of("what") == "prefill" ? "prefill, " count(of("n"), "token") : of("what")
        s = s ", " option("--weights")
        if (of("shape") != "lite6") s = s ", " of("shape")
        if (option("--layers") != "") s = s ", " option("--layers") " layers"
        if (option("--activations") != "") s = s ", activations " option("--activations")
        if (option("--isa") != "") s = s ", isa " of("isa")
        if (of("what") != "moe") s = s ", depth " of("depth")
        return s ", " count(of("threads"), "thread")
    }
    function count(n, what) { return n " " what (n == 1 ? "" : "s") }
    function median(list,   v, n, i, j, t) {
        n = split(list, v, " ")
        for (i = 2; i <= n; i++)
            for (j = i; j > 1 && v[j - 1] + 0 > v[j] + 0; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
        return (v[int((n + 1) / 2)] + v[int(n / 2) + 1]) / 2
    }
    function number(x) { return sprintf(x < 10 ? "%.2f" : x < 100 ? "%.1f" : "%.0f", x) }
    function time(row, who,   ms) {
        if (!((row, who) in all)) return ""
        ms = median(all[row, who])
        if (rate[row] != "") return number(work[row] / ms) " " rate[row]
        return number(ms) " ms" (tokens[row] > 0 ? ", " number(tokens[row] / ms * 1e3) " tokens/s" : "")
    }
    {
        row = $2 SUBSEP label()
        if (!((row, $3) in all) && !(row in place)) {
            place[row] = ++n; name[n] = row; first[n] = $2 * 1000 + n; text[row] = label()
            tokens[row] = of("tokens_per_s") != "" && of("what") ~ /decode|batch|prefill/ ? of("n") : 0
            if (of("what") == "limit") rate[row] = of("gbytes_per_s") != "" ? "GB/s" : "G/s"
            work[row] = of(of("gbytes_per_s") != "" ? "gbytes_per_s" : "gflop_per_s") * of("ms")
        }
        all[row, $3] = all[row, $3] " " of("ms"); each[row, $3, $1] = of("ms"); rounds = $1
        if ($3 == "mla.h" && of("of_limit") != "") {
            fraction[row] = fraction[row] " " of("of_limit")
            reads = of("read_limit_ms") + 0 >= of("arithmetic_limit_ms") + 0
            limit[row] = limit[row] " " (reads ? of("read_limit_ms") : of("arithmetic_limit_ms"))
            kind[row] = ""
            if (reads) kind[row] = "read"
            else for (i = split("of_int8 int8 of_bf16 bf16 of_fma FMA", part, " "); i > 0; i -= 2) # those of a tenth or more
                if (of(part[i - 1]) + 0 > 0.1 * of("of_limit")) kind[row] = part[i] (kind[row] == "" ? "" : " and " kind[row])
        }
    }
    END {
        print "| what | mla.h | of the limit |" (against == "" ? "" : " before | before / mla.h |")
        print "|---|---|---|" (against == "" ? "" : "---|---|")
        for (i = 2; i <= n; i++) # by the place in the plan
            for (j = i; j > 1 && first[j - 1] > first[j]; j--) {
                t = first[j]; first[j] = first[j - 1]; first[j - 1] = t
                t = name[j]; name[j] = name[j - 1]; name[j - 1] = t
            }
        for (i = 1; i <= n; i++) {
            row = name[i]; ratios = ""
            for (r = 0; r <= rounds; r++)
                if (((row, "mla.h", r) in each) && ((row, "before", r) in each))
                    ratios = ratios " " each[row, "before", r] / each[row, "mla.h", r]
            line = "| " text[row] " | " time(row, "mla.h") " | "
            if (row in fraction) line = line sprintf("%.2f of %s (%s ms)", median(fraction[row]), kind[row], number(median(limit[row])))
            line = line " |"
            if (against != "") line = line " " time(row, "before") " | " (ratios == "" ? "" : sprintf("%.2f", median(ratios))) " |"
            gsub(/  +/, " ", line)
            print line
        }
    }' "$out/measured"
