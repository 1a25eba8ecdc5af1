/* test_invariant.c - mla_context_desc.invariant: what else is in a call changes no bit of a sequence's logits. Every
   fixture, in several formats, on every ISA: sequences of any lengths, prompts in pieces and tokens one by one, run
   alone and then in company that changes from call to call; of few tokens, alone one by one. Run from the repository
   root. */

#include "mla.h"
#include "test.h"
#define CHECKPOINT_IMPLEMENTATION
#include "quantize.h"

enum { MAX_SEQUENCES = 18, STEPS = 6, ROOM = 160, MAX_TOKENS = 320, SHORT = 16 };
/* TEST_FEW=1: fewer, where kernels count their lines and take thirty times as long. */
static int sequences = MAX_SEQUENCES;

static const char *const fixtures[] = {"deepseek_v2_lite",
                                       "deepseek_v2",
                                       "deepseek_v3",
                                       "deepseek_v3_fp8",
                                       "kimi_k2",
                                       "axk1",
                                       "glm4_moe_lite",
                                       "longcat_flash",
                                       "minicpm3",
                                       "minicpm3_longrope",
                                       "mistral4",
                                       "youtu",
                                       "deepseek_v32",
                                       "glm_moe_dsa",
                                       "kimi_linear",
                                       "axk2",
                                       "hy_v4",
                                       "axk2_light",
                                       "bailing_hybrid"}; /* rows for n-gram embeddings cannot be appended */
enum { FIXTURES = sizeof fixtures / sizeof *fixtures };

/* What sequence i does: it begins behind so many tokens, and is fed the rest in steps of so many. */
typedef struct script {
    int before, n_steps, n[STEPS], tokens[ROOM];
    float *logits; /* [n_steps, V], when it was alone */
} script;

typedef struct setting {
    const char *name;
    mla_model *model;
    mla_dtype cached;
    mla_context_desc desc;
    const float *rows; /* of some sequence, for those that begin behind tokens */
} setting;

static void must(mla_result r, const char *text) {
    if (r == MLA_OK) return;
    printf("%s\n", text);
    exit(2);
}
static mla_context *context_of(const setting *s, int threads) {
    mla_context *context;
    mla_context_desc d = s->desc;
    mla_error error;
    d.threads = threads;
    must(mla_context_create(&context, s->model, &d, &error), error.text);
    return context;
}
/* States are not made of rows, but by tokens. */
static void run_before(const setting *s, mla_cache *cache, int n) {
    mla_context *context = context_of(s, 1);
    int tokens[MAX_TOKENS];
    mla_sequence q;
    memset(&q, 0, sizeof q);
    q.cache = cache;
    for (int i = 0; i < MAX_TOKENS; i++) tokens[i] = i * 7 % mla_model_config(s->model)->vocab_size;
    for (; n > 0; n -= q.n_tokens) {
        q.n_tokens = n < MAX_TOKENS ? n : MAX_TOKENS;
        must(mla_model_forward(context, &q, 1, tokens, NULL), mla_context_error(context)->text);
    }
    mla_context_destroy(context);
}
/* Nothing of it depends on its company, so that it can begin in any cache. */
static mla_cache *cache_of(const setting *s, const script *run, int capacity) {
    mla_cache *cache;
    mla_cache_desc d;
    mla_error error;
    memset(&d, 0, sizeof d);
    d.capacity = capacity, d.dtype = s->cached;
    must(mla_cache_create(&cache, s->model, &d, &error), error.text);
    if (run->before && mla_model_config(s->model)->linear_num_heads) run_before(s, cache, run->before);
    else if (run->before) must(mla_cache_append(cache, run->before, s->rows, &error), error.text);
    return cache;
}

