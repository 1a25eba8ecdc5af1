/* test_properties.c - numbers, and what must hold for any weights: every path, instruction set, dtype, way of cutting a
   prompt and kind of cache gives the reference's answer. The reference is that of mla.h; here each of its values gets a
   bound of the rounding error that an f32 implementation may make, so that no tolerance is chosen by hand. Sections:
   conversions, rope, router, attention, masks, long, model, hostile values. */

#define MLA_IMPLEMENTATION
#define MLA_REFERENCE
#include "guard.h"
#include "mla.h"
#include "test.h"

#include <float.h>
#include <stdlib.h>

/* ---- memory: everything lives until drop() ----------------------------------------------------------------------- */

static void *bag[1 << 16];
static int bag_n;

static void *hold(double count, size_t size) {
    void *p = calloc((size_t)count + 1, size);
    if (!p || bag_n == (int)(sizeof bag / sizeof *bag)) {
        puts("no memory for the test");
        exit(1);
    }
    return bag[bag_n++] = p;
}
#define HOLD(type, count) ((type *)hold((double)(count), sizeof(type)))

static void drop(void) {
    while (bag_n > 0) free(bag[--bag_n]);
}

static void must(mla_result r, const char *text, int line) {
    if (r == MLA_OK) return;
    CHECK(0, "line %d: %s: %s", line, mla_result_name(r), text);
    printf("cannot go on\n%d passed, %d failed\n", test_passed, test_failed);
    exit(1);
}
#define MUST(call)             must((call), error.text, __LINE__)
#define MUST_IN(context, call) must((call), mla_context_error(context)->text, __LINE__)

static mla_error error;

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

static const double U = 1.0 / 16777216; /* an f32 operation errs by at most U times its result */

/* What a code stands for, from the definition of the format. */
static double decode(mla_dtype t, unsigned code) {
    int e, m;
    double sign = 1;
    switch (t) {
    case MLA_F16:
        e = (int)(code >> 10 & 31), m = (int)(code & 1023), sign = code >> 15 ? -1 : 1;
        return sign * (e == 31  ? (m ? (double)NAN : (double)INFINITY)
                       : e == 0 ? ldexp(m, -24)
                                : ldexp(1024 + m, e - 25));
    case MLA_BF16:
        e = (int)(code >> 7 & 255), m = (int)(code & 127), sign = code >> 15 ? -1 : 1;
        return sign * (e == 255 ? (m ? (double)NAN : (double)INFINITY)
                       : e == 0 ? ldexp(m, -133)
                                : ldexp(128 + m, e - 134));
    case MLA_E4M3:
        e = (int)(code >> 3 & 15), m = (int)(code & 7), sign = code >> 7 ? -1 : 1;
        return sign * (e == 15 && m == 7 ? (double)NAN : e == 0 ? ldexp(m, -9) : ldexp(8 + m, e - 10));
    case MLA_UE8M0: return code == 255 ? (double)NAN : ldexp(1, (int)code - 127);
    default: return (double)NAN;
    }
}

/* Nearest value with `bits` bits of mantissa (the leading one included) and smallest exponent `least`; rint rounds to
 * even. */
static double nearest(double x, int bits, int least) {
    int e;
    if (x == 0 || isinf(x)) return x;
    frexp(x, &e);
    e = (e - 1 < least ? least : e - 1) - (bits - 1);
    return ldexp(rint(ldexp(x, -e)), e);
}

static int same_value(double a, double b) { return (a != a && b != b) || (a == b && signbit(a) == signbit(b)); }

static int rounds_right(float f) {
    double a = nearest((double)f, 11, -14), b = nearest((double)f, 8, -126);
    if (fabs(a) >= 65536) a = f > 0 ? (double)INFINITY : -(double)INFINITY;
    if (fabs(b) >= ldexp(1, 128)) b = f > 0 ? (double)INFINITY : -(double)INFINITY;
    return same_value(decode(MLA_F16, mla_f32_to_f16(f)), a) && same_value(decode(MLA_BF16, mla_f32_to_bf16(f)), b);
}

static void test_conversions(void) {
    test_rng r = {1};
    int bad = 0, first = -1;
    SECTION("conversions");
#define COUNT(condition, what)                                                                                         \
    if (!(condition) && bad++ == 0) first = (int)(what)
#define REPORT(text) (CHECK(bad == 0, "%s: %d wrong, the first 0x%x", text, bad, (unsigned)first), bad = 0, first = -1)
    for (unsigned i = 0; i < 65536; i++) COUNT(same_value((double)mla_f16_to_f32((uint16_t)i), decode(MLA_F16, i)), i);
    REPORT("f16 to f32");
    for (unsigned i = 0; i < 65536; i++)
        COUNT(same_value((double)mla_bf16_to_f32((uint16_t)i), decode(MLA_BF16, i)), i);
    REPORT("bf16 to f32");
    for (unsigned i = 0; i < 256; i++) COUNT(same_value((double)mla_e4m3_to_f32((uint8_t)i), decode(MLA_E4M3, i)), i);
    REPORT("e4m3 to f32");
    for (unsigned i = 0; i < 256; i++) COUNT(same_value((double)mla_ue8m0_to_f32((uint8_t)i), decode(MLA_UE8M0, i)), i);
    REPORT("ue8m0 to f32");
    for (unsigned i = 0; i < 65536; i++) {
        const float f = mla_f16_to_f32((uint16_t)i), b = mla_bf16_to_f32((uint16_t)i);
        COUNT(f != f || mla_f32_to_f16(f) == i, i);
        COUNT(b != b || mla_f32_to_bf16(b) == i, i);
    }
    REPORT("16 bits there and back");
    for (unsigned i = 0; i < 0x8000; i++) /* a code, halfway to the next, and the neighbours of both */
        for (int which = 0; which < 2; which++) {
            const mla_dtype t = which ? MLA_BF16 : MLA_F16;
            const double a = decode(t, i), b = decode(t, i + 1);
            const float at[2] = {(float)a, (float)((a + b) / 2)};
            if (a != a || isinf(a)) continue;
            for (int j = 0; j < 2; j++) {
                const float f = at[j], around[3] = {nextafterf(f, -INFINITY), f, nextafterf(f, INFINITY)};
                for (int k = 0; k < 3; k++) COUNT(rounds_right(around[k]) && rounds_right(-around[k]), i);
            }
        }
    REPORT("round to nearest even at and around every code and midpoint");
    for (int i = 0; i < 2000000; i++) {
        const uint32_t u = (uint32_t)test_u64(&r);
        float f;
        memcpy(&f, &u, 4);
        if (f == f) COUNT(rounds_right(f), u);
    }
    REPORT("round to nearest even, random bits");
    /* all that decides an e4m3 code: the upper 16 bits of the float, where among the lower ones half a unit is, and
     * anything below that */
    for (uint32_t i = 0; i < 65536; i++) {
        static const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
        for (int j = 0; j < 6; j++) {
            const uint32_t u = i << 16 | low[j];
            float f;
            memcpy(&f, &u, 4);
            const double want = nearest((double)f, 4, -6), most = want > 448 ? 448 : want < -448 ? -448 : want;
            const uint8_t code = mla_f32_to_e4m3(f);
            COUNT(f == f ? same_value(decode(MLA_E4M3, code), most) : code == (127 | u >> 31 << 7), u);
        }
    }
    for (unsigned i = 0; i < 256; i++) COUNT(mla_f32_to_e4m3(mla_e4m3_to_f32((uint8_t)i)) == i, i);
    REPORT("f32 to e4m3");
    const float edges[] = {65504,         65519.996f, 65520,         65536,         FLT_MAX,
                           INFINITY,      0,          FLT_MIN,       5.9604645e-8f, 2.9802322e-8f,
                           2.9802326e-8f, 1e-45f,     6.0975552e-5f, 3.3895314e38f, 3.3961775e38f,
                           3.4e38f};
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
        CHECK(rounds_right(edges[i]) && rounds_right(-edges[i]), "rounding of %g", (double)edges[i]);
    for (int bit = 0; bit < 23; bit++)
        for (uint32_t sign = 0; sign < 2; sign++) {
            const uint32_t u = sign << 31 | 0x7f800000u | 1u << bit;
            float f, h, b;
            memcpy(&f, &u, 4);
            h = mla_f16_to_f32(mla_f32_to_f16(f)), b = mla_bf16_to_f32(mla_f32_to_bf16(f));
            CHECK(h != h && b != b && signbit(h) == signbit(f) && signbit(b) == signbit(f), "NaN 0x%x", (unsigned)u);
        }
    CHECK(!strcmp(mla_dtype_name(MLA_F32), "f32") && !strcmp(mla_dtype_name(MLA_BF16), "bf16"), "mla_dtype_name");
    CHECK(mla_dtype_name((mla_dtype)99) != NULL && mla_result_name((mla_result)99) != NULL,
          "names of what is not there");
}

/* ---- random weights ---------------------------------------------------------------------------------------------- */

typedef enum kind { K_F32, K_F16, K_BF16, K_E4M3, K_E4M3_F32, K_E4M3_UE8M0, K_COUNT } kind;
static const char *const kind_names[K_COUNT] = {
    "f32", "f16", "bf16", "e4m3", "e4m3 with f32 scales", "e4m3 with ue8m0 scales"};

/* Deviation about `dev`; every array starts one byte off an aligned address. */
static mla_tensor rand_tensor(test_rng *r, kind k, int rows, int cols, double dev) {
    const mla_dtype types[K_COUNT] = {MLA_F32, MLA_F16, MLA_BF16, MLA_E4M3, MLA_E4M3, MLA_E4M3};
    const double count = (double)rows * cols;
    unsigned char *data = HOLD(unsigned char, 4 * count + 8) + 1;
    mla_tensor t = mla_view(data, types[k], rows, cols);
    for (ptrdiff_t i = 0; i < (ptrdiff_t)rows * cols; i++) {
        const float f = (float)dev * test_gauss(r);
        const uint16_t h = k == K_F16 ? mla_f32_to_f16(f) : mla_f32_to_bf16(f);
        if (k == K_F32) memcpy(data + 4 * i, &f, 4);
        else if (k == K_F16 || k == K_BF16) memcpy(data + 2 * i, &h, 2);
        else if (k == K_E4M3)
            data[i] = (unsigned char)((test_u64(r) & 0x80) | (uint64_t)test_int(r, 44)); /* below 0.375: no scale */
        else data[i] = (unsigned char)(test_u64(r) & 0xcf); /* exponents 0, 1, 8, 9: below 7.5 */
    }
    if (k == K_E4M3_F32 || k == K_E4M3_UE8M0) {
        const int blocks = ((rows + 127) / 128) * ((cols + 127) / 128);
        unsigned char *scale = HOLD(unsigned char, 4 * blocks + 8) + 1;
        for (int i = 0; i < blocks; i++) {
            const float f = (float)(dev / 2.6) * (0.5f + test_uniform(r));
            int e;
            frexpf(f, &e);
            if (k == K_E4M3_F32) memcpy(scale + 4 * i, &f, 4);
            else scale[i] = (unsigned char)(127 + e);
        }
        t.scale = scale, t.scale_dtype = k == K_E4M3_F32 ? MLA_F32 : MLA_UE8M0;
    }
    return t;
}

static mla_linear rand_linear(test_rng *r, kind k, int out, int in, int bias) {
    mla_linear l;
    memset(&l, 0, sizeof l);
    l.weight = rand_tensor(r, k, out, in, 1 / sqrt(in));
    if (bias) l.bias = rand_tensor(r, bias == 1 ? K_F32 : bias == 2 ? K_F16 : K_BF16, 1, out, 0.5);
    return l;
}

static mla_norm_weights rand_norm(test_rng *r, mla_norm_kind norm, int n) {
    mla_norm_weights w;
    memset(&w, 0, sizeof w);
    w.weight = rand_tensor(r, K_F32, 1, n, 1);
    if (norm == MLA_NORM_LAYER) w.bias = rand_tensor(r, K_BF16, 1, n, 0.5);
    if (norm == MLA_NORM_DYT) w.bias = rand_tensor(r, K_F16, 1, n, 0.5), w.alpha = rand_tensor(r, K_F32, 1, 1, 1);
    return w;
}

static mla_attn_weights rand_attn(test_rng *r, kind k, const mla_config *c, int bias) {
    const int H = c->num_attention_heads, qk = c->qk_nope_head_dim + c->qk_rope_head_dim, D = c->hidden_size,
              R = c->kv_lora_rank;
    mla_attn_weights w;
    memset(&w, 0, sizeof w);
    if (c->q_lora_rank > 0) {
        w.q_a = rand_linear(r, k, c->q_lora_rank, D, bias);
        w.q_b = rand_linear(r, k, H * qk, c->q_lora_rank, bias);
        w.q_norm = rand_norm(r, c->q_norm.kind, c->q_lora_rank);
    } else {
        w.q = rand_linear(r, k, H * qk, D, bias);
    }
    w.kv_a = rand_linear(r, k, R + c->qk_rope_head_dim, D, bias);
    w.kv_b = rand_linear(r, k, H * (c->qk_nope_head_dim + c->v_head_dim), R, bias);
    w.o = rand_linear(r, k, D, H * c->v_head_dim, bias);
    w.kv_norm = rand_norm(r, c->kv_norm.kind, R);
    return w;
}

static mla_mlp_weights rand_mlp(test_rng *r, kind k, int inner, int D, int bias) {
    mla_mlp_weights w;
    w.gate = rand_linear(r, k, inner, D, bias), w.up = rand_linear(r, k, inner, D, bias),
    w.down = rand_linear(r, k, D, inner, bias);
    return w;
}

static mla_moe_weights rand_moe(test_rng *r, kind k, const mla_config *c, int router_bias, int bias) {
    const int E = c->n_routed_experts, D = c->hidden_size, I = c->moe_intermediate_size;
    mla_mlp_weights *experts = HOLD(mla_mlp_weights, E);
    mla_moe_weights w;
    memset(&w, 0, sizeof w);
    w.router = rand_tensor(r, k == K_BF16 ? K_BF16 : K_F32, E + c->zero_expert_num, D, 1 / sqrt(D));
    if (router_bias) w.router_bias = rand_tensor(r, K_F32, 1, E + c->zero_expert_num, 0.2);
    for (int e = 0; e < E; e++) experts[e] = rand_mlp(r, k, I, D, bias);
    w.experts = experts;
    if (c->n_shared_experts > 0) w.shared = rand_mlp(r, k, c->n_shared_experts * I, D, bias);
    return w;
}

static mla_model *make_model(const mla_config *c, const mla_layer_weights *layers) { /* partial: layers alone */
    mla_weights w;
    mla_model *m;
    memset(&w, 0, sizeof w);
    w.layers = layers;
    MUST(mla_model_create(&m, c, &w, NULL, &error));
    return m;
}
/* A thread pool of a kind: no threads, and the tasks in reverse. */
static void run_backwards(void *user, int n, void (*task)(void *arg, int i), void *arg) {
    (void)user;
    while (n-- > 0) task(arg, n);
}
static int rounded; /* activations, where the instruction set does that */
static mla_activations most_rounding(mla_isa isa) {
    return isa == MLA_ISA_BF16 || isa == MLA_ISA_AMX ? MLA_ACT_BF16 : MLA_ACT_AUTO;
}
/* More than one thread: run_backwards, which costs no waiting on a small machine (test_openmp has the threads). */
static mla_context *make_context(const mla_model *m, int max_tokens, int threads, mla_isa isa, mla_attn_path path) {
    mla_context_desc d;
    mla_context *x;
    memset(&d, 0, sizeof d);
    d.max_tokens = max_tokens, d.threads = threads, d.isa = isa, d.attn = path;
    d.activations = rounded ? most_rounding(isa) : MLA_ACT_F32;
    if (threads > 1) d.run = run_backwards;
    MUST(mla_context_create(&x, m, &d, &error));
    return x;
}
static mla_cache *make_cache(const mla_model *m, int capacity, mla_dtype dtype, mla_pool *pool) {
    mla_cache_desc d;
    mla_cache *k;
    memset(&d, 0, sizeof d);
    d.capacity = capacity, d.dtype = dtype, d.pool = pool;
    MUST(mla_cache_create(&k, m, &d, &error));
    return k;
}
static mla_sequence sequence(mla_cache *k, int n) {
    mla_sequence s;
    memset(&s, 0, sizeof s);
    s.cache = k, s.n_tokens = s.n_logits = n;
    return s;
}

