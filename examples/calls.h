/* calls.h - takes what a model answers apart as it comes: thoughts, text, and calls of tools in the form in which its
   chat template writes them.

USE
   In exactly one file:      #define CALLS_IMPLEMENTATION
                             #include "calls.h"
   In all others:            #include "calls.h"    (checkpoint.h, tokenizer.h and text.h must be implemented somewhere)

   void part(void *user, const calls_part *p) { fwrite(p->text, 1, p->n, stdout); }
   if (calls_create(&r, calls_form_of(source), tools, thinking, part, NULL, &error)) puts(error.text);
   calls_push(r, bytes, n);   ...   calls_end(r);   calls_destroy(r);

FORMS          In each the name and the arguments stand between marks, which may be tokens or text:
               DeepSeek V3, R1, V3.1  <|tool_call_begin|>name<|tool_sep|>{...}<|tool_call_end|>
                                      (V3, R1: function<|tool_sep|>name, and the arguments in a block ```json)
               DeepSeek V3.2          <|DSML|invoke name="f"><|DSML|parameter name="k" string="true">v</|DSML|parameter>
               Kimi K2                <|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{...}<|tool_call_end|>
               GLM                    <tool_call>name<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>
               In GLM's a value is a string if the tool's parameters say so or if it is no JSON.
WHITE SPACE    That around thoughts and calls goes.
CUTS           What comes out is the same however the answer is cut into pieces.
   SPDX-License-Identifier: MIT */

#ifndef CALLS_H
#define CALLS_H

#include <stddef.h>
#ifndef CHECKPOINT_H
#include "checkpoint.h"
#endif
#include "text.h"

#ifndef CALLS_API
#define CALLS_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum calls_form {
    CALLS_NONE = 0,
    CALLS_DEEPSEEK,
    CALLS_DSML,
    CALLS_KIMI,
    CALLS_GLM,
    CALLS_FORM_COUNT
} calls_form;

CALLS_API calls_form calls_form_of(const char *source); /* of a chat template; NULL, or not known: NONE */
/* What an answer begins with if it must call a tool, that of this name or (NULL) any: malloc'd. NULL: no memory. */
CALLS_API char *calls_prefix(calls_form form, const char *name);
CALLS_API const char *calls_suffix(calls_form form); /* what such a call ends with */
/* 1 if with that prefix, and a name, what is written next is the arguments as JSON. */
CALLS_API int calls_in_json(calls_form form);
/* 1 if these bytes of a token belong to a mark, so that it must be pushed even if it is special. */
CALLS_API int calls_is_mark(calls_form form, const char *bytes, size_t n);

typedef enum calls_kind { CALLS_TEXT, CALLS_THOUGHTS, CALLS_CALL } calls_kind;
typedef struct calls_part { /* good until the callback returns */
    calls_kind kind;
    const char *text; /* [n] some more of text or thoughts; of a call its arguments, JSON if the model wrote JSON */
    size_t n;
    const char *name; /* of a call */
    int index;        /* calls before this one */
} calls_part;
typedef void (*calls_emit)(void *user, const calls_part *part);
typedef struct calls_reader calls_reader;

/* form CALLS_NONE: no calls are looked for. tools: as OpenAI's API has them, must outlive the reader; NULL: none.
   thinking: the answer begins inside of thoughts. Error: MEMORY. */
CALLS_API mla_result calls_create(calls_reader **out, calls_form form, const json_value *tools, int thinking,
                                  calls_emit emit, void *user, mla_error *err);
CALLS_API void calls_destroy(calls_reader *r); /* NULL is fine */
/* Both: 0 if there is no memory; then what was not given out is lost. */
CALLS_API int calls_push(calls_reader *r, const char *bytes, size_t n);
CALLS_API int calls_end(calls_reader *r); /* the answer is over: what was held back; half a call is nothing */

#ifdef __cplusplus
}
#endif
#endif /* CALLS_H */

