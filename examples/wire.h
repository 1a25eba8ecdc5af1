/* wire.h - the hooks of mla_shard over MPI: sums and gatherings among the ranks of a communicator.

USE
   In exactly one file:      #define WIRE_IMPLEMENTATION
                             #include "wire.h"          (mpicc -pthread)
   In all others:            #include "wire.h"

   MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &level);   MPI_Comm_rank(comm, &rank), MPI_Comm_size(comm, &n);
   if (!wire_open(&w, comm, 0)) puts("no memory");
   mla_context_desc how = {.shard = {rank, n, 0, wire_reduce, wire_gather, NULL, &w}};
   ...  wire_close(&w);                                            before MPI_Finalize

SAME BITS      All ranks add up in the order of ranks, so that they get the same bits, whatever the network does. Either
               each sends all to all, which takes one latency, or each adds up a slice and sends that, which takes two
               and fewer bytes (wire_direct).
SHARED         Ranks that are all on one machine sum up and gather through memory that they share, not by messages.
BACKGROUND     With a thread of its own that makes sums while others compute: give wire_wait to mla_shard.wait, too.
               While a sum is under way no other thread may call MPI.
THREADS        Hooks are called by one thread at a time. No globals, no printing.
   SPDX-License-Identifier: MIT */

#ifndef WIRE_H
#define WIRE_H

#ifndef WIRE_API
#define WIRE_API extern
#endif

#ifndef MLA_H
#include "mla.h"
#endif
#include <mpi.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

enum { WIRE_QUEUE = 8, WIRE_SHARED = 1 << 18 };

typedef struct wire {
    MPI_Comm comm;
    int rank, ranks;
    double seconds, bytes; /* that calls took; sent */
    /* private */
    MPI_Win window; /* ranks of one machine */
    char **shared;  /* [ranks] a line with a rank's turn, then two times WIRE_SHARED floats; NULL: they send messages */
    uint32_t turn;
    float *room;
    size_t n_room;
    MPI_Request *requests; /* [2 * ranks] */
    int background, over, failed;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct {
        float *x;
        size_t n;
    } queue[WIRE_QUEUE];
    unsigned asked, made, taken;
} wire;

/* 0: no memory, or no thread is to be had. By all ranks of comm. */
WIRE_API int wire_open(wire *w, MPI_Comm comm, int background);
WIRE_API void wire_close(wire *w);
/* The hooks; user is the wire. They fail (1) without memory, and if a message is of more than 2^31 - 1 floats. */
WIRE_API int wire_reduce(void *user, float *x, size_t n);
WIRE_API int wire_wait(void *user);
WIRE_API int wire_gather(void *user, float *x, size_t ldx, int n, const int *begin);
/* Between ranks 0 and 1 of comm, by all: seconds from one to the other, bytes a second, of rank 0. 0: no memory. */
WIRE_API int wire_measure(MPI_Comm comm, double *latency, double *link);
/* How many ranks of comm are on this machine; and one instruction set for all: the one asked for, or, if it is AUTO and
   machines differ, the best that all have. By all ranks. */
WIRE_API int wire_local(MPI_Comm comm);
WIRE_API mla_isa wire_isa(MPI_Comm comm, mla_isa asked);
/* Whether sums of n floats are sent from all to all. */
WIRE_API int wire_direct(double n, int ranks);
/* Until all n are done. */
WIRE_API void wire_all(int n, MPI_Request *requests);

#endif /* WIRE_H */

/* ================================================================================================================== */
#if defined WIRE_IMPLEMENTATION && !defined WIRE_IMPLEMENTED
#define WIRE_IMPLEMENTED

#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What MPI_Waitall does, whose statuses gcc takes for an array also where MPICH's header ignores them, and warns. */
void wire_all(int n, MPI_Request *requests) {
    for (int i = 0; i < n; i++) MPI_Wait(&requests[i], MPI_STATUS_IGNORE);
}

enum { WIRE__SUM = 1, WIRE__SLICE, WIRE__GATHER };
#define WIRE__LATENCY 65536.0 /* bytes that may be sent more to wait for one message less */

