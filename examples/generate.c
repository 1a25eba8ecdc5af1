/* generate.c - runs a DeepSeek checkpoint from a Hugging Face directory: token ids in, token ids out.
   cc -O2 -fopenmp generate.c -lm */
#define _DEFAULT_SOURCE /* POSIX, also under -std=c99 */
#define MLA_IMPLEMENTATION
#include "../mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "checkpoint.h"
#include "quantize.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#if defined(__GNUC__)
__attribute__((noreturn, format(printf, 2, 3)))
#endif
static void fail(int status, const char *format, ...) { /* 2: the command line is wrong; 1: anything else */
    va_list args;
    va_start(args, format);
    fflush(stdout);
    fputs("generate: ", stderr);
    vfprintf(stderr, format, args);
    fputs(status == 2 ? " (--help shows the options)\n" : "\n", stderr);
    va_end(args);
    exit(status);
}

/* If a standard stream is closed, the next file opened would take its place and get its text: fill the holes first. */
static void check_streams(void) {
    int stdout_closed = fcntl(1, F_GETFD) < 0;
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) exit(1);
    signal(SIGPIPE, SIG_IGN); /* a closed pipe is an error of write, and reported as one */
    if (stdout_closed) fail(1, "stdout is closed");
}

static void flush_stdout(void) {
    if (fflush(stdout) || ferror(stdout)) fail(1, "cannot write to stdout: %s", strerror(errno));
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the command line ------------------------------------------------------------------------------------------------- */

typedef struct options {
    const char *model, *logits;
    int *tokens;
    int n_tokens, n, ignore_eos, print_tokens, exact, threads, chunk;
    double temp;
    uint64_t seed;
    mla_attn_path attn;
    mla_isa isa;
    mla_dtype cache;
    checkpoint_quant quant; /* form CHECKPOINT_DEFAULT: weights stay as they are */
} options;

static const char *const attn_names[MLA_ATTN_PATH_COUNT] = {"auto", "naive", "absorbed"};
static const char *const cache_names[] = {"f32", "f16", "bf16", "q8"};
static const mla_dtype cache_dtypes[] = {MLA_F32, MLA_F16, MLA_BF16, MLA_Q8};
static const char *const form_names[] = {"keep", "q8", "q4"}; /* from CHECKPOINT_KEEP on */

static void help(void) {
    printf("usage: generate --model DIR --tokens \"1 2 3\" [options]\n"
           "Runs a DeepSeek checkpoint on the CPU: token ids in, token ids out.\n"
           "  --model DIR       a Hugging Face directory: config.json and safetensors\n"
           "  --tokens \"1 2 3\"  the prompt\n"
           "  -n N              tokens to generate [16]\n"
           "  --temp T          temperature; 0 always takes the likeliest token [0]\n"
           "  --seed S          start of the random numbers [0]\n"
           "  --ignore-eos      go on after an end-of-sequence token\n"
           "  --attn PATH       auto, naive or absorbed [auto]\n"
           "  --isa ISA         ");
    for (int i = 0; i < MLA_ISA_COUNT; i++) printf("%s%s", i ? ", " : "", mla_isa_name((mla_isa)i));
    printf(" [auto]\n"
           "  --threads N       [all cores, or OMP_NUM_THREADS]\n"
           "  --quant q8|q4     converts the weights while loading, but kv_b and embed\n"
           "  --quant-class LIST  as head=q8,kv_b=q8: keep, q8 or q4 for any of attn, kv_b,\n"
           "                    dense, experts, shared, head, embed\n"
           "  --exact           products with q8 and q4 weights in f32 instead of int8\n"
           "  --cache TYPE      f32, f16, bf16 or q8 [f32]\n"
           "  --chunk N         prompt tokens in one forward pass [512]\n"
           "  --print-tokens    the generated ids on one line at the end, not as they come\n"
           "  --logits FILE     the prompt's logits: little-endian f32 [tokens, vocab_size]\n"
           "Exit status: 0 done, 1 failed, 2 wrong command line.\n"
           "Examples:\n"
           "  generate --model V2-Lite --tokens \"100000 549 6077\" -n 64\n"
           "  generate --model V2-Lite --tokens \"100000 549 6077\" --temp 0.7 --seed 42\n"
           "  generate --model V2-Lite --tokens \"100000 549\" -n 0 --logits out.f32\n");
}

static long long integer(const char *option, const char *text, long long low, long long high) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (!isdigit((unsigned char)text[text[0] == '-']) || *end) fail(2, "%s: '%s' is not an integer", option, text);
    if (errno || value < low || value > high) fail(2, "%s: %s is not in %lld..%lld", option, text, low, high);
    return value;
}

