/* guard.h - included before mla.h, it guards what the reference takes: a write past an end, and what is not given back,
   fail the test. test.h, which comes after mla.h, ends it. */

#ifndef GUARD_H
#define GUARD_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef MLA__IMPLEMENTED /* the rest is linked; else it would be guarded, too, and what it has of its callers is not */
enum { GUARD_BYTES = 32 }; /* bytes before and behind */
static int guard_taken;
static inline void *guard_calloc(size_t n, size_t size) {
    const size_t bytes = n * size;
    unsigned char *p = (unsigned char *)calloc(1, bytes + 2 * GUARD_BYTES);
    if (!p) return NULL;
    memcpy(p, &bytes, sizeof bytes), memset(p + GUARD_BYTES + bytes, 0x3f, GUARD_BYTES);
    guard_taken++;
    return p + GUARD_BYTES;
}
static inline void guard_free(void *memory) {
    size_t bytes;
    unsigned char *p = (unsigned char *)memory - GUARD_BYTES;
    if (!memory) return;
    memcpy(&bytes, p, sizeof bytes);
    for (int i = 0; i < GUARD_BYTES; i++)
        if (p[GUARD_BYTES + bytes + (size_t)i] != 0x3f) printf("the reference wrote past an end\n"), exit(1);
    guard_taken--;
    free(p);
}
#define GUARDED
#define calloc  guard_calloc
#define free(p) guard_free(p)
#endif
#endif
