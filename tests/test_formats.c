/* test_formats.c - every format of weights: decoded bit by bit against vectors that another program computed
   (tests/fixtures/formats), by every instruction set; products of every pair of them against sums in double of the
   decoded weights, with activations in f32 and rounded to int8; in every place of a model; keys and values that come
   out of two matrices (k_b, v_b) and not of one, by the reference; and what is refused.
   Run from the repository root. TEST_ALL=1 in the environment runs more combinations. */

#define MLA_REFERENCE
#define MLA_IMPLEMENTATION
#include "guard.h"
#include "mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "examples/checkpoint.h"
#include "examples/quantize.h"
#include "test.h"

#include <stdlib.h>

#define U 5.9604644775390625e-8 /* half a unit of the last place of 1 in f32 */

#define FOR_ISA(isa)                                                                                                   \
    for (mla_isa isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa = (mla_isa)(isa + 1))                                  \
        if (TEST_ISA(isa))
#define FOR_DTYPE(t) for (mla_dtype t = MLA_F32; t <= MLA_NVFP4; t = (mla_dtype)(t + 1))

static mla_error error;
static int all; /* combinations */

/* ---- memory: everything lives until drop_to() -------------------------------------------------------------------- */

static void *bag[1 << 16];
static int bag_n;

static void *hold(double bytes) {
    void *p = bag_n < (int)(sizeof bag / sizeof *bag) ? calloc(bytes >= 1 ? (size_t)bytes : 1, 1) : NULL;
    if (!p) puts("no memory for the test"), exit(2);
    return bag[bag_n++] = p;
}
static void drop_to(int n) {
    while (bag_n > n) free(bag[--bag_n]);
}

/* ---- what the bytes mean: plain, of mla.h only the conversion of halves ---------------------------------------- */

static double half(const unsigned char *b) { return (double)mla_f16_to_f32((uint16_t)(b[0] | b[1] << 8)); }
static int nibble(const unsigned char *b, int i, int run) { return b[i % run] >> (4 * (i / run % 2)) & 15; }
static int int8_of(unsigned char b) { return b < 128 ? b : b - 256; }

