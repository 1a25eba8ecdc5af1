/* prefixes.h - caches of prompts that have been read, as a tree of pieces that share pages of one pool.

USE
   In exactly one file:      #define PREFIXES_IMPLEMENTATION
                             #include "prefixes.h"
   In all others:            #include "prefixes.h"            (after mla.h, or with mla.h on the include path)

   if (!prefixes_begin(&t, model, pool, n_pages)) puts("out of memory");
   for (p = &t.root; (next = prefixes_find(&t, p, tokens + p->end, n)) != NULL; p = next) continue;
   mla_cache_fork(cache, p->cache, &error);   prefixes_hold(&t, p);       all up to p->end need not be read
   next = prefixes_add(&t, p, cache, tokens + p->end, n, NULL, 0);        the n tokens behind p have been read
   ...   prefixes_leave(&t, next);   while (prefixes_drop(&t)) continue;   prefixes_end(&t);

USERS          A piece that somebody holds stays, and with it all before it. The others are dropped when the caller says
               so, those first that were left longest ago; none before what comes after it.
THREADS        No globals, no printing. One thread at a time calls these functions on a tree.

   SPDX-License-Identifier: MIT */

#ifndef PREFIXES_H
#define PREFIXES_H

#include <stddef.h>
#include <stdint.h>
#ifndef MLA_H
#include "mla.h"
#endif

#ifndef PREFIXES_API
#define PREFIXES_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* A piece of some prompt that has been read behind `parent`, with a cache that holds all up to its end. */
typedef struct prefixes_piece {
    struct prefixes_piece *parent, *same_hash, *older, *newer; /* older, newer: in the list of those that nobody uses */
    mla_cache *cache;
    uint64_t hash;
    int *tokens, n, end; /* [n] the piece's; its end in the prompt */
    float *state;        /* what the caller wants to know of its last token; NULL: nothing */
    int users, pages;    /* that hold it or what comes after it; of its cache, those that its parent's has not */
} prefixes_piece;

typedef struct prefixes {
    prefixes_piece root, *oldest,
        *newest;            /* root: of no tokens and no cache; those that nobody uses, in the order of leaving */
    prefixes_piece **table; /* [mask + 1] by hash */
    size_t mask;
    int pages; /* of those that nobody uses, as good as free */
    int n;     /* pieces; where layers have states each has a copy of them */
    const mla_model *model;
    mla_pool *pool;
} prefixes;

/* 0: no memory. */
PREFIXES_API int prefixes_begin(prefixes *t, const mla_model *model, mla_pool *pool, int n_pages);
PREFIXES_API void prefixes_end(prefixes *t); /* when all are dropped; also if it did not begin */
/* The piece of n tokens behind parent, or NULL. */
PREFIXES_API prefixes_piece *prefixes_find(const prefixes *t, const prefixes_piece *parent, const int *tokens, int n);
/* Where layers have states, tokens behind `end` up to the next prefix that is worth a copy of them: one or more times
   n, the more the more there is before it, so that some fifty reach 250,000 tokens. */
PREFIXES_API int prefixes_span(int end, int n);
/* Somebody more uses p and all before it; or one less. */
PREFIXES_API void prefixes_hold(prefixes *t, prefixes_piece *p);
PREFIXES_API void prefixes_leave(prefixes *t, prefixes_piece *p);
/* The oldest of those that nobody uses goes; 0: there is none. */
PREFIXES_API int prefixes_drop(prefixes *t);
/* A new piece of n tokens, whole pages, behind parent, out of a cache that holds them and perhaps more. state [n_state]
   is copied; n_state 0: none. The user that parent had is the new one's. NULL: no memory. */
PREFIXES_API prefixes_piece *prefixes_add(prefixes *t, prefixes_piece *parent, const mla_cache *cache,
                                          const int *tokens, int n, const float *state, int n_state);

#ifdef __cplusplus
}
#endif
#endif /* PREFIXES_H */

/* ================================================================================================================== */
#if defined PREFIXES_IMPLEMENTATION && !defined PREFIXES_IMPLEMENTED
#define PREFIXES_IMPLEMENTED

