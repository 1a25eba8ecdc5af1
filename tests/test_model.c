/* test_model.c - a whole checkpoint of every family against what transformers computed from them
   (tests/fixtures/README.md), on every ISA of this machine, by every path of attention, cut into calls in several ways.
   Run from the repository root. test_model --report also prints the largest errors, as a table; --table prints
   README.md's of the models and nothing else (make models). An error is always relative to the largest value of the
   reference: logits to the largest logit, hidden states to the largest one of their layer. */

#define MLA_IMPLEMENTATION
#include "mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "examples/checkpoint.h"
#include "test.h"

#include <stdlib.h>

enum { PROMPT = 48, GREEDY = 16, FED = PROMPT + GREEDY - 1, MAX_LAYERS = 8, LONG = 150 };

static const float bound =
    5e-5f; /* of float32 against float32; the float64 program of models.md is 8e-6 away from the fixtures */

/* ---- the fixtures ------------------------------------------------------------------------------------------------ */

typedef struct fixture {
    const char *name;
    checkpoint *files;
    mla_model *model;
    int V, D, L, E;                /* E: what the router chooses from */
    int tokens[PROMPT + GREEDY];   /* the prompt, and how transformers continued it */
    float *logits;                 /* [PROMPT, V] */
    float *hidden[MAX_LAYERS + 1]; /* [PROMPT, D] each, or wide; NULL within a block of LongCat, which is two layers */
    int wide;                      /* of the states between layers: D for each residual stream */
    float margin[GREEDY];          /* best minus second best logit */
    float largest;                 /* logit */
} fixture;

static const struct name {
    const char *name;
    int all; /* everything; else what a family has of its own: paths, ISAs, chunks and batches, but not each combination
                of them */
    int block; /* layers in what transformers counts as one */
} names[] = {{"deepseek_v2_lite", 1, 1},
             {"deepseek_v2", 1, 1},
             {"deepseek_v3", 1, 1},
             {"deepseek_v3_fp8", 1, 1},
             {"kimi_k2", 1, 1},
             {"axk1", 0, 1},
             {"glm4_moe_lite", 0, 1},
             {"longcat_flash", 0, 2},
             {"longcat_flash_ngram", 0, 2},
             {"minicpm3", 0, 1},
             {"minicpm3_longrope", 0, 1},
             {"mistral4", 0, 1},
             {"youtu", 0, 1},
             {"deepseek_v32", 0, 1},
             {"glm_moe_dsa", 0, 1},
             {"kimi_linear", 0, 1},
             {"axk2", 0, 1},
             {"axk2_light", 0, 1},
             {"hy_v4", 0, 1},
             {"bailing_hybrid", 0, 1}};
enum { N_FIXTURES = sizeof names / sizeof *names };

static float *new_floats(size_t n) {
    float *x = (float *)calloc(n ? n : 1, sizeof *x);
    if (!x) {
        puts("out of memory");
        exit(2);
    }
    return x;
}

/* A copy of an F32 reference [rows, cols] (cols 0: [rows]; cols may be two dimensions): it must be there, of this shape,
   finite and not zero. */
static float *reference(const st_file *f, const char *fix, const char *name, int rows, int cols) {
    const st_tensor *t = st_find(f, name);
    const size_t n = (size_t)rows * (size_t)(cols ? cols : 1);
    float *x = new_floats(n);
    int fits = t && !strcmp(t->dtype, "F32") && t->n_dims >= (cols ? 2 : 1) && t->n_dims <= (cols ? 3 : 1) &&
               t->dims[0] == rows && (!cols || t->dims[1] * (t->n_dims > 2 ? t->dims[2] : 1) == cols) &&
               t->bytes == n * sizeof *x;
    if (CHECK(fits, "%s: %s: missing or not F32 [%d, %d]", fix, name, rows, cols)) memcpy(x, t->data, n * sizeof *x);
    float m = test_max_abs(x, n);
    CHECK(m > 0 && m < 1e6f, "%s: %s: largest value %g", fix, name, (double)m);
    return x;
}

static void reference_tokens(const st_file *f, const char *fix, const char *name, int n, int vocab, int varied,
                             int *out) {
    const st_tensor *t = st_find(f, name);
    if (!CHECK(t && !strcmp(t->dtype, "I64") && t->n_dims == 1 && t->dims[0] == n, "%s: %s: missing or not I64 [%d]",
               fix, name, n))
        return;
    int distinct = 0;
    for (int i = 0; i < n; i++) {
        int64_t v;
        memcpy(&v, (const char *)t->data + (size_t)i * sizeof v, sizeof v);
        CHECK(v >= 0 && v < vocab, "%s: %s[%d] is %lld", fix, name, i, (long long)v);
        out[i] = (int)v;
        distinct += i > 0 && out[i] != out[i - 1];
    }
    CHECK(!varied || distinct > n / 2, "%s: %s hardly changes", fix, name);
}

static int argmax(const float *x, int n, float *margin) { /* margin: to the second best */
    int best = 0;
    float second = -INFINITY;
    for (int i = 1; i < n; i++) {
        if (x[i] > x[best]) second = x[best], best = i;
        else if (x[i] > second) second = x[i];
    }
    *margin = x[best] - second;
    return best;
}

static int fixture_open(fixture *f, const char *name, int block) {
    char path[256], part[32];
    mla_error err;
    st_file *expected;
    memset(f, 0, sizeof *f);
    f->name = name;
    snprintf(path, sizeof path, "tests/fixtures/checkpoints/%s", name);
    if (!CHECK(checkpoint_open(&f->files, path, &err) == MLA_OK, "%s: %s", name, err.text)) return 0;
    if (!CHECK(mla_model_create(&f->model, &f->files->config, &f->files->weights, NULL, &err) == MLA_OK, "%s: %s", name,
               err.text))
        return 0;
    f->V = f->files->config.vocab_size, f->D = f->files->config.hidden_size, f->L = f->files->config.num_hidden_layers;
    f->E = f->files->config.n_routed_experts + f->files->config.zero_expert_num;
    f->wide = f->D * mla_model_config(f->model)->hc_mult;
    if (!CHECK(f->L > 1 && f->L <= MAX_LAYERS, "%s: %d layers", name, f->L)) return 0;
    snprintf(path, sizeof path, "tests/fixtures/checkpoints/%s/expected.safetensors", name);
    if (!CHECK(st_open(&expected, path, &err) == MLA_OK, "%s: %s", name, err.text)) return 0;
    reference_tokens(expected, name, "tokens", PROMPT, f->V, 1, f->tokens);
    reference_tokens(expected, name, "greedy", GREEDY, f->V, strncmp(name, "minicpm3", 8) != 0,
                     f->tokens + PROMPT); /* which repeats one token */
    f->logits = reference(expected, name, "logits", PROMPT, f->V);
    f->largest = test_max_abs(f->logits, (size_t)PROMPT * (size_t)f->V);
    for (int i = 0; i <= f->L; i += block) {
        snprintf(part, sizeof part, "hidden_%d", i / block);
        f->hidden[i] = reference(expected, name, part, PROMPT, i < f->L ? f->wide : f->D);
    }
    for (int t = 0; t < PROMPT; t++) { /* all streams begin with the embedding, which is what hidden[0] is here */
        float *x = f->hidden[0] + t * f->wide;
        for (int j = f->D; j < f->wide; j++) CHECK(!(x[j] < x[j - f->D] || x[j] > x[j - f->D]), "%s: streams", name);
        memmove(f->hidden[0] + t * f->D, x, (size_t)f->D * sizeof *x);
    }
    float *margin = reference(expected, name, "greedy_margin", GREEDY, 0), m;
    memcpy(f->margin, margin, sizeof f->margin);
    free(margin);
    /* the references agree with each other: the first continuation is the best of the last logits */
    CHECK(argmax(f->logits + (PROMPT - 1) * f->V, f->V, &m) == f->tokens[PROMPT], "%s: greedy[0] is not the best logit",
          name);
    CHECK(fabsf(m - f->margin[0]) < bound * f->largest, "%s: greedy_margin[0] %g, by the logits %g", name,
          (double)f->margin[0], (double)m);
    /* and decide: no step is a tie, whose winner rounding could choose */
    for (int i = 0; i < GREEDY; i++)
        CHECK(f->margin[i] > 2 * bound * f->largest, "%s: greedy_margin[%d] is %g", name, i, (double)f->margin[i]);
    st_close(expected);
    return 1;
}

static void fixture_close(fixture *f) {
    mla_model_destroy(f->model);
    checkpoint_close(f->files);
    free(f->logits);
    for (int i = 0; i <= MAX_LAYERS; i++) free(f->hidden[i]);
}

/* ---- one way of running a model ---------------------------------------------------------------------------------- */

typedef struct way {
    mla_isa isa;
    mla_attn_path path;
    int chunk; /* tokens of the prompt in a call */
    mla_dtype dtype;
    int paged;
    int threads;
    mla_run run;
    int fed; /* tokens; 0: all */
    int fp8; /* activations in e4m3 before E4M3 weights */
} way;

static int tasks_run; /* by run_backwards */