/* Sequence by sequence, one step after the other, short ones token by token. */
static void run_alone(const setting *s, script *runs, int V) {
    mla_context *context = context_of(s, 1);
    for (int i = 0; i < sequences; i++) {
        mla_cache *cache = cache_of(s, &runs[i], runs[i].before + ROOM);
        const int *tokens = runs[i].tokens;
        for (int j = 0; j < runs[i].n_steps; j++)
            for (int at = 0, n; at < runs[i].n[j]; at += n, tokens += n) {
                mla_sequence q;
                memset(&q, 0, sizeof q);
                q.cache = cache, q.n_tokens = n = runs[i].n[j] > SHORT ? runs[i].n[j] : 1, q.n_logits = 1;
                mla_outputs out;
                memset(&out, 0, sizeof out);
                out.logits = runs[i].logits + j * V;
                must(mla_model_forward(context, &q, 1, tokens, &out), mla_context_error(context)->text);
            }
        mla_cache_destroy(cache);
    }
    mla_context_destroy(context);
}

/* All of them, each call a random choice of those that are not done, in any order: two, or most of them. */
static int run_together(const setting *s, const script *runs, int V, test_rng *r) {
    mla_context *context = context_of(s, 3);
    mla_cache *caches[MAX_SEQUENCES];
    int step[MAX_SEQUENCES] = {0}, at[MAX_SEQUENCES] = {0}, left = sequences, wrong = 0;
    float *logits = (float *)malloc(sizeof *logits * (size_t)(sequences * V));
    for (int i = 0; i < sequences; i++) caches[i] = cache_of(s, &runs[i], runs[i].before + ROOM);
    while (left) {
        mla_sequence q[MAX_SEQUENCES];
        int who[MAX_SEQUENCES], tokens[MAX_TOKENS], n = 0, T = 0;
        const int most = test_int(r, 3) ? sequences : 2, first = test_int(r, sequences);
        const int stride = test_int(r, 2) ? 1 : 5; /* 5 and 18 or 4 have no common factor */
        for (int k = 0; k < sequences && n < most; k++) {
            const int i = (first + k * stride) % sequences;
            if (step[i] == runs[i].n_steps || T + runs[i].n[step[i]] > MAX_TOKENS) continue;
            memset(&q[n], 0, sizeof *q);
            q[n].cache = caches[i], q[n].n_tokens = runs[i].n[step[i]], q[n].n_logits = 1;
            memcpy(tokens + T, runs[i].tokens + at[i], sizeof *tokens * (size_t)q[n].n_tokens);
            T += q[n].n_tokens, who[n++] = i;
        }
        mla_outputs out;
        memset(&out, 0, sizeof out);
        out.logits = logits;
        must(mla_model_forward(context, q, n, tokens, &out), mla_context_error(context)->text);
        for (int k = 0; k < n; k++) {
            const int i = who[k];
            const float *alone = runs[i].logits + step[i] * V;
            wrong += memcmp(logits + k * V, alone, sizeof *alone * (size_t)V) != 0;
            at[i] += runs[i].n[step[i]++];
            left -= step[i] == runs[i].n_steps;
        }
    }
    for (int i = 0; i < sequences; i++) mla_cache_destroy(caches[i]);
    free(logits);
    mla_context_destroy(context);
    return wrong;
}

static void write_scripts(script *runs, const mla_config *f, test_rng *r) {
    static const int lengths[] = {1, 1, 1, 2, 3, 15, 16, 17, 33, 40};
    for (int i = 0; i < sequences; i++) {
        int room = ROOM;
        /* some are long enough for several pieces of context, and behind 1024 pairs of keys nothing is dense */
        runs[i].before = i % 3 ? 0 : 1 + test_int(r, i && sequences == MAX_SEQUENCES ? 1300 : 40);
        runs[i].n_steps = i < 2 ? 3 : 2 + test_int(r, STEPS - 1);
        for (int j = 0; j < runs[i].n_steps; j++) {
            const int n = lengths[test_int(r, (int)(sizeof lengths / sizeof *lengths))];
            runs[i].n[j] = n < room ? n : 1;
            room -= runs[i].n[j];
        }
        for (int j = 0; j < ROOM; j++) runs[i].tokens[j] = test_int(r, f->vocab_size);
        runs[i].logits = (float *)malloc(sizeof(float) * STEPS * (size_t)f->vocab_size);
    }
}

