/* test_mtp.c - multi-token prediction: the extra layer against what transformers computed and against the same layer as
   a model of one layer; speculative decoding with it against plain decoding: the same text at temperature 0, the same
   distribution of texts otherwise. test_mtp --report also prints how the two passes differ by rounding, and the
   statistics. Run from the repository root. */

#define MLA_IMPLEMENTATION
#define MLA_REFERENCE
#include "guard.h"
#include "mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "checkpoint.h"
#define SAMPLER_IMPLEMENTATION
#include "sampler.h"

/* The rule by which guesses are accepted, so that wrong ones can be tried. */
typedef int (*verify_rule)(sampler *s, const float *logits, const sampler *draft, int guess, mla_error *err);
static verify_rule rule = sampler_verify;
#define sampler_verify rule
#define SPECULATIVE_IMPLEMENTATION
#include "speculative.h"
#undef sampler_verify

#include <limits.h>
#include <stdlib.h>

#include "test.h"

#define V3    "tests/fixtures/checkpoints/deepseek_v3"
#define TALES "examples/tales"
enum { PROMPT = 48, MOST = 64, LONG = 200 };

static const float bound = 5e-5f; /* of the largest value, float32 against float32 */
static int report;

static void *room(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size);
    if (p) return p;
    puts("out of memory");
    exit(2);
}

/* ---- models ------------------------------------------------------------------------------------------------------ */

typedef struct subject {
    char name[64];
    checkpoint *files;
    mla_model *model;
    int V, D, L, M;
    int n, tokens[MOST]; /* a prompt */
} subject;

static int subject_open(subject *s, const char *dir) {
    char path[160];
    mla_error err;
    st_file *f;
    const checkpoint_options how = {.mtp = 1};
    memset(s, 0, sizeof *s);
    snprintf(s->name, sizeof s->name, "%s", strrchr(dir, '/') + 1);
    if (!CHECK(checkpoint_open_with(&s->files, dir, &how, &err) == MLA_OK, "%s: %s", dir, err.text)) return 0;
    if (!CHECK(mla_model_create(&s->model, &s->files->config, &s->files->weights, NULL, &err) == MLA_OK, "%s: %s", dir,
               err.text))
        return 0;
    s->V = s->files->config.vocab_size, s->D = s->files->config.hidden_size, s->L = s->files->config.num_hidden_layers;
    s->M = s->files->config.num_nextn_predict_layers;
    CHECK(s->M == 1, "%s: %d layers of multi-token prediction", dir, s->M);
    snprintf(path, sizeof path, "%s/expected.safetensors", dir);
    if (!CHECK(st_open(&f, path, &err) == MLA_OK, "%s", err.text)) return 0;
    const st_tensor *t = st_find(f, "tokens");
    if (!CHECK(t && !strcmp(t->dtype, "I64") && t->n_dims == 1 && t->dims[0] <= MOST, "%s: tokens", path)) return 0;
    s->n = (int)t->dims[0];
    for (int i = 0; i < s->n; i++) {
        int64_t id;
        memcpy(&id, (const char *)t->data + 8 * i, 8);
        s->tokens[i] = (int)id;
    }
    st_close(f);
    return 1;
}

static void subject_close(subject *s) {
    mla_model_destroy(s->model);
    checkpoint_close(s->files);
}

/* The same with one more extra layer: the block of the model's last layer, and the norms of the first the other way
 * round. */
static mla_layer_weights more_layers[16];
static mla_mtp_weights more_mtp[2];
static int subject_deepen(subject *s) {
    mla_config c = s->files->config;
    mla_weights w = s->files->weights;
    mla_error err;
    memcpy(more_layers, w.layers, (size_t)(s->L + 1) * sizeof *more_layers);
    more_layers[s->L + 1] = w.layers[s->L - 1];
    more_mtp[0] = more_mtp[1] = w.mtp[0];
    more_mtp[1].enorm = w.mtp[0].hnorm, more_mtp[1].hnorm = w.mtp[0].enorm;
    w.layers = more_layers, w.mtp = more_mtp, c.num_nextn_predict_layers = s->M = 2;
    mla_model_destroy(s->model);
    snprintf(s->name + strlen(s->name), sizeof s->name - strlen(s->name), ", two deep");
    return CHECK(mla_model_create(&s->model, &c, &w, NULL, &err) == MLA_OK, "%s: %s", s->name, err.text);
}

static mla_context *context_of(const mla_model *m, mla_isa isa, mla_attn_path path, int threads, mla_run run,
                               void *user) {
    mla_context_desc d;
    mla_context *c;
    mla_error err;
    memset(&d, 0, sizeof d);
    d.max_tokens = 128, d.isa = isa, d.attn = path, d.threads = threads, d.run = run, d.run_user = user;
    d.activations = MLA_ACT_F32;
    if (CHECK(mla_context_create(&c, m, &d, &err) == MLA_OK, "%s", err.text)) return c;
    exit(test_end());
}
static mla_context *plain_context(const mla_model *m) {
    return context_of(m, MLA_ISA_AUTO, MLA_ATTN_AUTO, 1, NULL, NULL);
}

static mla_cache *cache_of(const mla_model *m, int capacity, mla_dtype dtype, mla_pool *pool) {
    mla_cache_desc d;
    mla_cache *k;
    mla_error err;
    memset(&d, 0, sizeof d);
    d.capacity = capacity, d.dtype = dtype, d.pool = pool;
    if (CHECK(mla_cache_create(&k, m, &d, &err) == MLA_OK, "%s", err.text)) return k;
    exit(test_end());
}

static mla_sequence sequence_of(mla_cache *k, int n) {
    mla_sequence s;
    memset(&s, 0, sizeof s);
    s.cache = k, s.n_tokens = s.n_logits = n;
    return s;
}

/* n tokens through the model; hidden [n, D] after the final norm, all logits [n, V]; either NULL. */
static int forward(mla_context *c, const subject *s, mla_cache *k, const int *tokens, int n, float *hidden,
                   float *logits) {
    const mla_sequence q = sequence_of(k, n);
    float *to[17] = {NULL};
    mla_outputs out;
    memset(&out, 0, sizeof out);
    to[s->L] = hidden, out.hidden = to, out.logits = logits;
    return CHECK(mla_model_forward(c, &q, 1, tokens, &out) == MLA_OK, "%s: %s", s->name, mla_context_error(c)->text);
}

/* The extra layer on the last n positions; x, hidden [n, D] and logits [n, V] may be NULL. */
static int ahead(mla_context *c, const subject *s, mla_cache *k, int depth, const int *tokens, int n,
                 const float *state, float *x, float *hidden, float *logits) {
    const mla_sequence q = sequence_of(k, n);
    float *to[2];
    mla_outputs out;
    memset(&out, 0, sizeof out);
    to[0] = x, to[1] = hidden, out.hidden = to, out.logits = logits;
    return CHECK(mla_mtp_forward(c, depth, &q, 1, tokens, state, &out) == MLA_OK, "%s: %s", s->name,
                 mla_context_error(c)->text);
}

/* ---- the layer --------------------------------------------------------------------------------------------------- */

/* Rows of the extra layers for positions 0..n-1 of the prompt, n at most s->n - s->M, in calls of `chunk`: state and
 * logits of each depth. */
static void run_ahead(mla_context *c, const subject *s, mla_cache *k, int n, int chunk, float *const *x,
                      float *const *hidden, float *const *logits) {
    float *state = (float *)room((size_t)n * (size_t)s->D, 4);
    const size_t D = (size_t)s->D, V = (size_t)s->V;
    for (int t = 0, m; t < n; t += m) {
        m = n - t < chunk ? n - t : chunk;
        if (!forward(c, s, k, s->tokens + t, m, state, NULL)) break;
        for (int d = 0; d < s->M; d++)
            ahead(c, s, k, d, s->tokens + t + 1 + d, m, d ? hidden[d - 1] + (size_t)t * D : state,
                  x ? x[d] + (size_t)t * D : NULL, hidden[d] + (size_t)t * D, logits[d] + (size_t)t * V);
    }
    free(state);
}

/* What depth d computes, by the reference of mla.h in front of its block, and by the block as a model of one layer,
   whose embedding is what that gave: x [n, D], hidden [n, D], logits [n, V]. The block and the head are what
   test_model.c compares with transformers. */
