// The npm package `openai` as a client: node tests/server/openai.mjs NODE_MODULES. Ends with "N passed, N failed".
import fs from 'node:fs';
import os from 'node:os';
import { createRequire } from 'node:module';
import { check, end, same, start } from './common.mjs';

const OpenAI = createRequire(`${process.argv[2]}/`)('openai');
const dir = fs.mkdtempSync(`${os.tmpdir()}/server-`);
process.on('exit', () => fs.rmSync(dir, { recursive: true, force: true }));
fs.writeFileSync(`${dir}/keys`, 'sk-test\n');
const server = await start('--model', 'examples/tales', '--api-key', `${dir}/keys`);
const client = (port, apiKey = 'sk-test') => new OpenAI.OpenAI({ baseURL: `http://127.0.0.1:${port}/v1`, apiKey, maxRetries: 0 });
const ai = client(server.port), model = 'tales';
const messages = [{ role: 'system', content: 'You tell tales.' }, { role: 'user', content: 'Tell me of a fox.' }];
const how = { model, messages, max_tokens: 24, temperature: 0 };
async function refused(what, status, param) {
  try {
    await what;
    check(false, `${param} is not refused`);
  } catch (e) {
    same([e.status, e.param, e.type], [status, param, 'invalid_request_error'], e.message);
  }
}
async function gathered(stream) {
  const all = { content: '', reasoning: '', calls: [], finish: null, usage: null };
  for await (const e of stream) {
    const c = e.choices[0];
    all.content += c?.delta?.content ?? c?.text ?? '', all.reasoning += c?.delta?.reasoning_content ?? '';
    all.calls.push(...(c?.delta?.tool_calls ?? []));
    all.finish = c?.finish_reason ?? all.finish, all.usage = e.usage ?? all.usage;
  }
  return all;
}

// ---- models, chats, completions
same((await ai.models.list()).data.map((m) => m.id), [model], 'models');
same((await ai.models.retrieve(model)).id, model, 'a model');
const whole = await ai.chat.completions.create(how);
same([whole.object, whole.choices[0].message.role, whole.choices[0].finish_reason, whole.usage.completion_tokens], ['chat.completion', 'assistant', 'length', 24], 'a chat');
let all = await gathered(await ai.chat.completions.create({ ...how, stream: true, stream_options: { include_usage: true } }));
same([all.content, all.finish, all.usage.completion_tokens], [whole.choices[0].message.content, 'length', 24], 'streamed');
const runner = ai.chat.completions.stream({ ...how });
same((await runner.finalChatCompletion()).choices[0].message.content, whole.choices[0].message.content, 'by the stream helper');
const more = [...messages, whole.choices[0].message, { role: 'user', content: [{ type: 'text', text: 'And then?' }] }];
const second = await ai.chat.completions.create({ ...how, messages: more, max_tokens: undefined, max_completion_tokens: 10 });
same(second.usage.completion_tokens, 10, 'a second turn');
check(second.usage.prompt_tokens > whole.usage.prompt_tokens + 20, 'with the first before it');
const text = await ai.completions.create({ model, prompt: 'Once upon a time', max_tokens: 20, temperature: 0 });
all = await gathered(await ai.completions.create({ model, prompt: 'Once upon a time', max_tokens: 20, temperature: 0, stream: true }));
same(all.content, text.choices[0].text, 'a completion, streamed');
const choices = (await ai.chat.completions.create({ ...how, n: 3, temperature: 1, seed: 4 })).choices;
same([choices.map((c) => c.index), new Set(choices.map((c) => c.message.content)).size], [[0, 1, 2], 3], 'n');
same((await ai.chat.completions.create({ ...how, n: 3, temperature: 1, seed: 4 })).choices, choices, 'seed');
const stop = whole.choices[0].message.content.slice(10, 14);
all = await ai.chat.completions.create({ ...how, stop: [stop] });
check(all.choices[0].finish_reason === 'stop' && !all.choices[0].message.content.includes(stop), 'stop');
all = (await ai.chat.completions.create({ ...how, logprobs: true, top_logprobs: 2, logit_bias: { 5: -100 }, presence_penalty: 0.5, frequency_penalty: 0.5, top_p: 0.9 })).choices[0];
same([all.logprobs.content.length, all.logprobs.content[3].top_logprobs.length], [24, 2], 'logprobs');
const vectors = (await ai.embeddings.create({ model, input: ['a fox', 'a wolf'] })).data;
check(vectors.length === 2 && vectors[0].embedding.length === 192 && Math.abs(Math.hypot(...vectors[1].embedding) - 1) < 1e-5, 'embeddings');
const schema = { type: 'object', properties: { animals: { type: 'array', minItems: 1, maxItems: 3, items: { $ref: '#/$defs/animal' } } }, required: ['animals'], additionalProperties: false,
  $defs: { animal: { type: 'object', properties: { name: { type: 'string', maxLength: 9 }, legs: { anyOf: [{ type: 'integer', minimum: 0, maximum: 8 }, { type: 'null' }] } }, required: ['name', 'legs'], additionalProperties: false } } };
