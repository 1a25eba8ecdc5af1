/* test_gates.c - what some families have around MLA, at odd sizes against the reference of mla.h, on every path and
   instruction set: gates of heads, of channels and out of the query's projection, which may see its latent twice, sinks
   of softmax, norms with gates, clamped experts, several residual streams and n-gram embeddings, also where activations
   round their rows. Rows are read back from the cache, so that the reference sees them as they are. And parts of a
   block alone keep what mla_context_desc.invariant promises, whatever the call before was. */

#define MLA_IMPLEMENTATION
#define MLA_REFERENCE
#include "guard.h"
#include "mla.h"
#include "test.h"

static void *bag[1 << 12];
static int bag_n;
static void *hold(double count, size_t size) {
    void *p = calloc((size_t)count + 1, size);
    if (!p || bag_n == (int)(sizeof bag / sizeof *bag)) puts("no memory for the test"), exit(1);
    return bag[bag_n++] = p;
}
#define HOLD(type, count) ((type *)hold((double)(count), sizeof(type)))
static void drop(void) {
    while (bag_n > 0) free(bag[--bag_n]);
}

static mla_error error;
static void must(mla_result r, const char *text, int line) {
    if (r == MLA_OK) return;
    CHECK(0, "line %d: %s: %s", line, mla_result_name(r), text);
    printf("cannot go on\n%d passed, %d failed\n", test_passed, test_failed);
    exit(1);
}
#define MUST(call)             must((call), error.text, __LINE__)
#define MUST_IN(context, call) must((call), mla_context_error(context)->text, __LINE__)

static const float bound = 3e-5f; /* of the largest value */

/* ---- models ------------------------------------------------------------------------------------------------------ */

static mla_tensor tensor(test_rng *r, int rows, int cols, double deviation) {
    float *data = HOLD(float, (double)rows *cols);
    test_fill(r, data, (size_t)rows * (size_t)cols, (float)deviation);
    return mla_view(data, MLA_F32, rows, cols);
}
static mla_tensor as_bf16(const mla_tensor *t) {
    const int n = t->rows * t->cols;
    uint16_t *data = HOLD(uint16_t, n);
    for (int i = 0; i < n; i++) data[i] = mla_f32_to_bf16(((const float *)t->data)[i]);
    return mla_view(data, MLA_BF16, t->rows, t->cols);
}
static mla_linear linear(test_rng *r, int out, int in, int bias) {
    mla_linear l;
    memset(&l, 0, sizeof l);
    l.weight = tensor(r, out, in, 1 / sqrt(in));
    if (bias) l.bias = tensor(r, 1, out, 0.5);
    return l;
}

enum { NO_GATE, HEADS, CHANNELS, QUERY };
typedef struct trial {
    const char *name;
    int H, N, P, V, Q; /* Q 0: queries are one matrix */
    int gate, twice, sinks, splits, bf16, bias;
    int before, n; /* tokens in the cache, and of the call */
} trial;

