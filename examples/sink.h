/* sink.h - what goes into a model and what comes out of it: texts from files and standard input; tokens on their way to
   standard output, as ids, or as text in whole characters and up to a stop string.

USE
   In exactly one file:      #define SINK_IMPLEMENTATION
                             #include "sink.h"
   In all others:            #include "sink.h"    (checkpoint.h, tokenizer.h, chat.h, sampler.h, text.h and
                             options.h must be implemented somewhere)

   sink out = {.tokenizer = tokenizer, .stop = stop, .print = 1};
   while (n-- && !sink_token(&out, next())) continue;
   sink_end(&out), sink_clear(&out);

ERRORS         What cannot be read or written, and memory that is not to be had, end the program by options_fail.
   SPDX-License-Identifier: MIT */

#ifndef SINK_H
#define SINK_H

#include "chat.h"
#include "checkpoint.h"
#include "options.h"
#include "sampler.h"
#include "text.h"
#include "tokenizer.h"
#include <stdio.h>

#ifndef SINK_API
#define SINK_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum sink_ending { SINK_LENGTH, SINK_EOS, SINK_STRING, SINK_INTERRUPT } sink_ending; /* why a text ended */

/* Zero-initialise. */
typedef struct sink {
    const tokenizer *tokenizer; /* NULL: ids */
    stop_scan *stop;            /* NULL: no stop strings */
    tokenizer_stream utf8;
    int print; /* as it comes; else it is kept */
    int keep;  /* also what is printed: a chat's answer, which begins a text */
    int n_tokens;
    text_buffer kept, work[2];
} sink;

SINK_API void sink_utf8(sink *s, const char *bytes, size_t n, int end);
SINK_API int sink_token(sink *s, int token); /* 1: here begins a stop string */
SINK_API void sink_end(sink *s);             /* of a text; the sink is ready for another */
SINK_API void sink_clear(sink *s);
SINK_API void sink_f32(FILE *file, const char *name, const float *values, size_t n); /* little-endian */
SINK_API void sink_json(FILE *file, const char *text, size_t n);                     /* UTF-8, in quotes */
SINK_API char *sink_room(text_buffer *b, size_t n); /* the end of b, with room for n more bytes */
SINK_API void sink_add(text_buffer *b, const char *bytes, size_t n);
/* Appends what is in a file; "-": in standard input. What has no end, such as a device, is not read for ever. */
SINK_API void sink_read(text_buffer *b, const char *path);
/* NUL-ended texts on standard input to lines of ids on standard output, and back. No special tokens are added; those in
   the text are found. */
SINK_API void sink_tokenize(const tokenizer *t);
SINK_API void sink_detokenize(const tokenizer *t);
/* The begin of a line of JSON about a run of a prompt of n tokens, of which others come; ids [made]. rate: tokens/s. */
SINK_API void sink_summary(const sink *s, size_t prompt, double prompt_seconds, const int *ids, size_t made,
                           double seconds, double rate, sink_ending end);

#ifdef __cplusplus
}
#endif
#endif /* SINK_H */

/* ================================================================================================================== */
#if defined SINK_IMPLEMENTATION && !defined SINK_IMPLEMENTED
#define SINK_IMPLEMENTED

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

char *sink_room(text_buffer *b, size_t n) { return (char *)options_need(text_room(b, n)); }
void sink_add(text_buffer *b, const char *bytes, size_t n) {
    sink_room(b, n);
    text_add(b, bytes, n);
}
void sink_read(text_buffer *b, const char *path) {
    const size_t most = (size_t)1 << 28;
    FILE *file = strcmp(path, "-") ? options_open(path, 0) : stdin;
    const char *name = file == stdin ? "standard input" : path;
    if (!file) options_fail(1, "cannot read %s: %s", path, options_why());
    for (size_t got = 1; got && b->n <= most; b->n += got) got = fread(sink_room(b, 65536), 1, 65536, file);
    if (b->n > most) options_fail(1, "%s: more than %zu MB of text", name, most >> 20);
    if (ferror(file)) options_fail(1, "cannot read %s: %s", name, strerror(errno));
    *sink_room(b, 0) = 0;
    if (file != stdin) fclose(file);
}

void sink_utf8(sink *s, const char *bytes, size_t n, int end) {
    text_buffer *b = &s->work[1];
    char *out = sink_room(b, 3 * (n + 4) + 12);
    const size_t length = end ? tokenizer_stream_end(&s->utf8, out) : tokenizer_stream_push(&s->utf8, bytes, n, out);
    if (!s->print || s->keep) sink_add(&s->kept, out, length);
    if (s->print && length) {
        fwrite(out, 1, length, stdout);
        options_flush();
    }
}

int sink_token(sink *s, int token) { /* 1: here begins a stop string */
    size_t n;
    int stopped = 0;
    if (!s->tokenizer) {
        if (s->print) printf(s->n_tokens ? " %d" : "%d", token), options_flush();
        s->n_tokens++;
        return 0;
    }
    const char *bytes = tokenizer_bytes(s->tokenizer, token, &n);
    const int thoughts =
        s->keep && bytes && ((n == 7 && !memcmp(bytes, "<think>", 7)) || (n == 8 && !memcmp(bytes, "</think>", 8)));
    if (!bytes || (tokenizer_is_special(s->tokenizer, token) && !thoughts)) return 0;
    s->n_tokens++;
    if (s->keep && s->n_tokens == 1 && n && *bytes == ' ' && tokenizer_strips_space(s->tokenizer)) bytes++, n--;
    if (s->stop) {
        char *out = sink_room(&s->work[0], stop_room(s->stop, n));
        n = stop_push(s->stop, bytes, n, out, &stopped), bytes = out;
    }
    sink_utf8(s, bytes, n, 0);
    return stopped;
}

