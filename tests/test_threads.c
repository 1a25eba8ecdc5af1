/* test_threads.c - examples/threads.h: every task of every run once and before the run returns, whatever the numbers of
   tasks and threads; sleeping threads, a child of fork, cores. Then teams: models on it, and on hooks that do not keep
   what a team promises, give the same logits bit for bit; in a child of fork, from a small stack, from many threads.
   Run from the repository root. */
#define _DEFAULT_SOURCE
#define MLA_IMPLEMENTATION
#include "mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "checkpoint.h"
#define THREADS_IMPLEMENTATION
#include "threads.h"
#include "test.h"

#include <dirent.h>
#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SMALL_STACK = 1 << 20 }; /* the tools' own */
#elif defined(__has_feature)
#if __has_feature(memory_sanitizer) || __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
enum { SMALL_STACK = 1 << 20 };
#else
enum { SMALL_STACK = 1 << 16 };
#endif
#else
enum { SMALL_STACK = 1 << 16 };
#endif
enum { MOST = 70000 };
typedef struct counts {
    unsigned char of[MOST];
} counts;
static counts seen;

static void count(void *arg, int i) { ((counts *)arg)->of[i]++; }
/* Tasks of very different lengths. */
static void count_late(void *arg, int i) {
    volatile double x = 1;
    for (int k = 0; k < (i % 7 == 0 ? 3000 : 10); k++) x = x * 1.0000001;
    count(arg, i);
}
static void run_counts(thread_pool *p, int n, void (*task)(void *arg, int i), const char *what) {
    int wrong = 0;
    memset(&seen, 0, sizeof seen);
    threads_run(p, n, task, &seen);
    for (int i = 0; i < MOST; i++) wrong += seen.of[i] != (i < n);
    CHECK(wrong == 0, "%s: %d tasks, %d of them not once", what, n, wrong);
}
static void nap(long microseconds) {
    const struct timespec t = {0, microseconds * 1000};
    nanosleep(&t, NULL);
}

static void test_counts(void) {
    static const int sizes[] = {0, 1, 2, 3, 5, 16, 17, 1000, 65535, 65536, MOST};
    SECTION("each task once");
    for (int n = 1; n <= 9; n += n < 3 ? 1 : 3) {
        thread_pool *p;
        if (!CHECK(threads_create(&p, n), "%d threads", n)) continue;
        CHECK(threads_count(p) == n, "%d threads, asked for %d", threads_count(p), n);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) run_counts(p, sizes[i], count, "at once");
        for (int i = 0; i < 300; i++) run_counts(p, 1 + i % 40, count_late, "one after the other");
        for (int i = 0; i < 20; i++) nap(500 * (i % 5)), run_counts(p, n, count_late, "from sleep");
        threads_destroy(p);
    }
    for (int i = 0; i < 200; i++) { /* threads that have hardly begun, and are to end */
        thread_pool *p;
        if (!CHECK(threads_create(&p, 4), "pool %d", i)) break;
        if (i % 2) run_counts(p, 4, count, "a short life");
        threads_destroy(p);
    }
    threads_destroy(NULL);
    CHECK(threads_available() >= 1 && threads_available() <= sysconf(_SC_NPROCESSORS_ONLN), "%d cores",
          threads_available());
}

static void test_fork(void) {
    thread_pool *p;
    int status = -1;
    SECTION("a child of fork");
    if (!CHECK(threads_create(&p, 3), "no threads")) return;
    run_counts(p, 10, count, "before fork");
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        int wrong = 0;
        alarm(20);
        memset(&seen, 0, sizeof seen);
        threads_run(p, 50, count, &seen);
        for (int i = 0; i < 50; i++) wrong += seen.of[i] != 1;
        threads_destroy(p);
        _exit(wrong != 0);
    }
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %#x", (unsigned)status);
    run_counts(p, 10, count, "after fork");
    threads_destroy(p);
}

static void write_text(const char *dir, const char *file, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    FILE *f = fopen(path, "w");
    if (CHECK(f, "cannot write %s", path)) fputs(text, f), fclose(f);
}

