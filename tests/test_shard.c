/* test_shard.c - a model shared by several contexts, here threads of one process: all fixtures against what
   transformers computed and against one context alone, by several numbers of ranks, in calls of all kinds; weights of
   formats with blocks, interleaved or not; every rank gets the same bits, and touches only its own weights; hooks that
   fail. Run from the repository root; test_shard --report also prints the largest errors. */

#define _POSIX_C_SOURCE 200112L
#define MLA_IMPLEMENTATION
#include "mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "examples/checkpoint.h"
#include "test.h"

#include <pthread.h>
#include <stdlib.h>

enum { MOST_RANKS = 8, PROMPT = 48, GREEDY = 16, FED = PROMPT + GREEDY - 1, MAX_LAYERS = 8, QUEUE = 64 };

static const float bound = 5e-5f; /* of the largest logit */
static int report;

static void *need(void *p) {
    if (!p) puts("out of memory in the test"), exit(2);
    return p;
}
static float *floats(size_t n) { return (float *)need(calloc(n ? n : 1, sizeof(float))); }
static int same(const void *a, const void *b, size_t n_floats) { return memcmp(a, b, n_floats * sizeof(float)) == 0; }

/* ---- ranks as threads -------------------------------------------------------------------------------------------- */

typedef struct group {
    int ranks;
    pthread_mutex_t lock;
    pthread_cond_t all_here;
    int here, turn;
    float *x[MOST_RANKS];
    size_t n[MOST_RANKS];
    void (*script)(struct group *g, int rank);
    const void *arg;
} group;
typedef struct member {
    group *g;
    int rank;
    int sums, gathers, waits,
        failing; /* hooks called; of these hooks (sums or waits or gathers) all from this one fail */
    char what;   /* 's', 'g' or 'w': the hook that fails */
    int late;    /* sums are made when they are waited for */
    struct {
        float *x;
        size_t n;
    } queue[QUEUE];
    int first, last, most; /* under way, and the most that were */
} member;

static void meet(group *g) {
    pthread_mutex_lock(&g->lock);
    const int turn = g->turn;
    if (++g->here == g->ranks) g->here = 0, g->turn++, pthread_cond_broadcast(&g->all_here);
    while (g->turn == turn) pthread_cond_wait(&g->all_here, &g->lock);
    pthread_mutex_unlock(&g->lock);
}
static void sum_up(member *m, float *x, size_t n) {
    group *g = m->g;
    float *sum = floats(n);
    g->x[m->rank] = x, g->n[m->rank] = n;
    meet(g);
    for (int r = 0; r < g->ranks; r++) {
        if (g->n[r] != n) printf("ranks sum up %zu and %zu floats\n", n, g->n[r]), exit(2);
        for (size_t i = 0; i < n; i++) sum[i] = r ? sum[i] + g->x[r][i] : g->x[r][i];
    }
    meet(g);
    memcpy(x, sum, n * sizeof *x);
    free(sum);
}
static int all_reduce(void *user, float *x, size_t n) {
    member *m = (member *)user;
    if (++m->sums >= m->failing && m->failing && m->what == 's') return 1;
    if (!m->late) sum_up(m, x, n);
    else {
        m->queue[m->last % QUEUE].x = x, m->queue[m->last++ % QUEUE].n = n;
        m->most = m->last - m->first > m->most ? m->last - m->first : m->most;
    }
    return 0;
}
static int wait_for(void *user) {
    member *m = (member *)user;
    if (m->first == m->last) puts("waits for no sum"), exit(2);
    const int i = m->first++ % QUEUE;
    if (++m->waits >= m->failing && m->failing && m->what == 'w') return 1;
    sum_up(m, m->queue[i].x, m->queue[i].n);
    return 0;
}
static int all_gather(void *user, float *x, size_t ldx, int n, const int *begin) {
    member *m = (member *)user;
    group *g = m->g;
    if (m->first != m->last) puts("gathers while a sum is under way"), exit(2);
    if (++m->gathers >= m->failing && m->failing && m->what == 'g') return 1;
    g->x[m->rank] = x;
    meet(g);
    for (int r = 0; r < g->ranks; r++)
        for (int i = 0; i < n && r != m->rank; i++)
            memcpy(x + (size_t)i * ldx + begin[r], g->x[r] + (size_t)i * ldx + begin[r],
                   (size_t)(begin[r + 1] - begin[r]) * sizeof *x);
    meet(g);
    return 0;
}

typedef struct thread {
    group *g;
    int rank;
} thread;
static void *thread_main(void *arg) {
    const thread *t = (const thread *)arg;
    t->g->script(t->g, t->rank);
    return NULL;
}
/* script(group, rank) by so many threads at once. */
static void by_all(int ranks, void (*script)(group *g, int rank), const void *arg) {
    pthread_t id[MOST_RANKS];
    thread of[MOST_RANKS];
    group g;
    memset(&g, 0, sizeof g);
    g.ranks = ranks, g.script = script, g.arg = arg;
    pthread_mutex_init(&g.lock, NULL), pthread_cond_init(&g.all_here, NULL);
    for (int r = 0; r < ranks; r++) {
        of[r].g = &g, of[r].rank = r;
        if (pthread_create(&id[r], NULL, thread_main, &of[r])) puts("no thread"), exit(2);
    }
    for (int r = 0; r < ranks; r++) pthread_join(id[r], NULL);
    pthread_mutex_destroy(&g.lock), pthread_cond_destroy(&g.all_here);
}

/* Checks count in the main thread only: scripts leave what they find here. */
typedef struct outcome {
    char error[300];
    mla_result code;
} outcome;

/* ---- one way of running a model ---------------------------------------------------------------------------------- */

