/* bench.c - how fast mla.h is, as a fraction of what this machine can do, measured in the same run.
   cc -O2 -fopenmp bench.c -lm; without OpenMP everything is measured with one thread.

   WHAT IS COUNTED
   bytes   Each weight that the call uses once, in its stored size with scales (of the experts those that the tokens are routed
           to), and the cached rows attended to once, the new ones included. Activations are left out.
   flops   2 per multiply-add of the matrix products; norms, rope, softmax and silu are left out.
             experts     T * (K + shared) * 3 * D * I + T * E * D
             attention   T * (q, kv_a and o) plus the cheaper of, with n keys and s = sum over queries of the keys they see:
                           naive      H * (n * R * (N + V) + s * (N + P + V))      each key expanded once
                           absorbed   H * (T * R * (N + V) + s * (2 * R + P))      into and out of the latent, for each query
           The same work is counted whichever path runs.
   limits  A plain streaming read of a buffer far larger than the last-level cache, in one and in four streams per thread,
           whichever is faster; and f32 multiply-adds in registers, with AVX-512 and with AVX2, whichever is faster. Both with the
           same number of threads, started the same way, right before what is set against them; the fraction is the median of
           the rounds' fractions, because on a shared machine the limits themselves change during a run.
   Weights, buffer, caches and contexts lie in memory for which huge pages are advised. Weights are rotated (layers enough for
   512 MB or more, a new input every time), so that a step does not find them in the last-level cache. */
#define _DEFAULT_SOURCE /* POSIX and madvise, also under -std=c99 */
#define MLA_IMPLEMENTATION
#include "../mla.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define BENCH_X86 1
#define TARGET(isa) __attribute__((target(isa)))
#elif defined(__aarch64__)
#include <arm_neon.h>
#define BENCH_NEON 1
#endif

/* ---- what every part needs -------------------------------------------------------------------------------------------- */

