// The server's API by node's http alone: node tests/server/api.mjs. Ends with "N passed, N failed".
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import os from 'node:os';
import { ask, chat, check, complete, end, events, metric, raw, same, sleep, start } from './common.mjs';

const tales = ['--model', 'examples/tales', '--quiet'];
const dir = fs.mkdtempSync(`${os.tmpdir()}/server-`);
process.on('exit', () => fs.rmSync(dir, { recursive: true, force: true }));
const server = await start(...tales);
const { port } = server;
check(/^listening on http:\/\/127\.0\.0\.1:\d+\n$/.test(server.said), `--quiet, where only this tells the port: ${server.said}`);
const user = (content, more = {}) => ({ messages: [{ role: 'user', content }], max_tokens: 12, temperature: 0, ...more });
const once = 'Once upon a time';

// ---- what needs no model
same((await ask(port, '/health')).json, { status: 'ok' }, '/health');
same((await ask(port, '/v1/models')).json.data.map((m) => m.id), ['tales'], '/v1/models');
same((await ask(port, '/v1/models/tales')).json.id, 'tales', 'one model');
same((await ask(port, '/v1/models/t%61%6Ces')).json.id, 'tales', 'its name encoded');
same([(await ask(port, '/v1/models/tales%00')).status, (await ask(port, '/v1/models/tales%')).status], [404, 404], 'a name that goes on');
same((await ask(port, '/v1/models/other')).json.error.code, 'model_not_found', 'another model');
same((await ask(port, '/')).headers['content-type'], 'text/html; charset=utf-8', 'the page');
same((await ask(port, '/', undefined, { method: 'HEAD' })).text, '', 'HEAD has no body');
for (const path of ['/x', '/v1', '/../../etc/passwd', '/v1/chat/completions/', '/examples/server.c', '/%2e%2e/', '//']) {
  const r = await ask(port, path);
  same([r.status, r.json.error.type], [404, 'invalid_request_error'], path);
}
for (const [path, body, allow] of [['/v1/chat/completions', undefined, 'POST'], ['/health', '{}', 'GET, HEAD']]) {
  const got = await ask(port, path, body);
  same([got.status, got.headers.allow], [405, allow], `${path} by the wrong method`);
}
const tokens = (await ask(port, '/tokenize', { content: 'Once upon a tïme 🦊' })).json;
same(tokens.count, tokens.tokens.length, '/tokenize');
same((await ask(port, '/detokenize', { tokens: tokens.tokens })).json.content, 'Once upon a tïme 🦊', '/detokenize');
same((await ask(port, '/tokenize', { content: 'a', add_special: true })).json.tokens[0], 0, 'with a begin of sentence');

// ---- completions and chats, whole and streaming
const plain = (await complete(port, { prompt: once, max_tokens: 20, temperature: 0 })).json;
same([plain.object, plain.model, plain.choices.length, plain.choices[0].finish_reason], ['text_completion', 'tales', 1, 'length'], 'a completion');
same(plain.usage.completion_tokens, 20, 'tokens of a completion');
const ids = (await ask(port, '/tokenize', { content: once, add_special: true })).json.tokens;
same((await complete(port, { prompt: ids, max_tokens: 20, temperature: 0 })).json.choices[0].text, plain.choices[0].text, 'a prompt of tokens');
const several = (await complete(port, { prompt: [once, 'The king'], n: 2, max_tokens: 5, seed: 1, temperature: 1 })).json;
same(several.choices.map((c) => c.index), [0, 1, 2, 3], 'two prompts, two answers each');
check(several.choices[0].text !== several.choices[1].text, 'which differ');
async function streamed(path, body) {
  const r = await ask(port, path, { ...body, stream: true, stream_options: { include_usage: true } });
  const all = events(r.text);
  same([r.status, r.headers['content-type'], all.at(-1)], [200, 'text/event-stream; charset=utf-8', '[DONE]'], 'a stream');
  return all.slice(0, -1);
}
let all = await streamed('/v1/completions', { prompt: once, max_tokens: 20, temperature: 0 });
same(all.map((e) => e.choices[0]?.text ?? '').join(''), plain.choices[0].text, 'the stream says the same');
same(all.at(-1).usage.completion_tokens, 20, 'usage at the end');
const said = (await chat(port, user('Tell me a tale'))).json;
same([said.object, said.choices[0].message.role, said.choices[0].finish_reason], ['chat.completion', 'assistant', 'length'], 'a chat');
all = await streamed('/v1/chat/completions', user('Tell me a tale'));
same(all[0].choices[0].delta, { role: 'assistant', content: '' }, 'the role comes first');
same(all.map((e) => e.choices[0]?.delta.content ?? '').join(''), said.choices[0].message.content, 'a chat as a stream');
same((await chat(port, user([{ type: 'text', text: 'Tell me ' }, { type: 'text', text: 'a tale' }]))).json.choices, said.choices, 'content in parts');
same((await chat(port, { ...user('Tell me a tale'), max_tokens: undefined, max_completion_tokens: 12, unknown: { x: 1 }, user: 'me', metadata: null })).json.choices, said.choices, 'unknown fields');
const ended = (await complete(port, { prompt: 'The end', max_tokens: 900, seed: 3, temperature: 0.8 })).json;
check(['stop', 'length'].includes(ended.choices[0].finish_reason), 'a long one ends');

