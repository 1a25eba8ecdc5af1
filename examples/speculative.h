/* speculative.h - decodes several tokens in a forward pass, with a model's layers of multi-token prediction; exactly
   as without.

USE
   In exactly one file:      #define SPECULATIVE_IMPLEMENTATION
                             #include "speculative.h"
   In all others:            #include "speculative.h"
                             (after mla.h and sampler.h, or with them on the include path)

   speculation_create(&g, context, cache, &how, &error)            the cache empty, how as the sampler was made with
   speculation_feed(g, prompt, n, 1, &out, &error);                as mla_model_forward, for prompts, in any pieces
   token = sampler_next(s, logits, &error);                        of the prompt's last token
   while (sampler_accept(s, token), more) {
       speculation_run(g, token, s, INT_MAX, &error);              the model on token, and on what may come after it
       token = speculation_next(g, s, &error);                     as sampler_next
   }
   speculation_settle(g);                                          the cache holds what was fed and run, no more

HOW            The extra layers guess a token each. One pass of the model over the token and the guesses gives logits
               for all of them; guesses stand as long as the sampler draws them from the model's own logits
               (sampler_verify), and the rest is cut off from the cache. So the distribution of texts is that of
               sampler_next, and at temperature 0 the text is the same, but for logits that lie so close together that
               the rounding of a pass over one token and over several tells them apart.
ODDS           Whether guesses pay is a matter of time: speculation_odds says it, by what passes and guesses have taken
               and how many guesses stood; for those, too, who make their guesses in another way (scheduler.h).
CUT            The caller may go on with a token that is not what speculation_next gave, and may stop anywhere.
THREADS        No globals, no printing.

   SPDX-License-Identifier: MIT */

#ifndef SPECULATIVE_H
#define SPECULATIVE_H

#include <stddef.h>
#include <stdint.h>
#ifndef MLA_H
#include "mla.h"
#endif
#include "sampler.h"

#ifndef SPECULATIVE_API
#define SPECULATIVE_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct speculation speculation;

typedef struct speculation_counts {
    int64_t passes; /* of the model, without prompts */
    int64_t guesses, accepted;
    double bytes; /* of weights read for guesses (mla_mtp_bytes), with prompts */
} speculation_counts;

/* For one sequence. context and cache are of model, max_tokens is the context's (desc.max_tokens): at least
   speculation_least(model). how: as the sampler's; the seed becomes another. Errors: ARGUMENT, MEMORY, UNSUPPORTED
   (layers with states). err may be NULL, also below. */
SPECULATIVE_API mla_result speculation_create(speculation **out, const mla_model *model, mla_context *context,
                                              int max_tokens, mla_cache *cache, const sampler_desc *how,
                                              mla_error *err);
SPECULATIVE_API void speculation_destroy(speculation *g);
SPECULATIVE_API int speculation_least(const mla_model *model);                    /* tokens in a call */
SPECULATIVE_API double speculation_bytes(const mla_model *model, int max_tokens); /* memory, about */

/* The model on n tokens, at most speculation_chunk(g) of them, and the extra layers after it; what is asked for in out
   (NULL: nothing) is written as by mla_model_forward, logits of the last n_logits tokens, but for hidden, which must be
   NULL. Errors: those of mla_model_forward. */
SPECULATIVE_API mla_result speculation_feed(speculation *g, const int *tokens, int n, int n_logits,
                                            const mla_outputs *out, mla_error *err);
SPECULATIVE_API int speculation_chunk(const speculation *g);
/* The model on one token, which s has accepted, and on at most `most` guesses as far as the cache has room; if token is
   a guess that has been run, nothing is left to do. Something must have been fed before. */
