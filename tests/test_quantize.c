/* test_quantize.c - Q8 and Q4 blocks against GGUF's layout and formulas, and examples/quantize.h on checkpoints of
   every dtype. Run from the repository root. test_quantize --report also prints the errors that were measured. An error
   of logits is relative to the largest logit of the reference. */

#define _DEFAULT_SOURCE /* mkdtemp, madvise */

#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define MLA_IMPLEMENTATION
#include "mla.h"
#include "test.h"

/* The converter allocates through these, so that the k-th allocation can fail. */
static long alloc_countdown = -1; /* -1: never; 0: the next one fails */
static void *test_malloc(size_t n) { return alloc_countdown >= 0 && alloc_countdown-- == 0 ? NULL : malloc(n); }
static void *test_calloc(size_t n, size_t size) {
    return alloc_countdown >= 0 && alloc_countdown-- == 0 ? NULL : calloc(n, size);
}
#define malloc test_malloc
#define calloc test_calloc
#define CHECKPOINT_IMPLEMENTATION
#include "examples/quantize.h"
#undef malloc
#undef calloc

#define FIXTURES "tests/fixtures/checkpoints/"

static int reporting;

static void *need(void *p) {
    if (!p) puts("out of memory in the test"), exit(2);
    return p;
}

/* ---- an independent reading of the formats ----------------------------------------------------------------------- */

