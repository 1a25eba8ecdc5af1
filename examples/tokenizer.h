/* tokenizer.h - text to token ids and back: byte-level BPE as a Hugging Face tokenizer.json of the DeepSeek family
   describes it.

USE
   In exactly one file:      #define TOKENIZER_IMPLEMENTATION
                             #include "tokenizer.h"
   In all others:            #include "tokenizer.h"
                             (json_* of checkpoint.h must be implemented somewhere in the program)

   tokenizer *t;
   if (tokenizer_open(&t, "DeepSeek-V3/tokenizer.json", &error)) puts(error.text);
   n = tokenizer_encode(t, text, strlen(text), TOKENIZER_SPECIAL, ids, capacity);  ...  tokenizer_close(t);

STEPS          1. Bytes that are no UTF-8 become U+FFFD, one for each maximal part of a character, as in JavaScript
                  and Rust.
               2. Added tokens are found: first those with "normalized": false, then in what is left the others;
                  leftmost, longest.
               3. The pre-tokenizers cut what is left into words, each cutting the pieces of the one before.
               4. In a word of bytes the two neighbours with the lowest merge are merged, the leftmost first, until no
                  merge fits.
               Source: the Rust crate `tokenizers` 0.23; the ids are the same (tests/tokenizer/run.sh compares).
READ           normalizer: none. pre_tokenizer: Sequence of Split, Digits and, as the last, ByteLevel. model: BPE.
               added_tokens: with lstrip, rstrip, normalized, special. post_processor: none, ByteLevel,
               TemplateProcessing, Sequence. decoder: ByteLevel.
REGEX          There is no engine for regular expressions. Split knows three kinds (>>regex): the long one of
               DeepSeek-V3; a class with an optional space before it and + or {1,n} behind it, which is all that
               DeepSeek-V2 and V3 have besides; \s+$.
STRICT         Whatever else the file asks for (another model, normalizer, regex, single_word, dropout, ...) is
               refused by name.
UNICODE        \p{L} \p{M} \p{N} \p{P} \p{S} and \s are those of Unicode 16.0, as in the crate's regular expressions;
               its Digits follow Unicode 17.0, which has 13 more.
TIME           Linear in the text, but for a word of n bytes n log n.
THREADS        No globals, no printing. Any number of threads may read one tokenizer at once.

CONTENTS       >>tokenizer (the API)   then >>errors >>utf8 >>unicode >>types >>regex >>scanners >>merging >>encoder
               >>decoder >>reader
   SPDX-License-Identifier: MIT */

#ifndef TOKENIZER_H
#define TOKENIZER_H

#include <stddef.h>
#include <stdint.h>
#ifndef CHECKPOINT_H
#include "checkpoint.h"
#endif

#ifndef TOKENIZER_API
#define TOKENIZER_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- >>tokenizer ------------------------------------------------------------------------------------------------- */

typedef struct tokenizer tokenizer;

/* The tokenizer.json at path, or its text (label stands for the file's name in messages). A call that fails sets *out
   to NULL; err may be NULL. Errors: ARGUMENT (a null pointer, a file that cannot be read), CONFIG (not JSON, or
   contradicts itself), UNSUPPORTED (a name that this reader does not know), MEMORY. */
TOKENIZER_API mla_result tokenizer_open(tokenizer **out, const char *path, mla_error *err);
TOKENIZER_API mla_result tokenizer_parse(tokenizer **out, const char *json, size_t n, const char *label,
                                         mla_error *err);
TOKENIZER_API void tokenizer_close(tokenizer *t);     /* NULL is fine */
TOKENIZER_API int tokenizer_size(const tokenizer *t); /* ids are 0..size-1 (some may be unused) */

enum {
    TOKENIZER_SPECIAL =
        1, /* add what the post-processor adds: begin of sentence ... (DeepSeek-V3's file adds nothing) */
    TOKENIZER_PLAIN =
        2 /* for what a user types: added tokens that are special, or written <...>, are text, not tokens. (V3's
             <|User|> is not marked as special; other added tokens, such as V2's letters, stay tokens.) */
};

/* Encodes n bytes (any bytes, NUL among them). ids may be NULL to count. Returns the number of ids (which may exceed
   capacity: then only the first `capacity` are written), or -1: out of memory, or t is NULL. At most n ids, but 3 for a
   byte that is no UTF-8, and those of TOKENIZER_SPECIAL. */
TOKENIZER_API int64_t tokenizer_encode(const tokenizer *t, const char *text, size_t n, unsigned flags, int *ids,
                                       size_t capacity);

/* The bytes that an id stands for (byte-level decoding undone; an added token's content as written); NULL: no such
   id. */
TOKENIZER_API const char *tokenizer_bytes(const tokenizer *t, int id, size_t *length);
TOKENIZER_API int tokenizer_is_special(const tokenizer *t, int id); /* as the file marks it */
/* The added token with that content, else the vocabulary entry as the file spells it (a space is written U+0120); -1:
 * none. */
TOKENIZER_API int tokenizer_find(const tokenizer *t, const char *content);

/* Streaming output: takes bytes as they come, gives out whole UTF-8 characters only; bytes that can be no character
   come out as U+FFFD, so that the output is the same however the input is cut. Zero-initialise. */
typedef struct tokenizer_stream {
    unsigned char held[4];
    int n;
} tokenizer_stream;
/* out: room for 3 * (n + 4). Both return the bytes written. */
TOKENIZER_API size_t tokenizer_stream_push(tokenizer_stream *s, const char *bytes, size_t n, char *out);
TOKENIZER_API size_t tokenizer_stream_end(tokenizer_stream *s,
                                          char *out); /* what is held back, as U+FFFD; out: room for 12 */

#ifdef __cplusplus
}
#endif
#endif /* TOKENIZER_H */

/* ================================================================================================================== */
#if defined TOKENIZER_IMPLEMENTATION && !defined TOKENIZER_IMPLEMENTED
#define TOKENIZER_IMPLEMENTED

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- >>errors ---------------------------------------------------------------------------------------------------- */

#if defined __GNUC__
__attribute__((format(printf, 3, 4)))
#endif
static mla_result
tok__fail(mla_error *err, mla_result code, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        err->code = code;
        for (char *c = err->text; *c; c++) /* a hostile name must not break the line or drive a terminal */
            if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    }
    return code;
}

/* ---- >>utf8 ------------------------------------------------------------------------------------------------------ */

/* Bytes of the character at s (n > 0), or of the longest beginning of one (a "maximal subpart"; at least 1) and then
   *whole is 0, or -1 if the text ends within what may become one. Overlong forms, surrogates and what lies past
   U+10FFFF are no characters. */
static size_t tok__utf8(const unsigned char *s, size_t n, int *whole) {
    const unsigned char c = s[0];
    const unsigned lo = c == 0xE0 ? 0xA0 : c == 0xF0 ? 0x90 : 0x80, hi = c == 0xED ? 0x9F : c == 0xF4 ? 0x8F : 0xBF;
    const size_t length = c < 0x80 ? 1 : c < 0xC2 ? 0 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : c < 0xF5 ? 4 : 0;
    *whole = length > 0;
    for (size_t i = 1; i < length; i++)
        if (i == n) {
            *whole = -1;
            return i;
        } else if (s[i] < (i == 1 ? lo : 0x80) || s[i] > (i == 1 ? hi : 0xBF)) {
            *whole = 0;
            return i;
        }
    return length ? length : 1;
}

/* The character at s[*at], of text known to be UTF-8; *at moves on. */
static uint32_t tok__next(const unsigned char *s, size_t *at) {
    const unsigned char *c = s + *at;
    *at += c[0] < 0x80 ? 1 : c[0] < 0xE0 ? 2 : c[0] < 0xF0 ? 3 : 4;
    if (c[0] < 0x80) return c[0];
    if (c[0] < 0xE0) return (c[0] & 0x1Fu) << 6 | (c[1] & 0x3Fu);
    if (c[0] < 0xF0) return (c[0] & 0x0Fu) << 12 | (c[1] & 0x3Fu) << 6 | (c[2] & 0x3Fu);
    return (c[0] & 0x07u) << 18 | (c[1] & 0x3Fu) << 12 | (c[2] & 0x3Fu) << 6 | (c[3] & 0x3Fu);
}

/* ---- >>unicode --------------------------------------------------------------------------------------------------- */
/* The class of every code point from 0 on, as runs of a letter and a length. l m n p s: \p{L} and so on; w: \s; d: what
   only Digits takes for a digit; o: all else. Made by tests/tokenizer/unicode.js. */