static double wire__now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
int wire_direct(double n, int ranks) { return (ranks - 1) * (1 - 2.0 / ranks) * 4 * n <= WIRE__LATENCY; }
static float *wire__room(wire *w, size_t n) {
    if (n <= w->n_room) return w->room;
    free(w->room);
    w->n_room = (w->room = malloc(n * sizeof *w->room)) ? n : 0;
    return w->room;
}
/* y [n] += x [n], sixteen at a time, of which compilers make vectors. */
static void wire__plus(float *y, const float *x, size_t n) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        float sum[16];
        for (int j = 0; j < 16; j++) sum[j] = y[i + (size_t)j] + x[i + (size_t)j];
        memcpy(y + i, sum, sizeof sum);
    }
    for (; i < n; i++) y[i] += x[i];
}
/* x [n] = the sum of x and what others sent, [n] each, in the order of ranks. */
static void wire__add(const wire *w, float *x, size_t n) {
    float sum[512];
    for (size_t i = 0, some; i < n; i += some) {
        some = n - i < 512 ? n - i : 512;
        for (int r = 0; r < w->ranks; r++) {
            const float *from = r == w->rank ? x + i : w->room + (size_t)(r - (r > w->rank)) * n + i;
            if (r == 0) memcpy(sum, from, some * sizeof *sum);
            else wire__plus(sum, from, some);
        }
        memcpy(x + i, sum, some * sizeof *x);
    }
}
static void wire__post(wire *w, int *n, int send, const float *x, size_t floats, int peer, int tag) {
    float *to = (float *)(uintptr_t)x;
    if (send) MPI_Isend(to, (int)floats, MPI_FLOAT, peer, tag, w->comm, &w->requests[(*n)++]);
    else MPI_Irecv(to, (int)floats, MPI_FLOAT, peer, tag, w->comm, &w->requests[(*n)++]);
    w->bytes += send ? 4.0 * (double)floats : 0;
}
/* Of the two places of a rank for floats, that of this turn: who still reads the other one has not come to the next. */
static float *wire__place(const wire *w, int rank) {
    return (float *)(void *)(w->shared[rank] + 64) + (w->turn % 2 ? WIRE_SHARED : 0);
}
static uint32_t *wire__turn(const wire *w, int rank) { return (uint32_t *)(void *)w->shared[rank]; }
/* All ranks have come here as often: what they have written before can be read. */
static void wire__meet(wire *w, uint32_t turn) {
    __atomic_store_n(wire__turn(w, w->rank), turn, __ATOMIC_RELEASE);
    for (int r = 0; r < w->ranks; r++)
        for (int i = 0; (int32_t)(__atomic_load_n(wire__turn(w, r), __ATOMIC_ACQUIRE) - turn) < 0; i++)
            if (i > 1000) sched_yield();
}
/* At most WIRE_SHARED floats: few are added up by each rank, of more each adds up a slice; a rank lays down only what
   others read. */
static void wire__sum_shared(wire *w, float *x, size_t n) {
    const size_t R = (size_t)w->ranks, me = (size_t)w->rank, all = n <= 8192;
    const size_t from = all ? 0 : n * me / R, to = all ? n : n * (me + 1) / R;
    float *mine = wire__place(w, w->rank), part[512];
    memcpy(mine, x, (all ? n : from) * sizeof *x);
    if (!all) memcpy(mine + to, x + to, (n - to) * sizeof *x);
    wire__meet(w, 2 * w->turn + 1);
    for (size_t i = from, some; i < to; i += some) {
        some = to - i < 512 ? to - i : 512;
        for (size_t r = 0; r < R; r++) {
            const float *y = r == me ? x + i : wire__place(w, (int)r) + i;
            if (r == 0) memcpy(part, y, some * sizeof *part);
            else wire__plus(part, y, some);
        }
        memcpy(x + i, part, some * sizeof *x);
        if (!all) memcpy(mine + i, part, some * sizeof *x);
    }
    if (!all) wire__meet(w, 2 * w->turn + 2);
    for (size_t r = 0; r < R && !all; r++)
        if (r != me)
            memcpy(x + n * r / R, wire__place(w, (int)r) + n * r / R, (n * (r + 1) / R - n * r / R) * sizeof *x);
    w->turn++;
}
static void wire__gather_shared(wire *w, float *x, const int *begin) {
    const size_t own = (size_t)(begin[w->rank + 1] - begin[w->rank]);
    memcpy(wire__place(w, w->rank), x + begin[w->rank], own * sizeof *x);
    wire__meet(w, 2 * w->turn + 1);
    for (int r = 0; r < w->ranks; r++)
        if (r != w->rank) memcpy(x + begin[r], wire__place(w, r), (size_t)(begin[r + 1] - begin[r]) * sizeof *x);
    w->turn++;
}
/* 0: not done. */
static int wire__sum(wire *w, float *x, size_t n) {
    for (size_t i = 0; i < n && w->shared; i += WIRE_SHARED)
        wire__sum_shared(w, x + i, n - i < WIRE_SHARED ? n - i : WIRE_SHARED);
    if (w->shared) return 1;
    const int direct = wire_direct((double)n, w->ranks), me = w->rank, R = w->ranks;
    const size_t at = direct ? 0 : n * (size_t)me / (size_t)R, own = direct ? n : n * (size_t)(me + 1) / (size_t)R - at;
    int posted = 0;
    if (n > INT_MAX || !wire__room(w, own * (size_t)(R - 1))) return 0;
    for (int i = 1; i < R; i++) {
        const int r = (me + i) % R;
        wire__post(w, &posted, 0, w->room + (size_t)(r - (r > me)) * own, own, r, WIRE__SUM);
    }
    for (int i = 1; i < R; i++) { /* not all to the same at once */
        const int r = (me + i) % R;
        const size_t from = direct ? 0 : n * (size_t)r / (size_t)R, to = direct ? n : n * (size_t)(r + 1) / (size_t)R;
        wire__post(w, &posted, 1, x + from, to - from, r, WIRE__SUM);
    }
    wire_all(posted, w->requests);
    wire__add(w, x + at, own);
    posted = 0;
    for (int r = 0; r < R && !direct; r++) {
        const size_t from = n * (size_t)r / (size_t)R, to = n * (size_t)(r + 1) / (size_t)R;
        if (r != me)
            wire__post(w, &posted, 0, x + from, to - from, r, WIRE__SLICE),
                wire__post(w, &posted, 1, x + at, own, r, WIRE__SLICE);
    }
    wire_all(posted, w->requests);
    return 1;
}

