// synthetic.mjs - writes a model of architecture deepseek2 with random weights as a GGUF file, for which no checkpoint is needed.
//     synthetic(FILE, SHAPES.lite6, 'q4_k')     gives the bytes written
// q4_k has Q4_K, where rows are multiples of 256 weights, else Q5_0, and Q6_K for the head, as llama.cpp's Q4_K_M has; q8_0 is Q8_0.
// Weights have mean 0 and deviation 1 / sqrt(columns), so that the stream of hidden states keeps its size. A large tensor repeats the
// same 2^20 weights from different beginnings: how fast they are read and multiplied does not depend on them.
import fs from 'node:fs';

export const SHAPES = {
    // DeepSeek-V2-Lite's layers, 6 of its 27, with a query by way of 1536 values: llama.cpp takes queries from one matrix only in models
    // of 26, 27 or 48 layers. A layer's attention grows by an eighth of its weights.
    lite6: { layers: 6, D: 2048, H: 16, N: 128, P: 64, V: 128, R: 512, Q: 1536, E: 64, K: 6, I: 1408, S: 2, dense: 10944, vocab: 32768, context: 16384 },
    // What carries a tokenizer.
    tiny: { layers: 2, D: 64, H: 2, N: 32, P: 32, V: 32, R: 64, Q: 32, E: 4, K: 2, I: 32, S: 1, dense: 64, vocab: 512, context: 256 },
    // V2-Lite in small, with all its layers.
    small27: { layers: 27, D: 256, H: 4, N: 64, P: 32, V: 64, R: 256, Q: 0, E: 8, K: 3, I: 256, S: 2, dense: 512, vocab: 512, context: 1024 },
};

const U32 = 4, I32 = 5, F32 = 6, STRING = 8, ARRAY = 9;
const TYPES = { f32: [0, 1, 4], f16: [1, 1, 2], q5_0: [6, 32, 22], q8_0: [8, 32, 34], q4_k: [12, 256, 144], q6_k: [14, 256, 210] }; // id, weights, bytes

function half(x) { // of a positive number that is normal as a half
    const e = Math.floor(Math.log2(x)), m = Math.round((x / 2 ** e - 1) * 1024);
    return (e + 15) * 1024 + m;
}

let seed = 1;
function random32() { // xorshift
    seed ^= seed << 13, seed ^= seed >>> 17, seed ^= seed << 5;
    return seed >>> 0;
}

// 2^20 random weights of this deviation
const made = new Map();
function weights(type, deviation) {
    const name = `${type} ${deviation}`, [, block, bytes] = TYPES[type], n = 2 ** 20 / block;
    if (made.has(name)) return made.get(name);
    const words = new Uint32Array((n * bytes) / 4).map(random32), b = Buffer.from(words.buffer);
    for (let i = 0; i < n; i++) {
        const at = i * bytes;
        if (type === 'f32') b.writeFloatLE((b.readUInt32LE(at) / 2 ** 32 - 0.5) * Math.sqrt(12) * deviation, at);
        else if (type === 'f16') b.writeUInt16LE(half((1 + b[at] / 256) * deviation / 1.53) | (b[at + 1] & 1) << 15, at);
        else if (type === 'q8_0') b.writeUInt16LE(half(deviation / 73.9), at);
        else if (type === 'q5_0') b.writeUInt16LE(half(deviation / 9.23), at);
        else if (type === 'q4_k') { // scales and minima of 32, so that 32 d q - 32 * 7.5 d has mean 0
            const d = deviation / (32 * 4.61);
            b.writeUInt16LE(half(d), at), b.writeUInt16LE(half(7.5 * d), at + 2), b.fill(0xA0, at + 4, at + 12), b.fill(0, at + 12, at + 16);
        } else b.fill(32, at + 192, at + 208), b.writeUInt16LE(half(deviation / (32 * 18.5)), at + 208);
    }
    made.set(name, b);
    return b;
}

