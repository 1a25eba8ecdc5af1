#!/usr/bin/env bash
# The program build/generate as a person runs it: options, errors, exit statuses, output. Ends with "N passed, N failed".
cd "$(dirname "$0")/../.." || exit 1
generate=./${PROGRAMS:-build}/generate
model=tests/fixtures/checkpoints/deepseek_v3
prompt="214 170 47 204 209 162 116 42 115 234 15 138 148 106 60 203 62 49 107 120 129 201 231 97 \
211 129 143 109 91 164 124 200 115 202 215 74 147 50 100 145 127 189 106 65 180 234 233 215"
expected="95 61 242 176 196 133 111 243 7 107 243 228 107 140 165 234" # from transformers
exec </dev/null # a prompt is read from standard input only where a test gives one
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export OMP_WAIT_POLICY=passive # more threads than cores must not wait for each other by turning in circles
passed=0 failed=0

# same GOT WANT WHAT
same() {
    if [ "$1" = "$2" ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "$3: got '$1', expected '$2'"; fi
}
# refused STATUS PATTERN COMMAND...: that exit status, and one line on stderr that contains the pattern
refused() {
    local want=$1 pattern=$2 said status
    shift 2
    "$@" >/dev/null 2>"$tmp/stderr"
    status=$?
    IFS= read -r -d '' said <"$tmp/stderr"
    case $said in # without another process where the pattern stands there letter by letter: there are hundreds of these
    *$'\n'?*) same "$status, more than a line" "$want, a line" "$* ($said)" ;;
    *"$pattern"*$'\n') same "$status" "$want" "$* ($said)" ;;
    *) same "$status $(wc -l <"$tmp/stderr") $(grep -c -e "$pattern" "$tmp/stderr")" "$want 1 1" "$* ($said)" ;;
    esac
}

# few VALUE...: sets few to all of them with TEST_ALL=1, else to the first and the last
few() { if [ "${TEST_ALL:-}" ] || [ $# -lt 3 ]; then few=("$@"); else few=("$1" "${@: -1}"); fi; }

# A model that reads and writes bytes: the fixture with a tokenizer whose token i is the byte i, and special tokens in place of bytes that are
# in no UTF-8. speaking DIR TOKEN...: with these more tokens, "ID CONTENT", written with | and _ for DeepSeek's wide bar and gap.
added() { # ID CONTENT SPECIAL
    local content=${2//|/\\uff5c}
    printf '{"id":%d,"content":"%s","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":%s}' "$1" "${content//_/\\u2581}" "$3"
}
speaking() {
    local dir=$1 id
    mkdir "$dir" && ln -s "$PWD/$model/model.safetensors" "$dir/" || return
    sed 's/"bos_token_id": 0/"bos_token_id": 192/; s/"eos_token_id": 1/"eos_token_id": 193/' $model/config.json >"$dir/config.json"
    {
        echo '{"version":"1.0","truncation":null,"padding":null,"normalizer":null,"added_tokens":['
        added 192 '<|begin_of_sentence|>' true && echo , && added 193 '<|end_of_sentence|>' true
        for id in "${@:2}"; do echo , && added "${id%% *}" "${id#* }" false; done
        echo '],"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false},'
        echo '"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"bos","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],'
        echo '"pair":[],"special_tokens":{"bos":{"id":"bos","ids":[192],"tokens":["<\uff5cbegin\u2581of\u2581sentence\uff5c>"]}}},'
        echo '"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},"model":{"type":"BPE","vocab":{'
        awk 'BEGIN { for (i = 0; i < 245; i++) { # GPT-2 spells a byte as itself, or as U+0100 and up
                 if (i == 192 || i == 193) continue
                 code = i > 32 && i < 127 || i > 160 && i != 173 ? i : 256 + n++
                 printf "%s\"\\u%04x\":%d", i ? "," : "", code, i } }'
        echo '},"merges":[]}}'
    } >"$dir/tokenizer.json"
}
text=$tmp/text # without a chat template other than V2's
speaking "$text"

lite=tests/fixtures/checkpoints/deepseek_v2_lite
count() { set -f; set -- $1; set +f; echo $#; } # words

# ---- usage: status 2
refused 2 "unknown option '--nope'" $generate --nope
refused 2 '--model is missing' $generate --tokens 1
refused 2 '--model is missing' $generate
refused 2 'a value is missing' $generate --model
run="$generate --model $model --tokens 1"
few 12x '' ' 3' 0x10 99999999999999999999 -1 1.5 +
for v in "${few[@]}"; do refused 2 '-n:' $run -n "$v"; done
few nan inf -1 1e9 abc '' ' 1'
for v in "${few[@]}"; do refused 2 '--temp:' $run --temp "$v"; done
few -1 x 18446744073709551616 ''
for v in "${few[@]}"; do refused 2 '--seed:' $run --seed "$v"; done
few 0 -2 2147483648 q
for v in "${few[@]}"; do refused 2 '--threads:' $run --threads "$v"; refused 2 '--chunk:' $run --chunk "$v"; done
few '' ' ' '1 x' '1,2' '1 -2' 256 '1 99999999999' 00000000000000000000000000000000000000000000000005
for v in "${few[@]}"; do
    refused 2 '--tokens:' $generate --model $model --tokens "$v"
done
refused 2 "'foo' is none of auto, naive, absorbed" $run --attn foo
refused 2 "'foo' is none of auto, scalar, avx2" $run --isa foo
few '' q5 keep Q8 ' q8'
for v in "${few[@]}"; do refused 2 "--quant: '$v' is none of q8, q4" $run --quant "$v"; done
few '' f64 q4
for v in "${few[@]}"; do refused 2 "--cache: '$v' is none of f32, f16, bf16, q8" $run --cache "$v"; done
refused 2 "--index-cache: 'q4' is none of f32, f16, bf16, q8" $run --index-cache q4
refused 2 '--quant: a value is missing' $run --quant
refused 2 '--quant-class: --quant is missing' $run --quant-class head=q4
refused 2 "--activations: 'f16' is none of" $run --activations f16
refused 2 '--fast and --activations exclude each other' $run --activations auto --fast
refused 2 '--fast: takes no value' $run --fast=bf16
few '' head head,attn=q8 attn=q8, ,attn=q8 attn:q8
for v in "${few[@]}"; do refused 2 'is not CLASS=TYPE' $run --quant q8 --quant-class "$v"; done
few =q8 norm=q8 Head=q8 ' head=q8' attn=q8,x=q4 a_name_that_is_much_longer_than_any=q8
for v in "${few[@]}"; do
    refused 2 '--quant-class: ' $run --quant q8 --quant-class "$v"
done
refused 2 "'norm' is none of attn, kv_b, dense, experts, shared, head, embed" $run --quant q8 --quant-class norm=q8
few head= head=q5 head=default head=q8=q8 'head=q8 '
for v in "${few[@]}"; do refused 2 'is none of keep, q8, q4' $run --quant q8 --quant-class "$v"; done

few nan 1e9 '' -1
for v in "${few[@]}"; do refused 2 '--top-p:' $run --top-p "$v"; refused 2 '--min-p:' $run --min-p "$v"; refused 2 '--repeat-penalty:' $run --repeat-penalty "$v"; done
few 0 1.01
for v in "${few[@]}"; do refused 2 '--top-p:' $run --top-p $v; done
few 0 200
for v in "${few[@]}"; do refused 2 '--repeat-penalty:' $run --repeat-penalty $v; done
refused 2 '--min-p:' $run --min-p 1.01
few -2 x 1.5 ''
for v in "${few[@]}"; do refused 2 '--top-k:' $run --top-k "$v"; done
few -1 x 1.5 ''
for v in "${few[@]}"; do refused 2 '--repeat-last:' $run --repeat-last "$v"; refused 2 '--ctx:' $run --ctx "$v"; done
refused 2 '--repeat-last:' $run --repeat-last 0
refused 2 '--ctx:' $run --ctx 1
few '' x -1 8X 8GG inf 1e30 ' 1'
for v in "${few[@]}"; do refused 2 '--memory:' $run --memory "$v"; done
refused 2 '--stop: the text is empty' $run --stop ''
refused 2 '--prompt: the text is empty' $generate --model $text --prompt ''
few '--prompt x --tokens 1' '--tokens 1 --prompt x' '--prompt x --prompt-file y' '--chat --tokens 1' '--chat --prompt x' \
            '--perplexity x --chat' '--info --tokens 1' '--tokenize --prompt x' '--tokenize --detokenize'
for pair in "${few[@]}"; do
    refused 2 'exclude each other' $generate --model $text $pair
done
few '--tokens 1 --system x' '--tokens 1 --think' '--prompt x --system x' '--chat --json' '--chat --print-tokens' '--chat --logits x' \
            '--tokens 1 --no-echo' '--info -n 5' '--info --temp 1' '--perplexity x --seed 1' '--perplexity x -n 1' '--tokenize --json' \
            '--tokenize --quant q8' '--detokenize --ctx 5' '--info --tokenizer x' '--chat --ignore-eos'
for pair in "${few[@]}"; do
    refused 2 'has no meaning with' $generate --model $text $pair
done
refused 2 'has no meaning without --chat or --tokens' $generate --model $text --system x
refused 2 '--tokenizer or --model is missing' $generate --tokenize

# ---- everything else that goes wrong: status 1
refused 1 'nonexistent' $generate --model "$tmp/nonexistent" --tokens 1
mkdir "$tmp/llama" && echo '{"model_type": "llama"}' >"$tmp/llama/config.json"
refused 1 'model_type "llama"' $generate --model "$tmp/llama" --tokens 1
refused 1 'cannot write' $run --logits "$tmp/nonexistent/x"
refused 1 'q_b_proj.weight": found rows of 48, expected a multiple of 32 for q8 (or keep attn)' $run --quant q8
refused 1 'kv_b_proj.weight": found rows of 48, expected a multiple of 32 for q4' $run --quant q8 --quant-class attn=keep,kv_b=q4
refused 1 'rows of kv_lora_rank + qk_rope_head_dim = 152' $generate --model ${model}_fp8 --tokens 1 --cache q8
# what it reads is not written over, by whatever name
mkdir "$tmp/mapped" && cp $model/*.json $model/model.safetensors "$tmp/mapped/" && ln -s mapped/model.safetensors "$tmp/other_name"
for file in mapped/model.safetensors mapped/config.json other_name; do
    refused 1 "cannot write $tmp/$file: it is a file of the model" $generate --model "$tmp/mapped" --tokens 1 --logits "$tmp/$file"
done
(cd "$tmp/mapped" && "$OLDPWD/$generate" --model . --tokens 1 -n 0 --logits logits --quiet >/dev/null && "$OLDPWD/$generate" --model . \
    --tokens 1 -n 0 --logits logits --quiet) >/dev/null
same "$? $(stat -c %s "$tmp/mapped/logits") $(cmp $model/model.safetensors "$tmp/mapped/model.safetensors" && echo equal)" '0 1024 equal' 'others are'
if [ -w /dev/full ]; then
    refused 1 '/dev/full' $run --logits /dev/full -n 0
    refused 1 'cannot write /dev/full: No space' $generate --model $model --tokens "$prompt" --logits /dev/full -n 0
    refused 1 'cannot write to stdout' bash -c "$run >/dev/full"
    refused 1 'cannot write to stdout' bash -c "$run --print-tokens >/dev/full"
fi
refused 1 'stdout is closed' bash -c "$run >&-"
$run --logits "$tmp/l" >/dev/null 2>&- <&-
same "$? $(stat -c %s "$tmp/l")" "0 1024" 'stdin and stderr closed'

# ---- what it prints
help=$($generate --help)
same "$(($(wc -l <<<"$help") <= 40))" 1 '--help fits a screen'
same "$(awk 'length > 80' <<<"$help" | wc -l)" 0 '--help: long lines'
same "$(grep -c '^  generate --model' <<<"$help")" 3 '--help: three examples'
same "$(grep -c '^Exit status: 0 done, 1 failed, 2 wrong command line, 130 interrupted.$' <<<"$help")" 1 '--help: the exit status'
same "$($generate -h)" "$help" '-h'
for option in $(sed -n 's/^    X([A-Z_0-9]*, "\(-. \)\{0,1\}\(-[a-z-]*\)".*/\2/p' examples/generate.c); do
    case $help in *"$option"*) named=1 ;; *) named=0 ;; esac
    want=1 && [ "$option" = --help ] && want=0
    same $named $want "--help names $option"
