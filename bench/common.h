/* common.h - what every part of the bench needs: threads, memory, random numbers, options, samples and lines. */

/* ---- errors, time, threads, progress ----------------------------------------------------------------------------- */

#if defined(__GNUC__) && !defined(__clang__)
__attribute__((noreturn, format(gnu_printf, 2, 3)))
#endif
static void
fail(int status, const char *format, ...) { /* 2: the command line is wrong; 1: anything else */
    va_list args;
    va_start(args, format);
    fflush(stdout);
    fputs(isatty(2) ? "\r\033[Kbench: " : "bench: ", stderr);
    vfprintf(stderr, format, args);
    fputs(status == 2 ? " (--help shows the options)\n" : "\n", stderr);
    va_end(args);
    exit(status);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int all_threads(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

static void run(int threads, void (*task)(void *arg, int i), void *arg) {
    int i;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static, 1)
#endif
    for (i = 0; i < threads; i++) task(arg, i);
}

static void progress(const char *format,
                     ...) { /* one line that overwrites itself, on a terminal only; NULL clears it */
    va_list args;
    if (!isatty(2)) return;
    fputs("\r\033[K", stderr);
    if (!format) return;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fflush(stderr);
}

/* ---- memory and random numbers ----------------------------------------------------------------------------------- */

static void *need(size_t bytes) {
    void *memory = checkpoint_huge_pages.alloc(NULL, bytes);
    if (!memory) fail(1, "out of memory: %.0f MB", (double)bytes * 1e-6);
    return memory;
}

static size_t much_memory(void) { /* so much that little of it is found in the last-level cache: 512 MB to 2 GB */
    const size_t least = (size_t)512 << 20, most = (size_t)2 << 30;
    unsigned long kilobytes = 0;
    FILE *file = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r"); /* Linux: "32768K" */
    if (file) {
        if (fscanf(file, "%luK", &kilobytes) != 1) kilobytes = 0;
        fclose(file);
    }
    size_t bytes = 16 * 1024 * (size_t)kilobytes;
    return bytes < least ? least : bytes > most ? most : bytes;
}

static uint32_t random_u32(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

static float random_float(uint64_t *state) { /* uniform, mean 0, deviation 1 */
    return ((float)(random_u32(state) >> 8) * (1.0f / 8388608.0f) - 1.0f) * 1.7320508f;
}

/* ---- command line ------------------------------------------------------------------------------------------------ */

enum { MAX_REPS = 300, MAX_LIST = 16, MAX_DEPTH = 1 << 20 };
enum { KV_B_KEPT = -1, KV_B_DEFAULT = -2 };

typedef struct int_list { /* of integers, as options have them */
    int n, of[MAX_LIST];
} int_list;

typedef struct options {
    const char *shape; /* NULL: the default of the part */
    mla_dtype weights, cache, index_cache;
    mla_layout layout; /* of weights */
    int kv_b;          /* model: an mla_dtype, or KV_B_KEPT, or KV_B_DEFAULT: q8 beside blocks, else kept */
    mla_activations activations;
    mla_isa isa;
    int attn;        /* a mla_attn_path, or MLA_ATTN_PATH_COUNT: each in turn */
    int any_weights; /* --weights was not given */
    int reps, pp, json;
    int layers;       /* model: the first so many of the shape; 0: all of them */
    int no_limits;    /* model: the fractions are left out */
    int invariant;    /* of contexts */
    int overhead;     /* model: what of decode is not kernels is printed, too */
    const char *only; /* model: what is measured, "layer,moe"; NULL: everything but batches */
    int_list threads; /* none: all; limits: 1, 2, 4, .. all */
    int_list depths, batches;
} options;

static const char *const attn_names[MLA_ATTN_PATH_COUNT + 1] = {"auto", "naive", "absorbed", "all"};
static int is_grouped(mla_dtype t) { return mla_dtype_block(t) > 1; }
/* The name of a dtype of weights, as --weights has it: with x16 behind it if they are interleaved. */
static const char *weights_name(mla_dtype t, mla_layout layout) {
    static char names[MLA_DTYPE_COUNT][MLA_LAYOUT_COUNT][16];
    char *name = names[t][layout];
    snprintf(name, sizeof names[t][layout], "%s%s", t == MLA_E4M3 ? "fp8" : mla_dtype_name(t), layout ? "x16" : "");
    return name;
}

static int integer(const char *option, const char *text, int low, int high) {
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (!isdigit((unsigned char)text[text[0] == '-']) || *end) fail(2, "%s: '%s' is not an integer", option, text);
    if (errno || value < low || value > high) fail(2, "%s: %s is not in %d..%d", option, text, low, high);
    return (int)value;
}

static int one_of(const char *option, const char *text, const char *const *names, int n) {
    char list[256] = "";
    for (int i = 0; i < n; i++) {
        if (!strcmp(text, names[i])) return i;
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i]);
    }
    fail(2, "%s: '%s' is none of %s", option, text, list);
}

