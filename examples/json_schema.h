/* json_schema.h - a JSON schema as the rules by which grammar.h holds what a model writes to it.

USE
   In exactly one file:      #define JSON_SCHEMA_IMPLEMENTATION
                             #include "json_schema.h"
   In all others:            #include "json_schema.h"
                             (grammar_* and json_* of checkpoint.h must be implemented somewhere in the program)

SCHEMA         type (also a list), properties, required, additionalProperties, items, minItems, maxItems, minLength,
               maxLength, minimum, maximum, exclusiveMinimum, exclusiveMaximum, enum, const, anyOf, $ref to a place in
               the same schema (#, #/$defs/x, ...), also recursive; allOf of one entry; oneOf where no two entries can
               hold at once, by their types, constants or a required member's constants. true, false, {}.
IGNORED        title, description, default, examples, deprecated, readOnly, writeOnly, discriminator, $schema, $id,
               $comment; $defs and definitions but for what is referred to; uniqueItems: false.
REFUSED        All others (pattern, format, patternProperties, if, not, ...), $ref, anyOf, oneOf, allOf, enum, const
               beside anything that restricts, and schemas that nothing fits. The message says which key at which path.
ACCEPTED       Only what is valid by the schema, of this in one form: members in the order of `properties`, those that
               are only in `required` next, others last; an object with `properties` that does not mention
               additionalProperties has no others; constants as compact JSON. Without `type`, the keywords that are
               there say which it is. Numbers with a bound have at most 6 digits behind the point (less if the bounds
               need the others). For the rest see grammar.h.

CONTENTS       >>json_schema (the API)   then >>errors >>constants >>compiler >>choices
   SPDX-License-Identifier: MIT */

#ifndef JSON_SCHEMA_H
#define JSON_SCHEMA_H

#ifndef CHECKPOINT_H
#include "checkpoint.h"
#endif
#include "grammar.h"

#ifndef JSON_SCHEMA_API
#define JSON_SCHEMA_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- >>json_schema ----------------------------------------------------------------------------------------------- */

/* A schema, of which nothing is kept; NULL: any JSON object. A call that fails sets *out to NULL; err may be NULL.
   Errors: ARGUMENT (out is NULL), CONFIG (a keyword's value that cannot be, or nothing fits), UNSUPPORTED, MEMORY. */
JSON_SCHEMA_API mla_result json_schema_grammar(grammar **out, const json_value *schema, mla_error *err);
/* By OpenAI's response_format: of type text (*out is NULL: no grammar), json_object, or json_schema. NULL: text. */
JSON_SCHEMA_API mla_result json_schema_of_format(grammar **out, const json_value *format, mla_error *err);

#ifdef __cplusplus
}
#endif
#endif /* JSON_SCHEMA_H */

/* ================================================================================================================== */
#if defined JSON_SCHEMA_IMPLEMENTATION && !defined JSON_SCHEMA_IMPLEMENTED
#define JSON_SCHEMA_IMPLEMENTED

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JS__MEMBERS = 4096, JS__WORK = 10000000, JS__NEVER = 255 /* no height */, JS__BYTES = 1 << 26 };

typedef struct js__source { /* of a rule: its schema, and of a choice the entries, or what it refers to */
    const json_value *schema, *entries;
    enum { JS__PLAIN, JS__REFERS, JS__CHOICE, JS__ONE_OF } kind;
} js__source;

typedef struct js__build {
    grammar *g;
    const json_value *root, **order; /* order: room to put members as they are in the file */
    js__source *sources;             /* of each rule */
    uint32_t *table, mask;           /* the rules by where their schemas are in memory; 0: free */
    uint32_t n_rules, n_texts, at, work;
    size_t n_bytes, room, *offsets; /* of the texts in g->bytes, which move as they grow */
    mla_result code;
    mla_error *err;
} js__build;

/* ---- >>errors ---------------------------------------------------------------------------------------------------- */

#if defined __GNUC__ && !defined __clang__
__attribute__((format(gnu_printf, 3, 4)))
#endif
static mla_result
js__fail(mla_error *err, mla_result code, const char *format, ...) {
    va_list args;
    if (!err) return code;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    err->code = code, err->sequence = -1;
    for (char *c = err->text; *c; c++) /* a hostile name must not break the line or drive a terminal */
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    return code;
}

