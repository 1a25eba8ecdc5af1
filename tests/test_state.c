/* test_state.c - layers with a state (Kimi Delta Attention): one layer of odd sizes against the reference of mla.h, on
   every instruction set, cut in all ways; and caches that have states: what can be cut back and what is refused, and
   random operations on caches of a whole model against fresh runs. Run from the repository root. */

#define MLA_IMPLEMENTATION
#define MLA_REFERENCE
#include "guard.h"
#include "mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "examples/checkpoint.h"
#include "examples/scheduler.h"
#include "test.h"

#include <stdlib.h>
#if defined __GLIBC__ && (__GLIBC__ > 2 || __GLIBC_MINOR__ >= 33)
#include <malloc.h>
static double in_use(void) { return (double)mallinfo2().uordblks + (double)mallinfo2().hblkhd; }
#else
static double in_use(void) { return 0; } /* not known */
#endif

static mla_error error;
static void must(mla_result r, const char *text, int line) {
    if (r == MLA_OK) return;
    CHECK(0, "line %d: %s: %s", line, mla_result_name(r), text);
    printf("cannot go on\n%d passed, %d failed\n", test_passed, test_failed);
    exit(1);
}
#define MUST(call)             must((call), error.text, __LINE__)
#define MUST_IN(context, call) must((call), mla_context_error(context)->text, __LINE__)
static void refused(mla_result got, mla_result want, const char *text, const char *word, int line) {
    CHECK(got == want && strstr(text, word), "line %d: %s instead of %s, or no \"%s\" in: %s", line,
          mla_result_name(got), mla_result_name(want), word, text);
}
#define REFUSED(call, code, word)             refused((call), code, error.text, word, __LINE__)
#define REFUSED_IN(context, call, code, word) refused((call), code, mla_context_error(context)->text, word, __LINE__)

static void *bag[256];
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
static void drop(void) {
    while (bag_n > 0) free(bag[--bag_n]);
}

#define FOR_ISA(isa)                                                                                                   \
    for (mla_isa isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa = (mla_isa)(isa + 1))                                  \
        if (TEST_ISA(isa))

/* ---- one layer --------------------------------------------------------------------------------------------------- */

typedef struct single {
    mla_config c;
    mla_layer_weights w;
    mla_model *model;
} single;

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

/* pairs: f and g of two matrices each. spread: of what decay is made of. */
static void layer_open(single *l, int D, int heads, int C, int taps, int pairs, float bound, float spread,
                       uint64_t seed) {
    test_rng r = {seed};
    mla_kda_weights *w = &l->w.kda;
    mla_weights all;
    memset(l, 0, sizeof *l), memset(&all, 0, sizeof all);
    l->c.hidden_size = D, l->c.num_hidden_layers = 1;
    l->c.linear_num_heads = heads, l->c.linear_head_dim = C, l->c.linear_conv_kernel_dim = taps;
    l->c.kda_lower_bound = bound, l->c.block_norm.eps = 1e-5f;
    w->q = linear(&r, heads * C, D), w->k = linear(&r, heads * C, D), w->v = linear(&r, heads * C, D);
    w->q_conv = tensor(&r, heads * C, taps, 0.7), w->k_conv = tensor(&r, heads * C, taps, 0.7);
    w->v_conv = tensor(&r, heads * C, taps, 0.7);
    if (pairs & 1) w->f_a = linear(&r, C, D);
    if (pairs & 2) w->g_a = linear(&r, C, D);
    w->f_b = linear(&r, heads * C, pairs & 1 ? C : D), w->g_b = linear(&r, heads * C, pairs & 2 ? C : D);
    w->b = linear(&r, heads, D), w->o = linear(&r, D, heads * C);
    w->a_log = tensor(&r, 1, heads, 1), w->dt_bias = tensor(&r, 1, heads * C, (double)spread);
    w->norm = tensor(&r, 1, C, 1);
    w->g_b.bias = tensor(&r, 1, heads * C, 0.3);
    all.layers = &l->w;
    MUST(mla_model_create(&l->model, &l->c, &all, NULL, &error));
}
static void layer_close(single *l) {
    mla_model_destroy(l->model);
    drop();
}

/* y [T, D], and the state and the inputs behind them, in double. */
static void layer_reference(const single *l, double *y, double *state, double *inputs, const float *x, int T) {
    const int D = l->c.hidden_size;
    double *xt = HOLD(double, D);
    for (int t = 0; t < T; t++) {
        for (int i = 0; i < D; i++) xt[i] = (double)x[t * D + i];
        mla__kda_ref(y + t * D, state, inputs, l->model, &l->w.kda, xt);
    }
}

static float off(const float *got, const double *want, size_t n) {
    double worst = 0, largest = 1e-30;
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)got[i] - want[i]) <= worst)) worst = fabs((double)got[i] - want[i]);
        largest = fmax(largest, fabs(want[i]));
    }
    return (float)(worst / largest);
}

static mla_context *make_context(const mla_model *m, mla_isa isa, int max_tokens, int threads) {
    mla_context_desc d;
    mla_context *c;
    memset(&d, 0, sizeof d);
    d.isa = isa, d.max_tokens = max_tokens, d.threads = threads, d.activations = MLA_ACT_F32;
    MUST(mla_context_create(&c, m, &d, &error));
    return c;
}
static mla_cache *make_cache(const mla_model *m, int capacity, mla_dtype state, int snapshots, mla_pool *pool) {
    mla_cache_desc d;
    mla_cache *k;
    memset(&d, 0, sizeof d);
    d.capacity = capacity, d.state_dtype = state, d.snapshots = snapshots, d.pool = pool;
    MUST(mla_cache_create(&k, m, &d, &error));
    return k;
}