static void run_backwards(void *user, int n, void (*task)(void *arg, int i), void *arg) {
    *(int *)user += n;
    while (n-- > 0) task(arg, n);
}

static const char *const path_names[MLA_ATTN_PATH_COUNT] = {"auto", "naive", "absorbed"};

static const char *way_text(const fixture *f, const way *w) {
    static char text[128];
    snprintf(text, sizeof text, "%s %s %s, chunks of %d, %s cache%s, %d threads%s%s", f->name, mla_isa_name(w->isa),
             path_names[w->path], w->chunk, mla_dtype_name(w->dtype), w->paged ? " in pages" : "", w->threads,
             w->run ? ", own run" : "", w->fp8 ? ", fp8 activations" : "");
    return text;
}

/* A context with two caches. */
typedef struct session {
    mla_context *context;
    mla_pool *pool;
    mla_cache *cache[2];
} session;

static void session_close(session *s) {
    for (int i = 0; i < 2; i++) mla_cache_destroy(s->cache[i]);
    mla_pool_destroy(s->pool);
    mla_context_destroy(s->context);
}

static int session_open(session *s, const fixture *f, const way *w, int capacity) {
    mla_context_desc desc = {.max_tokens = 160,
                             .threads = w->threads,
                             .run = w->run,
                             .run_user = &tasks_run,
                             .isa = w->isa,
                             .attn = w->path,
                             .activations = w->fp8 ? MLA_ACT_E4M3 : MLA_ACT_F32};
    mla_error err;
    memset(s, 0, sizeof *s);
    int ok =
        CHECK(mla_context_create(&s->context, f->model, &desc, &err) == MLA_OK, "%s: %s", way_text(f, w), err.text);
    if (ok)
        CHECK(mla_context_isa(s->context) == w->isa && mla_context_threads(s->context) == w->threads,
              "%s: not what was asked", way_text(f, w));
    if (ok && w->paged) {
        const int pages = 2 * ((capacity + MLA_PAGE - 1) / MLA_PAGE);
        ok = CHECK(mla_pool_create(&s->pool, f->model, &(mla_pool_desc){.n_pages = pages, .dtype = w->dtype}, &err) ==
                       MLA_OK,
                   "%s: %s", way_text(f, w), err.text);
    }
    for (int i = 0; ok && i < 2; i++) {
        mla_cache_desc cache = {.capacity = capacity, .dtype = w->dtype, .pool = s->pool};
        ok =
            CHECK(mla_cache_create(&s->cache[i], f->model, &cache, &err) == MLA_OK, "%s: %s", way_text(f, w), err.text);
    }
    if (!ok) session_close(s);
    return ok;
}

/* What came out: of every token fed, in one block of floats so that memcmp sees all of it. */
typedef struct result {
    float *all;
    size_t n;
    float *logits;                 /* [FED, V] */
    float *hidden[MAX_LAYERS + 1]; /* [FED, D] or wide */
    int64_t *counts;               /* [FED, L*E]: the experts of the call that the token was in */
} result;

static int per_token(const fixture *f) { return f->L * f->E; }

static int width_of(const fixture *f, int i) { return i > 0 && i < f->L ? f->wide : f->D; } /* of hidden[i] */
static void result_new(result *r, const fixture *f) {
    r->n = (size_t)FED * (size_t)(f->V + 2 * f->D + (f->L - 1) * f->wide);
    r->logits = r->all = new_floats(r->n);
    r->hidden[0] = r->all + (size_t)FED * (size_t)f->V;
    for (int i = 1; i <= f->L; i++) r->hidden[i] = r->hidden[i - 1] + FED * width_of(f, i - 1);
    r->counts = (int64_t *)calloc((size_t)FED * (size_t)per_token(f) + 1, sizeof *r->counts);
    if (!r->counts) exit(2);
}

static void result_free(result *r) {
    free(r->all);
    free(r->counts);
}

static void result_clear(result *r, const fixture *f) {
    for (size_t i = 0; i < r->n; i++) r->all[i] = (float)NAN; /* what is not written fails */
    memset(r->counts, 0, (size_t)FED * (size_t)per_token(f) * sizeof *r->counts);
}

/* The prompt in chunks, then token by token what transformers generated: row PROMPT-1+i of the logits must choose
 * greedy[i]. */
static int run(const fixture *f, const way *w, result *r) {
    session s;
    int ok = session_open(&s, f, w, FED);
    result_clear(r, f);
    for (int t = 0, n; ok && t < (w->fed ? w->fed : FED); t += n) {
        mla_outputs out = {.logits = r->logits + t * f->V};
        float *hidden[MAX_LAYERS + 1];
        for (int i = 0; i <= f->L; i++) hidden[i] = r->hidden[i] + t * width_of(f, i);
        out.hidden = hidden, out.expert_counts = r->counts + t * per_token(f);
        n = t >= PROMPT ? 1 : PROMPT - t < w->chunk ? PROMPT - t : w->chunk;
        mla_sequence seq = {.cache = s.cache[0], .n_tokens = n, .n_logits = n};
        ok = CHECK(mla_model_forward(s.context, &seq, 1, f->tokens + t, &out) == MLA_OK, "%s: %s", way_text(f, w),
                   mla_context_error(s.context)->text);
        for (int i = t + 1; i < t + n; i++)
            memcpy(r->counts + i * per_token(f), out.expert_counts, (size_t)per_token(f) * sizeof *r->counts);
        if (ok)
            ok = CHECK(mla_cache_length(s.cache[0]) == t + n, "%s: cache length %d", way_text(f, w),
                       mla_cache_length(s.cache[0]));
    }
    if (s.context) session_close(&s);
    return ok;
}

static float logits_error(const fixture *f, const result *r) {
    return test_rel_err(r->logits, f->logits, (size_t)PROMPT * (size_t)f->V);
}
static float hidden_error(const fixture *f, const result *r, int i) {
    return test_rel_err(r->hidden[i], f->hidden[i], (size_t)PROMPT * (size_t)width_of(f, i));
}

/* ---- what must hold ---------------------------------------------------------------------------------------------- */

/* The greedy tokens of the steps whose row of logits is below rows, wherever the margin is more than rounding can turn
   over: two logits, each off by at most limit * largest. Gives how many steps were decided. */
static int check_greedy(const fixture *f, const way *w, const result *r, float limit, int rows) {
    int decided = 0;
    for (int i = 0; i < GREEDY && PROMPT - 1 + i < rows; i++) {
        float margin, slack = 2 * limit * f->largest;
        int best = argmax(r->logits + (PROMPT - 1 + i) * f->V, f->V, &margin);
        if (f->margin[i] <= slack) continue;
        decided++;
        CHECK(best == f->tokens[PROMPT + i], "%s: greedy token %d is %d, not %d", way_text(f, w), i, best,
              f->tokens[PROMPT + i]);
        CHECK(fabsf(margin - f->margin[i]) <= slack, "%s: greedy margin %d is %g, not %g", way_text(f, w), i,
              (double)margin, (double)f->margin[i]);
    }
    return decided;
}

/* Every MoE layer sends every token of a call to K experts, dense layers to none. */
static void check_counts(const fixture *f, const way *w, const result *r) {
    const mla_config *c = &f->files->config;
    int wrong = 0;
    for (int t = 0; t < FED; t++)
        for (int i = 0; i < f->L; i++) {
            const int left = PROMPT - t / w->chunk * w->chunk; /* of the prompt, when the call of token t began */
            const int tokens = t >= PROMPT ? 1 : left < w->chunk ? left : w->chunk;
            int64_t sum = 0;
            for (int e = 0; e < f->E; e++) sum += r->counts[t * per_token(f) + i * f->E + e];
            wrong += sum != (f->files->weights.layers[i].moe.experts ? tokens * c->num_experts_per_tok : 0);
        }
    CHECK(wrong == 0, "%s: expert counts do not add up in %d of %d cases", way_text(f, w), wrong, FED * f->L);
}

/* A float32 cache: everything within bound, all 16 tokens identical. */
static float check_exact(const fixture *f, const way *w, const result *r, float *worst_hidden) {
    float e = logits_error(f, r);
    CHECK(e <= bound, "%s: logits off by %.2e", way_text(f, w), (double)e);
    for (int i = 0; i <= f->L; i++) {
        if (!f->hidden[i]) continue;
        float h = hidden_error(f, r, i);
        CHECK(h <= bound, "%s: hidden_%d off by %.2e", way_text(f, w), i, (double)h);
        if (worst_hidden && !(h <= *worst_hidden)) *worst_hidden = h;
    }
    CHECK(check_greedy(f, w, r, bound, FED) == GREEDY, "%s: not every greedy step is decided", way_text(f, w));
    check_counts(f, w, r);
    return e;
}

static int report;

