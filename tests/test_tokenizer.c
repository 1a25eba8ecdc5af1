/* test_tokenizer.c - examples/tokenizer.h: against a plain byte pair encoder and a plain backtracking regex, on random
   vocabularies and texts; streaming; files that are wrong in every way. tests/tokenizer/run.sh compares with the
   reference implementation. */

#include <stdlib.h>
#include <time.h>

#define MLA_IMPLEMENTATION
#include "mla.h"
#include "test.h"

/* The tokenizer allocates through these, so that the k-th allocation can fail. */
static long alloc_countdown = -1; /* -1: never; 0: the next one fails, and all after it */
static int alloc_fails(void) { return alloc_countdown == 0 || (alloc_countdown > 0 && alloc_countdown-- == 0); }
static void *test_malloc(size_t n) { return alloc_fails() ? NULL : malloc(n); }
static void *test_calloc(size_t n, size_t size) { return alloc_fails() ? NULL : calloc(n, size); }
static void *test_realloc(void *p, size_t n) { return alloc_fails() ? NULL : realloc(p, n); }
#define malloc  test_malloc
#define calloc  test_calloc
#define realloc test_realloc
#define CHECKPOINT_IMPLEMENTATION
#define TOKENIZER_IMPLEMENTATION
#include "examples/tokenizer.h"
#undef malloc
#undef calloc
#undef realloc

static void *need(void *p) {
    if (!p) puts("out of memory in the test"), exit(2);
    return p;
}

/* ---- texts ------------------------------------------------------------------------------------------------------- */

typedef struct text {
    char *s; /* ends with NUL */
    size_t n, capacity;
} text;

static void put_bytes(text *t, const void *bytes, size_t n) {
    if (t->n + n + 1 > t->capacity) t->s = (char *)need(realloc(t->s, t->capacity = 2 * (t->n + n + 1)));
    if (n) memcpy(t->s + t->n, bytes, n);
    t->n += n;
    t->s[t->n] = 0;
}

static void put(text *t, const char *s) { put_bytes(t, s, strlen(s)); }

static void put_code(text *t, uint32_t c) { /* as UTF-8 */
    char b[4];
    const size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; c >>= 6) b[i] = (char)(0x80 | (c & 0x3F));
    b[0] = (char)(c | (n == 1 ? 0 : n == 2 ? 0xC0u : n == 3 ? 0xE0u : 0xF0u));
    put_bytes(t, b, n);
}

static void clear(text *t) {
    free(t->s);
    memset(t, 0, sizeof *t);
}

/* Valid UTF-8 of about n characters of all kinds, or of a small alphabet for which merges are likely. */
static void random_text(test_rng *r, text *t, int n, int small) {
    static const uint32_t some[] = {
        ' ',    ' ',    '\n',   '\r',   '\t',   0x85,    0xA0,    0x2028, 0x3000,  0x200D,   0xFEFF, 'a',    'b',
        'Z',    '0',    '7',    '.',    '!',    '<',     '-',     '$',    0xE9,    0xDF,     0x3B1,  0x416,  0x5D0,
        0x301,  0x93F,  0xE01,  0x663,  0xFF11, 0xB2,    0x2167,  0x3007, 0x4E00,  0x9FA5,   0x3042, 0x30A2, 0xAC00,
        0xFF01, 0x201C, 0x3001, 0x20AC, 0x221E, 0x1F600, 0x1F3FB, 0xFE0F, 0x11DE0, 0x10FFFF, 0xFFFD, 1,      0x7F};
    for (int i = 0; i < n; i++) {
        uint32_t c;
        if (small) c = (uint32_t) "aaaabbbc  ,.\n1"[test_int(r, 14)];
        else if (test_int(r, 4)) c = some[test_int(r, (int)(sizeof some / sizeof some[0]))];
        else do
                c = (uint32_t)test_int(r, test_int(r, 2) ? 0x110000 : 0x3100);
            while (c >= 0xD800 && c < 0xE000);
        put_code(t, c);
    }
}

/* ---- tokenizer files --------------------------------------------------------------------------------------------- */

enum { MAX_TOKENS = 640 };

typedef struct model { /* token i < 256 is the byte i */
    struct {
        unsigned char b[40];
        int n, id;
    } tokens[MAX_TOKENS];
    int n, merges[MAX_TOKENS][3], n_merges;        /* left, right, both: numbers of tokens */
    int ranks[MAX_TOKENS][MAX_TOKENS];             /* INT_MAX: no merge */
    const char *pre, *added, *post, *before_model; /* JSON; NULL: none */
    int lists;                                     /* merges as ["a", "b"] */
} model;

#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"
#define SPLIT(REGEX)                                                                                                   \
    "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" REGEX "\"},\"behavior\":\"Isolated\",\"invert\":false}"
#define SEQUENCE(LIST) "{\"type\":\"Sequence\",\"pretokenizers\":[" LIST "," BYTE_LEVEL "]}"
#define ADDED(ID, CONTENT, L, R, NORMALIZED, SPECIAL)                                                                  \
    "{\"id\":" ID ",\"content\":\"" CONTENT "\",\"single_word\":false,\"lstrip\":" L ",\"rstrip\":" R                  \
    ",\"normalized\":" NORMALIZED ",\"special\":" SPECIAL "}"
#define PLAIN_ADDED(ID, CONTENT) ADDED(ID, CONTENT, "false", "false", "false", "false")

/* The bytes, and up to n merges of what is there already; alphabet NULL: of any bytes. */
static void random_model(test_rng *r, model *m, int n, const char *alphabet, int shuffled) {
    memset(m, 0, sizeof *m);
    for (m->n = 0; m->n < 256; m->n++) {
        m->tokens[m->n].b[0] = (unsigned char)m->n;
        m->tokens[m->n].n = 1;
    }
    for (int tries = 0; tries < 20 * n && m->n_merges < n; tries++) {
        int pair[2], known = -1;
        for (int k = 0; k < 2; k++) {
            const int fresh = m->n > 256 && test_int(r, 2);
            pair[k] = fresh      ? 256 + test_int(r, m->n - 256)
                      : alphabet ? (unsigned char)alphabet[test_int(r, (int)strlen(alphabet))]
                                 : test_int(r, 256);
        }
        const int length = m->tokens[pair[0]].n + m->tokens[pair[1]].n;
        if (length > 24) continue;
        memcpy(m->tokens[m->n].b, m->tokens[pair[0]].b, (size_t)m->tokens[pair[0]].n);
        memcpy(m->tokens[m->n].b + m->tokens[pair[0]].n, m->tokens[pair[1]].b, (size_t)m->tokens[pair[1]].n);
        m->tokens[m->n].n = length;
        for (int i = 0; i < m->n; i++)
            if (m->tokens[i].n == length && !memcmp(m->tokens[i].b, m->tokens[m->n].b, (size_t)length)) known = i;
        int twice = 0;
        for (int i = 0; i < m->n_merges; i++) twice |= m->merges[i][0] == pair[0] && m->merges[i][1] == pair[1];
        if (twice) continue;
        if (known < 0) known = m->n++; /* else another way to the same token */
        m->merges[m->n_merges][0] = pair[0];
        m->merges[m->n_merges][1] = pair[1];
        m->merges[m->n_merges++][2] = known;
    }
    for (int i = m->n_merges; shuffled && i-- > 1;) {
        int other[3];
        const int k = test_int(r, i + 1);
        memcpy(other, m->merges[i], sizeof other);
        memcpy(m->merges[i], m->merges[k], sizeof other);
        memcpy(m->merges[k], other, sizeof other);
    }
    for (int i = 0; i < MAX_TOKENS; i++)
        for (int k = 0; k < MAX_TOKENS; k++) m->ranks[i][k] = INT_MAX;
    for (int i = 0; i < m->n_merges; i++) m->ranks[m->merges[i][0]][m->merges[i][1]] = i;
    for (int i = 0; i < m->n; i++) m->tokens[i].id = i;
    for (int i = m->n; i-- > 1;) {
        const int k = test_int(r, i + 1), id = m->tokens[i].id;
        m->tokens[i].id = m->tokens[k].id;
        m->tokens[k].id = id;
    }
}

