/* What comes from outside, for libFuzzer: heads and bodies in chunks, requests in JSON, schemas, answers with calls.
      clang -g -O1 -fsanitize=fuzzer,address,undefined -I. -Iexamples tests/server/fuzz.c -lm -o fuzz
      ./fuzz -max_total_time=600
   The first byte of an input says which. */
#define _DEFAULT_SOURCE
#define MLA_IMPLEMENTATION
#include "mla.h"
#define CHECKPOINT_IMPLEMENTATION
#define TOKENIZER_IMPLEMENTATION
#define SAMPLER_IMPLEMENTATION
#define SPECULATIVE_IMPLEMENTATION
#define PREFIXES_IMPLEMENTATION
#define SCHEDULER_IMPLEMENTATION
#define TEXT_IMPLEMENTATION
#define CALLS_IMPLEMENTATION
#define GRAMMAR_IMPLEMENTATION
#define OPENAI_IMPLEMENTATION
#include "openai.h"
#define HTTP_IMPLEMENTATION
#include "http.h"

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
    if (!json_parse(bytes, first, &schema, NULL) && !grammar_create(&g, schema, NULL)) {
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

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t n);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t n) {
    char *bytes = n ? malloc(n) : NULL;
    if (!bytes) return 0;
    memcpy(bytes, data + 1, n - 1);
    switch (data[0] % 6) {
    case 0: fuzz_http(bytes, n - 1); break;
    case 1: fuzz_request(bytes, n - 1, OPENAI_CHAT); break;
    case 2: fuzz_request(bytes, n - 1, OPENAI_COMPLETION); break;
    case 3: fuzz_request(bytes, n - 1, OPENAI_EMBEDDING); break;
    case 4: fuzz_grammar(bytes, n - 1); break;
    default: fuzz_calls(bytes, n - 1, data[0] / 6); break;
    }
    free(bytes);
    return 0;
}
