/* dialog.h - a conversation on the terminal: questions, answers, commands such as /save; what fits the context.

USE
   In exactly one file:      #define DIALOG_IMPLEMENTATION
                             #include "dialog.h"
   In all others:            #include "dialog.h"    (language.h, line.h, sink.h and what they ask for must be
                             implemented somewhere)

   dialog_desc desc = {.language = l, .ctx = 4096, .n = INT_MAX, .write = write, .report = report, .user = &mine};
   dialog *d = dialog_open(&desc);   ... open the model ...   status = dialog_run(d, NULL);   dialog_close(d);

WHO RUNS IT    The hooks of the desc. They get the whole conversation each time, of which what was run last time may be
               a begin: what both have in common need not be run again.
ERRORS         End the program by options_fail.
   SPDX-License-Identifier: MIT */

#ifndef DIALOG_H
#define DIALOG_H

#include "language.h"
#include "line.h"
#include "sink.h"

#ifndef DIALOG_API
#define DIALOG_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct dialog dialog;
typedef struct dialog_desc {
    language *language;
    const char *system; /* a system prompt; NULL: none */
    const char *source; /* a file with a chat template in Jinja; NULL: the model's */
    const char *tools;  /* a file with a list in JSON; NULL: none */
    int think;          /* the answer shall begin with thoughts */
    int ctx, n;         /* room for tokens; most of an answer */
    void *user;
    void (*read)(void *user, const chat_tokens *text); /* runs a conversation; NULL: write does */
    /* Up to so many tokens behind it, to made and to out; language->eos_id ends it, too. rate: tokens/s. */
    sink_ending (*write)(void *user, const chat_tokens *text, int most, chat_tokens *made, sink *out, double *rate);
    void (*report)(void *user); /* /stats; NULL: there are none */
} dialog_desc;

/* Reads template and tools. */
DIALOG_API dialog *dialog_open(const dialog_desc *of);
/* Until the end of standard input. stop: strings that end an answer; NULL: none. Gives the exit status. */
DIALOG_API int dialog_run(dialog *d, stop_scan *stop);
DIALOG_API void dialog_close(dialog *d);
/* Behind a question, of a cache with room for snapshots: where layers have states, one to come back to. */
DIALOG_API void dialog_keep_states(mla_cache *cache);

#ifdef __cplusplus
}
#endif
#endif /* DIALOG_H */

/* ================================================================================================================== */
#if defined DIALOG_IMPLEMENTATION && !defined DIALOG_IMPLEMENTED
#define DIALOG_IMPLEMENTED

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct dlg__turn {
    text_buffer question, answer; /* the answer as it was shown, with the thoughts */
    chat_tokens ids;              /* of the answer, as they were generated */
    int answered;
} dlg__turn;

struct dialog {
    dialog_desc of;
    chat_options options;
    chat_template style;
    text_buffer tools, system;
    dlg__turn *turns;
    size_t n, capacity;
    chat_tokens text, made;
    sink out;
    line_editor *line;
    size_t longest;   /* bytes of a token */
    int failed, over; /* over: the text has more bytes than the context's tokens can stand for */
};

static void dlg__drop_turn(dialog *d, size_t i) {
    free(d->turns[i].question.data), free(d->turns[i].answer.data), free(d->turns[i].ids.ids);
    memmove(d->turns + i, d->turns + i + 1, (--d->n - i) * sizeof *d->turns);
}

static void dlg__add_utf8(text_buffer *b, const char *bytes, size_t n) { /* bytes that are no UTF-8 become U+FFFD */
    tokenizer_stream utf8;
    memset(&utf8, 0, sizeof utf8);
    char *out = sink_room(b, 3 * (n + 4) + 12);
    size_t used = tokenizer_stream_push(&utf8, bytes, n, out);
    used += tokenizer_stream_end(&utf8, out + used);
    b->data[b->n += used] = 0;
}

