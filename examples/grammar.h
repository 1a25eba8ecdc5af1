/* grammar.h - holds what a model writes to a JSON schema: which tokens may come next, after what has been written.

USE
   In exactly one file:      #define GRAMMAR_IMPLEMENTATION
                             #include "grammar.h"
   In all others:            #include "grammar.h"
                             (json_* of checkpoint.h must be implemented somewhere in the program)

   const char *bytes(const void *t, int id, size_t *n) {        (NULL: a token that is no text)
       return tokenizer_is_added(t, id) ? NULL : tokenizer_bytes(t, id, n);
   }
   grammar_vocab_create(&vocab, vocab_size, bytes, tokenizer, &eos, 1, &error);               once for a tokenizer
   if (grammar_create(&g, schema, &error)) puts(error.text);                                  once for a request
   grammar_begin(&state, g);
   for (;;) {
       if (!grammar_allow(&state, vocab, mask)) ...             (no token of this vocabulary can go on)
       grammar_mask(logits, mask, vocab_size);                  (last of all: after biases, before the sampler)
       token = sampler_next(s, logits, &error);
       if (token == eos) break;
       grammar_accept(&state, text of token, its length);
   }

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
               additionalProperties has no others; keys with no escape that is not needed; constants as compact JSON.
               Other keys are never one of `properties`, but one of them may come twice. Without `type`, the keywords
               that are there say which it is. Integers have no fraction and no -0, and at most 18 digits; numbers 18
               before the point, 18 behind it and 2 in the exponent; with a bound no exponent, and 18 digits in all, 6
               of them behind the point (less if the bounds need the others).
WHITE SPACE    Behind { [ , : and before } ]: one space, or a newline and at most 4 blanks a level. None at the ends.
STRINGS        UTF-8, which tokens may cut anywhere; escapes, surrogates in pairs only. Lengths count characters.
DEPTH          Arrays and objects nest GRAMMAR_DEPTH deep; what needs more cannot be begun.
NO DEAD END    What has been accepted can always be completed: with the tokens of single bytes if with no others.
READINGS       Of anyOf all entries are followed that what is written leaves open, at most GRAMMAR_READINGS at once:
               those beyond are given up.
GREEDY         The likeliest token is also the likeliest of those allowed if grammar_test allows it: at temperature 0
               the mask is needed only else.
TIME           A mask takes as long as the part of the vocabulary that can follow, but for text within strings, which is
               known before. THREADS: no globals, no printing; grammars and vocabularies are only read. A state has
               50 KB; grammar_test takes 110 KB of stack, the others less.

CONTENTS       >>grammar (the API)   then >>types >>errors >>constants >>compiler >>alternatives >>machine >>state
               >>vocabulary >>mask
   SPDX-License-Identifier: MIT */

#ifndef GRAMMAR_H
#define GRAMMAR_H

#include <stddef.h>
#include <stdint.h>
#ifndef CHECKPOINT_H
#include "checkpoint.h"
#endif

#ifndef GRAMMAR_API
#define GRAMMAR_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- >>grammar --------------------------------------------------------------------------------------------------- */

enum { GRAMMAR_DEPTH = 64, GRAMMAR_READINGS = 64, GRAMMAR_FRAMES = 512, GRAMMAR_ROOM = 2048, GRAMMAR_TOKEN = 255 };

typedef struct grammar grammar;
typedef struct grammar_vocab grammar_vocab;

/* A schema, of which nothing is kept; NULL: any JSON object. A call that fails sets *out to NULL; err may be NULL.
   Errors: ARGUMENT (out is NULL), CONFIG (a keyword's value that cannot be, or nothing fits), UNSUPPORTED, MEMORY. */
GRAMMAR_API mla_result grammar_create(grammar **out, const json_value *schema, mla_error *err);
/* By OpenAI's response_format: of type text (*out is NULL: no grammar), json_object, or json_schema. NULL: text. */
GRAMMAR_API mla_result grammar_of_format(grammar **out, const json_value *format, mla_error *err);
GRAMMAR_API void grammar_destroy(grammar *g); /* NULL is fine */

/* The bytes of each token 0..size-1, which must last as long as the vocabulary; NULL, none or more than GRAMMAR_TOKEN:
   never allowed. Those of eos [n_eos] are allowed when the value is complete. Errors: ARGUMENT, MEMORY. */
typedef const char *grammar_bytes(const void *user, int id, size_t *n);
GRAMMAR_API mla_result grammar_vocab_create(grammar_vocab **out, int size, grammar_bytes *bytes, const void *user,
                                            const int *eos, int n_eos, mla_error *err);
GRAMMAR_API void grammar_vocab_destroy(grammar_vocab *v); /* NULL is fine */

/* Where a text is. To be copied as any struct; its grammar must live as long. The content is private. */
typedef struct grammar_frame {
    uint16_t up;
    uint8_t state, depth;
    uint32_t node, a, b, c, d;
} grammar_frame;
typedef struct grammar_state {
    const grammar *g;
    uint16_t n_tops, n_frames, mark, tops[GRAMMAR_READINGS]; /* stacks, by their upmost frames */
    grammar_frame frames[GRAMMAR_ROOM];                      /* no more than GRAMMAR_FRAMES between two calls */
} grammar_state;

GRAMMAR_API void grammar_begin(grammar_state *s, const grammar *g);
GRAMMAR_API int grammar_accept(grammar_state *s, const char *bytes, size_t n);     /* 0: not allowed, s is as before */
GRAMMAR_API int grammar_test(const grammar_state *s, const char *bytes, size_t n); /* would it be accepted? */
GRAMMAR_API int grammar_complete(const grammar_state *s); /* 1: a value has been written; 2: which cannot go on */
/* mask [(size + 31) / 32]: bit id % 32 of word id / 32 is 1 if the token may come next, which is if grammar_accept
   takes its bytes. 0: none may. */
GRAMMAR_API int grammar_allow(const grammar_state *s, const grammar_vocab *v, uint32_t *mask);
GRAMMAR_API void grammar_mask(float *logits, const uint32_t *mask, int size); /* what may not come: -infinity */

#ifdef __cplusplus
}
#endif
#endif /* GRAMMAR_H */

/* ================================================================================================================== */
#if defined GRAMMAR_IMPLEMENTATION && !defined GRAMMAR_IMPLEMENTED
#define GRAMMAR_IMPLEMENTED

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- >>types ----------------------------------------------------------------------------------------------------- */

#define GR__NONE  0xffffffffu
#define GR__LIMIT INT64_C(999999999999999999) /* of integers: 18 digits */
enum { GR__MEMBERS = 4096, GR__WORK = 10000000, GR__NEVER = 255 /* no depth */ };
enum { GR__STRING = 1, GR__NUMBER = 2, GR__INTEGER = 4, GR__BOOLEAN = 8, GR__NULL = 16, GR__OBJECT = 32 };
enum { GR__ARRAY = 64, GR__REAL = GR__NUMBER | GR__INTEGER, GR__ALL = 127 - GR__INTEGER };

/* A schema; node 0 is the one that everything fits. Its leaves are what a value of it may be, none of them a reference
   or a choice; most are their only one. */
typedef struct gr__node {
    uint8_t types, literal, bounded, scale;      /* literal: one of its texts; scale: most digits behind the point */
    uint8_t height, object_height, array_height; /* least depth of a value; GR__NEVER: there is none */
    uint8_t join;                                /* 1: a choice of its entries, 2: oneOf */
    uint32_t place, entry, n_entries, n_leaves, *leaves; /* places: its own, and its entries'; nodes */
    uint32_t text, n_texts; /* in texts, sorted: values, or keys with the quote behind them */
    uint32_t last;          /* how many members there are up to the last that is required */
    uint32_t other, items;  /* nodes; other: GR__NONE for no other members */
    uint32_t limits[4];     /* of items, from and to, and of a text's characters */
    int64_t low, high;      /* of numbers, times 10^scale */
} gr__node;

