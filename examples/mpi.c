/* mpi.c - runs one model on several machines, or in several processes of one, over any MPI: cut in width (mla_shard:
   heads, columns, experts), in depth (ranges of layers), or both.
   mpicc -O2 mpi.c -lm -pthread;   mpirun -n 4 mpi --model DIR --width 2 --depth 2 --prompt "Once upon a time"

   Rank stage * width + w has part w of the layers of a stage, so that neighbours share a stage. All ranks know all
   prompts; those of the last stage choose the tokens, all the same ones, and tell those of the first.

   CONTENTS   the command line, the plan, opening, the pipeline, multi-token prediction, conversations, the end. */
#define _DEFAULT_SOURCE /* POSIX, also under -std=c99 */
#define MLA_IMPLEMENTATION
#include "../mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "checkpoint.h"
#include "quantize.h"
#define TOKENIZER_IMPLEMENTATION
#define SAMPLER_IMPLEMENTATION
#define JINJA_IMPLEMENTATION
#define CHAT_IMPLEMENTATION
#define TEXT_IMPLEMENTATION
#define OPTIONS_IMPLEMENTATION
#define LANGUAGE_IMPLEMENTATION
#define LINE_IMPLEMENTATION
#define SINK_IMPLEMENTATION
#define DIALOG_IMPLEMENTATION
#include "dialog.h"
#define PERPLEXITY_IMPLEMENTATION
#include "perplexity.h"
#define SPECULATIVE_IMPLEMENTATION
#include "speculative.h"
#define SYNTHETIC_IMPLEMENTATION
#include "synthetic.h"
#define THREADS_IMPLEMENTATION
#include "threads.h"
#define WIRE_IMPLEMENTATION
#include "wire.h"
#define PARTS_IMPLEMENTATION
#include "parts.h"
#define RANKS_IMPLEMENTATION
#include "ranks.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#define need        options_need
#define now         options_now
#define refuse(...) (ranks_alike(), options_fail(__VA_ARGS__))
#define fail(...)   (ranks_alone(), options_fail(1, __VA_ARGS__))
enum { TAG_JOB = 8, TAG_HIDDEN, TAG_TOKENS };

/* ---- the command line -------------------------------------------------------------------------------------------- */

typedef struct options {
    const char *model, *synthetic, *preset, *prompt_file, *tokenizer, *logits, *system, *source, *tools, *perplexity;
    options_texts prompts, stops;
    options_ints tokens;
    int width, depth, n, ctx, threads, chunk, bench, copies, plan, measure, experts, overlap, dense, pin, mtp,
        ignore_eos, no_echo, print_tokens, fast, isa, attn, activations, quant, groups, cache, index_cache, chat, think,
        json, info, tokenize, detokenize, classes[CHECKPOINT_CLASS_COUNT];
    sampler_desc sampling;
    uint64_t seed;
    double bits, read, link, latency;
} options;

