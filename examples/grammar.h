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
               known before. THREADS: no globals, no printing; grammars and vocabularies are only read. grammar_allow
               takes 90 KB of stack.

CONTENTS       >>grammar (the API)   then >>strings >>types >>errors >>constants >>keywords >>compiler >>alternatives
               >>numbers >>machine >>state >>vocabulary >>mask
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

enum { GRAMMAR_DEPTH = 64, GRAMMAR_READINGS = 64, GRAMMAR_FRAMES = 512, GRAMMAR_TOKEN = 255 };

typedef struct grammar grammar;
typedef struct grammar_vocab grammar_vocab;

/* A schema, of which nothing is kept; NULL: any JSON object. A call that fails sets *out to NULL; err may be NULL.
   Errors: ARGUMENT (out is NULL), CONFIG (a keyword's value that cannot be, or nothing fits), UNSUPPORTED, MEMORY. */
GRAMMAR_API mla_result grammar_create(grammar **out, const json_value *schema, mla_error *err);
/* By OpenAI's response_format: of type text (*out is NULL: no grammar), json_object, or json_schema. NULL: text. */
GRAMMAR_API mla_result grammar_of_format(grammar **out, const json_value *format, mla_error *err);
GRAMMAR_API void grammar_destroy(grammar *g); /* NULL is fine */

/* The bytes of each token 0..size-1, which need not last; NULL, none or more than GRAMMAR_TOKEN: never allowed. Those
   of eos [n_eos] are allowed when the value is complete. Errors: ARGUMENT, MEMORY. */
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
    uint16_t n_tops, n_frames, tops[GRAMMAR_READINGS];
    grammar_frame frames[GRAMMAR_FRAMES];
} grammar_state;

GRAMMAR_API void grammar_begin(grammar_state *s, const grammar *g);
GRAMMAR_API int grammar_accept(grammar_state *s, const char *bytes, size_t n);     /* 0: not allowed, s is as before */
GRAMMAR_API int grammar_test(const grammar_state *s, const char *bytes, size_t n); /* would it be accepted? */
GRAMMAR_API int grammar_complete(const grammar_state *s); /* 1: a value has been written; 2: which cannot go on */
/* mask [(size + 31) / 32]: bit id % 32 of word id / 32 is 1 if the token may come next, which is if grammar_accept takes
   its bytes. 0: none may. */
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

/* ---- >>strings --------------------------------------------------------------------------------------------------- */
/* Text within quotes is read by a table of states. GRAMMAR__TEXT is between two characters. */

/* States are letters, as they stand in the table, less '@': T text, X closed, B behind a backslash; Q the same in keys,
   which have for each character one way to write it, and q to u the digits there; I to L the digits of \u and E to H, M
   to O those of a pair of surrogates; a b c: so many bytes of a character are missing; d to g: behind a first byte that
   does not take all second ones. */
enum {
    GRAMMAR__TEXT = 'T' - '@',
    GRAMMAR__CLOSED = 'X' - '@',
    GRAMMAR__ESCAPE = 'B' - '@',
    GRAMMAR__KEY_ESCAPE = 'Q' - '@'
};
enum { GRAMMAR__CUT = 'a' - '@', GRAMMAR__CUT_END = 'g' - '@', GRAMMAR__STATES = 64 };

static void grammar__string_table(uint8_t next[GRAMMAR__STATES][256]) {
    static const char *const rows[] = {/* from, to, and the first and last byte of ranges; later rows go over earlier */
                                       "TT \x7f",    "TX\"\"",     "TB\\\\",
                                       "Ta\xC2\xDF", "Tb\xE1\xEF", "Tc\xF1\xF3",
                                       "Td\xE0\xE0", "Te\xED\xED", "Tf\xF0\xF0",
                                       "Tg\xF4\xF4", "aT\x80\xBF", "ba\x80\xBF",
                                       "cb\x80\xBF", "da\xA0\xBF", "ea\x80\x9F",
                                       "fb\x90\xBF", "gb\x80\x8F", "BT\"\"\\\\//bbffnnrrtt",
                                       "BIuu",       "IJ09afAF",   "JK09afAF",
                                       "KL09afAF",   "LT09afAF",   "IEddDD",
                                       "EK07",       "EF89abAB",   "FG09afAF",
                                       "GH09afAF",   "HM\\\\",     "MNuu",
                                       "NOddDD",     "OKcfCF",     "QT\"\"\\\\bbffnnrrtt",
                                       "Qquu",       "qr00",       "rs00",
                                       "st00",       "su11",       "tT07bbef",
                                       "uT09af"};
    memset(next, 0, GRAMMAR__STATES * sizeof *next);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (const char *range = rows[i] + 2; *range; range += 2)
            for (int b = (uint8_t)range[0]; b <= (uint8_t)range[1]; b++)
                next[rows[i][0] - '@'][b] = (uint8_t)(rows[i][1] - '@');
}

/* ---- >>types ----------------------------------------------------------------------------------------------------- */

#define GRAMMAR__NONE  0xffffffffu
#define GRAMMAR__LIMIT INT64_C(999999999999999999) /* of integers: 18 digits */
enum { GRAMMAR__NODES = 1 << 16, GRAMMAR__MEMBERS = 4096, GRAMMAR__HOPS = 1024, GRAMMAR__WORK = 10000000 };
enum { GRAMMAR__NEVER = 255 };                 /* no depth */
enum { GRAMMAR__ANY = 0, GRAMMAR__WORDS = 1 }; /* the node that everything fits, and that of true, false and null */
enum { GRAMMAR__STRING = 1, GRAMMAR__NUMBER = 2, GRAMMAR__INTEGER = 4, GRAMMAR__BOOLEAN = 8, GRAMMAR__NULL = 16 };
enum { GRAMMAR__OBJECT = 32, GRAMMAR__ARRAY = 64 };

/* A schema. Its leaves are what a value of it may be, none of them a reference or a choice; most are their only one. */
typedef struct grammar__node {
    uint8_t types, literal, bounded, scale;      /* literal: one of its texts; scale: most digits behind the point */
    uint8_t height, object_height, array_height; /* least depth of a value; GRAMMAR__NEVER: there is none */
    uint8_t join;                                /* 1: a choice of its entries; 2: oneOf */
    uint32_t entry, n_entries, leaf, n_leaves;   /* in lists */
    uint32_t text, n_texts;                      /* in texts, sorted: values, or keys with the quote behind them */
    uint32_t member, n_members;                  /* in members, and one more: in the order of the schema */
    uint32_t other, items;                       /* nodes; NONE: no other members, no items */
    uint32_t min_items, max_items, min_length, max_length;
    int64_t low, high; /* of numbers, times 10^scale */
} grammar__node;

typedef struct grammar__text {
    const char *bytes;
    size_t at; /* in bytes of the grammar */
    uint32_t n, member;
} grammar__text;

typedef struct grammar__member {
    uint32_t value, required; /* the first member from this one on that is required; n_members: none */
} grammar__member;

#define GRAMMAR__LIST(type)                                                                                            \
    struct {                                                                                                           \
        type *items;                                                                                                   \
        size_t n, room;                                                                                                \
    }
#define GRAMMAR__ADD(build, list, type, value)                                                                         \
    ((list).items = (type *)grammar__room(build, (list).items, (list).n, &(list).room, sizeof(type)),                  \
     (build)->code ? (void)0 : (void)((list).items[(list).n++] = (value)))

struct grammar {
    GRAMMAR__LIST(grammar__node) nodes;
    GRAMMAR__LIST(grammar__member) members;
    GRAMMAR__LIST(grammar__text) texts;
    GRAMMAR__LIST(uint32_t) lists;
    GRAMMAR__LIST(char) bytes;
    uint32_t root;
    uint8_t next[GRAMMAR__STATES][256];
};

typedef struct grammar__origin { /* of a node, for messages: up's path, /word, and /name or the index */
    const json_value *schema;
    const char *word, *name;
    uint32_t up, index;
} grammar__origin;

typedef struct grammar__build {
    grammar *g;
    const json_value *root;
    GRAMMAR__LIST(grammar__origin) origins;
    GRAMMAR__LIST(uint32_t) referred; /* nodes that $ref has made */
    GRAMMAR__LIST(uint32_t) stack;
    uint32_t *seen;
    long work;
    mla_result code;
    mla_error *err;
} grammar__build;

/* ---- >>errors ---------------------------------------------------------------------------------------------------- */

#if defined __GNUC__
__attribute__((format(printf, 3, 4)))
#endif
static mla_result
grammar__fail(mla_error *err, mla_result code, const char *format, ...) {
    va_list args;
    if (!err) return code;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    err->code = code;
    for (char *c = err->text; *c; c++) /* a hostile name must not break the line or drive a terminal */
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    return code;
}

/* The first error counts: "path/key: what word". */
static void grammar__refuse(grammar__build *b, mla_result code, uint32_t node, const char *key, const char *what,
                            const char *word) {
    char path[120], part[64];
    size_t at = sizeof path - 1;
    if (b->code) return;
    path[at] = 0;
    for (uint32_t n = node; n != GRAMMAR__NONE;) {
        const grammar__origin *o = &b->origins.items[n];
        const int top = o->up == GRAMMAR__NONE, list = o->index != GRAMMAR__NONE;
        if (list) snprintf(part, sizeof part, "/%.20s/%lu", o->word, (unsigned long)o->index);
        else
            snprintf(part, sizeof part, "%s%.40s%s%.20s", top ? "" : "/", o->word, o->name ? "/" : "",
                     o->name ? o->name : "");
        const size_t n_part = strlen(part);
        if (n_part + 4 > at) {
            memcpy(path + (at -= 3), "...", 3);
            break;
        }
        memcpy(path + (at -= n_part), part, n_part);
        n = o->up;
    }
    b->code = grammar__fail(b->err, code, "schema: %s%s%.40s: %s%.40s", path + at, key ? "/" : "", key ? key : "", what,
                            word ? word : "");
}

