/* test_scheduler.c - many requests at one model against each of them alone: a plain loop over one cache that knows
   nothing of prefixes and of others. Tokens and logits are the same bit for bit, under random arrivals, cancels
   and budgets, pools that are too small, and with guesses. Run from the repository root. */

#include <stdlib.h>
#include <string.h>

/* Allocations that fail, and calls that do. */
static int allocations_left = -1, calls_left = -1, caches_left = -1;
static long allocated;
static int fails(int *left) { return *left >= 0 && (*left)-- == 0; }
static void *test_calloc(size_t n, size_t size) {
    void *p = fails(&allocations_left) ? NULL : calloc(n, size);
    allocated += p != NULL;
    return p;
}
static void *test_malloc(size_t n) {
    void *p = fails(&allocations_left) ? NULL : malloc(n);
    allocated += p != NULL;
    return p;
}
static void test_free(void *p) {
    allocated -= p != NULL;
    free(p);
}

#include "mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "checkpoint.h"
#include "sampler.h"
#include "test.h"

static test_rng chance = {77};
static double test_time; /* a pass takes a hundred or so, a guess little or, at times, very much */
static int mixed;        /* sequences of few tokens that stand behind one of many */
static mla_result test_cache(mla_cache **out, const mla_model *m, const mla_cache_desc *d, mla_error *err) {
    *out = NULL;
    return fails(&caches_left) ? MLA_ERR_MEMORY : mla_cache_create(out, m, d, err);
}
static mla_result test_forward(mla_context *c, const mla_sequence *s, int n, const int *tokens,
                               const mla_outputs *out) {
    int longer = 0;
    test_time += 90 + (double)test_int(&chance, 20);
    for (int i = 0; i < n; i++) {
        mixed += longer && s[i].n_tokens <= 16;
        longer |= s[i].n_tokens > 16;
    }
    return mla_model_forward(c, s, fails(&calls_left) ? -1 : n, tokens, out);
}
static mla_result test_mtp(mla_context *c, int depth, const mla_sequence *s, int n, const int *tokens,
                           const float *hidden, const mla_outputs *out);
static mla_result test_sampler(sampler **out, int vocab, const sampler_desc *d, mla_error *err) {
    *out = NULL;
    if (!fails(&allocations_left)) return sampler_create(out, vocab, d, err);
    if (err) err->code = MLA_ERR_MEMORY, strcpy(err->text, "no memory for a sampler");
    return MLA_ERR_MEMORY;
}
#define calloc            test_calloc
#define malloc            test_malloc
#define free              test_free
#define mla_cache_create  test_cache
#define mla_model_forward test_forward
#define mla_mtp_forward   test_mtp
#define sampler_create    test_sampler
#define PREFIXES_IMPLEMENTATION
#include "prefixes.h"
#define SPECULATIVE_IMPLEMENTATION
#include "speculative.h"
#define SCHEDULER_IMPLEMENTATION
#include "scheduler.h"
#undef calloc
#undef malloc
#undef free
#undef mla_cache_create
#undef mla_model_forward
#undef mla_mtp_forward
#undef sampler_create

enum { VOCAB = 256, D = 64, LONG = 4600, ANSWER = 40, BUDGET = 512 };

static checkpoint *files;
static mla_model *model;
static mla_context *context;

/* ---- alone ------------------------------------------------------------------------------------------------------- */

/* A request, and what comes out of it alone. */
typedef struct spec {
    scheduler_request r;
    int prompt[LONG], stop;
    int n, tokens[ANSWER];
    scheduler_finish finish;
    uint64_t logits[ANSWER];
    float *all; /* [ANSWER, VOCAB]: the same, if they are wanted */
    float logprob[ANSWER], embedding[D];
    scheduler_logprob top[ANSWER][SCHEDULER_MAX_TOP];
} spec;

static uint64_t hash_of(const float *x, int n) {
    uint64_t h = 1469598103934665603u;
    for (int i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        h = (h ^ bits) * 1099511628211u;
        h ^= h >> 32;
    }
    return h;
}

/* Two of three tokens may not come, others each time. */
static void forbid(float *z, int count) {
    for (int i = 0; i < VOCAB; i++) z[i] = i % 3 == count % 3 ? z[i] + 0.25f : -HUGE_VALF;
}

/* The model on the n tokens from `at` on. */
static void feed(mla_cache *k, const int *tokens, int n, float *logits, float *hidden) {
    mla_sequence s;
    mla_outputs out;
    float *states[16] = {NULL};
    memset(&s, 0, sizeof s), memset(&out, 0, sizeof out);
    s.cache = k, s.n_tokens = n, s.n_logits = 1;
    states[files->config.num_hidden_layers] = hidden;
    out.logits = logits, out.hidden = states;
    if (mla_model_forward(context, &s, 1, tokens, &out)) printf("%s\n", mla_context_error(context)->text), exit(2);
}

static void top_alone(spec *x, int at, const float *z) {
    double sum = 0, max = -1e30;
    char taken[VOCAB] = {0};
    for (int i = 0; i < VOCAB; i++) max = z[i] > (float)max ? (double)z[i] : max;
    for (int i = 0; i < VOCAB; i++) sum += exp((double)z[i] - max);
    for (int k = 0; k < x->r.n_top; k++) {
        int best = -1;
        for (int i = 0; i < VOCAB; i++)
            if (!taken[i] && (best < 0 || z[i] > z[best])) best = i;
        taken[best] = 1;
        x->top[at][k].token = best, x->top[at][k].logprob = (float)((double)z[best] - max - log(sum));
    }
    for (int i = 0; i < VOCAB; i++)
        if (i == x->tokens[at]) x->logprob[at] = (float)((double)z[i] - max - log(sum));
}

