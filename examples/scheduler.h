/* scheduler.h - many requests at one model: prompts in, tokens out by callback, one forward call a step.

USE
   In exactly one file:      #define SCHEDULER_IMPLEMENTATION
                             #include "scheduler.h"
   In all others:            #include "scheduler.h"          (after mla.h and sampler.h, or with them on the include
                             path; both must be implemented somewhere in the program)

   scheduler_desc how; memset(&how, 0, sizeof how);   how.model = model;   how.context = context;
   how.pool_bytes = (size_t)2 << 30;   how.context_length = 16384;
   if (scheduler_create(&s, &how, &error)) puts(error.text);
   scheduler_request r; memset(&r, 0, sizeof r);
   r.tokens = prompt;   r.n_tokens = n;   r.max_tokens = 100;   r.on_event = print;   r.user = file;
   if (scheduler_submit(s, &r, &id, &error)) puts(error.text);
   while (scheduler_step(s)) continue;   ...   scheduler_destroy(s);       print is called with each token

A STEP         is one forward call: a token of each request that has read its prompt, then pieces of prompts as the
               budget allows, those first that have waited longest. A request that arrives is in the next call but one
               at the latest, if one of the `parallel` places is free, whatever the others read.
PREFIXES       A tree has the pages of all prompts read so far, by running requests and by those that are gone; a
               request begins behind the longest prefix in it that is its own. When the pool is full, what was used
               longest ago goes first; then the youngest request is put back, and run again later: its tokens are not
               given twice.
SAME LOGITS    A prompt is cut at positions that depend on it alone: into pieces of `chunk` tokens, then of the largest
               halves of it that are left, whole pages, then the rest. Prefixes are shared at these cuts, in pieces that
               were read as such; an answer's tokens are run one by one, also when they are run again, and are read as
               a prompt when they come back in one. So every call gives a request's tokens the same neighbours of its
               own, and with a context whose logits do not depend on other sequences of a call, logits and tokens are
               bit for bit those of the request alone, cached or not, whatever runs beside it.
FAIRNESS       Requests are taken in the order of their arrival.
THREADS        No globals, no printing. One thread at a time calls these functions.

CONTENTS       >>scheduler (the API)   then >>prefixes >>requests >>plan >>tokens >>steps
   SPDX-License-Identifier: MIT */

#ifndef SCHEDULER_H
#define SCHEDULER_H

#include <stddef.h>
#include <stdint.h>
#ifndef MLA_H
#include "mla.h"
#endif
#include "sampler.h"

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
    mla_pool *pool;    /* the caller's, for this scheduler alone; NULL: one is made, of pool_bytes */
    int n_pages;       /* pages of pool, which has them all free; 0: as many as are free now */
    size_t pool_bytes; /* without pool: 0 is what `parallel` requests of full length take */
    mla_dtype dtype;   /* without pool: rows of the cache, and index_dtype of index keys; F32, F16, BF16, Q8 */
    mla_dtype index_dtype;
    int parallel;       /* requests run at the same time; 0: 32 */
    int context_length; /* most tokens of a request, prompt and answer together; 0: 4096 */
    int budget;         /* most tokens in a call: at most the context's max_tokens, at least parallel - 1 + chunk;
                             0: 512 */
    int chunk;          /* most tokens of one prompt in a call, MLA_PAGE times a power of two; 0: 256 */
    mla_run run;        /* samples tokens of different requests at the same time, as the context's; NULL: one by one */
    void *run_user;
} scheduler_desc;

/* Errors: ARGUMENT, MEMORY (also: pool_bytes is less than a page). err may be NULL, also below. */
SCHEDULER_API mla_result scheduler_create(scheduler **out, const scheduler_desc *desc, mla_error *err);
SCHEDULER_API void
scheduler_destroy(scheduler *s); /* no callback is called any more; not from a callback; NULL is fine */

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

/* All pointers are good until the callback returns. */
typedef struct scheduler_event {
    int64_t id;
    int token;                    /* -1: none (SCHEDULER_DONE, SCHEDULER_FAILED) */
    scheduler_finish finish;      /* but for GOES_ON this is the request's last event, and the id is void */
    float logprob;                /* of token, if the request wants logprobs */
    const scheduler_logprob *top; /* [n_top] the likeliest, best first, of equals the lower token first */
    int n_top;
    const float *logits;    /* [vocab_size] what was sampled from, after adjust */
    const float *embedding; /* [hidden_size] of SCHEDULER_DONE, not normalised */
    int n_prompt, n_cached; /* tokens of the prompt; how many of these were not read, but found in the cache */
    int n_generated;        /* with this token */
    const mla_error *error; /* of SCHEDULER_FAILED */
} scheduler_event;

/* Called from scheduler_step alone. It may submit, cancel any request (this one, too), cancel all, forget. */
typedef void (*scheduler_on_event)(void *user, const scheduler_event *event);
/* Changes the logits [vocab_size] from which the next token is drawn, in place (a grammar's mask: -INFINITY; a bias).
   Called once for each token of the answer, in order, right before it is drawn; with desc.run on any thread, at the same
   time as those of other requests. Must not call the scheduler. */
typedef void (*scheduler_adjust)(void *user, float *logits);

