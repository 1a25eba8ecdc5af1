/* Every kernel x dtype x instruction set at odd sizes against plain loops in double. The bounds follow from the number
   of roundings: a sum of n products in f32 is off by at most (n + 2) u sum |a b| (Higham, 2002, section 3.1), u =
   2^-24, in whatever order it is summed; one more rounding for each scale that is multiplied in. All buffers end at a
   page that may not be touched. */

#define _GNU_SOURCE /* MAP_ANONYMOUS */
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function" /* of mla.h, where MLA_API is static */
#endif
#define MLA_IMPLEMENTATION
#include "mla.h"
#include "test.h"

#include <float.h>
#include <stdlib.h>
#ifndef __wasm__
#include <sys/mman.h>
#include <unistd.h>
#endif

#define U 5.9604644775390625e-8

/* ---- buffers whose last byte is followed by a guard page --------------------------------------------------------- */

typedef struct guarded {
    unsigned char *map;
    size_t mapped;
    void *p;
} guarded;

#ifdef __wasm__ /* has no pages: there is a pattern that must still be there in the end */
enum { AFTER = 64, PATTERN = 0xa5 };
static guarded guard(size_t bytes) {
    guarded g;
    g.mapped = bytes, g.map = (unsigned char *)calloc(1, bytes + AFTER), g.p = g.map;
    if (!g.map) {
        puts("out of memory");
        exit(1);
    }
    memset(g.map + bytes, PATTERN, AFTER);
    return g;
}
static void unguard(guarded *g) {
    int same = 1;
    for (int i = 0; i < AFTER; i++) same &= g->map[g->mapped + (size_t)i] == PATTERN;
    CHECK(same, "bytes behind a buffer have changed");
    free(g->map);
}
#else
/* Those that are free again, by pages: the system takes long to map and unmap hundreds of thousands. */
enum { SPARE_PAGES = 32, SPARE = 16 };
static unsigned char *spare[SPARE_PAGES][SPARE];
static int n_spare[SPARE_PAGES];

static guarded guard(size_t bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page - 1) / page * page, pages = body / page;
    guarded g;
    g.mapped = body + page;
    if (pages < SPARE_PAGES && n_spare[pages] > 0) {
        g.map = spare[pages][--n_spare[pages]];
        g.p = (unsigned char *)memset(g.map, 0, body) + body - bytes;
        return g;
    }
    g.map = (unsigned char *)mmap(NULL, g.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g.map == MAP_FAILED || mprotect(g.map + body, page, PROT_NONE) != 0) {
        perror("mmap");
        exit(1);
    }
    g.p = g.map + body - bytes;
    return g;
}
static void unguard(guarded *g) {
    const size_t pages = g->mapped / (size_t)sysconf(_SC_PAGESIZE) - 1;
    if (pages < SPARE_PAGES && n_spare[pages] < SPARE) spare[pages][n_spare[pages]++] = g->map;
    else munmap(g->map, g->mapped);
}
#endif

static guarded guarded_floats(test_rng *r, size_t n, float deviation) {
    guarded g = guard(n * sizeof(float));
    for (size_t i = 0; i < n; i++) {
        const float f = deviation * test_gauss(r);
        memcpy((char *)g.p + i * sizeof f, &f, sizeof f);
    }
    return g;
}

/* Blocks of a format: any codes at all, but scales of sane size. */
static void random_blocks(test_rng *r, mla_dtype t, unsigned char *b, size_t n) {
    const mla__format *f = &mla__formats[t];
    for (; n > 0; n -= (size_t)f->block, b += f->bytes) {
        const uint16_t d = mla_f32_to_f16(0.02f * test_gauss(r)), min = mla_f32_to_f16(0.02f * test_gauss(r));
        for (int i = 0; i < f->bytes; i++) b[i] = (unsigned char)test_u64(r);
        switch (f->scaling) {
        case MLA__SCALING_DM:
        case MLA__SCALING_K: memcpy(b, &d, 2), memcpy(b + 2, &min, 2); break;
        case MLA__SCALING_Q2: memcpy(b + 80, &d, 2), memcpy(b + 82, &min, 2); break;
        case MLA__SCALING_Q3: memcpy(b + 108, &d, 2); break;
        case MLA__SCALING_Q6: memcpy(b + 208, &d, 2); break;
        case MLA__SCALING_MX: b[0] = (unsigned char)(118 + test_int(r, 8)); break;
        case MLA__SCALING_NV: break;
        default: memcpy(b, &d, 2);
        }
    }
}

/* Random weights: codes of every kind, but NaN. */
static guarded guarded_weights(test_rng *r, size_t n, mla_dtype t) {
    const size_t size = mla_dtype_bytes(t, 1);
    guarded g = guard(mla_dtype_bytes(t, n));
    if (mla__blocked(t)) {
        random_blocks(r, t, (unsigned char *)g.p, n);
        return g;
    }
    for (size_t i = 0; i < n; i++) {
        const float f = test_gauss(r);
        uint16_t h = t == MLA_F16 ? mla_f32_to_f16(f) : mla_f32_to_bf16(f);
        uint8_t e = (uint8_t)(test_u64(r) & 255);
        if (t == MLA_E4M3 && (e & 127) == 127) e = 0x81; /* NaN; a subnormal instead */
        memcpy((char *)g.p + i * size,
               t == MLA_F32                   ? (const void *)&f
               : t == MLA_E4M3 || t == MLA_I8 ? (const void *)&e
                                              : (const void *)&h,
               size);
    }
    return g;
}

typedef struct matrix {
    mla_tensor t;
    guarded data, scale;
    double *v;    /* [rows, cols]: what the weights are */
    double *size; /* of blocks, |code * scale| + |minimum| with the codes as they lie: what integer products add up */
} matrix;

/* How E4M3 and I8 are scaled. */
enum { SCALES_F32, SCALES_UE8M0, SCALES_SMALL, SCALES_ROW, SCALES_TENSOR, SCALES_COUNT };

static void random_scales(test_rng *r, matrix *m, int how) {
    const int rows = m->t.rows, cols = m->t.cols;
    const mla_dtype t = how == SCALES_UE8M0 ? MLA_UE8M0 : how == SCALES_SMALL ? MLA_BF16 : MLA_F32;
    int high = 128, wide = 128;
    if (how == SCALES_SMALL) m->t.scale_rows = high = 3, m->t.scale_cols = wide = 41;
    if (how == SCALES_ROW) m->t.scale_rows = high = 1, m->t.scale_cols = wide = cols;
    if (how == SCALES_TENSOR) m->t.scale_rows = high = rows, m->t.scale_cols = wide = cols;
    const size_t n = (size_t)((rows + high - 1) / high) * (size_t)((cols + wide - 1) / wide);
    m->scale = guard(n * mla_dtype_bytes(t, 1));
    for (size_t i = 0; i < n; i++) {
        const float f = 0.001f + 0.02f * test_uniform(r);
        const uint8_t e = (uint8_t)(118 + test_int(r, 5));
        if (t == MLA_UE8M0) memcpy((char *)m->scale.p + i, &e, 1);
        else mla__put(t, m->scale.p, (mla__sz)i, f);
    }
    m->t.scale = m->scale.p, m->t.scale_dtype = t;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++)
            m->v[(size_t)i * (size_t)cols + (size_t)j] *=
                (double)mla__get(t, m->scale.p, i / high * (mla__sz)((cols + wide - 1) / wide) + j / wide);
}

