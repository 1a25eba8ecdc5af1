/* test_api.c - misuse: every wrong field, pointer, tensor, token and size is refused by the right code and a message
   that names it; a call that fails changes nothing, and the same call with right arguments works afterwards. */

#if defined(__unix__) || defined(__APPLE__)
#define _POSIX_C_SOURCE 200112L
#define HAS_FORK        1
#else
#define HAS_FORK 0
#endif

#define MLA_IMPLEMENTATION
#include "mla.h"
#include "test.h"

#include <limits.h>
#include <stdlib.h>
#if HAS_FORK
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

/* ---- a small model of two layers, one dense and one with experts ------------------------------------------------- */

enum {
    D = 12,
    Q = 10,
    H = 2,
    R = 8,
    N = 4,
    P = 4,
    V = 6,
    E = 8,
    K = 2,
    I = 5,
    F = 7,
    L = 2,
    VOCAB = 11,
    WIDTH = R + P
};

typedef struct small {
    mla_config c;
    mla_weights w;
    mla_layer_weights layers[L];
    mla_mlp_weights experts[E];
} small;

static float
    pool_of_weights[4096]; /* tensors may share memory; nothing here looks at results as numbers, only as bits */

static mla_tensor tensor(int rows, int cols) {
    return mla_view(pool_of_weights + (rows * 31 + cols * 7) % 512, MLA_F32, rows, cols);
}
static mla_linear linear(int out, int in) {
    mla_linear l;
    memset(&l, 0, sizeof l);
    l.weight = tensor(out, in);
    return l;
}
static mla_norm_weights norm(int n) {
    mla_norm_weights w;
    memset(&w, 0, sizeof w);
    w.weight = tensor(1, n);
    return w;
}
static mla_mlp_weights mlp(int inner) {
    mla_mlp_weights w;
    w.gate = linear(inner, D), w.up = linear(inner, D), w.down = linear(D, inner);
    return w;
}

static void make_small(small *s) {
    test_rng r = {42};
    test_fill(&r, pool_of_weights, sizeof pool_of_weights / sizeof *pool_of_weights, 0.3f);
    memset(s, 0, sizeof *s);
    s->c.vocab_size = VOCAB, s->c.hidden_size = D, s->c.num_hidden_layers = L, s->c.intermediate_size = F,
    s->c.num_attention_heads = H;
    s->c.q_lora_rank = Q, s->c.kv_lora_rank = R, s->c.qk_nope_head_dim = N, s->c.qk_rope_head_dim = P,
    s->c.v_head_dim = V;
    s->c.n_routed_experts = E, s->c.num_experts_per_tok = K, s->c.moe_intermediate_size = I, s->c.n_shared_experts = 1;
    s->c.n_group = 4, s->c.topk_group = 2, s->c.topk_method = MLA_TOPK_NOAUX_TC,
    s->c.scoring_func = MLA_SCORING_SIGMOID;
    s->w.embed = tensor(VOCAB, D), s->w.head = tensor(VOCAB, D), s->w.norm = norm(D), s->w.layers = s->layers;
    for (int i = 0; i < L; i++) {
        mla_layer_weights *l = &s->layers[i];
        l->attn_norm = norm(D), l->ffn_norm = norm(D);
        l->attn.q_a = linear(Q, D), l->attn.q_b = linear(H * (N + P), Q), l->attn.kv_a = linear(R + P, D);
        l->attn.kv_b = linear(H * (N + V), R), l->attn.o = linear(D, H * V), l->attn.q_norm = norm(Q),
        l->attn.kv_norm = norm(R);
    }
    s->layers[0].mlp = mlp(F);
    for (int e = 0; e < E; e++) s->experts[e] = mlp(I);
    s->layers[1].moe.router = tensor(E, D), s->layers[1].moe.router_bias = tensor(1, E);
    s->layers[1].moe.experts = s->experts, s->layers[1].moe.shared = mlp(I);
}

static mla_error error;

