/* sampler.h - chooses the next token from a model's logits, and finds strings that end a text.

USE
   In exactly one file:      #define SAMPLER_IMPLEMENTATION
                             #include "sampler.h"
   In all others:            #include "sampler.h"             (after mla.h, or with mla.h on the include path)

   sampler_desc how; memset(&how, 0, sizeof how);   how.temperature = 0.7;   how.top_p = 0.95;   how.seed = 42;
   if (sampler_create(&s, config.vocab_size, &how, &error)) puts(error.text);
   token = sampler_next(s, logits, &error);   sampler_accept(s, token);   ...   sampler_destroy(s);

ORDER          As in transformers: repetition penalty, temperature, top-k, top-p, min-p, draw.
SAME SEED      The same logits and the same seed give the same tokens on every machine and with every compiler:
               weights are integers, made without libm and without an expression that a compiler may contract, and
               their sums do not depend on any order. A model's logits are another matter: those of mla.h are the same
               for any number of threads, but their last bits depend on the instruction set, so the same text on
               different machines needs the same ISA, too, unless no draw falls into that gap.
SPEED          Linear in the vocabulary: top-k and top-p select by radix and do not sort.
THREADS        No globals, no printing. Different samplers may be used by different threads.

CONTENTS       >>sampler >>stop (the API)   then >>weights >>selection >>choice >>stop-strings
   SPDX-License-Identifier: MIT */

#ifndef SAMPLER_H
#define SAMPLER_H

#include <stddef.h>
#include <stdint.h>
#ifndef MLA_H
#include "mla.h"
#endif

#ifndef SAMPLER_API
#define SAMPLER_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- >>sampler --------------------------------------------------------------------------------------------------- */

enum { SAMPLER_MAX_VOCAB = 1 << 22, SAMPLER_MAX_LAST = 1 << 20 };

/* Zero means default. */
typedef struct sampler_desc {
    double temperature;    /* 0: always the likeliest, the first of equals; else logits are divided by it */
    int top_k;             /* the k likeliest, of equals the first; 0, or more than there are: all */
    double top_p;          /* the fewest of the likeliest whose probabilities sum to at least top_p; 0 or 1: all */
    double min_p;          /* those at least min_p times as probable as the likeliest; 0..1 */
    double repeat_penalty; /* arXiv 1909.05858: logits of tokens seen are divided by it if positive, else multiplied; 0
                              or 1: none */
    int repeat_last;       /* how many accepted tokens count as seen; 0: 64 */
    uint64_t seed;
} sampler_desc;

typedef struct sampler sampler;

/* Errors: ARGUMENT (a field out of range, NaN, more than SAMPLER_MAX_VOCAB tokens), MEMORY. desc and err may be
   NULL. */
SAMPLER_API mla_result sampler_create(sampler **out, int vocab_size, const sampler_desc *desc, mla_error *err);
SAMPLER_API void sampler_destroy(sampler *s);
/* The text so far, token by token (the prompt's, and what was generated); only the penalty asks for it. Others than
   0..vocab-1 are passed over. */
SAMPLER_API void sampler_accept(sampler *s, int token);
/* A token by logits [vocab_size]. -1: a logit is NaN or +infinity, or all are -infinity; a token of logit -infinity is
   never taken. Tokens less than 2^-40 times as probable as the likeliest are not drawn, either. */
SAMPLER_API int sampler_next(sampler *s, const float *logits, mla_error *err);
/* The same token, sooner where all may be drawn (no top_k, top_p, min_p): what it chose from is not kept, so that
   there are no candidates, and s cannot be another's draft. */
SAMPLER_API int sampler_draw(sampler *s, const float *logits, mla_error *err);
/* Speculative sampling (Leviathan et al., arXiv 2211.17192): guess was drawn by the last sampler_next of draft, by
   cheaper logits; what sampler_next(s, logits) draws, sampler_verify draws as often, and as many of these are guess as
   can be. With p and q what s and draft choose from, after all filters of each: it is guess with the probability min(1,
   p/q), else one of what p has more than q. The two must not draw the same numbers: give them other seeds. -1: as
   sampler_next; or guess is not of draft's candidates. */
