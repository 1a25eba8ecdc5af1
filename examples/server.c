/* server.c - a model behind HTTP: OpenAI's API, streaming and whole, for many clients at once, and a page to chat on.
   make build/server; build/server --model DIR|FILE.gguf

   CONTENTS   basics, the command line, the server (what is open), JSON, problems, parameters, prompts, answers (what a
              model writes, taken apart), events of the scheduler, the three threads, endpoints, start and end.
   THREADS    One polls all connections (http.h) and answers what has no body, one reads the other requests and makes
              prompts of them, one runs the model (scheduler.h). A job goes from one to the next; each may answer it. */
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
#define PREFIXES_IMPLEMENTATION
#define SCHEDULER_IMPLEMENTATION
#include "scheduler.h"
#define JINJA_IMPLEMENTATION
#include "jinja.h"
#define CHAT_IMPLEMENTATION
#include "chat.h"
#define LANGUAGE_IMPLEMENTATION
#include "language.h"
#define CALLS_IMPLEMENTATION
#include "calls.h"
#define TEXT_IMPLEMENTATION
#include "text.h"
#define GRAMMAR_IMPLEMENTATION
#define JSON_SCHEMA_IMPLEMENTATION
#define OPENAI_IMPLEMENTATION
#include "openai.h"
#define THREADS_IMPLEMENTATION
#include "threads.h"
#define SYNTHETIC_IMPLEMENTATION
#include "synthetic.h"
#define HTTP_IMPLEMENTATION
#include "http.h"
#define OPTIONS_IMPLEMENTATION
#define OPTIONS_SHORT
#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "../build/server.inc" /* server.html as lines: static const char *const page[], the last one NULL */

/* ---- basics ------------------------------------------------------------------------------------------------------ */

static int mtp;  /* --mtp: the layer that looks ahead is loaded, and guesses */
static int fast; /* --fast: answers may depend, in their last bits, on what else is asked */

static uint64_t random_bits(void) {
    uint64_t x = (uint64_t)time(NULL) ^ (uint64_t)clock() << 32;
    FILE *file = fopen("/dev/urandom", "rb");
    if (file && fread(&x, sizeof x, 1, file) != 1) x ^= 1;
    if (file) fclose(file);
    return x;
}

/* ---- the command line -------------------------------------------------------------------------------------------- */

typedef struct options {
    const char *model, *synthetic, *host, *api_key, *quant, *template_file, *tokenizer, *alias, *cors;
    int port, parallel, ctx, cache, threads, last, queue, drain;
    double pool, max_body; /* bytes */
} options;

static void help(void) {
    printf("usage: server --model DIR|FILE.gguf [options]\n"
           "  --model DIR|FILE.gguf     as on Hugging Face, or a GGUF file\n"
           "  --synthetic NAME          lite6 or lite6-mtp: random weights instead; --quant bf16, q8 or q4 [q4]\n"
           "  --host ADDRESS            to listen on [127.0.0.1]; 0.0.0.0 or ::: anyone may come\n"
           "  --port N                  [8080]; 0: one that is free\n"
           "  --parallel N              requests that run at the same time [32]; one may ask for 128 texts\n"
           "  --queue N                 and that wait; more get status 503 [1024]\n"
           "  --ctx N                   most tokens of prompt and answer [the model's, at most 16384]\n"
           "  --pool BYTES              for the cache of all requests, as 8G [what they need, at\n"
           "                         most a quarter of the memory]\n"
           "  --cache TYPE              f32, f16, bf16 or q8 [bf16]\n"
           "  --quant TYPE              q8, q4, q4_k, q5_k, q6_k, iq4_nl: weights become it on load\n"
           "  --threads N               [all cores]\n"
           "  --api-key FILE            keys, one a line: every endpoint but /health asks for one\n"
           "  --alias NAME              of the model in the API [that of its file]\n"
           "  --template FILE           a chat template in Jinja [the model's]\n"
           "  --tokenizer FILE          [the model's]\n"
           "  --embeddings KIND         mean or last: of the hidden states of an input's tokens [mean]\n"
           "  --cors ORIGIN             pages from there may use this server; *: from anywhere\n"
           "  --max-body BYTES          of a request [16M]\n"
           "  --drain SECONDS           that answers under way have after SIGTERM, the rest get status 503 [30]\n"
           "  --mtp                  a layer of the model's guesses ahead where that pays: the same answers, sooner\n"
           "  --fast                 answers may differ, in their last bits, by what else is asked; more tokens/s\n"
           "  --quiet                nothing but errors on stderr, and the address with --port 0; --help; --version\n"
           "SIGTERM or Ctrl-C: nothing more is accepted, what runs is finished; a second one ends at once.\n"
           "Exit status: 0 stopped, 1 failed, 2 wrong command line.\n");
}

static void parse(options *o, int argc, char **argv) {
    memset(o, 0, sizeof *o);
    o->host = "127.0.0.1", o->port = 8080, o->parallel = 32, o->queue = 1024, o->drain = 30, o->max_body = 16e6;
    o->cache = 2;
    const options_entry table[] = {
        OPTIONS_TEXT("--model", &o->model),
        OPTIONS_TEXT("--synthetic", &o->synthetic),
        OPTIONS_TEXT("--host", &o->host),
        OPTIONS_INT("--port", &o->port, 0, 65535),
        OPTIONS_INT("--parallel", &o->parallel, 1, 1024),
        OPTIONS_INT("--queue", &o->queue, 0, 1000000),
        OPTIONS_INT("--ctx", &o->ctx, 2, INT_MAX / 2),
        OPTIONS_BYTES("--pool", &o->pool, 1),
        OPTIONS_WORD("--cache", &o->cache, "f32 f16 bf16 q8"),
        OPTIONS_TEXT("--quant", &o->quant),
        OPTIONS_INT("--threads", &o->threads, 1, 4096),
        OPTIONS_TEXT("--api-key", &o->api_key),
        OPTIONS_TEXT("--alias", &o->alias),
        OPTIONS_TEXT("--template", &o->template_file),
        OPTIONS_TEXT("--tokenizer", &o->tokenizer),
        OPTIONS_WORD("--embeddings", &o->last, "mean last"),
        OPTIONS_TEXT("--cors", &o->cors),
        OPTIONS_BYTES("--max-body", &o->max_body, 1),
        OPTIONS_INT("--drain", &o->drain, 1, 86400),
        OPTIONS_FLAG("--mtp", &mtp),
        OPTIONS_FLAG("--fast", &fast),
    };
    options_here.name = "server", options_here.version = MLA_VERSION, options_here.help = help;
    options_parse(table, sizeof table / sizeof *table, NULL, argc, argv);
    if (!o->model == !o->synthetic)
        fail(2, o->model ? "--model and --synthetic exclude each other" : "--model is missing");
}

/* ---- the server -------------------------------------------------------------------------------------------------- */

typedef struct job job;
typedef struct jobs { /* first in, first out */
    job *first, *last;
} jobs;

/* All that is open. */
typedef struct server {
    options o;
    checkpoint *c;
    language *l;
    tokenizer *t;
    mla_model *model;
    thread_pool *pool;
    mla_context *context;
    scheduler *scheduler;
    grammar_vocab *vocab; /* made when the first request asks for it, by the desk */
    http_server *http;
    text_buffer keys, alias, headers; /* keys: NUL-ended, one after the other */
    openai_how how;                   /* what requests are held against */
    int ctx, parallel, loopback;
    size_t most_bytes; /* that the tokens of the context can stand for: what is longer need not be read */
    int stops[SCHEDULER_MAX_STOPS], n_stops;
    uint64_t secret; /* of ids and seeds */
    double begun, drain_s;
    time_t opened;
    /* under the lock */
    pthread_mutex_t lock;
    pthread_cond_t desk_wakes, model_wakes;
    jobs asked, ready; /* for the desk; for the model */
    int quitting, desk_done;
    int most_open, open; /* requests for the model that are not answered */
    scheduler_stats stats;
    uint64_t n_answered[6]; /* by the first digit of the status; 0: the client was gone */
    double first_token_s, step_s;
    uint64_t first_tokens;
} server;

