/* line.h - reads what a person types: a line with editing and history on a terminal, plain lines from anything else.

USE
   In exactly one file:      #define LINE_IMPLEMENTATION
                             #include "line.h"
   In all others:            #include "line.h"

   line_editor *e = line_create(0, 1);   const char *text;   size_t n;
   while (line_read(e, "> ", &text, &n) == LINE_TEXT) printf("%.*s\n", (int)n, text);   ...   line_destroy(e);

KEYS           left, right, home, end, backspace, delete and Ctrl-A B D E F H K U W as in shells, by word with Ctrl or
               Alt; up and down, Ctrl-P and N: what was typed before; Ctrl-L: clears the screen; Ctrl-C: gives the line
               up; Ctrl-D on an empty one, or the end of the input: LINE_END.
SEVERAL LINES  A backslash at the end of a line joins the next to it, by a newline. What is pasted into a terminal is
               one text, however many lines it has. In an edited line, newlines are shown as a mark.
WIDE           A line that is wider than the screen is shown in part, around the cursor. Characters are UTF-8; those of
               East Asia and emoji take two columns, combining ones none.
TERMINAL       While a line is read, and only then, the terminal is in raw mode. Without one, or with TERM=dumb, lines
               are read as they come, and no prompt is shown unless input and output are both terminals.
PLATFORM       POSIX; where there is no termios (_WIN32, or define LINE_NO_TERMINAL) lines are read as they come. No
               globals, no memory but the editor's own.
   SPDX-License-Identifier: MIT */

#ifndef LINE_H
#define LINE_H

#include <stddef.h>

#ifndef LINE_API
#define LINE_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct line_editor line_editor;
typedef enum line_result { LINE_TEXT = 0, LINE_END, LINE_INTERRUPT, LINE_ERROR } line_result;

LINE_API line_editor *line_create(int in, int out); /* NULL: no memory; file descriptors, which stay open */
LINE_API void line_destroy(line_editor *e);         /* NULL is fine */
LINE_API int line_is_terminal(const line_editor *e);
/* *text [*n] and a NUL, without the newline at its end. INTERRUPT: Ctrl-C, or a signal; ERROR: errno says why. */
/* The text is valid until the next call. */
LINE_API line_result line_read(line_editor *e, const char *prompt, const char **text, size_t *n);

#ifdef __cplusplus
}
#endif
#endif /* LINE_H */

/* ================================================================================================================== */
#if defined LINE_IMPLEMENTATION && !defined LINE_IMPLEMENTED
#define LINE_IMPLEMENTED

#if defined _WIN32 && !defined LINE_NO_TERMINAL
#define LINE_NO_TERMINAL
#endif

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifndef LINE_NO_TERMINAL
#include <sys/ioctl.h>
#include <termios.h>
#endif
#ifdef _WIN32
#include <io.h>
#else
#include <unistd.h>
#endif

enum { LINE__HISTORY = 500, LINE__INPUT = 4096 };

typedef struct line__text {
    char *data;
    size_t n, capacity;
} line__text;

struct line_editor {
    int in, out, terminal;
    int failed; /* out of memory */
#ifndef LINE_NO_TERMINAL
    struct termios cooked;
#endif
    unsigned char input[LINE__INPUT]; /* read, and not yet taken */
    size_t at, end;
    line__text line, shown, kept; /* kept: the new line while an old one is looked at */
    size_t cursor;
    line__text history[LINE__HISTORY]; /* the oldest first */
    size_t n_history, looked_at;
};

/* ---- texts ------------------------------------------------------------------------------------------------------- */

