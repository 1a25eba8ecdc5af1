/* jinja.h - the Jinja in which chat templates are written: messages, tools and a template to a prompt.

USE
   In exactly one file:      #define JINJA_IMPLEMENTATION
                             #include "jinja.h"
   In all others:            #include "jinja.h"               (after mla.h, or with mla.h on the include path)

   jinja_template *t;   jinja_data *d;   char *text;   size_t n;
   if (jinja_parse(&t, source, strlen(source), "chat_template", &error)) puts(error.text);
   if (jinja_data_create(&d, &error)) puts(error.text);
   jinja_value *all = jinja_dict(d), *messages = jinja_list(d), *m = jinja_dict(d);
   jinja_put(d, m, "role", jinja_string(d, "user", 4)), jinja_put(d, m, "content", jinja_string(d, "Hello", 5));
   jinja_append(d, messages, m), jinja_put(d, all, "messages", messages);
   if (jinja_render(t, d, all, NULL, &text, &n, &error)) puts(error.text);
   ...  free(text); jinja_data_destroy(d); jinja_free(t);

MEANS          What Python's jinja2 3.1 does as transformers sets it up: trim_blocks and lstrip_blocks, break and
               continue, {% generation %}, a tojson that escapes nothing but what JSON must, raise_exception,
               strftime_now. True, None and lists print as in Python; numbers are 64-bit integers or doubles.
KNOWS          for, if, set, macro, call, filter, with, raw, break, continue, generation; the filters, tests, methods
               and functions of the tables in >>filters >>tests >>methods >>functions.
REFUSED        What is not known (include, extends, recursive loops, other filters, ...), with line and column: names of
               statements, filters and tests when parsed, methods and functions when met.
LIMITS         Steps, bytes and depth of a rendering are limited (jinja_options), whatever the template and the values:
               nothing runs forever, or away with the memory or the stack. A template has at most 1 MiB.
LETTERS        Strings are UTF-8 and counted in characters; bytes that are no UTF-8 count one each. upper, lower, title
               and capitalize know the letters of Unicode's first plane, each by itself: of those
               that become several only the sharp s does.
VALUES         JSON is read with its members in the order of the file, in which tojson writes them.
THREADS        No globals, no printing. A template and data may be read by many threads at once; strftime_now without
               options.now calls localtime, which C libraries may not let two threads do at once.

CONTENTS       >>jinja (the API)   then >>errors >>arena >>characters >>values >>json >>lexer >>parser >>expressions
               >>statements-parser >>run >>text >>operators >>access >>calls >>evaluate >>statements >>arguments
               >>filters >>tests >>methods >>functions >>tables >>render
   SPDX-License-Identifier: MIT */

#ifndef JINJA_H
#define JINJA_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>
#ifndef MLA_H
#include "mla.h"
#endif

#ifndef JINJA_API
#define JINJA_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- >>jinja ----------------------------------------------------------------------------------------------------- */

typedef struct jinja_template jinja_template;
typedef struct jinja_data jinja_data;   /* owns values */
typedef struct jinja_value jinja_value; /* lives as long as its data */

/* A template of n bytes, which may go afterwards; label stands for its name in messages, which read
   "label:line:column: what". err may be NULL; a call that fails sets *out to NULL. Errors: ARGUMENT (a null pointer),
   CONFIG (not a template), UNSUPPORTED (a name that is not known), MEMORY. */
JINJA_API mla_result jinja_parse(jinja_template **out, const char *text, size_t n, const char *label, mla_error *err);
JINJA_API void jinja_free(jinja_template *t); /* NULL is fine */
/* Does the template mention that variable, such as "tools"? */
JINJA_API int jinja_mentions(const jinja_template *t, const char *name);

/* Values. Each call gives NULL when there is no memory, and takes NULL: only jinja_render reports it. Strings are
   copied. A value may be part of several lists and dicts of the same data; it must not contain itself. */
JINJA_API mla_result jinja_data_create(jinja_data **out, mla_error *err);
JINJA_API void jinja_data_destroy(jinja_data *d); /* NULL is fine */
JINJA_API jinja_value *jinja_none(jinja_data *d);
JINJA_API jinja_value *jinja_bool(jinja_data *d, int value);
JINJA_API jinja_value *jinja_integer(jinja_data *d, int64_t value);
JINJA_API jinja_value *jinja_string(jinja_data *d, const char *bytes, size_t n);
JINJA_API jinja_value *jinja_list(jinja_data *d);
JINJA_API jinja_value *jinja_dict(jinja_data *d);
JINJA_API void jinja_append(jinja_data *d, jinja_value *list, const jinja_value *item);
JINJA_API void jinja_put(jinja_data *d, jinja_value *dict, const char *key, const jinja_value *value); /* or replaces */

/* JSON of n bytes. Of a key that is there twice, the last value counts. At most 64 deep, and 1024 members in an object.
   Errors: CONFIG (not JSON, naming the byte), MEMORY. */
JINJA_API mla_result jinja_json(jinja_data *d, const char *text, size_t n, jinja_value **out, mla_error *err);
/* What is in a value, for those who made it: 1 if it is a list (or a dict, or a string). */
JINJA_API int jinja_is_list(const jinja_value *v);
JINJA_API int jinja_is_dict(const jinja_value *v);
JINJA_API const char *jinja_text(const jinja_value *v, size_t *n);          /* a string's; NULL: none */
JINJA_API size_t jinja_count(const jinja_value *v);                         /* of a list or dict; else 0 */
JINJA_API jinja_value *jinja_at(const jinja_value *list, size_t i);         /* NULL: no such item */
JINJA_API const char *jinja_key(const jinja_value *dict, size_t i);         /* NULL: no such member */
JINJA_API jinja_value *jinja_get(const jinja_value *dict, const char *key); /* NULL: no such member */

/* Zero: the default. */
typedef struct jinja_options {
    uint64_t steps;       /* nodes evaluated and bytes moved: 400 million, some seconds */
    size_t bytes;         /* of memory for the rendering: 256 MiB */
    int depth;            /* of nested statements, expressions, calls and values: 400 */
    const struct tm *now; /* for strftime_now; NULL: the clock's */
} jinja_options;

/* The text [*n bytes, and a NUL] that a template makes of variables (a dict), to be freed by free(). options and err
   may be NULL. Errors: ARGUMENT, CONFIG (what raise_exception says, or an operation that the values do not allow),
   UNSUPPORTED (a method or function that is not known), FULL (a limit), MEMORY. */
JINJA_API mla_result jinja_render(const jinja_template *t, const jinja_data *d, const jinja_value *variables,
                                  const jinja_options *options, char **out, size_t *n, mla_error *err);

#ifdef __cplusplus
}
#endif
#endif /* JINJA_H */

/* ================================================================================================================== */
#if defined JINJA_IMPLEMENTATION && !defined JINJA_IMPLEMENTED
#define JINJA_IMPLEMENTED

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JINJA__TEMPLATE = 1 << 20, JINJA__NESTING = 64, JINJA__MEMBERS = 1024, JINJA__RANGE = 100000 };

/* ---- >>errors ---------------------------------------------------------------------------------------------------- */

static mla_result jinja__report(mla_error *err, mla_result code, const char *format, va_list args) {
    if (err) {
        vsnprintf(err->text, sizeof err->text, format, args);
        err->code = code, err->sequence = -1;
        for (char *c = err->text; *c; c++) /* what a template says must not break the line or drive a terminal */
            if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = *c == '\n' ? ' ' : '?';
    }
    return code;
}

#if defined __GNUC__ && !defined __clang__
__attribute__((format(gnu_printf, 3, 4)))
#endif
static mla_result
jinja__error(mla_error *err, mla_result code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    jinja__report(err, code, format, args);
    va_end(args);
    return code;
}

/* ---- >>arena ----------------------------------------------------------------------------------------------------- */
/* Memory that is freed all at once. The last string that was made can grow where it lies (open), so that a text to
   which a template adds again and again is not copied each time. */

typedef struct jinja__chunk {
    struct jinja__chunk *next;
    size_t used, size;
    double align; /* what follows is aligned for any value */
} jinja__chunk;

typedef struct jinja__arena {
    jinja__chunk *chunks;
    size_t bytes, most;
    int failed; /* malloc gave nothing */
    char *open; /* the end of the last string; NULL: something else came last */
} jinja__arena;

static void *jinja__alloc(jinja__arena *a, size_t n) { /* NULL: no memory, or the limit */
    jinja__chunk *c = a->chunks;
    a->open = NULL;
    if (n > SIZE_MAX / 8) return NULL;
    n = (n + 15) & ~(size_t)15;
    if (!c || c->size - c->used < n) {
        const size_t size = n < 16384 ? 32768 : 2 * n;
        if (size > a->most || a->bytes > a->most - size) return NULL;
        c = (jinja__chunk *)malloc(sizeof *c + size);
        if (!c) return a->failed = 1, NULL;
        c->next = a->chunks, c->used = 0, c->size = size;
        a->chunks = c, a->bytes += size;
    }
    void *memory = (char *)(c + 1) + c->used;
    c->used += n;
    return memory;
}

static char *jinja__string_room(jinja__arena *a, size_t n) {
    char *memory = (char *)jinja__alloc(a, n + 1);
    if (memory) memory[n] = 0, a->open = memory + n;
    return memory;
}

/* Room for more bytes behind the string that ends at end, if that is the last one. */
static int jinja__grow(jinja__arena *a, const char *end, size_t more) {
    jinja__chunk *c = a->chunks;
    if (!c || !end || end != a->open || more > SIZE_MAX / 8) return 0;
    const size_t used = ((size_t)(end - (char *)(c + 1)) + more + 16) & ~(size_t)15;
    if (used > c->size) return 0;
    c->used = used, a->open += more;
    *a->open = 0;
    return 1;
}

static void jinja__release(jinja__arena *a) {
    for (jinja__chunk *c = a->chunks, *next; c; c = next) next = c->next, free(c);
    a->chunks = NULL;
}

/* Room for one more of n items of some size in an array of the arena; NULL: no memory. */
static void *jinja__more(jinja__arena *a, void *items, size_t n, size_t *capacity, size_t size) {
    if (n < *capacity) return items;
    const size_t bigger = *capacity ? 2 * *capacity : 4;
    void *memory = bigger < SIZE_MAX / 64 / size ? jinja__alloc(a, bigger * size) : NULL;
    if (memory && n) memcpy(memory, items, n * size);
    if (memory) *capacity = bigger;
    return memory;
}

/* ---- >>characters ------------------------------------------------------------------------------------------------ */

/* The bytes of the first character of s [n > 0], which is *c; a byte that begins no UTF-8 is one, U+FFFD. */
static size_t jinja__char(const char *s, size_t n, uint32_t *c) {
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    const unsigned char *u = (const unsigned char *)s;
    const size_t length = u[0] < 0x80 ? 1 : u[0] < 0xC2 ? 0 : u[0] < 0xE0 ? 2 : u[0] < 0xF0 ? 3 : u[0] < 0xF5 ? 4 : 0;
    *c = 0xFFFD;
    if (length == 0 || length > n) return 1;
    uint32_t code = length == 1 ? u[0] : u[0] & (0xFFu >> (length + 1));
    for (size_t i = 1; i < length; i++) {
        if ((u[i] & 0xC0) != 0x80) return 1;
        code = code << 6 | (u[i] & 0x3Fu);
    }
    if (code < least[length] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) return 1;
    *c = code;
    return length;
}

static size_t jinja__utf8(uint32_t c, char out[4]) {
    const size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned lead[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n; i-- > 1; c >>= 6) out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)(lead[n] | c);
    return n;
}

