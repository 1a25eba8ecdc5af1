/* language.h - what a model has beside its weights to read and write texts: tokenizer, chat template, the tokens that
   end an answer, how it wants to be sampled. From a directory of Hugging Face or a GGUF file.

USE
   In exactly one file:      #define LANGUAGE_IMPLEMENTATION
                             #include "language.h"
   In all others:            #include "language.h"    (checkpoint.h, tokenizer.h, sampler.h, jinja.h and chat.h must be
                             implemented somewhere in the program)

   language_files files = {.model = "DeepSeek-V2-Lite"};
   if (language_open(&l, &files, checkpoint, &error) || language_encode(&ids, l, text, n, &error)) puts(error.text);
   if (language_chat(l, NULL, 0, &error) == MLA_OK) ... l->own, l->style ...    language_close(l);
   SPDX-License-Identifier: MIT */

#ifndef LANGUAGE_H
#define LANGUAGE_H

#include "checkpoint.h"
#include "gguf.h"
#include "tokenizer.h"
#include "sampler.h"
#include "chat.h"

#ifndef LANGUAGE_API
#define LANGUAGE_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct language_files {
    const char *model;     /* a directory or a GGUF file; NULL: none, there is a tokenizer */
    const char *tokenizer; /* a file in place of the model's; NULL: the model's */
    int optional; /* 1: without tokenizer.json or tiktoken.model in the directory *out is NULL, and all is well */
} language_files;

typedef struct language {
    language_files files;
    const checkpoint *c; /* NULL: only the tokenizer is used */
    tokenizer *tokenizer;
    json_value *config; /* tokenizer_config.json; NULL: there is none */
    /* by language_chat */
    chat_own *own;       /* the model's own template; NULL: style */
    chat_template style; /* one of DeepSeek's */
    char *source;        /* of own; NULL */
    char *bos, *eos;     /* what these are to the template; NULL: nothing */
    int eos_id;          /* ends an answer, beside the checkpoint's eos_token_id; -1: none */
} language;

/* Opens the tokenizer. c: the model's checkpoint, which must outlive it, or NULL if only tokens are asked for (then no
   weight is read of a GGUF file either). The strings of files must outlive it, too. Errors: those of tokenizer_open. */
LANGUAGE_API mla_result language_open(language **out, const language_files *files, const checkpoint *c, mla_error *err);
LANGUAGE_API void language_close(language *l); /* NULL is fine */
/* Appends a text [n] as the model expects it: with a begin of sentence if the tokenizer's post-processor or
   tokenizer_config.json adds one. Errors: MEMORY; CONFIG: a token that is not in the model's vocabulary. */
LANGUAGE_API mla_result language_encode(chat_tokens *ids, const language *l, const char *text, size_t n,
                                        mla_error *err);
/* Are all of these in the model's vocabulary? Error: CONFIG. */
LANGUAGE_API mla_result language_check(const language *l, const chat_tokens *ids, mla_error *err);
/* What these files have that is passed over or does not fit, each by a call of options_say. Both may be NULL. */
LANGUAGE_API void language_notes(const language *l, const checkpoint *c, void (*say)(const char *format, ...));
/* The chat template: of that file, else the model's own (of several the one for tools, if asked), else one of
   DeepSeek's by the tokens that there are. Errors: those of chat_open and chat_detect; ARGUMENT, the file
   cannot be read. */
LANGUAGE_API mla_result language_chat(language *l, const char *file, int tools, mla_error *err);
/* What generation_config.json says of sampling if do_sample is true; else *d stays. Error: CONFIG, a value that cannot
   be. */
LANGUAGE_API mla_result language_sampling(const language *l, sampler_desc *d, mla_error *err);

#ifdef __cplusplus
}
#endif
#endif /* LANGUAGE_H */