static int differed; /* results that did, where nothing was promised */
static void check_setting(const setting *s, uint64_t seed) {
    const mla_config *f = mla_model_config(s->model);
    setting other = *s;
    test_rng r = {seed};
    script runs[MAX_SEQUENCES];
    write_scripts(runs, f, &r);
    run_alone(s, runs, f->vocab_size);
    const int wrong = run_together(s, runs, f->vocab_size, &r);
    CHECK(!wrong, "%s, %s, activations %d, path %d, cache %s: %d results depend on their company", s->name,
          mla_isa_name(s->desc.isa), (int)s->desc.activations, (int)s->desc.attn, mla_dtype_name(s->cached), wrong);
    other.desc.invariant = 0; /* the same calls do differ without it */
    if (other.desc.isa != MLA_ISA_SCALAR && sequences == MAX_SEQUENCES)
        differed += run_together(&other, runs, f->vocab_size, &r);
    for (int i = 0; i < sequences; i++) free(runs[i].logits);
}

/* Single layers, and the layers that look ahead: four sequences in one call, whose kinds take turns, against each alone. */
enum { FOUR = 4, ALL_FOUR = 20 + 1 + 33 + 3 };
static const int four[FOUR] = {20, 1, 33, 3};
static void run_layers(const setting *s, int from, int n, const int *tokens, const float *x, float *y) {
    const mla_config *f = mla_model_config(s->model);
    const ptrdiff_t T = n > 1 ? ALL_FOUR : four[from], D = f->hidden_size;
    mla_context *context = context_of(s, n);
    mla_sequence q[FOUR];
    script run;
    memset(q, 0, sizeof q);
    run.before = 150;
    for (int i = 0; i < n; i++) q[i].cache = cache_of(s, &run, 300), q[i].n_tokens = q[i].n_logits = four[from + i];
    for (int layer = 0; layer < f->num_hidden_layers; layer++, y += T * D)
        must(mla_attn_forward(context, layer, y, x, q, n), mla_context_error(context)->text);
    for (int depth = 0; depth < f->num_nextn_predict_layers; depth++, y += T * f->vocab_size) {
        mla_outputs out;
        memset(&out, 0, sizeof out);
        out.logits = y;
        must(mla_mtp_forward(context, depth, q, n, tokens, x, &out), mla_context_error(context)->text);
    }
    for (int i = 0; i < n; i++) mla_cache_destroy(q[i].cache);
    mla_context_destroy(context);
}
static void check_layers(const setting *s, test_rng *r) {
    const mla_config *f = mla_model_config(s->model);
    const int D = f->hidden_size, L = f->num_hidden_layers, V = f->vocab_size;
    const size_t each = (size_t)(L * D + f->num_nextn_predict_layers * V);
    float *x = (float *)malloc(sizeof *x * (size_t)(ALL_FOUR * D)), *y = (float *)malloc(sizeof *y * ALL_FOUR * each),
          *alone = (float *)malloc(sizeof *y * ALL_FOUR * each);
    int tokens[ALL_FOUR], wrong = 0;
    test_fill(r, x, (size_t)(ALL_FOUR * D), 1);
    for (int i = 0; i < ALL_FOUR; i++) tokens[i] = test_int(r, V);
    run_layers(s, 0, FOUR, tokens, x, y);
    for (int i = 0, t = 0; i < FOUR; t += four[i++]) {
        run_layers(s, i, 1, tokens + t, x + t * D, alone);
        const float *a = alone, *b = y;
        for (int j = 0; j < L + f->num_nextn_predict_layers; j++) {
            const int width = j < L ? D : V;
            wrong += memcmp(a, b + t * width, sizeof *a * (size_t)(four[i] * width)) != 0;
            a += four[i] * width, b += ALL_FOUR * width;
        }
    }
    CHECK(!wrong, "%s, %s: %d results of single layers depend on their company", s->name, mla_isa_name(s->desc.isa),
          wrong);
    free(x), free(y), free(alone);
}