static uint64_t seed_number(const char *option, const char *text) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end || errno) fail(2, "%s: '%s' is not an integer in 0..2^64-1", option, text);
    return value;
}

static double temperature(const char *option, const char *text) {
    char *end;
    double value = strtod(text, &end);
    if (isspace((unsigned char)text[0]) || end == text || *end) fail(2, "%s: '%s' is not a number", option, text);
    if (!(value >= 0 && value <= 1e6)) fail(2, "%s: %s is not in 0..1000000", option, text);
    return value;
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

static void token_list(options *o, const char *option, const char *text) {
    static const char space[] = " \t\r\n";
    char number[32];
    free(o->tokens);
    o->n_tokens = 0;
    o->tokens = malloc((strlen(text) / 2 + 1) * sizeof *o->tokens);
    if (!o->tokens) fail(1, "out of memory");
    for (text += strspn(text, space); *text; text += strspn(text, space)) {
        size_t length = strcspn(text, space);
        if (length >= sizeof number) fail(2, "%s: '%.*s...' is not an integer", option, (int)sizeof number, text);
        memcpy(number, text, length);
        number[length] = 0;
        o->tokens[o->n_tokens++] = (int)integer(option, number, 0, INT_MAX);
        text += length;
    }
    if (o->n_tokens == 0) fail(2, "%s: no token given", option);
}

/* "head=q8,kv_b=keep" */
static void class_list(checkpoint_quant *quant, const char *option, const char *text) {
    const char *class_names[CHECKPOINT_CLASS_COUNT];
    for (int k = 0; k < CHECKPOINT_CLASS_COUNT; k++) class_names[k] = checkpoint_class_name((checkpoint_class)k);
    for (const char *end;; text = end + 1) {
        char item[32];
        end = text + strcspn(text, ",");
        snprintf(item, sizeof item, "%.*s", end - text < 31 ? (int)(end - text) : 31, text);
        char *equals = strchr(item, '=');
        if (!equals) fail(2, "%s: '%s' is not CLASS=FORM", option, item);
        *equals = 0;
        int k = one_of(option, item, class_names, CHECKPOINT_CLASS_COUNT);
        quant->classes[k] = (checkpoint_form)(CHECKPOINT_KEEP + one_of(option, equals + 1, form_names, 3));
        if (!*end) return;
    }
}

static void parse(options *o, int argc, char **argv) {
    const char *isa_names[MLA_ISA_COUNT];
    for (int i = 0; i < MLA_ISA_COUNT; i++) isa_names[i] = mla_isa_name((mla_isa)i);
    int classes = 0;
    memset(o, 0, sizeof *o);
    o->n = 16, o->chunk = 512;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i];
        if (!strcmp(a, "--help") || !strcmp(a, "-h")) {
            help();
            flush_stdout();
            exit(0);
        }
        if (!strcmp(a, "--ignore-eos")) {
            o->ignore_eos = 1;
            continue;
        }
        if (!strcmp(a, "--print-tokens")) {
            o->print_tokens = 1;
            continue;
        }
        if (!strcmp(a, "--exact")) {
            o->exact = 1;
            continue;
        }
        static const char *const valued[] = {"--model", "--tokens", "-n", "--temp", "--seed", "--attn",
                                             "--isa", "--threads", "--chunk", "--logits", "--quant", "--quant-class", "--cache"};
        size_t k = 0;
        while (k < sizeof valued / sizeof *valued && strcmp(a, valued[k])) k++;
        if (k == sizeof valued / sizeof *valued) fail(2, "unknown option '%s'", a);
        const char *v = argv[++i];
        if (!v) fail(2, "%s: a value is missing", a);
        switch (k) {
        case 0: o->model = v; break;
        case 1: token_list(o, a, v); break;
        case 2: o->n = (int)integer(a, v, 0, INT_MAX); break;
        case 3: o->temp = temperature(a, v); break;
        case 4: o->seed = seed_number(a, v); break;
        case 5: o->attn = (mla_attn_path)one_of(a, v, attn_names, MLA_ATTN_PATH_COUNT); break;
        case 6: o->isa = (mla_isa)one_of(a, v, isa_names, MLA_ISA_COUNT); break;
        case 7: o->threads = (int)integer(a, v, 1, 4096); break;
        case 8: o->chunk = (int)integer(a, v, 1, INT_MAX); break;
        case 9: o->logits = v; break;
        case 10: o->quant.form = (checkpoint_form)(CHECKPOINT_Q8 + one_of(a, v, form_names + 1, 2)); break;
        case 11: class_list(&o->quant, a, v), classes = 1; break;
        default: o->cache = cache_dtypes[one_of(a, v, cache_names, 4)]; break;
        }
    }
    if (!o->model) fail(2, "--model is missing");
    if (!o->tokens) fail(2, "--tokens is missing");
    if (classes && !o->quant.form) fail(2, "--quant-class: --quant is missing");
    if (o->n > INT_MAX - o->n_tokens) fail(2, "-n: %d and %d tokens of prompt are more than %d", o->n, o->n_tokens, INT_MAX);
}