/* A byte as tokenizer.json spells it, for JSON. */
static void put_spelled(text *t, const unsigned char *bytes, int n) {
    for (int i = 0; i < n; i++) {
        char escape[16];
        int code = bytes[i], others = 0;
        if (code <= 32 || (code >= 127 && code <= 160) || code == 173) {
            for (int b = 0; b < code; b++) others += b <= 32 || (b >= 127 && b <= 160) || b == 173;
            code = 256 + others;
        }
        snprintf(escape, sizeof escape, "\\u%04x", (unsigned)code);
        put(t, escape);
    }
}

static void put_file(text *t, const model *m) {
    char number[24];
    put(t, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
    put(t, m->added ? m->added : "");
    put(t, "],\"normalizer\":null,\"pre_tokenizer\":");
    put(t, m->pre ? m->pre : BYTE_LEVEL);
    put(t, ",\"post_processor\":");
    put(t, m->post ? m->post : "null");
    put(t, ",\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":true,\"use_regex\":true},"
           "\"model\":{\"type\":\"BPE\",");
    put(t, m->before_model ? m->before_model : "");
    put(t, "\"vocab\":{");
    for (int i = 0; i < m->n; i++) {
        put(t, i ? ",\"" : "\"");
        put_spelled(t, m->tokens[i].b, m->tokens[i].n);
        snprintf(number, sizeof number, "\":%d", m->tokens[i].id);
        put(t, number);
    }
    put(t, "},\"merges\":[");
    for (int i = 0; i < m->n_merges; i++) {
        put(t, i ? "," : "");
        put(t, m->lists ? "[\"" : "\"");
        put_spelled(t, m->tokens[m->merges[i][0]].b, m->tokens[m->merges[i][0]].n);
        put(t, m->lists ? "\",\"" : " ");
        put_spelled(t, m->tokens[m->merges[i][1]].b, m->tokens[m->merges[i][1]].n);
        put(t, m->lists ? "\"]" : "\"");
    }
    put(t, "]}}");
}

static tokenizer *open_model(const model *m) {
    text file = {NULL, 0, 0};
    tokenizer *t;
    mla_error err;
    put_file(&file, m);
    memset(&err, 0, sizeof err);
    CHECK(!tokenizer_parse(&t, file.s, file.n, "test", &err), "%s", err.text);
    clear(&file);
    if (!t) puts("nothing to test"), exit(test_end());
    return t;
}

static void put_file_with(text *t, const char *pre, const char *added, const char *post, const char *before_model) {
    model *m = (model *)need(malloc(sizeof *m));
    test_rng r = {1};
    random_model(&r, m, 0, NULL, 0);
    for (int i = 0; i < 256; i++) m->tokens[i].id = i;
    m->pre = pre;
    m->added = added;
    m->post = post;
    m->before_model = before_model;
    put_file(t, m);
    free(m);
}

/* Bytes only: the id of a byte is the byte. */
static tokenizer *open_bytes(const char *pre, const char *added, const char *post) {
    text file = {NULL, 0, 0};
    tokenizer *t;
    mla_error err;
    memset(&err, 0, sizeof err);
    put_file_with(&file, pre, added, post, NULL);
    CHECK(!tokenizer_parse(&t, file.s, file.n, "test", &err), "%s", err.text);
    clear(&file);
    if (!t) puts("nothing to test"), exit(test_end());
    return t;
}

/* ---- the judges -------------------------------------------------------------------------------------------------- */

/* Byte pair encoding as it is defined: ids [n], and how many. */
static int plain_bpe(const model *m, const unsigned char *s, int n, int *ids) {
    for (int i = 0; i < n; i++) ids[i] = s[i];
    for (;;) {
        int best = -1;
        for (int i = 0; i + 1 < n; i++)
            if (m->ranks[ids[i]][ids[i + 1]] != INT_MAX &&
                (best < 0 || m->ranks[ids[i]][ids[i + 1]] < m->ranks[ids[best]][ids[best + 1]]))
                best = i;
        if (best < 0) break;
        ids[best] = m->merges[m->ranks[ids[best]][ids[best + 1]]][2];
        for (int i = best + 1; i + 1 < n; i++) ids[i] = ids[i + 1];
        n--;
    }
    for (int i = 0; i < n; i++) ids[i] = m->tokens[ids[i]].id;
    return n;
}

/* A backtracking matcher of what the pre-tokenizers' regexes are written in, on code points. */
typedef struct subject {
    const uint32_t *c;
    int n;
    const unsigned char *classes; /* TOK__L ... by code point */
} subject;

static uint32_t regex_code(const char **re) {
    size_t at = 0;
    const uint32_t c = tok__next((const unsigned char *)*re, &at);
    *re += at;
    return c;
}

/* Whether c is one of the atom at *re; *re moves behind it. */
static int regex_atom(const subject *x, const char **re, uint32_t c) {
    if (**re == '\\') {
        const char e = (*re)[1];
        *re += 2;
        if (e == 's' || e == 'S') return (x->classes[c] == TOK__W) == (e == 's');
        if (e == 'p') {
            const char name = (*re)[1];
            *re += 3;
            return x->classes[c] == (name == 'L'   ? TOK__L
                                     : name == 'M' ? TOK__M
                                     : name == 'N' ? TOK__N
                                     : name == 'P' ? TOK__P
                                                   : TOK__S);
        }
        return c == (uint32_t)(e == 'r' ? '\r' : e == 'n' ? '\n' : e);
    }
    if (**re == '[') {
        int in = 0;
        const int negated = (*re)[1] == '^';
        *re += 1 + negated;
        while (**re != ']') {
            if (**re == '\\' && strchr("sSp", (*re)[1])) in |= regex_atom(x, re, c);
            else {
                uint32_t first, last;
                if (**re == '\\') ++*re, first = (uint32_t)(**re == 'r' ? '\r' : **re == 'n' ? '\n' : **re), ++*re;
                else first = regex_code(re);
                last = first;
                if (**re == '-') {
                    ++*re;
                    if (**re == '\\') ++*re;
                    last = regex_code(re);
                }
                in |= c >= first && c <= last;
            }
        }
        ++*re;
        return in != negated;
    }
    return c == regex_code(re);
}

/* The end of the match of one alternative, which begins at re, or -1. */
static int regex_match(const subject *x, const char *re, int at) {
    int least = 1, most = 1, count = 0;
    const char *after = re;
    if (*re == 0 || *re == '|') return at;
    if (!strncmp(re, "(?!\\S)", 6))
        return at == x->n || x->classes[x->c[at]] == TOK__W ? regex_match(x, re + 6, at) : -1;
    if (*re == '$') return at == x->n || x->c[at] == '\n' ? regex_match(x, re + 1, at) : -1;
    regex_atom(x, &after, 'x');
    if (*after == '?') least = 0, after++;
    else if (*after == '+') most = INT_MAX, after++;
    else if (*after == '*') least = 0, most = INT_MAX, after++;
    else if (*after == '{') most = after[3] - '0', after += 5; /* {1,n} */
    for (const char *r = re; count < most && at + count < x->n && regex_atom(x, &r, x->c[at + count]); r = re) count++;
    for (; count >= least; count--) {
        const int end = regex_match(x, after, at + count);
        if (end >= 0) return end;
    }
    return -1;
}

static int regex_find(const subject *x, const char *re, int from, int *begin, int *end) {
    for (*begin = from; *begin < x->n; ++*begin)
        for (const char *r = re; r;) {
            int brackets = 0;
            *end = regex_match(x, r, *begin);
            if (*end > *begin) return 1;
            for (; *r && (*r != '|' || brackets); r++) { /* the next alternative */
                if (*r == '\\') r++;
                else if (*r == '[' || *r == ']') brackets = *r == '[';
            }
            r = *r ? r + 1 : NULL;
        }
    return 0;
}

/* ---- regexes ----------------------------------------------------------------------------------------------------- */

static const char *const regexes[] = {TOK__WORDS_REGEX("\r", "\n"),
                                      TOK__WORDS_REGEX("\\r", "\\n"),
                                      "\\p{N}{1,3}",
                                      "\\p{N}",
                                      "[一-龥぀-ゟ゠-ヿ]+",
                                      "[\r\n]",
                                      "\\s+$",
                                      "\\s?[A-Za-zµÀ-ÖØ-öø-ƺͰ-ͳΆΈ-ΊΌΎ-Ρа-я𐐀-𐑏]+",
                                      "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
                                      "[一-龥ࠀ-一가-퟿]+",
                                      "\\s?\\p{L}+",
                                      "\\s?\\p{P}+",
                                      " ?[^\\s\\p{L}\\p{N}]+",
                                      " ?[\\p{S}\\p{M}\\-\\]\\^a-f]{1,2}",
                                      "[^ab]+",
                                      "\\s",
                                      "\\s?\\s+",
                                      " ?[ \\n-a]"};

static void test_regexes(test_rng *r) {
    SECTION("regexes");
    tokenizer *t = open_bytes(NULL, NULL, NULL);
    for (size_t k = 0; k < sizeof regexes / sizeof regexes[0]; k++) {
        tok__stage stage;
        memset(&stage, 0, sizeof stage);
        CHECK(tok__read_regex(t, &stage, regexes[k], strlen(regexes[k])) == 1, "%s is known", regexes[k]);
        int matches = 0;
        for (int round = 0; round < 1500; round++) {
            text s = {NULL, 0, 0};
            uint32_t codes[64];
            size_t starts[65], at = 0, begin, end;
            subject x = {codes, 0, t->classes};
            int from = 0, ok = 1, want_begin, want_end, found;
            random_text(r, &s, 1 + test_int(r, 40), round % 2);
            while (at < s.n) {
                starts[x.n] = at;
                codes[x.n++] = tok__next((const unsigned char *)s.s, &at);
            }
            starts[x.n] = s.n;
            at = 0;
            do {
                const unsigned char *u = (const unsigned char *)s.s;
                found = stage.kind == TOK__RUN     ? tok__find_run(t, &stage, u, s.n, at, &begin, &end)
                        : stage.kind == TOK__WORDS ? tok__find_word(t, u, s.n, at, &begin, &end)
                                                   : tok__find_trailing(t, u, s.n, at, &begin, &end);
                const int wanted = regex_find(&x, regexes[k], from, &want_begin, &want_end);
                ok = found == wanted && (!found || (begin == starts[want_begin] && end == starts[want_end]));
                if (found && ok) at = end, from = want_end, matches++;
            } while (ok && found && from < x.n);
            CHECK(ok, "%s on \"%s\" from %d", regexes[k], s.s, from);
            clear(&s);
        }
        CHECK(matches > 100, "%s: %d matches", regexes[k], matches);
        free(stage.set.ranges);
        free(stage.before.ranges);
    }
    static const char *const unknown[] = {"",
                                          "a",
                                          "a+",
                                          ".",
                                          "\\w+",
                                          "[a-z",
                                          "[]",
                                          "[z-a]",
                                          "[a[b]]",
                                          "[a&&b]",
                                          "[-a]",
                                          "[a-]",
                                          "[a-\\s]",
                                          "[\\s-a]",
                                          "\\p{Lu}",
                                          "\\p{^L}",
                                          "\\P{L}",
                                          "\\p{L",
                                          "[\\p]",
                                          "[\\",
                                          "\\",
                                          "\\p{L}*",
                                          "\\p{L}{2,3}",
                                          "\\p{L}{1,}",
                                          "\\p{L}{1,10}",
                                          "\\p{L}{1,0}",
                                          "(a+)+b",
                                          "\\s?",
                                          " ?",
                                          "\\s?\\s?[a]",
                                          "[a]+?",
                                          "[a]++",
                                          "[a]|[b]",
                                          "^[a]",
                                          "[a]$",
                                          "\\s+$ ",
                                          "[[:alpha:]]",
                                          "[a]{1,3}+",
                                          "\\d",
                                          "[\\d]",
                                          "[\\xff]",
                                          "[\\u00e9]",
                                          "x[a]",
                                          "[a]x",
                                          "\\s?[",
                                          "\\p{N}{1,3}|\\p{L}"};
    for (size_t k = 0; k < sizeof unknown / sizeof unknown[0]; k++) {
        tok__stage stage;
        memset(&stage, 0, sizeof stage);
        CHECK(tok__read_regex(t, &stage, unknown[k], strlen(unknown[k])) == 0, "\"%s\" is refused", unknown[k]);
        free(stage.set.ranges);
        free(stage.before.ranges);
    }
    tokenizer_close(t);
}

static void test_unicode(void) {
    SECTION("unicode classes");
    static const struct {
        uint32_t c;
        int k;
    } spots[] = {{'A', TOK__L},     {'z', TOK__L},     {'0', TOK__N},     {'_', TOK__P},     {'$', TOK__S},
                 {' ', TOK__W},     {0, TOK__O},       {0x7F, TOK__O},    {0x85, TOK__W},    {0xA0, TOK__W},
                 {0xAA, TOK__L},    {0xAD, TOK__O},    {0xB2, TOK__N},    {0xD7, TOK__S},    {0x301, TOK__M},
                 {0x378, TOK__O},   {0x5BE, TOK__P},   {0x663, TOK__N},   {0x1680, TOK__W},  {0x180E, TOK__O},
                 {0x1C89, TOK__L},  {0x200B, TOK__O},  {0x200D, TOK__O},  {0x2028, TOK__W},  {0x2167, TOK__N},
                 {0x2E2F, TOK__L},  {0x3000, TOK__W},  {0x3007, TOK__N},  {0x4E00, TOK__L},  {0x9FFF, TOK__L},
                 {0xA7CE, TOK__O},  {0xAC00, TOK__L},  {0xD7A3, TOK__L},  {0xD7A4, TOK__O},  {0xD800, TOK__O},
                 {0xE000, TOK__O},  {0xFE0F, TOK__M},  {0xFEFF, TOK__O},  {0xFFFD, TOK__S},  {0xFFFF, TOK__O},
                 {0x10D40, TOK__N}, {0x11DE0, TOK__D}, {0x11DE9, TOK__D}, {0x16FF6, TOK__D}, {0x16FF7, TOK__O},
                 {0x1F3FB, TOK__S}, {0x1F600, TOK__S}, {0x20000, TOK__L}, {0x2A6DF, TOK__L}, {0x2A6E0, TOK__O},
                 {0x323AF, TOK__L}, {0x323B0, TOK__O}, {0xE0100, TOK__M}, {0x10FFFF, TOK__O}};
    static const struct {
        int k, count;
    } sums[] = {{TOK__L, 141028}, {TOK__M, 2501}, {TOK__N, 1911}, {TOK__P, 855},
                {TOK__S, 8514},   {TOK__W, 25},   {TOK__D, 13}};
    size_t total = 0; /* must be known before anything is written */
    for (size_t i = 0; i < sizeof tok__unicode / sizeof tok__unicode[0]; i++)
        for (const char *c = tok__unicode[i]; *c; c++)
            if (*c >= 'a') total += (size_t)atoi(c + 1);
    if (!CHECK(total == TOK__CODES, "the runs have %zu code points", total)) return;
    unsigned char *classes = (unsigned char *)need(malloc(TOK__CODES));
    tok__expand_unicode(classes);
    for (size_t i = 0; i < sizeof spots / sizeof spots[0]; i++)
        CHECK(classes[spots[i].c] == spots[i].k, "U+%04X: class %d, expected %d", (unsigned)spots[i].c,
              classes[spots[i].c], spots[i].k);
    for (size_t i = 0; i < sizeof sums / sizeof sums[0]; i++) {
        int count = 0;
        for (size_t c = 0; c < TOK__CODES; c++) count += classes[c] == sums[i].k;
        CHECK(count == sums[i].count, "class %d: %d code points, Unicode 16.0 has %d", sums[i].k, count, sums[i].count);
    }
    free(classes);
}

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

/* ids as text, for messages and comparison */
static const char *encoded(const tokenizer *t, const char *s, size_t n, unsigned flags) {
    static char out[4096];
    int ids[600];
    const int64_t k = tokenizer_encode(t, s, n, flags, ids, 600);
    size_t at = 0;
    out[0] = 0;
    for (int64_t i = 0; i < k && i < 600; i++)
        at += (size_t)snprintf(out + at, sizeof out - at, i ? " %d" : "%d", ids[i]);
    return out;
}

/* What the ids stand for is the text. */
static int same_back(const tokenizer *t, const text *s, const int *ids, int64_t n) {
    text back = {NULL, 0, 0};
    int same;
    put(&back, "");
    for (int64_t i = 0; i < n; i++) {
        size_t length;
        const char *bytes = tokenizer_bytes(t, ids[i], &length);
        if (bytes) put_bytes(&back, bytes, length);
    }
    same = back.n == s->n && (!s->n || !memcmp(back.s, s->s, s->n));
    clear(&back);
    return same;
}

static void test_merging(test_rng *r) {
    SECTION("byte pair encoding");
    model *m = (model *)need(malloc(sizeof *m));
    int merged = 0;
    for (int round = 0; round < 60; round++) {
        random_model(r, m, 10 + test_int(r, 300),
                     round % 3   ? "ab c"
                     : round % 2 ? NULL
                                 : "\xC3\xA9\xE4\xB8\x80\x81 a",
                     round % 2);
        m->lists = round / 2 % 2;
        tokenizer *t = open_model(m);
        CHECK(tokenizer_size(t) == m->n, "size %d of %d", tokenizer_size(t), m->n);
        for (int k = 0; k < 60; k++) {
            text s = {NULL, 0, 0};
            int want[2000], got[2000];
            random_text(r, &s, test_int(r, k % 4 ? 40 : 300), round % 4 != 0);
            put(&s, "");
            const int n = plain_bpe(m, (const unsigned char *)s.s, (int)s.n, want);
            const int64_t count = tokenizer_encode(t, s.s, s.n, 0, got, 2000);
            CHECK(count == n && !memcmp(want, got, sizeof *got * (size_t)n), "\"%s\": %d ids, expected %d", s.s,
                  (int)count, n);
            CHECK(tokenizer_encode(t, s.s, s.n, 0, NULL, 0) == n, "counted");
            CHECK(same_back(t, &s, got, count), "\"%s\" comes back", s.s);
            merged += (int)s.n - n;
            clear(&s);
        }
        tokenizer_close(t);
    }
    CHECK(merged > 10000, "%d merges", merged);

    /* a merge that stands twice: the later rank counts */
    text file = {NULL, 0, 0};
    tokenizer *t;
    put_file_with(&file, NULL, NULL, NULL, NULL);
    file.n -= strlen("},\"merges\":[]}}");
    put(&file, ",\"ab\":300,\"bc\":301},\"merges\":[\"a b\",[\"b\",\"c\"],\"a b\"]}}");
    CHECK(!tokenizer_parse(&t, file.s, file.n, NULL, NULL), "both spellings in one file");
    CHECK(!strcmp(encoded(t, "abc ab", 6, 0), "97 301 32 300"), "%s", encoded(t, "abc ab", 6, 0));
    CHECK(tokenizer_size(t) == 302 && !tokenizer_bytes(t, 299, NULL) && tokenizer_bytes(t, 300, NULL),
          "a gap in the ids");
    tokenizer_close(t);
    clear(&file);
    free(m);
}

/* All steps together: pre-tokenizers one after the other (judge: the backtracking regexes), then merges. */
static void test_pipeline(test_rng *r) {
    SECTION("pre-tokenizers and merges");
    static const struct {
        const char *json;
        const char *regexes[8];
    } cases[] = {
        {SEQUENCE(SPLIT("\\\\p{N}{1,3}") "," SPLIT("[一-龥぀-ゟ゠-ヿ]+") "," SPLIT(
             "[!\\\"#$%&'()*+,\\\\-./"
             ":;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\\\p{L}\\\\p{P}\\\\p{S}]?[\\\\p{L}\\\\p{M}]+| "
             "?[\\\\p{P}\\\\p{S}]+[\\r\\n]*|"
             "\\\\s*[\\r\\n]+|\\\\s+(?!\\\\S)|\\\\s+")),
         {"\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", TOK__WORDS_REGEX("\r", "\n")}},
        {SEQUENCE(SPLIT("[\\r\\n]") "," SPLIT("\\\\s?[A-Za-zµÀ-ÖØ-öø-ƺΌΎ-Ρ]+") "," SPLIT(
             "\\\\s?[!-/"
             ":-~！-／：-～‘-‟　-。]"
             "+") "," SPLIT("\\\\s+$") "," SPLIT("[一-龥ࠀ-一가-퟿]+") ",{\"type\":\"Digits\",\"individual_"
                                                                             "digits\":"
                                                                             "true}"),
         {"[\r\n]", "\\s?[A-Za-zµÀ-ÖØ-öø-ƺΌΎ-Ρ]+", "\\s?[!-/:-~！-／：-～‘-‟　-。]+", "\\s+$",
          "[一-龥ࠀ-一가-퟿]+", "[\\p{N}\U00011DE0-\U00011DE9\U00016FF4-\U00016FF6]"}},
        {SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":false},{\"type\":\"Sequence\",\"pretokenizers\":[" SPLIT(
             "[ab]+") "]}"),
         {"[\\p{N}\U00011DE0-\U00011DE9\U00016FF4-\U00016FF6]+", "[ab]+"}}};
    model *m = (model *)need(malloc(sizeof *m));
    for (int round = 0; round < 24; round++) {
        const int which = round % 3;
        random_model(r, m, 200, round / 3 % 2 ? "ab c,.\n1" : "\xC3\xA9\xE4\xB8\x80\x81 a1\n", 0);
        m->pre = cases[which].json;
        tokenizer *t = open_model(m);
        for (int k = 0; k < 60; k++) {
            text s = {NULL, 0, 0};
            int want[800], got[800], n = 0, cut[801]; /* cut: whether a piece begins at this code point */
            uint32_t codes[200];
            size_t starts[201], at = 0;
            subject all = {codes, 0, t->classes};
            random_text(r, &s, 1 + test_int(r, 60), k % 2);
            while (at < s.n) {
                starts[all.n] = at;
                codes[all.n++] = tok__next((const unsigned char *)s.s, &at);
            }
            starts[all.n] = s.n;
            for (int i = 0; i <= all.n; i++) cut[i] = i == 0 || i == all.n;
            for (int stage = 0; cases[which].regexes[stage]; stage++)
                for (int from = 0, to; from < all.n; from = to) { /* every piece there is by now */
                    subject piece = {codes + from, 0, t->classes};
                    int begin, end = 0;
                    for (to = from + 1; !cut[to];) to++;
                    piece.n = to - from;
                    while (regex_find(&piece, cases[which].regexes[stage], end, &begin, &end))
                        cut[from + begin] = cut[from + end] = 1;
                }
            for (int from = 0, to; from < all.n; from = to) {
                for (to = from + 1; !cut[to];) to++;
                n +=
                    plain_bpe(m, (const unsigned char *)s.s + starts[from], (int)(starts[to] - starts[from]), want + n);
            }
            const int64_t count = tokenizer_encode(t, s.s, s.n, 0, got, 800);
            CHECK(count == n && !memcmp(want, got, sizeof *got * (size_t)n),
                  "pre-tokenizer %d, \"%s\": %d ids, expected %d", which, s.s, (int)count, n);
            clear(&s);
        }
        tokenizer_close(t);
    }
    free(m);
}

