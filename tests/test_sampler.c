/* The sampler against a plain one in double, its distributions, its determinism and speed; stop strings against a plain
   search. */
#define _POSIX_C_SOURCE 199309L /* clock_gettime, also under -std=c99 */
#define MLA_IMPLEMENTATION
#include "../mla.h"
#define SAMPLER_IMPLEMENTATION
#include "sampler.h"
#include "test.h"
#include <time.h>

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static sampler_desc settings(double temperature, int top_k, double top_p, double min_p) {
    sampler_desc d;
    memset(&d, 0, sizeof d);
    d.temperature = temperature, d.top_k = top_k, d.top_p = top_p, d.min_p = min_p;
    return d;
}

/* ---- the plain sampler: sorts everything ------------------------------------------------------------------------- */

enum { MOST = 2048 };

static const float *sort_by; /* logits */
static int by_logit(const void *a, const void *b) {
    const int i = *(const int *)a, j = *(const int *)b;
    return sort_by[i] > sort_by[j] ? -1 : sort_by[i] < sort_by[j] ? 1 : i - j;
}

/* Probabilities [n]; 0 for what is filtered out. Returns how near a sum came to top_p or a probability to min_p's limit
   without being what decides: where that is tiny, rounding may have decided otherwise. */
static double plain(double *p, const float *logits, int n, const sampler_desc *d) {
    static int order[MOST];
    double sum = 0, part = 0, margin = 1;
    int kept = d->top_k > 0 && d->top_k < n ? d->top_k : n, i;
    for (i = 0; i < n; i++) order[i] = i, p[i] = 0;
    sort_by = logits;
    qsort(order, (size_t)n, sizeof *order, by_logit);
    const double top = (double)logits[order[0]];
    for (i = 0; i < kept; i++) sum += p[order[i]] = exp(((double)logits[order[i]] - top) / d->temperature);
    if (d->top_p > 0 && d->top_p < 1) {
        for (i = 0; i < kept; i++) {
            const double gap = fabs(part / sum - d->top_p);
            if (i > 0 && gap < margin) margin = gap;
            if (i > 0 && part >= d->top_p * sum) p[order[i]] = 0;
            else part += p[order[i]];
        }
    }
    for (i = 0; i < kept; i++) {
        const double gap = fabs(p[order[i]] - d->min_p);
        if (d->min_p > 0 && p[order[i]] > 0 && gap < margin) margin = gap;
        if (p[order[i]] < d->min_p) p[order[i]] = 0;
    }
    for (sum = 0, i = 0; i < n; i++) sum += p[i];
    for (i = 0; i < n; i++) p[i] /= sum;
    return margin;
}

/* The last choice's candidates as probabilities [n]; returns how many there were. */
static int candidates(double *p, const sampler *s, int n) {
    const int m = sampler_candidates(s);
    uint64_t weight;
    double sum = 0;
    int before = -1;
    for (int i = 0; i < n; i++) p[i] = 0;
    for (int i = 0; i < m; i++) {
        const int id = sampler_candidate(s, i, &weight);
        if (id <= before || id >= n) CHECK(0, "candidate %d after %d of %d", id, before, n);
        else sum += p[id] = (double)weight, before = id;
    }
    for (int i = 0; i < n; i++) p[i] /= sum;
    return m;
}

/* What the sampler would draw from, as probabilities [n]. */
static int ours(double *p, const float *logits, int n, const sampler_desc *d) {
    sampler *s;
    mla_error error;
    if (!CHECK(!sampler_create(&s, n, d, &error), "%s", error.text)) return -1;
    const int token = sampler_next(s, logits, &error), m = candidates(p, s, n);
    CHECK(token >= 0 && token < n && p[token] > 0, "token %d of %d is no candidate", token, n);
    sampler_destroy(s);
    return m;
}