/* One of the texts that a request asks for, or one of its embeddings. */
typedef struct answer {
    job *j;
    openai_choice *c; /* what comes out */
    int64_t id;       /* in the scheduler; 0: it does not run */
    const chat_tokens *prompt;
    calls_reader *reader; /* of a chat, else NULL */
    stop_scan *stop;      /* NULL: no stop strings */
    tokenizer_stream utf8;
    grammar_state *grammar; /* NULL: none */
    int thinks;             /* the grammar waits for the end of thoughts */
    int *seen;              /* [vocab_size] how often generated; NULL: no penalty asks */
    int n_visible;          /* tokens that are text */
} answer;

/* A request. */
struct job {
    server *s;
    job *next;
    http_exchange *x;
    openai_request r;
    chat_tokens *prompts; /* [n_prompts] */
    answer *answers;      /* [reply.n], r.n for each prompt */
    openai_reply reply;
    int n_prompts, submitted, left, started, thinking; /* answers that the scheduler got; that are not over */
    char id[32];
    const char *allow; /* a header, for status 405 */
    double begun;
};

static int chats(const job *j) { return j->r.kind == OPENAI_CHAT; }
static int embeds(const job *j) { return j->r.kind == OPENAI_EMBEDDING; }

static void push(jobs *list, job *j) {
    j->next = NULL;
    if (list->last) list->last->next = j;
    else list->first = j;
    list->last = j;
}
static job *pop(jobs *list) {
    job *j = list->first;
    if (j && !(list->first = j->next)) list->last = NULL;
    return j;
}

static void free_job(job *j) {
    for (int i = 0; i < j->reply.n; i++) {
        answer *a = &j->answers[i];
        calls_destroy(a->reader), stop_destroy(a->stop), free(a->grammar), free(a->seen), openai_clear(a->c);
    }
    for (int i = 0; j->prompts && i < j->n_prompts; i++) free(j->prompts[i].ids);
    openai_free(&j->r), free(j->answers), free(j->reply.choices), free(j->prompts), free(j);
}

/* ---- problems ---------------------------------------------------------------------------------------------------- */

static int no_memory(job *j) { return openai_wrong(&j->r, 503, NULL, "out of memory for this request"); }

static void note(server *s, int status) {
    pthread_mutex_lock(&s->lock);
    s->n_answered[status / 100 % 6]++;
    pthread_mutex_unlock(&s->lock);
}

/* The whole answer is t, which goes; and the job with it. */
static void reply(job *j, int status, const char *type, const char *headers, text_buffer *t) {
    if (t->failed) http_reply(j->x, 503, NULL, NULL, "", 0);
    else http_reply(j->x, status, type, headers, t->n ? t->data : "", t->n);
    note(j->s, status);
    text_clear(t), free_job(j);
}
static void reply_json(job *j, text_buffer *t) {
    text_put(t, "\n");
    reply(j, 200, "application/json", NULL, t);
}

static void refuse(job *j) {
    text_buffer t = {NULL, 0, 0, 0};
    openai_put_problem(&t, &j->r.problem);
    text_put(&t, "\n");
    reply(j, j->r.problem.status, "application/json",
          j->r.problem.status == 401   ? "WWW-Authenticate: Basic realm=\"API key as the password\"\r\n"
          : j->r.problem.status == 405 ? j->allow
          : j->r.problem.status == 503 ? "Retry-After: 1\r\n"
                                       : NULL,
          &t);
}

static const char *token_text(const void *t, int id, size_t *n) { /* of tokens that a grammar may use */
    return tokenizer_is_added((const tokenizer *)t, id) ? NULL : tokenizer_bytes((const tokenizer *)t, id, n);
}

/* There are more tokens, or bytes, than the context may hold. */
static int too_long(job *j, const char *name, size_t n, const char *what) {
    j->r.problem.code = "context_length_exceeded";
    return openai_wrong(&j->r, 400, name, "%s: %zu %s are more than the %d tokens of the context", name, n, what,
                        j->s->ctx);
}

/* ---- prompts ----------------------------------------------------------------------------------------------------- */

static int make_prompts(job *j, size_t n, const char *name) {
    if (n < 1 || n > 2048) return openai_wrong(&j->r, 400, name, "%s: %zu texts, not 1..2048", name, n);
    if (!embeds(j) && n * (size_t)j->r.n > OPENAI_MAX_N) /* each has a cache and a sampler from the start */
        return openai_wrong(&j->r, 400, j->r.n > 1 ? "n" : name, "%s: %zu texts, and a request may ask for %d",
                            j->r.n > 1 ? "n" : name, n * (size_t)j->r.n, OPENAI_MAX_N);
    j->n_prompts = (int)n;
    return (j->prompts = calloc(n, sizeof *j->prompts)) != NULL || no_memory(j);
}

/* A string, a list of tokens, or a list of one of these. */
static int read_texts(job *j, const char *name) {
    const json_value *v = json_get(j->r.body, name), *first = json_at(v, 0);
    const int list = json_typeof(v) == JSON_ARRAY && json_typeof(first) != JSON_NUMBER;
    const int vocab = j->s->c->config.vocab_size;
    mla_error error;
    if (json_typeof(v) == JSON_NULL) return openai_wrong(&j->r, 400, name, "%s: it is missing", name);
    if (!make_prompts(j, list ? json_count(v) : 1, name)) return 0;
    for (int i = 0; i < j->n_prompts; i++) {
        const json_value *one = list ? json_at(v, (size_t)i) : v;
        size_t n = 0;
        const char *s = json_string(one, &n);
        if (s && n > j->s->most_bytes) return too_long(j, name, n, "bytes");
        if (s && language_encode(&j->prompts[i], j->s->l, s, n, &error))
            return openai_wrong(&j->r, 500, name, "%s: %s", name, error.text);
        if (!s && json_typeof(one) != JSON_ARRAY)
            return openai_wrong(&j->r, 400, name, "%s: neither texts nor tokens", name);
        if (list && json_typeof(one) != json_typeof(first))
            return openai_wrong(&j->r, 400, name, "%s: texts and tokens in one list", name);
        for (size_t k = 0; !s && k < json_count(one); k++) {
            int64_t id;
            if (!json_integer(json_at(one, k), &id) || id < 0 || id >= vocab)
                return openai_wrong(&j->r, 400, name, "%s: token %zu is not an integer in 0..%d", name, k, vocab - 1);
            const int token = (int)id;
            if (chat_append(&j->prompts[i], &token, 1, &error)) return no_memory(j);
        }
        if (!j->prompts[i].n) return openai_wrong(&j->r, 400, name, "%s: it is empty", name);
    }
    return 1;
}

static void put_content(text_buffer *t, const json_value *content) {
    const size_t n = openai_content(NULL, content);
    char *end = n != SIZE_MAX ? text_room(t, n) : NULL;
    if (end) t->n += openai_content(end, content), t->data[t->n] = 0;
}