static int jinja__is_space(uint32_t c) { /* Python's */
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* Letters with two cases that are no ASCII, as in Unicode 14: from first to last upper + shift = lower, in 16 bits; or,
   shift 1, every other one is upper. Behind them those that go one way alone: to lower, as the capital sharp s, and to
   upper. */
typedef struct jinja__letters {
    uint16_t first, last, shift;
} jinja__letters;
static const jinja__letters jinja__cases[] = {
    {0xC0, 0xD6, 32},         {0xD8, 0xDE, 32},         {0x100, 0x12F, 1},        {0x132, 0x137, 1},
    {0x139, 0x148, 1},        {0x14A, 0x177, 1},        {0x178, 0x178, 0xFF87},   {0x179, 0x17E, 1},
    {0x181, 0x181, 210},      {0x182, 0x185, 1},        {0x186, 0x186, 206},      {0x187, 0x188, 1},
    {0x189, 0x18A, 205},      {0x18B, 0x18C, 1},        {0x18E, 0x18E, 79},       {0x18F, 0x18F, 202},
    {0x190, 0x190, 203},      {0x191, 0x192, 1},        {0x193, 0x193, 205},      {0x194, 0x194, 207},
    {0x196, 0x196, 211},      {0x197, 0x197, 209},      {0x198, 0x199, 1},        {0x19C, 0x19C, 211},
    {0x19D, 0x19D, 213},      {0x19F, 0x19F, 214},      {0x1A0, 0x1A5, 1},        {0x1A6, 0x1A6, 218},
    {0x1A7, 0x1A8, 1},        {0x1A9, 0x1A9, 218},      {0x1AC, 0x1AD, 1},        {0x1AE, 0x1AE, 218},
    {0x1AF, 0x1B0, 1},        {0x1B1, 0x1B2, 217},      {0x1B3, 0x1B6, 1},        {0x1B7, 0x1B7, 219},
    {0x1B8, 0x1B9, 1},        {0x1BC, 0x1BD, 1},        {0x1C4, 0x1C4, 2},        {0x1C7, 0x1C7, 2},
    {0x1CA, 0x1CA, 2},        {0x1CD, 0x1DC, 1},        {0x1DE, 0x1EF, 1},        {0x1F1, 0x1F1, 2},
    {0x1F4, 0x1F5, 1},        {0x1F6, 0x1F6, 0xFF9F},   {0x1F7, 0x1F7, 0xFFC8},   {0x1F8, 0x21F, 1},
    {0x220, 0x220, 0xFF7E},   {0x222, 0x233, 1},        {0x23A, 0x23A, 0x2A2B},   {0x23B, 0x23C, 1},
    {0x23D, 0x23D, 0xFF5D},   {0x23E, 0x23E, 0x2A28},   {0x241, 0x242, 1},        {0x243, 0x243, 0xFF3D},
    {0x244, 0x244, 69},       {0x245, 0x245, 71},       {0x246, 0x24F, 1},        {0x370, 0x373, 1},
    {0x376, 0x377, 1},        {0x37F, 0x37F, 116},      {0x386, 0x386, 38},       {0x388, 0x38A, 37},
    {0x38C, 0x38C, 64},       {0x38E, 0x38F, 63},       {0x391, 0x3A1, 32},       {0x3A3, 0x3AB, 32},
    {0x3CF, 0x3CF, 8},        {0x3D8, 0x3EF, 1},        {0x3F7, 0x3F8, 1},        {0x3F9, 0x3F9, 0xFFF9},
    {0x3FA, 0x3FB, 1},        {0x3FD, 0x3FF, 0xFF7E},   {0x400, 0x40F, 80},       {0x410, 0x42F, 32},
    {0x460, 0x481, 1},        {0x48A, 0x4BF, 1},        {0x4C0, 0x4C0, 15},       {0x4C1, 0x4CE, 1},
    {0x4D0, 0x52F, 1},        {0x531, 0x556, 48},       {0x10A0, 0x10C5, 0x1C60}, {0x10C7, 0x10C7, 0x1C60},
    {0x10CD, 0x10CD, 0x1C60}, {0x13A0, 0x13EF, 0x97D0}, {0x13F0, 0x13F5, 8},      {0x1C90, 0x1CBA, 0xF440},
    {0x1CBD, 0x1CBF, 0xF440}, {0x1E00, 0x1E95, 1},      {0x1EA0, 0x1EFF, 1},      {0x1F08, 0x1F0F, 0xFFF8},
    {0x1F18, 0x1F1D, 0xFFF8}, {0x1F28, 0x1F2F, 0xFFF8}, {0x1F38, 0x1F3F, 0xFFF8}, {0x1F48, 0x1F4D, 0xFFF8},
    {0x1F59, 0x1F59, 0xFFF8}, {0x1F5B, 0x1F5B, 0xFFF8}, {0x1F5D, 0x1F5D, 0xFFF8}, {0x1F5F, 0x1F5F, 0xFFF8},
    {0x1F68, 0x1F6F, 0xFFF8}, {0x1FB8, 0x1FB9, 0xFFF8}, {0x1FBA, 0x1FBB, 0xFFB6}, {0x1FC8, 0x1FCB, 0xFFAA},
    {0x1FD8, 0x1FD9, 0xFFF8}, {0x1FDA, 0x1FDB, 0xFF9C}, {0x1FE8, 0x1FE9, 0xFFF8}, {0x1FEA, 0x1FEB, 0xFF90},
    {0x1FEC, 0x1FEC, 0xFFF9}, {0x1FF8, 0x1FF9, 0xFF80}, {0x1FFA, 0x1FFB, 0xFF82}, {0x2132, 0x2132, 28},
    {0x2160, 0x216F, 16},     {0x2183, 0x2184, 1},      {0x24B6, 0x24CF, 26},     {0x2C00, 0x2C2F, 48},
    {0x2C60, 0x2C61, 1},      {0x2C62, 0x2C62, 0xD609}, {0x2C63, 0x2C63, 0xF11A}, {0x2C64, 0x2C64, 0xD619},
    {0x2C67, 0x2C6C, 1},      {0x2C6D, 0x2C6D, 0xD5E4}, {0x2C6E, 0x2C6E, 0xD603}, {0x2C6F, 0x2C6F, 0xD5E1},
    {0x2C70, 0x2C70, 0xD5E2}, {0x2C72, 0x2C73, 1},      {0x2C75, 0x2C76, 1},      {0x2C7E, 0x2C7F, 0xD5C1},
    {0x2C80, 0x2CE3, 1},      {0x2CEB, 0x2CEE, 1},      {0x2CF2, 0x2CF3, 1},      {0xA640, 0xA66D, 1},
    {0xA680, 0xA69B, 1},      {0xA722, 0xA72F, 1},      {0xA732, 0xA76F, 1},      {0xA779, 0xA77C, 1},
    {0xA77D, 0xA77D, 0x75FC}, {0xA77E, 0xA787, 1},      {0xA78B, 0xA78C, 1},      {0xA78D, 0xA78D, 0x5AD8},
    {0xA790, 0xA793, 1},      {0xA796, 0xA7A9, 1},      {0xA7AA, 0xA7AA, 0x5ABC}, {0xA7AB, 0xA7AB, 0x5AB1},
    {0xA7AC, 0xA7AC, 0x5AB5}, {0xA7AD, 0xA7AD, 0x5ABF}, {0xA7AE, 0xA7AE, 0x5ABC}, {0xA7B0, 0xA7B0, 0x5AEE},
    {0xA7B1, 0xA7B1, 0x5AD6}, {0xA7B2, 0xA7B2, 0x5AEB}, {0xA7B3, 0xA7B3, 928},    {0xA7B4, 0xA7C3, 1},
    {0xA7C4, 0xA7C4, 0xFFD0}, {0xA7C5, 0xA7C5, 0x5ABD}, {0xA7C6, 0xA7C6, 0x75C8}, {0xA7C7, 0xA7CA, 1},
    {0xA7D0, 0xA7D1, 1},      {0xA7D6, 0xA7D9, 1},      {0xA7F5, 0xA7F6, 1},      {0xFF21, 0xFF3A, 32}};
static const jinja__letters jinja__lowers[] = {
    {0x1C5, 0x1C5, 1},        {0x1C8, 0x1C8, 1},        {0x1CB, 0x1CB, 1},        {0x1F2, 0x1F2, 1},
    {0x3F4, 0x3F4, 0xFFC4},   {0x1E9E, 0x1E9E, 0xE241}, {0x1F88, 0x1F8F, 0xFFF8}, {0x1F98, 0x1F9F, 0xFFF8},
    {0x1FA8, 0x1FAF, 0xFFF8}, {0x1FBC, 0x1FBC, 0xFFF7}, {0x1FCC, 0x1FCC, 0xFFF7}, {0x1FFC, 0x1FFC, 0xFFF7},
    {0x2126, 0x2126, 0xE2A3}, {0x212A, 0x212A, 0xDF41}, {0x212B, 0x212B, 0xDFBA}};
static const jinja__letters jinja__uppers[] = {
    {0xB5, 0xB5, 743},        {0x131, 0x131, 0xFF18},   {0x17F, 0x17F, 0xFED4},   {0x1C5, 0x1C5, 0xFFFF},
    {0x1C8, 0x1C8, 0xFFFF},   {0x1CB, 0x1CB, 0xFFFF},   {0x1F2, 0x1F2, 0xFFFF},   {0x345, 0x345, 84},
    {0x3C2, 0x3C2, 0xFFE1},   {0x3D0, 0x3D0, 0xFFC2},   {0x3D1, 0x3D1, 0xFFC7},   {0x3D5, 0x3D5, 0xFFD1},
    {0x3D6, 0x3D6, 0xFFCA},   {0x3F0, 0x3F0, 0xFFAA},   {0x3F1, 0x3F1, 0xFFB0},   {0x3F5, 0x3F5, 0xFFA0},
    {0x1C80, 0x1C80, 0xE792}, {0x1C81, 0x1C81, 0xE793}, {0x1C82, 0x1C82, 0xE79C}, {0x1C83, 0x1C84, 0xE79E},
    {0x1C85, 0x1C85, 0xE79D}, {0x1C86, 0x1C86, 0xE7A4}, {0x1C87, 0x1C87, 0xE7DB}, {0x1C88, 0x1C88, 0x89C2},
    {0x1E9B, 0x1E9B, 0xFFC5}, {0x1FBE, 0x1FBE, 0xE3DB}};

/* c in the other case; c itself if it has none. upper: what it shall be. */
static uint32_t jinja__case(uint32_t c, int upper) {
    if (c < 0x80) return c >= (upper ? 'a' : 'A') && c <= (upper ? 'z' : 'Z') ? c ^ 32 : c;
    const jinja__letters *one = upper ? jinja__uppers : jinja__lowers;
    const size_t n = upper ? sizeof jinja__uppers / sizeof *one : sizeof jinja__lowers / sizeof *one;
    for (size_t i = 0; i < sizeof jinja__cases / sizeof *jinja__cases && c <= 0xFFFF; i++) {
        const jinja__letters *l = &jinja__cases[i];
        const uint32_t from = upper && l->shift != 1 ? (c - l->shift) & 0xFFFF : c;
        if (from < l->first || from > l->last) continue;
        if (l->shift != 1) return upper ? from : (c + l->shift) & 0xFFFF;
        const int is_upper = ((c - l->first) & 1) == 0;
        return is_upper == upper ? c : is_upper ? c + 1 : c - 1;
    }
    for (size_t i = 0; i < n; i++)
        if (c >= one[i].first && c <= one[i].last) return (c + one[i].shift) & 0xFFFF;
    return c;
}

static int jinja__is_upper(uint32_t c) { return jinja__case(c, 0) != c; }
static int jinja__is_lower(uint32_t c) { return jinja__case(c, 1) != c || c == 0xDF; }

static const char *jinja__find(const char *s, size_t n, const char *what, size_t length) { /* NULL: not there */
    if (length == 0) return s;
    for (const char *at = s, *end = s + n; (size_t)(end - at) >= length; at++) {
        at = (const char *)memchr(at, what[0], (size_t)(end - at) - length + 1);
        if (!at || !memcmp(at, what, length)) return at;
    }
    return NULL;
}

static size_t jinja__length(const char *s, size_t n) { /* characters */
    size_t count = 0;
    uint32_t c;
    for (size_t at = 0; at < n; count++) at += jinja__char(s + at, n - at, &c);
    return count;
}

/* s [n] without spaces, or characters out of set [of], at its ends. */
static void jinja__strip(const char **s, size_t *n, const char *set, size_t of, int left, int right) {
    uint32_t c, d;
    while (left && *n) {
        const size_t length = jinja__char(*s, *n, &c);
        if (set ? !jinja__find(set, of, *s, length) : !jinja__is_space(c)) break;
        *s += length, *n -= length;
    }
    while (right && *n) {
        size_t begin = *n - 1;
        while (begin > 0 && *n - begin < 4 && ((unsigned char)(*s)[begin] & 0xC0) == 0x80) begin--;
        if (begin + jinja__char(*s + begin, *n - begin, &d) != *n) begin = *n - 1, d = 0xFFFD;
        if (set ? !jinja__find(set, of, *s + begin, *n - begin) : !jinja__is_space(d)) break;
        *n = begin;
    }
}

/* ---- >>values ---------------------------------------------------------------------------------------------------- */

typedef enum jinja__type {
    JINJA__UNDEFINED = 0,
    JINJA__NONE,
    JINJA__BOOL,
    JINJA__INTEGER,
    JINJA__FLOAT,
    JINJA__STRING,
    JINJA__LIST,
    JINJA__TUPLE,
    JINJA__DICT,
    JINJA__NAMESPACE,
    JINJA__LOOP,
    JINJA__FUNCTION,
    JINJA__TYPES
} jinja__type;

typedef struct jinja__list jinja__list;
typedef struct jinja__dict jinja__dict;
typedef struct jinja__loop jinja__loop;
typedef struct jinja__function jinja__function;

struct jinja_value {
    jinja__type type;
    size_t n; /* of a string: bytes */
    union {
        int64_t integer; /* also of a bool */
        double real;
        const char *text;
        jinja__list *list; /* also of a tuple */
        jinja__dict *dict; /* also of a namespace */
        jinja__loop *loop;
        jinja__function *function;
    } u;
};

struct jinja__list {
    jinja_value *items;
    size_t n, capacity;
    const jinja__arena *owner; /* a template changes only lists that it has made */
};

typedef struct jinja__member {
    const char *key;
    size_t n;
    int taken; /* of named arguments: someone has asked for it */
    jinja_value value;
} jinja__member;

struct jinja__dict {
    jinja__member *items;
    size_t n, capacity;
};

struct jinja_data {
    jinja__arena arena;
    int failed; /* out of memory */
};

static const char *jinja__type_name(const jinja_value *v) {
    static const char *const names[JINJA__TYPES] = {"something undefined",
                                                    "None",
                                                    "a bool",
                                                    "an integer",
                                                    "a float",
                                                    "a string",
                                                    "a list",
                                                    "a tuple",
                                                    "a dict",
                                                    "a namespace",
                                                    "a loop",
                                                    "a function"};
    return names[v->type];
}

static jinja_value jinja__make(jinja__type type) {
    jinja_value v;
    memset(&v, 0, sizeof v);
    v.type = type;
    return v;
}
static jinja_value jinja__make_int(int64_t integer) {
    jinja_value v = jinja__make(JINJA__INTEGER);
    v.u.integer = integer;
    return v;
}
static jinja_value jinja__make_bool(int yes) {
    jinja_value v = jinja__make(JINJA__BOOL);
    v.u.integer = yes != 0;
    return v;
}
static jinja_value jinja__make_real(double real) {
    jinja_value v = jinja__make(JINJA__FLOAT);
    v.u.real = real;
    return v;
}
static jinja_value jinja__make_text(const char *text, size_t n) { /* not copied */
    jinja_value v = jinja__make(JINJA__STRING);
    v.u.text = text, v.n = n;
    return v;
}

static int jinja__is_sequence(const jinja_value *v) { return v->type == JINJA__LIST || v->type == JINJA__TUPLE; }

static int jinja__list_add(jinja__arena *a, jinja__list *l, jinja_value v) {
    jinja_value *items = (jinja_value *)jinja__more(a, l->items, l->n, &l->capacity, sizeof v);
    if (!items) return 0;
    l->items = items, l->items[l->n++] = v;
    return 1;
}

static jinja__member *jinja__dict_find(const jinja__dict *d, const char *key, size_t n) {
    for (size_t i = 0; i < d->n; i++)
        if (d->items[i].n == n && !memcmp(d->items[i].key, key, n)) return &d->items[i];
    return NULL;
}

static int jinja__dict_put(jinja__arena *a, jinja__dict *d, const char *key, size_t n, jinja_value v) {
    jinja__member *m = jinja__dict_find(d, key, n);
    if (!m) {
        jinja__member *items = (jinja__member *)jinja__more(a, d->items, d->n, &d->capacity, sizeof *m);
        if (!items) return 0;
        d->items = items, m = &items[d->n++];
        m->key = key, m->n = n, m->taken = 0;
    }
    m->value = v;
    return 1;
}

static jinja_value jinja__make_list(jinja__arena *a, jinja__type type) { /* UNDEFINED: no memory */
    jinja_value v = jinja__make(type);
    v.u.list = (jinja__list *)jinja__alloc(a, sizeof *v.u.list);
    if (!v.u.list) return jinja__make(JINJA__UNDEFINED);
    memset(v.u.list, 0, sizeof *v.u.list);
    v.u.list->owner = a;
    return v;
}
static jinja_value jinja__make_dict(jinja__arena *a, jinja__type type) {
    jinja_value v = jinja__make(type);
    v.u.dict = (jinja__dict *)jinja__alloc(a, sizeof *v.u.dict);
    if (!v.u.dict) return jinja__make(JINJA__UNDEFINED);
    memset(v.u.dict, 0, sizeof *v.u.dict);
    return v;
}

mla_result jinja_data_create(jinja_data **out, mla_error *err) {
    if (!out) return jinja__error(err, MLA_ERR_ARGUMENT, "jinja_data_create: out is NULL");
    *out = (jinja_data *)calloc(1, sizeof **out);
    if (!*out) return jinja__error(err, MLA_ERR_MEMORY, "no memory for the template's values");
    (*out)->arena.most = SIZE_MAX / 4;
    return MLA_OK;
}

void jinja_data_destroy(jinja_data *d) {
    if (d) jinja__release(&d->arena);
    free(d);
}

static jinja_value *jinja__keep(jinja_data *d, jinja_value v) {
    jinja_value *kept = (jinja_value *)jinja__alloc(&d->arena, sizeof v);
    if (kept) *kept = v;
    d->failed |= !kept;
    return kept;
}

jinja_value *jinja_none(jinja_data *d) { return jinja__keep(d, jinja__make(JINJA__NONE)); }
jinja_value *jinja_bool(jinja_data *d, int value) { return jinja__keep(d, jinja__make_bool(value)); }
jinja_value *jinja_integer(jinja_data *d, int64_t value) { return jinja__keep(d, jinja__make_int(value)); }

jinja_value *jinja_string(jinja_data *d, const char *bytes, size_t n) {
    char *copy = jinja__string_room(&d->arena, n);
    d->failed |= !copy;
    if (copy && n) memcpy(copy, bytes, n);
    return copy ? jinja__keep(d, jinja__make_text(copy, n)) : NULL;
}

jinja_value *jinja_list(jinja_data *d) {
    const jinja_value v = jinja__make_list(&d->arena, JINJA__LIST);
    d->failed |= v.type != JINJA__LIST;
    return v.type == JINJA__LIST ? jinja__keep(d, v) : NULL;
}

jinja_value *jinja_dict(jinja_data *d) {
    const jinja_value v = jinja__make_dict(&d->arena, JINJA__DICT);
    d->failed |= v.type != JINJA__DICT;
    return v.type == JINJA__DICT ? jinja__keep(d, v) : NULL;
}

void jinja_append(jinja_data *d, jinja_value *list, const jinja_value *item) {
    if (!list || !item || list->type != JINJA__LIST || !jinja__list_add(&d->arena, list->u.list, *item)) d->failed = 1;
}

void jinja_put(jinja_data *d, jinja_value *dict, const char *key, const jinja_value *value) {
    const size_t n = strlen(key);
    char *copy = dict && value && dict->type == JINJA__DICT ? jinja__string_room(&d->arena, n) : NULL;
    if (copy) memcpy(copy, key, n);
    if (!copy || !jinja__dict_put(&d->arena, dict->u.dict, copy, n, *value)) d->failed = 1;
}

int jinja_is_list(const jinja_value *v) { return v && v->type == JINJA__LIST; }
int jinja_is_dict(const jinja_value *v) { return v && v->type == JINJA__DICT; }

const char *jinja_text(const jinja_value *v, size_t *n) {
    if (!v || v->type != JINJA__STRING) return NULL;
    if (n) *n = v->n;
    return v->u.text;
}

size_t jinja_count(const jinja_value *v) {
    return jinja_is_list(v) ? v->u.list->n : jinja_is_dict(v) ? v->u.dict->n : 0;
}

jinja_value *jinja_at(const jinja_value *list, size_t i) {
    return jinja_is_list(list) && i < list->u.list->n ? &list->u.list->items[i] : NULL;
}

const char *jinja_key(const jinja_value *dict, size_t i) {
    return jinja_is_dict(dict) && i < dict->u.dict->n ? dict->u.dict->items[i].key : NULL;
}

jinja_value *jinja_get(const jinja_value *dict, const char *key) {
    jinja__member *m = jinja_is_dict(dict) ? jinja__dict_find(dict->u.dict, key, strlen(key)) : NULL;
    return m ? &m->value : NULL;
}

/* ---- >>json ------------------------------------------------------------------------------------------------------ */
/* A reader of its own, because json_* of checkpoint.h gives members in order of key. */

typedef struct jinja__reader {
    jinja__arena *arena;
    const char *text;
    size_t n, at;
    const char *wrong; /* NULL: nothing yet */
} jinja__reader;

static int jinja__json_value(jinja__reader *r, int depth, jinja_value *out);

static int jinja__json_fail(jinja__reader *r, const char *what) {
    if (!r->wrong) r->wrong = what;
    return 0;
}

static int jinja__json_next(jinja__reader *r) { /* the next byte that is no space; -1: the end */
    while (r->at < r->n && strchr(" \t\r\n", r->text[r->at]) && r->text[r->at]) r->at++;
    return r->at < r->n ? (unsigned char)r->text[r->at] : -1;
}

static int jinja__hex(const char *s, size_t n, size_t digits, uint32_t *out) {
    *out = 0;
    if (n < digits) return 0;
    for (size_t i = 0; i < digits; i++) {
        const int c = (unsigned char)s[i];
        if (!isxdigit(c)) return 0;
        *out = *out * 16 + (uint32_t)(isdigit(c) ? c - '0' : (c | 32) - 'a' + 10);
    }
    return 1;
}

/* The character of \uXXXX at s, which is behind the u: two of them if they are surrogates. Gives the bytes read, 0: not
   hexadecimal. */
static size_t jinja__unicode(const char *s, size_t n, uint32_t *c) {
    uint32_t low;
    if (!jinja__hex(s, n, 4, c)) return 0;
    if (*c < 0xD800 || *c > 0xDFFF) return 4;
    if (*c < 0xDC00 && n >= 10 && s[4] == '\\' && s[5] == 'u' && jinja__hex(s + 6, n - 6, 4, &low) && low >= 0xDC00 &&
        low <= 0xDFFF) {
        *c = 0x10000 + ((*c - 0xD800) << 10) + (low - 0xDC00);
        return 10;
    }
    *c = 0xFFFD;
    return 4;
}

static int jinja__json_string(jinja__reader *r, const char **text, size_t *length) {
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const size_t begin = ++r->at;
    size_t end = begin, n = 0;
    uint32_t c;
    while (end < r->n && r->text[end] != '"') end += r->text[end] == '\\' ? 2 : 1;
    if (end >= r->n) return jinja__json_fail(r, "a string does not end");
    char *out = jinja__string_room(r->arena, end - begin);
    if (!out) return 0;
    while (r->at < end) {
        const char *s = r->text + r->at;
        if ((unsigned char)*s < 0x20) return jinja__json_fail(r, "a control character in a string");
        if (*s != '\\') {
            const size_t bytes = jinja__char(s, end - r->at, &c);
            if (c == 0xFFFD && bytes == 1) return jinja__json_fail(r, "bytes that are no UTF-8");
            memcpy(out + n, s, bytes);
            n += bytes, r->at += bytes;
            continue;
        }
        const char *known = s[1] ? strchr(from, s[1]) : NULL;
        const size_t read = s[1] == 'u' ? jinja__unicode(s + 2, end - r->at - 2, &c) : 0;
        if (known) out[n++] = to[known - from], r->at += 2;
        else if (read) n += jinja__utf8(c, out + n), r->at += 2 + read;
        else return jinja__json_fail(r, "an unknown escape in a string");
    }
    r->at = end + 1, out[n] = 0;
    *text = out, *length = n;
    return 1;
}

static int jinja__json_number(jinja__reader *r, jinja_value *out) {
    char digits[64];
    size_t n = 0, at = r->at;
    while (at < r->n && strchr("+-.0123456789eE", r->text[at]) && r->text[at] && n + 1 < sizeof digits)
        digits[n++] = r->text[at++];
    digits[n] = 0;
    const char *p = digits + (digits[0] == '-');
    const int whole = p[strspn(p, "0123456789")] == 0;
    char *end;
    if (!isdigit((unsigned char)*p) || (*p == '0' && isdigit((unsigned char)p[1])))
        return jinja__json_fail(r, "not a value");
    errno = 0;
    if (whole) *out = jinja__make_int(strtoll(digits, &end, 10));
    else *out = jinja__make_real(strtod(digits, &end));
    if (*end || !isdigit((unsigned char)end[-1]) || strstr(digits, ".e") || strstr(digits, ".E"))
        return jinja__json_fail(r, "not a number");
    if (whole ? errno != 0 : !(fabs(out->u.real) < HUGE_VAL))
        return jinja__json_fail(r, "a number that needs more than 64 bits");
    r->at = at;
    return 1;
}

static int jinja__json_members(jinja__reader *r, int depth, jinja_value *out) {
    *out = jinja__make_dict(r->arena, JINJA__DICT);
    if (out->type != JINJA__DICT) return 0;
    r->at++;
    if (jinja__json_next(r) == '}') return r->at++, 1;
    for (;;) {
        const char *key;
        size_t n;
        jinja_value v;
        if (jinja__json_next(r) != '"') return jinja__json_fail(r, "a key is missing");
        if (!jinja__json_string(r, &key, &n)) return 0;
        if (jinja__json_next(r) != ':') return jinja__json_fail(r, "a colon is missing");
        r->at++;
        if (!jinja__json_value(r, depth + 1, &v)) return 0;
        if (out->u.dict->n >= JINJA__MEMBERS) return jinja__json_fail(r, "an object has more than 1024 members");
        if (!jinja__dict_put(r->arena, out->u.dict, key, n, v)) return 0;
        const int next = jinja__json_next(r);
        if (next != ',' && next != '}') return jinja__json_fail(r, "a comma is missing");
        r->at++;
        if (next == '}') return 1;
    }
}

static int jinja__json_items(jinja__reader *r, int depth, jinja_value *out) {
    *out = jinja__make_list(r->arena, JINJA__LIST);
    if (out->type != JINJA__LIST) return 0;
    r->at++;
    if (jinja__json_next(r) == ']') return r->at++, 1;
    for (;;) {
        jinja_value v;
        if (!jinja__json_value(r, depth + 1, &v) || !jinja__list_add(r->arena, out->u.list, v)) return 0;
        const int next = jinja__json_next(r);
        if (next != ',' && next != ']') return jinja__json_fail(r, "a comma is missing");
        r->at++;
        if (next == ']') return 1;
    }
}

static int jinja__json_value(jinja__reader *r, int depth, jinja_value *out) {
    static const struct {
        const char *word;
        jinja__type type;
        int64_t integer;
    } words[] = {{"null", JINJA__NONE, 0}, {"true", JINJA__BOOL, 1}, {"false", JINJA__BOOL, 0}};
    const int c = jinja__json_next(r);
    if (depth > JINJA__NESTING) return jinja__json_fail(r, "nested too deeply");
    if (c == '{') return jinja__json_members(r, depth, out);
    if (c == '[') return jinja__json_items(r, depth, out);
    if (c == '"') {
        *out = jinja__make(JINJA__STRING);
        return jinja__json_string(r, &out->u.text, &out->n);
    }
    for (int i = 0; i < 3; i++) {
        const size_t n = strlen(words[i].word);
        if (r->n - r->at < n || memcmp(r->text + r->at, words[i].word, n)) continue;
        *out = jinja__make(words[i].type);
        out->u.integer = words[i].integer;
        r->at += n;
        return 1;
    }
    return jinja__json_number(r, out);
}

mla_result jinja_json(jinja_data *d, const char *text, size_t n, jinja_value **out, mla_error *err) {
    jinja__reader r;
    jinja_value v;
    if (!d || !text || !out) return jinja__error(err, MLA_ERR_ARGUMENT, "jinja_json: a null pointer");
    memset(&r, 0, sizeof r);
    r.arena = &d->arena, r.text = text, r.n = n;
    *out = NULL;
    const int read = jinja__json_value(&r, 1, &v);
    if (read && jinja__json_next(&r) >= 0) jinja__json_fail(&r, "something behind the value");
    else if (read) *out = jinja__keep(d, v);
    if (r.wrong) return jinja__error(err, MLA_ERR_CONFIG, "JSON, byte %zu: %s", r.at, r.wrong);
    return *out ? MLA_OK : jinja__error(err, MLA_ERR_MEMORY, "JSON: out of memory");
}

/* ---- >>lexer ----------------------------------------------------------------------------------------------------- */
/* The whole template becomes tokens first. Here whitespace control happens: after {% %} and {# #} a newline goes,
   before them the spaces of a line that has nothing else; - takes all space on its side, + leaves all. */

typedef enum jinja__kind {
    JINJA__END = 0,
    JINJA__TEXT,
    JINJA__OPEN, /* {% */
    JINJA__CLOSE,
    JINJA__SHOW, /* {{ */
    JINJA__SHOWN,
    JINJA__NAME,
    JINJA__TEXT_LITERAL,
    JINJA__WHOLE,
    JINJA__REAL,
    JINJA__SIGN /* an operator, in op */
} jinja__kind;

#define JINJA__2(a, b) ((a) << 8 | (b)) /* an operator of two characters */

typedef struct jinja__token {
    jinja__kind kind;
    int op;
    size_t at; /* in the source */
    const char *text;
    size_t n;
} jinja__token;

typedef struct jinja__node jinja__node;

struct jinja_template {
    jinja__arena arena;
    char label[64];
    const char *source; /* newlines are \n, and the last one is gone */
    size_t n;
    const jinja__node *body;
    const jinja__node *names; /* all that are mentioned, by way of also */
};

typedef struct jinja__parser {
    jinja_template *t;
    jinja__token *tokens;
    size_t n, capacity, at;
    size_t position; /* of the lexer */
    int depth, loops;
    int used; /* names that a macro's body uses: JINJA__VARARGS, ... */
    mla_result code;
    mla_error *err;
} jinja__parser;

static void jinja__place(const jinja_template *t, size_t at, int *line, int *column) {
    size_t begin = 0;
    *line = 1;
    for (size_t i = 0; i < at && i < t->n; i++)
        if (t->source[i] == '\n') ++*line, begin = i + 1;
    *column = 1 + (int)jinja__length(t->source + begin, at - begin);
}

#if defined __GNUC__ && !defined __clang__
__attribute__((format(gnu_printf, 4, 5)))
#endif
static int
jinja__refuse(jinja__parser *p, mla_result code, size_t at, const char *format, ...) { /* gives 0 */
    int line, column;
    char what[160];
    va_list args;
    if (p->code) return 0;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    jinja__place(p->t, at, &line, &column);
    p->code = jinja__error(p->err, code, "%s:%d:%d: %s", p->t->label, line, column, what);
    return 0;
}

static int jinja__no_memory(jinja__parser *p) { return jinja__refuse(p, MLA_ERR_MEMORY, 0, "out of memory"); }

static int jinja__add(jinja__parser *p, jinja__kind kind, int op, size_t at, const char *text, size_t n) {
    if (p->n == p->capacity) {
        const size_t capacity = 2 * p->capacity + 256;
        jinja__token *tokens = (jinja__token *)realloc(p->tokens, capacity * sizeof *tokens);
        if (!tokens) return jinja__no_memory(p);
        p->tokens = tokens, p->capacity = capacity;
    }
    jinja__token *t = &p->tokens[p->n++];
    t->kind = kind, t->op = op, t->at = at, t->text = text, t->n = n;
    return 1;
}

static int jinja__begins(const jinja__parser *p, size_t at, const char *with) {
    const size_t n = strlen(with);
    return p->t->n - at >= n && !memcmp(p->t->source + at, with, n);
}

static size_t jinja__skip(const jinja__parser *p, size_t at) { /* white space */
    uint32_t c;
    for (size_t n; at < p->t->n; at += n) {
        n = jinja__char(p->t->source + at, p->t->n - at, &c);
        if (!jinja__is_space(c)) break;
    }
    return at;
}

/* If a tag ends at `at` as - or + and what: the place behind it and the white space that goes with it; else 0. */
static size_t jinja__closes(const jinja__parser *p, size_t at, const char *what) {
    const char sign = at < p->t->n ? p->t->source[at] : 0;
    const int shows = what[0] == '}', signed_ = sign == '-' || (sign == '+' && !shows);
    if (!jinja__begins(p, at + (size_t)signed_, what)) return 0;
    at += 2 + (size_t)signed_;
    if (sign == '-') return jinja__skip(p, at);
    return at + (!shows && sign != '+' && at < p->t->n && p->t->source[at] == '\n');
}

/* The text between begin and the tag at end. */
static int jinja__lex_text(jinja__parser *p, size_t begin, size_t end) {
    const char *s = p->t->source + begin, *opener = p->t->source + end, *rest;
    size_t n = end - begin, line = n, space;
    const char sign = end + 2 < p->t->n ? opener[2] : 0;
    if (end < p->t->n && sign == '-') jinja__strip(&s, &n, NULL, 0, 0, 1);
    else if (end < p->t->n && sign != '+' && opener[1] != '{') {
        while (line > 0 && s[line - 1] != '\n') line--;
        rest = s + line, space = n - line;
        jinja__strip(&rest, &space, NULL, 0, 1, 0);
        if (space == 0 && (line > 0 || begin == 0 || p->t->source[begin - 1] == '\n')) n = line;
    }
    return n == 0 || jinja__add(p, JINJA__TEXT, 0, begin, s, n);
}

/* {% raw %}: if one begins at `at`, its text becomes a token. 1: it did, 0: there is none, -1: an error. */
static int jinja__lex_raw(jinja__parser *p, size_t at) {
    const size_t open = at;
    at = jinja__skip(p, at + 2 + (jinja__begins(p, at + 2, "-") || jinja__begins(p, at + 2, "+")));
    if (!jinja__begins(p, at, "raw")) return 0;
    at = jinja__skip(p, at + 3);
    if (!jinja__begins(p, at, "%}") && !jinja__begins(p, at, "-%}")) return 0;
    at = jinja__begins(p, at, "-") ? jinja__skip(p, at + 3) : at + 2;
    for (size_t end = at; end + 2 <= p->t->n; end++) {
        if (!jinja__begins(p, end, "{%")) continue;
        size_t behind = jinja__skip(p, end + 2 + (jinja__begins(p, end + 2, "-") || jinja__begins(p, end + 2, "+")));
        if (!jinja__begins(p, behind, "endraw")) continue;
        behind = jinja__closes(p, jinja__skip(p, behind + 6), "%}");
        if (!behind) continue;
        p->position = behind;
        return jinja__lex_text(p, at, end) ? 1 : -1;
    }
    jinja__refuse(p, MLA_ERR_CONFIG, open, "{%% raw %%} has no {%% endraw %%}");
    return -1;
}

static size_t jinja__escape(const char *s, size_t n, char *out, size_t *written) { /* bytes read behind a backslash */
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    const char *known = s[0] ? strchr(from, s[0]) : NULL;
    uint32_t c;
    size_t read = 0;
    *written = 0;
    if (s[0] == '\n') return 1; /* the line goes on */
    if (known) return out[0] = to[known - from], *written = 1, 1;
    if (s[0] == 'x' && jinja__hex(s + 1, n - 1, 2, &c)) read = 3;
    else if (s[0] == 'u') read = jinja__unicode(s + 1, n - 1, &c), read += read > 0;
    else if (s[0] == 'U' && jinja__hex(s + 1, n - 1, 8, &c) && c < 0x110000 && (c < 0xD800 || c > 0xDFFF)) read = 9;
    else if (s[0] >= '0' && s[0] <= '7')
        for (c = 0; read < 3 && read < n && s[read] >= '0' && s[read] <= '7'; read++)
            c = c * 8 + (uint32_t)(s[read] - '0');
    if (read) return *written = jinja__utf8(c, out), read;
    if (strchr("xuUN", s[0])) return 0;
    out[0] = '\\', out[1] = s[0], *written = 2; /* an unknown escape is no escape, as in Python */
    return 1;
}

static int jinja__lex_string(jinja__parser *p, size_t at) {
    const char *s = p->t->source, quote = s[at];
    size_t end = at + 1, n = 0, written;
    while (end < p->t->n && s[end] != quote) end += s[end] == '\\' ? 2 : 1;
    if (end >= p->t->n) return jinja__refuse(p, MLA_ERR_CONFIG, at, "the string does not end");
    char *out = jinja__string_room(&p->t->arena, end - at);
    if (!out) return jinja__no_memory(p);
    for (size_t i = at + 1; i < end;) {
        if (s[i] != '\\') {
            out[n++] = s[i++];
            continue;
        }
        const size_t read = jinja__escape(s + i + 1, end - i - 1, out + n, &written);
        if (!read) return jinja__refuse(p, MLA_ERR_CONFIG, i, "an escape that is not known");
        i += 1 + read, n += written;
    }
    p->position = end + 1;
    return jinja__add(p, JINJA__TEXT_LITERAL, 0, at, out, n);
}

static int jinja__lex_number(jinja__parser *p, size_t at) {
    const char *s = p->t->source;
    const size_t most = p->t->n;
    const int after_dot = at > 0 && s[at - 1] == '.'; /* list.0.1 */
    jinja__kind kind = JINJA__WHOLE;
    size_t end = at;
#define JINJA__DIGIT(i) ((i) < most && isdigit((unsigned char)s[i]))
    while (JINJA__DIGIT(end) || (end < most && s[end] == '_' && JINJA__DIGIT(end + 1))) end++;
    if (!after_dot && end < most && s[end] == '.' && JINJA__DIGIT(end + 1))
        for (kind = JINJA__REAL, end++; JINJA__DIGIT(end);) end++;
    if (!after_dot && end < most && (s[end] | 32) == 'e') {
        const size_t digits = end + 1 + (end + 1 < most && (s[end + 1] == '+' || s[end + 1] == '-'));
        if (JINJA__DIGIT(digits))
            for (kind = JINJA__REAL, end = digits; JINJA__DIGIT(end);) end++;
    }
#undef JINJA__DIGIT
    p->position = end;
    if (end - at > 60) return jinja__refuse(p, MLA_ERR_CONFIG, at, "a number of more than 60 digits");
    return jinja__add(p, kind, 0, at, s + at, end - at);
}

static int jinja__lex_sign(jinja__parser *p, size_t at, int *open) {
    static const char two[] = "//**==!=<=>=", one[] = "+-/*%~[](){}><=.:|,";
    const char *s = p->t->source + at;
    int op = 0;
    for (const char *t = two; *t && at + 1 < p->t->n; t += 2)
        if (s[0] == t[0] && s[1] == t[1]) op = JINJA__2(t[0], t[1]);
    if (!op && s[0] && strchr(one, s[0])) op = s[0];
    if (!op) return jinja__refuse(p, MLA_ERR_CONFIG, at, "unexpected character '%.*s'", (unsigned char)*s < 0x80, s);
    *open += op == '(' || op == '[' || op == '{';
    *open -= op == ')' || op == ']' || op == '}';
    if (*open < 0) return jinja__refuse(p, MLA_ERR_CONFIG, at, "unexpected '%c'", op);
    p->position = at + (op > 255 ? 2 : 1);
    return jinja__add(p, JINJA__SIGN, op, at, s, op > 255 ? 2 : 1);
}

static int jinja__lex_tag(jinja__parser *p, size_t at) { /* {{ or {% at `at`, to its end */
    const char *s = p->t->source, *closer = s[at + 1] == '{' ? "}}" : "%}";
    const int shows = s[at + 1] == '{';
    int open = 0;
    if (!jinja__add(p, shows ? JINJA__SHOW : JINJA__OPEN, 0, at, s + at, 2)) return 0;
    p->position = at + 2 + (jinja__begins(p, at + 2, "-") || jinja__begins(p, at + 2, "+"));
    for (;;) {
        const size_t i = p->position = jinja__skip(p, p->position);
        if (i >= p->t->n) return jinja__refuse(p, MLA_ERR_CONFIG, at, "%.2s has no end", s + at);
        const size_t behind = open ? 0 : jinja__closes(p, i, closer);
        int ok;
        if (behind) {
            p->position = behind;
            return jinja__add(p, shows ? JINJA__SHOWN : JINJA__CLOSE, 0, i, s + i, 2);
        }
        if (s[i] == '"' || s[i] == '\'') ok = jinja__lex_string(p, i);
        else if (isdigit((unsigned char)s[i])) ok = jinja__lex_number(p, i);
        else if (isalpha((unsigned char)s[i]) || s[i] == '_') {
            size_t end = i;
            while (end < p->t->n && (isalnum((unsigned char)s[end]) || s[end] == '_')) end++;
            ok = jinja__add(p, JINJA__NAME, 0, i, s + i, end - i);
            p->position = end;
        } else ok = jinja__lex_sign(p, i, &open);
        if (!ok) return 0;
    }
}

static int jinja__lex(jinja__parser *p) {
    const char *s = p->t->source;
    while (p->position < p->t->n) {
        const size_t begin = p->position;
        size_t at = begin;
        while (at < p->t->n && !(s[at] == '{' && at + 1 < p->t->n && strchr("{%#", s[at + 1]) && s[at + 1])) at++;
        if (!jinja__lex_text(p, begin, at)) return 0;
        if (at == p->t->n) break;
        if (s[at + 1] == '#') {
            size_t end = at + 2, behind = 0;
            for (; end < p->t->n && !behind; end++)
                if (strchr("-+#", s[end])) behind = jinja__closes(p, end, "#}");
            if (!behind) return jinja__refuse(p, MLA_ERR_CONFIG, at, "the comment does not end");
            p->position = behind;
            continue;
        }
        const int raw = s[at + 1] == '%' ? jinja__lex_raw(p, at) : 0;
        if (raw < 0 || (raw == 0 && !jinja__lex_tag(p, at))) return 0;
    }
    return jinja__add(p, JINJA__END, 0, p->t->n, "", 0);
}

/* ---- >>parser ---------------------------------------------------------------------------------------------------- */

typedef enum jinja__what {
    /* statements; b, c, d are lists by way of next */
    JINJA__DATA,      /* text */
    JINJA__PRINT,     /* a */
    JINJA__IF,        /* if a: c, else d, which may be one more IF */
    JINJA__FOR,       /* for a in b: c, else d; with e: only where that holds */
    JINJA__SET,       /* a = b */
    JINJA__SET_BLOCK, /* a = c, by way of the filters b */
    JINJA__MACRO,     /* text(b): c; op: names it uses */
    JINJA__CALL,      /* call(b) a: c; op: names it uses */
    JINJA__FILTERED,  /* c by way of the filters b */
    JINJA__WITH,      /* with the assignments b: c */
    JINJA__BREAK,
    JINJA__CONTINUE,
    /* expressions */
    JINJA__CONSTANT,  /* value */
    JINJA__VARIABLE,  /* text */
    JINJA__ITEMS,     /* [b] */
    JINJA__ROW,       /* (b) */
    JINJA__PAIRS,     /* {b}: keys and values in turns */
    JINJA__ATTRIBUTE, /* a.text */
    JINJA__INDEX,     /* a[b] */
    JINJA__SLICE,     /* a[b:c:d] */
    JINJA__INVOKE,    /* a(b) */
    JINJA__FILTER,    /* a | text(b) */
    JINJA__TEST,      /* a is text(b); op: not */
    JINJA__CAPTURED,  /* what a filter block has written */
    JINJA__NOT,
    JINJA__NEGATIVE,
    JINJA__POSITIVE,
    JINJA__AND,
    JINJA__OR,
    JINJA__BINARY,      /* a op b */
    JINJA__COMPARE,     /* a, and the list b of STEPs */
    JINJA__STEP,        /* op a */
    JINJA__CONDITIONAL, /* b if a else c */
    /* arguments, besides expressions */
    JINJA__NAMED,  /* text = a; a parameter, too, with a NULL if it has no default */
    JINJA__SPREAD, /* *a */
    JINJA__SPREAD_NAMED
} jinja__what;

struct jinja__node {
    jinja__what what;
    int op;
    size_t at;
    const jinja__node *a, *b, *c, *d, *e;
    jinja__node *next;
    const jinja__node *also; /* another name that the template mentions */
    const char *text;
    size_t n;
    jinja_value value;
    const struct jinja__entry *entry; /* of a filter or test */
};

enum { JINJA__VARARGS = 1, JINJA__KWARGS = 2, JINJA__CALLER = 4, JINJA__IN = 1, JINJA__NOT_IN = 2 };

static const struct jinja__entry *jinja__filter_of(const char *name, size_t n);
static const struct jinja__entry *jinja__test_of(const char *name, size_t n);

static const jinja__token *jinja__peek(const jinja__parser *p) { return &p->tokens[p->at]; }

static int jinja__is_op(const jinja__parser *p, int op) {
    return jinja__peek(p)->kind == JINJA__SIGN && jinja__peek(p)->op == op;
}

static int jinja__named(const jinja__token *t, const char *name) {
    return t->kind == JINJA__NAME && t->n == strlen(name) && !memcmp(t->text, name, t->n);
}

static int jinja__accept(jinja__parser *p, int op) {
    const int is = jinja__is_op(p, op);
    p->at += (size_t)is;
    return is;
}
static int jinja__accept_name(jinja__parser *p, const char *name) {
    const int is = jinja__named(jinja__peek(p), name);
    p->at += (size_t)is;
    return is;
}

/* Instead of what was expected. */
static int jinja__unexpected(jinja__parser *p, const char *expected) {
    const jinja__token *t = jinja__peek(p);
    if (t->kind == JINJA__END)
        return jinja__refuse(p, MLA_ERR_CONFIG, t->at, "the template ends, expected %s", expected);
    return jinja__refuse(p, MLA_ERR_CONFIG, t->at, "'%.*s', expected %s", t->n < 40 ? (int)t->n : 40, t->text,
                         expected);
}

static int jinja__expect(jinja__parser *p, int op) {
    const char text[4] = {'\'', (char)op, '\'', 0};
    return jinja__accept(p, op) || jinja__unexpected(p, text);
}
static int jinja__expect_kind(jinja__parser *p, jinja__kind kind, const char *what) {
    if (jinja__peek(p)->kind != kind) return jinja__unexpected(p, what);
    p->at++;
    return 1;
}

static jinja__node *jinja__node_at(jinja__parser *p, jinja__what what, size_t at) { /* NULL: no memory */
    jinja__node *n = (jinja__node *)jinja__alloc(&p->t->arena, sizeof *n);
    if (!n) {
        jinja__no_memory(p);
        return NULL;
    }
    memset(n, 0, sizeof *n);
    n->what = what, n->at = at;
    return n;
}
static jinja__node *jinja__node_new(jinja__parser *p, jinja__what what) {
    return jinja__node_at(p, what, jinja__peek(p)->at);
}

static jinja__node *jinja__join(jinja__parser *p, jinja__what what, int op, const jinja__node *a,
                                const jinja__node *b) {
    jinja__node *n = a && b ? jinja__node_at(p, what, a->at) : NULL;
    if (n) n->op = op, n->a = a, n->b = b;
    return n;
}

/* 1, and one level deeper; the caller comes back up by itself. */
static int jinja__deeper(jinja__parser *p) {
    return ++p->depth <= 100 || jinja__refuse(p, MLA_ERR_CONFIG, jinja__peek(p)->at, "nested too deeply");
}

/* ---- >>expressions ----------------------------------------------------------------------------------------------- */
/* In jinja2's order: if, or, and, not, comparisons, + -, ~, * / // %, **, signs, then . [] () | is. NULL: an error. */

static jinja__node *jinja__expression(jinja__parser *p);
static jinja__node *jinja__unary(jinja__parser *p, int filters);

/* Expressions with commas, a tuple if there are any; until: a closing bracket that may come at once, or 0. */
static jinja__node *jinja__tuple(jinja__parser *p, int until) {
    jinja__node *row = jinja__node_new(p, JINJA__ROW), *one = NULL, **end = &one;
    int comma = 0;
    if (!row) return NULL;
    while (!(until && jinja__is_op(p, until)) && jinja__peek(p)->kind != JINJA__CLOSE &&
           jinja__peek(p)->kind != JINJA__SHOWN && !jinja__is_op(p, '=')) {
        *end = jinja__expression(p);
        if (!*end) return NULL;
        end = &(*end)->next;
        if (!jinja__accept(p, ',')) break;
        comma = 1;
    }
    if (!one && !until) return jinja__unexpected(p, "an expression"), (jinja__node *)NULL;
    if (one && !comma) return one;
    row->b = one;
    return row;
}

static jinja__node *jinja__number(jinja__parser *p) {
    const jinja__token *t = jinja__peek(p);
    jinja__node *n = jinja__node_new(p, JINJA__CONSTANT);
    char digits[64];
    size_t count = 0;
    for (size_t i = 0; i < t->n; i++)
        if (t->text[i] != '_') digits[count++] = t->text[i];
    digits[count] = 0;
    errno = 0;
    if (n && t->kind == JINJA__REAL) n->value = jinja__make_real(strtod(digits, NULL));
    else if (n) n->value = jinja__make_int(strtoll(digits, NULL, 10));
    if (errno && t->kind == JINJA__WHOLE)
        return jinja__refuse(p, MLA_ERR_CONFIG, t->at, "a number of more than 64 bits"), (jinja__node *)NULL;
    p->at++;
    return n;
}

static jinja__node *jinja__literal(jinja__parser *p) { /* strings that follow each other are one */
    jinja__node *n = jinja__node_new(p, JINJA__CONSTANT);
    size_t length = 0, first = p->at;
    for (; jinja__peek(p)->kind == JINJA__TEXT_LITERAL; p->at++) length += jinja__peek(p)->n;
    if (!n) return NULL;
    if (p->at == first + 1) {
        n->value = jinja__make_text(p->tokens[first].text, length);
        return n;
    }
    char *text = jinja__string_room(&p->t->arena, length);
    if (!text) return jinja__no_memory(p), (jinja__node *)NULL;
    n->value = jinja__make_text(text, length);
    for (; first < p->at; text += p->tokens[first++].n) memcpy(text, p->tokens[first].text, p->tokens[first].n);
    return n;
}

static jinja__node *jinja__name(jinja__parser *p) {
    static const struct {
        const char *name;
        jinja__type type;
        int64_t integer;
    } constants[] = {{"true", JINJA__BOOL, 1},  {"True", JINJA__BOOL, 1}, {"false", JINJA__BOOL, 0},
                     {"False", JINJA__BOOL, 0}, {"none", JINJA__NONE, 0}, {"None", JINJA__NONE, 0}};
    static const char *const used[] = {"varargs", "kwargs", "caller"};
    const jinja__token *t = jinja__peek(p);
    jinja__node *n = jinja__node_new(p, JINJA__VARIABLE);
    if (!n) return NULL;
    n->text = t->text, n->n = t->n;
    for (size_t i = 0; i < 6; i++) {
        if (!jinja__named(t, constants[i].name)) continue;
        n->what = JINJA__CONSTANT, n->value = jinja__make(constants[i].type), n->value.u.integer = constants[i].integer;
    }
    for (int i = 0; i < 3; i++)
        if (jinja__named(t, used[i])) p->used |= 1 << i;
    n->also = p->t->names, p->t->names = n;
    p->at++;
    return n;
}

static jinja__node *jinja__bracketed(jinja__parser *p) { /* a list or a dict */
    const int dict = jinja__is_op(p, '{'), closer = dict ? '}' : ']';
    jinja__node *n = jinja__node_new(p, dict ? JINJA__PAIRS : JINJA__ITEMS), *items = NULL, **end = &items;
    if (!n) return NULL;
    p->at++;
    while (!jinja__accept(p, closer)) {
        if (items && !jinja__expect(p, ',')) return NULL;
        if (items && jinja__accept(p, closer)) break;
        for (int i = 0; i <= dict; i++) {
            if (i && !jinja__expect(p, ':')) return NULL;
            *end = jinja__expression(p);
            if (!*end) return NULL;
            end = &(*end)->next;
        }
    }
    n->b = items;
    return n;
}

static jinja__node *jinja__primary(jinja__parser *p) {
    const jinja__token *t = jinja__peek(p);
    if (t->kind == JINJA__NAME) return jinja__name(p);
    if (t->kind == JINJA__TEXT_LITERAL) return jinja__literal(p);
    if (t->kind == JINJA__WHOLE || t->kind == JINJA__REAL) return jinja__number(p);
    if (jinja__is_op(p, '[') || jinja__is_op(p, '{')) return jinja__bracketed(p);
    if (jinja__accept(p, '(')) {
        jinja__node *n = jinja__tuple(p, ')');
        return n && jinja__expect(p, ')') ? n : NULL;
    }
    jinja__unexpected(p, "an expression");
    return NULL;
}

static int jinja__arguments(jinja__parser *p, const jinja__node **out) { /* behind the bracket, to behind the other */
    jinja__node *first = NULL, **end = &first;
    while (!jinja__accept(p, ')')) {
        if (first && !jinja__expect(p, ',')) return 0;
        if (first && jinja__accept(p, ')')) break;
        const jinja__token *t = jinja__peek(p);
        jinja__node *n;
        if (jinja__is_op(p, '*') || jinja__is_op(p, JINJA__2('*', '*'))) {
            n = jinja__node_new(p, t->op == '*' ? JINJA__SPREAD : JINJA__SPREAD_NAMED), p->at++;
            if (!n || !(n->a = jinja__expression(p))) return 0;
        } else if (t->kind == JINJA__NAME && t[1].kind == JINJA__SIGN && t[1].op == '=') {
            n = jinja__node_new(p, JINJA__NAMED), p->at += 2;
            if (!n || !(n->a = jinja__expression(p))) return 0;
            n->text = t->text, n->n = t->n;
        } else n = jinja__expression(p);
        if (!n) return 0;
        *end = n, end = &n->next;
    }
    *out = first;
    return 1;
}

static jinja__node *jinja__subscript(jinja__parser *p, const jinja__node *of) { /* behind [ */
    jinja__node *n = jinja__node_at(p, JINJA__INDEX, of->at);
    const jinja__node *part[3] = {NULL, NULL, NULL};
    int colons = 0;
    if (!n) return NULL;
    while (!jinja__is_op(p, ']')) {
        if (jinja__is_op(p, ':') && colons < 2) colons++, p->at++;
        else if (part[colons]) return jinja__unexpected(p, "']'"), (jinja__node *)NULL;
        else if (!(part[colons] = jinja__expression(p))) return NULL;
    }
    if (!colons && !part[0]) return jinja__unexpected(p, "an index"), (jinja__node *)NULL;
    p->at++;
    n->what = colons ? JINJA__SLICE : JINJA__INDEX;
    n->a = of, n->b = part[0], n->c = part[1], n->d = part[2];
    return n;
}

static jinja__node *jinja__postfix(jinja__parser *p, jinja__node *n) { /* . [] () */
    while (n) {
        const jinja__node *of = n;
        if (jinja__accept(p, '.')) {
            const jinja__token *t = jinja__peek(p);
            if (t->kind != JINJA__NAME && t->kind != JINJA__WHOLE)
                return jinja__unexpected(p, "a name"), (jinja__node *)NULL;
            n = jinja__node_at(p, JINJA__ATTRIBUTE, of->at);
            if (t->kind == JINJA__WHOLE) {
                const jinja__node *index = jinja__number(p);
                if (n) n->what = JINJA__INDEX, n->a = of, n->b = index;
                if (!index) return NULL;
                continue;
            }
            if (n) n->a = of, n->text = t->text, n->n = t->n;
            p->at++;
        } else if (jinja__accept(p, '[')) n = jinja__subscript(p, of);
        else if (jinja__accept(p, '(')) {
            n = jinja__node_at(p, JINJA__INVOKE, of->at);
            if (n) n->a = of;
            if (n && !jinja__arguments(p, &n->b)) return NULL;
        } else return n;
    }
    return NULL;
}

static jinja__node *jinja__filter(jinja__parser *p, const jinja__node *of) { /* behind | */
    const jinja__token *t = jinja__peek(p);
    jinja__node *n = jinja__node_new(p, JINJA__FILTER);
    if (!jinja__expect_kind(p, JINJA__NAME, "the name of a filter") || !n) return NULL;
    n->a = of, n->text = t->text, n->n = t->n;
    n->entry = jinja__filter_of(t->text, t->n);
    if (!n->entry)
        return jinja__refuse(p, MLA_ERR_UNSUPPORTED, t->at, "no filter '%.*s' is known", (int)(t->n < 60 ? t->n : 60),
                             t->text),
               (jinja__node *)NULL;
    return !jinja__accept(p, '(') || jinja__arguments(p, &n->b) ? n : NULL;
}

static jinja__node *jinja__test(jinja__parser *p, const jinja__node *of) { /* behind is */
    static const char *const ends[] = {"else", "or", "and", "is", "if", "not", "in"};
    const int negated = jinja__accept_name(p, "not");
    const jinja__token *t = jinja__peek(p), *next = t + 1;
    jinja__node *n = jinja__node_new(p, JINJA__TEST);
    if (!jinja__expect_kind(p, JINJA__NAME, "the name of a test") || !n) return NULL;
    n->a = of, n->text = t->text, n->n = t->n, n->op = negated;
    n->entry = jinja__test_of(t->text, t->n);
    if (!n->entry)
        return jinja__refuse(p, MLA_ERR_UNSUPPORTED, t->at, "no test '%.*s' is known", (int)(t->n < 60 ? t->n : 60),
                             t->text),
               (jinja__node *)NULL;
    if (jinja__accept(p, '(')) return jinja__arguments(p, &n->b) ? n : NULL;
    int argument = next->kind == JINJA__TEXT_LITERAL || next->kind == JINJA__WHOLE || next->kind == JINJA__REAL ||
                   next->kind == JINJA__NAME || jinja__is_op(p, '[') || jinja__is_op(p, '{');
    for (int i = 0; i < 7; i++) argument &= !jinja__named(next, ends[i]);
    if (argument) n->b = jinja__postfix(p, jinja__primary(p));
    return argument && !n->b ? NULL : n;
}

static jinja__node *jinja__unary(jinja__parser *p, int filters) {
    jinja__node *n;
    if (!jinja__deeper(p)) return NULL;
    if (jinja__is_op(p, '-') || jinja__is_op(p, '+')) {
        n = jinja__node_new(p, jinja__is_op(p, '-') ? JINJA__NEGATIVE : JINJA__POSITIVE), p->at++;
        if (n && !(n->a = jinja__unary(p, 0))) n = NULL;
    } else n = jinja__primary(p);
    n = jinja__postfix(p, n);
    while (n && filters) {
        if (jinja__accept(p, '|')) n = jinja__filter(p, n);
        else if (jinja__accept_name(p, "is")) n = jinja__test(p, n);
        else if (jinja__is_op(p, '(')) n = jinja__postfix(p, n);
        else break;
    }
    p->depth--;
    return n;
}

/* Operators that bind alike, from the left; level 0: + -, 1: ~, 2: * / // %, 3: ** */
static jinja__node *jinja__arithmetic(jinja__parser *p, int level) {
    static const int ops[4][5] = {{'+', '-', 0, 0, 0},
                                  {'~', 0, 0, 0, 0},
                                  {'*', '/', JINJA__2('/', '/'), '%', 0},
                                  {JINJA__2('*', '*'), 0, 0, 0, 0}};
    jinja__node *n = level < 3 ? jinja__arithmetic(p, level + 1) : jinja__unary(p, 1);
    for (int i = 0; n && ops[level][i]; i++) {
        if (!jinja__accept(p, ops[level][i])) continue;
        n = jinja__join(p, JINJA__BINARY, ops[level][i], n,
                        level < 3 ? jinja__arithmetic(p, level + 1) : jinja__unary(p, 1));
        i = -1;
    }
    return n;
}

static jinja__node *jinja__comparison(jinja__parser *p) {
    static const int ops[] = {JINJA__2('=', '='), JINJA__2('!', '='), JINJA__2('<', '='), JINJA__2('>', '='), '<', '>'};
    jinja__node *n = jinja__arithmetic(p, 0), *first = NULL, **end = &first;
    while (n) {
        const size_t at = p->at;
        int op = 0;
        for (int i = 0; i < 6 && !op; i++)
            if (jinja__accept(p, ops[i])) op = ops[i];
        if (!op && jinja__accept_name(p, "in")) op = JINJA__IN;
        if (!op && jinja__accept_name(p, "not") && !jinja__accept_name(p, "in")) p->at = at;
        else if (!op && p->at > at) op = JINJA__NOT_IN;
        if (!op) break;
        jinja__node *step = jinja__node_at(p, JINJA__STEP, p->tokens[at].at);
        if (!step || !(step->a = jinja__arithmetic(p, 0))) return NULL;
        step->op = op, *end = step, end = &step->next;
    }
    return n && first ? jinja__join(p, JINJA__COMPARE, 0, n, first) : n;
}

static jinja__node *jinja__negation(jinja__parser *p) {
    if (!jinja__named(jinja__peek(p), "not")) return jinja__comparison(p);
    jinja__node *n = jinja__node_new(p, JINJA__NOT);
    if (!n || !jinja__deeper(p)) return NULL;
    p->at++;
    n->a = jinja__negation(p);
    p->depth--;
    return n->a ? n : NULL;
}

static jinja__node *jinja__conjunction(jinja__parser *p) {
    jinja__node *n = jinja__negation(p);
    while (n && jinja__accept_name(p, "and")) n = jinja__join(p, JINJA__AND, 0, n, jinja__negation(p));
    return n;
}

static jinja__node *jinja__disjunction(jinja__parser *p) {
    jinja__node *n = jinja__conjunction(p);
    while (n && jinja__accept_name(p, "or")) n = jinja__join(p, JINJA__OR, 0, n, jinja__conjunction(p));
    return n;
}

static jinja__node *jinja__expression(jinja__parser *p) {
    if (!jinja__deeper(p)) return NULL;
    jinja__node *n = jinja__disjunction(p);
    while (n && jinja__accept_name(p, "if")) {
        jinja__node *c = jinja__node_at(p, JINJA__CONDITIONAL, n->at);
        if (!c || !(c->a = jinja__disjunction(p))) return NULL;
        if (jinja__accept_name(p, "else") && !(c->c = jinja__expression(p))) return NULL;
        c->b = n, n = c;
    }
    p->depth--;
    return n;
}

/* ---- >>statements-parser ----------------------------------------------------------------------------------------- */

/* Statements to the tag that has one of these names ("endif elif else"); p is then at its name. 0: an error. */
static int jinja__body(jinja__parser *p, const jinja__node **out, const char *ends);
static jinja__node *jinja__statement(jinja__parser *p);

static int jinja__close(jinja__parser *p) { return jinja__expect_kind(p, JINJA__CLOSE, "%}"); }

/* A body and its end, as in %} ... {% endcall %}. */
static int jinja__block(jinja__parser *p, const jinja__node **out, const char *end) {
    if (!jinja__close(p) || !jinja__body(p, out, end)) return 0;
    p->at++;
    return jinja__close(p);
}

static jinja__node *jinja__if(jinja__parser *p) {
    jinja__node *first = NULL;
    const jinja__node **end = NULL;
    for (;;) { /* at the condition */
        jinja__node *n = jinja__node_new(p, JINJA__IF);
        if (!n || !(n->a = jinja__expression(p)) || !jinja__close(p) || !jinja__body(p, &n->c, "elif else endif"))
            return NULL;
        if (end) *end = n;
        else first = n;
        end = &n->d;
        if (!jinja__accept_name(p, "elif")) break;
    }
    if (jinja__accept_name(p, "else") && (!jinja__close(p) || !jinja__body(p, end, "endif"))) return NULL;
    p->at++;
    return jinja__close(p) ? first : NULL;
}

/* Names, and with attributes also namespace.name, with commas between. */
static jinja__node *jinja__target(jinja__parser *p, int attributes) {
    jinja__node *row = jinja__node_new(p, JINJA__ROW), *one = NULL, **end = &one;
    const int bracket = jinja__accept(p, '(');
    int comma = 0;
    while (row && jinja__peek(p)->kind == JINJA__NAME && !jinja__named(jinja__peek(p), "in")) {
        const jinja__token *t = jinja__peek(p);
        jinja__node *n = jinja__name(p);
        if (n && n->what != JINJA__VARIABLE)
            return p->at--, jinja__unexpected(p, "a name to assign to"), (jinja__node *)NULL;
        if (n && attributes && jinja__accept(p, '.')) {
            t = jinja__peek(p);
            if (!jinja__expect_kind(p, JINJA__NAME, "a name")) return NULL;
            const jinja__node *of = n;
            n = jinja__node_at(p, JINJA__ATTRIBUTE, of->at);
            if (n) n->a = of, n->text = t->text, n->n = t->n;
        }
        if (!n) return NULL;
        *end = n, end = &n->next;
        if (!jinja__accept(p, ',')) break;
        comma = 1;
    }
    if (!row || (bracket && !jinja__expect(p, ')'))) return NULL;
    if (!one) return jinja__unexpected(p, "a name to assign to"), (jinja__node *)NULL;
    row->b = one;
    return comma ? row : one;
}

static jinja__node *jinja__for(jinja__parser *p) {
    jinja__node *n = jinja__node_new(p, JINJA__FOR);
    if (!n || !(n->a = jinja__target(p, 0))) return NULL;
    if (!jinja__accept_name(p, "in")) return jinja__unexpected(p, "in"), (jinja__node *)NULL;
    /* no `a if b` without brackets: the if is the loop's filter */
    jinja__node *over = jinja__disjunction(p), *first = over;
    if (over && jinja__is_op(p, ',')) {
        jinja__node *row = jinja__node_at(p, JINJA__ROW, over->at);
        while (over && jinja__accept(p, ',')) over->next = jinja__disjunction(p), over = over->next;
        if (!row || !over) return NULL;
        row->b = first, first = row;
    }
    n->b = first;
    if (!first || (jinja__accept_name(p, "if") && !(n->e = jinja__expression(p)))) return NULL;
    if (jinja__named(jinja__peek(p), "recursive"))
        return jinja__refuse(p, MLA_ERR_UNSUPPORTED, jinja__peek(p)->at, "recursive loops are not known"),
               (jinja__node *)NULL;
    p->loops++;
    if (!jinja__close(p) || !jinja__body(p, &n->c, "endfor else")) return NULL;
    p->loops--;
    if (jinja__accept_name(p, "else") && (!jinja__close(p) || !jinja__body(p, &n->d, "endfor"))) return NULL;
    p->at++;
    return jinja__close(p) ? n : NULL;
}

/* The filters that a block goes through: of a captured text. NULL: an error. */
static jinja__node *jinja__filters(jinja__parser *p) {
    jinja__node *n = jinja__node_new(p, JINJA__CAPTURED);
    do n = n ? jinja__filter(p, n) : NULL;
    while (n && jinja__accept(p, '|'));
    return n;
}

static jinja__node *jinja__set(jinja__parser *p) {
    jinja__node *n = jinja__node_new(p, JINJA__SET);
    if (!n || !(n->a = jinja__target(p, 1))) return NULL;
    if (jinja__accept(p, '=')) return (n->b = jinja__tuple(p, 0)) && jinja__close(p) ? n : NULL;
    n->what = JINJA__SET_BLOCK;
    if (jinja__accept(p, '|') && !(n->b = jinja__filters(p))) return NULL;
    return jinja__block(p, &n->c, "endset") ? n : NULL;
}

static int jinja__parameters(jinja__parser *p, const jinja__node **out) { /* behind ( */
    jinja__node *first = NULL, **end = &first;
    while (!jinja__accept(p, ')')) {
        if (first && !jinja__expect(p, ',')) return 0;
        if (first && jinja__accept(p, ')')) break;
        const jinja__token *t = jinja__peek(p);
        jinja__node *n = jinja__node_new(p, JINJA__NAMED);
        if (!n || !jinja__expect_kind(p, JINJA__NAME, "a parameter")) return 0;
        n->text = t->text, n->n = t->n;
        if (jinja__accept(p, '=') && !(n->a = jinja__expression(p))) return 0;
        *end = n, end = &n->next;
    }
    *out = first;
    return 1;
}

static jinja__node *jinja__macro(jinja__parser *p) {
    jinja__node *n = jinja__node_new(p, JINJA__MACRO);
    const jinja__token *t = jinja__peek(p);
    const int used = p->used, loops = p->loops;
    if (!n || !jinja__expect_kind(p, JINJA__NAME, "the macro's name") || !jinja__expect(p, '(')) return NULL;
    n->text = t->text, n->n = t->n;
    p->used = p->loops = 0;
    if (!jinja__parameters(p, &n->b) || !jinja__block(p, &n->c, "endmacro")) return NULL;
    n->op = p->used, p->used = used, p->loops = loops;
    return n;
}

static jinja__node *jinja__call_block(jinja__parser *p) {
    jinja__node *n = jinja__node_new(p, JINJA__CALL);
    const int loops = p->loops;
    if (!n || (jinja__accept(p, '(') && !jinja__parameters(p, &n->b)) || !(n->a = jinja__unary(p, 0))) return NULL;
    if (n->a->what != JINJA__INVOKE)
        return jinja__refuse(p, MLA_ERR_CONFIG, n->a->at, "expected a call"), (jinja__node *)NULL;
    const int used = p->used;
    p->used = p->loops = 0;
    if (!jinja__block(p, &n->c, "endcall")) return NULL;
    n->op = p->used, p->used |= used, p->loops = loops; /* caller in there is the macro's around it */
    return n;
}

static jinja__node *jinja__with(jinja__parser *p) {
    jinja__node *n = jinja__node_new(p, JINJA__WITH), *first = NULL, **end = &first;
    while (n && jinja__peek(p)->kind != JINJA__CLOSE) {
        if (first && !jinja__expect(p, ',')) return NULL;
        const jinja__token *t = jinja__peek(p);
        jinja__node *set = jinja__node_new(p, JINJA__NAMED);
        if (!set || !jinja__expect_kind(p, JINJA__NAME, "a name") || !jinja__expect(p, '=')) return NULL;
        set->text = t->text, set->n = t->n;
        if (!(set->a = jinja__expression(p))) return NULL;
        *end = set, end = &set->next;
    }
    if (n) n->b = first;
    return n && jinja__block(p, &n->c, "endwith") ? n : NULL;
}

static jinja__node *jinja__statement(jinja__parser *p) { /* behind {% */
    const jinja__token *t = jinja__peek(p);
    jinja__node *n = NULL;
    if (!jinja__expect_kind(p, JINJA__NAME, "the name of a statement")) return NULL;
    if (jinja__named(t, "if")) return jinja__if(p);
    if (jinja__named(t, "for")) return jinja__for(p);
    if (jinja__named(t, "set")) return jinja__set(p);
    if (jinja__named(t, "macro")) return jinja__macro(p);
    if (jinja__named(t, "call")) return jinja__call_block(p);
    if (jinja__named(t, "with")) return jinja__with(p);
    if (jinja__named(t, "generation")) { /* marks what an assistant said, and is a scope of its own */
        n = jinja__node_at(p, JINJA__WITH, t->at);
        return n && jinja__block(p, &n->c, "endgeneration") ? n : NULL;
    }
    if (jinja__named(t, "filter")) {
        n = jinja__node_at(p, JINJA__FILTERED, t->at);
        return n && (n->b = jinja__filters(p)) && jinja__block(p, &n->c, "endfilter") ? n : NULL;
    }
    if (jinja__named(t, "break") || jinja__named(t, "continue")) {
        if (!p->loops)
            return jinja__refuse(p, MLA_ERR_CONFIG, t->at, "'%.*s' is in no loop", (int)t->n, t->text),
                   (jinja__node *)NULL;
        n = jinja__node_at(p, t->n == 5 ? JINJA__BREAK : JINJA__CONTINUE, t->at);
        return n && jinja__close(p) ? n : NULL;
    }
    if (t->n > 3 && !memcmp(t->text, "end", 3)) p->at--, jinja__unexpected(p, "something else before it");
    else
        jinja__refuse(p, MLA_ERR_UNSUPPORTED, t->at, "no statement '%.*s' is known", (int)(t->n < 60 ? t->n : 60),
                      t->text);
    return NULL;
}

static int jinja__ends(const jinja__token *t, const char *ends) { /* is its name in the list? */
    for (size_t n; *ends; ends += n + (ends[n] == ' ')) {
        n = strcspn(ends, " ");
        if (t->kind == JINJA__NAME && t->n == n && !memcmp(t->text, ends, n)) return 1;
    }
    return 0;
}

static int jinja__body(jinja__parser *p, const jinja__node **out, const char *ends) {
    jinja__node *first = NULL, **end = &first;
    if (!jinja__deeper(p)) return 0;
    for (;;) {
        const jinja__token *t = jinja__peek(p);
        jinja__node *n;
        if (t->kind == JINJA__END && !*ends) break;
        if (t->kind == JINJA__END) return jinja__unexpected(p, ends);
        if (t->kind == JINJA__TEXT) {
            n = jinja__node_new(p, JINJA__DATA), p->at++;
            if (n) n->text = t->text, n->n = t->n;
        } else if (t->kind == JINJA__SHOW) {
            n = jinja__node_new(p, JINJA__PRINT), p->at++;
            if (!n || !(n->a = jinja__tuple(p, 0)) || !jinja__expect_kind(p, JINJA__SHOWN, "}}")) return 0;
        } else {
            p->at++;
            if (jinja__ends(jinja__peek(p), ends)) break;
            n = jinja__statement(p);
        }
        if (!n) return 0;
        *end = n, end = &n->next;
    }
    p->depth--;
    *out = first;
    return 1;
}

/* As Python reads it: \r\n and \r are newlines, and one at the end is dropped. */
static int jinja__source(jinja_template *t, const char *text, size_t n) {
    char *s = jinja__string_room(&t->arena, n);
    size_t count = 0;
    if (!s) return 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\r' && i + 1 < n && text[i + 1] == '\n') continue;
        s[count++] = (char)(text[i] == '\r' ? '\n' : text[i]);
    }
    if (count && s[count - 1] == '\n') count--;
    s[count] = 0;
    t->source = s, t->n = count;
    return 1;
}

