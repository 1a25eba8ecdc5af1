/* layer.c - one attention layer of PyTorch's, from a safetensors state_dict: x in, y and the attention map out.
   make build/layer; build/layer layer.safetensors heads=4 eps=1e-6 q=wq.weight kv_a=wkv_a.weight kv_b=wkv_b.weight \
     kv_norm=kv_norm.weight kv_norm.bias=kv_norm.bias o=wo.weight x=x y=y        (also q_a, q_b, q_norm, scale, theta)
     >layer.f32       which is y [T, D] and the map [T, heads, T]. Says how far y is off. Such a file, all F32, is from
   import torch; from torch import nn, cat; from safetensors.torch import save_file
   D, H, R, N, P, V, T = 64, 4, 32, 16, 8, 16, 10  # width, heads, latent, and of a head: key, rotated key, value
   class MLA(nn.Module):
       def __init__(s):
           super().__init__(); s.kv_norm, L = nn.LayerNorm(R, eps=1e-6), lambda i, o: nn.Linear(i, o, bias=False)
           s.wq, s.wkv_a, s.wkv_b, s.wo = L(D, H * (N + P)), L(D, R + P), L(R, H * (N + V)), L(H * V, D)
       def rope(s, x):  # [T, heads, P]: neighbours turn together
           a = torch.exp(1j * torch.arange(T)[:, None, None] * 10000 ** (-torch.arange(0, P, 2) / P))
           return torch.view_as_real(torch.view_as_complex(x.reshape(T, -1, P // 2, 2)) * a).flatten(2)
       def forward(s, x):
           q, (c, kr) = s.wq(x).view(T, H, N + P), s.wkv_a(x).split([R, P], -1)
           k, v = s.wkv_b(s.kv_norm(c)).view(T, H, N + V).split([N, V], -1)
           q, k = cat([q[..., :N], s.rope(q[..., N:])], -1), cat([k, s.rope(kr[:, None]).expand(T, H, P)], -1)
           score = torch.einsum('thd,uhd->htu', q, k) * (N + P) ** -.5 + torch.full((T, T), -torch.inf).triu(1)
           return s.wo(torch.einsum('htu,uhv->thv', score.softmax(-1), v).flatten(1))
   m, x = MLA().requires_grad_(False), torch.randn(T, D)
   save_file(dict(m.state_dict(), x=x, y=m(x)), 'layer.safetensors') */
#define MLA_IMPLEMENTATION
#include "../mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "checkpoint.h"
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { X, Y, Q, Q_A, Q_B, KV_A, KV_B, O, Q_NORM, KV_NORM, PARTS, HEADS = PARTS, EPS, SCALE, THETA, KEYS };
static const char *const keys[KEYS] = {"x", "y",      "q",       "q_a",   "q_b", "kv_a",  "kv_b",
                                       "o", "q_norm", "kv_norm", "heads", "eps", "scale", "theta"};