/* Two sequences of T tokens, x [2, T, D], in calls of `cut` tokens of the one and as many, or one more, of the other. */
static void layer_run(const single *l, mla_isa isa, mla_dtype dtype, int cut, const float *x, int T, float *y,
                      float *state, float *inputs) {
    const int D = l->c.hidden_size, taps = l->c.linear_conv_kernel_dim,
              width = l->c.linear_num_heads * l->c.linear_head_dim;
    mla_context *c = make_context(l->model, isa, 2 * T, 2);
    mla_cache *k[2];
    int at[2] = {0, 0};
    for (int i = 0; i < 2; i++) k[i] = make_cache(l->model, T, dtype, 0, NULL);
    float *in = HOLD(float, 2 * T * D), *out = HOLD(float, 2 * T * D);
    while (at[0] < T || at[1] < T) {
        mla_sequence s[2];
        int n = 0, rows = 0, which[2];
        memset(s, 0, sizeof s);
        for (int i = 0; i < 2; i++) {
            const int some = cut + i < T - at[i] ? cut + i : T - at[i];
            if (some == 0) continue;
            s[n].cache = k[i], s[n].n_tokens = some, which[n++] = i;
            memcpy(in + rows * D, x + (i * T + at[i]) * D, (size_t)(some * D) * sizeof *in);
            rows += some;
        }
        MUST_IN(c, mla_attn_forward(c, 0, out, in, s, n));
        for (int i = 0, row = 0; i < n; row += s[i++].n_tokens) {
            memcpy(y + (which[i] * T + at[which[i]]) * D, out + row * D, (size_t)(s[i].n_tokens * D) * sizeof *y);
            at[which[i]] += s[i].n_tokens;
        }
    }
    for (int i = 0; i < 2; i++) {
        MUST(mla_cache_read_state(k[i], 0, state + i * width * l->c.linear_head_dim,
                                  inputs + i * 3 * (taps - 1) * width, &error));
        mla_cache_destroy(k[i]);
    }
    mla_context_destroy(c);
}

static void test_layer(void) {
    static const struct shape {
        int D, heads, C, taps, pairs;
        float bound, spread;
    } shapes[] = {{24, 2, 16, 4, 3, 0, 1},  {17, 3, 5, 3, 0, -5, 1},    {40, 1, 33, 1, 1, 0, 3},
                  {33, 2, 64, 4, 2, -5, 4}, {16, 1, 1, 2, 3, -2.5f, 1}, {20, 1, 128, 4, 3, 0, 6}};
    enum { T = 150 };
    SECTION("one layer of odd sizes");
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct shape *h = &shapes[i];
        const int n_state = h->heads * h->C * h->C, n_in = 3 * (h->taps - 1) * h->heads * h->C, D = h->D;
        test_rng r = {77 + i};
        single l;
        layer_open(&l, D, h->heads, h->C, h->taps, h->pairs, h->bound, h->spread, 5 + i);
        float *x = HOLD(float, 2 * T * D), *y = HOLD(float, 2 * T * D), *state = HOLD(float, 2 * n_state),
              *inputs = HOLD(float, 2 * n_in);
        double *want = HOLD(double, 2 * T * D), *want_state = HOLD(double, 2 * n_state),
               *want_in = HOLD(double, 2 * n_in);
        test_fill(&r, x, (size_t)(2 * T * D), 1);
        for (int j = 0; j < 2; j++)
            layer_reference(&l, want + j * T * D, want_state + j * n_state, want_in + j * n_in, x + j * T * D, T);
        FOR_ISA(isa) {
            static const int cuts[] = {1, 7, 16, 48, 64, 150};
            for (size_t j = 0; j < sizeof cuts / sizeof *cuts; j++) {
                if (TEST_SPARED(isa) && cuts[j] < 48) continue;
                layer_run(&l, isa, MLA_F32, cuts[j], x, T, y, state, inputs);
                const float e = off(y, want, (size_t)(2 * T * D)), es = off(state, want_state, (size_t)(2 * n_state)),
                            ei = off(inputs, want_in, (size_t)(2 * n_in));
                CHECK(e < 1e-5f && es < 1e-5f && ei < 1e-5f,
                      "shape %d, %s, calls of %d: y off by %.1e, states %.1e, "
                      "inputs %.1e",
                      (int)i, mla_isa_name(isa), cuts[j], (double)e, (double)es, (double)ei);
            }
        }
        layer_close(&l);
    }
}

/* Chunks of a strong decay take floats that lose digits as zero; the caller's thread does not, behind the call. */
static void test_tiny(void) {
    enum { T = 64, D = 20 };
    test_rng r = {78};
    single l;
    volatile float small = 1e-30f, tiny;
    SECTION("floats that lose digits");
    layer_open(&l, D, 1, 128, 4, 3, -5, 6, 9);
    float *x = HOLD(float, T *D), *y = HOLD(float, T *D);
    test_fill(&r, x, T * D, 1);
    FOR_ISA(isa) {
        mla_context *c = make_context(l.model, isa, T, 1);
        mla_cache *k = make_cache(l.model, T, MLA_F32, 0, NULL);
        const mla_sequence s = {.cache = k, .n_tokens = T};
        MUST_IN(c, mla_attn_forward(c, 0, y, x, &s, 1));
        tiny = small * 1e-10f;
        CHECK(tiny > 0, "%s: 1e-30 * 1e-10 is 0 behind a call", mla_isa_name(isa));
        mla_cache_destroy(k), mla_context_destroy(c);
    }
    layer_close(&l);
}

/* ---- caches of a whole model ------------------------------------------------------------------------------------- */

enum { CAPACITY = 44, SUBJECTS = 4, LAYERS = 4, SLOTS = 6, FEW = 7 };

typedef struct whole {
    checkpoint *files;
    mla_model *model;
    mla_context *context, *other; /* other: fresh runs are made in */
    mla_cache *fresh;
    int V, D, L, state, inputs, phases; /* phases: calls go on for so many */
    float *logits, *want;
} whole;

static int count_phases(void *user, int layer, int layers, mla_phase phase) {
    whole *w = (whole *)user;
    (void)layer, (void)layers, (void)phase;
    return w->phases-- <= 0;
}

