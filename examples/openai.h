/* openai.h - requests to OpenAI's API, JSON, as what they ask for, and the answers; what is wrong names the field.

USE
   In exactly one file:      #define OPENAI_IMPLEMENTATION
                             #include "openai.h"
   In all others:            #include "openai.h"    (what it includes must be implemented somewhere in the program)

   if (!openai_read(&r, OPENAI_CHAT, body, n, &how)) puts(r.problem.text);
   openai_reply reply = {.r = &r, .id = "chatcmpl-1", .choices = &choice, .n = 1};   choice.content: what was written
   openai_put_whole(&text, &reply);   openai_clear(&choice), openai_free(&r);

FIELDS         As in OpenAI's reference, and top_k, min_p, repetition_penalty (or repeat_penalty), repeat_last, pooling.
               Those that are not known are passed over; null is as if the field were not there; what is known, and
               wrong or not to be had here, is refused.
   SPDX-License-Identifier: MIT */

#ifndef OPENAI_H
#define OPENAI_H

#include "checkpoint.h"
#include "sampler.h"
#include "scheduler.h"
#include "tokenizer.h"
#include "calls.h"
#include "json_schema.h"
#include "text.h"

#ifndef OPENAI_API
#define OPENAI_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

enum { OPENAI_MAX_TOP = 20, OPENAI_MAX_STOPS = 16, OPENAI_MAX_N = 128 };

typedef enum openai_kind { OPENAI_CHAT, OPENAI_COMPLETION, OPENAI_EMBEDDING } openai_kind;

typedef struct openai_problem {
    int status;                /* of HTTP; 0: nothing is wrong */
    char param[64], text[320]; /* the field, "": none */
    const char *code;          /* NULL: none */
} openai_problem;

typedef struct openai_how { /* what requests are held against; must outlive them */
    const char *model;
    int vocab_size, hidden_size;
    sampler_desc sampling; /* where a request says nothing */
    int64_t seed;
    calls_form form;
    int knows_tools; /* the chat template does */
    int last_state;  /* pooling where a request says nothing */
} openai_how;

typedef struct openai_request {
    openai_kind kind;
    const openai_how *how;
    openai_problem problem;
    json_value *body;
    int streams, usage; /* stream_options.include_usage */
    int n, max_tokens;  /* 0: as many as there is room for */
    sampler_desc sampling;
    double presence, frequency;
    int logprobs, n_top;
    int *bias_of, n_bias; /* [n_bias] tokens, and what is added to their logits */
    float *bias;
    char **stops; /* [n_stops] */
    int n_stops;
    grammar *g;             /* of response_format, or of the arguments behind prefix; NULL: text */
    int calls_nothing;      /* tool_choice: none */
    char *prefix;           /* tool_choice: what the answer must begin with; NULL */
    int base64, last_state; /* embeddings */
    char no_json[128];      /* the first arguments of a call in messages that are no JSON; "": there are none */
} openai_request;

/* Reads a body [n]; r needs to be freed in any case. 0: it is refused, as r->problem says. */
OPENAI_API int openai_read(openai_request *r, openai_kind kind, const char *body, size_t n, const openai_how *how);
OPENAI_API void openai_free(openai_request *r);
/* Notes a problem, if there is none yet. Gives 0. param NULL: no field is at fault. */
#if defined __GNUC__ && !defined __clang__
__attribute__((format(gnu_printf, 4, 5)))
#endif
OPENAI_API int
openai_wrong(openai_request *r, int status, const char *param, const char *format, ...);
/* The text of a message's content, a string or a list of parts: its bytes, written to out unless that is NULL.
   SIZE_MAX: it is neither. */
OPENAI_API size_t openai_content(char *out, const json_value *content);

/* ---- answers ----------------------------------------------------------------------------------------------------- */

typedef struct openai_choice { /* zero-initialise */
    int index, n_calls, n_chars;
    const char *finish;                    /* finish_reason; NULL: it goes on */
    text_buffer content, thoughts;         /* what is to be said now; of an embedding the floats */
    text_buffer calls, logprobs, lists[3]; /* JSON: tool_calls, logprobs; more of these for completions */
} openai_choice;

typedef struct openai_reply {
    const openai_request *r;
    const char *id;
    int64_t created, n_prompt, n_cached, n_generated; /* tokens */
    openai_choice *choices;                           /* [n] */
    int n;
} openai_reply;

/* Adds a part, or a token's logprobs, to a choice. */
OPENAI_API void openai_take_part(const openai_reply *a, openai_choice *c, const calls_part *part);
OPENAI_API void openai_take_logprobs(const openai_reply *a, openai_choice *c, const tokenizer *t,
                                     const scheduler_event *e);