static matrix random_matrix(test_rng *r, mla_dtype t, int rows, int cols, int scales) {
    const mla__format *f = &mla__formats[t];
    const size_t n = (size_t)rows * (size_t)cols;
    matrix m;
    memset(&m, 0, sizeof m);
    m.data = guarded_weights(r, n, t);
    m.t = mla_view(m.data.p, t, rows, cols);
    m.v = (double *)malloc(n * sizeof *m.v), m.size = (double *)malloc(n * sizeof *m.size);
    for (size_t i = 0; i < n; i++) {
        m.v[i] = m.size[i] = (double)mla__get(t, m.data.p, (mla__sz)i);
        if (!mla__blocked(t)) continue;
        const unsigned char *b = (const unsigned char *)m.data.p + i / (size_t)f->block * (size_t)f->bytes;
        const int at = (int)(i % (size_t)f->block), lies = f->code == MLA__CODE_UINT ? f->offset : 0;
        float min;
        const float d = mla__group_scale(f, b, at / f->group, &min);
        m.size[i] = fabs((double)d * (mla__code_of(f, b, at) + lies)) + fabs((double)d * lies + (double)min);
    }
    if (t == MLA_E4M3 || t == MLA_I8) random_scales(r, &m, scales);
    return m;
}
/* The same matrix, its rows interleaved. */
static void interleave(matrix *m) {
    guarded other = guard(mla_dtype_bytes(m->t.dtype, (size_t)m->t.rows * (size_t)m->t.cols));
    CHECK(mla_repack(other.p, &m->t, NULL) == MLA_OK, "mla_repack %s [%d, %d]", mla_dtype_name(m->t.dtype), m->t.rows,
          m->t.cols);
    unguard(&m->data);
    m->data = other, m->t.data = other.p, m->t.layout = MLA_LAYOUT_X16;
}
static void free_matrix(matrix *m) {
    unguard(&m->data), free(m->v), free(m->size);
    if (m->t.scale) unguard(&m->scale);
}
static double element(const matrix *m, int row, int col) { return m->v[(mla__sz)row * m->t.cols + col]; }

static size_t panel_size(const mla__kernels *k) {
    (void)k;
    return (size_t)MLA__KC * MLA__NR_MAX * sizeof(float);
}
static float at(const void *p, mla__sz i) { return mla__get(MLA_F32, p, i); }