/* A constant; or the key of a member, with its place among them, up to where those before it are required, its value's
   node, and whether it is. */
typedef struct gr__text {
    const char *bytes;
    uint32_t n, member, after, value, required;
} gr__text;

struct grammar {
    gr__node *nodes;
    gr__text *texts; /* the first three: false, null, true */
    char *bytes;
    uint32_t *leaves, root;
    uint8_t next[128][256];
};

typedef struct gr__place { /* each value in the schema's JSON: those of a list in a row, as they are in the file */
    const json_value *v;
    uint32_t up, first, node; /* first: of its own list's; node: 0 if it is not, or not yet, one */
} gr__place;

typedef struct gr__build {
    grammar *g;
    gr__place *places;
    uint32_t n_nodes, n_texts, at, work; /* at: the place that is looked at */
    size_t n_bytes;
    mla_result code;
    mla_error *err;
} gr__build;

/* Within strings and numbers, states are characters. Text of a string: T; its end: X; B behind a backslash (Q in keys,
   which have for each character one way to write it, and q to u the digits there); I to L the digits of \u and E to H,
   M to O those of a pair of surrogates; a b c: so many bytes of a character are missing; d to g: behind a first byte
   that does not take all second ones. Numbers: - behind the sign, 0 or 1 (any other) before the point, 5 behind it, *
   behind e, + its sign, 9 the exponent. A row: from, to, and the first and last byte of ranges; later rows go over
   earlier ones. */
static void gr__table(uint8_t next[128][256]) {
    /* clang-format off */
    static const char *const rows[] = {
        "TT \x7f", "TX\"\"", "TB\\\\", "Ta\xC2\xDF", "Tb\xE1\xEF", "Tc\xF1\xF3", "Td\xE0\xE0", "Te\xED\xED",
        "Tf\xF0\xF0", "Tg\xF4\xF4", "aT\x80\xBF", "ba\x80\xBF", "cb\x80\xBF", "da\xA0\xBF", "ea\x80\x9F", "fb\x90\xBF",
        "gb\x80\x8F", "BT\"\"\\\\//bbffnnrrtt", "BIuu", "IJ09afAF", "JK09afAF", "KL09afAF", "LT09afAF", "IEddDD",
        "EK07", "EF89abAB", "FG09afAF", "GH09afAF", "HM\\\\", "MNuu", "NOddDD", "OKcfCF", "QT\"\"\\\\bbffnnrrtt",
        "Qquu", "qr00", "rs00", "st00", "su11", "tT07bbef", "uT09af", "-000", "-119", "1109", "0...", "1...", ".509",
        "5509", "0*eeEE", "1*eeEE", "5*eeEE", "*+++--", "*909", "+909", "9909"};
    /* clang-format on */
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (const char *range = rows[i] + 2; *range; range += 2)
            for (int b = (uint8_t)range[0]; b <= (uint8_t)range[1]; b++) next[(int)rows[i][0]][b] = (uint8_t)rows[i][1];
}

/* ---- >>errors ---------------------------------------------------------------------------------------------------- */

