// The numbers of build/inspect, in its files and on its page, against those of the API: node tests/inspect/numbers.mjs API DIRECTORY
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { check, end, same } from '../server/common.mjs';

const [api, tmp] = process.argv.slice(2);
const inspect = process.env.INSPECT ?? 'build/inspect';
const array = (path, Type) => { const b = readFileSync(path); return new Type(b.buffer, b.byteOffset, b.length / Type.BYTES_PER_ELEMENT); };
function csv(path) { // rows of { column: number or text }
  const split = (line) => (line.includes('"') ? [...line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)].map((m) => (m[1] === undefined ? Number(m[2]) : m[1].replace(/""/g, '"'))) : line.split(',').map(Number));
  const [names, ...rows] = readFileSync(path, 'utf8').trimEnd().split('\n');
  return rows.map((row) => { const values = split(row), r = {}; names.split(',').forEach((name, i) => { r[name] = values[i]; }); return r; });
}
const pageData = (path) => JSON.parse(/<script type="application\/json" id="data">\n([^]*?)\n<\/script>/.exec(readFileSync(path, 'utf8'))[1]);
const unpack = (text, Type) => new Type(Uint8Array.from(Buffer.from(text, 'base64')).buffer);
const near = (a, b, by) => Math.abs(a - b) <= by * (1 + Math.abs(b));
const every = (n, test) => { for (let i = 0; i < n; i++) if (!test(i)) return false; return true; };

// Singular values of X [rows, n] by one-sided Jacobi rotations of its shorter side.
function singular(x, rows, n) {
  const wide = rows <= n, count = wide ? rows : n, length = wide ? n : rows;
  const v = Array.from({ length: count }, (_, i) => Float64Array.from({ length }, (_, j) => (wide ? x[i * n + j] : x[j * n + i])));
  const dot = (a, b) => { let sum = 0; for (let i = 0; i < length; i++) sum += a[i] * b[i]; return sum; };
  for (let sweep = 0; sweep < 9; sweep++)
    for (let i = 0; i < count; i++)
      for (let j = i + 1; j < count; j++) {
        const a = dot(v[i], v[i]), b = dot(v[j], v[j]), g = dot(v[i], v[j]);
        if (Math.abs(g) <= 1e-13 * Math.sqrt(a * b)) continue;
        const z = (b - a) / (2 * g), t = (z < 0 ? -1 : 1) / (Math.abs(z) + Math.sqrt(1 + z * z)), c = 1 / Math.sqrt(1 + t * t);
        for (let k = 0; k < length; k++) [v[i][k], v[j][k]] = [c * (v[i][k] - t * v[j][k]), c * (v[j][k] + t * v[i][k])];
      }
  return v.map((y) => Math.sqrt(dot(y, y))).sort((a, b) => b - a);
}

function likeliest(z, n) {
  const order = [];
  let all = 0;
  for (let k = 0; k < n; k++) {
    let best = -1;
    for (let v = 0; v < z.length; v++) if ((best < 0 || z[v] > z[best]) && !order.includes(v)) best = v;
    order.push(best);
  }
  for (const y of z) all += Math.exp(y - z[order[0]]);
  return { order, p: (id) => Math.exp(z[id] - z[order[0]]) / all };
}