/* ---- sampling --------------------------------------------------------------------------------------------------------- */

static double uniform(uint64_t *state) { /* splitmix64, [0, 1) */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (double)((z ^ (z >> 31)) >> 11) * (1.0 / 9007199254740992.0);
}

/* The next token: the likeliest (the first of equals) at temperature 0, else drawn from softmax(logits / temp). -1: the logits
   are not numbers. weight [n] is scratch. */
static int sample(const float *logits, int n, double temp, uint64_t *state, double *weight) {
    int best = 0;
    for (int i = 0; i < n; i++) {
        if (isnan(logits[i])) return -1;
        if (logits[i] > logits[best]) best = i;
    }
    if (!isfinite(logits[best])) return -1;
    if (temp == 0) return best;
    double sum = 0;
    for (int i = 0; i < n; i++) sum += weight[i] = exp(((double)logits[i] - (double)logits[best]) / temp);
    double left = uniform(state) * sum;
    for (int i = 0; i < n; i++) {
        if (left < weight[i]) return i;
        left -= weight[i];
    }
    return best; /* rounding only */
}

/* ---- output ----------------------------------------------------------------------------------------------------------- */

static void write_f32(FILE *file, const char *name, const float *values, size_t n) {
    unsigned char bytes[4096];
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], 4);
        for (int b = 0; b < 4; b++) bytes[used++] = (unsigned char)(bits >> (8 * b));
        if (used < sizeof bytes && i + 1 < n) continue;
        if (fwrite(bytes, 1, used, file) != used) fail(1, "cannot write %s: %s", name, strerror(errno));
        used = 0;
    }
}

static double peak_resident(void) { /* bytes */
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
    return (double)usage.ru_maxrss;
#else
    return 1024.0 * (double)usage.ru_maxrss;
#endif
}

