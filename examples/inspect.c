/* inspect.c - what a model does with a prompt: a page with its attention maps, the paths through its experts, what the
   latent cache holds and what it thinks comes next; the same as files of numbers, or as a picture.
   make build/inspect; build/inspect --model DIR|FILE.gguf --prompt TEXT --out report.html

   CONTENTS   basics, the command line, the model, a text and what is kept of it, looking (a chunk of tokens through
              all layers, step by step), the latents, files of numbers, the page, the picture.
   HOW        Layers are run one by one through the API: norm, attention by the naive and by the absorbed path, norm,
              experts. That is mla_model_forward bit for bit (tests/inspect/run.sh); activations and caches are f32. */
#define _DEFAULT_SOURCE /* POSIX, also under -std=c99 */
#define MLA_IMPLEMENTATION
#define MLA_REFERENCE
#include "../mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "checkpoint.h"
#include "gguf.h"
#define TOKENIZER_IMPLEMENTATION
#include "tokenizer.h"
#define SAMPLER_IMPLEMENTATION
#include "sampler.h"
#define JINJA_IMPLEMENTATION
#include "jinja.h"
#define CHAT_IMPLEMENTATION
#include "chat.h"
#define LANGUAGE_IMPLEMENTATION
#include "language.h"
#define TEXT_IMPLEMENTATION
#include "text.h"
#define SINK_IMPLEMENTATION
#include "sink.h"
#define THREADS_IMPLEMENTATION
#include "threads.h"
#define OPTIONS_IMPLEMENTATION
#define OPTIONS_SHORT
#include "options.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../build/inspect.inc" /* inspect.html as lines: static const char *const page[], the last one NULL */

enum { TOP = 5, ROWS = 32 }; /* likeliest tokens that are kept; rows of logits at a time */
#define BUDGET 2400000.0     /* bytes of maps on a page */
#define SINK   0.3           /* a key that gets this much of a head on average is a sink */

/* ---- basics ------------------------------------------------------------------------------------------------------ */

/* Tasks of several threads may fail at a time: the first one ends the program. */
static pthread_mutex_t failing = PTHREAD_MUTEX_INITIALIZER;

static void must(mla_result result, const mla_error *error) {
    if (result) pthread_mutex_lock(&failing), fail(1, "%s", error->text);
}

/* Zeros for a * b * c things of some bytes. */
static void *room(double a, double b, double c, size_t bytes) {
    const double n = a * b * c + 1;
    void *memory = n * (double)bytes < 1e15 ? calloc((size_t)n, bytes) : NULL;
    if (!memory) pthread_mutex_lock(&failing), fail(1, "out of memory: %.1f MB", n * (double)bytes * 1e-6);
    return memory;
}

static int least(int a, int b) { return a < b ? a : b; }
static int most(int a, int b) { return a > b ? a : b; }

static int ends_with(const char *text, const char *end) {
    const size_t n = strlen(text), m = strlen(end);
    return n > m && !strcmp(text + n - m, end);
}

/* A file that is being written; close_file says so if it could not be. */
static FILE *open_file(char *path, size_t size, const char *dir, const char *name) {
    if ((size_t)snprintf(path, size, "%s%s%s", dir, *name ? "/" : "", name) >= size)
        fail(1, "cannot write %.99s...: the path is too long", path);
    FILE *file = options_open(path, 1);
    if (!file) fail(1, "cannot write %s: %s", path, options_why());
    return file;
}
static void close_file(FILE *file, const char *path) {
    const int wrong = ferror(file);
    if (fclose(file) || wrong) remove(path), fail(1, "cannot write %s: %s", path, strerror(errno));
}

static void make_directory(const char *path) {
    struct stat info;
    if (!mkdir(path, 0777)) return;
    const int there = errno == EEXIST;
    if (!there || stat(path, &info) || !S_ISDIR(info.st_mode))
        fail(1, "cannot make %s: %s", path, there ? "there is something else, and no directory" : strerror(errno));
}

/* ---- the command line -------------------------------------------------------------------------------------------- */

typedef struct options {
    const char *model, *text[2], *file[2], *tokens, *layers;
    options_texts out;
    int positions, threads;
} options;

static void help(void) {
    puts("usage: inspect --model DIR|FILE.gguf --prompt TEXT --out report.html [options]\n"
         "  --prompt TEXT, --prompt-file FILE     what the model reads\n"
         "  --tokens \"1 2 3\"       or token ids, for models without a tokenizer\n"
         "  --compare TEXT, --compare-file FILE   another text beside it\n"
         "  --out FILE.html        a page with all of it, which needs nothing else\n"
         "  --out FILE.svg         a picture of attention and routing\n"
         "  --out DIR              CSV files and raw maps, with a README; --out may be given several times\n"
         "  --positions N          tokens that maps and paths are kept of [as many as fit the page, at most 512]\n"
         "  --layers \"0 5 9\"       whose maps are kept [all that fit the page]\n"
         "  --threads N            [all cores]\n"
         "  --quiet                nothing but errors on stderr; --help; --version\n"
         "Exit status: 0 done, 1 failed, 2 wrong command line.");
}

static void parse(options *o, int argc, char **argv) {
    memset(o, 0, sizeof *o);
    const options_entry table[] = {
        OPTIONS_TEXT("--model", &o->model),
        OPTIONS_TEXT("--prompt", &o->text[0]),
        OPTIONS_TEXT("--prompt-file", &o->file[0]),
        OPTIONS_TEXT("--compare", &o->text[1]),
        OPTIONS_TEXT("--compare-file", &o->file[1]),
        OPTIONS_TEXT("--tokens", &o->tokens),
        OPTIONS_TEXTS("--out", &o->out),
        OPTIONS_TEXT("--layers", &o->layers),
        OPTIONS_INT("--positions", &o->positions, 2, 4096),
        OPTIONS_INT("--threads", &o->threads, 1, 1024),
    };
    options_here.name = "inspect", options_here.version = MLA_VERSION, options_here.help = help;
    options_parse(table, sizeof table / sizeof *table, NULL, argc, argv), options_here.model = o->model;
    if (!o->model) fail(2, "--model is missing");
    if (!o->text[0] + !o->file[0] + !o->tokens != 2)
        fail(2, "one of --prompt, --prompt-file and --tokens must be there");
    if (o->text[1] && o->file[1]) fail(2, "--compare and --compare-file exclude each other");
    if (!o->out.n) fail(2, "--out is missing");
}

/* ---- the model --------------------------------------------------------------------------------------------------- */

enum { NAIVE, ABSORBED, DENSE, N_CONTEXTS };

/* All that is open. */
typedef struct lab {
    options o;
    checkpoint *c;
    language *l;
    const mla_config *f;
    mla_model *model, *dense; /* dense: without the experts of layers that have an mlp, too; NULL: there are none */
    mla_context *context[N_CONTEXTS];
    thread_pool *pool;
    int L, H, K, choices, streams, chunk; /* choices: experts, those without weights among them */
} lab;

static int is_moe(const lab *b, int layer) { return b->c->weights.layers[layer].moe.experts != NULL; }
static int is_shortcut(const lab *b, int layer) {
    return is_moe(b, layer) && b->c->weights.layers[layer].mlp.gate.weight.data;
}
/* Attention over cached latents, which is what a layer with such weights has. */
static int has_maps(const lab *b, int layer) { return b->c->weights.layers[layer].attn.kv_a.weight.data != NULL; }

/* A layer with a shortcut has an mlp and experts, and mla_moe_forward runs the experts: another model has its mlp. */
static void open_dense(lab *b) {
    mla_error error;
    mla_weights w = b->c->weights;
    const int n = b->L + b->f->num_nextn_predict_layers;
    mla_layer_weights *layers = room(n, 1, 1, sizeof *layers);
    int any = 0;
    memcpy(layers, w.layers, (size_t)n * sizeof *layers);
    for (int i = 0; i < b->L; i++)
        if (is_shortcut(b, i)) memset(&layers[i].moe, 0, sizeof layers[i].moe), any = 1;
    w.layers = layers;
    if (any) must(mla_model_create(&b->dense, &b->c->config, &w, NULL, &error), &error);
    free(layers);
}

static void open_lab(lab *b) {
    const checkpoint_options how = {.mtp = 1};
    const language_files files = {.model = b->o.model, .optional = b->o.tokens != NULL};
    mla_error error;
    must(checkpoint_open_with(&b->c, b->o.model, &how, &error), &error);
    must(language_open(&b->l, &files, b->c, &error), &error);
    language_notes(b->l, b->c, say);
    must(mla_model_create(&b->model, &b->c->config, &b->c->weights, NULL, &error), &error);
    b->f = mla_model_config(b->model);
    b->L = b->f->num_hidden_layers, b->H = b->f->num_attention_heads, b->K = b->f->num_experts_per_tok;
    b->streams = b->f->hc_mult;
    b->choices = b->f->n_routed_experts + b->f->zero_expert_num;
    if (!threads_create(&b->pool, b->o.threads)) fail(1, "no threads, or no memory for them");
    open_dense(b);
}

static void open_contexts(lab *b) {
    mla_error error;
    mla_context_desc how = {.max_tokens = most(b->chunk, ROWS), .activations = MLA_ACT_F32};
    how.threads = threads_count(b->pool), how.run = threads_run, how.run_user = b->pool;
    how.team = 1, how.wait = threads_wait, how.wake = threads_wake, how.alloc = checkpoint_huge_pages;
    for (int i = 0; i < N_CONTEXTS; i++) {
        const mla_model *model = i == DENSE ? b->dense : b->model;
        how.attn = i == ABSORBED ? MLA_ATTN_ABSORBED : MLA_ATTN_NAIVE;
        if (model) must(mla_context_create(&b->context[i], model, &how, &error), &error);
    }
}

static void close_lab(lab *b) {
    for (int i = 0; i < N_CONTEXTS; i++) mla_context_destroy(b->context[i]);
    mla_model_destroy(b->dense), mla_model_destroy(b->model), threads_destroy(b->pool);
    language_close(b->l), checkpoint_close(b->c);
}