/* ---- the reference: values and the error an f32 implementation may have made so far ------------------------------ */
/* A sum of n products of f32 numbers, in any order, errs by at most (n + 1) U times the sum of the products' magnitudes
   (Higham, Accuracy and Stability, 3.1; terms in U^2 are left out). Scales and biases add a few U. An error e of an
   input spreads by the derivative. The constants below count roundings, generously where a path may round in another
   place. */

typedef struct mat {
    int rows, cols;
    double *v, *e;
} mat;

static mat new_mat(int rows, int cols) {
    mat m;
    m.rows = rows, m.cols = cols;
    m.v = HOLD(double, (double)rows *cols), m.e = HOLD(double, (double)rows *cols);
    return m;
}
static mat mat_of(const float *x, int rows, int cols) {
    mat m = new_mat(rows, cols);
    for (ptrdiff_t i = 0; i < (ptrdiff_t)rows * cols; i++) m.v[i] = (double)x[i];
    return m;
}
static mat columns(const mat *x, int from, int n) {
    mat m = new_mat(x->rows, n);
    for (int t = 0; t < m.rows; t++)
        for (int i = 0; i < n; i++) {
            m.v[t * n + i] = x->v[t * x->cols + from + i];
            m.e[t * n + i] = x->e[t * x->cols + from + i];
        }
    return m;
}
static double *wide(const mla_tensor *t) {
    double *w = HOLD(double, (double)t->rows * t->cols);
    for (int r = 0; r < t->rows; r++)
        for (int i = 0; i < t->cols; i++) w[(ptrdiff_t)r * t->cols + i] = mla__weight_ref(t, r, i);
    return w;
}
static double bias_at(const mla_linear *l, int i) { return mla__weight_ref(&l->bias, 0, i); }

/* Bounds multiply from layer to layer until they say nothing. For a whole model the reference is run again with a
   random error, as large as a sum in f32 may make on average, put into every product: how far that moves the answers is
   what their error may be like. */
static test_rng *noise; /* NULL: none */

static mat ref_linear(const mat *x, const mla_linear *l) {
    const int n = l->weight.cols, out = l->weight.rows;
    const double *w = wide(&l->weight);
    mat y = new_mat(x->rows, out);
    for (int t = 0; t < x->rows; t++) {
        const double *xv = x->v + (ptrdiff_t)t * n, *xe = x->e + (ptrdiff_t)t * n;
        double *yv = y.v + (ptrdiff_t)t * out;
        mla__linear_ref(yv, l, xv);
        for (int o = 0; o < out; o++) {
            const double *wo = w + (ptrdiff_t)o * n;
            double size = 0, e = 0;
            for (int i = 0; i < n; i++) size += fabs(wo[i] * xv[i]), e += fabs(wo[i]) * xe[i];
            if (noise) yv[o] += U * size * (double)test_gauss(noise);
            y.e[(ptrdiff_t)t * out + o] = e + (n + 8) * U * (size + e) + 2 * U * fabs(yv[o]);
        }
    }
    return y;
}

static void ref_norm(mat *x, const mla_norm *norm, const mla_norm_weights *w) {
    const int n = x->cols;
    for (int t = 0; t < x->rows && norm->kind != MLA_NORM_NONE; t++) {
        double *v = x->v + (ptrdiff_t)t * n, *e = x->e + (ptrdiff_t)t * n, mean = 0, mean_e = 0, var = 0, var_e = 0;
        const double alpha = mla__weight_ref(&w->alpha, 0, 0);
        if (norm->kind == MLA_NORM_LAYER) {
            for (int i = 0; i < n; i++) mean += v[i] / n, mean_e += e[i] / n;
            mean_e += 2 * U * fabs(mean);
        }
        for (int i = 0; i < n; i++)
            var += (v[i] - mean) * (v[i] - mean) / n, var_e += 2 * fabs(v[i] - mean) * (e[i] + mean_e) / n;
        var += (double)norm->eps;
        for (int i = 0; i < n; i++) {
            const double g = fabs(mla__weight_ref(&w->weight, 0, i)), a = alpha * v[i];
            e[i] = norm->kind == MLA_NORM_DYT
                       ? g * (fabs(alpha) * e[i] + 2 * U * fabs(a) + 6 * U * fabs(tanh(a)))
                       : g / sqrt(var) * (e[i] + mean_e + fabs(v[i] - mean) * (0.5 * var_e / var + 6 * U));
        }
        mla__norm_ref(v, n, norm, w);
        for (int i = 0; i < n; i++) e[i] += 3 * U * (fabs(v[i]) + fabs(mla__weight_ref(&w->bias, 0, i)));
    }
}

/* x [P] at a position. */
static void ref_rotate(double *v, double *e, const mla_model *m, mla_rope_layout layout, int position) {
    const int P = mla_model_config(m)->qk_rope_head_dim;
    const double amp = (double)mla_model_rope_amplitude(m);
    for (int i = 0; i < P / 2 && layout != MLA_ROPE_NONE; i++) {
        const int a = layout == MLA_ROPE_PAIR ? 2 * i : i, b = layout == MLA_ROPE_PAIR ? 2 * i + 1 : i + P / 2;
        const double angle = (double)((float)position * mla_model_inv_freq(m)[i]), c = fabs(cos(angle)) * amp,
                     s = fabs(sin(angle)) * amp, ex = e[a], ey = e[b], own = 4 * U * amp * (fabs(v[a]) + fabs(v[b]));
        e[a] = ex * c + ey * s + own, e[b] = ey * c + ex * s + own;
    }
    mla__rope_ref(v, m, layout, position);
}

/* x [n] times a factor that is not exact in f32. */
static void ref_scale(double *v, double *e, int n, double factor) {
    for (int i = 0; i < n && !(factor >= 1 && factor <= 1); i++)
        v[i] *= factor, e[i] = e[i] * factor + 8 * U * fabs(v[i]);
}

typedef struct ref_options {
    int first;             /* answers are wanted from this token on */
    const double *mask;    /* [T, T] added to the scores; NULL: causal */
    double cache_rounding; /* half a unit of the cache's dtype, relative; 0: f32 */
    mat *probs;            /* out: [T-first, H * T] */
    mat *rows;             /* out: the cache's rows [T, R+P] */
} ref_options;

/* x [T, D] -> y [T - first, D]; token t stands at position t. */
static mat ref_attention(const mla_model *m, const mla_attn_weights *w, const mat *x, const ref_options *opt) {
    const mla_config *c = mla_model_config(m);
    const int T = x->rows, H = c->num_attention_heads, N = c->qk_nope_head_dim, P = c->qk_rope_head_dim,
              R = c->kv_lora_rank;
    const int V = c->v_head_dim, qk = N + P, kv = N + V, first = opt->first, n = T - first;
    const double scale = (double)c->softmax_scale;
    mat q, rows = ref_linear(x, &w->kv_a), latent = columns(&rows, 0, R), o = new_mat(n, H * V);
    if (c->q_lora_rank > 0) {
        q = ref_linear(x, &w->q_a);
        ref_norm(&q, &c->q_norm, &w->q_norm);
        q = ref_linear(&q, &w->q_b);
    } else {
        q = ref_linear(x, &w->q);
    }
    ref_norm(&latent, &c->kv_norm, &w->kv_norm);
    for (int t = 0; t < T; t++) {
        const double hotter =
            c->temperature_beta > 0 ? (double)c->temperature_beta * log(1 + t / c->temperature_period) : 0;
        ref_scale(latent.v + t * R, latent.e + t * R, R, (double)c->latent_scale);
        ref_scale(q.v + t * H * qk, q.e + t * H * qk, H * qk, (double)c->q_scale * (1 + hotter));
        memcpy(rows.v + t * (R + P), latent.v + t * R, (size_t)R * sizeof *rows.v);
        memcpy(rows.e + t * (R + P), latent.e + t * R, (size_t)R * sizeof *rows.e);
        ref_rotate(rows.v + t * (R + P) + R, rows.e + t * (R + P) + R, m, c->rope.layout, t);
        for (int h = 0; h < H; h++)
            ref_rotate(q.v + (t * H + h) * qk + N, q.e + (t * H + h) * qk + N, m, c->rope.layout, t);
        for (int i = 0; i < R + P; i++)
            rows.e[t * (R + P) + i] += opt->cache_rounding * (fabs(rows.v[t * (R + P) + i]) + rows.e[t * (R + P) + i]);
    }
    if (opt->rows) *opt->rows = rows;
    if (opt->probs) *opt->probs = new_mat(n, H * T);
    const double *wkv = wide(&w->kv_b.weight);
    double *k = HOLD(double, (double)T *kv), *k_e = HOLD(double, (double)T *kv), *k_size = HOLD(double, (double)T *kv);
    double *mask = HOLD(double, T), *p = HOLD(double, T), *p_e = HOLD(double, T);
    for (int h = 0; h < H; h++) {
        for (int u = 0; u < T; u++) /* k_h and v_h of every token, and the size of the sums */
            for (int i = 0; i < kv; i++) {
                const double *wi = wkv + (ptrdiff_t)(h * kv + i) * R;
                double sum = 0, e = 0, size = 0;
                for (int r = 0; r < R; r++) {
                    sum += wi[r] * rows.v[u * (R + P) + r], size += fabs(wi[r] * rows.v[u * (R + P) + r]),
                        e += fabs(wi[r]) * rows.e[u * (R + P) + r];
                }
                k[u * kv + i] = sum + bias_at(&w->kv_b, h * kv + i), k_e[u * kv + i] = e,
                           k_size[u * kv + i] = size + e + fabs(bias_at(&w->kv_b, h * kv + i));
            }
        for (int t = first; t < T; t++) {
            const double *qv = q.v + (t * H + h) * qk, *qe = q.e + (t * H + h) * qk;
            const ptrdiff_t row = (ptrdiff_t)(t - first) * H + h;
            double mean_e = 0;
            int keys = 0;
            for (int u = 0; u < T; u++)
                mask[u] = opt->mask ? opt->mask[(ptrdiff_t)t * T + u] : u > t ? -(double)INFINITY : 0;
            mla__head_ref(o.v + row * V, p, m, w, h, qv, rows.v, mask, T, T > 200);
            for (int u = 0; u < T; u++) { /* the error of a score */
                double dot = 0, e = 0, size = 0;
                p_e[u] = 0;
                if (isinf(mask[u])) continue;
                for (int i = 0; i < N; i++) {
                    dot += qv[i] * k[u * kv + i], size += fabs(qv[i]) * k_size[u * kv + i];
                    e += fabs(qv[i]) * k_e[u * kv + i] + qe[i] * (fabs(k[u * kv + i]) + k_e[u * kv + i]);
                }
                for (int i = 0; i < P; i++) {
                    const double kr = rows.v[u * (R + P) + R + i], kr_e = rows.e[u * (R + P) + R + i];
                    dot += qv[N + i] * kr, size += fabs(qv[N + i] * kr),
                        e += fabs(qv[N + i]) * kr_e + qe[N + i] * (fabs(kr) + kr_e);
                }
                p_e[u] = scale * (e + (N + R + P + 16) * U * (size + e)) +
                         2 * U * (fabs(dot * scale + mask[u]) + fabs(mask[u]));
                mean_e += p[u] * p_e[u], keys++;
            }
            for (int u = 0; u < T; u++) /* relative error of p: that of both exponentials and of the sum; the exponents
                                           are below 90 or p is gone */
                p_e[u] = p[u] > 0 ? p[u] * (expm1(p_e[u] + mean_e) + (keys + 200) * U) + 1e-37 : 0;
            for (int i = 0; i < V; i++) {
                double size = 0, e = 0;
                for (int u = 0; u < T; u++) {
                    const double v_e = k_e[u * kv + N + i];
                    size += p[u] * k_size[u * kv + N + i], e += p[u] * v_e + p_e[u] * (fabs(k[u * kv + N + i]) + v_e);
                }
                o.e[row * V + i] = e + (keys + R + 24) * U * (size + e);
            }
            if (opt->probs) memcpy(opt->probs->v + row * T, p, (size_t)T * sizeof *p);
            if (opt->probs) memcpy(opt->probs->e + row * T, p_e, (size_t)T * sizeof *p_e);
        }
    }
    return ref_linear(&o, &w->o);
}

static mat ref_mlp(const mat *x, const mla_mlp_weights *w) {
    mat g = ref_linear(x, &w->gate), up = ref_linear(x, &w->up);
    for (ptrdiff_t i = 0; i < (ptrdiff_t)g.rows * g.cols; i++) {
        const double z = g.v[i], silu = z / (1 + exp(-z));
        /* |silu'| <= 1.1; the exponential's argument is rounded once more, worth U |z| of its value */
        const double silu_e = 1.1 * g.e[i] + (12 + fabs(z)) * U * fabs(silu);
        g.e[i] = silu_e * (fabs(up.v[i]) + up.e[i]) + fabs(silu) * up.e[i] + 2 * U * fabs(silu * up.v[i]);
        g.v[i] = silu * up.v[i];
    }
    return ref_linear(&g, &w->down);
}

#define MAX_EXPERTS 512

/* By how much the k-th largest of x [n] exceeds the next one. */
static double gap(const double *x, int n, int k) {
    unsigned char taken[MAX_EXPERTS] = {0};
    double kth = 0, next = (double)INFINITY;
    for (int i = 0; i <= k; i++) {
        int best = -1;
        for (int j = 0; j < n; j++)
            if (!taken[j] && (best < 0 || x[j] > x[best])) best = j;
        kth = next, next = best < 0 ? -(double)INFINITY : x[best];
        if (best >= 0) taken[best] = 1;
    }
    return isinf(next) ? (double)INFINITY : kth - next;
}

/* One token: logits z [E+Z] -> experts, best first, and their weights. Returns by how much the closest decision was
   made; an error of the scores below half of it changes no choice. */
static double ref_route(const mla_config *c, const mla_tensor *bias, const double *z, int *index, double *weight) {
    double by[2 * MAX_EXPERTS], group[MAX_EXPERTS], margin = (double)INFINITY, d;
    mla__route_ref(index, weight, by, group, c, bias, z);
    if (c->topk_method != MLA_TOPK_GREEDY && c->n_group > 1) margin = gap(group, c->n_group, c->topk_group);
    d = gap(by, c->n_routed_experts + c->zero_expert_num, c->num_experts_per_tok);
    return d < margin ? d : margin;
}

/* y [T, D]; unsure[t] is set where a rounding error could have changed the choice of experts, margin [T] says by how
   much it was made. Both, and counts [E+Z], may be NULL. */