/* The prompt in pieces of a page, later of more up to chunk, halves of these, the rest; the answer token by token. */
static void alone(spec *x, int chunk) {
    static float logits[VOCAB], raw[VOCAB], hidden[LONG * D];
    const scheduler_request *r = &x->r;
    const mla_cache_desc d = {.capacity = LONG + ANSWER};
    mla_cache *k;
    sampler *draws;
    mla_error err;
    if (mla_cache_create(&k, model, &d, &err) || sampler_create(&draws, VOCAB, &r->sampling, &err))
        printf("%s\n", err.text), exit(2);
    for (int at = 0; at < r->n_tokens;) {
        int n = MLA_PAGE;
        while (n < chunk && n <= at / 32) n *= 2;
        while (n > r->n_tokens - at && n > MLA_PAGE) n /= 2;
        n = n < r->n_tokens - at ? n : r->n_tokens - at;
        feed(k, x->prompt + at, n, logits, hidden + at * D);
        at += n;
    }
    for (int i = 0; i < D; i++) {
        double sum = 0;
        for (int t = 0; t < r->n_tokens; t++) sum += (double)hidden[t * D + i];
        x->embedding[i] =
            r->kind == SCHEDULER_EMBED_MEAN ? (float)(sum / r->n_tokens) : hidden[(r->n_tokens - 1) * D + i];
    }
    for (int i = 0; i < r->n_tokens; i++) sampler_accept(draws, x->prompt[i]);
    x->finish = r->kind ? SCHEDULER_DONE : SCHEDULER_GOES_ON;
    while (!x->finish) {
        memcpy(raw, logits, sizeof raw);
        if (r->adjust) forbid(logits, x->n);
        x->logits[x->n] = hash_of(logits, VOCAB);
        if (x->all) memcpy(x->all + x->n * VOCAB, logits, sizeof logits);
        const int token = x->tokens[x->n] = sampler_next(draws, logits, &err);
        sampler_accept(draws, token);
        top_alone(x, x->n++, raw);
        if (x->n == r->max_tokens) x->finish = SCHEDULER_LENGTH;
        if (r->n_stops && token == x->stop) x->finish = SCHEDULER_STOP;
        if (!x->finish) feed(k, &token, 1, logits, hidden);
    }
    sampler_destroy(draws), mla_cache_destroy(k);
}

/* ---- guesses ----------------------------------------------------------------------------------------------------- */

static scheduler *among;

/* 0: none; 1: always; 2: where it pays by a clock that runs as it likes. */
static int guessing, ahead_left = -1;
static double clock_of(void) { return test_time; }

/* The layer's logits for the last of a text's tokens but one, without any cache. */
static int looked;
static void check_ahead(const int *text, int length, const float *logits) {
    static float hidden[LONG * D], expected[VOCAB];
    const mla_cache_desc d = {.capacity = LONG + ANSWER};
    mla_cache *k;
    mla_error err;
    mla_outputs out;
    if (mla_cache_create(&k, model, &d, &err)) printf("%s\n", err.text), exit(2);
    feed(k, text, length - 1, expected, hidden);
    mla_sequence q;
    memset(&q, 0, sizeof q), memset(&out, 0, sizeof out);
    q.cache = k, q.n_tokens = length - 1, q.n_logits = 1, out.logits = expected;
    CHECK(mla_mtp_forward(context, 0, &q, 1, text + 1, hidden, &out) == MLA_OK, "%s", mla_context_error(context)->text);
    const float off = test_rel_err(logits, expected, VOCAB);
    CHECK(off <= 1e-3f, "after %d tokens the layer's logits are off by %g", length, (double)off);
    mla_cache_destroy(k), looked++;
}
/* What the model itself has to say after a token, so that guesses often stand. */
static void guess_well(mla_cache *cache, int token, float *logits) {
    static float hidden[D];
    const mla_cache_desc d = {.capacity = LONG + ANSWER};
    mla_cache *k;
    mla_error err;
    if (mla_cache_create(&k, model, &d, &err) || mla_cache_fork(k, cache, &err)) printf("%s\n", err.text), exit(2);
    feed(k, &token, 1, logits, hidden);
    mla_cache_destroy(k);
}
static int aborts, ended;
static mla_result test_mtp(mla_context *c, int depth, const mla_sequence *s, int n, const int *tokens,
                           const float *hidden, const mla_outputs *out) {
    const mla_result rc = mla_mtp_forward(c, depth, s, fails(&ahead_left) ? -1 : n, tokens, hidden, out);
    const int aborting = aborts;
    test_time += (int)(test_time / 20000) % 3 < 2 ? test_int(&chance, 4) : test_int(&chance, 120);
    float *logits = out->logits;
    aborts = 0;
    for (int i = 0; i < n && !rc; tokens += s[i++].n_tokens) {
        if (!s[i].n_logits) continue;
        const sd__entry *e = among->plan;
        while (!e->job || e->job->cache != s[i].cache) e++;
        if (e->job->at < 700 && test_int(&chance, guessing == 1 ? 40 : 8) == 0)
            check_ahead(e->job->tokens, e->job->at + 1, logits);
        if (test_int(&chance, 4)) guess_well(s[i].cache, tokens[s[i].n_tokens - 1], logits);
        logits += VOCAB;
    }
    aborts = aborting;
    return rc;
}

/* ---- among others ------------------------------------------------------------------------------------------------ */

