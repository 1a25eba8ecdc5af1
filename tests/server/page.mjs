// The page, as a person uses it, in Chromium: node tests/server/page.mjs NODE_MODULES CHROMIUM [DIRECTORY for screenshots]
import { createRequire } from 'node:module';
import { check, end, same, sleep, start } from './common.mjs';

const [modules, executablePath, shots] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)('playwright-core');
const server = await start('--model', 'examples/tales', '--ctx', '900');
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
const context = await browser.newContext({ viewport: { width: 1100, height: 780 }, colorScheme: 'light' });
const url = `http://127.0.0.1:${server.port}/`;
const complaints = [];
async function open() {
  const page = await context.newPage();
  page.on('pageerror', (e) => complaints.push(e.message)).on('console', (m) => m.type() === 'error' && !/status of 4/.test(m.text()) && complaints.push(m.text()));
  page.on('request', (r) => r.url().startsWith(url) || r.url().startsWith('data:') || complaints.push(`asks for ${r.url()}`));
  await page.goto(url);
  return page;
}
const shot = (page, name) => shots && page.screenshot({ path: `${shots}/${name}.png` });
const idle = (page) => page.waitForFunction(() => document.querySelector('#send').textContent === 'Send' && !document.querySelector('.writing'), null, { timeout: 60000 });
const texts = (page, role) => page.$$eval(`.turn.${role} .body`, (all) => all.map((e) => e.textContent));
async function say(page, text) {
  await page.fill('#question', text);
  await page.keyboard.press('Enter');
}
async function setting(page, values) {
  await page.click('#open');
  for (const [name, value] of Object.entries(values)) await page.fill(`#${name}`, String(value));
  await page.click('#settings .main');
}

const page = await open();
await shot(page, 'empty');
same(await page.textContent('#model'), 'tales', 'the name of the model');
await setting(page, { max_tokens: 60, seed: 5, temperature: 0.7 });
for (const question of ['Tell me of a fox.', 'And of a wolf?', 'What became of the girl?']) {
  await say(page, question);
  await idle(page);
}
same(await texts(page, 'user'), ['Tell me of a fox.', 'And of a wolf?', 'What became of the girl?'], 'three questions');
let answers = await texts(page, 'assistant');
check(answers.length === 3 && answers.every((a) => a.length > 20), `three answers: ${JSON.stringify(answers)}`);
check(/^\d+ tokens(, [\d.]+ tokens\/s)?/.test(await page.textContent('.turn.assistant:last-child .rate')), 'tokens and their speed are shown');
await shot(page, 'three-turns');

// another answer: with another seed it is another one, with the same it is the same
await page.click('text=Regenerate');
await idle(page);
same(await texts(page, 'assistant'), answers, 'regenerated with the same seed');
await setting(page, { seed: 6 });
await page.click('text=Regenerate');
await idle(page);
check((await texts(page, 'assistant'))[2] !== answers[2], 'regenerated with another seed');
same((await texts(page, 'assistant')).slice(0, 2), answers.slice(0, 2), 'the turns before stay');

// a reload keeps the conversation; the theme stays, too
answers = await texts(page, 'assistant');
await page.click('#theme');
await page.reload();
await page.waitForSelector('.turn');
same(await texts(page, 'assistant'), answers, 'after a reload');
same(await page.evaluate(() => document.documentElement.dataset.theme), 'dark', 'dark after a reload');
await shot(page, 'dark');
await page.click('#theme');

// two tabs at once have conversations of their own
const other = await open();
same(await texts(other, 'assistant'), [], 'a new tab is empty');
await Promise.all([say(page, 'Is it late?'), say(other, 'Who are you?')]);
await Promise.all([idle(page), idle(other)]);
same([(await texts(page, 'user')).length, (await texts(other, 'user')).length], [4, 1], 'two tabs');
check((await texts(other, 'assistant'))[0].length > 5, 'the other tab has an answer');

// stop: by the button and by Escape; what was written stays
// (all 800 tokens are written, and come slowly: the test must not be slower than the model)
await other.route('**/v1/chat/completions', (route) => route.continue({ postData: JSON.stringify({ ...route.request().postDataJSON(), logit_bias: { 0: -100, 1: -100 } }) }));
const network = await context.newCDPSession(other);
await network.send('Network.enable');
await network.send('Network.emulateNetworkConditions', { offline: false, latency: 0, downloadThroughput: 20000, uploadThroughput: -1 });
for (const stop of [(p) => p.click('#send'), (p) => p.keyboard.press('Escape')]) {
  await setting(other, { max_tokens: 800, temperature: 1, seed: 1 });
  await other.click('#fresh');
  await say(other, 'A long tale, please.');
  await other.waitForFunction(() => document.querySelector('.turn.assistant .body')?.textContent.length > 30);
  same(await other.textContent('#send'), 'Stop', 'the button says Stop');
  if (stop.toString().includes('click')) await shot(other, 'writing');
  await stop(other);
  await idle(other);
  const text = (await texts(other, 'assistant'))[0];
  check(/stopped/.test(await other.textContent('.rate')) && text.length > 30, 'a stopped answer stays');
}
await sleep(300);
const metrics = await (await fetch(`${url}metrics`)).text();
check(/^mla_requests_open 0$/m.test(metrics), 'nothing runs after a stop');