/* By one of DeepSeek's templates, which knows questions and answers in turns. */
static int render_turns(job *j, const json_value *messages) {
    const chat_template *style = &j->s->l->style;
    const tokenizer *t = j->s->t;
    chat_tokens *to = &j->prompts[0];
    chat_tokens ids = {NULL, 0, 0};
    text_buffer system = {NULL, 0, 0, 0}, asked = system, said = system;
    mla_error error;
    mla_result rc = MLA_OK;
    int turns = 0, open = 0;
    for (size_t i = 0; i <= json_count(messages) && !rc && !j->r.problem.status; i++) {
        const json_value *m = json_at(messages, i);
        const char *role = m ? json_string(json_get(m, "role"), NULL) : "";
        if (*role == 's' || *role == 'd') put_content(&system, json_get(m, "content"));
        else if (*role == 't')
            openai_wrong(&j->r, 400, "messages", "messages[%zu].role: the model's chat template knows no tools", i);
        else if (*role == 'u') {
            if (open) text_put(&asked, "\n\n");
            put_content(&asked, json_get(m, "content")), open = 1;
        } else if (!open) {
            openai_wrong(&j->r, 400, "messages",
                         *role ? "messages[%zu].role: an answer without a question before it"
                               : "messages: the last one asks nothing",
                         i);
        } else {
            const char *first = turns++ ? NULL : system.data ? system.data : "";
            rc = chat_turn(to, style, t, first, asked.data ? asked.data : "", asked.n, &error);
            open = 0, asked.n = said.n = ids.n = 0;
            if (!*role || rc) continue;
            put_content(&said, json_get(m, "content"));
            if (style->end_think >= 0) rc = chat_append(&ids, &style->end_think, 1, &error);
            if (!rc) rc = chat_append_text(&ids, t, said.data ? said.data : "", said.n, TOKENIZER_PLAIN, &error);
            if (!rc) rc = chat_answer(to, style, ids.ids, ids.n, &error);
        }
    }
    if (rc && rc != MLA_ERR_MEMORY) openai_wrong(&j->r, 500, NULL, "%s", error.text);
    else if (rc || system.failed || asked.failed || said.failed) no_memory(j);
    text_clear(&system), text_clear(&asked), text_clear(&said), free(ids.ids);
    return !j->r.problem.status;
}

/* Why the template makes no text of a request: of its tools, of arguments that are no JSON, or of something else. */
static int template_refuses(job *j, const chat_options *how, const char *why) {
    chat_options without = *how;
    const char *field = *j->r.no_json ? j->r.no_json : "messages", *body;
    size_t n;
    mla_error other;
    without.calls_nothing = 1, body = http_body(j->x, &n);
    if (!how->calls_nothing && !chat_render_request(&j->prompts[0], j->s->l->own, body, n, &without, &other))
        field = "tools";
    return openai_wrong(&j->r, 400, field, "%s: %s", field, why);
}
static int read_messages(job *j) {
    const json_value *messages = json_get(j->r.body, "messages");
    const language *l = j->s->l;
    const chat_options how = {
        .bos = l->bos, .eos = l->eos, .calls_nothing = j->r.calls_nothing, .most = j->s->most_bytes};
    mla_error error;
    size_t n, all = 0;
    for (size_t i = 0; i < json_count(messages); i++) {
        n = openai_content(NULL, json_get(json_at(messages, i), "content"));
        all += n == SIZE_MAX ? 0 : n;
    }
    if (all > j->s->most_bytes) return too_long(j, "messages", all, "bytes");
    if (!make_prompts(j, 1, "messages")) return 0;
    chat_tokens *to = &j->prompts[0];
    if (!l->own && !render_turns(j, messages)) return 0;
    if (l->own) {
        const char *body = http_body(j->x, &n);
        const mla_result rc = chat_render_request(to, l->own, body, n, &how, &error);
        if (rc == MLA_ERR_MEMORY) return no_memory(j);
        if (rc == MLA_ERR_ARGUMENT) j->r.problem.code = "context_length_exceeded";
        if (rc == MLA_ERR_ARGUMENT) return openai_wrong(&j->r, 400, "messages", "messages: %s", error.text);
        if (rc) return template_refuses(j, &how, error.text);
    }
    if (language_check(l, to, &error)) return openai_wrong(&j->r, 500, NULL, "%s", error.text);
    j->thinking = chat_is_thinking(to, j->s->t);
    const int end = j->thinking ? tokenizer_find(j->s->t, "</think>") : -1, cut = end >= 0 && j->r.prefix;
    /* a call that is required leaves no time to think, and thoughts that no token ends would never end */
    if (j->r.prefix || (j->r.g && end < 0)) j->thinking = 0;
    if ((cut && chat_append(to, &end, 1, &error)) ||
        (j->r.prefix && chat_append_text(to, j->s->t, j->r.prefix, strlen(j->r.prefix), 0, &error)))
        return no_memory(j);
    return 1;
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

static void take_part(void *user, const calls_part *p) { /* of a chat's answer */
    answer *a = user;
    openai_take_part(&a->j->reply, a->c, p);
}

static int prepare_answers(job *j) {
    const json_value *tools = json_get(j->r.body, "tools");
    const int vocab = j->s->c->config.vocab_size;
    const size_t n = (size_t)j->n_prompts * (size_t)j->r.n;
    mla_error error;
    j->answers = calloc(n, sizeof *j->answers), j->reply.choices = calloc(n, sizeof *j->reply.choices);
    if (!j->answers || !j->reply.choices) return no_memory(j);
    j->reply.n = j->left = (int)n;
    for (int i = 0; i < j->reply.n; i++) j->answers[i].c = &j->reply.choices[i], j->reply.choices[i].index = i;
    for (int i = 0; i < j->reply.n; i++) {
        answer *a = &j->answers[i];
        a->j = j, a->prompt = &j->prompts[i / j->r.n];
        if (embeds(j)) continue;
        if (j->r.presence != 0 || j->r.frequency != 0) a->seen = calloc((size_t)vocab, sizeof *a->seen);
        if (j->r.g && (a->grammar = malloc(sizeof *a->grammar)) != NULL) grammar_begin(a->grammar, j->r.g);
        a->thinks = j->r.g && j->thinking;
        if ((j->r.g && !a->grammar) || ((j->r.presence != 0 || j->r.frequency != 0) && !a->seen) ||
            (j->r.n_stops && stop_create(&a->stop, (const char *const *)j->r.stops, j->r.n_stops, &error)) ||
            (chats(j) &&
             calls_create(&a->reader, json_count(tools) && !j->r.calls_nothing ? j->s->how.form : CALLS_NONE, tools,
                          j->thinking, take_part, a, &error)))
            return no_memory(j);
        if (j->r.prefix) calls_push(a->reader, j->r.prefix, strlen(j->r.prefix));
    }
    return 1;
}

/* Bytes that a model has written, on their way to content. */
static void take_utf8(answer *a, const char *bytes, size_t n, int end) {
    text_buffer whole = {NULL, 0, 0, 0};
    char *out = text_room(&whole, 3 * (n + 4) + 12);
    if (out) n = end ? tokenizer_stream_end(&a->utf8, out) : tokenizer_stream_push(&a->utf8, bytes, n, out);
    if (!out || (a->reader && !calls_push(a->reader, out, n))) no_memory(a->j);
    else if (!a->reader) text_add(&a->c->content, out, n);
    text_clear(&whole);
}

/* 1: here begins a stop string. */
static int take_bytes(answer *a, const char *bytes, size_t n) {
    text_buffer certain = {NULL, 0, 0, 0};
    int stopped = 0;
    if (!a->stop) take_utf8(a, bytes, n, 0);
    else {
        char *out = text_room(&certain, stop_room(a->stop, n));
        if (!out) return no_memory(a->j), 1;
        n = stop_push(a->stop, bytes, n, out, &stopped);
        take_utf8(a, out, n, 0);
    }
    text_clear(&certain);
    return stopped;
}

static void take_end(answer *a, int stopped) {
    text_buffer rest = {NULL, 0, 0, 0};
    char *out = a->stop && !stopped ? text_room(&rest, stop_room(a->stop, 0)) : NULL;
    if (out) take_utf8(a, out, stop_end(a->stop, out), 0);
    else if (rest.failed) no_memory(a->j);
    take_utf8(a, "", 0, 1);
    if (a->reader && !calls_end(a->reader)) no_memory(a->j);
    text_clear(&rest);
}

/* What of a token's bytes is text: those of special tokens are not, but for the marks around calls and thoughts. */
static const char *visible(answer *a, int token, size_t *n) {
    const tokenizer *t = a->j->s->t;
    const char *bytes = tokenizer_bytes(t, token, n);
    if (!bytes || (tokenizer_is_special(t, token) && !(a->reader && calls_is_mark(a->j->s->how.form, bytes, *n))))
        *n = 0;
    else if (a->reader && !a->n_visible++ && *n && *bytes == ' ' && tokenizer_strips_space(t)) bytes++, --*n;
    return bytes ? bytes : "";
}

/* An event of a stream: what there is of an answer; the role alone (first); what was used (a NULL). */
static void send_chunk(job *j, answer *a, int first) {
    text_buffer t = {NULL, 0, 0, 0};
    openai_put_chunk(&t, &j->reply, a ? a->c : NULL, first);
    if (t.failed) no_memory(j);
    else http_write(j->x, t.data, t.n);
    text_clear(&t);
}

static void send_if_any(answer *a) {
    const openai_choice *c = a->c;
    if (c->content.n || c->thoughts.n || c->calls.n || c->logprobs.n) send_chunk(a->j, a, 0);
}

static void end_answer(answer *a, const char *why, int stopped) {
    take_end(a, stopped);
    a->id = 0, a->j->left--;
    if (a->j->r.streams) send_if_any(a);
    a->c->finish = a->c->n_calls && *why == 's' ? "tool_calls" : why;
    if (a->j->r.streams) send_chunk(a->j, a, 0);
}

/* ---- events of the scheduler ------------------------------------------------------------------------------------- */

static void adjust(void *user, float *logits) {
    answer *a = user;
    const job *j = a->j;
    const int vocab = j->s->c->config.vocab_size;
    for (int i = 0; i < j->r.n_bias; i++) logits[j->r.bias_of[i]] += j->r.bias[i];
    for (int i = 0; a->seen && i < vocab; i++)
        if (a->seen[i]) logits[i] -= (float)(j->r.presence + j->r.frequency * a->seen[i]);
    if (!a->grammar || a->thinks) return;
    int best = 0;
    size_t n = 0;
    for (int i = 1; i < vocab; i++) best = logits[i] > logits[best] ? i : best;
    const char *bytes = token_text(j->s->t, best, &n);
    if (j->r.sampling.temperature <= 0 && bytes && n && grammar_test(a->grammar, bytes, n))
        return; /* it will be that */
    uint32_t *mask = malloc(((size_t)vocab + 31) / 32 * sizeof *mask);
    if (mask && grammar_allow(a->grammar, j->s->vocab, mask)) grammar_mask(logits, mask, vocab);
    else {
        pthread_mutex_lock(&j->s->lock); /* another answer of this request may find the same */
        openai_wrong(&a->j->r, 500, "response_format", "response_format: no token can go on");
        pthread_mutex_unlock(&j->s->lock);
    }
    free(mask);
}

static void take_embedding(answer *a, const scheduler_event *e) { /* of length 1 */
    const int n = a->j->s->c->config.hidden_size;
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)e->embedding[i] * (double)e->embedding[i];
    for (int i = 0; i < n; i++) {
        const float x = (float)((double)e->embedding[i] / (sum > 0 ? sqrt(sum) : 1));
        text_add(&a->c->content, (const char *)&x, sizeof x);
    }
    a->id = 0, a->j->left--;
}