static dlg__turn *dlg__add_turn(dialog *d, const char *question, size_t n) {
    if (d->n == d->capacity) {
        d->capacity = 2 * d->capacity + 16;
        if (!(d->turns = (dlg__turn *)realloc(d->turns, d->capacity * sizeof *d->turns)))
            options_fail(1, "out of memory");
    }
    dlg__turn *t = &d->turns[d->n++];
    memset(t, 0, sizeof *t);
    dlg__add_utf8(&t->question, question, n);
    return t;
}

/* An answer as a message: what is in <think> ... </think> at its begin are the thoughts, also without an end. */
static chat_message dlg__answer_message(const dlg__turn *t) {
    const char *all = t->answer.data ? t->answer.data : "", *begin = all + strspn(all, " \t\r\n");
    chat_message m = {"assistant", all, t->answer.n, NULL, 0};
    if (strncmp(begin, "<think>", 7)) return m;
    const char *end = strstr(begin, "</think>");
    m.thoughts = begin + 7, m.content = end ? end + 8 : all + t->answer.n;
    m.n_thoughts = (size_t)((end ? end : m.content) - m.thoughts), m.n = t->answer.n - (size_t)(m.content - all);
    return m;
}

static const char *dlg__template(const dialog *d) { return d->of.source ? d->of.source : "the chat template"; }

/* Are the tools no list in JSON? */
static int dlg__are_wrong(const dialog *d, mla_error *error) {
    jinja_data *data;
    jinja_value *tools = NULL;
    if (jinja_data_create(&data, error)) return 0;
    int wrong = jinja_json(data, d->tools.data, d->tools.n, &tools, error) == MLA_ERR_CONFIG;
    if (tools && !jinja_is_list(tools)) wrong = 1, snprintf(error->text, sizeof error->text, "the tools are no list");
    jinja_data_destroy(data);
    return wrong;
}

/* The tokens of the conversation, all anew: dropping thoughts, or a turn, changes what is before. */
static void dlg__compose(dialog *d) {
    mla_error error;
    const tokenizer *t = d->of.language->tokenizer;
    const char *system = d->system.data ? d->system.data : "";
    mla_result rc = MLA_OK;
    d->text.n = 0;
    if (d->of.language->own) {
        chat_message *m = (chat_message *)malloc((2 * d->n + 1) * sizeof *m);
        size_t n = 0;
        if (!m) options_fail(1, "out of memory");
        if (d->system.n) m[n++] = (chat_message){"system", system, d->system.n, NULL, 0};
        for (size_t i = 0; i < d->n; i++) {
            m[n++] = (chat_message){"user", d->turns[i].question.data, d->turns[i].question.n, NULL, 0};
            if (d->turns[i].answered) m[n++] = dlg__answer_message(&d->turns[i]);
        }
        d->options.most = d->longest * (size_t)d->of.ctx;
        rc = chat_render(&d->text, d->of.language->own, m, n, &d->options, &error);
        free(m);
        d->over = rc == MLA_ERR_ARGUMENT;
        if (d->over) return;
    }
    for (size_t i = 0; !d->of.language->own && !rc && i < d->n; i++) {
        const dlg__turn *u = &d->turns[i];
        rc = chat_turn(&d->text, &d->style, t, i ? NULL : system, u->question.data, u->question.n, &error);
        if (!rc && u->answered) rc = chat_answer(&d->text, &d->style, u->ids.ids, u->ids.n, &error);
    }
    if (rc && d->of.tools && dlg__are_wrong(d, &error)) options_fail(1, "--tools %s: %s", d->of.tools, error.text);
    if (rc || language_check(d->of.language, &d->text, &error)) options_fail(1, "%s", error.text);
    if (!d->text.n) options_fail(1, "--chat: %s makes nothing of the conversation", dlg__template(d));
}