mla_result jinja_parse(jinja_template **out, const char *text, size_t n, const char *label, mla_error *err) {
    jinja__parser p;
    if (out) *out = NULL;
    if (!out || !text || !label) return jinja__error(err, MLA_ERR_ARGUMENT, "jinja_parse: a null pointer");
    if (n > JINJA__TEMPLATE)
        return jinja__error(err, MLA_ERR_CONFIG, "%.60s: a template of %zu bytes, at most %d are taken", label, n,
                            JINJA__TEMPLATE);
    memset(&p, 0, sizeof p);
    p.err = err, p.t = (jinja_template *)calloc(1, sizeof *p.t);
    if (!p.t) return jinja__error(err, MLA_ERR_MEMORY, "%.60s: out of memory", label);
    p.t->arena.most = SIZE_MAX / 4;
    snprintf(p.t->label, sizeof p.t->label, "%s", label);
    if (!jinja__source(p.t, text, n)) jinja__no_memory(&p);
    else if (jinja__lex(&p)) jinja__body(&p, &p.t->body, "");
    free(p.tokens);
    if (p.code) jinja_free(p.t);
    else *out = p.t;
    return p.code;
}

void jinja_free(jinja_template *t) {
    if (t) jinja__release(&t->arena);
    free(t);
}

int jinja_mentions(const jinja_template *t, const char *name) {
    const size_t n = strlen(name);
    for (const jinja__node *v = t->names; v; v = v->also)
        if (v->n == n && !memcmp(v->text, name, n)) return 1;
    return 0;
}