static void whole_open(whole *w, const char *path) {
    mla_context_desc d;
    memset(w, 0, sizeof *w), memset(&d, 0, sizeof d);
    MUST(checkpoint_open(&w->files, path, &error));
    MUST(mla_model_create(&w->model, &w->files->config, &w->files->weights, NULL, &error));
    d.max_tokens = 2 * CAPACITY, d.threads = 1, d.activations = MLA_ACT_F32, d.invariant = 1;
    MUST(mla_context_create(&w->other, w->model, &d, &error));
    d.watch = count_phases, d.watch_user = w;
    MUST(mla_context_create(&w->context, w->model, &d, &error));
    w->fresh = make_cache(w->model, CAPACITY, MLA_F32, 0, NULL);
    const mla_config *c = mla_model_config(w->model);
    w->V = c->vocab_size, w->D = c->hidden_size, w->L = c->num_hidden_layers;
    CHECK(w->L <= LAYERS && w->D <= 64, "%s is too large", path);
    w->state = c->linear_num_heads * c->linear_head_dim * c->linear_head_dim;
    w->inputs = w->state ? 3 * (c->linear_conv_kernel_dim - 1) * c->linear_num_heads * c->linear_head_dim : 0;
    w->logits = HOLD(float, 2 * w->V), w->want = HOLD(float, w->V);
}
static void whole_close(whole *w) {
    mla_cache_destroy(w->fresh);
    mla_context_destroy(w->context), mla_context_destroy(w->other);
    mla_model_destroy(w->model);
    checkpoint_close(w->files);
    drop();
}

typedef struct subject {
    mla_cache *cache;
    int tokens[CAPACITY], n;
} subject;

/* The logits of the last token, and the states or the last row, are those of a fresh run: bit for bit, for contexts are
   invariant, and calls of few tokens are as tokens one by one. */
static void check_against_fresh(whole *w, const subject *s, const float *logits, const char *what) {
    const size_t n =
        (size_t)(w->state ? w->state + w->inputs
                          : mla_model_config(w->model)->kv_lora_rank + mla_model_config(w->model)->qk_rope_head_dim);
    float *got = HOLD(float, n), *want = HOLD(float, n);
    mla_sequence some;
    mla_outputs out;
    memset(&some, 0, sizeof some), memset(&out, 0, sizeof out);
    mla_cache_reset(w->fresh);
    some.cache = w->fresh, some.n_logits = 1, out.logits = w->want;
    for (int at = 0; at < s->n; at += some.n_tokens) {
        some.n_tokens = s->n - at < FEW ? s->n - at : FEW;
        MUST_IN(w->other, mla_model_forward(w->other, &some, 1, s->tokens + at, &out));
    }
    if (logits)
        CHECK(!memcmp(logits, w->want, sizeof *logits * (size_t)w->V), "%s: logits off by %.1e", what,
              (double)test_rel_err(logits, w->want, (size_t)w->V));
    for (int l = 0; l < w->L; l += w->state ? 2 : 1) {
        for (int i = 0; i < 2; i++) {
            float *to = i ? got : want;
            const mla_cache *from = i ? s->cache : w->fresh;
            if (w->state) MUST(mla_cache_read_state(from, l, to, to + w->state, &error));
            else MUST(mla_cache_read(from, l, s->n - 1, to, &error));
        }
        CHECK(!memcmp(got, want, sizeof *got * n), "%s: layer %d holds something else, off by %.1e", what, l,
              (double)test_rel_err(got, want, n));
    }
    free(bag[--bag_n]), free(bag[--bag_n]);
}

/* n more tokens of up to two subjects in a call, perhaps in two ranges of layers; at most so many phases. */
static mla_result go_on(whole *w, subject **s, const int *n, int n_subjects, int ranges, int phases, test_rng *r) {
    mla_sequence q[2];
    mla_outputs out;
    int tokens[2 * CAPACITY], at = 0;
    static float hidden[2 * CAPACITY * 64];
    float *states[LAYERS + 1] = {NULL};
    memset(q, 0, sizeof q), memset(&out, 0, sizeof out);
    for (int i = 0; i < n_subjects; i++) {
        q[i].cache = s[i]->cache, q[i].n_tokens = n[i], q[i].n_logits = 1;
        for (int j = 0; j < n[i]; j++) tokens[at + j] = s[i]->tokens[s[i]->n + j] = test_int(r, w->V);
        at += n[i];
    }
    w->phases = phases;
    mla_result rc = MLA_OK;
    if (ranges) {
        const int cut = 1 + test_int(r, w->L - 1);
        states[cut] = hidden, out.hidden = states;
        rc = mla_layers_forward(w->context, 0, cut, q, n_subjects, tokens, &out);
        for (int i = 0, row = 0; i < n_subjects; row += n[i++]) q[i].embeddings = hidden + row * w->D;
        out.hidden = NULL, out.logits = w->logits;
        if (!rc) rc = mla_layers_forward(w->context, cut, w->L, q, n_subjects, NULL, &out);
    } else {
        out.logits = w->logits;
        rc = mla_model_forward(w->context, q, n_subjects, tokens, &out);
    }
    for (int i = 0; i < n_subjects && !rc; i++) s[i]->n += n[i];
    return rc;
}

static void copy_by_bytes(subject *to, const subject *from) {
    mla_cache_stream out, in;
    unsigned char piece[777];
    memset(&out, 0, sizeof out), memset(&in, 0, sizeof in);
    mla_cache_reset(to->cache);
    uint64_t sum = 0;
    for (size_t n; (n = mla_cache_save(&out, from->cache, piece, sizeof piece)) > 0; sum += n)
        MUST(mla_cache_load(&in, to->cache, piece, n, &error));
    MUST(mla_cache_load(&in, to->cache, NULL, 0, &error));
    CHECK(sum == mla_cache_saved_bytes(from->cache), "saved bytes");
}

static int asked; /* for memory */
static void *no_memory(void *user, size_t bytes) {
    (void)user, (void)bytes;
    asked++;
    return NULL;
}