static void reference(const subject *s, int depth, int n, const int *tokens, const float *state, float *x,
                      float *hidden, float *logits) {
    const mla_weights *all = &s->files->weights;
    const mla_mtp_weights *w = s->M > 1 ? &more_mtp[depth] : &all->mtp[depth];
    const mla_tensor *embed = w->embed.data ? &w->embed : &all->embed;
    const int D = s->D;
    double *pair = (double *)room(2 * (size_t)D, 8), *y = (double *)room((size_t)D, 8);
    mla_config c = *mla_model_config(s->model);
    mla_weights one = *all;
    mla_model *model;
    mla_error err;
    int ids[MOST];
    for (int t = 0; t < n; t++) {
        for (int i = 0; i < D; i++) pair[i] = mla__weight_ref(embed, tokens[t], i);
        for (int i = 0; i < D; i++) pair[D + i] = (double)state[(size_t)t * (size_t)D + (size_t)i];
        mla__norm_ref(pair, D, &c.block_norm, &w->enorm), mla__norm_ref(pair + D, D, &c.block_norm, &w->hnorm);
        mla__linear_ref(y, &w->eh_proj, pair);
        for (int i = 0; i < D; i++) x[(size_t)t * (size_t)D + (size_t)i] = (float)y[i];
        ids[t] = t;
    }
    const mla_layer_weights *layers = (s->M > 1 ? more_layers : all->layers) + s->L + depth;
    c = s->files->config, c.num_nextn_predict_layers = 0, c.num_hidden_layers = 1;
    one.layers = layers, one.mtp = NULL, one.norm = w->norm,
    one.head = w->head.data     ? w->head
               : all->head.data ? all->head
                                : all->embed;
    one.embed = mla_view(x, MLA_F32, c.vocab_size, D); /* of which n rows are asked for */
    if (CHECK(n <= c.vocab_size && mla_model_create(&model, &c, &one, NULL, &err) == MLA_OK, "%s: %s", s->name,
              err.text)) {
        subject of_one = *s;
        of_one.L = 1;
        mla_context *run = context_of(model, MLA_ISA_SCALAR, MLA_ATTN_NAIVE, 1, NULL, NULL);
        mla_cache *k = cache_of(model, n, MLA_F32, NULL);
        forward(run, &of_one, k, ids, n, hidden, logits);
        mla_cache_destroy(k), mla_context_destroy(run), mla_model_destroy(model);
    }
    free(pair), free(y);
}

static void close_to(const char *what, const char *way, const float *got, const float *want, size_t n) {
    const float err = test_rel_err(got, want, n);
    CHECK(err < bound, "%s, %s: off by %.2e", what, way, (double)err);
}

static float *x_of[2], *hidden_of[2], *logits_of[2], *want_x[2], *want_hidden[2], *want_logits[2];

static void test_layer(const subject *s, int all) { /* all: every path with every way of cutting */
    static const char *const paths[] = {"auto", "naive", "absorbed"};
    static const int chunks[] = {MOST, 7, 1};
    const int n = s->n - s->M;
    const size_t nD = (size_t)n * (size_t)s->D, nV = (size_t)n * (size_t)s->V;
    char way[96];
    mla_context *c = context_of(s->model, MLA_ISA_SCALAR, MLA_ATTN_NAIVE, 1, NULL, NULL);
    mla_cache *k = cache_of(s->model, s->n, MLA_F32, NULL);
    float *state = (float *)room((size_t)s->n * (size_t)s->D, 4);
    forward(c, s, k, s->tokens, n, state, NULL);
    mla_cache_destroy(k), mla_context_destroy(c);
    for (int d = 0; d < s->M; d++)
        reference(s, d, n, s->tokens + 1 + d, d ? want_hidden[d - 1] : state, want_x[d], want_hidden[d],
                  want_logits[d]);
    free(state);
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++)
        for (int path = 0; path < MLA_ATTN_PATH_COUNT && TEST_ISA((mla_isa)isa); path++)
            for (int i = 0; i < 3; i++) {
                if (!all && i != path) continue;
                mla_error err;
                mla_pool *pool = NULL;
                snprintf(way, sizeof way, "%s %s %s, in calls of %d", s->name, mla_isa_name((mla_isa)isa), paths[path],
                         chunks[i]);
                if (i == 1)
                    CHECK(mla_pool_create(&pool, s->model, &(mla_pool_desc){.n_pages = 2}, &err) == MLA_OK, "%s",
                          err.text);
                c = context_of(s->model, (mla_isa)isa, (mla_attn_path)path, 1 + path, NULL, NULL);
                k = cache_of(s->model, s->n, MLA_F32, pool);
                run_ahead(c, s, k, n, chunks[i], x_of, hidden_of, logits_of);
                for (int d = 0; d < s->M; d++) {
                    close_to("eh_proj", way, x_of[d], want_x[d], nD);
                    close_to("state", way, hidden_of[d], want_hidden[d], nD);
                    close_to("logits", way, logits_of[d], want_logits[d], nV);
                }
                mla_cache_destroy(k), mla_context_destroy(c), mla_pool_destroy(pool);
            }
    /* the bound is one that other tokens and another state miss */
    c = plain_context(s->model), k = cache_of(s->model, s->n, MLA_F32, NULL);
    subject other = *s;
    other.tokens[n] ^= 1;
    run_ahead(c, &other, k, n, MOST, x_of, hidden_of, logits_of);
    CHECK(test_rel_err(logits_of[0], want_logits[0], nV) > 10 * bound, "%s: another last token goes unnoticed",
          s->name);
    CHECK(test_rel_err(logits_of[0], want_logits[0], nV - (size_t)s->V) < bound,
          "%s: the last token changes rows before it", s->name);
    mla_cache_destroy(k), mla_context_destroy(c);
}

/* ---- caches, batches, threads ------------------------------------------------------------------------------------ */

static void backwards(void *user, int n, void (*task)(void *arg, int i), void *arg) {
    ++*(int *)user;
    while (n-- > 0) task(arg, n);
}

static int same_rows(const subject *s, const mla_cache *a, const mla_cache *b, int n) {
    float x[512], y[512];
    mla_error err;
    const size_t width = (size_t)(s->files->config.kv_lora_rank + s->files->config.qk_rope_head_dim) * sizeof *x;
    int same = mla_cache_length(a) == n && mla_cache_length(b) == n && width <= sizeof x;
    for (int l = 0; l < s->L + s->M && same; l++)
        for (int u = 0; u < n && same; u++)
            same = !mla_cache_read(a, l, u, x, &err) && !mla_cache_read(b, l, u, y, &err) && !memcmp(x, y, width);
    return same;
}

static void test_exactness(const subject *s) {
    const int n = s->n - s->M - 8, D = s->D;
    const size_t nV = (size_t)n * (size_t)s->V;
    int ran = 0;
    mla_error err;
    mla_context *c = plain_context(s->model),
                *other = context_of(s->model, MLA_ISA_AUTO, MLA_ATTN_AUTO, 3, backwards, &ran);
    mla_cache *k = cache_of(s->model, s->n, MLA_F32, NULL), *j = cache_of(s->model, s->n, MLA_F32, NULL);
    run_ahead(c, s, k, n, MOST, x_of, hidden_of, logits_of);
    for (int d = 0; d < s->M; d++) memcpy(want_logits[d], logits_of[d], nV * 4);
    run_ahead(other, s, j, n, MOST, x_of, hidden_of, logits_of);
    CHECK(ran > 0, "%s: nothing ran in parallel", s->name);
    for (int d = 0; d < s->M; d++)
        CHECK(!memcmp(logits_of[d], want_logits[d], nV * 4), "%s: depth %d differs on 3 threads", s->name, d);
    CHECK(same_rows(s, j, k, n), "%s: rows differ on 3 threads", s->name);

    /* guesses that are cut off leave nothing behind: neither rows nor a difference in what follows, nor in the extra
     * layers' rows */
    float *state = (float *)room((size_t)s->n * (size_t)D, 4), *a = (float *)room(nV, 4), *b = (float *)room(nV, 4);
    const int wrong[3] = {1, 2, 3};
    forward(c, s, k, wrong, 3, state, NULL);
    for (int d = 0; d < s->M; d++) ahead(c, s, k, d, wrong, 3, state, NULL, d ? state : NULL, NULL);
    CHECK(mla_cache_truncate(k, n, &err) == MLA_OK && same_rows(s, k, j, n), "%s: a guess leaves rows behind", s->name);
    for (int t = 0; t < 2; t++) {
        mla_cache *of = t ? j : k;
        forward(c, s, of, s->tokens + n, 4, state, t ? b : a);
        for (int d = 0; d < s->M; d++)
            ahead(c, s, of, d, s->tokens + n + 1 + d, 4, state, NULL, state, logits_of[t] + (size_t)d * nV / 4);
    }
    CHECK(!memcmp(a, b, 4 * (size_t)s->V * 4) && same_rows(s, k, j, n + 4),
          "%s: a guess that was cut off changes what follows", s->name);
    /* rows written again: with other tokens first, then with those that came */
    forward(c, s, k, s->tokens + n + 4, 3, state, NULL), forward(c, s, j, s->tokens + n + 4, 3, state, NULL);
    for (int d = 0; d < s->M; d++) {
        float *from = (float *)room((size_t)s->n * (size_t)D, 4);
        memcpy(from, state, (size_t)s->n * (size_t)D * 4);
        ahead(c, s, k, d, wrong, 3, from, NULL, NULL, NULL);
        CHECK(!same_rows(s, k, j, n + 7), "%s: depth %d has no rows yet", s->name, d);
        ahead(c, s, k, d, s->tokens + n + 5 + d, 3, from, NULL, NULL, a);
        ahead(c, s, j, d, s->tokens + n + 5 + d, 3, from, NULL, NULL, b);
        CHECK(!memcmp(a, b, 3 * (size_t)s->V * 4), "%s: depth %d, written again", s->name, d);
        free(from);
    }
    CHECK(same_rows(s, k, j, n + 7), "%s: rows written again differ", s->name);

    /* two sequences in a call are two calls */
    mla_cache *both[2] = {cache_of(s->model, s->n, MLA_F32, NULL), cache_of(s->model, s->n, MLA_F32, NULL)};
    mla_sequence q[2] = {sequence_of(both[0], 5), sequence_of(both[1], 9)};
    float *to[17] = {NULL}, *next[2] = {NULL, NULL};
    mla_outputs out;
    memset(&out, 0, sizeof out);
    to[s->L] = state, out.hidden = to;
    CHECK(mla_model_forward(c, q, 2, s->tokens, &out) == MLA_OK, "%s", mla_context_error(c)->text);
    memset(&out, 0, sizeof out);
    next[1] = hidden_of[0], out.hidden = next, out.logits = a, q[0].n_logits = q[1].n_logits = 1;
    CHECK(mla_mtp_forward(c, 0, q, 2, s->tokens + 1, state, &out) == MLA_OK, "%s", mla_context_error(c)->text);
    float *given = (float *)room(9 * (size_t)D, 4); /* the tokens of one of them, as embeddings */
    CHECK(mla_layers_forward(c, 0, 0, q + 1, 1, s->tokens + 6, &(mla_outputs){.hidden = &given}) == MLA_OK, "%s",
          mla_context_error(c)->text);
    q[1].embeddings = given, out.logits = b;
    CHECK(mla_mtp_forward(c, 0, q, 2, s->tokens + 1, state, &out) == MLA_OK, "%s", mla_context_error(c)->text);
    CHECK(!memcmp(a, b, 2 * (size_t)s->V * 4), "%s: embeddings of tokens are not the tokens", s->name);
    free(given);
    mla_cache_truncate(j, 0, NULL);
    forward(c, s, j, s->tokens + 5, 9, state, NULL);
    ahead(c, s, j, 0, s->tokens + 6, 9, state, NULL, hidden_of[1], b);
    CHECK(test_rel_err(a + s->V, b + 8 * s->V, (size_t)s->V) < bound, "%s: the second of two sequences", s->name);
    CHECK(test_rel_err(hidden_of[0] + 5 * D, hidden_of[1], 9 * (size_t)D) < bound,
          "%s: the states of the second of two sequences", s->name);
    mla_cache_destroy(both[0]), mla_cache_destroy(both[1]);
    free(state), free(a), free(b);
    mla_cache_destroy(k), mla_cache_destroy(j), mla_context_destroy(c), mla_context_destroy(other);
}

