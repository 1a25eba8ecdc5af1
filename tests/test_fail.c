/* test_fail.c - what a machine gives fails: each call for memory, files and threads that an operation makes, the first,
   the second and so on, that one alone or all from there on. Nothing crashes, nothing stays open, what the operation
   worked on is as it was, and the message names what failed; where it succeeds all the same, the result is the same.
   Run from the repository root; tests/fail does the same with the programs. */

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#endif
#include "fail.h"
#include "mla.h"
#include "convert.h"
#include "examples/calls.h"
#include "examples/language.h"
#include "examples/line.h"
#include "examples/openai.h"
#define PARTS_IMPLEMENTATION
#include "examples/parts.h"
#include "examples/prefixes.h"
#include "examples/scheduler.h"
#include "examples/speculative.h"
#include "examples/synthetic.h"
#include "examples/threads.h"
#include "http.h"
#include "test.h"
#include <arpa/inet.h>
#include <time.h>

#define FIXTURES "tests/fixtures/checkpoints/"
#define COUNT(x) (sizeof(x) / sizeof *(x))
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        const mla_result r_ = (call);                                                                                  \
        if (r_) return r_;                                                                                             \
    } while (0)

static uint64_t sum; /* of what an operation gives */
static void add(const void *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) sum = (sum ^ ((const unsigned char *)bytes)[i]) * 1099511628211u;
}
static char scratch[256]; /* a file */

/* What the operations work on, opened before anything fails. */
static checkpoint *files, *ahead, *tale;
static mla_model *model, *seer;
static tokenizer *words;
static json_value *schema, *listed; /* listed: tokenizer.json */
static jinja_template *pattern;
static mla_context *context, *far;
static mla_cache *cache;
static mla_pool *pool;
static const int some[] = {3, 5, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8};

