/* threads.h - a pool of threads behind mla.h, in place of OpenMP: its run function is the hook of a context.

USE
   In exactly one file:      #define THREADS_IMPLEMENTATION
                             #include "threads.h"              (cc -pthread)
   In all others:            #include "threads.h"

   thread_pool *pool;
   if (!threads_create(&pool, 0)) puts("no threads");          0: as many as this process may use
   mla_context_desc how = {.threads = threads_count(pool), .run = threads_run, .run_user = pool};
   how.team = 1, how.wait = threads_wait, how.wake = threads_wake;
   ...  threads_destroy(pool);

WAITING        A thread without work looks for some for a fraction of a millisecond, so that the next forward call finds
               it awake, then sleeps. OpenMP's threads look for much longer, or for ever, which stands still where other
               programs want the cores, too.
TASKS          The tasks of a run are taken one by one by whoever is awake, the caller first: a thread that gets no core
               delays nothing that it has not begun. With a team a forward call is one run, and inside it the same
               holds for the shares of each step.
CORES          threads_available counts the cores that the process may use: its affinity, and on Linux the quota of its
               control group and of those above it (cpu.max), rounded up. The system moves threads between cores as it
               likes; those of threads_create_pinned stay.
STACKS         The pool's threads have the system's usual stacks; that of the caller may be as small as 64 KB.
FORK           In the child of a fork the pool has no threads any more: the caller does all the work. Destroy it there
               or not.
PLATFORM       POSIX threads or Windows; gcc or clang (their atomic operations). C99 or C++11. No globals, no printing.

   SPDX-License-Identifier: MIT */

#ifndef THREADS_H
#define THREADS_H

#ifndef THREADS_API
#define THREADS_API extern
#endif

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct thread_pool thread_pool;

/* Cores that this process may use, at least 1. */
THREADS_API int threads_available(void);
/* A pool of n threads, the caller of threads_run among them; 0: threads_available(). 1: done; 0: *out is NULL, no
   memory or no threads are to be had. */
THREADS_API int threads_create(thread_pool **out, int n);
/* The same, and each thread stays on a core of its own while there are enough, on Linux and Windows. The caller's
   thread is left alone: one core remains for it. */
THREADS_API int threads_create_pinned(thread_pool **out, int n);
THREADS_API void threads_destroy(thread_pool *pool); /* NULL is fine; no run may be under way */
THREADS_API int threads_count(const thread_pool *pool);
/* An mla_run: task(arg, i) for i = 0..n-1, and returns when all have returned. By one thread at a time. */
THREADS_API void threads_run(void *pool, int n, void (*task)(void *arg, int i), void *arg);
/* An mla_wait and its mla_wake: sleep while *word is value; wake all that sleep on the word. By any threads. */
THREADS_API void threads_wait(void *pool, const uint32_t *word, uint32_t value);
THREADS_API void threads_wake(void *pool, const uint32_t *word);

#ifdef __cplusplus
}
#endif
#endif /* THREADS_H */

/* ================================================================================================================== */
#if defined THREADS_IMPLEMENTATION && !defined THREADS_IMPLEMENTED
#define THREADS_IMPLEMENTED

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <process.h>
#include <windows.h>
typedef HANDLE thr__thread;
typedef CRITICAL_SECTION thr__mutex;
typedef CONDITION_VARIABLE thr__condition;
#define thr__lock                   EnterCriticalSection
#define thr__unlock                 LeaveCriticalSection
#define thr__wait(condition, mutex) SleepConditionVariableCS(condition, mutex, INFINITE)
#define thr__wake                   WakeAllConditionVariable
#define thr__process()              ((int64_t)GetCurrentProcessId())
#else
#include <pthread.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
typedef pthread_t thr__thread;
typedef pthread_mutex_t thr__mutex;
typedef pthread_cond_t thr__condition;
#define thr__lock      pthread_mutex_lock
#define thr__unlock    pthread_mutex_unlock
#define thr__wait      pthread_cond_wait
#define thr__wake      pthread_cond_broadcast
#define thr__process() ((int64_t)getpid())
#endif

#define THR__BEDS  4    /* words that are slept on, and have conditions of their own if they are not too near */
#define THR__LOOKS 8000 /* times that a thread looks for work before it sleeps: some 0.1 to 0.3 milliseconds */