/* Slots lie in the memory that a cache, or a pool, is given: nothing else is taken, and nothing beside it written. */
static void test_memory(void) {
    enum { GUARD = 64, N = 5 };
    whole w;
    subject s;
    test_rng r = {91};
    SECTION("snapshots in memory of the caller's");
    whole_open(&w, "tests/fixtures/checkpoints/kimi_linear");
    for (int pooled = 0; pooled < 2; pooled++) {
        mla_pool_desc p;
        mla_cache_desc d;
        mla_pool *pool = NULL;
        memset(&p, 0, sizeof p), memset(&d, 0, sizeof d), memset(&s, 0, sizeof s);
        p.n_pages = 1, p.snapshots = 2, p.alloc.alloc = d.alloc.alloc = no_memory;
        d.capacity = CAPACITY, d.snapshots = pooled ? 0 : 2;
        const size_t pool_bytes = mla_pool_size(w.model, &p);
        unsigned char *memory = HOLD(unsigned char, pool_bytes + GUARD), *cache_memory;
        memset(memory + pool_bytes, 0xa5, GUARD);
        if (pooled) MUST(mla_pool_init(&pool, memory, pool_bytes, w.model, &p, &error));
        d.pool = pool;
        const size_t bytes = mla_cache_size(w.model, &d);
        cache_memory = HOLD(unsigned char, bytes + GUARD), memset(cache_memory + bytes, 0xa5, GUARD);
        MUST(mla_cache_init(&s.cache, cache_memory, bytes, w.model, &d, &error));
        subject *one[1] = {&s};
        const int some[1] = {N};
        for (int i = 0; i < 3; i++) {
            MUST_IN(w.context, go_on(&w, one, some, 1, 0, 1000, &r));
            if (i < 2) MUST(mla_cache_snapshot(s.cache, &error));
        }
        REFUSED(mla_cache_snapshot(s.cache, &error), MLA_ERR_FULL, "all 2 slots");
        CHECK(!pooled || mla_pool_free_slots(pool) == 0, "slots of the pool");
        for (int at = 2 * N; at > 0; at -= N) { /* back to it, and on from there */
            MUST(mla_cache_truncate(s.cache, at, &error)), s.n = at;
            check_against_fresh(&w, &s, NULL, "a snapshot");
            MUST_IN(w.context, go_on(&w, one, some, 1, 0, 1000, &r));
            check_against_fresh(&w, &s, w.logits, "on from a snapshot");
        }
        for (int i = 0; i < GUARD; i++)
            CHECK(memory[pool_bytes + (size_t)i] == 0xa5 && cache_memory[bytes + (size_t)i] == 0xa5, "beside it");
        CHECK(asked == 0, "memory was asked for");
        mla_cache_destroy(s.cache), mla_pool_destroy(pool);
    }
    whole_close(&w);
}

/* Sequences that begin and end, in a pool and out of it: what they hold is what a fresh run gives, and nothing stays. */
static void test_random(const char *path, int steps) {
    static const char *const names[] = {"run",  "two",   "ranges", "snapshot", "truncate", "cut",
                                        "fork", "bytes", "forget", "abort",    "free"};
    enum { OPERATIONS = sizeof names / sizeof *names };
    whole w;
    subject s[SUBJECTS];
    mla_pool *pool;
    mla_pool_desc p;
    test_rng r = {20};
    int sequences = SUBJECTS;
    double memory = 0;
    SECTION("random operations");
    whole_open(&w, path);
    memset(s, 0, sizeof s), memset(&p, 0, sizeof p);
    p.n_pages = 8, p.snapshots = SLOTS;
    MUST(mla_pool_create(&pool, w.model, &p, &error));
    for (int i = 0; i < SUBJECTS; i++) s[i].cache = make_cache(w.model, CAPACITY, MLA_F32, SLOTS, i < 2 ? pool : NULL);
    const int slots = mla_pool_free_slots(pool);
    for (int step = 0; step < steps; step++) {
        if (step == steps / 4) memory = in_use();
        const int op = test_int(&r, OPERATIONS), a = test_int(&r, SUBJECTS),
                  b = (a + 1 + test_int(&r, SUBJECTS - 1)) % SUBJECTS;
        subject *both[2] = {&s[a], &s[b]};
        int n[2] = {1 + test_int(&r, 9), 1 + test_int(&r, 5)}, positions[SLOTS], expected = 0;
        char what[64];
        snprintf(what, sizeof what, "step %d, %s of %d", step, names[op], a);
        const int length = mla_cache_length(s[a].cache), to = test_int(&r, length + 1);
        if (s[a].n + n[0] > CAPACITY) mla_cache_reset(s[a].cache), s[a].n = 0;
        if (s[b].n + n[1] > CAPACITY) mla_cache_reset(s[b].cache), s[b].n = 0;
        const int had = mla_cache_snapshots(s[a].cache, positions, SLOTS), now = mla_cache_length(s[a].cache);
        if (op <= 2) {
            MUST_IN(w.context, go_on(&w, both, n, 1 + (op == 1), op == 2, 1000, &r));
            check_against_fresh(&w, &s[a], w.logits, what);
            if (op == 1) check_against_fresh(&w, &s[b], w.logits + w.V, what);
        } else if (op == 3) {
            if (mla_cache_snapshot(s[a].cache, &error) != MLA_OK)
                CHECK(error.code == MLA_ERR_FULL && (a < 2 ? mla_pool_free_slots(pool) == 0 : had == SLOTS), "%s: %s",
                      what, error.text);
        } else if (op <= 5 && to <= now) {
            for (int i = 0; i < had; i++) expected = positions[i] <= to ? positions[i] : expected;
            const int cut = mla_cache_cut(s[a].cache, to), goal = op == 4 ? to : cut;
            CHECK(cut <= to && cut >= (to == now ? now : expected), "%s: %d for %d of %d", what, cut, to, now);
            const mla_result rc = mla_cache_truncate(s[a].cache, goal, &error);
            CHECK((rc == MLA_OK) == (goal == cut), "%s to %d: %s", what, goal, rc ? error.text : "taken");
            if (!rc) s[a].n = goal;
            if (!rc && goal > 0) check_against_fresh(&w, &s[a], NULL, what);
        } else if (op == 6) {
            MUST(mla_cache_fork(s[b].cache, s[a].cache, &error));
            memcpy(s[b].tokens, s[a].tokens, sizeof s[a].tokens), s[b].n = s[a].n;
            int got[SLOTS];
            const int copied = mla_cache_snapshots(s[b].cache, got, SLOTS),
                      full = b < 2 && mla_pool_free_slots(pool) == 0;
            CHECK((a < 2 && b < 2) || !full ? copied == had : copied <= had, "%s: %d snapshots of %d", what, copied,
                  had);
            for (int i = 0; i < copied; i++)
                CHECK(got[i] == positions[had - copied + i], "%s: a snapshot at %d", what, got[i]);
        } else if (op == 7) {
            copy_by_bytes(&s[b], &s[a]);
            memcpy(s[b].tokens, s[a].tokens, sizeof s[a].tokens), s[b].n = s[a].n;
        } else if (op == 8 && had > 0) mla_cache_forget(s[a].cache, positions[test_int(&r, had)]);
        else if (op == 9) {
            CHECK(go_on(&w, both, n, 2, 0, test_int(&r, 2 * w.L), &r) == MLA_ERR_ABORTED, "%s: not aborted", what);
            if (s[a].n > 0) check_against_fresh(&w, &s[a], NULL, what);
        } else if (op == 10) { /* its pages and slots are free at once, but for those that others hold, too */
            const int free_pages = mla_pool_free_pages(pool);
            mla_cache_destroy(s[a].cache);
            CHECK(a < 2 ? mla_pool_free_pages(pool) >= free_pages : mla_pool_free_pages(pool) == free_pages,
                  "%s: pages", what);
            s[a].cache = make_cache(w.model, CAPACITY, MLA_F32, SLOTS, a < 2 ? pool : NULL), s[a].n = 0, sequences++;
        }
        for (int i = 0; i < SUBJECTS; i++)
            CHECK(mla_cache_length(s[i].cache) == s[i].n, "%s: %d holds %d of %d", what, i,
                  mla_cache_length(s[i].cache), s[i].n);
    }
    CHECK(in_use() < memory + 65536, "%.0f bytes more are held than at first", in_use() - memory);
    for (int i = 0; i < SUBJECTS; i++) mla_cache_destroy(s[i].cache);
    CHECK(mla_pool_free_slots(pool) == slots && mla_pool_free_pages(pool) == 8, "slots and pages are given back");
    CHECK(sequences > steps / 16, "%d sequences", sequences);
    mla_pool_destroy(pool);
    whole_close(&w);
}

