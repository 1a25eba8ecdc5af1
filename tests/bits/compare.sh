#!/usr/bin/env bash
# Is every bit of output what it was? Builds bits.c against a revision and against the working tree (or another revision),
# runs both, and compares line by line; what the older one refuses is not compared. Takes some minutes.
#     tests/bits/compare.sh [OLD [NEW]]      OLD: 8b43dc4; NEW: the working tree
# TEXT=... compares only the lines with this text; RUN=qemu-aarch64 (with CC=aarch64-linux-gnu-gcc) runs the programs.
# The last line is "N passed, N failed".
set -u
cd "$(dirname "$0")/../.." || exit 1
old=${1:-8b43dc4} new=${2:-}
CC=${CC:-gcc} CFLAGS=${CFLAGS:--O2}
out=build/bits
mkdir -p $out

# build NAME DIRECTORY: $out/NAME of the sources in the directory, if they are not those of last time
build() {
    local flags= stamp
    grep -q MLA_ACT_F32 "$2/mla.h" && flags+=" -DBITS_ACTIVATIONS"
    grep -q mla_pool_desc "$2/mla.h" && flags+=" -DBITS_POOL_DESC"
    grep -q MLA_LAYOUT_X16 "$2/mla.h" && flags+=" -DBITS_LAYOUT"
    grep -q checkpoint_options "$2/examples/checkpoint.h" && flags+=" -DBITS_OPTIONS"
    # shellcheck disable=SC2086
    set -- "$1" "$2" $CC -std=c99 $CFLAGS $flags -I"$2" -I"$2/examples" tests/bits/bits.c -o "$out/$1" -lm
    stamp=$(echo "$@" && cat "$2/mla.h" "$2"/examples/*.h tests/bits/bits.c | cksum)
    [ -x "$out/$1" ] && [ "$stamp" = "$(cat "$out/$1.stamp" 2>/dev/null)" ] && return
    "${@:3}" && echo "$stamp" >"$out/$1.stamp"
}

# prepare NAME REVISION: builds it and runs it; without a revision, the working tree
prepare() {
    local from=.
    if [ -n "$2" ]; then
        from=$out/$1.src
        rm -rf "$from" && mkdir -p "$from" && git archive "$2" mla.h examples | tar -x -C "$from" || return 1
    fi
    build "$1" "$from" || return 1
    # shellcheck disable=SC2086
    ${RUN:-} "$out/$1" ${TEXT:+"$TEXT"} >"$out/$1.txt"
}

prepare old "$old" &
prepare new "$new" || { echo "${new:-the working tree} gives nothing to compare"; wait; echo "0 passed, 1 failed"; exit 1; }
wait $! || { echo "$old gives nothing to compare"; echo "0 passed, 1 failed"; exit 1; }

awk -F '\t' '
    FNR == NR { now[$1] = $2; next }
    $2 == "refused" { refused++; next }
    now[$1] == "no counterpart" { unasked++; print "not compared, the new one cannot be asked for it: " $1; next }
    now[$1] == $2 { passed++; next }
    {
        failed++
        if (failed <= 40) print "differs: " $1 (now[$1] == "" ? ": not there" : now[$1] == "refused" ? ": refused" : "")
        split($1, word, " ")
        count[word[1] " " word[2] " " word[3]]++
    }
    END {
        for (k in count) print count[k], "differ of", k | "sort -rn"
        close("sort -rn")
        print refused + 0, "were refused by the old one, for", unasked + 0, "the new one has no counterpart: not compared"
        print passed + 0 " passed, " failed + 0 " failed"
        exit failed > 0 || passed == 0
    }' $out/new.txt $out/old.txt
