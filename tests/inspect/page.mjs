// The page of build/inspect, as a person uses it, in Chromium: node tests/inspect/page.mjs NODE_MODULES CHROMIUM DIRECTORY [DIRECTORY for screenshots]
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { check, end, same } from '../server/common.mjs';

const [modules, executablePath, tmp, shots] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)('playwright-core');
const said = 'Once upon a time there was a fox who lived in a wood. The fox was hungry, and he said to the hen, “Come down.”';
const hostile = '</script><script>window.hit=1</script> <img src=x onerror="window.hit=1">\n<b>x</b> & the end';
const write = (name, ...options) => execFileSync(process.env.INSPECT ?? 'build/inspect', ['--quiet', '--out', `${tmp}/${name}.html`, ...options]);
write('one', '--model', 'examples/tales', '--prompt', said, '--out', `${tmp}/one`);
write('two', '--model', 'examples/tales', '--prompt', hostile, '--compare', said);
const few = Array.from({ length: 24 }, (_, i) => 1 + i * 7 % 50).join(' ');
for (const name of ['longcat_flash', 'glm_moe_dsa', 'minicpm3', 'deepseek_v2_lite']) write(name, '--model', `tests/fixtures/checkpoints/${name}`, '--tokens', few);

const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
const complaints = [];
async function open(name, options = {}) {
  const page = await (await browser.newContext({ viewport: { width: 1280, height: 860 }, colorScheme: 'light', ...options })).newPage();
  page.on('pageerror', (e) => complaints.push(`${name}: ${e.message}`)).on('console', (m) => m.type() === 'error' && complaints.push(`${name}: ${m.text()}`));
  page.on('request', (r) => r.url().startsWith(`file://${tmp}/`) || r.url().startsWith('data:') || complaints.push(`${name} asks for ${r.url()}`));
  await page.goto(`file://${tmp}/${name}.html`);
  await page.waitForSelector('#about');
  if (shots) await page.screenshot({ path: `${shots}/inspect-${name}.png`, fullPage: true });
  return page;
}
const rows = (name) => readFileSync(`${tmp}/one/${name}.csv`, 'utf8').trimEnd().split('\n').slice(1);
const maps = (() => { const b = readFileSync(`${tmp}/one/maps.f32`); return new Float32Array(b.buffer, b.byteOffset, b.length / 4); })();
const exact = (x) => (x === 0 ? '0' : x < 1e-4 ? x.toExponential(4) : x.toFixed(6));
const heads = rows('heads').map((r) => r.split(',').map(Number)), S = rows('positions').length;
const number = (x, digits = 3) => String(Number(x.toPrecision(digits)));

// what is said of a head, and of a cell, by pointer and by keyboard
const page = await open('one');
same(await page.$$eval('.head', (all) => all.length), 42, 'a map for each head');
for (const [layer, head] of [[2, 2], [6, 3]]) {
  await page.click(`.head[aria-label^="Layer ${layer}, head ${head}:"]`);
  const [, , bits, far, , sink] = heads[layer * 6 + head], text = await page.textContent('#attention p.quiet >> nth=1');
  check(text.includes(`Entropy ${number(bits)} bits, mean distance ${number(far)} tokens`), `head ${layer} ${head}: ${text}`);
  same(/A sink:/.test(text), sink > 0.3, `sink ${layer} ${head}`);
}
same(await page.$$eval('.head.sunk', (all) => all.length), heads.filter((h) => h[5] > 0.3).length, 'sinks are marked');
await page.click('.head[aria-label^="Layer 2, head 2:"]');
const p = (r, c) => exact(maps[((2 * 6 + 2) * S + r) * S + c]), cell = () => page.textContent('#map0-said strong');
await page.focus('#map0');
await page.keyboard.press('ArrowDown');
same(await cell(), p(S - 1, 0), 'the arrow keys begin in the last row');
for (const key of ['ArrowRight', 'ArrowRight', 'ArrowUp', 'ArrowUp']) await page.keyboard.press(key);
same(await cell(), p(S - 3, 2), 'and move');
await page.keyboard.press('End');
same(await cell(), p(S - 3, S - 3), 'End: the token itself');
const box = await page.locator('#map0').boundingBox();
await page.mouse.move(box.x + box.width * .45, box.y + box.height * .8);
const [, from, to] = /\((\d+)\) looks at .*\((\d+)\):/s.exec(await page.textContent('#map0-said'));
same(await cell(), p(Number(from), Number(to)), `under the pointer: ${from} looks at ${to}`);
check(from !== String(S - 3), 'the pointer moves');

// from head to head by keyboard
await page.focus('.head[aria-pressed="true"]');
await page.keyboard.press('ArrowRight'), await page.keyboard.press('ArrowDown');
same(await page.textContent('#attention h3'), 'Layer 3, head 3', 'arrow keys go from head to head');
check(await page.evaluate(() => document.activeElement.getAttribute('aria-pressed') === 'true'), 'the focus goes along');

