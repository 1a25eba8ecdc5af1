/* test_modules.c - single PyTorch modules (tests/fixtures/modules, reference/models.md section 4): DeepSeek's own MLA
   and MoE, and two other codebases that put biases, LayerNorm or DyT where DeepSeek has none. Each is a model of one
   layer that has attention or experts only. Run from the repository root. test_modules --report prints the largest
   error of each file. An error is relative to the largest value of the reference. */

#define MLA_IMPLEMENTATION
#define MLA_REFERENCE
#include "guard.h"
#include "mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "examples/checkpoint.h"
#include "test.h"

#include <dirent.h>
#include <stdlib.h>

enum { MAX_EXPERTS = 16, PATHS = 2 };

static const float bound = 1e-5f;
static const float reference_bound = 2e-6f; /* what the files, which are in float32, are off themselves */

static const mla_attn_path paths[PATHS] = {MLA_ATTN_NAIVE, MLA_ATTN_ABSORBED};
static const char *const path_names[PATHS] = {"naive", "absorbed"};

/* ---- one file ---------------------------------------------------------------------------------------------------- */

typedef struct module {
    const char *name;
    st_file *file;
    json_value *about;
    mla_config config;
    mla_layer_weights layer;
    mla_mlp_weights experts[MAX_EXPERTS];
    mla_model *model;
    float worst, worst_reference;
    void *memory[16]; /* freed with the module */
    int n_memory;
} module;

static void *keep(module *m, size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size);
    if (!p || m->n_memory == (int)(sizeof m->memory / sizeof *m->memory)) {
        puts("out of memory");
        exit(2);
    }
    return m->memory[m->n_memory++] = p;
}

static int module_open(module *m, const char *name) {
    char path[256];
    mla_error err;
    const char *about;
    memset(m, 0, sizeof *m);
    m->name = name;
    snprintf(path, sizeof path, "tests/fixtures/modules/%s.safetensors", name);
    if (!CHECK(st_open(&m->file, path, &err) == MLA_OK, "%s: %s", name, err.text)) return 0;
    if (!CHECK((about = st_metadata(m->file, "about")) != NULL, "%s: no metadata", name)) return 0;
    if (!CHECK(json_parse(about, strlen(about), &m->about, &err) == MLA_OK, "%s: %s", name, err.text)) return 0;
    m->config.num_hidden_layers = 1;
    return 1;
}

static void module_close(module *m) {
    mla_model_destroy(m->model);
    json_free(m->about);
    st_close(m->file);
    while (m->n_memory) free(m->memory[--m->n_memory]);
}

static int number(const module *m, const char *key) { /* a size that the file must state */
    int64_t v = -1;
    CHECK(json_integer(json_get(m->about, key), &v) && v >= 0 && v < 1000, "%s: metadata has no %s", m->name, key);
    return (int)v;
}

static float real(const module *m, const char *key) {
    const json_value *v = json_get(m->about, key);
    CHECK(json_typeof(v) == JSON_NUMBER, "%s: metadata has no %s", m->name, key);
    return (float)json_number(v);
}

static const char *text(const module *m, const char *key) {
    const char *s = json_string(json_get(m->about, key), NULL);
    return s ? s : "";
}

/* The F32 tensor of this name and number of elements; NULL if there is none and it may be absent. */
static const void *tensor(const module *m, const char *name, int64_t n, int needed) {
    const st_tensor *t = st_find(m->file, name);
    if (!t && !needed) return NULL;
    int fits = CHECK(t && !strcmp(t->dtype, "F32") && t->bytes == (size_t)n * sizeof(float),
                     "%s: %s: missing or not F32 of %d elements", m->name, name, (int)n);
    return fits ? t->data : NULL;
}

/* A reference: a copy of the tensor, which must have this shape, be finite and not zero. */
static float *wanted(module *m, const char *name, int n_dims, int d0, int d1, int d2, int d3) {
    const int dims[4] = {d0, d1, d2, d3};
    const st_tensor *t = st_find(m->file, name);
    int64_t n = 1;
    int fits = t && t->n_dims == n_dims;
    for (int i = 0; i < n_dims; i++) {
        fits = fits && t->dims[i] == dims[i];
        n *= dims[i];
    }
    CHECK(fits, "%s: %s: missing or misshapen", m->name, name);
    float *x = (float *)keep(m, (size_t)n, sizeof *x), largest;
    const void *data = fits ? tensor(m, name, n, 1) : NULL;
    if (data) memcpy(x, data, (size_t)n * sizeof *x);
    largest = test_max_abs(x, (size_t)n);
    CHECK(largest > 1e-3f && largest < 1e4f, "%s: %s: largest value %g", m->name, name, (double)largest);
    return x;
}