static void test_quota(void) {
#ifdef __linux__
    static const struct {
        const char *top, *a, *b;
        int want;
    } cases[] = {{"max 100000\n", "max 100000\n", "max 100000\n", 0},
                 {"max 100000\n", "150000 100000\n", "max 100000\n", 2},
                 {"400000 100000\n", "300000 100000\n", "9 10\n", 1},
                 {"400000 100000\n", "max 100000\n", "500000 100000\n", 4},
                 {"", "nonsense\n", "50000 100000\n", 1}};
    static const char *const dirs[] = {"/a", "/a/b"}, *const files[] = {"cpu.max", "a/cpu.max", "a/b/cpu.max", "group"};
    char dir[] = "/tmp/test_threads_XXXXXX", path[256];
    SECTION("the quota of a control group");
    if (!CHECK(mkdtemp(dir), "no directory")) return;
    for (int i = 0; i < 2; i++) snprintf(path, sizeof path, "%s%s", dir, dirs[i]), mkdir(path, 0700);
    write_text(dir, "group", "1:cpu:/c\n0::/a/b\n");
    snprintf(path, sizeof path, "%s/group", dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(dir, files[0], cases[i].top), write_text(dir, files[1], cases[i].a);
        write_text(dir, files[2], cases[i].b);
        const int quota = thr__quotas(path, dir);
        CHECK(quota == cases[i].want, "case %d: %d cores, not %d", (int)i, quota, cases[i].want);
    }
    CHECK(thr__quotas("/none", dir) == 0, "a quota of no group");
    for (int i = 0; i < 4; i++) snprintf(path, sizeof path, "%s/%s", dir, files[i]), unlink(path);
    for (int i = 1; i >= 0; i--) snprintf(path, sizeof path, "%s%s", dir, dirs[i]), rmdir(path);
    rmdir(dir);
#endif
}

static void count_cores(void *arg, int i) { /* that the thread may run on */
    nap(2000);
    ((int *)arg)[i] = -1;
#ifdef __linux__
    unsigned char mask[1024] = {0};
    if (syscall(SYS_sched_getaffinity, 0L, (long)sizeof mask, mask) <= 0) return;
    ((int *)arg)[i] = 0;
    for (size_t k = 0; k < 8 * sizeof mask; k++) ((int *)arg)[i] += mask[k / 8] >> k % 8 & 1;
#endif
}
static void test_pins(void) {
    int cores[60], mine = threads_available(), one = 0, all = 0;
    thread_pool *p;
    SECTION("threads that stay on a core");
    if (!CHECK(threads_create_pinned(&p, 3), "no threads")) return;
    run_counts(p, 10, count, "pinned");
    threads_run(p, 60, count_cores, cores);
    for (int i = 0; i < 60; i++) one += cores[i] == 1, all += cores[i] >= mine;
    if (cores[0] < 0) printf("affinity is not known here: left out\n");
    else CHECK(one > 0 && all > 0, "of 60 tasks %d ran on a thread of one core, %d on the caller's", one, all);
    threads_destroy(p);
}

typedef struct sleeper {
    thread_pool *p;
    uint32_t word, slept;
} sleeper;
static void *fall_asleep(void *arg) {
    sleeper *s = arg;
    threads_wait(s->p, &s->word, 0);
    __atomic_store_n(&s->slept, __atomic_load_n(&s->word, __ATOMIC_SEQ_CST), __ATOMIC_SEQ_CST);
    return NULL;
}
static void test_sleep(void) {
    sleeper s = {NULL, 0, 0};
    pthread_t t;
    SECTION("threads_wait and threads_wake");
    if (!CHECK(threads_create(&s.p, 1), "no threads")) return;
    for (int i = 0; i < 20; i++) {
        s.word = s.slept = 0;
        if (!CHECK(!pthread_create(&t, NULL, fall_asleep, &s), "no thread")) break;
        if (i % 2) nap(1000);
        threads_wake(s.p, &s.word); /* for nothing */
        CHECK(!__atomic_load_n(&s.slept, __ATOMIC_SEQ_CST), "woke without reason");
        __atomic_store_n(&s.word, 7, __ATOMIC_SEQ_CST);
        threads_wake(s.p, &s.word);
        pthread_join(t, NULL);
        CHECK(s.slept == 7, "woke to %u", s.slept);
    }
    threads_destroy(s.p);
}

/* ---- teams ------------------------------------------------------------------------------------------------------- */

enum { PROMPT = 40, STEPS = 6, MOST_VOCAB = 4096 };

