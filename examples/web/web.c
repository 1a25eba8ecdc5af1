/* web.c - what the page calls: a model is opened, a text or a conversation begun, and then one step after the other
   taken. All strings are UTF-8; those that come back are web_text's. One model for the life of an instance. */
#include "mla.h"
#include "checkpoint.h"
#include "gguf.h"
#include "tokenizer.h"
#include "sampler.h"
#include "jinja.h"
#include "chat.h"
#include "language.h"
#include "text.h"

#define WEB(name) __attribute__((export_name(#name))) name

/* What engines have; the C library's are 27 KB with tables. strtod: of digits alone, as all that call it see to. */
#define WEB_MATH(name, parameters, ...)                                                                                \
    __attribute__((import_module("math"), import_name(#name))) double web_##name parameters;                           \
    double name parameters { return web_##name(__VA_ARGS__); }
WEB_MATH(sin, (double x), x)
WEB_MATH(cos, (double x), x)
WEB_MATH(exp, (double x), x)
WEB_MATH(log, (double x), x)
WEB_MATH(pow, (double x, double y), x, y)
__attribute__((import_module("math"), import_name("number"))) double web_number(const char *s, size_t n);
double strtod(const char *s, char **end) {
    const size_t n = strspn(s, "+-.0123456789eE");
    const double x = web_number(s, n); /* NaN: they are none */
    if (end) *end = (char *)(uintptr_t)(s + (isnan(x) ? 0 : n));
    return isnan(x) ? 0 : x;
}
/* Instructions of bulk memory; the C library's are loops. */
void *memcpy(void *restrict to, const void *restrict from, size_t n) { return __builtin_memcpy(to, from, n); }
void *memmove(void *to, const void *from, size_t n) { return __builtin_memmove(to, from, n); }
void *memset(void *to, int c, size_t n) { return __builtin_memset(to, c, n); }
/* Of names and keys. The C library's, fast where both are long, is larger by a kilobyte. */
char *strstr(const char *text, const char *part) {
    const size_t n = strlen(part);
    while (*text && strncmp(text, part, n) != 0) text++;
    return *text || n == 0 ? (char *)(uintptr_t)text : NULL;
}

enum { CHUNK = 64, MOST = 4096 }; /* tokens of a prompt in one call; of a text */

static struct {
    checkpoint *c;
    language *l;
    mla_model *model;
    mla_context *context;
    mla_cache *cache;
    sampler *sampler;
    chat_tokens ids; /* the text so far; the first of them are in the cache */
    tokenizer_stream stream;
    float *logits, *probs; /* probs [layers, H, keys], expert [layers, K]: of the last token */
    int *expert;
    int capacity, chats, room; /* room: that tokens may still take */
    text_buffer text;
    mla_error error;
} web;

static int fails(void) {
    text_clear(&web.text), text_put(&web.text, web.error.text);
    return -1;
}
static int no_memory(void) {
    snprintf(web.error.text, sizeof web.error.text, "out of memory: a page has no more than 4 GB");
    return fails();
}

/* What the last call had to say: the message of one that failed. */
const char *WEB(web_text)(void) { return web.text.data ? web.text.data : ""; }
void *WEB(web_room)(size_t n) { return malloc(n); } /* for a string that is handed over, which is freed */

static void about(void) {
    const mla_config *f = mla_model_config(web.model);
    text_clear(&web.text), text_put(&web.text, "{\"type\":");
    text_quote_string(&web.text, web.c->model_type);
    text_print(&web.text, ",\"layers\":%d,\"heads\":%d,\"experts\":%d,\"taken\":%d,\"bytes\":%.0f,\"isa\":\"%s\",",
               f->num_hidden_layers, f->num_attention_heads, f->n_routed_experts + f->zero_expert_num,
               f->num_experts_per_tok, mla_model_bytes(web.model, 0), mla_isa_name(mla_context_isa(web.context)));
    text_print(&web.text, "\"chats\":%s,\"sparse\":[", web.chats ? "true" : "false");
    for (int i = 0; i < f->num_hidden_layers; i++)
        text_print(&web.text, "%s%d", i ? "," : "", web.c->weights.layers[i].moe.experts != NULL);
    text_put(&web.text, "]}");
}

/* A directory or a GGUF file. 0: web_text is what it is, in JSON. */
int WEB(web_open)(const char *path) {
    const language_files files = {.model = path};
    if (checkpoint_open(&web.c, path, &web.error) ||
        mla_model_create(&web.model, &web.c->config, &web.c->weights, NULL, &web.error) ||
        language_open(&web.l, &files, web.c, &web.error) ||
        mla_context_create(&web.context, web.model, &(mla_context_desc){.max_tokens = CHUNK}, &web.error))
        return fails();
    const mla_config *f = mla_model_config(web.model);
    const int most = web.c->max_position_embeddings;
    web.capacity = most > 0 && most < MOST ? most : MOST;
    web.chats = language_chat(web.l, NULL, 0, &web.error) == MLA_OK;
    if (mla_cache_create(&web.cache, web.model, &(mla_cache_desc){.capacity = web.capacity}, &web.error))
        return fails();
    const size_t layers = (size_t)f->num_hidden_layers, taken = (size_t)f->num_experts_per_tok;
    web.logits = (float *)malloc((size_t)f->vocab_size * sizeof(float));
    web.probs = (float *)malloc(layers * (size_t)f->num_attention_heads * (size_t)web.capacity * sizeof(float));
    web.expert = (int *)calloc(layers * taken + 1, sizeof(int));
    if (!web.logits || !web.probs || !web.expert) return no_memory();
    about();
    return web.text.failed ? no_memory() : 0;
}

/* Questions and answers in turn, by one of DeepSeek's templates. */
static mla_result turns(chat_tokens *to, const json_value *messages) {
    const chat_template *style = &web.l->style;
    chat_tokens said = {NULL, 0, 0};
    mla_result rc = MLA_OK;
    for (size_t i = 0, n; i < json_count(messages) && !rc; i++) {
        const char *content = json_string(json_get(json_at(messages, i), "content"), &n);
        said.n = 0;
        if (i % 2 == 0) rc = chat_turn(to, style, web.l->tokenizer, i ? NULL : "", content, n, &web.error);
        else rc = chat_append_text(&said, web.l->tokenizer, content, n, TOKENIZER_PLAIN, &web.error);
        if (i % 2 && !rc) rc = chat_answer(to, style, said.ids, said.n, &web.error);
    }
    free(said.ids);
    return rc;
}

static mla_result read_text(chat_tokens *to, const char *text, size_t n, int chat) {
    json_value *request = NULL;
    const chat_options how = {.bos = web.l->bos, .eos = web.l->eos};
    mla_result rc;
    if (!chat) rc = language_encode(to, web.l, text, n, &web.error);
    else if (web.l->own) rc = chat_render_request(to, web.l->own, text, n, &how, &web.error);
    else if ((rc = json_parse(text, n, &request, &web.error)) == MLA_OK) rc = turns(to, json_get(request, "messages"));
    json_free(request);
    if (!rc) rc = language_check(web.l, to, &web.error);
    if (!rc && (to->n == 0 || to->n >= (size_t)web.capacity)) {
        rc = web.error.code = MLA_ERR_ARGUMENT;
        snprintf(web.error.text, sizeof web.error.text, "the text has %zu tokens: 1 to %d can be", to->n,
                 web.capacity - 1);
    }
    return rc;
}

/* A text [n] that is to go on, or with chat {"messages":[{"role":..., "content":...}, ...]}, the last a question. At
   most `room` more tokens, chosen as generation_config.json says but for temperature and seed. 0: web_text is a list of
   the text's tokens, in JSON. What the cache has of it is not run again. */
int WEB(web_begin)(char *text, size_t n, int chat, double temperature, unsigned seed, int room) {
    sampler_desc how = {.seed = seed};
    chat_tokens ids = {NULL, 0, 0};
    size_t same = 0;
    sampler_destroy(web.sampler), web.sampler = NULL;
    mla_result rc = language_sampling(web.l, &how, &web.error);
    how.temperature = temperature;
    if (!rc) rc = sampler_create(&web.sampler, mla_model_config(web.model)->vocab_size, &how, &web.error);
    if (!rc) rc = read_text(&ids, text, n, chat);
    free(text);
    if (rc) {
        free(ids.ids);
        return fails();
    }
    while (same < ids.n - 1 && same < (size_t)mla_cache_length(web.cache) && ids.ids[same] == web.ids.ids[same]) same++;
    mla_cache_truncate(web.cache, (int)same, NULL);
    free(web.ids.ids), web.ids = ids, web.room = room, web.stream.n = 0;
    text_clear(&web.text);
    for (size_t i = 0, length; i < ids.n; i++) {
        const char *bytes = tokenizer_bytes(web.l->tokenizer, ids.ids[i], &length);
        text_put(&web.text, i ? "," : "["), text_quote(&web.text, bytes ? bytes : "", bytes ? length : 0);
        sampler_accept(web.sampler, ids.ids[i]);
    }
    text_put(&web.text, "]");
    return web.text.failed ? no_memory() : 0;
}

static int ends(int token) {
    int end = token == web.l->eos_id;
    for (int i = 0; i < web.c->n_eos; i++) end |= token == web.c->eos_token_id[i];
    return end;
}

/* The next tokens that are not in the cache, the last of them alone: its attention and experts can be looked at. 0: the
   prompt goes on; 1: web_text is what the next token adds to the text, with its own bytes as a list, in JSON; 2: the
   text is over. */
int WEB(web_step)(void) {
    const int at = mla_cache_length(web.cache), rest = (int)web.ids.n - at, last = rest == 1;
    mla_sequence s = {.cache = web.cache, .n_logits = last, .probs = last ? web.probs : NULL};
    mla_outputs out = {.logits = last ? web.logits : NULL};
    s.n_tokens = last ? 1 : rest - 1 < CHUNK ? rest - 1 : CHUNK;
    if (last) out.expert_index = web.expert;
    if (mla_model_forward(web.context, &s, 1, web.ids.ids + at, &out)) {
        web.error = *mla_context_error(web.context);
        return fails();
    }
    if (!last) return 0;
    if (web.room-- <= 0 || at + 1 >= web.capacity) return 2;
    const int token = sampler_next(web.sampler, web.logits, &web.error);
    if (token < 0) return fails();
    if (ends(token)) return 2;
    sampler_accept(web.sampler, token);
    if (chat_append(&web.ids, &token, 1, &web.error)) return fails();
    size_t n;
    char piece[1024];
    const char *bytes = tokenizer_bytes(web.l->tokenizer, token, &n);
    n = bytes && n < 300 ? tokenizer_stream_push(&web.stream, bytes, n, piece) : 0;
    text_clear(&web.text), text_put(&web.text, "["), text_quote(&web.text, piece, n), text_put(&web.text, ",");
    text_quote(&web.text, bytes ? bytes : "", bytes ? strlen(bytes) : 0), text_put(&web.text, "]");
    return web.text.failed ? no_memory() : 1;
}

/* Of the last token that was run: float [layers, H, keys], int [layers, K]. */
int WEB(web_keys)(void) { return mla_cache_length(web.cache); }
const float *WEB(web_probs)(void) { return web.probs; }
const int *WEB(web_experts)(void) { return web.expert; }