#if defined(__GNUC__)
__attribute__((noreturn, format(printf, 2, 3)))
#endif
static void fail(int status, const char *format, ...) { /* 2: the command line is wrong; 1: anything else */
    va_list args;
    va_start(args, format);
    fflush(stdout);
    fputs("bench: ", stderr);
    vfprintf(stderr, format, args);
    fputs(status == 2 ? " (--help shows the options)\n" : "\n", stderr);
    va_end(args);
    exit(status);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int all_threads(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

static void run(int threads, void (*task)(void *arg, int i), void *arg) {
    int i;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static, 1)
#endif
    for (i = 0; i < threads; i++) task(arg, i);
}

static void progress(const char *format, ...) { /* one line that overwrites itself, on a terminal only; NULL clears it */
    va_list args;
    if (!isatty(2)) return;
    fputs("\r\033[K", stderr);
    if (!format) return;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fflush(stderr);
}

static void *huge_alloc(void *user, size_t bytes) { /* an mla_allocator; free() frees */
    const size_t page = (size_t)2 << 20;
    void *memory;
    (void)user;
    if (bytes < page) return malloc(bytes);
    if (bytes > SIZE_MAX - page || posix_memalign(&memory, page, (bytes + page - 1) / page * page)) return NULL;
#ifdef MADV_HUGEPAGE
    madvise(memory, (bytes + page - 1) / page * page, MADV_HUGEPAGE);
#endif
    return memory;
}

static void huge_free(void *user, void *memory) {
    (void)user;
    free(memory);
}

static const mla_allocator huge = {huge_alloc, huge_free, NULL};

static void *need(size_t bytes) {
    void *memory = huge_alloc(NULL, bytes);
    if (!memory) fail(1, "out of memory: %.0f MB", (double)bytes * 1e-6);
    return memory;
}

static size_t much_memory(void) { /* so much that little of it is found in the last-level cache: 512 MB to 2 GB */
    const size_t least = (size_t)512 << 20, most = (size_t)2 << 30;
    unsigned long kilobytes = 0;
    FILE *file = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r"); /* Linux: "32768K" */
    if (file) {
        if (fscanf(file, "%luK", &kilobytes) != 1) kilobytes = 0;
        fclose(file);
    }
    size_t bytes = 16 * 1024 * (size_t)kilobytes;
    return bytes < least ? least : bytes > most ? most : bytes;
}

static uint32_t random_u32(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

static float random_float(uint64_t *state) { /* uniform, mean 0, deviation 1 */
    return ((float)(random_u32(state) >> 8) * (1.0f / 8388608.0f) - 1.0f) * 1.7320508f;
}

/* ---- command line ----------------------------------------------------------------------------------------------------- */

enum { MAX_REPS = 300 };

typedef struct options {
    mla_dtype weights, cache;
    mla_isa isa;
    mla_attn_path attn;
    int threads; /* 0: one and all */
    int reps, depth, pp, json;
} options;

static const char *const attn_names[MLA_ATTN_PATH_COUNT] = {"auto", "naive", "absorbed"};
static const char *const dtype_names[] = {"f32", "f16", "bf16", "fp8"}; /* in the order of mla_dtype */

static int integer(const char *option, const char *text, int low, int high) {
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (!isdigit((unsigned char)text[text[0] == '-']) || *end) fail(2, "%s: '%s' is not an integer", option, text);
    if (errno || value < low || value > high) fail(2, "%s: %s is not in %d..%d", option, text, low, high);
    return (int)value;
}

static int one_of(const char *option, const char *text, const char *const *names, int n) {
    char list[256] = "";
    for (int i = 0; i < n; i++) {
        if (!strcmp(text, names[i])) return i;
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    }
    fail(2, "%s: '%s' is none of %s", option, text, list);
}

static void parse(options *o, int argc, char **argv) {
    const char *isa_names[MLA_ISA_COUNT];
    for (int i = 0; i < MLA_ISA_COUNT; i++) isa_names[i] = mla_isa_name((mla_isa)i);
    memset(o, 0, sizeof *o);
    o->weights = o->cache = MLA_BF16, o->reps = 7, o->depth = 4096, o->pp = 512;
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        static const char *const known[] = {"--json",    "--weights", "--cache", "--isa", "--attn",
                                            "--threads", "--reps",    "--depth", "--pp"};
        int k = 0, n = (int)(sizeof known / sizeof *known);
        while (k < n && strcmp(a, known[k])) k++;
        if (k == n) fail(2, "unknown option '%s'", a);
        if (k > 0 && !v) fail(2, "%s: a value is missing", a);
        switch (k) {
        case 0: o->json = 1; continue;
        case 1: o->weights = (mla_dtype)one_of(a, v, dtype_names, 4); break;
        case 2: o->cache = (mla_dtype)one_of(a, v, dtype_names, 3); break;
        case 3: o->isa = (mla_isa)one_of(a, v, isa_names, MLA_ISA_COUNT); break;
        case 4: o->attn = (mla_attn_path)one_of(a, v, attn_names, MLA_ATTN_PATH_COUNT); break;
        case 5: o->threads = integer(a, v, 1, 1024); break;
        case 6: o->reps = integer(a, v, 1, MAX_REPS); break;
        case 7: o->depth = integer(a, v, 0, 1 << 20); break;
        default: o->pp = integer(a, v, 1, 1 << 16); break;
        }
        i++;
    }
#ifndef _OPENMP
    if (o->threads > 1) fail(2, "--threads: this bench was built without OpenMP and has one thread");
#endif
}

/* The numbers of threads to measure with; returns how many. powers: also 2, 4, 8, ... on the way. */
static int thread_counts(int counts[16], const options *o, int powers) {
    int n = 0, all = all_threads();
    if (o->threads) return counts[0] = o->threads, 1;
    for (int t = 1; t < all && n < 15; t *= 2)
        if (t == 1 || powers) counts[n++] = t;
    counts[n++] = all;
    return n;
}

/* ---- samples and lines ------------------------------------------------------------------------------------------------ */

typedef struct samples { /* of a time in ms; or of the work that a limit would have done in that time */
    double v[4 * MAX_REPS]; /* limits: one before each of four measurements */
    int n;
} samples;

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void add(samples *s, double value) { s->v[s->n++] = value; }

static double median(samples *s) { /* and sorts them */
    qsort(s->v, (size_t)s->n, sizeof *s->v, by_value);
    return 0.5 * (s->v[(s->n - 1) / 2] + s->v[s->n / 2]);
}

typedef struct line {
    const char *what, *part, *isa;
    int threads, depth;
    double tokens, bytes, flops; /* of one call; 0: does not apply */
    double read, fma;            /* bytes and flops that the limits would have done in the same time; 0: not set against them */
} line;

static void print_head(void) {
    printf("%-8s %-10s %-7s %7s %10s %21s %10s %8s %8s %8s %8s\n", "what", "part", "isa", "threads", "ms", "min..max", "tokens/s",
           "GB/s", "GFLOP/s", "of read", "of FMA");
}

static void json_number(const char *key, double value) {
    if (value > 0) printf(",\"%s\":%.6g", key, value);
    else printf(",\"%s\":null", key);
}

static void column(int width, int digits, double value) {
    if (value > 0) printf(" %*.*f", width, digits, value);
    else printf(" %*s", width, "-");
}

static void print_line(const options *o, const line *l, samples *s) {
    double ms = median(s), tokens = l->tokens / ms * 1e3, gbytes = l->bytes / ms * 1e-6, gflops = l->flops / ms * 1e-6;
    double of_read = l->read > 0 ? l->bytes / l->read : 0, of_fma = l->fma > 0 ? l->flops / l->fma : 0;
    int limit = !strcmp(l->what, "limit");
    if (o->json) {
        printf("{\"what\":\"%s\",\"shape\":%s,\"part\":\"%s\",\"isa\":\"%s\"", l->what, limit ? "null" : "\"v2-lite\"", l->part,
               l->isa);
        if (!limit)
            printf(",\"weights\":\"%s\",\"cache\":\"%s\",\"attn\":\"%s\"", dtype_names[o->weights], dtype_names[o->cache],
                   attn_names[o->attn]);
        printf(",\"threads\":%d,\"depth\":%d,\"reps\":%d", l->threads, l->depth, s->n);
        json_number("ms", ms), json_number("ms_min", s->v[0]), json_number("ms_max", s->v[s->n - 1]);
        json_number("tokens_per_s", tokens), json_number("gbytes_per_s", gbytes), json_number("gflop_per_s", gflops);
        json_number("of_read", of_read), json_number("of_fma", of_fma);
        printf("}\n");
        fflush(stdout);
        return;
    }
    printf("%-8s %-10s %-7s %7d %10.3f %10.3f..%-9.3f", l->what, l->part, l->isa, l->threads, ms, s->v[0], s->v[s->n - 1]);
    column(10, 1, tokens), column(8, 1, gbytes), column(8, 1, gflops), column(8, 2, of_read), column(8, 2, of_fma);
    putchar('\n');
    fflush(stdout);
}

/* ---- limit: streaming read -------------------------------------------------------------------------------------------- */
/* Every byte is loaded once and folded into a checksum, so that no load can be left out. bytes is a multiple of 1024. */

typedef uint64_t (*read_kernel)(const char *p, size_t bytes);

#ifdef BENCH_X86
TARGET("avx2") static uint64_t read_4_avx2(const char *p, size_t bytes) { /* four streams, a cache line of each in turn */
    __m256i a0 = _mm256_setzero_si256(), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
    size_t quarter = bytes / 4;
    for (size_t i = 0; i < quarter; i += 64) {
        const char *q = p + i;
#define LOAD(a, at) a = _mm256_xor_si256(a, _mm256_loadu_si256((const __m256i *)(const void *)(at)))
        LOAD(a0, q), LOAD(a1, q + 32), q += quarter, LOAD(a2, q), LOAD(a3, q + 32), q += quarter;
        LOAD(a4, q), LOAD(a5, q + 32), q += quarter, LOAD(a6, q), LOAD(a7, q + 32);
    }
    a0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_xor_si256(a0, a1), _mm256_xor_si256(a2, a3)),
                          _mm256_xor_si256(_mm256_xor_si256(a4, a5), _mm256_xor_si256(a6, a7)));
    return (uint64_t)_mm256_extract_epi64(a0, 0) ^ (uint64_t)_mm256_extract_epi64(a0, 3);
}