struct thread_pool {
    thr__mutex lock;
    thr__condition work, done, word[THR__BEDS];
    void (*task)(void *arg, int i);
    void *arg;
    uint64_t turn;        /* the run's number in the upper half, then its tasks and the next of them, 16 bits each */
    int left;             /* tasks that have not returned */
    int sleepers, waits;  /* threads asleep; 1: the caller is, too */
    int quit, n_threads;  /* besides the caller */
    int pinned, begun;    /* threads that have begun */
    int64_t process;      /* the one that has these thread_pool */
    thr__thread *handles; /* [n_threads] */
};

static void thr__pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* Takes tasks of the run that is under way until there are none; its number. */
static uint32_t thr__take(thread_pool *p) {
    uint64_t turn = __atomic_load_n(&p->turn, __ATOMIC_ACQUIRE);
    while ((turn & 0xffff) < (turn >> 16 & 0xffff)) {
        if (!__atomic_compare_exchange_n(&p->turn, &turn, turn + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) continue;
        p->task(p->arg, (int)(turn & 0xffff)); /* the run cannot end before this has returned */
        if (__atomic_sub_fetch(&p->left, 1, __ATOMIC_SEQ_CST) == 0 && __atomic_load_n(&p->waits, __ATOMIC_SEQ_CST)) {
            thr__lock(&p->lock);
            thr__wake(&p->done);
            thr__unlock(&p->lock);
        }
        turn = __atomic_load_n(&p->turn, __ATOMIC_ACQUIRE);
    }
    return (uint32_t)(turn >> 32);
}
static int thr__idle(thread_pool *p, uint32_t run) {
    return (uint32_t)(__atomic_load_n(&p->turn, __ATOMIC_SEQ_CST) >> 32) == run &&
           !__atomic_load_n(&p->quit, __ATOMIC_RELAXED);
}
static void thr__pin(int i);
static void thr__loop(thread_pool *p) {
    const int me = __atomic_add_fetch(&p->begun, 1, __ATOMIC_RELAXED);
    if (p->pinned) thr__pin(me);
    while (!__atomic_load_n(&p->quit, __ATOMIC_RELAXED)) {
        const uint32_t run = thr__take(p);
        for (int i = 0; i < THR__LOOKS && thr__idle(p, run); i++) thr__pause();
        if (!thr__idle(p, run)) continue;
        thr__lock(&p->lock);
        __atomic_add_fetch(&p->sleepers, 1, __ATOMIC_SEQ_CST);
        while (thr__idle(p, run)) thr__wait(&p->work, &p->lock);
        __atomic_sub_fetch(&p->sleepers, 1, __ATOMIC_SEQ_CST);
        thr__unlock(&p->lock);
    }
}

/* n below 65536 */
static void thr__run_some(thread_pool *p, int n, void (*task)(void *arg, int i), void *arg) {
    const uint64_t run = (__atomic_load_n(&p->turn, __ATOMIC_RELAXED) >> 32) + 1;
    p->task = task, p->arg = arg;
    __atomic_store_n(&p->left, n, __ATOMIC_RELAXED);
    __atomic_store_n(&p->turn, run << 32 | (uint64_t)n << 16, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&p->sleepers, __ATOMIC_SEQ_CST)) {
        thr__lock(&p->lock);
        thr__wake(&p->work);
        thr__unlock(&p->lock);
    }
    thr__take(p);
    for (int i = 0; i < THR__LOOKS && __atomic_load_n(&p->left, __ATOMIC_ACQUIRE); i++) thr__pause();
    if (!__atomic_load_n(&p->left, __ATOMIC_ACQUIRE)) return;
    thr__lock(&p->lock);
    __atomic_store_n(&p->waits, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&p->left, __ATOMIC_SEQ_CST)) thr__wait(&p->done, &p->lock);
    __atomic_store_n(&p->waits, 0, __ATOMIC_SEQ_CST);
    thr__unlock(&p->lock);
}
typedef struct thr__part {
    void (*task)(void *arg, int i);
    void *arg;
    int first;
} thr__part;
static void thr__part_task(void *arg, int i) {
    const thr__part *part = (const thr__part *)arg;
    part->task(part->arg, part->first + i);
}
void threads_run(void *pool, int n, void (*task)(void *arg, int i), void *arg) {
    thread_pool *p = (thread_pool *)pool;
    if (n < 2 || p->n_threads == 0 || p->process != thr__process())
        for (int i = 0; i < n; i++) task(arg, i);
    else if (n < 65536) thr__run_some(p, n, task, arg);
    else
        for (thr__part part = {task, arg, 0}; part.first < n; part.first += 65535)
            thr__run_some(p, n - part.first < 65535 ? n - part.first : 65535, thr__part_task, &part);
}