/* ================================================================================================================== */
#if defined CALLS_IMPLEMENTATION && !defined CALLS_IMPLEMENTED
#define CALLS_IMPLEMENTED

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALLS__BAR        "\xef\xbd\x9c"
#define CALLS__GAP        "\xe2\x96\x81"
#define CALLS__TOOL(a, b) "<" CALLS__BAR "tool" CALLS__GAP a CALLS__GAP b CALLS__BAR ">"
#define CALLS__DSML(name) CALLS__BAR "DSML" CALLS__BAR name

/* Marks around all calls and around one, and what is between name and arguments. */
static const struct {
    const char *begin, *end, *open, *close, *middle;
} calls__forms[CALLS_FORM_COUNT] = {{NULL, NULL, NULL, NULL, NULL},
                                    {CALLS__TOOL("calls", "begin"), CALLS__TOOL("calls", "end"),
                                     CALLS__TOOL("call", "begin"), CALLS__TOOL("call", "end"),
                                     "<" CALLS__BAR "tool" CALLS__GAP "sep" CALLS__BAR ">"},
                                    {"<" CALLS__DSML("function_calls>"), "</" CALLS__DSML("function_calls>"),
                                     "<" CALLS__DSML("invoke name=\""), "</" CALLS__DSML("invoke>"), "\">"},
                                    {"<|tool_calls_section_begin|>", "<|tool_calls_section_end|>",
                                     "<|tool_call_begin|>", "<|tool_call_end|>", "<|tool_call_argument_begin|>"},
                                    {NULL, NULL, "<tool_call>", "</tool_call>", "<arg_key>"}};
static const char calls__think[] = "<think>", calls__thought[] = "</think>";

calls_form calls_form_of(const char *source) {
    static const struct {
        calls_form form;
        const char *mark;
    } by[] = {{CALLS_DSML, CALLS__DSML("")},
              {CALLS_DEEPSEEK, CALLS__TOOL("call", "begin")},
              {CALLS_KIMI, "<|tool_call_begin|>"},
              {CALLS_GLM, "<arg_key>"}};
    for (size_t i = 0; source && i < sizeof by / sizeof *by; i++)
        if (strstr(source, by[i].mark)) return by[i].form;
    return CALLS_NONE;
}

char *calls_prefix(calls_form form, const char *name) {
    const char *begin = calls__forms[form].begin ? calls__forms[form].begin : "", *open = calls__forms[form].open;
    const size_t room = strlen(begin) + strlen(open) + (name ? strlen(name) : 0) + 64;
    char *text = (char *)malloc(room);
    if (!text) return NULL;
    int n = snprintf(text, room, "%s%s%s", begin, form == CALLS_DSML ? "\n" : "", open);
    if (name && form == CALLS_KIMI) n += snprintf(text + n, room - (size_t)n, "functions.%s:0", name);
    else if (name) n += snprintf(text + n, room - (size_t)n, "%s", name);
    if (name && form != CALLS_GLM)
        snprintf(text + n, room - (size_t)n, "%s%s", calls__forms[form].middle, form == CALLS_DSML ? "\n" : "");
    else if (name) snprintf(text + n, room - (size_t)n, "\n");
    return text;
}

const char *calls_suffix(calls_form form) { return calls__forms[form].close; }
int calls_in_json(calls_form form) { return form == CALLS_DEEPSEEK || form == CALLS_KIMI; }

int calls_is_mark(calls_form form, const char *bytes, size_t n) {
    const char *marks[] = {calls__think,
                           calls__thought,
                           calls__forms[form].begin,
                           calls__forms[form].end,
                           calls__forms[form].open,
                           calls__forms[form].close,
                           calls__forms[form].middle};
    for (size_t i = 0; n > 0 && i < sizeof marks / sizeof *marks; i++)
        if (marks[i] && strlen(marks[i]) >= n && !memcmp(marks[i], bytes, n)) return 1;
    return form == CALLS_DSML && n == sizeof CALLS__DSML("") - 1 && !memcmp(bytes, CALLS__DSML(""), n);
}

/* ---- text -------------------------------------------------------------------------------------------------------- */

static int calls__add(text_buffer *b, const char *bytes, size_t n) { /* 0: no memory */
    text_add(b, bytes, n);
    return !b->failed;
}
static int calls__quoted(text_buffer *b, const char *text, size_t n) {
    text_quote(b, text, n);
    return !b->failed;
}

