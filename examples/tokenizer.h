/* tokenizer.h - text to token ids and back: the tokenizers that models of the DeepSeek family come with, read from a
   Hugging Face tokenizer.json, from a tiktoken.model or from the keys of a GGUF file.

USE
   In exactly one file:      #define TOKENIZER_IMPLEMENTATION
                             #include "tokenizer.h"
   In all others:            #include "tokenizer.h"
                             (json_* of checkpoint.h must be implemented somewhere in the program)

   tokenizer *t;
   if (tokenizer_open(&t, "DeepSeek-V3", &error)) puts(error.text);
   n = tokenizer_encode(t, text, strlen(text), TOKENIZER_SPECIAL, ids, capacity);  ...  tokenizer_close(t);

STEPS          1. Bytes that are no UTF-8 become U+FFFD, one for each maximal part of a character, as in JavaScript
                  and Rust.
               2. Added tokens are found: first those with "normalized": false; what lies between them is normalized,
                  and then the others are found in it; leftmost, longest.
               3. The pre-tokenizers cut what is left into words, each cutting the pieces of the one before.
               4. In a word the two neighbours with the lowest merge are merged, the leftmost first, until no merge
                  fits. A word begins as bytes (byte-level) or as characters; one that is not in the vocabulary becomes
                  the tokens <0xXX> of its bytes (byte_fallback), else unk_token, else nothing.
               Source: the Rust crate `tokenizers` 0.23; the ids are the same (tests/tokenizer/run.sh compares).
TOKENIZER.JSON normalizer: none, NFC, Prepend, Replace, Sequence. pre_tokenizer: none, Split, ByteLevel, Digits,
               Punctuation, Metaspace, Sequence. model: BPE, with ignore_merges, byte_fallback, unk_token, fuse_unk.
               added_tokens: with lstrip, rstrip, normalized, special. post_processor: none, ByteLevel,
               TemplateProcessing, Sequence. decoder: ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace,
               Sequence. truncation and padding are for training and are ignored.
TIKTOKEN       Lines of a token in base64 and its rank, which is its id: Kimi's, whose pattern and names of reserved
               tokens are in its Python code and therefore here; what tokenizer_config.json beside it has in
               added_tokens_decoder are its special tokens.
GGUF           tokenizer.ggml.model "gpt2" (byte-level, with the patterns that tokenizer.ggml.pre stands for) and
               "llama" (SentencePiece: the merge that makes the token of the highest score goes first).
REGEX          Patterns are compiled (>>regex): alternatives, groups, (?i:..) (?=..) (?!..) (?>..), classes with \p{..},
               nested or intersected (&&), quantifiers greedy, lazy and possessive, ^ $ \A \z \Z. They mean what they
               mean to Oniguruma, which `tokenizers` uses; {1,3}+ repeats and does not possess. Matching backtracks; a
               text that makes it slow is matched with a memory of what has failed, in linear time (>>matcher).
STRICT         Whatever else a file asks for (another model, normalizer, a look behind, single_word, dropout, ...) is
               refused by name; so is what makes too long a text of a short one.
UNICODE        Categories and scripts are those of Unicode 16.0, as in the crate's regular expressions; its Digits
               follow Unicode 17.0, which has 13 more, its Punctuation and NFC older ones.
TIME           Linear in the text, but for a word of n bytes n log n.
THREADS        No globals, no printing. Any number of threads may read one tokenizer at once.

CONTENTS       >>tokenizer (the API)   then >>errors >>utf8 >>unicode >>types >>ranges >>sets >>regex >>compiler
               >>matcher >>text-steps >>normalization >>vocabulary >>merging >>encoder >>decoder >>builder >>reader
               >>tiktoken >>gguf >>files
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

/* The tokenizer at path: a tokenizer.json, a tiktoken.model (with the tokenizer_config.json beside it, if there is
   one), or a directory with either. A call that fails sets *out to NULL; err may be NULL. Errors: ARGUMENT (a null
   pointer, a file that cannot be read), CONFIG (not JSON, or contradicts itself), UNSUPPORTED (a name that this reader
   does not know), MEMORY. */
TOKENIZER_API mla_result tokenizer_open(tokenizer **out, const char *path, mla_error *err);
/* The text of a tokenizer.json (label stands for the file's name in messages). Errors as above. */
TOKENIZER_API mla_result tokenizer_parse(tokenizer **out, const char *json, size_t n, const char *label,
                                         mla_error *err);
/* The same of a file that has been parsed already; nothing is kept of it. */
TOKENIZER_API mla_result tokenizer_from_json(tokenizer **out, const json_value *file, const char *label,
                                             mla_error *err);
/* The text of a tiktoken.model, and of a tokenizer_config.json (NULL: none). Errors as above. */
TOKENIZER_API mla_result tokenizer_parse_tiktoken(tokenizer **out, const char *ranks, size_t n, const char *config,
                                                  size_t n_config, const char *label, mla_error *err);

/* The keys tokenizer.ggml.* of a GGUF file, whose arrays are given as they lie in the file (little-endian, at any
   address): a string is its length as u64 and its bytes. Nothing is kept of them. */
typedef struct tokenizer_strings {
    const void *data;
    size_t bytes, count;
} tokenizer_strings;
typedef struct tokenizer_gguf {
    const char *model, *pre;          /* "gpt2" or "llama"; pre only for gpt2 */
    tokenizer_strings tokens, merges; /* merges: of gpt2 */
    const void *scores;               /* f32 [tokens.count], of llama */
    const void *types;                /* token_type, i32 [tokens.count]; NULL: all are normal */
    int bos, eos, unk;                /* ids; -1: no such key */
    int add_bos, add_eos;             /* -1: no such key (then a begin of sentence is added for llama, tekken) */
    int add_space_prefix;             /* of llama; -1: no such key (then yes) */
} tokenizer_gguf;
/* label: the file's name for messages. Errors: ARGUMENT (a null pointer), CONFIG (contradicts itself: arrays that end
   too early, a token that stands twice, ...), UNSUPPORTED (another model or pre), MEMORY. */
TOKENIZER_API mla_result tokenizer_from_gguf(tokenizer **out, const tokenizer_gguf *keys, const char *label,
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
   capacity: then only the first `capacity` are written), or one of the refusals below. With a byte-level tokenizer at
   most n ids, but 3 for a byte that is no UTF-8, and those of TOKENIZER_SPECIAL. */
TOKENIZER_API int64_t tokenizer_encode(const tokenizer *t, const char *text, size_t n, unsigned flags, int *ids,
                                       size_t capacity);

enum {
    TOKENIZER_NO_MEMORY = -1, /* or t is NULL */
    TOKENIZER_STEPS = -2,     /* a pattern took too many: more than some thousand a byte, which none published does */
    TOKENIZER_GROWTH = -3,    /* normalizers and pre-tokenizers made more than TOKENIZER_MOST_GROWTH n + 65536 bytes */
    TOKENIZER_MOST_GROWTH = 64
};

/* The bytes that an id stands for (as the decoder says; a byte-level tokenizer's added token is its content as
   written); NULL: no such id. */
TOKENIZER_API const char *tokenizer_bytes(const tokenizer *t, int id, size_t *length);
/* 1 if the encoder puts a space before a text, which the decoder takes off again: then the first of a text's tokens
   that is not special is shown without the space it begins with. (Not where a text goes on.) */
TOKENIZER_API int tokenizer_strips_space(const tokenizer *t);
TOKENIZER_API int tokenizer_is_special(const tokenizer *t, int id); /* as the file marks it */
TOKENIZER_API int tokenizer_is_added(const tokenizer *t, int id);   /* an added token, special or not */
/* The added token with that content, else the vocabulary entry as the file spells it (a space is written U+0120); -1:
 * none. */
TOKENIZER_API int tokenizer_find(const tokenizer *t, const char *content);

/* For writing it down in another form: an entry as the file spells it (with a NUL behind it; NULL: no such id), and all
   merges, by left and right: the one with the lowest rank goes first, of equal ones the leftmost. */
typedef struct tokenizer_merge {
    int left, right, rank, id;
} tokenizer_merge;
TOKENIZER_API const char *tokenizer_spelling(const tokenizer *t, int id, size_t *length);
TOKENIZER_API const tokenizer_merge *tokenizer_merges(const tokenizer *t, size_t *n);

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