static void test_added(void) {
    SECTION("added tokens and post-processor");
    static const struct {
        const char *s;
        unsigned flags;
        const char *ids;
    } cases[] = {{"", 0, ""},
                 {"x", 0, "120"},
                 {"<s>", 0, "300"},
                 {"a<s>b<s>", 0, "97 300 98 300"},
                 {"<s", 0, "60 115"},
                 {"<s><", 0, "300 60"},
                 {"<<s>>", 0, "60 300 62"},
                 {"abcd", 0, "302 100"},
                 {"abab", 0, "301 301"},
                 {"aab", 0, "97 301"},
                 {"bcd", 0, "303"},
                 {"abcbcd", 0, "302 303"},
                 {"xbcd", 0, "120 303"},
                 {"bcab", 0, "98 99 301"},
                 /* "normalized": false comes first, whatever lies further left */
                 {"bcabcd", 0, "98 99 302 100"},
                 {"b<s>cd", 0, "98 300 99 100"},
                 {"bcd<s>", 0, "303 300"},
                 {"x [L] y", 0, "120 304 32 121"},
                 {"x [R] y", 0, "120 32 305 121"},
                 {"x\t\xE3\x80\x80[L]", 0, "120 304"},
                 {"[R] \n\xC2\xA0y", 0, "305 121"},
                 {"[R] [L]", 0, "305 304"},
                 {"[R]  ", 0, "305"},
                 {" [L]", 0, "304"},
                 {"<s> [L]", 0, "300 304"},
                 {"\xE4\xB8\xAD", 0, "306"},
                 {"\xE4\xB8\xAD\xE4\xB8\xADx", 0, "306 306 120"},
                 {"<u>", 0, "307"},
                 {"<s>", TOKENIZER_PLAIN, "60 115 62"},
                 {"ab<s>ab", TOKENIZER_PLAIN, "301 60 115 62 301"},
                 {"\xE4\xB8\xAD<u>", TOKENIZER_PLAIN, "306 60 117 62"},
                 {"x", TOKENIZER_SPECIAL, "300 307 120 301"},
                 {"", TOKENIZER_SPECIAL, "300 307 301"},
                 {"<s>", TOKENIZER_SPECIAL | TOKENIZER_PLAIN, "300 307 60 115 62 301"},
                 {"\xFF", 0, "239 191 189"},
                 {"<s\xFF>", 0, "60 115 239 191 189 62"},
                 {"\xC3", 0, "239 191 189"},
                 {"\xE4\xB8", 0, "239 191 189"},
                 {"\xE4\xB8x", 0, "239 191 189 120"},
                 {"\xE4\xB8\xE4\xB8\x80", 0, "239 191 189 228 184 128"},
                 {"\xED\xA0\x80", 0, "239 191 189 239 191 189 239 191 189"},
                 {"\xF4\x90", 0, "239 191 189 239 191 189"},
                 {"\xC0\x80", 0, "239 191 189 239 191 189"},
                 {"\xF0\x9F\x98", 0, "239 191 189"}};
    static const char *const added =
        ADDED("300", "<s>", "false", "false", "false", "true") "," PLAIN_ADDED("301", "ab") "," PLAIN_ADDED(
            "302",
            "abc") "," ADDED("303", "bcd", "false", "false", "true",
                             "false") "," ADDED("304", "[L]", "true", "false", "false",
                                                "false") "," ADDED("305", "[R]", "false", "true", "true",
                                                                   "false") "," ADDED("306", "\xE4\xB8\xAD", "false",
                                                                                      "false", "true",
                                                                                      "false") "," PLAIN_ADDED("307",
                                                                                                               "<u>");
    static const char *const template_ =
        "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"trim_offsets\":"
        "false},"
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"B\",\"type_id\":0}},{\"Sequence\":{"
        "\"id\":\"A\",\"type_id\":0}},"
        "{\"SpecialToken\":{\"id\":\"E\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"B\":{\"id\":\"B\",\"ids\":["
        "300,307],\"tokens\":[\"<s>\",\"<u>\"]},"
        "\"E\":{\"id\":\"E\",\"ids\":[301],\"tokens\":[\"ab\"]}}}]}";
    tokenizer *t = open_bytes(NULL, added, template_);
    size_t n = 0;
    int ids[3] = {-7, -7, -7};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *got = encoded(t, cases[i].s, strlen(cases[i].s), cases[i].flags);
        CHECK(!strcmp(got, cases[i].ids), "\"%s\", flags %u: %s, expected %s", cases[i].s, cases[i].flags, got,
              cases[i].ids);
    }
    CHECK(!strcmp(encoded(t, "a\0<s>\0", 6, 0), "97 0 300 0"), "NUL in the text: %s", encoded(t, "a\0<s>\0", 6, 0));
    CHECK(tokenizer_encode(t, "abcde", 5, 0, ids, 2) == 3 && ids[0] == 302 && ids[1] == 100 && ids[2] == -7,
          "no more than the capacity is written");
    CHECK(tokenizer_encode(t, NULL, 0, 0, NULL, 0) == 0, "no text");
    CHECK(tokenizer_encode(NULL, "a", 1, 0, NULL, 0) == -1 && tokenizer_encode(t, NULL, 1, 0, NULL, 0) == -1, "NULL");
    CHECK(tokenizer_size(t) == 308 && tokenizer_size(NULL) == 0, "size %d", tokenizer_size(t));
    CHECK(tokenizer_is_special(t, 300) && !tokenizer_is_special(t, 301) && !tokenizer_is_special(t, 97) &&
              !tokenizer_is_special(t, -1) && !tokenizer_is_special(t, 308),
          "special");
    CHECK(!tokenizer_bytes(t, -1, &n) && n == 0 && !tokenizer_bytes(t, 308, &n) && !tokenizer_bytes(t, 260, &n) &&
              !tokenizer_bytes(t, INT_MIN, NULL),
          "no such id");
    CHECK(!strcmp(tokenizer_bytes(t, 306, &n), "\xE4\xB8\xAD") && n == 3, "an added token stands for its content");
    CHECK(tokenizer_bytes(t, 32, &n)[0] == ' ' && n == 1, "the bytes of an entry");
    CHECK(tokenizer_find(t, "<s>") == 300 && tokenizer_find(t, "abc") == 302 && tokenizer_find(t, "bcd") == 303 &&
              tokenizer_find(t, "abcd") == -1,
          "added tokens are found");
    CHECK(tokenizer_find(t, "a") == 97 && tokenizer_find(t, "\xC4\xA0") == 32 && tokenizer_find(t, " ") == -1 &&
              tokenizer_find(t, "") == -1 && tokenizer_find(NULL, "a") == -1,
          "entries are found as they are spelled");
    tokenizer_close(t);
    tokenizer_close(NULL);

    /* white space that two tokens want: the ids are those of the reference implementation */
    t = open_bytes(NULL,
                   ADDED("300", "[R]", "false", "true", "false", "false") "," PLAIN_ADDED("301", " y") "," PLAIN_ADDED(
                       "302", "  ") "," ADDED("303", "[LR]", "true", "true", "false",
                                              "false") "," ADDED("304", "\\n", "false", "true", "false", "false"),
                   NULL);
    static const char *const spaced[][2] = {
        {"[R] y", "300 301"},           {"[R]  y", "300 302 121"},      {"[R]   y", "300 302 301"},
        {"[R]  ", "300 302"},           {"[R]     ", "300 302 302 32"}, {"[R] [LR] [LR]", "300 303 303"},
        {"\n \n y", "304 304 301"},     {"a [LR] y", "97 303 301"},     {"[R] \n  y", "300 304 302 121"},
        {"[R] yy y", "300 301 121 301"}};
    for (size_t i = 0; i < sizeof spaced / sizeof spaced[0]; i++)
        CHECK(!strcmp(encoded(t, spaced[i][0], strlen(spaced[i][0]), 0), spaced[i][1]), "\"%s\": %s, expected %s",
              spaced[i][0], encoded(t, spaced[i][0], strlen(spaced[i][0]), 0), spaced[i][1]);
    tokenizer_close(t);
    t = open_bytes(NULL, ADDED("300", "\\n", "true", "true", "true", "false"), NULL);
    CHECK(!strcmp(encoded(t, "a \n \n b", 7, 0), "97 300 98"), "%s", encoded(t, "a \n \n b", 7, 0));
    tokenizer_close(t);
}