SPECULATIVE_API mla_result speculation_run(speculation *g, int token, const sampler *s, int most, mla_error *err);
/* The token after the one run last: as sampler_next of its logits. -1: as there. */
SPECULATIVE_API int speculation_next(speculation *g, sampler *s, mla_error *err);
SPECULATIVE_API const float *
speculation_logits(const speculation *g); /* [vocab_size], after speculation_run: of the token run last */
/* Cuts off what nobody has asked to run. */
SPECULATIVE_API void speculation_settle(speculation *g);
/* Another text that begins like this one: settles, and forgets the tokens from length on, and a few before, of which
   the extra layers know what came after. Gives the length that is left, from where to feed. */
SPECULATIVE_API int speculation_truncate(speculation *g, int length);
SPECULATIVE_API speculation_counts speculation_count(const speculation *g);

/* Whether a guess pays, in passes over a token of each of n sequences. A guess costs the time that made it, and what
   the pass over it, too, is longer; if it stands it saves a sequence's share of a pass. All are averages of late, by n.
   Begins with zeros. */
enum { SPECULATION_SIZES = 64 };
typedef struct speculation_hits {
    double guesses, stood;
} speculation_hits;
typedef struct speculation_odds {
    speculation_hits hits; /* of all sequences */
    double
        saved; /* seconds won and lost, and 2 % of all time: while it is not below 0, what does not pay may be tried */
    struct {
        int64_t passes;
        double plain, longer, made; /* seconds: of a pass without guesses; for each guess */
    } sizes[SPECULATION_SIZES];
} speculation_odds;

/* Some guesses were made, in so many seconds, in which nothing else was done if alone is 1. */
SPECULATIVE_API void speculation_made(speculation_odds *o, int n, int guesses, int alone, double seconds);
/* A pass over n sequences and some guesses, of which so many stood; n 0: not only that, so that nothing is learned. */
SPECULATIVE_API void speculation_passed(speculation_odds *o, int n, int guesses, int stood, double seconds);
/* A guess stood or did not, one of the sequence whose hits are own (zeros when it begins). */
SPECULATIVE_API void speculation_judged(speculation_odds *o, speculation_hits *own, int stood);
/* 1: a guess for this sequence is expected to pay in the next pass over n. Now and then it is 0 all the same, to
   measure a pass without. */
SPECULATIVE_API int speculation_pays(const speculation_odds *o, int n, const speculation_hits *own);

/* Many sequences in calls that the caller makes: after each the first of the extra layers follows, at once or when it
   is worth it, and guesses the token after the next. The caller runs a guess as one token more, and cuts it off if its
   sampler draws something else. */
enum { SPECULATION_BEHIND = 32, SPECULATION_TRY = 128 };
typedef struct speculation_follower { /* of a sequence */
    float *behind;                    /* [SPECULATION_BEHIND, hidden_size] states that the layer has not met yet */
    int n_behind;                     /* how many: those of the last positions */
    int follows;                      /* 1: it has met all others; 0: no guesses any more */
    int guess, idle;                  /* the next token but one, or -1; steps without a bet */
    speculation_hits hits;
} speculation_follower;
typedef struct speculation_part { /* of a call that was made: a sequence */
    speculation_follower *of;     /* NULL: it does not follow */
    mla_cache *cache;
    const int *next;     /* the token after the cache's last position, behind all tokens before it */
    const float *states; /* [n, hidden_size] after the last norm, of the call's n tokens */
    int n, bets, now;    /* bets: a guess is wanted; now: rows shall be there now; 2: it must not give up, either */
    int rows;            /* out: the layer's rows that were made, of the last positions */
} speculation_part;
typedef struct speculation_group {
    mla_context *context;
    int hidden_size, vocab_size, max_tokens;
    speculation_part *parts; /* [parts] to be filled for speculation_follow */
    int *tokens;             /* [max_tokens] */
    float *states, *logits;  /* [max_tokens, hidden_size], [parts, vocab_size] */
    mla_sequence *sequences; /* [parts] */
    double (*clock)(void);   /* seconds since anything; NULL: guesses pay always */
    speculation_odds odds;
} speculation_group;

/* For calls of at most max_tokens tokens of so many sequences; a sequence may have as many tokens, less one. Errors:
   ARGUMENT (the model has no such layer), UNSUPPORTED (layers with states), MEMORY. */