static mla_config config(const trial *k) {
    mla_config c;
    memset(&c, 0, sizeof c);
    c.hidden_size = 37, c.num_hidden_layers = 1, c.num_attention_heads = k->H, c.q_lora_rank = k->Q;
    c.kv_lora_rank = 29, c.qk_nope_head_dim = k->N, c.qk_rope_head_dim = k->P, c.v_head_dim = k->V;
    c.q_gate = k->gate == QUERY, c.q_twice = k->twice;
    c.q_scale = 1.3f, c.temperature_beta = 0.4f,
    c.temperature_period = 5; /* of queries alone, not of what gates them */
    return c;
}
static mla_attn_weights attention(test_rng *r, const trial *k, const mla_config *c) {
    const int D = c->hidden_size, H = k->H, R = c->kv_lora_rank, rows = k->N + k->P + (c->q_gate ? k->V : 0);
    mla_attn_weights a;
    memset(&a, 0, sizeof a);
    if (k->Q) {
        a.q_a = linear(r, k->Q, D, k->bias), a.q_norm.weight = tensor(r, 1, k->Q, 1);
        a.q_b = linear(r, H * rows, k->twice ? 2 * k->Q : k->Q, k->bias);
    } else a.q = linear(r, H * rows, D, k->bias);
    a.kv_a = linear(r, R + k->P, D, k->bias), a.kv_norm.weight = tensor(r, 1, R, 1);
    if (k->splits) a.k_b = tensor(r, H * R, k->N, 1 / sqrt(R)), a.v_b = tensor(r, H * k->V, R, 1 / sqrt(R));
    else a.kv_b = linear(r, H * (k->N + k->V), R, 0);
    a.o = linear(r, D, H * k->V, k->bias);
    if (k->gate == HEADS || k->gate == CHANNELS) a.gate = linear(r, k->gate == HEADS ? H : H * k->V, D, k->bias);
    if (k->sinks) a.sinks = tensor(r, 1, H, 2);
    if (k->bf16 && a.gate.weight.data) a.gate.weight = as_bf16(&a.gate.weight);
    if (k->bf16 && a.sinks.data) a.sinks = as_bf16(&a.sinks);
    return a;
}
static mla_result make_model(mla_model **m, const mla_config *c, const mla_layer_weights *layer) {
    mla_weights w;
    memset(&w, 0, sizeof w);
    w.layers = layer;
    return mla_model_create(m, c, &w, NULL, &error);
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
static void attend(mla_context *in, mla_cache *cache, float *y, float *probs, const float *x, int n, int chunk) {
    const int D = 37;
    for (int t = 0; t < n; t += chunk) {
        mla_sequence s;
        memset(&s, 0, sizeof s);
        s.cache = cache, s.n_tokens = n - t < chunk ? n - t : chunk, s.probs = probs;
        MUST_IN(in, mla_attn_forward(in, 0, y + t * D, x + t * D, &s, 1));
    }
}

static float far_off(const float *got, const double *want, int n) {
    double worst = 0, largest = 1e-30;
    for (int i = 0; i < n; i++) {
        const double e = fabs((double)got[i] - want[i]);
        if (!(e <= worst)) worst = e;
        if (fabs(want[i]) > largest) largest = fabs(want[i]);
    }
    return (float)(worst / largest);
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

/* What the reference gives for the tokens of the call, want [n, D] and probs [n, H, T]. */
static void reference(const trial *k, const mla_model *m, const mla_attn_weights *a, const mla_cache *cache,
                      const float *x, double *want, double *probs) {
    const int D = 37, T = k->before + k->n, W = 29 + k->P;
    double *rows = HOLD(double, T *W), *mask = HOLD(double, T), *xd = HOLD(double, D);
    float *row = HOLD(float, W);
    for (int t = 0; t < T; t++) {
        MUST(mla_cache_read(cache, 0, t, row, &error));
        for (int i = 0; i < W; i++) rows[t * W + i] = (double)row[i];
    }
    for (int t = k->before; t < T; t++) {
        for (int u = 0; u < T; u++) mask[u] = u > t ? -(double)INFINITY : 0;
        for (int i = 0; i < D; i++) xd[i] = (double)x[t * D + i];
        mla__attention_ref(want + (t - k->before) * D, probs + (t - k->before) * k->H * T, NULL, m, a, xd, rows, NULL,
                           mask, t, T, 1);
    }
}
static void attention_case(const trial *k) {
    const int D = 37, T = k->before + k->n, n = k->n, most = T < 160 ? T : 160;
    test_rng r = {(uint64_t)(k->H * 100 + k->V)};
    const mla_config c = config(k);
    mla_layer_weights layer;
    mla_model *m;
    memset(&layer, 0, sizeof layer);
    layer.attn = attention(&r, k, &c);
    MUST(make_model(&m, &c, &layer));
    float *x = HOLD(float, T *D), *y = HOLD(float, T *D), *again = HOLD(float, n *D),
          *probs = HOLD(float, n * k->H * T);
    double *want = HOLD(double, n *D), *want_probs = HOLD(double, n * k->H * T);
    test_fill(&r, x, (size_t)(T * D), 1);
    mla_cache *base, *cache;
    const mla_cache_desc desc = {.capacity = T};
    MUST(mla_cache_create(&base, m, &desc, &error));
    MUST(mla_cache_create(&cache, m, &desc, &error));
    mla_context *filler = make_context(m, most, 1, MLA_ISA_AUTO, MLA_ATTN_AUTO);
    if (k->before) attend(filler, base, y, NULL, x, k->before, most);
    int first = 1;
    for (mla_isa isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa = (mla_isa)(isa + 1))
        for (int path = MLA_ATTN_NAIVE; path < MLA_ATTN_PATH_COUNT && TEST_ISA(isa); path++) {
            mla_context *one = make_context(m, most, 1, isa, (mla_attn_path)path),
                        *three = make_context(m, most, 3, isa, (mla_attn_path)path);
            const char *how = path == MLA_ATTN_NAIVE ? "naive" : "absorbed";
            MUST(mla_cache_fork(cache, base, &error));
            attend(one, cache, y, NULL, x + k->before * D, n, n);
            if (first) reference(k, m, &layer.attn, cache, x, want, want_probs), first = 0;
            float e = far_off(y, want, n * D);
            CHECK(e <= bound, "%s, %s, %s: %.1e off", k->name, mla_isa_name(isa), how, (double)e);
            MUST(mla_cache_truncate(cache, k->before, &error));
            attend(three, cache, again, NULL, x + k->before * D, n, n);
            CHECK(!memcmp(y, again, (size_t)(n * D) * sizeof *y), "%s, %s, %s: three threads give other bits", k->name,
                  mla_isa_name(isa), how);
            MUST(mla_cache_truncate(cache, k->before, &error));
            attend(one, cache, y, NULL, x + k->before * D, n, 1);
            e = far_off(y, want, n * D);
            CHECK(e <= bound, "%s, %s, %s: %.1e off, token by token", k->name, mla_isa_name(isa), how, (double)e);
            MUST(mla_cache_truncate(cache, k->before, &error));
            attend(one, cache, y, probs, x + k->before * D, n, n);
            e = far_off(y, want, n * D);
            CHECK(e <= bound, "%s, %s, %s: %.1e off, with probabilities", k->name, mla_isa_name(isa), how, (double)e);
            e = far_off(probs, want_probs, n * k->H * T);
            CHECK(e <= bound, "%s, %s, %s: probabilities %.1e off", k->name, mla_isa_name(isa), how, (double)e);
            mla_context_destroy(one), mla_context_destroy(three);
        }
    mla_context_destroy(filler);
    mla_cache_destroy(base), mla_cache_destroy(cache);
    mla_model_destroy(m);
    drop();
}
static void test_attention(void) {
    static const trial trials[] = {
        /* name                                    H  N   P  V   Q  gate  x2 sink kb bf b before n */
        {"a gate of heads", 3, 7, 6, 5, 0, HEADS, 0, 0, 0, 0, 0, 0, 21},
        {"a gate of channels", 5, 9, 4, 13, 11, CHANNELS, 0, 0, 0, 0, 0, 3, 19},
        {"the same, keys and values apart", 5, 9, 4, 13, 11, CHANNELS, 0, 0, 1, 1, 0, 3, 19},
        {"a gate in q", 3, 6, 8, 17, 0, QUERY, 0, 0, 0, 0, 0, 0, 23},
        {"a gate in q_b, which sees its latent twice", 4, 11, 2, 9, 13, QUERY, 1, 0, 0, 0, 1, 5, 17},
        {"the latent twice alone", 2, 5, 4, 33, 19, NO_GATE, 1, 0, 0, 0, 0, 0, 16},
        {"sinks", 7, 8, 6, 11, 10, NO_GATE, 0, 1, 0, 0, 0, 0, 20},
        {"sinks, keys and values apart, heads gated", 3, 10, 2, 7, 0, HEADS, 0, 1, 1, 1, 0, 2, 9},
        {"sinks of a context in pieces", 3, 6, 4, 8, 0, CHANNELS, 0, 1, 0, 0, 0, 1100, 3},
    };
    SECTION("attention with gates and sinks against the reference");
    for (size_t i = 0; i < sizeof trials / sizeof *trials; i++) attention_case(&trials[i]);
}

/* A sink that is lowest is none, bit for bit; beside one that is largest nothing is left. A token that sees no key gets
   0 with any. */
static void test_extremes(void) {
    const trial k = {"sinks at their ends", 3, 6, 4, 8, 0, NO_GATE, 0, 0, 0, 0, 0, 0, 12};
    const float sinks[] = {-INFINITY, -3e38f, 3e38f, INFINITY};
    const int D = 37;
    test_rng r = {3};
    const mla_config c = config(&k);
    mla_layer_weights layer;
    SECTION("sinks at their ends");
    memset(&layer, 0, sizeof layer);
    layer.attn = attention(&r, &k, &c);
    float x[12 * 37], plain[12 * 37], y[12 * 37], three[3], mask[12 * 12];
    test_fill(&r, x, 12 * 37, 1);
    for (int i = 0; i < 12 * 12; i++) mask[i] = i < 12 ? -INFINITY : 0;
    for (int path = MLA_ATTN_NAIVE; path < MLA_ATTN_PATH_COUNT; path++)
        for (int i = -1; i < 4; i++) {
            mla_model *m;
            mla_cache *cache;
            for (int h = 0; h < 3 && i >= 0; h++) three[h] = sinks[i];
            layer.attn.sinks = mla_view(i < 0 ? NULL : three, MLA_F32, 1, 3);
            MUST(make_model(&m, &c, &layer));
            mla_context *in = make_context(m, 12, 1, MLA_ISA_AUTO, (mla_attn_path)path);
            MUST(mla_cache_create(&cache, m, &(mla_cache_desc){.capacity = 12}, &error));
            mla_sequence s;
            memset(&s, 0, sizeof s);
            s.cache = cache, s.n_tokens = 12, s.mask = mask;
            MUST_IN(in, mla_attn_forward(in, 0, i < 0 ? plain : y, x, &s, 1));
            const float first = test_max_abs(i < 0 ? plain : y, (size_t)D);
            CHECK(first <= 0, "sink %d: a token that sees no key gets %g", i, (double)first);
            if (i == 0 || i == 1)
                CHECK(!memcmp(y, plain, sizeof y), "path %d: sink %g is not none", path, (double)sinks[i]);
            if (i > 1)
                CHECK(test_max_abs(y, 12 * 37) <= 0, "path %d: beside sink %g %g is left", path, (double)sinks[i],
                      (double)test_max_abs(y, 12 * 37));
            mla_context_destroy(in), mla_cache_destroy(cache), mla_model_destroy(m);
        }
    drop();
}

/* ---- norms ------------------------------------------------------------------------------------------------------- */

static mla_norm_weights gated_norm(test_rng *r, mla_norm_kind kind, int n, int rank) {
    mla_norm_weights w;
    memset(&w, 0, sizeof w);
    w.weight = tensor(r, 1, n, 1);
    if (kind != MLA_NORM_RMS) w.bias = tensor(r, 1, n, 0.5);
    if (kind == MLA_NORM_DYT) w.alpha = tensor(r, 1, 1, 1);
    w.gate_down = tensor(r, rank, n, 1 / sqrt(n)), w.gate_up = tensor(r, n, rank, 1 / sqrt(rank));
    return w;
}
/* The norm alone, of more rows than a context has tokens, in place and not; and in its places in a layer. */
static void test_norms(void) {
    enum { D = 45, RANK = 7, T = 53 };
    static const mla_layer_weights none;
    float *x = HOLD(float, T *D), *y = HOLD(float, T *D), *z = HOLD(float, T *D);
    double *want = HOLD(double, T *D);
    SECTION("norms with gates against the reference");
    for (mla_norm_kind kind = MLA_NORM_RMS; kind < MLA_NORM_NONE; kind = (mla_norm_kind)(kind + 1)) {
        test_rng r = {11 + (uint64_t)kind};
        mla_config c;
        mla_model *m;
        memset(&c, 0, sizeof c);
        c.hidden_size = D, c.num_hidden_layers = 1, c.norm_gate_rank = RANK, c.block_norm.kind = kind;
        const mla_norm_weights w = gated_norm(&r, kind, D, RANK);
        MUST(make_model(&m, &c, &none));
        test_fill(&r, x, T * D, 1);
        for (int i = 0; i < T * D; i++) want[i] = (double)x[i];
        for (int t = 0; t < T; t++) mla__norm_ref(want + t * D, D, &mla_model_config(m)->block_norm, &w);
        for (mla_isa isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa = (mla_isa)(isa + 1))
            for (int n = 1; n <= 16 && TEST_ISA(isa); n += 15) {
                mla_context *in = make_context(m, n, 3, isa, MLA_ATTN_AUTO);
                MUST_IN(in, mla_norm_forward(in, &w, y, x, T));
                memcpy(z, x, (size_t)(T * D) * sizeof *z);
                MUST_IN(in, mla_norm_forward(in, &w, z, z, T));
                const float e = far_off(y, want, T * D);
                CHECK(e <= bound, "norm %d, %s: %.1e off", (int)kind, mla_isa_name(isa), (double)e);
                CHECK(!memcmp(y, z, (size_t)(T * D) * sizeof *z), "norm %d, %s: in place", (int)kind,
                      mla_isa_name(isa));
                mla_context_destroy(in);
            }
        mla_model_destroy(m);
    }
    drop();
}

/* Gates in types that no weights of the model have, which are the caller's, and that only one of them has. */
static void test_norm_types(void) {
    enum { D = 64, RANK = 32, T = 33 };
    static const mla_dtype types[] = {MLA_BF16, MLA_Q8, MLA_Q4};
    float *x = HOLD(float, T *D), *y = HOLD(float, T *D), *want = HOLD(float, T *D);
    unsigned char *code = HOLD(unsigned char, 2 * RANK * D * 2);
    SECTION("gates of norms in types of their own");
    test_rng r = {29};
    mla_config c;
    mla_layer_weights layer;
    memset(&c, 0, sizeof c);
    c.hidden_size = D, c.num_hidden_layers = 1, c.norm_gate_rank = RANK;
    const mla_norm_weights plain = gated_norm(&r, MLA_NORM_RMS, D, RANK);
    test_fill(&r, x, T * D, 1);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        for (int what = 1; what < 4; what++) { /* down, up, both */
            mla_norm_weights w = plain;
            for (int half = 0; half < 2; half++) {
                mla_tensor *t = half ? &w.gate_up : &w.gate_down;
                unsigned char *to = code + half * RANK * D * 2;
                if (!(what >> half & 1)) continue;
                MUST(mla_quantize(types[i], to, (const float *)t->data, RANK * D, &error));
                *t = mla_view(to, types[i], t->rows, t->cols);
            }
            for (int own = 0; own < 2; own++) {
                mla_model *m;
                memset(&layer, 0, sizeof layer);
                if (own) layer.attn_norm = w;
                MUST(make_model(&m, &c, &layer));
                mla_context *in = make_context(m, 8, 2, MLA_ISA_SCALAR, MLA_ATTN_AUTO);
                MUST_IN(in, mla_norm_forward(in, &w, want, x, T));
                mla_context_destroy(in);
                for (mla_isa isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa = (mla_isa)(isa + 1))
                    for (int n = 1; n <= 16 && TEST_ISA(isa); n += 15)
                        for (mla_activations to = MLA_ACT_AUTO; to <= MLA_ACT_INT8; to = (mla_activations)(to + 1)) {
                            const mla_context_desc d = {.max_tokens = n, .threads = 2, .isa = isa, .activations = to};
                            MUST(mla_context_create(&in, m, &d, &error));
                            MUST_IN(in, mla_norm_forward(in, &w, y, x, T));
                            const float e = test_rel_err(y, want, T * D);
                            CHECK(e <= (own ? 2e-2f : 1e-5f), "%s, %d, %d, %s, %d tokens, to %d: %.1e off",
                                  mla_dtype_name(types[i]), what, own, mla_isa_name(isa), n, (int)to, (double)e);
                            mla_context_destroy(in);
                        }
                mla_model_destroy(m);
            }
        }
    drop();
}

/* ---- clamped experts ---------------------------------------------------------------------------------------------- */

/* Routed experts are clamped, the shared one is not; one token, few and many. */
static void test_clamp(void) {
    enum { D = 35, I = 23, E = 5, K = 2, T = 40 };
    static const float limits[] = {0, 0.1f, 1, 1e30f};
    test_rng r = {17};
    mla_mlp_weights experts[E];
    mla_layer_weights layer;
    SECTION("clamped experts against the reference");
    memset(&layer, 0, sizeof layer), memset(experts, 0, sizeof experts);
    for (int e = 0; e <= E; e++) {
        mla_mlp_weights *w = e < E ? &experts[e] : &layer.moe.shared;
        w->gate = linear(&r, I, D, e == 1), w->up = linear(&r, I, D, e == 1), w->down = linear(&r, D, I, 0);
    }
    layer.moe.experts = experts, layer.moe.router = tensor(&r, E, D, 1 / sqrt(D));
    float *x = HOLD(float, T *D), *y = HOLD(float, T *D), *plain = HOLD(float, T *D);
    double *want = HOLD(double, T *D), *xd = HOLD(double, D), we[K];
    int chosen[K];
    test_fill(&r, x, T * D, 1);
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        mla_config c;
        mla_model *m;
        memset(&c, 0, sizeof c);
        c.hidden_size = D, c.num_hidden_layers = 1, c.n_routed_experts = E, c.num_experts_per_tok = K;
        c.moe_intermediate_size = I, c.n_shared_experts = 1, c.swiglu_limit = limits[i];
        MUST(make_model(&m, &c, &layer));
        for (int t = 0; t < T; t++) {
            for (int j = 0; j < D; j++) xd[j] = (double)x[t * D + j];
            mla__moe_ref(want + t * D, chosen, we, mla_model_config(m), &layer.moe, xd);
        }
        for (mla_isa isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa = (mla_isa)(isa + 1))
            for (int n = 1; n <= T && TEST_ISA(isa); n = n == 1 ? 8 : n * 5) {
                mla_context *in = make_context(m, T, 2, isa, MLA_ATTN_AUTO);
                for (int t = 0; t < T; t += n) MUST_IN(in, mla_moe_forward(in, 0, y + t * D, x + t * D, n, NULL));
                const float e = far_off(y, want, T * D);
                CHECK(e <= bound, "limit %g, %s, %d tokens: %.1e off", (double)limits[i], mla_isa_name(isa), n,
                      (double)e);
                mla_context_destroy(in);
            }
        if (i == 0) memcpy(plain, y, T * D * sizeof *y);
        else CHECK((i == 3) == !memcmp(plain, y, T * D * sizeof *y), "limit %g and none", (double)limits[i]);
        mla_model_destroy(m);
    }
    drop();
}

/* ---- streams ----------------------------------------------------------------------------------------------------- */

static mla_hc_weights maps(test_rng *r, int m, int D, int n) {
    mla_hc_weights w;
    w.fn = tensor(r, n * m, m * D, 1 / sqrt(m * D)), w.base = tensor(r, 1, n * m, 1), w.scale = tensor(r, 1, n, 2);
    return w;
}
/* Maps of two kinds, of more tokens than a context has, in chunks of any kernel's; streams of very different size. */
static void test_streams(void) {
    enum { T = 41 };
    static const int shapes[][2] = {{2, 19}, {3, 37}, {4, 64}, {7, 11}};
    static const mla_layer_weights none;
    SECTION("maps of streams against the reference");
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        const int m = shapes[k][0], D = shapes[k][1];
        test_rng r = {23 + k};
        mla_config c;
        mla_model *model;
        memset(&c, 0, sizeof c);
        c.hidden_size = D, c.num_hidden_layers = 1, c.hc_mult = m, c.hc_eps = 0.01f, c.hc_magnitude = 1.7f;
        MUST(make_model(&model, &c, &none));
        float *x = HOLD(float, T *m *D), *y = HOLD(float, T *D), *post = HOLD(float, T *m);
        double *want = HOLD(double, T *D), *want_post = HOLD(double, T *m), *xd = HOLD(double, m *D);
        for (int i = 0; i < T * m; i++) test_fill(&r, x + i * D, (size_t)D, i % 5 == 4 ? 30 : 0.5f);
        for (int n = 1; n <= 2; n++) {
            mla_hc_weights w = maps(&r, m, D, n);
            if (k == 1) w.fn = as_bf16(&w.fn), w.base = as_bf16(&w.base), w.scale = as_bf16(&w.scale);
            for (int t = 0; t < T; t++) {
                for (int i = 0; i < m * D; i++) xd[i] = (double)x[t * m * D + i];
                mla__hc_ref(want + t * D, want_post + t * m, mla_model_config(model), &w, xd);
            }
            for (mla_isa isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa = (mla_isa)(isa + 1))
                for (int most = 1; most <= 64 && TEST_ISA(isa); most *= 4) {
                    mla_context *in = make_context(model, most, 3, isa, MLA_ATTN_AUTO);
                    MUST_IN(in, mla_hc_forward(in, &w, y, n > 1 ? post : NULL, x, T));
                    float e = far_off(y, want, T * D);
                    CHECK(e <= bound, "%d of %d, %s, %d at a time: %.1e off", m, D, mla_isa_name(isa), most, (double)e);
                    e = n > 1 ? far_off(post, want_post, T * m) : 0;
                    CHECK(e <= bound, "%d of %d, %s: post %.1e off", m, D, mla_isa_name(isa), (double)e);
                    mla_context_destroy(in);
                }
        }
        mla_model_destroy(model);
        drop();
    }
}

