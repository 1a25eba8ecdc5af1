/* texts.c - what comes from outside as bytes: files, requests, templates, answers. tests/fuzz/run.sh builds and runs
   it. */
#define MLA_IMPLEMENTATION
#include "mla.h"
#define CHECKPOINT_IMPLEMENTATION
#define TOKENIZER_IMPLEMENTATION
#define SAMPLER_IMPLEMENTATION
#define SPECULATIVE_IMPLEMENTATION
#define PREFIXES_IMPLEMENTATION
#define SCHEDULER_IMPLEMENTATION
#define TEXT_IMPLEMENTATION
#define JINJA_IMPLEMENTATION
#define CALLS_IMPLEMENTATION
#define GRAMMAR_IMPLEMENTATION
#define JSON_SCHEMA_IMPLEMENTATION
#define OPENAI_IMPLEMENTATION
#include "openai.h"
#define HTTP_IMPLEMENTATION
#include "http.h"
#include "jinja.h"
#include "fuzz.h"

static void fuzz_http(char *bytes, size_t n) {
    http_head head;
    const char *why;
    http_chunks one = {0, 0}, other = {0, 0};
    char *copy = malloc(n + 1), *again = malloc(n + 1);
    size_t content = 0, total = 0, used = 0;
    int ended = 0, over = 0;
    if (!copy || !again) abort();
    memcpy(copy, bytes, n);
    if (!http_parse(&head, copy, n, &why) && (!head.path || !head.method || head.n_headers > HTTP_MAX_HEADERS)) abort();
    memcpy(copy, bytes, n), memcpy(again, bytes, n);
    const long whole = http_unchunk(&one, copy, n, &content, &ended);
    long got = 0;
    for (size_t i = 0; i < n && got >= 0 && !over; i += (size_t)got) { /* in pieces of three bytes it is the same */
        char piece[3];
        size_t some = n - i < 3 ? n - i : 3, part = 0;
        memcpy(piece, again + i, some);
        got = http_unchunk(&other, piece, some, &part, &over);
        if (got > 0 && whole >= 0 && memcmp(piece, copy + total, part) != 0) abort();
        total += part, used += got > 0 ? (size_t)got : 0;
    }
    if ((whole < 0) != (got < 0) || (whole >= 0 && (total != content || over != ended || used != (size_t)whole)))
        abort();
    free(copy), free(again);
}

static void fuzz_request(const char *bytes, size_t n, openai_kind kind) {
    static const openai_how how = {
        .model = "m", .vocab_size = 100, .hidden_size = 8, .form = CALLS_GLM, .knows_tools = 1};
    openai_request r;
    text_buffer t = {NULL, 0, 0, 0};
    json_value *json;
    const int ok = openai_read(&r, kind, bytes, n, &how);
    if (ok != !r.problem.status) abort();
    openai_put_problem(&t, &r.problem); /* which is JSON, whatever was wrong */
    if (json_parse(t.data, t.n, &json, NULL)) abort();
    json_free(json), text_clear(&t), openai_free(&r);
}

/* Of what a grammar takes byte by byte and calls complete, all is JSON. */
static void fuzz_grammar(const char *bytes, size_t n) {
    const char *zero = memchr(bytes, 0, n);
    const size_t first = zero ? (size_t)(zero - bytes) : n;
    json_value *schema = NULL, *json;
    grammar *g = NULL;
    grammar_state *s = malloc(sizeof *s);
    if (!s) abort();
    if (!json_parse(bytes, first, &schema, NULL) && !json_schema_grammar(&g, schema, NULL)) {
        size_t at = first + 1, begin = at;
        grammar_begin(s, g);
        while (at < n && grammar_accept(s, bytes + at, 1)) at++;
        if (at > begin && grammar_complete(s) && json_parse(bytes + begin, at - begin, &json, NULL) == MLA_OK)
            json_free(json);
    }
    grammar_destroy(g), json_free(schema), free(s);
}