// ---- sampling
const draw = async (more) => (await complete(port, { prompt: once, max_tokens: 12, ...more })).json.choices[0].text;
same(await draw({ seed: 7, temperature: 1 }), await draw({ seed: 7, temperature: 1 }), 'the same seed');
check(await draw({ seed: 7, temperature: 1 }) !== await draw({ seed: 8, temperature: 1 }), 'another seed');
check(await draw({ temperature: 1 }) !== await draw({ temperature: 1 }), 'no seed');
const greedy = await draw({ temperature: 0 });
for (const more of [{ top_k: 1 }, { top_p: 0 }, { min_p: 1 }]) same(await draw({ ...more, temperature: 1 }), greedy, JSON.stringify(more));
const first = (await ask(port, '/tokenize', { content: greedy })).json.tokens[0];
check(!(await draw({ temperature: 0, logit_bias: { [first]: -100 } })).startsWith((await ask(port, '/detokenize', { tokens: [first] })).json.content), 'a bias of -100');
const word = (await ask(port, '/tokenize', { content: ' fox' })).json.tokens[0];
same(await draw({ temperature: 0, max_tokens: 3, logit_bias: { [word]: 100 } }), (await ask(port, '/detokenize', { tokens: [word, word, word] })).json.content, 'a bias of 100');
check(await draw({ temperature: 0, max_tokens: 30, frequency_penalty: 2 }) !== await draw({ temperature: 0, max_tokens: 30 }), 'a penalty');

// ---- stop strings, also across tokens and within characters
const whole = (await complete(port, { prompt: once, max_tokens: 40, temperature: 0 })).json.choices[0].text;
for (const at of [5, 11, 23]) {
  const stop = whole.slice(at, at + 4), where = whole.indexOf(stop);
  const r = (await complete(port, { prompt: once, max_tokens: 40, temperature: 0, stop: ['\u0001never', stop] })).json.choices[0];
  same([r.text, r.finish_reason], [whole.slice(0, where), 'stop'], `stop '${stop}'`);
  all = await streamed('/v1/completions', { prompt: once, max_tokens: 40, temperature: 0, stop });
  same(all.map((e) => e.choices[0]?.text ?? '').join(''), whole.slice(0, where), `stop '${stop}', streaming`);
}

// ---- logprobs
let r = (await chat(port, user('Tell me a tale', { logprobs: true, top_logprobs: 3 }))).json.choices[0];
same(r.logprobs.content.map((t) => t.token).join('').trim(), r.message.content.trim(), 'tokens of logprobs');
check(r.logprobs.content.every((t) => t.logprob <= 0 && t.top_logprobs.length === 3 && t.top_logprobs[0].token === t.token), 'the likeliest is taken');
same(Buffer.from(r.logprobs.content[0].bytes).toString(), r.logprobs.content[0].token, 'their bytes');
all = await streamed('/v1/chat/completions', user('Tell me a tale', { logprobs: true, top_logprobs: 3 }));
same(all.flatMap((e) => e.choices[0]?.logprobs?.content ?? []), r.logprobs.content, 'logprobs in a stream');
r = (await complete(port, { prompt: once, max_tokens: 4, temperature: 0, logprobs: 2 })).json.choices[0].logprobs;
same([r.tokens.length, r.token_logprobs.length, Object.keys(r.top_logprobs[0]).length, r.text_offset[0]], [4, 4, 2, 0], 'logprobs of a completion');

// ---- embeddings
const embed = async (body) => (await ask(port, '/v1/embeddings', body)).json;
const vectors = await embed({ input: ['a fox', 'a wolf', 'a fox'] });
same([vectors.data.length, vectors.data[0].embedding.length, vectors.pooling], [3, 192, 'mean'], 'embeddings');
check(Math.abs(vectors.data[0].embedding.reduce((s, x) => s + x * x, 0) - 1) < 1e-5, 'of length 1');
same(vectors.data[0].embedding, vectors.data[2].embedding, 'equal of equal texts');
const packed = Buffer.from((await embed({ input: 'a fox', encoding_format: 'base64' })).data[0].embedding, 'base64');
same([...new Float32Array(packed.buffer, packed.byteOffset, 192)].map((x) => Math.fround(x)), vectors.data[0].embedding.map((x) => Math.fround(x)), 'base64');
check(JSON.stringify((await embed({ input: 'a fox', pooling: 'last' })).data[0].embedding) !== JSON.stringify(vectors.data[0].embedding), 'last is another one');

// ---- JSON by a schema
const schema = { type: 'object', properties: { name: { type: 'string', maxLength: 12 }, age: { type: 'integer', minimum: 1, maximum: 90 }, kind: { enum: ['fox', 'wolf'] } },
  required: ['name', 'age', 'kind'], additionalProperties: false };
for (let seed = 0; seed < 4; seed++) {
  const answer = (await chat(port, user('A beast as JSON', { seed, temperature: seed / 2, max_tokens: 200, response_format: { type: 'json_schema', json_schema: { name: 'beast', schema } } }))).json.choices[0];
  let o = {};
  try { o = JSON.parse(answer.message.content); } catch { /* checked below */ }
  check(o.name !== undefined && o.age >= 1 && o.age <= 90 && ['fox', 'wolf'].includes(o.kind) && answer.finish_reason === 'stop', `by a schema: ${answer.message.content}`);
}