static const int nl_list[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int fp4_list[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* Of the K types with minima: scale and minimum, six bits each. */
static void small_scale(const unsigned char *s, int j, int *scale, int *min) {
    *scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    *min = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
}

/* Weight i of a block is scale * code - min; size [1]: |scale * code| + |min| before anything cancels. */
static double decoded(mla_dtype t, const unsigned char *b, int i, double *size) {
    const int j16 = i / 16, j32 = i / 32, n = i / 128, r = i % 128;
    double d = t == MLA_MXFP4 ? 0 : half(b), min = 0;
    int code = 0, s, m;
    switch (t) {
    case MLA_Q8: code = int8_of(b[2 + i]); break;
    case MLA_Q4: code = nibble(b + 2, i, 16), min = 8 * d; break;
    case MLA_Q4_1: code = nibble(b + 4, i, 16), min = -half(b + 2); break;
    case MLA_Q5_0: code = nibble(b + 6, i, 16) | (b[2 + i / 8] >> i % 8 & 1) << 4, min = 16 * d; break;
    case MLA_Q5_1: code = nibble(b + 8, i, 16) | (b[4 + i / 8] >> i % 8 & 1) << 4, min = -half(b + 2); break;
    case MLA_Q2_K:
        code = b[16 + 32 * n + i % 32] >> 2 * (j32 % 4) & 3;
        d = half(b + 80) * (b[j16] & 15), min = half(b + 82) * (b[j16] >> 4);
        break;
    case MLA_Q3_K:
        code = (b[32 + 32 * n + i % 32] >> 2 * (j32 % 4) & 3) - (b[i % 32] >> j32 & 1 ? 0 : 4);
        s = (b[96 + j16 % 8] >> 4 * (j16 / 8) & 15) | (b[104 + j16 % 4] >> 2 * (j16 / 4) & 3) << 4;
        d = half(b + 108) * (s - 32);
        break;
    case MLA_Q4_K:
    case MLA_Q5_K:
        small_scale(b + 4, j32, &s, &m);
        code = b[(t == MLA_Q4_K ? 16 : 48) + 32 * (i / 64) + i % 32] >> 4 * (j32 % 2) & 15;
        if (t == MLA_Q5_K) code |= (b[16 + i % 32] >> j32 & 1) << 4;
        min = half(b + 2) * m, d *= s;
        break;
    case MLA_Q6_K:
        code = ((b[64 * n + r % 64] >> 4 * (r / 64) & 15) | (b[128 + 32 * n + r % 32] >> 2 * (r / 32) & 3) << 4) - 32;
        d = half(b + 208) * int8_of(b[192 + j16]);
        break;
    case MLA_IQ4_NL: code = nl_list[nibble(b + 2, i, 16)]; break;
    case MLA_IQ4_XS:
        code = nl_list[nibble(b + 8 + 16 * j32, i % 32, 16)];
        d *= ((b[4 + j32 / 2] >> 4 * (j32 % 2) & 15) | ((b[2] | b[3] << 8) >> 2 * j32 & 3) << 4) - 32;
        break;
    case MLA_MXFP4: code = fp4_list[nibble(b + 1, i, 16)], d = ldexp(1, b[0] - 128); break;
    case MLA_NVFP4:
        code = fp4_list[b[4 + 8 * j16 + i % 8] >> 4 * (i % 16 / 8) & 15];
        d = (b[j16] & 127) == 127 ? 0 : 0.5 * (double)mla_e4m3_to_f32((uint8_t)(b[j16] & 127));
        break;
    default: break;
    }
    *size = fabs(d * code) + fabs(min);
    return d * code - min;
}

/* ---- matrices of random weights ---------------------------------------------------------------------------------- */

typedef struct matrix {
    mla_tensor t;
    double *w, *size; /* [rows, cols] */
} matrix;

/* Where a block has its halves, and what the second one is to the first for weights of mean about 0. */
static const struct halves {
    mla_dtype t;
    int at, second;
    float ratio;
} halves[] = {{MLA_Q8, 0, -1, 0},       {MLA_Q4, 0, -1, 0},       {MLA_Q4_1, 0, 2, -7.5f}, {MLA_Q5_0, 0, -1, 0},
              {MLA_Q5_1, 0, 2, -15.5f}, {MLA_Q2_K, 80, 82, 1.5f}, {MLA_Q3_K, 108, -1, 0},  {MLA_Q4_K, 0, 2, 7.5f},
              {MLA_Q5_K, 0, 2, 15.5f},  {MLA_Q6_K, 208, -1, 0},   {MLA_IQ4_NL, 0, -1, 0},  {MLA_IQ4_XS, 0, -1, 0}};

static void put_half(unsigned char *b, float f) {
    const uint16_t h = mla_f32_to_f16(f);
    b[0] = (unsigned char)(h & 255), b[1] = (unsigned char)(h >> 8);
}

/* Any bits at all, but for scales: finite, and so that weights are of the size 1 / sqrt(cols). */
static void random_block(test_rng *r, mla_dtype t, unsigned char *b, int cols) {
    const int n = mla_dtype_block(t), bytes = (int)mla_dtype_bytes(t, (size_t)n);
    const struct halves *h = NULL;
    double sum = 0, size;
    for (int i = 0; i < bytes; i++) b[i] = (unsigned char)test_u64(r);
    for (size_t i = 0; i < sizeof halves / sizeof *halves; i++)
        if (halves[i].t == t) h = &halves[i];
    if (t == MLA_MXFP4) b[0] = (unsigned char)(120 + test_int(r, 4));
    for (int i = 0; i < 4 && t == MLA_NVFP4; i++) b[i] = (unsigned char)(1 + test_int(r, 22) + 128 * test_int(r, 2));
    if (!h) return;
    put_half(b + h->at, 1);
    if (h->second >= 0) put_half(b + h->second, h->ratio);
    for (int i = 0; i < n; i++) sum += pow(decoded(t, b, i, &size), 2);
    const float unit = (float)sqrt(n / ((sum + 1e-9) * cols)) * (0.5f + test_uniform(r)) *
                       (test_int(r, 2) && h->second < 0 ? -1.0f : 1.0f);
    put_half(b + h->at, unit);
    if (h->second >= 0) put_half(b + h->second, unit * h->ratio * (0.8f + 0.4f * test_uniform(r)));
}

/* A value of a dtype without blocks: its bytes. */
static void random_value(test_rng *r, mla_dtype t, unsigned char *b, int cols) {
    const float f = test_gauss(r) / sqrtf((float)cols);
    uint16_t h = t == MLA_F16 ? mla_f32_to_f16(f) : mla_f32_to_bf16(f);
    uint8_t code = (uint8_t)test_u64(r);
    if (t == MLA_E4M3 && (code & 127) == 127) code = 3; /* NaN; a subnormal instead */
    if (t == MLA_F32) memcpy(b, &f, 4);
    else if (t == MLA_F16 || t == MLA_BF16) memcpy(b, &h, 2);
    else *b = code;
}
static double value(mla_dtype t, const unsigned char *b) {
    float f;
    uint16_t h;
    if (t == MLA_F32) return (double)(memcpy(&f, b, 4), f);
    memcpy(&h, b, t == MLA_F16 || t == MLA_BF16 ? 2 : 1);
    return t == MLA_F16    ? (double)mla_f16_to_f32(h)
           : t == MLA_BF16 ? (double)mla_bf16_to_f32(h)
           : t == MLA_E4M3 ? (double)mla_e4m3_to_f32(*b)
                           : int8_of(*b);
}

/* Scales of E4M3 and I8 in one of several block sizes and dtypes. */
static void random_scales(test_rng *r, matrix *m) {
    static const int sizes[][2] = {{0, 0}, {1, 0}, {-1, -1}, {32, 64}, {3, 5}, {128, 128}, {1, 32}, {-1, 1}};
    static const mla_dtype dtypes[] = {MLA_F32, MLA_BF16, MLA_UE8M0};
    mla_tensor *t = &m->t;
    const int *size = sizes[test_int(r, 8)], rows = size[0] < 0 ? t->rows : size[0];
    const int cols = size[1] < 0 || (size[0] == 1 && size[1] == 0) ? t->cols : size[1];
    const int by = rows ? rows : 128, bx = cols ? cols : 128, across = (t->cols + bx - 1) / bx;
    const int n = across * ((t->rows + by - 1) / by);
    const float unit = (t->dtype == MLA_I8 ? 0.014f : 0.006f) / sqrtf((float)t->cols);
    unsigned char *scale = (unsigned char *)hold(4.0 * n);
    t->scale_dtype = dtypes[test_int(r, 3)], t->scale_rows = rows, t->scale_cols = cols, t->scale = scale;
    for (int i = 0; i < n; i++) {
        const float f = unit * (0.5f + test_uniform(r));
        const uint16_t h = mla_f32_to_bf16(f);
        if (t->scale_dtype == MLA_F32) memcpy(scale + 4 * i, &f, 4);
        else if (t->scale_dtype == MLA_BF16) memcpy(scale + 2 * i, &h, 2);
        else scale[i] = (unsigned char)(127 + (int)floorf(log2f(f)));
    }
    for (int i = 0; i < t->rows; i++)
        for (int j = 0; j < t->cols; j++) {
            const int k = i / by * across + j / bx;
            const double s = t->scale_dtype == MLA_UE8M0
                                 ? (double)mla_ue8m0_to_f32(scale[k])
                                 : value(t->scale_dtype, scale + (t->scale_dtype == MLA_F32 ? 4 : 2) * k);
            m->w[i * t->cols + j] *= s, m->size[i * t->cols + j] *= s;
        }
}

static int has_x16(mla_dtype t) { return t >= MLA_Q8 && t != MLA_Q2_K && t != MLA_Q3_K; }

/* The same in the interleaved layout, if there is one for it. */
static mla_tensor interleaved(const mla_tensor *t) {
    if (!has_x16(t->dtype) || t->rows % 16) return *t;
    void *data = hold((double)mla_dtype_bytes(t->dtype, (size_t)t->rows * (size_t)t->cols));
    CHECK(mla_repack(data, t, &error) == MLA_OK, "%s [%d, %d]: %s", mla_dtype_name(t->dtype), t->rows, t->cols,
          error.text);
    mla_tensor out = mla_view(data, t->dtype, t->rows, t->cols);
    out.layout = MLA_LAYOUT_X16;
    return out;
}

static matrix random_matrix(test_rng *r, mla_dtype t, int rows, int cols) {
    const int block = mla_dtype_block(t), bytes = (int)mla_dtype_bytes(t, (size_t)block);
    const size_t n = (size_t)rows * (size_t)cols;
    unsigned char *data = (unsigned char *)hold((double)mla_dtype_bytes(t, n) + 1) + 1; /* at an odd address */
    matrix m;
    m.t = mla_view(data, t, rows, cols);
    m.w = (double *)hold(8.0 * (double)n), m.size = (double *)hold(8.0 * (double)n);
    for (size_t i = 0; i < n / (size_t)block; i++, data += bytes) {
        if (block > 1) random_block(r, t, data, cols);
        else random_value(r, t, data, cols);
        for (int j = 0; j < block; j++) {
            double *w = &m.w[i * (size_t)block + (size_t)j], *size = &m.size[i * (size_t)block + (size_t)j];
            if (block > 1) *w = decoded(t, data, j, size);
            else *w = value(t, data), *size = fabs(*w);
        }
    }
    if (t == MLA_E4M3 || t == MLA_I8) random_scales(r, &m);
    return m;
}

/* A matrix of F32 with these weights. */
static mla_tensor plain(const matrix *m) {
    float *data = (float *)hold(4.0 * m->t.rows * m->t.cols);
    for (int i = 0; i < m->t.rows * m->t.cols; i++) data[i] = (float)m->w[i];
    return mla_view(data, MLA_F32, m->t.rows, m->t.cols);
}

/* ---- vectors ----------------------------------------------------------------------------------------------------- */

static mla_dtype dtype_named(const char *name) {
    FOR_DTYPE(t) if (!strcmp(name, mla_dtype_name(t))) return t;
    return !strcmp(name, "q4_0") ? MLA_Q4 : !strcmp(name, "q8_0") ? MLA_Q8 : MLA_DTYPE_COUNT;
}

static void test_vectors(void) {
    static char line[8192];
    int seen[MLA_DTYPE_COUNT] = {0};
    FILE *f = fopen("tests/fixtures/formats/vectors.txt", "r");
    if (!CHECK(f != NULL, "no tests/fixtures/formats/vectors.txt")) return;
    while (fgets(line, sizeof line, f)) {
        unsigned char block[256];
        float want[256], got[256];
        char name[16], hex[600];
        int n, at;
        if (line[0] == '#' || sscanf(line, "%15s %599s%n", name, hex, &at) != 2) continue;
        const mla_dtype t = dtype_named(name);
        if (!CHECK(t < MLA_DTYPE_COUNT, "%s: no dtype of this name", name)) continue;
        const int bytes = (int)strlen(hex) / 2, weights = mla_dtype_block(t);
        CHECK((int)mla_dtype_bytes(t, (size_t)weights) == bytes, "%s: blocks of %d bytes, expected %d", name,
              (int)mla_dtype_bytes(t, (size_t)weights), bytes);
        for (int i = 0; i < bytes; i++) {
            unsigned u;
            sscanf(hex + 2 * i, "%2x", &u);
            block[i] = (unsigned char)u;
        }
        for (n = 0; n < 256; n++) {
            unsigned u;
            int more;
            if (sscanf(line + at, " %8x%n", &u, &more) != 1) break;
            memcpy(&want[n], &u, 4), at += more;
        }
        CHECK(n == weights, "%s: blocks of %d weights, expected %d", name, weights, n);
        mla_widen(got, t, block, (size_t)n);
        int wrong = 0;
        for (int i = 0; i < n; i++) {
            double size;
            const float plainly = (float)decoded(t, block, i, &size);
            wrong += memcmp(&want[i], &got[i], 4) != 0;
            CHECK(want[i] == plainly, "%s: weight %d is %g, by this test %g", name, i, (double)want[i],
                  (double)plainly);
        }
        CHECK(!wrong, "%s: mla_widen has %d of %d weights wrong", name, wrong, n);
        seen[t]++;
    }
    fclose(f);
    for (int t = MLA_Q8; t <= MLA_NVFP4; t++)
        CHECK(seen[t] == 2, "%s: %d vectors", mla_dtype_name((mla_dtype)t), seen[t]);
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

/* x [n] as int8 activations see it, in groups of 32; slack [n]: what a code may be off by where rounding is a close
   call, if x itself is off by up to off [n]. */
static void rounded(double *y, double *slack, const double *x, const double *off, int n) {
    for (int g = 0; g < n; g += 32) {
        double top = 0;
        for (int i = g; i < g + 32; i++) top = fabs(x[i]) > top ? fabs(x[i]) : top;
        const double d = top / 127;
        for (int i = g; i < g + 32; i++) {
            const double v = d > 0 ? x[i] / d : 0, q = nearbyint(v), near = (off ? off[i] / (d + 1e-30) : 0) + 1e-4;
            y[i] = q * d;
            slack[i] = (off ? fabs(q) / 127 * off[i] : 0) + 8 * U * fabs(y[i]) +
                       (fabs(fabs(v - floor(v)) - 0.5) < near ? d : 0);
            if (off) slack[i] += off[i];
        }
    }
}

/* y [n] = w x with bounds of its error; x is off by up to slack. int8: sums of groups are exact, and those of them in
   f32 have some roundings each. */
static void product(double *y, double *bound, const matrix *m, const double *x, const double *slack, int int8) {
    const int n = m->t.cols;
    const double roundings = int8 ? 4 * (n / 16 + 12) : n + 8;
    for (int i = 0; i < m->t.rows; i++) {
        double sum = 0, size = 0, off = 0;
        for (int j = 0; j < n; j++) {
            const double w = m->w[i * n + j], s = m->size[i * n + j];
            sum += w * x[j], size += s * fabs(x[j]), off += s * slack[j];
        }
        y[i] = sum, bound[i] = roundings * U * size + off + 1e-35;
    }
}

static double worst; /* part of a bound that was used */

/* A dense layer y = down(silu(gate x) * up x), in double, against what the library gives for T tokens. */
static void check_mlp(mla_isa isa, mla_activations act, const matrix *gate, const matrix *up, const matrix *down,
                      int x16, const float *x, int T) {
    const int D = gate->t.cols, I = gate->t.rows, mark = bag_n;
    const int in8 = act == MLA_ACT_INT8 && gate->t.dtype >= MLA_Q8 && up->t.dtype >= MLA_Q8;
    const int mid8 = act == MLA_ACT_INT8 && down->t.dtype >= MLA_Q8, n = D > I ? D : I;
    double *xr = (double *)hold(8.0 * n), *slack = (double *)hold(8.0 * n), *g = (double *)hold(8.0 * n);
    double *eg = (double *)hold(8.0 * n), *u = (double *)hold(8.0 * n), *eu = (double *)hold(8.0 * n);
    double *y = (double *)hold(8.0 * n), *bound = (double *)hold(8.0 * n), *h = (double *)hold(8.0 * n);
    float *got = (float *)hold(4.0 * T * D);
    char way[128];
    mla_config c;
    mla_weights w;
    mla_layer_weights l;
    mla_context_desc d;
    mla_model *model;
    mla_context *k;
    memset(&c, 0, sizeof c), memset(&w, 0, sizeof w), memset(&l, 0, sizeof l), memset(&d, 0, sizeof d);
    c.hidden_size = D, c.num_hidden_layers = 1, c.intermediate_size = I, w.layers = &l;
    l.mlp.gate.weight = x16 & 1 ? interleaved(&gate->t) : gate->t;
    l.mlp.up.weight = x16 & 2 ? interleaved(&up->t) : up->t;
    l.mlp.down.weight = x16 & 4 ? interleaved(&down->t) : down->t;
    d.max_tokens = T, d.threads = 2, d.isa = isa, d.activations = act;
    snprintf(way, sizeof way, "%s %s, gate %s up %s down %s, interleaved %d, [%d, %d], T %d", mla_isa_name(isa),
             act == MLA_ACT_INT8 ? "int8" : "f32", mla_dtype_name(gate->t.dtype), mla_dtype_name(up->t.dtype),
             mla_dtype_name(down->t.dtype), x16, I, D, T);
    if (!CHECK(mla_model_create(&model, &c, &w, NULL, &error) == MLA_OK, "%s: %s", way, error.text)) return;
    int ok = CHECK(mla_context_create(&k, model, &d, &error) == MLA_OK, "%s: %s", way, error.text);
    if (ok) {
        ok = CHECK(mla_moe_forward(k, 0, got, x, T, NULL) == MLA_OK, "%s: %s", way, mla_context_error(k)->text);
        mla_context_destroy(k);
    }
    double most = 0;
    for (int t = 0; ok && t < T; t++) {
        for (int i = 0; i < D; i++) h[i] = (double)x[t * D + i], xr[i] = h[i], slack[i] = 0;
        if (in8) rounded(xr, slack, h, NULL, D);
        product(g, eg, gate, xr, slack, in8), product(u, eu, up, xr, slack, in8);
        for (int i = 0; i < I; i++) {
            const double silu = g[i] / (1 + exp(-g[i]));
            h[i] = silu * u[i];
            eg[i] = 1.1 * eg[i] * (fabs(u[i]) + eu[i]) + fabs(silu) * eu[i] + 8 * U * fabs(h[i]);
        }
        if (mid8) rounded(xr, slack, h, eg, I);
        product(y, bound, down, mid8 ? xr : h, mid8 ? slack : eg, mid8);
        for (int i = 0; i < D; i++) {
            const double e = fabs((double)got[t * D + i] - y[i]) / bound[i];
            if (!(e <= most)) most = e;
        }
    }
    CHECK(most <= 1, "%s: %.3g of the bound", way, most);
    if (!(most <= worst)) worst = most;
    mla_model_destroy(model);
    drop_to(mark);
}

/* Row i has a one at column i % cols, so that a product gives its input. */
static matrix ones(int rows, int cols) {
    matrix m;
    float *data = (float *)hold(4.0 * rows * cols);
    m.w = (double *)hold(8.0 * rows * cols), m.size = m.w, m.t = mla_view(data, MLA_F32, rows, cols);
    for (int i = 0; i < rows; i++) data[i * cols + i % cols] = 1, m.w[i * cols + i % cols] = 1;
    return m;
}

/* Gate and up of a format, seen as they are; then down of it, before which the values are seen as they are. Odd
   numbers of rows, few and many tokens. */
static void test_products(mla_dtype t) {
    static const int counts[] = {1, 2, 3, 5, 17, 40}, rows[] = {1, 7, 16, 33, 48, 80};
    test_rng r = {100u + (uint64_t)t};
    const int block = mla_dtype_block(t);
    for (int i = 0; i < (all ? 18 : 6); i++) {
        const int mark = bag_n, T = counts[(i + i / 6) % 6], n = rows[(i * 5 + 3) % 6];
        const int cols = block == 256 ? 256 * (1 + i % 2) : block > 1 ? 64 * (2 + i % 4) : 81 + 50 * i;
        const int other = n < cols ? n : cols;
        float *x = (float *)hold(4.0 * T * (cols + n));
        const matrix gate = random_matrix(&r, t, other, cols), up = random_matrix(&r, t, other, cols);
        const matrix down = random_matrix(&r, t, n, cols), shown = ones(cols, other), one = ones(cols, n);
        const matrix plain_up = random_matrix(&r, MLA_F32, cols, n);
        test_fill(&r, x, (size_t)(T * (cols + n)), 1);
        FOR_ISA(isa)
        for (int how = 0; how < 4; how++) { /* activations, layout */
            if ((how & 2) && !has_x16(t)) continue;
            if ((how & 1) && block == 1) continue;
            const mla_activations act = how & 1 ? MLA_ACT_INT8 : MLA_ACT_F32;
            check_mlp(isa, act, &gate, &up, &shown, how & 2 ? 7 : 0, x, T);
            check_mlp(isa, act, i & 1 ? &one : &plain_up, &plain_up, &down, how & 2 ? 7 : 0, x, T);
        }
        drop_to(mark);
    }
}

/* Every pair of formats for gate and up, with one after the other for down, in any mixture of layouts. */
static void test_pairs(void) {
    test_rng r = {3};
    matrix gates[MLA_DTYPE_COUNT], downs[MLA_DTYPE_COUNT];
    enum { D = 256, I = 16, T = 5 };
    float x[T * D];
    int turn = 0;
    test_fill(&r, x, T * D, 1);
    FOR_DTYPE(t) gates[t] = random_matrix(&r, t, I, D), downs[t] = random_matrix(&r, t, I, D);
    const matrix shown = ones(D, I);
    FOR_DTYPE(a) FOR_DTYPE(b) FOR_ISA(isa) for (int how = 0; how < (all ? 16 : 2); how++, turn++) {
        const int k = all ? how : turn;
        check_mlp(isa, k & 1 ? MLA_ACT_INT8 : MLA_ACT_F32, &gates[a], &downs[b], &shown, k >> 1 & 3, x, k & 4 ? T : 1);
    }
}

/* ---- every place of a model -------------------------------------------------------------------------------------- */

enum { VOCAB = 48, LAYERS = 2, EXPERTS = 2, ZERO = 14, LENGTH = 7, MOST_PLACES = 80 };

/* Two layers, dense and of experts, sparse attention, and one of multi-token prediction; the places where a matrix
   stands. */
typedef struct subject {
    mla_config c;
    mla_weights w;
    mla_layer_weights layers[LAYERS + 1];
    mla_mtp_weights mtp;
    mla_mlp_weights experts[EXPERTS];
    mla_tensor *place[MOST_PLACES];
    const char *name[MOST_PLACES];
    matrix m[MOST_PLACES];
    int n;
} subject;

static void place(subject *s, const char *name, mla_tensor *t, int rows, int cols) {
    *t = mla_view(NULL, MLA_F32, rows, cols);
    s->name[s->n] = name, s->place[s->n++] = t;
}
static mla_tensor norm_of(test_rng *r, int n) {
    float *x = (float *)hold(4.0 * n);
    for (int i = 0; i < n; i++) x[i] = 0.5f + test_uniform(r);
    return mla_view(x, MLA_F32, 1, n);
}
static void place_mlp(subject *s, const char *const *names, mla_mlp_weights *w, int inter) {
    const int D = s->c.hidden_size;
    place(s, names[0], &w->gate.weight, inter, D), place(s, names[1], &w->up.weight, inter, D);
    place(s, names[2], &w->down.weight, D, inter);
}
static void place_attention(subject *s, test_rng *r, mla_attn_weights *a, int apart) {
    const mla_config *c = &s->c;
    const int D = c->hidden_size, H = c->num_attention_heads, Q = c->q_lora_rank, R = c->kv_lora_rank;
    const int N = c->qk_nope_head_dim, P = c->qk_rope_head_dim, V = c->v_head_dim, Hi = c->index_n_heads;
    const int d = c->index_head_dim;
    if (Q) {
        place(s, "q_a", &a->q_a.weight, Q, D), place(s, "q_b", &a->q_b.weight, H * (N + P), Q);
        a->q_norm.weight = norm_of(r, Q);
        place(s, "wq_b", &a->indexer.wq_b.weight, Hi * d, Q), place(s, "wk", &a->indexer.wk.weight, d, D);
        place(s, "weights_proj", &a->indexer.weights_proj, Hi, D);
        a->indexer.k_norm.weight = norm_of(r, d), a->indexer.k_norm.bias = norm_of(r, d);
    } else place(s, "q", &a->q.weight, H * (N + P), D);
    place(s, "kv_a", &a->kv_a.weight, R + P, D);
    if (apart) place(s, "k_b", &a->k_b, H * R, N), place(s, "v_b", &a->v_b, H * V, R);
    else place(s, "kv_b", &a->kv_b.weight, H * (N + V), R);
    place(s, "o", &a->o.weight, D, H * V), a->kv_norm.weight = norm_of(r, R);
}

/* n: what all rows of matrices have a multiple of. */
static void subject_open(subject *s, test_rng *r, int n, int lora) {
    static const char *const mlp[] = {"mlp.gate", "mlp.up", "mlp.down"}, *const shared[] = {"shared.gate", "shared.up",
                                                                                            "shared.down"};
    static const char *const expert[] = {"expert.gate", "expert.up", "expert.down"};
    mla_config *c = &s->c;
    memset(s, 0, sizeof *s);
    c->vocab_size = VOCAB, c->hidden_size = n, c->num_hidden_layers = LAYERS, c->num_nextn_predict_layers = 1;
    c->intermediate_size = n, c->num_attention_heads = 2, c->q_lora_rank = lora ? n : 0, c->kv_lora_rank = n;
    c->qk_nope_head_dim = lora ? n : 24, c->qk_rope_head_dim = 8, c->v_head_dim = n / 2;
    if (lora) c->index_topk = 4, c->index_n_heads = 16, c->index_head_dim = 8;
    c->n_routed_experts = EXPERTS, c->zero_expert_num = ZERO, c->num_experts_per_tok = EXPERTS + ZERO;
    c->moe_intermediate_size = n, c->n_shared_experts = 1;
    place(s, "embed", &s->w.embed, VOCAB, n), place(s, "head", &s->w.head, VOCAB, n);
    s->w.norm.weight = norm_of(r, n), s->w.layers = s->layers, s->w.mtp = &s->mtp;
    for (int i = 0; i <= LAYERS; i++) {
        mla_layer_weights *l = &s->layers[i];
        place_attention(s, r, &l->attn, lora && i == 1);
        l->attn_norm.weight = norm_of(r, n), l->ffn_norm.weight = norm_of(r, n);
        if (i != 1) place_mlp(s, mlp, &l->mlp, n);
        if (i != 1) continue;
        place(s, "router", &l->moe.router, EXPERTS + ZERO, n), l->moe.experts = s->experts;
        for (int e = 0; e < EXPERTS; e++) place_mlp(s, expert, &s->experts[e], n);
        place_mlp(s, shared, &l->moe.shared, n);
    }
    s->mtp.enorm.weight = norm_of(r, n), s->mtp.hnorm.weight = norm_of(r, n), s->mtp.norm.weight = norm_of(r, n);
    place(s, "eh_proj", &s->mtp.eh_proj.weight, n, 2 * n);
    place(s, "mtp.embed", &s->mtp.embed, VOCAB, n), place(s, "mtp.head", &s->mtp.head, VOCAB, n);
}

typedef struct result {
    float embedded[LENGTH * 256], hidden[LENGTH * 256], logits[LENGTH * VOCAB], ahead[LENGTH * VOCAB];
} result;

/* A prompt of all tokens but the last, which comes after it, then multi-token prediction on what went before. */
static int run_subject(const subject *s, mla_isa isa, mla_attn_path path, mla_activations act, result *out,
                       const char *way) {
    static const int tokens[LENGTH + 1] = {3, 47, 16, 0, 31, 8, 15, 22};
    float *hidden[LAYERS + 1] = {out->embedded, NULL, out->hidden}, *next[2] = {NULL, NULL};
    const int D = s->c.hidden_size;
    mla_context_desc d;
    mla_cache_desc kd;
    mla_model *model;
    mla_context *k = NULL;
    mla_cache *cache = NULL;
    mla_sequence q;
    mla_outputs o;
    memset(&d, 0, sizeof d), memset(&kd, 0, sizeof kd), memset(&q, 0, sizeof q), memset(&o, 0, sizeof o);
    d.max_tokens = LENGTH, d.threads = 2, d.isa = isa, d.attn = path, d.activations = act, kd.capacity = LENGTH;
    if (!CHECK(mla_model_create(&model, &s->c, &s->w, NULL, &error) == MLA_OK, "%s: %s", way, error.text)) return 0;
    int ok = CHECK(mla_context_create(&k, model, &d, &error) == MLA_OK &&
                       mla_cache_create(&cache, model, &kd, &error) == MLA_OK,
                   "%s: %s", way, error.text);
    for (int t = 0; ok && t < LENGTH; t += LENGTH - 1) {
        q.cache = cache, q.n_tokens = q.n_logits = t ? 1 : LENGTH - 1;
        hidden[0] = out->embedded + t * D, hidden[LAYERS] = out->hidden + t * D;
        o.logits = out->logits + t * VOCAB, o.hidden = hidden;
        ok = CHECK(mla_model_forward(k, &q, 1, tokens + t, &o) == MLA_OK, "%s: %s", way, mla_context_error(k)->text);
    }
    o.hidden = next, o.logits = out->ahead, q.n_tokens = q.n_logits = LENGTH;
    if (ok)
        ok = CHECK(mla_mtp_forward(k, 0, &q, 1, tokens + 1, out->hidden, &o) == MLA_OK, "%s: %s", way,
                   mla_context_error(k)->text);
    mla_cache_destroy(cache), mla_context_destroy(k), mla_model_destroy(model);
    return ok;
}

static float difference(const result *a, const result *b, int D) {
    const float h = test_rel_err(a->hidden, b->hidden, (size_t)(LENGTH * D));
    const float l = test_rel_err(a->logits, b->logits, LENGTH * VOCAB),
                n = test_rel_err(a->ahead, b->ahead, LENGTH * VOCAB);
    return h > l ? (h > n ? h : n) : l > n ? l : n;
}

static float worst_f32, worst_int8;

/* The model with its matrices against the same in f32. Where they differ, and if asked for, each place by itself. */
static void check_places(subject *s, const char *what, int each) {
    static const float bound = 5e-5f, noise = 0.1f; /* of the largest value */
    static result wants[2], got;
    const int D = s->c.hidden_size, topk = s->c.index_topk;
    char way[160];
    mla_tensor plains[MOST_PLACES];
    for (int i = 0; i < s->n; i++) *s->place[i] = plains[i] = plain(&s->m[i]);
    for (int int8 = 0; int8 < 2; int8++) { /* which must not choose other keys for its rounding: it has all of them */
        s->c.index_topk = int8 && topk ? LENGTH : topk;
        if (!run_subject(s, MLA_ISA_AUTO, MLA_ATTN_NAIVE, MLA_ACT_F32, &wants[int8], what)) return;
    }
    FOR_ISA(isa) for (int layout = 0; layout < 2; layout++) for (int how = 0; how < 4; how++) {
        const mla_attn_path path = how & 1 ? MLA_ATTN_NAIVE : MLA_ATTN_ABSORBED;
        const int int8 = how >> 1, mark = bag_n;
        const result *want = &wants[int8];
        s->c.index_topk = int8 && topk ? LENGTH : topk;
        if (!all && !each && ((how ^ how >> 1 ^ layout ^ (int)isa) & 1)) continue; /* half of them, all pairs */
        for (int i = 0; i < s->n; i++) *s->place[i] = layout ? interleaved(&s->m[i].t) : s->m[i].t;
        snprintf(way, sizeof way, "%s%s, %s %s %s", what, layout ? ", interleaved" : "", mla_isa_name(isa),
                 how & 1 ? "naive" : "absorbed", int8 ? "int8" : "f32");
        if (run_subject(s, isa, path, int8 ? MLA_ACT_INT8 : MLA_ACT_F32, &got, way)) {
            int same = 1; /* an embedding is a decoded row, bit for bit */
            for (int i = 0; i < LENGTH * D; i++) same &= got.embedded[i] == want->embedded[i];
            CHECK(same, "%s: embeddings are not what was decoded", way);
            const float e = difference(&got, want, D);
            const int ok = CHECK(e <= (int8 ? noise : bound), "%s: off by %.1e", way, (double)e);
            float *most = int8 ? &worst_int8 : &worst_f32;
            if (!(e <= *most)) *most = e;
            for (int j = 0; j < s->n && (!ok || each); j++) { /* one place at a time */
                for (int i = 0; i < s->n; i++)
                    *s->place[i] = i != j ? plains[i] : layout ? interleaved(&s->m[i].t) : s->m[i].t;
                if (!run_subject(s, isa, path, int8 ? MLA_ACT_INT8 : MLA_ACT_F32, &got, way)) break;
                const float one = difference(&got, want, D);
                CHECK(one <= (int8 ? noise : bound), "%s: %s off by %.1e", way, s->name[j], (double)one);
            }
        }
        drop_to(mark);
    }
}

static void test_places(void) {
    FOR_DTYPE(t) for (int lora = 1; lora >= 0; lora--) {
        if (!all && ((int)t + lora) % 2) continue;
        test_rng r = {50u + (uint64_t)t};
        static subject s;
        const int block = mla_dtype_block(t);
        subject_open(&s, &r, block > 64 ? block : 64, lora);
        for (int i = 0; i < s.n; i++) s.m[i] = random_matrix(&r, t, s.place[i]->rows, s.place[i]->cols);
        check_places(&s, mla_dtype_name(t), all && lora);
        drop_to(0);
    }
    for (int i = 0; i < (all ? 40 : 6); i++) { /* any mixture */
        test_rng r = {500u + (uint64_t)i};
        static subject s;
        subject_open(&s, &r, 256, i % 4 > 0);
        for (int j = 0; j < s.n; j++)
            s.m[j] = random_matrix(&r, (mla_dtype)test_int(&r, MLA_NVFP4 + 1), s.place[j]->rows, s.place[j]->cols);
        check_places(&s, "mixture", 0);
        drop_to(0);
    }
}

/* ---- pairs of attention's first products, a checkpoint of several formats -------------------------------------- */

/* x [n] of few bits, which int8 activations keep as they are. */
static void few_bits(test_rng *r, float *x, int n) {
    for (int i = 0; i < n; i++) x[i] = (float)(i % 32 == 7 ? 127 : test_int(r, 255) - 127) / 32;
}

static void run_attention(const mla_config *c, const mla_layer_weights *l, mla_isa isa, mla_activations act,
                          const float *x, float *y, int T, const char *way) {
    mla_weights w;
    mla_context_desc d;
    mla_cache_desc kd;
    mla_model *model = NULL;
    mla_context *k = NULL;
    mla_cache *cache = NULL;
    mla_sequence q;
    memset(&w, 0, sizeof w), memset(&d, 0, sizeof d), memset(&kd, 0, sizeof kd), memset(&q, 0, sizeof q);
    w.layers = l, d.max_tokens = T, d.threads = 1, d.isa = isa, d.activations = act, kd.capacity = T;
    const int ok = CHECK(mla_model_create(&model, c, &w, NULL, &error) == MLA_OK &&
                             mla_context_create(&k, model, &d, &error) == MLA_OK &&
                             mla_cache_create(&cache, model, &kd, &error) == MLA_OK,
                         "%s: %s", way, error.text);
    q.cache = cache, q.n_tokens = T;
    if (ok) CHECK(mla_attn_forward(k, 0, y, x, &q, 1) == MLA_OK, "%s: %s", way, mla_context_error(k)->text);
    mla_cache_destroy(cache), mla_context_destroy(k), mla_model_destroy(model);
}

static void test_attention_pairs(void) {
    enum { D = 256, Q = 32, R = 32, N = 16, P = 16, V = 16, T = 3 };
    test_rng r = {4};
    matrix q_a[MLA_DTYPE_COUNT], kv_a[MLA_DTYPE_COUNT];
    mla_layer_weights l;
    mla_config c;
    float x[T * D], want[T * D], got[T * D];
    char way[128];
    int turn = 0;
    memset(&c, 0, sizeof c), memset(&l, 0, sizeof l);
    c.hidden_size = D, c.num_hidden_layers = 1, c.num_attention_heads = 1, c.q_lora_rank = Q, c.kv_lora_rank = R;
    c.qk_nope_head_dim = N, c.qk_rope_head_dim = P, c.v_head_dim = V;
    l.attn.q_norm.weight = norm_of(&r, Q), l.attn.kv_norm.weight = norm_of(&r, R);
    l.attn.q_b.weight = random_matrix(&r, MLA_F32, N + P, Q).t, l.attn.o.weight = random_matrix(&r, MLA_F32, D, V).t;
    l.attn.kv_b.weight = random_matrix(&r, MLA_F32, N + V, R).t;
    few_bits(&r, x, T * D);
    FOR_DTYPE(t) q_a[t] = random_matrix(&r, t, Q, D), kv_a[t] = random_matrix(&r, t, R + P, D);
    FOR_DTYPE(a) FOR_DTYPE(b) {
        const int mark = bag_n;
        l.attn.q_a.weight = plain(&q_a[a]), l.attn.kv_a.weight = plain(&kv_a[b]);
        run_attention(&c, &l, MLA_ISA_AUTO, MLA_ACT_F32, x, want, T, "f32");
        FOR_ISA(isa) for (int how = 0; how < (all ? 16 : 2); how++, turn++) {
            const int k = all ? how : turn, n = k & 4 ? T : 1;
            snprintf(way, sizeof way, "%s, q_a %s kv_a %s, interleaved %d, %d tokens, %s activations",
                     mla_isa_name(isa), mla_dtype_name(a), mla_dtype_name(b), k >> 1 & 3, n, k & 8 ? "int8" : "f32");
            l.attn.q_a.weight = k & 1 ? interleaved(&q_a[a].t) : q_a[a].t;
            l.attn.kv_a.weight = k & 2 ? interleaved(&kv_a[b].t) : kv_a[b].t;
            memset(got, 0, sizeof got);
            run_attention(&c, &l, isa, k & 8 ? MLA_ACT_INT8 : MLA_ACT_F32, x, got, n, way);
            const float e = test_rel_err(got, want, (size_t)(n * D));
            CHECK(e <= 5e-5f, "%s: off by %.1e", way, (double)e);
        }
        drop_to(mark);
    }
    drop_to(0);
}

/* Experts whose gate and down are int4 and whose up is bf16, as some quantisers leave it. */
static void test_mixed_checkpoint(void) {
    static const int tokens[] = {3, 1, 20, 7, 11};
    float want[24], got[24];
    for (int repack = 0; repack < 2; repack++) {
        checkpoint *files;
        checkpoint_quant how;
        mla_model *model;
        memset(&how, 0, sizeof how);
        how.form = CHECKPOINT_KEEP, how.repack = 1;
        if (!CHECK(checkpoint_open(&files, "tests/fixtures/formats/mixed_int4", &error) == MLA_OK, "%s", error.text))
            return;
        if (repack) CHECK(checkpoint_quantize(files, &how, &error) == MLA_OK, "%s", error.text);
        if (!CHECK(mla_model_create(&model, &files->config, &files->weights, NULL, &error) == MLA_OK, "%s", error.text))
            return;
        FOR_ISA(isa) for (int int8 = 0; int8 < 2; int8++) {
            mla_context_desc d;
            mla_cache_desc kd;
            mla_context *k;
            mla_cache *cache;
            mla_sequence q;
            mla_outputs o;
            memset(&d, 0, sizeof d), memset(&kd, 0, sizeof kd), memset(&q, 0, sizeof q), memset(&o, 0, sizeof o);
            d.isa = isa, d.activations = int8 ? MLA_ACT_INT8 : MLA_ACT_F32, d.threads = 1, d.max_tokens = 5;
            kd.capacity = 5;
            if (!CHECK(mla_context_create(&k, model, &d, &error) == MLA_OK, "%s", error.text)) continue;
            if (!CHECK(mla_cache_create(&cache, model, &kd, &error) == MLA_OK, "%s", error.text)) continue;
            q.cache = cache, q.n_tokens = 5, q.n_logits = 1, o.logits = got;
            CHECK(mla_model_forward(k, &q, 1, tokens, &o) == MLA_OK, "%s", mla_context_error(k)->text);
            if (!repack && isa == MLA_ISA_SCALAR && !int8) memcpy(want, got, sizeof want);
            const float e = test_rel_err(got, want, 24);
            CHECK(e <= (int8 ? 0.1f : 5e-5f), "%s, interleaved %d, int8 %d: off by %.1e", mla_isa_name(isa), repack,
                  int8, (double)e);
            mla_cache_destroy(cache), mla_context_destroy(k);
        }
        mla_model_destroy(model), checkpoint_close(files);
    }
}

/* ---- keys and values apart --------------------------------------------------------------------------------------- */

typedef struct split {
    int H, N, V, R;
    mla_config c;
    mla_weights w;
    mla_layer_weights l;
} split;

enum { WIDTH = 48, TURNS = 8, KEYS = 23 };

/* One layer of attention; k_b [H*R, N] and v_b [H*V, R] are the caller's. */
static void split_open(split *s, test_rng *r) {
    const int D = WIDTH, P = TURNS;
    memset(&s->c, 0, sizeof s->c), memset(&s->w, 0, sizeof s->w), memset(&s->l, 0, sizeof s->l);
    s->c.hidden_size = D, s->c.num_hidden_layers = 1, s->c.num_attention_heads = s->H, s->c.kv_lora_rank = s->R;
    s->c.qk_nope_head_dim = s->N, s->c.qk_rope_head_dim = P, s->c.v_head_dim = s->V, s->w.layers = &s->l;
    s->l.attn.q.weight = random_matrix(r, MLA_F32, s->H * (s->N + P), D).t;
    s->l.attn.kv_a.weight = random_matrix(r, MLA_F32, s->R + P, D).t;
    s->l.attn.o.weight = random_matrix(r, MLA_F32, D, s->H * s->V).t;
    s->l.attn.kv_norm.weight = norm_of(r, s->R);
}

/* The same in one matrix of F32. */
static mla_tensor together(const split *s, const matrix *k, const matrix *v) {
    const int H = s->H, N = s->N, V = s->V, R = s->R;
    float *kv = (float *)hold(4.0 * H * (N + V) * R);
    for (int h = 0; h < H; h++)
        for (int i = 0; i < N + V; i++)
            for (int j = 0; j < R; j++)
                kv[(h * (N + V) + i) * R + j] =
                    (float)(i < N ? k->w[(h * R + j) * N + i] : v->w[(h * V + i - N) * R + j]);
    return mla_view(kv, MLA_F32, H * (N + V), R);
}

/* y [KEYS, D] by the reference; one: only the last token. */
static void attention_ref(const split *s, const float *x, double *y, int one) {
    const int D = WIDTH, W = s->R + TURNS;
    double *rows = (double *)hold(8.0 * KEYS * W), *xs = (double *)hold(8.0 * KEYS * D), mask[KEYS] = {0};
    double *p = (double *)hold(8.0 * s->H * KEYS);
    mla_model *m;
    if (!CHECK(mla_model_create(&m, &s->c, &s->w, NULL, &error) == MLA_OK, "%s", error.text)) return;
    for (int i = 0; i < KEYS * D; i++) xs[i] = (double)x[i];
    for (int t = 0; t < KEYS; t++) mla__row_ref(rows + t * W, m, &s->l.attn, xs + t * D, t);
    for (int t = one ? KEYS - 1 : 0; t < KEYS; t++)
        mla__attention_ref(y + t * D, p, NULL, m, &s->l.attn, xs + t * D, rows, NULL, mask, t, t + 1, one);
    mla_model_destroy(m);
}

/* A prompt, a token, two tokens: y [KEYS, D]. */
static void run_split(const split *s, mla_isa isa, mla_attn_path path, mla_activations act, const float *x, float *y,
                      const char *way) {
    static const int steps[] = {20, 1, 2};
    mla_context_desc d;
    mla_cache_desc kd;
    mla_model *model = NULL;
    mla_context *k = NULL;
    mla_cache *cache = NULL;
    mla_sequence q;
    memset(&d, 0, sizeof d), memset(&kd, 0, sizeof kd), memset(&q, 0, sizeof q);
    d.max_tokens = KEYS, d.threads = 2, d.isa = isa, d.attn = path, d.activations = act, kd.capacity = KEYS;
    int ok = CHECK(mla_model_create(&model, &s->c, &s->w, NULL, &error) == MLA_OK &&
                       mla_context_create(&k, model, &d, &error) == MLA_OK &&
                       mla_cache_create(&cache, model, &kd, &error) == MLA_OK,
                   "%s: %s", way, error.text);
    q.cache = cache;
    for (int i = 0, t = 0; ok && i < 3; t += steps[i++]) {
        q.n_tokens = steps[i];
        ok = CHECK(mla_attn_forward(k, 0, y + t * WIDTH, x + t * WIDTH, &q, 1) == MLA_OK, "%s: %s", way,
                   mla_context_error(k)->text);
    }
    mla_cache_destroy(cache), mla_context_destroy(k), mla_model_destroy(model);
}

static float worst_apart;

static void check_split(split *s, test_rng *r, mla_dtype t) {
    float x[KEYS * WIDTH], want[KEYS * WIDTH], got[KEYS * WIDTH];
    double y[KEYS * WIDTH] = {0}, last[KEYS * WIDTH] = {0}, off = 0;
    char way[128];
    split_open(s, r);
    const matrix k = random_matrix(r, t, s->H * s->R, s->N);
    const matrix v = random_matrix(r, s->R % mla_dtype_block(t) ? MLA_F32 : t, s->H * s->V, s->R);
    mla_attn_weights *a = &s->l.attn;
    test_fill(r, x, KEYS * WIDTH, 1);
    a->k_b = k.t, a->v_b = v.t;
    attention_ref(s, x, last, 1);
    a->kv_b.weight = together(s, &k, &v), a->k_b.rows = 1; /* which nobody looks at */
    attention_ref(s, x, y, 0);
    for (int i = 0; i < WIDTH; i++) off = fmax(off, fabs(y[(KEYS - 1) * WIDTH + i] - last[(KEYS - 1) * WIDTH + i]));
    CHECK(off < 1e-5, "%s: the reference differs by %.1e", mla_dtype_name(t), off);
    for (int i = 0; i < KEYS * WIDTH; i++) want[i] = (float)y[i];
    for (int apart = 0; apart < 2; apart++) {
        FOR_ISA(isa) for (int how = 0; how < (apart ? 4 : 2); how++) { /* path, layout */
            const int mark = bag_n, rounds = isa == MLA_ISA_BF16 || isa == MLA_ISA_AMX;
            const mla_activations act = rounds && apart ? MLA_ACT_BF16 : how & 2 ? MLA_ACT_INT8 : MLA_ACT_F32;
            if (apart) a->kv_b.weight.data = NULL;
            if (apart) a->k_b = how & 2 ? interleaved(&k.t) : k.t, a->v_b = how & 2 ? interleaved(&v.t) : v.t;
            snprintf(way, sizeof way, "[%d, %d, %d, %d] %s%s%s %s %s", s->H, s->N, s->V, s->R, mla_dtype_name(t),
                     apart ? " apart" : "", how & 2 ? " interleaved" : "", mla_isa_name(isa),
                     how & 1 ? "naive" : "absorbed");
            memset(got, 0, sizeof got);
            run_split(s, isa, how & 1 ? MLA_ATTN_NAIVE : MLA_ATTN_ABSORBED, act, x, got, way);
            const float e = test_rel_err(got, want, KEYS * WIDTH);
            CHECK(e <= 2e-5f, "%s: off by %.1e", way, (double)e);
            if (!(e <= worst_apart)) worst_apart = e;
            drop_to(mark);
        }
    }
}

static double bytes_of(const split *s) {
    mla_model *m;
    if (!CHECK(mla_model_create(&m, &s->c, &s->w, NULL, &error) == MLA_OK, "%s", error.text)) return 0;
    const double bytes = mla_model_bytes(m, 1);
    mla_model_destroy(m);
    return bytes;
}

static void split_refused(const split *s, const char *text) {
    mla_model *model = NULL;
    const mla_result rc = mla_model_create(&model, &s->c, &s->w, NULL, &error);
    CHECK(rc == MLA_ERR_WEIGHTS && strstr(error.text, text), "%s, not a refusal that says %s: %s", mla_result_name(rc),
          text, error.text);
    mla_model_destroy(model);
}

static void test_split(void) {
    static split shapes[] = {{.H = 2, .N = 32, .V = 24, .R = 40},
                             {.H = 3, .N = 21, .V = 17, .R = 35},
                             {.H = 4, .N = 64, .V = 12, .R = 64},
                             {.H = 2, .N = 256, .V = 24, .R = 256},
                             {.H = 1, .N = 128, .V = 128, .R = 512}};
    test_rng r = {70};
    FOR_DTYPE(t) for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const int block = mla_dtype_block(t);
        if (!all && block < 256 && (i + t) % 2) continue; /* half of them, by turns */
        if (shapes[i].N % block == 0 && (block < 256 || shapes[i].R == 256)) check_split(&shapes[i], &r, t);
        drop_to(0);
    }
    split *s = &shapes[0];
    mla_attn_weights *a = &s->l.attn;
    split_open(s, &r);
    split_refused(s, "attn.kv_b.weight: missing, expected [112, 40]");
    const matrix k = random_matrix(&r, MLA_F32, 80, 32), v = random_matrix(&r, MLA_F32, 48, 40);
    a->k_b = k.t, split_refused(s, "attn.v_b: missing, expected [48, 40]");
    a->v_b = a->k_b, split_refused(s, "attn.v_b: [80, 32], expected [48, 40]");
    a->v_b = v.t, a->k_b.data = NULL, split_refused(s, "attn.k_b: missing, expected [80, 32]");
    a->k_b = mla_view(k.t.data, MLA_F32, 64, 40), split_refused(s, "attn.k_b: [64, 40], expected [80, 32]");
    a->k_b = k.t, a->k_b.dtype = MLA_Q4_K, split_refused(s, "attn.k_b: rows of 32, q4_k needs a multiple of 256");
    a->k_b = k.t;
    a->kv_b.bias = mla_view(k.t.data, MLA_F32, 1, 128);
    split_refused(s, "attn.kv_b.bias: there, but kv_b.weight is not"), a->kv_b.bias.data = NULL;
    const double apart = bytes_of(s);
    a->kv_b.weight = together(s, &k, &v);
    const double all_three = bytes_of(s);
    a->k_b.data = a->v_b.data = NULL;
    const double one = bytes_of(s);
    CHECK(fabs(apart - one) < 1 && fabs(all_three - one) < 1, "bytes: %.0f, %.0f, %.0f", apart, all_three, one);
    mla_linear *no_place = s->c.q_lora_rank > 0 ? &a->q : &a->q_a;
    no_place->weight = mla_view(k.t.data, MLA_F32, -1000, 7);
    CHECK(fabs(bytes_of(s) - one) < 1, "bytes with a matrix that has no place: %.0f, %.0f", bytes_of(s), one);
    memset(no_place, 0, sizeof *no_place);
    drop_to(0);
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

static void refused(const subject *s, const char *name, const char *number) {
    mla_model *model = NULL;
    const mla_result rc = mla_model_create(&model, &s->c, &s->w, NULL, &error);
    CHECK(rc == MLA_ERR_WEIGHTS && strstr(error.text, name) && strstr(error.text, number),
          "%s, not a refusal that names %s and %s: %s", mla_result_name(rc), name, number, error.text);
    mla_model_destroy(model);
}

static void test_refusals(void) {
    static subject s;
    int made = 0; /* the block that the subject was made for */
    FOR_DTYPE(t) {
        test_rng r = {7};
        char number[16];
        const int block = mla_dtype_block(t);
        unsigned char buffer[512] = {0};
        float x[256] = {0};
        mla_tensor w = mla_view(hold(16 * 4 * 256), t, 16, 256);
        const mla_result rc =
            mla_repack(buffer, &(mla_tensor){.data = w.data, .dtype = t, .rows = 15, .cols = 256}, &error);
        CHECK(rc == MLA_ERR_ARGUMENT, "mla_repack of 15 rows of %s: %s", mla_dtype_name(t), mla_result_name(rc));
        if (!has_x16(t)) CHECK(mla_repack(hold(16 * 4 * 256), &w, &error) == MLA_ERR_ARGUMENT, "%s", mla_dtype_name(t));
        if (block > 1)
            CHECK(mla_quantize(t, buffer, x, (size_t)block / 2, &error) == MLA_ERR_ARGUMENT, "%s", mla_dtype_name(t));
        const int offered = t == MLA_F32 || t == MLA_F16 || t == MLA_BF16 || t == MLA_Q8 || t == MLA_Q4 ||
                            t == MLA_Q4_K || t == MLA_Q5_K || t == MLA_Q6_K || t == MLA_IQ4_NL;
        const mla_result made_of = mla_quantize(t, buffer, x, (size_t)block, &error);
        CHECK(made_of == (offered ? MLA_OK : MLA_ERR_ARGUMENT) && (offered || strstr(error.text, "is not offered")),
              "to %s: %s", mla_dtype_name(t), mla_result_name(made_of));
        if (block == 1) continue;
        snprintf(number, sizeof number, "%d", block);
        if (block != made) {
            drop_to(0);
            subject_open(&s, &r, block / 2 * 3, 1); /* 48, 96 or 384 */
            for (int i = 0; i < s.n; i++)
                s.m[i] = random_matrix(&r, MLA_F32, s.place[i]->rows, s.place[i]->cols), *s.place[i] = s.m[i].t;
            made = block;
        }
        for (int i = 0; i < s.n; i++) {
            const mla_tensor keep = *s.place[i];
            const char *last = strrchr(s.name[i], '.');
            if (keep.cols % block == 0) continue;
            s.place[i]->dtype = t;
            refused(&s, last ? last + 1 : s.name[i], number);
            *s.place[i] = keep;
        }
    }
    drop_to(0);
    test_rng r = {8};
    subject_open(&s, &r, 64, 1);
    for (int i = 0; i < s.n; i++)
        s.m[i] = random_matrix(&r, MLA_F32, s.place[i]->rows, s.place[i]->cols), *s.place[i] = s.m[i].t;
    s.w.head.layout = MLA_LAYOUT_X16, refused(&s, "head", "f32"), s.w.head.layout = MLA_LAYOUT_ROWS;
    s.c.vocab_size = s.w.head.rows = s.w.embed.rows = s.mtp.head.rows = s.mtp.embed.rows = VOCAB - 1;
    s.w.head.dtype = MLA_Q4, s.w.head.layout = MLA_LAYOUT_X16, refused(&s, "head", "16");
    drop_to(0);
}

int main(void) {
    all = getenv("TEST_ALL") != NULL;
    SECTION("vectors");
    test_vectors();
    SECTION("refusals");
    test_refusals();
    SECTION("products");
    FOR_DTYPE(t) test_products(t);
    SECTION("pairs");
    test_pairs();
    drop_to(0);
    test_attention_pairs();
    test_mixed_checkpoint();
    printf("products: %.2f of their bounds\n", worst);
    SECTION("keys and values apart");
    test_split();
    printf("attention: off by %.1e\n", (double)worst_apart);
    SECTION("places");
    test_places();
    printf("models: off by %.1e with f32 activations, %.1e with int8\n", (double)worst_f32, (double)worst_int8);
    return test_end();
}
