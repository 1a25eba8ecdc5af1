/* use.c - uses what impl.c implements, from another translation unit, with the reference, which needs no more; C99 and
   C++11. Exit status 0: all is well. */
#define MLA_REFERENCE
#include "mla.h"
#include "checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { D = 16, H = 2, R = 8, N = 4, P = 4, V = 4, F = 8, VOCAB = 10, T = 5 };

static float numbers[1024];

static mla_tensor tensor(int rows, int cols) { return mla_view(numbers + rows + cols, MLA_F32, rows, cols); }

static int fail(const char *what, const char *text) {
    printf("%s: %s\n", what, text);
    return 1;
}

#ifdef WITH_PRIVATE_COPY
int private_scalar(void); /* private.c */
#else
static int private_scalar(void) { return 1; }
#endif

int main(void) {
    mla_config c;
    mla_weights w;
    mla_layer_weights layer;
    mla_context_desc xd;
    mla_cache_desc kd;
    mla_outputs out;
    mla_sequence s;
    mla_error e;
    mla_model *m = NULL;
    mla_context *x[2] = {NULL, NULL};
    mla_cache *k = NULL;
    json_value *json = NULL;
    float logits[2][VOCAB];
    const int tokens[T] = {1, 2, 3, 4, 5};
    for (int i = 0; i < 1024; i++) numbers[i] = (float)((i * 37) % 101 - 50) / 100;
    memset(&c, 0, sizeof c);
    memset(&w, 0, sizeof w);
    memset(&layer, 0, sizeof layer);
    c.vocab_size = VOCAB, c.hidden_size = D, c.num_hidden_layers = 1, c.intermediate_size = F,
    c.num_attention_heads = H;
    c.kv_lora_rank = R, c.qk_nope_head_dim = N, c.qk_rope_head_dim = P, c.v_head_dim = V;
    layer.attn.q.weight = tensor(H * (N + P), D), layer.attn.kv_a.weight = tensor(R + P, D),
    layer.attn.kv_b.weight = tensor(H * (N + V), R);
    layer.attn.o.weight = tensor(D, H * V), layer.attn.kv_norm.weight = tensor(1, R);
    layer.attn_norm.weight = tensor(1, D), layer.ffn_norm.weight = tensor(1, D);
    layer.mlp.gate.weight = tensor(F, D), layer.mlp.up.weight = tensor(F, D), layer.mlp.down.weight = tensor(D, F);
    w.embed = tensor(VOCAB, D), w.norm.weight = tensor(1, D), w.layers = &layer;
    if (mla_model_create(&m, &c, &w, NULL, &e) != MLA_OK) return fail("mla_model_create", e.text);
    memset(&kd, 0, sizeof kd);
    kd.capacity = T;
    if (mla_cache_create(&k, m, &kd, &e) != MLA_OK) return fail("mla_cache_create", e.text);
    for (int i = 0; i < 2; i++) {
        memset(&xd, 0, sizeof xd);
        xd.isa = i ? MLA_ISA_AUTO : MLA_ISA_SCALAR, xd.threads = 1 + i;
        if (mla_context_create(&x[i], m, &xd, &e) != MLA_OK) return fail("mla_context_create", e.text);
        memset(&s, 0, sizeof s);
        memset(&out, 0, sizeof out);
        s.cache = k, s.n_tokens = T, s.n_logits = 1;
        out.logits = logits[i];
        mla_cache_reset(k);
        if (mla_model_forward(x[i], &s, 1, tokens, &out) != MLA_OK)
            return fail("mla_model_forward", mla_context_error(x[i])->text);
        mla_context_destroy(x[i]);
    }
    for (int i = 0; i < VOCAB; i++)
        if (!(fabsf(logits[0][i] - logits[1][i]) < 1e-4f)) return fail("scalar and automatic isa", "other logits");
    mla_cache_destroy(k);
    mla_model_destroy(m);
    if (json_parse("[1]", 3, &json, &e) != MLA_OK || json_count(json) != 1) return fail("json_parse", e.text);
    json_free(json);
    if (!private_scalar()) return fail("private copy", "no scalar kernels");
    return 0;
}
