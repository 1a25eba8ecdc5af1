/* grammar.h - holds what a model writes to JSON of one form: which tokens may come next, after what has been written.

USE
   In exactly one file:      #define GRAMMAR_IMPLEMENTATION
                             #include "grammar.h"
   In all others:            #include "grammar.h"

   const char *bytes(const void *t, int id, size_t *n) {        (NULL: a token that is no text)
       return tokenizer_is_added(t, id) ? NULL : tokenizer_bytes(t, id, n);
   }
   grammar_vocab_create(&vocab, vocab_size, bytes, tokenizer, &eos, 1, &error);               once for a tokenizer
   if (json_schema_grammar(&g, schema, &error)) puts(error.text);                             by json_schema.h
   grammar_begin(&state, g);
   for (;;) {
       if (!grammar_allow(&state, vocab, mask)) ...             (no token of this vocabulary can go on)
       grammar_mask(logits, mask, vocab_size);                  (last of all: after biases, before the sampler)
       token = sampler_next(s, logits, &error);
       if (token == eos) break;
       grammar_accept(&state, text of token, its length);
   }

FORM           White space behind { [ , : and before } ]: one space, or a newline and at most 4 blanks a level. Strings
               are UTF-8, which tokens may cut anywhere; their lengths count characters; keys have no escape that is not
               needed. Integers have no fraction, no -0 and at most 18 digits; numbers 18 before the point, 18 behind it
               and 2 in the exponent; with bounds no exponent, and 18 in all. Members come in the order of the rule;
               others last, not with a key of the rule, but maybe twice. Nothing nests more than GRAMMAR_DEPTH deep.
NO DEAD END    What has been accepted can always be completed: with the tokens of single bytes if with no others. Of a
               choice all is followed that may be meant, at most GRAMMAR_READINGS at once: others are given up.
TIME           A mask takes as long as the part of the vocabulary that can follow, but for text within strings, which is
               known before. At temperature 0 it is needed only where grammar_test refuses the likeliest token. A state
               has 50 KB; grammar_test takes 110 KB of stack. THREADS: grammars and vocabularies are only read.

CONTENTS       >>grammar >>rules (the API)   then >>create >>machine >>state >>vocabulary >>mask
   SPDX-License-Identifier: MIT */

#ifndef GRAMMAR_H
#define GRAMMAR_H

#include <stddef.h>
#include <stdint.h>
#ifndef MLA_H
#include "mla.h"
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

/* The bytes of each token 0..size-1, which must last as long as the vocabulary; NULL, none or more than GRAMMAR_TOKEN:
   never allowed. Those of eos [n_eos] are allowed when the value is complete. A call that fails sets *out to NULL; err
   may be NULL. Errors: ARGUMENT, MEMORY. */
typedef const char *grammar_bytes(const void *user, int id, size_t *n);
GRAMMAR_API mla_result grammar_vocab_create(grammar_vocab **out, int size, grammar_bytes *bytes, const void *user,
                                            const int *eos, int n_eos, mla_error *err);
GRAMMAR_API void grammar_vocab_destroy(grammar_vocab *v); /* NULL is fine */