static void test_forward(const fixture *f, int all) {
    static const int chunks[] = {PROMPT, 7, 1, 16};
    result r;
    result_new(&r, f);
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++)
        for (int path = 0; path < MLA_ATTN_PATH_COUNT && TEST_ISA((mla_isa)isa); path++) {
            if (TEST_SPARED(isa) && path == MLA_ATTN_AUTO) continue; /* which is one of the others */
            float worst = 0, worst_hidden = 0;
            for (int c = 0; c < (all && !TEST_SPARED(isa) ? 4 : 2); c++)
                for (int paged = 0; paged < (chunks[c] == 7 ? 1 + all : 1); paged++) {
                    way w = {.isa = (mla_isa)isa,
                             .path = (mla_attn_path)path,
                             .chunk = chunks[c],
                             .paged = paged,
                             .threads = 1};
                    if (!run(f, &w, &r)) continue;
                    float e = check_exact(f, &w, &r, &worst_hidden);
                    if (!(e <= worst)) worst = e;
                }
            if (report)
                printf("%-17s %-9s %-9s %.1e  %.1e\n", f->name, mla_isa_name((mla_isa)isa), path_names[path],
                       (double)worst, (double)worst_hidden);
        }
    result_free(&r);
}

static mla_isa best_isa(void) {
    int best = MLA_ISA_SCALAR;
    for (int i = MLA_ISA_SCALAR; i < MLA_ISA_COUNT; i++)
        if (mla_isa_available((mla_isa)i)) best = i;
    return (mla_isa)best;
}

/* The bound is one that wrong answers miss: another token, a theta that is 1 % off, and each factor of the config, if
 * it is used. */
static void test_controls(const fixture *f) {
    const way w = {.isa = test_all() ? MLA_ISA_SCALAR : best_isa(),
                   .path = MLA_ATTN_NAIVE,
                   .chunk = PROMPT,
                   .threads = 1,
                   .fed = PROMPT};
    mla_error err;
    result r;
    result_new(&r, f);
    static const char *const what[] = {"token",        "rope.theta",       "softmax_scale",  "q_scale",
                                       "latent_scale", "temperature_beta", "embed_scale",    "residual_scale",
                                       "logits_scale", "hc_magnitude",     "swiglu_limit",   "index_topk",
                                       "index_topk",   "index_rope",       "index_rope_last"};
    for (int i = 0; i < 15; i++) {
        fixture wrong = *f;
        mla_config c = f->files->config;
        float *const factors[] = {
            NULL,           &c.rope.theta,     &c.softmax_scale, &c.q_scale,      &c.latent_scale, &c.temperature_beta,
            &c.embed_scale, &c.residual_scale, &c.logits_scale,  &c.hc_magnitude, &c.swiglu_limit};
        c.softmax_scale = mla_model_config(f->model)->softmax_scale;
        if (i > 10 && c.index_topk == 0) continue;
        if (i == 0) wrong.tokens[PROMPT - 2] ^= 1;
        else if (i == 14) c.index_rope_last ^= 1;
        else if (i == 13) c.index_rope = c.index_rope == MLA_ROPE_PAIR ? MLA_ROPE_HALF : MLA_ROPE_PAIR;
        else if (i > 10) c.index_topk += i == 11 ? -1 : 1;
        else if (*factors[i] == 0) continue;
        else *factors[i] *= 1.01f;
        if (!CHECK(mla_model_create(&wrong.model, &c, &f->files->weights, NULL, &err) == MLA_OK, "%s: %s", f->name,
                   err.text))
            continue;
        if (run(&wrong, &w, &r)) {
            float e = logits_error(f, &r);
            CHECK(e > 2 * bound, "%s: the wrong %s goes unnoticed: %.1e", f->name, what[i], (double)e);
        }
        mla_model_destroy(wrong.model);
    }
    result_free(&r);
}

static void test_threads(const fixture *f) {
    static const struct variant {
        int threads, backwards;
    } variants[] = {{16, 0}, {2, 1}, {3, 0}, {3, 1}, {1, 1}, {16, 1}, {2, 0}};
    result one, many;
    result_new(&one, f);
    result_new(&many, f);
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++)
        for (int absorbed = 0; absorbed < 2 && TEST_ISA((mla_isa)isa); absorbed++) {
            if (TEST_SPARED(isa) && absorbed) continue;
            way w = {.isa = (mla_isa)isa,
                     .path = absorbed ? MLA_ATTN_ABSORBED : MLA_ATTN_NAIVE,
                     .chunk = absorbed ? 16 : PROMPT,
                     .threads = 1,
                     .fed = PROMPT + 3};
            if (!run(f, &w, &one)) continue;
            for (int i = 0; i < 7; i++) {
                w.threads = variants[i].threads, w.run = variants[i].backwards ? run_backwards : NULL;
                /* OpenMP's threads spin while they wait, which takes seconds where others use the cores: once is
                   enough */
                if (TEST_SPARED(isa) && i > 2) break;
                if (!w.run && (w.isa != best_isa() || absorbed != (w.threads == 3))) continue;
                tasks_run = 0;
                if (!run(f, &w, &many)) continue;
                CHECK(!memcmp(one.all, many.all, one.n * sizeof *one.all), "%s: not bit-identical to one thread",
                      way_text(f, &w));
                CHECK(w.run && w.threads > 1 ? tasks_run > 0 : w.run || !tasks_run, "%s: run was called for %d tasks",
                      way_text(f, &w), tasks_run);
            }
        }
    result_free(&one);
    result_free(&many);
}

/* ---- caches of 16 bits ------------------------------------------------------------------------------------------- */
/* A cached value is rounded by at most u of itself: f16 has 11 significant bits, u = 2^-11; bf16 has 8, u = 2^-8. Then
   a score s moves by at most u * scale * sum |q_i k_i|, a few u where |s| is a few, a probability by as much in
   proportion, and a value by u; roundings are as often up as down, so that sums of 48 or more of them gain less. 4 u
   are allowed for one layer of attention, relative to the largest value of the residual stream, and 4 u L for the
   logits after L layers. This holds as long as the router chooses the same experts: another expert is no rounding
   error, it moves logits by up to 0.4 of the largest, and those of whatever attends to that token. So the bound is for
   all tokens up to the first whose experts are not those of a float32 cache (outputs.expert_counts tells); later on
   greedy tokens must match where the token's own experts agree and the margin is more than twice the bound. Measured, L
   = 3 (deepseek_v3: 4), in the order of names[]: logits of all tokens in bf16 2.9e-2 3.6e-1 3.8e-1 1.9e-2 2.0e-1, in
   f16 3.8e-3 2.9e-3 5.0e-3 3.7e-3 3.2e-3. The float64 program of models.md, rounding c and kr alike, gives the same
   numbers to two digits, so they are the models', not this library's. Up to the first change of experts:
   bf16 1.9e-2 3.6e-2 1.4e-2 1.9e-2 2.1e-2 with bound 4.7e-2 (6.3e-2); in f16 none changes, and the bound is 5.9e-3
   (7.8e-3). After one layer: bf16 7e-3 of 1.6e-2, f16 8e-4 of 2e-3. */

static void test_small_caches(const fixture *f) {
    const size_t per = (size_t)per_token(f);
    result exact, r;
    result_new(&exact, f);
    result_new(&r, f);
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++)
        for (int path = MLA_ATTN_NAIVE; path < MLA_ATTN_PATH_COUNT && TEST_ISA((mla_isa)isa); path++) {
            if (TEST_SPARED(isa)) continue;
            way w = {.isa = (mla_isa)isa, .path = (mla_attn_path)path, .chunk = 1, .threads = 1};
            if (!run(f, &w, &exact)) continue;
            for (int i = 0; i < 2; i++) {
                w.dtype = i ? MLA_BF16 : MLA_F16, w.paged = (i + path) & 1;
                const float u = i == 0 ? 1.0f / 2048 : 1.0f / 256, limit = 4 * u * (float)f->L;
                if (!run(f, &w, &r)) continue;
                int same = 0, steps = 0;
                while (same < FED && !memcmp(r.counts + (size_t)same * per, exact.counts + (size_t)same * per,
                                             per * sizeof *r.counts))
                    same++;
                CHECK(same == FED || (w.dtype == MLA_BF16 && same >= 8), "%s: token %d goes to other experts",
                      way_text(f, &w), same);
                float e = 0, h = hidden_error(f, &r, 1); /* the first layer is dense */
                for (int k = 0; k < (same < PROMPT ? same : PROMPT) * f->V; k++) {
                    float d = fabsf(r.logits[k] - f->logits[k]) / f->largest;
                    if (!(d <= e)) e = d;
                }
                CHECK(h > bound && h <= 4 * u, "%s: hidden_1 off by %.2e", way_text(f, &w), (double)h);
                CHECK(e > bound && e <= limit, "%s: logits off by %.2e", way_text(f, &w), (double)e);
                for (int k = 0; k < GREEDY; k++) {
                    const size_t at = (size_t)(PROMPT - 1 + k);
                    float margin;
                    if (f->margin[k] <= 2 * limit * f->largest ||
                        memcmp(r.counts + at * per, exact.counts + at * per, per * sizeof *r.counts))
                        continue;
                    int best = argmax(r.logits + at * (size_t)f->V, f->V, &margin);
                    CHECK(best == f->tokens[PROMPT + k], "%s: greedy token %d is %d, not %d", way_text(f, &w), k, best,
                          f->tokens[PROMPT + k]);
                    steps++;
                }
                CHECK(steps >= 3, "%s: only %d greedy steps are decided", way_text(f, &w), steps);
                if (report && path == MLA_ATTN_NAIVE && isa == MLA_ISA_SCALAR)
                    printf("%-17s %-4s cache  %.1e of %.1e over the first %d tokens, one layer %.1e of %.1e, %d greedy "
                           "steps\n",
                           f->name, mla_dtype_name(w.dtype), (double)e, (double)limit, same, (double)h, (double)(4 * u),
                           steps);
            }
        }
    result_free(&exact);
    result_free(&r);
}