static void take_token(answer *a, const scheduler_event *e) {
    server *s = a->j->s;
    size_t n;
    const char *bytes = visible(a, e->token, &n);
    int stopped = 0, complete = 0;
    const int ends = e->finish == SCHEDULER_STOP;
    if (a->seen) a->seen[e->token]++;
    if (!ends && a->grammar && !a->thinks && n)
        complete = !grammar_accept(a->grammar, bytes, n) || grammar_complete(a->grammar) == 2;
    if (a->thinks && n == 8 && !memcmp(bytes, "</think>", 8)) a->thinks = 0;
    if (!ends) stopped = take_bytes(a, bytes, n);
    if ((complete || ends) && a->grammar && a->j->r.prefix) /* a call's arguments are whole */
        take_bytes(a, calls_suffix(s->how.form), strlen(calls_suffix(s->how.form)));
    if (!ends && a->j->r.logprobs) openai_take_logprobs(&a->j->reply, a->c, s->t, e);
    if (stopped || complete) scheduler_cancel(s->scheduler, e->id);
    if (stopped || complete || ends) end_answer(a, "stop", stopped);
    else if (e->finish == SCHEDULER_LENGTH) end_answer(a, "length", 0);
    else if (a->j->r.streams) send_if_any(a);
}

static void on_event(void *user, const scheduler_event *e) {
    answer *a = user;
    job *j = a->j;
    if (e->n_generated == 1 || e->finish == SCHEDULER_DONE) {
        if (a->c->index % j->r.n == 0) j->reply.n_prompt += e->n_prompt, j->reply.n_cached += e->n_cached;
        if (!j->started++) {
            pthread_mutex_lock(&j->s->lock);
            j->s->first_token_s += now() - j->begun, j->s->first_tokens++;
            pthread_mutex_unlock(&j->s->lock);
        }
    }
    if (e->finish == SCHEDULER_FAILED) a->id = 0, openai_wrong(&j->r, 500, NULL, "%s", e->error->text);
    else if (e->finish == SCHEDULER_DONE) take_embedding(a, e);
    else j->reply.n_generated++, take_token(a, e);
}

/* ---- the model's thread ------------------------------------------------------------------------------------------ */

static int fits(job *j) { /* each text, in the context */
    const int ctx = j->s->ctx;
    for (int i = 0; i < j->n_prompts; i++) {
        const int n = (int)j->prompts[i].n, room = ctx - n;
        if (embeds(j) && room < 0) return too_long(j, "input", (size_t)n, "tokens");
        if (embeds(j) || (room > 0 && j->r.max_tokens <= room)) continue;
        j->r.problem.code = "context_length_exceeded";
        return openai_wrong(&j->r, 400, room < 1 ? (chats(j) ? "messages" : "prompt") : "max_tokens",
                            "max_tokens: %d and %d tokens of prompt are more than the %d of the context",
                            j->r.max_tokens ? j->r.max_tokens : 1, n, ctx);
    }
    return 1;
}

/* What the scheduler gets now: of one request fewer than run at a time, so that others come between. */
static int submit(job *j) {
    server *s = j->s;
    mla_error error;
    const int most = s->parallel > 1 ? s->parallel - 1 : 1;
    for (; j->submitted < j->reply.n && j->submitted - (j->reply.n - j->left) < most; j->submitted++) {
        answer *a = &j->answers[j->submitted];
        scheduler_request r;
        memset(&r, 0, sizeof r);
        r.sampling = j->r.sampling, r.logprobs = j->r.logprobs, r.n_top = j->r.n_top;
        r.kind = !embeds(j) ? SCHEDULER_GENERATE : j->r.last_state ? SCHEDULER_EMBED_LAST : SCHEDULER_EMBED_MEAN;
        r.tokens = a->prompt->ids, r.n_tokens = (int)a->prompt->n;
        r.max_tokens = j->r.max_tokens ? j->r.max_tokens : embeds(j) ? 1 : s->ctx - r.n_tokens;
        r.sampling.seed += (uint64_t)(j->submitted % j->r.n), r.stops = s->stops, r.n_stops = s->n_stops;
        r.on_event = on_event, r.user = a;
        r.adjust = j->r.n_bias || a->seen || a->grammar ? adjust : NULL;
        const mla_result rc = scheduler_submit(s->scheduler, &r, &a->id, &error);
        if (rc == MLA_ERR_MEMORY) return no_memory(j);
        if (rc) return openai_wrong(&j->r, 400, NULL, "%s", error.text);
    }
    return 1;
}

