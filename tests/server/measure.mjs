// How fast the server is on synthetic weights of DeepSeek-V2-Lite's size: node tests/server/measure.mjs [WHAT,..=throughput,prefix,wait]
//     throughput   32 clients together, tokens/s, in turns with `build/bench model --batch 32` on the same weights, at the same depth:
//                  40 steps of each, while the other rests; medians
//     prefix       time to the first token of a prompt that shares 2,000 tokens with one before, and of one that does not
//     wait         steps that a new request waits beside 31 others decoding while a prompt of 16,000 tokens is read
// QUANT=q4 (bf16, q8), ROUNDS=5. Ends with "N passed, N failed".
import { execFileSync } from 'node:child_process';
import http from 'node:http';
import net from 'node:net';
import { ask, check, end, metric, same, start } from './common.mjs';

const what = (process.argv[2] ?? 'throughput,prefix,wait').split(','), quant = process.env.QUANT ?? 'q4', rounds = Number(process.env.ROUNDS ?? 5);
const median = (all) => [...all].sort((a, b) => a - b)[all.length >> 1];
const server = await start('--synthetic', 'lite6', '--quant', quant, '--ctx', '20000', '--parallel', '32', ...(process.env.FAST ? ['--fast'] : []));
const { port } = server;
let state = 1;
const random = (n) => (state = (Math.imul(state, 1103515245) + 12345) >>> 0, (state >>> 8) % n);
const tokens = (n) => Array.from({ length: n }, () => 256 + random(32000));

// Streams a completion; calls `token` with the time of each event, in ms. By a plain socket, which takes less of the two's processors.
function stream(prompt, max_tokens, token) {
  return new Promise((done, wrong) => {
    const body = JSON.stringify({ prompt, max_tokens, temperature: 1, seed: 1, stream: true });
    const socket = net.connect(port, '127.0.0.1').on('error', wrong).on('close', done).on('data', (part) => {
      for (let at = part.indexOf('data: {'); at >= 0; at = part.indexOf('data: {', at + 1)) token(performance.now());
      if (part.includes('data: [DONE]')) socket.end();
    });
    socket.write(`POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  });
}
async function first(prompt) {
  const begin = performance.now();
  let at = 0;
  await stream(prompt, 1, (t) => { at ||= t; });
  return at - begin;
}

if (what.includes('throughput')) {
  const depth = 128, steps = 40, made = (rounds + 1) * (steps + 6), shares = [], times = [];
  let decoding = 0, stopped = 0;
  const streams = Promise.all(Array.from({ length: 32 }, () => {
    let n = 0;
    return stream(tokens(depth), made, (t) => {
      if (!n++ && ++decoding === 32) times.length = 0;
      if (!stopped) times.push(t);
    });
  }));
  const until = async (n) => { while (times.length < n) await new Promise((done) => { setTimeout(done, 5); }); };
  while (decoding < 32) await until(times.length + 1);
  for (let round = 0; round < rounds; round++) {
    times.length = stopped = 0; // the first steps after a rest, and what of one is left, do not count
    await until(32 * (steps + 4));
    stopped = 1, server.process.kill('SIGSTOP');
    const ends = times.filter((t, i) => (times[i + 1] ?? Infinity) - t > 10).slice(2, steps); // of steps
    const here = 32 / median(ends.slice(1).map((t, i) => t - ends[i])) * 1000;
    const from = depth + round * (steps + 5) + steps / 2;
    const line = execFileSync('build/bench', ['model', '--shape', 'lite6', '--weights', quant === 'bf16' ? quant : `${quant}x16`, '--kv-b', 'bf16', '--batch', '32',
      '--depth', String(from), '--pp', '0', '--only', 'batch', '--reps', String(steps), '--cache', 'bf16', '--no-limits', '--json'], { encoding: 'utf8' });
    const bench = Math.max(...line.trim().split('\n').map((l) => JSON.parse(l)).filter((o) => o.tokens_per_s || o.seconds).map((o) => o.tokens_per_s ?? 32 / o.seconds));
    server.process.kill('SIGCONT');
    shares.push(here / bench);
    console.log(`32 clients: ${here.toFixed(1)} tokens/s; bench --batch 32: ${bench.toFixed(1)}; ${(here / bench).toFixed(3)} of it`);
  }
  await streams;
  check(median(shares) >= 0.9, `throughput ${median(shares).toFixed(3)} of the bench's, at least 0.9`);
}
if (what.includes('prefix')) {
  const shares = [];
  for (let round = 0; round < rounds; round++) {
    const prefix = tokens(2000), cold = await first([...prefix, ...tokens(16)]), warm = await first([...prefix, ...tokens(16)]);
    shares.push(warm / cold);
    console.log(`first token after ${cold.toFixed(1)} ms, with 2,000 of 2,016 tokens shared ${warm.toFixed(1)} ms: ${(warm / cold).toFixed(3)}`);
  }
  check(median(shares) <= 0.05, `a shared prefix: ${median(shares).toFixed(3)} of the time, at most 0.05`);
}
if (what.includes('wait')) {
  const others = [], stop = [];
  let decoding = 0;
  for (let i = 0; i < 30; i++) {
    const body = JSON.stringify({ prompt: tokens(32), max_tokens: 4000, temperature: 1, stream: true });
    others.push(new Promise((done) => {
      const r = http.request({ host: '127.0.0.1', port, path: '/v1/completions', method: 'POST', headers: { 'content-length': body.length } }, (answer) => { answer.once('data', () => { decoding++; }).on('data', () => {}).on('error', done).on('close', done); });
      r.on('error', done).end(body), stop.push(() => r.destroy());
    }));
  }
  while (decoding < 30) await new Promise((done) => { setTimeout(done, 50); });
  const long = first(tokens(16000));
  const waits = [], times = [];
  for (let i = 0; i < 8; i++) {
    const before = await metric(port, 'steps_total');
    times.push(await first(tokens(16)));
    waits.push(await metric(port, 'steps_total') - before);
  }
  const running = await metric(port, 'requests_running');
  console.log(`beside 30 decoding and 16,000 tokens being read: first tokens after ${waits} steps, ${times.map((t) => t.toFixed(0))} ms; ${running} ran`);
  // the step under way when it comes, the one that reads it, and one that may pass while the counters are asked
  check(running >= 31 && median(waits) <= 3, `a new request's first token comes after ${median(waits)} steps`);
  stop.forEach((s) => s()), await Promise.all(others), await long;
}
same(await server.stop(), 0, 'exit status');
end();
