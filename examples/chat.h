/* chat.h - DeepSeek's chat templates: turns of a conversation as token ids.

USE
   In exactly one file:      #define CHAT_IMPLEMENTATION
                             #include "chat.h"
   In all others:            #include "chat.h"                (after tokenizer.h, or with it on the include path)

   chat_template chat;   chat_tokens text = {NULL, 0, 0};
   if (chat_detect(&chat, tokenizer, bos_token_id, &error)) puts(error.text);
   chat_turn(&text, &chat, tokenizer, "Be brief.", "Hello", 5, &error);    run text.ids [text.n], generate answer [n]
   chat_answer(&text, &chat, answer, n, &error);
   chat_turn(&text, &chat, tokenizer, NULL, "And now?", 8, &error);   ...   free(text.ids);

WHICH          The template follows from the tokens that the tokenizer has. The chat_template of
               tokenizer_config.json, a program in Jinja, is not interpreted. With B and E for begin and end of
               sentence, and DeepSeek's wide bars written |:
               V2     none of the tokens below      B system \n\n User: question \n\n Assistant:answer E User: ...
               V3     <|User|>, <|Assistant|>       B system <|User|>question <|Assistant|>answer E <|User|> ...
                                                    (V2.5, too)
               R1     V3's, <think> and </think>    as V3, but <think>\n behind the last <|Assistant|>
               V3.1   R1's and <|search begin|>     as V3, but </think> behind every <|Assistant|>; or, if it shall
                                                    think, <think> behind the last one
               Of an answer with thoughts only what follows </think> stays in the conversation.
TYPED          What users write is encoded with TOKENIZER_PLAIN: special tokens written in it are text. So is the
               system prompt.
   SPDX-License-Identifier: MIT */

#ifndef CHAT_H
#define CHAT_H

#ifndef TOKENIZER_H
#include "tokenizer.h"
#endif

#ifndef CHAT_API
#define CHAT_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum chat_style { CHAT_V2 = 0, CHAT_V3, CHAT_R1, CHAT_V31, CHAT_STYLE_COUNT } chat_style;

typedef struct chat_template {
    chat_style style;
    int bos, eos;         /* ids */
    int user, assistant;  /* not V2 */
    int think, end_think; /* R1 and V3.1 */
    int thinks;           /* V3.1: the answer begins with thoughts; R1: set, clear it to leave <think> to the model */
} chat_template;

typedef struct chat_tokens { /* zero-initialise; free(ids) */
    int *ids;
    size_t n, capacity;
} chat_tokens;

/* bos: the model's, used if no begin of sentence is among the tokenizer's tokens; -1: none. Error: UNSUPPORTED (naming
   the token missing). */
CHAT_API mla_result chat_detect(chat_template *out, const tokenizer *t, int bos, mla_error *err);
CHAT_API const char *chat_style_name(chat_style style); /* "V2", "V3", "R1", "V3.1" */

/* Appends n ids, or n bytes encoded with these flags of tokenizer_encode. Error: MEMORY; nothing was appended then. */
CHAT_API mla_result chat_append(chat_tokens *text, const int *ids, size_t n, mla_error *err);
CHAT_API mla_result chat_append_text(chat_tokens *text, const tokenizer *t, const char *bytes, size_t n, unsigned flags,
                                     mla_error *err);

/* Appends a question [n bytes] and what makes the model answer. system: the conversation begins, with that system
   prompt (may be
   ""); NULL: it goes on. Error: MEMORY. */
CHAT_API mla_result chat_turn(chat_tokens *text, const chat_template *chat, const tokenizer *t, const char *system,
                              const char *question, size_t n, mla_error *err);
/* What stays of an answer [n], without its end of sentence, and that: text, which ends as chat_turn left it, becomes
   the conversation so far as the model was trained on it. That is what was run, unless thoughts go: then text was
   changed behind
   <|Assistant|>, and a cache must be cut back to where both agree. Error: MEMORY. */
