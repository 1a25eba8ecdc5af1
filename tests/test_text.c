/* test_text.c - texts that grow; what a sink keeps of tokens; the perplexity of texts: windows, what each scores, and what
   that gives. */
#define _DEFAULT_SOURCE
#include "perplexity.h"
#include "sink.h"
#include "test.h"
#include "text.h"

#include <sys/wait.h>
#include <unistd.h>

static int is(const text_buffer *t, const char *want) {
    return !t->failed && t->n == strlen(want) && !memcmp(t->data ? t->data : "", want, t->n) &&
           (!t->data || !t->data[t->n]);
}

static void test_texts(void) {
    static const char *const base64[] = {"",         "Zg==",     "Zm8=",    "Zm9v",
                                         "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"}; /* RFC 4648, 10 */
    char wide[600];
    text_buffer t = {NULL, 0, 0, 0};
    SECTION("texts");
    for (size_t n = 0; n <= 6; n++) {
        text_base64(&t, "foobar", n);
        CHECK(is(&t, base64[n]), "%d bytes: %s", (int)n, t.data);
        text_clear(&t);
    }
    text_put(&t, "a"), text_add(&t, "b\0c", 3), text_print(&t, "%d%s", 7, "d");
    CHECK(!t.failed && t.n == 6 && !memcmp(t.data, "ab\0c7d", 7), "%d bytes", (int)t.n);
    text_clear(&t);
    CHECK(!t.data && !t.n && !t.failed, "cleared");
    memset(wide, 'x', sizeof wide), wide[599] = 0;
    text_print(&t, "%s", wide);
    CHECK(t.n == 511 && strspn(t.data, "x") == 511, "a long line: %d bytes", (int)t.n);
    text_clear(&t);
    text_quote(&t, "\"\\\n\x01\xc3\xa4\xff\xf0\x9f", 8);
    CHECK(is(&t, "\"\\\"\\\\\\n\\u0001\xc3\xa4\xef\xbf\xbd\xef\xbf\xbd\""), "%s", t.data);
    text_clear(&t);
    text_quote_string(&t, "a");
    CHECK(is(&t, "\"a\""), "%s", t.data);
    CHECK(!text_room(&t, (size_t)-1 / 2) && t.failed && !t.data, "more than there is");
    text_put(&t, "b"), text_quote_string(&t, "c");
    CHECK(t.failed && !t.data && !t.n, "has failed, and stays so");
    text_clear(&t);
}

/* A tokenizer that puts a space before a text, with thoughts among its special tokens, and without a token 7. */
#define ADDED(id, content)                                                                                             \
    "{\"id\":" #id ",\"content\":\"" content "\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"             \
    "\"normalized\":false,\"special\":true}"
static const char spaced[] =
    "{\"added_tokens\":[" ADDED(4, "<think>") "," ADDED(5, "</think>") "," ADDED(6, "<other>") "," ADDED(
        8,
        "</other>") "],\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"\\u2581\"},\"decoder\":{\"type\":"
                    "\"Metaspace\","
                    "\"replacement\":\"\\u2581\",\"prepend_scheme\":\"first\"},\"model\":{\"type\":\"BPE\",\"vocab\":"
                    "{\"\\u2581a\":0,\"b\":1,\"\\u2581\":2,\"c\":3},\"merges\":[]}}";

static void test_sinks(const tokenizer *words) {
    static const struct {
        const char *what;
        int keep, stops, ids[8], n;
        const char *kept;
        int stopped;
    } all[] = {{"a text that goes on", 0, 0, {0, 1, 0}, 3, " ab a", 0},
               {"an answer", 1, 0, {0, 1, 0}, 3, "ab a", 0},
               {"an answer without a space", 1, 0, {1, 0}, 2, "b a", 0},
               {"of one space", 1, 0, {2, 1}, 2, "b", 0},
               {"thoughts of an answer", 1, 0, {4, 1, 5, 0}, 4, "<think>b</think> a", 0},
               {"thoughts elsewhere", 0, 0, {4, 1, 5, 0}, 4, "b a", 0},
               {"other special tokens", 1, 0, {6, 1, 8, 3}, 4, "bc", 0},
               {"ids of nothing", 1, 0, {7, -1, 9, 1000, 1}, 5, "b", 0},
               {"a stop string", 1, 1, {0, 1, 1, 3, 0}, 5, "ab", 1},
               {"half a stop string", 1, 1, {0, 1}, 2, "ab", 0}};
    static const char *const stops[] = {"bc"};
    mla_error error;
    stop_scan *stop;
    SECTION("sinks");
    if (!CHECK(!stop_create(&stop, stops, 1, &error), "%s", error.text)) return;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (int again = 0; again < 2; again++) { /* a sink is ready for another text */
            sink s;
            int stopped = 0;
            memset(&s, 0, sizeof s);
            s.tokenizer = words, s.keep = all[i].keep, s.stop = all[i].stops ? stop : NULL;
            if (again) sink_token(&s, 1), sink_end(&s), text_clear(&s.kept);
            for (int t = 0; t < all[i].n && !stopped; t++) stopped = sink_token(&s, all[i].ids[t]);
            sink_end(&s);
            CHECK(is(&s.kept, all[i].kept) && stopped == all[i].stopped, "%s: '%s', expected '%s'", all[i].what,
                  s.kept.data ? s.kept.data : "", all[i].kept);
            sink_clear(&s);
            CHECK(!s.kept.data && !s.n_tokens, "cleared");
        }
    stop_destroy(stop);
}

