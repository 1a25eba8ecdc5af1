/* test_language.c - what stands beside a model's weights: tokenizer_config.json, chat templates, generation_config.json,
   in a directory that the test fills. Run from the repository root. */
#define _DEFAULT_SOURCE
#include "language.h"
#include "test.h"

#include <limits.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIR "build/test_language.files"

static checkpoint *files; /* tales */
static mla_error error;

/* A file of the directory; text NULL: there is none. */
static void put(const char *name, const char *text) {
    char path[100];
    snprintf(path, sizeof path, DIR "/%s", name);
    remove(path);
    FILE *file = text ? fopen(path, "wb") : NULL;
    if (text && (!file || fputs(text, file) < 0 || fclose(file))) printf("cannot write %s\n", path), exit(2);
}
static void put_tokenizer(void) {
    char *target = realpath("examples/tales/tokenizer.json", NULL);
    remove(DIR "/tokenizer.json");
    if (!target || symlink(target, DIR "/tokenizer.json")) printf("cannot link the tokenizer\n"), exit(2);
    free(target);
}

static language *open_it(const checkpoint *c) {
    const language_files where = {DIR, NULL, 0};
    language *l = NULL;
    CHECK(language_open(&l, &where, c, &error) == MLA_OK && l, "%s", error.text);
    if (!l) exit(1);
    return l;
}

static char note[300]; /* the last one of language_notes, and how many there were */
static int noted;
static void take_note(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(note, sizeof note, format, args);
    va_end(args);
    noted++;
}
static void notes(const language *l) {
    noted = 0, *note = 0;
    language_notes(l, NULL, take_note);
}

static void test_open(void) {
    language *l;
    language_files where = {"", NULL, 0};
    SECTION("opening");
    CHECK(language_open(&l, &where, files, &error) == MLA_ERR_ARGUMENT && !l && strstr(error.text, "empty"), "%s",
          error.text);
    CHECK(language_open(&l, &where, files, NULL) == MLA_ERR_ARGUMENT && !l, "without a message");
    where.model = DIR;
    put("tokenizer.json", NULL);
    CHECK(language_open(&l, &where, files, &error) != MLA_OK && !l && strstr(error.text, "tokenizer"), "%s",
          error.text);
    where.optional = 1;
    CHECK(language_open(&l, &where, files, &error) == MLA_OK && !l, "no tokenizer, and it need not be: %s", error.text);
    put("tokenizer.json", "{");
    CHECK(language_open(&l, &where, files, &error) != MLA_OK && !l && strstr(error.text, "tokenizer.json"), "%s",
          error.text);
    put_tokenizer();
    put("tokenizer_config.json", "{\"a\":");
    CHECK(language_open(&l, &where, files, &error) != MLA_OK && !l &&
              strstr(error.text, DIR "/tokenizer_config.json: JSON"),
          "%s", error.text);
    put("tokenizer_config.json", NULL);
    where.model = NULL, where.tokenizer = DIR "/tokenizer.json";
    CHECK(language_open(&l, &where, NULL, &error) == MLA_OK && l && l->tokenizer && !l->config, "%s", error.text);
    chat_tokens ids = {NULL, 0, 0};
    sampler_desc d;
    memset(&d, 0, sizeof d);
    CHECK(language_encode(&ids, l, "a", 1, &error) == MLA_ERR_ARGUMENT &&
              language_check(l, &ids, &error) == MLA_ERR_ARGUMENT &&
              language_chat(l, NULL, 0, &error) == MLA_ERR_ARGUMENT && strstr(error.text, "no checkpoint"),
          "%s", error.text);
    language_close(l), language_close(NULL);
}