static mla_tensor matrix(const module *m, const char *part, const char *suffix, int rows, int cols, int needed) {
    char name[96];
    snprintf(name, sizeof name, "weight.%s.%s", part, suffix);
    return mla_view(tensor(m, name, (int64_t)rows * cols, needed), MLA_F32, rows, cols);
}

static mla_linear linear(const module *m, const char *part, int out, int in, int bias) {
    mla_linear l;
    memset(&l, 0, sizeof l);
    l.weight = matrix(m, part, "weight", out, in, 1);
    if (bias) l.bias = matrix(m, part, "bias", 1, out, 1);
    return l;
}

static mla_norm_weights norm(const module *m, const char *part, int n, mla_norm_kind kind) {
    mla_norm_weights w;
    memset(&w, 0, sizeof w);
    w.weight = matrix(m, part, "weight", 1, n, 1);
    if (kind != MLA_NORM_RMS) w.bias = matrix(m, part, "bias", 1, n, 1);
    if (kind == MLA_NORM_DYT) w.alpha = matrix(m, part, "alpha", 1, 1, 1);
    return w;
}

static int make_model(module *m) {
    mla_weights weights;
    mla_error err;
    memset(&weights, 0, sizeof weights);
    weights.layers = &m->layer;
    return CHECK(mla_model_create(&m->model, &m->config, &weights, NULL, &err) == MLA_OK, "%s: %s", m->name, err.text);
}

static void check_scale(const module *m, double want) {
    double got = (double)mla_model_config(m->model)->softmax_scale;
    CHECK(fabs(got - want) < 1e-6 * want, "%s: softmax scale %.9g, not %.9g", m->name, got, want);
}

/* got against want; the largest error of the file is remembered. */
static void compare(module *m, const char *what, const char *how, const float *got, const float *want, int64_t n) {
    float e = test_rel_err(got, want, (size_t)n);
    CHECK(e <= bound, "%s: %s, %s: off by %.2e", m->name, how, what, (double)e);
    if (!(e <= m->worst)) m->worst = e;
}

/* The same for the reference of mla.h. */
static void compare_reference(module *m, const char *what, const double *got, const float *want, int64_t n) {
    float *x = (float *)calloc((size_t)n, sizeof *x);
    if (!x) exit(2);
    for (int64_t i = 0; i < n; i++) x[i] = (float)got[i];
    const float e = test_rel_err(x, want, (size_t)n);
    CHECK(e <= reference_bound, "%s: the reference's %s is off by %.2e", m->name, what, (double)e);
    if (!(e <= m->worst_reference)) m->worst_reference = e;
    free(x);
}

/* ---- attention --------------------------------------------------------------------------------------------------- */

/* What a module returned for x [B, n, D]. */
typedef struct expected {
    int B, n;
    const float *x;
    const float *y[PATHS];        /* [B, n, D], by path */
    const float *probs;           /* [B, n, H, n] or NULL */
    const float *latent, *k_rope; /* [B, n, R], [B, n, P] or NULL */
} expected;

/* The first `first` tokens of every sequence in one call of all sequences, then `step` tokens of each in every further
 * call. */