/* Where a text is. To be copied as any struct; its grammar must live as long. The content is private. */
typedef struct grammar_frame {
    uint16_t up;
    uint8_t state, depth;
    uint32_t rule, a, b, c, d;
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

/* ---- >>rules ----------------------------------------------------------------------------------------------------- */

#define GRAMMAR_NONE  0xffffffffu
#define GRAMMAR_LIMIT INT64_C(999999999999999999) /* of integers: 18 digits */

enum { GRAMMAR_STRING = 1, GRAMMAR_NUMBER = 2, GRAMMAR_INTEGER = 4, GRAMMAR_BOOLEAN = 8, GRAMMAR_NULL = 16 };
enum { GRAMMAR_OBJECT = 32, GRAMMAR_ARRAY = 64, GRAMMAR_ALL = 127 - GRAMMAR_INTEGER };

/* A constant, as JSON without white space; or the key of a member, escaped, with the quote behind it. */
typedef struct grammar_text {
    const char *bytes;
    uint32_t n, member, after, value; /* its place among the members, up to where those before it are required; rule */
    uint8_t required;
} grammar_text;

/* What a value may be. Heights: how deep the least value nests; above GRAMMAR_DEPTH: there is none. */
typedef struct grammar_rule {
    uint8_t types, literal, bounded, scale; /* literal: one of its texts; scale: most digits behind the point */
    uint8_t height, object_height, array_height;
    uint32_t n_leaves, *leaves; /* of a choice: rules that are none; NULL: it is no choice */
    uint32_t text, n_texts;     /* those in texts, sorted by their bytes: constants or keys */
    uint32_t last;              /* how many members there are up to the last that is required */
    uint32_t other, items;      /* rules, of other members (GRAMMAR_NONE: there are none) and of items */
    uint32_t limits[4];         /* of items, from and to (GRAMMAR_NONE: any), and of a string's characters */
    int64_t unit, low, high;    /* of numbers: 10^scale, and the bounds times it, within +-GRAMMAR_LIMIT */
} grammar_rule;

struct grammar {
    grammar_rule *rules; /* the first: any JSON; others begin as its copy */
    grammar_text *texts; /* the first three: false, null, true */
    char *bytes;         /* what the texts may lie in, from malloc as leaves, or NULL */
    uint32_t *leaves, root;
    uint8_t next[128][256];
};

/* Room for so many rules, and texts beside those three, to be filled in; root is 0. Errors: ARGUMENT, MEMORY. */
GRAMMAR_API mla_result grammar_create(grammar **out, int rules, int texts, mla_error *err);
GRAMMAR_API void grammar_destroy(grammar *g); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif /* GRAMMAR_H */

/* ================================================================================================================== */
#if defined GRAMMAR_IMPLEMENTATION && !defined GRAMMAR_IMPLEMENTED
#define GRAMMAR_IMPLEMENTED

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- >>create ---------------------------------------------------------------------------------------------------- */

/* Within strings and numbers, states are characters. Text of a string: T; its end: X; B behind a backslash (Q in keys,
   which have for each character one way to write it, and q to u the digits there); I to L the digits of \u and E to H,
   M to O those of a pair of surrogates; a b c: so many bytes of a character are missing; d to g: behind a first byte
   that does not take all second ones. Numbers: - behind the sign, 0 or 1 (any other) before the point, 5 behind it, *
   behind e, + its sign, 9 the exponent. A row: from, to, first and last bytes of ranges; later ones prevail. */
static void gr__table(uint8_t next[128][256]) {
    static const char rows[] =
        "TT \x7f\nTX\"\"\nTB\\\\\nTa\xC2\xDF\nTb\xE1\xEF\nTc\xF1\xF3\nTd\xE0\xE0\nTe\xED\xED\nTf\xF0\xF0\nTg\xF4\xF4\n"
        "aT\x80\xBF\nba\x80\xBF\ncb\x80\xBF\nda\xA0\xBF\nea\x80\x9F\nfb\x90\xBF\ngb\x80\x8F\nBT\"\"\\\\//bbffnnrrtt\n"
        "BIuu\nIJ09afAF\nJK09afAF\nKL09afAF\nLT09afAF\nIEddDD\nEK07\nEF89abAB\nFG09afAF\nGH09afAF\nHM\\\\\nMNuu\n"
        "NOddDD\nOKcfCF\nQT\"\"\\\\bbffnnrrtt\nQquu\nqr00\nrs00\nst00\nsu11\ntT07bbef\nuT09af\n-000\n-119\n1109\n"
        "0...\n1...\n.509\n5509\n0*eeEE\n1*eeEE\n5*eeEE\n*+++--\n*909\n+909\n9909\n";
    for (const char *row = rows, *range; *row; row = range + 1)
        for (range = row + 2; *range != '\n'; range += 2)
            for (int b = (uint8_t)range[0]; b <= (uint8_t)range[1]; b++) next[(int)row[0]][b] = (uint8_t)row[1];
}

static mla_result gr__fail(mla_error *err, mla_result code, const char *what, int n) {
    if (err) err->code = code, err->sequence = -1, snprintf(err->text, sizeof err->text, "%s %d", what, n);
    return code;
}

void grammar_destroy(grammar *g) {
    if (g) free(g->rules), free(g->texts), free(g->leaves), free(g->bytes);
    free(g);
}

mla_result grammar_create(grammar **out, int rules, int texts, mla_error *err) {
    static const grammar_text words[] = {{"false", 5, 0, 0, 0, 0}, {"null", 4, 0, 0, 0, 0}, {"true", 4, 0, 0, 0, 0}};
    if (out) *out = NULL;
    if (!out || rules < 1 || texts < 0) return gr__fail(err, MLA_ERR_ARGUMENT, "grammar_create: out or rules:", rules);
    grammar *g = (grammar *)calloc(1, sizeof *g);
    if (g) g->rules = (grammar_rule *)calloc((size_t)rules, sizeof *g->rules);
    if (g) g->texts = (grammar_text *)calloc((size_t)texts + 3, sizeof *g->texts);
    if (!g || !g->rules || !g->texts) {
        grammar_destroy(g);
        return gr__fail(err, MLA_ERR_MEMORY, "grammar_create: no memory for rules:", rules);
    }
    grammar_rule *any = g->rules;
    any->types = GRAMMAR_ALL, any->scale = 6, any->unit = 1000000, any->low = -GRAMMAR_LIMIT, any->high = GRAMMAR_LIMIT;
    any->object_height = any->array_height = 1, any->limits[1] = any->limits[3] = GRAMMAR_NONE;
    memcpy(g->texts, words, sizeof words), gr__table(g->next);
    *out = g;
    return MLA_OK;
}

/* ---- >>machine --------------------------------------------------------------------------------------------------- */
/* The machine is a set of stacks of frames, all that what is written can mean. A frame never changes: what comes after
   it is another one, and frames below are shared.

   END: the value is complete. CONSTANT: texts a..b begin with the c bytes that are written. QUOTED: a characters so
   far. NUMERAL: its digits in a (and, upper half, b), c of them in this part; with FLAG in d it is negative. KEY: it is
   among texts a..b, of which c bytes are written; with FLAG it may be no member's. d is where in the table all these
   are. Then what is in an object or array, which d ends: a is the first member that may come, or the number of items, b
   the next value's rule, c how much white space there was. The whole is such a frame, too, whose d is 0. */
enum { GR__END, GR__CONSTANT, GR__QUOTED, GR__NUMERAL, GR__KEY, GR__OPEN, GR__COMMA, GR__VALUE, GR__COLON, GR__AFTER };
enum { GR__FLAG = 256 };

/* Can the digits become a number within the bounds (or, done: are they one)? */
static int gr__in_bounds(const grammar_rule *v, const grammar_frame *f, int done) {
    const int negative = (f->d & GR__FLAG) != 0, state = f->d & 255, behind = state == '.' || state == '5';
    const int64_t low = negative ? -v->high : v->low, high = negative ? -v->low : v->high;
    const int64_t least = negative && low < 1 ? 1 : low, digits = (int64_t)((uint64_t)f->b << 32 | f->a);
    int64_t unit = v->unit;
    if (!v->bounded) return 1;
    if (state == '-') return high >= 1;
    for (uint32_t i = 0; behind && i < f->c; i++) unit /= 10;
    for (;; unit *= 10) { /* all that has these digits, and zero, one, ... more before the point */
        if (digits > high / unit) return 0;
        if (digits * unit + (done ? 0 : unit - 1) >= least) return 1;
        if (done || state != '1' || unit > GRAMMAR_LIMIT / 10) return 0;
    }
}

/* Takes one more byte; 0: it does not belong to the number. */
static int gr__number(const grammar *g, grammar_frame *f, int byte) {
    const grammar_rule *v = &g->rules[f->rule];
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

/* Of texts a..b, sorted, with the same first n bytes, those whose next is byte: 0 if there are none. */
static int gr__narrow(const grammar_text *texts, uint32_t *a, uint32_t *b, uint32_t n, int byte) {
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

static int gr__fits(const grammar *g, int depth, uint32_t rule) {
    return rule != GRAMMAR_NONE && depth + g->rules[rule].height <= GRAMMAR_DEPTH;
}

/* A value of a leaf begins with byte, and then below is next. */
static void gr__begin(grammar_state *s, const grammar_frame *below, uint32_t leaf, int byte) {
    const grammar_rule *v = &s->g->rules[leaf];
    const int depth = below->depth, word = byte == 'n'                  ? GRAMMAR_NULL
                                           : byte == 't' || byte == 'f' ? GRAMMAR_BOOLEAN
                                                                        : 0;
    grammar_frame f = {0, 0, below->depth, leaf, 0, 0, 0, 0};
    if (v->literal || word) { /* the words are constants, too */
        f.state = GR__CONSTANT, f.rule = 0, f.c = 1, f.a = v->literal ? v->text : 0;
        f.b = f.a + (v->literal ? v->n_texts : 3);
        if (v->literal ? !gr__fits(s->g, depth, leaf) : !(v->types & word)) return;
        if (!gr__narrow(s->g->texts, &f.a, &f.b, 0, byte)) return;
    } else if (byte == '"' && v->types & GRAMMAR_STRING) f.state = GR__QUOTED, f.d = 'T';
    else if (byte == '{' && v->types & GRAMMAR_OBJECT && depth + v->object_height <= GRAMMAR_DEPTH)
        f.state = GR__OPEN, f.d = '}', f.depth++;
    else if (byte == '[' && v->types & GRAMMAR_ARRAY && depth + v->array_height <= GRAMMAR_DEPTH)
        f.state = GR__OPEN, f.d = ']', f.depth++, f.b = v->items;
    else if (v->types & (GRAMMAR_NUMBER | GRAMMAR_INTEGER)) {
        f.state = GR__NUMERAL, f.d = byte == '-' ? '-' | GR__FLAG : '-';
        if (byte == '-' ? !gr__in_bounds(v, &f, 0) : !gr__number(s->g, &f, byte)) return;
    } else return;
    const unsigned up = gr__push(s, below);
    f.up = (uint16_t)up;
    if (up < GRAMMAR_ROOM) gr__to(s, gr__push(s, &f));
}

/* Is there a member with one of the keys a..b that object f may have next? */
static int gr__has_member(const grammar *g, const grammar_frame *f, uint32_t a, uint32_t b) {
    for (const grammar_text *t = g->texts + a; t < g->texts + b; t++)
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
        object.a = known ? g->texts[f.a].member + 1 : GRAMMAR_NONE, object.state = GR__COLON, object.c = 0;
        object.b = known ? g->texts[f.a].value : g->rules[f.rule].other;
        gr__to(s, gr__push(s, &object));
    } else gr__go(s, at, &f);
}

/* May there be one more member or item? */
static int gr__more(const grammar *g, const grammar_frame *f, const grammar_rule *v) {
    if (f->d == ']') return f->a < v->limits[1] && gr__fits(g, f->depth, v->items);
    return (f->a >= v->last && gr__fits(g, f->depth, v->other)) || gr__has_member(g, f, v->text, v->text + v->n_texts);
}

/* Within an object or array, or before the whole. */
static void gr__container(grammar_state *s, unsigned at, int byte) {
    const grammar *g = s->g;
    const grammar_frame f = s->frames[at];
    const grammar_rule *v = &g->rules[f.rule], *value = &g->rules[f.b];
    const int object = f.d == '}', opens = f.state == GR__OPEN, ends = f.a >= (object ? v->last : v->limits[0]);
    const int begins = f.c == 0 && (byte == ' ' || byte == '\n'); /* white space */
    const int goes_on = f.c >= 2 && f.c < 2 + 4u * f.depth && (byte == ' ' || byte == '\t');
    grammar_frame next = f;
    if (f.state == GR__COLON) {
        next.state = GR__VALUE;
        if (byte == ':') gr__go(s, at, &next);
    } else if (f.state == GR__AFTER && byte == ',' && !f.c) {
        next.state = object ? GR__COMMA : GR__VALUE;
        if (gr__more(g, &f, v)) gr__go(s, at, &next);
    } else if ((int)f.d == byte && ends && f.state != GR__VALUE && f.state != GR__COMMA) gr__to(s, f.up);
    else if ((f.state != GR__AFTER || ends) && (begins || goes_on)) {
        next.c = goes_on ? f.c + 1 : byte == ' ' ? 1 : 2;
        gr__go(s, at, &next);
    } else if (object && byte == '"' && (opens || f.state == GR__COMMA) && gr__more(g, &f, v)) {
        next.up = (uint16_t)at, next.state = GR__KEY, next.c = 0, next.a = v->text, next.b = v->text + v->n_texts;
        next.d = ends && gr__fits(g, f.depth, v->other) ? 'T' | GR__FLAG : 'T';
        gr__to(s, gr__push(s, &next));
    } else if (f.state == GR__VALUE || (opens && !object && gr__more(g, &f, v))) {
        next.state = f.d ? GR__AFTER : GR__END, next.c = 0;
        if (object) next.b = 0;
        else if (f.a < v->limits[0] || v->limits[1] != GRAMMAR_NONE) next.a++; /* else no two are told apart */
        if (!value->leaves) gr__begin(s, &next, f.b, byte);
        for (uint32_t i = 0; i < value->n_leaves; i++) gr__begin(s, &next, value->leaves[i], byte);
    }
}

static int gr__done(const grammar *g, const grammar_frame *f) { /* of what has no end of its own: may this be it? */
    if (f->state == GR__CONSTANT) return g->texts[f->a].n == f->c;
    return f->state == GR__NUMERAL && strchr("0159", (int)(f->d & 255)) && gr__in_bounds(&g->rules[f->rule], f, 1);
}

static void gr__step(grammar_state *s, unsigned at, int byte) {
    for (;; at = s->frames[at].up) { /* what is complete gives the byte to what is below */
        grammar_frame f = s->frames[at];
        const uint32_t *limits = s->g->rules[f.rule].limits;
        if (f.state >= GR__OPEN) gr__container(s, at, byte);
        else if (f.state == GR__KEY) gr__key(s, at, byte);
        else if (f.state == GR__QUOTED) {
            const int next = s->g->next[f.d][byte];
            if (!next || (next == 'X' ? f.a < limits[2] : f.d == 'T' && f.a == limits[3])) return;
            f.d = (uint32_t)next;
            if (next == 'T' && (f.a < limits[2] || limits[3] != GRAMMAR_NONE)) f.a++;
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
    uint16_t tail, most; /* from here on all is whole plain characters; n + 1: one is cut; the greatest before next */
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
    if (v) free(v->plain), free(v->tokens);
    free(v);
}

mla_result grammar_vocab_create(grammar_vocab **out, int size, grammar_bytes *bytes, const void *user, const int *eos,
                                int n_eos, mla_error *err) {
    const size_t words = size > 0 ? ((size_t)size + 31) / 32 : 1;
    if (out) *out = NULL;
    if (!out || !bytes || size < 1 || n_eos < 0 || (n_eos && !eos))
        return gr__fail(err, MLA_ERR_ARGUMENT, "grammar_vocab_create: NULL, n_eos or the size:", size);
    for (int i = 0; i < n_eos; i++)
        if (eos[i] < 0 || eos[i] >= size)
            return gr__fail(err, MLA_ERR_ARGUMENT, "grammar_vocab_create: not in the vocabulary: eos", eos[i]);
    grammar_vocab *v = (grammar_vocab *)calloc(1, sizeof *v);
    uint8_t next[128][256] = {{0}};
    if (v) v->plain = (uint32_t *)calloc(2 * words, sizeof *v->plain);
    if (v) v->tokens = (gr__token *)calloc((size_t)size, sizeof *v->tokens);
    if (v && v->plain && v->tokens) {
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
    return *out ? MLA_OK : gr__fail(err, MLA_ERR_MEMORY, "grammar_vocab_create: no memory for tokens:", size);
}

/* ---- >>mask ------------------------------------------------------------------------------------------------------ */

typedef struct gr__level { /* after so many bytes of a token */
    uint16_t n_tops, n_frames, tops[GRAMMAR_READINGS];
    unsigned characters;
    int from; /* the tokens whose tail is not above it are in the mask already; -1: not known */
} gr__level;

/* Within a string, of the tokens that have the first `depth` bytes of token i, those may come that are plain text from
   there on, if there is room for their characters. Sets from, if that decides about all whose tail is not above it. */
static void gr__allow_text(const grammar_state *s, const grammar_vocab *v, uint32_t *mask, uint32_t i, int depth,
                           gr__level *l) {
    uint32_t most = 0, strings = 0;
    for (unsigned k = 0; k < s->n_tops; k++) {
        const grammar_frame *f = &s->frames[s->tops[k]];
        const int key = f->state == GR__KEY && f->d == ('T' | GR__FLAG) && f->a == f->b;
        const uint32_t longest = key ? GRAMMAR_NONE : s->g->rules[f->rule].limits[3];
        if (!key && (f->state != GR__QUOTED || f->d != 'T')) continue;
        strings++;
        if (longest == GRAMMAR_NONE || longest - f->a > most) most = longest == GRAMMAR_NONE ? longest : longest - f->a;
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
    int any = 0, complete = grammar_complete(s);
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
            memcpy(l[1].tops, now.tops, now.n_tops * sizeof *now.tops);
            l[1].from = byte >= ' ' && byte != '"' && byte != '\\' ? l->from : -1;
            if (l[1].from < 0) gr__allow_text(&now, v, mask, i, depth + 1, l + 1);
        }
        if (l == levels + t->n) gr__set(mask, t->id), i++;
        else if (l == levels + t->same) i = t->next;
        else /* nor may those that begin so */
            for (i++; i < v->n && levels + v->tokens[i].same > l;) i = v->tokens[i].next;
    }
    for (size_t i = 0; i < words; i++) any |= (mask[i] |= complete ? v->ends[i] : 0) != 0;
    return any;
}

void grammar_mask(float *logits, const uint32_t *mask, int size) {
    for (int i = 0; i < size; i++)
        if (!(mask[i / 32] >> i % 32 & 1)) logits[i] = -HUGE_VALF;
}

#endif /* GRAMMAR_IMPLEMENTATION */