static float own_f16(const unsigned char *b) {
    const int h = b[0] | b[1] << 8, e = h >> 10 & 31, m = h & 1023;
    const double x = e == 31 ? (m ? (double)NAN : (double)INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return (float)(h >> 15 ? -x : x);
}

static float own_e4m3(int b) {
    const int e = b >> 3 & 15, m = b & 7;
    const double x = (b & 127) == 127 ? (double)NAN : e ? ldexp(8 + m, e - 10) : ldexp(m, -9);
    return (float)(b >> 7 ? -x : x);
}

static float own_bf16(const unsigned char *b) {
    const uint32_t u = (uint32_t)b[0] << 16 | (uint32_t)b[1] << 24;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* Element i of a row of ggml's block_q8_0 {half d; int8 qs[32]} or block_q4_0 {half d; uint8 qs[16]}. */
static float own_block(mla_dtype t, const unsigned char *row, size_t i) {
    const unsigned char *b = row + i / 32 * (t == MLA_Q8 ? 34 : 18);
    const size_t j = i % 32;
    if (t == MLA_Q8) return own_f16(b) * (float)(int8_t)b[2 + j];
    return own_f16(b) * (float)((j < 16 ? b[2 + j] & 15 : b[2 + j - 16] >> 4) - 8);
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

static void quantize(mla_dtype t, void *out, const float *x, size_t n) {
    mla_error err;
    if (mla_quantize(t, out, x, n, &err)) CHECK(0, "%s of %zu: %s", mla_dtype_name(t), n, err.text);
}

static void test_layout(void) {
    unsigned char got[34], want[34];
    float x[32];
    test_rng r = {1};
    SECTION("blocks are byte for byte Q8_0 and Q4_0");
    CHECK(mla_dtype_bytes(MLA_Q8, 96) == 3 * 34 && mla_dtype_bytes(MLA_Q4, 96) == 3 * 18, "sizes of blocks");
    for (int trial = 0; trial < 200;
         trial++) { /* numbers that the format has exactly: codes times a power of two, the extreme code among them */
        const int e = test_int(&r, 13), half = (15 - e) << 10; /* d = 2^-e */
        for (int t = MLA_Q8; t <= MLA_Q4; t++) {
            memset(want, 0, sizeof want);
            want[0] = (unsigned char)(half & 255), want[1] = (unsigned char)(half >> 8);
            for (int i = 0; i < 32; i++) {
                int q = t == MLA_Q8 ? test_int(&r, 255) - 127 : test_int(&r, 16) - 8;
                if (i == trial % 32) q = t == MLA_Q8 ? -127 : -8;
                x[i] = (float)ldexp(q, -e);
                if (t == MLA_Q8) want[2 + i] = (unsigned char)(q & 255);
                else want[2 + i % 16] = (unsigned char)(want[2 + i % 16] | (q + 8) << (i < 16 ? 0 : 4));
            }
            quantize((mla_dtype)t, got, x, 32);
            CHECK(!memcmp(got, want, t == MLA_Q8 ? 34 : 18), "%s block %d", mla_dtype_name((mla_dtype)t), trial);
            for (int i = 0; i < 32; i++)
                if (own_block((mla_dtype)t, got, (size_t)i) != x[i])
                    CHECK(0, "%s block %d element %d", mla_dtype_name((mla_dtype)t), trial, i);
        }
    }
}

/* ggml's quantize_row_q8_0: d = amax / 127, codes round(x / d), d kept as f16. */
static void test_q8_formula(void) {
    enum { N = 1 << 16 };
    float *x = (float *)need(malloc(N * sizeof *x));
    unsigned char *b = (unsigned char *)need(malloc(mla_dtype_bytes(MLA_Q8, N)));
    test_rng r = {2};
    int other = 0, far = 0, scales = 0, outside = 0;
    double worst = 0;
    SECTION("q8 against the formula of ggml, and its round trip");
    test_fill(&r, x, N, 1);
    quantize(MLA_Q8, b, x, N);
    for (size_t g = 0; g < N / 32; g++) {
        const unsigned char *block = b + 34 * g;
        float amax = 0, d;
        for (size_t i = 0; i < 32; i++) amax = fmaxf(amax, fabsf(x[32 * g + i]));
        d = amax / 127;
        scales += mla_f32_to_f16(d) != (block[0] | block[1] << 8);
        for (size_t i = 0; i < 32; i++) {
            const int code = (int8_t)block[2 + i], ggml = (int)roundf(x[32 * g + i] * (1 / d));
            const double off = fabs((double)own_block(MLA_Q8, block, i) - (double)x[32 * g + i]) / (double)d;
            other += code != ggml, far += abs(code - ggml) > 1 || abs(code) > 127;
            worst = off > worst ? off : worst;
            outside += off > 0.5003; /* half a step of a d that f16 rounded by up to 2^-11 */
        }
    }
    CHECK(!scales, "%d scales differ from f16(amax / 127)", scales);
    CHECK(!far, "%d codes differ by more than rounding", far);
    CHECK(other < N / 20, "%d of %d codes differ", other, N); /* only where d's rounding to f16 moved them */
    CHECK(!outside, "round trip: %d elements further than 0.5003 d, the worst %g", outside, worst);
    if (reporting)
        printf("  q8: %.2f %% of codes differ from ggml's by one, largest error %.4f d\n", 100.0 * other / N, worst);
    free(x), free(b);
}

/* ggml's quantize_row_q4_0: d = the value of largest magnitude / -8, codes min(15, x / d + 8.5). */
static void ggml_q4(unsigned char *b, const float *x) {
    float top = 0;
    for (int i = 0; i < 32; i++) top = fabsf(x[i]) > fabsf(top) ? x[i] : top;
    const float d = top / -8, id = d != 0 ? 1 / d : 0;
    const uint16_t h = mla_f32_to_f16(d);
    b[0] = (unsigned char)(h & 255), b[1] = (unsigned char)(h >> 8);
    for (int i = 0; i < 16; i++) {
        const int low = (int)(x[i] * id + 8.5f), high = (int)(x[i + 16] * id + 8.5f);
        b[2 + i] = (unsigned char)((low < 15 ? low : 15) | (high < 15 ? high : 15) << 4);
    }
}

static double squared(mla_dtype t, const unsigned char *b, const float *x) {
    double sum = 0;
    for (size_t i = 0; i < 32; i++) {
        const double e = (double)own_block(t, b, i) - (double)x[i];
        sum += e * e;
    }
    return sum;
}

/* Squared error of x [n] over its squares: plain rounding and the search. worse: groups in which the search lost by
 * more than 1 %. */
static void q4_errors(const float *x, size_t n, double *plain, double *search, int *worse) {
    unsigned char b[18], p[18];
    double sum = 0;
    for (size_t g = 0; g < n; g += 32) {
        ggml_q4(p, x + g);
        quantize(MLA_Q4, b, x + g, 32);
        const double ep = squared(MLA_Q4, p, x + g), eb = squared(MLA_Q4, b, x + g);
        for (size_t i = 0; i < 32; i++) sum += (double)x[g + i] * (double)x[g + i];
        *plain += ep, *search += eb, *worse += eb > 1.01 * ep;
    }
    *plain /= sum, *search /= sum;
}

static void test_q4_search(void) {
    enum { N = 1 << 17 };
    static const char *const names[] = {"gaussian", "uniform", "long-tailed"};
    static const double margins[] = {0.91, 0.85, 0.96}; /* measured 0.886, 0.820, 0.940 */
    float *x = (float *)need(malloc(N * sizeof *x));
    test_rng r = {3};
    SECTION("q4 searches its scale: squared error below plain rounding");
    for (int k = 0; k < 3; k++) {
        double plain = 0, search = 0;
        int worse = 0;
        for (int i = 0; i < N; i++) {
            const float u = test_gauss(&r);
            x[i] = k == 0 ? 0.02f * u : k == 1 ? test_uniform(&r) - 0.5f : u * u * u;
        }
        q4_errors(x, N, &plain, &search, &worse);
        if (reporting)
            printf("  q4, %s: squared error %.6f of the squares, plain rounding %.6f, ratio %.3f\n", names[k], search,
                   plain, search / plain);
        CHECK(search < margins[k] * plain, "%s: %g, plain %g", names[k], search, plain);
        CHECK(worse == 0, "%s: worse than plain rounding in %d of %d groups", names[k], worse, N / 32);
    }
    free(x);
}

/* What plain rounding makes of 256 values: scales from the largest of each group, as the format keeps them. */
static float half(float f) { return mla_f16_to_f32(mla_f32_to_f16(f)); }
static float nearest(float q, float least, float most) { return fminf(fmaxf(rintf(q), least), most); }
/* Q4_K, Q5_K: d q - m, both in 63rds of the block's largest */
static void plain_k(float *y, const float *x, float most) {
    float d[8], m[8], top_d = 0, top_m = 0;
    for (int j = 0; j < 8; j++) {
        float low = 0, high = x[32 * j];
        for (int i = 0; i < 32; i++) low = fminf(low, x[32 * j + i]), high = fmaxf(high, x[32 * j + i]);
        d[j] = (high - low) / most, m[j] = -low;
        top_d = fmaxf(top_d, d[j]), top_m = fmaxf(top_m, m[j]);
    }
    const float unit_d = half(top_d / 63), unit_m = half(top_m / 63);
    for (int i = 0; i < 256; i++) {
        const float s = unit_d > 0 ? unit_d * nearest(d[i / 32] / unit_d, 0, 63) : 0;
        const float low = unit_m > 0 ? unit_m * nearest(m[i / 32] / unit_m, 0, 63) : 0;
        y[i] = s > 0 ? s * nearest((x[i] + low) / s, 0, most) - low : -low;
    }
}
static void plain_q6_k(float *y, const float *x) { /* groups of 16, d in 127ths of the block's largest */
    float d[16], top = 0;
    for (int j = 0; j < 16; j++) {
        d[j] = 0;
        for (int i = 0; i < 16; i++) d[j] = fabsf(x[16 * j + i]) > fabsf(d[j]) ? x[16 * j + i] : d[j];
        d[j] /= -32, top = fabsf(d[j]) > fabsf(top) ? d[j] : top;
    }
    const float unit = half(top / -128);
    for (int i = 0; i < 256; i++) {
        const float s = unit != 0 ? unit * nearest(d[i / 16] / unit, -128, 127) : 0;
        y[i] = s != 0 ? s * nearest(x[i] / s, -32, 31) : 0;
    }
}
static void plain_iq4_nl(float *y, const float *x) { /* the largest of 32 becomes the list's largest, -127 */
    static const float list[] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    for (int j = 0; j < 256; j += 32) {
        float top = 0;
        for (int i = 0; i < 32; i++) top = fabsf(x[j + i]) > fabsf(top) ? x[j + i] : top;
        const float d = half(top / -127);
        for (int i = j; i < j + 32; i++) {
            int best = 0;
            for (int k = 1; k < 16; k++) best = fabsf(d * list[k] - x[i]) < fabsf(d * list[best] - x[i]) ? k : best;
            y[i] = d * list[best];
        }
    }
}
/* Squared error over squares, of the library and of plain rounding, of x [n], n a multiple of 256. */
static void search_errors(mla_dtype t, const float *x, size_t n, double *search, double *plain) {
    double sum = 0;
    *search = *plain = 0;
    for (size_t at = 0; at < n; at += 256) {
        unsigned char b[256];
        float y[256], p[256];
        quantize(t, b, x + at, 256);
        mla_widen(y, t, b, 256);
        if (t == MLA_Q6_K) plain_q6_k(p, x + at);
        else if (t == MLA_IQ4_NL) plain_iq4_nl(p, x + at);
        else plain_k(p, x + at, t == MLA_Q4_K ? 15 : 31);
        for (int i = 0; i < 256; i++) {
            const double w = (double)x[at + (size_t)i];
            sum += w * w, *search += ((double)y[i] - w) * ((double)y[i] - w);
            *plain += ((double)p[i] - w) * ((double)p[i] - w);
        }
    }
    *search /= sum, *plain /= sum;
}
static void test_searches(void) {
    enum { N = 1 << 17 };
    static const mla_dtype types[] = {MLA_Q4_K, MLA_Q5_K, MLA_Q6_K, MLA_IQ4_NL};
    float *x = (float *)need(malloc(N * sizeof *x));
    test_rng r = {5};
    checkpoint *c;
    mla_error err;
    SECTION("searched scales: squared error below plain rounding");
    if (!CHECK(checkpoint_open(&c, "examples/tales", &err) == MLA_OK, "%s", err.text)) return;
    for (int k = 0; k < 2; k++) {
        size_t n = 0;
        for (int i = 0; k == 0 && i < N; i++) x[i] = 0.02f * test_gauss(&r), n = N;
        for (int l = 0; k == 1 && l < c->config.num_hidden_layers; l++)
            for (int e = 0; c->weights.layers[l].moe.experts && e < c->config.n_routed_experts; e++) {
                const mla_tensor *w = &c->weights.layers[l].moe.experts[e].gate.weight;
                for (int i = 0; i < w->rows * w->cols && n < N; i++) x[n++] = mla_weight(w, i / w->cols, i % w->cols);
            }
        n -= n % 256;
        CHECK(n > N / 8, "%zu weights", n);
        for (int t = 0; t < 4; t++) {
            double search, plain;
            search_errors(types[t], x, n, &search, &plain);
            if (reporting)
                printf("  %s, %s: squared error %.3e of the squares, plain rounding %.3e, ratio %.3f\n",
                       mla_dtype_name(types[t]), k ? "the demo model" : "gaussian", search, plain, search / plain);
            CHECK(search < 0.97 * plain, "%s: %g, plain %g", mla_dtype_name(types[t]), search, plain);
        }
    }
    checkpoint_close(c), free(x);
}

/* Groups whose weights are all, or nearly, the same. */
static void test_even_groups(void) {
    static const mla_dtype types[] = {MLA_Q8, MLA_Q4, MLA_Q4_K, MLA_Q5_K, MLA_Q6_K, MLA_IQ4_NL};
    float x[256], y[256];
    unsigned char b[1024];
    SECTION("groups of one value");
    for (size_t t = 0; t < sizeof types / sizeof *types; t++)
        for (int k = 0; k < 4; k++) {
            double error = 0, sum = 0;
            for (int i = 0; i < 256; i++)
                x[i] = k == 0 ? 1 : k == 1 ? -1 : k == 2 ? (i & 32 ? 0.5f : 0.25f) : 1 + 1e-3f * (float)(i % 7);
            quantize(types[t], b, x, 256);
            mla_widen(y, types[t], b, 256);
            for (int i = 0; i < 256; i++)
                error += (double)(y[i] - x[i]) * (double)(y[i] - x[i]), sum += (double)x[i] * (double)x[i];
            CHECK(error < 4e-4 * sum, "%s, case %d: squared error %g of the squares", mla_dtype_name(types[t]), k,
                  error / sum);
        }
}

static void test_odd_groups(void) {
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3.4e38f, -3.4e38f, 1e-45f, -1e-38f, 65504.0f * 127, 1e4f};
    float x[96], y[96];
    unsigned char a[3 * 34], b[3 * 34];
    test_rng r = {4};
    SECTION("zeros, one huge value, values that are no numbers");
    for (int t = MLA_Q8; t <= MLA_Q4; t++) {
        const size_t block = mla_dtype_bytes((mla_dtype)t, 32);
        const char *name = mla_dtype_name((mla_dtype)t);
        memset(x, 0, sizeof x);
        x[3] = -0.0f;
        quantize((mla_dtype)t, a, x, 96);
        for (size_t i = 0; i < 96; i++) CHECK(own_block((mla_dtype)t, a, i) == 0, "%s: zero %zu", name, i);
        test_fill(&r, x, 96, 1);
        quantize((mla_dtype)t, a, x, 96);
        for (size_t k = 0; k < sizeof odd / sizeof *odd; k++)
            for (size_t at = 32; at < 64; at += 31) { /* first and last of the middle group, then all of it */
                memcpy(y, x, sizeof y);
                y[at] = odd[k];
                quantize((mla_dtype)t, b, y, 96);
                CHECK(!memcmp(a, b, block) && !memcmp(a + 2 * block, b + 2 * block, block),
                      "%s: %g spoils another group", name, (double)odd[k]);
                for (size_t i = 32; i < 64; i++) y[i] = odd[k];
                quantize((mla_dtype)t, b, y, 96);
                CHECK(!memcmp(a, b, block) && !memcmp(a + 2 * block, b + 2 * block, block), "%s: 32 times %g", name,
                      (double)odd[k]);
            }
        memset(x, 0, sizeof x);
        for (size_t i = 0; i < 32; i++) x[i] = 0.01f * (float)i;
        x[7] = -3000;
        quantize((mla_dtype)t, b, x, 32);
        CHECK(fabsf(own_block((mla_dtype)t, b, 7) + 3000) <= 3000.0f / 1024, "%s: the huge one is %g", name,
              (double)own_block((mla_dtype)t, b, 7));
        for (size_t i = 0; i < 32; i++)
            if (i != 7)
                CHECK(own_block((mla_dtype)t, b, i) == 0, "%s: a small one beside it is %g", name,
                      (double)own_block((mla_dtype)t, b, i));
    }
}

/* ---- checkpoints of every dtype ---------------------------------------------------------------------------------- */

enum { MAX_TENSORS = 320 };

typedef struct named {
    char name[96];
    int n_dims, rows, cols;
    float *x;
} named;

typedef struct set { /* a checkpoint in f32 */
    named t[MAX_TENSORS];
    int n;
    char config[4096];
} set;

typedef enum kind { AS_F32, AS_F16, AS_BF16, AS_FP8, AS_FP8_UE8M0, KINDS } kind;
static const char *const kind_names[] = {"f32", "f16", "bf16", "fp8", "fp8 with ue8m0"};

static char dir[64]; /* temporary */

static const char *in_dir(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void add(set *s, const char *name, int n_dims, int rows, int cols, float *x) {
    named *t = &s->t[s->n++];
    if (s->n > MAX_TENSORS) puts("too many tensors in the test"), exit(2);
    snprintf(t->name, sizeof t->name, "%s", name);
    t->n_dims = n_dims, t->rows = rows, t->cols = cols, t->x = x;
}

static void drop(set *s) {
    for (int i = 0; i < s->n; i++) free(s->t[i].x);
    s->n = 0;
}

/* Tensor t of an open file in f32, with its scales. */
static float *widened(const st_file *f, const st_tensor *t) {
    const size_t n = t->n_dims == 2 ? (size_t)(t->dims[0] * t->dims[1]) : (size_t)t->dims[0],
                 cols = (size_t)t->dims[t->n_dims - 1];
    const unsigned char *b = (const unsigned char *)t->data;
    float *x = (float *)need(malloc(n * sizeof *x));
    char name[160];
    snprintf(name, sizeof name, "%s_scale_inv", t->name);
    const st_tensor *s = st_find(f, name);
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(t->dtype, "F32")) memcpy(&x[i], b + 4 * i, 4);
        else if (!strcmp(t->dtype, "F16")) x[i] = own_f16(b + 2 * i);
        else if (!strcmp(t->dtype, "BF16")) x[i] = own_bf16(b + 2 * i);
        else x[i] = own_e4m3(b[i]);
        if (!s) continue;
        const size_t block = i / cols / 128 * ((cols + 127) / 128) + i % cols / 128;
        float scale;
        memcpy(&scale, (const char *)s->data + (strcmp(s->dtype, "F32") ? 0 : 4 * block),
               strcmp(s->dtype, "F32") ? 1 : 4);
        x[i] *= strcmp(s->dtype, "F32") ? (float)ldexp(1, ((const unsigned char *)s->data)[block] - 127) : scale;
    }
    return x;
}

static void read_set(set *s, const char *fixture) {
    char path[256];
    mla_error err;
    st_file *f;
    snprintf(path, sizeof path, FIXTURES "%s/config.json", fixture);
    FILE *config = fopen(path, "rb");
    snprintf(path, sizeof path, FIXTURES "%s/model.safetensors", fixture);
    if (!config || st_open(&f, path, &err))
        printf("cannot read %s: run this from the repository root\n", path), exit(2);
    s->n = 0;
    s->config[fread(s->config, 1, sizeof s->config - 1, config)] = 0;
    fclose(config);
    for (size_t i = 0; i < st_count(f); i++) {
        const st_tensor *t = st_at(f, i);
        if (strstr(t->name, "_scale_inv")) continue;
        add(s, t->name, t->n_dims, t->n_dims == 2 ? (int)t->dims[0] : 1, (int)t->dims[t->n_dims - 1], widened(f, t));
    }
    st_close(f);
}

/* One dense layer whose down_proj has rows of 2080: more than a piece, no multiple of 128. */
static void make_wide(set *s, int vocab) {
    const struct {
        const char *name;
        int n_dims, rows, cols;
    } all[] = {{"lm_head.weight", 2, vocab, 64},
               {"model.embed_tokens.weight", 2, vocab, 64},
               {"model.layers.0.input_layernorm.weight", 1, 1, 64},
               {"model.layers.0.mlp.down_proj.weight", 2, 64, 2080},
               {"model.layers.0.mlp.gate_proj.weight", 2, 2080, 64},
               {"model.layers.0.mlp.up_proj.weight", 2, 2080, 64},
               {"model.layers.0.post_attention_layernorm.weight", 1, 1, 64},
               {"model.layers.0.self_attn.kv_a_layernorm.weight", 1, 1, 32},
               {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight", 2, 48, 64},
               {"model.layers.0.self_attn.kv_b_proj.weight", 2, 128, 32},
               {"model.layers.0.self_attn.o_proj.weight", 2, 64, 64},
               {"model.layers.0.self_attn.q_proj.weight", 2, 96, 64},
               {"model.norm.weight", 1, 1, 64}};
    test_rng r = {5};
    s->n = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const size_t n = (size_t)all[i].rows * (size_t)all[i].cols;
        float *x = (float *)need(malloc(n * sizeof *x));
        test_fill(&r, x, n, 0.1f);
        for (size_t k = 0; k < n && all[i].n_dims == 1; k++) x[k] = 1;
        add(s, all[i].name, all[i].n_dims, all[i].rows, all[i].cols, x);
    }
    snprintf(s->config, sizeof s->config,
             "{\"model_type\": \"deepseek_v2\", \"hidden_size\": 64, \"vocab_size\": %d, \"num_hidden_layers\": 1, "
             "\"intermediate_size\": 2080,"
             " \"num_attention_heads\": 2, \"kv_lora_rank\": 32, \"qk_nope_head_dim\": 32, \"qk_rope_head_dim\": 16, "
             "\"v_head_dim\": 32,"
             " \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, "
             "\"tie_word_embeddings\": false}",
             vocab);
}

static int nearest_e4m3(float x) {
    static float value[127]; /* grows with the code */
    int low = 0, high = 126;
    if (value[126] == 0)
        for (int i = 0; i < 127; i++) value[i] = own_e4m3(i);
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (value[middle] <= fabsf(x)) low = middle;
        else high = middle;
    }
    return (x < 0 ? 128 : 0) | (value[high] - fabsf(x) < fabsf(x) - value[low] ? high : low);
}