static void run_attention(module *m, const expected *e, mla_isa isa, int path, int threads, int first, int step) {
    const int B = e->B, n = e->n, D = m->config.hidden_size, H = m->config.num_attention_heads,
              R = m->config.kv_lora_rank;
    const int P = m->config.qk_rope_head_dim;
    const mla_context_desc desc = {.threads = threads, .isa = isa, .attn = paths[path]};
    const mla_cache_desc cache_desc = {.capacity = n};
    mla_context *context = NULL;
    mla_cache *cache[2] = {NULL, NULL};
    mla_error err;
    char how[80];
    snprintf(how, sizeof how, "%s %s, %d threads, %d tokens then %d at a time", mla_isa_name(isa), path_names[path],
             threads, first, step);
    int ok =
        CHECK(B <= 2 && mla_context_create(&context, m->model, &desc, &err) == MLA_OK, "%s: %s", m->name, err.text);
    for (int b = 0; ok && b < B; b++)
        ok = CHECK(mla_cache_create(&cache[b], m->model, &cache_desc, &err) == MLA_OK, "%s: %s", m->name, err.text);
    float *in = (float *)calloc((size_t)(B * n * D), sizeof *in),
          *out = (float *)calloc((size_t)(B * n * D), sizeof *out);
    float *y = (float *)calloc((size_t)(B * n * D), sizeof *y),
          *probs = (float *)calloc((size_t)(B * n * H * n), sizeof *probs);
    float *all_probs = (float *)calloc((size_t)(B * n * H * n), sizeof *all_probs),
          *row = (float *)calloc((size_t)(R + P), sizeof *row);
    if (!in || !out || !y || !probs || !all_probs || !row) exit(2);
    for (int t = 0, k; ok && t < n; t += k) {
        mla_sequence seq[2];
        k = t == 0 ? first : step;
        if (k > n - t) k = n - t;
        memset(seq, 0, sizeof seq);
        for (int b = 0; b < B; b++) {
            seq[b].cache = cache[b], seq[b].n_tokens = k, seq[b].probs = e->probs ? probs + b * n * H * n : NULL;
            memcpy(in + b * k * D, e->x + (b * n + t) * D, (size_t)(k * D) * sizeof *in);
        }
        ok = CHECK(mla_attn_forward(context, 0, out, in, seq, B) == MLA_OK, "%s: %s: %s", m->name, how,
                   mla_context_error(context)->text);
        for (int b = 0; ok && b < B; b++) {
            memcpy(y + (b * n + t) * D, out + b * k * D, (size_t)(k * D) * sizeof *y);
            CHECK(mla_cache_length(cache[b]) == t + k, "%s: %s: cache length %d", m->name, how,
                  mla_cache_length(cache[b]));
            for (int i = 0; e->probs && i < k;
                 i++) /* [k, H, t+k] into [n, H, n]; keys that are not there yet have probability 0 */
                for (int h = 0; h < H; h++)
                    memcpy(all_probs + ((b * n + t + i) * H + h) * n, probs + b * n * H * n + (i * H + h) * (t + k),
                           (size_t)(t + k) * sizeof *probs);
        }
    }
    if (ok) compare(m, "y", how, y, e->y[path], (int64_t)B * n * D);
    if (ok && e->probs) compare(m, "probabilities", how, all_probs, e->probs, (int64_t)B * n * H * n);
    float *rows = (float *)calloc((size_t)(B * n * (R + P)), sizeof *rows); /* as two blocks: latents, keys */
    if (!rows) exit(2);
    for (int b = 0; ok && e->latent && b < B; b++)
        for (int t = 0; t < n; t++) {
            CHECK(mla_cache_read(cache[b], 0, t, row, &err) == MLA_OK, "%s: %s", m->name, err.text);
            memcpy(rows + (b * n + t) * R, row, (size_t)R * sizeof *row);
            memcpy(rows + B * n * R + (b * n + t) * P, row + R, (size_t)P * sizeof *row);
        }
    if (ok && e->latent) compare(m, "cached latents", how, rows, e->latent, (int64_t)B * n * R);
    if (ok && e->latent) compare(m, "cached keys", how, rows + B * n * R, e->k_rope, (int64_t)B * n * P);
    free(in), free(out), free(y), free(probs), free(all_probs), free(row), free(rows);
    for (int b = 0; b < 2; b++) mla_cache_destroy(cache[b]);
    mla_context_destroy(context);
}

/* The reference of mla.h, token by token. */
static void check_reference(module *m, const expected *e) {
    const int n = e->n, D = m->config.hidden_size, H = m->config.num_attention_heads, R = m->config.kv_lora_rank,
              P = m->config.qk_rope_head_dim, B = e->B;
    double *x = (double *)calloc((size_t)D, sizeof *x), *rows = (double *)calloc((size_t)(n * (R + P)), sizeof *rows),
           *y = (double *)calloc((size_t)(B * n * D), sizeof *y),
           *naive = (double *)calloc((size_t)(B * n * D), sizeof *y), *mask = (double *)calloc((size_t)n, sizeof *mask),
           *probs = (double *)calloc((size_t)(B * n * H * n), sizeof *probs),
           *latent = (double *)calloc((size_t)(B * n * R), sizeof *latent),
           *k_rope = (double *)calloc((size_t)(B * n * P + 1), sizeof *k_rope);
    int differ = 0;
    if (!x || !rows || !y || !naive || !mask || !probs || !latent || !k_rope) exit(2);
    for (int path = 0; path < PATHS; path++) {
        for (int b = 0; b < B; b++)
            for (int pass = 0; pass < 2; pass++) /* all rows, then all queries */
                for (int t = 0; t < n; t++) {
                    const int i = b * n + t;
                    for (int j = 0; j < D; j++) x[j] = (double)e->x[i * D + j];
                    for (int u = 0; u < n; u++)
                        mask[u] = u > t && m->config.mask == MLA_MASK_CAUSAL ? -(double)INFINITY : 0;
                    if (pass == 1) {
                        mla__attention_ref(y + i * D, probs + i * H * n, NULL, m->model, &m->layer.attn, x, rows, NULL,
                                           mask, t, n, path);
                        continue;
                    }
                    mla__row_ref(rows + t * (R + P), m->model, &m->layer.attn, x, t);
                    memcpy(latent + i * R, rows + t * (R + P), (size_t)R * sizeof *rows);
                    memcpy(k_rope + i * P, rows + t * (R + P) + R, (size_t)P * sizeof *rows);
                }
        compare_reference(m, path_names[path], y, e->y[path], (int64_t)B * n * D);
        for (int i = 0; path && i < B * n * D; i++) differ += !(fabs(y[i] - naive[i]) < 1e-12);
        memcpy(naive, y, (size_t)(B * n * D) * sizeof *y);
        if (e->probs) compare_reference(m, "probabilities", probs, e->probs, (int64_t)B * n * H * n);
    }
    CHECK(differ == 0, "%s: the reference's two forms differ in %d values", m->name, differ);
    if (e->latent) compare_reference(m, "latents", latent, e->latent, (int64_t)B * n * R);
    if (e->latent) compare_reference(m, "keys", k_rope, e->k_rope, (int64_t)B * n * P);
    free(x), free(rows), free(y), free(naive), free(mask), free(probs), free(latent), free(k_rope);
}

