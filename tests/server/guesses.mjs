// What guesses win or cost: node tests/server/guesses.mjs [ROUNDS=6] [CLIENTS=1] [OPTION OF THE SERVER...]
// One server with --mtp and one without write the same texts in turns; prints tokens/s of both and their ratio.
// LENGTH=300 tokens, TEMPERATURE=0; CONTROL=1: both without, which says how much two of the same differ. Ends with "N passed, N failed".
import { check, complete, end, metric, same, start } from './common.mjs';

const [rounds = 6, clients = 1] = process.argv.slice(2, 4).map(Number), options = process.argv.length > 4 ? process.argv.slice(4) : ['--model', 'examples/tales'];
const length = Number(process.env.LENGTH ?? 300), temperature = Number(process.env.TEMPERATURE ?? 0);
const median = (all) => [...all].sort((a, b) => a - b)[all.length >> 1];
const servers = [await start(...options), await start(...options, ...(process.env.CONTROL ? [] : ['--mtp']))];
const prompts = ['Once upon a time', 'The king said', 'There was a fox', 'In the forest'];
const ratios = [];
for (let round = 0; round <= rounds; round++) {
  const rates = [], texts = [];
  for (const i of round % 2 ? [1, 0] : [0, 1]) {
    const begin = performance.now();
    const all = await Promise.all(Array.from({ length: clients }, (_, k) => complete(servers[i].port,
      { prompt: prompts[(round + k) % 4], max_tokens: length, temperature, seed: round, logit_bias: { 0: -100, 1: -100 } })));
    rates[i] = all.reduce((sum, r) => sum + r.json.usage.completion_tokens, 0) / (performance.now() - begin) * 1000;
    texts[i] = all.map((r) => r.json.choices[0].text);
  }
  same(texts[1], texts[0], `round ${round}: the same texts`);
  if (round > 0) ratios.push(rates[1] / rates[0]); // in the first the pages are touched and the odds learned
  console.log(`${round ? '' : '(not counted) '}plain ${rates[0].toFixed(1)}, --mtp ${rates[1].toFixed(1)} tokens/s: ${(rates[1] / rates[0]).toFixed(3)}`);
}
const made = await metric(servers[1].port, 'guesses_total'), stood = await metric(servers[1].port, 'guesses_accepted_total');
console.log(`${clients} client${clients > 1 ? 's' : ''}, median ${median(ratios).toFixed(3)} of plain (${Math.min(...ratios).toFixed(3)} to ${Math.max(...ratios).toFixed(3)}); ${made} guesses, ${(stood / Math.max(made, 1)).toFixed(2)} of them stood`);
check(median(ratios) > 0.97, `guesses cost at most 3 %: ${median(ratios).toFixed(3)}`);
for (const s of servers) same(await s.stop(), 0, 'exit status');
end();