static void *grammar__room(grammar__build *b, void *items, size_t n, size_t *room, size_t size) {
    if (b->code || n < *room) return items;
    const size_t more = *room ? 2 * *room : 16;
    void *bigger = more < SIZE_MAX / 2 / size ? realloc(items, more * size) : NULL;
    if (bigger) *room = more;
    else b->code = grammar__fail(b->err, MLA_ERR_MEMORY, "schema: out of memory");
    return bigger ? bigger : items;
}

/* ---- >>constants ------------------------------------------------------------------------------------------------- */

static void grammar__put(grammar__build *b, const char *bytes, size_t n) {
    for (size_t i = 0; i < n && !b->code; i++) GRAMMAR__ADD(b, b->g->bytes, char, bytes[i]);
}

static void grammar__put_string(grammar__build *b, const char *s, size_t n) { /* and the quote at the end */
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    char escape[8];
    for (size_t i = 0; i < n; i++) {
        const char *known = s[i] ? strchr(from, s[i]) : NULL;
        if (known) snprintf(escape, sizeof escape, "\\%c", to[known - from]);
        else if ((unsigned char)s[i] < 0x20) snprintf(escape, sizeof escape, "\\u%04x", (unsigned)s[i]);
        else escape[0] = s[i], escape[1] = 0;
        grammar__put(b, escape, strlen(escape));
    }
    grammar__put(b, "\"", 1);
}

static void grammar__put_number(grammar__build *b, const json_value *v) {
    char text[40];
    int64_t integer;
    double real = json_number(v);
    if (json_integer(v, &integer)) snprintf(text, sizeof text, "%lld", (long long)integer);
    else if (real == 0) strcpy(text, "0");
    else
        for (int digits = 15; digits < 18; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, real);
            if (strtod(text, NULL) == real) break;
        }
    for (char *c = text; *c; c++) /* the point of the locale */
        if (!strchr("0123456789+-e", *c)) *c = '.';
    grammar__put(b, text, strlen(text));
}

/* Members or elements as they are in the file, to be freed; NULL: out of memory. */
static const json_value **grammar__in_order(grammar__build *b, const json_value *list) {
    const size_t n = json_count(list);
    const json_value **order = (const json_value **)malloc((n + 1) * sizeof *order);
    if (!order && !b->code) b->code = grammar__fail(b->err, MLA_ERR_MEMORY, "schema: out of memory");
    for (size_t i = 0; order && i < n; i++) order[json_place(json_at(list, i))] = json_at(list, i);
    return order;
}

static void grammar__put_value(grammar__build *b, const json_value *v) { /* as deep as the JSON parser lets it be */
    const json_type type = json_typeof(v);
    size_t n;
    if (type == JSON_NULL) grammar__put(b, "null", 4);
    else if (type == JSON_BOOL) grammar__put(b, json_bool(v) ? "true" : "false", json_bool(v) ? 4 : 5);
    else if (type == JSON_NUMBER) grammar__put_number(b, v);
    else if (type == JSON_STRING) {
        const char *s = json_string(v, &n);
        grammar__put(b, "\"", 1), grammar__put_string(b, s, n);
    } else {
        const json_value **order = grammar__in_order(b, v);
        grammar__put(b, type == JSON_ARRAY ? "[" : "{", 1);
        for (size_t i = 0; order && i < json_count(v); i++) {
            const char *key = json_key(order[i]);
            if (i) grammar__put(b, ",", 1);
            if (key) grammar__put(b, "\"", 1), grammar__put_string(b, key, strlen(key)), grammar__put(b, ":", 1);
            grammar__put_value(b, order[i]);
        }
        grammar__put(b, type == JSON_ARRAY ? "]" : "}", 1);
        free(order);
    }
}

static void grammar__add_text(grammar__build *b, size_t at, uint32_t member) { /* the bytes from at on */
    grammar__text t;
    t.bytes = NULL, t.at = at, t.n = (uint32_t)(b->g->bytes.n - at), t.member = member;
    if (b->g->bytes.n > UINT32_MAX / 2) b->code = grammar__fail(b->err, MLA_ERR_UNSUPPORTED, "schema: too large");
    GRAMMAR__ADD(b, b->g->texts, grammar__text, t);
}

static int grammar__type_of(const json_value *v) { /* a constant's */
    static const int types[] = {GRAMMAR__NULL,   GRAMMAR__BOOLEAN, GRAMMAR__NUMBER,
                                GRAMMAR__STRING, GRAMMAR__ARRAY,   GRAMMAR__OBJECT};
    const double x = json_number(v);
    const int whole = json_typeof(v) == JSON_NUMBER && x == floor(x);
    return types[json_typeof(v)] | (whole ? GRAMMAR__INTEGER : 0);
}

/* ---- >>keywords -------------------------------------------------------------------------------------------------- */

/* Their places in grammar__keys: those that stand alone, those beside type only, ... */
enum { GRAMMAR__REF, GRAMMAR__ANY_OF, GRAMMAR__ONE_OF, GRAMMAR__ALL_OF, GRAMMAR__CONST, GRAMMAR__ENUM, GRAMMAR__TYPE };
enum { GRAMMAR__PROPERTIES = GRAMMAR__TYPE + 1, GRAMMAR__REQUIRED, GRAMMAR__ADDITIONAL }; /* ... of objects, */
enum {
    GRAMMAR__ITEMS = GRAMMAR__ADDITIONAL + 1,
    GRAMMAR__MIN_ITEMS,
    GRAMMAR__MAX_ITEMS,
    GRAMMAR__UNIQUE
};                                                                       /* arrays, */
enum { GRAMMAR__MIN_LENGTH = GRAMMAR__UNIQUE + 1, GRAMMAR__MAX_LENGTH }; /* strings and numbers */
enum { GRAMMAR__MINIMUM = GRAMMAR__MAX_LENGTH + 1, GRAMMAR__MAXIMUM, GRAMMAR__ABOVE, GRAMMAR__BELOW, GRAMMAR__KEYS };

/* clang-format off */
static const char *const grammar__keys[] = { /* from KEYS on: ignored */
    "$ref", "anyOf", "oneOf", "allOf", "const", "enum", "type", "properties", "required", "additionalProperties",
    "items", "minItems", "maxItems", "uniqueItems", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly",
    "discriminator", "$schema", "$id", "$comment", "$defs", "definitions"};
/* clang-format on */

static void grammar__read_keys(grammar__build *b, uint32_t node, const json_value **key) {
    const json_value *schema = b->origins.items[node].schema;
    int alone = -1;
    for (size_t i = 0, k; i < json_count(schema) && !b->code; i++) {
        const json_value *m = json_at(schema, i);
        for (k = 0; k < sizeof grammar__keys / sizeof *grammar__keys; k++)
            if (!strcmp(json_key(m), grammar__keys[k])) break;
        if (k == sizeof grammar__keys / sizeof *grammar__keys)
            grammar__refuse(b, MLA_ERR_UNSUPPORTED, node, json_key(m), "not supported", NULL);
        else if (k < GRAMMAR__KEYS) key[k] = m;
    }
    for (int k = GRAMMAR__ENUM; k >= 0; k--)
        if (key[k]) alone = k;
    for (int k = alone + 1; k < GRAMMAR__KEYS && alone >= 0; k++)
        if (key[k] && !(k == GRAMMAR__TYPE && alone >= GRAMMAR__CONST))
            grammar__refuse(b, MLA_ERR_UNSUPPORTED, node, grammar__keys[k], "not supported beside ",
                            grammar__keys[alone]);
}

/* The node of a schema at up's /word, /word/name or /word/index. */
static uint32_t grammar__node_of(grammar__build *b, const json_value *schema, uint32_t up, const char *word,
                                 const char *name, size_t index) {
    grammar__node node;
    grammar__origin origin;
    const json_type type = json_typeof(schema);
    const uint32_t n = (uint32_t)b->g->nodes.n;
    if (b->root && ((type == JSON_BOOL && json_bool(schema)) || (type == JSON_OBJECT && !json_count(schema))))
        return GRAMMAR__ANY;
    memset(&node, 0, sizeof node);
    origin.schema = schema, origin.word = word, origin.name = name, origin.up = up, origin.index = (uint32_t)index;
    GRAMMAR__ADD(b, b->origins, grammar__origin, origin);
    GRAMMAR__ADD(b, b->g->nodes, grammar__node, node);
    if (b->root && type != JSON_BOOL && type != JSON_OBJECT)
        grammar__refuse(b, MLA_ERR_CONFIG, n, NULL, "not a schema, which is an object, true or false", NULL);
    if (n >= GRAMMAR__NODES) grammar__refuse(b, MLA_ERR_UNSUPPORTED, n, NULL, "more than 65,536 schemas", NULL);
    return n;
}

static int grammar__types_named(grammar__build *b, uint32_t node, const json_value *names) {
    static const char *const types[] = {"string", "number", "integer", "boolean", "null", "object", "array"};
    const int list = json_typeof(names) == JSON_ARRAY;
    int all = 0, known;
    for (size_t i = 0; i < (list ? json_count(names) : 1) && !b->code; i++) {
        const char *name = json_string(list ? json_at(names, i) : names, NULL);
        for (known = 0; known < 7; known++)
            if (name && !strcmp(name, types[known])) break;
        if (known == 7) grammar__refuse(b, MLA_ERR_CONFIG, node, "type", "not one of JSON schema's: ", name);
        all |= 1 << known;
    }
    if (!all) grammar__refuse(b, MLA_ERR_CONFIG, node, "type", "none", NULL);
    return all & GRAMMAR__NUMBER ? all & ~GRAMMAR__INTEGER : all;
}

