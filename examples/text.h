/* text.h - bytes that grow, and what is written to them: plain, by a format, as strings of JSON, in base64.

USE
   In exactly one file:      #define TEXT_IMPLEMENTATION
                             #include "text.h"
   In all others:            #include "text.h"    (checkpoint.h and tokenizer.h must be implemented somewhere)

   text_buffer t = {NULL, 0, 0, 0};   text_put(&t, "{\"name\":"), text_quote(&t, name, n), text_put(&t, "}");
   if (!t.failed) fwrite(t.data, 1, t.n, stdout);   text_clear(&t);
   SPDX-License-Identifier: MIT */

#ifndef TEXT_H
#define TEXT_H

#include <stddef.h>

#ifndef TEXT_API
#define TEXT_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* data [n] is followed by a NUL; NULL: nothing was written. Without memory it has failed, is empty and stays so. */
typedef struct text_buffer {
    char *data;
    size_t n, room;
    int failed;
} text_buffer;

TEXT_API void text_clear(text_buffer *t);           /* as new */
TEXT_API char *text_room(text_buffer *t, size_t n); /* the end, with room for n more bytes; NULL: it has failed */
TEXT_API void text_add(text_buffer *t, const char *bytes, size_t n);
TEXT_API void text_put(text_buffer *t, const char *string);
#if defined __GNUC__ && !defined __clang__
__attribute__((format(gnu_printf, 2, 3)))
#endif
TEXT_API void
text_print(text_buffer *t, const char *format, ...); /* at most 500 bytes */
/* A string of JSON; what is no UTF-8 becomes U+FFFD. */
TEXT_API void text_quote(text_buffer *t, const char *bytes, size_t n);
TEXT_API void text_quote_string(text_buffer *t, const char *string);
TEXT_API void text_base64(text_buffer *t, const void *bytes, size_t n);

#ifdef __cplusplus
}
#endif
#endif /* TEXT_H */

/* ================================================================================================================== */
#if defined TEXT_IMPLEMENTATION && !defined TEXT_IMPLEMENTED
#define TEXT_IMPLEMENTED

#include "checkpoint.h"
#include "tokenizer.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void text_clear(text_buffer *t) {
    free(t->data);
    memset(t, 0, sizeof *t);
}

char *text_room(text_buffer *t, size_t n) {
    if (!t->failed && t->n + n + 1 > t->room) {
        const size_t room = 2 * (t->n + n) + 256;
        char *data = n < SIZE_MAX / 8 && t->n < SIZE_MAX / 8 ? (char *)realloc(t->data, room) : NULL;
        if (data) t->data = data, t->room = room;
        else text_clear(t), t->failed = 1;
    }
    return t->failed ? NULL : t->data + t->n;
}

void text_add(text_buffer *t, const char *bytes, size_t n) {
    char *end = text_room(t, n);
    if (!end) return;
    if (n) memcpy(end, bytes, n);
    t->data[t->n += n] = 0;
}

void text_put(text_buffer *t, const char *string) { text_add(t, string, strlen(string)); }

void text_print(text_buffer *t, const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    text_add(t, line, n < (int)sizeof line ? (size_t)n : sizeof line - 1);
}

void text_quote(text_buffer *t, const char *bytes, size_t n) {
    tokenizer_stream utf8;
    text_buffer clean = {NULL, 0, 0, 0};
    memset(&utf8, 0, sizeof utf8);
    char *out = text_room(&clean, 3 * (n + 4) + 12);
    size_t used = out ? tokenizer_stream_push(&utf8, bytes, n, out) : 0;
    if (out) used += tokenizer_stream_end(&utf8, out + used);
    char *end = out ? text_room(t, 6 * used + 2) : NULL;
    if (end) t->n += json_quote(end, out, used), t->data[t->n] = 0;
    else text_clear(t), t->failed = 1;
    text_clear(&clean);
}

void text_quote_string(text_buffer *t, const char *string) { text_quote(t, string, strlen(string)); }

void text_base64(text_buffer *t, const void *bytes, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *b = (const unsigned char *)bytes;
    for (size_t i = 0; i < n; i += 3) {
        const unsigned bits =
            (unsigned)b[i] << 16 | (i + 1 < n ? (unsigned)b[i + 1] << 8 : 0) | (i + 2 < n ? b[i + 2] : 0);
        const char four[4] = {digits[bits >> 18], digits[bits >> 12 & 63], i + 1 < n ? digits[bits >> 6 & 63] : '=',
                              i + 2 < n ? digits[bits & 63] : '='};
        text_add(t, four, 4);
    }
}

#endif /* TEXT_IMPLEMENTATION */
