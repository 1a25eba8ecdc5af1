/* http.h's parser: heads and bodies in chunks, whole, cut and damaged. The server itself is tested by tests/server. */
#define _DEFAULT_SOURCE
#define HTTP_IMPLEMENTATION
#include "http.h"
#include "test.h"

static http_head head;
static char text[1 << 16];

static int parsed(const char *bytes) {
    const char *why;
    snprintf(text, sizeof text, "%s", bytes);
    return http_parse(&head, text, strlen(bytes), &why);
}

#define HOST "Host: x\r\n"

static void test_heads(void) {
    static const struct {
        const char *bytes;
        int status;
    } all[] = {{"GET / HTTP/1.1\r\n" HOST "\r\n", 0},
               {"GET / HTTP/1.0\r\n\r\n", 0},
               {"GET / HTTP/1.1\r\n\r\n", 400},
               {"GET / HTTP/1.2\r\n" HOST "\r\n", 505},
               {"GET / HTTP/2\r\n" HOST "\r\n", 400},
               {"GET / http/1.1\r\n" HOST "\r\n", 400},
               {"GET  / HTTP/1.1\r\n" HOST "\r\n", 400},
               {"GET / HTTP/1.1 \r\n" HOST "\r\n", 400},
               {"GET /a b HTTP/1.1\r\n" HOST "\r\n", 400},
               {" GET / HTTP/1.1\r\n" HOST "\r\n", 400},
               {"G(T / HTTP/1.1\r\n" HOST "\r\n", 400},
               {"GET * HTTP/1.1\r\n" HOST "\r\n", 400},
               {"GET http://x/a HTTP/1.1\r\n" HOST "\r\n", 0},
               {"GET HTTPS://X?a HTTP/1.1\r\n" HOST "\r\n", 0},
               {"GET http://x HTTP/1.1\r\n" HOST "\r\n", 0},
               {"GET http://y/ HTTP/1.1\r\n" HOST "\r\n", 400},
               {"GET http:///a HTTP/1.1\r\n" HOST "\r\n", 400},
               {"GET http:// HTTP/1.1\r\n" HOST "\r\n", 400},
               {"GET ftp://x/ HTTP/1.1\r\n" HOST "\r\n", 400},
               {"GET / HTTP/1.1\r\n" HOST HOST "\r\n", 400},
               {"GET / HTTP/1.1\r\n" HOST "A : b\r\n\r\n", 400},
               {"GET / HTTP/1.1\r\n" HOST ": b\r\n\r\n", 400},
               {"GET / HTTP/1.1\r\n" HOST "A\r\n\r\n", 400},
               {"GET / HTTP/1.1\r\n" HOST " b: c\r\n\r\n", 400},
               {"GET / HTTP/1.1\r\n" HOST "A: b\nC: d\r\n\r\n", 400},
               {"GET / HTTP/1.1\r\n" HOST "A: b\001\r\n\r\n", 400},
               {"GET / HTTP/1.1\r\n" HOST "A: b\tc\r\n\r\n", 0},
               {"GET / HTTP/1.1\n" HOST "\r\n\r\n", 400},
               {"POST / HTTP/1.1\r\n" HOST "Content-Length: 12\r\n\r\n", 0},
               {"POST / HTTP/1.1\r\n" HOST "Content-Length: 012\r\n\r\n", 0},
               {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1 2\r\n\r\n", 400},
               {"POST / HTTP/1.1\r\n" HOST "Content-Length: -1\r\n\r\n", 400},
               {"POST / HTTP/1.1\r\n" HOST "Content-Length:\r\n\r\n", 400},
               {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1,1\r\n\r\n", 400},
               {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", 400},
               {"POST / HTTP/1.1\r\n" HOST "Content-Length: 9999999999999999999999\r\n\r\n", 400},
               {"POST / HTTP/1.1\r\n" HOST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
               {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: Chunked\r\n\r\n", 0},
               {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip, chunked\r\n\r\n", 501},
               {"POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 501},
               {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
               {"POST / HTTP/1.1\r\n" HOST "Expect: tea\r\n\r\n", 417},
               {"\r\n\r\n", 400},
               {"GET / HTTP/1.1\r\n" HOST, 400}};
    SECTION("heads");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const int status = parsed(all[i].bytes);
        CHECK(status == all[i].status, "%s: %d, expected %d", all[i].bytes, status, all[i].status);
        /* every begin of it is refused, and nothing is read behind its end */
        for (size_t n = 0; n < strlen(all[i].bytes); n++) {
            char *exact = malloc(n + !n);
            const char *why;
            memcpy(exact, all[i].bytes, n);
            CHECK(http_parse(&head, exact, n, &why) != 0, "%s: %d bytes of it", all[i].bytes, (int)n);
            free(exact);
        }
    }
}

static void test_head(void) {
    SECTION("what a head says");
    CHECK(!parsed("POST /a/b?c=d HTTP/1.1\r\nhOST:x:80\r\nX-A:  b c \t\r\nConnection: Close\r\nContent-Length: "
                  "7\r\nExpect: 100-continue\r\n\r\n"),
          "parsed");
    CHECK(!strcmp(head.method, "POST") && !strcmp(head.path, "/a/b") && !strcmp(head.query, "c=d"), "%s %s %s",
          head.method, head.path, head.query);
    CHECK(!strcmp(http_find(&head, "host"), "x:80") && !strcmp(http_find(&head, "x-a"), "b c") &&
              !http_find(&head, "x"),
          "headers");
    CHECK(head.length == 7 && !head.keep_alive && head.expects && !head.chunked && head.minor == 1, "framing");
    CHECK(!parsed("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n") && head.keep_alive, "1.0, kept alive");
    static const char *const targets[][4] = {{"/a?b", NULL, "/a", "b"},
                                             {"http://x/a?b", "x", "/a", "b"},
                                             {"https://x:80", "x:80", "/", ""},
                                             {"hTTp://x:80?b/c", "x:80", "/", "b/c"}};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        char line[100];
        snprintf(line, sizeof line, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", targets[i][0],
                 targets[i][1] ? targets[i][1] : "x");
        const int status = parsed(line);
        CHECK(!status && !strcmp(head.path, targets[i][2]) && !strcmp(head.query, targets[i][3]) &&
                  !head.authority == !targets[i][1] && (!head.authority || !strcmp(head.authority, targets[i][1])),
              "%s", targets[i][0]);
    }
    static const struct {
        const char *value;
        int stays;
    } lists[] = {{"TE", 1},
                 {"Close", 0},
                 {"close, TE", 0},
                 {"TE ,close", 0},
                 {"keep-alive, close", 0},
                 {"close,keep-alive", 0},
                 {"closed, TE", 1},
                 {"x-close", 1},
                 {"", 1}};
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        char line[100];
        snprintf(line, sizeof line, "GET / HTTP/1.1\r\n" HOST "Connection: %s\r\n\r\n", lists[i].value);
        CHECK(!parsed(line) && head.keep_alive == lists[i].stays, "Connection: %s", lists[i].value);
    }
    char many[4000] = "GET / HTTP/1.1\r\n" HOST;
    for (int i = 1; i < 100; i++) strcat(many, "A: b\r\n");
    strcat(many, "\r\n");
    CHECK(!parsed(many) && head.n_headers == 100, "100 headers");
    strcpy(many + strlen(many) - 2, "A: b\r\n\r\n");
    CHECK(parsed(many) == 431, "101 headers");
}

/* The body in pieces of so many bytes; NULL: refused. */
static const char *body(const char *bytes, size_t n, size_t step, size_t *used) {
    static char out[256];
    http_chunks c = {0, 0};
    size_t got = 0;
    *used = 0;
    for (size_t i = 0; i < n; i += step) {
        char piece[256];
        size_t content;
        int ended;
        const size_t some = n - i < step ? n - i : step;
        memcpy(piece, bytes + i, some);
        const long taken = http_unchunk(&c, piece, some, &content, &ended);
        if (taken < 0) return NULL;
        memcpy(out + got, piece, content);
        got += content, *used += (size_t)taken, out[got] = 0;
        if (ended) return out;
    }
    return "unfinished";
}

static void test_chunks(void) {
    static const struct {
        const char *bytes, *want; /* NULL: refused */
        size_t rest;              /* bytes behind the end */
    } all[] = {{"0\r\n\r\n", "", 0},
               {"5\r\nhello\r\n0\r\n\r\nGET", "hello", 3},
               {"00a;x=\"y\"\r\n0123456789\r\n3\r\nabc\r\n0\r\nA: b\r\nC: d\r\n\r\n", "0123456789abc", 0},
               {"A\r\n0123456789\r\n0\r\n\r\n", "0123456789", 0},
               {"5\r\nhello\r\n", "unfinished", 0},
               {"\r\n", NULL, 0},
               {"x\r\n", NULL, 0},
               {" 5\r\n", NULL, 0},
               {"-5\r\n", NULL, 0},
               {"5\nhello", NULL, 0},
               {"5\r\nhelloX", NULL, 0},
               {"5\r\nhello\rX", NULL, 0},
               {"5;a\nb\r\n", NULL, 0},
               {"fffffffffffffffff\r\n", NULL, 0},
               {"0\r\nA: b\n\r\n", NULL, 0},
               {"0\r\n\rX", NULL, 0}};
    SECTION("chunks");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (size_t step = 1; step <= strlen(all[i].bytes); step++) {
            size_t used;
            const char *got = body(all[i].bytes, strlen(all[i].bytes), step, &used);
            CHECK(all[i].want ? got && !strcmp(got, all[i].want) : !got, "%s in pieces of %d: %s", all[i].bytes,
                  (int)step, got ? got : "refused");
            if (got && strcmp(got, "unfinished") != 0)
                CHECK(used + all[i].rest == strlen(all[i].bytes), "%s: %d used", all[i].bytes, (int)used);
        }
}

int main(void) {
    test_heads();
    test_head();
    test_chunks();
    return test_end();
}
