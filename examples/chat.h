/* chat.h - turns of a conversation as token ids, by the model's own chat template or by DeepSeek's.

USE
   In exactly one file:      #define CHAT_IMPLEMENTATION
                             #include "chat.h"
   In all others:            #include "chat.h"                (after tokenizer.h and jinja.h, or with them on the
                             include path; both must be implemented somewhere in the program)

   chat_own *own;                                              by the model's own template: all messages each time
   if (chat_open(&own, source, strlen(source), "chat_template.jinja", tokenizer, &error)) puts(error.text);
   if (chat_render(&text, own, messages, 1, &options, &error)) puts(error.text);   ...   chat_close(own);

   chat_template chat;   chat_tokens text = {NULL, 0, 0};       by one of DeepSeek's: turn by turn
   if (chat_detect(&chat, tokenizer, bos_token_id, &error)) puts(error.text);
   chat_turn(&text, &chat, tokenizer, "Be brief.", "Hello", 5, &error);    run text.ids [text.n], generate answer [n]
   chat_answer(&text, &chat, answer, n, &error);
   chat_turn(&text, &chat, tokenizer, NULL, "And now?", 8, &error);   ...   free(text.ids);

WHICH          A model's own template, chat_template.jinja or the chat_template of tokenizer_config.json, is a program
               in Jinja: chat_open, chat_render. For models without, chat_detect tells one of DeepSeek's from the tokens
               that the tokenizer has. With B and E for begin and end of sentence, and DeepSeek's wide bars written |:
               V2     none of the tokens below      B system \n\n User: question \n\n Assistant:answer E User: ...
               V3     <|User|>, <|Assistant|>       B system <|User|>question <|Assistant|>answer E <|User|> ...
                                                    (V2.5, too)
               R1     V3's, <think> and </think>    as V3, but <think>\n behind the last <|Assistant|>
               V3.1   R1's and <|search begin|>     as V3, but </think> behind every <|Assistant|>; or, if it shall
                                                    think, <think> behind the last one
               Of an answer with thoughts only what follows </think> stays in the conversation.
TYPED          What users write is encoded with TOKENIZER_PLAIN: special tokens written in it are text. So is the
               system prompt. A template of the model's own mixes it with its special tokens; there a mark (U+FDD0,
               which is no character) inside what only looks like one keeps them apart until all is encoded.
   SPDX-License-Identifier: MIT */

#ifndef CHAT_H
#define CHAT_H

#ifndef TOKENIZER_H
#include "tokenizer.h"
#endif
#ifndef JINJA_H
#include "jinja.h"
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

/* Appends n ids, or n bytes encoded with these flags of tokenizer_encode. Errors: MEMORY, UNSUPPORTED (the tokenizer
   makes too much of the text); nothing was appended then. */
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

/* ---- the model's own template ------------------------------------------------------------------------------------ */

typedef struct chat_own chat_own;

typedef struct chat_message {
    const char *role;    /* "system", "user", "assistant" */
    const char *content; /* [n] */
    size_t n;
    const char *thoughts; /* [n_thoughts] of an assistant, as reasoning_content; NULL: none */
    size_t n_thoughts;
} chat_message;

typedef struct chat_options {
    const char *bos, *eos; /* what bos_token and eos_token are to the template; NULL: nothing */
    const char *tools;     /* [n_tools] a list of tools as JSON; NULL: none */
    size_t n_tools;
    int think;         /* 1, -1: enable_thinking and thinking are true, or false; 0: as the template has it */
    int goes_on;       /* 1: nothing is asked of the assistant (add_generation_prompt is false) */
    int calls_nothing; /* 1: of a request's tools the template is told nothing */
    size_t most;       /* bytes of text that are made into tokens; 0: any number */
} chat_options;

/* A template of n bytes for that tokenizer, which must outlive it. label: its name in messages. Errors: those of
   jinja_parse. */
CHAT_API mla_result chat_open(chat_own **out, const char *source, size_t n, const char *label, const tokenizer *t,
                              mla_error *err);
