/* test_dialog.c - conversations: what the model is given after each line that is typed, and what is shown. The model is
   one of the test's own, which answers as it was told. Run from the repository root. */
#define _DEFAULT_SOURCE
#include "dialog.h"
#include "test.h"

#include <limits.h>
#include <sys/wait.h>
#include <unistd.h>

#define SAVED  "build/test_dialog.json"
#define SOURCE "build/test_dialog.jinja"
#define TOOLS  "build/test_dialog.tools"

static checkpoint *files;

/* Answers, with | between: * in front ends by length, ! is an interrupt before anything is there, ? one behind it. */
static const char *answers;
static void show(const language *l, const chat_tokens *text) {
    fprintf(stderr, "<<");
    for (size_t i = 0; i < text->n; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(l->tokenizer, text->ids[i], &n);
        fwrite(bytes, 1, n, stderr);
    }
    fprintf(stderr, ">>\n");
}
static void ran(void *user, const chat_tokens *text) {
    (void)user, CHECK(text->n > 0, "nothing to read"), fprintf(stderr, "(read)");
}
static void report(void *user) { (void)user, fprintf(stderr, "(a report)\n"); }
static sink_ending answer(void *user, const chat_tokens *text, int most, chat_tokens *made, sink *out, double *rate) {
    const language *l = (const language *)user;
    const char sign = *answers ? *answers : ' ', *begin = answers + (strchr("*!?", sign) != NULL);
    const size_t n = strcspn(begin, "|");
    mla_error error;
    const int end = 0;
    show(l, text);
    CHECK(most > 0, "room for %d tokens", most);
    *rate = 2;
    if (sign != '!') {
        if (chat_append_text(made, l->tokenizer, begin, n, 0, &error)) options_fail(1, "%s", error.text);
        if (sign != '*' && sign != '?' && chat_append(made, &end, 1, &error)) options_fail(1, "%s", error.text);
        sink_utf8(out, begin, n, 0);
    }
    answers = begin + n + (begin[n] == '|');
    return sign == '*' ? SINK_LENGTH : sign == '!' || sign == '?' ? SINK_INTERRUPT : SINK_EOS;
}

