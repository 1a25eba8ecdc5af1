/* scheduler.h - many requests at one model: prompts in, tokens out by callback, one forward call a step.

USE
   In exactly one file:      #define SCHEDULER_IMPLEMENTATION
                             #include "scheduler.h"
   In all others:            #include "scheduler.h"          (after mla.h, or with it and sampler.h, speculative.h
                             and prefixes.h on the include path; all are implemented somewhere in the program)

   scheduler_desc how; memset(&how, 0, sizeof how);   how.model = model;   how.context = context;   how.parallel = 16;
   if (scheduler_create(&s, &how, &error)) puts(error.text);
   scheduler_request r; memset(&r, 0, sizeof r);
   r.tokens = prompt;   r.n_tokens = n;   r.max_tokens = 100;   r.on_event = print;   r.user = file;
   if (scheduler_submit(s, &r, &id, &error)) puts(error.text);
   while (scheduler_step(s)) continue;   ...   scheduler_destroy(s);       print is called with each token

A STEP         is one forward call: a token of each request that has read its prompt, then pieces of prompts as the
               budget allows, those first that have waited longest: one that arrives is in the next call but one at the
               latest if one of the `parallel` places is free, which are taken in the order of arrival.
PREFIXES       A tree has the pages of the prompts read so far, by requests that run and by those that are gone; a
               request begins behind the longest prefix in it that is its own. When the pool is full, what was used
               longest ago goes; then the youngest request, to be run again later: its tokens are not given twice.
SAME LOGITS    A prompt is cut at positions that depend on it alone: into pieces of a page, from position 2048 on of
               two, from 4096 on of four and so on up to `chunk` tokens; of halves of these at its end, then the rest.
               Prefixes are shared at these cuts. Tokens of an answer are run one by one, also when they are run again,
               and read as any prompt when they come back in one. So with a context whose desc says invariant, logits
               and tokens are bit for bit those of the request alone, cached or not, whatever runs beside it. With
               any_cut pieces have `chunk` tokens, all pages are shared, those of answers, too, and what is run again
               is read: faster, and the same to rounding. Layers with states (KDA) have them at the cuts alone: any_cut
               and guesses mean nothing then, pieces have `chunk` tokens, and at most desc.states stay, the further
               apart the more there is before them.
SPECULATION    The model's first layer of multi-token prediction guesses the token after the next; a call that reads no
               prompt runs it, too, and it stands if it is what the request's sampler draws: answers are the same, bit
               for bit as above. The layer's rows are in the same pages; behind a prefix without them nobody guesses.
THREADS        No globals, no printing. One thread at a time calls these functions.

CONTENTS       >>scheduler (the API)   then >>prefixes >>requests >>plan >>tokens >>steps
   SPDX-License-Identifier: MIT */

#ifndef SCHEDULER_H
#define SCHEDULER_H

#include "prefixes.h"
#include "speculative.h" /* and with it sampler.h */

#ifndef SCHEDULER_API
#define SCHEDULER_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- >>scheduler ------------------------------------------------------------------------------------------------- */

enum { SCHEDULER_MAX_TOP = 20, SCHEDULER_MAX_STOPS = 16, SCHEDULER_MAX_PARALLEL = 1024 };

typedef struct scheduler scheduler;

/* Zero means default. model and context are the caller's and outlive the scheduler; nobody else may use the context
   while a step runs. */
typedef struct scheduler_desc {
    const mla_model *model;
    mla_context *context;
    int n_pages;                  /* of the pool; 0: as many as pool_bytes hold */
    size_t pool_bytes;            /* about; 0: what `parallel` requests of full length take */
    mla_dtype dtype, index_dtype; /* of the pool: rows and index keys, F32, F16, BF16 or Q8 */
    int parallel;                 /* requests run at the same time; 0: 32 */
    int context_length;           /* most tokens of a request, prompt and answer together; 0: 4096 */
    int budget; /* most tokens in a call: at most the context's max_tokens, at least parallel - 1 + chunk; 0: 512 */
    int chunk;  /* most tokens of one prompt in a call, MLA_PAGE times a power of two; 0: 256, or what budget allows */
    int states; /* where layers have states (KDA): prefixes that are kept, each with a copy of them; 0: 64 */
    int any_cut, speculate; /* 1: see SAME LOGITS; SPECULATION, where it pays, by clock, or without one always */
    double (*clock)(void);  /* seconds since anything */
    mla_allocator alloc;    /* of the pool */
    mla_run run; /* draws tokens of different requests at the same time, as the context's; NULL: one by one */
    void *run_user;
} scheduler_desc;

/* Errors: ARGUMENT, MEMORY. err may be NULL, also below. */
SCHEDULER_API mla_result scheduler_create(scheduler **out, const scheduler_desc *desc, mla_error *err);
SCHEDULER_API void scheduler_destroy(scheduler *s); /* calls no callback; not from a callback; NULL is fine */

typedef enum scheduler_kind {
    SCHEDULER_GENERATE = 0,
    SCHEDULER_EMBED_MEAN, /* hidden states after the model's last norm: their mean over the prompt (f64 sum) */
    SCHEDULER_EMBED_LAST  /* that of the last token */
} scheduler_kind;

typedef enum scheduler_finish {
    SCHEDULER_GOES_ON = 0,
    SCHEDULER_STOP,   /* the token is one of the request's stops */
    SCHEDULER_LENGTH, /* max_tokens tokens */
    SCHEDULER_DONE,   /* an embedding: all of it */
    SCHEDULER_FAILED  /* no token, event.error says why */
} scheduler_finish;