SPECULATIVE_API mla_result speculation_begin(speculation_group *g, const mla_model *model, mla_context *context,
                                             int max_tokens, int parts, mla_error *err);
SPECULATIVE_API void speculation_end(speculation_group *g); /* also of zeros */
SPECULATIVE_API double speculation_clock(const speculation_group *g);
/* 1: a guess is to be made for the next pass over n sequences: it pays, or is tried once more. Once in each step. */
SPECULATIVE_API int speculation_bets(const speculation_group *g, speculation_follower *f, int n);
/* After a call on n sequences, with parts [n]. Where a call of the layer fails its sequences follow no more, nor does
   one that costs what guesses have not won. */
SPECULATIVE_API void speculation_follow(speculation_group *g, int n);

#ifdef __cplusplus
}
#endif
#endif /* SPECULATIVE_H */

/* ================================================================================================================== */
#if defined SPECULATIVE_IMPLEMENTATION && !defined SPECULATIVE_IMPLEMENTED
#define SPECULATIVE_IMPLEMENTED

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The window: the last positions of the cache, of which a layer of depth k has rows made with tokens that were only
   guessed, or none. Of position i it needs the token at i + 1 + k, so that with `known` tokens known after a position,
   it is k >= known that is in doubt. After a prompt nothing is known after the last position: M positions stay in the
   window; after a guess, the one token: M - 1, and then come those that the model has run since: 2M at most. */
struct speculation {
    mla_context *context;
    mla_cache *cache;
    sampler **draft; /* [M] */
    int M, D, L, vocab, room;
    int *tokens;        /* [room + M + 1]: of the window's positions, and those after it */
    float *hidden;      /* [room, D]: the model's state there */
    float *state;       /* [room, D]: of an extra layer */
    float *logits;      /* [M + 1, vocab], of the tokens run, then one row of guesses */
    float **hidden_out; /* [L + 1] */
    int n;              /* positions in the window */
    int n_guesses, at;  /* guesses run behind the token, and how many of them have been asked for since */
    int ran;            /* 1: logits are there */
    int *guesses;       /* [M] */
    speculation_counts counts;
    const mla_model *model;
};

static mla_result speculation__fail(mla_error *err, mla_result code, const char *what) {
    if (err) err->code = code, err->sequence = -1, snprintf(err->text, sizeof err->text, "%s", what);
    return code;
}

static mla_result speculation__of(const speculation *g, mla_result rc, mla_error *err) {
    if (rc && err) *err = *mla_context_error(g->context);
    return rc;
}

int speculation_least(const mla_model *model) { return 2 * mla_model_config(model)->num_nextn_predict_layers + 1; }

double speculation_bytes(const mla_model *model, int max_tokens) {
    const mla_config *c = mla_model_config(model);
    const double M = c->num_nextn_predict_layers, V = c->vocab_size;
    return 4.0 * (2.0 * max_tokens * c->hidden_size + (M + 2) * V) +
           M * 32.0 * V; /* samplers have 32 bytes for a token */
}

void speculation_destroy(speculation *g) {
    if (!g) return;
    for (int i = 0; g->draft && i < g->M; i++) sampler_destroy(g->draft[i]);
    free((void *)g->draft), free(g->tokens), free(g->hidden), free(g->state), free(g->logits),
        free((void *)g->hidden_out), free(g->guesses);
    free(g);
}

