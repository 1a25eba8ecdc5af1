/* convert.c - writes a checkpoint, a Hugging Face directory or a GGUF file, as a GGUF file of other types.
   cc -O2 convert.c -lm -pthread

   CONTENTS   basics, the command line, what stands before the data, the data (threads), and how it is put together. */
#define _DEFAULT_SOURCE /* POSIX, also under -std=c99 */
#define MLA_IMPLEMENTATION
#include "../mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "checkpoint.h"
#define TOKENIZER_IMPLEMENTATION
#include "convert.h"
#define OPTIONS_IMPLEMENTATION
#define OPTIONS_SHORT
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

/* ---- basics ------------------------------------------------------------------------------------------------------ */

static gguf_writer *writing; /* what must not be left behind */
static void abandon(int status) { (void)status, gguf_abandon(writing); }

/* Ctrl-C and its like: nothing is left behind. A second one does not wait for what is being written. */
static volatile sig_atomic_t interrupted;
static char *partial; /* the file while it is written */
static void on_interrupt(int number) {
    if (interrupted) unlink(partial), _exit(128 + number);
    interrupted = number;
}
static void catch_interrupts(void) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    action.sa_flags = SA_RESTART;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!sigaction(numbers[i], NULL, &before) && before.sa_handler != SIG_IGN) sigaction(numbers[i], &action, NULL);
}

static char *join(const char *dir, const char *name) {
    const size_t n = strlen(dir) + strlen(name) + 2;
    char *path = need(malloc(n));
    snprintf(path, n, "%s%s%s", dir, *dir && dir[strlen(dir) - 1] != '/' ? "/" : "", name);
    return path;
}

static char *read_text(const char *path, size_t *n) { /* ends with NUL; NULL: there is no such file */
    mla_error error;
    char *text;
    int missing;
    if (checkpoint_read(&text, n, path, (size_t)1 << 28, &missing, &error) && !missing) fail(1, "%s", error.text);
    return text;
}

static json_value *read_json(const char *path) { /* NULL: there is no such file */
    size_t n;
    json_value *json;
    mla_error error;
    char *text = read_text(path, &n);
    if (!text) return NULL;
    if (json_parse(text, n, &json, &error)) fail(1, "%s: %s", path, error.text);
    free(text);
    return json;
}

/* ---- the command line -------------------------------------------------------------------------------------------- */

typedef struct options {
    const char *model, *out, *tokenizer, *pre;
    int to, classes[CHECKPOINT_CLASS_COUNT]; /* places in types; -1: not given */
    int mtp, no_tokenizer, force, threads;
} options;

static const struct {
    const char *name;
    int type, file_type; /* an mla_dtype; general.file_type, -1: none */
} types[] = {{"keep", CONVERT_KEEP, -1}, {"f16", MLA_F16, 1},    {"bf16", MLA_BF16, 32},
             {"q8", MLA_Q8, 7},          {"q4", MLA_Q4, 2},      {"q4_k", MLA_Q4_K, 14},
             {"q5_k", MLA_Q5_K, 16},     {"q6_k", MLA_Q6_K, 18}, {"iq4_nl", MLA_IQ4_NL, 25}};
enum { N_TYPES = sizeof types / sizeof *types, FIRST_BLOCKS = 3 };
static const char *type_name(int i) { return types[i].name; }

static void help(void) {
    printf("usage: convert --model DIR --to TYPE --out FILE.gguf [options]\n"
           "Writes a checkpoint, a directory as on Hugging Face or a GGUF file, as one\n"
           "GGUF file, with its tokenizer and chat template inside.\n"
           "  --to TYPE         keep, f16, bf16, q8, q4, q4_k, q5_k, q6_k, iq4_nl; rows that\n"
           "                    are no multiple of its block become q8, or f16; norms and\n"
           "                    routers f32; of q4 to iq4_nl, kv_b is q8\n"
           "  --quant-class LIST  as head=q6_k,kv_b=q4: a type for any of attn, kv_b, dense,\n"
           "                    experts, shared, head, embed\n"
           "  --mtp             with the layers for guesses ahead, if DIR has some\n"
           "  --tokenizer FILE  a tokenizer.json or tiktoken.model, not DIR's;\n"
           "                    --no-tokenizer: none\n"
           "  --pre NAME        tokenizer.ggml.pre, where its patterns are not known\n"
           "  --threads N       [all cores]\n"
           "  --force           in place of FILE.gguf if there is one, and also where the\n"
           "                    disk seems too small\n"
           "  --quiet           nothing but errors on stderr;  --version\n"
           "Until it is whole, the file is called FILE.gguf.partial; none is left if that\n"
           "does not succeed.\n"
           "Exit status: 0 done, 1 failed, 2 wrong command line, 130 interrupted.\n"
           "Examples:\n"
           "  convert --model DeepSeek-V2-Lite --to q4_k --out V2-Lite-Q4_K.gguf\n"
           "  convert --model V3 --to q4 --quant-class head=q8,attn=q8 --mtp --out V3.gguf\n");
}