#if defined __GNUC__ && !defined __clang__
__attribute__((format(gnu_printf, 3, 4)))
#endif
static mla_result
tok__fail(mla_error *err, mla_result code, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        err->code = code, err->sequence = -1;
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

/* Writes a character as UTF-8; its bytes. */
static int tok__put_utf8(unsigned char *out, uint32_t c) {
    const int n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (int i = n; i-- > 1; c >>= 6) out[i] = (unsigned char)(0x80 | (c & 0x3F));
    out[0] = (unsigned char)(c | (n == 1 ? 0 : n == 2 ? 0xC0u : n == 3 ? 0xE0u : 0xF0u));
    return n;
}

/* ---- >>unicode --------------------------------------------------------------------------------------------------- */
/* Made by tests/tokenizer/unicode.js. The general category of every code point from 0 on, as runs of a letter (its
   place in tok__category_names; Y: not assigned, but a digit to Digits; Z: not assigned) and a length, 1 if left out;
   ~n: n of them are Lu and Ll by turns. */

static const char *const tok__categories[] = {
    "z32wr3tr3norsrmr2i10r2s3r2a26nroulub26nsosz33wrt4vruvepsAvuvsk2ubr2ukeqk3ra23sa6ab24sb8~56b~16b~46a~6b2a~4aaba2a",
    "b2a3abaaba2ab3aaba~6a~4babaaba2~4aab2eab3e4acbacbacb~16b~18bacbaba2~60b6aabaab2aba3~10b68eb27d18u4d12u14d5u7dud",
    "u17f112~4duabZ2db3raZ4u2ara3ZaZaaba17Za8ab35ab2a2ab3~24b4absabaab2a50ab48~34vf5h2~54a~14b~96Za38Z2dr6b41rmZ2v2tZ",
    "f45mfrf2rf2rfZ8e27Z4e4r2Z11A6s3r2tr2v2f11rAr3e32de10f21i10r4e2fe99ref7Avf6d2f2vf4e2i10e3v2er14ZAefe30f27Z2e89f11",
    "eZ14i10e33f9d2vr3dZ2ft2e22f4df9df3df5Z2r15Ze25f3Z2rZe11Z5e24ue6ZA2Z5f9e41df24Af32ge54fgfeg3f8g4fg2ef7e10f2r2i10r",
    "de15fg2Ze8Z2e2Z2e22Ze7ZeZ3e4Z2feg3f4Z2g2Z2g2feZ8gZ4e2Ze3f2Z2i10e2t2k6vterfZ2f2gZe6Z4e2Z2e22Ze7Ze2Ze2Ze2Z2fZg3f2",
    "Z4f2Z2f3Z3fZ7e4ZeZ7i10f2e3frZ10f2gZe9Ze3Ze22Ze7Ze2Ze5Z2feg3f5Zf2gZg2fZ2eZ15e2f2Z2i10rtZ7ef6Zfg2Ze8Z2e2Z2e22Ze7Z",
    "e2Ze5Z2fegfgf4Z2g2Z2g2fZ7f2gZ4e2Ze3f2Z2i10vek6Z10feZe6Z3e3Ze4Z3e2ZeZe2Z3e2Z3e3Z3e12Z4g2fg2Z3g3Zg3fZ2eZ6gZ14i10k3",
    "v6tvZ5fg3fe8Ze3Ze23Ze16Z2fef3g4Zf3Zf4Z7f2Ze3Z2eZ2e2f2Z2i10Z7rk7vefg2re8Ze3Ze23Ze10Ze5Z2fegfg5Zfg2Zg2f2Z7g2Z6e2Z",
    "e2f2Z2i10Ze2gZ12f2g2e9Ze3Ze41f2eg3f4Zg3Zg3fevZ4e3gk7e3f2Z2i10k9ve6Zfg2Ze18Z3e24Ze9ZeZ2e7Z3fZ4g3f3ZfZg8Z6i10Z2g2r",
    "Z12e48fe2f7Z4te6df8ri10r2Z37e2ZeZe5Ze24ZeZe10fe2f9eZ2e5ZdZf7Zi10Z2e4Z32ev3r15vrv3f2v6i10k10vfvfvfnonog2e8Ze36Z4",
    "f14gf5rf2e5f11Zf36Zv8fv6Zv2r5v4r2Z37e43g2f4gf6gf2g2f2ei10r6e6g2f2e4f3eg3e2g7e3f4e13fg2f2g6fegi10g3fv2a38ZaZ5aZ2",
    "b43rdb3e329Ze4Z2e7ZeZe4Z2e41Ze4Z2e33Ze4Z2e7ZeZe4Z2e15Ze57Ze4Z2e67Z2f3r9k20Z3e16v10Z6a86Z2b6Z2me620vre17we26noZ3",
    "e75r3j3e8Z7e18f3gZ9e19f2gr2Z9e18f2Z12e13Ze3Zf2Z12e52f2gf7g8fg2f11r3dr3tefZ2i10Z6k10Z6r6mr4f3Afi10Z6e35de53Z7e5f2",
    "e34feZ5e70Z10e31Zf3g4f2g3Z4g2fg6f3Z4vZ3r2i10e30Z2e5Z11e44Z4e26Z6i10kZ3v34e23f2g2fZ2r2e53gfgf7Zfgfg2f8g6f10Z2fi10",
    "Z6i10Z6r7dr6Z2f14hf16Z49f4ge47fgf5gfg5fg2e8Zr2i10r7v10f9v9r3f2ge30gf4g2f2gf3e2i10e44fgf2g3fgf3g2Z8r4e36g8f8g2f2",
    "Z3r5i10Z3e3i10e30d6r2b9abZ5a43Z2a3r8Z8f3rf13gf7e4fe6fe2gf2eZ5b44d63b13db34d37f64~150b8~98b8a7ab6Z2a6Z2b8a7ab8a7a",
    "b6Z2a6Z2b8ZaZaZaZab8a7ab14Z2b8c8b8c8b8c8b5Zb2a4cubu3b3Zb2a4cu3b4Z2b2a4Zu3b8a5u3Z2b3Zb2a4cu2Zw11A5m6r2pqnp2qnpr8x",
    "yA5wr9pqr4l2r3snor11srlr10wA5ZA10kdZ2k6s3nodk10s3noZd13Z3t33Z15f13h4fh3f12Z15v2av4av2ba2ab2a2abvav2sa5v6avavava4",
    "vba3abe4bv2b2a2s5ab4vsv2bvk16j35abj4kv2Z4s5v5s2v4sv2sv2sv7sv31s2v2svsv31s268v8nonov20s2v7nov81sv30s25v40s6v72Z22",
    "v11Z21k60v78k22v183sv9sv54s8v111sv248nononononononok30v44s5nos31nononononos16v256s131nononononononononononos63no",
    "nos32nos258v48s21v2s6v39Z2v32Zv105a47ab48aba2ab2~6a3~4bab6d2a2~100bv6~4f3abZ5r4kr2b38ZbZ5bZ2e56Z7drZ14fe23Z9e7Z",
    "e7Ze7Ze7Ze7Ze7Ze7Ze7Zf32r2pqpqr3pqrpqr9mr2mrpqr2pqnonononor5dr10m2r4mrnr13v2r3nonononomZ34v26Zv89Z12v214Z26v16w",
    "r3vdejnononononov2nonononomno2vj9f4g2md5v2j3derv2Ze86Z2f2u2d2eme90rd3eZ5e43Ze94Zv2k4v10e32v38Z9ve16v31Zk10v30k8v",
    "k15v32k10v39k15v320e6592v64e21013de1143Z3v55Z9e40d6r2e268dr3e16i10e2Z20~46efh3rf10rd~28d2f2e70j10f2r6Z8u23d9u2",
    "~14b2~62db8~4a~10du2~4e~4b2~20a4aba4~16a3~4aabZ2abZbZb~6aZ21d3abed2be7fe3fe4fe23g2f2gv4fZ3k6v2tvZ6e52r4Z8g2e50",
    "g16f2Z8r2i10Z6f18e6r3ere2fi10e28f8r2e23f11g2Z11re29Z3f3ge47fg2f4g2f2g3r13Zdi10Z4r2e5fde9i10e5Ze41f6g2f2g2f2Z9e3f",
    "e8fgZ2i10Z2r4e16de6v3egfge50fef3e2f2e5f2efeZ24e2dr2e11gf2g2r2ed2gfZ10e6Z2e6Z2e6Z9e7Ze7Zb43ud4b9du2Z4b80e35g2fg2f",
    "g2rgfZ2i10Z6e11172Z12e23Z4e49Z4B2048C6400e366Z2e106Z38b7Z12b5Z5efe10se13Ze5ZeZe2Ze2Ze108u17Z16e363onv16e64Z2e54",
    "Z7vZ32e12tv3f16r7norZ6f16rm2l2nonononononononor2nor4l3r3Zr4mnononor3sms3Zrtr2Z4e5Ze135Z2AZr3tr3norsrmr2i10r2s3r2",
    "a26nroulub26nsosnornor2e10de45d2e31Z3e6Z2e6Z2e6Z2e3Z3t2suvt2Zvs4v2Z10A3v2Z2e12Ze26Ze19Ze2Ze15Z2e14Z34e123Z5r3Z4",
    "k45Z3v9j53k4v17k2v3Zv13Z3vZ47v45fZ130e29Z3e49Z15fk27Z4e32k4Z9e20je8jZ5e38f5Z5e30Zre36Z4e8rj5Z42a39ab40e78Z2i10Z6",
    "a36Z4b36Z4e40Z8e52Z11ra11Za15Za7Za2Zb11Zb15Zb7Zb2Z3e52Z12e311Z9e22Z10e8Z24d6Zd42Zd9Z69e6Z2eZe44Ze2Z3eZ2e23Zrk8",
    "e23v2k7e31Z8k9Z48e19Ze2Z5k5e22k6Z3re26Z5rZ64e56Z4k2e2k16Z2k46ef3Zf2Z5f4e4Ze3Ze29Z2f3Z4fk9Z7r9Z7e29k2re29k3Z32e8v",
    "e28f2Z4k5r7Z9e54Z3r7e22Z2k8e19Z5k8e18Z7r4Z12k7Z80e73Z55a51Z13b51Z7k6e36f4Z8i10Z6i10e4dea22Z3f5mdb22Z8s2Z208k31Z",
    "e42Zf2mZ2e2Z16e3Z55f4e29k10eZ8e22f11k4r5Z22e18f4r4Z38e21k7Z20e23Z9gfge53f15r7Z4k20i10fe2f2eZ9f3ge45g3f4g2f2r2Ar4",
    "fZ10AZ2e25Z7i10Z6f3e36f5gf8Zi10r4eg2eZ8e35fr2eZ9f2ge48g3f9g2e4r4f4rgfi10erer3Zk20Z11e18Ze25g3f3g2fgf2r6fe2fZ62e7",
    "ZeZe4Ze15Ze10rZ6e47fg3f8Z5i10Z6f2g2Ze8Z2e2Z2e22Ze7Ze2Ze5Zf2eg2fg4Z2g2Z2g3Z2eZ6gZ5e5g2Z2f7Z3f5Z11e10ZeZ2eZe38Zeg3",
    "f6ZgZ2gZg4Zg2fgfefer2Zr2Z8f2Z29e53g3f8g2f3gfe4r5i10r2Zrfe3Z30e48g3f6gfg4f2gf2e2reZ8i10Z166e47g3f4Z2g4f2gf2r23e4",
    "f2Z34e48g3f8g2fgf2r3eZ11i10Z6r13Z19e43fgfg2f6gferZ6i10Z6i20Z28e27Z2fgfg2f4gf5Z4i10k2r3ve7Z185e44g3f9gf2rZ100a31a",
    "b32i10k9Z12e8Z2eZ2e8Ze2Ze24g6Zg2Z2f2gfegegfr3Z9i10Z70e8Z2e39g3f4Z2f2g4feregZ27ef10e40f6gef4r8fZ8ef6g2f3e46f13gf2",
    "r3er5Z13e73Z7r10Z182e33rZ14i10Z6e9Ze37gf7Zf6gfer5Z10i10k19Z3r2e30Z2f22Zgf7gf2gf2Z73e7Ze2Ze38f6Z3fZf2Zf7efZ8i10Z6",
    "e6Ze2Ze32g5Zf2Zg2fgfeZ7i10Z54Y10Z246e19f2g2r2Z7f2ege13Ze34g2f5Z3g2fgfr13i10fZ85eZ15k21v8t4v17Z13re922Z102j111Zr5",
    "Z11e196Z2636e97r2Z13e1072A16fe6f15Z10e3995Z5e583Z6841e30f12g3f3i10Z1734e569Z7e31Zi10Z4r2e79Zi10Z6e30Z2f5rZ10e48",
    "f7r5v4d4rvZ10i10Zk7Ze21Z5e19Z432d3e40d2r3i10Z198a31ab32k23r4Z101e75Z4feg55Z7f4d13Z64d2rdfZ11g2Z2Y3Z9e6136Z8e1238",
    "Z41e10Z8935d4Zd7Zd2Ze291Z15eZ29e3Z2eZ14e4Z8e396Z2308e107Z5e13Z3e9Z7e10Z2vf2rA4Z3932v240i10Z6v436Z76f46Z2f23Z9",
    "v116Z60v246Z10v39Z2v60g2f3v3g6A8f8v2f7v30f4v61Z21v66f3vZ122k20Z12k20Z12v87Z9k25Z135a25ab26a25ab7Zb18a25ab26aZa2",
    "Z2aZ2a2Z2a4Za7ab4ZbZb7Zb11a25ab26a2Za4Z2a8Za7Zb26a2Za4Za5ZaZ3a7Zb26a25ab26a25ab26a25ab26a25ab26a25ab26a25ab28Z2",
    "a25sb25sb6a25sb25sb6a25sb25sb6a25sb25sb6a25sb25sb6abZ2i50v512f55v4f50v8fv14fv2r5Z15f5Zf15Z1104b10eb20Z6b6Z213f7Z",
    "f17Z2f7Zf2Zf5Z5d62Z33fZ112e45Z3f7d7Z2i10Z4evZ320e30fZ17e44f4i10Z5tZ464e27df4i10Z214e30f2ei10Z4rZ480e7Ze4Ze2Ze15Z",
    "e197Z2k9f7Z41a33ab34f7dZ4i10Z4r2Z785k59vk3tk4Z76k45vk15Z194e4Ze27Ze2ZeZ2eZe10Ze4ZeZeZ6eZ4eZeZeZe3Ze2ZeZ2eZeZeZeZ",
    "eZe2ZeZ2e4Ze7Ze4Ze4ZeZe10Ze17Z5e3Ze5Ze17Z52s2Z270v44Z4v100Z12v15Z2v15Zv15Zv37Z10k13v161Z56v29Z13v44Z4v9Z7v2Z14v6",
    "Z154v251u5v728Z4v17Z3v13Z3v119Z4v95Z6v12Z4vZ15v12Z4v56Z8v10Z6v40Z8v30Z2v12Z4v2Z62v340Z12v14Z2v13Z3v10Z5v56Z7v15",
    "Z2v11Z6v9Z7v147Zv92i10Z1030e42720Z32e4154Z6e222Z2e5762Z14e7473Z15e622Z2466e542Z1506e4939Z5e4192Z711761AZ30A96",
    "Z128f240Z65040C65534Z2C65534Z2",
    NULL};

/* Scripts: first code points and, behind a +, lengths. */
static const char *const tok__han[] = {
    "2E80+26 2E9B+89 2F00+214 3005 3007 3021+9 3038+4 3400+6592 4E00+20992 F900+366 FA70+106 16FE2+2 16FF0+2 ",
    "20000+42720 2A700+4154 2B740+222 2B820+5762 2CEB0+7473 2EBF0+622 2F800+542 30000+4939 31350+4192 ", NULL};

static const char *const tok__hiragana[] = {"3041+86 309D+3 1B001+287 1B132 1B150+3 1F200 ", NULL};

static const char *const tok__katakana[] = {
    "30A1+90 30FD+3 31F0+16 32D0+47 3300+88 FF66+10 FF71+45 1AFF0+4 1AFF5+7 1AFFD+2 1B000 1B120+3 1B155 1B164+4 ",
    NULL};

static const char *const tok__hangul[] = {
    "1100+256 302E+2 3131+94 3200+31 3260+31 A960+29 AC00+11172 D7B0+23 D7CB+49 FFA0+31 FFC2+6 FFCA+6 FFD2+6 FFDA+3 ",
    NULL};

/* Where Punctuation and \p{P} differ, beyond ASCII. */
static const char *const tok__punctuation_differs[] = {
    "61D 9FD A76 C77 C84 166D 1B4E+2 1B7D+3 2E43+13 2E52+12 10D6E 10EAD 10F55+5 10F86+4 111C9 113D4+2 113D7+2 1144B+5 ",
    "1145A+2 1145D 11660+13 116B9 1183B 11944+3 119E2 11A3F+8 11A9A+3 11A9E+5 11B00+10 11BE1 11C41+5 11C70+2 11EF7+2 ",
    "11F43+13 11FFF 12FF1+2 16D6D+3 16E97+4 16FE2 1E5FF 1E95E+2 ", NULL};

/* Canonical decompositions: how many; each the code points that are left out before it, times 5, plus how many parts
   it has, but 0 for two that are composed again; then the parts, each less that of the last that had one in its place,
   times two, or if below zero turned about and one less. Numbers have base 44: the last digit from '#' on, those before
   it from 'O' on. */
static const char *const tok__decompositions[] = {
    "PQGdGQMqK##%##%##%##-##'('P1#'PD##%##%##/#+2##%##%##/(-,#%(##%##%##%##--/2##%##%##/#+0-3$##%##%##%##-##'('P1#'PD",
    "##%##%##/#+2##%##%##/(-,#%(##%##%##%##--/2##%##%##/#+0(#1#Q:*#P7##P6'#P7##P6P;#P7##P2PD#P7##P6%#P7##P6-#P7##P6-",
    "#P7##P4##P7#-P42#P7##P6'#P7##P6%#P7##P6P9#P7##P6P.#P7##P26#P7##P6+#P7##P6%#P7##P6P7#P7##P4P@#P7#-P4%#P7##P6%#P7#",
    "#P6'#P7##P6P;#P7##P6P82%,#P7##P4PA#P7#(P4PB#P7##P6PC#P7##P6P,#P7#7P28#P7##P6PC#P7##P6P,#P7#2P42#P7##P6'#P7##P6-",
    "#P7#-P06#P7##P6PC#P7##P6P,#P7##P48#P7##P6%#P7##P6PA#P7##P6P,#P7##P4P-#P7##P6P,#P7#-P44#P7##P6%#P7##P6'#P7##P6+",
    "#P7##P6%#P7##P6P1#P7##P2PB#P7##P2##P7##P6/#%0#P7##P6/#P7##P6-#P7#RDPLA#P7#P8P*##P7#R+Q2@#P7##P&##P7##P*##P7##P*#",
    "#P7##SA2#P7##P6(#P7##P69#P7##P6:#P7#(Q:+#P7##]\?##%##_$##P7#-V,3#P7##P.##P7##P.P/#P7##`-P>#%##Q23#XM##h&#2P<8",
    "#P7#-P($#P7##RM%#P7##P4##P7##>##P7##W0\?#P7##P6'#P7##P.&#P7##P6'#P7##P.&#P7##P6'#P7##P*&#P7##P6'#P7##P0&#P7##P6'",
    "#P7##P0&#P7##P6'#P7##P:M#P7##P4##P7#-PNP*#P7#APD,#P7##P.P7#P7##T)P<#P7##P8##P7##V:)#P7##c1(#%##d2##P7#m8l5$%)G",
    "%8(T3R<P%kNASM##pI#$p*#p3##'##'#(/#(/##+##P9#QHQ,1#;##;0#+##'##'##G#QHF1#;##.0#/##+#75###1SJR%2##3(&02<17K0#&$",
    "#9/P)8#R:P7#Q9(.##3(&02P=17P.0#&$#9/Q>Q-5#%#W0S04#P7#P8PB##P7##P6'#P7#-P,&#P7#-V5'#%##WH##P7##P4##P7#-P4*#P7#",
    "#P6+#P7##P*##P7#-VC##%##W:##P7##PJ*#P7##P6+#P7##P6)#P7##P.(#P7#-P.##P7#p\?d\?u1##%#P9##P8%#P=$`4U1#(J#PGE#",
    "PfHj+pGF3#-)#S$P2#%%#%%#%-#%-#%%#%5#%+#[*UKTK##P)PDPBP,%%#*=#X8TMTG//#RKP:#%%#%-#/A#i8[K[G-#P&##P)PDPBP,%%#",
    "U)T'V%U$Q3P(#%##$P)\\NTGTE\\:T9TEA1###%(#J#+I]1T\?SE#%##$P)_$UAT-(#-#),#(Mw9_5d7P&7#9-#9-#9-#P5P,&P&Q-R$*#'%QM;",
    "*%#MQN#PNP9Q9P&7#9-#9-#9-#P5P,&[/UET9VW.Qu;Qw1('#('#('#('#2+#S;PI#('#-'##%#()#Pr;VU,U^N#P7##P4P2#P7##P6P/#P7#",
    "#P6\?#P7##S=Q*#P7##V4/#P7##P6P/#P7##P6\?#P7##P66#P7##P6/#P7##VKQ$#%##$%#%##X2Q##P7##P6)#P7##c9PJ#%##dL%#P7##P4(",
    "#P7##P4)#P7##P6P/#P7##P6P,#P7##P6P5#P7##P61#P7##P4'#P7##S\?Q(#P7##V6##P7##P6P;#P7##P6\?#P7##P4>#P7##Vu\?P4#%#",
    "#Vw(Q%#P7##P6*#P7##P4PN#P7##P6/#P7##P6P/#P7##P4P.#P7##P6P/#P7##P6\?#P7##P6*#P7##SAPN#P7##P61#P7##RM2#%##$%#%#",
    "#Z8##P7##P6/#P7##P2##P7##P6P/#P7##Vw#P4#%##Vx8Q%#P7##P4PJ#P7##P6P/#P7##Y9P.#%##-##%##Vl9##%##VxD##P7##P6P/#P7#",
    "#P6\?#P7##P6*#P7##P44#P7##P6;#P7##P6(#P7##Z%PN#%##%1#%##[<,#P7##P6P7#P7##P4P<#P7##P6%#P7##P61#P7##P6$#P7##P6P/",
    "#P7##P4P.#P7##P6%#P7##P4$#P7##P4,#P7##P6P9#P7##P6\?#P7##F##;PH#)'#'#(ZK(7]6P/#P7##P6P*#P7##S52#P7##P6$#P7##P65",
    "#P7##P6.#P7##Vu'$#%##Vs@$#%##$$#%##$5#%##$.#%##Vs=)#%##WP.P1#P7##P6P*#P7##P6.#P7##S=&#P7##P6$#P7##P65#P7##P6.",
    "#P7##VuG$#%##WQ*1#P7##P6P+#P7##P*##P7##P6P*#P7##S=2#P7##P6$#P7##P65#P7##P6.#P7##Vv/$#%##Vn8$#%##$$#%##$5#%##$.",
    "#%##$P7#%##^&##P7##P6P*#P7##]/2#%##$$#%##$5#%##$.#%##$P7#%##^<P<#P7##P6P=#P7##P6P*#P7##P6.#P7#At7C##%#VXEJ#%##$%",
    "#%##$QM#%##VZ.Q(##%#VZ=J#%##$%#%##$QM#%##VXNQ(##%#VY1J#%##$%#%#-VZFG##%#V[)J#%##$%#%#-VY>G##%#VYMJ#%##$%#%##$QM",
    "#%##V[6Q(##%#V[EJ#%##$%#%##$QM#%##VZ.Q(##%#VZ=J#%##$%#%##$QM#%##V\\&Q(##%#V\\5J#%##$%#%##$QM#%##VZBQ(##%#V[%J#%#",
    "#$%#%#-V\\:G##%#V\\IJ#%##$%#%#-V[*G##%#V[9J#%##$%#%##$QM#%#(V\\NQ&(V]3J(#%(#QM#V[BQ(##%#V\\%J#%##$%#%##$QM#%#",
    "#V]:Q(##%#V]IJ#%##$%#%##$QM#%##V]:QN%#%#+$%#%#'$%#%#'$%#%#/$%#%#/$%#%#+$%#%-VWAR'#%##%##%##%##%##%##%##%##%##%#",
    "#%##%##%##%##%##E##%##%##%##%##%##%##%##%##%##%##%##%##%##%##%##Q-##%##%##%##%##%##%##%##%##%##%##%##%##%##%##%#",
    "#V]FQH##&#V]IQM#V]H##,#(-(#Va%)#Vb8QH##&##*%#%##R')PG-r@(#WU3)#V]D##4#(5(#Va9)#Vc$R(%#%#'$%#%##R'#Vb\?R(##%##QM",
    "#Va&QB##&#E*%#%-DQM#E##Q,QB##&##*%#%(Ve5$##%##QM#Vc4QB##&#/*%#%#6G##%#+Q'#/##PBQB##&##*%#%#*I#q<J%#%$R.-WY#R'",
    "#V]0##-#(,(#VbI)#VdDR(%#%#7$%#%##R'$q4.W[/$%p,VdJ3v*%6Q@[9Wr=Q'#'#Q%'#R5QC##+##&#TKQ-#7-#-)#Q>P'#('#QMP%#-1#-'#",
    "()#Q9XO(#(XP/#P)J##XO4##'##XP3##%#-=##%#-)##%#A)##%#-1##%#-)##%#RIP-##/##%##'#T7Q(##%##K##%#AP7##%##%##%#UCRf%$%",
    "TRFP_*#Ri&Pb+[O%('#('#('#('#('#('#('#('#('#('#('#-)#('#('#A1###%()$##%()$##%()$##%()$##%Q9Q4$P$RM#P8\?#('#('#('#",
    "('#('#('#('#('#('#('#('#-)#('#('#A1###%()$##%()$##%()$##%()$##%Q9Q4$-R1##%##%##%#29#ROY1gU1$Xu2$Yf;$f2$Vw@$Wj<",
    "$Pe1$cP%$#$ahL$]x7$^x:$zA$Q\\#$T`M$Qa#$Pq/$`-$]7$QO1$YW<$s%$z;$r)$S]9$Rd1$QZ-$bxD$P\\=$UY)$Pu9$T\\;$U]=$`U&$Sw9",
    "$Tq\?$xE$YX,$WX5$Pl%$YwL$QW=$Pl=$PcG$Vv#$`Z>$h9$\\5$So/$Pi9$Pw-$P[1$Q`K$Pi%$RK$QO)$QbE$PT1$l=$Xv:$Z%$PS%$PjA$SP-",
    "$RP=$TWD$\\X4$Pj9$Vp\?$PRK$Ro*$Pm;$T[3$QmE$_aH$x+$Rj1$zM$]%$Ro3$[#$U_+$`t($[S%$[^,$B$Yl'$y/$Pk)$Sv7$Qv8$Yp8$PvE",
    "$WnG$_R($Rj+$PS9$TU5$e-$XR@$YOK$YvF$SX+$SkJ$WTE$Px.$UZ3$Yx4$PX=$WS9$Re;$Pm-$WVN$Xe7$X\\&$QeN$Wb-$WZH$SmE$YY8$nE",
    "$S3$UO3$T`3$Pc3$QX=$Pt1$_j2$^)$P_5$PbA$PrA$QmM$QaC$VfE$PZ)$PS=$Q9$cU@$T]A$PY=$XdM$[x2$s+$T'$m/$Qq=$h#$tG$P`)$PS7",
    "$kI$Rv-$QmJ$Qy5$sA$`Y@$U3$g7$Va1$U^#$e+$Zi<$\\\?$x#$QV5$S_C$Q],$Xl8$QU%$P\\3$d-$jC$TVK$W1$Qy-$VG$So\?$PZ3$RC$X7",
    "$bW,$ZU1$U^;$P]3$]Y8$St<$j'$QwK$RA$QcG$PV1$QQC$PVG$Rv3$RPG$Rz1$^R8$[i7$`v($TfC$T7$P`C$^E$Pb)$^/$rC$PY%$VXC$ap8",
    "$SaM$\\s7$ai$$Ra7$SbA$WqK$[i($c%$Pr5$RP'$XZ-$aR8$e'$QX#$Qg\?$]1$^C$PT1$PuM$d\?$Qf=$Qc\?$G$Q^E$P^+$`v$$VZE$VP@",
    "$Vt=$o3$Si/$S`I$Pe3$i;$]g2$Pk+$T]%$PuD$RI$_G$Qi.$h$$VR-$_P&$\\u7$[xN$Q0$R]I$PS=$UuA$Wr@$SkE$Pm>$Yn=$Ps@$RmM$R_6",
    "$Z\\&$RhL$PW3.m/)Ro'.Tb:$Wr7$y+$k7$P;$1$PK$Vu9$VP6$qI)PlA)P\\#.P`'$WM3QS7$=$Q#$PWK$R`2$Pg%$aq<$]-$S\?$`/$P-$SM",
    "$iC$SE$S7$d7$SC$z7$7$PS/$X\?$PC$S;$v)$UA$VM$eC$P\\;$V5$[#$iC$W=$eI$PV=$VI$9$$$3$/$1$Q+$%$W'$QM$]9$h\?$M$Q;$\\I",
    "$UA$e+$U3$#$dC$PYM$U'$_9$Q;$a\?$Q5$n+$TK$Pp=$[K$QC$]oN$Qvi-$QmmF.\\o6$x5$R8$e*$c=$QA$]I$Q1$mA$R.$R'$R1$kC$S%$U=",
    "$C$[/$X#$y\?$1$U;$R'$\\=$T3$R*$U'$Q&$U\?$R#$a+$S#$Q7$ZG$\\#$V5$+$QA$PS)$QM$`E$a\?$B$RM$Z7$^/$Pk5$Pb2$T;$T=$]I$UE",
    "$Q5$Y/$'$VE$E$P)$RK$6$a#$e%$[1$W9$Y+$UM$^#$X%$u5$V)$x+$cC$R)$C$\\9$Q=$Q$$Q7$($D$R7$RA$`3$h7$]/$\\5$Y%$PQG$SA$T-",
    "$U%$P\?$;$Q+$p%$PWG$Q^t3$.$RQ=$RP^.$PW)$P9$RWW#$Qq9$WzE$Qus2$R5V@wk<Z^(*P))P+47%#%&#.PeM&##%%P(,%#%%#+%%#%%#%%#",
    "%%#%%#%%#*'#%%#%%#%%#%%#*'#*'#%%#*'#%%#*'#%%#%%#%%#%%#%L(%*/%7#%5#]R6Pif9PiiA('#P=7#]EU3SM#%#P`.g-g1##P)x=_G_)",
    "##6(#=k:Z=Z##%#QsQ7PTj+PTk/%%#&##QpgK&##%&##%&##%&##%XGS5#%%#&$#*&%##&$#%&%##SafKQ]cL$,$5$QjO5$Qin2$R;$=$R-$T7",
    "$P5$R;$P&$Vc$$QrU#$Qjg,$1$C$I$QjX1$QqrD$VhC$PC$QjY7$QjXN$=$p&$p7$5$Rc_7$Rc\\:$\?$Vn&$Vp\?$9$Q#$-$VpJ$Vt;$'$P-$P#",
    "$9$%$E$Q/$3$5$P)$7$'$#$#$QkO=$Qc^F$Vh2$M$QkY3$QkXF$/$M$UK$S>$C$P7$Q\?$RG$P+$R%$C$P9$#$M$G$3$A$^7$[2$[5$WN$P=$PV8",
    "$Ps1$\\&$PC$P)$TJ$V=$$$T=$Qld'$Ql`J$-$A$K$3$QK$Qlp3$R#$Qlm&$Q)$;$R<$U7$X_B$\?$Xf7$Q7$#$QmS'$Qly$$M$A$;$QmZ)$QmY<",
    "$1$u5$t($Xm,$Xp%$\?$RC$Q0$QmsA$Qmk4$Qmk9$Qmi:$($E$S=$%$Xy@$XzK$PM$M$Q#$YQ8$Qx^A$Qx]8$YS;$)$)$K$Rdi+$RdfF$QnhM$#",
    "$Qe]:$XXD$#$YU0$RPr1$[c7$RSQ:$5$YW2$YY9$Q1$7$P;$U+$Y`$$P2$Yb/$QoTG$QoR8$TI$+$'$&$Q'$K$P\?$>$9$Q)$K$+$P+$9$R#$RG",
    "$P=$T\?$Qof'$QofL$QL$SK$P-$S5$QoiE$QofL$S,$P.$Yy@$ZV5$M$P5$PB$ZT,$Z^%$P1$Qp[\?$QpV,$[=$VL$Za:$ZdG$Ze<$P>$TzK$)",
    "$Tl-$S:$Uv1$_RF$X]'$+$/$QE$8$QppG$RPa.$Zs%$T0$X1$Q1$Qpj\?$Qpj,$T$$Z)$[P$$[R)$S5$R-$W\?$Qpk9$Qpi*$[_($[b1$QqQ7",
    "$QqO($[b*$[c;$Q%$P-$%$Qq`;$Vr2$Vw1$Qq^F$Qqs/$Qqn($\?$S>$VM$PG$Q=$Q6$PG$A$=$Qqi=$Qqm.$Z5$QI$\\OH$\\T'$*$QqnC$Qqx&",
    "$_M$Qqm;$Q+$QqkB$T-$P,$($\\^H$\\a#$Q1$.$Q7$Qay;$Qar>$QrO/$Qqw0$QrZ-$QrSH$=$P-$Qrm;$Qrk2$M$Qrx'$Y)$QrwF$E$\\z,",
    "$]O5$\\zH$#$]V-$M$M$K$R)$]W@$][E$Qsh;$Qsg2$Qsk;$Qsi.$QhY9$QhR,$QtY=$P%$U3$RVn.$;$]f'$Qt^=$$$PE$P+$Qt_<$%$#$PM",
    "$]gD$]jC$]j($R\?$RWh%$Qts@$QG$QK$]q<$RXP-$QuS2$QuX\?$PM$QuWN$S+$^O*$^S%$7$-$QunI$\\=$#$Quu,$^Q2$RYW5$Quw,$)$^Y>",
    "$RY_5$QutB$^`*$^a+$,$P1$QviG$Qve0$^b2$^fK$QA$R%$^j0$RZi#$P5$RZhB$RZo3$Qvs@$Qvx/$Qvw$$S=$9$QwXA$R1$QwWH$Qw]K$Qw]*",
    "$QjP%$QzQ.$_S-$RA$_T6$_W)$YW4$RUs7$\?$\\q>$5$Qil<$)$Ri/$bv$$_b+$.$G$[l:$[m7$'$7$PI$QxU7$QxU8$Q;$R+$R3$U.$V#$PK",
    "$T'$ZF$T5$'$C$QxU\?$]%$UF$R\\v2$_u'$'$P=$Qys;$QyoN$Qxf/$R]c0$+$R]i+$\\)$R]uH$`V)$;$9$'$QK$P8$U'$PN$UI$R@$R%$P-",
    "$`_0$`c7$P7$`c2$`gA$)$Qyk;$Qyf.$1$`j@$`kM$e[0$Rd_9$W3$R_r.$5$`x9$R9$V)$X-$QzZ5$QzV8$P#$S'$S+$Qzj\?$ne@$Q[P($@$Q3",
    "$Q[X3$QZyN$S;$ROw7$P-$ROhH$S-$P7$ROqE$ROq0$[M$V-$%$S*$`1$P/$RPZ9$ROu8$cRJ$cTK$RPXG$Rd[$$c]5$^S$$^W5$RPt;$XA$Re^F",
    "$3$ccG$RQ`+$Rer.$Rex\?$RQd<$#$P3$RQp1$RQgJ$cfL$cj+$TC$P-$QC$clF$Rg`;$RRb*$\\C$W=$dX$$P5$d[7$RS\\5$Rhh2$RhjI$[%",
    "$TM$RSa6$df($dhM$-$1$7$1$PA$RTW=",
    NULL};

/* Canonical combining classes, by rank: how many runs; each the code points left out before it, length, rank. */
static const char *const tok__combining[] = {
    "V=`78P)#$P*#'P$#$P*#$N#(P$#%L#'P$#%L#.P$#($#'P$#&P)%$P)%$P-#$P)#&P$#&P)#%P$$&P)#'P$#$P)#$P*#%P$#$P)#$P+#%P,#$P+",
    "#%P,#$P+#0P)U.(P)U$$P$#'P)#$P$#&P)#$P%#$P$#)P)#)P$#%P)#$P$#%P)#$P%#$P(#$P)#$(#$)#$*#$+#$,#$-#$.#$/#$0#%1#$2#$3",
    "#$4$$5$$6#$7$$P)#$P$$$0P\?+P)#$<#$=#$>P'$9#$:#$;#$<#$=#$>#$\?#$@#%P)#%P$#(P)#$P$#%P)#$P$3$AQ0*P)%'P)#$P$#$P)%%P)",
    "$$P$#%P)#$P$F$BA$P)#$P$#%P)#$P$#%P)#&P$#$P)#%P$#$P)#$P$#&P)#$P$#$P)#$P$#$P)#$P$#$P)#$P$#%P)R\?*P)#$P$#$P)E'P)",
    "$,P)$&P)$(P)N&P$QC1P)$$P$#%P)#$P$#%P)#$P$#&P)#&P$#$9#$:#$;#&P)#$P$#%P)#%P$#(P)P3$%3$'&$P)#$P$#%P)Q2$%3$'Q9$%3$'",
    "Q9$%3$'Q9$%3$'QJ$'QJ$'*$C#$DQ0$%3$'QJ$'QG$'Q8%E#$'0'FQ7%G1'HPC%P$>$P$$$P$$$NP.$I#$J$$K('J%$J$%P)#$'$%P)P5$P$Q;$%",
    "$%'PI$P$_2&P)d;$'B$'R<$'-$P)S>$P(R.$P%#$P)#$P$SN$P)#$P$P>$'7+P)%$P$P'(P)#)P$#%P)#$P$QA$%2$'I$P)#$P$#*P)P-%'P1$%",
    ".%'P:$%R7&P)$$$#(P$#%P)#'P$#$P)$*$'$P$)$P)&%P)S9%P)#$P$#*P)#$P$#%P)#$P,#$M#$P$#$L#HP)($P)#$P+#$P$#$P)#$P$_3%P)",
    "#%$#'P)#&$#%P)'$P)&%$#$P)#$P$#$P)#%$#'P$#$P)PhE&P)R,$'Q+CP)[=$P##$P(#$P*#$P%#%P&Q4%&^h;$P)'-P)C%P)PG%P)U/$'S0$'",
    ">5P)P0&P$H$'Q*$%/$'T6$P)$%P)#$P$%%P)(%P)$$P)P+$'T=$'YcC$8`8*P)#*P$#%P)e($P$T)$P$R4(P)u-$P$$$P)K$P)#$$#$P$'$'",
    "RD$P)#$P$n.$'P/$'P0$'#$%P<&P)P'%'P5$%PC$',$%Q5$'#$%S%$%#$'PH$%3$';*P)&(P)S@$'&$%QF$'#$%TB$'#$%QI$'QA$'#$%Q>$'",
    "l:$'Y`G($P2*P)Yp>$$QoI%N#&$&$P'#(N++P$%(P)#%P$A'P)R3&P)PrJ*P)$4P)%*P)$%P)$(P)PU0*P$Q8)P)#$%",
    NULL};

/* ---- >>types ----------------------------------------------------------------------------------------------------- */

enum {
    TOK__MAX_SIZE = 1 << 20,   /* ids */
    TOK__MAX_CONTENT = 256,    /* bytes of an added token */
    TOK__MAX_STEPS = 16,       /* normalizers, and pre-tokenizers */
    TOK__MAX_TEMPLATE = 16,    /* ids on a side */
    TOK__MAX_OPS = 4096,       /* of a compiled pattern */
    TOK__MAX_BRANCHES = 32,    /* of an alternation */
    TOK__MAX_SETS = 1000,      /* of characters */
    TOK__MAX_REPEAT = 1000,    /* the n of {n} */
    TOK__MAX_NESTED = 32,      /* groups in groups */
    TOK__SHORT = 32,           /* symbols of a word that needs no heap */
    TOK__PAGES = 0x110000 >> 8 /* of 256 code points */
};
static const uint32_t tok__unbounded = UINT32_MAX;

typedef struct tok__range {
    uint32_t first, last;
} tok__range;

typedef struct tok__ranges { /* of code points; in order and apart once tok__ranges_sort has been there */
    tok__range *list;
    size_t n, capacity;
} tok__ranges;

typedef struct tok__set { /* of characters */
    unsigned char ascii[128];
    uint16_t page[TOK__PAGES]; /* which of bits each page of code points has; 0: none is in the set, 1: all are */
    uint32_t (*bits)[8];
    tok__ranges ranges; /* the same once more, to tell sets apart */
} tok__set;

enum tok__code { TOK__CHAR, TOK__SET, TOK__RUN, TOK__ALT, TOK__SPLIT, TOK__JUMP, TOK__SUB, TOK__ASSERT, TOK__END };
enum tok__sub { TOK__AHEAD, TOK__NOT_AHEAD, TOK__ATOMIC };
enum tok__assert { TOK__LINE_BEGIN, TOK__LINE_END, TOK__BEGIN, TOK__LAST, TOK__LAST_LINE };

typedef struct tok__op {
    unsigned char code, kind; /* kind: of SUB and ASSERT; of RUN: 1 if it gives nothing back */
    unsigned char bytes[4];   /* CHAR */
    int x, y;             /* SPLIT: x first, then y; JUMP, x; SUB: what follows is x; ALT: y targets from x on; CHAR: y
                                    bytes */
    int memo;             /* ALT, SPLIT, unbounded RUN: their number among these */
    uint32_t least, most; /* RUN */
    const tok__set *set;  /* SET, RUN */
} tok__op;

typedef struct tok__regex {
    tok__op *ops;
    int n_ops, n_memo;
    int *targets;            /* of alternations */
    const tok__set **firsts; /* per target: what its branch begins with; NULL: it may be empty */
    uint32_t (*viable)[128]; /* per alternation, and by ASCII character: which branches may match */
    int n_targets, n_alts;
    unsigned char starts[256]; /* whether a match can begin with that byte */
    int may_be_empty;
} tok__regex;

enum tok__kind { TOK__CUT, TOK__PREPEND, TOK__REPLACE, TOK__NFC };
enum tok__behavior { TOK__ISOLATED, TOK__REMOVED, TOK__CONTIGUOUS, TOK__WITH_PREVIOUS, TOK__WITH_NEXT };

typedef struct tok__step { /* a normalizer, a pre-tokenizer or a decoder */
    enum tok__kind kind;
    enum tok__behavior behavior; /* CUT */
    tok__regex regex;            /* CUT, REPLACE */
    int invert;                  /* CUT: what does not match is taken for a match */
    const char *text;            /* PREPEND, REPLACE: what with */
    size_t n;
    int unless, only_first; /* PREPEND: not to what begins so; only to the beginning of the whole text */
} tok__step;

typedef struct tok__steps {
    tok__step list[TOK__MAX_STEPS];
    int n;
} tok__steps;

typedef struct tok__entry { /* an id */
    const char *text;       /* what it stands for; NULL: unused */
    const char *spelled;    /* as the file has it */
    size_t length, n_spelled;
    int model, added, special; /* model: of the vocabulary */
} tok__entry;

typedef struct tok__slot {
    uint32_t tag; /* other bits of the hash, which spare most looks at entries that are others */
    int id;       /* + 1; 0: none */
} tok__slot;

typedef struct tok__added {
    const unsigned char *text; /* normalized, if it is looked for in normalized text */
    size_t length;
    int id, lstrip, rstrip, control;
} tok__added;

typedef struct tok__chunk { /* of memory that lives as long as the tokenizer */
    struct tok__chunk *next;
    size_t used, size;
} tok__chunk;

typedef struct tok__composition {
    uint32_t code, parts[4]; /* 0: none */
    int n, excluded;
} tok__composition;

typedef struct tok__nfc {
    tok__composition *by_code, *by_parts; /* decompositions; those of two that compose again */
    size_t n, n_pairs;
    tok__range *marks; /* with a combining class: code points, and the class in the other array */
    unsigned char *classes;
    size_t n_marks;
    const tok__set *inert; /* neither changed by itself nor joined to what precedes: text may be cut before them */
} tok__nfc;

struct tokenizer {
    tok__chunk *chunks;
    tok__set **sets;
    size_t n_sets;
    const tok__set *space; /* \s */
    int size;
    tok__entry *entries; /* [size] */
    tok__slot *slots;    /* by the hash of the spelling */
    uint64_t seed;
    size_t n_slots;                                              /* a power of two */
    int byte_level, ignore_merges, byte_fallback, fuse_unk, unk; /* unk: -1: none */
    int bytes[256];          /* byte-level: the id of each byte; else of <0xXX>; -1: none */
    int ascii[128];          /* not byte-level: the id of each character; -1: none */
    unsigned char *inside;   /* not byte-level: bits by tok__pair_bit: may these two stand side by side in an entry? */
    size_t longest;          /* bytes of the longest spelling in the vocabulary */
    tokenizer_merge *merges; /* by left and right */
    int *first;              /* [size + 1]; merges[first[left]..first[left + 1]) have that left side */
    tok__steps normalizers, cuts, decoders;
    int nfc_used, decodes_bytes, decodes_fallback, strips_space;
    tok__nfc nfc;
    tok__added *added[2]; /* "normalized": false, and true; by content */
    size_t n_added[2];
    unsigned char starts[2][256];                                               /* whether any content begins so */
    int before[TOK__MAX_TEMPLATE], after[TOK__MAX_TEMPLATE], n_before, n_after; /* what the post-processor adds */
};

/* n bytes that live as long as the tokenizer, and a NUL behind them, or NULL. bytes NULL: left as they are. */
static void *tok__keep(tokenizer *t, const void *bytes, size_t n) {
    tok__chunk *c = t->chunks;
    const size_t room = (n + 1 + 15) / 16 * 16;
    char *memory;
    if (n > SIZE_MAX / 2) return NULL;
    if (!c || c->size - c->used < room) {
        const size_t size = room > 65536 ? room : 262144;
        c = (tok__chunk *)malloc(32 + size);
        if (!c) return NULL;
        c->used = 0;
        c->size = size;
        c->next = t->chunks;
        t->chunks = c;
    }
    memory = (char *)c + 32 + c->used;
    c->used += room;
    if (bytes && n) memcpy(memory, bytes, n);
    memory[n] = 0;
    return memory;
}

/* ---- >>ranges ---------------------------------------------------------------------------------------------------- */
/* All return 0 if memory runs out. */

static int tok__ranges_add(tok__ranges *r, uint32_t first, uint32_t last) {
    if (r->n && r->list[r->n - 1].last + 1 == first) {
        r->list[r->n - 1].last = last;
        return 1;
    }
    if (r->n == r->capacity) {
        const size_t capacity = r->capacity ? 2 * r->capacity : 16;
        tok__range *bigger = (tok__range *)realloc(r->list, capacity * sizeof *bigger);
        if (!bigger) return 0;
        r->list = bigger;
        r->capacity = capacity;
    }
    r->list[r->n].first = first;
    r->list[r->n++].last = last;
    return 1;
}

static int tok__by_first(const void *a, const void *b) {
    const tok__range *x = (const tok__range *)a, *y = (const tok__range *)b;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* Brings them into order, and joins those that touch. */
static void tok__ranges_sort(tok__ranges *r) {
    size_t kept = 0;
    if (r->n) qsort(r->list, r->n, sizeof *r->list, tok__by_first);
    for (size_t i = 0; i < r->n; i++) {
        const tok__range x = r->list[i];
        if (!kept || x.first > r->list[kept - 1].last + 1) r->list[kept++] = x;
        else if (x.last > r->list[kept - 1].last) r->list[kept - 1].last = x.last;
    }
    r->n = kept;
}

static int tok__ranges_unite(tok__ranges *r, const tok__ranges *with) {
    for (size_t i = 0; i < with->n; i++)
        if (!tok__ranges_add(r, with->list[i].first, with->list[i].last)) return 0;
    tok__ranges_sort(r);
    return 1;
}

static int tok__ranges_invert(tok__ranges *r) { /* of ranges in order */
    tok__ranges out = {NULL, 0, 0};
    uint32_t next = 0;
    int ok = 1;
    for (size_t i = 0; i < r->n && ok; i++) {
        if (r->list[i].first > next) ok = tok__ranges_add(&out, next, r->list[i].first - 1);
        next = r->list[i].last + 1;
    }
    if (ok && next < 0x110000) ok = tok__ranges_add(&out, next, 0x10FFFF);
    free(r->list);
    *r = out;
    return ok;
}

static int tok__ranges_intersect(tok__ranges *r, const tok__ranges *with) { /* both in order */
    tok__ranges out = {NULL, 0, 0};
    int ok = 1;
    for (size_t i = 0, k = 0; i < r->n && k < with->n && ok;) {
        const tok__range a = r->list[i], b = with->list[k];
        const uint32_t first = a.first > b.first ? a.first : b.first, last = a.last < b.last ? a.last : b.last;
        if (first <= last) ok = tok__ranges_add(&out, first, last);
        if (a.last < b.last) i++;
        else k++;
    }
    free(r->list);
    *r = out;
    return ok;
}

static const char tok__category_names[] = "LuLlLtLmLoMnMcMeNdNlNoPcPdPsPePiPfPoSmScSkSoZsZlZpCcCfCsCoRdCn";

/* Adds the code points whose category begins with this name ("L", "Lu"); "Rd" is what only Rust takes for a digit. A
   name of one letter leaves that out. */
static int tok__add_category(tok__ranges *r, const char *name) {
    uint32_t c = 0;
    for (size_t i = 0; tok__categories[i]; i++)
        for (const char *s = tok__categories[i]; *s;) {
            const char letter = *s++;
            const int place = letter >= 'a' && letter <= 'z' ? letter - 'a'
                              : letter == 'Y'                ? 29
                              : letter == 'Z'                ? 30
                              : letter == '~'                ? 0
                                                             : letter - 'A' + 26;
            uint32_t run = 0;
            while (*s >= '0' && *s <= '9') run = 10 * run + (uint32_t)(*s++ - '0');
            if (!run) run = 1;
            for (uint32_t k = 0; letter == '~' && k < run; k++)
                if (!strncmp(tok__category_names + 2 * (k % 2), name, strlen(name)) &&
                    !tok__ranges_add(r, c + k, c + k))
                    return 0;
            if (letter != '~' && !strncmp(tok__category_names + 2 * place, name, strlen(name)) &&
                !tok__ranges_add(r, c, c + run - 1))
                return 0;
            c += run;
        }
    tok__ranges_sort(r);
    return 1;
}

/* The words "FIRST+LENGTH" of a table, in hexadecimal and decimal. */
static int tok__add_listed(tok__ranges *r, const char *const *table) {
    for (; *table; table++)
        for (const char *s = *table; *s;) {
            char *end;
            const uint32_t first = (uint32_t)strtoul(s, &end, 16);
            const uint32_t run = *end == '+' ? (uint32_t)strtoul(end + 1, &end, 10) : 1;
            if (!tok__ranges_add(r, first, first + run - 1)) return 0;
            s = end + (*end == ' ');
        }
    tok__ranges_sort(r);
    return 1;
}

static int tok__add_space(tok__ranges *r) { /* \s: White_Space */
    return tok__ranges_add(r, 9, 13) && tok__ranges_add(r, 0x85, 0x85) && tok__add_category(r, "Z");
}

/* What \p{NAME} has, n bytes of a name: 1, or 0 (out of memory), or -1 (unknown). */
static int tok__add_property(tok__ranges *r, const char *name, size_t n) {
    static const struct {
        const char *name;
        const char *const *table;
    } scripts[] = {
        {"Han", tok__han}, {"Hiragana", tok__hiragana}, {"Katakana", tok__katakana}, {"Hangul", tok__hangul}};
    char key[16];
    if (n == 0 || n >= sizeof key) return -1;
    memcpy(key, name, n);
    key[n] = 0;
    for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++)
        if (!strcmp(key, scripts[i].name)) return tok__add_listed(r, scripts[i].table);
    if (n == 1 && !strcmp(key, "C")) return tok__add_category(r, "C") && tok__add_category(r, "Rd");
    if (n == 1 && strchr("LMNPSZ", *key)) return tok__add_category(r, key);
    for (size_t i = 0; n == 2 && i < 29; i++)
        if (!strncmp(tok__category_names + 2 * i, key, 2)) return tok__add_category(r, key);
    if (!strcmp(key, "Cn")) return tok__add_category(r, "Cn") && tok__add_category(r, "Rd");
    return -1;
}

/* ---- >>sets ------------------------------------------------------------------------------------------------------ */

static int tok__in(const tok__set *set, uint32_t c) {
    if (c < 128) return set->ascii[c];
    return (int)(set->bits[set->page[c >> 8]][c >> 5 & 7] >> (c & 31) & 1);
}

static void tok__set_free(tok__set *set) {
    if (set) {
        free(set->bits);
        free(set->ranges.list);
    }
    free(set);
}

/* The set of these ranges, which are in order; takes them over. NULL: out of memory. */
static const tok__set *tok__make_set(tokenizer *t, tok__ranges *ranges) {
    tok__set *set = NULL, **list;
    size_t pages = 2;
    for (size_t i = 0; i < t->n_sets; i++)
        if (t->sets[i]->ranges.n == ranges->n &&
            (!ranges->n || !memcmp(t->sets[i]->ranges.list, ranges->list, ranges->n * sizeof *ranges->list))) {
            free(ranges->list);
            memset(ranges, 0, sizeof *ranges);
            return t->sets[i];
        }
    list = (tok__set **)realloc(t->sets, (t->n_sets + 1) * sizeof *list);
    if (list) t->sets = list;
    if (list) set = (tok__set *)calloc(1, sizeof *set);
    if (set) set->ranges = *ranges;
    else free(ranges->list);
    memset(ranges, 0, sizeof *ranges);
    if (set) set->bits = (uint32_t(*)[8])calloc(2 + 2 * set->ranges.n, sizeof *set->bits); /* a range ends in two */
    if (!set || !set->bits) {
        tok__set_free(set);
        return NULL;
    }
    memset(set->bits[1], 0xFF, sizeof set->bits[1]);
    for (size_t i = 0; i < set->ranges.n; i++)
        for (uint32_t c = set->ranges.list[i].first, last = set->ranges.list[i].last, end; c <= last; c = end) {
            uint16_t *page = &set->page[c >> 8];
            end = (c | 255) < last ? (c | 255) + 1 : last + 1;
            if (end - c == 256) *page = 1;
            else if (!*page) *page = (uint16_t)pages++;
            for (uint32_t k = c; k < end && *page != 1; k++) set->bits[*page][k >> 5 & 7] |= (uint32_t)1 << (k & 31);
        }
    for (uint32_t c = 0; c < 128; c++) set->ascii[c] = (unsigned char)(set->bits[set->page[0]][c >> 5] >> (c & 31) & 1);
    return t->sets[t->n_sets++] = set;
}

/* The end of the run of characters of the set that begins at `at`; at most `most` of them. */
static size_t tok__run_end(const tok__set *set, const unsigned char *s, size_t n, size_t at, uint32_t most) {
    for (; at < n && most; most--) {
        if (s[at] < 128) {
            if (!set->ascii[s[at]]) break;
            at++;
        } else {
            size_t next = at;
            if (!tok__in(set, tok__next(s, &next))) break;
            at = next;
        }
    }
    return at;
}

/* ---- >>regex ----------------------------------------------------------------------------------------------------- */
/* A pattern becomes a tree of nodes, and the tree a program (>>compiler). */

enum tok__node_kind { TOK__N_EMPTY, TOK__N_SET, TOK__N_CHAIN, TOK__N_CHOICE, TOK__N_REPEAT, TOK__N_SUB, TOK__N_ASSERT };
enum tok__greed { TOK__GREEDY, TOK__LAZY, TOK__POSSESSIVE };

typedef struct tok__node {
    enum tok__node_kind kind;
    int child, next; /* the first child, and the one after this; -1: none */
    int how;         /* tok__greed, tok__sub, tok__assert */
    uint32_t c;      /* SET: its only character, if set is NULL */
    const tok__set *set;
    uint32_t least, most;
} tok__node;

typedef struct tok__pattern { /* being read */
    tokenizer *t;
    const unsigned char *s;
    size_t n, at;
    const char *bad; /* why it is refused; NULL: memory has run out */
    tok__node *nodes;
    int n_nodes, capacity, depth, any_case;
    uint32_t last; /* the letter before, under (?i:) */
} tok__pattern;

static int tok__bad(tok__pattern *p, const char *why) {
    p->bad = why;
    return -1;
}

static int tok__node_new(tok__pattern *p, enum tok__node_kind kind) { /* its number, or -1 */
    tok__node *node;
    if (p->n_nodes == TOK__MAX_OPS) return tok__bad(p, "too long");
    if (p->n_nodes == p->capacity) {
        tok__node *bigger = (tok__node *)realloc(p->nodes, sizeof *bigger * (size_t)(2 * p->capacity + 64));
        if (!bigger) return tok__bad(p, NULL);
        p->nodes = bigger;
        p->capacity = 2 * p->capacity + 64;
    }
    node = p->nodes + p->n_nodes;
    memset(node, 0, sizeof *node);
    node->kind = kind;
    node->child = node->next = -1;
    return p->n_nodes++;
}

static int tok__peek(const tok__pattern *p, const char *text) { /* whether it goes on so */
    const size_t n = strlen(text);
    return p->n - p->at >= n && !memcmp(p->s + p->at, text, n);
}

static int tok__take(tok__pattern *p, const char *text) {
    const int is = tok__peek(p, text);
    if (is) p->at += strlen(text);
    return is;
}

/* Adds characters, and under (?i:) those that differ from them in case. Of letters beyond ASCII only the two that fold
   to ASCII are known, so that others are refused. Returns 0, or -1. */
static int tok__add_letters(tok__pattern *p, tok__ranges *r, uint32_t first, uint32_t last) {
    if (!tok__ranges_add(r, first, last)) return tok__bad(p, NULL);
    if (!p->any_case) return 0;
    if (last >= 0x80) {
        tok__ranges cased = {NULL, 0, 0}, these = {NULL, 0, 0};
        int ok = tok__ranges_add(&these, first > 0x80 ? first : 0x80, last) && tok__add_category(&cased, "Lu") &&
                 tok__add_category(&cased, "Ll") && tok__add_category(&cased, "Lt");
        tok__ranges_sort(&cased);
        ok = ok && tok__ranges_intersect(&these, &cased);
        const size_t n = these.n;
        free(these.list);
        free(cased.list);
        if (!ok || n) return tok__bad(p, ok ? "(?i: with letters beyond ASCII" : NULL);
    }
    for (uint32_t c = 'A'; c <= 'Z'; c++) {
        const uint32_t lower = c + 32, other = c == 'S' ? 0x17F : c == 'K' ? 0x212A : c;
        if (!(c >= first && c <= last) && !(lower >= first && lower <= last)) continue;
        if (!tok__ranges_add(r, c, c) || !tok__ranges_add(r, lower, lower) || !tok__ranges_add(r, other, other))
            return tok__bad(p, NULL);
    }
    return 0;
}

/* \w: letters, marks, decimal digits, what else Unicode calls alphabetic, and connectors; outside [..] also what
   Oniguruma's table of Latin-1 has, which is the powers and fractions. */
static int tok__add_word(tok__ranges *r, int outside) {
    static const char *const categories[] = {"L", "M", "Nd", "Nl", "Pc"};
    static const char *const others[] = {"24B6+52 1F130+26 1F150+26 1F170+26 ", NULL}, *const latin1[] = {
                                                                                           "B2+2 B9 BC+3 ", NULL};
    for (int i = 0; i < 5; i++)
        if (!tok__add_category(r, categories[i])) return 0;
    return tok__add_listed(r, others) && (!outside || tok__add_listed(r, latin1));
}

/* A class written \X or \p{..}, whose letter is at p->at: 1 if it is one (then in *r), 0 if not, or -1. outside: of
   brackets. */
static int tok__read_shorthand(tok__pattern *p, tok__ranges *r, int outside) {
    const unsigned char c = p->at < p->n ? p->s[p->at] : 0, lower = (unsigned char)(c | 32);
    int negated = c != lower, ok = 1;
    if (!c || !strchr("sSdDwWpP", c)) return 0;
    p->at++;
    if (lower == 's') ok = tok__add_space(r);
    else if (lower == 'd') ok = tok__add_category(r, "Nd");
    else if (lower == 'w') ok = tok__add_word(r, outside);
    else {
        size_t from = p->at + 1, end;
        if (!tok__take(p, "{")) return tok__bad(p, "\\p without {");
        if (tok__take(p, "^")) negated = !negated, from++;
        for (end = from; end < p->n && p->s[end] != '}';) end++;
        if (end == p->n) return tok__bad(p, "\\p{ without }");
        ok = tok__add_property(r, (const char *)p->s + from, end - from);
        if (ok < 0) return tok__bad(p, "an unknown property in \\p{}");
        if (p->any_case && end - from == 2 && strchr("ult", p->s[from + 1])) return tok__bad(p, "(?i: with \\p{Lu}");
        p->at = end + 1;
    }
    tok__ranges_sort(r);
    if (ok && negated) ok = tok__ranges_invert(r);
    return ok ? 1 : tok__bad(p, NULL);
}

static int64_t tok__read_hex(tok__pattern *p, int digits, int braces) {
    int64_t c = 0;
    int n = 0;
    for (; p->at < p->n && n < digits; n++, p->at++) {
        const unsigned char x = p->s[p->at], lower = (unsigned char)(x | 32);
        const int digit = x >= '0' && x <= '9' ? x - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
        if (digit < 0) break;
        c = 16 * c + digit;
    }
    if (n == 0 || (!braces && n < digits) || (braces && !tok__take(p, "}")) || c > 0x10FFFF ||
        (c >= 0xD800 && c < 0xE000))
        return tok__bad(p, "a number of a character that is none");
    return c;
}

/* The character at p->at, which may be escaped, or -1. */
static int64_t tok__read_character(tok__pattern *p) {
    static const char escapes[] = "rntfvae", stands_for[] = "\r\n\t\f\v\a\x1B";
    unsigned char c;
    const char *found;
    if (p->s[p->at] != '\\') return tok__next(p->s, &p->at);
    if (++p->at >= p->n) return tok__bad(p, "a backslash at the end");
    c = p->s[p->at];
    if (tok__take(p, "x{")) return tok__read_hex(p, 8, 1);
    if (tok__take(p, "x")) return tok__read_hex(p, 2, 0);
    if (tok__take(p, "u")) return tok__read_hex(p, 4, 0);
    found = c ? strchr(escapes, c) : NULL;
    if (!found && ((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z')))
        return tok__bad(p, "a letter or digit behind a backslash that means nothing here");
    if (!found) return tok__next(p->s, &p->at);
    p->at++;
    return stands_for[found - escapes];
}

static int tok__read_class(tok__pattern *p, tok__ranges *out);

/* One member of a class, which does not begin with ] or &&. Returns 0, or -1. */
static int tok__read_member(tok__pattern *p, tok__ranges *r) {
    tok__ranges inner = {NULL, 0, 0};
    int is = 0;
    if (tok__peek(p, "[:")) return tok__bad(p, "a class [:name:]");
    if (tok__take(p, "[")) is = tok__read_class(p, &inner) < 0 ? -1 : 1;
    else if (p->s[p->at] == '\\') {
        p->at++;
        is = tok__read_shorthand(p, &inner, 0);
        if (!is) p->at--;
    }
    if (is) {
        if (is > 0 && !tok__ranges_unite(r, &inner)) is = tok__bad(p, NULL);
        free(inner.list);
        if (is > 0 && tok__peek(p, "-") && !tok__peek(p, "-]")) return tok__bad(p, "a range that begins with a class");
        return is < 0 ? -1 : 0;
    }
    const int64_t first = tok__read_character(p);
    int64_t last = first;
    if (first < 0) return -1;
    if (tok__peek(p, "--")) return tok__bad(p, "-- in a class");
    if (tok__peek(p, "-") && !tok__peek(p, "-]") && !tok__peek(p, "-[") && first != '-') {
        p->at++;
        if (p->at >= p->n) return tok__bad(p, "a class without end");
        if (p->s[p->at] == '\\' && p->at + 1 < p->n && p->s[p->at + 1] && strchr("sSdDwWpP", p->s[p->at + 1]))
            return tok__bad(p, "a range that ends with a class");
        last = tok__read_character(p);
        if (last < 0) return -1;
    } else if (tok__peek(p, "-[")) return tok__bad(p, "-[ in a class");
    if (last < first) return tok__bad(p, "a range from a character to one before it");
    return tok__add_letters(p, r, (uint32_t)first, (uint32_t)last);
}

/* A class, whose [ has been read, as ranges in order. Returns 0, or -1. */
static int tok__read_class(tok__pattern *p, tok__ranges *out) {
    const int negated = tok__take(p, "^");
    tok__ranges part = {NULL, 0, 0};
    int rc = 0, parts = 0, ok = 1;
    if (tok__peek(p, "]")) return tok__bad(p, "a class that begins with ]");
    if (++p->depth > TOK__MAX_NESTED) return tok__bad(p, "nested too deep");
    while (!rc) {
        if (p->at >= p->n) rc = tok__bad(p, "a class without end");
        else if (tok__peek(p, "]") || tok__peek(p, "&&")) { /* a & b & c */ tok__ranges_sort(&part);
            if (parts++) {
                ok = tok__ranges_intersect(out, &part);
                part.n = 0;
            } else {
                *out = part;
                memset(&part, 0, sizeof part);
            }
            if (!ok) rc = tok__bad(p, NULL);
            else if (tok__take(p, "]")) break;
            else p->at += 2;
        } else rc = tok__read_member(p, &part);
    }
    p->depth--;
    free(part.list);
    if (!rc && negated && !tok__ranges_invert(out)) rc = tok__bad(p, NULL);
    return rc;
}

/* The set of ranges in order, which it takes over, or NULL. */
static const tok__set *tok__pattern_set(tok__pattern *p, tok__ranges *r) {
    const tok__set *set = p->t->n_sets < TOK__MAX_SETS ? tok__make_set(p->t, r) : NULL;
    if (!set) tok__bad(p, p->t->n_sets < TOK__MAX_SETS ? NULL : "more than 1000 classes");
    free(r->list);
    r->list = NULL;
    return set;
}

/* A node of a set; takes the ranges over. */
static int tok__set_node(tok__pattern *p, tok__ranges *r) {
    const int node = tok__node_new(p, TOK__N_SET);
    if (node < 0) {
        free(r->list);
        return -1;
    }
    tok__ranges_sort(r);
    if (r->n == 1 && r->list[0].first == r->list[0].last) {
        p->nodes[node].c = r->list[0].first;
        free(r->list);
        return node;
    }
    p->nodes[node].set = tok__pattern_set(p, r);
    return p->nodes[node].set ? node : -1;
}

static int tok__read_choice(tok__pattern *p);

/* What follows a ( */
static int tok__read_group(tok__pattern *p) {
    static const struct {
        const char *begin;
        int sub;
    } kinds[] = {{"?=", TOK__AHEAD}, {"?!", TOK__NOT_AHEAD}, {"?>", TOK__ATOMIC}};
    const int any_case = p->any_case;
    int sub = -1, node;
    for (int i = 0; i < 3 && sub < 0; i++)
        if (tok__take(p, kinds[i].begin)) sub = kinds[i].sub;
    if (sub >= 0 || tok__take(p, "?:")) {
    } else if (tok__take(p, "?i:")) p->any_case = 1;
    else if (tok__take(p, "?-i:")) p->any_case = 0;
    else if (tok__peek(p, "?<=") || tok__peek(p, "?<!")) return tok__bad(p, "a look behind");
    else if (tok__peek(p, "?")) return tok__bad(p, "a group that is none of (?: (?i: (?-i: (?= (?! (?>");
    node = tok__read_choice(p);
    p->any_case = any_case;
    if (node < 0) return -1;
    if (!tok__take(p, ")")) return tok__bad(p, "a group without end");
    if (sub >= 0) {
        const int outer = tok__node_new(p, TOK__N_SUB);
        if (outer < 0) return -1;
        p->nodes[outer].how = sub;
        p->nodes[outer].child = node;
        node = outer;
    }
    return node;
}

static int tok__read_atom(tok__pattern *p) {
    static const struct {
        const char *text;
        int how;
    } asserts[] = {
        {"^", TOK__LINE_BEGIN}, {"$", TOK__LINE_END}, {"\\A", TOK__BEGIN}, {"\\z", TOK__LAST}, {"\\Z", TOK__LAST_LINE}};
    const uint32_t before = p->last;
    tok__ranges r = {NULL, 0, 0};
    int rc = 0;
    p->last = 0;
    if (tok__take(p, "(")) return tok__read_group(p);
    for (size_t i = 0; i < sizeof asserts / sizeof asserts[0]; i++)
        if (tok__take(p, asserts[i].text)) {
            const int node = tok__node_new(p, TOK__N_ASSERT);
            if (node >= 0) p->nodes[node].how = asserts[i].how;
            return node;
        }
    if (strchr("*+?", p->s[p->at])) return tok__bad(p, "nothing to repeat");
    if (tok__take(p, "[")) rc = tok__read_class(p, &r);
    else if (tok__take(p, ".")) rc = tok__ranges_add(&r, '\n', '\n') && tok__ranges_invert(&r) ? 0 : tok__bad(p, NULL);
    else {
        if (p->s[p->at] == '\\') {
            p->at++;
            rc = tok__read_shorthand(p, &r, 1);
            if (!rc) p->at--;
        }
        if (!rc) {
            const int64_t c = tok__read_character(p);
            const uint32_t lower = c >= 'A' && c <= 'Z' ? (uint32_t)c + 32 : (uint32_t)c;
            if (p->any_case && c >= 0 && before &&
                ((lower == 's' && before == 's') || (lower == 't' && before == 's') ||
                 (strchr("fil", (int)(lower & 127)) && lower && before == 'f')))
                rc = tok__bad(p, "(?i: with letters that a ligature folds to");
            else rc = c < 0 ? -1 : tok__add_letters(p, &r, (uint32_t)c, (uint32_t)c);
            p->last = lower;
        }
    }
    if (rc < 0) {
        free(r.list);
        return -1;
    }
    return tok__set_node(p, &r);
}

/* {n} {n,} {,m} {n,m} at p->at: 1, or 0 (something else, then { is a character), or -1. */
static int tok__read_interval(tok__pattern *p, uint32_t *least, uint32_t *most) {
    uint32_t bounds[2] = {0, 0};
    int digits[2] = {0, 0}, comma = 0;
    size_t at = p->at + 1;
    for (; at < p->n && p->s[at] != '}'; at++) {
        if (p->s[at] == ',' && !comma) comma = 1;
        else if (p->s[at] >= '0' && p->s[at] <= '9') {
            bounds[comma] = 10 * bounds[comma] + (uint32_t)(p->s[at] - '0');
            if (bounds[comma] > TOK__MAX_REPEAT) return tok__bad(p, "a repetition of more than 1000");
            digits[comma] = 1;
        } else return 0;
    }
    if (at >= p->n || (!digits[0] && !digits[1])) return 0;
    p->at = at + 1;
    *least = bounds[0];
    *most = !comma ? bounds[0] : digits[1] ? bounds[1] : tok__unbounded;
    return *least > *most ? tok__bad(p, "a repetition from more to less") : 1;
}

static int tok__read_repeated(tok__pattern *p) {
    int node = tok__read_atom(p);
    while (node >= 0 && p->at < p->n) {
        uint32_t least = 0, most = tok__unbounded;
        int greed = TOK__GREEDY, interval = 0, outer;
        if (tok__take(p, "*")) {
        } else if (tok__take(p, "+")) least = 1;
        else if (tok__take(p, "?")) most = 1;
        else if (tok__peek(p, "{")) {
            interval = tok__read_interval(p, &least, &most);
            if (interval <= 0) return interval < 0 ? -1 : node;
        } else break;
        if (interval && least == most) { /* {n}? is {0,n}... of the whole, and not lazy */
        } else if (tok__take(p, "?")) greed = TOK__LAZY;
        else if (!interval && tok__take(p, "+")) greed = TOK__POSSESSIVE;
        p->last = 0;
        outer = tok__node_new(p, TOK__N_REPEAT);
        if (outer < 0) return -1;
        p->nodes[outer].child = node;
        p->nodes[outer].least = least;
        p->nodes[outer].most = most;
        p->nodes[outer].how = greed;
        node = outer;
    }
    return node;
}

/* Alternatives, up to ) or the end. */
static int tok__read_choice(tok__pattern *p) {
    const int choice = tok__node_new(p, TOK__N_CHOICE);
    int last_branch = -1, branches = 0;
    if (choice < 0) return -1;
    if (++p->depth > TOK__MAX_NESTED) return tok__bad(p, "nested too deep");
    do {
        const int chain = tok__node_new(p, TOK__N_CHAIN);
        int last = -1;
        if (chain < 0) return -1;
        if (++branches > TOK__MAX_BRANCHES) return tok__bad(p, "more than 32 alternatives");
        if (last_branch < 0) p->nodes[choice].child = chain;
        else p->nodes[last_branch].next = chain;
        last_branch = chain;
        p->last = 0;
        while (p->at < p->n && p->s[p->at] != '|' && p->s[p->at] != ')') {
            const int item = tok__read_repeated(p);
            if (item < 0) return -1;
            if (last < 0) p->nodes[chain].child = item;
            else p->nodes[last].next = item;
            last = item;
        }
    } while (tok__take(p, "|"));
    p->last = 0;
    p->depth--;
    return choice;
}

/* ---- >>compiler -------------------------------------------------------------------------------------------------- */

static int tok__nullable(const tok__pattern *p, int i) { /* whether it may match nothing */
    const tok__node *node = p->nodes + i;
    if (node->kind == TOK__N_SET) return 0;
    if (node->kind == TOK__N_REPEAT) return node->least == 0 || tok__nullable(p, node->child);
    if (node->kind == TOK__N_SUB) return node->how != TOK__ATOMIC || tok__nullable(p, node->child);
    if (node->kind == TOK__N_CHAIN) {
        for (int k = node->child; k >= 0; k = p->nodes[k].next)
            if (!tok__nullable(p, k)) return 0;
        return 1;
    }
    for (int k = node->child; k >= 0; k = p->nodes[k].next)
        if (tok__nullable(p, k)) return 1;
    return node->kind != TOK__N_CHOICE;
}

/* Adds what a match of the node can begin with. 0: out of memory. */
static int tok__first(const tok__pattern *p, int i, tok__ranges *r) {
    const tok__node *node = p->nodes + i;
    if (node->kind == TOK__N_SET && !node->set) {
        const int ok = tok__ranges_add(r, node->c, node->c);
        tok__ranges_sort(r);
        return ok;
    }
    if (node->kind == TOK__N_SET) return tok__ranges_unite(r, &node->set->ranges);
    if (node->kind == TOK__N_SUB && node->how != TOK__ATOMIC) return 1;
    for (int k = node->child; k >= 0; k = p->nodes[k].next) {
        if (!tok__first(p, k, r)) return 0;
        if (node->kind == TOK__N_CHAIN && !tok__nullable(p, k)) break;
    }
    return 1;
}

typedef struct tok__compiler {
    tok__pattern *p;
    tok__regex *regex;
    int capacity, target_capacity, alt_capacity;
} tok__compiler;

static int tok__emit_op(tok__compiler *k, enum tok__code code) { /* its number, or -1 */
    tok__regex *regex = k->regex;
    if (regex->n_ops == TOK__MAX_OPS) return tok__bad(k->p, "too long");
    if (regex->n_ops == k->capacity) {
        tok__op *bigger = (tok__op *)realloc(regex->ops, sizeof *bigger * (size_t)(2 * k->capacity + 32));
        if (!bigger) return tok__bad(k->p, NULL);
        regex->ops = bigger;
        k->capacity = 2 * k->capacity + 32;
    }
    memset(&regex->ops[regex->n_ops], 0, sizeof *regex->ops);
    regex->ops[regex->n_ops].code = (unsigned char)code;
    return regex->n_ops++;
}

/* An alternation of n branches: its targets and what they begin with. Its op, or -1. */
static int tok__emit_alt(tok__compiler *k, int first_branch, int n) {
    tok__regex *x = k->regex;
    const int op = tok__emit_op(k, TOK__ALT), from = x->n_targets;
    int b = first_branch;
    if (op < 0) return -1;
    int *targets = (int *)realloc(x->targets, sizeof *targets * (size_t)(from + n));
    if (targets) x->targets = targets;
    const tok__set **firsts =
        targets ? (const tok__set **)realloc(x->firsts, sizeof *firsts * (size_t)(from + n)) : NULL;
    if (firsts) x->firsts = firsts;
    uint32_t(*viable)[128] =
        firsts ? (uint32_t(*)[128])realloc(x->viable, sizeof *viable * (size_t)(x->n_alts + 1)) : NULL;
    if (!viable) return tok__bad(k->p, NULL);
    x->viable = viable;
    memset(viable[x->n_alts], 0, sizeof viable[0]);
    for (int i = 0; i < n; i++, b = k->p->nodes[b].next) {
        tok__ranges r = {NULL, 0, 0};
        const tok__set *set = NULL;
        const int empty = tok__nullable(k->p, b);
        if (!empty) {
            if (!tok__first(k->p, b, &r)) {
                free(r.list);
                return tok__bad(k->p, NULL);
            }
            set = tok__pattern_set(k->p, &r);
            if (!set) return -1;
        }
        x->firsts[from + i] = set;
        x->targets[from + i] = 0;
        for (uint32_t c = 0; c < 128; c++)
            if (empty || set->ascii[c]) viable[x->n_alts][c] |= (uint32_t)1 << i;
    }
    x->ops[op].x = from;
    x->ops[op].y = n;
    x->ops[op].least = (uint32_t)x->n_alts++;
    x->ops[op].memo = x->n_memo++;
    x->n_targets += n;
    return op;
}

static int tok__compile_node(tok__compiler *k, int i);

static int tok__compile_choice(tok__compiler *k, int i) {
    const tok__pattern *p = k->p;
    tok__regex *x = k->regex;
    int n = 0, jumps[TOK__MAX_BRANCHES], op;
    for (int b = p->nodes[i].child; b >= 0; b = p->nodes[b].next) n++;
    if (n == 1) return tok__compile_node(k, p->nodes[i].child);
    op = tok__emit_alt(k, p->nodes[i].child, n);
    if (op < 0) return -1;
    int b = p->nodes[i].child;
    for (int m = 0; m < n; m++, b = p->nodes[b].next) {
        x->targets[x->ops[op].x + m] = x->n_ops;
        if (tok__compile_node(k, b) < 0) return -1;
        jumps[m] = tok__emit_op(k, TOK__JUMP);
        if (jumps[m] < 0) return -1;
    }
    for (int m = 0; m < n; m++) x->ops[jumps[m]].x = x->n_ops;
    return 0;
}

/* A body in between: SPLIT into it or past it; both are set when it is compiled. */
static int tok__compile_optional(tok__compiler *k, int body, int lazy, int loop) {
    tok__regex *x = k->regex;
    const int split = tok__emit_op(k, TOK__SPLIT);
    if (split < 0) return -1;
    x->ops[split].memo = x->n_memo++;
    if (tok__compile_node(k, body) < 0) return -1;
    if (loop) {
        const int jump = tok__emit_op(k, TOK__JUMP);
        if (jump < 0) return -1;
        x->ops[jump].x = split;
    }
    x->ops[split].x = lazy ? x->n_ops : split + 1;
    x->ops[split].y = lazy ? split + 1 : x->n_ops;
    return 0;
}

static int tok__compile_sub(tok__compiler *k, int body, int kind) {
    const int sub = tok__emit_op(k, TOK__SUB);
    if (sub < 0) return -1;
    k->regex->ops[sub].kind = (unsigned char)kind;
    if (tok__compile_node(k, body) < 0 || tok__emit_op(k, TOK__END) < 0) return -1;
    k->regex->ops[sub].x = k->regex->n_ops;
    return 0;
}

static int tok__compile_run(tok__compiler *k, const tok__node *repeat, const tok__node *body) {
    const int op = tok__emit_op(k, TOK__RUN);
    const tok__set *set = body->set;
    if (op < 0) return -1;
    if (!set) {
        tok__ranges r = {NULL, 0, 0};
        if (!tok__ranges_add(&r, body->c, body->c)) return tok__bad(k->p, NULL);
        set = tok__pattern_set(k->p, &r);
        if (!set) return -1;
    }
    k->regex->ops[op].set = set;
    k->regex->ops[op].least = repeat->least;
    k->regex->ops[op].most = repeat->most;
    k->regex->ops[op].kind = repeat->how == TOK__POSSESSIVE;
    if (repeat->most == tok__unbounded) k->regex->ops[op].memo = k->regex->n_memo++;
    return 0;
}

static int tok__compile_repeat(tok__compiler *k, int i) {
    const tok__node *node = k->p->nodes + i;
    const int body = node->child, lazy = node->how == TOK__LAZY;
    if (k->p->nodes[body].kind == TOK__N_SET && !lazy) return tok__compile_run(k, node, k->p->nodes + body);
    if (node->how == TOK__POSSESSIVE) {
        k->p->nodes[i].how = TOK__GREEDY; /* what it means, as an atomic group */
        const int rc = tok__compile_sub(k, i, TOK__ATOMIC);
        k->p->nodes[i].how = TOK__POSSESSIVE;
        return rc;
    }
    if (node->most == tok__unbounded && tok__nullable(k->p, body))
        return tok__bad(k->p, "an endless repetition of what may be empty");
    for (uint32_t m = 0; m < node->least; m++) {
        const int before = k->regex->n_ops;
        if (tok__compile_node(k, body) < 0) return -1;
        if (k->regex->n_ops == before) break; /* it is nothing, however often */
    }
    if (node->most == tok__unbounded) return tok__compile_optional(k, body, lazy, 1);
    for (uint32_t m = node->least; m < node->most;
         m++) /* one after the other is enough: all that are left may be empty */
        if (tok__compile_optional(k, body, lazy, 0) < 0) return -1;
    return 0;
}

static int tok__compile_node(tok__compiler *k, int i) { /* 0, or -1 */
    const tok__node node = k->p->nodes[i];
    int op;
    if (node.kind == TOK__N_CHOICE) return tok__compile_choice(k, i);
    if (node.kind == TOK__N_REPEAT) return tok__compile_repeat(k, i);
    if (node.kind == TOK__N_SUB) return tok__compile_sub(k, node.child, node.how);
    if (node.kind == TOK__N_ASSERT) {
        op = tok__emit_op(k, TOK__ASSERT);
        if (op >= 0) k->regex->ops[op].kind = (unsigned char)node.how;
        return op < 0 ? -1 : 0;
    }
    if (node.kind == TOK__N_SET) {
        op = tok__emit_op(k, node.set ? TOK__SET : TOK__CHAR);
        if (op < 0) return -1;
        k->regex->ops[op].set = node.set;
        if (!node.set) k->regex->ops[op].y = tok__put_utf8(k->regex->ops[op].bytes, node.c);
        return 0;
    }
    for (int child = node.child; child >= 0; child = k->p->nodes[child].next)
        if (tok__compile_node(k, child) < 0) return -1;
    return 0;
}

static void tok__regex_free(tok__regex *x) {
    free(x->ops);
    free(x->targets);
    free((void *)x->firsts);
    free(x->viable);
    memset(x, 0, sizeof *x);
}

/* Which bytes a match of the tree at `root` can begin with. 0: out of memory. */
static int tok__find_starts(const tok__pattern *p, int root, tok__regex *x) {
    tok__ranges r = {NULL, 0, 0};
    const int ok = tok__first(p, root, &r);
    for (size_t i = 0; i < r.n && ok; i++)
        for (uint32_t c = r.list[i].first, next; c <= r.list[i].last; c = next) {
            const uint32_t lead = c < 0x80      ? c
                                  : c < 0x800   ? 0xC0 | c >> 6
                                  : c < 0x10000 ? 0xE0 | c >> 12
                                                : 0xF0 | c >> 18;
            x->starts[lead] = 1;
            next = c < 0x80 ? c + 1 : c < 0x800 ? (c | 0x3F) + 1 : c < 0x10000 ? (c | 0xFFF) + 1 : (c | 0x3FFFF) + 1;
        }
    free(r.list);
    x->may_be_empty = tok__nullable(p, root);
    return ok;
}

/* Compiles the tree. Returns 0, or -1. */
static int tok__compile(tok__pattern *p, int root, tok__regex *x) {
    tok__compiler k;
    memset(&k, 0, sizeof k);
    k.p = p;
    k.regex = x;
    if (!tok__find_starts(p, root, x)) return tok__bad(p, NULL);
    if (tok__compile_node(&k, root) < 0 || tok__emit_op(&k, TOK__END) < 0) return -1;
    return 0;
}

/* A pattern of n bytes, UTF-8, or with `literal` a text that stands for itself. Returns NULL, or why it is refused
   ("": out of memory); then *out is empty. */
static const char *tok__regex_new(tokenizer *t, tok__regex *out, const char *pattern, size_t n, int literal) {
    tok__pattern p;
    int root, last = -1;
    memset(out, 0, sizeof *out);
    memset(&p, 0, sizeof p);
    p.t = t;
    p.s = (const unsigned char *)pattern;
    p.n = n;
    if (n == 0) return "an empty pattern";
    if (!literal) root = tok__read_choice(&p);
    else {
        root = tok__node_new(&p, TOK__N_CHAIN);
        while (root >= 0 && p.at < n) {
            const int node = tok__node_new(&p, TOK__N_SET);
            if (node < 0) {
                root = -1;
                break;
            }
            p.nodes[node].c = tok__next(p.s, &p.at);
            if (last < 0) p.nodes[root].child = node;
            else p.nodes[last].next = node;
            last = node;
        }
    }
    if (root >= 0 && p.at < n) root = tok__bad(&p, "a ) without (");
    if (root >= 0) root = tok__compile(&p, root, out);
    free(p.nodes);
    if (root < 0) tok__regex_free(out);
    return root < 0 ? p.bad ? p.bad : "" : NULL;
}

/* The characters of the set, one by one or as runs; takes the ranges over. Returns as tok__regex_new. */
static const char *tok__regex_of_set(tokenizer *t, tok__regex *out, tok__ranges *r, int runs) {
    tok__pattern p;
    int root, node;
    memset(out, 0, sizeof *out);
    memset(&p, 0, sizeof p);
    p.t = t;
    root = node = tok__set_node(&p, r);
    if (runs && node >= 0) {
        root = tok__node_new(&p, TOK__N_REPEAT);
        if (root >= 0) {
            p.nodes[root].child = node;
            p.nodes[root].least = 1;
            p.nodes[root].most = tok__unbounded;
        }
    }
    if (root >= 0) root = tok__compile(&p, root, out);
    free(p.nodes);
    if (root < 0) tok__regex_free(out);
    return root < 0 ? "" : NULL;
}

/* ---- >>matcher --------------------------------------------------------------------------------------------------- */
/* Depth first, with what is left to try on a stack. Whether the rest of a pattern fits at some place does not depend on
   how one came there; so once a text has taken more steps than usual, what has failed is remembered, a bit for each
   place and each op that has a choice, and nothing is tried twice. Then even (a*)*-like patterns take linear time. */

enum tok__frame_kind { TOK__F_TRY, TOK__F_RUN, TOK__F_ALT, TOK__F_LOOP, TOK__F_FAILED };

typedef struct tok__frame {
    int pc;
    unsigned kind;
    size_t at, least; /* RUN: it may give back down to least; ALT: the branches that are left */
} tok__frame;

typedef struct tok__stack { /* of one call of tokenizer_encode */
    tok__frame *frames;
    size_t n, capacity;
    size_t room; /* bytes that steps may still make, of those for a text */
    int why;     /* TOKENIZER_STEPS or _GROWTH, if that is what failed */
} tok__stack;

typedef struct tok__span {
    size_t from, end;
} tok__span;

typedef struct tok__search { /* of one text with one pattern */
    const tok__regex *x;
    const unsigned char *s;
    size_t n, last; /* last: where the last match ended; SIZE_MAX: there was none */
    tok__stack *stack;
    uint64_t steps;
    uint32_t *failed; /* bits; NULL: not yet worth it */
    tok__span *runs;  /* then, by memo: the last run that a RUN found which gives nothing back */
    int broken;       /* out of memory or of steps */
} tok__search;

static void tok__search_begin(tok__search *q, const tok__regex *x, const unsigned char *s, size_t n,
                              tok__stack *stack) {
    memset(q, 0, sizeof *q);
    q->x = x;
    q->s = s;
    q->n = n;
    q->last = SIZE_MAX;
    q->stack = stack;
}

static void tok__search_end(tok__search *q) {
    free(q->failed);
    free(q->runs);
}

static int tok__push_frame(tok__search *q, enum tok__frame_kind kind, int pc, size_t at, size_t least) {
    tok__stack *k = q->stack;
    if (k->n == k->capacity) {
        const size_t capacity = k->capacity ? 2 * k->capacity : 64;
        tok__frame *bigger =
            capacity < SIZE_MAX / sizeof *bigger ? (tok__frame *)realloc(k->frames, capacity * sizeof *bigger) : NULL;
        if (!bigger) {
            q->broken = 1;
            return 0;
        }
        k->frames = bigger;
        k->capacity = capacity;
    }
    k->frames[k->n].kind = kind;
    k->frames[k->n].pc = pc;
    k->frames[k->n].at = at;
    k->frames[k->n++].least = least;
    return 1;
}

static size_t tok__failed_bit(const tok__search *q, int pc, size_t at) {
    return (size_t)q->x->ops[pc].memo * (q->n + 1) + at;
}

static int tok__has_failed(const tok__search *q, int pc, size_t at) {
    const size_t bit = tok__failed_bit(q, pc, at);
    return q->failed && (q->failed[bit / 32] >> (bit % 32) & 1);
}

static int tok__asserted(const tok__search *q, int kind, size_t at) {
    switch (kind) {
    case TOK__LINE_BEGIN: return at == 0 || (q->s[at - 1] == '\n' && at < q->n);
    case TOK__LINE_END: return at == q->n || q->s[at] == '\n';
    case TOK__BEGIN: return at == 0;
    case TOK__LAST: return at == q->n;
    default: return at == q->n || (at + 1 == q->n && q->s[at] == '\n');
    }
}

/* The branches of an alternation that may match at `at`, as bits. */
static uint32_t tok__viable(const tok__search *q, const tok__op *op, size_t at) {
    uint32_t viable = 0, c;
    size_t next = at;
    if (at < q->n && q->s[at] < 128) return q->x->viable[op->least][q->s[at]];
    c = at < q->n ? tok__next(q->s, &next) : 0;
    for (int i = 0; i < op->y; i++) {
        const tok__set *first = q->x->firsts[op->x + i];
        if (!first || (at < q->n && tok__in(first, c))) viable |= (uint32_t)1 << i;
    }
    return viable;
}

static int tok__lowest(uint32_t bits) {
    int i = 0;
    while (!(bits & 1)) bits >>= 1, i++;
    return i;
}

/* A RUN at *at: 1 and *at behind it, with what may be given back on the stack, or 0. */
static int tok__run(tok__search *q, int pc, size_t *at) {
    const tok__op *op = q->x->ops + pc;
    size_t end, least = *at;
    if (op->least) {
        const size_t from = *at;
        least = tok__run_end(op->set, q->s, q->n, from, op->least);
        if (op->least > 1) { /* as many characters as there must be? */
            uint32_t count = 0;
            for (size_t i = from; i < least; i++) count += (q->s[i] & 0xC0) != 0x80;
            if (count < op->least) return 0;
        } else if (least == from) return 0;
    }
    if (q->failed && op->most == tok__unbounded && !op->kind) { /* character by character */
        for (end = least;;) {
            size_t next = end;
            if (tok__has_failed(q, pc, end)) return 0;
            if (!tok__push_frame(q, TOK__F_LOOP, pc, end, 0)) return 0;
            q->steps++;
            if (end == q->n || !tok__in(op->set, tok__next(q->s, &next))) return 0; /* the last one is tried first */
            end = next;
        }
    }
    if (q->failed && op->most == tok__unbounded) {
        tok__span *run = q->runs + op->memo;
        if (least < run->from || least >= run->end) {
            run->from = least;
            run->end = tok__run_end(op->set, q->s, q->n, least, tok__unbounded);
            q->steps += run->end - least;
        }
        *at = run->end;
        return 1;
    }
    end = tok__run_end(op->set, q->s, q->n, least, op->most == tok__unbounded ? tok__unbounded : op->most - op->least);
    q->steps += end - *at;
    *at = end;
    return op->kind || end == least || tok__push_frame(q, TOK__F_RUN, pc, end, least);
}

/* Takes up what is left to try, down to the frame `base`: 1 and where to go on, or 0. */
static int tok__backtrack(tok__search *q, size_t base, int *pc, size_t *at) {
    tok__stack *k = q->stack;
    while (k->n > base && !q->broken) {
        tok__frame *f = k->frames + k->n - 1;
        *pc = f->pc;
        *at = f->at;
        if (f->kind == TOK__F_FAILED) {
            const size_t bit = tok__failed_bit(q, f->pc, f->at);
            q->failed[bit / 32] |= (uint32_t)1 << (bit % 32);
            k->n--;
            continue;
        }
        if (f->kind == TOK__F_LOOP) { /* what follows the run; if that fails, so has the run from here */
            f->kind = TOK__F_FAILED;
            ++*pc;
        } else if (f->kind == TOK__F_RUN) {
            do f->at--;
            while ((q->s[f->at] & 0xC0) == 0x80);
            *at = f->at;
            ++*pc;
            if (f->at == f->least) k->n--;
        } else if (f->kind == TOK__F_ALT) {
            const uint32_t left = (uint32_t)f->least;
            f->least = left & (left - 1);
            if (!f->least) k->n--;
            *pc = q->x->targets[q->x->ops[*pc].x + tok__lowest(left)];
        } else k->n--;
        return 1;
    }
    return 0;
}

/* ALT or SPLIT: 1 and where to go on, or 0. */
static int tok__choose(tok__search *q, int *pc, size_t at) {
    const tok__op *op = q->x->ops + *pc;
    const int here = *pc;
    if (q->failed && (tok__has_failed(q, here, at) || !tok__push_frame(q, TOK__F_FAILED, here, at, 0))) return 0;
    if (op->code == TOK__SPLIT) {
        *pc = op->x;
        return tok__push_frame(q, TOK__F_TRY, op->y, at, 0);
    }
    const uint32_t viable = tok__viable(q, op, at);
    if (!viable) return 0;
    *pc = q->x->targets[op->x + tok__lowest(viable)];
    return !(viable & (viable - 1)) || tok__push_frame(q, TOK__F_ALT, here, at, viable & (viable - 1));
}

static uint64_t tok__patience(const tok__search *q) { /* steps */
    return q->failed ? 1024 * (uint64_t)q->n + 1000000 : 64 * (uint64_t)q->n + 4096;
}

/* Whether the ops from pc on, to the next END, match at `at`; then *end. Nested for groups that are looked at apart. */
static int tok__match(tok__search *q, int pc, size_t at, size_t *end) {
    const size_t base = q->stack->n;
    const uint64_t patience = tok__patience(q);
    int ok = 1;
    for (;;) {
        const tok__op *op = q->x->ops + pc;
        if (!ok && !tok__backtrack(q, base, &pc, &at)) return 0;
        if (!ok) op = q->x->ops + pc;
        if (++q->steps > patience) {
            q->broken = 1;
            if (q->failed) q->stack->why = TOKENIZER_STEPS;
            break;
        }
        ok = 1;
        switch (op->code) {
        case TOK__CHAR:
            ok = q->n - at >= (size_t)op->y && !memcmp(q->s + at, op->bytes, (size_t)op->y);
            at += (size_t)op->y;
            break;
        case TOK__SET: ok = at < q->n && tok__in(op->set, tok__next(q->s, &at)); break;
        case TOK__RUN: ok = tok__run(q, pc, &at); break;
        case TOK__ASSERT: ok = tok__asserted(q, op->kind, at); break;
        case TOK__SUB: {
            size_t inner = at;
            ok = tok__match(q, pc + 1, at, &inner) == (op->kind != TOK__NOT_AHEAD);
            if (op->kind == TOK__ATOMIC) at = inner;
            pc = op->x - 1;
            break;
        }
        case TOK__ALT:
        case TOK__SPLIT:
            ok = tok__choose(q, &pc, at);
            pc--;
            break;
        case TOK__JUMP: pc = op->x - 1; break;
        default:
            *end = at;
            q->stack->n = base;
            return 1;
        }
        if (q->broken) break;
        pc++;
    }
    q->stack->n = base;
    return 0;
}

/* Begins to remember what fails. 0: no memory. */
static int tok__remember(tok__search *q) {
    const size_t ops = (size_t)q->x->n_memo + 1;
    q->failed =
        q->n < ((size_t)1 << 31) / ops ? (uint32_t *)calloc((ops * (q->n + 1)) / 32 + 1, sizeof *q->failed) : NULL;
    q->runs = q->failed ? (tok__span *)calloc(ops, sizeof *q->runs) : NULL;
    q->broken = !q->runs;
    q->steps = 0;
    return !q->broken;
}

/* The first match from `from` on: 1 and [*begin, *end), or 0. An empty one is none where the last match ended. */
static int tok__find(tok__search *q, size_t from, size_t *begin, size_t *end) {
    for (size_t at = from; at <= q->n; at++) {
        if (!q->x->may_be_empty)
            while (at < q->n && !q->x->starts[q->s[at]]) at++;
        if (at == q->n && !q->x->may_be_empty) return 0;
        if (at < q->n && (q->s[at] & 0xC0) == 0x80) continue;
        int is = tok__match(q, 0, at, end);
        if (q->broken && !q->failed) {
            q->broken = 0;
            if (tok__remember(q)) is = tok__match(q, 0, at, end);
        }
        if (q->broken) return 0;
        if (!is || (*end == at && q->last == at)) continue;
        *begin = at;
        q->last = *end;
        return 1;
    }
    return 0;
}

/* ---- >>text-steps ------------------------------------------------------------------------------------------------ */

typedef struct tok__text { /* grows */
    unsigned char *s;
    size_t n, capacity;
} tok__text;

static int tok__text_add(tok__text *t, const void *bytes, size_t n) { /* 0: out of memory */
    if (n > t->capacity - t->n) {
        const size_t capacity = n < SIZE_MAX / 4 && t->n < SIZE_MAX / 4 ? 2 * (t->n + n) + 64 : 0;
        unsigned char *bigger = capacity ? (unsigned char *)realloc(t->s, capacity) : NULL;
        if (!bigger) return 0;
        t->s = bigger;
        t->capacity = capacity;
    }
    if (n) memcpy(t->s + t->n, bytes, n);
    t->n += n;
    return 1;
}

/* A stack for texts of n bytes. */
static tok__stack tok__stack_for(size_t n) {
    const size_t least = 65536;
    tok__stack k = {NULL, 0, 0, SIZE_MAX, 0};
    if (n < (SIZE_MAX - least) / TOKENIZER_MOST_GROWTH) k.room = TOKENIZER_MOST_GROWTH * n + least;
    return k;
}

/* What a step adds to the text that it makes. 0: out of memory, or of room. */
static int tok__make(tok__stack *k, tok__text *t, const void *bytes, size_t n) {
    if (n > k->room) k->why = TOKENIZER_GROWTH;
    if (n > k->room) return 0;
    k->room -= n;
    return tok__text_add(t, bytes, n);
}

/* out = s [n] with every match replaced. 1, or 0 (nothing matched; out is empty), or -1. */
static int tok__replace(const tok__step *step, const unsigned char *s, size_t n, tok__stack *stack, tok__text *out) {
    tok__search q;
    size_t done = 0, begin, end;
    int found = 0, ok = 1;
    tok__search_begin(&q, &step->regex, s, n, stack);
    while (ok && tok__find(&q, done, &begin, &end)) {
        found = 1;
        ok = tok__make(stack, out, s + done, begin - done) && tok__make(stack, out, step->text, step->n);
        done = end;
    }
    if (ok && found && !q.broken) ok = tok__make(stack, out, s + done, n - done);
    tok__search_end(&q);
    return !ok || q.broken ? -1 : found;
}

/* ---- >>normalization --------------------------------------------------------------------------------------------- */
/* NFC: what is not inert is decomposed, ordered by combining class and composed again, from the inert character before
   it to the next one. */

enum {
    TOK__HANGUL = 0xAC00,
    TOK__L = 0x1100,
    TOK__V = 0x1161,
    TOK__T = 0x11A7,
    TOK__L_COUNT = 19,
    TOK__V_COUNT = 21,
    TOK__T_COUNT = 28,
    TOK__HANGUL_COUNT = 11172
};

static int tok__by_code(const void *a, const void *b) {
    const tok__composition *x = (const tok__composition *)a, *y = (const tok__composition *)b;
    return x->code < y->code ? -1 : x->code > y->code;
}

static int tok__by_parts(const void *a, const void *b) {
    const tok__composition *x = (const tok__composition *)a, *y = (const tok__composition *)b;
    for (int i = 0; i < 2; i++)
        if (x->parts[i] != y->parts[i]) return x->parts[i] < y->parts[i] ? -1 : 1;
    return 0;
}

/* The next number of a packed table. */
static uint32_t tok__number(const char **s) {
    uint32_t n = 0;
    while (**s >= 'O') n = 44 * (n + (uint32_t)(*(*s)++ - 'O'));
    return n + (uint32_t)(*(*s)++ - '#');
}

static uint32_t tok__near(const char **s, uint32_t last) {
    const uint32_t n = tok__number(s);
    return n % 2 ? last - (n + 1) / 2 : last + n / 2;
}

static void tok__read_decompositions(tok__nfc *f) {
    uint32_t code = 0, parts[4] = {0};
    const char *s = tok__decompositions[0];
    tok__number(&s);
    for (const char *const *table = tok__decompositions; *table; s = *++table)
        while (*s) {
            tok__composition *x = f->by_code + f->n++;
            const uint32_t n = tok__number(&s);
            memset(x, 0, sizeof *x);
            code += n / 5;
            x->code = code++;
            x->excluded = n % 5 > 0;
            x->n = n % 5 ? (int)(n % 5) : 2;
            for (int i = 0; i < x->n; i++) x->parts[i] = parts[i] = tok__near(&s, parts[i]);
            if (!x->excluded) f->by_parts[f->n_pairs++] = *x;
        }
    qsort(f->by_code, f->n, sizeof *f->by_code, tok__by_code);
    qsort(f->by_parts, f->n_pairs, sizeof *f->by_parts, tok__by_parts);
}

/* What may change or be joined: everything but this is inert. 0: out of memory. */
static int tok__read_marks(tok__nfc *f, tok__ranges *active) {
    uint32_t at = 0;
    int ok = 1;
    const char *s = tok__combining[0];
    tok__number(&s);
    for (const char *const *table = tok__combining; *table; s = *++table)
        while (*s && ok) {
            tok__range *mark = f->marks + f->n_marks;
            mark->first = at + tok__number(&s);
            at = mark->first + tok__number(&s);
            mark->last = at - 1;
            f->classes[f->n_marks++] = (unsigned char)tok__number(&s);
            ok = tok__ranges_add(active, mark->first, mark->last);
        }
    for (size_t i = 0; i < f->n && ok; i++)
        if (f->by_code[i].excluded) ok = tok__ranges_add(active, f->by_code[i].code, f->by_code[i].code);
    for (size_t i = 0; i < f->n_pairs && ok; i++)
        ok = tok__ranges_add(active, f->by_parts[i].parts[1], f->by_parts[i].parts[1]);
    return ok && tok__ranges_add(active, TOK__V, TOK__V + TOK__V_COUNT - 1) &&
           tok__ranges_add(active, TOK__T + 1, TOK__T + TOK__T_COUNT - 1);
}

/* Reads the tables. 0: out of memory. */
static int tok__use_nfc(tokenizer *t) {
    tok__nfc *f = &t->nfc;
    tok__ranges active = {NULL, 0, 0};
    const char *first = tok__decompositions[0], *other = tok__combining[0];
    const size_t n = tok__number(&first), marks = tok__number(&other);
    if (f->inert) return 1;
    f->by_code = (tok__composition *)tok__keep(t, NULL, n * sizeof *f->by_code);
    f->by_parts = (tok__composition *)tok__keep(t, NULL, n * sizeof *f->by_parts);
    f->marks = (tok__range *)tok__keep(t, NULL, marks * sizeof *f->marks);
    f->classes = (unsigned char *)tok__keep(t, NULL, marks);
    if (!f->by_code || !f->by_parts || !f->marks || !f->classes) return 0;
    tok__read_decompositions(f);
    int ok = tok__read_marks(f, &active);
    tok__ranges_sort(&active);
    ok = ok && tok__ranges_invert(&active);
    if (ok) f->inert = tok__make_set(t, &active);
    free(active.list);
    return f->inert != NULL;
}

static unsigned tok__combining_class(const tok__nfc *f, uint32_t c) {
    size_t low = 0, high = f->n_marks;
    if (c < 0x300) return 0;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (c < f->marks[middle].first) high = middle;
        else if (c > f->marks[middle].last) low = middle + 1;
        else return f->classes[middle];
    }
    return 0;
}

typedef struct tok__codes { /* characters between two inert ones, decomposed */
    uint32_t *c, *spare;
    size_t n, capacity;
} tok__codes;

static int tok__decompose(const tok__nfc *f, uint32_t c, tok__codes *out) { /* 0: out of memory */
    tok__composition wanted, *found;
    if (out->n + 8 > out->capacity) {
        const size_t capacity = 2 * out->capacity + 64;
        uint32_t *bigger = (uint32_t *)realloc(out->c, capacity * sizeof *bigger);
        if (!bigger) return 0;
        out->c = bigger;
        bigger = (uint32_t *)realloc(out->spare, capacity * sizeof *bigger);
        if (!bigger) return 0;
        out->spare = bigger;
        out->capacity = capacity;
    }
    if (c >= TOK__HANGUL && c < TOK__HANGUL + TOK__HANGUL_COUNT) {
        const uint32_t i = c - TOK__HANGUL;
        out->c[out->n++] = TOK__L + i / (TOK__V_COUNT * TOK__T_COUNT);
        out->c[out->n++] = TOK__V + i / TOK__T_COUNT % TOK__V_COUNT;
        if (i % TOK__T_COUNT) out->c[out->n++] = TOK__T + i % TOK__T_COUNT;
        return 1;
    }
    wanted.code = c;
    found = (tok__composition *)bsearch(&wanted, f->by_code, f->n, sizeof wanted, tok__by_code);
    if (!found) {
        out->c[out->n++] = c;
        return 1;
    }
    for (int i = 0; i < found->n; i++)
        if (!tok__decompose(f, found->parts[i], out)) return 0;
    return 1;
}

/* Brings runs of combining characters into the order of their classes, stably: one pass per class that there is. */
static void tok__reorder(const tok__nfc *f, tok__codes *k) {
    for (size_t from = 0, to; from < k->n; from = to) {
        size_t counts[256] = {0}, sum = 0;
        for (to = from; to < k->n; to++) {
            const unsigned class_ = tok__combining_class(f, k->c[to]);
            if (!class_) break;
            counts[class_]++;
        }
        for (int i = 0; i < 256; i++) {
            const size_t here = counts[i];
            counts[i] = sum;
            sum += here;
        }
        for (size_t i = from; i < to && sum > 1; i++) k->spare[counts[tok__combining_class(f, k->c[i])]++] = k->c[i];
        if (sum > 1) memcpy(k->c + from, k->spare, sum * sizeof *k->c);
        if (to == from) to++;
    }
}

static uint32_t tok__pair(const tok__nfc *f, uint32_t a, uint32_t b) { /* what they compose to, or 0 */
    tok__composition wanted, *found;
    if (a >= TOK__L && a < TOK__L + TOK__L_COUNT && b >= TOK__V && b < TOK__V + TOK__V_COUNT)
        return TOK__HANGUL + ((a - TOK__L) * TOK__V_COUNT + (b - TOK__V)) * TOK__T_COUNT;
    if (a >= TOK__HANGUL && a < TOK__HANGUL + TOK__HANGUL_COUNT && (a - TOK__HANGUL) % TOK__T_COUNT == 0 &&
        b > TOK__T && b < TOK__T + TOK__T_COUNT)
        return a + (b - TOK__T);
    wanted.parts[0] = a;
    wanted.parts[1] = b;
    found = (tok__composition *)bsearch(&wanted, f->by_parts, f->n_pairs, sizeof wanted, tok__by_parts);
    return found ? found->code : 0;
}

static void tok__compose(const tok__nfc *f, tok__codes *k) {
    size_t starter = SIZE_MAX, n = 0;
    unsigned last = 0; /* the class of what was kept last */
    for (size_t i = 0; i < k->n; i++) {
        const unsigned class_ = tok__combining_class(f, k->c[i]);
        const int blocked = n && n - 1 != starter && (last == 0 || last >= class_);
        const uint32_t pair = starter != SIZE_MAX && !blocked ? tok__pair(f, k->c[starter], k->c[i]) : 0;
        if (pair) k->c[starter] = pair;
        else {
            if (!class_) starter = n;
            last = class_;
            k->c[n++] = k->c[i];
        }
    }
    k->n = n;
}

/* out = s [n] in NFC. 1, or 0 (it is already; out is empty), or -1. */
static int tok__nfc_apply(const tok__nfc *f, const unsigned char *s, size_t n, tok__text *out) {
    tok__codes k = {NULL, NULL, 0, 0};
    size_t done = 0, at = 0;
    int ok = 1;
    while (ok && at < n) {
        size_t from = at, next = at; /* the last inert one before what is active */
        while (at < n) {
            next = at;
            if (!tok__in(f->inert, tok__next(s, &next))) break;
            from = at;
            at = next;
        }
        if (at == n) break;
        for (k.n = 0, at = from; at < n && ok;) {
            next = at;
            const uint32_t c = tok__next(s, &next);
            if (at > from && tok__in(f->inert, c)) break;
            ok = tok__decompose(f, c, &k);
            at = next;
        }
        if (!ok) break;
        tok__reorder(f, &k);
        tok__compose(f, &k);
        ok = tok__text_add(out, s + done, from - done);
        for (size_t i = 0; i < k.n && ok; i++) {
            unsigned char bytes[4];
            const int length = tok__put_utf8(bytes, k.c[i]);
            ok = tok__text_add(out, bytes, (size_t)length);
        }
        done = at;
    }
    if (ok && done) ok = tok__text_add(out, s + done, n - done);
    free(k.c);
    free(k.spare);
    return ok ? done > 0 : -1;
}

/* One step on s [n]: 1 and the new text in out, or 0 (it stays), or -1. first: s begins the whole text. */
static int tok__apply(const tokenizer *t, const tok__step *step, const unsigned char *s, size_t n, int first,
                      tok__stack *stack, tok__text *out) {
    if (step->kind == TOK__NFC) return tok__nfc_apply(&t->nfc, s, n, out);
    if (step->kind == TOK__REPLACE) return tok__replace(step, s, n, stack, out);
    if (!n || (step->only_first && !first)) return 0;
    if (step->unless && n >= step->n && !memcmp(s, step->text, step->n)) return 0;
    return tok__make(stack, out, step->text, step->n) && tok__make(stack, out, s, n) ? 1 : -1;
}

/* All of them, one after the other: 1 and the new text in out, or 0 (it stays), or -1. */
static int tok__normalize(const tokenizer *t, const unsigned char *s, size_t n, tok__stack *stack, tok__text *out) {
    int changed = 0;
    for (int i = 0; i < t->normalizers.n; i++) {
        tok__text next = {NULL, 0, 0};
        const int rc = changed ? tok__apply(t, t->normalizers.list + i, out->s, out->n, 1, stack, &next)
                               : tok__apply(t, t->normalizers.list + i, s, n, 1, stack, &next);
        if (rc > 0) {
            free(out->s);
            *out = next;
            changed = 1;
        } else free(next.s);
        if (rc < 0) return -1;
    }
    return changed;
}

/* ---- >>vocabulary ------------------------------------------------------------------------------------------------ */
/* Spellings are found by a hash that is seeded with an address, so that a file cannot be made to collide. */

static uint64_t tok__few_bytes(const unsigned char *s, size_t n) { /* all of 0 to 7 */
    uint32_t first = 0, last = 0;
    if (n >= 4) {
        memcpy(&first, s, 4);
        memcpy(&last, s + n - 4, 4);
    } else if (n) first = (uint32_t)s[0] | (uint32_t)s[n / 2] << 8 | (uint32_t)s[n - 1] << 16;
    return (uint64_t)first << 32 | last;
}

static uint64_t tok__hash(const tokenizer *t, const void *bytes, size_t n) {
    const unsigned char *s = (const unsigned char *)bytes;
    uint64_t h = t->seed ^ (uint64_t)n * 0x9E3779B97F4A7C15u, word;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&word, s, 8);
        h = (h ^ word) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32 ^ t->seed >> 7;
    }
    h = (h ^ tok__few_bytes(s, n)) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32 ^ t->seed >> 7;
    h *= 0xD6E8FEB86659FD93u;
    return h ^ h >> 29;
}

/* Where the spelling is, or where it would be. */
static tok__slot *tok__place(const tokenizer *t, const void *bytes, size_t n, uint32_t *tag) {
    const uint64_t h = tok__hash(t, bytes, n);
    size_t i = (size_t)h & (t->n_slots - 1);
    *tag = (uint32_t)(h >> 32);
    for (; t->slots[i].id; i = (i + 1) & (t->n_slots - 1)) {
        if (t->slots[i].tag != *tag) continue;
        const tok__entry *e = t->entries + t->slots[i].id - 1;
        if (e->n_spelled == n && !memcmp(e->spelled, bytes, n)) break;
    }
    return t->slots + i;
}

static int tok__lookup(const tokenizer *t, const void *bytes, size_t n) { /* the id, or -1 */
    uint32_t tag;
    return tok__place(t, bytes, n, &tag)->id - 1;
}

/* The id in the vocabulary (an added token that is not in it has none), or -1. */
static int tok__lookup_model(const tokenizer *t, const void *bytes, size_t n) {
    const int id = tok__lookup(t, bytes, n);
    return id >= 0 && t->entries[id].model ? id : -1;
}

/* GPT-2's letters: printable Latin-1 stands for itself, U+0100 and on for the other bytes in their order. */
static uint32_t tok__letter_of(unsigned char byte) {
    if ((byte > 32 && byte < 127) || (byte > 160 && byte != 173)) return byte;
    return byte <= 32 ? 256u + byte : byte <= 160 ? 256u + 33 + (byte - 127u) : 323;
}

static int tok__byte_of(uint32_t letter) { /* or -1 */
    if ((letter > 32 && letter < 127) || (letter > 160 && letter < 256 && letter != 173)) return (int)letter;
    if (letter < 256 || letter > 323) return -1;
    return letter < 289 ? (int)letter - 256 : letter < 323 ? (int)letter - 289 + 127 : 173;
}

/* The letters of n bytes into out (room for 2n); their length. */
static size_t tok__spell(const unsigned char *s, size_t n, unsigned char *out) {
    size_t length = 0;
    for (size_t i = 0; i < n; i++) length += (size_t)tok__put_utf8(out + length, tok__letter_of(s[i]));
    return length;
}

/* Where a pair of characters has its bit in t->inside. */
enum { TOK__PAIR_BITS = 21 };
static size_t tok__pair_bit(uint32_t a, uint32_t b) {
    const uint64_t h = ((uint64_t)a << 21 | b) * 0x9E3779B97F4A7C15u;
    return (size_t)(h >> (64 - TOK__PAIR_BITS));
}

/* ---- >>merging --------------------------------------------------------------------------------------------------- */

typedef struct tok__job { /* one call of tokenizer_encode */
    const tokenizer *t;
    unsigned flags;
    int *ids;
    size_t capacity;
    int64_t count;
    int failed; /* out of memory, or of a pattern's steps */
    tok__stack stack;
    int *word; /* symbols of a word */
    size_t word_capacity;
} tok__job;

static void tok__emit(tok__job *j, int id) {
    if (j->ids && (uint64_t)j->count < j->capacity) j->ids[j->count] = id;
    j->count++;
}

/* The rank of the merge of two neighbours and what it makes, or INT32_MAX. */
static int tok__rank(const tokenizer *t, int left, int right, int *made) {
    int low = t->first[left], high = t->first[left + 1];
    const int end = high;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (t->merges[middle].right < right) low = middle + 1;
        else high = middle;
    }
    if (low == end || t->merges[low].right != right) return INT32_MAX;
    *made = t->merges[low].id;
    return t->merges[low].rank;
}

