/* options.h - how a program speaks with who started it: options by a table, what goes wrong, how far it is.

USE
   In exactly one file:      #define OPTIONS_IMPLEMENTATION
                             #include "options.h"
   In all others:            #include "options.h"

   int main(int argc, char **argv) {
       const options_entry table[] = {OPTIONS_TEXT("-m --model", &model), OPTIONS_INT("--threads", &threads, 1, 64),
                                      OPTIONS_WORD("--cache", &cache, "f32 f16"), OPTIONS_FLAG("--fast", &fast)};
       options_here.name = "app", options_here.version = "1.0", options_here.help = help;
       options_streams(), argv = options_arguments(&argc, argv);
       options_parse(table, 4, NULL, argc, argv);
       if (!model) options_fail(2, "--model is missing");

FORMS          --name VALUE, --name=VALUE, and with one letter -m VALUE. What is given again counts as given last, but
               OPTIONS_TEXTS keeps all. --help, -h, --version and --quiet are there without an entry.
SHORT          With OPTIONS_SHORT defined, best behind all other headers, these are also called fail, say, now, need
               and amount.
ERRORS         What fails is printed to standard error, and the program ends: with 1, or 2 if the command line is wrong.
GLOBALS        options_here: who speaks, and options_interrupted.
   SPDX-License-Identifier: MIT */

#ifndef OPTIONS_H
#define OPTIONS_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifndef OPTIONS_API
#define OPTIONS_API extern
#endif
#if defined __GNUC__ && !defined __clang__
#define OPTIONS__PRINTF(format_at, rest) format(gnu_printf, format_at, rest)
#else
#define OPTIONS__PRINTF(format_at, rest) format(printf, format_at, rest)
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct options_program {
    const char *name, *version; /* who speaks: "name: what is wrong" */
    void (*help)(void);         /* to standard output */
    void (*end)(int status);    /* before the program ends for something that is wrong; NULL: nothing is to be done */
    int quiet;                  /* --quiet: only errors are heard */
    int mute;                   /* not even they: another process says them */
    int bar;                    /* a progress bar is on the screen */
    const char *model;          /* whose files options_open does not write over: they may be mapped; NULL: none */
} options_program;
extern options_program options_here;

typedef struct options_texts { /* zero-initialise; free(of) */
    const char **of;
    int n;
} options_texts;
typedef struct options_ints {
    int *of;
    size_t n;
} options_ints;

typedef enum options_kind {
    OPTIONS__FLAG,
    OPTIONS__TEXT,
    OPTIONS__TEXTS,
    OPTIONS__INT,
    OPTIONS__INTS,
    OPTIONS__NUMBER,
    OPTIONS__SEED,
    OPTIONS__BYTES,
    OPTIONS__WORD,
    OPTIONS__PAIRS
} options_kind;
typedef struct options_entry {
    const char *name; /* with spaces between several spellings, of which the last one is that of messages */
    options_kind kind;
    void *to;
    double low, high;
    const char *words, *values; /* with a space between two */
} options_entry;

/* Entries; of a target of a wrong type compilers warn. TEXT: not empty; ANY_TEXT: also that. INTS: "1 2 3". BYTES:
   500M, 8G, from low on. WORD: the place of one of some words. PAIRS, as head=q8,kv_b=q4: to[place of a word] = place
   of a value. */