/* Where v is in `in`, "/path/key", before path + at; 0: it is not there. */
static int js__path(const json_value *in, const json_value *v, char *path, size_t *at) {
    char part[48];
    if (in == v) return 1;
    for (size_t i = 0; i < json_count(in); i++) {
        const json_value *m = json_at(in, i);
        if (!js__path(m, v, path, at)) continue;
        if (json_key(m)) snprintf(part, sizeof part, "/%.40s", json_key(m));
        else snprintf(part, sizeof part, "/%lu", (unsigned long)json_place(m));
        if (strlen(part) <= *at) *at -= strlen(part), memcpy(path + *at, part, strlen(part));
        return 1;
    }
    return 0;
}

/* The first error counts: "#/path/key: what word", of the rule that is looked at. */
static void js__refuse(js__build *b, mla_result code, const char *key, const char *what, const char *word) {
    enum { MOST = 110 };
    char path[64 * 48];
    size_t at = sizeof path - 1;
    if (b->code) return;
    path[at] = 0, js__path(b->root, b->sources[b->at].schema, path, &at);
    const int cut = at < sizeof path - 1 - MOST;
    b->code = js__fail(b->err, code, "schema: #%s%s%s%.40s: %s%.40s", cut ? "/..." : "",
                       cut ? path + sizeof path - 1 - MOST : path + at, key ? "/" : "", key ? key : "", what,
                       word ? word : "");
}

/* ---- >>constants ------------------------------------------------------------------------------------------------- */

static void js__put(js__build *b, const char *bytes, size_t n) {
    if (b->code) return;
    if (b->n_bytes + n > b->room) { /* the same value may be in many texts: by a reference into a constant */
        const size_t room = 2 * (b->n_bytes + n);
        char *more = room > JS__BYTES ? NULL : (char *)realloc(b->g->bytes, room);
        if (!more) {
            b->code = js__fail(b->err, MLA_ERR_MEMORY, "schema: no memory for %zu bytes of constants", room);
            return;
        }
        b->g->bytes = more, b->room = room;
    }
    memcpy(b->g->bytes + b->n_bytes, bytes, n), b->n_bytes += n;
}

static void js__put_string(js__build *b, const char *s, size_t n) {
    char quoted[8];
    js__put(b, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        const size_t length = json_quote(quoted, s + i, 1) - 2;
        if (s[i] == 0x7f) js__put(b, s + i, 1); /* which need not be escaped */
        else js__put(b, quoted + 1, length);
    }
    js__put(b, "\"", 1);
}

static void js__put_number(js__build *b, const json_value *v) {
    char text[40];
    int64_t integer;
    const double real = json_number(v) == 0 ? 0 : json_number(v); /* no -0 */
    if (json_integer(v, &integer)) snprintf(text, sizeof text, "%lld", (long long)integer);
    else
        for (int digits = 15; digits < 18; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, real);
            if (strtod(text, NULL) == real) break;
        }
    for (char *c = text; *c; c++) /* the point of the locale */
        if (!strchr("0123456789+-e", *c)) *c = '.';
    js__put(b, text, strlen(text));
}

static int js__put_value(js__build *b, const json_value *v) { /* as compact JSON; gives how deep it nests */
    const json_value **order = b->order;
    const json_type type = json_typeof(v);
    int deepest = 0;
    size_t n;
    const char *s = json_string(v, &n);
    if (type == JSON_NULL) js__put(b, "null", 4);
    else if (type == JSON_BOOL) js__put(b, json_bool(v) ? "true" : "false", json_bool(v) ? 4 : 5);
    else if (type == JSON_NUMBER) js__put_number(b, v);
    else if (type == JSON_STRING) js__put_string(b, s, n);
    if (type < JSON_ARRAY) return 0;
    for (size_t i = 0; i < json_count(v); i++) order[json_place(json_at(v, i))] = json_at(v, i);
    b->order += json_count(v);
    js__put(b, type == JSON_ARRAY ? "[" : "{", 1);
    for (size_t i = 0; i < json_count(v) && !b->code; i++) {
        const char *key = json_key(order[i]);
        if (i) js__put(b, ",", 1);
        if (key) js__put_string(b, key, strlen(key)), js__put(b, ":", 1);
        const int depth = js__put_value(b, order[i]);
        if (depth > deepest) deepest = depth;
    }
    js__put(b, type == JSON_ARRAY ? "]" : "}", 1);
    b->order = order;
    return deepest + 1;
}

