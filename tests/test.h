/* test.h - what the tests share: checks, sections, random numbers, comparison of arrays. C99 and C++11.
   A test is a program: SECTION("name"); CHECK(cond, "what %d", i); ... return test_end(); */

#ifndef TEST_H
#define TEST_H

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef GUARDED /* as guard.h has it */
#undef calloc
#undef free
#endif

static int test_passed, test_failed;
static const char *test_section = "";
static inline int test_end(void);
static inline void test_late(void);

#if defined(__GNUC__) && !defined(__clang__)
__attribute__((format(gnu_printf, 4, 5)))
#endif
static inline int
test_check(int ok, const char *file, int line, const char *fmt, ...) {
    test_late();
    if (ok) {
        test_passed++;
        return 1;
    }
    if (++test_failed > 100) return 0; /* the count is enough */
    va_list args;
    printf("%s:%d: [%s] ", file, line, test_section);
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    printf("\n");
    if (test_failed == 100) printf("(further failures are only counted)\n");
    fflush(stdout);
    if (getenv("TEST_FIRST")) exit(1); /* tests/mutate.py wants to know no more */
    return 0;
}

/* CHECK(cond, fmt, ...) counts one pass or failure; a failure prints file:line and the message. Gives 1 if cond
   holds. */
#define CHECK(cond, ...) test_check(!!(cond), __FILE__, __LINE__, __VA_ARGS__)

#define SECTION(name) (test_late(), test_section = (name), (void)printf("%s\n", test_section), (void)fflush(stdout))

/* Prints "N passed, N failed"; the exit status, which is non-zero also if nothing ran. */
static inline int test_end(void) {
#ifdef GUARDED
    CHECK(guard_taken == 0, "the reference did not give back %d blocks", guard_taken);
#endif
    printf("%d passed, %d failed\n", test_passed, test_failed);
    return test_failed != 0 || test_passed == 0;
}

/* Ends a test in the middle after TEST_SECONDS: tests/coverage.py wants what it has run by then. */
static inline void test_late(void) {
    static time_t until;
    const char *seconds = until ? NULL : getenv("TEST_SECONDS");
    if (!until) until = seconds && *seconds ? time(NULL) + atoi(seconds) : (time_t)-1;
    if (until == (time_t)-1 || time(NULL) < until) return;
    printf("%s: the time is up\n", test_section);
    exit(test_end());
}

/* ---- how much ---------------------------------------------------------------------------------------------------- */

/* TEST_ALL=1, as `make check` has it: all there is to test; else what says most in little time. */
static inline int test_all(void) {
    const char *all = getenv("TEST_ALL");
    return all && *all;
}

/* Is an ISA to be tested? Each that is here, or else the scalar one and the one that mla.h chooses by itself. */
#define TEST_ISA(isa)                                                                                                  \
    (mla_isa_available(isa) &&                                                                                         \
     (test_all() || (isa) == MLA_ISA_SCALAR || (isa) == MLA_ISA_VNNI || (isa) >= MLA_ISA_AMX ||                        \
      ((isa) < MLA_ISA_VNNI && !mla_isa_available((mla_isa)((isa) + 1)))))

/* Scalar kernels are slow: only make check asks them what the others are asked as well. */
#define TEST_SPARED(isa)                                                                                               \
    ((isa) == MLA_ISA_SCALAR && !test_all() &&                                                                         \
     (mla_isa_available(MLA_ISA_AVX2) || mla_isa_available(MLA_ISA_NEON) || mla_isa_available(MLA_ISA_SIMD128)))

/* ---- random numbers: splitmix64, the same on every machine ------------------------------------------------------- */

typedef struct test_rng {
    uint64_t state;
} test_rng;

static inline uint64_t test_u64(test_rng *r) {
    uint64_t z = r->state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static inline int test_int(test_rng *r, int n) { return (int)(test_u64(r) % (uint64_t)n); } /* 0..n-1 */

static inline float test_uniform(test_rng *r) { return (float)(test_u64(r) >> 40) * (1.0f / 16777216.0f); } /* [0, 1) */

static inline float test_gauss(test_rng *r) { /* mean 0, deviation 1 */
    double u = (double)((test_u64(r) >> 11) + 1) / 9007199254740992.0, v = (double)test_uniform(r);
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

static inline void test_fill(test_rng *r, float *x, size_t n, float deviation) {
    for (size_t i = 0; i < n; i++) x[i] = deviation * test_gauss(r);
}

/* ---- comparison -------------------------------------------------------------------------------------------------- */

static inline float test_max_abs(const float *x, size_t n) {
    float m = 0;
    for (size_t i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        if (!(a <= m)) m = a; /* a NaN gets in, and stays unless something larger follows */
        if (m != m) return m;
    }
    return m;
}

/* max |got - want| / max |want|; infinite if anything is not finite, or if want is all zero and got is not. */
static inline float test_rel_err(const float *got, const float *want, size_t n) {
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]), w = fabs((double)want[i]);
        if (!(d <= 1e300) || !(w <= 1e300)) return (float)HUGE_VAL;
        if (d > worst) worst = d;
        if (w > largest) largest = w;
    }
    if (worst == 0) return 0;
    return largest > 0 ? (float)(worst / largest) : (float)HUGE_VAL;
}

#endif
