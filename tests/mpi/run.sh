#!/usr/bin/env bash
# shellcheck disable=SC2181 # statuses of what has been printed
# build/mpi against transformers' tokens and logits and against generate: in width, in depth, in both, on this machine; prompts in
# pieces, batches, multi-token prediction, converted weights; ranks that die, or have other files. tests/mpi/run.sh [MPIRUN...]
cd "$(dirname "$0")/../.." || exit 1
passed=0 failed=0
check() { # WHAT STATUS TEXT: status 0 is a pass
    if [ "$2" -eq 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && printf 'FAILED %s: %s\n' "$1" "$3"; fi
}
end() {
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}
if [ ! -x build/mpi ] || ! command -v mpirun >/dev/null; then
    echo 'MPI is not here: left out'
    passed=1
    end
fi
all=${TEST_ALL:-}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export OMP_WAIT_POLICY=passive OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1 OMPI_ALLOW_RUN_AS_ROOT=1 \
    OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_hwloc_base_binding_policy=none
ranks() { # N OPTION...
    local n=$1
    shift
    timeout 120 mpirun -n "$n" build/mpi --threads 1 "$@"
}
fixtures=tests/fixtures/checkpoints

# ---- fixtures: their own tokens and logits -----------------------------------------------------------------------------

shapes=("1 --width 1" "2 --width 2" "3 --width 3" "4 --width 4" "2 --depth 2" "3 --depth 3" "4 --width 2 --depth 2")
i=0
for dir in "$fixtures"/*/; do
    name=$(basename "$dir")
    for j in "${!shapes[@]}"; do
        read -ra shape <<<"${shapes[j]}"
        i=$((i + 1))
        [ -n "$all" ] || [ $((i % 67)) -eq 7 ] || continue
        [[ $name != longcat_flash* && $name != hy_v4 || ${shape[*]} != "3 --depth 3" ]] || continue # of two that go apart
        what="$name ${shape[*]}"
        prompt=$(build/test_shard --tokens "$name") greedy=$(build/test_shard --greedy "$name")
        out=$(ranks "${shape[@]}" --model "$dir" --tokens "$prompt" -n 16 --ignore-eos --activations f32 --logits "$tmp/logits" --chunk 19 --quiet 2>&1)
        [ "$out" = "$greedy" ]
        check "$what" $? "$out, not $greedy"
        out=$(build/test_shard --logits "$name" "$tmp/logits")
        check "$what" $? "$out"
    done
done

# ---- batches, copies, overlap, sampling, multi-token prediction ----------------------------------------------------------

v3=$fixtures/deepseek_v3 text="11 22 33 44 55 66 77 88 99 111"
want=$(build/generate --model $v3 --tokens "$text" -n 20 --ignore-eos --quiet)
shapes=("2 --width 2 --overlap" "2 --depth 2" "3 --width 3 --experts range" "4 --width 2 --depth 2 --overlap --experts split")
for j in "${!shapes[@]}"; do
    read -ra shape <<<"${shapes[j]}"
    [ -n "$all" ] || [ "$j" -eq 1 ] || continue
    out=$(ranks "${shape[@]}" --model $v3 --tokens "$text" -n 20 --ignore-eos --copies 5 --chunk 7 --quiet 2>&1 | sort -u)
    [ "$out" = "$want" ]
    check "five texts, ${shape[*]}" $? "$out, not $want"
done
if [ -n "$all" ]; then
    # many tokens at a time, in halves: more than 64 each
    long=$(seq -s ' ' 1 80)
    want=$(build/generate --model $v3 --tokens "$long" -n 8 --ignore-eos --quiet)
    out=$(ranks 3 --width 3 --overlap --model $v3 --tokens "$long" -n 8 --ignore-eos --copies 4 --quiet 2>&1 | sort -u)
    [ "$out" = "$want" ]
    check "halves of a batch" $? "$out, not $want"
    want=$(build/generate --model $v3 --tokens "$text" -n 20 --ignore-eos --temp 0.8 --seed 7 --quiet)
    out=$(ranks 2 --model $v3 --tokens "$text" -n 20 --ignore-eos --temp 0.8 --seed 7 --quiet 2>&1)
    [ "$out" = "$want" ]
    check "sampled" $? "$out, not $want"
    want=$(build/generate --model $v3 --tokens "$text" -n 20 --ignore-eos --quiet)
    out=$(ranks 2 --model $v3 --tokens "$text" -n 20 --ignore-eos --mtp --quiet 2>&1)
    [ "$out" = "$want" ]
    check "--mtp" $? "$out, not $want"
fi
tale="Once upon a time the Rat"
want=$(build/generate --model examples/tales --prompt "$tale" -n 24 --quiet --temp 0 --stop the)
out=$(ranks 2 --model examples/tales --prompt "$tale" -n 24 --quiet --temp 0 --stop the 2>&1)
[ "$out" = "$want" ]
check "a text" $? "$out, not $want"
# a conversation, of which what was run before is not run again; and how well a text is foreseen
talk() { printf 'Once upon a time\nThe fox said\n/regen\n/clear\nA hen\n'; }
want=$(talk | build/generate --model examples/tales --chat -n 9 --temp 0 --system "Be brief" --quiet)
shapes=("2 --width 2" "3 --depth 3" "4 --width 2 --depth 2")
for j in "${!shapes[@]}"; do
    read -ra shape <<<"${shapes[j]}"
    [ -n "$all" ] || [ "$j" -eq 1 ] || continue
    out=$(talk | ranks "${shape[@]}" --model examples/tales --chat -n 9 --temp 0 --system "Be brief" --quiet 2>&1)
    [ "$out" = "$want" ] && [ "$(wc -w <<<"$want")" -gt 9 ]
    check "a conversation, ${shape[*]}" $? "$out, not $want"
    [ -n "$all" ] || continue
    head -c 3000 README.md >"$tmp/text"
    foreseen() { sed 's/.*"nll":\([0-9.]*\),"tokens":\([0-9]*\),.*/\1 \2/'; }
    read -r nll n < <(build/generate --model examples/tales --perplexity "$tmp/text" --ctx 64 --json --quiet | foreseen)
    read -r got m < <(ranks "${shape[@]}" --model examples/tales --perplexity "$tmp/text" --ctx 64 --chunk 17 --json --quiet | foreseen)
    awk -v a="$nll" -v b="$got" -v n="$n" -v m="$m" 'BEGIN { exit !(n > 1000 && n == m && a - b < 1e-3 * a && b - a < 1e-3 * a) }'
    check "perplexity, ${shape[*]}" $? "$got nats of $m tokens, not $nll of $n"
done
if [ -n "$all" ]; then
    out=$(ranks 2 --model $v3 --tokens "1 2 3" -n 3 --ignore-eos --json --quiet 2>&1 | sed 's/.*"tokens":\[\([0-9,]*\)\].*"width":2,.*/\1/')
    [ "$out" = "$(build/generate --model $v3 --tokens "1 2 3" -n 3 --ignore-eos --quiet | tr ' ' ,)" ]
    check "--json" $? "$out"
    out=$(printf 'a fox\0a hen' | ranks 2 --model examples/tales --tokenize 2>&1)
    [ "$out" = "$(printf 'a fox\0a hen' | build/generate --model examples/tales --tokenize)" ]
    check "--tokenize" $? "$out"
    out=$(ranks 4 --width 2 --depth 2 --model examples/tales --info 2>&1)
    [ "$(grep -c '^rank [0-3]: part [12] of 2 of layers .* GB of weights$' <<<"$out")" -eq 4 ]
    check "--info" $? "$out"
fi
if [ -n "$all" ]; then
    want=$(echo "$tale" | build/generate --model examples/tales --prompt-file - -n 24 --quiet --temp 0 --stop the)
    out=$(echo "$tale" | ranks 2 --depth 2 --model examples/tales --prompt-file - -n 24 --quiet --temp 0 --stop the 2>&1)
    [ "$out" = "$want" ]
    check "a text from standard input, in depth" $? "$out, not $want"
fi

# ---- formats -------------------------------------------------------------------------------------------------------------

# same WHAT MODEL OPTION...: by two ranks and by four as by generate
same() {
    local want out shape
    want=$(build/generate --model "$2" --tokens "$text" -n 12 --ignore-eos --activations f32 --quiet "${@:3}")
    for shape in "2 --width 2" "4 --width 2 --depth 2"; do
        # shellcheck disable=SC2086
        out=$(ranks $shape --model "$2" --tokens "$text" -n 12 --ignore-eos --activations f32 --quiet "${@:3}" 2>&1)
        [ "$out" = "$want" ] && [ -n "$want" ]
        check "$1 $shape" $? "$out, not $want"
    done
}
if [ -n "$all" ]; then
    same q4 $fixtures/deepseek_v2_lite --quant q4
    same q8 $fixtures/deepseek_v2_lite --quant q8
    same "q4 with experts of q8" $fixtures/deepseek_v2_lite --quant q4 --quant-class experts=q8,embed=keep
    if command -v node >/dev/null; then
        node -e 'import("./tests/llamacpp/synthetic.mjs").then(m => m.synthetic(process.argv[1], { layers: 3, D: 256, H: 4, N: 64, P: 32, V: 128,
            R: 256, Q: 0, E: 8, K: 3, I: 512, S: 2, dense: 768, vocab: 512, context: 1024 }, "q4_k"))' "$tmp/q4_k.gguf" >/dev/null
        same q4_k "$tmp/q4_k.gguf"
    else
        echo 'node is not here: Q4_K left out'
    fi