static int_list integers(const char *option, const char *text, int low, int high) { /* "0,4096,16384" */
    int_list l = {0, {0}};
    char number[16];
    for (;;) {
        size_t n = strcspn(text, ",");
        if (l.n == MAX_LIST) fail(2, "%s: more than %d numbers", option, (int)MAX_LIST);
        snprintf(number, sizeof number, "%.*s", (int)(n < 15 ? n : 15), text);
        l.of[l.n++] = integer(option, number, low, high);
        if (!text[n]) return l;
        text += n + 1;
    }
}

static int greatest(const int_list *l) { /* 0: there is none */
    int most = 0;
    for (int i = 0; i < l->n; i++) most = l->of[i] > most ? l->of[i] : most;
    return most;
}

static int listed(const char *list, const char *name) { /* is it one of "a,b,.."? */
    size_t n = strlen(name);
    for (const char *s = list; s; s = strchr(s, ',') ? strchr(s, ',') + 1 : NULL)
        if (!strncmp(s, name, n) && (s[n] == ',' || !s[n])) return 1;
    return 0;
}

static void only_list(const char *option, const char *text) {
    static const char *const names[] = {"decode", "prefill", "layer", "moe", "kda", "batch"};
    char name[16];
    for (const char *s = text; s; s = strchr(s, ',') ? strchr(s, ',') + 1 : NULL) {
        size_t n = strcspn(s, ",");
        snprintf(name, sizeof name, "%.*s", (int)(n < 15 ? n : 15), s);
        one_of(option, name, names, sizeof names / sizeof *names);
    }
}

static mla_dtype cache_dtype(const char *option, const char *text) {
    static const mla_dtype dtypes[] = {MLA_F32, MLA_F16, MLA_BF16, MLA_Q8};
    static const char *const names[] = {"f32", "f16", "bf16", "q8"};
    return dtypes[one_of(option, text, names, 4)];
}

static void weights_dtype(options *o, const char *option, const char *text) {
    const char *names[2 * MLA_DTYPE_COUNT];
    int kinds[2 * MLA_DTYPE_COUNT], n = 0;
    for (int t = 0; t < MLA_UE8M0; t++)
        for (int l = 0; l < MLA_LAYOUT_COUNT; l++) {
            if (t == MLA_I8 || (l && (!is_grouped((mla_dtype)t) || t == MLA_Q2_K || t == MLA_Q3_K))) continue;
            names[n] = weights_name((mla_dtype)t, (mla_layout)l), kinds[n++] = t * MLA_LAYOUT_COUNT + l;
        }
    int kind = kinds[one_of(option, text, names, n)];
    o->weights = (mla_dtype)(kind / MLA_LAYOUT_COUNT), o->layout = (mla_layout)(kind % MLA_LAYOUT_COUNT);
    o->any_weights = 0;
}

static void kv_b_dtype(options *o, const char *option, const char *text) {
    const char *names[MLA_DTYPE_COUNT];
    int kinds[MLA_DTYPE_COUNT], n = 1;
    names[0] = "keep", kinds[0] = KV_B_KEPT;
    for (int t = 0; t < MLA_UE8M0; t++)
        if (t != MLA_E4M3 && t != MLA_I8) names[n] = weights_name((mla_dtype)t, MLA_LAYOUT_ROWS), kinds[n++] = t;
    o->kv_b = kinds[one_of(option, text, names, n)];
}