/* ---- >>run ------------------------------------------------------------------------------------------------------- */

typedef struct jinja__scope {
    struct jinja__scope *parent;
    jinja__dict names;
} jinja__scope;

typedef struct jinja__run {
    const jinja_template *t;
    jinja_options o;
    jinja__arena arena;
    char *out; /* what was written, and behind it texts in the making */
    size_t n, capacity;
    uint64_t steps;
    int depth;
    jinja__what flow; /* BREAK or CONTINUE, on the way to the loop; else 0 */
    jinja_value captured;
    mla_result code;
    mla_error *err;
} jinja__run;

/* What a filter, test, method, function or macro is called with. */
typedef struct jinja__call {
    const jinja__node *node;
    const char *name;
    size_t length;
    jinja_value self, caller;
    jinja__list items;
    jinja__dict named;
} jinja__call;

typedef struct jinja__entry {
    const char *name;
    jinja_value (*run)(jinja__run *r, jinja__call *c);
    int least, most; /* arguments */
} jinja__entry;

struct jinja__function {
    const jinja__entry *entry; /* NULL: a macro */
    jinja_value self;          /* of a method */
    const jinja__node *macro;
    jinja__scope *scope;
    const char *name;
    size_t n;
};

struct jinja__loop {
    const jinja__list *items;
    size_t at;
    jinja_value changed;
    int asked; /* changed has been called */
};

#if defined __GNUC__ && !defined __clang__
__attribute__((format(gnu_printf, 4, 5)))
#endif
static jinja_value
jinja__wrong(jinja__run *r, mla_result code, const jinja__node *node, const char *format, ...) { /* undefined */
    int line, column;
    char what[180];
    va_list args;
    if (!r->code) {
        va_start(args, format);
        vsnprintf(what, sizeof what, format, args);
        va_end(args);
        jinja__place(r->t, node ? node->at : 0, &line, &column);
        r->code = jinja__error(r->err, code, "%s:%d:%d: %s", r->t->label, line, column, what);
    }
    return jinja__make(JINJA__UNDEFINED);
}

static jinja_value jinja__full(jinja__run *r, const jinja__node *node) {
    if (r->arena.failed) return jinja__wrong(r, MLA_ERR_MEMORY, node, "out of memory");
    return jinja__wrong(r, MLA_ERR_FULL, node, "the template takes more than %zu bytes of memory", r->o.bytes);
}

static int jinja__spend(jinja__run *r, const jinja__node *node, size_t steps) { /* 0: no more are left */
    r->steps += steps;
    if (r->steps > r->o.steps)
        jinja__wrong(r, MLA_ERR_FULL, node, "the template takes more than %.0f steps", (double)r->o.steps);
    return !r->code;
}

static int jinja__enter(jinja__run *r, const jinja__node *node) { /* 0: too deep; leave by r->depth-- in any case */
    if (++r->depth > r->o.depth) jinja__wrong(r, MLA_ERR_FULL, node, "nested more than %d deep", r->o.depth);
    return jinja__spend(r, node, 1);
}

/* ---- >>text ------------------------------------------------------------------------------------------------------ */

static void jinja__write(jinja__run *r, const char *bytes, size_t n) {
    if (r->code || !jinja__spend(r, NULL, n / 16) || n == 0) return;
    if (n > r->o.bytes || r->n > r->o.bytes - n) {
        jinja__full(r, NULL);
        return;
    }
    if (r->n + n + 1 > r->capacity) {
        const size_t capacity = 2 * (r->n + n) + 1024;
        char *out = (char *)realloc(r->out, capacity);
        if (!out) {
            jinja__wrong(r, MLA_ERR_MEMORY, NULL, "out of memory");
            return;
        }
        r->out = out, r->capacity = capacity;
    }
    memcpy(r->out + r->n, bytes, n);
    r->n += n;
}

static void jinja__puts(jinja__run *r, const char *text) { jinja__write(r, text, strlen(text)); }

static void jinja__put_char(jinja__run *r, uint32_t c) {
    char bytes[4];
    jinja__write(r, bytes, jinja__utf8(c, bytes));
}

/* What was written since mark, which is taken back, as a string. */
static jinja_value jinja__take(jinja__run *r, size_t mark) {
    const size_t n = r->n - mark;
    char *text = r->code ? NULL : jinja__string_room(&r->arena, n);
    r->n = mark;
    if (!text) return r->code ? jinja__make(JINJA__UNDEFINED) : jinja__full(r, NULL);
    if (n) memcpy(text, r->out + mark, n);
    return jinja__make_text(text, n);
}