TARGET("avx2") static uint64_t read_1_avx2(const char *p, size_t bytes) { /* one stream, four lines at a time */
    __m256i a0 = _mm256_setzero_si256(), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
    for (const char *q = p; q < p + bytes; q += 256) {
        LOAD(a0, q), LOAD(a1, q + 32), LOAD(a2, q + 64), LOAD(a3, q + 96);
        LOAD(a4, q + 128), LOAD(a5, q + 160), LOAD(a6, q + 192), LOAD(a7, q + 224);
#undef LOAD
    }
    a0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_xor_si256(a0, a1), _mm256_xor_si256(a2, a3)),
                          _mm256_xor_si256(_mm256_xor_si256(a4, a5), _mm256_xor_si256(a6, a7)));
    return (uint64_t)_mm256_extract_epi64(a0, 0) ^ (uint64_t)_mm256_extract_epi64(a0, 3);
}
#endif

static uint64_t read_4_c(const char *p, size_t bytes) {
    const uint64_t *q = (const uint64_t *)(const void *)p;
    size_t n = bytes / 32; /* words of a quarter */
    uint64_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;
    for (size_t i = 0; i < n; i++) a0 ^= q[i], a1 ^= q[n + i], a2 ^= q[2 * n + i], a3 ^= q[3 * n + i];
    return a0 ^ a1 ^ a2 ^ a3;
}

static uint64_t read_1_c(const char *p, size_t bytes) {
    const uint64_t *q = (const uint64_t *)(const void *)p;
    uint64_t a0 = 0, a1 = 0, a2 = 0, a3 = 0;
    for (size_t i = 0; i < bytes / 8; i += 4) a0 ^= q[i], a1 ^= q[i + 1], a2 ^= q[i + 2], a3 ^= q[i + 3];
    return a0 ^ a1 ^ a2 ^ a3;
}

typedef struct read_job {
    read_kernel kernel;
    const char *buffer;
    size_t slice; /* bytes of each thread */
} read_job;

static volatile uint64_t read_sink;

static void read_task(void *arg, int i) {
    const read_job *j = arg;
    uint64_t sum = j->kernel(j->buffer + (size_t)i * j->slice, j->slice);
    if (sum == 1) read_sink = sum;
}

/* ---- limit: f32 multiply-adds ----------------------------------------------------------------------------------------- */
/* Twelve independent chains a = a * m + c, which with m and c fill 14 of 16 registers; the chains stay finite and normal. m and c
   come from outside, so that nothing can be folded. */

typedef float (*fma_kernel)(long n, float m, float c);

#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define FMA_START(i) a##i = FMA_SET(m + 0.01f * i);
#define FMA_STEP(i) a##i = FMA_ADD(a##i, vm, vc);
#define FMA_JOIN(i) vc = FMA_ADD(vm, a##i, vc);
#define FMA_BODY(vector)                                                                                                    \
    vector vm = FMA_SET(m), vc = FMA_SET(c), a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11;                              \
    TWELVE(FMA_START)                                                                                                       \
    for (long k = 0; k < n; k++) { TWELVE(FMA_STEP) }                                                                       \
    TWELVE(FMA_JOIN)