done
same "$($generate --version)" "generate $(sed -n 's/^#define MLA_VERSION *"\(.*\)"/\1/p' mla.h)" --version
sampled="$generate --model $model --temp 1 --seed"
a=$($sampled 7 --tokens "1 2 3" --threads 1 --print-tokens 2>/dev/null)
same "$($sampled 7 --tokens "1 2 3" --threads 3 --print-tokens 2>/dev/null)" "$a" 'the same seed on 3 threads'
same "$($sampled 7 --tokens "1 2 3" 2>/dev/null)" "$a" 'tokens as they come'
if [ "$($sampled 8 --tokens "1 2 3" --print-tokens 2>/dev/null)" = "$a" ]; then same equal different 'another seed'; fi
same "$($generate --model $model --tokens "$prompt" -n 0 --print-tokens 2>/dev/null)" "" '-n 0'
closing=$($generate --model $model --tokens "$prompt" 2>&1 >/dev/null)
for report in prompt generation memory tokens/s GB/s; do
    case $closing in *$report*) same there there ;; *) same '' there "$report in the closing lines" ;; esac
done
for attn in auto naive absorbed; do
    for isa in auto scalar; do
        few 7 1 512
        for chunk in "${few[@]}"; do
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
for q in "--model $lite --quant q8" "--model $lite --quant q4" "--model $lite --quant q4 --quant-class head=q8,experts=q8,embed=q4" \
         "--model $model --quant q8 --quant-class attn=keep" "--model ${model}_fp8 --quant q4 --quant-class attn=keep,experts=keep,shared=keep"; do
    for exact in auto f32; do
        run="$generate $q --activations $exact --tokens 1\ 2\ 3 --ignore-eos"
        one=$(eval "$run --threads 1 --logits $tmp/one" 2>"$tmp/stderr")
        same "$? $(count "$one")" "0 16" "$q $exact"
        same "$(grep -c '^converted .* MB of weights to q[84] in ' "$tmp/stderr")" 1 "$q $exact: the closing lines"
        same "$(tr -d '\n' <"$tmp/stderr" | grep -c "$(printf '\r')")" 0 "$q $exact: progress without a terminal"
        same "$(eval "$run --threads 5 --logits $tmp/five" 2>/dev/null)" "$one" "$q $exact: 5 threads"
        same "$(cmp "$tmp/one" "$tmp/five" && echo equal)" equal "$q $exact: logits on 5 threads"
        mv "$tmp/one" "$tmp/logits.$exact"
    done
    same "$(cmp -s "$tmp/logits.f32" "$tmp/logits.auto" || echo differ)" differ "$q: --activations f32 makes a difference"
done
for q in auto e4m3; do
    same "$($generate --model ${model}_fp8 --activations $q --tokens "$prompt" -n 0 --logits "$tmp/fp8.$q" 2>&1 | grep -c generate:)" 0 "fp8 $q"
done
same "$(cmp -s "$tmp/fp8.auto" "$tmp/fp8.e4m3" || echo differ)" differ '--activations e4m3 makes a difference'
# --fast is bf16 where there are instructions for it, and else what goes without; whether bf16 is no less exact than int8, test_quantize asks.
for isa in auto scalar vnni bf16 amx; do
    run="$generate --model $lite --isa $isa -n 0 --threads 2 --logits"
    $run "$tmp/fast.as" --activations bf16 --tokens "$prompt" 2>"$tmp/stderr" >&2 || $run "$tmp/fast.as" --tokens "$prompt" 2>"$tmp/stderr" >&2 || continue
    same "$($run "$tmp/fast" --fast --tokens "$prompt" 2>&1 | grep -c generate:) $(cmp "$tmp/fast" "$tmp/fast.as" && echo equal)" "0 equal" "--fast --isa $isa"
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
    script -qec "$generate --model $lite --tokens 1 --quant q8 -n 1 --quiet" /dev/null </dev/null >"$tmp/terminal"
    same "$? $(grep -c 'converting' "$tmp/terminal")" "0 0" 'no progress with --quiet'
    script -qec "$generate --model $model --tokens '$prompt' -n 0 --chunk 1 --logits $tmp/l" /dev/null </dev/null >"$tmp/terminal"
    same "$? $(grep -c 'prompt .* % of 48 tokens' "$tmp/terminal")" "0 1" 'progress of a prompt'
    script -qec "$generate --model $text --perplexity $0 --ctx 16" /dev/null </dev/null >"$tmp/terminal"
    same "$? $(grep -c 'perplexity .* % of [0-9]* tokens' "$tmp/terminal")" "0 1" 'progress of a perplexity'
    script -qec "$generate --model $model" /dev/null </dev/null >"$tmp/terminal"
    same "$? $(grep -c 'what to do?' "$tmp/terminal")" "2 1" 'no prompt on a terminal'
    script -qec "$generate --model $text --chat -n 3" /dev/null < <(printf 'hi\n'; sleep 0.5; printf '\004'; sleep 0.5) >"$tmp/terminal"
    same "$? $(tr '\r' '\n' <"$tmp/terminal" | grep -c '^> ')" "0 4" 'chat on a terminal: two prompts, a line, and it again'
fi