// One model: files against arrays of the API, the page against the files. how: options of inspect.
function look(name, modelPath, how, exact = true) {
  const dir = `${tmp}/${name}`, page = `${tmp}/${name}.html`;
  mkdirSync(`${dir}-api`, { recursive: true });
  execFileSync(inspect, ['--quiet', '--model', modelPath, '--out', dir, '--out', page, ...how]);
  const tokens = csv(`${dir}/tokens.csv`), T = tokens.length, ids = tokens.map((t) => t.id);
  const m = JSON.parse(execFileSync(api, [modelPath, `${dir}-api`, ...ids.map(String)], { encoding: 'utf8' }));
  const { L, H, K, V, R, M, E } = m, at = csv(`${dir}/positions.csv`).map((row) => row.position), S = at.length;
  const kept = m.maps.flatMap((is, l) => (is ? [l] : [])), N = kept.length; // layers with maps
  const maps = array(`${dir}/maps.f32`, Float32Array), want = array(`${dir}-api/maps.f32`, Float32Array);
  const p = (l, h, q, u) => want[((l * T + q) * H + h) * T + u];
  check(maps.length === N * H * S * S && every(maps.length, (i) => {
    const c = i % S, r = Math.floor(i / S) % S, h = Math.floor(i / S / S) % H, l = kept[Math.floor(i / S / S / H)];
    return exact ? maps[i] === p(l, h, at[r], at[c]) : near(maps[i], p(l, h, at[r], at[c]), 1e-5);
  }), `${name}: maps are those of mla_model_forward`);

  // heads
  const heads = csv(`${dir}/heads.csv`), loose = exact ? 1e-5 : 1e-4;
  check(heads.length === N * H && every(N * H, (i) => {
    const l = kept[Math.floor(i / H)], h = i % H;
    let bits = 0, far = 0;
    const mass = new Float64Array(T);
    for (let q = 0; q < T; q++) for (let u = 0; u <= q; u++) {
      const x = p(l, h, q, u);
      if (x > 0 && q) bits -= x * Math.log2(x);
      if (q) far += x * (q - u);
      mass[u] += x;
    }
    const mean = mass.slice(0, T - Math.min(8, T >> 1) + 1).map((x, u) => x / (T - u)), most = Math.max(...mean), row = heads[i];
    return near(row.entropy_bits, bits / (T - 1), loose) && near(row.distance_tokens, far / (T - 1), loose) &&
      near(row.sink_mean, most, loose) && near(mean[row.sink_position], most, loose) && row.naive_absorbed_apart < 1e-5;
  }), `${name}: entropy, distance and sink of each head; naive and absorbed agree`);
  check(heads.some((h) => h.naive_absorbed_apart > 0), `${name}: two paths have run`);

  // experts
  if (m.moe.some(Boolean)) {
    const expert = array(`${dir}-api/expert.i32`, Int32Array), weight = array(`${dir}-api/weight.f32`, Float32Array), routing = csv(`${dir}/routing.csv`);
    check(routing.length === m.moe.filter(Boolean).length * T * K && routing.every((r) => {
      const i = (r.layer * T + r.position) * K + r.rank;
      return r.expert === expert[i] && (exact ? Math.fround(r.weight) === weight[i] : near(r.weight, weight[i], 1e-4));
    }), `${name}: experts and weights of each token`);
    const experts = csv(`${dir}/experts.csv`), load = (l, e) => expert.slice(l * T * K, (l + 1) * T * K).filter((x) => x === e).length;
    check(experts.every((r) => r.tokens === load(r.layer, r.expert)), `${name}: loads`);
    const first = m.moe.indexOf(1), plain = array(`${dir}-api/plain.i32`, Int32Array);
    same(experts.filter((r) => r.layer === first).map((r) => r.tokens_without_bias), [...plain], `${name}: loads without the bias`);
    const pairs = csv(`${dir}/coactivation.csv`), both = (l, a, b) => Array.from({ length: T }, (_, q) => expert.slice((l * T + q) * K, (l * T + q + 1) * K)).filter((x) => x.includes(a) && x.includes(b)).length;
    check(pairs.length > 0 && pairs.slice(0, 200).every((r) => r.tokens === both(r.layer, r.expert, r.other)), `${name}: co-activation`);
    const layers = csv(`${dir}/layers.csv`).filter((r) => r.experts), even = T * K / E;
    check(layers.every((r) => {
      const n = Array.from({ length: E }, (_, e) => load(r.layer, e));
      return near(r.variation, Math.sqrt(n.reduce((s, x) => s + (x - even) ** 2, 0) / E) / even, 1e-5) && near(r.max_over_mean, Math.max(...n) / even, 1e-5);
    }), `${name}: variation and largest load`);
  }

  // what comes next
  const lens = array(`${dir}-api/lens.f32`, Float32Array), row = (l, q) => lens.subarray((l * T + q) * V, (l * T + q + 1) * V);
  check(tokens.every((t, q) => {
    const best = likeliest(row(L, q), 5);
    return best.order.every((id, k) => t[`next${k}`] === id && near(t[`next${k}_p`], best.p(id), 1e-5)) && (q + 1 === T || near(t.surprise_bits, -Math.log2(best.p(ids[q + 1])), 1e-4));
  }), `${name}: the five likeliest and the surprise`);
  check(csv(`${dir}/lens.csv`).every((r) => {
    const q = r.position, best = likeliest(row(r.blocks, q), 1);
    return near(r.likeliest_p, best.p(r.likeliest), 2e-4) && near(r.likeliest_p, best.p(best.order[0]), 2e-4) && (q + 1 === T || near(r.next_p, best.p(ids[q + 1]), 2e-4));
  }), `${name}: the lens`);
  if (M) {
    const guess = array(`${dir}-api/guess.i32`, Int32Array), guesses = csv(`${dir}/guesses.csv`);
    check(guesses.length === M * T && guesses.every((g) => g.of_position > T || (g.guess === guess[g.depth * T + g.position] &&
      g.stands === (g.of_position - 1 < T ? Number(tokens[g.of_position - 1].next0 === g.guess) : -1))), `${name}: guesses, and which stood`);
  }

  // the cache
  const latent = array(`${dir}-api/latent.f32`, Float32Array), values = csv(`${dir}/singular.csv`), n = Math.min(T, R);
  check(values.length === N * n && every(exact ? Math.min(N, 2) : 1, (slot) => {
    const l = kept[slot], s = singular(latent.subarray(l * T * R, (l + 1) * T * R), T, R);
    return every(n, (i) => Math.abs(values[slot * n + i].singular_value - s[i]) < 2e-5 * s[0]);
  }), `${name}: singular values`);
  check(csv(`${dir}/latents.csv`).every((r) => near(r.latent_norm, Math.hypot(...latent.subarray((r.layer * T + r.position) * R, (r.layer * T + r.position + 1) * R)), 1e-5)), `${name}: norms`);

  // the page has the same
  const data = pageData(page), t = data.texts[0], packed = unpack(t.maps, t.wide ? Float32Array : Uint16Array), triangle = S * (S + 1) / 2;
  const half = (h) => ((h >> 10) & 31 ? 2 ** (((h >> 10) & 31) - 15) * (1 + (h & 1023) / 1024) : (h & 1023) * 2 ** -24);
  same([t.T, t.at, t.ids], [T, at, at.map((q) => ids[q])], `${name}: the page's tokens`);
  check(every(N * H * S * S, (i) => {
    const c = i % S, r = Math.floor(i / S) % S, x = packed[Math.floor(i / S / S) * triangle + r * (r + 1) / 2 + c];
    return c > r ? maps[i] === 0 : t.wide ? x === maps[i] : Math.abs(half(x) - maps[i]) <= maps[i] / 2048 + 2 ** -25;
  }), `${name}: the page's maps (${t.wide ? 'float32' : 'float16'})`);
  check(every(N * H, (i) => near(t.entropy[kept[Math.floor(i / H)] * H + i % H], heads[i].entropy_bits, 1e-5) && near(t.distance[kept[Math.floor(i / H)] * H + i % H], heads[i].distance_tokens, 1e-5)), `${name}: the page's heads`);
  check(every(5 * S, (i) => t.top[i] === tokens[at[Math.floor(i / 5)]][`next${i % 5}`] && near(t.p[i], tokens[at[Math.floor(i / 5)]][`next${i % 5}_p`], 1e-8)), `${name}: the page's logits`);
  if (m.moe.some(Boolean)) {
    const expert = unpack(t.expert, Uint16Array), weight = unpack(t.weight, Float32Array), routing = csv(`${dir}/routing.csv`), moe = m.moe.flatMap((is, l) => (is ? [l] : []));
    check(every(moe.length * S * K, (i) => {
      const r = routing[(Math.floor(i / K / S) * T + at[Math.floor(i / K) % S]) * K + i % K];
      return r.expert === expert[i] && Math.fround(r.weight) === weight[i];
    }), `${name}: the page's paths`);
    same(moe.flatMap((l) => t.load.slice(l * E, (l + 1) * E)), csv(`${dir}/experts.csv`).map((r) => r.tokens), `${name}: the page's loads`);
  }
  return { dir, data, tokens, m };
}