SAMPLER_API int sampler_verify(sampler *s, const float *logits, const sampler *draft, int guess, mla_error *err);
/* s shall have seen what other has: of equal vocab_size and repeat_last. */
SAMPLER_API void sampler_follow(sampler *s, const sampler *other);
/* What the last sampler_next or sampler_verify chose from: their number; and the id of the i-th, in ascending order,
   with a weight (if not NULL) in proportion to its probability. */
SAMPLER_API int sampler_candidates(const sampler *s);
SAMPLER_API int sampler_candidate(const sampler *s, int i, uint64_t *weight);

/* Of logits [vocab_size]: ln of the sum of e^logit, so that logit - it is ln of a token's probability; */
SAMPLER_API double sampler_log_sum(const float *logits, int vocab_size);
/* and the n likeliest tokens, best first, of equals the lower one first: tokens [n]; n at most vocab_size. */
SAMPLER_API void sampler_likeliest(const float *logits, int vocab_size, int n, int *tokens);

/* ---- >>stop ------------------------------------------------------------------------------------------------------ */
/* A text comes in pieces of any size; it shall end before the first of some strings in it. Bytes that may yet turn out
   to be the beginning of such a string are held back. Of several strings that end at the same byte, the longest is
   taken. */

typedef struct stop_scan stop_scan;

/* The strings [n] are copied; none may be empty. Errors: ARGUMENT, MEMORY. */
SAMPLER_API mla_result stop_create(stop_scan **out, const char *const *strings, int n, mla_error *err);
SAMPLER_API void stop_destroy(stop_scan *s);
SAMPLER_API size_t stop_room(const stop_scan *s, size_t n); /* bytes that out must have room for */
/* Returns the number of bytes written to out: text that is certain. *stopped: 1 if a string was found; then the rest is
   not text. */
SAMPLER_API size_t stop_push(stop_scan *s, const char *bytes, size_t n, char *out, int *stopped);
SAMPLER_API size_t stop_end(stop_scan *s, char *out); /* the text is over: what was held back; ready for another text */

#ifdef __cplusplus
}
#endif
#endif /* SAMPLER_H */

/* ================================================================================================================== */
#if defined SAMPLER_IMPLEMENTATION && !defined SAMPLER_IMPLEMENTED
#define SAMPLER_IMPLEMENTED

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined __GNUC__ && !defined __clang__
__attribute__((format(gnu_printf, 3, 4)))
#endif
static mla_result
sampler__fail(mla_error *err, mla_result code, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        err->code = code, err->sequence = -1;
    }
    return code;
}

/* ---- >>weights --------------------------------------------------------------------------------------------------- */
/* A token's weight is exp((logit - top) / T) as an integer, 2^40 for the likeliest. The difference of two floats in
   double, times one factor, cut to an integer: single operations of IEEE 754, the same everywhere. From there on all is
   integer arithmetic. 2^40 times 2^22 tokens still fits 63 bits. */

#define SAMPLER__TOP ((uint64_t)1 << 40)
enum { SAMPLER__TABLE = 1024, SAMPLER__BINS = 2048 };

/* 2^32 * 2^(-f/2^32) for f in 0..2^32-1, by its power series: coefficients 2^32 (ln 2)^k / k!, alternating. Error:
 * 2^-31. */
static uint64_t sampler__series(uint64_t f) {
    static const uint32_t c[12] = {0,       2977044472u, 1031764991u, 238388332u, 41309550u, 5726720u,
                                   661577u, 65510u,      5676u,       437u,       30u,       2u};
    uint64_t p = c[11];
    for (int k = 10; k > 0; k--) p = c[k] - (f * p >> 32);
    return ((uint64_t)1 << 32) - (f * p >> 32);
}

/* The same at the multiples of 2^22: for what lies between, three terms are enough. */
static void sampler__fill_table(uint64_t *table) {
    for (uint64_t i = 0; i < SAMPLER__TABLE; i++) table[i] = sampler__series(i << 22);
}

