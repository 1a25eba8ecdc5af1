/* What build/inspect shows, from single calls of the API: api MODEL DIRECTORY ID... runs mla_model_forward on all
   tokens at once and writes what it gives as arrays; the lens by plain loops; the router without its bias by a model
   without. */
#include "checkpoint.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static checkpoint *c;
static mla_model *model;
static const mla_config *f;
static const char *directory;
static int *ids, T;
static mla_error error;

static void must(mla_result result, const mla_error *e) {
    if (result) fprintf(stderr, "%s\n", e->text), exit(1);
}
static void *room(int a, int b, int n) { return calloc((size_t)a * (size_t)b + 1, (size_t)n * 4); }
static void save(const char *name, const void *data, int a, int b, int n) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    const size_t size = (size_t)a * (size_t)b * (size_t)n;
    if (!file || fwrite(data, 4, size, file) != size || fclose(file)) exit(1);
}

/* The norm and the head on a state [D] in double -> z [vocab_size] */
static void lens(float *z, const float *x) {
    const mla_tensor *w = c->weights.head.data ? &c->weights.head : &c->weights.embed;
    const int D = f->hidden_size;
    static float *head;
    double square = 0;
    const int n = head ? 0 : f->vocab_size * D;
    if (!head) head = room(f->vocab_size, D, 1);
    for (int i = 0; i < n; i++) head[i] = mla_weight(w, i / D, i % D) * mla_weight(&c->weights.norm.weight, 0, i % D);
    for (int i = 0; i < D; i++) square += (double)x[i] * (double)x[i] / D;
    for (int v = 0; v < f->vocab_size; v++) {
        double sum = 0;
        for (int i = 0; i < D; i++) sum += (double)head[v * D + i] * (double)x[i];
        z[v] = (float)(sum / sqrt(square + (double)f->block_norm.eps) * (double)f->logits_scale);
    }
}

/* The same of several residual streams, by the library. */
static void several(mla_context *x, mla_cache *k, float *z, const float *state) {
    const int L = f->num_hidden_layers;
    const mla_sequence s = {.cache = k, .n_tokens = 1, .n_logits = 1, .embeddings = state};
    must(mla_layers_forward(x, L, L, &s, 1, NULL, &(mla_outputs){.logits = z}), mla_context_error(x));
}

/* The tokens of each expert of the first layer with experts, of a model whose router has no bias there. */
static void without_bias(void) {
    mla_weights w = c->weights;
    const int n = f->num_hidden_layers + f->num_nextn_predict_layers, E = f->n_routed_experts + f->zero_expert_num;
    mla_layer_weights *layers = malloc((size_t)n * sizeof *layers);
    int64_t *counts = calloc((size_t)(f->num_hidden_layers * E), sizeof *counts);
    int first = 0;
    while (first < f->num_hidden_layers && !w.layers[first].moe.experts) first++;
    if (first < f->num_hidden_layers) {
        mla_context *x;
        mla_cache *k;
        mla_model *other;
        memcpy(layers, w.layers, (size_t)n * sizeof *layers);
        layers[first].moe.router_bias.data = NULL, w.layers = layers;
        must(mla_model_create(&other, &c->config, &w, NULL, &error), &error);
        must(mla_context_create(&x, other, &(mla_context_desc){.max_tokens = T, .activations = MLA_ACT_F32}, &error),
             &error);
        must(mla_cache_create(&k, other, &(mla_cache_desc){.capacity = T}, &error), &error);
        must(mla_model_forward(x, &(mla_sequence){.cache = k, .n_tokens = T}, 1, ids,
                               &(mla_outputs){.expert_counts = counts}),
             mla_context_error(x));
        int *list = room(E, 1, 1);
        for (int e = 0; e < E; e++) list[e] = (int)counts[first * E + e];
        save("plain.i32", list, E, 1, 1);
        free(list), mla_cache_destroy(k), mla_context_destroy(x), mla_model_destroy(other);
    }
    free(layers), free(counts);
}