OPENAI_API void openai_clear(openai_choice *c);
OPENAI_API void openai_put_problem(text_buffer *t, const openai_problem *p);
/* A server-sent event with what a choice has, which is gone then. first: with the role alone. c NULL: with usage. */
OPENAI_API void openai_put_chunk(text_buffer *t, const openai_reply *a, openai_choice *c, int first);
/* The whole answer: a chat's, a completion's, or embeddings. */
OPENAI_API void openai_put_whole(text_buffer *t, const openai_reply *a);

#ifdef __cplusplus
}
#endif
#endif /* OPENAI_H */

/* ================================================================================================================== */
#if defined OPENAI_IMPLEMENTATION && !defined OPENAI_IMPLEMENTED
#define OPENAI_IMPLEMENTED

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int openai_wrong(openai_request *r, int status, const char *param, const char *format, ...) {
    va_list args;
    if (r->problem.status) return 0;
    va_start(args, format);
    vsnprintf(r->problem.text, sizeof r->problem.text, format, args);
    va_end(args);
    snprintf(r->problem.param, sizeof r->problem.param, "%s", param ? param : "");
    r->problem.status = status;
    return 0;
}

static int oa__no_memory(openai_request *r) { return openai_wrong(r, 503, NULL, "out of memory for this request"); }

size_t openai_content(char *out, const json_value *content) {
    size_t n, used = 0;
    const char *s = json_string(content, &n);
    if (s && out) memcpy(out, s, n);
    if (s) return n;
    if (json_typeof(content) != JSON_ARRAY) return SIZE_MAX;
    for (size_t i = 0; i < json_count(content); i++) {
        const json_value *part = json_at(content, i);
        const char *type = json_string(json_get(part, "type"), NULL);
        s = json_string(json_get(part, "text"), &n);
        if (!s || (type && strcmp(type, "text") != 0)) return SIZE_MAX;
        if (out) memcpy(out + used, s, n);
        used += n;
    }
    return used;
}

/* The field of the body; NULL: it is not there, or null. */
static const json_value *oa__field(const openai_request *r, const char *name) {
    const json_value *v = json_get(r->body, name);
    return json_typeof(v) == JSON_NULL ? NULL : v;
}

/* Each gives 0 if the field is wrong; if it is not there, *out stays. */
static int oa__number_field(openai_request *r, const char *name, double low, double high, double *out) {
    const json_value *v = oa__field(r, name);
    if (!v) return 1;
    const double x = json_number(v);
    if (json_typeof(v) != JSON_NUMBER) return openai_wrong(r, 400, name, "%s: not a number", name);
    if (x < low) return openai_wrong(r, 400, name, "%s: %g is below %g", name, x, low);
    if (x > high) return openai_wrong(r, 400, name, "%s: %g is above %g", name, x, high);
    *out = x;
    return 1;
}
static int oa__integer_field(openai_request *r, const char *name, int64_t low, int64_t high, int64_t *out) {
    const json_value *v = oa__field(r, name);
    int64_t x;
    if (!v) return 1;
    if (!json_integer(v, &x)) return openai_wrong(r, 400, name, "%s: not an integer", name);
    if (x < low) return openai_wrong(r, 400, name, "%s: %lld is below %lld", name, (long long)x, (long long)low);
    if (x > high) return openai_wrong(r, 400, name, "%s: %lld is above %lld", name, (long long)x, (long long)high);
    *out = x;
    return 1;
}
static int oa__int_field(openai_request *r, const char *name, int low, int high, int *out) {
    int64_t x = *out;
    const int ok = oa__integer_field(r, name, low, high, &x);
    *out = (int)x;
    return ok;
}
static int oa__flag_field(openai_request *r, const char *name, int *out) {
    const json_value *v = oa__field(r, name);
    if (v && json_typeof(v) != JSON_BOOL) return openai_wrong(r, 400, name, "%s: neither true nor false", name);
    if (v) *out = json_bool(v);
    return 1;
}

/* One of n words. */
static int oa__word_field(openai_request *r, const json_value *v, const char *name, const char *const *words, int n,
                          int *out) {
    const char *given = json_string(v, NULL);
    if (!v) return 1;
    for (int i = 0; given && i < n; i++)
        if (!strcmp(given, words[i])) return *out = i, 1;
    return given ? openai_wrong(r, 400, name, "%s: '%.60s' is not known here", name, given)
                 : openai_wrong(r, 400, name, "%s: not a string", name);
}