static const char *amount(char text[32], double bytes) {
    if (bytes >= 1e9) snprintf(text, 32, "%.2f GB", bytes * 1e-9);
    else snprintf(text, 32, "%.2f MB", bytes * 1e-6);
    return text;
}

typedef struct phase {
    int tokens;
    double seconds, bytes; /* weights read */
} phase;

static void report(const char *what, const phase *p) {
    double seconds = p->seconds > 0 ? p->seconds : 1e-9;
    fprintf(stderr, "%s %6d tokens in %8.3f s  %9.2f tokens/s  %6.2f GB/s of weights\n", what, p->tokens, p->seconds,
            p->tokens / seconds, p->bytes / seconds * 1e-9);
}

/* ---- conversion ------------------------------------------------------------------------------------------------------- */

typedef struct conversion {
    double start, shown, seconds, bytes; /* of the files' tensors */
    int terminal;                        /* stderr is one */
} conversion;

static void converted(void *user, double done, double total) {
    conversion *v = user;
    char text[2][32];
    double t = now();
    v->seconds = t - v->start, v->bytes = done;
    if (!v->terminal || (t - v->shown < 0.1 && done < total)) return;
    v->shown = t;
    if (done < total)
        fprintf(stderr, "\rconverting %3.0f %%, %s of %s ", 100 * done / total, amount(text[0], done), amount(text[1], total));
    else fprintf(stderr, "\r%60s\r", "");
}

/* ---- the run ---------------------------------------------------------------------------------------------------------- */

static int is_eos(const checkpoint *c, int token) {
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos_token_id[i] == token) return 1;
    return 0;
}