static int calls__is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
static void calls__trim(const char **text, size_t *n) {
    while (*n && calls__is_space(**text)) (*text)++, (*n)--;
    while (*n && calls__is_space((*text)[*n - 1])) (*n)--;
}

static const char *calls__find(const char *text, size_t n, const char *what) { /* NULL: it is not in there */
    const size_t m = strlen(what);
    for (size_t i = 0; i + m <= n; i++)
        if (text[i] == what[0] && !memcmp(text + i, what, m)) return text + i;
    return NULL;
}

/* ---- a call ------------------------------------------------------------------------------------------------------ */

struct calls_reader {
    calls_form form;
    const json_value *tools;
    calls_emit emit;
    void *user;
    enum { CALLS__TEXT, CALLS__THOUGHTS, CALLS__CALL } state;
    int begun; /* something was given out as text */
    int skips; /* white space comes next that goes */
    int n_calls;
    text_buffer held;
};

/* 1: the tool says that this parameter is a string. */
static int calls__is_string(const calls_reader *r, const char *tool, size_t n_tool, const char *key) {
    for (size_t i = 0; i < json_count(r->tools); i++) {
        const json_value *f = json_get(json_at(r->tools, i), "function");
        size_t n;
        const char *name = json_string(json_get(f, "name"), &n);
        if (!name || n != n_tool || memcmp(name, tool, n) != 0) continue;
        const char *type =
            json_string(json_get(json_get(json_get(json_get(f, "parameters"), "properties"), key), "type"), NULL);
        return type && !strcmp(type, "string");
    }
    return 0;
}

/* One member of the arguments: a value that is JSON stays as it is. */
static int calls__member(text_buffer *json, const char *key, size_t n_key, const char *value, size_t n, int is_string) {
    json_value *parsed = NULL;
    const mla_result as_json = is_string ? MLA_ERR_DATA : json_parse(value, n, &parsed, NULL);
    const int plain = as_json == MLA_OK;
    json_free(parsed);
    return as_json != MLA_ERR_MEMORY && (json->n == 1 || calls__add(json, ", ", 2)) &&
           calls__quoted(json, key, n_key) && calls__add(json, ": ", 2) &&
           (plain ? calls__add(json, value, n) : calls__quoted(json, value, n));
}

/* <|DSML|parameter name="k" string="true">v</|DSML|parameter> ... */
static int calls__dsml(text_buffer *json, const char *at, const char *end) {
    static const char open[] = "<" CALLS__DSML("parameter name=\""), close[] = "</" CALLS__DSML("parameter>");
    while ((at = calls__find(at, (size_t)(end - at), open)) != NULL) {
        const char *key = at + sizeof open - 1, *quote = (const char *)memchr(key, '"', (size_t)(end - key)),
                   *value = quote ? (const char *)memchr(quote, '>', (size_t)(end - quote)) : NULL,
                   *stop = value ? calls__find(value, (size_t)(end - value), close) : NULL;
        if (!stop) break;
        const int is_string = !calls__find(quote, (size_t)(value - quote), "string=\"false\"");
        if (!calls__member(json, key, (size_t)(quote - key), value + 1, (size_t)(stop - value - 1), is_string))
            return 0;
        at = stop;
    }
    return 1;
}

/* <arg_key>k</arg_key><arg_value>v</arg_value> ... */
static int calls__glm(const calls_reader *r, text_buffer *json, const char *name, size_t n_name, const char *at,
                      const char *end) {
    while ((at = calls__find(at, (size_t)(end - at), "<arg_key>")) != NULL) {
        const char *key = at + 9, *key_end = calls__find(key, (size_t)(end - key), "</arg_key>"),
                   *value = key_end ? calls__find(key_end, (size_t)(end - key_end), "<arg_value>") : NULL,
                   *stop = value ? calls__find(value, (size_t)(end - value), "</arg_value>") : NULL;
        if (!stop) break;
        size_t n = (size_t)(key_end - key);
        calls__trim(&key, &n);
        text_buffer copy = {NULL, 0, 0, 0};
        int ok = calls__add(&copy, key, n);
        value += 11;
        ok = ok &&
             calls__member(json, key, n, value, (size_t)(stop - value), calls__is_string(r, name, n_name, copy.data));
        free(copy.data);
        if (!ok) return 0;
        at = stop;
    }
    return 1;
}