static int oa__read_sampling(openai_request *r) {
    sampler_desc *d = &r->sampling;
    int64_t seed = r->how->seed;
    const int penalised = oa__field(r, "repetition_penalty") != NULL;
    *d = r->how->sampling;
    int ok = oa__number_field(r, "temperature", 0, 2, &d->temperature) &&
             oa__number_field(r, "top_p", 0, 1, &d->top_p) && oa__number_field(r, "min_p", 0, 1, &d->min_p) &&
             oa__int_field(r, "top_k", -1, INT_MAX, &d->top_k) &&
             oa__number_field(r, penalised ? "repetition_penalty" : "repeat_penalty", 0.01, 100, &d->repeat_penalty) &&
             oa__int_field(r, "repeat_last", 1, SAMPLER_MAX_LAST, &d->repeat_last) &&
             oa__number_field(r, "presence_penalty", -2, 2, &r->presence) &&
             oa__number_field(r, "frequency_penalty", -2, 2, &r->frequency) &&
             oa__integer_field(r, "seed", INT64_MIN, INT64_MAX, &seed) && oa__int_field(r, "n", 1, OPENAI_MAX_N, &r->n);
    if (d->top_p <= 0) d->top_p = oa__field(r, "top_p") ? 1e-9 : 0; /* of what is in the body 0 means the likeliest */
    if (d->top_k < 0) d->top_k = 0;
    d->seed = (uint64_t)seed;
    return ok;
}

/* {"token": bias, ...} */
static int oa__read_bias(openai_request *r) {
    const json_value *v = oa__field(r, "logit_bias");
    const size_t n = json_count(v);
    if (!v) return 1;
    if (json_typeof(v) != JSON_OBJECT) return openai_wrong(r, 400, "logit_bias", "logit_bias: not an object");
    r->bias_of = (int *)malloc((n + 1) * sizeof *r->bias_of), r->bias = (float *)malloc((n + 1) * sizeof *r->bias);
    if (!r->bias_of || !r->bias) return oa__no_memory(r);
    for (size_t i = 0; i < n; i++) {
        const json_value *one = json_at(v, i);
        const char *key = json_key(one);
        const long id = strtol(key, NULL, 10);
        if (!*key || key[strspn(key, "0123456789")] || id >= r->how->vocab_size)
            return openai_wrong(r, 400, "logit_bias", "logit_bias: '%.40s' is no token", key);
        if (json_typeof(one) != JSON_NUMBER || !(fabs(json_number(one)) <= 100))
            return openai_wrong(r, 400, "logit_bias", "logit_bias: of token %ld is not in -100..100", id);
        r->bias_of[i] = (int)id, r->bias[i] = (float)json_number(one);
    }
    r->n_bias = (int)n;
    return 1;
}

/* A string, or a list of them. */
static int oa__read_stops(openai_request *r) {
    const json_value *v = oa__field(r, "stop");
    const int n = json_typeof(v) == JSON_ARRAY ? (int)json_count(v) : 1;
    if (!v) return 1;
    if (n > OPENAI_MAX_STOPS) return openai_wrong(r, 400, "stop", "stop: %d strings, more than 16", n);
    if (!(r->stops = (char **)calloc((size_t)n + 1, sizeof *r->stops))) return oa__no_memory(r);
    for (int i = 0; i < n; i++) {
        size_t length = 0;
        const char *s = json_string(json_typeof(v) == JSON_ARRAY ? json_at(v, (size_t)i) : v, &length);
        if (!s || !length || strlen(s) != length)
            return openai_wrong(r, 400, "stop", "stop: %s",
                                s ? "an empty string, or with a NUL" : "not a string or a list of strings");
        if (!(r->stops[r->n_stops] = (char *)malloc(length + 1))) return oa__no_memory(r);
        memcpy(r->stops[r->n_stops++], s, length + 1);
    }
    return 1;
}

static int oa__read_logprobs(openai_request *r) {
    int top = 0, on = 0, some = oa__field(r, "top_logprobs") != NULL;
    if (r->kind != OPENAI_CHAT) { /* a number: so many likeliest tokens */
        if (!oa__int_field(r, "logprobs", 0, OPENAI_MAX_TOP, &top)) return 0;
        r->logprobs = oa__field(r, "logprobs") != NULL;
    } else {
        if (!oa__flag_field(r, "logprobs", &on) || !oa__int_field(r, "top_logprobs", 0, OPENAI_MAX_TOP, &top)) return 0;
        if (some && !on) return openai_wrong(r, 400, "top_logprobs", "top_logprobs: logprobs is not true");
        r->logprobs = on;
    }
    r->n_top = top;
    return 1;
}