/* ================================================================================================================== */
#if defined LANGUAGE_IMPLEMENTATION && !defined LANGUAGE_IMPLEMENTED
#define LANGUAGE_IMPLEMENTED

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined __GNUC__ && !defined __clang__
__attribute__((format(gnu_printf, 3, 4)))
#endif
static mla_result
lang__fail(mla_error *err, mla_result code, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        err->code = code;
    }
    return code;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static char *lang__copy(const char *bytes, size_t n) { /* with a NUL behind it; NULL: no memory */
    char *copy = (char *)malloc(n + 1);
    if (copy) memcpy(copy, bytes, n), copy[n] = 0;
    return copy;
}

/* DIR/name, DIR being the directory that path is or, as a file, is in; NULL: no memory. */
static char *lang__beside(const char *path, int is_file, const char *name) {
    const char *slash = strrchr(path, '/');
    const size_t n = is_file ? (slash ? (size_t)(slash - path) + 1 : 0) : strlen(path);
    char *out = (char *)malloc(n + strlen(name) + 2);
    if (!out) return NULL;
    memcpy(out, path, n);
    if (n && out[n - 1] != '/') out[n] = '/', memcpy(out + n + 1, name, strlen(name) + 1);
    else memcpy(out + n, name, strlen(name) + 1);
    return out;
}

/* A file's bytes, with a NUL behind them. *text stays NULL if there is no such file and it need not be there. */
static mla_result lang__read(char **text, size_t *n, const char *path, int needed, mla_error *err) {
    int missing = 0;
    *text = NULL, *n = 0;
    if (!path) return lang__fail(err, MLA_ERR_MEMORY, "out of memory");
    const mla_result rc = checkpoint_read(text, n, path, (size_t)1 << 24, &missing, err);
    return missing && !needed ? MLA_OK : rc;
}

/* *out stays NULL if there is no such file. path is freed. */
static mla_result lang__json(json_value **out, char *path, mla_error *err) {
    mla_error why;
    char *text;
    size_t n;
    *out = NULL;
    mla_result rc = lang__read(&text, &n, path, 0, err);
    if (!rc && text && (rc = json_parse(text, n, out, &why)) != MLA_OK)
        lang__fail(err, rc, "%.100s: %.120s", path, why.text);
    free(text), free(path);
    return rc;
}

/* ---- the tokenizer ----------------------------------------------------------------------------------------------- */

static tokenizer_strings lang__list(const gguf *g, const char *name) {
    const gguf_key *k = gguf_find_key(g, name);
    tokenizer_strings list = {NULL, 0, 0};
    if (k && k->is_array && k->type == GGUF_STRING) list.data = k->data, list.bytes = k->bytes, list.count = k->count;
    return list;
}
static const void *lang__numbers(const gguf *g, const char *name, gguf_type type, size_t count) {
    const gguf_key *k = gguf_find_key(g, name);
    return k && k->is_array && k->type == type && k->count == count ? k->data : NULL;
}
static int lang__id(const gguf *g, const char *name) { /* or a flag; -1: no such key */
    int64_t i;
    return gguf_integer(gguf_find_key(g, name), 0, &i) && i >= 0 && i < INT_MAX ? (int)i : -1;
}
static char *lang__text(const gguf *g, const char *name, int *failed) { /* NULL: no such key, or no memory */
    size_t n = 0;
    const char *text = gguf_string(gguf_find_key(g, name), &n);
    char *copy = text ? lang__copy(text, n) : NULL;
    *failed |= text && !copy;
    return copy;
}