static const char *const tok__unicode[] = {
    "o9w5o18w1p3s1p6s1p4n10p2s3p2l26p3s1p1s1l26p1s1p1s1o6w1o26w1p1s5p1s2l1p1s1o1s4n2s1l1p2s1n1l1p1n3p1l23s1l31s1l458s4l"
    "12s14",
    "l5s7l1s1l1s17m112l5s1l2o2l4p1l1o4s2l1p1l3o1l1o1l20o1l83s1l139s1m7l166o1l38o2l1p6l41p2o2s3o1m45p1m1p1m2p1m2p1m1o8l2"
    "7o4l4",
    "p2o17s3p2s1p2s2m11p1o1p3l43m21n10p4l2m1l99p1l1m7o1s1m6l2m2s1m4l2n10l3s2l1p14o2l1m1l30m27o2l89m11l1o14n10l33m9l2s1p"
    "3l1o2",
    "m1s2l22m4l1m9l1m3l1m5o2p15o1l25m3o2p1o1l11o5l24s1l6o8m9l42m24o1m33l54m3l1m18l1m7l10m2p2n10p1l16m3o1l8o2l2o2l22o1l7"
    "o1l1o3",
    "l4o2m1l1m7o2m2o2m3l1o8m1o4l2o1l3m2o2n10l2s2n6s2l1p1m1o2m3o1l6o4l2o2l22o1l7o1l2o1l2o1l2o2m1o1m5o4m2o2m3o3m1o7l4o1l1"
    "o7n10",
    "m2l3m1p1o10m3o1l9o1l3o1l22o1l7o1l2o1l5o2m1l1m8o1m3o1m3o2l1o15l2m2o2n10p1s1o7l1m6o1m3o1l8o2l2o2l22o1l7o1l2o1l5o2m1l"
    "1m7o2",
    "m2o2m3o7m3o4l2o1l3m2o2n10s1l1n6o10m1l1o1l6o3l3o1l4o3l2o1l1o1l2o3l2o3l3o3l12o4m5o3m3o1m4o2l1o6m1o14n13s8o5m5l8o1l3o"
    "1l23o1",
    "l16o2m1l1m7o1m3o1m4o7m2o1l3o2l1o2l2m2o2n10o7p1n7s1l1m3p1l8o1l3o1l23o1l10o1l5o2m1l1m7o1m3o1m4o7m2o6l2o1l2m2o2n10o1l"
    "2m1o12",
    "m4l9o1l3o1l41m2l1m7o1m3o1m4l1s1o4l3m1n7l3m2o2n19s1l6o1m3o1l18o3l24o1l9o1l1o2l7o3m1o4m6o1m1o1m8o6n10o2m2p1o12l48m1l"
    "2m7o4",
    "s1l7m8p1n10p2o37l2o1l1o1l5o1l24o1l1o1l10m1l2m9l1o2l5o1l1o1m7o1n10o2l4o32l1s3p15s1p1s3m2s6n20s1m1s1m1s1m1p4m2l8o1l3"
    "6o4m20",
    "p1m2l5m11o1m36o1s8m1s6o1s2p5s4p2o37l43m20l1n10p6l6m4l4m3l1m3l2m7l3m4l13m12l1m1n10m4s2l38o1l1o5l1o2l43p1l333o1l4o2l"
    "7o1l1",
    "o1l4o2l41o1l4o2l33o1l4o2l7o1l1o1l4o2l15o1l57o1l4o2l67o2m3p9n20o3l16s10o6l86o2l6o2p1l620s1p1l17w1l26p2o3l75p3n3l8o7"
    "l18m4",
    "o9l19m3p2o9l18m2o12l13o1l3o1m2o12l52m32p3l1p3s1l1m1o2n10o6n10o6p11m3o1m1n10o6l89o7l5m2l34m1l1o5l70o10l31o1m12o4m12"
    "o4s1o3",
    "p2n10l30o2l5o11l44o4l26o6n11o3s34l23m5o2p2l53m10o1m29o2m1n10o6n10o6p7l1p6o2m31o49m5l47m17l8o1p2n10p7s10m9s9p3m3l30"
    "m13l2",
    "n10l44m14o8p4l36m20o3p5n10o3l3n10l36p2l11o5l43o2l3p8o8m3p1m21l4m1l6m1l2m3l1o5l192m64l278o2l6o2l38o2l6o2l8o1l1o1l1o"
    "1l1o1",
    "l31o2l53o1l7s1l1s3l3o1l7s3l4o2l6o1s3l13s3o2l3o1l7s2o1w11o5p24w2o5w1p20s1p13s1p12w1o16n1l1o2n6s3p2l1n10s3p2o1l13o3s"
    "33o15",
    "m33o15s2l1s4l1s2l10s1l1s3l5s6l1s1l1s1l1s1l4s1l11s2l4s5l5s4l1s1n51l2n5s2o4s376p4s29p2s255o22s11o21n60s78n22s616p14n"
    "30s49",
    "p2s31p10s403p22s63p4s32p2s374o2s32o1s105l229s6l4m3l2o5p4n1p2l38o1l1o5l1o2l56o7l1p1o14m1l23o9l7o1l7o1l7o1l7o1l7o1l7"
    "o1l7o1",
    "l7o1m32p47l1p32s2p12o34s26o1s89o12s214o26s16w1p3s1l2n1p10s2p12s1n9m6p1l5s2n3l2p1s2o1l86o2m2s2l3p1l90p1l4o5l43o1l94"
    "o1s2n4",
    "s10l32s38o9s1l16s31o1n10s30n8s1n15s32n10s39n15s320l6592s64l22157o3s55o9l46p2l269p3l16n10l2o20l47m4p1m10p1l31m2l70n"
    "10m2p6",
    "o8s23l9s2l103s2l67o2l2o1l1o1l8o21l16m1l3m1l4m1l23m5s4m1o3n6s4o6l52p4o8m2l50m18o8p2n10o6m18l6p3l1p1l2m1n10l28m8p2l2"
    "3m13",
    "o11p1l29o3m4l47m14p13o1l1n10o4p2l5m1l10n10l5o1l41m14o9l3m1l8m2o2n10o2p4l23s3l1m3l50m1l1m3l2m2l5m2l1m1l1o24l3p2l11m"
    "5p2l3",
    "m2o10l6o2l6o2l6o9l7o1l7o1l43s1l14s2o4l115m8p1m2o2n10o6l11172o12l23o4l49o8452l366o2l106o38l7o12l5o5l1m1l10s1l13o1l5"
    "o1l1o1",
    "l2o1l2o1l108s17o16l363p2s16l64o2l54o7s1o32l12s4m16p10o6m16p35o1p14s1p1s3o1p1s1p2o4l5o1l135o4p3s1p6s1p4n10p2s3p2l26"
    "p3s1p1",
    "s1l26p1s1p1s1p7l89o3l6o2l6o2l6o2l3o3s7o1s7o13s2o2l12o1l26o1l19o1l2o1l15o2l14o34l123o5p3o4n45o3s9n57s17n2s3o1s13o3s"
    "1o47",
    "s45m1o130l29o3l49o15m1n27o4l32n4o9l20n1l8n1o5l38m5o5l30o1p1l36o4l8p1n5o42l158o2n10o6l36o4l36o4l40o8l52o11p1l11o1l1"
    "5o1l7",
    "o1l2o1l11o1l15o1l7o1l2o3l52o12l311o9l22o10l8o24l6o1l42o1l9o69l6o2l1o1l44o1l2o3l1o2l23o1p1n8l23s2n7l31o8n9o48l19o1l"
    "2o5n5",
    "l22n6o3p1l26o5p1o64l56o4n2l2n16o2n46l1m3o1m2o5m4l4o1l3o1l29o2m3o4m1n9o7p9o7l29n2p1l29n3o32l8s1l28m2o4n5p7o9l54o3p7"
    "l22o2",
    "n8l19o5n8l18o7p4o12n7o80l73o55l51o13l51o7n6l36m4o8n10o6n10l28o3m5p1l23o8s2o208n31o1l42o1m2p1o2l2o16l3o55m4l29n10l1"
    "o8l22",
    "m11n4p5o22l18m4p4o38l21n7o20l23o9m3l53m15p7o4n30m1l2m2l1o9m4l45m11p2o1p4m1o13l25o7n10o6m3l36m14o1n10p4l1m2l1o8l35m"
    "1p2l1",
    "o9m3l48m14l4p4m4p1m2n10l1p1l1p3o1n20o11l18o1l25m12p6m1l2m1o62l7o1l1o1l4o1l15o1l10p1o6l47m12o5n10o6m4o1l8o2l2o2l22o"
    "1l7o1",
    "l2o1l5o1m2l1m7o2m2o2m3o2l1o6m1o5l5m2o2m7o3m5o11l10o1l1o2l1o1l38o1l1m9o1m1o2m1o1m4o1m5l1m1l1p2o1p2o8m2o29l53m18l4p5"
    "n10p2",
    "o1p1m1l3o30l48m20l2p1l1o8n10o166l47m7o2m9p23l4m2o34l48m17p3l1o11n10o6p13o19l43m13l1p1o6n10o6n20o28l27o2m15o4n12p3s"
    "1l7",
    "o185l44m15p1o100l64n19o12l8o2l1o2l8o1l2o1l24m6o1m2o2m4l1m1l1m2p3o9n10o70l8o2l39m7o2m7l1p1l1m1o27l1m10l40m7l1m4p8m1"
    "o8l1",
    "m11l46m16p3l1p5o13l73o7p10o182l33p1o14n10o6l9o1l37m8o1m8l1p5o10n29o3p2l30o2m22o1m14o73l7o1l2o1l38m6o3m1o1m2o1m7l1m"
    "1o8n10",
    "o6l6o1l2o1l32m5o1m2o1m5l1o7n10o54d10o246l19m4p2o7m2l1m1l13o1l34m7o3m5p13n10m1o85l1o15n21s29o13p1l922o102n111o1p5o1"
    "1l196",
    "o2636l97p2o13l1072o16m1l6m15o10l3995o5l583o6841l30m18n10o1734l569o7l31o1n10o4p2l79o1n10o6l30o2m5p1o10l48m7p5s4l4p1"
    "s1o10",
    "n10o1n7o1l21o5l19o432l45p3n10o198l64n23p4o101l75o4m1l1m55o7m4l13o64l2p1l1m1o11m2o2d3o9l6136o8l1238o41l10o8935l4o1l"
    "7o1l2",
    "o1l291o15l1o29l3o2l1o14l4o8l396o2308l107o5l13o3l9o7l10o2s1m2p1o3936s240n10o6s436o76m46o2m23o9s116o60s246o10s39o2s6"
    "0m5s3",
    "m6o8m8s2m7s30m4s61o21s66m3s1o122n20o12n20o12s87o9n25o135l85o1l71o1l2o2l1o2l2o2l4o1l12o1l1o1l7o1l65o1l4o2l8o1l7o1l2"
    "8o1l4",
    "o1l5o1l1o3l7o1l340o2l25s1l25s1l31s1l25s1l31s1l25s1l31s1l25s1l31s1l25s1l8o2n50s512m55s4m50s8m1s14m1s2p5o15m5o1m15o1"
    "104l31",
    "o6l6o213m7o1m17o2m7o1m2o1m5o5l62o33m1o112l45o3m7l7o2n10o4l1s1o320l30m1o17l44m4n10o5s1o464l28m4n10o214l30m2l1n10o4p"
    "1o480",
    "l7o1l4o1l2o1l15o1l197o2n9m7o41l68m7l1o4n10o4p2o785n59s1n3s1n4o76n45s1n15o194l4o1l27o1l2o1l1o2l1o1l10o1l4o1l1o1l1o6"
    "l1o4l1",
    "o1l1o1l1o1l3o1l2o1l1o2l1o1l1o1l1o1l1o1l1o1l2o1l1o2l4o1l7o1l4o1l4o1l1o1l10o1l17o5l3o1l5o1l17o52s2o270s44o4s100o12s1"
    "5o2s15",
    "o1s15o1s37o10n13s161o56s29o13s44o4s9o7s2o14s6o154s984o4s17o3s13o3s119o4s95o6s12o4s1o15s12o4s56o8s10o6s40o8s30o2s12"
    "o4s2",
    "o62s340o12s14o2s13o3s10o5s56o7s15o2s11o6s9o7s147o1s92n10o1030l42720o32l4154o6l222o2l5762o14l7473o15l622o2466l542o1"
    "506",
    "l4939o5l4192o712016m240o196112",
};