static void fill_logits(test_rng *r, float *x, int n) {
    const int kind = test_int(r, 6);
    const float spread = (float)(1 + test_int(r, 5));
    for (int i = 0; i < n; i++) {
        x[i] = spread * test_gauss(r);
        if (kind == 1) x[i] = (float)test_int(r, 3);            /* ties */
        if (kind == 2 && test_int(r, 3) == 0) x[i] = -INFINITY; /* impossible tokens */
        if (kind == 3) x[i] = 1.5f;                             /* all equal */
        if (kind == 4) x[i] = test_int(r, 2) ? 0.0f : -0.0f;    /* equal, too */
        if (kind == 5) x[i] *= test_int(r, 8) ? 1.0f : 1000.0f; /* some are out of reach */
    }
    if (x[n - 1] < -1e30f) x[n - 1] = 0; /* never all of them */
}

static void against_plain(void) {
    static float x[MOST];
    static double p[MOST], q[MOST];
    static const double temperatures[] = {0.01, 0.5, 1, 1.7, 100}, ps[] = {0, 0.001, 0.3, 0.9, 0.95, 0.999, 1},
                        mins[] = {0, 0, 0.02, 0.3, 1};
    test_rng r = {1};
    int close = 0;
    SECTION("every filter against a plain sampler");
    for (int round = 0; round < 3000; round++) {
        const int n = round % 7 == 0 ? 1 : 1 + test_int(&r, round % 50 == 1 ? MOST : 60);
        sampler_desc d = settings(temperatures[test_int(&r, 5)], test_int(&r, 2) ? 0 : test_int(&r, n + 5),
                                  ps[test_int(&r, 7)], mins[test_int(&r, 5)]);
        d.seed = (uint64_t)round;
        fill_logits(&r, x, n);
        const double margin = plain(p, x, n, &d);
        double worst = 0;
        ours(q, x, n, &d);
        for (int i = 0; i < n; i++) worst = fmax(worst, fabs(p[i] - q[i]));
        if (margin < 1e-8) close++; /* a tie of sums: the limit lies exactly on a token, or so */
        else
            CHECK(worst < 1e-8, "round %d: n %d, T %g, top_k %d, top_p %g, min_p %g: off by %g", round, n,
                  d.temperature, d.top_k, d.top_p, d.min_p, worst);
    }
    CHECK(close < 900, "%d rounds too close to call", close);
}

static void exact_limits(void) {
    const float equal[4] = {0, 0, 0, 0}, steps[3] = {0.5f, 2, -1};
    double p[4];
    sampler_desc d = settings(1, 0, 0.5, 0);
    SECTION("limits that lie exactly on a token");
    CHECK(ours(p, equal, 4, &d) == 2 && p[0] == 0.5 && p[1] == 0.5, "top_p 0.5 of four equals");
    d = settings(1, 0, 0.51, 0);
    CHECK(ours(p, equal, 4, &d) == 3 && p[3] == 0, "top_p 0.51 of four equals");
    d = settings(1, 0, 1e-300, 0);
    CHECK(ours(p, equal, 4, &d) == 1 && p[0] == 1, "the least top_p");
    d = settings(1, 0, 0, 1);
    CHECK(ours(p, equal, 4, &d) == 4, "min_p 1 of four equals");
    CHECK(ours(p, steps, 3, &d) == 1 && p[1] == 1, "min_p 1");
    d = settings(1, 1, 0, 0);
    CHECK(ours(p, steps, 3, &d) == 1 && p[1] == 1, "top_k 1");
    d = settings(1, 3, 0, 0);
    CHECK(ours(p, equal, 4, &d) == 3 && p[3] == 0, "top_k 3 of four equals: the first");
    d = settings(1e-320, 0, 0, 0); /* a denormal */
    CHECK(ours(p, steps, 3, &d) == 1 && p[1] == 1, "almost no temperature");
    CHECK(ours(p, equal, 4, &d) == 4, "almost no temperature, equals");
}