CHAT_API void chat_close(chat_own *own); /* NULL is fine */
/* Does it mention that variable, as "tools" or "enable_thinking"? */
CHAT_API int chat_mentions(const chat_own *own, const char *name);
/* The whole conversation: text is emptied first. Errors: those of jinja_render, of tools that are no list of JSON,
   MEMORY, and ARGUMENT: the template makes more bytes than options->most. */
CHAT_API mla_result chat_render(chat_tokens *text, const chat_own *own, const chat_message *messages, size_t n,
                                const chat_options *options, mla_error *err);

/* The same of a request [n] to OpenAI's chat API, in JSON: an object with messages, perhaps tools, and perhaps
   chat_template_kwargs, whose members are variables of the template. All that stands in messages and tools is typed. A
   content in parts becomes their text, a developer is a system; arguments of tool_calls, which are JSON in a string,
   are an object to the template, or, if that cannot use them, the string. Errors: as chat_render, for what is no such
   request CONFIG. */
CHAT_API mla_result chat_render_request(chat_tokens *text, const chat_own *own, const char *request, size_t n,
                                        const chat_options *options, mla_error *err);

/* Does a prompt end inside of thoughts, with <think> and at most white space behind it? Answers begin there then. */
CHAT_API int chat_is_thinking(const chat_tokens *text, const tokenizer *t);

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
        err->code = code, err->sequence = -1;
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

static mla_result chat__refused(int64_t why, size_t n, mla_error *err) {
    char text[160];
    snprintf(text, sizeof text,
             why == TOKENIZER_STEPS ? "the tokenizer: a pattern takes too many steps on a text of %zu bytes"
                                    : "the tokenizer: its normalizer or pre-tokenizer makes too much of a text of %zu "
                                      "bytes, more than %d times that",
             n, TOKENIZER_MOST_GROWTH);
    return chat__fail(err, MLA_ERR_UNSUPPORTED, text);
}