/* ---- a text and what is kept of it ------------------------------------------------------------------------------- */

typedef struct text {
    char *bytes;
    size_t n;
    int *ids, T; /* [T + M + 1]: behind the text what the model thinks comes, for multi-token prediction */
    mla_cache *cache[2];
    /* the S positions that maps and paths are kept of, and where each of T stands among them, or -1; the n_kept layers
       whose maps are kept, and where each of L stands among them, or -1 */
    int S, *at, *shown, n_kept, *kept, *slot, wide; /* wide: maps are f32 on the page, else f16 */
    float *maps;                                    /* [n_kept, H, S, S] */
    unsigned char *chosen;                          /* [L, S, S] by any head, of sparse models; else NULL */
    double *entropy, *distance;                     /* [L, H] in bits and tokens, on average of all tokens but one */
    float *apart, *mass, *sink_mass;                /* [L, H]; [L, H, T] what a key gets in all; [L, H] */
    int *sink;                                      /* [L, H] the key that gets most on average */
    /* routing */
    int *expert;                      /* [L, T, K] */
    float *weight;                    /* the same */
    unsigned char *swapped;           /* [L, T] experts that the bias brought in */
    int64_t *load, *plain, *admitted; /* [L, choices] with the bias and without; [L, n_group] */
    int *together;                    /* [L, choices, choices] */
    /* cache */
    float *latent, *rope; /* [L, T] norms */
    double *singular;     /* [L, n_singular] */
    int n_singular, n_rows;
    /* logits */
    int *top;            /* [T, TOP] */
    float *p, *surprise; /* [T, TOP]; [T] bits of what came next */
    float *state;        /* [L + 1, S, streams, D]; the last is not normed */
    int *lens;           /* [L + 1, S] */
    float *lens_p, *lens_next;
    int *guess;     /* [M, T] */
    float *guess_p; /* the same */
    double seconds;
} text;

static void read_text(const options *o, int i, text *t) {
    text_buffer b = {NULL, 0, 0, 0};
    if (o->text[i]) sink_add(&b, o->text[i], strlen(o->text[i]));
    else sink_read(&b, o->file[i]);
    t->bytes = b.data, t->n = b.n;
}

static void read_tokens(const lab *b, chat_tokens *ids) {
    for (const char *at = b->o.tokens; *at;) {
        char *end;
        mla_error error;
        const long value = strtol(at, &end, 10);
        const int id = (int)value;
        if (end == at || value < 0 || value >= b->f->vocab_size)
            fail(2, "--tokens: '%s' does not begin with one of the model's tokens, 0..%d", at, b->f->vocab_size - 1);
        must(chat_append(ids, &id, 1, &error), &error);
        at = end + strspn(end, " ,");
    }
}

static double page_maps(const lab *b, int S, int layers, int bytes) {
    return (double)layers * b->H * bytes * S * (S + 1) / 2;
}

/* How many positions and layers fit the page: all in f32, all in f16, fewer positions, fewer layers. */
static void choose_sizes(const lab *b, text *t, double budget) {
    const int cap = least(t->T, b->o.positions ? b->o.positions : 512), low = least(cap, 32);
    int n = 0;
    t->S = cap, t->kept = room(b->L, 1, 1, sizeof(int)), t->slot = room(b->L, 1, 1, sizeof(int));
    for (const char *at = b->o.layers; at;) {
        char *end;
        const long l = strtol(at, &end, 10);
        if (end == at || l < 0 || l >= b->L || n == b->L || !has_maps(b, (int)l))
            fail(2, "--layers: '%s' does not begin with one of the layers with maps, 0..%d", at, b->L - 1);
        t->kept[n++] = (int)l;
        at = end + strspn(end, " ,");
        if (!*at) break;
    }
    for (int l = 0; l < b->L && !b->o.layers; l++)
        if (has_maps(b, l)) t->kept[n++] = l;
    t->wide = page_maps(b, t->S, n, 4) <= budget;
    while (!b->o.positions && t->S > low && !t->wide && page_maps(b, t->S, n, 2) > budget) t->S--;
    int fit = n;
    while (!b->o.layers && !t->wide && fit > 1 && page_maps(b, t->S, fit, 2) > budget) fit--;
    for (int i = 0; i < fit; i++) t->kept[i] = t->kept[fit > 1 ? (int)((long)i * (n - 1) / (fit - 1)) : 0];
    t->n_kept = fit;
    for (int l = 0; l < b->L; l++) t->slot[l] = -1;
    for (int i = 0; i < fit; i++) t->slot[t->kept[i]] = i;
}

/* The first four, the last half, and the others spread evenly between. */
static void choose_positions(text *t) {
    const int T = t->T, S = t->S, first = least(4, S / 4), last = S / 2, between = S - first - last;
    t->at = room(S, 1, 1, sizeof(int)), t->shown = room(T, 1, 1, sizeof(int));
    for (int s = 0; s < S; s++)
        t->at[s] = S == T || s < first ? s
                   : s >= S - last     ? T - S + s
                                       : first + (int)((long)(s - first) * (T - first - last) / between);
    for (int i = 0; i < T; i++) t->shown[i] = -1;
    for (int s = 0; s < S; s++) t->shown[t->at[s]] = s;
}

static void make_room(const lab *b, text *t) {
    const double L = b->L, H = b->H, T = t->T, S = t->S, E = b->choices, K = b->K, M = b->f->num_nextn_predict_layers;
    t->maps = room(t->n_kept * H, S, S, sizeof *t->maps);
    t->chosen = b->f->index_topk ? room(L, S, S, 1) : NULL;
    t->entropy = room(L, H, 1, sizeof(double)), t->distance = room(L, H, 1, sizeof(double));
    t->apart = room(L, H, 1, sizeof(float)), t->mass = room(L, H, T, sizeof(float));
    t->sink_mass = room(L, H, 1, sizeof(float)), t->sink = room(L, H, 1, sizeof(int));
    t->expert = room(L, T, K, sizeof(int)), t->weight = room(L, T, K, sizeof(float));
    t->swapped = room(L, T, 1, 1), t->admitted = room(L, most(1, b->f->n_group), 1, sizeof(int64_t));
    t->load = room(L, E, 1, sizeof(int64_t)), t->plain = room(L, E, 1, sizeof(int64_t));
    t->together = room(L, E, E, sizeof(int));
    t->latent = room(L, T, 1, sizeof(float)), t->rope = room(L, T, 1, sizeof(float));
    t->n_rows = least(t->T, 1024), t->n_singular = least(t->n_rows, b->f->kv_lora_rank);
    t->singular = room(L, t->n_singular, 1, sizeof(double));
    t->top = room(T, TOP, 1, sizeof(int)), t->p = room(T, TOP, 1, sizeof(float));
    t->surprise = room(T, 1, 1, sizeof(float));
    t->state = room(L + 1, S, (double)b->streams * b->f->hidden_size, sizeof(float));
    t->lens = room(L + 1, S, 1, sizeof(int));
    t->lens_p = room(L + 1, S, 1, sizeof(float)), t->lens_next = room(L + 1, S, 1, sizeof(float));
    t->guess = room(M, T, 1, sizeof(int)), t->guess_p = room(M, T, 1, sizeof(float));
}

/* Tokens, sizes and memory of text i. */
static void open_text(lab *b, int i, text *t, double budget) {
    mla_error error;
    chat_tokens ids = {NULL, 0, 0};
    const int M = b->f->num_nextn_predict_layers;
    if (i == 0 && b->o.tokens) read_tokens(b, &ids);
    else {
        if (!b->l) fail(1, "%s has no tokenizer for the other text", b->o.model);
        read_text(&b->o, i, t);
        must(language_encode(&ids, b->l, t->bytes, t->n, &error), &error);
    }
    if (ids.n < 2) fail(1, "the text has %d tokens: it needs two", (int)ids.n);
    if (ids.n > 1000000) fail(1, "the text has %d tokens: at most a million are looked at", (int)ids.n);
    t->T = (int)ids.n, t->ids = room(t->T + M + 2, 1, 1, sizeof(int));
    memcpy(t->ids, ids.ids, ids.n * sizeof(int)), free(ids.ids);
    choose_sizes(b, t, budget), choose_positions(t);
    make_room(b, t);
}

static void close_text(text *t) {
    void *all[] = {t->bytes,  t->ids,     t->at,        t->shown, t->kept,   t->slot,      t->maps,
                   t->chosen, t->entropy, t->distance,  t->apart, t->mass,   t->sink_mass, t->sink,
                   t->expert, t->weight,  t->swapped,   t->load,  t->plain,  t->admitted,  t->together,
                   t->latent, t->rope,    t->singular,  t->top,   t->p,      t->surprise,  t->state,
                   t->lens,   t->lens_p,  t->lens_next, t->guess, t->guess_p};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    mla_cache_destroy(t->cache[NAIVE]), mla_cache_destroy(t->cache[ABSORBED]);
}

/* ---- looking ----------------------------------------------------------------------------------------------------- */

/* A chunk of n tokens at positions from first on, in a layer. */
typedef struct look {
    lab *b;
    text *t;
    int layer, first, n;
    float *x, *post;           /* [n, streams, D], and how much of what a layer gives each takes */
    float *in, *xn, *y, *late; /* [n, D] */
    float *probs[2], *logits;  /* [n, H, keys] by each path; [ROWS, vocab_size] */
    double *router;            /* [choices, D] of the layer */
    unsigned char *in_groups;  /* [n, n_group] */
    int *without;              /* [n, K] experts chosen without the bias */
    mla_tensor bias;
} look;