/* The tokenizer inside a GGUF file: its keys as they lie there. */
static mla_result lang__gguf(tokenizer **out, const gguf *g, const char *file, mla_error *err) {
    int failed = 0;
    char *model = lang__text(g, "tokenizer.ggml.model", &failed), *pre = lang__text(g, "tokenizer.ggml.pre", &failed);
    tokenizer_gguf k;
    mla_error why;
    mla_result rc;
    memset(&k, 0, sizeof k);
    k.model = model, k.pre = pre;
    k.tokens = lang__list(g, "tokenizer.ggml.tokens"), k.merges = lang__list(g, "tokenizer.ggml.merges");
    k.scores = lang__numbers(g, "tokenizer.ggml.scores", GGUF_F32, k.tokens.count);
    k.types = lang__numbers(g, "tokenizer.ggml.token_type", GGUF_I32, k.tokens.count);
    k.bos = lang__id(g, "tokenizer.ggml.bos_token_id"), k.eos = lang__id(g, "tokenizer.ggml.eos_token_id");
    k.unk = lang__id(g, "tokenizer.ggml.unknown_token_id");
    k.add_bos = lang__id(g, "tokenizer.ggml.add_bos_token"), k.add_eos = lang__id(g, "tokenizer.ggml.add_eos_token");
    k.add_space_prefix = lang__id(g, "tokenizer.ggml.add_space_prefix");
    if (failed) rc = lang__fail(err, MLA_ERR_MEMORY, "%.120s: out of memory", file);
    else if (!k.model || !k.tokens.count)
        rc = lang__fail(err, MLA_ERR_CONFIG, "%.120s has no tokenizer inside: --tokenizer FILE gives one", file);
    else if ((rc = tokenizer_from_gguf(out, &k, file, &why)) != MLA_OK)
        lang__fail(err, rc, "%.190s: --tokenizer FILE gives another", why.text);
    free(model), free(pre);
    return rc;
}

static mla_result lang__tokenizer(language *l, mla_error *err) {
    static const char *const names[] = {"tokenizer.json", "tiktoken.model"};
    char *path = NULL, *file = NULL;
    gguf *g = NULL;
    mla_error ignored;
    mla_result rc;
    if (l->files.tokenizer) return tokenizer_open(&l->tokenizer, l->files.tokenizer, err);
    for (int i = 0; i < 2; i++) {
        int missing = 0;
        if (!(path = lang__beside(l->files.model, 0, names[i])))
            return lang__fail(err, MLA_ERR_MEMORY, "out of memory");
        checkpoint_read(NULL, NULL, path, SIZE_MAX, &missing, &ignored);
        rc = missing ? MLA_OK : tokenizer_open(&l->tokenizer, path, err);
        free(path);
        if (!missing) return rc;
    }
    if (l->files.optional) return MLA_OK;
    if (l->c && l->c->gguf) return lang__gguf(&l->tokenizer, l->c->gguf, l->files.model, err);
    if (l->c || gguf_locate(&file, l->files.model, &ignored) || !file)
        return tokenizer_open(&l->tokenizer, l->files.model, err);
    rc = gguf_open(&g, file, err);
    if (!rc) rc = lang__gguf(&l->tokenizer, g, l->files.model, err);
    gguf_close(g), free(file);
    return rc;
}

/* A file of the tokenizer's directory. */
static char *lang__of_tokenizer(const language *l, const char *name) {
    return l->files.tokenizer ? lang__beside(l->files.tokenizer, 1, name) : lang__beside(l->files.model, 0, name);
}

mla_result language_open(language **out, const language_files *files, const checkpoint *c, mla_error *err) {
    language *l = (language *)calloc(1, sizeof *l);
    *out = NULL;
    if (!l) return lang__fail(err, MLA_ERR_MEMORY, "out of memory for the tokenizer");
    if (files->model && !*files->model) {
        free(l);
        return lang__fail(err, MLA_ERR_ARGUMENT, "the path of the model is empty");
    }
    l->files = *files, l->c = c, l->eos_id = -1;
    mla_result rc = lang__tokenizer(l, err);
    if (!rc) rc = lang__json(&l->config, lang__of_tokenizer(l, "tokenizer_config.json"), err);
    if (rc || !l->tokenizer) language_close(l);
    else *out = l;
    return rc;
}

void language_close(language *l) {
    if (!l) return;
    chat_close(l->own), tokenizer_close(l->tokenizer), json_free(l->config);
    free(l->source), free(l->bos), free(l->eos), free(l);
}