/* Half of these texts are no UTF-8: what comes back is what a stream makes of the bytes. */
static void test_streams(test_rng *r) {
    SECTION("streams");
    tokenizer *t = open_bytes(SEQUENCE(SPLIT("\\\\s?\\\\p{L}+")), NULL, NULL);
    for (int round = 0; round < 3000; round++) {
        text s = {NULL, 0, 0}, whole = {NULL, 0, 0}, parts = {NULL, 0, 0};
        tokenizer_stream one, many;
        int ids[800], sound = 1;
        random_text(r, &s, test_int(r, 20), 0);
        put(&s, "");
        for (int k = test_int(r, 6); round % 2 && s.n && k > 0; k--)
            s.s[test_int(r, (int)s.n)] = (char)test_int(r, 256);
        if (round % 4 == 1 && s.n) s.n -= (size_t)test_int(r, (int)s.n < 4 ? (int)s.n : 4);
        memset(&one, 0, sizeof one);
        memset(&many, 0, sizeof many);
        char *out = (char *)need(malloc(3 * (s.n + 4)));
        put_bytes(&whole, out, tokenizer_stream_push(&one, s.s, s.n, out));
        put_bytes(&whole, out, tokenizer_stream_end(&one, out));
        for (size_t at = 0, n; at < s.n; at += n) {
            n = (size_t)test_int(r, 4);
            if (n > s.n - at) n = s.n - at;
            char *part = (char *)need(malloc(3 * (n + 4)));
            const size_t written = tokenizer_stream_push(&many, s.s + at, n, part);
            for (size_t i = 0, k; i < written; i += k) {
                int is;
                k = tok__utf8((unsigned char *)part + i, written - i, &is);
                sound = sound && is == 1;
            }
            put_bytes(&parts, part, written);
            free(part);
        }
        put_bytes(&parts, out, tokenizer_stream_end(&many, out));
        CHECK(sound, "whole characters only");
        CHECK(one.n == 0 && many.n == 0 && parts.n == whole.n && !memcmp(parts.s, whole.s, whole.n),
              "in parts: %zu bytes, whole: %zu", parts.n, whole.n);
        if (round % 2 == 0) CHECK(whole.n == s.n && !memcmp(whole.s, s.s, s.n), "valid text is unchanged");
        const int64_t n = tokenizer_encode(t, s.s, s.n, 0, ids, 800);
        CHECK(n >= 0 && n <= 800 && same_back(t, &whole, ids, n), "encode sees what a stream shows");
        free(out);
        clear(&s);
        clear(&whole);
        clear(&parts);
    }
    static const char *const broken[][2] = {{"\xE4", "?"},
                                            {"\xE4\xB8", "?"},
                                            {"\xE4\xB8\xE4", "??"},
                                            {"\xF0\x9F\x98", "?"},
                                            {"\xF0\x9F\x98"
                                             "a",
                                             "?a"},
                                            {"\xC0\xAF", "??"},
                                            {"\xE0\x9F\xBF", "???"},
                                            {"\xED\xA0\x80", "???"},
                                            {"\xF4\x90\x80\x80", "????"},
                                            {"\xFE\xFF", "??"},
                                            {"\x80", "?"},
                                            {"\xF0\x80", "??"}};
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        char out[64], want[64];
        size_t n = 0, k;
        tokenizer_stream stream;
        memset(&stream, 0, sizeof stream);
        for (const char *c = broken[i][1]; *c; c++)
            n += (size_t)snprintf(want + n, sizeof want - n, "%s", *c == '?' ? "\xEF\xBF\xBD" : "a");
        k = tokenizer_stream_push(&stream, broken[i][0], strlen(broken[i][0]), out);
        k += tokenizer_stream_end(&stream, out + k);
        CHECK(k == n && !memcmp(out, want, n), "bytes %zu: %zu out, expected %zu", i, k, n);
    }
    tokenizer_close(t);
}