/* y [., n1-n0] = products with rows n0..n1 from row0 on; what x is, is up to the caller. */
static mla__product product_of(const mla__kernels *k, const guarded *y, int ldy, const mla_tensor *w, int row0, int n0,
                               int n1, const guarded *panel) {
    mla__product p;
    memset(&p, 0, sizeof p);
    p.y = (float *)y->p, p.ldy = ldy, p.w = w, p.row0 = row0, p.n0 = n0, p.n1 = n1, p.panel = (float *)panel->p;
    p.fetch = k->fetch, p.widen = k->widen[w->dtype], p.K = w->cols;
    return p;
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

/* Of a matrix some columns are used, cols of them from k0 on; it has as many as there are then. Its cuts fall between
   blocks and scales. */
static int more_columns(test_rng *r, mla_dtype t, int scales, int cols, int *k0) {
    const int scaled = t == MLA_E4M3 || t == MLA_I8, block = mla_dtype_block(t);
    const int unit = !scaled || scales == SCALES_ROW || scales == SCALES_TENSOR ? block
                     : scales == SCALES_SMALL                                   ? 41
                                                                                : 128;
    *k0 = test_int(r, 2) * unit;
    return *k0 + cols + test_int(r, 2) * block;
}

/* y [T, n0..n1) = x W^T, with rows of x picked by idx or not. */
static double check_product(const mla__kernels *k, test_rng *r, mla_dtype t, int T, int rows, int cols, int row0,
                            int scales, int x16) {
    const int n = rows - row0, n0 = n > 20 ? 16 : 0, gather = test_int(r, 2), ldx = cols + test_int(r, 3),
              ldy = n - n0 + test_int(r, 5);
    int k0;
    matrix w = random_matrix(r, t, rows, more_columns(r, t, scales, cols, &k0), scales);
    if (x16) interleave(&w);
    const mla_tensor part = mla__columns(&w.t, k0);
    guarded x = guarded_floats(r, (size_t)(T - 1) * (size_t)ldx + (size_t)cols, 1),
            y = guard(((size_t)(T - 1) * (size_t)ldy + (size_t)(n - n0)) * 4);
    guarded panel = guard(panel_size(k));
    int *idx = (int *)malloc((size_t)T * sizeof *idx);
    double worst = 0;
    for (int i = 0; i < T; i++) idx[i] = test_int(r, T);
    mla__product p = product_of(k, &y, ldy, &part, row0, n0, n, &panel);
    p.in.x = (const float *)x.p, p.in.ldx = ldx, p.in.idx = gather ? idx : NULL, p.in.T = T, p.K = cols;
    (T <= MLA__FEW ? k->dot : k->gemm)[t](&p);
    for (int i = 0; i < T; i++)
        for (int j = n0; j < n; j++) {
            double sum = 0, size = 0;
            for (int c = 0; c < cols; c++) {
                const double f =
                    (double)at(x.p, (gather ? idx[i] : i) * (mla__sz)ldx + c) * element(&w, row0 + j, k0 + c);
                sum += f, size += fabs(f);
            }
            const double err = fabs((double)at(y.p, i * (mla__sz)ldy + j - n0) - sum) / (size * (cols + 4) * U + 1e-37);
            if (!(err <= worst)) worst = err;
        }
    free(idx);
    unguard(&x), unguard(&y), unguard(&panel), free_matrix(&w);
    return worst; /* of the bound */
}

/* y [T, cols] = x [T, n] W[row0 .. row0+n, :] */
static double check_mix(const mla__kernels *k, test_rng *r, mla_dtype t, int T, int rows, int cols, int row0,
                        int scales, int x16) {
    const int n = rows - row0, ldx = n + test_int(r, 3), ldy = cols + test_int(r, 4);
    matrix w = random_matrix(r, t, rows, cols, scales);
    if (x16) interleave(&w);
    guarded x = guarded_floats(r, (size_t)(T - 1) * (size_t)ldx + (size_t)n, 1),
            y = guard(((size_t)(T - 1) * (size_t)ldy + (size_t)cols) * 4);
    guarded panel = guard(panel_size(k));
    double worst = 0;
    mla__product p = product_of(k, &y, ldy, &w.t, row0, 0, n, &panel);
    p.in.x = (const float *)x.p, p.in.ldx = ldx, p.in.T = T, p.few = T <= MLA__FEW;
    k->mix[t](&p);
    for (int i = 0; i < T; i++)
        for (int c = 0; c < cols; c++) {
            double sum = 0, size = 0;
            for (int j = 0; j < n; j++) {
                const double f = (double)at(x.p, i * (mla__sz)ldx + j) * element(&w, row0 + j, c);
                sum += f, size += fabs(f);
            }
            const double err = fabs((double)at(y.p, i * (mla__sz)ldy + c) - sum) / (size * (n + 4) * U + 1e-37);
            if (!(err <= worst)) worst = err;
        }
    unguard(&x), unguard(&y), unguard(&panel), free_matrix(&w);
    return worst;
}

/* The integer products, against the same rounded activations in double: only the sum over groups is rounded, four times
   a group. Codes are used as they lie, so that offsets and minima are large numbers that cancel. */
static double check_integer(const mla__kernels *k, test_rng *r, mla_dtype t, int T, int rows, int cols, int row0,
                            int x16) {
    const int n = rows - row0, n0 = n > 20 ? 16 : 0, gather = test_int(r, 2), groups = cols / MLA_GROUP,
              ldx = groups + test_int(r, 3);
    const int ldy = n - n0 + test_int(r, 5), sums = cols / mla__min(MLA_GROUP, mla__formats[t].group);
    int k0;
    matrix w = random_matrix(r, t, rows, more_columns(r, t, 0, cols, &k0), 0);
    if (x16) interleave(&w);
    const mla_tensor part = mla__columns(&w.t, k0);
    const size_t acts = (size_t)(T - 1) * (size_t)ldx + (size_t)groups;
    guarded q = guard(acts * sizeof(mla__act)), y = guard(((size_t)(T - 1) * (size_t)ldy + (size_t)(n - n0)) * 4);
    guarded x = guarded_floats(r, acts * MLA_GROUP, 2), panel = guard(panel_size(k));
    const mla__act *a = (const mla__act *)q.p;
    int *idx = (int *)malloc((size_t)T * sizeof *idx);
    double worst = 0;
    for (int i = 0; i < T; i++) idx[i] = test_int(r, T);
    k->quantize((mla__act *)q.p, (const float *)x.p, (mla__sz)acts * MLA_GROUP);
    mla__product p = product_of(k, &y, ldy, &part, row0, n0, n, &panel);
    p.in.q = (const unsigned char *)q.p, p.in.ldq = ldx * (mla__sz)sizeof *a, p.in.idx = gather ? idx : NULL;
    p.in.T = T, p.K = cols;
    (T <= (x16 ? k->few : MLA__FEW) ? k->idot[t][w.t.layout] : k->igemm[t])(&p);
    for (int i = 0; i < T; i++)
        for (int j = n0; j < n; j++) {
            double sum = 0, size = 0;
            for (int c = 0; c < cols; c++) {
                const mla__act *g = a + (gather ? idx[i] : i) * ldx + c / MLA_GROUP;
                const double f = (double)g->d * g->q[c % MLA_GROUP];
                sum += f * element(&w, row0 + j, k0 + c),
                    size += fabs(f) * w.size[(mla__sz)(row0 + j) * w.t.cols + k0 + c];
            }
            const double err =
                fabs((double)at(y.p, i * (mla__sz)ldy + j - n0) - sum) / (size * (sums + 12) * 4 * U + 1e-30);
            if (!(err <= worst)) worst = err;
        }
    free(idx);
    unguard(&x), unguard(&y), unguard(&q), unguard(&panel), free_matrix(&w);
    return worst;
}

/* A number as the sum of so many parts in bf16. */
static double in_parts(double v, int parts) {
    double sum = 0;
    for (int i = 0; i < parts; i++) sum += (double)mla_bf16_to_f32(mla_f32_to_bf16((float)(v - sum)));
    return sum;
}
/* Products in bf16, against activations and weights rounded likewise, in double: a sum of 32 or fewer terms a step, of
 * which the CPU rounds each; of two parts each, what is left out is at most 2^-16 of a product, and those of weights
 * that stand for f32 may round to either side. */
static double check_packed(const mla__kernels *k, test_rng *r, mla_dtype t, int T, int rows, int cols, int row0,
                           int x16, int parts) {
    const int n = rows - row0, n0 = n > 20 ? 16 : 0, ldy = n - n0 + test_int(r, 5), w_parts = t == MLA_BF16 ? 1 : parts;
    const mla__sz ldq = mla__act_bytes(parts > 1 ? MLA__ACT_SPLIT : MLA_ACT_BF16, cols);
    int k0;
    matrix w = random_matrix(r, t, rows, more_columns(r, t, 0, cols, &k0), 0);
    if (x16) interleave(&w);
    const mla_tensor part = mla__columns(&w.t, k0);
    guarded x = guarded_floats(r, (size_t)T * (size_t)cols, 2), q = guard((size_t)mla__up_to(T, 16) * (size_t)ldq);
    guarded y = guard(((size_t)(T - 1) * (size_t)ldy + (size_t)(n - n0)) * 4), panel = guard(panel_size(k));
    double worst = 0;
    memset(q.p, 0, (size_t)mla__up_to(T, 16) * (size_t)ldq);
    for (int i = 0; i < T; i++)
        k->split((uint16_t *)(void *)((char *)q.p + i * ldq), (const float *)x.p + i * cols, cols, parts);
    mla__product p = product_of(k, &y, ldy, &part, row0, n0, n, &panel);
    p.in.q = (const unsigned char *)q.p, p.in.ldq = ldq, p.in.T = T, p.in.parts = p.in.w_parts = parts, p.K = cols;
    k->bgemm(&p);
    for (int i = 0; i < T; i++)
        for (int j = n0; j < n; j++) {
            double sum = 0, size = 0, lost = 0;
            for (int c = 0; c < cols; c++) {
                const double f = in_parts((double)at(x.p, i * (mla__sz)cols + c), parts),
                             e = element(&w, row0 + j, k0 + c);
                const double v = in_parts(e, w_parts);
                sum += f * v, size += fabs(f * v);
                /* what the weight's f32 is may be an ulp off, which moves its bf16 to a neighbour */
                const double own = fabs(f * w.size[(mla__sz)(row0 + j) * w.t.cols + k0 + c]);
                lost += (t == MLA_BF16 ? 0 : own / (parts > 1 ? 65536 : 256)) + (parts > 1 ? fabs(f * v) / 65536 : 0);
            }
            const double err =
                fabs((double)at(y.p, i * (mla__sz)ldy + j - n0) - sum) / (size * (cols + 4) * U + lost + 1e-30);
            if (!(err <= worst)) worst = err;
        }
    unguard(&x), unguard(&y), unguard(&q), unguard(&panel), free_matrix(&w);
    return worst;
}

/* Activations: the int8 codes are the nearest, |x - d q| <= d/2 (and a little), the sums are right; NaN and infinity
 * spoil their group alone. */
static void test_quantize(const mla__kernels *k) {
    test_rng r = {9};
    for (int n = MLA_GROUP; n <= 5 * MLA_GROUP; n += MLA_GROUP) {
        guarded x = guarded_floats(&r, (size_t)n, n == 64 ? 1e-3f : 5),
                q = guard((size_t)(n / MLA_GROUP) * sizeof(mla__act));
        const mla__act *a = (const mla__act *)q.p;
        double worst = 0, sums = 0;
        k->quantize((mla__act *)q.p, (const float *)x.p, n);
        for (int g = 0; g < n / MLA_GROUP; g++) {
            int sum = 0, half[2] = {0, 0}, top = 0;
            for (int i = 0; i < MLA_GROUP; i++) {
                sum += a[g].q[i], half[i / 16] += a[g].q[i];
                top = abs(a[g].q[i]) > top ? abs(a[g].q[i]) : top;
                worst =
                    fmax(worst, fabs((double)at(x.p, g * MLA_GROUP + i) - (double)a[g].d * a[g].q[i]) / (double)a[g].d);
            }
            CHECK(top == 127, "%s quantize: the largest code is %d", mla_isa_name(k->isa), top);
            sums = fmax(sums, fabs((double)a[g].d * sum - (double)a[g].sum) / ((double)a[g].d * (abs(sum) + 1)));
            for (int i = 0; i < 2; i++)
                sums = fmax(sums, fabs((double)a[g].d * half[i] - (double)a[g].half[i]) /
                                      ((double)a[g].d * (abs(half[i]) + 1)));
        }
        CHECK(worst <= 0.5 + 1e-4 && sums <= 1e-6, "%s quantize: off by %g d, sums by %g", mla_isa_name(k->isa), worst,
              sums);
        unguard(&x), unguard(&q);
    }
    float x[3 * MLA_GROUP];
    mla__act a[3];
    memset(x, 0, sizeof x);
    x[MLA_GROUP + 5] = NAN, x[2 * MLA_GROUP] = -INFINITY;
    k->quantize(a, x, 3 * MLA_GROUP);
    CHECK(a[0].d == 0 && a[0].q[7] == 0, "%s quantize: a group of zeros", mla_isa_name(k->isa));
    CHECK(a[1].d != a[1].d && a[2].d != a[2].d, "%s quantize: NaN and infinity are kept", mla_isa_name(k->isa));
}

/* What is left of x [32] for the codes round(x by + start) within least .. most, by the best d (and min, if start is not
   0) for them: sum (x - d q + min)^2. The larger of two, by turned up and down a little: f32 rounds ties to either side. */
static double left_by(const float *x, double by, double start, double least, double most) {
    double worst = 0;
    for (int side = -1; side <= 1; side += 2) {
        double q[MLA_GROUP], sq = 0, qq = 0, xq = 0, sx = 0, left = 0;
        for (int i = 0; i < MLA_GROUP; i++) {
            q[i] = fmin(fmax(rint((double)x[i] * by * (1 + side * 1e-6) + start), least), most);
            sq += q[i], qq += q[i] * q[i], xq += (double)x[i] * q[i], sx += (double)x[i];
        }
        const double det = MLA_GROUP * qq - sq * sq;
        const double min = start != 0 && det > 0 ? fmax((sq * xq - qq * sx) / det, 0) : 0, d = (xq + min * sq) / qq;
        for (int i = 0; i < MLA_GROUP; i++) left += pow((double)x[i] - d * q[i] + min, 2);
        worst = fmax(worst, left);
    }
    return worst;
}
/* The same for a d and a min, by the codes that are nearest. */
static double left_of(const float *x, double d, double min, double least, double most) {
    double left = 0;
    for (int i = 0; i < MLA_GROUP; i++) {
        const double q = fmin(fmax(rint(((double)x[i] + min) / d), least), most);
        left += pow((double)x[i] - d * q + min, 2);
    }
    return left;
}
/* Scales of q4 are as good as the best of 48: the largest x becomes 6.5, 6.625, .. 9.375 or the same below 0. */
static void test_q4_scale(const mla__kernels *k) {
    test_rng r = {10};
    int worse = 0;
    for (int trial = 0; trial < 1000; trial++) {
        float x[MLA_GROUP], largest = 0;
        double best = INFINITY, xx = 0;
        for (int i = 0; i < MLA_GROUP; i++) {
            x[i] = test_gauss(&r) * (trial % 3 || i % 8 ? 1 : 3), xx += (double)x[i] * (double)x[i];
            if (fabsf(x[i]) > fabsf(largest)) largest = x[i];
        }
        for (int j = 0; j < 48; j++)
            best = fmin(best, left_by(x, (6.5 + j % 24 / 8.0) * (j < 24 ? -1 : 1) / (double)largest, 0, -8, 7));
        worse += !(left_of(x, (double)k->q4_scale(x), 0, -8, 7) <= best + 1e-5 * xx);
    }
    CHECK(worse == 0, "%s: %d groups of q4 have a scale that is not the best", mla_isa_name(k->isa), worse);
}
/* And those of formats with a minimum: the range of x, or a little more or less, is that of the codes. */
static void test_search_range(void) {
    test_rng r = {12};
    int worse = 0;
    SECTION("scales and minima");
    for (int trial = 0; trial < 1000; trial++) {
        const int most = trial % 2 ? 15 : 31;
        float x[MLA_GROUP], low = 0, high = -INFINITY, min;
        double best = INFINITY, xx = 0;
        for (int i = 0; i < MLA_GROUP; i++) {
            x[i] = test_gauss(&r) + (float)(trial % 5 - 1), xx += (double)x[i] * (double)x[i];
            low = fminf(low, x[i]), high = fmaxf(high, x[i]);
        }
        for (int step = -5; step <= 15; step++) {
            const double by = (most + 0.1 * step) / ((double)high - (double)low);
            best = fmin(best, left_by(x, by, -(double)low * by, 0, most));
        }
        const double d = (double)mla__search_range_any(x, most, &min);
        worse += !(left_of(x, d, (double)min, 0, most) <= best + 1e-5 * xx);
    }
    CHECK(worse == 0, "%d groups have a scale and a minimum that are not the best", worse);
}

static void test_products(const mla__kernels *k, mla_dtype t) {
    static const int sizes[][4] = {
        /* T, rows, cols, row0 */
        {1, 1, 1, 0},       {1, 7, 5, 0},       {1, 33, 64, 3},    {1, 40, 257, 0}, {2, 3, 17, 0},    {2, 50, 136, 7},
        {3, 16, 16, 0},     {3, 65, 31, 1},     {4, 18, 130, 0},   {5, 20, 300, 2}, {6, 16, 256, 0},  {7, 47, 257, 0},
        {8, 1, 33, 0},      {13, 129, 140, 0},  {6, 200, 513, 71}, {17, 35, 1, 0},  {300, 37, 40, 5}, {257, 16, 264, 0},
        {1, 150, 384, 130}, {2, 300, 129, 127}, {8, 52, 4000, 1},  {9, 51, 4000, 0}};
    test_rng r = {17u + (uint64_t)t};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int scales = 0; scales < (t == MLA_E4M3 || t == MLA_I8 ? SCALES_COUNT : 1); scales++)
            for (int x16 = 0; x16 <= (mla__blocked(t) && mla__interleaves(t)); x16++) {
                if (!test_all() && (i + t + (size_t)scales + (size_t)x16) % 2) continue; /* of the dtypes by turns */
                const int T = sizes[i][0], rows = x16 ? mla__up_to(sizes[i][1], 16) : sizes[i][1],
                          cols = mla__up_to(sizes[i][2], mla_dtype_block(t)), row0 = sizes[i][3];
                char what[160];
                double e = check_product(k, &r, t, T, rows, cols, row0, scales, x16);
                snprintf(what, sizeof what, "T %d rows %d cols %d row0 %d scales %d", T, rows, cols, row0, scales);
                CHECK(e <= 1, "%s %s%s product %s: %.3g of the bound", mla_isa_name(k->isa), mla_dtype_name(t),
                      x16 ? "x16" : "", what, e);
                if (mla__blocked(t)) { /* interleaved, 16 rows at a time */
                    e = check_integer(k, &r, t, T, rows, cols, x16 ? row0 / 16 * 16 : row0, x16);
                    CHECK(e <= 1, "%s %s%s integer product %s: %.3g of the bound", mla_isa_name(k->isa),
                          mla_dtype_name(t), x16 ? "x16" : "", what, e);
                }
                for (int parts = 1; k->bgemm && scales == 0 && parts <= 2; parts++) {
                    e = check_packed(k, &r, t, T, rows, cols, x16 ? row0 / 16 * 16 : row0, x16, parts);
                    CHECK(e <= 1, "%s %s%s product in %d parts of bf16 %s: %.3g of the bound", mla_isa_name(k->isa),
                          mla_dtype_name(t), x16 ? "x16" : "", parts, what, e);
                }
                e = check_mix(k, &r, t, T, rows, cols, row0, scales, x16);
                CHECK(e <= 1, "%s %s%s mix %s: %.3g of the bound", mla_isa_name(k->isa), mla_dtype_name(t),
                      x16 ? "x16" : "", what, e);
            }
}

