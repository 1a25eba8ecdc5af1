// The page of `make web`, as a person uses it, in Chromium: node tests/web/page.mjs NODE_MODULES CHROMIUM build/web WORK [DIRECTORY for screenshots]
// WORK/expected: what build/generate says to PROMPT; WORK/tales.gguf: the demo model in Q4_K and Q8; WORK/large.gguf: 4 GB.
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { createRequire } from 'node:module';
import zlib from 'node:zlib';
import { instantiate } from '../../examples/web/wasi.mjs';

const [modules, executablePath, root, work, shots] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)('playwright-core');
let passed = 0, failed = 0;
const check = (ok, what) => (ok ? passed++ : (failed++, console.log(`FAILED: ${what}`)));
const same = (got, want, what) => check(JSON.stringify(got) === JSON.stringify(want), `${what}: ${JSON.stringify(got)}, not ${JSON.stringify(want)}`);

const types = { '.html': 'text/html', '.mjs': 'text/javascript', '.json': 'application/json' };
const server = http.createServer((request, answer) => {
  const file = path.join(root, request.url === '/' ? 'index.html' : request.url);
  if (!fs.existsSync(file)) return answer.writeHead(404).end();
  answer.writeHead(200, { 'content-type': types[path.extname(file)] || 'application/octet-stream' }).end(fs.readFileSync(file));
});
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const url = `http://127.0.0.1:${server.address().port}/`;
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
const complaints = [];
async function open(kinds, how = {}) { // of mla-KIND.wasm.gz only these are to be had
  const page = await browser.newPage({ viewport: { width: 1180, height: 860 }, ...how });
  page.on('pageerror', (e) => complaints.push(e.message)).on('console', (m) => m.type() === 'error' && !/404/.test(m.text()) && complaints.push(m.text()));
  page.on('request', (r) => r.url().startsWith(url) || /^(data|blob):/.test(r.url()) || complaints.push(`asks for ${r.url()}`));
  await page.route(/mla-.*wasm/, (route) => (kinds.some((k) => route.request().url().includes(k)) ? route.continue() : route.fulfill({ status: 404 })));
  await page.goto(url);
  return page;
}
const ready = (page) => page.waitForFunction(() => !document.querySelector('#go').disabled || document.querySelector('#error').textContent, null, { timeout: 60000 });
const idle = (page) => page.waitForFunction(() => ['Write', 'Send'].includes(document.querySelector('#go').textContent), null, { timeout: 60000 });
const shot = (page, name) => shots && page.screenshot({ path: `${shots}/${name}.png`, fullPage: true });
const written = (page) => page.textContent('#said');
async function settings(page, values) {
  for (const [id, value] of Object.entries(values)) await (id === 'pace' || id === 'mode' ? page.selectOption(`#${id}`, String(value)) : page.fill(`#${id}`, String(value)));
}

const expected = fs.readFileSync(`${work}/expected`, 'utf8').trimEnd(), prompt = 'Once upon a time the Rat said to the Mole, “';