/* Drops the oldest turns until the last question, and an answer of some length, fit. 0: not even that question does. */
static int dlg__fit(dialog *d) {
    const dialog_desc *o = &d->of;
    const size_t room = (size_t)o->ctx, quarter = room / 4, answer = (size_t)o->n < quarter ? (size_t)o->n : quarter;
    size_t dropped = 0;
    for (dlg__compose(d); (d->over || d->text.n + (answer ? answer : 1) > room) && d->n > 1; dropped++)
        dlg__drop_turn(d, 0), dlg__compose(d);
    if (dropped)
        options_say("(the context of %d tokens is full: the oldest %zu turn%s dropped)\n", o->ctx, dropped,
                    dropped > 1 ? "s are" : " is");
    return !d->over && d->text.n + 1 <= room;
}

/* Answers the last question. */
static void dlg__answer_turn(dialog *d) {
    const dialog_desc *o = &d->of;
    mla_error error;
    double rate = 0;
    sink_ending end = SINK_INTERRUPT;
    options_interrupted = 0, d->made.n = 0, d->out.kept.n = 0;
    if (!dlg__fit(d)) {
        if (d->over)
            fprintf(stderr, "%s: %s makes a text longer than any that fits the context of %d tokens (--ctx)\n",
                    options_here.name, dlg__template(d), o->ctx);
        else
            fprintf(stderr,
                    "%s: the question takes the conversation to %zu tokens, and the context has room for %d: --ctx "
                    "makes it larger\n",
                    options_here.name, d->text.n, o->ctx);
        dlg__drop_turn(d, d->n - 1);
        d->failed = !line_is_terminal(d->line);
        return;
    }
    if (o->read) o->read(o->user, &d->text);
    if (chat_is_thinking(&d->text, o->language->tokenizer)) {
        size_t n;
        const char *last = tokenizer_bytes(o->language->tokenizer, d->text.ids[d->text.n - 1], &n);
        const char *begin = n && last[n - 1] == '\n' ? "<think>\n" : "<think>";
        sink_utf8(&d->out, begin, strlen(begin), 0);
    }
    const int left = o->ctx - (int)d->text.n;
    end = o->write(o->user, &d->text, o->n < left ? o->n : left, &d->made, &d->out, &rate);
    sink_end(&d->out);
    dlg__turn *t = &d->turns[d->n - 1];
    if (end == SINK_INTERRUPT && d->made.n == 0) { /* as if it had not been asked */
        dlg__drop_turn(d, d->n - 1);
        return;
    }
    d->made.n -= end == SINK_EOS;
    if (chat_append(&t->ids, d->made.ids, d->made.n, &error)) options_fail(1, "%s", error.text);
    sink_add(&t->answer, d->out.kept.data ? d->out.kept.data : "", d->out.kept.n);
    t->answered = 1;
    if (end == SINK_LENGTH && left <= o->n)
        options_say("(the context of %d tokens is full: the answer ends here)\n", o->ctx);
    options_say("(%zu tokens, %.2f tokens/s)\n", d->made.n, rate);
}

static void dlg__save(const dialog *d, const char *path) {
    FILE *file = options_open(path, 1);
    const char *between = "[";
    if (file && d->system.n) {
        fputs("[{\"role\":\"system\",\"content\":", file), sink_json(file, d->system.data, d->system.n),
            fputs("}", file);
        between = ",\n";
    }
    for (size_t i = 0; file && i < d->n; i++, between = ",\n") {
        const dlg__turn *t = &d->turns[i];
        fprintf(file, "%s{\"role\":\"user\",\"content\":", between), sink_json(file, t->question.data, t->question.n);
        fputs("},\n{\"role\":\"assistant\",\"content\":", file);
        sink_json(file, t->answer.data ? t->answer.data : "", t->answer.n), fputs("}", file);
    }
    if (file) fputs(d->n || d->system.n ? "]\n" : "[]\n", file);
    const int failed = !file || ferror(file);
    if ((file && fclose(file)) || failed) fprintf(stderr, "cannot write %s: %s\n", path, options_why());
    else options_say("(saved)\n");
}