CHAT_API mla_result chat_answer(chat_tokens *text, const chat_template *chat, const int *answer, size_t n,
                                mla_error *err);

#ifdef __cplusplus
}
#endif
#endif /* CHAT_H */

/* ================================================================================================================== */
#if defined CHAT_IMPLEMENTATION && !defined CHAT_IMPLEMENTED
#define CHAT_IMPLEMENTED

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The bar U+FF5C and the block U+2581 in DeepSeek's names. */
#define CHAT__BAR         "\xef\xbd\x9c"
#define CHAT__GAP         "\xe2\x96\x81"
#define CHAT__TOKEN(name) "<" CHAT__BAR name CHAT__BAR ">"

static mla_result chat__fail(mla_error *err, mla_result code, const char *text) {
    if (err) {
        snprintf(err->text, sizeof err->text, "%s", text);
        err->code = code;
    }
    return code;
}

const char *chat_style_name(chat_style style) {
    static const char *const names[CHAT_STYLE_COUNT] = {"V2", "V3", "R1", "V3.1"};
    return (unsigned)style < CHAT_STYLE_COUNT ? names[style] : "?";
}

mla_result chat_detect(chat_template *out, const tokenizer *t, int bos, mla_error *err) {
    chat_template c;
    const int begin = tokenizer_find(t, CHAT__TOKEN("begin" CHAT__GAP "of" CHAT__GAP "sentence"));
    const int search = tokenizer_find(t, CHAT__TOKEN("search" CHAT__GAP "begin"));
    memset(&c, 0, sizeof c);
    c.bos = begin >= 0 ? begin : bos;
    c.eos = tokenizer_find(t, CHAT__TOKEN("end" CHAT__GAP "of" CHAT__GAP "sentence"));
    c.user = tokenizer_find(t, CHAT__TOKEN("User")), c.assistant = tokenizer_find(t, CHAT__TOKEN("Assistant"));
    c.think = tokenizer_find(t, "<think>"), c.end_think = tokenizer_find(t, "</think>");
    if (c.eos < 0)
        return chat__fail(err, MLA_ERR_UNSUPPORTED,
                          "the tokenizer has no token " CHAT__TOKEN(
                              "end" CHAT__GAP "of" CHAT__GAP "sentence") ": no chat template of DeepSeek's fits");
    if ((c.user < 0) != (c.assistant < 0))
        return chat__fail(err, MLA_ERR_UNSUPPORTED,
                          "the tokenizer has only one of the tokens " CHAT__TOKEN("User") " and " CHAT__TOKEN(
                              "Assistant") ": no chat template of DeepSeek's fits");
    const int thoughts = c.think >= 0 && c.end_think >= 0;
    c.style = c.user < 0 ? CHAT_V2 : !thoughts ? CHAT_V3 : search < 0 ? CHAT_R1 : CHAT_V31;
    c.thinks = c.style == CHAT_R1;
    *out = c;
    return MLA_OK;
}

static mla_result chat__reserve(chat_tokens *text, size_t n, mla_error *err) {
    if (n <= text->capacity - text->n) return MLA_OK;
    const size_t capacity =
        n < SIZE_MAX / 4 / sizeof *text->ids && text->n < SIZE_MAX / 4 / sizeof *text->ids ? 2 * (text->n + n) : 0;
    int *ids = capacity ? (int *)realloc(text->ids, capacity * sizeof *ids) : NULL;
    if (!ids) return chat__fail(err, MLA_ERR_MEMORY, "no memory for the tokens of the text");
    text->ids = ids, text->capacity = capacity;
    return MLA_OK;
}

mla_result chat_append(chat_tokens *text, const int *ids, size_t n, mla_error *err) {
    const mla_result rc = chat__reserve(text, n, err);
    if (rc || n == 0) return rc;
    memcpy(text->ids + text->n, ids, n * sizeof *ids);
    text->n += n;
    return MLA_OK;
}

