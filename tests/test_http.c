/* http.h: its parser by heads and bodies in chunks, whole, cut and damaged; its server by plain sockets, with a clock that
   the test moves, and a program that answers now, later, in pieces or not at all. tests/server asks a whole program. */
#define _DEFAULT_SOURCE
#define HTTP_IMPLEMENTATION
#include "http.h"
#include "test.h"
#include <sys/time.h>

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

/* ---- the server -------------------------------------------------------------------------------------------------- */

static long
    now_ms; /* of the server's clock, which goes on when it is looked at: a machine that is slow changes nothing */
static double clock_of_test(void) { return 1e-3 * (double)__atomic_add_fetch(&now_ms, 5, __ATOMIC_SEQ_CST); }
static void pass(double seconds) { __atomic_add_fetch(&now_ms, (long)(1e3 * seconds), __ATOMIC_SEQ_CST); }

static http_server *server;
static http_exchange *held; /* a request for /later, which the test answers */
static char large[12 << 20];

static void answer(void *user, http_exchange *x) {
    const char *path = http_request(x)->path;
    size_t n;
    (void)user;
    const char *sent = http_body(x, &n);
    if (!strcmp(path, "/later")) __atomic_store_n(&held, x, __ATOMIC_SEQ_CST);
    else if (!strcmp(path, "/odd")) http_reply(x, 299, NULL, "X-Odd: 1\r\n", "", 0);
    else if (!strcmp(path, "/none")) http_reply(x, 204, NULL, NULL, "", 0);
    else if (!strcmp(path, "/large")) http_reply(x, 200, NULL, NULL, large, sizeof large);
    else if (!strcmp(path, "/drop")) http_drop(x);
    else if (!strcmp(path, "/count")) {
        char count[16];
        http_reply(x, 200, NULL, NULL, count, (size_t)snprintf(count, sizeof count, "%d", http_count(server)));
    } else if (!strcmp(path, "/cut")) {
        http_begin(x, 200, "text/plain", NULL), http_write(x, "begun", 5), http_drop(x);
    } else if (!strcmp(path, "/pieces")) {
        http_begin(x, 200, "text/plain", NULL), http_write(x, "one", 3), http_write(x, "", 0);
        http_write(x, "three", 5), http_end(x);
    } else http_reply(x, 200, "text/plain", NULL, n ? sent : "hello", n ? n : 5);
}

static pthread_t loop;
static void *run(void *s) {
    http_run((http_server *)s);
    return NULL;
}
static http_desc plain(void) {
    http_desc how;
    memset(&how, 0, sizeof how);
    how.clock = clock_of_test, how.request = answer, how.headers = "X-All: 1\r\n";
    return how;
}
static void start(const http_desc *how) {
    char error[160] = "";
    if (http_open(&server, how, error) || pthread_create(&loop, NULL, run, server)) {
        printf("no server: %s\n0 passed, 1 failed\n", error);
        exit(1);
    }
}
static void stop(void) {
    http_stop(server);
    pthread_join(loop, NULL);
    CHECK(http_count(server) == 0, "connections are left");
    http_close(server);
}