// ---- what is wrong gets a 400 that names the field
const schemaOf = (s) => ({ response_format: { type: 'json_schema', json_schema: { name: 'x', schema: s } } });
for (const [body, param, message] of [
  [{ temperature: -1 }, 'temperature', 'temperature: -1 is below 0'], [{ temperature: 'hot' }, 'temperature', 'temperature: not a number'],
  [{ temperature: 2.5 }, 'temperature', 'temperature: 2.5 is above 2'], [{ top_p: 2 }, 'top_p'], [{ n: 0 }, 'n', 'n: 0 is below 1'], [{ n: 1.5 }, 'n'],
  [{ max_tokens: 0 }, 'max_tokens'], [{ max_tokens: 5000 }, 'max_tokens'], [{ stop: '' }, 'stop'], [{ stop: [1] }, 'stop'], [{ seed: 'x' }, 'seed'],
  [{ stream: 1 }, 'stream'], [{ stream_options: 3 }, 'stream_options'], [{ logprobs: 3 }, 'logprobs'], [{ top_logprobs: 2 }, 'top_logprobs'],
  [{ logprobs: true, top_logprobs: 21 }, 'top_logprobs'], [{ logit_bias: { x: 1 } }, 'logit_bias'], [{ logit_bias: { 5: 101 } }, 'logit_bias'],
  [{ messages: undefined }, 'messages'], [{ messages: [] }, 'messages'], [{ messages: [{ role: 'king', content: '' }] }, 'messages[0].role'],
  [{ messages: [{ role: 'user' }] }, 'messages[0].content'], [{ messages: [{ role: 'user', content: [{ type: 'image_url', image_url: {} }] }] }, 'messages[0].content'],
  [{ messages: [{ role: 'user', content: 'a' }, { role: 'assistant', content: 'b' }] }, 'messages'], [{ model: 3 }, 'model'],
  [{ tools: 3 }, 'tools'], [{ tools: [{ type: 'function', function: { name: 'f' } }] }, 'tools'], [{ tool_choice: 'x' }, 'tool_choice'],
  [{ tools: [1] }, 'tools[0].type'], [{ tools: [{ function: { name: 'f' } }] }, 'tools[0].type'], [{ tools: [{ type: 'custom', function: { name: 'f' } }] }, 'tools[0].type'],
  ...[[{}, 'name'], [{ name: '' }, 'name'], [{ name: 'a b' }, 'name'], [{ name: 'g', parameters: [] }, 'parameters'], [{ name: 'g', parameters: 'x' }, 'parameters'], [{ name: 'g', description: 3 }, 'description']].map(
    ([g, what]) => [{ tools: [{ type: 'function', function: { name: 'f', description: '', parameters: {} } }, { type: 'function', function: g }] }, `tools[1].function.${what}`]),
  [{ chat_template_kwargs: 3 }, 'chat_template_kwargs'], [{ chat_template_kwargs: [] }, 'chat_template_kwargs'],
  ...['messages', 'tools', 'bos_token', 'eos_token', 'add_generation_prompt'].map((k) => [{ chat_template_kwargs: { a: 1, [k]: null } }, `chat_template_kwargs.${k}`]),
  [{ functions: [] }, 'functions'], [{ response_format: { type: 'xml' } }, 'response_format'], [schemaOf({ type: 'string', pattern: 'a' }), 'response_format'],
  [{ presence_penalty: 3 }, 'presence_penalty'], [{ min_p: -0.1 }, 'min_p'], [{ top_k: -2 }, 'top_k'], [{ repetition_penalty: 0 }, 'repetition_penalty'],
]) {
  const got = await chat(port, user('a', body));
  same([got.status, got.json.error.type, got.json.error.param], [400, 'invalid_request_error', param], JSON.stringify(body));
  check(got.json.error.message.startsWith(param.split('[')[0]) && (!message || got.json.error.message === message), got.json.error.message);
}
same((await chat(port, user('a', { chat_template_kwargs: { enable_thinking: false } }))).status, 200, 'chat_template_kwargs');
for (const wrong of ['x', 1, []]) same((await ask(port, '/tokenize', { content: 'a', add_special: wrong })).json.error.param, 'add_special', 'add_special');
same((await ask(port, '/tokenize', { content: 'a', add_special: null })).status, 200, 'add_special: null');
same((await chat(port, user('a', { model: 'gpt' }))).json.error.code, 'model_not_found', 'another model');
same((await chat(port, user('x '.repeat(3000), { max_tokens: undefined }))).json.error.code, 'context_length_exceeded', 'a prompt that is too long');
for (const [prompt, message] of [[[[1], 'a'], 'prompt: texts and tokens in one list'], [['a', [1]], 'prompt: texts and tokens in one list'], [[1, 'a'], 'prompt: token 1 is not'], [[[1], 2], 'prompt: neither']]) {
  const got = await complete(port, { prompt, max_tokens: 1 });
  check(got.status === 400 && got.json.error.param === 'prompt' && got.json.error.message.startsWith(message), `${JSON.stringify(prompt)}: ${got.status} ${JSON.stringify(got.json)}`);
}
for (const body of ['', '[]', '{', '{"a":1}}', '"x"', '{"a":1,"a":2}', '\u0000', '[[[[[[', '{"messages": [{"role":"user","content":"\\ud800"}]}'])
  same((await chat(port, body)).status, 400, `body ${body.slice(0, 20)}`);
for (const [path, body, param] of [['/v1/completions', {}, 'prompt'], ['/v1/completions', { prompt: [[99999]] }, 'prompt'], ['/v1/completions', { prompt: 'a', echo: true }, 'echo'],
  ['/v1/completions', { prompt: 'a', suffix: 'b' }, 'suffix'], ['/v1/completions', { prompt: 'a', best_of: 3 }, 'best_of'], ['/v1/completions', { prompt: [] }, 'prompt'],
  ['/v1/completions', { prompt: [{}] }, 'prompt'], ['/v1/completions', { prompt: Array(2048).fill('Once'), n: 128, max_tokens: 1000 }, 'n'],
  ['/v1/completions', { prompt: Array(2).fill('Once'), n: 65 }, 'n'], ['/v1/completions', { prompt: Array(129).fill('Once') }, 'prompt'], ['/v1/embeddings', {}, 'input'], ['/v1/embeddings', { input: 'a', dimensions: 3 }, 'dimensions'],
  ['/v1/embeddings', { input: 'a', encoding_format: 'x' }, 'encoding_format'], ['/tokenize', {}, 'content'], ['/detokenize', { tokens: [-1] }, 'tokens'], ['/detokenize', {}, 'tokens']]) {
  const got = await ask(port, path, body);
  same([got.status, got.json.error.param], [400, param], `${path} ${JSON.stringify(body)}`);
}

