/* parts.h - how a checkpoint is cut among ranks: which layers and which bytes are whose, a number by which ranks tell
   that they have the same files, and what some machines will take and do (the plan).

USE
   In exactly one file:      #define PARTS_IMPLEMENTATION
                             #include "parts.h"
   In all others:            #include "parts.h"  (mla.h and checkpoint.h must be implemented somewhere, or be included)

   parts_layers(c, depth, stage, &begin, &end);   parts_of(&r, c, begin, end, rank, width, split, last);
   for (i = 0; i < r.n; i++) touch(r.of[i].data, r.of[i].bytes);      free(r.of);

MEMORY         Ranges are what a rank reads of mapped files, in whole pages: o, and every down but those of experts by
               range, are every rank's, since each page has columns of all.
THE PLAN       PARTS_FORMULA is how. Attention to a long context is not in it: a layer reads 4 (R+P) bytes (f32) of each
               token of it, on every rank.
   SPDX-License-Identifier: MIT */

#ifndef PARTS_H
#define PARTS_H

#include "checkpoint.h"

#ifndef PARTS_API
#define PARTS_API extern
#endif

typedef struct parts_range {
    const char *data;
    size_t bytes;
} parts_range;
typedef struct parts_ranges { /* zero-initialise; free(of) */
    parts_range *of;
    size_t n, room;
    double bytes, weights;
    int failed;         /* out of memory */
    size_t touched, at; /* by parts_touch: ranges, and bytes of the next one */
} parts_ranges;

/* The layers [*begin, *end) of a stage: about as many bytes as every one's, the head with the last. No cut is made
   behind a shortcut, nor before a layer that takes another's choice of keys. 0: there are too few layers, or no
   memory. */
PARTS_API int parts_layers(const checkpoint *c, int depth, int stage, int *begin, int *end);
/* What rank w of W reads of layers [begin, end), and of the head. */
PARTS_API void parts_of(parts_ranges *r, const checkpoint *c, int begin, int end, int w, int W, int split, int head);
/* Reads some bytes of the ranges, one in each page, so that they come into memory: the next ones, up to so many; gives
   their number, 0 if there are no more. */
PARTS_API double parts_touch(parts_ranges *r, size_t most);
/* Of the shapes of all tensors but those of multi-token prediction, and of some of their bytes, of each layer's experts
   one's. */
PARTS_API uint64_t parts_fingerprint(const checkpoint *c);

typedef struct parts_plan {
    int width, depth, split, dense, kda; /* dense: layers without experts; kda: with a state in place of attention */
    int direct;                          /* sums take one latency, as wire_direct says of them */
    int (*direct_of)(double floats, int ranks); /* what says so, to parts_plan_print */
    double bits;                                /* of a weight, on average; 0: as weight has it */
    double weight, kda_weights; /* bytes of one of those that the formula knows; how many a layer of KDA has */
    double read, link, latency; /* bytes/s of memory and of a link, seconds */
    /* out: bytes of a rank's weights, with the embedding's in the first stage and the head's in the last; bytes that a
       rank sends for a token, on average; seconds of reading and on the wire */
    double rank_bytes, sent_bytes, reading, wire;
    double state_bytes; /* out: of KDA, of one text, in f32 and twice, as a cache has them; of all stages */
} parts_plan;
#define PARTS_FORMULA                                                                                                  \
    "A rank's time for a token: of each layer a / W + b + e K / W f bytes / read, where a bytes are cut by heads\n"    \
    "and columns, b are every rank's, e are an expert's, K are chosen, f is what the busiest rank has of them over\n"  \
    "K / W (split: 1); and two sums of hidden_size floats s: latency + (W-1) s / link or, where that sends 64 KB\n"    \
    "more, 2 latency + 2 (W-1)/W s / link. Of a layer of KDA all but the FFN is every rank's, with a state that is\n"  \
    "read and written, and has no sum. Then h / W bytes / read of the head and a gathering of vocabulary v,\n"         \
    "latency + (W-1)/W v / link; from stage to stage latency + s / link, and one latency back.\n"
