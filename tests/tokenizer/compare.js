// Compares a program's token ids with those of the npm packages `tokenizers` (each published tokenizer.json, and the same vocabularies with
// other steps) and `tiktoken` (a tiktoken.model with Kimi's pattern). The last line is the number of texts that passed and failed.
// NODE_PATH=DIR/node_modules node compare.js PROGRAM DIRECTORY COUNT FILE...
//     PROGRAM --tokenizer FILE --tokenize / --detokenize; DIRECTORY for its tokenizer files; COUNT texts are made up; the FILEs are texts too
'use strict';
const fs = require('fs'), path = require('path'), {spawnSync} = require('child_process');
const {Tokenizer} = require('tokenizers'), {Tiktoken} = require('tiktoken');
const [program, directory, count, ...files] = process.argv.slice(2);

// ---- random texts: bytes, without NUL
let state = 2024;
const random = n => { // 0..n-1 (mulberry32)
    state = (state + 0x6D2B79F5) | 0;
    let z = Math.imul(state ^ (state >>> 15), 1 | state);
    z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z;
    return Math.floor(((z ^ (z >>> 14)) >>> 0) / 4294967296 * n);
};
const pick = list => list[random(list.length)];
const many = (most, f) => Array.from({length: random(most + 1)}, f).join('');
const between = (first, last) => String.fromCodePoint(first + random(last - first + 1));
const code_point = () => {
    for (;;) {
        const c = pick([() => 1 + random(0x7F), () => random(0x800), () => random(0x3100), () => random(0x10000), () => 0x10000 + random(0x3000),
            () => 0x16000 + random(0x4000), () => 0x1D000 + random(0x2C00), () => random(0x110000)])();
        if (c && (c < 0xD800 || c > 0xDFFF)) return String.fromCodePoint(c);
    }
};
const spaces = [...'\t\n\v\f\r \x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2000\u2003\u200a\u200b\u200d\u2028\u2029\u202f\u205f\u2060\u3000\ufeff'];
const space = () => random(3) ? pick([' ', ' ', '  ', '\n', '\r\n', '\t']) : pick(spaces);
const word = () => pick([() => many(9, () => between(97, 122)), () => between(65, 90) + many(7, () => between(97, 122)),
    () => pick(['the', "don't", "I'll", 'naïve', 'Straße', 'été', 'ǆ', 'İ', 'ﬁn', 'e\u0301', 'ñ', 'ö', 'Ελλάδα', 'привет', 'שלום', 'مرحبا', 'हिन्दी', 'ไทย'])])();
const cjk = () => pick([() => between(0x4E00, 0x9FFF), () => between(0x3040, 0x30FF), () => between(0xAC00, 0xD7AF), () => between(0x3000, 0x303F),
    () => between(0xFF00, 0xFFEF), () => between(0x20000, 0x2A6DF), () => between(0x3100, 0x31FF), () => pick([...'你好，世界。我是一个模型！「あア」한국'])])();
const digit = () => pick([() => between(48, 57), () => between(48, 57), () => between(0x660, 0x669), () => between(0xFF10, 0xFF19),
    () => between(0x2160, 0x2188), () => between(0x2070, 0x2089), () => between(0x1D7CE, 0x1D7FF), () => pick(['½', '²', '〇', '三', '𖿴', '𑷠'])])();
const punctuation = () => pick([() => pick([...'!"#$%&\'()*+,-./:;<=>?@[\\]^_`{|}~']), () => pick([...'“”‘’…—–«»¿¡、。！？；：（）【】€£¥©®°±×÷→∞≠']),
    () => between(0x2010, 0x205E), () => between(0x2190, 0x23FF)])();
const person = () => pick([...'👨👩👧👦🧑👮🏳🏴❤✋🤝🐈']) + pick(['', '', '\u{1F3FB}', '\u{1F3FF}', '\ufe0f', '\ufe0e']);
const emoji = () => pick([() => person() + many(3, () => '\u200d' + person()), () => between(0x1F1E6, 0x1F1FF) + between(0x1F1E6, 0x1F1FF),
    () => between(0x1F300, 0x1FAFF), () => pick(['1️⃣', '🏴󠁧󠁢󠁥󠁮󠁧󠁿', '☺️', '👁️‍🗨️'])])();
const code = () => pick([() => '\n' + ' '.repeat(random(13)), () => pick(['for (int i = 0; i < n; i++) ', 'return x;', 'def f(self, *args):', '#include <stdio.h>', '</div>',
    'a->b', '=>', '...', '// NOTE', '"\\n"', "'\\''", '0x7fff_FFFF', '1.5e-3f', '{}', '};', '\t\t', '#ifdef', '@media', '$HOME', '--flag=1', 'std::vector<T>&&'])])();