static mla_result lang__model(const language *l, mla_error *err) {
    return l->c ? MLA_OK : lang__fail(err, MLA_ERR_ARGUMENT, "language_open was given no checkpoint");
}

mla_result language_check(const language *l, const chat_tokens *ids, mla_error *err) {
    if (lang__model(l, err)) return MLA_ERR_ARGUMENT;
    const int vocab = l->c->config.vocab_size;
    for (size_t i = 0; i < ids->n; i++)
        if (ids->ids[i] < 0 || ids->ids[i] >= vocab)
            return lang__fail(
                err, MLA_ERR_CONFIG,
                "the tokenizer's token %d is not in 0..%d, the model's vocabulary: they do not belong together",
                ids->ids[i], vocab - 1);
    return MLA_OK;
}

/* The chat_template of tokenizer_config.json: a string, or a list of named ones, of which tools have their own. */
static const char *lang__configured(const json_value *config, int tools, size_t *n) {
    const json_value *v = json_get(config, "chat_template"), *found = json_typeof(v) == JSON_STRING ? v : NULL;
    for (size_t i = 0; json_typeof(v) == JSON_ARRAY && i < json_count(v); i++) {
        const char *name = json_string(json_get(json_at(v, i), "name"), NULL);
        if (name && (!strcmp(name, "default") ? !found : tools && !strcmp(name, "tool_use")))
            found = json_get(json_at(v, i), "template");
    }
    return json_string(found, n);
}

void language_notes(const language *l, const checkpoint *c, void (*say)(const char *format, ...)) {
    const int size = l ? tokenizer_size(l->tokenizer) : 0, vocab = l && l->c ? l->c->config.vocab_size : INT_MAX;
    size_t n;
    if (c && c->misspelt) say("note: config.json has keys that mean nothing: %s\n", c->misspelt);
    if (size > vocab)
        say("note: the tokenizer has %d tokens and the model %d: texts with others than these will be refused\n", size,
            vocab);
    if (l && json_typeof(json_get(l->config, "chat_template")) != JSON_NULL && !lang__configured(l->config, 0, &n))
        say("note: tokenizer_config.json: chat_template is neither a text nor a list with one named default: it is "
            "passed over\n");
}

mla_result language_encode(chat_tokens *ids, const language *l, const char *text, size_t n, mla_error *err) {
    if (lang__model(l, err)) return MLA_ERR_ARGUMENT;
    const json_value *add = json_get(l->config, "add_bos_token");
    const size_t begin = ids->n;
    const int bos = l->c->bos_token_id;
    mla_result rc = chat_append_text(ids, l->tokenizer, text, n, TOKENIZER_SPECIAL, err);
    if (!rc && json_typeof(add) == JSON_BOOL && json_bool(add) && bos >= 0 &&
        (ids->n == begin || ids->ids[begin] != bos) && (rc = chat_append(ids, &bos, 1, err)) == MLA_OK) {
        memmove(ids->ids + begin + 1, ids->ids + begin, (ids->n - 1 - begin) * sizeof bos);
        ids->ids[begin] = bos; /* it was appended to make room; its place is in front */
    }
    return rc ? rc : language_check(l, ids, err);
}

/* ---- chat and sampling ------------------------------------------------------------------------------------------- */

/* What tokenizer_config.json calls bos_token or eos_token: a string, or an object with one; else that token. 0: no
   memory. */
static int lang__token(char **out, const language *l, const char *key, int id) {
    const json_value *v = json_get(l->config, key), *text = json_typeof(v) == JSON_OBJECT ? json_get(v, "content") : v;
    size_t n = 0;
    const char *bytes = json_typeof(text) == JSON_STRING ? json_string(text, &n)
                        : id >= 0                        ? tokenizer_bytes(l->tokenizer, id, &n)
                                                         : NULL;
    *out = bytes ? lang__copy(bytes, n) : NULL;
    return *out || !bytes;
}

