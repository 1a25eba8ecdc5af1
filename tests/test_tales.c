/* The demo model, examples/tales: the logits and the 200 greedy tokens of examples/tales/expected.safetensors, in every
   way; and what it was trained for: held-out words of a book are likelier than the same words upside down, and the
   experts of each layer share the work. */

#define MLA_IMPLEMENTATION
#include "mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "checkpoint.h"
#define TOKENIZER_IMPLEMENTATION
#include "tokenizer.h"

#include <stdlib.h>

#include "test.h"

#define TALES "examples/tales"
enum { PROMPT = 64, GREEDY = 200, FED = PROMPT + GREEDY };
static const float bound = 5e-5f; /* of the largest logit */

static checkpoint *tales;
static mla_model *model;
static tokenizer *words;
static int tokens[FED], V;
static const float *want, *margins; /* [PROMPT, V], [GREEDY] */
static float *logits;               /* [FED, V] */

static const void *tensor(const st_file *f, const char *name, const char *dtype, size_t bytes) {
    const st_tensor *t = st_find(f, name);
    const int ok = t && !strcmp(t->dtype, dtype) && t->bytes == bytes;
    CHECK(ok, "expected.safetensors: %s", name);
    if (!ok) exit(test_end());
    return t->data;
}

static mla_context *context_of(mla_isa isa, mla_attn_path path, int threads) {
    mla_context_desc d;
    mla_context *c;
    mla_error err;
    memset(&d, 0, sizeof d);
    d.max_tokens = FED, d.isa = isa, d.attn = path, d.threads = threads;
    d.activations = MLA_ACT_F32;
    if (CHECK(mla_context_create(&c, model, &d, &err) == MLA_OK, "%s", err.text)) return c;
    exit(test_end());
}

/* Logits of n tokens, in calls of `chunk` of the first PROMPT and then of one. */
static void feed(mla_context *c, mla_dtype cached, int n, int chunk, const int *ids, int64_t *counts) {
    mla_cache_desc d;
    mla_cache *k;
    mla_error err;
    memset(&d, 0, sizeof d);
    d.capacity = n, d.dtype = cached;
    if (!CHECK(mla_cache_create(&k, model, &d, &err) == MLA_OK, "%s", err.text)) exit(test_end());
    for (int t = 0, m; t < n; t += m) {
        mla_sequence s;
        mla_outputs out;
        memset(&s, 0, sizeof s), memset(&out, 0, sizeof out);
        m = t >= PROMPT || n - t == 1 ? 1 : chunk < PROMPT - t ? chunk : PROMPT - t;
        if (m > n - t) m = n - t;
        s.cache = k, s.n_tokens = s.n_logits = m;
        out.logits = logits + (size_t)t * (size_t)V, out.expert_counts = counts;
        CHECK(mla_model_forward(c, &s, 1, ids + t, &out) == MLA_OK, "%s", mla_context_error(c)->text);
    }
    mla_cache_destroy(k);
}

static void test_expected(void) {
    static const char *const paths[] = {"auto", "naive", "absorbed"};
    SECTION("logits and greedy tokens");
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++)
        for (int path = 0; path < MLA_ATTN_PATH_COUNT && TEST_ISA((mla_isa)isa); path++) {
            mla_context *c = context_of((mla_isa)isa, (mla_attn_path)path, 1 + path);
            const char *name = mla_isa_name((mla_isa)isa);
            float largest = test_max_abs(want, (size_t)PROMPT * (size_t)V);
            feed(c, MLA_F32, FED - 1, path == 1 ? 7 : PROMPT, tokens, NULL);
            const float err = test_rel_err(logits, want, (size_t)PROMPT * (size_t)V);
            CHECK(err < bound, "%s %s: logits are off by %g of the largest", name, paths[path], (double)err);
            int wrong = 0;
            for (int i = 0; i < GREEDY; i++) {
                const float *row = logits + (size_t)(PROMPT - 1 + i) * (size_t)V;
                int best = 0;
                for (int v = 1; v < V; v++) best = row[v] > row[best] ? v : best;
                wrong += best != tokens[PROMPT + i] && margins[i] > 2 * bound * largest;
            }
            CHECK(wrong == 0, "%s %s: %d of %d greedy tokens are others", name, paths[path], wrong, GREEDY);
            mla_context_destroy(c);
        }
}