fi

# ---- what goes wrong -------------------------------------------------------------------------------------------------------

mpirun_of_two() { timeout 60 mpirun -n 1 build/mpi "${@:2}" --model "$v3" : -n 1 build/mpi "${@:2}" --model "$1"; }
mkdir "$tmp/other"
cp $v3/config.json $v3/model.safetensors "$tmp/other"
size=$(stat -c %s "$tmp/other/model.safetensors")
head -c $((size - 1000)) $v3/model.safetensors >"$tmp/other/model.safetensors" && head -c 1000 /dev/zero >>"$tmp/other/model.safetensors"
out=$(mpirun_of_two "$tmp/other" --threads 1 --tokens "1 2 3" -n 4 2>&1)
[ $? -ne 0 ] && [ "$(grep -c '^mpi: rank 1: its model is not that of rank 0$' <<<"$out")" -eq 1 ]
check "another file" $? "$out"
out=$(mpirun_of_two "$tmp/nowhere" --threads 1 --tokens "1 2 3" -n 4 2>&1)
[ $? -ne 0 ] && [ "$(grep -c '^mpi: rank 1: .*nowhere.*cannot be read' <<<"$out")" -eq 1 ]
check "no file" $? "$out"
out=$(ranks 3 --width 2 --model $v3 --tokens "1 2 3" 2>&1)
[ $? -ne 0 ] && [ "$(grep -c '^mpi: 3 ranks' <<<"$out")" -eq 1 ]
check "three ranks of two" $? "$out"