mla_result chat_append_text(chat_tokens *text, const tokenizer *t, const char *bytes, size_t n, unsigned flags,
                            mla_error *err) {
    size_t room = n / 2 + 32; /* for most texts; else they are encoded once more */
    for (;;) {
        const mla_result rc = chat__reserve(text, room, err);
        if (rc) return rc;
        const int64_t count = tokenizer_encode(t, bytes, n, flags, text->ids + text->n, room);
        if (count == TOKENIZER_GROWTH || count == TOKENIZER_STEPS) return chat__refused(count, n, err);
        if (count < 0 || (uint64_t)count > SIZE_MAX / 8)
            return chat__fail(err, MLA_ERR_MEMORY, "no memory to encode the text");
        if ((size_t)count <= room) {
            text->n += (size_t)count;
            return MLA_OK;
        }
        room = (size_t)count;
    }
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

/* ---- the model's own template ------------------------------------------------------------------------------------ */

#define CHAT__MARK "\xef\xb7\x90"

struct chat_own {
    jinja_template *program;
    const tokenizer *t;
    int *special; /* [n] ids of the tokens that TOKENIZER_PLAIN does not find */
    size_t n;
    char begins[256]; /* is there one that begins with this byte? */
};

/* The special token with which s [n] begins, the longest; -1: none. */
static int chat__special(const chat_own *own, const char *s, size_t n) {
    int found = -1;
    size_t best = 0, length;
    for (size_t i = 0; own->begins[(unsigned char)s[0]] && i < own->n; i++) {
        const char *bytes = tokenizer_bytes(own->t, own->special[i], &length);
        if (length > best && length <= n && bytes[0] == s[0] && !memcmp(bytes, s, length))
            found = own->special[i], best = length;
    }
    return found;
}

/* Which tokens are found in a text, but not in one that is typed? */
static mla_result chat__find_special(chat_own *own, mla_error *err) {
    const tokenizer *t = own->t;
    for (int id = 0; id < tokenizer_size(t); id++) {
        size_t n;
        int got = -1;
        const char *bytes = tokenizer_bytes(t, id, &n);
        if (!bytes || n < 2 || !(tokenizer_is_special(t, id) || (bytes[0] == '<' && bytes[n - 1] == '>'))) continue;
        if (tokenizer_encode(t, bytes, n, 0, &got, 1) != 1 || got != id) continue;
        if (tokenizer_encode(t, bytes, n, TOKENIZER_PLAIN, &got, 1) == 1 && got == id) continue;
        if ((own->n & (own->n - 1)) == 0) {
            int *more = (int *)realloc(own->special, (own->n ? 2 * own->n : 1) * sizeof *more);
            if (!more) return chat__fail(err, MLA_ERR_MEMORY, "no memory for the chat template");
            own->special = more;
        }
        own->special[own->n++] = id, own->begins[(unsigned char)bytes[0]] = 1;
    }
    return MLA_OK;
}

mla_result chat_open(chat_own **out, const char *source, size_t n, const char *label, const tokenizer *t,
                     mla_error *err) {
    if (out) *out = NULL;
    if (!out || !t) return chat__fail(err, MLA_ERR_ARGUMENT, "chat_open: a null pointer");
    chat_own *own = (chat_own *)calloc(1, sizeof *own);
    if (!own) return chat__fail(err, MLA_ERR_MEMORY, "no memory for the chat template");
    own->t = t;
    mla_result rc = jinja_parse(&own->program, source, n, label, err);
    if (!rc) rc = chat__find_special(own, err);
    if (rc) chat_close(own);
    else *out = own;
    return rc;
}

void chat_close(chat_own *own) {
    if (own) jinja_free(own->program), free(own->special);
    free(own);
}

int chat_mentions(const chat_own *own, const char *name) { return jinja_mentions(own->program, name); }

/* A string in which what looks like special tokens has a mark behind its first character. NULL: no memory. */
static jinja_value *chat__typed(jinja_data *d, const chat_own *own, const char *s, size_t n) {
    size_t marks = 0, used = 0;
    for (size_t i = 0; i < n; i++) marks += chat__special(own, s + i, n - i) >= 0;
    char *out = marks < (SIZE_MAX - n) / 4 ? (char *)malloc(n + 3 * marks + 1) : NULL;
    if (!out) return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t first = 1;                                  /* character */
        if (n - i >= 3 && !memcmp(s + i, CHAT__MARK, 3)) { /* typed marks go */
            i += 2;
            continue;
        }
        const int special = chat__special(own, s + i, n - i) >= 0;
        while (special && i + first < n && ((unsigned char)s[i + first] & 0xC0) == 0x80) first++;
        memcpy(out + used, s + i, first);
        used += first, i += first - 1;
        if (special) memcpy(out + used, CHAT__MARK, 3), used += 3;
    }
    jinja_value *v = jinja_string(d, out, used);
    free(out);
    return v;
}

/* A text without marks in place; gives what is left. */
static size_t chat__unmark(char *s, size_t n) {
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (n - i >= 3 && !memcmp(s + i, CHAT__MARK, 3)) i += 2;
        else s[used++] = s[i];
    }
    return used;
}

/* If there are marks, what is between the special tokens of the template is encoded as typed. */
static mla_result chat__encode(chat_tokens *text, const chat_own *own, char *s, size_t n, mla_error *err) {
    size_t marked = 0, begin = 0;
    mla_result rc = MLA_OK;
    while (marked + 3 <= n && memcmp(s + marked, CHAT__MARK, 3) != 0) marked++;
    if (marked + 3 > n) return chat_append_text(text, own->t, s, n, 0, err);
    for (size_t i = 0; i <= n && !rc;) {
        const int special = i < n ? chat__special(own, s + i, n - i) : -1;
        if (i < n && special < 0) {
            i++;
            continue;
        }
        rc = chat_append_text(text, own->t, s + begin, chat__unmark(s + begin, i - begin), TOKENIZER_PLAIN, err);
        if (i == n) break;
        size_t length;
        tokenizer_bytes(own->t, special, &length);
        if (!rc) rc = chat_append(text, &special, 1, err);
        begin = i += length;
    }
    return rc;
}

static jinja_value *chat__messages(jinja_data *d, const chat_own *own, const chat_message *messages, size_t n) {
    jinja_value *list = jinja_list(d);
    for (size_t i = 0; i < n; i++) {
        const chat_message *m = &messages[i];
        jinja_value *one = jinja_dict(d);
        jinja_put(d, one, "role", jinja_string(d, m->role, strlen(m->role)));
        jinja_put(d, one, "content", chat__typed(d, own, m->content, m->n));
        if (m->thoughts) jinja_put(d, one, "reasoning_content", chat__typed(d, own, m->thoughts, m->n_thoughts));
        jinja_append(d, list, one);
    }
    return list;
}