static void weights(void) {
    const double scale = 4294967296.0 / log(2.0);
    double worst = 0;
    uint64_t table[SAMPLER__TABLE];
    sampler__fill_table(table);
    SECTION("weights against exp");
    for (int i = 0; i <= 290000; i++) { /* to 2^-41: 4e-9 of it, and what cutting to an integer takes */
        const double x = i * 1e-4, want = exp(-x) * 1099511627776.0;
        worst = fmax(worst, fabs((double)sampler__weight(x, scale, table) - want) / (4e-9 * want + 1));
    }
    CHECK(worst <= 1, "%g times the allowed error", worst);
    CHECK(sampler__weight(0, 1e300, table) == SAMPLER__TOP && sampler__weight(HUGE_VAL, 1, table) == 0 &&
              sampler__weight(0, HUGE_VAL, table) == SAMPLER__TOP,
          "the ends");
}

/* ---- draws ------------------------------------------------------------------------------------------------------- */

/* Chi-square of draws [n] against p: (value - degrees of freedom) in units of its deviation. */
static double chi_square(const int *count, const double *p, int n, int draws) {
    double sum = 0;
    int cells = 0;
    for (int i = 0; i < n; i++) {
        if (p[i] == 0) {
            CHECK(count[i] == 0, "token %d was drawn, impossible", i);
            continue;
        }
        const double want = p[i] * draws, d = count[i] - want;
        sum += d * d / want, cells++;
    }
    return cells > 1 ? (sum - (cells - 1)) / sqrt(2.0 * (cells - 1)) : 0;
}

static void distribution(void) {
    enum { N = 24, DRAWS = 40000 };
    static const sampler_desc how[] = {{1, 0, 0, 0, 0, 0, 0},   {0.6, 0, 0, 0, 0, 0, 0},   {2, 7, 0, 0, 0, 0, 0},
                                       {1, 0, 0.8, 0, 0, 0, 0}, {1.3, 0, 0, 0.1, 0, 0, 0}, {1, 12, 0.9, 0.05, 0, 0, 0}};
    float x[N];
    double p[N], sum = 0, squares = 0;
    int tests = 0;
    test_rng r = {2};
    SECTION("draws follow the probabilities");
    for (size_t k = 0; k < sizeof how / sizeof *how; k++) {
        for (uint64_t seed = 0; seed < 5; seed++) {
            int count[N] = {0}, token = 0;
            sampler *s;
            mla_error error;
            sampler_desc d = how[k];
            d.seed = seed * 1000003;
            for (int i = 0; i < N; i++) x[i] = test_gauss(&r);
            plain(p, x, N, &d);
            if (!CHECK(!sampler_create(&s, N, &d, &error), "%s", error.text)) return;
            for (int i = 0; i < DRAWS && token >= 0; i++) {
                token = sampler_next(s, x, &error);
                if (token >= 0) count[token]++;
            }
            sampler_destroy(s);
            const double z = chi_square(count, p, N, DRAWS);
            CHECK(z < 4.5, "settings %d, seed %d: chi-square %g deviations off", (int)k, (int)seed, z);
            sum += z, squares += z * z, tests++;
        }
    }
    CHECK(fabs(sum / tests) < 0.7 && squares / tests > 0.2, "chi-squares: mean %g, mean square %g", sum / tests,
          squares / tests); /* nor too good */
}

/* Logits made of integers alone; the sums below were computed once, and hold on every machine. */
static uint64_t draws_of(uint64_t seed, double temperature, int top_k, double top_p) {
    static float x[1000];
    sampler *s;
    mla_error error;
    sampler_desc d = settings(temperature, top_k, top_p, 0);
    test_rng r = {77};
    uint64_t hash = 1469598103934665603u;
    d.seed = seed, d.repeat_penalty = 1.1;
    if (!CHECK(!sampler_create(&s, 1000, &d, &error), "%s", error.text)) return 0;
    for (int i = 0; i < 2000; i++) {
        for (int j = 0; j < 1000; j++) x[j] = (float)(test_int(&r, 1 << 20) - (1 << 19)) / 65536.0f;
        const int token = sampler_next(s, x, &error);
        sampler_accept(s, token);
        hash = (hash ^ (uint64_t)token) * 1099511628211u;
    }
    sampler_destroy(s);
    return hash;
}