int main(int argc, char **argv) {
    options o;
    check_streams();
    parse(&o, argc, argv);

    mla_error error;
    checkpoint *c;
    mla_model *model;
    mla_context *context;
    mla_cache *cache;
    if (checkpoint_open(&c, o.model, &error)) fail(1, "%s", error.text);
    int vocab = c->config.vocab_size, capacity = o.n_tokens + o.n;
    for (int i = 0; i < o.n_tokens; i++)
        if (o.tokens[i] >= vocab) fail(2, "--tokens: %d is not in 0..%d, the model's vocabulary", o.tokens[i], vocab - 1);
    mla_rope *rope = &c->config.rope;
    if (rope->scaling == MLA_ROPE_DYNAMIC || rope->scaling == MLA_ROPE_LONGROPE) rope->length = capacity;
    if (c->max_position_embeddings > 0 && capacity > c->max_position_embeddings)
        fprintf(stderr, "note: %d tokens, the model was made for %d\n", capacity, c->max_position_embeddings);

    mla_context_desc context_desc;
    mla_cache_desc cache_desc;
    memset(&context_desc, 0, sizeof context_desc), memset(&cache_desc, 0, sizeof cache_desc);
    context_desc.max_tokens = o.chunk < o.n_tokens ? o.chunk : o.n_tokens;
    context_desc.threads = o.threads, context_desc.isa = o.isa, context_desc.attn = o.attn, context_desc.exact = o.exact;
    cache_desc.capacity = capacity, cache_desc.dtype = o.cache;
    FILE *file = NULL;
    if (o.logits && !(file = fopen(o.logits, "wb"))) fail(1, "cannot write %s: %s", o.logits, strerror(errno));
    conversion change = {.start = now(), .terminal = isatty(2)};
    if (o.quant.form) {
        o.quant.threads = o.threads, o.quant.progress = converted, o.quant.progress_user = &change;
        if (checkpoint_quantize(c, &o.quant, &error)) fail(1, "%s", error.text);
    }
    if (mla_model_create(&model, &c->config, &c->weights, NULL, &error)) fail(1, "%s: %s", o.model, error.text);
    if (mla_context_create(&context, model, &context_desc, &error)) fail(1, "%s", error.text);
    if (mla_cache_create(&cache, model, &cache_desc, &error)) fail(1, "%s", error.text);

    int chunk = context_desc.max_tokens;
    size_t rows = o.logits ? (size_t)chunk : 1;
    float *logits = (size_t)vocab <= SIZE_MAX / sizeof *logits / rows ? malloc(rows * (size_t)vocab * sizeof *logits) : NULL;
    double *weight = malloc((size_t)vocab * sizeof *weight);
    int *made = malloc(((size_t)o.n + 1) * sizeof *made), n_made = 0;
    if (!logits || !weight || !made) fail(1, "out of memory for the logits of %zu tokens (see --chunk)", rows);

    phase prompt = {0, 0, 0}, generation = {0, 0, 0};
    const float *last = logits; /* the row from which the next token is taken */
    for (int done = 0, n; done < o.n_tokens; done += n) {
        n = o.n_tokens - done < chunk ? o.n_tokens - done : chunk;
        mla_sequence sequence = {.cache = cache, .n_tokens = n};
        mla_outputs out = {.logits = file || done + n == o.n_tokens ? logits : NULL, .all_logits = file != NULL};
        double start = now();
        if (mla_model_forward(context, &sequence, 1, o.tokens + done, &out)) fail(1, "%s", mla_context_error(context)->text);
        prompt.seconds += now() - start, prompt.tokens += n, prompt.bytes += mla_model_bytes(model, n);
        if (file) write_f32(file, o.logits, logits, (size_t)n * (size_t)vocab), last = logits + (size_t)(n - 1) * (size_t)vocab;
    }
    if (file && fclose(file)) fail(1, "cannot write %s: %s", o.logits, strerror(errno));

    uint64_t random = o.seed;
    while (n_made < o.n) {
        int token = sample(last, vocab, o.temp, &random, weight);
        if (token < 0) fail(1, "the model's logits after %d tokens are not numbers", o.n_tokens + n_made);
        made[n_made++] = token;
        if (!o.print_tokens) {
            printf(n_made > 1 ? " %d" : "%d", token);
            flush_stdout();
        }
        if (n_made == o.n || (!o.ignore_eos && is_eos(c, token))) break;
        mla_sequence sequence = {.cache = cache, .n_tokens = 1};
        mla_outputs out = {.logits = logits};
        double start = now();
        if (mla_model_forward(context, &sequence, 1, &token, &out)) fail(1, "%s", mla_context_error(context)->text);
        generation.seconds += now() - start, generation.tokens++, generation.bytes += mla_model_bytes(model, 1);
        last = logits;
    }
    if (o.print_tokens)
        for (int i = 0; i < n_made; i++) printf(i ? " %d" : "%d", made[i]);
    if (n_made > 0 || o.print_tokens) putchar('\n');
    flush_stdout();

    char text[4][32];
    if (change.bytes > 0)
        fprintf(stderr, "converted  %s of weights to %s in %.3f s\n", amount(text[0], change.bytes),
                checkpoint_form_name(o.quant.form), change.seconds);
    report("prompt    ", &prompt);
    if (generation.tokens) report("generation", &generation); /* the first token comes out of the prompt's pass */
    fprintf(stderr, "memory     weights %s%s, context %s, cache %s, peak resident %s\n",
            amount(text[0], mla_model_bytes(model, 0)), o.quant.form ? "" : " mapped", amount(text[1], (double)mla_context_size(model, &context_desc)),
            amount(text[2], (double)mla_cache_size(model, &cache_desc)), amount(text[3], peak_resident()));
    fprintf(stderr, "ran with   %s kernels, %d thread%s, %s attention\n", mla_isa_name(mla_context_isa(context)),
            mla_context_threads(context), mla_context_threads(context) == 1 ? "" : "s", attn_names[o.attn]);

    free(made), free(weight), free(logits), free(o.tokens);
    mla_cache_destroy(cache), mla_context_destroy(context), mla_model_destroy(model);
    checkpoint_close(c);
    return 0;
}