typedef struct client {
    const spec *x;
    int64_t id, born, first;                /* steps in which it was submitted, in which the first token came */
    int n, adjusted, over, last_step, gaps; /* events; calls of adjust; 1: the last event came, 2: cancelled */
    int n_cached;
    struct client *victim; /* is cancelled with the first token of this one */
    int rough;             /* logits are the same to rounding, for as long as tokens are */
    float worst;
    mla_result error;
} client;

static int64_t now; /* the step */
static int any;
static int wrong;

static void cancel(client *c) {
    CHECK(scheduler_cancel(among, c->id) == (c->over == 0), "cancel of %d", (int)c->id);
    if (!c->over) c->over = 2;
}

static void on_adjust(void *user, float *z) { forbid(z, ((client *)user)->adjusted++); }
static void on_event(void *user, const scheduler_event *e) {
    client *c = (client *)user;
    const spec *x = c->x;
    int ok = e->id == c->id && c->over == 0 && e->n_prompt == x->r.n_tokens && e->n_generated == c->n + (e->token >= 0);
    c->n_cached = e->n_cached;
    if (e->finish == SCHEDULER_FAILED) {
        ok &= e->error && e->error->code && e->error->text[0] && e->token == -1;
        c->error = e->error->code;
    } else if (e->finish == SCHEDULER_DONE) {
        ok &= x->finish == SCHEDULER_DONE && !memcmp(e->embedding, x->embedding, sizeof x->embedding);
    } else if (c->n >= x->n) ok = 0;
    else if (x->all) {
        if (!c->rough) c->worst = fmaxf(c->worst, test_rel_err(e->logits, x->all + c->n * VOCAB, VOCAB));
        c->rough |= e->token != x->tokens[c->n];
    } else {
        ok &= e->token == x->tokens[c->n] && hash_of(e->logits, VOCAB) == x->logits[c->n];
        ok &= e->finish == (c->n + 1 == x->n ? x->finish : SCHEDULER_GOES_ON) && e->n_top == x->r.n_top;
        for (int i = 0; i < e->n_top; i++)
            ok &=
                e->top[i].token == x->top[c->n][i].token && fabsf(e->top[i].logprob - x->top[c->n][i].logprob) <= 1e-5f;
        if (x->r.logprobs || x->r.n_top) ok &= fabsf(e->logprob - x->logprob[c->n]) <= 1e-5f;
    }
    if (c->n == 0) c->first = now;
    else if (c->last_step < now - 1) c->gaps++;
    c->last_step = (int)now;
    c->n++;
    if (e->finish) c->over = 1;
    if (!ok && wrong++ < 5)
        printf("request %d (prompt %d, cached %d), token %d of %d: %d, alone %d, finish %d%s\n", (int)e->id,
               e->n_prompt, e->n_cached, c->n, x->n, e->token, c->n <= x->n ? x->tokens[c->n - 1] : -1, (int)e->finish,
               e->token == x->tokens[c->n - 1] ? "; other logits or logprobs" : "");
    if (c->victim) {
        client *const victim = c->victim;
        c->victim = NULL;
        cancel(victim);
    }
}

static void submit(client *c, const spec *x) {
    scheduler_request r = x->r;
    mla_error err;
    memset(c, 0, sizeof *c);
    c->x = x, c->born = now;
    r.tokens = x->prompt, r.user = c;
    CHECK(scheduler_submit(among, &r, &c->id, &err) == MLA_OK, "%s", err.text);
}
static int step(void) {
    now++;
    const int more = scheduler_step(among);
    const scheduler_stats s = scheduler_statistics(among);
    CHECK(s.last_tokens <= BUDGET && s.free_pages + s.cached_pages <= s.pages, "step %d: %d tokens, %d of %d pages",
          (int)now, s.last_tokens, s.free_pages, s.pages);
    return more;
}
static void drain(void) {
    while (step()) continue;
}

static void begin(int pages, int parallel, int chunk, mla_run run) {
    scheduler_desc d;
    mla_error err;
    memset(&d, 0, sizeof d);
    d.model = model, d.context = context, d.parallel = parallel, d.chunk = chunk, d.context_length = LONG + ANSWER;
    d.run = run, d.any_cut = any, d.speculate = guessing > 0, d.clock = guessing == 2 ? clock_of : NULL;
    d.n_pages = pages;
    now = 0, wrong = 0;
    if (!CHECK(scheduler_create(&among, &d, &err) == MLA_OK, "%s", err.text)) exit(test_end());
    if (pages) CHECK(scheduler_statistics(among).pages == pages, "%d pages", scheduler_statistics(among).pages);
}
/* All is right, and all pages are back. */
static void end(const char *what) {
    CHECK(wrong == 0, "%s: %d events are not as alone", what, wrong);
    scheduler_stats s = scheduler_statistics(among);
    CHECK(s.running == 0 && s.waiting == 0 && s.free_pages + s.cached_pages == s.pages, "%s: %d+%d of %d pages", what,
          s.free_pages, s.cached_pages, s.pages);
    scheduler_forget(among);
    s = scheduler_statistics(among);
    CHECK(s.free_pages == s.pages && s.cached_pages == 0, "%s: %d pages are lost", what, s.pages - s.free_pages);
    scheduler_destroy(among);
    CHECK(allocated == 0, "%s: %ld allocations are lost", what, allocated);
}

/* ---- specs ------------------------------------------------------------------------------------------------------- */