/* A NaN code reaches the results of its row and of no other. */
static void test_nan(const mla__kernels *k, mla_dtype t) {
    float panel[MLA__KC * MLA__NR_MAX], x[8 * 40], y[8 * 20];
    unsigned char w[20 * 40 * 4];
    const size_t size = mla_dtype_bytes(t, 1);
    const unsigned char nan_e4m3 = 0xff;
    const uint16_t nan_f16 = 0x7e01, nan_bf16 = 0x7fc1;
    const float nan_f32 = NAN;
    for (int i = 0; i < 8 * 40; i++) x[i] = 1;
    memset(w, 0, sizeof w);
    memcpy(w + (7 * 40 + 21) * size,
           t == MLA_F32    ? (const void *)&nan_f32
           : t == MLA_F16  ? (const void *)&nan_f16
           : t == MLA_BF16 ? (const void *)&nan_bf16
                           : (const void *)&nan_e4m3,
           size);
    const mla_tensor m = mla_view(w, t, 20, 40);
    for (int T = 1; T <= 8; T += 7) {
        int right = 1;
        mla__product p;
        memset(&p, 0, sizeof p);
        p.y = y, p.ldy = 20, p.in.x = x, p.in.ldx = 40, p.in.T = T, p.w = &m, p.n1 = 20, p.panel = panel;
        p.fetch = k->fetch, p.widen = k->widen[t], p.K = 40;
        (T <= MLA__FEW ? k->dot : k->gemm)[t](&p);
        for (int i = 0; i < T; i++)
            for (int n = 0; n < 20; n++) right &= n == 7 ? y[i * 20 + n] != y[i * 20 + n] : y[i * 20 + n] == 0;
        CHECK(right, "%s %s: a NaN weight, T %d", mla_isa_name(k->isa), mla_dtype_name(t), T);
    }
}

/* ---- an indexer's first glance ----------------------------------------------------------------------------------- */

/* sum_h w(h) relu(q(h) k) of n keys, off by no more than an indexer takes it for: each vector by half a unit of each
   channel (and a little more in f32), sums by 2^-24 for each addition. */