for (const stream of [false, true]) {
  const body = { ...how, max_tokens: 400, temperature: 1, seed: 2, response_format: { type: 'json_schema', json_schema: { name: 'animals', strict: true, schema } } };
  const said = stream ? (await gathered(await ai.chat.completions.create({ ...body, stream }))).content : (await ai.chat.completions.create(body)).choices[0].message.content;
  const o = JSON.parse(said);
  check(o.animals.length >= 1 && o.animals.every((a) => typeof a.name === 'string' && (a.legs === null || a.legs <= 8)), `by a schema: ${said}`);
}
all = await ai.chat.completions.create({ ...how, max_tokens: 300, temperature: 0.5, seed: 1, response_format: { type: 'json_object' } });
check(all.choices[0].finish_reason === 'length' || typeof JSON.parse(all.choices[0].message.content) === 'object', 'json_object');

// ---- errors as the package knows them
await refused(ai.chat.completions.create({ ...how, temperature: -1 }), 400, 'temperature');
await refused(ai.chat.completions.create({ ...how, model: 'gpt' }), 404, 'model');
await refused(client(server.port, 'sk-wrong').models.list(), 401, null);
await refused(ai.chat.completions.create({ ...how, tools: [{ type: 'function', function: { name: 'f', parameters: {} } }] }), 400, 'tools');
const abort = new AbortController();
const stream = await ai.chat.completions.create({ ...how, max_tokens: 800, temperature: 1, logit_bias: { 1: -100 }, stream: true }, { signal: abort.signal });
let seen = 0;
for await (const e of stream) if (e && ++seen === 5) abort.abort();
check(seen >= 5 && seen < 800, 'an abort');
same(await server.stop(), 0, 'exit status');