/* As Python writes it: the shortest that reads back as the same. */
static void jinja__real_text(char out[40], double x) {
    char e[40], digits[24];
    int n = 0, precision = 0;
    if (!(fabs(x) < HUGE_VAL)) {
        snprintf(out, 40, "%s", x > 0 ? "inf" : x < 0 ? "-inf" : "nan");
        return;
    }
    do snprintf(e, sizeof e, "%.*e", precision, x);
    while (strtod(e, NULL) != x && ++precision < 17);
    const int exponent = atoi(strchr(e, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        snprintf(out, 40, "%s", e);
        return;
    }
    for (const char *c = e; *c != 'e'; c++)
        if (isdigit((unsigned char)*c)) digits[n++] = *c;
    char *o = out;
    if (e[0] == '-') *o++ = '-';
    if (exponent < 0) *o++ = '0', *o++ = '.';
    for (int i = exponent + 1; i < 0; i++) *o++ = '0';
    for (int i = 0; i < n || i <= exponent + 1; i++) {
        if (exponent >= 0 && i == exponent + 1) *o++ = '.';
        *o++ = i < n ? digits[i] : '0';
        if (i >= n - 1 && (exponent < 0 || i > exponent)) break;
    }
    *o = 0;
}

static void jinja__print_number(jinja__run *r, const jinja_value *v) {
    char text[40];
    if (v->type == JINJA__FLOAT) jinja__real_text(text, v->u.real);
    else snprintf(text, sizeof text, "%lld", (long long)v->u.integer);
    jinja__puts(r, text);
}

static void jinja__quote(jinja__run *r, const jinja_value *v) { /* as Python's repr */
    const char quote = memchr(v->u.text, '\'', v->n) && !memchr(v->u.text, '"', v->n) ? '"' : '\'';
    char text[8];
    jinja__write(r, &quote, 1);
    for (size_t i = 0; i < v->n && !r->code; i++) {
        const char c = v->u.text[i];
        if (c == quote || c == '\\') snprintf(text, sizeof text, "\\%c", c), jinja__puts(r, text);
        else if (c == '\n' || c == '\r' || c == '\t') jinja__puts(r, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
        else if ((unsigned char)c < 0x20 || c == 0x7f)
            snprintf(text, sizeof text, "\\x%02x", (unsigned)c), jinja__puts(r, text);
        else jinja__write(r, &c, 1);
    }
    jinja__write(r, &quote, 1);
}

/* str() of a value, or repr() where it stands in another. */
static void jinja__print(jinja__run *r, const jinja__node *node, const jinja_value *v, int inside) {
    const int list = v->type == JINJA__LIST;
    if (!jinja__enter(r, node)) {
    } else if (v->type == JINJA__STRING) inside ? jinja__quote(r, v) : jinja__write(r, v->u.text, v->n);
    else if (v->type == JINJA__UNDEFINED) jinja__puts(r, inside ? "Undefined" : "");
    else if (v->type == JINJA__NONE) jinja__puts(r, "None");
    else if (v->type == JINJA__BOOL) jinja__puts(r, v->u.integer ? "True" : "False");
    else if (v->type == JINJA__INTEGER || v->type == JINJA__FLOAT) jinja__print_number(r, v);
    else if (jinja__is_sequence(v)) {
        jinja__puts(r, list ? "[" : "(");
        for (size_t i = 0; i < v->u.list->n && !r->code; i++) {
            if (i) jinja__puts(r, ", ");
            jinja__print(r, node, &v->u.list->items[i], 1);
        }
        jinja__puts(r, list ? "]" : v->u.list->n == 1 ? ",)" : ")");
    } else if (v->type == JINJA__DICT || v->type == JINJA__NAMESPACE) {
        jinja__puts(r, v->type == JINJA__DICT ? "{" : "<Namespace {");
        for (size_t i = 0; i < v->u.dict->n && !r->code; i++) {
            const jinja__member *m = &v->u.dict->items[i];
            const jinja_value key = jinja__make_text(m->key, m->n);
            if (i) jinja__puts(r, ", ");
            jinja__quote(r, &key), jinja__puts(r, ": "), jinja__print(r, node, &m->value, 1);
        }
        jinja__puts(r, v->type == JINJA__DICT ? "}" : "}>");
    } else jinja__wrong(r, MLA_ERR_CONFIG, node, "%s cannot be printed", jinja__type_name(v));
    r->depth--;
}

static jinja_value jinja__string(jinja__run *r, const jinja__node *node, jinja_value v) { /* str(v) */
    const size_t mark = r->n;
    if (v.type == JINJA__STRING) return v;
    jinja__print(r, node, &v, 0);
    return jinja__take(r, mark);
}

typedef struct jinja__style {  /* of JSON */
    int ascii, sorted, indent; /* -1: on one line */
    jinja_value between, behind_key;
} jinja__style;

static void jinja__json_text(jinja__run *r, const char *s, size_t n, int ascii) {
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    char text[16];
    uint32_t c;
    jinja__puts(r, "\"");
    for (size_t at = 0, length; at < n && !r->code; at += length) {
        length = jinja__char(s + at, n - at, &c);
        const char *known = c && c < 0x80 ? strchr(from, (int)c) : NULL;
        if (known) snprintf(text, sizeof text, "\\%c", to[known - from]), jinja__puts(r, text);
        else if (c < 0x20 || (ascii && c >= 0x7f && c < 0x10000))
            snprintf(text, sizeof text, "\\u%04x", (unsigned)c), jinja__puts(r, text);
        else if (ascii && c >= 0x10000) {
            snprintf(text, sizeof text, "\\u%04x\\u%04x", (unsigned)(0xD800 + ((c - 0x10000) >> 10)),
                     (unsigned)(0xDC00 + (c & 0x3FF)));
            jinja__puts(r, text);
        } else jinja__write(r, s + at, length);
    }
    jinja__puts(r, "\"");
}

static void jinja__json_line(jinja__run *r, const jinja__style *style, int level) {
    if (style->indent < 0) return;
    jinja__puts(r, "\n");
    for (int i = 0; i < level * style->indent && !r->code; i++) jinja__puts(r, " ");
}

static int jinja__by_key(const void *a, const void *b) {
    const jinja__member *x = (const jinja__member *)a, *y = (const jinja__member *)b;
    const int order = memcmp(x->key, y->key, x->n < y->n ? x->n : y->n);
    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static void jinja__json_out(jinja__run *r, const jinja__node *node, const jinja_value *v, const jinja__style *style,
                            int level) {
    const int dict = v->type == JINJA__DICT;
    if (!jinja__enter(r, node)) {
    } else if (v->type == JINJA__STRING) jinja__json_text(r, v->u.text, v->n, style->ascii);
    else if (v->type == JINJA__NONE) jinja__puts(r, "null");
    else if (v->type == JINJA__BOOL) jinja__puts(r, v->u.integer ? "true" : "false");
    else if (v->type == JINJA__INTEGER || v->type == JINJA__FLOAT) jinja__print_number(r, v);
    else if (dict || jinja__is_sequence(v)) {
        const size_t n = dict ? v->u.dict->n : v->u.list->n;
        const jinja__member *members = dict ? v->u.dict->items : NULL;
        if (dict && style->sorted && n > 1) {
            jinja__member *copy = (jinja__member *)jinja__alloc(&r->arena, n * sizeof *copy);
            if (copy) memcpy(copy, members, n * sizeof *copy), qsort(copy, n, sizeof *copy, jinja__by_key);
            if (!copy) jinja__full(r, node);
            members = copy;
        }
        jinja__puts(r, dict ? "{" : "[");
        for (size_t i = 0; i < n && !r->code; i++) {
            if (i) jinja__write(r, style->between.u.text, style->between.n);
            jinja__json_line(r, style, level + 1);
            if (dict)
                jinja__json_text(r, members[i].key, members[i].n, style->ascii),
                    jinja__write(r, style->behind_key.u.text, style->behind_key.n);
            jinja__json_out(r, node, dict ? &members[i].value : &v->u.list->items[i], style, level + 1);
        }
        if (n) jinja__json_line(r, style, level);
        jinja__puts(r, dict ? "}" : "]");
    } else jinja__wrong(r, MLA_ERR_CONFIG, node, "tojson: %s is no JSON", jinja__type_name(v));
    r->depth--;
}

/* ---- >>operators ------------------------------------------------------------------------------------------------- */

static int jinja__true(const jinja_value *v) {
    switch (v->type) {
    case JINJA__UNDEFINED:
    case JINJA__NONE: return 0;
    case JINJA__BOOL:
    case JINJA__INTEGER: return v->u.integer != 0;
    case JINJA__FLOAT: return v->u.real != 0;
    case JINJA__STRING: return v->n > 0;
    case JINJA__LIST:
    case JINJA__TUPLE: return v->u.list->n > 0;
    case JINJA__DICT: return v->u.dict->n > 0;
    default: return 1;
    }
}

static int jinja__is_whole(const jinja_value *v) { return v->type == JINJA__INTEGER || v->type == JINJA__BOOL; }
static int jinja__is_number(const jinja_value *v) { return jinja__is_whole(v) || v->type == JINJA__FLOAT; }
static double jinja__real(const jinja_value *v) { return v->type == JINJA__FLOAT ? v->u.real : (double)v->u.integer; }

static int jinja__equal(jinja__run *r, const jinja__node *node, const jinja_value *a, const jinja_value *b) {
    int same = 0;
    if (!jinja__enter(r, node)) {
    } else if (jinja__is_whole(a) && jinja__is_whole(b)) same = a->u.integer == b->u.integer;
    else if (jinja__is_number(a) && jinja__is_number(b)) same = jinja__real(a) == jinja__real(b);
    else if (a->type != b->type) same = 0;
    else if (a->type == JINJA__STRING)
        same = a->n == b->n && jinja__spend(r, node, a->n / 16) && !memcmp(a->u.text, b->u.text, a->n);
    else if (jinja__is_sequence(a)) {
        same = a->u.list->n == b->u.list->n;
        for (size_t i = 0; same && i < a->u.list->n; i++)
            same = jinja__equal(r, node, &a->u.list->items[i], &b->u.list->items[i]);
    } else if (a->type == JINJA__DICT) {
        same = a->u.dict->n == b->u.dict->n;
        for (size_t i = 0; same && i < a->u.dict->n && jinja__spend(r, node, b->u.dict->n); i++) {
            const jinja__member *m = &a->u.dict->items[i], *other = jinja__dict_find(b->u.dict, m->key, m->n);
            same = other && jinja__equal(r, node, &m->value, &other->value);
        }
    } else same = a->type == JINJA__NONE || a->type == JINJA__UNDEFINED || a->u.list == b->u.list;
    r->depth--;
    return same;
}

/* -1, 0, 1: a is before, like or behind b; an error if there is no such order. */
static int jinja__order(jinja__run *r, const jinja__node *node, const jinja_value *a, const jinja_value *b) {
    int order = 0;
    if (!jinja__enter(r, node)) {
    } else if (jinja__is_whole(a) && jinja__is_whole(b))
        order = (a->u.integer > b->u.integer) - (a->u.integer < b->u.integer);
    else if (jinja__is_number(a) && jinja__is_number(b))
        order = (jinja__real(a) > jinja__real(b)) - (jinja__real(a) < jinja__real(b));
    else if (a->type == JINJA__STRING && b->type == JINJA__STRING) {
        const size_t n = a->n < b->n ? a->n : b->n;
        jinja__spend(r, node, n / 16);
        order = memcmp(a->u.text, b->u.text, n); /* UTF-8 sorts as its characters do */
        order = order ? order : (a->n > b->n) - (a->n < b->n);
    } else if (jinja__is_sequence(a) && a->type == b->type) {
        const size_t x = a->u.list->n, y = b->u.list->n;
        for (size_t i = 0; !order && i < x && i < y && !r->code; i++)
            order = jinja__order(r, node, &a->u.list->items[i], &b->u.list->items[i]);
        order = order ? order : (x > y) - (x < y);
    } else jinja__wrong(r, MLA_ERR_CONFIG, node, "%s and %s have no order", jinja__type_name(a), jinja__type_name(b));
    r->depth--;
    return order < 0 ? -1 : order > 0;
}

static int jinja__contains(jinja__run *r, const jinja__node *node, const jinja_value *in, const jinja_value *what) {
    if (in->type == JINJA__STRING && what->type == JINJA__STRING)
        return jinja__spend(r, node, in->n / 16) && jinja__find(in->u.text, in->n, what->u.text, what->n) != NULL;
    if (in->type == JINJA__DICT)
        return what->type == JINJA__STRING && jinja__spend(r, node, in->u.dict->n) &&
               jinja__dict_find(in->u.dict, what->u.text, what->n);
    if (jinja__is_sequence(in)) {
        for (size_t i = 0; i < in->u.list->n && !r->code; i++)
            if (jinja__equal(r, node, &in->u.list->items[i], what)) return 1;
        return 0;
    }
    if (in->type != JINJA__UNDEFINED)
        jinja__wrong(r, MLA_ERR_CONFIG, node, "%s in %s has no meaning", jinja__type_name(what), jinja__type_name(in));
    return 0;
}

static jinja_value jinja__concat(jinja__run *r, const jinja__node *node, jinja_value a, jinja_value b) {
    if (a.n == 0) return b;
    if (b.n == 0) return a;
    jinja__spend(r, node, b.n / 16);
    if (jinja__grow(&r->arena, a.u.text + a.n, b.n)) {
        memcpy(r->arena.open - b.n, b.u.text, b.n);
        a.n += b.n;
        return a;
    }
    char *text = jinja__spend(r, node, a.n / 16) && b.n < r->o.bytes ? jinja__string_room(&r->arena, a.n + b.n) : NULL;
    if (!text) return jinja__full(r, node);
    memcpy(text, a.u.text, a.n), memcpy(text + a.n, b.u.text, b.n);
    return jinja__make_text(text, a.n + b.n);
}

static jinja_value jinja__list_of(jinja__run *r, jinja__type type) {
    const jinja_value v = jinja__make_list(&r->arena, type);
    return v.type == type ? v : jinja__full(r, NULL);
}

static void jinja__list_put(jinja__run *r, const jinja_value *list, jinja_value v) {
    if (!r->code && jinja__spend(r, NULL, 1) && !jinja__list_add(&r->arena, list->u.list, v)) jinja__full(r, NULL);
}

static jinja_value jinja__times(jinja__run *r, const jinja__node *node, jinja_value a, int64_t count) {
    const jinja_value list = a.type == JINJA__STRING ? a : jinja__list_of(r, a.type);
    const size_t mark = r->n, n = a.type == JINJA__STRING ? a.n : a.u.list->n;
    for (int64_t i = 0; i < count && n > 0 && !r->code && jinja__spend(r, node, 1); i++) {
        if (a.type == JINJA__STRING) jinja__write(r, a.u.text, a.n);
        else
            for (size_t k = 0; k < a.u.list->n && !r->code; k++) jinja__list_put(r, &list, a.u.list->items[k]);
    }
    return a.type == JINJA__STRING ? jinja__take(r, mark) : list;
}

static int jinja__fits(int64_t a, int64_t b, int op) { /* a op b in 64 bits */
    if (op == '+') return b < 0 ? a >= INT64_MIN - b : a <= INT64_MAX - b;
    if (op == '-') return b < 0 ? a <= INT64_MAX + b : a >= INT64_MIN + b;
    if (a == 0 || b == 0) return 1;
    if (a == -1 || b == -1) return (a == -1 ? b : a) != INT64_MIN;
    return (a < 0) == (b < 0) ? (a < 0 ? a >= INT64_MAX / b : a <= INT64_MAX / b)
                              : (a < 0 ? a >= INT64_MIN / b : b >= INT64_MIN / a);
}

static jinja_value jinja__whole(jinja__run *r, const jinja__node *node, int64_t a, int64_t b, int op) {
    int64_t power = 1;
    if (op == '+' || op == '-' || op == '*') {
        if (!jinja__fits(a, b, op)) return jinja__wrong(r, MLA_ERR_CONFIG, node, "a number of more than 64 bits");
        return jinja__make_int(op == '+' ? a + b : op == '-' ? a - b : a * b);
    }
    if (op == JINJA__2('*', '*')) {
        if (b < 0)
            return a ? jinja__make_real(pow((double)a, (double)b))
                     : jinja__wrong(r, MLA_ERR_CONFIG, node, "division by zero");
        if (a == 0 || a == 1 || a == -1) return jinja__make_int(b == 0 ? 1 : a == -1 && b % 2 == 0 ? 1 : a);
        for (; b > 0; b--) {
            if (!jinja__fits(power, a, '*'))
                return jinja__wrong(r, MLA_ERR_CONFIG, node, "a number of more than 64 bits");
            power *= a;
        }
        return jinja__make_int(power);
    }
    if (b == 0) return jinja__wrong(r, MLA_ERR_CONFIG, node, "division by zero");
    if (op == '/') return jinja__make_real((double)a / (double)b);
    if (b == -1) { /* INT64_MIN / -1 is not */
        if (op == '%') return jinja__make_int(0);
        return a == INT64_MIN ? jinja__wrong(r, MLA_ERR_CONFIG, node, "a number of more than 64 bits")
                              : jinja__make_int(-a);
    }
    const int64_t rest = a % b, below = rest != 0 && (rest < 0) != (b < 0); /* Python rounds down */
    return jinja__make_int(op == '%' ? rest + (below ? b : 0) : a / b - below);
}

static jinja_value jinja__floating(jinja__run *r, const jinja__node *node, double a, double b, int op) {
    if (op == '+') return jinja__make_real(a + b);
    if (op == '-') return jinja__make_real(a - b);
    if (op == '*') return jinja__make_real(a * b);
    if (op == JINJA__2('*', '*')) {
        const double power = pow(a, b);
        if (!(fabs(power) < HUGE_VAL)) return jinja__wrong(r, MLA_ERR_CONFIG, node, "the power is not a number");
        return jinja__make_real(power);
    }
    if (b == 0) return jinja__wrong(r, MLA_ERR_CONFIG, node, "division by zero");
    if (op == '/') return jinja__make_real(a / b);
    if (op != '%') return jinja__make_real(floor(a / b));
    const double rest = fmod(a, b);
    return jinja__make_real(rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest);
}

static jinja_value jinja__format(jinja__run *r, const jinja__node *node, const jinja_value *format,
                                 const jinja__list *items);

static jinja_value jinja__binary(jinja__run *r, const jinja__node *node, jinja_value a, jinja_value b) {
    const int op = node->op;
    if (r->code) return a;
    if (op == '~') {
        const jinja_value left = jinja__string(r, node, a), right = jinja__string(r, node, b);
        return r->code ? left : jinja__concat(r, node, left, right);
    }
    if (jinja__is_whole(&a) && jinja__is_whole(&b)) return jinja__whole(r, node, a.u.integer, b.u.integer, op);
    if (jinja__is_number(&a) && jinja__is_number(&b))
        return jinja__floating(r, node, jinja__real(&a), jinja__real(&b), op);
    if (op == '+' && a.type == JINJA__STRING && b.type == JINJA__STRING) return jinja__concat(r, node, a, b);
    if (op == '+' && jinja__is_sequence(&a) && a.type == b.type) {
        const jinja_value list = jinja__times(r, node, a, 1);
        for (size_t i = 0; i < b.u.list->n && !r->code; i++) jinja__list_put(r, &list, b.u.list->items[i]);
        return list;
    }
    if (op == '*' && jinja__is_whole(&b) && (a.type == JINJA__STRING || jinja__is_sequence(&a)))
        return jinja__times(r, node, a, b.u.integer);
    if (op == '*' && jinja__is_whole(&a) && (b.type == JINJA__STRING || jinja__is_sequence(&b)))
        return jinja__times(r, node, b, a.u.integer);
    if (op == '%' && a.type == JINJA__STRING) {
        jinja__list one;
        memset(&one, 0, sizeof one);
        one.items = &b, one.n = 1;
        return jinja__format(r, node, &a, b.type == JINJA__TUPLE ? b.u.list : &one);
    }
    const char text[3] = {(char)(op > 255 ? op >> 8 : op), (char)(op > 255 ? op & 255 : 0), 0};
    const jinja_value *undefined = a.type == JINJA__UNDEFINED ? &a : b.type == JINJA__UNDEFINED ? &b : NULL;
    if (undefined && undefined->u.text)
        return jinja__wrong(r, MLA_ERR_CONFIG, node, "'%.*s' is undefined", undefined->n < 60 ? (int)undefined->n : 60,
                            undefined->u.text);
    return jinja__wrong(r, MLA_ERR_CONFIG, node, "%s %s %s has no meaning", jinja__type_name(&a), text,
                        jinja__type_name(&b));
}

static int jinja__compare(jinja__run *r, const jinja__node *node, int op, const jinja_value *a, const jinja_value *b) {
    switch (op) {
    case JINJA__2('=', '='): return jinja__equal(r, node, a, b);
    case JINJA__2('!', '='): return !jinja__equal(r, node, a, b);
    case JINJA__2('<', '='): return jinja__order(r, node, a, b) <= 0;
    case JINJA__2('>', '='): return jinja__order(r, node, a, b) >= 0;
    case '<': return jinja__order(r, node, a, b) < 0;
    case '>': return jinja__order(r, node, a, b) > 0;
    case JINJA__IN: return jinja__contains(r, node, b, a);
    default: return !jinja__contains(r, node, b, a);
    }
}

/* ---- >>access ---------------------------------------------------------------------------------------------------- */

static const jinja__entry *jinja__method_of(jinja__type type, const char *name, size_t n);
static const jinja__entry *jinja__function_of(const char *name, size_t n);

static jinja_value jinja__unknown(const char *name, size_t n) { /* undefined, and how it is called in messages */
    jinja_value v = jinja__make(JINJA__UNDEFINED);
    v.u.text = name, v.n = n;
    return v;
}

static jinja_value jinja__callable(jinja__run *r, const jinja__entry *entry, jinja_value self) {
    jinja_value v = jinja__make(JINJA__FUNCTION);
    v.u.function = (jinja__function *)jinja__alloc(&r->arena, sizeof *v.u.function);
    if (!v.u.function) return jinja__full(r, NULL);
    memset(v.u.function, 0, sizeof *v.u.function);
    v.u.function->entry = entry, v.u.function->self = self;
    if (entry) v.u.function->name = entry->name, v.u.function->n = strlen(entry->name);
    return v;
}

static jinja_value jinja__lookup(jinja__run *r, const jinja__node *node, const jinja__scope *scope) {
    for (; scope && jinja__spend(r, node, 1 + scope->names.n / 4); scope = scope->parent) {
        const jinja__member *m = jinja__dict_find(&scope->names, node->text, node->n);
        if (m) return m->value;
    }
    const jinja__entry *function = jinja__function_of(node->text, node->n);
    return function ? jinja__callable(r, function, jinja__make(JINJA__UNDEFINED)) : jinja__unknown(node->text, node->n);
}

static jinja_value jinja__loop_item(const jinja__loop *l, size_t at) {
    return at < l->items->n ? l->items->items[at] : jinja__make(JINJA__UNDEFINED);
}

static jinja_value jinja__loop_attribute(jinja__run *r, const jinja_value *v, const char *name, size_t n) {
    static const char *const names[] = {"index",  "index0", "revindex", "revindex0", "first",   "last",
                                        "length", "depth",  "depth0",   "previtem",  "nextitem"};
    const jinja__loop *l = v->u.loop;
    const int64_t i = (int64_t)l->at, count = (int64_t)l->items->n;
    int k = 0;
    while (k < 11 && (strlen(names[k]) != n || memcmp(names[k], name, n) != 0)) k++;
    switch (k) {
    case 0: return jinja__make_int(i + 1);
    case 1: return jinja__make_int(i);
    case 2: return jinja__make_int(count - i);
    case 3: return jinja__make_int(count - i - 1);
    case 4: return jinja__make_bool(i == 0);
    case 5: return jinja__make_bool(i + 1 == count);
    case 6: return jinja__make_int(count);
    case 7: return jinja__make_int(1);
    case 8: return jinja__make_int(0);
    case 9: return jinja__loop_item(l, l->at - 1); /* before the first: SIZE_MAX, which is no item */
    case 10: return jinja__loop_item(l, l->at + 1);
    default: break;
    }
    const jinja__entry *method = jinja__method_of(JINJA__LOOP, name, n);
    return method ? jinja__callable(r, method, *v) : jinja__unknown(name, n);
}

/* Of undefined nothing can be asked. */
static jinja_value jinja__is_undefined(jinja__run *r, const jinja__node *node, const jinja_value *v) {
    if (v->u.text)
        return jinja__wrong(r, MLA_ERR_CONFIG, node, "'%.*s' is undefined", v->n < 60 ? (int)v->n : 60, v->u.text);
    return jinja__wrong(r, MLA_ERR_CONFIG, node, "the value is undefined");
}

static jinja_value jinja__member_or_method(jinja__run *r, const jinja__node *node, const jinja_value *v,
                                           const char *name, size_t n, int method_first) {
    const int members = v->type == JINJA__DICT || v->type == JINJA__NAMESPACE;
    if (v->type == JINJA__UNDEFINED) return jinja__is_undefined(r, node, v);
    if (v->type == JINJA__LOOP) return jinja__loop_attribute(r, v, name, n);
    const jinja__entry *method = jinja__method_of(v->type, name, n);
    const jinja__member *m =
        members && jinja__spend(r, node, v->u.dict->n / 4) ? jinja__dict_find(v->u.dict, name, n) : NULL;
    if (m && !(method && method_first)) return m->value;
    return method ? jinja__callable(r, method, *v) : jinja__unknown(name, n);
}

static size_t jinja__offset(const jinja_value *v, size_t character) { /* of a character in a string */
    size_t at = 0;
    uint32_t c;
    while (character-- > 0 && at < v->n) at += jinja__char(v->u.text + at, v->n - at, &c);
    return at;
}

static jinja_value jinja__index(jinja__run *r, const jinja__node *node, const jinja_value *v, const jinja_value *key) {
    uint32_t c;
    if (r->code) return *v;
    if (v->type == JINJA__UNDEFINED) return jinja__is_undefined(r, node, v);
    if (key->type == JINJA__STRING) return jinja__member_or_method(r, node, v, key->u.text, key->n, 0);
    if (!jinja__is_whole(key)) return jinja__make(JINJA__UNDEFINED);
    const int text = v->type == JINJA__STRING;
    if (!text && !jinja__is_sequence(v)) return jinja__make(JINJA__UNDEFINED);
    if (text) jinja__spend(r, node, v->n / 4);
    const int64_t n = (int64_t)(text ? jinja__length(v->u.text, v->n) : v->u.list->n), i = key->u.integer;
    if (i >= n || i < -n) return jinja__make(JINJA__UNDEFINED);
    const size_t at = (size_t)(i < 0 ? i + n : i);
    if (!text) return v->u.list->items[at];
    const size_t offset = jinja__offset(v, at);
    return jinja__make_text(v->u.text + offset, jinja__char(v->u.text + offset, v->n - offset, &c));
}

/* A bound of a slice of n items as Python clips it. */
static int64_t jinja__bound(const jinja_value *v, int64_t n, int64_t step, int64_t missing) {
    if (v->type == JINJA__NONE) return missing;
    int64_t i = v->u.integer;
    if (i < 0) i = i < -n ? (step < 0 ? -1 : 0) : i + n;
    if (i >= n) i = step < 0 ? n - 1 : n;
    return i;
}

static jinja_value jinja__slice(jinja__run *r, const jinja__node *node, const jinja_value *v,
                                const jinja_value bounds[3]) {
    const int text = v->type == JINJA__STRING;
    const size_t mark = r->n;
    uint32_t c;
    if (r->code) return *v;
    if (!text && !jinja__is_sequence(v))
        return v->type == JINJA__UNDEFINED ? jinja__is_undefined(r, node, v) : jinja__make(JINJA__UNDEFINED);
    for (int i = 0; i < 3; i++)
        if (!jinja__is_whole(&bounds[i]) && bounds[i].type != JINJA__NONE)
            return jinja__wrong(r, MLA_ERR_CONFIG, node, "a bound of a slice is no integer");
    const int64_t step = bounds[2].type == JINJA__NONE ? 1 : bounds[2].u.integer;
    if (step == 0) return jinja__wrong(r, MLA_ERR_CONFIG, node, "the step of a slice is 0");
    if (text) jinja__spend(r, node, v->n / 4);
    const int64_t n = (int64_t)(text ? jinja__length(v->u.text, v->n) : v->u.list->n);
    const int64_t begin = jinja__bound(&bounds[0], n, step, step < 0 ? n - 1 : 0),
                  end = jinja__bound(&bounds[1], n, step, step < 0 ? -1 : n);
    if (text && step == 1) {
        const size_t from = jinja__offset(v, (size_t)begin), to = begin < end ? jinja__offset(v, (size_t)end) : from;
        return jinja__make_text(v->u.text + from, to - from);
    }
    const int bytes = text && (int64_t)v->n == n; /* one for each character */
    const jinja_value list = text ? *v : jinja__list_of(r, v->type);
    for (int64_t i = begin; (step > 0 ? i < end : i > end) && !r->code; i += step) {
        if (!text) jinja__list_put(r, &list, v->u.list->items[i]);
        else {
            if (!bytes) jinja__spend(r, node, (size_t)i);
            const size_t at = bytes ? (size_t)i : jinja__offset(v, (size_t)i);
            jinja__write(r, v->u.text + at, jinja__char(v->u.text + at, v->n - at, &c));
        }
        if (step > 0 ? i > INT64_MAX - step : i < INT64_MIN - step) break;
    }
    return text ? jinja__take(r, mark) : list;
}

/* What a loop goes over: a list's items, a dict's keys, a string's characters, nothing of undefined. */
static jinja_value jinja__items(jinja__run *r, const jinja__node *node, const jinja_value *v) {
    if (r->code || jinja__is_sequence(v)) return *v;
    const jinja_value list = jinja__list_of(r, JINJA__LIST);
    uint32_t c;
    if (r->code || v->type == JINJA__UNDEFINED) return list;
    if (v->type == JINJA__DICT)
        for (size_t i = 0; i < v->u.dict->n; i++)
            jinja__list_put(r, &list, jinja__make_text(v->u.dict->items[i].key, v->u.dict->items[i].n));
    else if (v->type == JINJA__STRING)
        for (size_t at = 0, n; at < v->n && !r->code; at += n) {
            n = jinja__char(v->u.text + at, v->n - at, &c);
            jinja__list_put(r, &list, jinja__make_text(v->u.text + at, n));
        }
    else return jinja__wrong(r, MLA_ERR_CONFIG, node, "%s has no items to go over", jinja__type_name(v));
    return list;
}

/* ---- >>calls ----------------------------------------------------------------------------------------------------- */

static jinja_value jinja__evaluate(jinja__run *r, const jinja__node *node, jinja__scope *scope);
static void jinja__execute(jinja__run *r, const jinja__node *list, jinja__scope *scope);

static void jinja__define(jinja__run *r, jinja__dict *names, const char *name, size_t n, jinja_value v) {
    if (!r->code && jinja__spend(r, NULL, 1 + names->n / 4) && !jinja__dict_put(&r->arena, names, name, n, v))
        jinja__full(r, NULL);
}

static jinja__scope *jinja__scope_in(jinja__run *r, jinja__scope *parent) { /* NULL: an error */
    jinja__scope *s = (jinja__scope *)jinja__alloc(&r->arena, sizeof *s);
    if (!s) return jinja__full(r, NULL), (jinja__scope *)NULL;
    memset(s, 0, sizeof *s);
    s->parent = parent;
    return s;
}

/* Arguments, in the order in which Python evaluates them. */
static void jinja__bind(jinja__run *r, const jinja__node *argument, jinja__scope *scope, jinja__call *c) {
    for (; argument && !r->code; argument = argument->next) {
        const int other =
            argument->what == JINJA__NAMED || argument->what == JINJA__SPREAD || argument->what == JINJA__SPREAD_NAMED;
        const jinja_value v = jinja__evaluate(r, other ? argument->a : argument, scope);
        if (r->code) return;
        if (argument->what == JINJA__NAMED) jinja__define(r, &c->named, argument->text, argument->n, v);
        else if (argument->what == JINJA__SPREAD) {
            const jinja_value list = jinja__items(r, argument, &v);
            for (size_t i = 0; !r->code && i < list.u.list->n; i++)
                if (!jinja__list_add(&r->arena, &c->items, list.u.list->items[i])) jinja__full(r, argument);
        } else if (argument->what == JINJA__SPREAD_NAMED) {
            if (v.type != JINJA__DICT) jinja__wrong(r, MLA_ERR_CONFIG, argument, "** of %s", jinja__type_name(&v));
            for (size_t i = 0; !r->code && i < v.u.dict->n; i++)
                jinja__define(r, &c->named, v.u.dict->items[i].key, v.u.dict->items[i].n, v.u.dict->items[i].value);
        } else if (!jinja__list_add(&r->arena, &c->items, v)) jinja__full(r, argument);
    }
}

static jinja_value jinja__run_entry(jinja__run *r, const jinja__entry *entry, jinja__call *c) {
    const size_t given = c->items.n + c->named.n;
    c->name = entry->name, c->length = strlen(entry->name);
    if (r->code) return c->self;
    if (given < (size_t)entry->least || (entry->most >= 0 && given > (size_t)entry->most))
        return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "%s: %zu arguments are too %s", entry->name, given,
                            given < (size_t)entry->least ? "few" : "many");
    const jinja_value v = entry->run(r, c);
    for (size_t i = 0; i < c->named.n && !r->code; i++)
        if (!c->named.items[i].taken)
            return jinja__wrong(r, MLA_ERR_UNSUPPORTED, c->node, "%s: no argument '%.*s' is known", entry->name,
                                c->named.items[i].n < 40 ? (int)c->named.items[i].n : 40, c->named.items[i].key);
    return v;
}

static void jinja__bind_parameters(jinja__run *r, const jinja__node *macro, jinja__call *c, jinja__scope *inner) {
    const jinja_value more = jinja__list_of(r, JINJA__TUPLE), others = jinja__make_dict(&r->arena, JINJA__DICT);
    size_t i = 0;
    if (others.type != JINJA__DICT) jinja__full(r, c->node);
    for (const jinja__node *p = macro->b; p && !r->code; p = p->next, i++) {
        jinja__member *named = jinja__dict_find(&c->named, p->text, p->n);
        if (named && i < c->items.n)
            jinja__wrong(r, MLA_ERR_CONFIG, c->node, "%.*s: argument '%.*s' is given twice", (int)c->length, c->name,
                         (int)p->n, p->text);
        if (named) named->taken = 1;
        jinja__define(r, &inner->names, p->text, p->n,
                      named            ? named->value
                      : i < c->items.n ? c->items.items[i]
                                       : jinja__unknown(p->text, p->n));
    }
    if (i < c->items.n && !(macro->op & JINJA__VARARGS))
        jinja__wrong(r, MLA_ERR_CONFIG, c->node, "%.*s: %zu arguments, at most %zu are taken", (int)c->length, c->name,
                     c->items.n, i);
    for (; i < c->items.n && !r->code; i++) jinja__list_put(r, &more, c->items.items[i]);
    for (size_t k = 0; k < c->named.n && !r->code; k++) {
        const jinja__member *m = &c->named.items[k];
        if (m->taken) continue;
        if (m->n == 6 && !memcmp(m->key, "caller", 6)) c->caller = m->value;
        else if (macro->op & JINJA__KWARGS) jinja__define(r, others.u.dict, m->key, m->n, m->value);
        else
            jinja__wrong(r, MLA_ERR_CONFIG, c->node, "%.*s: no argument '%.*s' is known", (int)c->length, c->name,
                         m->n < 40 ? (int)m->n : 40, m->key);
    }
    if (macro->op & JINJA__VARARGS) jinja__define(r, &inner->names, "varargs", 7, more);
    if (macro->op & JINJA__KWARGS) jinja__define(r, &inner->names, "kwargs", 6, others);
    if (macro->op & JINJA__CALLER) jinja__define(r, &inner->names, "caller", 6, c->caller);
    i = 0;
    for (const jinja__node *p = macro->b; p && !r->code; p = p->next, i++)
        if (p->a && i >= c->items.n && !jinja__dict_find(&c->named, p->text, p->n))
            jinja__define(r, &inner->names, p->text, p->n, jinja__evaluate(r, p->a, inner));
}

static jinja_value jinja__invoke(jinja__run *r, const jinja_value *callee, jinja__call *c) {
    if (r->code) return *callee;
    if (callee->type == JINJA__UNDEFINED) return jinja__is_undefined(r, c->node, callee);
    if (callee->type != JINJA__FUNCTION)
        return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "%s cannot be called", jinja__type_name(callee));
    const jinja__function *f = callee->u.function;
    jinja_value result = jinja__make(JINJA__UNDEFINED);
    c->self = f->self, c->name = f->name, c->length = f->n;
    if (!jinja__enter(r, c->node)) {
    } else if (f->entry) result = jinja__run_entry(r, f->entry, c);
    else {
        const size_t mark = r->n;
        jinja__scope *inner = jinja__scope_in(r, f->scope);
        if (inner) jinja__bind_parameters(r, f->macro, c, inner);
        if (!r->code) jinja__execute(r, f->macro->c, inner);
        result = jinja__take(r, mark);
    }
    r->depth--;
    return result;
}

/* ---- >>evaluate -------------------------------------------------------------------------------------------------- */

static jinja_value jinja__collect(jinja__run *r, const jinja__node *node, jinja__scope *scope) { /* [..], (..), {..} */
    if (node->what == JINJA__PAIRS) {
        const jinja_value dict = jinja__make_dict(&r->arena, JINJA__DICT);
        if (dict.type != JINJA__DICT) return jinja__full(r, node);
        for (const jinja__node *n = node->b; n && !r->code; n = n->next->next) {
            const jinja_value key = jinja__evaluate(r, n, scope), v = jinja__evaluate(r, n->next, scope);
            if (key.type != JINJA__STRING)
                return jinja__wrong(r, MLA_ERR_UNSUPPORTED, n, "a key that is %s, not a string",
                                    jinja__type_name(&key));
            jinja__define(r, dict.u.dict, key.u.text, key.n, v);
        }
        return dict;
    }
    const jinja_value list = jinja__list_of(r, node->what == JINJA__ROW ? JINJA__TUPLE : JINJA__LIST);
    for (const jinja__node *n = node->b; n && !r->code; n = n->next)
        jinja__list_put(r, &list, jinja__evaluate(r, n, scope));
    return list;
}

static jinja_value jinja__call_of(jinja__run *r, const jinja__node *node, jinja__scope *scope,
                                  jinja_value caller) { /* a(b) */
    jinja__call c;
    memset(&c, 0, sizeof c);
    c.node = node, c.caller = caller;
    const jinja_value callee = jinja__evaluate(r, node->a, scope);
    if (node->a->what == JINJA__ATTRIBUTE && callee.type == JINJA__UNDEFINED && !r->code)
        return jinja__wrong(r, MLA_ERR_UNSUPPORTED, node, "no method '%.*s' is known",
                            node->a->n < 60 ? (int)node->a->n : 60, node->a->text);
    if (!r->code) jinja__bind(r, node->b, scope, &c);
    return jinja__invoke(r, &callee, &c);
}

static jinja_value jinja__filtered(jinja__run *r, const jinja__node *node,
                                   jinja__scope *scope) { /* filters and tests */
    jinja__call c;
    memset(&c, 0, sizeof c);
    c.node = node, c.self = jinja__evaluate(r, node->a, scope);
    if (!r->code) jinja__bind(r, node->b, scope, &c);
    const jinja_value v = jinja__run_entry(r, node->entry, &c);
    return node->what == JINJA__TEST && !r->code ? jinja__make_bool((v.u.integer != 0) != node->op) : v;
}

static jinja_value jinja__sliced(jinja__run *r, const jinja__node *node, jinja__scope *scope) {
    const jinja_value v = jinja__evaluate(r, node->a, scope);
    const jinja__node *parts[3] = {node->b, node->c, node->d};
    jinja_value bounds[3];
    for (int i = 0; i < 3; i++) bounds[i] = parts[i] ? jinja__evaluate(r, parts[i], scope) : jinja__make(JINJA__NONE);
    return jinja__slice(r, node, &v, bounds);
}

static jinja_value jinja__signed(jinja__run *r, const jinja__node *node, jinja_value v) {
    if (!jinja__is_number(&v))
        return r->code ? v : jinja__wrong(r, MLA_ERR_CONFIG, node, "a sign before %s", jinja__type_name(&v));
    if (v.type == JINJA__FLOAT) return jinja__make_real(node->what == JINJA__NEGATIVE ? -v.u.real : v.u.real);
    return node->what == JINJA__NEGATIVE ? jinja__whole(r, node, 0, v.u.integer, '-') : jinja__make_int(v.u.integer);
}

static jinja_value jinja__compared(jinja__run *r, const jinja__node *node, jinja__scope *scope) { /* a < b < c */
    jinja_value left = jinja__evaluate(r, node->a, scope);
    int holds = 1;
    for (const jinja__node *step = node->b; step && holds && !r->code; step = step->next) {
        const jinja_value right = jinja__evaluate(r, step->a, scope);
        if (!r->code) holds = jinja__compare(r, step, step->op, &left, &right);
        left = right;
    }
    return jinja__make_bool(holds);
}

static jinja_value jinja__value(jinja__run *r, const jinja__node *node, jinja__scope *scope) {
    jinja_value a, b;
    switch (node->what) {
    case JINJA__CONSTANT: return node->value;
    case JINJA__VARIABLE: return jinja__lookup(r, node, scope);
    case JINJA__CAPTURED: return r->captured;
    case JINJA__ITEMS:
    case JINJA__ROW:
    case JINJA__PAIRS: return jinja__collect(r, node, scope);
    case JINJA__INVOKE: return jinja__call_of(r, node, scope, jinja__make(JINJA__UNDEFINED));
    case JINJA__FILTER:
    case JINJA__TEST: return jinja__filtered(r, node, scope);
    case JINJA__SLICE: return jinja__sliced(r, node, scope);
    case JINJA__COMPARE: return jinja__compared(r, node, scope);
    case JINJA__CONDITIONAL:
        a = jinja__evaluate(r, node->a, scope);
        if (r->code || jinja__true(&a)) return jinja__evaluate(r, node->b, scope);
        return node->c ? jinja__evaluate(r, node->c, scope) : jinja__make(JINJA__UNDEFINED);
    default: break;
    }
    a = jinja__evaluate(r, node->a, scope);
    if (r->code) return a;
    switch (node->what) {
    case JINJA__ATTRIBUTE: return jinja__member_or_method(r, node, &a, node->text, node->n, 1);
    case JINJA__INDEX: b = jinja__evaluate(r, node->b, scope); return jinja__index(r, node, &a, &b);
    case JINJA__NOT: return jinja__make_bool(!jinja__true(&a));
    case JINJA__AND: return jinja__true(&a) ? jinja__evaluate(r, node->b, scope) : a;
    case JINJA__OR: return jinja__true(&a) ? a : jinja__evaluate(r, node->b, scope);
    case JINJA__BINARY: b = jinja__evaluate(r, node->b, scope); return jinja__binary(r, node, a, b);
    default: return jinja__signed(r, node, a);
    }
}

static jinja_value jinja__evaluate(jinja__run *r, const jinja__node *node, jinja__scope *scope) {
    const jinja_value v = jinja__enter(r, node) ? jinja__value(r, node, scope) : jinja__make(JINJA__UNDEFINED);
    r->depth--;
    return v;
}

/* ---- >>statements ------------------------------------------------------------------------------------------------ */

static void jinja__assign(jinja__run *r, const jinja__node *target, jinja_value v, jinja__scope *scope) {
    if (r->code) return;
    if (target->what == JINJA__VARIABLE) jinja__define(r, &scope->names, target->text, target->n, v);
    else if (target->what == JINJA__ATTRIBUTE) {
        const jinja_value space = jinja__evaluate(r, target->a, scope);
        if (r->code) return;
        if (space.type != JINJA__NAMESPACE)
            jinja__wrong(r, MLA_ERR_CONFIG, target, "'%.*s' is no namespace", (int)target->a->n, target->a->text);
        else jinja__define(r, space.u.dict, target->text, target->n, v);
    } else {
        const jinja_value list = jinja__items(r, target, &v);
        size_t names = 0;
        for (const jinja__node *n = target->b; n; n = n->next) names++;
        if (r->code) return;
        if (names != list.u.list->n)
            jinja__wrong(r, MLA_ERR_CONFIG, target, "%zu names for %zu items", names, list.u.list->n);
        names = 0;
        for (const jinja__node *n = target->b; n && !r->code; n = n->next)
            jinja__assign(r, n, list.u.list->items[names++], scope);
    }
}

static jinja_value jinja__chosen(jinja__run *r, const jinja__node *node, jinja__scope *scope,
                                 const jinja_value *items) { /* for a in b if e */
    const jinja_value list = jinja__list_of(r, JINJA__LIST);
    jinja__scope *inner = jinja__scope_in(r, scope);
    for (size_t i = 0; !r->code && i < items->u.list->n; i++) {
        inner->names.n = 0;
        jinja__assign(r, node->a, items->u.list->items[i], inner);
        if (r->code) break;
        const jinja_value holds = jinja__evaluate(r, node->e, inner);
        if (!r->code && jinja__true(&holds)) jinja__list_put(r, &list, items->u.list->items[i]);
    }
    return list;
}

static void jinja__loop_over(jinja__run *r, const jinja__node *node, jinja__scope *scope) {
    const jinja_value over = jinja__evaluate(r, node->b, scope);
    jinja_value items = jinja__items(r, node->b, &over), loop = jinja__make(JINJA__LOOP);
    jinja__scope *inner = jinja__scope_in(r, scope);
    if (!r->code && node->e) items = jinja__chosen(r, node, scope, &items);
    loop.u.loop = r->code ? NULL : (jinja__loop *)jinja__alloc(&r->arena, sizeof *loop.u.loop);
    if (!loop.u.loop) {
        if (!r->code) jinja__full(r, node);
        return;
    }
    memset(loop.u.loop, 0, sizeof *loop.u.loop);
    loop.u.loop->items = items.u.list;
    for (size_t i = 0; i < items.u.list->n && !r->code; i++) {
        inner->names.n = 0; /* what was set in one round is gone in the next */
        loop.u.loop->at = i;
        jinja__define(r, &inner->names, "loop", 4, loop);
        jinja__assign(r, node->a, items.u.list->items[i], inner);
        if (!r->code) jinja__execute(r, node->c, inner);
        const jinja__what flow = r->flow;
        r->flow = JINJA__DATA;
        if (flow == JINJA__BREAK || !jinja__spend(r, node, 1)) break;
    }
    if (items.u.list->n == 0 && !r->code) jinja__execute(r, node->d, inner);
}

/* What a body writes, as a string. */
static jinja_value jinja__capture(jinja__run *r, const jinja__node *body, jinja__scope *scope) {
    const size_t mark = r->n;
    jinja__scope *inner = jinja__scope_in(r, scope);
    if (!r->code) jinja__execute(r, body, inner);
    return jinja__take(r, mark);
}

static jinja_value jinja__through(jinja__run *r, const jinja__node *filters, const jinja__node *body,
                                  jinja__scope *scope) {
    const jinja_value before = r->captured;
    jinja_value v = jinja__capture(r, body, scope);
    r->captured = v;
    if (filters && !r->code) v = jinja__evaluate(r, filters, scope);
    r->captured = before;
    return v;
}

static jinja_value jinja__macro_of(jinja__run *r, const jinja__node *node, jinja__scope *scope) {
    const jinja_value f = jinja__callable(r, NULL, jinja__make(JINJA__UNDEFINED));
    if (r->code) return f;
    f.u.function->macro = node, f.u.function->scope = scope;
    f.u.function->name = node->what == JINJA__MACRO ? node->text : "caller",
    f.u.function->n = node->what == JINJA__MACRO ? node->n : 6;
    return f;
}

static void jinja__with_names(jinja__run *r, const jinja__node *node, jinja__scope *scope) {
    jinja__scope *inner = jinja__scope_in(r, scope);
    for (const jinja__node *n = node->b; n && !r->code; n = n->next)
        jinja__define(r, &inner->names, n->text, n->n, jinja__evaluate(r, n->a, scope));
    if (!r->code) jinja__execute(r, node->c, inner);
}

static void jinja__branch(jinja__run *r, const jinja__node *node, jinja__scope *scope) {
    for (;;) {
        const jinja_value holds = jinja__evaluate(r, node->a, scope);
        if (r->code) return;
        const jinja__node *next = jinja__true(&holds) ? node->c : node->d;
        if (next == node->c || !next || next->what != JINJA__IF || next->next) {
            jinja__execute(r, next, scope);
            return;
        }
        node = next; /* elif, which is no level deeper */
    }
}

static void jinja__execute(jinja__run *r, const jinja__node *list, jinja__scope *scope) {
    jinja_value v;
    if (list && !jinja__enter(r, list)) list = NULL;
    else if (!list) r->depth++;
    for (const jinja__node *n = list; n && !r->code && r->flow == JINJA__DATA && jinja__spend(r, n, 1); n = n->next) {
        switch (n->what) {
        case JINJA__DATA: jinja__write(r, n->text, n->n); break;
        case JINJA__PRINT:
            v = jinja__evaluate(r, n->a, scope);
            if (!r->code) jinja__print(r, n->a, &v, 0);
            break;
        case JINJA__IF: jinja__branch(r, n, scope); break;
        case JINJA__FOR: jinja__loop_over(r, n, scope); break;
        case JINJA__SET:
            v = jinja__evaluate(r, n->b, scope);
            jinja__assign(r, n->a, v, scope);
            break;
        case JINJA__SET_BLOCK: jinja__assign(r, n->a, jinja__through(r, n->b, n->c, scope), scope); break;
        case JINJA__MACRO: jinja__define(r, &scope->names, n->text, n->n, jinja__macro_of(r, n, scope)); break;
        case JINJA__CALL:
            v = jinja__call_of(r, n->a, scope, jinja__macro_of(r, n, scope));
            if (!r->code) jinja__print(r, n, &v, 0);
            break;
        case JINJA__FILTERED:
            v = jinja__through(r, n->b, n->c, scope);
            if (!r->code) jinja__print(r, n, &v, 0);
            break;
        case JINJA__WITH: jinja__with_names(r, n, scope); break;
        default: r->flow = n->what; break;
        }
    }
    r->depth--;
}

/* ---- >>arguments ------------------------------------------------------------------------------------------------- */

/* The argument at i or of that name, or missing. */
static jinja_value jinja__arg(jinja__call *c, size_t i, const char *name, jinja_value missing) {
    jinja__member *m = jinja__dict_find(&c->named, name, strlen(name));
    if (m) m->taken = 1;
    return i < c->items.n ? c->items.items[i] : m ? m->value : missing;
}

static int jinja__flag(jinja__call *c, size_t i, const char *name, int missing) {
    const jinja_value v = jinja__arg(c, i, name, jinja__make_bool(missing));
    return jinja__true(&v);
}

static int64_t jinja__count(jinja__run *r, jinja__call *c, size_t i, const char *name, int64_t missing) {
    const jinja_value v = jinja__arg(c, i, name, jinja__make_int(missing));
    if (v.type == JINJA__NONE) return missing;
    if (!jinja__is_whole(&v))
        jinja__wrong(r, MLA_ERR_CONFIG, c->node, "%.*s: %s is %s, not an integer", (int)c->length, c->name, name,
                     jinja__type_name(&v));
    return r->code ? missing : v.u.integer;
}

/* A string; missing NULL: it must be there. */
static jinja_value jinja__words(jinja__run *r, jinja__call *c, size_t i, const char *name, const char *missing) {
    const jinja_value none = missing ? jinja__make_text(missing, strlen(missing)) : jinja__make(JINJA__UNDEFINED),
                      v = jinja__arg(c, i, name, none);
    if (v.type == JINJA__STRING) return v;
    jinja__wrong(r, MLA_ERR_CONFIG, c->node, "%.*s: %s is %s, not a string", (int)c->length, c->name, name,
                 jinja__type_name(&v));
    return jinja__make_text("", 0);
}

/* What the filter is for, as a string or as a list; of no items in case of an error. */
static jinja_value jinja__own_text(jinja__run *r, jinja__call *c) {
    const jinja_value v = jinja__string(r, c->node, c->self);
    return r->code ? jinja__make_text("", 0) : v;
}

static jinja_value jinja__own_items(jinja__run *r, jinja__call *c) { return jinja__items(r, c->node, &c->self); }

/* By the attribute "a.b.0" of v; v itself if it is none. */
static jinja_value jinja__by(jinja__run *r, jinja__call *c, jinja_value v, const jinja_value *attribute) {
    if (attribute->type == JINJA__NONE) return v;
    if (jinja__is_whole(attribute)) return jinja__index(r, c->node, &v, attribute);
    if (attribute->type != JINJA__STRING)
        return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "%.*s: an attribute that is %s", (int)c->length, c->name,
                            jinja__type_name(attribute));
    for (size_t at = 0, n; at <= attribute->n && !r->code; at += n + 1) {
        const char *name = attribute->u.text + at;
        int64_t number = 0;
        for (n = 0; at + n < attribute->n && name[n] != '.';) n++;
        size_t digits = 0;
        while (digits < n && digits < 9 && isdigit((unsigned char)name[digits]))
            number = number * 10 + (name[digits++] - '0');
        const jinja_value key = n && digits == n ? jinja__make_int(number) : jinja__make_text(name, n);
        v = jinja__index(r, c->node, &v, &key);
    }
    return v;
}