static void check_glance(const mla__kernels *k, test_rng *r, mla_dtype t, int panels, int d, int n) {
    const int nl = k->nl, heads = panels * nl;
    const mla__sz bytes = mla__bytes(t, d);
    guarded q = guarded_floats(r, (size_t)(heads * d), 1), x = guarded_floats(r, (size_t)(n * d), 2),
            w = guarded_floats(r, (size_t)heads, 1), keys = guard((size_t)(n * bytes)), wide[2],
            score = guard((size_t)n * 4), scale = guard((size_t)n * 4), of[3];
    float *key = (float *)malloc((size_t)d * sizeof *key);
    const double by = 0.53 * sqrt(d), length = 1.001 * (double)MLA__GLANCE + by,
                 error = by * (2 * length + by) + length * length * (d + 2.0 * heads + 32) / (1 << 23);
    double worst = 0;
    wide[0] = guard((size_t)(MLA__GLANCE_KEYS * d) * 4), wide[1] = guard((size_t)(MLA__GLANCE_KEYS * d) * 2);
    of[0] = guard((size_t)(heads * d) * 2), of[1] = guard((size_t)heads * 4), of[2] = guard((size_t)heads * 4);
    mla__glance g = {(int16_t *)of[0].p,
                     (float *)of[1].p,
                     (float *)of[2].p,
                     (int16_t *)wide[1].p,
                     (float *)wide[0].p,
                     k->widen[t],
                     bytes};
    const mla__visit visit = {keys.p, NULL, keys.p, d, 0, d, 0, 0, n, NULL, NULL};
    mla__narrow(t, keys.p, (const float *)x.p, n * (mla__sz)d);
    for (int p = 0; p < panels; p++) k->glance_lanes(&g, p, (const float *)q.p + p * nl * d, d);
    for (int h = 0; h < heads; h++) g.weight[h] = at(w.p, h) * g.scale[h];
    k->glance((float *)score.p, (float *)scale.p, &g, panels, &visit);
    for (int u = 0; u < n; u++) {
        double sum = 0, off = 0;
        for (int i = 0; i < d; i++) key[i] = mla__value(t, (const char *)keys.p + u * bytes, i);
        for (int h = 0; h < heads; h++) {
            double dot = 0;
            for (int i = 0; i < d; i++) dot += (double)at(q.p, (h / nl * d + i) * nl + h % nl) * (double)key[i];
            sum += (double)at(w.p, h) * fmax(dot, 0), off += fabs((double)g.weight[h]) * error;
        }
        const double e = fabs((double)at(score.p, u) - sum) / (off * (double)at(scale.p, u));
        if (!(e <= worst)) worst = e;
    }
    CHECK(worst <= 1, "%s, %d keys of %d in %s, %d heads: %.3g of the bound", mla_isa_name(k->isa), n, d,
          mla_dtype_name(t), heads, worst);
    free(key);
    unguard(&q), unguard(&x), unguard(&w), unguard(&keys), unguard(&score), unguard(&scale);
    for (int i = 0; i < 2; i++) unguard(&wide[i]);
    for (int i = 0; i < 3; i++) unguard(&of[i]);
}
static void test_glance(const mla__kernels *k) {
    static const mla_dtype dtypes[] = {MLA_F32, MLA_F16, MLA_BF16, MLA_Q8};
    test_rng r = {13};
    for (int i = 0; k->glance && i < 4; i++)
        for (int n = 1; n <= 64; n += n < 14 ? 1 : 25)
            check_glance(k, &r, dtypes[i], n % 2 ? 2 : 4, n % 3 ? 128 : 32, n);
}

/* ---- conversions of rows ----------------------------------------------------------------------------------------- */

static void test_rows(const mla__kernels *k) {
    test_rng r = {5};
    for (int t = MLA_F32; t < MLA_UE8M0; t++)
        for (int i = 1; i <= 70; i += i < 20 ? 1 : 7) {
            const int n = i * mla_dtype_block((mla_dtype)t);
            guarded x = guarded_weights(&r, (size_t)n, (mla_dtype)t), y = guard((size_t)n * 4);
            int same = 1;
            k->widen[t]((float *)y.p, x.p, n);
            for (int j = 0; j < n; j++) same &= mla__bits(at(y.p, j)) == mla__bits(mla__get((mla_dtype)t, x.p, j));
            CHECK(same, "%s widen %s n %d", mla_isa_name(k->isa), mla_dtype_name((mla_dtype)t), n);
            unguard(&x), unguard(&y);
        }
    /* every 16-bit and 8-bit code, NaN included, and narrowing back */
    for (int t = MLA_F16; t <= MLA_E4M3; t++) {
        const int n = t == MLA_E4M3 ? 256 : 65536;
        unsigned char *codes = (unsigned char *)malloc(65536 * 2), *back = (unsigned char *)malloc(65536 * 2);
        float *y = (float *)malloc(65536 * sizeof *y);
        int wide = 1, narrow = 1;
        for (int i = 0; i < n; i++) {
            const uint16_t h = (uint16_t)i;
            if (t == MLA_E4M3) codes[i] = (unsigned char)i;
            else memcpy(codes + 2 * i, &h, 2);
        }
        k->widen[t](y, codes, n);
        for (int i = 0; i < n; i++) {
            const float f = mla__get((mla_dtype)t, codes, i);
            wide &= f != f ? y[i] != y[i] : mla__bits(f) == mla__bits(y[i]);
        }
        CHECK(wide, "%s widen: all codes of %s", mla_isa_name(k->isa), mla_dtype_name((mla_dtype)t));
        if (t != MLA_E4M3) {
            k->narrow[t](back, y, n);
            for (int i = 0; i < n; i++) {
                const float f = mla__get((mla_dtype)t, back, i);
                narrow &= y[i] != y[i] ? f != f : memcmp(back + 2 * i, codes + 2 * i, 2) == 0;
            }
            CHECK(narrow, "%s narrow: all codes of %s come back", mla_isa_name(k->isa), mla_dtype_name((mla_dtype)t));
        }
        free(codes), free(back), free(y);
    }
    for (int t = MLA_F32; t <= MLA_BF16; t++)
        for (int n = 1; n <= 40; n++) { /* rounding: any bits at all */
            const size_t size = mla_dtype_bytes((mla_dtype)t, 1);
            guarded x = guard((size_t)n * 4), y = guard((size_t)n * size), want = guard((size_t)n * size);
            int same = 1;
            for (int i = 0; i < n; i++) {
                uint32_t u = (uint32_t)test_u64(&r);
                if (test_int(&r, 2))
                    u = (u & 0x800fffffu) | (uint32_t)(100 + test_int(&r, 45)) << 23; /* about the range of f16 */
                if (test_int(&r, 4) == 0) u = (u & 0xfffff000u) | (t == MLA_F16 ? 0x1000u : 0x8000u); /* ties */
                memcpy((char *)x.p + 4 * i, &u, 4);
                mla__put((mla_dtype)t, want.p, i, at(x.p, i));
            }
            k->narrow[t](y.p, (const float *)x.p, n);
            for (int i = 0; i < n; i++) {
                const float f = mla__get((mla_dtype)t, want.p, i), g = mla__get((mla_dtype)t, y.p, i);
                same &= f != f ? g != g : mla__bits(f) == mla__bits(g);
            }
            CHECK(same, "%s narrow %s n %d", mla_isa_name(k->isa), mla_dtype_name((mla_dtype)t), n);
            unguard(&x), unguard(&y), unguard(&want);
        }
}