/* Rounding and nothing else, to the bound of float32: a cache of 16 bits against a float32 cache that holds the same
   rounded rows. The tokens of a call are hidden from each other and from themselves by a mask, so that both caches show
   them the same; after each call the float32 cache takes over the rows of the other. The rows themselves: in the first
   layer, which no cache can influence, exactly the float32 ones rounded; deeper within u of them. */
static void test_rounding(const fixture *f) {
    const int R = f->files->config.kv_lora_rank, W = R + f->files->config.qk_rope_head_dim;
    float *got = new_floats((size_t)(FED * f->V)), *want = new_floats((size_t)(FED * f->V)),
          *mask = new_floats(16 * FED);
    float *rows = new_floats((size_t)(f->L * 16 * W)), *exact = new_floats((size_t)W);
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++)
        for (int i = 0; i < 4 && TEST_ISA((mla_isa)isa); i++) {
            if (TEST_SPARED(isa)) continue;
            way w32 = {.isa = (mla_isa)isa,
                       .path = i & 1 ? MLA_ATTN_ABSORBED : MLA_ATTN_NAIVE,
                       .chunk = 16,
                       .threads = 1},
                w16 = w32;
            w16.dtype = i < 2 ? MLA_F16 : MLA_BF16, w16.paged = i == 0 || i == 3;
            const float u = i < 2 ? 1.0f / 2048 : 1.0f / 256;
            session s16, s32;
            int ok = session_open(&s16, f, &w16, FED), wrong = 0, rounded = 0, far = 0;
            ok = session_open(&s32, f, &w32, FED) && ok;
            for (int t = 0, n; ok && t < FED; t += n) {
                n = t < PROMPT ? 16 : 1;
                for (int k = 0; k < n * (t + n); k++) mask[k] = k % (t + n) < t ? 0 : -INFINITY;
                mla_sequence a = {.cache = s16.cache[0], .n_tokens = n, .n_logits = n, .mask = mask},
                             b = {.cache = s32.cache[0], .n_tokens = n, .n_logits = n, .mask = mask};
                mla_outputs out_a = {.logits = got + t * f->V}, out_b = {.logits = want + t * f->V};
                ok = CHECK(mla_model_forward(s16.context, &a, 1, f->tokens + t, &out_a) == MLA_OK &&
                               mla_model_forward(s32.context, &b, 1, f->tokens + t, &out_b) == MLA_OK,
                           "%s: %s%s", way_text(f, &w16), mla_context_error(s16.context)->text,
                           mla_context_error(s32.context)->text);
                for (int layer = 0; ok && layer < f->L; layer++)
                    for (int k = 0; k < n; k++) {
                        float *row = rows + (layer * n + k) * W;
                        CHECK(mla_cache_read(s16.cache[0], layer, t + k, row, NULL) == MLA_OK &&
                                  mla_cache_read(s32.cache[0], layer, t + k, exact, NULL) == MLA_OK,
                              "%s: cannot read row %d", way_text(f, &w16), t + k);
                        const float slack = bound * test_max_abs(exact, (size_t)W);
                        for (int j = 0; j < W; j++) {
                            const float r = i < 2 ? mla_f16_to_f32(mla_f32_to_f16(exact[j]))
                                                  : mla_bf16_to_f32(mla_f32_to_bf16(exact[j]));
                            wrong += layer == 0 && !(row[j] == r);
                            far += !(fabsf(row[j] - exact[j]) <= u * fabsf(exact[j]) + slack);
                            rounded += row[j] != exact[j];
                        }
                    }
                ok = ok && CHECK(mla_cache_truncate(s32.cache[0], t, NULL) == MLA_OK &&
                                     mla_cache_append(s32.cache[0], n, rows, NULL) == MLA_OK,
                                 "%s: cannot replace rows", way_text(f, &w16));
            }
            if (ok) {
                float e = test_rel_err(got, want, (size_t)(FED * f->V));
                CHECK(e <= bound, "%s: %.2e from a float32 cache with the same rows", way_text(f, &w16), (double)e);
                CHECK(wrong == 0, "%s: %d cached values of the first layer are not rounded to nearest even",
                      way_text(f, &w16), wrong);
                CHECK(far == 0, "%s: %d cached values are more than %g off", way_text(f, &w16), far, (double)u);
                CHECK(rounded > FED * W, "%s: only %d cached values differ from float32", way_text(f, &w16), rounded);
            }
            session_close(&s16);
            session_close(&s32);
        }
    free(got), free(want), free(mask), free(rows), free(exact);
}

/* ---- activations in e4m3 ----------------------------------------------------------------------------------------- */
/* Errors are those of single tokens, the largest of a logit relative to the largest logit. A rounded activation is off
   by up to 2^-4 of itself, and these weights, random and made so that attention is peaked, amplify that: the float64
   program of models.md, rounding alike, is off[] from its references at the first tokens, and mla.h is 1e-7 from that
   program until a value first falls on the other side of a rounding. From then on, and with other experts after near
   ties, only the size of the error can be compared: its median. */

static int by_size(const void *a, const void *b) {
    return (*(const float *)a > *(const float *)b) - (*(const float *)a < *(const float *)b);
}

static float median_logits_error(const fixture *f, const result *r, float first[3]) {
    float e[PROMPT];
    for (int t = 0; t < PROMPT; t++) {
        e[t] = 0;
        for (int i = t * f->V; i < (t + 1) * f->V; i++) {
            const float d = fabsf(r->logits[i] - f->logits[i]) / f->largest;
            if (!(d <= e[t])) e[t] = d;
        }
    }
    memcpy(first, e, 3 * sizeof *e);
    qsort(e, PROMPT, sizeof *e, by_size);
    return e[PROMPT / 2];
}

static void test_fp8_activations(const fixture *f) {
    static const float off[3] = {0.0624f, 0.0909f, 0.1094f};
    result plain, r, again;
    result_new(&plain, f), result_new(&r, f), result_new(&again, f);
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++)
        for (int path = MLA_ATTN_NAIVE; path < MLA_ATTN_PATH_COUNT && TEST_ISA((mla_isa)isa); path++) {
            if (TEST_SPARED(isa)) continue;
            way w = {.isa = (mla_isa)isa,
                     .path = (mla_attn_path)path,
                     .chunk = path == MLA_ATTN_NAIVE ? PROMPT : 7,
                     .threads = 1},
                one = w, many;
            float first[3];
            one.fp8 = 1, many = one, many.threads = 3, many.run = run_backwards;
            if (!run(f, &w, &plain) || !run(f, &one, &r) || !run(f, &many, &again)) continue;
            const float e0 = median_logits_error(f, &plain, first), e = median_logits_error(f, &r, first);
            CHECK(e0 <= bound, "%s: logits off by %.2e", way_text(f, &w), (double)e0);
            CHECK(e < 0.4f, "%s: logits off by %.2e", way_text(f, &one), (double)e);
            for (int t = 0; t < 3; t++)
                CHECK(fabsf(first[t] - off[t]) < 0.005f, "%s: logits of token %d off by %g, not %g", way_text(f, &one),
                      t, (double)first[t], (double)off[t]);
            CHECK(!memcmp(r.all, again.all, r.n * sizeof *r.all), "%s: not bit-identical to one thread",
                  way_text(f, &many));
            check_counts(f, &one, &r);
            if (report)
                printf("%-17s %-9s %-9s median over the tokens: weights in fp8 %.1e, activations too %.1e (first token "
                       "%.1e, largest %.1e)\n",
                       f->name, mla_isa_name((mla_isa)isa), path_names[path], (double)e0, (double)e, (double)first[0],
                       (double)logits_error(f, &r));
        }
    result_free(&plain), result_free(&r), result_free(&again);
}

/* ---- several sequences, many pages ------------------------------------------------------------------------------- */

/* One call on a session's caches: n0 tokens for the first sequence, n1 for the second (0: not in the call), in this
   order or the other. The first call asks for the logits of the last tokens only; it is taken back, and the second for
   all of them, which go to logits[i] from the row on that is the cache's length. Both must agree. */