static void parse(options *o, int argc, char **argv) {
    char names[128];
    memset(o, 0, sizeof *o);
    o->to = -1;
    for (int k = 0; k < CHECKPOINT_CLASS_COUNT; k++) o->classes[k] = -1;
    options_list(names, N_TYPES, type_name);
    const options_entry table[] = {
        OPTIONS_TEXT("--model", &o->model),
        OPTIONS_TEXT("--out", &o->out),
        OPTIONS_WORD("--to", &o->to, names),
        OPTIONS_PAIRS("--quant-class", o->classes, "attn kv_b dense experts shared head embed", names),
        OPTIONS_FLAG("--mtp", &o->mtp),
        OPTIONS_TEXT("--tokenizer", &o->tokenizer),
        OPTIONS_FLAG("--no-tokenizer", &o->no_tokenizer),
        OPTIONS_TEXT("--pre", &o->pre),
        OPTIONS_INT("--threads", &o->threads, 1, 4096),
        OPTIONS_FLAG("--force", &o->force),
    };
    options_parse(table, sizeof table / sizeof *table, NULL, argc, argv);
    if (!o->model) fail(2, "--model is missing");
    if (o->to < 0) fail(2, "--to is missing");
    if (!o->out) fail(2, "--out is missing");
    if (o->no_tokenizer && (o->tokenizer || o->pre)) fail(2, "--no-tokenizer excludes --tokenizer and --pre");
}

/* ---- what stands before the data --------------------------------------------------------------------------------- */

static int begins(const char *text, const char *with) { return !strncmp(text, with, strlen(with)); }

/* Keys of the GGUF file that is converted; those of the model are made anew. */
static void copy_keys(const gguf *g, int with_tokenizer) {
    static const char *const made[] = {"general.architecture",        "general.file_type",
                                       "general.alignment",           "general.quantization_version",
                                       "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id",
                                       "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    for (size_t i = 0; i < gguf_key_count(g); i++) {
        const gguf_key *k = gguf_key_at(g, i);
        int wanted = begins(k->name, "general.") || (with_tokenizer && begins(k->name, "tokenizer."));
        for (size_t j = 0; j < sizeof made / sizeof *made; j++) wanted = wanted && strcmp(k->name, made[j]);
        if (wanted) gguf_put_key(writing, k);
    }
}

static char *beside(const char *file, const char *name) { /* in the directory of a file */
    const char *slash = strrchr(file, '/');
    char *dir = need(calloc(1, strlen(file) + 2));
    memcpy(dir, slash ? file : ".", slash ? (size_t)(slash - file) + 1 : 1);
    char *path = join(dir, name);
    free(dir);
    return path;
}

static void put_template(const char *file, const json_value *config) {
    char *path = beside(file, "chat_template.jinja");
    size_t n;
    char *template = read_text(path, &n);
    if (template && strlen(template) != n) fail(1, "%s: there is a NUL in it", path);
    if (template) gguf_put_text(writing, "tokenizer.chat_template", template);
    else convert_put_template(writing, config);
    free(template), free(path);
}