typedef struct writer {
    char header[32768];
    unsigned char *data;
    size_t length, used, capacity;
} writer;

static unsigned char *put(writer *w, const char *name, const char *suffix, const char *dtype, int n_dims, int rows,
                          int cols, size_t bytes) {
    char shape[64];
    snprintf(shape, sizeof shape, n_dims == 2 ? "%d, %d" : "%d", n_dims == 2 ? rows : cols, cols);
    w->length += (size_t)snprintf(w->header + w->length, sizeof w->header - w->length,
                                  "%s\"%s%s\": {\"dtype\": \"%s\", \"shape\": [%s], "
                                  "\"data_offsets\": [%zu, %zu]}",
                                  w->length > 1 ? ", " : "", name, suffix, dtype, shape, w->used, w->used + bytes);
    if (w->length >= sizeof w->header) puts("the header is too long for the test"), exit(2);
    while (w->used + bytes > w->capacity)
        w->data = (unsigned char *)need(realloc(w->data, w->capacity = 2 * w->capacity + 65536));
    w->used += bytes;
    return w->data + w->used - bytes;
}

static void put_fp8(writer *w, const named *t, int ue8m0) {
    const int down = (t->rows + 127) / 128, across = (t->cols + 127) / 128;
    float *scale = (float *)need(malloc((size_t)(down * across) * sizeof *scale));
    unsigned char *b = put(w, t->name, "", "F8_E4M3", 2, t->rows, t->cols, (size_t)t->rows * (size_t)t->cols), *s;
    for (int k = 0; k < down * across; k++) {
        const int r0 = k / across * 128, c0 = k % across * 128;
        float amax = 0;
        for (int r = r0; r < t->rows && r < r0 + 128; r++)
            for (int c = c0; c < t->cols && c < c0 + 128; c++) amax = fmaxf(amax, fabsf(t->x[r * t->cols + c]));
        scale[k] = ue8m0 ? (float)ldexp(1, (int)ceil(log2((double)amax / 448))) : amax / 448;
        for (int r = r0; r < t->rows && r < r0 + 128; r++)
            for (int c = c0; c < t->cols && c < c0 + 128; c++)
                b[r * t->cols + c] = (unsigned char)nearest_e4m3(t->x[r * t->cols + c] / scale[k]);
    }
    s = put(w, t->name, "_scale_inv", ue8m0 ? "F8_E8M0" : "F32", 2, down, across,
            (size_t)(down * across) * (ue8m0 ? 1 : 4));
    for (int k = 0; k < down * across; k++) {
        if (ue8m0) s[k] = (unsigned char)((int)log2((double)scale[k]) + 127);
        else memcpy(s + 4 * k, &scale[k], 4);
    }
    free(scale);
}

static void write_file(const char *name, const void *a, size_t n, const void *b, size_t m) {
    FILE *f = fopen(in_dir(name), "wb");
    if (!f || fwrite(a, 1, n, f) != n || fwrite(b, 1, m, f) != m || fclose(f))
        printf("cannot write %s\n", in_dir(name)), exit(2);
}

/* The set as a checkpoint in dir. tied: without lm_head. */
static void write_set(const set *s, kind k, int tied) {
    static const char *const dtypes[] = {"F32", "F16", "BF16"};
    char config[4600];
    writer w;
    memset(&w, 0, sizeof w);
    w.header[w.length++] = '{';
    for (int i = 0; i < s->n; i++) {
        const named *t = &s->t[i];
        const size_t n = (size_t)t->rows * (size_t)t->cols;
        if (tied && !strcmp(t->name, "lm_head.weight")) continue;
        if (k >= AS_FP8 && strstr(t->name, "_proj")) {
            put_fp8(&w, t, k == AS_FP8_UE8M0);
            continue;
        }
        const kind plain = k >= AS_FP8 ? AS_BF16 : k;
        unsigned char *b =
            put(&w, t->name, "", dtypes[plain], t->n_dims, t->rows, t->cols, n * (plain == AS_F32 ? 4 : 2));
        for (size_t j = 0; j < n; j++) {
            const uint16_t h = plain == AS_F16 ? mla_f32_to_f16(t->x[j]) : mla_f32_to_bf16(t->x[j]);
            if (plain == AS_F32) memcpy(b + 4 * j, &t->x[j], 4);
            else memcpy(b + 2 * j, &h, 2);
        }
    }
    w.header[w.length++] = '}';
    unsigned char *file = (unsigned char *)need(malloc(8 + w.length));
    for (int i = 0; i < 8; i++) file[i] = (unsigned char)((uint64_t)w.length >> (8 * i));
    memcpy(file + 8, w.header, w.length);
    write_file("model.safetensors", file, 8 + w.length, w.data, w.used);
    free(file), free(w.data);
    snprintf(config, sizeof config, "{%s%s",
             k < AS_FP8 ? ""
             : k == AS_FP8_UE8M0
                 ? "\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128], "
                   "\"scale_fmt\": \"ue8m0\"},"
                 : "\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]},",
             strchr(s->config, '{') + 1);
    char *tie = strstr(config, "\"tie_word_embeddings\": false");
    if (tied && tie) memcpy(tie + 23, "true ", 5);
    write_file("config.json", config, strlen(config), "", 0);
}

static checkpoint *open_dir(const char *path) {
    mla_error err;
    checkpoint *c;
    if (checkpoint_open(&c, path, &err)) printf("%s: %s\n", path, err.text), exit(2);
    return c;
}

/* The view that belongs to a name in the file, and its class; -1: one that is never converted. */
static mla_tensor *view_of(checkpoint *c, const char *name, int *class_of) {
    static const char *const projections[] = {"q_proj", "q_a_proj",  "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj",
                                              "o_proj", "gate_proj", "up_proj",  "down_proj"};
    int layer = 0, expert = 0, at = 0, p = 0;
    *class_of = -1;
    if (strstr(name, "_scale_inv")) return NULL;
    if (!strcmp(name, "lm_head.weight")) return *class_of = CHECKPOINT_HEAD, &c->weights.head;
    if (!strcmp(name, "model.embed_tokens.weight")) return *class_of = CHECKPOINT_EMBED, &c->weights.embed;
    if (sscanf(name, "model.layers.%d.%n", &layer, &at) < 1 || layer >= c->config.num_hidden_layers) return NULL;
    mla_layer_weights *l = (mla_layer_weights *)(uintptr_t)&c->weights.layers[layer];
    if (!strcmp(name + at, "mlp.gate.weight")) return &l->moe.router;
    while (p < 9 && !strstr(name, projections[p])) p++;
    if (p == 9) return NULL;
    if (p < 6) {
        mla_linear *all[] = {&l->attn.q, &l->attn.q_a, &l->attn.q_b, &l->attn.kv_a, &l->attn.kv_b, &l->attn.o};
        *class_of = p == 4 ? CHECKPOINT_KV_B : CHECKPOINT_ATTN;
        return &all[p]->weight;
    }
    mla_mlp_weights *m = &l->mlp;
    *class_of = CHECKPOINT_DENSE;
    if (strstr(name, "shared_experts")) *class_of = CHECKPOINT_SHARED, m = &l->moe.shared;
    else if (sscanf(name + at, "mlp.experts.%d", &expert) == 1)
        *class_of = CHECKPOINT_EXPERTS, m = (mla_mlp_weights *)(uintptr_t)&l->moe.experts[expert];
    mla_linear *all[] = {&m->gate, &m->up, &m->down};
    return &all[p - 6]->weight;
}

static checkpoint_quant quant_of(checkpoint_form form,
                                 const char *classes) { /* "keep attn kv_b ..., q8 head": as the tests need it */
    checkpoint_quant how;
    checkpoint_form f = CHECKPOINT_KEEP;
    char word[16];
    int n;
    memset(&how, 0, sizeof how);
    how.form = form;
    for (; sscanf(classes, "%15s%n", word, &n) == 1; classes += n) {
        for (int i = CHECKPOINT_KEEP; i < CHECKPOINT_FORM_COUNT; i++)
            if (!strcmp(word, checkpoint_form_name((checkpoint_form)i))) f = (checkpoint_form)i;
        for (int k = 0; k < CHECKPOINT_CLASS_COUNT; k++)
            if (!strcmp(word, checkpoint_class_name((checkpoint_class)k))) how.classes[k] = f;
    }
    return how;
}