static void determinism(void) {
    SECTION("the same seed, the same tokens on every machine");
    const uint64_t a = draws_of(1, 1, 0, 0), b = draws_of(2, 0.8, 40, 0.95);
    CHECK(a == 454766611090463624u, "got %llu", (unsigned long long)a);
    CHECK(b == 3164519909221838280u, "got %llu", (unsigned long long)b);
    CHECK(a == draws_of(1, 1, 0, 0) && a != draws_of(3, 1, 0, 0), "repeats, and depends on the seed");
}

static void greedy(void) {
    sampler *s;
    mla_error error;
    sampler_desc d = settings(0, 3, 0.5, 0.5);
    const float x[5] = {-1, 3, 3, -INFINITY, 2}, below[3] = {-INFINITY, -5, -5}, zeros[2] = {-0.0f, 0.0f};
    SECTION("temperature 0");
    if (!CHECK(!sampler_create(&s, 5, &d, &error), "%s", error.text)) return;
    CHECK(sampler_next(s, x, &error) == 1, "the first of equals");
    CHECK(sampler_candidates(s) == 1, "one candidate");
    sampler_destroy(s);
    if (!CHECK(!sampler_create(&s, 3, NULL, NULL), "defaults")) return;
    CHECK(sampler_next(s, below, NULL) == 1, "all negative");
    sampler_destroy(s);
    if (!CHECK(!sampler_create(&s, 2, NULL, NULL), "defaults")) return;
    CHECK(sampler_next(s, zeros, NULL) == 0, "-0 and 0 are equal");
    sampler_destroy(s);
}

