/* test_engine.c - what programs that run a model for many others ask of it: some of the logits, embeddings in place of
   tokens, layers apart, routing, an end halfway, pages counted beforehand, caches saved and loaded. Run from the
   repository root. Equal means bit for bit. */

#if defined(__unix__) || defined(__APPLE__)
#define _POSIX_C_SOURCE 200112L
#define HAS_POSIX       1
#else
#define HAS_POSIX 0
#endif
#ifndef __has_feature
#define __has_feature(x) 0
#endif
/* Sanitizers put much on the stack, and do not like to see it read by others. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || __has_feature(address_sanitizer) ||               \
    __has_feature(memory_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#define MLA_IMPLEMENTATION
#include "mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "examples/checkpoint.h"
#include "test.h"

#include <stdlib.h>
#if HAS_POSIX
#include <pthread.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

enum { T = 24, MAX_LAYERS = 8, CAPACITY = 96 };

static void *need(void *p) {
    if (!p) puts("out of memory in the test"), exit(2);
    return p;
}
static float *floats(size_t n) { return (float *)need(calloc(n ? n : 1, sizeof(float))); }
static int same(const void *a, const void *b, size_t n_floats) { return memcmp(a, b, n_floats * sizeof(float)) == 0; }

/* ---- the models -------------------------------------------------------------------------------------------------- */

static const char *const names[] = {"deepseek_v2_lite",
                                    "deepseek_v2",
                                    "deepseek_v3",
                                    "deepseek_v3_fp8",
                                    "kimi_k2",
                                    "axk1",
                                    "minicpm3",
                                    "mistral4",
                                    "glm4_moe_lite",
                                    "longcat_flash",
                                    "minicpm3_longrope",
                                    "youtu",
                                    "deepseek_v32",
                                    "glm_moe_dsa",
                                    "kimi_linear",
                                    "axk2",
                                    "hy_v4",
                                    "bailing_hybrid",
                                    "longcat_flash_ngram"};
enum { N_MODELS = sizeof names / sizeof *names };

typedef struct subject {
    const char *name;
    checkpoint *files;
    mla_model *model;
    const mla_config *c;
    int L, D, W, V, E, K; /* W: of states between layers, D for each residual stream; E: what the router chooses from */
    int tokens[2 * T];
} subject;

static int subject_open(subject *s, const char *name, int mtp) {
    char path[256];
    mla_error err;
    memset(s, 0, sizeof *s);
    s->name = name;
    snprintf(path, sizeof path, "tests/fixtures/checkpoints/%s", name);
    if (!CHECK(checkpoint_open_with(&s->files, path, &(checkpoint_options){.mtp = mtp}, &err) == MLA_OK, "%s: %s", name,
               err.text))
        return 0;
    if (!CHECK(mla_model_create(&s->model, &s->files->config, &s->files->weights, NULL, &err) == MLA_OK, "%s: %s", name,
               err.text))
        return 0;
    s->c = mla_model_config(s->model);
    s->L = s->c->num_hidden_layers, s->D = s->c->hidden_size, s->V = s->c->vocab_size;
    s->W = s->D * s->c->hc_mult;
    s->E = s->c->n_routed_experts + s->c->zero_expert_num, s->K = s->c->num_experts_per_tok;
    for (int i = 0; i < 2 * T; i++) s->tokens[i] = (i * 37 + 11) % s->V;
    return CHECK(s->L <= MAX_LAYERS, "%s: %d layers", name, s->L);
}
static void subject_close(subject *s) {
    mla_model_destroy(s->model);
    checkpoint_close(s->files);
}
/* A layer whose experts come in after the next one. */
static int shortcut(const subject *s, int layer) {
    const mla_layer_weights *l = &s->files->weights.layers[layer];
    return l->moe.experts && l->mlp.gate.weight.data;
}

static int has_experts(const subject *s, int layer) { return s->files->weights.layers[layer].moe.experts != NULL; }

/* Of hidden[i]. */
static int width_of(const subject *s, int i) { return i > 0 && i < s->L ? s->W : s->D; }

static mla_context *context_of(const subject *s, mla_context_desc d) {
    mla_context *c = NULL;
    mla_error err;
    if (!d.max_tokens) d.max_tokens = 2 * T;
    if (!CHECK(mla_context_create(&c, s->model, &d, &err) == MLA_OK, "%s: %s", s->name, err.text)) exit(test_end());
    return c;
}
static mla_cache *cache_of(const mla_model *m, mla_dtype dtype, mla_pool *pool) {
    mla_cache *k = NULL;
    mla_error err;
    const mla_cache_desc d = {.capacity = CAPACITY, .dtype = dtype, .index_dtype = dtype, .pool = pool};
    if (!CHECK(mla_cache_create(&k, m, &d, &err) == MLA_OK, "%s", err.text)) exit(test_end());
    return k;
}
static void truncate_to(mla_cache *k, int length) {
    CHECK(mla_cache_truncate(k, length, NULL) == MLA_OK, "truncate to %d", length);
}

/* ---- logits ------------------------------------------------------------------------------------------------------ */

/* Of any number of last tokens of any sequence, in one call: the rows that a call for all of them has. Calls for few
   rows and for many take different ways through the head, so bits are asked for where the way is the same. */
static void test_logits(const subject *s) {
    static const int wanted[][3] = {{0, 0, 0}, {1, 0, 0}, {0, 1, 1}, {5, 3, 0},
                                    {9, 6, 9}, {9, 5, 9}, {0, 0, 9}, {1, 1, 1}};
    static const int n[3] = {9, 6, 9};
    const size_t V = (size_t)s->V;
    mla_context *c = context_of(s, (mla_context_desc){.threads = 2});
    mla_cache *k[3];
    mla_sequence q[3] = {{.cache = NULL}};
    float *all = floats(T * V), *some = floats((T + 1) * V);
    for (int i = 0; i < 3; i++) k[i] = cache_of(s->model, MLA_F32, NULL);
    for (int i = 0; i < 3; i++) q[i] = (mla_sequence){.cache = k[i], .n_tokens = n[i], .n_logits = n[i]};
    CHECK(mla_model_forward(c, q, 3, s->tokens, &(mla_outputs){.logits = all}) == MLA_OK, "%s: %s", s->name,
          mla_context_error(c)->text);
    for (size_t w = 0; w < sizeof wanted / sizeof *wanted; w++) {
        int row = 0, from = 0;
        float worst = 0;
        for (int i = 0; i < 3; i++) truncate_to(k[i], 0), q[i].n_logits = wanted[w][i];
        for (size_t i = 0; i < (T + 1) * V; i++) some[i] = -77;
        CHECK(mla_model_forward(c, q, 3, s->tokens, &(mla_outputs){.logits = some}) == MLA_OK, "%s: %s", s->name,
              mla_context_error(c)->text);
        for (int i = 0; i < 3; from += n[i++])
            for (int j = n[i] - wanted[w][i]; j < n[i]; j++, row++) {
                const float *x = some + (size_t)row * V, *y = all + (size_t)(from + j) * V;
                const float e = same(x, y, V) ? 0 : test_rel_err(x, y, V);
                worst = e > worst ? e : worst;
            }
        /* few rows meet the head another way, and tiles make two parts of an f32 */
        CHECK(worst <= (row > 8 ? 0 : 2e-5f), "%s: logits of %d, %d and %d tokens: off by %.1e", s->name, wanted[w][0],
              wanted[w][1], wanted[w][2], (double)worst);
        int more = 0;
        for (size_t i = (size_t)row * V; i < (T + 1) * V; i++) more += some[i] != -77;
        CHECK(more == 0, "%s: %d numbers behind the %d rows asked for", s->name, more, row);
    }
    q[1].n_logits = 7;
    CHECK(mla_model_forward(c, q, 3, s->tokens, NULL) == MLA_ERR_ARGUMENT &&
              strstr(mla_context_error(c)->text, "sequences[1].n_logits: 7"),
          "%s: more logits than tokens: %s", s->name, mla_context_error(c)->text);
    q[1].n_logits = -1;
    CHECK(mla_model_forward(c, q, 3, s->tokens, NULL) == MLA_ERR_ARGUMENT, "%s: -1 logits", s->name);
    for (int i = 0; i < 3; i++) mla_cache_destroy(k[i]);
    mla_context_destroy(c);
    free(all), free(some);
}

/* ---- embeddings and ranges of layers ----------------------------------------------------------------------------- */

/* All that a call gives, in one block: logits and hidden states of T tokens, of a sequence or two. */
typedef struct result {
    float *logits, *hidden[MAX_LAYERS + 1];
    size_t n;
} result;
static result result_of(const subject *s) {
    result r;
    r.n = T * (size_t)(s->V + 2 * s->D + (s->L - 1) * s->W);
    r.logits = floats(r.n);
    r.hidden[0] = r.logits + T * s->V;
    for (int i = 1; i <= s->L; i++) r.hidden[i] = r.hidden[i - 1] + T * width_of(s, i - 1);
    return r;
}
static void result_wipe(result *r) {
    for (size_t i = 0; i < r->n; i++) r->logits[i] = -77;
}
/* Layers [begin, end) on n tokens from row t of r on, from and into its states. */
static mla_result run_range(const subject *s, mla_context *c, int begin, int end, mla_cache *k, int t, int n,
                            const result *r) {
    float *hidden[MAX_LAYERS + 1] = {NULL};
    mla_sequence q = {.cache = k, .n_tokens = n, .n_logits = n};
    for (int i = begin; i <= end; i++) hidden[i] = r->hidden[i] + t * width_of(s, i);
    if (begin > 0) q.embeddings = hidden[begin];
    return mla_layers_forward(c, begin, end, &q, 1, begin ? NULL : s->tokens + t,
                              &(mla_outputs){.logits = end == s->L ? r->logits + t * s->V : NULL, .hidden = hidden});
}
static int same_caches(const subject *s, const mla_cache *a, const mla_cache *b) {
    const size_t width = (size_t)(s->c->kv_lora_rank + s->c->qk_rope_head_dim + s->c->index_head_dim),
                 of_state = (size_t)(s->c->linear_num_heads * s->c->linear_head_dim * s->c->linear_head_dim),
                 inputs =
                     (size_t)(3 * (s->c->linear_conv_kernel_dim - 1) * s->c->linear_num_heads * s->c->linear_head_dim),
                 n = width + of_state + inputs;
    float *x = floats(2 * n), *y = x + n;
    int ok = mla_cache_length(a) == mla_cache_length(b);
    for (int l = 0; l < s->L; l++) {
        if (s->files->weights.layers[l].kda.q.weight.data) {
            if (mla_cache_length(a) == 0) continue;
            ok = ok && mla_cache_read_state(a, l, x, x + of_state, NULL) == MLA_OK &&
                 mla_cache_read_state(b, l, y, y + of_state, NULL) == MLA_OK && same(x, y, of_state + inputs);
            continue;
        }
        for (int u = 0; ok && u < mla_cache_length(a); u++)
            ok = mla_cache_read(a, l, u, x, NULL) == MLA_OK && mla_cache_read(b, l, u, y, NULL) == MLA_OK &&
                 same(x, y, width);
    }
    free(x);
    return ok;
}