/* Statistics of a head, and what is kept of its map. */
static void look_at_head(void *arg, int h) {
    look *k = arg;
    text *t = k->t;
    const int H = k->b->H, keys = k->first + k->n, S = t->S, at = k->layer * H + h, slot = t->slot[k->layer];
    float *mass = t->mass + (size_t)at * (size_t)t->T, apart = t->apart[at];
    for (int i = 0; i < k->n; i++) {
        const int q = k->first + i, row = t->shown[q];
        const float *p = k->probs[NAIVE] + ((size_t)i * (size_t)H + (size_t)h) * (size_t)keys,
                    *other = k->probs[ABSORBED] + (p - k->probs[NAIVE]);
        double bits = 0, far = 0;
        for (int u = 0; u < keys; u++) {
            if (p[u] > 0) bits -= (double)p[u] * log2((double)p[u]);
            far += (double)p[u] * (q - u);
            mass[u] += p[u];
            apart = fmaxf(apart, fabsf(p[u] - other[u]));
        }
        t->entropy[at] += q ? bits / (t->T - 1) : 0, t->distance[at] += q ? far / (t->T - 1) : 0;
        for (int s = 0; row >= 0 && s <= row; s++) {
            if (slot >= 0)
                t->maps[((size_t)(slot * H + h) * (size_t)S + (size_t)row) * (size_t)S + (size_t)s] = p[t->at[s]];
        }
    }
    t->apart[at] = apart;
}

/* Which keys a token's heads chose, together. */
static void look_at_choice(look *k) {
    text *t = k->t;
    const size_t S = (size_t)t->S, H = (size_t)k->b->H, keys = (size_t)(k->first + k->n);
    for (int i = 0; t->chosen && i < k->n; i++) {
        const int row = t->shown[k->first + i];
        for (int s = 0; row >= 0 && s <= row; s++)
            for (size_t h = 0; h < H; h++)
                if (k->probs[NAIVE][((size_t)i * H + h) * keys + (size_t)t->at[s]] > 0)
                    t->chosen[((size_t)k->layer * S + (size_t)row) * S + (size_t)s] = 1;
    }
}

static int holds(const int *list, int n, int what) {
    for (int i = 0; i < n; i++)
        if (list[i] == what) return 1;
    return 0;
}

/* The router's scores of a token once more: which groups it may choose from, and what it would choose without bias. */
static void look_at_router(void *arg, int i) {
    look *k = arg;
    const mla_config *f = k->b->f;
    const int D = f->hidden_size, E = k->b->choices, G = f->n_group, K = k->b->K;
    const mla_tensor none = mla_view(NULL, MLA_F32, 0, 0);
    double *z = room(3.0 * E, 1, 1, sizeof *z), *group = room(G, 1, 1, sizeof *group), *we = room(K, 1, 1, sizeof *we);
    const float *x = k->xn + (size_t)i * (size_t)D;
    int *expert = k->without + (size_t)i * (size_t)K;
    for (int e = 0; e < E; e++)
        for (int j = 0; j < D; j++) z[e] += k->router[(size_t)e * (size_t)D + (size_t)j] * (double)x[j];
    mla__route_ref(expert, we, z + E, group, f, &k->bias, z);
    for (int g = 0; g < G; g++)
        k->in_groups[i * G + g] = f->topk_method != MLA_TOPK_GREEDY && mla__rank_ref(group, G, g) < f->topk_group;
    if (k->bias.data) mla__route_ref(expert, we, z + E, group, f, &none, z);
    free(z), free(group), free(we);
}

/* The experts of a layer on xn -> y, and what the router did. */
static void look_at_experts(look *k, float *y) {
    lab *b = k->b;
    text *t = k->t;
    const mla_moe_weights *w = &b->c->weights.layers[k->layer].moe;
    const size_t E = (size_t)b->choices, K = (size_t)b->K, l = (size_t)k->layer, G = (size_t)b->f->n_group,
                 D = (size_t)b->f->hidden_size, row = (l * (size_t)t->T + (size_t)k->first) * K;
    const mla_routing out = {t->expert + row, t->weight + row, t->load + l * E};
    must(mla_moe_forward(b->context[NAIVE], k->layer, y, k->xn, k->n, &out), mla_context_error(b->context[NAIVE]));
    for (size_t e = 0; e < E; e++)
        for (size_t j = 0; j < D; j++) k->router[e * D + j] = (double)mla_weight(&w->router, (int)e, (int)j);
    k->bias = w->router_bias;
    threads_run(b->pool, k->n, look_at_router, k);
    for (size_t i = 0; i < (size_t)k->n; i++) {
        const int *was = k->without + i * K, *is = out.index + i * K;
        for (size_t g = 0; g < G; g++) t->admitted[l * G + g] += k->in_groups[i * G + g];
        for (size_t j = 0; j < K; j++) {
            t->plain[l * E + (size_t)was[j]]++;
            t->swapped[l * (size_t)t->T + (size_t)k->first + i] +=
                (unsigned char)(k->bias.data && !holds(was, b->K, is[j]));
            for (size_t m = 0; m < K; m++) t->together[(l * E + (size_t)is[j]) * E + (size_t)is[m]]++;
        }
    }
}

/* x takes y [n, D]. */
static void add(look *k, const float *y) {
    const size_t D = (size_t)k->b->f->hidden_size, m = (size_t)k->b->streams, n = (size_t)k->n;
    for (size_t i = 0; i < n * m; i++)
        for (size_t j = 0; j < D; j++)
            k->x[i * D + j] += k->b->f->residual_scale * (m > 1 ? k->post[i] : 1) * y[i / m * D + j];
}

static void norm(look *k, const mla_norm_weights *w, float *y, const float *x) {
    mla_context *c = k->b->context[NAIVE];
    must(mla_norm_forward(c, w, y, x, k->n), mla_context_error(c));
}

/* Embeddings [n, D] in x become all of its streams. */
static void spread(look *k) {
    const size_t D = (size_t)k->b->f->hidden_size, m = (size_t)k->b->streams;
    for (size_t i = (size_t)k->n * m; i-- > 0;) memmove(k->x + i * D, k->x + i / m * D, D * sizeof(float));
}

/* What the next part of a layer sees of x -> xn */
static void enter(look *k, const mla_hc_weights *hc, const mla_norm_weights *w) {
    mla_context *c = k->b->context[NAIVE];
    const int several = k->b->streams > 1;
    if (several) must(mla_hc_forward(c, hc, k->in, k->post, k->x, k->n), mla_context_error(c));
    norm(k, w, k->xn, several ? k->in : k->x);
}

/* x through the attention of a layer, by both paths from the same x; the naive one's goes on. */
static void step_attention(look *k) {
    const mla_layer_weights *w = &k->b->c->weights.layers[k->layer];
    const int maps = has_maps(k->b, k->layer);
    enter(k, &w->attn_hc, &w->attn_norm);
    for (int path = ABSORBED; path >= NAIVE; path--) {
        const mla_sequence s = {.cache = k->t->cache[path], .n_tokens = k->n, .probs = maps ? k->probs[path] : NULL};
        mla_context *c = k->b->context[path];
        must(mla_attn_forward(c, k->layer, k->y, k->xn, &s, 1), mla_context_error(c));
    }
    if (maps) threads_run(k->b->pool, k->b->H, look_at_head, k), look_at_choice(k);
    if (w->attn_out_norm.weight.data) norm(k, &w->attn_out_norm, k->y, k->y);
    add(k, k->y);
}

/* x through the rest of it. */
static void step_ffn(look *k) {
    lab *b = k->b;
    const mla_layer_weights *w = &b->c->weights.layers[k->layer];
    const int shortcut = is_shortcut(b, k->layer);
    mla_context *c = b->context[shortcut ? DENSE : NAIVE];
    enter(k, &w->ffn_hc, &w->ffn_norm);
    if (is_moe(b, k->layer) && !shortcut) look_at_experts(k, k->y);
    else must(mla_moe_forward(c, k->layer, k->y, k->xn, k->n, NULL), mla_context_error(c));
    if (w->ffn_out_norm.weight.data) norm(k, &w->ffn_out_norm, k->y, k->y);
    add(k, k->y);
    if (k->layer > 0 && is_shortcut(b, k->layer - 1)) add(k, k->late);
    if (shortcut) look_at_experts(k, k->late);
}

static void keep_state(look *k, int layer) {
    text *t = k->t;
    const size_t W = (size_t)k->b->streams * (size_t)k->b->f->hidden_size;
    for (int i = 0; i < k->n; i++) {
        const int s = t->shown[k->first + i];
        if (s < 0) continue;
        memcpy(t->state + ((size_t)layer * (size_t)t->S + (size_t)s) * W, k->x + (size_t)i * W, W * sizeof(float));
    }
}

/* The likeliest tokens of a row of logits, best first, and the logarithm of the sum of all exponentials. */
static double likeliest(const float *z, int n, int *ids, int n_ids) {
    double sum = 0;
    for (int i = 0, have = 0; i < n; i++) {
        int j = have;
        if (have == n_ids && !(z[i] > z[ids[have - 1]])) continue;
        if (have < n_ids) have++;
        else j--;
        for (; j > 0 && z[i] > z[ids[j - 1]]; j--) ids[j] = ids[j - 1];
        ids[j] = i;
    }
    for (int i = 0; i < n; i++) sum += exp((double)(z[i] - z[ids[0]]));
    return (double)z[ids[0]] + log(sum);
}

/* At most ROWS states [n, streams, D] before the last norm -> their logits, and the normed states, unless NULL. */
static void head(look *k, const float *state, int n, float *normed) {
    mla_context *c = k->b->context[NAIVE];
    float **hidden = room(k->b->L + 1, 1, 1, sizeof *hidden);
    const mla_sequence s = {.cache = k->t->cache[NAIVE], .n_tokens = n, .n_logits = n, .embeddings = state};
    const mla_outputs out = {.logits = k->logits, .hidden = hidden};
    hidden[k->b->L] = normed;
    must(mla_layers_forward(c, k->b->L, k->b->L, &s, 1, NULL, &out), mla_context_error(c));
    free(hidden);
}