static void penalty(void) {
    enum { N = 30 };
    float x[N], want[N];
    double p[N], q[N];
    test_rng r = {5};
    SECTION("repetition penalty");
    for (int round = 0; round < 300; round++) {
        static const double penalties[] = {0.5, 1.1, 1.3, 2, 100};
        int text[100], length = test_int(&r, 100);
        sampler *s;
        mla_error error;
        sampler_desc d = settings(round % 3 ? 0.9 : 0, 0, 0, 0), none = settings(0.9, 0, 0, 0);
        d.repeat_penalty = penalties[test_int(&r, 5)], d.repeat_last = test_int(&r, 20);
        const int window = d.repeat_last ? d.repeat_last : 64;
        for (int i = 0; i < N; i++) want[i] = x[i] = test_int(&r, 10) ? 2 * test_gauss(&r) : -INFINITY;
        x[3] = want[3] = 1;
        if (!CHECK(!sampler_create(&s, N, &d, &error), "%s", error.text)) return;
        for (int i = 0; i < length; i++) sampler_accept(s, text[i] = test_int(&r, N));
        sampler_accept(s, -1), sampler_accept(s, N); /* nobody's */
        for (int t = 0; t < N; t++) {
            int seen = 0;
            for (int i = length > window ? length - window : 0; i < length; i++) seen |= text[i] == t;
            if (seen) want[t] = x[t] > 0 ? x[t] / (float)d.repeat_penalty : x[t] * (float)d.repeat_penalty;
        }
        for (int again = 0; again < 2; again++) { /* nothing is left over from one call to the next */
            const int token = sampler_next(s, x, &error);
            if (d.temperature == 0) {
                int best = 0;
                for (int i = 0; i < N; i++) best = want[i] > want[best] ? i : best;
                CHECK(token == best, "round %d: %d, want %d", round, token, best);
                continue;
            }
            double worst = 0;
            candidates(q, s, N);
            plain(p, want, N, &none);
            for (int i = 0; i < N; i++) worst = fmax(worst, fabs(p[i] - q[i]));
            CHECK(worst < 1e-8, "round %d: off by %g", round, worst);
        }
        sampler_destroy(s);
    }
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

static void refused(const char *pattern, int vocab, const sampler_desc *d) {
    sampler *s = (sampler *)&s;
    mla_error error;
    const mla_result rc = sampler_create(&s, vocab, d, &error);
    CHECK(rc == MLA_ERR_ARGUMENT && !s && error.code == rc && strstr(error.text, pattern), "want '%s', got %d '%s'",
          pattern, (int)rc, rc ? error.text : "");
    CHECK(sampler_create(&s, vocab, d, NULL) == MLA_ERR_ARGUMENT, "without an error to fill");
}

static void errors(void) {
    static const double bad[] = {-1, -1e-9, (double)NAN, (double)INFINITY, -(double)INFINITY};
    sampler *s;
    mla_error error;
    SECTION("errors");
    refused("vocab_size", 0, NULL), refused("vocab_size", -5, NULL), refused("vocab_size", SAMPLER_MAX_VOCAB + 1, NULL);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sampler_desc d = settings(bad[i], 0, 0, 0);
        refused("temperature", 5, &d);
        d = settings(1, 0, bad[i], 0), refused("top_p", 5, &d);
        d = settings(1, 0, 0, bad[i]), refused("min_p", 5, &d);
        d = settings(1, 0, 0, 0), d.repeat_penalty = bad[i], refused("repeat_penalty", 5, &d);
    }
    sampler_desc d = settings(1, -1, 0, 0);
    refused("top_k", 5, &d);
    d = settings(1, 0, 1.0001, 0), refused("top_p", 5, &d);
    d = settings(1, 0, 0, 1.0001), refused("min_p", 5, &d);
    d = settings(1e7, 0, 0, 0), refused("temperature", 5, &d);
    d = settings(1, 0, 0, 0), d.repeat_last = -1, refused("repeat_last", 5, &d);
    d.repeat_last = SAMPLER_MAX_LAST + 1, refused("repeat_last", 5, &d);
    CHECK(sampler_create(NULL, 5, NULL, &error) == MLA_ERR_ARGUMENT, "no place for the sampler");
    sampler_destroy(NULL);

    for (int kind = 0; kind < 2; kind++) {
        float x[4] = {0, 1, 2, 3};
        d = settings(kind, 2, 0.9, 0.1);
        if (!CHECK(!sampler_create(&s, 4, &d, &error), "%s", error.text)) return;
        for (int i = 0; i < 4; i++) {
            const float kept = x[i];
            x[i] = NAN;
            CHECK(sampler_next(s, x, &error) == -1 && strstr(error.text, "not a number"), "NaN at %d", i);
            CHECK(sampler_next(s, x, NULL) == -1 && sampler_candidates(s) == 0, "NaN at %d, no error to fill", i);
            x[i] = INFINITY;
            CHECK(sampler_next(s, x, &error) == -1 && strstr(error.text, "infinite"), "infinity at %d", i);
            x[i] = kept;
        }
        CHECK(sampler_next(s, x, &error) >= 2, "usable after an error");
        for (int i = 0; i < 4; i++) x[i] = -INFINITY;
        CHECK(sampler_next(s, x, &error) == -1 && strstr(error.text, "-infinity"), "all -infinity");
        x[2] = -3e38f;
        CHECK(sampler_next(s, x, &error) == 2, "one possible token");
        sampler_destroy(s);
    }
}