/* A connection; small: it takes little that it does not read. What never comes fails after ten seconds. */
static int client_of(int small) {
    struct sockaddr_in to;
    const struct timeval most = {10, 0};
    const int fd = socket(AF_INET, SOCK_STREAM, 0), bytes = 4096;
    memset(&to, 0, sizeof to);
    to.sin_family = AF_INET, to.sin_port = htons((unsigned short)http_port(server));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
    if (small) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    CHECK(!connect(fd, (struct sockaddr *)&to, sizeof to), "connect: %s", strerror(errno));
    return fd;
}
static void say(int fd, const char *bytes) {
    CHECK(send(fd, bytes, strlen(bytes), MSG_NOSIGNAL) == (ssize_t)strlen(bytes), "send: %s", strerror(errno));
}
/* What comes until it ends with `end`, or NULL: until the server closes; then fd is closed, too. */
static const char *hear(int fd, const char *end) {
    size_t n = 0;
    for (ssize_t got; n + 1 < sizeof text; n += (size_t)got) {
        text[n] = 0;
        if (end && n >= strlen(end) && !strcmp(text + n - strlen(end), end)) return text;
        if ((got = recv(fd, text + n, sizeof text - 1 - n, 0)) > 0) continue;
        if (got < 0 && errno != ECONNRESET) snprintf(text + n, sizeof text - n, "(%s)", strerror(errno));
        break;
    }
    if (!end) close(fd);
    return text;
}
static int says(const char *got, const char *want) { /* all its parts, which | separates */
    char part[200];
    for (; *want; want += strcspn(want, "|"), want += *want == '|') {
        snprintf(part, sizeof part, "%.*s", (int)strcspn(want, "|"), want);
        if (*part == '!' ? strstr(got, part + 1) != NULL : !strstr(got, part)) return 0;
    }
    return 1;
}
static void ask(const char *request) {
    const int fd = client_of(0);
    say(fd, request), hear(fd, NULL);
}
static void asked(const char *request, const char *want) { /* on a connection of its own, which the server ends */
    ask(request);
    CHECK(says(text, want), "%s: got %s, expected %s", request, text, want);
}
static http_exchange *later(void) {
    http_exchange *x = NULL;
    for (int i = 0; i < 10000 && !(x = __atomic_exchange_n(&held, NULL, __ATOMIC_SEQ_CST)); i++) usleep(1000);
    if (!CHECK(x != NULL, "the request does not come")) exit(test_end());
    return x;
}
#define GET(path) "GET " path " HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n"
static void look(void) { /* the loop has seen the time */
    for (int i = 0; i < 2; i++) asked(GET("/"), "200 OK|hello");
}