/* What comes after each token, and how surprising what came was; the normed states are left in xn. */
static void look_at_logits(look *k) {
    text *t = k->t;
    const int D = k->b->f->hidden_size, V = k->b->f->vocab_size;
    for (int i = 0; i < k->n; i += ROWS) {
        const int n = least(ROWS, k->n - i);
        head(k, k->x + (size_t)i * (size_t)D * (size_t)k->b->streams, n, k->xn + (size_t)i * (size_t)D);
        for (int j = 0; j < n; j++) {
            const int q = k->first + i + j;
            const float *z = k->logits + (size_t)j * (size_t)V;
            const double all = likeliest(z, V, t->top + q * TOP, least(TOP, V));
            for (int m = 0; m < least(TOP, V); m++)
                t->p[q * TOP + m] = (float)exp((double)z[t->top[q * TOP + m]] - all);
            if (q + 1 < t->T) t->surprise[q] = (float)((all - (double)z[t->ids[q + 1]]) / log(2));
            else t->ids[t->T] = t->top[q * TOP];
        }
    }
}

/* What the layers of multi-token prediction guess; behind the text they go on with what was guessed before. */
static void look_ahead(look *k) {
    text *t = k->t;
    const int M = k->b->f->num_nextn_predict_layers, V = k->b->f->vocab_size;
    mla_context *c = k->b->context[NAIVE];
    float *logits = room(M ? k->n : 0, V, 1, sizeof *logits);
    for (int d = 0; d < M; d++) {
        float *hidden[2] = {NULL, k->y};
        const mla_sequence s = {.cache = t->cache[NAIVE], .n_tokens = k->n, .n_logits = k->n};
        const mla_outputs out = {.logits = logits, .hidden = hidden};
        must(mla_mtp_forward(c, d, &s, 1, t->ids + k->first + 1 + d, k->xn, &out), mla_context_error(c));
        for (int i = 0; i < k->n; i++) {
            const int q = d * t->T + k->first + i;
            const float *z = logits + (size_t)i * (size_t)V;
            const double all = likeliest(z, V, t->guess + q, 1);
            t->guess_p[q] = (float)exp((double)z[t->guess[q]] - all);
        }
        if (k->first + k->n == t->T) t->ids[t->T + 1 + d] = t->guess[d * t->T + t->T - 1];
        float *other = k->xn;
        k->xn = k->y, k->y = other;
    }
    free(logits);
}

/* The head on `rows` of the states after each layer: what the model would say if it ended there. */
static void look_through_lens(look *k, size_t rows) {
    text *t = k->t;
    const size_t S = (size_t)t->S, W = (size_t)k->b->streams * (size_t)k->b->f->hidden_size,
                 V = (size_t)k->b->f->vocab_size;
    for (size_t row = 0; row < rows;) {
        const int n = least(ROWS, (int)(S - row % S));
        head(k, t->state + row * W, n, NULL);
        for (int j = 0; j < n; j++, row++) {
            const float *z = k->logits + (size_t)j * V;
            const double all = likeliest(z, (int)V, t->lens + row, 1);
            t->lens_p[row] = (float)exp((double)z[t->lens[row]] - all);
            t->lens_next[row] = (float)exp((double)z[t->ids[t->at[row % S] + 1]] - all);
        }
    }
}

static void find_sinks(const lab *b, text *t) {
    const int seen = least(8, t->T / 2); /* tokens that must have seen a key */
    for (int i = 0; i < b->L * b->H; i++)
        for (int u = 0; u + seen <= t->T; u++) {
            const float mean = t->mass[(size_t)i * (size_t)t->T + (size_t)u] / (float)(t->T - u);
            if (mean > t->sink_mass[i]) t->sink_mass[i] = mean, t->sink[i] = u;
        }
}

/* Tokens at a time, so that two maps of a layer take no more than some 64 MB. */
static int chunk_of(const lab *b, int T) {
    const double tokens = 64e6 / (8.0 * b->H * T), by_logits = 64e6 / (4.0 * b->f->vocab_size);
    const double n = b->f->num_nextn_predict_layers && by_logits < tokens ? by_logits : tokens;
    return least(T, most(1, (int)fmin(n, 256)));
}

static void say_sizes(const lab *b, const text *t) {
    const double L = b->L, H = b->H, T = t->T, S = t->S, E = b->choices, D = (double)b->streams * b->f->hidden_size;
    const double bytes =
        4 * (t->n_kept * H * S * S + L * H * T + L * E * E + (L + 1) * S * D + L * T * (2 * b->K + 4)) +
        8.0 * chunk_of(b, t->T) * H * T + 4.0 * ROWS * b->f->vocab_size +
        8.0 * L * T * (b->f->kv_lora_rank + b->f->qk_rope_head_dim);
    say("%d tokens, %d layers, %d heads: maps of %d tokens in %d layers are kept; some %.0f MB beside the weights\n",
        t->T, b->L, b->H, t->S, t->n_kept, bytes * 1e-6);
}

/* Room for chunks of n tokens, and caches of both paths. */
static look open_look(lab *b, text *t, int n) {
    const int D = b->f->hidden_size;
    const mla_cache_desc desc = {.capacity = t->T, .alloc = checkpoint_huge_pages};
    mla_error error;
    look k = {.b = b, .t = t, .n = n};
    float **all[] = {&k.x, &k.xn, &k.y, &k.late, &k.in, &k.post};
    for (int i = 0; i < 6; i++) *all[i] = room(n, D, i % 5 ? 1 : b->streams, sizeof(float));
    for (int i = 0; i < 2; i++) {
        k.probs[i] = room(n, b->H, t->T, sizeof(float));
        must(mla_cache_create(&t->cache[i], b->model, &desc, &error), &error);
    }
    k.logits = room(ROWS, b->f->vocab_size, 1, sizeof(float)), k.router = room(b->choices, D, 1, sizeof(double));
    k.in_groups = room(n, b->f->n_group, 1, 1), k.without = room(n, b->K, 1, sizeof(int));
    return k;
}
static void close_look(look *k) {
    void *all[] = {k->x,        k->xn,       k->y,      k->late,   k->in,        k->post,
                   k->probs[0], k->probs[1], k->logits, k->router, k->in_groups, k->without};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* The next chunk through the model -> seconds. */
static double look_at_chunk(look *k) {
    lab *b = k->b;
    float *hidden[1] = {k->x};
    const double start = now();
    const mla_sequence s = {.cache = k->t->cache[NAIVE], .n_tokens = k->n};
    const mla_outputs out = {.hidden = hidden};
    must(mla_layers_forward(b->context[NAIVE], 0, 0, &s, 1, k->t->ids + k->first, &out),
         mla_context_error(b->context[NAIVE]));
    spread(k);
    for (k->layer = 0; k->layer < b->L; k->layer++) keep_state(k, k->layer), step_attention(k), step_ffn(k);
    keep_state(k, b->L), look_at_logits(k), look_ahead(k);
    return now() - start;
}

/* Rows of zeros in place of a text's first n tokens; 0: its layers have states, or its embeddings ask for the text. */
static int fill(const lab *b, mla_cache *cache, int n) {
    const mla_config *f = b->f;
    mla_error error;
    mla_result r = MLA_OK;
    float *row = room(b->L + f->num_nextn_predict_layers, f->kv_lora_rank + f->qk_rope_head_dim + f->index_head_dim, 1,
                      sizeof *row);
    for (int i = 0; i < n && !r; i++) r = mla_cache_append(cache, 1, row, &error);
    free(row);
    return r == MLA_OK;
}

/* How long all of a text will take. A few tokens are run at its beginning (twice: weights come from the disk first) and
   at its end, behind what has the length of the text but not what it says: tokens take a + b * position seconds. */
static void foresee(lab *b, const text *of) {
    text t = *of;
    const int n = least(chunk_of(b, t.T), most(8, t.T / 32)), first[3] = {0, 0, t.T - n};
    const size_t S = (size_t)t.S, rows = S < ROWS ? S : ROWS;
    double took[3];
    int filled = 1;
    if (t.T < 8 * n) return;
    make_room(b, &t);
    look k = open_look(b, &t, n);
    for (int i = 0; i < 3; i++) {
        for (int path = 0; path < 2; path++) {
            mla_cache_reset(t.cache[path]);
            filled = filled && fill(b, t.cache[path], first[i]);
        }
        if (filled) k.first = first[i], took[i] = look_at_chunk(&k);
        else took[i] = took[i - 1];
    }
    const double start = now();
    look_through_lens(&k, rows);
    const double lens = (now() - start) * (b->L + 1) * (double)S / (double)rows;
    const double seconds = (took[1] + took[2]) / 2 * t.T / n + lens;
    say("some %.*f s%s\n", seconds < 10, seconds,
        filled ? "" : ", or more: attention to what is far back is not in it");
    t.bytes = NULL, t.ids = t.at = t.shown = t.kept = t.slot = NULL;
    close_look(&k), close_text(&t);
}

/* The whole text through the model. */
static void look_at_text(lab *b, text *t) {
    const int n = chunk_of(b, t->T);
    const double begin = now();
    look k = open_look(b, t, n);
    for (; k.first < t->T; k.first += k.n) k.n = least(n, t->T - k.first), look_at_chunk(&k);
    look_through_lens(&k, (size_t)(b->L + 1) * (size_t)t->S), find_sinks(b, t);
    t->seconds = now() - begin;
    close_look(&k);
}

/* ---- the latents ------------------------------------------------------------------------------------------------- */

/* A symmetric [n, n], which is used up -> its eigenvalues, largest first: Householder's reflections make it
   tridiagonal, and counting signs (Sturm) says how many of the values lie below a number. */
static void eigenvalues(double *value, double *a, int n) {
    double *d = room(n, 1, 1, sizeof *d), *e = room(n, 1, 1, sizeof *e), *v = room(n, 1, 1, sizeof *v),
           *w = room(n, 1, 1, sizeof *w), bound = 0;
    for (int k = 0; k < n; k++) {
        double length = 0, vp = 0, *column = a + (size_t)k * (size_t)n;
        d[k] = column[k];
        for (int i = k + 1; i < n; i++) length += column[i] * column[i];
        if (k + 1 < n) e[k] = column[k + 1] > 0 ? -sqrt(length) : sqrt(length);
        if (k + 2 >= n || length <= column[k + 1] * column[k + 1]) {
            e[k] = k + 1 < n ? column[k + 1] : 0;
            continue;
        }
        const double beta = 1 / (length - column[k + 1] * e[k]);
        for (int i = k + 1; i < n; i++) v[i] = column[i] - (i == k + 1 ? e[k] : 0), w[i] = 0;
        for (int i = k + 1; i < n; i++)
            for (int j = k + 1; j < n; j++) w[i] += beta * a[(size_t)i * (size_t)n + (size_t)j] * v[j];
        for (int i = k + 1; i < n; i++) vp += beta / 2 * v[i] * w[i];
        for (int i = k + 1; i < n; i++) w[i] -= vp * v[i];
        for (int i = k + 1; i < n; i++)
            for (int j = k + 1; j < n; j++) a[(size_t)i * (size_t)n + (size_t)j] -= v[i] * w[j] + w[i] * v[j];
    }
    for (int k = 0; k < n; k++) bound = fmax(bound, fabs(d[k]) + fabs(e[k]) + (k ? fabs(e[k - 1]) : 0));
    for (int i = 0; i < n; i++) {
        double low = -bound, high = i ? value[i - 1] : bound;
        for (int step = 0; step < 64; step++) {
            const double x = (low + high) / 2;
            int above = 0;
            for (int k = 0; k < n; k++) {
                const double before = k ? e[k - 1] * e[k - 1] / v[k - 1] : 0;
                v[k] = d[k] - x - before;
                if (fabs(v[k]) < 1e-300) v[k] = 1e-300;
                above += v[k] > 0;
            }
            if (above > i) low = x;
            else high = x;
        }
        value[i] = (low + high) / 2;
    }
    free(d), free(e), free(v), free(w);
}

typedef struct latents {
    const lab *b;
    text *t;
} latents;

/* Norms of a layer's cached rows, and the singular values of the latents of n_rows tokens, evenly spread. */
static void look_at_latents(void *arg, int layer) {
    const latents *k = arg;
    text *t = k->t;
    const int R = k->b->f->kv_lora_rank, P = k->b->f->qk_rope_head_dim, n = t->n_singular, by_rows = t->n_rows <= R;
    if (!has_maps(k->b, layer)) return;
    float *row = room(R + P + k->b->f->index_head_dim, 1, 1, sizeof *row);
    double *x = room(t->n_rows, R, 1, sizeof *x), *gram = room(n, n, 1, sizeof *gram);
    double *value = t->singular + (size_t)layer * (size_t)n;
    for (int i = 0, kept = 0; i < t->T; i++) {
        double sum[2] = {0, 0};
        mla_error error;
        must(mla_cache_read(t->cache[NAIVE], layer, i, row, &error), &error);
        for (int j = 0; j < R + P; j++) sum[j >= R] += (double)row[j] * (double)row[j];
        t->latent[layer * t->T + i] = (float)sqrt(sum[0]), t->rope[layer * t->T + i] = (float)sqrt(sum[1]);
        if (kept < t->n_rows && i == (int)((long)kept * t->T / t->n_rows)) {
            for (int j = 0; j < R; j++) x[(size_t)kept * (size_t)R + (size_t)j] = (double)row[j];
            kept++;
        }
    }
    const size_t step = by_rows ? (size_t)R : 1, along = by_rows ? 1 : (size_t)R;
    for (size_t i = 0; i < (size_t)n; i++)
        for (size_t j = 0; j <= i; j++) {
            double sum = 0;
            for (size_t m = 0; m < (size_t)(by_rows ? R : t->n_rows); m++)
                sum += x[i * step + m * along] * x[j * step + m * along];
            gram[i * (size_t)n + j] = gram[j * (size_t)n + i] = sum;
        }
    eigenvalues(value, gram, n);
    for (int i = 0; i < n; i++) value[i] = sqrt(fmax(value[i], 0));
    free(row), free(x), free(gram);
}

/* How many singular values hold 99 % of the sum of squares. */
static int used_rank(const lab *b, const text *t, int layer) {
    const double *s = t->singular + (size_t)layer * (size_t)t->n_singular;
    double all = 0, sum = 0;
    int n = 0;
    if (!has_maps(b, layer)) return 0;
    for (int i = 0; i < t->n_singular; i++) all += s[i] * s[i];
    while (n < t->n_singular && sum < 0.99 * all) sum += s[n] * s[n], n++;
    return n;
}

/* The load of a layer's experts: standard deviation and largest, over the mean. */
static void imbalance(const lab *b, const text *t, int layer, double *variation, double *peak) {
    const int64_t *load = t->load + (size_t)layer * (size_t)b->choices;
    double mean = (double)t->T * b->K / b->choices, square = 0, max = 0;
    for (int e = 0; e < b->choices; e++) {
        square += ((double)load[e] - mean) * ((double)load[e] - mean) / b->choices;
        max = fmax(max, (double)load[e]);
    }
    *variation = sqrt(square) / mean, *peak = max / mean;
}

/* ---- files of numbers -------------------------------------------------------------------------------------------- */

static const char *token(const lab *b, int id, size_t *n) {
    const char *bytes = b->l ? tokenizer_bytes(b->l->tokenizer, id, n) : NULL;
    if (!bytes) *n = 0;
    return bytes ? bytes : "";
}

/* A token in quotes, line breaks as \n. */
static void csv_token(const lab *b, FILE *file, int id) {
    size_t n;
    const char *bytes = token(b, id, &n);
    fputc('"', file);
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] == '"') fputs("\"\"", file);
        else if (bytes[i] == '\n') fputs("\\n", file);
        else if (bytes[i] == '\r') fputs("\\r", file);
        else if (bytes[i] == '\\') fputs("\\\\", file);
        else fputc(bytes[i], file);
    }
    fputc('"', file);
}

