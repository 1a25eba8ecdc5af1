// judge.mjs - holds mla.h's logits and greedy tokens against llama.cpp's; run.sh says what is compared and why the bounds are these.
//     node tests/llamacpp/judge.mjs DIR TMP [all] [--report]    DIR: where llama.cpp is installed; TMP: an empty directory
//     NODE_PATH=DIR: where the packages of tokenizers are; empty: no published tokenizers are compared
// Run from the repository root. The last line is "PASSED FAILED".
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { load, open } from './llama.mjs';
import { SHAPES, synthetic } from './synthetic.mjs';

const [dir, tmp] = process.argv.slice(2), all = process.argv.includes('all'), report = process.argv.includes('--report');
const PROMPT = 48, GREEDY = 16, SEEDS = 16;
const EPS = { '.attention.layer_norm_rms_epsilon': 1e-6 };
// what is written how, and what is changed in the file for both
const CASES = [
    { name: 'deepseek_v3', form: 'split' },
    { name: 'deepseek_v2', form: 'split', change: { '.expert_group_count': 1, '.expert_group_used_count': 1 } },
    { name: 'small27', types: ['f32', 'q8_0', 'q4_k'] }, // V2-Lite's kind
    { name: 'kimi_k2', form: 'split', change: EPS },
    { name: 'glm4_moe_lite', form: 'split', change: EPS },
    { name: 'youtu', form: 'split' },
    { name: 'mistral4', form: 'split' },
    { name: 'minicpm3', form: 'whole' },
    { name: 'kimi_linear', form: 'split' },
    { name: 'bailing_hybrid', form: 'split' },
    { name: 'hy_v4', form: 'split', change: { '.attention.indexer.top_k': 256 } },
    { name: 'examples/tales', form: 'split', trained: true },
];

let passed = 0, failed = 0;
function check(ok, what) {
    if (ok) passed++;
    else failed++, console.log(what);
}

// The value of a key whose name ends so, in place.
function change(file, keys) {
    const b = fs.readFileSync(file);
    for (const [name, value] of Object.entries(keys)) {
        const at = b.indexOf(name) + name.length, type = b.readUInt32LE(at);
        if (at < name.length || (type !== 4 && type !== 6)) throw new Error(`${file} has no number ${name}`);
        if (type === 6) b.writeFloatLE(value, at + 4);
        else b.writeUInt32LE(value, at + 4);
    }
    fs.writeFileSync(file, b);
}

function write(c, type, file, seed) {
    if (SHAPES[c.name]) synthetic(file, SHAPES[c.name], type);
    else execFileSync('build/test_gguf', ['--write', c.name, type, c.form, file, ...(seed ? [String(seed)] : [])]);
    if (c.change) change(file, c.change);
}

const softmax = (l) => {
    const top = l.reduce((a, b) => Math.max(a, b)), e = Float64Array.from(l, (x) => Math.exp(x - top)), sum = e.reduce((a, b) => a + b);
    return e.map((x) => x / sum);
};
const best = (l) => l.reduce((b, x, i) => (x > l[b] ? i : b), 0);
const furthest = (a, b) => a.reduce((m, x, i) => Math.max(m, Math.abs(x - b[i])), 0);
const mean = (a) => a.reduce((x, y) => x + y, 0) / a.length;

// { logits, p: [PROMPT][vocabulary], tokens: [GREEDY] }
function ours(file, prompt, activations = 'f32') {
    const out = path.join(tmp, 'logits.f32');
    const text = execFileSync('build/generate', ['--model', file, '--tokens', prompt.join(' '), '-n', String(GREEDY), '--ignore-eos', '--print-tokens', '--quiet',
        '--logits', out, '--activations', activations, '--threads', '1'], { encoding: 'utf8' });
    const b = fs.readFileSync(out), flat = new Float32Array(b.buffer, b.byteOffset, b.length / 4), n = flat.length / prompt.length;
    const logits = prompt.map((_, i) => flat.slice(i * n, (i + 1) * n));
    return { logits, p: logits.map(softmax), tokens: text.trim().split(' ').map(Number) };
}

