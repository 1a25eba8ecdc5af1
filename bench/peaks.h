/* peaks.h - what the machine can do: a streaming read, and multiply-adds in registers (f32, int8, bf16) with each
   instruction set.

   Each peak kernel has twelve independent chains, enough to cover latency with two units, few enough for 16 registers.
   A chain's next value depends on its last one and on values that come from outside, so that a compiler can neither
   fold nor hoist; each is checked in the assembly (objdump -d build/bench: the loop of peak_* has no memory
   operand). */

/* ---- what the CPU has -------------------------------------------------------------------------------------------- */

typedef enum feature {
    HAS_ALWAYS = 0,
    HAS_AVX2,
    HAS_AVX512,
    HAS_AVX512_VNNI,
    HAS_AVX_VNNI,
    HAS_AVX512_BF16,
    HAS_AMX_INT8,
    HAS_AMX_BF16
} feature;

#ifdef BENCH_X86
static int cpu_has(feature f) {
    unsigned a, b, c, d, c1, low, high, has = 0;
    if (!__get_cpuid(1, &a, &b, &c1, &d) || !(c1 >> 27 & 1)) return f == HAS_ALWAYS; /* OSXSAVE: xgetbv may be used */
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    int avx = (low & 6) == 6, zmm = (low & 0xe6) == 0xe6,
        tiles = (low & 0x60000) == 0x60000; /* the system keeps these registers */
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f == HAS_ALWAYS;
    unsigned subleaves = a, a1 = 0, unused;
    if (subleaves >= 1) __get_cpuid_count(7, 1, &a1, &unused, &unused, &unused);
    switch (f) {
    case HAS_ALWAYS: has = 1; break;
    case HAS_AVX2: has = avx && b >> 5 & 1 && c1 >> 12 & 1; break;   /* and FMA */
    case HAS_AVX512: has = zmm && b >> 16 & 1 && b >> 30 & 1; break; /* F and BW */
    case HAS_AVX512_VNNI: has = zmm && c >> 11 & 1; break;
    case HAS_AVX_VNNI: has = avx && a1 >> 4 & 1; break;
    case HAS_AVX512_BF16: has = zmm && a1 >> 5 & 1; break;
    case HAS_AMX_INT8: has = tiles && d >> 24 & 1 && d >> 25 & 1; break;
    case HAS_AMX_BF16: has = tiles && d >> 24 & 1 && d >> 22 & 1; break;
    }
#if defined(__linux__) && defined(SYS_arch_prctl)
    /* Linux gives a process the tile registers on request: ARCH_REQ_XCOMP_PERM of XTILEDATA */
    if (has && (f == HAS_AMX_INT8 || f == HAS_AMX_BF16) && syscall(SYS_arch_prctl, 0x1023, 18)) has = 0;
#endif
    return (int)has;
}
#else
static int cpu_has(feature f) { return f == HAS_ALWAYS; }
#endif

/* ---- streaming read ---------------------------------------------------------------------------------------------- */
/* Every byte is loaded once and folded into a checksum, so that no load can be left out. bytes is a multiple of
   1024. */

typedef uint64_t (*read_kernel)(const char *p, size_t bytes);

#ifdef BENCH_X86
#define LOAD(a, at) a = _mm256_xor_si256(a, _mm256_loadu_si256((const __m256i *)(const void *)(at)))
#define JOIN(f)     f(f(f(a0, a1), f(a2, a3)), f(f(a4, a5), f(a6, a7)))
TARGET("avx2")
static uint64_t read_4_avx2(const char *p, size_t bytes) { /* four streams, a cache line of each in turn */
    __m256i a0 = _mm256_setzero_si256(), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
    size_t quarter = bytes / 4;
    for (size_t i = 0; i < quarter; i += 64) {
        const char *q = p + i;
        LOAD(a0, q), LOAD(a1, q + 32), q += quarter, LOAD(a2, q), LOAD(a3, q + 32), q += quarter;
        LOAD(a4, q), LOAD(a5, q + 32), q += quarter, LOAD(a6, q), LOAD(a7, q + 32);
    }
    a0 = JOIN(_mm256_xor_si256);
    return (uint64_t)_mm256_extract_epi64(a0, 0) ^ (uint64_t)_mm256_extract_epi64(a0, 3);
}