/* sampler_draw draws what sampler_next does, from the same numbers, at all settings and sizes; and refuses the same. */
static void draw_is_next(void) {
    enum { LONG = 10000 }; /* more than there are bins */
    static float x[LONG];
    static const int sizes[] = {1, 2, 33, 2047, 2048, 2049, 4096, LONG};
    test_rng r = {4};
    SECTION("sampler_draw against sampler_next");
    for (int round = 0; round < 400; round++) {
        const int n = round < 200 ? sizes[test_int(&r, (int)(sizeof sizes / sizeof *sizes))] : 1 + test_int(&r, LONG);
        sampler_desc d =
            settings(test_int(&r, 5) ? 0.1 + 0.3 * test_int(&r, 9) : 0, test_int(&r, 3) ? 0 : test_int(&r, 2 * n),
                     test_int(&r, 3) ? 1 : 0.7, test_int(&r, 3) ? 0 : 0.05);
        sampler *a = NULL, *b = NULL;
        mla_error error, other;
        d.seed = (uint64_t)round, d.repeat_penalty = test_int(&r, 3) ? 0 : 1.3;
        CHECK(!sampler_create(&a, n, &d, &error) && !sampler_create(&b, n, &d, &error), "%s", error.text);
        for (int again = 0; again < 20 && a && b; again++) {
            fill_logits(&r, x, n);
            const int want = sampler_next(a, x, &error), got = sampler_draw(b, x, &error);
            const int kept = d.temperature == 0 || (d.top_k > 0 && d.top_k < n) || d.top_p < 1 || d.min_p > 0;
            CHECK(got == want, "%d tokens: %d, sampler_next: %d", n, got, want);
            CHECK(sampler_candidates(b) == (kept ? sampler_candidates(a) : 0), "%d candidates", sampler_candidates(b));
            sampler_accept(a, want), sampler_accept(b, want);
        }
        x[n / 2] = round % 2 ? NAN : INFINITY;
        CHECK(sampler_next(a, x, &error) == -1 && sampler_draw(b, x, &other) == -1 && !strcmp(error.text, other.text),
              "'%s' and '%s'", error.text, other.text);
        sampler_destroy(a), sampler_destroy(b);
    }
}

/* ---- speed ------------------------------------------------------------------------------------------------------- */

static void speed(void) {
    enum { N = 129280, REPS = 5 };
    static const sampler_desc how[] = {
        {1, 0, 0, 0, 0, 0, 0}, {1, 40, 0, 0, 0, 0, 0}, {1, 0, 0.95, 0, 0, 0, 0}, {0.7, 50, 0.9, 0.05, 1.1, 0, 0}};
    float *x = (float *)malloc(N * sizeof *x);
    test_rng r = {9};
    SECTION("speed on 129280 tokens");
    if (!CHECK(x != NULL, "out of memory")) return;
    for (int equal = 0; equal < 2; equal++) {
        for (int i = 0; i < N; i++) x[i] = equal ? 0 : 3 * test_gauss(&r);
        for (size_t k = 0; k < sizeof how / sizeof *how; k++) {
            sampler *s;
            mla_error error;
            double best = 1e9, drawn = 1e9;
            if (!CHECK(!sampler_create(&s, N, &how[k], &error), "%s", error.text)) break;
            for (int i = 0; i < REPS; i++) {
                double start = seconds();
                CHECK(sampler_draw(s, x, &error) >= 0, "%s", error.text);
                drawn = fmin(drawn, seconds() - start), start = seconds();
                CHECK(sampler_next(s, x, &error) >= 0, "%s", error.text);
                best = fmin(best, seconds() - start);
            }
            printf("    %s logits, top_k %2d, top_p %4.2f, min_p %4.2f, penalty %3.1f: %6.3f ms, %d candidates; drawn "
                   "alone "
                   "%6.3f ms\n",
                   equal ? "equal" : "random", how[k].top_k, how[k].top_p, how[k].min_p, how[k].repeat_penalty,
                   1e3 * best, sampler_candidates(s), 1e3 * drawn);
            CHECK(best < 0.2, "%g s", best); /* a sort takes longer under valgrind only; this is about hanging */
            sampler_destroy(s);
        }
    }
    free(x);
}