static const int calls[] = {0, T - 2, T - 1, T}; /* a prompt, then two tokens one after the other */

static void test_embeddings(const subject *s) {
    mla_context *c = context_of(s, (mla_context_desc){.threads = 2});
    mla_cache *k[2] = {cache_of(s->model, MLA_F32, NULL), cache_of(s->model, MLA_F16, NULL)};
    result want = result_of(s), got = result_of(s);
    float *hidden[MAX_LAYERS + 1] = {NULL};
    for (int mixed = 0; mixed < 3; mixed++) { /* tokens; embeddings; those of one sequence, and tokens of the other */
        result *r = mixed ? &got : &want;
        mla_sequence q[2] = {{.cache = k[0], .n_tokens = T - 9, .n_logits = T - 9},
                             {.cache = k[1], .n_tokens = 9, .n_logits = 9}};
        int tokens[T];
        memcpy(tokens, s->tokens, sizeof tokens);
        result_wipe(r);
        for (int i = 0; i < 2; i++) {
            mla_cache_reset(k[i]);
            if (mixed == 1 || mixed == 2 + i) q[i].embeddings = want.hidden[0] + i * (T - 9) * s->D;
        }
        if (mixed == 2) tokens[0] = -1; /* is not looked at */
        for (int i = 0; i <= s->L; i++) hidden[i] = r->hidden[i];
        CHECK(mla_model_forward(c, q, 2, mixed == 1 ? NULL : tokens,
                                &(mla_outputs){.logits = r->logits, .hidden = hidden}) == MLA_OK,
              "%s: %s", s->name, mla_context_error(c)->text);
        CHECK(!mixed || same(got.logits, want.logits, want.n), "%s: embeddings, %d", s->name, mixed);
    }
    mla_sequence q[2] = {{.cache = k[0], .n_tokens = 1, .embeddings = want.hidden[0]}, {.cache = k[1], .n_tokens = 1}};
    CHECK(mla_model_forward(c, q, 2, NULL, NULL) == MLA_ERR_ARGUMENT &&
              strstr(mla_context_error(c)->text, "sequences[1].embeddings is NULL"),
          "%s: neither: %s", s->name, mla_context_error(c)->text);
    mla_cache_destroy(k[0]), mla_cache_destroy(k[1]), mla_context_destroy(c);
    free(want.logits), free(got.logits);
}

/* The model cut in two in front of layer `cut`; apart: each part in a context of its own. */
static void test_cut(const subject *s, int cut, int apart, const result *want, const mla_cache *whole) {
    mla_context *c[2] = {context_of(s, (mla_context_desc){.threads = 2}),
                         context_of(s, (mla_context_desc){.threads = 1})};
    mla_cache *k = cache_of(s->model, MLA_F32, NULL);
    result r = result_of(s);
    const int borrows = cut < s->L && s->c->index_topk && !s->files->weights.layers[cut].attn.indexer.wk.weight.data;
    const char *refusal = cut < s->L && shortcut(s, cut - 1) ? "is added after layer"
                          : apart && borrows                 ? "uses the keys that layer"
                                                             : NULL;
    result_wipe(&r);
    for (int i = 0; i < 3; i++) {
        const int t = calls[i], n = calls[i + 1] - t;
        mla_result rc = run_range(s, c[0], 0, cut, k, t, n, &r);
        CHECK(mla_cache_length(k) == (cut == s->L ? t + n : t), "%s: cut %d, length %d", s->name, cut,
              mla_cache_length(k));
        if (!rc && cut < s->L) rc = run_range(s, c[apart], cut, s->L, k, t, n, &r);
        if (refusal) {
            const char *text = mla_context_error(c[cut < s->L && shortcut(s, cut - 1) ? 0 : apart])->text;
            CHECK(rc == MLA_ERR_ARGUMENT && strstr(text, refusal), "%s: cut %d, %s: %s", s->name, cut,
                  mla_result_name(rc), text);
            CHECK(mla_cache_length(k) == 0, "%s: cut %d, length after a refusal", s->name, cut);
            break;
        }
        CHECK(rc == MLA_OK, "%s: cut %d: %s %s", s->name, cut, mla_context_error(c[0])->text,
              mla_context_error(c[1])->text);
    }
    if (!refusal)
        CHECK(same(r.logits, want->logits, r.n) && same_caches(s, k, whole), "%s: cut %d, %d contexts", s->name, cut,
              1 + apart);
    mla_cache_destroy(k), mla_context_destroy(c[0]), mla_context_destroy(c[1]);
    free(r.logits);
}

static void test_ranges(const subject *s) {
    mla_context *c = context_of(s, (mla_context_desc){.threads = 2});
    mla_cache *whole = cache_of(s->model, MLA_F32, NULL), *k = cache_of(s->model, MLA_F32, NULL);
    result want = result_of(s), r = result_of(s);
    for (int i = 0; i < 3; i++)
        CHECK(run_range(s, c, 0, s->L, whole, calls[i], calls[i + 1] - calls[i], &want) == MLA_OK, "%s: %s", s->name,
              mla_context_error(c)->text);
    for (int cut = 1; cut <= s->L; cut++)
        for (int apart = 0; apart < 2; apart++) test_cut(s, cut, apart, &want, whole);
    result_wipe(&r); /* as many cuts as there may be */
    for (int i = 0; i < 3; i++)
        for (int begin = 0, end; begin < s->L; begin = end) {
            end = begin + 1 + shortcut(s, begin);
            CHECK(run_range(s, c, begin, end, k, calls[i], calls[i + 1] - calls[i], &r) == MLA_OK, "%s: %s", s->name,
                  mla_context_error(c)->text);
            for (int l = begin + 1; l < end; l++) memcpy(r.hidden[l], want.hidden[l], T * (size_t)s->W * sizeof(float));
        }
    CHECK(same(r.logits, want.logits, r.n) && same_caches(s, k, whole), "%s: layer by layer", s->name);
    /* no layer at all: embeddings come out, and caches stay */
    result_wipe(&r);
    mla_cache *fresh = cache_of(s->model, MLA_F32, NULL);
    CHECK(run_range(s, c, 0, 0, fresh, 0, T, &r) == MLA_OK &&
              (s->c->emb_neighbor_num ? test_rel_err(r.hidden[0], want.hidden[0], T * (size_t)s->D) < 1e-6f
                                      : same(r.hidden[0], want.hidden[0], T * (size_t)s->D)) &&
              mla_cache_length(fresh) == 0,
          "%s: embeddings", s->name);
    mla_cache_destroy(fresh);
    CHECK(run_range(s, c, 0, 0, k, 0, T, &r) == MLA_OK, "%s: embeddings behind others", s->name);
    CHECK(same_caches(s, k, whole), "%s: no layer changed the cache", s->name);
    mla_sequence q = {.cache = k, .n_tokens = 1};
    static const int bad[][2] = {{-1, 1}, {1, 0}, {0, 99}};
    for (int i = 0; i < 3; i++)
        CHECK(mla_layers_forward(c, bad[i][0], bad[i][1], &q, 1, s->tokens, NULL) == MLA_ERR_ARGUMENT &&
                  strstr(mla_context_error(c)->text, "num_hidden_layers"),
              "%s: layers %d to %d: %s", s->name, bad[i][0], bad[i][1], mla_context_error(c)->text);
    CHECK(mla_layers_forward(c, 1, 1, &q, 1, s->tokens, NULL) == MLA_ERR_ARGUMENT &&
              strstr(mla_context_error(c)->text, "sequences[0].embeddings"),
          "%s: tokens for layer 1: %s", s->name, mla_context_error(c)->text);
    mla_cache_destroy(k), mla_cache_destroy(whole), mla_context_destroy(c);
    free(want.logits), free(r.logits);
}

/* Layers from cut on that have not run have no rows: to read, to go on from, to save. */
static void test_not_run(const subject *s, mla_context *c0, mla_cache *whole, int cut, result *r) {
    mla_error err;
    float *row = floats((size_t)(s->c->kv_lora_rank + s->c->qk_rope_head_dim + s->c->index_head_dim));
    mla_cache_reset(whole);
    CHECK(run_range(s, c0, 0, cut, whole, 0, calls[1], r) == MLA_OK && mla_cache_extend(whole, 3, &err) == MLA_OK,
          "%s: %s", s->name, mla_context_error(c0)->text);
    CHECK(run_range(s, c0, 0, s->L, whole, 3, 1, r) == MLA_ERR_ARGUMENT &&
              strstr(mla_context_error(c0)->text, "has rows for 0 of its 3 tokens"),
          "%s: %s", s->name, mla_context_error(c0)->text);
    CHECK(mla_cache_read(whole, 0, 2, row, &err) == MLA_OK && mla_cache_read(whole, cut, 0, row, &err) != MLA_OK &&
              strstr(err.text, "which has rows for 0"),
          "%s: %s", s->name, err.text);
    mla_cache *fork = cache_of(s->model, MLA_F32, NULL);
    CHECK(mla_cache_fork(fork, whole, &err) == MLA_OK && mla_cache_saved_bytes(fork) == mla_cache_saved_bytes(whole) &&
              run_range(s, c0, cut, s->L, fork, 3, 1, r) == MLA_ERR_ARGUMENT,
          "%s: a fork: %s %s", s->name, err.text, mla_context_error(c0)->text);
    mla_cache_destroy(fork);
    free(row);
}