static void write_tokens(const lab *b, const text *t, FILE *file) {
    fputs("position,id,token,surprise_bits", file);
    for (int m = 0; m < TOP; m++) fprintf(file, ",next%d,next%d_token,next%d_p", m, m, m);
    fputs("\n", file);
    for (int i = 0; i < t->T; i++) {
        fprintf(file, "%d,%d,", i, t->ids[i]), csv_token(b, file, t->ids[i]);
        if (i + 1 < t->T) fprintf(file, ",%.9g", (double)t->surprise[i]);
        else fputs(",", file);
        for (int m = 0; m < TOP; m++) {
            fprintf(file, ",%d,", t->top[i * TOP + m]), csv_token(b, file, t->top[i * TOP + m]);
            fprintf(file, ",%.9g", (double)t->p[i * TOP + m]);
        }
        fputs("\n", file);
    }
}

static void write_heads(const lab *b, const text *t, FILE *file) {
    fputs("layer,head,entropy_bits,distance_tokens,sink_position,sink_mean,naive_absorbed_apart\n", file);
    for (int i = 0; i < b->L * b->H; i++)
        if (has_maps(b, i / b->H))
            fprintf(file, "%d,%d,%.9g,%.9g,%d,%.9g,%.3g\n", i / b->H, i % b->H, t->entropy[i], t->distance[i],
                    t->sink[i], (double)t->sink_mass[i], (double)t->apart[i]);
}

static void write_layers(const lab *b, const text *t, FILE *file) {
    fputs("layer,experts,variation,max_over_mean,chosen_by_bias,latent_rank_99\n", file);
    for (int l = 0; l < b->L; l++) {
        double variation = 0, peak = 0, swapped = 0;
        if (is_moe(b, l)) imbalance(b, t, l, &variation, &peak);
        for (int i = 0; i < t->T; i++) swapped += t->swapped[l * t->T + i];
        fprintf(file, "%d,%d,%.6g,%.6g,%.6g,%d\n", l, is_moe(b, l) ? b->choices : 0, variation, peak,
                b->K ? swapped / t->T / b->K : 0, used_rank(b, t, l));
    }
}

static void write_experts(const lab *b, const text *t, FILE *file) {
    fputs("layer,expert,tokens,tokens_without_bias\n", file);
    for (int i = 0; i < b->L * b->choices; i++)
        if (is_moe(b, i / b->choices))
            fprintf(file, "%d,%d,%lld,%lld\n", i / b->choices, i % b->choices, (long long)t->load[i],
                    (long long)t->plain[i]);
}

static void write_groups(const lab *b, const text *t, FILE *file) {
    const int G = b->f->n_group;
    fputs("layer,group,tokens\n", file);
    for (int i = 0; i < b->L * G; i++)
        if (is_moe(b, i / G)) fprintf(file, "%d,%d,%lld\n", i / G, i % G, (long long)t->admitted[i]);
}

static void write_routing(const lab *b, const text *t, FILE *file) {
    fputs("layer,position,rank,expert,weight\n", file);
    for (int l = 0; l < b->L; l++)
        for (int i = l * t->T * b->K; is_moe(b, l) && i < (l + 1) * t->T * b->K; i++)
            fprintf(file, "%d,%d,%d,%d,%.9g\n", l, i / b->K % t->T, i % b->K, t->expert[i], (double)t->weight[i]);
}

static void write_pairs(const lab *b, const text *t, FILE *file) {
    const int E = b->choices;
    fputs("layer,expert,other,tokens\n", file);
    for (int l = 0; l < b->L; l++)
        for (int i = 0; i < E * E; i++)
            if (i % E > i / E && t->together[l * E * E + i])
                fprintf(file, "%d,%d,%d,%d\n", l, i / E, i % E, t->together[l * E * E + i]);
}

static void write_latents(const lab *b, const text *t, FILE *file) {
    fputs("layer,position,latent_norm,rope_key_norm\n", file);
    for (int i = 0; i < b->L * t->T; i++)
        if (has_maps(b, i / t->T))
            fprintf(file, "%d,%d,%.9g,%.9g\n", i / t->T, i % t->T, (double)t->latent[i], (double)t->rope[i]);
}

static void write_singular(const lab *b, const text *t, FILE *file) {
    fputs("layer,i,singular_value\n", file);
    for (int i = 0; i < b->L * t->n_singular; i++)
        if (has_maps(b, i / t->n_singular))
            fprintf(file, "%d,%d,%.9g\n", i / t->n_singular, i % t->n_singular, t->singular[i]);
}