/* Prompts share beginnings: tokens of `family` up to `common`, then their own. */
static void make(spec *x, test_rng *r, int family, int common, int n, int max_tokens, int kind) {
    test_rng shared = {(uint64_t)family};
    memset(x, 0, sizeof *x);
    if (!CHECK(n <= LONG && max_tokens <= ANSWER, "a spec has no room for %d and %d tokens", n, max_tokens)) exit(2);
    for (int i = 0; i < n; i++) {
        const int theirs = test_int(&shared, VOCAB);
        x->prompt[i] = i < common ? theirs : test_int(r, VOCAB);
    }
    x->r.n_tokens = n, x->r.on_event = on_event, x->r.max_tokens = max_tokens, x->r.kind = (scheduler_kind)kind;
    x->r.tokens = x->prompt;
}

/* With everything that a request can want. */
static void vary(spec *x, test_rng *r) {
    sampler_desc *how = &x->r.sampling;
    if (test_int(r, 3)) {
        how->temperature = 0.5 + test_int(r, 10), how->seed = test_u64(r);
        if (test_int(r, 2)) how->top_p = 0.9;
        if (test_int(r, 2)) how->top_k = 20;
        if (test_int(r, 4) == 0) how->repeat_penalty = 1.3;
    }
    if (test_int(r, 4) == 0) x->r.n_top = test_int(r, SCHEDULER_MAX_TOP + 1);
    if (test_int(r, 4) == 0) x->r.logprobs = 1;
    if (test_int(r, 4) == 0) x->r.adjust = on_adjust;
    if (test_int(r, 2)) x->stop = test_int(r, VOCAB), x->r.stops = &x->stop, x->r.n_stops = 1;
}

/* ---- sections ---------------------------------------------------------------------------------------------------- */

static void refused(const scheduler_request *r, mla_result code, const char *name) {
    mla_error err = {MLA_OK, "", -1};
    int64_t id = 7;
    const mla_result rc = scheduler_submit(among, r, &id, &err);
    CHECK(rc == code && err.code == code && strstr(err.text, name) && id == 0, "%s: %s \"%s\"", name,
          mla_result_name(rc), err.text);
}
static void refusals(void) {
    SECTION("what cannot be asked");
    static int prompt[LONG + ANSWER];
    begin(4, 2, 64, NULL);
    scheduler_request good;
    memset(&good, 0, sizeof good);
    good.tokens = prompt, good.n_tokens = 5, good.max_tokens = 3, good.on_event = on_event;
#define REFUSED(code, name, change)                                                                                    \
    do {                                                                                                               \
        scheduler_request r = good;                                                                                    \
        change;                                                                                                        \
        refused(&r, code, name);                                                                                       \
    } while (0)
    REFUSED(MLA_ERR_ARGUMENT, "prompt is empty", r.n_tokens = 0);
    REFUSED(MLA_ERR_ARGUMENT, "prompt is empty", r.tokens = NULL);
    REFUSED(MLA_ERR_ARGUMENT, "on_event", r.on_event = NULL);
    REFUSED(MLA_ERR_ARGUMENT, "kind", r.kind = (scheduler_kind)9);
    REFUSED(MLA_ERR_ARGUMENT, "max_tokens: 0", r.max_tokens = 0);
    REFUSED(MLA_ERR_ARGUMENT, "n_top: 21", r.n_top = 21);
    REFUSED(MLA_ERR_ARGUMENT, "n_stops: 17", (r.n_stops = 17, r.stops = prompt));
    REFUSED(MLA_ERR_ARGUMENT, "n_stops: 1", r.n_stops = 1);
    REFUSED(MLA_ERR_ARGUMENT, "top_p", r.sampling.top_p = 2);
    REFUSED(MLA_ERR_FULL, "context_length", r.n_tokens = LONG + ANSWER);
    REFUSED(MLA_ERR_FULL, "context_length", r.max_tokens = INT_MAX);
    REFUSED(MLA_ERR_FULL, "all of the pool", r.n_tokens = 4 * MLA_PAGE - 2);
    prompt[3] = VOCAB;
    REFUSED(MLA_ERR_ARGUMENT, "tokens: 256", r.max_tokens = 3);
    prompt[3] = -1;
    REFUSED(MLA_ERR_ARGUMENT, "tokens: -1", r.max_tokens = 3);
    prompt[3] = 0;
#undef REFUSED
    CHECK(!scheduler_cancel(among, 0) && !scheduler_cancel(among, 1), "cancelled what is not there");
    CHECK(scheduler_step(among) == 0, "there is nothing to do");
    CHECK(scheduler_submit(NULL, &good, NULL, NULL) && scheduler_submit(among, NULL, NULL, NULL), "NULL");
    end("refusals");
}