{ // so many bytes that they are not made tokens
  const long = 'a'.repeat(9e6);
  for (const [path, body, param] of [['/v1/completions', { prompt: ['a', long] }, 'prompt'], ['/v1/embeddings', { input: long }, 'input'], ['/v1/chat/completions', user(long), 'messages']]) {
    const got = (await ask(port, path, body)).json.error;
    same([got.param, got.code, /: 9000000 bytes are more than the 1024 tokens/.test(got.message)], [param, 'context_length_exceeded', true], `${path}: ${got.message}`);
  }
}
for (const input of ['a '.repeat(3000), [[5], Array(1025).fill(5)]]) {
  const got = (await ask(port, '/v1/embeddings', { input })).json.error;
  same([got.param, got.code, got.message.startsWith('input: ')], ['input', 'context_length_exceeded', true], `an input that is too long: ${got.message}`);
}
same((await ask(port, '/v1/embeddings', { input: [Array(1024).fill(5)] })).status, 200, 'as long as the context');

// ---- HTTP: pieces, pipelines, chunks, limits
const health = 'GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n', count = (text, what) => text.split(what).length - 1;
same(count(await raw(port, health.repeat(50) + health.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n')), '{"status":"ok"}'), 51, 'a pipeline');
const resident = () => Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${server.process.pid}/status`, 'utf8'))[1]) >> 10;
const pages = 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n', unread = net.connect(port, '127.0.0.1');
unread.on('error', () => {}), unread.pause(), unread.write(pages.repeat(20000)); // a client that takes no answers
same(count(await raw(port, pages.repeat(200) + pages.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n')), '200 OK'), 201, 'a pipeline of pages');
check(resident() < 200, `answers that nobody takes: ${resident()} MB`);
unread.destroy();
same(count(await raw(port, health.replace('\r\n\r\n', '\r\nConnection: close\r\n\r\n'), { pieces: 1, every: 1 }), '200 OK'), 1, 'byte by byte');
same(count(await raw(port, health, { half: true }), '200 OK'), 1, 'a client that sends nothing more');
same(count(await raw(port, 'GET /health HTTP/1.0\r\n\r\n'), 'Connection: close'), 1, 'HTTP/1.0');
for (const head of ['GET http://localhost/health HTTP/1.1\r\nHost: localhost', 'GET /health HTTP/1.1\r\nHost: LocalHost'])
  same(count(await raw(port, `${head}\r\nConnection: close, TE\r\n\r\n`), '200 OK'), 1, head);
const chunked = (chunks, more = '') => `POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n${more}\r\n${chunks}`;
for (const pieces of [0, 1, 7])
  check(/"count":/.test(await raw(port, chunked('5\r\n{"con\r\n8;x=y\r\ntent":"a\r\n02\r\n"}\r\n0\r\nTrailer: x\r\n\r\n'), { pieces, every: 1 })), `a body in chunks, ${pieces} bytes at a time`);
check(/^HTTP\/1.1 100 Continue\r\n\r\nHTTP\/1.1 200/.test(await raw(port, `POST /tokenize HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 15\r\nConnection: close\r\n\r\n`, { silent: 300 }) + await raw(port, `POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{"content":"a"}`)), 'Expect');
for (const [bytes, status] of [
  ['GET /health\r\n\r\n', 400], ['GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n', 400], ['GET /health HTTP/2.0\r\nHost: localhost\r\n\r\n', 505], ['GET /health HTTP/1.1\r\n\r\n', 400],
  ['GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n', 400], ['GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n', 400], ['GET /health HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n', 400],
  ['GET http://x/ HTTP/1.1\r\nHost: localhost\r\n\r\n', 400], ['\u0000\r\n\r\n', 400], ['GET /health HTTP/1.1\nHost: localhost\n\n', 400], ['GET /health HTTP/1.1\r\nHost: localhost\n', 400], ['\n', 400],
  [`GET /health HTTP/1.1\r\nHost: localhost\r\n${'X: y\r\n'.repeat(101)}\r\n`, 431], [`GET /${'x'.repeat(20000)} HTTP/1.1\r\nHost: localhost\r\n\r\n`, 431],
  ['POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n{}   ', 400], ['POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\n{}   ', 400],
  ['POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n', 413], [chunked('5\r\nabc', 'Content-Length: 3\r\n'), 400], [chunked('x\r\n'), 400], [chunked('5\r\nabcdefgh'), 400],
  ['POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n', 501], ['POST /tokenize HTTP/1.1\r\nHost: localhost\r\nExpect: tea\r\nContent-Length: 2\r\n\r\n{}', 417],
  ['GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n', 403], ['GET /health HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\nConnection: close\r\n\r\n', 403]]) {
  const got = await raw(port, bytes);
  check(got.startsWith(`HTTP/1.1 ${status} `) && got.includes('"error"') && /Connection: close/.test(got), `${bytes.slice(0, 60)}: ${got.slice(0, 40)}, expected ${status}`);
}
for (const half of ['GET /hea', 'POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 15\r\n\r\n{"co']) {
  const begun = Date.now();
  same(count(await raw(port, health + half, { half: true, silent: 10000 }), 'HTTP/1.1 '), 1, `the half of a second request: ${half}`);
  check(Date.now() - begun < 5000, `it is not waited for: ${Date.now() - begun} ms`);
}
{ // what has no body does not wait for those that have long ones
  const long = JSON.stringify({ content: 'a tale of wolves '.repeat(400000) }), order = [];
  const slow = Array.from({ length: 4 }, (_, i) => ask(port, '/tokenize', long).then(() => order.push(i)));
  for (let i = 0; i < 5; i++) await ask(port, '/health').then(() => order.push('health')), await sleep(5);
  await Promise.all(slow);
  check(order.lastIndexOf('health') === 4, `health beside four long texts: ${order}`);
}
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
for (let i = 0; i < 3; i++) same((await ask(port, '/health', undefined, { agent })).status, 200, 'keep-alive');
agent.destroy();

// ---- clients that go away, and those that do not read: their work stops, others go on
async function open() { return metric(port, 'requests_open'); }
async function until(done, what) {
  for (let i = 0; i < 250; i++) {
    if (await done()) return check(true, what);
    await sleep(20);
  }
  return check(false, what);
}
for (const [stream, behind] of [[true, 0], [false, 0], [false, 80000]]) {
  const body = JSON.stringify({ prompt: once, max_tokens: 900, temperature: 1, stream, n: behind ? 128 : 4, logit_bias: { 1: -100, 0: -100 } });
  const socket = net.connect(port, '127.0.0.1', () => socket.write(`POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}${'GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n'.repeat(behind / 40)}`));
  await until(async () => await open() === 1, 'it runs');
  await sleep(behind / 800);
  const written = await metric(port, 'generated_tokens_total');
  socket.destroy();
  await until(async () => await open() === 0, `the work of a client that went away ends, stream ${stream}`);
  check(await metric(port, 'generated_tokens_total') - written < (behind ? 20000 : 3000), `at once, ${behind} bytes behind it`);
}
check(await metric(port, 'responses_abandoned_total') >= 2, 'they are counted');
{ // who leaves while others' long texts are worked on costs nothing
  const text = (n) => JSON.stringify({ content: 'a tale of it '.repeat(n) }), posted = (path, body) => `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  const before = await metric(port, 'responses_abandoned_total'), first = ask(port, '/tokenize', text(300000));
  await sleep(100);
  await Promise.all(['/tokenize', '/detokenize', '/v1/completions'].map((path) => new Promise((done) => {
    const socket = net.connect(port, '127.0.0.1', () => socket.write(posted(path, text(3)), () => { socket.destroy(), done(); }));
  })));
  same((await first).status, 200, 'a long text');
  await until(async () => await metric(port, 'responses_abandoned_total') === before + 3, 'what nobody waits for is not begun');
}
for (const [stream, minor] of [[true, 1], [false, 1], [true, 0], [false, 0]]) { // one that ends what it sends gets its answer; of HTTP/1.0 it cannot be told from one that went away
  const body = JSON.stringify({ prompt: once, max_tokens: 900, temperature: 1, stream, n: 16 });
  const got = await raw(port, `POST /v1/completions HTTP/1.${minor}\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`, { half: true, silent: 20000 });
  if (minor) check(/^(HTTP\/1.1 100 Continue\r\n\r\n)*HTTP\/1.1 200 /.test(got) && got.includes(stream ? '[DONE]' : '"usage"'), `half closed, stream ${stream}: ${got.slice(-60)}`);
  else check((got === '' || (stream && got.startsWith('HTTP/1.1 200 '))) && !got.includes('[DONE]'), `half closed, HTTP/1.0, stream ${stream}: ${got.slice(-60)}`);
}
const lazy = net.connect(port, '127.0.0.1');
lazy.pause();
{
  const body = JSON.stringify({ prompt: once, max_tokens: 900, temperature: 1, stream: true, logprobs: 20, n: 16 });
  lazy.write(`POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
}
const idle = await Promise.all(Array.from({ length: 300 }, () => new Promise((done) => { const s = net.connect(port, '127.0.0.1', () => done(s)); })));
same((await complete(port, { prompt: once, max_tokens: 20, temperature: 0 })).json.choices[0].text, plain.choices[0].text, 'beside a client that does not read, and idle ones');
check(await metric(port, 'connections') >= 300, 'idle connections are held');
lazy.destroy(), idle.forEach((s) => s.destroy());
await until(async () => await open() === 0, 'nothing is left');
same(await metric(port, 'requests_running'), 0, 'in the scheduler, too');

// ---- many at once get what each gets alone
const bodies = Array.from({ length: 24 }, (_, i) => ({ prompt: `${once} ${'there was a fox '.repeat(i % 7)}${i}`, max_tokens: 5 + i, seed: i, temperature: i % 3 }));
const alone = [];
for (const b of bodies) alone.push((await complete(port, b)).json.choices);
const together = await Promise.all(bodies.map(async (b) => (await complete(port, b)).json.choices));
same(together, alone, 'together and alone');

// ---- another server on the port, the end, keys, CORS
const { spawnSync } = await import('node:child_process');
const { program } = await import('./common.mjs');
const run = (...options) => spawnSync(program, options, { encoding: 'utf8', timeout: 20000 });
let other = run(...tales, '--port', String(port));
same([other.status, /^server: port \d+ of 127.0.0.1 is in use/.test(other.stderr)], [1, true], `a port in use: ${other.stderr}`);
for (const [options, status, text] of [[['--nope'], 2, "unknown option '--nope'"], [[], 2, '--model is missing'], [['--model'], 2, 'a value is missing'], [['--model='], 2, '--model: a value is missing'], [['--model', ''], 2, '--model: a value is missing'],
  [[...tales, '--max-body', '0'], 2, "--max-body: '0'"],
  [[...tales, '--port', '70000'], 2, '--port: 70000'], [[...tales, '--cache', 'f8'], 2, '--cache: '], [[...tales, '--host', 'example.org'], 1, "'example.org' is no address"],
  [['--model', '/nowhere'], 1, '/nowhere'], [[...tales, '--api-key', '/nowhere'], 1, '--api-key: /nowhere: cannot be read'], [['--synthetic', 'x'], 1, 'lite6'], [[...tales, '--pool', '10'], 1, 'pool']]) {
  other = run(...options);
  check(other.status === status && other.stderr.includes(text) && count(other.stderr, '\n') === 1, `${options}: ${other.status} ${other.stderr}`);
}
same([run('--help').status, run('--version').status], [0, 0], '--help, --version');
const last = complete(port, { prompt: once, max_tokens: 300, temperature: 1, seed: 1 });
await until(async () => await open() === 1, 'one more runs');
const stopped = server.stop();
same((await last).json.choices[0].text.length > 100, true, 'what runs at SIGTERM is finished');
same(await stopped, 0, 'exit status after SIGTERM');

fs.writeFileSync(`${dir}/keys`, '\ufeffsecret-1 \n \t\n\tsecret-2\r\n');
for (const [text, line] of [[`${'a'.repeat(511)}secret\n`, 1], [`b\n${'a'.repeat(501)}`, 2], ['b\r\n\nc\0d\n', 3]]) {
  fs.writeFileSync(`${dir}/long`, text);
  other = run(...tales, '--api-key', `${dir}/long`);
  check(other.status === 2 && other.stderr.includes(`--api-key: line ${line} of `), `a key of ${text.length} bytes: ${other.status} ${other.stderr}`);
}
spawnSync('mkfifo', [`${dir}/fifo`]);
other = run(...tales, '--api-key', `${dir}/fifo`);
check(other.status === 1 && other.stderr.includes(`--api-key: `) && other.stderr.includes('fifo'), `keys from a FIFO: ${other.status} ${other.stderr}`);
fs.truncateSync(`${dir}/long`, 2 ** 30);
other = run(...tales, '--api-key', `${dir}/long`);
check(other.status === 1 && other.stderr.includes(`--api-key: `), `a large file of keys: ${other.status} ${other.stderr}`);
{ // requests that do not come whole hold nothing up after SIGTERM
  const waits = await start(...tales), post = 'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{';
  const halves = [post.slice(0, 20), post].map((bytes) => raw(waits.port, bytes, { silent: 30000 }));
  await sleep(200);
  const begin = Date.now();
  same(await waits.stop(), 0, 'exit status after SIGTERM beside half requests');
  check(Date.now() - begin < 5000, `half requests held it up for ${Date.now() - begin} ms`);
  same(await Promise.all(halves), ['', ''], 'half requests are not answered');
}
{ // what is not finished in the time that there is after SIGTERM
  const late = await start(...tales.slice(0, 2), '--drain', '1', '--ctx', '1025'), body = { prompt: once, max_tokens: 900, n: 64, logit_bias: { 0: -100, 1: -100 } };
  const whole = complete(late.port, body), stream = complete(late.port, { ...body, stream: true });
  await until(async () => await metric(late.port, 'generated_tokens_total') > 0 && await metric(late.port, 'requests_open') === 2, 'two run');
  const stopped = late.stop();
  check(late.said.includes('--ctx: 1025, and the model was made for 1024 tokens') && !server.said.includes('--ctx'), `beyond the model's context: ${late.said}`);
  same([(await whole).status, (await whole).json.error.type], [503, 'server_error'], 'a whole answer that is given up');
  const all = events((await stream).text);
  same([(await stream).status, all.at(-1).error.type, /--drain/.test(all.at(-1).error.message)], [200, 'server_error', true], 'a stream that is given up');
  same(await stopped, 0, 'exit status after --drain');
}
{ // a tokenizer whose steps make a million letters of one
  fs.mkdirSync(`${dir}/grows`);
  for (const name of fs.readdirSync('examples/tales')) fs.copyFileSync(`examples/tales/${name}`, `${dir}/grows/${name}`);
  const tokenizer = JSON.parse(fs.readFileSync('examples/tales/tokenizer.json')), step = { type: 'Replace', pattern: { String: 'l' }, content: 'l'.repeat(8000) };
  fs.writeFileSync(`${dir}/grows/tokenizer.json`, JSON.stringify({ ...tokenizer, normalizer: { type: 'Sequence', normalizers: [step, step] } }));
  const grows = await start('--model', `${dir}/grows`);
  for (const [path, body] of [['/tokenize', { content: 'll' }], ['/v1/completions', { prompt: 'll' }], ['/v1/chat/completions', user('ll', {})]]) {
    const got = await ask(grows.port, path, body);
    check(got.status === 500 && got.json.error.message.includes('normalizer or pre-tokenizer makes too much of a text of 2 bytes'), `${path}: ${got.status} ${got.text}`);
  }
  await grows.stop();
}
for (const form of ['kimi-k2', 'glm-4.5']) { // a call that is required and cut off is no text
  const calling = await start(...tales, '--template', `tests/jinja/${form}.jinja`);
  const body = user('x', { max_tokens: 8, tools: [{ type: 'function', function: { name: 'clock', parameters: {} } }], tool_choice: { type: 'function', function: { name: 'clock' } } });
  const cut = (await chat(calling.port, body)).json.choices[0];
  same([cut.message.content, cut.message.tool_calls, cut.finish_reason], ['', undefined, 'length'], `${form}: half a call`);
  const all = events((await chat(calling.port, { ...body, stream: true })).text).slice(0, -1);
  same([all.map((e) => e.choices[0].delta.content ?? '').join(''), all.at(-1).choices[0].finish_reason], ['', 'length'], `${form}: half a call in a stream`);
  await calling.stop();
}
for (const form of ['glm-4.7', 'deepseek-r1', 'deepseek-v3.1']) { // thoughts that the template begins, and no token of the tokenizer ends
  const thinking = await start(...tales, '--template', `tests/jinja/${form}.jinja`);
  const body = user('Hello', { max_tokens: 40, chat_template_kwargs: { thinking: true } });
  const shaped = { ...body, response_format: { type: 'json_schema', json_schema: { name: 'a', schema: { const: 'hi' } } } };
  const got = (await chat(thinking.port, shaped)).json.choices[0];
  same([got.message.content, got.message.reasoning_content, got.finish_reason], ['"hi"', undefined, 'stop'], `${form}: by a schema`);
  const plain = (await chat(thinking.port, body)).json.choices[0].message;
  check(!plain.content && plain.reasoning_content.length > 0, `${form}: thoughts: ${JSON.stringify(plain)}`);
  if (form === 'deepseek-v3.1') {
    const parameters = { type: 'object', properties: { zone: { enum: ['CET', 'UTC'] } }, required: ['zone'], additionalProperties: false };
    const tools = [{ type: 'function', function: { name: 'clock', description: 'The time.', parameters } }];
    const call = (await chat(thinking.port, { ...body, max_tokens: 60, tools, tool_choice: 'required' })).json.choices[0];
    same([call.finish_reason, call.message.tool_calls?.[0].function.name], ['tool_calls', 'clock'], `${form}: a call that is required`);
  }
  await thinking.stop();
}
for (const [form, tools, text, param, message] of [ // what templates do not take
  ['deepseek-v3.1', [{ type: 'function', function: { name: 'f' } }], '{}', 'tools', 'tools: '], ['glm-4.7', [], 'x', 'messages[1].tool_calls[0].function.arguments', 'messages[1].tool_calls[0].function.arguments: ']]) {
  const strict = await start(...tales, '--template', `tests/jinja/${form}.jinja`), turns = (...rest) => [{ role: 'user', content: 'a' }, ...rest];
  const call = (text) => ({ role: 'assistant', content: '', tool_calls: [{ id: 'a', type: 'function', function: { name: 'f', arguments: text } }] });
  const got = await chat(strict.port, { messages: turns(...(tools.length ? [] : [call(text), ...turns()])), tools, max_tokens: 1 });
  check(got.status === 400 && got.json.error.param === param && got.json.error.message.startsWith(message), `${form}: ${got.status} ${JSON.stringify(got.json)}`);
  same((await chat(strict.port, { messages: turns(call('{}'), ...turns()), max_tokens: 1 })).status, 200, `${form}: what it does take`);
  await strict.stop();
}
for (const form of ['kimi-k2', 'deepseek-v3.1']) { // the arguments of a call that must come are by the tool's schema
  const calling = await start(...tales, '--template', `tests/jinja/${form}.jinja`);
  const parameters = { type: 'object', properties: { zone: { enum: ['CET', 'UTC'] }, hours: { type: 'array', items: { type: 'integer', minimum: 0, maximum: 23 }, maxItems: 3 }, note: { type: 'string', maxLength: 20 } }, required: ['zone', 'hours'] };
  const tool = (more) => [{ type: 'function', function: { name: 'clock', description: 'The time in a zone.', parameters, ...more } }], named = { type: 'function', function: { name: 'clock' } };
  for (const choice of [named, 'required']) for (const seed of [1, 2, 3]) {
    const body = user('What time is it?', { max_tokens: 300, temperature: seed / 2, seed, tools: tool(), tool_choice: choice });
    const got = (await chat(calling.port, body)).json.choices[0], call = got.message.tool_calls?.[0];
    same([got.finish_reason, got.message.tool_calls?.length, call?.function.name, got.message.content], ['tool_calls', 1, 'clock', null], `${form}: a call`);
    let a = {};
    try { a = JSON.parse(call.function.arguments); } catch (e) { check(false, `${form}: ${call?.function.arguments}`); }
    check(['CET', 'UTC'].includes(a.zone) && Array.isArray(a.hours) && a.hours.length <= 3 && a.hours.every((h) => Number.isInteger(h) && h >= 0 && h < 24) && [...(a.note ?? '')].length <= 20 &&
      Object.keys(a).every((k) => k in parameters.properties), `${form}: its arguments: ${call?.function.arguments}`);
    const streamed = events((await chat(calling.port, { ...body, stream: true })).text).slice(0, -1);
    same([streamed.map((e) => e.choices[0].delta.tool_calls?.[0].function.arguments ?? '').join(''), streamed.at(-1).choices[0].finish_reason], [call?.function.arguments, 'tool_calls'], `${form}: a call in a stream`);
  }
  const odd = { type: 'object', properties: { zone: { type: 'string', pattern: 'x' } } };
  const loose = await chat(calling.port, user('x', { max_tokens: 4, tools: tool({ parameters: odd }), tool_choice: named })), strict = await chat(calling.port, user('x', { max_tokens: 4, tools: tool({ parameters: odd, strict: true }), tool_choice: named }));
  same([loose.status, strict.status, strict.json.error.param, /pattern/.test(strict.json.error.message)], [200, 400, 'tools', true], `${form}: a schema that cannot be held to`);
  await calling.stop();
}
{ // a small request of which the template makes much text
  fs.writeFileSync(`${dir}/bomb.jinja`, '{{ ("a"*10000)|replace("","b"*10000) }}');
  const bomb = await start(...tales, '--template', `${dir}/bomb.jinja`), begun = Date.now(), got = await chat(bomb.port, user('x'));
  same([got.status, got.json.error.param, got.json.error.code], [400, 'messages', 'context_length_exceeded'], 'a text longer than the context');
  check(Date.now() - begun < 10000, `it is not made into tokens: ${Date.now() - begun} ms`);
  await bomb.stop();
}
{ // a request with many texts lets others in before it is done
  const fair = await start(...tales, '--parallel', '4'), body = JSON.stringify({ prompt: once, max_tokens: 100, n: 128, logit_bias: { 0: -100, 1: -100 } });
  const socket = net.connect(fair.port, '127.0.0.1', () => socket.write(`POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`));
  await until(async () => await metric(fair.port, 'generated_tokens_total') > 0, 'a request with many texts runs');
  same((await complete(fair.port, { prompt: once, max_tokens: 2, temperature: 0 })).status, 200, 'one beside it');
  const written = await metric(fair.port, 'generated_tokens_total');
  check(written < 3000 && await metric(fair.port, 'requests_open') === 1, `it does not wait for all of them: ${written} tokens`);
  socket.destroy();
  await fair.stop();
  const few = await start(...tales, '--parallel', '2'), asked = { prompt: [once, 'The king'], n: 4, max_tokens: 5, seed: 1, temperature: 1 };
  const got = (await complete(few.port, asked)).json, want = several;
  same(got.choices.map((c) => c.index), [0, 1, 2, 3, 4, 5, 6, 7], 'more texts than run at a time');
  same([0, 1, 4, 5].map((i) => got.choices[i].text), want.choices.map((c) => c.text), 'are the same');
  same(got.usage.completion_tokens, 40, 'and all of them');
  await few.stop();
}
{ // guesses change nothing
  const guessing = await start(...tales, '--mtp'), plain = await start(...tales);
  const texts = [{ temperature: 0 }, { temperature: 1, seed: 3 }, { temperature: 0.7, seed: 4, logprobs: 2, frequency_penalty: 0.5 }, { temperature: 0, stop: ['wolf'] }, { temperature: 1, seed: 5, n: 3 }];
  const all = (port) => Promise.all(texts.map((t) => complete(port, { prompt: once, max_tokens: 60, ...t }).then((r) => r.json.choices)));
  same(await all(guessing.port), await all(plain.port), 'texts with --mtp');
  for (let i = 0; i < 5 && !await metric(guessing.port, 'guesses_accepted_total'); i++) await complete(guessing.port, { prompt: once, max_tokens: 200, temperature: 0 });
  check(await metric(guessing.port, 'guesses_total') >= await metric(guessing.port, 'guesses_accepted_total') && await metric(plain.port, 'guesses_total') === 0, 'guesses are counted');
  await guessing.stop(), await plain.stop();
}
const guarded = await start(...tales, '--api-key', `${dir}/keys`, '--cors', 'https://app.example', '--queue', '0', '--parallel', '1', '--alias', 'fox', '--ctx', '600');
const bearer = (key) => ({ headers: { authorization: `Bearer ${key}` } });
same((await ask(guarded.port, '/health')).status, 200, '/health needs no key');
for (const path of ['/', '/v1/models', '/metrics', '/x']) same((await ask(guarded.port, path)).status, 401, `${path} needs one`);
for (const key of ['', 'secret', 'secret-', 'secret-12', 'secret-1  x', 'Secret-1']) same((await ask(guarded.port, '/v1/models', undefined, bearer(key))).status, 401, `key '${key}'`);
for (const key of ['secret-1', 'secret-2']) same((await ask(guarded.port, '/v1/models', undefined, bearer(key))).json.data[0].id, 'fox', key);
same((await ask(guarded.port, '/v1/models', undefined, { headers: { authorization: 'bearer secret-1' } })).status, 200, 'bearer');
same((await ask(guarded.port, '/', undefined, { headers: { authorization: `Basic ${Buffer.from('me:secret-2').toString('base64')}` } })).status, 200, 'as a browser sends it');
r = await ask(guarded.port, '/v1/models', undefined, { headers: { ...bearer('secret-1').headers, origin: 'https://app.example' } });
same([r.status, r.headers['access-control-allow-origin']], [200, 'https://app.example'], '--cors');
same((await ask(guarded.port, '/v1/models', undefined, { method: 'OPTIONS', headers: { origin: 'https://app.example' } })).status, 204, 'a preflight');
same((await ask(guarded.port, '/v1/models', undefined, { headers: { ...bearer('secret-1').headers, origin: 'https://evil.example' } })).status, 403, 'from elsewhere');
const burst = await Promise.all(Array.from({ length: 8 }, () => complete(guarded.port, { prompt: once, max_tokens: 300, temperature: 1 }, bearer('secret-1'))));
check(burst.some((b) => b.status === 200) && burst.every((b) => [200, 503].includes(b.status)), `a full queue: ${burst.map((b) => b.status)}`);
same(await guarded.stop(), 0, 'exit status');
end();