mla_result speculation_create(speculation **out, const mla_model *model, mla_context *context, int max_tokens,
                              mla_cache *cache, const sampler_desc *how, mla_error *err) {
    if (out) *out = NULL;
    if (!out || !model || !context || !cache)
        return speculation__fail(err, MLA_ERR_ARGUMENT, "speculation_create: out, model, context or cache is NULL");
    const mla_config *c = mla_model_config(model);
    if (c->num_nextn_predict_layers < 1)
        return speculation__fail(err, MLA_ERR_ARGUMENT,
                                 "speculation_create: the model has no layer of multi-token prediction");
    if (c->linear_num_heads > 0)
        return speculation__fail(err, MLA_ERR_UNSUPPORTED,
                                 "speculation_create: layers have states, from which no guess can be cut off");
    if (max_tokens < speculation_least(model))
        return speculation__fail(err, MLA_ERR_ARGUMENT,
                                 "speculation_create: max_tokens is less than speculation_least");
    if (mla_cache_length(cache))
        return speculation__fail(err, MLA_ERR_ARGUMENT, "speculation_create: the cache is not empty");
    speculation *g = (speculation *)calloc(1, sizeof *g);
    if (!g) return speculation__fail(err, MLA_ERR_MEMORY, "speculation_create: out of memory");
    g->model = model, g->context = context, g->cache = cache;
    g->M = c->num_nextn_predict_layers, g->D = c->hidden_size, g->L = c->num_hidden_layers, g->vocab = c->vocab_size,
    g->room = max_tokens;
    const size_t M = (size_t)g->M, D = (size_t)g->D, T = (size_t)g->room;
    g->draft = (sampler **)calloc(M, sizeof *g->draft);
    g->tokens = (int *)calloc(T + M + 1, sizeof *g->tokens);
    g->hidden = D <= SIZE_MAX / 4 / T ? (float *)calloc(T * D, sizeof *g->hidden) : NULL;
    g->state = D <= SIZE_MAX / 4 / T ? (float *)calloc(T * D, sizeof *g->state) : NULL;
    g->logits = (float *)calloc((M + 2) * (size_t)g->vocab, sizeof *g->logits);
    g->hidden_out = (float **)calloc((size_t)g->L + 1, sizeof *g->hidden_out);
    g->guesses = (int *)calloc(M, sizeof *g->guesses);
    mla_result rc = g->draft && g->tokens && g->hidden && g->state && g->logits && g->hidden_out && g->guesses
                        ? MLA_OK
                        : speculation__fail(err, MLA_ERR_MEMORY, "speculation_create: out of memory");
    sampler_desc other;
    memset(&other, 0, sizeof other);
    if (how) other = *how;
    for (int i = 0; i < g->M && !rc; i++) {
        other.seed = (other.seed ^ 0x6a09e667f3bcc909u) * 0x9E3779B97F4A7C15u + 1;
        rc = sampler_create(&g->draft[i], g->vocab, &other, err);
    }
    if (rc) speculation_destroy(g);
    else *out = g;
    return rc;
}

int speculation_chunk(const speculation *g) { return g->room - 2 * g->M; }
const float *speculation_logits(const speculation *g) { return g->logits + (size_t)g->at * (size_t)g->vocab; }
speculation_counts speculation_count(const speculation *g) { return g->counts; }

/* The window keeps its last positions, `keep` of them at most. */
static void speculation__keep(speculation *g, int keep) {
    const int gone = g->n > keep ? g->n - keep : 0;
    memmove(g->tokens, g->tokens + gone, (size_t)(g->n - gone) * sizeof *g->tokens);
    memmove(g->hidden, g->hidden + (size_t)gone * (size_t)g->D,
            (size_t)(g->n - gone) * (size_t)g->D * sizeof *g->hidden);
    g->n -= gone;
}

/* The model on the n tokens that stand behind the window, which then has them. */
static mla_result speculation__model(speculation *g, int n, int n_logits, const mla_outputs *asked, mla_error *err) {
    mla_sequence sequence;
    mla_outputs out;
    memset(&sequence, 0, sizeof sequence), memset(&out, 0, sizeof out);
    sequence.cache = g->cache, sequence.n_tokens = n, sequence.n_logits = n_logits;
    if (asked) out = *asked;
    g->hidden_out[g->L] = g->hidden + (size_t)g->n * (size_t)g->D;
    out.hidden = g->hidden_out;
    const mla_result rc = speculation__of(g, mla_model_forward(g->context, &sequence, 1, g->tokens + g->n, &out), err);
    if (!rc) g->n += n;
    return rc;
}