static void write_lens(const lab *b, const text *t, FILE *file) {
    fputs("blocks,position,likeliest,likeliest_token,likeliest_p,next_p\n", file);
    for (int i = 0; i < (b->L + 1) * t->S; i++) {
        fprintf(file, "%d,%d,%d,", i / t->S, t->at[i % t->S], t->lens[i]), csv_token(b, file, t->lens[i]);
        fprintf(file, ",%.9g,%.9g\n", (double)t->lens_p[i], (double)t->lens_next[i]);
    }
}

/* Does guess i [M, T] stand, being what the model says itself one pass later? -1: the text ends before. */
static int stands(const text *t, int i) {
    const int at = i % t->T + 1 + i / t->T;
    return at < t->T ? t->guess[i] == t->top[at * TOP] : -1;
}

static void write_guesses(const lab *b, const text *t, FILE *file) {
    fputs("depth,position,of_position,guess,guess_token,guess_p,stands,came\n", file);
    for (int i = 0; i < b->f->num_nextn_predict_layers * t->T; i++) {
        const int of = i % t->T + 2 + i / t->T;
        fprintf(file, "%d,%d,%d,%d,", i / t->T, i % t->T, of, t->guess[i]), csv_token(b, file, t->guess[i]);
        fprintf(file, ",%.9g,%d,%d\n", (double)t->guess_p[i], stands(t, i), of < t->T ? t->ids[of] == t->guess[i] : -1);
    }
}

static void write_positions(const lab *b, const text *t, FILE *file) {
    (void)b;
    fputs("row,position\n", file);
    for (int s = 0; s < t->S; s++) fprintf(file, "%d,%d\n", s, t->at[s]);
}

static void write_maps(const lab *b, const text *t, FILE *file) {
    fwrite(t->maps, sizeof(float), (size_t)t->n_kept * (size_t)b->H * (size_t)t->S * (size_t)t->S, file);
}

static void write_chosen(const lab *b, const text *t, FILE *file) {
    fwrite(t->chosen, 1, (size_t)b->L * (size_t)t->S * (size_t)t->S, file);
}

static void write_readme(const lab *b, const text *t, FILE *file) {
    fprintf(
        file,
        "What %s does with a text of %d tokens, as build/inspect of mla.h %s saw it. CSV files have a header; "
        "positions,\n"
        "layers, heads and experts count from 0; texts of tokens have \\n for a line break and \\\\ for a "
        "backslash.\n\n"
        "tokens.csv         the tokens, the %d likeliest after each, and the surprise of what came, -log2 p\n"
        "heads.csv          each head: mean entropy and distance over all tokens but the first; the key that gets most "
        "on\n"
        "                   average, and how much; the largest difference between the naive and the absorbed path\n"
        "layers.csv         load of experts: standard deviation and largest over the mean; share of choices that the\n"
        "                   router's bias made; singular values that hold 99 %% of the squares of the cached latents\n"
        "experts.csv        tokens of each expert, and without the router's bias, the rest of the model being as it "
        "is\n"
        "groups.csv         tokens that might choose from a group; 0 where the router knows no groups\n"
        "routing.csv        each token's experts, best first, and their weights\n"
        "coactivation.csv   pairs of experts, and how many tokens took both\n"
        "latents.csv        norms of what is cached of a token: latent and rotated key\n"
        "singular.csv       singular values of the cached latents of %d tokens, not centred\n"
        "lens.csv           the head on the state after so many blocks (0: the embedding)\n"
        "guesses.csv        of layers for multi-token prediction; stands: the model says the same one pass later; "
        "came:\n"
        "                   the text has it; -1: the text ends before\n"
        "positions.csv      the positions of the %d rows and columns of maps\n"
        "maps.f32           attention probabilities, float32, little-endian, [layers, heads, rows, columns] =\n"
        "                   [%d, %d, %d, %d]: numpy.fromfile(\"maps.f32\", \"<f4\").reshape(...); layers:",
        b->o.model, t->T, MLA_VERSION, TOP, t->n_rows, t->S, t->n_kept, b->H, t->S, t->S);
    for (int i = 0; i < t->n_kept; i++) fprintf(file, " %d", t->kept[i]);
    fputs("\n", file);
    if (t->chosen)
        fprintf(file, "chosen.u8          bytes [%d, %d, %d]: 1 where a token's heads may attend to a key\n", b->L,
                t->S, t->S);
}

static void write_directory(const lab *b, const text *t, const char *dir) {
    static const struct {
        const char *name;
        void (*write)(const lab *b, const text *t, FILE *file);
    } files[] = {
        {"README.txt", write_readme},      {"tokens.csv", write_tokens},       {"heads.csv", write_heads},
        {"layers.csv", write_layers},      {"latents.csv", write_latents},     {"singular.csv", write_singular},
        {"lens.csv", write_lens},          {"positions.csv", write_positions}, {"maps.f32", write_maps},
        {"experts.csv", write_experts},    {"groups.csv", write_groups},       {"routing.csv", write_routing},
        {"coactivation.csv", write_pairs}, {"guesses.csv", write_guesses},     {"chosen.u8", write_chosen}};
    int moe = 0;
    char path[4096];
    for (int l = 0; l < b->L; l++) moe |= is_moe(b, l);
    make_directory(dir);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (!moe && files[i].write != write_maps && i >= 9 && i < 13) continue;
        if (files[i].write == write_guesses && !b->f->num_nextn_predict_layers) continue;
        if (files[i].write == write_chosen && !t->chosen) continue;
        FILE *file = open_file(path, sizeof path, dir, files[i].name);
        files[i].write(b, t, file);
        close_file(file, path);
    }
}

/* ---- the page ---------------------------------------------------------------------------------------------------- */

/* "name":[...] of n numbers, and a comma; digits: of floats and doubles. */
static void put_list(text_buffer *o, const char *name, const double *x, size_t n, int digits) {
    text_print(o, "\"%s\":[", name);
    for (size_t i = 0; i < n; i++) text_print(o, "%s%.*g", i ? "," : "", digits, x[i]);
    text_put(o, "],");
}
/* The same of an expression in i, of whatever type. */
#define PUT(o, name, n, digits, expression)                                                                            \
    do {                                                                                                               \
        const size_t n_ = (size_t)(n);                                                                                 \
        double *list_ = room((double)n_, 1, 1, sizeof *list_);                                                         \
        for (size_t i = 0; i < n_; i++) list_[i] = (double)(expression);                                               \
        put_list(o, name, list_, n_, digits);                                                                          \
        free(list_);                                                                                                   \
    } while (0)

static void put_bytes(text_buffer *o, const char *name, const void *bytes, size_t n) {
    text_print(o, "\"%s\":\"", name), text_base64(o, bytes, n), text_put(o, "\",");
}

/* The lower halves of the maps that are kept, rows one after the other, f32 or f16. */
static void put_maps(const lab *b, const text *t, text_buffer *o) {
    const size_t S = (size_t)t->S, maps = (size_t)t->n_kept * (size_t)b->H, n = maps * S * (S + 1) / 2;
    float *f32 = room((double)n, 1, 1, sizeof *f32);
    uint16_t *f16 = (uint16_t *)f32;
    size_t at = 0;
    for (size_t m = 0; m < maps; m++)
        for (size_t r = 0; r < S; r++)
            for (size_t s = 0; s <= r; s++, at++) {
                const float p = t->maps[(m * S + r) * S + s];
                if (t->wide) f32[at] = p;
                else f16[at] = mla_f32_to_f16(p);
            }
    put_bytes(o, "maps", f32, n * (t->wide ? 4 : 2));
    free(f32);
}

/* The paths of the tokens shown: u16 and f32 [moe layers, S, K], bytes [moe layers, S]. */
static void put_paths(const lab *b, const text *t, text_buffer *o) {
    const size_t S = (size_t)t->S, K = (size_t)b->K, T = (size_t)t->T, L = (size_t)b->L;
    uint16_t *expert = room((double)(L * S), (double)K, 1, sizeof *expert);
    float *weight = room((double)(L * S), (double)K, 1, sizeof *weight);
    unsigned char *swapped = room((double)L, (double)S, 1, 1);
    size_t at = 0, rows = 0;
    for (size_t l = 0; l < L; l++)
        for (size_t s = 0; is_moe(b, (int)l) && s < S; s++) {
            const size_t row = l * T + (size_t)t->at[s];
            for (size_t j = 0; j < K; j++, at++)
                expert[at] = (uint16_t)t->expert[row * K + j], weight[at] = t->weight[row * K + j];
            swapped[rows++] = t->swapped[row];
        }
    put_bytes(o, "expert", expert, at * 2), put_bytes(o, "weight", weight, at * 4),
        put_bytes(o, "swapped", swapped, rows);
    free(expert), free(weight), free(swapped);
}

/* Which of the at most 64 busiest experts of each layer were taken together. */
static void put_pairs(const lab *b, const text *t, text_buffer *o) {
    const int E = b->choices, n = least(E, 64);
    int *list = room(E, 1, 1, sizeof *list), *pairs = room(n, n, 1, sizeof *pairs);
    text_put(o, "\"together\":[");
    for (int l = 0, any = 0; l < b->L; l++) {
        const int64_t *load = t->load + (size_t)l * (size_t)E;
        if (!is_moe(b, l)) continue;
        for (int e = 0; e < E; e++) {
            int rank = 0;
            for (int i = 0; i < E; i++) rank += load[i] > load[e] || (load[i] == load[e] && i < e);
            list[e] = rank < n;
        }
        for (int e = 0, at = 0; e < E; e++)
            if (list[e]) list[at++] = e;
        for (int i = 0; i < n * n; i++)
            pairs[i] = t->together[((size_t)l * (size_t)E + (size_t)list[i / n]) * (size_t)E + (size_t)list[i % n]];
        text_put(o, any++ ? ",{" : "{");
        PUT(o, "of", n, 9, list[i]);
        put_bytes(o, "n", pairs, (size_t)(n * n) * sizeof *pairs);
        o->n--, text_put(o, "}");
    }
    text_put(o, "],");
    free(list), free(pairs);
}