static void line__insert(line_editor *e, line__text *t, size_t at, const char *bytes, size_t n) {
    if (t->n + n + 1 > t->capacity) {
        const size_t capacity = 2 * (t->n + n) + 64;
        char *data = n < (size_t)-1 / 8 ? (char *)realloc(t->data, capacity) : NULL;
        if (!data) {
            e->failed = 1;
            return;
        }
        t->data = data, t->capacity = capacity;
    }
    memmove(t->data + at + n, t->data + at, t->n - at);
    if (n) memcpy(t->data + at, bytes, n);
    t->data[t->n += n] = 0;
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

static void line__write(const line_editor *e, const char *bytes, size_t n) {
    while (n > 0) {
        const unsigned some = n < 4096 ? (unsigned)n : 4096;
        const int wrote = (int)write(e->out, bytes, some);
        if (wrote <= 0 && errno != EINTR) return;
        if (wrote > 0) bytes += wrote, n -= (size_t)wrote;
    }
}

static int line__byte(line_editor *e) { /* -1: the end, -2: a signal, -3: an error */
    if (e->at == e->end) {
        const int n = (int)read(e->in, e->input, sizeof e->input);
        if (n <= 0) return n == 0 ? -1 : errno == EINTR ? -2 : -3;
        e->at = 0, e->end = (size_t)n;
    }
    return e->input[e->at++];
}

#ifndef LINE_NO_TERMINAL

/* ---- places in a line -------------------------------------------------------------------------------------------- */

static void line__remove(line__text *t, size_t from, size_t to) {
    if (to <= from) return;
    memmove(t->data + from, t->data + to, t->n - to);
    t->n -= to - from, t->data[t->n] = 0;
}

static void line__set(line_editor *e, line__text *t, const line__text *to) {
    t->n = 0;
    line__insert(e, t, 0, to->data, to->n);
}

/* The next character of t at `at`: its bytes, and how many columns it takes. */
static size_t line__char(const line__text *t, size_t at, int *columns) {
    static const unsigned long wide[][2] = {{0x1100, 0x115F},   {0x2E80, 0x303E},   {0x3041, 0xA4CF},  {0xAC00, 0xD7A3},
                                            {0xF900, 0xFAFF},   {0xFE30, 0xFE6F},   {0xFF00, 0xFF60},  {0xFFE0, 0xFFE6},
                                            {0x1F300, 0x1F64F}, {0x1F680, 0x1FAFF}, {0x20000, 0x3FFFD}},
                               none[][2] = {{0x300, 0x36F},
                                            {0x200B, 0x200F},
                                            {0x20D0, 0x20FF},
                                            {0xFE00, 0xFE0F},
                                            {0xFE20, 0xFE2F}};
    const unsigned char *s = (const unsigned char *)t->data + at;
    const size_t length = s[0] < 0xC0 ? 1 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
    size_t n = 1;
    unsigned long c = length == 1 ? s[0] : s[0] & (0xFFu >> (length + 1));
    for (; n < length && at + n < t->n && (s[n] & 0xC0) == 0x80; n++) c = c << 6 | (s[n] & 0x3Fu);
    *columns = 1;
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        if (c >= wide[i][0] && c <= wide[i][1]) *columns = 2;
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        if (c >= none[i][0] && c <= none[i][1]) *columns = 0;
    return n;
}

static size_t line__left(const line__text *t, size_t at) { /* one character */
    if (at > 0) at--;
    while (at > 0 && ((unsigned char)t->data[at] & 0xC0) == 0x80) at--;
    return at;
}
static size_t line__right(const line__text *t, size_t at) {
    int columns;
    return at < t->n ? at + line__char(t, at, &columns) : at;
}
static int line__is_space(char c) { return c == ' ' || c == '\n' || c == '\t'; }
static size_t line__word_left(const line__text *t, size_t at) {
    while (at > 0 && line__is_space(t->data[at - 1])) at--;
    while (at > 0 && !line__is_space(t->data[at - 1])) at--;
    return at;
}
static size_t line__word_right(const line__text *t, size_t at) {
    while (at < t->n && line__is_space(t->data[at])) at++;
    while (at < t->n && !line__is_space(t->data[at])) at++;
    return at;
}

/* ---- the screen -------------------------------------------------------------------------------------------------- */

static int line__width(const line_editor *e) {
    struct winsize size;
    return ioctl(e->out, TIOCGWINSZ, &size) || size.ws_col < 8 ? 80 : size.ws_col;
}

/* The prompt and as much of the line as fits, with the cursor in its place. */
static void line__show(line_editor *e, const char *prompt) {
    const int room = line__width(e) - (int)strlen(prompt) - 1;
    int before = 0, columns, used = 0, place = 0;
    size_t begin = e->cursor;
    char move[32];
    while (begin > 0) { /* what is left of the cursor, as far as three quarters of the row */
        const size_t left = line__left(&e->line, begin);
        line__char(&e->line, left, &columns);
        if (before + columns > room * 3 / 4) break;
        begin = left, before += columns;
    }
    e->shown.n = 0;
    line__insert(e, &e->shown, 0, "\r", 1);
    line__insert(e, &e->shown, e->shown.n, prompt, strlen(prompt));
    for (size_t at = begin, n; at < e->line.n; at += n) {
        n = line__char(&e->line, at, &columns);
        if (used + columns > room) break;
        if (at < e->cursor) place += columns;
        used += columns;
        if ((unsigned char)e->line.data[at] >= 0x20 && e->line.data[at] != 0x7f)
            line__insert(e, &e->shown, e->shown.n, e->line.data + at, n);
        else if (e->line.data[at] == '\t') line__insert(e, &e->shown, e->shown.n, " ", 1);
        else line__insert(e, &e->shown, e->shown.n, "\xe2\x86\xb5", 3); /* a newline */
    }
    snprintf(move, sizeof move, "\x1b[K\r\x1b[%dC", (int)strlen(prompt) + place);
    line__insert(e, &e->shown, e->shown.n, move, strlen(move));
    line__write(e, e->shown.data, e->shown.n);
}

/* ---- keys -------------------------------------------------------------------------------------------------------- */

/* What is pasted, up to the terminal's sign that it ends; \r is a newline there. */
static void line__paste(line_editor *e) {
    static const char sign[] = "\x1b[201~";
    const size_t n = sizeof sign - 1, begin = e->cursor;
    for (int c; (c = line__byte(e)) >= 0 && !e->failed;) {
        const char one = (char)(c == '\r' ? '\n' : c);
        line__insert(e, &e->line, e->cursor, &one, 1);
        if (e->failed) return;
        e->cursor++;
        if (e->cursor - begin >= n && !memcmp(e->line.data + e->cursor - n, sign, n)) {
            line__remove(&e->line, e->cursor - n, e->cursor);
            e->cursor -= n;
            return;
        }
    }
}

static void line__look(line_editor *e, int step) { /* into the history: -1 back, 1 forth */
    if (step < 0 ? e->looked_at == 0 : e->looked_at >= e->n_history) return;
    if (e->looked_at == e->n_history) line__set(e, &e->kept, &e->line);
    e->looked_at += (size_t)step;
    line__set(e, &e->line, e->looked_at == e->n_history ? &e->kept : &e->history[e->looked_at]);
    e->cursor = e->line.n;
}

static void line__escape(line_editor *e) { /* behind ESC: a key of a terminal */
    int c = line__byte(e), number = 0, modifier = 0;
    if (c == 'b' || c == 'f') e->cursor = (c == 'b' ? line__word_left : line__word_right)(&e->line, e->cursor);
    if (c != '[' && c != 'O') return;
    for (c = line__byte(e); (c >= '0' && c <= '9') || c == ';'; c = line__byte(e)) {
        if (c == ';') modifier = number, number = 0;
        else number = number < 1000 ? number * 10 + c - '0' : number;
    }
    const int word = modifier != 0; /* with Shift, Alt or Ctrl */
    switch (c) {
    case 'A': line__look(e, -1); break;
    case 'B': line__look(e, 1); break;
    case 'C': e->cursor = (word ? line__word_right : line__right)(&e->line, e->cursor); break;
    case 'D': e->cursor = (word ? line__word_left : line__left)(&e->line, e->cursor); break;
    case 'H': e->cursor = 0; break;
    case 'F': e->cursor = e->line.n; break;
    case '~':
        if (number == 1 || number == 7) e->cursor = 0;
        if (number == 4 || number == 8) e->cursor = e->line.n;
        if (number == 3) line__remove(&e->line, e->cursor, line__right(&e->line, e->cursor));
        if (number == 200) line__paste(e);
        break;
    default: break;
    }
}

/* One key. 1: the line is done, with *result. */
static int line__key(line_editor *e, int c, line_result *result) {
    const size_t before = e->cursor;
    const char one = (char)c;
    switch (c) {
    case -1: *result = e->line.n ? LINE_TEXT : LINE_END; return 1;
    case -2:
    case 3: *result = LINE_INTERRUPT; return 1; /* Ctrl-C */
    case -3: *result = LINE_ERROR; return 1;
    case '\r':
    case '\n':
        if (e->line.n == 0 || e->line.data[e->line.n - 1] != '\\') return *result = LINE_TEXT, 1;
        e->line.data[e->line.n - 1] = '\n', e->cursor = e->line.n;
        return 0;
    case 4: /* Ctrl-D */
        if (e->line.n == 0) return *result = LINE_END, 1;
        line__remove(&e->line, before, line__right(&e->line, before));
        return 0;
    case 1: e->cursor = 0; return 0;
    case 2: e->cursor = line__left(&e->line, before); return 0;
    case 5: e->cursor = e->line.n; return 0;
    case 6: e->cursor = line__right(&e->line, before); return 0;
    case 8:
    case 0x7f: e->cursor = line__left(&e->line, before); break;
    case 11: line__remove(&e->line, before, e->line.n); return 0;
    case 12: line__write(e, "\x1b[H\x1b[2J", 7); return 0;
    case 14: line__look(e, 1); return 0;
    case 16: line__look(e, -1); return 0;
    case 21: e->cursor = 0; break;
    case 23: e->cursor = line__word_left(&e->line, before); break;
    case 27: line__escape(e); return 0;
    default:
        if (c < 0x20 && c != '\t') return 0;
        line__insert(e, &e->line, before, &one, 1);
        e->cursor += !e->failed;
        return 0;
    }
    line__remove(&e->line, e->cursor, before);
    return 0;
}

static line_result line__edit(line_editor *e, const char *prompt) {
    struct termios raw = e->cooked;
    line_result result = LINE_ERROR;
    raw.c_iflag &= ~(tcflag_t)(BRKINT | ICRNL | INPCK | ISTRIP | IXON);
    raw.c_lflag &= ~(tcflag_t)(ECHO | ICANON | IEXTEN | ISIG);
    raw.c_cc[VMIN] = 1, raw.c_cc[VTIME] = 0;
    if (tcsetattr(e->in, TCSADRAIN, &raw)) return LINE_ERROR;
    line__write(e, "\x1b[?2004h", 8); /* tell what is pasted */
    line__insert(e, &e->line, 0, "", 0);
    e->cursor = 0, e->looked_at = e->n_history;
    do
        if (e->at == e->end) line__show(e, prompt); /* once for all that has come */
    while (!line__key(e, line__byte(e), &result) && !e->failed);
    e->cursor = e->line.n;
    line__show(e, prompt);
    line__write(e, "\x1b[?2004l\n", 9);
    tcsetattr(e->in, TCSADRAIN, &e->cooked);
    return e->failed ? LINE_ERROR : result;
}

static void line__remember(line_editor *e) {
    const line__text *last = e->n_history ? &e->history[e->n_history - 1] : NULL;
    if (e->line.n == 0 || (last && last->n == e->line.n && !memcmp(last->data, e->line.data, last->n))) return;
    if (e->n_history == LINE__HISTORY) {
        free(e->history[0].data);
        memmove(e->history, e->history + 1, --e->n_history * sizeof *e->history);
    }
    memset(&e->history[e->n_history], 0, sizeof *e->history);
    line__set(e, &e->history[e->n_history], &e->line);
    e->n_history += !e->failed;
}

#endif /* LINE_NO_TERMINAL */

/* ---- the editor -------------------------------------------------------------------------------------------------- */

line_editor *line_create(int in, int out) {
    line_editor *e = (line_editor *)calloc(1, sizeof *e);
    if (!e) return NULL;
    e->in = in, e->out = out;
#ifndef LINE_NO_TERMINAL
    const char *term = getenv("TERM");
    e->terminal = isatty(in) && isatty(out) && !(term && !strcmp(term, "dumb")) && !tcgetattr(in, &e->cooked);
#endif
    return e;
}

void line_destroy(line_editor *e) {
    if (!e) return;
    for (size_t i = 0; i < e->n_history; i++) free(e->history[i].data);
    free(e->line.data), free(e->shown.data), free(e->kept.data);
    free(e);
}

int line_is_terminal(const line_editor *e) { return isatty(e->in) && isatty(e->out); }

/* Lines as they come, from what is no terminal, or a dumb one. */
static line_result line__plain(line_editor *e) {
    for (;;) {
        const int c = line__byte(e);
        const char one = (char)c;
        if (c == -1) return e->line.n ? LINE_TEXT : LINE_END;
        if (c < 0) return c == -2 ? LINE_INTERRUPT : LINE_ERROR;
        if (c != '\n') line__insert(e, &e->line, e->line.n, &one, 1);
        if (e->failed) return LINE_ERROR;
        if (c != '\n') continue;
        while (e->line.n && e->line.data[e->line.n - 1] == '\r') e->line.n--;
        if (e->line.n == 0 || e->line.data[e->line.n - 1] != '\\') return LINE_TEXT;
        e->line.data[e->line.n - 1] = '\n';
    }
}

line_result line_read(line_editor *e, const char *prompt, const char **text, size_t *n) {
    e->line.n = 0, e->failed = 0;
    line__insert(e, &e->line, 0, "", 0);
    if (!e->terminal && line_is_terminal(e)) line__write(e, prompt, strlen(prompt));
    line_result result = LINE_ERROR;
    if (!e->failed && !e->terminal) result = line__plain(e);
#ifndef LINE_NO_TERMINAL
    if (!e->failed && e->terminal) result = line__edit(e, prompt);
    if (result == LINE_TEXT && e->terminal) line__remember(e);
#endif
    if (e->failed) errno = ENOMEM;
    if (e->line.data) e->line.data[e->line.n] = 0;
    *text = e->line.data, *n = e->line.n;
    return result;
}

#endif /* LINE_IMPLEMENTATION */