/* ---- files that are wrong ---------------------------------------------------------------------------------------- */

/* A small file with all parts that can go wrong; ids of bytes are the bytes. */
static void put_sample(text *t) {
    put_file_with(
        t,
        SEQUENCE(SPLIT("\\\\p{N}{1,3}") "," SPLIT("\\\\s?[a-z]+") ",{\"type\":\"Digits\",\"individual_digits\":true}"),
        ADDED("300", "<s>", "false", "true", "false", "true") "," ADDED("301", "xyz", "false", "false", "true",
                                                                        "false"),
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},{\"Sequence\":{"
        "\"id\":\"A\",\"type_id\":0}}],\"pair\":[],"
        "\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[300],\"tokens\":[\"<s>\"]}}}",
        "\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,\"end_of_word_suffix\":\"\",\"fuse_"
        "unk\":false,\"byte_fallback\":false,"
        "\"ignore_merges\":false,");
    t->n -= strlen("},\"merges\":[]}}");
    put(t, ",\"th\":256,\"the\":257,\"\xE2\x96\x81\":258,\" \":259},\"merges\":[\"t h\",[\"th\",\"e\"]]}}");
}

/* The sample with the first `from` replaced. */
static mla_result open_changed(const char *from, const char *to, tokenizer **t, mla_error *err) {
    text file = {NULL, 0, 0}, changed = {NULL, 0, 0};
    mla_result rc;
    put_sample(&file);
    char *at = strstr(file.s, from);
    CHECK(at != NULL, "the sample has %s", from);
    if (!at) at = file.s;
    put_bytes(&changed, file.s, (size_t)(at - file.s));
    put(&changed, to);
    put(&changed, at + strlen(from));
    memset(err, 0, sizeof *err);
    rc = tokenizer_parse(t, changed.s, changed.n, "f.json", err);
    clear(&file);
    clear(&changed);
    return rc;
}