/* A fork into a pool whose slots others hold does without snapshots; with one free the latest is copied. */
static void test_fork_slots(void) {
    whole w;
    subject s[3];
    mla_pool *pool;
    test_rng r = {4};
    SECTION("forks into pools without slots");
    whole_open(&w, "tests/fixtures/checkpoints/kimi_linear");
    memset(s, 0, sizeof s);
    MUST(mla_pool_create(&pool, w.model, &(mla_pool_desc){.n_pages = 4, .snapshots = 2}, &error));
    for (int i = 0; i < 3; i++) s[i].cache = make_cache(w.model, CAPACITY, MLA_F32, 2, i < 2 ? pool : NULL);
    for (int i = 0; i < 4; i++) {
        subject *one[1] = {&s[i < 2 ? 0 : 2]};
        const int n = 3;
        MUST_IN(w.context, go_on(&w, one, &n, 1, 0, 1000, &r));
        MUST(mla_cache_snapshot(one[0]->cache, &error));
    }
    for (int left = 0; left < 3; left++) {
        int at[2] = {0, 0};
        MUST(mla_cache_fork(s[1].cache, s[2].cache, &error));
        const int n = mla_cache_snapshots(s[1].cache, at, 2);
        CHECK(n == left && at[0] == (left == 0 ? 0 : left == 1 ? 6 : 3), "%d snapshots, %d slots are free", n, left);
        CHECK(mla_pool_free_slots(pool) == 0, "%d slots", mla_pool_free_slots(pool));
        memcpy(s[1].tokens, s[2].tokens, sizeof s[1].tokens), s[1].n = s[2].n;
        check_against_fresh(&w, &s[1], NULL, "a fork");
        if (left < 2) mla_cache_forget(s[0].cache, left ? 6 : 3);
    }
    for (int i = 0; i < 3; i++) mla_cache_destroy(s[i].cache);
    CHECK(mla_pool_free_slots(pool) == 2, "slots are given back");
    mla_pool_destroy(pool);
    whole_close(&w);
}