typedef struct scheduler_logprob {
    int token;
    float logprob; /* natural logarithm of the probability by the model's own logits: before adjust, temperature 1 */
} scheduler_logprob;

typedef struct scheduler_event { /* all pointers are good until the callback returns */
    int64_t id;
    int token;                    /* -1: none (SCHEDULER_DONE, SCHEDULER_FAILED) */
    scheduler_finish finish;      /* but for GOES_ON this is the request's last event, and the id is void */
    float logprob;                /* of token, if the request wants logprobs */
    const scheduler_logprob *top; /* [n_top] the likeliest, best first, of equals the lower token first */
    int n_top;
    const float *logits;                 /* [vocab_size] what was drawn from, after adjust */
    const float *embedding;              /* [hidden_size] of SCHEDULER_DONE, not normalised */
    int n_prompt, n_cached, n_generated; /* tokens: of the prompt; of these found in the cache; with this one */
    const mla_error *error;              /* of SCHEDULER_FAILED */
} scheduler_event;

/* Called from scheduler_step. It may submit, cancel any request (this one, too), cancel all, forget. */
typedef void (*scheduler_on_event)(void *user, const scheduler_event *event);
/* Changes the logits [vocab_size] from which the next token is drawn, in place (a grammar's mask: -INFINITY; a bias).
   Called once for each token of the answer, in order, before it is drawn; with desc.run on any thread, at the same time
   as those of other requests. Must not call the scheduler. */
typedef void (*scheduler_adjust)(void *user, float *logits);

typedef struct scheduler_request {
    scheduler_kind kind;
    const int *tokens;        /* [n_tokens] the prompt, copied */
    int n_tokens, max_tokens; /* max_tokens of the answer, at least 1; embeddings: not looked at */
    sampler_desc sampling;    /* zeros: greedy; the repeat penalty sees the prompt, too */
    const int *stops;         /* [n_stops] tokens that end the answer, copied; at most SCHEDULER_MAX_STOPS */
    int n_stops;
    int logprobs, n_top; /* 1: event.logprob; likeliest tokens wanted, 0..SCHEDULER_MAX_TOP, above 0 implies logprobs */
    int no_cache;        /* 1: neither looks for its prefix in the cache nor leaves it there; EMBED_MEAN never does */
    scheduler_on_event on_event;
    scheduler_adjust adjust; /* NULL: none */
    void *user;              /* of both */
} scheduler_request;

/* Puts a request behind all others, with all memory it needs. *id (may be NULL) is above 0 and never given again.
   Errors name the field: ARGUMENT, FULL (n_tokens + max_tokens are more than context_length or the pool), MEMORY. */
SCHEDULER_API mla_result scheduler_submit(scheduler *s, const scheduler_request *request, int64_t *id, mla_error *err);
/* The request is gone at once, its pages are free, its callback is not called again. 0: there is no such request (any
   more). At any time, also from a callback. */
SCHEDULER_API int scheduler_cancel(scheduler *s, int64_t id);
SCHEDULER_API void scheduler_cancel_all(scheduler *s);
SCHEDULER_API void scheduler_forget(scheduler *s); /* drops all cached prefixes that no running request uses */
/* Does one forward call and calls the callbacks. 1: there is more to do; 0: nothing runs and nothing waits. A call that
   fails ends the requests in it with SCHEDULER_FAILED; one that the context's watch aborts changes nothing. Not from a
   callback. */
SCHEDULER_API int scheduler_step(scheduler *s);

typedef struct scheduler_stats {
    int running, waiting;                        /* requests */
    int pages, free_pages, cached_pages;         /* of the pool; cached: prefixes that nobody uses, as good as free */
    int last_tokens, last_sequences;             /* of the last call */
    int64_t steps, requests;                     /* forward calls; submitted so far */
    int64_t prompt_tokens, cached_tokens;        /* of prompts: read by the model; found in the cache */
    int64_t generated_tokens, guesses, accepted; /* guesses that were verified; that stood */
    int64_t preemptions, recomputed_tokens;      /* requests put back; tokens that were run again */
} scheduler_stats;
SCHEDULER_API scheduler_stats scheduler_statistics(const scheduler *s);

#ifdef __cplusplus
}
#endif
#endif /* SCHEDULER_H */

/* ================================================================================================================== */
#if defined SCHEDULER_IMPLEMENTATION && !defined SCHEDULER_IMPLEMENTED
#define SCHEDULER_IMPLEMENTED

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SD__SHORT = 16 }; /* tokens: sequences of no more stand before the others in a call, as invariant likes it */

typedef struct sd__job {
    struct sd__job *older, *newer;
    int64_t id, served, tried; /* the steps when a piece of its prompt was read last, and considered */
    scheduler_request how;
    int stops[SCHEDULER_MAX_STOPS];
    int *tokens, known;                  /* [n_tokens + max_tokens] prompt and answer, of which so many are there */
    int at, seen, n_cached, runs, apart; /* tokens in its cache; ever there; apart: none are kept in the tree */
    prefixes_piece *prefix;              /* the last piece that it has in common with the tree */
    mla_cache *cache;
    sampler *draws;             /* of one that generates */
    speculation_follower ahead; /* its memory is NULL if there are to be no guesses */
    int copied;                 /* pages in its cache in place of those of its prefix */
    double *sum;                /* [hidden_size] for an embedding */
    float *raw;                 /* [vocab_size] logits before adjust, if logprobs are wanted */
} sd__job;