static int end_it(void *user, int layer, int layers, mla_phase phase) {
    int *asked = (int *)user;
    asked[0]++, asked[1] = layer, asked[2] = layers, asked[3] = (int)phase;
    return asked[4];
}
/* A call that is ended, while rows are written again, leaves them; its weights are those of mla_mtp_bytes. */
static void test_abort(const subject *s) {
    enum { N = 12 };
    mla_error err;
    mla_stats stats;
    int asked[5] = {0, 0, 0, 0, 0}, wrong[N];
    memset(&stats, 0, sizeof stats);
    const mla_context_desc d = {.max_tokens = MOST, .watch = end_it, .watch_user = asked, .stats = &stats};
    mla_context *c;
    if (!CHECK(mla_context_create(&c, s->model, &d, &err) == MLA_OK, "%s", err.text)) return;
    mla_cache *k = cache_of(s->model, s->n, MLA_F32, NULL), *j = cache_of(s->model, s->n, MLA_F32, NULL);
    float *state = (float *)room(N * (size_t)s->D, 4);
    for (int i = 0; i < N; i++) wrong[i] = s->tokens[i] ^ 1;
    for (int i = 0; i < 2; i++) {
        forward(c, s, i ? j : k, s->tokens, N, state, NULL);
        for (int depth = 0; depth < s->M; depth++)
            ahead(c, s, i ? j : k, depth, s->tokens + 1 + depth, N, state, NULL, state, NULL);
    }
    for (int depth = 0; depth < s->M; depth++) {
        const mla_sequence q = sequence_of(k, 5);
        memset(asked, 0, sizeof asked), asked[4] = 1;
        CHECK(mla_mtp_forward(c, depth, &q, 1, wrong, state, NULL) == MLA_ERR_ABORTED &&
                  strstr(mla_context_error(c)->text, "before the attention of layer"),
              "%s: %s", s->name, mla_context_error(c)->text);
        CHECK(asked[0] == 1 && asked[1] == s->L + depth && asked[2] == s->L + depth + 1 &&
                  asked[3] == MLA_PHASE_ATTENTION,
              "%s: asked %d times, before layer %d of %d", s->name, asked[0], asked[1], asked[2]);
        CHECK(same_rows(s, k, j, N), "%s: depth %d: ended, and rows differ", s->name, depth);
        asked[4] = 0, memset(&stats, 0, sizeof stats);
        ahead(c, s, k, depth, wrong, 5, state, NULL, NULL, want_logits[0]);
        CHECK(!same_rows(s, k, j, N), "%s: depth %d: not ended, and rows do not differ", s->name, depth);
        ahead(c, s, j, depth, wrong, 5, state, NULL, NULL, want_logits[0]);
        const double read = stats.phase_bytes[0] + stats.phase_bytes[1] + stats.phase_bytes[2];
        CHECK(read > 0 && read <= 2 * mla_mtp_bytes(s->model, depth, 1000000) + 0.5, "%s: %.0f bytes", s->name, read);
        CHECK(same_rows(s, k, j, N), "%s: depth %d: and rows differ", s->name, depth);
    }
    mla_cache_destroy(k), mla_cache_destroy(j), mla_context_destroy(c);
    free(state);
}

