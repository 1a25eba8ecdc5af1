// What the server's tests share: counting, starting a server, plain requests by node's own http.
import { spawn } from 'node:child_process';
import http from 'node:http';
import net from 'node:net';

let passed = 0, failed = 0;
export function check(ok, what) {
  if (ok) passed++;
  else failed++, console.log(`FAILED: ${what}`);
  return ok;
}
export const same = (got, want, what) => check(JSON.stringify(got) === JSON.stringify(want),
  `${what}: got ${JSON.stringify(got)}, expected ${JSON.stringify(want)}`);
export function end() {
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed > 0 || passed === 0 ? 1 : 0);
}
export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export const program = process.env.SERVER ?? 'build/server';
const running = new Set();
process.on('exit', () => running.forEach((s) => s.process.kill('SIGKILL')));

// A server on a port of its own: { port, process, stop(), said }.
export async function start(...options) {
  const s = { said: '' };
  s.process = spawn(program, ['--port', '0', ...options], { stdio: ['ignore', 'ignore', 'pipe'] });
  running.add(s);
  s.ended = new Promise((done) => s.process.on('exit', (code, signal) => { running.delete(s); done(code ?? signal); }));
  s.process.stderr.setEncoding('utf8').on('data', (text) => { s.said += text; });
  for (let i = 0; i < 3000 && !/listening on \S+:(\d+)/.test(s.said) && running.has(s); i++) await sleep(20);
  s.port = Number(/listening on \S+:(\d+)/.exec(s.said)?.[1]);
  if (!s.port) throw new Error(`the server does not start: ${s.said}`);
  s.stop = () => { s.process.kill('SIGTERM'); return s.ended; };
  return s;
}

// { status, headers, text, json }
export function ask(port, path, body, { method = body === undefined ? 'GET' : 'POST', headers = {}, agent } = {}) {
  return new Promise((done, wrong) => {
    const sent = body === undefined ? undefined : typeof body === 'string' || body instanceof Buffer ? body : JSON.stringify(body);
    const request = http.request({ host: '127.0.0.1', port, path, method, agent, headers: { ...headers, ...(sent === undefined ? {} : { 'content-length': Buffer.byteLength(sent) }) } }, (response) => {
      const parts = [];
      response.on('data', (part) => parts.push(part)).on('error', wrong).on('end', () => {
        const text = Buffer.concat(parts).toString();
        let json;
        try { json = JSON.parse(text); } catch { /* then it is none */ }
        done({ status: response.statusCode, headers: response.headers, text, json });
      });
    });
    request.on('error', wrong).end(sent);
  });
}
export const chat = (port, body, options) => ask(port, '/v1/chat/completions', body, options);
export const complete = (port, body, options) => ask(port, '/v1/completions', body, options);
// The events of a stream, as objects; the last one is '[DONE]'.
export const events = (text) => text.split('\n\n').filter(Boolean).map((e) => (e === 'data: [DONE]' ? '[DONE]' : JSON.parse(e.replace(/^data: /, ''))));
export const metric = async (port, name) => Number(new RegExp(`^mla_${name} (\\S+)`, 'm').exec((await ask(port, '/metrics')).text)[1]);

// Bytes to the server as they are; what comes back until it closes, or until it is silent for some time.
export function raw(port, bytes, { silent = 3000, half = false, pieces = 0, every = 5 } = {}) {
  return new Promise((done) => {
    let got = '';
    const socket = net.connect(port, '127.0.0.1', async () => {
      if (!pieces) return half ? socket.end(bytes) : socket.write(bytes);
      for (let i = 0; i < bytes.length && !socket.destroyed; i += pieces) socket.write(bytes.slice(i, i + pieces)), await sleep(every);
    });
    const over = () => { socket.destroy(), done(got); };
    socket.setTimeout(silent, over);
    socket.on('data', (part) => { got += part.toString('latin1'); }).on('end', over).on('error', over).on('close', over);
  });
}