static uint32_t grammar__count(grammar__build *b, uint32_t node, const json_value *const *key, int k, uint32_t absent) {
    int64_t n = 0;
    if (!key[k]) return absent;
    if (!json_integer(key[k], &n) || n < 0 || n > INT32_MAX)
        grammar__refuse(b, MLA_ERR_CONFIG, node, grammar__keys[k], "not an integer of 0 to 2147483647", NULL);
    return (uint32_t)n;
}

/* ---- >>compiler -------------------------------------------------------------------------------------------------- */
/* Schemas become nodes in the order in which they are met, without recursion; those of $ref once for each place. */

/* What pointer, "#" or "#/..", refers to; NULL: nothing. */
static const json_value *grammar__resolve(const json_value *at, const char *pointer) {
    char part[256], *end;
    if (*pointer++ != '#') return NULL;
    while (at && *pointer) {
        size_t n = 0;
        if (*pointer++ != '/') return NULL;
        for (; *pointer && *pointer != '/' && n < sizeof part - 1; pointer++) {
            char c = *pointer;
            if (c == '~' && (pointer[1] == '0' || pointer[1] == '1')) c = *++pointer == '0' ? '~' : '/';
            part[n++] = c;
        }
        part[n] = 0;
        if (json_typeof(at) == JSON_ARRAY)
            at = json_at(at, *part >= '0' && *part <= '9' ? strtoul(part, &end, 10) : SIZE_MAX);
        else at = json_get(at, part);
    }
    return at;
}

static uint32_t grammar__refer(grammar__build *b, uint32_t node, const json_value *ref) {
    const char *pointer = json_string(ref, NULL);
    const json_value *schema = pointer ? grammar__resolve(b->root, pointer) : NULL;
    if (!schema) {
        grammar__refuse(b, MLA_ERR_UNSUPPORTED, node, "$ref", "not a place in this schema: ", pointer);
        return GRAMMAR__ANY;
    }
    for (size_t i = 0; i < b->referred.n; i++)
        if (b->origins.items[b->referred.items[i]].schema == schema) return b->referred.items[i];
    const uint32_t n = grammar__node_of(b, schema, GRAMMAR__NONE, pointer, NULL, GRAMMAR__NONE);
    if (n != GRAMMAR__ANY) GRAMMAR__ADD(b, b->referred, uint32_t, n);
    return n;
}

static void grammar__compile_join(grammar__build *b, uint32_t node, const json_value *const *key) {
    const int k = key[GRAMMAR__REF]      ? GRAMMAR__REF
                  : key[GRAMMAR__ANY_OF] ? GRAMMAR__ANY_OF
                  : key[GRAMMAR__ONE_OF] ? GRAMMAR__ONE_OF
                                         : GRAMMAR__ALL_OF;
    const size_t n = json_count(key[k]), first = b->g->lists.n;
    if (k == GRAMMAR__REF) {
        const uint32_t target = grammar__refer(b, node, key[k]);
        GRAMMAR__ADD(b, b->g->lists, uint32_t, target);
    } else if (json_typeof(key[k]) != JSON_ARRAY || !n)
        grammar__refuse(b, MLA_ERR_CONFIG, node, grammar__keys[k], "not a list with an entry", NULL);
    else if (n > (k == GRAMMAR__ALL_OF ? 1 : GRAMMAR_READINGS))
        grammar__refuse(b, MLA_ERR_UNSUPPORTED, node, grammar__keys[k], "more entries than are supported", NULL);
    else
        for (size_t i = 0; i < n && !b->code; i++) {
            const uint32_t entry = grammar__node_of(b, json_at(key[k], i), node, grammar__keys[k], NULL, i);
            GRAMMAR__ADD(b, b->g->lists, uint32_t, entry);
        }
    grammar__node *v = &b->g->nodes.items[node];
    v->join = k == GRAMMAR__ONE_OF ? 2 : 1, v->entry = (uint32_t)first,
    v->n_entries = (uint32_t)(b->g->lists.n - first);
}

static void grammar__compile_constants(grammar__build *b, uint32_t node, const json_value *const *key, int types) {
    const int k = key[GRAMMAR__CONST] ? GRAMMAR__CONST : GRAMMAR__ENUM;
    grammar__node *v = &b->g->nodes.items[node];
    v->literal = 1, v->text = (uint32_t)b->g->texts.n;
    if (k == GRAMMAR__ENUM && json_typeof(key[k]) != JSON_ARRAY)
        grammar__refuse(b, MLA_ERR_CONFIG, node, "enum", "not a list", NULL);
    for (size_t i = 0; i < (k == GRAMMAR__CONST ? 1 : json_count(key[k])) && !b->code; i++) {
        const json_value *c = k == GRAMMAR__CONST ? key[k] : json_at(key[k], i);
        const size_t at = b->g->bytes.n;
        if (!(types & grammar__type_of(c))) continue;
        v->types = (uint8_t)(v->types | grammar__type_of(c));
        grammar__put_value(b, c);
        grammar__add_text(b, at, 0);
    }
    v->n_texts = (uint32_t)(b->g->texts.n - v->text);
    if (!v->n_texts) grammar__refuse(b, MLA_ERR_CONFIG, node, grammar__keys[k], "no value of that type", NULL);
}

static void grammar__add_member(grammar__build *b, uint32_t node, const char *name, uint32_t value, uint32_t required) {
    grammar__member m;
    const size_t at = b->g->bytes.n;
    const uint32_t place = (uint32_t)b->g->members.n - b->g->nodes.items[node].member;
    if (place == GRAMMAR__MEMBERS) grammar__refuse(b, MLA_ERR_UNSUPPORTED, node, NULL, "more than 4096 members", NULL);
    m.value = value, m.required = required;
    GRAMMAR__ADD(b, b->g->members, grammar__member, m);
    if (!name) return;
    grammar__put_string(b, name, strlen(name));
    grammar__add_text(b, at, place);
}

/* A name of required that is in properties marks its member, another becomes one, of node extra (NONE: it must not);
   then each member learns which is the next one that is required. */
static void grammar__require(grammar__build *b, uint32_t node, const json_value *const *key, uint32_t extra) {
    const json_value *names = key[GRAMMAR__REQUIRED], *properties = key[GRAMMAR__PROPERTIES];
    const uint32_t first = b->g->nodes.items[node].member;
    if (names && json_typeof(names) != JSON_ARRAY)
        grammar__refuse(b, MLA_ERR_CONFIG, node, "required", "not a list", NULL);
    if (json_count(names) > GRAMMAR__MEMBERS)
        grammar__refuse(b, MLA_ERR_UNSUPPORTED, node, "required", "more than 4096 members", NULL);
    for (size_t i = 0, j; i < json_count(names) && !b->code; i++) {
        const char *name = json_string(json_at(names, i), NULL);
        const json_value *known = name ? json_get(properties, name) : NULL;
        for (j = 0; j < i && name && !known; j++)
            if (!strcmp(json_string(json_at(names, j), NULL), name)) break;
        if (!name) grammar__refuse(b, MLA_ERR_CONFIG, node, "required", "not a list of names", NULL);
        else if (known) b->g->members.items[first + json_place(known)].required = 1;
        else if (extra == GRAMMAR__NONE)
            grammar__refuse(b, MLA_ERR_CONFIG, node, "required", "additionalProperties forbids ", name);
        else if (j == i) grammar__add_member(b, node, name, extra, 1);
    }
    const uint32_t n = (uint32_t)b->g->members.n - first;
    grammar__add_member(b, node, NULL, GRAMMAR__ANY, 1);
    if (b->code) return;
    grammar__member *all = b->g->members.items + first;
    for (uint32_t i = n + 1; i-- > 0;) all[i].required = all[i].required ? i : all[i + 1].required;
    b->g->nodes.items[node].n_members = n;
}

static void grammar__compile_object(grammar__build *b, uint32_t node, const json_value *const *key) {
    const json_value *properties = key[GRAMMAR__PROPERTIES], *other = key[GRAMMAR__ADDITIONAL];
    uint32_t rest = properties ? GRAMMAR__NONE : GRAMMAR__ANY, extra = GRAMMAR__ANY;
    if (other && json_typeof(other) == JSON_BOOL && !json_bool(other)) rest = extra = GRAMMAR__NONE;
    else if (other) rest = extra = grammar__node_of(b, other, node, "additionalProperties", NULL, GRAMMAR__NONE);
    if (properties && json_typeof(properties) != JSON_OBJECT)
        grammar__refuse(b, MLA_ERR_CONFIG, node, "properties", "not an object", NULL);
    if (b->code) return;
    b->g->nodes.items[node].other = rest;
    b->g->nodes.items[node].text = (uint32_t)b->g->texts.n;
    b->g->nodes.items[node].member = (uint32_t)b->g->members.n;
    const json_value **order = grammar__in_order(b, properties);
    for (size_t i = 0; order && i < json_count(properties) && !b->code; i++) {
        const char *name = json_key(order[i]);
        grammar__add_member(b, node, name, grammar__node_of(b, order[i], node, "properties", name, GRAMMAR__NONE), 0);
    }
    free(order);
    grammar__require(b, node, key, extra);
    b->g->nodes.items[node].n_texts = (uint32_t)b->g->texts.n - b->g->nodes.items[node].text;
}

static int64_t grammar__ten(int n) {
    int64_t power = 1;
    while (n-- > 0) power *= 10;
    return power;
}

/* Of the multiples of 10^-scale the least (low), or the greatest, that a bound allows, times 10^scale. */
static int64_t grammar__bound(const json_value *v, int scale, int low, int open) {
    const int64_t unit = grammar__ten(scale);
    const double x = json_number(v);
    int64_t n;
    if (fabs(x) * (double)unit >= 1e18) return x > 0 ? GRAMMAR__LIMIT + low : -GRAMMAR__LIMIT - !low;
    if (json_integer(v, &n)) return n * unit + (!open ? 0 : low ? 1 : -1);
    n = (int64_t)(x * (double)unit) + (low ? -2 : 2); /* compared as readers will: what the text of n is as a double */
    if (low)
        for (; (double)n / (double)unit < x || (open && (double)n / (double)unit <= x);) n++;
    else
        for (; (double)n / (double)unit > x || (open && (double)n / (double)unit >= x);) n--;
    return n;
}

