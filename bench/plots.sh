#!/bin/sh
# plots.sh BENCH DIRECTORY - measures with the program BENCH (build/bench) what the plots show, into DIRECTORY, and draws
# bench/roofline.svg, bench/decode.svg and bench/cache.svg. `make plots` runs it; it takes about four minutes.
# KEEP=1: draw again from what was measured last time.
set -e
bench=$1 out=$2 here=$(dirname "$0")
command -v gnuplot >/dev/null || { echo "plots need gnuplot, which is not installed: apt-get install gnuplot-nox" >&2; exit 1; }
mkdir -p "$out"

measure() { # FILE ARGUMENTS: keeps the lines of JSON; a run that fails leaves no file
    file=$out/$1; shift
    [ -n "$KEEP" ] && [ -s "$file" ] && return
    echo "$bench $*"
    "$bench" "$@" --json >"$file.part"
    mv "$file.part" "$file"
}
measure limits.json limits --reps 7
for weights in bf16 q8 q4x16; do measure "roof_$weights.json" model --weights $weights --depth 0,16384 --reps 3; done
depths=0,1024,2048,4096,8192,16384
measure decode.json model --attn all --only decode --depth $depths --pp 0 --reps 3

# fields KEY...: these keys of each line of JSON, separated by blanks
fields() {
    awk -v keys="$*" 'function field(k, v) { if (!match($0, "\"" k "\":[^,}]*")) return "-"
            v = substr($0, RSTART + length(k) + 3, RLENGTH - length(k) - 3); gsub(/[" ]/, "", v); return v == "" ? "-" : v }
        { n = split(keys, key, " "); for (i = 1; i <= n; i++) printf "%s%s", field(key[i]), i < n ? " " : "\n" }'
}
threads=$(fields threads <"$out/roof_q4x16.json" | head -n 1)
isa=$(fields isa <"$out/roof_q4x16.json" | head -n 1)
case $isa in *amx*) not='none';; *vnni* | *bf16*) not='amx';; *avx512*) not='vnni|bf16|amx';; *) not='512|vnni|bf16|amx';; esac
# limit KIND KEY: the best of a kind of limit that the kernels' ISA has, with as many threads
limit() {
    grep "\"threads\":$threads," "$out/limits.json" | grep "\"limit\":\"$1" | grep -vE "\"isa\":\"[^\"]*($not)" | fields "$2" | sort -g | tail -n 1
}
read=$(limit read gbytes_per_s) fma=$(limit fma gflop_per_s) int8=$(limit int8 gflop_per_s)
for weights in bf16 q8 q4x16; do # intensity, rate, size and shape of the point: filled at depth 0, open at 16384
    fields what depth bytes flop gflop_per_s <"$out/roof_$weights.json" | awk '
        { shape = $1 == "decode" ? 7 : $1 == "prefill" ? 5 : $1 == "moe" ? 9 : 13
          if ($1 != "layer" && $5 != "null") print $4 / $3, $5, (shape == 13 ? 1.5 : 1.2), ($2 > 0 ? shape - 1 : shape) }' >"$out/roof_$weights.dat"
done
for path in naive absorbed; do
    fields what attn depth ms ms_min ms_max <"$out/decode.json" | awk -v path=$path '$1 == "decode" && $2 == path { print $3, $4, $5, $6 }' >"$out/$path.dat"
done
cpu=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1 | tr -d "\'\"")
gnuplot -e "cpu='$cpu'; out='$out'; here='$here'; read=$read; fma=$fma; int8=${int8:-0}; threads=$threads; isa='$isa'" "$here/plots.gp"
echo "drawn: $here/roofline.svg $here/decode.svg $here/cache.svg"