static void test_swiglu(const mla__kernels *k) {
    test_rng r = {6};
    for (int n = 1; n <= 60; n++) {
        guarded g = guarded_floats(&r, (size_t)n, n % 3 == 0 ? 60 : 3), u = guarded_floats(&r, (size_t)n, 1),
                h = guard((size_t)n * 4);
        double worst = 0;
        k->swiglu((float *)h.p, (const float *)g.p, (const float *)u.p, n);
        for (int i = 0; i < n; i++) {
            const double x = (double)at(g.p, i), want = x / (1 + exp(-x)) * (double)at(u.p, i);
            const double err =
                fabs((double)at(h.p, i) - want) / (8 * U * fabs(want) + 1e-35); /* exp 2 ulp = 4u, four roundings */
            if (!(err <= worst)) worst = err;
        }
        CHECK(worst <= 1, "%s swiglu n %d: %.3g of the bound", mla_isa_name(k->isa), n, worst);
        unguard(&g), unguard(&u), unguard(&h);
    }
    float big[8] = {-INFINITY, -200, -88.5f, 200, 0, -0.0f, 1e30f, -1e30f}, one[8] = {1, 1, 1, 1, 1, 1, 1, 1}, out[8];
    k->swiglu(out, big, one, 8);
    CHECK(out[1] == 0 || fabsf(out[1]) < 1e-35f, "swiglu(-200) = %g", (double)out[1]);
    CHECK(out[3] == 200 && out[6] == 1e30f && out[4] == 0, "swiglu of large numbers: %g %g", (double)out[3],
          (double)out[6]);
    CHECK(fabsf(out[7]) < 1e-3f, "swiglu(-1e30) = %g", (double)out[7]);
}
/* Bound: x - max is off by half an ulp, which e takes |x - max| times; exp 4 u, the quotient one. */
static void test_probs(const mla__kernels *k) {
    test_rng r = {9};
    for (int n = 1; n <= 60; n++) {
        guarded p = guarded_floats(&r, (size_t)n, n % 3 == 0 ? 60 : 3);
        const float max = 7 * test_uniform(&r), sum = 1 + test_uniform(&r);
        double worst = 0, *x = (double *)malloc((size_t)n * sizeof *x);
        if (!x) abort();
        if (n > 2) memcpy(p.p, &(float){-INFINITY}, 4);
        for (int i = 0; i < n; i++) x[i] = (double)at(p.p, i) - (double)max;
        for (int i = 0; i < n; i++)
            if (x[i] > 80) memcpy((char *)p.p + 4 * i, &max, 4), x[i] = 0;
        k->probs((float *)p.p, max, sum, n);
        for (int i = 0; i < n; i++) {
            const double want = exp(x[i]) / (double)sum;
            const double few = want > 0 ? (6 + fabs(x[i])) * U * want : 0, err = fabs((double)at(p.p, i) - want);
            if (!(err <= worst * (few + 1e-37))) worst = err / (few + 1e-37);
        }
        CHECK(worst <= 1, "%s probs n %d: %.3g of the bound", mla_isa_name(k->isa), n, worst);
        unguard(&p), free(x);
    }
}
/* Sums of squares for which floats have no room, too; weights of every type that norms may have. */
static void test_norm(const mla__kernels *k) {
    static const float sizes[] = {1, 1e25f, 1e-20f};
    static const mla_dtype types[] = {MLA_F32, MLA_F16, MLA_BF16};
    test_rng r = {7};
    for (int i = 0; i < 9 * 71; i++) {
        const int n = i / 9 < 70 ? i / 9 + 1 : 1500;
        const mla_dtype t = types[i % 3];
        guarded x = guarded_floats(&r, (size_t)n, sizes[i / 3 % 3]), w = guard(mla_dtype_bytes(t, (size_t)n)),
                y = guard((size_t)n * 4);
        double sum = 0, worst = 0;
        for (int j = 0; j < n; j++)
            mla__put(t, w.p, j, test_uniform(&r)), sum += (double)at(x.p, j) * (double)at(x.p, j);
        k->norm((float *)y.p, (const float *)x.p, 0, t, w.p, n);
        k->accumulate((float *)x.p, (const float *)y.p, 0, n); /* stays */
        for (int j = 0; j < n; j++) {
            const double want = (double)at(x.p, j) / sqrt(sum / n) * (double)mla__get(t, w.p, j);
            const double err = fabs((double)at(y.p, j) - want) / (8 * U * fabs(want) + 1e-35);
            if (!(err <= worst)) worst = err;
        }
        CHECK(worst <= 1, "%s norm of %d, %s, numbers of %g: %.3g of the bound", mla_isa_name(k->isa), n,
              mla_dtype_name(t), (double)sizes[i / 3 % 3], worst);
        unguard(&x), unguard(&w), unguard(&y);
    }
}
static void test_accumulate(const mla__kernels *k) {
    test_rng r = {8};
    for (int n = 1; n <= 70; n++) {
        guarded x = guarded_floats(&r, (size_t)n, 1), y = guarded_floats(&r, (size_t)n, 1);
        const float by = test_uniform(&r);
        int other = 0;
        float *want = (float *)malloc((size_t)n * sizeof *want);
        if (!want) abort();
        for (int i = 0; i < n; i++) {
            const float more = by * at(x.p, i);
            want[i] = at(y.p, i) + more;
        }
        k->accumulate((float *)y.p, (const float *)x.p, by, n);
        for (int i = 0; i < n; i++) other += want[i] != at(y.p, i);
        CHECK(other == 0, "%s accumulate of %d: %d other than in plain C", mla_isa_name(k->isa), n, other);
        unguard(&x), unguard(&y), free(want);
    }
}

/* ---- attention over blocks of keys ------------------------------------------------------------------------------- */

/* Scores carry an error of d = (dk + 2) u sum |q k|; probabilities thus one of about 2 d plus the rounding of exp and
 * of the sums. */
static void check_attend(const mla__kernels *k, test_rng *r, mla_dtype t, int n, int keys, int block, int dk, int dv,
                         int masked, int causal, int tiles) {
    const int nr = k->nl, ldk = dk + test_int(r, 4), ldv = (dv + MLA__NR_MAX - 1) / MLA__NR_MAX * MLA__NR_MAX;
    guarded K = guarded_weights(r, (size_t)keys * (size_t)ldk, t),
            V = guarded_weights(r, (size_t)keys * (size_t)ldv, t);
    guarded wide = guard((size_t)mla__max(MLA__AR_MAX * MLA__AK, 8 * dk) * 4);
    guarded q = guarded_floats(r, (size_t)dk * (size_t)nr, 0.5f), o = guard((size_t)nr * (size_t)dv * 4),
            m = guard((size_t)nr * 4), l = guard((size_t)nr * 4);
    guarded limit = guard((size_t)nr * 4), s = guard((size_t)(block < 16 ? 16 : block) * (size_t)nr * 4);
    float *q0 = (float *)malloc((size_t)dk * (size_t)nr * sizeof *q0); /* tiles pack q in its place */
    memcpy(q0, q.p, (size_t)dk * (size_t)nr * sizeof *q0);
    float *mask = (float *)malloc((size_t)nr * (size_t)keys * sizeof *mask),
          *probs = (float *)malloc((size_t)nr * (size_t)keys * sizeof *probs);
    mla__lanes a;
    double worst = 0;
    memset(&a, 0, sizeof a);
    a.q = (float *)q.p, a.o = (float *)o.p, a.m = (float *)m.p, a.l = (float *)l.p, a.limit = (int *)limit.p, a.n = n;
    for (int i = 0; i < nr; i++) {
        const int lim = causal ? mla__min(keys - 1, test_int(r, keys)) : keys - 1;
        const float none = -INFINITY, zero = 0;
        memcpy((char *)limit.p + 4 * i, &lim, 4), memcpy((char *)m.p + 4 * i, &none, 4),
            memcpy((char *)l.p + 4 * i, &zero, 4);
        for (int u = 0; u < keys; u++) mask[i * keys + u] = test_int(r, 4) == 0 ? -INFINITY : test_gauss(r);
        if (masked && i == 0)
            for (int u = 0; u < keys; u++) mask[u] = -INFINITY; /* a lane that sees nothing */
        if (masked) a.mask[i] = mask + i * keys;
        a.probs[i] = probs + i * keys;
    }
    for (int u0 = 0; u0 < keys; u0 += block) {
        mla__visit visit;
        visit.k = (const char *)K.p + mla__bytes(t, u0 * (mla__sz)ldk), visit.ldk = ldk, visit.dk = dk,
        visit.ahead = visit.k;
        visit.v = (const char *)V.p + mla__bytes(t, u0 * (mla__sz)ldv), visit.ldv = ldv, visit.dv = dv;
        visit.u0 = u0, visit.nu = mla__min(block, keys - u0), visit.s = (float *)s.p, visit.wide = (float *)wide.p;
        (tiles ? k->attend_tiles : k->attend[t])(&a, 1, &visit);
    }
    for (int i = 0; i < n; i++) {
        double *sc = (double *)malloc((size_t)keys * sizeof *sc), max = -INFINITY, sum = 0, d = 0;
        for (int u = 0; u < keys; u++) {
            double z = 0, size = 0;
            for (int c = 0; c < dk; c++) {
                const double p = (double)q0[(mla__sz)c * nr + i] * (double)mla__get(t, K.p, (mla__sz)u * ldk + c);
                z += p, size += fabs(p);
            }
            if (masked)
                z += (double)mask[i * keys + u],
                    size += mask[i * keys + u] > -1e30f ? fabs((double)mask[i * keys + u]) : 0;
            sc[u] = u <= a.limit[i] ? z : -INFINITY;
            d = fmax(d, ((dk + 3) * U + (tiles ? 1.0 / 512 : 0)) * size);
            max = fmax(max, sc[u]);
        }
        for (int u = 0; u < keys; u++) sum += sc[u] = max > -1e300 ? exp(sc[u] - max) : 0;
        for (int c = 0; c < dv; c++) {
            double want = 0, size = 0;
            for (int u = 0; u < keys && sum > 0; u++)
                want += sc[u] / sum * (double)mla__get(t, V.p, (mla__sz)u * ldv + c),
                    size += sc[u] / sum * fabs((double)mla__get(t, V.p, (mla__sz)u * ldv + c));
            const double got = a.l[i] > 0 ? (double)at(o.p, (mla__sz)i * dv + c) / (double)a.l[i] : 0;
            const double blocks = (keys + block - 1) / block,
                         bound = size * (2 * d + (2.0 * keys + 12 + 8 * blocks) * U + (tiles ? 1.0 / 512 : 0)) + 1e-30;
            if (!(fabs(got - want) / bound <= worst)) worst = fabs(got - want) / bound;
        }
        CHECK((sum > 0) == (a.l[i] > 0), "lane %d sees %s", i, sum > 0 ? "keys" : "nothing");
        free(sc);
    }
    CHECK(worst <= 1, "%s attend%s %s n %d keys %d block %d dk %d dv %d mask %d causal %d: %.3g of the bound",
          mla_isa_name(k->isa), tiles ? " by tiles" : "", mla_dtype_name(t), n, keys, block, dk, dv, masked, causal,
          worst);
    free(mask), free(probs), free(q0);
    unguard(&K), unguard(&V), unguard(&q), unguard(&o), unguard(&m), unguard(&l), unguard(&limit), unguard(&s),
        unguard(&wide);
}