const specials = ['<｜begin▁of▁sentence｜>', '<｜end▁of▁sentence｜>', '<｜User｜>', '<｜Assistant｜>', '<|EOT|>', '<｜▁pad▁｜>', '<｜fim▁hole｜>', '<｜tool▁sep｜>',
    '<｜place▁holder▁no▁7｜>', '<think>', '</think>', '<|begin_of_text|>', '<|endoftext|>', '<|im_start|>', '<tool_call>', '[INST]', '[/INST]', '<s>', '</s>', '<unk>',
    '<start_of_turn>', '<bos>', '▁', '▁▁', '[multimodal]', '<0x0A>', '<0xE4>', '\n\n\n', '<table>', '</h1>', '<|im_end|>', '<|im_user|>'];
const special = () => pick([() => pick(specials), () => pick(specials), () => pick(specials).slice(random(5)), () => pick(specials).slice(0, -1 - random(5)),
    () => '<' + pick(specials), () => space() + pick(specials) + space(), () => pick(['<', '｜', '>', 'ab', 'abc', 'bc', 'bcd', 'x y', 'aba', '[L]', '[R]', '[LR]'])])();
// letters with marks in any order, Hangul in parts, what decomposes and is not composed again
const mark = () => pick([() => between(0x300, 0x36F), () => between(0x300, 0x345), () => between(0x591, 0x5BD), () => between(0x64B, 0x652), () => between(0x1DC0, 0x1DFF),
    () => pick(['\u0301', '\u0327', '\u0323', '\u0334', '\u0345', '\u3099', '\u093C', '\u20D2', '\u{1D165}', '\u{1D16E}', '\u0F71', '\u0F72'])])();
const composed = () => pick([() => pick([...'aeiouAEIOUncsdyzÅåÄäéệǭΑαωЇиекกשאाক']) + many(4, mark), () => between(0x1100, 0x1112) + between(0x1161, 0x1175) + many(1, () => between(0x11A8, 0x11C2)),
    () => between(0xAC00, 0xD7A3) + many(1, () => between(0x11A7, 0x11C3)), () => between(0xC0, 0x24F), () => between(0x1E00, 0x1FFF), () => between(0xF900, 0xFAFF),
    () => between(0xFB1D, 0xFB4E), () => between(0x2126, 0x212B), () => between(0x958, 0x95F), () => between(0x1D15E, 0x1D164), () => between(0x2F800, 0x2FA1D), mark])();
const cased = () => pick([() => between(0x41, 0x5A), () => between(0x61, 0x7A), () => between(0x1C4, 0x1CC), () => between(0x2B0, 0x2C1), () => between(0x4E00, 0x4E20), mark,
    () => pick(["'s", "'S", "'ſ", "'RE", "'Ll", "'d", "'x", "’s"])])();
const any = () => pick([word, space, cjk, digit, punctuation, emoji, code, special, code_point, composed, cased])();
const broken = () => { // bytes that are no UTF-8, or were once
    const b = random(2) ? Buffer.from(Array.from({length: random(40)}, () => 1 + random(255))) : Buffer.from(many(20, any));
    for (let i = random(4); i > 0 && b.length; i--) b[random(b.length)] = 1 + random(255);
    return b.subarray(random(3), b.length - random(3));
};
const kinds = [() => many(60, code_point), () => many(40, () => word() + space()), () => many(40, cjk), () => many(40, () => random(4) ? digit() : any()),
    () => many(40, () => random(3) ? space() : any()), () => many(20, emoji), () => many(30, code), () => many(20, () => random(3) ? special() : any()), broken,
    () => many(60, any), () => pick([word, space, punctuation, code_point])().repeat(random(200)), () => many(50, () => random(2) ? punctuation() : any()), () => many(40, composed), () => many(40, () => random(4) ? cased() : any())];
const texts = [Buffer.alloc(0)];
while (texts.length < +count) texts.push(Buffer.from(kinds[texts.length % kinds.length]()));
for (const f of files) { // paragraph by paragraph
    const b = fs.readFileSync(f);
    for (let at = 0, end; at < b.length; at = end) {
        end = b.indexOf('\n\n', at);
        end = end < 0 ? b.length : end + 2;
        if (!b.subarray(at, end).includes(0)) texts.push(b.subarray(at, end));
    }
    if (b.length < 1 << 20 && !b.includes(0)) texts.push(b);
}