/* below = top - logit >= 0; scale = 2^32 / (T ln 2). */
static uint64_t sampler__weight(double below, double scale, const uint64_t *table) {
    const double bits = below * scale;
    if (!(bits < 41.0 * 4294967296.0)) return below == 0 ? SAMPLER__TOP : 0; /* infinity times 0 is no number */
    const uint64_t t = (uint64_t)(int64_t)bits,
                   f = t & 0x3fffff; /* t = 2^32 n + 2^22 i + f; the weight is 2^(40 - t/2^32) */
    const uint64_t p = ((uint64_t)1 << 32) - (f * (2977044472u - (f * 1031764991u >> 32)) >> 32);
    return (p * (table[t >> 22 & (SAMPLER__TABLE - 1)] >> 2) >> 22) >> (t >> 32);
}

/* Ascending keys are ascending logits (-0 as 0), and of equal logits descending ids: no two are equal. */
static uint64_t sampler__key(float logit, int id) {
    const float z = logit + 0.0f;
    uint32_t bits;
    memcpy(&bits, &z, sizeof bits);
    bits ^= bits >> 31 ? 0xffffffffu : 0x80000000u;
    return (uint64_t)bits << 32 | (uint32_t)(INT_MAX - id);
}

/* ---- >>selection ------------------------------------------------------------------------------------------------- */

typedef struct sampler__item {
    uint64_t key, weight;
} sampler__item;

struct sampler {
    sampler_desc how; /* defaults resolved */
    int vocab;
    uint64_t random; /* splitmix64's state */
    int *last;       /* ring of accepted tokens [repeat_last], if there is a penalty */
    int n_last, at_last;
    unsigned char *seen;  /* [vocab], all 0 between calls */
    float *logits;        /* [vocab], penalised */
    sampler__item *items; /* [vocab] those left, in order of id; [1] at temperature 0 */
    sampler__item *work;  /* [the same] */
    uint64_t bins[SAMPLER__BINS], table[SAMPLER__TABLE];
    int n_candidates;
};

/* The key such that the items with keys at or above it are the fewest, from the largest key down, whose weights (count:
   whose number) sum to at least target, which is in 1..the sum of all. Digits of 11 bits from the top: each round keeps
   the items, in work, that share the digit in which the sum is reached. */
static uint64_t sampler__cut(sampler *s, int n, uint64_t target, int count) {
    const sampler__item *from = s->items;
    uint64_t above = 0;
    for (int shift = 53; n > 1; shift = shift > 11 ? shift - 11 : 0) {
        uint64_t digit = SAMPLER__BINS - 1;
        int kept = 0;
        memset(s->bins, 0, sizeof s->bins);
        for (int i = 0; i < n; i++) s->bins[from[i].key >> shift & (SAMPLER__BINS - 1)] += count ? 1 : from[i].weight;
        while (digit > 0 && above + s->bins[digit] < target) above += s->bins[digit--];
        for (int i = 0; i < n; i++) {
            s->work[kept] = from[i];
            kept += (from[i].key >> shift & (SAMPLER__BINS - 1)) == digit;
        }
        n = kept, from = s->work;
    }
    return from[0].key;
}

/* Items [n] below cut go; the order of the others stays. */
static int sampler__keep(sampler__item *items, int n, uint64_t cut) {
    int kept = 0;
    for (int i = 0; i < n; i++) {
        items[kept] = items[i];
        kept += items[i].key >= cut;
    }
    return kept;
}

static uint64_t sampler__sum(const sampler__item *items, int n) {
    uint64_t sum = 0;
    for (int i = 0; i < n; i++) sum += items[i].weight;
    return sum;
}

/* ---- >>choice ---------------------------------------------------------------------------------------------------- */

static int sampler__in(double x, double low, double high) { return x >= low && x <= high; } /* not of NaN */