enum {
    TOK__O = 1,
    TOK__L = 2,
    TOK__M = 4,
    TOK__N = 8,
    TOK__P = 16,
    TOK__S = 32,
    TOK__W = 64,
    TOK__D = 128,
    TOK__CODES = 0x110000
};

/* classes [TOK__CODES] = one of TOK__O ... TOK__D */
static void tok__expand_unicode(unsigned char *classes) {
    static const char letters[] = "olmnpswd";
    size_t at = 0;
    for (size_t i = 0; i < sizeof tok__unicode / sizeof tok__unicode[0]; i++)
        for (const char *c = tok__unicode[i]; *c;) {
            char *end;
            const int k = (int)(strchr(letters, *c) - letters);
            const size_t run = (size_t)strtoul(c + 1, &end, 10);
            memset(classes + at, 1 << k, run);
            at += run;
            c = end;
        }
}
/* ---- >>types ----------------------------------------------------------------------------------------------------- */

enum { TOK__MAX_SIZE = 1 << 20, TOK__MAX_CONTENT = 256, TOK__MAX_STAGES = 16, TOK__MAX_TEMPLATE = 16, TOK__SHORT = 32 };

typedef struct tok__range {
    uint32_t first, last;
} tok__range;

typedef struct tok__set { /* of characters, as [...] in a regex */
    unsigned char ascii[128];
    unsigned classes;   /* of those above, by class */
    tok__range *ranges; /* and by number: in order, apart */
    size_t n_ranges;
    int negated;
} tok__set;

enum tok__kind { TOK__RUN, TOK__TRAILING, TOK__WORDS };

typedef struct tok__stage { /* a pre-tokenizer: its matches become pieces, and so does what lies between them */
    enum tok__kind kind;
    tok__set set, before; /* RUN: at most one character of before, if a match follows; then 1 to most of set */
    size_t most;
} tok__stage;

typedef struct tok__entry { /* an id */
    const char *text;       /* NULL: unused */
    size_t length;
    int added, special;
} tok__entry;

typedef struct tok__added {
    const unsigned char *text;
    size_t length;
    int id, lstrip, rstrip, control;
} tok__added;

typedef struct tok__merge {
    int left, right, rank, id;
} tok__merge;

struct tokenizer {
    json_value *file; /* owns contents and spellings */
    const json_value *vocab;
    unsigned char *classes; /* [TOK__CODES] */
    int size;
    tok__entry *entries; /* [size] */
    char *pool;          /* the bytes of vocabulary entries */
    int bytes[256];      /* the id of each byte, or -1 */
    int *ids_by_rank;    /* what each merge makes */
    tok__merge *merges;  /* by left and right */
    int *first;          /* [size + 1]; merges[first[left]..first[left + 1]) have that left side */
    tok__stage stages[TOK__MAX_STAGES];
    int n_stages;
    tok__added *added[2]; /* "normalized": false, and true; by content */
    size_t n_added[2];
    unsigned char starts[2][256];                                               /* whether any content begins so */
    int before[TOK__MAX_TEMPLATE], after[TOK__MAX_TEMPLATE], n_before, n_after; /* what the post-processor adds */
};

/* ---- >>regex ----------------------------------------------------------------------------------------------------- */

/* DeepSeek-V3's, with \r and \n as characters or as escapes. */
#define TOK__WORDS_REGEX(R, N)                                                                                         \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^" R N "\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"               \
    "| ?[\\p{P}\\p{S}]+[" R N "]*|\\s*[" R N "]+|\\s+(?!\\S)|\\s+"