static mla_result no_memory(mla_error *e, const char *what) { /* of functions that say no more */
    snprintf(e->text, sizeof e->text, "no memory for %s", what);
    return e->code = MLA_ERR_MEMORY;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static mla_result open_files(const char *path, const checkpoint_options *how, mla_error *e) {
    checkpoint *c;
    TRY(checkpoint_open_with(&c, path, how, e));
    const uint64_t of = parts_fingerprint(c);
    checkpoint_close(c);
    if (!of) return no_memory(e, "the fingerprint");
    add(&of, sizeof of);
    return MLA_OK;
}
static mla_result do_shards(mla_error *e) { return open_files(FIXTURES "deepseek_v2", NULL, e); }
static mla_result do_packed(mla_error *e) { return open_files("tests/fixtures/formats/mixed_int4", NULL, e); }
static mla_result do_ahead(mla_error *e) {
    checkpoint_options how;
    memset(&how, 0, sizeof how);
    how.mtp = 1;
    return open_files(FIXTURES "deepseek_v3", &how, e);
}
static mla_result do_longrope(mla_error *e) { return open_files(FIXTURES "minicpm3_longrope", NULL, e); }
static mla_result do_sparse(mla_error *e) { return open_files(FIXTURES "hy_v4", NULL, e); }
static mla_result do_ngram(mla_error *e) { return open_files(FIXTURES "longcat_flash_ngram", NULL, e); }
static mla_result do_kda(mla_error *e) { return open_files(FIXTURES "kimi_linear", NULL, e); }

static mla_result do_quantize(mla_error *e) {
    checkpoint *c;
    checkpoint_quant how;
    const int kinds = fail.kinds;
    memset(&how, 0, sizeof how);
    how.repack = 1, how.threads = 1;
    fail.kinds = 0; /* to open it is another operation */
    if (checkpoint_open(&c, FIXTURES "deepseek_v2_lite", e)) abort();
    const mla_weights before = c->weights;
    const mla_layer_weights first = c->layers[0];
    fail.kinds = kinds;
    const mla_result r = checkpoint_quantize(c, &how, e);
    fail.kinds = 0;
    if (r)
        CHECK(!memcmp(&before, &c->weights, sizeof before) && !memcmp(&first, &c->layers[0], sizeof first),
              "the checkpoint has changed");
    else add(c->weights.head.data, mla_dtype_bytes(c->weights.head.dtype, 64));
    checkpoint_close(c);
    fail.kinds = kinds;
    return r;
}

/* A checkpoint as a GGUF file; with words its tokenizer, too, and without weights no data: then it is given up. */
static mla_result write_gguf(const char *path, const checkpoint *c, int with_words, int with_weights, mla_error *e) {
    static unsigned char rows[1 << 18];
    int types[CHECKPOINT_CLASS_COUNT];
    convert_plan *p;
    gguf_writer *w;
    const char *note;
    for (int i = 0; i < CHECKPOINT_CLASS_COUNT; i++) types[i] = MLA_F16;
    TRY(convert_begin(&p, c, types, e));
    mla_result r = gguf_create(&w, path, e);
    if (!r) {
        convert_put_config(p, w);
        if (with_words) r = convert_put_tokenizer(w, listed, NULL, NULL, c, &note, e);
        for (size_t i = 0; i < p->n; i++)
            gguf_put_tensor(w, p->tensors[i].name, gguf_type_of(p->tensors[i].dtype), p->tensors[i].n_dims,
                            p->tensors[i].dims);
        for (size_t i = 0; i < p->n && !r && with_weights; i++) {
            const convert_tensor *t = &p->tensors[i];
            for (int64_t row = 0, rows_now; row < t->rows; row += rows_now) {
                const int64_t end = t->kind == CONVERT_EXPERTS ? (row / t->dims[1] + 1) * t->dims[1] : t->rows;
                rows_now = (int64_t)sizeof rows / 4 / t->dims[0];
                if (rows_now > end - row) rows_now = end - row;
                convert_rows(p, t, row, rows_now, rows);
                gguf_put_data(w, rows, mla_dtype_bytes(t->dtype, (size_t)(rows_now * t->dims[0])));
            }
        }
        if (r || !with_weights) gguf_abandon(w);
        else r = gguf_finish(w, e);
    }
    convert_end(p);
    return r;
}
static mla_result convert(const checkpoint *c, int with_words, int with_weights, mla_error *e) {
    char path[300], part[320];
    struct stat info;
    snprintf(path, sizeof path, "%s.new", scratch), snprintf(part, sizeof part, "%s.partial", path);
    const mla_result r = write_gguf(path, c, with_words, with_weights, e);
    const int kinds = fail.kinds, there = !stat(path, &info), half = !stat(part, &info);
    fail.kinds = 0;
    CHECK(there == (!r && with_weights) && !half, "%s: the file is%s there", r ? e->text : "written",
          there ? "" : " not");
    remove(path);
    fail.kinds = kinds;
    return r;
}
static mla_result do_convert(mla_error *e) { return convert(files, 0, 1, e); }
static mla_result do_convert_words(mla_error *e) { return convert(tale, 1, 0, e); }
static mla_result do_gguf(mla_error *e) { return open_files(scratch, NULL, e); }
static mla_result do_language(mla_error *e) {
    checkpoint *c;
    language *l;
    chat_tokens ids = {NULL, 0, 0};
    language_files where;
    TRY(checkpoint_open(&c, scratch, e));
    memset(&where, 0, sizeof where);
    where.model = scratch;
    mla_result r = language_open(&l, &where, c, e);
    if (!r) {
        r = language_encode(&ids, l, "Once upon a time", 16, e);
        add(ids.ids, ids.n * sizeof *ids.ids);
        free(ids.ids), language_close(l);
    }
    checkpoint_close(c);
    return r;
}
static mla_result do_tales(mla_error *e) {
    language *l;
    language_files where;
    sampler_desc d;
    memset(&where, 0, sizeof where), memset(&d, 0, sizeof d);
    where.model = "examples/tales";
    TRY(language_open(&l, &where, tale, e));
    mla_result r = language_sampling(l, &d, e);
    if (!r) r = language_chat(l, "tests/jinja/deepseek-v3.1.jinja", 0, e);
    CHECK(!r || (!l->own && !l->source), "half a template");
    if (!r) {
        add(l->source, strlen(l->source)), add(&d, sizeof d);
        if (l->bos) add(l->bos, strlen(l->bos));
        if (l->eos) add(l->eos, strlen(l->eos));
    }
    language_close(l);
    return r;
}
static mla_result do_tokenizer(mla_error *e) {
    tokenizer *t;
    TRY(tokenizer_open(&t, "examples/tales", e));
    const int size = tokenizer_size(t);
    add(&size, sizeof size);
    tokenizer_close(t);
    return MLA_OK;
}

/* ---- texts ------------------------------------------------------------------------------------------------------- */

static const char long_text[] = "The \xFF fox and the hen, who lived\nin a wood 1234567 times; pneumonoultramicroscopic"
                                "silicovolcanoconiosisandsoonandsoonandsoonandsoonandsoon";
static mla_result do_encode(mla_error *e) {
    int ids[400];
    const int64_t n = tokenizer_encode(words, long_text, sizeof long_text - 1, 0, ids, 400);
    if (n < 0) return no_memory(e, "the text");
    add(ids, (size_t)n * sizeof *ids);
    return MLA_OK;
}
static const char json[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"h\\u00e9\"}],\"n\":[1,2.5,null,{\"a\":{}}]}";
static mla_result do_json(mla_error *e) {
    json_value *v;
    TRY(json_parse(json, sizeof json - 1, &v, e));
    const size_t n = json_count(v);
    add(&n, sizeof n), json_free(v);
    return MLA_OK;
}
static const char jinja_source[] =
    "{% macro m(x) %}<{{ x|upper }}>{% endmacro %}{% for i in messages %}{{ m(i.content) ~ loop.index }}"
    "{% set ns = namespace(a=[1, 2] + [3]) %}{% endfor %}{{ messages|tojson }}{{ n[:2]|join(', ') }}"
    "{{ 'a b c'.split(' ')|map('upper')|list }}";
static mla_result do_jinja(mla_error *e) {
    jinja_template *t;
    TRY(jinja_parse(&t, jinja_source, sizeof jinja_source - 1, "pattern", e));
    jinja_free(t);
    return MLA_OK;
}
static mla_result do_render(mla_error *e) {
    jinja_data *d;
    jinja_value *v;
    char *text;
    size_t n;
    TRY(jinja_data_create(&d, e));
    mla_result r = jinja_json(d, json, sizeof json - 1, &v, e);
    if (!r) r = jinja_render(pattern, d, v, NULL, &text, &n, e);
    if (!r) add(text, n), free(text);
    jinja_data_destroy(d);
    return r;
}
static mla_result do_chat(mla_error *e) {
    static const char source[] = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ bos_token }}";
    const chat_message m = {"user", "who?", 4, NULL, 0};
    chat_options how;
    chat_own *own;
    chat_tokens text = {NULL, 0, 0};
    memset(&how, 0, sizeof how);
    TRY(chat_open(&own, source, sizeof source - 1, "own", words, e));
    mla_result r = chat_append(&text, some, COUNT(some), e);
    size_t had = 0;
    if (!r) r = chat_render(&text, own, &m, 1, &how, e);
    if (!r) {
        had = text.n;
        if ((r = chat_append_text(&text, words, long_text, sizeof long_text - 1, 0, e)) != MLA_OK)
            CHECK(text.n == had, "half a text");
    }
    if (!r) add(text.ids, text.n * sizeof *text.ids);
    free(text.ids), chat_close(own);
    return r;
}
/* A turn that fails leaves the text as it was. */
static mla_result do_turns(mla_error *e) {
    static const chat_style styles[] = {CHAT_V2, CHAT_R1, CHAT_V31};
    chat_tokens text = {NULL, 0, 0};
    mla_result r = MLA_OK;
    for (size_t i = 0; i < COUNT(styles) && !r; i++) {
        const chat_template chat = {styles[i], 1, 2, 3, 4, 5, 6, 1};
        const size_t had = text.n;
        r = chat_turn(&text, &chat, words, "be brief", long_text, sizeof long_text - 1, e);
        CHECK(!r || text.n == had, "style %d: half a turn", (int)styles[i]);
        if (!r) r = chat_answer(&text, &chat, some, COUNT(some), e);
    }
    if (!r) add(text.ids, text.n * sizeof *text.ids);
    free(text.ids);
    return r;
}
static mla_result do_request(mla_error *e) {
    static const char source[] = "{% for m in messages %}{{ m.content }}{% if m.tool_calls %}{% for k, v in "
                                 "m.tool_calls[0].function.arguments|items %}{{ k }}{{ v|tojson }}{% endfor %}"
                                 "{% endif %}{% endfor %}";
    static const char request[] =
        "{\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]},{\"role\":"
        "\"assistant\",\"content\":\"b\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":"
        "\"{\\\"k\\\": [1, 2]}\"}}]}],\"tools\":[{\"function\":{\"name\":\"f\"}}]}";
    chat_options how;
    chat_own *own;
    chat_tokens text = {NULL, 0, 0};
    memset(&how, 0, sizeof how);
    TRY(chat_open(&own, source, sizeof source - 1, "own", words, e));
    const mla_result r = chat_render_request(&text, own, request, sizeof request - 1, &how, e);
    if (!r) add(text.ids, text.n * sizeof *text.ids);
    free(text.ids), chat_close(own);
    return r;
}
static mla_result do_grammar(mla_error *e) {
    grammar *g;
    grammar_state *s;
    grammar_vocab *v;
    TRY(json_schema_grammar(&g, schema, e));
    mla_result r = grammar_vocab_create(&v, tokenizer_size(words), (grammar_bytes *)tokenizer_bytes, words, NULL, 0, e);
    if (!r) {
        const int kinds = fail.kinds;
        fail.kinds = 0;
        s = (grammar_state *)malloc(sizeof *s);
        if (!s) abort();
        uint32_t mask[64] = {0};
        grammar_begin(s, g);
        if (tokenizer_size(words) <= 2048) grammar_allow(s, v, mask);
        add(mask, sizeof mask), free(s);
        fail.kinds = kinds;
        grammar_vocab_destroy(v);
    }
    grammar_destroy(g);
    return r;
}
static mla_result do_sampler(mla_error *e) {
    static const char *const stops[] = {"stop", "\n\n"};
    sampler *s;
    stop_scan *scan;
    sampler_desc d;
    float logits[64];
    memset(&d, 0, sizeof d);
    d.temperature = 0.7, d.top_k = 9, d.repeat_penalty = 1.1;
    for (int i = 0; i < 64; i++) logits[i] = (float)(i * 37 % 64) / 8;
    TRY(sampler_create(&s, 64, &d, e));
    mla_result r = stop_create(&scan, stops, 2, e);
    if (!r) {
        const int token = sampler_next(s, logits, e);
        add(&token, sizeof token), stop_destroy(scan);
    }
    sampler_destroy(s);
    return r;
}
static void keep_part(void *user, const calls_part *p) {
    (void)user;
    add(p->text, p->n);
}
static mla_result do_calls(mla_error *e) {
    static const char answer[] =
        "I think</think>so<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value></tool_call> ok";
    calls_reader *r;
    TRY(calls_create(&r, CALLS_GLM, NULL, 1, keep_part, NULL, e));
    const uint64_t before = sum;
    int ok = 1;
    for (size_t i = 0; i < sizeof answer - 1 && ok; i++) ok = calls_push(r, answer + i, 1);
    if (ok) ok = calls_end(r);
    calls_destroy(r);
    if (ok) return MLA_OK;
    sum = before;
    return no_memory(e, "the answer");
}
static mla_result do_openai(mla_error *e) {
    static const char body[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}],\"stop\":[\"x\",\"yy\"],"
        "\"logit_bias\":{\"5\":1},\"response_format\":{\"type\":\"json_object\"},\"n\":2,\"tools\":[{\"type\":"
        "\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}],\"tool_choice\":\"none\"}";
    openai_how how;
    openai_request r;
    text_buffer t = {NULL, 0, 0, 0};
    memset(&how, 0, sizeof how);
    how.model = "m", how.vocab_size = 64, how.hidden_size = 8, how.form = CALLS_GLM, how.knows_tools = 1;
    const int ok = openai_read(&r, OPENAI_CHAT, body, sizeof body - 1, &how);
    mla_result result = MLA_OK;
    if (!ok) {
        CHECK(r.problem.status == 500 || r.problem.status == 503, "status %d: %s", r.problem.status, r.problem.text);
        result = no_memory(e, ""), snprintf(e->text, sizeof e->text, "%.230s", r.problem.text);
    } else {
        openai_choice c[2];
        memset(c, 0, sizeof c);
        const calls_part part = {CALLS_TEXT, "hello", 5, NULL, 0};
        openai_reply a;
        memset(&a, 0, sizeof a);
        a.r = &r, a.id = "id", a.choices = c, a.n = 2, c[1].index = 1, c[0].finish = c[1].finish = "stop";
        openai_take_part(&a, &c[0], &part);
        const int failed = c[0].content.failed;
        openai_put_whole(&t, &a);
        if (t.failed || failed) result = no_memory(e, "the answer");
        else add(t.data, t.n);
        openai_clear(&c[0]), openai_clear(&c[1]), text_clear(&t);
    }
    openai_free(&r);
    return result;
}
static mla_result do_line(mla_error *e) {
    int ends[2];
    const char *text;
    size_t n;
    const int kinds = fail.kinds;
    fail.kinds = 0;
    if (pipe(ends) || write(ends[1], "first\nsecond line\n", 18) != 18) abort();
    close(ends[1]);
    fail.kinds = kinds;
    line_editor *l = line_create(ends[0], 2);
    mla_result r = l ? MLA_OK : no_memory(e, "a line");
    for (int i = 0; i < 2 && !r; i++) {
        const line_result got = line_read(l, "> ", &text, &n);
        if (got == LINE_TEXT) add(text, n);
        else if (got != LINE_ERROR) CHECK(0, "a line that fails is %d", (int)got);
        if (got == LINE_ERROR && errno == ENOMEM) r = no_memory(e, "a line");
        else if (got != LINE_TEXT) r = MLA_ERR_ARGUMENT, snprintf(e->text, sizeof e->text, "read: %s", strerror(errno));
    }
    line_destroy(l), close(ends[0]);
    return r;
}