/* ---- what is converted, and to what ------------------------------------------------------------------------------ */

typedef struct progress {
    int calls;
    double last, total;
    int wrong;
} progress;

static void follow(void *user, double done, double total) {
    progress *p = (progress *)user;
    p->wrong += done < p->last || done > total || (p->calls && p->total != total) || (p->calls && p->last == total);
    p->calls++, p->last = done, p->total = total;
}

/* Converts the checkpoint at path, and compares every tensor with mla_quantize of the file's rows as this test reads
 * them. */
static void check_converted(const char *path, const char *what, checkpoint_quant how) {
    char file_path[256];
    mla_error err;
    st_file *f;
    progress seen = {0, 0, 0, 0};
    double bytes = 0;
    int n_converted = 0;
    snprintf(file_path, sizeof file_path, "%s/model.safetensors", path);
    if (st_open(&f, file_path, &err)) printf("%s\n", err.text), exit(2);
    checkpoint *c = open_dir(path);
    how.progress = follow, how.progress_user = &seen;
    if (!CHECK(checkpoint_quantize(c, &how, &err) == MLA_OK, "%s: %s", what, err.text)) {
        checkpoint_close(c), st_close(f);
        return;
    }
    for (size_t i = 0; i < st_count(f); i++) {
        const st_tensor *t = st_at(f, i);
        int k = -1;
        const mla_tensor *v = view_of(c, t->name, &k);
        if (!v) continue;
        checkpoint_form form = k < 0 ? CHECKPOINT_KEEP : how.classes[k];
        if (form == CHECKPOINT_DEFAULT)
            form = k == CHECKPOINT_KV_B || k == CHECKPOINT_EMBED ? CHECKPOINT_KEEP : how.form;
        if (form == CHECKPOINT_KEEP) {
            CHECK(v->dtype < MLA_Q8 && v->data && !memcmp(v->data, t->data, t->bytes), "%s: %s is kept", what, t->name);
            continue;
        }
        const mla_dtype dtype = form == CHECKPOINT_Q4 ? MLA_Q4 : MLA_Q8;
        const size_t n = (size_t)(t->dims[0] * t->dims[1]);
        if (!CHECK(v->dtype == dtype && v->rows == t->dims[0] && v->cols == t->dims[1] && !v->scale &&
                       (uintptr_t)v->data % 64 == 0,
                   "%s: %s: %s [%d, %d]", what, t->name, mla_dtype_name(v->dtype), v->rows, v->cols))
            continue;
        float *x = widened(f, t);
        unsigned char *want = (unsigned char *)need(malloc(mla_dtype_bytes(dtype, n)));
        quantize(dtype, want, x, n);
        CHECK(!memcmp(want, v->data, mla_dtype_bytes(dtype, n)), "%s: %s: other bytes", what, t->name);
        bytes += (double)t->bytes, n_converted++;
        free(x), free(want);
    }
    CHECK(n_converted > 2, "%s: only %d tensors converted", what, n_converted);
    CHECK(!seen.wrong && seen.calls == n_converted + 1 && seen.last == bytes && seen.total == bytes,
          "%s: progress: %d calls for %d tensors, %g of %g", what, seen.calls, n_converted, seen.last, seen.total);
    CHECK(checkpoint_quantize(c, &how, &err) == MLA_ERR_ARGUMENT && strstr(err.text, "converted before"),
          "%s: twice: %s", what, err.text);
    checkpoint_close(c);
    st_close(f);
}

