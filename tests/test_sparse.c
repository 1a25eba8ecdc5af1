/* test_sparse.c - sparse attention: what an indexer chooses and what is made of it, on every path and instruction set,
   against the reference of mla.h. Rows and keys are read back from the cache, so that the reference sees them as they
   were rounded; what is in them is checked apart. Where two scores are closer than f32 can tell, either may be chosen,
   and the token is left out; how many are not is counted. */

#define MLA_IMPLEMENTATION
#define MLA_REFERENCE
#include "guard.h"
#include "mla.h"
#include "test.h"

#include <stdlib.h>

/* ---- memory: everything lives until drop() ----------------------------------------------------------------------- */

static void *bag[1 << 14];
static int bag_n;

static void *hold(double count, size_t size) {
    void *p = calloc((size_t)count + 1, size);
    if (!p || bag_n == (int)(sizeof bag / sizeof *bag)) {
        puts("no memory for the test");
        exit(1);
    }
    return bag[bag_n++] = p;
}
#define HOLD(type, count) ((type *)hold((double)(count), sizeof(type)))

static void drop_to(int n) {
    while (bag_n > n) free(bag[--bag_n]);
}
static void drop(void) { drop_to(0); }

static mla_error error;

static void must(mla_result r, const char *text, int line) {
    if (r == MLA_OK) return;
    CHECK(0, "line %d: %s: %s", line, mla_result_name(r), text);
    printf("cannot go on\n%d passed, %d failed\n", test_passed, test_failed);
    exit(1);
}
#define MUST(call)             must((call), error.text, __LINE__)
#define MUST_IN(context, call) must((call), mla_context_error(context)->text, __LINE__)

static void refused(mla_result got, mla_result want, const char *text, const char *word, const char *more, int line) {
    CHECK(got == want, "line %d: %s instead of %s: %s", line, mla_result_name(got), mla_result_name(want), text);
    CHECK(got == MLA_OK || (strstr(text, word) && strstr(text, more)), "line %d: no \"%s\" and \"%s\" in: %s", line,
          word, more, text);
}
#define REFUSED(call, code, word, more) refused((call), code, error.text, word, more, __LINE__)
#define REFUSED_IN(context, call, code, word, more)                                                                    \
    refused((call), code, mla_context_error(context)->text, word, more, __LINE__)

#define FOR_ISA(isa)                                                                                                   \
    for (mla_isa isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa = (mla_isa)(isa + 1))                                  \
        if (TEST_ISA(isa))
#define FOR_PATH(path)                                                                                                 \
    for (mla_attn_path path = MLA_ATTN_AUTO; path < MLA_ATTN_PATH_COUNT; path = (mla_attn_path)(path + 1))
static const char *const path_names[MLA_ATTN_PATH_COUNT] = {"auto", "naive", "absorbed"};

/* ---- models ------------------------------------------------------------------------------------------------------ */

enum { MOST_LAYERS = 4 };

typedef struct subject {
    mla_config c;
    mla_layer_weights layers[MOST_LAYERS];
    mla_model *model;
} subject;

static mla_tensor tensor(test_rng *r, int rows, int cols, double deviation) {
    float *data = HOLD(float, (double)rows *cols);
    test_fill(r, data, (size_t)rows * (size_t)cols, (float)deviation);
    return mla_view(data, MLA_F32, rows, cols);
}
static mla_linear linear(test_rng *r, int out, int in) {
    mla_linear l;
    memset(&l, 0, sizeof l);
    l.weight = tensor(r, out, in, 1 / sqrt(in));
    return l;
}

static mla_config config(int L, int H, int Hi, int d, int P, int topk) {
    mla_config c;
    memset(&c, 0, sizeof c);
    c.hidden_size = 40, c.num_hidden_layers = L, c.num_attention_heads = H, c.q_lora_rank = 24, c.kv_lora_rank = 32;
    c.qk_nope_head_dim = 12, c.qk_rope_head_dim = P, c.v_head_dim = 20;
    c.index_n_heads = Hi, c.index_head_dim = d, c.index_topk = topk;
    return c;
}

/* full: a bit for each layer that has an indexer. */
static void subject_open(subject *s, const mla_config *c, unsigned full, uint64_t seed) {
    test_rng r = {seed};
    const int D = c->hidden_size, H = c->num_attention_heads, Q = c->q_lora_rank, R = c->kv_lora_rank,
              N = c->qk_nope_head_dim;
    const int P = c->qk_rope_head_dim, V = c->v_head_dim;
    mla_weights w;
    memset(s, 0, sizeof *s), memset(&w, 0, sizeof w);
    s->c = *c;
    for (int i = 0; i < c->num_hidden_layers; i++) {
        mla_attn_weights *a = &s->layers[i].attn;
        a->q_a = linear(&r, Q, D), a->q_b = linear(&r, H * (N + P), Q), a->kv_a = linear(&r, R + P, D),
        a->kv_b = linear(&r, H * (N + V), R);
        a->o = linear(&r, D, H * V), a->q_norm.weight = tensor(&r, 1, Q, 1), a->kv_norm.weight = tensor(&r, 1, R, 1);
        if (!(full >> i & 1)) continue;
        a->indexer.wq_b = linear(&r, c->index_n_heads * c->index_head_dim, Q),
        a->indexer.wk = linear(&r, c->index_head_dim, D);
        a->indexer.k_norm.weight = tensor(&r, 1, c->index_head_dim, 1),
        a->indexer.k_norm.bias = tensor(&r, 1, c->index_head_dim, 0.3);
        a->indexer.weights_proj = tensor(&r, c->index_n_heads, D, 1 / sqrt(D));
    }
    w.layers = s->layers;
    MUST(mla_model_create(&s->model, c, &w, NULL, &error));
}
static void subject_close(subject *s) {
    mla_model_destroy(s->model);
    drop();
}

static void run_backwards(void *user, int n, void (*task)(void *arg, int i), void *arg) {
    (void)user;
    while (n-- > 0) task(arg, n);
}
static mla_context *make_context(const mla_model *m, int max_tokens, int threads, mla_isa isa, mla_attn_path path) {
    mla_context_desc d;
    mla_context *x;
    memset(&d, 0, sizeof d);
    d.max_tokens = max_tokens, d.threads = threads, d.isa = isa, d.attn = path;
    d.activations = MLA_ACT_F32, d.run = run_backwards;
    MUST(mla_context_create(&x, m, &d, &error));
    return x;
}
static mla_cache *make_cache(const mla_model *m, int capacity, mla_dtype dtype, mla_dtype index_dtype, mla_pool *pool) {
    mla_cache_desc d;
    mla_cache *k;
    memset(&d, 0, sizeof d);
    d.capacity = capacity, d.dtype = dtype, d.index_dtype = index_dtype, d.pool = pool;
    MUST(mla_cache_create(&k, m, &d, &error));
    return k;
}
static mla_sequence sequence(mla_cache *k, int n) {
    mla_sequence s;
    memset(&s, 0, sizeof s);
    s.cache = k, s.n_tokens = n;
    return s;
}

