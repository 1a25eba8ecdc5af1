/* synthetic.h - a model of random weights in memory, of the size of a published one, and a tokenizer for it: to measure
   what no file is needed for.

USE
   In exactly one file:      #define SYNTHETIC_IMPLEMENTATION
                             #include "synthetic.h"
   In all others:            #include "synthetic.h"   (mla.h, checkpoint.h, tokenizer.h must be implemented somewhere)

   if (synthetic_open(&c, &t, "lite6", MLA_Q4, &error)) puts(error.text); ... tokenizer_close(t), checkpoint_close(c);

WEIGHTS        Uniform, of deviation 0.022, so that activations keep about their size, and those of embeddings 1; copies
               of a pool of some thousand values from places that never line up. Q4 and Q8 are interleaved (mla_repack);
               with them kv_b, router and embeddings are BF16.
TOKENS         The bytes are 0..255; the others stand for " w256" and so on and are in no text. None ends a text.
   SPDX-License-Identifier: MIT */

#ifndef SYNTHETIC_H
#define SYNTHETIC_H

#include "checkpoint.h"
#include "tokenizer.h"

#ifndef SYNTHETIC_API
#define SYNTHETIC_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* name: "lite6", DeepSeek-V2-Lite with 6 of its 27 layers (or another number of them) and a vocabulary of 32768, or
   "lite6-mtp", with one more, for multi-token prediction, whose guesses hardly ever stand. dtype: of the weights, BF16,
   Q8 or Q4. Errors: UNSUPPORTED (another name or dtype), MEMORY. */
SYNTHETIC_API mla_result synthetic_open(checkpoint **out, tokenizer **t, const char *name, mla_dtype dtype,
                                        mla_error *err);

#ifdef __cplusplus
}
#endif
#endif /* SYNTHETIC_H */

/* ================================================================================================================== */
#if defined SYNTHETIC_IMPLEMENTATION && !defined SYNTHETIC_IMPLEMENTED
#define SYNTHETIC_IMPLEMENTED

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

typedef struct syn__pool { /* atoms: a value, or sixteen blocks interleaved */
    unsigned char *atoms;
    size_t n, bytes, values; /* a prime number; of one */
} syn__pool;

typedef struct syn__maker { /* with base NULL it only counts */
    unsigned char *base;
    size_t used, at; /* bytes; atoms taken */
    mla_dtype dtype;
    syn__pool plain, embed, blocks;
} syn__maker;

static mla_result syn__fail(mla_error *err, mla_result code, const char *what, const char *name) {
    if (err) err->code = code, snprintf(err->text, sizeof err->text, "%s%s", what, name);
    return code;
}

static float syn__random(uint64_t *seed) { /* splitmix64: uniform, mean 0, deviation 1 */
    uint64_t z = *seed += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u, z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return ((float)((z ^ (z >> 31)) >> 40) * (1.0f / 8388608.0f) - 1.0f) * 1.7320508f;
}

static int syn__fill(syn__pool *p, mla_dtype dtype, float deviation) { /* 0: no memory */
    const int block = mla_dtype_block(dtype), rows = block > 1 ? 16 : 1;
    uint64_t seed = 1 + (uint64_t)dtype;
    float x[32];
    unsigned char own[16 * 64];
    p->n = block > 1 ? 4093 : 1048573, p->values = (size_t)(rows * block);
    p->bytes = mla_dtype_bytes(dtype, p->values);
    if (!(p->atoms = (unsigned char *)malloc(p->n * p->bytes))) return 0;
    for (size_t i = 0; i < p->n; i++) {
        unsigned char *atom = p->atoms + i * p->bytes;
        for (int r = 0; r < rows; r++) {
            for (int k = 0; k < block; k++) x[k] = deviation * syn__random(&seed);
            mla_quantize(dtype, (rows > 1 ? own : atom) + (size_t)r * mla_dtype_bytes(dtype, (size_t)block), x,
                         (size_t)block, NULL);
        }
        const mla_tensor view = mla_view(own, dtype, 16, block);
        if (rows > 1) mla_repack(atom, &view, NULL);
    }
    return 1;
}

static void *syn__carve(syn__maker *m, size_t bytes) {
    unsigned char *p = m->base ? m->base + m->used : NULL;
    m->used += (bytes + 63) / 64 * 64;
    return p;
}