static void js__text(js__build *b, grammar_text *t, size_t at, uint32_t value,
                     int required) { /* the bytes from at on */
    b->offsets[t - b->g->texts] = at;
    t->n = (uint32_t)(b->n_bytes - at), t->value = value, t->required = (uint8_t)required;
}

static int js__by_bytes(const void *x, const void *y) {
    const grammar_text *a = (const grammar_text *)x, *b = (const grammar_text *)y;
    const int order = memcmp(a->bytes, b->bytes, a->n < b->n ? a->n : b->n);
    return order ? order : (a->n > b->n) - (a->n < b->n);
}

/* ---- >>compiler -------------------------------------------------------------------------------------------------- */
/* Schemas become rules in the order in which they are met, each once, without recursion. */

/* Those that stand alone, of which two may have `type` beside them; those that restrict; and, from TITLE on, those that
   do not. What their values must be; and what types those from PROPERTIES on speak of. */
enum { JS__REF, JS__ONEOF = 2, JS__ALLOF, JS__CONST, JS__ENUM, JS__TYPE };
enum { JS__PROPERTIES = JS__TYPE + 1, JS__REQUIRED, JS__ADDITIONAL, JS__ITEMS, JS__UNIQUE, JS__LIMITS };
enum { JS__BOUNDS = JS__LIMITS + 4, JS__TITLE = JS__BOUNDS + 4 };
/* clang-format off */
static const char *const js__words[] = {
    "$ref", "anyOf", "oneOf", "allOf", "const", "enum", "type", "properties", "required", "additionalProperties",
    "items", "uniqueItems", "minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
    "discriminator", "$schema", "$id", "$comment", "$defs", "definitions"};
static const char js__must[] = "?lll?l?ol??bnnnnnnnn?????????????";
static const uint8_t js__of[] = {GRAMMAR_OBJECT, GRAMMAR_OBJECT, GRAMMAR_OBJECT, GRAMMAR_ARRAY, GRAMMAR_ARRAY,
    GRAMMAR_ARRAY, GRAMMAR_ARRAY, GRAMMAR_STRING, GRAMMAR_STRING, GRAMMAR_NUMBER, GRAMMAR_NUMBER, GRAMMAR_NUMBER,
    GRAMMAR_NUMBER};
/* clang-format on */

static int js__keywords(js__build *b, const json_value *schema, const json_value **key) { /* gives the first's place */
    static const char *const is[] = {"", "true or false", "a number", "a string", "a list", "an object"};
    const int n = (int)(sizeof js__words / sizeof *js__words);
    int first = n, k;
    for (size_t i = 0; i < json_count(schema); i++) {
        const json_value *m = json_at(schema, i);
        for (k = 0; k < n && strcmp(json_key(m), js__words[k]); k++) {}
        if (k == n) js__refuse(b, MLA_ERR_UNSUPPORTED, json_key(m), "not supported", NULL);
        else if (js__must[k] != '?' && js__must[k] != "?bnslo"[json_typeof(m)])
            js__refuse(b, MLA_ERR_CONFIG, json_key(m), "not ", is[strchr("?bnslo", js__must[k]) - "?bnslo"]);
        else if (k < JS__TITLE) key[k] = m;
        if (k < first) first = k;
    }
    for (k = first + 1; k < JS__TITLE && first < JS__TYPE; k++)
        if (key[k] && !(k == JS__TYPE && first >= JS__CONST))
            js__refuse(b, MLA_ERR_UNSUPPORTED, js__words[k], "not supported beside ", js__words[first]);
    return first;
}