/* Pages that a fork shares are copied before the extra layer writes to them, all of them. */
static void test_pages(const subject *s) {
    enum { N = 3 * MLA_PAGE - 10 };
    mla_error err;
    mla_pool *pool;
    mla_context *c = plain_context(s->model);
    float *state = (float *)room((size_t)N * (size_t)s->D, 4), x[512], y[512];
    int ids[N + 1];
    for (int i = 0; i <= N; i++) ids[i] = s->tokens[i % s->n];
    if (!CHECK(mla_pool_create(&pool, s->model, &(mla_pool_desc){.n_pages = 6}, &err) == MLA_OK, "%s", err.text))
        return;
    mla_cache *k = cache_of(s->model, N, MLA_F32, pool), *j = cache_of(s->model, N, MLA_F32, pool),
              *last = cache_of(s->model, N, MLA_F32, pool);
    for (int t = 0; t < N; t += 91) { /* 182 = 2 * 91 */
        forward(c, s, k, ids + t, 91, state + (size_t)t * (size_t)s->D, NULL);
        ahead(c, s, k, 0, ids + t + 1, 91, state + (size_t)t * (size_t)s->D, NULL, NULL, NULL);
    }
    CHECK(mla_cache_fork(j, k, &err) == MLA_OK && mla_pool_free_pages(pool) == 3, "%s", err.text);
    CHECK(mla_cache_read(k, s->L, 70, x, &err) == MLA_OK, "%s", err.text);
    ids[71] ^= 1; /* what comes after position 70 */
    const mla_sequence again = sequence_of(j, 120), more = sequence_of(j, 11);
    CHECK(mla_pool_pages_needed(pool, &again, 1, 1) == 3 && mla_pool_pages_needed(pool, &more, 1, 0) == 2,
          "pages needed: %d and %d", mla_pool_pages_needed(pool, &again, 1, 1),
          mla_pool_pages_needed(pool, &more, 1, 0));
    ahead(c, s, j, 0, ids + N - 120 + 1, 120, state + (size_t)(N - 120) * (size_t)s->D, NULL, NULL,
          NULL); /* from position 62 on: all three pages */
    CHECK(mla_pool_free_pages(pool) == 0, "%d pages are free", mla_pool_free_pages(pool));
    CHECK(mla_cache_read(k, s->L, 70, y, &err) == MLA_OK && !memcmp(x, y, 4 * 64),
          "the fork's rows changed its parent's");
    CHECK(mla_cache_read(j, s->L, 70, y, &err) == MLA_OK && memcmp(x, y, 4 * 64), "the fork's rows did not change");
    CHECK(mla_cache_fork(last, k, &err) == MLA_OK, "%s", err.text);
    const mla_sequence q = sequence_of(last, 1);
    CHECK(mla_mtp_forward(c, 0, &q, 1, ids, state, NULL) == MLA_ERR_FULL &&
              strstr(mla_context_error(c)->text, "sequences[0]: 1 pages needed, the pool has 0 free") &&
              mla_context_error(c)->sequence == 0 && mla_pool_pages_needed(pool, &q, 1, 1) == 1,
          "%s", mla_context_error(c)->text);
    CHECK(mla_cache_length(last) == N, "length %d after a call that failed", mla_cache_length(last));
    mla_cache_destroy(j);
    CHECK(mla_pool_free_pages(pool) == 3, "%d pages are free", mla_pool_free_pages(pool));
    CHECK(mla_mtp_forward(c, 0, &q, 1, ids, state, NULL) == MLA_OK && mla_pool_free_pages(pool) == 2, "%s",
          mla_context_error(c)->text);
    /* a second sequence that does not fit: the first one's copies, of two pages, are taken back */
    mla_cache_reset(last);
    j = cache_of(s->model, N, MLA_F32, pool);
    CHECK(mla_cache_fork(last, k, &err) == MLA_OK && mla_cache_fork(j, k, &err) == MLA_OK &&
              mla_pool_free_pages(pool) == 3,
          "%s", err.text);
    const mla_sequence both[] = {sequence_of(last, 60), sequence_of(j, 60)};
    int follow[120];
    for (int i = 0; i < 120; i++) follow[i] = ids[N - 60 + i % 60 + 1];
    float *twice = (float *)room((size_t)120 * (size_t)s->D, 4);
    for (int i = 0; i < 2; i++)
        memcpy(twice + (size_t)(60 * i) * (size_t)s->D, state + (size_t)(N - 60) * (size_t)s->D,
               (size_t)60 * (size_t)s->D * sizeof *twice);
    CHECK(mla_mtp_forward(c, 0, both, 2, follow, twice, NULL) == MLA_ERR_FULL &&
              strstr(mla_context_error(c)->text, "sequences[1]") && mla_context_error(c)->sequence == 1,
          "%s", mla_context_error(c)->text);
    CHECK(mla_pool_pages_needed(pool, both, 2, 1) == 4 && mla_pool_pages_needed(pool, both, 1, 1) == 2,
          "pages needed: %d and %d", mla_pool_pages_needed(pool, both, 2, 1), mla_pool_pages_needed(pool, both, 1, 1));
    CHECK(mla_pool_free_pages(pool) == 3 && mla_cache_length(last) == N && mla_cache_length(j) == N,
          "%d pages are free", mla_pool_free_pages(pool));
    CHECK(mla_mtp_forward(c, 0, both, 1, follow, twice, NULL) == MLA_OK && mla_pool_free_pages(pool) == 1, "%s",
          mla_context_error(c)->text);
    /* of what two alone share the first writes to copies, the second has the pages to itself by then */
    mla_cache_reset(k);
    CHECK(mla_cache_fork(last, j, &err) == MLA_OK && mla_pool_free_pages(pool) == 3, "%s", err.text);
    CHECK(mla_pool_pages_needed(pool, both, 2, 1) == 2, "pages needed: %d", mla_pool_pages_needed(pool, both, 2, 1));
    CHECK(mla_mtp_forward(c, 0, both, 2, follow, twice, NULL) == MLA_OK && mla_pool_free_pages(pool) == 1, "%s",
          mla_context_error(c)->text);
    free(twice);
    mla_cache_destroy(j), mla_cache_destroy(last), mla_cache_destroy(k);
    CHECK(mla_pool_free_pages(pool) == 6, "%d pages are free", mla_pool_free_pages(pool));
    mla_pool_destroy(pool), mla_context_destroy(c);
    free(state);
}

/* ---- speculation ------------------------------------------------------------------------------------------------- */

static sampler *sampler_of(int vocab, const sampler_desc *how) {
    sampler *s;
    mla_error err;
    if (CHECK(sampler_create(&s, vocab, how, &err) == MLA_OK, "%s", err.text)) return s;
    exit(test_end());
}

static speculation *speculation_of(const subject *s, mla_context *c, mla_cache *k, const sampler_desc *how) {
    speculation *g;
    mla_error err;
    if (CHECK(speculation_create(&g, s->model, c, 128, k, how, &err) == MLA_OK, "%s: %s", s->name, err.text)) return g;
    exit(test_end());
}

static float margin_of(const float *z, int n) {
    float first = -INFINITY, second = -INFINITY;
    for (int i = 0; i < n; i++)
        if (z[i] > first) second = first, first = z[i];
        else if (z[i] > second) second = z[i];
    return first - second;
}

/* LONG tokens at temperature 0 by both ways, which must be the same; the prompt comes in chunks. Then the caches are,
 * but for rounding. */
static void test_greedy(const subject *s, mla_isa isa, int chunk) {
    mla_context *c = context_of(s->model, isa, MLA_ATTN_AUTO, 1, NULL, NULL);
    mla_cache *k = cache_of(s->model, s->n + LONG, MLA_F32, NULL), *j = cache_of(s->model, s->n + LONG, MLA_F32, NULL);
    const size_t V = (size_t)s->V;
    float *plain = (float *)room((size_t)(LONG + 1) * V, 4), *last = (float *)room((size_t)s->n * V, 4);
    int text[LONG + 1], got[LONG + 1];
    sampler_desc how;
    mla_error err;
    memset(&how, 0, sizeof how);
    sampler *pick = sampler_of(s->V, &how);
    forward(c, s, j, s->tokens, s->n, NULL, last);
    memcpy(plain, last + (size_t)(s->n - 1) * V, V * 4);
    for (int i = 0; i < LONG; i++) {
        text[i] = sampler_next(pick, plain + (size_t)i * V, &err);
        forward(c, s, j, &text[i], 1, NULL, plain + (size_t)(i + 1) * V);
    }
    speculation *g = speculation_of(s, c, k, &how);
    mla_outputs out;
    memset(&out, 0, sizeof out);
    out.logits = last;
    for (int t = 0, n; t < s->n; t += n) {
        n = s->n - t < chunk ? s->n - t : chunk;
        CHECK(speculation_feed(g, s->tokens + t, n, 1, &out, &err) == MLA_OK, "%s: %s", s->name, err.text);
    }
    float off = 0, largest = test_max_abs(plain, (size_t)LONG * V), least = INFINITY;
    got[0] = sampler_next(pick, last, &err);
    for (int i = 0; i < LONG; i++) {
        if (!CHECK(speculation_run(g, got[i], pick, LONG - 1 - i, &err) == MLA_OK, "%s: %s", s->name, err.text)) break;
        const float *z = speculation_logits(g);
        for (size_t v = 0; v < V && got[i] == text[i]; v++)
            off = fmaxf(off, fabsf(z[v] - plain[(size_t)(i + 1) * V + v]));
        got[i + 1] = speculation_next(g, pick, &err);
    }
    int same = 0;
    while (same < LONG && got[same] == text[same])
        least = fminf(least, margin_of(plain + (size_t)same * V, s->V)), same++;
    const speculation_counts n = speculation_count(g);
    CHECK(
        same == LONG,
        "%s %s: token %d is %d and not %d; the best logit is %g above the second, and the two ways differ by up to %g",
        s->name, mla_isa_name(isa), same, same < LONG ? got[same] : 0, same < LONG ? text[same] : 0,
        (double)margin_of(plain + (size_t)(same < LONG ? same : 0) * V, s->V), (double)off);
    CHECK(off < bound * largest, "%s %s: a pass over several tokens differs by %g, logits go to %g", s->name,
          mla_isa_name(isa), (double)off, (double)largest);
    CHECK(n.passes + n.accepted >= LONG - 1 && n.passes + n.accepted <= LONG + 1 && n.guesses <= s->M * n.passes,
          "%s: %d passes, %d of %d guesses", s->name, (int)n.passes, (int)n.accepted, (int)n.guesses);
    CHECK(n.bytes > 0, "%s: no bytes", s->name);
    if (report)
        printf("%-24s %-7s %3d of %3d guesses accepted, %.2f tokens a pass; logits differ by %.1e of the largest, "
               "least margin "
               "%.1e\n",
               s->name, mla_isa_name(isa), (int)n.accepted, (int)n.guesses, (double)LONG / (double)n.passes,
               (double)(off / largest), (double)(least / largest));
    speculation_settle(g);
    CHECK(mla_cache_length(k) == s->n + LONG && mla_cache_length(j) == s->n + LONG, "%s: %d tokens in the cache",
          s->name, mla_cache_length(k));
    float worst = 0, x[512], y[512];
    const int width = s->files->config.kv_lora_rank + s->files->config.qk_rope_head_dim;
    for (int l = 0; l < s->L; l++)
        for (int u = 0; u < s->n + LONG; u++)
            worst = fmaxf(worst, mla_cache_read(k, l, u, x, &err) || mla_cache_read(j, l, u, y, &err)
                                     ? INFINITY
                                     : test_rel_err(x, y, (size_t)width));
    CHECK(worst < 1e-3f, "%s: a row of the cache is off by %g", s->name, (double)worst);
    /* another text that begins like this one */
    const int kept = speculation_truncate(g, s->n);
    CHECK(kept == s->n - s->M && mla_cache_length(k) == kept, "%s: %d tokens are left of %d", s->name, kept, s->n);
    CHECK(speculation_feed(g, s->tokens + kept, s->n - kept, 1, &out, &err) == MLA_OK, "%s: %s", s->name, err.text);
    CHECK(test_rel_err(last, plain, V) < bound, "%s: after a truncation", s->name);
    speculation_destroy(g), sampler_destroy(pick), mla_cache_destroy(k), mla_cache_destroy(j), mla_context_destroy(c);
    free(plain), free(last);
}