typedef struct hook { /* runs of a context, counted */
    mla_run run;
    void *user;
    int runs, tasks;
} hook;
static void run_hook(void *user, int n, void (*task)(void *arg, int i), void *arg) {
    hook *h = user;
    h->runs++, h->tasks += n;
    h->run(h->user, n, task, arg);
}
static void hook_wait(void *user, const uint32_t *word, uint32_t value) {
    threads_wait(((hook *)user)->user, word, value);
}
static void hook_wake(void *user, const uint32_t *word) { threads_wake(((hook *)user)->user, word); }

/* Hooks that break a team's promise. */
static void run_forwards(void *user, int n, void (*task)(void *arg, int i), void *arg) {
    (void)user;
    for (int i = 0; i < n; i++) task(arg, i);
}
static void run_backwards(void *user, int n, void (*task)(void *arg, int i), void *arg) {
    (void)user;
    while (n-- > 0) task(arg, n);
}
typedef struct late {
    void (*task)(void *arg, int i);
    void *arg;
} late;
static void late_task(void *arg, int i) {
    nap(i % 3 * 700);
    ((late *)arg)->task(((late *)arg)->arg, i);
}
static void run_late(void *user, int n, void (*task)(void *arg, int i), void *arg) {
    late l = {task, arg};
    threads_run(user, n, late_task, &l);
}

/* A prompt, then some tokens one by one, by the model and its layers alone; everything that comes out. */
typedef struct outcome {
    mla_error error;
    float logits[1 + STEPS][MOST_VOCAB];
    float x[PROMPT * 512], attn[PROMPT * 512], moe[PROMPT * 512];
} outcome;
static int go_on(const mla_config *f, mla_context *context, mla_cache *cache, outcome *o) {
    int tokens[PROMPT];
    for (int t = 0; t < PROMPT; t++) tokens[t] = t * 77 % f->vocab_size;
    for (int i = 0; i <= STEPS; i++) {
        const mla_sequence sequence = {.cache = cache, .n_tokens = i ? 1 : PROMPT, .n_logits = 1};
        const mla_outputs out = {.logits = o->logits[i]};
        if (mla_model_forward(context, &sequence, 1, tokens + i, &out)) return 0;
    }
    const mla_sequence sequence = {.cache = cache, .n_tokens = PROMPT};
    for (int i = 0; i < PROMPT * f->hidden_size; i++) o->x[i] = (float)(i % 23 - 11) * 0.05f;
    mla_cache_reset(cache);
    for (int i = 0; i < f->num_hidden_layers; i++)
        if (mla_attn_forward(context, i, o->attn, o->x, &sequence, 1) ||
            mla_moe_forward(context, i, o->moe, o->attn, PROMPT, NULL))
            return 0;
    return 1;
}
/* 1: done; 0: o->error says what is wrong. By any thread, so that nothing is checked here. */
static int go(const mla_model *model, const mla_config *f, const mla_context_desc *desc, outcome *o) {
    const mla_cache_desc room = {.capacity = PROMPT + STEPS};
    mla_context_desc d = *desc;
    mla_context *context;
    mla_cache *cache;
    memset(o, 0, sizeof *o);
    d.max_tokens = PROMPT;
    if (mla_context_create(&context, model, &d, &o->error)) return 0;
    int ok = !mla_cache_create(&cache, model, &room, &o->error);
    if (ok && !go_on(f, context, cache, o)) o->error = *mla_context_error(context), ok = 0;
    mla_cache_destroy(cache), mla_context_destroy(context);
    return ok;
}

static outcome want, have;

static void with_hook(const checkpoint *c, const mla_model *model, const char *name, int threads, hook h, int team,
                      int sleeps) {
    mla_context_desc desc = {.threads = threads, .run = run_hook, .run_user = &h, .team = team};
    char what[160];
    snprintf(what, sizeof what, "%s, %d threads%s%s", name, threads, team ? ", team" : "",
             sleeps ? " that sleeps" : "");
    if (sleeps) desc.wait = hook_wait, desc.wake = hook_wake;
    if (!CHECK(go(model, &c->config, &desc, &have), "%s: %s", what, have.error.text)) return;
    CHECK(memcmp(&want, &have, sizeof want) == 0, "%s: other results", what);
    const int calls = 1 + STEPS + 2 * c->config.num_hidden_layers;
    CHECK(h.tasks == h.runs * threads, "%s: %d tasks in %d runs", what, h.tasks, h.runs);
    if (team) CHECK(h.runs == calls, "%s: %d runs in %d calls", what, h.runs, calls);
    else CHECK(h.runs > calls, "%s: %d runs in %d calls", what, h.runs, calls);
}