/* All layers, each with x [T, D] of its own, in calls of `chunk` tokens -> y [L, T, D]; x is [L, T, D] too. */
static void run_layers(mla_context *context, mla_cache *k, int L, const float *x, float *y, int T, int D, int chunk) {
    for (int t = 0, n; t < T; t += n) {
        n = T - t < chunk ? T - t : chunk;
        mla_sequence s = sequence(k, n);
        for (int l = 0; l < L; l++)
            MUST_IN(context, mla_attn_forward(context, l, y + (l * T + t) * D, x + (l * T + t) * D, &s, 1));
    }
}

/* ---- the reference ----------------------------------------------------------------------------------------------- */

static double *doubles(const float *x, int n) {
    double *y = HOLD(double, n);
    for (int i = 0; i < n; i++) y[i] = (double)x[i];
    return y;
}

/* An indexer's queries q [Hi, d] and their weights [Hi], but for their common factor. */
static void index_query(double *q, double *weight, const subject *s, const mla_attn_weights *w, const double *x,
                        int position) {
    const mla_config *c = mla_model_config(s->model);
    const int mark = bag_n;
    double *cq = HOLD(double, c->q_lora_rank);
    mla_linear proj;
    memset(&proj, 0, sizeof proj);
    proj.weight = w->indexer.weights_proj;
    mla__linear_ref(cq, &w->q_a, x), mla__norm_ref(cq, c->q_lora_rank, &c->q_norm, &w->q_norm);
    mla__linear_ref(q, &w->indexer.wq_b, cq), mla__linear_ref(weight, &proj, x);
    for (int h = 0; h < c->index_n_heads; h++)
        mla__rope_ref(q + h * c->index_head_dim + (c->index_rope_last ? c->index_head_dim - c->qk_rope_head_dim : 0),
                      s->model, c->index_rope, position);
    drop_to(mark);
}

/* Could rounding choose otherwise for the token at `position`? score [n] and mask [n] are the reference's, keys [n, d]
   what it has scored. */
static int is_sure(const subject *s, const mla_attn_weights *w, const double *x, int position, const double *keys,
                   const double *score, const double *mask, int n) {
    const mla_config *c = mla_model_config(s->model);
    const int Hi = c->index_n_heads, d = c->index_head_dim, mark = bag_n;
    double *q = HOLD(double, Hi *d), *weight = HOLD(double, Hi), *off = HOLD(double, n);
    int sure = 1;
    index_query(q, weight, s, w, x, position);
    for (int u = 0; u < n; u++) /* the error of a score; none where no head's product may be above 0 */
        for (int h = 0; h < Hi; h++) {
            double sum = 0;
            for (int i = 0; i < d; i++) sum += fabs(q[h * d + i] * keys[u * d + i]);
            if (mla__dot_ref(q + h * d, keys + u * d, d) > -2e-5 * sum)
                off[u] += 2e-5 * fabs(weight[h]) * sum / sqrt((double)Hi * d);
        }
    for (int u = 0; u < n; u++)
        for (int v = 0; v < n && !isinf(mask[u]); v++) { /* u is chosen, v is not, though it may be */
            if (!isinf(mask[v]) || isinf(score[v])) continue;
            const int tie = off[u] == 0 && off[v] == 0 && score[u] >= score[v] && score[u] <= score[v] && u < v;
            if (!tie && !(score[u] - off[u] > score[v] + off[v])) sure = 0;
        }
    drop_to(mark);
    return sure;
}

static float far_off(const float *got, const double *want,
                     int n) { /* largest difference, relative to the largest value */
    double worst = 0, largest = 1e-30;
    for (int i = 0; i < n; i++) {
        const double e = fabs((double)got[i] - want[i]);
        if (!(e <= worst)) worst = e;
        if (fabs(want[i]) > largest) largest = fabs(want[i]);
    }
    return (float)(worst / largest);
}

/* ---- against the reference --------------------------------------------------------------------------------------- */

typedef struct trial {
    const char *name;
    int H, Hi, d, P, topk, T;
    mla_rope_layout rope, index_rope;
    mla_dtype dtype, index_dtype;
    int mask; /* 0 causal, 1 none, 2 the caller's */
    int last; /* index_rope_last */
} trial;

static int tokens_sure, tokens_all;

/* Two layers, the second uses the first one's choice; the tokens of the last call (all, or those after `before`) by
 * every path and ISA. */