/* A pipeline: each stage has a model with only the weights of its layers, a context and caches, in pages, of its own. */
static void test_stages(const subject *s) {
    enum { STAGES = 2 };
    const int cut[STAGES + 1] = {0, s->L / 2, s->L};
    const mla_weights *w = &s->files->weights;
    if (shortcut(s, cut[1] - 1) || (s->c->index_topk && !w->layers[cut[1]].attn.indexer.wk.weight.data)) return;
    mla_layer_weights layers[STAGES][2 * MAX_LAYERS];
    mla_model *m[STAGES];
    mla_context *c[STAGES], *c0 = context_of(s, (mla_context_desc){.threads = 1});
    mla_pool *pool[STAGES];
    mla_cache *k[STAGES], *whole = cache_of(s->model, MLA_F32, NULL);
    result want = result_of(s), r = result_of(s);
    mla_error err;
    memset(layers, 0, sizeof layers);
    result_wipe(&r);
    for (int i = 0; i < STAGES; i++) {
        mla_weights part = *w;
        memcpy(layers[i] + cut[i], w->layers + cut[i], (size_t)(cut[i + 1] - cut[i]) * sizeof **layers);
        part.layers = layers[i];
        if (i) part.head = w->head.data ? w->head : w->embed, memset(&part.embed, 0, sizeof part.embed);
        else memset(&part.head, 0, sizeof part.head), memset(&part.norm, 0, sizeof part.norm);
        if (!CHECK(mla_model_create(&m[i], &s->files->config, &part, NULL, &err) == MLA_OK, "%s: %s", s->name,
                   err.text))
            exit(test_end());
        subject one = *s;
        one.model = m[i];
        c[i] = context_of(&one, (mla_context_desc){.threads = 1});
        CHECK(mla_pool_create(&pool[i], m[i], &(mla_pool_desc){.n_pages = 2}, &err) == MLA_OK, "%s", err.text);
        k[i] = cache_of(m[i], MLA_F32, pool[i]);
    }
    for (int i = 0; i < 3; i++) {
        const int t = calls[i], n = calls[i + 1] - t;
        CHECK(run_range(s, c0, 0, s->L, whole, t, n, &want) == MLA_OK, "%s", mla_context_error(c0)->text);
        CHECK(mla_cache_extend(k[0], 1, &err) == MLA_ERR_ARGUMENT &&
                  strstr(err.text, "1 tokens, calls have run layers on 0"),
              "%s", err.text);
        CHECK(run_range(s, c[0], 0, cut[1], k[0], t, n, &r) == MLA_OK, "%s: %s", s->name,
              mla_context_error(c[0])->text);
        float row[1024]; /* behind the end nothing is read, though the layers have been run there */
        CHECK(mla_cache_read(k[0], 0, t, row, &err) == MLA_ERR_ARGUMENT, "%s: a row of %d tokens, position %d", s->name,
              mla_cache_length(k[0]), t);
        CHECK(mla_cache_extend(k[0], n + 1, &err) == MLA_ERR_ARGUMENT && mla_cache_extend(k[0], n, &err) == MLA_OK,
              "%s", err.text);
        CHECK(run_range(s, c[1], cut[1], s->L, k[1], t, n, &r) == MLA_OK, "%s: %s", s->name,
              mla_context_error(c[1])->text);
        CHECK(mla_cache_length(k[0]) == t + n && mla_cache_length(k[1]) == t + n, "%s: lengths", s->name);
    }
    CHECK(same(r.logits, want.logits, r.n), "%s: a pipeline", s->name);
    if (!s->c->linear_num_heads) test_not_run(s, c0, whole, cut[1], &r); /* test_state has those with states */
    mla_cache_reset(whole);
    for (int i = 0; i < 3; i++)
        CHECK(run_range(s, c0, 0, s->L, whole, calls[i], calls[i + 1] - calls[i], &r) == MLA_OK, "%s: again", s->name);
    CHECK(same(r.logits, want.logits, r.n), "%s: cut back to nothing, it runs again", s->name);
    truncate_to(k[0], s->c->linear_num_heads ? 0 : 3);
    CHECK(mla_cache_extend(k[0], 1, &err) == MLA_ERR_ARGUMENT, "%s: what has been cut off does not come back", s->name);
    CHECK(run_range(s, c[0], 0, s->L, k[0], 0, 1, &r) == MLA_ERR_WEIGHTS &&
              strstr(mla_context_error(c[0])->text, "norm.weight"),
          "%s: %s", s->name, mla_context_error(c[0])->text);
    CHECK(run_range(s, c[1], 0, 0, k[1], 0, 1, &r) == MLA_ERR_WEIGHTS &&
              strstr(mla_context_error(c[1])->text, "weights.embed"),
          "%s: %s", s->name, mla_context_error(c[1])->text);
    for (int i = 0; i < STAGES; i++)
        mla_cache_destroy(k[i]), mla_pool_destroy(pool[i]), mla_context_destroy(c[i]), mla_model_destroy(m[i]);
    mla_cache_destroy(whole), mla_context_destroy(c0), free(want.logits), free(r.logits);
}

/* ---- routing ----------------------------------------------------------------------------------------------------- */

/* Of each MoE layer, however the model is cut into calls: the experts that are counted, the best ones, with weights. */
static void test_routing(const subject *s) {
    mla_context *c = context_of(s, (mla_context_desc){.threads = 2});
    mla_cache *k = cache_of(s->model, MLA_F32, NULL);
    const size_t chosen = (size_t)(s->L * T * s->K), choices = (size_t)(s->L * s->E);
    int *index[2] = {(int *)need(calloc(2 * chosen + 1, sizeof(int))), NULL};
    float *weight[2] = {floats(2 * chosen + 1), NULL};
    int64_t *counts = (int64_t *)need(calloc(choices + 1, sizeof *counts));
    result r = result_of(s);
    index[1] = index[0] + chosen, weight[1] = weight[0] + chosen;
    for (size_t i = 0; i < 2 * chosen; i++) index[0][i] = -77, weight[0][i] = -77;
    if (s->E) {
        mla_sequence q = {.cache = k, .n_tokens = T};
        mla_outputs out = {.expert_counts = counts, .expert_index = index[0], .expert_weight = weight[0]};
        CHECK(mla_model_forward(c, &q, 1, s->tokens, &out) == MLA_OK, "%s: %s", s->name, mla_context_error(c)->text);
        mla_cache_reset(k);
        for (int begin = 0, end; begin < s->L; begin = end) { /* only the experts, only the weights */
            float *hidden[MAX_LAYERS + 1] = {NULL};
            end = begin + 1 + shortcut(s, begin);
            hidden[end] = r.hidden[end], q.embeddings = begin ? r.hidden[begin] : NULL;
            out = (mla_outputs){
                .hidden = hidden, .expert_index = begin % 2 ? NULL : index[1], .expert_weight = weight[1]};
            CHECK(mla_layers_forward(c, begin, end, &q, 1, s->tokens, &out) == MLA_OK, "%s: %s", s->name,
                  mla_context_error(c)->text);
            if (begin % 2)
                memcpy(index[1] + begin * T * s->K, index[0] + begin * T * s->K, (size_t)(T * s->K) * sizeof(int));
        }
        CHECK(!memcmp(index[0], index[1], chosen * sizeof(int)) && same(weight[0], weight[1], chosen),
              "%s: routing of a range", s->name);
    }
    for (int l = 0; l < s->L && s->E; l++) {
        int bad = 0, unordered = 0;
        double off = 0;
        for (int t = 0; t < T; t++) {
            const int *e = index[0] + (l * T + t) * s->K;
            const float *w = weight[0] + (l * T + t) * s->K;
            double sum = 0;
            for (int i = 0; i < s->K; sum += (double)w[i++]) {
                for (int j = 0; j < i; j++) bad += has_experts(s, l) && e[j] == e[i];
                bad += has_experts(s, l) ? e[i] < 0 || e[i] >= s->E : e[i] != -77 || w[i] != -77;
                unordered += i > 0 && w[i] > w[i - 1];
                if (has_experts(s, l) && !bad) counts[l * s->E + e[i]]--;
            }
            if (s->c->norm_topk_prob && has_experts(s, l))
                off = fmax(off, fabs(sum - (double)s->c->routed_scaling_factor));
        }
        CHECK(bad == 0, "%s: layer %d: %d experts out of range or twice", s->name, l, bad);
        CHECK(unordered == 0 || s->files->weights.layers[l].moe.router_bias.data, "%s: layer %d: not the best first",
              s->name, l);
        CHECK(off < 1e-5, "%s: layer %d: weights off by %g", s->name, l, off);
    }
    int64_t left = 0;
    for (size_t i = 0; i < choices; i++) left += counts[i] != 0;
    CHECK(left == 0, "%s: %d experts have another number of tokens than is counted", s->name, (int)left);
    mla_cache_destroy(k), mla_context_destroy(c);
    free(index[0]), free(weight[0]), free(counts), free(r.logits);
}

/* ---- step by step ------------------------------------------------------------------------------------------------ */