#if defined(BENCH_X86)
#define FMA_SET(x) _mm256_set1_ps(x)
#define FMA_ADD(a, m, c) _mm256_fmadd_ps(a, m, c)
TARGET("avx2,fma") static float fma_avx2(long n, float m, float c) {
    FMA_BODY(__m256)
    return _mm256_cvtss_f32(vc);
}
#undef FMA_SET
#undef FMA_ADD
#define FMA_SET(x) _mm512_set1_ps(x)
#define FMA_ADD(a, m, c) _mm512_fmadd_ps(a, m, c)
TARGET("avx512f") static float fma_avx512(long n, float m, float c) {
    FMA_BODY(__m512)
    return _mm512_cvtss_f32(vc);
}
#elif defined(BENCH_NEON)
#define FMA_SET(x) vdupq_n_f32(x)
#define FMA_ADD(a, m, c) vfmaq_f32(c, a, m)
static float fma_neon(long n, float m, float c) {
    FMA_BODY(float32x4_t)
    return vgetq_lane_f32(vc, 0);
}
#else
static float fma_c(long n, float m, float c) { /* plain C: what a compiler makes of it; four lanes for each of twelve chains */
    float a[12][4], sum = 0;
    for (int i = 0; i < 12; i++)
        for (int j = 0; j < 4; j++) a[i][j] = m + 0.01f * (float)(4 * i + j);
    for (long k = 0; k < n; k++)
        for (int i = 0; i < 12; i++)
            for (int j = 0; j < 4; j++) a[i][j] = a[i][j] * m + c;
    for (int i = 0; i < 12; i++)
        for (int j = 0; j < 4; j++) sum += a[i][j];
    return sum;
}
#endif

typedef struct fma_job {
    fma_kernel kernel;
    long n;
    float m, c;
} fma_job;

static volatile float fma_sink;

static void fma_task(void *arg, int i) {
    const fma_job *j = arg;
    float sum = j->kernel(j->n, j->m, j->c);
    if (sum == (float)i - 12345.0f) fma_sink = sum;
}

/* ---- limits, as samples ----------------------------------------------------------------------------------------------- */

enum { N_READ = 2, MAX_FMA = 2 };

typedef struct limits {
    char *buffer;
    size_t bytes;
    const char *read_isa;
    read_kernel read[N_READ];
    int n_fma, fma_lanes[MAX_FMA];
    const char *fma_isa[MAX_FMA];
    fma_kernel fma[MAX_FMA];
    long fma_n[MAX_FMA];
} limits;

typedef struct limit_samples { /* for one number of threads */
    samples read[N_READ], fma[MAX_FMA];
} limit_samples;

static const char *const read_names[N_READ] = {"read x1", "read x4"};

static double fma_flops(const limits *m, int k, int threads) { return 24.0 * m->fma_lanes[k] * (double)m->fma_n[k] * threads; }

static double read_seconds(const limits *m, int k, int threads) {
    read_job job = {m->read[k], m->buffer, m->bytes / (size_t)threads / 4096 * 4096};
    double start = now();
    run(threads, read_task, &job);
    return (now() - start) * ((double)m->bytes / ((double)job.slice * threads));
}

static double fma_seconds(const limits *m, int k, int threads) {
    static volatile float from_outside[2] = {0.999f, 0.001f};
    fma_job job = {m->fma[k], m->fma_n[k], from_outside[0], from_outside[1]};
    double start = now();
    run(threads, fma_task, &job);
    return now() - start;
}

static void add_fma_kernel(limits *m, const char *isa, fma_kernel kernel, int lanes) {
    int k = m->n_fma++;
    m->fma_isa[k] = isa, m->fma[k] = kernel, m->fma_lanes[k] = lanes, m->fma_n[k] = 1000000;
    fma_seconds(m, k, 1);
    m->fma_n[k] = (long)(1e6 * 0.01 / fma_seconds(m, k, 1)) + 1; /* 10 ms */
}

static void touch(void *arg, int i) { /* by all threads, so that each has a part near it */
    limits *m = arg;
    size_t slice = m->bytes / (size_t)all_threads();
    memset(m->buffer + (size_t)i * slice, 1 + i % 100, slice);
}

static void limits_open(limits *m) {
    memset(m, 0, sizeof *m);
    m->bytes = much_memory(), m->buffer = need(m->bytes);
    memset(m->buffer + m->bytes - 4096 * 16, 1, 4096 * 16);
    run(all_threads(), touch, m);
    m->read_isa = "c", m->read[0] = read_1_c, m->read[1] = read_4_c;
#if defined(BENCH_X86)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        m->read_isa = "avx2", m->read[0] = read_1_avx2, m->read[1] = read_4_avx2;
        add_fma_kernel(m, "avx2", fma_avx2, 8);
    }
    if (__builtin_cpu_supports("avx512f")) add_fma_kernel(m, "avx512", fma_avx512, 16);
    if (m->n_fma == 0) fail(1, "this x86-64 CPU has no AVX2 with FMA, the least that the bench measures");
#elif defined(BENCH_NEON)
    add_fma_kernel(m, "neon", fma_neon, 4);
#else
    add_fma_kernel(m, "c", fma_c, 4);
#endif
}

/* Adds one sample of each way; returns bytes and flops per ms of the faster one. */
static double measure_read(const limits *m, limit_samples *s, int threads) {
    double best = 0;
    for (int k = 0; k < N_READ; k++) {
        double ms = 1e3 * read_seconds(m, k, threads);
        add(&s->read[k], ms);
        best = fmax(best, (double)m->bytes / ms);
    }
    return best;
}

static double measure_fma(const limits *m, limit_samples *s, int threads) {
    double best = 0;
    for (int k = 0; k < m->n_fma; k++) {
        double ms = 1e3 * fma_seconds(m, k, threads);
        add(&s->fma[k], ms);
        best = fmax(best, fma_flops(m, k, threads) / ms);
    }
    return best;
}

