/* test_engine.c - what programs that run a model for many others ask of it: some of the logits, embeddings in place of
   tokens, layers apart, routing, an end halfway, pages counted beforehand, caches saved and loaded. Run from the
   repository root. Equal means bit for bit. */

#if defined(__unix__) || defined(__APPLE__)
#define _POSIX_C_SOURCE 200112L
#endif

#define MLA_IMPLEMENTATION
#include "mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "examples/checkpoint.h"
#include "test.h"

#include <stdlib.h>

enum { T = 24, MAX_LAYERS = 8, CAPACITY = 96 };

static void *need(void *p) {
    if (!p) puts("out of memory in the test"), exit(2);
    return p;
}
static float *floats(size_t n) { return (float *)need(calloc(n ? n : 1, sizeof(float))); }
static int same(const void *a, const void *b, size_t n_floats) { return memcmp(a, b, n_floats * sizeof(float)) == 0; }

/* ---- the models -------------------------------------------------------------------------------------------------- */

static const char *const names[] = {"deepseek_v2_lite", "deepseek_v2",   "deepseek_v3",       "deepseek_v3_fp8",
                                    "kimi_k2",          "axk1",          "minicpm3",          "mistral4",
                                    "glm4_moe_lite",    "longcat_flash", "minicpm3_longrope", "youtu",
                                    "deepseek_v32",     "glm_moe_dsa"};
enum { N_MODELS = sizeof names / sizeof *names };

typedef struct subject {
    const char *name;
    checkpoint *files;
    mla_model *model;
    const mla_config *c;
    int L, D, V, E, K; /* E: what the router chooses from */
    int tokens[2 * T];
} subject;

static int subject_open(subject *s, const char *name) {
    char path[256];
    mla_error err;
    memset(s, 0, sizeof *s);
    s->name = name;
    snprintf(path, sizeof path, "tests/fixtures/checkpoints/%s", name);
    if (!CHECK(checkpoint_open(&s->files, path, &err) == MLA_OK, "%s: %s", name, err.text)) return 0;
    if (!CHECK(mla_model_create(&s->model, &s->files->config, &s->files->weights, NULL, &err) == MLA_OK, "%s: %s", name,
               err.text))
        return 0;
    s->c = mla_model_config(s->model);
    s->L = s->c->num_hidden_layers, s->D = s->c->hidden_size, s->V = s->c->vocab_size;
    s->E = s->c->n_routed_experts + s->c->zero_expert_num, s->K = s->c->num_experts_per_tok;
    for (int i = 0; i < 2 * T; i++) s->tokens[i] = (i * 37 + 11) % s->V;
    return CHECK(s->L <= MAX_LAYERS, "%s: %d layers", name, s->L);
}
static void subject_close(subject *s) {
    mla_model_destroy(s->model);
    checkpoint_close(s->files);
}
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
        CHECK(worst <= (row > 8 ? 0 : 2e-6f), "%s: logits of %d, %d and %d tokens: off by %.1e", s->name, wanted[w][0],
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

static void test_models(void) {
    static const struct {
        const char *what;
        void (*test)(const subject *s);
    } tests[] = {{"logits", test_logits}};
    for (size_t t = 0; t < sizeof tests / sizeof *tests; t++) {
        SECTION(tests[t].what);
        for (int i = 0; i < N_MODELS; i++) {
            subject s;
            if (subject_open(&s, names[i])) tests[t].test(&s), subject_close(&s);
        }
    }
}

int main(void) {
    test_models();
    return test_end();
}