static void test_answers(void) {
    const http_desc how = plain();
    SECTION("answers");
    start(&how);
    asked(GET("/"), "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-All: 1\r\nContent-Length: 5\r\n"
                    "Connection: close\r\n\r\nhello");
    asked(GET("/odd"), "HTTP/1.1 299 Status\r\nX-Odd: 1\r\nX-All: 1\r\nContent-Length: 0\r\n|!Content-Type");
    asked(GET("/none"), "HTTP/1.1 204 No Content\r\n|!Content-Length");
    asked(GET("/pieces"), "Transfer-Encoding: chunked\r\n|\r\n\r\n3\r\none\r\n5\r\nthree\r\n0\r\n\r\n");
    asked("HEAD /pieces HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", "200 OK|chunked|!one|!0\r\n\r\n");
    asked("HEAD / HTTP/1.1\r\n" HOST "Connection: close\r\n\r\n", "Content-Length: 5\r\n|!hello");
    asked("GET /pieces HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "!chunked|Connection: close\r\n\r\nonethree");
    asked("\r\n\r\nPOST / HTTP/1.1\r\n" HOST "Content-Length: 3\r\n\r\nabcGET /odd HTTP/1.1\r\n" HOST "\r\n" GET("/"),
          "\r\n\r\nabcHTTP/1.1 299|hello");
    asked("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
          "Content-Length: 3\r\n|abc");
    asked("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", "400 Bad Request|in chunks|close");
    asked("GET / HTTP/1.1\n", "400 Bad Request|CR LF");
    asked(GET("/drop"), "!HTTP");
    asked(GET("/cut"), "!0\r\n\r\n");
    const int old = client_of(0);
    say(old, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    CHECK(says(hear(old, "hello"), "Connection: keep-alive\r\n"), "%s", text);
    say(old, "POST / HTTP/1.1\r\n" HOST "Content-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    CHECK(!strcmp(hear(old, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n"), "%s", text);
    say(old, "body");
    CHECK(says(hear(old, "body"), "HTTP/1.1 200 OK"), "%s", text);
    say(old, "POST / HTTP/1.1\r\n" HOST "Content-Length: 4\r\nExpect: 100-continue\r\n\r\nbody"); /* did not wait */
    CHECK(says(hear(old, "body"), "HTTP/1.1 200 OK|!100"), "%s", text);
    shutdown(old, SHUT_WR);
    CHECK(!*hear(old, NULL), "an idle client that ends: %s", text);
    stop();
}

/* Requests that the program answers when it likes, of clients that wait, do not wait, and do not read. */
static void test_later(void) {
    const http_desc how = plain();
    http_exchange *x;
    SECTION("answers from another thread");
    start(&how);
    int fd = client_of(0);
    say(fd, "GET /later HTTP/1.1\r\n" HOST "\r\n" GET("/"));
    x = later();
    CHECK(!http_gone(x) && !http_waiting(x), "an exchange that is open");
    http_begin(x, 200, NULL, NULL), http_write(x, "a", 1), http_end(x);
    CHECK(says(hear(fd, NULL), "1\r\na\r\n0\r\n\r\nHTTP/1.1 200 OK|hello"), "%s", text);
    for (int how_gone = 0; how_gone < 4; how_gone++) { /* 0: closed; 1: reset; 2: with a request behind; 3: HTTP/1.0 */
        fd = client_of(0);
        say(fd, how_gone == 3   ? "GET /later HTTP/1.0\r\n\r\n"
                : how_gone == 2 ? "GET /later HTTP/1.1\r\n" HOST "\r\n" GET("/")
                                : "GET /later HTTP/1.1\r\n" HOST "\r\n");
        x = later();
        const struct linger none = {1, 0};
        if (how_gone == 1 || how_gone == 2) setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
        if (how_gone == 3) shutdown(fd, SHUT_WR);
        else close(fd);
        for (int i = 0; i < 10000 && !http_gone(x); i++) usleep(1000);
        CHECK(http_gone(x), "%d: a client that is gone", how_gone);
        http_reply(x, 200, NULL, NULL, "late", 4);
        if (how_gone == 3) CHECK(says(hear(fd, NULL), "200 OK|late"), "who closes its side still hears: %s", text);
    }
    for (int begun = 0; begun < 2; begun++) { /* one that only ends what it sends, and then goes */
        fd = client_of(0);
        say(fd, "GET /later HTTP/1.1\r\n" HOST "\r\n" GET("/"));
        x = later();
        if (begun) http_begin(x, 200, NULL, NULL), http_write(x, "a", 1), hear(fd, "a\r\n");
        shutdown(fd, SHUT_WR);
        if (!begun) CHECK(!strcmp(hear(fd, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n"), "asked: %s", text);
        usleep(50000);
        CHECK(!http_gone(x), "%d: who only ends what it sends still listens", begun);
        if (!begun) http_begin(x, 200, NULL, NULL);
        http_write(x, "b", 1), hear(fd, "b\r\n"), http_end(x);
        CHECK(says(hear(fd, NULL), "0\r\n\r\nHTTP/1.1 |HTTP/1.1 200 OK|hello"), "%d: %s", begun, text);
    }
    fd = client_of(0); /* one that goes after it was asked is asked again */
    say(fd, "GET /later HTTP/1.1\r\n" HOST "\r\n");
    x = later();
    shutdown(fd, SHUT_WR), hear(fd, "\r\n\r\n"), pass(2), look();
    CHECK(!strcmp(hear(fd, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n") && !http_gone(x), "asked again: %s", text);
    close(fd);
    for (int i = 0; i < 100 && !http_gone(x); i++) pass(2), look();
    CHECK(http_gone(x), "who goes after that is gone");
    http_drop(x);
    fd = client_of(1);
    say(fd, "GET /later HTTP/1.1\r\n" HOST "\r\n");
    x = later();
    http_begin(x, 200, NULL, NULL);
    for (size_t i = 0; i < sizeof large; i += 1 << 20) http_write(x, large + i, 1 << 20);
    CHECK(http_waiting(x) > 0, "nothing waits for a client that does not read");
    const size_t unread = http_waiting(x);
    for (size_t n = 0; n < (size_t)6 << 20;) n += (size_t)recv(fd, text, sizeof text, 0);
    for (int i = 0; i < 10000 && http_waiting(x) == unread; i++) usleep(1000);
    CHECK(http_waiting(x) < unread, "%zu bytes wait, as before", http_waiting(x));
    http_write(x, "more", 4);
    for (int i = 0; i < 100 && !http_gone(x); i++)
        pass(61), look(); /* until what the client's buffers take is in them */
    CHECK(http_gone(x), "who takes nothing for a minute is gone");
    http_write(x, "still", 5), http_end(x);
    close(fd);
    for (int last = 0; last < 2; last++) { /* who closes its side, and then takes nothing */
        fd = client_of(1);
        say(fd, last ? GET("/large") : "GET /large HTTP/1.1\r\n" HOST "\r\n"), shutdown(fd, SHUT_WR);
        for (int i = 0; i < 100 && (ask(GET("/count")), !says(text, "\r\n\r\n1")); i++) pass(61);
        CHECK(says(text, "\r\n\r\n1"), "... also who has closed its side: %s", text);
        close(fd);
    }
    fd = client_of(0); /* who takes all of it, gets it before the server closes the connection */
    say(fd, GET("/large"));
    size_t all = 0;
    for (ssize_t got; (got = recv(fd, text, sizeof text, 0)) > 0;) all += (size_t)got;
    CHECK(all > sizeof large && all < sizeof large + 200, "%zu bytes of %zu and a head", all, sizeof large);
    close(fd);
    stop();
}

static void test_behind(void) { /* requests in one piece, the client's end behind them, and it reads later */
    const http_desc how = plain();
    static const char one[] = "GET / HTTP/1.1\r\n" HOST "\r\n";
    enum { MANY = 3000 };
    static char all[MANY * sizeof one], part[65536 + 8];
    SECTION("many requests, and the end");
    start(&how);
    const int fd = client_of(1);
    for (int i = 0; i < MANY; i++) memcpy(all + (size_t)i * (sizeof one - 1), one, sizeof one);
    say(fd, all), shutdown(fd, SHUT_WR), usleep(200000);
    size_t found = 0, kept = 0;
    ssize_t got;
    while ((got = recv(fd, part + kept, 65536, 0)) > 0) {
        part[kept += (size_t)got] = 0;
        for (const char *at = part; (at = strstr(at, "hello")) != NULL; at += 5) found++;
        const size_t rest = kept < 4 ? kept : 4; /* "hell", of which the o may come */
        memmove(part, part + kept - rest, rest), kept = rest;
    }
    CHECK(found == MANY && !got, "%zu answers of %d, and then %s", found, MANY, got ? "an error" : "the end");
    close(fd);
    stop();
}

static void test_limits(void) {
    http_desc how = plain();
    char many[600];
    SECTION("limits");
    how.max_head = 512, how.max_body = 8, how.connections = 3;
    start(&how);
    memset(many, 'a', sizeof many), many[sizeof many - 1] = 0;
    asked(many, "431|head of the request is larger");
    snprintf(many, sizeof many, "GET / HTTP/1.1\r\nA: %0490d\r\n\r\n", 1);
    asked(many, "431|head of the request is larger");
    asked("POST / HTTP/1.1\r\n" HOST "Content-Length: 9\r\n\r\n", "413 Content Too Large|body is larger");
    asked("POST / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n4\r\nabcd\r\n",
          "413|body is larger");
    const struct {
        const char *bytes, *want;
        double seconds;
    } slow[] = {{"GET /", "408 Request Timeout|did not come in time", 21},
                {"POST / HTTP/1.1\r\n" HOST "Content-Length: 4\r\n\r\nab", "408 Request Timeout", 121},
                {"", "!HTTP", 601}};
    for (size_t i = 0; i < sizeof slow / sizeof *slow; i++) {
        const int fd = client_of(0), second = client_of(0);
        say(fd, slow[i].bytes);
        asked(GET("/count"), "\r\n\r\n3");
        pass(slow[i].seconds - 2), look();
        say(second, "GET / HTTP/1.1\r\n" HOST "\r\n"), hear(second, "hello");
        pass(2), look();
        CHECK(says(hear(fd, NULL), slow[i].want), "after %g s: %s, expected %s", slow[i].seconds, text, slow[i].want);
        say(second, GET("/")), hear(second, NULL);
    }
    int full[3];
    for (int i = 0; i < 3; i++)
        full[i] = client_of(0), say(full[i], "GET / HTTP/1.1\r\n" HOST "\r\n"), hear(full[i], "hello");
    asked("", "503 Service Unavailable|Retry-After: 1");
    for (int i = 0; i < 3; i++) close(full[i]);
    stop();
}

/* http_stop: answers under way go out, for so long; half requests do not hold it up. */
static void test_stop(void) {
    const http_desc how = plain();
    http_exchange *x[2];
    int fd[4];
    SECTION("stop");
    start(&how);
    for (int i = 0; i < 4; i++) fd[i] = client_of(0);
    for (int i = 0; i < 2; i++) say(fd[i], "GET /later HTTP/1.1\r\n" HOST "\r\n"), x[i] = later();
    say(fd[2], "GET / HT"), say(fd[3], "POST / HTTP/1.1\r\n" HOST "Content-Length: 4\r\n\r\nab");
    look();
    http_stop(server);
    http_stop(server);
    http_reply(x[0], 200, NULL, NULL, "done", 4);
    CHECK(says(hear(fd[0], NULL), "200 OK|Connection: close|done"), "%s", text);
    pass(2);
    for (int i = 2; i < 4; i++) CHECK(!*hear(fd[i], NULL), "half a request when the server stops: %s", text);
    CHECK(!http_gone(x[1]), "an answer under way is waited for");
    pass(30);
    CHECK(!*hear(fd[1], NULL) && http_gone(x[1]), "... for half a minute: %s", text);
    pthread_join(loop, NULL);
    http_end(x[1]);
    http_close(server);
}

static int looks; /* of the loop at the clock */
static double counted(void) {
    __atomic_add_fetch(&looks, 1, __ATOMIC_SEQ_CST);
    return clock_of_test();
}
/* Where the process may open nothing more who comes waits, and the server rests: until some time is over, or a connection
   closes. */
static void test_files(void) {
    http_desc how = plain();
    struct rlimit was, few;
    SECTION("no files");
    how.clock = counted;
    start(&how);
    getrlimit(RLIMIT_NOFILE, &was);
    for (int closes = 0; closes < 2; closes++) {
        const int other = client_of(0), fd = socket(AF_INET, SOCK_STREAM, 0);
        struct sockaddr_in to;
        socklen_t size = sizeof to;
        say(other, "GET / HTTP/1.1\r\n" HOST "\r\n"), hear(other, "hello");
        getpeername(other, (struct sockaddr *)&to, &size);
        const int lowest = dup(fd); /* all below it are open */
        close(lowest);
        few = was, few.rlim_cur = (rlim_t)lowest;
        setrlimit(RLIMIT_NOFILE, &few);
        CHECK(!connect(fd, (struct sockaddr *)&to, sizeof to), "connect: %s", strerror(errno));
        say(fd, GET("/"));
        usleep(50000);
        const int before = __atomic_load_n(&looks, __ATOMIC_SEQ_CST);
        usleep(400000);
        const int after = __atomic_load_n(&looks, __ATOMIC_SEQ_CST) - before;
        CHECK(after < 60, "the loop went round %d times in 0.4 s", after);
        if (closes) close(other);
        else setrlimit(RLIMIT_NOFILE, &was), pass(1);
        CHECK(says(hear(fd, NULL), "200 OK|hello"), "%s", text);
        setrlimit(RLIMIT_NOFILE, &was);
        if (!closes) close(other);
    }
    stop();
}

static void test_open(void) {
    static const struct {
        const char *host, *want;
    } bad[] = {{"example.org", "'example.org' is no address in numbers"},
               {"::g", "'::g' is no address in numbers"},
               {"192.0.2.1", "of 192.0.2.1: "}};
    http_desc how = plain();
    http_server *other;
    char error[160];
    SECTION("open");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        how.host = bad[i].host;
        CHECK(http_open(&other, &how, error) && !other && strstr(error, bad[i].want), "%s: %s", bad[i].host, error);
    }
    how.host = "localhost";
    start(&how);
    how.port = http_port(server);
    CHECK(http_open(&other, &how, error) && strstr(error, "is in use: is another server running?"), "%s", error);
    stop();
    how.host = "::1", how.port = 0; /* where there is IPv6 */
    if (http_open(&other, &how, error)) CHECK(strstr(error, "of ::1: ") || strstr(error, "no socket"), "%s", error);
    else CHECK(http_port(other) > 0, "a port");
    http_close(other);
}

int main(void) {
    test_heads();
    test_head();
    test_chunks();
    test_open();
    test_answers();
    test_later();
    test_behind();
    test_limits();
    test_stop();
    test_files();
    return test_end();
}