static void print_limits(const options *o, const limits *m, limit_samples *s, int threads) {
    for (int k = 0; k < N_READ; k++) {
        line l = {.what = "limit", .part = read_names[k], .isa = m->read_isa, .threads = threads, .bytes = (double)m->bytes};
        print_line(o, &l, &s->read[k]);
    }
    for (int k = 0; k < m->n_fma; k++) {
        line l = {.what = "limit", .part = "fma f32", .isa = m->fma_isa[k], .threads = threads};
        l.flops = fma_flops(m, k, threads);
        print_line(o, &l, &s->fma[k]);
    }
}

static int run_limits(const options *o) {
    static limit_samples s[16];
    limits m;
    int counts[16], n = thread_counts(counts, o, 1);
    limits_open(&m);
    for (int r = -1; r < o->reps; r++) /* the first round warms up */
        for (int i = 0; i < n; i++) {
            progress("limits: %d of %d, %d threads", r + 1, o->reps, counts[i]);
            measure_read(&m, &s[i], counts[i]), measure_fma(&m, &s[i], counts[i]);
            if (r < 0) memset(&s[i], 0, sizeof s[i]);
        }
    progress(NULL);
    if (!o->json) printf("A buffer of %.0f MB; medians of %d rounds.\n", (double)m.bytes * 1e-6, o->reps), print_head();
    for (int i = 0; i < n; i++) print_limits(o, &m, &s[i], counts[i]);
    free(m.buffer);
    return 0;
}

/* ---- layers of DeepSeek-V2-Lite --------------------------------------------------------------------------------------- */

enum { D = 2048, H = 16, R = 512, N = 128, P = 64, V = 128, E = 64, K = 6, I = 1408, SHARED = 2 };
enum { N_INPUTS = 61, MOE_STEPS = 8, MAX_LAYERS = 256 };

typedef struct source { /* of weights: random values in the dtype asked for, copied from places that never line up */
    unsigned char *values;
    size_t n, size; /* values, bytes of one */
    size_t at;
    char *next, *end; /* free memory */
    char *chunks[512];
    int n_chunks;
} source;

static void *carve(source *s, size_t bytes) {
    const size_t chunk = (size_t)128 << 20;
    bytes = (bytes + 63) / 64 * 64;
    if ((size_t)(s->end - s->next) < bytes) {
        size_t size = bytes > chunk ? bytes : chunk;
        if (s->n_chunks == 512) fail(1, "too many weights");
        s->chunks[s->n_chunks++] = s->next = need(size);
        s->end = s->next + size;
    }
    s->next += bytes;
    return s->next - bytes;
}

/* Uniform, deviation about 1/sqrt(D), so that activations keep their size. */
static void source_open(source *s, mla_dtype dtype) {
    static const size_t sizes[] = {4, 2, 2, 1};
    uint64_t seed = 1;
    memset(s, 0, sizeof *s);
    s->n = 1048573, s->size = sizes[dtype];
    s->values = need(s->n * s->size);
    for (size_t i = 0; i < s->n; i++) {
        float f = random_float(&seed) * 0.022f;
        uint16_t half = dtype == MLA_F16 ? mla_f32_to_f16(f) : mla_f32_to_bf16(f);
        unsigned char code = (unsigned char)random_u32(&seed);
        if ((code & 0x7f) == 0x7f) code ^= 1; /* no NaN */
        if (dtype == MLA_F32) memcpy(s->values + 4 * i, &f, 4);
        else if (dtype == MLA_E4M3) s->values[i] = code;
        else memcpy(s->values + 2 * i, &half, 2);
    }
}

static void source_close(source *s) {
    while (s->n_chunks > 0) free(s->chunks[--s->n_chunks]);
    free(s->values);
}

static mla_tensor matrix(source *s, mla_dtype dtype, int rows, int cols) {
    size_t n = (size_t)rows * (size_t)cols, done = 0;
    char *data = carve(s, n * s->size);
    while (done < n) {
        size_t part = n - done < s->n - s->at ? n - done : s->n - s->at;
        memcpy(data + done * s->size, s->values + s->at * s->size, part * s->size);
        done += part, s->at = (s->at + part) % s->n;
    }
    mla_tensor t = mla_view(data, dtype, rows, cols);
    if (dtype == MLA_E4M3) {
        size_t blocks = (size_t)((rows + 127) / 128) * (size_t)((cols + 127) / 128);
        float *scale = carve(s, blocks * sizeof *scale);
        for (size_t i = 0; i < blocks; i++) scale[i] = 0.00018f; /* the codes' own deviation is about 120 */
        t.scale = scale, t.scale_dtype = MLA_F32;
    }
    return t;
}

static mla_tensor ones(source *s, int n) {
    float *data = carve(s, (size_t)n * sizeof *data);
    for (int i = 0; i < n; i++) data[i] = 1;
    return mla_view(data, MLA_F32, 1, n);
}

static double tensor_bytes(const mla_tensor *t, mla_dtype dtype) {
    static const double sizes[] = {4, 2, 2, 1};
    double scales = t->scale ? 4.0 * ((t->rows + 127) / 128) * ((t->cols + 127) / 128) : 0;
    return sizes[dtype] * t->rows * t->cols + scales;
}