static void *wire__thread(void *user) {
    wire *w = user;
    pthread_mutex_lock(&w->lock);
    while (1) {
        while (w->made == w->asked && !w->over) pthread_cond_wait(&w->changed, &w->lock);
        if (w->made == w->asked) break;
        const unsigned i = w->made % WIRE_QUEUE;
        pthread_mutex_unlock(&w->lock);
        const int done = wire__sum(w, w->queue[i].x, w->queue[i].n);
        pthread_mutex_lock(&w->lock);
        w->made++, w->failed |= !done;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}
int wire_reduce(void *user, float *x, size_t n) {
    wire *w = user;
    const double begin = wire__now();
    int done = 1;
    if (!w->background) done = wire__sum(w, x, n);
    else {
        pthread_mutex_lock(&w->lock);
        w->queue[w->asked % WIRE_QUEUE].x = x, w->queue[w->asked++ % WIRE_QUEUE].n = n;
        pthread_cond_broadcast(&w->changed);
        pthread_mutex_unlock(&w->lock);
    }
    w->seconds += wire__now() - begin;
    return !done;
}
int wire_wait(void *user) {
    wire *w = user;
    const double begin = wire__now();
    pthread_mutex_lock(&w->lock);
    while (w->made == w->taken) pthread_cond_wait(&w->changed, &w->lock);
    w->taken++;
    const int failed = w->failed;
    pthread_mutex_unlock(&w->lock);
    w->seconds += wire__now() - begin;
    return failed;
}
int wire_gather(void *user, float *x, size_t ldx, int n, const int *begin) {
    wire *w = user;
    const double start = wire__now();
    const size_t rows = (size_t)n;
    int widest = 0;
    for (int r = 0; r < w->ranks; r++) widest = begin[r + 1] - begin[r] > widest ? begin[r + 1] - begin[r] : widest;
    if (w->shared && widest <= WIRE_SHARED) {
        for (size_t i = 0; i < rows; i++) wire__gather_shared(w, x + i * ldx, begin);
        w->seconds += wire__now() - start;
        return 0;
    }
    float *room = wire__room(w, rows * (size_t)begin[w->ranks]);
    int posted = 0;
    if (!room || rows * (size_t)begin[w->ranks] > INT_MAX) return 1;
    for (int pass = 0; pass < 3; pass++) /* packed, sent and received, unpacked */
        for (int r = 0; r < w->ranks; r++) {
            const size_t width = (size_t)(begin[r + 1] - begin[r]), own = (size_t)(begin[w->rank + 1] - begin[w->rank]);
            float *part = room + rows * (size_t)begin[r], *mine = room + rows * (size_t)begin[w->rank];
            for (size_t i = 0; i < rows && pass == 0 && r == w->rank; i++)
                memcpy(part + i * width, x + i * ldx + begin[r], width * sizeof *x);
            if (pass == 1 && r != w->rank) wire__post(w, &posted, 0, part, rows * width, r, WIRE__GATHER);
            if (pass == 1 && r != w->rank) wire__post(w, &posted, 1, mine, rows * own, r, WIRE__GATHER);
            if (pass == 2 && r == 0) wire_all(posted, w->requests);
            for (size_t i = 0; i < rows && pass == 2 && r != w->rank; i++)
                memcpy(x + i * ldx + begin[r], part + i * width, width * sizeof *x);
        }
    w->seconds += wire__now() - start;
    return 0;
}
int wire_local(MPI_Comm comm) {
    MPI_Comm node;
    int rank, n;
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node);
    MPI_Comm_size(node, &n), MPI_Comm_free(&node);
    return n;
}
/* Memory of all ranks; where there is none to be had they send messages. */
static void wire__share(wire *w) {
    const MPI_Aint bytes = 64 + 2 * WIRE_SHARED * (MPI_Aint)sizeof(float);
    void *own;
    int unit, mine, all;
    w->shared = malloc((size_t)w->ranks * sizeof *w->shared);
    MPI_Comm_set_errhandler(w->comm, MPI_ERRORS_RETURN);
    mine = w->shared && !MPI_Win_allocate_shared(bytes, 1, MPI_INFO_NULL, w->comm, &own, &w->window);
    MPI_Comm_set_errhandler(w->comm, MPI_ERRORS_ARE_FATAL);
    MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, w->comm);
    if (!all) free(w->shared), w->shared = NULL;
    if (!w->shared) return;
    memset(own, 0, (size_t)bytes);
    for (int r = 0; r < w->ranks; r++) {
        MPI_Aint size;
        void *at;
        MPI_Win_shared_query(w->window, r, &size, &unit, &at);
        w->shared[r] = at;
    }
    MPI_Barrier(w->comm); /* all turns are 0 */
}
int wire_open(wire *w, MPI_Comm comm, int background) {
    memset(w, 0, sizeof *w);
    w->comm = comm;
    MPI_Comm_rank(comm, &w->rank), MPI_Comm_size(comm, &w->ranks);
    w->requests = malloc(2 * (size_t)w->ranks * sizeof *w->requests);
    pthread_mutex_init(&w->lock, NULL), pthread_cond_init(&w->changed, NULL);
    if (w->ranks > 1 && wire_local(comm) == w->ranks) wire__share(w);
    w->background = background && w->requests && !pthread_create(&w->thread, NULL, wire__thread, w);
    return w->requests && w->background == background;
}
void wire_close(wire *w) {
    pthread_mutex_lock(&w->lock);
    w->over = 1;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
    if (w->background) pthread_join(w->thread, NULL);
    if (w->shared) MPI_Win_free(&w->window);
    free(w->room), free(w->requests), free(w->shared);
}