static void add(const subject *s, float *x, const float *y, const float *post) {
    const int D = s->D, m = s->c->hc_mult;
    for (int i = 0; i < T * s->W; i++)
        x[i] += s->c->residual_scale * (m > 1 ? post[i / D] : 1) * y[i / s->W * D + i % D];
}
/* What a part of a layer sees, normed. */
static int part_in(const subject *s, mla_context *c, const mla_hc_weights *hc, const mla_norm_weights *norm, float *y,
                   float *post, const float *x) {
    if (s->W > s->D && mla_hc_forward(c, hc, y, post, x, T) != MLA_OK) return 0;
    return mla_norm_forward(c, norm, y, s->W > s->D ? y : x, T) == MLA_OK;
}
/* A model by its attention, its experts and its norms one after the other is the whole model, and so is its routing. */
static void test_steps(const subject *s) {
    const mla_weights *w = &s->files->weights;
    const size_t n = T * (size_t)s->D, wide = T * (size_t)s->W;
    mla_context *c = context_of(s, (mla_context_desc){.threads = 2});
    mla_cache *k[2] = {cache_of(s->model, MLA_BF16, NULL), cache_of(s->model, MLA_BF16, NULL)};
    result want = result_of(s), got = result_of(s);
    float *x = floats(wide + 2 * n), *y = x + wide, *post = y + n,
          *weight = floats((size_t)((s->L + 1) * T * s->K + 1)), *hidden[MAX_LAYERS + 1] = {NULL};
    int *index = (int *)need(calloc((size_t)((s->L + 1) * T * s->K) + 1, sizeof *index));
    const int chosen = T * s->K;
    mla_sequence q = {.cache = k[0], .n_tokens = T, .n_logits = T};
    memcpy(hidden, want.hidden, sizeof hidden);
    CHECK(mla_model_forward(c, &q, 1, s->tokens,
                            &(mla_outputs){.logits = want.logits,
                                           .hidden = hidden,
                                           .expert_index = s->K ? index : NULL,
                                           .expert_weight = weight}) == MLA_OK,
          "%s", mla_context_error(c)->text);
    q.cache = k[1];
    CHECK(mla_layers_forward(c, 0, 0, &q, 1, s->tokens, &(mla_outputs){.hidden = (float *const[]){x}}) == MLA_OK, "%s",
          mla_context_error(c)->text);
    CHECK(same(x, want.hidden[0], n), "%s: embeddings", s->name);
    for (int i = T * s->W - 1; i >= 0; i--) x[i] = x[i / s->W * s->D + i % s->D]; /* for each stream */
    for (int l = 0; l < s->L; l++) {
        const mla_layer_weights *of = &w->layers[l];
        const mla_routing routing = {index + s->L * chosen, weight + s->L * chosen, NULL};
        CHECK(l == 0 || same(x, want.hidden[l], wide), "%s: state before layer %d", s->name, l);
        if (shortcut(s, l)) break;
        float *z = floats(n);
        int ok =
            part_in(s, c, &of->attn_hc, &of->attn_norm, z, post, x) && mla_attn_forward(c, l, y, z, &q, 1) == MLA_OK;
        if (of->attn_out_norm.weight.data) ok = ok && mla_norm_forward(c, &of->attn_out_norm, y, y, T) == MLA_OK;
        add(s, x, y, post);
        ok = ok && part_in(s, c, &of->ffn_hc, &of->ffn_norm, y, post, x);
        ok = ok && mla_moe_forward(c, l, z, y, T, &routing) == MLA_OK;
        if (of->ffn_out_norm.weight.data) ok = ok && mla_norm_forward(c, &of->ffn_out_norm, z, z, T) == MLA_OK;
        CHECK(ok, "%s: layer %d: %s", s->name, l, mla_context_error(c)->text);
        add(s, x, z, post), free(z);
        if (has_experts(s, l))
            CHECK(!memcmp(index + l * chosen, routing.index, (size_t)chosen * sizeof *index) &&
                      same(weight + l * chosen, routing.weight, (size_t)chosen),
                  "%s: layer %d: other routing", s->name, l);
        if (l < s->L - 1) continue;
        CHECK(same_caches(s, k[0], k[1]), "%s: caches", s->name);
        q.embeddings = x, got.hidden[0] = want.hidden[0];
        memset(hidden, 0, sizeof hidden), hidden[s->L] = got.hidden[s->L];
        CHECK(mla_layers_forward(c, s->L, s->L, &q, 1, NULL, &(mla_outputs){.logits = got.logits, .hidden = hidden}) ==
                  MLA_OK,
              "%s", mla_context_error(c)->text);
        CHECK(same(got.logits, want.logits, T * (size_t)s->V) && same(got.hidden[s->L], want.hidden[s->L], n),
              "%s: logits", s->name);
        CHECK(mla_cache_length(k[1]) == T, "%s: the head changed a cache", s->name);
        CHECK(part_in(s, c, &w->hc_head, &w->norm, y, NULL, x) && same(y, want.hidden[s->L], n), "%s: the last norm",
              s->name);
    }
    float *one = calloc((size_t)s->D, sizeof *one);
    CHECK(one && mla_norm_forward(c, &w->norm, y, x, T) == MLA_OK &&
              mla_norm_forward(c, &w->norm, one, x, 1) == MLA_OK && same(one, y, (size_t)s->D),
          "%s: the norm of a token alone", s->name);
    free(one);
    mla_norm_weights norm = w->norm;
    norm.weight.cols--;
    CHECK(mla_norm_forward(c, &norm, y, x, T) == MLA_ERR_WEIGHTS && strstr(mla_context_error(c)->text, "norm.weight"),
          "%s: %s", s->name, mla_context_error(c)->text);
    norm.weight.data = NULL;
    CHECK(mla_norm_forward(c, &norm, y, x, T) == MLA_ERR_WEIGHTS && strstr(mla_context_error(c)->text, "missing"),
          "%s: %s", s->name, mla_context_error(c)->text);
    CHECK(mla_norm_forward(c, NULL, y, x, T) == MLA_ERR_ARGUMENT &&
              mla_norm_forward(c, &w->norm, NULL, x, T) == MLA_ERR_ARGUMENT &&
              mla_norm_forward(c, &w->norm, y, NULL, T) == MLA_ERR_ARGUMENT &&
              mla_norm_forward(c, &w->norm, y, x, 0) == MLA_ERR_ARGUMENT &&
              mla_norm_forward(NULL, &w->norm, y, x, T) == MLA_ERR_ARGUMENT,
          "%s: bad arguments", s->name);
    CHECK(mla_hc_forward(c, &w->hc_head, y, s->W > s->D ? post : NULL, x, T) == MLA_ERR_ARGUMENT &&
              strstr(mla_context_error(c)->text, s->W > s->D ? "post" : "hc_mult is 1") &&
              mla_hc_forward(c, &w->hc_head, y, NULL, x, 0) == MLA_ERR_ARGUMENT &&
              mla_hc_forward(c, NULL, y, NULL, x, T) == MLA_ERR_ARGUMENT &&
              mla_hc_forward(NULL, &w->hc_head, y, NULL, x, T) == MLA_ERR_ARGUMENT,
          "%s: %s", s->name, mla_context_error(c)->text);
    mla_cache_destroy(k[0]), mla_cache_destroy(k[1]), mla_context_destroy(c);
    free(x), free(weight), free(index), free(want.logits), free(got.logits);
}

/* ---- an end halfway ---------------------------------------------------------------------------------------------- */

typedef struct watched {
    int calls, stop; /* the call that says stop; -1: none */
    int layer, layers;
    mla_phase phase;
    int wrong; /* calls that did not follow on each other */
} watched;
static int watch(void *user, int layer, int layers, mla_phase phase) {
    watched *w = (watched *)user;
    const int follows =
        w->calls == 0 || (phase == MLA_PHASE_EXPERTS ? layer == w->layer && w->phase == MLA_PHASE_ATTENTION
                                                     : layer == w->layer + 1 && w->phase == MLA_PHASE_EXPERTS);
    w->wrong += !follows || (phase == MLA_PHASE_HEAD) != (layer == layers);
    w->layer = layer, w->layers = layers, w->phase = phase;
    return w->calls++ == w->stop;
}

/* A call on two sequences, one whose page is shared, ended at every place where it may be: the caches and the pool are
   as before, and the same call afterwards gives what it would have given. */
static void test_abort(const subject *s) {
    watched w = {0};
    w.stop = -1;
    mla_error err;
    mla_pool *pool;
    mla_context *c = context_of(s, (mla_context_desc){.threads = 3, .watch = watch, .watch_user = &w});
    if (!CHECK(mla_pool_create(&pool, s->model, &(mla_pool_desc){.n_pages = 8}, &err) == MLA_OK, "%s", err.text))
        return;
    mla_cache *base = cache_of(s->model, MLA_F32, pool),
              *k[2] = {cache_of(s->model, MLA_F32, pool), cache_of(s->model, MLA_F32, pool)};
    float *logits = floats(4 * (size_t)s->V), *want = logits + 2 * s->V;
    mla_sequence q[2] = {{.cache = base, .n_tokens = T}, {.cache = k[1], .n_tokens = 9, .n_logits = 1}};
    CHECK(mla_model_forward(c, q, 1, s->tokens, NULL) == MLA_OK, "%s: %s", s->name, mla_context_error(c)->text);
    CHECK(w.calls == 2 * s->L + 1 && w.wrong == 0 && w.layers == s->L && w.phase == MLA_PHASE_HEAD,
          "%s: watched %d times, %d of them out of order", s->name, w.calls, w.wrong);
    CHECK(mla_cache_fork(k[0], base, &err) == MLA_OK, "%s", err.text);
    q[0] = (mla_sequence){.cache = k[0], .n_tokens = T, .n_logits = 1};
    const int free_pages = mla_pool_free_pages(pool), all = 2 * s->L + 1;
    for (int stop = -1; stop <= all; stop++) {
        float *to = stop < 0 ? want : logits;
        memset(&w, 0, sizeof w), w.stop = stop < 0 ? all : stop;
        for (int i = 0; i < 2 * s->V; i++) to[i] = -77;
        const mla_result rc = mla_model_forward(c, q, 2, s->tokens + 3, &(mla_outputs){.logits = to});
        if (stop >= 0 && stop < all) {
            const char *what = stop == all - 1 ? "the head"
                               : stop % 2      ? "the experts of layer"
                                               : "the attention of layer";
            CHECK(rc == MLA_ERR_ABORTED && mla_context_error(c)->code == rc && strstr(mla_context_error(c)->text, what),
                  "%s: stop %d: %s", s->name, stop, mla_context_error(c)->text);
            CHECK(w.calls == stop + 1, "%s: watched %d times after stop %d", s->name, w.calls, stop);
            CHECK(mla_cache_length(k[0]) == T && mla_cache_length(k[1]) == 0 &&
                      mla_pool_free_pages(pool) == free_pages && same_caches(s, k[0], base),
                  "%s: stop %d: the caches changed", s->name, stop);
            w.stop = -1, w.calls = 0;
            CHECK(mla_model_forward(c, q, 2, s->tokens + 3, &(mla_outputs){.logits = logits}) == MLA_OK, "%s: %s",
                  s->name, mla_context_error(c)->text);
        } else CHECK(rc == MLA_OK, "%s: %s", s->name, mla_context_error(c)->text);
        CHECK(same(logits, want, 2 * (size_t)s->V) || stop < 0, "%s: other logits after stop %d", s->name, stop);
        CHECK(mla_cache_fork(k[0], base, &err) == MLA_OK, "%s", err.text);
        mla_cache_reset(k[1]);
    }
    /* ranges: the second one may be ended and called again */
    const int cut = s->L - 1;
    if (!shortcut(s, cut - 1)) {
        float *hidden[MAX_LAYERS + 1] = {NULL};
        float *x = hidden[cut] = floats(T * (size_t)s->W);
        memset(&w, 0, sizeof w), w.stop = 2 * cut;
        q[0].embeddings = NULL;
        CHECK(mla_layers_forward(c, 0, cut, q, 1, s->tokens + 3, &(mla_outputs){.hidden = hidden}) == MLA_OK &&
                  w.calls == 2 * cut && w.layers == cut,
              "%s: %s", s->name, mla_context_error(c)->text);
        q[0].embeddings = x;
        for (int stop = 0; stop < 4; stop++) {
            memset(&w, 0, sizeof w), w.stop = stop;
            const mla_result rc = mla_layers_forward(c, cut, s->L, q, 1, NULL, &(mla_outputs){.logits = logits});
            CHECK(rc == (stop < 3 ? MLA_ERR_ABORTED : MLA_OK) || (s->c->index_topk && rc == MLA_ERR_ARGUMENT),
                  "%s: the second part, stop %d: %s", s->name, stop, mla_context_error(c)->text);
            if (stop == 3 && rc == MLA_OK)
                CHECK(test_rel_err(logits, want, (size_t)s->V) < 1e-5f, "%s: the second part once more", s->name);
        }
        free(x);
    }
    mla_cache_destroy(base), mla_cache_destroy(k[0]), mla_cache_destroy(k[1]), mla_pool_destroy(pool),
        mla_context_destroy(c);
    free(logits);
}