typedef struct sd__entry {    /* of a call */
    sd__job *job;             /* NULL: cancelled since */
    int n, token, guess, due; /* tokens, a guess (or -1) the last of them until it is drawn; something to deliver */
    float *logits, *hidden, logprob; /* its row, and its rows of the last state */
    scheduler_logprob top[SCHEDULER_MAX_TOP];
    mla_error err;
} sd__entry;

struct scheduler {
    scheduler_desc how; /* defaults resolved */
    const mla_config *config;
    mla_pool *pool;
    prefixes tree;
    sd__job *first, *last, *waiting; /* in the order of arrival; waiting: the first of those that do not run */
    sd__entry *plan;                 /* [parallel] */
    mla_sequence *sequences;         /* [parallel] */
    int *tokens;                     /* [budget] */
    float *logits, *hidden;          /* [2 * parallel, vocab_size]; [budget, hidden_size] */
    speculation_group ahead;
    float **hidden_out;                                            /* [num_hidden_layers + 1] */
    int n_plan, n_short, plan_tokens, plan_pages, reads, stepping; /* reads: it is not all one token of each */
    int64_t ids;
    scheduler_stats stats;
};

static mla_result sd__fail(mla_error *err, mla_result code, const char *what) {
    if (err) snprintf(err->text, sizeof err->text, "%s", what), err->code = code;
    return code;
}
/* low <= x <= high, or the field is named. */
static mla_result sd__range(mla_error *err, mla_result code, const char *field, int64_t x, int64_t low, int64_t high) {
    char what[160];
    if (x >= low && x <= high) return MLA_OK;
    snprintf(what, sizeof what, "scheduler_%s: %.0f is not in %.0f..%.0f", field, (double)x, (double)low, (double)high);
    return sd__fail(err, code, what);
}

static int sd__pages(int64_t tokens) { return (int)((tokens + MLA_PAGE - 1) / MLA_PAGE); }

/* ---- >>prefixes -------------------------------------------------------------------------------------------------- */

/* j goes on behind p. Its last row of the layer that guesses was made with another next token: once more. */
static void sd__fork(scheduler *s, sd__job *j, prefixes_piece *p) {
    if (mla_cache_length(j->cache) <= p->end) {
        mla_cache_fork(j->cache, p->cache, NULL); /* of one pool, and the capacity is that of all */
        j->ahead.n_behind = j->ahead.follows = j->ahead.follows && p->state, j->copied = 0;
        if (j->ahead.follows) memcpy(j->ahead.behind, p->state, (size_t)s->config->hidden_size * sizeof(float));
    }
    prefixes_hold(&s->tree, p), prefixes_leave(&s->tree, j->prefix);
    j->prefix = p;
}

/* Tokens of the pieces that become prefixes out of what a call has read; of states also the last whole one. */
static int sd__kept(const scheduler *s, const sd__entry *e) {
    const int n = e->job->at - e->job->prefix->end, left = e->job->how.n_tokens - e->job->at;
    if (e->job->apart || (!s->how.any_cut && e->n % MLA_PAGE)) return INT_MAX;
    if (!s->config->linear_num_heads) return s->how.any_cut ? MLA_PAGE : e->n;
    return left <= s->how.chunk || n >= prefixes_span(e->job->prefix->end, s->how.chunk) ? n : INT_MAX;
}
/* They do; or j's own copy of what the tree has meanwhile goes. */
static void sd__keep(scheduler *s, const sd__entry *e) {
    sd__job *j = e->job;
    for (int n; j->at > j->prefix->end && j->at - j->prefix->end >= (n = sd__kept(s, e));) {
        const int *tokens = j->tokens + j->prefix->end;
        const float *state = e->hidden + (j->prefix->end + n - 1 - (j->at - e->n)) * (ptrdiff_t)s->config->hidden_size;
        const int n_state = j->ahead.follows && !j->ahead.n_behind ? s->config->hidden_size : 0;
        prefixes_piece *p = prefixes_find(&s->tree, j->prefix, tokens, n);
        while (!p && s->config->linear_num_heads && s->tree.n >= s->how.states && prefixes_drop(&s->tree)) continue;
        if (p) sd__fork(s, j, p);
        else if (s->config->linear_num_heads && s->tree.n >= s->how.states) j->apart = 1; /* all are in use */
        else if ((p = prefixes_add(&s->tree, j->prefix, j->cache, tokens, n, state, n_state)) != NULL)
            p->pages += j->copied, j->copied = 0, j->prefix = p;
        else j->apart = 1; /* no memory for it: nobody will find the rest either */
    }
}

/* ---- >>requests -------------------------------------------------------------------------------------------------- */