static int oa__read_format(openai_request *r) {
    const json_value *v = oa__field(r, "response_format");
    mla_error error;
    const mla_result rc = v ? json_schema_of_format(&r->g, v, &error) : MLA_OK;
    if (rc == MLA_ERR_MEMORY) return oa__no_memory(r);
    return rc ? openai_wrong(r, 400, "response_format", "response_format: %s", error.text) : 1;
}

static int oa__read_model(openai_request *r) {
    const json_value *v = oa__field(r, "model");
    const char *name = json_string(v, NULL);
    if (v && !name) return openai_wrong(r, 400, "model", "model: not a string");
    if (!name || !strcmp(name, r->how->model)) return 1;
    r->problem.code = "model_not_found";
    return openai_wrong(r, 404, "model", "model: '%.100s' is not here, but '%.100s' is", name, r->how->model);
}

/* What is asked for and not there is refused rather than passed over. */
static int oa__read_unsupported(openai_request *r) {
    int echo = 0, best = r->n;
    if (!oa__flag_field(r, "echo", &echo) || !oa__int_field(r, "best_of", 1, OPENAI_MAX_N, &best)) return 0;
    if (echo) return openai_wrong(r, 400, "echo", "echo: the prompt is not given back here");
    if (best != r->n) return openai_wrong(r, 400, "best_of", "best_of: only what n says is generated here");
    if (oa__field(r, "suffix")) return openai_wrong(r, 400, "suffix", "suffix: nothing can be inserted here");
    if (oa__field(r, "functions")) return openai_wrong(r, 400, "functions", "functions: tools have taken their place");
    return 1;
}

/* All that chats and completions have in common. */
static int oa__read_generation(openai_request *r) {
    const json_value *options_of = oa__field(r, "stream_options"), *include = json_get(options_of, "include_usage");
    const char *most = oa__field(r, "max_completion_tokens") ? "max_completion_tokens" : "max_tokens";
    r->n = 1, r->max_tokens = r->kind == OPENAI_CHAT ? 0 : 16;
    if (!oa__read_model(r) || !oa__flag_field(r, "stream", &r->streams) || !oa__read_sampling(r) || !oa__read_bias(r) ||
        !oa__read_stops(r) || !oa__read_logprobs(r) || !oa__read_format(r) ||
        !oa__int_field(r, most, 1, INT_MAX, &r->max_tokens) || !oa__read_unsupported(r))
        return 0;
    if (options_of && json_typeof(options_of) != JSON_OBJECT)
        return openai_wrong(r, 400, "stream_options", "stream_options: not an object");
    if (json_typeof(include) != JSON_NULL && json_typeof(include) != JSON_BOOL)
        return openai_wrong(r, 400, "stream_options", "stream_options.include_usage: neither true nor false");
    r->usage = json_bool(include);
    return 1;
}

/* One message of each kind has what its kind needs. */
static int oa__check_message(openai_request *r, size_t i, const json_value *m) {
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    const json_value *content = json_get(m, "content"), *calls = json_get(m, "tool_calls");
    char name[64];
    int role = 0;
    snprintf(name, sizeof name, "messages[%zu].role", i);
    if (json_typeof(m) != JSON_OBJECT || !json_get(m, "role"))
        return openai_wrong(r, 400, "messages", "%s: it is missing", name);
    if (!oa__word_field(r, json_get(m, "role"), name, roles, 5, &role)) return 0;
    const int absent = json_typeof(content) == JSON_NULL,
              fine = absent ? role == 3 : openai_content(NULL, content) != SIZE_MAX;
    snprintf(name, sizeof name, "messages[%zu].content", i);
    if (!fine)
        return openai_wrong(r, 400, name, "%s: %s", name,
                            absent ? "it is missing" : "neither a text nor a list of parts of type text");
    snprintf(name, sizeof name, "messages[%zu].tool_calls", i);
    if (json_typeof(calls) != JSON_NULL && json_typeof(calls) != JSON_ARRAY)
        return openai_wrong(r, 400, name, "%s: not a list", name);
    for (size_t k = 0; k < json_count(calls); k++) {
        const json_value *f = json_get(json_at(calls, k), "function");
        if (!json_string(json_get(f, "name"), NULL) || !json_string(json_get(f, "arguments"), NULL))
            return openai_wrong(r, 400, name, "%s[%zu].function: it has no name and arguments, both strings", name, k);
        size_t n;
        const char *text = json_string(json_get(f, "arguments"), &n);
        json_value *v = NULL;
        if (json_parse(text, n, &v, NULL) == MLA_ERR_ARGUMENT && !*r->no_json)
            snprintf(r->no_json, sizeof r->no_json, "%s[%zu].function.arguments", name, k);
        json_free(v);
    }
    return 1;
}