static void all_ways(module *m, const expected *e, int first, int step, int most_threads) {
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++)
        for (int path = 0; path < PATHS && mla_isa_available((mla_isa)isa); path++)
            for (int threads = 1; threads <= most_threads; threads++)
                run_attention(m, e, (mla_isa)isa, path, threads, first, step);
}

static void yarn(module *m, float factor, int original, int length, float mscale) {
    mla_rope *r = &m->config.rope;
    r->layout = MLA_ROPE_PAIR, r->scaling = MLA_ROPE_YARN, r->factor = factor, r->theta = 10000;
    r->beta_fast = 32, r->beta_slow = 1, r->mscale = r->mscale_all_dim = mscale;
    r->original_max_position_embeddings = original, r->max_position_embeddings = length;
}

/* (N+P)^-0.5 * (0.1 * mscale * ln(factor) + 1)^2 */
static double yarn_scale(const module *m, double factor, double mscale) {
    double g = 0.1 * mscale * log(factor) + 1;
    return g * g / sqrt(m->config.qk_nope_head_dim + m->config.qk_rope_head_dim);
}

static void attention_sizes(module *m) {
    mla_config *c = &m->config;
    c->hidden_size = number(m, "dim"), c->num_attention_heads = number(m, "n_heads");
    c->q_lora_rank = number(m, "q_lora_rank"), c->kv_lora_rank = number(m, "kv_lora_rank");
    c->qk_nope_head_dim = number(m, "qk_nope_head_dim"), c->qk_rope_head_dim = number(m, "qk_rope_head_dim");
    c->v_head_dim = number(m, "v_head_dim");
}

static void attention_weights(module *m, int bias) {
    const mla_config *c = &m->config;
    mla_attn_weights *w = &m->layer.attn;
    const int D = c->hidden_size, H = c->num_attention_heads, Q = c->q_lora_rank, R = c->kv_lora_rank,
              N = c->qk_nope_head_dim;
    const int P = c->qk_rope_head_dim, V = c->v_head_dim;
    if (Q == 0) w->q = linear(m, "wq", H * (N + P), D, bias);
    else {
        w->q_a = linear(m, "wq_a", Q, D, bias);
        w->q_norm = norm(m, "q_norm", Q, c->q_norm.kind);
        w->q_b = linear(m, "wq_b", H * (N + P), Q, bias);
    }
    w->kv_a = linear(m, "wkv_a", R + P, D, bias);
    w->kv_norm = norm(m, "kv_norm", R, c->kv_norm.kind);
    w->kv_b = linear(m, "wkv_b", H * (N + V), R, bias);
    w->o = linear(m, "wo", D, H * V, bias);
}

/* DeepSeek's MLA, in both its implementations: a prompt of 29 tokens in two sequences, then 5 tokens one by one. */
static void test_ds_mla(module *m) {
    attention_sizes(m);
    yarn(m, real(m, "rope_factor"), number(m, "original_seq_len"), number(m, "max_seq_len"), real(m, "mscale"));
    attention_weights(m, 0);
    if (!make_model(m)) return;
    check_scale(m, yarn_scale(m, (double)real(m, "rope_factor"), (double)real(m, "mscale")));
    const mla_config *c = &m->config;
    const int prefill = number(m, "prefill"), B = number(m, "batch"), n = prefill + number(m, "decode");
    CHECK(prefill == 29 && n == 34 && B == 2, "%s: prefill %d, %d tokens, batch %d", m->name, prefill, n, B);
    expected e = {.B = B, .n = n};
    e.x = wanted(m, "x", 3, B, n, c->hidden_size, 0);
    e.y[0] = wanted(m, "y_naive", 3, B, n, c->hidden_size, 0);
    e.y[1] = wanted(m, "y_absorb", 3, B, n, c->hidden_size, 0);
    e.latent = wanted(m, "latent", 3, B, n, c->kv_lora_rank, 0);
    e.k_rope = wanted(m, "k_pe", 3, B, n, c->qk_rope_head_dim, 0);
    check_reference(m, &e);
    all_ways(m, &e, prefill, 1, 2);
    all_ways(m, &e, n, 1, 1);
}