#define MUST(call)                                                                                                     \
    if ((call) != MLA_OK) CHECK(0, "%s: %s", #call, error.text), exit(1)

/* The call failed as it should: the code, and a message of one line with each of the names in it. */
static void refused(mla_result r, mla_result want, const mla_error *e, const char *name, const char *name2, int line) {
    CHECK(r == want, "line %d, %s: %s instead of %s (%s)", line, name, mla_result_name(r), mla_result_name(want),
          e->text);
    if (r == MLA_OK) return;
    CHECK(e->code == r, "line %d, %s: the code in the error is %s", line, name, mla_result_name(e->code));
    CHECK(strstr(e->text, name) && strstr(e->text, name2), "line %d: \"%s\" does not name %s %s", line, e->text, name,
          name2);
    CHECK(strlen(e->text) < sizeof e->text && !strchr(e->text, '\n'), "line %d: the message is no line", line);
}

static void wipe(void) {
    error.code = (mla_result)77;
    strcpy(error.text, "untouched");
}

static mla_model *model_of(const small *s) {
    mla_model *m = NULL;
    MUST(mla_model_create(&m, &s->c, &s->w, NULL, &error));
    return m;
}

/* ---- config ------------------------------------------------------------------------------------------------------ */

/* The config of s is refused with a message naming the field; mla_model_size gives 0; without the change it works. */
static void bad_config(const small *s, const char *name, int line) {
    mla_model *m = (mla_model *)(void *)&error;
    wipe();
    refused(mla_model_create(&m, &s->c, &s->w, NULL, &error), MLA_ERR_CONFIG, &error, name, "config", line);
    CHECK(m == NULL, "line %d, %s: the pointer is not NULL after a failure", line, name);
    CHECK(mla_model_create(&m, &s->c, &s->w, NULL, NULL) == MLA_ERR_CONFIG, "line %d, %s: without an error to fill",
          line, name);
    CHECK(mla_model_size(&s->c) == 0, "line %d, %s: mla_model_size", line, name);
}
#define BAD_CONFIG(change, name)                                                                                       \
    do {                                                                                                               \
        small s;                                                                                                       \
        make_small(&s);                                                                                                \
        change;                                                                                                        \
        bad_config(&s, name, __LINE__);                                                                                \
    } while (0)
#define GOOD_CONFIG(change)                                                                                            \
    do {                                                                                                               \
        small s;                                                                                                       \
        mla_model *m = NULL;                                                                                           \
        make_small(&s);                                                                                                \
        change;                                                                                                        \
        CHECK(mla_model_create(&m, &s.c, &s.w, NULL, &error) == MLA_OK, "%s: %s", #change, error.text);                \
        mla_model_destroy(m);                                                                                          \
    } while (0)

static void test_config(void) {
    SECTION("config");
    GOOD_CONFIG((void)0);
    /* integers: negative and INT_MAX everywhere, zero where it is no default */
#define NEGATIVE(field)                                                                                                \
    BAD_CONFIG(s.c.field = -1, #field);                                                                                \
    BAD_CONFIG(s.c.field = INT_MIN, #field)
#define SIZE(field)                                                                                                    \
    NEGATIVE(field);                                                                                                   \
    BAD_CONFIG(s.c.field = INT_MAX, #field)
    SIZE(vocab_size);
    SIZE(hidden_size);
    SIZE(num_hidden_layers);
    SIZE(intermediate_size);
    SIZE(num_attention_heads);
    SIZE(q_lora_rank);
    SIZE(kv_lora_rank);
    SIZE(qk_nope_head_dim);
    SIZE(qk_rope_head_dim);
    SIZE(v_head_dim);
    SIZE(n_routed_experts);
    SIZE(num_experts_per_tok);
    SIZE(moe_intermediate_size);
    SIZE(n_shared_experts);
    SIZE(zero_expert_num);
    SIZE(n_group);
    SIZE(topk_group);
    NEGATIVE(temperature_period);
    NEGATIVE(rope.max_position_embeddings);
    NEGATIVE(rope.original_max_position_embeddings);
    NEGATIVE(rope.length);
    BAD_CONFIG(s.c.hidden_size = 0, "hidden_size");
    BAD_CONFIG(s.c.num_hidden_layers = 0, "num_hidden_layers");
    BAD_CONFIG(s.c.kv_lora_rank = 0, "kv_lora_rank");
    BAD_CONFIG(s.c.qk_nope_head_dim = 0, "qk_nope_head_dim");
    BAD_CONFIG(s.c.v_head_dim = 0, "v_head_dim");
    BAD_CONFIG(s.c.num_experts_per_tok = 0, "num_experts_per_tok");
    BAD_CONFIG(s.c.moe_intermediate_size = 0, "moe_intermediate_size");
    /* enumerations */
#define ENUM(type, field, count)                                                                                       \
    BAD_CONFIG(s.c.field = (type)(count), #field);                                                                     \
    BAD_CONFIG(s.c.field = (type)-1, #field);                                                                          \
    BAD_CONFIG(s.c.field = (type)INT_MAX, #field)
    ENUM(mla_mask, mask, MLA_MASK_NONE + 1);
    ENUM(mla_topk_method, topk_method, MLA_TOPK_NOAUX_ZERO + 1);
    ENUM(mla_scoring_func, scoring_func, MLA_SCORING_SIGMOID + 1);
    ENUM(mla_rope_layout, rope.layout, MLA_ROPE_NONE + 1);
    ENUM(mla_rope_scaling, rope.scaling, MLA_ROPE_LONGROPE + 1);
    ENUM(mla_norm_kind, q_norm.kind, MLA_NORM_NONE + 1);
    ENUM(mla_norm_kind, kv_norm.kind, MLA_NORM_NONE + 1);
    ENUM(mla_norm_kind, block_norm.kind, MLA_NORM_NONE + 1);
    /* real numbers */
#define REAL(field)                                                                                                    \
    BAD_CONFIG(s.c.field = NAN, #field);                                                                               \
    BAD_CONFIG(s.c.field = INFINITY, #field);                                                                          \
    BAD_CONFIG(s.c.field = -INFINITY, #field);                                                                         \
    BAD_CONFIG(s.c.field = -1, #field);                                                                                \
    BAD_CONFIG(s.c.field = -1e-30f, #field)
    REAL(softmax_scale);
    REAL(routed_scaling_factor);
    REAL(q_scale);
    REAL(latent_scale);
    REAL(temperature_beta);
    REAL(embed_scale);
    REAL(residual_scale);
    REAL(logits_scale);
    REAL(hc_eps);
    REAL(hc_magnitude);
    REAL(swiglu_limit);
    REAL(index_norm_eps);
    REAL(q_norm.eps);
    REAL(kv_norm.eps);
    REAL(block_norm.eps);
    REAL(rope.theta);
    REAL(rope.factor);
    REAL(rope.beta_fast);
    REAL(rope.beta_slow);
    REAL(rope.mscale);
    REAL(rope.mscale_all_dim);
    REAL(rope.attention_factor);
}

/* Presets against the published dimensions: a model of layers without weights takes them, and resolves what the papers
 * state. */
static void test_presets(void) {
    static const struct {
        const char *name;
        int vocab, D, L, d_ff, H, Q, R, N, P, V, E, Z, K, I, shared;
        float eps, theta, softmax_scale, amplitude;
        double cache; /* bytes of a token in bf16 */
    } all[] = {
        {"deepseek-v2-lite",  102400, 2048, 27, 10944, 16, 0, 512, 128, 64, 128, 64, 0, 6, 1408, 2, 1e-6f, 1e4f,
         0.1147213867929261f, 1,      31104},
        {"deepseek-v2",       102400, 5120, 60, 12288, 128, 1536, 512, 128, 64, 128, 160, 0, 6, 1536, 2, 1e-6f, 1e4f,
         0.1147213867929261f, 1,      69120},
        {"deepseek-v3",       129280, 7168, 61, 18432, 128, 1536, 512, 128, 64, 128, 256, 0, 8, 2048, 1, 1e-6f, 1e4f,
         0.1352337788608801f, 1,      70272},
        {"kimi-k2", 163840, 7168, 61,   18432, 64,    1536, 512,        128, 64,   128,
         384,       0,      8,    2048, 1,     1e-6f, 5e4f, 0.1308608f, 1,   70272},
        {"longcat-flash", 131072, 6144,          56, 12288, 64, 1536, 512, 128, 64, 128, 512, 256, 12, 2048, 0,
         1e-5f,           1e7f,   0.0721687836f, 1,  64512},
        {"minicpm3", 73448, 2560, 62, 6400, 40,    768,  256,           64, 32,   64,
         0,          0,     0,    0,  0,    1e-5f, 1e4f, 0.1020620726f, 1,  35712},
        {"deepseek-v32",      129280, 7168, 61, 18432, 128, 1536, 512, 128, 64, 128, 256, 0, 8, 2048, 1, 1e-6f, 1e4f,
         0.1352337788608801f, 1,      70272},
        {"glm4-moe-lite", 154880, 2048,    47, 10240, 20, 768, 512, 192, 64, 256, 64, 0, 4, 1536, 1,
         1e-5f,           1e4f,   0.0625f, 1,  54144},
        {"glm-moe-dsa", 154880, 6144, 78,   12288, 64,    2048, 512,     192, 64,   256,
         256,           0,      8,    2048, 1,     1e-5f, 1e4f, 0.0625f, 1,   89856},
        {"mistral4", 131072, 4096, 36,   12288, 32,    1024, 256,           64, 64,   128,
         128,        0,      4,    2048, 1,     1e-6f, 1e4f, 0.1949694947f, 1,  23040},
        {"youtu", 128256, 2048, 32, 6144, 16,    1536, 512,           128, 64,   128,
         0,       0,      0,    0,  0,    1e-6f, 1e4f, 0.0721687836f, 1,   36864},
        {"axk1", 163840, 7168, 61,   18432, 64,    1536, 512,           128, 64,   128,
         192,    0,      8,    2048, 1,     1e-6f, 1e4f, 0.0721687836f, 1,   70272},
        {"kimi-linear", 163840, 2304, 27,   9216, 32,    0,    512,           128, 64,   128,
         256,           0,      8,    1024, 1,    1e-5f, 1e4f, 0.0721687836f, 1,   31104}};
    static mla_layer_weights layers[80];
    static const float factors[16] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    mla_config c;
    SECTION("presets");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        mla_weights w;
        mla_model *m = NULL;
        memset(&w, 0, sizeof w);
        w.layers = layers;
        if (!CHECK(mla_config_preset(&c, all[i].name, &error) == MLA_OK, "%s: %s", all[i].name, error.text)) continue;
#define PRESET(field, want) CHECK(c.field == all[i].want, "%s: " #field " is %g", all[i].name, (double)c.field)
        PRESET(vocab_size, vocab), PRESET(hidden_size, D), PRESET(num_hidden_layers, L),
            PRESET(intermediate_size, d_ff);
        PRESET(num_attention_heads, H), PRESET(q_lora_rank, Q), PRESET(kv_lora_rank, R), PRESET(qk_nope_head_dim, N);
        PRESET(qk_rope_head_dim, P), PRESET(v_head_dim, V), PRESET(n_routed_experts, E), PRESET(zero_expert_num, Z);
        PRESET(num_experts_per_tok, K), PRESET(moe_intermediate_size, I), PRESET(n_shared_experts, shared);
        PRESET(block_norm.eps, eps), PRESET(rope.theta, theta);
        if (c.rope.scaling == MLA_ROPE_LONGROPE) {
            refused(mla_model_create(&m, &c, &w, NULL, &error), MLA_ERR_CONFIG, &error, "rope.short_factor", "missing",
                    __LINE__);
            c.rope.short_factor = c.rope.long_factor = factors;
        }
        if (!CHECK(mla_model_create(&m, &c, &w, NULL, &error) == MLA_OK, "%s: %s", all[i].name, error.text)) continue;
        const float scale = mla_model_config(m)->softmax_scale;
        CHECK(fabsf(scale / all[i].softmax_scale - 1) < 1e-6f, "%s: softmax_scale %.9g", all[i].name, (double)scale);
        CHECK(fabsf(mla_model_rope_amplitude(m) - all[i].amplitude) < 1e-6f, "%s: amplitude %g", all[i].name,
              (double)mla_model_rope_amplitude(m));
        CHECK(2.0 * c.num_hidden_layers * (c.kv_lora_rank + c.qk_rope_head_dim) == all[i].cache, "%s: cache",
              all[i].name);
        if (!strcmp(all[i].name, "deepseek-v3")) {
            const float *inv = mla_model_inv_freq(m);
            CHECK(fabsf(inv[16] - 0.0055f) < 1e-8f && fabsf(inv[31] - 3.33380358e-6f) < 1e-12f,
                  "inv_freq[16] %g, [31] %g", (double)inv[16], (double)inv[31]);
            CHECK(c.n_group == 8 && c.topk_group == 4 && c.topk_method == MLA_TOPK_NOAUX_TC &&
                      c.scoring_func == MLA_SCORING_SIGMOID && c.norm_topk_prob && c.routed_scaling_factor == 2.5f,
                  "the router of deepseek-v3");
        }
        mla_model_destroy(m);
    }
    MUST(mla_config_preset(&c, "longcat-flash", &error));
    CHECK(c.q_scale == 2 && fabsf(c.latent_scale * c.latent_scale - 12) < 1e-5f, "longcat-flash: sqrt(D/Q), sqrt(D/R)");
    MUST(mla_config_preset(&c, "minicpm3", &error));
    CHECK(c.embed_scale == 12 && fabsf(c.residual_scale - 1.4f / sqrtf(62)) < 1e-7f && c.logits_scale == 256.0f / 2560,
          "minicpm3: scales");
    MUST(mla_config_preset(&c, "mistral4", &error));
    CHECK(c.temperature_beta == 0.1f && c.temperature_period == 8192, "mistral4: the temperature of queries");
    refused(mla_config_preset(&c, "gpt-2", &error), MLA_ERR_UNSUPPORTED, &error, "\"gpt-2\"", "deepseek-v3, kimi-k2",
            __LINE__);
    refused(mla_config_preset(&c, NULL, &error), MLA_ERR_ARGUMENT, &error, "name", "NULL", __LINE__);
    refused(mla_config_preset(NULL, "deepseek-v3", &error), MLA_ERR_ARGUMENT, &error, "out", "NULL", __LINE__);
    CHECK(mla_config_preset(&c, "", NULL) == MLA_ERR_UNSUPPORTED, "no error to fill");
}

static void test_config_relations(void) {
    static const float factors[2] = {1, 2}, zero[2] = {1, 0}, nan[2] = {NAN, 1}, minus[2] = {-1, 1},
                       infinite[2] = {1, INFINITY};
    SECTION("config, fields that contradict each other");
    BAD_CONFIG(s.c.qk_rope_head_dim = 3, "qk_rope_head_dim");
    BAD_CONFIG(s.c.qk_rope_head_dim = 5; s.c.rope.layout = MLA_ROPE_HALF, "qk_rope_head_dim");
    BAD_CONFIG(s.c.n_group = 3, "n_group");
    BAD_CONFIG(s.c.n_group = 16, "n_group");
    BAD_CONFIG(s.c.topk_group = 5, "topk_group");
    BAD_CONFIG(s.c.num_experts_per_tok = 5, "num_experts_per_tok"); /* 2 groups of 2 */
    BAD_CONFIG(s.c.num_experts_per_tok = 9, "num_experts_per_tok");
    BAD_CONFIG(s.c.topk_method = MLA_TOPK_GROUP_LIMITED_GREEDY; s.c.num_experts_per_tok = 5, "num_experts_per_tok");
    BAD_CONFIG(s.c.n_group = 8; s.c.topk_group = 8, "n_group"); /* groups of one, but noaux_tc adds two */
    GOOD_CONFIG(s.c.n_group = 8; s.c.topk_group = 8; s.c.topk_method = MLA_TOPK_GROUP_LIMITED_GREEDY);
    GOOD_CONFIG(s.c.n_group = 0; s.c.topk_group = 0);
    GOOD_CONFIG(s.c.num_experts_per_tok = 4);
    BAD_CONFIG(s.c.n_routed_experts = 0; s.c.zero_expert_num = 8, "zero_expert_num");
    BAD_CONFIG(s.c.zero_expert_num = 3, "n_group"); /* 4 groups of 8 + 3 */
    BAD_CONFIG(s.c.temperature_beta = 0.1f, "temperature_period");
    GOOD_CONFIG(s.c.temperature_beta = 0.1f; s.c.temperature_period = 1);
    GOOD_CONFIG(s.c.temperature_period = 16);
    /* products that fit in no int */
    BAD_CONFIG(s.c.num_attention_heads = 65536; s.c.qk_nope_head_dim = 1 << 20, "qk_nope_head_dim");
    BAD_CONFIG(s.c.num_attention_heads = 65536; s.c.qk_rope_head_dim = 1 << 20, "qk_rope_head_dim");
    BAD_CONFIG(s.c.num_attention_heads = 65536; s.c.v_head_dim = 1 << 20, "v_head_dim");
    BAD_CONFIG(s.c.num_attention_heads = 65536; s.c.kv_lora_rank = 1 << 20, "kv_lora_rank");
    BAD_CONFIG(s.c.n_shared_experts = 65536; s.c.moe_intermediate_size = 1 << 20, "n_shared_experts");
    /* yarn, linear, dynamic, longrope */
    for (int scaling = MLA_ROPE_LINEAR; scaling <= MLA_ROPE_LONGROPE; scaling++) {
#define SCALED                                                                                                         \
    s.c.rope.scaling = (mla_rope_scaling)scaling, s.c.rope.original_max_position_embeddings = 64,                      \
    s.c.rope.long_factor = s.c.rope.short_factor = factors
        GOOD_CONFIG(SCALED);
        GOOD_CONFIG(SCALED; s.c.rope.factor = 1);
        BAD_CONFIG(SCALED; s.c.rope.factor = 0.5f, "rope.factor");
        BAD_CONFIG(SCALED; s.c.rope.factor = 0.99999994f, "rope.factor");
        BAD_CONFIG(SCALED; s.c.rope.factor = -2, "rope.factor");
        if (scaling == MLA_ROPE_LINEAR) continue;
        BAD_CONFIG(SCALED; s.c.rope.original_max_position_embeddings = 0, "original_max_position_embeddings");
        GOOD_CONFIG(SCALED; s.c.rope.original_max_position_embeddings = 0; s.c.rope.max_position_embeddings = 64);
        BAD_CONFIG(SCALED; s.c.rope.original_max_position_embeddings = -1, "original_max_position_embeddings");
    }
    BAD_CONFIG(s.c.rope.scaling = MLA_ROPE_YARN; s.c.rope.original_max_position_embeddings = 64;
               s.c.rope.theta = 1, "rope.theta");
    BAD_CONFIG(s.c.rope.scaling = MLA_ROPE_YARN; s.c.rope.original_max_position_embeddings = 64;
               s.c.rope.theta = 0.5f, "rope.theta");
    BAD_CONFIG(s.c.rope.theta = 1e-45f; s.c.qk_rope_head_dim = 4; s.c.rope.scaling = MLA_ROPE_YARN;
               s.c.rope.original_max_position_embeddings = 64, "rope.theta");
    for (int far = 0; far < 2; far++) {
#define LONGROPE                                                                                                       \
    s.c.rope.scaling = MLA_ROPE_LONGROPE, s.c.rope.original_max_position_embeddings = 64,                              \
    s.c.rope.length = far ? 65 : 64
#define FACTORS *(far ? &s.c.rope.long_factor : &s.c.rope.short_factor)
        const char *name = far ? "long_factor" : "short_factor";
        GOOD_CONFIG(LONGROPE; FACTORS = factors);
        BAD_CONFIG(LONGROPE, name);
        BAD_CONFIG(LONGROPE; FACTORS = zero, name);
        BAD_CONFIG(LONGROPE; FACTORS = nan, name);
        BAD_CONFIG(LONGROPE; FACTORS = minus, name);
        BAD_CONFIG(LONGROPE; FACTORS = infinite, name);
    }
    /* the caller's frequencies are looked at when the model is made */
    small s;
    mla_model *m;
    make_small(&s);
    s.c.rope.inv_freq = nan;
    wipe();
    refused(mla_model_create(&m, &s.c, &s.w, NULL, &error), MLA_ERR_CONFIG, &error, "rope", "inv", __LINE__);
    s.c.rope.inv_freq = infinite;
    refused(mla_model_create(&m, &s.c, &s.w, NULL, &error), MLA_ERR_CONFIG, &error, "rope", "inv", __LINE__);
    s.c.rope.inv_freq = factors;
    MUST(mla_model_create(&m, &s.c, &s.w, NULL, &error));
    mla_model_destroy(m);
    /* sizes beyond any memory are refused, not wrapped around */
    make_small(&s);
    s.c.num_hidden_layers = 65536, s.c.n_routed_experts = 65536, s.c.n_group = 1, s.c.topk_group = 1;
    const size_t bytes = mla_model_size(&s.c);
    CHECK(bytes == SIZE_MAX || (double)bytes >= 65536.0 * 65536.0 * (double)sizeof(mla_mlp_weights),
          "65536 layers of 65536 experts in %.0f bytes", (double)bytes);
}

static int digit(int *n, int base) {
    const int d = *n % base;
    *n /= base;
    return d;
}

/* Every combination of the fields that rope is resolved from is served, with finite numbers, or refused by name. */
static void test_rope_combinations(void) {
    static const float factors[2] = {1, 2};
    int served = 0, named = 0;
    SECTION("rope: layouts, scalings, and what they need");
    for (int i = 0; i < 3 * 5 * 4 * 2 * 4 * 3 * 3 * 2; i++) {
        int n = i;
        const int layout = digit(&n, 3), scaling = digit(&n, 5), given = digit(&n, 4), own = digit(&n, 2);
        const int width = digit(&n, 4), original = digit(&n, 3), most = digit(&n, 3), extreme = digit(&n, 2);
        static const int widths[4] = {0, 1, 3, 4}, positions[3] = {0, 1, 64};
        small s;
        make_small(&s);
        s.c.qk_rope_head_dim = widths[width], s.c.rope.layout = (mla_rope_layout)layout;
        s.c.rope.scaling = (mla_rope_scaling)scaling, s.c.rope.original_max_position_embeddings = positions[original];
        s.c.rope.max_position_embeddings = positions[most];
        s.c.rope.short_factor = given & 1 ? factors : NULL, s.c.rope.long_factor = given & 2 ? factors : NULL;
        s.c.rope.inv_freq = own ? factors : NULL;
        if (extreme) s.c.rope.factor = s.c.rope.mscale = s.c.rope.mscale_all_dim = 2.9e38f;
        for (int l = 0; l < L; l++) {
            s.layers[l].attn.q_b = linear(H * (N + widths[width]), Q);
            s.layers[l].attn.kv_a = linear(R + widths[width], D);
        }
        mla_model *m = NULL;
        wipe();
        const mla_result r = mla_model_create(&m, &s.c, &s.w, NULL, &error);
        if (r != MLA_OK) {
            named += r == MLA_ERR_CONFIG && (strstr(error.text, "config.rope") || strstr(error.text, "_rope_head_dim"));
            continue;
        }
        const mla_config *c = mla_model_config(m);
        int finite = isfinite(mla_model_rope_amplitude(m)) && isfinite(c->softmax_scale) && isfinite(c->rope.factor);
        for (int k = 0; k < widths[width] / 2; k++) finite = finite && isfinite(mla_model_inv_freq(m)[k]);
        served += finite && c->softmax_scale > 0;
        mla_model_destroy(m);
    }
    CHECK(served + named == 3 * 5 * 4 * 2 * 4 * 3 * 3 * 2 && served && named, "%d served, %d refused by name", served,
          named);
}

/* ---- weights ----------------------------------------------------------------------------------------------------- */

static void bad_weights(const small *s, mla_result want, const char *name, const char *name2, int line) {
    mla_model *m = (mla_model *)(void *)&error;
    wipe();
    refused(mla_model_create(&m, &s->c, &s->w, NULL, &error), want, &error, name, name2, line);
    CHECK(m == NULL, "line %d, %s: the pointer is not NULL after a failure", line, name);
}
#define BAD_WEIGHTS(change, name, name2)                                                                               \
    do {                                                                                                               \
        small s;                                                                                                       \
        make_small(&s);                                                                                                \
        change;                                                                                                        \
        bad_weights(&s, MLA_ERR_WEIGHTS, name, name2, __LINE__);                                                       \
    } while (0)

/* Every way in which one tensor can be wrong; it is field `t` of a fresh small model. */
static void bad_tensor(small *s, mla_tensor *t, const char *name, int required, int line) {
    const mla_tensor good = *t;
    const int vector = good.rows == 1; /* no matrix here has one row */
    if (required) {
        t->data = NULL;
        bad_weights(s, MLA_ERR_WEIGHTS, name, "missing", line);
        *t = good;
    }
    for (int i = 0; i < 6; i++) {
        if (i < 4) t->rows += i == 0 ? 1 : i == 1 ? -1 : 0, t->cols += i == 2 ? 1 : i == 3 ? -1 : 0;
        else if (i == 4) t->rows = good.cols, t->cols = good.rows;
        else t->rows = INT_MAX, t->cols = INT_MIN;
        if (t->rows != good.rows || t->cols != good.cols) bad_weights(s, MLA_ERR_WEIGHTS, name, "expected", line);
        *t = good;
    }
    const mla_dtype types[] = {MLA_UE8M0, MLA_DTYPE_COUNT, (mla_dtype)-1, (mla_dtype)INT_MAX, MLA_E4M3};
    for (int i = 0; i < (vector ? 5 : 4); i++) {
        t->dtype = types[i];
        bad_weights(s, MLA_ERR_WEIGHTS, name, "dtype", line);
        *t = good;
    }
    if (!vector) {
        t->dtype = MLA_E4M3, t->scale = pool_of_weights;
        const mla_dtype scales[] = {MLA_F16, MLA_Q8, MLA_E4M3, MLA_DTYPE_COUNT, (mla_dtype)-1};
        for (int i = 0; i < 5; i++) {
            t->scale_dtype = scales[i];
            bad_weights(s, MLA_ERR_WEIGHTS, name, "scale", line);
        }
        t->scale_dtype = MLA_BF16, t->scale_rows = -1;
        bad_weights(s, MLA_ERR_WEIGHTS, name, "scale", line);
        t->scale_rows = 1, t->scale_cols = INT_MIN;
        bad_weights(s, MLA_ERR_WEIGHTS, name, "scale", line);
        *t = good;
    }
    const mla_layout layouts[] = {MLA_LAYOUT_X16, MLA_LAYOUT_COUNT, (mla_layout)-1};
    for (int i = 0; i < 3; i++) {
        t->layout = layouts[i];
        bad_weights(s, MLA_ERR_WEIGHTS, name, "layout", line);
        *t = good;
    }
    mla_model *m = NULL;
    CHECK(mla_model_create(&m, &s->c, &s->w, NULL, &error) == MLA_OK, "line %d, %s: right again, but %s", line, name,
          error.text);
    mla_model_destroy(m);
}

static void test_weights(void) {
    small s;
    SECTION("weights");
    make_small(&s);
    /* what a model may lack is asked for by the calls: see test_partial */
    bad_tensor(&s, &s.w.embed, "embed", 0, __LINE__);
    bad_tensor(&s, &s.w.head, "head", 0, __LINE__);
    bad_tensor(&s, &s.w.norm.weight, "norm.weight", 0, __LINE__);
    for (int i = 0; i < L; i++) {
        mla_layer_weights *l = &s.layers[i];
        char name[64];
#define TENSOR(field, required)                                                                                        \
    (snprintf(name, sizeof name, "layers[%d].%s", i, #field), bad_tensor(&s, &l->field, name, required, __LINE__))
        TENSOR(attn_norm.weight, 0);
        TENSOR(ffn_norm.weight, 0);
        l->attn_out_norm = l->ffn_out_norm = norm(D);
        TENSOR(attn_out_norm.weight, 0);
        TENSOR(ffn_out_norm.weight, 0);
        TENSOR(attn.q_a.weight, 1);
        TENSOR(attn.q_b.weight, 1);
        TENSOR(attn.kv_a.weight, 1);
        TENSOR(attn.kv_b.weight, 1);
        TENSOR(attn.o.weight, 1);
        TENSOR(attn.q_norm.weight, 1);
        TENSOR(attn.kv_norm.weight, 1);
        l->attn.o.bias = tensor(1, D), l->attn.kv_b.bias = tensor(1, H * (N + V)), l->attn.kv_norm.bias = tensor(1, R);
        TENSOR(attn.o.bias, 0);
        TENSOR(attn.kv_b.bias, 0);
        TENSOR(attn.kv_norm.bias, 0);
        const mla_linear kv_b = l->attn.kv_b;
        memset(&l->attn.kv_b, 0, sizeof kv_b), l->attn.k_b = tensor(H * R, N), l->attn.v_b = tensor(H * V, R);
        TENSOR(attn.k_b, 1);
        TENSOR(attn.v_b, 1);
        l->attn.kv_b = kv_b;
        if (i == 0) {
            TENSOR(mlp.gate.weight, 1);
            TENSOR(mlp.up.weight, 1);
            TENSOR(mlp.down.weight, 1);
        } else {
            TENSOR(moe.router, 1);
            TENSOR(moe.router_bias, 0);
            TENSOR(moe.shared.gate.weight, 1);
            TENSOR(moe.shared.up.weight, 1);
            TENSOR(moe.shared.down.weight, 1);
        }
    }
    bad_tensor(&s, &s.experts[0].gate.weight, "layers[1].moe.experts[0].gate.weight", 1, __LINE__);
    bad_tensor(&s, &s.experts[5].up.weight, "layers[1].moe.experts[5].up.weight", 1, __LINE__);
    s.experts[7].down.bias = tensor(1, D);
    bad_tensor(&s, &s.experts[7].down.weight, "layers[1].moe.experts[7].down.weight", 1, __LINE__);
    bad_tensor(&s, &s.experts[7].down.bias, "layers[1].moe.experts[7].down.bias", 0, __LINE__);
}

static void test_weights_relations(void) {
    SECTION("weights that contradict the config");
    BAD_WEIGHTS(s.w.layers = NULL, "layers", "NULL");
    BAD_WEIGHTS(s.layers[1].moe.experts = NULL, "layers[1]", "experts");
    BAD_WEIGHTS(s.layers[1].mlp = mlp(F), "layers[1]", "mlp"); /* a shortcut needs a layer after it */
    GOOD_CONFIG(s.layers[0].moe = s.layers[1].moe);
    BAD_WEIGHTS(s.c.zero_expert_num = 4, "layers[1].moe.router", "[12, ");
    BAD_WEIGHTS(s.c.q_lora_rank = 0, "layers[0].attn.q.weight", "missing");
    BAD_WEIGHTS(s.c.q_norm.kind = MLA_NORM_DYT, "q_norm.alpha", "missing");
    BAD_WEIGHTS(s.c.kv_norm.kind = MLA_NORM_DYT;
                s.layers[0].attn.kv_norm.alpha = tensor(1, 2), "kv_norm.alpha", "expected");
    /* tensors that the config leaves no room for: the field is at fault */
#define BAD_BOTH(change, name)                                                                                         \
    do {                                                                                                               \
        small s;                                                                                                       \
        make_small(&s);                                                                                                \
        change;                                                                                                        \
        bad_weights(&s, MLA_ERR_CONFIG, name, "weights.", __LINE__);                                                   \
    } while (0)
    BAD_BOTH(s.c.num_attention_heads = 0, "num_attention_heads");
    BAD_BOTH(s.c.intermediate_size = 0, "intermediate_size");
    BAD_BOTH(s.c.n_routed_experts = 0, "n_routed_experts");
    BAD_BOTH(s.c.vocab_size = 0, "vocab_size");
    GOOD_CONFIG(s.c.n_shared_experts = 0; memset(&s.layers[1].moe.shared, 0, sizeof s.layers[1].moe.shared));
    GOOD_CONFIG(s.w.head.data = NULL);
    GOOD_CONFIG(s.c.q_norm.kind = MLA_NORM_NONE; memset(&s.layers[0].attn.q_norm, 0, sizeof s.layers[0].attn.q_norm));
}

/* ---- a context and caches to work with --------------------------------------------------------------------------- */

static mla_context *context_of(const mla_model *m, int max_tokens, mla_attn_path path) {
    mla_context_desc d;
    mla_context *x = NULL;
    memset(&d, 0, sizeof d);
    d.max_tokens = max_tokens, d.threads = 1, d.attn = path;
    MUST(mla_context_create(&x, m, &d, &error));
    return x;
}
static mla_cache *cache_of(const mla_model *m, int capacity, mla_pool *pool) {
    mla_cache_desc d;
    mla_cache *k = NULL;
    memset(&d, 0, sizeof d);
    d.capacity = capacity, d.pool = pool;
    MUST(mla_cache_create(&k, m, &d, &error));
    return k;
}
static mla_sequence sequence(mla_cache *k, int n) {
    mla_sequence s;
    memset(&s, 0, sizeof s);
    s.cache = k, s.n_tokens = n, s.n_logits = 1;
    return s;
}
static void fill_cache(mla_cache *k, int n, float start) { /* rows that can be told from one another */
    float *rows = (float *)malloc((size_t)(L * n * WIDTH + 1) * sizeof *rows);
    for (int l = 0; l < L; l++)
        for (int u = 0; u < n; u++)
            for (int i = 0; i < WIDTH; i++)
                rows[(l * n + u) * WIDTH + i] = start + (float)(l * 10000 + (mla_cache_length(k) + u) * 16 + i) / 64;
    MUST(mla_cache_append(k, n, rows, &error));
    free(rows);
}
static uint64_t contents(const mla_cache *k) { /* of all rows, as a hash; with the length */
    uint64_t h = 1469598103934665603u + (uint64_t)mla_cache_length(k);
    float row[WIDTH];
    for (int l = 0; l < L; l++)
        for (int u = 0; u < mla_cache_length(k); u++) {
            MUST(mla_cache_read(k, l, u, row, &error));
            for (size_t i = 0; i < sizeof row; i++) h = (h ^ ((unsigned char *)row)[i]) * 1099511628211u;
        }
    return h;
}

/* ---- pointers, counts and names ---------------------------------------------------------------------------------- */

#define REFUSED(call, code, name, name2)       (wipe(), refused((call), (code), &error, name, name2, __LINE__))
#define REFUSED_IN(x, call, code, name, name2) (refused((call), (code), mla_context_error(x), name, name2, __LINE__))

static void test_arguments(void) {
    small s;
    mla_model *m;
    mla_context *x;
    mla_cache *k;
    mla_pool *pool, *none;
    mla_context_desc xd;
    mla_cache_desc kd;
    float row[WIDTH * L], buffer[D * 4], y[D * 4];
    SECTION("arguments");
    memset(row, 0, sizeof row);
    make_small(&s);
    REFUSED(mla_model_create(NULL, &s.c, &s.w, NULL, &error), MLA_ERR_ARGUMENT, "out", "NULL");
    REFUSED(mla_model_create(&m, NULL, &s.w, NULL, &error), MLA_ERR_ARGUMENT, "config", "NULL");
    REFUSED(mla_model_create(&m, &s.c, NULL, NULL, &error), MLA_ERR_ARGUMENT, "weights", "NULL");
    REFUSED(mla_model_init(&m, NULL, 1 << 20, &s.c, &s.w, &error), MLA_ERR_ARGUMENT, "memory", "NULL");
    CHECK(mla_model_create(&m, NULL, NULL, NULL, NULL) == MLA_ERR_ARGUMENT && m == NULL, "without an error to fill");
    CHECK(mla_model_size(NULL) == 0, "mla_model_size(NULL)");
    m = model_of(&s);
    /* context */
    memset(&xd, 0, sizeof xd);
    xd.threads = 1;
#define BAD_DESC(change, code, name)                                                                                   \
    do {                                                                                                               \
        mla_context_desc d = xd;                                                                                       \
        change;                                                                                                        \
        REFUSED(mla_context_create(&x, m, &d, &error), code, name, "");                                                \
        CHECK(x == NULL && mla_context_size(m, &d) == 0, "%s: pointer or size", name);                                 \
    } while (0)
    BAD_DESC(d.max_tokens = -1, MLA_ERR_ARGUMENT, "max_tokens");
    BAD_DESC(d.max_tokens = INT_MAX, MLA_ERR_ARGUMENT, "max_tokens");
    BAD_DESC(d.threads = -1, MLA_ERR_ARGUMENT, "threads");
    BAD_DESC(d.threads = INT_MAX, MLA_ERR_ARGUMENT, "threads");
    BAD_DESC(d.attn = MLA_ATTN_PATH_COUNT, MLA_ERR_ARGUMENT, "attn");
    BAD_DESC(d.attn = (mla_attn_path)-1, MLA_ERR_ARGUMENT, "attn");
    BAD_DESC(d.isa = MLA_ISA_COUNT, MLA_ERR_ARGUMENT, "isa");
    BAD_DESC(d.isa = (mla_isa)-1, MLA_ERR_ARGUMENT, "isa");
    BAD_DESC(d.activations = MLA_ACT_COUNT, MLA_ERR_ARGUMENT, "activations");
    BAD_DESC(d.activations = (mla_activations)-1, MLA_ERR_ARGUMENT, "activations");
    for (mla_isa isa = MLA_ISA_AUTO; isa < MLA_ISA_COUNT; isa = (mla_isa)(isa + 1)) {
        mla_context_desc one = xd;
        one.isa = isa;
        CHECK(strcmp(mla_isa_name(isa), "?") != 0, "mla_isa_name");
        if (!mla_isa_available(isa)) BAD_DESC(d.isa = isa, MLA_ERR_UNSUPPORTED, mla_isa_name(isa));
        else {
            CHECK(mla_context_create(&x, m, &one, &error) == MLA_OK, "%s: %s", mla_isa_name(isa), error.text);
            CHECK(mla_context_isa(x) == isa || isa == MLA_ISA_AUTO, "%s is not what was asked for",
                  mla_isa_name(mla_context_isa(x)));
            mla_context_destroy(x);
        }
    }
    for (mla_isa isa = MLA_ISA_AUTO; isa < MLA_ISA_COUNT; isa = (mla_isa)(isa + 1)) {
        mla_context_desc bf16 = xd;
        const int auto_isa = isa == MLA_ISA_AUTO, can = auto_isa || isa == MLA_ISA_BF16 || isa == MLA_ISA_AMX;
        bf16.isa = isa, bf16.activations = MLA_ACT_BF16;
        if (!can || !mla_isa_available(auto_isa ? MLA_ISA_BF16 : isa)) {
            BAD_DESC((d.isa = isa, d.activations = MLA_ACT_BF16), MLA_ERR_UNSUPPORTED, can ? "isa" : "activations");
            continue;
        }
        CHECK(mla_context_create(&x, m, &bf16, &error) == MLA_OK, "%s: %s", mla_isa_name(isa), error.text);
        const mla_isa got = mla_context_isa(x);
        CHECK(auto_isa ? got == MLA_ISA_BF16 || got == MLA_ISA_AMX : got == isa, "bf16 activations, %s: got %s",
              mla_isa_name(isa), mla_isa_name(got));
        mla_context_destroy(x);
    }
    CHECK(mla_isa_available(MLA_ISA_SCALAR) && mla_isa_available(MLA_ISA_AUTO), "scalar is always there");
    CHECK(!mla_isa_available(MLA_ISA_COUNT) && !mla_isa_available((mla_isa)-1), "an isa that does not exist");
    CHECK(!strcmp(mla_isa_name(MLA_ISA_COUNT), "?") && !strcmp(mla_isa_name((mla_isa)-1), "?"), "its name");
    REFUSED(mla_context_create(NULL, m, NULL, &error), MLA_ERR_ARGUMENT, "out", "NULL");
    REFUSED(mla_context_create(&x, NULL, NULL, &error), MLA_ERR_ARGUMENT, "model", "NULL");
    REFUSED(mla_context_init(&x, NULL, 1 << 30, m, &xd, &error), MLA_ERR_ARGUMENT, "memory", "NULL");
    CHECK(mla_context_size(NULL, NULL) == 0, "mla_context_size(NULL)");
    x = context_of(m, 8, MLA_ATTN_AUTO);
    CHECK(mla_context_error(x)->code == MLA_OK && mla_context_error(x)->text[0] == 0, "a new context has no error");
    /* pool and cache */
    REFUSED(mla_pool_create(NULL, m, &(mla_pool_desc){.n_pages = 1}, &error), MLA_ERR_ARGUMENT, "out", "NULL");
    REFUSED(mla_pool_create(&none, NULL, &(mla_pool_desc){.n_pages = 1}, &error), MLA_ERR_ARGUMENT, "model", "NULL");
    REFUSED(mla_pool_create(&none, m, NULL, &error), MLA_ERR_ARGUMENT, "pool", "desc is NULL");
    CHECK(mla_pool_size(m, NULL) == 0, "mla_pool_size without a desc");
    REFUSED(mla_pool_create(&none, m, &(mla_pool_desc){.n_pages = 0}, &error), MLA_ERR_ARGUMENT, "n_pages", "");
    REFUSED(mla_pool_create(&none, m, &(mla_pool_desc){.n_pages = -1}, &error), MLA_ERR_ARGUMENT, "n_pages", "");
    REFUSED(mla_pool_create(&none, m, &(mla_pool_desc){.n_pages = 1, .dtype = MLA_E4M3}, &error), MLA_ERR_ARGUMENT,
            "dtype", "");
    REFUSED(mla_pool_create(&none, m, &(mla_pool_desc){.n_pages = 1, .dtype = (mla_dtype)-1}, &error), MLA_ERR_ARGUMENT,
            "dtype", "");
    REFUSED(mla_pool_init(&none, NULL, 1 << 30, m, &(mla_pool_desc){.n_pages = 1}, &error), MLA_ERR_ARGUMENT, "memory",
            "NULL");
    CHECK(none == NULL && mla_pool_size(m, &(mla_pool_desc){.n_pages = 0}) == 0 &&
              mla_pool_size(NULL, &(mla_pool_desc){.n_pages = 1}) == 0,
          "sizes of bad pools");
    const size_t huge = mla_pool_size(m, &(mla_pool_desc){.n_pages = INT_MAX});
    CHECK(huge == SIZE_MAX || (double)huge >= 2147483647.0 * L * MLA_PAGE * WIDTH * 4, "INT_MAX pages in %.0f bytes",
          (double)huge);
    memset(&kd, 0, sizeof kd);
    kd.capacity = 4;
#define BAD_CACHE(change, name)                                                                                        \
    do {                                                                                                               \
        mla_cache_desc d = kd;                                                                                         \
        change;                                                                                                        \
        REFUSED(mla_cache_create(&k, m, &d, &error), MLA_ERR_ARGUMENT, name, "");                                      \
        CHECK(k == NULL && mla_cache_size(m, &d) == 0, "%s: pointer or size", name);                                   \
    } while (0)
    BAD_CACHE(d.capacity = 0, "capacity");
    BAD_CACHE(d.capacity = -1, "capacity");
    BAD_CACHE(d.capacity = INT_MIN, "capacity");
    BAD_CACHE(d.dtype = MLA_E4M3, "dtype");
    BAD_CACHE(d.dtype = MLA_DTYPE_COUNT, "dtype");
    BAD_CACHE(d.dtype = (mla_dtype)-1, "dtype");
    REFUSED(mla_cache_create(NULL, m, &kd, &error), MLA_ERR_ARGUMENT, "out", "NULL");
    REFUSED(mla_cache_create(&k, NULL, &kd, &error), MLA_ERR_ARGUMENT, "model", "NULL");
    REFUSED(mla_cache_create(&k, m, NULL, &error), MLA_ERR_ARGUMENT, "desc", "NULL");
    REFUSED(mla_cache_init(&k, NULL, 1 << 30, m, &kd, &error), MLA_ERR_ARGUMENT, "memory", "NULL");
    /* a pool, a cache made for another model */
    small s2;
    make_small(&s2);
    s2.c.num_hidden_layers = 1;
    mla_model *m2 = model_of(&s2);
    MUST(mla_pool_create(&pool, m2, &(mla_pool_desc){.n_pages = 2}, &error));
    BAD_CACHE(d.pool = pool, "pool");
    mla_pool_destroy(pool);
    mla_cache *foreign = cache_of(m2, 4, NULL);
    k = cache_of(m, 4, NULL);
    mla_sequence q = sequence(foreign, 1);
    const int token[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    REFUSED_IN(x, mla_model_forward(x, &q, 1, token, NULL), MLA_ERR_ARGUMENT, "sequences[0].cache", "another model");
    REFUSED(mla_cache_fork(k, foreign, &error), MLA_ERR_ARGUMENT, "fork", "");
    mla_cache_destroy(foreign);
    mla_model_destroy(m2);
    /* calls on caches */
    REFUSED(mla_cache_truncate(NULL, 0, &error), MLA_ERR_ARGUMENT, "cache", "NULL");
    REFUSED(mla_cache_fork(NULL, k, &error), MLA_ERR_ARGUMENT, "dst", "NULL");
    REFUSED(mla_cache_fork(k, NULL, &error), MLA_ERR_ARGUMENT, "src", "NULL");
    REFUSED(mla_cache_append(NULL, 1, row, &error), MLA_ERR_ARGUMENT, "cache", "NULL");
    REFUSED(mla_cache_append(k, 1, NULL, &error), MLA_ERR_ARGUMENT, "rows", "NULL");
    REFUSED(mla_cache_append(k, -1, row, &error), MLA_ERR_ARGUMENT, "n", "negative");
    fill_cache(k, 2, 0);
    REFUSED(mla_cache_read(NULL, 0, 0, row, &error), MLA_ERR_ARGUMENT, "cache", "NULL");
    REFUSED(mla_cache_read(k, 0, 0, NULL, &error), MLA_ERR_ARGUMENT, "row", "NULL");
    REFUSED(mla_cache_read(k, -1, 0, row, &error), MLA_ERR_ARGUMENT, "layer", "-1");
    REFUSED(mla_cache_read(k, L, 0, row, &error), MLA_ERR_ARGUMENT, "layer", "2");
    REFUSED(mla_cache_read(k, 0, 2, row, &error), MLA_ERR_ARGUMENT, "position", "2");
    REFUSED(mla_cache_read(k, 0, -1, row, &error), MLA_ERR_ARGUMENT, "position", "-1");
    CHECK(mla_cache_read(k, 9, 9, NULL, NULL) == MLA_ERR_ARGUMENT && mla_cache_truncate(k, 9, NULL) == MLA_ERR_ARGUMENT,
          "without an error to fill");
    MUST(mla_cache_read(k, 1, 1, row, &error));
    mla_cache_reset(k);
    /* forward calls */
    const uint64_t before = contents(k);
    q = sequence(k, 1);
    mla_sequence two[2] = {q, q};
    CHECK(mla_model_forward(NULL, &q, 1, token, NULL) == MLA_ERR_ARGUMENT &&
              mla_attn_forward(NULL, 0, y, buffer, &q, 1) == MLA_ERR_ARGUMENT &&
              mla_moe_forward(NULL, 0, y, buffer, 1, NULL) == MLA_ERR_ARGUMENT,
          "context NULL");
    REFUSED_IN(x, mla_model_forward(x, NULL, 1, token, NULL), MLA_ERR_ARGUMENT, "sequences", "");
    REFUSED_IN(x, mla_model_forward(x, &q, 0, token, NULL), MLA_ERR_ARGUMENT, "n_sequences", "0");
    REFUSED_IN(x, mla_model_forward(x, &q, -1, token, NULL), MLA_ERR_ARGUMENT, "n_sequences", "-1");
    REFUSED_IN(x, mla_model_forward(x, &q, 1, NULL, NULL), MLA_ERR_ARGUMENT, "tokens", "NULL");
    REFUSED_IN(x, mla_model_forward(x, two, 2, token, NULL), MLA_ERR_ARGUMENT, "sequences[1].cache", "twice");
    two[1].cache = NULL;
    REFUSED_IN(x, mla_model_forward(x, two, 2, token, NULL), MLA_ERR_ARGUMENT, "sequences[1].cache", "NULL");
    const int wrong[] = {0, -1, INT_MIN};
    for (int i = 0; i < 3; i++) {
        q.n_tokens = wrong[i];
        REFUSED_IN(x, mla_model_forward(x, &q, 1, token, NULL), MLA_ERR_ARGUMENT, "sequences[0].n_tokens", "");
        REFUSED_IN(x, mla_attn_forward(x, 0, y, buffer, &q, 1), MLA_ERR_ARGUMENT, "sequences[0].n_tokens", "");
        REFUSED_IN(x, mla_moe_forward(x, 0, y, buffer, wrong[i], NULL), MLA_ERR_ARGUMENT, "n_tokens", "");
    }
    const int many[] = {9, 1000, INT_MAX};
    for (int i = 0; i < 3; i++) {
        q.n_tokens = many[i];
        REFUSED_IN(x, mla_model_forward(x, &q, 1, token, NULL), MLA_ERR_MEMORY, "max_tokens", "8");
        REFUSED_IN(x, mla_attn_forward(x, 0, y, buffer, &q, 1), MLA_ERR_MEMORY, "max_tokens", "8");
        REFUSED_IN(x, mla_moe_forward(x, 0, y, buffer, many[i], NULL), MLA_ERR_MEMORY, "max_tokens", "8");
    }
    mla_cache *k2 = cache_of(m, 4, NULL);
    two[0] = sequence(k, INT_MAX), two[1] = sequence(k2, INT_MAX); /* whose sum is no int */
    REFUSED_IN(x, mla_model_forward(x, two, 2, token, NULL), MLA_ERR_MEMORY, "max_tokens", "8");
    mla_cache_destroy(k2);
    q.n_tokens = 3;
    const int bad_tokens[] = {-1, VOCAB, INT_MIN, INT_MAX};
    for (int i = 0; i < 4; i++) {
        int tokens[3] = {0, VOCAB - 1, bad_tokens[i]};
        char name[24];
        snprintf(name, sizeof name, "%d", bad_tokens[i]);
        REFUSED_IN(x, mla_model_forward(x, &q, 1, tokens, NULL), MLA_ERR_ARGUMENT, "tokens[2]", name);
    }
    const int layers[] = {-1, L, INT_MIN, INT_MAX};
    for (int i = 0; i < 4; i++) {
        char name[24];
        snprintf(name, sizeof name, "%d", layers[i]);
        REFUSED_IN(x, mla_attn_forward(x, layers[i], y, buffer, &q, 1), MLA_ERR_ARGUMENT, "layer", name);
        REFUSED_IN(x, mla_moe_forward(x, layers[i], y, buffer, 1, NULL), MLA_ERR_ARGUMENT, "layer", name);
    }
    memset(buffer, 0, sizeof buffer);
    REFUSED_IN(x, mla_attn_forward(x, 0, NULL, buffer, &q, 1), MLA_ERR_ARGUMENT, "y", "NULL");
    REFUSED_IN(x, mla_attn_forward(x, 0, y, NULL, &q, 1), MLA_ERR_ARGUMENT, "x", "NULL");
    REFUSED_IN(x, mla_attn_forward(x, 0, y, buffer, NULL, 1), MLA_ERR_ARGUMENT, "sequences", "");
    REFUSED_IN(x, mla_moe_forward(x, 0, NULL, buffer, 1, NULL), MLA_ERR_ARGUMENT, "y", "NULL");
    REFUSED_IN(x, mla_moe_forward(x, 0, y, NULL, 1, NULL), MLA_ERR_ARGUMENT, "x", "NULL");
    CHECK(contents(k) == before, "refused calls changed the cache");
    /* after all that, the right arguments work */
    CHECK(mla_model_forward(x, &q, 1, token, NULL) == MLA_OK && mla_cache_length(k) == 3,
          "a right call after wrong ones: %s", mla_context_error(x)->text);
    q.n_tokens = 1;
    CHECK(mla_attn_forward(x, 0, y, buffer, &q, 1) == MLA_OK && mla_cache_length(k) == 3, "attention of layer 0");
    CHECK(mla_attn_forward(x, 1, y, buffer, &q, 1) == MLA_OK && mla_cache_length(k) == 4, "attention of layer 1");
    CHECK(mla_moe_forward(x, 0, y, buffer, 4, NULL) == MLA_OK && mla_moe_forward(x, 1, y, buffer, 4, NULL) == MLA_OK,
          "experts");
    mla_cache_destroy(k);
    mla_context_destroy(x);
    mla_model_destroy(m);
    mla_model_destroy(NULL), mla_context_destroy(NULL), mla_cache_destroy(NULL), mla_pool_destroy(NULL),
        mla_cache_reset(NULL);
    /* names */
    for (int i = 0; i < 7; i++)
        CHECK(strncmp(mla_result_name((mla_result)i), "MLA_", 4) == 0, "mla_result_name(%d)", i);
    CHECK(mla_result_name((mla_result)-5) != NULL && mla_dtype_name((mla_dtype)-5) != NULL, "names of nothing");
}

/* ---- partial models ---------------------------------------------------------------------------------------------- */

/* The model forward names what is missing; the calls that need less work all the same. */
static void lacking(const small *s, const char *name, int attn_layer, int moe_layer, int line) {
    mla_model *m = model_of(s);
    mla_context *x = context_of(m, 8, MLA_ATTN_AUTO);
    mla_cache *k = cache_of(m, 8, NULL);
    mla_sequence q = sequence(k, 2);
    const int tokens[2] = {1, 2};
    float in[2 * D], y[2 * D];
    memset(in, 0, sizeof in);
    refused(mla_model_forward(x, &q, 1, tokens, NULL), MLA_ERR_WEIGHTS, mla_context_error(x), name, "missing", line);
    CHECK(mla_cache_length(k) == 0, "line %d: length %d after a refused call", line, mla_cache_length(k));
    if (attn_layer >= 0)
        CHECK(mla_attn_forward(x, attn_layer, y, in, &q, 1) == MLA_OK, "line %d, %s: attention: %s", line, name,
              mla_context_error(x)->text);
    if (moe_layer >= 0)
        CHECK(mla_moe_forward(x, moe_layer, y, in, 2, NULL) == MLA_OK, "line %d, %s: experts: %s", line, name,
              mla_context_error(x)->text);
    mla_cache_destroy(k);
    mla_context_destroy(x);
    mla_model_destroy(m);
}

static void test_partial(void) {
    small s;
    SECTION("partial models");
    make_small(&s);
    s.w.embed.data = NULL;
    lacking(&s, "embed", 0, 1, __LINE__);
    make_small(&s);
    s.w.norm.weight.data = NULL;
    lacking(&s, "weights.norm", 0, 1, __LINE__);
    for (int i = 0; i < L; i++) {
        make_small(&s);
        s.layers[i].attn_norm.weight.data = NULL;
        lacking(&s, i ? "layers[1].attn_norm" : "layers[0].attn_norm", i, i, __LINE__);
        make_small(&s);
        s.layers[i].ffn_norm.weight.data = NULL;
        lacking(&s, i ? "layers[1].ffn_norm" : "layers[0].ffn_norm", i, i, __LINE__);
        make_small(&s);
        memset(&s.layers[i].attn, 0, sizeof s.layers[i].attn);
        lacking(&s, i ? "layers[1].attn" : "layers[0].attn", 1 - i, i, __LINE__);
        make_small(&s);
        memset(&s.layers[i].mlp, 0, sizeof s.layers[i].mlp);
        memset(&s.layers[i].moe, 0, sizeof s.layers[i].moe);
        lacking(&s, i ? "layers[1].mlp" : "layers[0].mlp", i, 1 - i, __LINE__);
    }
    /* the layers' own calls name what they lack */
    make_small(&s);
    memset(s.layers, 0, sizeof s.layers);
    mla_model *m = model_of(&s);
    mla_context *x = context_of(m, 8, MLA_ATTN_AUTO);
    mla_cache *k = cache_of(m, 8, NULL);
    mla_sequence q = sequence(k, 1);
    float in[D], y[D];
    memset(in, 0, sizeof in);
    REFUSED_IN(x, mla_attn_forward(x, 1, y, in, &q, 1), MLA_ERR_WEIGHTS, "layers[1].attn", "missing");
    REFUSED_IN(x, mla_moe_forward(x, 1, y, in, 1, NULL), MLA_ERR_WEIGHTS, "layers[1]", "moe");
    mla_cache_destroy(k);
    mla_context_destroy(x);
    mla_model_destroy(m);
    /* no attention at all: no cache, but experts */
    make_small(&s);
    s.c.num_attention_heads = 0;
    for (int i = 0; i < L; i++) memset(&s.layers[i].attn, 0, sizeof s.layers[i].attn);
    m = model_of(&s);
    x = context_of(m, 8, MLA_ATTN_AUTO);
    mla_cache_desc d;
    memset(&d, 0, sizeof d);
    d.capacity = 8;
    REFUSED(mla_cache_create(&k, m, &d, &error), MLA_ERR_ARGUMENT, "num_attention_heads", "");
    CHECK(mla_moe_forward(x, 1, y, in, 1, NULL) == MLA_OK, "experts of a model without attention");
    mla_context_destroy(x);
    mla_model_destroy(m);
}

/* ---- caches ------------------------------------------------------------------------------------------------------ */

static void test_cache_ends(void) {
    small s;
    make_small(&s);
    mla_model *m = model_of(&s);
    mla_context *x = context_of(m, 128, MLA_ATTN_AUTO);
    static const int tokens[128];
    static float in[128 * D], y[128 * D];
    SECTION("cache: its ends");
    for (int paged = 0; paged < 2; paged++) {
        mla_pool *pool = NULL;
        enum { CAPACITY = 70, PAGES = 2 };
        if (paged) MUST(mla_pool_create(&pool, m, &(mla_pool_desc){.n_pages = PAGES}, &error));
        mla_cache *k = cache_of(m, CAPACITY, pool);
        mla_sequence q = sequence(k, CAPACITY + 1);
        CHECK(mla_cache_capacity(k) == CAPACITY && mla_cache_length(k) == 0, "a new cache");
        REFUSED_IN(x, mla_model_forward(x, &q, 1, tokens, NULL), MLA_ERR_FULL, "sequences[0]", "70");
        CHECK(mla_cache_length(k) == 0 && (!paged || mla_pool_free_pages(pool) == PAGES),
              "one more than capacity changed something");
        q.n_tokens = CAPACITY - 2;
        CHECK(mla_model_forward(x, &q, 1, tokens, NULL) == MLA_OK, "two below capacity");
        uint64_t before = contents(k);
        q.n_tokens = 3; /* straddles the end */
        REFUSED_IN(x, mla_model_forward(x, &q, 1, tokens, NULL), MLA_ERR_FULL, "sequences[0]", "68");
        REFUSED_IN(x, mla_attn_forward(x, 0, y, in, &q, 1), MLA_ERR_FULL, "sequences[0]", "68");
        CHECK(contents(k) == before, "a batch that straddles the end changed the cache");
        q.n_tokens = 2;
        CHECK(mla_model_forward(x, &q, 1, tokens, NULL) == MLA_OK && mla_cache_length(k) == CAPACITY,
              "exactly full: %s", mla_context_error(x)->text);
        before = contents(k);
        q.n_tokens = 1;
        REFUSED_IN(x, mla_model_forward(x, &q, 1, tokens, NULL), MLA_ERR_FULL, "sequences[0]", "70");
        REFUSED(mla_cache_append(k, 1, in, &error), MLA_ERR_FULL, "append", "70");
        MUST(mla_cache_append(k, 0, in, &error));
        CHECK(contents(k) == before, "one more changed the cache");
        /* truncate: future, negative, same, somewhere, 0 */
        REFUSED(mla_cache_truncate(k, CAPACITY + 1, &error), MLA_ERR_ARGUMENT, "length", "71");
        REFUSED(mla_cache_truncate(k, INT_MAX, &error), MLA_ERR_ARGUMENT, "length", "");
        REFUSED(mla_cache_truncate(k, -1, &error), MLA_ERR_ARGUMENT, "length", "-1");
        REFUSED(mla_cache_truncate(k, INT_MIN, &error), MLA_ERR_ARGUMENT, "length", "");
        CHECK(contents(k) == before, "refused truncations changed the cache");
        MUST(mla_cache_truncate(k, CAPACITY, &error));
        CHECK(contents(k) == before && (!paged || mla_pool_free_pages(pool) == 0), "truncate to the same length");
        MUST(mla_cache_truncate(k, 65, &error));
        CHECK(mla_cache_length(k) == 65 && (!paged || mla_pool_free_pages(pool) == 0), "truncate to 65");
        MUST(mla_cache_truncate(k, 64, &error));
        CHECK(mla_cache_length(k) == 64 && (!paged || mla_pool_free_pages(pool) == 1),
              "truncate to 64: a page is free");
        q.n_tokens = 6;
        CHECK(mla_model_forward(x, &q, 1, tokens, NULL) == MLA_OK && mla_cache_length(k) == CAPACITY, "filled again");
        MUST(mla_cache_truncate(k, 0, &error));
        CHECK(mla_cache_length(k) == 0 && (!paged || mla_pool_free_pages(pool) == PAGES), "truncate to 0");
        MUST(mla_cache_truncate(k, 0, &error));
        CHECK(mla_cache_truncate(k, 1, &error) == MLA_ERR_ARGUMENT, "truncate an empty cache to 1");
        mla_cache_destroy(k);
        CHECK(!paged || mla_pool_free_pages(pool) == PAGES, "destroy gives pages back");
        mla_pool_destroy(pool);
    }
    mla_context_destroy(x);
    mla_model_destroy(m);
}

static void test_forks(void) {
    enum { PAGES = 6 };
    small s;
    make_small(&s);
    mla_model *m = model_of(&s);
    mla_context *x = context_of(m, 128, MLA_ATTN_AUTO);
    static const int tokens[128];
    mla_pool *pool, *other_pool;
    SECTION("cache: forks");
    MUST(mla_pool_create(&pool, m, &(mla_pool_desc){.n_pages = PAGES}, &error));
    MUST(mla_pool_create(&other_pool, m, &(mla_pool_desc){.n_pages = PAGES}, &error));
    mla_cache *a = cache_of(m, 200, pool), *b = cache_of(m, 200, pool), *c = cache_of(m, 200, NULL),
              *d = cache_of(m, 200, other_pool), *tiny = cache_of(m, 3, NULL);
    fill_cache(a, 70, 0);
    const uint64_t original = contents(a);
    CHECK(mla_pool_free_pages(pool) == PAGES - 2, "70 tokens take two pages");
    MUST(mla_cache_fork(b, a, &error));
    CHECK(mla_pool_free_pages(pool) == PAGES - 2 && contents(b) == original, "a fork in one pool shares pages");
    MUST(mla_cache_fork(b, a, &error));
    MUST(mla_cache_fork(a, a, &error));
    CHECK(mla_pool_free_pages(pool) == PAGES - 2 && contents(b) == original && contents(a) == original,
          "forked again, and onto itself");
    MUST(mla_cache_fork(c, a, &error));
    MUST(mla_cache_fork(d, a, &error));
    CHECK(contents(c) == original && contents(d) == original, "copies");
    /* diverge: the child writes */
    fill_cache(b, 1, 500);
    CHECK(mla_pool_free_pages(pool) == PAGES - 3 && contents(a) == original,
          "copy on write takes a page and leaves the parent alone");
    MUST(mla_cache_truncate(b, 70, &error));
    CHECK(contents(b) == original, "truncated back");
    /* ... the parent writes, then both by a call */
    MUST(mla_cache_fork(b, a, &error));
    fill_cache(a, 3, 900);
    CHECK(contents(b) == original && mla_cache_length(a) == 73, "the parent writes");
    MUST(mla_cache_fork(a, c, &error));
    MUST(mla_cache_fork(b, a, &error));
    mla_sequence two[2] = {sequence(a, 4), sequence(b, 4)};
    CHECK(mla_model_forward(x, two, 2, tokens, NULL) == MLA_OK && contents(a) == contents(b) &&
              mla_cache_length(a) == 74,
          "both in one call: %s", mla_context_error(x)->text);
    MUST(mla_cache_truncate(a, 70, &error));
    CHECK(contents(a) == original, "the shared part after both wrote");
    /* truncate into shared pages, then write other rows */
    MUST(mla_cache_fork(b, a, &error));
    MUST(mla_cache_truncate(b, 10, &error));
    fill_cache(b, 50, 777);
    CHECK(contents(a) == original, "rows written into a shared page after truncation");
    MUST(mla_cache_fork(b, a, &error));
    MUST(mla_cache_truncate(b, 64, &error)); /* a whole page stays shared, the next is new */
    fill_cache(b, 10, 3);
    CHECK(contents(a) == original, "rows after a whole shared page");
    /* the parent goes first */
    MUST(mla_cache_fork(b, a, &error));
    mla_cache_destroy(a);
    CHECK(contents(b) == original && mla_pool_free_pages(pool) == PAGES - 2, "the parent was destroyed first");
    fill_cache(b, 1, 1);
    CHECK(mla_pool_free_pages(pool) == PAGES - 2, "no copy when nobody shares any more");
    /* dst too small, shapes and dtypes that differ */
    fill_cache(tiny, 2, 5);
    const uint64_t before = contents(tiny);
    REFUSED(mla_cache_fork(tiny, b, &error), MLA_ERR_FULL, "71", "3");
    CHECK(contents(tiny) == before, "a refused fork changed dst");
    mla_cache_desc desc;
    mla_cache *half;
    memset(&desc, 0, sizeof desc);
    desc.capacity = 100, desc.dtype = MLA_BF16;
    MUST(mla_cache_create(&half, m, &desc, &error));
    REFUSED(mla_cache_fork(half, b, &error), MLA_ERR_ARGUMENT, "bf16", "f32");
    mla_cache_destroy(half), mla_cache_destroy(tiny);
    /* copies into a pool without room, however the room is taken */
    mla_cache *e = cache_of(m, 64 * PAGES, other_pool), *f = cache_of(m, 64 * PAGES, other_pool);
    fill_cache(e, 64 * 3, 1); /* d has 2, e 3: one page free */
    const uint64_t of_d = contents(d), of_e = contents(e);
    REFUSED(mla_cache_fork(f, c, &error), MLA_ERR_FULL, "pool", "");
    CHECK(mla_pool_free_pages(other_pool) == 1 && mla_cache_length(f) == 0 && contents(d) == of_d &&
              contents(e) == of_e,
          "a fork that found no room");
    MUST(mla_cache_fork(d, c, &error)); /* d's own pages are room enough */
    CHECK(contents(d) == original && mla_pool_free_pages(other_pool) == 1, "a copy over what dst holds");
    MUST(mla_cache_fork(f, d, &error)); /* now they are shared, and are not */
    fill_cache(c, 60, 9);
    const uint64_t of_f = contents(f);
    REFUSED(mla_cache_fork(f, c, &error), MLA_ERR_FULL, "pool", "");
    CHECK(contents(f) == of_f && contents(d) == original && mla_pool_free_pages(other_pool) == 1,
          "a fork that found too little room");
    /* an empty source */
    mla_cache_reset(c);
    MUST(mla_cache_fork(f, c, &error));
    MUST(mla_cache_fork(b, f, &error));
    CHECK(mla_cache_length(f) == 0 && mla_cache_length(b) == 0 && mla_pool_free_pages(pool) == PAGES,
          "forks of nothing");
    mla_cache_destroy(b), mla_cache_destroy(c), mla_cache_destroy(d), mla_cache_destroy(e), mla_cache_destroy(f);
    CHECK(mla_pool_free_pages(pool) == PAGES && mla_pool_free_pages(other_pool) == PAGES, "all pages are back");
    mla_pool_destroy(pool), mla_pool_destroy(other_pool);
    mla_context_destroy(x);
    mla_model_destroy(m);
}

static void test_exhaustion(void) {
    enum { PAGES = 4 };
    small s;
    make_small(&s);
    mla_model *m = model_of(&s);
    mla_context *x = context_of(m, 256, MLA_ATTN_AUTO);
    int tokens[256];
    mla_pool *pool;
    SECTION("cache: an exhausted pool");
    memset(tokens, 0, sizeof tokens);
    MUST(mla_pool_create(&pool, m, &(mla_pool_desc){.n_pages = PAGES}, &error));
    mla_cache *k[3];
    for (int i = 0; i < 3; i++) k[i] = cache_of(m, 64 * PAGES, pool), fill_cache(k[i], 10 * (i + 1), (float)i);
    mla_sequence q[3] = {sequence(k[0], 50), sequence(k[1], 60),
                         sequence(k[2], 60)}; /* 3 pages held, 2 more wanted, 1 free */
    uint64_t before[3];
    for (int i = 0; i < 3; i++) before[i] = contents(k[i]);
    REFUSED_IN(x, mla_model_forward(x, q, 3, tokens, NULL), MLA_ERR_FULL, "sequences[2]", "pool");
    for (int i = 0; i < 3; i++) CHECK(contents(k[i]) == before[i], "cache %d changed", i);
    CHECK(mla_pool_free_pages(pool) == 1, "%d free pages after a refused call, 1 before", mla_pool_free_pages(pool));
    REFUSED(mla_cache_append(k[0], 64 * 3, (float *)(void *)tokens, &error), MLA_ERR_FULL, "append", "pool");
    CHECK(mla_pool_free_pages(pool) == 1 && contents(k[0]) == before[0], "a refused append");
    q[2].n_tokens = 34;
    CHECK(mla_model_forward(x, q, 3, tokens, NULL) == MLA_OK && mla_pool_free_pages(pool) == 0, "what fits: %s",
          mla_context_error(x)->text);
    /* copy on write with nothing free: sharing costs nothing, writing does */
    mla_cache_reset(k[1]);
    MUST(mla_cache_fork(k[1], k[0], &error));
    fill_cache(k[2], 1, 0);
    mla_cache_reset(k[2]);
    fill_cache(k[2], 64 * 3, 0);
    for (int i = 0; i < 3; i++) before[i] = contents(k[i]);
    CHECK(mla_pool_free_pages(pool) == 0, "%d free pages", mla_pool_free_pages(pool));
    q[0].n_tokens = q[1].n_tokens = 1;
    REFUSED_IN(x, mla_model_forward(x, q, 1, tokens, NULL), MLA_ERR_FULL, "sequences[0]", "pool");
    for (int i = 0; i < 3; i++) CHECK(contents(k[i]) == before[i], "cache %d changed", i);
    /* the first sequence of a call could be served (by copying a shared page), the second could not */
    mla_cache_reset(k[2]);
    fill_cache(k[2], 64, 0);
    for (int i = 0; i < 3; i++) before[i] = contents(k[i]);
    mla_sequence p[2] = {sequence(k[0], 1), sequence(k[2], 150)};
    CHECK(mla_pool_free_pages(pool) == 2, "%d free pages", mla_pool_free_pages(pool));
    REFUSED_IN(x, mla_model_forward(x, p, 2, tokens, NULL), MLA_ERR_FULL, "sequences[1]", "pool");
    for (int i = 0; i < 3; i++) CHECK(contents(k[i]) == before[i], "cache %d changed", i);
    CHECK(mla_pool_free_pages(pool) == 2, "a refused call took a page: %d free, 2 before", mla_pool_free_pages(pool));
    /* the same with a token out of range */
    mla_cache_reset(k[1]);
    MUST(mla_cache_fork(k[1], k[0], &error));
    const int free_before = mla_pool_free_pages(pool);
    const int bad[1] = {VOCAB};
    REFUSED_IN(x, mla_model_forward(x, p, 1, bad, NULL), MLA_ERR_ARGUMENT, "tokens[0]", "");
    CHECK(mla_pool_free_pages(pool) == free_before, "a refused token took a page: %d free, %d before",
          mla_pool_free_pages(pool), free_before);
    for (int i = 0; i < 3; i++) mla_cache_destroy(k[i]);
    CHECK(mla_pool_free_pages(pool) == PAGES, "all pages are back");
    mla_pool_destroy(pool);
    mla_context_destroy(x);
    mla_model_destroy(m);
}

/* ---- layers one after the other ---------------------------------------------------------------------------------- */

static void test_layers(void) {
    enum { T = 3 };
    small s;
    make_small(&s);
    mla_model *m = model_of(&s);
    float in[T * D], y[T * D], want[L][WIDTH], row[WIDTH], probs[2 * L * T * H * T];
    test_rng r = {9};
    test_fill(&r, in, T * D, 1);
    SECTION("layers by themselves");
    for (mla_attn_path path = MLA_ATTN_AUTO; path < MLA_ATTN_PATH_COUNT; path = (mla_attn_path)(path + 1)) {
        mla_context *x = context_of(m, 128, path);
        mla_pool *pool;
        MUST(mla_pool_create(&pool, m, &(mla_pool_desc){.n_pages = 3}, &error));
        mla_cache *k = cache_of(m, 128, pool), *other = cache_of(m, 192, pool);
        mla_sequence q = sequence(k, T);
        for (int l = 0; l < L; l++) { /* probs is [n_tokens, H, keys] here, whatever the layer is */
            const float untouched = -7;
            int wrong = 0, written = 0;
            for (size_t i = 0; i < sizeof probs / sizeof *probs; i++) probs[i] = untouched;
            q.probs = probs;
            CHECK(mla_attn_forward(x, l, y, in, &q, 1) == MLA_OK, "layer %d: %s", l, mla_context_error(x)->text);
            for (int i = 0; i < T * H * T; i++) written += probs[i] != untouched;
            for (size_t i = T * H * T; i < sizeof probs / sizeof *probs; i++) wrong += probs[i] != untouched;
            CHECK(written == T * H * T && wrong == 0,
                  "mla_attn_forward, layer %d: %d of %d probabilities written, %d numbers behind them", l, written,
                  T * H * T, wrong);
            CHECK(mla_cache_length(k) == (l == L - 1 ? T : 0), "layer %d: length %d", l, mla_cache_length(k));
        }
        q.probs = NULL;
        for (int l = 0; l < L; l++) MUST(mla_cache_read(k, l, 0, want[l], &error));
        /* a refused call between two layers loses nothing of the first */
        mla_cache_reset(k);
        MUST(mla_attn_forward(x, 0, y, in, &q, 1));
        mla_sequence two[2] = {q, sequence(other, 125)};
        static float many[128 * D], many_y[128 * D];
        fill_cache(other, 60, 1);
        two[1].n_tokens = 120; /* 3 pages in all are too few */
        REFUSED_IN(x, mla_attn_forward(x, 1, many_y, many, two, 2), MLA_ERR_FULL, "sequences[1]", "pool");
        mla_cache_truncate(other, 0, NULL);
        fill_cache(other, 128, 3); /* takes what is free */
        if (mla_attn_forward(x, 1, y, in, &q, 1) == MLA_OK && mla_cache_length(k) == T) {
            MUST(mla_cache_read(k, 0, 0, row, &error));
            CHECK(memcmp(row, want[0], sizeof row) == 0, "layer 0's rows are lost after a refused call on layer 1");
            MUST(mla_cache_read(k, 1, 0, row, &error));
            CHECK(memcmp(row, want[1], sizeof row) == 0, "layer 1's rows");
        } else {
            CHECK(0, "after a refused call on layer 1: %s", mla_context_error(x)->text);
        }
        mla_cache_destroy(k), mla_cache_destroy(other);
        mla_pool_destroy(pool);
        mla_context_destroy(x);
    }
    mla_model_destroy(m);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

typedef struct counting { /* an allocator that can fail, and knows what it has given */
    int given, open, fail_at;
    size_t last;
} counting;

static void *count_alloc(void *user, size_t bytes) {
    counting *c = (counting *)user;
    c->last = bytes;
    if (++c->given == c->fail_at) return NULL;
    c->open++;
    return malloc(bytes);
}
static void count_free(void *user, void *memory) {
    counting *c = (counting *)user;
    if (memory) c->open--;
    free(memory);
}

/* Everything there is, made, used and given back; the first failure is handed on. */
static mla_result all_objects(const small *s, const mla_allocator *a) {
    mla_model *m = NULL;
    mla_context *x = NULL;
    mla_pool *pool = NULL;
    mla_cache *k = NULL, *paged = NULL;
    mla_context_desc xd;
    mla_cache_desc kd;
    const int tokens[4] = {1, 2, 3, 4};
    mla_result r;
    memset(&xd, 0, sizeof xd);
    memset(&kd, 0, sizeof kd);
    xd.max_tokens = 8, xd.threads = 2, xd.alloc = *a;
    kd.capacity = 8, kd.alloc = *a;
    wipe();
    if ((r = mla_model_create(&m, &s->c, &s->w, a, &error)) == MLA_OK &&
        (r = mla_context_create(&x, m, &xd, &error)) == MLA_OK &&
        (r = mla_pool_create(&pool, m, &(mla_pool_desc){.n_pages = 2, .dtype = MLA_F16, .alloc = *a}, &error)) ==
            MLA_OK &&
        (r = mla_cache_create(&k, m, &kd, &error)) == MLA_OK) {
        kd.pool = pool;
        if ((r = mla_cache_create(&paged, m, &kd, &error)) == MLA_OK) {
            const counting before = *(counting *)a->user;
            mla_sequence q[2] = {sequence(k, 2), sequence(paged, 2)};
            CHECK(mla_model_forward(x, q, 2, tokens, NULL) == MLA_OK, "%s", mla_context_error(x)->text);
            CHECK(before.given == ((counting *)a->user)->given, "a forward call allocates");
        }
    }
    mla_cache_destroy(paged), mla_cache_destroy(k), mla_pool_destroy(pool), mla_context_destroy(x),
        mla_model_destroy(m);
    return r;
}

static void test_allocator(void) {
    small s;
    counting c;
    mla_allocator a;
    mla_result r = MLA_ERR_MEMORY;
    int failures = 0;
    SECTION("allocator");
    make_small(&s);
    a.alloc = count_alloc, a.free = count_free, a.user = &c;
    for (int k = 1; r != MLA_OK && k < 100; k++) {
        memset(&c, 0, sizeof c);
        c.fail_at = k;
        r = all_objects(&s, &a);
        CHECK(c.open == 0, "allocation %d fails: %d blocks are lost", k, c.open);
        CHECK((r == MLA_ERR_MEMORY && c.given == k) || (r == MLA_OK && c.given < k), "allocation %d fails: %s", k,
              mla_result_name(r));
        if (r != MLA_OK) failures++, refused(r, MLA_ERR_MEMORY, &error, "memory", "bytes", __LINE__);
    }
    CHECK(failures >= 5 && r == MLA_OK, "%d allocations", failures);
    /* a config or tensor that is refused takes no memory or gives it back */
    mla_model *m;
    memset(&c, 0, sizeof c);
    s.c.topk_group = 99;
    CHECK(mla_model_create(&m, &s.c, &s.w, &a, &error) == MLA_ERR_CONFIG && c.open == 0,
          "a refused config loses memory");
    make_small(&s);
    const float inv[2] = {NAN, 1};
    s.c.rope.inv_freq = inv;
    CHECK(mla_model_create(&m, &s.c, &s.w, &a, &error) == MLA_ERR_CONFIG && c.open == 0,
          "refused frequencies lose memory");
    /* sizes beyond any memory are not asked for, or as what they are */
    make_small(&s);
    MUST(mla_model_create(&m, &s.c, &s.w, NULL, &error));
    mla_pool *pool;
    mla_context *x;
    mla_context_desc d;
    memset(&c, 0, sizeof c);
    c.fail_at = 1;
    REFUSED(mla_pool_create(&pool, m, &(mla_pool_desc){.n_pages = INT_MAX, .alloc = a}, &error), MLA_ERR_MEMORY,
            "memory", "bytes");
    CHECK(c.given == 0 || (double)c.last > 2147483647.0 * MLA_PAGE * L * WIDTH * 4,
          "INT_MAX pages: %.0f bytes asked for", (double)c.last);
    memset(&d, 0, sizeof d);
    memset(&c, 0, sizeof c);
    d.alloc = a, d.max_tokens = 1 << 24, d.threads = 4096, c.fail_at = 1;
    REFUSED(mla_context_create(&x, m, &d, &error), MLA_ERR_MEMORY, "memory", "bytes");
    CHECK(c.given == 0 || (double)c.last > 16777216.0 * D * 4 * 3, "16 million tokens: %.0f bytes asked for",
          (double)c.last);
    mla_model_destroy(m);
}

/* In memory of ours: at any alignment, and one byte too little. The block is as large as stated and no byte larger, so
   that tools that watch memory see what goes beyond. */
static void test_own_memory(void) {
    small s;
    mla_model *m, *made, *bad_m;
    mla_context *x, *bad_x;
    mla_pool *pool, *bad_pool;
    mla_cache *k, *bad_k;
    mla_context_desc xd;
    mla_cache_desc kd;
    const int tokens[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    static float want[VOCAB], logits[VOCAB];
    mla_outputs out;
    SECTION("memory of the caller");
    make_small(&s);
    made = model_of(&s);
    memset(&xd, 0, sizeof xd);
    memset(&kd, 0, sizeof kd);
    memset(&out, 0, sizeof out);
    xd.max_tokens = 9, xd.threads = 1;
    kd.capacity = 9;
    for (mla_isa isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa = (mla_isa)(isa + 1))
        for (size_t off = 0; off < 70 && mla_isa_available(isa); off += off < 17 ? 1 : 9)
            for (int paged = 0; paged < 2; paged++) {
                xd.isa = isa;
                const size_t size[4] = {mla_model_size(&s.c), mla_context_size(made, &xd),
                                        mla_pool_size(made, &(mla_pool_desc){.n_pages = 1}), 0};
                char *block[4];
                for (int i = 0; i < 3; i++)
                    block[i] = (char *)malloc(size[i] + off), memset(block[i], 0xa5, size[i] + off);
                wipe();
                refused(mla_model_init(&bad_m, block[0] + off, size[0] - 1, &s.c, &s.w, &error), MLA_ERR_MEMORY, &error,
                        "mla_model_init", "bytes", __LINE__);
                {
                    mla_weights less = s.w;
                    less.norm.weight.rows++;
                    refused(mla_model_init(&bad_m, block[0] + off, size[0], &s.c, &less, &error), MLA_ERR_WEIGHTS,
                            &error, "norm", "", __LINE__);
                }
                MUST(mla_model_init(&m, block[0] + off, size[0], &s.c, &s.w, &error));
                refused(mla_context_init(&bad_x, block[1] + off, size[1] - 1, m, &xd, &error), MLA_ERR_MEMORY, &error,
                        "mla_context_init", "bytes", __LINE__);
                MUST(mla_context_init(&x, block[1] + off, size[1], m, &xd, &error));
                refused(
                    mla_pool_init(&bad_pool, block[2] + off, size[2] - 1, m, &(mla_pool_desc){.n_pages = 1}, &error),
                    MLA_ERR_MEMORY, &error, "mla_pool_init", "bytes", __LINE__);
                MUST(mla_pool_init(&pool, block[2] + off, size[2], m, &(mla_pool_desc){.n_pages = 1}, &error));
                kd.pool = paged ? pool : NULL;
                const size_t cache_size = mla_cache_size(m, &kd);
                block[3] = (char *)malloc(cache_size + off);
                memset(block[3], 0xa5, cache_size + off);
                refused(mla_cache_init(&bad_k, block[3] + off, cache_size - 1, m, &kd, &error), MLA_ERR_MEMORY, &error,
                        "mla_cache_init", "bytes", __LINE__);
                CHECK(!bad_m && !bad_x && !bad_pool && !bad_k, "pointers after failures");
                MUST(mla_cache_init(&k, block[3] + off, cache_size, m, &kd, &error));
                mla_sequence q = sequence(k, 9);
                out.logits = logits;
                CHECK(mla_model_forward(x, &q, 1, tokens, &out) == MLA_OK, "%s", mla_context_error(x)->text);
                if (off == 0 && paged == 0) memcpy(want, logits, sizeof want);
                CHECK(memcmp(want, logits, sizeof want) == 0, "%s, offset %d: other logits", mla_isa_name(isa),
                      (int)off);
                mla_cache_destroy(k), mla_pool_destroy(pool), mla_context_destroy(x),
                    mla_model_destroy(m); /* frees nothing of ours */
                for (int i = 0; i < 4; i++) free(block[i]);
            }
    mla_model_destroy(made);
}

/* A context's scratch is as large as its calls need, for every isa, path and number of tokens: blocks are exact, see
 * above. */
static void test_scratch(void) {
    const int heads[] = {1, 2, 33, 130}, counts[] = {1, 2, 15, 17, 64, 200};
    static float in[200 * D], y[200 * D], first[200 * D];
    test_rng r = {17};
    SECTION("scratch is large enough");
    test_fill(&r, in, 200 * D, 1);
    for (size_t h = 0; h < sizeof heads / sizeof *heads; h++)
        for (size_t t = 0; t < sizeof counts / sizeof *counts; t++) {
            small s;
            make_small(&s);
            const size_t n = (size_t)(heads[h] * (N + P + N + V) * D);
            float *weights = (float *)malloc(n * sizeof *weights);
            int runs = 0;
            test_fill(&r, weights, n, 0.3f);
            s.c.num_attention_heads = heads[h];
            for (int l = 0; l < L; l++) {
                s.layers[l].attn.q_b.weight = mla_view(weights, MLA_F32, heads[h] * (N + P), Q);
                s.layers[l].attn.kv_b.weight = mla_view(weights, MLA_F32, heads[h] * (N + V), R);
                s.layers[l].attn.o.weight = mla_view(weights, MLA_F32, D, heads[h] * V);
            }
            mla_model *m = model_of(&s);
            for (mla_isa isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa = (mla_isa)(isa + 1))
                for (int path = MLA_ATTN_NAIVE; path < MLA_ATTN_PATH_COUNT && mla_isa_available(isa); path++) {
                    mla_context_desc d;
                    mla_context *x;
                    memset(&d, 0, sizeof d);
                    d.max_tokens = counts[t], d.threads = 1, d.isa = isa, d.attn = (mla_attn_path)path;
                    const size_t bytes = mla_context_size(m, &d), guard = 4096;
                    unsigned char *block = (unsigned char *)malloc(bytes + guard);
                    memset(block + bytes, 0x5a, guard);
                    MUST(mla_context_init(&x, block, bytes, m, &d, &error));
                    mla_cache *k = cache_of(m, counts[t], NULL);
                    mla_sequence q = sequence(k, counts[t]);
                    CHECK(mla_attn_forward(x, L - 1, y, in, &q, 1) == MLA_OK, "%s", mla_context_error(x)->text);
                    /* all ways agree, so that nothing was written over within the block either (their rounding is
                     * another test's matter) */
                    if (runs++ == 0) memcpy(first, y, sizeof y);
                    CHECK(test_rel_err(y, first, (size_t)(counts[t] * D)) < 1e-4f,
                          "%s, path %d, %d heads, %d tokens: another answer than the first way's", mla_isa_name(isa),
                          path, heads[h], counts[t]);
                    size_t bad = 0;
                    for (size_t i = 0; i < guard; i++) bad += block[bytes + i] != 0x5a;
                    CHECK(bad == 0, "%s, path %d, %d heads, %d tokens: %d bytes written behind the context",
                          mla_isa_name(isa), path, heads[h], counts[t], (int)bad);
                    mla_cache_destroy(k);
                    mla_context_destroy(x);
                    free(block);
                }
            mla_model_destroy(m);
            free(weights);
        }
}

/* ---- what may crash, in a process of its own --------------------------------------------------------------------- */

/* A paged cache of the largest capacity is asked for as many tokens. */
static int append_without_end(void) {
    small s;
    make_small(&s);
    mla_model *m = model_of(&s);
    mla_pool *pool;
    MUST(mla_pool_create(&pool, m, &(mla_pool_desc){.n_pages = 2}, &error));
    mla_cache *k = cache_of(m, INT_MAX, pool);
    float row[L * WIDTH];
    memset(row, 0, sizeof row);
    /* one page's rows are there: more is asked for than any pool has */
    const int ok = mla_cache_append(k, INT_MAX, row, &error) == MLA_ERR_FULL && mla_cache_length(k) == 0 &&
                   mla_pool_free_pages(pool) == 2;
    mla_cache_destroy(k);
    mla_pool_destroy(pool);
    mla_model_destroy(m);
    return ok;
}

static void test_apart(int (*f)(void), const char *what) {
#if HAS_FORK
    fflush(stdout);
    int status = 0;
    const pid_t child = fork();
    if (child == 0) _exit(f() ? 0 : 1);
    const int waited = child > 0 && waitpid(child, &status, 0) == child;
    CHECK(waited && WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: %s %d", what,
          WIFEXITED(status) ? "exit status" : "signal", WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
#else
    (void)f, (void)what;
#endif
}

static void backwards(void *user, int n, void (*task)(void *arg, int i), void *arg) {
    ++*(int *)user;
    while (n-- > 0) task(arg, n);
}

static void test_thread_hook(void) {
    const int threads[] = {1, 2, 5, 1000};
    float want[VOCAB], logits[VOCAB];
    const int tokens[5] = {1, 2, 3, 4, 5};
    small s;
    SECTION("a thread pool of the caller");
    make_small(&s);
    mla_model *m = model_of(&s);
    for (int i = 0; i < 4; i++) {
        int calls = 0;
        mla_context_desc d;
        mla_context *x;
        mla_outputs out;
        mla_cache *k = cache_of(m, 5, NULL);
        mla_sequence q = sequence(k, 5);
        memset(&d, 0, sizeof d);
        memset(&out, 0, sizeof out);
        d.max_tokens = 5, d.threads = threads[i], d.run = backwards, d.run_user = &calls;
        out.logits = i ? logits : want;
        MUST(mla_context_create(&x, m, &d, &error));
        CHECK(mla_context_threads(x) == threads[i], "%d threads", mla_context_threads(x));
        CHECK(mla_model_forward(x, &q, 1, tokens, &out) == MLA_OK, "%s", mla_context_error(x)->text);
        CHECK(!i || memcmp(want, logits, sizeof want) == 0, "%d threads: other logits", threads[i]);
        mla_context_destroy(x);
        mla_cache_destroy(k);
    }
    mla_model_destroy(m);
}

static void test_version(void) {
    int major = -1, minor = -1, patch = -1;
    SECTION("version");
    CHECK(sscanf(MLA_VERSION, "%d.%d.%d", &major, &minor, &patch) == 3 &&
              10000 * major + 100 * minor + patch == MLA_VERSION_NUMBER,
          "%s is not %d", MLA_VERSION, MLA_VERSION_NUMBER);
}

int main(void) {
    test_version();
    test_config();
    test_config_relations();
    test_rope_combinations();
    test_presets();
    test_weights();
    test_weights_relations();
    test_arguments();
    test_partial();
    test_cache_ends();
    test_forks();
    test_exhaustion();
    test_layers();
    test_allocator();
    test_own_memory();
    test_scratch();
    test_thread_hook();
    SECTION("the largest cache");
    test_apart(append_without_end, "mla_cache_append of INT_MAX tokens");
    return test_end();
}
