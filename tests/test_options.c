/* test_options.c - what options.h makes of arguments, what it says of wrong ones, and the bar that it draws. Each case is
   a process of its own, as errors end the program. */
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE
#include "options.h"
#include "test.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static struct {
    int flag, n, word, pairs[2];
    const char *text, *any;
    options_texts texts;
    options_ints ids;
    double temp, memory;
    uint64_t seed;
} to;
static void help(void) { printf("the help\n"); }
static void ended(int status) { fprintf(stderr, "(end %d)", status); }

/* What is given, and what has come of it, on standard error. */
static void parse(int argc, char **argv) {
    const options_entry table[] = {OPTIONS_FLAG("-f --flag", &to.flag),
                                   OPTIONS_TEXT("--text", &to.text),
                                   OPTIONS_ANY_TEXT("--any", &to.any),
                                   OPTIONS_TEXTS("--stop", &to.texts),
                                   OPTIONS_INT("-n", &to.n, -1, INT_MAX),
                                   OPTIONS_INTS("--ids", &to.ids, 0, 99),
                                   OPTIONS_NUMBER("--temp", &to.temp, 0, 10),
                                   OPTIONS_SEED("--seed", &to.seed),
                                   OPTIONS_BYTES("--memory", &to.memory, 1),
                                   OPTIONS_WORD("--kind", &to.word, "one two"),
                                   OPTIONS_PAIRS("--pairs", to.pairs, "head body", "x yy")};
    const char *given[sizeof table / sizeof *table];
    const int n = (int)(sizeof table / sizeof *table);
    options_parse(table, (size_t)n, given, argc, argv);
    fprintf(stderr, "%d %s %s %d %g %g %d %d%d %llu:", to.flag, to.text ? to.text : "-", to.any ? to.any : "-", to.n,
            to.temp, to.memory, to.word, to.pairs[0], to.pairs[1], (unsigned long long)to.seed);
    for (int i = 0; i < to.texts.n; i++) fprintf(stderr, " '%s'", to.texts.of[i]);
    for (size_t i = 0; i < to.ids.n; i++) fprintf(stderr, " %d", to.ids.of[i]);
    for (int i = 0; i < n; i++)
        if (given[i]) fprintf(stderr, " [%s]", given[i]);
    if (options_here.quiet) fprintf(stderr, " quiet");
    options_say(" said");
    free(to.texts.of), free(to.ids.of);
}

static const struct {
    const char *arguments, *says; /* arguments: with | between; says: what is wrong, if status is 2 */
    int status;
} all[] = {
    {"", "0 - - 0 0 0 0 00 0: said", 0},
    {"-f|--text|a=b|--any=|-n|-1|--temp|1e-1|--memory|3k",
     "1 a=b  -1 0.1 3000 0 00 0: [--flag] [a=b] [] [-1] [1e-1] [3k] said", 0},
    {"--text=a|--text=b|--stop|x|--stop=y|--ids| 1\t2\n3 ",
     "0 b - 0 0 0 0 00 0: 'x' 'y' 1 2 3 [b] [y] [ 1\t2\n3 ] said", 0},
    {"--ids=7|--ids=8|--seed=18446744073709551615|--kind=two",
     "0 - - 0 0 0 1 00 18446744073709551615: 8 [8] [18446744073709551615] [two] said", 0},
    {"--quiet|--pairs=body=yy,head=yy|--memory=1.5T", "0 - - 0 0 1.5e+12 0 11 0: [1.5T] [body=yy,head=yy] quiet", 0},
    {"--help|--nope", "(end 0)", 0},
    {"-h", "(end 0)", 0},
    {"--version", "(end 0)", 0},
    {"-x", "unknown option '-x'", 2},
    {"-n|1|x", "unknown option 'x'", 2},
    {"--flag=1", "--flag: takes no value", 2},
    {"-n", "-n: a value is missing", 2},
    {"--text=", "--text: a value is missing", 2},
    {"--stop=", "--stop: the text is empty", 2},
    {"-n|2147483648", "-n: 2147483648 is not in -1..2147483647", 2},
    {"-n|-2", "-n: -2 is not in -1..2147483647", 2},
    {"-n|99999999999999999999", "-n: 99999999999999999999 is not in -1..2147483647", 2},
    {"-n|000000000000000000001", "-n: '000000000000000000001' is not an integer", 2},
    {"-n| 1", "-n: ' 1' is not an integer", 2},
    {"-n|1 ", "-n: '1 ' is not an integer", 2},
    {"--ids= ", "--ids: nothing is given", 2},
    {"--ids=1 2,3", "--ids: '2,3' is not an integer", 2},
    {"--ids=1 100 3", "--ids: 100 is not in 0..99", 2},
    {"--temp= 1", "--temp: ' 1' is not a number", 2},
    {"--temp=", "--temp: '' is not a number", 2},
    {"--temp=1x", "--temp: '1x' is not a number", 2},
    {"--temp=-1", "--temp: -1 is not in 0..10", 2},
    {"--temp=11", "--temp: 11 is not in 0..10", 2},
    {"--temp=nan", "--temp: nan is not in 0..10", 2},
    {"--memory=512K", "0 - - 0 0 512000 0 00 0: [512K] said", 0},
    {"--memory=8X", "--memory: '8X' is not a number of bytes, as 500M or 8G", 2},
    {"--memory=8GB", "--memory: '8GB' is not a number of bytes, as 500M or 8G", 2},
    {"--memory=0", "--memory: '0' is not a number of bytes, as 500M or 8G", 2},
    {"--memory=1e6T", "--memory: '1e6T' is not a number of bytes, as 500M or 8G", 2},
    {"--memory=-8G", "--memory: '-8G' is not a number of bytes, as 500M or 8G", 2},
    {"--seed=-1", "--seed: '-1' is not an integer in 0..2^64-1", 2},
    {"--seed=1.5", "--seed: '1.5' is not an integer in 0..2^64-1", 2},
    {"--seed=18446744073709551616", "--seed: '18446744073709551616' is not an integer in 0..2^64-1", 2},
    {"--kind=three", "--kind: 'three' is none of one, two", 2},
    {"--kind=on", "--kind: 'on' is none of one, two", 2},
    {"--pairs=head", "--pairs: 'head' is not CLASS=TYPE", 2},
    {"--pairs=head=x,", "--pairs: '' is not CLASS=TYPE", 2},
    {"--pairs=tail=x", "--pairs: 'tail' is none of head, body", 2},
    {"--pairs=head=y", "--pairs: 'y' is none of x, yy", 2},
};

