// Prints the tables of Unicode in examples/tokenizer.h, asked of the npm package `tokenizers` for every code point: its regular expressions
// (Oniguruma, Unicode 16.0) say what is \p{Lu} and so on, its Digits what is a digit (Rust's char, Unicode 17.0), its Punctuation what is
// punctuation (an older Unicode), its NFC and NFD how characters decompose, compose and are ordered.
// NODE_PATH=DIR/node_modules node unicode.js
'use strict';
const {Tokenizer} = require('tokenizers');

const open = (pre, normalizer = null) => Tokenizer.fromString(JSON.stringify({version: '1.0', truncation: null, padding: null, added_tokens: [], normalizer,
    pre_tokenizer: pre, post_processor: null, decoder: null, model: {type: 'BPE', vocab: {}, merges: []}}));
const split = regex => ({type: 'Split', pattern: {Regex: regex}, behavior: 'Isolated', invert: false});
const surrogate = c => c >= 0xD800 && c < 0xE000;
// calls found(c) for each code point that stands alone behind this pre-tokenizer; hole: two characters that do not
const each = (pre, hole, found) => {
    const tokenizer = open(pre).getPreTokenizer();
    for (let from = 0; from < 0x110000; from += 0x800) {
        if (surrogate(from)) continue;
        const chars = Array.from({length: 0x800}, (_, i) => String.fromCodePoint(from + i));
        for (const [piece] of tokenizer.preTokenizeString(hole + chars.join(hole) + hole)) {
            const c = piece.codePointAt(0);
            if (piece === String.fromCodePoint(c)) found(c);
        }
    }
};
const print = (name, words, separator) => {
    let line = '';
    console.log(`static const char *const ${name}[] = {`);
    for (const plain of words) {
        const word = plain.replace(/[\\?]/g, '\\$&');
        if (line.length + word.length > 112) {
            console.log(`    "${line}",`);
            line = '';
        }
        line += word + separator;
    }
    console.log(`    "${line}",\n    NULL};`);
};
const runs_of = (list, from = 0) => { // [first, length, value] of equal neighbours
    const runs = [];
    for (let c = from, n; c < list.length; c += n) {
        for (n = 1; c + n < list.length && list[c + n] === list[c];) n++;
        runs.push([c, n, list[c]]);
    }
    return runs;
};
const hex = c => c.toString(16).toUpperCase();
// packed: a number in base 44, the last digit from '#' on, those before it from 'O' on; and its difference from another
const number = n => {
    let text = String.fromCharCode(35 + n % 44);
    while ((n = Math.floor(n / 44)) > 0) text = String.fromCharCode(79 + n % 44) + text;
    return text;
};
const near = (x, last) => number(x >= last ? 2 * (x - last) : 2 * (last - x) - 1);

// ---- general categories, each a letter; D: unassigned in Oniguruma, but a digit in Rust; ~: Lu and Ll by turns
const names = ['Lu', 'Ll', 'Lt', 'Lm', 'Lo', 'Mn', 'Mc', 'Me', 'Nd', 'Nl', 'No', 'Pc', 'Pd', 'Ps', 'Pe', 'Pi', 'Pf', 'Po', 'Sm', 'Sc', 'Sk', 'So', 'Zs', 'Zl', 'Zp',
    'Cc', 'Cf', 'Cs', 'Co'];
const letter = i => String.fromCharCode(i < 26 ? 97 + i : 65 + i - 26);
const category = new Array(0x110000).fill('Z');
for (let c = 0xD800; c < 0xE000; c++) category[c] = letter(names.indexOf('Cs'));
each({type: 'Digits', individual_digits: true}, 'AA', c => category[c] = 'Y');
names.forEach((name, i) => each(split(`\\p{${name}}`), name[0] === 'L' ? '  ' : 'AA', c => category[c] = letter(i)));
const words = [];
for (let c = 0, n; c < 0x110000; c += n) {
    for (n = 1; c + n < 0x110000 && category[c + n] === (n % 2 ? 'b' : 'a') && category[c] === 'a';) n++;
    n -= n % 2;
    if (n > 2) words.push('~' + n);
    else {
        for (n = 1; c + n < 0x110000 && category[c + n] === category[c] && !(category[c] === 'a' && category[c + n + 1] === 'b');) n++;
        words.push(category[c] + (n > 1 ? n : ''));
    }
}
print('tok__categories', words, '');

// ---- scripts, and where Punctuation and \p{P} differ: first code points and lengths
const ranges = list => runs_of(list).filter(r => r[2]).map(([c, n]) => hex(c) + (n > 1 ? '+' + n : ''));
for (const name of ['Han', 'Hiragana', 'Katakana', 'Hangul']) {
    const list = new Array(0x110000).fill(false);
    each(split(`\\p{${name}}`), '  ', c => list[c] = true);
    print('tok__' + name.toLowerCase(), ranges(list), ' ');
}
const differs = category.map(k => k >= letter(11) && k <= letter(17));
each({type: 'Punctuation', behavior: 'Isolated'}, 'AA', c => differs[c] = !differs[c] && c >= 128); // all of ASCII's count there
for (let c = 0; c < 128; c++) differs[c] = false;
print('tok__punctuation_differs', ranges(differs), ' ');

// ---- canonical decompositions, packed: code points left out * 5 + how many parts (0: two that are composed again), the parts
const nfd = open(null, {type: 'NFD'}).getNormalizer(), nfc = open(null, {type: 'NFC'}).getNormalizer();
const decompose = s => [...nfd.normalizeString(s)], compose = s => [...nfc.normalizeString(s)];
let at = 0;
const list = [], marks = [], before = [0, 0, 0, 0];
for (let c = 0x80; c < 0x110000; c++) {
    if (surrogate(c) || (c >= 0xAC00 && c < 0xD7A4)) continue;
    const s = String.fromCodePoint(c), parts = decompose(s);
    if (parts.length > 1 || parts[0] !== s) {
        const first = compose(parts.slice(0, -1).join('')), back = compose(s);
        const short = parts.length > 2 && first.length === 1 ? [first[0], parts[parts.length - 1]] : parts;
        const composed = back.length === 1 && back[0] === s, codes = short.map(p => p.codePointAt(0));
        list.push(number(5 * (c - at) + (composed ? 0 : codes.length)) + codes.map((p, i) => near(p, before[i])).join(''));
        codes.forEach((p, i) => before[i] = p);
        at = c + 1;
    } else if (decompose(s + '\u0334')[0] !== s || decompose('\u0345' + s)[0] === s) marks.push(s);
}
for (const s of ['\u0334', '\u0345']) if (!marks.includes(s)) marks.push(s);
print('tok__decompositions', [number(list.length), ...list], '');

// ---- combining classes in their order (the numbers themselves do not matter), packed: code points left out, length, class
const order = []; // one character of each class so far
const place = new Array(0x110000).fill(0);
const swapped = (a, b) => decompose(a + b)[0] === b && a !== b;
for (const s of marks) {
    let low = 0, high = order.length;
    while (low < high) {
        const middle = (low + high) >> 1;
        if (swapped(order[middle], s)) high = middle;
        else low = middle + 1;
    }
    if (!low || swapped(s, order[low - 1])) order.splice(low, 0, s);
}
for (const s of marks) place[s.codePointAt(0)] = 1 + order.findIndex(o => !swapped(o, s) && !swapped(s, o));
let end = 0;
const classes = runs_of(place).filter(r => r[2]).map(([c, n, k]) => {
    const run = number(c - end) + number(n) + number(k);
    end = c + n;
    return run;
});
print('tok__combining', [number(classes.length), ...classes], '');