static void refused_desc(const scheduler_desc *d, mla_result code, const char *name) {
    mla_error err = {MLA_OK, "", -1};
    scheduler *s;
    const mla_result rc = scheduler_create(&s, d, &err);
    CHECK(rc == code && !s && strstr(err.text, name), "%s: %s \"%s\"", name, mla_result_name(rc), err.text);
    CHECK(allocated == 0, "%s: %ld allocations are lost", name, allocated);
}
static void refusals_of_desc(void) {
    scheduler_desc good;
    mla_error err;
    memset(&good, 0, sizeof good);
    good.model = model, good.context = context;
#define REFUSED(code, name, change)                                                                                    \
    do {                                                                                                               \
        scheduler_desc d = good;                                                                                       \
        change;                                                                                                        \
        refused_desc(&d, code, name);                                                                                  \
    } while (0)
    REFUSED(MLA_ERR_ARGUMENT, "model", d.model = NULL);
    REFUSED(MLA_ERR_ARGUMENT, "context", d.context = NULL);
    REFUSED(MLA_ERR_ARGUMENT, "parallel", d.parallel = -1);
    REFUSED(MLA_ERR_ARGUMENT, "parallel", d.parallel = SCHEDULER_MAX_PARALLEL + 1);
    REFUSED(MLA_ERR_ARGUMENT, "context_length", d.context_length = -1);
    REFUSED(MLA_ERR_ARGUMENT, "budget", d.budget = 94);
    REFUSED(MLA_ERR_ARGUMENT, "chunk: not", d.chunk = 65);
    REFUSED(MLA_ERR_ARGUMENT, "chunk: not", d.chunk = 192);
    REFUSED(MLA_ERR_ARGUMENT, "chunk: 512 ", d.chunk = 512);
    REFUSED(MLA_ERR_ARGUMENT, "n_pages: 0", d.pool_bytes = 64);
    REFUSED(MLA_ERR_ARGUMENT, "n_pages: -1", d.n_pages = -1);
    REFUSED(MLA_ERR_ARGUMENT, "dtype", d.dtype = MLA_Q4);
    for (int n = 0; n < 60; n++) { /* each allocation in turn, then none */
        scheduler *s;
        allocations_left = n;
        if (scheduler_create(&s, &good, &err)) CHECK(!s && err.code == MLA_ERR_MEMORY && allocated == 0, "%d", n);
        else scheduler_destroy(s);
        allocations_left = -1;
    }
#undef REFUSED
    scheduler *s;
    good.pool_bytes = 10000000;
    if (CHECK(scheduler_create(&s, &good, &err) == MLA_OK, "%s", err.text)) {
        mla_pool_desc q = {.n_pages = scheduler_statistics(s).pages};
        CHECK(mla_pool_size(model, &q) <= good.pool_bytes, "%d pages are too many", q.n_pages);
        q.n_pages += 2;
        CHECK(mla_pool_size(model, &q) > good.pool_bytes, "%d pages are too few", q.n_pages - 2);
        scheduler_destroy(s);
    }
    CHECK(allocated == 0, "%ld allocations are lost", allocated);
}

static spec few[64];
static client them[64];

static void cuts(void) {
    SECTION("prompts that end around a cut, alone and again");
    const int lengths[] = {1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 257, 320, 383, 384, 511, 512, 513, 690};
    test_rng r = {1};
    begin(0, 4, 256, NULL);
    for (int i = 0; i < (int)(sizeof lengths / sizeof *lengths); i++) {
        make(&few[i], &r, 100 + i, lengths[i], lengths[i], 3, i % 3 == 2 ? 1 + i % 2 : 0);
        alone(&few[i], 256);
        submit(&them[0], &few[i]), drain();
        submit(&them[1], &few[i]), submit(&them[2], &few[i]), drain();
        const int n = lengths[i], cached = few[i].r.kind == SCHEDULER_EMBED_MEAN ? 0 : (n - 1) / MLA_PAGE * MLA_PAGE;
        CHECK(them[0].n_cached == 0 && them[0].n == few[i].n + (few[i].r.kind != 0), "%d: %d cached", n,
              them[0].n_cached);
        CHECK(them[1].over == 1 && them[2].over == 1, "%d: not over", n);
        CHECK(them[1].n_cached == cached && them[2].n_cached == cached, "%d: %d and %d cached, not %d", n,
              them[1].n_cached, them[2].n_cached, cached);
    }
    end("cuts");
}

static void shared_prefixes(void) {
    SECTION("prefixes");
    test_rng r = {2};
    begin(0, 16, 256, NULL);
    for (int i = 0; i < 8; i++) make(&few[i], &r, 7, 384, 400 + i, 4, 0), alone(&few[i], 256);
    for (int i = 0; i < 8; i++) submit(&them[i], &few[i]); /* all at once: one reads for all */
    drain();
    scheduler_stats s = scheduler_statistics(among);
    CHECK(s.prompt_tokens == 384 + 8 * 16 + 28, "%d tokens were read", (int)s.prompt_tokens);
    CHECK(s.cached_tokens == 7 * 384, "%d tokens were found", (int)s.cached_tokens);
    for (int i = 0; i < 8; i++) make(&few[i], &r, 7, 100 + 40 * i, 400, 4, 0), alone(&few[i], 256);
    submit(&them[0], &few[7]), step(), step(); /* that of one that runs still */
    for (int i = 0; i < 8; i++) submit(&them[i + 1], &few[i]);
    drain();
    for (int i = 0; i < 8; i++)
        CHECK(them[i + 1].n_cached == (100 + 40 * i) / MLA_PAGE * MLA_PAGE || i == 7, "prefix of %d: %d cached",
              100 + 40 * i, them[i + 1].n_cached);
    few[0].r.no_cache = 1;
    submit(&them[0], &few[0]), drain();
    CHECK(them[0].n_cached == 0, "no_cache: %d cached", them[0].n_cached);
    few[0].r.no_cache = 0;
    scheduler_forget(among);
    submit(&them[0], &few[0]), drain();
    CHECK(them[0].n_cached == 0, "forgotten: %d cached", them[0].n_cached);
    make(&few[0], &r, 8, 128, 128, 3, 0), alone(&few[0], 256);
    submit(&them[0], &few[0]), drain(), scheduler_forget(among);
    submit(&them[1], &few[0]), step(), submit(&them[2], &few[0]), submit(&them[3], &few[0]), step();
    s = scheduler_statistics(among); /* the last pieces were read by each, and kept once */
    CHECK(s.running == 3 && s.pages - s.free_pages == 2 + (guessing > 0), "%d pages for three times two",
          s.pages - s.free_pages);
    drain();
    end("prefixes");
}