TARGET("avx2") static uint64_t read_1_avx2(const char *p, size_t bytes) { /* one stream, four lines at a time */
    __m256i a0 = _mm256_setzero_si256(), a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0;
    for (const char *q = p; q < p + bytes; q += 256) {
        LOAD(a0, q), LOAD(a1, q + 32), LOAD(a2, q + 64), LOAD(a3, q + 96);
        LOAD(a4, q + 128), LOAD(a5, q + 160), LOAD(a6, q + 192), LOAD(a7, q + 224);
    }
    a0 = JOIN(_mm256_xor_si256);
    return (uint64_t)_mm256_extract_epi64(a0, 0) ^ (uint64_t)_mm256_extract_epi64(a0, 3);
}
#undef LOAD
#undef JOIN
#else
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
#endif

/* ---- multiply-adds ----------------------------------------------------------------------------------------------- */
/* n steps of twelve chains; m is about 1 and c small, from outside. What comes back depends on every chain. */

typedef float (*peak_kernel)(long n, float m, float c);

#define TWELVE(X)     X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define PEAK_START(i) a##i = SET(i);
#define PEAK_STEP(i)  a##i = STEP(a##i);
#define PEAK_JOIN(i)  sum += RESULT(a##i);
#define PEAK(name, target, vector, constants)                                                                          \
    target static float peak_##name(long n, float m, float c) {                                                        \
        constants;                                                                                                     \
        vector a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11;                                                       \
        float sum = 0;                                                                                                 \
        TWELVE(PEAK_START)                                                                                             \
        for (long k = 0; k < n; k++) { TWELVE(PEAK_STEP) }                                                             \
        TWELVE(PEAK_JOIN)                                                                                              \
        return sum;                                                                                                    \
    }

#if defined(BENCH_X86)
/* f32: a = a m + c stays finite and normal */
#define SET(i)    _mm256_set1_ps(m + 0.01f * i)
#define STEP(a)   _mm256_fmadd_ps(a, vm, vc)
#define RESULT(a) _mm256_cvtss_f32(a)
PEAK(f32_avx2, TARGET("avx2,fma"), __m256, __m256 vm = _mm256_set1_ps(m); __m256 vc = _mm256_set1_ps(c))
#undef SET
#undef STEP
#undef RESULT
#define SET(i)    _mm512_set1_ps(m + 0.01f * i)
#define STEP(a)   _mm512_fmadd_ps(a, vm, vc)
#define RESULT(a) _mm512_cvtss_f32(a)
PEAK(f32_avx512, TARGET("avx512f,avx512bw"), __m512, __m512 vm = _mm512_set1_ps(m); __m512 vc = _mm512_set1_ps(c))
#undef SET
#undef STEP
#undef RESULT

/* int8: for maddubs, the chain itself is taken as the unsigned bytes, else the product would be the same in every step
 * and hoisted */
#define BYTE(x)   ((char)(100 * (x)))
#define SET(i)    _mm256_set1_epi8((char)(BYTE(m) + i))
#define STEP(a)   _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_maddubs_epi16(a, vw), ones))
#define RESULT(a) (float)_mm256_extract_epi32(a, 0)
PEAK(int8_avx2, TARGET("avx2"), __m256i, __m256i vw = _mm256_set1_epi8(BYTE(m + c));
     __m256i ones = _mm256_set1_epi16(1))
#undef STEP
/* in assembly: of the intrinsics, gcc 12 makes copies of all twelve */
#define STEP(a)                                                                                                        \
    __extension__({                                                                                                    \
        __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(a) : "x"(vu), "x"(vw));                                           \
        a;                                                                                                             \
    })
#ifdef BENCH_AVX_VNNI
PEAK(int8_avxvnni, TARGET("avx2,avxvnni"), __m256i, __m256i vw = _mm256_set1_epi8(BYTE(m + c));
     __m256i vu = _mm256_set1_epi8(BYTE(m)))