static void run(void) {
    const int L = f->num_hidden_layers, H = f->num_attention_heads, K = f->num_experts_per_tok, D = f->hidden_size,
              V = f->vocab_size, R = f->kv_lora_rank, M = f->num_nextn_predict_layers;
    mla_context *x;
    mla_cache *k;
    float *probs = room(L * H, T * T, 1), *logits = room(T, V, 1), *weight = room(L * T, K, 1), *z = room(L + 1, T, V),
          **hidden = calloc((size_t)L + 1, sizeof *hidden), *state = room(T, D, 1), *latent = room(L, T, R),
          *row = room(1, R + f->qk_rope_head_dim + f->index_head_dim, 1);
    int *index = room(L * T, K, 1), *next = room(T, 1, 1), *guess = room(M, T, 1);
    const mla_context_desc how = {.max_tokens = T, .activations = MLA_ACT_F32, .attn = MLA_ATTN_NAIVE};
    for (int i = 0; i <= L; i++) hidden[i] = room(T, D, f->hc_mult);
    must(mla_context_create(&x, model, &how, &error), &error);
    must(mla_cache_create(&k, model, &(mla_cache_desc){.capacity = T}, &error), &error);
    const mla_sequence s = {.cache = k, .n_tokens = T, .n_logits = T, .probs = probs};
    must(mla_model_forward(x, &s, 1, ids, &(mla_outputs){logits, hidden, NULL, index, weight}), mla_context_error(x));
    for (int i = T * f->hc_mult - 1; i >= 0; i--) /* of embeddings one stream is given */
        memmove(hidden[0] + i * D, hidden[0] + i / f->hc_mult * D, (size_t)D * 4);
    for (int i = 0; i < (L + 1) * T; i++)
        if (i < L * T && f->hc_mult > 1)
            several(x, k, z + (size_t)i * (size_t)V, hidden[i / T] + i % T * D * f->hc_mult);
        else if (i < L * T) lens(z + (size_t)i * (size_t)V, hidden[i / T] + i % T * D);
        else memcpy(z + (size_t)i * (size_t)V, logits + (size_t)(i % T) * (size_t)V, (size_t)V * 4);
    for (int i = 0; i < L * T; i++) {
        if (!c->weights.layers[i / T].attn.kv_a.weight.data) continue;
        must(mla_cache_read(k, i / T, i % T, row, &error), &error);
        memcpy(latent + i * R, row, (size_t)R * 4);
    }
    for (int d = 0; d < M; d++) { /* what comes after the text is of no interest here: 0 */
        float *out[2] = {NULL, state};
        const mla_sequence again = {.cache = k, .n_tokens = T, .n_logits = T};
        for (int i = 0; i < T; i++) next[i] = i + 1 + d < T ? ids[i + 1 + d] : 0;
        must(mla_mtp_forward(x, d, &again, 1, next, hidden[L], &(mla_outputs){logits, out, NULL, NULL, NULL}),
             mla_context_error(x));
        for (int i = 0; i < T; i++)
            for (int v = 0; v < V; v++)
                if (logits[(size_t)i * (size_t)V + (size_t)v] >
                    logits[(size_t)i * (size_t)V + (size_t)guess[d * T + i]])
                    guess[d * T + i] = v;
        memcpy(hidden[L], state, (size_t)(T * D) * 4);
    }
    save("maps.f32", probs, L * H, T, T), save("lens.f32", z, L + 1, T, V), save("expert.i32", index, L, T, K);
    save("weight.f32", weight, L, T, K), save("latent.f32", latent, L, T, R), save("guess.i32", guess, M, T, 1);
    printf("{\"L\":%d,\"H\":%d,\"K\":%d,\"V\":%d,\"R\":%d,\"M\":%d,\"E\":%d,\"moe\":[", L, H, K, V, R, M,
           f->n_routed_experts + f->zero_expert_num);
    for (int i = 0; i < L; i++) printf("%s%d", i ? "," : "", c->weights.layers[i].moe.experts != NULL);
    printf("],\"maps\":[");
    for (int i = 0; i < L; i++) printf("%s%d", i ? "," : "", c->weights.layers[i].attn.kv_a.weight.data != NULL);
    puts("]}");
    for (int i = 0; i <= L; i++) free(hidden[i]);
    free(probs), free(logits), free(weight), free(z), free(hidden), free(state), free(latent), free(row), free(index);
    free(next), free(guess), mla_cache_destroy(k), mla_context_destroy(x);
}

int main(int argc, char **argv) {
    const checkpoint_options how = {.mtp = 1};
    if (argc < 4) return 2;
    directory = argv[2], T = argc - 3, ids = room(T, 1, 1);
    for (int i = 0; i < T; i++) ids[i] = atoi(argv[3 + i]);
    must(checkpoint_open_with(&c, argv[1], &how, &error), &error);
    must(mla_model_create(&model, &c->config, &c->weights, NULL, &error), &error);
    f = mla_model_config(model);
    run(), without_bias();
    mla_model_destroy(model), checkpoint_close(c), free(ids);
    return 0;
}