static mat ref_moe(const mla_config *c, const mla_moe_weights *w, const mat *x, int *unsure, double *margin,
                   int64_t *counts) {
    const int E = c->n_routed_experts + c->zero_expert_num, K = c->num_experts_per_tok, T = x->rows, D = x->cols;
    mla_linear router;
    double weight[MAX_EXPERTS];
    int index[MAX_EXPERTS];
    mat y, z, *each = HOLD(mat, E);
    memset(&router, 0, sizeof router);
    router.weight = w->router;
    z = ref_linear(x, &router);
    for (int e = 0; e < E; e++) each[e] = e < c->n_routed_experts ? ref_mlp(x, &w->experts[e]) : *x;
    if (c->n_shared_experts > 0) y = ref_mlp(x, &w->shared);
    else y = new_mat(T, D);
    for (int t = 0; t < T; t++) {
        double z_e = 0, size[2] = {0, 0};
        for (int e = 0; e < E; e++) z_e = z.e[t * E + e] > z_e ? z.e[t * E + e] : z_e;
        /* scores change by at most their logits' error (softmax: twice), relative and absolute, and some roundings */
        const double score_e = 2 * z_e + (E + 40) * U, weight_e = 2 * score_e + (K + 8) * U;
        const double decided = ref_route(c, &w->router_bias, z.v + t * E, index, weight);
        if (unsure) unsure[t] = !(decided > 6 * score_e);
        if (margin) margin[t] = decided;
        for (int k = 0; k < K; k++)
            if (counts) counts[index[k]]++;
        for (int i = 0; i < D; i++) {
            double *v = &y.v[t * D + i], *e = &y.e[t * D + i];
            size[0] = fabs(*v);
            for (int k = 0; k < K; k++) {
                const double a = each[index[k]].v[t * D + i], a_e = each[index[k]].e[t * D + i];
                *v += weight[k] * a, *e += weight[k] * (a_e + weight_e * (fabs(a) + a_e)),
                    size[0] += fabs(weight[k] * a);
            }
            *e += (K + 4) * U * size[0];
        }
    }
    return y;
}

/* ---- comparison -------------------------------------------------------------------------------------------------- */

static double worst; /* largest error seen, in units of its bound */

/* got [rows, cols] lies within the bounds of rows from `first` of want; skip [want rows] marks rows to leave out, or
 * NULL. */
static int within(const float *got, const mat *want, int first, int rows, const int *skip, const char *what) {
    int bad = 0, at = -1;
    for (int t = 0; t < rows; t++)
        for (int i = 0; i < want->cols && !(skip && skip[first + t]); i++) {
            const ptrdiff_t j = (ptrdiff_t)(first + t) * want->cols + i;
            const double d = fabs((double)got[(ptrdiff_t)t * want->cols + i] - want->v[j]), bound = want->e[j] + 1e-37;
            if (!(d <= bound) && bad++ == 0) at = t * want->cols + i;
            if (d / bound > worst) worst = d / bound;
        }
    return CHECK(bad == 0, "%s: %d of %d wrong, the first in row %d column %d: %.9g instead of %.9g +- %.2g", what, bad,
                 rows * want->cols, at < 0 ? 0 : at / want->cols, at < 0 ? 0 : at % want->cols,
                 at < 0 ? 0 : (double)got[at], at < 0 ? 0 : want->v[(ptrdiff_t)first * want->cols + at],
                 at < 0 ? 0 : want->e[(ptrdiff_t)first * want->cols + at]);
}
static void tell_worst(void) {
    printf("    largest error: %.2f of its bound\n", worst);
    worst = 0;
}

static int same_bits(const float *a, const float *b, ptrdiff_t n) { return memcmp(a, b, (size_t)n * sizeof *a) == 0; }

static const char *label(const char *format, ...) {
    static char text[200];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return text;
}

#define FOR_ISA(isa)                                                                                                   \
    for (mla_isa isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa = (mla_isa)(isa + 1))                                  \
        if (TEST_ISA(isa))
#define FOR_PATH(path)                                                                                                 \
    for (mla_attn_path path = MLA_ATTN_NAIVE; path < MLA_ATTN_PATH_COUNT; path = (mla_attn_path)(path + 1))

/* ---- attention --------------------------------------------------------------------------------------------------- */

static mla_config attn_config(int D, int Q, int H, int R, int N, int P, int V) {
    mla_config c;
    memset(&c, 0, sizeof c);
    c.hidden_size = D, c.num_hidden_layers = 1, c.num_attention_heads = H, c.q_lora_rank = Q, c.kv_lora_rank = R;
    c.qk_nope_head_dim = N, c.qk_rope_head_dim = P, c.v_head_dim = V;
    return c;
}

/* Append x [T, D] in calls of at most `chunk` tokens -> y [T, D]. */
static void in_chunks(mla_context *context, mla_cache *k, const float *x, float *y, int T, int D, int chunk) {
    for (int t = 0; t < T; t += chunk) {
        mla_sequence s = sequence(k, T - t < chunk ? T - t : chunk);
        MUST_IN(context, mla_attn_forward(context, 0, y + t * D, x + t * D, &s, 1));
    }
}

/* One attention layer in every way, against the reference. bias: 0 none, 1 f32, 2 f16, 3 bf16. */
static void attention_case(const char *name, const mla_config *c, kind k, int bias, int T, int thorough) {
    const int D = c->hidden_size, width = c->kv_lora_rank + c->qk_rope_head_dim, H = c->num_attention_heads;
    const mla_dtype cache_types[] = {MLA_F32, MLA_F16, MLA_BF16};
    const double rounding[] = {0, ldexp(1, -11), ldexp(1, -8)};
    test_rng r = {(uint64_t)k * 7 + (uint64_t)(bias + D)};
    mla_layer_weights layer;
    ref_options opt;
    mat want, rows, probs, cached[3];
    memset(&layer, 0, sizeof layer);
    memset(&opt, 0, sizeof opt);
    layer.attn = rand_attn(&r, k, c, bias);
    mla_model *m = make_model(c, &layer);
    float *x = HOLD(float, T *D), *y = HOLD(float, T *D), *one = HOLD(float, T *D), *row = HOLD(float, width),
          *p = HOLD(float, T *H *T);
    double *mask = HOLD(double, T *T); /* all zero: every token sees all */
    test_fill(&r, x, (size_t)(T * D), 1);
    const mat xm = mat_of(x, T, D);
    if (c->mask == MLA_MASK_NONE) opt.mask = mask;
    opt.probs = &probs, opt.rows = &rows;
    want = ref_attention(m, &layer.attn, &xm, &opt);
    opt.probs = NULL, opt.rows = NULL;
    for (int i = 0; i < 3; i++) {
        opt.cache_rounding = rounding[i];
        if (thorough) cached[i] = ref_attention(m, &layer.attn, &xm, &opt);
    }
    FOR_ISA(isa) FOR_PATH(path) {
        const char *way = path == MLA_ATTN_NAIVE ? "naive" : "absorbed";
        mla_context *context = make_context(m, T, 1, isa, path);
        mla_cache *cache = make_cache(m, T, MLA_F32, NULL);
        mla_sequence s = sequence(cache, T);
        s.probs = p;
        MUST_IN(context, mla_attn_forward(context, 0, one, x, &s, 1));
        within(one, &want, 0, T, NULL, label("%s, %s, %s, %s", name, kind_names[k], mla_isa_name(isa), way));
        within(p, &probs, 0, T, NULL,
               label("%s, %s, %s, %s: probabilities", name, kind_names[k], mla_isa_name(isa), way));
        for (int t = 0; t < T; t++) {
            MUST(mla_cache_read(cache, 0, t, row, &error));
            within(row, &rows, t, 1, NULL,
                   label("%s, %s, %s, %s: cached row %d", name, kind_names[k], mla_isa_name(isa), way, t));
            for (int h = 0; h < H; h++) {
                double sum = 0;
                for (int u = 0; u < T; u++) sum += (double)p[(t * H + h) * T + u];
                CHECK(fabs(sum - 1) <= (2 * T + 200) * U, "%s: probabilities add up to %.9g", name, sum);
            }
        }
        s = sequence(cache, T); /* probabilities or not makes no difference where the context is one piece */
        mla_cache_reset(cache);
        MUST_IN(context, mla_attn_forward(context, 0, y, x, &s, 1));
        CHECK(same_bits(y, one, T * D), "%s, %s, %s: the same without probabilities", name, mla_isa_name(isa), way);
        for (int i = 0, some[] = {1, 2, 7, 16}; i < (c->mask == MLA_MASK_CAUSAL ? thorough ? T - 1 : 4 : 0); i++) {
            const int chunk = thorough ? i + 1 : some[i];
            mla_cache_reset(cache);
            in_chunks(context, cache, x, y, T, D, chunk);
            within(y, &want, 0, T, NULL,
                   label("%s, %s, %s, %s: chunks of %d", name, kind_names[k], mla_isa_name(isa), way, chunk));
        }
        mla_cache_destroy(cache);
        for (int i = 0; thorough && i < 3; i++) {
            mla_cache *half = make_cache(m, T, cache_types[i], NULL);
            s = sequence(half, T);
            MUST_IN(context, mla_attn_forward(context, 0, y, x, &s, 1));
            within(y, &cached[i], 0, T, NULL,
                   label("%s, %s, %s: cache of %s", name, mla_isa_name(isa), way, mla_dtype_name(cache_types[i])));
            mla_cache_destroy(half);
        }
        for (int i = 0, threads[] = {2, 3, 7}; i < 3; i++) { /* bit for bit, in one call and token by token */
            mla_context *other = make_context(m, T, threads[i], isa, path);
            mla_cache *a = make_cache(m, T, MLA_F32, NULL), *b = make_cache(m, T, MLA_F32, NULL);
            s = sequence(a, T);
            MUST_IN(other, mla_attn_forward(other, 0, y, x, &s, 1));
            CHECK(same_bits(y, one, T * D), "%s, %s, %s, %s: %d threads", name, kind_names[k], mla_isa_name(isa), way,
                  threads[i]);
            if (c->mask == MLA_MASK_CAUSAL && i == 2) {
                float *alone = HOLD(float, T *D);
                mla_cache_reset(a);
                in_chunks(other, a, x, y, T, D, 1);
                in_chunks(context, b, x, alone, T, D, 1);
                CHECK(same_bits(y, alone, T * D), "%s, %s, %s, %s: 7 threads, token by token", name, kind_names[k],
                      mla_isa_name(isa), way);
            }
            mla_cache_destroy(a), mla_cache_destroy(b);
            mla_context_destroy(other);
        }
        mla_context_destroy(context);
    }
    mla_model_destroy(m);
    drop();
}

static void set_yarn(mla_rope *r, float factor, int original) {
    r->scaling = MLA_ROPE_YARN, r->factor = factor, r->original_max_position_embeddings = original;
    r->mscale = 1, r->mscale_all_dim = 0.707f;
}

static void test_attention(void) {
    mla_config c;
    SECTION("attention against the reference");
    for (kind k = K_F32; k < K_COUNT; k = (kind)(k + 1)) {
        c = attn_config(72, 56, 3, 40, 24, 8, 20);
        set_yarn(&c.rope, 4, 16);
        attention_case("small", &c, k, 0, 37, k == K_F32);
        c = attn_config(203, 170, 2, 150, 139, 22, 133);
        if (test_all() || k % 2) attention_case("above 128", &c, k, (int)k % 4, 19, 0);
    }
    tell_worst();
    SECTION("attention in other forms");
    for (int bias = 1; bias <= 3; bias++) {
        c = attn_config(37, 29, 3, 21, 11, 6, 13);
        c.q_norm.kind = c.kv_norm.kind = bias == 1 ? MLA_NORM_LAYER : bias == 2 ? MLA_NORM_DYT : MLA_NORM_NONE;
        c.kv_norm.eps = 1e-5f;
        c.rope.layout = bias == 1 ? MLA_ROPE_HALF : bias == 2 ? MLA_ROPE_NONE : MLA_ROPE_PAIR;
        c.softmax_scale = bias == 3 ? 0.31f : 0;
        attention_case("biases", &c, K_F32, bias, 21, 1);
        c.mask = MLA_MASK_NONE;
        attention_case("no mask", &c, K_F16, bias, 21, 1);
    }
    c = attn_config(30, 18, 3, 25, 12, 6, 10);
    c.q_scale = 1.3f, c.latent_scale = 0.7f, c.temperature_beta = 0.4f, c.temperature_period = 5;
    attention_case("scales and a temperature", &c, K_F32, 0, 23, 1);
    c = attn_config(33, 0, 4, 17, 9, 0, 7);
    attention_case("no q latent, no rope part", &c, K_BF16, 0, 23, 1);
    c = attn_config(5, 0, 1, 1, 1, 3, 1);
    c.rope.layout = MLA_ROPE_NONE;
    attention_case("dims of one, odd rope part unrotated", &c, K_F32, 1, 9, 1);
    c = attn_config(16, 0, 130, 8, 4, 2, 3);
    attention_case("130 heads", &c, K_F32, 2, 67, 0);
    c = attn_config(24, 12, 1, 10, 6, 4, 9);
    attention_case("one head", &c, K_F32, 0, 131, 0);
    tell_worst();
}

/* ---- rope: frequencies, amplitude and softmax scale -------------------------------------------------------------- */

static double yarn_g(double f, double m) { return f <= 1 ? 1 : 0.1 * m * log(f) + 1; }

/* inv [P/2]; returns the amplitude. Every field is given, no defaults. */
static double ref_rope(double *inv, const mla_rope *r, int P) {
    const double f = (double)r->factor, d = P, orig = r->original_max_position_embeddings, n = r->length;
    double theta = (double)r->theta, amp = 1, lo = 0, hi = 0;
    if (r->scaling == MLA_ROPE_DYNAMIC) theta *= pow(f * (n > orig ? n : orig) / orig - (f - 1), d / (d - 2));
    if (r->scaling == MLA_ROPE_YARN) {
        lo = d * log(orig / ((double)r->beta_fast * 2 * acos(-1))) / (2 * log(theta));
        hi = d * log(orig / ((double)r->beta_slow * 2 * acos(-1))) / (2 * log(theta));
        if (!r->no_truncate) lo = floor(lo), hi = ceil(hi);
        lo = fmax(lo, 0), hi = fmin(hi, d - 1);
        if (lo == hi) hi += 0.001;
        amp = r->mscale != 0 && r->mscale_all_dim != 0
                  ? yarn_g(f, (double)r->mscale) / yarn_g(f, (double)r->mscale_all_dim)
                  : yarn_g(f, 1);
    }
    if (r->scaling == MLA_ROPE_LONGROPE) amp = f <= 1 ? 1 : sqrt(1 + log(f) / log(orig));
    if (r->attention_factor > 0) amp = (double)r->attention_factor;
    for (int i = 0; i < P / 2; i++) {
        const double plain = pow(theta, -2.0 * i / d), ramp = fmin(fmax((i - lo) / (hi - lo), 0), 1);
        inv[i] = plain;
        if (r->scaling == MLA_ROPE_LINEAR) inv[i] = plain / f;
        if (r->scaling == MLA_ROPE_YARN) inv[i] = plain / f * ramp + plain * (1 - ramp);
        if (r->scaling == MLA_ROPE_LONGROPE) inv[i] = plain / (double)(n > orig ? r->long_factor : r->short_factor)[i];
    }
    return amp;
}

static mla_model *rope_model(const mla_config *c) { /* nothing but one layer without tensors */
    static mla_layer_weights layer;
    return make_model(c, &layer);
}

static int close_to(double got, double want, double relative) { return fabs(got - want) <= relative * fabs(want); }

/* One f32 rounding of a double result. */
static void check_rope(const char *name, const mla_config *c) {
    const int P = c->qk_rope_head_dim;
    double inv[256], amp = ref_rope(inv, &c->rope, P);
    mla_model *m = rope_model(c);
    for (int i = 0; i < P / 2; i++)
        CHECK(close_to((double)mla_model_inv_freq(m)[i], inv[i], 1.01 * U), "%s: inv[%d] is %.9g, not %.9g", name, i,
              (double)mla_model_inv_freq(m)[i], inv[i]);
    CHECK(close_to((double)mla_model_rope_amplitude(m), amp, 1.01 * U), "%s: amplitude %.9g, not %.9g", name,
          (double)mla_model_rope_amplitude(m), amp);
    const double all = c->rope.scaling == MLA_ROPE_YARN ? (double)c->rope.mscale_all_dim : 0,
                 g = all != 0 ? yarn_g((double)c->rope.factor, all) : 1;
    const double scale = c->softmax_scale > 0 ? (double)c->softmax_scale : g * g / sqrt(c->qk_nope_head_dim + P);
    CHECK(close_to((double)mla_model_config(m)->softmax_scale, scale, 1.01 * U), "%s: softmax scale %.9g, not %.9g",
          name, (double)mla_model_config(m)->softmax_scale, scale);
    mla_model_destroy(m);
}