static void test_encode(void) {
    static const char bos[] = "<｜begin▁of▁sentence｜>text";
    static const struct {
        const char *config;
        int adds;
    } all[] = {
        {NULL, 0}, {"{\"add_bos_token\":false}", 0}, {"{\"add_bos_token\":1}", 0}, {"{\"add_bos_token\":true}", 1}};
    SECTION("a begin of sentence");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        chat_tokens ids = {NULL, 0, 0}, marked = {NULL, 0, 0}, none = {NULL, 0, 0};
        put("tokenizer_config.json", all[i].config);
        language *l = open_it(files);
        CHECK(language_encode(&ids, l, "text", 4, &error) == MLA_OK &&
                  language_encode(&marked, l, bos, sizeof bos - 1, &error) == MLA_OK &&
                  language_encode(&none, l, "", 0, &error) == MLA_OK,
              "%s", error.text);
        const size_t plain = marked.n - 1; /* tokens of the text; what has a begin gets no other */
        CHECK(marked.ids[0] == files->bos_token_id && marked.ids[1] != files->bos_token_id, "begins with %d",
              marked.ids[0]);
        CHECK(ids.n == plain + (size_t)all[i].adds && (ids.ids[0] == files->bos_token_id) == all[i].adds &&
                  !memcmp(ids.ids + all[i].adds, marked.ids + 1, plain * sizeof(int)),
              "%s: %d tokens", all[i].config, (int)ids.n);
        CHECK(none.n == (size_t)all[i].adds, "of nothing: %d tokens", (int)none.n);
        const int beyond = files->config.vocab_size, below = -1;
        ids.n = 0;
        CHECK(!chat_append(&ids, &beyond, 1, &error) && language_check(l, &ids, &error) == MLA_ERR_CONFIG &&
                  strstr(error.text, "do not belong together"),
              "%s", error.text);
        ids.n = 0;
        CHECK(!chat_append(&ids, &below, 1, &error) && language_check(l, &ids, &error) == MLA_ERR_CONFIG, "token -1");
        notes(l);
        CHECK(!noted, "%s", note);
        files->config.vocab_size = tokenizer_size(l->tokenizer) - 1;
        notes(l);
        CHECK(noted == 1 && strstr(note, "tokens and the model"), "%d: %s", noted, note);
        files->config.vocab_size = beyond;
        free(ids.ids), free(marked.ids), free(none.ids), language_close(l);
    }
}

static void test_chat(void) {
    static const struct {
        const char *config, *file;
        int tools;
        const char *source, *eos; /* eos: of the template */
    } all[] = {
        {"{\"chat_template\":\"one\",\"eos_token\":\"<｜end▁of▁sentence｜>\"}", NULL, 0, "one",
         "<｜end▁of▁sentence｜>"},
        {"{\"chat_template\":\"one\",\"eos_token\":{\"content\":\"<｜User｜>\"}}", NULL, 1, "one", "<｜User｜>"},
        {"{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"T\"},{\"name\":\"default\",\"template\":\"D\"}]}",
         NULL, 0, "D", NULL},
        {"{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"T\"},{\"name\":\"default\",\"template\":\"D\"}]}",
         NULL, 1, "T", NULL},
        {"{\"chat_template\":[{\"name\":\"default\",\"template\":\"D\"},{\"name\":\"rag\",\"template\":\"R\"},{"
         "\"template\":\"?\"}]}",
         NULL, 1, "D", NULL},
        {"{\"chat_template\":[]}", NULL, 0, NULL, NULL},
        {"{\"chat_template\":\"one\"}", "file", 0, "file", NULL},
        {NULL, NULL, 0, NULL, NULL},
    };
    SECTION("chat templates");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        put("tokenizer_config.json", all[i].config);
        put("chat_template.jinja", all[i].file);
        language *l = open_it(files);
        CHECK(language_chat(l, NULL, all[i].tools, &error) == MLA_OK, "%s", error.text);
        CHECK(all[i].source ? l->source && !strcmp(l->source, all[i].source) && l->own : !l->source && !l->own,
              "%s: %s", all[i].config, l->source ? l->source : "none");
        if (all[i].eos)
            CHECK(!strcmp(l->eos, all[i].eos) && l->eos_id == tokenizer_find(l->tokenizer, all[i].eos), "%s", l->eos);
        notes(l);
        CHECK(noted == (all[i].config && strstr(all[i].config, "[]") != NULL), "%s: %s", all[i].config, note);
        if (!l->own) CHECK(l->style.style == CHAT_V3 && l->eos_id == l->style.eos, "style %d", (int)l->style.style);
        CHECK(language_chat(l, DIR "/none.jinja", 0, &error) != MLA_OK && strstr(error.text, "none.jinja") && !l->own &&
                  !l->source,
              "%s", error.text);
        language_close(l);
    }
    put("tokenizer_config.json", "{\"chat_template\":\"{{\"}"), put("chat_template.jinja", NULL);
    language *l = open_it(files);
    CHECK(language_chat(l, NULL, 0, &error) != MLA_OK && strstr(error.text, "chat_template:1:1") && !l->own, "%s",
          error.text);
    language_close(l);
    put("tokenizer_config.json", NULL);
}