/* The extra layer on the window, whose tokens are followed by depth + 1 more. logits [vocab] of the last position, or
 * NULL. */
static mla_result speculation__ahead(speculation *g, int depth, float *logits, mla_error *err) {
    float *hidden[2] = {NULL, g->state};
    mla_sequence sequence;
    mla_outputs out;
    memset(&sequence, 0, sizeof sequence), memset(&out, 0, sizeof out);
    sequence.cache = g->cache, sequence.n_tokens = g->n, sequence.n_logits = 1;
    out.hidden = hidden, out.logits = logits;
    g->counts.bytes += mla_mtp_bytes(g->model, depth, g->n);
    return speculation__of(
        g, mla_mtp_forward(g->context, depth, &sequence, 1, g->tokens + 1 + depth, depth ? g->state : g->hidden, &out),
        err);
}

void speculation_settle(speculation *g) {
    const int cut = g->n_guesses - g->at;
    if (!g->ran) return;
    mla_cache_truncate(g->cache, mla_cache_length(g->cache) - cut, NULL);
    g->n -= cut, g->n_guesses = g->at;
}

int speculation_truncate(speculation *g, int length) {
    speculation_settle(g);
    const int sure = mla_cache_length(g->cache) - g->n;
    length = length - g->M < sure ? length - g->M : sure; /* the M positions before have met what came after */
    length = length > 0 ? length : 0;
    mla_cache_truncate(g->cache, length, NULL);
    g->n = g->n_guesses = g->at = g->ran = 0;
    return length;
}

mla_result speculation_feed(speculation *g, const int *tokens, int n, int n_logits, const mla_outputs *out,
                            mla_error *err) {
    if (!tokens || n < 1 || n > speculation_chunk(g) || (out && out->hidden))
        return speculation__fail(
            err, MLA_ERR_ARGUMENT,
            "speculation_feed: tokens is NULL, n is not in 1..speculation_chunk, or out.hidden is not NULL");
    speculation_settle(g);
    g->n_guesses = g->at = g->ran = 0;
    memcpy(g->tokens + g->n, tokens, (size_t)n * sizeof *tokens);
    mla_result rc = speculation__model(g, n, n_logits, out, err);
    if (rc) return rc;
    for (int k = 0; k < g->M && !rc; k++) { /* what comes after is not known: the last rows will be written again */
        g->tokens[g->n + k] = tokens[n - 1];
        rc = speculation__ahead(g, k, NULL, err);
    }
    if (rc) { /* as if nothing had been fed */
        mla_cache_truncate(g->cache, mla_cache_length(g->cache) - n, NULL);
        g->n -= n;
        return rc;
    }
    speculation__keep(g, g->M);
    return MLA_OK;
}

mla_result speculation_run(speculation *g, int token, const sampler *s, int most, mla_error *err) {
    mla_outputs out;
    mla_result rc = MLA_OK;
    if (g->ran && g->at < g->n_guesses && token == g->guesses[g->at]) {
        g->at++;
        return MLA_OK;
    }
    speculation_settle(g);
    const int room = mla_cache_capacity(g->cache) - mla_cache_length(g->cache) - 1;
    float *const logits = g->logits + (size_t)(g->M + 1) * (size_t)g->vocab;
    g->n_guesses = g->at = g->ran = 0;
    g->tokens[g->n] = token;
    most = most < room ? most : room;
    for (int k = 0; k < g->M && !rc; k++) {
        rc = speculation__ahead(g, k, logits, err);
        if (rc) return rc;
        sampler_follow(g->draft[k], k ? g->draft[k - 1] : s);
        if (k) sampler_accept(g->draft[k], g->guesses[k - 1]);
        /* without a guess the deeper layers still need their rows; and logits that are no numbers give none */
        const int guess = g->n_guesses == k && k < most ? sampler_next(g->draft[k], logits, NULL) : -1;
        if (guess >= 0) g->guesses[g->n_guesses++] = guess;
        g->tokens[g->n + 1 + k] = guess >= 0 ? guess : token;
    }
    speculation__keep(g, g->M); /* one more than is needed then, so that a pass that fails can be tried again */
    g->tokens[g->n] = token;
    memcpy(g->tokens + g->n + 1, g->guesses, (size_t)g->n_guesses * sizeof *g->guesses);
    memset(&out, 0, sizeof out);
    out.logits = g->logits;
    rc = speculation__model(g, 1 + g->n_guesses, 1 + g->n_guesses, &out, err);
    if (rc) return rc;
    speculation__keep(g, g->M + g->n_guesses);
    g->ran = 1;
    g->counts.passes++, g->counts.guesses += g->n_guesses;
    return MLA_OK;
}