/* What a plan is of: if there are files c becomes theirs, and so do layers, bits of a weight, and its bytes, which have
   in them what is read beside what the formula knows, as gates; else, of a model with KDA, each fourth layer and the
   last have attention. */
PARTS_API void parts_plan_of(parts_plan *p, mla_config *c, const checkpoint *files);
PARTS_API void parts_plan_make(parts_plan *p, const mla_config *c);
/* As a line of a table; p NULL: what stands over it. Gives out. */
PARTS_API const char *parts_plan_line(char out[120], const parts_plan *p);
/* To standard output, with that above: N machines by every width and depth, or those given (0: any). */
PARTS_API void parts_plan_print(parts_plan *p, const mla_config *c, const char *name, int N, int width, int depth);
/* What a rank has of a model that is cut into width * depth. Gives out. */
PARTS_API const char *parts_rank_line(char out[120], const checkpoint *c, int depth, int width, int rank, int split);

#endif /* PARTS_H */

/* ================================================================================================================== */
#if defined PARTS_IMPLEMENTATION && !defined PARTS_IMPLEMENTED
#define PARTS_IMPLEMENTED

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- ranges ------------------------------------------------------------------------------------------------------ */

static void parts__add(parts_ranges *r, const mla_tensor *t, int w, int W,
                       int rows) { /* part w of W of the rows, or all */
    const size_t n = t->data ? mla_dtype_bytes(t->dtype, (size_t)t->rows * (size_t)t->cols) : 0;
    const size_t from = rows ? n * (size_t)w / (size_t)W : 0, to = rows ? n * (size_t)(w + 1) / (size_t)W : n;
    if (from == to || r->failed) return;
    if (r->n == r->room) {
        parts_range *more = (parts_range *)realloc(r->of, (r->room = 2 * r->room + 64) * sizeof *more);
        if (!more) {
            r->failed = 1;
            return;
        }
        r->of = more;
    }
    r->of[r->n].data = (const char *)t->data + from, r->of[r->n++].bytes = to - from, r->bytes += (double)(to - from);
    r->weights += (double)t->rows * t->cols * (double)(to - from) / (double)n;
}
static void parts__mlp(parts_ranges *r, const mla_mlp_weights *m, int w, int W, int split) {
    parts__add(r, &m->gate.weight, w, W, split), parts__add(r, &m->up.weight, w, W, split);
    parts__add(r, &m->down.weight, w, W, 0);
}
enum { PARTS__KDA = 12 };
static void parts__kda(const mla_tensor *of[PARTS__KDA], const mla_kda_weights *k) {
    const mla_tensor *const all[PARTS__KDA] = {&k->q.weight, &k->k.weight,   &k->v.weight,   &k->q_conv,
                                               &k->k_conv,   &k->v_conv,     &k->f_a.weight, &k->f_b.weight,
                                               &k->b.weight, &k->g_a.weight, &k->g_b.weight, &k->o.weight};
    memcpy(of, all, sizeof all);
}
static void parts__layer(parts_ranges *r, const mla_config *c, const mla_layer_weights *l, int w, int W, int split) {
    const mla_attn_weights *a = &l->attn;
    const mla_tensor *const all[] = {&a->q_a.weight,          &a->kv_a.weight,       &a->o.weight,
                                     &a->indexer.wq_b.weight, &a->indexer.wk.weight, &l->moe.router};
    const mla_tensor *const heads[] = {&a->q.weight, &a->q_b.weight, &a->kv_b.weight,
                                       &a->k_b,      &a->v_b,        &a->gate.weight};
    const mla_tensor *kda[PARTS__KDA];
    const int E = l->moe.experts ? c->n_routed_experts : 0, from = split ? 0 : E * w / W,
              to = split ? E : E * (w + 1) / W;
    for (int i = 0; i < 6; i++) parts__add(r, all[i], w, W, 0), parts__add(r, heads[i], w, W, 1);
    parts__kda(kda, &l->kda);
    for (int i = 0; i < PARTS__KDA; i++) parts__add(r, kda[i], w, W, 0);
    parts__mlp(r, &l->mlp, w, W, 1), parts__mlp(r, &l->moe.shared, w, W, 1);
    for (int e = from; e < to; e++) parts__mlp(r, &l->moe.experts[e], w, W, split);
}
void parts_of(parts_ranges *r, const checkpoint *c, int begin, int end, int w, int W, int split, int head) {
    const mla_weights *of = &c->weights;
    for (int l = begin; l < end; l++) parts__layer(r, &c->config, &of->layers[l], w, W, split);
    if (head) parts__add(r, of->head.data ? &of->head : &of->embed, w, W, 1);
}
double parts_touch(parts_ranges *r, size_t most) {
    size_t done = 0;
    for (; r->touched < r->n && done < most; done += 4096) {
        *(volatile const char *)(r->of[r->touched].data + r->at);
        if ((r->at += 4096) >= r->of[r->touched].bytes) r->touched++, r->at = 0;
    }
    return (double)done;
}
/* May layers be cut before layer i? */
static int parts__apart(const checkpoint *c, int i) {
    const mla_layer_weights *l = &c->weights.layers[i];
    return !(l[-1].moe.experts && l[-1].mlp.gate.weight.data) &&
           !(c->config.index_topk && !l->attn.indexer.wk.weight.data);
}
int parts_layers(const checkpoint *c, int depth, int stage, int *begin, int *end) {
    const int L = c->config.num_hidden_layers;
    double *upto = (double *)calloc((size_t)L + 1, sizeof *upto);
    parts_ranges r;
    int cut = 0, ok = upto != NULL;
    memset(&r, 0, sizeof r);
    for (int i = 0; i < L && ok; i++) parts_of(&r, c, i, i + 1, 0, 1, 1, 0), upto[i + 1] = r.bytes;
    parts_of(&r, c, 0, 0, 0, 1, 1, 1);
    for (int s = 0; s <= depth && ok; s++) { /* all of them, so that every stage says the same */
        const double goal = r.bytes * s / depth;
        int best = s == 0 ? 0 : s == depth && cut < L ? L : -1;
        for (int i = cut + 1; i <= L - (depth - s) && s > 0 && s < depth; i++)
            if (parts__apart(c, i) && (best < 0 || fabs(upto[i] - goal) < fabs(upto[best] - goal))) best = i;
        ok = best >= 0, cut = best;
        if (s == stage) *begin = cut;
        if (s == stage + 1) *end = cut;
    }
    ok = ok && !r.failed;
    free(upto), free(r.of);
    return ok;
}