static void test_notes(void) {
    static const struct {
        const char *config;
        int notes;
    } all[] = {{"{\"chat_template\":null}", 0},
               {"{\"chat_template\":5}", 1},
               {"{\"chat_template\":{}}", 1},
               {"{\"chat_template\":[{\"template\":\"x\"}]}", 1},
               {"{\"chat_template\":[{\"name\":\"default\",\"template\":5}]}", 1},
               {"{\"chat_template\":[{\"name\":\"default\",\"template\":\"x\"}]}", 0}};
    SECTION("notes");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        put("tokenizer_config.json", all[i].config);
        language *l = open_it(files);
        notes(l);
        CHECK(noted == all[i].notes &&
                  (!noted || strstr(note, "note: tokenizer_config.json: chat_template is neither")),
              "%s: %s", all[i].config, note);
        language_close(l);
    }
    put("tokenizer_config.json", NULL);
    noted = 0, language_notes(NULL, NULL, take_note);
    CHECK(!noted, "of nothing: %s", note);
}

static void test_sampling(void) {
    static const struct {
        const char *config;
        double temperature, top_p, min_p, penalty;
        int top_k;
        const char *says; /* NULL: no error */
    } all[] = {
        {NULL, 9, 9, 9, 9, 9, NULL},
        {"{\"temperature\":0.5}", 9, 9, 9, 9, 9, NULL}, /* nothing says that it is sampled */
        {"{\"do_sample\":false,\"temperature\":0.5}", 9, 9, 9, 9, 9, NULL},
        {"{\"do_sample\":true}", 1, 1, 0, 1, 0, NULL},
        {"{\"do_sample\":true,\"temperature\":0.5,\"top_p\":0.25,\"min_p\":0.125,\"repetition_penalty\":1.5,\"top_k\":"
         "7}",
         0.5, 0.25, 0.125, 1.5, 7, NULL},
        {"{\"do_sample\":true,\"top_k\":-1,\"min_p\":null}", 1, 1, 0, 1, 0, NULL},
        {"{\"do_sample\":true,\"temperature\":-1}", 0, 0, 0, 0, 0, "temperature is not in 0..1e+06"},
        {"{\"do_sample\":true,\"top_p\":1.5}", 0, 0, 0, 0, 0, "top_p is not in 1e-09..1"},
        {"{\"do_sample\":true,\"min_p\":\"x\"}", 0, 0, 0, 0, 0, "min_p is not in 0..1"},
        {"{\"do_sample\":true,\"top_k\":1.5}", 0, 0, 0, 0, 0, "top_k is not in -1.."},
        {"{\"do_sample\":true,\"top_k\":-2}", 0, 0, 0, 0, 0, "top_k is not in -1.."},
        {"{\"do_sample\":true,\"top_k\":99999999999}", 0, 0, 0, 0, 0, "top_k is not in -1.."},
        {"[", 0, 0, 0, 0, 0, DIR "/generation_config.json: JSON"},
    };
    SECTION("sampling");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        sampler_desc d;
        memset(&d, 0, sizeof d);
        d.temperature = d.top_p = d.min_p = d.repeat_penalty = 9, d.top_k = 9;
        put("generation_config.json", all[i].config);
        language *l = open_it(files);
        const mla_result rc = language_sampling(l, &d, &error);
        if (all[i].says) CHECK(rc != MLA_OK && strstr(error.text, all[i].says), "%s: %s", all[i].config, error.text);
        else
            CHECK(!rc && d.temperature == all[i].temperature && d.top_p == all[i].top_p && d.min_p == all[i].min_p &&
                      d.repeat_penalty == all[i].penalty && d.top_k == all[i].top_k,
                  "%s: %g %g %g %g %d", all[i].config, d.temperature, d.top_p, d.min_p, d.repeat_penalty, d.top_k);
        language_close(l);
    }
    put("generation_config.json", NULL);
}

int main(void) {
    mkdir(DIR, 0777);
    put_tokenizer();
    put("tokenizer_config.json", NULL), put("generation_config.json", NULL), put("chat_template.jinja", NULL);
    if (!CHECK(checkpoint_open(&files, "examples/tales", &error) == MLA_OK, "%s", error.text)) return test_end();
    test_open(), test_encode(), test_chat(), test_notes(), test_sampling();
    checkpoint_close(files);
    remove(DIR "/tokenizer.json"), rmdir(DIR);
    return test_end();
}
