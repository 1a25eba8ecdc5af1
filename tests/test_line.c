/* test_line.c - what a person types: keys on a terminal of the test's own, and lines that come from elsewhere. */
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE
#include "line.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <termios.h>
#include <unistd.h>

static int person, program; /* the two sides of the terminal */
static char screen[1 << 16];

/* What the program has written since, as text. */
static const char *seen(void) {
    size_t n = 0;
    for (ssize_t got; n < sizeof screen - 1 && (got = read(person, screen + n, sizeof screen - 1 - n)) > 0;)
        n += (size_t)got;
    screen[n] = 0;
    return screen;
}

static int open_terminal(int columns) {
    struct termios how;
    struct winsize size;
    memset(&size, 0, sizeof size);
    person = posix_openpt(O_RDWR | O_NOCTTY);
    if (person < 0 || grantpt(person) || unlockpt(person)) return 0;
    program = open(ptsname(person), O_RDWR | O_NOCTTY);
    if (program < 0 || tcgetattr(program, &how)) return 0;
    how.c_oflag &= ~(tcflag_t)OPOST;
    how.c_iflag &= ~(tcflag_t)(BRKINT | ICRNL | INPCK | ISTRIP | IXON); /* keys that come before they are read */
    how.c_lflag &= ~(tcflag_t)(ECHO | ICANON | IEXTEN | ISIG);
    size.ws_col = (unsigned short)columns, size.ws_row = 25;
    fcntl(person, F_SETFL, O_NONBLOCK);
    return !tcsetattr(program, TCSANOW, &how) && !ioctl(program, TIOCSWINSZ, &size);
}
static void close_terminal(void) { close(person), close(program); }

static void type(const char *keys, size_t n) {
    if (write(person, keys, n) != (ssize_t)n) printf("cannot type\n"), exit(2);
}

/* Keys, and the line that they make. */
static const struct keys {
    const char *what, *keys, *line;
} lines[] = {
    {"characters", "abc\r", "abc"},
    {"a newline ends, too", "abc\n", "abc"},
    {"backspace", "abx\177c\b\bbc\r", "abc"},
    {"backspace at the begin", "\177\babc\r", "abc"},
    {"left and right", "ac\x1b[Db\x1b[C\x1b[Cd\r", "abcd"},
    {"left and right by control", "ac\002b\006\006d\002\002\002\002\002\002x\r", "xabcd"},
    {"in an application's mode", "ac\x1bODb\x1bOCd\r", "abcd"},
    {"home and end", "b\001a\005c\x1b[H0\x1b[Fd\r", "0abcd"},
    {"home and end of others", "b\x1b[1~a\x1b[4~c\x1b[7~0\x1b[8~d\r", "0abcd"},
    {"words to the left",
     "one two  three\x1b[1;5D3\x1b[1;5D2\x1b"
     "b1\x1b[1;3D\x1b[1;3D0\r",
     "one 0two  123three"},
    {"words to the right",
     "one two  three\001\x1b[1;5C1\x1b"
     "f2\x1b[1;2C3\x1b"
     "f4\r",
     "one1 two2  three34"},
    {"delete", "abcd\001\x1b[3~\004\x1b[C\004\x1b[3~\004\r", "c"},
    {"a rest of a line", "abc\002\013d\r", "abd"},
    {"all before", "abc\002\025d\r", "dc"},
    {"a word before", "one two\027three\r", "one three"},
    {"words before, with spaces", "one two  \027\027x\r", "x"},
    {"a character of several bytes", "\xc3\xa4\xe6\xbc\xa2\xf0\x9f\x98\x80\x1b[D\x1b[D\177o\x1b[3~\r",
     "o\xf0\x9f\x98\x80"},
    {"a byte that is none is a part of what stands before it", "\x80\xc3\x1b[D\x1b[D\x1b[D-\x1b[C\177\r", "\xc3"},
    {"a tab", "a\tb\r", "a\tb"},
    {"keys that mean nothing", "a\x1b[99~\x1b[12345678901~\x1b[Z\x1bx\x1c\036b\x1b[Ec\r", "abc"},
    {"a backslash", "a\\\rb\\\r\\c\r", "a\nb\n\\c"},
    {"a backslash behind the cursor", "a\\\x1b[D\x1b[D\rb\r", "a\nb"},
    {"what is pasted", "[\x1b[200~a\rb\x1b[A\\\nc\x1b[201~]\r", "[a\nb\x1b[A\\\nc]"},
    {"pasted in the midst", "[]\x1b[D\x1b[200~a\x1b[201~\r", "[a]"},
    {"a cleared screen", "a\014b\r", "ab"},
    {"nothing", "\r", ""},
};