/* The caller may go on with what he likes, and the extra layers' rows are then those of a text that was never guessed
 * at. */
static void test_own_way(const subject *s) {
    mla_context *c = plain_context(s->model);
    mla_cache *k = cache_of(s->model, MOST, MLA_F32, NULL), *j = cache_of(s->model, MOST, MLA_F32, NULL);
    float *last = (float *)room((size_t)s->V, 4), *state = (float *)room((size_t)MOST * (size_t)s->D, 4), x[512],
          y[512];
    const int n = s->n - s->M, width = s->files->config.kv_lora_rank + s->files->config.qk_rope_head_dim;
    sampler_desc how;
    mla_error err;
    mla_outputs out;
    memset(&how, 0, sizeof how), memset(&out, 0, sizeof out);
    out.logits = last;
    sampler *pick = sampler_of(s->V, &how);
    speculation *g = speculation_of(s, c, k, &how);
    CHECK(speculation_next(g, pick, &err) == -1 && strstr(err.text, "no token has been run"), "%s", err.text);
    CHECK(speculation_feed(g, s->tokens, 20, 1, &out, &err) == MLA_OK, "%s", err.text);
    for (int i = 20; i < n; i++) {
        CHECK(speculation_run(g, s->tokens[i], pick, i % 3, &err) == MLA_OK, "%s", err.text);
        if (i % 4 == 0) speculation_settle(g);
    }
    CHECK(speculation_run(g, s->tokens[n], pick, 0, &err) == MLA_OK, "%s",
          err.text); /* so that the rows of the last are there, too */
    speculation_settle(g);
    forward(c, s, j, s->tokens, n, state, NULL);
    for (int d = 0; d < s->M; d++) ahead(c, s, j, d, s->tokens + 1 + d, n, state, NULL, state, NULL);
    float worst = 0;
    CHECK(mla_cache_length(k) == n + 1, "%d tokens", mla_cache_length(k));
    for (int l = 0; l < s->L + s->M; l++)
        for (int u = 0; u < n - (l >= s->L ? l - s->L : 0); u++)
            worst = fmaxf(worst, mla_cache_read(k, l, u, x, &err) || mla_cache_read(j, l, u, y, &err)
                                     ? INFINITY
                                     : test_rel_err(x, y, (size_t)width));
    CHECK(worst < 1e-3f, "%s: a row is off by %g", s->name, (double)worst);
    CHECK(speculation_feed(g, s->tokens, speculation_chunk(g) + 1, 0, NULL, &err) == MLA_ERR_ARGUMENT,
          "more than a chunk is fed");
    speculation_destroy(g), sampler_destroy(pick), mla_cache_destroy(k), mla_cache_destroy(j), mla_context_destroy(c);
    free(last), free(state);
}

/* ---- transformers ------------------------------------------------------------------------------------------------ */

static float *floats(const st_file *f, const char *name, size_t n) {
    const st_tensor *t = st_find(f, name);
    float *x = (float *)room(n, 4);
    if (CHECK(t && !strcmp(t->dtype, "F32") && t->bytes == 4 * n, "%s: missing or of another shape", name))
        memcpy(x, t->data, 4 * n);
    return x;
}
static int number(const st_file *f, const char *name, int i) {
    const st_tensor *t = st_find(f, name);
    int64_t v = -1;
    if (CHECK(t && !strcmp(t->dtype, "I64") && t->bytes >= 8 * ((size_t)i + 1), "%s[%d]: missing", name, i))
        memcpy(&v, (const char *)t->data + 8 * i, 8);
    return (int)v;
}

/* What it computed (tests/fixtures/mtp.py): of every position but the last the layer's state and logits, and the text
   that it speculated, with as many passes of the model. */
static void test_transformers(const subject *s, const char *dir) {
    enum { SPECULATED = 64 };
    char path[160];
    mla_error err;
    st_file *f;
    const int n = s->n - 1;
    snprintf(path, sizeof path, "%s/mtp.safetensors", dir);
    if (!CHECK(st_open(&f, path, &err) == MLA_OK, "%s", err.text)) return;
    for (int i = 0; i < s->n; i++) CHECK(number(f, "tokens", i) == s->tokens[i], "%s: tokens[%d]", path, i);
    float *logits = floats(f, "logits", (size_t)n * (size_t)s->V),
          *hidden = floats(f, "hidden", (size_t)n * (size_t)s->D);
    mla_context *c = plain_context(s->model);
    mla_cache *k = cache_of(s->model, s->n + SPECULATED, MLA_F32, NULL);
    run_ahead(c, s, k, n, MOST, x_of, hidden_of, logits_of);
    close_to("transformers' logits", s->name, logits_of[0], logits, (size_t)n * (size_t)s->V);
    close_to("transformers' state", s->name, hidden_of[0], hidden, (size_t)n * (size_t)s->D);
    mla_cache_reset(k);
    const sampler_desc how = {.temperature = 0};
    sampler *pick = sampler_of(s->V, &how);
    speculation *g = speculation_of(s, c, k, &how);
    mla_outputs out;
    memset(&out, 0, sizeof out);
    out.logits = logits_of[0];
    CHECK(speculation_feed(g, s->tokens, s->n, 1, &out, &err) == MLA_OK, "%s", err.text);
    int token = sampler_next(pick, logits_of[0], &err), same = 0;
    for (; same < SPECULATED && token == number(f, "greedy", same); same++) {
        if (same == SPECULATED - 1) break;
        if (!CHECK(speculation_run(g, token, pick, SPECULATED - 2 - same, &err) == MLA_OK, "%s", err.text)) break;
        token = speculation_next(g, pick, &err);
    }
    const int passes = (int)speculation_count(g).passes + 1; /* that of the prompt */
    CHECK(same == SPECULATED - 1, "%s: token %d is not transformers'", s->name, same);
    CHECK(passes == number(f, "steps", 0), "%s: %d passes, transformers took %d", s->name, passes,
          number(f, "steps", 0));
    speculation_destroy(g), sampler_destroy(pick), mla_cache_destroy(k), mla_context_destroy(c);
    free(logits), free(hidden);
    st_close(f);
}

/* ---- statistics -------------------------------------------------------------------------------------------------- */

/* Wrong rules, which the tests below must find. */
static int rule_always(sampler *s, const float *logits, const sampler *draft, int guess, mla_error *err) {
    return sampler_next(s, logits, err) < 0 || !draft ? -1 : guess;
}
static int rule_resample(sampler *s, const float *logits, const sampler *draft, int guess,
                         mla_error *err) { /* a rejected guess: from p, not from p - q */
    return sampler_verify(s, logits, draft, guess, err) == guess ? guess : sampler_next(s, logits, err);
}
static int rule_agree(sampler *s, const float *logits, const sampler *draft, int guess,
                      mla_error *err) { /* a guess stands if it is likely enough */
    uint64_t weight;
    const int drawn = sampler_next(s, logits, err);
    for (int i = 0; i < sampler_candidates(s) && draft; i++)
        if (sampler_candidate(s, i, &weight) == guess && weight > (uint64_t)1 << 38) return guess;
    return drawn;
}

/* Pearson's chi-square of counts [n] out of `total` against probabilities; cells expected less than 5 times are put
   together. The number of deviations above its mean: under 5 for what has the distribution, up to one case in 10^5. */
static double surprise(const double *p, const int *counts, int n, int total) {
    double sum = 0, rest = 0;
    int cells = 0, few = 0;
    for (int i = 0; i < n; i++) {
        const double want = p[i] * total;
        if (want < 5) {
            rest += want, few += counts[i];
            continue;
        }
        sum += (counts[i] - want) * (counts[i] - want) / want, cells++;
    }
    if (rest >= 5) sum += (few - rest) * (few - rest) / rest, cells++;
    else if (few > rest + 40) return 1e9; /* what can hardly happen, often */
    return cells > 1 ? (sum - (cells - 1)) / sqrt(2.0 * (cells - 1)) : 0;
}

/* Probabilities [vocab] of what s would draw. */
static void probabilities(sampler *s, const float *logits, int vocab, double *p) {
    mla_error err;
    double sum = 0;
    uint64_t w;
    if (!CHECK(sampler_next(s, logits, &err) >= 0, "%s", err.text)) return;
    for (int i = 0; i < vocab; i++) p[i] = 0;
    for (int i = 0; i < sampler_candidates(s); i++) {
        const int id = sampler_candidate(s, i, &w);
        p[id] = (double)w, sum += (double)w;
    }
    for (int i = 0; i < vocab; i++) p[i] /= sum;
}