/* functions.name:0 -> name */
static void calls__kimi(const char **name, size_t *n) {
    size_t digits = 0;
    if (*n > 10 && !memcmp(*name, "functions.", 10)) *name += 10, *n -= 10;
    while (digits < *n && (*name)[*n - 1 - digits] >= '0' && (*name)[*n - 1 - digits] <= '9') digits++;
    if (digits && digits < *n && (*name)[*n - 1 - digits] == ':') *n -= digits + 1;
}

/* name\n```json\n{...}\n``` */
static void calls__fenced(const char **name, size_t *n_name, const char **arguments, size_t *n) {
    const char *line = (const char *)memchr(*arguments, '\n', *n);
    *name = *arguments, *n_name = line ? (size_t)(line - *arguments) : *n;
    *arguments += *n_name, *n -= *n_name;
    calls__trim(name, n_name), calls__trim(arguments, n);
    if (*n >= 7 && !memcmp(*arguments, "```json", 7)) *arguments += 7, *n -= 7;
    if (*n >= 3 && !memcmp(*arguments + *n - 3, "```", 3)) *n -= 3;
}

/* Gives out a call: text [n] is what stands between its marks. 0: no memory. */
static int calls__call(calls_reader *r, const char *text, size_t n) {
    const char *middle = calls__find(text, n, calls__forms[r->form].middle), *name = text, *end = text + n;
    const int in_tags = !calls_in_json(r->form);
    size_t n_name = middle ? (size_t)(middle - text) : n, n_arguments = 0;
    const char *arguments = middle ? middle + strlen(calls__forms[r->form].middle) : end;
    text_buffer json = {NULL, 0, 0, 0}, called = {NULL, 0, 0, 0};
    int ok = calls__add(&json, "{", (size_t)in_tags);
    n_arguments = (size_t)(end - arguments);
    calls__trim(&name, &n_name), calls__trim(&arguments, &n_arguments);
    if (r->form == CALLS_KIMI) calls__kimi(&name, &n_name);
    if (r->form == CALLS_DEEPSEEK && n_name == 8 && !memcmp(name, "function", 8))
        calls__fenced(&name, &n_name, &arguments, &n_arguments);
    calls__trim(&arguments, &n_arguments);
    if (r->form == CALLS_DSML) ok = ok && calls__dsml(&json, arguments, end) && calls__add(&json, "}", 1);
    else if (r->form == CALLS_GLM)
        ok = ok && calls__glm(r, &json, name, n_name, middle ? middle : end, end) && calls__add(&json, "}", 1);
    else ok = ok && calls__add(&json, n_arguments ? arguments : "{}", n_arguments ? n_arguments : 2);
    ok = ok && calls__add(&called, name, n_name);
    if (ok) {
        const calls_part part = {CALLS_CALL, json.data, json.n, called.data, r->n_calls++};
        r->emit(r->user, &part);
    }
    free(json.data), free(called.data);
    return ok;
}

/* ---- the reader -------------------------------------------------------------------------------------------------- */

mla_result calls_create(calls_reader **out, calls_form form, const json_value *tools, int thinking, calls_emit emit,
                        void *user, mla_error *err) {
    calls_reader *r = (calls_reader *)calloc(1, sizeof *r);
    *out = r;
    if (!r && err) err->code = MLA_ERR_MEMORY, snprintf(err->text, sizeof err->text, "no memory to read an answer");
    if (!r) return MLA_ERR_MEMORY;
    r->form = form, r->tools = tools, r->emit = emit, r->user = user;
    r->state = thinking ? CALLS__THOUGHTS : CALLS__TEXT, r->skips = thinking;
    return MLA_OK;
}

void calls_destroy(calls_reader *r) {
    if (r) free(r->held.data);
    free(r);
}

