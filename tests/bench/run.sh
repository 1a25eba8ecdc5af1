#!/usr/bin/env bash
# The bench: what is asked wrongly is refused by name; batches count what they touch; and bench/machine.sh, which is given programs that
# measure nothing, takes turns and medians, ends in time and says what it leaves out. Ends with "N passed, N failed".
cd "$(dirname "$0")/../.." || exit 1
bench=$PWD/build/bench machine=$PWD/bench/machine.sh
exec </dev/null
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export OMP_WAIT_POLICY=passive
passed=0 failed=0

# same GOT WANT WHAT
same() {
    if [ "$1" = "$2" ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "$3: got '$1', expected '$2'"; fi
}
# refused PATTERN COMMAND...: exit status 2, nothing on stdout, one line on stderr that contains the pattern
refused() {
    local pattern=$1 status
    shift
    "$@" >"$tmp/stdout" 2>"$tmp/stderr"
    status=$?
    same "$status $(wc -c <"$tmp/stdout") $(wc -l <"$tmp/stderr") $(grep -c -F -e "$pattern" "$tmp/stderr")" "2 0 1 1" "$* ($(cat "$tmp/stderr"))"
}
# fields KEY...: these keys of each line of JSON
fields() {
    awk -v keys="$*" 'function of(key) { return match($0, "\"" key "\":[^,}]*") ? substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) : "-" }
        { n = split(keys, key, " "); for (i = 1; i <= n; i++) { v = of(key[i]); gsub(/"/, "", v); printf "%s%s", v, i < n ? " " : "\n" } }'
}

# ---- files and outputs

mkfifo "$tmp/fifo"
refused "fifo: cannot be read: not a regular file" timeout 20 "$bench" model --shape "$tmp/fifo"
refused "/dev/zero: cannot be read: not a regular file" timeout 20 "$bench" model --shape /dev/zero
for options in --help 'barriers --reps 3'; do
    # shellcheck disable=SC2086
    same "$("$bench" $options 2>&1 >/dev/full; echo $?)" 'bench: cannot write to stdout: No space left on device
1' "$options to a full disk"
done

# ---- options -------------------------------------------------------------------------------------------------------------

refused "--batch: 0 is not in 1..1024" "$bench" model --batch 0
refused "--batch: '' is not an integer" "$bench" model --batch 4,,8
refused "--batch: more than 16 numbers" "$bench" model --batch 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17
refused "--batch: a value is missing" "$bench" model --batch
refused "--batch: limits decodes nothing" "$bench" limits --batch 2
refused "--batch: kernels decodes nothing" "$bench" kernels --batch 2
refused "--only: for batch say with --batch how many" "$bench" model --only decode,batch
refused "--only: 'x' is none of decode, prefill, layer, moe, kda, batch" "$bench" model --only x --batch 2
refused "--threads: 'two' is not an integer" "$bench" model --threads 1,two
refused "--threads: 0 is not in 1..1024" "$bench" model --threads 0,1
refused "--threads: kernels measures with one number of threads, not with 2" "$bench" kernels --threads 1,1
refused "--layers: 7 is more than the 6 of lite6" "$bench" model --layers 7
refused "--layers: kernels has none" "$bench" kernels --layers 1
refused "--kv-b: limits has none" "$bench" limits --kv-b q8
refused "--kv-b: 'q9' is none of keep, f32" "$bench" model --kv-b q9
refused "--kv-b: kv_lora_rank is 48, no multiple of the 32 of q8" "$bench" model --shape tests/fixtures/checkpoints/deepseek_v3 --kv-b q8
"$bench" --help >"$tmp/help"
same $? 0 "bench --help"
for option in --kv-b --batch --threads --layers --only --depth; do same "$(grep -c -e "^  $option " "$tmp/help")" 1 "bench --help names $option"; done

# ---- batches and threads -------------------------------------------------------------------------------------------------

shape=tests/fixtures/checkpoints/deepseek_v3 threads=1,3
"$bench" limits --threads 2 --reps 1 >/dev/null 2>"$tmp/stderr"
grep -q 'without OpenMP' "$tmp/stderr" && threads=1,1
"$bench" model --shape $shape --depth 9,70 --batch 1,2,50 --only decode,batch --threads $threads --pp 0 --reps 2 --no-limits --json >"$tmp/json" 2>&1
same $? 0 "bench model --batch ($(head -n 1 "$tmp/json"))"
want=
for t in ${threads/,/ }; do
    for depth in 9 70; do want+="decode 1 $depth $t;$(printf "batch %d $depth $t;" 1 2 50)"; done
done
same "$(grep -v '"what":"attention"' "$tmp/json" | fields what n depth threads | tr '\n' ';')" "$want" "a row for each batch, depth and number of threads"
# Of this shape: experts of 3 * 32 * 64 bf16 weights in three of four layers, each token's 4 of 12; rows of 48 + 16 bf16 values.
fields what n depth bytes flop experts tokens_per_s ms <"$tmp/json" | awk '
    function differs(a, b, what) { if (a - b > 1e-5 * b || b - a > 1e-5 * b) print what ": " a " and " b }
    $1 == "attention" { next }
    $1 == "decode" || $2 == 1 { differs($6, 4, "experts of one token") }
    $1 == "decode" { bytes = $4; flop = $5 }
    $1 == "batch" {
        differs($5, $2 * flop, "operations of " $2)
        differs($4, bytes + ($6 - 4) * 3 * 3 * 32 * 64 * 2 + ($2 - 1) * 4 * ($3 + 1) * (48 + 16) * 2, "bytes of " $2)
        differs($7, $2 / $8 * 1000, "tokens/s of " $2)
    }
    $1 == "batch" && $2 == 2 && ($6 <= 4 || $6 > 8) { print $6 " experts of two tokens" }
    $1 == "batch" && $2 == 50 && ($6 < 10 || $6 > 12) { print $6 " experts of fifty tokens" }' >"$tmp/wrong"
same "$(cat "$tmp/wrong")" "" "what batches count"
"$bench" model --shape $shape --layers 2 --depth 3 --batch 5 --threads 1 --pp 0 --reps 1 --json >"$tmp/json" 2>&1
same "$(fields ms of_limit read_limit_ms arithmetic_limit_ms of_read of_fma <"$tmp/json" |
    awk 'function same(a, b) { return a > 0 && a - b < 1e-4 * b && b - a < 1e-4 * b }
        { print NF, same($2, ($3 > $4 ? $3 : $4) / $1), same($3 / $1, $5), same($4 / $1, $6) }')" "6 1 1 1" "the nearer limit ($(head -n 1 "$tmp/json"))"

# Beside blocks kv_b is in q8: a layer's [16 heads * 256, 512] takes 34 bytes for 32 weights and not 64.
for kv_b in q8 keep; do
    "$bench" model --weights q4 --layers 1 --kv-b $kv_b --depth 0 --pp 0 --only decode --threads 1 --reps 1 --no-limits --json 2>&1 | fields bytes
done >"$tmp/bytes"
"$bench" model --weights q4 --layers 1 --depth 0 --pp 0 --only decode --threads 1 --reps 1 --no-limits --json 2>&1 | fields bytes >>"$tmp/bytes"
same "$(tr '\n' ' ' <"$tmp/bytes" | awk '{ print ($2 - $1 > 1965000 && $2 - $1 < 1967000), $3 == $1 }')" "1 1" "bytes of kv_b in q8 and kept ($(tr '\n' ' ' <"$tmp/bytes"))"

# ---- barriers ------------------------------------------------------------------------------------------------------------

"$bench" barriers --threads 16 --reps 1 --json 2>&1 | fields threads by >"$tmp/barriers"
same "$(grep -c '^16 pool' "$tmp/barriers")" 2 "barriers of 16 threads"

# ---- bench/machine.sh ----------------------------------------------------------------------------------------------------

# fake NAME MS...: a program that notes its calls and says that it took, call after call, so many ms; bf16 it refuses
fake() {
    local name=$1
    shift
    cat >"$tmp/$name" <<END
#!/usr/bin/env bash
times=($*)
calls=\$(grep -c "^$name " "$tmp/calls")
echo "$name \$*" >>"$tmp/calls"
case "\$*" in *bf16*) echo "no bf16 here" >&2; exit 1 ;; esac
ms=\${times[calls % \${#times[@]}]}
what=decode n=1
case "\$*" in *--batch*) what=batch n=8 ;; esac
echo '{"what":"'\$what'","shape":"lite6","threads":2,"depth":7,"ms":'\$ms',"tokens_per_s":5,"of_fma":null,"of_int8":0.25,"read_limit_ms":9,"arithmetic_limit_ms":10,"of_limit":0.25,"n":'\$n',"isa":"avx2"}'
END
    chmod +x "$tmp/$name"
    : >"$tmp/calls"
}
table() { sed -n '/^|/p' "$tmp/stdout"; }

refused "unknown option '--fast'" "$machine" --fast
refused "--minutes: '0' is not a number from 0.1 to 999" "$machine" --minutes 0
refused "--rounds: 'x' is not a number from 1 to 999" "$machine" --rounds x
refused "--against: a value is missing" "$machine" --against
refused "--against: '$tmp/none' is not a program" "$machine" --against "$tmp/none"
fake new 10
refused "--rows: no measurement has 'nothing'" "$machine" --bench "$tmp/new" --rows nothing
"$machine" --help >"$tmp/help"
same $? 0 "machine.sh --help"
for option in --quick --against --minutes --rounds --rows --no-tests --bench; do same "$(grep -c -e "^$option " "$tmp/help")" 1 "machine.sh --help names $option"; done

fake old 30
"$machine" --quick --bench "$tmp/new" --against "$tmp/old" --rows batch >"$tmp/stdout" 2>"$tmp/stderr"
same "$? $(table)" "0 | what | mla.h | of the limit | before | before / mla.h |
|---|---|---|---|---|
| decode, 8 sequences, q4x16, depth 7, 2 threads | 10.0 ms, 800 tokens/s | 0.25 of int8 (10.0 ms) | 30.0 ms, 267 tokens/s | 3.00 |" "a table"
same "$(head -n 1 "$tmp/stdout" | grep -c "^$(date -u +%F), .*mla.h [0-9.]*.*--rows batch.*medians of one round")" 1 "its title ($(head -n 1 "$tmp/stdout"))"

# Each round the other one is first; the ratio is the median of those of each round: 2, 1/2, 3 and 1.
fake new 10 20 60 40
fake old 20 10 180 40
"$machine" --rounds 4 --bench "$tmp/new" --against "$tmp/old" --rows batch >"$tmp/stdout" 2>"$tmp/stderr"
same "$? $(cut -d' ' -f1 "$tmp/calls" | tr '\n' ' ')" "0 new old old new new old old new " "turns"
same "$(grep -c 'medians of 4 rounds' "$tmp/stdout") $(table | tail -n 1 | cut -d'|' -f3,5,6)" \
    "1  30.0 ms, 267 tokens/s | 30.0 ms, 267 tokens/s | 1.50 " "medians of four rounds"

# No program runs on when the time is over.
fake new 10
sed -i '2i sleep 60' "$tmp/new"
"$machine" --minutes 0.1 --bench "$tmp/new" --rows batch >"$tmp/stdout" 2>"$tmp/stderr"
same "$? $(grep -c 'no more time: model .*--batch' "$tmp/stderr") $(tail -n 1 "$tmp/stderr")" "1 1 machine.sh: nothing could be measured" "no time"

# What one of the two cannot do stands without its number; what both cannot has no row.
fake new 10
fake old 10
"$machine" --quick --bench "$tmp/new" --against "$tmp/old" --rows 'decode,moe' >"$tmp/stdout" 2>"$tmp/stderr"
same "$(table | grep -c 'q4x16\|q8x16')" 2 "rows of what can be measured"
same "$(table | grep -c 'bf16') $(grep -c 'left out for .*--weights bf16.*no bf16 here' "$tmp/stderr")" "0 2" "what is left out is named"
sed -i 's/\*bf16\*/*--batch*/' "$tmp/old"
"$machine" --quick --bench "$tmp/new" --against "$tmp/old" --rows batch >"$tmp/stdout" 2>"$tmp/stderr"
same "$(table | tail -n 1 | cut -d'|' -f5-)" " | |" "no number of a program that has no batches"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
