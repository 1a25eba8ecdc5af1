#!/usr/bin/env bash
# What the machine gives the programs fails: each call for memory, files, threads and sockets, the first, the second and so on,
# that one alone or all from there on. A program says so on standard error and ends with a status above 0, or does what it
# does without; the server answers that request with an error, and the next one as ever.
#     tests/fail/run.sh [DIRECTORY [WHAT...]]      of the programs in DIRECTORY/fail, as build/asan [build]; only some of them
# Few calls of each; with TEST_ALL=1 all, of which PARTS=16 PART=3 takes a part. Ends with "N passed, N failed".
cd "$(dirname "$0")/../.." || exit 1
programs=${1:-build}
programs=${programs%/}/fail
shift
only=" $* "
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap '' PIPE
export OMP_WAIT_POLICY=passive ASAN_OPTIONS=exitcode=99:allocator_may_return_null=1:detect_stack_use_after_return=0 UBSAN_OPTIONS=exitcode=99
passed=0 failed=0
all=31 # kinds of calls, as tests/fail.h has them
fixtures=tests/fixtures/checkpoints

bad() { failed=$((failed + 1)) && echo "FAILED: $1" && head -c 600 "$tmp/stderr"; }
# Sets calls and name: how many there were, and which failed first.
reported() {
    calls=0 name=-
    [ -f "$tmp/report" ] && read -r calls name <"$tmp/report"
    rm -f "$tmp/report"
}
# next K CALLS: not each of many calls, but for TEST_ALL
next() {
    if [ "${TEST_ALL:-}" ]; then k=$(($1 + ${PARTS:-1})); else k=$(($1 + 1 + $2 / ${FEW:-2} + $1 % 3)); fi
}