static void help(void) {
    fputs("usage: mpirun -n N mpi --model DIR|FILE.gguf [--width W] [--depth D] --prompt TEXT [options]\n"
          "N is W * D. Rank 0 speaks; each rank reads DIR or FILE, and touches its own part of it.\n"
          "  --width W         ranks that share each layer [N / depth]; --depth D: ranges of layers [1]\n"
          "  --prompt TEXT     may be given again: texts run together, in depth one after the other through\n"
          "                    the stages; or --prompt-file F (-: standard input), --tokens \"1 2 3\"\n"
          "  --copies K        each prompt K times;  --bench P: a prompt of P tokens of no meaning\n"
          "  --experts HOW     range: a rank has some experts; split: some columns of each, of many tokens any that\n"
          "                    are as much work: for ranks that share memory [split if all of a stage do, else range]\n"
          "  --overlap         sums are made by a thread of their own while half of a batch computes\n"
          "  --synthetic NAME  lite6, lite6:q8 or lite6:bf16: random weights, made by each rank\n"
          "  --info            which layers and how many bytes of weights each rank has; nothing is run\n"
          "  --measure         latency and bandwidth between ranks 0 and 1, as --plan takes them\n"
          "  --plan N          what N machines take, a rank each, and how fast one text becomes longer.\n"
          "                    --model, --synthetic, or --preset NAME with --dense K [1] layers without\n"
          "                    experts and --bits B [4.5] a weight; --read GB/s of weights [100],\n"
          "                    --link GB/s [1.25], --latency US [50]\n"
          "generate's options, which its --help explains, all but --memory and --force; of these:\n"
          "--threads [the machine's, divided among its ranks]; --mtp: one text, depth 1; --logits: of the first\n"
          "prompt, written where the last stage is; --json: a line for each text; --quant: each rank converts\n"
          "all weights, better done once, by convert.\n" PARTS_FORMULA
          "Exit status: 0 done, 1 failed, 2 wrong command line.\n",
          stdout);
}
static const char *isa_name(int i) { return mla_isa_name((mla_isa)i); }
static void parse(options *o, int argc, char **argv) {
    char isas[32 * MLA_ISA_COUNT];
    sampler_desc *s = &o->sampling;
    memset(o, 0, sizeof *o);
    o->chunk = 512, o->n = -1, s->temperature = -1, o->bits = 4.5, o->read = 100, o->link = 1.25, o->latency = 50,
    o->copies = 1, o->dense = 1;
    o->seed = (uint64_t)time(NULL) * 1000003u % 4294967291u;
    for (int k = 0; k < CHECKPOINT_CLASS_COUNT; k++) o->classes[k] = -1;
    options_list(isas, MLA_ISA_COUNT, isa_name);
    /* clang-format off */
    const options_entry table[] = {
        OPTIONS_TEXT("-m --model", &o->model), OPTIONS_TEXT("--synthetic", &o->synthetic),
        OPTIONS_TEXT("--preset", &o->preset), OPTIONS_TEXTS("-p --prompt", &o->prompts),
        OPTIONS_TEXT("--prompt-file", &o->prompt_file), OPTIONS_INTS("--tokens", &o->tokens, 0, INT_MAX),
        OPTIONS_TEXTS("--stop", &o->stops), OPTIONS_TEXT("--tokenizer", &o->tokenizer),
        OPTIONS_TEXT("--logits", &o->logits), OPTIONS_TEXT("--perplexity", &o->perplexity),
        OPTIONS_FLAG("--chat", &o->chat), OPTIONS_TEXT("--system", &o->system), OPTIONS_TEXT("--template", &o->source),
        OPTIONS_TEXT("--tools", &o->tools), OPTIONS_FLAG("--think", &o->think), OPTIONS_FLAG("--json", &o->json),
        OPTIONS_FLAG("--info", &o->info), OPTIONS_FLAG("--tokenize", &o->tokenize),
        OPTIONS_FLAG("--detokenize", &o->detokenize), OPTIONS_INT("--width", &o->width, 1, 4096),
        OPTIONS_INT("--depth", &o->depth, 1, 4096), OPTIONS_INT("--plan", &o->plan, 1, 4096),
        OPTIONS_INT("-n", &o->n, 0, INT_MAX / 2), OPTIONS_INT("-c --ctx", &o->ctx, 2, INT_MAX),
        OPTIONS_INT("-t --threads", &o->threads, 1, 4096), OPTIONS_INT("--chunk", &o->chunk, 1, 65536),
        OPTIONS_INT("--bench", &o->bench, 1, INT_MAX / 2), OPTIONS_INT("--copies", &o->copies, 1, 4096),
        OPTIONS_INT("--dense", &o->dense, 0, 1000), OPTIONS_NUMBER("--temp", &s->temperature, 0, 1e6),
        OPTIONS_INT("--top-k", &s->top_k, -1, INT_MAX), OPTIONS_NUMBER("--top-p", &s->top_p, 1e-9, 1),
        OPTIONS_NUMBER("--min-p", &s->min_p, 0, 1), OPTIONS_NUMBER("--repeat-penalty", &s->repeat_penalty, 0.01, 100),
        OPTIONS_INT("--repeat-last", &s->repeat_last, 1, SAMPLER_MAX_LAST), OPTIONS_SEED("--seed", &o->seed),
        OPTIONS_NUMBER("--bits", &o->bits, 0.1, 64), OPTIONS_NUMBER("--read", &o->read, 1e-3, 1e6),
        OPTIONS_NUMBER("--link", &o->link, 1e-6, 1e6), OPTIONS_NUMBER("--latency", &o->latency, 0, 1e9),
        OPTIONS_FLAG("--measure", &o->measure), OPTIONS_FLAG("--overlap", &o->overlap), OPTIONS_FLAG("--pin", &o->pin),
        OPTIONS_FLAG("--mtp", &o->mtp), OPTIONS_FLAG("--ignore-eos", &o->ignore_eos), OPTIONS_FLAG("--fast", &o->fast),
        OPTIONS_FLAG("--no-echo", &o->no_echo), OPTIONS_FLAG("--print-tokens", &o->print_tokens),
        OPTIONS_WORD("--isa", &o->isa, isas), OPTIONS_WORD("--attn", &o->attn, "auto naive absorbed"),
        OPTIONS_WORD("--experts", &o->experts, "auto range split"),
        OPTIONS_WORD("--activations", &o->activations, "auto f32 int8 bf16 e4m3"),
        OPTIONS_WORD("--quant", &o->quant, "none q8 q4 q4_k q5_k q6_k iq4_nl"),
        OPTIONS_PAIRS("--quant-class", o->classes, "attn kv_b dense experts shared head embed",
                      "keep q8 q4 q4_k q5_k q6_k iq4_nl"),
        OPTIONS_WORD("--expert-groups", &o->groups, "model file"),
        OPTIONS_WORD("--cache", &o->cache, "f32 f16 bf16 q8"),
        OPTIONS_WORD("--index-cache", &o->index_cache, "f32 f16 bf16 q8"),
    };
    /* clang-format on */
    options_here.version = MLA_VERSION, options_here.help = help;
    options_parse(table, sizeof table / sizeof *table, NULL, argc, argv), options_here.model = o->model;
    if (s->top_k < 0) s->top_k = 0;
    o->print_tokens |= o->tokens.n > 0;
    const int kinds = (o->prompts.n > 0) + !!o->prompt_file + (o->tokens.n > 0) + (o->bench > 0) + o->chat +
                      !!o->perplexity + o->info + o->tokenize + o->detokenize;
    if (o->measure) return;
    if ((o->tokenize || o->detokenize) && kinds == 1 && (o->model || o->tokenizer)) return;
    if (!!o->model + !!o->synthetic + (o->preset && o->plan) != 1)
        refuse(2, "one of --model, --synthetic and (with --plan) --preset");
    if (o->plan) return;
    if (kinds != 1)
        refuse(2, "one of --prompt, --prompt-file, --tokens, --bench, --chat, --perplexity, --info and --tokenize");
    if (!o->chat && (o->system || o->source || o->tools || o->think))
        refuse(2, "--system, --template, --tools and --think go with --chat");
    if (!o->depth) o->depth = o->width && ranks_n % o->width == 0 ? ranks_n / o->width : 1;
    if (!o->width) o->width = ranks_n / o->depth;
    if (o->width * o->depth != ranks_n)
        refuse(2, "%d ranks (mpirun -n), but --width %d and --depth %d", ranks_n, o->width, o->depth);
    if (o->mtp && (o->depth > 1 || o->prompts.n * o->copies > 1 || o->logits || o->chat || o->perplexity))
        refuse(2, "--mtp: one text, --depth 1, no --logits, --chat or --perplexity");
    if (o->fast && (mla_isa_available(MLA_ISA_BF16) || mla_isa_available(MLA_ISA_AMX))) o->activations = MLA_ACT_BF16;
    if (o->n < 0) o->n = o->chat ? INT_MAX / 2 : o->tokens.n ? 16 : 256;
    if (o->perplexity) o->n = 0, o->copies = 1;
}

