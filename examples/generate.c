/* generate.c - runs a DeepSeek checkpoint, a Hugging Face directory or a GGUF file: continues texts, chats, measures
   perplexity.
   cc -O2 generate.c -lm -pthread

   CONTENTS   the system, the command line, the session (what is open while a model runs), memory, and what the
              program can do: prompts, chat, perplexity, info, tokenize. */
#define _DEFAULT_SOURCE /* POSIX, also under -std=c99 */
#define MLA_IMPLEMENTATION
#include "../mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "checkpoint.h"
#include "gguf.h"
#include "quantize.h"
#define TOKENIZER_IMPLEMENTATION
#include "tokenizer.h"
#define SAMPLER_IMPLEMENTATION
#include "sampler.h"
#define SPECULATIVE_IMPLEMENTATION
#include "speculative.h"
#define JINJA_IMPLEMENTATION
#include "jinja.h"
#define CHAT_IMPLEMENTATION
#include "chat.h"
#define LANGUAGE_IMPLEMENTATION
#include "language.h"
#define LINE_IMPLEMENTATION
#include "line.h"
#define TEXT_IMPLEMENTATION
#include "text.h"
#define SINK_IMPLEMENTATION
#include "sink.h"
#define DIALOG_IMPLEMENTATION
#include "dialog.h"
#define PERPLEXITY_IMPLEMENTATION
#include "perplexity.h"
#define THREADS_IMPLEMENTATION
#include "threads.h"
#define OPTIONS_IMPLEMENTATION
#define OPTIONS_SHORT
#include "options.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifndef _WIN32
#include <sys/resource.h>
#endif

/* ---- the system -------------------------------------------------------------------------------------------------- */

#ifdef _WIN32
static double peak_resident(void) { return 0; } /* which is not looked up */
#else
static double peak_resident(void) { /* bytes */
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
    return (double)usage.ru_maxrss;
#else
    return 1024.0 * (double)usage.ru_maxrss;
#endif
}
#endif

/* ---- the command line -------------------------------------------------------------------------------------------- */

enum {
    TEXT = 1,
    TOKENS = 2,
    CHAT = 4,
    PERPLEXITY = 8,
    INFO = 16,
    TOKENIZE = 32,
    DETOKENIZE = 64
}; /* what to do: the mode */
enum {
    GENERATES = TEXT | TOKENS | CHAT,
    RUNS = GENERATES | PERPLEXITY,
    LOADS = RUNS | INFO,
    ANY = LOADS | TOKENIZE | DETOKENIZE
};

#define FORMS   "q8 q4 q4_k q5_k q6_k iq4_nl"
#define CLASSES "attn kv_b dense experts shared head embed"
#define OPTIONS(X)                                                                                                     \
    /* name, modes that it goes with, mode that it asks for, and as options.h has it */                                \
    X(MODEL, "-m --model", ANY, 0, TEXT, &o->text)                                                                     \
    X(PROMPT, "-p --prompt", TEXT, TEXT, ANY_TEXT, &o->text)                                                           \
    X(PROMPT_FILE, "--prompt-file", TEXT, TEXT, TEXT, &o->text)                                                        \
    X(TOKENS, "--tokens", TOKENS, TOKENS, INTS, &o->tokens, 0, INT_MAX)                                                \
    X(CHAT, "--chat", CHAT, CHAT, FLAG, &o->flag)                                                                      \
    X(PERPLEXITY, "--perplexity", PERPLEXITY, PERPLEXITY, TEXT, &o->text)                                              \
    X(INFO, "--info", INFO, INFO, FLAG, &o->flag)                                                                      \
    X(TOKENIZE, "--tokenize", TOKENIZE, TOKENIZE, FLAG, &o->flag)                                                      \
    X(DETOKENIZE, "--detokenize", DETOKENIZE, DETOKENIZE, FLAG, &o->flag)                                              \
    X(TOKENIZER, "--tokenizer", ANY & ~INFO, 0, TEXT, &o->text)                                                        \
    X(SYSTEM, "--system", CHAT, 0, ANY_TEXT, &o->text)                                                                 \
    X(THINK, "--think", CHAT, 0, FLAG, &o->flag)                                                                       \
    X(TEMPLATE, "--template", CHAT, 0, TEXT, &o->text)                                                                 \
    X(TOOLS, "--tools", CHAT, 0, TEXT, &o->text)                                                                       \
    X(N, "-n", GENERATES, 0, INT, &o->n, 0, INT_MAX)                                                                   \
    X(CTX, "-c --ctx", LOADS, 0, INT, &o->ctx, 2, INT_MAX)                                                             \
    X(TEMP, "--temp", GENERATES, 0, NUMBER, &o->sampling.temperature, 0, 1e6)                                          \
    X(TOP_K, "--top-k", GENERATES, 0, INT, &o->sampling.top_k, -1, INT_MAX)                                            \
    X(TOP_P, "--top-p", GENERATES, 0, NUMBER, &o->sampling.top_p, 1e-9, 1)                                             \
    X(MIN_P, "--min-p", GENERATES, 0, NUMBER, &o->sampling.min_p, 0, 1)                                                \
    X(REPEAT_PENALTY, "--repeat-penalty", GENERATES, 0, NUMBER, &o->sampling.repeat_penalty, 0.01, 100)                \
    X(REPEAT_LAST, "--repeat-last", GENERATES, 0, INT, &o->sampling.repeat_last, 1, SAMPLER_MAX_LAST)                  \
    X(SEED, "--seed", GENERATES, 0, SEED, &o->sampling.seed)                                                           \
    X(STOP, "--stop", GENERATES, 0, TEXTS, &o->stops)                                                                  \
    X(MTP, "--mtp", GENERATES | INFO, 0, FLAG, &o->flag)                                                               \
    X(EXPERT_GROUPS, "--expert-groups", LOADS, 0, WORD, &o->groups, "model file")                                      \
    X(IGNORE_EOS, "--ignore-eos", TEXT | TOKENS, 0, FLAG, &o->flag)                                                    \
    X(NO_ECHO, "--no-echo", TEXT, 0, FLAG, &o->flag)                                                                   \
    X(PRINT_TOKENS, "--print-tokens", TEXT | TOKENS, 0, FLAG, &o->flag)                                                \
    X(LOGITS, "--logits", TEXT | TOKENS, 0, TEXT, &o->text)                                                            \
    X(JSON, "--json", LOADS & ~CHAT, 0, FLAG, &o->flag)                                                                \
    X(ATTN, "--attn", LOADS, 0, WORD, &o->attn, "auto naive absorbed")                                                 \
    X(ISA, "--isa", LOADS, 0, WORD, &o->isa, isas)                                                                     \
    X(THREADS, "-t --threads", LOADS, 0, INT, &o->threads, 1, 4096)                                                    \
    X(PIN, "--pin", LOADS, 0, FLAG, &o->flag)                                                                          \
    X(QUANT, "--quant", LOADS, 0, WORD, &o->form, FORMS)                                                               \
    X(QUANT_CLASS, "--quant-class", LOADS, 0, PAIRS, o->classes, CLASSES, "keep " FORMS)                               \
    X(ACTIVATIONS, "--activations", LOADS, 0, WORD, &o->activations, "auto f32 int8 bf16 e4m3")                        \
    X(FAST, "--fast", LOADS, 0, FLAG, &o->flag)                                                                        \
    X(CACHE, "--cache", LOADS, 0, WORD, &o->cache, "f32 f16 bf16 q8")                                                  \
    X(INDEX_CACHE, "--index-cache", LOADS, 0, WORD, &o->index_cache, "f32 f16 bf16 q8")                                \
    X(CHUNK, "--chunk", LOADS, 0, INT, &o->chunk, 1, INT_MAX)                                                          \
    X(MEMORY, "--memory", LOADS, 0, BYTES, &o->memory, 0)                                                              \
    X(FORCE, "--force", LOADS, 0, FLAG, &o->flag)