/* Is there more to read, a prompt or what was run before? Else j waits for the token after its last. */
static int sd__reads(const scheduler *s, const sd__job *j) {
    return j->at < j->how.n_tokens || (s->how.any_cut && j->at + 1 < j->known);
}
/* Tokens of j in its next call. */
static int sd__piece(const scheduler *s, const sd__job *j) {
    const int left = (s->how.any_cut ? j->known : j->how.n_tokens) - j->at;
    int n = s->how.any_cut || s->config->linear_num_heads ? s->how.chunk : MLA_PAGE;
    while (n < s->how.chunk && 32 * n <= j->at) n *= 2;
    while (n > left && n > MLA_PAGE && !s->how.any_cut) n /= 2;
    return left > n ? n : left > 0 ? left : 1;
}
/* Of these, as many as are a piece of the tree; `whole`: all up to the next that is kept with its states. */
static int sd__grain(const scheduler *s, const sd__job *j, int whole) {
    const int n = s->how.any_cut ? MLA_PAGE : sd__piece(s, j), left = j->how.n_tokens - 1 - j->at, step = s->how.chunk;
    if (!whole || !s->config->linear_num_heads || n < step || left < step) return n;
    return left < prefixes_span(j->at, step) ? left / step * step : prefixes_span(j->at, step);
}

/* j goes on behind the longest prefix that the tree has of it; the last token is always run, for its logits. */
static void sd__match(scheduler *s, sd__job *j) {
    prefixes_piece *p = j->prefix;
    const int end = s->how.any_cut ? j->known : j->how.n_tokens;
    if (j->apart || j->at != p->end) return;
    for (prefixes_piece *next = p; next;) {
        int least = sd__grain(s, j, 0), n = sd__grain(s, j, 1);
        for (next = NULL; !next && n >= least; n -= s->how.chunk)
            if (j->at + n < end) next = prefixes_find(&s->tree, p, j->tokens + j->at, n);
        if (next) p = next, j->at = p->end;
    }
    if (p != j->prefix) sd__fork(s, j, p);
}

/* It has nothing more of the pool, and waits. */
static void sd__unseat(scheduler *s, sd__job *j) {
    for (sd__entry *e = s->plan; e < s->plan + s->n_plan; e++) {
        if (e->job != j) continue;
        s->plan_tokens -= e->n, s->plan_pages -= sd__pages(j->at + e->n) - sd__pages(j->at), e->job = NULL;
    }
    if (!j->runs) return;
    mla_cache_reset(j->cache), prefixes_leave(&s->tree, j->prefix);
    s->stats.running--, s->stats.waiting++;
    j->runs = j->at = 0, j->served = 0, j->apart = j->how.no_cache, j->prefix = &s->tree.root;
    for (int i = 0; j->how.kind && i < s->config->hidden_size; i++) j->sum[i] = 0;
}

static void sd__free(sd__job *j) {
    sampler_destroy(j->draws), mla_cache_destroy(j->cache);
    free(j->tokens), free(j->sum), free(j->raw), free(j->ahead.behind), free(j);
}

/* Takes j out of everything; what is left of it is the caller's. */
static void sd__remove(scheduler *s, sd__job *j) {
    sd__unseat(s, j), s->stats.waiting--;
    if (s->waiting == j) s->waiting = j->newer;
    *(j->older ? &j->older->newer : &s->first) = j->newer;
    *(j->newer ? &j->newer->older : &s->last) = j->older;
}

static mla_result sd__check(const scheduler *s, const scheduler_request *r, mla_error *err) {
    const int vocab = s->config->vocab_size, answer = r->kind == SCHEDULER_GENERATE ? r->max_tokens : 0;
    const int64_t all = (int64_t)r->n_tokens + answer, held = (int64_t)s->how.n_pages * MLA_PAGE;
    const int top = vocab < SCHEDULER_MAX_TOP ? vocab : SCHEDULER_MAX_TOP;
    const mla_result wrong = MLA_ERR_ARGUMENT, full = MLA_ERR_FULL;
    mla_result rc = sd__range(err, wrong, "request.kind", (int)r->kind, 0, SCHEDULER_EMBED_LAST);
    if (!rc && !r->on_event) rc = sd__fail(err, wrong, "scheduler_request.on_event is NULL");
    if (!rc && (!r->tokens || r->n_tokens < 1)) rc = sd__fail(err, wrong, "scheduler_request: the prompt is empty");
    if (!rc && !r->kind) rc = sd__range(err, wrong, "request.max_tokens", answer, 1, INT_MAX);
    if (!rc) rc = sd__range(err, wrong, "request.n_top", r->n_top, 0, top);
    if (!rc) rc = sd__range(err, wrong, "request.n_stops", r->n_stops, 0, r->stops ? SCHEDULER_MAX_STOPS : 0);
    if (!rc) rc = sd__range(err, full, "request.n_tokens + max_tokens (context_length)", all, 1, s->how.context_length);
    if (!rc) rc = sd__range(err, full, "request.n_tokens + max_tokens (all of the pool)", all, 1, held);
    for (int i = 0; !rc && i < r->n_tokens; i++)
        rc = sd__range(err, wrong, "request.tokens", r->tokens[i], 0, vocab - 1);
    return rc;
}