/* ---- the same files? --------------------------------------------------------------------------------------------- */

static void parts__print(uint64_t *sum, const mla_tensor *t) {
    const int shape[] = {t->rows, t->cols, (int)t->dtype, (int)t->layout};
    const size_t n = t->data ? mla_dtype_bytes(t->dtype, (size_t)t->rows * (size_t)t->cols) : 0;
    const unsigned char *const parts[] = {(const unsigned char *)shape, t->data,
                                          n > 64 ? (const unsigned char *)t->data + n - 64 : NULL};
    const size_t bytes[] = {sizeof shape, n < 64 ? n : 64, n > 64 ? 64 : 0};
    for (int p = 0; p < 3; p++)
        for (size_t i = 0; i < bytes[p]; i++) *sum = (*sum ^ parts[p][i]) * 1099511628211u;
}
uint64_t parts_fingerprint(const checkpoint *c) {
    uint64_t sum = 14695981039346656037u;
    const mla_config *f = &c->config;
    parts__print(&sum, &c->weights.embed), parts__print(&sum, &c->weights.head),
        parts__print(&sum, &c->weights.norm.weight);
    for (int i = 0; i < f->num_hidden_layers; i++) {
        const mla_layer_weights *l = &c->weights.layers[i];
        const mla_attn_weights *a = &l->attn;
        const int E = l->moe.experts ? f->n_routed_experts : 0;
        const mla_mlp_weights *e = E ? &l->moe.experts[i % E] : &l->mlp;
        const mla_tensor *const of[] = {
            &l->attn_norm.weight, &l->ffn_norm.weight, &a->q.weight,    &a->q_b.weight, &a->kv_a.weight,
            &a->kv_norm.weight,   &a->kv_b.weight,     &a->k_b,         &a->v_b,        &a->o.weight,
            &e->gate.weight,      &e->up.weight,       &e->down.weight, &l->moe.router, &l->moe.shared.down.weight};
        const mla_tensor *kda[PARTS__KDA];
        parts__kda(kda, &l->kda);
        for (size_t j = 0; j < sizeof of / sizeof *of; j++) parts__print(&sum, of[j]);
        for (size_t j = 0; j < PARTS__KDA; j++) parts__print(&sum, kda[j]);
    }
    return sum;
}