/* At most TOK__SHORT symbols: looks for the lowest rank each time. */
static void tok__short_word(tok__job *j, int *ids, size_t n) {
    const tokenizer *t = j->t;
    int ranks[TOK__SHORT + 1], made[TOK__SHORT + 1];
    for (size_t i = 0; i + 1 < n; i++) ranks[i] = tok__rank(t, ids[i], ids[i + 1], &made[i]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (ranks[i] < ranks[best]) best = i;
        if (ranks[best] == INT32_MAX) break;
        ids[best] = made[best];
        n--;
        for (size_t i = best + 1; i < n; i++) ids[i] = ids[i + 1];
        for (size_t i = best + 1; i + 1 < n; i++) ranks[i] = ranks[i + 1], made[i] = made[i + 1];
        if (best + 1 < n) ranks[best] = tok__rank(t, ids[best], ids[best + 1], &made[best]);
        if (best > 0) ranks[best - 1] = tok__rank(t, ids[best - 1], ids[best], &made[best - 1]);
    }
    for (size_t i = 0; i < n; i++) tok__emit(j, ids[i]);
}

/* The same with a heap of rank << 32 | position, for words of any length. A symbol is known by the position at which it
   was one first. */
typedef struct tok__symbol {
    int id, rank, made;  /* rank: of the merge with the next one */
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
    x->rank = x->next < n ? tok__rank(t, x->id, symbols[x->next].id, &x->made) : INT32_MAX;
    if (x->rank != INT32_MAX) tok__push(heap, size, (uint64_t)x->rank << 32 | at);
}