static void reference_case(const trial *k, int before) {
    mla_config c = config(2, k->H, k->Hi, k->d, k->P, k->topk);
    const int D = c.hidden_size, T = k->T, n = T - before, W = c.kv_lora_rank + k->P, d = k->d;
    c.index_rope_last = k->last, c.index_norm_eps = k->last ? 0.1f : 0;
    c.rope.layout = k->rope, c.index_rope = k->index_rope, c.mask = k->mask == 1 ? MLA_MASK_NONE : MLA_MASK_CAUSAL;
    subject s;
    test_rng r = {(uint64_t)(k->H * 1000 + k->T * 7 + k->topk)};
    subject_open(&s, &c, 1, 5 + (uint64_t)k->Hi);
    float *x = HOLD(float, 2 * T * D), *y = HOLD(float, 2 * T * D), *one = HOLD(float, 2 * n * D),
          *row = HOLD(float, W + d), *mask = NULL;
    float *probs = HOLD(float, n * k->H * T);
    test_fill(&r, x, (size_t)(2 * T * D), 1);
    if (k->mask == 2) {
        mask = HOLD(float, n *T);
        for (int t = 0; t < n; t++)
            for (int u = 0; u < T; u++)
                mask[t * T + u] = t == n - 1 || test_int(&r, 3) == 0 || (t == 1 && u > 3) ? -INFINITY
                                  : test_int(&r, 2)                                       ? 0
                                                                                          : 0.3f * test_gauss(&r);
    }
    double *xd = doubles(x, 2 * T * D), *rows[2] = {HOLD(double, T *W), HOLD(double, T *W)}, *keys = HOLD(double, T *d),
           *want = HOLD(double, 2 * n * D);
    double *want_probs = HOLD(double, n * k->H * T), *key = HOLD(double, d), *seen = HOLD(double, T),
           *score = HOLD(double, T);
    unsigned char *chosen = HOLD(unsigned char, n *T), *sure = HOLD(unsigned char, n);
    int first = 1;
    mla_cache *base = make_cache(s.model, T, k->dtype, k->index_dtype, NULL); /* what all begin with */
    mla_context *filler = make_context(s.model, T, 1, MLA_ISA_AUTO, MLA_ATTN_AUTO);
    if (before > 0) {
        mla_sequence q = sequence(base, before);
        for (int l = 0; l < 2; l++) MUST_IN(filler, mla_attn_forward(filler, l, y + l * T * D, x + l * T * D, &q, 1));
    }
    mla_context_destroy(filler);
    FOR_ISA(isa) FOR_PATH(path) {
        int fresh = first || k->dtype != MLA_F32 ||
                    k->index_dtype != MLA_F32; /* what was nearly halfway may be rounded the other way */
        mla_context *context = make_context(s.model, T, 3, isa, path), *single = make_context(s.model, T, 1, isa, path);
        mla_cache *cache = make_cache(s.model, T, k->dtype, k->index_dtype, NULL);
        char way[200];
        MUST(mla_cache_fork(cache, base, &error));
        snprintf(way, sizeof way, "%s, %s, %s", k->name, mla_isa_name(isa), path_names[path]);
        for (int pass = 0; pass < 2; pass++) { /* without probabilities and with */
            mla_context *in = pass ? single : context;
            mla_sequence q = sequence(cache, n);
            q.mask = mask, q.probs = pass ? probs : NULL;
            for (int l = 0; l < 2; l++)
                MUST_IN(in, mla_attn_forward(in, l, y + (l * T + before) * D, x + (l * T + before) * D, &q, 1));
            if (fresh) { /* what is in the cache, and what is chosen of it */
                first = fresh = 0;
                for (int u = 0; u < T; u++)
                    for (int l = 0; l < 2; l++) {
                        MUST(mla_cache_read(cache, l, u, row, &error));
                        for (int i = 0; i < W; i++) rows[l][u * W + i] = (double)row[i];
                        for (int i = 0; i < d && l == 0; i++) keys[u * d + i] = (double)row[W + i];
                        if (l) continue;
                        mla__key_ref(key, s.model, &s.layers[0].attn.indexer, xd + u * D, u);
                        const float e = far_off(row + W, key, d), bound = k->index_dtype == MLA_F32   ? 1e-5f
                                                                          : k->index_dtype == MLA_F16 ? 1e-3f
                                                                                                      : 8e-3f;
                        CHECK(e <= bound, "%s: index key %d is %.1e off", way, u, (double)e);
                    }
                for (int t = 0; t < n; t++) {
                    const int at = before + t;
                    for (int u = 0; u < T; u++)
                        seen[u] = mask ? (double)mask[t * T + u] : u > at && k->mask == 0 ? -(double)INFINITY : 0;
                    for (int l = 0; l < 2; l++)
                        mla__attention_ref(want + (l * n + t) * D, want_probs + t * k->H * T, score, s.model,
                                           &s.layers[l].attn, xd + (l * T + at) * D, rows[l], keys, seen, at, T,
                                           T > 200);
                    for (int u = 0; u < T; u++) chosen[t * T + u] = isinf(seen[u]) ? 0 : 1;
                    sure[t] = (unsigned char)is_sure(&s, &s.layers[0].attn, xd + at * D, at, keys, score, seen, T);
                    tokens_sure += sure[t], tokens_all++;
                }
            }
            for (int l = 0; l < 2; l++)
                for (int t = 0; t < n; t++) {
                    int some = 0;
                    for (int u = 0; u < T; u++) some |= chosen[t * T + u];
                    const float *got = y + (l * T + before + t) * D;
                    if (!some) { /* hidden from all keys */
                        CHECK(test_max_abs(got, (size_t)D) == 0, "%s: token %d sees nothing and gets %g", way, t,
                              (double)test_max_abs(got, (size_t)D));
                        continue;
                    }
                    if (!sure[t]) continue;
                    float e = far_off(got, want + (l * n + t) * D, D);
                    CHECK(e <= 3e-5f, "%s: layer %d, token %d is %.1e off%s", way, l, t, (double)e,
                          pass ? ", with probabilities" : "");
                    if (!pass || l == 0) continue;
                    int stray = 0;
                    e = far_off(probs + t * k->H * T, want_probs + t * k->H * T, k->H * T);
                    CHECK(e <= 3e-5f, "%s: probabilities of token %d are %.1e off", way, t, (double)e);
                    for (int u = 0; u < k->H * T; u++) stray += !chosen[t * T + u % T] && probs[t * k->H * T + u] != 0;
                    CHECK(stray == 0, "%s: token %d has %d probabilities above 0 for keys not chosen", way, t, stray);
                }
            if (pass == 0) {
                for (int l = 0; l < 2; l++)
                    memcpy(one + l * n * D, y + (l * T + before) * D, (size_t)(n * D) * sizeof *one);
            } else {
                /* one thread instead of three; the absorbed path with probabilities does not cut the context into
                 * pieces */
                for (int l = 0; l < 2 && path == MLA_ATTN_NAIVE; l++)
                    CHECK(!memcmp(one + l * n * D, y + (l * T + before) * D, (size_t)(n * D) * sizeof *one),
                          "%s: layer %d, one thread", way, l);
            }
            MUST(mla_cache_truncate(cache, before, &error));
        }
        mla_cache_destroy(cache);
        mla_context_destroy(context), mla_context_destroy(single);
    }
    mla_cache_destroy(base);
    subject_close(&s);
}

static void test_reference(void) {
    static const trial trials[] = {
        {"one token at a time may choose one", 3, 4, 16, 8, 1, 40, MLA_ROPE_PAIR, MLA_ROPE_HALF, MLA_F32, MLA_F32, 0,
         0},
        {"a plain case", 3, 4, 16, 8, 9, 60, MLA_ROPE_PAIR, MLA_ROPE_HALF, MLA_F32, MLA_F32, 0, 0},
        {"ropes the other way round", 2, 5, 12, 6, 17, 70, MLA_ROPE_HALF, MLA_ROPE_PAIR, MLA_F32, MLA_F32, 0, 0},
        {"the last channels turn", 3, 5, 14, 6, 9, 60, MLA_ROPE_PAIR, MLA_ROPE_HALF, MLA_F32, MLA_F32, 0, 1},
        {"no rope", 2, 3, 9, 0, 10, 50, MLA_ROPE_NONE, MLA_ROPE_HALF, MLA_F32, MLA_F32, 0, 0},
        {"one head: many scores are 0", 1, 1, 8, 4, 30, 90, MLA_ROPE_PAIR, MLA_ROPE_PAIR, MLA_F32, MLA_F32, 0, 0},
        {"two heads", 2, 2, 10, 4, 40, 80, MLA_ROPE_PAIR, MLA_ROPE_NONE, MLA_F32, MLA_F32, 0, 0},
        {"more heads than lanes", 19, 35, 20, 20, 33, 75, MLA_ROPE_PAIR, MLA_ROPE_HALF, MLA_F32, MLA_F32, 0, 0},
        {"bf16 and q8", 4, 6, 32, 8, 21, 100, MLA_ROPE_PAIR, MLA_ROPE_HALF, MLA_BF16, MLA_Q8, 0, 0},
        {"f16 and bf16", 4, 6, 18, 8, 21, 100, MLA_ROPE_PAIR, MLA_ROPE_HALF, MLA_F16, MLA_BF16, 0, 0},
        {"f32 and f16", 4, 6, 18, 8, 21, 100, MLA_ROPE_PAIR, MLA_ROPE_HALF, MLA_F32, MLA_F16, 0, 0},
        {"no mask", 3, 4, 16, 8, 13, 45, MLA_ROPE_PAIR, MLA_ROPE_HALF, MLA_F32, MLA_F32, 1, 0},
        {"the caller's mask", 3, 4, 16, 8, 11, 64, MLA_ROPE_PAIR, MLA_ROPE_HALF, MLA_F32, MLA_F32, 2, 0},
        {"the caller's mask leaves less than may be chosen", 3, 4, 16, 8, 50, 64, MLA_ROPE_PAIR, MLA_ROPE_HALF, MLA_F32,
         MLA_F32, 2, 0},
        {"many heads", 130, 3, 16, 8, 20, 34, MLA_ROPE_PAIR, MLA_ROPE_HALF, MLA_F32, MLA_F32, 0, 0}};
    SECTION("against the reference");
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++) {
        if (trials[i].mask != 2) reference_case(&trials[i], 0);
        reference_case(&trials[i], trials[i].T - 3);
        reference_case(&trials[i], trials[i].T / 2);
    }
    static const trial long_ones[] = {
        {"long", 3, 4, 16, 8, 600, 1500, MLA_ROPE_PAIR, MLA_ROPE_HALF, MLA_F32, MLA_F32, 0, 0},
        {"long, with the caller's mask", 2, 4, 16, 8, 700, 1400, MLA_ROPE_PAIR, MLA_ROPE_HALF, MLA_F32, MLA_BF16, 2, 0},
        {"long, one head", 2, 1, 8, 4, 900, 1700, MLA_ROPE_PAIR, MLA_ROPE_HALF, MLA_BF16, MLA_F32, 0, 0}};
    for (size_t i = 0; i < sizeof long_ones / sizeof *long_ones; i++) {
        reference_case(&long_ones[i], long_ones[i].T - 1);
        reference_case(&long_ones[i], long_ones[i].T - 3);
    }
    CHECK(tokens_sure > tokens_all * 9 / 10, "the reference is sure of %d choices of %d only", tokens_sure, tokens_all);
}

