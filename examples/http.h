/* http.h - an HTTP/1.1 server on POSIX sockets: one thread for all connections, answers from any thread.

USE
   In exactly one file:      #define HTTP_IMPLEMENTATION
                             #include "http.h"               (cc -pthread)
   In all others:            #include "http.h"

   void hello(void *user, http_exchange *x) { http_reply(x, 200, "text/plain", NULL, "Hello\n", 6); }

   http_desc how;   memset(&how, 0, sizeof how);   how.port = 8080, how.request = hello, how.clock = seconds;
   if (http_open(&server, &how, error)) puts(error);
   http_run(server);   ...  http_stop(server) ends it, from any thread or a signal's handler;   http_close(server);

THREADS        http_run polls all connections in the thread that calls it, and calls `request` with each whole request.
               The exchange then belongs to the program until it calls http_reply or http_end, now or later, from any
               thread. What is written goes out while the program does something else.
CLIENTS        Keep-alive, pipelined requests (answered one after the other), bodies with a length or in chunks,
               Expect: 100-continue, HEAD, HTTP/1.0. A client that ends what it sends while an exchange is open may
               still listen: what is written tells, and as long as nothing is, a 100 Continue, to which the system of a
               client that is gone (http_gone) says so. HTTP/1.0 has none: there such a client is gone.
LIMITS         Bytes of a head and a body (431, 413), and seconds for the head, for the body, for a client that reads
               nothing, for a connection that asks nothing. A client that goes over a limit costs no other one anything.
IDLE           Connections that were silent for a second are polled fifty times a second at most, ten thousand of
               them eight times: they cost a hundredth of a core, whatever the others do, and some 200 bytes each.
PARSER         http_parse is a function of bytes alone. Strict where proxies and servers have disagreed: no spaces
               before a colon, no folded lines, no bare line feeds, one length, which is digits, and not with chunks.

CONTENTS       >>http (the API)   then >>parser >>connections >>answers >>requests >>loop >>listening
   SPDX-License-Identifier: MIT */

#ifndef HTTP_H
#define HTTP_H

#include <stddef.h>

#ifndef HTTP_API
#define HTTP_API extern
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- >>http ------------------------------------------------------------------------------------------------------ */

enum { HTTP_MAX_HEADERS = 100 };

/* A request's head. Pointers go into the bytes given to http_parse, which puts NULs behind each part. */
typedef struct http_head {
    char *method, *path, *query; /* of the target, as sent; query: behind the ?, "" if there is none */
    char *authority;             /* of a target as proxies are sent them, http://AUTHORITY/PATH; else NULL */
    char *name[HTTP_MAX_HEADERS], *value[HTTP_MAX_HEADERS];
    int n_headers;
    int minor;      /* HTTP/1.minor */
    int keep_alive; /* what the client asks for */
    int chunked;    /* the body comes in chunks */
    int expects;    /* ... after a 100 Continue */
    size_t length;  /* of the body, if not chunked */
} http_head;

/* Parses a head of n bytes, which end with an empty line. 0: done; else the status to refuse it with, and *why says
   what is wrong. */
HTTP_API int http_parse(http_head *head, char *bytes, size_t n, const char **why);
HTTP_API const char *http_find(const http_head *head, const char *name); /* a header's value, by its name in lower case;
                                                                            NULL: none */

typedef struct http_chunks { /* zero-initialise: where a body in chunks is being read */
    int state;
    size_t left;
} http_chunks;

/* Reads bytes [n] of a body in chunks, and moves the content to their begin. Returns what was read, *content how many
   bytes of content that was, *ended 1 behind the last chunk; -1: these are no chunks. */
HTTP_API long http_unchunk(http_chunks *c, char *bytes, size_t n, size_t *content, int *ended);

typedef struct http_server http_server;
typedef struct http_exchange http_exchange; /* a request and its answer */

/* Zero means default. */
typedef struct http_desc {
    const char *host;                       /* an address in numbers, or "localhost"; NULL: 127.0.0.1 */
    int port;                               /* 0: one that is free, see http_port */
    int connections;                        /* most at a time; 0: what the process may open, less some; more get 503 */
    size_t max_head, max_body;              /* bytes; 0: 16 KB, 16 MB */
    double head_s, body_s, stall_s, idle_s; /* 0: 20, 120, 60, 600 seconds */
    double drain_s;                         /* http_stop waits so long for answers under way; 0: 30 */
    double (*clock)(void);                  /* seconds since anything */
    const char *headers;                    /* of every answer, each with its \r\n; NULL: none */
    void (*request)(void *user, http_exchange *x); /* by the thread of http_run: it must not take long */
    void *user;
} http_desc;

/* Listens. 0: done; else error [160] says what is wrong, such as a port that is in use. */
HTTP_API int http_open(http_server **out, const http_desc *desc, char *error);
HTTP_API int http_port(const http_server *s);
HTTP_API int http_count(const http_server *s); /* connections */
HTTP_API void http_run(http_server *s);        /* until http_stop */
HTTP_API void http_stop(http_server *s);  /* accepts nothing more, waits for answers under way, then http_run returns */
HTTP_API void http_close(http_server *s); /* after http_run and all exchanges; NULL is fine */

HTTP_API const http_head *http_request(const http_exchange *x);
HTTP_API const char *http_body(const http_exchange *x, size_t *n); /* ends with a NUL that does not count */

/* An answer in one piece, or in several. type NULL: no Content-Type; headers: more of them, each with its \r\n, or
   NULL. Without memory an answer is cut off. http_reply, http_end and http_drop: the exchange is no longer the
   program's. */
HTTP_API void http_reply(http_exchange *x, int status, const char *type, const char *headers, const char *bytes,
                         size_t n);