static mla_result sampler__check(sampler_desc *d, int vocab, mla_error *err) {
    if (vocab < 1 || vocab > SAMPLER_MAX_VOCAB)
        return sampler__fail(err, MLA_ERR_ARGUMENT, "sampler_create: vocab_size %d is not in 1..%d", vocab,
                             (int)SAMPLER_MAX_VOCAB);
    if (!sampler__in(d->temperature, 0, 1e6))
        return sampler__fail(err, MLA_ERR_ARGUMENT, "sampler_desc.temperature: %g is not in 0..1000000",
                             d->temperature);
    if (d->top_k < 0) return sampler__fail(err, MLA_ERR_ARGUMENT, "sampler_desc.top_k: %d is negative", d->top_k);
    if (!sampler__in(d->top_p, 0, 1))
        return sampler__fail(err, MLA_ERR_ARGUMENT, "sampler_desc.top_p: %g is not in 0..1", d->top_p);
    if (!sampler__in(d->min_p, 0, 1))
        return sampler__fail(err, MLA_ERR_ARGUMENT, "sampler_desc.min_p: %g is not in 0..1", d->min_p);
    if (d->repeat_penalty != 0 && !sampler__in(d->repeat_penalty, 0.01, 100))
        return sampler__fail(err, MLA_ERR_ARGUMENT, "sampler_desc.repeat_penalty: %g is not in 0.01..100",
                             d->repeat_penalty);
    if (d->repeat_last < 0 || d->repeat_last > SAMPLER_MAX_LAST)
        return sampler__fail(err, MLA_ERR_ARGUMENT, "sampler_desc.repeat_last: %d is not in 0..%d", d->repeat_last,
                             (int)SAMPLER_MAX_LAST);
    if (d->top_p == 0) d->top_p = 1;
    if (d->repeat_penalty == 0) d->repeat_penalty = 1;
    if (d->repeat_last == 0) d->repeat_last = 64;
    return MLA_OK;
}

void sampler_destroy(sampler *s) {
    if (!s) return;
    free(s->last), free(s->seen), free(s->logits), free(s->items), free(s->work);
    free(s);
}

mla_result sampler_create(sampler **out, int vocab_size, const sampler_desc *desc, mla_error *err) {
    sampler_desc how;
    memset(&how, 0, sizeof how);
    if (desc) how = *desc;
    if (out) *out = NULL;
    if (!out) return sampler__fail(err, MLA_ERR_ARGUMENT, "sampler_create: out is NULL");
    const mla_result rc = sampler__check(&how, vocab_size, err);
    if (rc) return rc;
    sampler *s = (sampler *)calloc(1, sizeof *s);
    if (!s) return sampler__fail(err, MLA_ERR_MEMORY, "sampler_create: out of memory");
    const size_t n = (size_t)vocab_size;
    const int penalty = how.repeat_penalty != 1, draws = how.temperature > 0;
    s->how = how, s->vocab = vocab_size, s->random = how.seed;
    sampler__fill_table(s->table);
    if (penalty) {
        s->last = (int *)calloc((size_t)how.repeat_last, sizeof *s->last);
        s->seen = (unsigned char *)calloc(n, 1);
        s->logits = (float *)calloc(n, sizeof *s->logits);
    }
    s->items = (sampler__item *)calloc(draws ? n : 1, sizeof *s->items);
    s->work = (sampler__item *)calloc(draws ? n : 1, sizeof *s->work);
    if (!s->items || !s->work || (penalty && (!s->last || !s->seen || !s->logits))) {
        sampler_destroy(s);
        return sampler__fail(err, MLA_ERR_MEMORY, "sampler_create: no memory for %d tokens", vocab_size);
    }
    *out = s;
    return MLA_OK;
}

void sampler_accept(sampler *s, int token) {
    if (!s->last || token < 0 || token >= s->vocab) return;
    s->last[s->at_last] = token;
    s->at_last = (s->at_last + 1) % s->how.repeat_last;
    if (s->n_last < s->how.repeat_last) s->n_last++;
}

static const float *sampler__penalise(sampler *s, const float *logits) {
    const float penalty = (float)s->how.repeat_penalty;
    if (!s->last) return logits;
    memcpy(s->logits, logits, (size_t)s->vocab * sizeof *logits);
    for (int i = 0; i < s->n_last; i++) {
        const int t = s->last[i];
        if (s->seen[t]) continue; /* once for a token, however often it was seen */
        s->seen[t] = 1;
        s->logits[t] = s->logits[t] > 0 ? s->logits[t] / penalty : s->logits[t] * penalty;
    }
    for (int i = 0; i < s->n_last; i++) s->seen[s->last[i]] = 0;
    return s->logits;
}