static const sampler_desc draws[] = {{.temperature = 1, .seed = 1},
                                     {.temperature = 2, .top_k = 5, .seed = 2},
                                     {.temperature = 1.5, .top_p = 0.8, .seed = 3},
                                     {.temperature = 1, .min_p = 0.1, .repeat_penalty = 1.5, .seed = 4}};

/* One token over 12, by logits of both that differ. Gives the surprise. */
static double verify_surprise(int which, verify_rule by, double *accepted) {
    enum { V = 12, N = 40000 };
    sampler_desc how = draws[which], other = how;
    test_rng r = {(uint64_t)which + 7};
    float p[V], q[V];
    double want[V];
    int counts[V] = {0}, hits = 0;
    mla_error err;
    test_fill(&r, p, V, 1.2f), test_fill(&r, q, V, 0.8f);
    for (int i = 0; i < V; i++) q[i] = 0.7f * p[i] + q[i];
    other.seed += 1000;
    sampler *s = sampler_of(V, &how), *draft = sampler_of(V, &other);
    sampler_accept(s, 3), sampler_accept(s, 5), sampler_follow(draft, s);
    probabilities(s, p, V, want);
    for (int i = 0; i < N; i++) {
        const int guess = sampler_next(draft, q, &err), token = by(s, p, draft, guess, &err);
        if (token < 0 || token >= V) return INFINITY;
        counts[token]++, hits += token == guess;
    }
    sampler_destroy(s), sampler_destroy(draft);
    *accepted = (double)hits / N;
    return surprise(want, counts, V, N);
}

static void test_verify(void) {
    const int n = (int)(sizeof draws / sizeof *draws);
    double accepted;
    mla_error err;
    SECTION("the rule: one token");
    for (int i = 0; i < n; i++) {
        const double right = verify_surprise(i, sampler_verify, &accepted);
        CHECK(right < 5, "sampling %d: chi-square is %g deviations off", i, right);
        CHECK(accepted > 0.3 && accepted < 0.98, "sampling %d: %g accepted, which shows nothing", i, accepted);
        const double always = verify_surprise(i, rule_always, &accepted),
                     resample = verify_surprise(i, rule_resample, &accepted),
                     agree = verify_surprise(i, rule_agree, &accepted);
        CHECK(always > 20 && resample > 20 && agree > 20, "sampling %d: wrong rules go unnoticed: %g %g %g", i, always,
              resample, agree);
        if (report) printf("rule %d: %.2f; wrong ones %.0f %.0f %.0f\n", i, right, always, resample, agree);
    }
    /* p = q: every guess stands; p and q apart: none does */
    const float a[4] = {1, 2, 0, -INFINITY}, b[4] = {-INFINITY, -INFINITY, -INFINITY, 1};
    sampler_desc how = {.temperature = 0.7, .seed = 1}, zero = {.seed = 1};
    sampler *s = sampler_of(4, &how), *draft = sampler_of(4, &how), *greedy = sampler_of(4, &zero),
            *greedy_draft = sampler_of(4, &zero);
    int kept = 0, far = 0;
    for (int i = 0; i < 1000; i++) {
        int guess = sampler_next(draft, a, &err);
        kept += sampler_verify(s, a, draft, guess, &err) == guess;
        guess = sampler_next(draft, b, &err);
        const int token = sampler_verify(s, a, draft, guess, &err);
        far += guess == 3 && token >= 0 && token < 3;
    }
    CHECK(kept == 1000 && far == 1000, "%d of 1000 kept, %d of 1000 rejected", kept, far);
    CHECK(sampler_next(greedy_draft, b, &err) == 3 && sampler_verify(greedy, a, greedy_draft, 3, &err) == 1,
          "temperature 0");
    CHECK(sampler_verify(s, a, draft, 1, &err) == -1 && strstr(err.text, "token 1"), "a guess that was never drawn: %s",
          err.text);
    const float nan[4] = {0, NAN, 0, 0};
    CHECK(sampler_verify(s, nan, draft, 3, &err) == -1 && strstr(err.text, "token 1 is not a number"), "%s", err.text);
    CHECK(sampler_verify(s, b, draft, 3, &err) == 3, "%s", err.text);
    sampler_destroy(s), sampler_destroy(draft), sampler_destroy(greedy), sampler_destroy(greedy_draft);
}

static void refuses(const char *what, mla_result got, mla_result want, const char *text, const char *pattern) {
    CHECK(got == want && strstr(text, pattern), "%s: %s: '%s', expected '%s'", what, mla_result_name(got), text,
          pattern);
}

/* A pass that finds the pool full can be run again when it is not. */
static void test_full(const subject *s) {
    mla_error err;
    mla_pool *pool;
    mla_context *c = plain_context(s->model);
    int ids[MLA_PAGE + 1];
    const sampler_desc zero = {.seed = 1};
    for (int i = 0; i <= MLA_PAGE; i++) ids[i] = s->tokens[i % s->n];
    if (!CHECK(mla_pool_create(&pool, s->model, &(mla_pool_desc){.n_pages = 2}, &err) == MLA_OK, "%s", err.text))
        return;
    mla_cache *k = cache_of(s->model, 2 * MLA_PAGE, MLA_F32, pool), *other = cache_of(s->model, 1, MLA_F32, pool),
              *plain = cache_of(s->model, 2 * MLA_PAGE, MLA_F32, NULL);
    float *logits = (float *)room((size_t)s->V, 4);
    sampler *pick = sampler_of(s->V, &zero);
    speculation *g = speculation_of(s, c, k, &zero);
    CHECK(speculation_feed(g, ids, MLA_PAGE, 0, NULL, &err) == MLA_OK, "%s", err.text);
    forward(c, s, other, ids, 1, NULL, NULL);
    for (int again = 0; again < 2; again++)
        refuses("full", speculation_run(g, ids[MLA_PAGE], pick, 3, &err), MLA_ERR_FULL, err.text,
                "the pool has 0 free");
    mla_cache_destroy(other);
    forward(c, s, plain, ids, MLA_PAGE, NULL, NULL);
    forward(c, s, plain, ids + MLA_PAGE, 1, NULL, logits);
    CHECK(speculation_run(g, ids[MLA_PAGE], pick, 3, &err) == MLA_OK, "%s", err.text);
    CHECK(test_rel_err(speculation_logits(g), logits, (size_t)s->V) < bound, "logits after passes that failed");
    speculation_destroy(g), sampler_destroy(pick), free(logits);
    mla_cache_destroy(k), mla_cache_destroy(plain), mla_pool_destroy(pool), mla_context_destroy(c);
}

/* Texts of three tokens, the first given: those that follow fall into CELLS x CELLS cells by their ids. Exactly, by
   plain passes, and by many speculations. */
enum { CELLS = 8, TRIALS = 4000 };

static double text_surprise(const subject *s, const sampler_desc *how, const double *want, verify_rule by,
                            double *accepted) {
    mla_context *c = plain_context(s->model);
    mla_cache *k = cache_of(s->model, MOST + 8, MLA_F32, NULL);
    sampler_desc one = *how;
    int counts[CELLS * CELLS] = {0};
    mla_error err;
    int64_t guesses = 0, hits = 0;
    rule = by;
    one.seed = 0;
    speculation *g = speculation_of(s, c, k, &one);
    one.seed = how->seed;
    sampler *pick = sampler_of(s->V, &one);
    for (int i = 0; i < TRIALS; i++) { /* the generators of random numbers go on from text to text */
        const int first = 8, from = speculation_truncate(g, first - 1);
        if (speculation_feed(g, s->tokens + from, first - from, 0, NULL, &err)) CHECK(0, "%s", err.text);
        for (int t = 0; t < 8 && how->repeat_penalty != 0; t++)
            sampler_accept(pick, s->tokens[first - 7 + t]); /* repeat_last is 8 */
        int token = s->tokens[first], at = 0;
        if (how->repeat_penalty == 0) sampler_accept(pick, token);
        for (int t = 0; t < 2; t++) {
            if (speculation_run(g, token, pick, 3, &err) || (token = speculation_next(g, pick, &err)) < 0) {
                CHECK(0, "%s", err.text);
                break;
            }
            sampler_accept(pick, token);
            at = at * CELLS + token % CELLS;
        }
        counts[at]++;
    }
    const speculation_counts n = speculation_count(g);
    guesses = n.guesses, hits = n.accepted;
    rule = sampler_verify;
    speculation_destroy(g), sampler_destroy(pick), mla_cache_destroy(k), mla_context_destroy(c);
    *accepted = (double)hits / (double)guesses;
    return surprise(want, counts, CELLS * CELLS, TRIALS);
}