static void keep(void *user, const calls_part *p) {
    text_add(user, p->text, p->n);
    if (p->kind == CALLS_CALL) text_put(user, p->name);
}

static void fuzz_calls(const char *bytes, size_t n, int form) { /* the same however it is cut */
    text_buffer got[2] = {{NULL, 0, 0, 0}, {NULL, 0, 0, 0}};
    for (int k = 0; k < 2; k++) {
        calls_reader *r;
        if (calls_create(&r, (calls_form)(form % CALLS_FORM_COUNT), NULL, form >> 4 & 1, keep, &got[k], NULL)) abort();
        for (size_t i = 0, step = k ? 1 : n; i < n; i += step) calls_push(r, bytes + i, step);
        calls_end(r), calls_destroy(r);
    }
    if (got[0].n != got[1].n || (got[0].n && memcmp(got[0].data, got[1].data, got[0].n) != 0)) abort();
    text_clear(&got[0]), text_clear(&got[1]);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* What is parsed, written and parsed again is the same. */
static void write_json(text_buffer *t, const json_value *v) {
    size_t n;
    int64_t integer;
    char number[40];
    const char *text;
    switch (json_typeof(v)) {
    case JSON_NULL: text_put(t, "null"); break;
    case JSON_BOOL: text_put(t, json_bool(v) ? "true" : "false"); break;
    case JSON_NUMBER:
        if (json_integer(v, &integer)) snprintf(number, sizeof number, "%lld", (long long)integer);
        else snprintf(number, sizeof number, "%.17e", json_number(v));
        text_put(t, number);
        break;
    case JSON_STRING:
        text = json_string(v, &n);
        text_quote(t, text, n);
        break;
    default:
        text_put(t, json_typeof(v) == JSON_OBJECT ? "{" : "[");
        for (size_t i = 0; i < json_count(v); i++) {
            if (i) text_put(t, ",");
            if (json_typeof(v) == JSON_OBJECT) {
                text_quote(t, json_key(json_at(v, i)), strlen(json_key(json_at(v, i))));
                text_put(t, ":");
                FUZZ_HOLDS(json_get(v, json_key(json_at(v, i))) == json_at(v, i));
            }
            write_json(t, json_at(v, i));
        }
        text_put(t, json_typeof(v) == JSON_OBJECT ? "}" : "]");
    }
}

static void run_json(const unsigned char *data, size_t n) {
    json_value *v, *again;
    mla_error e;
    text_buffer one = {NULL, 0, 0, 0}, other = {NULL, 0, 0, 0};
    if (json_parse((const char *)data, n, &v, &e)) {
        FUZZ_HOLDS(!v && e.text[0] && strlen(e.text) < sizeof e.text);
        return;
    }
    write_json(&one, v);
    FUZZ_HOLDS(!json_parse(one.data, one.n, &again, &e));
    write_json(&other, again);
    FUZZ_HOLDS(one.n == other.n && !memcmp(one.data, other.data, one.n));
    json_free(v), json_free(again), text_clear(&one), text_clear(&other);
}

static void run_safetensors(const unsigned char *data, size_t n) {
    st_file *f;
    mla_error e;
    size_t bytes = 0;
    if (st_parse(&f, data, n, "f", &e)) {
        FUZZ_HOLDS(!f && e.text[0]);
        return;
    }
    for (size_t i = 0; i < st_count(f); i++) {
        const st_tensor *t = st_at(f, i);
        const unsigned char *at = (const unsigned char *)t->data;
        FUZZ_HOLDS(st_find(f, t->name) == t && at >= data && t->bytes <= (size_t)(data + n - at));
        bytes += t->bytes;
    }
    FUZZ_HOLDS(bytes <= n);
    st_close(f);
}

/* A config.json that is taken makes a config that the library takes or refuses by name. */
static void run_config(const unsigned char *data, size_t n) {
    json_value *v;
    mla_error e;
    ck__plan plan;
    mla_model *m = NULL;
    mla_weights nothing;
    checkpoint *c = (checkpoint *)calloc(1, sizeof *c);
    memset(&plan, 0, sizeof plan), memset(&nothing, 0, sizeof nothing);
    if (!c) abort();
    if (!json_parse((const char *)data, n, &v, NULL)) {
        if (!ck__read_config(c, &plan, v, &e)) {
            FUZZ_HOLDS(c->config.hidden_size > 0 && c->config.num_hidden_layers > 0 && c->model_type[0]);
            if (mla_model_size(&c->config) && c->config.num_hidden_layers + c->config.num_nextn_predict_layers < 10) {
                mla_layer_weights *layers = (mla_layer_weights *)calloc(10, sizeof *layers);
                nothing.layers = layers;
                if (!mla_model_create(&m, &c->config, &nothing, NULL, &e)) {
                    const mla_config *f = mla_model_config(m);
                    FUZZ_HOLDS(f->softmax_scale > 0 && f->softmax_scale < 1e38f * 3.4f);
                    FUZZ_HOLDS(mla_model_rope_amplitude(m) < 1e38f * 3.4f);
                }
                mla_model_destroy(m), free(layers);
            }
        } else FUZZ_HOLDS(e.text[0] && strlen(e.text) < sizeof e.text - 1);
        json_free(v);
    }
    checkpoint_close(c);
}

static void run_gguf(const unsigned char *data, size_t n) {
    gguf *g;
    mla_error e;
    if (gguf_parse(&g, data, n, "f", &e)) {
        FUZZ_HOLDS(!g && e.text[0]);
        return;
    }
    for (size_t i = 0; i < gguf_key_count(g); i++) {
        const gguf_key *k = gguf_key_at(g, i);
        int64_t integer;
        double number;
        size_t length;
        FUZZ_HOLDS(gguf_find_key(g, k->name) == k);
        for (size_t j = 0; j < k->count && j < 4; j++) gguf_integer(k, j, &integer), gguf_number(k, j, &number);
        gguf_string(k, &length);
        gguf_strings s = gguf_strings_of(k);
        for (const char *text; (text = gguf_next(&s, &length)) != NULL;)
            FUZZ_HOLDS((const unsigned char *)text >= data &&
                       length <= (size_t)(data + n - (const unsigned char *)text));
    }
    for (size_t i = 0; i < gguf_tensor_count(g); i++) FUZZ_HOLDS(gguf_find_tensor(g, gguf_tensor_at(g, i)->name));
    gguf_close(g);
}

/* The ids of a text, and of its halves' streams; what is encoded twice is the same, and fits what counting said. */
static void use_tokenizer(const tokenizer *t, const char *text, size_t n) {
    enum { ROOM = 4096 };
    static int ids[ROOM], again[ROOM];
    tokenizer_stream whole = {{0}, 0}, cut = {{0}, 0};
    char *out = (char *)malloc(3 * (n + 4) + 12), *pieces = (char *)malloc(3 * (n + 4) + 12 * n + 24);
    if (!out || !pieces) abort();
    for (unsigned flags = 0; flags < 4; flags++) {
        const int64_t count = tokenizer_encode(t, text, n, flags, NULL, 0);
        const int64_t got = tokenizer_encode(t, text, n, flags, ids, ROOM);
        FUZZ_HOLDS(count == got && got == tokenizer_encode(t, text, n, flags, again, ROOM));
        const size_t kept = got < 0 ? 0 : got < ROOM ? (size_t)got : ROOM;
        FUZZ_HOLDS(!memcmp(ids, again, kept * sizeof *ids));
        for (size_t i = 0; i < kept; i++) {
            size_t length;
            FUZZ_HOLDS(ids[i] >= 0 && ids[i] < tokenizer_size(t) && tokenizer_bytes(t, ids[i], &length));
        }
    }
    size_t length = tokenizer_stream_push(&whole, text, n, out), others = 0;
    length += tokenizer_stream_end(&whole, out + length);
    for (size_t i = 0; i < n; i++) others += tokenizer_stream_push(&cut, text + i, 1, pieces + others);
    others += tokenizer_stream_end(&cut, pieces + others);
    FUZZ_HOLDS(length == others && !memcmp(out, pieces, length));
    free(out), free(pieces);
}

/* A file, and behind a NUL a text; the first byte says of which kind. */
static void run_tokenizer(const unsigned char *data, size_t n) {
    const unsigned char *zero = n > 1 ? (const unsigned char *)memchr(data + 1, 0, n - 1) : NULL;
    const size_t first = n < 1 ? 0 : zero ? (size_t)(zero - data) - 1 : n - 1;
    tokenizer *t = NULL;
    mla_error e;
    mla_result r;
    if (!n) return;
    const char *text = (const char *)data + 1;
    if (data[0] % 2) r = tokenizer_parse_tiktoken(&t, text, first, NULL, 0, "f", &e);
    else r = tokenizer_parse(&t, text, first, "f", &e);
    FUZZ_HOLDS(!r == !!t && (t || e.text[0]));
    if (t && zero) use_tokenizer(t, (const char *)zero + 1, (size_t)(data + n - zero) - 1);
    if (t) use_tokenizer(t, " a\n<", 4);
    tokenizer_close(t);
}

/* Texts by the project's own tokenizer, which is byte-level. */
static void run_text(const unsigned char *data, size_t n) {
    static tokenizer *t;
    if (!t && tokenizer_open(&t, "examples/tales", NULL)) abort();
    use_tokenizer(t, (const char *)data, n);
}

/* A template, and behind a NUL the variables in JSON. */
static void run_jinja(const unsigned char *data, size_t n) {
    static const char usual[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\","
                                "\"content\":\"a<b\"}],\"tools\":[{\"a\":1,\"b\":[1.5,null,true]}],\"n\":7}";
    const unsigned char *zero = n ? (const unsigned char *)memchr(data, 0, n) : NULL;
    const size_t first = zero ? (size_t)(zero - data) : n;
    jinja_template *t = NULL;
    jinja_data *d = NULL;
    jinja_value *v = NULL;
    jinja_options options;
    mla_error e;
    char *text;
    size_t length;
    memset(&options, 0, sizeof options);
    FUZZ_HOLDS(!jinja_data_create(&d, &e));
    if (!jinja_parse(&t, (const char *)data, first, "f", &e)) {
        jinja_mentions(t, "tools");
        if (!zero || jinja_json(d, (const char *)zero + 1, n - first - 1, &v, &e))
            FUZZ_HOLDS(!jinja_json(d, usual, sizeof usual - 1, &v, &e));
        if (!jinja_render(t, d, v, &options, &text, &length, &e)) free(text);
        else FUZZ_HOLDS(e.text[0]);
    } else FUZZ_HOLDS(!t && e.text[0]);
    jinja_free(t), jinja_data_destroy(d);
}

/* ---- the targets ------------------------------------------------------------------------------------------------- */

static void run_http(const unsigned char *data, size_t n) {
    char *bytes = (char *)malloc(n + 1);
    if (!bytes) abort();
    memcpy(bytes, data, n);
    fuzz_http(bytes, n);
    free(bytes);
}
static void run_requests(const unsigned char *data, size_t n) {
    static const openai_kind kinds[] = {OPENAI_CHAT, OPENAI_COMPLETION, OPENAI_EMBEDDING};
    if (n) fuzz_request((const char *)data + 1, n - 1, kinds[data[0] % 3]);
}
static void run_grammar(const unsigned char *data, size_t n) { fuzz_grammar((const char *)data, n); }
static void run_calls(const unsigned char *data, size_t n) {
    if (n) fuzz_calls((const char *)data + 1, n - 1, data[0]);
}

const fuzz_target fuzz_targets[] = {
    {"json", run_json}, {"safetensors", run_safetensors}, {"config", run_config}, {"gguf", run_gguf},
    {"text", run_text}, {"tokenizer", run_tokenizer},     {"jinja", run_jinja},   {"grammar", run_grammar},
    {"http", run_http}, {"requests", run_requests},       {"calls", run_calls},   {NULL, NULL}};