typedef struct scheduler_request {
    scheduler_kind kind;
    const int *tokens; /* [n_tokens] the prompt, copied */
    int n_tokens;
    int max_tokens;        /* of the answer, at least 1; embeddings: not looked at */
    sampler_desc sampling; /* zeros: greedy; the repeat penalty sees the prompt, too */
    const int *stops;      /* [n_stops] tokens that end the answer, copied; at most SCHEDULER_MAX_STOPS */
    int n_stops;
    int logprobs; /* 1: event.logprob */
    int n_top;    /* likeliest tokens wanted in event.top; 0..SCHEDULER_MAX_TOP; above 0 implies logprobs */
    int no_cache; /* 1: neither looks for its prefix in the cache nor leaves it there */
    scheduler_on_event on_event;
    scheduler_adjust adjust; /* NULL: none */
    void *user;              /* of both */
} scheduler_request;

/* Puts a request behind all others; calls no callback. *id (may be NULL) is above 0 and never given again. Errors, each
   naming the field: ARGUMENT (empty prompt, token out of range, max_tokens < 1, n_top, n_stops, a field of sampling,
   on_event NULL), FULL (n_tokens + max_tokens is more than context_length, or than the whole pool holds), MEMORY. */
SCHEDULER_API mla_result scheduler_submit(scheduler *s, const scheduler_request *request, int64_t *id, mla_error *err);
/* The request is gone at once, its pages are free, its callback is not called again. 0: there is no such request (any
   more). At any time, also from a callback. */
SCHEDULER_API int scheduler_cancel(scheduler *s, int64_t id);
SCHEDULER_API void scheduler_cancel_all(scheduler *s);
SCHEDULER_API void scheduler_forget(scheduler *s); /* drops all cached prefixes that no running request uses */

/* Does one forward call and calls the callbacks. 1: there is more to do; 0: nothing runs and nothing waits. A call that
   fails ends the requests in it with SCHEDULER_FAILED. Not from a callback. */
SCHEDULER_API int scheduler_step(scheduler *s);

typedef struct scheduler_stats {
    int running, waiting;    /* requests */
    int pages, free_pages;   /* of the pool */
    int cached_pages;        /* hold prefixes that no running request uses: as good as free */
    int64_t steps, requests; /* forward calls; submitted so far */
    int64_t prompt_tokens;   /* of prompts, read by the model */
    int64_t cached_tokens;   /* of prompts, found in the cache */
    int64_t generated_tokens;
    int64_t preemptions, recomputed_tokens; /* requests put back; tokens read or generated before and run again */
    int last_tokens, last_sequences;        /* of the last call */
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
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A piece of some prompt that has been read behind `parent`, with a cache that holds all up to its end. */
typedef struct scheduler__prefix {
    struct scheduler__prefix *parent, *same_hash;
    struct scheduler__prefix *older, *newer; /* in the list of the idle */
    mla_cache *cache;
    uint64_t hash;
    int *tokens, n, end; /* [n] the piece's; its end in the prompt */
    int users;           /* running requests that hold it or what comes after it; 0: idle */
} scheduler__prefix;

typedef struct scheduler__job {
    struct scheduler__job *older, *newer;
    int64_t id, served, tried; /* the steps when a piece of its prompt was read last, and considered */
    scheduler_request how;
    int stops[SCHEDULER_MAX_STOPS];
    int *tokens, known; /* [n_tokens + max_tokens] prompt and answer, of which so many are there */
    int at, seen;       /* tokens in its cache; that have ever been there */
    int n_cached;
    int apart;                 /* what it reads is not kept in the tree */
    scheduler__prefix *prefix; /* the last piece that it has in common with the tree */
    mla_cache *cache;          /* NULL: it waits */
    sampler *draws;            /* from the first time it runs */
    double *sum;               /* [hidden_size] for a mean */
    float *raw;                /* [vocab_size] logits before adjust, if logprobs are wanted */
} scheduler__job;

typedef struct scheduler__entry { /* of a call */
    scheduler__job *job;          /* NULL: cancelled since */
    int n, token, n_top;
    float *logits, logprob;
    scheduler_logprob top[SCHEDULER_MAX_TOP];
    mla_error err;
} scheduler__entry;

struct scheduler {
    scheduler_desc how; /* defaults resolved */
    const mla_config *config;
    mla_pool *own;
    scheduler__prefix root, *oldest, *newest; /* the idle, in the order in which they go */
    scheduler__prefix **table;                /* [mask + 1] by hash */
    size_t mask;
    /* All requests in the order of their arrival: those that run, then, from `waiting` on, those that wait. */
    scheduler__job *first, *last, *waiting;
    mla_cache **caches, **spare; /* [parallel]; those that no request has */
    scheduler__entry *plan;      /* [parallel] */
    mla_sequence *sequences;     /* [parallel] */
    int *tokens;                 /* [budget] */
    float *logits;               /* [parallel, vocab_size] */
    float *hidden, *embedding;   /* [budget, hidden_size], if an embedding was ever wanted; [hidden_size] */
    float **hidden_out;          /* [num_hidden_layers + 1] */
    int n_plan, plan_tokens, plan_pages, stepping;
    int64_t ids;
    scheduler_stats stats;
};

#if defined __GNUC__
__attribute__((format(printf, 3, 4)))
#endif
static mla_result
scheduler__fail(mla_error *err, mla_result code, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        err->code = code;
    }
    return code;
}