static void test_texts(const subject *s, const sampler_desc *how) {
    const size_t V = (size_t)s->V;
    mla_context *c = plain_context(s->model);
    mla_cache *k = cache_of(s->model, MOST, MLA_F32, NULL);
    float *logits = (float *)room(9 * V, 4), *next = (float *)room(V, 4);
    double *p = (double *)room(V, 8), *p2 = (double *)room(V, 8), want[CELLS * CELLS] = {0}, accepted;
    sampler *pick = sampler_of(s->V, how);
    forward(c, s, k, s->tokens, 9, NULL, logits);
    for (int t = 1; t <= 8; t++) sampler_accept(pick, s->tokens[t]);
    probabilities(pick, logits + 8 * V, s->V, p);
    for (int t = 0; t < s->V; t++) {
        if (!(p[t] > 0)) continue;
        sampler *after = sampler_of(s->V, how);
        sampler_follow(after, pick), sampler_accept(after, t);
        mla_cache_truncate(k, 9, NULL);
        forward(c, s, k, &t, 1, NULL, next);
        probabilities(after, next, s->V, p2);
        for (int u = 0; u < s->V; u++) want[t % CELLS * CELLS + u % CELLS] += p[t] * p2[u];
        sampler_destroy(after);
    }
    const double right = text_surprise(s, how, want, sampler_verify, &accepted);
    CHECK(right < 5, "%s: chi-square is %g deviations off", s->name, right);
    CHECK(accepted > 0.05 && accepted < 0.95, "%s: %g accepted, which shows nothing", s->name, accepted);
    double unused, wrong = text_surprise(s, how, want, rule_always, &unused);
    CHECK(wrong > 8, "%s: guesses that are always accepted go unnoticed: %g", s->name, wrong);
    if (report)
        printf("%s: %.0f %% accepted, chi-square %.2f deviations off; if always accepted %.0f\n", s->name,
               100 * accepted, right, wrong);
    sampler_destroy(pick), mla_cache_destroy(k), mla_context_destroy(c);
    free(logits), free(next), free(p), free(p2);
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

static void test_errors(const subject *s) {
    mla_config config = s->files->config;
    mla_weights weights = s->files->weights;
    mla_mtp_weights m = weights.mtp[0];
    mla_model *model;
    mla_error err;
    SECTION("errors");
#define REFUSED(change, want, pattern)                                                                                 \
    do {                                                                                                               \
        m = s->files->weights.mtp[0], config = s->files->config, weights = s->files->weights, weights.mtp = &m;        \
        change;                                                                                                        \
        refuses(#change, mla_model_create(&model, &config, &weights, NULL, &err), want, err.text, pattern);            \
        mla_model_destroy(model);                                                                                      \
    } while (0)
    REFUSED(config.num_nextn_predict_layers = -1, MLA_ERR_CONFIG,
            "config.num_nextn_predict_layers: -1, must be 0 to 65536");
    REFUSED(config.num_nextn_predict_layers = INT_MAX, MLA_ERR_CONFIG, "config.num_nextn_predict_layers: 2147483647");
    REFUSED(weights.mtp = NULL, MLA_ERR_WEIGHTS, "weights.mtp: NULL, expected 1");
    REFUSED(m.eh_proj.weight.cols = s->D, MLA_ERR_WEIGHTS,
            "weights.mtp[0].eh_proj.weight: [64, 64], expected [64, 128]");
    REFUSED(m.enorm.weight.cols = 3, MLA_ERR_WEIGHTS, "weights.mtp[0].enorm.weight: [1, 3], expected [64]");
    REFUSED(m.hnorm.weight.dtype = MLA_Q8, MLA_ERR_WEIGHTS, "weights.mtp[0].hnorm.weight: dtype q8");
    REFUSED(m.norm.weight.rows = 2, MLA_ERR_WEIGHTS, "weights.mtp[0].norm.weight: [2, 64], expected [64]");
    REFUSED(m.head = m.eh_proj.weight, MLA_ERR_WEIGHTS, "weights.mtp[0].head: [64, 128], expected [256, 64]");
    REFUSED(m.embed = m.eh_proj.weight, MLA_ERR_WEIGHTS, "weights.mtp[0].embed: [64, 128], expected [256, 64]");

    mla_context *c;
    mla_cache *k;
    float *state = (float *)room((size_t)MOST * (size_t)s->D, 4), row[512];
    const int tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8}, bad[1] = {s->V};
    static const struct missing {
        const char *name;
        size_t at;
    } missing[] = {{"weights.mtp[0].eh_proj: missing", offsetof(mla_mtp_weights, eh_proj)},
                   {"weights.mtp[0].enorm.weight: missing", offsetof(mla_mtp_weights, enorm)},
                   {"weights.mtp[0].hnorm.weight: missing", offsetof(mla_mtp_weights, hnorm)},
                   {"weights.mtp[0].norm.weight: missing", offsetof(mla_mtp_weights, norm)}};
    for (int i = 0; i < 4; i++) { /* a partial model: only a call that needs it asks */
        config = s->files->config, weights = s->files->weights, m = weights.mtp[0], weights.mtp = &m;
        memset((char *)&m + missing[i].at, 0, sizeof(mla_tensor));
        if (!CHECK(mla_model_create(&model, &config, &weights, NULL, &err) == MLA_OK, "%s", err.text)) continue;
        c = plain_context(model), k = cache_of(model, 8, MLA_F32, NULL);
        const mla_sequence q = sequence_of(k, 2);
        CHECK(mla_model_forward(c, &q, 1, tokens, NULL) == MLA_OK, "%s", mla_context_error(c)->text);
        refuses("partial", mla_mtp_forward(c, 0, &q, 1, tokens, state, NULL), MLA_ERR_WEIGHTS,
                mla_context_error(c)->text, missing[i].name);
        mla_cache_reset(k);
        speculation *g;
        if (CHECK(speculation_create(&g, model, c, 6, k, NULL, &err) == MLA_OK, "%s", err.text))
            for (int again = 0; again < 3;
                 again++) { /* more in all than there is room for: nothing may be left of them */
                refuses("fed", speculation_feed(g, tokens, 4, 0, NULL, &err), MLA_ERR_WEIGHTS, err.text,
                        missing[i].name);
                CHECK(mla_cache_length(k) == 0, "length %d after a feed that failed", mla_cache_length(k));
            }
        speculation_destroy(g);
        mla_cache_destroy(k), mla_context_destroy(c), mla_model_destroy(model);
    }

    c = plain_context(s->model), k = cache_of(s->model, MOST, MLA_F32, NULL);
    mla_sequence q = sequence_of(k, 2), twice[2] = {sequence_of(k, 1), sequence_of(k, 1)};
    const char *text = mla_context_error(c)->text;
    CHECK(mla_mtp_forward(NULL, 0, &q, 1, tokens, state, NULL) == MLA_ERR_ARGUMENT, "no context");
    refuses("empty", mla_mtp_forward(c, 0, &q, 1, tokens, state, NULL), MLA_ERR_ARGUMENT, text,
            "sequences[0].n_tokens: 2, the cache holds 0");
    forward(c, s, k, tokens, 8, state, NULL);
    q.n_tokens = 8;
    refuses("tokens", mla_mtp_forward(c, 0, &q, 1, NULL, state, NULL), MLA_ERR_ARGUMENT, text,
            "sequences[0].embeddings is NULL, and tokens is NULL, too");
    refuses("hidden", mla_mtp_forward(c, 0, &q, 1, tokens, NULL, NULL), MLA_ERR_ARGUMENT, text,
            "mla_mtp_forward: hidden is NULL");
    q.n_tokens = 2;
    refuses("depth", mla_mtp_forward(c, 1, &q, 1, tokens, state, NULL), MLA_ERR_ARGUMENT, text,
            "mla_mtp_forward: depth 1, num_nextn_predict_layers is 1");
    refuses("depth", mla_mtp_forward(c, INT_MAX, &q, 1, tokens, state, NULL), MLA_ERR_ARGUMENT, text,
            "mla_mtp_forward: depth 2147483647, num_nextn_predict_layers is 1");
    refuses("depth", mla_mtp_forward(c, -1, &q, 1, tokens, state, NULL), MLA_ERR_ARGUMENT, text,
            "mla_mtp_forward: depth -1");
    refuses("gap", mla_mtp_forward(c, 0, &q, 1, tokens, state, NULL), MLA_ERR_ARGUMENT, text,
            "sequences[0].n_tokens: 2, but depth 0 has run for 0 of the 6 positions before these");
    refuses("no sequences", mla_mtp_forward(c, 0, &q, 0, tokens, state, NULL), MLA_ERR_ARGUMENT, text,
            "n_sequences: 0");
    refuses("twice", mla_mtp_forward(c, 0, twice, 2, tokens, state, NULL), MLA_ERR_ARGUMENT, text,
            "sequences[1].cache stands twice in the call");
    refuses("unwritten", mla_cache_read(k, s->L, 0, row, &err), MLA_ERR_ARGUMENT, err.text,
            "position 0 of layer 4, which has rows for 0");
    q.n_tokens = 9;
    refuses("more", mla_mtp_forward(c, 0, &q, 1, tokens, state, NULL), MLA_ERR_ARGUMENT, text,
            "sequences[0].n_tokens: 9, the cache holds 8");
    q.n_tokens = 8;
    ahead(c, s, k, 0, tokens, 8, state, NULL, NULL, NULL);
    q.n_tokens = q.n_logits = 1;
    refuses("token", mla_mtp_forward(c, 0, &q, 1, bad, state, NULL), MLA_ERR_ARGUMENT, text,
            "tokens[0]: 256, vocab_size is 256");
    CHECK(mla_cache_length(k) == 8 && mla_cache_read(k, s->L, 7, row, &err) == MLA_OK, "after calls that failed");
    CHECK(mla_cache_truncate(k, 5, &err) == MLA_OK && mla_cache_read(k, s->L, 5, row, &err) == MLA_ERR_ARGUMENT,
          "truncate drops both");
    forward(c, s, k, tokens, 1, state, NULL);
    CHECK(mla_cache_read(k, s->L, 5, row, &err) == MLA_ERR_ARGUMENT && mla_cache_read(k, s->L, 4, row, &err) == MLA_OK,
          "an old row comes back");

    /* caches of the model with the layer and without do not meet */
    mla_model *plain;
    config = s->files->config, config.num_nextn_predict_layers = 0, weights = s->files->weights, weights.mtp = NULL;
    if (CHECK(mla_model_create(&plain, &config, &weights, NULL, &err) == MLA_OK, "%s", err.text)) {
        mla_cache *p = cache_of(plain, MOST, MLA_F32, NULL);
        mla_context *of_plain = plain_context(plain);
        mla_cache_desc d = {.capacity = MOST, .dtype = MLA_F32};
        const mla_sequence stray = sequence_of(p, 1);
        speculation *g;
        refuses("stray", mla_model_forward(c, &stray, 1, tokens, NULL), MLA_ERR_ARGUMENT, text,
                "sequences[0].cache: made for another model");
        refuses("fork", mla_cache_fork(p, k, &err), MLA_ERR_ARGUMENT, err.text, "mla_cache_fork: 5 layers");
        refuses("none", mla_mtp_forward(of_plain, 0, &stray, 1, tokens, state, NULL), MLA_ERR_ARGUMENT,
                mla_context_error(of_plain)->text, "mla_mtp_forward: depth 0, num_nextn_predict_layers is 0");
        for (int none = 0; none < 4; none++)
            refuses("speculation",
                    speculation_create(none == 0 ? NULL : &g, none == 1 ? NULL : s->model, none == 2 ? NULL : c, 64,
                                       none == 3 ? NULL : k, NULL, &err),
                    MLA_ERR_ARGUMENT, err.text, "out, model, context or cache is NULL");
        speculation_group group;
        refuses("speculation", speculation_begin(&group, plain, of_plain, 64, 2, &err), MLA_ERR_ARGUMENT, err.text,
                "no layer of multi-token prediction");
        speculation_end(&group);
        refuses("speculation", speculation_create(&g, plain, of_plain, 64, p, NULL, &err), MLA_ERR_ARGUMENT, err.text,
                "no layer of multi-token prediction");
        refuses("speculation", speculation_create(&g, s->model, c, 2, k, NULL, &err), MLA_ERR_ARGUMENT, err.text,
                "speculation_least");
        refuses("speculation", speculation_create(&g, s->model, c, 64, k, NULL, &err), MLA_ERR_ARGUMENT, err.text,
                "not empty");
        /* one that has no such layer pays nothing */
        const double row_bytes = 4.0 * (config.kv_lora_rank + config.qk_rope_head_dim) * MOST;
        const double large = (double)mla_cache_size(s->model, &d), small = (double)mla_cache_size(plain, &d);
        CHECK(large - small >= row_bytes && large - small < row_bytes + 256, "caches of %g and %g bytes", large, small);
        CHECK(mla_context_size(plain, NULL) < mla_context_size(s->model, NULL) &&
                  mla_model_size(&config) < mla_model_size(&s->files->config),
              "sizes");
        for (int n = 1; n < 100; n *= 7)
            CHECK(mla_model_bytes(plain, n) == mla_model_bytes(s->model, n), "bytes of %d tokens", n);
        CHECK(mla_mtp_bytes(plain, 0, 1) == 0 && mla_mtp_bytes(s->model, 1, 1) == 0 &&
                  mla_mtp_bytes(s->model, -1, 1) == 0,
              "bytes of a layer that is not there");
        CHECK(mla_mtp_bytes(s->model, 0, 1) > 0 && mla_mtp_bytes(s->model, 0, 1) < mla_mtp_bytes(s->model, 0, 50),
              "bytes of the layer");
        CHECK(mla_model_bytes(s->model, 0) > mla_model_bytes(plain, 0), "all bytes");
        /* a second one, whose block has no experts: its bytes do not depend on how many tokens there are */
        memcpy(more_layers, s->files->weights.layers, (size_t)(s->L + 1) * sizeof *more_layers);
        more_layers[s->L + 1] = more_layers[0];
        more_mtp[0] = more_mtp[1] = s->files->weights.mtp[0];
        mla_model *deep;
        config.num_nextn_predict_layers = 2, weights.layers = more_layers, weights.mtp = more_mtp;
        if (CHECK(mla_model_create(&deep, &config, &weights, NULL, &err) == MLA_OK, "%s", err.text)) {
            CHECK(!more_layers[0].moe.experts && more_layers[s->L - 1].moe.experts, "which layers have experts");
            CHECK(mla_mtp_bytes(deep, 1, 1) > 0 && mla_mtp_bytes(deep, 1, 1) == mla_mtp_bytes(deep, 1, 50) &&
                      mla_mtp_bytes(deep, 0, 50) == mla_mtp_bytes(s->model, 0, 50),
                  "bytes of two layers");
            mla_model_destroy(deep);
        }
        mla_cache_destroy(p), mla_context_destroy(of_plain), mla_model_destroy(plain);
    }
    mla_cache_destroy(k), mla_context_destroy(c);
    free(state);
}

static void test_files(const subject *s) {
    checkpoint *c;
    mla_error err;
    SECTION("files");
    CHECK(s->files->weights.mtp[0].embed.data == NULL && s->files->weights.mtp[0].head.data == NULL,
          "an embedding and a head that repeat the model's are taken");
    if (CHECK(checkpoint_open(&c, V3, &err) == MLA_OK, "%s", err.text))
        CHECK(c->config.num_nextn_predict_layers == 0, "the layer is loaded unasked");
    checkpoint_close(c);
    static const char *const without[] = {"deepseek_v2_lite", "kimi_k2", "longcat_flash"};
    for (int i = 0; i < 3; i++) {
        char dir[96];
        const checkpoint_options how = {.mtp = 1};
        snprintf(dir, sizeof dir, "tests/fixtures/checkpoints/%s", without[i]);
        if (CHECK(checkpoint_open_with(&c, dir, &how, &err) == MLA_OK, "%s", err.text))
            CHECK(c->config.num_nextn_predict_layers == 0, "%s has an extra layer", dir);
        checkpoint_close(c);
    }
}

/* ------------------------------------------------------------------------------------------------------------------ */

int main(int argc, char **argv) {
    static const char *const dirs[] = {V3, V3 "_fp8", TALES, V3};
    static const char *const sections[] = {"deepseek_v3", "deepseek_v3_fp8", "tales", "deepseek_v3, two deep"};
    const sampler_desc broad = {.temperature = 1.5, .seed = 5},
                       narrow = {.temperature = 4, .top_k = 60, .repeat_penalty = 1.3, .repeat_last = 8, .seed = 6};
    report = argc > 1 && !strcmp(argv[1], "--report");
    for (int d = 0; d < 2; d++) {
        float **const all[] = {&x_of[d], &hidden_of[d], &want_x[d], &want_hidden[d], &logits_of[d], &want_logits[d]};
        for (int i = 0; i < 6; i++) *all[i] = (float *)room((size_t)MOST * 1024, 4);
    }
    test_verify();
    for (int i = 0; i < 4; i++) {
        subject s;
        SECTION(sections[i]);
        if (!subject_open(&s, dirs[i]) || (i == 3 && !subject_deepen(&s))) continue;
        if (i == 0 || i == 2) test_transformers(&s, dirs[i]);
        test_layer(&s, i == 0);
        test_exactness(&s);
        test_abort(&s);
        if (i == 0) test_pages(&s);
        if (i == 0 || i == 3) test_full(&s);
        test_own_way(&s);
        test_greedy(&s, MLA_ISA_AUTO, 64);
        if (i == 0 || test_all()) test_greedy(&s, MLA_ISA_SCALAR, 5);
        if (i == 0 || (i == 3 && test_all())) test_texts(&s, &broad);
        if (i == 3 || (i == 0 && test_all())) test_texts(&s, &narrow);
        if (i == 0) test_errors(&s), test_files(&s);
        subject_close(&s);
    }
    for (int d = 0; d < 2; d++)
        free(x_of[d]), free(hidden_of[d]), free(want_x[d]), free(want_hidden[d]), free(logits_of[d]),
            free(want_logits[d]);
    return test_end();
}