#endif
#undef SET
#undef STEP
#undef RESULT
#define SET(i)    _mm512_set1_epi8((char)(BYTE(m) + i))
#define STEP(a)   _mm512_add_epi32(a, _mm512_madd_epi16(_mm512_maddubs_epi16(a, vw), ones))
#define RESULT(a) (float)_mm_cvtsi128_si32(_mm512_castsi512_si128(a))
PEAK(int8_avx512, TARGET("avx512f,avx512bw"), __m512i, __m512i vw = _mm512_set1_epi8(BYTE(m + c));
     __m512i ones = _mm512_set1_epi16(1))
#undef STEP
#define STEP(a)                                                                                                        \
    __extension__({                                                                                                    \
        __asm__("vpdpbusd %2, %1, %0" : "+v"(a) : "v"(vu), "v"(vw));                                                   \
        a;                                                                                                             \
    })
PEAK(int8_avx512vnni, TARGET("avx512f,avx512bw,avx512vnni"), __m512i, __m512i vw = _mm512_set1_epi8(BYTE(m + c));
     __m512i vu = _mm512_set1_epi8(BYTE(m)))
#undef SET
#undef STEP
#undef RESULT

/* bf16 dot: f32 += pairs of bf16; c as a pair is small enough for sums to stay finite */
#ifdef BENCH_BF16
static __m512bh TARGET("avx512f,avx512bw,avx512bf16") bf16_of(float x) {
    return _mm512_cvtne2ps_pbh(_mm512_set1_ps(x), _mm512_set1_ps(x));
}
#define SET(i)    _mm512_set1_ps(m + 0.01f * i)
#define STEP(a)   _mm512_dpbf16_ps(a, vm, vc)
#define RESULT(a) _mm512_cvtss_f32(a)
PEAK(bf16_avx512, TARGET("avx512f,avx512bw,avx512bf16"), __m512, __m512bh vm = bf16_of(m); __m512bh vc = bf16_of(c))
#undef SET
#undef STEP
#undef RESULT
#endif

/* Tiles: six accumulators of 16x16, whose products all take the same two operands: 16x64 int8 or 16x32 bf16 each. A
   step is six products. The tiles' own memory is only touched before and after. */
#ifdef BENCH_AMX
typedef struct tile_config {
    uint8_t palette, start_row, zero[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
} tile_config;
#define SIX(X)       X(0) X(1) X(2) X(3) X(4) X(5)
#define TILE_ZERO(i) _tile_zero(i);
#define TILE_INT8(i) _tile_dpbssd(i, 6, 7);
#define TILE_BF16(i) _tile_dpbf16ps(i, 6, 7);
#define TILE_KEEP(i)                                                                                                   \
    _tile_stored(i, memory, 64);                                                                                       \
    sum += (float)memory[17];
#define TILES(name, target, product, fill)                                                                             \
    target static float peak_##name(long n, float m, float c) {                                                        \
        int32_t memory[256];                                                                                           \
        tile_config config;                                                                                            \
        float sum = 0;                                                                                                 \
        memset(&config, 0, sizeof config);                                                                             \
        config.palette = 1;                                                                                            \
        for (int i = 0; i < 8; i++) config.bytes_per_row[i] = 64, config.rows[i] = 16;                                 \
        fill;                                                                                                          \
        _tile_loadconfig(&config);                                                                                     \
        SIX(TILE_ZERO)                                                                                                 \
        _tile_loadd(6, memory, 64);                                                                                    \
        _tile_loadd(7, memory, 64);                                                                                    \
        for (long k = 0; k < n; k++) { SIX(product) }                                                                  \
        SIX(TILE_KEEP)                                                                                                 \
        _tile_release();                                                                                               \
        return sum;                                                                                                    \
    }
TILES(int8_amx, TARGET("amx-tile,amx-int8"), TILE_INT8, memset(memory, (int)(100 * (m + c)), sizeof memory))
TILES(bf16_amx, TARGET("amx-tile,amx-bf16"), TILE_BF16, float x = m * c; uint32_t u; memcpy(&u, &x, 4);
      u = u >> 16 | (u & 0xffff0000u); for (int i = 0; i < 256; i++) memcpy(memory + i, &u, 4))