/* ---- nothing to choose ------------------------------------------------------------------------------------------- */

/* index_topk at least the length: as if there was none, bit for bit; and one less is not. */
static void test_dense(void) {
    enum { L = 3, T = 150 };
    SECTION("no more keys than may be chosen");
    FOR_ISA(isa) FOR_PATH(path) for (int chunk = T; chunk > 0; chunk /= 6) {
        float *y[4];
        for (int i = 0; i < 4; i++) { /* dense, enough, plenty, one less */
            static const int topk[] = {0, T, 4096, T - 1};
            const mla_config c = config(L, 5, 4, 16, 8, topk[i]);
            const int D = c.hidden_size;
            test_rng r = {9};
            subject s;
            y[i] = (float *)malloc(sizeof(float) * (size_t)(L * T * D));
            subject_open(&s, &c, 5, 3); /* the same weights each time; the second layer shares */
            float *x = HOLD(float, L *T *D);
            test_fill(&r, x, (size_t)(L * T * D), 1);
            mla_context *context = make_context(s.model, T, 2, isa, path);
            mla_cache *k = make_cache(s.model, T, MLA_F32, MLA_F32, NULL);
            run_layers(context, k, L, x, y[i], T, D, chunk);
            mla_cache_destroy(k), mla_context_destroy(context);
            subject_close(&s);
        }
        const size_t n = sizeof(float) * 40 * L * T;
        CHECK(!memcmp(y[0], y[1], n) && !memcmp(y[0], y[2], n), "%s, %s, chunks of %d: not as dense attention",
              mla_isa_name(isa), path_names[path], chunk);
        for (int l = 0; l < L; l++) {
            const size_t last = (size_t)(l * T + T - 1) * 40;
            CHECK(!memcmp(y[0] + l * T * 40, y[3] + l * T * 40, last * 4 - (size_t)l * T * 160) ||
                      path == MLA_ATTN_AUTO || chunk == T,
                  "%s, %s, chunks of %d: tokens before the last, layer %d", mla_isa_name(isa), path_names[path], chunk,
                  l);
            CHECK(memcmp(y[0] + last, y[3] + last, 160),
                  "%s, %s, chunks of %d: the last token does without a key, unnoticed", mla_isa_name(isa),
                  path_names[path], chunk);
        }
        for (int i = 0; i < 4; i++) free(y[i]);
    }
}

/* ---- ways of cutting, caches, threads ---------------------------------------------------------------------------- */