static void test_conversion(void) {
    static set s;
    char what[128];
    SECTION("conversion from f32, f16, bf16 and fp8 is mla_quantize of the widened rows");
    for (int form = CHECKPOINT_Q8; form <= CHECKPOINT_Q4; form++) {
        const checkpoint_form f = (checkpoint_form)form, other = f == CHECKPOINT_Q8 ? CHECKPOINT_Q4 : CHECKPOINT_Q8;
        char classes[64];
        check_converted(FIXTURES "deepseek_v2_lite", "deepseek_v2_lite", quant_of(f, ""));
        check_converted(FIXTURES "deepseek_v3", "deepseek_v3", quant_of(f, "keep attn"));
        check_converted(FIXTURES "kimi_k2", "kimi_k2", quant_of(f, "keep attn shared"));
        check_converted(FIXTURES "deepseek_v3_fp8", "deepseek_v3_fp8", quant_of(f, "keep attn experts shared"));
        snprintf(classes, sizeof classes, "%s embed shared attn keep dense", checkpoint_form_name(other));
        check_converted(FIXTURES "deepseek_v2_lite", "deepseek_v2_lite mixed", quant_of(f, classes));
        for (int k = 0; k < KINDS; k++) {
            read_set(&s, "deepseek_v2_lite");
            write_set(&s, (kind)k, 0);
            snprintf(what, sizeof what, "deepseek_v2_lite as %s", kind_names[k]);
            check_converted(dir, what, quant_of(f, ""));
            drop(&s);
            make_wide(&s, 96);
            write_set(&s, (kind)k, 0);
            snprintf(what, sizeof what, "rows of 2080 as %s", kind_names[k]);
            snprintf(classes, sizeof classes, "%s kv_b %s embed", checkpoint_form_name(f), checkpoint_form_name(other));
            check_converted(dir, what, quant_of(f, classes));
            drop(&s);
        }
    }
    make_wide(&s, 36000);
    write_set(&s, AS_BF16, 0);
    check_converted(dir, "more than a huge page", quant_of(CHECKPOINT_Q8, ""));
    drop(&s);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

typedef struct piece {
    void (*task)(void *, int);
    void *arg;
    int i;
} piece;

static void *run_piece(void *p) {
    const piece *w = (const piece *)p;
    w->task(w->arg, w->i);
    return NULL;
}

static void run_threads(void *user, int n, void (*task)(void *arg, int i), void *arg) { /* the last task first */
    pthread_t t[8];
    piece w[8];
    *(int *)user += n;
    for (int i = n - 1; i >= 0; i--) {
        w[i].task = task, w[i].arg = arg, w[i].i = i;
        if (pthread_create(&t[i], NULL, run_piece, &w[i])) puts("no threads"), exit(2);
    }
    for (int i = 0; i < n; i++) pthread_join(t[i], NULL);
}

/* All converted tensors of two checkpoints with the same classes, in bytes. */
static int equal_weights(checkpoint *a, checkpoint *b, const char *path) {
    char file[256];
    mla_error err;
    st_file *f;
    int equal = 1, n = 0;
    snprintf(file, sizeof file, "%s/model.safetensors", path);
    if (st_open(&f, file, &err)) printf("%s\n", err.text), exit(2);
    for (size_t i = 0; i < st_count(f); i++) {
        int k = 0;
        const mla_tensor *x = view_of(a, st_at(f, i)->name, &k), *y = view_of(b, st_at(f, i)->name, &k);
        if (!x || !y || !x->data) continue;
        equal &= x->dtype == y->dtype && x->layout == y->layout &&
                 !memcmp(x->data, y->data, mla_dtype_bytes(x->dtype, (size_t)x->rows * (size_t)x->cols));
        n++;
    }
    st_close(f);
    return equal && n > 4;
}

static void test_threads(void) {
    static set s;
    mla_error err;
    SECTION("the same bytes for 1, 2, 5 and 8 threads");
    make_wide(&s, 96);
    write_set(&s, AS_FP8, 0);
    drop(&s);
    for (int where = 0; where < 2; where++)
        for (int form = CHECKPOINT_Q8; form <= CHECKPOINT_Q4; form++) {
            const char *path = where ? dir : FIXTURES "deepseek_v2_lite";
            checkpoint_quant how = quant_of((checkpoint_form)form, "");
            checkpoint *one = open_dir(path);
            how.threads = 1;
            CHECK(checkpoint_quantize(one, &how, &err) == MLA_OK, "%s", err.text);
            static const int counts[] = {2, 5, 8};
            for (int k = 0; k < 6; k++) {
                checkpoint *c = open_dir(path);
                int ran = 0;
                how = quant_of((checkpoint_form)form, "");
                how.threads = counts[k % 3];
                if (k >= 3) how.run = run_threads, how.run_user = &ran;
                CHECK(checkpoint_quantize(c, &how, &err) == MLA_OK, "%s", err.text);
                CHECK(equal_weights(one, c, path), "%s, %d threads%s", path, how.threads,
                      how.run ? " of the test" : "");
                CHECK(ran == (how.run ? how.threads : 0), "%d tasks of %d", ran, how.threads);
                checkpoint_close(c);
            }
            checkpoint_close(one);
        }
}

/* ---- what the models say ----------------------------------------------------------------------------------------- */

enum { PROMPT = 48, TEXTS = 5, MAX_V = 256, MAX_D = 192 };

/* The logits [PROMPT, V] of a prompt, and the embeddings [PROMPT, D]; then n tokens by greedy choice. */
static void run_model(checkpoint *c, mla_isa isa, int exact, int threads, const int *tokens, float *logits,
                      float *embedded, int n, int *made) {
    mla_error err;
    mla_model *model;
    mla_context *context;
    mla_cache *cache;
    mla_context_desc desc = {.max_tokens = PROMPT, .isa = isa, .threads = threads};
    mla_cache_desc cache_desc = {.capacity = PROMPT + n};
    desc.activations = exact ? MLA_ACT_F32 : isa == MLA_ISA_BF16 || isa == MLA_ISA_AMX ? MLA_ACT_BF16 : MLA_ACT_AUTO;
    float *hidden[16] = {embedded}, *row = (float *)need(malloc(MAX_V * sizeof *row));
    if (mla_model_create(&model, &c->config, &c->weights, NULL, &err) ||
        mla_context_create(&context, model, &desc, &err) || mla_cache_create(&cache, model, &cache_desc, &err))
        printf("%s\n", err.text), exit(2);
    mla_sequence sequence = {.cache = cache, .n_tokens = PROMPT, .n_logits = PROMPT};
    mla_outputs out = {.logits = logits, .hidden = hidden};
    CHECK(mla_model_forward(context, &sequence, 1, tokens, &out) == MLA_OK, "%s", mla_context_error(context)->text);
    const int V = c->config.vocab_size;
    memcpy(row, logits + (PROMPT - 1) * V, (size_t)V * sizeof *row);
    for (int i = 0; i < n; i++) {
        made[i] = 0;
        for (int k = 1; k < V; k++) made[i] = row[k] > row[made[i]] ? k : made[i];
        sequence.n_tokens = sequence.n_logits = 1;
        mla_outputs next = {.logits = row};
        CHECK(mla_model_forward(context, &sequence, 1, made + i, &next) == MLA_OK, "%s",
              mla_context_error(context)->text);
    }
    free(row);
    mla_cache_destroy(cache), mla_context_destroy(context), mla_model_destroy(model);
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of the rows' root mean square of got - want over that of want, the median: an expert chosen otherwise, after a near
   tie, makes another token of a row, which says nothing about the others. */
static double median_err(const float *got, const float *want, size_t rows, size_t cols) {
    double all[TEXTS * PROMPT];
    for (size_t r = 0; r < rows; r++) {
        double d = 0, w = 0;
        for (size_t i = r * cols; i < (r + 1) * cols; i++) {
            const double e = (double)got[i] - (double)want[i];
            d += e * e, w += (double)want[i] * (double)want[i];
        }
        all[r] = sqrt(d / w);
    }
    qsort(all, rows, sizeof *all, by_value);
    return all[rows / 2];
}

/* Every Q8 and Q4 tensor of a, decoded by this test, takes its place in b as F32; *n of them are to be freed from
   list. */
static void decoded(checkpoint *b, checkpoint *a, const set *names, float **list, int *n) {
    for (int i = 0; i < names->n; i++) {
        int k = 0;
        const mla_tensor *from = view_of(a, names->t[i].name, &k);
        mla_tensor *to = view_of(b, names->t[i].name, &k);
        if (!from || !to || (from->dtype != MLA_Q8 && from->dtype != MLA_Q4)) continue;
        const size_t cols = (size_t)from->cols, row_bytes = mla_dtype_bytes(from->dtype, cols);
        float *x = (float *)need(malloc((size_t)from->rows * cols * sizeof *x));
        for (size_t r = 0; r < (size_t)from->rows; r++)
            for (size_t j = 0; j < cols; j++)
                x[r * cols + j] = own_block(from->dtype, (const unsigned char *)from->data + r * row_bytes, j);
        *to = mla_view(x, MLA_F32, from->rows, from->cols);
        list[(*n)++] = x;
    }
}

typedef struct accuracy { /* upper bounds of the median error of logits */
    double q8, q4;        /* of the converted weights, against the checkpoint's own */
    double int8;          /* of activations in int8, against f32 ones with the same weights */
} accuracy;

static void check_accuracy(const char *path, const char *what, const set *names, const char *classes, const int *tokens,
                           accuracy bound) {
    static float want[PROMPT * MAX_V], same[PROMPT * MAX_V], got[2][PROMPT * MAX_V], again[PROMPT * MAX_V],
        x0[PROMPT * MAX_D], x[PROMPT * MAX_D];
    const int thorough = path != dir; /* the fixtures */
    int made[16], repeated[16];
    mla_error err;
    for (int form = CHECKPOINT_Q8; form <= CHECKPOINT_Q4; form++) {
        const char *form_name = checkpoint_form_name((checkpoint_form)form);
        checkpoint_quant how = quant_of((checkpoint_form)form, classes);
        checkpoint *plain = open_dir(path), *c = open_dir(path), *d = open_dir(path);
        float *list[MAX_TENSORS];
        int n_list = 0;
        const size_t V = (size_t)plain->config.vocab_size, n = PROMPT * V,
                     n0 = (size_t)PROMPT * (size_t)plain->config.hidden_size;
        if (!CHECK(checkpoint_quantize(c, &how, &err) == MLA_OK, "%s %s: %s", what, form_name, err.text)) return;
        decoded(d, c, names, list, &n_list);
        CHECK(n_list > 2, "%s %s: %d tensors", what, form_name, n_list);
        run_model(plain, MLA_ISA_AUTO, 1, 1, tokens, want, x0, 0, NULL);
        run_model(d, MLA_ISA_AUTO, 1, 1, tokens, same, x0, 0, NULL);
        for (int isa = thorough ? MLA_ISA_SCALAR : MLA_ISA_AUTO; isa < (thorough ? MLA_ISA_COUNT : MLA_ISA_SCALAR);
             isa++) {
            const char *isa_name = mla_isa_name((mla_isa)isa);
            if (!(thorough ? TEST_ISA((mla_isa)isa) : mla_isa_available((mla_isa)isa))) continue;
            for (int exact = 0; exact < 2; exact++) {
                run_model(c, (mla_isa)isa, exact, 1, tokens, got[exact], x, 16, made);
                CHECK(!memcmp(x, x0, n0 * sizeof *x), "%s %s: embeddings", what, form_name);
                for (int i = 0; i < 16; i++)
                    CHECK(made[i] >= 0 && made[i] < plain->config.vocab_size, "%s %s: token %d", what, form_name,
                          made[i]);
                if (!thorough) continue;
                run_model(c, (mla_isa)isa, exact, 2, tokens, again, x, 16, repeated);
                CHECK(!memcmp(again, got[exact], n * sizeof *again) && !memcmp(made, repeated, sizeof made),
                      "%s %s %s: 2 threads", what, form_name, isa_name);
            }
            const double kept = median_err(got[1], want, PROMPT, V), whole = median_err(got[0], want, PROMPT, V);
            const double int8 = median_err(got[0], same, PROMPT, V);
            const float exactly = test_rel_err(got[1], same, n);
            if (reporting)
                printf("  %-24s %s %-6s  exact: %.4f (%.1e from the decoded weights)   int8: %.4f (%.4f)\n", what,
                       form_name, isa_name, kept, (double)exactly, whole, int8);
            CHECK(exactly < 5e-5f, "%s %s %s: exact products are %g from the decoded weights", what, form_name,
                  isa_name, (double)exactly);
            CHECK(kept < (form == CHECKPOINT_Q8 ? bound.q8 : bound.q4), "%s %s %s: error %g", what, form_name, isa_name,
                  kept);
            CHECK(int8 < bound.int8, "%s %s %s: error %g of the int8 activations", what, form_name, isa_name, int8);
            checkpoint *r = open_dir(path);
            how.repack = 1, how.threads = 3;
            CHECK(checkpoint_quantize(r, &how, &err) == MLA_OK, "%s %s repacked: %s", what, form_name, err.text);
            how.repack = 0;
            for (int threads = 1; threads <= 2; threads++)
                run_model(r, (mla_isa)isa, 0, threads, tokens, threads == 1 ? got[1] : again, x, 0, NULL);
            CHECK(!memcmp(again, got[1], n * sizeof *again), "%s %s repacked %s: 2 threads", what, form_name, isa_name);
            const double apart = median_err(got[1], got[0], PROMPT, V); /* the same weights, summed in another order */
            CHECK(apart < bound.int8 / 4, "%s %s repacked %s: %g apart", what, form_name, isa_name, apart);
            checkpoint_close(r);
        }
        for (int i = 0; i < n_list; i++) free(list[i]);
        checkpoint_close(plain), checkpoint_close(c), checkpoint_close(d);
    }
}

static void test_accuracy(void) {
    static set s;
    static const struct {
        const char *fixture, *classes;
        accuracy bound;
    } cases[] = {/* about one and a half times what was measured */
                 {"deepseek_v2_lite", "", {0.10, 0.80, 0.10}},
                 {"deepseek_v3", "keep attn", {0.06, 0.75, 0.08}},
                 {"kimi_k2", "keep attn", {0.035, 0.50, 0.05}},
                 {"deepseek_v3_fp8", "keep attn experts shared", {0.03, 0.50, 0.035}}};
    int tokens[PROMPT];
    SECTION("logits and greedy tokens of converted models");
    if (reporting)
        puts("  Median over 48 tokens of the logits' error, in root mean squares: products in f32 and in int8, against "
             "the checkpoint's own weights\n"
             "  (in brackets: against f32 products with the decoded weights, for exact the largest one). The weights "
             "are random, layers amplify.");
    test_rng r = {6};
    for (int i = 0; i < PROMPT; i++) tokens[i] = test_int(&r, 256);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[128];
        if (!test_all() && (i == 1 || i == 2)) continue;
        snprintf(path, sizeof path, FIXTURES "%s", cases[i].fixture);
        read_set(&s, cases[i].fixture);
        check_accuracy(path, cases[i].fixture, &s, cases[i].classes, tokens, cases[i].bound);
        double plain = 0, search = 0;
        int worse = 0, k_proj = 0;
        for (int k = 0; k < s.n; k++) { /* the fixtures' own weights */
            double one[2] = {0, 0};
            if (!strstr(s.t[k].name, "_proj") || s.t[k].cols % 32) continue;
            q4_errors(s.t[k].x, (size_t)s.t[k].rows * (size_t)s.t[k].cols, &one[0], &one[1], &worse);
            plain += one[0], search += one[1], k_proj++;
        }
        if (reporting)
            printf("  %-24s q4: squared error of the weights %.6f of the squares, plain rounding %.6f, ratio %.3f\n",
                   cases[i].fixture, search / k_proj, plain / k_proj, search / plain);
        CHECK(search < 0.92 * plain && worse == 0, "%s: the search gives %g, plain rounding %g, worse in %d groups",
              cases[i].fixture, search, plain, worse);
        if (i == 0)
            for (int k = 0; k < (test_all() ? KINDS : 1); k++) {
                char what[64];
                write_set(&s, (kind)k, 0);
                snprintf(what, sizeof what, "v2_lite as %s", kind_names[k]);
                check_accuracy(dir, what, &s, k == AS_F32 ? "q8 embed head" : "", tokens, cases[i].bound);
            }
        drop(&s);
    }
    make_wide(&s, 96);
    write_set(&s, AS_FP8, 0);
    for (int i = 0; i < PROMPT; i++) tokens[i] %= 96;
    check_accuracy(dir, "rows of 2080 as fp8", &s, "q8 kv_b", tokens, (accuracy){0.025, 0.32, 0.025});
    drop(&s);
}

/* ---- bf16 against int8 ------------------------------------------------------------------------------------------- */

/* A matrix in bf16 becomes the same in f32, in memory of its own. */
static void to_f32(mla_tensor *t, float **list, int *n) {
    if (!t->data || t->dtype != MLA_BF16) return;
    const size_t values = (size_t)t->rows * (size_t)t->cols;
    float *x = (float *)need(malloc(values * sizeof *x));
    mla_widen(x, MLA_BF16, t->data, values);
    *t = mla_view(x, MLA_F32, t->rows, t->cols);
    list[(*n)++] = x;
}
static void norm_to_f32(const mla_norm_weights *w, float **list, int *n) {
    mla_norm_weights *norm = (mla_norm_weights *)(uintptr_t)w;
    to_f32(&norm->gate_down, list, n), to_f32(&norm->gate_up, list, n);
}
/* What checkpoint_quantize keeps with "keep attn", which is for fixtures whose attention cannot be Q8: all matrices of
   attention and KDA, gates of norms, projections of n-grams; and a head tied to the embeddings. */
static void attention_to_f32(checkpoint *c, float **list, int *n) {
    const int layers = c->config.num_hidden_layers + c->config.num_nextn_predict_layers;
    const int ngrams = c->config.emb_split_num * (c->config.emb_neighbor_num - 1);
    to_f32(&c->weights.embed, list, n);
    norm_to_f32(&c->weights.norm, list, n);
    for (int i = 0; i < ngrams; i++)
        to_f32(&((mla_ngram_weights *)(uintptr_t)c->weights.ngram)[i].proj.weight, list, n);
    for (int i = 0; i < layers; i++) {
        mla_layer_weights *w = &((mla_layer_weights *)(uintptr_t)c->weights.layers)[i];
        mla_attn_weights *a = &w->attn;
        mla_kda_weights *s = &w->kda;
        mla_tensor *t[] = {&a->q.weight,
                           &a->q_a.weight,
                           &a->q_b.weight,
                           &a->kv_a.weight,
                           &a->kv_b.weight,
                           &a->o.weight,
                           &a->indexer.wq_b.weight,
                           &a->indexer.wk.weight,
                           &a->gate.weight,
                           &s->q.weight,
                           &s->k.weight,
                           &s->v.weight,
                           &s->f_a.weight,
                           &s->f_b.weight,
                           &s->b.weight,
                           &s->g_a.weight,
                           &s->g_b.weight,
                           &s->o.weight};
        for (size_t k = 0; k < sizeof t / sizeof *t; k++) to_f32(t[k], list, n);
        norm_to_f32(&w->attn_norm, list, n), norm_to_f32(&w->ffn_norm, list, n);
        norm_to_f32(&w->attn_out_norm, list, n), norm_to_f32(&w->ffn_out_norm, list, n);
    }
}

/* How far rounded activations take the logits of several texts: where one of the first tokens of a text chooses another
   expert, all that attend to it are off. */
static double rounding_err(checkpoint *c, mla_isa isa, const int *tokens) {
    static float exact[TEXTS * PROMPT * MAX_V], got[TEXTS * PROMPT * MAX_V], x[PROMPT * MAX_D];
    const size_t V = (size_t)c->config.vocab_size;
    for (int i = 0; i < TEXTS; i++) {
        run_model(c, isa, 1, 1, tokens + i * PROMPT, exact + (size_t)(i * PROMPT) * V, x, 0, NULL);
        run_model(c, isa, 0, 1, tokens + i * PROMPT, got + (size_t)(i * PROMPT) * V, x, 0, NULL);
    }
    return median_err(got, exact, TEXTS * PROMPT, V);
}
/* The promise of generate --fast: of the same matrices, activations rounded to bf16 leave logits nearer to those of f32
   activations than activations rounded to int8 do. */
static void test_bf16_against_int8(void) {
    static const char *const fixtures[] = {"deepseek_v2_lite",   "deepseek_v3", "glm4_moe_lite",
                                           "deepseek_v2",        "kimi_k2",     "axk1",
                                           "longcat_flash",      "minicpm3",    "minicpm3_longrope",
                                           "mistral4",           "youtu",       "deepseek_v32",
                                           "glm_moe_dsa",        "kimi_linear", "axk2",
                                           "axk2_light",         "hy_v4",       "bailing_hybrid",
                                           "longcat_flash_ngram"};
    SECTION("activations in bf16 are no less exact than in int8");
    if (!mla_isa_available(MLA_ISA_BF16)) {
        puts("no AVX512_BF16 here: left out");
        return;
    }
    for (size_t i = 0; i < (test_all() ? sizeof fixtures / sizeof *fixtures : 3); i++) {
        char path[128];
        mla_error err;
        float *list[MAX_TENSORS];
        int tokens[TEXTS * PROMPT], n_list = 0;
        test_rng r = {7};
        snprintf(path, sizeof path, FIXTURES "%s", fixtures[i]);
        checkpoint *plain = open_dir(path), *c = open_dir(path);
        const checkpoint_quant how = quant_of(CHECKPOINT_Q8, i ? "keep attn" : "");
        CHECK(checkpoint_quantize(c, &how, &err) == MLA_OK, "%s: %s", fixtures[i], err.text);
        for (int t = 0; t < TEXTS * PROMPT; t++) tokens[t] = test_int(&r, plain->config.vocab_size);
        if (i) attention_to_f32(plain, list, &n_list);
        const double int8 = rounding_err(c, MLA_ISA_VNNI, tokens);
        for (int isa = MLA_ISA_BF16; isa <= MLA_ISA_AMX; isa++) {
            if (!mla_isa_available((mla_isa)isa)) continue;
            const double bf16 = rounding_err(plain, (mla_isa)isa, tokens);
            if (reporting)
                printf("  %-24s int8 %.1e   bf16 (%s) %.1e\n", fixtures[i], int8, mla_isa_name((mla_isa)isa), bf16);
            CHECK(bf16 > 0 && bf16 < int8, "%s %s: error %g of bf16 activations, %g of int8", fixtures[i],
                  mla_isa_name((mla_isa)isa), bf16, int8);
        }
        for (int k = 0; k < n_list; k++) free(list[k]);
        checkpoint_close(plain), checkpoint_close(c);
    }
}

/* ---- tied embeddings --------------------------------------------------------------------------------------------- */

static void test_tied(void) {
    static const struct {
        const char *classes;
        int tied;
        mla_dtype head, embed;
    } cases[] = {{"", 0, MLA_Q4, MLA_BF16},
                 {"keep head", 1, MLA_BF16, MLA_BF16},
                 {"q8 embed head", 1, MLA_Q8, MLA_Q8},
                 {"q8 embed", 0, MLA_Q4, MLA_Q8},
                 {"q8 embed keep head", 0, MLA_BF16, MLA_Q8},
                 {"q8 head", 0, MLA_Q8, MLA_BF16}};
    static set s;
    static float tied_logits[PROMPT * MAX_V], own_logits[PROMPT * MAX_V], x[PROMPT * MAX_D];
    int tokens[PROMPT];
    SECTION("a head tied to the embedding becomes a tensor of its own if their forms differ");
    read_set(&s, "deepseek_v2_lite");
    for (int i = 0; i < PROMPT; i++) tokens[i] = (i * 37 + 5) % 256;
    for (int i = 0; i < s.n; i++) /* the untied twin has the embedding as its head */
        if (!strcmp(s.t[i].name, "lm_head.weight"))
            for (int k = 0; k < s.n; k++)
                if (!strcmp(s.t[k].name, "model.embed_tokens.weight"))
                    memcpy(s.t[i].x, s.t[k].x, 256 * 64 * sizeof *s.t[i].x);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        checkpoint_quant how = quant_of(CHECKPOINT_Q4, cases[k].classes);
        mla_error err;
        for (int twin = 0; twin < 2; twin++) {
            write_set(&s, AS_BF16, !twin);
            checkpoint *c = open_dir(dir);
            CHECK(!c->weights.head.data == !twin, "lm_head");
            CHECK(checkpoint_quantize(c, &how, &err) == MLA_OK, "\"%s\": %s", cases[k].classes, err.text);
            const mla_tensor *head = &c->weights.head;
            CHECK(c->weights.embed.dtype == cases[k].embed &&
                      (!twin && cases[k].tied ? !head->data : head->data && head->dtype == cases[k].head),
                  "\"%s\": embed %s, head %s", cases[k].classes, mla_dtype_name(c->weights.embed.dtype),
                  head->data ? mla_dtype_name(head->dtype) : "tied");
            run_model(c, MLA_ISA_AUTO, 0, 1, tokens, twin ? own_logits : tied_logits, x, 0, NULL);
            checkpoint_close(c);
        }
        CHECK(!memcmp(tied_logits, own_logits, sizeof own_logits), "\"%s\": other logits than the untied twin",
              cases[k].classes);
    }
    drop(&s);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void check_refused(const char *fixture, checkpoint_quant how, mla_result code, const char *text) {
    char path[128];
    mla_error err;
    snprintf(path, sizeof path, FIXTURES "%s", fixture);
    checkpoint *c = open_dir(path);
    const mla_weights weights = c->weights;
    const size_t bytes = (size_t)c->config.num_hidden_layers * sizeof *c->weights.layers;
    void *layers = need(malloc(bytes));
    memcpy(layers, c->weights.layers, bytes);
    memset(&err, 0, sizeof err);
    const mla_result rc = checkpoint_quantize(c, &how, &err);
    CHECK(rc == code && err.code == code && !strcmp(err.text, text), "%s: %d, %s", fixture, (int)rc, err.text);
    CHECK(!memcmp(&weights, &c->weights, sizeof weights) && !memcmp(layers, c->weights.layers, bytes),
          "%s: changed by a call that failed", fixture);
    CHECK(checkpoint_quantize(c, &how, NULL) == code, "%s: without mla_error", fixture);
    how = quant_of(CHECKPOINT_Q8, "keep attn experts shared");
    CHECK(checkpoint_quantize(c, &how, &err) == MLA_OK && c->weights.head.dtype == MLA_Q8, "%s: afterwards: %s",
          fixture, err.text);
    free(layers);
    checkpoint_close(c);
}

static void test_refusals(void) {
    checkpoint_quant how;
    mla_error err;
    SECTION("refusals, by name, which leave the checkpoint as it was");
    check_refused("deepseek_v2_lite", quant_of(CHECKPOINT_Q8, "q4 kv_b"), MLA_ERR_WEIGHTS,
                  "model.safetensors: tensor \"model.layers.0.self_attn.kv_b_proj.weight\": found rows of 48, expected "
                  "a multiple of 32 for q4 (or keep kv_b)");
    check_refused("deepseek_v3", quant_of(CHECKPOINT_Q4, ""), MLA_ERR_WEIGHTS,
                  "model.safetensors: tensor \"model.layers.0.self_attn.q_b_proj.weight\": found rows of 48, expected "
                  "a multiple of 32 for q4 (or keep attn)");
    check_refused("deepseek_v2", quant_of(CHECKPOINT_Q8, "q8 attn"), MLA_ERR_WEIGHTS,
                  "model-00002-of-00005.safetensors: tensor \"model.layers.0.self_attn.q_b_proj.weight\": found rows "
                  "of 48, expected a multiple of 32 for q8 (or keep attn)");
    check_refused("deepseek_v3_fp8", quant_of(CHECKPOINT_Q8, "keep attn"), MLA_ERR_WEIGHTS,
                  "model.safetensors: tensor \"model.layers.1.mlp.experts.0.down_proj.weight\": found rows of 144, "
                  "expected a multiple of 32 for q8 (or keep experts)");
    check_refused("deepseek_v3_fp8", quant_of(CHECKPOINT_Q8, "keep attn experts"), MLA_ERR_WEIGHTS,
                  "model.safetensors: tensor \"model.layers.1.mlp.shared_experts.down_proj.weight\": found rows of "
                  "144, expected a multiple of 32 for q8 (or keep shared)");
    check_refused("deepseek_v3_fp8", quant_of(CHECKPOINT_Q8, "keep attn experts shared q8 kv_b"), MLA_ERR_WEIGHTS,
                  "model.safetensors: tensor \"model.layers.0.self_attn.kv_b_proj.weight\": found rows of 136, "
                  "expected a multiple of 32 for q8 (or keep kv_b)");
    how = quant_of(CHECKPOINT_Q8, "");
    how.threads = -1;
    check_refused("deepseek_v2_lite", how, MLA_ERR_ARGUMENT, "checkpoint_quant.threads: -1 is negative");
    how = quant_of(CHECKPOINT_FORM_COUNT, "");
    check_refused("deepseek_v2_lite", how, MLA_ERR_ARGUMENT, "checkpoint_quant.form: 8 is no form");
    how = quant_of(CHECKPOINT_Q8, "");
    how.classes[CHECKPOINT_SHARED] = CHECKPOINT_FORM_COUNT;
    check_refused("deepseek_v2_lite", how, MLA_ERR_ARGUMENT, "checkpoint_quant.classes: 8 is no form, for shared");
    CHECK(checkpoint_quantize(NULL, NULL, &err) == MLA_ERR_ARGUMENT, "no checkpoint");

    checkpoint *c = open_dir(FIXTURES "deepseek_v2_lite");
    for (int k = 0; k < 2; k++) {
        alloc_countdown = k;
        CHECK(checkpoint_quantize(c, NULL, &err) == MLA_ERR_MEMORY && strstr(err.text, "no memory for"),
              "allocation %d fails: %s", k, err.text);
        alloc_countdown = -1;
        CHECK(c->weights.head.dtype == MLA_BF16, "allocation %d fails: the head is %s", k,
              mla_dtype_name(c->weights.head.dtype));
    }
    how = quant_of(CHECKPOINT_KEEP, "");
    CHECK(checkpoint_quantize(c, &how, &err) == MLA_OK && c->weights.head.dtype == MLA_BF16, "nothing to do: %s",
          err.text);
    CHECK(checkpoint_quantize(c, NULL, &err) == MLA_OK && c->weights.head.dtype == MLA_Q8 &&
              c->weights.embed.dtype == MLA_BF16 && c->weights.layers[0].attn.kv_b.weight.dtype == MLA_BF16 &&
              c->weights.layers[0].attn.q.weight.dtype == MLA_Q8 && c->weights.layers[1].moe.router.dtype == MLA_BF16,
          "the defaults: %s", err.text);
    checkpoint_close(c);
    CHECK(!strcmp(checkpoint_class_name(CHECKPOINT_CLASS_COUNT), "?") &&
              !strcmp(checkpoint_form_name(CHECKPOINT_FORM_COUNT), "?"),
          "names past the last");
}

static void clean(void) { unlink(in_dir("config.json")), unlink(in_dir("model.safetensors")), rmdir(dir); }

static mla_tensor interleaved(const void *data, mla_dtype t, int rows, int cols) {
    mla_tensor w = mla_view(data, t, rows, cols);
    w.layout = MLA_LAYOUT_X16;
    return w;
}

/* mla_repack, and where its result may stand. */
static void test_repack(void) {
    unsigned char q4[32 * 64 / 32 * 18] = {0}, out[sizeof q4];
    mla_error err;
    mla_tensor t = mla_view(q4, MLA_Q4, 32, 64);
    SECTION("repacking");
    for (size_t i = 0; i < sizeof q4; i++) q4[i] = (unsigned char)(i * 41 % 63);
    CHECK(mla_repack(out, &t, &err) == MLA_OK, "%s", err.text);
    CHECK(!memcmp(out + 2 * 5, q4 + 5 * 36, 2) && !memcmp(out + 32 + 64 * 3 + 4 * 5, q4 + 5 * 36 + 2 + 12, 4),
          "row 5 of the first block");
    CHECK(!memcmp(out + 2 * 288 + 288 + 2, q4 + 17 * 36 + 18, 2), "row 17, second group");
    t.rows = 31;
    CHECK(mla_repack(out, &t, &err) == MLA_ERR_ARGUMENT && strstr(err.text, "multiple of 16"), "31 rows: %s", err.text);
    t = mla_view(q4, MLA_BF16, 16, 32);
    CHECK(mla_repack(out, &t, &err) == MLA_ERR_ARGUMENT && mla_repack(NULL, &t, &err) == MLA_ERR_ARGUMENT,
          "bf16, NULL");
    t = mla_view(q4, (mla_dtype)99, 16, 32);
    CHECK(mla_repack(out, &t, &err) == MLA_ERR_ARGUMENT, "no dtype");
    mla_config c;
    mla_layer_weights layer;
    mla_weights w;
    mla_model *m;
    memset(&c, 0, sizeof c), memset(&layer, 0, sizeof layer), memset(&w, 0, sizeof w);
    c.hidden_size = 32, c.num_hidden_layers = 1, c.intermediate_size = 40, w.layers = &layer;
    layer.mlp.gate.weight = layer.mlp.up.weight = interleaved(out, MLA_Q4, 40, 32),
    layer.mlp.down.weight = mla_view(out, MLA_F32, 32, 40);
    CHECK(mla_model_create(&m, &c, &w, NULL, &err) == MLA_ERR_WEIGHTS &&
              strstr(err.text, "40 rows, q4x16 needs a multiple of 16"),
          "40 rows: %s", err.text);
    c.intermediate_size = 32;
    layer.mlp.gate.weight = interleaved(out, MLA_BF16, 32, 32), layer.mlp.up.weight = mla_view(out, MLA_Q4, 32, 32);
    layer.mlp.down.weight = layer.mlp.up.weight;
    CHECK(mla_model_create(&m, &c, &w, NULL, &err) == MLA_ERR_WEIGHTS &&
              strstr(err.text, "layout 1, which bf16 does not have"),
          "bf16: %s", err.text);
}

/* A model all of whose matrices are blocks, embeddings, router and kv_b too, whose heads do not begin at multiples of
   16 rows: with rows as they lie, interleaved, and decoded by this test. */
enum { BLOCKS_D = 64, BLOCKS_V = 48, BLOCKS_E = 16, BLOCKS_LAYERS = 2, BLOCKS_MOST = 64, BLOCKS_T = 20 };
typedef struct blocks {
    mla_layer_weights layers[BLOCKS_LAYERS];
    mla_mlp_weights experts[BLOCKS_E];
    mla_weights w;
    void *list[BLOCKS_MOST];
    int n;
} blocks;
enum { AS_ROWS, AS_X16, AS_DECODED };

static mla_tensor blocks_matrix(blocks *b, test_rng *r, mla_dtype t, int as, int rows, int cols) {
    const size_t n = (size_t)rows * (size_t)cols, row = mla_dtype_bytes(t, (size_t)cols);
    float *x = (float *)need(malloc(n * sizeof *x));
    unsigned char *q = (unsigned char *)need(malloc(mla_dtype_bytes(t, n)));
    test_fill(r, x, n, 1 / sqrtf((float)cols));
    quantize(t, q, x, n);
    for (size_t i = 0; i < n; i++) x[i] = own_block(t, q + i / (size_t)cols * row, i % (size_t)cols);
    if (as == AS_DECODED) {
        free(q), b->list[b->n++] = x;
        return mla_view(x, MLA_F32, rows, cols);
    }
    const mla_tensor plain = mla_view(q, t, rows, cols);
    b->list[b->n++] = q;
    free(x);
    if (as == AS_ROWS) return plain;
    b->list[b->n++] = need(malloc(mla_dtype_bytes(t, n)));
    CHECK(mla_repack(b->list[b->n - 1], &plain, NULL) == MLA_OK, "mla_repack [%d, %d]", rows, cols);
    return interleaved(b->list[b->n - 1], t, rows, cols);
}
static mla_mlp_weights blocks_mlp(blocks *b, test_rng *r, mla_dtype t, int as, int I) {
    mla_mlp_weights m;
    memset(&m, 0, sizeof m);
    m.gate.weight = blocks_matrix(b, r, t, as, I, BLOCKS_D), m.up.weight = blocks_matrix(b, r, t, as, I, BLOCKS_D);
    m.down.weight = blocks_matrix(b, r, t, as, BLOCKS_D, I);
    return m;
}
static mla_config blocks_make(blocks *b, mla_dtype t, int as, int nope) {
    static float ones[BLOCKS_D];
    test_rng r = {31};
    mla_config c;
    memset(&c, 0, sizeof c), memset(b, 0, sizeof *b);
    for (int i = 0; i < BLOCKS_D; i++) ones[i] = 1;
    c.vocab_size = BLOCKS_V, c.hidden_size = BLOCKS_D, c.num_hidden_layers = BLOCKS_LAYERS, c.intermediate_size = 96;
    c.num_attention_heads = 4, c.kv_lora_rank = 64, c.qk_nope_head_dim = nope, c.qk_rope_head_dim = 16,
    c.v_head_dim = 64;
    c.n_routed_experts = BLOCKS_E, c.num_experts_per_tok = 4, c.moe_intermediate_size = 32;
    const mla_tensor norm = mla_view(ones, MLA_F32, 1, BLOCKS_D);
    for (int i = 0; i < BLOCKS_LAYERS; i++) {
        mla_layer_weights *l = &b->layers[i];
        l->attn_norm.weight = l->ffn_norm.weight = l->attn.kv_norm.weight = norm;
        l->attn.q.weight = blocks_matrix(b, &r, t, as, 4 * (nope + 16), BLOCKS_D);
        l->attn.kv_a.weight = blocks_matrix(b, &r, t, as, 64 + 16, BLOCKS_D);
        l->attn.kv_b.weight = blocks_matrix(b, &r, t, as, 4 * (nope + 64), 64);
        l->attn.o.weight = blocks_matrix(b, &r, t, as, BLOCKS_D, 4 * 64);
    }
    b->layers[0].mlp = blocks_mlp(b, &r, t, as, 96);
    const mla_mlp_weights few[4] = {blocks_mlp(b, &r, t, as, 32), blocks_mlp(b, &r, t, as, 32),
                                    blocks_mlp(b, &r, t, as, 32), blocks_mlp(b, &r, t, as, 32)};
    for (int e = 0; e < BLOCKS_E; e++) b->experts[e] = few[e % 4];
    b->layers[1].moe.experts = b->experts;
    b->layers[1].moe.router = blocks_matrix(b, &r, t, as, BLOCKS_E, BLOCKS_D);
    b->w.embed = blocks_matrix(b, &r, t, as, BLOCKS_V, BLOCKS_D), b->w.norm.weight = norm, b->w.layers = b->layers;
    return c;
}
static void blocks_free(blocks *b) {
    while (b->n) free(b->list[--b->n]);
}
/* The logits of a prompt and of two more tokens, [BLOCKS_T + 2, V]. */
static void blocks_run(float *logits, mla_dtype t, int as, int nope, const mla_context_desc *desc) {
    static blocks b;
    const mla_config c = blocks_make(&b, t, as, nope);
    mla_error err;
    mla_model *m;
    mla_context *k;
    mla_cache *cache;
    mla_cache_desc cache_desc = {.capacity = BLOCKS_T + 2};
    int tokens[BLOCKS_T + 2];
    for (int i = 0; i < BLOCKS_T + 2; i++) tokens[i] = i * 29 % BLOCKS_V;
    if (mla_model_create(&m, &c, &b.w, NULL, &err) || mla_context_create(&k, m, desc, &err) ||
        mla_cache_create(&cache, m, &cache_desc, &err))
        printf("%s\n", err.text), exit(2);
    for (int at = 0; at < BLOCKS_T + 2; at += at ? 1 : BLOCKS_T) {
        mla_sequence sequence = {.cache = cache, .n_tokens = at ? 1 : BLOCKS_T, .n_logits = at ? 1 : BLOCKS_T};
        mla_outputs out = {.logits = logits + at * BLOCKS_V};
        CHECK(mla_model_forward(k, &sequence, 1, tokens + at, &out) == MLA_OK, "%s", mla_context_error(k)->text);
    }
    mla_cache_destroy(cache), mla_context_destroy(k), mla_model_destroy(m), blocks_free(&b);
}

/* Heads that are whole strips of sixteen rows, and others. */
static void test_blocks_everywhere(int nope) {
    static float want[(BLOCKS_T + 2) * BLOCKS_V], rows[(BLOCKS_T + 2) * BLOCKS_V], x16[(BLOCKS_T + 2) * BLOCKS_V];
    const size_t n = sizeof want / sizeof *want;
    SECTION("blocks for every matrix, as they lie and interleaved");
    for (int t = MLA_Q8; t <= MLA_Q4; t++)
        for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++)
            for (int path = MLA_ATTN_NAIVE; path < MLA_ATTN_PATH_COUNT && mla_isa_available((mla_isa)isa); path++) {
                mla_context_desc d = {.max_tokens = BLOCKS_T,
                                      .threads = 2,
                                      .isa = (mla_isa)isa,
                                      .attn = (mla_attn_path)path,
                                      .activations = MLA_ACT_F32};
                const char *name = mla_dtype_name((mla_dtype)t), *isa_name = mla_isa_name((mla_isa)isa);
                blocks_run(want, (mla_dtype)t, AS_DECODED, nope, &d);
                blocks_run(rows, (mla_dtype)t, AS_ROWS, nope, &d), blocks_run(x16, (mla_dtype)t, AS_X16, nope, &d);
                double e = (double)test_rel_err(rows, want, n), e16 = (double)test_rel_err(x16, want, n);
                CHECK(e < 2e-5 && e16 < 2e-5, "%s %s nope %d path %d, f32 activations: %g off, interleaved %g", name,
                      isa_name, nope, path, e, e16);
                d.activations = MLA_ACT_INT8;
                blocks_run(rows, (mla_dtype)t, AS_ROWS, nope, &d), blocks_run(x16, (mla_dtype)t, AS_X16, nope, &d);
                e = median_err(rows, want, BLOCKS_T + 2, BLOCKS_V), e16 = median_err(x16, rows, BLOCKS_T + 2, BLOCKS_V);
                CHECK(e < 0.05 && e16 < 0.01, "%s %s nope %d path %d, int8 activations: %g off, interleaved %g apart",
                      name, isa_name, nope, path, e, e16);
                if (reporting)
                    printf("  %s %-6s nope %d path %d: int8 %.4f, interleaved %.1e apart\n", name, isa_name, nope, path,
                           e, e16);
            }
}