static const struct talk {
    const char *what, *system, *source, *tools;
    int think, ctx, n, hooks;            /* hooks: those that may be left out are there */
    const char *typed, *answers, *shown; /* shown: with numbers of tokens as N */
    int status;
} talks[] = {
    {"questions and answers", NULL, SOURCE, NULL, 0, 512, INT_MAX, 1, "hi\n\nthere\n", "one|*two",
     SOURCE
     " as the chat template, room for N tokens\n(read)<<u:hi;a:>>\none\n(N tokens, N tokens/s)\n"
     "(read)<<u:hi;a:one;u:there;a:>>\ntwo\n(the context of N tokens is full: the answer ends here)\n(N tokens, N "
     "tokens/s)\n",
     0},
    {"a system prompt, and another", "be good", SOURCE, NULL, 0, 512, INT_MAX, 0,
     "hi\n/system be\tbad\nho\n/regen\n/stats\n", "a|b|c",
     SOURCE
     " as the chat template, room for N tokens\n<<s:be good;u:hi;a:>>\na\n(N tokens, N tokens/s)\n"
     "<<s:be\tbad;u:hi;a:a;u:ho;a:>>\nb\n(N tokens, N tokens/s)\n<<s:be\tbad;u:hi;a:a;u:ho;a:>>\nc\n(N tokens, N "
     "tokens/s)\n"
     "there are none here\n",
     0},
    {"thoughts do not stay", NULL, SOURCE, NULL, 1, 512, 100, 1, "q\nr\n/stats\n", "<think>hm</think>yes|<think>no end",
     SOURCE " as the chat template, room for N tokens\n(read)<<u:q;a:thinking>>\n<think>hm</think>yes\n(N tokens, N "
            "tokens/s)\n"
            "(read)<<u:q;a:yes(hm);u:r;a:thinking>>\n<think>no end\n(N tokens, N tokens/s)\n(a report)\n",
     0},
    {"interrupts", NULL, SOURCE, NULL, 0, 512, INT_MAX, 0, "x\ny\nz\n", "!|?half|whole",
     SOURCE " as the chat template, room for N tokens\n<<u:x;a:>>\n\n<<u:y;a:>>\nhalf\n(N tokens, N tokens/s)\n"
            "<<u:y;a:half;u:z;a:>>\nwhole\n(N tokens, N tokens/s)\n",
     0},
    {"tools", NULL, SOURCE, TOOLS, 0, 512, INT_MAX, 0, "x\n", "y",
     SOURCE " as the chat template, room for N tokens\n<<t:f;u:x;a:>>\ny\n(N tokens, N tokens/s)\n", 0},
    {"saved, forgotten and read", "s", SOURCE, NULL, 0, 512, INT_MAX, 0,
     "\"q\"\n/save " SAVED "\n/clear\n/regen\n/load " SAVED "\nr\n/save build\n", "a\\|b",
     SOURCE " as the chat template, room for N tokens\n<<s:s;u:\"q\";a:>>\na\\\n(N tokens, N "
            "tokens/s)\n(saved)\n(cleared)\n"
            "there is no question yet\n(loaded: N turn)\n<<s:s;u:\"q\";a:a\\;u:r;a:>>\nb\n(N tokens, N tokens/s)\n"
            "cannot write build: Is a directory\n",
     0},
    {"nothing is saved", NULL, SOURCE, NULL, 0, 512, INT_MAX, 0, "/save " SAVED "\n/load " SAVED "\n", "",
     SOURCE " as the chat template, room for N tokens\n(saved)\n(loaded: N turns)\n", 0},
    {"commands that are none", NULL, SOURCE, NULL, 0, 512, INT_MAX, 0, "/nope\n/save\n/load \n/\n/etc/x\n/SAVE x\n",
     "a|b|c",
     SOURCE
     " as the chat template, room for N tokens\n/nope is no command: /help lists them\n/save: which file?\n"
     "/load: which file?\n<<u:/;a:>>\na\n(N tokens, N tokens/s)\n<<u:/;a:a;u:/etc/x;a:>>\nb\n(N tokens, N tokens/s)\n"
     "<<u:/;a:a;u:/etc/x;a:b;u:/SAVE x;a:>>\nc\n(N tokens, N tokens/s)\n",
     0},
    {"a full context", NULL, SOURCE, NULL, 0, 24, 4, 0, "one two three\nfour five six\nseven\n", "aa|bb|*cc",
     SOURCE
     " as the chat template, room for N tokens\n<<u:one two three;a:>>\naa\n(N tokens, N tokens/s)\n"
     "(the context of N tokens is full: the oldest N turn is dropped)\n<<u:four five six;a:>>\nbb\n(N tokens, N "
     "tokens/s)\n"
     "(the context of N tokens is full: the oldest N turn is dropped)\n<<u:seven;a:>>\ncc\n(N tokens, N tokens/s)\n",
     0},
    {"a question that does not fit", NULL, SOURCE, NULL, 0, 8, INT_MAX, 0, "one two three four five six seven\nx\n",
     "a",
     SOURCE " as the chat template, room for N tokens\ndialog: the question takes the conversation to N tokens, and "
            "the context "
            "has room for N: --ctx makes it larger\n",
     1},
    {"a template that does not think", NULL, "tests/jinja/minicpm3.jinja", NULL, 1, 512, 9, 0, "x\n", "a",
     "dialog: --think: tests/jinja/minicpm3.jinja has neither thinking nor enable_thinking\n", 1},
    {"a template without tools", NULL, SOURCE ".plain", TOOLS, 0, 512, 9, 0, "x\n", "a",
     "dialog: --tools: " SOURCE ".plain knows no tools\n", 1},
    {"no template", NULL, "build/none", NULL, 0, 512, 9, 0, "", "",
     "dialog: --chat: build/none: cannot be read: no such file (errno N)\n", 1},
    {"DeepSeek's way", "sys", NULL, NULL, 0, 512, 9, 0, "q\nr\n", "a|b",
     "V3's chat template, room for N tokens\n<<[B]sys[U]q[A]>>\na\n(N tokens, N tokens/s)\n"
     "<<[B]sys[U]q[A]a[E][U]r[A]>>\nb\n(N tokens, N tokens/s)\n",
     0},
    {"DeepSeek's way, read", NULL, NULL, NULL, 0, 512, 9, 0, "/load " SAVED ".other\nr\n", "b",
     "V3's chat template, room for N tokens\n(loaded: N turn)\n<<[B][U]q[A]a[E][U]r[A]>>\nb\n(N tokens, N tokens/s)\n",
     0},
    {"DeepSeek's way, thinking", NULL, NULL, NULL, 1, 512, 9, 0, "q\n", "a",
     "dialog: --think: the model's tokenizer has no <think>\n", 1},
};

/* Numbers become N, DeepSeek's tokens short names. */
static void simplify(char *to, const char *from) {
    static const struct {
        const char *name, *to;
    } names[] = {{"<｜begin▁of▁sentence｜>", "[B]"},
                 {"<｜end▁of▁sentence｜>", "[E]"},
                 {"<｜User｜>", "[U]"},
                 {"<｜Assistant｜>", "[A]"}};
    while (*from) {
        size_t i = 0;
        while (i < 4 && strncmp(from, names[i].name, strlen(names[i].name)) != 0) i++;
        if (i < 4) to += sprintf(to, "%s", names[i].to), from += strlen(names[i].name);
        else if (*from >= '0' && *from <= '9' && !strncmp(from - 1, " ", 1) + !strncmp(from - 1, "(", 1)) {
            *to++ = 'N';
            from += strspn(from, "0123456789.");
        } else *to++ = *from++;
    }
    *to = 0;
}