static mla_tensor syn__tensor(syn__maker *m, const syn__pool *p, mla_dtype dtype, int rows, int cols) {
    const size_t n = (size_t)rows * (size_t)cols / p->values;
    unsigned char *to = (unsigned char *)syn__carve(m, n * p->bytes);
    mla_tensor t = mla_view(to, dtype, rows, cols);
    for (size_t done = 0, some; to && done < n; done += some) {
        const size_t from = (m->at + done) % p->n;
        some = n - done < p->n - from ? n - done : p->n - from;
        memcpy(to + done * p->bytes, p->atoms + from * p->bytes, some * p->bytes);
    }
    m->at += n + 12345;
    if (p->values > 1) t.layout = MLA_LAYOUT_X16;
    return t;
}

static mla_linear syn__linear(syn__maker *m, int rows, int cols) {
    mla_linear w;
    memset(&w, 0, sizeof w);
    w.weight = syn__tensor(m, m->dtype == MLA_BF16 ? &m->plain : &m->blocks, m->dtype, rows, cols);
    return w;
}

static mla_norm_weights syn__norm(syn__maker *m, int n) {
    mla_norm_weights w;
    float *data = (float *)syn__carve(m, (size_t)n * sizeof *data);
    memset(&w, 0, sizeof w);
    for (int i = 0; data && i < n; i++) data[i] = 1;
    w.weight = mla_view(data, MLA_F32, 1, n);
    return w;
}

static mla_mlp_weights syn__mlp(syn__maker *m, int width, int hidden) {
    mla_mlp_weights w;
    w.gate = syn__linear(m, width, hidden), w.up = syn__linear(m, width, hidden),
    w.down = syn__linear(m, hidden, width);
    return w;
}

static void syn__layer(syn__maker *m, const mla_config *f, mla_layer_weights *l, mla_mlp_weights *experts) {
    const int D = f->hidden_size, H = f->num_attention_heads, R = f->kv_lora_rank, N = f->qk_nope_head_dim,
              P = f->qk_rope_head_dim, V = f->v_head_dim, width = f->moe_intermediate_size;
    memset(l, 0, sizeof *l);
    l->attn_norm = syn__norm(m, D), l->ffn_norm = syn__norm(m, D), l->attn.kv_norm = syn__norm(m, R);
    l->attn.q = syn__linear(m, H * (N + P), D), l->attn.kv_a = syn__linear(m, R + P, D),
    l->attn.o = syn__linear(m, D, H * V);
    l->attn.kv_b.weight = syn__tensor(m, &m->plain, MLA_BF16, H * (N + V), R);
    if (!experts) {
        l->mlp = syn__mlp(m, f->intermediate_size, D);
        return;
    }
    l->moe.router = syn__tensor(m, &m->plain, MLA_BF16, f->n_routed_experts, D);
    l->moe.shared = syn__mlp(m, f->n_shared_experts * width, D);
    for (int e = 0; e < f->n_routed_experts; e++) experts[e] = syn__mlp(m, width, D);
    l->moe.experts = experts;
}

static void syn__all(syn__maker *m, checkpoint *c) {
    const mla_config *f = &c->config;
    m->used = m->at = 0;
    c->weights.embed = syn__tensor(m, &m->embed, MLA_BF16, f->vocab_size, f->hidden_size);
    for (int i = 0; i < f->num_hidden_layers + f->num_nextn_predict_layers; i++)
        syn__layer(m, f, &c->layers[i], i ? c->experts + (size_t)(i - 1) * (size_t)f->n_routed_experts : NULL);
    c->weights.norm = syn__norm(m, f->hidden_size);
    c->weights.head = syn__linear(m, f->vocab_size, f->hidden_size).weight;
    c->weights.layers = c->layers, c->weights.mtp = c->mtp;
    if (c->mtp) c->mtp->eh_proj = syn__linear(m, f->hidden_size, 2 * f->hidden_size);
    if (c->mtp) c->mtp->enorm = c->mtp->hnorm = c->mtp->norm = syn__norm(m, f->hidden_size);
}