/* ---- >>filters --------------------------------------------------------------------------------------------------- */

static jinja_value jinja__recase(jinja__run *r, const jinja_value *v, int upper) { /* all in that case */
    const size_t mark = r->n;
    uint32_t c;
    for (size_t at = 0, n; at < v->n && !r->code; at += n) {
        n = jinja__char(v->u.text + at, v->n - at, &c);
        const uint32_t other = jinja__case(c, upper);
        if (c == 0xDF && upper) jinja__puts(r, "SS");
        else if (other == c) jinja__write(r, v->u.text + at, n);
        else jinja__put_char(r, other);
    }
    return jinja__take(r, mark);
}

/* The first letter of each word upper, the others lower. A word begins at the start, and behind a character of breaks
   or space, or (breaks NULL) behind what is no letter. */
static jinja_value jinja__titled(jinja__run *r, const jinja_value *v, const char *breaks) {
    const size_t mark = r->n;
    int begins = 1;
    uint32_t c;
    for (size_t at = 0, n; at < v->n && !r->code; at += n) {
        n = jinja__char(v->u.text + at, v->n - at, &c);
        const uint32_t other = jinja__case(c, begins);
        if (other == c) jinja__write(r, v->u.text + at, n);
        else jinja__put_char(r, other);
        if (breaks) begins = jinja__is_space(c) || (c && c < 0x80 && strchr(breaks, (int)c));
        else begins = !jinja__is_upper(c) && !jinja__is_lower(c);
    }
    return jinja__take(r, mark);
}

static jinja_value jinja__f_upper(jinja__run *r, jinja__call *c) {
    const jinja_value v = jinja__own_text(r, c);
    return jinja__recase(r, &v, 1);
}
static jinja_value jinja__f_lower(jinja__run *r, jinja__call *c) {
    const jinja_value v = jinja__own_text(r, c);
    return jinja__recase(r, &v, 0);
}
static jinja_value jinja__f_title(jinja__run *r, jinja__call *c) {
    const jinja_value v = jinja__own_text(r, c);
    return jinja__titled(r, &v, "-({[<");
}
static jinja_value jinja__f_capitalize(jinja__run *r, jinja__call *c) {
    const jinja_value v = jinja__own_text(r, c);
    const size_t first = jinja__offset(&v, 1);
    const jinja_value head = jinja__make_text(v.u.text, first), tail = jinja__make_text(v.u.text + first, v.n - first),
                      first_letter = jinja__recase(r, &head, 1), others = jinja__recase(r, &tail, 0);
    return r->code ? v : jinja__concat(r, c->node, first_letter, others);
}
static jinja_value jinja__f_trim(jinja__run *r, jinja__call *c) {
    jinja_value v = jinja__own_text(r, c);
    const jinja_value set = jinja__arg(c, 0, "chars", jinja__make(JINJA__NONE));
    jinja__spend(r, c->node, v.n / 16);
    jinja__strip(&v.u.text, &v.n, set.type == JINJA__STRING ? set.u.text : NULL, set.n, 1, 1);
    return v;
}
static jinja_value jinja__f_string(jinja__run *r, jinja__call *c) { return jinja__own_text(r, c); }
static jinja_value jinja__f_safe(jinja__run *r, jinja__call *c) { return (void)r, c->self; }

static jinja_value jinja__f_escape(jinja__run *r, jinja__call *c) {
    static const char from[] = "&<>'\"", *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    const jinja_value v = jinja__own_text(r, c);
    const size_t mark = r->n;
    for (size_t i = 0; i < v.n && !r->code; i++) {
        const char *found = v.u.text[i] ? strchr(from, v.u.text[i]) : NULL;
        if (found) jinja__puts(r, to[found - from]);
        else jinja__write(r, v.u.text + i, 1);
    }
    return jinja__take(r, mark);
}

static jinja_value jinja__replaced(jinja__run *r, jinja__call *c, const jinja_value *v) {
    const jinja_value from = jinja__words(r, c, 0, "old", NULL), to = jinja__words(r, c, 1, "new", NULL);
    int64_t count = jinja__count(r, c, 2, "count", -1);
    const size_t mark = r->n;
    size_t at = 0;
    uint32_t one;
    while (!r->code && count != 0 && jinja__spend(r, c->node, 1)) {
        const char *found = jinja__find(v->u.text + at, v->n - at, from.u.text, from.n);
        if (!found) break;
        const size_t end = (size_t)(found - v->u.text);
        jinja__write(r, v->u.text + at, end - at), jinja__write(r, to.u.text, to.n);
        at = end + from.n, count--;
        if (from.n) continue;
        if (at == v->n) break; /* nothing is found before each character, and at the end */
        const size_t n = jinja__char(v->u.text + at, v->n - at, &one);
        jinja__write(r, v->u.text + at, n), at += n;
    }
    jinja__write(r, v->u.text + at, v->n - at);
    return jinja__take(r, mark);
}
static jinja_value jinja__f_replace(jinja__run *r, jinja__call *c) {
    const jinja_value v = jinja__own_text(r, c);
    return jinja__replaced(r, c, &v);
}

static jinja_value jinja__f_indent(jinja__run *r, jinja__call *c) {
    const jinja_value v = jinja__own_text(r, c), width = jinja__arg(c, 0, "width", jinja__make_int(4));
    const int first = jinja__flag(c, 1, "first", 0), blank = jinja__flag(c, 2, "blank", 0);
    const int64_t spaces = jinja__is_whole(&width) ? width.u.integer : 0;
    const size_t mark = r->n;
    for (size_t at = 0; at <= v.n && !r->code;) {
        const char *end = at < v.n ? (const char *)memchr(v.u.text + at, '\n', v.n - at) : NULL;
        const size_t n = (end ? (size_t)(end - v.u.text) : v.n) - at;
        if (at == 0 ? first : blank || n) {
            for (int64_t i = 0; i < spaces && !r->code && jinja__spend(r, c->node, 1); i++) jinja__write(r, " ", 1);
            if (width.type == JINJA__STRING) jinja__write(r, width.u.text, width.n);
        }
        jinja__write(r, v.u.text + at, n + (end != NULL));
        at += n + 1;
        if (!end) break;
    }
    return jinja__take(r, mark);
}

static jinja_value jinja__f_tojson(jinja__run *r, jinja__call *c) {
    const jinja_value none = jinja__make(JINJA__NONE), indent = jinja__arg(c, 1, "indent", none),
                      pair = jinja__arg(c, 2, "separators", none);
    const size_t mark = r->n;
    jinja__style style;
    style.ascii = jinja__flag(c, 0, "ensure_ascii", 0), style.sorted = jinja__flag(c, 3, "sort_keys", 0);
    style.indent = !jinja__is_whole(&indent) ? -1
                   : indent.u.integer < 0    ? 0
                   : indent.u.integer > 32   ? 32
                                             : (int)indent.u.integer;
    style.between = style.indent < 0 ? jinja__make_text(", ", 2) : jinja__make_text(",", 1);
    style.behind_key = jinja__make_text(": ", 2);
    if (indent.type != JINJA__NONE && !jinja__is_whole(&indent))
        return jinja__wrong(r, MLA_ERR_UNSUPPORTED, c->node, "tojson: indent is %s", jinja__type_name(&indent));
    if (pair.type != JINJA__NONE) {
        if (!jinja__is_sequence(&pair) || pair.u.list->n != 2 || pair.u.list->items[0].type != JINJA__STRING ||
            pair.u.list->items[1].type != JINJA__STRING)
            return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "tojson: separators are not two strings");
        style.between = pair.u.list->items[0], style.behind_key = pair.u.list->items[1];
    }
    jinja__json_out(r, c->node, &c->self, &style, 0);
    return jinja__take(r, mark);
}

static jinja_value jinja__f_length(jinja__run *r, jinja__call *c) {
    const jinja_value *v = &c->self;
    if (v->type == JINJA__STRING)
        return jinja__spend(r, c->node, v->n / 4), jinja__make_int((int64_t)jinja__length(v->u.text, v->n));
    if (jinja__is_sequence(v)) return jinja__make_int((int64_t)v->u.list->n);
    if (v->type == JINJA__DICT) return jinja__make_int((int64_t)v->u.dict->n);
    if (v->type == JINJA__UNDEFINED) return jinja__make_int(0);
    return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "%s has no length", jinja__type_name(v));
}

static jinja_value jinja__end(jinja__run *r, jinja__call *c, int last) {
    const jinja_value list = jinja__own_items(r, c);
    if (r->code || list.u.list->n == 0) return jinja__make(JINJA__UNDEFINED);
    return list.u.list->items[last ? list.u.list->n - 1 : 0];
}
static jinja_value jinja__f_first(jinja__run *r, jinja__call *c) { return jinja__end(r, c, 0); }
static jinja_value jinja__f_last(jinja__run *r, jinja__call *c) { return jinja__end(r, c, 1); }

static jinja_value jinja__copied(jinja__run *r, const jinja_value *items, int backwards) {
    const jinja_value list = jinja__list_of(r, JINJA__LIST);
    for (size_t i = 0; !r->code && i < items->u.list->n; i++)
        jinja__list_put(r, &list, items->u.list->items[backwards ? items->u.list->n - 1 - i : i]);
    return list;
}
static jinja_value jinja__f_list(jinja__run *r, jinja__call *c) {
    const jinja_value items = jinja__own_items(r, c);
    return jinja__copied(r, &items, 0);
}
static jinja_value jinja__f_reverse(jinja__run *r, jinja__call *c) {
    const size_t mark = r->n;
    const jinja_value items = jinja__own_items(r, c);
    if (c->self.type != JINJA__STRING) return jinja__copied(r, &items, 1);
    for (size_t i = items.u.list->n; i-- > 0 && !r->code;)
        jinja__write(r, items.u.list->items[i].u.text, items.u.list->items[i].n);
    return jinja__take(r, mark);
}

static jinja_value jinja__f_join(jinja__run *r, jinja__call *c) {
    const jinja_value items = jinja__own_items(r, c), between = jinja__words(r, c, 0, "d", ""),
                      by = jinja__arg(c, 1, "attribute", jinja__make(JINJA__NONE));
    const size_t mark = r->n;
    for (size_t i = 0; !r->code && i < items.u.list->n; i++) {
        const jinja_value v = jinja__by(r, c, items.u.list->items[i], &by);
        if (i) jinja__write(r, between.u.text, between.n);
        if (!r->code) jinja__print(r, c->node, &v, 0);
    }
    return jinja__take(r, mark);
}