static mla_mlp_weights mlp(source *s, mla_dtype dtype, int width) {
    mla_mlp_weights w;
    memset(&w, 0, sizeof w);
    w.gate.weight = matrix(s, dtype, width, D), w.up.weight = matrix(s, dtype, width, D);
    w.down.weight = matrix(s, dtype, D, width);
    return w;
}

static double mlp_bytes(const mla_mlp_weights *w, mla_dtype dtype) {
    return tensor_bytes(&w->gate.weight, dtype) + tensor_bytes(&w->up.weight, dtype) + tensor_bytes(&w->down.weight, dtype);
}

static mla_config v2_lite(int layers) {
    mla_config c;
    memset(&c, 0, sizeof c);
    c.vocab_size = 102400, c.hidden_size = D, c.num_hidden_layers = layers, c.intermediate_size = 10944;
    c.num_attention_heads = H, c.kv_lora_rank = R, c.qk_nope_head_dim = N, c.qk_rope_head_dim = P, c.v_head_dim = V;
    c.n_routed_experts = E, c.num_experts_per_tok = K, c.moe_intermediate_size = I, c.n_shared_experts = SHARED;
    c.routed_scaling_factor = 1;
    c.rope.scaling = MLA_ROPE_YARN, c.rope.factor = 40, c.rope.original_max_position_embeddings = 4096;
    c.rope.max_position_embeddings = 163840, c.rope.mscale = c.rope.mscale_all_dim = 0.707f;
    return c;
}

/* One part, attention or experts: a model with only that in its layers. */
typedef struct part {
    source source;
    mla_layer_weights *layers;
    int n_layers;
    mla_model *model;
} part;

static int layers_for(double layer_bytes) {
    int n = (int)ceil((double)much_memory() / layer_bytes);
    return n < 2 ? 2 : n > MAX_LAYERS ? MAX_LAYERS : n;
}

static double attn_bytes(const mla_attn_weights *a, mla_dtype dtype) {
    return tensor_bytes(&a->q.weight, dtype) + tensor_bytes(&a->kv_a.weight, dtype) + tensor_bytes(&a->kv_b.weight, dtype) +
           tensor_bytes(&a->o.weight, dtype);
}

static void part_open(part *p, const options *o, int experts) {
    mla_dtype dtype = o->weights, router = dtype == MLA_E4M3 ? MLA_F32 : dtype;
    mla_error error;
    mla_weights weights;
    source_open(&p->source, dtype);
    source *s = &p->source;
    double values = experts ? 3.0 * (E + SHARED) * I * D : D * (H * (N + P) + R + P + H * V) + (double)H * (N + V) * R;
    p->n_layers = layers_for(values * (double)s->size);
    p->layers = need((size_t)p->n_layers * sizeof *p->layers);
    memset(p->layers, 0, (size_t)p->n_layers * sizeof *p->layers);
    for (int i = 0; i < p->n_layers; i++) {
        progress("making weights: layer %d of %d", i + 1, p->n_layers);
        mla_layer_weights *l = &p->layers[i];
        if (experts) {
            mla_mlp_weights *e = carve(s, E * sizeof *e);
            float *rows = carve(s, sizeof *rows * E * D); /* the router as in a checkpoint; f32 beside fp8 weights */
            uint64_t seed = 1000 + (uint64_t)i;
            if (router == dtype) l->moe.router = matrix(s, dtype, E, D);
            else {
                for (int k = 0; k < E * D; k++) rows[k] = random_float(&seed) * 0.022f;
                l->moe.router = mla_view(rows, MLA_F32, E, D);
            }
            for (int k = 0; k < E; k++) e[k] = mlp(s, dtype, I);
            l->moe.experts = e, l->moe.shared = mlp(s, dtype, SHARED * I);
        } else {
            l->attn.q.weight = matrix(s, dtype, H * (N + P), D), l->attn.kv_a.weight = matrix(s, dtype, R + P, D);
            l->attn.kv_b.weight = matrix(s, dtype, H * (N + V), R), l->attn.o.weight = matrix(s, dtype, D, H * V);
            l->attn.kv_norm.weight = ones(s, R);
        }
    }
    mla_config config = v2_lite(p->n_layers);
    memset(&weights, 0, sizeof weights);
    weights.layers = p->layers;
    if (mla_model_create(&p->model, &config, &weights, NULL, &error)) fail(1, "%s", error.text);
}

static void part_close(part *p) {
    mla_model_destroy(p->model);
    free(p->layers);
    source_close(&p->source);
}

enum { DECODE_MOE, DECODE_ATTN, PREFILL_ATTN, PREFILL_MOE, N_MEASURED };

typedef struct bench { /* what all thread counts share */
    const options *o;
    part attn, moe;
    mla_cache *decode_cache, *prefill_cache;
    float *x, *y;      /* [max(N_INPUTS, pp), D] */
    int moe_layer, input, prefill_layer; /* which is next */
} bench;

typedef struct lane { /* one number of threads */
    int threads;
    mla_context *attn, *moe;
    limit_samples limit;
    samples ms[N_MEASURED], read[N_MEASURED], fma[N_MEASURED];
    double experts_hit; /* by the last prefill */
} lane;

static void check(mla_result result, const mla_context *context) {
    if (result) fail(1, "%s", mla_context_error(context)->text);
}