/* ---- phases ------------------------------------------------------------------------------------------------------ */

static double tick(void *user) { return (double)++*(int *)user; }
static double bytes_of(const mla_tensor *t) {
    const double rows = t->scale_rows ? t->scale_rows : 128, cols = t->scale_cols ? t->scale_cols : 128;
    return (double)mla_dtype_bytes(t->dtype, (size_t)t->rows * (size_t)t->cols) +
           (t->scale ? ceil(t->rows / rows) * ceil(t->cols / cols) * (double)mla_dtype_bytes(t->scale_dtype, 1) : 0);
}

/* All weights but those of experts that no token went to are read, each in its phase; phases are all of the time. */
static void test_phases(const subject *s) {
    int ticks = 0;
    mla_stats stats = {.clock = tick, .clock_user = &ticks};
    mla_context *c = context_of(s, (mla_context_desc){.threads = 1, .stats = &stats});
    mla_cache *k = cache_of(s->model, MLA_F32, NULL);
    int64_t *counts = (int64_t *)need(calloc((size_t)(s->L * s->E) + 1, sizeof *counts));
    float *logits = floats((size_t)s->V);
    mla_sequence q = {.cache = k, .n_tokens = 3, .n_logits = 1};
    CHECK(mla_model_forward(c, &q, 1, s->tokens, &(mla_outputs){.logits = logits, .expert_counts = counts}) == MLA_OK,
          "%s: %s", s->name, mla_context_error(c)->text);
    double want = mla_model_bytes(s->model, 1000000), experts = 0;
    for (int l = 0; l < s->L; l++)
        for (int e = 0; has_experts(s, l) && e < s->c->n_routed_experts; e++) {
            const mla_mlp_weights *w = &s->files->weights.layers[l].moe.experts[e];
            const double one = bytes_of(&w->gate.weight) + bytes_of(&w->up.weight) + bytes_of(&w->down.weight);
            if (counts[l * s->E + e]) experts += one;
            else want -= one;
        }
    const double *b = stats.phase_bytes, *t = stats.phase_seconds,
                 head = bytes_of(s->files->weights.head.data ? &s->files->weights.head : &s->files->weights.embed);
    CHECK(fabs(b[0] + b[1] + b[2] - want) < 0.5, "%s: %.0f + %.0f + %.0f bytes are not %.0f", s->name, b[0], b[1], b[2],
          want);
    CHECK(b[0] > 0 && b[1] > experts && b[2] >= head && b[2] < head + 16.0 * s->W,
          "%s: bytes of experts %.0f (%.0f), of the head %.0f (%.0f)", s->name, b[1], experts, b[2], head);
    CHECK(t[0] > 0 && t[1] > 0 && t[2] > 0 && stats.seconds >= t[0] + t[1] + t[2] &&
              stats.seconds <= t[0] + t[1] + t[2] + 3,
          "%s: %.0f + %.0f + %.0f of %.0f ticks", s->name, t[0], t[1], t[2], stats.seconds);
    const double was = b[2];
    q.n_logits = 0;
    CHECK(mla_model_forward(c, &q, 1, s->tokens, &(mla_outputs){.logits = logits}) == MLA_OK && b[2] - was < head,
          "%s: no logits, no head", s->name);
    mla_cache_destroy(k), mla_context_destroy(c);
    free(counts), free(logits);
}

/* ---- pages ------------------------------------------------------------------------------------------------------- */

/* Sequences that fork, grow and are cut at random: the pages that are needed are those that a call takes, and if there
   are less the call is refused and says which sequence is the first without. */
static void test_pages(void) {
    enum { PAGES = 9, CACHES = 6, ROUNDS = 120, MOST = 3 * MLA_PAGE };
    subject s;
    mla_pool *pool;
    mla_error err;
    mla_cache *k[CACHES], *stranger;
    test_rng r = {7};
    int full = 0, copies = 0, tokens[MOST];
    SECTION("pages needed");
    if (!subject_open(&s, "minicpm3", 0)) return;
    mla_context *c = context_of(&s, (mla_context_desc){.threads = 1, .max_tokens = MOST});
    if (!CHECK(mla_pool_create(&pool, s.model, &(mla_pool_desc){.n_pages = PAGES}, &err) == MLA_OK, "%s", err.text))
        return;
    const mla_cache_desc d = {.capacity = 4 * MLA_PAGE, .pool = pool};
    for (int i = 0; i < CACHES; i++) CHECK(mla_cache_create(&k[i], s.model, &d, &err) == MLA_OK, "%s", err.text);
    stranger = cache_of(s.model, MLA_F32, NULL);
    float *x = floats(MOST * (size_t)s.D);
    for (int i = 0; i < MOST; i++) tokens[i] = s.tokens[i % T];
    for (int round = 0; round < ROUNDS; round++) {
        mla_sequence q[CACHES + 1] = {{.cache = NULL}};
        int n = 0, needed[CACHES + 1], total = 0;
        const int from = test_int(&r, CACHES), to = test_int(&r, CACHES);
        CHECK(mla_cache_fork(k[to], k[from], &err) == MLA_OK || err.code == MLA_ERR_FULL, "%s", err.text);
        if (test_int(&r, 3) == 0) truncate_to(k[to], test_int(&r, mla_cache_length(k[to]) + 1));
        for (int i = 0; i < CACHES; i++) {
            const int room = 4 * MLA_PAGE - mla_cache_length(k[i]), m = 1 + test_int(&r, test_int(&r, 4) ? 3 : 60);
            if (test_int(&r, 2) || m > room || total + m > MOST - 1) continue;
            q[n++] = (mla_sequence){.cache = k[i], .n_tokens = m}, total += m;
            needed[n] = mla_pool_pages_needed(pool, q, n, 0);
        }
        if (n == 0) continue;
        const int before = mla_pool_free_pages(pool);
        q[n] = (mla_sequence){.cache = stranger, .n_tokens = 1};
        CHECK(mla_pool_pages_needed(pool, q, n + 1, 0) == needed[n], "a cache that has no pool needs pages");
        q[n].cache = NULL;
        CHECK(mla_pool_pages_needed(pool, q, n + 1, 0) == needed[n], "no cache needs pages");
        /* attention of the first layer reserves as the whole model does, and is not kept */
        const mla_result rc = mla_attn_forward(c, 0, x, x, q, n);
        const int taken = before - mla_pool_free_pages(pool);
        if (needed[n] > before) {
            int first = 0;
            while (needed[first + 1] <= before) first++;
            CHECK(rc == MLA_ERR_FULL && mla_context_error(c)->sequence == first && taken == 0,
                  "%s: sequence %d, not %d, %d pages taken", mla_context_error(c)->text, mla_context_error(c)->sequence,
                  first, taken);
            full++;
            for (int i = 0; i < CACHES; i += 2) mla_cache_reset(k[i]);
        } else {
            CHECK(rc == MLA_OK && taken == needed[n], "%d pages needed, %d taken (%s)", needed[n], taken,
                  mla_result_name(rc));
            CHECK(mla_pool_pages_needed(pool, q, n, 0) == 0, "the same once more needs %d pages",
                  mla_pool_pages_needed(pool, q, n, 0));
            copies += taken;
            for (int i = 0; i < n; i++) {
                const int length = mla_cache_length(q[i].cache);
                copies -= (length + q[i].n_tokens + MLA_PAGE - 1) / MLA_PAGE - (length + MLA_PAGE - 1) / MLA_PAGE;
            }
            for (int i = 0; i < n; i++)
                CHECK(mla_cache_extend(q[i].cache, q[i].n_tokens, &err) == MLA_OK, "%s", err.text);
        }
    }
    CHECK(full > 5 && copies > 40, "%d calls were refused, %d pages copied", full, copies);
    mla_sequence one = {.cache = k[0], .n_tokens = 1};
    CHECK(mla_model_forward(c, &one, 1, (int[]){-1}, NULL) == MLA_ERR_ARGUMENT && mla_context_error(c)->sequence == 0,
          "a token of sequence 0");
    CHECK(mla_model_forward(c, &one, 0, tokens, NULL) == MLA_ERR_ARGUMENT && mla_context_error(c)->sequence == -1,
          "no sequence at fault is -1");
    for (int i = 0; i < CACHES; i++) mla_cache_destroy(k[i]);
    CHECK(mla_pool_free_pages(pool) == PAGES, "%d pages came back", mla_pool_free_pages(pool));
    mla_cache_destroy(stranger), mla_pool_destroy(pool), mla_context_destroy(c), subject_close(&s);
    free(x);
}

/* ---- saved caches ------------------------------------------------------------------------------------------------ */

enum { SAVED = MLA_PAGE + 9, PART = 8 }; /* of PART tokens a layer of multi-token prediction has no rows */