static void calls__drop(calls_reader *r, size_t n) { /* the first n bytes held */
    if (!n) return;
    memmove(r->held.data, r->held.data + n, r->held.n - n);
    r->held.n -= n;
}

static void calls__give(calls_reader *r, size_t n) { /* the first n bytes held, as what they are */
    const char *text = r->held.data;
    size_t left = n;
    while (r->skips && left && calls__is_space(*text)) text++, left--;
    if (left) {
        const calls_part part = {r->state == CALLS__THOUGHTS ? CALLS_THOUGHTS : CALLS_TEXT, text, left, NULL, 0};
        r->skips = 0, r->begun |= r->state == CALLS__TEXT;
        r->emit(r->user, &part);
    }
    calls__drop(r, n);
}

/* Bytes at the end that may be the begin of one of the marks, and the white space before them. */
static size_t calls__tail(const calls_reader *r, const char *const *marks, int n_marks) {
    const char *data = r->held.data;
    const size_t n = r->held.n;
    size_t best = 0;
    for (int k = 0; k < n_marks; k++)
        for (size_t m = marks[k] ? strlen(marks[k]) - 1 : 0; m > best; m--)
            if (m <= n && !memcmp(data + n - m, marks[k], m)) best = m;
    while (best < n && calls__is_space(data[n - 1 - best])) best++;
    return best;
}

/* One step with what is held; 0: more is needed; -1: no memory. */
static int calls__step(calls_reader *r) {
    const char *marks[4] = {NULL, NULL, NULL, NULL}, *first = NULL;
    int found = -1;
    if (r->state == CALLS__CALL) {
        const char *end = calls__find(r->held.data, r->held.n, calls__forms[r->form].close);
        if (!end) return 0;
        if (!calls__call(r, r->held.data, (size_t)(end - r->held.data))) return -1;
        calls__drop(r, (size_t)(end - r->held.data) + strlen(calls__forms[r->form].close));
        r->state = CALLS__TEXT, r->skips = 1;
        return 1;
    }
    if (r->state == CALLS__THOUGHTS) marks[0] = calls__thought;
    else {
        marks[0] = r->begun || r->n_calls ? NULL : calls__think;
        marks[1] = calls__forms[r->form].open, marks[2] = calls__forms[r->form].begin,
        marks[3] = calls__forms[r->form].end;
    }
    for (int k = 0; k < 4; k++) {
        const char *at = marks[k] ? calls__find(r->held.data, r->held.n, marks[k]) : NULL;
        if (at && (!first || at < first)) first = at, found = k;
    }
    /* <think> is one only where nothing else stands before it. */
    size_t before = first ? (size_t)(first - r->held.data) : r->held.n - calls__tail(r, marks, 4);
    if (found == 0 && r->state == CALLS__TEXT) {
        const char *text = r->held.data;
        calls__trim(&text, &before);
        if (before) {
            calls__give(r, (size_t)(first - r->held.data));
            return 1;
        }
    }
    if (!first) {
        calls__give(r, before);
        return 0;
    }
    const size_t length = (size_t)(first - r->held.data) + strlen(marks[found]);
    while (before && calls__is_space(r->held.data[before - 1])) before--;
    calls__give(r, before);
    calls__drop(r, length - before);
    r->skips = 1;
    if (found == 1) r->state = CALLS__CALL;
    else if (found == 0) {
        r->begun = r->state == CALLS__THOUGHTS;
        r->state = r->begun ? CALLS__TEXT : CALLS__THOUGHTS;
    }
    return 1;
}

int calls_push(calls_reader *r, const char *bytes, size_t n) {
    int more = 1;
    if (!n) return 1;
    if (!calls__add(&r->held, bytes, n)) return 0;
    while (more > 0 && r->held.n) more = calls__step(r);
    return more >= 0;
}

int calls_end(calls_reader *r) {
    if (!r->held.n) return 1;
    if (r->state == CALLS__CALL) return 1; /* it can be neither made nor read */
    size_t n = r->held.n;
    while (r->state == CALLS__THOUGHTS && n && calls__is_space(r->held.data[n - 1])) n--;
    calls__give(r, n);
    return 1;
}

#endif /* CALLS_IMPLEMENTATION */