async function theirs(llama, file, prompt) {
    const run = await open(llama, file, { threads: 1, context: 256, batch: 64, cache: 'f32' });
    const places = await run.feed(prompt, { all: true }), logits = [], tokens = [];
    for (const place of places) logits.push(await run.logits(place));
    for (let place = places.at(-1); tokens.length < GREEDY;) {
        tokens.push(await run.greedy(place));
        [place] = await run.feed([tokens.at(-1)]);
    }
    await run.close();
    return { logits, p: logits.map(softmax), tokens };
}

function prompt_of(c) {
    if (!c.name.includes('/')) return Array.from({ length: PROMPT }, (_, i) => (i * i * 31 + i * 67 + 41) % 254 + 2);
    const text = 'Once upon a time the Rat said to the Mole that the river was the best of all places, and the Mole went with him in the boat, and they had '
        + 'their dinner under the trees. But the King had a daughter, and she was so beautiful that the sun himself was astonished';
    return execFileSync('build/generate', ['--model', c.name, '--tokenize'], { input: text, encoding: 'utf8' }).trim().split(/\s+/).map(Number).slice(0, PROMPT);
}

// How far the probabilities of each position move (root mean square of the seeds) if each weight is off by up to 2^-11 of itself.
function sensitivity(c, base, prompt) {
    const squares = new Array(PROMPT).fill(0);
    for (let seed = 1; seed <= SEEDS; seed++) {
        const file = path.join(tmp, 'jitter.gguf');
        write(c, 'f32', file, seed);
        ours(file, prompt).p.forEach((p, i) => { squares[i] += furthest(p, base.p[i]) ** 2 / SEEDS; });
    }
    return squares.map(Math.sqrt);
}

// Best and greedy tokens are the same; those that are not differ in probability by less than both could move: they are undecided.
function same_tokens(what, file, prompt, a, b, explained) {
    let undecided = 0;
    const one = (p, x, y, i, where) => {
        if (x !== y && explained && p[x] - p[y] <= 2 * explained[i]) undecided++;
        else check(x === y, `${what}: ${where} is ${x} with ${p[x].toExponential(2)} here and ${y} with ${p[y].toExponential(2)} in llama.cpp`);
    };
    a.p.forEach((p, i) => one(p, best(a.logits[i]), best(b.logits[i]), i, `the best token at ${i}`));
    const k = a.tokens.findIndex((t, i) => t !== b.tokens[i]);
    if (k < 0) check(true);
    else { // behind it the texts are different ones
        const p = ours(file, [...prompt, ...a.tokens.slice(0, k)]).p.at(-1);
        one(p, a.tokens[k], b.tokens[k], explained?.indexOf(Math.max(...explained)), `greedy token ${k}`);
    }
    return `of ${PROMPT} best tokens and ${GREEDY} greedy ones ${undecided} undecided`;
}

async function judge(llama, c, type) {
    const file = path.join(tmp, 'model.gguf'), what = `${c.name} as ${type}`, prompt = prompt_of(c);
    write(c, type, file);
    const a = ours(file, prompt), b = await theirs(llama, file, prompt);
    const off = a.p.map((p, i) => furthest(p, b.p[i]));
    let line = `${what}: probabilities differ by up to ${Math.max(...off).toExponential(1)}`;
    if (type === 'f32') {
        const largest = Math.max(...a.logits.map((l) => l.reduce((m, x) => Math.max(m, Math.abs(x)), 0)));
        const worst = Math.max(...a.logits.map((l, i) => furthest(l, b.logits[i]))) / largest;
        check(worst < 5e-5, `${what}: a logit differs by ${worst.toExponential(1)} of the largest`);
        line += `, logits by ${worst.toExponential(1)} of the largest; ${same_tokens(what, file, prompt, a, b)}`;
    } else if (type === 'f16') {
        const explained = sensitivity(c, a, prompt).map((x) => 4 * x), ratio = off.map((x, i) => x / explained[i]), worst = best(ratio);
        check(ratio[worst] <= 1, `${what}: at ${worst} a probability differs by ${off[worst].toExponential(1)}, f16 explains ${explained[worst].toExponential(1)}`);
        line += `, ${ratio[worst].toFixed(2)} of what f16 explains, ${mean(ratio).toFixed(2)} on average; `
            + same_tokens(what, file, prompt, a, b, c.trained ? undefined : explained);
    } else {
        const rounded = ours(file, prompt, 'auto'), own = mean(a.p.map((p, i) => furthest(p, rounded.p[i])));
        check(mean(off) <= 2 * own, `${what}: probabilities differ by ${mean(off).toExponential(1)} on average, int8 activations here change ${own.toExponential(1)}`);
        line += `, by ${mean(off).toExponential(1)} on average, int8 activations here change ${own.toExponential(1)}`;
    }
    if (report) console.log(line);
}