HTTP_API void http_begin(http_exchange *x, int status, const char *type, const char *headers);
HTTP_API void http_write(http_exchange *x, const char *bytes, size_t n);
HTTP_API void http_end(http_exchange *x);
HTTP_API void http_drop(http_exchange *x);      /* instead: closes the connection, the answer stays cut or unbegun */
HTTP_API int http_gone(http_exchange *x);       /* 1: nobody listens any more */
HTTP_API size_t http_waiting(http_exchange *x); /* bytes that the client has not taken yet */

#ifdef __cplusplus
}
#endif
#endif /* HTTP_H */

/* ================================================================================================================== */
#if defined HTTP_IMPLEMENTATION && !defined HTTP_IMPLEMENTED && !defined _WIN32
#define HTTP_IMPLEMENTED

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0 /* then the program ignores SIGPIPE */
#endif

/* The client has closed its side, though not all it has sent was read; 0: not known here. poll.h tells only GNU. */
#if defined POLLRDHUP
#define HTTP__RDHUP POLLRDHUP
#elif defined __linux__ && !defined __sparc__
#define HTTP__RDHUP 0x2000
#else
#define HTTP__RDHUP 0
#endif

/* ---- >>parser ---------------------------------------------------------------------------------------------------- */

static int http__is_token(unsigned char c) { /* RFC 9110, 5.6.2 */
    return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static int http__same(const char *a, const char *b) { /* but for case */
    for (; *a && *b; a++, b++) {
        const int x = *a >= 'A' && *a <= 'Z' ? *a + 32 : *a, y = *b >= 'A' && *b <= 'Z' ? *b + 32 : *b;
        if (x != y) return 0;
    }
    return *a == *b;
}

static int http__begins(const char *text, const char *with) { /* but for case; with: in lower case */
    for (; *with; text++, with++)
        if ((*text >= 'A' && *text <= 'Z' ? *text + 32 : *text) != *with) return 0;
    return 1;
}

/* Is a word, in lower case, one of a list with commas? */
static int http__lists(const char *list, const char *word) {
    const size_t n = strlen(word);
    for (const char *at = list; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        at += strspn(at, " \t");
        if (http__begins(at, word) && (!at[n] || strchr(", \t", at[n]))) return 1;
    }
    return 0;
}

const char *http_find(const http_head *head, const char *name) {
    for (int i = 0; i < head->n_headers; i++)
        if (http__same(head->name[i], name)) return head->value[i];
    return NULL;
}

static int http__refuse(const char **why, int status, const char *what) {
    *why = what;
    return status;
}

/* Sets the authority of a target [n] that has one. Gives the path, before which its seven or eight bytes make room for
   a slash that is missing; NULL: it is no such target. */
static char *http__absolute(http_head *head, char *target, size_t n) {
    const size_t scheme = n > 7 && http__begins(target, "http://")    ? 7
                          : n > 8 && http__begins(target, "https://") ? 8
                                                                      : 0;
    size_t length = 0;
    if (!scheme) return NULL;
    while (scheme + length < n && target[scheme + length] != '/' && target[scheme + length] != '?') length++;
    if (!length) return NULL;
    memmove(target, target + scheme, length);
    char *path = target + scheme + length;
    if (scheme + length == n || *path == '?') *--path = '/';
    target[length] = 0, head->authority = target;
    return path;
}

static int http__request_line(http_head *head, char *line, char *end, const char **why) {
    char *target = line, *version;
    while (target < end && http__is_token((unsigned char)*target)) target++;
    if (target == line || target == end || *target != ' ')
        return http__refuse(why, 400, "the request line is no method, target and version");
    head->method = line, *target++ = 0;
    for (version = target; version<end && * version> ' ' && *version < 127;) version++;
    char *path = *target == '/' ? target : http__absolute(head, target, (size_t)(version - target));
    if (version == end || *version != ' ' || !path)
        return http__refuse(why, 400, "the target of the request line is no path");
    *version++ = 0;
    if (end - version != 8 || memcmp(version, "HTTP/", 5) != 0)
        return http__refuse(why, 400, "the request line has no version of HTTP");
    if (memcmp(version, "HTTP/1.", 7) != 0 || version[7] < '0' || version[7] > '1')
        return http__refuse(why, 505, "only HTTP/1.0 and HTTP/1.1 are spoken here");
    head->minor = version[7] - '0';
    head->path = path, head->query = strchr(path, '?');
    if (head->query) *head->query++ = 0;
    else head->query = path + strlen(path);
    return 0;
}

static int http__header_line(http_head *head, char *line, char *end, const char **why) {
    char *colon = line;
    while (colon < end && http__is_token((unsigned char)*colon)) colon++;
    if (colon == line || colon == end || *colon != ':')
        return http__refuse(why, 400, "a header is no name, colon and value");
    char *value = colon + 1;
    while (value < end && (*value == ' ' || *value == '\t')) value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t')) end--;
    for (char *c = value; c < end; c++)
        if (((unsigned char)*c < 32 && *c != '\t') || *c == 127)
            return http__refuse(why, 400, "a header has a control character");
    if (head->n_headers == HTTP_MAX_HEADERS) return http__refuse(why, 431, "there are more than 100 headers");
    *colon = *end = 0;
    head->name[head->n_headers] = line, head->value[head->n_headers++] = value;
    return 0;
}

/* What the headers say of the body and the connection. */
static int http__framing(http_head *head, const char **why) {
    int lengths = 0, hosts = 0, coded = 0, closes = 0;
    head->keep_alive = head->minor > 0;
    for (int i = 0; i < head->n_headers; i++) {
        const char *name = head->name[i], *v = head->value[i];
        if (http__same(name, "host")) {
            if (head->authority && !http__same(head->authority, v))
                return http__refuse(why, 400, "Host is another one than the target's");
            hosts++;
        } else if (http__same(name, "connection"))
            closes |= http__lists(v, "close"), head->keep_alive |= http__lists(v, "keep-alive");
        else if (http__same(name, "expect")) {
            if (!http__same(v, "100-continue")) return http__refuse(why, 417, "Expect: only 100-continue is known");
            head->expects = 1;
        } else if (http__same(name, "transfer-encoding")) {
            if (!http__same(v, "chunked") || coded++)
                return http__refuse(why, 501, "Transfer-Encoding: only chunked is known");
            head->chunked = 1;
        } else if (http__same(name, "content-length")) {
            size_t n = 0;
            const char *c = v;
            for (; *c >= '0' && *c <= '9' && c - v < 18; c++) n = 10 * n + (size_t)(*c - '0');
            if (c == v || *c || lengths++) return http__refuse(why, 400, "Content-Length is not one number");
            head->length = n;
        }
    }
    if (closes) head->keep_alive = 0;
    if (lengths && head->chunked)
        return http__refuse(why, 400, "the request has both Content-Length and Transfer-Encoding");
    if (head->chunked && !head->minor) return http__refuse(why, 400, "HTTP/1.0 has no Transfer-Encoding");
    if (hosts > 1 || (!hosts && head->minor)) return http__refuse(why, 400, "the request does not have one Host");
    return 0;
}

int http_parse(http_head *head, char *bytes, size_t n, const char **why) {
    char *end = bytes + n, *line = bytes;
    int status = 0, first = 1;
    memset(head, 0, sizeof *head);
    *why = "";
    if (n > 1 && end[-1] == '\n' && end[-2] != '\r')
        return http__refuse(why, 400, "a line of the head does not end with CR LF");
    if (n < 4 || memcmp(end - 4, "\r\n\r\n", 4) != 0)
        return http__refuse(why, 400, "the head of the request does not end");
    while (!status && line < end - 2) {
        char *stop = (char *)memchr(line, '\r', (size_t)(end - line));
        if (!stop || stop[1] != '\n' || memchr(line, '\n', (size_t)(stop - line)) ||
            memchr(line, 0, (size_t)(stop - line)))
            return http__refuse(why, 400, "a line of the head does not end with CR LF");
        status = first ? http__request_line(head, line, stop, why) : http__header_line(head, line, stop, why);
        line = stop + 2, first = 0;
    }
    if (!status && first) return http__refuse(why, 400, "the request is empty");
    return status ? status : http__framing(head, why);
}

enum {
    HTTP__SIZE = 0,
    HTTP__EXTENSION,
    HTTP__SIZE_END,
    HTTP__DATA,
    HTTP__DATA_CR,
    HTTP__DATA_LF,
    HTTP__TRAILER,
    HTTP__TRAILER_LINE,
    HTTP__TRAILER_LF,
    HTTP__LAST_LF,
    HTTP__DIGIT
};

/* One byte that is not content; 0: it cannot stand there. */
static int http__chunk_byte(http_chunks *c, char byte) {
    const int digit = byte >= '0' && byte <= '9'                 ? byte - '0'
                      : (byte | 32) >= 'a' && (byte | 32) <= 'f' ? (byte | 32) - 'a' + 10
                                                                 : -1;
    switch (c->state) {
    case HTTP__SIZE:
    case HTTP__DIGIT:
        if (digit >= 0) {
            if (c->left >> 48) return 0;
            c->left = 16 * c->left + (size_t)digit, c->state = HTTP__DIGIT;
            return 1;
        }
        if (c->state == HTTP__SIZE || (byte != ';' && byte != '\r')) return 0;
        c->state = byte == ';' ? HTTP__EXTENSION : HTTP__SIZE_END;
        return 1;
    case HTTP__EXTENSION:
        if (byte == '\r') c->state = HTTP__SIZE_END;
        return byte != '\n';
    case HTTP__SIZE_END: c->state = c->left ? HTTP__DATA : HTTP__TRAILER; return byte == '\n';
    case HTTP__DATA_CR: c->state = HTTP__DATA_LF; return byte == '\r';
    case HTTP__DATA_LF: c->state = HTTP__SIZE; return byte == '\n';
    case HTTP__TRAILER: c->state = byte == '\r' ? HTTP__LAST_LF : HTTP__TRAILER_LINE; return byte != '\n';
    case HTTP__TRAILER_LINE:
        if (byte == '\r') c->state = HTTP__TRAILER_LF;
        return byte != '\n';
    case HTTP__TRAILER_LF: c->state = HTTP__TRAILER; return byte == '\n';
    default: return byte == '\n';
    }
}

long http_unchunk(http_chunks *c, char *bytes, size_t n, size_t *content, int *ended) {
    size_t at = 0, out = 0;
    *ended = 0;
    while (at < n && !*ended) {
        if (c->state == HTTP__DATA) {
            const size_t some = n - at < c->left ? n - at : c->left;
            memmove(bytes + out, bytes + at, some);
            out += some, at += some, c->left -= some;
            if (!c->left) c->state = HTTP__DATA_CR;
            continue;
        }
        const int last = c->state == HTTP__LAST_LF;
        if (!http__chunk_byte(c, bytes[at++])) return -1;
        *ended = last;
    }
    *content = out;
    return (long)at;
}

/* ---- >>connections ----------------------------------------------------------------------------------------------- */

typedef struct http__bytes {
    char *data;
    size_t n, room;
} http__bytes;

static int http__add(http__bytes *b, const char *bytes, size_t n) { /* 0: no memory */
    if (b->n + n + 1 > b->room) {
        const size_t room = 2 * (b->n + n) + 256;
        char *data = n < (size_t)-1 / 4 && b->n < (size_t)-1 / 4 ? (char *)realloc(b->data, room) : NULL;
        if (!data) return 0;
        b->data = data, b->room = room;
    }
    if (n) memcpy(b->data + b->n, bytes, n);
    b->data[b->n += n] = 0;
    return 1;
}
static void http__drop(http__bytes *b) {
    free(b->data);
    memset(b, 0, sizeof *b);
}
static void http__shift(http__bytes *b, size_t n) { /* the first n go */
    if (!n) return;
    memmove(b->data, b->data + n, b->n - n);
    if (!(b->n -= n)) http__drop(b);
}

typedef enum http__state { HTTP__HEAD, HTTP__BODY, HTTP__BUSY, HTTP__LINGER } http__state;

typedef struct http__connection {
    int fd, slot; /* slot: place among the connections */
    http__state state;
    int hot, closing, ended; /* closing: no further request; ended: the client sends nothing more */
    int ends;                /* nothing behind what waits in the socket */
    int answers;             /* x has written something */
    double asked;            /* when x came, or when a client that sends nothing more was asked whether it listens */
    http__bytes in;          /* what was read and not used yet */
    size_t seen;             /* bytes of in in which no head ends */
    http_exchange *x;        /* the request being read or answered */
    http__bytes out;
    size_t sent;       /* of out */
    double heard, due; /* when it sent or took something last; when it is late (head, body, linger) */
} http__connection;

struct http_exchange {
    http_server *server;
    http__connection *c; /* NULL: closed */
    http_head head;
    http__bytes text, body;
    http_chunks chunks;
    /* under the server's lock */
    http__bytes out;
    size_t unsent;                       /* of what the connection has taken over */
    int chunked, gone, over, dirty, cut; /* over: the program is done with it; cut: the answer is not whole */
    http_exchange *next;                 /* of those with something to send */
};

struct http_server {
    http_desc desc;
    int listener, wake[2], port;
    int stop;             /* set by http_stop, in any thread or a signal's handler: see http__stopped */
    http__connection **c; /* [n], the first n_hot of which were heard a moment ago */
    struct pollfd *polls; /* [2 + n] */
    int n, n_hot, room;
    pthread_mutex_t lock;
    http_exchange *dirty;
    double drained; /* http_stop was called: when what runs is cut off */
    double rests; /* no connection can be accepted until then, or until one closes: there are no files, or no memory */
};

static int http__stopped(const http_server *s) { return __atomic_load_n(&s->stop, __ATOMIC_RELAXED); }

static void http__place(http_server *s, http__connection *c, int slot) {
    s->c[slot] = c, c->slot = slot;
    s->polls[2 + slot].fd = c->fd;
}

/* Hot connections are in front. */
static void http__heat(http_server *s, http__connection *c, int hot) {
    if (c->hot == hot) return;
    const int to = hot ? s->n_hot : s->n_hot - 1, from = c->slot;
    const struct pollfd p = s->polls[2 + from];
    http__connection *other = s->c[to];
    s->polls[2 + from] = s->polls[2 + to], s->polls[2 + to] = p;
    http__place(s, other, from), http__place(s, c, to);
    c->hot = hot, s->n_hot += hot ? 1 : -1;
}

static void http__free_exchange(http_exchange *x) {
    http__drop(&x->text), http__drop(&x->body), http__drop(&x->out);
    free(x);
}

static void http__close(http_server *s, http__connection *c) {
    http_exchange *x = c->x;
    if (x && c->state == HTTP__BUSY) {
        pthread_mutex_lock(&s->lock);
        x->c = NULL, x->gone = 1;
        const int unused = x->over && !x->dirty;
        pthread_mutex_unlock(&s->lock);
        if (unused) http__free_exchange(x);
    } else if (x) http__free_exchange(x);
    http__heat(s, c, 0);
    close(c->fd), s->rests = 0;
    const int slot = c->slot, last = --s->n;
    if (slot != last) s->polls[2 + slot] = s->polls[2 + last], http__place(s, s->c[last], slot);
    http__drop(&c->in), http__drop(&c->out);
    free(c);
}

/* ---- >>answers --------------------------------------------------------------------------------------------------- */

const http_head *http_request(const http_exchange *x) { return &x->head; }
const char *http_body(const http_exchange *x, size_t *n) {
    *n = x->body.n;
    return x->body.data ? x->body.data : "";
}

static const char *http__reason(int status) {
    static const struct {
        int status;
        const char *text;
    } all[] = {{100, "Continue"},
               {200, "OK"},
               {204, "No Content"},
               {400, "Bad Request"},
               {401, "Unauthorized"},
               {403, "Forbidden"},
               {404, "Not Found"},
               {405, "Method Not Allowed"},
               {408, "Request Timeout"},
               {413, "Content Too Large"},
               {415, "Unsupported Media Type"},
               {417, "Expectation Failed"},
               {429, "Too Many Requests"},
               {431, "Request Header Fields Too Large"},
               {500, "Internal Server Error"},
               {501, "Not Implemented"},
               {503, "Service Unavailable"},
               {505, "HTTP Version Not Supported"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].status == status) return all[i].text;
    return "Status";
}

static void http__wake(http_server *s) {
    const int error = errno;                          /* a signal's handler comes here, too */
    const ssize_t written = write(s->wake[1], "", 1); /* full: it wakes anyway */
    (void)written, errno = error;
}

/* length: of the body; -1: it comes in pieces */
static void http__head_of_answer(http_exchange *x, int status, const char *type, const char *headers,
                                 long long length) {
    char text[256];
    const char *more[] = {type ? "Content-Type: " : "", type ? type : "", type ? "\r\n" : "", headers ? headers : "",
                          x->server->desc.headers ? x->server->desc.headers : ""};
    int n = snprintf(text, sizeof text, "HTTP/1.1 %d %s\r\n", status, http__reason(status)), ok;
    x->chunked = length < 0 && x->head.minor > 0;
    if (length < 0 && !x->head.minor) x->head.keep_alive = 0;
    ok = http__add(&x->out, text, (size_t)n);
    for (int i = 0; i < 5; i++) ok &= http__add(&x->out, more[i], strlen(more[i]));
    n = 0;
    if (length >= 0 && status != 204) n = snprintf(text, sizeof text, "Content-Length: %lld\r\n", length);
    if (x->chunked) n = snprintf(text, sizeof text, "Transfer-Encoding: chunked\r\n");
    n += snprintf(text + n, sizeof text - (size_t)n, "%s\r\n",
                  !x->head.keep_alive || http__stopped(x->server) ? "Connection: close\r\n"
                  : x->head.minor                                 ? ""
                                                                  : "Connection: keep-alive\r\n");
    if (!http__add(&x->out, text, (size_t)n) || !ok) x->cut = 1;
}

static int http__has_body(const http_exchange *x) { return !x->head.method || strcmp(x->head.method, "HEAD") != 0; }

static void http__piece(http_exchange *x, const char *bytes, size_t n) { /* of a body that has begun */
    char size[32];
    if (!n || !http__has_body(x) || x->cut || !x->c) return;
    int ok = !x->chunked || http__add(&x->out, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", n));
    ok = ok && http__add(&x->out, bytes, n) && (!x->chunked || http__add(&x->out, "\r\n", 2));
    if (!ok) x->cut = 1;
}

/* After a change under the lock, which it gives back: the loop sends what there is. */
static void http__changed(http_exchange *x) {
    http_server *s = x->server;
    const int link = x->c && !x->dirty, unused = !x->c && x->over && !x->dirty;
    const int wake = link && !s->dirty; /* else the loop is on its way: it goes on until there are none */
    if (link) x->dirty = 1, x->next = s->dirty, s->dirty = x;
    pthread_mutex_unlock(&s->lock);
    if (unused) http__free_exchange(x);
    else if (wake) http__wake(s);
}

void http_begin(http_exchange *x, int status, const char *type, const char *headers) {
    pthread_mutex_lock(&x->server->lock);
    http__head_of_answer(x, status, type, headers, -1);
    http__changed(x);
}
void http_write(http_exchange *x, const char *bytes, size_t n) {
    pthread_mutex_lock(&x->server->lock);
    http__piece(x, bytes, n);
    http__changed(x);
}
void http_end(http_exchange *x) {
    pthread_mutex_lock(&x->server->lock);
    if (x->chunked && http__has_body(x) && x->c && !x->cut && !http__add(&x->out, "0\r\n\r\n", 5)) x->cut = 1;
    x->over = 1;
    http__changed(x);
}
void http_drop(http_exchange *x) {
    pthread_mutex_lock(&x->server->lock);
    x->cut = x->over = 1;
    http__changed(x);
}
void http_reply(http_exchange *x, int status, const char *type, const char *headers, const char *bytes, size_t n) {
    pthread_mutex_lock(&x->server->lock);
    http__head_of_answer(x, status, type, headers, (long long)n);
    http__piece(x, bytes, n);
    x->over = 1;
    http__changed(x);
}
int http_gone(http_exchange *x) {
    pthread_mutex_lock(&x->server->lock);
    const int gone = x->gone;
    pthread_mutex_unlock(&x->server->lock);
    return gone;
}
size_t http_waiting(http_exchange *x) {
    pthread_mutex_lock(&x->server->lock);
    const size_t n = x->out.n + x->unsent;
    pthread_mutex_unlock(&x->server->lock);
    return n;
}

/* ---- >>requests -------------------------------------------------------------------------------------------------- */

static void http__advance(http_server *s, http__connection *c);

/* What is in out goes to the client. 0: the connection is closed. */
static int http__send(http_server *s, http__connection *c) {
    while (c->sent < c->out.n) {
        const ssize_t n = send(c->fd, c->out.data + c->sent, c->out.n - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        if (n <= 0) {
            http__close(s, c);
            return 0;
        }
        c->sent += (size_t)n, c->heard = s->desc.clock();
    }
    if (c->sent == c->out.n) http__drop(&c->out), c->sent = 0;
    else if (c->sent > c->out.n / 2) http__shift(&c->out, c->sent), c->sent = 0;
    if (c->x && c->state == HTTP__BUSY) {
        pthread_mutex_lock(&s->lock);
        c->x->unsent = c->out.n - c->sent;
        pthread_mutex_unlock(&s->lock);
    }
    return 1;
}

/* Nothing for the client to do, and no answer yet. 0: the connection is closed. */
static int http__go_on(http_server *s, http__connection *c) {
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    return !http__add(&c->out, go_on, sizeof go_on - 1) || http__send(s, c);
}

/* An answer is in out, whole, and the last one: what the client still sends is read for a while, lest the answer is
   lost when the connection is reset. */
static void http__linger(http_server *s, http__connection *c) {
    c->state = HTTP__LINGER, c->due = s->desc.clock() + 2;
    http__drop(&c->in);
    if (c->out.n) return;
    shutdown(c->fd, SHUT_WR);
    if (c->ended) http__close(s, c);
}

/* Takes over what the program has written. 0: the connection is closed, or is about to be. */
static int http__collect(http_server *s, http__connection *c) {
    http_exchange *x = c->x;
    int ok = 1;
    pthread_mutex_lock(&s->lock);
    const int over = x->over && !x->dirty, cut = x->cut; /* dirty: it comes here once more */
    c->answers |= x->out.n > 0;
    if (!c->out.n) http__drop(&c->out), c->out = x->out, memset(&x->out, 0, sizeof x->out);
    else if (x->out.n) ok = http__add(&c->out, x->out.data, x->out.n), http__drop(&x->out);
    x->unsent = c->out.n - c->sent;
    pthread_mutex_unlock(&s->lock);
    if (over) {
        c->closing |= !x->head.keep_alive || http__stopped(s);
        c->x = NULL, c->state = HTTP__HEAD, c->seen = 0, c->answers = 0;
        c->heard = s->desc.clock(), c->due = 0;
        http__free_exchange(x);
    }
    if (!ok || cut) http__close(s, c);
    else if (http__send(s, c)) {
        if (!over || !c->closing) return 1;
        http__linger(s, c);
    }
    return 0;
}

/* A request that cannot be served: an answer in the form of OpenAI's API, and no further request. */
static void http__reject(http_server *s, http__connection *c, int status, const char *why) {
    char body[320];
    const int n =
        snprintf(body, sizeof body, "{\"error\":{\"message\":\"%s\",\"type\":\"%s\",\"param\":null,\"code\":null}}\n",
                 why, status < 500 ? "invalid_request_error" : "server_error");
    http_exchange *x = c->x;
    if (!x && !(x = c->x = (http_exchange *)calloc(1, sizeof *x))) {
        http__close(s, c);
        return;
    }
    x->server = s, x->c = c, x->head.keep_alive = 0, x->head.minor = 1;
    http__head_of_answer(x, status, "application/json", NULL, n);
    http__piece(x, body, (size_t)n);
    x->over = 1, c->state = HTTP__BUSY;
    http__collect(s, c);
}

/* A head that ends within what was read. 0: it is refused, and the connection perhaps closed. */
static int http__begin_request(http_server *s, http__connection *c, size_t n) {
    const char *why = "no memory for the request";
    http_exchange *x = (http_exchange *)calloc(1, sizeof *x);
    int status = 500;
    c->x = x;
    if (x) x->server = s, x->c = c;
    if (x && http__add(&x->text, c->in.data, n)) status = http_parse(&x->head, x->text.data, n, &why);
    http__shift(&c->in, n), c->seen = 0;
    if (!status && x->head.length > s->desc.max_body) status = 413, why = "the body is larger than this server takes";
    if (status) {
        http__reject(s, c, status, why);
        return 0;
    }
    c->state = HTTP__BODY, c->due = s->desc.clock() + s->desc.body_s;
    return !x->head.expects || !(x->head.length || x->head.chunked) || c->in.n || http__go_on(s, c);
}

/* 1: the body is whole. */
static int http__read_body(http_server *s, http__connection *c) {
    http_exchange *x = c->x;
    size_t content = 0;
    long used;
    int ended = 0;
    if (x->head.chunked) {
        used = http_unchunk(&x->chunks, c->in.data ? c->in.data : "", c->in.n, &content, &ended);
    } else {
        content = x->head.length - x->body.n < c->in.n ? x->head.length - x->body.n : c->in.n;
        used = (long)content, ended = x->body.n + content == x->head.length;
    }
    if (used < 0) http__reject(s, c, 400, "the body does not come in chunks, as Transfer-Encoding says");
    else if (x->body.n + content > s->desc.max_body)
        http__reject(s, c, 413, "the body is larger than this server takes");
    else if (!http__add(&x->body, c->in.data, content)) http__reject(s, c, 500, "no memory for the body");
    else {
        http__shift(&c->in, (size_t)used);
        return ended;
    }
    return 0;
}

/* The bytes of in behind a head, up to and with its empty line, or to a bare line feed, with which it is none; 0: it
   does not end yet. */
static size_t http__head_end(http__connection *c) {
    const char *data = c->in.data;
    for (size_t i = c->seen; i < c->in.n; i++)
        if (data[i] == '\n' && (i < 1 || data[i - 1] != '\r' || (i >= 3 && !memcmp(data + i - 3, "\r\n\r", 3))))
            return i + 1;
    c->seen = c->in.n;
    return 0;
}

/* The client has ended what it sends, and perhaps listens; if not, a reset comes back. The connection may be closed
   afterwards. */
static void http__ask(http_server *s, http__connection *c) {
    pthread_mutex_lock(&s->lock);
    const int silent = !c->answers && !c->x->out.n && !c->x->over;
    c->x->gone |= !c->x->head.minor;
    pthread_mutex_unlock(&s->lock);
    c->asked = s->desc.clock();
    if (silent && c->x->head.minor > 0) http__go_on(s, c);
}

/* Does what can be done with what was read. The connection may be closed afterwards. */
static void http__advance(http_server *s, http__connection *c) {
    if (c->state == HTTP__HEAD) {
        size_t skip = 0, n;
        if (c->out.n) return; /* a client that takes no answer gets no further one */
        while (skip + 2 <= c->in.n && !c->seen && !memcmp(c->in.data + skip, "\r\n", 2)) skip += 2; /* RFC 9112, 2.2 */
        if (skip) http__shift(&c->in, skip);
        if (!c->in.n) return;
        if (c->due <= 0) c->due = s->desc.clock() + s->desc.head_s;
        n = http__head_end(c);
        if (n > s->desc.max_head || (!n && c->in.n > s->desc.max_head)) {
            http__reject(s, c, 431, "the head of the request is larger than this server takes");
            return;
        }
        if (!n) return;
        if (!http__begin_request(s, c, n)) return;
    }
    if (c->state == HTTP__BODY && http__read_body(s, c)) {
        http_exchange *const x = c->x;
        c->state = HTTP__BUSY, c->due = 0;
        c->asked = s->desc.clock();
        if ((c->ended || c->ends) && !x->head.minor) http__ask(s, c);
        s->desc.request(s->desc.user, x);
    }
}

/* ---- >>loop ------------------------------------------------------------------------------------------------------ */

/* A client that has ended what it sends gets answers to what has come whole, and nothing more. The connection may be
   closed afterwards. */
static void http__settle(http_server *s, http__connection *c) {
    if (!c->ended || c->state == HTTP__BUSY || (c->out.n && c->state == HTTP__HEAD && c->in.n)) return;
    if (!c->out.n) http__close(s, c);
    else c->state = HTTP__LINGER, c->due = s->desc.clock() + s->desc.stall_s;
}

static void http__hear_end(http_server *s, http__connection *c) {
    c->ended = 1;
    if (c->state == HTTP__BUSY) http__ask(s, c);
    else http__settle(s, c);
}

static void http__readable(http_server *s, http__connection *c) {
    char bytes[65536];
    const ssize_t n = recv(c->fd, bytes, sizeof bytes, 0);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
    if (n < 0) http__close(s, c);
    else if (n == 0) http__hear_end(s, c);
    else if (c->state != HTTP__LINGER) {
        c->heard = s->desc.clock();
        http__heat(s, c, 1);
        if (!http__add(&c->in, bytes, (size_t)n)) http__close(s, c);
        else if (c->state != HTTP__BUSY) http__advance(s, c);
    }
}

#define HTTP__REST 0.1 /* seconds */

static void http__accept(http_server *s) {
    static const char full[] =
        "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
    for (int i = 0; i < 64; i++) {
        const int one = 1, fd = accept(s->listener, NULL, NULL);
        if (fd < 0) { /* who waits goes on waiting, and to ask again at once would take a whole core */
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR && errno != ECONNABORTED)
                s->rests = s->desc.clock() + HTTP__REST;
            return;
        }
        http__connection *c = s->n < s->room ? (http__connection *)calloc(1, sizeof *c) : NULL;
        fcntl(fd, F_SETFL, O_NONBLOCK), fcntl(fd, F_SETFD, FD_CLOEXEC);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (!c) {
            if (send(fd, full, sizeof full - 1, MSG_NOSIGNAL) > 0) shutdown(fd, SHUT_WR);
            close(fd);
            continue;
        }
        c->fd = fd, c->heard = s->desc.clock();
        s->polls[2 + s->n].revents = 0;
        http__place(s, c, s->n++);
        http__heat(s, c, 1);
    }
}

/* Too late: head, body, a client that takes nothing, one that is silent, half a request whose other half will not come,
   or, after http_stop, is not coming just now; all when the time after http_stop is up. */
static void http__check(http_server *s, http__connection *c, double now) {
    const double silent = now - c->heard;
    const int idle = c->state == HTTP__HEAD && !c->in.n && !c->out.n;
    const int reads = !c->out.n && (c->state == HTTP__HEAD || c->state == HTTP__BODY);
    const int half = reads && (c->ended || (http__stopped(s) && silent > 1));
    if ((c->out.n && silent > s->desc.stall_s) || (idle && (http__stopped(s) || silent > s->desc.idle_s)) ||
        (http__stopped(s) && now > s->drained) || (c->state == HTTP__LINGER && now > c->due) || half)
        http__close(s, c);
    else if (c->due > 0 && now > c->due) http__reject(s, c, 408, "the request did not come in time");
    else if ((c->ended || c->ends) && c->state == HTTP__BUSY && !c->answers && !c->out.n && now - c->asked >= 1)
        http__ask(s, c);
    else if (idle && c->hot && silent > 1) http__heat(s, c, 0);
}

static void http__flush(http_server *s) { /* what the program has written since */
    char bytes[256];
    while (read(s->wake[0], bytes, sizeof bytes) == (ssize_t)sizeof bytes) continue;
    for (;;) {
        pthread_mutex_lock(&s->lock);
        http_exchange *x = s->dirty;
        http__connection *c = x ? x->c : NULL;
        if (x) s->dirty = x->next, x->dirty = 0;
        const int unused = x && !c && x->over;
        pthread_mutex_unlock(&s->lock);
        if (!x) return;
        if (unused) http__free_exchange(x);
        if (!c || !http__collect(s, c)) continue;
        if (c->state == HTTP__HEAD && c->in.n) {
            http__advance(s, c);
        } else http__settle(s, c);
    }
}

static void http__serve(http_server *s, http__connection *c, int got) {
    if (got & POLLOUT) {
        if (!http__send(s, c)) return;
        if (!c->out.n && c->state == HTTP__LINGER) {
            http__linger(s, c);
            return;
        }
        if (!c->out.n && c->state == HTTP__HEAD && c->in.n) {
            http__advance(s, c);
            return;
        }
    }
    if (got & (POLLERR | POLLNVAL) || (got & POLLHUP && c->ended)) http__close(s, c);
    else if (got & (POLLIN | POLLHUP)) http__readable(s, c);
    else if (got & HTTP__RDHUP) {
        c->ends = 1;
        if (c->state == HTTP__BUSY) http__ask(s, c);
    }
}

/* Waits for the first n connections, or for all of them. */
static void http__poll(http_server *s, int n, int timeout) {
    const int rests = s->rests > s->desc.clock(), open = s->listener >= 0 && !rests;
    for (int i = 0; i < n; i++) {
        const http__connection *c = s->c[i];
        const int busy = c->state == HTTP__BUSY || (c->state == HTTP__HEAD && c->out.n);
        const int reads = !c->ended && (!busy || c->in.n < s->desc.max_head);
        /* What is behind a request waits in the socket, once it is much; the end behind it does not. */
        s->polls[2 + i].events = (short)((reads                 ? POLLIN
                                          : c->ended || c->ends ? 0
                                                                : HTTP__RDHUP) |
                                         (c->out.n ? POLLOUT : 0));
    }
    s->polls[0].fd = s->wake[0], s->polls[1].fd = open ? s->listener : -1;
    s->polls[0].events = s->polls[1].events = POLLIN, s->polls[1].revents = 0;
    const int wait = rests && timeout > 1000 * HTTP__REST ? (int)(1000 * HTTP__REST) : timeout;
    const int ready = poll(s->polls, (nfds_t)(2 + n), wait);
    if (ready < 0) return;
    for (int i = n - 1; i >= 0; i--) { /* from behind: one that is closed gets the last one's place */
        const int got = i < s->n ? s->polls[2 + i].revents : 0;
        if (!got) continue;
        s->polls[2 + i].revents = 0;
        http__serve(s, s->c[i], got);
    }
    if (!ready || s->polls[0].revents) http__flush(s); /* also what the pipe failed to tell of */
    if (open && s->polls[1].revents) http__accept(s);
}

void http_run(http_server *s) {
    double swept = s->desc.clock(), all = swept;
    while (!http__stopped(s) || s->n > 0) {
        const double now = s->desc.clock();
        if (http__stopped(s) && s->listener >= 0)
            close(s->listener), s->listener = -1, s->drained = now + s->desc.drain_s, swept = 0;
        if (now - swept >= 1 || http__stopped(s)) {
            swept = now;
            for (int i = s->n - 1; i >= 0; i--)
                if (i < s->n) http__check(s, s->c[i], now);
        }
        /* Of silent connections there may be thousands, and to poll them takes a millisecond. */
        const int whole = s->n == s->n_hot || now - all >= 0.02 + 1e-5 * s->n || now < all;
        if (whole) all = now;
        http__poll(s, whole ? s->n : s->n_hot, !whole ? 20 + s->n / 100 : http__stopped(s) ? 50 : 1000);
    }
}

/* ---- >>listening ------------------------------------------------------------------------------------------------- */

static int http__listen(http_server *s, char *error) {
    const char *host = s->desc.host && strcmp(s->desc.host, "localhost") != 0 ? s->desc.host : "127.0.0.1";
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    const int six = strchr(host, ':') != NULL, one = 1;
    memset(&v4, 0, sizeof v4), memset(&v6, 0, sizeof v6);
    v4.sin_family = AF_INET, v4.sin_port = htons((unsigned short)s->desc.port);
    v6.sin6_family = AF_INET6, v6.sin6_port = v4.sin_port;
    if (inet_pton(six ? AF_INET6 : AF_INET, host, six ? (void *)&v6.sin6_addr : (void *)&v4.sin_addr) != 1)
        return snprintf(error, 160, "'%.60s' is no address in numbers, as 127.0.0.1 or ::1", host), 0;
    if ((s->listener = socket(six ? AF_INET6 : AF_INET, SOCK_STREAM, 0)) < 0)
        return snprintf(error, 160, "no socket is to be had: %s", strerror(errno)), 0;
    setsockopt(s->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    fcntl(s->listener, F_SETFL, O_NONBLOCK), fcntl(s->listener, F_SETFD, FD_CLOEXEC);
    const struct sockaddr *to = six ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4;
    if (bind(s->listener, to, six ? sizeof v6 : sizeof v4) || listen(s->listener, 1024))
        return snprintf(error, 160,
                        errno == EADDRINUSE ? "port %d of %.60s is in use: is another server running?"
                                            : "port %d of %.60s: %s",
                        s->desc.port, host, strerror(errno)),
               0;
    socklen_t size = six ? sizeof v6 : sizeof v4;
    getsockname(s->listener, six ? (struct sockaddr *)&v6 : (struct sockaddr *)&v4, &size);
    s->port = ntohs(six ? v6.sin6_port : v4.sin_port);
    return 1;
}

int http_open(http_server **out, const http_desc *desc, char *error) {
    struct rlimit files;
    http_server *s = (http_server *)calloc(1, sizeof *s);
    *out = NULL;
    if (!s) return snprintf(error, 160, "out of memory"), 1;
    s->desc = *desc, s->listener = s->wake[0] = s->wake[1] = -1;
    pthread_mutex_init(&s->lock, NULL);
    http_desc *d = &s->desc;
    if (!d->max_head) d->max_head = 16384;
    if (!d->max_body) d->max_body = (size_t)16 << 20;
    d->head_s = d->head_s > 0 ? d->head_s : 20, d->body_s = d->body_s > 0 ? d->body_s : 120;
    d->stall_s = d->stall_s > 0 ? d->stall_s : 60, d->idle_s = d->idle_s > 0 ? d->idle_s : 600;
    d->drain_s = d->drain_s > 0 ? d->drain_s : 30;
    s->room = 1000;
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files), getrlimit(RLIMIT_NOFILE, &files);
        s->room = files.rlim_cur > 65536 ? 65536 : files.rlim_cur > 64 ? (int)files.rlim_cur - 32 : 32;
    }
    if (d->connections > 0 && d->connections < s->room) s->room = d->connections;
    s->c = (http__connection **)calloc((size_t)s->room, sizeof *s->c);
    s->polls = (struct pollfd *)calloc((size_t)s->room + 2, sizeof *s->polls);
    if (!s->c || !s->polls) snprintf(error, 160, "out of memory");
    else if (pipe(s->wake)) snprintf(error, 160, "cannot make a pipe: %s", strerror(errno));
    else if (http__listen(s, error)) {
        for (int i = 0; i < 2; i++) fcntl(s->wake[i], F_SETFL, O_NONBLOCK), fcntl(s->wake[i], F_SETFD, FD_CLOEXEC);
        *out = s;
        return 0;
    }
    http_close(s);
    return 1;
}

int http_port(const http_server *s) { return s->port; }
int http_count(const http_server *s) { return s->n; }

void http_stop(http_server *s) {
    __atomic_store_n(&s->stop, 1, __ATOMIC_RELAXED);
    http__wake(s);
}

void http_close(http_server *s) {
    if (!s) return;
    for (http_exchange *x = s->dirty, *next; x; x = next) {
        next = x->next;
        if (x->over) http__free_exchange(x);
    }
    for (int i = 0; i < 2; i++)
        if (s->wake[i] >= 0) close(s->wake[i]);
    if (s->listener >= 0) close(s->listener);
    pthread_mutex_destroy(&s->lock);
    free(s->c), free(s->polls), free(s);
}

#endif /* HTTP_IMPLEMENTATION */
