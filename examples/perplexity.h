/* perplexity.h - how well a model foresees a text: windows of some tokens, each half a window after the one before; a
   token is scored once, in the first window that it is in. A begin of sentence, if the text has one, begins every
   window; without it the very first token is not scored.

USE
   In exactly one file:      #define PERPLEXITY_IMPLEMENTATION
                             #include "perplexity.h"
   In all others:            #include "perplexity.h"    (chat.h, sampler.h, tokenizer.h and options.h must be
                             implemented somewhere)

   perplexity_begin(&p, "text.txt", ids, n, bos_token_id, 512);
   for (w = 0; perplexity_window(&p, w, &window); w++) {
       ... run window.ids [window.n - 1] on an empty cache; for every row of logits that perplexity_rows asks for:
       perplexity_score(&p, w, row, logits, vocab, tokenizer);
   }
   perplexity_print(&p, 0);

ERRORS         End the program by options_fail.
   SPDX-License-Identifier: MIT */

#ifndef PERPLEXITY_H
#define PERPLEXITY_H

#include "chat.h"
#include "options.h"
#include "sampler.h"
#include "tokenizer.h"

#ifndef PERPLEXITY_API
#define PERPLEXITY_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct perplexity {
    const int *ids; /* [n] behind bos of them, a begin of sentence */
    size_t n, bos;
    int ctx;
    double sums[3]; /* nats; bytes and number of the tokens that have been scored */
} perplexity;

/* name: of the text. Fails if it, or a window, is too short. ids are used later on. */
PERPLEXITY_API void perplexity_begin(perplexity *p, const char *name, const int *ids, size_t n, int bos, int ctx);
/* The tokens of window w. 0: there are no more. */
PERPLEXITY_API int perplexity_window(const perplexity *p, size_t w, chat_tokens *window);
/* Of n rows of window w, from row `at` on, so many are scored: the last ones. No other logits are asked for. */
PERPLEXITY_API int perplexity_rows(const perplexity *p, size_t w, size_t at, int n);
/* logits: those of a row of window w, for the token behind it. */
PERPLEXITY_API void perplexity_score(perplexity *p, size_t w, size_t row, const float *logits, int vocab,
                                     const tokenizer *t);
PERPLEXITY_API void perplexity_print(const perplexity *p, int json); /* to standard output */

#ifdef __cplusplus
}
#endif
#endif /* PERPLEXITY_H */

/* ================================================================================================================== */
#if defined PERPLEXITY_IMPLEMENTATION && !defined PERPLEXITY_IMPLEMENTED
#define PERPLEXITY_IMPLEMENTED

#include <math.h>
#include <stdio.h>
#include <string.h>

void perplexity_begin(perplexity *p, const char *name, const int *ids, size_t n, int bos, int ctx) {
    p->bos = n > 0 && ids[0] == bos, p->n = n - p->bos, p->ids = ids, p->ctx = ctx, memset(p->sums, 0, sizeof p->sums);
    if (ctx < 2 + (int)p->bos) options_fail(2, "--ctx: a window of %d tokens is too short", ctx);
    if (p->n < 2 - p->bos) options_fail(1, "%s is too short: %zu token%s", name, n, n == 1 ? "" : "s");
}
static size_t ppl__most(const perplexity *p) { return (size_t)p->ctx - p->bos; }
static size_t ppl__begin(const perplexity *p, size_t w) { return w * (ppl__most(p) / 2); }
/* The first token that window w scores: the one behind the window before. */
static size_t ppl__next(const perplexity *p, size_t w) { return w ? ppl__begin(p, w - 1) + ppl__most(p) : 1 - p->bos; }
int perplexity_window(const perplexity *p, size_t w, chat_tokens *window) {
    const size_t begin = ppl__begin(p, w), most = ppl__most(p);
    mla_error error;
    window->n = 0;
    if (ppl__next(p, w) >= p->n) return 0;
    if (chat_append(window, p->ids, p->bos, &error) ||
        chat_append(window, p->ids + p->bos + begin, p->n - begin < most ? p->n - begin : most, &error))
        options_fail(1, "%s", error.text);
    return 1;
}
static size_t ppl__first(const perplexity *p, size_t w) { return ppl__next(p, w) - ppl__begin(p, w) + p->bos - 1; }
int perplexity_rows(const perplexity *p, size_t w, size_t at, int n) {
    const size_t first = ppl__first(p, w), end = at + (size_t)n;
    return first >= end ? 0 : first > at ? (int)(end - first) : n;
}
void perplexity_score(perplexity *p, size_t w, size_t row, const float *logits, int vocab, const tokenizer *t) {
    const size_t at = ppl__begin(p, w) + row + 1; /* of p->ids, with the begin of sentence */
    const int token = p->ids[at];
    const double one = sampler_log_sum(logits, vocab) - (double)logits[token]; /* -ln of its probability */
    size_t length = 0;
    if (row < ppl__first(p, w)) return;
    tokenizer_bytes(t, token, &length);
    if (!(fabs(one) < HUGE_VAL)) options_fail(1, "token %zu: the model's logits are not numbers", at - p->bos);
    p->sums[0] += one, p->sums[1] += (double)length, p->sums[2] += 1;
}
void perplexity_print(const perplexity *p, int json) {
    const double nll = p->sums[0], bytes = p->sums[1], scored = p->sums[2];
    const double ppl = exp(nll / scored), per_byte = nll / (bytes > 0 ? bytes : 1);
    if (json)
        printf("{\"perplexity\":%.9g,\"nll\":%.9g,\"tokens\":%.0f,\"bytes\":%.0f,\"nats_per_byte\":%.9g}\n", ppl, nll,
               scored, bytes, per_byte);
    else
        printf("tokens      %.0f, %.0f bytes, in windows of %d\nnll         %.6f nats, %.6f per token\n"
               "per byte    %.6f nats, %.6f bits\nperplexity  %.6f\n",
               scored, bytes, p->ctx, nll, nll / scored, per_byte, per_byte / log(2.0), ppl);
}

#endif /* PERPLEXITY_IMPLEMENTATION */
