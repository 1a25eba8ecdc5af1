#!/usr/bin/env bash
# The program build/convert: its files run, whatever the number of threads; what goes wrong leaves none. Ends with
# "N passed, N failed".
cd "$(dirname "$0")/../.." || exit 1
root=$PWD programs=$PWD/${PROGRAMS:-build}
convert=$programs/convert generate=$programs/generate
fixtures=tests/fixtures/checkpoints
exec </dev/null
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export OMP_WAIT_POLICY=passive
passed=0 failed=0

# same GOT WANT WHAT
same() {
    if [ "$1" = "$2" ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "$3: got '$1', expected '$2'"; fi
}
# refused STATUS PATTERN COMMAND...: this exit status, one line on stderr that contains the pattern, and no file
refused() {
    local want=$1 pattern=$2 said status
    shift 2
    "$@" >/dev/null 2>"$tmp/stderr"
    status=$?
    IFS= read -r -d '' said <"$tmp/stderr"
    case $said in
    *$'\n'?*) status="$status, more than a line" ;;
    *"$pattern"*$'\n') ;;
    *) status="$status, without '$pattern'" ;;
    esac
    set -- "$*" "$tmp"/out/*
    [ $# -eq 2 ] && [ ! -e "$2" ] && [ ! -L "$2" ] || status="$status, and a file"
    same "$status" "$want" "$1 ($said)"
}
mkdir "$tmp/out"
out=$tmp/out/model.gguf

# Every family and type (each pair of both with TEST_ALL=1); the same bytes with any number of threads; it runs.
types=(f16 q8 q4_k) turn=0
for fixture in deepseek_v2_lite deepseek_v2 deepseek_v3 deepseek_v3_fp8 kimi_k2 glm4_moe_lite youtu deepseek_v32 glm_moe_dsa \
    minicpm3 minicpm3_longrope mistral4 hy_v4 kimi_linear bailing_hybrid; do
    if [ "${TEST_ALL:-}" ]; then some=("${types[@]}"); else some=("${types[turn++ % 3]}"); fi
    for type in "${some[@]}"; do
        "$convert" --model $fixtures/$fixture --to $type --out "$out" --threads 1 --quiet
        same $? 0 "$fixture to $type"
        "$convert" --model $fixtures/$fixture --to $type --out "$tmp/other.gguf" --threads 7 --quiet --force
        same "$(cmp "$out" "$tmp/other.gguf" 2>&1)" "" "$fixture to $type with 7 threads"
        same "$("$generate" --model "$out" --tokens "1 2 3" -n 4 --print-tokens --quiet --ignore-eos | wc -w)" 4 "$fixture as $type"
        rm -f "$out"
    done
done

# The model of examples/tales: its own words, whether its weights become q8 in a file or while loading; text of both ends.
tales="--prompt Once --temp 0 -n 40 --quiet"
tokenizer="--tokenizer examples/tales/tokenizer.json"
# shellcheck disable=SC2086
{
    want=$("$generate" --model examples/tales $tales)
    "$convert" --model examples/tales --to keep --out "$out" --quiet
    same "$("$generate" --model "$out" $tokenizer $tales)" "$want" 'tales, kept'
    same "$("$generate" --model "$out" $tales)" "$want" 'tales, kept, with the tokenizer inside'
    want=$("$generate" --model examples/tales --quant q8 $tales)
    "$convert" --model examples/tales --to q8 --quant-class kv_b=keep,embed=keep --out "$out" --quiet --force
    same "$("$generate" --model "$out" $tokenizer $tales)" "$want" 'tales in q8'
    "$convert" --model examples/tales --to q8 --mtp --out "$out" --quiet --force
    same "$("$generate" --model "$out" $tokenizer $tales | wc -w)" "$("$generate" --model "$out" --mtp $tokenizer $tales | wc -w)" '--mtp'
}
same "$(grep -c -a -F 'deepseek-v3' "$out") $(grep -c -a -F 'tokenizer.ggml.merges' "$out")" '1 1' 'the tokenizer is inside'

# From a GGUF file to another: keys of its tokenizer and the author stay. Over itself, too.
"$programs/test_convert" --large "$tmp/large.gguf"
for type in q4 q4_k q5_k q6_k iq4_nl bf16 keep; do
    "$convert" --model "$tmp/large.gguf" --to $type --out "$out" --force --quiet
    same "$("$generate" --model "$out" --tokens "1 2 3" -n 4 --print-tokens --quiet | wc -w)" 4 "GGUF to $type"
    same "$(grep -c -a -F nobody "$out")" 1 "keys of a GGUF file to $type"
done
cp "$tmp/large.gguf" "$out"
"$convert" --model "$out" --to q8 --out "$out" --force --quiet
same "$? $(ls "$tmp/out")" '0 model.gguf' 'a file over itself'
same "$("$generate" --model "$out" --info | grep -c Q8_0)" 1 'a file over itself'

# What it says
say=$("$convert" --model "$tmp/large.gguf" --to q4_k --out "$out" --force 2>&1)
same "$(grep -c '13 tensors: 4 f32, 2 q8, 7 q4_k; ' <<<"$say") $(wc -l <<<"$say")" '1 1' "the last line ($say)"
rm -f "$out"

# A tokenizer and a template from elsewhere
mkdir "$tmp/dir"
cp $fixtures/deepseek_v3/config.json $fixtures/deepseek_v3/model.safetensors "$tmp/dir/"
echo '{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"added_tokens":[]}' >"$tmp/dir/tokenizer.json"
refused 1 'the patterns of pre_tokenizer have no name' "$convert" --model "$tmp/dir" --to q8 --out "$out"
printf '%s' '{{ messages }}-jinja' >"$tmp/dir/chat_template.jinja"
printf '%s' '{"chat_template":"of-the-config"}' >"$tmp/dir/tokenizer_config.json"
"$convert" --model "$tmp/dir" --to q8 --out "$out" --pre tekken --quiet
same "$? $(grep -c -a -F 'messages }}-jinja' "$out") $(grep -c -a -F of-the-config "$out")" '0 1 0' 'chat_template.jinja'
rm "$tmp/dir/chat_template.jinja"
"$convert" --model "$tmp/dir" --to q8 --out "$out" --pre tekken --quiet --force
same "$(grep -c -a -F of-the-config "$out")" 1 'chat_template of tokenizer_config.json'
rm "$out"
echo '{' >"$tmp/dir/tokenizer.json"
refused 1 'tokenizer.json' "$convert" --model "$tmp/dir" --to q8 --out "$out"
"$convert" --model "$tmp/dir" --to q8 --out "$out" --no-tokenizer --quiet
same $? 0 '--no-tokenizer'
rm "$out"

# A tiktoken.model: every byte and one merge; the ids do not fit a small vocabulary, which is said.
rm -f "$tmp/dir/tokenizer.json" "$tmp/dir/tokenizer_config.json"
letters=ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/ # of base64
for ((i = 0; i < 256; i++)); do echo "${letters:i >> 2:1}${letters:(i & 3) << 4:1}== $i"; done >"$tmp/dir/tiktoken.model"
echo 'YWI= 256' >>"$tmp/dir/tiktoken.model"
refused 1 'tiktoken.model: it has ids up to 512, but vocab_size is 256' "$convert" --model "$tmp/dir" --to q8 --out "$out"
python=$(python3 -c 'import sys; print(sys.executable)') # itself: a script that finds it may take longer than it does
if [ "$python" ]; then
    "$python" - "$tmp/dir" <<'EOF'
import json, struct, sys
config = json.load(open(sys.argv[1] + "/config.json"))
config["vocab_size"] = 520
json.dump(config, open(sys.argv[1] + "/config.json", "w"))
with open(sys.argv[1] + "/model.safetensors", "rb") as f:
    head, data = json.loads(f.read(struct.unpack("<Q", f.read(8))[0])), f.read()
out, chunks, at = {}, [], 0
for name, t in head.items():
    if name == "__metadata__":
        continue
    chunk = data[t["data_offsets"][0]:t["data_offsets"][1]]
    if t["shape"][0] == 256 and name.split(".")[-2] in ("embed_tokens", "lm_head"):
        chunk, t["shape"][0] = (chunk * 3)[:len(chunk) // 256 * 520], 520
    t["data_offsets"] = [at, at + len(chunk)]
    out[name], at = t, at + len(chunk)
    chunks.append(chunk)
with open(sys.argv[1] + "/model.safetensors", "wb") as f:
    text = json.dumps(out).encode()
    f.write(struct.pack("<Q", len(text)) + text + b"".join(chunks))
EOF
    "$convert" --model "$tmp/dir" --to q8 --out "$out" --quiet
    same "$? $(printf 'ab ba\0' | "$generate" --model "$out" --tokenize)" '0 256 32 98 97' 'tiktoken.model inside'
    "$convert" --model "$tmp/dir" --tokenizer "$tmp/dir/tiktoken.model" --to q8 --out "$tmp/other.gguf" --quiet --force
    same "$(cmp "$out" "$tmp/other.gguf" 2>&1)" '' '--tokenizer tiktoken.model'
    rm -f "$out"
fi

# Refusals
v3=$fixtures/deepseek_v3
refused 1 longcat_flash "$convert" --model $fixtures/longcat_flash --to q8 --out "$out"
refused 1 axk1 "$convert" --model $fixtures/axk1 --to q8 --out "$out"
refused 1 'has no layer for guesses ahead' "$convert" --model $fixtures/kimi_k2 --to q8 --out "$out" --mtp
refused 1 'config.json' "$convert" --model "$tmp/nowhere" --to q8 --out "$out"
refused 1 'cannot be written' "$convert" --model $v3 --to q8 --out "$tmp/no/where.gguf"
refused 1 'is a directory' "$convert" --model $v3 --to q8 --out "$tmp/out"
touch "$tmp/there"
refused 1 'is there already' "$convert" --model $v3 --to q8 --out "$tmp/there"
refused 1 'cannot read' "$convert" --model $v3 --to q8 --out "$out" --tokenizer "$tmp/none.json"
refused 2 '--model is missing' "$convert" --to q8 --out "$out"
refused 2 '--to is missing' "$convert" --model $v3 --out "$out"
refused 2 '--out is missing' "$convert" --model $v3 --to q8
refused 2 'a value is missing' "$convert" --model $v3 --to q8 --out
refused 2 'is none of keep, f16' "$convert" --model $v3 --to q3 --out "$out"
refused 2 'is not CLASS=TYPE' "$convert" --model $v3 --to q8 --out "$out" --quant-class head
refused 2 "'heads' is none of" "$convert" --model $v3 --to q8 --out "$out" --quant-class heads=q8
refused 2 'is not in 1..4096' "$convert" --model $v3 --to q8 --out "$out" --threads 0
refused 2 "unknown option '--fast'" "$convert" --model $v3 --to q8 --out "$out" --fast
refused 2 'excludes' "$convert" --model $v3 --to q8 --out "$out" --no-tokenizer --pre x
same "$("$convert" --help | head -c 14) $("$convert" --help | awk 'length > 80' | wc -l) $("$convert" -h | wc -l)" 'usage: convert 0 22' '--help'
same "$("$convert" --version)" "convert $(sed -n 's/^#define MLA_VERSION *"\(.*\)"/\1/p' mla.h)" '--version'
"$convert" --help >/dev/full 2>"$tmp/stderr"
same "$? $(wc -l <"$tmp/stderr")" '1 1' 'help to a full disk'

# What is no file stays what it is.
mkfifo "$tmp/pipe"
refused 1 'pipe is no regular file' "$convert" --model $v3 --to q8 --out "$tmp/pipe" --no-tokenizer --force
same "$([ -p "$tmp/pipe" ] && echo a pipe)" 'a pipe' 'a pipe under --force'

# A full disk: a limit on the size of files, a device that is full, and where it can be mounted a small file system.
limited() { (ulimit -f 300 && exec "$@"); } # KB; of the file there would be 549, and what make coverage counts takes 106
refused 1 'cannot be written' limited "$convert" --model $v3 --to q8 --out "$out" --no-tokenizer
ln -s /dev/full "$out.partial"
refused 1 'the disk is full' "$convert" --model $v3 --to q8 --out "$out" --no-tokenizer
if mkdir "$tmp/small" && mount -t tmpfs -o size=256k tmpfs "$tmp/small" 2>/dev/null; then
    refused 1 'the disk is too small' "$convert" --model $v3 --to q8 --out "$tmp/small/a.gguf" --no-tokenizer
    refused 1 'the disk is full' "$convert" --model $v3 --to q8 --out "$tmp/small/a.gguf" --no-tokenizer --force
    same "$(ls -A "$tmp/small")" '' 'a small file system'
    umount "$tmp/small"
else
    echo 'no file system can be mounted here: left out'
fi

# Signals, at several times: nothing is left, also of what was there before a conversion over it that has not ended.
if [ "$python" ]; then
    delays=0.05 rows=100000
    [ "${TEST_ALL:-}" ] && delays='0.05 0.2 0.5' rows=400000 # that take longer than these
    "$python" - $fixtures/deepseek_v2_lite "$tmp/big" $rows <<'EOF'
import json, os, struct, sys
config = json.load(open(sys.argv[1] + "/config.json"))
rows = int(sys.argv[3])
config.update(vocab_size=rows)
with open(sys.argv[1] + "/model.safetensors", "rb") as f:
    n = struct.unpack("<Q", f.read(8))[0]
    head, data = json.loads(f.read(n)), f.read()
size, out, at = rows * 64 * 2, {}, 0
chunks = []
for name, t in head.items():
    if name == "__metadata__":
        continue
    begin, end = t["data_offsets"]
    large = name in ("model.embed_tokens.weight", "lm_head.weight")
    chunk = (data[begin:begin + 4096] * (size // 4096 + 1))[:size] if large else data[begin:end]
    out[name] = {"dtype": t["dtype"], "shape": [rows, 64] if large else t["shape"], "data_offsets": [at, at + len(chunk)]}
    at += len(chunk)
    chunks.append(chunk)
os.mkdir(sys.argv[2])
json.dump(config, open(sys.argv[2] + "/config.json", "w"))
with open(sys.argv[2] + "/model.safetensors", "wb") as f:
    text = json.dumps(out).encode()
    text += b" " * (-len(text) % 8)
    f.write(struct.pack("<Q", len(text)) + text)
    for chunk in chunks:
        f.write(chunk)
EOF
    for signal in INT TERM HUP; do
        for delay in $delays; do
            echo old >"$out"
            "$python" -c 'import os, signal, sys
for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(s, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])' "$convert" --model "$tmp/big" --to iq4_nl --out "$out" --force --threads 1 2>"$tmp/stderr" &
            pid=$!
            while [ ! -e "$out.partial" ] && kill -0 $pid 2>/dev/null; do sleep 0.01; done
            sleep $delay
            kill -$signal $pid
            wait $pid
            same "$? $(ls -A "$tmp/out") $(cat "$out") $(grep -c interrupted "$tmp/stderr")" \
                "$((128 + $(kill -l $signal))) model.gguf old 1" "SIG$signal after $delay s"
        done
    done
else
    echo 'python3 is not here: signals are left out'
fi

[ "$root" = "$PWD" ] || exit 1
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