/* ---- the plan ---------------------------------------------------------------------------------------------------- */

/* Weights of a layer, by how they are cut, and those of the head. */
typedef struct parts__sizes {
    double every, cut, dense, shared, expert, router, vocab;
} parts__sizes;
static int parts__taps(const mla_config *c) { return c->linear_conv_kernel_dim ? c->linear_conv_kernel_dim : 4; }
static parts__sizes parts__sizes_of(const mla_config *c) {
    const double D = c->hidden_size, H = c->num_attention_heads, Q = c->q_lora_rank, R = c->kv_lora_rank,
                 N = c->qk_nope_head_dim, P = c->qk_rope_head_dim, V = c->v_head_dim;
    const double d = c->index_topk ? c->index_head_dim : 0, Hi = c->index_n_heads;
    parts__sizes z;
    z.every = D * (Q + R + P) + d * (Hi * Q + D), z.cut = (Q > 0 ? Q : D) * H * (N + P) + H * (N + V) * R + H * V * D;
    z.dense = 3 * D * c->intermediate_size, z.expert = 3 * D * c->moe_intermediate_size;
    z.shared = z.expert * c->n_shared_experts, z.router = D * (c->n_routed_experts + c->zero_expert_num);
    z.vocab = D * c->vocab_size;
    return z;
}
void parts_plan_of(parts_plan *p, mla_config *c, const checkpoint *files) {
    if (files) *c = files->config;
    const int L = c->num_hidden_layers;
    const double D = c->hidden_size, C = c->linear_head_dim, lin = c->linear_num_heads * C;
    const parts__sizes z = parts__sizes_of(c);
    p->kda = lin > 0 ? L - (L + 3) / 4 : 0; /* decay and gate by way of C values */
    p->kda_weights = lin * (4 * D + 3 * parts__taps(c)) + D * c->linear_num_heads + 2 * C * (D + lin);
    if (!files) return;
    const mla_tensor *of[PARTS__KDA];
    parts_ranges r;
    memset(&r, 0, sizeof r);
    p->dense = p->kda = 0;
    parts_of(&r, files, 0, L, 0, 1, 1, 1);
    for (int i = 0; i < L; i++) {
        const mla_layer_weights *l = &files->weights.layers[i];
        p->dense += !l->moe.experts;
        if (!l->kda.q.weight.data) continue;
        parts__kda(of, &l->kda);
        p->kda++, p->kda_weights = 0;
        for (int j = 0; j < PARTS__KDA; j++) p->kda_weights += (double)of[j]->rows * of[j]->cols;
    }
    p->weight = r.bytes / ((L - p->kda) * (z.every + z.cut) + p->kda * p->kda_weights + z.vocab + p->dense * z.dense +
                           (L - p->dense) * (z.shared + z.router + c->n_routed_experts * z.expert));
    p->bits = 8 * r.bytes / r.weights;
    free(r.of);
}
/* What the busiest of W ranks has of a token's K experts, over K / W: by throwing dice. */
static double parts__busiest(int K, int W) {
    enum { THROWS = 20000, MOST = 1024 };
    uint64_t seed = 1;
    double sum = 0;
    int n[MOST];
    if (W == 1 || K == 0) return 1;
    for (int i = 0; i < THROWS; i++) {
        int most = 0;
        memset(n, 0, sizeof n);
        for (int k = 0; k < K; k++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            const int r = (int)((seed >> 33) % (unsigned)(W < MOST ? W : MOST));
            most = ++n[r] > most ? n[r] : most;
        }
        sum += most;
    }
    return sum / THROWS * W / K;
}
void parts_plan_make(parts_plan *p, const mla_config *c) {
    const parts__sizes z = parts__sizes_of(c);
    const double W = p->width, S = p->depth, L = c->num_hidden_layers, dense = p->dense, moe = L - dense, b = p->weight;
    const double kda = p->kda, mla = L - kda, lin = (double)c->linear_num_heads * c->linear_head_dim;
    const double every = (mla * z.every + kda * p->kda_weights + moe * z.router) * b,
                 cut = (mla * z.cut + dense * z.dense + moe * z.shared) * b;
    const double experts = moe * z.expert * b, head = z.vocab * b, row = 4.0 * c->hidden_size,
                 logits = 4.0 * c->vocab_size;
    const double f = p->split ? 1 : parts__busiest(c->num_experts_per_tok, p->width);
    const int direct = p->direct;
    const double sum = direct ? (W - 1) * row : 2 * (W - 1) / W * row, sums = W > 1 ? mla + L : 0;
    const double gathered = (W - 1) / W * logits;
    p->rank_bytes = (every + cut / W + experts * c->n_routed_experts / W + head + head / W) / S;
    p->sent_bytes = (sums * sum + gathered + (S - 1) * row) / S;
    p->state_bytes = kda * 8 * lin * (c->linear_head_dim + 3 * (parts__taps(c) - 1));
    p->reading = (every + cut / W + experts * c->num_experts_per_tok / W * f + head / W + p->state_bytes) / p->read;
    p->wire = sums * (sum / p->link + p->latency * (direct ? 1 : 2)) + gathered / p->link + (W > 1 ? p->latency : 0);
    if (S > 1) p->wire += (S - 1) * (row / p->link + p->latency) + p->latency;
}
const char *parts_plan_line(char out[120], const parts_plan *p) {
    if (!p) return "width x depth   GB a rank   MB sent a token   ms reading   ms on the wire   tokens/s";
    snprintf(out, 120, "%5d x %-5d   %9.1f   %15.3f   %10.2f   %14.2f   %8.2f", p->width, p->depth,
             p->rank_bytes * 1e-9, p->sent_bytes * 1e-6, p->reading * 1e3, p->wire * 1e3, 1 / (p->reading + p->wire));
    return out;
}
void parts_plan_print(parts_plan *p, const mla_config *c, const char *name, int N, int width, int depth) {
    char line[120];
    printf("%s, %.2f bits a weight", name, p->bits > 0 ? p->bits : 8 * p->weight);
    p->width = p->depth = 1, parts_plan_make(p, c);
    if (p->kda)
        printf("; %d of %d layers are KDA, whose states take %.1f MB for each text", p->kda, c->num_hidden_layers,
               p->state_bytes * 1e-6);
    printf("\n%s\n", parts_plan_line(line, NULL));
    for (p->width = N; p->width > 0; p->width--) {
        p->depth = N / p->width, p->direct = p->direct_of(c->hidden_size, p->width);
        if (p->width * p->depth != N || (width && p->width != width) || (depth && p->depth != depth)) continue;
        parts_plan_make(p, c);
        puts(parts_plan_line(line, p));
    }
}
const char *parts_rank_line(char out[120], const checkpoint *c, int depth, int width, int rank, int split) {
    const int stage = rank / width;
    int begin, end;
    parts_ranges r;
    memset(&r, 0, sizeof r);
    if (!parts_layers(c, depth, stage, &begin, &end)) begin = end = 0;
    parts_of(&r, c, begin, end, rank % width, width, split, stage == depth - 1);
    snprintf(out, 120, "rank %d: part %d of %d of layers %d to %d, %.3f GB of weights", rank, rank % width + 1, width,
             begin, end - 1, r.bytes * 1e-9);
    free(r.of);
    return out;
}

#endif /* PARTS_IMPLEMENTATION */