# run K ON COMMAND...: sets status; its outputs and its report are files
run() {
    FAIL="$all $1 $2" FAIL_REPORT=$tmp/report timeout 60 "${@:3}" <"$tmp/stdin" >"$tmp/stdout" 2>"$tmp/stderr"
    status=$?
    reported
}
# Sets result: the output, but for the parts of a JSON line that depend on time, and left: the files.
look() {
    IFS= read -r -d '' result <"$tmp/stdout"
    [ "${result:0:1}" != '{' ] || result=$(sed 's/"[a-z_]*\(_s\|seconds\)":[0-9.e+-]*//g; s/"peak[a-z_]*":[0-9]*//g' "$tmp/stdout")
    left=$(echo "$tmp/out"/*)
}
empty() { [ "$left" = "$tmp/out/*" ] || { rm -rf "$tmp/out" && mkdir "$tmp/out" && left="$tmp/out/*"; }; }

# fails NAME STDIN COMMAND...: it has $tmp/out to write to; of what is written whole or not at all no file is left if it fails
fails() {
    local what=$1 wanted total k on
    [ "$only" = '  ' ] || [[ $only == *" $what "* ]] || return
    printf '%b' "$2" >"$tmp/stdin"
    shift 2
    run 0 0 "$programs/$@"
    look
    wanted="$result $left" total=$calls
    empty
    [ $status -eq 0 ] && [ "$total" -gt 0 ] || { bad "$what as it is: status $status, $total calls"; return; }
    for on in 0 1; do
        k=$((on + 1 + ${PART:-0}))
        while [ $k -le "$total" ]; do
            run $k $on "$programs/$@"
            look
            if [ $status -eq 0 ]; then
                if [ "$result $left" = "$wanted" ]; then passed=$((passed + 1)); else bad "$what, $name, call $k ($on): another result"; fi
            elif [ $status -gt 2 ]; then bad "$what, $name, call $k ($on): status $status"
            elif [ ! -s "$tmp/stderr" ]; then bad "$what, $name, call $k ($on): status $status without a word"
            elif [ -f "$left" ] && [[ $what != logits ]]; then bad "$what, $name, call $k ($on): leaves $left"
            else passed=$((passed + 1)); fi
            empty
            next $k "$total"
        done
    done
}
mkdir "$tmp/out"

tales='--model examples/tales --threads 2'
# shellcheck disable=SC2086
{
    fails prompt '' generate $tales --prompt 'Once upon' -n 3 --temp 0.5 --seed 1 --stop xyz
    fails logits '' generate --model $fixtures/deepseek_v3 --threads 2 --tokens '1 2 3' -n 2 --mtp --json --seed 1 --logits "$tmp/out/logits"
    fails quant 'Once upon' generate $tales --quant q8 -n 1 --seed 1
    fails info '' generate $tales --info --memory 1G
    fails perplexity '' generate $tales --ctx 64 --perplexity LICENSE
    fails tokenize 'Once\0upon a time\0' generate --model examples/tales --tokenize
    fails chat 'who?\n/quit\n' generate $tales --chat -n 3 --seed 1
    fails convert '' convert $tales --to q8 --out "$tmp/out/model.gguf"
    "$programs/convert" --quiet $tales --to q8 --out "$tmp/model.gguf"
    fails convert-gguf '' convert --model "$tmp/model.gguf" --threads 2 --to keep --out "$tmp/out/model.gguf"
    fails gguf '' generate --model "$tmp/model.gguf" --threads 2 --prompt 'Once upon' -n 1 --seed 1
    fails inspect-page '' inspect $tales --prompt 'Once upon a time' --out "$tmp/out/page.html"
    fails inspect-picture '' inspect $tales --prompt 'Once upon a time' --out "$tmp/out/picture.svg"
    fails inspect-files '' inspect --model $fixtures/deepseek_v3 --threads 2 --tokens '1 2 3 4 5 6' --out "$tmp/out/files"
}

# ---- the server ---------------------------------------------------------------------------------------------------------

chat='"messages":[{"role":"user","content":"Who lives in the wood?"}],"max_tokens":4,"temperature":0'
requests=(
    "POST /v1/chat/completions {$chat}"
    "POST /v1/chat/completions {$chat,\"stream\":true,\"stop\":[\"xyz\"],\"stream_options\":{\"include_usage\":true}}"
    "POST /v1/chat/completions {$chat,\"logprobs\":true,\"top_logprobs\":2}"
    'POST /v1/completions {"prompt":["The fox","The hen"],"max_tokens":3,"seed":1,"n":2,"presence_penalty":1,"response_format":{"type":"json_object"}}'
    'POST /v1/embeddings {"input":"a fox and a hen"}'
    'POST /tokenize {"content":"Once upon a time"}'
    'POST /detokenize {"tokens":[1,2,3]}'
    'GET /v1/models'
    'GET /metrics'
    'GET /'
)
# ask NUMBER: sets answer and code; what is not always the same is taken out
ask() {
    local method path body connection
    read -r method path body <<<"${requests[$1]}"
    answer='' code=0
    { exec {connection}<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null || return
    printf '%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s' "$method" "$path" ${#body} "$body" >&$connection 2>/dev/null
    answer=$(timeout 20 sed -E 's/"id":"[^"]*"|"created":[0-9]*|"cached_tokens":[0-9]*|^(mla_[a-z_{}="0-9]* ).*/\1/g; s/\r//; /^[0-9a-f]*$/d; /^Content-Length/d' <&$connection 2>/dev/null) || [ $? -ne 124 ] || code=-1
    exec {connection}>&-
    [[ $code == 0 && $answer =~ ^HTTP/1.1\ ([0-9]*) ]] && code=${BASH_REMATCH[1]}
}
# begin KINDS K ON: sets port, 0 where it ended, and server, its process
begin() {
    local line
    port=0
    exec {said}< <(FAIL="$1 $2 $3" FAIL_REPORT=$tmp/report exec "$programs/server" --model examples/tales --threads 2 --ctx 256 --parallel 4 --cors http://a.example --port 0 2>&1)
    server=$!
    : >"$tmp/stderr"
    while IFS= read -r -t 30 line <&$said; do
        echo "$line" >>"$tmp/stderr"
        [[ $line =~ listening\ on\ .*:([0-9]+) ]] && port=${BASH_REMATCH[1]} && break
    done
}
end() {
    local i
    kill $server 2>/dev/null
    for ((i = 0; i < 1000; i++)); do kill -0 $server 2>/dev/null || break; read -r -t 0.02 <>"$tmp/never"; done
    kill -9 $server 2>/dev/null && hung=1
    wait $server
    status=$?
    cat <&$said >>"$tmp/stderr"
    exec {said}<&-
    reported
}
# serves KINDS ON: the server, with calls of these kinds failing
serves() {
    local kinds=$1 on=$2 k=$(($2 + ${PART:-0})) total i hung wrong odd
    begin "$kinds" 0 0
    for i in "${!requests[@]}"; do
        ask "$i"
        wanted[i]=$answer
        [ "$code" = 200 ] || bad "server as it is: request $i: $code"
    done
    end
    total=$calls
    [ -z "${AT:-}" ] || { k=$((AT - 1)) total=$AT; }
    while k=$((k + 1)) && [ $k -le "$total" ]; do
        hung='' wrong='' odd=0
        begin "$kinds" $k "$on"
        for i in "${!requests[@]}"; do
            [ $port -gt 0 ] || break
            ask "$i"
            [ "$answer" != "${wanted[i]}" ] || continue
            odd=$((odd + 1))
            [ -z "${SHOW:-}" ] || diff <(echo "${wanted[i]}") <(echo "$answer")
            # a whole answer says what is wrong; one that is cut off does not look whole
            if [ "$code" = -1 ]; then wrong="request $i: no end"
            elif [ "$code" = 200 ] && [[ $answer == *'[DONE]'* || ($i != 1 && $answer == *'}') ]]; then wrong="request $i: another answer: $answer"
            elif [ "$code" -gt 200 ] && [ "$code" -lt 500 ]; then wrong="request $i: status $code"; fi
        done
        end
        if [ "$hung" ]; then wrong='it does not end'
        elif [ $port = 0 ] && { [ $status -ne 1 ] || [ ! -s "$tmp/stderr" ]; }; then wrong="status $status at its start"
        elif [ $port != 0 ] && [ $status -ne 0 ]; then wrong="status $status"
        elif [ "$on" = 0 ] && [ $odd -gt 1 ]; then wrong="$odd requests are not answered"; fi
        if [ "$wrong" ]; then bad "server, $name, call $k of $total ($on): $wrong"; else passed=$((passed + 1)); fi
        next $k "$total" && k=$((k - 1))
    done
}
mkfifo "$tmp/never"
if [ "$only" = '  ' ] || [[ $only == *' server '* ]]; then
    serves 31 0 # all kinds
    serves 1 1  # memory: without sockets nobody can be answered
fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