typedef struct subject {
    char name[64];
    const mla_model *model;
    int V, D, L, H, K;
    int tokens[PROMPT + GREEDY];
} subject;
typedef struct way {
    int ranks, split, late, threads;
    int chunk; /* tokens of the prompt in a call */
    int batch; /* the same sequence so many times in each call; later ones are forks of the first after the prompt */
    int probs; /* ask for them in the call on the prompt, whole */
    mla_isa isa;
    int rounded;
    mla_activations activations; /* if rounded */
} way;
/* All that a rank gets. */
typedef struct result {
    float *logits, *hidden, *weight, *probs; /* [FED, V] [FED, D] [FED, K] of the last layer, [L, PROMPT, H, PROMPT] */
    int *index;                              /* [FED, K] */
    size_t n;                                /* floats of all that */
    int most;
    outcome end;
} result;
typedef struct run {
    const subject *s;
    way w;
    result r[MOST_RANKS];
} run;

static void result_new(result *r, const subject *s) {
    const size_t V = (size_t)s->V, D = (size_t)s->D, K = (size_t)s->K, probs = (size_t)(s->L * s->H) * PROMPT * PROMPT;
    memset(r, 0, sizeof *r);
    r->n = FED * (V + D + 2 * K) + probs;
    r->logits = floats(r->n), r->hidden = r->logits + FED * V, r->weight = r->hidden + FED * D;
    r->index = (int *)(void *)(r->weight + FED * K), r->probs = r->weight + 2 * FED * K;
}
static const char *way_text(const run *u) {
    static char text[200];
    snprintf(text, sizeof text, "%s: %d ranks%s%s, %d threads, calls of %d%s%s, %s", u->s->name, u->w.ranks,
             u->w.split ? ", experts split" : "", u->w.late ? ", in halves" : "", u->w.threads, u->w.chunk,
             u->w.batch > 1 ? ", batches" : "", u->w.probs ? ", probabilities" : "", mla_isa_name(u->w.isa));
    return text;
}

/* One call on n tokens from t on, for all sequences. */
static mla_result call(const run *u, mla_context *c, mla_cache *const *k, int n_seqs, int t, int n, result *r) {
    const subject *s = u->s;
    const size_t V = (size_t)s->V, D = (size_t)s->D, K = (size_t)s->K, rows = (size_t)(n * n_seqs);
    mla_sequence q[4];
    float *logits = floats(rows * V), *last = floats(rows * D), *hidden[MAX_LAYERS + 1] = {NULL};
    int *tokens = (int *)need(calloc(rows, sizeof *tokens)), *index = NULL;
    float *weight = NULL;
    memset(q, 0, sizeof q);
    for (int i = 0; i < n_seqs; i++) {
        q[i].cache = k[i], q[i].n_tokens = n, q[i].n_logits = n;
        if (u->w.probs && n == PROMPT) q[i].probs = r->probs;
        memcpy(tokens + i * n, s->tokens + t, (size_t)n * sizeof *tokens);
    }
    hidden[s->L] = last;
    if (K)
        index = (int *)need(calloc((size_t)s->L * rows * K, sizeof *index)), weight = floats((size_t)s->L * rows * K);
    const mla_outputs out = {logits, hidden, NULL, index, weight};
    const mla_result code = mla_model_forward(c, q, n_seqs, tokens, &out);
    if (code) snprintf(r->end.error, sizeof r->end.error, "%s", mla_context_error(c)->text);
    const size_t from = (size_t)((n_seqs - 1) * n), layer = (size_t)(s->L - 1) * rows;
    memcpy(r->logits + (size_t)t * V, logits + from * V, (size_t)n * V * sizeof *logits);
    memcpy(r->hidden + (size_t)t * D, last + from * D, (size_t)n * D * sizeof *last);
    for (size_t i = 0; i < (size_t)n && K; i++) {
        memcpy(r->index + ((size_t)t + i) * K, index + (layer + from + i) * K, K * sizeof *index);
        memcpy(r->weight + ((size_t)t + i) * K, weight + (layer + from + i) * K, K * sizeof *weight);
    }
    free(logits), free(last), free(tokens), free(index), free(weight);
    return code;
}
static mla_shard shard_of(member *m, group *g, int rank, const way *w) {
    const mla_shard shard = {rank, w->ranks, w->split, all_reduce, all_gather, w->late ? wait_for : NULL, m};
    memset(m, 0, sizeof *m);
    m->g = g, m->rank = rank, m->late = w->late;
    return shard;
}
/* The prompt in calls, then forks of it, then a token at a time. */
static void run_with(group *g, int rank, run *u) {
    const way *w = &u->w;
    result *r = &u->r[rank];
    member m;
    mla_context_desc d;
    mla_context *c = NULL;
    mla_cache *k[4] = {NULL};
    mla_pool *pool = NULL;
    mla_error err;
    const mla_pool_desc pd = {.n_pages = 12};
    memset(&d, 0, sizeof d);
    d.max_tokens = 4 * PROMPT, d.threads = w->threads, d.isa = w->isa;
    d.activations = w->rounded ? w->activations : MLA_ACT_F32; /* AMX would round to two parts in bf16 */
    d.shard = shard_of(&m, g, rank, w);
    mla_result code = mla_context_create(&c, u->s->model, &d, &err);
    if (!code && w->batch > 1) code = mla_pool_create(&pool, u->s->model, &pd, &err);
    const mla_cache_desc kd = {.capacity = 2 * PROMPT, .pool = pool};
    for (int i = 0; i < w->batch && !code; i++) code = mla_cache_create(&k[i], u->s->model, &kd, &err);
    if (code) snprintf(r->end.error, sizeof r->end.error, "%s", err.text);
    for (int t = 0; t < PROMPT && !code; t += w->chunk)
        code = call(u, c, k, w->late ? w->batch : 1, t, w->chunk < PROMPT - t ? w->chunk : PROMPT - t, r);
    for (int i = 1; i < w->batch && !code && !w->late; i++) code = mla_cache_fork(k[i], k[0], NULL);
    for (int t = PROMPT; t < FED && !code; t++) code = call(u, c, k, w->batch, t, 1, r);
    r->end.code = code, r->most = m.most;
    for (int i = 0; i < w->batch; i++) mla_cache_destroy(k[i]);
    mla_pool_destroy(pool), mla_context_destroy(c);
}
static void run_rank(group *g, int rank) { run_with(g, rank, (run *)(uintptr_t)g->arg); }
static run *run_new(const subject *s, way w) {
    run *u = (run *)need(calloc(1, sizeof *u));
    u->s = s, u->w = w;
    if (!u->w.threads) u->w.threads = 1;
    if (!u->w.batch) u->w.batch = 1;
    if (!u->w.chunk) u->w.chunk = PROMPT;
    for (int i = 0; i < w.ranks; i++) result_new(&u->r[i], s);
    by_all(w.ranks, run_rank, u);
    for (int i = 0; i < w.ranks; i++) CHECK(u->r[i].end.code == MLA_OK, "%s: %s", way_text(u), u->r[i].end.error);
    for (int i = 1; i < w.ranks; i++)
        CHECK(same(u->r[i].logits, u->r[0].logits, u->r[0].n), "%s: ranks 0 and %d have other bits", way_text(u), i);
    return u;
}
static void run_free(run *u) {
    for (int i = 0; i < u->w.ranks; i++) free(u->r[i].logits);
    free(u);
}