/* Runs work in a process with standard error and output at these files; its status, 1000 and more: a signal. */
static int apart(void (*work)(const void *), const void *of, int out, int error) {
    int status = -1;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        dup2(out, 1), dup2(error, 2);
        work(of);
        exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000;
}
static const char *text_of(FILE *file) {
    static char text[4096];
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    return text;
}

static void try_arguments(const void *of) {
    char copy[200], *argv[12] = {"program"};
    int argc = 1;
    snprintf(copy, sizeof copy, "%s", *(const char *const *)of);
    for (char *at = copy; *at;) {
        argv[argc++] = at;
        at += strcspn(at, "|");
        if (*at) *at++ = 0;
    }
    parse(argc, argv);
}

static void test_arguments(void) {
    SECTION("arguments");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (int mute = 0; mute < 2; mute++) {
            FILE *out = tmpfile(), *error = tmpfile();
            if (!CHECK(out && error, "no files")) return;
            options_here.mute = mute;
            const int status = apart(try_arguments, &all[i].arguments, fileno(out), fileno(error));
            char says[200];
            const char *got = text_of(error), *want = all[i].status && !mute ? says
                                                      : all[i].status        ? "(end 2)"
                                                                             : all[i].says;
            snprintf(says, sizeof says, "program: %s (--help shows the options)\n(end 2)", all[i].says);
            CHECK(status == all[i].status && !strcmp(got, want), "%s: status %d, %s, expected %s", all[i].arguments,
                  status, got, want);
            got = text_of(out), want = all[i].arguments;
            want = mute ? "" : !strncmp(want, "--v", 3) ? "program 1.2\n" : strstr(want, "-h") ? "the help\n" : "";
            if (*want || !strstr(all[i].arguments, "-h"))
                CHECK(!strcmp(got, want), "%s: '%s' on standard output", all[i].arguments, got);
            fclose(out), fclose(error);
        }
    options_here.mute = 0;
}

/* ---- the rest ---------------------------------------------------------------------------------------------------- */

static const char *name_of(int i) { return i ? "b" : "a_name_longer_than_any_of_thirty_one_bytes"; }
static void test_words(void) {
    char text[100];
    SECTION("words");
    CHECK(!strcmp(options_list(text, 2, name_of), "a_name_longer_than_any_of_thirt b"), "%s", text);
    CHECK(!strcmp(options_amount(text, 99999), "99999 bytes"), "%s", text);
    CHECK(!strcmp(options_amount(text, 1e5), "0.10 MB"), "%s", text);
    CHECK(!strcmp(options_amount(text, 2.5e9), "2.50 GB"), "%s", text);
    CHECK(options_need(text) == text, "memory that is there");
}