static int oa__check_tool(openai_request *r, size_t i, const json_value *tool) {
    const json_value *f = json_get(tool, "function"), *about = json_get(f, "description"),
                     *parameters = json_get(f, "parameters");
    const char *type = json_string(json_get(tool, "type"), NULL), *name = json_string(json_get(f, "name"), NULL);
    const size_t n = name ? strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") : 0;
    char path[64];
#define OA__WRONG(where, what)                                                                                         \
    (snprintf(path, sizeof path, "tools[%zu]." where, i), openai_wrong(r, 400, path, "%s: %s", path, what))
    if (!type || strcmp(type, "function") != 0) return OA__WRONG("type", "not function");
    if (!name || !n || name[n] || n > 64) return OA__WRONG("function.name", "not 1 to 64 letters, digits, _, - or .");
    if (json_typeof(about) != JSON_NULL && !json_string(about, NULL))
        return OA__WRONG("function.description", "not a string");
    if (json_typeof(parameters) != JSON_NULL && json_typeof(parameters) != JSON_OBJECT)
        return OA__WRONG("function.parameters", "not an object");
#undef OA__WRONG
    return 1;
}

static int oa__check_tools(openai_request *r) {
    const json_value *tools = oa__field(r, "tools");
    if (!tools) return 1;
    if (json_typeof(tools) != JSON_ARRAY) return openai_wrong(r, 400, "tools", "tools: not a list");
    for (size_t i = 0; i < json_count(tools); i++)
        if (!oa__check_tool(r, i, json_at(tools, i))) return 0;
    if (json_count(tools) && !r->how->knows_tools)
        return openai_wrong(r, 400, "tools", "tools: the model's chat template knows no tools");
    return 1;
}

/* The arguments of a call that must come are held to the tool's schema, where the model writes them as JSON. What of a
   schema is not supported is an error only if they are to be strict. */
static int oa__hold_arguments(openai_request *r, const json_value *function) {
    const json_value *schema = json_get(function, "parameters");
    mla_error error;
    if (!calls_in_json(r->how->form)) return 1;
    const mla_result rc = json_schema_grammar(&r->g, json_count(schema) ? schema : NULL, &error);
    if (rc == MLA_ERR_MEMORY) return oa__no_memory(r);
    return !rc || !json_bool(json_get(function, "strict")) ||
           openai_wrong(r, 400, "tools", "tools: %.60s: parameters: %s", json_string(json_get(function, "name"), NULL),
                        error.text);
}

/* tool_choice: with what the answer must begin. */
static int oa__read_choice(openai_request *r) {
    static const char *const words[] = {"auto", "none", "required"};
    const json_value *v = oa__field(r, "tool_choice"), *tools = oa__field(r, "tools");
    const char *name = json_string(json_get(json_get(v, "function"), "name"), NULL);
    const json_value *chosen = NULL;
    int word = 0;
    if (!v) return 1;
    if (json_typeof(v) == JSON_OBJECT && !name)
        return openai_wrong(r, 400, "tool_choice", "tool_choice.function.name: it is missing");
    if (!name && !oa__word_field(r, v, "tool_choice", words, 3, &word)) return 0;
    r->calls_nothing = word == 1;
    if (!name && word < 2) return 1;
    if (!name && json_count(tools) == 1)
        name = json_string(json_get(json_get(json_at(tools, 0), "function"), "name"), NULL);
    for (size_t i = 0; name && !chosen && i < json_count(tools); i++) {
        const json_value *f = json_get(json_at(tools, i), "function");
        if (!strcmp(name, json_string(json_get(f, "name"), NULL))) chosen = f;
    }
    if (name ? !chosen : !json_count(tools))
        return openai_wrong(r, 400, "tool_choice", "tool_choice: %.80s is none of tools",
                            name ? name : "what is required");
    if (r->how->form == CALLS_NONE)
        return openai_wrong(r, 400, "tool_choice",
                            "tool_choice: how this model writes calls is not known, none can be required");
    if (r->g)
        return openai_wrong(r, 400, "tool_choice",
                            "tool_choice: response_format leaves no room for a call that is required");
    if (chosen && !oa__hold_arguments(r, chosen)) return 0;
    return (r->prefix = calls_prefix(r->how->form, name)) != NULL || oa__no_memory(r);
}