static mla_result lang__chat(language *l, const char *file, int tools, mla_error *err) {
    const char *name = "chat_template.jinja", *own = NULL;
    char *beside = lang__of_tokenizer(l, name);
    size_t n = 0;
    mla_result rc = lang__read(&l->source, &n, file ? file : beside, file != NULL, err);
    free(beside);
    if (file) name = strrchr(file, '/') ? strrchr(file, '/') + 1 : file;
    if (!rc && !l->source && l->c->gguf)
        own = gguf_string(gguf_find_key(l->c->gguf, "tokenizer.chat_template"), &n), name = "tokenizer.chat_template";
    else if (!rc && !l->source)
        own = lang__configured(l->config, tools, &n), name = "tokenizer_config.json: chat_template";
    if (own && !(l->source = lang__copy(own, n))) rc = lang__fail(err, MLA_ERR_MEMORY, "%s: out of memory", name);
    if (!rc && l->source) rc = chat_open(&l->own, l->source, n, name, l->tokenizer, err);
    if (!rc && !l->own) rc = chat_detect(&l->style, l->tokenizer, l->c->bos_token_id, err);
    if (rc) return rc;
    if (!lang__token(&l->bos, l, "bos_token", l->c->bos_token_id) ||
        !lang__token(&l->eos, l, "eos_token", l->c->n_eos ? l->c->eos_token_id[0] : -1))
        return lang__fail(err, MLA_ERR_MEMORY, "%s: out of memory", name);
    l->eos_id = !l->own ? l->style.eos : l->eos && *l->eos ? tokenizer_find(l->tokenizer, l->eos) : -1;
    return MLA_OK;
}
static void lang__no_chat(language *l) {
    chat_close(l->own), free(l->source), free(l->bos), free(l->eos);
    l->own = NULL, l->source = l->bos = l->eos = NULL;
}
mla_result language_chat(language *l, const char *file, int tools, mla_error *err) {
    if (lang__model(l, err)) return MLA_ERR_ARGUMENT;
    lang__no_chat(l);
    const mla_result rc = lang__chat(l, file, tools, err);
    if (rc) lang__no_chat(l);
    return rc;
}

mla_result language_sampling(const language *l, sampler_desc *d, mla_error *err) {
    const struct {
        const char *key;
        double *value, missing, low, high;
    } keys[] = {{"temperature", &d->temperature, 1, 0, 1e6},
                {"top_p", &d->top_p, 1, 1e-9, 1},
                {"min_p", &d->min_p, 0, 0, 1},
                {"repetition_penalty", &d->repeat_penalty, 1, 0.01, 100}};
    json_value *json;
    int64_t top_k = 0;
    mla_result rc = lang__json(&json, lang__beside(l->files.model, 0, "generation_config.json"), err);
    if (rc || !json_bool(json_get(json, "do_sample"))) {
        json_free(json);
        return rc;
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys && !rc; i++) {
        const json_value *v = json_get(json, keys[i].key);
        const double value = json_typeof(v) == JSON_NULL ? keys[i].missing : json_number(v);
        if ((json_typeof(v) != JSON_NULL && json_typeof(v) != JSON_NUMBER) ||
            !(value >= keys[i].low && value <= keys[i].high))
            rc = lang__fail(err, MLA_ERR_CONFIG, "generation_config.json: %s is not in %g..%g", keys[i].key,
                            keys[i].low, keys[i].high);
        else *keys[i].value = value;
    }
    const json_value *k = json_get(json, "top_k");
    if (!rc && json_typeof(k) != JSON_NULL && (!json_integer(k, &top_k) || top_k < -1 || top_k > INT_MAX))
        rc = lang__fail(err, MLA_ERR_CONFIG, "generation_config.json: top_k is not in -1..%d", INT_MAX);
    d->top_k = top_k > 0 ? (int)top_k : 0;
    json_free(json);
    return rc;
}

#endif /* LANGUAGE_IMPLEMENTATION */