static void parse(options *o, int argc, char **argv) {
    static const char *const known[] = {"--json",    "--no-limits", "--overhead", "--invariant", "--activations",
                                        "--weights", "--cache",     "--isa",      "--attn",      "--threads",
                                        "--reps",    "--depth",     "--pp",       "--only",      "--index-cache",
                                        "--batch",   "--layers",    "--kv-b",     "--shape"};
    static const char *const activations[MLA_ACT_COUNT] = {"auto", "f32", "int8", "bf16", "e4m3"};
    enum { N_KNOWN = sizeof known / sizeof *known, N_FLAGS = 4 };
    const char *isa_names[MLA_ISA_COUNT];
    for (int i = 0; i < MLA_ISA_COUNT; i++) isa_names[i] = mla_isa_name((mla_isa)i);
    memset(o, 0, sizeof *o);
    o->weights = o->cache = o->index_cache = MLA_BF16, o->any_weights = 1, o->reps = 5, o->pp = 512;
    o->kv_b = KV_B_DEFAULT;
    o->depths = integers("--depth", "0,4096,16384", 0, MAX_DEPTH);
    for (int i = 0; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : NULL;
        int k = 0;
        while (k < N_KNOWN && strcmp(a, known[k])) k++;
        if (k == N_KNOWN) fail(2, "unknown option '%s'", a);
        if (k >= N_FLAGS && !v) fail(2, "%s: a value is missing", a);
        switch (k) {
        case 0: o->json = 1; continue;
        case 1: o->no_limits = 1; continue;
        case 2: o->overhead = 1; continue;
        case 3: o->invariant = 1; continue;
        case 4: o->activations = (mla_activations)one_of(a, v, activations, MLA_ACT_COUNT); break;
        case 5: weights_dtype(o, a, v); break;
        case 6: o->cache = cache_dtype(a, v); break;
        case 7: o->isa = (mla_isa)one_of(a, v, isa_names, MLA_ISA_COUNT); break;
        case 8: o->attn = one_of(a, v, attn_names, MLA_ATTN_PATH_COUNT + 1); break;
        case 9: o->threads = integers(a, v, 1, 1024); break;
        case 10: o->reps = integer(a, v, 1, MAX_REPS); break;
        case 11: o->depths = integers(a, v, 0, MAX_DEPTH); break;
        case 12: o->pp = integer(a, v, 0, 1 << 16); break;
        case 13: only_list(a, o->only = v); break;
        case 14: o->index_cache = cache_dtype(a, v); break;
        case 15: o->batches = integers(a, v, 1, 1024); break;
        case 16: o->layers = integer(a, v, 1, 1024); break;
        case 17: kv_b_dtype(o, a, v); break;
        default: o->shape = v; break;
        }
        i++;
    }
    if (o->batches.n && !o->only) o->only = "batch";
    if (o->only && !o->batches.n && listed(o->only, "batch")) fail(2, "--only: for batch say with --batch how many");
    if (!mla_isa_available(o->isa)) fail(1, "--isa: this machine has no %s", mla_isa_name(o->isa));
#ifndef _OPENMP
    if (greatest(&o->threads) > 1) fail(2, "--threads: this bench was built without OpenMP and has one thread");
#endif
}

/* ---- samples and lines ------------------------------------------------------------------------------------------- */

typedef struct samples { /* of a time in ms; or of the work that a limit would have done in that time */
    double v[MAX_REPS];
    int n;
} samples;

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void add(samples *s, double value) {
    if (s->n < MAX_REPS) s->v[s->n++] = value;
}

static double median(samples *s) { /* and sorts them */
    if (!s->n) return 0;
    qsort(s->v, (size_t)s->n, sizeof *s->v, by_value);
    return 0.5 * (s->v[(s->n - 1) / 2] + s->v[s->n / 2]);
}

typedef struct line {
    const char *what; /* limit, decode, batch, prefill, attention, indexer, layer, moe, kernel */
    const char *part; /* limit: which; kernel: which matrix; else NULL */
    const char *shape, *weights, *cache, *attn, *isa; /* NULL: does not apply */
    int threads, depth, n, rows, cols, exact;         /* n: tokens of the call; rows, cols: of a kernel's matrix */
    double tokens, bytes, useful; /* of one call; useful: flops, whatever they are made of; 0: does not apply */
    double flops, ops, halves;    /* what runs for them: flops in f32, operations in int8, flops in bf16 */
    double read, fma, int8, bf16; /* what the limits would have done in the same time; 0: not set against */
    double experts;               /* of a layer that got tokens, in the mean; 0: does not apply */
} line;