/* ---- the fixtures ------------------------------------------------------------------------------------------------ */

static const char *const names[] = {"deepseek_v3",
                                    "deepseek_v2",
                                    "deepseek_v2_lite",
                                    "deepseek_v3_fp8",
                                    "kimi_k2",
                                    "axk1",
                                    "glm4_moe_lite",
                                    "longcat_flash",
                                    "minicpm3",
                                    "mistral4",
                                    "youtu",
                                    "deepseek_v32",
                                    "glm_moe_dsa",
                                    "minicpm3_longrope",
                                    "kimi_linear",
                                    "axk2",
                                    "axk2_light",
                                    "hy_v4",
                                    "bailing_hybrid",
                                    "longcat_flash_ngram"};
enum { N_NAMES = sizeof names / sizeof *names };

static void subject_of(subject *s, const mla_model *m, const char *name) {
    memset(s, 0, sizeof *s);
    snprintf(s->name, sizeof s->name, "%s", name);
    const mla_config *c = mla_model_config(m);
    s->model = m, s->V = c->vocab_size, s->D = c->hidden_size, s->L = c->num_hidden_layers;
    s->H = c->num_attention_heads, s->K = c->num_experts_per_tok;
    for (int i = 0; i < PROMPT + GREEDY; i++) s->tokens[i] = (i * 37 + 11) % s->V;
}
static int argmax(const float *x, int n) {
    int best = 0;
    for (int i = 1; i < n; i++) best = x[i] > x[best] ? i : best;
    return best;
}
static void copy_of(const st_file *f, const char *name, void *to, size_t bytes) {
    const st_tensor *t = st_find(f, name);
    if (CHECK(t && t->bytes == bytes, "%s: missing, or not of %zu bytes", name, bytes)) memcpy(to, t->data, bytes);
}
/* A run's logits of the prompt against transformers', its greedy tokens; all its logits against those of one rank. */
static void check_fixture(const run *u, const run *alone, const float *logits) {
    const subject *s = u->s;
    const size_t V = (size_t)s->V;
    const float e = test_rel_err(u->r[0].logits, logits, PROMPT * V),
                f = test_rel_err(u->r[0].logits, alone->r[0].logits, FED * V);
    CHECK(e <= bound, "%s: off by %.1e from transformers", way_text(u), (double)e);
    CHECK(f <= bound, "%s: off by %.1e from one rank", way_text(u), (double)f);
    if (report) printf("%s: %.1e, %.1e from one rank\n", way_text(u), (double)e, (double)f);
    for (int i = 0; i < GREEDY; i++) {
        const int best = argmax(u->r[0].logits + (size_t)(PROMPT - 1 + i) * V, s->V);
        CHECK(best == s->tokens[PROMPT + i], "%s: greedy token %d is %d, not %d", way_text(u), i, best,
              s->tokens[PROMPT + i]);
    }
}
static void test_fixture(const char *name, int i) {
    static const way ways[] = {{.ranks = 2},
                               {.ranks = 3, .chunk = 17},
                               {.ranks = 4, .chunk = 20, .batch = 3, .split = 1},
                               {.ranks = 2, .batch = 4, .late = 1, .threads = 2},
                               {.ranks = 4, .probs = 1},
                               {.ranks = 7, .chunk = 13, .split = 1},
                               {.ranks = 3, .isa = MLA_ISA_SCALAR, .batch = 4, .late = 1}};
    enum { WAYS = sizeof ways / sizeof *ways };
    char path[200];
    mla_error err;
    checkpoint *files;
    mla_model *model;
    st_file *expected;
    int64_t tokens[PROMPT + GREEDY];
    subject s;
    snprintf(path, sizeof path, "tests/fixtures/checkpoints/%s", name);
    if (!CHECK(checkpoint_open(&files, path, &err) == MLA_OK, "%s", err.text)) return;
    if (!CHECK(mla_model_create(&model, &files->config, &files->weights, NULL, &err) == MLA_OK, "%s", err.text)) return;
    strcat(path, "/expected.safetensors");
    if (!CHECK(st_open(&expected, path, &err) == MLA_OK, "%s", err.text)) return;
    subject_of(&s, model, name);
    float *logits = floats(PROMPT * (size_t)s.V);
    copy_of(expected, "tokens", tokens, PROMPT * sizeof *tokens);
    copy_of(expected, "greedy", tokens + PROMPT, GREEDY * sizeof *tokens);
    copy_of(expected, "logits", logits, PROMPT * (size_t)s.V * sizeof *logits);
    for (int t = 0; t < PROMPT + GREEDY; t++) s.tokens[t] = (int)tokens[t];
    run *alone = run_new(&s, (way){.ranks = 1, .probs = 1});
    for (int w = 0; w < WAYS; w++) {
        if (!test_all() && ((w + 3 * i) % WAYS > 1 || TEST_SPARED(ways[w].isa))) continue;
        run *u = run_new(&s, ways[w]), *again = w == 1 ? run_new(&s, ways[w]) : NULL;
        check_fixture(u, alone, logits);
        if (again) CHECK(same(u->r[0].logits, again->r[0].logits, u->r[0].n), "%s: other bits", way_text(u));
        if (again) run_free(again);
        CHECK(ways[w].late ? u->r[0].most > 1 : u->r[0].most == 0, "%s: %d sums at a time", way_text(u), u->r[0].most);
        const float e =
            ways[w].probs ? test_rel_err(u->r[0].probs, alone->r[0].probs, (size_t)(s.L * s.H) * PROMPT * PROMPT) : 0;
        CHECK(e <= bound, "%s: probabilities off by %.1e", way_text(u), (double)e);
        run_free(u);
    }
    run_free(alone);
    free(logits);
    st_close(expected), mla_model_destroy(model), checkpoint_close(files);
}