mla_result scheduler_submit(scheduler *s, const scheduler_request *request, int64_t *id, mla_error *err) {
    if (id) *id = 0;
    if (!s || !request) return sd__fail(err, MLA_ERR_ARGUMENT, "scheduler_submit: scheduler or request is NULL");
    mla_result rc = sd__check(s, request, err);
    if (rc) return rc;
    const size_t D = (size_t)s->config->hidden_size, V = (size_t)s->config->vocab_size, n = (size_t)request->n_tokens;
    const int generate = request->kind == SCHEDULER_GENERATE;
    mla_cache_desc d;
    memset(&d, 0, sizeof d);
    d.capacity = request->n_tokens + (generate ? request->max_tokens : 0), d.pool = s->pool;
    sd__job *j = (sd__job *)calloc(1, sizeof *j);
    if (!j) return sd__fail(err, MLA_ERR_MEMORY, "scheduler_submit: out of memory");
    j->how = *request, j->how.logprobs |= request->n_top > 0;
    j->tokens = (int *)malloc((size_t)d.capacity * sizeof *j->tokens);
    j->sum = (double *)calloc(generate ? 1 : D, sizeof *j->sum);
    j->raw = (float *)malloc((j->how.logprobs ? V : 1) * sizeof *j->raw);
    if (generate && s->ahead.states)
        j->ahead.behind = (float *)malloc(SPECULATION_BEHIND * D * sizeof *j->ahead.behind);
    if (!j->tokens || !j->sum || !j->raw || (generate && s->ahead.states && !j->ahead.behind))
        rc = sd__fail(err, MLA_ERR_MEMORY, "scheduler_submit: out of memory");
    if (!rc) rc = mla_cache_create(&j->cache, s->how.model, &d, err);
    if (!rc && generate) rc = sampler_create(&j->draws, (int)V, &request->sampling, err);
    if (rc) return sd__free(j), rc;
    memcpy(j->tokens, request->tokens, n * sizeof *j->tokens);
    for (int i = 0; i < request->n_stops; i++) j->stops[i] = request->stops[i];
    for (size_t i = 0; i < n && generate; i++) sampler_accept(j->draws, j->tokens[i]);
    j->known = request->n_tokens, j->prefix = &s->tree.root;
    j->apart = j->how.no_cache |= request->kind == SCHEDULER_EMBED_MEAN; /* which needs all states */
    j->id = ++s->ids, j->older = s->last;
    *(s->last ? &s->last->newer : &s->first) = j, s->last = j;
    if (!s->waiting) s->waiting = j;
    s->stats.waiting++, s->stats.requests++;
    if (id) *id = j->id;
    return MLA_OK;
}

int scheduler_cancel(scheduler *s, int64_t id) {
    sd__job *j = s->first;
    while (j && j->id != id) j = j->newer;
    if (!j) return 0;
    sd__remove(s, j), sd__free(j);
    return 1;
}
void scheduler_cancel_all(scheduler *s) {
    while (s->last) scheduler_cancel(s, s->last->id);
}
void scheduler_forget(scheduler *s) {
    while (prefixes_drop(&s->tree)) continue;
}

/* ---- >>plan ------------------------------------------------------------------------------------------------------ */

/* Those that wait run, in their order, as long as there are places, and pages for all that is known of them. */
static void sd__admit(scheduler *s) {
    while (s->waiting && s->stats.running < s->how.parallel) {
        sd__job *j = s->waiting;
        int wanted = 0;
        s->stats.running++, s->stats.waiting--;
        j->runs = 1, s->waiting = j->newer;
        /* a page more than its own, for a copy of a shared one, must not be what keeps it from its end */
        j->ahead.follows =
            j->ahead.behind && s->ahead.odds.saved >= 0 && sd__pages(mla_cache_capacity(j->cache)) < s->how.n_pages;
        j->ahead.n_behind = j->copied = 0, j->ahead.guess = -1;
        sd__match(s, j);
        for (const sd__job *i = s->first; i != s->waiting; i = i->newer)
            wanted += sd__pages(i->known + (i->draws != NULL)) - sd__pages(i->at);
        if (j != s->first && wanted > mla_pool_free_pages(s->pool) + s->tree.pages) {
            sd__unseat(s, s->waiting = j);
            return;
        }
    }
}

/* A guess is in the call if that pushes nobody out of it, or of the pool. */
static int sd__guesses(const scheduler *s, const sd__job *j) {
    const int pages = s->plan_pages + sd__pages(j->at + 2) - sd__pages(j->at), left = s->stats.running - s->n_plan;
    return j->ahead.guess >= 0 && !s->reads && s->plan_tokens + 1 + left <= s->how.budget &&
           pages <= mla_pool_free_pages(s->pool) + s->tree.pages;
}

/* j's next n tokens are in the call. Where the pool has no pages for them, prefixes that nobody uses go, then the
   youngest request goes back to those that wait, out of the call, too; 0: that was j. */
static int sd__add(scheduler *s, sd__job *j, int n) {
    const int pages = sd__pages(j->at + n) - sd__pages(j->at);
    while (mla_pool_free_pages(s->pool) < s->plan_pages + pages) {
        sd__job *youngest = s->waiting ? s->waiting->older : s->last;
        if (!prefixes_drop(&s->tree)) sd__unseat(s, s->waiting = youngest), s->stats.preemptions++;
        if (!j->runs) return 0;
    }
    sd__entry *e = &s->plan[n > SD__SHORT ? s->n_plan : s->n_short];
    s->plan[s->n_plan++] = *e;
    s->n_short += n <= SD__SHORT;
    e->job = j, e->n = n, e->logprob = 0, e->err.code = MLA_OK, e->due = 1;
    e->guess = n > 1 && !sd__reads(s, j) ? j->ahead.guess : -1, j->ahead.guess = -1;
    if (e->guess >= 0) j->tokens[j->known] = e->guess;
    s->plan_tokens += n, s->plan_pages += pages;
    return 1;
}