/* ---- parts of a block, invariant ---------------------------------------------------------------------------------- */

enum { LONG = 40, SHORT = 5 };
typedef struct parts {
    mla_hc_weights hc;
    mla_norm_weights norm;
} parts;
static void run_part(const parts *p, int part, mla_context *in, float *y, const float *x, int T) {
    if (part == 0) MUST_IN(in, mla_moe_forward(in, 0, y, x, T, NULL));
    if (part == 1) MUST_IN(in, mla_norm_forward(in, &p->norm, y, x, T));
    if (part == 2) MUST_IN(in, mla_hc_forward(in, &p->hc, y, NULL, x, T));
}
/* Called alone they keep what invariant promises, whatever the call before was: a short sequence's tokens are as each
   alone, a long one's as with one more. */
static void test_parts_invariant(void) {
    enum { D = 64, E = 4 };
    mla_mlp_weights experts[E];
    mla_layer_weights layer;
    test_rng r = {31};
    parts p = {maps(&r, 2, D, 1), gated_norm(&r, MLA_NORM_RMS, D, 32)};
    mla_config c;
    mla_model *m;
    mla_context *in;
    const mla_context_desc plain = {.max_tokens = LONG, .threads = 2, .invariant = 1};
    SECTION("parts of a block alone, invariant");
    memset(&c, 0, sizeof c), memset(&layer, 0, sizeof layer), memset(experts, 0, sizeof experts);
    for (int e = 0; e < E; e++) {
        mla_mlp_weights *w = &experts[e];
        w->gate = linear(&r, D, D, 0), w->up = linear(&r, D, D, 0), w->down = linear(&r, D, D, 0);
    }
    layer.moe.experts = experts, layer.moe.router = tensor(&r, E, D, 1 / sqrt(D)), layer.attn_norm = p.norm;
    c.hidden_size = c.moe_intermediate_size = D, c.num_hidden_layers = 1, c.norm_gate_rank = 32, c.hc_mult = 2,
    c.hc_eps = 0.01f, c.hc_magnitude = 1;
    c.n_routed_experts = E, c.num_experts_per_tok = 2;
    MUST(make_model(&m, &c, &layer));
    float *x = HOLD(float, 2 * LONG * D), *y = HOLD(float, LONG *D), *again = HOLD(float, LONG *D);
    test_fill(&r, x, 2 * LONG * D, 1);
    for (mla_isa isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa = (mla_isa)(isa + 1)) {
        mla_context_desc d = plain;
        int wrong[3] = {0, 0, 0};
        if (!TEST_ISA(isa)) continue;
        d.isa = isa;
        MUST(mla_context_create(&in, m, &d, &error));
        for (int part = 0; part < 3; part++)
            for (int n = SHORT; n < LONG; n += LONG - 1 - SHORT) {
                run_part(&p, part, in, y, x, n);
                run_part(&p, (part + 1) % 3, in, again, x, n == SHORT ? LONG : SHORT);
                run_part(&p, part, in, again, x, n == SHORT ? 2 : LONG);
                wrong[part] += memcmp(again, y, sizeof *y * (size_t)((n == SHORT ? 2 : n) * D)) != 0;
            }
        CHECK(!wrong[0] && !wrong[1] && !wrong[2], "%s: experts %d, norm %d, maps %d", mla_isa_name(isa), wrong[0],
              wrong[1], wrong[2]);
        mla_context_destroy(in);
    }
    mla_model_destroy(m);
    drop();
}