# ---- errors of texts, of the context, of memory: status 1
say="$generate --model $text"
refused 1 'nothing in standard input' $say
refused 1 'nothing in standard input' $say --prompt-file -
refused 1 "cannot read $tmp/none: No such file" $say --prompt-file "$tmp/none"
refused 1 "cannot read $tmp: Is a directory" $say --prompt-file "$tmp"
echo >"$tmp/empty"
refused 1 "nothing in $tmp/empty" $say --prompt-file "$tmp/empty"
refused 1 'a directory without tokenizer.json or tiktoken.model' $generate --model $model --prompt x
refused 1 'a directory without tokenizer.json or tiktoken.model' $generate --model $model --tokens 1 --stop x
refused 1 'cannot be read: no such file' $generate --model $model --prompt x --tokenizer "$tmp/none"
refused 1 'cannot be read: no such file' $generate --tokenize --tokenizer "$tmp/none"
sed 's/"id":193,"content":"[^"]*"/"id":193,"content":"<eos>"/' $text/tokenizer.json >"$tmp/eos.json"
refused 1 'no token <.*end.*of.*sentence.*>: no chat template' $generate --model $model --chat --tokenizer "$tmp/eos.json"
refused 1 "the model's tokenizer has no <think>" $say --chat --think
refused 1 'the prompt has 9 tokens, and the context has room for 8' $say --prompt 12345678 --ctx 8
refused 1 'the prompt has 9 tokens, and the context has room for 9' $say --prompt 12345678 --ctx 9
refused 1 'the prompt has 301 tokens, and the model was made for 256; --ctx 302' $say --prompt "$(printf '%300d' 1)"
refused 1 'the prompt has 300 tokens' $generate --model $model --tokens "$(printf ' 1%.0s' {1..300})"
refused 2 '--tokens: 300 is not in 0..255' $say --tokens 300
sed 's/"id":193,"content":"[^"]*"/"id":300,"content":"<big>"/' $text/tokenizer.json >"$tmp/big.json"
mkfifo "$tmp/pipe.gguf" && refused 1 'pipe.gguf: cannot be read: not a regular file' $generate --model "$tmp/pipe.gguf" --prompt a
mkfifo "$tmp/pipe.json" && refused 1 'pipe.json: cannot be read: not a regular file' $generate --model $model --chat --tokenizer "$tmp/pipe.json"
refused 1 "token 300 is not in 0..255, the model's vocabulary: they do not belong together" $generate --model $model --prompt 'a<big>' \
    --tokenizer "$tmp/big.json" --quiet
$generate --model $model --prompt a -n 1 --tokenizer "$tmp/big.json" >"$tmp/out" 2>"$tmp/stderr"
same "$? $(grep -c '^note: the tokenizer has 301 tokens and the model 256: ' "$tmp/stderr")" '0 1' 'a tokenizer with more tokens than the model'
refused 1 'of memory (weights 0.90 MB, mapped, context .*, cache .*, logits .*), and 1000 bytes are free: try --quant' $say --prompt x --memory 1k
refused 1 'and 3.00 MB are free' $say --prompt x --memory 3M --ctx 100000
refused 1 'weights .* MB, converted, mapped' $generate --model $lite --tokens 1 --memory 0 --quant q8
for mode in '--tokens 1' '--prompt x' --chat "--perplexity $text/config.json"; do
    refused 1 'and 0 bytes are free' $say $mode --memory 0
    same "$($say $mode --memory 0 --force 2>/dev/null >/dev/null; echo $?)" 0 "$mode --force"