/* Does another read what j would read next, so that j can have it from the tree afterwards? */
static int sd__being_read(const scheduler *s, const sd__job *j) {
    const int at = j->at, n = sd__grain(s, j, at == j->prefix->end), whole = n > s->how.chunk;
    if (j->apart || at + n >= j->how.n_tokens) return 0;
    for (const sd__job *k = s->first; k != s->waiting; k = k->newer) {
        const int now = k->at == at && k->served == s->stats.steps; /* in this call; or its first calls have been */
        if (k->apart || k->prefix != j->prefix || (!now && (!whole || k->at <= at))) continue;
        if ((whole ? k->how.n_tokens >= at + n : sd__grain(s, k, 0) == n && sd__piece(s, k) >= n) &&
            !memcmp(k->tokens + at, j->tokens + at, (size_t)n * sizeof *j->tokens))
            return 1;
    }
    return 0;
}

static void sd__make_plan(scheduler *s) {
    s->n_plan = s->n_short = s->plan_tokens = s->plan_pages = s->reads = 0;
    for (sd__job *j = s->first; j != s->waiting; j = j->newer) s->reads |= sd__reads(s, j);
    for (sd__job *j = s->first; j != s->waiting; j = j->newer)
        if (!sd__reads(s, j) && !sd__add(s, j, 1 + sd__guesses(s, j))) break;
    for (;;) { /* of those that read their prompts and were not looked at, the one that has waited longest */
        sd__job *j = NULL;
        for (sd__job *i = s->first; i != s->waiting; i = i->newer)
            if (sd__reads(s, i) && i->tried != s->stats.steps && (!j || i->served < j->served)) j = i;
        if (!j) return;
        j->tried = s->stats.steps;
        sd__match(s, j);
        const int n = sd__piece(s, j), found = j->at > j->seen ? j->at - j->seen : 0;
        j->seen += found, j->n_cached += found, s->stats.cached_tokens += found;
        if (n > s->how.budget - s->plan_tokens || sd__being_read(s, j)) continue;
        if (sd__add(s, j, n)) j->served = s->stats.steps;
    }
}

/* ---- >>tokens ---------------------------------------------------------------------------------------------------- */

/* The next token of the i-th of the call; nothing is touched but what is its own. */
static void sd__draw(void *arg, int i) {
    scheduler *s = (scheduler *)arg;
    sd__entry *e = &s->plan[i];
    sd__job *j = e->job;
    const int vocab = s->config->vocab_size;
    const float *raw = e->logits;
    double log_sum = 0;
    if (!j || !e->due || e->err.code || j->at < j->known || !j->draws) return;
    if (j->how.logprobs) {
        int top[SCHEDULER_MAX_TOP];
        log_sum = sampler_log_sum(raw, vocab);
        sampler_likeliest(raw, vocab, j->how.n_top, top);
        for (int k = 0; k < j->how.n_top; k++)
            e->top[k].token = top[k], e->top[k].logprob = (float)((double)raw[top[k]] - log_sum);
        raw = (const float *)memcpy(j->raw, raw, (size_t)vocab * sizeof *raw);
    }
    if (j->how.adjust) j->how.adjust(j->how.user, e->logits);
    e->token = sampler_draw(j->draws, e->logits, &e->err);
    if (e->token < 0) return; /* e->err says why */
    if (j->how.logprobs) e->logprob = (float)((double)raw[e->token] - log_sum);
    sampler_accept(j->draws, e->token);
}

/* What came of the call for one request: the callback. 1: a guess stands, so that there is one more. */
static int sd__deliver(scheduler *s, sd__entry *d) {
    const size_t D = (size_t)s->config->hidden_size, rows = (size_t)d->n;
    sd__job *j = d->job;
    float *hidden = d->hidden;
    scheduler_event e;
    for (size_t i = 0; j->how.kind && !d->err.code && i < rows * D; i++) j->sum[i % D] += (double)hidden[i];
    if (j->at < j->known && !d->err.code) return 0;
    memset(&e, 0, sizeof e);
    if (d->err.code) e.token = -1, e.finish = SCHEDULER_FAILED, e.error = &d->err;
    else if (!j->draws) {
        hidden += (rows - 1) * D;
        for (size_t i = 0; j->how.kind == SCHEDULER_EMBED_MEAN && i < D; i++) hidden[i] = (float)(j->sum[i] / j->at);
        e.token = -1, e.finish = SCHEDULER_DONE, e.embedding = hidden;
    } else {
        e.token = j->tokens[j->known++] = d->token;
        e.logprob = d->logprob, e.top = d->top, e.n_top = j->how.n_top, e.logits = d->logits;
        if (j->known == j->how.n_tokens + j->how.max_tokens) e.finish = SCHEDULER_LENGTH;
        for (int i = 0; i < j->how.n_stops; i++)
            if (j->stops[i] == d->token) e.finish = SCHEDULER_STOP;
        s->stats.generated_tokens++;
    }
    e.id = j->id, e.n_prompt = j->how.n_tokens, e.n_cached = j->n_cached, e.n_generated = j->known - j->how.n_tokens;
    const int stands = d->guess >= 0 && d->guess == d->token && !e.finish;
    if (d->guess >= 0) speculation_judged(&s->ahead.odds, &j->ahead.hits, d->guess == d->token);
    if (stands) d->n++, j->seen = ++j->at, d->logits += s->config->vocab_size, s->stats.accepted++;
    d->guess = -1;
    if (e.finish && !d->err.code) sd__keep(s, d);
    if (e.finish) sd__remove(s, j);
    j->how.on_event(j->how.user, &e); /* which may cancel j if it goes on */
    if (e.finish) sd__free(j);
    return stands;
}