/* A module whose rotary takes the head axis for time: in head h the rope half of q is turned by -h*theta_i, always, and
   the key never. So the turn belongs to the rows of W_u_q, and there is no RoPE. */
static void test_pytorch(module *m) {
    mla_config *c = &m->config;
    mla_attn_weights *w = &m->layer.attn;
    const int D = c->hidden_size = number(m, "d_model"), H = c->num_attention_heads = number(m, "n_head");
    const int Q = c->q_lora_rank = number(m, "d_q"), R = c->kv_lora_rank = number(m, "d_kv");
    const int N = c->qk_nope_head_dim = number(m, "d_qk_n"), P = c->qk_rope_head_dim = number(m, "d_qk_r");
    const int V = c->v_head_dim = number(m, "v_head_dim"), B = 2, n = 23;
    c->rope.layout = MLA_ROPE_NONE;
    c->q_norm.kind = c->kv_norm.kind = MLA_NORM_LAYER;
    c->q_norm.eps = c->kv_norm.eps = 1e-5f;
    w->q_a = linear(m, "W_d_q", Q, D, 1), w->q_norm = norm(m, "q_norm", Q, MLA_NORM_LAYER);
    w->q_b = linear(m, "W_u_q", H * (N + P), Q, 1);
    w->kv_a = linear(m, "W_d_kv", R + P, D, 1), w->kv_norm = norm(m, "kv_norm", R, MLA_NORM_LAYER);
    w->kv_b = linear(m, "W_u_kv", H * (N + V), R, 1), w->o = linear(m, "W_o", D, H * V, 1);
    if (!w->q_b.weight.data || !w->q_b.bias.data) return;
    const int rows = H * (N + P);
    float *turned = (float *)keep(m, (size_t)(rows * (Q + 1)), sizeof *turned), *bias = turned + rows * Q;
    memcpy(turned, w->q_b.weight.data, (size_t)(rows * Q) * sizeof *turned);
    memcpy(bias, w->q_b.bias.data, (size_t)rows * sizeof *bias);
    for (int h = 0; h < H; h++)
        for (int i = 0; i < P / 2; i++) {
            const double angle = h * pow(10000, -2.0 * i / P), cs = cos(angle), sn = sin(angle);
            const int r1 = h * (N + P) + N + i, r2 = r1 + P / 2;
            for (int k = 0; k <= Q; k++) { /* the last is the bias */
                float *a = k < Q ? turned + r1 * Q + k : bias + r1, *b = k < Q ? turned + r2 * Q + k : bias + r2;
                const double x1 = (double)*a, x2 = (double)*b;
                *a = (float)(x1 * cs + x2 * sn), *b = (float)(-x1 * sn + x2 * cs);
            }
        }
    w->q_b.weight.data = turned, w->q_b.bias.data = bias;
    if (!make_model(m)) return;
    check_scale(m, 1 / sqrt(number(m, "d_head"))); /* which is N+P */
    expected e = {.B = B, .n = n};
    e.x = wanted(m, "x", 3, B, n, D, 0);
    e.y[0] = e.y[1] = wanted(m, "y", 3, B, n, D, 0);
    check_reference(m, &e);
    all_ways(m, &e, n, 1, 2);
    all_ways(m, &e, 10, 3, 1);
}

/* Research code: biases everywhere, RMSNorm with torch's default eps (that of float32) or DyT, with or without RoPE,
   probabilities returned. The file does not state the softmax scale; by a fit to the logarithm of the probabilities it
   is N^-0.5 = 0.25 where there are no rope dimensions (wkv_a has R rows, wq_b H*N), and (N+P)^-0.5 * (0.1*ln(4)+1)^2 =
   0.26464226 with PAIR rope by YaRN, theta 10000, beta 32 and 1, mscale 1, where there are. Both are what
   config.softmax_scale 0 means, and that is checked. */