/* clang-format off */
#define OPTIONS__TO(type, to) ((void)sizeof((to) == (type *)0), (void *)(to))
#define OPTIONS_FLAG(name, to)               {name, OPTIONS__FLAG, OPTIONS__TO(int, to), 0, 0, NULL, NULL}
#define OPTIONS_TEXT(name, to)               {name, OPTIONS__TEXT, OPTIONS__TO(const char *, to), 1, 0, NULL, NULL}
#define OPTIONS_ANY_TEXT(name, to)           {name, OPTIONS__TEXT, OPTIONS__TO(const char *, to), 0, 0, NULL, NULL}
#define OPTIONS_TEXTS(name, to)              {name, OPTIONS__TEXTS, OPTIONS__TO(options_texts, to), 1, 0, NULL, NULL}
#define OPTIONS_INT(name, to, low, high)     {name, OPTIONS__INT, OPTIONS__TO(int, to), low, high, NULL, NULL}
#define OPTIONS_INTS(name, to, low, high)    {name, OPTIONS__INTS, OPTIONS__TO(options_ints, to), low, high, NULL, NULL}
#define OPTIONS_NUMBER(name, to, low, high)  {name, OPTIONS__NUMBER, OPTIONS__TO(double, to), low, high, NULL, NULL}
#define OPTIONS_SEED(name, to)               {name, OPTIONS__SEED, OPTIONS__TO(uint64_t, to), 0, 0, NULL, NULL}
#define OPTIONS_BYTES(name, to, low)         {name, OPTIONS__BYTES, OPTIONS__TO(double, to), low, 1e18, NULL, NULL}
#define OPTIONS_WORD(name, to, words)        {name, OPTIONS__WORD, OPTIONS__TO(int, to), 0, 0, words, NULL}
#define OPTIONS_PAIRS(name, to, words, values) {name, OPTIONS__PAIRS, OPTIONS__TO(int, to), 0, 0, words, values}
/* clang-format on */

/* Sets what the arguments say, and ends the program with status 2 if they are wrong, with 0 after --help and --version.
   given [n]: of each entry what was given, or its name if it is a flag; NULL: not given. */
OPTIONS_API void options_parse(const options_entry *table, size_t n, const char **given, int argc, char **argv);
/* Where a word stands in a list, as option would have it. */
OPTIONS_API int options_word(const char *option, const char *word, const char *words);
/* Names by a function, as a list of words. out: room for them, all at most 31 bytes long. */
OPTIONS_API const char *options_list(char *out, int n, const char *(*name)(int));

#ifdef __GNUC__
__attribute__((noreturn, OPTIONS__PRINTF(2, 3)))
#endif
OPTIONS_API void
options_fail(int status, const char *format, ...);
#ifdef __GNUC__
__attribute__((OPTIONS__PRINTF(1, 2)))
#endif
OPTIONS_API void
options_say(const char *format, ...);         /* to standard error, unless --quiet */
OPTIONS_API void *options_need(void *memory); /* fails if it is NULL */
OPTIONS_API double options_now(void);         /* seconds */
OPTIONS_API const char *options_amount(char text[32], double bytes);
OPTIONS_API void options_flush(void); /* standard output; fails if that cannot be written */
/* A file to read, or to write from its begin, which no file of options_here.model is; NULL, and options_why says why. A
   FIFO whose other end nobody opens does not hold it up for more than two seconds. */
OPTIONS_API FILE *options_open(const char *path, int write);
OPTIONS_API const char *options_why(void); /* errno as text */
/* Ctrl-C from here on: options_interrupted is 1, and reading a line ends; a second one, before that is 0 again, ends
   the program. */
OPTIONS_API void options_interrupts(void);
extern volatile sig_atomic_t options_interrupted;
/* A bar on standard error, if that is a terminal; gone at the end. begin: when it began, for the time that is left; 0:
   nobody asks. */
OPTIONS_API void options_progress(const char *what, double done, double total, const char *of, double begin);
/* Standard streams that are closed are opened, so that no file takes their place; writing to a closed pipe is an error
   of write. On Windows bytes are bytes, and the console has UTF-8. 1: standard output was closed. */
OPTIONS_API int options_streams(void);
/* In UTF-8, on Windows, too. */
OPTIONS_API char **options_arguments(int *argc, char **argv);

#ifdef __cplusplus
}
#endif
#endif /* OPTIONS_H */

#if defined OPTIONS_SHORT && !defined fail /* also where a header has included this one before */
#define fail   options_fail
#define say    options_say
#define now    options_now
#define need   options_need
#define amount options_amount
#endif