/* Fractions of each limit; of the time that bytes take, that arithmetic takes at its own limits, and of the longer. */
typedef struct fractions {
    double read, fma, int8, bf16, arithmetic, nearer;
} fractions;

static fractions fractions_of(const line *l) {
    fractions f;
    f.read = l->read > 0 ? l->bytes / l->read : 0, f.fma = l->fma > 0 ? l->flops / l->fma : 0;
    f.int8 = l->int8 > 0 ? l->ops / l->int8 : 0, f.bf16 = l->bf16 > 0 ? l->halves / l->bf16 : 0;
    f.arithmetic = f.fma + f.int8 + f.bf16;
    f.nearer = f.read > f.arithmetic ? f.read : f.arithmetic;
    return f;
}

static void put_text(const char *key, const char *value) {
    if (value) printf(",\"%s\":\"%s\"", key, value); /* nothing here needs escapes: shapes from files are cleaned */
    else printf(",\"%s\":null", key);
}

static void put_number(const char *key, double value) {
    if (value > 0) printf(",\"%s\":%.6g", key, value);
    else printf(",\"%s\":null", key);
}

static void column(int width, int digits, double value) {
    if (value > 0) printf(" %*.*f", width, digits, value);
    else printf(" %*s", width, "-");
}

static void print_head(void) {
    printf("%-9s %-12s %6s %6s %4s %-9s %10s %21s %9s %7s %8s %8s %7s %8s %8s %8s %9s %9s %9s\n", "what", "", "tokens",
           "depth", "thr.", "isa", "ms", "min..max", "tokens/s", "GB/s", "GFLOP/s", "of read", "of FMA", "of int8",
           "of bf16", "experts", "read ms", "arith. ms", "of limit");
}

static void print_line(const options *o, const line *l, samples *s) {
    double ms = median(s), tokens = l->tokens / ms * 1e3, gbytes = l->bytes / ms * 1e-6, gflops = l->useful / ms * 1e-6;
    const fractions f = fractions_of(l);
    if (o->json) {
        printf("{\"what\":\"%s\"", l->what);
        put_text("shape", l->shape), put_text("weights", l->weights), put_text("cache", l->cache);
        printf(",\"threads\":%d,\"depth\":%d", l->threads, l->depth);
        put_number("ms", ms), put_number("tokens_per_s", tokens), put_number("gbytes_per_s", gbytes);
        put_number("gflop_per_s", gflops), put_number("of_read", f.read), put_number("of_fma", f.fma);
        put_number("of_int8", f.int8);
        if (f.bf16 > 0) put_number("of_bf16", f.bf16);
        put_number("read_limit_ms", f.read * ms), put_number("arithmetic_limit_ms", f.arithmetic * ms);
        put_number("of_limit", f.nearer);
        if (l->experts > 0) put_number("experts", l->experts);
        printf(",\"n\":%d", l->n);
        if (l->part) put_text(l->rows ? "matrix" : "limit", l->part);
        if (l->rows) printf(",\"rows\":%d,\"cols\":%d", l->rows, l->cols);
        if (l->attn) put_text("attn", l->attn);
        put_text("isa", l->isa);
        if (l->exact) printf(",\"exact\":true");
        put_number("bytes", l->bytes), put_number("flop", l->useful);
        put_number("ms_min", s->n ? s->v[0] : 0), put_number("ms_max", s->n ? s->v[s->n - 1] : 0);
        printf(",\"reps\":%d}\n", s->n);
        fflush(stdout);
        return;
    }
    printf("%-9s %-12s", l->what, l->part ? l->part : l->attn ? l->attn : "");
    if (l->n) printf(" %6d %6d", l->n, l->depth);
    else printf(" %6s %6s", "-", "-");
    printf(" %4d %-9s %10.3f %10.3f..%-9.3f", l->threads, l->isa, ms, s->n ? s->v[0] : 0, s->n ? s->v[s->n - 1] : 0);
    column(9, 1, tokens), column(7, 1, gbytes), column(8, 1, gflops), column(8, 2, f.read), column(7, 2, f.fma);
    column(8, 2, f.int8), column(8, 2, f.bf16), column(8, 1, l->experts), column(9, 3, f.read * ms);
    column(9, 3, f.arithmetic * ms), column(9, 2, f.nearer);
    putchar('\n');
    fflush(stdout);
}