static int js__types_named(js__build *b, const json_value *names) {
    static const char *const types[] = {"string", "number", "integer", "boolean", "null", "object", "array"};
    const int list = json_typeof(names) == JSON_ARRAY;
    int all = 0, k;
    for (size_t i = 0; i < (list ? json_count(names) : 1) && !b->code; i++) {
        const char *name = json_string(list ? json_at(names, i) : names, NULL);
        for (k = 0; k < 7 && !(name && !strcmp(name, types[k])); k++) {}
        if (k == 7) js__refuse(b, MLA_ERR_CONFIG, "type", "not one of JSON schema's: ", name);
        all |= 1 << k;
    }
    if (!all) js__refuse(b, MLA_ERR_CONFIG, "type", "none", NULL);
    return all & GRAMMAR_NUMBER ? all & ~GRAMMAR_INTEGER : all;
}

static uint32_t js__rule(js__build *b, const json_value *schema) { /* of a schema that may have been met before */
    const json_type type = json_typeof(schema);
    uint32_t i = (uint32_t)((uint64_t)(uintptr_t)schema * UINT64_C(0x9E3779B97F4A7C15) >> 32);
    if (type == JSON_BOOL ? json_bool(schema) : type == JSON_OBJECT && !json_count(schema)) return 0;
    while (b->table[i & b->mask] && b->sources[b->table[i & b->mask]].schema != schema) i++;
    uint32_t *rule = &b->table[i & b->mask];
    if (!*rule) *rule = b->n_rules++, b->sources[*rule].schema = schema, b->g->rules[*rule] = b->g->rules[0];
    return *rule;
}

/* What pointer, "#" or "#/..", refers to; NULL: nothing. */
static const json_value *js__resolve(const js__build *b, const char *pointer) {
    char part[256];
    const json_value *v = pointer && *pointer == '#' ? b->root : NULL;
    if (v) pointer++;
    while (v && *pointer) {
        size_t n = 0;
        if (*pointer++ != '/') return NULL;
        for (; *pointer && *pointer != '/' && n < sizeof part - 1; pointer++) {
            part[n] = *pointer;
            if (*pointer == '~' && (pointer[1] == '0' || pointer[1] == '1')) part[n] = *++pointer == '0' ? '~' : '/';
            n++;
        }
        part[n] = 0;
        if (json_typeof(v) != JSON_ARRAY) v = json_get(v, part);
        else v = *part >= '0' && *part <= '9' ? json_at(v, strtoul(part, NULL, 10)) : NULL;
    }
    return v;
}

static size_t js__n_entries(const js__source *s) {
    return s->kind == JS__REFERS ? 1 : s->kind ? json_count(s->entries) : 0;
}
static uint32_t js__entry(js__build *b, const js__source *s, size_t i) {
    return js__rule(b, s->kind == JS__REFERS ? s->entries : json_at(s->entries, i));
}

static void js__choice(js__build *b, js__source *s, const json_value *list, int k) {
    const char *pointer = json_string(list, NULL);
    s->kind = k == JS__REF ? JS__REFERS : k == JS__ONEOF ? JS__ONE_OF : JS__CHOICE;
    s->entries = k == JS__REF ? js__resolve(b, pointer) : list;
    const size_t n = js__n_entries(s);
    if (!s->entries) js__refuse(b, MLA_ERR_UNSUPPORTED, js__words[k], "not a place in this schema: ", pointer);
    if (!n) js__refuse(b, MLA_ERR_CONFIG, js__words[k], "not a list with an entry", NULL);
    if (n > (k == JS__ALLOF ? 1 : GRAMMAR_READINGS))
        js__refuse(b, MLA_ERR_UNSUPPORTED, js__words[k], "more entries than are supported", NULL);
    for (size_t i = 0; i < n && !b->code; i++) js__entry(b, s, i);
}