static void talk(const struct talk *t) {
    mla_error error;
    language *l;
    const language_files where = {"examples/tales", NULL, 0};
    if (language_open(&l, &where, files, &error)) options_fail(3, "%s", error.text);
    answers = t->answers;
    const dialog_desc of = {l,
                            t->system,
                            t->source,
                            t->tools,
                            t->think,
                            t->ctx,
                            t->n,
                            l,
                            t->hooks ? ran : NULL,
                            answer,
                            t->hooks ? report : NULL};
    dialog *d = dialog_open(&of);
    const int status = dialog_run(d, NULL);
    dialog_close(d), language_close(l);
    exit(status);
}

/* In a process of its own: what is typed comes from a pipe, what is shown goes into a file. */
static int shown(const struct talk *t, char *text, size_t size) {
    int in[2], status = -1;
    FILE *out = tmpfile();
    if (!out || pipe(in)) return -1;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        dup2(in[0], 0), dup2(fileno(out), 1), dup2(fileno(out), 2), close(in[0]), close(in[1]);
        setvbuf(stdout, NULL, _IONBF, 0);
        talk(t);
    }
    const ssize_t wrote = write(in[1], t->typed, strlen(t->typed));
    close(in[0]), close(in[1]);
    if (child < 0 || wrote < 0 || waitpid(child, &status, 0) != child) return -1;
    rewind(out);
    text[fread(text, 1, size - 1, out)] = 0;
    fclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void put(const char *path, const char *text) {
    FILE *file = fopen(path, "wb");
    if (!file || fputs(text, file) < 0 || fclose(file)) printf("cannot write %s\n", path), exit(2);
}

static void test_talks(void) {
    static char raw[1 << 16], simple[1 << 16];
    SECTION("conversations");
    for (size_t i = 0; i < sizeof talks / sizeof *talks; i++) {
        const struct talk *t = &talks[i];
        const int status = shown(t, raw, sizeof raw);
        simplify(simple, raw);
        CHECK(status == t->status && !strcmp(simple, t->shown), "%s: status %d\n%s\nexpected\n%s", t->what, status,
              simple, t->shown);
    }
}

/* Files that are no conversation: the one that there was goes on. */
static void test_loaded(void) {
    static const struct {
        const char *text, *says;
    } all[] = {
        {"[", SAVED ": JSON: line 1, column 2"},
        {"{}", SAVED ": no list of messages"},
        {"[{\"role\":\"assistant\",\"content\":\"x\"}]", "message 1 is not what comes next"},
        {"[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"user\",\"content\":\"y\"}]",
         "message 2 is not what comes next"},
        {"[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"system\",\"content\":\"y\"}]",
         "message 2 is not what comes next"},
        {"[{\"role\":\"user\"}]", "message 1 is not what comes next"},
        {"[{\"content\":\"x\"}]", "message 1 is not what comes next"},
        {"[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"y\"},{\"role\":\"assistant\","
         "\"content\":\"z\"}]",
         "message 3 is not what comes next"},
    };
    static char raw[1 << 16];
    struct talk t;
    SECTION("files that are no conversation");
    memset(&t, 0, sizeof t);
    t.source = SOURCE, t.ctx = 512, t.n = 9, t.typed = "old\n/load " SAVED "\nnew\n", t.answers = "a|b";
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        put(SAVED, all[i].text);
        const int status = shown(&t, raw, sizeof raw);
        CHECK(status == 0 && strstr(raw, all[i].says), "%s: status %d, %s", all[i].text, status, raw);
        if (i < 2)
            CHECK(strstr(raw, "<<u:old;a:a;u:new;a:>>") != NULL, "%s: the old one is gone: %s", all[i].text, raw);
    }
}

int main(void) {
    mla_error error;
    options_here.name = "dialog";
    put(SOURCE,
        "{% if tools %}t:{{ tools[0].function.name }};{% endif %}{% for m in messages %}{{ m.role[0] }}:{{ m.content }}"
        "{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %};{% endfor %}a:{% if enable_thinking "
        "%}thinking{% endif %}");
    put(SOURCE ".plain", "{% for m in messages %}{{ m.content }}{% endfor %}");
    put(TOOLS, "[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]");
    put(SAVED ".other",
        "[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"<think>hm</think>a\"}]");
    if (!CHECK(checkpoint_open(&files, "examples/tales", &error) == MLA_OK, "%s", error.text)) return test_end();
    test_talks();
    test_loaded();
    checkpoint_close(files);
    remove(SOURCE), remove(SOURCE ".plain"), remove(TOOLS), remove(SAVED), remove(SAVED ".other");
    return test_end();
}
