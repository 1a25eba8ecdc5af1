#!/usr/bin/env bash
# The header, the examples' headers and generate for Windows, by mingw-w64 without a warning, and under wine the same tokens as here, files that
# are mapped, names and prompts in UTF-8, and the tests that ask nothing of the system. Needs Debian's gcc-mingw-w64-x86-64 and wine64, and
# leaves out what is not here. Ends with "N passed, N failed".
cd "$(dirname "$0")/../.." || exit 1
tmp=$(mktemp -d)
trap 'WINEPREFIX=$tmp/prefix wineserver -w 2>/dev/null; rm -rf "$tmp"' EXIT
passed=0 failed=0
check() { # WHAT COMMAND...: the command succeeds
    if "${@:2}" >"$tmp/out" 2>&1; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "FAILED: $1" && head -n 12 "$tmp/out"; fi
}
same() { # GOT WANT WHAT
    if [ "$1" = "$2" ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "FAILED: $3: got '$1', expected '$2'"; fi
}
cc=x86_64-w64-mingw32-gcc
command -v $cc >/dev/null || { echo "$cc is not here: left out" && echo '0 passed, 0 failed' && exit 0; }
flags='-std=c99 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -O1 -I. -Iexamples'

# The header once, each of the examples' once, and programs told so, as the Makefile has it.
parts='checkpoint tokenizer sampler grammar json_schema speculative prefixes jinja chat language text calls line threads openai synthetic scheduler options sink dialog perplexity'
told='-DMLA__SELECTED -DMLA__INSTANTIATED -DMLA__SELECT=extern'
for part in mla_ checkpoint_gguf checkpoint_quantize checkpoint_convert $parts; do told="$told -D${part^^}_IMPLEMENTED"; done
check mla.h $cc $flags -DMLA_IMPLEMENTATION -DMLA__SELECT=extern -x c -c mla.h -o "$tmp/mla.o"
for part in $parts; do
    more=
    [ $part = checkpoint ] && more='-include examples/quantize.h'
    check $part.h $cc $flags -D${part^^}_IMPLEMENTATION -include examples/$part.h $more -x c -c /dev/null -o "$tmp/$part.o"
done
check generate.c $cc $flags $told -c examples/generate.c -o "$tmp/generate.o"
check 'generate links' $cc "$tmp"/*.o -o "$tmp/generate.exe" -lm

wine=$(command -v wine64 || command -v wine || ls /usr/lib/wine/wine64 2>/dev/null)
if [ "$wine" ] && [ -f "$tmp/generate.exe" ]; then
    export WINEDEBUG=-all WINEPREFIX=$tmp/prefix
    generate() { timeout 120 "$wine" "$tmp/generate.exe" "$@"; }
    model=tests/fixtures/checkpoints/deepseek_v3 tales=examples/tales
    timeout 300 "$wine" "$tmp/generate.exe" --version >/dev/null 2>&1 # makes its directory
    same "$(generate --model $model --tokens '214 170 47 204' -n 8 --print-tokens --quiet)" \
        "$(build/generate --model $model --tokens '214 170 47 204' -n 8 --print-tokens --quiet)" 'the same tokens'
    mkdir "$tmp/häßlich 漢" && cp $tales/* "$tmp/häßlich 漢/"
    same "$(generate --model "$tmp/häßlich 漢" --prompt 'Once upon a time “é' -n 8 --temp 0 --quiet | od -c)" \
        "$(build/generate --model $tales --prompt 'Once upon a time “é' -n 8 --temp 0 --quiet | od -c)" 'names and text in UTF-8'
    same "$(printf 'a “b”\nc' | generate --model $tales --tokenize | generate --model $tales --detokenize | od -c)" \
        "$(printf 'a “b”\nc\0' | od -c)" 'there and back'
    generate --model "$tmp/none" --tokens 1 >/dev/null 2>"$tmp/said"
    same "$? $(grep -c 'config.json: cannot be read: no such file' "$tmp/said")" '1 1' 'no such file'
    generate --model $tales/config.json/x --tokens 1 >/dev/null 2>"$tmp/said"
    same "$? $(grep -c 'cannot be read' "$tmp/said")" '1 1' 'a file is no directory'
    for test in test_modules test_sampler test_grammar; do
        told_test=${told//-DSAMPLER_IMPLEMENTED/}
        [ $test = test_sampler ] || told_test=$told
        [ $test = test_grammar ] && { told_test=${told//-DGRAMMAR_IMPLEMENTED/}; told_test=${told_test//-DJSON_SCHEMA_IMPLEMENTED/}; }
        others=()
        for part in mla $parts; do [[ test_$part == "$test" || $test:$part == test_grammar:json_schema ]] || others+=("$tmp/$part.o"); done
        if $cc ${flags/-Werror/} $told_test tests/$test.c "${others[@]}" -o "$tmp/$test.exe" -static -lm -lpthread >"$tmp/out" 2>&1; then
            timeout 600 "$wine" "$tmp/$test.exe" >"$tmp/out" 2>&1
            said=$(tr -d '\r' <"$tmp/out" | sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' | tail -n 1)
            same "${said#* }" 0 "$test under wine"
            passed=$((passed + ${said% *} + 0))
        else failed=$((failed + 1)) && echo "FAILED: $test" && head -n 12 "$tmp/out"; fi
    done
else
    echo 'wine is not here: left out'
fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