/* Variables for the template, but none of those that the rest of the request and the model set. */
static int oa__check_variables(openai_request *r) {
    static const char *const taken[] = {"messages", "tools", "bos_token", "eos_token", "add_generation_prompt"};
    const json_value *v = oa__field(r, "chat_template_kwargs");
    char name[64];
    if (v && json_typeof(v) != JSON_OBJECT)
        return openai_wrong(r, 400, "chat_template_kwargs", "chat_template_kwargs: not an object");
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        snprintf(name, sizeof name, "chat_template_kwargs.%s", taken[i]);
        if (json_get(v, taken[i])) return openai_wrong(r, 400, name, "%s: it cannot be set here", name);
    }
    return 1;
}

static int oa__read_chat(openai_request *r) {
    const json_value *messages = oa__field(r, "messages");
    if (!oa__check_variables(r) || !oa__check_tools(r) || !oa__read_choice(r)) return 0;
    if (!messages) return openai_wrong(r, 400, "messages", "messages: it is missing");
    if (json_typeof(messages) != JSON_ARRAY || !json_count(messages))
        return openai_wrong(r, 400, "messages", "messages: not a list with something in it");
    for (size_t i = 0; i < json_count(messages); i++)
        if (!oa__check_message(r, i, json_at(messages, i))) return 0;
    return 1;
}

static int oa__read_embedding(openai_request *r) {
    static const char *const formats[] = {"float", "base64"}, *const kinds[] = {"mean", "last"};
    int size = r->how->hidden_size;
    r->n = 1, r->last_state = r->how->last_state;
    if (!oa__read_model(r) ||
        !oa__word_field(r, oa__field(r, "encoding_format"), "encoding_format", formats, 2, &r->base64) ||
        !oa__word_field(r, oa__field(r, "pooling"), "pooling", kinds, 2, &r->last_state) ||
        !oa__int_field(r, "dimensions", 1, INT_MAX, &size))
        return 0;
    return size == r->how->hidden_size ||
           openai_wrong(r, 400, "dimensions", "dimensions: %d, and this model's embeddings have %d", size,
                        r->how->hidden_size);
}

int openai_read(openai_request *r, openai_kind kind, const char *body, size_t n, const openai_how *how) {
    mla_error error;
    memset(r, 0, sizeof *r);
    r->kind = kind, r->how = how;
    const mla_result rc = json_parse(body, n, &r->body, &error);
    if (rc == MLA_ERR_MEMORY) return oa__no_memory(r);
    if (rc) return openai_wrong(r, 400, NULL, "the body cannot be read as JSON: %s", error.text);
    if (json_typeof(r->body) != JSON_OBJECT) return openai_wrong(r, 400, NULL, "the body is no object of JSON");
    if (kind == OPENAI_EMBEDDING) return oa__read_embedding(r);
    return oa__read_generation(r) && (kind == OPENAI_COMPLETION || oa__read_chat(r));
}

void openai_free(openai_request *r) {
    for (int i = 0; r->stops && i < r->n_stops; i++) free(r->stops[i]);
    json_free(r->body), grammar_destroy(r->g);
    free(r->stops), free(r->bias_of), free(r->bias), free(r->prefix);
    memset(r, 0, sizeof *r);
}

/* ---- answers ----------------------------------------------------------------------------------------------------- */

void openai_put_problem(text_buffer *t, const openai_problem *p) {
    text_put(t, "{\"error\":{\"message\":");
    text_quote_string(t, p->text);
    text_print(t, ",\"type\":\"%s\",\"param\":", p->status < 500 ? "invalid_request_error" : "server_error");
    if (*p->param) text_quote_string(t, p->param);
    else text_put(t, "null");
    text_put(t, ",\"code\":");
    if (p->code) text_quote_string(t, p->code);
    else text_put(t, "null");
    text_put(t, "}}");
}

void openai_take_part(const openai_reply *a, openai_choice *c, const calls_part *p) {
    if (p->kind != CALLS_CALL) {
        text_add(p->kind == CALLS_TEXT ? &c->content : &c->thoughts, p->text, p->n);
        return;
    }
    text_put(&c->calls, "{");
    if (a->r->streams) text_print(&c->calls, "\"index\":%d,", p->index);
    text_print(&c->calls, "\"id\":\"call_%s_%d_%d\",\"type\":\"function\",\"function\":{\"name\":",
               strchr(a->id, '-') ? strchr(a->id, '-') + 1 : a->id, c->index, p->index);
    text_quote_string(&c->calls, p->name);
    text_put(&c->calls, ",\"arguments\":");
    text_quote(&c->calls, p->text, p->n);
    text_put(&c->calls, "}},");
    c->n_calls++;
}