static void test_attend(const mla__kernels *k) {
    test_rng r = {7};
    static const int sizes[][4] = {{1, 1, 1, 1},       {5, 64, 24, 20}, {33, 64, 40, 33},  {200, 64, 48, 32},
                                   {129, 128, 17, 65}, {64, 7, 9, 16},  {90, 64, 576, 48}, {40, 24, 401, 64}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int masked = 0; masked < 2; masked++)
            for (int causal = 0; causal < 2; causal++)
                for (int n = 1; n <= k->nl; n += k->nl > 4 && n < k->nl - 5 ? 5 : 1)
                    for (int t = MLA_F32; t <= MLA_BF16; t++)
                        if (test_all() || (n + t + masked + causal) % 2)
                            check_attend(k, &r, (mla_dtype)t, n, sizes[i][0], sizes[i][1], sizes[i][2], sizes[i][3],
                                         masked, causal, 0);
    static const int even[][4] = {{1, 64, 32, 32},    {5, 64, 64, 96}, {33, 64, 96, 32},    {200, 64, 64, 64},
                                  {129, 128, 32, 96}, {64, 7, 32, 32}, {200, 128, 192, 128}};
    for (size_t i = 0; k->attend_tiles && i < sizeof even / sizeof *even; i++)
        for (int masked = 0; masked < 2; masked++)
            for (int causal = 0; causal < 2; causal++)
                for (int n = 1; n <= k->nl; n += 5)
                    check_attend(k, &r, MLA_BF16, n, even[i][0], even[i][1], even[i][2], even[i][3], masked, causal, 1);
}

/* ---- activations in e4m3 ----------------------------------------------------------------------------------------- */

/* As DeepSeek's act_quant writes it: blocks of 128, s = largest/448, y = e4m3(x/s) s. Of mla.h nothing. */
static void plain_act_quant(double *y, const float *x, int n) {
    for (int b = 0; b < n; b += 128) {
        const int end = n - b < 128 ? n : b + 128;
        float amax = 0;
        for (int i = b; i < end; i++) amax = fmaxf(amax, fabsf(x[i]));
        const float s = amax / 448;
        for (int i = b; i < end; i++) {
            const double v = s >= FLT_MIN ? (double)(x[i] / s) : 0;
            int e = 0;
            if (v != 0) frexp(v, &e);
            const double unit = ldexp(1, (e - 1 < -6 ? -6 : e - 1) - 3);
            y[i] = fmin(fmax(rint(v / unit) * unit, -448), 448) * (double)s;
        }
    }
}

/* gate and up of a dense layer meet T rows of x, some picked twice: each by itself, and as one SwiGLU. */
static void check_fp8(mla_isa isa, test_rng *r, int T, int rows, int cols, int scales) {
    matrix gate = random_matrix(r, MLA_E4M3, rows, cols, scales), up = random_matrix(r, MLA_E4M3, rows, cols, 0);
    guarded x = guarded_floats(r, (size_t)T * (size_t)cols, 1), y[3];
    double *q = (double *)malloc((size_t)(T * cols) * sizeof *q), worst = 0;
    int *idx = (int *)malloc((size_t)T * sizeof *idx);
    mla_config c;
    mla_layer_weights layer;
    mla_weights w;
    mla_model *m;
    mla_context *k;
    mla_context_desc d;
    mla_error err;
    mla__job *jobs[3];
    memset(&c, 0, sizeof c), memset(&layer, 0, sizeof layer), memset(&w, 0, sizeof w), memset(&d, 0, sizeof d);
    c.hidden_size = cols, c.num_hidden_layers = 1, c.intermediate_size = rows, w.layers = &layer;
    layer.mlp.gate.weight = gate.t, layer.mlp.up.weight = up.t;
    layer.mlp.down.weight = mla_view(x.p, MLA_F32, cols, rows); /* not used */
    d.max_tokens = T, d.threads = 2, d.isa = isa, d.activations = MLA_ACT_E4M3;
    if (mla_model_create(&m, &c, &w, NULL, &err) || mla_context_create(&k, m, &d, &err))
        printf("%s\n", err.text), exit(2);
    /* a block of zeros, one too small for a scale, an outlier that leaves the rest of its block subnormal codes */
    for (int i = 0; i < T * cols; i++) {
        const float f = at(x.p, i) * (i / 128 % 5 == 1 ? 0 : i / 128 % 5 == 3 ? 1e-39f : i % 391 == 7 ? 3e4f : 1);
        memcpy((char *)x.p + 4 * i, &f, 4);
    }
    for (int t = 0; t < T; t++)
        idx[t] = test_int(r, T), plain_act_quant(q + t * cols, (const float *)x.p + t * cols, cols);
    for (int i = 0; i < 3; i++) {
        y[i] = guard((size_t)(T * rows) * 4);
        jobs[i] = mla__job_add(k, (float *)y[i].p, rows, (const float *)x.p, cols, T,
                               i == 1 ? &layer.mlp.up : &layer.mlp.gate);
    }
    jobs[1]->in.idx = idx, jobs[2]->up = &layer.mlp.up;
    mla__jobs_run(k);
    for (int t = 0; t < T; t++)
        for (int n = 0; n < rows; n++) {
            double sum[3] = {0, 0, 0}, size[3] = {0, 0, 0};
            for (int j = 0; j < cols; j++) {
                const double g = element(&gate, n, j) * q[t * cols + j], u = element(&up, n, j) * q[t * cols + j];
                const double p = element(&up, n, j) * q[idx[t] * cols + j];
                sum[0] += g, size[0] += fabs(g), sum[1] += p, size[1] += fabs(p), sum[2] += u, size[2] += fabs(u);
            }
            const double slack = (cols + 8) * U, silu = sum[0] / (1 + exp(-sum[0]));
            const double limit[3] = {slack * size[0], slack * size[1],
                                     slack * (1.1 * size[0] * fabs(sum[2]) + fabs(silu) * size[2]) +
                                         8 * U * fabs(silu * sum[2])};
            sum[2] *= silu;
            for (int i = 0; i < 3; i++)
                worst = fmax(worst, fabs((double)at(y[i].p, t * rows + n) - sum[i]) / (limit[i] + 1e-30));
        }
    CHECK(worst <= 1, "%s: e4m3 activations, T %d, [%d, %d]: %.2f of the bound", mla_isa_name(isa), T, rows, cols,
          worst);
    ((float *)x.p)[cols - 1] = NAN; /* of the first token */
    mla__job_add(k, (float *)y[0].p, rows, (const float *)x.p, cols, T, &layer.mlp.gate);
    mla__jobs_run(k);
    int right = 1;
    for (int i = 0; i < T * rows; i++) right &= i < rows ? at(y[0].p, i) != at(y[0].p, i) : isfinite(at(y[0].p, i));
    CHECK(right, "%s: NaN among e4m3 activations, T %d, [%d, %d]", mla_isa_name(isa), T, rows, cols);
    mla_context_destroy(k), mla_model_destroy(m);
    free_matrix(&gate), free_matrix(&up), unguard(&x), unguard(&y[0]), unguard(&y[1]), unguard(&y[2]), free(q),
        free(idx);
}

