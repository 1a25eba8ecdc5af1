// Prints the table of Unicode classes in examples/tokenizer.h, asked of the npm package `tokenizers` for every code point: its regular
// expressions (Oniguruma, Unicode 16.0) say what is \p{L} and so on, its Digits what is a digit (Rust's char, Unicode 17.0).
// NODE_PATH=DIR/node_modules node unicode.js
'use strict';
const {Tokenizer} = require('tokenizers');

const file = pre => JSON.stringify({version: '1.0', truncation: null, padding: null, added_tokens: [], normalizer: null, pre_tokenizer: pre,
    post_processor: null, decoder: null, model: {type: 'BPE', vocab: {}, merges: []}});
const split = regex => ({type: 'Split', pattern: {Regex: regex}, behavior: 'Isolated', invert: false});
const classes = new Array(0x110000).fill('o');
for (const [letter, pre] of [['d', {type: 'Digits', individual_digits: true}], ['l', split('\\p{L}')], ['m', split('\\p{M}')], ['n', split('\\p{N}')],
    ['p', split('\\p{P}')], ['s', split('\\p{S}')], ['w', split('\\s')]]) {
    const tokenizer = Tokenizer.fromString(file(pre)).getPreTokenizer();
    const hole = letter === 'l' ? '  ' : 'AA'; // is in no class that is asked for, and is two: whatever stands alone was found
    for (let from = 0; from < 0x110000; from += 0x800) {
        if (from === 0xD800) continue; // surrogates
        const chars = Array.from({length: 0x800}, (_, i) => String.fromCodePoint(from + i));
        for (const [piece] of tokenizer.preTokenizeString(hole + chars.join(hole) + hole)) {
            const c = piece.codePointAt(0);
            if (piece === String.fromCodePoint(c)) classes[c] = letter;
        }
    }
}
let line = '', out = '';
for (let c = 0, n; c < 0x110000; c += n) {
    for (n = 1; c + n < 0x110000 && classes[c + n] === classes[c];) n++;
    const run = classes[c] + n;
    if (line.length + run.length > 120) {
        out += `    "${line}",\n`;
        line = '';
    }
    line += run;
}
process.stdout.write(out + `    "${line}",\n`);