static int begin(job *j) {
    if (!fits(j) || !submit(j)) return 0;
    if (!j->r.streams) return 1;
    http_begin(j->x, 200, "text/event-stream; charset=utf-8", "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n");
    j->started = 0;
    for (int i = 0; chats(j) && i < j->reply.n; i++) send_chunk(j, &j->answers[i], 1);
    return 1;
}

/* A job that is over, or whose client is: answers what is left to answer. 1: the job is gone. */
static int settle(job *j, int begun) {
    server *s = j->s;
    const int gone = http_gone(j->x) || http_waiting(j->x) > (size_t)64 << 20; /* or takes nothing, as good as gone */
    text_buffer t = {NULL, 0, 0, 0};
    if (j->left && !j->r.problem.status && !gone) return 0;
    for (int i = 0; i < j->reply.n; i++)
        if (j->answers[i].id) scheduler_cancel(s->scheduler, j->answers[i].id);
    pthread_mutex_lock(&s->lock);
    s->open--;
    pthread_mutex_unlock(&s->lock);
    if (gone) { /* half an answer must not look like a whole one to a client that still reads */
        http_drop(j->x), note(s, 0), free_job(j);
    } else if (begun && j->r.streams) {
        if (j->r.problem.status) text_put(&t, "data: "), openai_put_problem(&t, &j->r.problem), text_put(&t, "\n\n");
        else if (j->r.usage) send_chunk(j, NULL, 0);
        if (!j->r.problem.status) text_put(&t, "data: [DONE]\n\n");
        if (t.n) http_write(j->x, t.data, t.n), http_end(j->x);
        else http_drop(j->x); /* without memory for its end it must not look whole */
        note(s, j->r.problem.status ? j->r.problem.status : 200);
        text_clear(&t), free_job(j);
    } else if (j->r.problem.status) refuse(j);
    else openai_put_whole(&t, &j->reply), reply(j, 200, "application/json", NULL, &t);
    return 1;
}

static volatile sig_atomic_t stopping; /* by a signal */

static void *run_model(void *user) {
    server *s = user;
    job *running = NULL;
    double until = 0; /* when what runs is given up; 0: never */
    for (;;) {
        pthread_mutex_lock(&s->lock);
        s->stats = scheduler_statistics(s->scheduler);
        while (!running && !s->ready.first && !(s->quitting && s->desk_done))
            pthread_cond_wait(&s->model_wakes, &s->lock);
        jobs fresh = s->ready;
        s->ready.first = s->ready.last = NULL;
        pthread_mutex_unlock(&s->lock);
        if (!running && !fresh.first) return NULL;
        for (job *j; (j = pop(&fresh)) != NULL;)
            if (!http_gone(j->x) && begin(j)) j->next = running, running = j;
            else settle(j, 0);
        if (stopping && until <= 0) until = now() + s->drain_s;
        for (job *j = running; j && until > 0 && now() > until; j = j->next)
            openai_wrong(&j->r, 503, NULL, "the server stops, and the time that answers had is up (--drain)");
        for (job **at = &running, *next; *at;) {
            next = (*at)->next;
            if (!(*at)->r.problem.status) submit(*at);
            if (settle(*at, 1)) *at = next;
            else at = &(*at)->next;
        }
        const double stepped = now();
        if (running) scheduler_step(s->scheduler);
        pthread_mutex_lock(&s->lock);
        s->step_s += now() - stepped;
        pthread_mutex_unlock(&s->lock);
    }
}

/* ---- the desk: requests are read, and what needs no model is answered -------------------------------------------- */

static void answer_page(job *j) {
    text_buffer t = {NULL, 0, 0, 0};
    for (int i = 0; page[i]; i++) text_put(&t, page[i]);
    reply(j, 200, "text/html; charset=utf-8",
          "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
          "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
          "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n",
          &t);
}

static void answer_health(job *j) {
    text_buffer t = {NULL, 0, 0, 0};
    text_put(&t, "{\"status\":\"ok\"}");
    reply_json(j, &t);
}

static void answer_metrics(job *j) {
    server *s = j->s;
    text_buffer t = {NULL, 0, 0, 0};
    pthread_mutex_lock(&s->lock);
    const scheduler_stats n = s->stats;
    const struct {
        const char *name, *type, *help;
        double value;
    } all[] = {
        {"requests_running", "gauge", "Texts and embeddings that the model works on.", n.running},
        {"requests_waiting", "gauge", "Texts and embeddings that wait for room.", n.waiting},
        {"requests_open", "gauge", "Requests for the model that are not answered yet.", s->open},
        {"requests_submitted_total", "counter", "Texts and embeddings that were asked for.", (double)n.requests},
        {"prompt_tokens_total", "counter", "Tokens of prompts that the model has read.", (double)n.prompt_tokens},
        {"prompt_tokens_cached_total", "counter", "Tokens of prompts found in the cache.", (double)n.cached_tokens},
        {"generated_tokens_total", "counter", "Tokens that the model has written.", (double)n.generated_tokens},
        {"guesses_total", "counter", "Tokens that --mtp guessed, and the model tried.", (double)n.guesses},
        {"guesses_accepted_total", "counter", "Of these, what the model said, too.", (double)n.accepted},
        {"steps_total", "counter", "Forward calls.", (double)n.steps},
        {"step_seconds_total", "counter", "Their time.", s->step_s},
        {"step_tokens", "gauge", "Tokens in the last of them.", n.last_tokens},
        {"preemptions_total", "counter", "Requests put back because the pool was full.", (double)n.preemptions},
        {"recomputed_tokens_total", "counter", "Tokens read again because of that.", (double)n.recomputed_tokens},
        {"pool_pages", "gauge", "Pages of 64 tokens.", n.pages},
        {"pool_pages_free", "gauge", "Pages that hold nothing.", n.free_pages},
        {"pool_pages_cached", "gauge", "Pages of prefixes that nobody uses now.", n.cached_pages},
        {"connections", "gauge", "Open connections.", http_count(s->http)},
        {"first_token_seconds_sum", "counter", "Time from a request to its first token.", s->first_token_s},
        {"first_token_seconds_count", "counter", "Requests that had one.", (double)s->first_tokens},
        {"responses_ok_total", "counter", "Answers of status 2xx.", (double)s->n_answered[2]},
        {"responses_client_error_total", "counter", "Answers of status 4xx.", (double)s->n_answered[4]},
        {"responses_server_error_total", "counter", "Answers of status 5xx.", (double)s->n_answered[5]},
        {"responses_abandoned_total", "counter", "Clients that went away before.", (double)s->n_answered[0]},
        {"uptime_seconds", "gauge", "Since the start.", now() - s->begun}};
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        text_print(&t, "# HELP mla_%s %s\n# TYPE mla_%s %s\nmla_%s %.15g\n", all[i].name, all[i].help, all[i].name,
                   all[i].type, all[i].name, all[i].value);
    reply(j, 200, "text/plain; version=0.0.4; charset=utf-8", NULL, &t);
}

/* A part of a path with its %41 as A. */
static void put_decoded(text_buffer *t, const char *part) {
    for (unsigned byte; *part; part++) {
        const int coded = *part == '%' && isxdigit((unsigned char)part[1]) && isxdigit((unsigned char)part[2]);
        if (!coded || sscanf(part + 1, "%2x", &byte) != 1) text_add(t, part, 1);
        else {
            const char c = (char)byte;
            text_add(t, &c, 1), part += 2;
        }
    }
}