/* What is said where, and what is refused by name. */
static void test_refusals(void) {
    whole w;
    subject s, t;
    test_rng r = {3};
    float row[4096], mask[64 * 64] = {0}, state[4096], inputs[4096];
    const int some[2] = {5, 3};
    int positions[2];
    subject *both[2] = {&s, &t};
    SECTION("what states refuse");
    whole_open(&w, "tests/fixtures/checkpoints/kimi_linear");
    memset(&s, 0, sizeof s), memset(&t, 0, sizeof t);
    s.cache = make_cache(w.model, CAPACITY, MLA_F32, 2, NULL),
    t.cache = make_cache(w.model, CAPACITY, MLA_BF16, 0, NULL);
    REFUSED(mla_cache_append(s.cache, 1, row, &error), MLA_ERR_ARGUMENT, "layer 0 has a state");
    REFUSED(mla_cache_read_state(s.cache, 0, state, inputs, &error), MLA_ERR_ARGUMENT, "not been run");
    MUST_IN(w.context, go_on(&w, both, some, 2, 0, 1000, &r));
    MUST_IN(w.context, go_on(&w, both, some, 2, 0, 1000, &r));
    CHECK(mla_cache_cut(s.cache, 10) == 10 && mla_cache_cut(s.cache, 9) == 5 && mla_cache_cut(s.cache, 4) == 0 &&
              mla_cache_cut(s.cache, 99) == 10 && mla_cache_cut(s.cache, -1) == -1 && mla_cache_cut(NULL, 1) == -1,
          "the call's beginning stays, and nothing before");
    REFUSED(mla_cache_truncate(s.cache, 9, &error), MLA_ERR_ARGUMENT, "the nearest are kept at 5");
    REFUSED(mla_cache_snapshot(t.cache, &error), MLA_ERR_FULL, "all 0 slots");
    MUST(mla_cache_snapshot(s.cache, &error));
    MUST(mla_cache_snapshot(s.cache, &error));
    MUST_IN(w.context, go_on(&w, both, some, 1, 0, 1000, &r));
    MUST(mla_cache_snapshot(s.cache, &error));
    MUST_IN(w.context, go_on(&w, both, some, 1, 0, 1000, &r));
    REFUSED(mla_cache_snapshot(s.cache, &error), MLA_ERR_FULL, "all 2 slots");
    CHECK(mla_cache_snapshots(s.cache, positions, 2) == 2 && positions[0] == 10 && positions[1] == 15, "positions");
    mla_cache_forget(s.cache, 11), mla_cache_forget(s.cache, 10);
    CHECK(mla_cache_snapshots(s.cache, positions, 2) == 1 && positions[0] == 15, "one is forgotten");
    REFUSED(mla_cache_fork(t.cache, s.cache, &error), MLA_ERR_ARGUMENT, "bf16");
    REFUSED(mla_cache_read(s.cache, 0, 1, row, &error), MLA_ERR_ARGUMENT, "mla_cache_read_state");
    REFUSED(mla_cache_read_state(s.cache, 1, state, inputs, &error), MLA_ERR_ARGUMENT, "layer 1 has no state");
    mla_sequence q;
    memset(&q, 0, sizeof q);
    q.cache = s.cache, q.n_tokens = 1, q.mask = mask;
    REFUSED_IN(w.other, mla_model_forward(w.other, &q, 1, s.tokens, NULL), MLA_ERR_ARGUMENT, "layer 0 has a state");
    q.mask = NULL;
    /* a layer whose state has not come so far */
    MUST_IN(w.other, mla_layers_forward(w.other, 0, 0, &q, 1, s.tokens, NULL));
    q.n_tokens = 2;
    float hidden[2 * 64], *states[LAYERS + 1] = {NULL};
    mla_outputs out;
    memset(&out, 0, sizeof out);
    states[2] = hidden, out.hidden = states;
    MUST_IN(w.other, mla_layers_forward(w.other, 0, 2, &q, 1, s.tokens, &out));
    REFUSED(mla_cache_extend(s.cache, 1, &error), MLA_ERR_ARGUMENT, "states, of all 2");
    MUST(mla_cache_extend(s.cache, 2, &error));
    q.embeddings = hidden;
    REFUSED_IN(w.other, mla_layers_forward(w.other, 2, 4, &q, 1, NULL, NULL), MLA_ERR_ARGUMENT,
               "layer 2 has rows for 20");
    /* probabilities of layers without keys */
    float *probs = HOLD(float, LAYERS * 3 * 4 * 6);
    memset(&q, 0, sizeof q), test_fill(&r, probs, LAYERS * 3 * 4 * 6, 1);
    mla_cache_truncate(t.cache, mla_cache_cut(t.cache, 3), NULL);
    q.cache = t.cache, q.n_tokens = 3, q.probs = probs;
    MUST_IN(w.other, mla_model_forward(w.other, &q, 1, t.tokens, NULL));
    CHECK(test_max_abs(probs, 3 * 4 * 6) == 0 && test_max_abs(probs + 3 * 4 * 6, 3 * 4 * 6) > 0, "probabilities");
    mla_cache_destroy(s.cache), mla_cache_destroy(t.cache);
    whole_close(&w);
}