static int tok__by_first(const void *a, const void *b) {
    const tok__range *x = (const tok__range *)a, *y = (const tok__range *)b;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* One member of a class at s[*at]: its character, or -1 and a class in *classes, or -2 for what is not understood
   here. */
static int64_t tok__read_member(const unsigned char *s, size_t n, size_t *at, unsigned *classes) {
    static const char names[] = "LMNPS", escapes[] = "rnt", stands_for[] = "\r\n\t";
    const char *found;
    if (*at >= n || !s[*at] || s[*at] == '[' || s[*at] == ']' || s[*at] == '-' || s[*at] == '&') return -2;
    if (s[*at] != '\\') return tok__next(s, at);
    if (n - *at < 2 || !s[*at + 1]) return -2;
    const unsigned char c = s[*at + 1];
    *at += 2;
    found = strchr(escapes, c);
    if (found) return stands_for[found - escapes];
    if (c == 's') *classes = TOK__W;
    else if (c == 'p' && n - *at >= 3 && s[*at] == '{' && s[*at + 2] == '}' && s[*at + 1] &&
             (found = strchr(names, s[*at + 1])) != NULL) {
        *classes = (unsigned)TOK__L << (found - names);
        *at += 3;
    } else return strchr("[]\\-^&!\"#$%'()*+,./:;<=>?@_`{|}~ ", c) ? c : -2;
    return -1;
}

/* [...], [^...] or \p{X}, \s at s[*at]. 0: not understood here, or -1: out of memory. */
static int tok__read_set(const tokenizer *t, tok__set *set, const unsigned char *s, size_t n, size_t *at) {
    const int bracket = *at < n && s[*at] == '[';
    size_t kept = 0;
    *at += (size_t)bracket;
    set->negated = bracket && *at < n && s[*at] == '^';
    *at += (size_t)set->negated;
    set->ranges = (tok__range *)malloc(sizeof *set->ranges * (n + 1));
    if (!set->ranges) return -1;
    do {
        unsigned classes = 0;
        const size_t from = *at;
        const int64_t first = tok__read_member(s, n, at, &classes);
        int64_t last = first;
        if (first == -2 || (!bracket && s[from] != '\\')) return 0;
        set->classes |= classes;
        if (*at < n && s[*at] == '-' && bracket) {
            ++*at;
            last = tok__read_member(s, n, at, &classes);
            if (first < 0 || last < first) return 0;
        }
        if (first < 0) continue;
        set->ranges[set->n_ranges].first = (uint32_t)first;
        set->ranges[set->n_ranges++].last = (uint32_t)last;
    } while (bracket && *at < n && s[*at] != ']');
    if (bracket && *at >= n) return 0;
    *at += (size_t)bracket;
    qsort(set->ranges, set->n_ranges, sizeof *set->ranges, tok__by_first);
    for (size_t i = 0; i < set->n_ranges; i++) {
        const tok__range r = set->ranges[i];
        if (kept && r.first <= set->ranges[kept - 1].last) {
            if (r.last > set->ranges[kept - 1].last) set->ranges[kept - 1].last = r.last;
        } else set->ranges[kept++] = r;
    }
    set->n_ranges = kept;
    for (uint32_t c = 0; c < 128; c++) {
        int in = (t->classes[c] & set->classes) != 0;
        for (size_t i = 0; i < kept; i++) in |= c >= set->ranges[i].first && c <= set->ranges[i].last;
        set->ascii[c] = (unsigned char)(in != set->negated);
    }
    return 1;
}

/* Makes a stage of a regex. 0: not one of those that are known, or -1: out of memory. */
static int tok__read_regex(const tokenizer *t, tok__stage *stage, const char *regex, size_t length) {
    const unsigned char *s = (const unsigned char *)regex;
    size_t at = 0;
    int rc;
    stage->kind = TOK__WORDS;
    if (!strcmp(regex, TOK__WORDS_REGEX("\r", "\n")) || !strcmp(regex, TOK__WORDS_REGEX("\\r", "\\n"))) return 1;
    stage->kind = TOK__TRAILING;
    if (!strcmp(regex, "\\s+$")) return 1;
    stage->kind = TOK__RUN;
    stage->most = 1;
    if (!strncmp(regex, " ?", 2)) {
        stage->before.ascii[0x20] = 1;
        at = 2;
    } else if (!strncmp(regex, "\\s?", 3)) {
        rc = tok__read_set(t, &stage->before, s, 2, &at);
        if (rc <= 0) return rc;
        at = 3;
    }
    rc = tok__read_set(t, &stage->set, s, length, &at);
    if (rc <= 0) return rc;
    if (!strcmp(regex + at, "+")) stage->most = SIZE_MAX;
    else if (length - at == 5 && !strncmp(regex + at, "{1,", 3) && s[at + 3] >= '1' && s[at + 3] <= '9' &&
             s[at + 4] == '}')
        stage->most = (size_t)(s[at + 3] - '0');
    else if (at != length) return 0;
    return 1;
}
/* ---- >>scanners -------------------------------------------------------------------------------------------------- */
/* Each finds the first match in s [n], which is UTF-8, from `at` on: 1 and [*begin, *end), or 0. Over all calls for one
   text a character is looked at a fixed number of times at most. */

static int tok__in(const tokenizer *t, const tok__set *set, uint32_t c) {
    size_t low = 0, high = set->n_ranges;
    if (c < 128) return set->ascii[c];
    if (t->classes[c] & set->classes) return !set->negated;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (c < set->ranges[middle].first) high = middle;
        else if (c > set->ranges[middle].last) low = middle + 1;
        else return !set->negated;
    }
    return set->negated;
}

/* The end of the run of characters of these classes that begins at `at`. */
static size_t tok__run_end(const tokenizer *t, unsigned classes, const unsigned char *s, size_t n, size_t at) {
    for (size_t next = at; at < n; at = next)
        if (!(t->classes[tok__next(s, &next)] & classes)) break;
    return at;
}

/* before? set{1,most} */
static int tok__find_run(const tokenizer *t, const tok__stage *stage, const unsigned char *s, size_t n, size_t at,
                         size_t *begin, size_t *end) {
    for (size_t next = at; at < n; at = next) {
        const uint32_t c = tok__next(s, &next);
        size_t most = stage->most, after = next;
        int found = next < n && tok__in(t, &stage->before, c) && tok__in(t, &stage->set, tok__next(s, &after));
        if (!found) {
            after = next;
            found = tok__in(t, &stage->set, c);
        }
        if (!found) continue;
        *begin = at;
        for (*end = after; --most && after < n && tok__in(t, &stage->set, tok__next(s, &after));) *end = after;
        return 1;
    }
    return 0;
}

/* \s+$, where $ is also before a line feed */
static int tok__find_trailing(const tokenizer *t, const unsigned char *s, size_t n, size_t at, size_t *begin,
                              size_t *end) {
    for (size_t next = at; at < n; at = next) {
        next = tok__run_end(t, TOK__W, s, n, at);
        *begin = at;
        *end = next;
        if (next == n) return 1;
        while (*end > at && s[--*end] != '\n') {}
        if (*end > at) return 1;
        if (next == at) tok__next(s, &next);
    }
    return 0;
}

/* TOK__WORDS_REGEX, its alternatives in their order */
static int tok__find_word(const tokenizer *t, const unsigned char *s, size_t n, size_t at, size_t *begin, size_t *end) {
    for (size_t next = at; at < n; at = next) {
        const uint32_t c = tok__next(s, &next);
        const unsigned k = t->classes[c];
        const int newline = c == '\r' || c == '\n';
        size_t after = next, last;
        const unsigned follows = next < n ? t->classes[tok__next(s, &after)] : 0;
        *begin = at;
        if (c < 128 && (k & (TOK__P | TOK__S)) && next < n && s[next] < 128 && (follows & TOK__L)) {
            for (*end = next; *end < n && s[*end] < 128 && (t->classes[s[*end]] & TOK__L);) ++*end;
            return 1;
        }
        if ((k & (TOK__L | TOK__M)) || (!newline && !(k & (TOK__P | TOK__S)) && (follows & (TOK__L | TOK__M)))) {
            *end = tok__run_end(t, TOK__L | TOK__M, s, n, next);
            return 1;
        }
        if ((k & (TOK__P | TOK__S)) || (c == ' ' && (follows & (TOK__P | TOK__S)))) {
            *end = tok__run_end(t, TOK__P | TOK__S, s, n, next);
            while (*end < n && (s[*end] == '\r' || s[*end] == '\n')) ++*end;
            return 1;
        }
        if (!(k & TOK__W)) continue;
        after = tok__run_end(t, TOK__W, s, n, at);
        for (last = after; last > at; last--) /* \s*[\r\n]+: as far as the last newline in the run */
            if (s[last - 1] == '\r' || s[last - 1] == '\n') break;
        *end = last;
        if (last > at) return 1;
        *end = after;
        if (after == n) return 1; /* \s+(?!\S): all of the run, or all but the character before what follows it */
        for (last = after - 1; (s[last] & 0xC0) == 0x80;) last--;
        if (last > at) *end = last;
        return 1;
    }
    return 0;
}

/* ---- >>merging --------------------------------------------------------------------------------------------------- */

typedef struct tok__job { /* one call of tokenizer_encode */
    const tokenizer *t;
    unsigned flags;
    int *ids;
    size_t capacity;
    int64_t count;
    int no_memory;
} tok__job;

static void tok__emit(tok__job *j, int id) {
    if (j->ids && (uint64_t)j->count < j->capacity) j->ids[j->count] = id;
    j->count++;
}

/* The rank of the merge of two neighbours, or INT32_MAX. */
static int tok__rank(const tokenizer *t, int left, int right) {
    int low = t->first[left], high = t->first[left + 1];
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (t->merges[middle].right < right) low = middle + 1;
        else high = middle;
    }
    return low < t->first[left + 1] && t->merges[low].right == right ? t->merges[low].rank : INT32_MAX;
}

/* At most TOK__SHORT bytes: looks for the lowest rank each time. */
static void tok__short_word(tok__job *j, const unsigned char *s, size_t n) {
    const tokenizer *t = j->t;
    int ids[TOK__SHORT + 1], ranks[TOK__SHORT + 1];
    for (size_t i = 0; i < n; i++) ids[i] = t->bytes[s[i]];
    for (size_t i = 0; i + 1 < n; i++) ranks[i] = tok__rank(t, ids[i], ids[i + 1]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (ranks[i] < ranks[best]) best = i;
        if (ranks[best] == INT32_MAX) break;
        ids[best] = t->ids_by_rank[ranks[best]];
        n--;
        for (size_t i = best + 1; i < n; i++) ids[i] = ids[i + 1];
        for (size_t i = best + 1; i + 1 < n; i++) ranks[i] = ranks[i + 1];
        if (best + 1 < n) ranks[best] = tok__rank(t, ids[best], ids[best + 1]);
        if (best > 0) ranks[best - 1] = tok__rank(t, ids[best - 1], ids[best]);
    }
    for (size_t i = 0; i < n; i++) tok__emit(j, ids[i]);
}
/* The same with a heap of rank << 32 | position, for words of any length. A symbol is known by the position of its
 * first byte. */