/* low <= x <= high, or the field is named. */
static mla_result scheduler__range(mla_error *err, const char *field, int64_t x, int64_t low, int64_t high) {
    if (x >= low && x <= high) return MLA_OK;
    return scheduler__fail(err, MLA_ERR_ARGUMENT, "scheduler_%s: %.0f is not in %.0f..%.0f", field, (double)x,
                           (double)low, (double)high);
}

static int scheduler__pages(int64_t tokens) { return (int)((tokens + MLA_PAGE - 1) / MLA_PAGE); }
static int scheduler__smaller(int a, int b) { return a < b ? a : b; }

/* ---- >>prefixes -------------------------------------------------------------------------------------------------- */

static uint64_t scheduler__hash(const scheduler__prefix *parent, const int *tokens, int n) {
    uint64_t h = parent->hash + (uint64_t)n;
    for (int i = 0; i < n; i++) {
        h = (h ^ (uint32_t)tokens[i]) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
    }
    return h;
}

/* The piece of n tokens behind parent, or NULL. */
static scheduler__prefix *scheduler__find(const scheduler *s, const scheduler__prefix *parent, const int *tokens,
                                          int n) {
    const uint64_t hash = scheduler__hash(parent, tokens, n);
    scheduler__prefix *p = s->table[hash & s->mask];
    while (p && (p->hash != hash || p->parent != parent || p->n != n ||
                 memcmp(p->tokens, tokens, (size_t)n * sizeof *tokens) != 0))
        p = p->same_hash;
    return p;
}

/* Pieces that nobody uses stand in the order in which they were left, those behind others before these: so the oldest
   has none behind it. */
static void scheduler__unlink(scheduler *s, scheduler__prefix *p) {
    *(p->older ? &p->older->newer : &s->oldest) = p->newer;
    *(p->newer ? &p->newer->older : &s->newest) = p->older;
    s->stats.cached_pages -= p->n / MLA_PAGE;
}
/* Somebody more uses p and all before it; or one less. */
static void scheduler__hold(scheduler *s, scheduler__prefix *p) {
    for (; p->parent; p = p->parent)
        if (p->users++ == 0) scheduler__unlink(s, p);
}
static void scheduler__leave(scheduler *s, scheduler__prefix *p) {
    for (; p->parent; p = p->parent) {
        if (--p->users > 0) continue;
        p->older = s->newest, p->newer = NULL;
        *(s->newest ? &s->newest->newer : &s->oldest) = p;
        s->newest = p;
        s->stats.cached_pages += p->n / MLA_PAGE;
    }
}

/* The oldest of them goes. */
static void scheduler__drop(scheduler *s) {
    scheduler__prefix *p = s->oldest, **at = &s->table[p->hash & s->mask];
    scheduler__unlink(s, p);
    while (*at != p) at = &(*at)->same_hash;
    *at = p->same_hash;
    mla_cache_destroy(p->cache);
    free(p);
}

/* Can the pool give so many pages? */
static int scheduler__room(scheduler *s, int pages) {
    while (mla_pool_free_pages(s->how.pool) < pages && s->oldest) scheduler__drop(s);
    return mla_pool_free_pages(s->how.pool) >= pages;
}

/* The n tokens that j has read last become a piece of the tree, or its own copy of what the tree has meanwhile goes. */
static void scheduler__keep(scheduler *s, scheduler__job *j, int n) {
    const int *tokens = j->tokens + j->at - n;
    scheduler__prefix *p = scheduler__find(s, j->prefix, tokens, n);
    if (!p) {
        mla_cache_desc d;
        memset(&d, 0, sizeof d);
        d.capacity = j->at, d.pool = s->how.pool;
        p = (scheduler__prefix *)calloc(1, sizeof *p + (size_t)n * sizeof *tokens);
        if (!p || mla_cache_create(&p->cache, s->how.model, &d, NULL) || mla_cache_fork(p->cache, j->cache, NULL)) {
            if (p) mla_cache_destroy(p->cache);
            free(p);
            j->apart = 1; /* no memory for it: nobody will find the rest either */
            return;
        }
        p->tokens = (int *)(p + 1), p->n = n, p->end = j->at, p->parent = j->prefix;
        memcpy(p->tokens, tokens, (size_t)n * sizeof *tokens);
        p->hash = scheduler__hash(p->parent, tokens, n);
        p->same_hash = s->table[p->hash & s->mask];
        s->table[p->hash & s->mask] = p;
        p->users = 1;
    } else {
        mla_cache_fork(j->cache, p->cache, NULL);
        scheduler__hold(s, p), scheduler__leave(s, j->prefix);
    }
    j->prefix = p;
}

/* ---- >>requests -------------------------------------------------------------------------------------------------- */

/* Tokens of j in its next call: a piece of its prompt, or one of its answer. */
static int scheduler__piece(const scheduler *s, const scheduler__job *j) {
    const int left = j->how.n_tokens - j->at;
    int n = s->how.chunk;
    while (n > left && n > MLA_PAGE) n /= 2;
    return left > 0 ? scheduler__smaller(n, left) : 1;
}

/* Pages that j, which runs, will take until it has run all that is known, and one token more. */
static int scheduler__wants(const scheduler__job *j) {
    return scheduler__pages((int64_t)j->known + (j->how.kind == SCHEDULER_GENERATE)) - scheduler__pages(j->at);
}