/* ---- n-grams ----------------------------------------------------------------------------------------------------- */

enum { GRAMS = 4, SPLIT = 2, TABLES = SPLIT * (GRAMS - 1), WIDTH = 5, GD = TABLES * WIDTH, VOCAB = 1000, MOST = 60 };
typedef struct grams {
    mla_config c;
    mla_layer_weights layer;
    mla_ngram_weights ngram[TABLES];
    mla_weights w;
    mla_model *m;
    mla_context *in;
    mla_cache *k[2]; /* contiguous, and in pages */
    mla_pool *pool;
    int ids[2][MOST], n[2];
} grams;
static void open_grams(grams *g, int streams) {
    static const int rows[TABLES] = {3001, 7, 1, 2999, 1000, 65537};
    const trial k = {"", 2, 4, 2, 5, 0, NO_GATE, 0, 0, 0, 0, 0, 0, 0};
    test_rng r = {29};
    memset(g, 0, sizeof *g);
    g->c = config(&k);
    g->c.hidden_size = GD, g->c.vocab_size = VOCAB, g->c.emb_neighbor_num = GRAMS, g->c.emb_split_num = SPLIT;
    g->c.embed_scale = 1.5f, g->c.intermediate_size = 8, g->c.hc_mult = streams, g->c.hc_magnitude = 1;
    g->layer.attn = attention(&r, &k, &g->c);
    g->layer.attn_norm.weight = tensor(&r, 1, GD, 1), g->layer.ffn_norm.weight = tensor(&r, 1, GD, 1);
    g->layer.mlp.gate = linear(&r, 8, GD, 0), g->layer.mlp.up = linear(&r, 8, GD, 0);
    g->layer.mlp.down = linear(&r, GD, 8, 0);
    if (streams > 1) g->layer.attn_hc = maps(&r, streams, GD, 2), g->layer.ffn_hc = maps(&r, streams, GD, 2);
    if (streams > 1) g->w.hc_head = maps(&r, streams, GD, 1);
    for (int i = 0; i < TABLES; i++)
        g->ngram[i].table = tensor(&r, rows[i], WIDTH, 1), g->ngram[i].proj = linear(&r, GD, WIDTH, i == 3);
    g->ngram[4].table = as_bf16(&g->ngram[4].table);
    g->w.embed = tensor(&r, VOCAB, GD, 1), g->w.norm.weight = tensor(&r, 1, GD, 1);
    g->w.layers = &g->layer, g->w.ngram = g->ngram;
    MUST(mla_model_create(&g->m, &g->c, &g->w, NULL, &error));
    g->in = make_context(g->m, MOST, 3, MLA_ISA_AUTO, MLA_ATTN_AUTO);
    MUST(mla_pool_create(&g->pool, g->m, &(mla_pool_desc){.n_pages = 3}, &error));
    for (int i = 0; i < 2; i++)
        MUST(mla_cache_create(&g->k[i], g->m, &(mla_cache_desc){.capacity = MOST, .pool = i ? g->pool : NULL}, &error));
}
static void close_grams(grams *g) {
    mla_cache_destroy(g->k[0]), mla_cache_destroy(g->k[1]), mla_pool_destroy(g->pool);
    mla_context_destroy(g->in), mla_model_destroy(g->m);
    drop();
}
/* A model of one stream has the same weights, but none of the maps: of both parts of its layer and of the head. */
static void test_streams_bytes(void) {
    const double rows = 3, cols = 3 * GD, two = 2 * (rows * cols + rows + 1), one = rows * cols + rows + 1;
    grams g;
    mla_model *plain;
    SECTION("bytes of maps");
    open_grams(&g, 3);
    g.c.hc_mult = 1;
    MUST(mla_model_create(&plain, &g.c, &g.w, NULL, &error));
    const double maps = mla_model_bytes(g.m, 1) - mla_model_bytes(plain, 1);
    CHECK(maps == 4 * (2 * two + one), "%.0f bytes of maps, not %.0f", maps, 4 * (2 * two + one));
    mla_model_destroy(plain);
    close_grams(&g);
}
/* The embedding of the token at t, by a sum of powers; what came as embeddings has id -1, which counts 0. */
static void grams_ref(double *x, const grams *g, const int *ids, int t) {
    for (int i = 0; i < GD; i++) x[i] = mla__weight_ref(&g->w.embed, ids[t], i);
    for (int i = 0; i < TABLES; i++) {
        const mla_tensor *table = &g->ngram[i].table;
        const uint64_t rows = (uint64_t)table->rows;
        uint64_t hash = 0, power = 1 % rows;
        double row[WIDTH], y[GD];
        for (int s = 0; s < i / SPLIT + 2; s++, power = power * VOCAB % rows)
            hash = (hash + power * (uint64_t)(t >= s && ids[t - s] > 0 ? ids[t - s] : 0)) % rows;
        for (int j = 0; j < WIDTH; j++) row[j] = mla__weight_ref(table, (int)hash, j);
        mla__linear_ref(y, &g->ngram[i].proj, row);
        for (int j = 0; j < GD; j++) x[j] += y[j];
    }
    for (int i = 0; i < GD; i++) x[i] *= 1.5 / (1 + TABLES);
}
/* Both sequences go on in one call, the first perhaps by embeddings; what they begin with is checked. */
static int feed(grams *g, test_rng *r) {
    const int n[2] = {1 + test_int(r, 4), 1 + test_int(r, 9)}, given = test_int(r, 5) == 0;
    float hidden[13 * GD], given_x[4 * GD], *states[2] = {hidden, NULL};
    int tokens[13], wrong = 0;
    mla_sequence q[2];
    if (g->n[0] + n[0] > MOST || g->n[1] + n[1] > MOST) return 0;
    memset(q, 0, sizeof q);
    test_fill(r, given_x, 4 * GD, 1);
    for (int i = 0, t = 0; i < 2; i++) {
        q[i].cache = g->k[i], q[i].n_tokens = n[i], q[i].embeddings = i == 0 && given ? given_x : NULL;
        for (int u = 0; u < n[i]; u++) {
            g->ids[i][g->n[i] + u] = q[i].embeddings ? -1 : test_int(r, 3) ? test_int(r, VOCAB) : test_int(r, 2);
            tokens[t++] = g->ids[i][g->n[i] + u];
        }
    }
    MUST_IN(g->in, mla_model_forward(g->in, q, 2, tokens, &(mla_outputs){.hidden = states}));
    for (int i = 0, t = 0; i < 2; g->n[i] += n[i], i++)
        for (int u = 0; u < n[i]; u++, t++) {
            double want[GD];
            if (q[i].embeddings) wrong += memcmp(hidden + t * GD, given_x + u * GD, GD * sizeof *hidden) != 0;
            else grams_ref(want, g, g->ids[i], g->n[i] + u), wrong += !(far_off(hidden + t * GD, want, GD) <= bound);
        }
    return wrong;
}
/* A saved cache comes back into another one, in pieces. */
static void save_and_load(mla_cache *to, const mla_cache *from, test_rng *r) {
    const size_t n = (size_t)mla_cache_saved_bytes(from);
    unsigned char *all = HOLD(unsigned char, n);
    mla_cache_stream out, in;
    memset(&out, 0, sizeof out), memset(&in, 0, sizeof in);
    CHECK(mla_cache_save(&out, from, all, n + 1) == n, "saved bytes");
    mla_cache_reset(to);
    for (size_t at = 0, some; at < n; at += some) {
        some = 1 + (size_t)test_int(r, 400) < n - at ? 1 + (size_t)test_int(r, 300) : n - at;
        some = some < n - at ? some : n - at;
        MUST(mla_cache_load(&in, to, all + at, some, &error));
    }
    MUST(mla_cache_load(&in, to, NULL, 0, &error));
}
static void test_ngrams(void) {
    SECTION("n-gram embeddings against plain sums, through truncation, fork, save and load");
    for (int streams = 1; streams <= 2; streams++) {
        test_rng r = {31};
        grams g;
        int wrong = 0, fed = 0;
        open_grams(&g, streams);
        for (int step = 0; step < 300; step++) {
            const int i = test_int(&r, 2), what = test_int(&r, 8);
            if (what == 0 || g.n[0] > MOST - 4 || g.n[1] > MOST - 9) {
                for (int j = 0; j < 2; j++)
                    g.n[j] = test_int(&r, g.n[j] + 1), MUST(mla_cache_truncate(g.k[j], g.n[j], &error));
            } else if (what == 1) {
                MUST(mla_cache_fork(g.k[i], g.k[!i], &error));
                memcpy(g.ids[i], g.ids[!i], sizeof g.ids[i]), g.n[i] = g.n[!i];
            } else if (what == 2 && step % 4 == 0) {
                save_and_load(g.k[i], g.k[!i], &r);
                memcpy(g.ids[i], g.ids[!i], sizeof g.ids[i]), g.n[i] = g.n[!i];
            } else wrong += feed(&g, &r), fed++;
        }
        CHECK(wrong == 0 && fed > 150, "%d streams: %d embeddings of %d calls are others", streams, wrong, fed);
        const float row[64] = {0};
        CHECK(mla_cache_append(g.k[0], 1, row, &error) == MLA_ERR_ARGUMENT && strstr(error.text, "n-gram"), "%s",
              error.text);
        close_grams(&g);
    }
}
/* Rows of tables are rounded as the activations of other products are. */
static void test_ngrams_rounded(void) {
    enum { T = 7 };
    static const int tokens[T] = {5, 9, 700, 5, 5, 9, 31};
    float hidden[2][T * GD];
    grams g;
    mla_model *m;
    SECTION("n-gram embeddings with activations in bf16");
    open_grams(&g, 1);
    for (int i = 0; i < TABLES; i++) g.ngram[i].proj.weight = as_bf16(&g.ngram[i].proj.weight);
    MUST(mla_model_create(&m, &g.c, &g.w, NULL, &error));
    for (int i = 0; i < 2; i++) {
        const mla_context_desc d = {.max_tokens = T, .threads = 2, .activations = i ? MLA_ACT_BF16 : MLA_ACT_F32};
        const mla_sequence q = {.cache = g.k[i], .n_tokens = T};
        float *states[2] = {hidden[i], NULL};
        mla_context *in;
        MUST(mla_context_create(&in, m, &d, &error));
        MUST_IN(in, mla_model_forward(in, &q, 1, tokens, &(mla_outputs){.hidden = states}));
        mla_context_destroy(in);
    }
    const float e = test_rel_err(hidden[1], hidden[0], T * GD);
    CHECK(e > 1e-4f && e < 1e-2f, "%.1e off", (double)e);
    mla_model_destroy(m);
    close_grams(&g);
}
static void refuse_grams(const mla_config *c, const mla_weights *w, mla_result want, const char *text) {
    mla_model *m = NULL;
    const mla_result got = mla_model_create(&m, c, w, NULL, &error);
    CHECK(got == want && (got == MLA_OK || strstr(error.text, text)), "\"%s\" is not in \"%s\"", text, error.text);
    mla_model_destroy(m);
}
/* A model with streams whose maps are elsewhere can be made, as a part of one, but not run. */
static void test_streams_refused(void) {
    static const int tokens[] = {1};
    SECTION("streams refused by name");
    for (int i = 0; i < 2; i++) {
        grams g;
        open_grams(&g, 2);
        *(i ? &g.layer.ffn_hc : &g.layer.attn_hc) = (mla_hc_weights){{0}, {0}, {0}};
        mla_model *part = NULL;
        MUST(mla_model_create(&part, &g.c, &g.w, NULL, &error));
        mla_context *in = make_context(part, 4, 1, MLA_ISA_AUTO, MLA_ATTN_AUTO);
        const mla_sequence q = {.cache = g.k[0], .n_tokens = 1};
        CHECK(mla_model_forward(in, &q, 1, tokens, NULL) == MLA_ERR_WEIGHTS &&
                  strstr(mla_context_error(in)->text,
                         i ? "weights.layers[0].ffn_hc.fn: missing" : "weights.layers[0].attn_hc.fn: missing"),
              "%s", mla_context_error(in)->text);
        mla_context_destroy(in), mla_model_destroy(part);
        close_grams(&g);
    }
}
static void test_ngrams_refused(void) {
    grams g;
    SECTION("n-gram embeddings refused by name");
    open_grams(&g, 1);
    mla_config c = g.c;
    mla_weights w = g.w;
    c.emb_neighbor_num = 1;
    refuse_grams(&c, &w, MLA_ERR_CONFIG, "config.emb_neighbor_num: 1");
    c.emb_neighbor_num = GRAMS, c.emb_split_num = 0;
    refuse_grams(&c, &w, MLA_ERR_CONFIG, "config.emb_split_num: 0");
    c.emb_split_num = 4;
    refuse_grams(&c, &w, MLA_ERR_CONFIG, "config.emb_split_num: 12 tables, no divisor of hidden_size 30");
    c = g.c, c.num_nextn_predict_layers = 1;
    refuse_grams(&c, &w, MLA_ERR_CONFIG, "config.num_nextn_predict_layers: 1, but with n-gram embeddings");
    w.ngram = NULL;
    refuse_grams(&g.c, &w, MLA_ERR_WEIGHTS, "weights.ngram: NULL, expected 6");
    w = g.w, g.ngram[2].proj.weight.cols = 4;
    refuse_grams(&g.c, &w, MLA_ERR_WEIGHTS, "weights.ngram[2].proj.weight: [30, 4], expected [30, 5]");
    g.ngram[2].proj.weight.cols = WIDTH, g.ngram[5].table.cols = 6;
    refuse_grams(&g.c, &w, MLA_ERR_WEIGHTS, "weights.ngram[5].table: [65537, 6], expected [65537, 5]");
    g.ngram[5].table.cols = WIDTH, g.ngram[1].table.data = NULL; /* a partial model, which cannot embed */
    mla_model *part = NULL;
    MUST(mla_model_create(&part, &g.c, &w, NULL, &error));
    mla_context *in = make_context(part, 4, 1, MLA_ISA_AUTO, MLA_ATTN_AUTO);
    mla_sequence q;
    memset(&q, 0, sizeof q);
    q.cache = g.k[0], q.n_tokens = 1;
    CHECK(mla_model_forward(in, &q, 1, (int[]){1}, NULL) == MLA_ERR_WEIGHTS &&
              strstr(mla_context_error(in)->text, "ngram[1].table: missing"),
          "%s", mla_context_error(in)->text);
    mla_context_destroy(in), mla_model_destroy(part);
    c = g.c, c.emb_neighbor_num = 0; /* a cache of the other kind */
    MUST(mla_model_create(&part, &c, &w, NULL, &error));
    in = make_context(part, 4, 1, MLA_ISA_AUTO, MLA_ATTN_AUTO);
    CHECK(mla_model_forward(in, &q, 1, (int[]){1}, NULL) == MLA_ERR_ARGUMENT &&
              strstr(mla_context_error(in)->text, "n-gram"),
          "%s", mla_context_error(in)->text);
    mla_cache *other;
    MUST(mla_cache_create(&other, part, &(mla_cache_desc){.capacity = 4}, &error));
    CHECK(mla_cache_fork(other, g.k[0], &error) == MLA_ERR_ARGUMENT &&
              strstr(error.text, "only src is for a model with n-gram embeddings"),
          "%s", error.text);
    CHECK(mla_cache_fork(g.k[0], other, &error) == MLA_ERR_ARGUMENT &&
              strstr(error.text, "only dst is for a model with n-gram embeddings"),
          "%s", error.text);
    mla_cache_destroy(other);
    mla_context_destroy(in), mla_model_destroy(part);
    close_grams(&g);
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

static void refuse(const mla_config *c, const mla_layer_weights *layer, mla_result want, const char *text) {
    mla_model *m = NULL;
    const mla_result got = make_model(&m, c, layer);
    CHECK(got == want, "%s: %s, %s", text, mla_result_name(got), error.text);
    CHECK(got == MLA_OK || strstr(error.text, text), "\"%s\" is not in \"%s\"", text, error.text);
    mla_model_destroy(m);
}
static void test_refused(void) {
    const trial k = {"", 3, 6, 4, 8, 10, HEADS, 0, 1, 0, 0, 0, 0, 1};
    test_rng r = {1};
    const mla_config good = config(&k);
    mla_config c = good;
    mla_layer_weights layer, w;
    SECTION("refused by name");
    memset(&layer, 0, sizeof layer);
    layer.attn = attention(&r, &k, &good);
    refuse(&good, &layer, MLA_OK, "");
    c.q_gate = 1;
    refuse(&c, &layer, MLA_ERR_WEIGHTS, "layers[0].attn.q_b.weight: [30, 10], expected [54, 10]");
    w = layer, w.attn.q_b = linear(&r, 54, 10, 0);
    refuse(&c, &w, MLA_ERR_WEIGHTS, "layers[0].attn.gate: there, but with q_gate that of q is taken");
    c.q_gate = 2;
    refuse(&c, &w, MLA_ERR_CONFIG, "config.q_gate: 2");
    c = good, c.q_twice = 1;
    refuse(&c, &layer, MLA_ERR_WEIGHTS, "layers[0].attn.q_b.weight: [30, 10], expected [30, 20]");
    c.q_lora_rank = 0;
    refuse(&c, &layer, MLA_ERR_CONFIG, "config.q_twice: 1, but q_lora_rank is 0");
    w = layer, w.attn.gate = linear(&r, 4, 37, 0);
    refuse(&good, &w, MLA_ERR_WEIGHTS, "layers[0].attn.gate.weight: [4, 37], expected [24, 37]");
    w = layer, w.attn.sinks = tensor(&r, 1, 4, 1);
    refuse(&good, &w, MLA_ERR_WEIGHTS, "layers[0].attn.sinks: [1, 4], expected [3]");
    w = layer, w.attn.kv_b.bias = tensor(&r, 1, 42, 1);
    refuse(&good, &w, MLA_ERR_WEIGHTS, "layers[0].attn.sinks: there, but not supported together with kv_b.bias");
    w = layer, w.attn_norm = gated_norm(&r, MLA_NORM_RMS, 37, 5);
    refuse(&good, &w, MLA_ERR_CONFIG, "config.norm_gate_rank: 0, but weights.layers[0].attn_norm.gate_down is there");
    c = good, c.norm_gate_rank = 5;
    refuse(&c, &w, MLA_OK, "");
    c.norm_gate_rank = 6;
    refuse(&c, &w, MLA_ERR_WEIGHTS, "layers[0].attn_norm.gate_down: [5, 37], expected [6, 37]");
    c.norm_gate_rank = 5, w.attn_norm.gate_up.data = NULL;
    refuse(&c, &w, MLA_ERR_WEIGHTS, "layers[0].attn_norm.gate_up: missing, expected [37, 5]");
    w = layer, w.attn.q_norm = gated_norm(&r, MLA_NORM_RMS, 10, 5);
    refuse(&c, &w, MLA_ERR_WEIGHTS, "layers[0].attn.q_norm.gate_down: there, but only norms of hidden_size have gates");
    c = good, c.hc_mult = 3;
    refuse(&c, &layer, MLA_ERR_CONFIG, "config.hc_magnitude: 0");
    c.hc_magnitude = 1;
    refuse(&c, &layer, MLA_OK, "");
    w = layer, w.attn_hc = maps(&r, 3, 37, 2);
    refuse(&c, &w, MLA_OK, "");
    w.attn_hc.base.cols = 5;
    refuse(&c, &w, MLA_ERR_WEIGHTS, "layers[0].attn_hc.base: [1, 5], expected [6]");
    w = layer, w.ffn_hc = maps(&r, 3, 37, 1);
    refuse(&c, &w, MLA_ERR_WEIGHTS, "layers[0].ffn_hc.fn: [3, 111], expected [6, 111]");
    w.ffn_hc = maps(&r, 3, 37, 2), w.ffn_hc.scale.data = NULL;
    refuse(&c, &w, MLA_ERR_WEIGHTS, "layers[0].ffn_hc.scale: missing, expected [2]");
    c.num_nextn_predict_layers = 1;
    refuse(&c, &layer, MLA_ERR_CONFIG, "config.num_nextn_predict_layers: 1, but with hc_mult 3");
    mla_layer_weights two[2] = {layer, layer}; /* experts that are added behind the layer after theirs */
    mla_mlp_weights expert;
    expert.gate = linear(&r, 4, 37, 0), expert.up = linear(&r, 4, 37, 0), expert.down = linear(&r, 37, 4, 0);
    two[0].mlp = expert, two[0].moe.router = tensor(&r, 1, 37, 1), two[0].moe.experts = &expert;
    c = good, c.num_hidden_layers = 2, c.intermediate_size = c.moe_intermediate_size = 4;
    c.n_routed_experts = c.num_experts_per_tok = 1;
    refuse(&c, two, MLA_OK, "");
    c.hc_mult = 3, c.hc_magnitude = 1;
    refuse(&c, two, MLA_ERR_WEIGHTS,
           "layers[0]: both mlp and moe are there, which is not supported with hc_mult above 1");
    c = good, c.swiglu_limit = -1;
    refuse(&c, &layer, MLA_ERR_CONFIG, "config.swiglu_limit: -1");
    c = good, c.hc_mult = 65;
    refuse(&c, &layer, MLA_ERR_CONFIG, "config.hc_mult: 65");
    drop();
}

int main(void) {
    test_attention();
    test_extremes();
    test_norms();
    test_norm_types();
    test_clamp();
    test_streams();
    test_streams_bytes();
    test_parts_invariant();
    test_ngrams();
    test_ngrams_rounded();
    test_ngrams_refused();
    test_streams_refused();
    test_refused();
    return test_end();
}