static thr__condition *thr__bed(thread_pool *p, const uint32_t *word) {
    return &p->word[(uintptr_t)word / sizeof *word % THR__BEDS];
}
void threads_wait(void *pool, const uint32_t *word, uint32_t value) {
    thread_pool *p = (thread_pool *)pool;
    thr__lock(&p->lock);
    while (__atomic_load_n(word, __ATOMIC_SEQ_CST) == value) thr__wait(thr__bed(p, word), &p->lock);
    thr__unlock(&p->lock);
}
void threads_wake(void *pool, const uint32_t *word) {
    thread_pool *p = (thread_pool *)pool;
    thr__lock(&p->lock);
    thr__wake(thr__bed(p, word));
    thr__unlock(&p->lock);
}

#ifdef _WIN32
static unsigned __stdcall thr__begin(void *pool) {
    thr__loop((thread_pool *)pool);
    return 0;
}
static int thr__start(thr__thread *t, thread_pool *p) {
    *t = (HANDLE)_beginthreadex(NULL, 0, thr__begin, p, 0, NULL);
    return *t != NULL;
}
static void thr__join(thr__thread t) { WaitForSingleObject(t, INFINITE), CloseHandle(t); }
static void thr__open(thread_pool *p) {
    InitializeCriticalSection(&p->lock);
    InitializeConditionVariable(&p->work), InitializeConditionVariable(&p->done);
    for (int i = 0; i < THR__BEDS; i++) InitializeConditionVariable(&p->word[i]);
}
static void thr__close(thread_pool *p) { DeleteCriticalSection(&p->lock); }
/* The calling thread stays on the i-th core of those that it may use, counted round and round. */
static void thr__pin(int i) {
    DWORD_PTR mine = 0, all = 0, left;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &mine, &all) || !mine) return;
    for (left = mine; i > 0; i--) left = left & (left - 1) ? left & (left - 1) : mine;
    SetThreadAffinityMask(GetCurrentThread(), left & (~left + 1));
}
int threads_available(void) {
    DWORD_PTR mine = 0, all = 0;
    int n = 0;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &mine, &all)) return 1;
    for (; mine; mine &= mine - 1) n++;
    return n > 0 ? n : 1;
}
#else
static void *thr__begin(void *pool) {
    thr__loop((thread_pool *)pool);
    return NULL;
}
static int thr__start(thr__thread *t, thread_pool *p) { return !pthread_create(t, NULL, thr__begin, p); }
static void thr__join(thr__thread t) { pthread_join(t, NULL); }
static void thr__open(thread_pool *p) {
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL), pthread_cond_init(&p->done, NULL);
    for (int i = 0; i < THR__BEDS; i++) pthread_cond_init(&p->word[i], NULL);
}
static void thr__close(thread_pool *p) {
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->work), pthread_cond_destroy(&p->done);
    for (int i = 0; i < THR__BEDS; i++) pthread_cond_destroy(&p->word[i]);
}
/* Declared by unistd.h where it may show more than POSIX, as it does without -std=c99 or with _DEFAULT_SOURCE. */
#if defined(SYS_sched_setaffinity) && (defined(__USE_MISC) || defined(_BSD_SOURCE) || defined(_GNU_SOURCE))
/* The calling thread stays on the i-th core of those that it may use, counted round and round. */
static void thr__pin(int i) {
    unsigned char mask[1024]; /* Linux can be built for 8192 cores */
    const int cores = 8 * (int)sizeof mask;
    int n = 0;
    memset(mask, 0, sizeof mask);
    if (syscall(SYS_sched_getaffinity, 0L, (long)sizeof mask, mask) <= 0) return;
    for (int core = 0; core < cores; core++) n += mask[core / 8] >> core % 8 & 1;
    if (n == 0) return;
    i %= n;
    for (int core = 0; core < cores; core++)
        if (mask[core / 8] >> core % 8 & 1 && i-- != 0)
            mask[core / 8] = (unsigned char)(mask[core / 8] & ~(1 << core % 8));
    syscall(SYS_sched_setaffinity, 0L, (long)sizeof mask, mask);
}
#else
static void thr__pin(int i) { (void)i; }
#endif
#ifdef __linux__
/* "Cpus_allowed: ff,ffffffff": the affinity, without an extension of libc's; 0: not known */
static int thr__affinity(void) {
    char line[4096];
    int n = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "Cpus_allowed:", 13)) continue;
        for (const char *c = line + 13; *c; c++) {
            const char *at = strchr("0123456789abcdef", *c);
            for (unsigned v = at ? (unsigned)(at - "0123456789abcdef") : 0; v; v &= v - 1) n++;
        }
    }
    if (f) fclose(f);
    return n;
}
/* "max 100000" or "150000 100000": microseconds of all cores in so many; 0: no quota. */
static int thr__quota(const char *file) {
    double quota = 0, period = 0;
    FILE *f = fopen(file, "r");
    if (!f) return 0;
    if (fscanf(f, "%lf %lf", &quota, &period) != 2 || !(quota > 0 && period > 0)) quota = 0, period = 1;
    fclose(f);
    return quota / period < 1e6 ? (int)(quota / period + 0.999) : 0;
}
/* The least quota of the control group that `file` names as "0::/path", and of all above it; 0: none. */
static int thr__quotas(const char *file, const char *root) {
    char line[1024], path[1280];
    int least = 0;
    FILE *f = fopen(file, "r");
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::/", 4)) continue;
        line[strcspn(line, "\n")] = 0;
        for (char *end = line + strlen(line); end >= line + 3; end--) {
            if (*end && *end != '/') continue;
            *end = 0;
            snprintf(path, sizeof path, "%.200s%s/cpu.max", root, line + 3);
            const int quota = thr__quota(path);
            if (quota > 0 && (least == 0 || quota < least)) least = quota;
        }
    }
    if (f) fclose(f);
    return least;
}
#endif
int threads_available(void) {
    long n = sysconf(_SC_NPROCESSORS_ONLN);
#ifdef __linux__
    const int mine = thr__affinity(), quota = thr__quotas("/proc/self/cgroup", "/sys/fs/cgroup");
    if (mine > 0 && mine < n) n = mine;
    if (quota > 0 && quota < n) n = quota;
#endif
    return n > 0 ? (int)n : 1;
}
#endif