// ---- tokenizers
const published = name => JSON.parse(fs.readFileSync(path.join(process.env.NODE_PATH, `@lenml/tokenizer-${name}/models/tokenizer.json`)));
const v3 = published('deepseek_v3');
const split = (regex, behavior = 'Isolated', invert = false) => ({type: 'Split', pattern: {Regex: regex}, behavior, invert});
const byte_level = {type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false};
const sequence = (...list) => ({type: 'Sequence', pretokenizers: [...list, byte_level]});
const letters = 'A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼ' +
    'ℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃';
const v2_steps = [split('[\r\n]'), split(`\\s?[${letters}]+`), split('\\s?[!-/:-~！-／：-～‘-‟　-。]+'), split('\\s+$'), split('[一-龥ࠀ-一가-퟿]+')];
const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const upper = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]', lower = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]', gaps = '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
const kimi = `[\\p{Han}]+|[^\\r\\n\\p{L}\\p{N}]?${upper}*${lower}+${contractions}?|[^\\r\\n\\p{L}\\p{N}]?${upper}+${lower}*${contractions}?|\\p{N}{1,3}` +
    `| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${gaps}`;
const glm = `${contractions}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${gaps}`;
const cl100k = `'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s`;
const youtu = [split('[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+'),
    split(`[^\\r\\n\\p{L}\\p{N}]?((?=[\\p{L}])([^a-z]))*((?=[\\p{L}])([^A-Z]))+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${gaps}`)];
let next_id = 128815;
const added = [['ab', 0], ['abc', 0], ['bc', 1], ['bcd', 1], ['x y', 1], ['aba', 1], ['[L]', 0, 1, 0], ['[R]', 0, 0, 1], ['[LR]', 1, 1, 1], ['é', 1], ['<', 1], ['  ', 0],
    ['\n', 1, 1, 1]].map(([content, normalized, lstrip, rstrip], i) => ({id: v3.model.vocab[content] ?? next_id++, content, single_word: false, lstrip: !!lstrip, rstrip: !!rstrip,
    normalized: !!normalized, special: i % 3 === 0}));
const metaspace = (prepend_scheme, split) => ({type: 'Metaspace', replacement: '▁', prepend_scheme, split});
const pre = (...list) => ({...v3, pre_tokenizer: sequence(...list)});
const llama2 = () => published('llama2');
const variants = { // each made when it is needed
    v3: () => v3,
    llama3: () => published('llama3'),
    gpt4o: () => published('gpt4o'),
    mistral_nemo: () => published('mistral_nemo'),
    qwen3: () => published('qwen3'),
    llama2,
    gemma3: () => published('gemma3'),
    kimi: () => pre(split(kimi)),
    glm: () => pre(split(glm)),
    v2: () => pre(...v2_steps, {type: 'Digits', individual_digits: true}),
    youtu: () => pre(...youtu),
    cl100k: () => pre(split(cl100k)),
    classes: () => pre(split('\\s?\\p{L}+'), split(' ?[^\\s\\p{L}\\p{N}]+'), {type: 'Digits', individual_digits: false}, split('[\\p{M}\\-\\]a-f]{1,2}')),
    behaviors: () => pre(split('\\d', 'Removed'), split('[aeiou]', 'MergedWithPrevious'), split('\\s', 'MergedWithNext'), split('[.,!?]|\\p{Lo}', 'Contiguous'), split('\\p{M}', 'MergedWithNext', true)),
    lazy: () => pre(split('(?>a+|\\w+?(?=[aeiou])){1,3}|[^\\s\\w]+?$|^\\s{2,4}?|\\S{3}\\Z|.{2}|\\n*')),
    gpt2: () => ({...v3, pre_tokenizer: {type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true}}),
    marks: () => ({...v3, normalizer: {type: 'Sequence', normalizers: [{type: 'Prepend', prepend: '_'}, {type: 'NFC'}, {type: 'Replace', pattern: {Regex: '\\p{M}{2,}|[xyz]'}, content: '~~'}]},
        pre_tokenizer: sequence({type: 'Punctuation', behavior: 'Isolated'}, {type: 'Punctuation', behavior: 'Contiguous'})}),
    added: () => ({...v3, added_tokens: [...v3.added_tokens, ...added], post_processor: null, normalizer: null}),
    added_nfc: () => ({...v3, added_tokens: [...v3.added_tokens, ...added], normalizer: {type: 'NFC'}}),
    metaspace: () => ({...llama2(), normalizer: null, pre_tokenizer: metaspace('first', true)}),
    metaspaces: () => ({...llama2(), normalizer: {type: 'NFC'}, pre_tokenizer: {type: 'Sequence', pretokenizers: [split('\\d+'), metaspace('always', false)]}}),
    unknown: () => {
        const file = llama2();
        return {...file, model: {...file.model, byte_fallback: false, fuse_unk: false}};
    },
    unknowns: () => {
        const file = llama2(), {'<0xE4>': gone, ...vocab} = file.model.vocab;
        return {...file, model: {...file.model, vocab}};
    }
};