#endif

#elif defined(BENCH_NEON)
#define SET(i)    vdupq_n_f32(m + 0.01f * i)
#define STEP(a)   vfmaq_f32(vc, a, vm)
#define RESULT(a) vgetq_lane_f32(a, 0)
PEAK(f32_neon, , float32x4_t, float32x4_t vm = vdupq_n_f32(m); float32x4_t vc = vdupq_n_f32(c))
#undef SET
#undef STEP
#undef RESULT
#define SET(i)    vdupq_n_s32((int)(100 * m) + i)
#define RESULT(a) (float)vgetq_lane_s32(a, 0)
#if defined(__ARM_FEATURE_DOTPROD)
#define STEP(a) vdotq_s32(a, vreinterpretq_s8_s32(a), vw)
enum { NEON_STEP = 16 };
#else
#define STEP(a) vpadalq_s16(a, vmull_s8(vget_low_s8(vreinterpretq_s8_s32(a)), vget_low_s8(vw)))
enum { NEON_STEP = 8 };
#endif
PEAK(int8_neon, , int32x4_t, int8x16_t vw = vdupq_n_s8((int8_t)(100 * (m + c))))
#undef SET
#undef STEP
#undef RESULT
#else
static float peak_f32_c(long n, float m,
                        float c) { /* plain C: what a compiler makes of it; four lanes for each of twelve chains */
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

/* ---- the limits of this machine ---------------------------------------------------------------------------------- */
/* tier: what a set of instructions is part of, 1 avx2 (and whatever is the least elsewhere), 2 avx512, 3 vnni and bf16,
   4 amx. A measurement is set against the fastest limit of a tier no higher than the kernels that ran: against its own
   limits. */

typedef enum limit_kind { LIMIT_READ = 0, LIMIT_FMA, LIMIT_INT8, LIMIT_BF16, N_LIMIT_KINDS } limit_kind;

typedef struct limit {
    const char *name, *isa;
    limit_kind kind;
    int tier;
    feature feature;
    read_kernel read;
    peak_kernel peak; /* neither read nor peak: the compiler does not know it */
    double step;      /* operations of a step, 2 for a multiply-add */
} limit;

#ifdef BENCH_AVX_VNNI
#define IF_AVX_VNNI(f) f
#else
#define IF_AVX_VNNI(f) NULL
#endif
#ifdef BENCH_BF16
#define IF_BF16(f) f
#else
#define IF_BF16(f) NULL
#endif
#ifdef BENCH_AMX
#define IF_AMX(f) f
#else
#define IF_AMX(f) NULL
#endif

static const limit all_limits[] = {
#if defined(BENCH_X86)
    {"read x1", "avx2", LIMIT_READ, 1, HAS_AVX2, read_1_avx2, NULL, 0},
    {"read x4", "avx2", LIMIT_READ, 1, HAS_AVX2, read_4_avx2, NULL, 0},
    {"fma f32", "avx2", LIMIT_FMA, 1, HAS_AVX2, NULL, peak_f32_avx2, 12 * 2 * 8},
    {"fma f32", "avx512", LIMIT_FMA, 2, HAS_AVX512, NULL, peak_f32_avx512, 12 * 2 * 16},
    {"int8", "avx2", LIMIT_INT8, 1, HAS_AVX2, NULL, peak_int8_avx2, 12 * 2 * 32},
    {"int8", "avx512", LIMIT_INT8, 2, HAS_AVX512, NULL, peak_int8_avx512, 12 * 2 * 64},
    {"int8", "avxvnni", LIMIT_INT8, 3, HAS_AVX_VNNI, NULL, IF_AVX_VNNI(peak_int8_avxvnni), 12 * 2 * 32},
    {"int8", "avx512vnni", LIMIT_INT8, 3, HAS_AVX512_VNNI, NULL, peak_int8_avx512vnni, 12 * 2 * 64},
    {"int8", "amx", LIMIT_INT8, 4, HAS_AMX_INT8, NULL, IF_AMX(peak_int8_amx), 6 * 2 * 16 * 16 * 64},
    {"bf16 dot", "avx512bf16", LIMIT_BF16, 3, HAS_AVX512_BF16, NULL, IF_BF16(peak_bf16_avx512), 12 * 2 * 32},
    {"bf16 dot", "amx", LIMIT_BF16, 4, HAS_AMX_BF16, NULL, IF_AMX(peak_bf16_amx), 6 * 2 * 16 * 16 * 32},
#elif defined(BENCH_NEON)
    {"read x1", "c", LIMIT_READ, 1, HAS_ALWAYS, read_1_c, NULL, 0},
    {"read x4", "c", LIMIT_READ, 1, HAS_ALWAYS, read_4_c, NULL, 0},
    {"fma f32", "neon", LIMIT_FMA, 1, HAS_ALWAYS, NULL, peak_f32_neon, 12 * 2 * 4},
    {"int8", "neon", LIMIT_INT8, 1, HAS_ALWAYS, NULL, peak_int8_neon, 12 * 2 * NEON_STEP},
#else
    {"read x1", "c", LIMIT_READ, 1, HAS_ALWAYS, read_1_c, NULL, 0},
    {"read x4", "c", LIMIT_READ, 1, HAS_ALWAYS, read_4_c, NULL, 0},
    {"fma f32", "c", LIMIT_FMA, 1, HAS_ALWAYS, NULL, peak_f32_c, 12 * 2 * 4},
#endif
};
enum { N_LIMITS = sizeof all_limits / sizeof *all_limits, N_TIERS = 4 };

typedef struct limits {
    char *buffer;
    size_t bytes;
    int tier; /* the highest that is measured */
    int here[N_LIMITS];
    long n[N_LIMITS]; /* steps that take about 10 ms */
} limits;

typedef struct limit_samples { /* ms, for one number of threads */
    samples ms[N_LIMITS];
} limit_samples;

static int isa_tier(mla_isa isa) {
    const char *name = mla_isa_name(isa);
    return strstr(name, "amx") ? 4 : strstr(name, "vnni") || strstr(name, "bf16") ? 3 : strstr(name, "avx512") ? 2 : 1;
}

typedef struct limit_job {
    const limit *l;
    const char *buffer;
    size_t slice; /* bytes of each thread */
    long n;
    float m, c;
} limit_job;

static volatile uint64_t read_sink;
static volatile float peak_sink;

static void limit_task(void *arg, int i) {
    const limit_job *j = arg;
    if (j->l->read) {
        uint64_t sum = j->l->read(j->buffer + (size_t)i * j->slice, j->slice);
        if (sum == 1) read_sink = sum;
    } else {
        float sum = j->l->peak(j->n, j->m, j->c);
        if (sum == (float)i - 12345.0f) peak_sink = sum;
    }
}

/* Bytes or operations of a call. */
static double limit_work(const limits *m, int k, int threads) {
    return all_limits[k].kind == LIMIT_READ ? (double)m->bytes : all_limits[k].step * (double)m->n[k] * threads;
}

static double limit_seconds(const limits *m, int k, int threads) {
    static volatile float from_outside[2] = {0.999f, 0.001f};
    limit_job job = {&all_limits[k], m->buffer,       m->bytes / (size_t)threads / 4096 * 4096,
                     m->n[k],        from_outside[0], from_outside[1]};
    double start = now();
    run(threads, limit_task, &job);
    double seconds = now() - start;
    return job.l->read ? seconds * ((double)m->bytes / ((double)job.slice * threads))
                       : seconds; /* slices leave a rest unread */
}

static void touch(void *arg, int i) { /* by all threads, so that each has a part near it */
    limits *m = arg;
    size_t slice = m->bytes / (size_t)all_threads();
    memset(m->buffer + (size_t)i * slice, 1 + i % 100, slice);
}

static void limits_open(limits *m, int tier) {
    memset(m, 0, sizeof *m);
    m->tier = tier;
    m->bytes = much_memory(), m->buffer = need(m->bytes);
    memset(m->buffer + m->bytes - 4096 * 16, 1, 4096 * 16);
    run(all_threads(), touch, m);
    for (int k = 0; k < N_LIMITS; k++) {
        const limit *l = &all_limits[k];
        m->here[k] = (l->read || l->peak) && l->tier <= tier && cpu_has(l->feature);
        if (!m->here[k] || l->read) continue;
        double seconds = 0; /* the least of three: others may be using the machine */
        for (m->n[k] = 20000; seconds < 0.001; m->n[k] *= 4) {
            seconds = limit_seconds(m, k, 1);
            for (int i = 0; i < 2; i++) seconds = fmin(seconds, limit_seconds(m, k, 1));
        }
        m->n[k] = (long)((double)m->n[k] / 4 * 0.01 / seconds) + 1;
    }
    if (!m->here[0]) fail(1, "this x86-64 CPU has no AVX2 with FMA, the least that the bench measures");
}

/* Bytes or operations per ms of the fastest of each kind, among those of a tier no higher than the first index; 0:
 * there is none. */
typedef struct fastest {
    double of[N_TIERS + 1][N_LIMIT_KINDS];
} fastest;

/* Measures each limit of the kinds before `kinds` once; the samples go into s, if it is not NULL. */
static fastest measure_limits(const limits *m, limit_samples *s, limit_kind kinds, int threads) {
    fastest f = {{{0}}};
    for (int k = 0; k < N_LIMITS; k++) {
        const limit *l = &all_limits[k];
        if (!m->here[k] || l->kind >= kinds) continue;
        double ms = 1e3 * limit_seconds(m, k, threads);
        if (s) add(&s->ms[k], ms);
        for (int t = l->tier; t <= N_TIERS; t++)
            f.of[t][l->kind] = fmax(f.of[t][l->kind], limit_work(m, k, threads) / ms);
    }
    return f;
}

static void print_limits(const options *o, const limits *m, limit_samples *s, int threads) {
    for (int k = 0; k < N_LIMITS; k++) {
        const limit *l = &all_limits[k];
        line to = {.what = "limit", .part = l->name, .isa = l->isa, .threads = threads};
        if (l->kind == LIMIT_READ) to.bytes = limit_work(m, k, threads);
        else if (l->kind == LIMIT_INT8) to.ops = limit_work(m, k, threads);
        else to.flops = limit_work(m, k, threads);
        to.useful = to.flops + to.ops;
        if (m->here[k] && s->ms[k].n) print_line(o, &to, &s->ms[k]);
        else if (!o->json && !m->here[k] && l->tier <= m->tier)
            printf("%-9s %-12s %6s %6s %4s %-9s %10s\n", "limit", l->name, "-", "-", "-", l->isa, "not here");
    }
}

/* The numbers of threads to measure with: those asked for, or 1, 2, 4, ... all. */
static int_list thread_counts(const options *o) {
    int_list l = o->threads;
    if (l.n) return l;
    for (int t = 1; t < all_threads() && l.n < MAX_LIST - 1; t *= 2) l.of[l.n++] = t;
    l.of[l.n++] = all_threads();
    return l;
}

static int run_limits(const options *o) {
    static limit_samples s[MAX_LIST];
    limits m;
    const int_list counts = thread_counts(o);
    limits_open(&m, N_TIERS);
    for (int r = -1; r < o->reps; r++) /* the first round warms up */
        for (int i = 0; i < counts.n; i++) {
            progress("limits: round %d of %d, %d threads", r + 1, o->reps, counts.of[i]);
            measure_limits(&m, &s[i], N_LIMIT_KINDS, counts.of[i]);
            if (r < 0) memset(&s[i], 0, sizeof s[i]);
        }
    progress(NULL);
    if (!o->json) {
        printf("A buffer of %.0f MB; medians of %d rounds. GFLOP/s counts 2 for a multiply-add, int8 ones too.\n",
               (double)m.bytes * 1e-6, o->reps);
        print_head();
    }
    for (int i = 0; i < counts.n; i++) print_limits(o, &m, &s[i], counts.of[i]);
    free(m.buffer);
    return 0;
}