/* Q4 that the checkpoint has in memory of its own, as it has int4 of compressed-tensors, is repacked there, whatever
 * its form. */
static void test_in_place(void) {
    static float got[2][PROMPT * MAX_V], embedded[PROMPT * MAX_D];
    int tokens[PROMPT];
    mla_error err;
    SECTION("q4 of the files is repacked in place");
    for (int i = 0; i < PROMPT; i++) tokens[i] = i * 37 % 251;
    for (int threads = 1; threads <= 3; threads++) {
        checkpoint *c = open_dir(FIXTURES "deepseek_v2_lite"), *plain = open_dir(FIXTURES "deepseek_v2_lite");
        checkpoint_quant how = quant_of(CHECKPOINT_Q4, "");
        how.classes[CHECKPOINT_EMBED] = CHECKPOINT_Q4, how.classes[CHECKPOINT_HEAD] = CHECKPOINT_KEEP;
        CHECK(checkpoint_quantize(plain, &how, &err) == MLA_OK && checkpoint_quantize(c, &how, &err) == MLA_OK, "%s",
              err.text);
        c->repacked = c->memory, c->repacked_bytes = SIZE_MAX / 2, c->memory = NULL; /* as if it had been read so */
        run_model(c, MLA_ISA_AUTO, 0, 1, tokens, got[0], embedded, 0, NULL);
        memset(&how, 0, sizeof how);
        how.form = CHECKPOINT_KEEP, how.repack = 1, how.threads = threads;
        if (threads == 3) how.classes[CHECKPOINT_HEAD] = CHECKPOINT_Q8; /* beside conversion */
        for (long k = 0; k < 2 + (threads == 3); k++) {
            alloc_countdown = k;
            const mla_result rc = checkpoint_quantize(c, &how, &err);
            CHECK(rc == MLA_ERR_MEMORY && !c->memory && equal_weights(plain, c, FIXTURES "deepseek_v2_lite"),
                  "allocation %ld: %s", k, err.text);
            alloc_countdown = -1;
        }
        for (int again = 0; again < 2 - (threads == 3); again++) /* repacked once, even if asked twice */
            CHECK(checkpoint_quantize(c, &how, &err) == MLA_OK, "%s", err.text);
        int same = 1, n = 0;
        for (int i = 0; i < c->config.num_hidden_layers; i++)
            for (int e = 0; c->weights.layers[i].moe.experts && e < c->config.n_routed_experts; e++) {
                const mla_tensor *q = &plain->weights.layers[i].moe.experts[e].gate.weight,
                                 *x = &c->weights.layers[i].moe.experts[e].gate.weight;
                const size_t bytes = mla_dtype_bytes(MLA_Q4, (size_t)q->rows * (size_t)q->cols);
                unsigned char *want = (unsigned char *)need(malloc(bytes));
                same &= x->dtype == MLA_Q4 && x->layout == MLA_LAYOUT_X16 && mla_repack(want, q, &err) == MLA_OK &&
                        !memcmp(want, x->data, bytes);
                free(want), n++;
            }
        CHECK(same && n > 0, "%d threads: experts are not what mla_repack makes of them", threads);
        const mla_tensor *embed = &c->weights.embed, *o = &c->weights.layers[0].attn.o.weight,
                         *gate = &c->weights.layers[0].mlp.gate.weight, *head = &c->weights.head;
        CHECK(embed->dtype == MLA_Q4 && embed->layout == MLA_LAYOUT_ROWS && o->dtype == MLA_Q4 &&
                  o->layout == MLA_LAYOUT_X16 && gate->dtype == MLA_Q4 && gate->layout == MLA_LAYOUT_X16 &&
                  head->dtype == (threads == 3 ? MLA_Q8 : MLA_BF16) &&
                  head->layout == (threads == 3 ? MLA_LAYOUT_X16 : MLA_LAYOUT_ROWS),
              "%d threads: what is repacked", threads);
        run_model(c, MLA_ISA_AUTO, 0, 1, tokens, got[1], embedded, 0, NULL);
        const double apart =
            median_err(got[1], got[0], PROMPT, (size_t)c->config.vocab_size); /* summed in another order */
        CHECK(apart < 0.025, "%d threads: %g apart", threads, apart);
        if (reporting) printf("  %d threads: %.2e apart\n", threads, apart);
        checkpoint_close(c), checkpoint_close(plain);
    }
}