static jinja_value jinja__f_default(jinja__run *r, jinja__call *c) {
    const jinja_value other = jinja__arg(c, 0, "default_value", jinja__make_text("", 0));
    const int boolean = jinja__flag(c, 1, "boolean", 0);
    (void)r;
    return c->self.type == JINJA__UNDEFINED || (boolean && !jinja__true(&c->self)) ? other : c->self;
}

/* The number that a string spells, to its end but for spaces; 0: none. */
static int jinja__spelled(const jinja_value *v, int base, jinja_value *whole, jinja_value *real) {
    char digits[80], *end;
    const char *s = v->u.text;
    size_t n = v->n, count = 0;
    jinja__strip(&s, &n, NULL, 0, 1, 1);
    if (n == 0 || n + 1 > sizeof digits) return 0;
    for (size_t i = 0; i < n; i++)
        if (s[i] != '_') digits[count++] = s[i];
    digits[count] = 0;
    if (!count || isspace((unsigned char)digits[0]) || (!real && !isalnum((unsigned char)digits[count - 1]))) return 0;
    if (real && strspn(digits, "+-.0123456789eE") != count) return 0;
    errno = 0;
    if (real) *real = jinja__make_real(strtod(digits, &end));
    else *whole = jinja__make_int(strtoll(digits, &end, base));
    return !*end && end != digits && (real ? fabs(real->u.real) < HUGE_VAL : !errno);
}

static jinja_value jinja__f_int(jinja__run *r, jinja__call *c) {
    const jinja_value other = jinja__arg(c, 0, "default", jinja__make_int(0));
    const int64_t base = jinja__count(r, c, 1, "base", 10);
    jinja_value v = c->self, real = v, whole;
    if (base < 2 || base > 36) return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "int: a base that is not in 2..36");
    if (jinja__is_whole(&v)) return jinja__make_int(v.u.integer);
    if (v.type == JINJA__STRING && jinja__spelled(&v, (int)base, &whole, NULL)) return whole;
    if (v.type == JINJA__STRING && !jinja__spelled(&v, 10, NULL, &real)) return other;
    return real.type == JINJA__FLOAT && fabs(real.u.real) < 9e18 ? jinja__make_int((int64_t)real.u.real) : other;
}

static jinja_value jinja__f_float(jinja__run *r, jinja__call *c) {
    const jinja_value other = jinja__arg(c, 0, "default", jinja__make_real(0));
    jinja_value v;
    (void)r;
    if (jinja__is_number(&c->self)) return jinja__make_real(jinja__real(&c->self));
    return c->self.type == JINJA__STRING && jinja__spelled(&c->self, 10, NULL, &v) ? v : other;
}

static jinja_value jinja__f_abs(jinja__run *r, jinja__call *c) {
    const jinja_value v = c->self;
    if (v.type == JINJA__FLOAT) return jinja__make_real(fabs(v.u.real));
    if (!jinja__is_whole(&v)) return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "abs of %s", jinja__type_name(&v));
    return v.u.integer < 0 ? jinja__whole(r, c->node, 0, v.u.integer, '-') : jinja__make_int(v.u.integer);
}

static jinja_value jinja__f_round(jinja__run *r, jinja__call *c) {
    const int64_t precision = jinja__count(r, c, 0, "precision", 0);
    const jinja_value method = jinja__words(r, c, 1, "method", "common");
    const int up = method.n == 4 && !memcmp(method.u.text, "ceil", 4),
              down = method.n == 5 && !memcmp(method.u.text, "floor", 5);
    char text[400];
    if (r->code) return c->self;
    if (!jinja__is_number(&c->self) || precision < 0 || precision > 20)
        return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "round: %s, to %lld digits", jinja__type_name(&c->self),
                            (long long)precision);
    if (!up && !down && (method.n != 6 || memcmp(method.u.text, "common", 6) != 0))
        return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "round: the method is not common, ceil or floor");
    if (!up && !down && jinja__is_whole(&c->self)) return jinja__make_int(c->self.u.integer);
    const double x = jinja__real(&c->self), scale = pow(10, (double)precision);
    if (up || down) return jinja__make_real((up ? ceil(x * scale) : floor(x * scale)) / scale);
    snprintf(text, sizeof text, "%.*f", (int)precision, x); /* exact, ties to even, as Python's */
    return jinja__make_real(strtod(text, NULL));
}

static jinja_value jinja__f_sum(jinja__run *r, jinja__call *c) {
    const jinja_value items = jinja__own_items(r, c), by = jinja__arg(c, 0, "attribute", jinja__make(JINJA__NONE));
    jinja_value sum = jinja__arg(c, 1, "start", jinja__make_int(0));
    jinja__node add = *c->node;
    add.op = '+';
    for (size_t i = 0; !r->code && i < items.u.list->n; i++)
        sum = jinja__binary(r, &add, sum, jinja__by(r, c, items.u.list->items[i], &by));
    return sum;
}

static jinja_value jinja__f_items(jinja__run *r, jinja__call *c) {
    const jinja_value list = jinja__list_of(r, JINJA__LIST);
    if (c->self.type == JINJA__UNDEFINED) return list;
    if (c->self.type != JINJA__DICT)
        return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "items of %s", jinja__type_name(&c->self));
    for (size_t i = 0; !r->code && i < c->self.u.dict->n; i++) {
        const jinja__member *m = &c->self.u.dict->items[i];
        const jinja_value pair = jinja__list_of(r, JINJA__TUPLE);
        jinja__list_put(r, &pair, jinja__make_text(m->key, m->n)), jinja__list_put(r, &pair, m->value);
        jinja__list_put(r, &list, pair);
    }
    return list;
}

/* By what items are sorted, told apart, or compared: an attribute, and strings in lower case unless that matters. */
static jinja_value jinja__sort_key(jinja__run *r, jinja__call *c, jinja_value v, const jinja_value *by,
                                   int case_sensitive) {
    v = jinja__by(r, c, v, by);
    return v.type == JINJA__STRING && !case_sensitive && !r->code ? jinja__recase(r, &v, 0) : v;
}

/* A merge sort of items with their keys, which keeps the order of those alike. */
static void jinja__sort(jinja__run *r, const jinja__node *node, jinja_value *items, jinja_value *keys, size_t n,
                        int backwards) {
    jinja_value *spare = (jinja_value *)jinja__alloc(&r->arena, 2 * n * sizeof *spare);
    if (!spare) {
        jinja__full(r, node);
        return;
    }
    for (size_t width = 1; width < n && !r->code; width *= 2) {
        for (size_t begin = 0; begin < n; begin += 2 * width) {
            const size_t middle = n - begin < width ? n : begin + width, end = n - middle < width ? n : middle + width;
            for (size_t i = begin, j = middle, k = begin; k < end && !r->code; k++) {
                int second = i == middle;
                if (!second && j < end) second = (backwards ? -1 : 1) * jinja__order(r, node, &keys[i], &keys[j]) > 0;
                const size_t from = second ? j++ : i++;
                spare[k] = items[from], spare[n + k] = keys[from];
            }
        }
        memcpy(items, spare, n * sizeof *items), memcpy(keys, spare + n, n * sizeof *keys);
    }
}

static jinja_value jinja__sorted(jinja__run *r, jinja__call *c, const jinja_value *items, const jinja_value *by,
                                 int case_sensitive, int backwards) {
    const jinja_value list = jinja__copied(r, items, 0), keys = jinja__list_of(r, JINJA__LIST);
    for (size_t i = 0; !r->code && i < list.u.list->n; i++)
        jinja__list_put(r, &keys, jinja__sort_key(r, c, list.u.list->items[i], by, case_sensitive));
    if (!r->code && list.u.list->n > 1)
        jinja__sort(r, c->node, list.u.list->items, keys.u.list->items, list.u.list->n, backwards);
    return list;
}

static jinja_value jinja__f_sort(jinja__run *r, jinja__call *c) {
    const int backwards = jinja__flag(c, 0, "reverse", 0), sensitive = jinja__flag(c, 1, "case_sensitive", 0);
    const jinja_value items = jinja__own_items(r, c), by = jinja__arg(c, 2, "attribute", jinja__make(JINJA__NONE));
    return jinja__sorted(r, c, &items, &by, sensitive, backwards);
}

static jinja_value jinja__f_dictsort(jinja__run *r, jinja__call *c) {
    const int sensitive = jinja__flag(c, 0, "case_sensitive", 0), backwards = jinja__flag(c, 2, "reverse", 0);
    const jinja_value what = jinja__words(r, c, 1, "by", "key"),
                      by = jinja__make_int(what.n == 5 && !memcmp(what.u.text, "value", 5));
    const jinja_value items = jinja__f_items(r, c);
    return jinja__sorted(r, c, &items, &by, sensitive, backwards);
}

static jinja_value jinja__f_unique(jinja__run *r, jinja__call *c) {
    const int sensitive = jinja__flag(c, 0, "case_sensitive", 0);
    const jinja_value items = jinja__own_items(r, c), by = jinja__arg(c, 1, "attribute", jinja__make(JINJA__NONE)),
                      list = jinja__list_of(r, JINJA__LIST), seen = jinja__list_of(r, JINJA__LIST);
    for (size_t i = 0; !r->code && i < items.u.list->n; i++) {
        const jinja_value key = jinja__sort_key(r, c, items.u.list->items[i], &by, sensitive);
        if (r->code || jinja__contains(r, c->node, &seen, &key)) continue;
        jinja__list_put(r, &seen, key), jinja__list_put(r, &list, items.u.list->items[i]);
    }
    return list;
}

static jinja_value jinja__extreme(jinja__run *r, jinja__call *c, int sign) {
    const int sensitive = jinja__flag(c, 0, "case_sensitive", 0);
    const jinja_value items = jinja__own_items(r, c), by = jinja__arg(c, 1, "attribute", jinja__make(JINJA__NONE));
    jinja_value best = jinja__make(JINJA__UNDEFINED), best_key = best;
    for (size_t i = 0; !r->code && i < items.u.list->n; i++) {
        const jinja_value key = jinja__sort_key(r, c, items.u.list->items[i], &by, sensitive);
        if (i && (r->code || sign * jinja__order(r, c->node, &key, &best_key) <= 0)) continue;
        best = items.u.list->items[i], best_key = key;
    }
    return best;
}
static jinja_value jinja__f_min(jinja__run *r, jinja__call *c) { return jinja__extreme(r, c, -1); }
static jinja_value jinja__f_max(jinja__run *r, jinja__call *c) { return jinja__extreme(r, c, 1); }

static jinja_value jinja__f_batch(jinja__run *r, jinja__call *c) {
    const jinja_value items = jinja__own_items(r, c), fill = jinja__arg(c, 1, "fill_with", jinja__make(JINJA__NONE)),
                      list = jinja__list_of(r, JINJA__LIST);
    const int64_t size = jinja__count(r, c, 0, "linecount", 0);
    if (size < 1) return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "batch: of no items");
    for (size_t i = 0; !r->code && i < items.u.list->n;) {
        const jinja_value row = jinja__list_of(r, JINJA__LIST);
        for (int64_t k = 0; !r->code && k < size && (i < items.u.list->n || fill.type != JINJA__NONE); k++)
            jinja__list_put(r, &row, i < items.u.list->n ? items.u.list->items[i] : fill), i++;
        jinja__list_put(r, &list, row);
    }
    return list;
}

static jinja_value jinja__f_wordcount(jinja__run *r, jinja__call *c) {
    const jinja_value v = jinja__own_text(r, c);
    int64_t count = 0;
    int inside = 0;
    uint32_t one;
    jinja__spend(r, c->node, v.n / 4);
    for (size_t at = 0; at < v.n;) {
        at += jinja__char(v.u.text + at, v.n - at, &one);
        const int word = one == '_' || one >= 0x80 ? !jinja__is_space(one) : isalnum((int)one) != 0;
        count += word && !inside, inside = word;
    }
    return jinja__make_int(count);
}

/* The entry that is named as the argument at i, and the arguments behind it as its own. */
static const jinja__entry *jinja__delegate(jinja__run *r, jinja__call *c, size_t i,
                                           const jinja__entry *(*of)(const char *, size_t), jinja__call *inner) {
    const jinja_value name = jinja__words(r, c, i, "the name", NULL);
    const jinja__entry *entry = r->code ? NULL : of(name.u.text, name.n);
    if (!entry)
        jinja__wrong(r, MLA_ERR_UNSUPPORTED, c->node, "%s: no '%.*s' is known", c->name, name.n < 60 ? (int)name.n : 60,
                     name.u.text);
    memset(inner, 0, sizeof *inner);
    inner->node = c->node;
    if (entry)
        inner->items.items = c->items.items + i + 1, inner->items.n = c->items.n - i - 1, inner->named = c->named;
    return entry;
}

static jinja_value jinja__f_map(jinja__run *r, jinja__call *c) {
    const jinja_value items = jinja__own_items(r, c), list = jinja__list_of(r, JINJA__LIST);
    jinja__call inner;
    const jinja__entry *entry = c->items.n ? jinja__delegate(r, c, 0, jinja__filter_of, &inner) : NULL;
    if (c->items.n == 0 && !jinja__dict_find(&c->named, "attribute", 9))
        return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "map: neither a filter nor an attribute");
    const jinja_value none = jinja__make(JINJA__NONE), by = entry ? none : jinja__arg(c, 0, "attribute", none),
                      missing = entry ? none : jinja__arg(c, 9, "default", jinja__make(JINJA__UNDEFINED));
    for (size_t i = 0; !r->code && i < items.u.list->n; i++) {
        jinja_value v = items.u.list->items[i];
        if (entry) inner.self = v, v = jinja__run_entry(r, entry, &inner);
        else v = jinja__by(r, c, v, &by);
        jinja__list_put(r, &list, v.type == JINJA__UNDEFINED ? missing.type == JINJA__NONE ? v : missing : v);
    }
    for (size_t i = 0; entry && i < c->named.n; i++) c->named.items[i].taken = 1; /* the filter has looked */
    return list;
}

/* select, reject, selectattr and rejectattr: the items, or their attributes, that pass a test (none: that are true). */
static jinja_value jinja__select(jinja__run *r, jinja__call *c, int attribute, int wanted) {
    const jinja_value items = jinja__own_items(r, c), list = jinja__list_of(r, JINJA__LIST),
                      none = jinja__make(JINJA__NONE), by = attribute ? jinja__arg(c, 0, "attribute", none) : none;
    const size_t at = (size_t)attribute;
    jinja__call inner;
    const jinja__entry *entry = c->items.n > at ? jinja__delegate(r, c, at, jinja__test_of, &inner) : NULL;
    for (size_t i = 0; !r->code && i < items.u.list->n; i++) {
        const jinja_value v = jinja__by(r, c, items.u.list->items[i], &by);
        jinja_value holds = v;
        if (entry && !r->code) inner.self = v, holds = jinja__run_entry(r, entry, &inner);
        if (!r->code && jinja__true(&holds) == wanted) jinja__list_put(r, &list, items.u.list->items[i]);
    }
    return list;
}
static jinja_value jinja__f_select(jinja__run *r, jinja__call *c) { return jinja__select(r, c, 0, 1); }
static jinja_value jinja__f_reject(jinja__run *r, jinja__call *c) { return jinja__select(r, c, 0, 0); }
static jinja_value jinja__f_selectattr(jinja__run *r, jinja__call *c) { return jinja__select(r, c, 1, 1); }
static jinja_value jinja__f_rejectattr(jinja__run *r, jinja__call *c) { return jinja__select(r, c, 1, 0); }

/* "%s" and "%d" */
static jinja_value jinja__format(jinja__run *r, const jinja__node *node, const jinja_value *format,
                                 const jinja__list *items) {
    const size_t mark = r->n;
    size_t used = 0;
    for (size_t i = 0; i < format->n && !r->code; i++) {
        const char c = format->u.text[i], next = i + 1 < format->n ? format->u.text[i + 1] : 0;
        if (c != '%') {
            jinja__write(r, &c, 1);
            continue;
        }
        i++;
        if (next == '%') jinja__write(r, "%", 1);
        else if (next != 's' && next != 'd')
            jinja__wrong(r, MLA_ERR_UNSUPPORTED, node, "format: only %%s and %%d are known");
        else if (used == items->n) jinja__wrong(r, MLA_ERR_CONFIG, node, "format: too few arguments");
        else if (next == 's') jinja__print(r, node, &items->items[used++], 0);
        else if (!jinja__is_whole(&items->items[used]))
            jinja__wrong(r, MLA_ERR_CONFIG, node, "format: %%d of %s", jinja__type_name(&items->items[used]));
        else jinja__print_number(r, &items->items[used++]);
    }
    if (used < items->n) jinja__wrong(r, MLA_ERR_CONFIG, node, "format: too many arguments");
    return jinja__take(r, mark);
}
static jinja_value jinja__f_format(jinja__run *r, jinja__call *c) {
    const jinja_value v = jinja__own_text(r, c);
    return jinja__format(r, c->node, &v, &c->items);
}

/* ---- >>tests ----------------------------------------------------------------------------------------------------- */

static jinja_value jinja__t_defined(jinja__run *r, jinja__call *c) {
    return (void)r, jinja__make_bool(c->self.type != JINJA__UNDEFINED);
}
static jinja_value jinja__t_undefined(jinja__run *r, jinja__call *c) {
    return (void)r, jinja__make_bool(c->self.type == JINJA__UNDEFINED);
}
static jinja_value jinja__t_none(jinja__run *r, jinja__call *c) {
    return (void)r, jinja__make_bool(c->self.type == JINJA__NONE);
}
static jinja_value jinja__t_string(jinja__run *r, jinja__call *c) {
    return (void)r, jinja__make_bool(c->self.type == JINJA__STRING);
}
static jinja_value jinja__t_mapping(jinja__run *r, jinja__call *c) {
    return (void)r, jinja__make_bool(c->self.type == JINJA__DICT);
}
static jinja_value jinja__t_number(jinja__run *r, jinja__call *c) {
    return (void)r, jinja__make_bool(jinja__is_number(&c->self));
}
static jinja_value jinja__t_integer(jinja__run *r, jinja__call *c) {
    return (void)r, jinja__make_bool(c->self.type == JINJA__INTEGER);
}
static jinja_value jinja__t_float(jinja__run *r, jinja__call *c) {
    return (void)r, jinja__make_bool(c->self.type == JINJA__FLOAT);
}
static jinja_value jinja__t_boolean(jinja__run *r, jinja__call *c) {
    return (void)r, jinja__make_bool(c->self.type == JINJA__BOOL);
}
static jinja_value jinja__t_true(jinja__run *r, jinja__call *c) {
    return (void)r, jinja__make_bool(c->self.type == JINJA__BOOL && c->self.u.integer);
}
static jinja_value jinja__t_false(jinja__run *r, jinja__call *c) {
    return (void)r, jinja__make_bool(c->self.type == JINJA__BOOL && !c->self.u.integer);
}
static jinja_value jinja__t_callable(jinja__run *r, jinja__call *c) {
    return (void)r, jinja__make_bool(c->self.type == JINJA__FUNCTION);
}
static jinja_value jinja__t_sequence(jinja__run *r,
                                     jinja__call *c) { /* what has a length and items; so has undefined */
    return (void)r, jinja__make_bool(jinja__is_sequence(&c->self) || c->self.type == JINJA__STRING ||
                                     c->self.type == JINJA__DICT || c->self.type == JINJA__UNDEFINED);
}

static jinja_value jinja__t_compare(jinja__run *r, jinja__call *c, int op) {
    const jinja_value other = jinja__arg(c, 0, "other", jinja__make(JINJA__UNDEFINED));
    return jinja__make_bool(jinja__compare(r, c->node, op, &c->self, &other));
}
static jinja_value jinja__t_eq(jinja__run *r, jinja__call *c) { return jinja__t_compare(r, c, JINJA__2('=', '=')); }
static jinja_value jinja__t_ne(jinja__run *r, jinja__call *c) { return jinja__t_compare(r, c, JINJA__2('!', '=')); }
static jinja_value jinja__t_le(jinja__run *r, jinja__call *c) { return jinja__t_compare(r, c, JINJA__2('<', '=')); }
static jinja_value jinja__t_ge(jinja__run *r, jinja__call *c) { return jinja__t_compare(r, c, JINJA__2('>', '=')); }
static jinja_value jinja__t_lt(jinja__run *r, jinja__call *c) { return jinja__t_compare(r, c, '<'); }
static jinja_value jinja__t_gt(jinja__run *r, jinja__call *c) { return jinja__t_compare(r, c, '>'); }
static jinja_value jinja__t_in(jinja__run *r, jinja__call *c) { return jinja__t_compare(r, c, JINJA__IN); }

static jinja_value jinja__divides(jinja__run *r, jinja__call *c, int64_t by, int64_t rest) {
    if (!jinja__is_whole(&c->self))
        return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "%s of %s", c->name, jinja__type_name(&c->self));
    const jinja_value left = jinja__whole(r, c->node, c->self.u.integer, by, '%');
    return jinja__make_bool(left.u.integer == rest);
}
static jinja_value jinja__t_even(jinja__run *r, jinja__call *c) { return jinja__divides(r, c, 2, 0); }
static jinja_value jinja__t_odd(jinja__run *r, jinja__call *c) { return jinja__divides(r, c, 2, 1); }
static jinja_value jinja__t_divisibleby(jinja__run *r, jinja__call *c) {
    return jinja__divides(r, c, jinja__count(r, c, 0, "num", 1), 0);
}

/* Is there a letter, and are all of that case? */
static jinja_value jinja__all_cased(jinja__run *r, jinja__call *c, int upper) {
    const jinja_value v = jinja__own_text(r, c);
    int some = 0, all = 1;
    uint32_t one;
    jinja__spend(r, c->node, v.n);
    for (size_t at = 0; at < v.n && all;) {
        at += jinja__char(v.u.text + at, v.n - at, &one);
        const int is_upper = jinja__is_upper(one), is_lower = jinja__is_lower(one);
        some |= is_upper || is_lower, all = upper ? !is_lower : !is_upper;
    }
    return jinja__make_bool(some && all);
}
static jinja_value jinja__t_lower(jinja__run *r, jinja__call *c) { return jinja__all_cased(r, c, 0); }
static jinja_value jinja__t_upper(jinja__run *r, jinja__call *c) { return jinja__all_cased(r, c, 1); }

/* ---- >>methods --------------------------------------------------------------------------------------------------- */

static jinja_value jinja__stripped(jinja__run *r, jinja__call *c, int left, int right) {
    jinja_value v = c->self;
    const jinja_value set = jinja__arg(c, 0, "chars", jinja__make(JINJA__NONE));
    if (set.type != JINJA__NONE && set.type != JINJA__STRING)
        return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "%s: of %s", c->name, jinja__type_name(&set));
    jinja__spend(r, c->node, v.n / 16);
    jinja__strip(&v.u.text, &v.n, set.type == JINJA__STRING ? set.u.text : NULL, set.n, left, right);
    return v;
}
static jinja_value jinja__m_strip(jinja__run *r, jinja__call *c) { return jinja__stripped(r, c, 1, 1); }
static jinja_value jinja__m_lstrip(jinja__run *r, jinja__call *c) { return jinja__stripped(r, c, 1, 0); }
static jinja_value jinja__m_rstrip(jinja__run *r, jinja__call *c) { return jinja__stripped(r, c, 0, 1); }
static jinja_value jinja__m_title(jinja__run *r, jinja__call *c) { return jinja__titled(r, &c->self, NULL); }
static jinja_value jinja__m_replace(jinja__run *r, jinja__call *c) { return jinja__replaced(r, c, &c->self); }
static jinja_value jinja__m_islower(jinja__run *r, jinja__call *c) { return jinja__all_cased(r, c, 0); }

/* Does v begin (or end) with the string, or one of the tuple? */
static jinja_value jinja__fits_end(jinja__run *r, jinja__call *c, int end) {
    const jinja_value what = jinja__arg(c, 0, "prefix", jinja__make(JINJA__UNDEFINED)), *v = &c->self;
    const int many = jinja__is_sequence(&what);
    int fits = 0;
    for (size_t i = 0; !r->code && i < (many ? what.u.list->n : 1); i++) {
        const jinja_value one = many ? what.u.list->items[i] : what;
        if (one.type != JINJA__STRING)
            return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "%s: of %s", c->name, jinja__type_name(&one));
        jinja__spend(r, c->node, 1 + one.n / 16);
        fits |= one.n <= v->n && !memcmp(v->u.text + (end ? v->n - one.n : 0), one.u.text, one.n);
    }
    return jinja__make_bool(fits);
}
static jinja_value jinja__m_startswith(jinja__run *r, jinja__call *c) { return jinja__fits_end(r, c, 0); }
static jinja_value jinja__m_endswith(jinja__run *r, jinja__call *c) { return jinja__fits_end(r, c, 1); }

static jinja_value jinja__m_removeprefix(jinja__run *r, jinja__call *c) {
    const jinja_value fits = jinja__fits_end(r, c, 0), what = jinja__words(r, c, 0, "prefix", NULL), v = c->self;
    return fits.u.integer ? jinja__make_text(v.u.text + what.n, v.n - what.n) : v;
}
static jinja_value jinja__m_removesuffix(jinja__run *r, jinja__call *c) {
    const jinja_value fits = jinja__fits_end(r, c, 1), what = jinja__words(r, c, 0, "prefix", NULL), v = c->self;
    return fits.u.integer ? jinja__make_text(v.u.text, v.n - what.n) : v;
}