// what a model says is text: markup in it stays text, Markdown becomes elements, links only to where links lead
const hostile = '# Title\n\n<img src=x onerror="window.hit=1"> **bold <b>x</b>** `a<b` [no](javascript:window.hit=1) [yes](https://example.org/) ' +
  '<script>window.hit=1</script>\n\n- one\n- two\n  - nested\n\n1. first\n2. second\n\n> quoted\n\n```html\n<i>code</i>\n```\n\n| a | b |\n|---|---|\n| 1 | <u>2</u> |\n\n*em* ~~del~~ https://example.org/x.\n\n---\nend';
await page.route('**/v1/chat/completions', (route) => route.fulfill({ contentType: 'text/event-stream',
  body: [...hostile].map((c) => `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: c } }] })}\n\n`).join('') +
    `data: ${JSON.stringify({ choices: [{ index: 0, delta: { reasoning_content: '<b>hm</b>' }, finish_reason: 'stop' }] })}\n\ndata: [DONE]\n\n` }));
await page.click('#fresh');
await say(page, '<b>Show</b> me\n**all**');
await idle(page);
const last = '.turn.assistant:last-child';
same(await page.$$eval(`${last} .body *`, (all) => [...new Set(all.map((e) => e.tagName))].sort()),
  ['A', 'BLOCKQUOTE', 'CODE', 'DEL', 'DIV', 'EM', 'H2', 'HR', 'LI', 'OL', 'P', 'PRE', 'STRONG', 'TABLE', 'TD', 'TH', 'TR', 'UL'], 'the elements');
same(await page.$$eval(`${last} a`, (all) => all.map((e) => e.href)), ['https://example.org/', 'https://example.org/x'], 'links');
same(await page.evaluate(() => window.hit), undefined, 'no script ran');
same(await page.textContent(`${last} pre`), '<i>code</i>', 'code');
same(await page.textContent(`${last} .thoughts`), '<b>hm</b>', 'thoughts');
same((await texts(page, 'user')).at(-1), '<b>Show</b> me\n**all**', 'what a person writes is shown as it is');
same(await page.$$eval('.turn.user .body *', (all) => all.length), 0, 'without elements');
await page.evaluate(() => document.querySelector('#scroll').scrollTo(0, 0));
await shot(page, 'markdown');
await page.unroute('**/v1/chat/completions');

// errors are said, and the next question works
await setting(page, { max_tokens: 5000 });
await say(page, 'Too much');
await idle(page);
check(/max_tokens: 5000/.test(await page.textContent(`${last} .wrong`)), 'an error is shown');
await shot(page, 'error');
await setting(page, { max_tokens: 20 });
await page.click('text=Regenerate');
await idle(page);
same(await page.$$(`${last} .wrong`).then((all) => all.length), 0, 'and goes');

// a phone: nothing is wider than the screen, and all can be reached
await page.setViewportSize({ width: 360, height: 640 });
await page.click('#fresh');
await say(page, 'A question with averyveryveryveryveryveryveryveryveryveryverylongwordinit');
await idle(page);
same(await page.evaluate(() => document.documentElement.scrollWidth), 360, 'as wide as the phone');
for (const id of ['#fresh', '#open', '#theme', '#question', '#send']) {
  const box = await page.locator(id).boundingBox();
  check(box.x >= 0 && box.x + box.width <= 360 && box.y >= 0 && box.y + box.height <= 640 && box.height >= 34, `${id} on a phone`);
}
await shot(page, 'phone');
await page.click('#open');
await shot(page, 'phone-settings');
check(await page.evaluate(() => document.querySelector('#settings').getBoundingClientRect().right <= 360), 'settings on a phone');
await page.keyboard.press('Escape');

// by keyboard alone: from the field to the buttons and back, settings too
await page.setViewportSize({ width: 1100, height: 780 });
await page.reload();
await page.evaluate(() => document.activeElement.blur());
const stops = [];
for (let i = 0; i < 12; i++) {
  await page.keyboard.press('Tab');
  stops.push(await page.evaluate(() => document.activeElement.id || document.activeElement.textContent));
}
for (const one of ['fresh', 'open', 'theme', 'question', 'Copy', 'Regenerate']) check(stops.includes(one), `Tab reaches ${one}: ${stops}`);
await page.focus('#open');
await page.keyboard.press('Enter');
check(await page.evaluate(() => document.querySelector('#settings').open), 'Enter opens the settings');
await shot(page, 'settings');
await page.keyboard.press('Escape');
// the dialog's close event comes a little later
await page.waitForFunction(() => document.activeElement.id === 'question', null, { timeout: 5000 }).catch(() => {});
same(await page.evaluate(() => document.activeElement.id), 'question', 'back at the field');

// dark where the system is
const night = await browser.newContext({ colorScheme: 'dark' });
const dark = await night.newPage();
await dark.goto(url);
same(await dark.evaluate(() => getComputedStyle(document.body).backgroundColor), 'rgb(25, 24, 23)', 'dark as the system');

same(complaints, [], 'complaints of the browser, requests elsewhere');
await browser.close();
same(await server.stop(), 0, 'exit status');
end();