static void tok__long_word(tok__job *j, const int *ids, size_t length) {
    const tokenizer *t = j->t;
    const size_t each =
        sizeof(tok__symbol) + 2 * sizeof(uint64_t); /* a merge takes a key and adds two: less than 2n keys */
    const uint32_t n = (uint32_t)length;
    size_t size = 0;
    uint64_t *heap = length >= UINT32_MAX || length > SIZE_MAX / each ? NULL : (uint64_t *)malloc(length * each);
    tok__symbol *symbols;
    if (!heap) {
        j->failed = 1;
        return;
    }
    symbols = (tok__symbol *)(heap + 2 * length);
    for (uint32_t i = 0; i < n; i++) {
        symbols[i].id = ids[i];
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
        x->id = x->made;
        x->next = y->next;
        y->rank = INT32_MAX;
        if (x->next < n) symbols[x->next].last = at;
        tok__rerank(t, symbols, at, n, heap, &size);
        if (at) tok__rerank(t, symbols, x->last, n, heap, &size);
    }
    for (uint32_t i = 0; i < n; i = symbols[i].next) tok__emit(j, symbols[i].id);
    free(heap);
}

static void tok__symbols(tok__job *j, int *ids, size_t n) {
    if (n <= TOK__SHORT) tok__short_word(j, ids, n);
    else tok__long_word(j, ids, n);
}