/* Pieces of two and four pages. */
static void long_prompts(void) {
    SECTION("long prompts");
    test_rng r = {10};
    const int lengths[] = {2048, 2048 + 128 + 64 + 7, 2300, 4096 + 256 + 128 + 64}, n = test_all() ? 4 : 3;
    begin(0, 4, 256, NULL);
    for (int i = 0; i < n; i++) {
        make(&few[i], &r, 30, i < 2 ? 2100 : 2290, lengths[i], 2, i == 1), alone(&few[i], 256);
        submit(&them[i], &few[i]), step();
    }
    drain();
    for (int i = 0; i < n; i++) submit(&them[i], &few[i]);
    drain();
    CHECK(them[0].n_cached == 2048 - 64 && them[1].n_cached == 0 && them[2].n_cached == 2048 + 128 + 64,
          "%d, %d, %d cached", them[0].n_cached, them[1].n_cached, them[2].n_cached);
    CHECK(n < 4 || them[3].n_cached == 4096 + 256 + 128, "%d cached", them[3].n_cached);
    end("long prompts");
}

/* Prefixes of any page, also in answers; what was put back is read again in pieces. */
static void any_cut(void) {
    SECTION("cuts that depend on others");
    static float all[3][ANSWER * VOCAB];
    test_rng r = {11};
    any = 1;
    begin(10, 4, 256, NULL);
    for (int i = 0; i < 3; i++) {
        make(&few[i], &r, 40 + i, 180, 180 - 10 * i, ANSWER, 0);
        few[i].all = all[i];
        alone(&few[i], 256);
        submit(&them[i], &few[i]);
    }
    drain();
    scheduler_stats s = scheduler_statistics(among);
    CHECK(s.preemptions > 0 && s.recomputed_tokens > 0, "none was put back");
    make(&few[3], &r, 40, 180, 290, 5, 0);
    memcpy(few[3].prompt + 180, few[0].tokens, ANSWER * sizeof(int)); /* the next turn of a chat */
    few[3].all = all[0], memset(all[0], 0, sizeof all[0]);
    alone(&few[3], 256);
    submit(&them[3], &few[3]), drain();
    CHECK(them[3].n_cached == (180 + ANSWER - 1) / MLA_PAGE * MLA_PAGE || (guessing && them[3].n_cached >= 64),
          "of prompt and answer %d cached", them[3].n_cached);
    for (int i = 0; i < 4; i++)
        CHECK(them[i].worst > 0 && them[i].worst <= 1e-4f, "request %d: %g", i, (double)them[i].worst);
    any = 0;
    end("any cut");
}

/* What was used last stays longest. */
static void least_recently_used(void) {
    SECTION("what was used longest ago goes first");
    test_rng r = {3};
    begin(12, 2, 64, NULL);
    for (int i = 0; i < 4; i++) make(&few[i], &r, 20 + i, 200, 200, 2, 0), alone(&few[i], 64);
    for (int i = 0; i < 3; i++) submit(&them[i], &few[i]), drain(); /* three pages are cached of each */
    CHECK(scheduler_statistics(among).cached_pages == 9, "%d", scheduler_statistics(among).cached_pages);
    submit(&them[0], &few[0]), drain(); /* the first is now the last */
    submit(&them[3], &few[3]), drain();
    submit(&them[0], &few[0]), submit(&them[2], &few[2]), drain();
    CHECK(them[0].n_cached == 192, "the one used last: %d cached", them[0].n_cached);
    CHECK(them[2].n_cached == 192, "the one before: %d cached", them[2].n_cached);
    submit(&them[1], &few[1]), drain();
    CHECK(them[1].n_cached == 64 || them[1].n_cached == 128 || them[1].n_cached == 0, "%d", them[1].n_cached);
    end("least recently used");
}

static void too_small(void) {
    SECTION("a pool that is too small");
    test_rng r = {4};
    begin(8, 8, 64, NULL);
    for (int i = 0; i < 8; i++) make(&few[i], &r, i, 0, 55 + i + 64 * (i == 5), 30, i % 4 == 3), alone(&few[i], 64);
    for (int i = 0; i < 8; i++) submit(&them[i], &few[i]);
    drain();
    const scheduler_stats s = scheduler_statistics(among);
    CHECK(s.preemptions > 0 && s.recomputed_tokens > 0, "none was put back");
    for (int i = 0; i < 8; i++) CHECK(them[i].over == 1 && !them[i].error, "%d is not over", i);
    CHECK(them[0].gaps == 0, "the oldest was put back");
    for (int i = 0; i < 4; i++) make(&few[i], &r, i, 0, i < 3 ? 62 : 300, 30, i == 3), alone(&few[i], 64);
    for (int i = 0; i < 4; i++) submit(&them[i], &few[i]); /* a mean, half of which is read, is put back */
    drain();
    CHECK(scheduler_statistics(among).preemptions > s.preemptions && them[3].over == 1, "the mean was not put back");
    make(&few[0], &r, 9, 0, 8 * 64 - 30, 30, 0), alone(&few[0], 64); /* all of the pool */
    submit(&them[0], &few[0]), drain();
    CHECK(them[0].over == 1 && !them[0].error, "one that needs the whole pool");
    end("too small");
}