/* ================================================================================================================== */
#if defined OPTIONS_IMPLEMENTATION && !defined OPTIONS_IMPLEMENTED
#define OPTIONS_IMPLEMENTED

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#include <io.h>
#include <windows.h>
/* behind windows.h */
#include <shellapi.h>
#else
#include <dirent.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/time.h>
#endif

options_program options_here;
volatile sig_atomic_t options_interrupted;

/* ---- speaking ---------------------------------------------------------------------------------------------------- */

void options_fail(int status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fflush(stdout);
    if (options_here.bar) fprintf(stderr, "\r%78s\r", "");
    if (!options_here.mute) {
        fprintf(stderr, "%s: ", options_here.name);
        vfprintf(stderr, format, args);
        fputs(status == 2 ? " (--help shows the options)\n" : "\n", stderr);
    }
    va_end(args);
    if (options_here.end) options_here.end(status);
    exit(status);
}
void options_say(const char *format, ...) {
    va_list args;
    va_start(args, format);
    if (!options_here.quiet) vfprintf(stderr, format, args);
    va_end(args);
}
void options_flush(void) {
    if (!fflush(stdout) && !ferror(stdout)) return;
    if (options_interrupted) _exit(130); /* while a reader kept us waiting, who may still not read */
    options_fail(1, "cannot write to stdout: %s", strerror(errno));
}
const char *options_why(void) {
    return errno == ENXIO    ? "nobody is at its other end"
           : errno == EEXIST ? "it is a file of the model"
                             : strerror(errno);
}
void *options_need(void *memory) {
    if (!memory) options_fail(1, "out of memory");
    return memory;
}
const char *options_amount(char text[32], double bytes) {
    if (bytes >= 1e9) snprintf(text, 32, "%.2f GB", bytes * 1e-9);
    else if (bytes >= 1e5) snprintf(text, 32, "%.2f MB", bytes * 1e-6);
    else snprintf(text, 32, "%.0f bytes", bytes);
    return text;
}
void options_progress(const char *what, double done, double total, const char *of, double begin) {
    static double shown;
    const double t = options_now(), part = total > 0 ? done / total : 1;
    const int left = begin > 0 && done > 0 && t - begin > 1 ? (int)((t - begin) * (total - done) / done + 0.5) : -1;
    char marks[25], rest[32] = "";
    if (options_here.quiet || !isatty(2) || (t - shown < 0.1 && done < total) || (done >= total && !options_here.bar))
        return;
    shown = t, options_here.bar = done < total;
    memset(marks, ' ', 24), memset(marks, '#', (size_t)(24 * part)), marks[24] = 0;
    if (left >= 3600) snprintf(rest, sizeof rest, ", %d:%02d h left", left / 3600, left / 60 % 60);
    else if (left >= 0) snprintf(rest, sizeof rest, ", %d:%02d min left", left / 60, left % 60);
    if (options_here.bar) fprintf(stderr, "\r%-10s [%s] %3.0f %% of %s%s  ", what, marks, 100 * part, of, rest);
    else fprintf(stderr, "\r%78s\r", ""), shown = 0;
}

/* ---- the system -------------------------------------------------------------------------------------------------- */

#ifdef _WIN32

FILE *options_open(const char *path, int write) { return fopen(path, write ? "wb" : "rb"); }
int options_streams(void) {
    for (int fd = 0; fd < 3; fd++) _setmode(fd, _O_BINARY);
    SetConsoleCP(CP_UTF8), SetConsoleOutputCP(CP_UTF8);
    return 0;
}
static BOOL WINAPI options__interrupt(DWORD event) { /* on a thread of its own */
    if (event != CTRL_C_EVENT) return FALSE;
    if (options_interrupted) _exit(130);
    options_interrupted = 1;
    return TRUE;
}
void options_interrupts(void) { SetConsoleCtrlHandler(options__interrupt, TRUE); }
double options_now(void) {
    LARGE_INTEGER ticks, second;
    QueryPerformanceCounter(&ticks), QueryPerformanceFrequency(&second);
    return (double)ticks.QuadPart / (double)second.QuadPart;
}
char **options_arguments(int *argc, char **argv) {
    LPWSTR *wide = CommandLineToArgvW(GetCommandLineW(), argc);
    char **list = wide ? (char **)calloc((size_t)*argc + 1, sizeof *list) : NULL;
    for (int i = 0; list && i < *argc; i++) {
        const int n = WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, NULL, 0, NULL, NULL);
        list[i] = (char *)options_need(calloc((size_t)n + 1, 1));
        WideCharToMultiByte(CP_UTF8, 0, wide[i], -1, list[i], n, NULL, NULL);
    }
    return list ? list : argv;
}