/* Room for n symbols in j->word; 0: no memory. */
static int tok__word_room(tok__job *j, size_t n) {
    int *bigger;
    if (n <= j->word_capacity) return 1;
    bigger = n < SIZE_MAX / 2 / sizeof *bigger ? (int *)realloc(j->word, 2 * n * sizeof *bigger) : NULL;
    if (!bigger) {
        j->failed = 1;
        return 0;
    }
    j->word = bigger;
    j->word_capacity = 2 * n;
    return 1;
}

/* A word of bytes. Those that are no token at all, which are in no UTF-8, cannot come. */
static void tok__byte_word(tok__job *j, const unsigned char *s, size_t n) {
    const tokenizer *t = j->t;
    int few[TOK__SHORT], *ids = few;
    if (n > TOK__SHORT) {
        if (!tok__word_room(j, n)) return;
        ids = j->word;
    }
    for (size_t i = 0; i < n; i++) ids[i] = t->bytes[s[i]];
    tok__symbols(j, ids, n);
}

/* The tokens of a character that is none itself: those of its bytes, or unk, or nothing; *n of them more in j->word. An
   unk that follows one only through such characters is fused with it, and comes when another token does. */
static void tok__unknown_character(tok__job *j, const unsigned char *s, size_t length, size_t *n, int *unk) {
    const tokenizer *t = j->t;
    int all = t->byte_fallback;
    for (size_t i = 0; i < length; i++) all = all && t->bytes[s[i]] >= 0;
    for (size_t i = 0; i < length && all; i++) j->word[(*n)++] = t->bytes[s[i]];
    if (all || t->unk < 0) return;
    if (*unk && !t->fuse_unk) j->word[(*n)++] = t->unk;
    *unk = 1;
}