static const mla_dtype dtypes[] = {MLA_F32, MLA_F16, MLA_BF16, MLA_Q8};

static mla_cache *cache_with(const subject *s, mla_dtype dtype, mla_dtype index_dtype, mla_pool *pool) {
    mla_cache *k = NULL;
    mla_error err;
    const mla_cache_desc d = {.capacity = CAPACITY, .dtype = dtype, .index_dtype = index_dtype, .pool = pool};
    if (!CHECK(mla_cache_create(&k, s->model, &d, &err) == MLA_OK, "%s", err.text)) exit(test_end());
    return k;
}
/* Rows by chance, and then some that the model itself has made. */
static void fill(const subject *s, mla_context *c, mla_cache *k, int n, int made) {
    test_rng r = {3};
    const int layers = s->L + s->c->num_nextn_predict_layers;
    const size_t most = (size_t)(layers * n * (s->c->kv_lora_rank + s->c->qk_rope_head_dim + s->c->index_head_dim));
    float *rows = floats(most);
    mla_error err;
    test_fill(&r, rows, most, 1);
    CHECK(mla_cache_append(k, n, rows, &err) == MLA_OK, "%s", err.text);
    mla_sequence q = {.cache = k, .n_tokens = made};
    if (made) CHECK(mla_model_forward(c, &q, 1, s->tokens, NULL) == MLA_OK, "%s", mla_context_error(c)->text);
    free(rows);
}
/* Every row that one has and the other has not, or has otherwise. */
static int other_rows(const subject *s, const mla_cache *a, const mla_cache *b) {
    float x[256], y[256];
    int other = mla_cache_length(a) != mla_cache_length(b);
    for (int l = 0; l < s->L + s->c->num_nextn_predict_layers; l++)
        for (int u = 0; u < mla_cache_length(a); u++) {
            memset(x, 0, sizeof x), memset(y, 0, sizeof y);
            other += mla_cache_read(a, l, u, x, NULL) != mla_cache_read(b, l, u, y, NULL) || !same(x, y, 256);
        }
    return other;
}
/* The same rows, rounded as a cache of the other dtype rounds what is appended. */
static void round_to(const subject *s, mla_cache *to, const mla_cache *from, int ahead) {
    const int layers = s->L + s->c->num_nextn_predict_layers, n = mla_cache_length(from);
    float *rows = floats((size_t)(layers * n * 256)), *at = rows, one[256];
    mla_error err;
    for (int l = 0; l < layers; l++)
        for (int u = 0; u < n; u++) {
            const int width = s->c->kv_lora_rank + s->c->qk_rope_head_dim;
            const int index = l < s->L && s->c->index_topk && s->files->weights.layers[l].attn.indexer.wk.weight.data
                                  ? s->c->index_head_dim
                                  : 0;
            memset(one, 0, sizeof one);
            CHECK(mla_cache_read(from, l, u, one, &err) == MLA_OK || (l >= s->L && u >= ahead), "%s", err.text);
            memcpy(at, one, (size_t)(width + index) * sizeof *at), at += width + index;
        }
    CHECK(mla_cache_append(to, n, rows, &err) == MLA_OK, "%s", err.text);
    free(rows);
}

static unsigned char *save(const mla_cache *k, size_t piece, uint64_t model, size_t *n) {
    mla_cache_stream st = {.model = model};
    const size_t bytes = (size_t)mla_cache_saved_bytes(k);
    unsigned char *to = (unsigned char *)need(malloc(bytes + piece));
    size_t some;
    CHECK(mla_cache_saved_bytes(NULL) == 0 && mla_cache_save(&st, NULL, to, 1) == 0, "no cache has bytes");
    for (*n = 0; (some = mla_cache_save(&st, k, to + *n, *n + piece > bytes ? bytes + piece - *n : piece)) > 0;
         *n += some)
        if (*n > bytes) break;
    CHECK(*n == bytes && st.at == bytes, "%d bytes in pieces of %d, and not %d", (int)*n, (int)piece, (int)bytes);
    return to;
}
/* In pieces, and no more then. */
static mla_result load(mla_cache *k, const unsigned char *from, size_t n, size_t piece, uint64_t model,
                       mla_error *err) {
    mla_cache_stream st = {.model = model};
    for (size_t i = 0; i < n; i += piece) {
        const mla_result rc = mla_cache_load(&st, k, from + i, n - i < piece ? n - i : piece, err);
        if (rc) return rc;
    }
    return mla_cache_load(&st, k, NULL, 0, err);
}

/* From every dtype to every other, in pages and not, in pieces of any size. */
static void test_saved(const subject *s) {
    static const size_t pieces[] = {1, 7, 4096, 1 << 20};
    mla_error err;
    mla_pool *pool;
    mla_context *c = context_of(s, (mla_context_desc){.threads = 1});
    for (int f = 0; f < 4; f++)
        for (int t = 0; t < 4; t++)
            for (int paged = 0; paged < 4; paged++) {
                const mla_dtype from = dtypes[f], to = dtypes[t], from_index = dtypes[(f + paged) % 4],
                                to_index = dtypes[(t + paged / 2) % 4];
                const size_t piece = pieces[(f + t + paged) % 4], other_piece = pieces[(f + paged) % 4];
                const mla_pool_desc pd = {
                    .n_pages = 2, .dtype = paged & 1 ? from : to, .index_dtype = paged & 1 ? from_index : to_index};
                size_t n, m;
                if (paged == 3 && from != to) continue; /* both in one pool */
                mla_pool_desc both = pd;
                if (paged == 3) both.n_pages = 4;
                CHECK(mla_pool_create(&pool, s->model, &both, &err) == MLA_OK, "%s", err.text);
                mla_cache *k = cache_with(s, from, from_index, paged & 1 ? pool : NULL),
                          *j = cache_with(s, to, to_index, paged & 2 ? pool : NULL), *want = NULL;
                const mla_dtype j_index = paged == 3 ? from_index : to_index;
                fill(s, c, k, SAVED - PART, PART);
                unsigned char *bytes = save(k, piece, 5, &n), *again;
                CHECK(load(j, bytes, n, other_piece, 5, &err) == MLA_OK, "%s: %s", s->name, err.text);
                if (from == to && (from_index == j_index || !s->c->index_topk)) want = k;
                else want = cache_with(s, to, j_index, NULL), round_to(s, want, k, SAVED - PART);
                const int other = other_rows(s, want, j), ahead = want == k ? 0 : s->c->num_nextn_predict_layers * PART;
                CHECK(other == ahead, "%s: %s/%s to %s/%s, %d: %d rows differ", s->name, mla_dtype_name(from),
                      mla_dtype_name(from_index), mla_dtype_name(to), mla_dtype_name(j_index), paged, other);
                again = save(j, 100, 5, &m);
                CHECK(want != k ||
                          (m == n && (!memcmp(again, bytes, n) || (!s->c->index_topk && from_index != j_index))),
                      "%s: saved again it is other bytes", s->name);
                mla_sequence q = {.cache = j, .n_tokens = 1};
                CHECK(mla_model_forward(c, &q, 1, s->tokens, NULL) == MLA_OK, "%s: %s", s->name,
                      mla_context_error(c)->text);
                free(bytes), free(again);
                if (want != k) mla_cache_destroy(want);
                mla_cache_destroy(k), mla_cache_destroy(j), mla_pool_destroy(pool);
            }
    mla_context_destroy(c);
}

static uint64_t fnv(const unsigned char *b, size_t n) {
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < n; i++) h ^= b[i], h *= 1099511628211u;
    return h;
}
static uint32_t word_at(const unsigned char *b, int i) {
    return b[4 * i] | (uint32_t)b[4 * i + 1] << 8 | (uint32_t)b[4 * i + 2] << 16 | (uint32_t)b[4 * i + 3] << 24;
}
static void put(unsigned char *b, uint64_t x, int n) {
    for (int i = 0; i < n; i++) b[i] = (unsigned char)(x >> 8 * i);
}
static uint64_t sum_at(const unsigned char *b) { return word_at(b, 0) | (uint64_t)word_at(b, 1) << 32; }

static void refuses(const char *what, mla_result rc, mla_result want, const mla_error *err, const char *text,
                    const mla_cache *k, const mla_pool *pool, int pages) {
    CHECK(rc == want && err->code == rc && strstr(err->text, text), "%s: %s: %s", what, mla_result_name(rc), err->text);
    CHECK(mla_cache_length(k) == 0 && (!pool || mla_pool_free_pages(pool) == pages), "%s: not empty", what);
}