/* Nats a token of a text, from its second token on. */
static double loss(mla_context *c, mla_dtype cached, const int *ids, int n) {
    double sum = 0;
    feed(c, cached, n, PROMPT, ids, NULL);
    for (int t = 0; t + 1 < n; t++) {
        const float *row = logits + (size_t)t * (size_t)V;
        double z = 0;
        for (int v = 0; v < V; v++) z += exp((double)row[v] - (double)row[ids[t + 1]]);
        sum += log(z);
    }
    return sum / (n - 1);
}

static void test_language(void) {
    static const char text[] = "The little girl ran to the window and looked out. “There is somebody at the door,” she "
                               "said to her mother. “It is only the wind, "
                               "my dear,” said the old woman, and she went on with her work by the fire.";
    int ids[PROMPT + 1] = {tales->bos_token_id}, back[PROMPT + 1], n = 1;
    SECTION("language");
    n += (int)tokenizer_encode(words, text, sizeof text - 1, 0, ids + 1, PROMPT);
    CHECK(n > 30 && n <= PROMPT + 1, "%d tokens", n);
    back[0] = ids[0];
    for (int i = 1; i < n; i++) back[i] = ids[n - i];
    mla_context *c = context_of(MLA_ISA_AUTO, MLA_ATTN_AUTO, 1);
    const double said = loss(c, MLA_F32, ids, n), reversed = loss(c, MLA_F32, back, n),
                 rounded = loss(c, MLA_BF16, ids, n);
    CHECK(said < 3.2, "plain English costs %g nats a token", said);
    CHECK(reversed > said + 2, "the same backwards costs %g, only %g more", reversed, reversed - said);
    CHECK(fabs(rounded - said) < 0.02, "with a bf16 cache %g instead of %g", rounded, said);
    mla_context_destroy(c);
}

static void test_balance(void) {
    const mla_config *f = mla_model_config(model);
    const int E = f->n_routed_experts;
    int64_t counts[64 * 64];
    int sparse = 0;
    SECTION("load of the experts");
    mla_context *c = context_of(MLA_ISA_AUTO, MLA_ATTN_AUTO, 1);
    memset(counts, 0, sizeof counts);
    feed(c, MLA_F32, PROMPT, PROMPT, tokens, counts);
    mla_context_destroy(c);
    for (int i = 0; i < f->num_hidden_layers; i++) {
        int idle = 0;
        for (int e = 0; e < E; e++) idle += counts[i * E + e] == 0;
        if (!tales->weights.layers[i].moe.experts) continue;
        sparse++;
        CHECK(idle <= E / 4, "layer %d: %d of %d experts see none of %d tokens", i, idle, E, PROMPT);
    }
    CHECK(sparse == f->num_hidden_layers - 1, "%d layers have experts", sparse);
}

int main(void) {
    st_file *f;
    mla_error err;
    if (!CHECK(checkpoint_open(&tales, TALES, &err) == MLA_OK, "%s", err.text)) return test_end();
    if (!CHECK(tokenizer_open(&words, TALES "/tokenizer.json", &err) == MLA_OK, "%s", err.text)) return test_end();
    if (!CHECK(st_open(&f, TALES "/expected.safetensors", &err) == MLA_OK, "%s", err.text)) return test_end();
    if (!CHECK(mla_model_create(&model, &tales->config, &tales->weights, NULL, &err) == MLA_OK, "%s", err.text))
        return test_end();
    V = tales->config.vocab_size;
    CHECK(tokenizer_size(words) <= V, "%d tokens, the model has %d", tokenizer_size(words), V);
    const void *prompt = tensor(f, "tokens", "I64", PROMPT * 8), *greedy = tensor(f, "greedy", "I64", GREEDY * 8);
    want = (const float *)tensor(f, "logits", "F32", (size_t)PROMPT * (size_t)V * 4);
    margins = (const float *)tensor(f, "greedy_margin", "F32", GREEDY * 4);
    for (int i = 0; i < FED; i++) {
        int64_t id;
        memcpy(&id, (const char *)(i < PROMPT ? prompt : greedy) + 8 * (i < PROMPT ? i : i - PROMPT), 8);
        tokens[i] = (int)id;
    }
    logits = (float *)malloc((size_t)FED * (size_t)V * sizeof *logits);
    if (!logits) return 2;
    test_expected();
    test_language();
    test_balance();
    free(logits);
    mla_model_destroy(model), st_close(f), tokenizer_close(words), checkpoint_close(tales);
    return test_end();
}