static void put_routing(const lab *b, const text *t, text_buffer *o) {
    const int E = b->choices, G = b->f->n_group;
    double swapped = 0;
    text_put(o, "\"variation\":[");
    for (int l = 0; l < b->L; l++) {
        double variation = 0, peak = 0;
        if (is_moe(b, l)) imbalance(b, t, l, &variation, &peak);
        text_print(o, "%s%.6g", l ? "," : "", variation);
    }
    text_put(o, "],\"peak\":[");
    for (int l = 0; l < b->L; l++) {
        double variation = 0, peak = 0;
        if (is_moe(b, l)) imbalance(b, t, l, &variation, &peak);
        text_print(o, "%s%.6g", l ? "," : "", peak);
    }
    text_put(o, "],\"by_bias\":[");
    for (int l = 0; l < b->L; l++, swapped = 0) {
        for (int i = 0; i < t->T; i++) swapped += t->swapped[l * t->T + i];
        text_print(o, "%s%.6g", l ? "," : "", swapped / t->T / b->K);
    }
    text_put(o, "],");
    PUT(o, "load", b->L * E, 17, t->load[i]);
    PUT(o, "plain", b->L * E, 17, t->plain[i]);
    PUT(o, "admitted", b->L * G, 17, t->admitted[i]);
    put_paths(b, t, o), put_pairs(b, t, o);
}

static void put_logits(const lab *b, const text *t, text_buffer *o) {
    const int S = t->S, M = b->f->num_nextn_predict_layers;
    double bits = 0;
    for (int i = 0; i + 1 < t->T; i++) bits += (double)t->surprise[i] / (t->T - 1);
    text_print(o, "\"bits\":%.9g,", bits);
    PUT(o, "top", S * TOP, 9, t->top[t->at[i / TOP] * TOP + (int)(i % TOP)]);
    PUT(o, "p", S * TOP, 9, t->p[t->at[i / TOP] * TOP + (int)(i % TOP)]);
    PUT(o, "surprise", S, 9, t->surprise[t->at[i]]);
    PUT(o, "lens", (b->L + 1) * S, 9, t->lens[i]);
    PUT(o, "lens_p", (b->L + 1) * S, 6, t->lens_p[i]);
    PUT(o, "lens_next", (b->L + 1) * S, 6, t->lens_next[i]);
    PUT(o, "guess", M * S, 9, t->guess[(int)i / S * t->T + t->at[(int)i % S]]);
    PUT(o, "guess_p", M * S, 6, t->guess_p[(int)i / S * t->T + t->at[(int)i % S]]);
    PUT(o, "stands", M * S, 9, stands(t, (int)i / S * t->T + t->at[(int)i % S]));
    text_put(o, "\"stood\":[");
    for (int d = 0; d < M; d++) {
        int stood = 0, of = 0;
        for (int i = 0; i < t->T; i++) stood += stands(t, d * t->T + i) == 1, of += stands(t, d * t->T + i) >= 0;
        text_print(o, "%s%d,%d", d ? "," : "", stood, of);
    }
    text_put(o, "],");
}

static void put_text(const lab *b, const text *t, text_buffer *o) {
    const int S = t->S, LH = b->L * b->H;
    text_print(o, "{\"T\":%d,\"wide\":%d,\"seconds\":%.3g,\"n_rows\":%d,\"text\":", t->T, t->wide, t->seconds,
               t->n_rows);
    text_quote(o, t->bytes, t->n), text_put(o, ",");
    PUT(o, "at", S, 9, t->at[i]);
    PUT(o, "ids", S, 9, t->ids[t->at[i]]);
    PUT(o, "after", S, 9, t->at[i] + 1 < t->T ? t->ids[t->at[i] + 1] : -1);
    PUT(o, "kept", t->n_kept, 9, t->kept[i]);
    PUT(o, "entropy", LH, 6, t->entropy[i]);
    PUT(o, "distance", LH, 6, t->distance[i]);
    PUT(o, "apart", LH, 3, t->apart[i]);
    PUT(o, "sink", LH, 9, t->sink[i]);
    PUT(o, "sink_mass", LH, 6, t->sink_mass[i]);
    PUT(o, "latent", b->L * S, 6, t->latent[(int)i / S * t->T + t->at[(int)i % S]]);
    PUT(o, "rope", b->L * S, 6, t->rope[(int)i / S * t->T + t->at[(int)i % S]]);
    PUT(o, "singular", b->L * t->n_singular, 6, t->singular[i]);
    PUT(o, "rank", b->L, 9, used_rank(b, t, (int)i));
    put_maps(b, t, o);
    if (b->choices) put_routing(b, t, o);
    put_logits(b, t, o);
    if (t->chosen) put_bytes(o, "chosen", t->chosen, (size_t)b->L * (size_t)S * (size_t)S);
    o->n--, text_put(o, "}");
}

static void put_model(const lab *b, text_buffer *o) {
    const mla_config *f = b->f;
    const char *name = b->o.model, *slash;
    char base[256];
    snprintf(base, sizeof base, "%s", name);
    while (*base && base[strlen(base) - 1] == '/') base[strlen(base) - 1] = 0;
    slash = strrchr(base, '/');
    text_put(o, "\"model\":{\"name\":"), text_quote_string(o, slash ? slash + 1 : base);
    text_put(o, ",\"type\":"), text_quote_string(o, b->c->model_type);
    text_print(o,
               ",\"version\":\"%s\",\"layers\":%d,\"heads\":%d,\"D\":%d,\"R\":%d,\"P\":%d,\"N\":%d,\"V\":%d,\"Q\":%d,",
               MLA_VERSION, b->L, b->H, f->hidden_size, f->kv_lora_rank, f->qk_rope_head_dim, f->qk_nope_head_dim,
               f->v_head_dim, f->q_lora_rank);
    text_print(o, "\"vocab\":%d,\"experts\":%d,\"zero\":%d,\"K\":%d,\"shared\":%d,\"groups\":%d,\"topk_group\":%d,",
               f->vocab_size, f->n_routed_experts, f->zero_expert_num, b->K, f->n_shared_experts, f->n_group,
               f->topk_group);
    text_print(o, "\"greedy\":%d,\"index_topk\":%d,\"index_dim\":%d,\"ahead\":%d,\"sink\":%g,",
               f->topk_method == MLA_TOPK_GREEDY, f->index_topk, f->index_head_dim, f->num_nextn_predict_layers, SINK);
    PUT(o, "moe", b->L, 9, is_moe(b, (int)i));
    PUT(o, "bias", b->L, 9, is_moe(b, (int)i) && b->c->weights.layers[i].moe.router_bias.data);
    PUT(o, "indexer", b->L, 9, f->index_topk && b->c->weights.layers[i].attn.indexer.wk.weight.data);
    PUT(o, "maps", b->L, 9, has_maps(b, (int)i));
    o->n--, text_put(o, "},");
}

/* Texts of all tokens that are spoken of, each once. */
static void put_strings(const lab *b, const text *texts, int n_texts, text_buffer *o) {
    char *said = room(b->f->vocab_size, 1, 1, 1);
    int any = 0;
    for (int i = 0; i < n_texts; i++) {
        const text *t = texts + i;
        for (int s = 0; s < t->S; s++) {
            const int q = t->at[s];
            said[t->ids[q]] = 1;
            if (q + 1 < t->T) said[t->ids[q + 1]] = 1;
            for (int m = 0; m < TOP; m++) said[t->top[q * TOP + m]] = 1;
            for (int l = 0; l <= b->L; l++) said[t->lens[l * t->S + s]] = 1;
            for (int d = 0; d < b->f->num_nextn_predict_layers; d++) said[t->guess[d * t->T + q]] = 1;
        }
    }
    text_put(o, "\"strings\":{");
    for (int id = 0; id < b->f->vocab_size; id++) {
        size_t n;
        const char *bytes = said[id] && b->l ? token(b, id, &n) : NULL;
        if (bytes) text_print(o, "%s\"%d\":", any++ ? "," : "", id), text_quote(o, bytes, n);
    }
    text_put(o, "},");
    free(said);
}

/* The page with the data where it says DATA. No < of theirs may end the script that they stand in. */
static void write_page(const lab *b, const text *texts, int n_texts, const char *name) {
    text_buffer o = {NULL, 0, 0, 0};
    char path[4096];
    text_put(&o, "{"), put_model(b, &o), put_strings(b, texts, n_texts, &o), text_put(&o, "\"texts\":[");
    for (int i = 0; i < n_texts; i++) text_put(&o, i ? "," : ""), put_text(b, texts + i, &o);
    text_put(&o, "]}\n");
    if (o.failed) fail(1, "out of memory for the page");
    FILE *file = open_file(path, sizeof path, name, "");
    for (int i = 0; page[i]; i++) {
        if (strcmp(page[i], "DATA\n") != 0) fputs(page[i], file);
        for (size_t j = 0; !strcmp(page[i], "DATA\n") && j < o.n; j++)
            if (o.data[j] == '<') fputs("\\u003c", file);
            else fputc(o.data[j], file);
    }
    say("%s: %.2f MB\n", path, (double)ftell(file) * 1e-6);
    close_file(file, path);
    text_clear(&o);
}

/* ---- the picture ------------------------------------------------------------------------------------------------- */

/* A map is lines of the width of a cell, one path for each of LEVELS depths, so that files stay small. */
enum { LEVELS = 5 };
static int level_of(double share) { return (int)(sqrt(fmin(share, 1)) * LEVELS + 0.2); }

static void put_levels(text_buffer *o, double x, double y, double cell, int rows, int columns, int gaps,
                       double (*share)(const void *of, int row, int column), const void *of) {
    text_print(o, "<g transform=\"translate(%.4g %.4g) scale(%.4g)\">", x, y + cell / 2, cell);
    for (int level = 1; level <= LEVELS; level++) {
        text_buffer d = {NULL, 0, 0, 0};
        for (int r = 0; r < rows; r++)
            for (int c = 0, n; c < columns; c += n) {
                for (n = 0; c + n < columns && level_of(share(of, r, c + n)) == level && (!n || !gaps);) n++;
                if (n) text_print(&d, gaps ? "M%d.05 %dh.9" : "M%d %dh%d", c, r, n);
                else n = 1;
            }
        if (d.n) text_print(o, "<path class=\"m l%d\" d=\"", level), text_add(o, d.data, d.n), text_put(o, "\"/>");
        if (d.failed) text_clear(o), o->failed = 1;
        text_clear(&d);
    }
    text_put(o, "</g>\n");
}