#if defined __GNUC__ && !defined __clang__
__attribute__((format(gnu_printf, 3, 4)))
#endif
static mla_result
gr__fail(mla_error *err, mla_result code, const char *format, ...) {
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

/* The first error counts: "#/path/key: what word". */
static void gr__refuse(gr__build *b, mla_result code, const char *key, const char *what, const char *word) {
    char path[120], part[64];
    size_t at = sizeof path - 1;
    if (b->code) return;
    path[at] = 0;
    for (uint32_t p = b->at; p; p = b->places[p].up) {
        const char *name = json_key(b->places[p].v);
        if (name) snprintf(part, sizeof part, "/%.40s", name);
        else snprintf(part, sizeof part, "/%lu", (unsigned long)json_place(b->places[p].v));
        if (strlen(part) + 4 > at) strcpy(part, "/..."), p = 0; /* its up is itself */
        at -= strlen(part), memcpy(path + at, part, strlen(part));
    }
    b->code = gr__fail(b->err, code, "schema: #%s%s%.40s: %s%.40s", path + at, key ? "/" : "", key ? key : "", what,
                       word ? word : "");
}

/* ---- >>constants ------------------------------------------------------------------------------------------------- */

static void gr__put(gr__build *b, const char *bytes, size_t n) {
    memcpy(b->g->bytes + b->n_bytes, bytes, n), b->n_bytes += n;
}

static void gr__put_string(gr__build *b, const char *s, size_t n) {
    char quoted[8];
    gr__put(b, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        const size_t length = json_quote(quoted, s + i, 1) - 2;
        if (s[i] == 0x7f) gr__put(b, s + i, 1); /* which need not be escaped */
        else gr__put(b, quoted + 1, length);
    }
    gr__put(b, "\"", 1);
}

static void gr__put_number(gr__build *b, const json_value *v) {
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
    gr__put(b, text, strlen(text));
}

static int gr__put_value(gr__build *b, uint32_t place) { /* as compact JSON; gives how deep it nests */
    const json_value *v = b->places[place].v;
    const json_type type = json_typeof(v);
    int deepest = 0;
    size_t n;
    const char *s = json_string(v, &n);
    if (type == JSON_NULL) gr__put(b, "null", 4);
    else if (type == JSON_BOOL) gr__put(b, json_bool(v) ? "true" : "false", json_bool(v) ? 4 : 5);
    else if (type == JSON_NUMBER) gr__put_number(b, v);
    else if (type == JSON_STRING) gr__put_string(b, s, n);
    if (type < JSON_ARRAY) return 0;
    gr__put(b, type == JSON_ARRAY ? "[" : "{", 1);
    for (uint32_t i = 0, first = b->places[place].first; i < json_count(v); i++) {
        const char *key = json_key(b->places[first + i].v);
        if (i) gr__put(b, ",", 1);
        if (key) gr__put_string(b, key, strlen(key)), gr__put(b, ":", 1);
        const int depth = gr__put_value(b, first + i);
        if (depth > deepest) deepest = depth;
    }
    gr__put(b, type == JSON_ARRAY ? "]" : "}", 1);
    return deepest + 1;
}

static void gr__add_text(gr__build *b, size_t at, uint32_t value, uint32_t required) { /* the bytes from at on */
    gr__text *t = &b->g->texts[b->n_texts++];
    t->bytes = b->g->bytes + at, t->n = (uint32_t)(b->n_bytes - at), t->value = value, t->required = required;
}

static int gr__by_bytes(const void *x, const void *y) {
    const gr__text *a = (const gr__text *)x, *b = (const gr__text *)y;
    const int order = memcmp(a->bytes, b->bytes, a->n < b->n ? a->n : b->n);
    return order ? order : (a->n > b->n) - (a->n < b->n);
}

static void gr__sort_texts(gr__build *b, gr__node *v) { /* all from v->text on are v's */
    v->n_texts = b->n_texts - v->text;
    qsort(b->g->texts + v->text, v->n_texts, sizeof *b->g->texts, gr__by_bytes);
}

/* ---- >>compiler -------------------------------------------------------------------------------------------------- */
/* Schemas become nodes in the order in which they are met, each once, without recursion. */

/* Those that stand alone, of which two may have `type` beside them; those that restrict; and, from TITLE on, those that
   do not. What their values must be; and what types those from PROPERTIES on speak of. */
enum { GR__REF, GR__ONE_OF = 2, GR__ALL_OF, GR__CONST, GR__ENUM, GR__TYPE };
enum { GR__PROPERTIES = GR__TYPE + 1, GR__REQUIRED, GR__ADDITIONAL, GR__ITEMS, GR__UNIQUE, GR__LIMITS };
enum { GR__BOUNDS = GR__LIMITS + 4, GR__TITLE = GR__BOUNDS + 4 };
/* clang-format off */
static const char *const gr__words[] = {
    "$ref", "anyOf", "oneOf", "allOf", "const", "enum", "type", "properties", "required", "additionalProperties",
    "items", "uniqueItems", "minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
    "discriminator", "$schema", "$id", "$comment", "$defs", "definitions"};
static const char gr__must[] = "?lll?l?ol??bnnnnnnnn?????????????";
static const uint8_t gr__of[] = {GR__OBJECT, GR__OBJECT, GR__OBJECT, GR__ARRAY, GR__ARRAY, GR__ARRAY, GR__ARRAY,
    GR__STRING, GR__STRING, GR__NUMBER, GR__NUMBER, GR__NUMBER, GR__NUMBER};
/* clang-format on */

static int gr__keywords(gr__build *b, const json_value *schema, const json_value **key) { /* gives the first's place */
    static const char *const is[] = {"", "true or false", "a number", "a string", "a list", "an object"};
    const int n = (int)(sizeof gr__words / sizeof *gr__words);
    int first = n, k;
    for (size_t i = 0; i < json_count(schema); i++) {
        const json_value *m = json_at(schema, i);
        for (k = 0; k < n && strcmp(json_key(m), gr__words[k]); k++) {}
        if (k == n) gr__refuse(b, MLA_ERR_UNSUPPORTED, json_key(m), "not supported", NULL);
        else if (gr__must[k] != '?' && gr__must[k] != "?bnslo"[json_typeof(m)])
            gr__refuse(b, MLA_ERR_CONFIG, json_key(m), "not ", is[strchr("?bnslo", gr__must[k]) - "?bnslo"]);
        else if (k < GR__TITLE) key[k] = m;
        if (k < first) first = k;
    }
    for (k = first + 1; k < GR__TITLE && first < GR__TYPE; k++)
        if (key[k] && !(k == GR__TYPE && first >= GR__CONST))
            gr__refuse(b, MLA_ERR_UNSUPPORTED, gr__words[k], "not supported beside ", gr__words[first]);
    return first;
}

static int gr__types_named(gr__build *b, const json_value *names) {
    static const char *const types[] = {"string", "number", "integer", "boolean", "null", "object", "array"};
    const int list = json_typeof(names) == JSON_ARRAY;
    int all = 0, k;
    for (size_t i = 0; i < (list ? json_count(names) : 1) && !b->code; i++) {
        const char *name = json_string(list ? json_at(names, i) : names, NULL);
        for (k = 0; k < 7 && !(name && !strcmp(name, types[k])); k++) {}
        if (k == 7) gr__refuse(b, MLA_ERR_CONFIG, "type", "not one of JSON schema's: ", name);
        all |= 1 << k;
    }
    if (!all) gr__refuse(b, MLA_ERR_CONFIG, "type", "none", NULL);
    return all & GR__NUMBER ? all & ~GR__INTEGER : all;
}

static uint32_t gr__inside(const gr__build *b, uint32_t place, const json_value *m) { /* the place of one of a list's */
    return m ? b->places[place].first + (uint32_t)json_place(m) : GR__NONE;
}

static uint32_t gr__node_at(gr__build *b, uint32_t place) {
    gr__place *p = &b->places[place];
    const json_type type = json_typeof(p->v);
    if (type == JSON_BOOL ? json_bool(p->v) : type == JSON_OBJECT && !json_count(p->v)) return 0;
    if (!p->node) p->node = b->n_nodes++, b->g->nodes[p->node].place = place;
    return p->node;
}

/* The place that pointer, "#" or "#/..", refers to. */
static uint32_t gr__resolve(const gr__build *b, const char *pointer) {
    char part[256], *end;
    uint32_t at = pointer && *pointer == '#' ? 0 : GR__NONE;
    for (pointer += at == 0; at != GR__NONE && *pointer;) {
        const json_value *v = b->places[at].v;
        size_t n = 0;
        if (*pointer++ != '/') return GR__NONE;
        for (; *pointer && *pointer != '/' && n < sizeof part - 1; pointer++) {
            part[n] = *pointer;
            if (*pointer == '~' && (pointer[1] == '0' || pointer[1] == '1')) part[n] = *++pointer == '0' ? '~' : '/';
            n++;
        }
        part[n] = 0;
        if (json_typeof(v) != JSON_ARRAY) at = gr__inside(b, at, json_get(v, part));
        else at = gr__inside(b, at, *part >= '0' && *part <= '9' ? json_at(v, strtoul(part, &end, 10)) : NULL);
    }
    return at;
}

static void gr__join(gr__build *b, gr__node *v, const json_value *list, int k) {
    const char *pointer = json_string(list, NULL);
    const size_t n = k == GR__REF ? 1 : json_count(list);
    v->join = k == GR__ONE_OF ? 2 : 1, v->n_entries = (uint32_t)n;
    v->entry = k == GR__REF ? gr__resolve(b, pointer) : b->places[gr__inside(b, b->at, list)].first;
    if (v->entry == GR__NONE) gr__refuse(b, MLA_ERR_UNSUPPORTED, gr__words[k], "not a place in this schema: ", pointer);
    if (!n) gr__refuse(b, MLA_ERR_CONFIG, gr__words[k], "not a list with an entry", NULL);
    if (n > (k == GR__ALL_OF ? 1 : GRAMMAR_READINGS))
        gr__refuse(b, MLA_ERR_UNSUPPORTED, gr__words[k], "more entries than are supported", NULL);
    for (uint32_t i = 0; i < n && !b->code; i++) gr__node_at(b, v->entry + i);
}

static void gr__constants(gr__build *b, gr__node *v, const json_value *list, int k, int types) {
    static const int of[] = {GR__NULL, GR__BOOLEAN, GR__NUMBER, GR__STRING, GR__ARRAY, GR__OBJECT};
    const uint32_t place = gr__inside(b, b->at, list), first = k == GR__CONST ? place : b->places[place].first;
    v->literal = 1, v->text = b->n_texts;
    for (uint32_t i = 0; i < (k == GR__CONST ? 1 : json_count(list)); i++) {
        const json_value *c = b->places[first + i].v;
        const int whole = json_typeof(c) == JSON_NUMBER && json_number(c) == floor(json_number(c));
        const int type = of[json_typeof(c)] | (whole ? GR__INTEGER : 0);
        const size_t at = b->n_bytes;
        if (types && !(types & type)) continue;
        const int height = gr__put_value(b, first + i);
        if (height > v->height) v->height = (uint8_t)height; /* there must be room for all */
        v->types = (uint8_t)(v->types | type);
        gr__add_text(b, at, 0, 0);
    }
    gr__sort_texts(b, v);
    if (!v->n_texts) gr__refuse(b, MLA_ERR_CONFIG, gr__words[k], "no value of that type", NULL);
}

/* The members are the properties, and then what else is required. */
static void gr__members(gr__build *b, gr__node *v, const json_value *const *key) {
    const json_value *properties = key[GR__PROPERTIES], *names = key[GR__REQUIRED], *rest = key[GR__ADDITIONAL];
    const uint32_t other = rest ? gr__node_at(b, gr__inside(b, b->at, rest)) : 0;
    const uint32_t list = properties ? gr__inside(b, b->at, properties) : 0;
    gr__text *all = b->g->texts + b->n_texts;
    v->text = b->n_texts, v->other = properties && !rest ? GR__NONE : other;
    if (json_count(properties) > GR__MEMBERS || json_count(names) > GR__MEMBERS)
        gr__refuse(b, MLA_ERR_UNSUPPORTED, NULL, "more than 4096 members", NULL);
    for (uint32_t i = 0, p = b->places[list].first; i < json_count(properties) && !b->code; i++, p++) {
        const size_t at = b->n_bytes + 1;
        gr__put_string(b, json_key(b->places[p].v), strlen(json_key(b->places[p].v)));
        gr__add_text(b, at, gr__node_at(b, p), 0);
    }
    for (size_t i = 0, j; i < json_count(names) && !b->code; i++) {
        const char *name = json_string(json_at(names, i), NULL);
        const json_value *known = name ? json_get(properties, name) : NULL;
        const size_t at = b->n_bytes + 1;
        for (j = 0; name && !known && j < i && strcmp(json_string(json_at(names, j), NULL), name); j++) {}
        if (!name) gr__refuse(b, MLA_ERR_CONFIG, "required", "not a list of names", NULL);
        else if (known) all[json_place(known)].required = 1;
        else if (json_typeof(rest) == JSON_BOOL && !json_bool(rest))
            gr__refuse(b, MLA_ERR_CONFIG, "required", "additionalProperties forbids ", name);
        else if (j == i) gr__put_string(b, name, strlen(name)), gr__add_text(b, at, other, 1);
    }
    for (gr__text *t = all; t < b->g->texts + b->n_texts; t++) {
        t->member = (uint32_t)(t - all), t->after = v->last;
        if (t->required) v->last = t->member + 1;
    }
    gr__sort_texts(b, v);
}

static int64_t gr__ten(int n) {
    int64_t power = 1;
    while (n-- > 0) power *= 10;
    return power;
}

/* Of the multiples of 10^-scale the least (step 1), or the greatest (-1), that a bound allows, times 10^scale. */
static int64_t gr__bound(const json_value *v, int scale, int step, int open) {
    const double x = json_number(v), unit = (double)gr__ten(scale);
    int64_t n;
    if (fabs(x) * unit >= 1e18) return x > 0 ? GR__LIMIT + (step > 0) : -GR__LIMIT - (step < 0);
    if (json_integer(v, &n)) return n * gr__ten(scale) + (open ? step : 0);
    n = (int64_t)(x * unit) - 2 * step; /* compared as readers will: what the text of n is as a double */
    while (step > 0 ? (double)n / unit < x : (double)n / unit > x) n += step;
    while (open && (double)n / unit == x) n += step;
    return n;
}

static void gr__numbers(gr__build *b, gr__node *v, const json_value *const *bounds) {
    v->low = -GR__LIMIT, v->high = GR__LIMIT, v->scale = v->types & GR__NUMBER ? 6 : 0;
    v->bounded = (v->types & GR__INTEGER) != 0;
    for (int k = 0; k < 4; k++) {
        const double x = fabs(json_number(bounds[k]));
        while (v->scale > 0 && x < 1e18 && x * (double)gr__ten(v->scale) >= 1e18) v->scale--;
    }
    for (int k = 0; k < 4; k++) {
        if (!bounds[k]) continue;
        const int64_t n = gr__bound(bounds[k], v->scale, k % 2 ? -1 : 1, k >= 2);
        if (k % 2 == 0 && n > v->low) v->low = n;
        if (k % 2 == 1 && n < v->high) v->high = n;
        v->bounded = 1;
    }
    if (v->low > v->high) gr__refuse(b, MLA_ERR_CONFIG, NULL, "no number is within the bounds", NULL);
}

static void gr__values(gr__build *b, gr__node *v, const json_value *const *key, int types) {
    for (int k = GR__PROPERTIES; k < GR__TITLE && !key[GR__TYPE]; k++)
        if (key[k]) types |= gr__of[k - GR__PROPERTIES];
    v->types = (uint8_t)(types ? types : GR__ALL);
    v->items = key[GR__ITEMS] ? gr__node_at(b, gr__inside(b, b->at, key[GR__ITEMS])) : 0;
    if (json_bool(key[GR__UNIQUE])) gr__refuse(b, MLA_ERR_UNSUPPORTED, "uniqueItems", "not supported", NULL);
    for (int i = 0, k = GR__LIMITS; i < 4; i++, k++) {
        int64_t n = i % 2 ? GR__NONE : 0;
        if (key[k] && (!json_integer(key[k], &n) || n < 0 || n > INT32_MAX))
            gr__refuse(b, MLA_ERR_CONFIG, gr__words[k], "not an integer of 0 to 2147483647", NULL);
        v->limits[i] = (uint32_t)n;
        if (i % 2 && v->limits[i - 1] > v->limits[i])
            gr__refuse(b, MLA_ERR_CONFIG, gr__words[k - 1], "above ", gr__words[k]);
    }
    gr__members(b, v, key);
    gr__numbers(b, v, key + GR__BOUNDS);
}

static void gr__compile(gr__build *b, gr__node *v) {
    const json_value *key[GR__TITLE] = {NULL}, *schema = b->places[b->at = v->place].v;
    v->join = json_typeof(schema) == JSON_BOOL; /* false: a choice of nothing */
    if (v->join) return;
    if (json_typeof(schema) != JSON_OBJECT)
        gr__refuse(b, MLA_ERR_CONFIG, NULL, "not a schema, which is an object, true or false", NULL);
    const int first = b->code ? 0 : gr__keywords(b, schema, key);
    const int types = key[GR__TYPE] && !b->code ? gr__types_named(b, key[GR__TYPE]) : 0;
    if (b->code) return;
    if (first < GR__CONST) gr__join(b, v, key[first], first);
    else if (first < GR__TYPE) gr__constants(b, v, key[first], first, types);
    else gr__values(b, v, key, types);
}

/* ---- >>alternatives ---------------------------------------------------------------------------------------------- */

/* Leaves and least depths, until nothing changes; constants have their depth already. */
static void gr__settle(gr__build *b) {
    gr__node *nodes = b->g->nodes;
    for (int changed = 1; changed && !b->code;) {
        changed = 0;
        for (uint32_t i = b->n_nodes; i-- > 0 && !b->code;) {
            gr__node *v = &nodes[i];
            int height = GR__NEVER, object = 0;
            b->at = v->place, b->work += 1 + v->n_entries;
            for (uint32_t k = 0; k < v->n_entries; k++) {
                const gr__node *e = &nodes[gr__node_at(b, v->entry + k)];
                if (e->height < height) height = e->height;
                for (uint32_t l = 0, m; l < e->n_leaves; l++, b->work++) {
                    for (m = 0; m < v->n_leaves && v->leaves[m] != e->leaves[l]; m++) {}
                    if (m < GRAMMAR_READINGS) v->leaves[m] = e->leaves[l];
                    if (m == v->n_leaves) v->n_leaves++, changed = 1;
                    if (v->n_leaves <= GRAMMAR_READINGS && b->work <= GR__WORK) continue;
                    gr__refuse(b, MLA_ERR_UNSUPPORTED, NULL, "a choice of more than 64, or too many references", NULL);
                    return;
                }
            }
            for (const gr__text *t = b->g->texts + v->text; t < b->g->texts + v->text + v->n_texts && !v->literal; t++)
                if (t->required && nodes[t->value].height > object) object = nodes[t->value].height;
            const int array = v->limits[0] ? nodes[v->items].height : 0;
            v->object_height = (uint8_t)(object < GRAMMAR_DEPTH ? object + 1 : GR__NEVER);
            v->array_height = (uint8_t)(array < GRAMMAR_DEPTH ? array + 1 : GR__NEVER);
            if (v->types & GR__OBJECT) height = v->object_height;
            if (v->types & GR__ARRAY && v->array_height < height) height = v->array_height;
            if (v->types & ~(GR__OBJECT | GR__ARRAY)) height = 0;
            if (v->literal || height == v->height) continue;
            v->height = (uint8_t)height, changed = 1;
        }
    }
}

/* Can no value be of both nodes, whatever they do not say (0 also where that takes too long to tell)? By their types,
   constants or what a member that both require must be. */
static int gr__apart(gr__build *b, const gr__node *x, const gr__node *y, int deep) {
    const grammar *g = b->g;
    for (uint32_t i = 0; i < x->n_leaves * y->n_leaves; i++) {
        const gr__node *l = &g->nodes[x->leaves[i / y->n_leaves]], *m = &g->nodes[y->leaves[i % y->n_leaves]];
        const int common = (l->types & m->types) | (l->types & GR__REAL && m->types & GR__REAL ? GR__REAL : 0);
        const int both = l->literal && m->literal, objects = l->literal == m->literal && common == GR__OBJECT;
        int apart = !common || both;
        for (const gr__text *t = g->texts + l->text, *u; t < g->texts + l->text + l->n_texts && (both || objects);
             t++) {
            u = (const gr__text *)bsearch(t, g->texts + m->text, m->n_texts, sizeof *t, gr__by_bytes);
            if (b->work++ > GR__WORK || (both && u)) return 0;
            if (!both && u && t->required && u->required && deep < 8)
                apart |= gr__apart(b, &g->nodes[t->value], &g->nodes[u->value], deep + 1);
        }
        if (!apart) return 0;
    }
    return 1;
}

static void gr__finish(gr__build *b) {
    grammar *g = b->g;
    uint32_t at = 0;
    g->leaves = (uint32_t *)malloc(b->n_nodes * GRAMMAR_READINGS * sizeof *g->leaves);
    if (!g->leaves) b->code = gr__fail(b->err, MLA_ERR_MEMORY, "schema: out of memory");
    for (uint32_t i = 0; i < b->n_nodes && !b->code; i++) {
        gr__node *v = &g->nodes[i];
        v->leaves = g->leaves + at, v->n_leaves = !v->join, at += v->join ? GRAMMAR_READINGS : 1;
        if (!v->join) v->leaves[0] = i;
        if (!v->literal) v->height = GR__NEVER;
    }
    if (!b->code) gr__settle(b);
    for (const gr__node *v = g->nodes; v < g->nodes + b->n_nodes; v++)
        for (uint32_t k = 0, n = v->n_entries; k < n * n && v->join == 2 && !b->code; k++) {
            const gr__node *x = &g->nodes[gr__node_at(b, v->entry + k / n)],
                           *y = &g->nodes[gr__node_at(b, v->entry + k % n)];
            b->at = v->place;
            if (k / n < k % n && !gr__apart(b, x, y, 0))
                gr__refuse(b, MLA_ERR_UNSUPPORTED, "oneOf", "not supported where two entries can hold at once", NULL);
        }
    b->at = 0;
    if (!b->code && g->nodes[g->root].height > GRAMMAR_DEPTH)
        gr__refuse(b, MLA_ERR_CONFIG, NULL, "nothing fits it, or only what nests more than 64 deep", NULL);
}

/* Gives how many bytes the texts of the schema's values may take; *n: how many values there are. */
static size_t gr__spread(gr__build *b, const json_value *schema, size_t *n) {
    size_t room = 64, bytes = 64, length;
    b->places = (gr__place *)calloc(room, sizeof *b->places);
    if (b->places) b->places[0].v = schema;
    *n = 1;
    for (size_t i = 0; i < *n && b->places; i++) {
        const json_value *v = b->places[i].v;
        if (*n + json_count(v) > room) {
            gr__place *more = (gr__place *)realloc(b->places, (room = 2 * (*n + json_count(v))) * sizeof *more);
            if (!more) free(b->places);
            b->places = more;
        }
        json_string(v, &length), bytes += 6 * (length + (json_key(v) ? strlen(json_key(v)) : 0)) + 32;
        if (b->places) b->places[i].first = (uint32_t)*n, b->places[i].node = 0;
        for (size_t k = 0; k < json_count(v) && b->places; k++) {
            gr__place *p = &b->places[*n + json_place(json_at(v, k))];
            p->v = json_at(v, k), p->up = (uint32_t)i;
        }
        *n += json_count(v);
    }
    return bytes;
}

static void gr__build_all(gr__build *b, int any_object) {
    grammar *g = b->g;
    gr__node *any = g->nodes;
    gr__table(g->next);
    gr__put(b, "falsenulltrue", 5), gr__add_text(b, 0, 0, 0);
    gr__put(b, "null", 4), gr__add_text(b, 5, 0, 0), gr__put(b, "true", 4), gr__add_text(b, 9, 0, 0);
    any->types = GR__ALL, any->scale = 6, any->limits[1] = any->limits[3] = GR__NONE, b->n_nodes = 1;
    if (any_object) any[1] = any[0], any[1].types = GR__OBJECT, g->root = 1, b->n_nodes = 2;
    else g->root = gr__node_at(b, 0);
    for (uint32_t i = 1; i < b->n_nodes && !b->code && !any_object; i++) gr__compile(b, &g->nodes[i]);
    if (!b->code) gr__finish(b);
}

void grammar_destroy(grammar *g) {
    if (!g) return;
    free(g->nodes), free(g->texts), free(g->leaves), free(g->bytes);
    free(g);
}

mla_result grammar_create(grammar **out, const json_value *schema, mla_error *err) {
    gr__build b;
    size_t n;
    if (out) *out = NULL;
    if (!out) return gr__fail(err, MLA_ERR_ARGUMENT, "grammar_create: out is NULL");
    memset(&b, 0, sizeof b);
    const size_t bytes = gr__spread(&b, schema, &n);
    grammar *g = (grammar *)calloc(1, sizeof *g);
    if (g) g->nodes = (gr__node *)calloc(n + 1, sizeof *g->nodes), g->bytes = (char *)malloc(bytes);
    if (g) g->texts = (gr__text *)calloc(2 * n + 3, sizeof *g->texts);
    b.g = g, b.err = err;
    if (!g || !b.places || !g->nodes || !g->texts || !g->bytes || n > UINT32_MAX / 4)
        b.code = gr__fail(err, MLA_ERR_MEMORY, "schema: out of memory");
    else gr__build_all(&b, !schema);
    free(b.places);
    if (b.code) grammar_destroy(g);
    else *out = g;
    return b.code;
}

mla_result grammar_of_format(grammar **out, const json_value *format, mla_error *err) {
    const json_value *schema = json_get(json_get(format, "json_schema"), "schema");
    const char *type = format ? json_string(json_get(format, "type"), NULL) : "text", *at = "response_format";
    if (out) *out = NULL;
    if (!type) return gr__fail(err, MLA_ERR_CONFIG, "%s.type: not a string", at);
    if (!strcmp(type, "text")) return MLA_OK;
    if (!strcmp(type, "json_object")) return grammar_create(out, NULL, err);
    if (strcmp(type, "json_schema"))
        return gr__fail(err, MLA_ERR_CONFIG, "%s.type: %.40s is not text, json_object or json_schema", at, type);
    return schema ? grammar_create(out, schema, err)
                  : gr__fail(err, MLA_ERR_CONFIG, "%s.json_schema.schema: missing", at);
}

/* ---- >>machine --------------------------------------------------------------------------------------------------- */
/* The machine is a set of stacks of frames, all that what is written can mean. A frame never changes: what comes after
   it is another one, and frames below are shared. */

/* END: the value is complete. CONSTANT: texts a..b begin with the c bytes that are written. QUOTED: a characters so
   far. NUMERAL: its digits in a (and, upper half, b), c of them in this part; with FLAG in d it is negative. KEY: it is
   among texts a..b, of which c bytes are written; with FLAG it may be no member's. d is where in the table all these
   are. Then what is in an object or array, which d ends: a is the first member that may come, or the number of items, b
   the next value's node, c how much white space there was. The whole is such a frame, too, whose d is 0. */
enum { GR__END, GR__CONSTANT, GR__QUOTED, GR__NUMERAL, GR__KEY, GR__OPEN, GR__COMMA, GR__VALUE, GR__COLON, GR__AFTER };
enum { GR__LAST = GR__AFTER + 1, GR__FLAG = 256 };

/* Can the digits become a number within the bounds (or, done: are they one)? */
static int gr__in_bounds(const gr__node *v, const grammar_frame *f, int done) {
    const int negative = (f->d & GR__FLAG) != 0, state = f->d & 255, behind = state == '.' || state == '5';
    const int64_t low = negative ? -v->high : v->low, high = negative ? -v->low : v->high;
    const int64_t least = negative && low < 1 ? 1 : low, digits = (int64_t)((uint64_t)f->b << 32 | f->a);
    if (!v->bounded) return 1;
    if (state == '-') return high >= 1;
    for (int64_t unit = gr__ten(behind ? v->scale - (int)f->c : v->scale);; unit *= 10) {
        /* all that has these digits, and zero, one, ... more before the point */
        if (digits > high / unit) return 0;
        if (digits * unit + (done ? 0 : unit - 1) >= least) return 1;
        if (done || state != '1' || unit > GR__LIMIT / 10) return 0;
    }
}

/* Takes one more byte; 0: it does not belong to the number. */
static int gr__number(const grammar *g, grammar_frame *f, int byte) {
    const gr__node *v = &g->nodes[f->node];
    const int next = g->next[f->d & 255][byte];
    const uint32_t most = next == '9' ? 2 : next == '5' && v->bounded ? v->scale : 18;
    const uint64_t digits = ((uint64_t)f->b << 32 | f->a) * 10 + (uint64_t)(byte - '0');
    if (!next || (next == '.' && !v->scale) || (next == '*' && v->bounded)) return 0;
    f->d = (uint32_t)next | (f->d & GR__FLAG);
    if (byte < '0' || byte > '9') f->c = 0;
    else if (f->c++ >= most) return 0;
    else if (v->bounded) f->a = (uint32_t)digits, f->b = (uint32_t)(digits >> 32);
    return gr__in_bounds(v, f, 0);
}

static unsigned gr__push(grammar_state *s, const grammar_frame *f) { /* GRAMMAR_ROOM: there is no room */
    for (unsigned i = s->mark; i < s->n_frames; i++)
        if (!memcmp(&s->frames[i], f, sizeof *f)) return i;
    if (s->n_frames == GRAMMAR_ROOM) return GRAMMAR_ROOM;
    s->frames[s->n_frames] = *f;
    return s->n_frames++;
}

static void gr__to(grammar_state *s, unsigned top) {
    for (unsigned i = 0; i < s->n_tops; i++)
        if (s->tops[i] == top) return;
    if (top < GRAMMAR_ROOM && s->n_tops < GRAMMAR_READINGS) s->tops[s->n_tops++] = (uint16_t)top;
}

static void gr__go(grammar_state *s, unsigned at, const grammar_frame *f) { /* what is at `at` becomes f */
    gr__to(s, memcmp(&s->frames[at], f, sizeof *f) ? gr__push(s, f) : at);
}

static int gr__space(grammar_frame *f, int byte) { /* 1: byte is white space, and there may be some more */
    const int blank = byte == ' ' || byte == '\t', more = f->c >= 2 && f->c < 2 + 4u * f->depth;
    if (f->c == 0 && (byte == ' ' || byte == '\n')) f->c = byte == ' ' ? 1 : 2;
    else if (blank && more) f->c++;
    else return 0;
    return 1;
}

/* Of texts a..b, sorted, with the same first n bytes, those whose next is byte: 0 if there are none. */
static int gr__narrow(const gr__text *texts, uint32_t *a, uint32_t *b, uint32_t n, int byte) {
    uint32_t bounds[2];
    for (int i = 0; i < 2; i++) { /* the first whose next byte is byte + i, or more */
        uint32_t low = *a, high = *b;
        while (low < high) {
            const uint32_t mid = low + (high - low) / 2;
            if (texts[mid].n > n && (uint8_t)texts[mid].bytes[n] >= byte + i) high = mid;
            else low = mid + 1;
        }
        bounds[i] = low;
    }
    *a = bounds[0], *b = bounds[1];
    return *a < *b;
}

static int gr__fits(const grammar *g, int depth, uint32_t node) {
    return node != GR__NONE && depth + g->nodes[node].height <= GRAMMAR_DEPTH;
}

/* A value of a leaf begins with byte, and then below is next. */
static void gr__begin(grammar_state *s, const grammar_frame *below, uint32_t leaf, int byte) {
    const gr__node *v = &s->g->nodes[leaf];
    const int depth = below->depth;
    grammar_frame f = {0, 0, 0, 0, 0, 0, 0, 0};
    f.depth = below->depth, f.node = leaf;
    if (v->literal || byte == 't' || byte == 'f' || byte == 'n') { /* the words are constants, too */
        f.state = GR__CONSTANT, f.node = 0, f.c = 1, f.a = v->literal ? v->text : 0;
        f.b = f.a + (v->literal ? v->n_texts : 3);
        if (v->literal ? !gr__fits(s->g, depth, leaf) : !(v->types & (byte == 'n' ? GR__NULL : GR__BOOLEAN))) return;
        if (!gr__narrow(s->g->texts, &f.a, &f.b, 0, byte)) return;
    } else if (byte == '"' && v->types & GR__STRING) f.state = GR__QUOTED, f.d = 'T';
    else if (byte == '{' && v->types & GR__OBJECT && depth + v->object_height <= GRAMMAR_DEPTH)
        f.state = GR__OPEN, f.d = '}', f.depth++;
    else if (byte == '[' && v->types & GR__ARRAY && depth + v->array_height <= GRAMMAR_DEPTH)
        f.state = GR__OPEN, f.d = ']', f.depth++, f.b = v->items;
    else if (v->types & GR__REAL) {
        f.state = GR__NUMERAL, f.d = byte == '-' ? '-' | GR__FLAG : '-';
        if (byte == '-' ? !gr__in_bounds(v, &f, 0) : !gr__number(s->g, &f, byte)) return;
    } else return;
    const unsigned up = gr__push(s, below);
    f.up = (uint16_t)up;
    if (up < GRAMMAR_ROOM) gr__to(s, gr__push(s, &f));
}

/* Is there a member with one of the keys a..b that object f may have next? */
static int gr__has_member(const grammar *g, const grammar_frame *f, uint32_t a, uint32_t b) {
    for (const gr__text *t = g->texts + a; t < g->texts + b; t++)
        if (t->member >= f->a && t->after <= f->a && gr__fits(g, f->depth, t->value)) return 1;
    return 0;
}

static void gr__key(grammar_state *s, unsigned at, int byte) {
    const grammar *g = s->g;
    grammar_frame f = s->frames[at], object = s->frames[f.up];
    const int next = (f.d & 255) == 'T' && byte == '\\' ? 'Q' : g->next[f.d & 255][byte];
    const int known = gr__narrow(g->texts, &f.a, &f.b, f.c, byte), other = f.d & GR__FLAG;
    if (!next || (!gr__has_member(g, &object, f.a, f.b) && (!other || (next == 'X' && known)))) return;
    f.d = (uint32_t)(next | other), f.c++;
    if (!known) f.a = f.b = f.c = 0; /* as other keys are, however they began */
    if (next == 'X') {
        object.a = known ? g->texts[f.a].member + 1 : GR__MEMBERS * 2, object.state = GR__COLON, object.c = 0;
        object.b = known ? g->texts[f.a].value : g->nodes[f.node].other;
        gr__to(s, gr__push(s, &object));
    } else gr__go(s, at, &f);
}

/* May there be one more member or item? */
static int gr__more(const grammar *g, const grammar_frame *f, const gr__node *v) {
    if (f->d == ']') return f->a < v->limits[1] && gr__fits(g, f->depth, v->items);
    return (f->a >= v->last && gr__fits(g, f->depth, v->other)) || gr__has_member(g, f, v->text, v->text + v->n_texts);
}

static void gr__container(grammar_state *s, unsigned at,
                          int byte) { /* within an object or array, or before the whole */
    const grammar *g = s->g;
    const grammar_frame f = s->frames[at];
    const gr__node *v = &g->nodes[f.node], *value = &g->nodes[f.b];
    const int object = f.d == '}', opens = f.state == GR__OPEN, ends = f.a >= (object ? v->last : v->limits[0]);
    grammar_frame next = f;
    if (f.state == GR__COLON) {
        next.state = GR__VALUE;
        if (byte == ':') gr__go(s, at, &next);
    } else if (f.state == GR__AFTER && byte == ',') {
        next.state = object ? GR__COMMA : GR__VALUE;
        if (gr__more(g, &f, v)) gr__go(s, at, &next);
    } else if ((int)f.d == byte && ends && f.state != GR__VALUE && f.state != GR__COMMA) gr__to(s, f.up);
    else if ((f.state < GR__AFTER || ends) && gr__space(&next, byte)) {
        if (f.state == GR__AFTER) next.state = GR__LAST;
        gr__go(s, at, &next);
    } else if (object && byte == '"' && (opens || f.state == GR__COMMA) && gr__more(g, &f, v)) {
        next.up = (uint16_t)at, next.state = GR__KEY, next.c = 0, next.a = v->text, next.b = v->text + v->n_texts;
        next.d = ends && gr__fits(g, f.depth, v->other) ? 'T' | GR__FLAG : 'T';
        gr__to(s, gr__push(s, &next));
    } else if (f.state == GR__VALUE || (opens && !object && gr__more(g, &f, v))) {
        next.state = f.d ? GR__AFTER : GR__END, next.c = 0;
        if (object) next.b = 0;
        else if (f.a < v->limits[0] || v->limits[1] != GR__NONE) next.a++; /* else no two are told apart */
        for (uint32_t i = 0; i < value->n_leaves; i++) gr__begin(s, &next, value->leaves[i], byte);
    }
}

static int gr__done(const grammar *g, const grammar_frame *f) { /* of what has no end of its own: may this be it? */
    if (f->state == GR__CONSTANT) return g->texts[f->a].n == f->c;
    return f->state == GR__NUMERAL && strchr("0159", (int)(f->d & 255)) && gr__in_bounds(&g->nodes[f->node], f, 1);
}

static void gr__step(grammar_state *s, unsigned at, int byte) {
    for (;; at = s->frames[at].up) { /* what is complete gives the byte to what is below */
        grammar_frame f = s->frames[at];
        const uint32_t *limits = s->g->nodes[f.node].limits;
        if (f.state >= GR__OPEN) gr__container(s, at, byte);
        else if (f.state == GR__KEY) gr__key(s, at, byte);
        else if (f.state == GR__QUOTED) {
            const int next = s->g->next[f.d][byte];
            if (!next || (next == 'X' ? f.a < limits[2] : f.d == 'T' && f.a == limits[3])) return;
            f.d = (uint32_t)next;
            if (next == 'T' && (f.a < limits[2] || limits[3] != GR__NONE)) f.a++;
            if (next == 'X') gr__to(s, f.up);
            else gr__go(s, at, &f);
        } else if (f.state == GR__CONSTANT && gr__narrow(s->g->texts, &f.a, &f.b, f.c, byte)) f.c++, gr__go(s, at, &f);
        else if (f.state == GR__NUMERAL && gr__number(s->g, &f, byte)) gr__go(s, at, &f);
        else if (gr__done(s->g, &s->frames[at])) continue;
        return;
    }
}

static int gr__byte(grammar_state *s, const uint16_t *from, unsigned n, int byte) { /* from: tops, not s's own */
    s->mark = s->n_frames, s->n_tops = 0;
    for (unsigned i = 0; i < n; i++) gr__step(s, from[i], byte);
    return s->n_tops > 0;
}

/* ---- >>state ----------------------------------------------------------------------------------------------------- */

void grammar_begin(grammar_state *s, const grammar *g) {
    memset(s, 0, sizeof *s);
    s->g = g, s->n_frames = 2, s->n_tops = 1, s->tops[0] = 1;
    s->frames[1].state = GR__VALUE, s->frames[1].b = g->root, s->frames[1].c = 1; /* no white space */
}

static void gr__copy(grammar_state *to, const grammar_state *s) {
    memcpy(to, s, offsetof(grammar_state, frames) + s->n_frames * sizeof *s->frames);
}

/* Keeps the frames of the stacks, and no others; stacks for which there is no room are given up, but not the first. */
static void gr__compact(grammar_state *s) {
    uint16_t place[GRAMMAR_ROOM];
    unsigned n = 1, n_tops = s->n_tops, length, at;
    memset(place, 0, sizeof place);
    s->n_tops = 0;
    for (unsigned i = 0; i < n_tops; i++) {
        for (at = s->tops[i], length = 0; at && !place[at]; at = s->frames[at].up) length++;
        if (n + length > GRAMMAR_FRAMES) continue;
        for (at = s->tops[i], n += length; at && !place[at]; at = s->frames[at].up) place[at] = 1;
        s->tops[s->n_tops++] = s->tops[i];
    }
    for (at = n = 1; at < s->n_frames; at++) { /* each is behind the one below it */
        if (!place[at]) continue;
        place[at] = (uint16_t)n, s->frames[n] = s->frames[at];
        s->frames[n].up = place[s->frames[n].up], n++;
    }
    for (unsigned i = 0; i < s->n_tops; i++) s->tops[i] = place[s->tops[i]];
    s->n_frames = (uint16_t)n;
}

int grammar_accept(grammar_state *s, const char *bytes, size_t n) {
    grammar_state now;
    uint16_t tops[GRAMMAR_READINGS];
    gr__copy(&now, s);
    for (size_t i = 0; i < n; i++) {
        memcpy(tops, now.tops, now.n_tops * sizeof *tops);
        if (!gr__byte(&now, tops, now.n_tops, (uint8_t)bytes[i])) return 0;
        if (i % GRAMMAR_TOKEN == GRAMMAR_TOKEN - 1 || i == n - 1) gr__compact(&now);
    }
    gr__copy(s, &now);
    return 1;
}

int grammar_test(const grammar_state *s, const char *bytes, size_t n) {
    grammar_state copy;
    gr__copy(&copy, s);
    return grammar_accept(&copy, bytes, n);
}

int grammar_complete(const grammar_state *s) {
    int complete = 0, open = 0;
    for (unsigned i = 0; i < s->n_tops; i++) {
        const grammar_frame *f = &s->frames[s->tops[i]];
        open |= f->state != GR__END;
        while (f->state != GR__END && gr__done(s->g, f)) f = &s->frames[f->up];
        complete |= f->state == GR__END;
    }
    return complete ? 2 - open : 0;
}

/* ---- >>vocabulary ------------------------------------------------------------------------------------------------ */
/* The tokens, sorted by their bytes: a walk over them takes each beginning that several have once. */

typedef struct gr__token {
    const char *bytes;
    int id;
    uint32_t next;                     /* the first behind it that has no more than `same` bytes in common with it */
    uint8_t n, same, byte, characters; /* bytes; those in common with the one before; the next; how many begin one */
    uint16_t tail, most; /* from this byte on all is whole characters that need no escape; n + 1: nowhere, for one is
                            cut; most: the greatest of those before next */
} gr__token;

struct grammar_vocab {
    int size;
    uint32_t n, *plain, *ends; /* tokens; masks: those that are text within strings from their first byte on, and eos */
    gr__token *tokens;
};

static int gr__by_token(const void *x, const void *y) {
    const gr__token *a = (const gr__token *)x, *b = (const gr__token *)y;
    const int order = memcmp(a->bytes, b->bytes, a->n < b->n ? a->n : b->n);
    return order ? order : a->n != b->n ? a->n - b->n : a->id - b->id;
}

static unsigned gr__starts(int byte) { return (byte & 0xC0) != 0x80; } /* a character */

static void gr__set(uint32_t *mask, int id) { mask[id / 32] |= 1u << id % 32; }

static void gr__sort_tokens(grammar_vocab *v, uint8_t next[128][256]) {
    qsort(v->tokens, v->n, sizeof *v->tokens, gr__by_token);
    for (uint32_t i = v->n; i-- > 0;) {
        gr__token *t = &v->tokens[i];
        int state = 'T';
        for (unsigned k = 0; k < t->n; k++) {
            t->characters = (uint8_t)(t->characters + gr__starts((uint8_t)t->bytes[k]));
            state = next[state][(uint8_t)t->bytes[k]];
            if (state != 'T' && !(state >= 'a' && state <= 'g')) state = 'T', t->tail = (uint16_t)(k + 1);
        }
        if (state != 'T') t->tail = (uint16_t)(t->n + 1);
        if (t->tail == 0) gr__set(v->plain, t->id);
        while (i && t->same < t->n && t->same < t[-1].n && t->bytes[t->same] == t[-1].bytes[t->same]) t->same++;
        t->next = i + 1, t->most = t->tail, t->byte = t->same < t->n ? (uint8_t)t->bytes[t->same] : 0;
        while (t->next < v->n && v->tokens[t->next].same > t->same) {
            if (v->tokens[t->next].most > t->most) t->most = v->tokens[t->next].most;
            t->next = v->tokens[t->next].next;
        }
    }
}

void grammar_vocab_destroy(grammar_vocab *v) {
    if (!v) return;
    free(v->plain), free(v->tokens);
    free(v);
}

mla_result grammar_vocab_create(grammar_vocab **out, int size, grammar_bytes *bytes, const void *user, const int *eos,
                                int n_eos, mla_error *err) {
    const size_t words = size > 0 ? ((size_t)size + 31) / 32 : 1;
    if (out) *out = NULL;
    if (!out || !bytes || size < 1 || n_eos < 0 || (n_eos && !eos))
        return gr__fail(err, MLA_ERR_ARGUMENT, "grammar_vocab_create: a null pointer, or size or n_eos too small");
    for (int i = 0; i < n_eos; i++)
        if (eos[i] < 0 || eos[i] >= size)
            return gr__fail(err, MLA_ERR_ARGUMENT, "grammar_vocab_create: eos %d is not in 0..%d", eos[i], size - 1);
    grammar_vocab *v = (grammar_vocab *)calloc(1, sizeof *v);
    uint8_t(*next)[256] = (uint8_t(*)[256])calloc(128, sizeof *next);
    if (v) v->plain = (uint32_t *)calloc(2 * words, sizeof *v->plain);
    if (v) v->tokens = (gr__token *)calloc((size_t)size, sizeof *v->tokens);
    if (v && v->plain && v->tokens && next) {
        v->size = size, v->ends = v->plain + words;
        for (int i = 0; i < n_eos; i++) gr__set(v->ends, eos[i]);
        for (int id = 0; id < size; id++) {
            size_t n = 0;
            gr__token *t = &v->tokens[v->n];
            t->bytes = v->ends[id / 32] >> id % 32 & 1 ? NULL : bytes(user, id, &n);
            if (t->bytes && n > 0 && n <= GRAMMAR_TOKEN) t->id = id, t->n = (uint8_t)n, v->n++;
        }
        gr__table(next), gr__sort_tokens(v, next);
        *out = v;
    } else grammar_vocab_destroy(v);
    free(next);
    return *out ? MLA_OK : gr__fail(err, MLA_ERR_MEMORY, "grammar_vocab_create: no memory for %d tokens", size);
}

/* ---- >>mask ------------------------------------------------------------------------------------------------------ */

typedef struct gr__level { /* after so many bytes of a token */
    uint16_t n_tops, n_frames, tops[GRAMMAR_READINGS];
    unsigned characters;
    int from; /* the tokens whose tail is not above it are in the mask already; -1: not known */
} gr__level;

/* Where text within a string may come next, what is nothing else, after `depth` bytes of token i and of those behind it
   that begin so: by as many characters as there is room for. Sets from, if that decides about all whose tail lies
   above. */
static void gr__allow_text(const grammar_state *s, const grammar_vocab *v, uint32_t *mask, uint32_t i, int depth,
                           gr__level *l) {
    uint32_t most = 0, strings = 0;
    for (unsigned k = 0; k < s->n_tops; k++) {
        const grammar_frame *f = &s->frames[s->tops[k]];
        const int key = f->state == GR__KEY && f->d == ('T' | GR__FLAG) && f->a == f->b;
        const uint32_t longest = key ? GR__NONE : s->g->nodes[f->node].limits[3];
        const uint32_t room = longest == GR__NONE ? GR__NONE : longest - f->a;
        if (!key && (f->state != GR__QUOTED || f->d != 'T')) continue;
        strings++;
        if (room > most) most = room;
    }
    if (!strings || (most <= GRAMMAR_TOKEN && strings < s->n_tops)) return;
    l->from = depth;
    if (depth == 0 && most > GRAMMAR_TOKEN) memcpy(mask, v->plain, ((size_t)v->size + 31) / 32 * sizeof *mask);
    else
        for (uint32_t k = i; k < v->n && (k == i || v->tokens[k].same >= depth); k++)
            if (v->tokens[k].tail <= depth && v->tokens[k].characters - l->characters <= most)
                gr__set(mask, v->tokens[k].id);
}

int grammar_allow(const grammar_state *s, const grammar_vocab *v, uint32_t *mask) {
    grammar_state now;
    gr__level levels[GRAMMAR_TOKEN + 1], *l = levels;
    const size_t words = ((size_t)v->size + 31) / 32;
    const int complete = grammar_complete(s);
    int any = 0;
    memset(mask, 0, words * sizeof *mask);
    gr__copy(&now, s);
    l->n_tops = s->n_tops, l->n_frames = s->n_frames, l->characters = 0, l->from = -1;
    memcpy(l->tops, s->tops, sizeof l->tops);
    gr__allow_text(s, v, mask, 0, 0, l);
    for (uint32_t i = 0; i < v->n;) {
        const gr__token *t = &v->tokens[i];
        if (l > levels + t->same) l = levels + t->same; /* what is known of this one's beginning */
        if (t->most <= l->from || t->tail <= l->from) {
            i = t->most <= l->from ? t->next : i + 1;
            continue;
        }
        for (; l < levels + t->n; l++) {
            const int depth = (int)(l - levels), byte = depth == t->same ? t->byte : (uint8_t)t->bytes[depth];
            now.n_frames = l->n_frames;
            if (!gr__byte(&now, l->tops, l->n_tops, byte)) break;
            l[1].n_tops = now.n_tops, l[1].n_frames = now.n_frames, l[1].characters = l->characters + gr__starts(byte);
            if (now.n_tops == 1) l[1].tops[0] = now.tops[0]; /* nearly always */
            else memcpy(l[1].tops, now.tops, now.n_tops * sizeof *now.tops);
            l[1].from = byte >= ' ' && byte != '"' && byte != '\\' ? l->from : -1;
            if (l[1].from < 0) gr__allow_text(&now, v, mask, i, depth + 1, l + 1);
        }
        if (l == levels + t->n) gr__set(mask, t->id), i++;
        else if (l == levels + t->same) i = t->next;
        else /* nor may those that begin so */
            for (i++; i < v->n && levels + v->tokens[i].same > l;) i = v->tokens[i].next;
    }
    for (size_t i = 0; i < words && complete; i++) mask[i] |= v->ends[i];
    for (size_t i = 0; i < words && !any; i++) any = mask[i] != 0;
    return any;
}

void grammar_mask(float *logits, const uint32_t *mask, int size) {
    for (int i = 0; i < size; i++)
        if (!(mask[i / 32] >> i % 32 & 1)) logits[i] = -HUGE_VALF;
}

#endif /* GRAMMAR_IMPLEMENTATION */