const said = 'Once upon a time there was a fox who lived in a wood. The fox was hungry, and he said to the hen, “Come down.”';
look('tales', 'examples/tales', ['--prompt', said]);
const few = ['--tokens', Array.from({ length: 20 }, (_, i) => 1 + i * 7 % 50).join(' ')];
look('longcat', 'tests/fixtures/checkpoints/longcat_flash', few);
look('minicpm', 'tests/fixtures/checkpoints/minicpm3', few);
look('hy_v4', 'tests/fixtures/checkpoints/hy_v4', few);
const sparse = look('sparse', 'tests/fixtures/checkpoints/glm_moe_dsa', few), picked = array(`${sparse.dir}/chosen.u8`, Uint8Array);
check(every(sparse.m.L * 20, (i) => picked.subarray(i * 20, i * 20 + 20).reduce((a, b) => a + b) === Math.min(8, i % 20 + 1)), 'sparse: each token chose 8 keys, or all it sees');
if (process.env.TEST_ALL)
  for (const name of ['axk1', 'deepseek_v2', 'deepseek_v2_lite', 'deepseek_v3', 'deepseek_v32', 'deepseek_v3_fp8', 'glm4_moe_lite', 'kimi_k2', 'kimi_linear', 'axk2', 'axk2_light', 'minicpm3_longrope', 'mistral4', 'youtu'])
    look(name, `tests/fixtures/checkpoints/${name}`, few);