// ---- tools and thoughts, by a template; a schema's constant writes what a trained model would
const tool = (name, properties) => ({ type: 'function', function: { name, description: 'd', parameters: { type: 'object', properties } } });
const tools = [tool('weather', { city: { type: 'string' }, days: { type: 'integer' } }), tool('clock', {})];
const bar = '\uff5c', gap = '\u2581', ds = (a, b) => `<${bar}tool${gap}${a}${gap}${b}${bar}>`, dsml = (x) => `${bar}DSML${bar}${x}`;
const forms = {
  'glm-4.5': 'a<tool_call>weather<arg_key>city</arg_key><arg_value>Paris</arg_value><arg_key>days</arg_key><arg_value>2</arg_value></tool_call><tool_call>clock</tool_call>',
  'kimi-k2': 'a<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"city": "Paris", "days": 2}<|tool_call_end|>' +
    '<|tool_call_begin|>functions.clock:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>',
  'deepseek-v3.1': `a${ds('calls', 'begin')}${ds('call', 'begin')}weather<${bar}tool${gap}sep${bar}>{"city": "Paris", "days": 2}${ds('call', 'end')}` +
    `${ds('call', 'begin')}clock<${bar}tool${gap}sep${bar}>{}${ds('call', 'end')}${ds('calls', 'end')}`,
  'deepseek-v3.2': `a<${dsml('function_calls>')}<${dsml('invoke name="weather">')}<${dsml('parameter name="city" string="true">')}Paris</${dsml('parameter>')}` +
    `<${dsml('parameter name="days" string="false">')}2</${dsml('parameter>')}</${dsml('invoke>')}<${dsml('invoke name="clock">')}</${dsml('invoke>')}</${dsml('function_calls>')}`,
};
for (const [form, answer] of Object.entries(forms)) {
  const other = await start('--model', 'examples/tales', '--ctx', '2500', '--template', `tests/jinja/${form}.jinja`), with_tools = client(other.port);
  const body = { model, messages: [{ role: 'user', content: 'x' }], max_tokens: 700, temperature: 0, tools, response_format: { type: 'json_schema', json_schema: { name: 'c', schema: { const: answer } } } };
  const message = (await with_tools.chat.completions.create(body)).choices[0];
  all = await gathered(await with_tools.chat.completions.create({ ...body, stream: true }));
  if (form !== 'deepseek-v3.2') { // whose marks have quotes, before which the schema's string has a backslash
    same(message.message.tool_calls.map((c) => c.function.name), ['weather', 'clock'], `${form}: the calls`);
    same([message.finish_reason, message.message.content.slice(0, 2)], ['tool_calls', '"a'], `${form}: beside text`);
    same([all.calls.map((c) => c.function), all.finish], [message.message.tool_calls.map((c) => c.function), 'tool_calls'], `${form}: streamed`);
  }
  if (form === 'glm-4.5') {
    same(message.message.tool_calls.map((c) => JSON.parse(c.function.arguments)), [{ city: 'Paris', days: 2 }, {}], 'arguments');
    check(message.message.tool_calls.every((c) => c.type === 'function' && c.id.length > 8), 'ids');
  }
  // a call that is required begins the answer; the conversation with its result goes on
  const forced = (await with_tools.chat.completions.create({ ...body, response_format: undefined, max_tokens: 1, tool_choice: { type: 'function', function: { name: 'clock' } } })).choices[0];
  same([forced.message.content, forced.message.tool_calls, forced.finish_reason], ['', undefined, 'length'], `${form}: required, and cut`);
  if (form === 'kimi-k2' || form === 'deepseek-v3.1') { // whose arguments are JSON
    const whole = (await with_tools.chat.completions.create({ ...body, response_format: undefined, tool_choice: { type: 'function', function: { name: 'clock' } } })).choices[0];
    same([whole.finish_reason, whole.message.tool_calls?.map((c) => [c.function.name, JSON.parse(c.function.arguments)])], ['tool_calls', [['clock', {}]]], `${form}: required`);
  }
  const turns = [{ role: 'user', content: 'x' }, { role: 'assistant', content: null, tool_calls: [{ id: 'c0', type: 'function', function: { name: 'weather', arguments: '{"city":"Paris","days":2}' } }] },
    { role: 'tool', tool_call_id: 'c0', content: 'rain' }];
  const next = await with_tools.chat.completions.create({ model, messages: turns, tools, max_tokens: 5, temperature: 0 });
  same(next.usage.completion_tokens, 5, `${form}: after a result`);
  const none = await with_tools.chat.completions.create({ ...body, tool_choice: 'none' });
  check(!none.choices[0].message.tool_calls && none.usage.prompt_tokens < 600, `${form}: none`);
  for (const [choice, what] of [['maybe', 'a word'], [{ type: 'function', function: { name: 'other' } }, 'another tool']])
    await refused(with_tools.chat.completions.create({ ...body, tool_choice: choice }), 400, 'tool_choice', what);
  same(await other.stop(), 0, 'exit status');
}
fs.writeFileSync(`${dir}/think.jinja`, '{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if thinking is defined and thinking %}<think>{% endif %}');
const thinker = await start('--model', 'examples/tales', '--template', `${dir}/think.jinja`), thinks = client(thinker.port);
const thought = { model, messages, max_tokens: 300, temperature: 0, response_format: { type: 'json_schema', json_schema: { name: 't', schema: { const: 'hm</think>Yes' } } } };
for (const thinking of [true, false]) { // no token ends thoughts here: by a schema there are none, else there is nothing else
  const how = { ...thought, chat_template_kwargs: { thinking } };
  const message = (await thinks.chat.completions.create(how)).choices[0].message;
  same([message.reasoning_content, message.content], [undefined, '"hm</think>Yes"'], `by a schema, thinking ${thinking}`);
  all = await gathered(await thinks.chat.completions.create({ ...how, stream: true }));
  same([all.reasoning, all.content], ['', '"hm</think>Yes"'], `by a schema, thinking ${thinking}, streamed`);
  all = await gathered(await thinks.chat.completions.create({ ...how, response_format: undefined, max_tokens: 20, stream: true }));
  check(thinking ? all.reasoning.length > 0 && !all.content : !all.reasoning && all.content.length > 0, `thinking ${thinking}: ${JSON.stringify(all)}`);
}
same(await thinker.stop(), 0, 'exit status');
end();