enum {
#define X(id, ...) OPTION_##id,
    OPTIONS(X)
#undef X
        N_OPTIONS
};
static const struct {
    const char *name;
    int modes, mode;
} option_table[N_OPTIONS] = {
#define X(id, name, modes, mode, ...) {name, modes, mode},
    OPTIONS(X)
#undef X
};

typedef struct options {
    int mode;
    const char *given[N_OPTIONS]; /* the value, or the name of an option without; NULL: not given */
    const char *text;             /* of those of which given says all */
    int flag;
    options_ints tokens;
    options_texts stops;
    int n, ctx, threads, chunk;
    double memory; /* bytes */
    sampler_desc sampling;
    int attn, isa, activations, groups, cache, index_cache, form, classes[CHECKPOINT_CLASS_COUNT]; /* places of words */
    checkpoint_quant quant; /* form CHECKPOINT_DEFAULT: weights stay as they are */
    mla_cache_desc caches;
} options;

static const char *const attn_names[MLA_ATTN_PATH_COUNT] = {"auto", "naive", "absorbed"};

static void help(void) {
    printf("usage: generate --model DIR|FILE.gguf [--prompt TEXT | --chat | ...] [options]\n"
           "-m -p -c -t: --model, --prompt, --ctx, --threads; --prompt=TEXT, too.\n"
           "  --prompt TEXT     continues a text; or --prompt-file F (-: standard input)\n"
           "  --tokens \"1 2 3\"  continues token ids\n"
           "  --chat            a conversation (/help in it); --system TEXT, --think,\n"
           "                    --tools FILE (a JSON list), --template FILE [the model's]\n"
           "  --perplexity F    of a text: windows of --ctx tokens [512], each half a window\n"
           "                    after the one before, of which the new tokens are scored\n"
           "  --info            sizes and memory; nothing is run\n"
           "  --tokenize        NUL-ended texts on standard input to lines of ids;\n"
           "                    --detokenize: back; --tokenizer FILE: not DIR's\n"
           "  -n N              tokens to generate [256; --tokens: 16, --chat: no limit]\n"
           "  --ctx N           room for prompt and answer [what they need; --chat: 4096]\n"
           "  --temp T, --top-k K, --top-p P, --min-p P, --repeat-penalty R,\n"
           "  --repeat-last N, --seed S [a new one]   sampling [likeliest token; for texts\n"
           "                    what generation_config.json says if do_sample is true]\n"
           "  --stop TEXT       ends before this text; may be given again\n"
           "  --mtp             a layer of the model's guesses ahead: the same text, or, if\n"
           "                    sampled, another one of the same distribution\n"
           "  --ignore-eos      goes on after an end of sequence;  --no-echo: no prompt\n"
           "  --print-tokens    the generated ids on one line at the end, no text\n"
           "  --logits FILE     the prompt's logits: little-endian f32 [tokens, vocab_size]\n"
           "  --json            one line about the run, nothing else on standard output\n"
           "  --isa ISA         [auto]");
    for (int i = 0; i < MLA_ISA_COUNT; i++) printf(" %s", mla_isa_name((mla_isa)i));
    printf("\n"
           "  --attn PATH       auto, naive, absorbed [auto]; --threads N [all], --pin them\n"
           "  --quant TYPE      q8, q4, q4_k, q5_k, q6_k, iq4_nl: weights become it on load\n"
           "  --quant-class LIST  as head=q8,kv_b=q8: keep or a type for any of attn, kv_b,\n"
           "                    dense, experts, shared, head, embed [kv_b, embed: keep]\n"
           "  --activations TO  auto, f32, int8, bf16 or e4m3: what meets weights [auto]\n"
           "  --fast            bf16 if the processor has it: no less exact than int8\n"
           "  --expert-groups BY  of GGUF files without: model or file (none) [model]\n"
           "  --cache TYPE      f32, f16, bf16 or q8 [f32]; --index-cache TYPE: of sparse\n"
           "                    attention's index keys;  --chunk N: tokens of a pass [512]\n"
           "  --memory BYTES    what may be taken, as 8G [what is free]; --force: no limit\n"
           "  --quiet           nothing but errors on stderr;  --version\n"
           "Exit status: 0 done, 1 failed, 2 wrong command line, 130 interrupted.\n"
           "Examples:\n"
           "  generate --model V2-Lite --prompt \"Once upon a time\" -n 64 --temp 0.7\n"
           "  generate --model V3 --quant q4 --chat --system \"Answer in one sentence.\"\n"
           "  generate --model V2-Lite --tokens \"100000 549\" -n 0 --logits out.f32\n");
}

static const char *isa_name(int i) { return mla_isa_name((mla_isa)i); }
static const char *option_name(int k) {
    const char *space = strchr(option_table[k].name, ' ');
    return space ? space + 1 : option_table[k].name;
}

/* Of --fast: bf16 is nearer to f32 than int8 is, and what it does not round is as with AUTO; e4m3 is less exact. */
static mla_activations fastest(mla_isa isa) {
    const int any = mla_isa_available(MLA_ISA_BF16) || mla_isa_available(MLA_ISA_AMX);
    return (isa ? isa == MLA_ISA_BF16 || isa == MLA_ISA_AMX : any) ? MLA_ACT_BF16 : MLA_ACT_AUTO;
}

/* What the places of words are. */
static void set_types(options *o) {
    static const mla_dtype dtypes[] = {MLA_F32, MLA_F16, MLA_BF16, MLA_Q8};
    o->caches.dtype = dtypes[o->cache], o->caches.index_dtype = dtypes[o->index_cache];
    if (o->given[OPTION_QUANT]) o->quant.form = (checkpoint_form)(CHECKPOINT_Q8 + o->form);
    for (int k = 0; k < CHECKPOINT_CLASS_COUNT; k++)
        if (o->classes[k] >= 0) o->quant.classes[k] = (checkpoint_form)(CHECKPOINT_KEEP + o->classes[k]);
    if (o->sampling.top_k < 0) o->sampling.top_k = 0; /* another spelling of all */
    if (o->given[OPTION_FAST]) o->activations = fastest((mla_isa)o->isa);
}

static void parse(options *o, int argc, char **argv) {
    char isas[32 * MLA_ISA_COUNT];
    int asked = -1; /* the option that said what to do */
    memset(o, 0, sizeof *o);
    o->chunk = 512;
    for (int k = 0; k < CHECKPOINT_CLASS_COUNT; k++) o->classes[k] = -1;
    options_list(isas, MLA_ISA_COUNT, isa_name);
    const options_entry table[N_OPTIONS] = {
#define X(id, name, modes, mode, kind, ...) OPTIONS_##kind(name, __VA_ARGS__),
        OPTIONS(X)
#undef X
    };
    options_here.version = MLA_VERSION, options_here.help = help;
    options_parse(table, N_OPTIONS, o->given, argc, argv), options_here.model = o->given[OPTION_MODEL];
    for (int k = 0; k < N_OPTIONS; k++) {
        if (!o->given[k] || !option_table[k].mode) continue;
        if (asked >= 0) fail(2, "%s and %s exclude each other", option_name(asked), option_name(k));
        asked = k, o->mode = option_table[k].mode;
    }
    if (o->given[OPTION_PROMPT] && !*o->given[OPTION_PROMPT]) fail(2, "--prompt: the text is empty");
    if (asked < 0) {
        if (!o->given[OPTION_MODEL]) fail(2, "--model is missing");
        if (isatty(0))
            fail(2, "what to do? --prompt, --prompt-file, --tokens, --chat, --perplexity or --info is missing");
        o->mode = TEXT; /* from standard input */
    }
    for (int k = 0; k < N_OPTIONS; k++)
        if (o->given[k] && !(option_table[k].modes & o->mode))
            fail(2, "%s has no meaning %s %s", option_name(k), asked < 0 ? "without" : "with",
                 asked < 0 ? "--chat or --tokens" : option_name(asked));
    if (!o->given[OPTION_MODEL] && !((o->mode & (TOKENIZE | DETOKENIZE)) && o->given[OPTION_TOKENIZER]))
        fail(2, o->mode & LOADS ? "--model is missing" : "--tokenizer or --model is missing");
    if (o->given[OPTION_QUANT_CLASS] && !o->given[OPTION_QUANT]) fail(2, "--quant-class: --quant is missing");
    if (o->given[OPTION_FAST] && o->given[OPTION_ACTIVATIONS]) fail(2, "--fast and --activations exclude each other");
    if (o->tokens.n && (size_t)o->n > INT_MAX - o->tokens.n)
        fail(2, "-n: %d: behind %zu tokens of prompt there is room for %d at most", o->n, o->tokens.n,
             INT_MAX - (int)o->tokens.n);
    set_types(o);
}

