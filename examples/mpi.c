/* mpi.c - runs one model on several machines, or in several processes of one, over any MPI: cut in width (mla_shard:
   heads, columns, experts), in depth (ranges of layers), or both.
   mpicc -O2 mpi.c -lm -pthread;   mpirun -n 4 mpi --model DIR --width 2 --depth 2 --prompt "Once upon a time"

   Rank stage * width + w has part w of the layers of a stage, so that neighbours share a stage. All ranks know all
   prompts; those of the last stage choose the tokens, all the same ones, and tell those of the first.

   CONTENTS   basics, the command line, the plan, opening, the pipeline, multi-token prediction, the end. */
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
#define TEXT_IMPLEMENTATION
#include "text.h"
#define SYNTHETIC_IMPLEMENTATION
#include "synthetic.h"
#define THREADS_IMPLEMENTATION
#include "threads.h"
#define WIRE_IMPLEMENTATION
#include "wire.h"
#define PARTS_IMPLEMENTATION
#include "parts.h"
#define OPTIONS_IMPLEMENTATION
#include "options.h"
#define need options_need
#define now  options_now

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- basics ------------------------------------------------------------------------------------------------------ */

static int my_rank, n_ranks = 1;

/* How what goes wrong ends: all ranks come here alike, and rank 0 says it; or only this one does, and ends all. */
static void end_alike(int status) { (void)status, MPI_Finalize(); }
static void end_all(int status) { MPI_Abort(MPI_COMM_WORLD, status); }
static void alike(void) { options_here.name = "mpi", options_here.mute = my_rank > 0, options_here.end = end_alike; }
static void alone(void) {
    static char name[32];
    snprintf(name, sizeof name, "mpi: rank %d", my_rank);
    options_here.name = name, options_here.mute = 0, options_here.end = end_all;
}
#define refuse(...) (alike(), options_fail(__VA_ARGS__))
#define fail(...)   (alone(), options_fail(1, __VA_ARGS__))
static void done(void) {
    MPI_Finalize();
    exit(0);
}
/* What this rank has to complain of, or "": if any has something, the first of them is heard, and all end. */
static void agree(const char *trouble) {
    int first = *trouble ? my_rank : n_ranks, all;
    char text[400];
    snprintf(text, sizeof text, "%s", trouble);
    MPI_Allreduce(&first, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (all == n_ranks) return;
    MPI_Bcast(text, sizeof text, MPI_CHAR, all, MPI_COMM_WORLD);
    refuse(1, "rank %d: %s", all, text);
}
enum { TAG_JOB = 8, TAG_HIDDEN, TAG_TOKENS, TAG_TEST };

/* ---- the command line -------------------------------------------------------------------------------------------- */

typedef struct options {
    const char *model, *synthetic, *preset, *prompt_file, *tokenizer, *logits;
    options_texts prompts, stops;
    options_ints tokens;
    int width, depth, n, ctx, threads, chunk, bench, copies, plan, measure, experts, overlap, dense, pin, mtp,
        ignore_eos, no_echo, print_tokens, fast, isa, attn, activations, quant, groups, cache, index_cache;
    sampler_desc sampling;
    uint64_t seed;
    double bits, read, link, latency;
} options;

static void help(void) {
    fputs("usage: mpirun -n N mpi --model DIR|FILE.gguf [--width W] [--depth D] --prompt TEXT [options]\n"
          "N is W * D. Rank 0 speaks; each rank reads DIR or FILE, and touches its own part of it.\n"
          "  --width W         ranks that share each layer [N / depth]; --depth D: ranges of layers [1]\n"
          "  --prompt TEXT     may be given again: texts run together, in depth one after the other through the\n"
          "                    stages; or --prompt-file F (-: rank 0's standard input), --tokens \"1 2 3\"\n"
          "  --copies K        each prompt K times;  --bench P: a prompt of P tokens of no meaning\n"
          "  --experts HOW     range: a rank has some experts; split: of each some columns, so that all work alike:\n"
          "                    for ranks that share memory [split if those of all stages do, else range]\n"
          "  --overlap         sums are made by a thread of their own while half of a batch computes\n"
          "  --synthetic NAME  lite6, lite6:q8 or lite6:bf16: random weights, made by each rank\n"
          "  --measure         latency and bandwidth between ranks 0 and 1, as --plan takes them\n"
          "  --plan N          what N machines take, a rank each, and how fast one text becomes longer; runs nothing.\n"
          "                    --model, --synthetic, or --preset NAME with --dense K [1] layers without experts and\n"
          "                    --bits B [4.5] a weight; --read GB/s of memory [100], --link GB/s [1.25],\n"
          "                    --latency US [50]\n"
          "As of generate: -n, --ctx, --temp, --top-k, --top-p, --min-p, --repeat-penalty, --repeat-last, --seed, "
          "--stop,\n"
          "--mtp (one text, depth 1), --ignore-eos, --no-echo, --print-tokens, --logits FILE (of the first prompt, "
          "written\n"
          "where the last stage is), --tokenizer, --isa, --attn, --threads [the machine's, divided among its ranks], "
          "--pin,\n"
          "--quant (each rank converts all weights: better done once, by convert), --activations, --fast, "
          "--expert-groups,\n"
          "--cache, --index-cache, --chunk, --quiet.\n" PARTS_FORMULA
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
    options_list(isas, MLA_ISA_COUNT, isa_name);
    const options_entry table[] = {
        OPTIONS_TEXT("-m --model", &o->model),
        OPTIONS_TEXT("--synthetic", &o->synthetic),
        OPTIONS_TEXT("--preset", &o->preset),
        OPTIONS_TEXTS("-p --prompt", &o->prompts),
        OPTIONS_TEXT("--prompt-file", &o->prompt_file),
        OPTIONS_INTS("--tokens", &o->tokens, 0, INT_MAX),
        OPTIONS_TEXTS("--stop", &o->stops),
        OPTIONS_TEXT("--tokenizer", &o->tokenizer),
        OPTIONS_TEXT("--logits", &o->logits),
        OPTIONS_INT("--width", &o->width, 1, 4096),
        OPTIONS_INT("--depth", &o->depth, 1, 4096),
        OPTIONS_INT("--plan", &o->plan, 1, 4096),
        OPTIONS_INT("-n", &o->n, 0, INT_MAX / 2),
        OPTIONS_INT("-c --ctx", &o->ctx, 2, INT_MAX),
        OPTIONS_INT("-t --threads", &o->threads, 1, 4096),
        OPTIONS_INT("--chunk", &o->chunk, 1, 65536),
        OPTIONS_INT("--bench", &o->bench, 1, INT_MAX / 2),
        OPTIONS_INT("--copies", &o->copies, 1, 4096),
        OPTIONS_INT("--dense", &o->dense, 0, 1000),
        OPTIONS_NUMBER("--temp", &s->temperature, 0, 1e6),
        OPTIONS_INT("--top-k", &s->top_k, -1, INT_MAX),
        OPTIONS_NUMBER("--top-p", &s->top_p, 1e-9, 1),
        OPTIONS_NUMBER("--min-p", &s->min_p, 0, 1),
        OPTIONS_NUMBER("--repeat-penalty", &s->repeat_penalty, 0.01, 100),
        OPTIONS_INT("--repeat-last", &s->repeat_last, 1, SAMPLER_MAX_LAST),
        OPTIONS_SEED("--seed", &o->seed),
        OPTIONS_NUMBER("--bits", &o->bits, 0.1, 64),
        OPTIONS_NUMBER("--read", &o->read, 1e-3, 1e6),
        OPTIONS_NUMBER("--link", &o->link, 1e-6, 1e6),
        OPTIONS_NUMBER("--latency", &o->latency, 0, 1e9),
        OPTIONS_FLAG("--measure", &o->measure),
        OPTIONS_FLAG("--overlap", &o->overlap),
        OPTIONS_FLAG("--pin", &o->pin),
        OPTIONS_FLAG("--mtp", &o->mtp),
        OPTIONS_FLAG("--ignore-eos", &o->ignore_eos),
        OPTIONS_FLAG("--no-echo", &o->no_echo),
        OPTIONS_FLAG("--print-tokens", &o->print_tokens),
        OPTIONS_FLAG("--fast", &o->fast),
        OPTIONS_WORD("--isa", &o->isa, isas),
        OPTIONS_WORD("--attn", &o->attn, "auto naive absorbed"),
        OPTIONS_WORD("--experts", &o->experts, "auto range split"),
        OPTIONS_WORD("--activations", &o->activations, "auto f32 int8 bf16 e4m3"),
        OPTIONS_WORD("--quant", &o->quant, "none q8 q4 q4_k q5_k q6_k iq4_nl"),
        OPTIONS_WORD("--expert-groups", &o->groups, "model file"),
        OPTIONS_WORD("--cache", &o->cache, "f32 f16 bf16 q8"),
        OPTIONS_WORD("--index-cache", &o->index_cache, "f32 f16 bf16 q8"),
    };
    options_here.version = MLA_VERSION, options_here.help = help;
    options_parse(table, sizeof table / sizeof *table, NULL, argc, argv);
    if (s->top_k < 0) s->top_k = 0;
    o->print_tokens |= o->tokens.n > 0;
    const int kinds = (o->prompts.n > 0) + !!o->prompt_file + (o->tokens.n > 0) + (o->bench > 0);
    if (o->measure) return;
    if (!!o->model + !!o->synthetic + (o->preset && o->plan) != 1)
        refuse(2, "one of --model, --synthetic and (with --plan) --preset");
    if (o->plan) return;
    if (kinds != 1) refuse(2, "one of --prompt, --prompt-file, --tokens and --bench");
    if (!o->depth) o->depth = o->width && n_ranks % o->width == 0 ? n_ranks / o->width : 1;
    if (!o->width) o->width = n_ranks / o->depth;
    if (o->width * o->depth != n_ranks)
        refuse(2, "%d ranks (mpirun -n), but --width %d and --depth %d", n_ranks, o->width, o->depth);
    if (o->mtp && (o->depth > 1 || o->prompts.n * o->copies > 1 || o->logits))
        refuse(2, "--mtp: one text, --depth 1, no --logits");
    if (o->fast && (mla_isa_available(MLA_ISA_BF16) || mla_isa_available(MLA_ISA_AMX))) o->activations = MLA_ACT_BF16;
    if (o->n < 0) o->n = o->tokens.n ? 16 : 256;
}

/* ---- the plan ---------------------------------------------------------------------------------------------------- */

static void plan(const options *o, const checkpoint *files) {
    parts_plan p = {.split = o->experts == 2, .dense = o->dense, .weight = o->bits / 8};
    mla_config c;
    mla_error err;
    char line[120];
    if (!files && mla_config_preset(&c, o->preset, &err)) refuse(2, "--preset: %s", err.text);
    if (files) c = files->config, p.weight = parts_weight(files, &p.dense);
    p.read = o->read * 1e9, p.link = o->link * 1e9, p.latency = o->latency * 1e-6;
    if (my_rank == 0)
        printf("%s, %.2f bits a weight\n%s\n", files ? files->model_type : o->preset, 8 * p.weight,
               parts_plan_line(line, NULL));
    for (p.width = o->plan; p.width > 0 && my_rank == 0; p.width--) {
        p.depth = o->plan / p.width, p.direct = wire_direct(c.hidden_size, p.width);
        if (p.width * p.depth != o->plan || (o->width && p.width != o->width) || (o->depth && p.depth != o->depth))
            continue;
        parts_plan_make(&p, &c);
        puts(parts_plan_line(line, &p));
    }
    done();
}
static void measure(void) {
    double latency, link;
    if (n_ranks < 2 || !wire_measure(MPI_COMM_WORLD, &latency, &link)) refuse(2, "--measure: two ranks, mpirun -n 2");
    if (my_rank == 0) printf("--latency %.1f --link %.4f\n", latency * 1e6, link * 1e-9);
    done();
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

typedef struct text { /* a prompt and what comes after it */
    chat_tokens ids;
    size_t prompt, at; /* tokens of the prompt; that have been run, or are on their way */
    int made, over;
    mla_cache *cache;
    sampler *sampler;
    stop_scan *stop;
    tokenizer_stream utf8;
    text_buffer out; /* of several texts: what is printed at the end */
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
    int *jobs[2], *tokens;
    MPI_Request sent[2][2], told;
    int turn;
    FILE *file;                         /* --logits */
    double start, first, finish, bytes; /* bytes: of weights, that all ranks read */
} session;

static void open_files(session *s) {
    options *o = &s->o;
    mla_error err;
    char trouble[300] = "";
    const checkpoint_options how = {.mtp = o->mtp, .groups = (checkpoint_groups)o->groups};
    err.text[0] = 0;
    if (o->model && checkpoint_open_with(&s->c, o->model, &how, &err))
        snprintf(trouble, sizeof trouble, "%s", err.text);
    if (o->synthetic) {
        static const mla_dtype dtypes[] = {MLA_Q4, MLA_Q8, MLA_BF16};
        const mla_dtype t = dtypes[options_word("--synthetic", o->synthetic, "lite6 lite6:q8 lite6:bf16")];
        if (synthetic_open(&s->c, &s->tokenizer, "lite6", t, &err)) snprintf(trouble, sizeof trouble, "%s", err.text);
    }
    agree(trouble);
    if (o->plan) return;
    const language_files files = {o->model, o->tokenizer, o->tokens.n && !o->stops.n};
    if (o->model && !o->bench && language_open(&s->language, &files, s->c, &err))
        snprintf(trouble, sizeof trouble, "%s", err.text);
    agree(trouble);
    if (s->language) s->tokenizer = s->language->tokenizer;
    uint64_t mine = parts_fingerprint(s->c), theirs = mine;
    MPI_Bcast(&theirs, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    agree(mine == theirs ? "" : "its model is not that of rank 0");
    if (o->mtp && !s->c->config.num_nextn_predict_layers) refuse(1, "--mtp: the model has no layer for it");
}
/* Prompts, as rank 0 reads them. */
static void open_prompts(session *s) {
    const options *o = &s->o;
    const int n = o->prompts.n ? o->prompts.n : 1, V = s->c->config.vocab_size;
    char trouble[300] = "", *all = NULL;
    mla_error err;
    size_t room = 0, length = 0;
    s->n_texts = n * o->copies, s->texts = need(calloc((size_t)s->n_texts, sizeof *s->texts));
    if (o->prompt_file && my_rank == 0) {
        FILE *f = strcmp(o->prompt_file, "-") ? fopen(o->prompt_file, "rb") : stdin;
        for (size_t got = f != NULL; got; length += got) {
            if (room < length + 65537) all = need(realloc(all, room = 2 * room + 131072));
            got = fread(all + length, 1, 65536, f);
        }
        if (length && all[length - 1] == '\n') length--;
        if (!f || !length) snprintf(trouble, sizeof trouble, "cannot read %s, or it is empty", o->prompt_file);
        if (f && f != stdin) fclose(f);
    }
    for (int i = 0; i < n && my_rank == 0 && !*trouble; i++) {
        chat_tokens *ids = &s->texts[i].ids;
        const char *t = o->prompts.n ? o->prompts.of[i] : all;
        const size_t bytes = o->prompts.n ? strlen(t) : length;
        mla_result r = MLA_OK;
        if (t && s->language) r = language_encode(ids, s->language, t, bytes, &err);
        else if (t) {
            ids->ids = need(malloc((bytes + 16) * sizeof *ids->ids));
            ids->n = (size_t)tokenizer_encode(s->tokenizer, t, bytes, 0, ids->ids, bytes + 16);
        }
        for (int j = 0, id; !r && (o->tokens.n ? (size_t)j < o->tokens.n : j < o->bench); j++) {
            id = o->tokens.n ? o->tokens.of[j] : (int)((j * 7919LL + i * 31 + 11) % V);
            if (id < V) r = chat_append(ids, &id, 1, &err);
            else snprintf(trouble, sizeof trouble, "--tokens: %d is not in 0..%d, the model's vocabulary", id, V - 1);
        }
        if (r) snprintf(trouble, sizeof trouble, "%s", err.text);
        else if (!ids->n && !*trouble) snprintf(trouble, sizeof trouble, "prompt %d is empty", i + 1);
    }
    free(all);
    agree(trouble);
    for (int i = 0; i < s->n_texts; i++) {
        text *t = &s->texts[i];
        uint64_t count = s->texts[i % n].ids.n;
        MPI_Bcast(&count, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
        int *ids = need(malloc((count + (size_t)o->n + 1) * sizeof *ids));
        if (my_rank == 0) memcpy(ids, s->texts[i % n].ids.ids, count * sizeof *ids);
        MPI_Bcast(ids, (int)count, MPI_INT, 0, MPI_COMM_WORLD);
        if (i < n) free(t->ids.ids);
        t->ids.ids = ids, t->ids.n = t->prompt = count;
    }
}
/* A rank's weights come into memory, in steps, so that rank 0 can say how much there is of all. */
static void load(session *s, int split) {
    const int tty = my_rank == 0 && !options_here.quiet && isatty(2);
    double done[2] = {0, 0}, all[2]; /* bytes in memory; ranks that are not done */
    parts_ranges r;
    memset(&r, 0, sizeof r);
    parts_of(&r, s->c, s->begin, s->end, s->wire.rank, s->width, split, s->last);
    if (r.failed) fail("out of memory");
    MPI_Allreduce(&r.bytes, &s->bytes, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    do {
        done[0] += parts_touch(&r, 1 << 26);
        done[1] = r.touched < r.n;
        MPI_Allreduce(done, all, 2, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
        const double part = all[0] < s->bytes ? all[0] / s->bytes : 1;
        if (tty) fprintf(stderr, "\rloading %3.0f %% of %.2f GB on %d ranks ", 100 * part, s->bytes * 1e-9, n_ranks);
    } while (all[1] > 0);
    if (tty) fprintf(stderr, "\r%60s\r", "");
    free(r.of);
}

/* The rest of it: what each text has, and room for what is sent. */
static void start_texts(session *s, int capacity) {
    static const mla_dtype dtypes[] = {MLA_F32, MLA_F16, MLA_BF16, MLA_Q8};
    options *o = &s->o;
    const mla_cache_desc kd = {.capacity = capacity, .dtype = dtypes[o->cache], .index_dtype = dtypes[o->index_cache]};
    const size_t V = (size_t)s->c->config.vocab_size, D = (size_t)s->c->config.hidden_size;
    const int theirs = o->sampling.temperature < 0; /* nothing was asked for: as generation_config.json says */
    mla_error err;
    char trouble[300] = "";
    MPI_Bcast(&o->seed, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    if (theirs) o->sampling.temperature = 0;
    if (theirs && s->language && !o->tokens.n && language_sampling(s->language, &o->sampling, &err))
        snprintf(trouble, sizeof trouble, "%s", err.text);
    for (int i = 0; i < s->n_texts && !*trouble; i++) {
        text *t = &s->texts[i];
        o->sampling.seed = o->seed + (uint64_t)i;
        if (mla_cache_create(&t->cache, s->model, &kd, &err) ||
            sampler_create(&t->sampler, (int)V, &o->sampling, &err) ||
            (o->stops.n && stop_create(&t->stop, o->stops.of, o->stops.n, &err)))
            snprintf(trouble, sizeof trouble, "%s", err.text);
        for (size_t j = 0; j < t->prompt && !*trouble; j++) sampler_accept(t->sampler, t->ids.ids[j]);
    }
    if (o->logits && s->last && s->wire.rank == 0 && !(s->file = fopen(o->logits, "wb")))
        snprintf(trouble, sizeof trouble, "cannot write %s: %s", o->logits, strerror(errno));
    agree(trouble);
    s->logits = need(malloc((size_t)(o->logits ? s->max_tokens : s->n_texts) * V * sizeof *s->logits));
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
    MPI_Comm_split(MPI_COMM_WORLD, s->stage, my_rank, &stage);
    const int local = wire_local(MPI_COMM_WORLD), apart = wire_local(stage) < s->width;
    const int fair = online / local > 0 ? online / local : 1;
    MPI_Allreduce(&apart, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    if (!wire_open(&s->wire, stage, o->overlap && s->width > 1))
        fail("no thread for --overlap is to be had, or no memory");
    if (!o->threads) o->threads = cores < fair ? cores : fair;
    if (my_rank == 0 && !options_here.quiet && cores < fair)
        fprintf(stderr, "note: mpirun lets this rank have %d of %d cores (--bind-to none: all)\n", cores, online);
    return o->experts ? o->experts == 2 : !any;
}
/* Threads, model and context. */
static void start(session *s) {
    options *o = &s->o;
    mla_error err;
    char trouble[300] = "";
    int longest = 0;
    const int split = place(s);
    for (int i = 0; i < s->n_texts; i++)
        longest = (int)s->texts[i].prompt > longest ? (int)s->texts[i].prompt : longest;
    const int capacity = o->ctx ? o->ctx : longest + o->n;
    if (longest > capacity) refuse(1, "a prompt has %d tokens, and there is room for %d (--ctx)", longest, capacity);
    mla_rope *rope = &s->c->config.rope;
    if (rope->scaling == MLA_ROPE_DYNAMIC || rope->scaling == MLA_ROPE_LONGROPE) rope->length = capacity;
    if (!(o->pin ? threads_create_pinned : threads_create)(&s->pool, o->threads))
        snprintf(trouble, sizeof trouble, "%d threads are not to be had", o->threads);
    agree(trouble);
    checkpoint_quant how = {.form = (checkpoint_form)(o->quant ? CHECKPOINT_Q8 + o->quant - 1 : 0)};
    how.threads = o->threads, how.run = threads_run, how.run_user = s->pool, how.repack = 1;
    if (how.form && checkpoint_quantize(s->c, &how, &err)) snprintf(trouble, sizeof trouble, "--quant: %s", err.text);
    agree(trouble);
    if (o->model && !how.form) load(s, split);
    if (mla_model_create(&s->model, &s->c->config, &s->c->weights, NULL, &err))
        snprintf(trouble, sizeof trouble, "%s", err.text);
    agree(trouble);
    s->max_tokens = (o->chunk > s->n_texts ? o->chunk : s->n_texts) + (o->mtp ? speculation_least(s->model) : 0);
    const mla_shard shard = {
        s->wire.rank, s->width, split, wire_reduce, wire_gather, s->wire.background ? wire_wait : NULL, &s->wire};
    mla_context_desc d = {.max_tokens = s->max_tokens, .threads = o->threads, .team = 1, .shard = shard};
    d.run = threads_run, d.run_user = s->pool, d.wait = threads_wait, d.wake = threads_wake;
    d.isa = wire_isa(MPI_COMM_WORLD, (mla_isa)o->isa), d.attn = (mla_attn_path)o->attn,
    d.activations = (mla_activations)o->activations;
    if (mla_context_create(&s->context, s->model, &d, &err)) snprintf(trouble, sizeof trouble, "%s", err.text);
    agree(trouble);
    start_texts(s, capacity);
}

/* ---- the pipeline ------------------------------------------------------------------------------------------------ */
/* A job is one call of every stage: how many sequences, then of each which, its tokens and those with logits. The first
   stage makes jobs, for one group of texts after the other, so that each stage has one to work on; its state goes from
   stage to stage, tokens from the last one to the first. A job without sequences is the end. */

/* Of a text, on its way to rank 0's standard output: at once, or at the end, if there are several. */
static void show(session *s, text *t, const char *bytes, size_t n, int end) {
    char *out = need(malloc(3 * (n + 4) + 12));
    const size_t length = end ? tokenizer_stream_end(&t->utf8, out) : tokenizer_stream_push(&t->utf8, bytes, n, out);
    if (s->n_texts > 1) text_add(&t->out, out, length);
    else if (my_rank == 0 && !s->o.print_tokens && (fwrite(out, 1, length, stdout) != length || fflush(stdout)))
        fail("cannot write to standard output");
    free(out);
}
/* Gives 1 if a stop string begins there; the prompt is not asked for one. */
static int show_token(session *s, text *t, int token, stop_scan *stop) {
    size_t n;
    int stopped = 0;
    const char *bytes = s->tokenizer ? tokenizer_bytes(s->tokenizer, token, &n) : NULL;
    if (!bytes || tokenizer_is_special(s->tokenizer, token)) return 0;
    char *out = stop ? need(malloc(stop_room(stop, n))) : NULL;
    if (out) n = stop_push(stop, bytes, n, out, &stopped);
    show(s, t, out ? out : bytes, n, 0);
    free(out);
    return stopped;
}
/* A token comes after a text, on every rank that gets to know it; whether the text is over. */
static void append(session *s, text *t, int token) {
    t->ids.ids[t->ids.n++] = token, t->made++;
    sampler_accept(t->sampler, token);
    for (int i = 0; i < s->c->n_eos && !s->o.ignore_eos; i++) t->over |= s->c->eos_token_id[i] == token;
    if (!t->over) t->over = show_token(s, t, token, t->stop);
    t->over |= t->made >= s->o.n || mla_cache_length(t->cache) >= mla_cache_capacity(t->cache);
    if (s->first == 0) s->first = now();
}
static int peer(const session *s, int stage) { return stage * s->width + s->wire.rank; }

/* The layers of this stage on a job, from hidden, the state before them (NULL: tokens). */
static void run_job(session *s, const int *job, const float *hidden) {
    const size_t D = (size_t)s->c->config.hidden_size, V = (size_t)s->c->config.vocab_size;
    mla_sequence *q = need(calloc((size_t)job[0], sizeof *q));
    float **states = need(calloc((size_t)s->c->config.num_hidden_layers + 1, sizeof *states));
    int *tokens = s->tokens, rows = 0, told = 0;
    mla_error err;
    const int turn = s->turn = !s->turn;
    MPI_Waitall(2, s->sent[turn], MPI_STATUSES_IGNORE);
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
    MPI_Wait(&s->told, MPI_STATUS_IGNORE); /* tokens on their way are in s->tokens */
    for (int i = 0, row = 0; i < job[0] && s->last; i++) {
        text *t = &s->texts[job[1 + 3 * i]];
        row += q[i].n_logits;
        if (s->file && t == s->texts && mla_cache_length(t->cache) <= (int)t->prompt)
            if (fwrite(s->logits + (size_t)(row - q[i].n_logits) * V, V * sizeof *s->logits, (size_t)q[i].n_logits,
                       s->file) != (size_t)q[i].n_logits)
                fail("cannot write %s", s->o.logits);
        if (mla_cache_length(t->cache) < (int)t->prompt) continue;
        const int token = s->o.n == 0 ? 0 : sampler_next(t->sampler, s->logits + (size_t)(row - 1) * V, &err);
        if (token < 0)
            fail("after %d tokens %s: the model's logits are not numbers", mla_cache_length(t->cache), err.text);
        tokens[told++] = token;
        if (s->o.n == 0) t->over = 1;
        else append(s, t, token);
    }
    if (s->last && s->depth > 1 && told)
        MPI_Isend(tokens, told, MPI_INT, peer(s, 0), TAG_TOKENS, MPI_COMM_WORLD, &s->told);
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
        if (s->o.n == 0) t->over = 1, k++;
        else append(s, t, tokens[k++]);
    }
    free(tokens);
}
static void drive(session *s) {
    const int groups = s->n_texts < s->depth ? s->n_texts : s->depth;
    int **jobs = need(calloc((size_t)groups, sizeof *jobs)), none = 0, any = 1;
    for (int g = 0; g < groups; g++) jobs[g] = need(calloc(3 * (size_t)s->n_texts + 1, sizeof(int)));
    while (any) {
        any = 0;
        for (int g = 0; g < groups; g++) {
            if (s->depth > 1 && jobs[g][0]) take_tokens(s, jobs[g]);
            next_job(s, s->n_texts * g / groups, s->n_texts * (g + 1) / groups, jobs[g]);
            any |= jobs[g][0] > 0;
            if (jobs[g][0]) run_job(s, jobs[g], NULL);
        }
    }
    if (s->depth > 1) MPI_Send(&none, 1, MPI_INT, peer(s, 1), TAG_JOB, MPI_COMM_WORLD);
    for (int g = 0; g < groups; g++) free(jobs[g]);
    free(jobs);
}
static void follow(session *s) {
    const int most = 3 * s->n_texts + 1, D = s->c->config.hidden_size;
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

/* ---- multi-token prediction -------------------------------------------------------------------------------------- */

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
    for (int token; s->o.n > 0 && !t->over;) {
        if (t->made && speculation_run(g, t->ids.ids[t->ids.n - 1], t->sampler, s->o.n - t->made - 1, &err))
            fail("%s", err.text);
        token = t->made ? speculation_next(g, t->sampler, &err) : sampler_next(t->sampler, s->logits, &err);
        if (token < 0) fail("%s: the model's logits are not numbers", err.text);
        append(s, t, token);
    }
    speculation_destroy(g);
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static void report(session *s) {
    double prompt = 0, made = 0;
    for (int i = 0; i < s->n_texts && my_rank == 0; i++) {
        text *t = &s->texts[i];
        char *held = t->stop ? need(malloc(stop_room(t->stop, 0))) : NULL;
        prompt += (double)t->prompt, made += t->made;
        if (held) show(s, t, held, stop_end(t->stop, held), 0);
        show(s, t, "", 0, 1);
        for (size_t j = t->prompt; j < t->ids.n && s->o.print_tokens; j++)
            printf(j > t->prompt ? " %d" : "%d", t->ids.ids[j]);
        if (t->out.n && !s->o.print_tokens) fwrite(t->out.data, 1, t->out.n, stdout);
        putchar('\n');
        free(held);
    }
    fflush(stdout);
    if (my_rank > 0 || options_here.quiet) return;
    const double first = s->first > 0 ? s->first : s->finish, after = made - s->n_texts;
    fprintf(stderr, "prompt: %.0f tokens, %.2f tokens/s", prompt, prompt / (first - s->start));
    if (after > 0) fprintf(stderr, "; generation: %.0f tokens, %.2f tokens/s", after, after / (s->finish - first));
    fprintf(stderr, "; %d x %d ranks of %d threads, %s; rank 0 waited for sums %.1f %% of the time and sent %.3f MB\n",
            s->width, s->depth, s->o.threads, mla_isa_name(mla_context_isa(s->context)),
            100 * s->wire.seconds / (s->finish - s->start), s->wire.bytes * 1e-6);
}
int main(int argc, char **argv) {
    static session it;
    session *s = &it;
    int level;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &my_rank), MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    if (level < MPI_THREAD_SERIALIZED) refuse(1, "this MPI knows no threads (MPI_THREAD_SERIALIZED)");
    alike();
    parse(&s->o, argc, argv);
    if (s->o.measure) measure();
    if (s->o.plan && s->o.preset) plan(&s->o, NULL);
    s->width = s->o.width, s->depth = s->o.depth;
    if (!s->o.plan) s->stage = my_rank / s->width, s->last = s->stage == s->depth - 1;
    open_files(s);
    if (s->o.plan) plan(&s->o, s->c);
    if (!parts_layers(s->c, s->depth, s->stage, &s->begin, &s->end))
        refuse(2, "--depth %d: too many, the model has %d layers, of which some go together", s->depth,
               s->c->config.num_hidden_layers);
    open_prompts(s);
    start(s);
    for (int i = 0; i < s->n_texts && !s->o.no_echo && !s->o.bench; i++)
        for (size_t j = 0; j < s->texts[i].prompt; j++) show_token(s, &s->texts[i], s->texts[i].ids.ids[j], NULL);
    MPI_Barrier(MPI_COMM_WORLD);
    s->start = now();
    if (s->o.mtp) run_ahead(s);
    else if (s->stage == 0) drive(s);
    else follow(s);
    for (int i = 0; i < 2; i++) MPI_Waitall(2, s->sent[i], MPI_STATUSES_IGNORE);
    MPI_Wait(&s->told, MPI_STATUS_IGNORE);
    s->finish = now();
    report(s);
    if (s->file && fclose(s->file)) fail("cannot write %s", s->o.logits);
    wire_close(&s->wire);
    MPI_Finalize();
    for (text *t = s->texts; t < s->texts + s->n_texts; t++)
        free(t->ids.ids), mla_cache_destroy(t->cache), sampler_destroy(t->sampler), stop_destroy(t->stop);
    mla_context_destroy(s->context), mla_model_destroy(s->model), threads_destroy(s->pool);
    if (!s->language) tokenizer_close(s->tokenizer);
    language_close(s->language), checkpoint_close(s->c);
    return 0;
}