/* ---- formats ----------------------------------------------------------------------------------------------------- */

/* A model of random weights: a dense layer and two with experts, which are of two dtypes by turns; x16: interleaved. */
typedef struct random_model {
    mla_config config;
    mla_layer_weights layers[3];
    mla_mlp_weights experts[3][16];
    mla_weights weights;
    mla_model *model;
    void *memory[256];
    int n;
    test_rng rng;
} random_model;

static mla_tensor random_tensor(random_model *m, mla_dtype t, int x16, int rows, int cols, float deviation) {
    const size_t row = mla_dtype_bytes(t, (size_t)cols);
    unsigned char *data = (unsigned char *)need(malloc(row * (size_t)rows)), *other;
    float *x = floats((size_t)cols);
    mla_tensor w = mla_view(data, t, rows, cols);
    m->memory[m->n++] = data;
    for (int r = 0; r < rows; r++) {
        for (int i = 0; i < cols; i++) x[i] = deviation * 3.4641f * (test_uniform(&m->rng) - 0.5f);
        mla_quantize(t, data + (size_t)r * row, x, (size_t)cols, NULL);
    }
    free(x);
    if (!x16 || mla_dtype_block(t) == 1 || rows % 16) return w;
    other = (unsigned char *)need(malloc(row * (size_t)rows));
    m->memory[m->n++] = other;
    CHECK(mla_repack(other, &w, NULL) == MLA_OK, "%s: cannot be repacked", mla_dtype_name(t));
    w.data = other, w.layout = MLA_LAYOUT_X16;
    return w;
}
static mla_linear random_linear(random_model *m, mla_dtype t, int x16, int rows, int cols) {
    mla_linear l;
    memset(&l, 0, sizeof l);
    l.weight = random_tensor(m, t, x16, rows, cols, 1 / sqrtf((float)cols));
    l.bias = random_tensor(m, MLA_F32, 0, 1, rows, 0.1f);
    return l;
}
static mla_mlp_weights random_mlp(random_model *m, mla_dtype t, int x16, int inner) {
    const int D = m->config.hidden_size;
    mla_mlp_weights w;
    w.gate = random_linear(m, t, x16, inner, D), w.up = random_linear(m, t, x16, inner, D);
    w.down = random_linear(m, t, x16, D, inner);
    return w;
}
static void random_open(random_model *m, mla_dtype t, mla_dtype other, int x16) {
    enum { D = 256, H = 6, P = 16, V = 128, R = 256, Q = 256, E = 8 };
    const int N = x16 && t == MLA_Q4 ? 24 : 32; /* 40 rows of queries a head, which are not whole sixteens, or 48 */
    mla_error err;
    memset(m, 0, sizeof *m);
    m->rng.state = 5;
    const mla_config config = {.vocab_size = 128,
                               .hidden_size = D,
                               .num_hidden_layers = 3,
                               .intermediate_size = 768,
                               .num_attention_heads = H,
                               .q_lora_rank = Q,
                               .kv_lora_rank = R,
                               .qk_nope_head_dim = N,
                               .qk_rope_head_dim = P,
                               .v_head_dim = V,
                               .n_routed_experts = E,
                               .num_experts_per_tok = 3,
                               .zero_expert_num = 2,
                               .moe_intermediate_size = 512,
                               .n_shared_experts = 1};
    m->config = config;
    for (int i = 0; i < 3; i++) {
        mla_layer_weights *l = &m->layers[i];
        float *one = floats(D);
        m->memory[m->n++] = one;
        for (int j = 0; j < D; j++) one[j] = 1;
        const mla_norm_weights norm = {.weight = mla_view(one, MLA_F32, 1, D)};
        l->attn_norm = l->ffn_norm = l->attn.kv_norm = l->attn.q_norm = m->weights.norm = norm;
        l->attn.q_a = random_linear(m, t, x16, Q, D), l->attn.q_b = random_linear(m, t, x16, H * (N + P), Q);
        l->attn.kv_a = random_linear(m, t, x16, R + P, D), l->attn.kv_b = random_linear(m, t, x16, H * (N + V), R);
        l->attn.o = random_linear(m, t, x16, D, H * V);
        if (i == 0) {
            l->mlp = random_mlp(m, t, x16, 768);
            continue;
        }
        l->moe.router = random_tensor(m, MLA_BF16, 0, E + 2, D, 0.1f), l->moe.shared = random_mlp(m, t, x16, 512);
        for (int e = 0; e < E; e++) m->experts[i][e] = random_mlp(m, e < 3 ? other : t, x16, 512);
        l->moe.experts = m->experts[i];
    }
    m->weights.layers = m->layers;
    m->weights.embed = random_tensor(m, MLA_BF16, 0, 128, D, 1);
    m->weights.head = random_tensor(m, t, x16, 128, D, 0.1f);
    if (!CHECK(mla_model_create(&m->model, &m->config, &m->weights, NULL, &err) == MLA_OK, "%s", err.text))
        exit(test_end());
}
static void random_close(random_model *m) {
    mla_model_destroy(m->model);
    while (m->n > 0) free(m->memory[--m->n]);
}