static void grammar__compile_number(grammar__build *b, uint32_t node, const json_value *const *key, int types) {
    grammar__node *v = &b->g->nodes.items[node];
    v->low = -GRAMMAR__LIMIT, v->high = GRAMMAR__LIMIT, v->scale = types & GRAMMAR__NUMBER ? 6 : 0;
    v->bounded = (types & GRAMMAR__INTEGER) != 0;
    for (int k = GRAMMAR__MINIMUM; k <= GRAMMAR__BELOW; k++) {
        const double x = fabs(json_number(key[k]));
        if (!key[k]) continue;
        if (json_typeof(key[k]) != JSON_NUMBER)
            grammar__refuse(b, MLA_ERR_CONFIG, node, grammar__keys[k], "not a number", NULL);
        while (v->scale > 0 && x < 1e18 && x * (double)grammar__ten(v->scale) >= 1e18) v->scale--;
        v->bounded = 1;
    }
    for (int k = GRAMMAR__MINIMUM; k <= GRAMMAR__BELOW; k++) {
        const int low = k == GRAMMAR__MINIMUM || k == GRAMMAR__ABOVE;
        if (!key[k]) continue;
        const int64_t n = grammar__bound(key[k], v->scale, low, k >= GRAMMAR__ABOVE);
        if (low && n > v->low) v->low = n;
        if (!low && n < v->high) v->high = n;
    }
    if (v->low > v->high) grammar__refuse(b, MLA_ERR_CONFIG, node, NULL, "no number is within the bounds", NULL);
}

static void grammar__compile_value(grammar__build *b, uint32_t node, const json_value *const *key, int types) {
    static const uint8_t of[] = {GRAMMAR__OBJECT, GRAMMAR__ARRAY, GRAMMAR__STRING, GRAMMAR__NUMBER},
                         until[] = {GRAMMAR__ITEMS, GRAMMAR__MIN_LENGTH, GRAMMAR__MINIMUM, GRAMMAR__KEYS};
    for (int k = GRAMMAR__PROPERTIES, i = 0; k < GRAMMAR__KEYS && !key[GRAMMAR__TYPE]; k++) {
        i += k == until[i];
        types |= key[k] ? of[i] : 0;
    }
    if (!types) types = 127 & ~GRAMMAR__INTEGER;
    grammar__compile_object(b, node, key);
    grammar__compile_number(b, node, key, types);
    const json_value *items = key[GRAMMAR__ITEMS], *unique = key[GRAMMAR__UNIQUE];
    const uint32_t item = items ? grammar__node_of(b, items, node, "items", NULL, GRAMMAR__NONE) : GRAMMAR__ANY;
    if (unique && (json_typeof(unique) != JSON_BOOL || json_bool(unique)))
        grammar__refuse(b, MLA_ERR_UNSUPPORTED, node, "uniqueItems", "not supported", NULL);
    if (b->code) return;
    grammar__node *v = &b->g->nodes.items[node];
    v->types = (uint8_t)types, v->items = item;
    v->min_items = grammar__count(b, node, key, GRAMMAR__MIN_ITEMS, 0);
    v->max_items = grammar__count(b, node, key, GRAMMAR__MAX_ITEMS, GRAMMAR__NONE);
    v->min_length = grammar__count(b, node, key, GRAMMAR__MIN_LENGTH, 0);
    v->max_length = grammar__count(b, node, key, GRAMMAR__MAX_LENGTH, GRAMMAR__NONE);
    if (v->min_items > v->max_items) grammar__refuse(b, MLA_ERR_CONFIG, node, "minItems", "above maxItems", NULL);
    if (v->min_length > v->max_length) grammar__refuse(b, MLA_ERR_CONFIG, node, "minLength", "above maxLength", NULL);
}

static void grammar__compile(grammar__build *b, uint32_t node) {
    const json_value *key[GRAMMAR__KEYS], *schema = b->origins.items[node].schema;
    memset(key, 0, sizeof key);
    if (json_typeof(schema) == JSON_BOOL) b->g->nodes.items[node].join = 1; /* false: a choice of nothing */
    if (json_typeof(schema) == JSON_BOOL) return;
    grammar__read_keys(b, node, key);
    const int types = key[GRAMMAR__TYPE] ? grammar__types_named(b, node, key[GRAMMAR__TYPE]) : 0;
    if (b->code) return;
    if (key[GRAMMAR__REF] || key[GRAMMAR__ANY_OF] || key[GRAMMAR__ONE_OF] || key[GRAMMAR__ALL_OF])
        grammar__compile_join(b, node, key);
    else if (key[GRAMMAR__CONST] || key[GRAMMAR__ENUM]) grammar__compile_constants(b, node, key, types ? types : 127);
    else grammar__compile_value(b, node, key, types);
}

/* ---- >>alternatives ---------------------------------------------------------------------------------------------- */

static int grammar__by_bytes(const void *x, const void *y) {
    const grammar__text *a = (const grammar__text *)x, *b = (const grammar__text *)y;
    const int order = memcmp(a->bytes, b->bytes, a->n < b->n ? a->n : b->n);
    return order ? order : (a->n > b->n) - (a->n < b->n);
}

/* The leaves of a node: what its entries, and theirs, come to. */
static void grammar__find_leaves(grammar__build *b, uint32_t node) {
    grammar *g = b->g;
    const uint32_t first = (uint32_t)g->lists.n;
    int hops = 0;
    b->stack.n = 0;
    GRAMMAR__ADD(b, b->stack, uint32_t, node);
    while (b->stack.n && !b->code) {
        const uint32_t n = b->stack.items[--b->stack.n];
        const grammar__node *v = &g->nodes.items[n];
        if (b->seen[n] == node) continue;
        b->seen[n] = node;
        if (!v->join) GRAMMAR__ADD(b, g->lists, uint32_t, n);
        else if (v->leaf)
            for (uint32_t i = v->n_leaves; i-- > 0;) GRAMMAR__ADD(b, b->stack, uint32_t, g->lists.items[v->leaf + i]);
        else
            for (uint32_t i = v->n_entries; i-- > 0;) GRAMMAR__ADD(b, b->stack, uint32_t, g->lists.items[v->entry + i]);
        if (g->lists.n - first > GRAMMAR_READINGS || hops++ > GRAMMAR__HOPS)
            grammar__refuse(b, MLA_ERR_UNSUPPORTED, node, NULL, "a choice of more than 64, or too many references",
                            NULL);
    }
    g->nodes.items[node].leaf = first, g->nodes.items[node].n_leaves = (uint32_t)g->lists.n - first;
}

/* How deep the deepest of a node's constants nests. */
static int grammar__constant_height(const grammar *g, const grammar__node *v) {
    int most = 0;
    for (uint32_t i = v->text; i < v->text + v->n_texts; i++) {
        const grammar__text *t = &g->texts.items[i];
        int depth = 0, quoted = 0;
        for (uint32_t k = 0; k < t->n; k++) {
            if (t->bytes[k] == '"') quoted = !quoted;
            else if (quoted) k += t->bytes[k] == '\\';
            else if (t->bytes[k] == '{' || t->bytes[k] == '[') most = ++depth > most ? depth : most;
            else if (t->bytes[k] == '}' || t->bytes[k] == ']') depth--;
        }
    }
    return most;
}
/* Least depths, which grow from pass to pass; constants need what the deepest does. */
static void grammar__measure(grammar *g) {
    for (size_t i = 0; i < g->nodes.n; i++) g->nodes.items[i].height = GRAMMAR__NEVER;
    for (int pass = 0; pass < GRAMMAR_DEPTH + 2; pass++)
        for (size_t i = 0; i < g->nodes.n; i++) {
            grammar__node *v = &g->nodes.items[i];
            int height = GRAMMAR__NEVER, object = 0;
            for (uint32_t k = 0; k < v->n_leaves && v->join; k++) {
                const int h = g->nodes.items[g->lists.items[v->leaf + k]].height;
                if (h < height) height = h;
            }
            const grammar__member *m = g->members.items + v->member;
            for (uint32_t k = v->join || v->literal ? 0 : m->required; k < v->n_members; k = m[k + 1].required) {
                const int h = g->nodes.items[m[k].value].height;
                if (h > object) object = h;
            }
            const int array = v->min_items ? g->nodes.items[v->items].height : 0;
            v->object_height = (uint8_t)(object < GRAMMAR_DEPTH ? object + 1 : GRAMMAR__NEVER);
            v->array_height = (uint8_t)(array < GRAMMAR_DEPTH ? array + 1 : GRAMMAR__NEVER);
            if (!v->join) {
                if (v->types & GRAMMAR__OBJECT) height = v->object_height;
                if (v->types & GRAMMAR__ARRAY && v->array_height < height) height = v->array_height;
                if (v->types & ~(GRAMMAR__OBJECT | GRAMMAR__ARRAY)) height = 0;
                if (v->literal) height = grammar__constant_height(g, v);
            }
            v->height = (uint8_t)height;
        }
}

/* 1: texts i of x and j of y, or later ones, are the same (or it takes too long to say). */
static int grammar__shared(grammar__build *b, const grammar__node *x, const grammar__node *y, uint32_t *i,
                           uint32_t *j) {
    const grammar__text *texts = b->g->texts.items;
    while (*i < x->n_texts && *j < y->n_texts) {
        const int order = grammar__by_bytes(&texts[x->text + *i], &texts[y->text + *j]);
        if (!order || b->work++ > GRAMMAR__WORK) return 1;
        if (order < 0) ++*i;
        else ++*j;
    }
    return 0;
}