/* ---- >>steps ----------------------------------------------------------------------------------------------------- */

/* The call, and how long it takes. What it has read is then in the caches. */
static mla_result sd__forward(scheduler *s, double *seconds) {
    mla_outputs out;
    size_t at = 0;
    int n = 0, rows = 0;
    memset(&out, 0, sizeof out);
    out.logits = s->logits, s->hidden_out[s->config->num_hidden_layers] = s->hidden;
    for (int i = 0; i < s->n_plan; i++) {
        sd__entry *e = &s->plan[n];
        if (!s->plan[i].job) continue; /* put back since it was planned */
        *e = s->plan[i];
        memset(&s->sequences[n], 0, sizeof s->sequences[n]);
        s->sequences[n].cache = e->job->cache, s->sequences[n].n_tokens = e->n;
        if (e->job->draws && e->job->at + e->n >= e->job->known) s->sequences[n].n_logits = 1 + (e->guess >= 0);
        memcpy(s->tokens + at, e->job->tokens + e->job->at, (size_t)e->n * sizeof *s->tokens);
        e->hidden = s->hidden + at * (size_t)s->config->hidden_size, at += (size_t)e->n;
        e->logits = s->logits + (size_t)rows * (size_t)s->config->vocab_size, rows += s->sequences[n++].n_logits;
        if (!e->job->draws || e->job->ahead.follows) out.hidden = s->hidden_out;
    }
    s->stats.last_tokens = s->plan_tokens, s->stats.last_sequences = s->n_plan = n;
    *seconds = speculation_clock(&s->ahead);
    const mla_result rc = mla_model_forward(s->how.context, s->sequences, n, s->tokens, &out);
    *seconds = speculation_clock(&s->ahead) - *seconds;
    if (rc == MLA_ERR_ABORTED) s->n_plan = n = 0; /* by the context's watch: nothing has happened */
    for (sd__entry *e = s->plan; e < s->plan + n; e++) {
        sd__job *j = e->job;
        const int seen = j->seen, prompt = j->at < j->how.n_tokens;
        if (rc) e->err = *mla_context_error(s->how.context);
        if (rc) continue;
        s->stats.guesses += e->guess >= 0, e->n -= e->guess >= 0;
        j->at += e->n, j->seen = j->at > seen ? j->at : seen;
        s->stats.recomputed_tokens += e->n - (j->seen - seen), s->stats.prompt_tokens += prompt ? j->seen - seen : 0;
    }
    return rc;
}

/* What the call has read meets the layer that guesses, and becomes prefixes. */
static void sd__follow(scheduler *s) {
    int n = 0;
    for (int i = 0; s->ahead.parts && i < s->n_plan; i++) {
        sd__job *j = s->plan[i].job;
        speculation_part *p = &s->ahead.parts[i];
        memset(p, 0, sizeof *p);
        if (!j || !j->ahead.follows) continue;
        mla_cache_truncate(j->cache, j->at, NULL); /* without a guess that did not stand */
        n += j->at - s->plan[i].n - j->ahead.n_behind < j->prefix->end;
        p->of = &j->ahead, p->cache = j->cache, p->next = j->tokens + j->at, p->n = s->plan[i].n;
        p->states = s->plan[i].hidden,
        p->now = j->at <= j->how.n_tokens ? 2 : j->at - j->prefix->end >= sd__kept(s, &s->plan[i]);
        /* its token is drawn, and after a guess there would be room for one more */
        p->bets = !s->reads && j->at + 1 == j->known && j->known + 1 < mla_cache_capacity(j->cache) &&
                  speculation_bets(&s->ahead, &j->ahead, s->n_plan);
    }
    /* pages for copies of shared ones, of which each begins with one at most */
    while (n > mla_pool_free_pages(s->pool) && prefixes_drop(&s->tree)) continue;
    if (s->ahead.parts) speculation_follow(&s->ahead, s->n_plan);
    for (int i = 0; i < s->n_plan; i++) {
        sd__job *j = s->plan[i].job;
        if (j && j->ahead.follows && j->at - s->ahead.parts[i].rows < j->prefix->end) j->copied = 1;
        if (j) sd__keep(s, &s->plan[i]);
    }
}

int scheduler_step(scheduler *s) {
    if (s->stepping || !s->first) return s->stepping;
    s->stepping = 1, s->stats.steps++;
    sd__admit(s);
    sd__make_plan(s);
    const int64_t guesses = s->stats.guesses, accepted = s->stats.accepted;
    double seconds;
    const mla_result rc = sd__forward(s, &seconds);
    for (int again = 1; again;) { /* tokens; then those after guesses that stand */
        if (s->how.run) s->how.run(s->how.run_user, s->n_plan, sd__draw, s);
        for (int i = 0; i < s->n_plan && !s->how.run; i++) sd__draw(s, i);
        again = 0;
        for (sd__entry *e = s->plan; e < s->plan + s->n_plan; e++)
            if (e->job && e->due) again |= e->due = sd__deliver(s, e);
    }
    if (s->how.clock && !rc)
        speculation_passed(&s->ahead.odds, s->reads ? 0 : s->n_plan, (int)(s->stats.guesses - guesses),
                           (int)(s->stats.accepted - accepted), seconds);
    sd__follow(s);
    s->n_plan = 0, s->stepping = 0;
    return s->first != NULL;
}