static void oa__put_token(text_buffer *t, const tokenizer *all, int token, float logprob,
                          int more) { /* of a chat's logprobs */
    size_t n = 0;
    const char *bytes = tokenizer_bytes(all, token, &n);
    text_put(t, "{\"token\":");
    text_quote(t, bytes ? bytes : "", n);
    text_print(t, ",\"logprob\":%.7g,\"bytes\":[", (double)fmaxf(logprob, -9999.0f)); /* JSON has no infinities */
    for (size_t i = 0; i < n; i++) text_print(t, i ? ",%u" : "%u", (unsigned)(unsigned char)bytes[i]);
    text_put(t, more ? "],\"top_logprobs\":[" : "]}");
}

void openai_take_logprobs(const openai_reply *a, openai_choice *c, const tokenizer *all, const scheduler_event *e) {
    size_t n = 0;
    const char *bytes = tokenizer_bytes(all, e->token, &n);
    text_buffer *to = &c->logprobs;
    if (a->r->kind == OPENAI_CHAT) {
        oa__put_token(to, all, e->token, e->logprob, 1);
        for (int i = 0; i < e->n_top; i++) {
            if (i) text_put(to, ",");
            oa__put_token(to, all, e->top[i].token, e->top[i].logprob, 0);
        }
        text_put(to, "]},");
        return;
    }
    text_quote(to, bytes ? bytes : "", n), text_put(to, ",");
    text_print(&c->lists[0], "%.7g,", (double)fmaxf(e->logprob, -9999.0f));
    text_print(&c->lists[2], "%d,", c->n_chars);
    for (size_t i = 0; i < n; i++) c->n_chars += ((unsigned char)bytes[i] & 0xC0) != 0x80;
    text_put(&c->lists[1], "{");
    for (int i = 0; i < e->n_top; i++) {
        size_t length = 0;
        const char *top = tokenizer_bytes(all, e->top[i].token, &length);
        if (i) text_put(&c->lists[1], ",");
        text_quote(&c->lists[1], top ? top : "", length);
        text_print(&c->lists[1], ":%.7g", (double)fmaxf(e->top[i].logprob, -9999.0f));
    }
    text_put(&c->lists[1], "},");
}

static void oa__put_list(text_buffer *t, const char *name, text_buffer *items) { /* whose last comma goes */
    text_print(t, "\"%s\":[", name);
    text_add(t, items->n ? items->data : "", items->n ? items->n - 1 : 0);
    text_put(t, "]");
    t->failed |= items->failed, items->n = 0;
}

static void oa__put_logprobs(text_buffer *t, const openai_reply *a, openai_choice *c) {
    static const char *const names[] = {"token_logprobs", "top_logprobs", "text_offset"};
    text_put(t, ",\"logprobs\":");
    if (!a->r->logprobs) text_put(t, "null");
    else text_put(t, "{");
    if (a->r->logprobs) oa__put_list(t, a->r->kind == OPENAI_CHAT ? "content" : "tokens", &c->logprobs);
    for (int i = 0; a->r->logprobs && a->r->kind != OPENAI_CHAT && i < 3; i++)
        text_put(t, ","), oa__put_list(t, names[i], &c->lists[i]);
    if (a->r->logprobs) text_put(t, a->r->kind == OPENAI_CHAT ? ",\"refusal\":null}" : "}");
}

static void oa__put_member(text_buffer *t, const char *name, text_buffer *value) { /* with a comma behind it */
    text_print(t, "\"%s\":", name);
    text_quote(t, value->n ? value->data : "", value->n);
    text_put(t, ",");
    t->failed |= value->failed, value->n = 0;
}

/* Members of a message or of a delta, the last comma gone. */
static void oa__put_message(text_buffer *t, openai_choice *c, int whole) {
    const int silent = whole && !c->content.n && c->n_calls;
    if (whole) text_put(t, "\"role\":\"assistant\",\"refusal\":null,");
    if (c->thoughts.n) oa__put_member(t, "reasoning_content", &c->thoughts);
    if (silent) text_put(t, "\"content\":null,");
    else if (whole || c->content.n) oa__put_member(t, "content", &c->content);
    if (c->calls.n) oa__put_list(t, "tool_calls", &c->calls), text_put(t, ",");
    if (!t->failed && t->data[t->n - 1] == ',') t->data[--t->n] = 0;
    t->failed |= c->content.failed | c->thoughts.failed;
}