static int grammar__constants_differ(grammar__build *b, const grammar__node *x, const grammar__node *y) {
    const grammar *g = b->g;
    for (uint32_t i = 0; i < x->n_leaves; i++)
        for (uint32_t j = 0, a = 0, c = 0; j < y->n_leaves; j++, a = c = 0) {
            const grammar__node *l = &g->nodes.items[g->lists.items[x->leaf + i]];
            const grammar__node *m = &g->nodes.items[g->lists.items[y->leaf + j]];
            if (!l->literal || !m->literal || grammar__shared(b, l, m, &a, &c)) return 0;
        }
    return 1;
}

/* Can no value be of both leaves, whatever they do not say? */
static int grammar__apart(grammar__build *b, const grammar__node *x, const grammar__node *y) {
    const grammar *g = b->g;
    const int whole = GRAMMAR__NUMBER | GRAMMAR__INTEGER;
    const int common =
        (x->types & whole ? x->types | whole : x->types) & (y->types & whole ? y->types | whole : y->types);
    if (!common) return 1;
    if (x->literal || y->literal) return x->literal && y->literal && grammar__constants_differ(b, x, y);
    for (uint32_t i = 0, j = 0; common == GRAMMAR__OBJECT && grammar__shared(b, x, y, &i, &j); i++) {
        const uint32_t k = g->texts.items[x->text + i].member, l = g->texts.items[y->text + j].member;
        const grammar__member *p = &g->members.items[x->member + k], *q = &g->members.items[y->member + l];
        if (p->required == k && q->required == l &&
            grammar__constants_differ(b, &g->nodes.items[p->value], &g->nodes.items[q->value]))
            return 1;
    }
    return 0;
}

static void grammar__check_one_of(grammar__build *b, uint32_t node) {
    const grammar *g = b->g;
    const grammar__node *v = &g->nodes.items[node];
    for (uint32_t i = 0; i < v->n_entries; i++)
        for (uint32_t j = i + 1; j < v->n_entries && !b->code; j++) {
            const grammar__node *x = &g->nodes.items[g->lists.items[v->entry + i]];
            const grammar__node *y = &g->nodes.items[g->lists.items[v->entry + j]];
            for (uint32_t k = 0; k < x->n_leaves * y->n_leaves && !b->code; k++)
                if (!grammar__apart(b, &g->nodes.items[g->lists.items[x->leaf + k / y->n_leaves]],
                                    &g->nodes.items[g->lists.items[y->leaf + k % y->n_leaves]]))
                    grammar__refuse(b, MLA_ERR_UNSUPPORTED, node, "oneOf",
                                    "not supported where two entries can hold at once", NULL);
        }
}

void grammar_destroy(grammar *g) {
    if (!g) return;
    free(g->nodes.items), free(g->members.items), free(g->texts.items), free(g->lists.items), free(g->bytes.items);
    free(g);
}

static void grammar__finish(grammar__build *b) {
    grammar *g = b->g;
    const size_t n = g->nodes.n;
    b->seen = (uint32_t *)malloc(n * sizeof *b->seen);
    if (!b->seen) b->code = grammar__fail(b->err, MLA_ERR_MEMORY, "schema: out of memory");
    if (b->code) return;
    memset(b->seen, 0xff, n * sizeof *b->seen);
    for (size_t i = 0; i < g->texts.n; i++) g->texts.items[i].bytes = g->bytes.items + g->texts.items[i].at;
    for (size_t i = 0; i < n; i++)
        if (g->nodes.items[i].n_texts > 1)
            qsort(g->texts.items + g->nodes.items[i].text, g->nodes.items[i].n_texts, sizeof *g->texts.items,
                  grammar__by_bytes);
    for (size_t i = n; i-- > 0 && !b->code;) grammar__find_leaves(b, (uint32_t)i);
    if (b->code) return;
    grammar__measure(g);
    for (size_t i = 0; i < n; i++)
        if (g->nodes.items[i].join == 2) grammar__check_one_of(b, (uint32_t)i);
    if (g->nodes.items[g->root].height > GRAMMAR_DEPTH)
        grammar__refuse(b, MLA_ERR_CONFIG, g->root, NULL, "nothing fits it, or only what nests more than 64 deep",
                        NULL);
}

static void grammar__add_words(grammar__build *b) {
    static const char *const words[] = {"false", "null", "true"};
    grammar__node *v = &b->g->nodes.items[GRAMMAR__WORDS];
    v->literal = 1, v->types = GRAMMAR__BOOLEAN | GRAMMAR__NULL, v->text = (uint32_t)b->g->texts.n, v->n_texts = 3;
    for (int i = 0; i < 3; i++) {
        const size_t at = b->g->bytes.n;
        grammar__put(b, words[i], strlen(words[i]));
        grammar__add_text(b, at, 0);
    }
}

mla_result grammar_create(grammar **out, const json_value *schema, mla_error *err) {
    grammar__build b;
    if (out) *out = NULL;
    if (!out) return grammar__fail(err, MLA_ERR_ARGUMENT, "grammar_create: out is NULL");
    memset(&b, 0, sizeof b);
    b.err = err, b.g = (grammar *)calloc(1, sizeof *b.g);
    if (!b.g) return grammar__fail(err, MLA_ERR_MEMORY, "schema: out of memory");
    grammar__string_table(b.g->next);
    GRAMMAR__ADD(&b, b.g->lists, uint32_t, 0); /* so that no leaves are the first ones */
    for (int i = 0; i < 2; i++) grammar__node_of(&b, NULL, GRAMMAR__NONE, "#", NULL, GRAMMAR__NONE);
    if (!b.code) grammar__compile(&b, GRAMMAR__ANY), grammar__add_words(&b);
    b.root = schema;
    if (schema) b.g->root = grammar__node_of(&b, schema, GRAMMAR__NONE, "#", NULL, GRAMMAR__NONE);
    if (b.g->root) GRAMMAR__ADD(&b, b.referred, uint32_t, b.g->root);
    for (uint32_t i = GRAMMAR__WORDS + 1; i < b.g->nodes.n && !b.code; i++) grammar__compile(&b, i);
    if (!schema && !b.code) { /* any object: any value, of one type */
        grammar__node object = b.g->nodes.items[GRAMMAR__ANY];
        object.types = GRAMMAR__OBJECT, b.g->root = (uint32_t)b.g->nodes.n;
        GRAMMAR__ADD(&b, b.g->nodes, grammar__node, object);
        GRAMMAR__ADD(&b, b.origins, grammar__origin, b.origins.items[0]);
    }
    if (!b.code) grammar__finish(&b);
    free(b.origins.items), free(b.referred.items), free(b.stack.items), free(b.seen);
    if (b.code) grammar_destroy(b.g);
    else *out = b.g;
    return b.code;
}

mla_result grammar_of_format(grammar **out, const json_value *format, mla_error *err) {
    const json_value *named = json_get(format, "json_schema"), *schema = json_get(named, "schema");
    const char *type = format ? json_string(json_get(format, "type"), NULL) : "text";
    if (out) *out = NULL;
    if (!type) return grammar__fail(err, MLA_ERR_CONFIG, "response_format.type: not a string");
    if (!strcmp(type, "text")) return MLA_OK;
    if (!strcmp(type, "json_object")) return grammar_create(out, NULL, err);
    if (strcmp(type, "json_schema"))
        return grammar__fail(err, MLA_ERR_CONFIG, "response_format.type: %.40s is not text, json_object or json_schema",
                             type);
    if (!schema) return grammar__fail(err, MLA_ERR_CONFIG, "response_format.json_schema.schema: missing");
    return grammar_create(out, schema, err);
}

/* ---- >>numbers --------------------------------------------------------------------------------------------------- */
/* The machine is a set of stacks of frames, all that what is written can mean. A frame never changes: what comes after
   it is another one, and frames below are shared. A number's frame has its digits in a (and, upper half, b), how many
   of them there are in this part in c, and in d whether it is negative. */

/* The value is complete; one of the node is next (here and where else white space may be, c is how much there was);
   constant: texts a..b of the node begin with the c bytes that are written; quoted: a characters so far, d: where in the
   table; key: d likewise, with FREE if it may be no member's, and among texts a..b, of which c bytes are written. */
enum { GRAMMAR__END, GRAMMAR__VALUE, GRAMMAR__CONSTANT, GRAMMAR__QUOTED, GRAMMAR__KEY };
/* An object: a is the first member that may come, b the next value's node. An array: a items. */
enum { GRAMMAR__OPEN = GRAMMAR__KEY + 1, GRAMMAR__COLON, GRAMMAR__AFTER, GRAMMAR__COMMA, GRAMMAR__BEFORE_END };
enum { GRAMMAR__LIST_OPEN = GRAMMAR__BEFORE_END + 1, GRAMMAR__LIST_AFTER, GRAMMAR__LIST_END };
enum { GRAMMAR__MINUS = GRAMMAR__LIST_END + 1, GRAMMAR__ZERO, GRAMMAR__WHOLE, GRAMMAR__POINT, GRAMMAR__FRACTION };
enum { GRAMMAR__E = GRAMMAR__FRACTION + 1, GRAMMAR__E_SIGN, GRAMMAR__EXPONENT };

/* Can the digits become a number within the bounds (or, done: are they one)? */
static int grammar__in_bounds(const grammar__node *v, const grammar_frame *f, int done) {
    const int64_t low = f->d ? -v->high : v->low, high = f->d ? -v->low : v->high, least = f->d && low < 1 ? 1 : low;
    const int behind = f->state == GRAMMAR__POINT || f->state == GRAMMAR__FRACTION;
    int64_t unit = grammar__ten(behind ? v->scale - (int)f->c : v->scale);
    const int64_t digits = (int64_t)((uint64_t)f->b << 32 | f->a);
    if (f->state == GRAMMAR__MINUS) return high >= 1;
    for (;; unit *= 10) { /* all that has these digits, and zero, one, ... more before the point */
        if (digits > high / unit) return 0;
        if (done ? digits * unit >= least : digits * unit + (unit - 1) >= least) return 1;
        if (done || f->state != GRAMMAR__WHOLE || unit > GRAMMAR__LIMIT / 10) return 0;
    }
}