static void answer_models(job *j) {
    static const char prefix[] = "/v1/models/";
    const char *path = http_request(j->x)->path,
               *one = strncmp(path, prefix, sizeof prefix - 1) ? NULL : path + sizeof prefix - 1;
    text_buffer t = {NULL, 0, 0, 0}, name = t;
    if (one) put_decoded(&name, one), t.failed = name.failed;
    const int other = one && !t.failed && (name.n != j->s->alias.n || memcmp(name.data, j->s->alias.data, name.n) != 0);
    text_clear(&name);
    if (other) {
        j->r.problem.code = "model_not_found", openai_wrong(&j->r, 404, "model", "model: '%.100s' is not here", one);
        refuse(j);
        return;
    }
    if (!one) text_put(&t, "{\"object\":\"list\",\"data\":[");
    text_put(&t, "{\"id\":"), text_quote(&t, j->s->alias.data, j->s->alias.n);
    text_print(&t, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"local\",\"max_model_len\":%d}",
               (long long)j->s->opened, j->s->ctx);
    if (!one) text_put(&t, "]}");
    reply_json(j, &t);
}

/* A field of a body in JSON, for an endpoint that needs no more; NULL: refused. */
static const json_value *read_field(job *j, const char *name, json_type type, const char *not_it) {
    size_t n;
    const char *body = http_body(j->x, &n);
    mla_error error;
    const mla_result rc = json_parse(body, n, &j->r.body, &error);
    const json_value *v = json_get(j->r.body, name);
    if (rc == MLA_ERR_MEMORY) no_memory(j);
    else if (rc) openai_wrong(&j->r, 400, NULL, "the body cannot be read as JSON: %s", error.text);
    else if (json_typeof(j->r.body) != JSON_OBJECT) openai_wrong(&j->r, 400, NULL, "the body is no object of JSON");
    else if (json_typeof(v) != type) openai_wrong(&j->r, 400, name, "%s: %s", name, v ? not_it : "it is missing");
    return j->r.problem.status ? NULL : v;
}

static void reply_or_refuse(job *j, text_buffer *t) {
    if (!j->r.problem.status) reply_json(j, t);
    else text_clear(t), refuse(j);
}

static void answer_tokenize(job *j) { /* content, and add_special: as a prompt begins */
    size_t n = 0;
    chat_tokens ids = {NULL, 0, 0};
    text_buffer t = {NULL, 0, 0, 0};
    mla_error error;
    mla_result rc = MLA_OK;
    const char *content = json_string(read_field(j, "content", JSON_STRING, "not a string"), &n);
    const json_value *special = json_get(j->r.body, "add_special");
    if (content && json_typeof(special) != JSON_NULL && json_typeof(special) != JSON_BOOL)
        openai_wrong(&j->r, 400, "add_special", "add_special: neither true nor false");
    else if (content && json_bool(special)) rc = language_encode(&ids, j->s->l, content, n, &error);
    else if (content) rc = chat_append_text(&ids, j->s->t, content, n, 0, &error);
    if (rc) openai_wrong(&j->r, 500, NULL, "%s", error.text);
    text_print(&t, "{\"count\":%zu,\"tokens\":[", ids.n);
    for (size_t i = 0; i < ids.n; i++) text_print(&t, i ? ",%d" : "%d", ids.ids[i]);
    text_put(&t, "]}"), free(ids.ids);
    reply_or_refuse(j, &t);
}

static void answer_detokenize(job *j) {
    text_buffer t = {NULL, 0, 0, 0}, all = t;
    const json_value *list = read_field(j, "tokens", JSON_ARRAY, "not a list");
    for (size_t i = 0; list && i < json_count(list); i++) {
        int64_t id;
        size_t n;
        const int known = json_integer(json_at(list, i), &id) && id >= 0 && id < INT_MAX;
        const char *bytes = known ? tokenizer_bytes(j->s->t, (int)id, &n) : NULL;
        if (bytes) text_add(&all, bytes, n);
        else openai_wrong(&j->r, 400, "tokens", "tokens[%zu]: there is no such token", i);
    }
    text_put(&t, "{\"content\":"), text_quote(&t, all.data ? all.data : "", all.n), text_put(&t, "}");
    t.failed |= all.failed;
    text_clear(&all);
    reply_or_refuse(j, &t);
}

/* What the model is needed for. */
static void answer_by_model(job *j) {
    server *s = j->s;
    const char *path = http_request(j->x)->path;
    const openai_kind kind = !strcmp(path, "/v1/chat/completions") ? OPENAI_CHAT
                             : !strcmp(path, "/v1/completions")    ? OPENAI_COMPLETION
                                                                   : OPENAI_EMBEDDING;
    size_t n;
    const char *body = http_body(j->x, &n);
    mla_error error;
    s->how.seed = (int64_t)(random_bits() >> 11); /* a number that any client can hold */
    snprintf(j->id, sizeof j->id, "%s-%016llx", kind == OPENAI_CHAT ? "chatcmpl" : "cmpl",
             (unsigned long long)(s->secret += 0x9E3779B97F4A7C15u));
    j->reply.r = &j->r, j->reply.id = j->id, j->reply.created = time(NULL);
    int ok = openai_read(&j->r, kind, body, n, &s->how) &&
             (kind == OPENAI_CHAT ? read_messages(j) : read_texts(j, kind == OPENAI_COMPLETION ? "prompt" : "input"));
    if (ok && j->r.g && !s->vocab &&
        grammar_vocab_create(&s->vocab, s->how.vocab_size, token_text, s->t, s->stops, s->n_stops, &error))
        ok = no_memory(j);
    ok = ok && prepare_answers(j);
    pthread_mutex_lock(&s->lock);
    if (ok && s->open >= s->most_open)
        ok = openai_wrong(&j->r, 503, NULL, "too many requests are waiting: %d (--queue, --parallel)", s->open);
    if (ok) s->open++, push(&s->ready, j), pthread_cond_signal(&s->model_wakes);
    pthread_mutex_unlock(&s->lock);
    if (!ok) refuse(j);
}

static const struct {
    const char *method, *path;
    void (*answer)(job *j);
} routes[] = {{"GET", "/", answer_page},
              {"GET", "/health", answer_health},
              {"GET", "/metrics", answer_metrics},
              {"GET", "/v1/models", answer_models},
              {"POST", "/v1/chat/completions", answer_by_model},
              {"POST", "/v1/completions", answer_by_model},
              {"POST", "/v1/embeddings", answer_by_model},
              {"POST", "/tokenize", answer_tokenize},
              {"POST", "/detokenize", answer_detokenize}};

/* In a time that does not depend on where they differ. */
static int same_key(const char *a, size_t n, const char *b) {
    const size_t m = strlen(b);
    unsigned char differ = n != m;
    for (size_t i = 0; i < n; i++) differ |= (unsigned char)(a[i] ^ (m ? b[i % m] : 1));
    return !differ;
}

enum { MAX_KEY = 500 }; /* bytes */

/* Authorization: Bearer KEY, or Basic with the key as password, which browsers ask for. */
static int has_key(const server *s, const char *given) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char plain[512] = "";
    size_t n = 0;
    int found = 0;
    if (given && !strncasecmp(given, "Bearer ", 7)) snprintf(plain, sizeof plain, "%s", given + 7);
    else if (given && !strncasecmp(given, "Basic ", 6)) {
        unsigned bits = 0, held = 0;
        for (const char *c = given + 6, *d; *c && (d = strchr(digits, *c)) && n < sizeof plain - 1; c++) {
            bits = bits << 6 | (unsigned)(d - digits), held += 6;
            if (held >= 8) held -= 8, plain[n++] = (char)(bits >> held & 255);
        }
        plain[n] = 0;
        const char *colon = strchr(plain, ':');
        memmove(plain, colon ? colon + 1 : "", colon ? strlen(colon) : 1);
    }
    n = strlen(plain);
    for (size_t at = 0; at < s->keys.n; at += strlen(s->keys.data + at) + 1)
        found |= same_key(plain, n, s->keys.data + at);
    return found;
}