// The same file in two parts gives the same bits.
async function judge_split(llama, c) {
    const prompt = prompt_of(c), file = path.join(tmp, 'model.gguf'), first = path.join(tmp, 'two-00001-of-00002.gguf');
    write(c, 'f16', file), write({ ...c, change: undefined }, 'f16', first);
    const a = [ours(file, prompt), ours(first, prompt)], b = [await theirs(llama, file, prompt), await theirs(llama, first, prompt)];
    for (const [who, [x, y]] of [['mla.h', a], ['llama.cpp', b]])
        check(x.logits.every((l, i) => !furthest(l, y.logits[i])) && `${x.tokens}` === `${y.tokens}`, `${c.name} in two parts: ${who} gives other logits`);
}

async function judge_texts(llama, file, texts, what) {
    const run = await open(llama, file, { threads: 1, context: 64, batch: 64, cache: 'f32' });
    const lines = execFileSync('build/generate', ['--model', file, '--tokenize'], { input: texts.join('\0') + '\0', encoding: 'utf8' }).split('\n');
    texts.forEach((text, i) => check(lines[i].trim() === run.tokenize(text).join(' '), `${what}: other tokens of ${text.slice(0, 60)}`));
    await run.close();
}

// The demo model as build/convert writes it, with its tokenizer: read, as close as above, and texts are the same tokens.
async function judge_converted(llama) {
    const prompt = prompt_of(CASES.at(-1)), file = path.join(tmp, 'converted.gguf');
    const texts = fs.readFileSync('README.md', 'utf8').split('\n').filter((line) => line.trim());
    for (const type of ['q8', 'q4_k']) {
        execFileSync('build/convert', ['--model', 'examples/tales', '--to', type, '--out', file, '--force', '--quiet']);
        const a = ours(file, prompt), b = await theirs(llama, file, prompt), rounded = ours(file, prompt, 'auto');
        const off = mean(a.p.map((p, i) => furthest(p, b.p[i]))), own = mean(a.p.map((p, i) => furthest(p, rounded.p[i])));
        check(off <= 2 * own, `converted to ${type}: probabilities differ by ${off.toExponential(1)}, int8 activations here change ${own.toExponential(1)}`);
        await judge_texts(llama, file, texts, `converted to ${type}`);
        if (report) console.log(`examples/tales converted to ${type}: probabilities differ by ${off.toExponential(1)}, int8 changes ${own.toExponential(1)}`);
    }
    // The same tokens cut as Ling 3's files say, whose name is as long.
    const bytes = fs.readFileSync(file), at = bytes.indexOf('deepseek-v3', bytes.indexOf('tokenizer.ggml.pre'));
    bytes.write('bailingmoe2', at);
    fs.writeFileSync(file, bytes);
    await judge_texts(llama, file, [...texts, ...ODD.filter((text) => text)], 'bailingmoe2');
}

// Published tokenizers of SentencePiece's kind, and a tiktoken.model, as build/convert writes them into a small model: lines and odd texts are the
// tokens of the original, here and in llama.cpp. (Special tokens in a text are tokens for all.)
const ODD = ['', ' ', '  ', '   a', ' a', 'a ', 'a  b', '\n', '\n\n\n', '\t\t', `${' '.repeat(40)}x`, '\n'.repeat(70), '▁', '▁▁a', ' ▁ ', '<s>', '</s>hello', 'hi <s> there', '<s>[INST] hi [/INST]',
    'hi<s>there', '<unk>', '<0x0A>', '👩‍👩‍👧‍👦 ok', '\u{10FFFF}', '\u0001\u0002', 'naïve Straße', '你好，世界。', 'あア한국', '日本語 𠀀𠀁', '\u200d', '\ufeff', 'x\u0300\u0301', '[EOS]', ' \r\n \t ',
    '<start_of_turn>user\nhi<end_of_turn>\n', '<table><tr>', '[multimodal]', '<|im_user|>user', "I'll don't", '1234567 12,345.678', 'a'.repeat(300), 'ab'.repeat(200), '\u{1F3F4}\u{E0067}\u{E0062}'];