static void order(void) {
    SECTION("31 beside a long prompt, and one more");
    test_rng r = {5};
    begin(0, 33, 256, NULL);
    for (int i = 0; i < 33; i++)
        make(&few[i], &r, i, 0, i == 31 ? 2500 : 2 + i, i == 31 ? 3 : 30, 0), alone(&few[i], 256);
    for (int i = 0; i < 31; i++) submit(&them[i], &few[i]);
    step(), step();
    submit(&them[31], &few[31]), step();
    submit(&them[32], &few[32]);
    drain();
    for (int i = 0; i < 31; i++) CHECK(them[i].gaps == 0, "request %d waited", i);
    CHECK(them[32].first - them[32].born <= 2, "the new one waited %d steps", (int)(them[32].first - them[32].born));
    CHECK(them[31].over == 1, "the long one");
    end("order");
}

/* ---- callbacks that do something --------------------------------------------------------------------------------- */

static int acts;
static client more[8];
static void acting(void *user, const scheduler_event *e) {
    client *c = (client *)user;
    on_event(user, e);
    if (c->n != 2) return;
    const int act = acts++ % 4;
    if (act == 0) cancel(c);
    if (act == 1 && !them[(acts + 3) % 8].over) cancel(&them[(acts + 3) % 8]);
    if (act == 2) submit(&more[acts % 8], &few[10]);
    if (act == 3) scheduler_forget(among);
    CHECK(scheduler_step(among) == 1, "a step in a step");
}
static void cancel_everything(void *user, const scheduler_event *e) {
    on_event(user, e);
    scheduler_cancel_all(among);
    for (int i = 0; i < 8; i++) them[i].over += them[i].over ? 0 : 2;
    submit(&more[0], &few[10]);
}

static void callbacks(void) {
    SECTION("callbacks that cancel and submit");
    test_rng r = {6};
    for (int i = 0; i <= 10; i++) make(&few[i], &r, 1, 70, 75 + 10 * i, 6, 0), alone(&few[i], 64);
    for (int pages = 10; pages <= 40; pages += 10) {
        begin(pages, 6, 64, NULL);
        memset(more, 0, sizeof more);
        for (int i = 0; i < 8; i++) few[i].r.on_event = acting, submit(&them[i], &few[i]);
        drain();
        int over = 0;
        for (int i = 0; i < 8; i++) over += them[i].over == 2;
        CHECK(acts > 0 && over > 0 && more[3].over == 1, "%d cancelled", over);
        for (int i = 0; i < 8; i++)
            few[i].r.on_event = i == 4 ? cancel_everything : on_event, submit(&them[i], &few[i]);
        drain();
        CHECK(more[0].over == 1 && more[0].n == few[10].n, "the one submitted after all were cancelled");
        end("callbacks");
    }
}

/* ---- what fails -------------------------------------------------------------------------------------------------- */

static void failures(void) {
    SECTION("no memory, calls that fail, logits that are none");
    test_rng r = {8};
    mla_error err;
    for (int i = 0; i < 6; i++) make(&few[i], &r, 1, 130, 150 + i, 4, i % 3), alone(&few[i], 64);
    few[3].r.adjust = on_adjust, few[3].r.n_top = 3, few[3].n = 0, alone(&few[3], 64);
    begin(0, 4, 64, NULL);
    for (int n = 0; n < 8; n++) /* in submit */
        for (int i = 0; i < 6; i++) {
            scheduler_request q = few[i].r;
            q.user = &them[i];
            allocations_left = n;
            memset(&them[i], 0, sizeof them[i]);
            them[i].x = &few[i];
            const mla_result rc = scheduler_submit(among, &q, &them[i].id, &err);
            allocations_left = -1;
            CHECK(rc == MLA_OK || (rc == MLA_ERR_MEMORY && err.code == rc), "%s", err.text);
            if (!rc) scheduler_cancel(among, them[i].id);
        }
    for (int n = 0; n < 12; n++) { /* in steps: prefixes are not kept, requests without a sampler fail */
        scheduler_forget(among);
        for (int i = 0; i < 6; i++) submit(&them[i], &few[i]);
        allocations_left = n, caches_left = 3 * n;
        drain();
        allocations_left = caches_left = -1;
        int failed = 0;
        for (int i = 0; i < 6; i++) failed += them[i].error == MLA_ERR_MEMORY;
        for (int i = 0; i < 6; i++) CHECK(them[i].over == 1, "%d is not over", i);
        CHECK(failed <= 1, "%d failed for one allocation", failed);
    }
    for (int i = 0; i < 6; i++) submit(&them[i], &few[i]);
    step(), calls_left = 0, step();
    int failed = 0;
    for (int i = 0; i < 6; i++) failed += them[i].error == MLA_ERR_ARGUMENT;
    CHECK(failed == 4, "%d of the four in the call failed", failed);
    drain();
    for (int i = 0; i < 6; i++) CHECK(them[i].over == 1, "%d is not over", i);
    end("failures");
}

/* Ends some calls in their middle. */
static int watch(void *user, int layer, int layers, mla_phase phase) {
    (void)user;
    if (!aborts || layer != layers / 2 || phase != MLA_PHASE_ATTENTION || ++aborts % 5) return 0;
    return ++ended;
}
static void aborted(void) {
    SECTION("calls that are aborted");
    test_rng r = {12};
    begin(9, 4, 64, NULL);
    for (int i = 0; i < 6; i++) make(&few[i], &r, 1, 70, 100 + 9 * i, 20, i % 3), alone(&few[i], 64);
    aborts = 1;
    for (int i = 0; i < 6; i++) submit(&them[i], &few[i]);
    drain();
    aborts = 0;
    for (int i = 0; i < 6; i++) CHECK(them[i].over == 1 && !them[i].error, "%d is not over", i);
    CHECK(ended > 5, "%d calls were aborted", ended);
    end("aborted");
}

