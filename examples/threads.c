/* threads.c - your own threads behind mla.h: a pool (threads.h) as the `run` hook of a context, and its team.
   cc -O2 threads.c -lm -pthread
   Runs a small model of random weights with 1, 2 and 5 threads, and checks that every bit of the logits is the same. */
#define _DEFAULT_SOURCE
#define MLA_IMPLEMENTATION
#include "../mla.h"
#define THREADS_IMPLEMENTATION
#include "threads.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- a model of random weights ----------------------------------------------------------------------------------- */

enum {
    VOCAB = 2000,
    D = 512,
    LAYERS = 3,
    H = 8,
    Q = 96,
    R = 128,
    N = 48,
    P = 32,
    V = 48,
    E = 16,
    K = 4,
    I = 160,
    DENSE = 1024
};
enum { PROMPT = 100, STEPS = 20 };

static const mla_config config = {
    .vocab_size = VOCAB,
    .hidden_size = D,
    .num_hidden_layers = LAYERS,
    .intermediate_size = DENSE,
    .num_attention_heads = H,
    .q_lora_rank = Q,
    .kv_lora_rank = R,
    .qk_nope_head_dim = N,
    .qk_rope_head_dim = P,
    .v_head_dim = V,
    .n_routed_experts = E,
    .num_experts_per_tok = K,
    .moe_intermediate_size = I,
    .n_shared_experts = 1,
    .n_group = 4,
    .topk_group = 2,
    .topk_method = MLA_TOPK_NOAUX_TC,
    .scoring_func = MLA_SCORING_SIGMOID,
    .norm_topk_prob = 1,
    .routed_scaling_factor = 2.5f,
};

static float *blocks[64 + 3 * E * LAYERS]; /* all memory of the weights, to be freed at the end */
static int n_blocks;

static void die(const char *text) {
    fprintf(stderr, "threads: %s\n", text);
    exit(1);
}

static mla_tensor tensor(int rows, int cols) {
    static uint32_t seed = 1;
    size_t n = (size_t)rows * (size_t)cols;
    float *data = malloc(n * sizeof *data);
    if (!data) die("out of memory");
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        data[i] = ((float)(seed >> 8) / 16777216.0f - 0.5f) * 0.15f + (rows == 1 ? 1.0f : 0.0f); /* norms near 1 */
    }
    blocks[n_blocks++] = data;
    return mla_view(data, MLA_F32, rows, cols);
}

static mla_linear linear(int rows, int cols) {
    mla_linear w;
    memset(&w, 0, sizeof w);
    w.weight = tensor(rows, cols);
    return w;
}

static mla_mlp_weights mlp(int width) {
    mla_mlp_weights w;
    w.gate = linear(width, D), w.up = linear(width, D), w.down = linear(D, width);
    return w;
}

static void random_weights(mla_weights *w, mla_layer_weights *layers, mla_mlp_weights *experts) {
    memset(w, 0, sizeof *w), memset(layers, 0, sizeof *layers * LAYERS);
    w->embed = tensor(VOCAB, D), w->norm.weight = tensor(1, D), w->layers = layers; /* no head: tied to the embedding */
    for (int i = 0; i < LAYERS; i++, experts += E) {
        mla_layer_weights *l = &layers[i];
        l->attn_norm.weight = tensor(1, D), l->ffn_norm.weight = tensor(1, D);
        l->attn.q_a = linear(Q, D), l->attn.q_norm.weight = tensor(1, Q), l->attn.q_b = linear(H * (N + P), Q);
        l->attn.kv_a = linear(R + P, D), l->attn.kv_norm.weight = tensor(1, R), l->attn.kv_b = linear(H * (N + V), R);
        l->attn.o = linear(D, H * V);
        if (i == 0) {
            l->mlp = mlp(DENSE);
        } else {
            l->moe.router = tensor(E, D), l->moe.shared = mlp(I), l->moe.experts = experts;
            for (int e = 0; e < E; e++) experts[e] = mlp(I);
        }
    }
}

/* ---- the same prompt and steps with any number of threads -------------------------------------------------------- */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void generate(const mla_model *model, int threads, float *logits /* [1 + STEPS, VOCAB] */) {
    thread_pool *pool;
    if (!threads_create(&pool, threads)) die("cannot start threads");
    mla_error error;
    mla_context *context;
    mla_cache *cache;
    mla_context_desc desc = {.threads = threads, .run = threads_run, .run_user = pool};
    desc.team = 1, desc.wait = threads_wait, desc.wake = threads_wake;
    if (mla_context_create(&context, model, &desc, &error)) die(error.text);
    if (mla_cache_create(&cache, model, &(mla_cache_desc){.capacity = PROMPT + STEPS}, &error)) die(error.text);

    int tokens[PROMPT];
    for (int t = 0; t < PROMPT; t++) tokens[t] = t * 77 % VOCAB;
    double seconds[2], start = now();
    for (int step = 0; step <= STEPS; step++) {
        float *row = logits + (size_t)step * VOCAB;
        mla_sequence sequence = {.cache = cache, .n_tokens = step ? 1 : PROMPT, .n_logits = 1};
        mla_outputs out = {.logits = row};
        if (mla_model_forward(context, &sequence, 1, tokens, &out)) die(mla_context_error(context)->text);
        tokens[0] = 0;
        for (int v = 1; v < VOCAB; v++)
            if (row[v] > row[tokens[0]]) tokens[0] = v;
        if (step == 0) seconds[0] = now() - start, start = now();
    }
    seconds[1] = now() - start;
    printf("%d thread%s  prompt of %d tokens %7.2f ms   one more token %6.3f ms\n", threads,
           threads == 1 ? ": " : "s:", PROMPT, 1e3 * seconds[0], 1e3 * seconds[1] / STEPS);
    mla_cache_destroy(cache), mla_context_destroy(context);
    threads_destroy(pool);
}

int main(void) {
    static mla_mlp_weights experts[E * LAYERS];
    static float logits[2][(1 + STEPS) * VOCAB];
    static const int counts[] = {1, 2, 5};
    mla_layer_weights layers[LAYERS];
    mla_weights weights;
    mla_model *model;
    mla_error error;
    int same = 1;
    random_weights(&weights, layers, experts);
    if (mla_model_create(&model, &config, &weights, NULL, &error)) die(error.text);
    for (int i = 0; i < 3; i++) {
        generate(model, counts[i], logits[i > 0]);
        if (i > 0 && memcmp(logits[0], logits[1], sizeof logits[0])) {
            same = 0;
            printf("the logits with %d threads are different\n", counts[i]);
        }
    }
    mla_model_destroy(model);
    while (n_blocks > 0) free(blocks[--n_blocks]);
    if (same) puts("all logits are the same, bit for bit");
    if (fflush(stdout) || ferror(stdout)) die("cannot write to stdout");
    return !same;
}