// experts
const loads = rows('experts').map((r) => r.split(',').map(Number));
await page.focus('#load0'), await page.keyboard.press('Home');
for (const key of ['ArrowUp', 'ArrowUp', 'ArrowRight', 'ArrowRight', 'ArrowRight']) await page.keyboard.press(key);
const load = await page.textContent('#load0-said'), [, layer, expert, tokens] = /Layer (\d+), expert (\d+): (\d+) tokens/.exec(load);
check(loads.some(([l, e, n]) => l === Number(layer) && e === Number(expert) && n === Number(tokens)), load);
await page.keyboard.press('Enter');
same(await page.$$eval('#experts select', (all) => all[0].value), layer, 'Enter chooses the layer');
const strip = '#experts .strip span';
await page.hover(`${strip} >> nth=7`);
const best = rows('routing').map((r) => r.split(',').map(Number)).filter((r) => r[0] === Number(layer) && r[1] === 7).map((r) => `${r[3]} (${number(r[4])})`).join(', ');
check((await page.textContent('#experts .readout')).includes(`in layer ${layer}: ${best}`), `the path of a token under the pointer: ${best}`);

// the next token
await page.focus('#next .strip span[tabindex="0"]');
for (let i = 0; i < 3; i++) await page.keyboard.press('ArrowRight');
const at = Number(/\((\d+)\)/.exec(await page.textContent('#said0'))[1]);
same(at, 10, 'arrow keys go from token to token');
const fields = rows('tokens')[at].match(/("(?:[^"]|"")*"|[^,]+)/g);
same(await page.$$eval('#best0 .bar', (all) => all.map((e) => e.textContent)), [6, 9, 12, 15, 18].map((i) => exact(Number(fields[i]))), 'the five likeliest');
check((await page.textContent('#said0')).includes(`${number(Number(fields[3]))} bits`), 'the surprise');
const lens = rows('lens').map((r) => r.match(/("(?:[^"]|"")*"|[^,]+)/g)).filter((r) => r[1] === String(at)).reverse();
const shown = await page.$$eval('#lens0 tr', (all) => all.map((tr) => [...tr.cells].slice(2).map((td) => td.textContent)));
same(shown.map((r) => r.map((x) => Number(x).toPrecision(4))), lens.map((r) => [exact(Number(Number(r[4]).toPrecision(6))), exact(Number(Number(r[5]).toPrecision(6)))].map((x) => Number(x).toPrecision(4))), 'the lens');
const stood = rows('guesses').map((r) => r.match(/("(?:[^"]|"")*"|[^,]+)/g)[6]);
same(await page.textContent('#ahead h3'), `${stood.filter((x) => x === '1').length} of ${stood.filter((x) => x !== '-1').length} guesses stood`, 'guesses');

// by keyboard alone every part is reached
await page.evaluate(() => { document.activeElement.blur(); window.scrollTo(0, 0); });
const reached = new Set();
for (let i = 0; i < 60; i++) {
  await page.keyboard.press('Tab');
  reached.add(await page.evaluate(() => document.activeElement.id || document.activeElement.className || document.activeElement.tagName));
}
for (const one of ['theme', 'head', 'map0', 'load0', 'together0', 'lensmap0', 'on', 'SELECT']) check([...reached].some((r) => r.split(' ').includes(one)), `Tab reaches ${one}: ${[...reached]}`);

// light and dark, by the system and by the button
const background = (q) => q.evaluate(() => getComputedStyle(document.body).backgroundColor);
const pixel = (q) => q.evaluate(() => [...document.querySelector('.head canvas').getContext('2d').getImageData(0, 30, 1, 1).data]);
const light = await pixel(page);
same(await background(page), 'rgb(251, 250, 248)', 'light');
await page.click('#theme');
same(await background(page), 'rgb(25, 24, 23)', 'dark by the button');
check(JSON.stringify(await pixel(page)) !== JSON.stringify(light), 'maps are drawn anew');
const night = await open('one', { colorScheme: 'dark' });
same(await background(night), 'rgb(25, 24, 23)', 'dark as the system');
if (shots) await night.screenshot({ path: `${shots}/inspect-dark.png`, fullPage: true });

// a phone: nothing is wider than the screen
const phone = await open('two', { viewport: { width: 360, height: 640 } });
same(await phone.evaluate(() => document.documentElement.scrollWidth), 360, 'as wide as the phone');
if (shots) await phone.screenshot({ path: `${shots}/inspect-phone.png`, fullPage: true });

// two texts side by side; what tokens say is text
const two = await open('two');
same(await two.evaluate(() => window.hit), undefined, 'no script of a token ran');
same(await two.$$eval('.strip b, .strip img, .strip script, .readout img', (all) => all.length), 0, 'no markup of a token');
check((await two.textContent('#next .strip')).replace(/↵/g, '').endsWith(hostile), 'tokens as they are');
same(await two.$$eval('#attention .panel', (all) => all.map((e) => Math.round(e.getBoundingClientRect().top))).then((y) => y[0] === y[1] && y.length), 2, 'side by side');
await two.click('.head[aria-label^="Layer 4, head 1:"] >> nth=1');
same(await two.$$eval('#attention h3', (all) => all.map((e) => e.textContent)), ['Layer 4, head 1', 'Layer 4, head 1'], 'one choice for both');

for (const name of ['longcat_flash', 'glm_moe_dsa', 'minicpm3', 'deepseek_v2_lite']) {
  const other = await open(name), sections = await other.$$eval('section', (all) => all.map((e) => e.id));
  check(sections.includes('sparse') === (name === 'glm_moe_dsa') && sections.includes('experts') === (name !== 'minicpm3'), `${name}: ${sections}`);
}
same(complaints, [], 'complaints of the browser, requests');
await browser.close();
end();