/* Variables that are the same whatever the messages come from. */
static void chat__variables(jinja_data *d, jinja_value *all, const chat_options *options) {
    jinja_put(d, all, "add_generation_prompt", jinja_bool(d, !options->goes_on));
    if (options->bos) jinja_put(d, all, "bos_token", jinja_string(d, options->bos, strlen(options->bos)));
    if (options->eos) jinja_put(d, all, "eos_token", jinja_string(d, options->eos, strlen(options->eos)));
    if (options->think) jinja_put(d, all, "enable_thinking", jinja_bool(d, options->think > 0));
    if (options->think) jinja_put(d, all, "thinking", jinja_bool(d, options->think > 0));
}

static mla_result chat__run(chat_tokens *text, const chat_own *own, const jinja_data *d, const jinja_value *all,
                            size_t most, mla_error *err) {
    char *rendered = NULL;
    size_t length = 0;
    mla_result rc = jinja_render(own->program, d, all, NULL, &rendered, &length, err);
    text->n = 0;
    if (!rc && most && length > most)
        rc = chat__fail(err, MLA_ERR_ARGUMENT, "the chat template makes a text longer than any that fits the context");
    if (!rc) rc = chat__encode(text, own, rendered, length, err);
    free(rendered);
    return rc;
}

mla_result chat_render(chat_tokens *text, const chat_own *own, const chat_message *messages, size_t n,
                       const chat_options *options, mla_error *err) {
    jinja_data *d;
    jinja_value *tools = NULL;
    text->n = 0;
    mla_result rc = jinja_data_create(&d, err);
    if (rc) return rc;
    jinja_value *all = jinja_dict(d);
    jinja_put(d, all, "messages", chat__messages(d, own, messages, n));
    chat__variables(d, all, options);
    if (options->tools) rc = jinja_json(d, options->tools, options->n_tools, &tools, err);
    if (tools && !jinja_is_list(tools)) rc = chat__fail(err, MLA_ERR_CONFIG, "the tools are no list");
    if (tools) jinja_put(d, all, "tools", tools);
    if (!rc) rc = chat__run(text, own, d, all, options->most, err);
    jinja_data_destroy(d);
    return rc;
}

/* A value all of whose strings are typed, the names of members too. */
static jinja_value *chat__typed_value(jinja_data *d, const chat_own *own, jinja_value *v) {
    size_t n;
    const char *text = jinja_text(v, &n);
    if (text) return chat__typed(d, own, text, n);
    if (!jinja_is_list(v) && !jinja_is_dict(v)) return v;
    jinja_value *copy = jinja_is_list(v) ? jinja_list(d) : jinja_dict(d);
    for (size_t i = 0; i < jinja_count(v); i++) {
        const char *key = jinja_key(v, i);
        jinja_value *of = key ? jinja_get(v, key) : jinja_at(v, i), *name;
        if (!of) continue; /* a name with a NUL in it */
        jinja_value *item = chat__typed_value(d, own, of);
        if (!key) jinja_append(d, copy, item);
        else { /* of NULL d says that it has failed */ name = chat__typed(d, own, key, strlen(key));
            jinja_put(d, copy, name ? jinja_text(name, NULL) : key, name ? item : NULL);
        }
    }
    return copy;
}

/* The text of a content in parts, which are joined; anything else stays. */
static jinja_value *chat__content(jinja_data *d, jinja_value *v) {
    size_t room = 0, used = 0, n;
    if (!jinja_is_list(v)) return v ? v : jinja_none(d);
    for (size_t i = 0; i < jinja_count(v); i++)
        if (jinja_text(jinja_get(jinja_at(v, i), "text"), &n)) room += n;
    char *all = (char *)malloc(room + 1);
    for (size_t i = 0; all && i < jinja_count(v); i++) {
        const char *text = jinja_text(jinja_get(jinja_at(v, i), "text"), &n);
        if (text) memcpy(all + used, text, n), used += n;
    }
    jinja_value *joined = all ? jinja_string(d, all, used) : NULL;
    free(all);
    return joined;
}