static mla_config rope_config(int N, int P, mla_rope_scaling scaling, float theta, float factor, int original) {
    mla_config c = attn_config(8, 0, 1, 4, N, P, 4);
    c.rope.scaling = scaling, c.rope.theta = theta, c.rope.factor = factor,
    c.rope.original_max_position_embeddings = original;
    c.rope.beta_fast = 32, c.rope.beta_slow = 1, c.rope.length = original, c.rope.max_position_embeddings = original;
    return c;
}

static void test_rope(void) {
    static float longer[64], shorter[64], own[32];
    mla_config c = rope_config(128, 64, MLA_ROPE_YARN, 1e4f, 40, 4096);
    mla_model *m;
    SECTION("rope");
    /* the constants of models.md; DeepSeek-V3 leaves beta, theta to the defaults here */
    c.rope.mscale = c.rope.mscale_all_dim = 1, c.rope.beta_fast = c.rope.beta_slow = c.rope.theta = 0;
    m = rope_model(&c);
    CHECK(close_to((double)mla_model_inv_freq(m)[16], 0.0055, 2 * U), "V3: inv[16] is %.9g",
          (double)mla_model_inv_freq(m)[16]);
    CHECK(close_to((double)mla_model_inv_freq(m)[31], 3.33380358e-6, 2 * U), "V3: inv[31] is %.9g",
          (double)mla_model_inv_freq(m)[31]);
    CHECK(mla_model_rope_amplitude(m) == 1, "V3: amplitude %.9g", (double)mla_model_rope_amplitude(m));
    CHECK(close_to((double)mla_model_config(m)->softmax_scale, 0.1352337788608801, 1.01 * U), "V3: softmax scale");
    CHECK(mla_model_config(m)->rope.theta == 10000 && mla_model_config(m)->rope.beta_fast == 32 &&
              mla_model_config(m)->rope.beta_slow == 1,
          "defaults");
    for (int i = 0; i < 32; i++) { /* lo 10, hi 23: dimensions up to 10 are as without yarn, from 23 on all slowed */
        const double plain = pow(1e4, -i / 32.0), got = (double)mla_model_inv_freq(m)[i];
        CHECK(i <= 10   ? close_to(got, plain, 1.01 * U)
              : i >= 23 ? close_to(got, plain / 40, 1.01 * U)
                        : got < plain && got > plain / 40,
              "V3: inv[%d]", i);
    }
    mla_model_destroy(m);
    c.rope.mscale = c.rope.mscale_all_dim = 0.707f;
    m = rope_model(&c);
    CHECK(close_to((double)mla_model_config(m)->softmax_scale, 0.1147213867929261, 1.01 * U),
          "V2-Lite: softmax scale %.9g", (double)mla_model_config(m)->softmax_scale);
    mla_model_destroy(m);
    c = rope_config(64, 64, MLA_ROPE_YARN, 1e4f, 128, 8192);
    c.rope.mscale = c.rope.mscale_all_dim = 1;
    m = rope_model(&c);
    CHECK(close_to((double)mla_model_config(m)->softmax_scale, 0.1949694947, 1e-9 + U), "Mistral4: softmax scale");
    mla_model_destroy(m);
    c.rope.mscale = c.rope.mscale_all_dim = 0;
    m = rope_model(&c);
    CHECK(close_to((double)mla_model_config(m)->softmax_scale, 0.0883883476, 1e-9 + U),
          "Mistral4 without mscale: softmax scale");
    mla_model_destroy(m);

    const float factors[] = {1, 1.5f, 4, 40, 128}, thetas[] = {1e4f, 5e4f, 8e6f, 3};
    const int dims[] = {2, 8, 22, 64}, originals[] = {16, 4096, 8192, 32768};
    for (int i = 0; i < 64; i++)
        longer[i] = 1 + 0.37f * (float)i, shorter[i] = 1 + 0.01f * (float)i, own[i % 32] = 1 / (1 + (float)(i % 32));
    for (int f = 0; f < 5; f++)
        for (int t = 0; t < 4; t++)
            for (int d = 0; d < 4; d++)
                for (int o = 0; o < 4; o++) {
                    const float scales[][2] = {{0, 0}, {1, 1}, {0.707f, 0.707f}, {1, 0.5f}, {0.3f, 1.4f},
                                               {1, 0}, {0, 1}};
                    c = rope_config(24, dims[d], MLA_ROPE_DEFAULT, thetas[t], factors[f], originals[o]);
                    check_rope("default", &c);
                    c.rope.scaling = MLA_ROPE_LINEAR;
                    check_rope("linear", &c);
                    c.rope.scaling = MLA_ROPE_YARN;
                    for (int s = 0; s < 7; s++) {
                        c.rope.mscale = scales[s][0], c.rope.mscale_all_dim = scales[s][1], c.rope.no_truncate = s & 1;
                        check_rope("yarn", &c);
                    }
                    c.rope.attention_factor = 1.25f;
                    check_rope("yarn with attention_factor", &c);
                    c.rope.attention_factor = 0, c.rope.beta_fast = c.rope.beta_slow = 4, c.rope.no_truncate = 1;
                    check_rope("yarn, lo == hi", &c);
                    c = rope_config(24, dims[d], MLA_ROPE_LONGROPE, thetas[t], factors[f], originals[o]);
                    c.rope.long_factor = longer, c.rope.short_factor = shorter;
                    check_rope("longrope, short", &c);
                    c.rope.length = originals[o] + 1;
                    check_rope("longrope, long", &c);
                    c.rope.attention_factor = 1.5f;
                    check_rope("longrope with attention_factor", &c);
                    c = rope_config(24, dims[d], MLA_ROPE_DYNAMIC, thetas[t], factors[f], originals[o]);
                    if (dims[d] == 2) continue; /* the exponent d/(d-2) is not defined */
                    check_rope("dynamic", &c);
                    c.rope.length = 3 * originals[o];
                    check_rope("dynamic, longer", &c);
                }
    c = rope_config(24, 8, MLA_ROPE_LONGROPE, 1e4f, 0, 1024); /* factor and length by default */
    c.rope.long_factor = longer, c.rope.short_factor = shorter, c.rope.max_position_embeddings = 4096,
    c.rope.length = 0;
    m = rope_model(&c);
    CHECK(mla_model_config(m)->rope.factor == 4 && mla_model_config(m)->rope.length == 4096,
          "longrope: default factor and length");
    CHECK(close_to((double)mla_model_inv_freq(m)[1], pow(1e4, -0.25) / (double)longer[1], 1.01 * U),
          "longrope: long factors by default length");
    mla_model_destroy(m);
    c = rope_config(24, 64, MLA_ROPE_DEFAULT, 0, 0, 0);
    c.rope.inv_freq = own, c.softmax_scale = 0.4321f;
    m = rope_model(&c);
    CHECK(same_bits(mla_model_inv_freq(m), own, 32) && mla_model_rope_amplitude(m) == 1, "the caller's inv_freq");
    CHECK(mla_model_config(m)->softmax_scale == 0.4321f, "the caller's softmax_scale");
    mla_model_destroy(m);
    drop();
}

/* Half-split and interleaved rope are one rotation of permuted rows: the same answers, and cached keys that are
   permutations of one another but differ. Far beyond the original length. */
static void test_rope_layouts(void) {
    enum { D = 40, H = 2, R = 16, N = 8, P = 12, V = 8, T = 24, FAR = 300 };
    mla_config c = attn_config(D, 0, H, R, N, P, V);
    test_rng r = {77};
    mla_layer_weights layers[2];
    mla_model *m[2];
    float *x = HOLD(float, T *D), *y = HOLD(float, T *D), row[2][R + P], filler[FAR * (R + P)];
    int differ = 0;
    SECTION("rope layouts");
    set_yarn(&c.rope, 8, 32);
    memset(layers, 0, sizeof layers);
    layers[0].attn = layers[1].attn = rand_attn(&r, K_F32, &c, 1);
    for (int which = 0; which < 2;
         which++) { /* PAIR (2i, 2i+1) <-> HALF (i, i + P/2): rope rows of q and kv_a change places */
        mla_linear *l = which ? &layers[1].attn.q : &layers[1].attn.kv_a;
        const int groups = which ? H : 1, rows = l->weight.rows, per = rows / groups, at = which ? N : R;
        const unsigned char *from = (const unsigned char *)l->weight.data,
                            *bias_from = (const unsigned char *)l->bias.data;
        unsigned char *to = HOLD(unsigned char, 4 * rows * D), *bias_to = HOLD(unsigned char, 4 * rows);
        for (int i = 0; i < rows; i++) {
            const int j = i % per - at, source = j < 0 ? i : i - j + (j < P / 2 ? 2 * j : 2 * (j - P / 2) + 1);
            memcpy(to + 4 * D * i, from + 4 * D * source, 4 * D);
            memcpy(bias_to + 4 * i, bias_from + 4 * source, 4);
        }
        l->weight.data = to, l->bias.data = bias_to;
    }
    test_fill(&r, x, T * D, 1);
    test_fill(&r, filler, FAR * (R + P), 1);
    for (int which = 0; which < 2; which++) {
        c.rope.layout = which ? MLA_ROPE_HALF : MLA_ROPE_PAIR;
        m[which] = make_model(&c, &layers[which]);
    }
    FOR_ISA(isa) FOR_PATH(path) {
        mat want = new_mat(T, D);
        mla_cache *k[2];
        for (int which = 0; which < 2; which++) {
            mla_context *context = make_context(m[which], T, 1, isa, path);
            ref_options opt;
            k[which] = make_cache(m[which], T, MLA_F32, NULL);
            mla_sequence s = sequence(k[which], T);
            mat xm = mat_of(x, T, D);
            memset(&opt, 0, sizeof opt);
            if (which == 0) want = ref_attention(m[0], &layers[0].attn, &xm, &opt);
            MUST_IN(context, mla_attn_forward(context, 0, y, x, &s, 1));
            within(y, &want, 0, T, NULL,
                   label("%s, %s, %s", which ? "half" : "pair", mla_isa_name(isa),
                         path == MLA_ATTN_NAIVE ? "naive" : "absorbed"));
            mla_context_destroy(context);
        }
        for (int t = 0; t < T; t++) {
            for (int which = 0; which < 2; which++) MUST(mla_cache_read(k[which], 0, t, row[which], &error));
            for (int i = 0; i < P; i++) {
                const int j = i < P / 2 ? 2 * i : 2 * (i - P / 2) + 1;
                CHECK(fabsf(row[1][R + i] - row[0][R + j]) <=
                          4 * (float)U * (fabsf(row[0][R + j]) + 2 * test_max_abs(row[0] + R, P)),
                      "cached key %d, dim %d", t, i);
                differ += fabsf(row[1][R + i] - row[0][R + i]) > 0.1f;
            }
        }
        for (int which = 0; which < 2; which++) mla_cache_destroy(k[which]);
    }
    CHECK(differ > T, "the layouts' cached keys are the same");
    /* the key at a far position, from the formula */
    for (int which = 0; which < 2; which++) {
        mla_context *context = make_context(m[which], T, 1, MLA_ISA_AUTO, MLA_ATTN_AUTO);
        mla_cache *k = make_cache(m[which], FAR + 1, MLA_F32, NULL);
        mla_sequence s = sequence(k, 1);
        mat xm = mat_of(x, 1, D), kva = ref_linear(&xm, &layers[which].attn.kv_a);
        MUST(mla_cache_append(k, FAR, filler, &error));
        MUST_IN(context, mla_attn_forward(context, 0, y, x, &s, 1));
        MUST(mla_cache_read(k, 0, FAR, row[0], &error));
        ref_rotate(kva.v + R, kva.e + R, m[which], which ? MLA_ROPE_HALF : MLA_ROPE_PAIR, FAR);
        mat key = columns(&kva, R, P);
        within(row[0] + R, &key, 0, 1, NULL, "a key far beyond the original length");
        mla_cache_destroy(k);
        mla_context_destroy(context);
        mla_model_destroy(m[which]);
    }
    drop();
}

/* ---- router ------------------------------------------------------------------------------------------------------ */
/* hidden_size = E and an identity for a router: the logits are the input, exactly. */

typedef struct routed {
    mla_model *m;
    mla_context *context;
    float *bias; /* the model's router_bias, to be filled */
    mla_config c;
} routed;

static routed make_router(int E, int K, int G, int keep, mla_topk_method method, mla_scoring_func scoring, int norm,
                          int biased) {
    routed t;
    mla_layer_weights layer;
    float *identity = HOLD(float, E *E), *zero = HOLD(float, E);
    mla_mlp_weights *experts = HOLD(mla_mlp_weights, E);
    memset(&t.c, 0, sizeof t.c);
    memset(&layer, 0, sizeof layer);
    t.bias = HOLD(float, E);
    t.c.hidden_size = E, t.c.num_hidden_layers = 1, t.c.n_routed_experts = E, t.c.num_experts_per_tok = K,
    t.c.moe_intermediate_size = 1;
    t.c.n_group = G, t.c.topk_group = keep, t.c.topk_method = method, t.c.scoring_func = scoring,
    t.c.norm_topk_prob = norm;
    t.c.routed_scaling_factor = 2.5f;
    for (int e = 0; e < E; e++) {
        identity[e * E + e] = 1;
        experts[e].gate.weight = experts[e].up.weight = mla_view(zero, MLA_F32, 1, E);
        experts[e].down.weight = mla_view(zero, MLA_F32, E, 1);
    }
    layer.moe.router = mla_view(identity, MLA_F32, E, E), layer.moe.experts = experts;
    if (biased) layer.moe.router_bias = mla_view(t.bias, MLA_F32, 1, E);
    t.m = make_model(&t.c, &layer);
    t.context = make_context(t.m, 64, 1, MLA_ISA_AUTO, MLA_ATTN_AUTO);
    return t;
}
static void end_router(routed *t) {
    mla_context_destroy(t->context);
    mla_model_destroy(t->m);
}

static double top_score(const mla_config *c, const double *z) {
    double max = z[0], sum = 0;
    for (int e = 0; e < c->n_routed_experts; e++) max = z[e] > max ? z[e] : max;
    for (int e = 0; e < c->n_routed_experts; e++) sum += exp(z[e] - max);
    return c->scoring_func == MLA_SCORING_SOFTMAX ? 1 / sum : 1 / (1 + exp(-max));
}

/* Route z [n, E] and hold the choice, its order and the weights against the reference. Where the closest decision is
   within rounding (but is no tie) the choice is left open. Weights: softmax errs by the sum's E roundings and a few
   more. */