#include <stdlib.h>
#include <string.h>

static uint64_t prefixes__hash(const prefixes_piece *parent, const int *tokens, int n) {
    uint64_t h = parent->hash + (uint64_t)n;
    for (int i = 0; i < n; i++) {
        h = (h ^ (uint32_t)tokens[i]) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
    }
    return h;
}

int prefixes_begin(prefixes *t, const mla_model *model, mla_pool *pool, int n_pages) {
    memset(t, 0, sizeof *t);
    t->model = model, t->pool = pool;
    for (t->mask = 63; t->mask < (size_t)n_pages && t->mask < 1 << 20;) t->mask = 2 * t->mask + 1;
    t->table = (prefixes_piece **)calloc(t->mask + 1, sizeof *t->table);
    return t->table != NULL;
}
void prefixes_end(prefixes *t) { free((void *)t->table); }

prefixes_piece *prefixes_find(const prefixes *t, const prefixes_piece *parent, const int *tokens, int n) {
    const uint64_t hash = prefixes__hash(parent, tokens, n);
    prefixes_piece *p = t->table[hash & t->mask];
    while (p && (p->hash != hash || p->parent != parent || p->n != n ||
                 memcmp(p->tokens, tokens, (size_t)n * sizeof *tokens) != 0))
        p = p->same_hash;
    return p;
}

int prefixes_span(int end, int n) { return end < 20 * n ? n : end / (10 * n) * n; }

/* Pieces that nobody uses stand in the order in which they were left, those behind others before these: so the oldest
   has none behind it. */
static void prefixes__unlink(prefixes *t, prefixes_piece *p) {
    *(p->older ? &p->older->newer : &t->oldest) = p->newer;
    *(p->newer ? &p->newer->older : &t->newest) = p->older;
    t->pages -= p->pages;
}
void prefixes_hold(prefixes *t, prefixes_piece *p) {
    for (; p->parent; p = p->parent)
        if (p->users++ == 0) prefixes__unlink(t, p);
}
void prefixes_leave(prefixes *t, prefixes_piece *p) {
    for (; p->parent; p = p->parent) {
        if (--p->users > 0) continue;
        p->older = t->newest, p->newer = NULL;
        *(t->newest ? &t->newest->newer : &t->oldest) = p;
        t->newest = p;
        t->pages += p->pages;
    }
}

int prefixes_drop(prefixes *t) {
    prefixes_piece *p = t->oldest;
    if (!p) return 0;
    prefixes_piece **at = &t->table[p->hash & t->mask];
    prefixes__unlink(t, p);
    while (*at != p) at = &(*at)->same_hash;
    *at = p->same_hash;
    mla_cache_destroy(p->cache);
    free(p);
    t->n--;
    return 1;
}

prefixes_piece *prefixes_add(prefixes *t, prefixes_piece *parent, const mla_cache *cache, const int *tokens, int n,
                             const float *state, int n_state) {
    const size_t bytes = (size_t)n * sizeof *tokens, more = (size_t)n_state * sizeof *state;
    prefixes_piece *p = (prefixes_piece *)calloc(1, sizeof *p + bytes + more);
    mla_cache_desc d;
    memset(&d, 0, sizeof d);
    d.capacity = mla_cache_length(cache), d.pool = t->pool;
    if (!p || mla_cache_create(&p->cache, t->model, &d, NULL)) {
        free(p);
        return NULL;
    }
    p->n = n, p->end = parent->end + n, p->pages = n / MLA_PAGE, p->users = 1, p->parent = parent;
    mla_cache_fork(p->cache, cache, NULL), mla_cache_truncate(p->cache, p->end, NULL);
    p->tokens = (int *)memcpy(p + 1, tokens, bytes);
    if (n_state) p->state = (float *)memcpy((void *)(p->tokens + n), state, more);
    p->hash = prefixes__hash(parent, tokens, n);
    p->same_hash = t->table[p->hash & t->mask];
    t->table[p->hash & t->mask] = p;
    t->n++;
    return p;
}

#endif /* PREFIXES_IMPLEMENTATION */