static void test_research(module *m) {
    mla_config *c = &m->config;
    attention_sizes(m);
    const st_tensor *wkv_a = st_find(m->file, "weight.wkv_a.weight");
    const int rope = strstr(m->name, "_rope_") != NULL, dyt = strstr(m->name, "_dyt_") != NULL,
              none = strstr(m->name, "_none") != NULL;
    if (!rope) c->qk_rope_head_dim = 0;
    CHECK(wkv_a && wkv_a->dims[0] == c->kv_lora_rank + c->qk_rope_head_dim, "%s: rows of wkv_a", m->name);
    CHECK(!strcmp(text(m, "norm"), dyt ? "DyT" : "RMSNorm eps 1.1920929e-07"), "%s: norm %s", m->name, text(m, "norm"));
    CHECK(!strcmp(text(m, "mask"), none ? "none" : "causal"), "%s: mask %s", m->name, text(m, "mask"));
    c->q_norm.kind = c->kv_norm.kind = dyt ? MLA_NORM_DYT : MLA_NORM_RMS;
    c->q_norm.eps = c->kv_norm.eps = 1.1920929e-7f;
    c->mask = none ? MLA_MASK_NONE : MLA_MASK_CAUSAL;
    if (rope) yarn(m, real(m, "rope_factor"), number(m, "original_seq_len"), number(m, "max_seq_len"), 1);
    else c->rope.layout = MLA_ROPE_NONE;
    attention_weights(m, 1);
    if (!make_model(m)) return;
    check_scale(m, rope ? yarn_scale(m, (double)real(m, "rope_factor"), 1) : 0.25);
    const int B = number(m, "max_batch_size"), n = number(m, "prefill");
    expected e = {.B = B, .n = n};
    e.x = wanted(m, "x", 3, B, n, c->hidden_size, 0);
    e.y[0] = e.y[1] = wanted(m, "y", 3, B, n, c->hidden_size, 0);
    e.probs = wanted(m, "attention", 4, B, n, c->num_attention_heads, n);
    check_reference(m, &e);
    all_ways(m, &e, n, 1, 2);
    if (!none) { /* without a mask a token sees those after it, but only those of its call */
        all_ways(m, &e, 8, 5, 1);
        all_ways(m, &e, 20, 1, 1);
    }
}

/* ---- experts ----------------------------------------------------------------------------------------------------- */

static mla_mlp_weights mlp(const module *m, const char *part, int width, int bias) { /* w1 gate, w3 up, w2 down */
    const int D = m->config.hidden_size;
    mla_mlp_weights w;
    char name[64];
    snprintf(name, sizeof name, "%s.w1", part);
    w.gate = linear(m, name, width, D, bias);
    snprintf(name, sizeof name, "%s.w3", part);
    w.up = linear(m, name, width, D, bias);
    snprintf(name, sizeof name, "%s.w2", part);
    w.down = linear(m, name, D, width, bias);
    return w;
}

/* The same experts for every token, whatever their order, with the same weights. */
static void compare_routing(module *m, const char *how, const int *index, const float *weight, const int64_t *want,
                            const float *want_weight, int T, int K) {
    float *sorted = (float *)calloc((size_t)(T * K), sizeof *sorted);
    int wrong = 0;
    if (!sorted) exit(2);
    for (int t = 0; t < T; t++)
        for (int i = 0; i < K; i++) {
            int found = 0;
            for (int j = 0; j < K; j++)
                if (index[t * K + j] == want[t * K + i]) {
                    sorted[t * K + i] = weight[t * K + j];
                    found++;
                }
            wrong += found != 1;
        }
    CHECK(wrong == 0, "%s: %s: %d of %d chosen experts differ", m->name, how, wrong, T * K);
    compare(m, "weights of experts", how, sorted, want_weight, (int64_t)T * K);
    free(sorted);
}

/* All T tokens in calls of `step`. */
static void run_experts(module *m, mla_isa isa, int threads, int step, const float *x, const float *want,
                        const int64_t *index, const float *weight, int T) {
    const int D = m->config.hidden_size, K = m->config.num_experts_per_tok, E = m->config.n_routed_experts;
    const mla_context_desc desc = {.threads = threads, .isa = isa};
    mla_context *context;
    mla_error err;
    char how[80];
    snprintf(how, sizeof how, "%s, %d threads, %d tokens at a time", mla_isa_name(isa), threads, step);
    if (!CHECK(mla_context_create(&context, m->model, &desc, &err) == MLA_OK, "%s: %s", m->name, err.text)) return;
    float *y = (float *)calloc((size_t)(T * D), sizeof *y), *got = (float *)calloc((size_t)(T * K), sizeof *got);
    int *chosen = (int *)calloc((size_t)(T * K), sizeof *chosen);
    int64_t counts[MAX_EXPERTS] = {0}, wanted[MAX_EXPERTS] = {0};
    if (!y || !got || !chosen) exit(2);
    for (int t = 0; t < T; t += step) {
        const mla_routing routing = {.index = chosen + t * K, .weight = got + t * K, .counts = counts};
        const int n = step < T - t ? step : T - t;
        CHECK(mla_moe_forward(context, 0, y + t * D, x + t * D, n, &routing) == MLA_OK, "%s: %s: %s", m->name, how,
              mla_context_error(context)->text);
    }
    compare(m, "y", how, y, want, (int64_t)T * D);
    compare_routing(m, how, chosen, got, index, weight, T, K);
    for (int i = 0; i < T * K; i++) wanted[index[i]]++;
    for (int e = 0; e < E; e++)
        CHECK(counts[e] == wanted[e], "%s: %s: expert %d has %d tokens, not %d", m->name, how, e, (int)counts[e],
              (int)wanted[e]);
    memset(y, 0, (size_t)(T * D) * sizeof *y);
    CHECK(mla_moe_forward(context, 0, y, x, T, NULL) == MLA_OK, "%s: %s: %s", m->name, how,
          mla_context_error(context)->text);
    compare(m, "y without routing", how, y, want, (int64_t)T * D);
    free(y), free(got), free(chosen);
    mla_context_destroy(context);
}