/* A number below n, each as likely as the others up to n/2^64: the upper half of a product of 64 bits with 64. */
static uint64_t sampler__below(uint64_t *state, uint64_t n) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    const uint64_t a = z >> 32, b = z & 0xffffffffu, c = n >> 32, d = n & 0xffffffffu;
    const uint64_t low = b * d, left = a * d + (low >> 32), right = b * c + (left & 0xffffffffu);
    return a * c + (left >> 32) + (right >> 32);
}

static int sampler__id(const sampler__item *item) { return INT_MAX - (int)(uint32_t)item->key; }

static double sampler__scale(const sampler *s) { /* 2^32 / (T ln 2) */
    const double scale = 6196328018.683345 / s->how.temperature;
    return scale < 1e300 ? scale : 1e300;
}

/* Fills items and returns how many are left after all filters; top is the largest logit. */
static int sampler__filter(sampler *s, const float *logits, float top) {
    const sampler_desc *how = &s->how;
    const double scale = sampler__scale(s);
    const int fewer = how->top_k > 0 && how->top_k < s->vocab;
    int n = s->vocab, m = 0;
    for (int i = 0; fewer && i < n; i++) s->items[i].key = sampler__key(logits[i], i);
    if (fewer) n = sampler__keep(s->items, n, sampler__cut(s, n, (uint64_t)how->top_k, 1));
    for (int i = 0; i < n; i++) {
        const int id = fewer ? sampler__id(&s->items[i]) : i;
        s->items[m].key = sampler__key(logits[id], id);
        s->items[m].weight = sampler__weight((double)top - (double)logits[id], scale, s->table);
        m += s->items[m].weight > 0;
    }
    if (how->top_p < 1) {
        const uint64_t target = (uint64_t)(how->top_p * (double)sampler__sum(s->items, m));
        m = sampler__keep(s->items, m, sampler__cut(s, m, target ? target : 1, 0));
    }
    if (how->min_p > 0) {
        const double least = how->min_p * (double)SAMPLER__TOP;
        n = m, m = 0;
        for (int i = 0; i < n; i++) {
            s->items[m] = s->items[i];
            m += (double)s->items[m].weight >= least;
        }
    }
    return m;
}

/* The first of the largest logits; -1: there is nothing to choose from. */
static int sampler__best(const sampler *s, const float *logits, mla_error *err) {
    const float most = 3.4028234663852886e38f;
    float top = -HUGE_VALF;
    int best = -1, bad = 0;
    for (int i = 0; i < s->vocab; i++) {
        const float z = logits[i];
        bad |= !(z <= most);
        if (z > top) top = z, best = i;
    }
    for (int i = 0; bad; i++)
        if (!(logits[i] <= most)) {
            sampler__fail(err, MLA_ERR_ARGUMENT, "the logit of token %d is %s", i,
                          logits[i] > 0 ? "infinite" : "not a number");
            return -1;
        }
    if (best < 0) sampler__fail(err, MLA_ERR_ARGUMENT, "every token has the logit -infinity");
    return best;
}

/* Fills items, for logits, and n_candidates; 0: there is nothing to choose from. */
static int sampler__choose(sampler *s, const float *logits, mla_error *err) {
    s->n_candidates = 0;
    logits = sampler__penalise(s, logits);
    const int best = sampler__best(s, logits, err);
    if (best < 0) return 0;
    if (s->how.temperature == 0) {
        s->items[0].key = sampler__key(logits[best], best), s->items[0].weight = SAMPLER__TOP;
        return s->n_candidates = 1;
    }
    return s->n_candidates = sampler__filter(s, logits, logits[best]);
}

static int sampler__pick(sampler *s, const sampler__item *items, int n) {
    uint64_t left = sampler__below(&s->random, sampler__sum(items, n));
    int i = 0;
    for (; left >= items[i].weight; i++) left -= items[i].weight;
    return sampler__id(&items[i]);
}

int sampler_next(sampler *s, const float *logits, mla_error *err) {
    const int n = sampler__choose(s, logits, err);
    return n == 0 ? -1 : s->how.temperature == 0 ? sampler__id(&s->items[0]) : sampler__pick(s, s->items, n);
}