/* Experts of several dtypes, whose activations are rounded in several ways, share the scratch these go to: many tokens
   at once are as they are one by one. */
static void test_mixed_experts(void) {
    enum { D = 256, I = 32, E = 16, T = 64 };
    static const mla_dtype dtypes[] = {MLA_Q8, MLA_F32, MLA_E4M3, MLA_BF16, MLA_Q4};
    static float x[T * D], y[T * D], one[T * D], router[E * D], f32[D * I];
    static unsigned char bytes[5][4 * D * I];
    mla_mlp_weights experts[E];
    mla_layer_weights layer;
    mla_weights w;
    mla_config c;
    mla_model *m;
    mla_error err;
    test_rng r = {23};
    SECTION("experts of several dtypes");
    test_fill(&r, x, T * D, 1), test_fill(&r, router, E * D, 1), test_fill(&r, f32, D * I, 0.2f);
    for (int k = 0; k < 5; k++)
        for (int i = 0; i < D * I && dtypes[k] == MLA_E4M3; i++) bytes[k][i] = mla_f32_to_e4m3(f32[i]);
    for (int k = 0; k < 5; k++)
        if (dtypes[k] != MLA_E4M3) CHECK(mla_quantize(dtypes[k], bytes[k], f32, D * I, &err) == MLA_OK, "%s", err.text);
    memset(&c, 0, sizeof c), memset(&layer, 0, sizeof layer), memset(&w, 0, sizeof w),
        memset(experts, 0, sizeof experts);
    c.hidden_size = D, c.num_hidden_layers = 1, c.n_routed_experts = E, c.num_experts_per_tok = 1,
    c.moe_intermediate_size = I;
    for (int e = 0; e < E; e++) {
        experts[e].gate.weight = experts[e].up.weight = mla_view(bytes[e % 5], dtypes[e % 5], I, D);
        experts[e].down.weight = mla_view(bytes[e % 5], dtypes[e % 5], D, I);
    }
    layer.moe.router = mla_view(router, MLA_F32, E, D), layer.moe.experts = experts, w.layers = &layer;
    if (!CHECK(mla_model_create(&m, &c, &w, NULL, &err) == MLA_OK, "%s", err.text)) return;
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++) {
        mla_context_desc d = {.max_tokens = T, .threads = 1, .isa = (mla_isa)isa, .activations = MLA_ACT_E4M3};
        mla_context *k;
        if (!mla_isa_available((mla_isa)isa) || !CHECK(mla_context_create(&k, m, &d, &err) == MLA_OK, "%s", err.text))
            continue;
        CHECK(mla_moe_forward(k, 0, y, x, T, NULL) == MLA_OK, "%s", mla_context_error(k)->text);
        for (int t = 0; t < T; t++)
            CHECK(mla_moe_forward(k, 0, one + t * D, x + t * D, 1, NULL) == MLA_OK, "%s", mla_context_error(k)->text);
        double apart = median_err(y, one, 48, D), all = (double)test_rel_err(y, one, T * D);
        CHECK(apart < 1e-5 && all < 0.02, "%s: %g apart in the middle, %g at most", mla_isa_name((mla_isa)isa), apart,
              all);
        mla_context_destroy(k);
    }
    mla_model_destroy(m);
}

int main(int argc, char **argv) {
    reporting = argc > 1 && !strcmp(argv[1], "--report");
    test_layout();
    test_q8_formula();
    test_q4_search();
    test_searches();
    test_even_groups();
    test_odd_groups();
    snprintf(dir, sizeof dir, "/tmp/test_quantize_XXXXXX");
    if (!mkdtemp(dir)) return puts("cannot make a temporary directory"), 2;
    atexit(clean);
    test_conversion();
    test_threads();
    test_accuracy();
    test_bf16_against_int8();
    test_tied();
    test_refusals();
    test_repack();
    test_blocks_everywhere(24), test_blocks_everywhere(32);
    test_in_place();
    test_mixed_experts();
    return test_end();
}
