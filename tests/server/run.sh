#!/usr/bin/env bash
# The program build/server (or SERVER=PROGRAM, or PROGRAMS=DIRECTORY): its API by plain HTTP; with TEST_ALL=1 also by the npm package openai, the page in Chromium,
# thousands of requests at random against each alone, and ten thousand idle connections, as far as what they need is here (NODE_MODULES=DIR has
# the packages openai and playwright-core already; else npm gets them). Ends with "N passed, N failed".
#     SOAK=100000 tests/server/run.sh      so many requests [4000]      SHOTS=DIR      screenshots of the page go there
cd "$(dirname "$0")/../.." || exit 1
export SERVER=${SERVER:-${PROGRAMS:-build}/server}
server=$SERVER
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0
check() { # WHAT COMMAND...: the command succeeds
    if "${@:2}" >"$tmp/out" 2>&1; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "FAILED: $1" && cat "$tmp/out"; fi
}
run() { # a script that ends with "N passed, N failed"
    local last
    node "$@" >"$tmp/out" 2>&1 || failed=$((failed + 1))
    last=$(tail -n 1 "$tmp/out" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p')
    if [ "$last" ]; then passed=$((passed + ${last% *})) failed=$((failed + ${last#* })); else failed=$((failed + 1)); fi
    echo "$*: $last" && grep -v ' passed, ' "$tmp/out"
}
refuses() { "$server" "$@" >"$tmp/said" 2>&1; [ $? -eq 2 ]; }
check '--help' "$server" --help
check 'no model' refuses
check 'an unknown option' refuses --nope
if ! command -v node >/dev/null; then
    echo 'node is not here: left out'
    echo "$passed passed, $failed failed"
    [ $failed -eq 0 ]
    exit
fi
run tests/server/api.mjs
if [ "${TEST_ALL:-}" ]; then
    modules=${NODE_MODULES:-$tmp/node_modules}
    [ -d "$modules/openai" ] || (cd "$tmp" && npm init -y && npm install openai playwright-core) >"$tmp/npm" 2>&1
    chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
    if [ -d "$modules/openai" ]; then run tests/server/openai.mjs "$modules"; else echo 'the npm package openai is not here: left out'; fi
    if [ -d "$modules/playwright-core" ] && [ "$chromium" ]; then run tests/server/page.mjs "$modules" "$chromium" ${SHOTS:+"$SHOTS"}
    else echo 'playwright-core or Chromium is not here: left out'; fi
    run tests/server/soak.mjs "${SOAK:-4000}"
    run tests/server/idle.mjs 10000
fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