function tiktoken_model(require) { // cl100k's ranks with some of Kimi's special tokens
    const ranks = [], folder = path.join(tmp, 'tiktoken'), file = path.join(folder, 'tiktoken.model'), decoder = {};
    for (const line of require('tiktoken/encoders/cl100k_base.json').bpe_ranks.split('\n').filter((l) => l)) { // "! START TOKEN TOKEN ..."
        const [, start, ...tokens] = line.split(' ');
        tokens.forEach((token, i) => { ranks[+start + i] = `${token} ${+start + i}`; });
    }
    ['[BOS]', '[EOS]', '<|im_end|>', '<|im_user|>'].forEach((content, i) => { decoder[ranks.length + i] = { content, special: true }; });
    fs.mkdirSync(folder);
    fs.writeFileSync(file, `${ranks.join('\n')}\n`), fs.writeFileSync(path.join(folder, 'tokenizer_config.json'), JSON.stringify({ added_tokens_decoder: decoder }));
    return [file, ranks.length + 256];
}

async function judge_tokenizers(llama, modules) {
    const require = createRequire(path.resolve(modules, 'x.js')), small = path.join(tmp, 'small.gguf'), made = path.join(tmp, 'made.gguf');
    const texts = [...ODD, ...fs.readFileSync('README.md', 'utf8').split('\n'), ...fs.readFileSync('examples/jinja.h', 'utf8').split('\n\n').slice(0, 300)];
    const tokens = (...a) => execFileSync('build/generate', [...a, '--tokenize'], { input: `${texts.join('\0')}\0`, encoding: 'utf8', maxBuffer: 1 << 28 }).split('\n');
    for (const name of ['llama2', 'gemma3', 'tiktoken']) {
        let file = path.join(modules, `@lenml/tokenizer-${name}/models/tokenizer.json`), size;
        if (name === 'tiktoken') [file, size] = tiktoken_model(require);
        else {
            const json = JSON.parse(fs.readFileSync(file));
            size = [...Object.values(json.model.vocab), ...json.added_tokens.map((a) => a.id)].reduce((a, b) => Math.max(a, b)) + 1;
        }
        synthetic(small, { ...SHAPES.tiny, vocab: size }, 'f16');
        execFileSync('build/convert', ['--model', small, '--to', 'keep', '--tokenizer', file, '--out', made, '--force', '--quiet']);
        const want = tokens('--tokenizer', file), ours = tokens('--model', made), run = await open(llama, made, { threads: 1, context: 64, batch: 64, cache: 'f32' });
        texts.forEach((text, i) => {
            const shown = JSON.stringify(text).slice(0, 60);
            check(ours[i] === want[i], `${name} as GGUF: other tokens of ${shown}`);
            // llama.cpp cuts Kimi's words in its own way where capitals follow small letters, as in xE4
            if (name !== 'tiktoken' || !/\p{Ll}\p{Lu}/u.test(text)) check(run.tokenize(text).join(' ') === want[i].trim(), `${name}: llama.cpp has other tokens of ${shown}`);
        });
        await run.close();
    }
}

const llama = await load(dir);
for (const c of CASES)
    for (const type of c.types ?? (all ? ['f32', 'f16', 'q8_0', 'q4_k'] : ['f32', 'f16'])) await judge(llama, c, type);
await judge_split(llama, CASES.at(-1));
await judge_converted(llama);
if (process.env.NODE_PATH) await judge_tokenizers(llama, process.env.NODE_PATH);
console.log(`${passed} ${failed}`);
process.exit(0); // the threads of llama.cpp do not end by themselves