static int dlg__load_message(dialog *d, const json_value *message, size_t i) { /* 0: it does not dlg__fit */
    const char *role = json_string(json_get(message, "role"), NULL);
    size_t n;
    const char *content = json_string(json_get(message, "content"), &n);
    mla_error error;
    dlg__turn *last = d->n ? &d->turns[d->n - 1] : NULL;
    if (!role || !content) return 0;
    if (!strcmp(role, "system") && i == 0) sink_add(&d->system, content, n);
    else if (!strcmp(role, "user") && (!last || last->answered)) dlg__add_turn(d, content, n);
    else if (!strcmp(role, "assistant") && last && !last->answered) {
        last->answered = 1, dlg__add_utf8(&last->answer, content, n);
        if (d->of.language->own) return 1;
        const chat_message m = dlg__answer_message(last);
        if (d->style.end_think >= 0 && chat_append(&last->ids, &d->style.end_think, 1, &error))
            options_fail(1, "%s", error.text);
        if (chat_append_text(&last->ids, d->of.language->tokenizer, m.content, m.n, TOKENIZER_PLAIN, &error))
            options_fail(1, "%s", error.text);
    } else return 0;
    return 1;
}

static void dlg__clear(dialog *d) {
    while (d->n) dlg__drop_turn(d, d->n - 1);
}

/* A list of messages as /save writes it: a system prompt or none, questions and answers in turns. */
static void dlg__load(dialog *d, const char *path) {
    char *text = NULL;
    json_value *json = NULL;
    mla_error error;
    size_t i = 0, n = 0;
    if (checkpoint_read(&text, &n, path, (size_t)1 << 28, NULL, &error)) {
        fprintf(stderr, "%s\n", error.text);
        return;
    }
    if (json_parse(text, n, &json, &error)) fprintf(stderr, "%s: %s\n", path, error.text);
    else if (json_typeof(json) != JSON_ARRAY) fprintf(stderr, "%s: no list of messages\n", path);
    else {
        dlg__clear(d), d->system.n = 0;
        while (i < json_count(json) && dlg__load_message(d, json_at(json, i), i)) i++;
        if (d->n && !d->turns[d->n - 1].answered) dlg__drop_turn(d, d->n - 1);
        if (i < json_count(json))
            fprintf(stderr, "%s: message %zu is not what comes next in a conversation\n", path, i + 1);
        else options_say("(loaded: %zu turn%s)\n", d->n, d->n == 1 ? "" : "s");
    }
    json_free(json), free(text);
}

/* A line that is a command: / and a word. 1: it was one. */
static int dlg__obey(dialog *d, const char *line) {
    static const char *const names[] = {"/help", "/clear", "/system", "/regen", "/save", "/load", "/stats"};
    const size_t n = 1 + strspn(line + (line[0] == '/'), "abcdefghijklmnopqrstuvwxyz");
    const char *rest = line + n + (line[0] == '/' ? strspn(line + n, " \t") : 0);
    int k = 0;
    if (line[0] != '/' || n < 2 || (line[n] && !strchr(" \t", line[n]))) return 0;
    while (k < 7 && (strlen(names[k]) != n || strncmp(names[k], line, n))) k++;
    if (k >= 7) fprintf(stderr, "%.*s is no command: /help lists them\n", (int)n, line);
    else if (k == 0)
        fputs("/clear         forgets the conversation\n/system TEXT   another system prompt; the conversation stays\n"
              "/regen         another answer to the last question\n/save FILE     writes the conversation as JSON; "
              "/load FILE reads it\n"
              "/stats         times so far\nA backslash at the end of a line: the next one belongs to it.\n",
              stderr);
    else if (k == 1) dlg__clear(d), options_say("(cleared)\n");
    else if (k == 2) d->system.n = 0, dlg__add_utf8(&d->system, rest, strlen(rest));
    else if (k == 3 && d->n == 0) fputs("there is no question yet\n", stderr);
    else if (k == 3) {
        dlg__turn *t = &d->turns[d->n - 1];
        t->answered = 0, t->answer.n = t->ids.n = 0;
        dlg__answer_turn(d);
    } else if (k == 6 && d->of.report) d->of.report(d->of.user);
    else if (k == 6) fputs("there are none here\n", stderr);
    else if (!*rest) fprintf(stderr, "%s: which file?\n", names[k]);
    else if (k == 4) dlg__save(d, rest);
    else dlg__load(d, rest);
    return 1;
}

