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