typedef struct tok__symbol {
    int id, rank;        /* rank: of the merge with the next one */
    uint32_t last, next; /* where its neighbours are; n: there is no next one */
} tok__symbol;

static void tok__push(uint64_t *heap, size_t *size, uint64_t key) {
    size_t i = (*size)++;
    for (; i && heap[(i - 1) / 2] > key; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = key;
}

static uint64_t tok__pop(uint64_t *heap, size_t *size) {
    const uint64_t least = heap[0], key = heap[--*size];
    size_t i = 0;
    for (size_t child = 1; child < *size; child = 2 * i + 1) {
        if (child + 1 < *size && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= key) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = key;
    return least;
}

static void tok__rerank(const tokenizer *t, tok__symbol *symbols, uint32_t at, uint32_t n, uint64_t *heap,
                        size_t *size) {
    tok__symbol *x = symbols + at;
    x->rank = x->next < n ? tok__rank(t, x->id, symbols[x->next].id) : INT32_MAX;
    if (x->rank != INT32_MAX) tok__push(heap, size, (uint64_t)x->rank << 32 | at);
}

static void tok__long_word(tok__job *j, const unsigned char *s, size_t length) {
    const tokenizer *t = j->t;
    const size_t each =
        sizeof(tok__symbol) + 2 * sizeof(uint64_t); /* a merge takes a key and adds two: less than 2n keys */
    const uint32_t n = (uint32_t)length;
    size_t size = 0;
    uint64_t *heap = length > UINT32_MAX || length > SIZE_MAX / each ? NULL : (uint64_t *)malloc(length * each);
    tok__symbol *symbols;
    if (!heap) {
        j->no_memory = 1;
        return;
    }
    symbols = (tok__symbol *)(heap + 2 * length);
    for (uint32_t i = 0; i < n; i++) {
        symbols[i].id = t->bytes[s[i]];
        symbols[i].last = i - 1;
        symbols[i].next = i + 1;
    }
    for (uint32_t i = 0; i < n; i++) tok__rerank(t, symbols, i, n, heap, &size);
    while (size) {
        const uint64_t key = tok__pop(heap, &size);
        const uint32_t at = (uint32_t)key;
        tok__symbol *x = symbols + at, *y;
        if (x->rank != (int)(key >> 32)) continue; /* its symbols are no longer there */
        y = symbols + x->next;
        x->id = t->ids_by_rank[x->rank];
        x->next = y->next;
        y->rank = INT32_MAX;
        if (x->next < n) symbols[x->next].last = at;
        tok__rerank(t, symbols, at, n, heap, &size);
        if (at) tok__rerank(t, symbols, x->last, n, heap, &size);
    }
    for (uint32_t i = 0; i < n; i = symbols[i].next) tok__emit(j, symbols[i].id);
    free(heap);
}

static void tok__word(tok__job *j, const unsigned char *s, size_t n) {
    if (n <= TOK__SHORT) tok__short_word(j, s, n);
    else tok__long_word(j, s, n);
}

/* ---- >>encoder --------------------------------------------------------------------------------------------------- */

static void tok__pieces(tok__job *j, int stage, const unsigned char *s, size_t n) {
    const tokenizer *t = j->t;
    const tok__stage *p = t->stages + stage;
    size_t at = 0, begin, end;
    if (stage == t->n_stages) {
        if (n) tok__word(j, s, n);
        return;
    }
    while (!j->no_memory) {
        const int found = p->kind == TOK__RUN     ? tok__find_run(t, p, s, n, at, &begin, &end)
                          : p->kind == TOK__WORDS ? tok__find_word(t, s, n, at, &begin, &end)
                                                  : tok__find_trailing(t, s, n, at, &begin, &end);
        if (!found) begin = n;
        if (begin > at) tok__pieces(j, stage + 1, s + at, begin - at);
        if (!found) return;
        tok__pieces(j, stage + 1, s + begin, end - begin);
        at = end;
    }
}

/* The longest content of the set that s [n] begins with, or NULL: narrows down the sorted list byte by byte. */
static const tok__added *tok__find_added(const tokenizer *t, int set, const unsigned char *s, size_t n) {
    const tok__added *list = t->added[set], *best = NULL;
    size_t low = 0, high = t->n_added[set];
    for (size_t depth = 0; low < high; depth++) {
        if (list[low].length == depth) best = list + low++; /* the shortest comes first */
        if (depth == n) break;
        for (size_t end = high; low < end;) { /* the first whose byte is not less */
            const size_t middle = (low + end) / 2;
            if (list[middle].text[depth] < s[depth]) low = middle + 1;
            else end = middle;
        }
        for (size_t begin = low; begin < high;) { /* the first whose byte is greater */
            const size_t middle = (begin + high) / 2;
            if (list[middle].text[depth] > s[depth]) high = middle;
            else begin = middle + 1;
        }
    }
    return best;
}

/* Finds the added tokens of this set, 0 then 1; what lies between them goes on. */
static void tok__added_tokens(tok__job *j, int set, const unsigned char *s, size_t n) {
    const tokenizer *t = j->t;
    size_t done = 0; /* up to here all is given out */
    if (set == 2) {
        tok__pieces(j, 0, s, n);
        return;
    }
    for (size_t at = 0; at < n && !j->no_memory;) {
        const tok__added *a = t->starts[set][s[at]] ? tok__find_added(t, set, s + at, n - at) : NULL;
        size_t begin = at, end;
        if (!a) {
            at++;
            continue;
        }
        end = at += a->length;
        if (a->control && (j->flags & TOKENIZER_PLAIN)) continue;
        if (a->lstrip)
            while (begin > done) {
                size_t from = begin - 1, next;
                while ((s[from] & 0xC0) == 0x80) from--;
                next = from;
                if (!(t->classes[tok__next(s, &next)] & TOK__W)) break;
                begin = from;
            }
        if (a->rstrip) end = tok__run_end(t, TOK__W, s, n, end);
        if (a->lstrip && end <= done) continue; /* white space that the one before has taken */
        if (begin > done) tok__added_tokens(j, set + 1, s + done, begin - done);
        tok__emit(j, a->id);
        done = end;
    }
    if (done < n) tok__added_tokens(j, set + 1, s + done, n - done);
}

int64_t tokenizer_encode(const tokenizer *t, const char *text, size_t n, unsigned flags, int *ids, size_t capacity) {
    const unsigned char *s = (const unsigned char *)text;
    unsigned char *clean = NULL;
    size_t valid = 0, length = 0, k;
    int whole = 1;
    tok__job j;
    if (!t || (!text && n)) return -1;
    memset(&j, 0, sizeof j);
    j.t = t;
    j.flags = flags;
    j.ids = ids;
    j.capacity = capacity;
    for (; valid < n; valid += k) {
        k = tok__utf8(s + valid, n - valid, &whole);
        if (whole != 1) break;
    }
    if (valid < n) {
        if (n > SIZE_MAX / 3) return -1;
        clean = (unsigned char *)malloc(3 * n);
        if (!clean) return -1;
        memcpy(clean, s, valid);
        length = valid;
        for (size_t at = valid; at < n; at += k) {
            k = tok__utf8(s + at, n - at, &whole);
            memcpy(clean + length, whole == 1 ? (const char *)s + at : "\xEF\xBF\xBD", whole == 1 ? k : 3);
            length += whole == 1 ? k : 3;
        }
        s = clean;
        n = length;
    }
    if (flags & TOKENIZER_SPECIAL)
        for (int i = 0; i < t->n_before; i++) tok__emit(&j, t->before[i]);
    tok__added_tokens(&j, 0, s, n);
    if (flags & TOKENIZER_SPECIAL)
        for (int i = 0; i < t->n_after; i++) tok__emit(&j, t->after[i]);
    free(clean);
    return j.no_memory ? -1 : j.count;
}

/* ---- >>decoder --------------------------------------------------------------------------------------------------- */

int tokenizer_size(const tokenizer *t) { return t ? t->size : 0; }

const char *tokenizer_bytes(const tokenizer *t, int id, size_t *length) {
    const int there = t && id >= 0 && id < t->size;
    if (length) *length = there ? t->entries[id].length : 0;
    return there ? t->entries[id].text : NULL;
}

int tokenizer_is_special(const tokenizer *t, int id) { return t && id >= 0 && id < t->size && t->entries[id].special; }

int tokenizer_find(const tokenizer *t, const char *content) {
    int64_t id;
    if (!t || !content) return -1;
    for (int set = 0; set < 2; set++) {
        const size_t n = strlen(content);
        const tok__added *a = tok__find_added(t, set, (const unsigned char *)content, n);
        if (a && a->length == n) return a->id;
    }
    return json_integer(json_get(t->vocab, content), &id) ? (int)id : -1;
}

size_t tokenizer_stream_push(tokenizer_stream *s, const char *bytes, size_t n, char *out) {
    size_t written = 0;
    for (size_t i = 0; i < n;) {
        int whole;
        size_t k;
        s->held[s->n++] = (unsigned char)bytes[i++];
        k = tok__utf8(s->held, (size_t)s->n, &whole);
        if (whole < 0) continue;
        memcpy(out + written, whole ? (const char *)s->held : "\xEF\xBF\xBD", whole ? k : 3);
        written += whole ? k : 3;
        i -= (size_t)s->n - k; /* a byte that cannot follow begins anew */
        s->n = 0;
    }
    return written;
}

size_t tokenizer_stream_end(tokenizer_stream *s, char *out) {
    const size_t written = s->n ? 3 : 0;
    memcpy(out, "\xEF\xBF\xBD", written);
    s->n = 0;
    return written;
}
/* ---- >>reader ---------------------------------------------------------------------------------------------------- */

typedef struct tok__reader {
    tokenizer *t;
    const char *label;
    mla_error *err;
    int byte_level; /* the pre-tokenizer ByteLevel has been read */
    int template_read;
} tok__reader;

static mla_result tok__no_memory(const tok__reader *r) {
    return tok__fail(r->err, MLA_ERR_MEMORY, "%.60s: out of memory", r->label);
}

static mla_result tok__unknown(const tok__reader *r, const char *what, const char *found, const char *known) {
    return tok__fail(r->err, MLA_ERR_UNSUPPORTED, "%.60s: %.40s: \"%.60s\" is not supported (%s)", r->label, what,
                     found ? found : "", known);
}

static mla_result tok__wrong(const tok__reader *r, const char *what, const char *expected) {
    return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: %.60s: expected %.99s", r->label, what, expected);
}

/* A string without NUL, or NULL. */
static const char *tok__text(const json_value *v) {
    size_t length;
    const char *s = json_string(v, &length);
    return s && strlen(s) == length ? s : NULL;
}

static int tok__is_null(const json_value *v) { return json_typeof(v) == JSON_NULL; }
static int tok__is(const json_value *v, const char *text) { return tok__text(v) && !strcmp(tok__text(v), text); }
static int tok__is_bool(const json_value *v, int value) { return json_typeof(v) == JSON_BOOL && json_bool(v) == value; }

/* Refuses what is not an object, and keys that are not in the list, which ends with NULL. */
static mla_result tok__keys(const tok__reader *r, const json_value *object, const char *what,
                            const char *const *known) {
    if (json_typeof(object) != JSON_OBJECT) return tok__wrong(r, what, "an object");
    for (size_t i = 0; i < json_count(object); i++) {
        const char *key = json_key(json_at(object, i)), *const *k = known;
        while (*k && strcmp(*k, key)) k++;
        if (!*k) return tok__unknown(r, what, key, "this key is not known");
    }
    return MLA_OK;
}

/* The byte that each code point below 324 stands for: printable Latin-1 stands for itself, 256 and above for the other
 * bytes. */
static void tok__spelling(int *byte_of) {
    int others = 256;
    for (int c = 0; c < 256; c++) byte_of[c] = -1;
    for (int b = 0; b < 256; b++) byte_of[(b > 32 && b < 127) || (b > 160 && b != 173) ? b : others++] = b;
}

/* Entries of the vocabulary, their bytes, and the id of each byte. entries [size] are there and unused. */
static mla_result tok__read_vocab(const tok__reader *r) {
    tokenizer *t = r->t;
    int byte_of[324];
    char *pool = t->pool;
    tok__spelling(byte_of);
    for (int b = 0; b < 256; b++) t->bytes[b] = -1;
    for (size_t i = 0; i < json_count(t->vocab); i++) {
        const char *key = json_key(json_at(t->vocab, i));
        const size_t n = strlen(key);
        char *start;
        int spelled = 1;
        int64_t id = -1;
        tok__entry *e;
        json_integer(json_at(t->vocab, i), &id);
        e = t->entries + id;
        if (e->text)
            return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: model.vocab \"%.60s\": the id %d stands twice", r->label,
                             key, (int)id);
        e->text = start = pool;
        for (size_t at = 0; at < n;) {
            const uint32_t c = tok__next((const unsigned char *)key, &at);
            spelled = c < 324 && byte_of[c] >= 0;
            if (!spelled) break;
            *pool++ = (char)byte_of[c];
        }
        if (!spelled) { /* no bytes, such as a special token: stands for itself */
            memcpy(start, key, n);
            pool = start + n;
        }
        e->length = (size_t)(pool - start);
        if (spelled && e->length == 1) t->bytes[(unsigned char)*start] = (int)id;
    }
    for (int b = 0; b < 256; b++)
        if (t->bytes[b] < 0 && b != 0xC0 && b != 0xC1 && b < 0xF5) /* those are in no UTF-8 */
            return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: model.vocab: the byte %d is missing", r->label, b);
    return MLA_OK;
}

static int tok__by_pair(const void *a, const void *b) {
    const tok__merge *x = (const tok__merge *)a, *y = (const tok__merge *)b;
    if (x->left != y->left) return x->left < y->left ? -1 : 1;
    if (x->right != y->right) return x->right < y->right ? -1 : 1;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

/* "a b" or ["a", "b"]; the vocabulary has a, b and ab. */
static mla_result tok__read_merge(const tok__reader *r, const json_value *v, tok__merge *m) {
    const char *left = tok__text(v), *right = NULL;
    char *joined, *middle = NULL;
    int64_t ids[3] = {-1, -1, -1};
    size_t n = 0, n_left = 0;
    char what[40];
    if (left) {
        const char *space = strchr(left, ' ');
        if (space && !strchr(space + 1, ' ')) right = space + 1, n_left = (size_t)(space - left);
    } else if (json_typeof(v) == JSON_ARRAY && json_count(v) == 2) {
        left = tok__text(json_at(v, 0));
        right = tok__text(json_at(v, 1));
        n_left = left ? strlen(left) : 0;
    }
    snprintf(what, sizeof what, "model.merges[%d]", m->rank);
    if (!left || !right) return tok__wrong(r, what, "\"a b\" or [\"a\", \"b\"]");
    n = n_left + strlen(right) + 1;
    joined = (char *)malloc(2 * n);
    if (!joined) return tok__no_memory(r);
    middle = joined + n; /* the left side, with an end */
    memcpy(joined, left, n_left);
    memcpy(joined + n_left, right, n - n_left);
    memcpy(middle, left, n_left);
    middle[n_left] = 0;
    for (int i = 0; i < 3; i++) {
        const char *token = i == 0 ? middle : i == 1 ? right : joined;
        if (json_integer(json_get(r->t->vocab, token), &ids[i])) continue;
        tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: %s: \"%.60s\" is not in the vocabulary", r->label, what, token);
        free(joined);
        return MLA_ERR_CONFIG;
    }
    free(joined);
    m->left = (int)ids[0];
    m->right = (int)ids[1];
    m->id = (int)ids[2];
    return MLA_OK;
}

static mla_result tok__read_merges(const tok__reader *r, const json_value *merges) {
    tokenizer *t = r->t;
    const size_t n = json_count(merges);
    size_t kept = 0;
    if (json_typeof(merges) != JSON_ARRAY || n >= INT32_MAX / 2)
        return tok__wrong(r, "model.merges", "an array of less than 2^30");
    t->merges = (tok__merge *)malloc(sizeof *t->merges * (n + 1));
    t->ids_by_rank = (int *)malloc(sizeof *t->ids_by_rank * (n + 1));
    t->first = (int *)calloc((size_t)t->size + 1, sizeof *t->first);
    if (!t->merges || !t->ids_by_rank || !t->first) return tok__no_memory(r);
    for (size_t i = 0; i < n; i++) {
        mla_result rc;
        t->merges[i].rank = (int)i;
        rc = tok__read_merge(r, json_at(merges, i), &t->merges[i]);
        if (rc) return rc;
        t->ids_by_rank[i] = t->merges[i].id;
    }
    qsort(t->merges, n, sizeof *t->merges, tok__by_pair);
    for (size_t i = 0; i < n; i++) { /* of one that stands twice the last counts, as in the crate */
        if (i + 1 < n && t->merges[i].left == t->merges[i + 1].left && t->merges[i].right == t->merges[i + 1].right)
            continue;
        t->first[t->merges[i].left + 1]++;
        t->merges[kept++] = t->merges[i];
    }
    for (int id = 0; id < t->size; id++) t->first[id + 1] += t->first[id];
    return MLA_OK;
}

static int tok__by_content(const void *a, const void *b) {
    const tok__added *x = (const tok__added *)a, *y = (const tok__added *)b;
    const int order = memcmp(x->text, y->text, x->length < y->length ? x->length : y->length);
    return order ? order : x->length < y->length ? -1 : x->length > y->length;
}

static mla_result tok__read_added(const tok__reader *r, const json_value *list) {
    static const char *const keys[] = {"id",     "content",    "single_word", "lstrip",
                                       "rstrip", "normalized", "special",     NULL};
    tokenizer *t = r->t;
    const size_t n = json_count(list);
    t->added[0] = (tok__added *)malloc(sizeof(tok__added) * (n + 1));
    t->added[1] = (tok__added *)malloc(sizeof(tok__added) * (n + 1));
    if (!t->added[0] || !t->added[1]) return tok__no_memory(r);
    for (size_t i = 0; i < n; i++) {
        const json_value *v = json_at(list, i), *known;
        const char *content = tok__text(json_get(v, "content"));
        const int set = tok__is_bool(json_get(v, "normalized"), 1);
        tok__added *a = &t->added[set][t->n_added[set]++];
        tok__entry *e;
        int64_t id = -1, other = -1;
        char what[40];
        mla_result rc;
        snprintf(what, sizeof what, "added_tokens[%zu]", i);
        rc = tok__keys(r, v, what, keys);
        if (rc) return rc;
        if (!content || !content[0] || strlen(content) > TOK__MAX_CONTENT)
            return tok__wrong(r, what, "a content of 1 to 256 bytes, none NUL");
        for (int k = 2; keys[k]; k++)
            if (json_typeof(json_get(v, keys[k])) != JSON_BOOL)
                return tok__wrong(r, what, "true or false for single_word, lstrip, ..., special");
        if (json_bool(json_get(v, "single_word"))) return tok__unknown(r, what, content, "single_word");
        json_integer(json_get(v, "id"), &id); /* 0 to size - 1: tok__measure has seen it */
        e = t->entries + id;
        known = json_get(t->vocab, content);
        if (known) json_integer(known, &other);
        if (known ? other != id || e->added : e->text != NULL)
            return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: %s: \"%.60s\" has the id %d, which is %s", r->label, what,
                             content, (int)id, known && other != id ? "another one in the vocabulary" : "taken");
        a->text = (const unsigned char *)content;
        a->length = strlen(content);
        a->id = (int)id;
        a->lstrip = json_bool(json_get(v, "lstrip"));
        a->rstrip = json_bool(json_get(v, "rstrip"));
        e->text = content;
        e->length = a->length;
        e->added = 1;
        e->special = json_bool(json_get(v, "special"));
        a->control = e->special || (content[0] == '<' && content[a->length - 1] == '>');
        t->starts[set][a->text[0]] = 1;
    }
    for (int set = 0; set < 2; set++) qsort(t->added[set], t->n_added[set], sizeof(tok__added), tok__by_content);
    for (int set = 0; set < 2; set++)
        for (size_t i = 0; i < t->n_added[set]; i++) {
            const tok__added *a = &t->added[set][i];
            if (tokenizer_find(t, (const char *)a->text) != a->id || (i && !tok__by_content(a - 1, a)))
                return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: added_tokens: \"%.60s\" stands twice", r->label,
                                 (const char *)a->text);
        }
    return MLA_OK;
}