/* What a page from elsewhere may not do through its reader's browser, unless --cors allows it: its Origin is another,
   or, where its name was made to point here, so is Host. */
static int is_foreign(const server *s, const http_head *h) {
    const char *origin = http_find(h, "origin"), *host = http_find(h, "host"), *cors = s->o.cors;
    const char *names[] = {"localhost", "127.0.0.1", "[::1]"};
    int local = !s->loopback || !host;
    for (int i = 0; i < 3 && !local; i++) {
        const size_t n = strlen(names[i]);
        local = !strncasecmp(host, names[i], n) && (!host[n] || host[n] == ':');
    }
    if (cors && (!strcmp(cors, "*") || (origin && !strcmp(cors, origin)))) return 0;
    if (!local) return 1;
    const char *at = origin ? strstr(origin, "://") : NULL;
    return origin && (!at || !host || strcasecmp(at + 3, host) != 0);
}

/* Answers a request, or sends it on to the model; the job is gone then. */
static void serve(job *j) {
    const http_head *h = http_request(j->x);
    server *s = j->s;
    text_buffer none = {NULL, 0, 0, 0};
    int found = -1;
    const int lists = !strncmp(h->path, "/v1/models/", 11), head = !strcmp(h->method, "HEAD");
    for (int i = 0; i < (int)(sizeof routes / sizeof *routes); i++) {
        if (strcmp(h->path, routes[i].path) != 0 && !(lists && routes[i].answer == answer_models)) continue;
        j->allow = *routes[i].method == 'G' ? "Allow: GET, HEAD\r\n" : "Allow: POST\r\n";
        if (!strcmp(h->method, routes[i].method) || (head && *routes[i].method == 'G')) found = i;
    }
    if (j->allow && s->o.cors && !strcmp(h->method, "OPTIONS")) {
        reply(j, 204, NULL,
              "Access-Control-Allow-Methods: GET, POST\r\nAccess-Control-Allow-Headers: *, "
              "Authorization\r\nAccess-Control-Max-Age: 3600\r\n",
              &none);
        return;
    }
    if (is_foreign(s, h))
        openai_wrong(&j->r, 403, NULL,
                     "pages from elsewhere may not use this server (--cors), nor one who calls it another name in Host "
                     "(--host)");
    else if (s->keys.n && (found < 0 || routes[found].answer != answer_health) &&
             !has_key(s, http_find(h, "authorization")))
        j->r.problem.code = "invalid_api_key", openai_wrong(&j->r, 401, NULL, "the API key is missing or wrong");
    else if (!j->allow) openai_wrong(&j->r, 404, NULL, "there is no %.200s here", h->path);
    else if (found < 0) openai_wrong(&j->r, 405, NULL, "%.100s does not take %.20s", h->path, h->method);
    if (j->r.problem.status) refuse(j);
    else routes[found].answer(j);
}

static void *run_desk(void *user) {
    server *s = user;
    for (job *j;;) {
        pthread_mutex_lock(&s->lock);
        while (!(j = pop(&s->asked)) && !s->quitting) pthread_cond_wait(&s->desk_wakes, &s->lock);
        if (!j) s->desk_done = 1, pthread_cond_signal(&s->model_wakes);
        pthread_mutex_unlock(&s->lock);
        if (!j) return NULL;
        if (http_gone(j->x)) http_drop(j->x), note(s, 0), free_job(j);
        else serve(j);
    }
}

static void on_request(void *user, http_exchange *x) { /* the thread of http_run */
    server *s = user;
    job *j = calloc(1, sizeof *j);
    if (!j) {
        http_reply(x, 503, NULL, NULL, "", 0);
        return;
    }
    j->s = s, j->x = x, j->r.n = 1, j->begun = now();
    if (strcmp(http_request(x)->method, "POST") != 0) serve(j); /* at once, whatever long prompts the desk is at */
    else {
        pthread_mutex_lock(&s->lock);
        push(&s->asked, j), pthread_cond_signal(&s->desk_wakes);
        pthread_mutex_unlock(&s->lock);
    }
}

/* ---- start and end ----------------------------------------------------------------------------------------------- */

static http_server *listening; /* for the signal's handler */
static void on_signal(int number) {
    if (stopping) _exit(128 + number);
    stopping = 1;
    http_stop(listening);
}

static int blank(char c) { return c == ' ' || c == '\t'; }
static void read_keys(server *s) {
    char *text = NULL;
    size_t n = 0, to;
    mla_error error;
    if (s->o.api_key && checkpoint_read(&text, &n, s->o.api_key, 1 << 20, NULL, &error))
        fail(1, "--api-key: %s", error.text);
    const size_t first = text && n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3) ? 3 : 0; /* behind a mark of UTF-8 */
    for (size_t i = first, from = first, line = 1; text && i <= n; i++) {
        const int c = i < n ? text[i] : '\n', ends = c == '\n' || c == '\r';
        if (!c || (!ends && i - from == MAX_KEY)) /* half of a key must not become one */
            fail(2, "--api-key: line %zu of %s %s", line, s->o.api_key, c ? "is longer than a key" : "has a NUL");
        if (!ends) continue;
        for (to = i; to > from && blank(text[to - 1]);) to--; /* no header can have them */
        while (from < to && blank(text[from])) from++;
        if (to > from) text_add(&s->keys, text + from, to - from), text_add(&s->keys, "", 1);
        from = i + 1, line += c == '\n';
    }
    if (s->keys.failed) fail(1, "out of memory");
    if (text && !s->keys.n) fail(1, "--api-key: there is no key in %s", s->o.api_key);
    free(text);
}

static void open_synthetic(server *s) {
    static const mla_dtype types[] = {MLA_BF16, MLA_Q8, MLA_Q4};
    static const char lines[] = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ";
    mla_error error;
    if (synthetic_open(&s->c, &s->t, s->o.synthetic,
                       types[s->o.quant ? options_word("--quant", s->o.quant, "bf16 q8 q4") : 2], &error))
        fail(1, "--synthetic: %s", error.text);
    if (!(s->l = calloc(1, sizeof *s->l))) fail(1, "out of memory");
    s->l->c = s->c, s->l->tokenizer = s->t, s->l->eos_id = -1;
    if (chat_open(&s->l->own, lines, sizeof lines - 1, "synthetic", s->t, &error)) fail(1, "%s", error.text);
    s->how.sampling.temperature = 1;
}

static void open_files(server *s) {
    const options *o = &s->o;
    const language_files files = {o->model, o->tokenizer, 0};
    mla_error error;
    if (checkpoint_open_with(&s->c, o->model, &(checkpoint_options){.mtp = mtp}, &error)) fail(1, "%s", error.text);
    language_notes(NULL, s->c, say);
    if (language_open(&s->l, &files, s->c, &error) || language_chat(s->l, o->template_file, 1, &error))
        fail(1, "%s", error.text);
    language_notes(s->l, NULL, say);
    s->t = s->l->tokenizer, s->how.form = calls_form_of(s->l->source);
    s->how.knows_tools = s->l->own && chat_mentions(s->l->own, "tools");
    if (language_sampling(s->l, &s->how.sampling, &error)) fail(1, "%s", error.text);
    if (s->how.sampling.temperature <= 0) s->how.sampling.temperature = 1; /* as OpenAI's API has it */
    for (int i = 0; i < s->c->n_eos; i++) s->stops[s->n_stops++] = s->c->eos_token_id[i];
    for (int i = 0; i < s->n_stops; i++)
        if (s->stops[i] == s->l->eos_id) return;
    if (s->l->eos_id >= 0) s->stops[s->n_stops++] = s->l->eos_id;
}