static int by_size(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}
/* Activations in f32 differ from one rank's by the order of sums; rounded ones by what that turns over, which may be a
   token's expert: half of the tokens are near. */
static float formats_error(const run *u, const run *alone, int whole) {
    float e[FED];
    const size_t V = (size_t)u->s->V;
    if (whole) return test_rel_err(u->r[0].logits, alone->r[0].logits, FED * V);
    for (size_t i = 0; i < FED; i++) e[i] = test_rel_err(u->r[0].logits + i * V, alone->r[0].logits + i * V, V);
    qsort(e, FED, sizeof *e, by_size);
    return e[FED / 2];
}
static void test_formats(void) {
    static const struct {
        mla_dtype t, other;
        int x16;
    } of[] = {{MLA_Q4, MLA_Q8, 1},     {MLA_Q4_K, MLA_Q6_K, 0}, {MLA_BF16, MLA_F32, 0},    {MLA_Q4, MLA_BF16, 0},
              {MLA_Q6_K, MLA_Q4_K, 1}, {MLA_Q8, MLA_F16, 0},    {MLA_Q5_K, MLA_IQ4_NL, 1}, {MLA_F16, MLA_F16, 0}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        random_model m;
        subject s;
        char name[64];
        if (!test_all() && i > 2) break;
        random_open(&m, of[i].t, of[i].other, of[i].x16);
        snprintf(name, sizeof name, "%s with %s%s", mla_dtype_name(of[i].t), mla_dtype_name(of[i].other),
                 of[i].x16 ? ", x16" : "");
        subject_of(&s, m.model, name);
        for (int isa = 0; isa < MLA_ISA_COUNT; isa++)
            for (int act = MLA_ACT_AUTO; act <= MLA_ACT_BF16; act++) {
                const int tiles = isa == MLA_ISA_BF16 || isa == MLA_ISA_AMX;
                if (isa ? !TEST_ISA((mla_isa)isa) || !test_all() : act == MLA_ACT_AUTO) continue;
                if (act == MLA_ACT_BF16 && !tiles) continue;
                const way one = {.ranks = 1, .isa = (mla_isa)isa, .rounded = 1, .activations = (mla_activations)act};
                run *alone = run_new(&s, one);
                for (int ranks = 2; ranks <= (test_all() ? 5 : 3); ranks++) {
                    way w = one;
                    w.ranks = ranks, w.split = ranks % 2;
                    run *u = run_new(&s, w);
                    const float e = formats_error(u, alone, act == MLA_ACT_F32);
                    CHECK(e <= (act == MLA_ACT_F32 ? bound : 0.01f), "%s: off by %.1e", way_text(u), (double)e);
                    if (report) printf("%s: %.1e\n", way_text(u), (double)e);
                    run_free(u);
                }
                run_free(alone);
            }
        random_close(&m);
    }
}

/* ---- what is rounded is rounded alike ---------------------------------------------------------------------------- */

/* Attention and experts of a layer, of inputs that all have bit by bit, with activations that are rounded: what a rank
   rounds are codes of one rank's, too, so that results differ by the order of sums in f32 only. Whole models differ by
   more: the next layer rounds those results, and some fall to the other side. */
typedef struct layer_of {
    const subject *s;
    int ranks, split;
    float *y[MOST_RANKS]; /* [2, PROMPT, D] attention, experts */
    outcome end[MOST_RANKS];
} layer_of;

static void run_layer(group *g, int rank) {
    layer_of *p = (layer_of *)(uintptr_t)g->arg;
    const size_t D = (size_t)p->s->D;
    const way w = {.ranks = p->ranks, .split = p->split};
    outcome *end = &p->end[rank];
    member m;
    mla_context_desc d;
    mla_context *c = NULL;
    mla_cache *k = NULL;
    const mla_cache_desc kd = {.capacity = PROMPT};
    mla_error err;
    float *x = floats(PROMPT * D);
    test_rng rng = {.state = 3};
    for (size_t i = 0; i < PROMPT * D; i++) x[i] = test_uniform(&rng) - 0.5f;
    memset(&d, 0, sizeof d);
    d.max_tokens = PROMPT, d.threads = 1, d.activations = MLA_ACT_INT8, d.shard = shard_of(&m, g, rank, &w);
    end->code = mla_context_create(&c, p->s->model, &d, &err);
    if (!end->code) end->code = mla_cache_create(&k, p->s->model, &kd, &err);
    if (end->code) snprintf(end->error, sizeof end->error, "%s", err.text);
    const mla_sequence q = {.cache = k, .n_tokens = PROMPT};
    if (!end->code) end->code = mla_attn_forward(c, 1, p->y[rank], x, &q, 1);
    if (!end->code) end->code = mla_moe_forward(c, 1, p->y[rank] + PROMPT * D, x, PROMPT, NULL);
    mla_cache_destroy(k), mla_context_destroy(c), free(x);
}
static void test_rounded(void) {
    static const mla_dtype types[] = {MLA_Q4, MLA_Q8, MLA_Q4_K};
    for (int t = 0; t < 3; t++) {
        random_model m;
        subject s;
        layer_of p[4];
        random_open(&m, types[t], MLA_Q8, t != 1);
        subject_of(&s, m.model, mla_dtype_name(types[t]));
        const size_t n = PROMPT * (size_t)s.D;
        for (int i = 0; i < 4; i++) {
            memset(&p[i], 0, sizeof p[i]);
            p[i].s = &s, p[i].ranks = i + 1, p[i].split = i % 2;
            for (int r = 0; r <= i; r++) p[i].y[r] = floats(2 * n);
            by_all(i + 1, run_layer, &p[i]);
            for (int part = 0; part < 2; part++) {
                const float e = test_rel_err(p[i].y[0] + (size_t)part * n, p[0].y[0] + (size_t)part * n, n);
                CHECK(p[i].end[0].code == MLA_OK && e <= 1e-5f, "%s, %d ranks, %s: off by %.1e %s", s.name, i + 1,
                      part ? "experts" : "attention", (double)e, p[i].end[0].error);
                if (report)
                    printf("%s, %d ranks, %s: %.1e\n", s.name, i + 1, part ? "experts" : "attention", (double)e);
            }
        }
        CHECK(test_rel_err(p[0].y[0], p[0].y[0] + n, n) > 0.1f, "%s: attention and experts give the same", s.name);
        for (int i = 0; i < 4; i++)
            for (int r = 0; r <= i; r++) free(p[i].y[r]);
        random_close(&m);
    }
}