static void js__constants(js__build *b, grammar_rule *v, const json_value *list, int k, int types) {
    static const int of[] = {GRAMMAR_NULL,   GRAMMAR_BOOLEAN, GRAMMAR_NUMBER,
                             GRAMMAR_STRING, GRAMMAR_ARRAY,   GRAMMAR_OBJECT};
    v->literal = 1, v->types = 0, v->text = b->n_texts;
    for (size_t i = 0; i < (k == JS__CONST ? 1 : json_count(list)) && !b->code; i++) {
        const json_value *c = k == JS__CONST ? list : json_at(list, i);
        const int whole = json_typeof(c) == JSON_NUMBER && json_number(c) == floor(json_number(c));
        const int type = of[json_typeof(c)] | (whole ? GRAMMAR_INTEGER : 0);
        const size_t at = b->n_bytes;
        if (types && !(types & type)) continue;
        const int height = js__put_value(b, c);
        if (height > v->height) v->height = (uint8_t)height; /* there must be room for all */
        v->types = (uint8_t)(v->types | type);
        js__text(b, &b->g->texts[b->n_texts++], at, 0, 0);
    }
    v->n_texts = b->n_texts - v->text;
    if (!v->n_texts) js__refuse(b, MLA_ERR_CONFIG, js__words[k], "no value of that type", NULL);
}

/* The members are the properties, and then what else is required. */
static void js__members(js__build *b, grammar_rule *v, const json_value *const *key) {
    const json_value *properties = key[JS__PROPERTIES], *names = key[JS__REQUIRED], *rest = key[JS__ADDITIONAL];
    const size_t n = json_count(properties);
    const uint32_t other = rest ? js__rule(b, rest) : 0;
    grammar_text *all = b->g->texts + b->n_texts, *end = all + n;
    v->text = b->n_texts, v->other = properties && !rest ? GRAMMAR_NONE : other;
    if (n > JS__MEMBERS || json_count(names) > JS__MEMBERS)
        js__refuse(b, MLA_ERR_UNSUPPORTED, NULL, "more than 4096 members", NULL);
    for (size_t i = 0, at; i < n && !b->code; i++) {
        const json_value *m = json_at(properties, i);
        at = b->n_bytes + 1, js__put_string(b, json_key(m), strlen(json_key(m)));
        js__text(b, all + json_place(m), at, js__rule(b, m), 0);
    }
    for (size_t i = 0, j, at; i < json_count(names) && !b->code; i++) {
        const char *name = json_string(json_at(names, i), NULL);
        const json_value *known = name ? json_get(properties, name) : NULL;
        for (j = 0; name && !known && j < i && strcmp(json_string(json_at(names, j), NULL), name); j++) b->work++;
        if (!name) js__refuse(b, MLA_ERR_CONFIG, "required", "not a list of names", NULL);
        else if (b->work > JS__WORK) js__refuse(b, MLA_ERR_UNSUPPORTED, "required", "too many names", NULL);
        else if (known) all[json_place(known)].required = 1;
        else if (json_typeof(rest) == JSON_BOOL && !json_bool(rest))
            js__refuse(b, MLA_ERR_CONFIG, "required", "additionalProperties forbids ", name);
        else if (j == i) {
            at = b->n_bytes + 1, js__put_string(b, name, strlen(name));
            js__text(b, end++, at, other, 1);
        }
    }
    for (grammar_text *t = all; t < end && !b->code; t++) {
        t->member = (uint32_t)(t - all), t->after = v->last;
        if (t->required) v->last = t->member + 1;
    }
    v->n_texts = (uint32_t)(end - all), b->n_texts += v->n_texts;
}

/* Of the multiples of 1 / unit the least (step 1), or the greatest (-1), that a bound allows, times unit. */
static int64_t js__bound(const json_value *v, int64_t unit, int step, int open) {
    const double x = json_number(v), per = (double)unit;
    int64_t n;
    if (fabs(x) * per >= 1e18) return x > 0 ? GRAMMAR_LIMIT + (step > 0) : -GRAMMAR_LIMIT - (step < 0);
    if (json_integer(v, &n)) return n * unit + (open ? step : 0);
    n = (int64_t)(x * per) - 2 * step; /* compared as readers will: what the text of n is as a double */
    while (step > 0 ? (double)n / per < x : (double)n / per > x) n += step;
    while (open && (double)n / per == x) n += step;
    return n;
}