/* ---- the library, and what runs it ------------------------------------------------------------------------------- */

static mla_result forward_all(mla_context *c, mla_cache *k, mla_error *e) {
    static float logits[4096];
    mla_sequence q;
    mla_outputs out;
    memset(&q, 0, sizeof q), memset(&out, 0, sizeof out);
    q.cache = k, q.n_tokens = (int)COUNT(some), q.n_logits = 1, out.logits = logits;
    const mla_result r = mla_model_forward(c, &q, 1, some, &out);
    if (r) *e = *mla_context_error(c);
    else add(logits, (size_t)mla_model_config(model)->vocab_size * sizeof *logits);
    return r;
}
static mla_result with_pool(mla_pool *p, mla_model *m, mla_error *e) {
    mla_context *c = NULL;
    mla_cache *k[2] = {NULL, NULL};
    mla_cache_desc d;
    mla_context_desc how;
    memset(&d, 0, sizeof d), memset(&how, 0, sizeof how);
    d.capacity = 64, d.pool = p, how.threads = 1, how.max_tokens = 32;
    mla_result r = mla_cache_create(&k[0], m, &d, e);
    if (!r) r = mla_cache_create(&k[1], m, &d, e);
    if (!r) r = mla_context_create(&c, m, &how, e);
    if (!r) r = forward_all(c, k[0], e);
    if (!r) r = mla_cache_fork(k[1], k[0], e);
    mla_context_destroy(c), mla_cache_destroy(k[0]), mla_cache_destroy(k[1]);
    return r;
}
static mla_result do_objects(mla_error *e) {
    mla_model *m;
    mla_pool *p;
    mla_pool_desc d;
    memset(&d, 0, sizeof d);
    d.n_pages = 4;
    TRY(mla_model_create(&m, &files->config, &files->weights, NULL, e));
    mla_result r = mla_pool_create(&p, m, &d, e);
    if (!r) r = with_pool(p, m, e), mla_pool_destroy(p);
    mla_model_destroy(m);
    return r;
}