/* Where layers have states, to come back to: of the last turns. */
void dialog_keep_states(mla_cache *cache) {
    int oldest;
    if (mla_cache_snapshot(cache, NULL) != MLA_ERR_FULL || mla_cache_snapshots(cache, &oldest, 1) < 1) return;
    mla_cache_forget(cache, oldest);
    mla_cache_snapshot(cache, NULL);
}

void dialog_close(dialog *d) {
    dlg__clear(d);
    free(d->turns), free(d->text.ids), free(d->made.ids);
    sink_clear(&d->out), text_clear(&d->tools), text_clear(&d->system);
    line_destroy(d->line), free(d);
}
dialog *dialog_open(const dialog_desc *of) {
    dialog *d = (dialog *)options_need(calloc(1, sizeof *d));
    language *l = of->language;
    mla_error error;
    d->of = *of;
    if (of->tools) sink_read(&d->tools, of->tools);
    if (language_chat(l, of->source, of->tools != NULL, &error)) options_fail(1, "--chat: %s", error.text);
    d->style = l->style, d->options.bos = l->bos, d->options.eos = l->eos;
    const int thinks = d->style.style == CHAT_R1 || d->style.style == CHAT_V31;
    if (of->think &&
        (l->own ? !chat_mentions(l->own, "enable_thinking") && !chat_mentions(l->own, "thinking") : !thinks))
        options_fail(1,
                     l->own ? "--think: %s has neither thinking nor enable_thinking"
                            : "--think: the model's tokenizer has no <think>",
                     dlg__template(d));
    if (of->tools && (!l->own || !chat_mentions(l->own, "tools")))
        options_fail(1, "--tools: %s knows no tools", dlg__template(d));
    if (of->think) d->style.thinks = 1, d->options.think = 1;
    for (int i = 0; i < tokenizer_size(l->tokenizer); i++) {
        size_t n;
        if (tokenizer_bytes(l->tokenizer, i, &n) && n > d->longest) d->longest = n;
    }
    if (of->tools) d->options.tools = d->tools.data, d->options.n_tools = d->tools.n;
    if (of->system) dlg__add_utf8(&d->system, of->system, strlen(of->system));
    d->line = (line_editor *)options_need(line_create(0, 1));
    return d;
}
int dialog_run(dialog *d, stop_scan *stop) {
    const language *l = d->of.language;
    const char *text;
    size_t n;
    d->out.tokenizer = l->tokenizer, d->out.stop = stop, d->out.print = d->out.keep = 1;
    options_say("%s%s chat template, room for %d tokens%s\n",
                d->of.source ? d->of.source
                : l->own     ? "the model's own"
                             : chat_style_name(d->style.style),
                d->of.source ? " as the"
                : l->own     ? ""
                             : "'s",
                d->of.ctx, line_is_terminal(d->line) ? "; /help; Ctrl-C stops an answer, Ctrl-D ends" : "");
    while (!d->failed) {
        options_interrupted = 0;
        options_flush();
        const line_result got = line_read(d->line, "> ", &text, &n);
        if (got == LINE_ERROR) options_fail(1, "cannot read standard input: %s", strerror(errno));
        if (got == LINE_INTERRUPT && (n == 0 || !line_is_terminal(d->line))) return 130;
        if (got == LINE_END) break;
        if (got == LINE_INTERRUPT || n == 0 || dlg__obey(d, text)) continue;
        dlg__add_turn(d, text, n);
        dlg__answer_turn(d);
    }
    options_flush();
    return d->failed;
}

#endif /* DIALOG_IMPLEMENTATION */
