#!/usr/bin/env bash
# Is it as fast as it was? Builds the bench of a revision and of the working tree (or another revision) and runs each command
# of `make bench` in turn, old and new, several times; prints the medians of each measurement and the ratio old time / new
# time (above 1: faster), and at the end what is below the limit.
#     tests/speed/compare.sh [OLD [NEW]]     OLD: 8b43dc4; NEW: the working tree
# ROUNDS=5 of each; LIMIT=0.97; ROWS=q4x16 only the commands with this text; LOCK (build/speed/lock) is held while one runs,
# so that two comparisons do not measure each other. The last line is "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
old=${1:-8b43dc4} new=${2:-}
ROUNDS=${ROUNDS:-5} LIMIT=${LIMIT:-0.97} LOCK=${LOCK:-build/speed/lock}
out=build/speed
mkdir -p $out

build() { # NAME REVISION
    local from=.
    if [ -n "$2" ]; then
        from=$out/$1.src
        rm -rf "$from" && mkdir -p "$from" && git archive "$2" | tar -x -C "$from" || return 1
    fi
    make -s -C "$from" build/bench CC="${CC:-gcc}" && cp "$from/build/bench" "$out/$1"
}
build old "$old" && build new "$new" || { echo "nothing to compare"; echo "0 passed, 1 failed"; exit 1; }

# What `make bench` of the old one runs, but for the limits, which no revision changes.
make -s -n bench -C $out/old.src |
    sed -n 's/.*build\/bench \(model\|kernels\)/\1/p' >$out/commands
: >$out/old.json
: >$out/new.json

measure() { # NAME ARGUMENTS...
    flock "$LOCK" "$out/$1" "${@:2}" --json >$out/line.json 2>$out/error ||
        { echo "$1: bench ${*:2}: $(head -n 1 $out/error)"; return; }
    sed "s/^{/{\"asked\":\"$weights\",/" $out/line.json >>"$out/$1.json"
}
while read -r -a row; do
    [ -z "${ROWS:-}" ] || [[ "${row[*]}" == *"$ROWS"* ]] || continue
    weights=bf16
    for ((i = 0; i < ${#row[@]}; i++)); do [ "${row[i]}" != --weights ] || weights=${row[i + 1]}; done
    [ "${row[0]}" = kernels ] || row+=(--no-limits)
    for ((i = 0; i < ROUNDS; i++)); do # the first of a pair is now one, now the other
        if ((i % 2)); then first=new second=old; else first=old second=new; fi
        measure $first "${row[@]}"
        measure $second "${row[@]}"
    done
done <$out/commands

awk -v limit="$LIMIT" '
    function of(key,   v) { # the value of a key in a line of JSON, or nothing
        if (!match($0, "\"" key "\":(\"[^\"]*\"|[^,}]*)")) return ""
        v = substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3)
        gsub(/"/, "", v)
        return v == "null" ? "" : v
    }
    function name(   s, i, v) {
        s = of("what")
        for (i = 1; i in keys; i++) if ((v = of(keys[i])) != "") s = s " " (keys[i] == "n" ? "T" : keys[i] == "depth" ? "depth " : "") v
        return s
    }
    function median(file, row,   n, i, j, t, v) {
        n = count[file, row]
        for (i = 1; i <= n; i++) v[i] = ms[file, row, i]
        for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j - 1] > v[j]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
        return n ? (v[int((n + 1) / 2)] + v[int((n + 2) / 2)]) / 2 : 0
    }
    BEGIN { split("shape asked matrix attn isa n depth", keys, " ") }
    of("isa") !~ /blas|dnn/ { # rivals are the same in both
        row = name()
        if (!(row in seen)) { seen[row] = 1; rows[++n_rows] = row }
        ms[FILENAME, row, ++count[FILENAME, row]] = of("ms") + 0
    }
    END {
        printf "%-58s %11s %11s %8s\n", "", "old, ms", "new, ms", "old/new"
        for (i = 1; i <= n_rows; i++) {
            a = median(ARGV[1], rows[i]); b = median(ARGV[2], rows[i])
            if (!a) continue
            r = b ? a / b : 0
            printf "%-58s %11.3f %11.3f %8.3f%s\n", rows[i], a, b, r, r < limit ? "  below " limit : ""
            if (r < limit) { failed++; below = below "\n    " rows[i] " " sprintf("%.3f", r) } else passed++
        }
        if (failed) print "below " limit ":" below
        print passed + 0 " passed, " failed + 0 " failed"
        exit failed > 0 || passed == 0
    }' $out/old.json $out/new.json