static void js__numbers(js__build *b, grammar_rule *v, const json_value *const *bounds) {
    v->bounded = (v->types & GRAMMAR_INTEGER) != 0;
    if (!(v->types & GRAMMAR_NUMBER)) v->scale = 0, v->unit = 1;
    for (int k = 0; k < 4; k++) {
        const double x = fabs(json_number(bounds[k]));
        while (v->scale > 0 && x < 1e18 && x * (double)v->unit >= 1e18) v->scale--, v->unit /= 10;
    }
    for (int k = 0; k < 4; k++) {
        if (!bounds[k]) continue;
        const int64_t n = js__bound(bounds[k], v->unit, k % 2 ? -1 : 1, k >= 2);
        if (k % 2 == 0 && n > v->low) v->low = n;
        if (k % 2 == 1 && n < v->high) v->high = n;
        v->bounded = 1;
    }
    if (v->low > v->high) js__refuse(b, MLA_ERR_CONFIG, NULL, "no number is within the bounds", NULL);
}

static void js__values(js__build *b, grammar_rule *v, const json_value *const *key, int types) {
    for (int k = JS__PROPERTIES; k < JS__TITLE && !key[JS__TYPE]; k++)
        if (key[k]) types |= js__of[k - JS__PROPERTIES];
    v->types = (uint8_t)(types ? types : GRAMMAR_ALL);
    v->items = key[JS__ITEMS] ? js__rule(b, key[JS__ITEMS]) : 0;
    if (json_bool(key[JS__UNIQUE])) js__refuse(b, MLA_ERR_UNSUPPORTED, "uniqueItems", "not supported", NULL);
    for (int i = 0, k = JS__LIMITS; i < 4; i++, k++) {
        int64_t n = i % 2 ? GRAMMAR_NONE : 0;
        if (key[k] && (!json_integer(key[k], &n) || n < 0 || n > INT32_MAX))
            js__refuse(b, MLA_ERR_CONFIG, js__words[k], "not an integer of 0 to 2147483647", NULL);
        v->limits[i] = (uint32_t)n;
        if (i % 2 && v->limits[i - 1] > v->limits[i])
            js__refuse(b, MLA_ERR_CONFIG, js__words[k - 1], "above ", js__words[k]);
    }
    js__members(b, v, key);
    js__numbers(b, v, key + JS__BOUNDS);
}

static void js__compile(js__build *b, uint32_t rule) {
    js__source *s = &b->sources[b->at = rule];
    grammar_rule *v = &b->g->rules[rule];
    const json_value *key[JS__TITLE] = {NULL};
    if (json_typeof(s->schema) == JSON_BOOL) { /* false: one of no constants */
        v->literal = 1, v->types = 0, v->height = JS__NEVER;
        return;
    }
    if (json_typeof(s->schema) != JSON_OBJECT)
        js__refuse(b, MLA_ERR_CONFIG, NULL, "not a schema, which is an object, true or false", NULL);
    const int first = b->code ? 0 : js__keywords(b, s->schema, key);
    const int types = key[JS__TYPE] && !b->code ? js__types_named(b, key[JS__TYPE]) : 0;
    if (b->code) return;
    if (first < JS__CONST) js__choice(b, s, key[first], first);
    else if (first < JS__TYPE) js__constants(b, v, key[first], first, types);
    else js__values(b, v, key, types);
}

/* ---- >>choices --------------------------------------------------------------------------------------------------- */

static uint32_t js__n_leaves(const grammar_rule *r) { return r->leaves ? r->n_leaves : 1; }
static uint32_t js__leaf(const grammar *g, uint32_t rule, uint32_t i) {
    return g->rules[rule].leaves ? g->rules[rule].leaves[i] : rule;
}

/* The leaves of entry e become those of v, too. Gives whether v had not all of them. */
static int js__take_leaves(js__build *b, grammar_rule *v, uint32_t e) {
    const uint32_t before = v->n_leaves;
    for (uint32_t i = 0, m; i < js__n_leaves(&b->g->rules[e]) && !b->code; i++, b->work++) {
        const uint32_t leaf = js__leaf(b->g, e, i);
        for (m = 0; m < v->n_leaves && v->leaves[m] != leaf; m++) {}
        if (m < v->n_leaves && b->work <= JS__WORK) continue;
        if (m == GRAMMAR_READINGS || b->work > JS__WORK)
            js__refuse(b, MLA_ERR_UNSUPPORTED, NULL, "a choice of more than 64, or too many references", NULL);
        else v->leaves[v->n_leaves++] = leaf;
    }
    return v->n_leaves > before;
}