static mla_model *open_fixture(const char *name, checkpoint **c) {
    char path[128];
    mla_error error;
    mla_model *model = NULL;
    snprintf(path, sizeof path, "tests/fixtures/checkpoints/%s", name);
    if (!CHECK(checkpoint_open(c, path, &error) == MLA_OK, "%s: %s", name, error.text)) return NULL;
    if (!CHECK((*c)->config.vocab_size <= MOST_VOCAB && (*c)->config.hidden_size <= 512, "%s is too large", name) ||
        !CHECK(mla_model_create(&model, &(*c)->config, &(*c)->weights, NULL, &error) == MLA_OK, "%s: %s", name,
               error.text))
        checkpoint_close(*c);
    return model;
}

static void test_teams(void) {
    static const char *const names[] = {"deepseek_v3", "deepseek_v32", "longcat_flash", "deepseek_v2_lite",
                                        "kimi_linear"};
    SECTION("teams: the same, bit for bit");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const mla_context_desc alone = {.threads = 1};
        checkpoint *c;
        mla_model *model = open_fixture(names[i], &c);
        if (!model) continue;
        if (CHECK(go(model, &c->config, &alone, &want), "%s: %s", names[i], want.error.text))
            for (int n = 2; n <= 7; n += n < 3 ? 1 : 2) {
                thread_pool *p, *few;
                if (!CHECK(threads_create(&p, n) && threads_create(&few, 2), "no threads")) continue;
                const hook pool = {threads_run, p, 0, 0}, tardy = {run_late, p, 0, 0}, two = {threads_run, few, 0, 0};
                const hook forwards = {run_forwards, NULL, 0, 0}, backwards = {run_backwards, NULL, 0, 0};
                with_hook(c, model, names[i], n, pool, 0, 0);
                with_hook(c, model, names[i], n, pool, 1, 0);
                with_hook(c, model, names[i], n, pool, 1, 1);
                with_hook(c, model, names[i], n, tardy, 1, 1);
                with_hook(c, model, names[i], n, two, 1, 1); /* fewer threads than tasks */
                with_hook(c, model, names[i], n, forwards, 1, 0);
                with_hook(c, model, names[i], n, backwards, 1, 0);
                const mla_context_desc built_in = {.threads = n};
                if (CHECK(go(model, &c->config, &built_in, &have), "%s: %s", names[i], have.error.text))
                    CHECK(memcmp(&want, &have, sizeof want) == 0, "%s, %d threads, built in: other results", names[i],
                          n);
                threads_destroy(p), threads_destroy(few);
            }
        mla_model_destroy(model), checkpoint_close(c);
    }
}

/* A prompt and a token, of three sequences that are alike: what comes out for each, alone (n 1) or in one call. */
enum { ALIKE = 3 };
static int run_alike(const mla_model *model, const mla_context_desc *desc, int n, float *logits, mla_error *error) {
    const mla_cache_desc room = {.capacity = PROMPT + 1};
    const int V = mla_model_config(model)->vocab_size;
    mla_context_desc d = *desc;
    mla_context *context;
    mla_sequence s[ALIKE] = {{0}};
    int tokens[ALIKE * PROMPT], ok = 1;
    d.max_tokens = ALIKE * PROMPT, d.invariant = 1;
    if (mla_context_create(&context, model, &d, error)) return 0;
    for (int t = 0; t < n * PROMPT; t++) tokens[t] = t % PROMPT * 77 % V;
    for (int i = 0; i < n; i++) ok = ok && !mla_cache_create(&s[i].cache, model, &room, error);
    for (int step = 0; step < 2 && ok; step++) {
        const mla_outputs out = {.logits = logits + step * n * V};
        for (int i = 0; i < n; i++) s[i].n_tokens = step ? 1 : PROMPT, s[i].n_logits = 1;
        for (int i = 0; i < n && step; i++) tokens[i] = 5 % V;
        ok = !mla_model_forward(context, s, n, tokens, &out);
        if (!ok) *error = *mla_context_error(context);
    }
    for (int i = 0; i < n; i++) mla_cache_destroy(s[i].cache);
    mla_context_destroy(context);
    return ok;
}