/* What activations can become on an ISA. */
static int may_round(mla_isa isa, mla_activations to) {
    return to != MLA_ACT_BF16 || isa == MLA_ISA_BF16 || isa == MLA_ISA_AMX;
}
static void check_model(const char *name, const checkpoint *c, uint64_t seed) {
    static const mla_dtype caches[] = {MLA_F32, MLA_BF16, MLA_F16};
    const mla_config *f = &c->config;
    const int width = f->kv_lora_rank + f->qk_rope_head_dim + f->index_head_dim;
    const size_t n = (size_t)(f->num_hidden_layers + f->num_nextn_predict_layers) * (size_t)width * 1400;
    float *rows = (float *)malloc(sizeof *rows * n);
    test_rng r = {seed};
    setting s;
    mla_error error;
    int kind = (int)(seed % 3);
    memset(&s, 0, sizeof s);
    test_fill(&r, rows, n, 1);
    must(mla_model_create(&s.model, &c->config, &c->weights, NULL, &error), error.text);
    s.name = name, s.rows = rows, s.desc.max_tokens = MAX_TOKENS, s.desc.invariant = 1;
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++)
        for (int to = MLA_ACT_AUTO; to < MLA_ACT_COUNT && TEST_ISA((mla_isa)isa); to++) {
            if (!may_round((mla_isa)isa, (mla_activations)to) || (isa == MLA_ISA_SCALAR && to)) continue;
            if (to != (int)((seed + (uint64_t)isa) % MLA_ACT_COUNT) && to != MLA_ACT_AUTO) continue; /* in turn */
            s.desc.isa = (mla_isa)isa, s.desc.activations = (mla_activations)to;
            s.desc.attn = (mla_attn_path)(kind % 3), s.cached = caches[kind++ % 3];
            check_setting(&s, seed + (uint64_t)kind);
            if (f->num_nextn_predict_layers || f->index_topk || test_all()) check_layers(&s, &r);
        }
    mla_model_destroy(s.model);
    free(rows);
}

typedef struct format {
    const char *name;
    checkpoint_form form;
    int repack;
} format;
static const format formats[] = {{"keep", CHECKPOINT_KEEP, 0}, {"q8", CHECKPOINT_Q8, 0},
                                 {"q4", CHECKPOINT_Q4, 0},     {"q8x16", CHECKPOINT_Q8, 1},
                                 {"q4x16", CHECKPOINT_Q4, 1},  {"iq4_nlx16", CHECKPOINT_IQ4_NL, 1}};
enum { FORMATS = sizeof formats / sizeof *formats };

int main(void) {
    if (getenv("TEST_FEW")) sequences = 4;
    for (int i = 0; i < FIXTURES; i++) {
        SECTION(fixtures[i]);
        for (int j = 0; j < FORMATS; j++) {
            char path[160], name[160];
            checkpoint *c;
            checkpoint_quant how;
            mla_error error;
            if (!test_all() && j != i % FORMATS) continue;
            snprintf(path, sizeof path, "tests/fixtures/checkpoints/%s", fixtures[i]);
            snprintf(name, sizeof name, "%s %s", fixtures[i], formats[j].name);
            must(checkpoint_open(&c, path, &error), error.text);
            memset(&how, 0, sizeof how);
            how.form = formats[j].form, how.repack = formats[j].repack;
            how.classes[CHECKPOINT_KV_B] = c->config.kv_lora_rank % MLA_GROUP ? CHECKPOINT_KEEP : how.form;
            if (c->config.moe_intermediate_size % MLA_GROUP)
                how.classes[CHECKPOINT_EXPERTS] = how.classes[CHECKPOINT_SHARED] = CHECKPOINT_KEEP;
            if (c->config.q_lora_rank % MLA_GROUP) how.classes[CHECKPOINT_ATTN] = CHECKPOINT_KEEP;
            if (CHECK(!j || checkpoint_quantize(c, &how, &error) == MLA_OK, "%s: %s", name, error.text))
                check_model(name, c, (uint64_t)(i * FORMATS + j));
            checkpoint_close(c);
        }
    }
    CHECK(differed > 1000 || sequences < MAX_SEQUENCES,
          "only %d results depend on their company without being told not to", differed);
    return test_end();
}
