/* logits.h - what tests of files ask of a checkpoint. */
#ifndef TEST_LOGITS_H
#define TEST_LOGITS_H

static void *need(void *p) {
    if (!p) printf("out of memory in the test\n"), exit(2);
    return p;
}

/* Logits of n tokens; the caller frees them. */
static float *run(const checkpoint *c, const int *tokens, int n, const char *what) {
    mla_error e;
    mla_model *m;
    mla_context *x;
    mla_cache *k;
    const mla_context_desc d = {.max_tokens = n, .threads = 1, .activations = MLA_ACT_F32};
    const mla_cache_desc cd = {.capacity = n};
    float *logits = (float *)need(calloc((size_t)n * (size_t)c->config.vocab_size, sizeof *logits));
    const mla_outputs out = {.logits = logits};
    if (!CHECK(mla_model_create(&m, &c->config, &c->weights, NULL, &e) == MLA_OK, "%s: %s", what, e.text))
        return logits;
    if (mla_context_create(&x, m, &d, &e) || mla_cache_create(&k, m, &cd, &e)) printf("%s\n", e.text), exit(2);
    const mla_sequence s = {.cache = k, .n_tokens = n, .n_logits = n};
    CHECK(mla_model_forward(x, &s, 1, tokens, &out) == MLA_OK, "%s: %s", what, mla_context_error(x)->text);
    mla_cache_destroy(k), mla_context_destroy(x), mla_model_destroy(m);
    return logits;
}
#endif