/* The least height of what a rule lets be written, as far as is known of the rules that it speaks of. */
static int js__height(const js__build *b, grammar_rule *v) {
    const grammar_rule *rules = b->g->rules;
    int object = 0, height = JS__NEVER;
    for (const grammar_text *t = b->g->texts + v->text; t < b->g->texts + v->text + v->n_texts; t++)
        if (t->required && rules[t->value].height > object) object = rules[t->value].height;
    const int array = v->limits[0] ? rules[v->items].height : 0;
    v->object_height = (uint8_t)(object < GRAMMAR_DEPTH ? object + 1 : JS__NEVER);
    v->array_height = (uint8_t)(array < GRAMMAR_DEPTH ? array + 1 : JS__NEVER);
    if (v->types & GRAMMAR_OBJECT) height = v->object_height;
    if (v->types & GRAMMAR_ARRAY && v->array_height < height) height = v->array_height;
    return v->types & ~(GRAMMAR_OBJECT | GRAMMAR_ARRAY) ? 0 : height;
}

/* Leaves and least heights, until nothing changes; constants have their height already. */
static void js__settle(js__build *b) {
    for (int changed = 1; changed && !b->code;) {
        changed = 0;
        for (uint32_t i = b->n_rules; i-- > 0 && !b->code;) {
            const js__source *s = &b->sources[b->at = i];
            grammar_rule *v = &b->g->rules[i];
            int height = v->leaves ? JS__NEVER : v->literal ? v->height : js__height(b, v);
            b->work++;
            for (size_t k = 0; k < js__n_entries(s); k++, b->work++) {
                const uint32_t e = js__entry(b, s, k);
                if (b->g->rules[e].height < height) height = b->g->rules[e].height;
                changed |= js__take_leaves(b, v, e);
            }
            changed |= height != v->height, v->height = (uint8_t)height;
        }
    }
}

/* Can no value be of both rules, whatever they do not say (0 also where that takes too long to tell)? By their types,
   constants or what a member that both require must be. */
static int js__apart(js__build *b, uint32_t x, uint32_t y, int deep) {
    enum { REAL = GRAMMAR_NUMBER | GRAMMAR_INTEGER };
    const grammar *g = b->g;
    const uint32_t n = js__n_leaves(&g->rules[x]), n_y = js__n_leaves(&g->rules[y]);
    for (uint32_t i = 0; i < n * n_y; i++) {
        const grammar_rule *l = &g->rules[js__leaf(g, x, i / n_y)], *m = &g->rules[js__leaf(g, y, i % n_y)];
        const int common = (l->types & m->types) | (l->types & REAL && m->types & REAL ? REAL : 0);
        const int both = l->literal && m->literal, objects = l->literal == m->literal && common == GRAMMAR_OBJECT;
        int apart = !common || both;
        for (const grammar_text *t = g->texts + l->text, *u; t < g->texts + l->text + l->n_texts && (both || objects);
             t++) {
            u = (const grammar_text *)bsearch(t, g->texts + m->text, m->n_texts, sizeof *t, js__by_bytes);
            if (b->work++ > JS__WORK || (both && u)) return 0;
            if (!both && u && t->required && u->required && deep < 8)
                apart |= js__apart(b, t->value, u->value, deep + 1);
        }
        if (!apart) return 0;
    }
    return 1;
}