/* ---- the session ------------------------------------------------------------------------------------------------- */

typedef struct phase {
    int64_t tokens;
    double seconds, bytes; /* weights read */
} phase;

/* All that is open while a model runs. */
typedef struct session {
    options *o;
    checkpoint *c;
    language *language;   /* NULL: there is none */
    tokenizer *tokenizer; /* its own */
    mla_model *model;
    thread_pool *pool;
    mla_context *context;
    mla_cache *cache;
    mla_context_desc context_desc;
    mla_cache_desc cache_desc;
    sampler *sampler;
    speculation *ahead; /* --mtp, else NULL */
    stop_scan *stop;
    float *logits; /* [rows, vocab_size] */
    size_t rows;
    const float *last;                                      /* the row from which the next token is taken */
    chat_tokens cached;                                     /* --chat: what the cache has */
    phase prompt, generation, plain;                        /* plain: a part of the same without --mtp */
    double converted, conversion_start, conversion_seconds; /* bytes of the files' tensors */
} session;

static void converted(void *user, double done, double total) {
    session *s = user;
    char text[32];
    s->conversion_seconds = now() - s->conversion_start, s->converted = done;
    options_progress("converting", done, total, amount(text, total), 0);
}

static void open_tokenizer(session *s) {
    const options *o = s->o;
    const language_files files = {o->given[OPTION_MODEL], o->given[OPTION_TOKENIZER], o->mode == TOKENS && !o->stops.n};
    mla_error error;
    if (language_open(&s->language, &files, s->c, &error))
        fail(1, "%s%s", error.text, strstr(error.text, "--tokenizer FILE") ? ", --tokens does without" : "");
    s->tokenizer = s->language ? s->language->tokenizer : NULL;
    language_notes(s->language, NULL, say);
}

/* The files, as far as reading no weight takes one. */
static void open_files(session *s, options *o) {
    mla_error error;
    checkpoint_options how;
    memset(s, 0, sizeof *s);
    memset(&how, 0, sizeof how);
    s->o = o;
    how.mtp = o->given[OPTION_MTP] != NULL, how.groups = (checkpoint_groups)o->groups;
    if (o->given[OPTION_MODEL] && o->mode & LOADS && checkpoint_open_with(&s->c, o->given[OPTION_MODEL], &how, &error))
        fail(1, "%s", error.text);
    language_notes(NULL, s->c, say);
    if (how.mtp && !s->c->config.num_nextn_predict_layers)
        fail(1, "--mtp: %s has no layer for multi-token prediction (config.json: num_nextn_predict_layers)",
             o->given[OPTION_MODEL]);
    if (o->given[OPTION_EXPERT_GROUPS] && !s->c->groups_assumed)
        fail(1, "--expert-groups: nothing is to be chosen, %s says which groups its experts have, or they have none",
             o->given[OPTION_MODEL]);
    if (o->mode != INFO) open_tokenizer(s);
}

static void encode_text(session *s, chat_tokens *ids, const char *text, size_t n) {
    mla_error error;
    if (language_encode(ids, s->language, text, n, &error)) fail(1, "%s", error.text);
}

/* What generation_config.json says of sampling, where no option says otherwise. */
static void sampling_defaults(const session *s, sampler_desc *d) {
    const char *const *given = s->o->given;
    sampler_desc theirs = *d;
    mla_error error;
    if (s->o->mode == TOKENS) return;
    if (language_sampling(s->language, &theirs, &error)) fail(1, "%s", error.text);
    if (!given[OPTION_TEMP]) d->temperature = theirs.temperature;
    if (!given[OPTION_TOP_K]) d->top_k = theirs.top_k;
    if (!given[OPTION_TOP_P]) d->top_p = theirs.top_p;
    if (!given[OPTION_MIN_P]) d->min_p = theirs.min_p;
    if (!given[OPTION_REPEAT_PENALTY]) d->repeat_penalty = theirs.repeat_penalty;
}