static void forbid_all(void *user, float *z) {
    (void)user;
    for (int i = 0; i < VOCAB; i++) z[i] = -HUGE_VALF;
}
static void nothing_left(void) {
    test_rng r = {9};
    make(&few[0], &r, 1, 0, 20, 4, 0);
    few[0].r.adjust = forbid_all;
    begin(0, 4, 64, NULL);
    submit(&them[0], &few[0]), drain();
    CHECK(them[0].over == 1 && them[0].error == MLA_ERR_ARGUMENT, "all logits are -infinity");
    end("nothing left");
}

/* ---- random ------------------------------------------------------------------------------------------------------ */

static void backwards(void *user, int n, void (*task)(void *arg, int i), void *arg) {
    (void)user;
    while (n-- > 0) task(arg, n);
}

enum { SPECS = 72, CLIENTS = 64 };
static int64_t guessed, stood;
static void random_operations(int n, uint64_t seed, int pages, int parallel, int chunk) {
    static spec specs[SPECS];
    static client clients[CLIENTS];
    test_rng r = {seed};
    int submitted = 0, over = 0;
    for (int i = 0; i < SPECS; i++) {
        const int cut = MLA_PAGE * (1 + test_int(&r, 3)) - test_int(&r, 9); /* a page more while it answers */
        const int length = test_int(&r, 2) ? cut : test_int(&r, 4) ? 1 + test_int(&r, 120) : 1 + test_int(&r, 450);
        const int answer = test_int(&r, 4) ? 1 + test_int(&r, 10) : ANSWER;
        make(&specs[i], &r, i % 5, test_int(&r, 400), length, answer, test_int(&r, 8) ? 0 : 1 + i % 2);
        vary(&specs[i], &r);
        alone(&specs[i], chunk);
    }
    begin(pages, parallel, chunk, seed % 2 ? backwards : NULL);
    for (int i = 0; i < CLIENTS; i++) memset(&clients[i], 0, sizeof clients[i]), clients[i].over = 1;
    while (over < n) {
        const int wave = test_int(&r, 12);
        for (int i = 0; i < CLIENTS; i++) {
            client *c = &clients[i];
            if (c->over && c->id) c->id = 0, over++;
            if (c->over && submitted < n && test_int(&r, 10) < wave) {
                submit(c, &specs[test_int(&r, SPECS)]), submitted++;
                if (test_int(&r, 10) == 0 && !clients[(i + 1) % CLIENTS].over) c->victim = &clients[(i + 1) % CLIENTS];
            } else if (!c->over && test_int(&r, 60) == 0) cancel(c);
        }
        if (test_int(&r, 200) == 0) scheduler_forget(among);
        step();
    }
    const scheduler_stats s = scheduler_statistics(among);
    guessed += s.guesses, stood += s.accepted;
    CHECK(s.requests == n && s.cached_tokens > 0, "%d requests, %d tokens found", (int)s.requests,
          (int)s.cached_tokens);
    printf(
        "    %d requests in %d steps, %d put back, tokens: %d read, %d found, %d generated, %d again; %d of %d guesses "
        "stood\n",
        n, (int)s.steps, (int)s.preemptions, (int)s.prompt_tokens, (int)s.cached_tokens, (int)s.generated_tokens,
        (int)s.recomputed_tokens, (int)s.accepted, (int)s.guesses);
    end("random operations");
}

int main(void) {
    mla_error err;
    const mla_context_desc d = {.max_tokens = LONG, .threads = 1, .invariant = 1, .watch = watch};
    const checkpoint_options how = {.mtp = 1};
    if (!CHECK(checkpoint_open_with(&files, "tests/fixtures/checkpoints/deepseek_v3", &how, &err) == MLA_OK, "%s",
               err.text) ||
        !CHECK(mla_model_create(&model, &files->config, &files->weights, NULL, &err) == MLA_OK, "%s", err.text) ||
        !CHECK(mla_context_create(&context, model, &d, &err) == MLA_OK, "%s", err.text))
        return test_end();
    refusals(), refusals_of_desc();
    cuts(), shared_prefixes(), long_prompts(), any_cut(), least_recently_used(), too_small(), order(), callbacks(),
        failures(), aborted(), nothing_left();
    SECTION("random operations");
    random_operations(700, 1, 22, 16, 64);
    random_operations(700, 2, 200, 32, 128);
    random_operations(600, 3, 9, 8, 64);
    for (uint64_t i = 4; i < 30 && test_all(); i++)
        random_operations(2000, i, 9 + (int)(i * i) % 200, 2 + (int)i, 64 << i % 3);
    for (guessing = 1; guessing <= 2; guessing++) {
        SECTION(guessing == 1 ? "guesses, always" : "guesses, now and then");
        CHECK(guessing > 1 || !guessed, "guesses where there should be none");
        looked = 0, guessed = stood = 0;
        shared_prefixes(), any_cut(), too_small(), callbacks(), failures(), aborted();
        random_operations(500, 31, 22, guessing == 1 ? 16 : 4, 64);
        random_operations(300, 32, 200, 3, 128);
        random_operations(200, 33, 9, guessing == 1 ? 8 : 2, 64);
        for (uint64_t i = 34; i < 40 && test_all(); i++)
            random_operations(1000, i, 9 + (int)(i * i) % 200, 2 + (int)i % 5, 64 << i % 3);
        CHECK(stood > 10 && stood < guessed, "%d of %d guesses stood", (int)stood, (int)guessed);
        CHECK(looked > 10, "%d looked at", looked);
    }
    CHECK(mixed == 0, "%d sequences of few tokens stand behind longer ones", mixed);
    mla_context_destroy(context), mla_model_destroy(model), checkpoint_close(files);
    return test_end();
}
