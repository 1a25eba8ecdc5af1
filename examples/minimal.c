/* minimal.c - one MLA layer and one MoE layer on random weights.
   cc -O2 minimal.c -lm */
#define MLA_IMPLEMENTATION
#include "../mla.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { D = 256, H = 8, R = 64, N = 32, P = 16, V = 32, E = 16, K = 4, I = 96, T = 40 };

static void must(mla_result result, const char *text) {
    if (result) puts(text), exit(1);
}

static float rand_normal(void) { /* near enough: 12 uniforms */
    float sum = -6;
    for (int i = 0; i < 12; i++) sum += (float)rand() / (float)RAND_MAX;
    return sum;
}

static mla_tensor rand_tensor(int rows, int cols) {
    static float memory[1 << 21], *next = memory;
    float *data = next;
    for (int i = 0; i < rows * cols; i++) *next++ = rand_normal() / sqrtf((float)cols);
    return mla_view(data, MLA_F32, rows, cols);
}

static mla_mlp_weights rand_mlp(int width) {
    return (mla_mlp_weights){.gate = {.weight = rand_tensor(width, D)},
                             .up = {.weight = rand_tensor(width, D)},
                             .down = {.weight = rand_tensor(D, width)}};
}

int main(void) {
    mla_config config = {.hidden_size = D,
                         .num_hidden_layers = 1,
                         .num_attention_heads = H,
                         .kv_lora_rank = R,
                         .qk_nope_head_dim = N,
                         .qk_rope_head_dim = P,
                         .v_head_dim = V,
                         .n_routed_experts = E,
                         .num_experts_per_tok = K,
                         .moe_intermediate_size = I,
                         .n_shared_experts = 1};
    mla_mlp_weights experts[E];
    mla_layer_weights layer = {.attn = {.q = {.weight = rand_tensor(H * (N + P), D)},
                                        .kv_a = {.weight = rand_tensor(R + P, D)},
                                        .kv_b = {.weight = rand_tensor(H * (N + V), R)},
                                        .o = {.weight = rand_tensor(D, H * V)},
                                        .kv_norm = {.weight = rand_tensor(1, R)}},
                               .moe = {.router = rand_tensor(E, D), .experts = experts, .shared = rand_mlp(I)}};
    mla_weights weights = {.layers = &layer};
    for (int e = 0; e < E; e++) experts[e] = rand_mlp(I);

    static float x[T * D],
        y[3][T * D]; /* attention's answer by the naive path and by the absorbed one; then the experts' */
    for (int i = 0; i < T * D; i++) x[i] = rand_normal();

    mla_model *model;
    mla_error error;
    must(mla_model_create(&model, &config, &weights, NULL, &error), error.text);
    for (int path = 0; path < 2; path++) {
        mla_context_desc desc = {.attn = path ? MLA_ATTN_ABSORBED : MLA_ATTN_NAIVE};
        mla_context *context;
        mla_cache *cache;
        must(mla_context_create(&context, model, &desc, &error), error.text);
        must(mla_cache_create(&cache, model, &(mla_cache_desc){.capacity = T}, &error), error.text);
        for (int t = 0, n; t < T; t += n) { /* a prompt of T - 3 tokens, then one token at a time */
            mla_sequence sequence = {.cache = cache, .n_tokens = n = t ? 1 : T - 3};
            must(mla_attn_forward(context, 0, y[path] + t * D, x + t * D, &sequence, 1),
                 mla_context_error(context)->text);
        }
        int64_t counts[E] = {0};
        mla_routing routing = {.counts = counts};
        must(mla_moe_forward(context, 0, y[2], y[path], T, &routing), mla_context_error(context)->text);
        printf("%s attention on %d tokens, then %d of %d experts each; tokens per expert:", path ? "absorbed" : "naive",
               T, K, E);
        for (int e = 0; e < E; e++) printf(" %d", (int)counts[e]);
        puts("");
        mla_cache_destroy(cache), mla_context_destroy(context);
    }
    mla_model_destroy(model);

    double apart = 0, size = 0;
    for (int i = 0; i < T * D; i++) apart += pow(y[0][i] - y[1][i], 2), size += pow(y[0][i], 2);
    int same = sqrt(apart / size) < 1e-5;
    printf("naive and absorbed attention differ by %.1e: %s\n", sqrt(apart / size),
           same ? "the same function" : "WRONG");
    if (fflush(stdout) || ferror(stdout)) return perror("minimal: cannot write to stdout"), 1;
    return !same;
}