#else

static int options__is_model(const char *name) {
    static const char *const ends[] = {".safetensors", ".safetensors.index.json", ".gguf", "config.json"};
    static const char *const begins[] = {"tokenizer", "chat_template"};
    const size_t n = strlen(name);
    int found = 0;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        found |= n >= strlen(ends[i]) && !strcmp(name + n - strlen(ends[i]), ends[i]);
    for (size_t i = 0; i < sizeof begins / sizeof *begins; i++) found |= !strncmp(name, begins[i], strlen(begins[i]));
    return found;
}
/* Is this a file of the model, by whatever name? To write over one that is mapped would end the program, too. */
static int options__of_model(const struct stat *file) {
    const char *model = options_here.model, *slash = model ? strrchr(model, '/') : NULL;
    char path[4096];
    struct stat info;
    if (!model || stat(model, &info)) return 0;
    if (info.st_dev == file->st_dev && info.st_ino == file->st_ino) return 1;
    const char *where = S_ISDIR(info.st_mode) || slash ? model : ".";
    const int n = S_ISDIR(info.st_mode) || !slash ? (int)strlen(where) : (int)(slash - model) + 1;
    if (snprintf(path, sizeof path, "%.*s", n, where) >= (int)sizeof path) return 0;
    DIR *directory = opendir(path);
    int found = 0;
    for (struct dirent *e; directory && !found && (e = readdir(directory)) != NULL;) {
        const int length = snprintf(path, sizeof path, "%.*s/%s", n, where, e->d_name);
        found = length < (int)sizeof path && options__is_model(e->d_name) && !stat(path, &info) &&
                info.st_dev == file->st_dev && info.st_ino == file->st_ino;
    }
    if (directory) closedir(directory);
    return found;
}
FILE *options_open(const char *path, int write) {
    const int flags = O_NONBLOCK | (write ? O_WRONLY | O_CREAT : O_RDONLY);
    struct stat info;
    char first;
    ssize_t got = -1;
    const int exists = !stat(path, &info), fifo = exists && S_ISFIFO(info.st_mode);
    int fd = open(path, flags, 0666), reason;
    for (int i = 0; fd < 0 && fifo && errno == ENXIO && i < 100; i++) poll(NULL, 0, 20), fd = open(path, flags, 0666);
    if (fd < 0 && !fifo && errno == ENXIO) errno = EOPNOTSUPP; /* a socket */
    if (fd < 0) return NULL;
    struct pollfd there = {fd, POLLIN, 0};
    if (fifo && !write && poll(&there, 1, 2000) == 0) got = read(fd, &first, 1); /* 0: not because it is silent */
    reason = got ? 0 : ENXIO;
    if (write && fstat(fd, &info)) reason = errno;
    else if (write && options__of_model(&info)) reason = EEXIST;
    else if (write && S_ISREG(info.st_mode) && ftruncate(fd, 0)) reason = errno;
    FILE *file = reason ? NULL : (fcntl(fd, F_SETFL, 0), fdopen(fd, write ? "wb" : "rb"));
    if (!file) {
        reason = reason ? reason : errno, close(fd);
        if (write && !exists) unlink(path); /* it was made here */
        errno = reason;
    }
    if (file && got > 0) ungetc(first, file);
    return file;
}
int options_streams(void) {
    const int closed = fcntl(1, F_GETFD) < 0;
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) exit(1);
    signal(SIGPIPE, SIG_IGN);
    return closed;
}
static void options__interrupt(int number) {
    if (options_interrupted) _exit(128 + number);
    options_interrupted = 1;
}
void options_interrupts(void) {
#ifdef SA_RESTART
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = options__interrupt; /* without SA_RESTART: reading a line ends, too */
    sigaction(SIGINT, &action, NULL);
#else
    signal(SIGINT, options__interrupt);
#endif
}
double options_now(void) {
#ifdef CLOCK_MONOTONIC /* with _DEFAULT_SOURCE, where only C99 is asked for */
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#else
    struct timeval t;
    gettimeofday(&t, NULL);
    return (double)t.tv_sec + 1e-6 * (double)t.tv_usec;
#endif
}
char **options_arguments(int *argc, char **argv) { return (void)argc, argv; }