static void oa__put_usage(text_buffer *t, const openai_reply *a) {
    text_print(t, "{\"prompt_tokens\":%lld,", (long long)a->n_prompt);
    if (a->r->kind != OPENAI_EMBEDDING) text_print(t, "\"completion_tokens\":%lld,", (long long)a->n_generated);
    text_print(t, "\"total_tokens\":%lld,\"prompt_tokens_details\":{\"cached_tokens\":%lld}}",
               (long long)(a->n_prompt + a->n_generated), (long long)a->n_cached);
}

static void oa__put_begin(text_buffer *t, const openai_reply *a) {
    text_print(t, "{\"id\":\"%s\",\"object\":\"%s%s\",\"created\":%lld,\"model\":", a->id,
               a->r->kind == OPENAI_CHAT ? "chat.completion" : "text_completion",
               a->r->kind == OPENAI_CHAT && a->r->streams ? ".chunk" : "", (long long)a->created);
    text_quote_string(t, a->r->how->model);
    text_put(t, ",\"system_fingerprint\":\"mla.h " MLA_VERSION "\",\"choices\":[");
}

void openai_put_chunk(text_buffer *t, const openai_reply *a, openai_choice *c, int first) {
    text_put(t, "data: ");
    oa__put_begin(t, a);
    if (!c) {
        text_put(t, "],\"usage\":"), oa__put_usage(t, a), text_put(t, "}\n\n");
        return;
    }
    text_print(t, "{\"index\":%d,", c->index);
    if (a->r->kind == OPENAI_CHAT) {
        text_put(t, "\"delta\":{");
        if (first) text_put(t, "\"role\":\"assistant\",\"content\":\"\"");
        else oa__put_message(t, c, 0);
        text_put(t, "}");
    } else {
        oa__put_member(t, "text", &c->content);
        t->n -= !t->failed;
    }
    if (first || c->finish) text_put(t, ",\"logprobs\":null");
    else oa__put_logprobs(t, a, c);
    text_put(t, ",\"finish_reason\":");
    if (c->finish) text_quote_string(t, c->finish);
    else text_put(t, "null");
    text_put(t, a->r->usage ? "}],\"usage\":null}\n\n" : "}]}\n\n");
}

static void oa__put_embedding(text_buffer *t, const openai_reply *a, const openai_choice *c) {
    const text_buffer *values = &c->content;
    text_print(t, "{\"object\":\"embedding\",\"index\":%d,\"embedding\":%s", c->index, a->r->base64 ? "\"" : "[");
    if (a->r->base64) text_base64(t, values->data, values->n);
    for (size_t k = 0; !a->r->base64 && k < values->n; k += sizeof(float)) {
        float x;
        memcpy(&x, values->data + k, sizeof x);
        text_print(t, k ? ",%.9g" : "%.9g", (double)x);
    }
    text_put(t, a->r->base64 ? "\"}" : "]}");
    t->failed |= values->failed;
}

void openai_put_whole(text_buffer *t, const openai_reply *a) {
    const int embeds = a->r->kind == OPENAI_EMBEDDING;
    if (embeds) {
        text_print(t, "{\"object\":\"list\",\"pooling\":\"%s\",\"model\":", a->r->last_state ? "last" : "mean");
        text_quote_string(t, a->r->how->model);
        text_put(t, ",\"data\":[");
    } else oa__put_begin(t, a);
    for (int i = 0; i < a->n; i++) {
        openai_choice *c = &a->choices[i];
        if (i) text_put(t, ",");
        if (embeds) {
            oa__put_embedding(t, a, c);
            continue;
        }
        text_print(t, "{\"index\":%d,", c->index);
        if (a->r->kind == OPENAI_CHAT) text_put(t, "\"message\":{"), oa__put_message(t, c, 1), text_put(t, "}");
        else oa__put_member(t, "text", &c->content), t->n -= !t->failed;
        oa__put_logprobs(t, a, c);
        text_print(t, ",\"finish_reason\":\"%s\"}", c->finish);
    }
    text_put(t, "],\"usage\":");
    oa__put_usage(t, a);
    text_put(t, "}\n");
}

void openai_clear(openai_choice *c) {
    text_clear(&c->content), text_clear(&c->thoughts), text_clear(&c->calls), text_clear(&c->logprobs);
    for (int i = 0; i < 3; i++) text_clear(&c->lists[i]);
}

#endif /* OPENAI_IMPLEMENTATION */