/* j goes on behind the longest prefix that the tree has of it; the last token is always run, for its logits. */
static void scheduler__match(scheduler *s, scheduler__job *j) {
    scheduler__prefix *p = j->prefix, *next = p;
    const int at = j->at;
    if (j->apart || j->how.kind == SCHEDULER_EMBED_MEAN || j->at != p->end) return;
    while (next) {
        const int n = scheduler__piece(s, j);
        next = j->at + n < j->how.n_tokens ? scheduler__find(s, p, j->tokens + j->at, n) : NULL;
        if (next) p = next, j->at += n;
    }
    if (j->at == at) return;
    mla_cache_fork(j->cache, p->cache, NULL); /* of one pool, and the capacity is that of all */
    scheduler__hold(s, p), scheduler__leave(s, j->prefix);
    j->prefix = p;
}

static void scheduler__count_cached(scheduler *s, scheduler__job *j) {
    if (j->at <= j->seen) return;
    j->n_cached += j->at - j->seen, s->stats.cached_tokens += j->at - j->seen;
    j->seen = j->at;
}

static void scheduler__seat(scheduler *s, scheduler__job *j) {
    j->cache = s->spare[s->how.parallel - ++s->stats.running];
    s->stats.waiting--;
    s->waiting = j->newer;
}
/* It has nothing more of the pool. */
static void scheduler__unseat(scheduler *s, scheduler__job *j) {
    for (int i = 0; i < s->n_plan; i++)
        if (s->plan[i].job == j) s->plan[i].job = NULL;
    if (!j->cache) return;
    mla_cache_reset(j->cache);
    s->spare[s->how.parallel - s->stats.running--] = j->cache;
    s->stats.waiting++;
    j->cache = NULL, j->at = 0, j->served = 0, j->apart = j->how.no_cache;
    scheduler__leave(s, j->prefix);
    j->prefix = &s->root;
    for (int i = 0; j->sum && i < s->config->hidden_size; i++) j->sum[i] = 0;
}

static void scheduler__free(scheduler__job *j) {
    if (!j) return;
    sampler_destroy(j->draws);
    free(j->tokens), free(j->sum), free(j->raw);
    free(j);
}

/* Takes j out of everything; what is left of it is the caller's. */
static void scheduler__remove(scheduler *s, scheduler__job *j) {
    scheduler__unseat(s, j);
    s->stats.waiting--;
    if (s->waiting == j) s->waiting = j->newer;
    *(j->older ? &j->older->newer : &s->first) = j->newer;
    *(j->newer ? &j->newer->older : &s->last) = j->older;
}

/* The last event of j, or one of many. */
static void scheduler__tell(scheduler *s, scheduler__job *j, scheduler_event *e) {
    e->id = j->id, e->n_prompt = j->how.n_tokens, e->n_cached = j->n_cached;
    e->n_generated = j->known - j->how.n_tokens;
    if (e->finish) scheduler__remove(s, j);
    j->how.on_event(j->how.user, e); /* which may cancel j if it goes on */
    if (e->finish) scheduler__free(j);
}
static void scheduler__end(scheduler *s, scheduler__job *j, const mla_error *err) {
    scheduler_event e;
    const mla_error copy = *err;
    memset(&e, 0, sizeof e);
    e.token = -1, e.finish = SCHEDULER_FAILED, e.error = &copy;
    scheduler__tell(s, j, &e);
}

static mla_result scheduler__check(const scheduler *s, const scheduler_request *r, mla_error *err) {
    const int generate = r->kind == SCHEDULER_GENERATE, answer = generate ? r->max_tokens : 0;
    sampler *probe;
    mla_result rc = scheduler__range(err, "request.kind", (int)r->kind, 0, SCHEDULER_EMBED_LAST);
    if (!rc && !r->on_event) rc = scheduler__fail(err, MLA_ERR_ARGUMENT, "scheduler_request.on_event is NULL");
    if (!rc && (!r->tokens || r->n_tokens < 1))
        rc = scheduler__fail(err, MLA_ERR_ARGUMENT, "scheduler_request.tokens: the prompt is empty");
    if (!rc && generate) rc = scheduler__range(err, "request.max_tokens", answer, 1, INT_MAX);
    if (!rc) rc = scheduler__range(err, "request.n_top", r->n_top, 0, SCHEDULER_MAX_TOP);
    if (!rc) rc = scheduler__range(err, "request.n_stops", r->n_stops, 0, r->stops ? SCHEDULER_MAX_STOPS : 0);
    if (!rc && answer > s->how.context_length - r->n_tokens)
        rc = scheduler__fail(err, MLA_ERR_FULL,
                             "scheduler_request.n_tokens: %d and %d of the answer, context_length "
                             "is %d",
                             r->n_tokens, answer, s->how.context_length);
    if (!rc && scheduler__pages(r->n_tokens + answer) > s->how.n_pages)
        rc = scheduler__fail(err, MLA_ERR_FULL,
                             "scheduler_request.n_tokens: %d and %d of the answer, the pool has %d "
                             "pages of %d",
                             r->n_tokens, answer, s->how.n_pages, MLA_PAGE);
    for (int i = 0; !rc && i < r->n_tokens; i++)
        if (r->tokens[i] < 0 || r->tokens[i] >= s->config->vocab_size)
            rc = scheduler__fail(err, MLA_ERR_ARGUMENT, "scheduler_request.tokens[%d]: %d is not in 0..%d", i,
                                 r->tokens[i], s->config->vocab_size - 1);
    if (!rc) rc = sampler_create(&probe, 1, &r->sampling, err); /* what it says of the fields */
    if (!rc) sampler_destroy(probe);
    return rc;
}