static void test_fp8(mla_isa isa) {
    static const int T[] = {1, 2, 3, 17, 40},
                     sizes[][2] = {{1, 1}, {5, 31}, {48, 128}, {33, 129}, {130, 300}, {17, 1000}};
    static float x[1024], y[1024];
    test_rng r = {11};
    for (int i = 0; i < 30; i++) check_fp8(isa, &r, T[i % 5], sizes[i / 5][0], sizes[i / 5][1], i % 4);
    int same = 1;
    for (int k = 0; k < 200; k++) { /* rounding is that of mla_f32_to_e4m3 */
        for (int i = 0; i < 1024; i++) x[i] = ldexpf(test_gauss(&r), test_int(&r, 20) - 10);
        mla__round_e4m3(y, x, 1000 + k / 10);
        for (int b = 0; b < 1000 + k / 10; b += 128) {
            const int n = 1000 + k / 10 - b < 128 ? 1000 + k / 10 - b : 128;
            const float d = test_max_abs(x + b, (size_t)n) / 448;
            for (int i = b; i < b + n; i++) same &= y[i] == mla_e4m3_to_f32(mla_f32_to_e4m3(x[i] / d)) * d;
        }
    }
    CHECK(same, "mla__round_e4m3 is not mla_f32_to_e4m3");
}

/* ---- the best of a list ------------------------------------------------------------------------------------------ */

typedef struct scored {
    float score;
    int at;
} scored;
static int better(const void *a, const void *b) {
    const scored *x = (const scored *)a, *y = (const scored *)b;
    const int x_nan = x->score != x->score, y_nan = y->score != y->score;
    if (x_nan != y_nan) return x_nan - y_nan;
    if (x->score > y->score || x->score < y->score) return x->score > y->score ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}
static int by_position(const void *a, const void *b) { return ((const scored *)a)->at - ((const scored *)b)->at; }

static void test_best(void) {
    enum { N = 9000 };
    static const int most[] = {1, 2, 7, 64, 1000, 3000, N - 1, N, N + 5};
    test_rng r = {1};
    SECTION("the best of a list");
    static scored all[N];
    static float score[N];
    for (int kind = 0; kind < 9; kind++)
        for (size_t k = 0; k < sizeof most / sizeof *most; k++) {
            int wrong = 0;
            const int room = most[k] + (most[k] > MLA__BEST_SPARE ? most[k] : MLA__BEST_SPARE), n = kind == 8 ? 5 : N;
            uint32_t *key = (uint32_t *)malloc((size_t)room * 4);
            int *position = (int *)malloc((size_t)room * 4);
            for (int i = 0; i < n; i++) {
                const int j = test_int(&r, 8);
                score[i] = kind == 0   ? test_gauss(&r)
                           : kind == 1 ? (float)(i % 3) - 1     /* mostly ties */
                           : kind == 2 ? (i % 2 ? 0.0f : -0.0f) /* nothing else */
                           : kind == 3 ? (float)i               /* each better than those before */
                           : kind == 4 ? -(float)i              /* none is */
                           : kind == 5 ? (float)NAN
                           : kind == 6 ? (j == 0   ? (float)NAN
                                          : j == 1 ? INFINITY
                                          : j == 2 ? -INFINITY
                                          : j == 3 ? 1e-42f
                                                   : test_gauss(&r))
                                       : ldexpf(test_gauss(&r), test_int(&r, 250) - 125);
                all[i].score = score[i], all[i].at = 3 * i + 1;
            }
            mla__top top = mla__top_begin(key, position, most[k]);
            for (int i = 0; i < n; i++) mla__top_offer(&top, mla__top_key(score[i]), 3 * i + 1);
            mla__top_cut(&top);
            const int want = n < most[k] ? n : most[k];
            qsort(all, (size_t)n, sizeof *all, better);
            qsort(all, (size_t)want, sizeof *all, by_position);
            for (int i = 0; i < want && top.n == want; i++) wrong += top.at[i] != all[i].at;
            CHECK(top.n == want && wrong == 0, "list %d, best %d of %d: %d, %d others", kind, most[k], n, top.n, wrong);
            free(key), free(position);
        }
}

/* Where scores are off, all stay that are that far below the last of the best, and none below them; whether that is
   known before the list is full or after. */
static void test_slack(void) {
    static const float score[] = {1, 0.5f, 0.75f, 0.74999994f, 0.75000006f, 0.25f};
    for (int late = 0; late < 2; late++) {
        uint32_t key[2 * MLA__BEST_SPARE];
        int at[2 * MLA__BEST_SPARE], wrong = 0;
        mla__top top = mla__top_begin(key, at, 1);
        if (!late) mla__top_slack(&top, 0.25f);
        for (int i = 0; i < 6; i++) {
            mla__top_offer(&top, mla__top_key(score[i]), i);
            if (i != 1) continue;
            mla__top_cut(&top);
            if (late) mla__top_slack(&top, 0.25f);
        }
        for (int i = 0; i < top.n; i++) wrong += score[top.at[i]] < 0.75f;
        CHECK(top.n == 3 && wrong == 0, "%s: %d are kept, %d of them too low", late ? "late" : "early", top.n, wrong);
    }
    /* As many as a cut may keep do; of more the list is worth nothing, and nothing is written behind its room. */
    for (int most = 1; most <= 2 * MLA__BEST_SPARE; most += 2 * MLA__BEST_SPARE - 1)
        for (int more = 0; more < 3; more++) {
            const int kept = mla__top_kept(most), room = mla__top_room(most), n = more < 2 ? kept + more : room + 3;
            guarded key = guard((size_t)room * 4), at = guard((size_t)room * 4);
            mla__top top = mla__top_begin((uint32_t *)key.p, (int *)at.p, most);
            mla__top_slack(&top, 0.25f);
            for (int i = 0; i < n; i++) mla__top_offer(&top, mla__top_key(1), i);
            mla__top_cut(&top);
            CHECK(more ? top.over : !top.over && top.n == kept, "%d that may be among the best %d: %d are kept%s", n,
                  most, top.n, top.over ? ", too many" : "");
            unguard(&key), unguard(&at);
        }
}

int main(void) {
    test_best();
    test_slack();
    test_search_range();
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++) {
        mla__kernels k;
        if (!mla_isa_available((mla_isa)isa)) {
            printf("%s: not on this machine, its kernels are NOT tested\n", mla_isa_name((mla_isa)isa));
            continue;
        }
        if (!TEST_ISA((mla_isa)isa) && isa != MLA_ISA_AVX2) continue;
        mla__select(&k, (mla_isa)isa);
        CHECK(k.isa == (mla_isa)isa, "asked for %s, got %s", mla_isa_name((mla_isa)isa), mla_isa_name(k.isa));
        SECTION(mla_isa_name((mla_isa)isa));
        for (int t = MLA_F32; t < MLA_UE8M0; t++) {
            test_products(&k, (mla_dtype)t);
            if (t <= MLA_E4M3) test_nan(&k, (mla_dtype)t);
        }
        test_quantize(&k);
        test_q4_scale(&k);
        test_glance(&k);
        test_rows(&k);
        test_swiglu(&k);
        test_probs(&k);
        test_norm(&k);
        test_accumulate(&k);
        test_attend(&k);
        test_fp8((mla_isa)isa);
    }
    return test_end();
}