// ---- comparison
const run = (args, input) => {
    const r = spawnSync(program, args, {input, maxBuffer: 1 << 30});
    if (r.status !== 0) throw new Error(`${program} ${args.join(' ')}: status ${r.status}: ${r.error || r.stderr}`);
    return r.stdout;
};
const zero = Buffer.from([0]);
const joined = list => Buffer.concat(list.flatMap(t => [t, zero]));
let passed = 0, failed = 0;
const check = (equal, what, text, got, expected) => {
    if (equal) return passed++;
    if (++failed <= 5) console.log(`${what}: ${JSON.stringify(text.toString()).slice(0, 400)}\n  got      ${got}\n  expected ${expected}`);
};
const as_strings = texts.map(t => t.toString('utf8')); // what is no UTF-8 becomes U+FFFD
const tokenized = file => run(['--tokenizer', file, '--tokenize'], joined(texts)).toString().split('\n');
const bring_back = (name, file, lines) => {
    const got = run(['--tokenizer', file, '--detokenize'], lines.join('\n'));
    check(got.equals(joined(as_strings.map(t => Buffer.from(t)))), name + ': --detokenize is the inverse', zero, got.length, 'the texts');
};
const against_tokenizers = async (name, json) => {
    const file = path.join(directory, name + '.json'), text = JSON.stringify(json);
    fs.writeFileSync(file, text);
    const reference = Tokenizer.fromString(text), lines = tokenized(file);
    for (let i = 0; i < texts.length; i += 1000) {
        const part = as_strings.slice(i, i + 1000);
        (await reference.encodeBatch(part, {addSpecialTokens: false})).forEach((e, k) =>
            check(lines[i + k] === e.getIds().join(' '), name, texts[i + k], lines[i + k], e.getIds().join(' ')));
    }
    check(lines.length === texts.length + 1 && lines[texts.length] === '', name + ': number of lines', zero, lines.length, texts.length + 1);
    if (['v3', 'llama3', 'mistral_nemo', 'kimi', 'glm', 'v2', 'cl100k', 'classes'].includes(name)) bring_back(name, file, lines);
    fs.unlinkSync(file);
};
// a tiktoken.model of cl100k's ranks with Kimi's pattern and special tokens
const against_tiktoken = (name, ranks) => {
    const here = path.join(directory, name), first = ranks.length, names = {0: '[BOS]', 1: '[EOS]', 2: '<|im_end|>', 3: '<|im_user|>', 22: '[PAD]'}, specials = {}, decoder = {};
    for (let i = 0; i < 256; i++) specials[names[i] ?? `<|reserved_token_${first + i}|>`] = first + i;
    for (const i in names) decoder[first + +i] = {content: names[i], single_word: false, lstrip: false, rstrip: false, normalized: false, special: true};
    fs.mkdirSync(here);
    fs.writeFileSync(path.join(here, 'tiktoken.model'), ranks.join('\n') + '\n');
    fs.writeFileSync(path.join(here, 'tokenizer_config.json'), JSON.stringify({added_tokens_decoder: decoder}));
    const reference = new Tiktoken(ranks.join('\n'), specials, kimi), lines = tokenized(here);
    as_strings.forEach((text, i) => {
        const ids = reference.encode(text, 'all').join(' ');
        check(lines[i] === ids, name, texts[i], lines[i], ids);
    });
    bring_back(name, here, lines);
    reference.free();
};
const cl100k_ranks = () => { // "! START TOKEN TOKEN ...", ranks counting from START
    const ranks = [];
    for (const line of require('tiktoken/encoders/cl100k_base.json').bpe_ranks.split('\n').filter(l => l)) {
        const [, start, ...tokens] = line.split(' ');
        tokens.forEach((token, i) => ranks[+start + i] = `${token} ${+start + i}`);
    }
    return ranks;
};
(async () => {
    const chosen = process.env.ONLY ? process.env.ONLY.split(' ') : [...Object.keys(variants), 'tiktoken'];
    for (const name of chosen)
        if (name === 'tiktoken') against_tiktoken(name, cl100k_ranks());
        else await against_tokenizers(name, variants[name]());
    console.log(texts.length, 'texts', chosen.length, 'tokenizers');
    console.log(passed, failed);
})();