static void test_keys(void) {
    SECTION("keys");
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        const struct keys *k = &lines[i];
        line_editor *e = line_create(program, program);
        const char *text;
        size_t n;
        type(k->keys, strlen(k->keys));
        const line_result got = line_read(e, "> ", &text, &n);
        CHECK(got == LINE_TEXT && n == strlen(k->line) && !memcmp(text, k->line, n + 1), "%s: %d, '%s', not '%s'",
              k->what, (int)got, text, k->line);
        const char *shown = seen();
        CHECK(!strncmp(shown, "\x1b[?2004h\r> ", 11) && !strcmp(shown + strlen(shown) - 9, "\x1b[?2004l\n"),
              "%s: shows %s", k->what, shown);
        line_destroy(e);
    }
}

/* What is read next on one editor. */
static void reads(line_editor *e, const char *keys, line_result result, const char *line) {
    const char *text;
    size_t n;
    if (keys) type(keys, strlen(keys));
    const line_result got = line_read(e, "> ", &text, &n);
    CHECK(got == result && (got != LINE_TEXT || (n == strlen(line) && !memcmp(text, line, n + 1))),
          "%d, '%s', not %d, '%s'", (int)got, text, (int)result, line);
    seen();
}

static void test_history(void) {
    char line[16], keys[16], all[600];
    line_editor *e = line_create(program, program);
    SECTION("history");
    reads(e, "\x1b[A\x1b[Bnone\r", LINE_TEXT, "none"); /* there is nothing yet */
    reads(e, "one\r", LINE_TEXT, "one");
    reads(e, "one\r", LINE_TEXT, "one"); /* the same, which is kept once */
    reads(e, "two\r", LINE_TEXT, "two");
    reads(e, "\r", LINE_TEXT, ""); /* nothing, which is not kept */
    reads(e, "\x1b[A\x1b[A\r", LINE_TEXT, "one");
    reads(e, "\020\020\020!\r", LINE_TEXT,
          "one!"); /* now: none, one, two, one; with a change, which is kept as another */
    reads(e, "\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\x1b[A\r", LINE_TEXT, "none");
    reads(e, "new\x1b[A\x1b[A\x1b[B\x1b[B\x1b[B-er\r", LINE_TEXT, "new-er"); /* what was begun is still there */
    reads(e, "x\020\020\016\016\016y\r", LINE_TEXT, "xy");
    reads(e, "\003", LINE_INTERRUPT, "");
    reads(e, "half\003", LINE_INTERRUPT, ""); /* given up, not kept */
    reads(e, "\x1b[A\r", LINE_TEXT, "xy");
    reads(e, "\004", LINE_END, "");
    for (int i = 0; i < 502; i++) {
        snprintf(line, sizeof line, "%d", i), snprintf(keys, sizeof keys, "%d\r", i);
        reads(e, keys, LINE_TEXT, line);
    }
    memset(all, 16, sizeof all), all[510] = '\r', all[511] = 0;
    reads(e, all, LINE_TEXT, "2"); /* the oldest of 500 */
    line_destroy(e);
}