/* A word of characters. Between two that stand side by side in no token nothing can be merged: there it is cut, so that
   a text without pre-tokenizer does not become one word. */
static void tok__character_word(tok__job *j, const unsigned char *s, size_t n) {
    const tokenizer *t = j->t;
    size_t count = 0;
    uint32_t before = 0;
    int known = 0, unk = 0;
    for (size_t at = 0, next = 0; at < n && !j->failed; at = next) {
        const uint32_t c = tok__next(s, &next);
        const int id = c < 128 ? t->ascii[c] : tok__lookup_model(t, s + at, next - at);
        if (!tok__word_room(j, count + 8)) return;
        if (id < 0) tok__unknown_character(j, s + at, next - at, &count, &unk);
        else {
            if (unk) j->word[count++] = t->unk;
            unk = 0;
            if (known && count) {
                const size_t bit = tok__pair_bit(before, c);
                if (!(t->inside[bit / 8] >> (bit % 8) & 1)) {
                    tok__symbols(j, j->word, count);
                    count = 0;
                }
            }
            j->word[count++] = id;
        }
        before = c;
        known = id >= 0;
    }
    if (unk) j->word[count++] = t->unk;
    if (!j->failed) tok__symbols(j, j->word, count);
}

static void tok__word(tok__job *j, const unsigned char *s, size_t n) {
    const tokenizer *t = j->t;
    if (t->ignore_merges && n <= t->longest) { /* a word that is a token needs no merges */
        unsigned char spelled[2 * 512];
        const int letters = t->byte_level && n <= 512;
        const int id = letters          ? tok__lookup_model(t, spelled, tok__spell(s, n, spelled))
                       : !t->byte_level ? tok__lookup_model(t, s, n)
                                        : -1;
        if (id >= 0) {
            tok__emit(j, id);
            return;
        }
    }
    if (t->byte_level) tok__byte_word(j, s, n);
    else tok__character_word(j, s, n);
}

/* ---- >>encoder --------------------------------------------------------------------------------------------------- */

static void tok__pieces(tok__job *j, int step, const unsigned char *s, size_t n, int first);

typedef struct tok__cutter {                /* gives out pieces as a behavior wants them */
    int next_step, first, held, held_match; /* held: a piece that may grow */
    size_t begin, end;
} tok__cutter;

static void tok__piece_out(tok__job *j, tok__cutter *c, const unsigned char *s) {
    if (c->held && c->end > c->begin)
        tok__pieces(j, c->next_step, s + c->begin, c->end - c->begin, c->first && !c->begin);
    c->held = 0;
}

/* The next part of the text, which is a match or lies between two. */
static void tok__piece_in(tok__job *j, tok__cutter *c, const tok__step *step, const unsigned char *s, size_t begin,
                          size_t end, int match) {
    const int joins = step->behavior == TOK__CONTIGUOUS      ? match == c->held_match
                      : step->behavior == TOK__WITH_PREVIOUS ? match && !c->held_match
                      : step->behavior == TOK__WITH_NEXT     ? !match && c->held_match
                                                             : 0;
    if (step->behavior == TOK__REMOVED && match) return;
    if (c->held && joins) c->end = end;
    else {
        tok__piece_out(j, c, s);
        c->begin = begin;
        c->end = end;
        c->held = 1;
    }
    c->held_match = match;
}

static void tok__cut(tok__job *j, int at_step, const unsigned char *s, size_t n, int first) {
    const tok__step *step = j->t->cuts.list + at_step;
    tok__search q;
    tok__cutter c;
    size_t done = 0, begin, end;
    memset(&c, 0, sizeof c);
    c.next_step = at_step + 1;
    c.first = first;
    tok__search_begin(&q, &step->regex, s, n, &j->stack);
    while (!j->failed && tok__find(&q, done, &begin, &end)) {
        if (begin > done) tok__piece_in(j, &c, step, s, done, begin, step->invert);
        tok__piece_in(j, &c, step, s, begin, end, !step->invert);
        done = end;
    }
    j->failed |= q.broken;
    tok__search_end(&q);
    if (done < n) tok__piece_in(j, &c, step, s, done, n, step->invert);
    if (!j->failed) tok__piece_out(j, &c, s);
}

/* The pre-tokenizers from this one on. first: the piece begins the text. */
static void tok__pieces(tok__job *j, int step, const unsigned char *s, size_t n, int first) {
    const tokenizer *t = j->t;
    tok__text changed = {NULL, 0, 0};
    if (j->failed || !n) return;
    if (step == t->cuts.n) tok__word(j, s, n);
    else if (t->cuts.list[step].kind == TOK__CUT) tok__cut(j, step, s, n, first);
    else {
        const int rc = tok__apply(t, t->cuts.list + step, s, n, first, &j->stack, &changed);
        if (rc < 0) j->failed = 1;
        else if (rc) tok__pieces(j, step + 1, changed.s, changed.n, first);
        else tok__pieces(j, step + 1, s, n, first);
        free(changed.s);
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

/* Where the white space before `begin` begins, not before `done`. */
static size_t tok__space_before(const tokenizer *t, const unsigned char *s, size_t begin, size_t done) {
    while (begin > done) {
        size_t from = begin - 1, next;
        while ((s[from] & 0xC0) == 0x80) from--;
        next = from;
        if (!tok__in(t->space, tok__next(s, &next))) break;
        begin = from;
    }
    return begin;
}

static void tok__added_tokens(tok__job *j, int set, const unsigned char *s, size_t n, int first);

/* What lies between the added tokens of a set: it is normalized behind the first of them. */
static void tok__between(tok__job *j, int set, const unsigned char *s, size_t n, int first) {
    tok__text normal = {NULL, 0, 0};
    int rc = 0;
    if (set == 0) rc = tok__normalize(j->t, s, n, &j->stack, &normal);
    if (rc < 0) j->failed = 1;
    else if (rc) tok__added_tokens(j, set + 1, normal.s, normal.n, first);
    else tok__added_tokens(j, set + 1, s, n, first);
    free(normal.s);
}

/* Finds the added tokens of this set, 0 then 1; what lies between them goes on. */
static void tok__added_tokens(tok__job *j, int set, const unsigned char *s, size_t n, int first) {
    const tokenizer *t = j->t;
    size_t done = 0, space_end = 0; /* up to done all is given out; up to space_end it is known to be white space */
    if (set == 2) {
        tok__pieces(j, 0, s, n, first);
        return;
    }
    for (size_t at = 0; at < n && !j->failed;) {
        const tok__added *a = t->starts[set][s[at]] ? tok__find_added(t, set, s + at, n - at) : NULL;
        size_t begin = at, end;
        if (!a) {
            at++;
            continue;
        }
        end = at += a->length;
        if (a->control && (j->flags & TOKENIZER_PLAIN)) continue;
        if (a->lstrip) begin = tok__space_before(t, s, begin, done);
        if (a->rstrip) {
            if (end >= space_end) space_end = tok__run_end(t->space, s, n, end, tok__unbounded);
            end = space_end;
        }
        if (a->lstrip && end <= done) continue; /* white space that the one before has taken */
        if (begin > done) tok__between(j, set, s + done, begin - done, first && !done);
        tok__emit(j, a->id);
        done = end;
    }
    if (done < n) tok__between(j, set, s + done, n - done, first && !done);
}

/* s [*n] as UTF-8: itself, or a copy in *clean. NULL: out of memory. */
static const unsigned char *tok__valid(const unsigned char *s, size_t *n, unsigned char **clean) {
    size_t valid = 0, length, k;
    int whole = 1;
    for (; valid < *n; valid += k) {
        k = tok__utf8(s + valid, *n - valid, &whole);
        if (whole != 1) break;
    }
    if (valid >= *n) return s;
    *clean = *n > SIZE_MAX / 3 ? NULL : (unsigned char *)malloc(3 * *n);
    if (!*clean) return NULL;
    memcpy(*clean, s, valid);
    length = valid;
    for (size_t at = valid; at < *n; at += k) {
        k = tok__utf8(s + at, *n - at, &whole);
        memcpy(*clean + length, whole == 1 ? (const char *)s + at : "\xEF\xBF\xBD", whole == 1 ? k : 3);
        length += whole == 1 ? k : 3;
    }
    *n = length;
    return *clean;
}

int64_t tokenizer_encode(const tokenizer *t, const char *text, size_t n, unsigned flags, int *ids, size_t capacity) {
    const unsigned char *s = (const unsigned char *)text;
    unsigned char *clean = NULL;
    tok__job j;
    if (!t || (!text && n)) return TOKENIZER_NO_MEMORY;
    memset(&j, 0, sizeof j);
    j.t = t;
    j.flags = flags;
    j.ids = ids;
    j.capacity = capacity;
    j.stack = tok__stack_for(n);
    if (n) s = tok__valid(s, &n, &clean);
    if (n && !s) return TOKENIZER_NO_MEMORY;
    if (flags & TOKENIZER_SPECIAL)
        for (int i = 0; i < t->n_before; i++) tok__emit(&j, t->before[i]);
    tok__added_tokens(&j, 0, s, n, 1);
    if (flags & TOKENIZER_SPECIAL)
        for (int i = 0; i < t->n_after; i++) tok__emit(&j, t->after[i]);
    free(clean);
    free(j.stack.frames);
    free(j.word);
    return !j.failed ? j.count : j.stack.why ? j.stack.why : TOKENIZER_NO_MEMORY;
}

/* ---- >>decoder --------------------------------------------------------------------------------------------------- */

int tokenizer_size(const tokenizer *t) { return t ? t->size : 0; }

const char *tokenizer_bytes(const tokenizer *t, int id, size_t *length) {
    const int there = t && id >= 0 && id < t->size;
    if (length) *length = there ? t->entries[id].length : 0;
    return there ? t->entries[id].text : NULL;
}

int tokenizer_strips_space(const tokenizer *t) { return t && t->strips_space; }

int tokenizer_is_special(const tokenizer *t, int id) { return t && id >= 0 && id < t->size && t->entries[id].special; }

int tokenizer_is_added(const tokenizer *t, int id) { return t && id >= 0 && id < t->size && t->entries[id].added; }

const char *tokenizer_spelling(const tokenizer *t, int id, size_t *length) {
    const tok__entry *e = t && id >= 0 && id < t->size ? t->entries + id : NULL;
    if (length) *length = e ? e->n_spelled : 0;
    return e ? e->spelled : NULL;
}

const tokenizer_merge *tokenizer_merges(const tokenizer *t, size_t *n) {
    if (n) *n = t ? (size_t)t->first[t->size] : 0;
    return t ? t->merges : NULL;
}

int tokenizer_find(const tokenizer *t, const char *content) {
    return t && content && *content ? tok__lookup(t, content, strlen(content)) : -1;
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
/* ---- >>builder --------------------------------------------------------------------------------------------------- */
/* What the readers of all files have in common. */

typedef struct tok__reader {
    tokenizer *t;
    const char *label;
    mla_error *err;
    const char *vocabulary; /* what the file calls it */
    int template_read, fused;
    size_t n_merges, merge_capacity;
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

/* Room for so many ids and entries. */
static mla_result tok__begin(tok__reader *r, int size, size_t entries) {
    tokenizer *t = r->t;
    tok__ranges space = {NULL, 0, 0};
    t->size = size;
    t->unk = -1;
    t->seed = (uint64_t)(uintptr_t)t * 0x9E3779B97F4A7C15u | 1;
    for (t->n_slots = 64; t->n_slots < 2 * entries + 2;) t->n_slots *= 2;
    t->entries = (tok__entry *)calloc((size_t)size + 1, sizeof *t->entries);
    t->slots = (tok__slot *)calloc(t->n_slots, sizeof *t->slots);
    int ok = t->entries && t->slots && tok__add_space(&space);
    tok__ranges_sort(&space);
    if (ok) t->space = tok__make_set(t, &space);
    free(space.list);
    return ok && t->space ? MLA_OK : tok__no_memory(r);
}

/* An entry of n bytes, which are kept. */
static mla_result tok__add_entry(tok__reader *r, int id, const char *spelled, size_t n, int model) {
    tokenizer *t = r->t;
    tok__entry *e = t->entries + id;
    const int shown = (int)(n < 60 ? n : 60);
    tok__slot *slot;
    uint32_t tag;
    if (e->spelled)
        return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: %s \"%.*s\": the id %d stands twice", r->label, r->vocabulary,
                         shown, spelled, id);
    slot = tok__place(t, spelled, n, &tag);
    if (slot->id)
        return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: %s: \"%.*s\" stands twice", r->label, r->vocabulary, shown,
                         spelled);
    e->spelled = (const char *)tok__keep(t, spelled, n);
    if (!e->spelled) return tok__no_memory(r);
    e->n_spelled = n;
    e->model = model;
    if (model && n > t->longest) t->longest = n;
    slot->tag = tag;
    slot->id = id + 1;
    return MLA_OK;
}

/* The ids of single bytes and characters, once all entries are there; and which characters stand side by side. */
static mla_result tok__index_vocabulary(tok__reader *r) {
    tokenizer *t = r->t;
    for (int b = 0; b < 256; b++) {
        unsigned char spelled[8];
        const size_t n = t->byte_level ? (size_t)tok__put_utf8(spelled, tok__letter_of((unsigned char)b))
                                       : (size_t)snprintf((char *)spelled, sizeof spelled, "<0x%02X>", (unsigned)b);
        t->bytes[b] = tok__lookup_model(t, spelled, n);
        if (t->byte_level && t->bytes[b] < 0 && b != 0xC0 && b != 0xC1 && b < 0xF5) /* those are in no UTF-8 */
            return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: %s: the byte %d is missing", r->label, r->vocabulary, b);
    }
    if (t->byte_level) return MLA_OK;
    for (int c = 0; c < 128; c++) {
        const char spelled = (char)c;
        t->ascii[c] = tok__lookup_model(t, &spelled, 1);
    }
    t->inside = (unsigned char *)calloc((size_t)1 << (TOK__PAIR_BITS - 3), 1);
    if (!t->inside) return tok__no_memory(r);
    for (int id = 0; id < t->size; id++) {
        const tok__entry *e = t->entries + id;
        uint32_t before = 0;
        for (size_t at = 0; e->model && at < e->n_spelled;) {
            const int first = at == 0;
            const uint32_t c = tok__next((const unsigned char *)e->spelled, &at);
            const size_t bit = tok__pair_bit(before, c);
            if (!first) t->inside[bit / 8] = (unsigned char)(t->inside[bit / 8] | 1 << (bit % 8));
            before = c;
        }
    }
    return MLA_OK;
}

static mla_result tok__add_merge(tok__reader *r, int left, int right, int rank, int id) {
    tokenizer *t = r->t;
    tokenizer_merge *m;
    if (r->n_merges == r->merge_capacity) {
        const size_t capacity = 2 * r->merge_capacity + 1024;
        tokenizer_merge *bigger =
            capacity < INT32_MAX / 2 ? (tokenizer_merge *)realloc(t->merges, capacity * sizeof *bigger) : NULL;
        if (!bigger) return tok__no_memory(r);
        t->merges = bigger;
        r->merge_capacity = capacity;
    }
    m = t->merges + r->n_merges++;
    m->left = left;
    m->right = right;
    m->rank = rank;
    m->id = id;
    return MLA_OK;
}

static int tok__by_right(const void *a, const void *b) { /* then by rank */
    const tokenizer_merge *x = (const tokenizer_merge *)a, *y = (const tokenizer_merge *)b;
    if (x->right != y->right) return x->right < y->right ? -1 : 1;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

/* Brings the merges into the order in which they are looked up: counted by what is left, sorted by what is right. */
static mla_result tok__index_merges(tok__reader *r) {
    tokenizer *t = r->t;
    const tokenizer_merge *from = t->merges;
    tokenizer_merge *m = (tokenizer_merge *)malloc((r->n_merges + 1) * sizeof *m);
    int kept = 0;
    t->first = (int *)calloc((size_t)t->size + 2, sizeof *t->first);
    if (!m || !t->first) {
        free(m);
        return tok__no_memory(r);
    }
    for (size_t i = 0; i < r->n_merges; i++) t->first[from[i].left + 2]++;
    for (int id = 0; id < t->size; id++) t->first[id + 1] += t->first[id];
    for (size_t i = 0; i < r->n_merges; i++) m[t->first[from[i].left + 1]++] = from[i];
    free(t->merges);
    t->merges = m;
    for (int id = 0, begin = 0; id < t->size; id++) { /* first[id + 1] is the end of those with id at the left now */
        const int end = t->first[id + 1];
        if (end - begin > 1) qsort(m + begin, (size_t)(end - begin), sizeof *m, tok__by_right);
        for (int i = begin; i < end; i++) /* of one that stands twice the last counts, as in the crate */
            if (i + 1 == end || m[i].right != m[i + 1].right) m[kept++] = m[i];
        t->first[id + 1] = kept;
        begin = end;
    }
    return MLA_OK;
}

/* A merge of what is spelled left [n_left] and right [n_right]. what: its name for messages. */
static mla_result tok__spelled_merge(tok__reader *r, const char *left, size_t n_left, const char *right, size_t n_right,
                                     int rank, const char *what) {
    char few[512], *joined = few;
    int ids[3];
    if (n_left + n_right > sizeof few) {
        joined = (char *)malloc(n_left + n_right);
        if (!joined) return tok__no_memory(r);
    }
    memcpy(joined, left, n_left);
    memcpy(joined + n_left, right, n_right);
    ids[0] = tok__lookup_model(r->t, left, n_left);
    ids[1] = tok__lookup_model(r->t, right, n_right);
    ids[2] = tok__lookup_model(r->t, joined, n_left + n_right);
    mla_result rc = MLA_OK;
    for (int i = 0; i < 3 && !rc; i++) {
        const char *s = i == 0 ? left : i == 1 ? right : joined;
        const size_t n = i == 0 ? n_left : i == 1 ? n_right : n_left + n_right;
        if (ids[i] < 0)
            rc = tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: %s: \"%.*s\" is not in the vocabulary", r->label, what,
                           (int)(n < 60 ? n : 60), s);
    }
    if (joined != few) free(joined);
    return rc ? rc : tok__add_merge(r, ids[0], ids[1], rank, ids[2]);
}

/* Every way in which two tokens make this one, which is what tiktoken and SentencePiece merge by. */
static mla_result tok__all_merges_of(tok__reader *r, int id, int rank) {
    const tok__entry *e = r->t->entries + id;
    mla_result rc = MLA_OK;
    size_t at = 0;
    if (e->n_spelled > 2 * 512)
        return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: the token %d has %zu bytes", r->label, id, e->n_spelled);
    while (!rc && at < e->n_spelled) {
        tok__next((const unsigned char *)e->spelled, &at);
        if (at >= e->n_spelled) break;
        const int left = tok__lookup_model(r->t, e->spelled, at);
        const int right = left < 0 ? -1 : tok__lookup_model(r->t, e->spelled + at, e->n_spelled - at);
        if (right >= 0) rc = tok__add_merge(r, left, right, rank, id);
    }
    return rc;
}

static int tok__by_content(const void *a, const void *b) {
    const tok__added *x = (const tok__added *)a, *y = (const tok__added *)b;
    const int order = memcmp(x->text, y->text, x->length < y->length ? x->length : y->length);
    return order ? order : x->length < y->length ? -1 : x->length > y->length;
}

static mla_result tok__begin_added(tok__reader *r, size_t n) {
    r->t->added[0] = (tok__added *)malloc(sizeof(tok__added) * (n + 1));
    r->t->added[1] = (tok__added *)malloc(sizeof(tok__added) * (n + 1));
    return r->t->added[0] && r->t->added[1] ? MLA_OK : tok__no_memory(r);
}

/* An added token, which is an entry already. */
static void tok__add_added(tok__reader *r, int id, int normalized, int lstrip, int rstrip, int special) {
    tokenizer *t = r->t;
    tok__entry *e = t->entries + id;
    tok__added *a = &t->added[normalized][t->n_added[normalized]++];
    a->text = (const unsigned char *)e->spelled;
    a->length = e->n_spelled;
    a->id = id;
    a->lstrip = lstrip;
    a->rstrip = rstrip;
    a->control = special || (e->spelled[0] == '<' && e->spelled[e->n_spelled - 1] == '>');
    e->added = 1;
    e->special = special;
}

/* Why a step that a file describes failed on what the file has. */
static mla_result tok__failed(const tok__reader *r, const tok__stack *k, const char *what, size_t n) {
    if (!k->why) return tok__no_memory(r);
    return tok__fail(r->err, MLA_ERR_UNSUPPORTED,
                     k->why == TOKENIZER_STEPS
                         ? "%.60s: %.40s: a pattern takes too many steps on %zu bytes"
                         : "%.60s: %.40s: it makes too much of %zu bytes, more than %d times that",
                     r->label, what, n, TOKENIZER_MOST_GROWTH);
}

/* Once all are there and the normalizers are known. */
static mla_result tok__index_added(tok__reader *r) {
    tokenizer *t = r->t;
    size_t all = 0;
    for (size_t i = 0; i < t->n_added[1]; i++) all += t->added[1][i].length;
    tok__stack stack = tok__stack_for(all);
    int ok = 1;
    for (size_t i = 0; i < t->n_added[1] && ok; i++) {
        tok__added *a = &t->added[1][i];
        tok__text normal = {NULL, 0, 0};
        const int rc = tok__normalize(t, a->text, a->length, &stack, &normal);
        ok = rc >= 0;
        if (rc > 0) {
            a->text = (const unsigned char *)tok__keep(t, normal.s, normal.n);
            a->length = normal.n;
            ok = a->text != NULL;
        }
        free(normal.s);
    }
    free(stack.frames);
    if (!ok) return tok__failed(r, &stack, "added_tokens: normalizer", all);
    for (int set = 0; set < 2; set++) {
        size_t kept = 0;
        qsort(t->added[set], t->n_added[set], sizeof(tok__added), tok__by_content);
        for (size_t i = 0; i < t->n_added[set]; i++) {
            const tok__added a = t->added[set][i];
            if (!a.length || (kept && !tok__by_content(&t->added[set][kept - 1], &a))) continue;
            t->added[set][kept++] = a;
            t->starts[set][a.text[0]] = 1;
        }
        t->n_added[set] = kept;
    }
    return MLA_OK;
}

/* In place; the length. What is not all letters of bytes, such as a special token, stands for itself. */
static size_t tok__letters_to_bytes(unsigned char *s, size_t n) {
    size_t bytes = 0;
    for (size_t at = 0; at < n;)
        if (tok__byte_of(tok__next(s, &at)) < 0) return n;
    for (size_t at = 0; at < n;) {
        const int byte = tok__byte_of(tok__next(s, &at));
        s[bytes++] = (unsigned char)byte;
    }
    return bytes;
}

/* What an entry stands for; now and next are memory to work in. 0: it failed. */
static int tok__decode_entry(tokenizer *t, tok__entry *e, tok__stack *stack, tok__text *now, tok__text *next) {
    now->n = 0;
    int ok = tok__text_add(now, e->spelled, e->n_spelled);
    for (int i = 0; i < t->decoders.n && ok; i++) {
        next->n = 0;
        const int rc = tok__replace(t->decoders.list + i, now->s, now->n, stack, next);
        ok = rc >= 0;
        if (rc > 0) {
            const tok__text swap = *now;
            *now = *next;
            *next = swap;
        }
    }
    if (ok && t->decodes_fallback && !e->added && now->n == 6 && !memcmp(now->s, "<0x", 3) && now->s[5] == '>') {
        char digits[3], *end;
        digits[0] = (char)now->s[3];
        digits[1] = (char)now->s[4];
        digits[2] = 0;
        const unsigned long byte = strtoul(digits, &end, 16);
        if (end == digits + 2) now->s[0] = (unsigned char)byte, now->n = 1;
    }
    if (ok && t->decodes_bytes && !e->added) now->n = tok__letters_to_bytes(now->s, now->n);
    e->length = now->n;
    if (ok && now->n == e->n_spelled && !memcmp(now->s, e->spelled, now->n)) e->text = e->spelled;
    else e->text = ok ? (const char *)tok__keep(t, now->s, now->n) : NULL;
    return e->text != NULL;
}

static mla_result tok__decode_entries(tok__reader *r) {
    size_t all = 0;
    for (int id = 0; id < r->t->size; id++) all += r->t->entries[id].n_spelled;
    tok__stack stack = tok__stack_for(all);
    tok__text now = {NULL, 0, 0}, next = {NULL, 0, 0};
    int ok = 1;
    for (int id = 0; id < r->t->size && ok; id++)
        if (r->t->entries[id].spelled) ok = tok__decode_entry(r->t, r->t->entries + id, &stack, &now, &next);
    free(stack.frames);
    free(now.s);
    free(next.s);
    return ok ? MLA_OK : tok__failed(r, &stack, "decoder", all);
}

/* One more step, or NULL and *rc. */
static tok__step *tok__new_step(tok__reader *r, tok__steps *steps, enum tok__kind kind, const char *what,
                                mla_result *rc) {
    if (steps->n == TOK__MAX_STEPS) {
        *rc = tok__wrong(r, what, "at most 16 steps");
        return NULL;
    }
    *rc = MLA_OK;
    steps->list[steps->n].kind = kind;
    return &steps->list[steps->n++];
}

/* Says what is wrong with a pattern; why: as tok__regex_new says it. */
static mla_result tok__bad_pattern(tok__reader *r, const char *what, const char *pattern, const char *why) {
    if (!*why) return tok__no_memory(r);
    return tok__fail(r->err, MLA_ERR_UNSUPPORTED, "%.60s: %.40s: the pattern \"%.80s\" is not supported: %s", r->label,
                     what, pattern, why);
}

static mla_result tok__add_cut(tok__reader *r, const char *what, const char *pattern, size_t n, int literal,
                               enum tok__behavior behavior, int invert) {
    mla_result rc;
    tok__step *step = tok__new_step(r, &r->t->cuts, TOK__CUT, what, &rc);
    if (!step) return rc;
    const char *why = tok__regex_new(r->t, &step->regex, pattern, n, literal);
    step->behavior = behavior;
    step->invert = invert;
    return why ? tok__bad_pattern(r, what, pattern, why) : MLA_OK;
}

static mla_result tok__add_replace(tok__reader *r, tok__steps *steps, const char *what, const char *pattern, size_t n,
                                   int literal, const char *with, size_t n_with) {
    mla_result rc;
    tok__step *step = tok__new_step(r, steps, TOK__REPLACE, what, &rc);
    if (!step) return rc;
    const char *why = tok__regex_new(r->t, &step->regex, pattern, n, literal);
    step->text = (const char *)tok__keep(r->t, with, n_with);
    step->n = n_with;
    if (!step->text) return tok__no_memory(r);
    return why ? tok__bad_pattern(r, what, pattern, why) : MLA_OK;
}

static mla_result tok__add_prepend(tok__reader *r, tok__steps *steps, const char *what, const char *text, size_t n,
                                   int unless, int only_first) {
    mla_result rc;
    tok__step *step = tok__new_step(r, steps, TOK__PREPEND, what, &rc);
    if (!step) return rc;
    step->text = (const char *)tok__keep(r->t, text, n);
    step->n = n;
    step->unless = unless;
    step->only_first = only_first;
    return step->text ? MLA_OK : tok__no_memory(r);
}

/* Takes over what was read, or gives it up. */
static mla_result tok__finish(tok__reader *r, mla_result rc, tokenizer **out) {
    if (!rc) rc = tok__index_merges(r);
    if (!rc) rc = tok__index_added(r);
    if (!rc) rc = tok__decode_entries(r);
    if (rc) tokenizer_close(r->t);
    else *out = r->t;
    return rc;
}

/* ---- >>reader ---------------------------------------------------------------------------------------------------- */
/* tokenizer.json */

/* A string without NUL, or NULL. */
static const char *tok__string(const json_value *v) {
    size_t length;
    const char *s = json_string(v, &length);
    return s && strlen(s) == length ? s : NULL;
}

static int tok__is_null(const json_value *v) { return json_typeof(v) == JSON_NULL; }
static int tok__is(const json_value *v, const char *text) { return tok__string(v) && !strcmp(tok__string(v), text); }

/* Refuses what is not an object, and keys that are not among the words of `known`. */
static mla_result tok__keys(const tok__reader *r, const json_value *object, const char *what, const char *known) {
    if (json_typeof(object) != JSON_OBJECT) return tok__wrong(r, what, "an object");
    for (size_t i = 0; i < json_count(object); i++) {
        const char *key = json_key(json_at(object, i));
        const size_t n = strlen(key);
        const char *k = n && !strchr(key, ' ') ? strstr(known, key) : NULL;
        while (k && ((k > known && k[-1] != ' ') || (k[n] && k[n] != ' '))) k = strstr(k + 1, key);
        if (!k) return tok__unknown(r, what, key, "this key is not known");
    }
    return MLA_OK;
}

/* A key that is true or false, or not there. */
static mla_result tok__flag(const tok__reader *r, const json_value *object, const char *what, const char *key,
                            int absent, int *out) {
    const json_value *v = json_get(object, key);
    if (v && json_typeof(v) != JSON_BOOL) return tok__wrong(r, what, "true or false where a key says so");
    *out = v ? json_bool(v) : absent;
    return MLA_OK;
}

static mla_result tok__read_vocabulary(tok__reader *r, const json_value *vocab) {
    mla_result rc = MLA_OK;
    for (size_t i = 0; i < json_count(vocab) && !rc; i++) {
        const json_value *v = json_at(vocab, i);
        int64_t id = -1;
        json_integer(v, &id); /* in range: tok__measure has seen it */
        rc = tok__add_entry(r, (int)id, json_key(v), strlen(json_key(v)), 1);
    }
    return rc;
}

/* "a b" or ["a", "b"]; the vocabulary has a, b and ab. */
static mla_result tok__read_merge(tok__reader *r, const json_value *v, int rank) {
    const char *left = tok__string(v), *right = NULL;
    size_t n_left = 0;
    char what[40];
    if (left) {
        const char *space = strchr(left, ' ');
        if (space && !strchr(space + 1, ' ')) right = space + 1, n_left = (size_t)(space - left);
    } else if (json_typeof(v) == JSON_ARRAY && json_count(v) == 2) {
        left = tok__string(json_at(v, 0));
        right = tok__string(json_at(v, 1));
        n_left = left ? strlen(left) : 0;
    }
    snprintf(what, sizeof what, "model.merges[%d]", rank);
    if (!left || !right) return tok__wrong(r, what, "\"a b\" or [\"a\", \"b\"]");
    return tok__spelled_merge(r, left, n_left, right, strlen(right), rank, what);
}

static mla_result tok__read_merges(tok__reader *r, const json_value *merges) {
    const size_t n = json_count(merges);
    mla_result rc = MLA_OK;
    if (json_typeof(merges) != JSON_ARRAY || n >= INT32_MAX / 4)
        return tok__wrong(r, "model.merges", "an array of less than 2^29");
    for (size_t i = 0; i < n && !rc; i++) rc = tok__read_merge(r, json_at(merges, i), (int)i);
    return rc;
}

static mla_result tok__read_added_token(tok__reader *r, const json_value *v, size_t i) {
    static const char *const flags[] = {"single_word", "lstrip", "rstrip", "normalized", "special"};
    tokenizer *t = r->t;
    const char *content = tok__string(json_get(v, "content"));
    int64_t id = -1;
    char what[40];
    snprintf(what, sizeof what, "added_tokens[%zu]", i);
    mla_result rc = tok__keys(r, v, what, "id content single_word lstrip rstrip normalized special");
    if (rc) return rc;
    if (!content || !content[0] || strlen(content) > TOK__MAX_CONTENT)
        return tok__wrong(r, what, "a content of 1 to 256 bytes, none NUL");
    for (int k = 0; k < 5; k++)
        if (json_typeof(json_get(v, flags[k])) != JSON_BOOL)
            return tok__wrong(r, what, "true or false for single_word, lstrip, ..., special");
    if (json_bool(json_get(v, "single_word"))) return tok__unknown(r, what, content, "single_word");
    json_integer(json_get(v, "id"), &id); /* 0 to size - 1: tok__measure has seen it */
    const int known = tok__lookup(t, content, strlen(content));
    if (known >= 0 && t->entries[known].added)
        return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: added_tokens: \"%.60s\" stands twice", r->label, content);
    if (known >= 0 ? known != id : t->entries[id].spelled != NULL)
        return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: %s: \"%.60s\" has the id %d, which is %s", r->label, what,
                         content, (int)id, known >= 0 ? "another one in the vocabulary" : "taken");
    if (known < 0) rc = tok__add_entry(r, (int)id, content, strlen(content), 0);
    if (rc) return rc;
    tok__add_added(r, (int)id, json_bool(json_get(v, "normalized")), json_bool(json_get(v, "lstrip")),
                   json_bool(json_get(v, "rstrip")), json_bool(json_get(v, "special")));
    return MLA_OK;
}