/* Memory for all that j will ever need, but its sampler. */
static int scheduler__allocate(scheduler *s, scheduler__job *j) {
    const size_t D = (size_t)s->config->hidden_size, n = (size_t)j->how.n_tokens + (size_t)j->how.max_tokens;
    const int generate = j->how.kind == SCHEDULER_GENERATE;
    j->tokens = (int *)malloc(n * sizeof *j->tokens);
    if (!j->tokens) return 0;
    if (!generate && !s->hidden) s->hidden = (float *)calloc((size_t)s->how.budget * D, sizeof *s->hidden);
    if (!generate && !s->hidden) return 0;
    if (j->how.kind == SCHEDULER_EMBED_MEAN && !(j->sum = (double *)calloc(D, sizeof *j->sum))) return 0;
    if (!generate || !j->how.adjust || !j->how.logprobs) return 1;
    j->raw = (float *)malloc((size_t)s->config->vocab_size * sizeof *j->raw);
    return j->raw != NULL;
}

mla_result scheduler_submit(scheduler *s, const scheduler_request *request, int64_t *id, mla_error *err) {
    if (id) *id = 0;
    if (!s || !request)
        return scheduler__fail(err, MLA_ERR_ARGUMENT, "scheduler_submit: %s is NULL", s ? "request" : "scheduler");
    const mla_result rc = scheduler__check(s, request, err);
    if (rc) return rc;
    scheduler__job *j = (scheduler__job *)calloc(1, sizeof *j);
    if (j) {
        j->how = *request;
        j->how.logprobs = request->logprobs || request->n_top > 0;
        if (request->kind != SCHEDULER_GENERATE) j->how.max_tokens = 0;
    }
    if (!j || !scheduler__allocate(s, j)) {
        scheduler__free(j);
        return scheduler__fail(err, MLA_ERR_MEMORY, "scheduler_submit: no memory for %d tokens", request->n_tokens);
    }
    memcpy(j->tokens, request->tokens, (size_t)request->n_tokens * sizeof *j->tokens);
    for (int i = 0; i < request->n_stops; i++) j->stops[i] = request->stops[i];
    j->how.tokens = j->tokens, j->how.stops = j->stops;
    j->known = request->n_tokens, j->prefix = &s->root, j->apart = request->no_cache;
    j->id = ++s->ids, j->older = s->last;
    *(s->last ? &s->last->newer : &s->first) = j;
    s->last = j;
    if (!s->waiting) s->waiting = j;
    s->stats.waiting++, s->stats.requests++;
    if (id) *id = j->id;
    return MLA_OK;
}

int scheduler_cancel(scheduler *s, int64_t id) {
    scheduler__job *j = s->first;
    while (j && j->id != id) j = j->newer;
    if (!j) return 0;
    scheduler__remove(s, j), scheduler__free(j);
    return 1;
}
void scheduler_cancel_all(scheduler *s) {
    while (s->last) scheduler_cancel(s, s->last->id);
}
void scheduler_forget(scheduler *s) {
    while (s->oldest) scheduler__drop(s);
}

/* ---- >>plan ------------------------------------------------------------------------------------------------------ */

/* Those that wait run, in their order, as long as there are places, and pages for all that is known of them. */
static void scheduler__admit(scheduler *s) {
    while (s->waiting && s->stats.running < s->how.parallel) {
        scheduler__job *j = s->waiting;
        mla_error err;
        int wanted = 0;
        if (j->how.kind == SCHEDULER_GENERATE && !j->draws) {
            if (sampler_create(&j->draws, s->config->vocab_size, &j->how.sampling, &err)) {
                scheduler__end(s, j, &err);
                continue;
            }
            for (int i = 0; i < j->how.n_tokens; i++) sampler_accept(j->draws, j->tokens[i]);
        }
        scheduler__seat(s, j);
        scheduler__match(s, j);
        for (const scheduler__job *i = s->first; i != s->waiting; i = i->newer) wanted += scheduler__wants(i);
        if (wanted > mla_pool_free_pages(s->how.pool) + s->stats.cached_pages) {
            scheduler__unseat(s, j);
            s->waiting = j;
            return;
        }
        scheduler__count_cached(s, j);
    }
}

/* j's next n tokens are in the call. Where the pool has no pages for them, the youngest goes back to those that wait,
   out of the call, too; 0: that was j. */
static int scheduler__add(scheduler *s, scheduler__job *j, int n) {
    const int pages = scheduler__pages((int64_t)j->at + n) - scheduler__pages(j->at);
    while (!scheduler__room(s, s->plan_pages + pages)) {
        scheduler__job *youngest = s->waiting ? s->waiting->older : s->last;
        for (int i = 0; i < s->n_plan; i++) {
            const scheduler__entry *e = &s->plan[i];
            if (e->job != youngest) continue;
            s->plan_tokens -= e->n;
            s->plan_pages -= scheduler__pages((int64_t)youngest->at + e->n) - scheduler__pages(youngest->at);
            s->plan[i] = s->plan[--s->n_plan];
        }
        scheduler__unseat(s, youngest);
        s->waiting = youngest;
        s->stats.preemptions++;
        if (youngest == j) return 0;
    }
    scheduler__entry *e = &s->plan[s->n_plan++];
    e->job = j, e->n = n, e->token = -1, e->n_top = 0;
    s->plan_tokens += n, s->plan_pages += pages;
    return 1;
}