int threads_count(const thread_pool *p) { return p->n_threads + 1; }
void threads_destroy(thread_pool *p) {
    if (!p) return;
    if (p->process == thr__process()) {
        thr__lock(&p->lock);
        __atomic_store_n(&p->quit, 1, __ATOMIC_SEQ_CST);
        thr__wake(&p->work);
        thr__unlock(&p->lock);
        for (int i = 0; i < p->n_threads; i++) thr__join(p->handles[i]);
        thr__close(p);
    }
    free(p->handles), free(p);
}
static int thr__create(thread_pool **out, int n, int pinned) {
    thread_pool *p = (thread_pool *)calloc(1, sizeof *p);
    *out = NULL;
    if (!p) return 0;
    if (n <= 0) n = threads_available();
    thr__open(p);
    p->process = thr__process(), p->pinned = pinned;
    p->handles = (thr__thread *)calloc((size_t)n, sizeof *p->handles);
    while (p->handles && p->n_threads < n - 1 && thr__start(&p->handles[p->n_threads], p)) p->n_threads++;
    if (p->n_threads == n - 1) *out = p;
    else threads_destroy(p);
    return *out != NULL;
}
int threads_create(thread_pool **out, int n) { return thr__create(out, n, 0); }
int threads_create_pinned(thread_pool **out, int n) { return thr__create(out, n, 1); }
#endif /* THREADS_IMPLEMENTATION */