/* A tokenizer.json begins with a brace, a tiktoken.model does not. */
static void put_tokenizer(const options *o, const checkpoint *c, const char *file) {
    mla_error error;
    mla_result rc;
    char *config_path = beside(file, "tokenizer_config.json");
    size_t n;
    char *text = read_text(file, &n);
    json_value *config = read_json(config_path);
    const char *note = NULL;
    if (!text) fail(1, "cannot read %s: %s", file, strerror(ENOENT));
    const char first = text[strspn(text, " \t\r\n")];
    if (isalnum((unsigned char)first) || first == '+' || first == '/') {
        tokenizer *t = NULL;
        rc = tokenizer_open(&t, file, &error);
        if (!rc) rc = convert_put_tiktoken(writing, t, config, c, &error);
        tokenizer_close(t);
        if (rc) fail(1, "%s; --no-tokenizer does without", error.text);
    } else {
        json_value *json;
        if (json_parse(text, n, &json, &error)) fail(1, "%s: %s", file, error.text);
        rc = convert_put_tokenizer(writing, json, config, o->pre, c, &note, &error);
        json_free(json);
        if (rc)
            fail(1, "%s%s", error.text,
                 strstr(error.text, "pre_tokenizer have no name")
                     ? "; --pre NAME says which they are, --no-tokenizer does without"
                     : "; --no-tokenizer does without");
    }
    if (note) say("convert: some texts become other tokens, GGUF has no key for this: %s\n", note);
    put_template(file, config);
    json_free(config);
    free(text), free(config_path);
}

/* Without one, llama.cpp takes ids only. */
static void no_tokenizer(const char *why) {
    gguf_put_text(writing, "tokenizer.ggml.model", "no_vocab");
    if (why) say("convert: without a tokenizer: %s\n", why);
}

/* The one that is asked for, or the model's; NULL: it has none. */
static char *tokenizer_file(const options *o) {
    static const char *const names[] = {"tokenizer.json", "tiktoken.model"};
    if (o->tokenizer) return strcpy(need(malloc(strlen(o->tokenizer) + 1)), o->tokenizer);
    for (int i = 0; i < 2; i++) {
        char *path = join(o->model, names[i]);
        if (!access(path, F_OK)) return path;
        free(path);
    }
    return NULL;
}

static void put_keys(const options *o, const convert_plan *p) {
    const checkpoint *c = p->c;
    char *own = tokenizer_file(o);
    convert_put_config(p, writing);
    if (types[o->to].file_type >= 0) gguf_put_integer(writing, "general.file_type", GGUF_U32, types[o->to].file_type);
    gguf_put_integer(writing, "general.quantization_version", GGUF_U32, 2);
    const int inside = c->gguf && !o->tokenizer && !o->no_tokenizer;
    if (c->gguf) copy_keys(c->gguf, inside);
    else {
        char *name = join(o->model, ""), *base;
        for (size_t n = strlen(name); n > 1 && name[n - 1] == '/'; n--) name[n - 1] = 0;
        base = strrchr(name, '/') && strrchr(name, '/')[1] ? strrchr(name, '/') + 1 : name;
        gguf_put_text(writing, "general.type", "model");
        gguf_put_text(writing, "general.name", base);
        free(name);
    }
    if (o->no_tokenizer) no_tokenizer(NULL);
    else if (inside) {
        if (!gguf_find_key(c->gguf, "tokenizer.ggml.model")) no_tokenizer("there is none in that file");
    } else if (own) put_tokenizer(o, c, own);
    else no_tokenizer("there is no tokenizer.json and no tiktoken.model");
    free(own);
}

/* ---- the data ---------------------------------------------------------------------------------------------------- */
/* Strips of rows, in the order of the file. Whoever has time converts the next one into a slot of a ring; they are
   written in order. So there are a few MB in memory, however large a tensor is. */

enum { STRIP = 1 << 18 }; /* weights, or a row */

typedef struct slot {
    unsigned char *data;
    size_t bytes;
    int done;
} slot;

typedef struct job {
    const convert_plan *p;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t tensor; /* the strip that is next: of this tensor, from this row on */
    int64_t row;
    size_t taken, written; /* strips; number i goes by slot i % n_slots */
    slot *slots;
    size_t n_slots;
    int stop;
} job;

static int64_t strip_rows(const convert_tensor *t, int64_t row) { /* from row on; of one expert only */
    const int64_t most = STRIP / t->dims[0] > 0 ? STRIP / t->dims[0] : 1;
    const int64_t left = t->kind == CONVERT_EXPERTS ? t->dims[1] - row % t->dims[1] : t->rows - row;
    return left < most ? left : most;
}