int speculation_next(speculation *g, sampler *s, mla_error *err) {
    if (!g->ran) {
        speculation__fail(err, MLA_ERR_ARGUMENT, "speculation_next: no token has been run");
        return -1;
    }
    if (g->at == g->n_guesses) return sampler_next(s, speculation_logits(g), err);
    const int token = sampler_verify(s, speculation_logits(g), g->draft[g->at], g->guesses[g->at], err);
    g->counts.accepted += token == g->guesses[g->at];
    return token;
}

static int speculation__size(int n) { return n < SPECULATION_SIZES ? n : SPECULATION_SIZES - 1; }
/* Averages of late: the first value as it is. */
static void speculation__average(double *x, double seconds) { *x = *x != 0 ? *x + (seconds - *x) / 8 : seconds; }

void speculation_made(speculation_odds *o, int n, int guesses, int alone, double seconds) {
    o->saved -= seconds;
    if (alone && guesses) speculation__average(&o->sizes[speculation__size(n)].made, seconds / guesses);
}
void speculation_passed(speculation_odds *o, int n, int guesses, int stood, double seconds) {
    const int size = speculation__size(n);
    const double plain = o->sizes[size].plain;
    o->saved += 0.02 * seconds;
    if (o->saved > 0) o->saved -= o->saved / 1024; /* what has been won long ago is not to be lost now */
    if (n == 0) return;
    o->sizes[size].passes++;
    if (!guesses) speculation__average(&o->sizes[size].plain, seconds);
    else if (plain != 0) {
        speculation__average(&o->sizes[size].longer, (seconds - plain) / guesses);
        o->saved += stood * plain / n - (seconds - plain);
    }
}
void speculation_judged(speculation_odds *o, speculation_hits *own, int stood) {
    own->guesses++, own->stood += stood, o->hits.guesses++, o->hits.stood += stood;
    if (own->guesses > 32) own->guesses /= 2, own->stood /= 2;
    if (o->hits.guesses > 256) o->hits.guesses /= 2, o->hits.stood /= 2;
}
/* Of a few guesses not much is known: then they count with what was known before, in the place of four. */
static double speculation__rate(const speculation_hits *h, double before) {
    return (4 * before + h->stood) / (4 + h->guesses);
}
int speculation_pays(const speculation_odds *o, int n, const speculation_hits *own) {
    const int size = speculation__size(n);
    const double plain = o->sizes[size].plain, cost = o->sizes[size].longer + o->sizes[size].made;
    return o->sizes[size].passes % 32 != 0 && plain != 0 &&
           speculation__rate(own, speculation__rate(&o->hits, 1)) * plain / n > cost;
}