static void check_routing(routed *t, const float *z, int n, const char *what) {
    const int E = t->c.n_routed_experts, K = t->c.num_experts_per_tok;
    int *index = HOLD(int, n *K), want[MAX_EXPERTS], bad = 0, bad_weight = 0, at = 0, open = 0;
    float *weight = HOLD(float, n *K), *y = HOLD(float, n *E);
    int64_t counts[MAX_EXPERTS], total = 0;
    double w[MAX_EXPERTS], zd[MAX_EXPERTS], reach = 1;
    const mla_tensor bias = mla_view(t->bias, MLA_F32, 1, E);
    mla_routing out;
    memset(counts, 0, sizeof counts);
    out.index = index, out.weight = weight, out.counts = counts;
    MUST_IN(t->context, mla_moe_forward(t->context, 0, y, z, n, &out));
    for (int e = 0; e < E; e++) reach = fmax(reach, fabs((double)t->bias[e]) + 1);
    for (int i = 0; i < n; i++) {
        for (int e = 0; e < E; e++) zd[e] = (double)z[i * E + e];
        const double margin = ref_route(&t->c, &bias, zd, want, w), largest = top_score(&t->c, zd);
        /* two scores of a group, in each of two groups: each errs by the sum's roundings, and by one for its bias */
        if (margin != 0 && !(margin > 4 * U * ((E + 16) * largest + 2 * reach))) {
            open++;
            continue;
        }
        for (int k = 0; k < K; k++) {
            int same = -1; /* neighbours in the order may change places within rounding: find the expert */
            for (int j = 0; j < K; j++) same = want[j] == index[i * K + k] ? j : same;
            if (same < 0) {
                if (bad++ == 0) at = i;
            } else {
                const double want_w = w[same], got = (double)weight[i * K + k];
                if (!(fabs(got - want_w) <= (2 * E + 2 * K + 80) * U * fabs(want_w) + 1e-37) && bad_weight++ == 0)
                    at = i;
            }
        }
    }
    for (int i = 0; i < n * K; i++)
        if (index[i] >= 0 && index[i] < E) counts[index[i]]--;
    for (int e = 0; e < E; e++) total += counts[e] != 0;
    CHECK(bad == 0 && bad_weight == 0,
          "%s (E %d, K %d, groups %d of %d, method %d, scoring %d, norm %d): %d wrong experts, %d wrong weights, token "
          "%d",
          what, E, K, t->c.topk_group, t->c.n_group, (int)t->c.topk_method, (int)t->c.scoring_func, t->c.norm_topk_prob,
          bad, bad_weight, at);
    CHECK(total == 0, "%s: counts are not those of the indices", what);
    CHECK(open <= n / 4 + 1, "%s: %d of %d tokens too close to tell", what, open, n);
}

static void test_router(void) {
    enum { T = 32 };
    const struct {
        int E, K, G, keep;
    } shapes[] = {{6, 2, 1, 1},   {6, 6, 1, 1},   {8, 3, 4, 2},   {12, 4, 3, 1}, {64, 6, 8, 3},
                  {160, 6, 8, 3}, {256, 8, 8, 4}, {384, 8, 1, 1}, {1, 1, 1, 1},  {2, 2, 1, 1}};
    float *z = HOLD(float, T *MAX_EXPERTS);
    test_rng r = {5};
    routed t;
    int index[MAX_EXPERTS];
    float weight[MAX_EXPERTS], y[T * MAX_EXPERTS];
    mla_routing out;
    memset(&out, 0, sizeof out);
    out.index = index, out.weight = weight;
    SECTION("router against the reference");
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
        for (int method = 0; method <= MLA_TOPK_NOAUX_ZERO; method++)
            for (int scoring = 0; scoring < 2; scoring++)
                for (int norm = 0; norm < 2; norm++)
                    for (int biased = 0; biased < 4; biased++) { /* none, both signs, all negative, large */
                        if (!test_all() && ((int)s + method + scoring + norm + biased) % 2) continue;
                        const int E = shapes[s].E, grouped = method != MLA_TOPK_GREEDY;
                        t = make_router(E, shapes[s].K, grouped ? shapes[s].G : 1, grouped ? shapes[s].keep : 1,
                                        (mla_topk_method)method, (mla_scoring_func)scoring, norm, biased > 0);
                        for (int e = 0; e < E && biased > 0; e++)
                            t.bias[e] = biased == 1   ? 0.3f * test_gauss(&r)
                                        : biased == 2 ? -1.5f - test_uniform(&r)
                                                      : 10 * test_gauss(&r);
                        test_fill(&r, z, (size_t)(T * E), 1 + (float)biased);
                        check_routing(&t, z, T,
                                      biased == 0   ? "no bias"
                                      : biased == 1 ? "bias"
                                      : biased == 2 ? "negative bias"
                                                    : "large bias");
                        if (biased == 0) {
                            for (int i = 0; i < T * E; i++) z[i] = 0.7f;
                            check_routing(&t, z, T, "all scores equal");
                            MUST_IN(t.context, mla_moe_forward(t.context, 0, y, z, 1, &out));
                            for (int k = 0; k < shapes[s].K; k++)
                                CHECK(index[k] == k, "all scores equal: expert %d is number %d", index[k], k);
                            for (int i = 0; i < T * E; i++) z[i] = (float)test_int(&r, 3); /* many ties */
                            check_routing(&t, z, T, "ties");
                        }
                        end_router(&t);
                        if (biased == 3) drop(), z = HOLD(float, T *MAX_EXPERTS);
                    }
    drop();
}

static void test_router_cases(void) {
    int index[MAX_EXPERTS];
    float weight[MAX_EXPERTS], y[MAX_EXPERTS * 4], z[MAX_EXPERTS * 4];
    int64_t counts[MAX_EXPERTS];
    mla_routing out;
    routed t;
    memset(&out, 0, sizeof out);
    memset(z, 0, sizeof z);
    memset(counts, 0, sizeof counts);
    out.index = index, out.weight = weight;
    SECTION("router, single cases");
    /* the bias only selects: expert 3 is chosen by it, its weight is the sigmoid's */
    t = make_router(4, 2, 1, 1, MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID, 0, 1);
    t.bias[3] = 12, z[0] = 2, z[1] = 1, z[2] = 0, z[3] = -18.420681f;
    MUST_IN(t.context, mla_moe_forward(t.context, 0, y, z, 1, &out));
    CHECK(index[0] == 3 && index[1] == 0, "bias 12: experts %d, %d", index[0], index[1]);
    CHECK(close_to((double)weight[0], 2.5e-8, 1e-5) && close_to((double)weight[1], 2.5 / (1 + exp(-2)), 8 * U),
          "bias 12: weights %g, %g", (double)weight[0], (double)weight[1]);
    end_router(&t);
    /* of NaN nothing can be said: it comes behind all numbers, also behind minus infinity */
    for (int at = 0; at < 3; at++) {
        t = make_router(4, 4, 1, 1, MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID, 0, 1);
        for (int e = 0; e < 4; e++) z[e] = (float)e, t.bias[e] = e == at ? NAN : e == 3 ? -INFINITY : 0;
        MUST_IN(t.context, mla_moe_forward(t.context, 0, y, z, 1, &out));
        CHECK(index[0] == (at == 2 ? 1 : 2) && index[1] == (at == 0 ? 1 : 0) && index[2] == 3 && index[3] == at,
              "NaN on expert %d: experts %d, %d, %d, %d", at, index[0], index[1], index[2], index[3]);
        end_router(&t);
    }
    memset(z, 0, sizeof z);
    /* a bias that changes the selection but not the weights of those selected either way */
    t = make_router(4, 2, 1, 1, MLA_TOPK_NOAUX_TC, MLA_SCORING_SOFTMAX, 0, 1);
    z[3] = -1;
    MUST_IN(t.context, mla_moe_forward(t.context, 0, y, z, 1, &out));
    const float before = weight[0];
    CHECK(index[0] == 0 && index[1] == 1, "no bias yet");
    t.bias[2] = 1;
    MUST_IN(t.context, mla_moe_forward(t.context, 0, y, z, 1, &out));
    CHECK(index[0] == 2 && index[1] == 0 && weight[1] == before, "bias on expert 2: experts %d, %d", index[0],
          index[1]);
    end_router(&t);
    /* group_limited_greedy with a bias: it still only selects */
    t = make_router(8, 2, 4, 2, MLA_TOPK_GROUP_LIMITED_GREEDY, MLA_SCORING_SIGMOID, 0, 1);
    t.bias[5] = 3;
    MUST_IN(t.context, mla_moe_forward(t.context, 0, y, z, 1, &out));
    CHECK(index[0] == 5 && close_to((double)weight[0], 2.5 * 0.5, 8 * U),
          "group_limited_greedy with a bias: expert %d, weight %g instead of 1.25", index[0], (double)weight[0]);
    end_router(&t);
    /* masked groups count 0.0 (group_limited_greedy, whose weights come from these scores, and noaux_zero) or -inf
       (noaux_tc): with negative biased scores inside, 0.0 wins */
    for (int method = 1; method <= MLA_TOPK_NOAUX_ZERO; method++) {
        t = make_router(8, 3, 4, 2, (mla_topk_method)method, MLA_SCORING_SIGMOID, 0, 1);
        for (int e = 0; e < 8; e++) t.bias[e] = e < 4 ? -2.0f : -9.0f, z[e] = (float)e / 16;
        t.bias[0] = 1; /* the one positive score */
        MUST_IN(t.context, mla_moe_forward(t.context, 0, y, z, 1, &out));
        CHECK(index[0] == 0, "masked groups: the positive score comes first");
        for (int k = 1; k < 3; k++)
            CHECK(method == MLA_TOPK_NOAUX_TC ? index[k] < 4
                                              : index[k] >= 4 && (weight[k] > 0) == (method == MLA_TOPK_NOAUX_ZERO),
                  "method %d: expert %d with weight %g beside masked groups", method, index[k], (double)weight[k]);
        end_router(&t);
    }
    /* all selected sigmoids underflow */
    for (int norm = 0; norm < 2; norm++) {
        t = make_router(6, 3, 1, 1, MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID, norm, 0);
        for (int e = 0; e < 6; e++) z[e] = -200 - (float)e;
        MUST_IN(t.context, mla_moe_forward(t.context, 0, y, z, 1, &out));
        for (int k = 0; k < 3; k++)
            CHECK(index[k] == k && weight[k] == 0, "underflow: expert %d, weight %g", index[k], (double)weight[k]);
        end_router(&t);
    }
    /* softmax of huge logits */
    t = make_router(6, 2, 1, 1, MLA_TOPK_GREEDY, MLA_SCORING_SOFTMAX, 1, 0);
    for (int e = 0; e < 6; e++) z[e] = e == 4 ? 3e38f : -3e38f;
    MUST_IN(t.context, mla_moe_forward(t.context, 0, y, z, 1, &out));
    CHECK(index[0] == 4 && index[1] == 0 && weight[0] == 2.5f && weight[1] == 0, "huge logits");
    /* counts are added to, and any output may be NULL */
    memset(z, 0, sizeof z);
    out.counts = counts, counts[0] = 100;
    MUST_IN(t.context, mla_moe_forward(t.context, 0, y, z, 4, &out));
    CHECK(counts[0] == 104 && counts[1] == 4 && counts[2] == 0, "counts are added to");
    out.index = NULL, out.weight = NULL;
    MUST_IN(t.context, mla_moe_forward(t.context, 0, y, z, 1, &out));
    out.counts = NULL;
    MUST_IN(t.context, mla_moe_forward(t.context, 0, y, z, 1, &out));
    CHECK(counts[0] == 105, "counts without indices");
    end_router(&t);
    drop();
}

/* ---- masks and long contexts ------------------------------------------------------------------------------------- */

static const char *way_name(mla_isa isa, mla_attn_path path) {
    static char text[40];
    snprintf(text, sizeof text, "%s, %s", mla_isa_name(isa),
             path == MLA_ATTN_NAIVE      ? "naive"
             : path == MLA_ATTN_ABSORBED ? "absorbed"
                                         : "auto");
    return text;
}

/* `context` tokens causally, then n tokens with a mask of ours (of kind 1) or causally (0); the n answers against the
 * reference. */
static void masked_case(const char *name, const mla_config *c, int before, int n, int masked, int fill) {
    const int D = c->hidden_size, T = before + n, H = c->num_attention_heads;
    test_rng r = {(uint64_t)(T + H)};
    mla_layer_weights layer;
    ref_options opt;
    mat want, probs;
    memset(&layer, 0, sizeof layer);
    memset(&opt, 0, sizeof opt);
    layer.attn = rand_attn(&r, K_F32, c, 1);
    mla_model *m = make_model(c, &layer);
    float *x = HOLD(float, T *D), *y = HOLD(float, T *D), *again = HOLD(float, T *D), *p = HOLD(float, (double)n *H *T),
          *mask = HOLD(float, (double)n *T);
    double *full = HOLD(double, (double)T *T);
    test_fill(&r, x, (size_t)(T * D), 1);
    for (int t = 0; t < n; t++)
        for (int u = 0; u < T; u++) {
            float *a = &mask[t * T + u];
            *a = test_int(&r, 5) < 2 ? -INFINITY : test_int(&r, 3) ? 0 : 2 * test_gauss(&r);
            if (t == n - 1 || (t == 0 && n > 2)) *a = -INFINITY; /* a token that sees nothing */
            if (t == 1) *a = u == T / 3 ? -7.0f : -INFINITY;     /* ... one key */
            if (t == 2) *a = u < T * 2 / 3 ? -INFINITY : 0;      /* ... only late keys */
            full[(ptrdiff_t)(before + t) * T + u] = (double)*a;
        }
    if (masked) opt.mask = full;
    opt.first = before, opt.probs = &probs;
    const mat xm = mat_of(x, T, D);
    want = ref_attention(m, &layer.attn, &xm, &opt);
    FOR_ISA(isa)
    for (mla_attn_path path = MLA_ATTN_AUTO; path < MLA_ATTN_PATH_COUNT; path = (mla_attn_path)(path + 1)) {
        mla_context *one = make_context(m, fill > n ? fill : n, 1, isa, path),
                    *three = make_context(m, fill > n ? fill : n, 3, isa, path);
        mla_cache *k = make_cache(m, T, MLA_F32, NULL);
        in_chunks(one, k, x, y, before, D, fill);
        mla_sequence s = sequence(k, n);
        s.mask = masked ? mask : NULL;
        MUST_IN(one, mla_attn_forward(one, 0, y, x + before * D, &s, 1));
        within(y, &want, 0, n, NULL, label("%s, %s", name, way_name(isa, path)));
        for (int t = 0; t < n && masked; t++) {
            int seen = 0;
            for (int u = 0; u < T; u++) seen += mask[t * T + u] != -INFINITY;
            for (int i = 0; seen == 0 && i < D; i++)
                CHECK((double)y[t * D + i] == bias_at(&layer.attn.o, i), "%s, %s: token %d sees nothing: %g", name,
                      way_name(isa, path), t, (double)y[t * D + i]);
        }
        MUST(mla_cache_truncate(k, before, &error));
        MUST_IN(three, mla_attn_forward(three, 0, again, x + before * D, &s, 1));
        CHECK(same_bits(y, again, n * D), "%s, %s: three threads", name, way_name(isa, path));
        MUST(mla_cache_truncate(k, before, &error));
        s.probs = p;
        MUST_IN(one, mla_attn_forward(one, 0, y, x + before * D, &s, 1));
        within(y, &want, 0, n, NULL, label("%s, %s, with probabilities", name, way_name(isa, path)));
        within(p, &probs, 0, n, NULL, label("%s, %s: probabilities", name, way_name(isa, path)));
        mla_cache_destroy(k);
        mla_context_destroy(one), mla_context_destroy(three);
    }
    mla_model_destroy(m);
    drop();
}

static void test_masks(void) {
    mla_config c = attn_config(24, 9, 3, 12, 6, 4, 5);
    SECTION("masks");
    masked_case("mask", &c, 11, 20, 1, 11);
    masked_case("mask without context", &c, 0, 30, 1, 30);
    masked_case("mask over one token", &c, 40, 1, 1, 40);
    c.mask = MLA_MASK_NONE;
    masked_case("mask instead of no mask", &c, 0, 23, 1, 23);
    c = attn_config(24, 9, 40, 12, 6, 4, 5);
    masked_case("mask, 40 heads", &c, 100, 9, 1, 50);
    tell_worst();
}

/* -INFINITY hides; the lowest finite number, which other software uses for it, is added like any other: with nothing
   else to see, softmax of equal scores. */