/* Every model, by any number of threads of any kind, alone and in company of the same shape: the same, bit for bit. */
static void test_fixtures(void) {
    static const int how_many[] = {1, 2, 3, 7};
    static float one[2 * MOST_VOCAB], got[2 * ALIKE * MOST_VOCAB];
    DIR *all = opendir("tests/fixtures/checkpoints");
    int n_models = 0;
    SECTION("every model: the same, bit for bit");
    for (struct dirent *d; all && (d = readdir(all)) != NULL;) {
        const mla_context_desc serial = {.threads = 1};
        mla_error error;
        checkpoint *c;
        mla_model *model = d->d_name[0] == '.' ? NULL : open_fixture(d->d_name, &c);
        if (!model) continue;
        const int V = c->config.vocab_size;
        n_models++;
        CHECK(run_alike(model, &serial, 1, one, &error), "%s: %s", d->d_name, error.text);
        for (int i = 0; i < 4 * 4; i++) { /* the pool, as a team, OpenMP if it is built in, one after the other */
            thread_pool *p = NULL;
            mla_context_desc how = {
                .threads = how_many[i / 4], .team = i % 4 == 1, .run = i % 4 == 3 ? run_forwards : NULL};
            if (i % 4 < 2 && CHECK(threads_create(&p, how.threads), "no threads"))
                how.run = threads_run, how.run_user = p;
            if (CHECK(run_alike(model, &how, ALIKE, got, &error), "%s: %s", d->d_name, error.text)) {
                int wrong = 0;
                for (int j = 0; j < 2 * ALIKE; j++)
                    wrong += memcmp(one + j / ALIKE * V, got + j * V, sizeof *got * (size_t)V) != 0;
                CHECK(!wrong, "%s, %d threads, kind %d: %d other results", d->d_name, how.threads, i % 4, wrong);
            }
            threads_destroy(p);
        }
        mla_model_destroy(model), checkpoint_close(c);
    }
    if (all) closedir(all);
    CHECK(n_models >= 20, "%d models", n_models);
}

/* A team of a pool's, for its caller. */
typedef struct party {
    const mla_model *model;
    const mla_config *f;
    thread_pool *p;
    outcome *o;
    int ok;
} party;
static void *party_go(void *arg) {
    party *a = arg;
    const mla_context_desc desc = {.threads = threads_count(a->p),
                                   .run = threads_run,
                                   .run_user = a->p,
                                   .team = 1,
                                   .wait = threads_wait,
                                   .wake = threads_wake};
    a->ok = go(a->model, a->f, &desc, a->o) && memcmp(a->o, &want, sizeof want) == 0;
    return NULL;
}

static void test_parties(void) {
    enum { PARTIES = 3 };
    static outcome outcomes[PARTIES];
    const mla_context_desc alone = {.threads = 1};
    party parties[PARTIES];
    pthread_t threads[PARTIES];
    pthread_attr_t small;
    int status = -1;
    checkpoint *c;
    mla_model *model = open_fixture("deepseek_v3", &c);
    if (!model || !CHECK(go(model, &c->config, &alone, &want), "%s", want.error.text)) return;
    SECTION("teams: contexts in several threads");
    for (int i = 0; i < PARTIES; i++) {
        parties[i] = (party){model, &c->config, NULL, &outcomes[i], 0};
        if (!CHECK(threads_create(&parties[i].p, 2 + i), "no threads")) return;
    }
    for (int i = 0; i < PARTIES; i++)
        if (!CHECK(!pthread_create(&threads[i], NULL, party_go, &parties[i]), "no thread")) return;
    for (int i = 0; i < PARTIES; i++) {
        pthread_join(threads[i], NULL);
        CHECK(parties[i].ok, "%d threads: other results%s", 2 + i, outcomes[i].error.text);
    }
    SECTION("teams: a child of fork");
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);
        party_go(&parties[1]);
        _exit(!parties[1].ok);
    }
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %#x", (unsigned)status);
    party_go(&parties[1]);
    CHECK(parties[1].ok, "other results after fork");
    SECTION("teams: a small stack");
    pthread_attr_init(&small);
    if (pthread_attr_setstacksize(&small, SMALL_STACK) ||
        !CHECK(!pthread_create(&threads[0], &small, party_go, &parties[2]), "no thread"))
        printf("no stack of %d bytes here: left out\n", SMALL_STACK);
    else {
        pthread_join(threads[0], NULL);
        CHECK(parties[2].ok, "other results with a small stack");
    }
    pthread_attr_destroy(&small);
    for (int i = 0; i < PARTIES; i++) threads_destroy(parties[i].p);
    mla_model_destroy(model), checkpoint_close(c);
}