mla_result speculation_begin(speculation_group *g, const mla_model *model, mla_context *context, int max_tokens,
                             int parts, mla_error *err) {
    const mla_config *c = mla_model_config(model);
    const size_t T = (size_t)max_tokens, n = (size_t)parts, D = (size_t)c->hidden_size, V = (size_t)c->vocab_size;
    memset(g, 0, sizeof *g);
    if (c->num_nextn_predict_layers < 1)
        return speculation__fail(err, MLA_ERR_ARGUMENT,
                                 "speculation_begin: the model has no layer of multi-token prediction");
    if (c->linear_num_heads > 0)
        return speculation__fail(err, MLA_ERR_UNSUPPORTED,
                                 "speculation_begin: layers have states, from which no guess can be cut off");
    g->context = context, g->hidden_size = c->hidden_size, g->vocab_size = c->vocab_size, g->max_tokens = max_tokens;
    g->parts = (speculation_part *)calloc(n, sizeof *g->parts);
    g->sequences = (mla_sequence *)calloc(n, sizeof *g->sequences);
    g->tokens = (int *)calloc(T, sizeof *g->tokens);
    g->states = (float *)calloc(T * D, sizeof *g->states);
    g->logits = (float *)calloc(n * V, sizeof *g->logits);
    if (g->parts && g->sequences && g->tokens && g->states && g->logits) return MLA_OK;
    return speculation__fail(err, MLA_ERR_MEMORY, "speculation_begin: out of memory");
}
void speculation_end(speculation_group *g) {
    free(g->parts), free(g->sequences), free(g->tokens), free(g->states), free(g->logits);
}

double speculation_clock(const speculation_group *g) { return g->clock ? g->clock() : 0; }

int speculation_bets(const speculation_group *g, speculation_follower *f, int n) {
    return !g->clock || (++f->idle > SPECULATION_TRY && g->odds.saved >= 0) || speculation_pays(&g->odds, n, &f->hits);
}

/* The layer on T rows of some parts. */
static void speculation__rows(speculation_group *g, int from, int to, int T, int n_sequences) {
    mla_outputs out;
    int n = 0, at = 0, bets = 0;
    memset(&out, 0, sizeof out);
    out.logits = g->logits;
    for (speculation_part *p = g->parts + from; p < g->parts + to; p++) {
        if (!p->rows) continue;
        memset(&g->sequences[n], 0, sizeof g->sequences[n]);
        g->sequences[n].cache = p->cache, g->sequences[n].n_tokens = p->rows, g->sequences[n++].n_logits = p->bets;
        memcpy(g->tokens + at, p->next + 1 - p->rows, (size_t)p->rows * sizeof *g->tokens);
        at += p->rows, bets += p->bets;
    }
    const double begun = speculation_clock(g);
    const mla_result rc = mla_mtp_forward(g->context, 0, g->sequences, n, g->tokens, g->states, &out);
    speculation_made(&g->odds, n_sequences, bets, T <= 2 * bets, speculation_clock(g) - begun);
    for (speculation_part *p = g->parts + from; p < g->parts + to; p++) {
        if (!p->rows) continue;
        p->of->n_behind = 0, p->of->follows = !rc;
        if (!p->bets || rc) continue;
        sampler_likeliest(out.logits, g->vocab_size, 1, &p->of->guess);
        out.logits += g->vocab_size, p->of->idle = 0;
    }
}

void speculation_follow(speculation_group *g, int n) {
    const size_t D = (size_t)g->hidden_size, row = D * sizeof *g->states;
    int from = 0, T = 0;
    for (int i = 0; i < n; i++) {
        speculation_part *p = &g->parts[i];
        speculation_follower *f = p->of;
        p->rows = 0;
        if (!f) continue;
        const int rows = f->n_behind + p->n, later = !p->bets && !p->now && rows <= SPECULATION_BEHIND;
        if (!p->bets && !later && p->now < 2 && g->odds.saved < 0) f->follows = 0;
        if (!f->follows) continue;
        if (!later && T + rows > g->max_tokens) speculation__rows(g, from, i, T, n), from = i, T = 0;
        float *to = later ? f->behind : g->states + (size_t)T * D;
        if (!later) memcpy(to, f->behind, (size_t)f->n_behind * row);
        memcpy(to + (size_t)f->n_behind * D, p->states, (size_t)p->n * row);
        if (later) f->n_behind = rows;
        else T += p->rows = rows;
    }
    if (T) speculation__rows(g, from, n, T, n);
}

#endif /* SPECULATIVE_IMPLEMENTATION */