/* ---- the plan ---------------------------------------------------------------------------------------------------- */

static void plan(const options *o, const checkpoint *files) {
    parts_plan p = {.split = o->experts == 2, .dense = o->dense, .weight = o->bits / 8};
    mla_config c;
    mla_error err;
    if (!files && mla_config_preset(&c, o->preset, &err)) refuse(2, "--preset: %s", err.text);
    parts_plan_of(&p, &c, files);
    p.read = o->read * 1e9, p.link = o->link * 1e9, p.latency = o->latency * 1e-6, p.direct_of = wire_direct;
    if (ranks_me == 0) parts_plan_print(&p, &c, files ? files->model_type : o->preset, o->plan, o->width, o->depth);
    ranks_end(0);
}
static void measure(void) {
    double latency, link;
    if (ranks_n < 2 || !wire_measure(MPI_COMM_WORLD, &latency, &link)) refuse(2, "--measure: two ranks, mpirun -n 2");
    if (ranks_me == 0) printf("--latency %.1f --link %.4f\n", latency * 1e6, link * 1e-9);
    ranks_end(0);
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

typedef struct text { /* a prompt and what comes after it */
    chat_tokens ids;
    size_t prompt, at;         /* tokens of the prompt; that have been run, or are on their way */
    int made, over, most, eos; /* most: tokens that are made; eos: ends it, too (-1: none) */
    size_t window;             /* --perplexity */
    sink_ending end;
    mla_cache *cache;
    sampler *sampler;
    stop_scan *stop;
    sink own, *out;
} text;
typedef struct session {
    options o;
    checkpoint *c;
    language *language;
    tokenizer *tokenizer; /* NULL: there is none */
    mla_model *model;
    mla_context *context;
    thread_pool *pool;
    wire wire;
    text *texts;
    int n_texts, width, depth, stage, begin, end, last, max_tokens;
    float *logits, *hidden[2]; /* hidden: sent to the next stage, one after the other */
    int *jobs[2], *tokens, turn;
    MPI_Request sent[2][2], told;
    FILE *file; /* --logits */
    perplexity ppl;
    double start, first, finish, bytes; /* bytes: of weights, that all ranks read */
} session;

static void open_files(session *s) {
    static const mla_dtype dtypes[] = {MLA_Q4, MLA_Q8, MLA_BF16};
    options *o = &s->o;
    mla_error err;
    mla_result r = MLA_OK;
    const checkpoint_options how = {.mtp = o->mtp, .groups = (checkpoint_groups)o->groups};
    const language_files files = {o->model, o->tokenizer, o->tokens.n && !o->stops.n};
    const int type = o->synthetic ? options_word("--synthetic", o->synthetic, "lite6 lite6:q8 lite6:bf16") : 0;
    if (o->synthetic) r = synthetic_open(&s->c, &s->tokenizer, "lite6", dtypes[type], &err);
    else r = checkpoint_open_with(&s->c, o->model, &how, &err);
    ranks_agree(r ? err.text : "");
    if (o->plan || o->info) return;
    if (o->model && !o->bench) r = language_open(&s->language, &files, s->c, &err);
    ranks_agree(r ? err.text : "");
    if (s->language) s->tokenizer = s->language->tokenizer;
    if (ranks_me == 0) language_notes(s->language, s->c, options_say);
    uint64_t mine = parts_fingerprint(s->c), theirs = mine;
    MPI_Bcast(&theirs, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    ranks_agree(mine == theirs ? "" : "its model is not that of rank 0");
    if (o->mtp && !s->c->config.num_nextn_predict_layers) refuse(1, "--mtp: the model has no layer for it");
    if ((o->chat || o->perplexity) && !s->language) refuse(2, "--chat and --perplexity: --model with a tokenizer");
}
/* --tokenize and --detokenize: of rank 0's standard input. */
static void run_tokens(const options *o) {
    const language_files files = {o->model, o->tokenizer, 0};
    language *l = NULL;
    mla_error err;
    ranks_agree(ranks_me == 0 && language_open(&l, &files, NULL, &err) ? err.text : "");
    ranks_alone();
    if (l) (o->tokenize ? sink_tokenize : sink_detokenize)(l->tokenizer);
    language_close(l), ranks_end(0);
}
static int usual_context(const session *s, int n) {
    const int made_for = s->c->max_position_embeddings;
    return made_for > 1 && made_for < n ? made_for : n;
}
/* Prompts, as rank 0 reads them. */
static void open_prompts(session *s) {
    options *o = &s->o;
    const int n = o->prompts.n ? o->prompts.n : 1, V = s->c->config.vocab_size;
    text_buffer all = {NULL, 0, 0, 0};
    mla_error err;
    mla_result r = MLA_OK;
    s->n_texts = n * o->copies, s->texts = need(calloc((size_t)s->n_texts, sizeof *s->texts));
    if (o->chat) return;
    if (ranks_me == 0 && (o->prompt_file || o->perplexity)) {
        ranks_alone(), sink_read(&all, o->perplexity ? o->perplexity : o->prompt_file), ranks_alike();
        if (!o->perplexity && all.n && all.data[all.n - 1] == '\n') all.n--;
    }
    for (int i = 0; i < n && ranks_me == 0 && !r; i++) {
        chat_tokens *ids = &s->texts[i].ids;
        const char *t = o->prompts.n ? o->prompts.of[i] : all.data;
        const size_t bytes = o->prompts.n ? strlen(t) : all.n;
        if (t && s->language) r = language_encode(ids, s->language, t, bytes, &err);
        else if (t) r = chat_append_text(ids, s->tokenizer, t, bytes, 0, &err);
        for (int j = 0, id; !r && (o->tokens.n ? (size_t)j < o->tokens.n : j < o->bench); j++) {
            id = o->tokens.n ? o->tokens.of[j] : (int)((j * 7919LL + i * 31 + 11) % V);
            if (id < V) r = chat_append(ids, &id, 1, &err);
            else fail("--tokens: %d is not in 0..%d, the model's vocabulary", id, V - 1);
        }
        if (!r && !ids->n) fail("prompt %d is empty", i + 1);
    }
    text_clear(&all);
    ranks_agree(r ? err.text : "");
    for (int i = 0; i < s->n_texts; i++) {
        text *t = &s->texts[i];
        uint64_t count = s->texts[i % n].ids.n;
        MPI_Bcast(&count, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
        int *ids = need(malloc((count + (size_t)o->n + 1) * sizeof *ids));
        if (ranks_me == 0) memcpy(ids, s->texts[i % n].ids.ids, count * sizeof *ids);
        MPI_Bcast(ids, (int)count, MPI_INT, 0, MPI_COMM_WORLD);
        if (i < n) free(t->ids.ids);
        t->ids.ids = ids, t->ids.n = t->prompt = count;
    }
    if (!o->perplexity) return;
    if (!o->ctx) o->ctx = usual_context(s, 512);
    if (o->chunk > o->ctx) o->chunk = o->ctx;
    perplexity_begin(&s->ppl, o->perplexity, s->texts->ids.ids, s->texts->ids.n, s->c->bos_token_id, o->ctx);
    memset(&s->texts->ids, 0, sizeof s->texts->ids), s->texts->prompt = 0;
    s->texts = need(realloc(s->texts, (size_t)o->depth * sizeof *s->texts)), s->n_texts = o->depth;
    for (int i = 1; i < s->n_texts; i++) s->texts[i] = *s->texts; /* a window for each stage */
}
/* A rank's weights come into memory, in steps, so that rank 0 can say how much there is of all. */
static void load(session *s, int split) {
    double done[2] = {0, 0}, all[2]; /* bytes in memory; ranks that are not done */
    char size[32];
    parts_ranges r;
    memset(&r, 0, sizeof r);
    parts_of(&r, s->c, s->begin, s->end, s->wire.rank, s->width, split, s->last);
    if (r.failed) fail("out of memory");
    MPI_Allreduce(&r.bytes, &s->bytes, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    do {
        done[0] += parts_touch(&r, 1 << 26), done[1] = r.touched < r.n;
        MPI_Allreduce(done, all, 2, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
        if (ranks_me == 0) options_progress("loading", all[0], s->bytes, options_amount(size, s->bytes), 0);
    } while (all[1] > 0);
    free(r.of);
}

static size_t wide(const session *s) { /* a token's state between layers */
    return (size_t)mla_model_config(s->model)->hidden_size * (size_t)mla_model_config(s->model)->hc_mult;
}
/* The rest of it: what each text has, and room for what is sent. */
static void start_texts(session *s, int capacity) {
    static const mla_dtype dtypes[] = {MLA_F32, MLA_F16, MLA_BF16, MLA_Q8};
    options *o = &s->o;
    mla_cache_desc kd = {.capacity = capacity, .alloc = checkpoint_huge_pages};
    const size_t V = (size_t)s->c->config.vocab_size, D = wide(s);
    const int theirs = o->sampling.temperature < 0; /* nothing was asked for: as generation_config.json says */
    mla_error err;
    MPI_Bcast(&o->seed, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    if (theirs) o->sampling.temperature = 0;
    kd.dtype = dtypes[o->cache], kd.index_dtype = dtypes[o->index_cache], kd.snapshots = o->chat ? 4 : 0;
    mla_result r = theirs && s->language && !o->tokens.n ? language_sampling(s->language, &o->sampling, &err) : MLA_OK;
    for (int i = 0; i < s->n_texts && !r; i++) {
        text *t = &s->texts[i];
        o->sampling.seed = o->seed + (uint64_t)i;
        t->most = o->n, t->eos = -1, t->out = &t->own;
        r = mla_cache_create(&t->cache, s->model, &kd, &err);
        if (!r) r = sampler_create(&t->sampler, (int)V, &o->sampling, &err);
        if (!r && o->stops.n) r = stop_create(&t->stop, o->stops.of, o->stops.n, &err);
        for (size_t j = 0; j < t->prompt && !r; j++) sampler_accept(t->sampler, t->ids.ids[j]);
        t->own.tokenizer = s->tokenizer, t->own.keep = o->chat;
        t->own.print = ranks_me == 0 && s->tokenizer && s->n_texts == 1 && !o->print_tokens && !o->json && !o->chat;
    }
    ranks_agree(r ? err.text : "");
    if (o->logits && s->last && s->wire.rank == 0 && !(s->file = options_open(o->logits, 1)))
        fail("cannot write %s: %s", o->logits, options_why());
    s->logits = need(malloc((size_t)(o->logits || o->perplexity ? s->max_tokens : s->n_texts) * V * sizeof *s->logits));
    for (int i = 0; i < 2; i++) {
        s->hidden[i] = need(malloc((size_t)s->max_tokens * D * sizeof *s->hidden[i]));
        s->jobs[i] = need(calloc(3 * (size_t)s->n_texts + 2, sizeof(int)));
        s->sent[i][0] = s->sent[i][1] = MPI_REQUEST_NULL;
    }
    s->tokens = need(calloc((size_t)s->max_tokens, sizeof *s->tokens)), s->told = MPI_REQUEST_NULL;
}
/* Which ranks share what: threads, the wire. Gives 1 if experts are split. */
static int place(session *s) {
    options *o = &s->o;
    MPI_Comm stage;
    int any, cores = threads_available(), online = (int)sysconf(_SC_NPROCESSORS_ONLN);
    MPI_Comm_split(MPI_COMM_WORLD, s->stage, ranks_me, &stage);
    const int local = wire_local(MPI_COMM_WORLD), apart = wire_local(stage) < s->width;
    const int fair = online / local > 0 ? online / local : 1;
    MPI_Allreduce(&apart, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    if (!wire_open(&s->wire, stage, o->overlap && s->width > 1))
        fail("no thread for --overlap is to be had, or no memory");
    if (!o->threads) o->threads = cores < fair ? cores : fair;
    if (ranks_me == 0 && !options_here.quiet && cores < fair)
        fprintf(stderr, "note: mpirun lets this rank have %d of %d cores (--bind-to none: all)\n", cores, online);
    return o->experts ? o->experts == 2 : !any;
}
/* Threads, model and context. */
static void start(session *s) {
    options *o = &s->o;
    mla_error err;
    int longest = 0;
    const int split = place(s);
    for (int i = 0; i < s->n_texts; i++)
        longest = (int)s->texts[i].prompt > longest ? (int)s->texts[i].prompt : longest;
    if (!o->ctx && o->chat) o->ctx = usual_context(s, 4096);
    const int capacity = o->ctx ? o->ctx : longest + o->n;
    if (longest > capacity) refuse(1, "a prompt has %d tokens, and there is room for %d (--ctx)", longest, capacity);
    mla_rope *rope = &s->c->config.rope;
    if (rope->scaling == MLA_ROPE_DYNAMIC || rope->scaling == MLA_ROPE_LONGROPE) rope->length = capacity;
    snprintf(err.text, sizeof err.text, "%d threads are not to be had", o->threads);
    ranks_agree((o->pin ? threads_create_pinned : threads_create)(&s->pool, o->threads) ? "" : err.text);
    checkpoint_quant how = {.form = (checkpoint_form)(o->quant ? CHECKPOINT_Q8 + o->quant - 1 : 0)};
    for (int k = 0; k < CHECKPOINT_CLASS_COUNT; k++)
        if (o->classes[k] >= 0) how.classes[k] = (checkpoint_form)(CHECKPOINT_KEEP + o->classes[k]);
    how.threads = o->threads, how.run = threads_run, how.run_user = s->pool, how.repack = 1;
    ranks_agree(o->quant && checkpoint_quantize(s->c, &how, &err) ? err.text : "");
    if (o->model && !how.form) load(s, split);
    ranks_agree(mla_model_create(&s->model, &s->c->config, &s->c->weights, NULL, &err) ? err.text : "");
    s->max_tokens = (o->chunk > s->n_texts ? o->chunk : s->n_texts) + (o->mtp ? speculation_least(s->model) : 0);
    const mla_shard shard = {
        s->wire.rank, s->width, split, wire_reduce, wire_gather, s->wire.background ? wire_wait : NULL, &s->wire};
    mla_context_desc d = {.max_tokens = s->max_tokens, .threads = o->threads, .team = 1, .shard = shard};
    d.run = threads_run, d.run_user = s->pool, d.wait = threads_wait, d.wake = threads_wake;
    d.isa = wire_isa(MPI_COMM_WORLD, (mla_isa)o->isa), d.attn = (mla_attn_path)o->attn,
    d.activations = (mla_activations)o->activations, d.alloc = checkpoint_touched_pages;
    ranks_agree(mla_context_create(&s->context, s->model, &d, &err) ? err.text : "");
    start_texts(s, capacity);
}

/* ---- the pipeline ------------------------------------------------------------------------------------------------ */
/* A job is one call of every stage: how many sequences, then of each which, its tokens and those with logits. The first
   stage makes jobs, for one group of texts after the other, so that each stage has one to work on; its state goes from
   stage to stage, tokens from the last one to the first. A job without sequences is the end. */
/* A token comes after a text, on every rank that gets to know it; whether the text is over. */
static void append(session *s, text *t, int token) {
    t->ids.ids[t->ids.n++] = token, t->made++;
    sampler_accept(t->sampler, token);
    int ended = token == t->eos;
    for (int i = 0; i < s->c->n_eos && !s->o.ignore_eos; i++) ended |= s->c->eos_token_id[i] == token;
    t->out->stop = t->stop, t->end = SINK_EOS;
    if (!ended && s->tokenizer && sink_token(t->out, token)) ended = 1, t->end = SINK_STRING;
    if (!ended) t->end = SINK_LENGTH;
    t->over = ended || t->made >= t->most || mla_cache_length(t->cache) >= mla_cache_capacity(t->cache);
    if (s->first == 0) s->first = now();
}
static int peer(const session *s, int stage) { return stage * s->width + s->wire.rank; }

/* The last stage has logits of a job: they are scored, written, and become tokens, which the first stage is told. */
static void choose(session *s, const int *job, const mla_sequence *q) {
    const size_t V = (size_t)s->c->config.vocab_size;
    int *tokens = s->tokens, told = 0;
    mla_error err;
    MPI_Wait(&s->told, MPI_STATUS_IGNORE); /* tokens on their way are in s->tokens */
    for (int i = 0, row = 0; i < job[0]; i++) {
        text *t = &s->texts[job[1 + 3 * i]];
        row += q[i].n_logits;
        const float *from = s->logits + (size_t)(row - q[i].n_logits) * V;
        const size_t length = (size_t)mla_cache_length(t->cache), first = length - (size_t)q[i].n_logits;
        for (size_t r = first; r < length && s->o.perplexity; r++)
            perplexity_score(&s->ppl, t->window, r, from + (r - first) * V, (int)V, s->tokenizer);
        if (s->file && t == s->texts && length <= t->prompt)
            if (fwrite(from, V * sizeof *from, (size_t)q[i].n_logits, s->file) != (size_t)q[i].n_logits)
                fail("cannot write %s", s->o.logits);
        if (length < t->prompt) continue;
        const int token = t->most == 0 ? 0 : sampler_next(t->sampler, s->logits + (size_t)(row - 1) * V, &err);
        if (token < 0)
            fail("after %d tokens %s: the model's logits are not numbers", mla_cache_length(t->cache), err.text);
        tokens[told++] = token;
        if (t->most == 0) t->over = 1;
        else append(s, t, token);
    }
    if (s->depth > 1 && told) MPI_Isend(tokens, told, MPI_INT, peer(s, 0), TAG_TOKENS, MPI_COMM_WORLD, &s->told);
}
/* The layers of this stage on a job, from hidden, the state before them (NULL: tokens). */
static void run_job(session *s, const int *job, const float *hidden) {
    const size_t D = wide(s);
    mla_sequence *q = need(calloc((size_t)job[0], sizeof *q));
    float **states = need(calloc((size_t)s->c->config.num_hidden_layers + 1, sizeof *states));
    int *tokens = s->tokens, rows = 0;
    mla_error err;
    const int turn = s->turn = !s->turn;
    wire_all(2, s->sent[turn]);
    for (int i = 0; i < job[0]; rows += job[2 + 3 * i++]) {
        text *t = &s->texts[job[1 + 3 * i]];
        q[i].cache = t->cache, q[i].n_tokens = job[2 + 3 * i], q[i].n_logits = job[3 + 3 * i];
        if (hidden) q[i].embeddings = hidden + (size_t)rows * D;
        else
            memcpy(tokens + rows, t->ids.ids + t->at, (size_t)q[i].n_tokens * sizeof *tokens),
                t->at += (size_t)q[i].n_tokens;
    }
    if (!s->last) states[s->end] = s->hidden[turn];
    const mla_outputs out = {.logits = s->last ? s->logits : NULL, .hidden = states};
    if (mla_layers_forward(s->context, s->begin, s->end, q, job[0], hidden ? NULL : tokens, &out))
        fail("%s", mla_context_error(s->context)->text);
    for (int i = 0; i < job[0] && !s->last; i++)
        if (mla_cache_extend(q[i].cache, q[i].n_tokens, &err)) fail("%s", err.text);
    if (!s->last) {
        memcpy(s->jobs[turn], job, (3 * (size_t)job[0] + 1) * sizeof *job);
        MPI_Isend(s->jobs[turn], 3 * job[0] + 1, MPI_INT, peer(s, s->stage + 1), TAG_JOB, MPI_COMM_WORLD,
                  &s->sent[turn][0]);
        MPI_Isend(s->hidden[turn], rows * (int)D, MPI_FLOAT, peer(s, s->stage + 1), TAG_HIDDEN, MPI_COMM_WORLD,
                  &s->sent[turn][1]);
    }
    for (int i = 0; i < job[0] && s->o.chat; i++)
        if (mla_cache_length(q[i].cache) == (int)s->texts[i].prompt) dialog_keep_states(q[i].cache);
    if (s->last) choose(s, job, q);
    free(q), free(states);
}
/* The next job for texts [from, to): prompts first; 0 sequences if they are over. */
static void next_job(session *s, int from, int to, int *job) {
    int active = 0, left = s->o.chunk;
    job[0] = 0;
    for (int i = from; i < to; i++) active += !s->texts[i].over;
    for (int i = from; i < to; i++) {
        text *t = &s->texts[i];
        if (t->over) continue;
        const int rest = (int)(t->ids.n - t->at), share = left / active > 0 ? left / active : 1,
                  n = rest < share ? rest : share;
        int *write = job + 1 + 3 * job[0]++;
        write[0] = i, write[1] = n, write[2] = t->at < t->prompt && s->o.logits && i == 0 ? n : n == rest;
        if (s->o.perplexity) write[2] = perplexity_rows(&s->ppl, t->window, t->at, n);
        left -= n, active--;
    }
}
/* What the last stage has made of the group's job arrives. */
static void take_tokens(session *s, const int *job) {
    int n = 0, *tokens = need(calloc((size_t)job[0], sizeof *tokens));
    for (int i = 0; i < job[0]; i++) n += s->texts[job[1 + 3 * i]].at == s->texts[job[1 + 3 * i]].ids.n;
    if (n) MPI_Recv(tokens, n, MPI_INT, peer(s, s->depth - 1), TAG_TOKENS, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    for (int i = 0, k = 0; i < job[0]; i++) {
        text *t = &s->texts[job[1 + 3 * i]];
        if (t->at < t->ids.n) continue;
        if (t->most == 0) t->over = 1, k++;
        else append(s, t, tokens[k++]);
    }
    free(tokens);
}
static void drive(session *s) {
    const int groups = s->n_texts < s->depth ? s->n_texts : s->depth, size = 3 * s->n_texts + 1;
    int *jobs = need(calloc((size_t)groups * (size_t)size, sizeof *jobs)), none = 0, any = 1;
    while (any) {
        any = 0;
        for (int g = 0, *job = jobs; g < groups; g++, job += size) {
            if (s->depth > 1 && job[0]) take_tokens(s, job);
            next_job(s, s->n_texts * g / groups, s->n_texts * (g + 1) / groups, job);
            any |= job[0] > 0;
            if (job[0]) run_job(s, job, NULL);
        }
    }
    if (s->depth > 1) MPI_Send(&none, 1, MPI_INT, peer(s, 1), TAG_JOB, MPI_COMM_WORLD);
    free(jobs);
}
static void follow(session *s) {
    const int most = 3 * s->n_texts + 1, D = (int)wide(s);
    int *job = need(calloc((size_t)most, sizeof *job));
    float *hidden = need(malloc((size_t)s->max_tokens * (size_t)D * sizeof *hidden));
    while (1) {
        MPI_Recv(job, most, MPI_INT, peer(s, s->stage - 1), TAG_JOB, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (job[0] == 0) break;
        MPI_Recv(hidden, s->max_tokens * D, MPI_FLOAT, peer(s, s->stage - 1), TAG_HIDDEN, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE);
        run_job(s, job, hidden);
    }
    if (!s->last) MPI_Send(job, 1, MPI_INT, peer(s, s->stage + 1), TAG_JOB, MPI_COMM_WORLD);
    free(job), free(hidden);
}

/* ---- multi-token prediction, conversations, windows of a text ---------------------------------------------------- */
/* All ranks guess and verify alike. */
static void run_ahead(session *s) {
    text *t = s->texts;
    speculation *g;
    mla_error err;
    if (speculation_create(&g, s->model, s->context, s->max_tokens, t->cache, &s->o.sampling, &err))
        fail("%s", err.text);
    for (size_t n; t->at < t->prompt; t->at += n) {
        const size_t rest = t->prompt - t->at, chunk = (size_t)speculation_chunk(g);
        n = rest < chunk ? rest : chunk;
        if (speculation_feed(g, t->ids.ids + t->at, (int)n, t->at + n == t->prompt, &(mla_outputs){.logits = s->logits},
                             &err))
            fail("%s", err.text);
    }
    for (int token; t->most > 0 && !t->over;) {
        if (t->made && speculation_run(g, t->ids.ids[t->ids.n - 1], t->sampler, t->most - t->made - 1, &err))
            fail("%s", err.text);
        token = t->made ? speculation_next(g, t->sampler, &err) : sampler_next(t->sampler, s->logits, &err);
        if (token < 0) fail("%s: the model's logits are not numbers", err.text);
        append(s, t, token);
    }
    speculation_destroy(g);
}

static void run_all(session *s) {
    s->first = 0, s->start = now();
    if (s->o.mtp) run_ahead(s);
    else if (s->stage == 0) drive(s);
    else follow(s);
    s->finish = now();
}
/* One answer to ids [n], up to most tokens behind them; rank 0 has them, and tells the others. 0: n is, the end. */
static int run_turn(session *s, const int *ids, int n, int most, int eos) {
    text *t = s->texts;
    int how[4] = {n, most, eos, 0}, same;
    while (ranks_me == 0 && how[3] + 1 < n && how[3] < mla_cache_length(t->cache) && t->ids.ids[how[3]] == ids[how[3]])
        how[3]++; /* the last token is always run */
    MPI_Bcast(how, 4, MPI_INT, 0, MPI_COMM_WORLD);
    if (!how[0]) return 0;
    do { /* to where all can go: states are not kept everywhere */
        const int mine = mla_cache_cut(t->cache, same = how[3]);
        MPI_Allreduce(&mine, &how[3], 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    } while (how[3] != same);
    mla_error err;
    if (mla_cache_truncate(t->cache, same, &err)) fail("%s", err.text);
    t->ids.ids = need(realloc(t->ids.ids, ((size_t)how[0] + (size_t)how[1] + 1) * sizeof *ids));
    if (ranks_me == 0) memcpy(t->ids.ids, ids, (size_t)n * sizeof *ids);
    MPI_Bcast(t->ids.ids, how[0], MPI_INT, 0, MPI_COMM_WORLD);
    t->ids.n = t->prompt = (size_t)how[0], t->at = (size_t)same, t->most = how[1], t->eos = how[2];
    t->made = t->over = 0;
    for (size_t i = t->at; i < t->prompt; i++) sampler_accept(t->sampler, t->ids.ids[i]);
    run_all(s);
    if (ranks_me > 0) sink_end(t->out);
    return 1;
}
static sink_ending answer(void *user, const chat_tokens *all, int most, chat_tokens *made, sink *out, double *rate) {
    session *s = user;
    text *t = s->texts;
    mla_error err;
    t->out = out;
    run_turn(s, all->ids, (int)all->n, most, s->language->eos_id);
    if (chat_append(made, t->ids.ids + t->prompt, t->ids.n - t->prompt, &err)) fail("%s", err.text);
    *rate = t->made > 1 ? (t->made - 1) / (s->finish - s->first) : 0;
    return t->end;
}
static void converse(session *s) {
    const options *o = &s->o;
    dialog_desc of = {s->language, o->system, o->source, o->tools, o->think, o->ctx, o->n, s, NULL, answer, NULL};
    if (ranks_me == 0) {
        ranks_alone();
        dialog *d = dialog_open(&of);
        if (dialog_run(d, s->texts->stop) == 1) fail("the conversation cannot go on");
        run_turn(s, NULL, 0, 0, 0);
        dialog_close(d);
    } else
        while (run_turn(s, NULL, 0, 0, 0)) continue;
}
/* Windows of the text, one for each stage at a time. */
static void run_windows(session *s) {
    int more = 1;
    for (size_t w = 0; more; w += (size_t)s->n_texts) {
        for (text *t = s->texts; t < s->texts + s->n_texts; t++) {
            t->window = w + (size_t)(t - s->texts), more = perplexity_window(&s->ppl, t->window, &t->ids);
            t->over = !more, t->at = 0, t->prompt = t->ids.n -= (size_t)more; /* of the last token nothing is asked */
            mla_cache_reset(t->cache);
        }
        run_all(s);
    }
    MPI_Bcast(s->ppl.sums, 3, MPI_DOUBLE, ranks_n - 1, MPI_COMM_WORLD);
    if (ranks_me == 0) perplexity_print(&s->ppl, s->o.json);
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void report(session *s) {
    double prompt = 0, made = 0;
    const double first = s->first > 0 ? s->first : s->finish;
    for (text *t = s->texts; t < s->texts + s->n_texts && ranks_me == 0; t++) {
        const int *ids = t->ids.ids + t->prompt;
        const size_t n = t->ids.n - t->prompt;
        prompt += (double)t->prompt, made += t->made;
        if (s->tokenizer) sink_end(t->out);
        if (s->o.print_tokens) t->out->tokenizer = NULL;
        if (s->o.json) {
            sink_summary(t->out, t->prompt, first - s->start, ids, n, s->finish - first,
                         (t->made - 1) / (s->finish - first + 1e-9), t->end);
            printf(",\"seed\":%llu,\"isa\":\"%s\",\"width\":%d,\"depth\":%d,\"threads\":%d}\n",
                   (unsigned long long)s->o.seed, mla_isa_name(mla_context_isa(s->context)), s->width, s->depth,
                   s->o.threads);
            continue;
        }
        for (size_t j = 0; j < n && s->o.print_tokens; j++) printf(j ? " %d" : "%d", ids[j]);
        if (!t->out->print && !s->o.print_tokens) fwrite(t->out->kept.data, 1, t->out->kept.n, stdout);
        if (!t->out->print) putchar('\n');
    }
    if (ranks_me > 0) return;
    options_flush();
    const double after = made > s->n_texts ? made - s->n_texts : 0; /* the first ones come with the prompts */
    options_say(
        "prompt: %.0f tokens, %.2f tokens/s; generation: %.0f tokens, %.2f tokens/s; %d x %d ranks of %d threads, "
        "%s; rank 0 waited for sums %.1f %% of the time and sent %.3f MB\n",
        prompt, prompt / (first - s->start), after, after / (s->finish - first + 1e-9), s->width, s->depth,
        s->o.threads, mla_isa_name(mla_context_isa(s->context)), 100 * s->wire.seconds / (s->finish - s->start),
        s->wire.bytes * 1e-6);
}
int main(int argc, char **argv) {
    static session it, *const s = &it;
    ranks_begin(&argc, &argv, "mpi");
    parse(&s->o, argc, argv);
    if (s->o.measure) measure();
    if (s->o.tokenize || s->o.detokenize) run_tokens(&s->o);
    if (s->o.plan && s->o.preset) plan(&s->o, NULL);
    s->width = s->o.width, s->depth = s->o.depth;
    if (!s->o.plan) s->stage = ranks_me / s->width, s->last = s->stage == s->depth - 1;
    open_files(s);
    if (s->o.plan) plan(&s->o, s->c);
    if (!parts_layers(s->c, s->depth, s->stage, &s->begin, &s->end))
        refuse(2, "--depth %d: too many, the model has %d layers, of which some go together", s->depth,
               s->c->config.num_hidden_layers);
    for (int r = 0; r < ranks_n && s->o.info && ranks_me == 0; r++)
        puts(parts_rank_line((char[120]){0}, s->c, s->depth, s->width, r, s->o.experts == 2));
    if (s->o.info) ranks_end(0);
    open_prompts(s);
    start(s);
    for (text *t = s->texts; t < s->texts + s->n_texts && !s->o.no_echo && !s->o.json && !s->o.bench; t++)
        for (size_t j = 0; j < t->prompt && s->tokenizer && !s->o.perplexity; j++) sink_token(t->out, t->ids.ids[j]);
    MPI_Barrier(MPI_COMM_WORLD);
    if (s->o.chat) converse(s);
    else if (s->o.perplexity) run_windows(s);
    else run_all(s);
    for (int i = 0; i < 2; i++) wire_all(2, s->sent[i]);
    MPI_Wait(&s->told, MPI_STATUS_IGNORE);
    if (!s->o.chat && !s->o.perplexity) report(s);
    if (s->file && fclose(s->file)) fail("cannot write %s", s->o.logits);
    wire_close(&s->wire);
    MPI_Finalize();
    for (text *t = s->texts; t < s->texts + s->n_texts; t++)
        free(t->ids.ids), sink_clear(&t->own), mla_cache_destroy(t->cache), sampler_destroy(t->sampler),
            stop_destroy(t->stop);
    mla_context_destroy(s->context), mla_model_destroy(s->model), threads_destroy(s->pool);
    if (!s->language) tokenizer_close(s->tokenizer);
    language_close(s->language), checkpoint_close(s->c);
    return 0;
}