static int grammar__number_done(const grammar__node *v, const grammar_frame *f) {
    if (f->state != GRAMMAR__ZERO && f->state != GRAMMAR__WHOLE && f->state != GRAMMAR__FRACTION &&
        f->state != GRAMMAR__EXPONENT)
        return 0;
    return !v->bounded || grammar__in_bounds(v, f, 1);
}

/* Takes one more byte; 0: it does not belong to the number. */
static int grammar__number(const grammar__node *v, grammar_frame *f, int byte) {
    const int whole = f->state == GRAMMAR__ZERO || f->state == GRAMMAR__WHOLE, real = (v->types & GRAMMAR__NUMBER) != 0;
    if (byte >= '0' && byte <= '9') {
        static const uint8_t next[] = {GRAMMAR__WHOLE,    0,
                                       GRAMMAR__WHOLE,    GRAMMAR__FRACTION,
                                       GRAMMAR__FRACTION, GRAMMAR__EXPONENT,
                                       GRAMMAR__EXPONENT, GRAMMAR__EXPONENT};
        const uint32_t most = f->state >= GRAMMAR__E ? 2 : f->state < GRAMMAR__POINT || !v->bounded ? 18 : v->scale;
        const uint64_t digits = ((uint64_t)f->b << 32 | f->a) * 10 + (uint64_t)(byte - '0');
        if (f->state == GRAMMAR__ZERO || f->c >= most) return 0;
        f->state = f->state == GRAMMAR__MINUS && byte == '0' ? GRAMMAR__ZERO : next[f->state - GRAMMAR__MINUS];
        f->c++;
        if (v->bounded) f->a = (uint32_t)digits, f->b = (uint32_t)(digits >> 32);
    } else if (byte == '.' && whole && real && v->scale > 0) f->state = GRAMMAR__POINT, f->c = 0;
    else if ((byte | 32) == 'e' && (whole || f->state == GRAMMAR__FRACTION) && real && !v->bounded)
        f->state = GRAMMAR__E, f->c = 0;
    else if ((byte == '+' || byte == '-') && f->state == GRAMMAR__E) f->state = GRAMMAR__E_SIGN;
    else return 0;
    return !v->bounded || grammar__in_bounds(v, f, 0);
}

/* ---- >>machine --------------------------------------------------------------------------------------------------- */

enum { GRAMMAR__ROOM = 2048, GRAMMAR__FREE = 256 }; /* frames at work; of a key's d: it may be one of no member */

typedef struct grammar__run {
    const grammar *g;
    unsigned n, mark, n_tops; /* frames; those before this byte; stacks after it, by their upmost frames */
    uint16_t *tops;
    grammar_frame frames[GRAMMAR__ROOM];
} grammar__run;

static unsigned grammar__push(grammar__run *r, const grammar_frame *f) { /* GRAMMAR__ROOM: there is no room */
    for (unsigned i = r->mark; i < r->n; i++)
        if (!memcmp(&r->frames[i], f, sizeof *f)) return i;
    if (r->n < GRAMMAR__ROOM) r->frames[r->n++] = *f;
    else return GRAMMAR__ROOM;
    return r->n - 1;
}

static void grammar__to(grammar__run *r, unsigned top) {
    for (unsigned i = 0; i < r->n_tops; i++)
        if (r->tops[i] == top) return;
    if (top < GRAMMAR__ROOM && r->n_tops < GRAMMAR_READINGS) r->tops[r->n_tops++] = (uint16_t)top;
}

static void grammar__go(grammar__run *r, unsigned at, const grammar_frame *f) { /* what is at `at` becomes f */
    grammar__to(r, memcmp(&r->frames[at], f, sizeof *f) ? grammar__push(r, f) : at);
}

/* A value of node is next, and then f. */
static void grammar__go_value(grammar__run *r, const grammar_frame *f, uint32_t node) {
    grammar_frame value;
    const unsigned up = grammar__push(r, f);
    memset(&value, 0, sizeof value);
    value.up = (uint16_t)up, value.state = GRAMMAR__VALUE, value.depth = f->depth, value.node = node;
    if (up < GRAMMAR__ROOM) grammar__to(r, grammar__push(r, &value));
}

static int grammar__space(grammar_frame *f, int byte) { /* 1: byte is white space, and there may be some more */
    if (byte == ' ' && f->c == 0) f->c = 1;
    else if (byte == '\n' && f->c == 0) f->c = 2;
    else if ((byte == ' ' || byte == '\t') && f->c >= 2 && f->c < 2 + 4u * f->depth) f->c++;
    else return 0;
    return 1;
}