static void test_lowest_mask(void) {
    enum { T = 5, D = 12 };
    mla_config c = attn_config(D, 0, 2, 8, 4, 2, 3);
    mla_layer_weights layer;
    test_rng r = {3};
    float x[T * D], y[T * D], p[T * 2 * T], mask[T * T];
    SECTION("a mask of -FLT_MAX");
    memset(&layer, 0, sizeof layer);
    layer.attn = rand_attn(&r, K_F32, &c, 1);
    mla_model *m = make_model(&c, &layer);
    test_fill(&r, x, T * D, 1);
    for (int i = 0; i < T * T; i++) mask[i] = -FLT_MAX;
    FOR_ISA(isa) FOR_PATH(path) {
        mla_context *context = make_context(m, T, 1, isa, path);
        mla_cache *k = make_cache(m, T, MLA_F32, NULL);
        mla_sequence s = sequence(k, T);
        s.mask = mask, s.probs = p;
        MUST_IN(context, mla_attn_forward(context, 0, y, x, &s, 1));
        int bad = 0;
        for (int i = 0; i < T * 2 * T; i++) bad += !close_to((double)p[i], 1.0 / T, 16 * U);
        CHECK(bad == 0, "%s: %d probabilities are not 1/%d, the first is %g", way_name(isa, path), bad, T,
              (double)p[0]);
        mla_cache_destroy(k);
        mla_context_destroy(context);
    }
    mla_model_destroy(m);
    drop();
}

static void test_long(void) {
    mla_config c = attn_config(16, 0, 3, 8, 4, 2, 3);
    SECTION("long contexts");
    masked_case("700 tokens in one call", &c, 0, 700, 0, 700);
    for (int n = 1; n <= 7; n += test_all() ? 2 : 6) masked_case("some tokens after 1500", &c, 1500, n, 0, 512);
    masked_case("mask over 1500", &c, 1500, 4, 1, 1500);
    c = attn_config(16, 0, 130, 8, 4, 2, 3);
    masked_case("130 heads after 600", &c, 600, 2, 0, 512);
    masked_case("130 heads, mask over 600", &c, 600, 3, 1, 512);
    c = attn_config(16, 0, 1, 8, 4, 2, 3);
    masked_case("one head after 1500", &c, 1500, 1, 0, 512);
    masked_case("one head, 300 after 1500", &c, 1500, 300, 0, 512);
    tell_worst();
}

/* ---- experts ----------------------------------------------------------------------------------------------------- */

static mla_config moe_config(int D, int I, int E, int K, int shared) {
    mla_config c;
    memset(&c, 0, sizeof c);
    c.hidden_size = D, c.num_hidden_layers = 1, c.n_routed_experts = E, c.num_experts_per_tok = K,
    c.moe_intermediate_size = I;
    c.n_shared_experts = shared, c.norm_topk_prob = 1, c.routed_scaling_factor = 1.5f;
    c.topk_method = MLA_TOPK_NOAUX_TC, c.scoring_func = MLA_SCORING_SIGMOID;
    return c;
}

/* favourite: an expert that every token takes, or -1; then the last expert is taken by none */
static void moe_case(const char *name, const mla_config *c, kind k, int bias, int favourite) {
    enum { T = 40 };
    const int D = c->hidden_size, E = c->n_routed_experts + c->zero_expert_num, K = c->num_experts_per_tok,
              sizes[] = {T, 1, 2, 3, 4, 5, 17};
    test_rng r = {(uint64_t)k * 31 + (uint64_t)(bias + D)};
    mla_layer_weights layer;
    int unsure[T], open = 0;
    int64_t counts[MAX_EXPERTS], got[MAX_EXPERTS];
    mla_routing out;
    memset(&layer, 0, sizeof layer);
    memset(counts, 0, sizeof counts);
    memset(&out, 0, sizeof out);
    out.counts = got;
    layer.moe = rand_moe(&r, k, c, 1, bias);
    if (favourite >= 0) {
        float *b = HOLD(float, E);
        b[favourite] = 50, b[E - 1] = -50;
        layer.moe.router_bias = mla_view(b, MLA_F32, 1, E);
    }
    mla_model *m = make_model(c, &layer);
    float *x = HOLD(float, T *D), *y = HOLD(float, T *D), *again = HOLD(float, T *D);
    test_fill(&r, x, (size_t)(T * D), 1);
    const mat xm = mat_of(x, T, D), want = ref_moe(mla_model_config(m), &layer.moe, &xm, unsure, NULL, counts);
    for (int t = 0; t < T; t++) open += unsure[t];
    CHECK(open <= T / 4, "%s, %s: %d tokens too close to tell", name, kind_names[k], open);
    FOR_ISA(isa) {
        mla_context *one = make_context(m, T, 1, isa, MLA_ATTN_AUTO);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            if (TEST_SPARED(isa) && i != 0 && i != 3) continue;
            memset(got, 0, sizeof got);
            for (int t = 0; t < T; t += sizes[i])
                MUST_IN(one, mla_moe_forward(one, 0, y + t * D, x + t * D, T - t < sizes[i] ? T - t : sizes[i], &out));
            within(y, &want, 0, T, unsure,
                   label("%s, %s, %s, %d tokens a time", name, kind_names[k], mla_isa_name(isa), sizes[i]));
            for (int e = 0; e < E && open == 0; e++)
                CHECK(got[e] == counts[e], "%s: expert %d counts %d, not %d", name, e, (int)got[e], (int)counts[e]);
            if (favourite >= 0)
                CHECK(got[favourite] == T && (got[E - 1] == 0 || K == E), "%s: the favourite has %d", name,
                      (int)got[favourite]);
            for (int j = 0, threads[] = {2, 3, 7}; j < 3 && (i == 0 || i == 3); j++) {
                mla_context *other = make_context(m, T, threads[j], isa, MLA_ATTN_AUTO);
                for (int t = 0; t < T; t += sizes[i])
                    MUST_IN(other, mla_moe_forward(other, 0, again + t * D, x + t * D,
                                                   T - t < sizes[i] ? T - t : sizes[i], NULL));
                CHECK(same_bits(y, again, T * D), "%s, %s, %s: %d threads", name, kind_names[k], mla_isa_name(isa),
                      threads[j]);
                mla_context_destroy(other);
            }
        }
        mla_context_destroy(one);
    }
    mla_model_destroy(m);
    drop();
}

/* Experts of many rows: what streams by is kept aside in pieces, whose length depends on the tokens. */
static void test_wide(void) {
    enum { D = 2064, I = 64, T = 40 };
    SECTION("experts of many rows");
    const mla_dtype types[] = {MLA_F32, MLA_BF16, MLA_Q8, MLA_Q4};
    mla_config c = moe_config(D, I, 1, 1, 0);
    for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
        test_rng r = {k + 3};
        mla_layer_weights layer;
        mla_mlp_weights expert;
        memset(&layer, 0, sizeof layer), memset(&expert, 0, sizeof expert);
        const int rows[] = {I, I, D}, cols[] = {D, D, I}, blocks = mla_dtype_block(types[k]) > 1;
        mla_linear *to[] = {&expert.gate, &expert.up, &expert.down};
        for (int i = 0; i < 3; i++) { /* of D columns there are no whole blocks: gate and up are f32 */
            const mla_dtype t = blocks && i < 2 ? MLA_F32 : types[k];
            const size_t n = (size_t)rows[i] * (size_t)cols[i], bytes = mla_dtype_bytes(t, n);
            float *w = HOLD(float, n);
            unsigned char *q = HOLD(unsigned char, bytes), *x16 = HOLD(unsigned char, bytes);
            test_fill(&r, w, n, 0.1f);
            MUST(mla_quantize(t, q, w, n, &error));
            to[i]->weight = mla_view(q, t, rows[i], cols[i]);
            if (t != types[k] || !blocks) continue;
            MUST(mla_repack(x16, &to[i]->weight, &error));
            to[i]->weight.data = x16, to[i]->weight.layout = MLA_LAYOUT_X16;
        }
        float *router = HOLD(float, D), *x = HOLD(float, T *D), *y = HOLD(float, T *D), *alone = HOLD(float, T *D);
        layer.moe.router = mla_view(router, MLA_F32, 1, D), layer.moe.experts = &expert;
        test_fill(&r, x, T * D, 1);
        mla_model *m = make_model(&c, &layer);
        FOR_ISA(isa) {
            mla_context *one = make_context(m, T, 1, isa, MLA_ATTN_AUTO);
            for (int t = 0; t < T; t++) MUST_IN(one, mla_moe_forward(one, 0, alone + t * D, x + t * D, 1, NULL));
            for (int n = 2; n <= T; n += TEST_SPARED(isa) ? 7 : 1) {
                float off = 0;
                MUST_IN(one, mla_moe_forward(one, 0, y, x, n, NULL));
                for (int i = 0; i < n * D; i++) off = fmaxf(off, fabsf(y[i] - alone[i]));
                CHECK(off < 2e-4f, "%s, %s, %d tokens: %g from each alone", mla_dtype_name(types[k]), mla_isa_name(isa),
                      n, (double)off);
            }
            mla_context_destroy(one);
        }
        mla_model_destroy(m);
        drop();
    }
}

static void test_moe(void) {
    SECTION("experts against the reference");
    for (kind k = K_F32; k < K_COUNT; k = (kind)(k + 1)) {
        mla_config c = moe_config(72, 44, 6, 2, 1);
        moe_case("small", &c, k, 0, -1);
        c = moe_config(203, 150, 5, 3, 2);
        if (test_all() || k % 3 == 0) moe_case("above 128", &c, k, (int)k % 4, -1);
        c = moe_config(72, 44, 6, 1, 0);
        c.norm_topk_prob = 0;
        if (test_all() || k % 3 == 1) moe_case("one expert takes all", &c, k, 1, 2);
        c = moe_config(72, 44, 6, 4, (int)k % 2);
        c.zero_expert_num = 5, c.topk_method = MLA_TOPK_GREEDY, c.scoring_func = MLA_SCORING_SOFTMAX,
        c.norm_topk_prob = 0;
        if (!test_all() && k % 3 < 2) continue;
        moe_case("experts that give x", &c, k, 0, -1);
        moe_case("an expert that gives x takes all", &c, k, 0, 7);
    }
    mla_config c = moe_config(33, 19, 16, 5, 0);
    c.n_group = 4, c.topk_group = 2, c.scoring_func = MLA_SCORING_SOFTMAX;
    moe_case("dims of no multiple, softmax", &c, K_F32, 0, 0);
    c = moe_config(7, 1, 384, 8, 0);
    moe_case("384 experts", &c, K_F32, 0, -1);
    c = moe_config(17, 3, 4, 4, 1);
    moe_case("every expert", &c, K_BF16, 0, -1);
    tell_worst();
}

/* ---- the model --------------------------------------------------------------------------------------------------- */

enum { VOCAB = 53 };

typedef struct whole {
    mla_config c;
    mla_weights w;
    mla_layer_weights layers[2]; /* a dense one and one with experts */
    mla_model *m;
} whole;

static void make_whole(whole *t, kind k, const mla_config *attn, uint64_t seed) {
    test_rng r = {seed};
    const int D = attn->hidden_size;
    memset(t, 0, sizeof *t);
    t->c = *attn;
    t->c.num_hidden_layers = 2, t->c.vocab_size = VOCAB, t->c.intermediate_size = 61;
    t->c.n_routed_experts = 6, t->c.num_experts_per_tok = 2, t->c.moe_intermediate_size = 44, t->c.n_shared_experts = 1;
    t->c.n_group = 3, t->c.topk_group = 2, t->c.topk_method = MLA_TOPK_NOAUX_TC,
    t->c.scoring_func = MLA_SCORING_SIGMOID, t->c.norm_topk_prob = 1;
    t->c.block_norm.eps = 1e-5f;
    for (int i = 0; i < 2; i++) {
        t->layers[i].attn_norm = rand_norm(&r, MLA_NORM_RMS, D), t->layers[i].ffn_norm = rand_norm(&r, MLA_NORM_RMS, D);
        t->layers[i].attn = rand_attn(&r, k, &t->c, 0);
    }
    t->layers[0].mlp = rand_mlp(&r, k, 61, D, 0);
    t->layers[1].moe = rand_moe(&r, k, &t->c, 1, 0);
    t->w.embed = rand_tensor(&r, k, VOCAB, D, 1), t->w.head = rand_tensor(&r, k, VOCAB, D, 1 / sqrt(D));
    t->w.norm = rand_norm(&r, MLA_NORM_RMS, D), t->w.layers = t->layers;
    MUST(mla_model_create(&t->m, &t->c, &t->w, NULL, &error));
}

/* A norm behind attention and FFN of every layer. */
static void norms_behind(whole *t, const mla_config *attn) {
    test_rng r = {31};
    mla_model_destroy(t->m);
    for (int i = 0; i < 2; i++) {
        t->layers[i].attn_out_norm = rand_norm(&r, MLA_NORM_RMS, attn->hidden_size);
        t->layers[i].ffn_out_norm = rand_norm(&r, MLA_NORM_RMS, attn->hidden_size);
    }
    MUST(mla_model_create(&t->m, &t->c, &t->w, NULL, &error));
}

static void add_mat(mat *x, const mat *y) {
    for (ptrdiff_t i = 0; i < (ptrdiff_t)x->rows * x->cols; i++) {
        x->v[i] += y->v[i];
        x->e[i] += y->e[i] + U * fabs(x->v[i]);
    }
}

typedef struct ref_model {
    mat hidden[3], logits;
    int unsure[64];
    double margin[64];
} ref_model;

static void ref_pass(ref_model *out, const whole *t, const int *tokens, int T) {
    const mla_norm *block_norm = &mla_model_config(t->m)->block_norm;
    const int D = t->c.hidden_size;
    mla_linear head;
    ref_options opt;
    mat x = new_mat(T, D), n, y;
    memset(&head, 0, sizeof head);
    memset(&opt, 0, sizeof opt);
    head.weight = t->w.head;
    for (int i = 0; i < T; i++)
        for (int d = 0; d < D; d++) x.v[i * D + d] = mla__weight_ref(&t->w.embed, tokens[i], d);
    for (int l = 0; l < 2; l++) {
        out->hidden[l] = columns(&x, 0, D);
        n = columns(&x, 0, D);
        ref_norm(&n, block_norm, &t->layers[l].attn_norm);
        y = ref_attention(t->m, &t->layers[l].attn, &n, &opt);
        if (t->layers[l].attn_out_norm.weight.data) ref_norm(&y, block_norm, &t->layers[l].attn_out_norm);
        add_mat(&x, &y);
        n = columns(&x, 0, D);
        ref_norm(&n, block_norm, &t->layers[l].ffn_norm);
        y = l == 0 ? ref_mlp(&n, &t->layers[l].mlp)
                   : ref_moe(mla_model_config(t->m), &t->layers[l].moe, &n, NULL, out->margin, NULL);
        if (t->layers[l].ffn_out_norm.weight.data) ref_norm(&y, block_norm, &t->layers[l].ffn_out_norm);
        add_mat(&x, &y);
    }
    ref_norm(&x, block_norm, &t->w.norm);
    out->hidden[2] = x;
    out->logits = ref_linear(&x, &head);
}

/* Errors of a row: 8 times the largest change in that row that noise made. */
static void spread(mat *m, const mat *noisy, int runs) {
    for (int t = 0; t < m->rows; t++) {
        double e = 0;
        for (int i = t * m->cols; i < (t + 1) * m->cols; i++)
            for (int r = 0; r < runs; r++) e = fmax(e, fabs(noisy[r].v[i] - m->v[i]));
        for (int i = t * m->cols; i < (t + 1) * m->cols; i++) m->e[i] = 8 * e + 2 * U * fabs(m->v[i]);
    }
}

static void ref_forward(ref_model *out, const whole *t, const int *tokens, int T) {
    enum { RUNS = 4 };
    test_rng r = {11};
    ref_model other[RUNS];
    mat m[RUNS];
    noise = &r;
    for (int i = 0; i < RUNS; i++) ref_pass(&other[i], t, tokens, T);
    noise = NULL;
    ref_pass(out, t, tokens, T);
    for (int h = 0; h < 4; h++) {
        for (int i = 0; i < RUNS; i++) m[i] = h < 3 ? other[i].hidden[h] : other[i].logits;
        spread(h < 3 ? &out->hidden[h] : &out->logits, m, RUNS);
    }
    for (int i = 0; i < T; i++) out->unsure[i] = !(out->margin[i] > 1e-4); /* scores err by about 1e-6 */
}