static int call_both(const fixture *f, const way *w, session *s, const int n[2], const int *const tokens[2],
                     float *const logits[2], int swapped) {
    mla_sequence seq[2];
    int fed[2 * LONG], which[2], at[2] = {0, 0}, n_seqs = 0, total = 0, ok = 1;
    float *all = new_floats((size_t)(n[0] + n[1]) * (size_t)f->V), *last = new_floats(2 * (size_t)f->V);
    memset(seq, 0, sizeof seq);
    for (int k = 0; k < 2; k++) {
        const int i = swapped ? 1 - k : k;
        at[i] = mla_cache_length(s->cache[i]);
        if (!n[i]) continue;
        seq[n_seqs].cache = s->cache[i], seq[n_seqs].n_tokens = n[i], seq[n_seqs].n_logits = 1, which[n_seqs++] = i;
        memcpy(fed + total, tokens[i] + at[i], (size_t)n[i] * sizeof *fed);
        total += n[i];
    }
    mla_outputs out = {.logits = last};
    ok = CHECK(mla_model_forward(s->context, seq, n_seqs, fed, &out) == MLA_OK, "%s: %s", way_text(f, w),
               mla_context_error(s->context)->text);
    for (int k = 0; k < n_seqs; k++)
        CHECK(mla_cache_truncate(s->cache[which[k]], at[which[k]], NULL) == MLA_OK, "%s: truncate", way_text(f, w));
    for (int k = 0; k < n_seqs; k++) seq[k].n_logits = seq[k].n_tokens;
    out.logits = all;
    ok = ok && CHECK(mla_model_forward(s->context, seq, n_seqs, fed, &out) == MLA_OK, "%s: %s", way_text(f, w),
                     mla_context_error(s->context)->text);
    for (int k = 0, row = 0; ok && k < n_seqs; k++) {
        const int i = which[k];
        row += n[i];
        float e = test_rel_err(last + k * f->V, all + (row - 1) * f->V, (size_t)f->V);
        CHECK(e <= bound, "%s: logits of the last token of sequence %d: %.1e from all tokens'", way_text(f, w), i,
              (double)e);
        memcpy(logits[i] + at[i] * f->V, all + (row - n[i]) * f->V, (size_t)n[i] * (size_t)f->V * sizeof *all);
    }
    free(all);
    free(last);
    return ok;
}

/* Two sequences of different lengths in one call, prompts and decoded tokens mixed, against one by one. */
static void test_batch(const fixture *f) {
    static const int steps[][2] = {{20, 9}, {27, 1}, {1, 11}, {1, 1}, {0, 3}, {6, 1}}; /* 55 and 26 tokens */
    enum { N0 = 55, N1 = 26 };
    int other[N1];
    const int *const tokens[2] = {f->tokens, other};
    float *both[2], *alone[2];
    for (int i = 0; i < N1; i++) other[i] = f->tokens[PROMPT - 1 - i];
    for (int i = 0; i < 2; i++)
        both[i] = new_floats((size_t)N0 * (size_t)f->V), alone[i] = new_floats((size_t)N0 * (size_t)f->V);
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++)
        for (int path = 0; path < MLA_ATTN_PATH_COUNT && TEST_ISA((mla_isa)isa); path++)
            for (int paged = 0; paged < 2; paged++) {
                const int swapped = (path + paged) & 1;
                way w = {.isa = (mla_isa)isa, .path = (mla_attn_path)path, .paged = paged, .threads = 1};
                session s;
                if (path == MLA_ATTN_AUTO && (paged || TEST_SPARED(isa))) continue;
                int ok = session_open(&s, f, &w, N0);
                for (size_t k = 0; ok && k < sizeof steps / sizeof *steps; k++)
                    ok = call_both(f, &w, &s, steps[k], tokens, both, swapped);
                for (int i = 0; ok && i < 2; i++) {
                    const int n[2] = {i ? 0 : N0, i ? N1 : 0};
                    mla_cache_reset(s.cache[i]);
                    ok = call_both(f, &w, &s, n, tokens, alone, 0);
                }
                session_close(&s);
                if (!ok) continue;
                float e0 = test_rel_err(both[0], f->logits, (size_t)PROMPT * (size_t)f->V);
                CHECK(e0 <= bound, "%s: in a batch, logits off by %.2e", way_text(f, &w), (double)e0);
                e0 = test_rel_err(both[0], alone[0], (size_t)N0 * (size_t)f->V);
                CHECK(e0 <= bound, "%s: the longer sequence in a batch: %.2e from alone", way_text(f, &w), (double)e0);
                e0 = test_rel_err(both[1], alone[1], (size_t)N1 * (size_t)f->V);
                CHECK(e0 <= bound, "%s: the shorter sequence in a batch: %.2e from alone", way_text(f, &w), (double)e0);
            }
    for (int i = 0; i < 2; i++) free(both[i]), free(alone[i]);
}

/* 150 tokens, more than two pages of 64, fed to two sequences in turn so that their pages alternate; against one
   contiguous cache, and path against path. The 48 tokens of the prompt come first, so that there is a reference too. */
static void test_pages(const fixture *f) {
    static const int steps[][2] = {{37, 50}, {30, 14}, {37, 1}, {37, 85}, {9, 0}};
    int text[2][LONG];
    const int *const tokens[2] = {text[0], text[1]};
    const size_t n = (size_t)LONG * (size_t)f->V;
    float *logits[2], *first[2];
    for (int i = 0; i < 2; i++) logits[i] = new_floats(n), first[i] = new_floats(n);
    for (int i = 0; i < LONG; i++)
        text[0][i] = f->tokens[i % (PROMPT + GREEDY)], text[1][i] = f->tokens[i * 5 % PROMPT];
    for (int isa = MLA_ISA_SCALAR, k = 0; isa < MLA_ISA_COUNT; isa++)
        for (int path = MLA_ATTN_NAIVE; path < MLA_ATTN_PATH_COUNT && TEST_ISA((mla_isa)isa); path++)
            for (int paged = 0; paged < 2; paged++) {
                way w = {.isa = (mla_isa)isa, .path = (mla_attn_path)path, .paged = paged, .threads = 1};
                session s;
                int ok = session_open(&s, f, &w, LONG);
                for (size_t i = 0; ok && i < sizeof steps / sizeof *steps; i++)
                    ok = call_both(f, &w, &s, steps[i], tokens, k ? logits : first, 0);
                session_close(&s);
                if (!ok) continue;
                float e = test_rel_err((k ? logits : first)[0], f->logits, (size_t)PROMPT * (size_t)f->V);
                CHECK(e <= bound, "%s: logits off by %.2e", way_text(f, &w), (double)e);
                for (int i = 0; k && i < 2; i++) {
                    e = test_rel_err(logits[i], first[i], n);
                    CHECK(e <= bound, "%s: logits of %d tokens, sequence %d: %.2e from the first way", way_text(f, &w),
                          LONG, i, (double)e);
                }
                k++;
            }
    for (int i = 0; i < 2; i++) free(logits[i]), free(first[i]);
}

/* 1200 tokens: a context so long that the absorbed path works on pieces of it apart and merges them. Naive, absorbed
   and absorbed with three threads (bit-identical), chunks of 160 and at last single tokens. */
static void test_long(const fixture *f) {
    enum { N = 1200, SINGLE = 4 };
    const size_t n = (size_t)N * (size_t)f->V;
    float *logits[3];
    int text[N];
    for (int i = 0; i < N; i++) text[i] = i < PROMPT ? f->tokens[i] : (i * 7 + i / 9) % f->V;
    for (int k = 0; k < 3; k++) {
        way w = {.isa = best_isa(),
                 .path = k ? MLA_ATTN_ABSORBED : MLA_ATTN_NAIVE,
                 .chunk = 160,
                 .threads = k == 2 ? 3 : 1,
                 .paged = k == 0};
        session s;
        logits[k] = new_floats(n);
        w.run = run_backwards;
        int ok = session_open(&s, f, &w, N);
        for (int t = 0, m; ok && t < N; t += m) {
            m = t >= N - SINGLE ? 1 : N - SINGLE - t < w.chunk ? N - SINGLE - t : w.chunk;
            mla_sequence seq = {.cache = s.cache[0], .n_tokens = m, .n_logits = m};
            mla_outputs out = {.logits = logits[k] + t * f->V};
            ok = CHECK(mla_model_forward(s.context, &seq, 1, text + t, &out) == MLA_OK, "%s: %s", way_text(f, &w),
                       mla_context_error(s.context)->text);
        }
        session_close(&s);
        float e = test_rel_err(logits[k], f->logits, (size_t)PROMPT * (size_t)f->V);
        CHECK(e <= bound, "%s: logits off by %.2e", way_text(f, &w), (double)e);
        e = test_rel_err(logits[k], logits[0], n);
        CHECK(e <= bound, "%s: logits of %d tokens: %.2e from naive", way_text(f, &w), N, (double)e);
    }
    CHECK(!memcmp(logits[1], logits[2], n * sizeof **logits),
          "%s: 3 threads are not bit-identical to one over %d tokens", f->name, N);
    for (int k = 0; k < 3; k++) free(logits[k]);
}

/* ---- presets ----------------------------------------------------------------------------------------------------- */
/* The published config.json of the first six and of deepseek-v32, the defaults of transformers' configuration classes
   for the others, and for kimi-linear a json of its published dimensions (the factors of minicpm3 are not compared);
   written with ' for ". */