// A model in a file of more than 2 GiB, whose addresses look negative: the demo model with a vocabulary of three million, most of it nothing.
{
  const small = fs.readFileSync('examples/tales/model.safetensors'), from = 8 + Number(small.readBigUInt64LE()), wide = 2 * 192 * 3e6, parts = {};
  const list = Object.entries(JSON.parse(small.subarray(8, from))).filter(([name]) => !/^__|layers.7/.test(name));
  let end = 0;
  for (const [name, t] of [list.find(([name]) => /embed/.test(name)), ['lm_head.weight', list.find(([name]) => /embed/.test(name))[1]], ...list.filter(([name]) => !/embed/.test(name))]) {
    const [begin, stop] = t.data_offsets, long = /embed|lm_head/.test(name);
    parts[name] = { from: [begin, stop], to: { dtype: t.dtype, shape: long ? [3e6, 192] : t.shape, data_offsets: [end, (end += long ? wide : stop - begin)] } };
  }
  const header = JSON.stringify(Object.fromEntries(Object.entries(parts).map(([name, p]) => [name, p.to]))), at = 8 + Math.ceil(header.length / 8) * 8;
  const length = Buffer.alloc(8), path = `${work}/wide`;
  length.writeBigUInt64LE(BigInt(at - 8)), fs.mkdirSync(path);
  for (const name of fs.readdirSync('examples/tales')) if (/json$/.test(name)) fs.copyFileSync(`examples/tales/${name}`, `${path}/${name}`);
  const config = { ...JSON.parse(fs.readFileSync(`${path}/config.json`)), vocab_size: 3e6, tie_word_embeddings: false, num_nextn_predict_layers: 0 };
  fs.writeFileSync(`${path}/config.json`, JSON.stringify(config));
  const fd = fs.openSync(`${path}/model.safetensors`, 'w');
  fs.writeSync(fd, length), fs.writeSync(fd, header.padEnd(at - 8));
  for (const p of Object.values(parts)) fs.writeSync(fd, small, from + p.from[0], p.from[1] - p.from[0], at + p.to.data_offsets[0]);
  fs.ftruncateSync(fd, at + end), fs.closeSync(fd);

  const file = (given, name = `/${given}`) => fs.existsSync(name) && {
    size: fs.statSync(name).isDirectory() ? -1 : fs.statSync(name).size,
    read(at, n) {
      const f = fs.openSync(name), piece = Buffer.alloc(n), got = fs.readSync(f, piece, 0, n, at);
      fs.closeSync(f);
      return piece.subarray(0, got);
    },
  };
  const module = await WebAssembly.compile(zlib.gunzipSync(fs.readFileSync(`${root}/mla-simd.wasm.gz`)));
  const { exports: web } = await instantiate(module, { file, write: () => {} });
  const text = () => {
    const all = new Uint8Array(web.memory.buffer), at = web.web_text() >>> 0;
    return new TextDecoder().decode(all.subarray(at, all.indexOf(0, at)));
  };
  const put = (string) => {
    const bytes = Buffer.from(`${string}\0`), at = web.web_room(bytes.length) >>> 0;
    new Uint8Array(web.memory.buffer).set(bytes, at);
    return [at, bytes.length - 1];
  };
  web._initialize();
  check(web.web_open(put(path)[0]) === 0, `a file of 2.3 GB: ${text()}`);
  check(web.web_probs() >>> 0 > 2 ** 31, `attention lies at ${web.web_probs() >>> 0}`);
  check(web.web_begin(...put(prompt), 0, 0, 1, 8) === 0, `begun above 2 GiB: ${text()}`);
  let said = prompt;
  for (let kind; (kind = web.web_step()) !== 2 && kind >= 0; ) if (kind) said += JSON.parse(text())[0];
  check(said.length > prompt.length + 8 && expected.startsWith(said.trimEnd()), `the text above 2 GiB: ${said}`);
}

// the same greedy text by all three programs, and by the program on this machine
for (const kind of ['scalar', 'simd', 'relaxed']) {
  const page = await open([kind]);
  await ready(page);
  const error = await page.textContent('#error');
  if (kind === 'relaxed' && /not found/.test(error)) {
    console.log('relaxed SIMD is not here: left out');
    continue;
  }
  same(error, '', `${kind}: no error`);
  same(await page.evaluate(() => document.documentElement.dataset.kind), kind, 'the program');
  await settings(page, { pace: 0, temperature: 0, room: 100 });
  await page.click('#go');
  await idle(page);
  same((await written(page)).trimEnd(), expected, `${kind}: the text`);
  console.log(kind, await page.textContent('#rate'));
  await page.close();
}

// what is inside: attention sums to 1, K experts in each layer but the dense one; layers, heads, the keyboard
const page = await open(['relaxed', 'simd', 'scalar']);
await ready(page);
await settings(page, { pace: 0, temperature: 0.7, room: 60 });
await page.focus('#prompt');
await page.keyboard.press('Control+Enter');
await idle(page);
const text = await written(page);
const weights = () => page.$$eval('#tokens span', (all) => all.map((s) => Number(s.title.split(': ')[1])));
const cells = (id) => page.$eval(id, (c) => [c.height, c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((x, i) => i % 4 === 3)]);
const sum = (list) => list.reduce((a, b) => a + b, 0);
check(Math.abs(sum(await weights()) - 1) < 0.01, `attention sums to ${sum(await weights())}`);
let [rows, columns, opacity] = await cells('#experts');
same([rows, columns], [7, 16], 'layers and experts');
same(Array.from({ length: 7 }, (_, r) => opacity.slice(16 * r, 16 * r + 16).filter((a) => a === 255).length), [0, 6, 6, 6, 6, 6, 6], 'experts of the last token');
check(opacity.slice(16).some((a) => a > 0 && a < 255), 'how often experts were taken');
[rows, columns] = await cells('#map');
same([rows, columns], [7, await page.locator('#tokens span').count()], 'a row for each layer');
await shot(page, 'light');
await page.selectOption('#layer', '3');
await page.waitForFunction(() => document.querySelector('#map').height === 6);
const all = await weights();
await page.selectOption('#head', '2');
await page.waitForFunction((w) => document.querySelector('#tokens span').title !== w, `0: ${all[0].toFixed(4)}`);
check(Math.abs(sum(await weights()) - 1) < 0.01, 'attention of one head');