typedef struct drawn {
    const lab *b;
    const text *t;
    int layer, head; /* of a map */
} drawn;
static double map_share(const void *of, int row, int column) {
    const drawn *d = of;
    const size_t S = (size_t)d->t->S, at = (size_t)(d->t->slot[d->layer] * d->b->H + d->head);
    return column <= row ? (double)d->t->maps[(at * S + (size_t)row) * S + (size_t)column] : 0;
}
static int moe_layer(const lab *b, int row) { /* the row-th layer with experts; -1: there are no more */
    for (int l = 0; l < b->L; l++)
        if (is_moe(b, l) && row-- == 0) return l;
    return -1;
}
static double load_share(const void *of, int row, int column) { /* the even share is half of the scale */
    const drawn *d = of;
    const double even = (double)d->t->T * d->b->K / d->b->choices;
    const double share = (double)d->t->load[moe_layer(d->b, row) * d->b->choices + column] / even / 2;
    return share * share;
}

static void put_label(text_buffer *o, double x, double y, const char *more, const char *bytes, size_t n) {
    text_print(o, "<text x=\"%.4g\" y=\"%.4g\"%s>", x, y, more);
    for (size_t i = 0; i < n; i++) {
        if (bytes[i] == '<') text_put(o, "&lt;");
        else if (bytes[i] == '&') text_put(o, "&amp;");
        else if ((unsigned char)bytes[i] < 32) text_put(o, " ");
        else text_add(o, bytes + i, 1);
    }
    text_put(o, "</text>\n");
}
#if defined(__GNUC__)
__attribute__((format(printf, 5, 6)))
#endif
static void
put_line(text_buffer *o, double x, double y, const char *more, const char *format, ...) {
    char line[256];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    put_label(o, x, y, more, line, strlen(line));
}

/* A head that looks at little and far, and not at a sink. */
static int telling_head(const lab *b, const text *t) {
    int best = -1;
    double least_yet = 0;
    for (int i = 0; i < b->L * b->H; i++) {
        const double spread = t->entropy[i] / log2(1 + t->distance[i]);
        if (t->slot[i / b->H] < 0 || (double)t->sink_mass[i] > SINK / 2 || t->distance[i] < 2) continue;
        if (best < 0 || spread < least_yet) best = i, least_yet = spread;
    }
    return best >= 0 ? best : t->kept[0] * b->H;
}

static void draw_heads(const drawn *d, text_buffer *o, double x, double y, double size, int rows, int columns) {
    const double step = size + 6;
    put_line(o, x, y - 14, " class=\"t\"", "Attention: %d layers, %d heads each", d->b->L, d->b->H);
    for (int i = 0; i < rows * columns; i++) {
        drawn one = *d;
        const double at_x = x + i % columns * step, at_y = y + i / columns * step;
        one.layer = d->t->kept[i / columns * (d->t->n_kept - 1) / most(1, rows - 1)], one.head = i % columns;
        text_print(o, "<rect class=\"f\" x=\"%.4g\" y=\"%.4g\" width=\"%.4g\" height=\"%.4g\"/>\n", at_x, at_y, size,
                   size);
        if (one.head == 0) put_line(o, x - 18, at_y + size / 2 + 3, " class=\"q\"", "%d", one.layer);
        put_levels(o, at_x, at_y, size / d->t->S, d->t->S, d->t->S, 0, map_share, &one);
    }
}

static void draw_head(const drawn *d, text_buffer *o, double x, double y, double size) {
    const text *t = d->t;
    put_line(o, x, y - 14, " class=\"t\"", "Layer %d, head %d: where each token looks", d->layer, d->head);
    text_print(o, "<rect class=\"f\" x=\"%.4g\" y=\"%.4g\" width=\"%.4g\" height=\"%.4g\"/>\n", x, y, size, size);
    put_levels(o, x, y, size / t->S, t->S, t->S, 0, map_share, d);
    for (int s = 0; s < t->S && size / t->S > 8; s++) {
        size_t n;
        const char *bytes = token(d->b, t->ids[t->at[s]], &n);
        put_label(o, x - 6, y + (s + 0.5) * size / t->S + 3.5, " text-anchor=\"end\"", bytes, n < 13 ? n : 0);
    }
}

/* The load of experts, and the path of the last token but one through its best ones. */
static void draw_routing(const drawn *d, text_buffer *o, double x, double y, double width, double height) {
    const lab *b = d->b;
    const int at = d->t->T - 2;
    int rows = 0;
    size_t n;
    while (moe_layer(b, rows) >= 0) rows++;
    if (!rows) return;
    const double cell = fmin(width / b->choices, height / rows);
    const char *bytes = token(b, d->t->ids[at], &n);
    if (n > 1 && *bytes == ' ') bytes++, n--;
    put_line(o, x, y - 12, " class=\"t\"", "Routing: %d of %d experts for each token", b->K, b->choices);
    put_levels(o, x, y, cell, rows, b->choices, 1, load_share, d);
    text_put(o, "<path class=\"p\" d=\"");
    for (int row = 0; row < rows; row++) {
        const int e = d->t->expert[(moe_layer(b, row) * d->t->T + at) * b->K];
        text_print(o, "%s%.4g %.4g", row ? "L" : "M", x + (e + 0.5) * cell, y + (row + 0.5) * cell);
    }
    text_put(o, "\"/>\n");
    put_line(o, x, y + rows * cell + 16, " class=\"q\"", "Stronger: more tokens. The line: first choices for “%.*s”.",
             (int)(n < 40 ? n : 0), bytes);
    for (int row = 0; row < rows; row++)
        put_line(o, x - 6, y + (row + 0.5) * cell + 3.5, " class=\"q\" text-anchor=\"end\"", "%d", moe_layer(b, row));
}

static void write_picture(const lab *b, const text *t, const char *name) {
    const int rows = least(t->n_kept, 8), columns = least(b->H, 8), head = telling_head(b, t);
    const double thumb = 60, x0 = 26, y0 = 40, x1 = x0 + columns * (thumb + 6) + 90, big = 300;
    const double width = x1 + big + 14, height = fmax(y0 + rows * (thumb + 6), y0 + big + (b->choices ? 186 : 0));
    const drawn d = {b, t, head / b->H, head % b->H};
    text_buffer o = {NULL, 0, 0, 0};
    char path[4096];
    text_print(&o, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" font-family=\"sans-serif\">\n",
               width, height);
    text_put(&o,
             "<style>text { fill: #24221f; font-size: 9.5px } .t { font-size: 13px; font-weight: bold }\n"
             ".q { fill: #6d6861 } .b { fill: #fbfaf8 } .f { fill: none; stroke: #e2ded7 } .m { stroke: #1f5f8b }\n"
             ".l1 { opacity: .15 } .l2 { opacity: .35 } .l3 { opacity: .55 } .l4 { opacity: .78 }\n"
             ".p { fill: none; stroke: #c2571a; stroke-width: 2.5; stroke-linejoin: round }\n"
             "@media (prefers-color-scheme: dark) { text { fill: #e6e2db } .q { fill: #a09a91 } .b { fill: #191817 }\n"
             ".f { stroke: #383531 } .m { stroke: #86bfe6 } .p { stroke: #f0a060 } }</style>\n");
    text_print(&o, "<rect class=\"b\" width=\"%.0f\" height=\"%.0f\"/>\n", width, height);
    draw_heads(&d, &o, x0, y0, thumb, rows, columns);
    draw_head(&d, &o, x1, y0, big);
    if (b->choices) draw_routing(&d, &o, x1, y0 + big + 40, big, 120);
    text_put(&o, "</svg>\n");
    if (o.failed) fail(1, "out of memory for the picture");
    FILE *file = open_file(path, sizeof path, name, "");
    fwrite(o.data, 1, o.n, file), say("%s: %.0f kB\n", path, (double)o.n * 1e-3), close_file(file, path);
    text_clear(&o);
}

/* ---- put together ------------------------------------------------------------------------------------------------ */

static void write_out(const lab *b, const text *texts, int n, const char *out) {
    const int html = ends_with(out, ".html") || ends_with(out, ".htm");
    char dir[4096];
    if (html) write_page(b, texts, n, out);
    else if (ends_with(out, ".svg")) write_picture(b, texts, out);
    else {
        if (n > 1) make_directory(out);
        for (int i = 0; i < n; i++) {
            if ((size_t)snprintf(dir, sizeof dir, n > 1 ? "%s/%d" : "%s", out, i + 1) >= sizeof dir)
                fail(1, "cannot make %.99s...: the path is too long", out);
            write_directory(b, texts + i, dir);
        }
        say("%s: files of numbers\n", out);
    }
}

int main(int argc, char **argv) {
    lab b;
    text texts[2];
    options_streams();
    memset(&b, 0, sizeof b), memset(texts, 0, sizeof texts);
    parse(&b.o, argc, argv);
    const int n = b.o.text[1] || b.o.file[1] ? 2 : 1;
    open_lab(&b);
    for (int i = 0; i < n; i++) open_text(&b, i, texts + i, BUDGET / n);
    for (int i = 0; i < n; i++) b.chunk = most(b.chunk, chunk_of(&b, texts[i].T));
    open_contexts(&b);
    for (int i = 0; i < n; i++) {
        latents all = {&b, texts + i};
        say_sizes(&b, texts + i), foresee(&b, texts + i);
        look_at_text(&b, texts + i);
        threads_run(b.pool, b.L, look_at_latents, &all);
    }
    for (int i = 0; i < b.o.out.n; i++) write_out(&b, texts, n, b.o.out.of[i]);
    for (int i = 0; i < n; i++) close_text(texts + i);
    close_lab(&b), free(b.o.out.of);
    return 0;
}
