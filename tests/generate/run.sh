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
for v in '' q5 keep Q8 ' q8'; do refused 2 "--quant: '$v' is none of q8, q4" $run --quant "$v"; done
for v in '' f64 q4; do refused 2 "--cache: '$v' is none of f32, f16, bf16, q8" $run --cache "$v"; done
refused 2 '--quant: a value is missing' $run --quant
refused 2 '--quant-class: --quant is missing' $run --quant-class head=q4
for v in '' head head,attn=q8 attn=q8, ,attn=q8 attn:q8; do refused 2 'is not CLASS=FORM' $run --quant q8 --quant-class "$v"; done
for v in =q8 norm=q8 Head=q8 ' head=q8' attn=q8,x=q4 a_name_that_is_much_longer_than_any=q8; do
    refused 2 '--quant-class: ' $run --quant q8 --quant-class "$v"
done
refused 2 "'norm' is none of attn, kv_b, dense, experts, shared, head, embed" $run --quant q8 --quant-class norm=q8
for v in head= head=q5 head=default head=q8=q8 'head=q8 '; do refused 2 'is none of keep, q8, q4' $run --quant q8 --quant-class "$v"; done

# ---- everything else that goes wrong: status 1
refused 1 'nonexistent' $generate --model "$tmp/nonexistent" --tokens 1
mkdir "$tmp/llama" && echo '{"model_type": "llama"}' >"$tmp/llama/config.json"
refused 1 'model_type "llama"' $generate --model "$tmp/llama" --tokens 1
refused 1 'cannot write' $run --logits "$tmp/nonexistent/x"
refused 1 'q_b_proj.weight": found rows of 48, expected a multiple of 32 for q8 (or keep attn)' $run --quant q8
refused 1 'kv_b_proj.weight": found rows of 48, expected a multiple of 32 for q4' $run --quant q8 --quant-class attn=keep,kv_b=q4
refused 1 'rows of kv_lora_rank + qk_rope_head_dim = 152' $generate --model ${model}_fp8 --tokens 1 --cache q8
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

# ---- conversion
lite=tests/fixtures/checkpoints/deepseek_v2_lite
count() { wc -w <<<"$1"; }
for q in "--model $lite --quant q8" "--model $lite --quant q4" "--model $lite --quant q4 --quant-class head=q8,experts=q8,embed=q4" \
         "--model $model --quant q8 --quant-class attn=keep" "--model ${model}_fp8 --quant q4 --quant-class attn=keep,experts=keep,shared=keep"; do
    for exact in "" --exact; do
        run="$generate $q $exact --tokens 1\ 2\ 3 --ignore-eos"
        one=$(eval "$run --threads 1 --logits $tmp/one" 2>"$tmp/stderr")
        same "$? $(count "$one")" "0 16" "$q $exact"
        same "$(grep -c '^converted .* MB of weights to q[84] in ' "$tmp/stderr")" 1 "$q $exact: the closing lines"
        same "$(tr -d '\n' <"$tmp/stderr" | grep -c "$(printf '\r')")" 0 "$q $exact: progress without a terminal"
        same "$(eval "$run --threads 5 --logits $tmp/five" 2>/dev/null)" "$one" "$q $exact: 5 threads"
        same "$(cmp "$tmp/one" "$tmp/five" && echo equal)" equal "$q $exact: logits on 5 threads"
        mv "$tmp/one" "$tmp/logits${exact:-.int8}"
    done
    same "$(cmp -s "$tmp/logits--exact" "$tmp/logits.int8" || echo differ)" differ "$q: --exact makes a difference"
done
for cache in f32 f16 bf16 q8; do
    got=$($generate --model $model --tokens "$prompt" --ignore-eos --cache $cache --print-tokens 2>"$tmp/stderr")
    same "$? $(count "$got")" "0 16" "--cache $cache"
    case $cache in f32|f16) same "$got" "$expected" "--cache $cache" ;; esac
    sed -n 's/.* cache \([^,]*\),.*/\1/p' "$tmp/stderr" >>"$tmp/caches"
done
same "$(sort -u "$tmp/caches" | wc -l)" 3 "three sizes of cache: $(tr '\n' ' ' <"$tmp/caches")"
if script -qec true /dev/null >/dev/null 2>&1; then # a terminal
    script -qec "$generate --model $lite --tokens 1 --quant q8 -n 1" /dev/null </dev/null >"$tmp/terminal"
    same "$? $(grep -c 'converting .* %' "$tmp/terminal")" "0 1" 'progress on a terminal'
fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