static mla_result syn__tokenizer(tokenizer **out, int vocab, mla_error *err) {
    const size_t room = 2000 + 32 * (size_t)vocab;
    char *json = (char *)malloc(room);
    int odd = 0;
    if (!json) return syn__fail(err, MLA_ERR_MEMORY, "out of memory for the tokenizer", "");
    size_t n =
        (size_t)snprintf(json, room,
                         "{\"added_tokens\":[],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                         "\"use_regex\":false},\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":"
                         "\"BPE\",\"merges\":[],\"vocab\":{");
    for (int i = 0; i < vocab; i++) { /* a byte is spelled as itself, or as U+0100 and up */
        const int plain = (i > 32 && i < 127) || (i > 160 && i != 173), code = plain ? i : 256 + odd;
        odd += !plain && i < 256;
        if (i < 256) n += (size_t)snprintf(json + n, room - n, "%s\"\\u%04x\":%d", i ? "," : "", (unsigned)code, i);
        else n += (size_t)snprintf(json + n, room - n, ",\"\\u0120w%d\":%d", i, i);
    }
    n += (size_t)snprintf(json + n, room - n, "}}}");
    const mla_result rc = tokenizer_parse(out, json, n, "synthetic", err);
    free(json);
    return rc;
}

mla_result synthetic_open(checkpoint **out, tokenizer **t, const char *name, mla_dtype dtype, mla_error *err) {
    syn__maker m;
    memset(&m, 0, sizeof m);
    *out = NULL, *t = NULL;
    char *end = NULL;
    const int known = !strncmp(name, "lite", 4) && name[4] >= '1' && name[4] <= '9';
    const long layers = known ? strtol(name + 4, &end, 10) : 0;
    const int mtp = known && !strcmp(end, "-mtp");
    if (layers < 1 || layers > 27 || (*end && !mtp))
        return syn__fail(err, MLA_ERR_UNSUPPORTED,
                         "the synthetic models are lite6 and lite6-mtp, or with 1 to 27 layers for 6, not ", name);
    if (dtype != MLA_BF16 && dtype != MLA_Q8 && dtype != MLA_Q4)
        return syn__fail(err, MLA_ERR_UNSUPPORTED, "synthetic weights are bf16, q8 or q4, not ", mla_dtype_name(dtype));
    checkpoint *c = (checkpoint *)calloc(1, sizeof *c);
    mla_result rc = c ? mla_config_preset(&c->config, "deepseek-v2-lite", err) : MLA_ERR_MEMORY;
    if (!rc) {
        c->config.num_hidden_layers = (int)layers, c->config.num_nextn_predict_layers = mtp,
        c->config.vocab_size = 32768;
        c->max_position_embeddings = 163840, c->bos_token_id = -1;
        snprintf(c->model_type, sizeof c->model_type, "synthetic %s", name);
        c->layers = (mla_layer_weights *)calloc((size_t)layers + 1, sizeof *c->layers);
        c->experts = (mla_mlp_weights *)calloc((size_t)layers * (size_t)c->config.n_routed_experts, sizeof *c->experts);
        c->mtp = mtp ? (mla_mtp_weights *)calloc(1, sizeof *c->mtp) : NULL;
        m.dtype = dtype;
        int ok = c->layers && c->experts && (c->mtp || !mtp) && syn__fill(&m.plain, MLA_BF16, 0.022f) &&
                 syn__fill(&m.embed, MLA_BF16, 1) && (dtype == MLA_BF16 || syn__fill(&m.blocks, dtype, 0.022f));
        if (ok) syn__all(&m, c), ok = (c->memory = checkpoint_huge_pages.alloc(NULL, m.used + 64)) != NULL;
        if (ok) {
            m.base = (unsigned char *)c->memory + (64 - (uintptr_t)c->memory % 64) % 64;
            syn__all(&m, c);
        }
        rc = ok ? syn__tokenizer(t, c->config.vocab_size, err) : MLA_ERR_MEMORY;
    }
    if (rc == MLA_ERR_MEMORY) syn__fail(err, rc, "out of memory for the synthetic weights", "");
    free(m.plain.atoms), free(m.embed.atoms), free(m.blocks.atoms);
    if (rc) checkpoint_close(c);
    else *out = c;
    return rc;
}

#endif /* SYNTHETIC_IMPLEMENTATION */