static void check_reference_experts(module *m, const float *x, const float *want, const int64_t *index,
                                    const float *weight, int T) {
    const int D = m->config.hidden_size, K = m->config.num_experts_per_tok;
    double *xt = (double *)calloc((size_t)D, sizeof *xt), *y = (double *)calloc((size_t)(T * D), sizeof *y),
           *w = (double *)calloc((size_t)(T * K), sizeof *w), *sorted = (double *)calloc((size_t)(T * K), sizeof *w);
    int chosen[MAX_EXPERTS], wrong = 0;
    if (!xt || !y || !w || !sorted) exit(2);
    for (int t = 0; t < T; t++) {
        for (int j = 0; j < D; j++) xt[j] = (double)x[t * D + j];
        mla__moe_ref(y + t * D, chosen, w, mla_model_config(m->model), &m->layer.moe, xt);
        for (int i = 0; i < K; i++) {
            int found = 0;
            for (int j = 0; j < K; j++)
                if (chosen[j] == index[t * K + i]) sorted[t * K + i] = w[j], found++;
            wrong += found != 1;
        }
    }
    CHECK(wrong == 0, "%s: the reference: %d of %d chosen experts differ", m->name, wrong, T * K);
    compare_reference(m, "weights of experts", sorted, weight, (int64_t)T * K);
    compare_reference(m, "y", y, want, (int64_t)T * D);
    free(xt), free(y), free(w), free(sorted);
}

/* DeepSeek's MoE and the research code's, which has biases in its experts. y is routed + shared; weights are after
   route_scale. DeepSeek's gate takes a group's score as the sum of its two best if it has a bias, else the best one,
   and divides the weights by their sum if scores are sigmoids. */
static void test_experts(module *m) {
    mla_config *c = &m->config;
    const int research = !strncmp(m->name, "research", 8), sigmoid = !strcmp(text(m, "score_func"), "sigmoid");
    c->hidden_size = number(m, "dim"), c->moe_intermediate_size = number(m, "moe_inter_dim");
    c->n_routed_experts = number(m, "n_routed_experts"), c->n_shared_experts = number(m, "n_shared_experts");
    c->num_experts_per_tok = number(m, "n_activated_experts");
    c->routed_scaling_factor = real(m, "route_scale");
    if (!research) c->n_group = number(m, "n_expert_groups"), c->topk_group = number(m, "n_limited_groups");
    CHECK(sigmoid || !strcmp(text(m, "score_func"), "softmax"), "%s: score_func %s", m->name, text(m, "score_func"));
    c->scoring_func = sigmoid ? MLA_SCORING_SIGMOID : MLA_SCORING_SOFTMAX;
    c->norm_topk_prob = sigmoid;
    c->topk_method = sigmoid ? MLA_TOPK_NOAUX_TC : c->n_group > 1 ? MLA_TOPK_GROUP_LIMITED_GREEDY : MLA_TOPK_GREEDY;
    const int D = c->hidden_size, E = c->n_routed_experts, K = c->num_experts_per_tok, I = c->moe_intermediate_size,
              T = research ? 26 : 31;
    if (!CHECK(E <= MAX_EXPERTS, "%s: %d experts", m->name, E)) return;
    m->layer.moe.router = matrix(m, "gate", "weight", E, D, 1);
    if (sigmoid) m->layer.moe.router_bias = matrix(m, "gate", "bias", 1, E, 1);
    for (int e = 0; e < E; e++) {
        char name[32];
        snprintf(name, sizeof name, "experts.%d", e);
        m->experts[e] = mlp(m, name, I, research);
    }
    m->layer.moe.experts = m->experts;
    m->layer.moe.shared = mlp(m, "shared_experts", c->n_shared_experts * I, research);
    if (!make_model(m)) return;
    const float *x = research ? wanted(m, "x", 3, 2, 13, D, 0) : wanted(m, "x", 2, T, D, 0, 0);
    const float *y = research ? wanted(m, "y", 3, 2, 13, D, 0) : wanted(m, "y", 2, T, D, 0, 0);
    const float *weight = wanted(m, "topk_weight", 2, T, K, 0, 0);
    const st_tensor *t = st_find(m->file, "topk_index");
    int64_t *index = (int64_t *)keep(m, (size_t)(T * K), sizeof *index), used = 0;
    if (!CHECK(t && !strcmp(t->dtype, "I64") && t->n_dims == 2 && t->dims[0] == T && t->dims[1] == K, "%s: topk_index",
               m->name))
        return;
    memcpy(index, t->data, (size_t)(T * K) * sizeof *index);
    for (int i = 0; i < T * K; i++) {
        if (!CHECK(index[i] >= 0 && index[i] < E, "%s: topk_index[%d] is %d", m->name, i, (int)index[i])) return;
        used |= (int64_t)1 << index[i];
    }
    CHECK((used & (used - 1)) != 0, "%s: topk_index names one expert only", m->name);
    check_reference_experts(m, x, y, index, weight, T);
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++)
        for (int threads = 1; threads <= 2 && mla_isa_available((mla_isa)isa); threads++) {
            run_experts(m, (mla_isa)isa, threads, T, x, y, index, weight, T);
            if (threads == 1) run_experts(m, (mla_isa)isa, threads, 1, x, y, index, weight, T);
            run_experts(m, (mla_isa)isa, threads, 4, x, y, index, weight, T);
        }
}