int sampler_draw(sampler *s, const float *logits, mla_error *err) {
    const sampler_desc *how = &s->how;
    const int piece = s->vocab / SAMPLER__BINS + 1; /* of the ids: the sum of its weights is in a bin */
    const double scale = how->temperature > 0 ? sampler__scale(s) : 0;
    uint64_t sum = 0;
    if (how->temperature == 0 || (how->top_k > 0 && how->top_k < s->vocab) || how->top_p < 1 || how->min_p > 0)
        return sampler_next(s, logits, err);
    s->n_candidates = 0;
    logits = sampler__penalise(s, logits);
    const int best = sampler__best(s, logits, err);
    if (best < 0) return -1;
    const double top = (double)logits[best];
    for (int from = 0, bin = 0; from < s->vocab; from += piece, bin++) {
        uint64_t here = 0;
        for (int i = from; i < from + piece && i < s->vocab; i++)
            here += sampler__weight(top - (double)logits[i], scale, s->table);
        s->bins[bin] = here, sum += here;
    }
    uint64_t left = sampler__below(&s->random, sum), weight;
    int i = 0;
    for (const uint64_t *bin = s->bins; left >= *bin; bin++) left -= *bin, i += piece;
    for (; left >= (weight = sampler__weight(top - (double)logits[i], scale, s->table)); i++) left -= weight;
    return i;
}

int sampler_verify(sampler *s, const float *logits, const sampler *draft, int guess, mla_error *err) {
    const double one = 1152921504606846976.0, draws = 9007199254740992.0; /* 2^60, 2^53 */
    const sampler__item *const p = s->items, *const q = draft->items;
    const int n = sampler__choose(s, logits, err), m = draft->n_candidates;
    const double p_sum = (double)sampler__sum(p, n), q_sum = (double)sampler__sum(q, m);
    double p_guess = 0, q_guess = 0;
    int left = 0;
    if (n == 0) return -1;
    for (int i = 0, j = 0; i < n;
         i++) { /* both are in order of id; work: what p has more than q, which is nothing of guess if p < q there */
        for (; j < m && sampler__id(&q[j]) < sampler__id(&p[i]); j++)
            if (sampler__id(&q[j]) == guess) q_guess = (double)q[j].weight / q_sum;
        const int same = j < m && sampler__id(&q[j]) == sampler__id(&p[i]);
        const double here = (double)p[i].weight / p_sum, there = same ? (double)q[j].weight / q_sum : 0,
                     more = here - there;
        if (sampler__id(&p[i]) == guess) p_guess = here, q_guess = there;
        if (!(more > 0)) continue;
        s->work[left].key = p[i].key, s->work[left].weight = (uint64_t)(more * one);
        left += s->work[left].weight > 0;
    }
    for (int j = m - 1; j >= 0 && sampler__id(&q[j]) > sampler__id(&p[n - 1]); j--)
        if (sampler__id(&q[j]) == guess) q_guess = (double)q[j].weight / q_sum;
    if (!(q_guess > 0)) {
        sampler__fail(err, MLA_ERR_ARGUMENT, "sampler_verify: draft did not choose from what has token %d in it",
                      guess);
        return -1;
    }
    if (s->how.temperature == 0) return sampler__id(&p[0]);
    if ((double)sampler__below(&s->random, (uint64_t)draws) * q_guess < p_guess * draws) return guess;
    return left ? sampler__pick(s, s->work, left)
                : sampler__pick(s, p, n); /* nothing left: p and q are the same but for rounding */
}

void sampler_follow(sampler *s, const sampler *other) {
    if (!s->last || !other->last || s->vocab != other->vocab || s->how.repeat_last != other->how.repeat_last) return;
    memcpy(s->last, other->last, (size_t)s->how.repeat_last * sizeof *s->last);
    s->n_last = other->n_last, s->at_last = other->at_last;
}

int sampler_candidates(const sampler *s) { return s->n_candidates; }

int sampler_candidate(const sampler *s, int i, uint64_t *weight) {
    if (weight) *weight = s->items[i].weight;
    return sampler__id(&s->items[i]);
}