static void check_numbers(const float *y, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(y[i])) fail(1, "the output is not finite");
}

static const float *next_input(bench *b) { return b->x + (size_t)(b->input++ % N_INPUTS) * D; }

static double decode_moe(bench *b, lane *l) {
    double seconds = 0;
    for (int i = 0; i < MOE_STEPS; i++) {
        const float *x = next_input(b);
        double start = now();
        check(mla_moe_forward(l->moe, b->moe_layer, b->y, x, 1, NULL), l->moe);
        seconds += now() - start;
        b->moe_layer = (b->moe_layer + 1) % b->moe.n_layers;
    }
    check_numbers(b->y, D);
    return seconds / MOE_STEPS;
}

static double decode_attn(bench *b, lane *l) { /* one token through all layers */
    double seconds = 0;
    mla_error error;
    for (int i = 0; i < b->attn.n_layers; i++) {
        const float *x = next_input(b);
        mla_sequence sequence = {.cache = b->decode_cache, .n_tokens = 1};
        double start = now();
        check(mla_attn_forward(l->attn, i, b->y, x, &sequence, 1), l->attn);
        seconds += now() - start;
    }
    check_numbers(b->y, D);
    if (mla_cache_truncate(b->decode_cache, b->o->depth, &error)) fail(1, "%s", error.text);
    return seconds / b->attn.n_layers;
}

static double prefill_attn(bench *b, lane *l) {
    mla_sequence sequence = {.cache = b->prefill_cache, .n_tokens = b->o->pp};
    double start = now();
    check(mla_attn_forward(l->attn, b->prefill_layer % b->attn.n_layers, b->y, b->x, &sequence, 1), l->attn);
    double seconds = now() - start;
    check_numbers(b->y, (size_t)b->o->pp * D);
    mla_cache_reset(b->prefill_cache);
    return seconds;
}

static double prefill_moe(bench *b, lane *l) {
    int64_t counts[E] = {0};
    mla_routing routing = {.counts = counts};
    double start = now();
    check(mla_moe_forward(l->moe, b->prefill_layer++ % b->moe.n_layers, b->y, b->x, b->o->pp, &routing), l->moe);
    double seconds = now() - start;
    check_numbers(b->y, (size_t)b->o->pp * D);
    l->experts_hit = 0;
    for (int e = 0; e < E; e++) l->experts_hit += counts[e] > 0;
    return seconds;
}

static void round_of(bench *b, lane *l, const limits *m) {
    static double (*const measured[N_MEASURED])(bench * b, lane * l) = {decode_moe, decode_attn, prefill_attn, prefill_moe};
    for (int i = 0; i < N_MEASURED; i++) {
        double read = measure_read(m, &l->limit, l->threads), fma = measure_fma(m, &l->limit, l->threads);
        double ms = 1e3 * measured[i](b, l);
        add(&l->ms[i], ms), add(&l->read[i], read * ms), add(&l->fma[i], fma * ms);
    }
}

static void forget(lane *l) {
    memset(&l->limit, 0, sizeof l->limit), memset(l->ms, 0, sizeof l->ms);
    memset(l->read, 0, sizeof l->read), memset(l->fma, 0, sizeof l->fma);
}

static double attn_flops(double tokens, double depth) {
    double keys = depth + tokens, seen = tokens * depth + tokens * (tokens + 1) / 2;
    double naive = H * (keys * R * (N + V) + seen * (N + P + V));
    double absorbed = H * (tokens * R * (N + V) + seen * (2 * R + P));
    return 2 * (tokens * D * (H * (N + P) + (R + P) + H * V) + fmin(naive, absorbed));
}

static double moe_flops(double tokens) { return 2 * tokens * ((K + SHARED) * 3.0 * D * I + (double)E * D); }

static void print_lane(bench *b, lane *l, const limits *m) {
    const options *o = b->o;
    static const double sizes[] = {4, 2, 2, 1};
    double row = (R + P) * sizes[o->cache], attn = attn_bytes(&b->attn.layers[0].attn, o->weights);
    const mla_moe_weights *w = &b->moe.layers[0].moe;
    double expert = mlp_bytes(&w->experts[0], o->weights);
    double always = mlp_bytes(&w->shared, o->weights) + tensor_bytes(&w->router, w->router.dtype);
    const char *isa = mla_isa_name(mla_context_isa(l->attn));
    line lines[N_MEASURED] = {
        {"decode", "moe", isa, l->threads, 0, 1, always + K * expert, moe_flops(1), 0, 0},
        {"decode", "attention", isa, l->threads, o->depth, 1, attn + row * (o->depth + 1), attn_flops(1, o->depth), 0, 0},
        {"prefill", "attention", isa, l->threads, 0, o->pp, attn + row * o->pp, attn_flops(o->pp, 0), 0, 0},
        {"prefill", "moe", isa, l->threads, 0, o->pp, always + l->experts_hit * expert, moe_flops(o->pp), 0, 0},
    };
    print_limits(o, m, &l->limit, l->threads);
    for (int i = 0; i < N_MEASURED; i++) {
        lines[i].read = median(&l->read[i]), lines[i].fma = median(&l->fma[i]);
        print_line(o, &lines[i], &l->ms[i]);
    }
}