static void test_width(void) {
    static const char wide[] = "\xe6\xbc\xa2\xe6\xbc\xa2\xe6\xbc\xa2\xe6\xbc\xa2\xe6\xbc\xa2"; /* two columns each */
    line_editor *e = line_create(program, program);
    const char *text;
    size_t n;
    SECTION("width");
    type("0123456789abcdefghij\r", 21);
    CHECK(line_read(e, "> ", &text, &n) == LINE_TEXT && n == 20, "a long line");
    /* 17 columns are left, and the cursor stands behind twelve of them */
    CHECK(strstr(seen(), "\r> 89abcdefghij\x1b[K\r\x1b[14C\x1b[?2004l\n") != NULL, "the end of a long line: %s",
          screen);
    type("\001", 1), type("0123456789abcdefghij\001\r", 22);
    CHECK(line_read(e, "> ", &text, &n) == LINE_TEXT && n == 20, "a long line");
    CHECK(strstr(seen(), "\r> 89abcdefghij\x1b[K") != NULL, "all of it at its end: %s", screen);
    type(wide, sizeof wide - 1), type("e\xcc\x81\r", 4); /* an accent takes no column */
    CHECK(line_read(e, "> ", &text, &n) == LINE_TEXT && n == 18, "wide characters");
    CHECK(strstr(seen(), "\x1b[K\r\x1b[13C") != NULL, "wide characters: %s", screen);
    type("a\\\rb\tc\r", 7);
    CHECK(line_read(e, "> ", &text, &n) == LINE_TEXT && n == 5, "a newline");
    CHECK(strstr(seen(), "\r> a\xe2\x86\xb5"
                         "b c\x1b[K\r\x1b[7C") != NULL,
          "a mark for a newline: %s", screen);
    line_destroy(e);
}

static void test_ends(void) {
    line_editor *e = line_create(program, program);
    SECTION("a terminal that goes away");
    CHECK(line_is_terminal(e), "a terminal");
    close(person);
    const char *text;
    size_t n;
    CHECK(line_read(e, "> ", &text, &n) == LINE_ERROR && errno == EIO, "no error");
    line_destroy(e), close(program);
    line_destroy(NULL);
}

static void on_alarm(int number) { (void)number; }

static void test_plain(void) {
    static const char bytes[] = "first\nwith\r\n\\\nsecond\\\nthird\n\nend";
    static const char *const wanted[] = {"first", "with", "\nsecond\nthird", "", "end"};
    int ends[2];
    const char *text;
    size_t n;
    SECTION("lines from elsewhere");
    if (pipe(ends) || write(ends[1], bytes, sizeof bytes - 1) != sizeof bytes - 1) exit(2);
    close(ends[1]);
    line_editor *e = line_create(ends[0], 2);
    for (int i = 0; i < 5; i++)
        CHECK(line_read(e, "> ", &text, &n) == LINE_TEXT && n == strlen(wanted[i]) && !memcmp(text, wanted[i], n + 1),
              "'%s'", text);
    CHECK(line_read(e, "> ", &text, &n) == LINE_END && n == 0, "the end");
    line_destroy(e), close(ends[0]);

    struct sigaction action;
    const struct itimerval soon = {{0, 20000}, {0, 20000}}, never = {{0, 0}, {0, 0}};
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm;
    if (pipe(ends) || sigaction(SIGALRM, &action, NULL) || setitimer(ITIMER_REAL, &soon, NULL)) exit(2);
    e = line_create(ends[0], 2);
    CHECK(line_read(e, "> ", &text, &n) == LINE_INTERRUPT, "a signal");
    setitimer(ITIMER_REAL, &never, NULL);
    line_destroy(e), close(ends[0]), close(ends[1]);

    const int directory = open(".", O_RDONLY);
    e = line_create(directory, 2);
    CHECK(line_read(e, "> ", &text, &n) == LINE_ERROR && errno == EISDIR, "a directory");
    line_destroy(e), close(directory);
}

/* TERM=dumb: a prompt, and lines as the terminal gives them. */
static void test_dumb(void) {
    SECTION("a terminal that can do nothing");
    setenv("TERM", "dumb", 1);
    line_editor *e = line_create(program, program);
    const char *text;
    size_t n;
    type("ab\n", 3);
    CHECK(line_read(e, "? ", &text, &n) == LINE_TEXT && !strcmp(text, "ab"), "'%s'", text);
    CHECK(!strcmp(seen(), "? "), "shows %s", screen);
    setenv("TERM", "xterm", 1);
    line_destroy(e);
}

int main(void) {
    test_plain();
    if (open_terminal(20)) {
        setenv("TERM", "xterm", 1);
        test_keys(), test_history(), test_width(), test_dumb();
        close_terminal();
        if (open_terminal(5)) test_ends(); /* so narrow: not believed */
    } else printf("no terminal is to be had: left out\n");
    return test_end();
}