function header(shape, tensors) {
    const parts = [], arch = 'deepseek2.';
    const number = (v, bytes) => { const b = Buffer.alloc(bytes); bytes === 8 ? b.writeBigUInt64LE(BigInt(v)) : b.writeUInt32LE(v); parts.push(b); };
    const text = (s) => { const b = Buffer.from(s); number(b.length, 8), parts.push(b); };
    const key = (name, type, v) => {
        text(name.startsWith('.') ? arch + name.slice(1) : name), number(type, 4);
        if (type === STRING) text(v);
        else if (type === F32) { const b = Buffer.alloc(4); b.writeFloatLE(v), parts.push(b); } else if (type === U32) number(v, 4);
        else {
            const [of, all] = v;
            number(of, 4), number(all.length, 8);
            for (const x of all) of === STRING ? text(x) : number(x, 4);
        }
    };
    const s = shape, letter = (b) => String.fromCharCode(b <= 32 ? 256 + b : b >= 127 && b <= 160 ? 162 + b : b === 173 ? 323 : b);
    const keys = [
        ['general.architecture', STRING, 'deepseek2'],
        ...Object.entries({
            '.block_count': s.layers, '.context_length': s.context, '.vocab_size': s.vocab, '.embedding_length': s.D, '.feed_forward_length': s.dense,
            '.leading_dense_block_count': 1, '.attention.head_count': s.H, '.attention.head_count_kv': 1, '.attention.kv_lora_rank': s.R,
            '.attention.key_length': s.R + s.P, '.attention.value_length': s.R, '.attention.key_length_mla': s.N + s.P,
            '.attention.value_length_mla': s.V, '.rope.dimension_count': s.P, '.expert_count': s.E, '.expert_used_count': s.K,
            '.expert_shared_count': s.S, '.expert_feed_forward_length': s.I, '.expert_gating_func': 1, 'general.quantization_version': 2,
            'tokenizer.ggml.bos_token_id': 0, 'tokenizer.ggml.eos_token_id': 1, ...(s.Q ? { '.attention.q_lora_rank': s.Q } : {}),
        }).map(([k, v]) => [k, U32, v]),
        ['.attention.layer_norm_rms_epsilon', F32, 1e-6], ['.rope.freq_base', F32, 10000], ['.expert_weights_scale', F32, 1],
        ['tokenizer.ggml.model', STRING, 'gpt2'], ['tokenizer.ggml.pre', STRING, 'deepseek-llm'],
        ['tokenizer.ggml.tokens', ARRAY, [STRING, Array.from({ length: s.vocab }, (_, i) => (i < 256 ? letter(i) : `t${i}`))]],
        ['tokenizer.ggml.token_type', ARRAY, [I32, new Array(s.vocab).fill(1)]], ['tokenizer.ggml.merges', ARRAY, [STRING, []]],
    ];
    parts.push(Buffer.from('GGUF')), number(3, 4), number(tensors.length, 8), number(keys.length, 8);
    for (const k of keys) key(...k);
    for (const t of tensors) {
        text(t.name), number(t.dims.length, 4);
        for (const d of t.dims) number(d, 8);
        number(TYPES[t.type][0], 4), number(t.offset, 8);
    }
    const bytes = Buffer.concat(parts);
    return Buffer.concat([bytes, Buffer.alloc(-bytes.length & 31)]);
}

function tensors_of(s, type) {
    const all = [];
    const matrix = (name, dims, t = type) => all.push({ name: `${name}.weight`, dims, type: t === 'q4_k' && dims[0] % 256 ? 'q5_0' : t });
    const f32 = (name, dims) => all.push({ name: `${name}.weight`, dims, type: 'f32' });
    matrix('token_embd', [s.D, s.vocab]), f32('output_norm', [s.D]), matrix('output', [s.D, s.vocab], type === 'q4_k' ? 'q6_k' : type);
    for (let i = 0; i < s.layers; i++) {
        const b = `blk.${i}.`;
        f32(`${b}attn_norm`, [s.D]), f32(`${b}ffn_norm`, [s.D]);
        if (s.Q) matrix(`${b}attn_q_a`, [s.D, s.Q]), f32(`${b}attn_q_a_norm`, [s.Q]), matrix(`${b}attn_q_b`, [s.Q, s.H * (s.N + s.P)]);
        else matrix(`${b}attn_q`, [s.D, s.H * (s.N + s.P)]);
        matrix(`${b}attn_kv_a_mqa`, [s.D, s.R + s.P]), f32(`${b}attn_kv_a_norm`, [s.R]);
        matrix(`${b}attn_k_b`, [s.N, s.R, s.H]), matrix(`${b}attn_v_b`, [s.R, s.V, s.H]), matrix(`${b}attn_output`, [s.H * s.V, s.D]);
        if (i === 0) {
            matrix(`${b}ffn_gate`, [s.D, s.dense]), matrix(`${b}ffn_up`, [s.D, s.dense]), matrix(`${b}ffn_down`, [s.dense, s.D]);
            continue;
        }
        f32(`${b}ffn_gate_inp`, [s.D, s.E]);
        for (const [what, n] of [['exps', [s.E]], ['shexp', []]]) {
            const I = what === 'exps' ? s.I : s.I * s.S;
            matrix(`${b}ffn_gate_${what}`, [s.D, I, ...n]), matrix(`${b}ffn_up_${what}`, [s.D, I, ...n]), matrix(`${b}ffn_down_${what}`, [I, s.D, ...n]);
        }
    }
    let offset = 0;
    for (const t of all) {
        const [, block, bytes] = TYPES[t.type];
        t.offset = offset, t.blocks = t.dims.reduce((a, d) => a * d) / block;
        offset += t.blocks * bytes, offset += -offset & 31;
    }
    return all;
}

export function synthetic(file, shape, type) {
    const tensors = tensors_of(shape, type), head = header(shape, tensors), out = fs.openSync(file, 'w');
    seed = 1;
    let at = fs.writeSync(out, head);
    for (const t of tensors) {
        const [, , bytes] = TYPES[t.type];
        at = head.length + t.offset;
        if (t.dims.length === 1) { // a norm
            at += fs.writeSync(out, Buffer.from(new Float32Array(t.dims[0]).fill(1).buffer), 0, undefined, at);
            continue;
        }
        // k_b's rows are N weights, but it maps R values to N and back: as large as if it were kv_b's
        const from = weights(t.type, 1 / Math.sqrt(t.name.endsWith('k_b.weight') ? t.dims[1] : t.dims[0])), n = from.length / bytes;
        for (let left = t.blocks; left > 0;) {
            const first = random32() % n, take = Math.min(left, n - first);
            at += fs.writeSync(out, from, first * bytes, take * bytes, at), left -= take;
        }
    }
    fs.closeSync(out);
    return at;
}
