/* fuzz.h - targets for libFuzzer, several in one program: the environment variable TARGET says which. Built with
   FUZZ_REPLAY it needs no libFuzzer: program TARGET FILE... runs each file once. */

#ifndef FUZZ_H
#define FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct fuzz_target {
    const char *name;
    void (*run)(const unsigned char *data, size_t n); /* aborts where something does not hold */
} fuzz_target;
extern const fuzz_target fuzz_targets[]; /* ends with a name NULL */
static const fuzz_target *fuzz_chosen;

#define FUZZ_HOLDS(condition)                                                                                          \
    ((condition) ? (void)0 : (fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition), abort()))

/* A function of the target's own whose ways the fuzzer need not tell apart. */
#if defined(__clang__)
#define FUZZ_PLAIN __attribute__((no_sanitize("coverage")))
#else
#define FUZZ_PLAIN
#endif

static void fuzz_choose(const char *name) {
    for (fuzz_chosen = fuzz_targets; fuzz_chosen->name; fuzz_chosen++)
        if (name && !strcmp(name, fuzz_chosen->name)) return;
    fprintf(stderr, "TARGET is none of");
    for (const fuzz_target *t = fuzz_targets; t->name; t++) fprintf(stderr, " %s", t->name);
    fprintf(stderr, "\n");
    exit(2);
}

/* The input ends where the memory does, so that a byte read behind it is seen. */
static void fuzz_one(const unsigned char *data, size_t n) {
    unsigned char *copy = (unsigned char *)malloc(n ? n : 1);
    if (!copy) abort();
    if (n) memcpy(copy, data, n);
    fuzz_chosen->run(copy, n);
    free(copy);
}

/* Memory for a run's objects, one behind the other in a room that the next run has again: malloc under the sanitizers
   maps and unmaps all that is large. What lies between them, and what was freed, is as forbidden as malloc's is. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FUZZ_ASAN
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(FUZZ_ASAN)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(at, n)   ((void)(at), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(at, n) ((void)(at), (void)(n))
#endif
enum { FUZZ_ROOM = 1 << 22, FUZZ_BLOCKS = 512, FUZZ_GAP = 64 };
static unsigned char *fuzz_room;
static size_t fuzz_used, fuzz_at[FUZZ_BLOCKS], fuzz_bytes[FUZZ_BLOCKS];
static int fuzz_blocks, fuzz_open;

static inline void *fuzz_alloc(void *user, size_t bytes) {
    (void)user;
    if (!fuzz_room) {
        fuzz_room = (unsigned char *)malloc(FUZZ_ROOM);
        FUZZ_HOLDS(fuzz_room);
        ASAN_POISON_MEMORY_REGION(fuzz_room, FUZZ_ROOM);
    }
    const size_t at = (fuzz_used + FUZZ_GAP + 15) / 16 * 16;
    if (fuzz_blocks == FUZZ_BLOCKS || at + FUZZ_GAP > FUZZ_ROOM || bytes > FUZZ_ROOM - FUZZ_GAP - at)
        return malloc(bytes);
    ASAN_UNPOISON_MEMORY_REGION(fuzz_room + at, bytes);
    fuzz_at[fuzz_blocks] = at, fuzz_bytes[fuzz_blocks++] = bytes, fuzz_used = at + bytes, fuzz_open++;
    return fuzz_room + at;
}
static inline void fuzz_free(void *user, void *memory) {
    int i = fuzz_blocks - 1;
    (void)user;
    while (i >= 0 && (unsigned char *)memory != fuzz_room + fuzz_at[i]) i--;
    if (i < 0) {
        free(memory);
        return;
    }
    FUZZ_HOLDS(fuzz_bytes[i] > 0);
    ASAN_POISON_MEMORY_REGION(fuzz_room + fuzz_at[i], fuzz_bytes[i]);
    fuzz_bytes[i] = 0;
    if (--fuzz_open == 0) fuzz_used = 0, fuzz_blocks = 0;
}

#ifdef FUZZ_REPLAY
int main(int argc, char **argv) {
    static unsigned char data[1 << 20];
    fuzz_choose(argc > 1 ? argv[1] : NULL);
    for (int i = 2; i < argc; i++) {
        FILE *file = fopen(argv[i], "rb");
        if (!file) return fprintf(stderr, "cannot read %s\n", argv[i]), 2;
        const size_t n = fread(data, 1, sizeof data, file);
        fclose(file);
        fuzz_one(data, n);
    }
    printf("%d inputs\n", argc - 2);
    return 0;
}
#else
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t n);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t n) {
    if (!fuzz_chosen) fuzz_choose(getenv("TARGET"));
    fuzz_one(data, n);
    return 0;
}
#endif

#endif