static void must(int fine, const char *what, const char *why) {
    if (!fine) fprintf(stderr, "layer: %s%s\n", what, why), exit(1);
}
int main(int argc, char **argv) {
    mla_linear p[PARTS] = {{.weight = {.data = NULL}}}; /* norms are weight and bias, too */
    float number[KEYS] = {0}, off = 0;
    mla_error e = {.text = "usage: layer FILE KEY=VALUE..."};
    st_file *in;
    mla_model *m;
    mla_context *c;
    mla_cache *cache;
    must(argc > 2 && !st_open(&in, argv[1], &e), e.text, "");
    for (int i = 2, k = 0; i < argc; i++, k = 0) {
        const size_t n = strcspn(argv[i], ".="), bias = !strncmp(argv[i] + n, ".bias=", 6);
        while (k < KEYS && (strlen(keys[k]) != n || memcmp(keys[k], argv[i], n))) k++;
        must(k < KEYS && ((bias && k < PARTS && k != X && k != Y) || argv[i][n] == '='), argv[i],
             ": not one of the keys");
        if (k >= PARTS) {
            char *end = argv[i] + n + 1;
            number[k] = isspace((unsigned char)*end) ? NAN : strtof(end, &end);
            must(isfinite(number[k]) && !*end && end[-1] != '=', argv[i], ": not a number");
            must(number[k] > 0 || k == HEADS, argv[i], ": not above 0 as F32");
            must(k != HEADS || (number[k] == roundf(number[k]) && number[k] >= 1 && number[k] < 65536), argv[i],
                 ": not an integer from 1 to 65535");
            continue;
        }
        const st_tensor *t = st_find(in, strchr(argv[i], '=') + 1);
        must(t != NULL, argv[i], ": the file has no such tensor");
        must(t->bytes && (t->n_dims == 1 || t->n_dims == 2) && !strcmp(t->dtype, "F32"), argv[i], ": not F32");
        must(t->n_dims == 2 || (k != X && k != Y), argv[i], ": not of the shape [tokens, width]");
        const int cols = (int)t->dims[t->n_dims - 1];
        *(bias ? &p[k].bias : &p[k].weight) = mla_view(t->data, MLA_F32, (int)(t->bytes / 4) / cols, cols);
    }
    const int H = (int)number[HEADS], D = p[X].weight.cols, T = p[X].weight.rows, R = p[KV_B].weight.cols;
    const int width = p[KV_A].weight.cols, y_is = p[Y].weight.data != NULL;
    must(H > 0, "heads", " is missing"), must(T > 0, "x", " is missing");
    must(!width || D == width, "x", ": not as wide as kv_a");
    must(!y_is || (p[Y].weight.rows == T && p[Y].weight.cols == D), "y", ": not of the shape of x");
    const int P = p[KV_A].weight.rows - R, N = (p[Q].weight.rows + p[Q_B].weight.rows) / H - P;
    mla_config f = {.num_hidden_layers = 1, .softmax_scale = number[SCALE], .rope = {.theta = number[THETA]}};
    f.hidden_size = D, f.num_attention_heads = H, f.q_lora_rank = p[Q_A].weight.rows, f.kv_lora_rank = R;
    f.qk_nope_head_dim = N, f.qk_rope_head_dim = P, f.v_head_dim = p[KV_B].weight.rows / H - N;
    f.q_norm = (mla_norm){p[Q_NORM].bias.data ? MLA_NORM_LAYER : MLA_NORM_RMS, number[EPS]};
    f.kv_norm = (mla_norm){p[KV_NORM].bias.data ? MLA_NORM_LAYER : MLA_NORM_RMS, number[EPS]};
    mla_layer_weights w = {.attn = {p[Q], p[Q_A], p[Q_B], p[KV_A], p[KV_B], .o = p[O]}};
    w.attn.q_norm.weight = p[Q_NORM].weight, w.attn.q_norm.bias = p[Q_NORM].bias;
    w.attn.kv_norm.weight = p[KV_NORM].weight, w.attn.kv_norm.bias = p[KV_NORM].bias;
    must(!mla_model_create(&m, &f, &(mla_weights){.layers = &w}, NULL, &e), e.text, "");
    must(!mla_context_create(&c, m, &(mla_context_desc){.max_tokens = T}, &e), e.text, "");
    must(!mla_cache_create(&cache, m, &(mla_cache_desc){.capacity = T}, &e), e.text, "");
    const size_t n = (size_t)(T * D), pairs = (size_t)(T * H * T);
    float *x = malloc(n * 4), *y = malloc(n * 4), *map = malloc(pairs * 4);
    must(x && y && map, "out of memory", ""), memcpy(x, p[X].weight.data, n * 4);
    must(!mla_attn_forward(c, 0, y, x, &(mla_sequence){cache, T, .probs = map}, 1), mla_context_error(c)->text, "");
    must(fwrite(y, 4, n, stdout) == n && fwrite(map, 4, pairs, stdout) == pairs && !fflush(stdout), "no output", "");
    for (int i = 0; i < T * D && isfinite(off); i++) { /* fmaxf would pass over NaN */
        must(isfinite(y[i]), "y", " is not finite");
        const float d = y_is ? fabsf(y[i] - mla_weight(&p[Y].weight, i / D, i % D)) : 0;
        off = d <= off ? off : d;
    }
    must(isfinite(off), "the y of the file", " is not finite");
    if (y_is) fprintf(stderr, "y is off by at most %.2g\n", (double)off);
    free(x), free(y), free(map), st_close(in), mla_cache_destroy(cache), mla_context_destroy(c), mla_model_destroy(m);
}