/* ---- a rank's own weights ---------------------------------------------------------------------------------------- */

static void poison(const mla_tensor *t, int row0, int row1, int col0, int col1) {
    float *x = (float *)(uintptr_t)t->data;
    for (int r = row0; r < row1; r++)
        for (int i = col0; i < col1; i++) x[(size_t)r * (size_t)t->cols + (size_t)i] = NAN;
}
/* What rank 0, or 1, of two must leave alone: the other half of all that is cut. */
static void poison_mlp(const mla_mlp_weights *w, int rank) {
    const int n = w->gate.weight.rows, from = rank ? 0 : n / 2, to = rank ? n / 2 : n;
    poison(&w->gate.weight, from, to, 0, w->gate.weight.cols), poison(&w->up.weight, from, to, 0, w->up.weight.cols);
    poison(&w->down.weight, 0, w->down.weight.rows, from, to);
}
static void poison_rank(random_model *m, int rank, int split) {
    const int other = rank ? 0 : 1, E = m->config.n_routed_experts;
    for (int i = 0; i < 3; i++) {
        const mla_attn_weights *a = &m->layers[i].attn;
        const mla_tensor *q = &a->q_b.weight, *kv = &a->kv_b.weight, *o = &a->o.weight;
        poison(q, other * q->rows / 2, (other + 1) * q->rows / 2, 0, q->cols);
        poison(kv, other * kv->rows / 2, (other + 1) * kv->rows / 2, 0, kv->cols);
        poison(o, 0, o->rows, other * o->cols / 2, (other + 1) * o->cols / 2);
        if (i == 0) poison_mlp(&m->layers[i].mlp, rank);
        else poison_mlp(&m->layers[i].moe.shared, rank);
        for (int e = 0; e < E && i > 0 && split; e++) poison_mlp(&m->experts[i][e], rank);
        for (int e = other * E / 2; e < (other + 1) * E / 2 && i > 0 && !split; e++)
            for (int half = 0; half < 2; half++) poison_mlp(&m->experts[i][e], half);
    }
    poison(&m->weights.head, other * 64, (other + 1) * 64, 0, m->config.hidden_size);
}
typedef struct own_run {
    random_model of[2];
    run u;
} own_run;
static void run_own(group *g, int rank) {
    own_run *o = (own_run *)(uintptr_t)g->arg;
    run u = o->u;
    subject s = *o->u.s;
    s.model = o->of[rank].model, u.s = &s;
    run_with(g, rank, &u);
    o->u.r[rank].end = u.r[rank].end;
}
static void test_own(void) {
    for (int split = 0; split < 2; split++) {
        own_run *o = (own_run *)need(calloc(1, sizeof *o));
        subject s;
        for (int r = 0; r < 2; r++) random_open(&o->of[r], MLA_F32, MLA_F32, 0);
        subject_of(&s, o->of[0].model, "f32, each rank with its own part of the weights");
        /* of many tokens ranks that share memory take whatever experts there are */
        run *whole = run_new(&s, (way){.ranks = 2, .split = split, .chunk = split ? 5 : 20});
        for (int r = 0; r < 2; r++) poison_rank(&o->of[r], r, split), result_new(&o->u.r[r], &s);
        o->u.s = &s, o->u.w = whole->w;
        by_all(2, run_own, o);
        for (int r = 0; r < 2; r++)
            CHECK(same(o->u.r[r].logits, whole->r[0].logits, whole->r[0].n), "%s: rank %d used others' weights",
                  way_text(whole), r);
        for (int r = 0; r < 2; r++) random_close(&o->of[r]), free(o->u.r[r].logits);
        run_free(whole), free(o);
    }
}

/* ---- ranges of layers, layers' parts, multi-token prediction, hooks that fail ------------------------------------ */

enum { N = 12 };
typedef struct parts {
    const subject *s;
    int ranks, fail;        /* fail: calls are tried with hooks that fail, first */
    float *all[MOST_RANKS]; /* what a rank got */
    size_t n;
    outcome end[MOST_RANKS];
    int tried[MOST_RANKS]; /* calls that failed as they should */
} parts;