/* Does the call read what j would read next, so that j can have it from the tree afterwards? */
static int scheduler__being_read(const scheduler *s, const scheduler__job *j, int n) {
    if (j->apart || j->how.kind == SCHEDULER_EMBED_MEAN || j->at + n >= j->how.n_tokens) return 0;
    for (int i = 0; i < s->n_plan; i++) {
        const scheduler__job *k = s->plan[i].job;
        if (k->prefix == j->prefix && k->at == j->at && !k->apart && s->plan[i].n == n &&
            !memcmp(k->tokens + k->at, j->tokens + j->at, (size_t)n * sizeof *j->tokens))
            return 1;
    }
    return 0;
}

/* Of those that read their prompts and have not been looked at in this step, the one that has waited longest. */
static scheduler__job *scheduler__reader(const scheduler *s) {
    scheduler__job *best = NULL;
    for (scheduler__job *j = s->first; j != s->waiting; j = j->newer)
        if (j->at < j->how.n_tokens && j->tried != s->stats.steps && (!best || j->served < best->served)) best = j;
    return best;
}

static void scheduler__make_plan(scheduler *s) {
    s->n_plan = s->plan_tokens = s->plan_pages = 0;
    for (scheduler__job *j = s->first; j != s->waiting; j = j->newer)
        if (j->at >= j->how.n_tokens && !scheduler__add(s, j, 1)) break;
    for (scheduler__job *j; (j = scheduler__reader(s)) != NULL;) {
        j->tried = s->stats.steps;
        scheduler__match(s, j), scheduler__count_cached(s, j);
        const int n = scheduler__piece(s, j);
        if (n > s->how.budget - s->plan_tokens || scheduler__being_read(s, j, n)) continue;
        if (scheduler__add(s, j, n)) j->served = s->stats.steps;
    }
}

/* ---- >>tokens ---------------------------------------------------------------------------------------------------- */

static void scheduler__logprobs(const float *z, int vocab, int n_top, scheduler_logprob *top, double *log_sum) {
    double sum = 0;
    float max = z[0];
    int n = 0;
    for (int i = 0; i < vocab; i++) max = z[i] > max ? z[i] : max;
    for (int i = 0; i < vocab; i++) sum += exp((double)z[i] - (double)max);
    *log_sum = (double)max + log(sum);
    for (int i = 0; i < vocab; i++) {
        if (n == n_top && !(n > 0 && z[i] > top[n - 1].logprob)) continue;
        int at = n < n_top ? n++ : n - 1;
        for (; at > 0 && z[i] > top[at - 1].logprob; at--) top[at] = top[at - 1];
        top[at].token = i, top[at].logprob = z[i];
    }
    for (int i = 0; i < n; i++) top[i].logprob = (float)((double)top[i].logprob - *log_sum);
}

/* The next token of the i-th of the call; nothing is touched but what is its own. */
static void scheduler__draw(void *arg, int i) {
    scheduler *s = (scheduler *)arg;
    scheduler__entry *e = &s->plan[i];
    scheduler__job *j = e->job;
    const int vocab = s->config->vocab_size;
    const float *raw = e->logits;
    double log_sum = 0;
    if (j->at < j->known || !j->draws) return;
    if (j->how.logprobs) {
        scheduler__logprobs(raw, vocab, j->how.n_top, e->top, &log_sum);
        e->n_top = scheduler__smaller(j->how.n_top, vocab);
        if (j->raw) raw = (const float *)memcpy(j->raw, raw, (size_t)vocab * sizeof *raw);
    }
    if (j->how.adjust) j->how.adjust(j->how.user, e->logits);
    e->token = sampler_next(j->draws, e->logits, &e->err);
    if (e->token < 0) return;
    if (j->how.logprobs) e->logprob = (float)((double)raw[e->token] - log_sum);
    sampler_accept(j->draws, e->token);
}

/* hidden: the first of the n rows read last. */
static void scheduler__embed(scheduler *s, scheduler__job *j, const float *hidden, int n) {
    const size_t D = (size_t)s->config->hidden_size;
    scheduler_event e;
    memset(&e, 0, sizeof e);
    for (size_t t = 0; j->sum && t < (size_t)n; t++)
        for (size_t i = 0; i < D; i++) j->sum[i] += (double)hidden[t * D + i];
    if (j->at < j->known) return;
    for (size_t i = 0; i < D; i++)
        s->embedding[i] = j->sum ? (float)(j->sum[i] / j->at) : hidden[(size_t)(n - 1) * D + i];
    e.token = -1, e.finish = SCHEDULER_DONE, e.embedding = s->embedding;
    scheduler__tell(s, j, &e);
}