/* Seconds that only calls of it let pass. */
static double tick(void *user) { return 1e-3 * __atomic_fetch_add((int *)user, 1, __ATOMIC_SEQ_CST); }

static void test_stats(void) {
    checkpoint *c;
    mla_model *model = open_fixture("deepseek_v32", &c);
    thread_pool *p;
    int ticks = 0;
    SECTION("where the time goes");
    if (!model || !CHECK(threads_create(&p, 3), "no threads")) return;
    for (int team = 0; team < 2; team++)
        for (int timed = 0; timed < 2; timed++) {
            mla_stats s = {0};
            mla_context_desc desc = {.threads = 3, .run = threads_run, .run_user = p, .team = team, .stats = &s};
            if (timed) s.clock = tick, s.clock_user = &ticks;
            if (!CHECK(go(model, &c->config, &desc, &have), "%s", have.error.text)) continue;
            const int calls = 1 + STEPS + 2 * c->config.num_hidden_layers;
            const double sum = s.kernels + s.imbalance + s.barriers + s.serial;
            CHECK(s.calls == calls && s.steps > calls && s.alone > 0, "%d calls, %d steps, %d alone", (int)s.calls,
                  (int)s.steps, (int)s.alone);
            CHECK(team || s.taken == 0, "without a team %d shares were taken", (int)s.taken);
            CHECK(fabs(sum - s.seconds) <= 1e-9 * s.seconds, "parts of %g seconds are %g", s.seconds, sum);
            if (!timed) CHECK(s.seconds == 0 && s.attention == 0, "%g seconds without a clock", s.seconds);
            else
                CHECK(s.kernels > 0 && s.kernels < s.seconds && s.imbalance >= 0 && s.imbalance < s.seconds &&
                          s.serial > 0 && s.attention > 0 && s.indexer > 0,
                      "of %g kernels %g, imbalance %g, serial %g, attention %g, indexer %g", s.seconds, s.kernels,
                      s.imbalance, s.serial, s.attention, s.indexer);
        }
    mla_stats s = {0};
    const mla_context_desc alone = {.threads = 3, .run = run_forwards, .team = 1, .stats = &s};
    CHECK(go(model, &c->config, &alone, &have) && s.taken > 0, "one thread for three: %d shares were taken",
          (int)s.taken);
    threads_destroy(p), mla_model_destroy(model), checkpoint_close(c);
}

static void test_desc(void) {
    checkpoint *c;
    mla_model *model = open_fixture("deepseek_v3", &c);
    const struct {
        mla_context_desc d;
        const char *says;
    } wrong[] = {{{.run = run_forwards, .team = 2}, "context.team"},
                 {{.run = run_forwards, .team = -1}, "context.team"},
                 {{.team = 1}, "context.team"},
                 {{.run = run_forwards, .team = 1, .wait = hook_wait}, "context.wake"},
                 {{.run = run_forwards, .team = 1, .wake = hook_wake}, "context.wait"},
                 {{.run = run_forwards, .wait = hook_wait, .wake = hook_wake}, "context.team"}};
    SECTION("teams that cannot be");
    for (size_t i = 0; model && i < sizeof wrong / sizeof *wrong; i++) {
        mla_context *context;
        mla_error error;
        const mla_result r = mla_context_create(&context, model, &wrong[i].d, &error);
        CHECK(r == MLA_ERR_ARGUMENT && strstr(error.text, wrong[i].says), "case %d: %s, %s", (int)i, mla_result_name(r),
              r ? error.text : "");
        if (r == MLA_OK) mla_context_destroy(context);
    }
    if (model) mla_model_destroy(model), checkpoint_close(c);
}

int main(void) {
    test_counts();
    test_fork();
    test_quota();
    test_pins();
    test_sleep();
    test_desc();
    test_teams();
    test_fixtures();
    test_parties();
    test_stats();
    return test_end();
}