/* The format is what the header of mla.h says, and whatever is not what has been saved is refused. */
static void test_damage(const subject *s) {
    enum { N = 3 };
    mla_error err = {MLA_OK, "", 0};
    mla_pool *pool;
    size_t n;
    int M = s->c->num_nextn_predict_layers, layers = s->L + M, words = 13 + 2 * layers, accepted = 0, unnamed = 0;
    mla_context *c = context_of(s, (mla_context_desc){.threads = 1});
    CHECK(mla_pool_create(&pool, s->model, &(mla_pool_desc){.n_pages = 1, .dtype = MLA_F16}, &err) == MLA_OK, "%s",
          err.text);
    mla_cache *k = cache_with(s, MLA_Q8, MLA_Q8, NULL), *j = cache_with(s, MLA_F16, MLA_F32, pool);
    fill(s, c, k, N - 1, 1);
    unsigned char *b = save(k, 64, 0x1234567890u, &n);
    const uint32_t head[13] = {0x43414c4d,
                               1,
                               (uint32_t)words,
                               (uint32_t)s->L,
                               (uint32_t)M,
                               (uint32_t)s->c->kv_lora_rank,
                               (uint32_t)s->c->qk_rope_head_dim,
                               s->c->index_topk ? (uint32_t)s->c->index_head_dim : 0,
                               0x34567890,
                               0x12,
                               MLA_Q8,
                               MLA_Q8,
                               N};
    int wrong = 0;
    size_t rows = 0;
    for (int i = 0; i < 13; i++) wrong += word_at(b, i) != head[i];
    for (int i = 0; i < layers; i++) {
        const int index = i < s->L && s->c->index_topk && s->files->weights.layers[i].attn.indexer.wk.weight.data;
        wrong += word_at(b, 13 + layers + i) != (uint32_t)index;
        wrong += word_at(b, 13 + i) != (uint32_t)(i < s->L ? N : N - 1);
        rows += (size_t)(i < s->L ? N : N - 1) *
                (mla_dtype_bytes(MLA_Q8, head[5] + head[6]) + (index ? mla_dtype_bytes(MLA_Q8, head[7]) : 0));
    }
    const size_t end = 4 * (size_t)words;
    CHECK(wrong == 0 && !memcmp(b, "MLAC", 4) && n == end + 16 + rows,
          "%s: %d words of the header are others, %d bytes", s->name, wrong, (int)n);
    CHECK(sum_at(b + end) == fnv(b, end) && sum_at(b + n - 8) == fnv(b, n - 8), "%s: sums", s->name);
    CHECK(load(j, b, n, 10, 0x1234567890u, &err) == MLA_OK && mla_cache_length(j) == N, "%s: %s", s->name, err.text);
    refuses("not empty",
            load(j, b, n, 10, 0x1234567890u, &err) == MLA_ERR_ARGUMENT ? (mla_cache_reset(j), MLA_ERR_ARGUMENT)
                                                                       : MLA_OK,
            MLA_ERR_ARGUMENT, &err, "holds 3 tokens", j, pool, 1);
    for (size_t bit = 0; bit < 8 * n; bit++) {
        b[bit / 8] ^= (unsigned char)(1 << bit % 8);
        const mla_result rc = load(j, b, n, 1 << 20, 0x1234567890u, &err);
        accepted += rc != MLA_ERR_DATA || mla_cache_length(j) || mla_pool_free_pages(pool) != 1;
        unnamed += !strstr(err.text, "damaged") && !strstr(err.text, "cut off") &&
                   !strstr(err.text, "no saved cache") && !strstr(err.text, "version");
        b[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    CHECK(accepted == 0 && unnamed == 0, "%s: %d flipped bits go unnoticed, %d are called something else", s->name,
          accepted, unnamed);
    accepted = 0;
    for (size_t m = 0; m < n; m++)
        accepted += load(j, b, m, m % 3 ? 4096 : 5, 0x1234567890u, &err) != MLA_ERR_DATA ||
                    !strstr(err.text, "cut off") || mla_cache_length(j) || mla_pool_free_pages(pool) != 1;
    CHECK(accepted == 0, "%s: %d truncations go unnoticed", s->name, accepted);
    unsigned char *more = (unsigned char *)need(malloc(n + 1));
    memcpy(more, b, n), more[n] = 0;
    refuses("a byte more", load(j, more, n + 1, 1 << 20, 0x1234567890u, &err), MLA_ERR_DATA, &err, "more than the", j,
            pool, 1);
    refuses("another model's number", load(j, b, n, 3, 0x1234567891u, &err), MLA_ERR_DATA, &err, "model (low word)", j,
            pool, 1);
    refuses("another model's number", load(j, b, n, 3, 0x1334567890u, &err), MLA_ERR_DATA, &err, "model (high word)", j,
            pool, 1);
    for (unsigned char version = 0; version < 6; version++)
        if (version != 1) {
            b[4] = version;
            refuses("a version", load(j, b, n, 1 << 20, 0x1234567890u, &err), MLA_ERR_DATA, &err,
                    version == 2 || version == 4 ? "has states"
                    : version == 3               ? "has ids of tokens"
                                                 : "this is 4 or less",
                    j, pool, 1);
        }
    b[4] = 1;
    mla_cache_stream st = {.model = 0x1234567890u};
    b[end + 20] ^= 1;
    refuses("stream", mla_cache_load(&st, j, b, n, &err), MLA_ERR_DATA, &err, "damaged", j, pool, 1);
    refuses("stream, after", mla_cache_load(&st, j, b, n, &err), MLA_ERR_DATA, &err, "has failed", j, pool, 1);
    b[end + 20] ^= 1;
    /* what nobody saves, with sums that are right */
    static const struct {
        int word;
        uint32_t to;
        const char *text;
    } crafted[] = {{2, 14, "damaged"},
                   {2, 0, "damaged"},
                   {2, 0xffffffff, "cut off"},
                   {10, 99, "dtype or length"},
                   {10, MLA_Q4, "dtype or length"},
                   {12, 0x80000000u, "dtype or length"},
                   {12, 0xffffffffu, "dtype or length"},
                   {3, 7, "num_hidden_layers of the saved cache is 7"},
                   {5, 1, "kv_lora_rank"},
                   {6, 1, "qk_rope_head_dim"},
                   {7, 77, "index_head_dim"},
                   {4, 77, "num_nextn_predict_layers"}};
    for (size_t i = 0; i < sizeof crafted / sizeof *crafted; i++) {
        memcpy(more, b, n);
        put(more + 4 * crafted[i].word, crafted[i].to, 4), put(more + end, fnv(more, end), 8),
            put(more + n - 8, fnv(more, n - 8), 8);
        refuses(crafted[i].text, load(j, more, n, 50, 0x1234567890u, &err), MLA_ERR_DATA, &err, crafted[i].text, j,
                pool, 1);
    }
    for (int i = 0; i < layers; i++) {
        memcpy(more, b, n);
        put(more + 4 * (13 + i), i % 2 ? N + 1 : 0x7fffffff, 4), put(more + end, fnv(more, end), 8);
        refuses("rows ahead", load(j, more, n, 50, 0x1234567890u, &err), MLA_ERR_DATA, &err, "dtype or length", j, pool,
                1);
    }
    memcpy(more, b, n); /* more tokens than there is room for */
    put(more + 4 * 12, CAPACITY + 1, 4), put(more + end, fnv(more, end), 8);
    refuses("capacity", load(j, more, n, 50, 0x1234567890u, &err), MLA_ERR_FULL, &err, "97 more do not fit", j, pool,
            1);
    put(more + 4 * 12, MLA_PAGE + 1, 4), put(more + end, fnv(more, end), 8);
    refuses("pool", load(j, more, n, 50, 0x1234567890u, &err), MLA_ERR_FULL, &err, "2 pages needed, the pool has 1", j,
            pool, 1);
    refuses("stream", mla_cache_load(NULL, j, b, n, &err), MLA_ERR_ARGUMENT, &err, "stream is NULL", j, pool, 1);
    refuses("in", mla_cache_load(&st, j, NULL, n, &err), MLA_ERR_ARGUMENT, &err, "in is NULL", j, pool, 1);
    /* given up halfway */
    memset(&st, 0, sizeof st), st.model = 0x1234567890u;
    CHECK(mla_cache_load(&st, j, b, end + 100, &err) == MLA_OK && mla_cache_length(j) == 0 &&
              mla_cache_extend(j, 1, &err) == MLA_ERR_ARGUMENT,
          "%s: half loaded", s->name);
    mla_cache_reset(j);
    CHECK(mla_pool_free_pages(pool) == 1 && load(j, b, n, 99, 0x1234567890u, &err) == MLA_OK, "%s: after giving up: %s",
          s->name, err.text);
    mla_cache_reset(k); /* an empty one is one, too */
    mla_cache_reset(j);
    free(b), b = save(k, 9, 0, &n);
    CHECK(load(j, b, n, 11, 0, &err) == MLA_OK && mla_cache_length(j) == 0, "%s: an empty cache: %s", s->name,
          err.text);
    free(b), free(more);
    mla_cache_destroy(k), mla_cache_destroy(j), mla_pool_destroy(pool), mla_context_destroy(c);
}

/* Files of one model in caches of another. */
static void test_strangers(void) {
    static const struct {
        const char *from, *to;
        int from_mtp, to_mtp;
        const char *text;
    } pairs[] = {
        {"deepseek_v3", "deepseek_v32", 0, 0, "num_hidden_layers of the saved cache is 4, of this one 3"},
        {"deepseek_v3", "deepseek_v3", 1, 0, "num_nextn_predict_layers of the saved cache is 1, of this one 0"},
        {"deepseek_v3", "deepseek_v3", 0, 1, "num_nextn_predict_layers of the saved cache is 0, of this one 1"},
        {"deepseek_v2", "deepseek_v3_fp8", 0, 0, "kv_lora_rank of the saved cache is 48, of this one 136"},
        {"deepseek_v2", "deepseek_v32", 0, 0, "index_head_dim of the saved cache is 0, of this one 32"},
        {"deepseek_v3", "glm_moe_dsa", 0, 0, "index_head_dim of the saved cache is 0, of this one 32"}};
    SECTION("caches of other models");
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        subject a, b;
        mla_error err = {MLA_OK, "", 0};
        size_t n;
        if (!subject_open(&a, pairs[i].from, pairs[i].from_mtp) || !subject_open(&b, pairs[i].to, pairs[i].to_mtp))
            continue;
        mla_cache *k = cache_of(a.model, MLA_F32, NULL), *j = cache_of(b.model, MLA_F32, NULL);
        fill(&a, NULL, k, 5, 0);
        unsigned char *bytes = save(k, 4096, 0, &n);
        refuses(pairs[i].text, load(j, bytes, n, 4096, 0, &err), MLA_ERR_DATA, &err, pairs[i].text, j, NULL, 0);
        free(bytes);
        mla_cache_destroy(k), mla_cache_destroy(j), subject_close(&a), subject_close(&b);
    }
    subject s;
    if (!subject_open(&s, "deepseek_v32", 0)) return;
    mla_layer_weights layers[3];
    mla_weights w = s.files->weights;
    mla_model *m;
    mla_error err = {MLA_OK, "", 0};
    size_t n;
    memcpy(layers, w.layers, sizeof layers), memset(&layers[2].attn.indexer, 0, sizeof layers[2].attn.indexer);
    w.layers = layers;
    CHECK(mla_model_create(&m, &s.files->config, &w, NULL, &err) == MLA_OK, "%s", err.text);
    mla_cache *k = cache_of(s.model, MLA_F32, NULL), *j = cache_of(m, MLA_F32, NULL);
    fill(&s, NULL, k, 5, 0);
    unsigned char *bytes = save(k, 4096, 0, &n);
    refuses("another layer's indexer", load(j, bytes, n, 4096, 0, &err), MLA_ERR_DATA, &err, "index keys in layer 2", j,
            NULL, 0);
    free(bytes);
    mla_cache_destroy(k), mla_cache_destroy(j), mla_model_destroy(m), subject_close(&s);
}

/* ---- stack ------------------------------------------------------------------------------------------------------- */

#if HAS_POSIX
enum { STACK = 1 << 18, TASKS = 2, WIDE = 256, WIDE_T = 40, PAINT = 0xa7 };

static unsigned char *stacks[TASKS];
static size_t most_stack; /* that any task has used */

typedef struct task {
    void (*run)(void *arg, int i);
    void *arg;
    unsigned char *top; /* where it began */
    int i;
} task;
static void *run_task(void *arg) {
    task *t = (task *)arg;
    unsigned char here = 0;
    t->top = &here;
    t->run(t->arg, t->i);
    return NULL;
}
/* A thread for each task, on a stack that shows how far it was used. */
static void run_painted(void *user, int n, void (*run)(void *arg, int i), void *arg) {
    pthread_t thread[TASKS];
    task t[TASKS];
    (void)user;
    for (int i = 0; i < n; i++) {
        pthread_attr_t how;
        const task one = {run, arg, NULL, i};
        t[i] = one;
        memset(stacks[i], PAINT, STACK);
        if (pthread_attr_init(&how) || pthread_attr_setstack(&how, stacks[i], STACK) ||
            pthread_create(&thread[i], &how, run_task, &t[i]))
            puts("no thread in the test"), exit(2);
        pthread_attr_destroy(&how);
    }
    for (int i = 0; i < n; i++) {
        size_t unused = 0;
        pthread_join(thread[i], NULL);
        while (stacks[i][unused] == PAINT) unused++;
        const size_t used = (size_t)(t[i].top - stacks[i]) - unused;
        most_stack = used > most_stack ? used : most_stack;
    }
}

static mla_tensor wide(const void *bytes, mla_dtype dtype, int layout, int rows, int cols) {
    mla_tensor t = mla_view(bytes, dtype, rows, cols);
    t.layout = (mla_layout)layout;
    return t;
}
/* A model whose matrices are all of one format, and as wide as the widest blocks are long. What they say is chance. */
static void stack_of(mla_isa isa, mla_dtype dtype, int layout, mla_activations act, const unsigned char *bytes,
                     const float *ones) {
    mla_config c;
    mla_weights w;
    mla_layer_weights l[2];
    mla_mlp_weights experts[4];
    mla_error err;
    mla_model *m;
    mla_context *x;
    mla_cache *k;
    int tokens[WIDE_T];
    memset(&c, 0, sizeof c), memset(&w, 0, sizeof w), memset(l, 0, sizeof l), memset(experts, 0, sizeof experts);
    c.vocab_size = c.hidden_size = c.intermediate_size = c.moe_intermediate_size = c.q_lora_rank = c.kv_lora_rank =
        WIDE;
    c.num_hidden_layers = 2, c.num_attention_heads = 2, c.qk_nope_head_dim = c.qk_rope_head_dim = 32,
    c.v_head_dim = 128;
    c.n_routed_experts = 4, c.num_experts_per_tok = 2;
    w.embed = mla_view(ones, MLA_F32, WIDE, WIDE), w.head = wide(bytes, dtype, layout, WIDE, WIDE);
    w.norm.weight = mla_view(ones, MLA_F32, 1, WIDE), w.layers = l;
    for (int i = 0; i < 6; i++) {
        mla_mlp_weights *of = i < 4 ? &experts[i] : i < 5 ? &l[0].mlp : NULL;
        if (of) of->gate.weight = of->up.weight = of->down.weight = wide(bytes, dtype, layout, WIDE, WIDE);
    }
    for (int i = 0; i < 2; i++) {
        mla_attn_weights *a = &l[i].attn;
        l[i].attn_norm.weight = l[i].ffn_norm.weight = a->q_norm.weight = a->kv_norm.weight = w.norm.weight;
        a->q_a.weight = a->o.weight = wide(bytes, dtype, layout, WIDE, WIDE),
        a->q_b.weight = wide(bytes, dtype, layout, 128, WIDE);
        a->kv_a.weight = wide(bytes, dtype, layout, WIDE + 32, WIDE),
        a->kv_b.weight = wide(bytes, dtype, layout, 2 * (32 + 128), WIDE);
    }
    l[1].moe.router = mla_view(ones, MLA_F32, 4, WIDE), l[1].moe.experts = experts;
    for (int i = 0; i < WIDE_T; i++) tokens[i] = i;
    if (!CHECK(mla_model_create(&m, &c, &w, NULL, &err) == MLA_OK, "%s: %s", mla_dtype_name(dtype), err.text)) return;
    for (int path = 0; path < 2; path++) {
        const mla_context_desc d = {.max_tokens = WIDE_T,
                                    .threads = TASKS,
                                    .run = run_painted,
                                    .team = 1,
                                    .isa = isa,
                                    .activations = act,
                                    .attn = path ? MLA_ATTN_NAIVE : MLA_ATTN_ABSORBED};
        const mla_cache_desc kd = {.capacity = 2 * WIDE_T, .dtype = dtypes[(unsigned)dtype % 4]};
        if (mla_context_create(&x, m, &d, &err) || mla_cache_create(&k, m, &kd, &err))
            printf("%s\n", err.text), exit(2);
        for (int n = WIDE_T; n > 0; n = n > 1 ? 1 : 0) {
            mla_sequence q = {.cache = k, .n_tokens = n};
            CHECK(mla_model_forward(x, &q, 1, tokens, NULL) == MLA_OK, "%s", mla_context_error(x)->text);
        }
        mla_cache_destroy(k), mla_context_destroy(x);
    }
    mla_model_destroy(m);
}

/* No task uses more than mla.h says, whatever the instruction set, the format of the weights and the activations. */
static void test_stack(void) {
    const size_t bytes_of_weights = 4 * (WIDE + 64) * WIDE, limit = MLA_STACK;
    unsigned char *bytes = (unsigned char *)need(malloc(bytes_of_weights));
    float *ones = floats(WIDE * WIDE);
    test_rng r = {11};
    SECTION("stack");
    for (size_t i = 0; i < bytes_of_weights; i++) bytes[i] = (unsigned char)test_int(&r, 64);
    for (int i = 0; i < WIDE * WIDE; i++) ones[i] = 1 + (float)(i % 7) / 16;
    for (int i = 0; i < TASKS; i++) stacks[i] = (unsigned char *)need(malloc(STACK));
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++) {
        if (!mla_isa_available((mla_isa)isa)) continue;
        most_stack = 0;
        for (int t = 0; t < MLA_UE8M0; t++)
            for (int layout = 0; layout < 2; layout++)
                for (int act = MLA_ACT_F32; act < MLA_ACT_COUNT; act++) {
                    if (layout && (t < MLA_Q8 || t == MLA_Q2_K || t == MLA_Q3_K)) continue;
                    if (act == MLA_ACT_BF16 && isa != MLA_ISA_BF16 && isa != MLA_ISA_AMX) continue;
                    if (!test_all() && (t * 7 + layout * 3 + act + isa) % 16) continue;
                    stack_of((mla_isa)isa, (mla_dtype)t, layout, (mla_activations)act, bytes, ones);
                }
        printf("    %s: %d bytes\n", mla_isa_name((mla_isa)isa), (int)most_stack);
#ifdef __OPTIMIZE__
        CHECK(most_stack > 500 && most_stack <= limit, "%s: %d bytes of stack, and not %d at most",
              mla_isa_name((mla_isa)isa), (int)most_stack, (int)limit);
#endif
    }
    for (int i = 0; i < TASKS; i++) free(stacks[i]);
    free(bytes), free(ones);
}