done
same "$($say --tokens 1 --memory 4M --threads 2 --quiet 2>&1 >/dev/null)" '' 'enough memory, --quiet'
for bad in '"top_p": 0' '"top_p": "x"' '"temperature": -1' '"top_k": 1.5' '"repetition_penalty": 0'; do
    echo "{\"do_sample\": true, $bad}" >$text/generation_config.json
    key=${bad#\"}
    refused 1 "generation_config.json: ${key%%\"*} is not in" $say --prompt x
done
rm $text/generation_config.json

# ---- texts: echo, files, standard input, begin of sentence
continuation=$($say --prompt 'Hello' -n 20 --no-echo 2>/dev/null; echo .)
same "$($say --prompt 'Hello' -n 20 2>/dev/null; echo .)" "Hello$continuation" 'the prompt stands before its continuation'
same "$($say --tokens "192 72 101 108 108 111" -n 20 2>/dev/null; echo .)" "$continuation" 'a begin of sentence is added'
printf 'Hello\n' >"$tmp/hello"
for stdin in Hello 'Hello\n' 'Hello\r\n'; do
    same "$(printf "$stdin" | $say -n 20 2>/dev/null; echo .)" "Hello$continuation" 'standard input'
    same "$(printf "$stdin" | $say --prompt-file - -n 20 2>/dev/null; echo .)" "Hello$continuation" '--prompt-file -'
done
same "$($say --prompt-file "$tmp/hello" -n 20 2>/dev/null; echo .)" "Hello$continuation" '--prompt-file'
same "$(printf 'Hello\n\n' | $say -n 0 2>/dev/null | wc -c)" 7 'only the last newline goes'
same "$($generate --model $model --tokenizer $text/tokenizer.json --prompt Hello -n 20 --no-echo 2>/dev/null; echo .)" "$continuation" --tokenizer
plain=$tmp/plain # its tokenizer adds nothing
mkdir "$plain" && ln -s $text/config.json $text/model.safetensors "$plain/" && sed 's/{"SpecialToken":{"id":"bos","type_id":0}},{"Seq/{"Seq/' $text/tokenizer.json >"$plain/tokenizer.json"
same "$($generate --model "$plain" --prompt Hello -n 20 --no-echo 2>/dev/null; echo .)" "$($say --tokens '72 101 108 108 111' -n 20 2>/dev/null; echo .)" 'no begin of sentence'
echo '{"add_bos_token": true}' >"$plain/tokenizer_config.json"
same "$($generate --model "$plain" --prompt Hello -n 20 --no-echo 2>/dev/null; echo .)" "$continuation" 'add_bos_token'
same "$($generate --model $model --tokenizer "$plain/tokenizer.json" --prompt Hello -n 0 2>&1 >/dev/null | grep -c '^prompt *6 tokens')" 1 'add_bos_token beside --tokenizer, but of the model'"'"'s id'
ids=$($say --prompt Hello -n 20 --print-tokens 2>/dev/null)
same "$(count "$ids")" 20 '--prompt with --print-tokens'
same "$($say --prompt Hello -n 300 2>&1 >/dev/null | grep -c 'note: 306 tokens, the model was made for 256')" 1 'a note on too many tokens'
same "$(count "$($say --prompt Hello -n 300 --ctx 16 --ignore-eos --print-tokens 2>/dev/null)")" 10 '--ctx ends the answer'
same "$(count "$($say --prompt Hello --ignore-eos --print-tokens 2>/dev/null)")" 250 'as many tokens as the model was made for'

# ---- whole characters: each write holds some
if iconv -f UTF-8 -t UTF-8 <"$0" >/dev/null 2>&1; then
    few {1..10}
    for seed in "${few[@]}"; do
        $say --prompt $'\xc3' -n 60 --temp 2 --seed $seed 2>/dev/null >"$tmp/utf8"
        same "$(iconv -f UTF-8 -t UTF-8 <"$tmp/utf8" >/dev/null && echo valid)" valid "characters of seed $seed"
    done
fi

# ---- stop strings: a piece of what is generated, at every place and of several lengths
$say --prompt x -n 60 --ignore-eos --no-echo --temp 1 --seed 5 2>/dev/null >"$tmp/whole"
printable=$(LC_ALL=C grep -ao '[!-~]\{2,\}' "$tmp/whole" | awk '{ print length, $0 }' | sort -rn | head -n 1 | cut -d' ' -f2-)
for stop in "$printable" "${printable:1}" "${printable:0:1}" "${printable:0:2}"; do
    $say --prompt x -n 60 --ignore-eos --no-echo --temp 1 --seed 5 --stop "never this" --stop "$stop" 2>/dev/null >"$tmp/stopped"
    at=$(LC_ALL=C grep -abo -F -e "$stop" "$tmp/whole" | head -n 1 | cut -d: -f1)
    { head -c "$at" "$tmp/whole" && echo; } >"$tmp/want"
    same "$(cmp "$tmp/stopped" "$tmp/want" && echo equal)" equal "--stop '$stop'"
    same "$($say --prompt x -n 60 --ignore-eos --temp 1 --seed 5 --stop "$stop" --json --quiet | grep -c '"stop":"string"')" 1 "--stop '$stop' --json"
done
same "$($say --prompt x -n 60 --ignore-eos --no-echo --temp 1 --seed 5 --stop "never this" 2>/dev/null | cmp - "$tmp/whole" && echo equal)" equal 'a stop string that is not there'

# ---- sampling
draw="$generate --model $model --tokens 1 --ignore-eos --print-tokens --quiet -n 40"
greedy=$($draw)
same "$($draw --temp 3 --top-k 1)" "$greedy" '--top-k 1'
same "$($draw --temp 3 --top-p 1e-9)" "$greedy" 'the least --top-p'
same "$($draw --temp 3 --min-p 1)" "$greedy" '--min-p 1'
free=$($draw --temp 1 --seed 3)
same "$($draw --temp 1 --seed 3 --top-k 0 --top-p 1 --min-p 0 --repeat-penalty 1)" "$free" 'filters that let all pass'
for filter in '--top-k 3' '--top-p 0.3' '--min-p 0.5' '--repeat-penalty 20'; do
    got=$($draw --temp 1 --seed 3 $filter)
    same "$(count "$got") $([ "$got" = "$free" ] || echo differs)" "40 differs" "$filter"
    same "$($draw --temp 1 --seed 3 $filter --threads 2)" "$got" "$filter on 2 threads"
done
distinct() { tr ' ' '\n' <<<"$1" | sort -u | wc -l; }
same "$(distinct "$($draw --repeat-penalty 100)")" 40 '--repeat-penalty: no token twice'
same "$(($(distinct "$($draw --repeat-penalty 100 --repeat-last 1)") < 40))" 1 '--repeat-last 1: not twice in a row'
hot_of() { $say --prompt x -n 30 --ignore-eos --print-tokens --quiet --temp 0.8 --top-p 0.9 --top-k "$1" --min-p 0.01 --repeat-penalty 1.3 --seed 0; }
hot=$(hot_of 20) all=$(hot_of 0)
echo '{"do_sample": true, "temperature": 0.8, "top_p": 0.9, "top_k": 20, "min_p": 0.01, "repetition_penalty": 1.3, "eos_token_id": 193}' >$text/generation_config.json
same "$($say --prompt x -n 30 --ignore-eos --print-tokens --quiet --seed 0)" "$hot" 'generation_config.json'
sed -i 's/"top_k": 20/"top_k": -1/' $text/generation_config.json
same "$($say --prompt x -n 30 --ignore-eos --print-tokens --quiet --seed 0)" "$all" 'generation_config.json: top_k -1 is all'
cold=$($say --prompt x -n 30 --ignore-eos --print-tokens --quiet --temp 0 --repeat-penalty 1)
same "$($say --tokens '192 120' -n 30 --ignore-eos --print-tokens --quiet)" "$cold" 'generation_config.json is for texts'
sed -i 's/true/false/' $text/generation_config.json
same "$($say --prompt x -n 30 --ignore-eos --print-tokens --quiet)" "$cold" 'generation_config.json without do_sample'
rm $text/generation_config.json

# ---- what goes where: --json, --quiet
# keys JSON: its keys in order, if the line looks like JSON of one level
keys() { grep -E '^\{("[a-z_]+":("([^"\\]|\\.)*"|-?[0-9.e+-]+|\[[0-9,]*\])(,|\}$))+$' <<<"$1" | grep -o '"[a-z_]*":' | tr -d '":' | tr '\n' ' '; }
shared='prompt_tokens prompt_seconds generated_tokens generation_seconds tokens_per_s stop'
run_keys='seed isa threads weights_bytes cache_bytes context_bytes '
got=$($say --prompt 'Say "\"' -n 30 --ignore-eos --json --temp 1 --seed 18446744073709551615 2>"$tmp/stderr")
same "$(wc -l <<<"$got") $(keys "$got")" "1 $shared text $run_keys" "--json: $got"
same "$(grep -c '"prompt_tokens":8,.*"generated_tokens":30,.*"stop":"length",.*"seed":18446744073709551615,' <<<"$got")" 1 "--json: $got"
same "$(grep -c 'tokens/s' "$tmp/stderr")" 2 '--json: the closing lines are still there'
got=$($generate --model $model --tokens "$prompt" --ignore-eos --json --quiet 2>&1)
same "$(keys "$got")" "$shared tokens $run_keys" "--json: $got"
same "$(sed 's/.*"tokens":\[\([0-9,]*\)\].*/\1/; s/,/ /g' <<<"$got")" "$expected" '--json: tokens'
same "$(keys "$($say --prompt x -n 3 --json --print-tokens --quiet)")" "$shared tokens $run_keys" '--json --print-tokens'
same "$(keys "$($say --prompt x -n 0 --json --quiet)")" "$shared text $run_keys" '--json -n 0'
first=$($say --tokens 1 -n 1 --print-tokens --quiet)
sed "s/\"eos_token_id\": 193/\"eos_token_id\": $first/" $text/config.json >"$tmp/config" && mkdir "$tmp/ends" && mv "$tmp/config" "$tmp/ends/config.json"
ln -s $text/model.safetensors $text/tokenizer.json "$tmp/ends/"
same "$($generate --model "$tmp/ends" --tokens 1 --json --quiet | grep -c '"generated_tokens":1,.*"stop":"eos","text":""')" 1 'the end of a sequence is no text'
same "$($generate --model "$tmp/ends" --tokens 1 --print-tokens --quiet)" "$first" 'but a token'
same "$($say --prompt x -n 3 --quiet 2>&1 >/dev/null)" '' --quiet
refused 1 'cannot be read' $say --prompt x --quiet --tokenizer "$tmp/none"

# ---- a key that is spelt wrongly
mkdir "$tmp/misspelt" && ln -s "$PWD/$model/model.safetensors" "$tmp/misspelt/"
sed 's/"rope_scaling"/"zope_scaling"/; s/"attention_bias"/"other": 1, "attention_bias"/' $model/config.json >"$tmp/misspelt/config.json"
same "$($generate --model "$tmp/misspelt" --tokens 1 -n 1 2>&1 >/dev/null | grep -c 'note: config.json has keys that mean nothing: zope_scaling, is it rope_scaling?$')" \
    1 'a misspelt key has a note'
same "$($generate --model "$tmp/misspelt" --info 2>/dev/null | grep -c '^config  *keys that are not known: other$')" 1 '--info: unknown keys'

# ---- --info: nothing is run; the numbers are those of the model
$say --info >"$tmp/info" 2>"$tmp/stderr"
same "$? $(cat "$tmp/stderr")" "0 " --info
for pattern in 'layers *4: 1 dense, 3 with experts' 'experts *12 routed, 4 of them for a token, 1 shared' '1024 bytes a token in f32; .* take 5120 bytes, 5.0 times' \
               'parameters *447716, of which a token takes 283940' 'weights *0.90 MB' 'memory .* for 256 tokens'; do
    same "$(grep -c "$pattern" "$tmp/info")" 1 "--info: $pattern"
done
same "$($generate --model tests/fixtures/checkpoints/kimi_linear --info | sed -n 's/^parameters *\([0-9]*\),.*/\1/p')" 416876 '--info: layers of KDA'
# a language model within one that sees: what is of others is left alone, and said
mkdir "$tmp/nested" && ln -s "$PWD/$model/model.safetensors" "$tmp/nested/"
{ echo '{"model_type":"kimi_vl","text_config":' && cat $model/config.json && echo '}'; } >"$tmp/nested/config.json"
same "$($generate --model "$tmp/nested" --info | grep -c 'other ')" 0 '--info, nested alone'
n=$(($(od -An -tu8 -N8 $model/model.safetensors)))
size=$(($(stat -c %s $model/model.safetensors) - 8 - n))
header=$(head -c $((8 + n)) $model/model.safetensors | tail -c $n)
header="${header%\}*},\"vision_tower.x\":{\"dtype\":\"F32\",\"shape\":[500],\"data_offsets\":[$size,$((size + 2000))]}}"
printf -v length '\\x%02x\\x%02x\\x%02x\\0\\0\\0\\0\\0' $((${#header} & 255)) $((${#header} >> 8 & 255)) $((${#header} >> 16))
{ printf "$length" && printf %s "$header" && tail -c $size $model/model.safetensors && head -c 2000 /dev/zero; } >"$tmp/nested/with"
mv "$tmp/nested/with" "$tmp/nested/model.safetensors"
same "$($generate --model "$tmp/nested" --info | grep -c 'other *1 tensors of other parts, such as vision, are left alone: 2000 bytes')" 1 '--info, nested'
glm=tests/fixtures/checkpoints/glm_moe_dsa
$generate --model $glm --info >"$tmp/info"
for pattern in '3 of 4 layers have an indexer of 16 heads of 32, which chooses 8 keys' '1408 bytes a token in f32 (384 bytes of it index keys in f32)'; do
    same "$(grep -c "$pattern" "$tmp/info")" 1 "--info: $pattern"
done
got=$($generate --model $glm --info --json --index-cache q8 --ctx 64)
more=$($generate --model $glm --info --json --ctx 64)
same "$(grep -c '"index_cache_dtype":"q8","index_cache_bytes_per_token":102,' <<<"$got")" 1 "--info --json: $got"
same "$(($(sed 's/.*"cache_bytes":\([0-9]*\).*/\1/' <<<"$more") - $(sed 's/.*"cache_bytes":\([0-9]*\).*/\1/' <<<"$got")))" $((64 * (384 - 102))) '--index-cache q8 saves memory'
got=$($say --info --json --cache bf16 --ctx 1000)
same "$(keys "$got" | wc -w) $(grep -c '"cache_bytes_per_token":512,"plain_cache_bytes_per_token":2560,"ctx":1000,' <<<"$got")" "31 1" "--info --json: $got"
got=$($generate --model $lite --info --json --quant q8)
field() { sed "s/.*\"$1\":\([0-9]*\).*/\1/" <<<"$2"; }
used=$($generate --model $lite --tokens 1 --quant q8 --json --quiet)
same "$(($(field mapped_bytes "$got") + $(field converted_bytes "$got")))" "$(field weights_bytes "$used")" '--info --quant: bytes of the converted model'

# ---- --perplexity, against the logits of each window
surprise() { # IDS FROM: -ln of the probabilities of all but the first FROM
    $generate --model $model --tokens "$1" -n 0 --logits "$tmp/l" --quiet >/dev/null
    od -An -v -tf4 -w1024 "$tmp/l" | awk -v ids="$1" -v from="$2" 'BEGIN { split(ids, id, " ") } # the logits of a token on each line
        NR >= from && (NR + 1) in id { top = $1; for (i = 2; i <= 256; i++) if ($i > top) top = $i
                     sum = 0; for (i = 1; i <= 256; i++) sum += exp($i - top)
                     nll += log(sum) + top - $(id[NR + 1] + 1) }
        END { printf "%.4f\n", nll }'
}
printf 'It was a dark and stormy night; the r' >"$tmp/night"
mapfile -t night < <($say --tokenize <"$tmp/night" | tr ' ' '\n')
same "${#night[@]}" 37 'ids of the text'
near() { awk -v a="$1" -v b="$2" 'BEGIN { d = a - b; print (d < 0.01 && d > -0.01 ? "near" : a " and " b) }'; }
got=$($say --perplexity "$tmp/night" --json --quiet)
same "$(keys "$got")" 'perplexity nll tokens bytes nats_per_byte ' "--perplexity --json: $got"
same "$(grep -c '"tokens":37,"bytes":37,' <<<"$got")" 1 "--perplexity --json: $got"
nll() { sed 's/.*"nll":\([0-9.]*\).*/\1/' <<<"$1"; }
same "$(near "$(nll "$got")" "$(surprise "192 ${night[*]}" 1)")" near 'in one window'
for chunk in 1 5; do same "$(near "$(nll "$($say --perplexity "$tmp/night" --json --quiet --chunk $chunk)")" "$(nll "$got")")" near "--chunk $chunk"; done
# 16 tokens and the begin of sentence: 0..15, 8..23, 16..31, 24..36
sum=$({ surprise "192 ${night[*]:0:16}" 1; surprise "192 ${night[*]:8:16}" 9; surprise "192 ${night[*]:16:16}" 9; surprise "192 ${night[*]:24:13}" 9; } | awk '{ s += $1 } END { print s }')
same "$(near "$(nll "$($say --perplexity "$tmp/night" --json --quiet --ctx 17 --chunk 6)")" "$sum")" near 'in windows of 17'
# without a begin of sentence the first token is not scored
rm "$plain/tokenizer_config.json"
got=$($generate --model "$plain" --perplexity "$tmp/night" --json --quiet)
same "$(near "$(nll "$got")" "$(surprise "${night[*]}" 1)") $(grep -c '"tokens":36,"bytes":36,' <<<"$got")" 'near 1' 'no begin of sentence'
same "$($say --perplexity "$tmp/night" 2>/dev/null | grep -c '^perplexity  [1-9][0-9]*\.[0-9]*$')" 1 'perplexity for people'
same "$($say --perplexity - --json --quiet <"$tmp/night" | grep -c '"tokens":37,')" 1 '--perplexity -'
refused 1 'is too short' $say --perplexity /dev/null
refused 1 'is too short' $generate --model "$plain" --perplexity <(printf x)
refused 1 'cannot read' $say --perplexity "$tmp/none"
refused 2 '--ctx: a window of 2 tokens' $say --perplexity "$tmp/night" --ctx 2

# ---- --tokenize and --detokenize
printf 'a b\0\0Gr\xc3\xbc\xc3\x9fe\n<|x|>\0last' >"$tmp/texts"
same "$($say --tokenize <"$tmp/texts" | head -n 3 | tr '\n' ,)" '97 32 98,,71 114 195 188 195 159 101 10 60 124 120 124 62,' --tokenize
{ cat "$tmp/texts" && printf '\0'; } >"$tmp/ended"
same "$($say --tokenize <"$tmp/texts" | $generate --tokenizer $text/tokenizer.json --detokenize | cmp - "$tmp/ended" && echo equal)" equal 'there and back'
same "$($say --tokenize </dev/null | wc -c) $($say --detokenize </dev/null | wc -c)" '0 0' 'nothing there, nothing back'
for bad in 1,2 x '1 250' 99999999999 99999999999999999999 -1 '7 1x'; do refused 1 'line 2: ' bash -c "printf '1 2\n%s\n' '$bad' | $say --detokenize"; done
refused 1 "line 1: '1' is not an integer" bash -c "printf '1\\0 2\n' | $say --detokenize"
for back in '' de; do refused 1 'cannot read standard input: Is a directory' bash -c "$say --${back}tokenize <'$tmp'"; done
# a tokenizer that puts a space before a text, which only the first of its tokens loses again
echo '{"decoder":{"type":"Metaspace","replacement":"\u2581","prepend_scheme":"first"},"model":{"type":"BPE","vocab":{"\u2581a":0,"b":1,"\u2581":2},"merges":[]}}' >"$tmp/spaced.json"
same "$(printf '0 1 0\n1 0\n\n2\n0' | $generate --tokenizer "$tmp/spaced.json" --detokenize | tr '\0' .)" 'ab a.b a...a.' 'the space before a text'
# a tokenizer whose steps make a million letters of one
many=$(printf 'l%.0s' {1..8000}) && replace='{"type":"Replace","pattern":{"String":"l"},"content":"'$many'"}'
sed 's/"normalizer":null/"normalizer":{"type":"Sequence","normalizers":['"$replace,$replace"']}/' $text/tokenizer.json >"$tmp/grows.json"
grows="the tokenizer: its normalizer or pre-tokenizer makes too much of a text of 2 bytes, more than 64 times that"
printf ll >"$tmp/ll"
refused 1 "$grows" $generate --model $model --tokenizer "$tmp/grows.json" --prompt ll
refused 1 "$grows" $generate --model $model --tokenizer "$tmp/grows.json" --perplexity "$tmp/ll"
refused 1 "$grows" bash -c "$generate --tokenizer '$tmp/grows.json' --tokenize <'$tmp/ll'"
refused 1 "${grows/2 bytes/20 bytes}" bash -c "$generate --model $model --tokenizer '$tmp/grows.json' --chat --quiet <'$tmp/ll'"
truncate -s 257M "$tmp/much" && refused 1 "$tmp/much: more than 256 MB of text" $say --perplexity "$tmp/much" && rm "$tmp/much"

# ---- --chat: what it answers is what the same tokens give, and only new ones are run
modern=$tmp/modern thoughtful=$tmp/thoughtful
speaking "$modern" '245 <|User|>' '246 <|Assistant|>'
speaking "$thoughtful" '245 <|User|>' '246 <|Assistant|>' '247 <think>' '248 </think>' '249 <|search_begin|>'
bytes_of() { printf %s "$1" | od -An -v -tu1 | tr -s ' \n' ' '; }
answer() { # MODEL IDS [N]: text, and in $made the ids
    made=$($generate --model "$1" --tokens "$2" -n "${3:-12}" --print-tokens --quiet)
    $generate --model "$1" --tokens "$2" -n "${3:-12}" --quiet
}
for who in "$text" "$modern"; do
    if [ "$who" = "$text" ]; then a="192 $(bytes_of $'Be nice.\n\nUser: hi there\n\nAssistant:')" b=" 193 $(bytes_of $'User: and?\n\nAssistant:')"
    else a="192 $(bytes_of 'Be nice.') 245 $(bytes_of 'hi there') 246" b=" 193 245 $(bytes_of 'and?') 246"; fi
    answer "$who" "$a" >"$tmp/want"
    answer "$who" "$a $made $b" >>"$tmp/want"
    printf 'hi there\n\nand?\r\n' | $generate --model "$who" --chat --system 'Be nice.' -n 12 >"$tmp/got" 2>"$tmp/stderr"
    same "$? $(cmp "$tmp/got" "$tmp/want" && echo equal)" '0 equal' "--chat of $who"
    new=$(($(count "$a") + $(count "$b") + 1)) # the answer's last token had not been run
    same "$(grep -c "^prompt *$new tokens" "$tmp/stderr")" 1 "--chat: $new new tokens ($(grep ^prompt "$tmp/stderr"))"
done
same "$(printf 'hi\n' | $generate --model "$thoughtful" --chat -n 9 --quiet; echo .)" \
     "$($generate --model "$thoughtful" --tokens "192 245 104 105 246 248" -n 9 --quiet; echo .)" '--chat of V3.1'
same "$(printf 'hi\n' | $generate --model "$thoughtful" --chat --think -n 9 --quiet; echo .)" \
     "<think>$($generate --model "$thoughtful" --tokens "192 245 104 105 246 247" -n 9 --quiet; echo .)" '--chat --think'
# thoughts (here all of the answer) are not kept: the cache is cut back to behind <|Assistant|>
{ printf '<think>' && answer "$thoughtful" '192 245 104 105 246 247' && printf '<think>' &&
    answer "$thoughtful" "192 245 104 105 246 248 193 245 $(bytes_of 'and?') 246 247"; } >"$tmp/want"
printf 'hi\nand?\n' | $generate --model "$thoughtful" --chat --think -n 12 >"$tmp/got" 2>"$tmp/stderr"
same "$? $(cmp "$tmp/got" "$tmp/want" && echo equal) $(grep -c '^prompt *15 tokens' "$tmp/stderr")" '0 equal 1' "--chat --think of two turns ($(grep ^prompt "$tmp/stderr"))"
same "$(printf 'hi\n' | $generate --model "$thoughtful" --chat -n 1 --ctx 300 2>&1 >/dev/null | grep -c 'note: room for 300 tokens, the model was made for 256')" 1 \
     '--chat --ctx: a note on more than the model was made for'
same "$(printf '<\xef\xbd\x9cUser\xef\xbd\x9c>\n' | $generate --model "$modern" --chat -n 1 2>&1 >/dev/null | grep -c '^prompt *15 tokens')" 1 'typed special tokens are text'
printf 'hello there\nmore\n' | $generate --model "$modern" --chat --ctx 13 >"$tmp/got" 2>"$tmp/stderr"
same "$? $(wc -c <"$tmp/got") $(grep -c 'question takes the conversation to 14 tokens, and the context has room for 13: --ctx makes it larger' "$tmp/stderr")" \
    '1 0 1' 'a question larger than the context'
printf 'hello there\nmore\nand\n' | $generate --model "$modern" --chat --ctx 34 --system 'Hi' >"$tmp/got" 2>"$tmp/stderr"
same "$? $(grep -c '^(the context of 34 tokens is full: the answer ends here)$' "$tmp/stderr") $(grep -c '^(the context of 34 tokens is full: the oldest 1 turn is dropped)$' "$tmp/stderr")" \
    '0 3 2' 'answers that fill the context'
{ answer "$modern" "192 72 105 245 $(bytes_of 'hello there') 246" 18 && answer "$modern" "192 72 105 245 $(bytes_of more) 246" 25 &&
    answer "$modern" "192 72 105 245 $(bytes_of and) 246" 26; } >"$tmp/want"
same "$(cmp "$tmp/got" "$tmp/want" && echo equal)" equal 'what is left without the oldest turns'
same "$($generate --model "$modern" --chat --quiet </dev/null; echo "$?.")" 0. 'a chat of nothing'

# ---- the model's own template: DeepSeek-V3's in Jinja does what the built-in one does
template='{{ bos_token }}{% for m in messages %}{% if m.role == "system" %}{{ m.content }}{% elif m.role == "user" %}{{ "<|User|>" + m.content + "<|Assistant|>" }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}{% if tools %}<|User|>{{ tools[0].name }}{% endif %}{% if enable_thinking %}<think>{{ "\n" }}{% endif %}'
template=${template//|/$(printf '\xef\xbd\x9c')}
own=$tmp/own
mkdir "$own" && ln -s "$thoughtful"/* "$own/"
printf '%s' "$template" >"$tmp/own.jinja"
# shellcheck disable=SC2016
node_free_json() { sed 's/\\/\\\\/g; s/"/\\"/g' "$1"; } # of one line
printf '{"bos_token": {"content": "%s"}, "eos_token": "%s", "chat_template": "%s"}' \
    "$($generate --model "$thoughtful" --detokenize <<<192 | tr -d '\0')" "$($generate --model "$thoughtful" --detokenize <<<193 | tr -d '\0')" \
    "$(node_free_json "$tmp/own.jinja")" >"$own/tokenizer_config.json"
talk() { printf 'Tell me of the Rat\nAnd the Toad?\r\n' | $generate --model examples/tales --chat --system 'Be nice.' -n 24 --temp 0 "$@"; }
talk --quiet >"$tmp/want"
talk --template "$tmp/own.jinja" >"$tmp/got" 2>"$tmp/stderr"
same "$? $(cmp "$tmp/got" "$tmp/want" && echo equal) $(grep -c "^$tmp/own.jinja as the chat template" "$tmp/stderr")" '0 equal 1' "--chat by V3's template in Jinja"
ran=$(sed -n 's/^prompt *\([0-9]*\) tokens.*/\1/p' "$tmp/stderr")
talk >/dev/null 2>"$tmp/stderr"
same "$ran" "$(sed -n 's/^prompt *\([0-9]*\) tokens.*/\1/p' "$tmp/stderr")" 'as many tokens run as without: what is the same stays in the cache'
same "$(printf 'hi there\n' | $generate --model "$own" --chat -n 12 --quiet)" "$(printf 'hi there\n' | $generate --model "$modern" --chat -n 12 --quiet)" 'the template of tokenizer_config.json'
same "$(printf '<\xef\xbd\x9cUser\xef\xbd\x9c>\n' | $generate --model "$own" --chat -n 1 2>&1 >/dev/null | grep -c '^prompt *15 tokens')" 1 'typed special tokens are text to a template, too'
same "$(printf 'hi\n' | $generate --model "$own" --chat --think -n 9 --quiet; echo .)" \
     "<think>
$($generate --model "$thoughtful" --tokens "192 245 104 105 246 247 10" -n 9 --quiet; echo .)" '--think of a template'
echo '[{"name": "ab"}]' >"$tmp/tools.json"
same "$(printf 'hi\n' | $generate --model "$own" --chat --tools "$tmp/tools.json" -n 9 --quiet; echo .)" \
     "$($generate --model "$thoughtful" --tokens "192 245 104 105 246 245 97 98" -n 9 --quiet; echo .)" '--tools'
printf '{"chat_template": [{"name": "tool_use", "template": "{{ tools | tojson }}"}, {"name": "default", "template": "ab{{ messages[0].content }}"}]}' >"$tmp/named.json"
rm "$own/tokenizer_config.json" && cp "$tmp/named.json" "$own/tokenizer_config.json"
same "$(printf 'hi\n' | $generate --model "$own" --chat -n 9 --quiet; echo .)" "$($generate --model "$thoughtful" --tokens '97 98 104 105' -n 9 --quiet; echo .)" 'a list of templates'
same "$(printf 'hi\n' | $generate --model "$own" --chat --tools "$tmp/tools.json" -n 9 --quiet; echo .)" \
     "$($generate --model "$thoughtful" --tokens "$(bytes_of '[{"name": "ab"}]')" -n 9 --quiet; echo .)" 'the one for tools'
echo 'cd' >"$own/chat_template.jinja"
same "$(printf 'hi\n' | $generate --model "$own" --chat -n 9 --quiet; echo .)" "$($generate --model "$thoughtful" --tokens '99 100' -n 9 --quiet; echo .)" 'chat_template.jinja'
refused 1 '--think: the chat template has neither' $generate --model "$own" --chat --think
refused 1 '--tools: the chat template knows no tools' $generate --model "$own" --chat --tools "$tmp/tools.json"
refused 1 "--tools: $tmp/empty.jinja knows no tools" bash -c "printf '{# nothing #}' >$tmp/empty.jinja; $generate --model $modern --chat --tools $tmp/tools.json --template $tmp/empty.jinja"
refused 1 "--think: $tmp/empty.jinja has neither" $generate --model "$modern" --chat --think --template "$tmp/empty.jinja"
same "$($generate --model "$modern" --chat --template "$tmp/empty.jinja" 2>&1 | grep -c "^$tmp/empty.jinja as the chat template, room for")" 1 'which template it is'
refused 2 '-n: 2147483647: behind 2 tokens of prompt there is room for 2147483645 at most' $generate --model $model --tokens '1 2' -n 2147483647
refused 1 '--tools: the chat template knows no tools' $generate --model "$modern" --chat --tools "$tmp/tools.json"
refused 1 'cannot be read' $generate --model "$own" --chat --template "$tmp/none"
printf 'a\n{{ a|x }}' >"$tmp/bad.jinja"
refused 1 "bad.jinja:2:6: no filter 'x' is known" $generate --model "$own" --chat --template "$tmp/bad.jinja"
echo '{{ raise_exception("Roles!") }}' >"$tmp/raise.jinja"
refused 1 'raise.jinja:1:4: Roles!' bash -c "echo hi | $generate --model $own --chat --template $tmp/raise.jinja --quiet"
echo '{"a": 1}' >"$tmp/no-list"
printf '{# nothing #}' >"$tmp/empty.jinja"
refused 1 "--chat: $tmp/empty.jinja makes nothing" bash -c "echo hi | $generate --model $own --chat --template $tmp/empty.jinja --quiet"
refused 1 "--tools $tmp/no-list: the tools are no list" bash -c "echo hi | $generate --model $own --chat --template $tmp/own.jinja --tools $tmp/no-list --quiet"
: >"$tmp/empty"
refused 1 "--tools $tmp/empty: JSON, byte 0: not a value" bash -c "echo hi | $generate --model $own --chat --template $tmp/own.jinja --tools $tmp/empty --quiet"
echo '{{ ("a"*10000)|replace("","b"*10000) }}' >"$tmp/bomb.jinja"
refused 1 "$tmp/bomb.jinja makes a text longer than any that fits the context of" timeout 20 bash -c "echo hi | $generate --model $own --chat --template $tmp/bomb.jinja --quiet"
mkfifo "$tmp/nobody"
refused 1 "cannot read $tmp/nobody: nobody is at its other end" timeout 20 $generate --model $own --chat --template $tmp/own.jinja --tools "$tmp/nobody"
refused 1 "cannot read $tmp/nobody: nobody is at its other end" timeout 20 $generate --model $own --perplexity "$tmp/nobody"
refused 1 "cannot write $tmp/nobody: nobody is at its other end" timeout 20 $generate --model $model --tokens 1 --logits "$tmp/nobody"
same "$(printf 'hi\n/save %s\n' "$tmp/nobody" | timeout 20 $generate --model $own --chat --template $tmp/own.jinja -n 2 --quiet 2>&1 >/dev/null; echo $?)" \
    "cannot write $tmp/nobody: nobody is at its other end
0" '/save into a FIFO'
same "$(printf 'hi\n/save %s\n' "$own/model.safetensors" | $generate --model $own --chat --template $tmp/own.jinja -n 2 --quiet 2>&1 >/dev/null; echo $?)" \
    "cannot write $own/model.safetensors: it is a file of the model
0" '/save over the model'
(sleep 0.3; printf 'Hello'; sleep 3; printf ' you') >"$tmp/nobody" & # one that comes late and is slow
same "$(timeout 20 $generate --model $text --prompt-file "$tmp/nobody" -n 3 2>/dev/null; echo .)" \
    "$($generate --model $text --prompt 'Hello you' -n 3 2>/dev/null; echo .)" 'a prompt from a FIFO'
(sleep 0.3; wc -c <"$tmp/nobody" >"$tmp/count") &
timeout 20 $generate --model $model --tokens '1 2' -n 0 --logits "$tmp/nobody" 2>/dev/null
wait $!
same "$(($(cat "$tmp/count")))" $((2 * 256 * 4)) 'logits into a FIFO'
refused 1 '/dev/zero: more than 256 MB of text' $generate --model $own --chat --template $tmp/own.jinja --tools /dev/zero
for name in model prompt-file perplexity tokenizer template tools logits; do refused 2 "--$name: a value is missing" $generate --$name ''; done
echo '[{]' >"$tmp/no-json"
refused 1 'JSON, byte 2' bash -c "echo hi | $generate --model $own --chat --template $tmp/own.jinja --tools $tmp/no-json --quiet"

# ---- commands of a chat
chat() { $generate --model "$modern" --chat -n 8 "$@" 2>"$tmp/stderr"; }
first=$(printf 'hi\n' | chat)
same "$(printf 'hi\n/regen\n' | chat)" "$first
$first" '/regen'
same "$(printf 'hi\n/clear\nhi\n' | chat)" "$first
$first" '/clear'
same "$(printf '/system Be nice.\nhi\n' | chat)" "$(printf 'hi\n' | chat --system 'Be nice.')" '/system'
same "$(printf 'a\\\nb\n' | chat; cat "$tmp/stderr" | grep -c '^prompt *6 tokens')" "$($generate --model "$modern" --tokens '192 245 97 10 98 246' -n 8 --quiet)
1" 'a backslash at the end of a line'
same "$(printf 'hi\n/save %s\n' "$tmp/saved" | chat) $(grep -c '^(saved)$' "$tmp/stderr")" "$first 1" '/save'
same "$(head -n 1 "$tmp/saved")" '[{"role":"user","content":"hi"},' 'what was saved'
tale() { $generate --model examples/tales --chat -n 20 --temp 0 --quiet; } # whose answers are text: nothing is lost when they are saved
printf 'Tell me\n/save %s\nAnd?\n' "$tmp/told" | tale | tail -n 1 >"$tmp/want"
same "$(printf 'x\n/load %s\nAnd?\n' "$tmp/told" | tale | tail -n 1 | cmp - "$tmp/want" && echo equal)" equal '/load'
printf '/help\n/nope\n/stats\n/load %s\n/save\n/save %s\n/load %s\n/regen\n/etc/x\n' "$tmp/none" "$tmp/none/x" "$tmp/tools.json" | chat >"$tmp/got"
same "$? $(wc -l <"$tmp/got") $(grep -cE '^/(clear|system TEXT|regen|save FILE|stats) ' "$tmp/stderr")" '0 1 5' '/help, and what is no command'
for message in '/nope is no command: /help lists them' "$tmp/none: cannot be read: no such file" '/save: which file?' "cannot write $tmp/none/x" \
               'message 1 is not what comes next' 'there is no question yet' 'tokens/s)'; do
    same "$(grep -cF "$message" "$tmp/stderr")" 1 "$message"
done
same "$(printf 'hi\n' | $generate -m "$modern" --chat -c 64 -t 1 -n 8 2>/dev/null)" "$first" '-m -c -t'
same "$($generate -m "$modern" -p ab -n 4 --quiet)" "$($generate --model="$modern" --prompt=ab -n 4 --quiet)" '-p, --prompt=TEXT'
same "$($generate --model "$modern" --prompt=a=b -n 0 --quiet)" 'a=b' '--prompt=a=b'
refused 2 'unknown option' $generate --nope=1
refused 2 '--chat: takes no value' $generate --model "$modern" --chat=1
refused 2 '--prompt: the text is empty' $generate --model "$modern" --prompt=
draw() { $generate --model "$modern" --prompt ab -n 20 --temp 1 --print-tokens "$@" 2>"$tmp/stderr"; }
one=$(draw) seed=$(sed -n 's/^seed *//p' "$tmp/stderr") two=$(draw)
same "$(draw --seed "$seed")" "$one" "the seed that was chosen: $seed"
if [ "$one" = "$two" ]; then same equal different 'another run has another seed'; fi
same "$($generate --model "$modern" --prompt ab -n 20 --print-tokens 2>&1 >/dev/null | grep -c ^seed)" 0 'no seed without sampling'
same "$(draw --seed 1 --top-k -1)" "$(draw --seed 1 --top-k 0)" '--top-k -1'
if script -qec true /dev/null >/dev/null 2>&1; then # a terminal: editing and history
    typed() { script -qec "$generate --model $modern --chat -n 4 --quiet; echo status \$?" /dev/null < <(sleep 0.3; for keys; do printf "$keys"; sleep 0.3; done) | tr '\r' '\n'; }
    typists=() # all at once: they wait most of the time
    terminal() { # WHAT WANTED KEYS...: the line as it was shown last, before it was answered
        local out=$tmp/terminal${#typists[@]}
        typists+=("$1" "$2")
        typed "${@:3}" '\n' '\004' >"$out" &
    }
    terminal 'backspace, left, insertion' 'hi you' 'hx\177i oy' '\033[D\033[D' 'y' '\033[C\033[3~u'
    terminal 'home, end, words' '1b 3c2' 'b c' '\001' '1' '\005' '2' '\033[1;5D' '3'
    terminal 'UTF-8' 'é漢!' 'é漢字' '\177!'
    terminal 'Ctrl-U, Ctrl-W, Ctrl-K' 'x z' 'abc\025x y' '\027z q\002\002\013'
    terminal 'history' 'one' 'one\n' 'two' '\033[A'
    terminal 'pasting' 'a↵b' '\033[200~a\rb\033[201~'
    terminal 'a backslash' 'a↵b' 'a\\\n' 'b'
    typed 'abc' '\003' 'hi\n' '\003' '\003' '\003' >"$tmp/terminal"
    wait
    for ((i = 0; i < ${#typists[@]}; i += 2)); do
        got=$(sed 's/\x1b\[[?0-9]*[a-zA-Z]//g' "$tmp/terminal$i" | grep -c "^> ${typists[i + 1]}\$")
        same "$(grep -c '^status 0' "$tmp/terminal$i") $((got > 0))" '1 1' "${typists[i]}"
    done
    same "$(grep -c '^status 130' "$tmp/terminal") $(grep -c '^> .*hi' "$tmp/terminal" | awk '{ print ($1 > 0) }')" '1 1' 'Ctrl-C gives a line up, and on an empty one ends'
else
    echo 'script is not here: line editing is left out'
fi

# ---- Ctrl-C, pressed when there is output
grown() { # FILE SIZE: waits until it is larger, for a minute at most
    for _ in {1..600}; do [ "$(stat -c %s "$1")" -gt "$2" ] && return; sleep 0.1; done
}
(
    set -m # background jobs with signals of their own
    $generate --model $model --tokens 1 -n 1000000 --ignore-eos --temp 1 >"$tmp/got" 2>"$tmp/stderr" &
    grown "$tmp/got" 100
    kill -INT $!
    wait $!
    echo $? >"$tmp/status"
)
same "$(cat "$tmp/status") $(wc -l <"$tmp/got") $(grep -c ^generation "$tmp/stderr")" '130 1 1' 'Ctrl-C in a text'
(
    set -m
    $generate --model $model --tokens 1 -n 1000000 --ignore-eos --temp 1 --json --logits "$tmp/begun" >"$tmp/got" 2>/dev/null &
    touch "$tmp/begun" && grown "$tmp/begun" 0
    kill -INT $!
    wait $!
    echo $? >"$tmp/status"
)
same "$(cat "$tmp/status") $(grep -c '"stop":"interrupt"' "$tmp/got")" '130 1' 'Ctrl-C with --json'
mkfifo "$tmp/full" # so full that nothing goes in, and nobody reads
(
    set -m
    exec 6<>"$tmp/full"
    dd if=/dev/zero of="$tmp/full" bs=4096 oflag=nonblock 2>/dev/null
    $generate --model $model --tokens 1 -n 4 --ignore-eos --temp 1 >"$tmp/full" 2>"$tmp/stderr" &
    for _ in {1..20}; do grep -q pipe "/proc/$!/wchan" 2>/dev/null && break; sleep 0.1; done
    kill -INT $!
    wait $!
    echo $? >"$tmp/status"
)
same "$(cat "$tmp/status") $(cat "$tmp/stderr")" '130 ' 'Ctrl-C while nobody reads the text'
endless=$tmp/endless # the end of sentence has no weights in the head, so that others are likelier
mkdir "$endless" && ln -s "$modern"/*.json "$endless/" && cp $model/model.safetensors "$endless/"
header=$(($(od -An -tu8 -N8 $model/model.safetensors)))
at=$(head -c $((8 + header)) $model/model.safetensors | tail -c $header | sed 's/.*"lm_head.weight":{[^}]*"data_offsets":\[\([0-9]*\),.*/\1/')
dd if=/dev/zero of="$endless/model.safetensors" conv=notrunc bs=1 seek=$((8 + header + at + 193 * 128)) count=128 2>/dev/null
(
    set -m
    trap '' PIPE
    mkfifo "$tmp/fifo"
    $generate --model "$endless" --chat --ctx 1000000 <"$tmp/fifo" >"$tmp/got" 2>"$tmp/stderr" &
    exec 5>"$tmp/fifo"
    for turn in 1 2; do
        size=$(stat -c %s "$tmp/got")
        echo hello >&5
        grown "$tmp/got" $((size + 100))
        kill -INT $!
        sleep 0.3
    done
    kill -INT $!
    wait $!
    echo $? >"$tmp/status"
)
same "$(cat "$tmp/status") $(grep -c ^generation "$tmp/stderr")" '130 1' "Ctrl-C in a chat stops answers, and then the program ($(cat "$tmp/stderr"))"

# ---- --mtp: the same text, in fewer passes
tales=examples/tales
refused 1 "--mtp: $lite has no layer for multi-token prediction (config.json: num_nextn_predict_layers)" $generate --model $lite --tokens 1 --mtp
refused 2 '--mtp has no meaning with --perplexity' $generate --model $tales --perplexity x --mtp
refused 2 '--mtp has no meaning with --tokenize' $generate --model $tales --tokenize --mtp
for bad in '2|tensor "model.layers.5.input_layernorm.weight" is missing' '1.0|num_nextn_predict_layers: found the number 1, expected an integer' \
           '-1|num_nextn_predict_layers: found the number -1' '2147483000|tensors, but config.json: num_hidden_layers is 4, and num_nextn_predict_layers not 0' \
           '0|has no layer for multi-token prediction'; do
    rm -rf "$tmp/nextn" && mkdir "$tmp/nextn" && ln -s "$PWD/$model/model.safetensors" "$tmp/nextn/"
    sed "s/\(num_nextn_predict_layers\": \)1/\1${bad%%|*}/" $model/config.json >"$tmp/nextn/config.json"
    refused 1 "${bad#*|}" $generate --model "$tmp/nextn" --tokens 1 --mtp
    case $bad in 1.0*|-1*) ;; *) same "$($generate --model "$tmp/nextn" --tokens 1 -n 1 --quiet | wc -w)" 1 "num_nextn_predict_layers ${bad%%|*} without --mtp" ;; esac
done
few 1 7 512
for attn in auto naive absorbed; do
    for chunk in "${few[@]}"; do
        same "$($generate --model $model --tokens "$prompt" --ignore-eos --attn $attn --chunk $chunk --mtp --logits "$tmp/mtp" --print-tokens 2>/dev/null)" "$expected" \
            "--mtp $attn $chunk"
        same "$(stat -c %s "$tmp/mtp")" $((48 * 256 * 4)) "logits of --mtp $attn $chunk"
    done
done
tell="$generate --model $tales --prompt Once\ upon\ a\ time --temp 0"
for how in '-n 120' '-n 1' '-n 2' '-n 0' '--ctx 30' '-n 60 --stop king' '-n 60 --stop e' '-n 50 --ignore-eos --cache f16' '-n 60 --repeat-penalty 1.3' \
           '-n 40 --print-tokens --isa scalar'; do
    want=$(eval "$tell $how" 2>/dev/null; echo $?)
    same "$(eval "$tell $how --mtp" 2>/dev/null; echo $?)" "$want" "--mtp $how"
done
eval "$tell -n 120 --mtp" >/dev/null 2>"$tmp/stderr"
line='^mtp  *[0-9.]* % of [0-9]* guesses accepted, [0-9.]* tokens a pass; without [0-9.]* tokens/s, [0-9.]* times as fast$'
same "$(grep -c "$line" "$tmp/stderr") $(grep -c '^generation *119 tokens' "$tmp/stderr")" '1 1' "the closing lines of --mtp ($(grep ^mtp "$tmp/stderr"))"
got=$(eval "$tell -n 120 --mtp --json --quiet")
field() { sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p" <<<"$got"; }
same "$(field generated_tokens) $(($(field passes) + $(field accepted))) $(($(field accepted) * 4 > $(field guesses))) $(field plain_tokens_per_s | grep -c '[1-9]')" \
    '120 119 1 1' "--mtp --json: $got"
same "$(eval "$tell -n 5 --json --quiet" | grep -c mtp)" 0 '--json without --mtp'
for q in q8 q4 'q8 --activations f32' 'q8 --quant-class head=q4,dense=keep'; do
    got=$(eval "$tell -n 40 --quant $q --mtp --print-tokens" 2>"$tmp/stderr")
    same "$? $(count "$got") $(grep -c "$line" "$tmp/stderr")" '0 40 1' "--quant $q --mtp"
done
drawn=$($generate --model $tales --prompt 'The king' -n 60 --temp 1 --seed 3 --mtp --print-tokens --quiet)
same "$(count "$drawn")" 60 '--temp 1 --mtp'
same "$($generate --model $tales --prompt 'The king' -n 60 --temp 1 --seed 3 --mtp --print-tokens --quiet --threads 3 --chunk 2)" "$drawn" 'the same seed with --mtp'
if [ "$($generate --model $tales --prompt 'The king' -n 60 --temp 1 --seed 4 --mtp --print-tokens --quiet)" = "$drawn" ]; then same equal different 'another seed with --mtp'; fi
for who in "$text" "$thoughtful"; do
    for think in '' --think; do
        [ "$who$think" = "$text--think" ] && continue
        printf 'hi there\nand?\nso\n' | $generate --model "$who" --chat $think -n 12 --quiet >"$tmp/want"
        printf 'hi there\nand?\nso\n' | $generate --model "$who" --chat $think -n 12 --mtp >"$tmp/got" 2>"$tmp/stderr"
        same "$? $(cmp "$tmp/got" "$tmp/want" && echo equal) $(grep -c '^mtp .* tokens a pass$' "$tmp/stderr")" '0 equal 1' "--chat $think --mtp"
    done
done
info() { $generate --model $tales --info --json "$@" | sed -n 's/.*"weights_bytes":\([0-9]*\),.*"cache_bytes_per_token":\([0-9]*\).*/\1 \2/p'; }
read -r bytes row < <(info)
read -r more_bytes more_row < <(info --mtp)
same "$((more_bytes > bytes)) $((more_row * 7)) $(info)" "1 $((row * 8)) $bytes $row" "--info --mtp: $more_bytes $more_row, without $bytes $row"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