static void fill_cache(bench *b) { /* with rows such as attention writes: latents of size 1 */
    const options *o = b->o;
    size_t layers = (size_t)b->attn.n_layers;
    uint64_t seed = 3;
    mla_error error;
    enum { STEP = 64 };
    float *rows = need(layers * STEP * (R + P) * sizeof *rows);
    for (int done = 0; done < o->depth; done += STEP) {
        int n = o->depth - done < STEP ? o->depth - done : STEP;
        progress("filling the cache: %d of %d", done, o->depth);
        for (size_t i = 0; i < layers * (size_t)n * (R + P); i++) rows[i] = random_float(&seed);
        if (mla_cache_append(b->decode_cache, n, rows, &error)) fail(1, "%s", error.text);
    }
    free(rows);
}

static int run_layers(const options *o) {
    static lane lanes[16];
    static bench b;
    limits m;
    mla_error error;
    int counts[16], n = thread_counts(counts, o, 0);
    uint64_t seed = 2;
    b.o = o;
    limits_open(&m);
    part_open(&b.attn, o, 0), part_open(&b.moe, o, 1);
    size_t values = (size_t)(o->pp > N_INPUTS ? o->pp : N_INPUTS) * D;
    b.x = need(values * sizeof *b.x), b.y = need(values * sizeof *b.y);
    for (size_t i = 0; i < values; i++) b.x[i] = random_float(&seed);
    mla_cache_desc decode = {.capacity = o->depth + 1, .dtype = o->cache, .alloc = huge};
    mla_cache_desc prefill = {.capacity = o->pp, .dtype = o->cache, .alloc = huge};
    if (mla_cache_create(&b.decode_cache, b.attn.model, &decode, &error)) fail(1, "%s", error.text);
    if (mla_cache_create(&b.prefill_cache, b.attn.model, &prefill, &error)) fail(1, "%s", error.text);
    fill_cache(&b);
    for (int i = 0; i < n; i++) {
        mla_context_desc desc = {.max_tokens = o->pp, .threads = counts[i], .isa = o->isa, .attn = o->attn, .alloc = huge};
        lanes[i].threads = counts[i];
        if (mla_context_create(&lanes[i].attn, b.attn.model, &desc, &error)) fail(1, "%s", error.text);
        if (mla_context_create(&lanes[i].moe, b.moe.model, &desc, &error)) fail(1, "%s", error.text);
    }
    for (int r = -1; r < o->reps; r++) /* the first round warms up */
        for (int i = 0; i < n; i++) {
            progress("layers: %d of %d, %d threads", r + 1, o->reps, counts[i]);
            round_of(&b, &lanes[i], &m);
            if (r < 0) forget(&lanes[i]);
        }
    progress(NULL);
    if (!o->json) {
        printf("Layers of DeepSeek-V2-Lite: %s weights (%d attention, %d MoE layers in turn), %s cache, %s attention path.\n",
               dtype_names[o->weights], b.attn.n_layers, b.moe.n_layers, dtype_names[o->cache], attn_names[o->attn]);
        printf("Decode: 1 token, attention over %d cached. Prefill: %d tokens, nothing cached. Medians of %d rounds.\n", o->depth,
               o->pp, o->reps);
        print_head();
    }
    for (int i = 0; i < n; i++) {
        print_lane(&b, &lanes[i], &m);
        mla_context_destroy(lanes[i].attn), mla_context_destroy(lanes[i].moe);
    }
    mla_cache_destroy(b.decode_cache), mla_cache_destroy(b.prefill_cache);
    part_close(&b.attn), part_close(&b.moe);
    free(b.x), free(b.y), free(m.buffer);
    return 0;
}

/* ---- main ------------------------------------------------------------------------------------------------------------- */

static void help(void) {
    printf("usage: bench limits|layers [options]\n"
           "  limits            what the machine can do: streaming read, f32 multiply-adds\n"
           "  layers            an attention and an MoE layer of DeepSeek-V2-Lite, as fractions of that\n"
           "  --threads N       [1, and all; for limits also 2, 4, 8, ...]\n"
           "  --reps N          rounds, of which medians are taken [7]\n"
           "  --json            a line of JSON for each measurement\n"
           "for layers:\n"
           "  --weights TYPE    f32, f16, bf16 or fp8 [bf16]\n"
           "  --cache TYPE      f32, f16 or bf16 [bf16]\n"
           "  --depth N         cached tokens when decoding [4096]\n"
           "  --pp N            tokens of the prefill [512]\n"
           "  --attn PATH       auto, naive or absorbed [auto]\n"
           "  --isa ISA         ");
    for (int i = 0; i < MLA_ISA_COUNT; i++) printf("%s%s", i ? ", " : "", mla_isa_name((mla_isa)i));
    printf(" [auto]\n"
           "What is counted as bytes and flops is said at the top of bench.c.\n");
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*run)(const options *o);
    } parts[] = {{"limits", run_limits}, {"layers", run_layers}};
    options o;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return help(), fflush(stdout) != 0;
    if (argc < 2) fail(2, "say what to measure: limits or layers");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strcmp(argv[1], parts[i].name)) {
            parse(&o, argc - 2, argv + 2);
            int status = parts[i].run(&o);
            if (fflush(stdout) || ferror(stdout)) fail(1, "cannot write to stdout: %s", strerror(errno));
            return status;
        }
    fail(2, "'%s' is neither limits nor layers", argv[1]);
}