# dies HOW: a long text, and one of its ranks, or mpirun itself, gets a signal; all are gone soon after it
dies() {
    local pid victim status began=$SECONDS
    timeout 60 mpirun -n 3 build/mpi --threads 1 --model $v3 --tokens "1 2 3" -n 2000000 --ignore-eos --ctx 2000100 --quiet >"$tmp/out" 2>&1 &
    pid=$!
    for _ in $(seq 100); do
        sleep 0.1
        mapfile -t victims < <(pgrep -f "build/mpi --threads 1 --model $v3 --tokens 1 2 3 -n 2000000" | while read -r p; do
            [ "$(readlink "/proc/$p/exe")" = "$PWD/build/mpi" ] && echo "$p"; done)
        [ ${#victims[@]} -eq 3 ] && break
    done
    sleep 0.5
    if [ "$1" = INT ]; then victim=$(pgrep -P $pid mpirun); else victim=${victims[1]}; fi
    kill "-$1" "$victim"
    wait $pid
    status=$?
    for _ in $(seq 50); do kill -0 "${victims[@]}" 2>/dev/null && sleep 0.1; done
    [ ${#victims[@]} -eq 3 ] && [ $status -ne 0 ] && [ $((SECONDS - began)) -lt 40 ] && ! kill -0 "${victims[@]}" 2>/dev/null
    check "kill -$1" $? "status $status after $((SECONDS - began)) s, ranks ${victims[*]}: $(tail -n 5 "$tmp/out")"
}
dies KILL
[ -z "$all" ] || dies INT

# ---- the plan ------------------------------------------------------------------------------------------------------------

out=$(build/mpi --plan 4 --preset deepseek-v3 --dense 3 --bits 4.5)
[ "$(grep -c '^ *[0-9]* x [0-9]' <<<"$out")" -eq 3 ] && awk 'NR > 2 && ($1 * $3 != 4 || $4 < 90 || $4 > 100) { exit 1 }' <<<"$out"
check "--plan" $? "$out"
end