/* ---- stop strings ------------------------------------------------------------------------------------------------ */

/* Length of the text before the stop string that ends first, the longest of those; n: none. */
static size_t plain_stop(const char *text, size_t n, const char *const *strings, int n_strings) {
    for (size_t end = 1; end <= n; end++) {
        size_t longest = 0;
        for (int i = 0; i < n_strings; i++) {
            const size_t length = strlen(strings[i]);
            if (length <= end && length > longest && !memcmp(text + end - length, strings[i], length)) longest = length;
        }
        if (longest) return end - longest;
    }
    return n;
}

static void stop_strings(void) {
    test_rng r = {3};
    stop_scan *s;
    mla_error error;
    int hits = 0;
    SECTION("stop strings against a plain search");
    for (int round = 0; round < 20000; round++) {
        char text[40], pool[4][8], got[80];
        const char *strings[4];
        const int n_strings = test_int(&r, 4), n = test_int(&r, 30), letters = 2 + test_int(&r, 2);
        for (int i = 0; i < n; i++) text[i] = "ab\0"[test_int(&r, letters)];
        for (int i = 0; i < n_strings; i++) {
            const int length = 1 + test_int(&r, 6);
            for (int k = 0; k < length; k++) pool[i][k] = "ab"[test_int(&r, 2)];
            pool[i][length] = 0, strings[i] = pool[i];
        }
        if (!CHECK(!stop_create(&s, strings, n_strings, &error), "%s", error.text)) return;
        const size_t want = plain_stop(text, (size_t)n, strings, n_strings);
        int stopped = 0;
        size_t length = 0;
        for (int at = 0, piece; at < n && !stopped; at += piece) {
            piece = 1 + test_int(&r, 5);
            if (piece > n - at) piece = n - at;
            char out[64];
            const size_t m = stop_push(s, text + at, (size_t)piece, out, &stopped);
            CHECK(m <= stop_room(s, (size_t)piece), "room");
            memcpy(got + length, out, m), length += m;
            /* what is held back begins some string, and nothing else is */
            if (!stopped) {
                const size_t held = (size_t)(at + piece) - length;
                size_t keep = 0;
                for (int i = 0; i < n_strings; i++)
                    for (size_t k = strlen(strings[i]) - 1; k > 0; k--)
                        if (k <= (size_t)(at + piece) && k > keep && !memcmp(text + at + piece - k, strings[i], k))
                            keep = k;
                CHECK(held == keep, "%zu bytes held back, want %zu", held, keep);
            }
        }
        length += stop_end(s, got + length);
        hits += stopped;
        CHECK(stopped == (want < (size_t)n) || plain_stop(text, (size_t)n, strings, n_strings) == (size_t)n,
              "found or not");
        CHECK(length == want && !memcmp(got, text, length), "round %d: %zu bytes, want %zu", round, length, want);
        CHECK(stop_end(s, got) == 0, "nothing is left");
        stop_destroy(s);
    }
    CHECK(hits > 3000 && hits < 19000, "%d of 20000 texts were stopped", hits);
    const char *const bad[] = {"a", "", NULL};
    CHECK(stop_create(&s, bad, 2, &error) == MLA_ERR_ARGUMENT && !s && strstr(error.text, "string 1 is empty"),
          "an empty string");
    CHECK(stop_create(&s, bad + 2, 1, &error) == MLA_ERR_ARGUMENT && !s, "no string");
    CHECK(stop_create(NULL, bad, 1, &error) == MLA_ERR_ARGUMENT && stop_create(&s, NULL, 1, NULL) == MLA_ERR_ARGUMENT,
          "null pointers");
    stop_destroy(NULL);
}

int main(void) {
    weights();
    against_plain();
    exact_limits();
    greedy();
    penalty();
    distribution();
    determinism();
    errors();
    draw_is_next();
    speed();
    stop_strings();
    return test_end();
}