static void test_wrong_files(void) {
    SECTION("wrong files");
    enum { CONFIG = MLA_ERR_CONFIG, UNKNOWN = MLA_ERR_UNSUPPORTED };
    static const struct {
        const char *from, *to;
        int code;
        const char *says;
    } cases[] = {
        /* ids */
        {"\"th\":256", "\"th\":-1", CONFIG, "model.vocab: \"th\": the id must be an integer"},
        {"\"th\":256", "\"th\":1048576", CONFIG, "\"th\""},
        {"\"th\":256", "\"th\":2147483648", CONFIG, "\"th\""},
        {"\"th\":256", "\"th\":4294967296", CONFIG, "\"th\""},
        {"\"th\":256", "\"th\":9223372036854775808", CONFIG, "\"th\""},
        {"\"th\":256", "\"th\":256.0", CONFIG, "\"th\""},
        {"\"th\":256", "\"th\":\"256\"", CONFIG, "\"th\""},
        {"\"th\":256", "\"th\":null", CONFIG, "\"th\""},
        {"\"th\":256", "\"th\":257", CONFIG, "the id 257 stands twice"},
        {"\"th\":256", "\"th\":116", CONFIG, "the id 116 stands twice"},
        {"\"th\":256", "\"th\":256,\"th\":260", CONFIG, "stands twice"},
        {"\"th\":256", "\"th\":300", CONFIG, "\"<s>\" has the id 300, which is taken"},
        {"\"id\":300", "\"id\":-300", CONFIG, "added_tokens: \"<s>\": the id must be"},
        {"\"id\":300", "\"id\":1048576", CONFIG, "\"<s>\""},
        {"\"id\":300,", "", CONFIG, "\"<s>\""},
        {"\"id\":300", "\"id\":301", CONFIG, "\"xyz\" has the id 301, which is taken"},
        {"\"id\":301", "\"id\":257", CONFIG, "which is taken"},
        {"\"content\":\"xyz\"", "\"content\":\"the\"", CONFIG,
         "\"the\" has the id 301, which is another one in the vocabulary"},
        {"\"content\":\"xyz\"", "\"content\":\"<s>\"", CONFIG, "\"<s>\" stands twice"},
        /* vocabulary and merges */
        {"\"\\u0061\":97", "\"\\u0061\":98", CONFIG, "the id 98 stands twice"},
        {"\"\\u0061\":97,", "", CONFIG, "the byte 97 is missing"},
        {"\"\\u0120\":32,", "", CONFIG, "the byte 32 is missing"},
        {"\"vocab\":{", "\"vocab\":[],\"xx\":{", UNKNOWN, "\"xx\""},
        {"\"the\":257,", "", CONFIG, "model.merges[1]: \"the\" is not in the vocabulary"},
        {"\"t h\"", "\"t qq\"", CONFIG, "model.merges[0]: \"qq\" is not"},
        {"\"t h\"", "\"qq t\"", CONFIG, "model.merges[0]: \"qq\" is not"},
        {"\"t h\"", "\"h t\"", CONFIG, "\"ht\" is not"},
        {"\"t h\"", "\"th\"", CONFIG, "model.merges[0]: expected \"a b\""},
        {"\"t h\"", "\"t  h\"", CONFIG, "model.merges[0]"},
        {"\"t h\"", "\"t h \"", CONFIG, "model.merges[0]"},
        {"\"t h\"", "\"\"", CONFIG, "model.merges[0]"},
        {"\"t h\"", "\" \"", CONFIG, "\"\" is not"},
        {"\"t h\"", "7", CONFIG, "model.merges[0]"},
        {"\"t h\"", "[\"t\"]", CONFIG, "model.merges[0]"},
        {"\"t h\"", "[\"t\",\"h\",\"e\"]", CONFIG, "model.merges[0]"},
        {"\"t h\"", "[\"t\",1]", CONFIG, "model.merges[0]"},
        {"\"t h\"", "\"t h\\u0000\"", CONFIG, "model.merges[0]"},
        {"\"t h\"", "[\"t\\u0000\",\"h\"]", CONFIG, "model.merges[0]"},
        {"\"merges\":[", "\"merges\":7,\"more\":[", UNKNOWN, "\"more\""},
        {"\"merges\":[\"t h\",[\"th\",\"e\"]]", "\"merges\":{}", CONFIG, "model.merges"},
        {",\"merges\":[\"t h\",[\"th\",\"e\"]]", "", CONFIG, "model.merges"},
        /* names that are not known */
        {"\"type\":\"BPE\"", "\"type\":\"WordPiece\"", UNKNOWN, "model.type: \"WordPiece\""},
        {"\"type\":\"BPE\",", "", UNKNOWN, "model.type"},
        {"\"dropout\":null", "\"dropout\":0.1", UNKNOWN, "dropout"},
        {"\"ignore_merges\":false", "\"ignore_merges\":true", UNKNOWN, "ignore_merges"},
        {"\"continuing_subword_prefix\":null", "\"continuing_subword_prefix\":\"##\"", UNKNOWN,
         "continuing_subword_prefix"},
        {"\"end_of_word_suffix\":\"\"", "\"end_of_word_suffix\":\"</w>\"", UNKNOWN, "end_of_word_suffix"},
        {"\"fuse_unk\"", "\"fuze_unk\"", UNKNOWN, "\"fuze_unk\""},
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"NFC\"}", UNKNOWN, "normalizer: \"NFC\""},
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}",
         UNKNOWN, "normalizer: \"Lowercase\""},
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"Sequence\"}", UNKNOWN, "normalizer"},
        {"\"normalizer\":null", "\"normalizer\":[]", UNKNOWN, "normalizer"},
        {"\"truncation\":null", "\"truncation\":{}", UNKNOWN, "truncation"},
        {"\"padding\":null", "\"padding\":{}", UNKNOWN, "padding"},
        {"\"version\"", "\"virsion\"", UNKNOWN, "\"virsion\""},
        {"\"decoder\":{\"type\":\"ByteLevel\"", "\"decoder\":{\"type\":\"Metaspace\"", UNKNOWN,
         "decoder: \"Metaspace\""},
        {"\"decoder\"", "\"padding2\"", UNKNOWN, "padding2"},
        {"{\"type\":\"Digits\"", "{\"type\":\"Whitespace\"", UNKNOWN, "pre_tokenizer: \"Whitespace\""},
        {"{\"type\":\"Digits\",", "{", UNKNOWN, "pre_tokenizer"},
        {"\"individual_digits\":true", "\"individual_digits\":1", CONFIG, "individual_digits"},
        {"\"individual_digits\"", "\"digits\"", UNKNOWN, "\"digits\""},
        {"\\\\p{N}{1,3}", "(a+)+$", UNKNOWN, "pre_tokenizer Split: \"(a+)+$\""},
        {"\\\\p{N}{1,3}", "\\\\p{N}\\u0000", CONFIG, "without NUL"},
        {"\"Regex\"", "\"String\"", UNKNOWN, "\"String\""},
        {"\"Isolated\"", "\"Removed\"", UNKNOWN, "\"Removed\""},
        {"\"invert\":false", "\"invert\":true", UNKNOWN, "invert"},
        {"\"invert\":false", "\"invert\":0", UNKNOWN, "invert"},
        {"\"add_prefix_space\":false", "\"add_prefix_space\":true", UNKNOWN, "add_prefix_space"},
        {",\"use_regex\":false", "", UNKNOWN, "use_regex"},
        {"\"use_regex\":false", "\"use_regex\":true", UNKNOWN, "use_regex"},
        {"," BYTE_LEVEL, "", CONFIG, "pre_tokenizer: expected ByteLevel"},
        {"\"pretokenizers\":[", "\"pretokenizers\":[" BYTE_LEVEL ",", UNKNOWN, "nothing may come after ByteLevel"},
        {"\"pretokenizers\":", "\"pre\":", UNKNOWN, "\"pre\""},
        {"\"lstrip\":false", "\"lstrip\":null", CONFIG, "added_tokens[0]"},
        {"\"single_word\":false", "\"single_word\":true", UNKNOWN, "single_word"},
        {"\"lstrip\"", "\"Lstrip\"", UNKNOWN, "\"Lstrip\""},
        {"\"content\":\"<s>\"", "\"content\":\"\"", CONFIG, "content"},
        {"\"content\":\"<s>\"", "\"content\":\"<\\u0000>\"", CONFIG, "content"},
        {"\"content\":\"<s>\"", "\"content\":1", CONFIG, "content"},
        {"\"added_tokens\":[", "\"added_tokens\":[7,", CONFIG, "added_tokens"},
        {"\"type\":\"TemplateProcessing\"", "\"type\":\"BertProcessing\"", UNKNOWN,
         "post_processor: \"BertProcessing\""},
        {"\"ids\":[300]", "\"ids\":[302]", CONFIG, "ids that there are"},
        {"\"ids\":[300]", "\"ids\":[-1]", CONFIG, "ids"},
        {"\"ids\":[300]", "\"ids\":[260]", CONFIG, "ids"},
        {"\"ids\":[300]", "\"ids\":[]", CONFIG, "TemplateProcessing"},
        {"\"ids\":[300]", "\"ids\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]", CONFIG, "at most 16"},
        {"\"SpecialToken\":{\"id\":\"<s>\"", "\"SpecialToken\":{\"id\":\"<t>\"", CONFIG, "TemplateProcessing"},
        {"\"id\":\"A\"", "\"id\":\"B\"", CONFIG, "one Sequence A"},
        {"\"single\":[", "\"single\":[{\"Sequence\":{\"id\":\"A\"}},", CONFIG, "one Sequence A"},
        {",{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}", "", CONFIG, "a Sequence A"},
        {"\"single\":[", "\"single\":7,\"x\":[", CONFIG, "`single`"},
        {"{\"version\"", "[{\"version\"", CONFIG, "JSON"},
        {"\"version\":\"1.0\"", "\"version\":\"\xFF\"", CONFIG, "not UTF-8"}};
    tokenizer *t;
    mla_error err;
    CHECK(!open_changed("\"version\"", "\"version\"", &t, &err), "the sample itself: %s", err.text);
    CHECK(t && !strcmp(encoded(t, "the 1<s>  xyz", 13, TOKENIZER_SPECIAL), "300 257 32 49 300 301"), "%s",
          encoded(t, "the 1<s>  xyz", 13, TOKENIZER_SPECIAL));
    tokenizer_close(t);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const mla_result rc = open_changed(cases[i].from, cases[i].to, &t, &err);
        CHECK(rc == (mla_result)cases[i].code && err.code == rc && !t, "%s -> %s: code %d, expected %d (%s)",
              cases[i].from, cases[i].to, (int)rc, cases[i].code, err.text);
        CHECK(strstr(err.text, cases[i].says) && !strncmp(err.text, "f.json: ", 8), "%s -> %s: \"%s\" does not say %s",
              cases[i].from, cases[i].to, err.text, cases[i].says);
        tokenizer_close(t);
    }
    /* what is allowed */
    static const char *const fine[][2] = {
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[]}"},
        {"\"\\u0100\":0", "\"\\u0100\":500"},
        {"\"id\":301", "\"id\":1048575"},
        {"\"\\u00c0\":192,", ""},
        {"\"\\u00ff\":255,", ""},
        {"\"unk_token\":null", "\"unk_token\":\"<unk>\""},
        {"\"th\":256", "\"th\":290"},
        {"\"id\":301,\"content\":\"xyz\"", "\"id\":257,\"content\":\"the\""}};
    for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++) {
        const mla_result rc = open_changed(fine[i][0], fine[i][1], &t, &err);
        CHECK(!rc && t, "%s -> %s: %s", fine[i][0], fine[i][1], err.text);
        tokenizer_close(t);
    }
}