static mla_result tok__read_pre_tokenizer(tok__reader *r, const json_value *v) {
    static const char *const sequence[] = {"type", "pretokenizers", NULL}, *const digits[] = {
                                                                               "type", "individual_digits", NULL};
    static const char *const split[] = {"type", "pattern", "behavior", "invert", NULL}, *const regex_keys[] = {"Regex",
                                                                                                               NULL};
    static const char *const byte_level[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};
    tokenizer *t = r->t;
    const json_value *type = json_get(v, "type");
    tok__stage *stage = &t->stages[t->n_stages];
    mla_result rc;
    if (tok__is(type, "Sequence")) {
        const json_value *list = json_get(v, "pretokenizers");
        rc = tok__keys(r, v, "pre_tokenizer", sequence);
        if (!rc && json_typeof(list) != JSON_ARRAY) rc = tok__wrong(r, "pre_tokenizer.pretokenizers", "an array");
        for (size_t i = 0; i < json_count(list) && !rc; i++) rc = tok__read_pre_tokenizer(r, json_at(list, i));
        return rc;
    }
    if (r->byte_level) return tok__unknown(r, "pre_tokenizer", tok__text(type), "nothing may come after ByteLevel");
    if (tok__is(type, "ByteLevel")) {
        rc = tok__keys(r, v, "pre_tokenizer ByteLevel", byte_level);
        if (rc) return rc;
        if (!tok__is_bool(json_get(v, "add_prefix_space"), 0))
            return tok__unknown(r, "pre_tokenizer ByteLevel", "add_prefix_space", "only false is");
        if (!tok__is_bool(json_get(v, "use_regex"), 0))
            return tok__unknown(r, "pre_tokenizer ByteLevel", "use_regex", "only false is");
        r->byte_level = 1;
        return MLA_OK;
    }
    if (t->n_stages == TOK__MAX_STAGES) return tok__wrong(r, "pre_tokenizer", "at most 16 steps");
    if (tok__is(type, "Digits")) {
        rc = tok__keys(r, v, "pre_tokenizer Digits", digits);
        if (rc) return rc;
        if (json_typeof(json_get(v, "individual_digits")) != JSON_BOOL)
            return tok__wrong(r, "pre_tokenizer Digits", "individual_digits");
        stage->set.classes = TOK__N | TOK__D;
        for (int c = '0'; c <= '9'; c++) stage->set.ascii[c] = 1;
        stage->most = json_bool(json_get(v, "individual_digits")) ? 1 : SIZE_MAX;
    } else if (tok__is(type, "Split")) {
        const json_value *pattern = json_get(v, "pattern");
        const char *regex = tok__text(json_get(pattern, "Regex"));
        int known;
        rc = tok__keys(r, v, "pre_tokenizer Split", split);
        if (!rc) rc = tok__keys(r, pattern, "pre_tokenizer Split.pattern", regex_keys);
        if (rc) return rc;
        if (!tok__is(json_get(v, "behavior"), "Isolated"))
            return tok__unknown(r, "pre_tokenizer Split.behavior", tok__text(json_get(v, "behavior")),
                                "only Isolated is");
        if (!tok__is_bool(json_get(v, "invert"), 0))
            return tok__unknown(r, "pre_tokenizer Split", "invert", "only false is");
        if (!regex) return tok__wrong(r, "pre_tokenizer Split.pattern.Regex", "a string without NUL");
        known = tok__read_regex(t, stage, regex, strlen(regex));
        if (known < 0) return tok__no_memory(r);
        if (!known) return tok__unknown(r, "pre_tokenizer Split", regex, "this regex is not known");
    } else return tok__unknown(r, "pre_tokenizer", tok__text(type), "Sequence, Split, Digits, ByteLevel are");
    t->n_stages++;
    return MLA_OK;
}