static int rows_of(const subject *s, const mla_cache *k, float *to) {
    const mla_config *c = mla_model_config(s->model);
    const size_t room = (size_t)(c->kv_lora_rank + c->qk_rope_head_dim + c->index_head_dim);
    int n = 0;
    for (int l = 0; l < s->L + c->num_nextn_predict_layers; l++)
        for (int u = 0; u < mla_cache_length(k); u++)
            n += mla_cache_read(k, l, u, to + (size_t)n * room, NULL) == MLA_OK;
    return n;
}
/* One call of a script, whatever it is. */
typedef struct step {
    int what, begin, end;
    mla_sequence *q;
    const int *tokens;
    float *x, *y;
    const mla_outputs *out;
} step;
static mla_result take(mla_context *c, const step *a) {
    switch (a->what) {
    case 'l': return mla_layers_forward(c, a->begin, a->end, a->q, 1, a->tokens, a->out);
    case 'm': return mla_mtp_forward(c, 0, a->q, 1, a->tokens, a->x, a->out);
    case 'a': return mla_attn_forward(c, a->begin, a->y, a->x, a->q, 1);
    default: return mla_moe_forward(c, a->begin, a->y, a->x, a->q->n_tokens, NULL);
    }
}
/* A step that must succeed; before it, if that is to be tried, it must fail at each of its hooks, and leave the cache
   as it was. */
static void take_all(parts *p, int rank, mla_context *c, member *m, const step *a) {
    const mla_config *f = mla_model_config(p->s->model);
    const size_t room =
        (size_t)((p->s->L + 1) * 2 * PROMPT * (f->kv_lora_rank + f->qk_rope_head_dim + f->index_head_dim));
    float *before = floats(2 * room), *after = before + room;
    outcome *end = &p->end[rank];
    mla_cache *k = a->q->cache;
    for (const char *what = "sgw"; p->fail && *what && end->code == MLA_OK; what++)
        for (int i = 1, failed = 1; failed && end->code == MLA_OK; i++) {
            const int length = mla_cache_length(k), n = rows_of(p->s, k, before);
            m->sums = m->gathers = m->waits = 0, m->what = *what, m->failing = i;
            const mla_result r = take(c, a);
            m->failing = 0, m->first = m->last = 0;
            failed = r != MLA_OK;
            if (!failed) {
                if (a->what == 'l' || a->what == 'a') mla_cache_truncate(k, length, NULL);
                if (a->begin > 0 && a->what == 'l') take(c, a - 1); /* whose rows have gone, too */
                break;
            }
            const int ok = r == MLA_ERR_ABORTED && strstr(mla_context_error(c)->text, "context.shard.") &&
                           mla_cache_length(k) == length && rows_of(p->s, k, after) == n && same(before, after, room);
            if (!ok)
                end->code = MLA_ERR_DATA, snprintf(end->error, sizeof end->error, "%c fails at %c %d: %s", a->what,
                                                   *what, i, mla_context_error(c)->text);
            p->tried[rank]++;
        }
    if (end->code == MLA_OK) {
        end->code = take(c, a);
        if (end->code) snprintf(end->error, sizeof end->error, "%s", mla_context_error(c)->text);
    }
    free(before);
}
/* Layers [0, 2), then the others; MTP twice, once over; then attention and experts of a layer, apart. */
static void run_parts(group *g, int rank) {
    parts *p = (parts *)(uintptr_t)g->arg;
    const subject *s = p->s;
    const size_t D = (size_t)s->D, V = (size_t)s->V;
    const int mtp = mla_model_config(s->model)->num_nextn_predict_layers > 0, cut = 2;
    const way w = {.ranks = p->ranks, .late = p->fail};
    float *all = p->all[rank], *state = all, *logits = state + N * D, *ahead = logits + N * V, *y = ahead + N * V;
    float *hidden[MAX_LAYERS + 1] = {NULL}, *hidden2[2] = {NULL, y + 2 * N * D};
    member m;
    mla_context_desc d;
    mla_context *c = NULL;
    mla_cache *k = NULL;
    mla_error err;
    const mla_cache_desc kd = {.capacity = 2 * PROMPT};
    memset(&d, 0, sizeof d);
    d.max_tokens = PROMPT, d.threads = 1, d.activations = MLA_ACT_F32, d.shard = shard_of(&m, g, rank, &w);
    if (mla_context_create(&c, s->model, &d, &err) || mla_cache_create(&k, s->model, &kd, &err)) {
        p->end[rank].code = err.code, snprintf(p->end[rank].error, sizeof p->end[rank].error, "%s", err.text);
        mla_context_destroy(c);
        return;
    }
    mla_sequence q = {.cache = k, .n_tokens = N, .n_logits = N}, q2 = q;
    hidden[cut] = hidden[s->L] = state, q2.embeddings = state;
    const mla_outputs out = {.logits = logits, .hidden = hidden}, out2 = {.logits = ahead, .hidden = hidden2};
    const step steps[] = {{'l', 0, cut, &q, s->tokens, NULL, NULL, &out},
                          {'l', cut, s->L, &q2, NULL, NULL, NULL, &out},
                          {'m', 0, 0, &q, s->tokens + 1, state, NULL, &out2},
                          {'m', 0, 0, &q, s->tokens + 2, state, NULL, &out2},
                          {'a', 0, 0, &q, NULL, state, y, NULL},
                          {'e', 1, 0, &q, NULL, state, y + N * D, NULL}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        float *copy = floats(N * D);
        memcpy(copy, state, N * D * sizeof *copy);
        if (p->end[rank].code || (steps[i].what == 'm' && !mtp)) {
            free(copy);
            continue;
        }
        if (steps[i].q == &q2) q2.embeddings = copy;
        take_all(p, rank, c, &m, &steps[i]);
        free(copy);
    }
    mla_cache_destroy(k), mla_context_destroy(c);
}
static void test_parts(const char *name) {
    char path[200];
    mla_error err;
    checkpoint *files;
    mla_model *model;
    subject s;
    parts p[4];
    snprintf(path, sizeof path, "tests/fixtures/checkpoints/%s", name);
    if (!CHECK(checkpoint_open_with(&files, path, &(checkpoint_options){.mtp = 1}, &err) == MLA_OK, "%s", err.text))
        return;
    if (!CHECK(mla_model_create(&model, &files->config, &files->weights, NULL, &err) == MLA_OK, "%s", err.text)) return;
    subject_of(&s, model, name);
    for (int i = 0; i < 4; i++) {
        memset(&p[i], 0, sizeof p[i]);
        p[i].s = &s, p[i].ranks = i ? i + 1 : 1, p[i].fail = i == 1 || (i == 3 && test_all()),
        p[i].n = N * (size_t)(4 * s.D + 2 * s.V);
        for (int r = 0; r < p[i].ranks; r++) p[i].all[r] = floats(p[i].n);
        by_all(p[i].ranks, run_parts, &p[i]);
        for (int r = 0; r < p[i].ranks; r++) {
            CHECK(p[i].end[r].code == MLA_OK, "%s, %d ranks: %s", name, p[i].ranks, p[i].end[r].error);
            CHECK(!p[i].fail || p[i].tried[r] > 4 * s.L, "%s, %d ranks: %d calls failed", name, p[i].ranks,
                  p[i].tried[r]);
            CHECK(same(p[i].all[r], p[i].all[0], p[i].n), "%s, %d ranks: rank %d has other bits", name, p[i].ranks, r);
        }
        for (size_t j = 0, n; j < 6; j++) { /* states, logits, logits ahead, attention, experts, states ahead */
            const size_t at[] = {0,
                                 N * (size_t)s.D,
                                 N * (size_t)(s.D + s.V),
                                 N * (size_t)(s.D + 2 * s.V),
                                 N * (size_t)(2 * s.D + 2 * s.V),
                                 N * (size_t)(3 * s.D + 2 * s.V),
                                 p[i].n};
            n = at[j + 1] - at[j];
            const float e = test_rel_err(p[i].all[0] + at[j], p[0].all[0] + at[j], n);
            CHECK(e <= bound, "%s, %d ranks: part %zu off by %.1e", name, p[i].ranks, j, (double)e);
        }
    }
    for (int i = 0; i < 4; i++)
        for (int r = 0; r < p[i].ranks; r++) free(p[i].all[r]);
    mla_model_destroy(model), checkpoint_close(files);
}