static const struct published {
    const char *preset, *json;
} published[] = {
    {"deepseek-v2-lite",
     "{'model_type': 'deepseek_v2', 'vocab_size': 102400, 'hidden_size': 2048, 'num_hidden_layers': 27, "
     "'intermediate_size': 10944, 'num_attention_heads': 16, 'num_key_value_heads': 16, 'q_lora_rank': null, "
     "'kv_lora_rank': 512, 'qk_nope_head_dim': 128, 'qk_rope_head_dim': 64, 'v_head_dim': 128, 'rms_norm_eps': "
     "1e-06, 'max_position_embeddings': 163840, 'n_routed_experts': 64, 'num_experts_per_tok': 6, "
     "'moe_intermediate_size': 1408, 'n_shared_experts': 2, 'n_group': 1, 'topk_group': 1, "
     "'routed_scaling_factor': 1.0, 'first_k_dense_replace': 1, 'topk_method': 'greedy', 'scoring_func': "
     "'softmax', 'norm_topk_prob': false, 'moe_layer_freq': 1, 'rope_theta': 10000, 'rope_scaling': {'type': "
     "'yarn', 'factor': 40, 'original_max_position_embeddings': 4096, 'beta_fast': 32, 'beta_slow': 1, "
     "'mscale': 0.707, 'mscale_all_dim': 0.707}}"},
    {"deepseek-v2",
     "{'model_type': 'deepseek_v2', 'vocab_size': 102400, 'hidden_size': 5120, 'num_hidden_layers': 60, "
     "'intermediate_size': 12288, 'num_attention_heads': 128, 'num_key_value_heads': 128, 'q_lora_rank': 1536, "
     "'kv_lora_rank': 512, 'qk_nope_head_dim': 128, 'qk_rope_head_dim': 64, 'v_head_dim': 128, 'rms_norm_eps': "
     "1e-06, 'max_position_embeddings': 163840, 'n_routed_experts': 160, 'num_experts_per_tok': 6, "
     "'moe_intermediate_size': 1536, 'n_shared_experts': 2, 'n_group': 8, 'topk_group': 3, "
     "'routed_scaling_factor': 16.0, 'first_k_dense_replace': 1, 'topk_method': 'group_limited_greedy', "
     "'scoring_func': 'softmax', 'norm_topk_prob': false, 'moe_layer_freq': 1, 'rope_theta': 10000, "
     "'rope_scaling': {'type': 'yarn', 'factor': 40, 'original_max_position_embeddings': 4096, 'beta_fast': 32, "
     "'beta_slow': 1, 'mscale': 0.707, 'mscale_all_dim': 0.707}}"},
    {"deepseek-v3",
     "{'model_type': 'deepseek_v3', 'vocab_size': 129280, 'hidden_size': 7168, 'num_hidden_layers': 61, "
     "'intermediate_size': 18432, 'num_attention_heads': 128, 'num_key_value_heads': 128, 'q_lora_rank': 1536, "
     "'kv_lora_rank': 512, 'qk_nope_head_dim': 128, 'qk_rope_head_dim': 64, 'v_head_dim': 128, 'rms_norm_eps': "
     "1e-06, 'max_position_embeddings': 163840, 'n_routed_experts': 256, 'num_experts_per_tok': 8, "
     "'moe_intermediate_size': 2048, 'n_shared_experts': 1, 'n_group': 8, 'topk_group': 4, "
     "'routed_scaling_factor': 2.5, 'first_k_dense_replace': 3, 'scoring_func': 'sigmoid', 'topk_method': "
     "'noaux_tc', 'norm_topk_prob': true, 'moe_layer_freq': 1, 'num_nextn_predict_layers': 1, 'rope_theta': "
     "10000, 'rope_scaling': {'type': 'yarn', 'factor': 40, 'original_max_position_embeddings': 4096, "
     "'beta_fast': 32, 'beta_slow': 1, 'mscale': 1.0, 'mscale_all_dim': 1.0}}"},
    {"kimi-k2",
     "{'model_type': 'kimi_k2', 'vocab_size': 163840, 'hidden_size': 7168, 'num_hidden_layers': 61, "
     "'intermediate_size': 18432, 'num_attention_heads': 64, 'num_key_value_heads': 64, 'q_lora_rank': 1536, "
     "'kv_lora_rank': 512, 'qk_nope_head_dim': 128, 'qk_rope_head_dim': 64, 'v_head_dim': 128, 'rms_norm_eps': "
     "1e-06, 'max_position_embeddings': 131072, 'n_routed_experts': 384, 'num_experts_per_tok': 8, "
     "'moe_intermediate_size': 2048, 'n_shared_experts': 1, 'n_group': 1, 'topk_group': 1, "
     "'routed_scaling_factor': 2.827, 'first_k_dense_replace': 1, 'scoring_func': 'sigmoid', 'topk_method': "
     "'noaux_tc', 'norm_topk_prob': true, 'moe_layer_freq': 1, 'rope_theta': 50000.0, 'rope_scaling': {'type': "
     "'yarn', 'factor': 32.0, 'original_max_position_embeddings': 4096, 'beta_fast': 1.0, 'beta_slow': 1.0, "
     "'mscale': 1.0, 'mscale_all_dim': 1.0}}"},
    {"longcat-flash",
     "{'model_type': 'longcat_flash', 'vocab_size': 131072, 'hidden_size': 6144, 'num_attention_heads': 64, "
     "'num_key_value_heads': 64, 'q_lora_rank': 1536, 'kv_lora_rank': 512, 'qk_nope_head_dim': 128, "
     "'qk_rope_head_dim': 64, 'v_head_dim': 128, 'rms_norm_eps': 1e-05, 'max_position_embeddings': 131072, "
     "'num_layers': 28, 'ffn_hidden_size': 12288, 'expert_ffn_hidden_size': 2048, 'n_routed_experts': 512, "
     "'zero_expert_num': 256, 'zero_expert_type': 'identity', 'moe_topk': 12, 'routed_scaling_factor': 6.0, "
     "'mla_scale_q_lora': true, 'mla_scale_kv_lora': true, 'rope_theta': 10000000.0}"},
    {"minicpm3",
     "{'model_type': 'minicpm3', 'vocab_size': 73448, 'hidden_size': 2560, 'num_hidden_layers': 62, "
     "'intermediate_size': 6400, 'num_attention_heads': 40, 'num_key_value_heads': 40, 'q_lora_rank': 768, "
     "'kv_lora_rank': 256, 'qk_nope_head_dim': 64, 'qk_rope_head_dim': 32, 'rms_norm_eps': 1e-05, "
     "'max_position_embeddings': 32768, 'scale_emb': 12, 'scale_depth': 1.4, 'dim_model_base': 256, "
     "'rope_scaling': {'type': 'longrope', 'short_factor': [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], "
     "'long_factor': [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 'original_max_position_embeddings': "
     "32768}}"},
    {"deepseek-v32",
     "{'model_type': 'deepseek_v32', 'vocab_size': 129280, 'hidden_size': 7168, 'num_hidden_layers': 61, "
     "'intermediate_size': 18432, 'num_attention_heads': 128, 'num_key_value_heads': 128, 'q_lora_rank': 1536, "
     "'kv_lora_rank': 512, 'qk_nope_head_dim': 128, 'qk_rope_head_dim': 64, 'v_head_dim': 128, 'rms_norm_eps': "
     "1e-06, 'max_position_embeddings': 163840, 'n_routed_experts': 256, 'num_experts_per_tok': 8, "
     "'moe_intermediate_size': 2048, 'n_shared_experts': 1, 'n_group': 8, 'topk_group': 4, "
     "'routed_scaling_factor': 2.5, 'first_k_dense_replace': 3, 'scoring_func': 'sigmoid', 'topk_method': "
     "'noaux_tc', 'norm_topk_prob': true, 'moe_layer_freq': 1, 'index_n_heads': 64, 'index_head_dim': 128, "
     "'index_topk': 2048, 'rope_theta': 10000, 'rope_scaling': {'type': 'yarn', 'factor': 40, "
     "'original_max_position_embeddings': 4096, 'beta_fast': 32, 'beta_slow': 1, 'mscale': 1.0, "
     "'mscale_all_dim': 1.0}}"},
    {"glm4-moe-lite",
     "{'model_type': 'glm4_moe_lite', 'vocab_size': 154880, 'hidden_size': 2048, 'num_hidden_layers': 47, "
     "'intermediate_size': 10240, 'num_attention_heads': 20, 'num_key_value_heads': 20, 'q_lora_rank': 768, "
     "'kv_lora_rank': 512, 'qk_nope_head_dim': 192, 'qk_rope_head_dim': 64, 'v_head_dim': 256, 'rms_norm_eps': "
     "1e-05, 'max_position_embeddings': 202752, 'n_routed_experts': 64, 'num_experts_per_tok': 4, "
     "'moe_intermediate_size': 1536, 'n_shared_experts': 1, 'n_group': 1, 'topk_group': 1, "
     "'routed_scaling_factor': 1.8, 'first_k_dense_replace': 1, 'norm_topk_prob': true, 'rope_interleave': "
     "true, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 10000.0}}"},
    {"glm-moe-dsa",
     "{'model_type': 'glm_moe_dsa', 'vocab_size': 154880, 'hidden_size': 6144, 'num_hidden_layers': 78, "
     "'intermediate_size': 12288, 'num_attention_heads': 64, 'num_key_value_heads': 64, 'q_lora_rank': 2048, "
     "'kv_lora_rank': 512, 'qk_nope_head_dim': 192, 'qk_rope_head_dim': 64, 'v_head_dim': 256, 'rms_norm_eps': "
     "1e-05, 'max_position_embeddings': 202752, 'n_routed_experts': 256, 'num_experts_per_tok': 8, "
     "'moe_intermediate_size': 2048, 'n_shared_experts': 1, 'n_group': 1, 'topk_group': 1, "
     "'routed_scaling_factor': 2.5, 'first_k_dense_replace': 3, 'norm_topk_prob': true, 'index_n_heads': 32, "
     "'index_head_dim': 128, 'index_topk': 2048, 'rope_parameters': {'rope_type': 'default', 'rope_theta': "
     "10000.0}}"},
    {"mistral4",
     "{'model_type': 'mistral4', 'vocab_size': 131072, 'hidden_size': 4096, 'num_hidden_layers': 36, "
     "'intermediate_size': 12288, 'num_attention_heads': 32, 'num_key_value_heads': 32, 'q_lora_rank': 1024, "
     "'kv_lora_rank': 256, 'qk_nope_head_dim': 64, 'qk_rope_head_dim': 64, 'v_head_dim': 128, 'rms_norm_eps': "
     "1e-06, 'max_position_embeddings': 1048576, 'n_routed_experts': 128, 'num_experts_per_tok': 4, "
     "'moe_intermediate_size': 2048, 'n_shared_experts': 1, 'n_group': 1, 'topk_group': 1, "
     "'routed_scaling_factor': 1.0, 'first_k_dense_replace': 0, 'norm_topk_prob': true, 'rope_interleave': "
     "true, 'rope_parameters': {'type': 'yarn', 'factor': 128.0, 'original_max_position_embeddings': 8192, "
     "'beta_fast': 32, 'beta_slow': 1, 'mscale': 1.0, 'mscale_all_dim': 1.0, 'llama_4_scaling_beta': 0.1, "
     "'rope_theta': 10000.0}}"},
    {"youtu",
     "{'model_type': 'youtu', 'vocab_size': 128256, 'hidden_size': 2048, 'num_hidden_layers': 32, "
     "'intermediate_size': 6144, 'num_attention_heads': 16, 'num_key_value_heads': 16, 'q_lora_rank': 1536, "
     "'kv_lora_rank': 512, 'qk_nope_head_dim': 128, 'qk_rope_head_dim': 64, 'v_head_dim': 128, 'rms_norm_eps': "
     "1e-06, 'max_position_embeddings': 131072, 'tie_word_embeddings': true, 'rope_interleave': true, "
     "'rope_parameters': {'rope_type': 'default', 'rope_theta': 10000.0}}"},
    {"axk1", "{'model_type': 'axk1', 'vocab_size': 163840, 'hidden_size': 7168, 'num_hidden_layers': 61, "
             "'intermediate_size': 18432, 'num_attention_heads': 64, 'num_key_value_heads': 64, 'q_lora_rank': 1536, "
             "'kv_lora_rank': 512, 'qk_nope_head_dim': 128, 'qk_rope_head_dim': 64, 'v_head_dim': 128, 'rms_norm_eps': "
             "1e-06, 'max_position_embeddings': 32768, 'n_routed_experts': 192, 'num_experts_per_tok': 8, "
             "'moe_intermediate_size': 2048, 'n_shared_experts': 1, 'n_group': 8, 'topk_group': 4, "
             "'routed_scaling_factor': 2.5, 'first_k_dense_replace': 1, 'norm_topk_prob': true, 'rope_interleave': "
             "true, 'rope_parameters': {'rope_type': 'default', 'rope_theta': 10000.0}}"},
    {"kimi-linear",
     "{'model_type': 'kimi_linear', 'vocab_size': 163840, 'hidden_size': 2304, 'num_hidden_layers': 27, "
     "'intermediate_size': 9216, 'num_attention_heads': 32, 'num_key_value_heads': 32, 'q_lora_rank': "
     "null, 'kv_lora_rank': 512, 'qk_nope_head_dim': 128, 'qk_rope_head_dim': 64, 'v_head_dim': 128, "
     "'rms_norm_eps': 1e-05, 'model_max_length': 1048576, 'num_experts': 256, 'num_experts_per_token': 8, "
     "'moe_intermediate_size': 1024, 'num_shared_experts': 1, 'num_expert_group': 1, 'topk_group': 1, "
     "'routed_scaling_factor': 2.446, 'moe_renormalize': true, 'moe_router_activation_func': 'sigmoid', "
     "'first_k_dense_replace': 1, 'linear_attn_config': {'full_attn_layers': [4, 8, 12, 16, 20, 24, 27], "
     "'kda_layers': [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19, 21, 22, 23, 25, 26], 'head_dim':"
     " 128, 'num_heads': 32, 'short_conv_kernel_size': 4}}"}};