static void model_case(const char *name, kind k, const mla_config *attn, int sandwich) {
    enum { S = 3 };
    const int lengths[S] = {23, 1, 14}, D = attn->hidden_size;
    whole t;
    make_whole(&t, k, attn, (uint64_t)k + 99);
    if (sandwich) norms_behind(&t, attn);
    test_rng r = {(uint64_t)k + 5};
    int tokens[S][32], all[64], total = 0;
    ref_model ref[S];
    float *logits = HOLD(float, 64 * VOCAB), *again = HOLD(float, 64 * VOCAB), *hidden[3];
    for (int s = 0; s < S; s++) {
        for (int i = 0; i < lengths[s]; i++) all[total++] = tokens[s][i] = test_int(&r, VOCAB);
        ref_forward(&ref[s], &t, tokens[s], lengths[s]);
    }
    for (int i = 0; i < 3; i++) hidden[i] = HOLD(float, 64 * D);
    FOR_ISA(isa)
    for (mla_attn_path path = MLA_ATTN_AUTO; path < MLA_ATTN_PATH_COUNT; path = (mla_attn_path)(path + 1)) {
        if (TEST_SPARED(isa) && path == MLA_ATTN_AUTO) continue;
        mla_context *context = make_context(t.m, 64, 1, isa, path);
        mla_cache *cache[S];
        mla_sequence seqs[S];
        mla_outputs out;
        int64_t counts[12];
        memset(&out, 0, sizeof out);
        memset(counts, 0, sizeof counts);
        for (int s = 0; s < S; s++) cache[s] = make_cache(t.m, 32, MLA_F32, NULL);
        for (int s = 0; s < S; s++) seqs[s] = sequence(cache[s], lengths[s]);
        out.logits = logits, out.hidden = hidden, out.expert_counts = counts;
        MUST_IN(context, mla_model_forward(context, seqs, S, all, &out)); /* all sequences in one call */
        for (int s = 0, row = 0; s < S; row += lengths[s++]) {
            within(logits + row * VOCAB, &ref[s].logits, 0, lengths[s], ref[s].unsure,
                   label("%s, %s, %s: batch, logits", name, kind_names[k], way_name(isa, path)));
            for (int i = 0; i < 3; i++)
                within(hidden[i] + row * D, &ref[s].hidden[i], 0, lengths[s], i == 2 ? ref[s].unsure : NULL,
                       label("%s, %s, %s: batch, hidden %d", name, kind_names[k], way_name(isa, path), i));
        }
        int64_t routed_to = 0;
        for (int e = 0; e < 12; e++) routed_to += e < 6 ? (counts[e] != 0) * 1000 : counts[e];
        CHECK(routed_to == 2 * total, "%s: expert counts add up to %d", name, (int)routed_to);
        memset(&out, 0, sizeof out);
        out.logits =
            again; /* last tokens only, after other things were in the caches: truncated, and the same tokens again */
        for (int s = 0; s < S; s++) MUST(mla_cache_truncate(cache[s], 0, &error)), seqs[s].n_logits = 1;
        MUST_IN(context, mla_model_forward(context, seqs, S, all, &out));
        for (int s = 0; s < S; s++) {
            within(again + s * VOCAB, &ref[s].logits, lengths[s] - 1, 1, ref[s].unsure,
                   label("%s, %s: last logits", name, kind_names[k]));
        }
        for (int chunk = 1; chunk <= 9; chunk += 4) /* one by one, and in chunks, the last logits of each */
            for (int s = 0; s < S; s++) {
                mla_cache_reset(cache[s]);
                for (int i = 0; i < lengths[s]; i += chunk) {
                    mla_sequence q = sequence(cache[s], lengths[s] - i < chunk ? lengths[s] - i : chunk);
                    q.n_logits = 1;
                    MUST_IN(context, mla_model_forward(context, &q, 1, tokens[s] + i, &out));
                    within(again, &ref[s].logits, i + q.n_tokens - 1, 1, ref[s].unsure,
                           label("%s, %s, %s: chunks of %d", name, kind_names[k], way_name(isa, path), chunk));
                }
            }
        for (int i = 0; i < 3;
             i++) { /* a mixed call: a chunk of one sequence, a decoded token of another; bit for bit on any threads */
            mla_context *other = make_context(t.m, 64, i + (i == 2 ? 5 : 2), isa, path);
            mla_sequence two[2];
            int mixed[8];
            for (int which = 0; which < 2; which++) {
                MUST(mla_cache_truncate(cache[0], 16, &error));
                MUST(mla_cache_truncate(cache[2], 13, &error));
                two[0] = sequence(cache[0], 7), two[1] = sequence(cache[2], 1);
                two[0].n_logits = 1;
                memcpy(mixed, tokens[0] + 16, 7 * sizeof *mixed), mixed[7] = tokens[2][13];
                out.logits = which ? logits : again;
                MUST_IN(which ? other : context, mla_model_forward(which ? other : context, two, 2, mixed, &out));
            }
            CHECK(same_bits(logits, again, 2 * VOCAB), "%s, %s, %s: mixed call, thread setting %d", name, kind_names[k],
                  way_name(isa, path), i);
            within(again, &ref[0].logits, 22, 1, ref[0].unsure, label("%s: mixed call, chunk", name));
            within(again + VOCAB, &ref[2].logits, 13, 1, ref[2].unsure, label("%s: mixed call, token", name));
            mla_context_destroy(other);
        }
        mla_sequence q = sequence(cache[1], 1); /* no outputs at all */
        MUST_IN(context, mla_model_forward(context, &q, 1, tokens[1], NULL));
        memset(&out, 0, sizeof out);
        MUST_IN(context, mla_model_forward(context, &q, 1, tokens[1], &out));
        CHECK(mla_cache_length(cache[1]) == 3, "%s: length %d", name, mla_cache_length(cache[1]));
        for (int s = 0; s < S; s++) mla_cache_destroy(cache[s]);
        mla_context_destroy(context);
    }
    mla_model_destroy(t.m);
    drop();
}

static void test_model(void) {
    SECTION("model against the reference");
    for (kind k = K_F32; k < K_COUNT; k = (kind)(k + 1)) {
        mla_config c = attn_config(72, 56, 3, 40, 24, 8, 20);
        set_yarn(&c.rope, 4, 16);
        if (test_all() || k % 2 == 0 || k == K_E4M3_UE8M0) model_case("small", k, &c, 0);
        if (k == K_F32) model_case("norms behind", k, &c, 1);
    }
    mla_config c = attn_config(139, 0, 2, 130, 35, 6, 131);
    c.rope.layout = MLA_ROPE_HALF;
    model_case("above 128", K_E4M3_F32, &c, 0);
    tell_worst();
}

/* The threads that OpenMP gives, if it is compiled in: the same bits. */
static void test_openmp(void) {
    mla_config c = attn_config(72, 56, 3, 40, 24, 8, 20);
    whole t;
    test_rng r = {6};
    int tokens[48];
    float *logits = HOLD(float, 48 * VOCAB), *first = HOLD(float, 48 * VOCAB);
    SECTION("threads");
    make_whole(&t, K_E4M3_F32, &c, 3);
    for (int i = 0; i < 48; i++) tokens[i] = test_int(&r, VOCAB);
    FOR_ISA(isa)
    for (mla_attn_path path = MLA_ATTN_AUTO; path < MLA_ATTN_PATH_COUNT; path = (mla_attn_path)(path + 1))
        for (int i = 0, threads[] = {1, 2, 3, 7, 0}; i < 5; i++) {
            mla_context_desc d;
            mla_context *context;
            mla_outputs out;
            mla_cache *k = make_cache(t.m, 48, MLA_F32, NULL);
            memset(&d, 0, sizeof d);
            memset(&out, 0, sizeof out);
            d.max_tokens = 48, d.threads = threads[i], d.isa = isa, d.attn = path;
            out.logits = i ? logits : first;
            MUST(mla_context_create(&context, t.m, &d, &error));
            CHECK(mla_context_threads(context) == threads[i] || (threads[i] == 0 && mla_context_threads(context) > 0),
                  "mla_context_threads");
            CHECK(mla_context_isa(context) == isa, "mla_context_isa");
            for (int n = 0, at = 0; at < 48; at += n) { /* 33 tokens, then one, two, ... */
                n = at == 0 ? 33 : at - 32 < 48 - at ? at - 32 : 48 - at;
                mla_sequence s = sequence(k, n);
                MUST_IN(context, mla_model_forward(context, &s, 1, tokens + at, &out));
                out.logits += n * VOCAB;
            }
            CHECK(!i || same_bits(logits, first, 48 * VOCAB), "%s: %d threads", way_name(isa, path), threads[i]);
            mla_cache_destroy(k);
            mla_context_destroy(context);
        }
    mla_model_destroy(t.m);
    drop();
}

/* ---- caches: bit for bit the same whatever their kind and history ------------------------------------------------ */

static void test_caches(void) {
    enum { BEFORE = 150, T = 9, PAGES = 24, KINDS = 8 };
    static const char *const kinds[KINDS] = {"contiguous",
                                             "paged",
                                             "forked contiguous",
                                             "forked in a pool",
                                             "paged from contiguous",
                                             "contiguous from paged",
                                             "copied by append",
                                             "truncated"};
    const mla_dtype dtypes[] = {MLA_F32, MLA_F16, MLA_BF16};
    mla_config c = attn_config(37, 0, 3, 21, 11, 6, 13);
    SECTION("caches");
    for (int d = 0; d < 3; d++) FOR_ISA(isa) FOR_PATH(path) {
            const mla_dtype dtype = dtypes[d];
            whole t;
            make_whole(&t, K_F32, &c, 4);
            test_rng r = {8};
            int tokens[BEFORE + T], others[BEFORE + T];
            mla_context *context = make_context(t.m, BEFORE + T, 1, isa, path);
            mla_pool *pool, *pool2;
            mla_cache *k[KINDS];
            float *logits = HOLD(float, T *VOCAB), *first = HOLD(float, T *VOCAB), *rows = HOLD(float, 2 * BEFORE * 27),
                  *row = HOLD(float, 27), *row0 = HOLD(float, 27);
            mla_sequence s;
            mla_outputs out;
            memset(&out, 0, sizeof out);
            for (int i = 0; i < BEFORE + T; i++) tokens[i] = test_int(&r, VOCAB), others[i] = test_int(&r, VOCAB);
            MUST(mla_pool_create(&pool, t.m, &(mla_pool_desc){.n_pages = PAGES, .dtype = dtype}, &error));
            MUST(mla_pool_create(&pool2, t.m, &(mla_pool_desc){.n_pages = PAGES, .dtype = dtype}, &error));
            for (int i = 0; i < KINDS; i++)
                k[i] = make_cache(t.m, BEFORE + T + i, dtype, i == 1 || i == 3 ? pool : i == 4 ? pool2 : NULL);
            for (int i = 0; i < 2; i++) {
                s = sequence(k[i], BEFORE);
                MUST_IN(context, mla_model_forward(context, &s, 1, tokens, &out));
            }
            s = sequence(k[7], BEFORE + T); /* other tokens from 70 on, then back */
            memcpy(others, tokens, 70 * sizeof *others);
            MUST_IN(context, mla_model_forward(context, &s, 1, others, &out));
            MUST(mla_cache_truncate(k[7], 0, &error));
            s.n_tokens = s.n_logits = BEFORE;
            MUST_IN(context, mla_model_forward(context, &s, 1, tokens, &out));
            MUST(mla_cache_fork(k[2], k[0], &error));
            MUST(mla_cache_fork(k[3], k[1], &error));
            MUST(mla_cache_fork(k[4], k[0], &error));
            MUST(mla_cache_fork(k[5], k[1], &error));
            for (int l = 0; l < 2; l++)
                for (int u = 0; u < BEFORE; u++) MUST(mla_cache_read(k[0], l, u, rows + (l * BEFORE + u) * 27, &error));
            MUST(mla_cache_append(k[6], BEFORE, rows, &error));
            for (int i = 0; i < KINDS; i++) {
                s = sequence(k[i], T);
                out.logits = i ? logits : first;
                MUST_IN(context, mla_model_forward(context, &s, 1, tokens + BEFORE, &out));
                CHECK(!i || same_bits(logits, first, T * VOCAB), "%s, %s: %s", mla_dtype_name(dtype),
                      way_name(isa, path), kinds[i]);
                int differ = 0;
                for (int l = 0; l < 2; l++)
                    for (int u = 0; u < BEFORE + T; u++) {
                        MUST(mla_cache_read(k[0], l, u, row0, &error));
                        MUST(mla_cache_read(k[i], l, u, row, &error));
                        differ += !same_bits(row0, row, 27);
                    }
                CHECK(differ == 0, "%s, %s: %s: %d rows differ", mla_dtype_name(dtype), way_name(isa, path), kinds[i],
                      differ);
            }
            /* truncated in the middle, other tokens, against a fresh run that was cut in the same places (last, and
             * then held against the first) */
            mla_cache *fresh = make_cache(t.m, BEFORE + T, dtype, NULL);
            out.logits = NULL;
            for (int i = 0; i < 4; i++) {
                mla_cache *now = i < 3 ? k[i == 2 ? 7 : i] : fresh;
                if (i < 3) MUST(mla_cache_truncate(now, 0, &error));
                s = sequence(now, 70);
                MUST_IN(context, mla_model_forward(context, &s, 1, tokens, &out));
                if (i < 3) {
                    s = sequence(now, 80);
                    MUST_IN(context, mla_model_forward(context, &s, 1, tokens + 70, &out));
                    MUST(mla_cache_truncate(now, 70, &error));
                }
                out.logits = i ? logits : first;
                s = sequence(now, T);
                MUST_IN(context, mla_model_forward(context, &s, 1, others + 100, &out));
                CHECK(!i || same_bits(logits, first, T * VOCAB), "%s, %s: truncate, then other tokens, %d",
                      mla_dtype_name(dtype), way_name(isa, path), i);
                out.logits = NULL;
            }
            mla_cache_destroy(fresh);
            mla_cache_destroy(k[1]); /* the parent goes first: the fork keeps the pages */
            MUST(mla_cache_read(k[3], 1, 0, row, &error));
            CHECK(same_bits(row, rows + BEFORE * 27, 27), "%s: a fork after its parent has gone",
                  mla_dtype_name(dtype));
            mla_cache_destroy(k[3]);
            CHECK(mla_pool_free_pages(pool) == PAGES, "%d free pages of %d", mla_pool_free_pages(pool), PAGES);
            for (int i = 0; i < KINDS; i++)
                if (i != 1 && i != 3) mla_cache_destroy(k[i]);
            mla_pool_destroy(pool), mla_pool_destroy(pool2);
            mla_context_destroy(context);
            mla_model_destroy(t.m);
            drop();
        }
}

/* ---- every code, as a weight ------------------------------------------------------------------------------------- */
/* A model whose layers add nothing and whose embedding rows are unit vectors: its logits are columns of the head. */

