// Ten thousand connections that say nothing, or half a request, and the rest goes on: node tests/server/idle.mjs [N=10000]
import net from 'node:net';
import fs from 'node:fs';
import { check, complete, end, metric, same, start } from './common.mjs';

const n = Number(process.argv[2] ?? 10000);
const server = await start('--model', 'examples/tales');
const time = () => fs.readFileSync(`/proc/${server.process.pid}/stat`, 'utf8').split(' ').slice(13, 15).reduce((s, x) => s + Number(x), 0) / 100;
const resident = () => Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${server.process.pid}/status`, 'utf8'))[1]);
const body = { prompt: 'Once upon a time', max_tokens: 200, temperature: 0 };
const rate = async () => {
  const begin = Date.now(), used = time();
  for (let i = 0; i < 4; i++) await complete(server.port, { ...body, stream: true });
  return { seconds: (Date.now() - begin) / 1000, used: time() - used };
};
const want = (await complete(server.port, body)).json.choices, alone = await rate(), before = resident(), sockets = [];
for (let i = 0; i < n; i++)
  sockets.push(await new Promise((done) => { const s = net.connect(server.port, '127.0.0.1', () => done(s)); s.on('error', () => {}); }));
sockets.filter((_, i) => i % 10 === 0).forEach((s) => s.write('GET /he')); // not while connecting: half a request has 20 seconds
// this may be asked over a connection that is there already, while the last ones still wait to be taken
for (let i = 0; i < 100 && await metric(server.port, 'connections') <= n * 0.99; i++) await new Promise((done) => setTimeout(done, 100));
check(await metric(server.port, 'connections') > n * 0.99, `${await metric(server.port, 'connections')} connections`);
const used = time();
await new Promise((done) => setTimeout(done, 2000));
console.log(`${n} connections: ${((resident() - before) * 1024 / n).toFixed(0)} bytes each; ${((time() - used) / 2 * 100).toFixed(1)} % of a core when nothing happens`);
const beside = await rate();
console.log(`800 tokens: alone ${alone.seconds} s (${alone.used.toFixed(2)} s of cores), beside them ${beside.seconds} s (${beside.used.toFixed(2)} s of cores)`);
same((await complete(server.port, body)).json.choices, want, 'an answer beside them');
check(resident() - before < 4 * n, 'less than 4 KB each');
sockets.forEach((s) => s.destroy());
same(await server.stop(), 0, 'exit status');
end();