// the same seed says the same, another something else; Escape stops
await page.click('#go');
await idle(page);
same(await written(page), text, 'the same seed');
await settings(page, { seed: 2 });
await page.click('#go');
await idle(page);
check((await written(page)) !== text, 'another seed');
await settings(page, { room: 500, pace: 12 });
await page.click('#go');
await page.waitForFunction(() => /^[2-9] tokens/.test(document.querySelector('#rate').textContent), null, { timeout: 30000 });
await page.keyboard.press('Escape');
await idle(page);
check(/^\d+ tokens/.test(await page.textContent('#rate')) && (await page.locator('#tokens span').count()) < 60, 'stopped');

// a chat of two turns
await page.selectOption('#mode', 'chat');
await settings(page, { room: 30, pace: 0 });
for (const question of ['Who is there?', 'And then?']) {
  await page.fill('#prompt', question);
  await page.press('#prompt', 'Enter');
  await idle(page);
}
same(await page.$$eval('.turn', (t) => t.map((e) => e.className)), ['turn user', 'turn assistant', 'turn user', 'turn assistant'], 'two turns');
check((await page.$$eval('.turn.assistant', (t) => t.map((e) => e.textContent.length))).every((n) => n > 10), 'two answers');
check((await page.$$eval('#tokens span', (t) => t.map((e) => e.textContent).join(''))).includes('User'), 'the template is shown');

// files: a GGUF file, a directory, what is too large, what is no model; the page goes on after that
await page.setInputFiles('#files', `${work}/tales.gguf`);
await page.waitForFunction(() => /^tales\.gguf/.test(document.querySelector('#model').textContent), null, { timeout: 30000 });
await page.selectOption('#mode', 'text');
await page.fill('#prompt', 'Once upon a time');
await page.click('#go');
await idle(page);
check((await written(page)).length > 60, `a GGUF file: ${await written(page)}`);
const wrong = async (file, pattern) => {
  await page.setInputFiles('#files', file);
  await page.waitForFunction(() => document.querySelector('#error').textContent, null, { timeout: 30000 });
  const message = await page.textContent('#error');
  check(pattern.test(message), `${file}: ${message}`);
};
await wrong(`${work}/large.gguf`, /^large\.gguf: 4\.\d GB of weights, and a page has room for 4\.0 GB$/);
await wrong('README.md', /neither a \.gguf file nor a directory/);
await wrong(`${work}/cut.gguf`, /cut\.gguf/);
await page.evaluate(async () => { // a directory, dropped
  const names = ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors'], data = new DataTransfer();
  for (const name of names) data.items.add(new File([await (await fetch('tales/' + name)).blob()], name));
  document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true }));
});
await page.waitForFunction(() => /^files: deepseek_v3/.test(document.querySelector('#model').textContent), null, { timeout: 30000 });
await page.selectOption('#mode', 'text');
await page.click('#go');
await idle(page);
check((await written(page)).length > 60, `dropped files: ${await written(page)}`);
same(await page.textContent('#error'), '', 'no error is left');
await page.close();

for (const [name, how] of Object.entries({ dark: { colorScheme: 'dark' }, phone: { viewport: { width: 390, height: 800 } } })) {
  const other = await open(['relaxed', 'simd', 'scalar'], how);
  await ready(other);
  await settings(other, { pace: 0, room: 60 });
  await other.click('#go');
  await idle(other);
  check(await other.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${name}: nothing sticks out`);
  await shot(other, name);
}
await browser.close(), server.close();
same(complaints, [], 'nothing is wrong in the console, and nothing is asked of other hosts');
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