/* {"String": ..} or {"Regex": ..} */
static mla_result tok__read_pattern(tok__reader *r, const json_value *v, const char *what, const char **pattern,
                                    int *literal) {
    const mla_result rc = tok__keys(r, v, what, "String Regex");
    if (rc) return rc;
    *literal = json_get(v, "String") != NULL;
    *pattern = tok__string(json_get(v, *literal ? "String" : "Regex"));
    if (!*pattern || !**pattern || json_count(v) != 1)
        return tok__wrong(r, what, "a String or a Regex, not empty and without NUL");
    return MLA_OK;
}

static mla_result tok__read_replace(tok__reader *r, tok__steps *steps, const json_value *v, const char *what) {
    const char *pattern = NULL, *content = tok__string(json_get(v, "content"));
    int literal = 0;
    mla_result rc = tok__keys(r, v, what, "type pattern content");
    if (!rc) rc = tok__read_pattern(r, json_get(v, "pattern"), what, &pattern, &literal);
    if (!rc && !content) rc = tok__wrong(r, what, "a content without NUL");
    if (rc) return rc;
    return tok__add_replace(r, steps, what, pattern, strlen(pattern), literal, content, strlen(content));
}

static mla_result tok__read_normalizer(tok__reader *r, const json_value *v) {
    const json_value *type = json_get(v, "type"), *list = json_get(v, "normalizers");
    tokenizer *t = r->t;
    mla_result rc = MLA_OK;
    if (tok__is_null(v)) return MLA_OK;
    if (tok__is(type, "Sequence")) {
        rc = tok__keys(r, v, "normalizer", "type normalizers");
        if (!rc && json_typeof(list) != JSON_ARRAY) rc = tok__wrong(r, "normalizer.normalizers", "an array");
        for (size_t i = 0; i < json_count(list) && !rc; i++) rc = tok__read_normalizer(r, json_at(list, i));
        return rc;
    }
    if (tok__is(type, "Replace")) return tok__read_replace(r, &t->normalizers, v, "normalizer Replace");
    if (tok__is(type, "Prepend")) {
        const char *text = tok__string(json_get(v, "prepend"));
        rc = tok__keys(r, v, "normalizer Prepend", "type prepend");
        if (!rc && !text) rc = tok__wrong(r, "normalizer Prepend", "a string without NUL");
        return rc ? rc : tok__add_prepend(r, &t->normalizers, "normalizer", text, strlen(text), 0, 0);
    }
    if (tok__is(type, "NFC")) {
        rc = tok__keys(r, v, "normalizer NFC", "type");
        if (!rc) tok__new_step(r, &t->normalizers, TOK__NFC, "normalizer", &rc);
        return rc ? rc : tok__use_nfc(t) ? MLA_OK : tok__no_memory(r);
    }
    return tok__unknown(r, "normalizer", tok__string(type), "none, NFC, Prepend, Replace, Sequence are");
}

static mla_result tok__read_behavior(tok__reader *r, const json_value *v, const char *what, enum tok__behavior *out) {
    static const char *const names[] = {"Isolated", "Removed", "Contiguous", "MergedWithPrevious", "MergedWithNext"};
    for (int i = 0; i < 5; i++)
        if (tok__is(v, names[i])) {
            *out = (enum tok__behavior)i;
            return MLA_OK;
        }
    return tok__unknown(r, what, tok__string(v), "this behavior is not known");
}

static mla_result tok__read_split(tok__reader *r, const json_value *v) {
    const char *pattern = NULL;
    int literal = 0, invert = 0;
    enum tok__behavior behavior = TOK__ISOLATED;
    mla_result rc = tok__keys(r, v, "pre_tokenizer Split", "type pattern behavior invert");
    if (!rc) rc = tok__read_pattern(r, json_get(v, "pattern"), "pre_tokenizer Split.pattern", &pattern, &literal);
    if (!rc) rc = tok__read_behavior(r, json_get(v, "behavior"), "pre_tokenizer Split.behavior", &behavior);
    if (!rc) rc = tok__flag(r, v, "pre_tokenizer Split.invert", "invert", 0, &invert);
    if (rc) return rc;
    return tok__add_cut(r, "pre_tokenizer Split", pattern, strlen(pattern), literal, behavior, invert);
}

#define TOK__GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static mla_result tok__read_byte_level(tok__reader *r, const json_value *v) {
    int space = 0, regex = 0, offsets = 0;
    const char *const what = "pre_tokenizer ByteLevel";
    mla_result rc = tok__keys(r, v, what, "type add_prefix_space trim_offsets use_regex");
    if (!rc) rc = tok__flag(r, v, what, "add_prefix_space", 1, &space);
    if (!rc) rc = tok__flag(r, v, what, "use_regex", 1, &regex);
    if (!rc) rc = tok__flag(r, v, what, "trim_offsets", 1, &offsets);
    if (!rc && space) rc = tok__add_prepend(r, &r->t->cuts, what, " ", 1, 1, 0);
    if (!rc && regex) rc = tok__add_cut(r, what, TOK__GPT2, strlen(TOK__GPT2), 0, TOK__ISOLATED, 0);
    r->t->byte_level = 1;
    return rc;
}

/* Digits or Punctuation: single characters of a kind, and what is done with them. */
static mla_result tok__read_kind(tok__reader *r, const json_value *v, int digits) {
    const char *const what = digits ? "pre_tokenizer Digits" : "pre_tokenizer Punctuation";
    tok__ranges set = {NULL, 0, 0}, differs = {NULL, 0, 0};
    int single = 1, ok = 1;
    tok__step *step = NULL;
    mla_result rc = tok__keys(r, v, what, digits ? "type individual_digits" : "type behavior");
    if (!rc) step = tok__new_step(r, &r->t->cuts, TOK__CUT, what, &rc);
    if (!rc && digits && json_typeof(json_get(v, "individual_digits")) != JSON_BOOL)
        rc = tok__wrong(r, what, "individual_digits");
    if (!rc && !digits && json_get(v, "behavior"))
        rc = tok__read_behavior(r, json_get(v, "behavior"), what, &step->behavior);
    if (rc) return rc;
    if (digits) {
        single = json_bool(json_get(v, "individual_digits"));
        ok = tok__add_category(&set, "N") && tok__add_category(&set, "Rd");
    } else {
        ok = tok__add_category(&set, "P") && tok__add_listed(&differs, tok__punctuation_differs);
        tok__ranges both = {NULL, 0, 0}; /* in one, but not in both */
        ok =
            ok && tok__ranges_unite(&both, &set) && tok__ranges_intersect(&both, &differs) && tok__ranges_invert(&both);
        ok = ok && tok__ranges_unite(&set, &differs) && tok__ranges_intersect(&set, &both);
        free(both.list);
        free(differs.list);
        ok = ok && tok__ranges_add(&set, '!', '/') && tok__ranges_add(&set, ':', '@') &&
             tok__ranges_add(&set, '[', '`') && tok__ranges_add(&set, '{', '~');
    }
    if (!ok) free(set.list);
    return !ok || tok__regex_of_set(r->t, &step->regex, &set, !single) ? tok__no_memory(r) : MLA_OK;
}

/* Metaspace: the replacement and, for the decoder, whether it is put before a text. */
static mla_result tok__read_metaspace(tok__reader *r, const json_value *v, const char *what, const char **text,
                                      int *before, int *first, int *split) {
    const json_value *scheme = json_get(v, "prepend_scheme");
    const int absent = tok__is_null(scheme);
    int legacy = 1;
    mla_result rc = tok__keys(r, v, what, "type replacement prepend_scheme split add_prefix_space str_rep");
    *text = tok__string(json_get(v, "replacement"));
    if (!rc && (!*text || !**text)) rc = tok__wrong(r, what, "a replacement");
    if (!rc) rc = tok__flag(r, v, what, "split", 1, split);
    if (!rc) rc = tok__flag(r, v, what, "add_prefix_space", 1, &legacy);
    if (rc) return rc;
    if (!absent && !tok__is(scheme, "always") && !tok__is(scheme, "first") && !tok__is(scheme, "never"))
        return tok__unknown(r, what, tok__string(scheme), "prepend_scheme is always, first or never");
    *first = tok__is(scheme, "first");
    *before = !tok__is(scheme, "never");
    if (!legacy && *before) return tok__wrong(r, what, "prepend_scheme never where add_prefix_space is false");
    return MLA_OK;
}

static mla_result tok__read_pre_tokenizer(tok__reader *r, const json_value *v) {
    const json_value *type = json_get(v, "type"), *list = json_get(v, "pretokenizers");
    const char *text = NULL;
    int before = 0, first = 0, split = 0;
    mla_result rc = MLA_OK;
    if (tok__is_null(v)) return MLA_OK;
    if (tok__is(type, "Sequence")) {
        rc = tok__keys(r, v, "pre_tokenizer", "type pretokenizers");
        if (!rc && json_typeof(list) != JSON_ARRAY) rc = tok__wrong(r, "pre_tokenizer.pretokenizers", "an array");
        for (size_t i = 0; i < json_count(list) && !rc; i++) rc = tok__read_pre_tokenizer(r, json_at(list, i));
        return rc;
    }
    if (r->t->byte_level)
        return tok__unknown(r, "pre_tokenizer", tok__string(type), "nothing may come after ByteLevel");
    if (tok__is(type, "ByteLevel")) return tok__read_byte_level(r, v);
    if (tok__is(type, "Split")) return tok__read_split(r, v);
    if (tok__is(type, "Digits")) return tok__read_kind(r, v, 1);
    if (tok__is(type, "Punctuation")) return tok__read_kind(r, v, 0);
    if (!tok__is(type, "Metaspace"))
        return tok__unknown(r, "pre_tokenizer", tok__string(type),
                            "Sequence, Split, Digits, Punctuation, Metaspace, ByteLevel are");
    const char *const what = "pre_tokenizer Metaspace";
    rc = tok__read_metaspace(r, v, what, &text, &before, &first, &split);
    if (!rc) rc = tok__add_replace(r, &r->t->cuts, what, " ", 1, 1, text, strlen(text));
    if (!rc && before) rc = tok__add_prepend(r, &r->t->cuts, what, text, strlen(text), 1, first);
    if (!rc && split) rc = tok__add_cut(r, what, text, strlen(text), 1, TOK__WITH_NEXT, 0);
    return rc;
}

static mla_result tok__read_strip(tok__reader *r, const json_value *v) {
    int64_t start = -1, stop = -1;
    const mla_result rc = tok__keys(r, v, "decoder Strip", "type content start stop");
    if (rc) return rc;
    json_integer(json_get(v, "start"), &start);
    json_integer(json_get(v, "stop"), &stop);
    if (!tok__is(json_get(v, "content"), " ") || start < 0 || start > 1 || stop != 0 || !r->fused)
        return tok__unknown(r, "decoder", "Strip", "only of one space at the beginning, behind Fuse, it is");
    r->t->strips_space |= (int)start;
    return MLA_OK;
}

static mla_result tok__read_decoder(tok__reader *r, const json_value *v) {
    const json_value *type = json_get(v, "type"), *list = json_get(v, "decoders");
    tokenizer *t = r->t;
    const char *text = NULL;
    int before = 0, first = 0, split = 0;
    mla_result rc = MLA_OK;
    if (tok__is(type, "Sequence")) {
        rc = tok__keys(r, v, "decoder", "type decoders");
        if (!rc && json_typeof(list) != JSON_ARRAY) rc = tok__wrong(r, "decoder.decoders", "an array");
        for (size_t i = 0; i < json_count(list) && !rc; i++) rc = tok__read_decoder(r, json_at(list, i));
    } else if (tok__is(type, "ByteLevel")) t->decodes_bytes = 1;
    else if (tok__is(type, "ByteFallback")) t->decodes_fallback = 1;
    else if (tok__is(type, "Fuse")) r->fused = 1;
    else if (tok__is(type, "Strip")) rc = tok__read_strip(r, v);
    else if (tok__is(type, "Replace")) rc = tok__read_replace(r, &t->decoders, v, "decoder Replace");
    else if (tok__is(type, "Metaspace")) {
        rc = tok__read_metaspace(r, v, "decoder Metaspace", &text, &before, &first, &split);
        if (!rc) rc = tok__add_replace(r, &t->decoders, "decoder", text, strlen(text), 1, " ", 1);
        t->strips_space |= before;
    } else
        rc = tok__unknown(r, "decoder", tok__string(type),
                          "ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace, Sequence are");
    return rc;
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
        const char *name = tok__string(json_get(special, "id"));
        const json_value *ids = name ? json_get(json_get(specials, name), "ids") : NULL;
        if (sequence && tok__is(json_get(sequence, "id"), "A") && !seen) seen = 1;
        else if (sequence || !json_count(ids))
            return tok__wrong(r, where, "`single` of special tokens that have ids, and one Sequence A");
        else
            for (size_t k = 0; k < json_count(ids); k++) {
                int *const n = seen ? &t->n_after : &t->n_before;
                int64_t id = -1;
                if (*n == TOK__MAX_TEMPLATE) return tok__wrong(r, where, "at most 16 ids on a side");
                if (!json_integer(json_at(ids, k), &id) || id < 0 || id >= t->size || !t->entries[id].spelled)
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
        return tok__unknown(r, "post_processor", tok__string(type), "ByteLevel, TemplateProcessing, Sequence are");
    if (json_typeof(list) != JSON_ARRAY) return tok__wrong(r, "post_processor.processors", "an array");
    for (size_t i = 0; i < json_count(list) && !rc; i++) rc = tok__read_post_processor(r, json_at(list, i));
    return rc;
}

/* The size: one more than the highest id. The ids of vocabulary and added tokens are integers in range. */
static mla_result tok__measure(const tok__reader *r, const json_value *vocab, const json_value *added, int *size) {
    for (size_t i = 0, n = json_count(vocab); i < n + json_count(added); i++) {
        const json_value *v = i < n ? json_at(vocab, i) : json_get(json_at(added, i - n), "id");
        const char *name = i < n ? json_key(v) : tok__string(json_get(json_at(added, i - n), "content"));
        int64_t id = -1;
        if (!json_integer(v, &id) || id < 0 || id >= TOK__MAX_SIZE)
            return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: %s: \"%.60s\": the id must be an integer from 0 to %d",
                             r->label, i < n ? "model.vocab" : "added_tokens", name ? name : "", TOK__MAX_SIZE - 1);
        if (id >= *size) *size = (int)id + 1;
    }
    return MLA_OK;
}

/* What model says besides vocabulary and merges. */
static mla_result tok__read_model(tok__reader *r, const json_value *model) {
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    tokenizer *t = r->t;
    mla_result rc = tok__keys(r, model, "model",
                              "type dropout unk_token continuing_subword_prefix end_of_word_suffix fuse_unk "
                              "byte_fallback ignore_merges vocab merges");
    if (rc) return rc;
    if (!tok__is(json_get(model, "type"), "BPE"))
        return tok__unknown(r, "model.type", tok__string(json_get(model, "type")), "only BPE is");
    if (!tok__is_null(json_get(model, "dropout"))) return tok__unknown(r, "model", "dropout", "only null is");
    for (int i = 0; i < 2; i++)
        if (!tok__is_null(json_get(model, affixes[i])) && !tok__is(json_get(model, affixes[i]), ""))
            return tok__unknown(r, "model", affixes[i], "only null is");
    if (json_typeof(json_get(model, "vocab")) != JSON_OBJECT) return tok__wrong(r, "model.vocab", "an object");
    rc = tok__flag(r, model, "model.fuse_unk", "fuse_unk", 0, &t->fuse_unk);
    if (!rc) rc = tok__flag(r, model, "model.byte_fallback", "byte_fallback", 0, &t->byte_fallback);
    if (!rc) rc = tok__flag(r, model, "model.ignore_merges", "ignore_merges", 0, &t->ignore_merges);
    return rc;
}

static mla_result tok__read_unk(tok__reader *r, const json_value *v) {
    const char *unk = tok__string(v);
    if (tok__is_null(v)) return MLA_OK;
    if (!unk) return tok__wrong(r, "model.unk_token", "a string without NUL");
    r->t->unk = tok__lookup_model(r->t, unk, strlen(unk));
    return MLA_OK; /* one that is not in the vocabulary never comes: with every byte there is none unknown */
}

static mla_result tok__read(tok__reader *r, const json_value *file) {
    const json_value *model = json_get(file, "model"), *added = json_get(file, "added_tokens");
    const json_value *vocab = json_get(model, "vocab"), *decoder = json_get(file, "decoder");
    int size = 0;
    mla_result rc = tok__keys(r, file, "the file",
                              "version truncation padding added_tokens normalizer pre_tokenizer post_processor "
                              "decoder model");
    r->vocabulary = "model.vocab";
    if (!rc && !tok__is_null(added) && json_typeof(added) != JSON_ARRAY) rc = tok__wrong(r, "added_tokens", "an array");
    if (!rc) rc = tok__read_model(r, model);
    if (!rc) rc = tok__measure(r, vocab, added, &size);
    if (!rc) rc = tok__begin(r, size, json_count(vocab) + json_count(added));
    if (!rc) rc = tok__read_normalizer(r, json_get(file, "normalizer"));
    if (!rc) rc = tok__read_pre_tokenizer(r, json_get(file, "pre_tokenizer"));
    if (!rc) rc = tok__read_decoder(r, decoder);
    if (!rc) rc = tok__read_vocabulary(r, vocab);
    if (!rc) rc = tok__index_vocabulary(r);
    if (!rc) rc = tok__read_unk(r, json_get(model, "unk_token"));
    if (!rc) rc = tok__read_merges(r, json_get(model, "merges"));
    if (!rc) rc = tok__begin_added(r, json_count(added));
    for (size_t i = 0; i < json_count(added) && !rc; i++) rc = tok__read_added_token(r, json_at(added, i), i);
    if (!rc) rc = tok__read_post_processor(r, json_get(file, "post_processor"));
    return rc;
}

/* A tokenizer with nothing in it. */
static mla_result tok__start(tok__reader *r, const char *label, const char *absent, mla_error *err) {
    memset(r, 0, sizeof *r);
    r->label = label ? label : absent;
    r->err = err;
    r->t = (tokenizer *)calloc(1, sizeof *r->t);
    return r->t ? MLA_OK : tok__no_memory(r);
}

mla_result tokenizer_from_json(tokenizer **out, const json_value *file, const char *label, mla_error *err) {
    tok__reader r;
    if (out) *out = NULL;
    if (!out || !file) return tok__fail(err, MLA_ERR_ARGUMENT, "tokenizer_from_json: file or out is NULL");
    mla_result rc = tok__start(&r, label, "tokenizer.json", err);
    return rc ? rc : tok__finish(&r, tok__read(&r, file), out);
}