/* The callback of the i-th of the call, with what was drawn. */
static void scheduler__deliver(scheduler *s, scheduler__entry *d) {
    scheduler__job *j = d->job;
    scheduler_event e;
    if (j->at < j->known) return;
    if (d->token < 0) {
        scheduler__end(s, j, &d->err);
        return;
    }
    memset(&e, 0, sizeof e);
    e.token = j->tokens[j->known++] = d->token;
    e.logprob = d->logprob, e.top = d->top, e.n_top = d->n_top, e.logits = d->logits;
    if (j->known == j->how.n_tokens + j->how.max_tokens) e.finish = SCHEDULER_LENGTH;
    for (int i = 0; i < j->how.n_stops; i++)
        if (j->stops[i] == d->token) e.finish = SCHEDULER_STOP;
    s->stats.generated_tokens++;
    scheduler__tell(s, j, &e);
}

/* ---- >>steps ----------------------------------------------------------------------------------------------------- */

static mla_result scheduler__forward(scheduler *s) {
    mla_outputs out;
    int *tokens = s->tokens;
    memset(&out, 0, sizeof out);
    out.logits = s->logits;
    for (int i = 0; i < s->n_plan; i++) {
        scheduler__entry *e = &s->plan[i];
        memset(&s->sequences[i], 0, sizeof s->sequences[i]);
        s->sequences[i].cache = e->job->cache, s->sequences[i].n_tokens = e->n;
        memcpy(tokens, e->job->tokens + e->job->at, (size_t)e->n * sizeof *tokens);
        tokens += e->n;
        e->logits = s->logits + (size_t)i * (size_t)s->config->vocab_size;
        if (!e->job->draws) out.hidden = s->hidden_out;
    }
    s->hidden_out[s->config->num_hidden_layers] = s->hidden;
    s->stats.last_tokens = s->plan_tokens, s->stats.last_sequences = s->n_plan;
    return mla_model_forward(s->how.context, s->sequences, s->n_plan, s->tokens, &out);
}

/* What the call has read is in the caches, and in the tree. */
static void scheduler__account(scheduler *s) {
    for (int i = 0; i < s->n_plan; i++) {
        scheduler__job *j = s->plan[i].job;
        const int n = s->plan[i].n, known = scheduler__smaller(n, j->seen > j->at ? j->seen - j->at : 0),
                  prompt = j->at < j->how.n_tokens;
        j->at += n;
        if (j->at > j->seen) j->seen = j->at;
        s->stats.recomputed_tokens += known;
        if (prompt) s->stats.prompt_tokens += n - known;
        if (prompt && n % MLA_PAGE == 0 && !j->apart) scheduler__keep(s, j, n);
    }
}

int scheduler_step(scheduler *s) {
    mla_error err;
    if (s->stepping || !s->first) return s->stepping;
    s->stepping = 1, s->stats.steps++;
    scheduler__admit(s);
    scheduler__make_plan(s);
    if (s->n_plan == 0 && s->first) { /* not even one request has its pages: somebody else has them */
        scheduler__fail(&err, MLA_ERR_FULL, "scheduler_step: the pool has %d of its %d pages",
                        mla_pool_free_pages(s->how.pool), s->how.n_pages);
        scheduler__end(s, s->first, &err);
    } else if (s->n_plan > 0 && scheduler__forward(s)) {
        err = *mla_context_error(s->how.context);
        for (int i = 0; i < s->n_plan; i++)
            if (s->plan[i].job) scheduler__end(s, s->plan[i].job, &err);
    } else if (s->n_plan > 0) {
        const float *hidden = s->hidden;
        scheduler__account(s);
        if (s->how.run) s->how.run(s->how.run_user, s->n_plan, scheduler__draw, s);
        for (int i = 0; i < s->n_plan && !s->how.run; i++) scheduler__draw(s, i);
        for (int i = 0; i < s->n_plan; i++) {
            const int n = s->plan[i].n;
            if (s->plan[i].job && !s->plan[i].job->draws) scheduler__embed(s, s->plan[i].job, hidden, n);
            else if (s->plan[i].job) scheduler__deliver(s, &s->plan[i]);
            if (hidden) hidden += (size_t)n * (size_t)s->config->hidden_size;
        }
    }
    s->n_plan = 0, s->stepping = 0;
    return s->first != NULL;
}

scheduler_stats scheduler_statistics(const scheduler *s) {
    scheduler_stats stats = s->stats;
    stats.pages = s->how.n_pages, stats.free_pages = mla_pool_free_pages(s->how.pool);
    return stats;
}

/* Defaults, and what can be wrong with desc. */
static mla_result scheduler__resolve(scheduler_desc *d, mla_error *err) {
    if (!d->model || !d->context)
        return scheduler__fail(err, MLA_ERR_ARGUMENT, "scheduler_desc.%s is NULL", d->model ? "context" : "model");
    d->parallel = d->parallel ? d->parallel : 32;
    d->context_length = d->context_length ? d->context_length : 4096;
    d->budget = d->budget ? d->budget : 512;
    mla_result rc = scheduler__range(err, "desc.parallel", d->parallel, 1, SCHEDULER_MAX_PARALLEL);
    if (!rc) rc = scheduler__range(err, "desc.context_length", d->context_length, 1, INT_MAX - MLA_PAGE);
    if (!rc) rc = scheduler__range(err, "desc.budget", d->budget, d->parallel - 1 + MLA_PAGE, INT_MAX);
    const int most = d->budget - d->parallel + 1; /* what is left when all others want a token */
    for (int n = MLA_PAGE; !rc && !d->chunk && n <= 256; n *= 2)
        if (n == 256 || 2 * n > most) d->chunk = n;
    if (!rc) rc = scheduler__range(err, "desc.chunk", d->chunk, MLA_PAGE, most);
    if (!rc && (d->chunk % MLA_PAGE || (d->chunk & (d->chunk - 1))))
        rc = scheduler__fail(err, MLA_ERR_ARGUMENT, "scheduler_desc.chunk: %d is not %d times a power of two", d->chunk,
                             MLA_PAGE);
    return rc;
}