#endif

/* ---- values ------------------------------------------------------------------------------------------------------ */

static const char *options__name(const options_entry *e) {
    const char *space = strrchr(e->name, ' ');
    return space ? space + 1 : e->name;
}
const char *options_list(char *out, int n, const char *(*name)(int)) {
    *out = 0;
    for (int i = 0; i < n; i++) strcat(strncat(out, name(i), 31), i + 1 < n ? " " : "");
    return out;
}
/* The place of the first n bytes of word, or -1. */
static int options__find(const char *word, size_t n, const char *words) {
    for (int i = 0; *words; i++) {
        const size_t length = strcspn(words, " ");
        if (length == n && !memcmp(words, word, n)) return i;
        words += length + (words[length] == ' ');
    }
    return -1;
}
static int options__word(const char *option, const char *word, size_t n, const char *words) {
    char list[512] = "";
    const int found = options__find(word, n, words);
    for (size_t used = 0; found < 0 && *words && used + 3 < sizeof list; words++)
        used += (size_t)snprintf(list + used, sizeof list - used, *words == ' ' ? ", " : "%c", *words);
    if (found < 0) options_fail(2, "%s: '%.*s' is none of %s", option, (int)(n < 99 ? n : 99), word, list);
    return found;
}
int options_word(const char *option, const char *word, const char *words) {
    return options__word(option, word, strlen(word), words);
}
static void options__pairs(const options_entry *e, const char *text) {
    for (const char *end, *equals;; text = end + 1) {
        end = text + strcspn(text, ",");
        equals = (const char *)memchr(text, '=', (size_t)(end - text));
        if (!equals) options_fail(2, "%s: '%.*s' is not CLASS=TYPE", options__name(e), (int)(end - text), text);
        const int k = options__word(options__name(e), text, (size_t)(equals - text), e->words);
        ((int *)e->to)[k] = options__word(options__name(e), equals + 1, (size_t)(end - equals) - 1, e->values);
        if (!*end) return;
    }
}
static long long options__integer(const options_entry *e, const char *text, char **end, const char *behind) {
    errno = 0;
    const long long value = strtoll(text, end, 10);
    if (!isdigit((unsigned char)text[text[0] == '-']) || !strchr(behind, **end) || *end - text > 20)
        options_fail(2, "%s: '%.40s' is not an integer", options__name(e), text);
    if (errno || (double)value < e->low || (double)value > e->high)
        options_fail(2, "%s: %.*s is not in %.0f..%.0f", options__name(e), (int)(*end - text), text, e->low, e->high);
    return value;
}
static void options__ints(const options_entry *e, const char *text) {
    static const char space[] = " \t\r\n";
    options_ints *to = (options_ints *)e->to;
    char *end;
    free(to->of);
    to->n = 0, to->of = (int *)options_need(malloc((strlen(text) / 2 + 1) * sizeof *to->of));
    for (text += strspn(text, space); *text; text = end + strspn(end, space))
        to->of[to->n++] = (int)options__integer(e, text, &end, space);
    if (!to->n) options_fail(2, "%s: nothing is given", options__name(e));
}
static double options__number(const options_entry *e, const char *text) {
    char *end;
    const double value = strtod(text, &end);
    if (isspace((unsigned char)text[0]) || end == text || *end)
        options_fail(2, "%s: '%s' is not a number", options__name(e), text);
    if (!(value >= e->low && value <= e->high))
        options_fail(2, "%s: %s is not in %g..%.0f", options__name(e), text, e->low, e->high);
    return value;
}
static double options__bytes(const options_entry *e, const char *text) {
    static const char units[] = "kMGT";
    char *end;
    double value = strtod(text, &end), unit = 1;
    const char *u = *end ? strchr(units, *end == 'K' ? 'k' : *end) : NULL;
    if (u) end++;
    for (const char *at = units; u && at <= u; at++) unit *= 1000;
    if (!isdigit((unsigned char)text[0]) || *end || !(value * unit >= e->low && value * unit < e->high))
        options_fail(2, "%s: '%s' is not a number of bytes, as 500M or 8G", options__name(e), text);
    return value * unit;
}
static uint64_t options__seed(const options_entry *e, const char *text) {
    char *end;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end || errno)
        options_fail(2, "%s: '%s' is not an integer in 0..2^64-1", options__name(e), text);
    return value;
}
static void options__set(const options_entry *e, const char *v) {
    options_texts *list = (options_texts *)e->to;
    char *end;
    if (e->kind == OPTIONS__TEXT && e->low > 0 && !*v) options_fail(2, "%s: a value is missing", options__name(e));
    if (e->kind == OPTIONS__TEXTS && !*v) options_fail(2, "%s: the text is empty", options__name(e));
    switch (e->kind) {
    case OPTIONS__FLAG: *(int *)e->to = 1; break;
    case OPTIONS__TEXT: *(const char **)e->to = v; break;
    case OPTIONS__TEXTS:
        list->of = (const char **)options_need(realloc(list->of, ((size_t)list->n + 1) * sizeof *list->of));
        list->of[list->n++] = v;
        break;
    case OPTIONS__INT: *(int *)e->to = (int)options__integer(e, v, &end, ""); break;
    case OPTIONS__INTS: options__ints(e, v); break;
    case OPTIONS__NUMBER: *(double *)e->to = options__number(e, v); break;
    case OPTIONS__SEED: *(uint64_t *)e->to = options__seed(e, v); break;
    case OPTIONS__BYTES: *(double *)e->to = options__bytes(e, v); break;
    case OPTIONS__WORD: *(int *)e->to = options_word(options__name(e), v, e->words); break;
    case OPTIONS__PAIRS: options__pairs(e, v); break;
    }
}