static void open_model(server *s) {
    static const mla_dtype types[] = {MLA_F32, MLA_F16, MLA_BF16, MLA_Q8};
    const options *o = &s->o;
    mla_config *f = &s->c->config;
    mla_error error;
    const int made_for = s->c->max_position_embeddings, usual = made_for > 0 && made_for < 16384 ? made_for : 16384;
    s->parallel = o->parallel, s->ctx = o->ctx ? o->ctx : usual;
    if (made_for > 0 && s->ctx > made_for && f->rope.scaling != MLA_ROPE_DYNAMIC)
        say("--ctx: %d, and the model was made for %d tokens: what is beyond may be nonsense\n", s->ctx, made_for);
    if (f->rope.scaling == MLA_ROPE_DYNAMIC || f->rope.scaling == MLA_ROPE_LONGROPE) f->rope.length = s->ctx;
    if (!threads_create(&s->pool, o->threads)) fail(1, "no threads are to be had");
    if (o->model) {
        checkpoint_quant q;
        memset(&q, 0, sizeof q);
        q.form = CHECKPOINT_KEEP;
        if (o->quant)
            q.form =
                (checkpoint_form)(CHECKPOINT_Q8 + options_word("--quant", o->quant, "q8 q4 q4_k q5_k q6_k iq4_nl"));
        q.threads = threads_count(s->pool), q.run = threads_run, q.run_user = s->pool, q.repack = 1;
        if (checkpoint_quantize(s->c, &q, &error)) fail(1, "%s", error.text);
    }
    if (mla_model_create(&s->model, f, &s->c->weights, NULL, &error)) fail(1, "%s", error.text);
    scheduler_desc d;
    memset(&d, 0, sizeof d);
    d.budget = s->parallel - 1 + 256 > 512 ? s->parallel - 1 + 256 : 512;
    mla_context_desc how;
    memset(&how, 0, sizeof how);
    how.max_tokens = d.budget, how.threads = threads_count(s->pool), how.run = threads_run, how.run_user = s->pool;
    how.team = 1, how.invariant = !fast, how.wait = threads_wait, how.wake = threads_wake;
    how.alloc = checkpoint_huge_pages;
    if (mla_context_create(&s->context, s->model, &how, &error)) fail(1, "%s", error.text);
    d.model = s->model, d.context = s->context, d.parallel = s->parallel, d.context_length = s->ctx, d.any_cut = fast;
    d.dtype = d.index_dtype = types[o->cache], d.speculate = mtp, d.clock = now;
    d.run = threads_run, d.run_user = s->pool, d.alloc = checkpoint_huge_pages;
    const mla_pool_desc one = {.n_pages = 1, .dtype = d.dtype, .index_dtype = d.index_dtype},
                        two = {.n_pages = 2, .dtype = d.dtype, .index_dtype = d.index_dtype};
    const double bytes = (double)(mla_pool_size(s->model, &two) - mla_pool_size(s->model, &one)),
                 all = bytes * s->parallel * ((s->ctx + MLA_PAGE - 1) / MLA_PAGE + 1),
                 quarter = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / 4;
    d.pool_bytes = (size_t)(o->pool > 0 ? o->pool : all < quarter ? all : quarter);
    if ((double)d.pool_bytes < bytes) fail(1, "--pool: a page of %d tokens takes %.0f bytes", MLA_PAGE, bytes);
    if (scheduler_create(&s->scheduler, &d, &error)) fail(1, "%s", error.text);
    for (int i = 0; i < tokenizer_size(s->t); i++) {
        size_t n;
        if (tokenizer_bytes(s->t, i, &n) && n > s->most_bytes) s->most_bytes = n;
    }
    s->most_bytes *= (size_t)s->ctx;
    s->how.vocab_size = f->vocab_size, s->how.hidden_size = f->hidden_size;
}

static void open_http(server *s) {
    const options *o = &s->o;
    char error[160];
    http_desc d;
    memset(&d, 0, sizeof d);
    d.host = o->host, d.port = o->port;
    d.max_body = (size_t)o->max_body, s->drain_s = o->drain;
    d.drain_s = s->drain_s + 10; /* then answers that were given up have been sent, too */
    d.clock = now, d.request = on_request, d.user = s;
    if (o->cors && strpbrk(o->cors, "\r\n")) fail(2, "--cors: not an origin, as https://example.org");
    if (o->cors)
        text_put(&s->headers, "Access-Control-Allow-Origin: "), text_put(&s->headers, o->cors),
            text_put(&s->headers, "\r\nVary: Origin\r\n");
    if (s->headers.failed) fail(1, "out of memory");
    d.headers = s->headers.data;
    s->loopback = !strncmp(d.host, "127.", 4) || !strcmp(d.host, "localhost") || !strcmp(d.host, "::1");
    s->how.last_state = o->last;
    s->most_open = s->parallel + o->queue;
    if (http_open(&s->http, &d, error)) fail(1, "%s", error);
    listening = s->http;
}

static void name_model(server *s) { /* --alias, or as the file or directory is called */
    const char *path = s->o.alias ? s->o.alias : s->o.model ? s->o.model : s->o.synthetic;
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    size_t begin = s->o.alias ? 0 : n;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    text_add(&s->alias, path + begin, n - begin);
    if (!s->alias.data) fail(1, "out of memory");
    s->how.model = s->alias.data;
}

static void close_server(server *s) {
    scheduler_destroy(s->scheduler), mla_context_destroy(s->context), mla_model_destroy(s->model);
    grammar_vocab_destroy(s->vocab), language_close(s->l), checkpoint_close(s->c), threads_destroy(s->pool),
        http_close(s->http);
    text_clear(&s->keys), text_clear(&s->alias), text_clear(&s->headers);
}

int main(int argc, char **argv) {
    static server all;
    server *s = &all;
    pthread_t desk, model;
    struct sigaction action;
    options_streams();
    parse(&s->o, argc, argv);
    s->begun = now(), s->opened = time(NULL), s->secret = random_bits();
    pthread_mutex_init(&s->lock, NULL), pthread_cond_init(&s->desk_wakes, NULL),
        pthread_cond_init(&s->model_wakes, NULL);
    read_keys(s), name_model(s);
    (s->o.model ? open_files : open_synthetic)(s);
    open_model(s), open_http(s);
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigaction(SIGTERM, &action, NULL), sigaction(SIGINT, &action, NULL);
    if (pthread_create(&desk, NULL, run_desk, s) || pthread_create(&model, NULL, run_model, s))
        fail(1, "no threads are to be had");
    say("%s, %s kernels, %d threads, %d requests at a time of at most %d tokens\n", s->alias.data,
        mla_isa_name(mla_context_isa(s->context)), mla_context_threads(s->context), s->parallel, s->ctx);
    if (!options_here.quiet || s->o.port == 0) /* which nothing else tells */
        fprintf(stderr, strchr(s->o.host, ':') ? "listening on http://[%s]:%d\n" : "listening on http://%s:%d\n",
                s->o.host, http_port(s->http));
    http_run(s->http);
    pthread_mutex_lock(&s->lock);
    s->quitting = 1;
    pthread_cond_signal(&s->desk_wakes), pthread_cond_signal(&s->model_wakes);
    pthread_mutex_unlock(&s->lock);
    pthread_join(desk, NULL), pthread_join(model, NULL);
    close_server(s);
    return 0;
}