/* ---- descs ------------------------------------------------------------------------------------------------------- */

static void test_desc(void) {
    static const struct {
        mla_shard shard;
        const char *says; /* NULL: it is fine */
    } of[] = {{{.rank = 2, .ranks = 2, .all_reduce = all_reduce, .all_gather = all_gather}, "shard.rank: 2 of 2"},
              {{.rank = -1, .ranks = 2, .all_reduce = all_reduce, .all_gather = all_gather}, "shard.rank: -1"},
              {{.rank = 1}, "shard.rank: 1 of 0"},
              {{.ranks = -1}, "shard.rank: 0 of -1"},
              {{.ranks = 2, .all_gather = all_gather}, "shard.all_reduce: NULL"},
              {{.ranks = 2, .all_reduce = all_reduce}, "shard.all_gather: NULL"},
              {{.ranks = 1, .split_experts = 2}, "shard.split_experts: 2"},
              {{.ranks = 1}, NULL},
              {{.rank = 99, .ranks = 100, .all_reduce = all_reduce, .all_gather = all_gather}, NULL}};
    random_model m;
    mla_error err;
    random_open(&m, MLA_BF16, MLA_BF16, 0);
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        const mla_context_desc d = {.shard = of[i].shard};
        mla_context *c = NULL;
        err.text[0] = 0;
        const mla_result r = mla_context_create(&c, m.model, &d, &err);
        CHECK(of[i].says ? r == MLA_ERR_ARGUMENT && strstr(err.text, of[i].says) : r == MLA_OK, "desc %zu: %s", i,
              err.text);
        mla_context_destroy(c);
    }
    random_close(&m);
}

/* For scripts: a fixture's prompt, how transformers continues it, and whether logits of the prompt, in a file as generate
   writes it, are transformers'. */
static int tell(const char *what, const char *name, const char *file) {
    char path[200];
    mla_error err;
    st_file *expected;
    snprintf(path, sizeof path, "tests/fixtures/checkpoints/%s/expected.safetensors", name);
    if (st_open(&expected, path, &err)) return puts(err.text), 1;
    const st_tensor *t = st_find(expected, what + 2);
    if (!t) return 1;
    for (size_t i = 0; i < t->bytes / 8 && !file; i++) {
        int64_t id;
        memcpy(&id, (const char *)t->data + 8 * i, sizeof id);
        printf(i ? " %d" : "%d", (int)id);
    }
    float *want = floats(t->bytes / 4), *got = floats(t->bytes / 4 + 1), e = 0;
    memcpy(want, t->data, t->bytes);
    FILE *f = file ? fopen(file, "rb") : NULL;
    if (f) {
        const size_t n = fread(got, 4, t->bytes / 4 + 1, f);
        e = n == t->bytes / 4 ? test_rel_err(got, want, n) : (float)HUGE_VAL;
        printf("%s: off by %.1e", file, (double)e);
        fclose(f);
    }
    putchar('\n');
    free(want), free(got), st_close(expected);
    return (file && !f) || e > bound;
}

int main(int argc, char **argv) {
    if (argc > 2) return tell(argv[1], argv[2], argv[3]); /* --tokens NAME, --greedy NAME, --logits NAME FILE */
    report = argc > 1 && !strcmp(argv[1], "--report");
    SECTION("fixtures");
    for (int i = 0; i < N_NAMES; i++) test_fixture(names[i], i);
    SECTION("formats");
    test_formats();
    SECTION("a rank's own weights");
    test_own();
    SECTION("parts");
    test_parts("deepseek_v3");
    if (test_all()) test_parts("longcat_flash"), test_parts("deepseek_v32");
    SECTION("rounded activations");
    test_rounded();
    SECTION("descs");
    test_desc();
    return test_end();
}