/* T tokens through four layers, of which the first and the third choose. */
static void test_ways(void) {
    enum { L = 4, T = 200, TOPK = 40, PAGES = 12 };
    const mla_config c = config(L, 6, 5, 32, 8, TOPK);
    const int D = c.hidden_size, W = 40, d = 32;
    const size_t bytes = sizeof(float) * (size_t)(L * T * D);
    SECTION("chunks, pages, forks, threads");
    FOR_ISA(isa) FOR_PATH(path) {
        subject s;
        test_rng r = {11};
        mla_pool *pool;
        char way[64];
        snprintf(way, sizeof way, "%s, %s", mla_isa_name(isa), path_names[path]);
        subject_open(&s, &c, 5, 21);
        float *x = HOLD(float, L *T *D), *one = HOLD(float, L *T *D), *y = HOLD(float, L *T *D),
              *row = HOLD(float, W + d), *other = HOLD(float, W + d);
        test_fill(&r, x, (size_t)(L * T * D), 1);
        mla_context *context = make_context(s.model, T, 1, isa, path);
        mla_cache *k = make_cache(s.model, T, MLA_F32, MLA_F32, NULL);
        run_layers(context, k, L, x, one, T, D, T);
        for (int chunk = 1; chunk < T;
             chunk = chunk * 3 + 1) { /* agree to rounding, and so choose the same where no two scores nearly do */
            mla_cache_reset(k);
            run_layers(context, k, L, x, y, T, D, chunk);
            const float e = test_rel_err(y, one, (size_t)(L * T * D));
            CHECK(e <= 1e-5f, "%s: chunks of %d: %.1e from one call", way, chunk, (double)e);
        }
        for (int threads = 2; threads < 9; threads += 3) {
            mla_context *many = make_context(s.model, T, threads, isa, path);
            for (int chunk = T; chunk > 0; chunk = chunk == T ? 60 : 0) {
                mla_cache_reset(k);
                run_layers(context, k, L, x, one, T, D, chunk);
                mla_cache_reset(k);
                run_layers(many, k, L, x, y, T, D, chunk);
                CHECK(!memcmp(y, one, bytes), "%s: %d threads, chunks of %d: not bit-identical to one", way, threads,
                      chunk);
            }
            mla_context_destroy(many);
        }
        /* pages, of every dtype, against a contiguous cache; a fork that goes on otherwise; truncated and run again */
        static const mla_dtype dtypes[][2] = {
            {MLA_F32, MLA_F32}, {MLA_BF16, MLA_Q8}, {MLA_Q8, MLA_BF16}, {MLA_F16, MLA_F16}};
        for (int i = 0; i < 4; i++) {
            MUST(mla_pool_create(&pool, s.model,
                                 &(mla_pool_desc){.n_pages = PAGES,
                                                  .dtype = dtypes[i][0] == MLA_Q8 ? MLA_BF16 : dtypes[i][0],
                                                  .index_dtype = dtypes[i][1]},
                                 &error));
            mla_cache *plain =
                make_cache(s.model, T, dtypes[i][0] == MLA_Q8 ? MLA_BF16 : dtypes[i][0], dtypes[i][1], NULL);
            mla_cache *a = make_cache(s.model, T, MLA_F32, MLA_F32, pool),
                      *b = make_cache(s.model, T, MLA_F32, MLA_F32, pool);
            run_layers(context, plain, L, x, one, T, D, 50);
            run_layers(context, a, L, x, y, T, D, 50);
            CHECK(!memcmp(y, one, bytes), "%s, %s and %s: pages are not the same as none", way,
                  mla_dtype_name(dtypes[i][0]), mla_dtype_name(dtypes[i][1]));
            int wrong = 0;
            for (int l = 0; l < L; l++)
                for (int u = 0; u < T; u += 7) {
                    const size_t width = (size_t)(W + (l % 2 ? 0 : d)) * sizeof *row;
                    row[W] = other[W] = -77; /* stays in layers without indexer */
                    MUST(mla_cache_read(plain, l, u, row, &error));
                    MUST(mla_cache_read(a, l, u, other, &error));
                    wrong += memcmp(row, other, width) != 0 || (l % 2 && row[W] != -77);
                }
            CHECK(wrong == 0, "%s: %d rows differ", way, wrong);
            MUST(mla_cache_truncate(a, 100, &error));
            MUST(mla_cache_fork(b, a, &error));
            const int before = mla_pool_free_pages(pool);
            for (int which = 0; which < 2;
                 which++) { /* both go on from 100, the fork with other tokens: its first 50 are those at 0 */
                mla_cache *cache = which ? a : b;
                mla_sequence q = sequence(cache, 50);
                for (int l = 0; l < L; l++)
                    MUST_IN(context, mla_attn_forward(context, l, y + (l * T + 100) * D,
                                                      x + (l * T + (which ? 100 : 0)) * D, &q, 1));
            }
            CHECK(mla_pool_free_pages(pool) < before, "%s: no page was copied", way);
            wrong = 0;
            for (int l = 0; l < L; l++)
                wrong += memcmp(y + (l * T + 100) * D, one + (l * T + 100) * D, sizeof *y * (size_t)(50 * D)) != 0;
            CHECK(wrong == 0, "%s: %d layers are changed by what a fork does", way, wrong);
            mla_cache *copy =
                make_cache(s.model, T, dtypes[i][0] == MLA_Q8 ? MLA_BF16 : dtypes[i][0], dtypes[i][1], NULL);
            MUST(mla_cache_fork(copy, b, &error)); /* out of the pool: copied */
            mla_cache_destroy(b);
            MUST(mla_cache_truncate(plain, 100, &error));
            mla_sequence q = sequence(plain, 50), p = sequence(copy, 30), both[2];
            for (int l = 0; l < L; l++)
                MUST_IN(context, mla_attn_forward(context, l, y + l * T * D, x + l * T * D, &q, 1));
            for (int u = 0; u < 150; u += 7) {
                MUST(mla_cache_read(plain, 2, u, row, &error));
                MUST(mla_cache_read(copy, 2, u, other, &error));
                CHECK(!memcmp(row, other, (size_t)(W + d) * sizeof *row), "%s: row %d of a fork", way, u);
            }
            /* two sequences in one call against one after the other */
            both[0] = sequence(plain, 30), both[1] = p;
            for (int l = 0; l < L; l++) {
                float *xx = HOLD(float, 60 * D), *yy = HOLD(float, 60 * D);
                for (int j = 0; j < 2; j++)
                    memcpy(xx + j * 30 * D, x + (l * T + 150) * D, sizeof *xx * (size_t)(30 * D));
                MUST_IN(context, mla_attn_forward(context, l, yy, xx, both, 2));
                CHECK(!memcmp(yy, yy + 30 * D, sizeof *yy * (size_t)(30 * D)), "%s: layer %d, twins in a batch differ",
                      way, l);
            }
            mla_cache_destroy(a), mla_cache_destroy(plain), mla_cache_destroy(copy);
            CHECK(mla_pool_free_pages(pool) == PAGES, "%s: pages are missing", way);
            mla_pool_destroy(pool);
        }
        mla_cache_destroy(k), mla_context_destroy(context);
        subject_close(&s);
    }
}

/* Rows that are not chosen are not read: they hold NaN. Index keys say which those are: the head looks for the first
 * value. */
static void test_reads(void) {
    enum { T = 300, TOPK = 20 };
    mla_config c = config(1, 5, 1, 8, 0, TOPK);
    const int D = c.hidden_size, W = c.kv_lora_rank;
    subject s;
    test_rng r = {4};
    SECTION("only rows that are chosen are read");
    subject_open(&s, &c, 1, 8);
    float *x = HOLD(float, D), *y = HOLD(float, D), *first = HOLD(float, D), *row = HOLD(float, (W + 8) * T);
    test_fill(&r, x, (size_t)D, 1);
    /* queries and weights of this x: key u is sign * q * u, so that later keys score higher, but every 16th
     * only */
    double *q = HOLD(double, 8), weight;
    index_query(q, &weight, &s, &s.layers[0].attn, doubles(x, D), T);
    FOR_ISA(isa) FOR_PATH(path) for (int poisoned = 0; poisoned < 2; poisoned++) {
        mla_context *context = make_context(s.model, 1, 2, isa, path);
        mla_cache *k = make_cache(s.model, T + 1, MLA_F32, MLA_F32, NULL);
        test_rng again = {6};
        for (int u = 0; u < T; u++)
            for (int i = 0; i < W + 8; i++) {
                const int good = u % 16 == 3; /* 19 of them; the token itself makes 20, or a row with score 0 does */
                const float f = test_gauss(&again);
                row[u * (W + 8) + i] = i >= W ? (good ? 1000.0f : 0.0f) * (float)(weight > 0 ? q[i - W] : -q[i - W])
                                       : good || !poisoned || u == 0 ? f
                                                                     : (float)NAN;
            }
        if (weight < 0) /* all scores are 0 or below, and 0 it is where q.k < 0: then the good ones must be those not
                           turned away */
            for (int u = 0; u < T; u++)
                for (int i = W; i < W + 8; i++)
                    row[u * (W + 8) + i] = (float)q[i - W] * (u % 16 == 3 ? -1000.0f : 1000.0f);
        MUST(mla_cache_append(k, T, row, &error));
        mla_sequence q1 = sequence(k, 1);
        MUST_IN(context, mla_attn_forward(context, 0, y, x, &q1, 1));
        CHECK(test_max_abs(y, (size_t)D) < 1e3f, "%s, %s: %g out of rows that nobody chose", mla_isa_name(isa),
              path_names[path], (double)test_max_abs(y, (size_t)D));
        if (!poisoned) memcpy(first, y, sizeof *y * (size_t)D);
        else
            CHECK(!memcmp(first, y, sizeof *y * (size_t)D), "%s, %s: rows that nobody chose change something",
                  mla_isa_name(isa), path_names[path]);
        mla_cache_destroy(k), mla_context_destroy(context);
    }
    subject_close(&s);
}