static mla_result tok__read_template(tok__reader *r, const json_value *v) {
    tokenizer *t = r->t;
    const json_value *single = json_get(v, "single"), *specials = json_get(v, "special_tokens");
    const char *const where = "post_processor TemplateProcessing";
    int seen = 0;
    if (r->template_read++) return tok__wrong(r, where, "one of them");
    if (json_typeof(single) != JSON_ARRAY) return tok__wrong(r, where, "an array `single`");
    for (size_t i = 0; i < json_count(single); i++) {
        const json_value *sequence = json_get(json_at(single, i), "Sequence"),
                         *special = json_get(json_at(single, i), "SpecialToken");
        const char *name = tok__text(json_get(special, "id"));
        const json_value *ids = name ? json_get(json_get(specials, name), "ids") : NULL;
        if (sequence && tok__is(json_get(sequence, "id"), "A") && !seen) seen = 1;
        else if (sequence || !json_count(ids))
            return tok__wrong(r, where, "`single` of special tokens that have ids, and one Sequence A");
        else
            for (size_t k = 0; k < json_count(ids); k++) {
                int *const n = seen ? &t->n_after : &t->n_before;
                int64_t id = -1;
                if (*n == TOK__MAX_TEMPLATE) return tok__wrong(r, where, "at most 16 ids on a side");
                if (!json_integer(json_at(ids, k), &id) || id < 0 || id >= t->size || !t->entries[id].text)
                    return tok__wrong(r, where, "ids that there are");
                (seen ? t->after : t->before)[(*n)++] = (int)id;
            }
    }
    return seen ? MLA_OK : tok__wrong(r, where, "a Sequence A in `single`");
}