/* Each token is scored once, by a window in which what is before it is at least half of the window; a model that knows
   nothing has the perplexity of its vocabulary. */
static void test_perplexity(const tokenizer *words) {
    enum { V = 300, N = 41 };
    int ids[N];
    float logits[V];
    SECTION("perplexity");
    for (int i = 0; i < N; i++) ids[i] = i + 20;
    for (int with = 0; with < 2; with++)
        for (int ctx = with ? 3 : 2; ctx <= N + 3; ctx += ctx < 12 ? 1 : 7)
            for (int chunk = 1; chunk <= ctx; chunk += 3) {
                perplexity p;
                chat_tokens window = {NULL, 0, 0};
                int scored[N] = {0}, windows = 0;
                double bytes = 0;
                perplexity_begin(&p, "text", ids, N, with ? ids[0] : -1, ctx);
                for (size_t w = 0; perplexity_window(&p, w, &window); w++, windows++) {
                    CHECK(window.n <= (size_t)ctx && (!with || window.ids[0] == ids[0]), "window of %d", (int)window.n);
                    for (size_t at = 0, m; at + 1 < window.n; at += m) {
                        m = window.n - 1 - at < (size_t)chunk ? window.n - 1 - at : (size_t)chunk;
                        const int rows = perplexity_rows(&p, w, at, (int)m);
                        for (size_t row = at + m - (size_t)rows; row < at + m; row++) {
                            const int next = window.ids[row + 1];
                            for (int i = 0; i < V; i++) logits[i] = next % 2 && i != next ? 2 : 1;
                            perplexity_score(&p, w, row, logits, V, words), scored[next - 20]++;
                            CHECK((int)row + 1 >= ctx / 2 || w == 0, "row %d of window %d", (int)row, (int)w);
                        }
                    }
                }
                /* half of them are odd, which the model takes for less likely by a factor of e */
                double want = 0;
                for (int i = 1; i < N; i++) {
                    size_t n = 0;
                    tokenizer_bytes(words, ids[i], &n), bytes += (double)n;
                    want += ids[i] % 2 ? log((V - 1) * exp(1.0) + 1) : log((double)V);
                    CHECK(scored[i] == 1, "ctx %d, chunk %d: token %d is scored %d times", ctx, chunk, i, scored[i]);
                }
                CHECK(scored[0] == 0 && p.sums[2] == N - 1 && p.sums[1] == bytes &&
                          fabs(p.sums[0] - want) < 1e-4 * want,
                      "ctx %d: %g nats of %g tokens, not %g", ctx, p.sums[0], p.sums[2], want);
                CHECK(ctx < N || windows == 1, "ctx %d: %d windows", ctx, windows);
                free(window.ids);
            }
}

/* What ends a measurement, and what is printed of one: each in a process of its own. */
static void measure(int n, int ctx, float logit, int json, const tokenizer *words) {
    static const int ids[] = {4, 7, 3}; /* 7: no token of these words */
    const float logits[] = {logit, logit, logit, logit, logit, logit, logit, logit};
    perplexity p;
    perplexity_begin(&p, "a text", ids, (size_t)n, 4, ctx);
    perplexity_score(&p, 0, 0, logits, 8, words);
    perplexity_print(&p, json);
}
static void test_measured(const tokenizer *words) {
    static const struct {
        int n, ctx;
        float logit;
        int json, status;
        const char *says;
    } all[] = {{0, 9, 0, 0, 1, "text: a text is too short: 0 tokens\n"},
               {1, 9, 0, 0, 1, "text: a text is too short: 1 token\n"},
               {3, 2, 0, 0, 2, "text: --ctx: a window of 2 tokens is too short (--help shows the options)\n"},
               {3, 3, HUGE_VALF, 0, 1, "text: token 0: the model's logits are not numbers\n"},
               {3, 3, NAN, 0, 1, "text: token 0: the model's logits are not numbers\n"},
               {3, 3, 1, 1, 0,
                "{\"perplexity\":8,\"nll\":2.07944154,\"tokens\":1,\"bytes\":0,\"nats_per_byte\":2.07944154}\n"},
               {3, 3, 1, 0, 0,
                "tokens      1, 0 bytes, in windows of 3\nnll         2.079442 nats, 2.079442 per token\nper byte    "
                "2.079442 nats, 3.000000 bits\nperplexity  8.000000\n"}};
    SECTION("measurements");
    options_here.name = "text";
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char said[1000] = "";
        int status = -1;
        FILE *file = tmpfile();
        if (!CHECK(file != NULL, "no file")) return;
        fflush(stdout);
        const pid_t child = fork();
        if (child == 0) {
            dup2(fileno(file), 1), dup2(fileno(file), 2);
            measure(all[i].n, all[i].ctx, all[i].logit, all[i].json, words);
            exit(0);
        }
        CHECK(child > 0 && waitpid(child, &status, 0) == child, "no process");
        rewind(file), said[fread(said, 1, sizeof said - 1, file)] = 0;
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == all[i].status && !strcmp(said, all[i].says),
              "case %d: status %d, %s", (int)i, status, said);
        fclose(file);
    }
}

int main(void) {
    tokenizer *words;
    mla_error error;
    test_texts();
    if (CHECK(tokenizer_parse(&words, spaced, sizeof spaced - 1, "spaced", &error) == MLA_OK, "%s", error.text))
        test_sinks(words), test_measured(words), tokenizer_close(words);
    if (CHECK(tokenizer_open(&words, "examples/tales/tokenizer.json", &error) == MLA_OK, "%s", error.text))
        test_perplexity(words), tokenizer_close(words);
    return test_end();
}