static void codes_case(const char *name, const mla_tensor *head, const double *want, double relative) {
    enum { D = 19 };
    const int rows = head->rows;
    float *zero = HOLD(float, D * 8), *embed = HOLD(float, (double)rows *D), *logits = HOLD(float, 5.0 * rows);
    mla_config c = attn_config(D, 0, 1, 1, 1, 0, 1);
    mla_layer_weights layer;
    mla_weights w;
    mla_model *m;
    memset(&layer, 0, sizeof layer);
    memset(&w, 0, sizeof w);
    c.vocab_size = rows, c.intermediate_size = 1, c.kv_norm.kind = c.block_norm.kind = MLA_NORM_NONE;
    layer.attn.q.weight = layer.attn.kv_b.weight = mla_view(zero, MLA_F32, 2, 1);
    layer.attn.q.weight = mla_view(zero, MLA_F32, 1, D), layer.attn.kv_a.weight = mla_view(zero, MLA_F32, 1, D);
    layer.attn.o.weight = mla_view(zero, MLA_F32, D, 1);
    layer.mlp.gate.weight = layer.mlp.up.weight = mla_view(zero, MLA_F32, 1, D),
    layer.mlp.down.weight = mla_view(zero, MLA_F32, D, 1);
    for (int i = 0; i < D; i++) embed[i * D + i] = 1;
    w.embed = mla_view(embed, MLA_F32, rows, D), w.head = *head, w.layers = &layer;
    MUST(mla_model_create(&m, &c, &w, NULL, &error));
    FOR_ISA(isa) {
        mla_context *context = make_context(m, 5, 1, isa, MLA_ATTN_AUTO);
        mla_cache *k = make_cache(m, 5, MLA_F32, NULL);
        mla_outputs out;
        memset(&out, 0, sizeof out);
        out.logits = logits;
        for (int n = 1; n <= 5; n += 4) { /* a few tokens and many go different ways */
            int bad = 0, at = 0;
            for (int t = 0; t < D; t++) {
                int tokens[5];
                mla_sequence s = sequence(k, n);
                for (int i = 0; i < n; i++) tokens[i] = (t + i) % D;
                mla_cache_reset(k);
                MUST_IN(context, mla_model_forward(context, &s, 1, tokens, &out));
                for (int i = 0; i < n; i++)
                    for (int row = tokens[i]; row < rows; row += D) { /* row r has its code in column r % D */
                        const double got = (double)logits[(ptrdiff_t)i * rows + row];
                        const int ok = want[row] != want[row] ? got != got
                                       : isinf(want[row])     ? got == want[row]
                                                              : fabs(got - want[row]) <= relative * fabs(want[row]);
                        if (!ok && bad++ == 0) at = row;
                    }
            }
            CHECK(bad == 0, "%s, %s, %d tokens: %d wrong, the first in row %d, %g", name, mla_isa_name(isa), n, bad, at,
                  want[at]);
        }
        mla_cache_destroy(k);
        mla_context_destroy(context);
    }
    mla_model_destroy(m);
}

static void test_codes(void) {
    enum { D = 19 };
    SECTION("every code as a weight");
    for (int which = 0; which < 2; which++) {
        const mla_dtype t = which ? MLA_BF16 : MLA_F16;
        unsigned char *data = HOLD(unsigned char, 65536.0 * D * 2 + 2) + 1;
        double *want = HOLD(double, 65536);
        for (int i = 0; i < 65536; i++) {
            const uint16_t code = (uint16_t)i;
            memcpy(data + ((ptrdiff_t)i * D + i % D) * 2, &code, 2);
            want[i] = decode(t, code);
        }
        const mla_tensor head = mla_view(data, t, 65536, D);
        codes_case(mla_dtype_name(t), &head, want, 0);
        drop();
    }
    unsigned char *data = HOLD(unsigned char, 256 * 128 * D), *scales = HOLD(unsigned char, 1024);
    double *want = HOLD(double, 256 * 128);
    for (int i = 0; i < 256; i++) data[i * D + i % D] = (unsigned char)i, want[i] = decode(MLA_E4M3, (unsigned)i);
    mla_tensor head = mla_view(data, MLA_E4M3, 256, D);
    codes_case("e4m3", &head, want, 0);
    const float two[2] = {0.3f, -1.7e-3f};
    memcpy(scales + 1, two, sizeof two); /* misaligned */
    head.scale = scales + 1, head.scale_dtype = MLA_F32;
    for (int i = 0; i < 256; i++) want[i] *= (double)two[i / 128];
    codes_case("e4m3 with an f32 scale", &head, want, 1.01 * U);
    for (int i = 0; i < 256 * 128; i++)
        data[i * D + i % D] = 0x38, want[i] = decode(MLA_UE8M0, (unsigned)i / 128); /* 0x38 is 1.0 */
    for (int i = 0; i < 256; i++) scales[i] = (unsigned char)i;
    head = mla_view(data, MLA_E4M3, 256 * 128, D);
    head.scale = scales, head.scale_dtype = MLA_UE8M0;
    codes_case("e4m3 with every ue8m0 scale", &head, want, 0);
    drop();
}

/* ---- hostile values ---------------------------------------------------------------------------------------------- */

static void poison(const mla_tensor *t, float f, int at) { /* f32 tensors of ours */
    unsigned char *data = (unsigned char *)(uintptr_t)t->data;
    if (data) memcpy(data + 4 * at, &f, 4);
}

/* Runs the model and its expert layer; whatever the numbers are, calls succeed and indices are in range and
   distinct. */
static void survive(const whole *t, const char *what, float f, float in) {
    int tokens[40];
    float logits[VOCAB], x[40 * 37], y[40 * 37], weight[40 * 2];
    int index[40 * 2];
    int64_t counts[6];
    test_rng r = {1};
    for (int i = 0; i < 40; i++) tokens[i] = i;
    test_fill(&r, x, 40 * 37, 1);
    for (int i = 0; i < 40; i += 3) x[i * 37 + i % 37] = in;
    FOR_ISA(isa) FOR_PATH(path) {
        mla_context *context = make_context(t->m, 40, 1, isa, path);
        mla_cache *k = make_cache(t->m, 80, path == MLA_ATTN_NAIVE ? MLA_F16 : MLA_BF16, NULL);
        mla_sequence s = sequence(k, 40);
        mla_outputs out;
        mla_routing routing;
        int bad = 0, total = 0;
        memset(&out, 0, sizeof out);
        memset(counts, 0, sizeof counts);
        out.logits = logits, s.n_logits = 1;
        CHECK(mla_model_forward(context, &s, 1, tokens, &out) == MLA_OK, "%s %g: %s", what, (double)f,
              mla_context_error(context)->text);
        s.n_tokens = 1;
        CHECK(mla_model_forward(context, &s, 1, tokens, &out) == MLA_OK && mla_cache_length(k) == 41, "%s %g: one more",
              what, (double)f);
        routing.index = index, routing.weight = weight, routing.counts = counts;
        CHECK(mla_moe_forward(context, 1, y, x, 40, &routing) == MLA_OK, "%s %g: experts", what, (double)f);
        for (int i = 0; i < 80; i++) bad += index[i] < 0 || index[i] >= 6 || (i % 2 && index[i] == index[i - 1]);
        for (int e = 0; e < 6; e++) total += (int)counts[e];
        CHECK(bad == 0 && total == 80, "%s %g: %d experts out of range or twice, %d counted", what, (double)f, bad,
              total);
        mla_cache_destroy(k);
        mla_context_destroy(context);
    }
}

static void test_hostile_values(void) {
    const float values[] = {NAN, INFINITY, -INFINITY, FLT_MAX, 1e-42f};
    mla_config c = attn_config(37, 29, 3, 21, 11, 6, 13);
    SECTION("hostile values");
    for (int v = 0; v < 5; v++)
        for (int which = 0; which < 17; which++) {
            static const char *const names[] = {"x",     "q_a",  "q_b",  "kv_a",    "kv_b",        "o",
                                                "gate",  "up",   "down", "router",  "router_bias", "expert",
                                                "embed", "head", "norm", "kv_norm", "all of them"};
            whole t;
            make_whole(&t, K_F32, &c, 12);
            const mla_tensor tensors[] = {mla_view(NULL, MLA_F32, 0, 0),
                                          t.layers[0].attn.q_a.weight,
                                          t.layers[0].attn.q_b.weight,
                                          t.layers[0].attn.kv_a.weight,
                                          t.layers[0].attn.kv_b.weight,
                                          t.layers[0].attn.o.weight,
                                          t.layers[0].mlp.gate.weight,
                                          t.layers[0].mlp.up.weight,
                                          t.layers[0].mlp.down.weight,
                                          t.layers[1].moe.router,
                                          t.layers[1].moe.router_bias,
                                          t.layers[1].moe.experts[2].up.weight,
                                          t.w.embed,
                                          t.w.head,
                                          t.layers[1].attn_norm.weight,
                                          t.layers[0].attn.kv_norm.weight};
            for (int i = 0; i < 16; i++)
                if (i == which || which == 16) poison(&tensors[i], values[v], i % 5);
            survive(&t, names[which], values[v], which == 0 || which == 16 ? values[v] : 1);
            if (which == 10) { /* every bias */
                for (int e = 0; e < 6; e++) poison(&tensors[10], values[v], e);
                survive(&t, "all router biases", values[v], 1);
            }
            mla_model_destroy(t.m);
            drop();
        }
    /* routers of every kind on logits of every kind */
    for (int method = 0; method < 3; method++)
        for (int scoring = 0; scoring < 2; scoring++)
            for (int norm = 0; norm < 2; norm++) {
                routed t = make_router(12, 4, method ? 4 : 1, method ? 2 : 1, (mla_topk_method)method,
                                       (mla_scoring_func)scoring, norm, 1);
                float z[64 * 12], y[64 * 12];
                int index[64 * 4], bad = 0;
                mla_routing out;
                test_rng r = {21};
                memset(&out, 0, sizeof out);
                out.index = index;
                for (int pass = 0; pass < 8; pass++) {
                    for (int i = 0; i < 64 * 12; i++) z[i] = test_int(&r, 3) ? values[test_int(&r, 5)] : test_gauss(&r);
                    for (int i = 0; i < 12; i++)
                        t.bias[i] = pass % 2 ? values[test_int(&r, 5)] : pass % 4 ? -INFINITY : 0;
                    CHECK(mla_moe_forward(t.context, 0, y, z, 64, &out) == MLA_OK, "router on hostile logits");
                    for (int i = 0; i < 64 * 4; i++) {
                        bad += index[i] < 0 || index[i] >= 12;
                        for (int j = i / 4 * 4; j < i; j++) bad += index[i] == index[j];
                    }
                }
                CHECK(bad == 0, "method %d, scoring %d: %d experts out of range or twice", method, scoring, bad);
                end_router(&t);
                drop();
            }
    /* A NaN is not swallowed: tokens that see it become NaN. It does not reach another sequence of the call. */
    enum { T = 6, D = 12 };
    c = attn_config(D, 0, 2, 8, 4, 2, 3);
    mla_layer_weights layer;
    test_rng r = {3};
    float x[T * D], both[2 * T * D], y[2 * T * D], clean[2 * T * D];
    memset(&layer, 0, sizeof layer);
    layer.attn = rand_attn(&r, K_F32, &c, 0);
    mla_model *m = make_model(&c, &layer);
    test_fill(&r, x, T * D, 1);
    x[4 * D] = NAN;
    FOR_ISA(isa) FOR_PATH(path) {
        mla_context *context = make_context(m, 2 * T, 1, isa, path);
        mla_cache *k[2] = {make_cache(m, T, MLA_F32, NULL), make_cache(m, T, MLA_F32, NULL)};
        mla_sequence s[2];
        for (int pass = 0; pass < 2; pass++) {
            for (int i = 0; i < 2; i++) mla_cache_reset(k[i]), s[i] = sequence(k[i], T);
            memcpy(both, x, sizeof x), memcpy(both + T * D, x, sizeof x);
            for (int i = 0; i < 2; i++)
                if (i || !pass) both[(i * T + 4) * D] = 1;
            MUST_IN(context, mla_attn_forward(context, 0, pass ? y : clean, both, s, 2));
        }
        CHECK(same_bits(y + T * D, clean + T * D, T * D), "%s: a NaN reaches another sequence", way_name(isa, path));
        int kept = 0;
        for (int i = 4 * D; i < T * D; i++) kept += y[i] != y[i];
        CHECK(kept == 2 * D, "%s: a NaN in token 4 is lost: %d of %d answers are NaN", way_name(isa, path), kept,
              2 * D);
        for (int i = 0; i < 2; i++) mla_cache_destroy(k[i]);
        mla_context_destroy(context);
    }
    mla_model_destroy(m);
    drop();
}

/* Activations rounded to bf16 (BF16, AMX) in whole layers of BF16 weights: near the exact ones, the same for any number
   of threads, and exact for one token. */
static double distance(const float *a, const float *b, ptrdiff_t n) { /* root mean square, relative */
    double d = 0, size = 0;
    for (ptrdiff_t i = 0; i < n; i++) d += pow((double)a[i] - (double)b[i], 2), size += pow((double)b[i], 2);
    return sqrt(d / size);
}
static void rounded_case(const char *name, const mla_config *c, int moe, mla_dtype cached, mla_attn_path path,
                         mla_isa isa) {
    enum { T = 300 };
    const int D = c->hidden_size, even = !moe && c->kv_lora_rank % 32 == 0 &&
                                         c->qk_rope_head_dim % 32 == 0; /* attention itself is by tiles, too */
    const int tiles = isa == MLA_ISA_AMX && even && (path == MLA_ATTN_NAIVE || cached == MLA_BF16);
    mla_layer_weights layer;
    test_rng r = {4};
    memset(&layer, 0, sizeof layer);
    if (moe) layer.moe = rand_moe(&r, K_BF16, c, 1, 3);
    else layer.attn = rand_attn(&r, K_BF16, c, 1);
    mla_model *m = make_model(c, &layer);
    float *x = HOLD(float, T *D), *y[3];
    for (int i = 0; i < 3; i++) y[i] = HOLD(float, T *D);
    test_fill(&r, x, (size_t)(T * D), 1);
    for (int n = 1; n <= T; n += n == 1 ? 46 : n == 47 ? T - 47 : 1) {
        for (int i = 0; i < 3; i++) { /* exact, rounded, rounded by three */
            rounded = i > 0;
            mla_context *context = make_context(m, T, i == 2 ? 3 : 1, isa, path);
            mla_cache *cache = moe ? NULL : make_cache(m, T, cached, NULL);
            if (moe) MUST_IN(context, mla_moe_forward(context, 0, y[i], x, n, NULL));
            else in_chunks(context, cache, x, y[i], n, D, n);
            if (cache) mla_cache_destroy(cache);
            mla_context_destroy(context);
        }
        rounded = 0;
        const double d = distance(y[1], y[0], (ptrdiff_t)n * D);
        const int rounds = isa >= MLA_ISA_BF16 && isa <= MLA_ISA_AMX && n > 2;
        CHECK(rounds  ? d > 1e-4 && d < 1e-2
              : tiles ? d < 1e-2
                      : d == 0,
              "%s, %s, %d tokens: %g from the exact ones", name, way_name(isa, path), n, d);
        CHECK(same_bits(y[1], y[2], (ptrdiff_t)n * D), "%s, %s, %d tokens: 3 threads", name, way_name(isa, path), n);
    }
    mla_model_destroy(m);
    drop();
}
static void test_rounded(void) {
    const mla_config odd = attn_config(203, 70, 3, 96, 40, 6, 33), even = attn_config(203, 70, 3, 96, 32, 32, 64),
                     moe = moe_config(203, 150, 9, 3, 2);
    const mla_config heads = attn_config(64, 0, 40, 32, 32, 32, 32);
    SECTION("rounded activations");
    FOR_ISA(isa) {
        FOR_PATH(path) {
            rounded_case("odd dimensions", &odd, 0, MLA_F32, path, isa);
            rounded_case("odd dimensions, bf16 cache", &odd, 0, MLA_BF16, path, isa);
            rounded_case("even dimensions", &even, 0, MLA_F32, path, isa);
            rounded_case("even dimensions, bf16 cache", &even, 0, MLA_BF16, path, isa);
            rounded_case("40 heads, bf16 cache", &heads, 0, MLA_BF16, path, isa);
        }
        rounded_case("experts", &moe, 1, MLA_F32, MLA_ATTN_AUTO, isa);
    }
}

int main(void) {
    test_conversions();
    test_codes();
    test_rope();
    test_rope_layouts();
    test_router();
    test_router_cases();
    test_attention();
    test_masks();
    test_lowest_mask();
    test_long();
    test_wide();
    test_moe();
    test_model();
    test_rounded();
    test_openmp();
    test_caches();
    test_hostile_values();
    return test_end();
}
