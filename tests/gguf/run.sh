#!/usr/bin/env bash
# The program build/generate on GGUF files, which build/test_gguf writes. Ends with "N passed, N failed".
cd "$(dirname "$0")/../.." || exit 1
generate=./${PROGRAMS:-build}/generate
prompt="214 170 47 204 209 162 116 42 115 234 15 138 148 106 60 203 62 49 107 120 129 201 231 97 \
211 129 143 109 91 164 124 200 115 202 215 74 147 50 100 145 127 189 106 65 180 234 233 215"
exec </dev/null
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export OMP_WAIT_POLICY=passive
passed=0 failed=0

# same GOT WANT WHAT
same() {
    if [ "$1" = "$2" ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "$3: got '$1', expected '$2'"; fi
}
# refused PATTERN COMMAND...: exit status 1, and one line on stderr that contains the pattern
refused() {
    local pattern=$1 status
    shift
    "$@" >/dev/null 2>"$tmp/stderr"
    status=$?
    same "$status $(wc -l <"$tmp/stderr") $(grep -c -F -e "$pattern" "$tmp/stderr")" "1 1 1" "$* ($(cat "$tmp/stderr"))"
}
write() { # FIXTURE TYPE FORM FILE
    same "$("./${PROGRAMS:-build}/test_gguf" --write "$@" && echo written)" written "writing $4"
}

# The same tokens as from Hugging Face's directory, by way of guesses, too, and whatever becomes of what is not in blocks.
for fixture in deepseek_v2_lite deepseek_v3 kimi_k2 glm_moe_dsa; do
    write $fixture bf16 split "$tmp/$fixture.gguf"
    want=$($generate --model tests/fixtures/checkpoints/$fixture --tokens "$prompt" --print-tokens --quiet)
    same "$($generate --model "$tmp/$fixture.gguf" --tokens "$prompt" --print-tokens --quiet)" "$want" "$fixture"
done
v3=$tmp/deepseek_v3.gguf
want=$($generate --model "$v3" --tokens "$prompt" --print-tokens --quiet)
same "$($generate --model "$v3" --mtp --tokens "$prompt" --print-tokens --quiet)" "$want" '--mtp'
mkdir "$tmp/dir" && mv "$v3" "$tmp/dir/"
same "$($generate --model "$tmp/dir" --tokens "$prompt" --print-tokens --quiet)" "$want" 'a directory'
v3=$tmp/dir/deepseek_v3.gguf
write deepseek_v3 q8_0 both "$tmp/q8.gguf"
write deepseek_v3 q4_0 ik "$tmp/q4.gguf"
for quant in "" "--quant q8" "--quant q8 --quant-class kv_b=q4,embed=q8" "--activations f32"; do
    for file in q8 q4; do # what has blocks stays; what has none, because its rows are no multiple of one, cannot get some
        # shellcheck disable=SC2086
        case $quant in
        --quant*) refused 'found rows of 48' $generate --model "$tmp/$file.gguf" $quant --tokens "$prompt" ;;
        *) same "$($generate --model "$tmp/$file.gguf" $quant --tokens "$prompt" --print-tokens --quiet | wc -w)" 16 "$file $quant" ;;
        esac
    done
done
for class in attn=keep,kv_b=keep attn=keep,kv_b=keep,dense=q4,embed=q8; do
    same "$($generate --model "$v3" --quant q8 --quant-class $class --tokens "$prompt" --print-tokens --quiet | wc -w)" 16 "--quant q8, $class"
done

# --info
info=$($generate --model "$v3" --info)
for line in "^model  *deepseek2, made for 256 tokens, vocabulary of 256$" \
    "^file  *GGUF in 1 file, .* keys, 94 tensors: .* bytes of F32, 1.* MB of BF16$"; do
    same "$(grep -c "$line" <<<"$info")" 1 "--info: $line"
done
same "$($generate --model "$v3" --info --json | grep -c '"expert_groups":4,"expert_groups_per_token":2')" 1 '--info --json: groups'
same "$($generate --model "$tmp/q8.gguf" --quant q8 --info | grep -c 'weights mapped .* converted .*,')" 1 '--info --quant'

# Refusals
cp "$v3" "$tmp/cut.gguf" && truncate -s 100000 "$tmp/cut.gguf"
refused 'cut.gguf: tensor' $generate --model "$tmp/cut.gguf" --tokens 1
same "$(printf hello | $generate --model "$v3" --tokenize)" '104 101 108 108 111' 'the tokenizer of the file'
sed 's/gpt2/gpt9/' "$v3" >"$tmp/unknown.gguf"
refused '--tokenizer FILE gives another, --tokens does without' $generate --model "$tmp/unknown.gguf" --prompt hello
refused '--tokenizer FILE gives another, --tokens does without' $generate --model "$tmp/unknown.gguf" --chat
refused '--tokenizer FILE gives another, --tokens does without' $generate --model "$tmp/unknown.gguf" --tokenize
refused 'nothing is to be chosen' $generate --model "$v3" --expert-groups file --tokens 1
refused 'more than one GGUF file' $generate --model "$tmp" --tokens 1
refused 'not a GGUF file' $generate --model README.md --tokens 1
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:0\n' >"$tmp/pointer.gguf"
refused 'pointer.gguf: not a GGUF file: this is a Git LFS pointer' $generate --model "$tmp/pointer.gguf" --tokens 1

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