static void *work(void *arg) {
    job *j = arg;
    pthread_mutex_lock(&j->lock);
    for (;;) {
        while (!j->stop && j->tensor < j->p->n && j->taken - j->written >= j->n_slots)
            pthread_cond_wait(&j->changed, &j->lock);
        if (j->stop || j->tensor == j->p->n) break;
        const convert_tensor *t = &j->p->tensors[j->tensor];
        const int64_t row = j->row, rows = strip_rows(t, row);
        slot *s = &j->slots[j->taken++ % j->n_slots];
        j->row += rows;
        if (j->row == t->rows) j->tensor++, j->row = 0;
        pthread_mutex_unlock(&j->lock);
        convert_rows(j->p, t, row, rows, s->data);
        pthread_mutex_lock(&j->lock);
        s->bytes = mla_dtype_bytes(t->dtype, (size_t)(rows * t->dims[0]));
        s->done = 1;
        pthread_cond_broadcast(&j->changed);
    }
    pthread_mutex_unlock(&j->lock);
    return NULL;
}

/* Until all is written, or cannot be, or nobody wants it any more. */
static void write_strips(job *j, double total, double start) {
    double done = 0;
    char text[32];
    pthread_mutex_lock(&j->lock);
    while (!interrupted && !gguf_failed(writing)) {
        slot *s = &j->slots[j->written % j->n_slots];
        struct timespec soon;
        if (j->tensor == j->p->n && j->written == j->taken) break;
        if (!s->done) { /* a signal does not wake us */
            clock_gettime(CLOCK_REALTIME, &soon);
            soon.tv_nsec += 50000000;
            if (soon.tv_nsec >= 1000000000) soon.tv_sec++, soon.tv_nsec -= 1000000000;
            pthread_cond_timedwait(&j->changed, &j->lock, &soon);
            continue;
        }
        pthread_mutex_unlock(&j->lock);
        gguf_put_data(writing, s->data, s->bytes);
        done += (double)s->bytes;
        options_progress("converting", done, total, amount(text, total), start);
        pthread_mutex_lock(&j->lock);
        s->done = 0;
        j->written++;
        pthread_cond_broadcast(&j->changed);
    }
    j->stop = 1;
    pthread_cond_broadcast(&j->changed);
    pthread_mutex_unlock(&j->lock);
}

static void write_data(const convert_plan *p, int n_threads, double total, double start) {
    size_t largest = 1;
    job j;
    memset(&j, 0, sizeof j);
    j.p = p;
    j.n_slots = 4 * (size_t)n_threads + 4;
    for (size_t i = 0; i < p->n; i++) {
        const convert_tensor *t = &p->tensors[i];
        const size_t bytes = mla_dtype_bytes(t->dtype, (size_t)(strip_rows(t, 0) * t->dims[0]));
        largest = bytes > largest ? bytes : largest;
    }
    j.slots = need(calloc(j.n_slots, sizeof *j.slots));
    for (size_t i = 0; i < j.n_slots; i++) j.slots[i].data = need(malloc(largest));
    pthread_mutex_init(&j.lock, NULL);
    pthread_cond_init(&j.changed, NULL);
    pthread_t *threads = need(calloc((size_t)n_threads, sizeof *threads));
    int running = 0;
    while (running < n_threads && !pthread_create(&threads[running], NULL, work, &j)) running++;
    if (!running) fail(1, "no thread can be started");
    write_strips(&j, total, start);
    for (int i = 0; i < running; i++) pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&j.lock);
    pthread_cond_destroy(&j.changed);
    for (size_t i = 0; i < j.n_slots; i++) free(j.slots[i].data);
    free(threads), free(j.slots);
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

static convert_plan *make_plan(const options *o, const checkpoint *c) {
    int wanted[CHECKPOINT_CLASS_COUNT];
    mla_error error;
    convert_plan *p;
    for (int k = 0; k < CHECKPOINT_CLASS_COUNT; k++) {
        wanted[k] = types[o->classes[k] >= 0 ? o->classes[k] : o->to].type;
        if (k == CHECKPOINT_KV_B && o->classes[k] < 0 && o->to >= FIRST_BLOCKS) wanted[k] = MLA_Q8;
    }
    if (convert_begin(&p, c, wanted, &error)) fail(1, "%s", error.text);
    return p;
}