/* ---- a first glance ---------------------------------------------------------------------------------------------- */

/* What the index keys of a cache are: as indexers make them; of few directions, so that many scores are equal; some
   very short, long, or both; one that holds no number, in the middle. */
enum { PLAIN, EQUAL, SHORT, LONG, SHORT_AND_LONG, HOSTILE, KEYS };
static const char *const key_names[KEYS] = {"plain", "equal", "short", "long", "short and long", "hostile"};
static void glance_keys(float *row, int T, int width, int d, int kind) {
    test_rng r = {11};
    float *few = HOLD(float, 5 * d);
    test_fill(&r, row, (size_t)T * (size_t)width, 1);
    test_fill(&r, few, (size_t)(5 * d), 1);
    for (int u = 0; u < T; u++) {
        float *key = row + u * width + width - d;
        const float by = (kind == SHORT || kind == SHORT_AND_LONG) && u % 3 == 0  ? 1e-18f
                         : (kind == LONG || kind == SHORT_AND_LONG) && u % 7 == 0 ? 300.0f
                                                                                  : 1.0f;
        if (kind == EQUAL) memcpy(key, few + u % 5 * d, (size_t)d * sizeof *key);
        for (int i = 0; i < d; i++) key[i] *= by;
    }
    if (kind == HOSTILE) row[T / 2 * width + width - 1] = (float)NAN, row[(T - 1) * width - 2] = INFINITY;
}

/* n tokens after those of the cache: by f32 products alone, as AVX512 has them, y and the choice; and by an ISA with a
   first glance the same, bit for bit. */
static void glance_case(const subject *s, mla_cache *cache, int n, int T, const char *what) {
    const int D = s->c.hidden_size, H = s->c.num_attention_heads;
    const size_t n_probs = (size_t)n * (size_t)H * (size_t)(T + n);
    float *x = HOLD(float, n *D), *y = HOLD(float, n *D), *z = HOLD(float, n *D), *probs = HOLD(float, n_probs),
          *others = HOLD(float, n_probs);
    test_rng r = {9};
    test_fill(&r, x, (size_t)(n * D), 1);
    for (mla_isa isa = MLA_ISA_AVX512; isa <= MLA_ISA_AMX; isa = (mla_isa)(isa + 1)) {
        if (!mla_isa_available(isa)) continue;
        const int first = isa == MLA_ISA_AVX512;
        mla_context *c = make_context(s->model, n, 2, isa, MLA_ATTN_AUTO);
        mla_sequence q = sequence(cache, n);
        for (int pass = 0; pass < 2; pass++) {
            q.probs = pass ? first ? probs : others : NULL;
            MUST_IN(c, mla_attn_forward(c, 0, first ? y : z, x, &q, 1));
            MUST(mla_cache_truncate(cache, T, &error));
        }
        mla_context_destroy(c);
        int chosen = 0, differ = 0;
        for (size_t i = 0; i < n_probs; i++) chosen += probs[i] > 0, differ += (probs[i] > 0) != (others[i] > 0);
        CHECK(chosen > n * s->c.index_topk / 2, "%s: %d probabilities", what, chosen);
        if (first) continue;
        CHECK(differ == 0, "%s, %s: of %d chosen keys %d differ", what, mla_isa_name(isa), chosen, differ);
        CHECK(!memcmp(y, z, (size_t)(n * D) * sizeof *y) && !memcmp(probs, others, n_probs * sizeof *probs),
              "%s, %s: other bits", what, mla_isa_name(isa));
    }
}

/* V3.2's indexer (64 heads of 128) over some thousand keys, in pieces and not: where most keys get a first glance only,
   the choice is that of f32 products, key by key. */
static void test_glance(void) {
    static const mla_dtype dtypes[] = {MLA_BF16, MLA_Q8, MLA_F32, MLA_F16};
    const int T = test_all() ? 20000 : 4000, n_dtypes = test_all() ? 4 : 2;
    const mla_config c = config(1, 2, 64, 128, 8, 500);
    const int W = c.kv_lora_rank + c.qk_rope_head_dim + c.index_head_dim;
    subject s;
    SECTION("a first glance at keys changes no choice");
    if (!mla_isa_available(MLA_ISA_VNNI)) {
        puts("no VNNI here: left out");
        return;
    }
    subject_open(&s, &c, 1, 17);
    float *row = HOLD(float, (double)T *W);
    for (int kind = 0; kind < KEYS; kind++) {
        glance_keys(row, T, W, c.index_head_dim, kind);
        for (int t = 0; t < n_dtypes; t++)
            for (int n = 1; n <= 33; n += 32) { /* in pieces, and each token's keys at once */
                char what[100];
                const int mark = bag_n;
                mla_cache *cache = make_cache(s.model, T + n, MLA_F32, dtypes[t], NULL);
                MUST(mla_cache_append(cache, T, row, &error));
                snprintf(what, sizeof what, "%s keys, %s, %d tokens", key_names[kind], mla_dtype_name(dtypes[t]), n);
                glance_case(&s, cache, n, T, what);
                mla_cache_destroy(cache);
                drop_to(mark);
            }
    }
    subject_close(&s);
}

/* ---- hostile values ---------------------------------------------------------------------------------------------- */

