#!/usr/bin/env bash
# The program build/generate as a person runs it: options, errors, exit statuses, output. Ends with "N passed, N failed".
cd "$(dirname "$0")/../.." || exit 1
generate=./build/generate
model=tests/fixtures/checkpoints/deepseek_v3
prompt="214 170 47 204 209 162 116 42 115 234 15 138 148 106 60 203 62 49 107 120 129 201 231 97 \
211 129 143 109 91 164 124 200 115 202 215 74 147 50 100 145 127 189 106 65 180 234 233 215"
expected="95 61 242 176 196 133 111 243 7 107 243 228 107 140 165 234" # from transformers
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

# same GOT WANT WHAT
same() {
    if [ "$1" = "$2" ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "$3: got '$1', expected '$2'"; fi
}
# refused STATUS PATTERN COMMAND...: that exit status, and one line on stderr that contains the pattern
refused() {
    local want=$1 pattern=$2
    shift 2
    "$@" >/dev/null 2>"$tmp/stderr"
    same "$? $(wc -l <"$tmp/stderr") $(grep -c -e "$pattern" "$tmp/stderr")" "$want 1 1" "$* ($(cat "$tmp/stderr"))"
}

# ---- usage: status 2
refused 2 "unknown option '--nope'" $generate --nope
refused 2 '--model is missing' $generate --tokens 1
refused 2 '--tokens is missing' $generate --model $model
refused 2 'a value is missing' $generate --model
run="$generate --model $model --tokens 1"
for v in 12x '' ' 3' 0x10 99999999999999999999 -1 1.5 +; do refused 2 '-n:' $run -n "$v"; done
for v in nan inf -1 1e9 abc '' ' 1'; do refused 2 '--temp:' $run --temp "$v"; done
for v in -1 x 18446744073709551616 ''; do refused 2 '--seed:' $run --seed "$v"; done
for v in 0 -2 2147483648 q; do refused 2 '--threads:' $run --threads "$v"; refused 2 '--chunk:' $run --chunk "$v"; done
for v in '' ' ' '1 x' '1,2' '1 -2' 256 '1 99999999999' 00000000000000000000000000000000000000000000000005; do
    refused 2 '--tokens:' $generate --model $model --tokens "$v"
done
refused 2 "'foo' is none of auto, naive, absorbed" $run --attn foo
refused 2 "'foo' is none of auto, scalar, avx2" $run --isa foo

# ---- everything else that goes wrong: status 1
refused 1 'nonexistent' $generate --model "$tmp/nonexistent" --tokens 1
mkdir "$tmp/llama" && echo '{"model_type": "llama"}' >"$tmp/llama/config.json"
refused 1 'model_type "llama"' $generate --model "$tmp/llama" --tokens 1
refused 1 'cannot write' $run --logits "$tmp/nonexistent/x"
if [ -w /dev/full ]; then
    refused 1 '/dev/full' $run --logits /dev/full -n 0
    refused 1 'cannot write to stdout' bash -c "$run >/dev/full"
    refused 1 'cannot write to stdout' bash -c "$run --print-tokens >/dev/full"
fi
refused 1 'stdout is closed' bash -c "$run >&-"
$run --logits "$tmp/l" >/dev/null 2>&- <&-
same "$? $(stat -c %s "$tmp/l")" "0 1024" 'stdin and stderr closed'

# ---- what it prints
same "$(($($generate --help | wc -l) <= 24))" 1 '--help fits a screen'
same "$($generate --help | awk 'length > 80' | wc -l)" 0 '--help: long lines'
sampled="$generate --model $model --temp 1 --seed"
a=$($sampled 7 --tokens "1 2 3" --threads 1 --print-tokens 2>/dev/null)
same "$($sampled 7 --tokens "1 2 3" --threads 3 --print-tokens 2>/dev/null)" "$a" 'the same seed on 3 threads'
same "$($sampled 7 --tokens "1 2 3" 2>/dev/null)" "$a" 'tokens as they come'
if [ "$($sampled 8 --tokens "1 2 3" --print-tokens 2>/dev/null)" = "$a" ]; then same equal different 'another seed'; fi
same "$($generate --model $model --tokens "$prompt" -n 0 --print-tokens 2>/dev/null)" "" '-n 0'
for report in prompt generation memory tokens/s GB/s; do
    same "$($generate --model $model --tokens "$prompt" 2>&1 >/dev/null | grep -q $report && echo there)" there "$report in the closing lines"
done
for attn in auto naive absorbed; do
    for isa in auto scalar; do
        for chunk in 1 7 512; do
            got=$($generate --model $model --tokens "$prompt" --ignore-eos --attn $attn --isa $isa --chunk $chunk --logits "$tmp/$attn.$isa.$chunk" \
                --print-tokens 2>/dev/null)
            same "$got" "$expected" "$attn $isa $chunk"
            same "$(stat -c %s "$tmp/$attn.$isa.$chunk")" $((48 * 256 * 4)) "logits of $attn $isa $chunk"
        done
    done
done
$generate --model $model --tokens "$prompt" --threads 5 --logits "$tmp/threads" >/dev/null 2>&1
same "$(cmp "$tmp/threads" "$tmp/auto.auto.512" && echo equal)" equal 'logits on 5 threads'

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