static mla_result tok__read_post_processor(tok__reader *r, const json_value *v) {
    const json_value *type = json_get(v, "type"), *list = json_get(v, "processors");
    mla_result rc = MLA_OK;
    if (tok__is_null(v) || tok__is(type, "ByteLevel")) return MLA_OK; /* changes offsets, not ids */
    if (tok__is(type, "TemplateProcessing")) return tok__read_template(r, v);
    if (!tok__is(type, "Sequence"))
        return tok__unknown(r, "post_processor", tok__text(type), "ByteLevel, TemplateProcessing, Sequence are");
    if (json_typeof(list) != JSON_ARRAY) return tok__wrong(r, "post_processor.processors", "an array");
    for (size_t i = 0; i < json_count(list) && !rc; i++) rc = tok__read_post_processor(r, json_at(list, i));
    return rc;
}

/* The size: one more than the highest id. The ids of vocabulary and added tokens are integers in range. */
static mla_result tok__measure(const tok__reader *r, const json_value *added) {
    for (size_t i = 0, n = json_count(r->t->vocab); i < n + json_count(added); i++) {
        const json_value *v = i < n ? json_at(r->t->vocab, i) : json_get(json_at(added, i - n), "id");
        const char *name = i < n ? json_key(v) : tok__text(json_get(json_at(added, i - n), "content"));
        int64_t id = -1;
        if (!json_integer(v, &id) || id < 0 || id >= TOK__MAX_SIZE)
            return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: %s: \"%.60s\": the id must be an integer from 0 to %d",
                             r->label, i < n ? "model.vocab" : "added_tokens", name ? name : "", TOK__MAX_SIZE - 1);
        if (id >= r->t->size) r->t->size = (int)id + 1;
    }
    return MLA_OK;
}

static mla_result tok__read(tok__reader *r) {
    static const char *const keys[] = {"version",       "truncation",     "padding", "added_tokens", "normalizer",
                                       "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    static const char *const model_keys[] = {"type",
                                             "dropout",
                                             "unk_token",
                                             "continuing_subword_prefix",
                                             "end_of_word_suffix",
                                             "fuse_unk",
                                             "byte_fallback",
                                             "ignore_merges",
                                             "vocab",
                                             "merges",
                                             NULL}; /* with every byte there is no unk */
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    tokenizer *t = r->t;
    const json_value *file = t->file, *model = json_get(file, "model"), *added = json_get(file, "added_tokens");
    const json_value *normalizer = json_get(file, "normalizer"), *normalizers = json_get(normalizer, "normalizers");
    const json_value *decoder = json_get(json_get(file, "decoder"), "type");
    size_t bytes = 1;
    mla_result rc = tok__keys(r, file, "the file", keys);
    if (!rc) rc = tok__keys(r, model, "model", model_keys);
    if (rc) return rc;
    if (!tok__is(json_get(model, "type"), "BPE"))
        return tok__unknown(r, "model.type", tok__text(json_get(model, "type")), "only BPE is");
    if (!tok__is_null(json_get(file, "truncation"))) return tok__unknown(r, "the file", "truncation", "only null is");
    if (!tok__is_null(json_get(file, "padding"))) return tok__unknown(r, "the file", "padding", "only null is");
    if (!tok__is_null(normalizer) && (!tok__is(json_get(normalizer, "type"), "Sequence") ||
                                      json_typeof(normalizers) != JSON_ARRAY || json_count(normalizers)))
        return tok__unknown(r, "normalizer",
                            tok__text(json_get(json_count(normalizers) ? json_at(normalizers, 0) : normalizer, "type")),
                            "only none is");
    if (!tok__is(decoder, "ByteLevel")) return tok__unknown(r, "decoder", tok__text(decoder), "only ByteLevel is");
    if (!tok__is_null(json_get(model, "dropout"))) return tok__unknown(r, "model", "dropout", "only null is");
    for (int i = 0; i < 2; i++)
        if (!tok__is_null(json_get(model, affixes[i])) && !tok__is(json_get(model, affixes[i]), ""))
            return tok__unknown(r, "model", affixes[i], "only null is");
    if (json_get(model, "ignore_merges") && !tok__is_bool(json_get(model, "ignore_merges"), 0))
        return tok__unknown(r, "model", "ignore_merges", "only false is");
    t->vocab = json_get(model, "vocab");
    if (json_typeof(t->vocab) != JSON_OBJECT) return tok__wrong(r, "model.vocab", "an object");
    if (!tok__is_null(added) && json_typeof(added) != JSON_ARRAY) return tok__wrong(r, "added_tokens", "an array");
    rc = tok__measure(r, added);
    if (rc) return rc;
    for (size_t i = 0; i < json_count(t->vocab); i++) bytes += strlen(json_key(json_at(t->vocab, i)));
    t->entries = (tok__entry *)calloc((size_t)t->size + 1, sizeof *t->entries);
    t->pool = (char *)malloc(bytes);
    t->classes = (unsigned char *)malloc(TOK__CODES);
    if (!t->entries || !t->pool || !t->classes) return tok__no_memory(r);
    tok__expand_unicode(t->classes);
    rc = tok__read_vocab(r);
    if (!rc) rc = tok__read_merges(r, json_get(model, "merges"));
    if (!rc) rc = tok__read_added(r, added);
    if (!rc) rc = tok__read_pre_tokenizer(r, json_get(file, "pre_tokenizer"));
    if (!rc && !r->byte_level) rc = tok__wrong(r, "pre_tokenizer", "ByteLevel as the last");
    if (!rc) rc = tok__read_post_processor(r, json_get(file, "post_processor"));
    return rc;
}

mla_result tokenizer_parse(tokenizer **out, const char *json, size_t n, const char *label, mla_error *err) {
    tok__reader r;
    mla_error wrong;
    mla_result rc;
    if (out) *out = NULL;
    if (!out || (!json && n)) return tok__fail(err, MLA_ERR_ARGUMENT, "tokenizer_parse: json or out is NULL");
    memset(&r, 0, sizeof r);
    r.label = label ? label : "tokenizer.json";
    r.err = err;
    r.t = (tokenizer *)calloc(1, sizeof *r.t);
    if (!r.t) return tok__no_memory(&r);
    rc = json_parse(json, n, &r.t->file, &wrong);
    if (rc) rc = tok__fail(err, rc == MLA_ERR_MEMORY ? rc : MLA_ERR_CONFIG, "%.60s: %s", r.label, wrong.text);
    else rc = tok__read(&r);
    if (rc) tokenizer_close(r.t);
    else *out = r.t;
    return rc;
}

mla_result tokenizer_open(tokenizer **out, const char *path, mla_error *err) {
    const size_t most = (size_t)1 << 28;
    const char *label = path;
    char *text = NULL;
    size_t n = 0, capacity = 0, got = 1;
    mla_result rc = MLA_OK;
    FILE *f;
    if (out) *out = NULL;
    if (!out || !path) return tok__fail(err, MLA_ERR_ARGUMENT, "tokenizer_open: path or out is NULL");
    for (const char *c = path; *c; c++)
        if (*c == '/' || *c == '\\') label = c + 1;
    errno = 0;
    f = fopen(path, "rb");
    while (f && got && !rc) {
        if (n == capacity) {
            char *bigger = (char *)realloc(text, capacity = capacity ? 2 * capacity : 65536);
            if (!bigger || n >= most)
                rc = tok__fail(err, MLA_ERR_MEMORY, "%.60s: %s", label, bigger ? "more than 256 MiB" : "out of memory");
            if (bigger) text = bigger;
            if (rc) break;
        }
        got = fread(text + n, 1, capacity - n, f);
        n += got;
    }
    if (!f || (!rc && ferror(f))) {
        const int reason = errno;
        const char *why = reason == ENOENT   ? "no such file"
                          : reason == EISDIR ? "a directory"
                          : reason == EACCES ? "permission denied"
                                             : "input error";
        n = strlen(path);
        rc = tok__fail(err, MLA_ERR_ARGUMENT, "%s: cannot be read: %s (errno %d)", n > 160 ? path + n - 160 : path, why,
                       reason);
    }
    if (f) fclose(f);
    if (!rc) rc = tokenizer_parse(out, text, n, label, err);
    free(text);
    return rc;
}

void tokenizer_close(tokenizer *t) {
    if (!t) return;
    for (int i = 0; i < TOK__MAX_STAGES; i++) {
        free(t->stages[i].set.ranges);
        free(t->stages[i].before.ranges);
    }
    for (int set = 0; set < 2; set++) free(t->added[set]);
    free(t->first);
    free(t->merges);
    free(t->ids_by_rank);
    free(t->entries);
    free(t->pool);
    free(t->classes);
    json_free(t->file);
    free(t);
}
#endif /* TOKENIZER_IMPLEMENTATION */
