// llamacpp.mjs - llama.cpp and mla.h on the same GGUF file with the same threads, in turns.
//     node bench/llamacpp.mjs [--type q4_k|q8_0] [--file FILE.gguf] [--threads 2] [--rounds 3] [--only decode,prefill,deep]
//         [--flash auto|on|off] [--json] [--keep]
// Without --file it writes DeepSeek-V2-Lite's layers, 6 of 27, with random weights (tests/llamacpp/synthetic.mjs: 1.8 GB for q4_k, 3.2 GB for
// q8_0) into build/llamacpp, and removes it at the end if not told to --keep it. llama.cpp is what the npm package node-llama-cpp brings for
// the CPU, which is installed there too; build/generate must be built.
//     decode    tokens/s of 192 tokens, one by one, from an empty cache on
//     prefill   tokens/s of a prompt of 512
//     deep      tokens/s of 24 tokens, one by one, behind a prompt of 4096, and of that prompt
// The caches are f16 in both, the activations what each chooses, llama.cpp's flash attention what it
// chooses (or --flash says), its batch 512 tokens as it is by
// default, ours what generate has by default. llama.cpp keeps its process, its mapped file and its context through all rounds; generate
// starts anew each time, and its times have the page faults of the first touch. Medians over the rounds; above 1, mla.h is faster.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { install, load, open } from '../tests/llamacpp/llama.mjs';
import { SHAPES, synthetic } from '../tests/llamacpp/synthetic.mjs';

const root = path.resolve(import.meta.dirname, '..'), dir = path.join(root, 'build/llamacpp');
const PROMPT = 512, DEEP = 4096, TOKENS = { decode: 192, deep: 24 };

const { values: o } = parseArgs({
    options: {
        type: { type: 'string', default: 'q4_k' }, file: { type: 'string' }, threads: { type: 'string', default: String(os.availableParallelism()) },
        rounds: { type: 'string', default: '3' }, only: { type: 'string', default: 'decode,prefill,deep' },
        flash: { type: 'string', default: 'auto' }, json: { type: 'boolean' }, keep: { type: 'boolean' },
    },
});
const threads = Number(o.threads), rounds = Number(o.rounds), only = o.only.split(',');
if (!(threads >= 1 && rounds >= 1) || !['q4_k', 'q8_0'].includes(o.type) || only.some((x) => !['decode', 'prefill', 'deep'].includes(x))) {
    console.error('llamacpp.mjs: --threads and --rounds are numbers from 1, --type is q4_k or q8_0, --only some of decode, prefill, deep');
    process.exit(2);
}

const ids = (n) => Array.from({ length: n }, (_, i) => (i * 7919 + 11) % 30000 % vocabulary);
const seconds = async (f) => {
    const begin = process.hrtime.bigint();
    await f();
    return Number(process.hrtime.bigint() - begin) * 1e-9;
};

// tokens/s of a prompt of this many tokens, and of n made behind it
async function theirs(run, prompt, n) {
    const all = ids(prompt);
    let place, made = 0, one;
    run.clear();
    const first = await seconds(async () => {
        for (let i = 0; i < prompt; i += 512) [place] = await run.feed(all.slice(i, i + 512));
    });
    for (let i = 0; i < n; i++) {
        const next = await run.greedy(place);
        made += await seconds(async () => { [one] = await run.feed([next]); });
        place = one;
    }
    return [prompt / first, n / made];
}

function ours(file, prompt, n) { // the last token is not fed
    const args = ['--model', file, '--tokens', ids(prompt).join(' '), '-n', String(n + 1), '--ignore-eos', '--json', '--quiet', '--cache', 'f16'];
    const r = JSON.parse(execFileSync(path.join(root, 'build/generate'), [...args, '--threads', String(threads), '--ctx', String(prompt + n + 1)]));
    return [prompt / r.prompt_seconds, r.tokens_per_s];
}

const median = (a) => {
    const s = [...a].sort((x, y) => x - y), n = s.length;
    return n % 2 ? s[(n - 1) / 2] : (s[n / 2 - 1] + s[n / 2]) / 2;
};

install(dir);
const file = o.file ?? path.join(dir, `lite6_${o.type}.gguf`);
if (!o.file && !fs.existsSync(file)) synthetic(file, SHAPES.lite6, o.type);
const vocabulary = JSON.parse(execFileSync(path.join(root, 'build/generate'), ['--model', file, '--info', '--json'])).vocab_size;
const llama = await load(dir);
const run = await open(llama, path.resolve(file), { threads, context: DEEP + 256, batch: 512, flash: o.flash === 'auto' ? 'auto' : o.flash === 'on' });
const rows = { decode: 'decode, depth 0', prefill: 'prefill, 512 tokens', long: 'prefill, 4096 tokens', deep: 'decode, depth 4096' };
const speeds = Object.fromEntries(Object.keys(rows).map((k) => [k, { llama: [], mla: [] }]));
const note = (k, who, v) => speeds[k][who].push(v);
await theirs(run, 32, 2), ours(file, 32, 2); // warm
for (let i = 0; i < rounds; i++)
    for (const who of i % 2 ? ['mla', 'llama'] : ['llama', 'mla']) {
        const go = (prompt, n) => (who === 'mla' ? ours(file, prompt, n) : theirs(run, prompt, n));
        if (only.includes('decode')) note('decode', who, (await go(1, TOKENS.decode))[1]);
        if (only.includes('prefill')) note('prefill', who, (await go(PROMPT, 1))[0]);
        if (!only.includes('deep')) continue;
        const [long, deep] = await go(DEEP, TOKENS.deep);
        note('long', who, long), note('deep', who, deep);
    }
await run.close();
if (!o.file && !o.keep) fs.unlinkSync(file);

const table = Object.keys(rows).filter((k) => speeds[k].mla.length).map((k) => {
    const { llama: a, mla: b } = speeds[k];
    return { what: rows[k], llama_tokens_per_s: median(a), mla_tokens_per_s: median(b), ratio: median(b) / median(a), llama: a, mla: b };
});
if (o.json) console.log(JSON.stringify({ file: path.basename(file), bytes_type: o.file ? undefined : o.type, threads, cpu: os.cpus()[0].model, llama_cpp: llama.release, rows: table }));
else {
    console.log(`${path.basename(file)}, ${threads} threads, ${os.cpus()[0].model}, llama.cpp ${llama.release}; tokens/s, medians of ${rounds}`);
    console.log(`${'what'.padEnd(22)}${'llama.cpp'.padStart(12)}${'mla.h'.padStart(12)}${'ratio'.padStart(9)}   each round (llama.cpp; mla.h)`);
    for (const r of table) {
        const each = (a) => a.map((x) => x.toFixed(1)).join(' ');
        console.log(`${r.what.padEnd(22)}${r.llama_tokens_per_s.toFixed(1).padStart(12)}${r.mla_tokens_per_s.toFixed(1).padStart(12)}${r.ratio.toFixed(2).padStart(9)}   ${each(r.llama)}; ${each(r.mla)}`);
    }
}
process.exit(0); // the threads of llama.cpp do not end by themselves