static uint64_t new_seed(void) { /* short enough to be typed again */
    uint32_t seed = (uint32_t)time(NULL) ^ (uint32_t)getpid() << 16;
    FILE *file = fopen("/dev/urandom", "rb");
    if (file && fread(&seed, sizeof seed, 1, file) != 1) seed ^= 1;
    if (file) fclose(file);
    return seed;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* The weights by what --quant knows them as; CHECKPOINT_CLASS_COUNT: router, norms, biases. */
typedef struct census {
    double count[CHECKPOINT_CLASS_COUNT + 1], bytes[CHECKPOINT_CLASS_COUNT + 1],
        packed[CHECKPOINT_CLASS_COUNT + 1], /* as --quant makes them */
        kept[CHECKPOINT_CLASS_COUNT + 1];   /* of those that stay in the files */
    const checkpoint *c;
    const options *o;
} census;

static checkpoint_form form_of(const checkpoint_quant *q, int k) {
    if (!q->form || k == CHECKPOINT_CLASS_COUNT) return CHECKPOINT_KEEP;
    if (q->classes[k]) return q->classes[k];
    return k == CHECKPOINT_KV_B || k == CHECKPOINT_EMBED ? CHECKPOINT_KEEP : q->form;
}

static void count_tensor(census *n, int k, const mla_tensor *t) {
    if (!t->data) return;
    const size_t elements = (size_t)t->rows * (size_t)t->cols;
    const int rows = t->scale_rows > 0 ? t->scale_rows : 128, cols = t->scale_cols > 0 ? t->scale_cols : 128;
    const double scales = (double)((t->rows - 1) / rows + 1) * ((t->cols - 1) / cols + 1);
    const double bytes = (double)mla_dtype_bytes(t->dtype, elements) +
                         (t->scale ? scales * (double)mla_dtype_bytes(t->scale_dtype, 1) : 0);
    const checkpoint_form form = mla_dtype_block(t->dtype) > 1 ? CHECKPOINT_KEEP : form_of(&n->o->quant, k);
    const uintptr_t at = (uintptr_t)t->data - (uintptr_t)n->c->repacked;
    n->count[k] += (double)elements;
    n->bytes[k] += bytes;
    if (form != CHECKPOINT_KEEP) n->packed[k] += (double)mla_dtype_bytes(checkpoint_form_dtype(form), elements);
    else if (!n->c->repacked || at > n->c->repacked_bytes) n->kept[k] += bytes;
}
static void count_linear(census *n, int k, const mla_linear *w) {
    count_tensor(n, k, &w->weight);
    count_tensor(n, CHECKPOINT_CLASS_COUNT, &w->bias);
}
static void count_mlp(census *n, int k, const mla_mlp_weights *w) {
    count_linear(n, k, &w->gate), count_linear(n, k, &w->up), count_linear(n, k, &w->down);
}

static census take_census(const checkpoint *c, const options *o) {
    const int rest = CHECKPOINT_CLASS_COUNT;
    const mla_weights *w = &c->weights;
    census n;
    memset(&n, 0, sizeof n);
    n.c = c, n.o = o;
    count_tensor(&n, CHECKPOINT_EMBED, &w->embed);
    count_tensor(&n, CHECKPOINT_HEAD, &w->head);
    count_tensor(&n, rest, &w->norm.weight);
    for (int i = 0; i < c->config.emb_split_num * (c->config.emb_neighbor_num - 1) && w->ngram; i++)
        count_tensor(&n, rest, &w->ngram[i].table), count_linear(&n, rest, &w->ngram[i].proj);
    count_tensor(&n, rest, &w->hc_head.fn), count_tensor(&n, rest, &w->hc_head.base),
        count_tensor(&n, rest, &w->hc_head.scale);
    for (int i = 0; i < c->config.num_nextn_predict_layers; i++) {
        const mla_mtp_weights *x = &w->mtp[i];
        count_linear(&n, CHECKPOINT_DENSE, &x->eh_proj);
        count_tensor(&n, CHECKPOINT_EMBED, &x->embed), count_tensor(&n, CHECKPOINT_HEAD, &x->head);
        count_tensor(&n, rest, &x->enorm.weight), count_tensor(&n, rest, &x->hnorm.weight),
            count_tensor(&n, rest, &x->norm.weight);
    }
    for (int i = 0; i < c->config.num_hidden_layers + c->config.num_nextn_predict_layers; i++) {
        const mla_layer_weights *l = &w->layers[i];
        const mla_attn_weights *a = &l->attn;
        const mla_linear *attn[] = {&a->q, &a->q_a, &a->q_b, &a->kv_a, &a->gate, &a->o};
        for (int k = 0; k < 6; k++) count_linear(&n, CHECKPOINT_ATTN, attn[k]);
        count_linear(&n, CHECKPOINT_KV_B, &a->kv_b);
        count_tensor(&n, CHECKPOINT_KV_B, &a->k_b), count_tensor(&n, CHECKPOINT_KV_B, &a->v_b);
        count_linear(&n, CHECKPOINT_ATTN, &a->indexer.wq_b), count_linear(&n, CHECKPOINT_ATTN, &a->indexer.wk);
        count_tensor(&n, rest, &a->indexer.k_norm.weight), count_tensor(&n, rest, &a->indexer.k_norm.bias);
        count_tensor(&n, rest, &a->indexer.weights_proj);
        const mla_kda_weights *s = &l->kda;
        const int f = s->f_a.weight.data != NULL, g = s->g_a.weight.data != NULL;
        const mla_linear *kda[] = {&s->q, &s->k, &s->v, f ? &s->f_a : &s->f_b, g ? &s->g_a : &s->g_b, &s->o};
        for (int k = 0; k < 6; k++) count_linear(&n, CHECKPOINT_ATTN, kda[k]);
        count_linear(&n, rest, &s->b);
        if (f) count_linear(&n, rest, &s->f_b);
        if (g) count_linear(&n, rest, &s->g_b);
        const mla_tensor *few[] = {&s->q_conv, &s->k_conv, &s->v_conv, &s->a_log, &s->dt_bias, &s->norm};
        for (int k = 0; k < 6; k++) count_tensor(&n, rest, few[k]);
        const mla_tensor *norms[] = {&l->attn_norm.weight,     &l->ffn_norm.weight,     &a->q_norm.weight,
                                     &a->kv_norm.weight,       &l->moe.router,          &l->moe.router_bias,
                                     &l->attn_out_norm.weight, &l->ffn_out_norm.weight, &a->sinks,
                                     &l->attn_norm.gate_down,  &l->attn_norm.gate_up,   &l->ffn_norm.gate_down,
                                     &l->ffn_norm.gate_up};
        for (int k = 0; k < 13; k++) count_tensor(&n, rest, norms[k]);
        const mla_hc_weights *hc[] = {&l->attn_hc, &l->ffn_hc};
        for (int k = 0; k < 2; k++)
            count_tensor(&n, rest, &hc[k]->fn), count_tensor(&n, rest, &hc[k]->base),
                count_tensor(&n, rest, &hc[k]->scale);
        count_mlp(&n, CHECKPOINT_DENSE, &l->mlp);
        count_mlp(&n, CHECKPOINT_SHARED, &l->moe.shared);
        for (int e = 0; l->moe.experts && e < c->config.n_routed_experts; e++)
            count_mlp(&n, CHECKPOINT_EXPERTS, &l->moe.experts[e]);
    }
    if (!w->head.data &&
        form_of(&o->quant, CHECKPOINT_HEAD) != form_of(&o->quant, CHECKPOINT_EMBED)) { /* a tied head gets a copy */
        count_tensor(&n, CHECKPOINT_HEAD, &w->embed);
        n.count[CHECKPOINT_HEAD] = n.bytes[CHECKPOINT_HEAD] = n.kept[CHECKPOINT_HEAD] = 0;
    }
    return n;
}

typedef struct estimate {
    /* bytes; mapped: weights used where they lie in the files; converted: by --quant, or while reading */
    double mapped, converted, context, cache, logits, total;
} estimate;

static estimate estimate_memory(const session *s) {
    const census n = take_census(s->c, s->o);
    estimate e = {0, 0, 0, 0, 0, 0};
    for (int k = 0; k <= CHECKPOINT_CLASS_COUNT; k++) {
        e.converted += n.packed[k];
        e.mapped += n.kept[k];
    }
    e.converted += (double)s->c->repacked_bytes;
    e.context = (double)mla_context_size(s->model, &s->context_desc);
    e.cache = (double)mla_cache_size(s->model, &s->cache_desc);
    e.logits = (double)s->rows * s->c->config.vocab_size * sizeof(float);
    if (s->o->given[OPTION_MTP]) e.context += speculation_bytes(s->model, s->context_desc.max_tokens);
    e.total = e.mapped + e.converted + e.context + e.cache + e.logits;
    return e;
}

static double first_number(const char *path, const char *key) { /* behind key; -1: there is none */
    char line[256];
    double value = -1;
    FILE *file = fopen(path, "r");
    while (file && value < 0 && fgets(line, sizeof line, file)) {
        if (!strncmp(line, key, strlen(key)) && sscanf(line + strlen(key), "%lf", &value) != 1) value = -1;
    }
    if (file) fclose(file);
    return value;
}

/* What can be taken without swapping: --memory, else what Linux calls available, and no more than the control group's
 * limit. */
static double available_memory(const options *o) {
    static const char *const limits[] = {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    if (o->given[OPTION_MEMORY]) return o->memory;
    double free_bytes = first_number("/proc/meminfo", "MemAvailable:") * 1024;
    for (int i = 0; i < 2; i++) {
        const double limit = first_number(limits[i], "");
        if (limit >= 0 && free_bytes >= 0 && limit < free_bytes) free_bytes = limit;
    }
    return free_bytes >= 0 ? free_bytes : HUGE_VAL; /* nobody knows */
}

static void check_memory(const session *s) {
    const estimate e = estimate_memory(s);
    const double most = available_memory(s->o);
    char text[7][32];
    if (e.total <= most || s->o->given[OPTION_FORCE]) return;
    fail(1,
         "this takes about %s of memory (weights %s%s%s, context %s, cache %s, logits %s), and %s are free: try "
         "--quant, --ctx, "
         "--cache; --force runs it all the same",
         amount(text[0], e.total), amount(text[1], e.mapped + e.converted), e.converted > 0 ? ", converted" : "",
         e.mapped > 0 ? ", mapped" : "", amount(text[2], e.context), amount(text[3], e.cache),
         amount(text[4], e.logits), amount(text[5], most));
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

/* Sizes, before anything of size is made: a context for max_tokens, a cache for capacity, logits of rows tokens. */
static void plan(session *s, int max_tokens, int capacity, size_t rows) {
    const options *o = s->o;
    mla_error error;
    mla_rope *rope = &s->c->config.rope;
    if (rope->scaling == MLA_ROPE_DYNAMIC || rope->scaling == MLA_ROPE_LONGROPE) rope->length = capacity;
    s->context_desc.threads = o->threads ? o->threads : threads_available(), s->context_desc.isa = (mla_isa)o->isa,
    s->context_desc.attn = (mla_attn_path)o->attn;
    s->context_desc.activations = (mla_activations)o->activations;
    s->cache_desc = o->caches, s->cache_desc.capacity = capacity;
    s->cache_desc.snapshots = o->mode & CHAT ? 4 : 0;
    s->rows = rows;
    if (mla_model_create(&s->model, &s->c->config, &s->c->weights, NULL, &error))
        fail(1, "%s: %s", o->given[OPTION_MODEL], error.text);
    const int more =
        o->given[OPTION_MTP] ? speculation_least(s->model) - 1 : 0; /* positions that the extra layers run again */
    s->context_desc.max_tokens = max_tokens < INT_MAX - more ? max_tokens + more : max_tokens;
}

static void start(session *s) {
    options *o = s->o;
    mla_error error;
    const size_t vocab = (size_t)s->c->config.vocab_size;
    check_memory(s);
    if (!(o->given[OPTION_PIN] ? threads_create_pinned : threads_create)(&s->pool, s->context_desc.threads))
        fail(1, "%d threads are not to be had", s->context_desc.threads);
    s->context_desc.run = threads_run, s->context_desc.run_user = s->pool;
    s->context_desc.team = 1, s->context_desc.wait = threads_wait, s->context_desc.wake = threads_wake;
    s->context_desc.alloc = s->cache_desc.alloc = checkpoint_huge_pages;
    if (o->quant.form ||
        o->activations != (int)MLA_ACT_F32) { /* without --quant: what is Q4 in the files is repacked */
        checkpoint_quant how = o->quant;
        mla_model_destroy(s->model);
        s->conversion_start = now();
        if (!how.form) how.form = CHECKPOINT_KEEP;
        how.threads = threads_count(s->pool), how.run = threads_run, how.run_user = s->pool;
        how.repack = o->activations != (int)MLA_ACT_F32, how.progress = converted, how.progress_user = s;
        if (checkpoint_quantize(s->c, &how, &error)) fail(1, "%s", error.text);
        if (mla_model_create(&s->model, &s->c->config, &s->c->weights, NULL, &error))
            fail(1, "%s: %s", o->given[OPTION_MODEL], error.text);
    }
    if (mla_context_create(&s->context, s->model, &s->context_desc, &error)) fail(1, "%s", error.text);
    if (mla_cache_create(&s->cache, s->model, &s->cache_desc, &error)) fail(1, "%s", error.text);
    s->logits = vocab <= SIZE_MAX / sizeof *s->logits / s->rows ? malloc(s->rows * vocab * sizeof *s->logits) : NULL;
    if (!s->logits) fail(1, "out of memory for the logits of %zu tokens (see --chunk)", s->rows);
    if (o->mode & GENERATES) {
        sampling_defaults(s, &o->sampling);
        if (!o->given[OPTION_SEED] && o->sampling.temperature > 0) o->sampling.seed = new_seed();
        if (sampler_create(&s->sampler, (int)vocab, &o->sampling, &error)) fail(1, "%s", error.text);
        if (o->given[OPTION_MTP] && speculation_create(&s->ahead, s->model, s->context, s->context_desc.max_tokens,
                                                       s->cache, &o->sampling, &error))
            fail(1, "%s", error.text);
        if (o->stops.n && stop_create(&s->stop, o->stops.of, o->stops.n, &error)) fail(1, "%s", error.text);
        options_interrupts();
    }
}

/* Tokens through the model; the logits of the last n_logits of them go to s->logits. */
static void forward(session *s, const int *tokens, int n, int n_logits, phase *p) {
    const mla_sequence sequence = {.cache = s->cache, .n_tokens = n, .n_logits = n_logits};
    const mla_outputs out = {.logits = s->logits};
    const double begin = now();
    if (mla_model_forward(s->context, &sequence, 1, tokens, &out)) fail(1, "%s", mla_context_error(s->context)->text);
    p->seconds += now() - begin, p->tokens += n, p->bytes += mla_model_bytes(s->model, n);
}

/* The same of a prompt (that is the phase), or of one token that has been generated and may be followed by n - 1 more,
   by way of speculation. */
static void speculate(session *s, const int *tokens, int n, int n_logits, phase *p) {
    const int prompt = p == &s->prompt;
    const mla_outputs out = {.logits = s->logits};
    const speculation_counts was = speculation_count(s->ahead);
    const double begin = now();
    mla_error error;
    if (prompt ? speculation_feed(s->ahead, tokens, n, n_logits, &out, &error)
               : speculation_run(s->ahead, *tokens, s->sampler, n - 1, &error))
        fail(1, "%s", error.text);
    const speculation_counts is = speculation_count(s->ahead);
    const int64_t guessed = is.guesses - was.guesses;
    p->seconds += now() - begin, p->tokens += prompt ? n : 1, p->bytes += is.bytes - was.bytes;
    if (prompt || is.passes > was.passes) p->bytes += mla_model_bytes(s->model, prompt ? n : (int)guessed + 1);
}

/* Tokens of a prompt; the last one's logits are then in last. Ends early when interrupted. all: the logits of
   all, into that file. */
static void prefill(session *s, const int *tokens, size_t n_tokens, FILE *all) {
    const size_t vocab = (size_t)s->c->config.vocab_size,
                 chunk = s->ahead ? (size_t)speculation_chunk(s->ahead) : (size_t)s->context_desc.max_tokens;
    char text[32];
    snprintf(text, sizeof text, "%zu tokens", n_tokens);
    for (size_t done = 0, n; done < n_tokens && !options_interrupted; done += n) {
        n = n_tokens - done < chunk ? n_tokens - done : chunk;
        (s->ahead ? speculate : forward)(s, tokens + done, (int)n, all ? (int)n : done + n == n_tokens, &s->prompt);
        if (all) sink_f32(all, s->o->given[OPTION_LOGITS], s->logits, n * vocab);
        s->last = s->logits + (all ? n - 1 : 0) * vocab;
        for (size_t i = 0; i < n; i++) sampler_accept(s->sampler, tokens[done + i]);
        options_progress("prompt", (double)(done + n), (double)n_tokens, text, 0);
    }
}

/* Up to `most` tokens after the prefill, appended to made and sent to out. eos: another token that ends the text; -1:
 * none. */
static sink_ending decode(session *s, int most, int eos, chat_tokens *made, sink *out) {
    mla_error error;
    for (int n = 0; n < most; n++) {
        const int *last = n > 0 ? &made->ids[made->n - 1] : NULL;
        if (n > 0 && s->ahead) speculate(s, last, most - n, 0, &s->generation);
        else if (n > 0) {
            forward(s, last, 1, 1, &s->generation);
            s->last = s->logits;
        }
        if (options_interrupted) return SINK_INTERRUPT;
        const int token = n > 0 && s->ahead ? speculation_next(s->ahead, s->sampler, &error)
                                            : sampler_next(s->sampler, s->last, &error);
        if (token < 0)
            fail(1, "after %d tokens %s: the model's logits are not numbers", mla_cache_length(s->cache), error.text);
        int ended = token == eos;
        for (int i = 0; i < s->c->n_eos; i++) ended |= s->c->eos_token_id[i] == token;
        sampler_accept(s->sampler, token);
        if (chat_append(made, &token, 1, &error)) fail(1, "%s", error.text);
        if (ended && !s->o->given[OPTION_IGNORE_EOS]) {
            if (!out->tokenizer) sink_token(out, token);
            return SINK_EOS;
        }
        if (sink_token(out, token)) return SINK_STRING;
    }
    return options_interrupted ? SINK_INTERRUPT : SINK_LENGTH;
}

static sink_ending generate(session *s, int most, int eos, chat_tokens *made, sink *out) {
    const sink_ending end = decode(s, most, eos, made, out);
    if (s->ahead) speculation_settle(s->ahead); /* the cache holds all but the last token, as without */
    return end;
}

/* How fast it is without --mtp: some of the same tokens, in the middle, one at a time. */
static void compare(session *s, const chat_tokens *made) {
    const size_t n = made->n < 2 ? 0 : made->n - 1 < 64 ? made->n - 1 : 64, skip = n ? (made->n - 1 - n) / 2 : 0;
    mla_error error;
    if (n && mla_cache_truncate(s->cache, mla_cache_length(s->cache) - (int)(made->n - 1 - skip), &error))
        fail(1, "%s", error.text);
    for (size_t i = 0; i < n && !options_interrupted; i++) forward(s, &made->ids[skip + i], 1, 1, &s->plain);
}

/* ---- the closing lines ------------------------------------------------------------------------------------------- */

static double rate(double what, double seconds) { return what / (seconds > 0 ? seconds : 1e-9); }

static void report_phase(const char *what, const phase *p) {
    say("%s %6lld tokens in %8.3f s  %9.2f tokens/s  %6.2f GB/s of weights\n", what, (long long)p->tokens, p->seconds,
        rate((double)p->tokens, p->seconds), rate(p->bytes, p->seconds) * 1e-9);
}

static void report(const session *s) {
    char text[4][32];
    const int threads = mla_context_threads(s->context);
    if (s->converted > 0 && !s->o->quant.form)
        say("repacked   %s of q4 weights in %.3f s\n", amount(text[0], s->converted), s->conversion_seconds);
    else if (s->converted > 0)
        say("converted  %s of weights to %s in %.3f s\n", amount(text[0], s->converted),
            checkpoint_form_name(s->o->quant.form), s->conversion_seconds);
    report_phase("prompt    ", &s->prompt);
    if (s->generation.tokens)
        report_phase("generation", &s->generation); /* the first token comes out of the prompt's pass */
    if (s->ahead && s->generation.tokens) {
        const speculation_counts n = speculation_count(s->ahead);
        say("mtp        %.1f %% of %lld guesses accepted, %.2f tokens a pass",
            rate(100 * (double)n.accepted, (double)n.guesses), (long long)n.guesses,
            rate((double)s->generation.tokens, (double)n.passes));
        if (s->plain.tokens)
            say("; without %.2f tokens/s, %.2f times as fast", rate((double)s->plain.tokens, s->plain.seconds),
                rate((double)s->generation.tokens, s->generation.seconds) /
                    rate((double)s->plain.tokens, s->plain.seconds));
        say("\n");
    }
    if (s->o->mode & GENERATES && s->o->sampling.temperature > 0)
        say("seed       %llu\n", (unsigned long long)s->o->sampling.seed);
    say("memory     weights %s%s, context %s, cache %s, peak resident %s\n",
        amount(text[0], mla_model_bytes(s->model, 0)), s->o->quant.form ? "" : " mapped",
        amount(text[1], (double)mla_context_size(s->model, &s->context_desc)),
        amount(text[2], (double)mla_cache_size(s->model, &s->cache_desc)), amount(text[3], peak_resident()));
    say("ran with   %s kernels, %d thread%s, %s attention\n", mla_isa_name(mla_context_isa(s->context)), threads,
        threads == 1 ? "" : "s", attn_names[s->o->attn]);
}

static void close_session(session *s) {
    free(s->logits);
    sampler_destroy(s->sampler), stop_destroy(s->stop), speculation_destroy(s->ahead);
    mla_cache_destroy(s->cache), mla_context_destroy(s->context), mla_model_destroy(s->model);
    language_close(s->language), checkpoint_close(s->c), threads_destroy(s->pool);
}

/* ---- prompts: --prompt, --prompt-file, --tokens, standard input -------------------------------------------------- */

static void read_prompt(session *s, chat_tokens *ids, text_buffer *text) {
    options *o = s->o;
    mla_error error;
    if (o->mode == TOKENS) {
        for (size_t i = 0; i < o->tokens.n; i++)
            if (o->tokens.of[i] >= s->c->config.vocab_size)
                fail(2, "--tokens: %d is not in 0..%d, the model's vocabulary", o->tokens.of[i],
                     s->c->config.vocab_size - 1);
        if (chat_append(ids, o->tokens.of, o->tokens.n, &error)) fail(1, "%s", error.text);
        return;
    }
    const char *file = o->given[OPTION_PROMPT_FILE], *prompt = o->given[OPTION_PROMPT];
    if (prompt) sink_add(text, prompt, strlen(prompt));
    else {
        sink_read(text, file ? file : "-");
        if (text->n && text->data[text->n - 1] == '\n') text->data[--text->n] = 0;
        if (text->n && text->data[text->n - 1] == '\r') text->data[--text->n] = 0;
        if (!text->n)
            fail(1, "the prompt is empty: nothing in %s",
                 file && strcmp(file, "-") ? file : "standard input (--prompt TEXT gives one)");
    }
    encode_text(s, ids, text->data, text->n);
}

/* Decides how many tokens there will be: the context's room, and -n. */
static int measure_prompt(session *s, size_t n_prompt) {
    options *o = s->o;
    const int made_for = s->c->max_position_embeddings;
    if (n_prompt > INT_MAX / 2) fail(1, "the prompt has %zu tokens, too many", n_prompt);
    const int n = (int)n_prompt;
    if (!o->given[OPTION_N]) {
        o->n = o->mode == TOKENS ? 16 : 256;
        if (made_for > n && o->n > made_for - n) o->n = made_for - n;
    }
    if (o->ctx && (n > o->ctx || (n == o->ctx && o->n > 0)))
        fail(1, "the prompt has %d tokens, and the context has room for %d (--ctx)", n, o->ctx);
    if (!o->ctx && made_for > 0 && n > made_for)
        fail(1, "the prompt has %d tokens, and the model was made for %d; --ctx %d runs it all the same", n, made_for,
             n + 1);
    if (o->n > INT_MAX - n)
        fail(2, "-n: %d: behind %d tokens of prompt there is room for %d at most", o->n, n, INT_MAX - n);
    const int capacity = o->ctx ? o->ctx : n + o->n;
    if (o->n > capacity - n) o->n = capacity - n;
    if (made_for > 0 && n + o->n > made_for) say("note: %d tokens, the model was made for %d\n", n + o->n, made_for);
    return capacity;
}

static void print_summary(const session *s, const chat_tokens *prompt, const chat_tokens *made, const sink *out,
                          sink_ending end) {
    sink_summary(out, prompt->n, s->prompt.seconds, made->ids, made->n, s->generation.seconds,
                 rate((double)s->generation.tokens, s->generation.seconds), end);
    if (s->ahead) {
        const speculation_counts n = speculation_count(s->ahead);
        printf(",\"mtp\":{\"guesses\":%lld,\"accepted\":%lld,\"passes\":%lld,\"plain_tokens_per_s\":%.3f}",
               (long long)n.guesses, (long long)n.accepted, (long long)n.passes,
               rate((double)s->plain.tokens, s->plain.seconds));
    }
    printf(",\"seed\":%llu,\"isa\":\"%s\",\"threads\":%d,\"weights_bytes\":%.0f,\"cache_bytes\":%zu,\"context_bytes\":%"
           "zu}\n",
           (unsigned long long)s->o->sampling.seed, mla_isa_name(mla_context_isa(s->context)),
           mla_context_threads(s->context), mla_model_bytes(s->model, 0), mla_cache_size(s->model, &s->cache_desc),
           mla_context_size(s->model, &s->context_desc));
}

static int run_prompt(options *o) {
    session it, *s = &it;
    chat_tokens prompt = {NULL, 0, 0}, made = {NULL, 0, 0};
    text_buffer text = {NULL, 0, 0, 0};
    const char *logits = o->given[OPTION_LOGITS];
    const int json = o->given[OPTION_JSON] != NULL, ids = o->given[OPTION_PRINT_TOKENS] != NULL;
    FILE *file = NULL;
    open_files(s, o);
    read_prompt(s, &prompt, &text);
    const int capacity = measure_prompt(s, prompt.n), chunk = (size_t)o->chunk < prompt.n ? o->chunk : (int)prompt.n;
    plan(s, chunk, capacity, logits ? (size_t)chunk : 1);
    if (logits && !(file = options_open(logits, 1))) fail(1, "cannot write %s: %s", logits, options_why());
    start(s);

    sink out;
    memset(&out, 0, sizeof out);
    out.tokenizer =
        ids && !s->stop ? NULL : s->tokenizer; /* stop strings are sought in the text, also if nobody sees it */
    out.stop = s->stop, out.print = !json && !ids;
    prefill(s, prompt.ids, prompt.n, file);
    if (file && fclose(file)) fail(1, "cannot write %s: %s", logits, strerror(errno));
    if (text.n && out.print && !o->given[OPTION_NO_ECHO]) sink_utf8(&out, text.data, text.n, 0);
    const sink_ending end = options_interrupted ? SINK_INTERRUPT : generate(s, o->n, -1, &made, &out);
    if (s->ahead && end != SINK_INTERRUPT && (json || !options_here.quiet)) compare(s, &made);
    const int something = made.n > 0 || (text.n && !o->given[OPTION_NO_ECHO]);
    if (out.tokenizer && (something || !out.print)) sink_end(&out);
    else if (out.print && made.n) putchar('\n');
    if (ids) out.tokenizer = NULL;
    if (json) print_summary(s, &prompt, &made, &out, end);
    else if (ids) {
        for (size_t i = 0; i < made.n; i++) printf(i ? " %d" : "%d", made.ids[i]);
        putchar('\n');
    }
    options_flush();
    report(s);
    free(prompt.ids), free(made.ids), text_clear(&text), sink_clear(&out);
    close_session(s);
    return end == SINK_INTERRUPT ? 130 : 0;
}

/* ---- --chat ------------------------------------------------------------------------------------------------------ */

/* Runs what of the conversation is not in the cache, and cuts off what is in the cache and not in the conversation. */
static void catch_up(void *user, const chat_tokens *text) {
    session *s = user;
    const chat_tokens *cached = &s->cached;
    mla_error error;
    size_t same = 0;
    while (same < cached->n && same + 1 < text->n && cached->ids[same] == text->ids[same])
        same++; /* the last token is always run */
    if (s->ahead) same = (size_t)speculation_truncate(s->ahead, (int)same);
    else {
        same = (size_t)mla_cache_cut(s->cache, (int)same); /* states cannot be cut back to everywhere */
        if (mla_cache_truncate(s->cache, (int)same, &error)) fail(1, "%s", error.text);
    }
    prefill(s, text->ids + same, text->n - same, NULL);
    dialog_keep_states(s->cache);
}

static sink_ending answer(void *user, const chat_tokens *text, int most, chat_tokens *made, sink *out, double *speed) {
    session *s = user;
    const phase before = s->generation;
    const sink_ending end = options_interrupted ? SINK_INTERRUPT : generate(s, most, s->language->eos_id, made, out);
    const size_t length = (size_t)mla_cache_length(s->cache), first = length < text->n ? length : text->n;
    mla_error error;
    *speed = rate((double)(s->generation.tokens - before.tokens), s->generation.seconds - before.seconds);
    s->cached.n = 0;
    if (chat_append(&s->cached, text->ids, first, &error) || chat_append(&s->cached, made->ids, length - first, &error))
        fail(1, "%s", error.text);
    return end;
}

static void report_chat(void *user) { report(user); }

static int run_chat(options *o) {
    session it, *s = &it;
    open_files(s, o);
    const int made_for = s->c->max_position_embeddings;
    if (!o->ctx) o->ctx = made_for > 0 && made_for < 4096 ? made_for : 4096;
    if (!o->given[OPTION_N]) o->n = INT_MAX;
    const dialog_desc of = {s->language,
                            o->given[OPTION_SYSTEM],
                            o->given[OPTION_TEMPLATE],
                            o->given[OPTION_TOOLS],
                            o->given[OPTION_THINK] != NULL,
                            o->ctx,
                            o->n,
                            s,
                            catch_up,
                            answer,
                            report_chat};
    dialog *d = dialog_open(&of);
    if (made_for > 0 && o->ctx > made_for)
        say("note: room for %d tokens, the model was made for %d\n", o->ctx, made_for);
    plan(s, o->chunk < o->ctx ? o->chunk : o->ctx, o->ctx, 1);
    start(s);
    const int status = dialog_run(d, s->stop);
    if (status != 1) report(s);
    dialog_close(d), free(s->cached.ids), close_session(s);
    return status;
}

/* ---- --perplexity ------------------------------------------------------------------------------------------------ */

static int run_perplexity(options *o) {
    session it, *s = &it;
    chat_tokens ids = {NULL, 0, 0}, window = {NULL, 0, 0};
    text_buffer text = {NULL, 0, 0, 0};
    perplexity p;
    char of[32];
    open_files(s, o);
    sink_read(&text, o->given[OPTION_PERPLEXITY]);
    encode_text(s, &ids, text.data, text.n);
    const int vocab = s->c->config.vocab_size, made_for = s->c->max_position_embeddings;
    if (!o->ctx) o->ctx = made_for > 1 && made_for < 512 ? made_for : 512;
    perplexity_begin(&p, o->given[OPTION_PERPLEXITY], ids.ids, ids.n, s->c->bos_token_id, o->ctx);
    if (made_for > 0 && o->ctx > made_for)
        say("note: windows of %d tokens, the model was made for %d\n", o->ctx, made_for);
    const int chunk = o->chunk < o->ctx ? o->chunk : o->ctx;
    plan(s, chunk, o->ctx, (size_t)chunk);
    start(s);

    snprintf(of, sizeof of, "%zu tokens", p.n);
    for (size_t w = 0; perplexity_window(&p, w, &window); w++) {
        mla_cache_reset(s->cache);
        for (size_t at = 0, m; at + 1 < window.n; at += m) { /* of the last token nothing is asked */
            m = window.n - 1 - at < (size_t)chunk ? window.n - 1 - at : (size_t)chunk;
            const int rows = perplexity_rows(&p, w, at, (int)m);
            forward(s, window.ids + at, (int)m, rows, &s->prompt);
            for (int r = 0; r < rows; r++)
                perplexity_score(&p, w, at + m - (size_t)(rows - r), s->logits + (size_t)r * (size_t)vocab, vocab,
                                 s->tokenizer);
            options_progress("perplexity", p.sums[2] + 1 - (double)p.bos, (double)p.n, of, 0);
        }
    }
    perplexity_print(&p, o->given[OPTION_JSON] != NULL);
    options_flush();
    report(s);
    free(ids.ids), free(window.ids), text_clear(&text);
    close_session(s);
    return 0;
}

/* ---- --info ------------------------------------------------------------------------------------------------------ */

static void print_file(const gguf *g) {
    char text[32];
    const size_t files = gguf_parts(g), tensors = gguf_tensor_count(g);
    printf("file         GGUF in %zu file%s, %zu keys, %zu tensors", files, files > 1 ? "s" : "", gguf_key_count(g),
           tensors);
    for (int type = 0, n = 0; type < 64; type++) {
        double bytes = 0;
        for (size_t i = 0; i < tensors; i++)
            if (gguf_tensor_at(g, i)->type == type) bytes += (double)gguf_tensor_at(g, i)->bytes;
        if (bytes > 0) printf("%s %s of %s", n++ ? "," : ":", amount(text, bytes), gguf_type_name(type));
    }
    putchar('\n');
}

static int run_info(options *o) {
    session it, *s = &it;
    char text[6][32];
    open_files(s, o);
    const mla_config *m = &s->c->config;
    const int made_for = s->c->max_position_embeddings, K = m->num_experts_per_tok, E = m->n_routed_experts,
              L = m->num_hidden_layers + m->num_nextn_predict_layers;
    if (!o->ctx) o->ctx = made_for > 0 && made_for < 4096 ? made_for : 4096;
    plan(s, o->chunk < o->ctx ? o->chunk : o->ctx, o->ctx, 1);
    const census n = take_census(s->c, o);
    const estimate e = estimate_memory(s);
    const double most = available_memory(o), element = (double)mla_dtype_bytes(o->caches.dtype, MLA_GROUP) / MLA_GROUP;
    const double latent = m->kv_lora_rank + m->qk_rope_head_dim,
                 head = m->qk_nope_head_dim + m->qk_rope_head_dim + m->v_head_dim;
    const double C = m->linear_head_dim, state = m->linear_num_heads * C * (C + 3.0 * (m->linear_conv_kernel_dim - 1));
    int indexers = 0, states = 0;
    for (int i = 0; i < L; i++) states += s->c->weights.layers[i].kda.q.weight.data != NULL;
    for (int i = 0; i < L; i++) indexers += s->c->weights.layers[i].attn.indexer.wk.weight.data != NULL;
    const double index =
        (double)indexers * m->index_head_dim * ((double)mla_dtype_bytes(o->caches.index_dtype, MLA_GROUP) / MLA_GROUP);
    const double cache = latent * (L - states) * element + index,
                 plain = head * m->num_attention_heads * (L - states) * element;
    double total = 0, bytes = 0;
    int moe = 0;
    for (int k = 0; k <= CHECKPOINT_CLASS_COUNT; k++) total += n.count[k], bytes += n.bytes[k];
    for (int i = 0; i < L; i++) moe += s->c->weights.layers[i].moe.experts != NULL;
    /* One token reads one row of the embedding, but all of a tied head. */
    double active = total - n.count[CHECKPOINT_EXPERTS] * (E > 0 ? (double)(E - K) / E : 0);
    if (s->c->weights.head.data) active -= n.count[CHECKPOINT_EMBED] - m->hidden_size;
    if (o->given[OPTION_JSON]) {
        printf(
            "{\"model_type\":\"%s\",\"layers\":%d,\"moe_layers\":%d,\"hidden_size\":%d,\"heads\":%d,\"q_lora_rank\":%d,"
            "\"kv_"
            "lora_rank\":%d,"
            "\"qk_nope_head_dim\":%d,\"qk_rope_head_dim\":%d,\"v_head_dim\":%d,\"experts\":%d,\"experts_per_token\":%d,"
            "\"shared_experts\":%d,\"expert_groups\":%d,\"expert_groups_per_token\":%d,"
            "\"vocab_size\":%d,\"max_position_embeddings\":%d,\"parameters\":%.0f,\"active_parameters\":%.0f,\"weights_"
            "bytes\":%.0f,",
            s->c->model_type, L, moe, m->hidden_size, m->num_attention_heads, m->q_lora_rank, m->kv_lora_rank,
            m->qk_nope_head_dim, m->qk_rope_head_dim, m->v_head_dim, E, K, m->n_shared_experts, m->n_group,
            m->topk_group, m->vocab_size, made_for, total, active, bytes);
        if (m->index_topk)
            printf("\"indexers\":%d,\"index_n_heads\":%d,\"index_head_dim\":%d,\"index_topk\":%d,\"index_cache_dtype\":"
                   "\"%s\",\"index_cache_bytes_"
                   "per_token\":%.0f,",
                   indexers, m->index_n_heads, m->index_head_dim, m->index_topk, mla_dtype_name(o->caches.index_dtype),
                   index);
        printf("\"cache_dtype\":\"%s\",\"cache_bytes_per_token\":%.0f,\"plain_cache_bytes_per_token\":%.0f,\"ctx\":%d,"
               "\"mapped_"
               "bytes\":%.0f,"
               "\"converted_bytes\":%.0f,\"context_bytes\":%.0f,\"cache_bytes\":%.0f,\"logits_bytes\":%.0f,\"total_"
               "bytes\":%.0f,"
               "\"available_bytes\":%.0f}\n",
               mla_dtype_name(o->caches.dtype), cache, plain, o->ctx, e.mapped, e.converted, e.context, e.cache,
               e.logits, e.total, most < 1e18 ? most : -1);
    } else {
        printf("model        %s, made for %d tokens, vocabulary of %d\n", s->c->model_type, made_for, m->vocab_size);
        if (s->c->gguf) print_file(s->c->gguf);
        if (s->c->unread) printf("config       keys that are not known: %s\n", s->c->unread);
        printf("layers       %d: %d dense, %d with experts; hidden size %d\n", L, L - moe, moe, m->hidden_size);
        printf("experts      %d routed, %d of them for a token, %d shared\n", E, K, m->n_shared_experts);
        if (s->c->groups_assumed)
            printf("groups       %d, %d of them for a token; the file names none: %s (--expert-groups)\n", m->n_group,
                   m->topk_group, o->groups == (int)CHECKPOINT_GROUPS_FILE ? "as llama.cpp" : s->c->groups_assumed);
        printf("attention    %d heads of %d + %d, values of %d; latents: q %d, kv %d\n", m->num_attention_heads,
               m->qk_nope_head_dim, m->qk_rope_head_dim, m->v_head_dim, m->q_lora_rank, m->kv_lora_rank);
        printf("parameters   %.0f, of which a token takes %.0f\n", total, active);
        printf("weights      %s\n", amount(text[0], bytes));
        if (s->c->n_others)
            printf("other        %d tensors of other parts, such as vision, are left alone: %s\n", s->c->n_others,
                   amount(text[0], s->c->other_bytes));
        if (m->index_topk)
            printf(
                "sparse       %d of %d layers have an indexer of %d heads of %d, which chooses %d keys for a token\n",
                indexers, L, m->index_n_heads, m->index_head_dim, m->index_topk);
        if (states)
            printf("states       %d of %d layers are KDA: %d heads of %d, %s a sequence\n", states, L,
                   m->linear_num_heads, m->linear_head_dim, amount(text[0], states * state * sizeof(float)));
        printf("cache        %s a token in %s", amount(text[0], cache), mla_dtype_name(o->caches.dtype));
        if (m->index_topk)
            printf(" (%s of it index keys in %s)", amount(text[2], index), mla_dtype_name(o->caches.index_dtype));
        printf("; keys and values of all heads would take %s, %.1f times as much\n", amount(text[1], plain),
               plain / cache);
        printf("memory       %s for %d tokens: weights mapped %s, converted %s, context %s, cache %s\n",
               amount(text[0], e.total), o->ctx, amount(text[1], e.mapped), amount(text[2], e.converted),
               amount(text[3], e.context), amount(text[4], e.cache));
        if (most < 1e18) printf("free         %s%s\n", amount(text[0], most), e.total > most ? ": too little" : "");
    }
    options_flush();
    close_session(s);
    return 0;
}

/* ---- --tokenize, --detokenize ------------------------------------------------------------------------------------ */

static int run_tokens(options *o) {
    session it, *s = &it;
    open_files(s, o);
    (o->mode == TOKENIZE ? sink_tokenize : sink_detokenize)(s->tokenizer);
    close_session(s);
    return 0;
}

int main(int argc, char **argv) {
    options o;
    options_here.name = "generate";
    if (options_streams()) fail(1, "stdout is closed"); /* a closed pipe is an error of write, and reported as one */
    argv = options_arguments(&argc, argv);
    parse(&o, argc, argv);
    const int status = o.mode & (TEXT | TOKENS) ? run_prompt(&o)
                       : o.mode == CHAT         ? run_chat(&o)
                       : o.mode == PERPLEXITY   ? run_perplexity(&o)
                       : o.mode == INFO         ? run_info(&o)
                                                : run_tokens(&o);
    free(o.tokens.of), free(o.stops.of);
    return status;
}