double sampler_log_sum(const float *z, int vocab) {
    double sum = 0;
    float most = z[0];
    for (int i = 1; i < vocab; i++) most = z[i] > most ? z[i] : most;
    for (int i = 0; i < vocab; i++) sum += exp((double)z[i] - (double)most);
    return (double)most + log(sum);
}
void sampler_likeliest(const float *z, int vocab, int n, int *tokens) {
    for (int i = 0, all = 0; i < vocab && n > 0; i++) {
        if (all == n && !(z[i] > z[tokens[n - 1]])) continue;
        int at = all < n ? all++ : n - 1;
        for (; at > 0 && z[i] > z[tokens[at - 1]]; at--) tokens[at] = tokens[at - 1];
        tokens[at] = i;
    }
}

/* ---- >>stop-strings ---------------------------------------------------------------------------------------------- */

struct stop_scan {
    char **strings;
    size_t *lengths, longest;
    int n;
    char *held; /* [longest]: bytes not given out, which some string begins with */
    size_t n_held;
};

void stop_destroy(stop_scan *s) {
    if (!s) return;
    for (int i = 0; i < s->n; i++) free(s->strings[i]);
    free(s->strings), free(s->lengths), free(s->held);
    free(s);
}

mla_result stop_create(stop_scan **out, const char *const *strings, int n, mla_error *err) {
    if (out) *out = NULL;
    if (!out || n < 0 || (n > 0 && !strings))
        return sampler__fail(err, MLA_ERR_ARGUMENT, "stop_create: out or strings is NULL, or n negative");
    stop_scan *s = (stop_scan *)calloc(1, sizeof *s);
    if (!s) return sampler__fail(err, MLA_ERR_MEMORY, "stop_create: out of memory");
    s->strings = (char **)calloc((size_t)n + 1, sizeof *s->strings);
    s->lengths = (size_t *)calloc((size_t)n + 1, sizeof *s->lengths);
    int ok = s->strings && s->lengths;
    for (int i = 0; i < n && ok; i++) {
        const size_t length = strings[i] ? strlen(strings[i]) : 0;
        if (length == 0) {
            stop_destroy(s);
            return sampler__fail(err, MLA_ERR_ARGUMENT, "stop_create: string %d is empty", i);
        }
        ok = (s->strings[i] = (char *)malloc(length + 1)) != NULL;
        if (!ok) break;
        memcpy(s->strings[i], strings[i], length + 1);
        s->lengths[i] = length, s->n = i + 1;
        if (length > s->longest) s->longest = length;
    }
    if (!ok || !(s->held = (char *)malloc(s->longest + 1))) {
        stop_destroy(s);
        return sampler__fail(err, MLA_ERR_MEMORY, "stop_create: out of memory");
    }
    *out = s;
    return MLA_OK;
}

size_t stop_room(const stop_scan *s, size_t n) { return n + s->longest; }

size_t stop_push(stop_scan *s, const char *bytes, size_t n, char *out, int *stopped) {
    size_t written = 0;
    *stopped = 0;
    for (size_t at = 0; at < n; at++) {
        size_t found = 0, keep = 0;
        s->held[s->n_held++] = bytes[at];
        for (int i = 0; i < s->n; i++) {
            const size_t length = s->lengths[i];
            if (length <= s->n_held && length > found && !memcmp(s->strings[i], s->held + s->n_held - length, length))
                found = length;
            size_t k = length - 1 < s->n_held
                           ? length - 1
                           : s->n_held; /* the most bytes at the end that the string may begin with */
            while (k > keep && memcmp(s->strings[i], s->held + s->n_held - k, k)) k--;
            if (k > keep) keep = k;
        }
        const size_t sure = s->n_held - (found ? found : keep);
        memcpy(out + written, s->held, sure);
        written += sure;
        s->n_held -= sure;
        memmove(s->held, s->held + sure, s->n_held);
        if (!found) continue;
        s->n_held = 0;
        *stopped = 1;
        break;
    }
    return written;
}

size_t stop_end(stop_scan *s, char *out) {
    const size_t n = s->n_held;
    memcpy(out, s->held, n);
    s->n_held = 0;
    return n;
}

#endif /* SAMPLER_IMPLEMENTATION */