/* At runs of white space; with most splits, the rest stays together. */
static jinja_value jinja__words_of(jinja__run *r, jinja__call *c, int64_t most, int from_right) {
    const jinja_value list = jinja__list_of(r, JINJA__LIST);
    const char *s = c->self.u.text;
    size_t n = c->self.n;
    uint32_t one;
    jinja__strip(&s, &n, NULL, 0, 1, most < 0 || from_right);
    if (from_right) jinja__strip(&s, &n, NULL, 0, 1, 1);
    while (n && !r->code) {
        size_t length = 0;
        if (from_right && most >= 0)
            return jinja__wrong(r, MLA_ERR_UNSUPPORTED, c->node, "rsplit: at spaces, with a number of splits");
        for (size_t step; length < n && most != 0; length += step) {
            step = jinja__char(s + length, n - length, &one);
            if (jinja__is_space(one)) break;
        }
        if (most == 0) length = n;
        jinja__list_put(r, &list, jinja__make_text(s, length));
        s += length, n -= length, most -= most > 0;
        jinja__strip(&s, &n, NULL, 0, 1, 0);
    }
    return list;
}

static jinja_value jinja__cut(jinja__run *r, jinja__call *c, int from_right) {
    const jinja_value sep = jinja__arg(c, 0, "sep", jinja__make(JINJA__NONE)), list = jinja__list_of(r, JINJA__LIST);
    int64_t most = jinja__count(r, c, 1, "maxsplit", -1);
    const char *s = c->self.u.text, *end = s + c->self.n;
    jinja__spend(r, c->node, c->self.n / 4);
    if (r->code) return list;
    if (sep.type == JINJA__NONE) return jinja__words_of(r, c, most < 0 ? -1 : most, from_right);
    if (sep.type != JINJA__STRING || sep.n == 0)
        return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "%s: the separator is no string, or empty", c->name);
    if (!from_right || most < 0) {
        for (const char *found; most != 0 && !r->code && (found = jinja__find(s, (size_t)(end - s), sep.u.text, sep.n));
             most--) {
            jinja__list_put(r, &list, jinja__make_text(s, (size_t)(found - s)));
            s = found + sep.n;
        }
        jinja__list_put(r, &list, jinja__make_text(s, (size_t)(end - s)));
        return list;
    }
    for (const char *at = end; at - s >= (ptrdiff_t)sep.n && most > 0;) {
        if (memcmp(at - sep.n, sep.u.text, sep.n) != 0) {
            at--;
            continue;
        }
        jinja__list_put(r, &list, jinja__make_text(at, (size_t)(end - at)));
        end = at -= sep.n, most--;
    }
    jinja__list_put(r, &list, jinja__make_text(s, (size_t)(end - s)));
    return jinja__copied(r, &list, 1);
}
static jinja_value jinja__m_split(jinja__run *r, jinja__call *c) { return jinja__cut(r, c, 0); }
static jinja_value jinja__m_rsplit(jinja__run *r, jinja__call *c) { return jinja__cut(r, c, 1); }

static jinja_value jinja__m_splitlines(jinja__run *r, jinja__call *c) {
    const int keep = jinja__flag(c, 0, "keepends", 0);
    const jinja_value list = jinja__list_of(r, JINJA__LIST);
    const char *s = c->self.u.text;
    for (size_t at = 0, n, ending; at < c->self.n && !r->code; at += n + ending) {
        for (n = 0; at + n < c->self.n && s[at + n] != '\n' && s[at + n] != '\r';) n++;
        ending = at + n < c->self.n;
        ending += ending && s[at + n] == '\r' && at + n + 1 < c->self.n && s[at + n + 1] == '\n';
        jinja__list_put(r, &list, jinja__make_text(s + at, n + (keep ? ending : 0)));
    }
    return list;
}

static jinja_value jinja__m_join(jinja__run *r, jinja__call *c) {
    const jinja_value what = jinja__arg(c, 0, "iterable", jinja__make(JINJA__UNDEFINED)),
                      items = jinja__items(r, c->node, &what);
    const size_t mark = r->n;
    for (size_t i = 0; !r->code && i < items.u.list->n; i++) {
        const jinja_value *v = &items.u.list->items[i];
        if (v->type != JINJA__STRING)
            return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "join: of %s", jinja__type_name(v));
        if (i) jinja__write(r, c->self.u.text, c->self.n);
        jinja__write(r, v->u.text, v->n);
    }
    return jinja__take(r, mark);
}

static jinja_value jinja__m_find(jinja__run *r, jinja__call *c) {
    const jinja_value what = jinja__words(r, c, 0, "sub", NULL);
    const char *s = c->self.u.text,
               *found = jinja__spend(r, c->node, c->self.n / 4) ? jinja__find(s, c->self.n, what.u.text, what.n) : NULL;
    return jinja__make_int(found ? (int64_t)jinja__length(s, (size_t)(found - s)) : -1);
}
static jinja_value jinja__m_rfind(jinja__run *r, jinja__call *c) {
    const jinja_value what = jinja__words(r, c, 0, "sub", NULL);
    const char *s = c->self.u.text;
    size_t at = c->self.n >= what.n ? c->self.n - what.n + 1 : 0;
    jinja__spend(r, c->node, c->self.n / 4);
    while (at > 0 && memcmp(s + at - 1, what.u.text, what.n) != 0) at--;
    return jinja__make_int(at > 0 && !r->code ? (int64_t)jinja__length(s, at - 1) : -1);
}

static jinja_value jinja__m_count(jinja__run *r, jinja__call *c) {
    int64_t count = 0;
    if (c->self.type == JINJA__STRING) {
        const jinja_value what = jinja__words(r, c, 0, "sub", NULL);
        const char *s = c->self.u.text, *end = s + c->self.n;
        jinja__spend(r, c->node, c->self.n / 4);
        if (what.n == 0) return jinja__make_int((int64_t)jinja__length(s, c->self.n) + 1);
        for (const char *found; (found = jinja__find(s, (size_t)(end - s), what.u.text, what.n)); s = found + what.n)
            count++;
        return jinja__make_int(count);
    }
    const jinja_value what = jinja__arg(c, 0, "value", jinja__make(JINJA__UNDEFINED));
    for (size_t i = 0; i < c->self.u.list->n && !r->code; i++)
        count += jinja__equal(r, c->node, &c->self.u.list->items[i], &what);
    return jinja__make_int(count);
}

/* Are there characters, and are all of that kind? 0: digits, 1: letters, 2: either, 3: spaces. */
static jinja_value jinja__all_are(jinja__run *r, jinja__call *c, int kind) {
    const char *s = c->self.u.text;
    int all = c->self.n > 0;
    uint32_t one;
    jinja__spend(r, c->node, c->self.n);
    for (size_t at = 0; at < c->self.n && all;) {
        at += jinja__char(s + at, c->self.n - at, &one);
        const int digit = one >= '0' && one <= '9', letter = jinja__is_upper(one) || jinja__is_lower(one);
        if (kind < 3 && one >= 0x80 && !letter)
            return jinja__wrong(r, MLA_ERR_UNSUPPORTED, c->node, "%s: of letters that have no case", c->name);
        all = kind == 3 ? jinja__is_space(one) : (digit && kind != 1) || (letter && kind != 0);
    }
    return jinja__make_bool(all);
}
static jinja_value jinja__m_isdigit(jinja__run *r, jinja__call *c) { return jinja__all_are(r, c, 0); }
static jinja_value jinja__m_isalpha(jinja__run *r, jinja__call *c) { return jinja__all_are(r, c, 1); }
static jinja_value jinja__m_isalnum(jinja__run *r, jinja__call *c) { return jinja__all_are(r, c, 2); }
static jinja_value jinja__m_isspace(jinja__run *r, jinja__call *c) { return jinja__all_are(r, c, 3); }

/* "{} {0} {name}".format(...) */
static jinja_value jinja__m_format(jinja__run *r, jinja__call *c) {
    const char *s = c->self.u.text;
    const size_t mark = r->n, n = c->self.n;
    size_t next = 0;
    for (size_t i = 0; i < n && !r->code; i++) {
        if ((s[i] != '{' && s[i] != '}') || (i + 1 < n && s[i + 1] == s[i])) {
            jinja__write(r, s + i, 1);
            i += s[i] == '{' || s[i] == '}';
            continue;
        }
        const size_t begin = i + 1;
        while (i < n && s[i] != '}') i++;
        const size_t length = i - (begin < i ? begin : i);
        size_t digits = 0, number = 0;
        while (digits < length && digits < 9 && isdigit((unsigned char)s[begin + digits]))
            number = number * 10 + (size_t)(s[begin + digits++] - '0');
        const size_t which = length == 0 ? next++ : number;
        jinja__member *m = length && !digits ? jinja__dict_find(&c->named, s + begin, length) : NULL;
        if (m) m->taken = 1;
        if (i == n || s[begin - 1] == '}') jinja__wrong(r, MLA_ERR_CONFIG, c->node, "format: a single brace");
        else if (digits != length && !m)
            jinja__wrong(r, MLA_ERR_UNSUPPORTED, c->node, "format: '{%.*s}' is not known",
                         length < 40 ? (int)length : 40, s + begin);
        else if (!m && which >= c->items.n) jinja__wrong(r, MLA_ERR_CONFIG, c->node, "format: too few arguments");
        else jinja__print(r, c->node, m ? &m->value : &c->items.items[which], 0);
    }
    for (size_t i = 0; i < c->named.n; i++) c->named.items[i].taken = 1; /* more than are asked for are fine */
    return jinja__take(r, mark);
}

static jinja_value jinja__m_get(jinja__run *r, jinja__call *c) {
    const jinja_value key = jinja__arg(c, 0, "key", jinja__make(JINJA__UNDEFINED)),
                      other = jinja__arg(c, 1, "default", jinja__make(JINJA__NONE));
    const jinja__member *m = key.type == JINJA__STRING && jinja__spend(r, c->node, c->self.u.dict->n / 4)
                                 ? jinja__dict_find(c->self.u.dict, key.u.text, key.n)
                                 : NULL;
    return m ? m->value : other;
}
static jinja_value jinja__m_keys(jinja__run *r, jinja__call *c) { return jinja__items(r, c->node, &c->self); }
static jinja_value jinja__m_values(jinja__run *r, jinja__call *c) {
    const jinja_value list = jinja__list_of(r, JINJA__LIST);
    for (size_t i = 0; !r->code && i < c->self.u.dict->n; i++)
        jinja__list_put(r, &list, c->self.u.dict->items[i].value);
    return list;
}

static jinja_value jinja__m_append(jinja__run *r, jinja__call *c) {
    if (c->self.u.list->owner != &r->arena)
        return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "append: to a list that the template has not made");
    if (c->items.n) jinja__list_put(r, &c->self, c->items.items[0]);
    return jinja__make(JINJA__NONE);
}
static jinja_value jinja__m_index(jinja__run *r, jinja__call *c) {
    const jinja_value what = jinja__arg(c, 0, "value", jinja__make(JINJA__UNDEFINED));
    for (size_t i = 0; i < c->self.u.list->n && !r->code; i++)
        if (jinja__equal(r, c->node, &c->self.u.list->items[i], &what)) return jinja__make_int((int64_t)i);
    return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "index: the value is not in the list");
}

static jinja_value jinja__m_cycle(jinja__run *r, jinja__call *c) {
    return (void)r, c->items.items[c->self.u.loop->at % c->items.n];
}
static jinja_value jinja__m_changed(jinja__run *r, jinja__call *c) { /* since the last round */
    const jinja_value now = jinja__list_of(r, JINJA__TUPLE);
    jinja__loop *l = c->self.u.loop;
    for (size_t i = 0; i < c->items.n; i++) jinja__list_put(r, &now, c->items.items[i]);
    if (r->code || (l->asked && jinja__equal(r, c->node, &l->changed, &now))) return jinja__make_bool(0);
    l->changed = now, l->asked = 1;
    return jinja__make_bool(1);
}

/* ---- >>functions ------------------------------------------------------------------------------------------------- */

static jinja_value jinja__g_range(jinja__run *r, jinja__call *c) {
    const jinja_value list = jinja__list_of(r, JINJA__LIST);
    const int one = c->items.n == 1;
    const int64_t begin = one ? 0 : jinja__count(r, c, 0, "start", 0), end = jinja__count(r, c, one ? 0 : 1, "stop", 0),
                  step = jinja__count(r, c, 2, "step", 1);
    if (step == 0) return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "range: the step is 0");
    for (int64_t i = begin; (step > 0 ? i < end : i > end) && !r->code; i += step) {
        if (list.u.list->n >= JINJA__RANGE)
            return jinja__wrong(r, MLA_ERR_FULL, c->node, "range: more than %d numbers", JINJA__RANGE);
        jinja__list_put(r, &list, jinja__make_int(i));
        if (step > 0 ? i > INT64_MAX - step : i < INT64_MIN - step) break;
    }
    return list;
}

static jinja_value jinja__dict_from(jinja__run *r, jinja__call *c,
                                    jinja__type type) { /* of a dict or pairs, and by name */
    const jinja_value dict = jinja__make_dict(&r->arena, type);
    if (dict.type != type) return jinja__full(r, c->node);
    if (c->items.n) {
        jinja__call inner = *c;
        inner.self = c->items.items[0];
        const jinja_value pairs =
            inner.self.type == JINJA__DICT ? jinja__f_items(r, &inner) : jinja__own_items(r, &inner);
        for (size_t i = 0; !r->code && i < pairs.u.list->n; i++) {
            const jinja_value pair = pairs.u.list->items[i];
            if (!jinja__is_sequence(&pair) || pair.u.list->n != 2 || pair.u.list->items[0].type != JINJA__STRING)
                return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "%s: of what are no pairs of a string and a value",
                                    c->name);
            jinja__define(r, dict.u.dict, pair.u.list->items[0].u.text, pair.u.list->items[0].n, pair.u.list->items[1]);
        }
    }
    for (size_t i = 0; !r->code && i < c->named.n; i++) {
        c->named.items[i].taken = 1;
        jinja__define(r, dict.u.dict, c->named.items[i].key, c->named.items[i].n, c->named.items[i].value);
    }
    return dict;
}
static jinja_value jinja__g_dict(jinja__run *r, jinja__call *c) { return jinja__dict_from(r, c, JINJA__DICT); }
static jinja_value jinja__g_namespace(jinja__run *r, jinja__call *c) {
    return jinja__dict_from(r, c, JINJA__NAMESPACE);
}

static jinja_value jinja__g_raise_exception(jinja__run *r, jinja__call *c) {
    const jinja_value message = jinja__arg(c, 0, "message", jinja__make_text("", 0)),
                      text = jinja__string(r, c->node, message);
    return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "%.*s", text.n < 170 ? (int)text.n : 170, text.u.text);
}

static jinja_value jinja__g_strftime_now(jinja__run *r, jinja__call *c) {
    const jinja_value format = jinja__words(r, c, 0, "format", NULL);
    const time_t clock = time(NULL);
    const struct tm *now = r->o.now ? r->o.now : localtime(&clock);
    char text[512], pattern[130];
    if (r->code) return format;
    if (format.n > 126 || !now)
        return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "strftime_now: a format of more than 126 bytes");
    if (memchr(format.u.text, 0, format.n))
        return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "strftime_now: a format with a NUL");
    for (size_t i = 0; i < format.n; i++) {
        if (format.u.text[i] != '%') continue;
        i++;
        if (i == format.n || !format.u.text[i] || !strchr("aAbBcdHIjmMpSUwWxXyYZeFTDRnt%", format.u.text[i]))
            return jinja__wrong(r, MLA_ERR_UNSUPPORTED, c->node, "strftime_now: %%%c is not known",
                                i == format.n ? ' ' : format.u.text[i]);
    }
    memcpy(pattern, format.u.text, format.n);
    pattern[format.n] = '.', pattern[format.n + 1] = 0; /* so that an empty text is told from one too long */
    const size_t n = strftime(text, sizeof text, pattern, now), mark = r->n;
    if (n == 0) return jinja__wrong(r, MLA_ERR_CONFIG, c->node, "strftime_now: the text is too long");
    jinja__write(r, text, n - 1);
    return jinja__take(r, mark);
}

/* ---- >>tables ---------------------------------------------------------------------------------------------------- */

static const jinja__entry jinja__filter_table[] = {{"abs", jinja__f_abs, 0, 0},
                                                   {"batch", jinja__f_batch, 1, 2},
                                                   {"capitalize", jinja__f_capitalize, 0, 0},
                                                   {"count", jinja__f_length, 0, 0},
                                                   {"d", jinja__f_default, 0, 2},
                                                   {"default", jinja__f_default, 0, 2},
                                                   {"dictsort", jinja__f_dictsort, 0, 3},
                                                   {"e", jinja__f_escape, 0, 0},
                                                   {"escape", jinja__f_escape, 0, 0},
                                                   {"first", jinja__f_first, 0, 0},
                                                   {"float", jinja__f_float, 0, 1},
                                                   {"format", jinja__f_format, 0, -1},
                                                   {"indent", jinja__f_indent, 0, 3},
                                                   {"int", jinja__f_int, 0, 2},
                                                   {"items", jinja__f_items, 0, 0},
                                                   {"join", jinja__f_join, 0, 2},
                                                   {"last", jinja__f_last, 0, 0},
                                                   {"length", jinja__f_length, 0, 0},
                                                   {"list", jinja__f_list, 0, 0},
                                                   {"lower", jinja__f_lower, 0, 0},
                                                   {"map", jinja__f_map, 1, -1},
                                                   {"max", jinja__f_max, 0, 2},
                                                   {"min", jinja__f_min, 0, 2},
                                                   {"reject", jinja__f_reject, 0, -1},
                                                   {"rejectattr", jinja__f_rejectattr, 1, -1},
                                                   {"replace", jinja__f_replace, 2, 3},
                                                   {"reverse", jinja__f_reverse, 0, 0},
                                                   {"round", jinja__f_round, 0, 2},
                                                   {"safe", jinja__f_safe, 0, 0},
                                                   {"select", jinja__f_select, 0, -1},
                                                   {"selectattr", jinja__f_selectattr, 1, -1},
                                                   {"sort", jinja__f_sort, 0, 3},
                                                   {"string", jinja__f_string, 0, 0},
                                                   {"sum", jinja__f_sum, 0, 2},
                                                   {"title", jinja__f_title, 0, 0},
                                                   {"tojson", jinja__f_tojson, 0, 4},
                                                   {"trim", jinja__f_trim, 0, 1},
                                                   {"unique", jinja__f_unique, 0, 2},
                                                   {"upper", jinja__f_upper, 0, 0},
                                                   {"wordcount", jinja__f_wordcount, 0, 0}};

static const jinja__entry jinja__test_table[] = {{"boolean", jinja__t_boolean, 0, 0},
                                                 {"callable", jinja__t_callable, 0, 0},
                                                 {"defined", jinja__t_defined, 0, 0},
                                                 {"divisibleby", jinja__t_divisibleby, 1, 1},
                                                 {"eq", jinja__t_eq, 1, 1},
                                                 {"equalto", jinja__t_eq, 1, 1},
                                                 {"even", jinja__t_even, 0, 0},
                                                 {"false", jinja__t_false, 0, 0},
                                                 {"float", jinja__t_float, 0, 0},
                                                 {"ge", jinja__t_ge, 1, 1},
                                                 {"greaterthan", jinja__t_gt, 1, 1},
                                                 {"gt", jinja__t_gt, 1, 1},
                                                 {"in", jinja__t_in, 1, 1},
                                                 {"integer", jinja__t_integer, 0, 0},
                                                 {"iterable", jinja__t_sequence, 0, 0},
                                                 {"le", jinja__t_le, 1, 1},
                                                 {"lessthan", jinja__t_lt, 1, 1},
                                                 {"lower", jinja__t_lower, 0, 0},
                                                 {"lt", jinja__t_lt, 1, 1},
                                                 {"mapping", jinja__t_mapping, 0, 0},
                                                 {"ne", jinja__t_ne, 1, 1},
                                                 {"none", jinja__t_none, 0, 0},
                                                 {"number", jinja__t_number, 0, 0},
                                                 {"odd", jinja__t_odd, 0, 0},
                                                 {"sequence", jinja__t_sequence, 0, 0},
                                                 {"string", jinja__t_string, 0, 0},
                                                 {"true", jinja__t_true, 0, 0},
                                                 {"undefined", jinja__t_undefined, 0, 0},
                                                 {"upper", jinja__t_upper, 0, 0}};

static const jinja__entry jinja__string_methods[] = {{"capitalize", jinja__f_capitalize, 0, 0},
                                                     {"count", jinja__m_count, 1, 1},
                                                     {"endswith", jinja__m_endswith, 1, 1},
                                                     {"find", jinja__m_find, 1, 1},
                                                     {"format", jinja__m_format, 0, -1},
                                                     {"isalnum", jinja__m_isalnum, 0, 0},
                                                     {"isalpha", jinja__m_isalpha, 0, 0},
                                                     {"isdigit", jinja__m_isdigit, 0, 0},
                                                     {"islower", jinja__m_islower, 0, 0},
                                                     {"isspace", jinja__m_isspace, 0, 0},
                                                     {"isupper", jinja__t_upper, 0, 0},
                                                     {"join", jinja__m_join, 1, 1},
                                                     {"lower", jinja__f_lower, 0, 0},
                                                     {"lstrip", jinja__m_lstrip, 0, 1},
                                                     {"removeprefix", jinja__m_removeprefix, 1, 1},
                                                     {"removesuffix", jinja__m_removesuffix, 1, 1},
                                                     {"replace", jinja__m_replace, 2, 3},
                                                     {"rfind", jinja__m_rfind, 1, 1},
                                                     {"rsplit", jinja__m_rsplit, 0, 2},
                                                     {"rstrip", jinja__m_rstrip, 0, 1},
                                                     {"split", jinja__m_split, 0, 2},
                                                     {"splitlines", jinja__m_splitlines, 0, 1},
                                                     {"startswith", jinja__m_startswith, 1, 1},
                                                     {"strip", jinja__m_strip, 0, 1},
                                                     {"title", jinja__m_title, 0, 0},
                                                     {"upper", jinja__f_upper, 0, 0}};

static const jinja__entry jinja__dict_methods[] = {{"get", jinja__m_get, 1, 2},
                                                   {"items", jinja__f_items, 0, 0},
                                                   {"keys", jinja__m_keys, 0, 0},
                                                   {"values", jinja__m_values, 0, 0}};
static const jinja__entry jinja__list_methods[] = {
    {"append", jinja__m_append, 1, 1}, {"count", jinja__m_count, 1, 1}, {"index", jinja__m_index, 1, 1}};
static const jinja__entry jinja__loop_methods[] = {{"changed", jinja__m_changed, 0, -1},
                                                   {"cycle", jinja__m_cycle, 1, -1}};
static const jinja__entry jinja__function_table[] = {{"dict", jinja__g_dict, 0, -1},
                                                     {"namespace", jinja__g_namespace, 0, -1},
                                                     {"raise_exception", jinja__g_raise_exception, 1, 1},
                                                     {"range", jinja__g_range, 1, 3},
                                                     {"strftime_now", jinja__g_strftime_now, 1, 1}};

#define JINJA__IN_TABLE(table, name, n) jinja__entry_of(table, sizeof table / sizeof *table, name, n)

static const jinja__entry *jinja__entry_of(const jinja__entry *table, size_t count, const char *name, size_t n) {
    for (size_t i = 0; i < count; i++)
        if (strlen(table[i].name) == n && !memcmp(table[i].name, name, n)) return &table[i];
    return NULL;
}
static const jinja__entry *jinja__filter_of(const char *name, size_t n) {
    return JINJA__IN_TABLE(jinja__filter_table, name, n);
}

static const jinja__entry *jinja__test_of(const char *name, size_t n) {
    static const struct {
        const char sign[4], name[4];
    } signs[] = {{"==", "eq"}, {"!=", "ne"}, {"<=", "le"}, {">=", "ge"}, {"<", "lt"}, {">", "gt"}}; /* of selectattr */
    for (size_t i = 0; i < 6; i++)
        if (strlen(signs[i].sign) == n && !memcmp(signs[i].sign, name, n))
            return JINJA__IN_TABLE(jinja__test_table, signs[i].name, 2);
    return JINJA__IN_TABLE(jinja__test_table, name, n);
}

static const jinja__entry *jinja__function_of(const char *name, size_t n) {
    return JINJA__IN_TABLE(jinja__function_table, name, n);
}

static const jinja__entry *jinja__method_of(jinja__type type, const char *name, size_t n) {
    if (type == JINJA__STRING) return JINJA__IN_TABLE(jinja__string_methods, name, n);
    if (type == JINJA__DICT) return JINJA__IN_TABLE(jinja__dict_methods, name, n);
    if (type == JINJA__LIST) return JINJA__IN_TABLE(jinja__list_methods, name, n);
    return type == JINJA__LOOP ? JINJA__IN_TABLE(jinja__loop_methods, name, n) : NULL;
}

/* ---- >>render ---------------------------------------------------------------------------------------------------- */

mla_result jinja_render(const jinja_template *t, const jinja_data *d, const jinja_value *variables,
                        const jinja_options *options, char **out, size_t *n, mla_error *err) {
    jinja__run r;
    jinja__scope globals;
    if (out) *out = NULL;
    if (d && d->failed) return jinja__error(err, MLA_ERR_MEMORY, "no memory for the template's values");
    if (!t || !d || !out || !n || !jinja_is_dict(variables))
        return jinja__error(err, MLA_ERR_ARGUMENT, "jinja_render: a null pointer, or variables that are no dict");
    memset(&r, 0, sizeof r), memset(&globals, 0, sizeof globals);
    if (options) r.o = *options;
    if (!r.o.steps) r.o.steps = 400000000;
    if (!r.o.bytes) r.o.bytes = (size_t)256 << 20;
    if (r.o.depth <= 0) r.o.depth = 400;
    r.t = t, r.err = err, r.arena.most = r.o.bytes < SIZE_MAX / 4 ? r.o.bytes : SIZE_MAX / 4;
    for (size_t i = 0; i < variables->u.dict->n && !r.code; i++) { /* the template may set them otherwise */
        const jinja__member *m = &variables->u.dict->items[i];
        jinja__define(&r, &globals.names, m->key, m->n, m->value);
    }
    jinja__execute(&r, t->body, &globals);
    jinja__write(&r, "", 1); /* the NUL */
    jinja__release(&r.arena);
    if (r.code) free(r.out);
    else *out = r.out, *n = r.n - 1;
    return r.code;
}

#endif /* JINJA_IMPLEMENTATION */