void sink_end(sink *s) { /* of a text; the sink is ready for another */
    if (s->stop) {
        char *out = sink_room(&s->work[0], stop_room(s->stop, 0));
        sink_utf8(s, out, stop_end(s->stop, out), 0);
    }
    sink_utf8(s, "", 0, 1);
    if (s->print) putchar('\n'), options_flush();
    s->n_tokens = 0;
}

void sink_f32(FILE *file, const char *name, const float *values, size_t n) {
    unsigned char bytes[4096];
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], 4);
        for (int b = 0; b < 4; b++) bytes[used++] = (unsigned char)(bits >> (8 * b));
        if (used < sizeof bytes && i + 1 < n) continue;
        if (fwrite(bytes, 1, used, file) != used) options_fail(1, "cannot write %s: %s", name, strerror(errno));
        used = 0;
    }
}

void sink_json(FILE *file, const char *text, size_t n) { /* UTF-8, in quotes */
    text_buffer quoted = {NULL, 0, 0, 0};
    char *out = sink_room(&quoted, 6 * n + 2);
    fwrite(out, 1, json_quote(out, text, n), file);
    free(out);
}

/* What comes on standard input before the next such byte, which the last one may do without. 0: nothing more. */
static int sink__read_to(text_buffer *b, int end) {
    int c = getc(stdin);
    b->n = 0;
    if (c == EOF) return 0;
    for (; c != EOF && c != end; c = getc(stdin)) {
        const char one = (char)c;
        sink_add(b, &one, 1);
    }
    *sink_room(b, 0) = 0;
    return 1;
}

void sink_tokenize(const tokenizer *t) {
    chat_tokens ids = {NULL, 0, 0};
    mla_error error;
    text_buffer text = {NULL, 0, 0, 0};
    while (sink__read_to(&text, 0)) {
        ids.n = 0;
        if (chat_append_text(&ids, t, text.data, text.n, 0, &error)) options_fail(1, "%s", error.text);
        for (size_t i = 0; i < ids.n; i++) printf(i ? " %d" : "%d", ids.ids[i]);
        putchar('\n');
    }
    if (ferror(stdin)) options_fail(1, "cannot read standard input: %s", strerror(errno));
    options_flush();
    free(text.data), free(ids.ids);
}

void sink_detokenize(const tokenizer *t) {
    text_buffer line = {NULL, 0, 0, 0};
    size_t number_of_line = 0;
    while (sink__read_to(&line, '\n')) {
        char *at = line.data + strspn(line.data, " \t\r\n"), *end;
        int first = 1;
        number_of_line++;
        for (; at < line.data + line.n; at = end + strspn(end, " \t\r\n")) {
            size_t length;
            errno = 0;
            const long id = strtol(at, &end, 10);
            if (end == at || !strchr(" \t\r\n", *end) || (!*end && end < line.data + line.n))
                options_fail(1, "line %zu: '%.*s' is not an integer", number_of_line, (int)strcspn(at, " \t\r\n"), at);
            const char *bytes = errno || id < 0 || id > INT_MAX ? NULL : tokenizer_bytes(t, (int)id, &length);
            if (!bytes)
                options_fail(1, "line %zu: the tokenizer has no token %.*s", number_of_line, (int)(end - at), at);
            const size_t skipped = first && length && *bytes == ' ' && tokenizer_strips_space(t);
            fwrite(bytes + skipped, 1, length - skipped, stdout);
            first = 0;
        }
        putchar(0);
    }
    if (ferror(stdin)) options_fail(1, "cannot read standard input: %s", strerror(errno));
    options_flush();
    free(line.data);
}

void sink_clear(sink *s) { text_clear(&s->kept), text_clear(&s->work[0]), text_clear(&s->work[1]); }

void sink_summary(const sink *s, size_t prompt, double prompt_seconds, const int *ids, size_t made, double seconds,
                  double rate, sink_ending end) {
    static const char *const names[] = {"length", "eos", "string", "interrupt"};
    printf("{\"prompt_tokens\":%zu,\"prompt_seconds\":%.6f,\"generated_tokens\":%zu,\"generation_seconds\":%.6f,"
           "\"tokens_per_s\":%.3f,\"stop\":\"%s\",",
           prompt, prompt_seconds, made, seconds, rate, names[end]);
    if (s->tokenizer) printf("\"text\":"), sink_json(stdout, s->kept.data ? s->kept.data : "", s->kept.n);
    for (size_t i = 0; i < made && !s->tokenizer; i++) printf(i ? ",%d" : "\"tokens\":[%d", ids[i]);
    if (!s->tokenizer) printf(made ? "]" : "\"tokens\":[]");
}

#endif /* SINK_IMPLEMENTATION */