/* The arguments of a message's tool_calls become what their JSON says. */
static void chat__arguments(jinja_data *d, jinja_value *calls) {
    for (size_t i = 0; i < jinja_count(calls); i++) {
        jinja_value *function = jinja_get(jinja_at(calls, i), "function"), *parsed;
        size_t n;
        const char *text = jinja_text(jinja_get(function, "arguments"), &n);
        const mla_result rc = text ? jinja_json(d, text, n, &parsed, NULL) : MLA_ERR_DATA;
        if (rc == MLA_OK || rc == MLA_ERR_MEMORY) jinja_put(d, function, "arguments", parsed); /* NULL: d has failed */
    }
}

static mla_result chat__request(chat_tokens *text, const chat_own *own, const char *request, size_t n,
                                const chat_options *options, int objects, mla_error *err) {
    jinja_data *d;
    jinja_value *root = NULL;
    mla_result rc = jinja_data_create(&d, err);
    if (rc) return rc;
    rc = jinja_json(d, request, n, &root, err);
    jinja_value *all = jinja_dict(d), *list = jinja_list(d), *messages = jinja_get(root, "messages"),
                *tools = jinja_get(root, "tools"), *more = jinja_get(root, "chat_template_kwargs");
    if (!rc && !jinja_is_list(messages)) rc = chat__fail(err, MLA_ERR_CONFIG, "messages: not a list");
    for (size_t i = 0; !rc && i < jinja_count(messages); i++) {
        jinja_value *m = jinja_at(messages, i);
        const char *role = jinja_text(jinja_get(m, "role"), NULL);
        if (!jinja_is_dict(m) || !role) rc = chat__fail(err, MLA_ERR_CONFIG, "messages: one has no role");
        else if (!strcmp(role, "developer")) jinja_put(d, m, "role", jinja_string(d, "system", 6));
        if (!rc) jinja_put(d, m, "content", chat__content(d, jinja_get(m, "content")));
        if (!rc && objects) chat__arguments(d, jinja_get(m, "tool_calls"));
        if (!rc) jinja_append(d, list, chat__typed_value(d, own, m));
    }
    jinja_put(d, all, "messages", list);
    chat__variables(d, all, options);
    if (jinja_is_list(tools) && jinja_count(tools) && !options->calls_nothing)
        jinja_put(d, all, "tools", chat__typed_value(d, own, tools));
    for (size_t i = 0; jinja_is_dict(more) && i < jinja_count(more); i++) {
        const char *key = jinja_key(more, i);
        jinja_value *of = jinja_get(more, key);
        if (of) jinja_put(d, all, key, chat__typed_value(d, own, of)); /* NULL: a name with a NUL in it */
    }
    if (!rc) rc = chat__run(text, own, d, all, options->most, err);
    jinja_data_destroy(d);
    return rc;
}

mla_result chat_render_request(chat_tokens *text, const chat_own *own, const char *request, size_t n,
                               const chat_options *options, mla_error *err) {
    mla_error other;
    const mla_result rc = chat__request(text, own, request, n, options, 1, err),
                     again = rc == MLA_ERR_CONFIG ? chat__request(text, own, request, n, options, 0, &other) : rc;
    if (again != MLA_ERR_MEMORY || rc == again) return again ? rc : MLA_OK;
    if (err) *err = other;
    return again;
}

int chat_is_thinking(const chat_tokens *text, const tokenizer *t) {
    static const char want[] = "<think>";
    size_t left = sizeof want - 1, n;
    for (size_t i = text->n; i-- > 0;) {
        const char *bytes = tokenizer_bytes(t, text->ids[i], &n);
        while (bytes && n-- > 0) {
            const char c = bytes[n];
            if (left == sizeof want - 1 && strchr(" \t\r\n", c) && c) continue;
            if (c != want[left - 1]) return 0;
            if (--left == 0) return 1;
        }
    }
    return 0;
}

#endif /* CHAT_IMPLEMENTATION */
