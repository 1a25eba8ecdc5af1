// Many requests of random lengths, some cancelled, some wrong, each of which must be answered byte for byte as alone:
//     [SERVER=build/asan/server] node tests/server/soak.mjs [REQUESTS=2000] [CONNECTIONS=64] [OPTION OF THE SERVER...]
// Prints the server's memory as it goes; it must be flat in the second half. Ends with "N passed, N failed".
import fs from 'node:fs';
import http from 'node:http';
import { ask, check, end, metric, same, sleep, start } from './common.mjs';

const [requests = 2000, connections = 64] = process.argv.slice(2, 4).map(Number);
const server = await start('--model', 'examples/tales', ...(process.argv.length > 4 ? process.argv.slice(4) : ['--pool', '4M', '--parallel', '64']));
const { port } = server;
const resident = () => Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${server.process.pid}/status`, 'utf8'))[1]) / 1024;
let state = 12345;
const random = (n) => (state = (Math.imul(state, 1103515245) + 12345) >>> 0, Math.floor((state >>> 8) / (1 << 24) * n));
const words = ['the fox', 'a wolf', 'once', 'said the king', 'and', 'in the forest', '“Who are you?”', 'never', 'ünd', '🦊'];
const prose = (n) => Array.from({ length: n }, () => words[random(words.length)]).join(' ');

// The different requests; each is asked many times, beside others.
const kinds = Array.from({ length: 120 }, (_, i) => {
  const more = { max_tokens: 1 + random(i % 9 ? 16 : 90), temperature: random(3) / 2, seed: i, stream: i % 2 === 1 };
  if (i % 5 === 0) Object.assign(more, { stop: [words[random(5)]], n: 1 + random(3) });
  if (i % 7 === 0) more.frequency_penalty = 0.5;
  if (i % 11 === 0) more.response_format = { type: 'json_object' };
  const shared = 'A tale that begins as others do. '.repeat(random(12));
  if (i % 13 === 0) return { path: '/v1/embeddings', body: { input: shared + prose(1 + random(60)) } };
  return i % 3 ? { path: '/v1/completions', body: { prompt: shared + prose(1 + random(i % 4 ? 40 : 90)), ...more } }
    : { path: '/v1/chat/completions', body: { messages: [{ role: 'user', content: shared + prose(1 + random(i % 4 ? 40 : 90)) }], ...more } };
});
const wrong = ['{', '[]', '{"prompt":3}', '{"prompt":"a","temperature":-1}', '{"prompt":"a","max_tokens":99999}', '{"prompt":"a","stop":[""]}', '\u0000', `{"prompt":"${'x '.repeat(3000)}"}`];
// What must be equal: everything but what names the request and says what it found in the cache.
// The events of several choices come in any order, those of one in theirs.
const index = (e) => Number(/"choices":\[\{"index":(\d+)/.exec(e)?.[1] ?? 99);
const essence = (r) => `${r.status} ${r.text.split('\n\n').sort((a, b) => index(a) - index(b)).join('\n\n')
  .replace(/"(id|created)":("[^"]*"|\d+),/g, '').replace(/"cached_tokens":\d+/g, '')}`;
const answers = [];
for (const k of kinds) answers.push(essence(await ask(port, k.path, k.body)));
check(answers.every((a) => a.startsWith('200')), 'each alone is answered');

const agent = new http.Agent({ keepAlive: true, maxSockets: connections });
let done = 0, different = 0, cancelled = 0, refused = 0, half = 0;
const begin = Date.now();
function cancel(k) {
  return new Promise((over) => {
    const body = JSON.stringify(k.body);
    const request = http.request({ host: '127.0.0.1', port, path: k.path, method: 'POST', headers: { 'content-length': Buffer.byteLength(body) } }, (r) => r.once('data', () => request.destroy()).on('error', over).on('close', over));
    request.on('error', over).on('close', over).end(body);
    setTimeout(() => request.destroy(), random(40));
  });
}
async function client() {
  while (done < requests) {
    const at = done++, what = random(100), i = random(kinds.length);
    if (what < 10) cancelled++, await cancel(kinds[i]);
    else if (what < 15) {
      refused++;
      const r = await ask(port, '/v1/completions', wrong[random(wrong.length)], { agent });
      if (r.status !== 400) different++, console.log(`wrong: ${r.status}`);
    } else {
      const r = essence(await ask(port, kinds[i].path, kinds[i].body, { agent }));
      if (r !== answers[i] && different++ < 5) console.log(`kind ${i}: ${r.slice(0, 600)}\nalone: ${answers[i].slice(0, 600)}`);
    }
    if (at === Math.floor(requests / 2)) half = resident();
    if (at % Math.ceil(requests / 10) === 0)
      console.log(`${at} requests, ${((Date.now() - begin) / 1000).toFixed(0)} s, ${resident().toFixed(1)} MB, preemptions ${await metric(port, 'preemptions_total')}, prefix tokens found ${await metric(port, 'prompt_tokens_cached_total')}`);
  }
}
await Promise.all(Array.from({ length: connections }, client));
const last = resident();
console.log(`${requests} requests (${cancelled} cancelled, ${refused} wrong) in ${((Date.now() - begin) / 1000).toFixed(1)} s; ${half.toFixed(1)} MB at half, ${last.toFixed(1)} MB at the end`);
same(different, 0, 'answers that differ from a run alone');
check(last < half * 1.03 + 2, `memory is flat: ${half} MB, ${last} MB`);
for (let i = 0; i < 100 && await metric(port, 'requests_open') > 0; i++) await sleep(50);
same([await metric(port, 'requests_open'), await metric(port, 'requests_running')], [0, 0], 'nothing is left');
agent.destroy();
same(await server.stop(), 0, 'exit status');
end();