/* Calls take no memory, whatever they do. */
static mla_result do_calls_of_the_library(mla_error *e) {
    static unsigned char bytes[1 << 20];
    mla_cache_stream out, in;
    memset(&out, 0, sizeof out), memset(&in, 0, sizeof in);
    mla_cache_reset(cache);
    TRY(forward_all(context, cache, e));
    const size_t n = mla_cache_save(&out, cache, bytes, sizeof bytes);
    mla_cache_reset(cache);
    TRY(mla_cache_load(&in, cache, bytes, n, e));
    TRY(mla_cache_load(&in, cache, NULL, 0, e));
    add(bytes, n);
    return mla_cache_truncate(cache, 3, e);
}

typedef struct answer {
    mla_error error;
    int over;
} answer;
static void on_event(void *user, const scheduler_event *event) {
    answer *a = (answer *)user;
    add(&event->token, sizeof event->token);
    if (event->finish == SCHEDULER_FAILED) a->error = *event->error;
    a->over += event->finish != SCHEDULER_GOES_ON;
}
static mla_result do_scheduler(mla_error *e) {
    scheduler *s;
    scheduler_desc d;
    scheduler_request q;
    answer a[3];
    int64_t id;
    int n = 0;
    memset(&d, 0, sizeof d), memset(&q, 0, sizeof q), memset(a, 0, sizeof a);
    d.model = model, d.context = context, d.parallel = 2, d.n_pages = 8, d.context_length = 128, d.chunk = 64;
    d.budget = 128;
    TRY(scheduler_create(&s, &d, e));
    q.on_event = on_event, q.tokens = some, q.n_tokens = (int)COUNT(some), q.max_tokens = 3, q.n_top = 2;
    mla_result r = MLA_OK;
    const uint64_t before = sum;
    for (; n < 3 && !r; n += !r) q.user = &a[n], r = scheduler_submit(s, &q, &id, e);
    while (scheduler_step(s)) continue;
    for (int i = 0; i < n; i++) {
        CHECK(a[i].over == 1, "request %d is over %d times", i, a[i].over);
        if (a[i].error.code && !r) *e = a[i].error, r = e->code;
    }
    if (r) sum = before;
    scheduler_destroy(s);
    return r;
}
static mla_result do_speculation(mla_error *e) {
    speculation *g;
    sampler *s;
    sampler_desc d;
    mla_cache *k;
    mla_cache_desc room;
    memset(&d, 0, sizeof d), memset(&room, 0, sizeof room);
    room.capacity = 64;
    TRY(mla_cache_create(&k, seer, &room, e));
    mla_result r = speculation_create(&g, seer, far, 64, k, &d, e);
    if (!r) {
        r = sampler_create(&s, mla_model_config(seer)->vocab_size, &d, e);
        if (!r) {
            r = speculation_feed(g, some, (int)COUNT(some), 1, NULL, e);
            for (int i = 0, token = 3; i < 4 && !r; i++) {
                sampler_accept(s, token);
                if (!(r = speculation_run(g, token, s, 1, e))) token = speculation_next(g, s, e);
                add(&token, sizeof token);
            }
            sampler_destroy(s);
        }
        speculation_destroy(g);
    }
    mla_cache_destroy(k);
    return r;
}
static mla_result do_prefixes(mla_error *e) {
    prefixes t;
    mla_cache *k;
    mla_cache_desc d;
    mla_error why;
    float state = 1;
    memset(&d, 0, sizeof d);
    d.capacity = 64, d.pool = pool;
    const int begun = prefixes_begin(&t, model, pool, 8);
    mla_result r = begun ? mla_cache_create(&k, model, &d, &why) : MLA_ERR_MEMORY;
    if (!r) {
        prefixes_piece *p = NULL;
        static int tokens[MLA_PAGE];
        static float rows[1 << 16];
        r = mla_cache_append(k, MLA_PAGE, rows, &why);
        if (!r) prefixes_hold(&t, &t.root), p = prefixes_add(&t, &t.root, k, tokens, MLA_PAGE, &state, 1);
        if (p) prefixes_leave(&t, p);
        else if (begun && !r) prefixes_leave(&t, &t.root), r = MLA_ERR_MEMORY;
        mla_cache_destroy(k);
    }
    while (begun && prefixes_drop(&t)) continue;
    prefixes_end(&t);
    CHECK(mla_pool_free_pages(pool) == 8, "pages are lost");
    return r ? no_memory(e, "a prefix") : MLA_OK;
}
static mla_result do_parts(mla_error *e) {
    parts_ranges r;
    memset(&r, 0, sizeof r);
    parts_of(&r, files, 0, files->config.num_hidden_layers, 0, 2, 0, 1);
    const int failed = r.failed;
    if (!failed) add(&r.bytes, sizeof r.bytes);
    free(r.of);
    return failed ? no_memory(e, "ranges") : MLA_OK;
}
static void task(void *arg, int i) { __atomic_add_fetch((int *)arg, i, __ATOMIC_SEQ_CST); }
static mla_result do_threads(mla_error *e) {
    thread_pool *p;
    int total = 0;
    if (threads_create(&p, 3)) {
        threads_run(p, 5, task, &total);
        threads_destroy(p);
        add(&total, sizeof total);
        return MLA_OK;
    }
    CHECK(!p, "a pool that failed");
    return no_memory(e, "threads");
}
static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static void no_request(void *user, http_exchange *x) { (void)user, http_drop(x); }
static void *run_http(void *s) {
    http_run((http_server *)s);
    return NULL;
}
/* A client that waits for 100 Continue. What fails closes the connection, which nothing may look at then. */
static void ask_http(int port) {
    static const char *const says[] = {
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n", "body"};
    struct sockaddr_in to;
    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET, to.sin_port = htons((unsigned short)port), to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int client = __real_socket(AF_INET, SOCK_STREAM, 0);
    CHECK(client >= 0 && !connect(client, (struct sockaddr *)&to, sizeof to), "http: no connection");
    for (int i = 0; i < 2; i++) {
        struct pollfd said = {client, POLLIN, 0};
        char bytes[256];
        __real_send(client, says[i], strlen(says[i]), MSG_NOSIGNAL);
        if (poll(&said, 1, 100) > 0 && __real_recv(client, bytes, sizeof bytes, 0) <= 0) break;
    }
    close(client);
}
static mla_result do_http(mla_error *e) {
    http_server *s;
    http_desc d;
    memset(&d, 0, sizeof d);
    d.connections = 4, d.clock = seconds_now, d.request = no_request, d.drain_s = 0.1;
    if (http_open(&s, &d, e->text)) return strstr(e->text, "memory") ? MLA_ERR_MEMORY : MLA_ERR_ARGUMENT;
    pthread_t thread;
    CHECK(!pthread_create(&thread, NULL, run_http, s), "http: no thread");
    ask_http(http_port(s));
    http_stop(s), pthread_join(thread, NULL);
    http_close(s);
    return MLA_OK;
}

/* ---- each in turn ------------------------------------------------------------------------------------------------ */

static const struct operation {
    const char *name;
    mla_result (*run)(mla_error *e);
    int kinds;
    const char *names[3]; /* what messages name, one of these where it is not memory */
} operations[] = {
    {"shards", do_shards, FAIL_MEMORY | FAIL_FILES, {"config.json", "safetensors", "generation"}},
    {"packed weights", do_packed, FAIL_MEMORY | FAIL_FILES, {"config", "safetensors", NULL}},
    {"layers ahead", do_ahead, FAIL_MEMORY | FAIL_FILES, {"config", "safetensors", NULL}},
    {"longrope", do_longrope, FAIL_MEMORY | FAIL_FILES, {"config", "safetensors", NULL}},
    {"streams", do_sparse, FAIL_MEMORY | FAIL_FILES, {"config", "safetensors", NULL}},
    {"n-grams", do_ngram, FAIL_MEMORY | FAIL_FILES, {"config", "safetensors", NULL}},
    {"states", do_kda, FAIL_MEMORY | FAIL_FILES, {"config", "safetensors", NULL}},
    {"quantize", do_quantize, FAIL_MEMORY | FAIL_THREADS, {NULL, NULL, NULL}},
    {"convert", do_convert, FAIL_MEMORY | FAIL_WRITES | FAIL_FILES, {".new", NULL, NULL}},
    {"convert words", do_convert_words, FAIL_MEMORY | FAIL_WRITES, {".new", NULL, NULL}},
    {"gguf", do_gguf, FAIL_MEMORY | FAIL_FILES, {"fail", NULL, NULL}},
    {"language of a gguf", do_language, FAIL_MEMORY | FAIL_FILES, {"fail", NULL, NULL}},
    {"language", do_tales, FAIL_MEMORY | FAIL_FILES, {"tokenizer", "config", "jinja"}},
    {"tokenizer", do_tokenizer, FAIL_MEMORY | FAIL_FILES, {"tokenizer", "examples/tales: cannot be read", NULL}},
    {"encode", do_encode, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"json", do_json, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"jinja", do_jinja, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"render", do_render, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"chat", do_chat, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"turns", do_turns, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"request", do_request, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"grammar", do_grammar, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"sampler", do_sampler, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"calls", do_calls, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"openai", do_openai, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"line", do_line, FAIL_MEMORY | FAIL_FILES, {"read", NULL, NULL}},
    {"objects", do_objects, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"calls of the library", do_calls_of_the_library, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"scheduler", do_scheduler, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"speculation", do_speculation, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"prefixes", do_prefixes, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"parts", do_parts, FAIL_MEMORY, {NULL, NULL, NULL}},
    {"threads", do_threads, FAIL_MEMORY | FAIL_THREADS | FAIL_FILES, {"threads", NULL, NULL}},
    {"http", do_http, FAIL_MEMORY | FAIL_SOCKETS, {"file", "127.0.0.1", NULL}},
};

/* Of some thousand calls not each, but for make check: the first ones, and then more and more rarely. */
static long following(long k, long calls) {
    const long most = test_all() ? 4000 : 24;
    return calls <= most || k < most / 3 ? k + 1 : k + 1 + (calls - k) / (most - most / 3) + k % 2;
}

static void fails_in_turn(const struct operation *o) {
    mla_error e;
    char of[96];
    memset(&e, 0, sizeof e);
    sum = 0;
    fail_begin(o->kinds, 0, 0);
    if (!CHECK(o->run(&e) == MLA_OK, "%s: %s", o->name, e.text)) return;
    fail_end();
    const long calls = fail.calls;
    const uint64_t wanted = sum;
    for (int on = 0; on < 2; on++)
        for (long k = 1; k <= calls; k = following(k, calls)) {
            const long open = fail.open;
            memset(&e, 0, sizeof e);
            sum = 0;
            fail_begin(o->kinds, k, on);
            const mla_result r = o->run(&e);
            fail_end();
            snprintf(of, sizeof of, "%.20s: %.20s, %s%ld of %ld", o->name, fail.name ? fail.name : "-",
                     on ? "from " : "", k, calls);
            CHECK(fail.open == open, "%s: %ld stay open", of, fail.open - open);
            if (!r) {
                CHECK(sum == wanted, "%s: another result", of);
                continue;
            }
            if (!on && fail.name && strstr("malloc calloc realloc", fail.name))
                CHECK(r == MLA_ERR_MEMORY, "%s: %s: %s", of, mla_result_name(r), e.text);
            int named = strstr(e.text, "memory") != NULL;
            for (int i = 0; i < 3 && o->names[i]; i++) named |= strstr(e.text, o->names[i]) != NULL;
            CHECK(named, "%s: says \"%s\"", of, e.text);
        }
    sum = 0; /* and what it works on can do it still */
    CHECK(o->run(&e) == MLA_OK && sum == wanted, "%s: afterwards", o->name);
}

/* Random weights are too large to be made again and again: up to the memory for all of them. */
static void synthetic_fails(void) {
    SECTION("random weights");
    for (int on = 0; on < 2; on++)
        for (long k = 1; k <= 8; k++) {
            checkpoint *c;
            tokenizer *t;
            mla_error e;
            const long open = fail.open;
            fail_begin(FAIL_MEMORY, k, on);
            const mla_result r = synthetic_open(&c, &t, "lite1-mtp", MLA_Q4, &e);
            fail_end();
            CHECK(r == MLA_ERR_MEMORY && !c && !t && strstr(e.text, "out of memory for the synthetic weights"),
                  "%s %ld: %s, %s", fail.name, k, mla_result_name(r), e.text);
            CHECK(fail.open == open, "%s %ld: %ld stay open", fail.name, k, fail.open - open);
        }
}

static void must(int failed, const char *what) {
    if (!failed) return;
    printf("cannot prepare %s\n", what);
    exit(2);
}
static void prepare(void) {
    static const char of[] = "{\"properties\":{\"k\":{\"enum\":[\"x\",{\"y\":[1.5]}]},\"l\":{\"oneOf\":[{\"type\":"
                             "\"null\"},{\"items\":true}]}},\"required\":[\"k\"]}";
    mla_error e;
    checkpoint_options how;
    mla_context_desc d;
    mla_cache_desc k;
    mla_pool_desc p;
    char *text;
    size_t n;
    memset(&how, 0, sizeof how), memset(&d, 0, sizeof d), memset(&k, 0, sizeof k), memset(&p, 0, sizeof p);
    how.mtp = 1, d.threads = 1, d.max_tokens = 128, k.capacity = 64, p.n_pages = 8;
    snprintf(scratch, sizeof scratch, "build/test_fail.%ld.gguf", (long)getpid());
    must(checkpoint_open(&files, FIXTURES "deepseek_v2_lite", &e), "a checkpoint");
    must(checkpoint_open_with(&ahead, FIXTURES "deepseek_v3", &how, &e), "one with layers ahead");
    must(mla_model_create(&model, &files->config, &files->weights, NULL, &e), "a model");
    must(mla_model_create(&seer, &ahead->config, &ahead->weights, NULL, &e), "another");
    must(mla_context_create(&context, model, &d, &e), "a context");
    must(mla_context_create(&far, seer, &d, &e), "another");
    must(mla_cache_create(&cache, model, &k, &e), "a cache");
    must(mla_pool_create(&pool, model, &p, &e), "a pool");
    must(tokenizer_open(&words, "examples/tales", &e), "a tokenizer");
    must(json_parse(of, sizeof of - 1, &schema, &e), "a schema");
    must(checkpoint_open(&tale, "examples/tales", &e), "tales");
    must(checkpoint_read(&text, &n, "examples/tales/tokenizer.json", 1 << 20, NULL, &e), "their tokenizer");
    must(json_parse(text, n, &listed, &e), e.text);
    free(text);
    must(jinja_parse(&pattern, jinja_source, sizeof jinja_source - 1, "pattern", &e), e.text);
    must(write_gguf(scratch, tale, 1, 1, &e), e.text);
}
static void put_away(void) {
    remove(scratch);
    jinja_free(pattern), json_free(schema), json_free(listed), tokenizer_close(words);
    mla_pool_destroy(pool), mla_cache_destroy(cache);
    mla_context_destroy(context), mla_context_destroy(far), mla_model_destroy(model), mla_model_destroy(seer);
    checkpoint_close(files), checkpoint_close(ahead), checkpoint_close(tale);
}

int main(int argc, char **argv) {
    const long open = fail.open;
    prepare();
    for (size_t i = 0; i < COUNT(operations); i++) {
        if (argc > 1 && strcmp(argv[1], operations[i].name) != 0) continue;
        SECTION(operations[i].name);
        fails_in_turn(&operations[i]);
    }
    if (argc < 2) synthetic_fails();
    put_away();
    CHECK(fail.open == open, "%ld stay open", fail.open - open);
    return test_end();
}