/* The caller's pool, or one of so many bytes. */
static mla_result scheduler__make_pool(scheduler *s, mla_error *err) {
    scheduler_desc *d = &s->how;
    mla_pool_desc p;
    if (d->pool) {
        d->n_pages = d->n_pages ? d->n_pages : mla_pool_free_pages(d->pool);
        return scheduler__range(err, "desc.n_pages", d->n_pages, 1, mla_pool_free_pages(d->pool));
    }
    const int64_t all = (int64_t)d->parallel * scheduler__pages(d->context_length);
    memset(&p, 0, sizeof p);
    p.n_pages = 1, p.dtype = d->dtype, p.index_dtype = d->index_dtype;
    const size_t one = mla_pool_size(d->model, &p), most = d->pool_bytes ? d->pool_bytes : SIZE_MAX;
    if (one > most)
        return scheduler__fail(err, MLA_ERR_MEMORY, "scheduler_desc.pool_bytes: %.0f, a pool of one page takes %.0f",
                               (double)most, (double)one);
    int high = all < INT_MAX ? (int)all : INT_MAX;
    for (int low = 1; low < high;) { /* the most pages, but not more than can be used, that fit */
        p.n_pages = low + (high - low + 1) / 2;
        const size_t bytes = mla_pool_size(d->model, &p);
        if (bytes && bytes <= most) low = p.n_pages;
        else high = p.n_pages - 1;
    }
    d->n_pages = p.n_pages = high;
    const mla_result rc = mla_pool_create(&s->own, d->model, &p, err);
    d->pool = s->own;
    return rc;
}

static mla_result scheduler__make(scheduler *s, mla_error *err) {
    const size_t n = (size_t)s->how.parallel, D = (size_t)s->config->hidden_size;
    mla_cache_desc d;
    mla_result rc = scheduler__make_pool(s, err);
    if (rc) return rc;
    memset(&d, 0, sizeof d);
    d.capacity = s->how.context_length, d.pool = s->how.pool;
    for (s->mask = 63; s->mask < (size_t)s->how.n_pages && s->mask < 1 << 20;) s->mask = 2 * s->mask + 1;
    s->table = (scheduler__prefix **)calloc(s->mask + 1, sizeof *s->table);
    s->caches = (mla_cache **)calloc(n, sizeof *s->caches);
    s->spare = (mla_cache **)calloc(n, sizeof *s->spare);
    s->plan = (scheduler__entry *)calloc(n, sizeof *s->plan);
    s->sequences = (mla_sequence *)calloc(n, sizeof *s->sequences);
    s->tokens = (int *)calloc((size_t)s->how.budget, sizeof *s->tokens);
    s->logits = (float *)calloc(n * (size_t)s->config->vocab_size, sizeof *s->logits);
    s->embedding = (float *)calloc(D, sizeof *s->embedding);
    s->hidden_out = (float **)calloc((size_t)s->config->num_hidden_layers + 1, sizeof *s->hidden_out);
    if (!s->table || !s->caches || !s->spare || !s->plan || !s->sequences || !s->tokens || !s->logits ||
        !s->embedding || !s->hidden_out)
        return scheduler__fail(err, MLA_ERR_MEMORY, "scheduler_create: no memory for %d requests", s->how.parallel);
    for (size_t i = 0; i < n && !rc; i++) {
        rc = mla_cache_create(&s->caches[i], s->how.model, &d, err);
        s->spare[i] = s->caches[i];
    }
    return rc;
}

mla_result scheduler_create(scheduler **out, const scheduler_desc *desc, mla_error *err) {
    if (out) *out = NULL;
    if (!out || !desc)
        return scheduler__fail(err, MLA_ERR_ARGUMENT, "scheduler_create: %s is NULL", out ? "desc" : "out");
    scheduler_desc how = *desc;
    mla_result rc = scheduler__resolve(&how, err);
    if (rc) return rc;
    scheduler *s = (scheduler *)calloc(1, sizeof *s);
    if (!s) return scheduler__fail(err, MLA_ERR_MEMORY, "scheduler_create: out of memory");
    s->how = how, s->config = mla_model_config(how.model);
    rc = scheduler__make(s, err);
    if (rc) scheduler_destroy(s);
    else *out = s;
    return rc;
}

void scheduler_destroy(scheduler *s) {
    if (!s) return;
    scheduler_cancel_all(s);
    scheduler_forget(s);
    for (int i = 0; s->caches && i < s->how.parallel; i++) mla_cache_destroy(s->caches[i]);
    mla_pool_destroy(s->own);
    free((void *)s->table), free((void *)s->caches), free((void *)s->spare), free(s->plan), free(s->sequences);
    free(s->tokens), free(s->logits), free(s->hidden), free(s->embedding), free((void *)s->hidden_out);
    free(s);
}

#endif /* SCHEDULER_IMPLEMENTATION */