/* c of a model without weights: with defaults resolved. */
static mla_model *resolved(const char *name, const mla_config *c) {
    static const mla_layer_weights layers[128];
    mla_weights w;
    mla_model *m = NULL;
    mla_error err;
    memset(&w, 0, sizeof w);
    w.layers = layers;
    CHECK(c->num_hidden_layers <= 128 && mla_model_create(&m, c, &w, NULL, &err) == MLA_OK, "%s: %s", name, err.text);
    return m;
}

/* mla_config_preset gives what checkpoint.h makes of the config.json. */
static void test_presets(void) {
    SECTION("presets");
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        const char *name = published[i].preset;
        char text[2048];
        checkpoint c;
        ck__plan plan;
        mla_config preset;
        mla_error err;
        mla_result rc = MLA_OK;
        json_value *json;
        memset(&c, 0, sizeof c), memset(&plan, 0, sizeof plan);
        snprintf(text, sizeof text, "%s", published[i].json);
        for (char *t = text; *t; t++) *t = *t == '\'' ? '"' : *t;
        if (!CHECK(json_parse(text, strlen(text), &json, &err) == MLA_OK, "%s: %s", name, err.text)) continue;
        rc = ck__read_config(&c, &plan, json, &err);
        json_free(json);
        if (!CHECK(rc == MLA_OK && mla_config_preset(&preset, name, &err) == MLA_OK, "%s: %s", name, err.text))
            continue;
        preset.rope.short_factor = c.config.rope.short_factor, preset.rope.long_factor = c.config.rope.long_factor;
        mla_model *ma = resolved(name, &preset), *mb = resolved(name, &c.config);
        if (ma && mb) {
            const mla_config *a = mla_model_config(ma), *b = mla_model_config(mb);
#define SAME(field)                                                                                                    \
    CHECK((double)a->field == (double)b->field, "%s: " #field " is %g in the preset, %g from config.json", name,       \
          (double)a->field, (double)b->field)
            SAME(vocab_size), SAME(hidden_size), SAME(num_hidden_layers), SAME(intermediate_size),
                SAME(num_attention_heads), SAME(q_lora_rank);
            SAME(kv_lora_rank), SAME(qk_nope_head_dim), SAME(qk_rope_head_dim), SAME(v_head_dim), SAME(softmax_scale),
                SAME(mask);
            SAME(rope.layout), SAME(rope.scaling), SAME(rope.theta), SAME(rope.factor), SAME(rope.mscale),
                SAME(rope.mscale_all_dim);
            SAME(rope.attention_factor), SAME(rope.no_truncate), SAME(rope.max_position_embeddings), SAME(rope.length);
            SAME(q_norm.kind), SAME(q_norm.eps), SAME(kv_norm.kind), SAME(kv_norm.eps), SAME(block_norm.kind),
                SAME(block_norm.eps);
            SAME(q_scale), SAME(latent_scale), SAME(temperature_beta), SAME(temperature_period), SAME(embed_scale),
                SAME(residual_scale), SAME(logits_scale);
            SAME(n_routed_experts), SAME(zero_expert_num), SAME(num_experts_per_tok), SAME(moe_intermediate_size),
                SAME(n_shared_experts);
            SAME(n_group), SAME(topk_group), SAME(topk_method), SAME(scoring_func), SAME(norm_topk_prob),
                SAME(routed_scaling_factor);
            SAME(index_topk), SAME(index_n_heads), SAME(index_head_dim), SAME(index_rope);
            SAME(linear_num_heads), SAME(linear_head_dim), SAME(linear_conv_kernel_dim), SAME(kda_lower_bound);
            if (a->rope.scaling != MLA_ROPE_DEFAULT) SAME(rope.original_max_position_embeddings);
            if (a->rope.scaling == MLA_ROPE_YARN) SAME(rope.beta_fast), SAME(rope.beta_slow);
            CHECK(!memcmp(mla_model_inv_freq(ma), mla_model_inv_freq(mb),
                          (size_t)a->qk_rope_head_dim / 2 * sizeof(float)) &&
                      mla_model_rope_amplitude(ma) == mla_model_rope_amplitude(mb),
                  "%s: rotary angles", name);
        }
        mla_model_destroy(ma), mla_model_destroy(mb);
        free(c.rope_factors), free(c.indexers), free(c.recurrent);
    }
}

/* ---- the table of README.md -------------------------------------------------------------------------------------- */
/* A row for each fixture, from its config.json and its tensors. */

/* What other tests make of a fixture's weights: test_quantize.c (of v2_lite also a checkpoint of each dtype first),
 * test_checkpoint.c int4. */