// a long text is cut into chunks, and sampled, and its maps are in float16
const tale = Array.from({ length: 8 }, (_, i) => `Fox number ${i} said to the hen, “Come down,” but the hen would not come down to the fox. `).join('');
const long = look('long', 'examples/tales', ['--prompt', tale], false), shown = long.data.texts[0].at;
check(long.tokens.length > 256 && shown.length < long.tokens.length && shown.length > 200 && long.data.texts[0].wide === 0, `long: ${shown.length} of ${long.tokens.length}`);
same([shown.slice(0, 5), shown.at(-1)], [[0, 1, 2, 3, 4], long.tokens.length - 1], 'long: the first and the last');

// two texts, and tokens that would end the script or a table
const hostile = '</script><script>window.hit=1</script> <!-- "a,b" \\ <b>x</b>&amp;\n.';
execFileSync(inspect, ['--quiet', '--model', 'examples/tales', '--prompt', hostile, '--compare', said, '--out', `${tmp}/two`, '--out', `${tmp}/two.html`, '--out', `${tmp}/two.svg`]);
const two = pageData(`${tmp}/two.html`);
same(two.texts.map((t) => t.text), [hostile, said], 'both texts are on the page as they are');
same(readFileSync(`${tmp}/two.html`, 'utf8').match(/<\/script>/g).length, 2, 'no more scripts than the page has');
same(csv(`${tmp}/two/1/tokens.csv`).slice(1).map((t) => t.token).join(''), hostile.replace(/\\/g, '\\\\').replace(/\n/g, '\\n'), 'tokens in CSV');
same(csv(`${tmp}/two/2/tokens.csv`).map((t) => t.id), csv(`${tmp}/tales/tokens.csv`).map((t) => t.id), 'the other text');
const svg = readFileSync(`${tmp}/two.svg`, 'utf8');
check(svg.startsWith('<svg ') && svg.endsWith('</svg>\n') && !/<script|<b>/.test(svg), 'the picture');

// one layer of PyTorch's: tests/fixtures/layer.safetensors is from the script at the top of examples/layer.c, with the map
const fixture = 'tests/fixtures/layer.safetensors', packed = readFileSync(fixture), head = Number(packed.readBigUInt64LE(0));
const tensors = JSON.parse(packed.subarray(8, 8 + head).toString()), part = (name) => {
  const [from, to] = tensors[name].data_offsets.map((o) => o + 8 + head);
  return new Float32Array(Uint8Array.from(packed.subarray(from, to)).buffer);
};
const layerKeys = ['heads=3', 'eps=1e-6', 'q=wq.weight', 'kv_a=wkv_a.weight', 'kv_b=wkv_b.weight', 'kv_norm=kv_norm.weight', 'kv_norm.bias=kv_norm.bias', 'o=wo.weight', 'x=x', 'y=y'];
const layer = (...keys) => spawnSync('build/layer', [fixture, ...keys]);
const one = layer(...layerKeys), got = new Float32Array(Uint8Array.from(one.stdout).buffer), expected = [...part('y'), ...part('map')];
check(one.status === 0 && got.length === expected.length && got.every((v, i) => near(v, expected[i], 1e-6)), 'layer: y and map are those of PyTorch');
check(Number(/off by at most (\S+)/.exec(one.stderr)?.[1]) < 1e-6, `layer: ${one.stderr}`);
check(/off by at most 0\.[1-9]/.test(layer(...layerKeys.filter((k) => k !== 'kv_norm.bias=kv_norm.bias')).stderr), 'layer: RMS norm in place of LayerNorm shows');
for (const wrong of [['heads=3'], ['nope=1'], [...layerKeys, 'q=nope'], [...layerKeys, 'x'], layerKeys.filter((k) => !k.startsWith('o='))]) same(layer(...wrong).status, 1, `layer ${wrong.join(' ')}`);

// what is wrong
const refuses = (status, text, ...args) => { const r = spawnSync(inspect, args, { encoding: 'utf8' }); check(r.status === status && text.test(r.stderr), `${args.join(' ')}: ${r.status} ${r.stderr}`); };
refuses(2, /--model is missing/), refuses(2, /--prompt/, '--model', 'examples/tales', '--out', 'x.html');
refuses(2, /--out is missing/, '--model', 'examples/tales', '--prompt', 'x'), refuses(2, /unknown option '--nope'/, '--nope');
refuses(2, /--layers: '9'/, '--model', 'examples/tales', '--prompt', 'x y', '--layers', '9', '--out', 'x.html');
refuses(2, /--tokens: '5000'/, '--model', 'examples/tales', '--tokens', '1 5000', '--out', 'x.html');
refuses(1, /cannot write/, '--quiet', '--model', 'examples/tales', '--prompt', 'x y', '--out', `${tmp}/nowhere/x.html`);
refuses(1, /nowhere/, '--model', `${tmp}/nowhere`, '--prompt', 'x y', '--out', 'x.html');
end();