/* ---- every file of the folder ------------------------------------------------------------------------------------ */

static struct entry {
    const char *name;
    void (*test)(module *m);
    int seen;
} entries[] = {
    {"ds_v2lite_mla", test_ds_mla, 0},
    {"ds_v2_mla", test_ds_mla, 0},
    {"ds_v3_mla", test_ds_mla, 0},
    {"ds_v2lite_moe", test_experts, 0},
    {"ds_v2_moe", test_experts, 0},
    {"ds_v3_moe", test_experts, 0},
    {"mla_pytorch", test_pytorch, 0},
    {"research_mla_causal", test_research, 0},
    {"research_mla_none", test_research, 0},
    {"research_mla_dyt_causal", test_research, 0},
    {"research_mla_dyt_none", test_research, 0},
    {"research_mla_rope_causal", test_research, 0},
    {"research_mla_rope_none", test_research, 0},
    {"research_mla_rope_dyt_causal", test_research, 0},
    {"research_mla_rope_dyt_none", test_research, 0},
    {"research_mla_moe_causal", test_research, 0}, /* attention only, of a model that also has experts */
    {"research_mla_moe_none", test_research, 0},
    {"research_mla_moe_experts", test_experts, 0},
};
enum { N_ENTRIES = sizeof entries / sizeof *entries };

int main(int argc, char **argv) {
    const int report = argc > 1 && !strcmp(argv[1], "--report");
    DIR *dir = opendir("tests/fixtures/modules");
    int files = 0;
    SECTION("modules");
    if (CHECK(dir != NULL, "tests/fixtures/modules: cannot be read")) {
        for (const struct dirent *f; (f = readdir(dir)) != NULL;) {
            if (f->d_name[0] == '.') continue;
            int known = 0;
            for (int i = 0; i < N_ENTRIES; i++) {
                char name[64];
                snprintf(name, sizeof name, "%s.safetensors", entries[i].name);
                if (!strcmp(f->d_name, name)) known = ++entries[i].seen;
            }
            CHECK(known == 1, "tests/fixtures/modules/%s: no test knows it", f->d_name);
            files++;
        }
        closedir(dir);
    }
    CHECK(files == 18 && N_ENTRIES == 18, "%d files, %d tests, not 18", files, (int)N_ENTRIES);
    for (int i = 0; i < N_ENTRIES; i++) {
        module m;
        if (!CHECK(entries[i].seen, "%s: the file is missing", entries[i].name)) continue;
        if (module_open(&m, entries[i].name)) entries[i].test(&m);
        CHECK(m.worst > 0, "%s: nothing was compared", m.name);
        CHECK(m.worst_reference > 0, "%s: nothing was compared with the reference", m.name);
        if (report) printf("%-30s %.1e, of the reference %.1e\n", m.name, (double)m.worst, (double)m.worst_reference);
        module_close(&m);
    }
    return test_end();
}