/* The file's size without what stands before the data; it has a place to go. */
static double check_place(const options *o, const convert_plan *p) {
    struct stat info;
    struct statvfs disk;
    double total = 0;
    char need_text[32], free_text[32], *dir = beside(o->out, "");
    for (size_t i = 0; i < p->n; i++)
        total += (double)mla_dtype_bytes(p->tensors[i].dtype, (size_t)(p->tensors[i].rows * p->tensors[i].dims[0]));
    const int there = !stat(o->out, &info);
    if (there && S_ISDIR(info.st_mode)) fail(1, "%s is a directory", o->out);
    if (there && !S_ISREG(info.st_mode)) fail(1, "%s is no regular file", o->out);
    if (there && !o->force) fail(1, "%s is there already: --force puts another in its place", o->out);
    if (!o->force && !statvfs(dir, &disk)) {
        const double left = (double)disk.f_bavail * (double)disk.f_frsize;
        if (left < total)
            fail(1, "%s: the disk is too small: %s are needed, %s are free", o->out, amount(need_text, total),
                 amount(free_text, left));
    }
    free(dir);
    return total;
}

static void report(const options *o, const convert_plan *p, double seconds) {
    double weights = 0;
    struct stat info;
    char text[32], list[256] = "";
    for (int type = 0; type < MLA_DTYPE_COUNT; type++) {
        int n = 0, fallback = 0;
        for (size_t i = 0; i < p->n; i++)
            if ((int)p->tensors[i].dtype == type) n++, fallback += p->tensors[i].fallback;
        const size_t used = strlen(list);
        if (n)
            snprintf(list + used, sizeof list - used, "%s%d %s", used ? ", " : "", n, mla_dtype_name((mla_dtype)type));
        if (fallback) snprintf(list + strlen(list), sizeof list - strlen(list), " (%d for their rows)", fallback);
    }
    for (size_t i = 0; i < p->n; i++) weights += (double)p->tensors[i].rows * (double)p->tensors[i].dims[0];
    say("convert: %s: %s of %zu tensors: %s; %.1f s, %.1f M weights/s\n", o->out,
        amount(text, stat(o->out, &info) ? 0 : (double)info.st_size), p->n, list, seconds, weights * 1e-6 / seconds);
}

int main(int argc, char **argv) {
    options o;
    mla_error error;
    checkpoint *c;
    checkpoint_options how;
    options_here.name = "convert", options_here.version = MLA_VERSION, options_here.help = help;
    options_here.end = abandon;
    options_streams();
    signal(SIGXFSZ, SIG_IGN); /* a file that must not grow is an error of write, and reported as one */
    parse(&o, argc, argv);
    memset(&how, 0, sizeof how);
    how.mtp = o.mtp;
    if (checkpoint_open_with(&c, o.model, &how, &error)) fail(1, "%s", error.text);
    if (c->misspelt) say("convert: config.json has keys that mean nothing: %s\n", c->misspelt);
    if (o.mtp && !c->config.num_nextn_predict_layers) fail(1, "--mtp: %s has no layer for guesses ahead", o.model);
    convert_plan *p = make_plan(&o, c);
    const double total = check_place(&o, p), start = now();
    if (c->groups_assumed)
        say("convert: expert groups, of which the file says nothing: those of %s\n", c->groups_assumed);
    partial = need(malloc(strlen(o.out) + 16));
    snprintf(partial, strlen(o.out) + 16, "%s.partial", o.out);
    catch_interrupts();
    if (gguf_create(&writing, o.out, &error)) fail(1, "%s", error.text);
    put_keys(&o, p);
    for (size_t i = 0; i < p->n; i++) {
        const convert_tensor *t = &p->tensors[i];
        gguf_put_tensor(writing, t->name, gguf_type_of(t->dtype), t->n_dims, t->dims);
    }
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    write_data(p, o.threads ? o.threads : cores < 1 ? 1 : (int)cores, total, start);
    if (interrupted) {
        const int status = 128 + (int)interrupted;
        fail(status, "interrupted: nothing is left of %s", o.out);
    }
    gguf_writer *w = writing;
    writing = NULL; /* gguf_finish leaves nothing either */
    if (gguf_finish(w, &error)) fail(1, "%s", error.text);
    report(&o, p, now() - start);
    convert_end(p);
    checkpoint_close(c);
    free(partial);
    return 0;
}
