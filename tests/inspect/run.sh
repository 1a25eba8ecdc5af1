#!/usr/bin/env bash
# The program build/inspect: its numbers, in files and on the page, against those of the API (tests/inspect/api.c). With TEST_ALL=1 on every
# checkpoint, and the page in Chromium if playwright-core and Chromium are here (NODE_MODULES=DIR has the package already; else npm gets it).
# Ends with "N passed, N failed".        SHOTS=DIR      screenshots of the page go there
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
run() { # a script that ends with "N passed, N failed"
    local last
    node "$@" >"$tmp/out" 2>&1 || failed=$((failed + 1))
    last=$(tail -n 1 "$tmp/out" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p')
    if [ "$last" ]; then passed=$((passed + ${last% *})) failed=$((failed + ${last#* })); else failed=$((failed + 1)); fi
    echo "$*: $last" && grep -v ' passed, ' "$tmp/out"
}
if build/inspect --help >/dev/null; then passed=1; else failed=1; fi
said=$(timeout 60 build/inspect --model examples/tales --prompt-file /dev/zero --out "$tmp/endless.html" 2>&1)
if [ "$?: $said" = '1: inspect: /dev/zero: more than 256 MB of text' ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "endless: $said"; fi
mkfifo "$tmp/nobody" "$tmp/nobody.svg"
refused() { # MESSAGE OPTION...
    local said
    said=$(timeout 60 build/inspect --model examples/tales --quiet "${@:2}" 2>&1 >/dev/null)
    if [ "$?: $said" = "1: inspect: $1" ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "${*:2}: $said"; fi
}
refused "cannot write $tmp/nobody.svg: nobody is at its other end" --prompt x --out "$tmp/nobody.svg"
mkdir "$tmp/mapped" && cp examples/tales/*.json examples/tales/model.safetensors "$tmp/mapped/" && ln -s model.safetensors "$tmp/mapped/x.svg"
refused "cannot write $tmp/mapped/x.svg: it is a file of the model" --model "$tmp/mapped" --prompt x --out "$tmp/mapped/x.svg"
if cmp examples/tales/model.safetensors "$tmp/mapped/model.safetensors"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
refused "cannot make $tmp/nobody: there is something else, and no directory" --prompt x --out "$tmp/nobody"
refused "cannot read $tmp/nobody: nobody is at its other end" --prompt-file "$tmp/nobody" --out "$tmp/a.svg"
mkdir "$tmp/notes" && cp examples/tales/*.json examples/tales/model.safetensors "$tmp/notes/"
echo '{"chat_template":[]}' >"$tmp/notes/tokenizer_config.json"
sed -i 's/"model_type"/"ROPE_SCALING": null, "model_type"/' "$tmp/notes/config.json"
said=$(build/inspect --model "$tmp/notes" --prompt x --out "$tmp/a.svg" 2>&1 | grep -c '^note: config.json has keys that mean nothing: ROPE_SCALING, is it \|^note: tokenizer_config.json: chat_template is neither')
if [ "$said" = 2 ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "notes: $said"; fi
long=$tmp/$(printf '%04095d' 0)
refused "cannot write $(head -c 99 <<<"$long")...: the path is too long" --prompt x --out "$long.svg"
build/inspect --model examples/tales --prompt x --out "$tmp/whole.svg" 2>/dev/null # the files take no closed stream's place
build/inspect --model examples/tales --prompt x --out "$tmp/closed.svg" 2>&-
if cmp "$tmp/whole.svg" "$tmp/closed.svg"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
if ! command -v node >/dev/null; then
    echo 'node is not here: left out'
# shellcheck disable=SC2046
elif ${CC:-cc} -std=c99 -Wall -Wextra -Werror -O1 -I. -Iexamples tests/inspect/api.c build/examples.a build/mla.o -o "$tmp/api" -lm -pthread \
    $(nm build/mla.o | grep -q GOMP && echo -lgomp); then
    run tests/inspect/numbers.mjs "$tmp/api" "$tmp"
    if [ "${TEST_ALL:-}" ]; then
        modules=${NODE_MODULES:-$tmp/node_modules}
        [ -d "$modules/playwright-core" ] || (cd "$tmp" && npm init -y && npm install playwright-core) >"$tmp/npm" 2>&1
        chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
        if [ -d "$modules/playwright-core" ] && [ "$chromium" ]; then run tests/inspect/page.mjs "$modules" "$chromium" "$tmp" ${SHOTS:+"$SHOTS"}
        else echo 'playwright-core or Chromium is not here: left out'; fi
    fi
else failed=$((failed + 1)); fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