/* A child has copies of a model and a cache, and may use them by a context that asks for none of the parent's threads. */
static void test_fork(void) {
    subject s;
    SECTION("fork");
    if (!subject_open(&s, "deepseek_v3", 0)) return;
    mla_context *c = context_of(&s, (mla_context_desc){.threads = 2}),
                *alone = context_of(&s, (mla_context_desc){.threads = 1});
    mla_cache *k = cache_of(s.model, MLA_F32, NULL);
    float *want = floats(2 * (size_t)s.V), *got = want + s.V;
    mla_sequence q = {.cache = k, .n_tokens = T};
    CHECK(mla_model_forward(c, &q, 1, s.tokens, NULL) == MLA_OK, "%s", mla_context_error(c)->text);
    q.n_tokens = q.n_logits = 1;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);
        if (mla_model_forward(alone, &q, 1, s.tokens, &(mla_outputs){.logits = got})) _exit(2);
        mla_cache_truncate(k, T, NULL);
        mla_context *fresh = context_of(&s, (mla_context_desc){.threads = 1});
        if (mla_model_forward(fresh, &q, 1, s.tokens, &(mla_outputs){.logits = want})) _exit(3);
        _exit(same(got, want, (size_t)s.V) && mla_cache_length(k) == T + 1 ? 0 : 4);
    }
    int status = -1;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0,
          "the child ended with %x", (unsigned)status);
    CHECK(mla_cache_length(k) == T && mla_model_forward(c, &q, 1, s.tokens, &(mla_outputs){.logits = want}) == MLA_OK,
          "the parent goes on");
    mla_cache_destroy(k), mla_context_destroy(c), mla_context_destroy(alone), subject_close(&s);
    free(want);
}
#endif

static void test_models(void) {
    static const struct {
        const char *what;
        void (*test)(const subject *s);
    } tests[] = {{"logits", test_logits},        {"embeddings", test_embeddings}, {"ranges of layers", test_ranges},
                 {"stages", test_stages},        {"routing", test_routing},       {"step by step", test_steps},
                 {"an end halfway", test_abort}, {"phases", test_phases}};
    for (size_t t = 0; t < sizeof tests / sizeof *tests; t++) {
        SECTION(tests[t].what);
        for (int i = 0; i < N_MODELS; i++) {
            subject s;
            if (subject_open(&s, names[i], 0)) tests[t].test(&s), subject_close(&s);
        }
    }
}

int main(void) {
    test_models();
    test_pages();
    static const char *const saved[] = {"deepseek_v3", "glm_moe_dsa"};
    for (int i = 0; i < 2; i++) {
        subject s;
        SECTION("saved caches");
        if (subject_open(&s, saved[i], i == 0)) test_saved(&s), test_damage(&s), subject_close(&s);
    }
    test_strangers();
#if HAS_POSIX
    test_fork();
    if (!SANITIZED) test_stack();
#endif
    return test_end();
}