static int wire__ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
/* Half of what 8 bytes take to and fro, mostly; what 4 MB take more. */
int wire_measure(MPI_Comm comm, double *latency, double *link) {
    enum { BIG = 4 << 20, TIMES = 99 };
    char *text = calloc(BIG, 1);
    double seconds[2], took[TIMES];
    int rank;
    if (!text) return 0;
    MPI_Comm_rank(comm, &rank);
    for (int big = 0; big < 2; big++) {
        const int n = big ? BIG : 8, times = big ? 11 : TIMES;
        for (int i = -1; i < times && rank < 2; i++) { /* a first exchange opens the connection */
            const double begin = wire__now();
            for (int turn = 0; turn < 2; turn++)
                if (turn == rank) MPI_Send(text, n, MPI_CHAR, 1 - rank, WIRE__SUM, comm);
                else MPI_Recv(text, n, MPI_CHAR, 1 - rank, WIRE__SUM, comm, MPI_STATUS_IGNORE);
            if (i >= 0) took[i] = wire__now() - begin;
        }
        if (rank < 2) qsort(took, (size_t)times, sizeof *took, wire__ascending);
        seconds[big] = rank < 2 ? took[times / 2] / 2 : 0;
    }
    *latency = seconds[0], *link = BIG / (seconds[1] - seconds[0]);
    free(text);
    return 1;
}
mla_isa wire_isa(MPI_Comm comm, mla_isa asked) {
    static const mla_isa best[] = {MLA_ISA_AMX, MLA_ISA_VNNI, MLA_ISA_AVX512, MLA_ISA_AVX2, MLA_ISA_NEON};
    int mine = 0, all, any;
    for (int i = 0; i < MLA_ISA_COUNT; i++) mine |= mla_isa_available((mla_isa)i) << i;
    MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_BAND, comm);
    MPI_Allreduce(&mine, &any, 1, MPI_INT, MPI_BOR, comm);
    if (asked || all == any) return asked;
    for (size_t i = 0; i < sizeof best / sizeof *best; i++)
        if (all >> best[i] & 1) return best[i];
    return MLA_ISA_SCALAR;
}

#endif /* WIRE_IMPLEMENTATION */