scheduler_stats scheduler_statistics(const scheduler *s) {
    scheduler_stats stats = s->stats;
    stats.pages = s->how.n_pages, stats.cached_pages = s->tree.pages, stats.free_pages = mla_pool_free_pages(s->pool);
    return stats;
}

/* Defaults, what can be wrong with desc, and the pool. */
static mla_result sd__resolve(scheduler *s, mla_error *err) {
    scheduler_desc *d = &s->how;
    const mla_result wrong = MLA_ERR_ARGUMENT;
    if (!d->model || !d->context) return sd__fail(err, wrong, "scheduler_desc: model or context is NULL");
    s->config = mla_model_config(d->model);
    if (s->config->linear_num_heads) d->any_cut = d->speculate = 0;
    d->states = d->states ? d->states : 64, d->parallel = d->parallel ? d->parallel : 32;
    d->context_length = d->context_length ? d->context_length : 4096, d->budget = d->budget ? d->budget : 512;
    mla_result rc = sd__range(err, wrong, "desc.parallel", d->parallel, 1, SCHEDULER_MAX_PARALLEL);
    if (!rc) rc = sd__range(err, wrong, "desc.states", d->states, 1, INT_MAX);
    if (!rc) rc = sd__range(err, wrong, "desc.context_length", d->context_length, 1, INT_MAX - MLA_PAGE);
    if (!rc) rc = sd__range(err, wrong, "desc.budget", d->budget, d->parallel - 1 + MLA_PAGE, INT_MAX);
    /* what is left when all others want a token, and the layer that guesses a row more than the model */
    const int most = d->budget - d->parallel + !d->speculate;
    if (!d->chunk)
        for (d->chunk = 256; d->chunk > MLA_PAGE && d->chunk > most;) d->chunk /= 2;
    if (!rc) rc = sd__range(err, wrong, "desc.chunk", d->chunk, MLA_PAGE, most);
    if (!rc && (d->chunk % MLA_PAGE || (d->chunk & (d->chunk - 1))))
        rc = sd__fail(err, wrong, "scheduler_desc.chunk: not MLA_PAGE times a power of two");
    const int64_t all = (int64_t)d->parallel * sd__pages(d->context_length), pages = INT_MAX / MLA_PAGE;
    mla_pool_desc p;
    memset(&p, 0, sizeof p);
    p.n_pages = 1024, p.dtype = d->dtype, p.index_dtype = d->index_dtype, p.alloc = d->alloc;
    const double n = floor(1024 * (double)d->pool_bytes / (double)mla_pool_size(d->model, &p));
    if (!d->n_pages && !d->pool_bytes) d->n_pages = (int)(all < pages ? all : pages);
    if (!d->n_pages) d->n_pages = n < (double)pages ? (int)n : (int)pages;
    if (!rc) rc = sd__range(err, wrong, "desc.n_pages", p.n_pages = d->n_pages, 1, pages);
    return rc ? rc : mla_pool_create(&s->pool, d->model, &p, err);
}

mla_result scheduler_create(scheduler **out, const scheduler_desc *desc, mla_error *err) {
    scheduler *s = out && desc ? (scheduler *)calloc(1, sizeof *s) : NULL;
    if (out) *out = NULL;
    if (!out || !desc) return sd__fail(err, MLA_ERR_ARGUMENT, "scheduler_create: out or desc is NULL");
    if (!s) return sd__fail(err, MLA_ERR_MEMORY, "scheduler_create: out of memory");
    s->how = *desc;
    mla_result rc = sd__resolve(s, err);
    const size_t n = (size_t)s->how.parallel, budget = (size_t)s->how.budget;
    if (!rc) {
        s->plan = (sd__entry *)calloc(n, sizeof *s->plan);
        s->sequences = (mla_sequence *)calloc(n, sizeof *s->sequences);
        s->tokens = (int *)calloc(budget, sizeof *s->tokens);
        s->logits = (float *)calloc((s->how.speculate ? 2 : 1) * n * (size_t)s->config->vocab_size, sizeof *s->logits);
        s->hidden = (float *)calloc(budget * (size_t)s->config->hidden_size, sizeof *s->hidden);
        s->hidden_out = (float **)calloc((size_t)s->config->num_hidden_layers + 1, sizeof *s->hidden_out);
        if (!prefixes_begin(&s->tree, s->how.model, s->pool, s->how.n_pages) || !s->plan || !s->sequences ||
            !s->tokens || !s->logits || !s->hidden || !s->hidden_out)
            rc = sd__fail(err, MLA_ERR_MEMORY, "scheduler_create: out of memory");
    }
    if (!rc && s->how.speculate)
        rc = speculation_begin(&s->ahead, s->how.model, s->how.context, s->how.budget, s->how.parallel, err);
    s->ahead.clock = s->how.clock;
    if (rc) scheduler_destroy(s);
    else *out = s;
    return rc;
}

void scheduler_destroy(scheduler *s) {
    if (!s) return;
    scheduler_cancel_all(s), scheduler_forget(s);
    mla_pool_destroy(s->pool), prefixes_end(&s->tree), speculation_end(&s->ahead);
    free(s->plan), free(s->sequences), free(s->tokens), free(s->logits), free(s->hidden), free((void *)s->hidden_out);
    free(s);
}

#endif /* SCHEDULER_IMPLEMENTATION */