mla_result chat_append_text(chat_tokens *text, const tokenizer *t, const char *bytes, size_t n, unsigned flags,
                            mla_error *err) {
    int64_t count = tokenizer_encode(t, bytes, n, flags, NULL, 0);
    if (count < 0 || (uint64_t)count > SIZE_MAX / 8)
        return chat__fail(err, MLA_ERR_MEMORY, "no memory to encode the text");
    const mla_result rc = chat__reserve(text, (size_t)count, err);
    if (rc || count == 0) return rc;
    count = tokenizer_encode(t, bytes, n, flags, text->ids + text->n, (size_t)count);
    if (count < 0) return chat__fail(err, MLA_ERR_MEMORY, "no memory to encode the text");
    text->n += (size_t)count;
    return MLA_OK;
}

/* V2: everything between two special tokens is one text, encoded in one piece, because words join across the seams. */
static mla_result chat__turn_v2(chat_tokens *text, const tokenizer *t, const char *system, const char *question,
                                size_t n, mla_error *err) {
    const int prompt = system && *system;
    const size_t room = (prompt ? strlen(system) + 2 : 0) + n + 32;
    char *all = (char *)malloc(room);
    if (!all) return chat__fail(err, MLA_ERR_MEMORY, "no memory for the question");
    size_t used = (size_t)snprintf(all, room, "%s%sUser: ", prompt ? system : "", prompt ? "\n\n" : "");
    memcpy(all + used, question, n);
    used += n;
    used += (size_t)snprintf(all + used, room - used, "\n\nAssistant:");
    const mla_result rc = chat_append_text(text, t, all, used, TOKENIZER_PLAIN, err);
    free(all);
    return rc;
}

mla_result chat_turn(chat_tokens *text, const chat_template *chat, const tokenizer *t, const char *system,
                     const char *question, size_t n, mla_error *err) {
    const size_t before = text->n;
    mla_result rc = MLA_OK;
    if (system && chat->bos >= 0) rc = chat_append(text, &chat->bos, 1, err);
    if (chat->style == CHAT_V2) {
        if (!rc) rc = chat__turn_v2(text, t, system, question, n, err);
    } else {
        if (!rc && system) rc = chat_append_text(text, t, system, strlen(system), TOKENIZER_PLAIN, err);
        if (!rc) rc = chat_append(text, &chat->user, 1, err);
        if (!rc) rc = chat_append_text(text, t, question, n, TOKENIZER_PLAIN, err);
        if (!rc) rc = chat_append(text, &chat->assistant, 1, err);
        if (!rc && chat->style == CHAT_V31)
            rc = chat_append(text, chat->thinks ? &chat->think : &chat->end_think, 1, err);
        if (!rc && chat->style == CHAT_R1 && chat->thinks) rc = chat_append(text, &chat->think, 1, err);
        if (!rc && chat->style == CHAT_R1 && chat->thinks)
            rc = chat_append_text(text, t, "\n", 1, TOKENIZER_PLAIN, err);
    }
    if (rc) text->n = before;
    return rc;
}

mla_result chat_answer(chat_tokens *text, const chat_template *chat, const int *answer, size_t n, mla_error *err) {
    const size_t before = text->n;
    size_t begin = 0;                                      /* of what stays */
    const mla_result rc = chat__reserve(text, n + 2, err); /* the rest cannot fail */
    if (rc) return rc;
    if (chat->style == CHAT_R1 || chat->style == CHAT_V31) {
        size_t thoughts = n;
        while (thoughts > 0 && answer[thoughts - 1] != chat->end_think) thoughts--;
        begin = thoughts > 0 ? thoughts : chat->thinks ? n : 0; /* without their end, all are thoughts */
        if (begin > 0 || chat->thinks)
            while (text->n > 0 && text->ids[text->n - 1] != chat->assistant) text->n--;
    }
    if (chat->style == CHAT_V31 && text->n < before) chat_append(text, &chat->end_think, 1, err);
    chat_append(text, answer + begin, n - begin, err);
    return chat_append(text, &chat->eos, 1, err);
}

#endif /* CHAT_IMPLEMENTATION */