static void js__finish(js__build *b) {
    grammar *g = b->g;
    uint32_t n_choices = 0;
    for (uint32_t i = 0; i < b->n_rules; i++) n_choices += b->sources[i].kind != JS__PLAIN;
    g->leaves = (uint32_t *)malloc((n_choices + 1) * GRAMMAR_READINGS * sizeof *g->leaves);
    if (!g->leaves) b->code = js__fail(b->err, MLA_ERR_MEMORY, "schema: out of memory");
    for (uint32_t i = 3; i < b->n_texts; i++) g->texts[i].bytes = g->bytes + b->offsets[i];
    for (uint32_t i = 0; i < b->n_rules && !b->code; i++) {
        grammar_rule *v = &g->rules[i];
        qsort(g->texts + v->text, v->n_texts, sizeof *g->texts, js__by_bytes);
        if (b->sources[i].kind) v->leaves = g->leaves + --n_choices * GRAMMAR_READINGS;
        if (!v->literal) v->height = JS__NEVER;
    }
    js__settle(b);
    for (uint32_t i = 0; i < b->n_rules; i++) {
        const js__source *s = &b->sources[i];
        for (size_t k = 0, n = js__n_entries(s); k < n * n && s->kind == JS__ONE_OF && !b->code; k++) {
            b->at = i;
            if (k / n < k % n && !js__apart(b, js__entry(b, s, k / n), js__entry(b, s, k % n), 0))
                js__refuse(b, MLA_ERR_UNSUPPORTED, "oneOf", "not supported where two entries can hold at once", NULL);
        }
    }
    b->at = g->root;
    if (!b->code && g->rules[g->root].height > GRAMMAR_DEPTH)
        js__refuse(b, MLA_ERR_CONFIG, NULL, "nothing fits it, or only what nests more than 64 deep", NULL);
}

static size_t js__count(const json_value *v) {
    size_t n = 1;
    for (size_t i = 0; i < json_count(v); i++) n += js__count(json_at(v, i));
    return n;
}

mla_result json_schema_grammar(grammar **out, const json_value *schema, mla_error *err) {
    js__build b;
    size_t n = js__count(schema), room = 4;
    if (out) *out = NULL;
    if (!out) return js__fail(err, MLA_ERR_ARGUMENT, "json_schema_grammar: out is NULL");
    memset(&b, 0, sizeof b);
    while (room < 2 * n) room *= 2;
    b.root = schema, b.err = err, b.n_rules = 1, b.n_texts = 3, b.mask = (uint32_t)(room - 1);
    b.code = grammar_create(&b.g, (int)n + 1, (int)n, err);
    b.sources = (js__source *)calloc(n + 1, sizeof *b.sources);
    b.table = (uint32_t *)calloc(room, sizeof *b.table);
    b.offsets = (size_t *)malloc((n + 3) * sizeof *b.offsets);
    const json_value **order = b.order = (const json_value **)malloc(n * sizeof *b.order);
    if (!b.code && (!b.sources || !b.table || !b.offsets || !order))
        b.code = js__fail(err, MLA_ERR_MEMORY, "schema: out of memory");
    if (!b.code && !schema) b.g->root = 1, b.g->rules[1] = b.g->rules[0], b.g->rules[1].types = GRAMMAR_OBJECT;
    if (!b.code && schema) {
        b.g->root = js__rule(&b, schema);
        for (uint32_t i = 1; i < b.n_rules && !b.code; i++) js__compile(&b, i);
        if (!b.code) js__finish(&b);
    }
    free(b.sources), free(b.table), free(b.offsets), free(order);
    if (b.code) grammar_destroy(b.g);
    else *out = b.g;
    return b.code;
}

mla_result json_schema_of_format(grammar **out, const json_value *format, mla_error *err) {
    const json_value *schema = json_get(json_get(format, "json_schema"), "schema");
    const char *type = format ? json_string(json_get(format, "type"), NULL) : "text", *at = "response_format";
    if (out) *out = NULL;
    if (!type) return js__fail(err, MLA_ERR_CONFIG, "%s.type: not a string", at);
    if (!strcmp(type, "text")) return MLA_OK;
    if (!strcmp(type, "json_object")) return json_schema_grammar(out, NULL, err);
    if (strcmp(type, "json_schema"))
        return js__fail(err, MLA_ERR_CONFIG, "%s.type: %.40s is not text, json_object or json_schema", at, type);
    return schema ? json_schema_grammar(out, schema, err)
                  : js__fail(err, MLA_ERR_CONFIG, "%s.json_schema.schema: missing", at);
}

#endif /* JSON_SCHEMA_IMPLEMENTATION */