/* An indexer that gives no numbers: the first keys are chosen, and the answer is a number. */
static void test_hostile_values(void) {
    enum { T = 90, TOPK = 10 };
    static const float bad[] = {(float)NAN, INFINITY, -INFINITY, 3e38f};
    SECTION("indexers gone mad");
    FOR_ISA(isa) FOR_PATH(path) for (int which = 0; which < 5; which++) for (int v = 0; v < 4; v++) {
        const mla_config c = config(2, 3, 4, 16, 8, TOPK);
        const int D = c.hidden_size;
        subject s;
        test_rng r = {2};
        subject_open(&s, &c, 1, 13);
        mla_indexer_weights *w = &s.layers[0].attn.indexer;
        const mla_tensor *t[] = {&w->wq_b.weight, &w->wk.weight, &w->k_norm.weight, &w->k_norm.bias, &w->weights_proj};
        float *data = (float *)(uintptr_t)t[which]->data;
        for (int i = 0; i < t[which]->rows * t[which]->cols; i++) data[i] = bad[v];
        float *x = HOLD(float, 2 * T * D), *y = HOLD(float, 2 * T * D);
        test_fill(&r, x, (size_t)(2 * T * D), 1);
        mla_context *context = make_context(s.model, T, 2, isa, path);
        mla_cache *k = make_cache(s.model, T, MLA_F32, MLA_F32, NULL);
        run_layers(context, k, 2, x, y, T, D, 45);
        const float m = test_max_abs(y, (size_t)(2 * T * D));
        CHECK(m > 0 && m < 1e3f, "%s, %s, tensor %d of %g: %g", mla_isa_name(isa), path_names[path], which,
              (double)bad[v], (double)m);
        if (v == 0) { /* NaN everywhere: the first TOPK keys */
            int wrong = 0;
            float probs[3 * T];
            mla_sequence next = sequence(k, 1);
            next.probs = probs;
            MUST(mla_cache_truncate(k, T - 1, &error));
            MUST_IN(context, mla_attn_forward(context, 0, y, x, &next, 1));
            for (int i = 0; i < 3 * T; i++) wrong += (probs[i] > 0) != (i % T < TOPK);
            CHECK(wrong == 0, "%s, %s, tensor %d: %d keys but the first were chosen, or not these", mla_isa_name(isa),
                  path_names[path], which, wrong);
        }
        mla_cache_destroy(k), mla_context_destroy(context);
        subject_close(&s);
    }
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

static void *give_little(void *user, size_t bytes) {
    (void)user;
    return bytes < (size_t)1 << 30 ? malloc(bytes) : NULL;
}
static void take_back(void *user, void *memory) {
    (void)user;
    free(memory);
}

static void test_refusals(void) {
    const mla_config good = config(3, 3, 4, 32, 8, 10);
    mla_config c;
    subject s, dense;
    mla_model *m;
    mla_weights w;
    mla_context *x;
    mla_pool *pool;
    mla_cache *k, *a, *b;
    mla_cache_desc kd;
    mla_context_desc xd;
    SECTION("what is refused");
    subject_open(&s, &good, 5, 1);
    memset(&w, 0, sizeof w), memset(&kd, 0, sizeof kd), memset(&xd, 0, sizeof xd);
    w.layers = s.layers;
#define CONFIG(field, value, word, more)                                                                               \
    (c = good, c.field = (value), REFUSED(mla_model_create(&m, &c, &w, NULL, &error), MLA_ERR_CONFIG, word, more))
    CONFIG(index_topk, -1, "index_topk", "-1"), CONFIG(index_topk, INT32_MAX, "index_topk", "2147483647");
    CONFIG(index_n_heads, 0, "index_n_heads", "0"), CONFIG(index_n_heads, -3, "index_n_heads", "-3"),
        CONFIG(index_n_heads, 65537, "index_n_heads", "65537");
    CONFIG(index_head_dim, 0, "index_head_dim", "0"), CONFIG(index_head_dim, 7, "index_head_dim", "7, must be 8"),
        CONFIG(index_head_dim, INT32_MAX, "index_head_dim", "2147483647");
    CONFIG(index_rope, (mla_rope_layout)3, "index_rope", "3"),
        CONFIG(index_rope, (mla_rope_layout)-1, "index_rope", "-1");
    c = good, c.index_n_heads = 65536, c.index_head_dim = 1 << 20;
    REFUSED(mla_model_create(&m, &c, &w, NULL, &error), MLA_ERR_CONFIG, "index_n_heads * index_head_dim", "31 bits");
    c = good, c.q_lora_rank = 0;
    REFUSED(mla_model_create(&m, &c, &w, NULL, &error), MLA_ERR_CONFIG, "q_lora_rank", "index_topk 10");
    /* each tensor: missing, misshapen, of a dtype that cannot stand there */
    for (int i = 0; i < 5; i++) {
        static const char *const names[] = {"indexer.wq_b.weight", "indexer.wk.weight", "indexer.k_norm.weight",
                                            "indexer.k_norm.bias", "indexer.weights_proj"};
        mla_layer_weights layers[3];
        mla_indexer_weights *n = &layers[2].attn.indexer;
        mla_tensor *const t[] = {&n->wq_b.weight, &n->wk.weight, &n->k_norm.weight, &n->k_norm.bias, &n->weights_proj};
        memcpy(layers, s.layers, sizeof layers);
        w.layers = layers;
        const mla_tensor was = *t[i];
        t[i]->data = NULL;
        if (i != 3)
            REFUSED(mla_model_create(&m, &good, &w, NULL, &error), MLA_ERR_WEIGHTS, "weights.layers[2].attn.",
                    names[i]);
        *t[i] = was, t[i]->cols++;
        REFUSED(mla_model_create(&m, &good, &w, NULL, &error), MLA_ERR_WEIGHTS, "weights.layers[2].attn.", names[i]);
        *t[i] = was, t[i]->dtype = i == 2 || i == 3 ? MLA_Q8 : MLA_UE8M0;
        REFUSED(mla_model_create(&m, &good, &w, NULL, &error), MLA_ERR_WEIGHTS, "weights.layers[2].attn.", names[i]);
        *t[i] = was, t[i]->layout = MLA_LAYOUT_X16;
        REFUSED(mla_model_create(&m, &good, &w, NULL, &error), MLA_ERR_WEIGHTS, "weights.layers[2].attn.", names[i]);
        w.layers = s.layers;
    }
    { /* caches of models that have indexers in other layers */
        mla_layer_weights layers[3];
        memcpy(layers, s.layers, sizeof layers);
        const int from = layers[1].attn.indexer.wk.weight.data ? 1 : 2;
        layers[3 - from].attn.indexer = layers[from].attn.indexer;
        memset(&layers[from].attn.indexer, 0, sizeof layers[from].attn.indexer);
        w.layers = layers, kd.capacity = 8;
        MUST(mla_model_create(&m, &good, &w, NULL, &error));
        MUST(mla_cache_create(&a, s.model, &kd, &error));
        MUST(mla_cache_create(&b, m, &kd, &error));
        REFUSED(mla_cache_fork(b, a, &error), MLA_ERR_ARGUMENT, "layer 1 has index keys in ",
                from == 1 ? "src" : "dst");
        REFUSED(mla_cache_fork(a, b, &error), MLA_ERR_ARGUMENT, "layer 1 has index keys in ",
                from == 1 ? "dst" : "src");
        mla_cache_destroy(b), mla_model_destroy(m);
        /* the first has no attention */
        layers[1].attn.indexer = layers[0].attn.indexer;
        memset(&layers[0].attn, 0, sizeof layers[0].attn);
        MUST(mla_model_create(&m, &good, &w, NULL, &error));
        MUST(mla_cache_create(&b, m, &kd, &error));
        REFUSED(mla_cache_fork(b, a, &error), MLA_ERR_ARGUMENT, "layer 0 has index keys in ", "src");
        REFUSED(mla_cache_fork(a, b, &error), MLA_ERR_ARGUMENT, "layer 0 has index keys in ", "dst");
        mla_cache_destroy(a), mla_cache_destroy(b), mla_model_destroy(m);
        w.layers = s.layers;
    }
    { /* the first layer must have one; without attention it is none's; with index_topk 0 nobody looks */
        mla_layer_weights layers[3];
        memcpy(layers, s.layers, sizeof layers);
        memset(&layers[0].attn.indexer, 0, sizeof layers[0].attn.indexer);
        w.layers = layers;
        REFUSED(mla_model_create(&m, &good, &w, NULL, &error), MLA_ERR_WEIGHTS, "weights.layers[0].attn.indexer",
                "missing");
        const mla_indexer_weights indexer = s.layers[0].attn.indexer;
        memset(&layers[0].attn, 0, sizeof layers[0].attn);
        REFUSED(mla_model_create(&m, &good, &w, NULL, &error), MLA_ERR_WEIGHTS, "weights.layers[1].attn.indexer",
                "missing");
        layers[0].attn.indexer = indexer;
        REFUSED(mla_model_create(&m, &good, &w, NULL, &error), MLA_ERR_WEIGHTS, "weights.layers[0].attn.indexer",
                "the attention it belongs to");
        w.layers = s.layers;
        c = good, c.index_topk = c.index_n_heads = c.index_head_dim = 0;
        MUST(mla_model_create(&m, &c, &w, NULL, &error));
        kd.capacity = 64;
        const size_t without = mla_cache_size(m, &kd), pages = mla_pool_size(m, &(mla_pool_desc){.n_pages = 3});
        CHECK(mla_model_bytes(m, 0) < mla_model_bytes(s.model, 0), "indexers in use are counted");
        /* two of three layers have keys of 32 values */
        CHECK(mla_cache_size(s.model, &kd) == without + 2 * 64 * 32 * 4, "index keys in f32: %zu bytes",
              mla_cache_size(s.model, &kd) - without);
        kd.index_dtype = MLA_BF16;
        CHECK(mla_cache_size(s.model, &kd) == without + 2 * 64 * 32 * 2, "index keys in bf16: %zu bytes",
              mla_cache_size(s.model, &kd) - without);
        kd.index_dtype = MLA_Q8;
        CHECK(mla_cache_size(s.model, &kd) == without + 2 * 64 * 34, "index keys in q8: %zu bytes",
              mla_cache_size(s.model, &kd) - without);
        CHECK(mla_pool_size(s.model, &(mla_pool_desc){.n_pages = 3, .index_dtype = MLA_BF16}) ==
                  pages + 3 * 2 * 64 * 32 * 2,
              "pages with index keys in bf16");
        mla_model_destroy(m);
    }
    /* dtypes */
    memset(&kd, 0, sizeof kd);
    kd.capacity = 100, kd.index_dtype = MLA_Q4;
    REFUSED(mla_cache_create(&k, s.model, &kd, &error), MLA_ERR_ARGUMENT, "cache.index_dtype", "q4");
    kd.index_dtype = (mla_dtype)-1;
    REFUSED(mla_cache_create(&k, s.model, &kd, &error), MLA_ERR_ARGUMENT, "cache.index_dtype", "?");
    CHECK(k == NULL && mla_cache_size(s.model, &kd) == 0, "no cache");
    REFUSED(mla_pool_create(&pool, s.model, &(mla_pool_desc){.n_pages = 4, .index_dtype = MLA_E4M3}, &error),
            MLA_ERR_ARGUMENT, "pool.index_dtype", "e4m3");
    CHECK(mla_pool_size(s.model, &(mla_pool_desc){.n_pages = 4, .index_dtype = MLA_E4M3}) == 0, "no pool");
    c = good, c.index_head_dim = 20;
    subject_open(&dense, &c, 5, 1);
    kd.index_dtype = MLA_Q8;
    REFUSED(mla_cache_create(&k, dense.model, &kd, &error), MLA_ERR_ARGUMENT, "cache.index_dtype",
            "index_head_dim = 20");
    /* caches of other models */
    kd.index_dtype = MLA_F32;
    a = make_cache(s.model, 100, MLA_F32, MLA_F32, NULL), b = make_cache(s.model, 100, MLA_F32, MLA_BF16, NULL);
    k = make_cache(dense.model, 100, MLA_F32, MLA_F32, NULL);
    REFUSED(mla_cache_fork(a, b, &error), MLA_ERR_ARGUMENT, "mla_cache_fork", "bf16");
    REFUSED(mla_cache_fork(a, k, &error), MLA_ERR_ARGUMENT, "mla_cache_fork", "20 values");
    MUST(mla_pool_create(&pool, dense.model, &(mla_pool_desc){.n_pages = 4}, &error));
    kd.pool = pool;
    mla_cache *none;
    REFUSED(mla_cache_create(&none, s.model, &kd, &error), MLA_ERR_ARGUMENT, "cache.pool", "2 of 32");
    mla_pool_destroy(pool);
    /* a layer that shares, and what it shares */
    const int D = good.hidden_size;
    float *in = HOLD(float, 40 * D), *out = HOLD(float, 40 * D);
    test_rng r = {1};
    test_fill(&r, in, (size_t)(40 * D), 1);
    x = make_context(s.model, 40, 1, MLA_ISA_AUTO, MLA_ATTN_AUTO);
    mla_sequence q = sequence(a, 30), q2 = sequence(b, 30), q3 = sequence(a, 29), wrong = sequence(k, 30), two[2];
    REFUSED_IN(x, mla_attn_forward(x, 0, out, in, &wrong, 1), MLA_ERR_ARGUMENT, "sequences[0].cache", "another model");
    REFUSED_IN(x, mla_attn_forward(x, 1, out, in, &q, 1), MLA_ERR_ARGUMENT, "layer 1", "layer 0");
    MUST_IN(x, mla_attn_forward(x, 0, out, in, &q, 1));
    MUST_IN(x, mla_attn_forward(x, 1, out, in, &q, 1));
    MUST_IN(x, mla_attn_forward(x, 1, out, in, &q, 1)); /* still there */
    two[0] = q, two[1] = sequence(b, 1);
    REFUSED_IN(x, mla_attn_forward(x, 1, out, in, &q2, 1), MLA_ERR_ARGUMENT, "layer 1", "these sequences");
    REFUSED_IN(x, mla_attn_forward(x, 1, out, in, &q3, 1), MLA_ERR_ARGUMENT, "layer 1", "these sequences");
    REFUSED_IN(x, mla_attn_forward(x, 1, out, in, two, 2), MLA_ERR_ARGUMENT, "layer 1", "these sequences");
    MUST_IN(x, mla_attn_forward(x, 2, out, in, &q, 1)); /* the last one: the cache grows */
    REFUSED_IN(x, mla_attn_forward(x, 1, out, in, &q, 1), MLA_ERR_ARGUMENT, "layer 1", "layer 0");
    CHECK(mla_cache_length(a) == 30 && mla_cache_length(b) == 0, "lengths %d, %d", mla_cache_length(a),
          mla_cache_length(b));
    mla_context_destroy(x);
    /* scratch that nobody has */
    c = good, c.index_topk = 1 << 24;
    subject huge;
    subject_open(&huge, &c, 5, 1);
    xd.max_tokens = 1 << 24, xd.alloc.alloc = give_little, xd.alloc.free = take_back;
    REFUSED(mla_context_create(&x, huge.model, &xd, &error), MLA_ERR_MEMORY, "context", "bytes");
    mla_model_destroy(huge.model);
    mla_cache_destroy(a), mla_cache_destroy(b), mla_cache_destroy(k);
    mla_model_destroy(dense.model);
    subject_close(&s);
}

int main(void) {
    test_reference();
    test_dense();
    test_ways();
    test_reads();
    test_glance();
    test_hostile_values();
    test_refusals();
    return test_end();
}