/* What a cache of one model is to another, whose layers have states elsewhere, or of another size. */
static void test_other_models(void) {
    whole w;
    mla_layer_weights layers[LAYERS];
    mla_weights turned;
    mla_model *m;
    mla_pool *pool;
    mla_cache *k, *other;
    mla_cache_stream in;
    mla_cache_desc d;
    static unsigned char bytes[1 << 20];
    static const int tokens[] = {1, 2};
    SECTION("caches of other models");
    whole_open(&w, "tests/fixtures/checkpoints/kimi_linear");
    for (int i = 0; i < w.L; i++) layers[i] = w.files->layers[i];
    layers[0].attn = w.files->layers[1].attn, layers[0].kda = w.files->layers[1].kda; /* a state in 1, rows in 0 */
    layers[1].attn = w.files->layers[0].attn, layers[1].kda = w.files->layers[0].kda;
    turned = w.files->weights, turned.layers = layers;
    MUST(mla_model_create(&m, &w.files->config, &turned, NULL, &error));
    MUST(mla_pool_create(&pool, m, &(mla_pool_desc){.n_pages = 4}, &error));
    k = make_cache(w.model, CAPACITY, MLA_F32, 0, NULL), other = make_cache(m, CAPACITY, MLA_F32, 0, NULL);
    REFUSED(mla_cache_fork(other, k, &error), MLA_ERR_ARGUMENT, "layer 0 has a state in src only");
    REFUSED(mla_cache_fork(k, other, &error), MLA_ERR_ARGUMENT, "layer 0 has a state in dst only");
    memset(&d, 0, sizeof d), d.capacity = 9, d.pool = pool;
    mla_cache *none = NULL;
    REFUSED(mla_cache_create(&none, w.model, &d, &error), MLA_ERR_ARGUMENT, "layer 0");
    mla_sequence q;
    memset(&q, 0, sizeof q), q.cache = other, q.n_tokens = 2;
    REFUSED_IN(w.other, mla_model_forward(w.other, &q, 1, tokens, NULL), MLA_ERR_ARGUMENT,
               "sequences[0].cache: made for another model (layer 0 keeps something else)");
    q.cache = k;
    MUST_IN(w.other, mla_model_forward(w.other, &q, 1, tokens, NULL));
    mla_cache_stream out;
    memset(&out, 0, sizeof out), memset(&in, 0, sizeof in);
    const size_t n = mla_cache_save(&out, k, bytes, sizeof bytes);
    REFUSED(mla_cache_load(&in, other, bytes, n, &error), MLA_ERR_DATA, "has a state in layer 0");
    mla_cache_destroy(k), mla_cache_destroy(other), mla_pool_destroy(pool), mla_model_destroy(m);
    whole_close(&w);
    single a, b;
    layer_open(&a, 24, 2, 16, 4, 3, 0, 1, 5);
    mla_cache *of_a = make_cache(a.model, 8, MLA_F32, 0, NULL);
    layer_open(&b, 24, 2, 8, 4, 3, 0, 1, 5);
    mla_cache *of_b = make_cache(b.model, 8, MLA_F32, 0, NULL);
    REFUSED(mla_cache_fork(of_b, of_a, &error), MLA_ERR_ARGUMENT, "states of 512 values in f32");
    memset(&out, 0, sizeof out), memset(&in, 0, sizeof in);
    const size_t n_a = mla_cache_save(&out, of_a, bytes, sizeof bytes);
    REFUSED(mla_cache_load(&in, of_b, bytes, n_a, &error), MLA_ERR_DATA, "the states are of another size");
    memset(&in, 0, sizeof in), bytes[4] = 1;
    REFUSED(mla_cache_load(&in, of_a, bytes, n_a, &error), MLA_ERR_DATA,
            "only one of the saved cache and this has states");
    memset(&in, 0, sizeof in), bytes[4] = 4;
    REFUSED(mla_cache_load(&in, of_a, bytes, n_a, &error), MLA_ERR_DATA, "this has ids of tokens");
    float state[600], inputs[600];
    REFUSED(mla_cache_read_state(NULL, 0, state, inputs, &error), MLA_ERR_ARGUMENT, "cache is NULL");
    REFUSED(mla_cache_read_state(of_a, 0, NULL, inputs, &error), MLA_ERR_ARGUMENT, "state is NULL");
    REFUSED(mla_cache_read_state(of_a, 0, state, NULL, &error), MLA_ERR_ARGUMENT, "inputs is NULL");
    memset(&d, 0, sizeof d), d.capacity = 8, d.state_dtype = MLA_F16;
    REFUSED(mla_cache_create(&none, a.model, &d, &error), MLA_ERR_ARGUMENT, "state_dtype: f16, must be f32 or bf16");
    mla_weights all;
    memset(&all, 0, sizeof all), all.layers = &b.w;
    static const float bounds[] = {1, -HUGE_VALF, HUGE_VALF, NAN};
    for (int i = 0; i < 4; i++) {
        mla_config c = b.c;
        c.kda_lower_bound = bounds[i];
        REFUSED(mla_model_create(&m, &c, &all, NULL, &error), MLA_ERR_CONFIG, "kda_lower_bound: ");
    }
    mla_cache_destroy(of_a), mla_cache_destroy(of_b);
    mla_model_destroy(a.model), layer_close(&b);
}

/* States in bf16 between calls: what it costs. And from one dtype to the other by bytes. */
static void test_bf16(void) {
    whole w;
    subject s, t;
    test_rng r = {8};
    SECTION("states in bf16");
    whole_open(&w, "tests/fixtures/checkpoints/kimi_linear");
    memset(&s, 0, sizeof s), memset(&t, 0, sizeof t);
    s.cache = make_cache(w.model, CAPACITY, MLA_BF16, 0, NULL),
    t.cache = make_cache(w.model, CAPACITY, MLA_F32, 0, NULL);
    float worst = 0;
    subject *both[1] = {&s};
    for (int n = 1; s.n < CAPACITY; n = 1) {
        MUST_IN(w.context, go_on(&w, both, &n, 1, 0, 1000, &r));
        mla_sequence all;
        mla_outputs out;
        memset(&all, 0, sizeof all), memset(&out, 0, sizeof out);
        all.cache = w.fresh, all.n_tokens = s.n, all.n_logits = 1, out.logits = w.want;
        mla_cache_reset(w.fresh);
        MUST_IN(w.other, mla_model_forward(w.other, &all, 1, s.tokens, &out));
        const float e = test_rel_err(w.logits, w.want, (size_t)w.V);
        worst = e > worst ? e : worst;
    }
    printf("    logits off by %.1e of the largest\n", (double)worst);
    CHECK(worst > 1e-5f && worst < 3e-2f, "off by %.1e", (double)worst);
    copy_by_bytes(&t, &s);
    float a[4096], b[4096], in[4096];
    MUST(mla_cache_read_state(s.cache, 2, a, in, &error));
    MUST(mla_cache_read_state(t.cache, 2, b, in, &error));
    CHECK(!memcmp(a, b, (size_t)w.state * sizeof *a), "bf16 becomes f32 as it is");
    mla_cache_destroy(s.cache), mla_cache_destroy(t.cache);
    whole_close(&w);
}

/* ---- many requests ----------------------------------------------------------------------------------------------- */

typedef struct answer {
    int tokens[8], n, cached;
} answer;
static void on_event(void *user, const scheduler_event *e) {
    answer *a = (answer *)user;
    if (e->token >= 0 && a->n < 8) a->tokens[a->n++] = e->token;
    a->cached = e->n_cached;
}