/* Of texts a..b, sorted, with the same first n bytes, those whose next is byte: 0 if there are none. */
static int grammar__narrow(const grammar__text *texts, uint32_t *a, uint32_t *b, uint32_t n, int byte) {
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

static int grammar__fits(const grammar *g, int depth, uint32_t node) {
    return node != GRAMMAR__NONE && depth + g->nodes.items[node].height <= GRAMMAR_DEPTH;
}

/* A value of a leaf begins with byte, above frame up. */
static void grammar__begin(grammar__run *r, unsigned up, uint32_t leaf, int depth, int byte) {
    const grammar__node *v = &r->g->nodes.items[leaf];
    grammar_frame f;
    memset(&f, 0, sizeof f);
    f.up = (uint16_t)up, f.depth = (uint8_t)depth, f.node = leaf;
    if (v->literal || byte == 't' || byte == 'f' || byte == 'n') { /* the words are constants, too */
        f.state = GRAMMAR__CONSTANT, f.c = 1, f.a = v->text, f.b = v->text + v->n_texts;
        if (v->literal && depth + v->height > GRAMMAR_DEPTH) return;
        if (!v->literal) {
            if (!(v->types & (byte == 'n' ? GRAMMAR__NULL : GRAMMAR__BOOLEAN))) return;
            f.node = GRAMMAR__WORDS, f.a = r->g->nodes.items[f.node].text, f.b = f.a + 3;
        }
        if (!grammar__narrow(r->g->texts.items, &f.a, &f.b, 0, byte)) return;
    } else if (byte == '"' && v->types & GRAMMAR__STRING) f.state = GRAMMAR__QUOTED, f.d = GRAMMAR__TEXT;
    else if (byte == '{' && v->types & GRAMMAR__OBJECT && depth + v->object_height <= GRAMMAR_DEPTH)
        f.state = GRAMMAR__OPEN, f.depth++;
    else if (byte == '[' && v->types & GRAMMAR__ARRAY && depth + v->array_height <= GRAMMAR_DEPTH)
        f.state = GRAMMAR__LIST_OPEN, f.depth++;
    else if (v->types & (GRAMMAR__NUMBER | GRAMMAR__INTEGER)) {
        f.state = GRAMMAR__MINUS, f.d = byte == '-';
        if (f.d ? v->bounded && !grammar__in_bounds(v, &f, 0) : !grammar__number(v, &f, byte)) return;
    } else return;
    grammar__to(r, grammar__push(r, &f));
}

/* Is there a member with one of the keys a..b that object f may have next? */
static int grammar__has_member(const grammar *g, const grammar_frame *f, uint32_t a, uint32_t b) {
    const grammar__member *members = g->members.items + g->nodes.items[f->node].member;
    for (; a < b; a++) {
        const uint32_t m = g->texts.items[a].member;
        if (m >= f->a && m <= members[f->a].required && grammar__fits(g, f->depth, members[m].value)) return 1;
    }
    return 0;
}

static void grammar__key(grammar__run *r, unsigned at, int byte) {
    const grammar *g = r->g;
    const grammar__node *v = &g->nodes.items[r->frames[at].node];
    const int state = r->frames[at].d & 255, other = (r->frames[at].d & GRAMMAR__FREE) != 0;
    const int next = state == GRAMMAR__TEXT && byte == '\\' ? GRAMMAR__KEY_ESCAPE : g->next[state][byte];
    grammar_frame f = r->frames[at], object = r->frames[f.up];
    const int known = grammar__narrow(g->texts.items, &f.a, &f.b, f.c, byte);
    if (!next || (!grammar__has_member(g, &object, f.a, f.b) && (!other || (next == GRAMMAR__CLOSED && known)))) return;
    f.d = (uint32_t)next | (f.d & GRAMMAR__FREE);
    if (known) f.c++;
    else f.a = f.b = f.c = 0; /* as other keys are, however they began */
    if (next != GRAMMAR__CLOSED) {
        grammar__go(r, at, &f);
        return;
    }
    const uint32_t m = known ? g->texts.items[f.a].member : v->n_members;
    object.a = known ? m + 1 : m, object.b = known ? g->members.items[v->member + m].value : v->other;
    object.state = GRAMMAR__COLON, object.c = 0;
    grammar__to(r, grammar__push(r, &object));
}

static void grammar__object(grammar__run *r, unsigned at, int byte) {
    const grammar *g = r->g;
    grammar_frame f = r->frames[at], key;
    const grammar__node *v = &g->nodes.items[f.node];
    const int ends = g->members.items[v->member + f.a].required == v->n_members, opens = f.state == GRAMMAR__OPEN;
    const int other = ends && grammar__fits(g, f.depth, v->other);
    const int more = other || (f.state != GRAMMAR__COLON && grammar__has_member(g, &f, v->text, v->text + v->n_texts));
    memset(&key, 0, sizeof key);
    if (f.state == GRAMMAR__COLON) {
        const uint32_t value = f.b;
        f.state = GRAMMAR__AFTER, f.b = 0;
        if (byte == ':') grammar__go_value(r, &f, value);
    } else if (byte == '"' && more && (opens || f.state == GRAMMAR__COMMA)) {
        key.up = (uint16_t)at, key.state = GRAMMAR__KEY, key.depth = f.depth, key.node = f.node;
        key.a = v->text, key.b = v->text + v->n_texts, key.d = GRAMMAR__TEXT | (other ? GRAMMAR__FREE : 0);
        grammar__to(r, grammar__push(r, &key));
    } else if (byte == ',' && more && f.state == GRAMMAR__AFTER) {
        f.state = GRAMMAR__COMMA, f.b = 0;
        grammar__go(r, at, &f);
    } else if (byte == '}' && ends && f.state != GRAMMAR__COMMA) grammar__to(r, f.up);
    else if (opens || f.state == GRAMMAR__COMMA || ends) {
        if (f.state == GRAMMAR__AFTER) f.state = GRAMMAR__BEFORE_END;
        if (grammar__space(&f, byte)) grammar__go(r, at, &f);
    }
}

static void grammar__array(grammar__run *r, unsigned at, int byte) {
    const grammar *g = r->g;
    grammar_frame f = r->frames[at];
    const grammar__node *v = &g->nodes.items[f.node], *items = &g->nodes.items[v->items];
    const int ends = f.a >= v->min_items, more = f.a < v->max_items && grammar__fits(g, f.depth, v->items);
    const int opens = f.state == GRAMMAR__LIST_OPEN;
    if (byte == ']' && ends) grammar__to(r, f.up);
    else if ((opens || ends) && (f.state = opens ? GRAMMAR__LIST_OPEN : GRAMMAR__LIST_END, grammar__space(&f, byte)))
        grammar__go(r, at, &f);
    else if (more && (opens || (byte == ',' && r->frames[at].state == GRAMMAR__LIST_AFTER))) {
        f.state = GRAMMAR__LIST_AFTER, f.c = 0;
        if (f.a < v->min_items || v->max_items != GRAMMAR__NONE) f.a++; /* beyond what matters no two are told apart */
        const unsigned up = opens ? grammar__push(r, &f) : GRAMMAR__ROOM;
        if (!opens) grammar__go_value(r, &f, v->items);
        for (uint32_t i = 0; i < items->n_leaves && up < GRAMMAR__ROOM; i++)
            grammar__begin(r, up, g->lists.items[items->leaf + i], f.depth, byte);
    }
}

static void grammar__quoted(grammar__run *r, unsigned at, int byte) {
    grammar_frame f = r->frames[at];
    const grammar__node *v = &r->g->nodes.items[f.node];
    const int next = r->g->next[f.d][byte];
    if (!next || (next == GRAMMAR__CLOSED ? f.a < v->min_length : f.d == GRAMMAR__TEXT && f.a == v->max_length)) return;
    f.d = (uint32_t)next;
    if (next == GRAMMAR__TEXT && (f.a < v->min_length || v->max_length != GRAMMAR__NONE)) f.a++;
    if (next == GRAMMAR__CLOSED) grammar__to(r, f.up);
    else grammar__go(r, at, &f);
}

/* A value that may be complete, or go on: 1 if it is. */
static int grammar__done(const grammar *g, const grammar_frame *f) {
    if (f->state == GRAMMAR__CONSTANT) return g->texts.items[f->a].n == f->c;
    return f->state >= GRAMMAR__MINUS && grammar__number_done(&g->nodes.items[f->node], f);
}

static void grammar__step(grammar__run *r, unsigned at, int byte) {
    const grammar *g = r->g;
    for (;; at = r->frames[at].up) { /* what is complete gives the byte to what is below */
        grammar_frame f = r->frames[at];
        if (f.state == GRAMMAR__VALUE) {
            const grammar__node *v = &g->nodes.items[f.node];
            if (grammar__space(&f, byte)) grammar__go(r, at, &f);
            for (uint32_t i = 0; i < v->n_leaves; i++)
                grammar__begin(r, f.up, g->lists.items[v->leaf + i], f.depth, byte);
        } else if (f.state == GRAMMAR__QUOTED) grammar__quoted(r, at, byte);
        else if (f.state == GRAMMAR__KEY) grammar__key(r, at, byte);
        else if (f.state >= GRAMMAR__OPEN && f.state <= GRAMMAR__BEFORE_END) grammar__object(r, at, byte);
        else if (f.state >= GRAMMAR__LIST_OPEN && f.state <= GRAMMAR__LIST_END) grammar__array(r, at, byte);
        else if (f.state == GRAMMAR__CONSTANT && grammar__narrow(g->texts.items, &f.a, &f.b, f.c, byte))
            f.c++, grammar__go(r, at, &f);
        else if (f.state >= GRAMMAR__MINUS && grammar__number(&g->nodes.items[f.node], &f, byte))
            grammar__go(r, at, &f);
        else if (f.state != GRAMMAR__END && grammar__done(g, &r->frames[at])) continue;
        return;
    }
}

static unsigned grammar__byte(grammar__run *r, const uint16_t *from, unsigned n, uint16_t *to, int byte) {
    r->mark = r->n, r->tops = to, r->n_tops = 0;
    for (unsigned i = 0; i < n; i++) grammar__step(r, from[i], byte);
    return r->n_tops;
}

/* ---- >>state ----------------------------------------------------------------------------------------------------- */

void grammar_begin(grammar_state *s, const grammar *g) {
    memset(s, 0, sizeof *s);
    s->g = g, s->n_frames = 2, s->n_tops = 1, s->tops[0] = 1;
    s->frames[1].state = GRAMMAR__VALUE, s->frames[1].node = g->root, s->frames[1].c = 1; /* no white space */
}

static void grammar__load(grammar__run *r, const grammar_state *s) {
    r->g = s->g, r->n = s->n_frames;
    memcpy(r->frames, s->frames, s->n_frames * sizeof *s->frames);
}

/* The frames of stacks tops [n], and no others; stacks for which there is no room are given up, but not the first. */
static void grammar__save(grammar_state *s, const grammar__run *r, const uint16_t *tops, unsigned n) {
    uint16_t place[GRAMMAR__ROOM], chain[GRAMMAR__ROOM];
    memset(place, 0xff, sizeof place);
    place[0] = 0, s->frames[0] = r->frames[0], s->n_frames = 1, s->n_tops = 0;
    for (unsigned i = 0; i < n; i++) {
        unsigned length = 0;
        for (unsigned at = tops[i]; place[at] == 0xffff; at = r->frames[at].up) chain[length++] = (uint16_t)at;
        if (s->n_frames + length > GRAMMAR_FRAMES) continue;
        while (length-- > 0) {
            grammar_frame f = r->frames[chain[length]];
            f.up = place[f.up], place[chain[length]] = s->n_frames, s->frames[s->n_frames++] = f;
        }
        s->tops[s->n_tops++] = place[tops[i]];
    }
}

int grammar_accept(grammar_state *s, const char *bytes, size_t n) {
    grammar__run r;
    uint16_t tops[2][GRAMMAR_READINGS];
    grammar_state now;
    for (size_t at = 0; at < n;) { /* in pieces, for which there is room */
        unsigned n_tops = at ? now.n_tops : s->n_tops, from = 0;
        grammar__load(&r, at ? &now : s);
        memcpy(tops[0], at ? now.tops : s->tops, n_tops * sizeof **tops);
        for (size_t end = n - at < GRAMMAR_TOKEN ? n : at + GRAMMAR_TOKEN; at < end; at++, from = !from)
            if (!(n_tops = grammar__byte(&r, tops[from], n_tops, tops[!from], (uint8_t)bytes[at]))) return 0;
        now.g = s->g;
        grammar__save(&now, &r, tops[from], n_tops);
    }
    if (n) *s = now;
    return 1;
}

int grammar_test(const grammar_state *s, const char *bytes, size_t n) {
    grammar_state copy = *s;
    return grammar_accept(&copy, bytes, n);
}

int grammar_complete(const grammar_state *s) {
    int complete = 0, open = 0;
    for (unsigned i = 0; i < s->n_tops; i++) {
        const grammar_frame *f = &s->frames[s->tops[i]];
        open |= f->state != GRAMMAR__END;
        while (f->state != GRAMMAR__END && grammar__done(s->g, f)) f = &s->frames[f->up];
        complete |= f->state == GRAMMAR__END;
    }
    return complete ? 2 - open : 0;
}

/* ---- >>vocabulary ------------------------------------------------------------------------------------------------ */
/* The tokens by their bytes, as a tree: a node for each beginning of a token. Nodes are in the order of their bytes, as
   the tokens are: below node i lie nodes i+1..end-1 and tokens first .. nodes[end].first-1. */

typedef struct grammar__branch {
    uint32_t end, first;
    uint16_t tail; /* the greatest of its tokens' */
    uint8_t byte, depth;
} grammar__branch;

typedef struct grammar__token {
    const char *bytes; /* while the tree is made */
    int id;
    uint16_t n;
    uint16_t tail; /* from this byte on all is whole characters that need no escape; n + 1: nowhere, for one is cut */
    uint16_t characters;
} grammar__token;

struct grammar_vocab {
    int size, n_eos, *eos;
    uint32_t n_tokens, n_branches,
        *plain; /* a mask: the tokens that are text within strings from their first byte on */
    grammar__token *tokens;
    grammar__branch *branches;
    char *bytes;
};

static int grammar__by_token(const void *x, const void *y) {
    const grammar__token *a = (const grammar__token *)x, *b = (const grammar__token *)y;
    const int order = memcmp(a->bytes, b->bytes, a->n < b->n ? a->n : b->n);
    return order ? order : a->n != b->n ? a->n - b->n : a->id - b->id;
}

static int grammar__starts(int byte) { return (byte & 0xC0) != 0x80; } /* a character */

static void grammar__look_at(grammar__token *t, uint8_t next[GRAMMAR__STATES][256]) { /* tail, characters */
    int state = GRAMMAR__TEXT;
    t->tail = t->characters = 0;
    for (uint16_t i = 0; i < t->n; i++) {
        const uint8_t byte = (uint8_t)t->bytes[i];
        t->characters = (uint16_t)(t->characters + grammar__starts(byte));
        state = next[state][byte];
        if (state == GRAMMAR__TEXT || (state >= GRAMMAR__CUT && state <= GRAMMAR__CUT_END)) continue;
        state = GRAMMAR__TEXT, t->tail = (uint16_t)(i + 1);
    }
    if (state != GRAMMAR__TEXT) t->tail = (uint16_t)(t->n + 1);
}

/* Tokens, sorted, as branches, which are counted if there is no room for them. */
static uint32_t grammar__grow(grammar_vocab *v, grammar__branch *branches) {
    uint32_t path[GRAMMAR_TOKEN + 1], n = 1;
    int depth = 0; /* of path, which begins with the root */
    path[0] = 0;
    if (branches) memset(branches, 0, sizeof *branches);
    for (uint32_t i = 0; i <= v->n_tokens; i++) {
        const grammar__token *t = &v->tokens[i], *before = i ? t - 1 : t;
        const int length = i < v->n_tokens ? t->n : 0;
        int same = 0;
        while (i && same < length && same < before->n && t->bytes[same] == before->bytes[same]) same++;
        for (; depth > same; depth--)
            if (branches) branches[path[depth]].end = n;
        for (; depth < length; n++) {
            path[++depth] = n;
            if (!branches) continue;
            branches[n].first = i, branches[n].tail = 0;
            branches[n].byte = (uint8_t)t->bytes[depth - 1], branches[n].depth = (uint8_t)depth;
        }
        for (int d = 0; d <= length && branches && i < v->n_tokens; d++)
            if (branches[path[d]].tail < t->tail) branches[path[d]].tail = t->tail;
    }
    if (branches) branches[0].end = n, branches[n].first = v->n_tokens;
    return n;
}

void grammar_vocab_destroy(grammar_vocab *v) {
    if (!v) return;
    free(v->eos), free(v->plain), free(v->tokens), free(v->branches), free(v->bytes);
    free(v);
}

/* Counts the tokens that have bytes; or copies them, too. Returns how many bytes they have. */
static size_t grammar__gather(grammar_vocab *v, grammar_bytes *bytes, const void *user, int copy) {
    size_t total = 0, n;
    v->n_tokens = 0;
    for (int id = 0; id < v->size; id++) {
        int ends = 0;
        for (int i = 0; i < v->n_eos; i++) ends |= v->eos[i] == id;
        const char *b = ends ? NULL : bytes(user, id, &n);
        if (!b || n == 0 || n > GRAMMAR_TOKEN) continue;
        if (copy) {
            grammar__token *t = &v->tokens[v->n_tokens];
            t->bytes = v->bytes + total, t->id = id, t->n = (uint16_t)n;
            memcpy(v->bytes + total, b, n);
        }
        v->n_tokens++, total += n;
    }
    return total;
}

static int grammar__plant(grammar_vocab *v, grammar_bytes *bytes, const void *user) { /* 0: no memory */
    uint8_t next[GRAMMAR__STATES][256];
    const size_t total = grammar__gather(v, bytes, user, 0);
    v->bytes = (char *)malloc(total + 1);
    v->tokens = (grammar__token *)calloc((size_t)v->n_tokens + 1, sizeof *v->tokens);
    v->plain = (uint32_t *)calloc(((size_t)v->size + 31) / 32, sizeof *v->plain);
    if (!v->bytes || !v->tokens || !v->plain) return 0;
    grammar__gather(v, bytes, user, 1);
    qsort(v->tokens, v->n_tokens, sizeof *v->tokens, grammar__by_token);
    grammar__string_table(next);
    for (uint32_t i = 0; i < v->n_tokens; i++) {
        const int id = v->tokens[i].id;
        grammar__look_at(&v->tokens[i], next);
        if (v->tokens[i].tail == 0) v->plain[id / 32] |= 1u << id % 32;
    }
    v->n_branches = grammar__grow(v, NULL);
    v->branches = (grammar__branch *)calloc((size_t)v->n_branches + 1, sizeof *v->branches);
    if (!v->branches) return 0;
    grammar__grow(v, v->branches);
    free(v->bytes), v->bytes = NULL;
    return 1;
}

mla_result grammar_vocab_create(grammar_vocab **out, int size, grammar_bytes *bytes, const void *user, const int *eos,
                                int n_eos, mla_error *err) {
    if (out) *out = NULL;
    if (!out || !bytes || size < 1 || n_eos < 0 || (n_eos && !eos))
        return grammar__fail(err, MLA_ERR_ARGUMENT, "grammar_vocab_create: a null pointer, or size or n_eos too small");
    for (int i = 0; i < n_eos; i++)
        if (eos[i] < 0 || eos[i] >= size)
            return grammar__fail(err, MLA_ERR_ARGUMENT, "grammar_vocab_create: eos %d is not in 0..%d", eos[i],
                                 size - 1);
    grammar_vocab *v = (grammar_vocab *)calloc(1, sizeof *v);
    if (v) v->size = size, v->n_eos = n_eos, v->eos = (int *)malloc(((size_t)n_eos + 1) * sizeof *eos);
    if (v && v->eos && n_eos) memcpy(v->eos, eos, (size_t)n_eos * sizeof *eos);
    if (!v || !v->eos || !grammar__plant(v, bytes, user)) {
        grammar_vocab_destroy(v);
        return grammar__fail(err, MLA_ERR_MEMORY, "grammar_vocab_create: no memory for %d tokens", size);
    }
    *out = v;
    return MLA_OK;
}

/* ---- >>mask ------------------------------------------------------------------------------------------------------ */

typedef struct grammar__level { /* after so many bytes of a token */
    unsigned n_tops, n_frames, characters;
    int from; /* the tokens whose tail is not above it are in the mask already; -1: not known */
    uint16_t *tops;
} grammar__level;

static void grammar__allow_tokens(const grammar_vocab *v, uint32_t *mask, uint32_t first, uint32_t end) {
    for (; first < end; first++) mask[v->tokens[first].id / 32] |= 1u << v->tokens[first].id % 32;
}

/* Where text within a string may come next, what is nothing else, below branch i: by as many characters as there is
   room for. Sets from, if that decides about all whose tail lies above. */
static void grammar__allow_text(const grammar__run *r, const grammar_vocab *v, uint32_t *mask, uint32_t i,
                                grammar__level *l) {
    const uint32_t first = v->branches[i].first, end = v->branches[v->branches[i].end].first;
    const int depth = v->branches[i].depth;
    uint32_t most = 0;
    int strings = 0;
    for (unsigned k = 0; k < l->n_tops; k++) {
        const grammar_frame *f = &r->frames[l->tops[k]];
        const uint32_t longest = r->g->nodes.items[f->node].max_length;
        const int key = f->state == GRAMMAR__KEY && f->d == (GRAMMAR__TEXT | GRAMMAR__FREE) && f->a == f->b;
        if (!key && (f->state != GRAMMAR__QUOTED || f->d != GRAMMAR__TEXT)) continue;
        const uint32_t room = key || longest == GRAMMAR__NONE ? GRAMMAR__NONE : longest - f->a;
        strings++;
        if (room > most) most = room;
    }
    if (!strings || (most <= GRAMMAR_TOKEN && (unsigned)strings < l->n_tops)) return;
    l->from = depth;
    if (depth == 0 && most > GRAMMAR_TOKEN)
        for (int k = 0; k < (v->size + 31) / 32; k++) mask[k] |= v->plain[k];
    else
        for (uint32_t k = first; k < end; k++)
            if (v->tokens[k].tail <= depth && v->tokens[k].characters - l->characters <= most)
                mask[v->tokens[k].id / 32] |= 1u << v->tokens[k].id % 32;
}

int grammar_allow(const grammar_state *s, const grammar_vocab *v, uint32_t *mask) {
    grammar__run r;
    grammar__level levels[GRAMMAR_TOKEN + 1];
    uint16_t tops[(GRAMMAR_TOKEN + 1) * GRAMMAR_READINGS];
    const size_t words = ((size_t)v->size + 31) / 32;
    uint32_t any = 0;
    memset(mask, 0, words * sizeof *mask);
    grammar__load(&r, s);
    memcpy(tops, s->tops, s->n_tops * sizeof *tops);
    levels[0].n_tops = s->n_tops, levels[0].n_frames = r.n, levels[0].characters = 0, levels[0].from = -1;
    levels[0].tops = tops;
    grammar__allow_text(&r, v, mask, 0, &levels[0]);
    for (uint32_t i = 1; i < v->n_branches;) {
        const grammar__branch *b = &v->branches[i];
        const grammar__level *up = &levels[b->depth - 1];
        grammar__level *l = &levels[b->depth];
        l->tops = up->tops + up->n_tops, r.n = up->n_frames;
        if (b->tail <= up->from || !(l->n_tops = grammar__byte(&r, up->tops, up->n_tops, l->tops, b->byte))) {
            i = b->end;
            continue;
        }
        l->n_frames = r.n, l->characters = up->characters + (unsigned)grammar__starts(b->byte);
        l->from = b->byte >= ' ' && b->byte != '"' && b->byte != '\\' ? up->from : -1;
        grammar__allow_tokens(v, mask, b->first, b[1].first);
        if (l->from < 0) grammar__allow_text(&r, v, mask, i, l);
        i++;
    }
    if (grammar_complete(s))
        for (int i = 0; i < v->n_eos; i++) mask[v->eos[i] / 32] |= 1u << v->eos[i] % 32;
    for (size_t i = 0; i < words; i++) any |= mask[i];
    return any != 0;
}

void grammar_mask(float *logits, const uint32_t *mask, int size) {
    for (int i = 0; i < size; i++)
        if (!(mask[i / 32] >> i % 32 & 1)) logits[i] = -HUGE_VALF;
}

#endif /* GRAMMAR_IMPLEMENTATION */