mla_result tokenizer_parse(tokenizer **out, const char *json, size_t n, const char *label, mla_error *err) {
    mla_error wrong;
    json_value *file = NULL;
    if (out) *out = NULL;
    if (!out || (!json && n)) return tok__fail(err, MLA_ERR_ARGUMENT, "tokenizer_parse: json or out is NULL");
    mla_result rc = json_parse(json, n, &file, &wrong);
    if (rc)
        return tok__fail(err, rc == MLA_ERR_MEMORY ? rc : MLA_ERR_CONFIG, "%.60s: %s", label ? label : "tokenizer.json",
                         wrong.text);
    rc = tokenizer_from_json(out, file, label, err);
    json_free(file);
    return rc;
}

/* ---- >>tiktoken -------------------------------------------------------------------------------------------------- */

/* Contractions, and words as case makes them: what Kimi's, Mistral's and Youtu's patterns share. HAN: what is left out
   of the letters. */
#define TOK__CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define TOK__UPPER(HAN)   "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}" HAN "]"
#define TOK__LOWER(HAN)   "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}" HAN "]"
#define TOK__CASED(HAN, END)                                                                                           \
    "[^\\r\\n\\p{L}\\p{N}]?" TOK__UPPER(HAN) "*" TOK__LOWER(HAN) "+" END "|[^\\r\\n\\p{L}\\p{N}]?" TOK__UPPER(         \
        HAN) "+" TOK__LOWER(HAN) "*" END
#define TOK__SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define TOK__KIMI                                                                                                      \
    "\\p{Han}+|" TOK__CASED("&&[^\\p{Han}]",                                                                           \
                            TOK__CONTRACTIONS "?") "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" TOK__SPACES

/* The value of a base64 letter, or -1. */
static int tok__base64(unsigned char c) {
    return c >= 'A' && c <= 'Z'   ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+'             ? 62
           : c == '/'             ? 63
                                  : -1;
}

/* A line "BASE64 RANK" of n bytes: its bytes, spelled in letters, and its rank. -1: it is none. */
static int64_t tok__read_rank(const char *s, size_t n, unsigned char *spelled, size_t *length) {
    unsigned char bytes[512];
    uint32_t bits = 0;
    int64_t rank = 0;
    size_t at = 0, count = 0, letters = 0;
    for (; at < n && tok__base64((unsigned char)s[at]) >= 0; at++) {
        bits = bits << 6 | (uint32_t)tok__base64((unsigned char)s[at]);
        if (++letters % 4 != 1) {
            if (count == sizeof bytes) return -1;
            bytes[count++] = (unsigned char)(bits >> (letters % 4 == 2 ? 4 : letters % 4 == 3 ? 2 : 0));
        }
    }
    for (; at < n && s[at] == '=' && letters % 4; at++) letters++;
    if (!count || letters % 4 || at + 1 >= n || s[at++] != ' ' || n - at > 9) return -1;
    for (; at < n; at++) {
        if (s[at] < '0' || s[at] > '9') return -1;
        rank = 10 * rank + (s[at] - '0');
    }
    *length = tok__spell(bytes, count, spelled);
    return rank < TOK__MAX_SIZE - 1024 ? rank : -1;
}

/* All lines, as entries; with size NULL, else only the highest rank and how many there are. */
static mla_result tok__read_ranks(tok__reader *r, const char *s, size_t n, int *size, size_t *count) {
    unsigned char spelled[2 * 512];
    mla_result rc = MLA_OK;
    size_t line = 0;
    for (size_t at = 0, end; at < n && !rc; at = end + 1) {
        size_t length, stop;
        for (end = at; end < n && s[end] != '\n';) end++;
        stop = end > at && s[end - 1] == '\r' ? end - 1 : end;
        line++;
        if (stop == at) continue;
        const int64_t rank = tok__read_rank(s + at, stop - at, spelled, &length);
        if (rank < 0)
            return tok__fail(r->err, MLA_ERR_CONFIG,
                             "%.60s: line %zu: expected a token of at most 512 bytes in base64 and its rank", r->label,
                             line);
        if (!size) rc = tok__add_entry(r, (int)rank, (const char *)spelled, length, 1);
        else if (rank >= *size) *size = (int)rank + 1;
        if (size) ++*count;
    }
    return rc;
}

enum { TOK__RESERVED = 256 };

/* The special tokens: 256 behind the ranks, each named by added_tokens_decoder or <|reserved_token_ID|>. */
static mla_result tok__read_reserved(tok__reader *r, const json_value *decoder, int from) {
    mla_result rc = tok__begin_added(r, TOK__RESERVED);
    for (size_t i = 0; i < json_count(decoder) && !rc; i++) {
        const char *key = json_key(json_at(decoder, i));
        char *end;
        const long id = strtol(key, &end, 10);
        if (*key < '0' || *key > '9' || *end || id < from || id >= from + TOK__RESERVED)
            rc = tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: added_tokens_decoder: \"%.20s\" is no id from %d to %d",
                           r->label, key, from, from + TOK__RESERVED - 1);
    }
    for (int id = from; id < from + TOK__RESERVED && !rc; id++) {
        char key[32], name[64];
        snprintf(key, sizeof key, "%d", id);
        const json_value *v = json_get(decoder, key);
        const char *content = tok__string(json_get(v, "content"));
        snprintf(name, sizeof name, "<|reserved_token_%d|>", id);
        if (v && (!content || !*content || strlen(content) > TOK__MAX_CONTENT))
            return tok__wrong(r, "added_tokens_decoder", "contents of 1 to 256 bytes, none NUL");
        if (!v) content = name;
        rc = tok__add_entry(r, id, content, strlen(content), 0);
        if (!rc)
            tok__add_added(r, id, 0, json_bool(json_get(v, "lstrip")), json_bool(json_get(v, "rstrip")),
                           !json_get(v, "special") || json_bool(json_get(v, "special")));
    }
    return rc;
}

static mla_result tok__read_tiktoken(tok__reader *r, const char *ranks, size_t n, const json_value *config) {
    const json_value *decoder = json_get(config, "added_tokens_decoder");
    tokenizer *t = r->t;
    int size = 0;
    size_t count = 0;
    mla_result rc = tok__read_ranks(r, ranks, n, &size, &count);
    r->vocabulary = "ranks";
    if (!rc && decoder && json_typeof(decoder) != JSON_OBJECT) rc = tok__wrong(r, "added_tokens_decoder", "an object");
    if (!rc) rc = tok__begin(r, size + TOK__RESERVED, count + TOK__RESERVED);
    t->byte_level = t->ignore_merges = t->decodes_bytes = 1;
    if (!rc) rc = tok__read_ranks(r, ranks, n, NULL, NULL);
    if (!rc) rc = tok__index_vocabulary(r);
    for (int id = 0; id < size && !rc; id++)
        if (t->entries[id].spelled) rc = tok__all_merges_of(r, id, id);
    if (!rc) rc = tok__read_reserved(r, decoder, size);
    if (!rc) rc = tok__add_cut(r, "pattern", TOK__KIMI, strlen(TOK__KIMI), 0, TOK__ISOLATED, 0);
    return rc;
}

mla_result tokenizer_parse_tiktoken(tokenizer **out, const char *ranks, size_t n, const char *config, size_t n_config,
                                    const char *label, mla_error *err) {
    tok__reader r;
    mla_error wrong;
    json_value *file = NULL;
    if (out) *out = NULL;
    if (!out || (!ranks && n))
        return tok__fail(err, MLA_ERR_ARGUMENT, "tokenizer_parse_tiktoken: ranks or out is NULL");
    mla_result rc = tok__start(&r, label, "tiktoken.model", err);
    if (rc) return rc;
    if (config) rc = json_parse(config, n_config, &file, &wrong);
    if (rc)
        rc = tok__fail(err, rc == MLA_ERR_MEMORY ? rc : MLA_ERR_CONFIG, "%.60s: tokenizer_config.json: %.200s", r.label,
                       wrong.text);
    else rc = tok__read_tiktoken(&r, ranks, n, file);
    json_free(file);
    return tok__finish(&r, rc, out);
}

/* ---- >>gguf ------------------------------------------------------------------------------------------------------ */

/* What tokenizer.ggml.pre stands for: the patterns, each cutting the pieces of the one before, which are those of the
   models' own tokenizer.json. ranked: ids are ranks, and any two tokens that make a third are a merge (the file's
   merges are only some of them). */
typedef struct tok__pre {
    const char *name, *patterns[6];
    int ignore_merges, adds_bos, ranked;
} tok__pre;

#define TOK__CJK "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+"
#define TOK__V2_LETTERS                                                                                                \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}"                    \
    "\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}"             \
    "\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}"                    \
    "\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-\\x{1CBF}"                  \
    "\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}"                  \
    "\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}"          \
    "\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}"         \
    "\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}"                   \
    "\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}"                    \
    "\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}\\x{2183}\\x{2184}"                    \
    "\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}"                   \
    "\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}"                  \
    "\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}"                \
    "\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}"        \
    "\\x{1E900}-\\x{1E943}"
#define TOK__V2_SIGNS "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+"
#define TOK__V2_CJK   "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
#define TOK__V3_WORDS                                                                                                  \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"                \
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" TOK__SPACES
#define TOK__PLAIN_WORDS(DIGITS)                                                                                       \
    TOK__CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" DIGITS "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" TOK__SPACES
#define TOK__CASED_WORDS(END, DIGITS) TOK__CASED("", END) "|" DIGITS "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" TOK__SPACES
#define TOK__YOUTU                                                                                                     \
    "[\\x{AC00}-\\x{D7A3}\\x{3131}-\\x{318E}]+|[\\x{FF01}\\x{2026}\\x{201C}\\x{201D}\\x{2018}\\x{2019}\\x{2014}"       \
    "\\x{FF1A}\\x{FF1B}\\x{FF0C}\\x{3001}-\\x{303F}\\x{FE30}-\\x{FE4F}]+|[\\x{3105}-\\x{312F}]+|" TOK__CJK

static const tok__pre tok__pres[] = {
    {"deepseek-llm",
     {"[\\r\\n]", "\\s?[" TOK__V2_LETTERS "]+", TOK__V2_SIGNS, "\\s+$", TOK__V2_CJK, "\\p{N}"},
     0,
     0,
     0},
    {"deepseek-coder", {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", TOK__V2_CJK, "\\p{N}", NULL}, 0, 0, 0},
    {"deepseek-v3", {"\\p{N}{1,3}", TOK__CJK, TOK__V3_WORDS, NULL, NULL, NULL}, 0, 0, 0},
    {"joyai-llm", {"\\p{N}{1,3}", TOK__CJK, TOK__V3_WORDS, NULL, NULL, NULL}, 0, 0, 0},
    {"kimi-k2", {TOK__KIMI, NULL, NULL, NULL, NULL, NULL}, 1, 0, 1},
    {"glm4", {TOK__PLAIN_WORDS("\\p{N}{1,3}"), NULL, NULL, NULL, NULL, NULL}, 0, 0, 0},
    {"bailingmoe2", {TOK__PLAIN_WORDS("\\p{N}"), NULL, NULL, NULL, NULL, NULL}, 0, 0, 0},
    {"chatglm-bpe", {TOK__PLAIN_WORDS("\\p{N}{1,3}"), NULL, NULL, NULL, NULL, NULL}, 0, 0, 0},
    {"llama-bpe", {TOK__PLAIN_WORDS("\\p{N}{1,3}"), NULL, NULL, NULL, NULL, NULL}, 1, 1, 0},
    {"tekken", {TOK__CASED_WORDS("", "\\p{N}"), NULL, NULL, NULL, NULL, NULL}, 1, 1, 0},
    {"youtu", {TOK__YOUTU, TOK__CASED_WORDS(TOK__CONTRACTIONS "?", "\\p{N}{1,3}"), NULL, NULL, NULL, NULL}, 1, 0, 0},
    {"gpt-2", {TOK__GPT2, NULL, NULL, NULL, NULL, NULL}, 0, 0, 0}};

/* token_type */
enum { TOK__NORMAL = 1, TOK__UNKNOWN_TYPE, TOK__CONTROL, TOK__USER_DEFINED, TOK__UNUSED, TOK__BYTE };

static uint64_t tok__little(const void *data, size_t at, size_t bytes) {
    const unsigned char *s = (const unsigned char *)data + at;
    uint64_t value = 0;
    for (size_t i = bytes; i-- > 0;) value = value << 8 | s[i];
    return value;
}

/* The string at *at of an array; *at moves on. NULL: the array ends before it does, or it is no UTF-8. */
static const char *tok__next_string(const tokenizer_strings *a, size_t *at, size_t *length) {
    const char *s = (const char *)a->data + *at + 8;
    if (*at > a->bytes || a->bytes - *at < 8) return NULL;
    const uint64_t n = tok__little(a->data, *at, 8);
    if (n > a->bytes - *at - 8) return NULL;
    *length = (size_t)n;
    *at += 8 + *length;
    for (size_t i = 0; i < *length;) {
        int whole;
        i += tok__utf8((const unsigned char *)s + i, *length - i, &whole);
        if (whole != 1) return NULL;
    }
    return s;
}

static int tok__type_of(const tokenizer_gguf *keys, int id) {
    return keys->types ? (int)(uint32_t)tok__little(keys->types, 4 * (size_t)id, 4) : TOK__NORMAL;
}

static mla_result tok__read_gguf_tokens(tok__reader *r, const tokenizer_gguf *keys) {
    tokenizer *t = r->t;
    mla_result rc = tok__begin_added(r, keys->tokens.count);
    size_t at = 0, n;
    for (int id = 0; id < t->size && !rc; id++) {
        const char *s = tok__next_string(&keys->tokens, &at, &n);
        const int type = tok__type_of(keys, id);
        const int added = type == TOK__UNKNOWN_TYPE || type == TOK__CONTROL || type == TOK__USER_DEFINED;
        char unused[40];
        if (!s || (type != TOK__UNUSED && n == 0))
            return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: tokenizer.ggml.tokens: token %d is no text", r->label, id);
        if (type < TOK__NORMAL || type > TOK__BYTE)
            return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: tokenizer.ggml.token_type: %d of token %d is none",
                             r->label, type, id);
        if (type == TOK__UNUSED && (n == 0 || tok__lookup(t, s, n) >= 0)) /* a filler is none that is looked for */
            s = unused, n = (size_t)snprintf(unused, sizeof unused, "[unused %d]", id);
        if (added && n > TOK__MAX_CONTENT)
            return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: tokenizer.ggml.tokens: token %d has more than 256 bytes",
                             r->label, id);
        /* SentencePiece may merge what is defined by the user, too */
        rc = tok__add_entry(r, id, s, n,
                            (!added || (type == TOK__USER_DEFINED && !t->byte_level)) && type != TOK__UNUSED);
        if (!rc && added) tok__add_added(r, id, 0, 0, 0, type != TOK__USER_DEFINED);
        if (!rc && type == TOK__UNKNOWN_TYPE && t->unk < 0) t->unk = id;
    }
    return rc;
}

static mla_result tok__read_gguf_merges(tok__reader *r, const tokenizer_gguf *keys) {
    mla_result rc = MLA_OK;
    size_t at = 0, n;
    if (keys->merges.count >= INT32_MAX / 4) return tok__wrong(r, "tokenizer.ggml.merges", "less than 2^29");
    for (size_t i = 0; i < keys->merges.count && !rc; i++) {
        const char *s = tok__next_string(&keys->merges, &at, &n);
        const char *space = s && n > 2 ? (const char *)memchr(s + 1, ' ', n - 2) : NULL;
        char what[48];
        snprintf(what, sizeof what, "tokenizer.ggml.merges[%zu]", i);
        if (!space) return tok__wrong(r, what, "\"LEFT RIGHT\"");
        rc = tok__spelled_merge(r, s, (size_t)(space - s), space + 1, n - 1 - (size_t)(space - s), (int)i, what);
    }
    return rc;
}

typedef struct tok__scored {
    float score;
    int id;
} tok__scored;

static int tok__by_score(const void *a, const void *b) { /* the highest first */
    const tok__scored *x = (const tok__scored *)a, *y = (const tok__scored *)b;
    return x->score > y->score ? -1 : x->score < y->score;
}

/* SentencePiece: equal scores are one rank. */
static mla_result tok__read_scores(tok__reader *r, const tokenizer_gguf *keys) {
    tokenizer *t = r->t;
    tok__scored *list = (tok__scored *)malloc(sizeof *list * ((size_t)t->size + 1));
    mla_result rc = list ? MLA_OK : tok__no_memory(r);
    for (int id = 0; id < t->size && !rc; id++) {
        const uint32_t bits = (uint32_t)tok__little(keys->scores, 4 * (size_t)id, 4);
        memcpy(&list[id].score, &bits, 4);
        list[id].id = id;
        if ((bits >> 23 & 0xFF) == 0xFF)
            rc = tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: tokenizer.ggml.scores: that of token %d is not finite",
                           r->label, id);
    }
    if (!rc) qsort(list, (size_t)t->size, sizeof *list, tok__by_score);
    for (int i = 0, rank = 0; i < t->size && !rc; i++) {
        const int id = list[i].id, type = tok__type_of(keys, id);
        if (i && list[i].score < list[i - 1].score) rank = i;
        if (type == TOK__NORMAL || type == TOK__USER_DEFINED) rc = tok__all_merges_of(r, id, rank);
    }
    free(list);
    return rc;
}

static mla_result tok__read_bounds(tok__reader *r, const tokenizer_gguf *keys, int adds_bos) {
    tokenizer *t = r->t;
    const int bos = keys->add_bos < 0 ? adds_bos : keys->add_bos, eos = keys->add_eos > 0;
    for (int i = 0; i < 2; i++) {
        const int id = i ? keys->eos : keys->bos;
        if (!(i ? eos : bos)) continue;
        if (id < 0 || id >= t->size)
            return tok__fail(r->err, MLA_ERR_CONFIG, "%.60s: tokenizer.ggml.%s_token_id: expected one from 0 to %d",
                             r->label, i ? "eos" : "bos", t->size - 1);
        if (i) t->after[t->n_after++] = id;
        else t->before[t->n_before++] = id;
    }
    return MLA_OK;
}

static mla_result tok__read_gpt2(tok__reader *r, const tokenizer_gguf *keys) {
    tokenizer *t = r->t;
    const tok__pre *pre = NULL;
    mla_result rc;
    for (size_t i = 0; i < sizeof tok__pres / sizeof tok__pres[0] && keys->pre; i++)
        if (!strcmp(keys->pre, tok__pres[i].name)) pre = &tok__pres[i];
    if (!pre) return tok__unknown(r, "tokenizer.ggml.pre", keys->pre, "its patterns are not known");
    t->byte_level = t->decodes_bytes = 1;
    t->ignore_merges = pre->ignore_merges;
    rc = tok__read_gguf_tokens(r, keys);
    if (!rc) rc = tok__index_vocabulary(r);
    for (int i = 0; i < 6 && !rc && pre->patterns[i]; i++)
        rc = tok__add_cut(r, keys->pre, pre->patterns[i], strlen(pre->patterns[i]), 0, TOK__ISOLATED, 0);
    if (!rc && !pre->ranked) rc = tok__read_gguf_merges(r, keys);
    for (int id = 0; id < t->size && !rc && pre->ranked; id++)
        if (t->entries[id].model) rc = tok__all_merges_of(r, id, id);
    return rc ? rc : tok__read_bounds(r, keys, pre->adds_bos);
}

#define TOK__GAP "\xE2\x96\x81" /* U+2581, which stands for a space */

static mla_result tok__read_sentencepiece(tok__reader *r, const tokenizer_gguf *keys) {
    tokenizer *t = r->t;
    const char *const what = "normalizer";
    mla_result rc = MLA_OK;
    if (!keys->scores) return tok__wrong(r, "tokenizer.ggml.scores", "an array");
    t->byte_fallback = t->decodes_fallback = t->fuse_unk = 1;
    t->strips_space = keys->add_space_prefix != 0;
    rc = tok__read_gguf_tokens(r, keys);
    if (!rc && keys->unk >= t->size) rc = tok__wrong(r, "tokenizer.ggml.unknown_token_id", "an id that there is");
    if (keys->unk >= 0) t->unk = keys->unk;
    if (!rc) rc = tok__index_vocabulary(r);
    if (!rc && t->strips_space) rc = tok__add_prepend(r, &t->normalizers, what, TOK__GAP, 3, 0, 0);
    if (!rc) rc = tok__add_replace(r, &t->normalizers, what, " ", 1, 1, TOK__GAP, 3);
    if (!rc) rc = tok__add_replace(r, &t->decoders, what, TOK__GAP, 3, 1, " ", 1);
    if (!rc) rc = tok__read_scores(r, keys);
    return rc ? rc : tok__read_bounds(r, keys, 1);
}

mla_result tokenizer_from_gguf(tokenizer **out, const tokenizer_gguf *keys, const char *label, mla_error *err) {
    tok__reader r;
    if (out) *out = NULL;
    if (!out || !keys || !keys->model || (keys->tokens.count && !keys->tokens.data) ||
        (keys->merges.count && !keys->merges.data))
        return tok__fail(err, MLA_ERR_ARGUMENT, "tokenizer_from_gguf: out, keys, model or an array is NULL");
    mla_result rc = tok__start(&r, label, "GGUF", err);
    if (rc) return rc;
    r.vocabulary = "tokenizer.ggml.tokens";
    if (keys->tokens.count == 0 || keys->tokens.count > TOK__MAX_SIZE)
        rc = tok__wrong(&r, r.vocabulary, "1 to 1048576 tokens");
    if (!rc) rc = tok__begin(&r, (int)keys->tokens.count, keys->tokens.count);
    if (!rc && !strcmp(keys->model, "gpt2")) rc = tok__read_gpt2(&r, keys);
    else if (!rc && !strcmp(keys->model, "llama")) rc = tok__read_sentencepiece(&r, keys);
    else if (!rc) rc = tok__unknown(&r, "tokenizer.ggml.model", keys->model, "gpt2 and llama are");
    return tok__finish(&r, rc, out);
}

/* ---- >>files ----------------------------------------------------------------------------------------------------- */

static const char *tok__label(const char *path) { /* the name without its directories */
    const char *label = path;
    for (const char *c = path; *c; c++)
        if (*c == '/' || *c == '\\') label = c + 1;
    return label;
}

static const size_t tok__most_bytes = (size_t)1 << 28; /* of a file */

/* DIR/name; n are the bytes of path that are DIR. NULL: no memory. */
static char *tok__path(const char *path, size_t n, const char *name) {
    const size_t room = n + strlen(name) + 2;
    char *joined = (char *)malloc(room);
    if (!joined) return NULL;
    memcpy(joined, path, n);
    snprintf(joined + n, room - n, "%s%s", n && path[n - 1] != '/' ? "/" : "", name);
    return joined;
}

/* What the text is shows in its first character. */
static mla_result tok__parse_file(tokenizer **out, const char *path, const char *text, size_t n, mla_error *err) {
    const char *label = tok__label(path);
    char *config = NULL, *beside = NULL;
    size_t n_config = 0, first = 0;
    int missing;
    mla_result rc;
    while (first < n && strchr(" \t\r\n{[", text[first]) && text[first] && text[first] != '{' && text[first] != '[')
        first++;
    const int pointer =
        n > 23 && !memcmp(text, "version https://git-lfs", 23); /* of which the parser says what it is */
    if (first == n || pointer || tok__base64((unsigned char)text[first]) < 0)
        return tokenizer_parse(out, text, n, label, err);
    beside = tok__path(path, (size_t)(label - path), "tokenizer_config.json");
    if (!beside) return tok__fail(err, MLA_ERR_MEMORY, "%.60s: out of memory", label);
    rc = checkpoint_read(&config, &n_config, beside, tok__most_bytes, &missing, err);
    if (missing) rc = MLA_OK;
    if (!rc) rc = tokenizer_parse_tiktoken(out, text, n, config, n_config, label, err);
    free(config);
    free(beside);
    return rc;
}

mla_result tokenizer_open(tokenizer **out, const char *path, mla_error *err) {
    static const char *const names[] = {"tokenizer.json", "tiktoken.model"};
    char *text = NULL, *inside = NULL;
    size_t n = 0;
    int missing = 1;
    mla_error why; /* one of them may be missing, with a message that nobody shall see */
    if (out) *out = NULL;
    if (!out || !path) return tok__fail(err, MLA_ERR_ARGUMENT, "tokenizer_open: path or out is NULL");
    if (!*path) return tok__fail(err, MLA_ERR_ARGUMENT, "tokenizer_open: the path is empty");
    mla_result rc = checkpoint_read(&text, &n, path, tok__most_bytes, NULL, &why);
    const int directory = rc && strstr(why.text, ": cannot be read: a directory") != NULL;
    for (int i = 0; i < 2 && directory && missing; i++) {
        free(inside);
        if (!(inside = tok__path(path, strlen(path), names[i]))) return tok__fail(err, MLA_ERR_MEMORY, "out of memory");
        rc = checkpoint_read(&text, &n, inside, tok__most_bytes, &missing, &why);
    }
    if (directory && missing)
        tok__fail(&why, rc, "%.150s: cannot be read: a directory without tokenizer.json or tiktoken.model", path);
    if (rc && err) *err = why;
    if (!rc) rc = tok__parse_file(out, directory ? inside : path, text, n, err);
    free(text);
    free(inside);
    return rc;
}

void tokenizer_close(tokenizer *t) {
    tok__steps *steps[3];
    if (!t) return;
    steps[0] = &t->normalizers;
    steps[1] = &t->cuts;
    steps[2] = &t->decoders;
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < steps[k]->n; i++) tok__regex_free(&steps[k]->list[i].regex);
    for (int set = 0; set < 2; set++) free(t->added[set]);
    for (size_t i = 0; i < t->n_sets; i++) tok__set_free(t->sets[i]);
    free(t->sets);
    free(t->first);
    free(t->merges);
    free(t->entries);
    free(t->slots);
    free(t->inside);
    while (t->chunks) {
        tok__chunk *next = t->chunks->next;
        free(t->chunks);
        t->chunks = next;
    }
    free(t);
}
#endif /* TOKENIZER_IMPLEMENTATION */