static void test_damaged_files(test_rng *r) {
    SECTION("damaged files");
    text file = {NULL, 0, 0};
    tokenizer *t;
    mla_error err;
    int opened = 0;
    put_sample(&file);
    for (size_t n = 0; n < file.n; n += n < 200 || file.n - n < 200 ? 1 : 7) {
        char *exact = (char *)need(malloc(n + 1)); /* no byte behind it, for the sanitizer */
        memcpy(exact, file.s, n);
        memset(&err, 0, sizeof err);
        exact = (char *)need(realloc(exact, n ? n : 1));
        CHECK(tokenizer_parse(&t, exact, n, "cut", &err) == MLA_ERR_CONFIG && !t && strstr(err.text, "cut: "),
              "the first %zu bytes", n);
        free(exact);
    }
    for (int round = 0; round < 3000; round++) {
        text flipped = {NULL, 0, 0};
        put_bytes(&flipped, file.s, file.n);
        for (int k = test_int(r, 3); k >= 0; k--) {
            const size_t where = (size_t)test_int(r, (int)file.n);
            flipped.s[where] =
                (char)(test_int(r, 2) ? flipped.s[where] ^ 1 << test_int(r, 8) : "\"0{}[],:\\u9-e"[test_int(r, 13)]);
        }
        memset(&err, 0, sizeof err);
        if (!tokenizer_parse(&t, flipped.s, flipped.n, "flipped", &err)) { /* then it must be usable */
            int ids[200], ok = 1;
            const int64_t n = tokenizer_encode(t, "the <s> xyz 123\n\xE2\x96\x81\xFF", 20, TOKENIZER_SPECIAL, ids, 200);
            for (int64_t i = 0; i < n && i < 200; i++)
                ok = ok && ids[i] >= 0 && ids[i] < tokenizer_size(t) && tokenizer_bytes(t, ids[i], NULL);
            CHECK(ok && n > 0 && n < 200, "a file with a change encodes");
            opened++;
        } else CHECK(!t && err.text[0] && err.code, "a file with a change gives an error");
        tokenizer_close(t);
        clear(&flipped);
    }
    CHECK(opened > 20 && opened < 2500, "%d changed files were opened", opened);

    /* every allocation that fails */
    int failures = 0;
    for (long k = 0; k < 200; k++) {
        memset(&err, 0, sizeof err);
        alloc_countdown = k;
        const mla_result rc = tokenizer_parse(&t, file.s, file.n, "f", &err);
        alloc_countdown = -1;
        CHECK(rc ? rc == MLA_ERR_MEMORY && !t && err.code == rc : t != NULL, "allocation %ld: %s", k, err.text);
        failures += rc != MLA_OK;
        tokenizer_close(t);
        if (!rc) break;
    }
    CHECK(failures > 10 && failures < 200, "%d allocations", failures);
    t = open_bytes(NULL, NULL, NULL);
    char many[100];
    memset(many, 'a', sizeof many);
    alloc_countdown = 0;
    CHECK(tokenizer_encode(t, many, 100, 0, NULL, 0) == -1, "no memory for a long word");
    alloc_countdown = 0;
    CHECK(tokenizer_encode(t, "\xFF", 1, 0, NULL, 0) == -1, "no memory for the replaced text");
    alloc_countdown = -1;
    CHECK(tokenizer_encode(t, many, 100, 0, NULL, 0) == 100, "with memory");
    tokenizer_close(t);

    /* arguments and files */
    memset(&err, 0, sizeof err);
    CHECK(tokenizer_parse(NULL, file.s, file.n, "f", &err) == MLA_ERR_ARGUMENT && err.text[0], "out is NULL");
    CHECK(tokenizer_parse(&t, NULL, 1, "f", &err) == MLA_ERR_ARGUMENT && !t, "json is NULL");
    CHECK(tokenizer_parse(&t, NULL, 0, NULL, NULL) == MLA_ERR_CONFIG && !t, "empty");
    CHECK(tokenizer_open(&t, NULL, &err) == MLA_ERR_ARGUMENT && !t, "path is NULL");
    CHECK(tokenizer_open(&t, "no/such/tokenizer.json", &err) == MLA_ERR_ARGUMENT && !t &&
              strstr(err.text, "no/such/tokenizer.json: cannot be read: no such file"),
          "%s", err.text);
    CHECK(tokenizer_open(&t, ".", &err) == MLA_ERR_ARGUMENT && !t && strstr(err.text, "cannot be read"), "%s",
          err.text);
    FILE *f = fopen("build/test_tokenizer.json", "wb");
    if (f) {
        CHECK(fwrite(file.s, 1, file.n, f) == file.n, "written");
        fclose(f);
        CHECK(!tokenizer_open(&t, "build/test_tokenizer.json", &err) && tokenizer_size(t) == 302, "opened: %s",
              err.text);
        tokenizer_close(t);
        for (long k = 0; k < 2; k++) {
            alloc_countdown = k;
            CHECK(tokenizer_open(&t, "build/test_tokenizer.json", &err) == MLA_ERR_MEMORY && !t,
                  "opened without memory");
            alloc_countdown = -1;
        }
        remove("build/test_tokenizer.json");
    }
    clear(&file);
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

static double seconds(const tokenizer *t, const char *s, size_t n, int64_t *ids) {
    double best = 1e9;
    for (int round = 0; round < 2; round++) {
        const clock_t from = clock();
        *ids = tokenizer_encode(t, s, n, 0, NULL, 0);
        const double took = (double)(clock() - from) / CLOCKS_PER_SEC;
        if (took < best) best = took;
    }
    return best;
}

static void test_time(void) {
    SECTION("time");
    enum { SMALL = 1 << 16, TIMES = 16, LARGE = SMALL * TIMES }; /* quadratic: 256 times as long */
    static const struct {
        const char *what, *unit, *pre;
    } cases[] = {{"one letter", "a", NULL},
                 {"spaces", " ", NULL},
                 {"spaces in V3's regex", " ", SEQUENCE(SPLIT("\\\\s?\\\\p{L}+") "," SPLIT("\\\\s+$"))},
                 {"spaces and letters", "  a", SEQUENCE(SPLIT("\\\\s+$"))},
                 {"line feeds and spaces", "\n \t ", SEQUENCE(SPLIT("\\\\s+$") "," SPLIT("\\\\s?[a-z]+"))},
                 {"beginnings of an added token", "<", NULL},
                 {"bytes that are no UTF-8", "\xE4", NULL}};
    text file = {NULL, 0, 0}, added = {NULL, 0, 0};
    char *s = (char *)need(malloc(LARGE + 1));
    put(&added, "{\"id\":400,\"content\":\"");
    for (int i = 0; i < 255; i++) put(&added, "<");
    put(&added, ">\",\"single_word\":false,\"lstrip\":true,\"rstrip\":true,\"normalized\":false,\"special\":false}");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tokenizer *t;
        mla_error err;
        int64_t ids;
        file.n = 0;
        put_file_with(&file, cases[i].pre, added.s, NULL, NULL);
        file.n -= strlen("},\"merges\":[]}}");
        put(&file, ",\"aa\":300,\"aaa\":301,\"aaaa\":302,\"\xC4\xA0\xC4\xA0\":303},\"merges\":[\"a a\",\"aa aa\",\"aa "
                   "a\",\"\xC4\xA0 \xC4\xA0\"]}}");
        memset(&err, 0, sizeof err);
        if (!CHECK(!tokenizer_parse(&t, file.s, file.n, "f", &err), "%s", err.text)) break;
        for (size_t k = 0, n = strlen(cases[i].unit); k < LARGE; k++) s[k] = cases[i].unit[k % n];
        s[LARGE - 1] = 'x';
        const double small = seconds(t, s, SMALL, &ids), large = seconds(t, s, LARGE, &ids);
        CHECK(ids > 0 && large < 5 * TIMES * small + 0.2, "%s: %.3f s for 64 KiB, %.3f s for 1 MiB", cases[i].what,
              small, large);
        tokenizer_close(t);
    }
    free(s);
    clear(&file);
    clear(&added);
}

int main(void) {
    test_rng r = {20240607};
    test_unicode();
    test_regexes(&r);
    test_merging(&r);
    test_pipeline(&r);
    test_added();
    test_streams(&r);
    test_wrong_files();
    test_damaged_files(&r);
    test_time();
    return test_end();
}