static void try_need(const void *of) { options_need(*(void *const *)of); }
static void try_flush(const void *of) {
    options_interrupted = *(const int *)of;
    printf("a text");
    options_flush();
}
static void try_interrupt(const void *of) {
    options_interrupts();
    for (int i = 0; i < *(const int *)of; i++) raise(SIGINT);
    fprintf(stderr, "%d", options_interrupted);
}
static void try_streams(const void *of) {
    const int closed = *(const int *)of;
    const int error = dup(2);
    if (closed >= 0) close(closed);
    const int out = options_streams();
    dprintf(error, "%d %d", out, fcntl(0, F_GETFD) >= 0 && fcntl(1, F_GETFD) >= 0 && fcntl(2, F_GETFD) >= 0);
}

static void test_system(void) {
    static const struct {
        void (*work)(const void *);
        int of, status;
        const char *says;
    } cases[] = {{try_interrupt, 0, 0, "0"},  {try_interrupt, 1, 0, "1"},
                 {try_interrupt, 2, 130, ""}, {try_streams, -1, 0, "0 1"},
                 {try_streams, 0, 0, "0 1"},  {try_streams, 1, 0, "1 1"},
                 {try_streams, 2, 0, "0 1"},  {try_flush, 0, 1, "program: cannot write to stdout: No space"},
                 {try_flush, 1, 130, ""}};
    const int full = open("/dev/full", O_WRONLY);
    void *none = NULL;
    SECTION("the system");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        FILE *error = tmpfile();
        if (cases[i].work == try_flush && full < 0) continue;
        const int status = apart(cases[i].work, &cases[i].of, full >= 0 ? full : 1, fileno(error));
        const char *got = text_of(error);
        CHECK(status == cases[i].status && !strncmp(got, cases[i].says, strlen(cases[i].says)),
              "case %d: status %d, %s", (int)i, status, got);
        fclose(error);
    }
    FILE *error = tmpfile();
    CHECK(apart(try_need, &none, 1, fileno(error)) == 1 && strstr(text_of(error), "out of memory\n"), "no memory");
    fclose(error);
}

/* The bar: of a terminal only; gone at the end, and before an error. */
static void draw(const void *of) {
    const double now = options_now();
    const int which = *(const int *)of;
    options_here.quiet = which == 1;
    options_progress("reading", which == 5 ? 0 : 1, which == 5 ? 0 : 4, "4 GB",
                     which == 2   ? now - 7200
                     : which == 3 ? now - 30
                                  : 0);
    options_progress("reading", 1.1, 4, "4 GB", 0); /* too soon */
    if (which == 4) options_fail(1, "it is over");
    options_progress("reading", 4, 4, "4 GB", 0);
    options_progress("reading", 4, 4, "4 GB", 0);
}
static void test_bar(void) {
#define BAR   "\rreading    [######                  ]  25 % of 4 GB"
#define BAR28 "\rreading    [######                  ]  28 % of 4 GB"
#define BLANK "\r                                                                              \r"
    static const char *const want[] = {BAR "  " BLANK,
                                       "",
                                       BAR ", 6:00 h left  " BLANK,
                                       BAR ", 1:30 min left  " BLANK,
                                       BAR "  " BLANK "program: it is over\r\n(end 1)",
                                       BAR28 "  " BLANK};
    const int person = posix_openpt(O_RDWR | O_NOCTTY);
    SECTION("the bar");
    if (person < 0 || grantpt(person) || unlockpt(person)) {
        printf("no terminal is to be had: left out\n");
        return;
    }
    const int terminal = open(ptsname(person), O_RDWR | O_NOCTTY);
    fcntl(person, F_SETFL, O_NONBLOCK);
    for (int which = 0; which < 6; which++) {
        char got[1000];
        if (which == 2 && options_now() < 7201) continue; /* the clock began less than two hours ago */
        const int status = apart(draw, &which, 1, terminal);
        const ssize_t n = read(person, got, sizeof got - 1);
        got[n > 0 ? n : 0] = 0;
        CHECK(status == (which == 4) && !strcmp(got, want[which]), "case %d: status %d, %s", which, status, got);
    }
    FILE *error = tmpfile();
    const int plain = 0;
    CHECK(error && !apart(draw, &plain, 1, fileno(error)) && !*text_of(error), "a bar in a file");
    fclose(error), close(terminal), close(person);
}

int main(void) {
    options_here.name = "program", options_here.version = "1.2", options_here.help = help, options_here.end = ended;
    test_arguments();
    test_words();
    test_system();
    test_bar();
    return test_end();
}