/* ---- arguments --------------------------------------------------------------------------------------------------- */

static void options__tell(int version) {
    if (options_here.mute) options_here.end(0), exit(0);
    if (version) printf("%s %s\n", options_here.name, options_here.version);
    else options_here.help();
    options_flush();
    if (options_here.end) options_here.end(0);
    exit(0);
}
void options_parse(const options_entry *table, size_t n, const char **given, int argc, char **argv) {
    for (size_t k = 0; given && k < n; k++) given[k] = NULL;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *equals = strncmp(a, "--", 2) ? NULL : strchr(a, '='), *v = equals ? equals + 1 : NULL;
        const size_t length = equals ? (size_t)(equals - a) : strlen(a);
        size_t k = 0;
        if (!strcmp(a, "--help") || !strcmp(a, "-h") || !strcmp(a, "--version")) options__tell(a[2] == 'v');
        if (!strcmp(a, "--quiet")) options_here.quiet = 1;
        if (!strcmp(a, "--quiet")) continue;
        while (k < n && options__find(a, length, table[k].name) < 0) k++;
        if (k == n) options_fail(2, "unknown option '%s'", a);
        const int flag = table[k].kind == OPTIONS__FLAG;
        if (v && flag) options_fail(2, "%s: takes no value", options__name(&table[k]));
        if (!flag && !v && !(v = argv[++i])) options_fail(2, "%s: a value is missing", options__name(&table[k]));
        options__set(&table[k], v);
        if (given) given[k] = flag ? options__name(&table[k]) : v;
    }
}

#endif /* OPTIONS_IMPLEMENTATION */