/* A prompt that comes again is found with its states, as far as they are kept; answers are those of the prompt alone. */
static void test_scheduler(void) {
    enum { PROMPT = 333, ANSWER = 6 };
    static const int most[] = {1, 2, 64}, cached[] = {256, 320, 320};
    int tokens[PROMPT + ANSWER];
    test_rng r = {31};
    whole w;
    mla_sequence q;
    mla_outputs out;
    SECTION("a scheduler's prefixes");
    whole_open(&w, "tests/fixtures/checkpoints/kimi_linear");
    for (int i = 0; i < PROMPT; i++) tokens[i] = test_int(&r, w.V);
    mla_context *c = make_context(w.model, MLA_ISA_AUTO, 512, 1);
    mla_cache *k = make_cache(w.model, PROMPT + ANSWER, MLA_F32, 0, NULL);
    for (int n = PROMPT, at = 0; at < PROMPT + ANSWER - 1; at += n, n = 1) { /* greedily, alone */
        memset(&q, 0, sizeof q), memset(&out, 0, sizeof out);
        q.cache = k, q.n_tokens = n, q.n_logits = 1, out.logits = w.logits;
        MUST_IN(c, mla_model_forward(c, &q, 1, tokens + at, &out));
        int best = 0;
        for (int v = 1; v < w.V; v++) best = w.logits[v] > w.logits[best] ? v : best;
        tokens[at + n] = best;
    }
    for (size_t i = 0; i < sizeof most / sizeof *most; i++) {
        scheduler *s;
        scheduler_desc d;
        memset(&d, 0, sizeof d);
        d.model = w.model, d.context = c, d.parallel = 2, d.context_length = 512, d.states = most[i], d.any_cut = 1;
        MUST(scheduler_create(&s, &d, &error));
        for (int again = 0; again < 2; again++) {
            answer a;
            scheduler_request request;
            memset(&a, 0, sizeof a), memset(&request, 0, sizeof request);
            request.tokens = tokens, request.n_tokens = PROMPT, request.max_tokens = ANSWER;
            request.on_event = on_event, request.user = &a;
            MUST(scheduler_submit(s, &request, NULL, &error));
            while (scheduler_step(s)) continue;
            CHECK(a.n == ANSWER && !memcmp(a.tokens, tokens + PROMPT, sizeof(int) * ANSWER), "%d states: other tokens",
                  most[i]);
            CHECK(a.cached == (again ? cached[i] : 0), "%d states: %d tokens found", most[i], a.cached);
        }
        scheduler_destroy(s);
    }
    mla_cache_destroy(k), mla_context_destroy(c);
    whole_close(&w);
}

/* States of a long prompt lie further and further apart; it, and what goes on behind it, begin at its last whole chunk. */
static void test_long(void) {
    enum { CHUNK = MLA_PAGE, LONG = 26 * CHUNK - 10 };
    static const int n[] = {LONG, LONG, LONG + 7, LONG + 5 * CHUNK, 22 * CHUNK + 1, 23 * CHUNK + 1},
                     cached[] = {0, 25 * CHUNK, 25 * CHUNK, 25 * CHUNK, 22 * CHUNK, 22 * CHUNK};
    int tokens[LONG + 5 * CHUNK], alone[6] = {0};
    test_rng r = {32};
    whole w;
    SECTION("a scheduler's prefixes of a long prompt");
    whole_open(&w, "tests/fixtures/checkpoints/kimi_linear");
    for (int i = 0; i < LONG + 5 * CHUNK; i++) tokens[i] = test_int(&r, w.V);
    mla_context *c = make_context(w.model, MLA_ISA_AUTO, 4 * CHUNK, 1);
    for (int kept = 0; kept < 2; kept++) {
        scheduler *s;
        scheduler_desc d;
        memset(&d, 0, sizeof d);
        /* 20 chunks, 22, 24, 25: LONG has 23 prefixes */
        d.model = w.model, d.context = c, d.parallel = 2, d.context_length = LONG + 6 * CHUNK, d.states = 23;
        d.chunk = CHUNK;
        MUST(scheduler_create(&s, &d, &error));
        for (int i = 0; i < 6; i++) {
            answer a;
            scheduler_request request;
            memset(&a, 0, sizeof a), memset(&request, 0, sizeof request);
            request.tokens = tokens, request.n_tokens = n[i], request.max_tokens = 1, request.no_cache = !kept;
            request.on_event = on_event, request.user = &a;
            MUST(scheduler_submit(s, &request, NULL, &error));
            while (scheduler_step(s)) continue;
            if (!kept) alone[i] = a.tokens[0];
            CHECK(a.n == 1 && a.tokens[0] == alone[i], "%d tokens: another answer", n[i]);
            CHECK(a.cached == (kept ? cached[i] : 0), "%d tokens: %d found", n[i], a.cached);
        }
        scheduler_forget(s);
        scheduler_request both;
        answer got[2];
        memset(&both, 0, sizeof both), memset(got, 0, sizeof got);
        for (int i = 0; i < 2 && kept; i++) { /* at the same time: what one reads the other need not */
            both.tokens = tokens, both.n_tokens = LONG, both.max_tokens = 1, both.on_event = on_event;
            both.user = &got[i];
            MUST(scheduler_submit(s, &both, NULL, &error));
        }
        while (scheduler_step(s)) continue;
        CHECK(!kept || got[0].cached + got[1].cached == 25 * CHUNK, "%d, %d found", got[0].cached, got[1].cached);
        CHECK(!kept || (got[0].tokens[0] == alone[0] && got[1].tokens[0] == alone[0]), "two at a time: other answers");
        scheduler_destroy(s);
    }
    mla_context_destroy(c);
    whole_close(&w);
}

int main(void) {
    test_layer();
    test_tiny();
    test_fork_slots();
    test_refusals();
    test_other_models();
    test_memory();
    /* a thousand sequences each */
    test_random("tests/fixtures/checkpoints/kimi_linear", test_all() ? 12000 : 300);
    test_random("tests/fixtures/checkpoints/deepseek_v2_lite", test_all() ? 12000 : 300);
    test_bf16();
    test_scheduler();
    test_long();
    return test_end();
}