static const struct converted {
    const char *name, *formats;
} converted[] = {{"deepseek_v2_lite", "f32, f16, e4m3, q8, q4"},
                 {"deepseek_v3", "q8, q4"},
                 {"deepseek_v3_fp8", "q8, q4"},
                 {"kimi_k2", "q8, q4, int4"}};

static char table[8192];
static size_t table_length;

#if defined(__GNUC__)
__attribute__((format(printf, 1, 2)))
#endif
static void
cell(const char *format, ...) { /* more of the table */
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(table + table_length, sizeof table - table_length, format, args);
    va_end(args);
    table_length += (size_t)n;
    if (n < 0 || table_length >= sizeof table) puts("the table is too long"), exit(2);
}

/* , or nothing before the first of a list */
static void item(int *n, const char *text) { cell("%s%s", (*n)++ ? ", " : "", text); }

/* The dtypes of the matrices, a bit each: of every layer one matrix of each kind. */
static unsigned dtypes_of(const mla_weights *w, int layers) {
    unsigned dtypes = 1u << w->embed.dtype;
    for (int i = 0; i < layers; i++) {
        const mla_layer_weights *l = &w->layers[i];
        const mla_linear *some[] = {&l->attn.kv_a,       &l->attn.kv_b,
                                    &l->attn.o,          &l->mlp.down,
                                    &l->moe.shared.down, l->moe.experts ? &l->moe.experts->down : &l->mlp.down};
        for (size_t k = 0; k < sizeof some / sizeof *some; k++)
            if (some[k]->weight.data) dtypes |= 1u << some[k]->weight.dtype;
    }
    return dtypes;
}

static int one_of(const char *name, const char *list) { /* names in it have a blank before and behind */
    char between[64];
    snprintf(between, sizeof between, " %s ", name);
    return strstr(list, between) != NULL;
}

static void table_row(const fixture *f, const json_value *json) {
    static const char *const scalings[] = {"", ", linear", ", dynamic NTK", ", YaRN", ", LongRoPE"},
                             *const layouts[] = {"PAIR", "HALF", "none"};
    static const char *const methods[] = {"greedy", "group_limited_greedy", "noaux_tc", "noaux_tc"};
    const mla_config *c = &f->files->config;
    const mla_layer_weights *layers = f->files->weights.layers, *last = &layers[f->L - 1];
    int64_t topk = 0, mtp = 0;
    int n = 0, bias = 0, shortcut = 0, dense = 0, kda = 0;
    for (int i = 0; i < f->L; i++) {
        bias |= layers[i].moe.router_bias.data != NULL,
            shortcut |= layers[i].moe.experts && layers[i].mlp.gate.weight.data;
        kda += layers[i].kda.q.weight.data != NULL;
        if (layers[i].moe.experts) last = &layers[i];
        else dense++;
    }
    const char *made = strcmp(f->name, "bailing_hybrid") ? "" : " (of a numpy program)"; /* tests/fixtures/bailing.py */
    cell("| %s%s | %s, RoPE %s%s", f->name, made, c->q_lora_rank ? "Q" : "no Q", layouts[c->rope.layout],
         scalings[c->rope.scaling]);
    if (c->temperature_beta > 0) cell(", temperature");
    if (c->q_scale > 0 || c->latent_scale > 0) cell(", scaled q and latent");
    if (kda) cell("; KDA in %d of %d layers", kda, f->L);
    if (c->q_twice) cell(", q from two latents");
    if (c->q_gate || layers[f->L - 1].attn.gate.weight.data) cell(", output gate");
    if (layers->attn.sinks.data) cell(", sinks");
    cell(" | ");
    if (c->n_routed_experts) {
        cell("%s, %s", c->scoring_func == MLA_SCORING_SIGMOID ? "sigmoid" : "softmax", methods[c->topk_method]);
        if (c->n_group > 1)
            cell(", %d of %d groups%s", c->topk_group, c->n_group,
                 c->topk_method == MLA_TOPK_NOAUX_ZERO ? " (others 0)" : "");
        if (bias) cell(", bias");
        if (c->norm_topk_prob) cell(", normalised");
        if (c->n_shared_experts) cell(", %d shared", c->n_shared_experts);
        if (c->zero_expert_num) cell(", %d zero", c->zero_expert_num);
    }
    cell(" | ");
    if (!c->n_routed_experts) item(&n, "dense");
    else if (shortcut) item(&n, "shortcut (ScMoE)");
    else if (dense) item(&n, "dense, then experts");
    else item(&n, "experts");
    if (last->ffn_out_norm.weight.data) item(&n, "norm behind the experts");
    if (layers->attn_norm.gate_down.data) item(&n, "gated norms");
    if (c->swiglu_limit > 0) item(&n, "clamped experts");
    if (c->emb_neighbor_num > 0) item(&n, "n-gram embeddings (from tests/fixtures/ngram.py)");
    if (c->hc_mult > 1) item(&n, "residual streams (hyper-connections)");
    if (c->embed_scale > 0 || c->residual_scale > 0) item(&n, "scaled residual stream");
    if (!f->files->weights.head.data) item(&n, "tied head");
    cell(" | ");
    if (json_integer(json_get(json, "index_topk"), &topk)) {
        const json_value *types = json_get(json, "indexer_types");
        int shares = 0;
        for (size_t i = 0; i < json_count(types); i++)
            shares |= !strcmp(json_string(json_at(types, i), NULL), "shared");
        cell("DSA, top %d%s", (int)topk, shares ? ", shared by layers" : "");
    }
    cell(" | ");
    if (json_integer(json_get(json, "num_nextn_predict_layers"), &mtp) && mtp > 0) cell("%d", (int)mtp);
    cell(" | ");
    const unsigned dtypes = dtypes_of(&f->files->weights, c->num_hidden_layers);
    n = 0;
    for (int t = 0; t < MLA_DTYPE_COUNT; t++)
        if (dtypes & 1u << t) item(&n, mla_dtype_name((mla_dtype)t));
    for (size_t i = 0; i < sizeof converted / sizeof *converted; i++)
        if (!strcmp(converted[i].name, f->name)) cell("; %s", converted[i].formats);
    /* whose tokenizer's steps tests/tokenizer compares; which convert.h and gguf.h have an architecture for */
    cell(" | %s | %s |\n",
         one_of(f->name, " axk1 axk2 axk2_light hy_v4 longcat_flash longcat_flash_ngram bailing_hybrid ") ? "ids"
                                                                                                          : "text",
         one_of(f->name, " axk1 axk2 axk2_light longcat_flash longcat_flash_ngram ") ? "HF" : "HF, GGUF");
}

static char *whole_file(const char *path) {
    char *text = (char *)calloc(1, 1 << 16);
    FILE *file = fopen(path, "rb");
    const size_t n = file && text ? fread(text, 1, (1 << 16) - 1, file) : 0;
    if (!CHECK(n > 0 && n < (1 << 16) - 1, "%s: cannot be read, or is too long for the test", path)) exit(2);
    fclose(file);
    return text;
}

static void make_table(void) {
    cell("| checkpoint | attention | router | layers | sparse | MTP | weights; converted "
         "| use | files |\n|---|---|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < N_FIXTURES; i++) {
        char path[256];
        fixture f;
        json_value *json = NULL;
        mla_error err;
        snprintf(path, sizeof path, "tests/fixtures/checkpoints/%s/config.json", names[i].name);
        char *text = whole_file(path);
        if (CHECK(json_parse(text, strlen(text), &json, &err) == MLA_OK, "%s: %s", path, err.text) &&
            fixture_open(&f, names[i].name, names[i].block)) {
            table_row(&f, json);
            fixture_close(&f);
        }
        json_free(json);
        free(text);
    }
}

static void test_table(void) {
    SECTION("the table of README.md");
    char *readme = whole_file("README.md");
    make_table();
    CHECK(strstr(readme, table), "README.md has not the table that `make models` prints");
    free(readme);
}

int main(int argc, char **argv) {
    report = argc > 1 && !strcmp(argv[1], "--report");
    if (argc > 1 && !strcmp(argv[1], "--table")) return make_table(), fputs(table, stdout), test_failed != 0;
    if (report)
        puts("fixture           isa       path      logits   hidden   (largest relative error over all ways of cutting "
             "the prompt)");
    for (int i = 0; i < N_FIXTURES; i++) {
        fixture f;
        SECTION(names[i].name);
        if (fixture_open(&f, names[i].name, names[i].block)) {
            /* what others have not: indexers, states */
            const int own = f.files->config.index_topk > 0 || f.files->config.linear_num_heads > 0;
            test_forward(&f, names[i].all || own);
            test_controls(&f);
            test_batch(&f);
            if (names[i].all || names[i].block > 1 || own) test_threads(&f);
            if (own) test_pages(&f);
            if (names[i].all) {
                test_small_caches(&f);
                test_rounding(&f);
                test_pages(&f);
            }
            if (i == 2) test_long(&f); /* deepseek_v3 */
            if (!strcmp(names[i].name, "deepseek_v3_fp8")) test_fp8_activations(&f);
        }
        fixture_close(&f);
    }
    test_presets();
    test_table();
    return test_end();
}
