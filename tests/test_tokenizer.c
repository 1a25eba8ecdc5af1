/* test_tokenizer.c - examples/tokenizer.h: against a plain byte pair encoder and a plain backtracking regex, on random
   vocabularies and texts; streaming; files that are wrong in every way. tests/tokenizer/run.sh compares with the
   reference implementation. */

#define _DEFAULT_SOURCE
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
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

/* The category of every code point, as tok__category_names counts them; and which are Han. */
static unsigned char *categories, *han;
static void make_categories(void) {
    tok__ranges all_han = {NULL, 0, 0};
    categories = (unsigned char *)need(malloc(0x110000));
    han = (unsigned char *)need(calloc(0x110000, 1));
    CHECK(tok__add_listed(&all_han, tok__han), "Han");
    for (size_t i = 0; i < all_han.n; i++)
        memset(han + all_han.list[i].first, 1, all_han.list[i].last - all_han.list[i].first + 1);
    free(all_han.list);
    memset(categories, 0xFF, 0x110000);
    for (int k = 0; k < 31; k++) {
        char name[3] = {tok__category_names[2 * k], tok__category_names[2 * k + 1], 0};
        tok__ranges r = {NULL, 0, 0};
        CHECK(tok__add_category(&r, name), "category %s", name);
        for (size_t i = 0; i < r.n; i++)
            for (uint32_t c = r.list[i].first; c <= r.list[i].last; c++) {
                if (categories[c] != 0xFF) CHECK(0, "U+%04X is twice in a category", (unsigned)c);
                categories[c] = (unsigned char)k;
            }
        free(r.list);
    }
}

static const char *category_of(uint32_t c) { return tok__category_names + 2 * categories[c]; }
static int is_space(uint32_t c) { return *category_of(c) == 'Z' || (c >= 9 && c <= 13) || c == 0x85; }

/* A judge for patterns: works on code points and on the pattern's text. A part of a pattern becomes the list of all places
   where its matches end, the preferred first. */
typedef struct subject {
    const uint32_t *c;
    int n, any_case;
} subject;

typedef struct ends {
    int n, at[80];
} ends;

static void ends_add(ends *list, int at) {
    for (int i = 0; i < list->n; i++)
        if (list->at[i] == at) return;
    if (list->n < 80) list->at[list->n++] = at;
}

static uint32_t regex_code(const char **re) {
    size_t at = 0;
    if (**re == '\\') {
        ++*re;
        if (**re == 'x') { /* \x{..} */
            char *end;
            const uint32_t c = (uint32_t)strtoul(*re + 2, &end, 16);
            *re = end + 1;
            return c;
        }
        ++*re;
        return (*re)[-1] == 'r' ? '\r' : (*re)[-1] == 'n' ? '\n' : (uint32_t)(*re)[-1];
    }
    const uint32_t c = tok__next((const unsigned char *)*re, &at);
    *re += at;
    return c;
}

static int between(const subject *x, uint32_t c, uint32_t first, uint32_t last) {
    static const uint32_t same[][3] = {{'s', 'S', 0x17F}, {'k', 'K', 0x212A}};
    if (c >= first && c <= last) return 1;
    if (!x->any_case) return 0;
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 3; k++)
            if (c == same[i][k])
                for (int m = 0; m < 3; m++)
                    if (same[i][m] >= first && same[i][m] <= last) return 1;
    c = c >= 'a' && c <= 'z' ? c - 32 : c >= 'A' && c <= 'Z' ? c + 32 : c;
    return c >= first && c <= last;
}

/* Whether c is one of the atom at *re; *re moves behind it. */
static int regex_atom(const subject *x, const char **re, uint32_t c) {
    if (**re == '\\' && strchr("sSpP", (*re)[1])) {
        const char e = (*re)[1];
        *re += 2;
        if (e == 's' || e == 'S') return is_space(c) == (e == 's');
        const int inverse = (*re)[1] == '^';
        *re += inverse;
        const size_t n = strcspn(*re, "}") - 1;
        const int is = n > 2 ? han[c] : !strncmp(category_of(c), *re + 1, n);
        *re += n + 2;
        return is == ((e == 'p') != inverse);
    }
    if (**re == '[') {
        int in = 0, all = 1;
        const int negated = (*re)[1] == '^';
        *re += 1 + negated;
        while (**re != ']') {
            if (!strncmp(*re, "&&", 2)) all &= in, in = 0, *re += 2;
            else if (**re == '[' || (**re == '\\' && strchr("sSpP", (*re)[1]))) in |= regex_atom(x, re, c);
            else {
                const uint32_t first = regex_code(re);
                uint32_t last = first;
                if (**re == '-' && (*re)[1] != ']') ++*re, last = regex_code(re);
                in |= between(x, c, first, last);
            }
        }
        ++*re;
        return (in && all) != negated;
    }
    if (**re == '.') return ++*re, c != '\n';
    const uint32_t wanted = regex_code(re);
    return between(x, c, wanted, wanted);
}

static ends regex_choice(const subject *x, const char **re, int at);

/* One atom, without what repeats it. */
static ends regex_one(const subject *x, const char **re, int at) {
    ends list = {0, {0}};
    if (**re == '(') {
        subject inner = *x;
        const char kind = (*re)[1] == '?' ? (*re)[2] : ':';
        *re += (*re)[1] != '?' ? 1 : kind == 'i' ? 4 : 3;
        if (kind == 'i') inner.any_case = 1;
        list = regex_choice(&inner, re, at);
        ++*re;
        if (kind == '>' && list.n) list.n = 1;
        if (kind == '=' || kind == '!') {
            list.n = (list.n > 0) == (kind == '=');
            list.at[0] = at;
        }
        return list;
    }
    if (**re == '$' || **re == '^' || (**re == '\\' && strchr("AzZ", (*re)[1]))) {
        const char kind = **re == '\\' ? (*re)[1] : **re;
        const int last = at == x->n;
        *re += **re == '\\' ? 2 : 1;
        if (kind == '$'   ? last || x->c[at] == '\n'
            : kind == '^' ? at == 0 || (!last && x->c[at - 1] == '\n')
            : kind == 'A' ? at == 0
            : kind == 'z' ? last
                          : last || (at + 1 == x->n && x->c[at] == '\n'))
            ends_add(&list, at);
        return list;
    }
    if (regex_atom(x, re, at < x->n ? x->c[at] : 0) && at < x->n) ends_add(&list, at + 1);
    return list;
}

typedef struct bounds {
    int least, most, lazy;
} bounds;

static void regex_times(const subject *x, const char *re, int at, int count, const bounds *b, ends *out) {
    if (b->lazy && count >= b->least) ends_add(out, at);
    if (count < b->most) {
        const char *r = re;
        const ends next = regex_one(x, &r, at);
        for (int i = 0; i < next.n; i++)
            if (next.at[i] > at || count < b->least) regex_times(x, re, next.at[i], count + 1, b, out);
    }
    if (!b->lazy && count >= b->least) ends_add(out, at);
}

static ends regex_repeated(const subject *x, const char **re, int at) {
    const char *one = *re;
    bounds b = {1, 1, 0};
    ends list = {0, {0}};
    int possessive = 0;
    regex_one(x, re, at);
    const char c = **re;
    if (c == '?' || c == '*' || c == '+') {
        ++*re;
        b.least = c == '+';
        b.most = c == '?' ? 1 : INT_MAX;
        if (**re == '?') b.lazy = 1, ++*re;
        else if (**re == '+') possessive = 1, ++*re;
    } else if (c == '{') { /* {n,m} */
        char *end;
        b.least = (int)strtol(*re + 1, &end, 10);
        b.most = *end == ',' && end[1] != '}' ? (int)strtol(end + 1, &end, 10)
                 : *end == ','                ? (end++, INT_MAX)
                                              : b.least;
        *re = end + 1;
        if (**re == '?') b.lazy = 1, ++*re;
    }
    regex_times(x, one, at, 0, &b, &list);
    if (possessive && list.n) list.n = 1;
    return list;
}

static ends regex_choice(const subject *x, const char **re, int at) {
    ends all = {0, {0}};
    for (;;) {
        ends list = {1, {0}};
        list.at[0] = at;
        while (**re && **re != '|' && **re != ')') {
            const char *from = *re;
            ends next = {0, {0}};
            regex_repeated(x, re, at); /* moves behind it, also if there is no place left */
            for (int i = 0; i < list.n; i++) {
                const char *r = from;
                const ends more = regex_repeated(x, &r, list.at[i]);
                for (int k = 0; k < more.n; k++) ends_add(&next, more.at[k]);
            }
            list = next;
        }
        for (int i = 0; i < list.n; i++) ends_add(&all, list.at[i]);
        if (**re != '|') return all;
        ++*re;
    }
}

/* last: where the last match ended, or -1: an empty one there is none. */
static int regex_find(const subject *x, const char *re, int from, int last, int *begin, int *end) {
    for (*begin = from; *begin <= x->n; ++*begin) {
        const char *r = re;
        const ends list = regex_choice(x, &r, *begin);
        if (!list.n) continue;
        *end = list.at[0];
        if (*end > *begin || *end != last) return 1;
    }
    return 0;
}

/* ---- regexes ----------------------------------------------------------------------------------------------------- */

#define V3_WORDS(R, N)                                                                                                 \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^" R N "\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"               \
    "| ?[\\p{P}\\p{S}]+[" R N "]*|\\s*[" R N "]+|\\s+(?!\\S)|\\s+"

static const char *const regexes[] = {
    V3_WORDS("\r", "\n"),
    V3_WORDS("\\r", "\\n"),
    "\\p{N}{1,3}",
    "\\p{N}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[\r\n]",
    "\\s+$",
    "\\s?[A-Za-zµÀ-ÖØ-öø-ƺͰ-ͳΆΈ-ΊΌΎ-Ρа-я𐐀-𐑏]+",
    "\\s?[!-/:-~！-／：-～‘-‟　-。]+",
    "[一-龥ࠀ-一가-퟿]+",
    "\\s?\\p{L}+",
    " ?[^\\s\\p{L}\\p{N}]+",
    " ?[\\p{S}\\p{M}\\-\\]\\^a-f]{1,2}",
    "[^ab]+",
    "\\s?\\s+",
    " ?[ \\n-a]",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
    "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|"
    "\\s+(?!\\S)|\\s+",
    TOK__KIMI,
    "[^\\r\\n\\p{L}\\p{N}]?((?=[\\p{L}])([^a-z]))*((?=[\\p{L}])([^A-Z]))+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*",
    "a*",
    "x?",
    "(?:a|ab)(?:c|bcd|b)*?[,.]",
    "(?:a|b|ab)+c|[ab]{2,3}?",
    "(?:[ab]+,?)+$|^b|\\s\\Z",
    "(?>a+|ab)b|a++b|b?+.|\\A,",
    "(?=a+b)a|(?!b)[ab ]{2}|(?i:AB|k|S)",
    "[\\p{L}&&[^a]&&[^\\x{62}]]|[^\\p{L}&&\\S]{2,}",
    "(?:a?b?){2}c?|\\S{3,}?\\z",
    "(?:(?:a{1,2}b){0,2},){1,2}",
    "\\P{L}{2}|\\p{^Ll}"};

/* All matches by the matcher, with or without its memory of what has failed, and by the judge. */
static int same_matches(const tok__regex *x, const char *pattern, const text *s, int remember, int *matches) {
    uint32_t codes[80];
    size_t starts[81], at = 0, done = 0, begin = 0, end = 0;
    subject judge = {codes, 0, 0};
    tok__stack stack = tok__stack_for(s->n);
    tok__search q;
    int from = 0, last = -1, want_begin, want_end, ok = 1, found = 1;
    while (at < s->n) {
        starts[judge.n] = at;
        codes[judge.n++] = tok__next((const unsigned char *)s->s, &at);
    }
    starts[judge.n] = s->n;
    tok__search_begin(&q, x, (const unsigned char *)s->s, s->n, &stack);
    if (remember) ok = tok__remember(&q);
    while (ok && found) {
        found = tok__find(&q, done, &begin, &end);
        ok = regex_find(&judge, pattern, from, last, &want_begin, &want_end) == found && !q.broken;
        if (!ok || !found) break;
        ok = begin == starts[want_begin] && end == starts[want_end];
        done = end;
        from = last = want_end;
        ++*matches;
    }
    tok__search_end(&q);
    free(stack.frames);
    return ok;
}

static void test_regexes(test_rng *r) {
    SECTION("regexes");
    tokenizer *t = open_bytes(NULL, NULL, NULL);
    for (size_t k = 0; k < sizeof regexes / sizeof regexes[0]; k++) {
        tok__regex x;
        int matches = 0;
        const char *why = tok__regex_new(t, &x, regexes[k], strlen(regexes[k]), 0);
        if (!CHECK(!why, "%s: %s", regexes[k], why)) continue;
        for (int round = 0; round < (test_all() ? 600 : 200); round++) {
            text s = {NULL, 0, 0};
            random_text(r, &s, 1 + test_int(r, round % 3 ? 12 : 40), round % 2);
            CHECK(same_matches(&x, regexes[k], &s, round / 2 % 2, &matches), "%s on \"%s\"", regexes[k], s.s);
            clear(&s);
        }
        CHECK(matches > (test_all() ? 50 : 15), "%s: %d matches", regexes[k], matches);
        tok__regex_free(&x);
    }
    static const char *const refused[][2] = {{"", "an empty pattern"},
                                             {"[a-z", "a class without end"},
                                             {"[", "a class without end"},
                                             {"[a[b]", "a class without end"},
                                             {"[a-", "a class without end"},
                                             {"[a&&", "a class without end"},
                                             {"[]", "begins with ]"},
                                             {"[^]", "begins with ]"},
                                             {"[z-a]", "to one before it"},
                                             {"[a-\\s]", "ends with a class"},
                                             {"[\\s-a]", "begins with a class"},
                                             {"[a--b]", "-- in a class"},
                                             {"[a-[b]]", "-[ in a class"},
                                             {"[[:alpha:]]", "[:name:]"},
                                             {"[\\", "a backslash at the end"},
                                             {"\\", "a backslash at the end"},
                                             {"\\q", "means nothing here"},
                                             {"(a)\\1", "means nothing here"},
                                             {"\\bx", "means nothing here"},
                                             {"\\p", "\\p without {"},
                                             {"\\p{L", "\\p{ without }"},
                                             {"\\p{Latin}", "unknown property"},
                                             {"\\p{}", "unknown property"},
                                             {"\\p{Xx}", "unknown property"},
                                             {"\\x{D800}", "a character that is none"},
                                             {"\\x{110000}", "a character that is none"},
                                             {"\\u12", "a character that is none"},
                                             {"(a", "a group without end"},
                                             {"(?=a", "a group without end"},
                                             {"a)", "a ) without ("},
                                             {"*a", "nothing to repeat"},
                                             {"a|+", "nothing to repeat"},
                                             {"(?<=a)b", "a look behind"},
                                             {"(?<!a)b", "a look behind"},
                                             {"(?<x>a)", "a group that is none of"},
                                             {"(?i)a", "a group that is none of"},
                                             {"(a*)*", "what may be empty"},
                                             {"(?:a|)+", "what may be empty"},
                                             {"a**", "what may be empty"},
                                             {"a{1001}", "more than 1000"},
                                             {"a{3,2}", "from more to less"},
                                             {"(?:(?:ab){1000}){1000}", "too long"},
                                             {"(?i:\xC3\xA9)", "letters beyond ASCII"},
                                             {"(?i:[\xCE\xB1-\xCE\xB3])", "letters beyond ASCII"},
                                             {"(?i:\\p{Lu})", "(?i: with \\p{Lu}"},
                                             {"(?i:ss)", "ligature"},
                                             {"(?i:xfi)", "ligature"}};
    for (size_t k = 0; k < sizeof refused / sizeof refused[0]; k++) {
        tok__regex x;
        const char *why = tok__regex_new(t, &x, refused[k][0], strlen(refused[k][0]), 0);
        CHECK(why && strstr(why, refused[k][1]) && !x.ops, "\"%s\": \"%s\", expected \"%s\"", refused[k][0],
              why ? why : "", refused[k][1]);
        tok__regex_free(&x);
    }
    text deep = {NULL, 0, 0};
    for (int i = 0; i < 100000; i++) put(&deep, i % 2 ? "(" : "[");
    tok__regex x;
    CHECK(tok__regex_new(t, &x, deep.s, deep.n, 0) != NULL, "nested too deep");
    for (size_t i = 0; i < deep.n; i++) deep.s[i] = "(|"[i % 2];
    CHECK(tok__regex_new(t, &x, deep.s, deep.n, 0) != NULL, "nested too deep");
    clear(&deep);
    for (int i = 0; i < 20; i++) put(&deep, "(?:");
    for (int i = 0; i < 20; i++) put(&deep, "){1000}");
    CHECK(!tok__regex_new(t, &x, deep.s, deep.n, 0), "nothing, very often");
    tok__regex_free(&x);
    clear(&deep);
    for (int round = 0; round < 20000; round++) { /* whatever it is: refused, or it can be run */
        text pattern = {NULL, 0, 0}, s = {NULL, 0, 0};
        tok__stack stack = tok__stack_for(0);
        tok__search q;
        size_t begin = 0, end = 0, done = 0;
        for (int i = 1 + test_int(r, 14); i > 0; i--) {
            const char *parts[] = {"a",      "b",  "[", "]",  "(",     ")",   "(?:", "(?i:", "(?=", "(?!",
                                   "(?>",    "*",  "+", "?",  "{1,2}", "{2}", "|",   "^",    "$",   "\\s",
                                   "\\p{L}", "\\", "-", "&&", "[^",    ".",   "\\Z", "{",    "}",   "\xC3\xA9"};
            put(&pattern, parts[test_int(r, (int)(sizeof parts / sizeof parts[0]))]);
        }
        const char *why = tok__regex_new(t, &x, pattern.s, pattern.n, 0);
        if (why) CHECK(*why, "%s: no reason", pattern.s);
        else {
            random_text(r, &s, 30, 1);
            tok__search_begin(&q, &x, (const unsigned char *)s.s, s.n, &stack);
            while (tok__find(&q, done, &begin, &end) &&
                   CHECK(begin >= done && end >= begin && end <= s.n, "%s", pattern.s))
                done = end;
            CHECK(!q.broken, "%s on %s takes too long", pattern.s, s.s);
            tok__search_end(&q);
            free(stack.frames);
        }
        tok__regex_free(&x);
        clear(&pattern);
        clear(&s);
    }
    tokenizer_close(t);
}

/* Classes of words and digits and what they are not, in brackets and outside, and anchors: the first match. */
static void test_classes(void) {
    static const struct {
        const char *pattern, *text;
        int begin, end;                                   /* -1: none */
    } cases[] = {{"\\w+", "!a\xC3\xA9\xC2\xB2_5-", 1, 8}, /* a power: as Oniguruma has it, only outside of brackets */
                 {"[\\w]+", "!a\xC3\xA9\xC2\xB2_5-", 1, 4},
                 {"\\w+", "-\xC2\xBB\xC2\xBC\xC2\xBF", 3, 5},
                 {"\\w+", "\xE2\x92\xB5\xE2\x92\xB6\xE2\x85\xA7\xE2\x80\xBF-", 3, 12},
                 {"\\W+", "ab \xE2\x80\x93x", 2, 6},
                 {"[\\W]+", "a\xC2\xB2!x", 1, 4},
                 {"\\W+", "a\xC2\xB2!x", 3, 4},
                 {"\\d+",
                  "a\xD9\xA3"
                  "4\xC2\xB2",
                  1, 4},
                 {"\\D+", "12ab3", 2, 4},
                 {"[\\D]",
                  "\xD9\xA3"
                  "5",
                  -1, -1},
                 {"\\S+",
                  " ab\xC2\xA0"
                  "c",
                  1, 3},
                 {"^b", "a\nb", 2, 3},
                 {"\\Ab", "a\nb", -1, -1},
                 {"a$", "a\nb", 0, 1},
                 {"a\\Z", "a\nb", -1, -1},
                 {"a\\Z", "a\n", 0, 1},
                 {"a\\z", "a\n", -1, -1},
                 {"b\\z", "a\nb", 2, 3}};
    SECTION("classes and anchors");
    tokenizer *t = open_bytes(NULL, NULL, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tok__regex x;
        tok__stack stack = tok__stack_for(0);
        tok__search q;
        size_t begin = 0, end = 0;
        const char *why = tok__regex_new(t, &x, cases[i].pattern, strlen(cases[i].pattern), 0);
        if (!CHECK(!why, "%s: %s", cases[i].pattern, why)) continue;
        tok__search_begin(&q, &x, (const unsigned char *)cases[i].text, strlen(cases[i].text), &stack);
        const int found = tok__find(&q, 0, &begin, &end);
        CHECK(found == (cases[i].begin >= 0) && (!found || ((int)begin == cases[i].begin && (int)end == cases[i].end)),
              "case %zu, %s: found %d, %zu to %zu", i, cases[i].pattern, found, begin, end);
        tok__search_end(&q), free(stack.frames);
        tok__regex_free(&x);
    }
    tokenizer_close(t);
}

static void test_unicode(void) {
    SECTION("unicode");
    static const struct {
        uint32_t c;
        const char *category;
    } spots[] = {{'A', "Lu"},     {'z', "Ll"},     {'0', "Nd"},     {'_', "Pc"},     {'$', "Sc"},     {' ', "Zs"},
                 {0, "Cc"},       {0x7F, "Cc"},    {0x85, "Cc"},    {0xA0, "Zs"},    {0xAA, "Lo"},    {0xAD, "Cf"},
                 {0xB2, "No"},    {0xD7, "Sm"},    {0x1C5, "Lt"},   {0x2B0, "Lm"},   {0x301, "Mn"},   {0x378, "Cn"},
                 {0x488, "Me"},   {0x5BE, "Pd"},   {0x663, "Nd"},   {0x903, "Mc"},   {0x1680, "Zs"},  {0x180E, "Cf"},
                 {0x1C89, "Lu"},  {0x1E9E, "Lu"},  {0x200B, "Cf"},  {0x2018, "Pi"},  {0x2019, "Pf"},  {0x2028, "Zl"},
                 {0x2029, "Zp"},  {0x2167, "Nl"},  {0x2C6D, "Lu"},  {0x3000, "Zs"},  {0x3007, "Nl"},  {0x4E00, "Lo"},
                 {0x9FFF, "Lo"},  {0xA7CE, "Cn"},  {0xAC00, "Lo"},  {0xD7A4, "Cn"},  {0xD800, "Cs"},  {0xE000, "Co"},
                 {0xFE0F, "Mn"},  {0xFEFF, "Cf"},  {0xFFFD, "So"},  {0xFFFF, "Cn"},  {0x10D40, "Nd"}, {0x11DE0, "Rd"},
                 {0x16FF6, "Rd"}, {0x16FF7, "Cn"}, {0x1F3FB, "Sk"}, {0x1F600, "So"}, {0x2A6DF, "Lo"}, {0x2A6E0, "Cn"},
                 {0x323AF, "Lo"}, {0x323B0, "Cn"}, {0xE0100, "Mn"}, {0x10FFFF, "Cn"}};
    static const struct { /* as Unicode 16.0 counts them */
        const char *name;
        int count;
    } sums[] = {{"L", 141028}, {"Lu", 1858}, {"Ll", 2258}, {"M", 2501}, {"N", 1911},  {"P", 855},
                {"S", 8514},   {"Z", 19},    {"Rd", 13},   {"Cc", 65},  {"Cs", 2048}, {"Co", 137468}};
    for (size_t i = 0; i < sizeof spots / sizeof spots[0]; i++)
        CHECK(!strncmp(category_of(spots[i].c), spots[i].category, 2), "U+%04X: %.2s, expected %s",
              (unsigned)spots[i].c, category_of(spots[i].c), spots[i].category);
    for (size_t i = 0; i < sizeof sums / sizeof sums[0]; i++) {
        int count = 0;
        for (uint32_t c = 0; c < 0x110000; c++) count += !strncmp(category_of(c), sums[i].name, strlen(sums[i].name));
        CHECK(count == sums[i].count, "%s: %d code points, Unicode 16.0 has %d", sums[i].name, count, sums[i].count);
    }
    static const struct {
        const char *const *table;
        int count;
    } scripts[] = {{tok__han, 99030}, {tok__hiragana, 381}, {tok__katakana, 321}, {tok__hangul, 11739}};
    for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++) {
        tok__ranges r = {NULL, 0, 0};
        int count = 0;
        CHECK(tok__add_listed(&r, scripts[i].table), "read");
        for (size_t k = 0; k < r.n; k++) count += (int)(r.list[k].last - r.list[k].first + 1);
        CHECK(count == scripts[i].count, "script %zu: %d code points, Unicode 16.0 has %d", i, count, scripts[i].count);
        free(r.list);
    }
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
         {"\\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", V3_WORDS("\r", "\n")}},
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
            subject all = {codes, 0, 0};
            random_text(r, &s, 1 + test_int(r, 60), k % 2);
            while (at < s.n) {
                starts[all.n] = at;
                codes[all.n++] = tok__next((const unsigned char *)s.s, &at);
            }
            starts[all.n] = s.n;
            for (int i = 0; i <= all.n; i++) cut[i] = i == 0 || i == all.n;
            for (int stage = 0; cases[which].regexes[stage]; stage++)
                for (int from = 0, to; from < all.n; from = to) { /* every piece there is by now */
                    subject piece = {codes + from, 0, 0};
                    int begin, end = 0;
                    for (to = from + 1; !cut[to];) to++;
                    piece.n = to - from;
                    while (regex_find(&piece, cases[which].regexes[stage], end, end ? end : -1, &begin, &end))
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

#define FOUR "{\"type\":\"NFC\"},{\"type\":\"NFC\"},{\"type\":\"NFC\"},{\"type\":\"NFC\"},"
#define MANY FOUR FOUR FOUR FOUR

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
        {"\"ignore_merges\":false", "\"ignore_merges\":1", CONFIG, "ignore_merges"},
        {"\"byte_fallback\":false", "\"byte_fallback\":null", CONFIG, "byte_fallback"},
        {"\"unk_token\":null", "\"unk_token\":7", CONFIG, "unk_token"},
        {"\"continuing_subword_prefix\":null", "\"continuing_subword_prefix\":\"##\"", UNKNOWN,
         "continuing_subword_prefix"},
        {"\"end_of_word_suffix\":\"\"", "\"end_of_word_suffix\":\"</w>\"", UNKNOWN, "end_of_word_suffix"},
        {"\"fuse_unk\"", "\"fuze_unk\"", UNKNOWN, "\"fuze_unk\""},
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"NFKC\"}", UNKNOWN, "normalizer: \"NFKC\""},
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]}",
         UNKNOWN, "normalizer: \"Lowercase\""},
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"Sequence\"}", CONFIG, "normalizer"},
        {"\"normalizer\":null", "\"normalizer\":[]", UNKNOWN, "normalizer"},
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"NFC\",\"x\":1}", UNKNOWN, "\"x\""},
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"Prepend\"}", CONFIG, "Prepend"},
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":\"\"}",
         UNKNOWN, "normalizer Replace: the pattern \"(\" is not supported: a group without end"},
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a\"}}", CONFIG,
         "a content"},
        {"\"normalizer\":null", "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[" MANY "{\"type\":\"NFC\"}]}",
         CONFIG, "at most 16"},
        {"\"version\"", "\"virsion\"", UNKNOWN, "\"virsion\""},
        {"\"decoder\":{\"type\":\"ByteLevel\"", "\"decoder\":{\"type\":\"WordPiece\"", UNKNOWN,
         "decoder: \"WordPiece\""},
        {"\"decoder\":{\"type\":\"ByteLevel\"", "\"decoder\":{\"type\":\"Metaspace\"", UNKNOWN, "\"trim_offsets\""},
        {"\"decoder\":", "\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0},\"x\":", UNKNOWN,
         "\"x\""},
        {"\"decoder\"", "\"padding2\"", UNKNOWN, "padding2"},
        {"{\"type\":\"Digits\"", "{\"type\":\"Whitespace\"", UNKNOWN, "pre_tokenizer: \"Whitespace\""},
        {"{\"type\":\"Digits\",", "{", UNKNOWN, "pre_tokenizer"},
        {"\"individual_digits\":true", "\"individual_digits\":1", CONFIG, "individual_digits"},
        {"\"individual_digits\"", "\"digits\"", UNKNOWN, "\"digits\""},
        {"\\\\p{N}{1,3}", "(a*)*$", UNKNOWN, "pre_tokenizer Split: the pattern \"(a*)*$\" is not supported"},
        {"\\\\p{N}{1,3}", "\\\\p{N}\\u0000", CONFIG, "without NUL"},
        {"\\\\p{N}{1,3}", "", CONFIG, "not empty"},
        {"\"Regex\"", "\"Strings\"", UNKNOWN, "\"Strings\""},
        {"\"Regex\"", "\"String\":\"a\",\"Regex\"", CONFIG, "a String or a Regex"},
        {"\"Isolated\"", "\"Joined\"", UNKNOWN, "\"Joined\""},
        {"\"invert\":false", "\"invert\":0", CONFIG, "invert"},
        {"\"add_prefix_space\":false", "\"add_prefix_space\":null", CONFIG, "ByteLevel"},
        {"\"use_regex\":false", "\"use_regexes\":false", UNKNOWN, "\"use_regexes\""},
        {"{\"type\":\"Digits\",\"individual_digits\":true}", "{\"type\":\"Punctuation\",\"behavior\":\"x\"}", UNKNOWN,
         "\"x\""},
        {"{\"type\":\"Digits\",\"individual_digits\":true}", "{\"type\":\"Metaspace\",\"replacement\":\"\"}", CONFIG,
         "a replacement"},
        {"{\"type\":\"Digits\",\"individual_digits\":true}",
         "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"last\"}", UNKNOWN, "\"last\""},
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
        {"\"truncation\":null", "\"truncation\":{\"max_length\":7}"},
        {"\"padding\":null", "\"padding\":{}"},
        {"\\\\p{N}{1,3}", "(a+)+$"},
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
    for (long k = 0; k < 2000; k++) {
        memset(&err, 0, sizeof err);
        alloc_countdown = k;
        const mla_result rc = tokenizer_parse(&t, file.s, file.n, "f", &err);
        alloc_countdown = -1;
        CHECK(rc ? rc == MLA_ERR_MEMORY && !t && err.code == rc : t != NULL, "allocation %ld: %s", k, err.text);
        failures += rc != MLA_OK;
        tokenizer_close(t);
        if (!rc) break;
    }
    CHECK(failures > 10 && failures < 2000, "%d allocations", failures);
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
    CHECK(tokenizer_open(&t, "", &err) == MLA_ERR_ARGUMENT && !t && strstr(err.text, "empty"), "%s", err.text);
    remove("build/test_tokenizer.json");
    if (CHECK(!mkfifo("build/test_tokenizer.json", 0600), "mkfifo"))
        CHECK(tokenizer_open(&t, "build/test_tokenizer.json", &err) == MLA_ERR_ARGUMENT && !t &&
                  strstr(err.text, "test_tokenizer.json: cannot be read: not a regular file"),
              "a FIFO does not hang: %s", err.text);
    remove("build/test_tokenizer.json");
    remove("build/test_tokenizer.circle");
    if (CHECK(symlink("test_tokenizer.circle", "build/test_tokenizer.circle") == 0, "symlink"))
        CHECK(tokenizer_open(&t, "build/test_tokenizer.circle", &err) == MLA_ERR_ARGUMENT &&
                  !strncmp(err.text, "build/test_tokenizer.circle: cannot be read: symbolic links", 59),
              "%s", err.text);
    remove("build/test_tokenizer.circle");
    CHECK(tokenizer_open(&t, "/dev/zero", &err) == MLA_ERR_ARGUMENT && !t, "a device: %s", err.text);
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
        f = fopen("build/test_tokenizer.json", "wb"); /* a word that could be base64 */
        if (f) {
            fputs("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", f);
            fclose(f);
        }
        CHECK(tokenizer_open(&t, "build/test_tokenizer.json", &err) == MLA_ERR_CONFIG &&
                  strstr(err.text, "Git LFS pointer"),
              "%s", err.text);
        remove("build/test_tokenizer.json");
    }
    json_value *json = NULL;
    CHECK(!json_parse(file.s, file.n, &json, &err) && !tokenizer_from_json(&t, json, NULL, &err), "%s", err.text);
    json_free(json);
    size_t length, n_merges;
    const int id = tokenizer_find(t, "<s>");
    const char *spelling = tokenizer_spelling(t, id, &length);
    const tokenizer_merge *merges = tokenizer_merges(t, &n_merges);
    CHECK(spelling && length == 3 && !strcmp(spelling, "<s>") && tokenizer_is_added(t, id) &&
              !tokenizer_is_added(t, 65),
          "an entry as it is spelled");
    for (size_t i = 1; i < n_merges; i++)
        CHECK(merges[i - 1].left < merges[i].left ||
                  (merges[i - 1].left == merges[i].left && merges[i - 1].right < merges[i].right),
              "merge %zu is in order", i);
    CHECK(n_merges && !tokenizer_spelling(t, -1, &length) && !length && !tokenizer_merges(NULL, &n_merges) && !n_merges,
          "nothing of nothing");
    tokenizer_close(t);
    CHECK(tokenizer_from_json(&t, NULL, NULL, &err) == MLA_ERR_ARGUMENT && !t, "no file");
    clear(&file);
}

/* ---- normalizers and tokenizers of characters -------------------------------------------------------------------- */

/* A small tokenizer of characters as SentencePiece's are: <unk>, bytes if asked for, some pieces. */
static void put_characters(text *t, const char *normalizer, const char *pre, const char *decoder, int bytes,
                           const char *flags) {
    char entry[64];
    put(t, "{\"added_tokens\":[" ADDED("1", "<s>", "false", "false", "false", "true") "],\"normalizer\":");
    put(t, normalizer);
    put(t, ",\"pre_tokenizer\":");
    put(t, pre);
    put(t, ",\"decoder\":");
    put(t, decoder);
    put(t, ",\"model\":{\"type\":\"BPE\",");
    put(t, flags);
    put(t, "\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,\"<s>\":1,\"\xE2\x96\x81\":2,\"a\":3,\"b\":4,\"c\":5,"
           "\"ab\":6,\"\xE2\x96\x81"
           "ab\":7,\"\xC3\xA9\":8,\"\xE2\x96\x81\xE2\x96\x81\":9,\"c\xE2\x96\x81\":10");
    for (int b = 0; b < 256 && bytes; b++) {
        snprintf(entry, sizeof entry, ",\"<0x%02X>\":%d", (unsigned)b, 100 + b);
        put(t, entry);
    }
    put(t, "},\"merges\":[\"\xE2\x96\x81 \xE2\x96\x81\",\"a b\",\"\xE2\x96\x81 ab\",\"c \xE2\x96\x81\"]}}");
}

#define LLAMA                                                                                                          \
    "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xE2\x96\x81\"},{\"type\":"           \
    "\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xE2\x96\x81\"}]}"
#define FALLBACK                                                                                                       \
    "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xE2\x96\x81\"},"            \
    "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \","        \
    "\"start\":1,\"stop\":0}]}"
#define METASPACE(SCHEME, SPLIT)                                                                                       \
    "{\"type\":\"Metaspace\",\"replacement\":\"\xE2\x96\x81\",\"prepend_scheme\":\"" SCHEME "\",\"split\":" SPLIT "}"

static void test_characters(void) {
    SECTION("normalizers and tokenizers of characters");
    static const char *const plain = "{\"type\":\"ByteFallback\"}";
    static const struct { /* the ids are those of the reference implementation */
        const char *normalizer, *pre, *decoder;
        int bytes;
        const char *flags, *text, *ids;
    } cases[] = {
        {LLAMA, "null", FALLBACK, 1, "\"byte_fallback\":true,", "ab ab", "7 7"},
        {LLAMA, "null", FALLBACK, 1, "\"byte_fallback\":true,", "", ""},
        {LLAMA, "null", FALLBACK, 1, "\"byte_fallback\":true,", "  c  ab", "9 2 5 9 6"},
        {LLAMA, "null", FALLBACK, 1, "\"byte_fallback\":true,", "ab<s>ab", "7 1 7"},
        {LLAMA, "null", FALLBACK, 1, "\"byte_fallback\":true,", "\n\xC3\xA9z\xE4\xB8\x80", "2 110 8 222 328 284 228"},
        {"null", "null", plain, 0, "\"byte_fallback\":true,\"fuse_unk\":true,", "axyb\xE4\xB8\x80z", "3 0 4 0"},
        {"null", "null", plain, 0, "\"fuse_unk\":false,", "axyb\xE4\xB8\x80z", "3 0 0 4 0 0"},
        {"null", METASPACE("first", "true"), plain, 0, "", "ab ab<s>ab", "7 7 1 6"},
        {"null", METASPACE("always", "true"), plain, 0, "", "ab c ab<s>ab", "7 2 5 7 1 7"},
        {"null", METASPACE("never", "false"), plain, 0, "", "ab c ab", "6 2 5 7"},
        {"null", "null", plain, 0, "\"ignore_merges\":true,", "c\xE2\x96\x81", "10"},
        {"null", "{\"type\":\"Punctuation\"}", plain, 0, "\"fuse_unk\":true,", "ab!?ab", "6 0 0 6"},
        {"null", "{\"type\":\"Punctuation\",\"behavior\":\"Contiguous\"}", plain, 0, "\"fuse_unk\":true,", "ab!?ab",
         "6 0 6"},
        {"null", "{\"type\":\"Punctuation\",\"behavior\":\"Removed\"}", plain, 0, "",
         "a!b$`\xE2\x80\x93"
         "c",
         "3 4 5"},
        {"{\"type\":\"NFC\"}", "null", plain, 0, "", "e\xCC\x81\xC3\xA9", "8 8"},
        {"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"x+|y\"},\"content\":\"ab\"}", "null", plain, 0, "", "xxxaybx",
         "6 3 6 4 6"}};
    size_t n;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        text file = {NULL, 0, 0};
        tokenizer *t;
        mla_error err;
        memset(&err, 0, sizeof err);
        put_characters(&file, cases[i].normalizer, cases[i].pre, cases[i].decoder, cases[i].bytes, cases[i].flags);
        if (CHECK(!tokenizer_parse(&t, file.s, file.n, "f", &err), "%s", err.text)) {
            const char *got = encoded(t, cases[i].text, strlen(cases[i].text), 0);
            CHECK(!strcmp(got, cases[i].ids), "case %zu: \"%s\": %s, expected %s", i, cases[i].text, got, cases[i].ids);
            CHECK(tokenizer_strips_space(t) == (i < 5), "whether a space is taken off");
            if (i == 0)
                CHECK(!strcmp(tokenizer_bytes(t, 7, &n), " ab") && n == 3 && tokenizer_bytes(t, 110, &n)[0] == '\n' &&
                          n == 1 && !strcmp(tokenizer_bytes(t, 1, &n), "<s>"),
                      "what tokens stand for");
        }
        tokenizer_close(t);
        clear(&file);
    }
}

/* The file with 8,000 letters wherever @ stands. */
static void put_letters(text *t, const char *file) {
    char many[8001];
    memset(many, 'a', 8000), many[8000] = 0;
    for (const char *at; (at = strchr(file, '@')) != NULL; file = at + 1) {
        put_bytes(t, file, (size_t)(at - file));
        put(t, many);
    }
    put(t, file);
}

#define STEPS_OF(LIST) "{\"type\":\"Sequence\",\"normalizers\":[" LIST "]}"
#define CUTS(LIST)     "{\"type\":\"Sequence\",\"pretokenizers\":[" LIST "]}"
#define REPLACE(OF)    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" OF "\"},\"content\":\"@\"}"
#define SPACES(AS)     "{\"type\":\"Metaspace\",\"replacement\":\"" AS "\",\"split\":false}"

static void test_growth(void) {
    SECTION("what makes far too long a text");
    static const char *const plain = "{\"type\":\"Fuse\"}";
    static const struct {
        const char *normalizer, *pre, *decoder, *flags;
        int times;           /* this often, "<s>a b" is the text */
        int64_t least;       /* tokens, or why there are none */
        const char *refused; /* the file itself */
    } cases[] = {
        {STEPS_OF(REPLACE("a")), "null", NULL, "", 1, 8000, NULL},
        {STEPS_OF(REPLACE("a") "," REPLACE("a")), "null", NULL, "", 1, TOKENIZER_GROWTH, NULL},
        {STEPS_OF(REPLACE("a") ",{\"type\":\"NFC\"}," REPLACE("a")), "null", NULL, "", 1, TOKENIZER_GROWTH, NULL},
        {STEPS_OF("{\"type\":\"Prepend\",\"prepend\":\"@\"}"), "null", NULL, "", 1, 8000, NULL},
        {STEPS_OF("{\"type\":\"Prepend\",\"prepend\":\"@\"}"), "null", NULL, "", 30, TOKENIZER_GROWTH, NULL},
        {"null", CUTS(SPACES(" @")), NULL, "", 1, 8000, NULL},
        {"null", CUTS(SPACES("   @") "," SPACES("   @") "," SPACES("   @")), NULL, "", 1, TOKENIZER_GROWTH, NULL},
        {"null", CUTS(SPLIT("a| ") "," SPACES("@")), NULL, "", 30, TOKENIZER_GROWTH, NULL},
        {"null", SPLIT("(?:a?){1000}x"), NULL, "", 1, 3, NULL},
        {"null", SPLIT("(?:a?){1000}x"), NULL, "@", 1, TOKENIZER_STEPS, NULL},
        {"null", "null", REPLACE("a"), "", 1, 3, NULL},
        {"null", "null", "{\"type\":\"Sequence\",\"decoders\":[" REPLACE("a") "," REPLACE("a") "]}", "", 1, 0,
         "f: decoder: it makes too much of 33 bytes, more than 64 times that"},
        {STEPS_OF(REPLACE("s") "," REPLACE("a")), "null", NULL, "normalized", 1, 0,
         "f: added_tokens: normalizer: it makes too much of 3 bytes, more than 64 times that"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        text file = {NULL, 0, 0}, all = {NULL, 0, 0}, s = {NULL, 0, 0};
        const int long_ = !strcmp(cases[i].flags, "@"), normalized = !strcmp(cases[i].flags, "normalized");
        tokenizer *t;
        mla_error err;
        memset(&err, 0, sizeof err);
        put_characters(&file, cases[i].normalizer, cases[i].pre, cases[i].decoder ? cases[i].decoder : plain, 0, "");
        char *flag = strstr(file.s, "\"normalized\":false");
        if (normalized) memcpy(flag, "\"normalized\": true", 18);
        put_letters(&all, file.s);
        for (int k = 0; k < cases[i].times; k++) put_letters(&s, long_ ? "<s>@ b" : "<s>a b");
        const mla_result rc = tokenizer_parse(&t, all.s, all.n, "f", &err);
        if (cases[i].refused) {
            CHECK(rc == MLA_ERR_UNSUPPORTED && !strcmp(err.text, cases[i].refused), "case %zu: %s", i, err.text);
        } else if (CHECK(!rc, "%s", err.text)) {
            const int64_t n = tokenizer_encode(t, s.s, s.n, 0, NULL, 0);
            CHECK(cases[i].least < 0 ? n == cases[i].least : n >= cases[i].least, "case %zu: %lld", i, (long long)n);
        }
        tokenizer_close(t);
        clear(&file), clear(&all), clear(&s);
    }
}

static void test_nfc(void) {
    SECTION("NFC");
    static const char *const cases[][2] = {
        {"abc", "abc"},
        {"e\xCC\x81", "\xC3\xA9"},
        {"\xC3\xA9\xCC\xA7", "\xC8\xA9\xCC\x81"},                  /* e acute, cedilla: e cedilla, acute */
        {"a\xCC\x96\xCC\x81\xCC\x81", "\xC3\xA1\xCC\x96\xCC\x81"}, /* only the first acute is not blocked */
        {"\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8", "\xEA\xB0\x81"},  /* Hangul from its parts */
        {"\xEA\xB0\x80\xE1\x86\xA8", "\xEA\xB0\x81"},
        {"\xEA\xB0\x81\xE1\x86\xA8", "\xEA\xB0\x81\xE1\x86\xA8"},
        {"\xE2\x84\xAB", "\xC3\x85"},                 /* Angstrom */
        {"\xE0\xA5\x98", "\xE0\xA4\x95\xE0\xA4\xBC"}, /* is not composed again */
        {"\xF0\x9D\x85\xA0", "\xF0\x9D\x85\x98\xF0\x9D\x85\xA5\xF0\x9D\x85\xAE"},
        {"\xCC\x81", "\xCC\x81"},
        {"\xEF\xA4\x80x", "\xE8\xB1\x88x"},
        {"\xE1\xBA\xA5", "\xE1\xBA\xA5"}};
    tokenizer *t = (tokenizer *)need(calloc(1, sizeof *t));
    CHECK(tok__use_nfc(t), "tables");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        tok__text out = {NULL, 0, 0};
        const size_t n = strlen(cases[i][0]), want = strlen(cases[i][1]);
        const int rc = tok__nfc_apply(&t->nfc, (const unsigned char *)cases[i][0], n, &out);
        CHECK(rc ? out.n == want && !memcmp(out.s, cases[i][1], want) : n == want && !strcmp(cases[i][0], cases[i][1]),
              "case %zu: %d, %.*s", i, rc, (int)out.n, out.s ? (const char *)out.s : "");
        free(out.s);
    }
    tokenizer_close(t);
}

/* ---- GGUF and tiktoken ------------------------------------------------------------------------------------------- */

static void put_little(text *t, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++, value >>= 8) {
        const char byte = (char)(value & 0xFF);
        put_bytes(t, &byte, 1);
    }
}

static void put_counted(text *t, const char *s, size_t n) { /* as GGUF has it */
    put_little(t, n, 8);
    put_bytes(t, s, n);
}

typedef struct arrays {
    text tokens, merges, scores, types;
    tokenizer_gguf keys;
} arrays;

static const tokenizer_gguf *arrays_keys(arrays *g) {
    g->keys.tokens.data = g->tokens.s;
    g->keys.tokens.bytes = g->tokens.n;
    g->keys.merges.data = g->merges.s;
    g->keys.merges.bytes = g->merges.n;
    g->keys.scores = g->scores.s;
    g->keys.types = g->types.s;
    return &g->keys;
}

static void arrays_begin(arrays *g, const char *kind, const char *pre) {
    memset(g, 0, sizeof *g);
    g->keys.model = kind;
    g->keys.pre = pre;
    g->keys.bos = g->keys.eos = g->keys.unk = g->keys.add_bos = g->keys.add_eos = g->keys.add_space_prefix = -1;
}

static void arrays_token(arrays *g, const char *s, size_t n, float score, int type) {
    uint32_t bits;
    memcpy(&bits, &score, 4);
    put_counted(&g->tokens, s, n);
    put_little(&g->scores, bits, 4);
    put_little(&g->types, (uint64_t)type, 4);
    g->keys.tokens.count++;
}

static void arrays_clear(arrays *g) {
    clear(&g->tokens);
    clear(&g->merges);
    clear(&g->scores);
    clear(&g->types);
}

/* The model as GGUF, its ids in the order of the tokens, and two more tokens. */
static void arrays_of_model(arrays *g, const model *m, const char *pre) {
    arrays_begin(g, "gpt2", pre);
    for (int i = 0; i < m->n; i++) {
        unsigned char spelled[128];
        arrays_token(g, (const char *)spelled, tok__spell(m->tokens[i].b, (size_t)m->tokens[i].n, spelled), 0, 1);
    }
    arrays_token(g, "<|end|>", 7, 0, 3);
    arrays_token(g, "<think>", 7, 0, 4);
    arrays_token(g, "a", 1, 0, 5); /* stands twice, but is unused */
    for (int i = 0; i < m->n_merges; i++) {
        unsigned char both[260];
        size_t n = tok__spell(m->tokens[m->merges[i][0]].b, (size_t)m->tokens[m->merges[i][0]].n, both);
        both[n++] = ' ';
        n += tok__spell(m->tokens[m->merges[i][1]].b, (size_t)m->tokens[m->merges[i][1]].n, both + n);
        put_counted(&g->merges, (const char *)both, n);
        g->keys.merges.count++;
    }
}

/* SentencePiece as it is defined: the neighbours that make the token of the highest score are merged, the leftmost
   first; s is of ASCII letters, each a token. */
static int plain_scores(const char *s, const char (*pieces)[8], const float *scores, int n_pieces, int *ids) {
    char parts[64][64];
    int n = 0, best_at, best_piece = 0;
    for (; s[n]; n++) parts[n][0] = s[n], parts[n][1] = 0;
    do {
        float best = -1e30f;
        best_at = -1;
        for (int i = 0; i + 1 < n; i++)
            for (int k = 0; k < n_pieces; k++) {
                const size_t left = strlen(parts[i]);
                if (strncmp(pieces[k], parts[i], left) || strcmp(pieces[k] + left, parts[i + 1])) continue;
                if (scores[k] > best) best = scores[k], best_at = i, best_piece = k;
            }
        if (best_at < 0) break;
        memcpy(parts[best_at], pieces[best_piece], sizeof pieces[0]);
        for (int i = best_at + 1; i + 1 < n; i++) memcpy(parts[i], parts[i + 1], sizeof parts[i]);
        n--;
    } while (best_at >= 0);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n_pieces; k++)
            if (!strcmp(pieces[k], parts[i])) ids[i] = k;
    return n;
}

static void test_gguf_models(test_rng *r) {
    SECTION("GGUF");
    static const char *const pres[] = {"deepseek-v3", "deepseek-llm", "deepseek-coder", "glm4",
                                       "bailingmoe2", "tekken",       "youtu",          "kimi-k2"};
    model *m = (model *)need(malloc(sizeof *m));
    mla_error err;
    for (int round = 0; round < 48; round++) {
        arrays g;
        tokenizer *t;
        random_model(r, m, 150, round % 2 ? "ab c,.\n1" : NULL, 0);
        arrays_of_model(&g, m, pres[round % 8]);
        g.keys.bos = 7; /* added where the file does not say otherwise: tekken */
        memset(&err, 0, sizeof err);
        if (!CHECK(!tokenizer_from_gguf(&t, arrays_keys(&g), "f", &err), "%s", err.text)) break;
        arrays_clear(&g); /* nothing is kept of it */
        for (int i = 0; i < m->n; i++) m->tokens[i].id = i;
        for (int k = 0; k < 30; k++) { /* a word of letters is one piece of every pattern but V2's and Coder's spaces */
            text s = {NULL, 0, 0};
            int want[400], got[400];
            for (int i = test_int(r, 60); i >= 0; i--) put(&s, test_int(r, 2) ? "a" : "b");
            const int n = plain_bpe(m, (const unsigned char *)s.s, (int)s.n, want);
            const int64_t count = tokenizer_encode(t, s.s, s.n, 0, got, 400);
            if (round % 8 < 5) /* the others look first whether the word is a token, or merge by ids */
                CHECK(count == n && !memcmp(want, got, sizeof *got * (size_t)n), "%s: \"%s\"", pres[round % 8], s.s);
            random_text(r, &s, 30, k % 2);
            const int64_t all = tokenizer_encode(t, s.s, s.n, 0, got, 400);
            CHECK(all > 0 && all <= 400 && same_back(t, &s, got, all), "%s: \"%s\" comes back", pres[round % 8], s.s);
            clear(&s);
        }
        char ids[64];
        snprintf(ids, sizeof ids, "%s%d %d", round % 8 == 5 ? "7 " : "", m->n, m->n + 1);
        CHECK(!strcmp(encoded(t, "<|end|><think>", 14, TOKENIZER_SPECIAL), ids), "%s",
              encoded(t, "<|end|><think>", 14, TOKENIZER_SPECIAL));
        CHECK(tokenizer_is_special(t, m->n) && !tokenizer_is_special(t, m->n + 1), "control is special");
        tokenizer_close(t);
    }
    free(m);

    static const char pieces[][8] = {"a",  "b",   "c",   "ab",  "bc", "abc", "ca",
                                     "aa", "aaa", "aab", "bca", "cb", "bb",  "cab"};
    const int n_pieces = (int)(sizeof pieces / sizeof pieces[0]);
    for (int round = 0; round < 60; round++) {
        arrays g;
        tokenizer *t;
        float scores[32];
        arrays_begin(&g, "llama", NULL);
        for (int k = 0; k < n_pieces; k++) {
            scores[k] = (float)-test_int(r, round % 2 ? 4 : 1000); /* often equal */
            arrays_token(&g, pieces[k], strlen(pieces[k]), scores[k], 1);
        }
        arrays_token(&g, "<unk>", 5, 0, 2);
        arrays_token(&g, "<s>", 3, 0, 3);
        arrays_token(&g, "\xE2\x96\x81", 3, -5, 1);
        for (int b = 0; b < 256; b++) {
            char name[8];
            arrays_token(&g, name, (size_t)snprintf(name, sizeof name, "<0x%02X>", (unsigned)b), 0, 6);
        }
        g.keys.bos = n_pieces + 1;
        g.keys.add_space_prefix = round % 3 ? 0 : -1;
        memset(&err, 0, sizeof err);
        if (!CHECK(!tokenizer_from_gguf(&t, arrays_keys(&g), "f", &err), "%s", err.text)) break;
        for (int k = 0; k < 40; k++) {
            char s[64];
            int want[64], got[80], n = test_int(r, 50);
            for (int i = 0; i < n; i++) s[i] = (char)('a' + test_int(r, 3));
            s[n] = 0;
            const int count = plain_scores(s, pieces, scores, n_pieces, want), prefix = round % 3 == 0 && n > 0;
            const int64_t all = tokenizer_encode(t, s, (size_t)n, TOKENIZER_SPECIAL, got, 80);
            CHECK(all == count + 1 + prefix && got[0] == n_pieces + 1 &&
                      !memcmp(got + 1 + prefix, want, sizeof *got * (size_t)count),
                  "\"%s\": %d ids, expected %d", s, (int)all, count + 1 + prefix);
        }
        if (round == 1) {
            const int byte = n_pieces + 3;
            char want[80];
            snprintf(want, sizeof want, "%d %d %d %d %d", n_pieces + 1, byte + 0xE4, byte + 0xB8, byte + 0x80,
                     n_pieces + 2);
            CHECK(!strcmp(encoded(t, "<s>\xE4\xB8\x80 ", 7, 0), want), "%s", encoded(t, "<s>\xE4\xB8\x80 ", 7, 0));
            CHECK(tokenizer_bytes(t, byte + 0xE4, NULL)[0] == '\xE4' &&
                      tokenizer_bytes(t, n_pieces + 2, NULL)[0] == ' ',
                  "bytes and the space");
        }
        CHECK(tokenizer_strips_space(t) == !(round % 3), "a space is put before and taken off");
        tokenizer_close(t);
        arrays_clear(&g);
    }
}

static void test_gguf_wrong(test_rng *r) {
    SECTION("GGUF that is wrong");
    model *m = (model *)need(malloc(sizeof *m));
    arrays g;
    tokenizer *t = NULL;
    mla_error err;
    static const struct {
        const char *what, *says;
        int code;
    } cases[] = {{"model", "tokenizer.ggml.model: \"bert\" is not supported", MLA_ERR_UNSUPPORTED},
                 {"pre", "tokenizer.ggml.pre: \"dbrx\" is not supported", MLA_ERR_UNSUPPORTED},
                 {"no pre", "tokenizer.ggml.pre: \"\" is not supported", MLA_ERR_UNSUPPORTED},
                 {"count", "token 409 is no text", MLA_ERR_CONFIG},
                 {"none", "1 to 1048576 tokens", MLA_ERR_CONFIG},
                 {"cut", "is no text", MLA_ERR_CONFIG},
                 {"long", "token 0 is no text", MLA_ERR_CONFIG},
                 {"merge", "tokenizer.ggml.merges[0]: expected \"LEFT RIGHT\"", MLA_ERR_CONFIG},
                 {"type", "tokenizer.ggml.token_type: 9 of token 0 is none", MLA_ERR_CONFIG},
                 {"bos", "tokenizer.ggml.bos_token_id: expected one from 0 to 408", MLA_ERR_CONFIG},
                 {"null", "is NULL", MLA_ERR_ARGUMENT},
                 {"scores", "tokenizer.ggml.scores: expected an array", MLA_ERR_CONFIG},
                 {"nan", "tokenizer.ggml.scores: that of token 0 is not finite", MLA_ERR_CONFIG}};
    test_rng same = {5};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *what = cases[i].what;
        same.state = 5;
        random_model(&same, m, 150, NULL, 0);
        arrays_of_model(&g, m, "glm4");
        while (g.keys.tokens.count < 409) arrays_token(&g, "", 0, 0, 5);
        arrays_keys(&g);
        if (!strcmp(what, "model")) g.keys.model = "bert";
        if (!strcmp(what, "pre")) g.keys.pre = "dbrx";
        if (!strcmp(what, "no pre")) g.keys.pre = NULL;
        if (!strcmp(what, "count")) g.keys.tokens.count++, put_little(&g.types, 1, 4), g.keys.types = g.types.s;
        if (!strcmp(what, "none")) g.keys.tokens.count = 0;
        if (!strcmp(what, "cut")) g.keys.tokens.bytes -= 9;
        if (!strcmp(what, "long")) memset(g.tokens.s, 0xFF, 8);
        if (!strcmp(what, "merge")) memset(g.merges.s + 8, 'a', 3), memset(g.merges.s, 0, 8), g.merges.s[0] = 2;
        if (!strcmp(what, "type")) g.types.s[0] = 9;
        if (!strcmp(what, "bos")) g.keys.add_bos = 1;
        if (!strcmp(what, "null")) g.keys.model = NULL;
        if (!strcmp(what, "scores")) g.keys.model = "llama", g.keys.scores = NULL;
        if (!strcmp(what, "nan")) g.keys.model = "llama", memset(g.scores.s, 0xFF, 4);
        memset(&err, 0, sizeof err);
        const mla_result rc = tokenizer_from_gguf(&t, &g.keys, "f.gguf", &err);
        CHECK(rc == (mla_result)cases[i].code && !t && strstr(err.text, cases[i].says), "%s: %d, \"%s\"", what, (int)rc,
              err.text);
        arrays_clear(&g);
    }
    for (int round = 0; round < 400; round++) { /* any byte may be wrong */
        random_model(r, m, 40, "ab c,.\n1", 0);
        arrays_of_model(&g, m, round % 2 ? "kimi-k2" : "tekken");
        if (round % 3 == 0) g.keys.model = "llama";
        g.keys.bos = 0;
        for (int k = test_int(r, 3); k >= 0; k--) {
            text *which = test_int(r, 2) ? &g.tokens : test_int(r, 2) && g.merges.n ? &g.merges : &g.types;
            which->s[test_int(r, (int)which->n)] = (char)test_int(r, 256);
        }
        memset(&err, 0, sizeof err);
        if (tokenizer_from_gguf(&t, arrays_keys(&g), "f", &err)) CHECK(err.text[0] && !t, "an error says something");
        else CHECK(tokenizer_encode(t, "ab <|end|>, c\n\xE4\xB8\x80", 16, 0, NULL, 0) >= 0, "it encodes");
        tokenizer_close(t);
        arrays_clear(&g);
    }
    int failures = 0;
    random_model(r, m, 40, "ab c,.\n1", 0);
    for (long k = 0; k < 2000; k++) {
        arrays_of_model(&g, m, "youtu");
        arrays_keys(&g);
        alloc_countdown = k;
        const mla_result rc = tokenizer_from_gguf(&t, &g.keys, "f", &err);
        alloc_countdown = -1;
        CHECK(rc ? rc == MLA_ERR_MEMORY && !t : t != NULL, "allocation %ld: %s", k, err.text);
        failures += rc != MLA_OK;
        tokenizer_close(t);
        arrays_clear(&g);
        if (!rc) break;
    }
    CHECK(failures > 10 && failures < 2000, "%d allocations", failures);
    free(m);
}

/* The bytes in base64, and a rank. */
static void put_rank(text *t, const char *s, size_t n, int rank) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char line[24];
    for (size_t i = 0; i < n; i += 3) {
        uint32_t bits = 0;
        for (size_t k = 0; k < 3; k++) bits = bits << 8 | (i + k < n ? (unsigned char)s[i + k] : 0);
        for (size_t k = 0; k < 4; k++) {
            const char c = i + k > n ? '=' : letters[bits >> (18 - 6 * k) & 63];
            put_bytes(t, &c, 1);
        }
    }
    snprintf(line, sizeof line, " %d\n", rank);
    put(t, line);
}

static void test_tiktoken(void) {
    SECTION("tiktoken");
    static const char *const words[] = {"ab", "bc", "abc", " ab", "\xE4\xB8\x80", "\xE4\xB8", "12"};
    static const char *const config =
        "{\"added_tokens_decoder\":{\"263\":{\"content\":\"[BOS]\",\"lstrip\":false,\"special\":true},\"266\":{"
        "\"content\":\"<|im_end|>\",\"special\":true}}}";
    static const char *const cases[][2] = {{"abc ab", "258 259"},
                                           {"bcab", "257 256"},
                                           {"\xE4\xB8\x80\xE4\xB8\x81", "260 261 129"},
                                           {"1212", "262 49 50"}, /* three digits at most */
                                           {"[BOS]ab<|im_end|>", "263 256 266"},
                                           {"<|reserved_token_264|>", "264"},
                                           {"<|reserved_token_263|>", NULL}};
    text ranks = {NULL, 0, 0};
    tokenizer *t;
    mla_error err;
    for (int b = 0; b < 256; b++) {
        const char byte = (char)b;
        put_rank(&ranks, &byte, 1, b);
    }
    for (int i = 0; i < 7; i++) put_rank(&ranks, words[i], strlen(words[i]), 256 + i);
    memset(&err, 0, sizeof err);
    CHECK(!tokenizer_parse_tiktoken(&t, ranks.s, ranks.n, config, strlen(config), NULL, &err), "%s", err.text);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0] && t; i++) {
        const char *got = encoded(t, cases[i][0], strlen(cases[i][0]), 0);
        CHECK(cases[i][1] ? !strcmp(got, cases[i][1]) : strchr(got, ' ') != NULL, "%s: %s", cases[i][0], got);
    }
    CHECK(tokenizer_size(t) == 263 + 256 && tokenizer_is_special(t, 263) && tokenizer_find(t, "<|im_end|>") == 266 &&
              !strcmp(tokenizer_bytes(t, 259, NULL), " ab"),
          "ids");
    tokenizer_close(t);
    static const char *const wrong[][2] = {{"YQ== 0\nYQ 1\n", "line 2"},
                                           {"YQ== x\n", "line 1"},
                                           {"YQ==\n", "line 1"},
                                           {"=== 1\n", "line 1"},
                                           {"YQ== 99999999\n", "line 1"},
                                           {"YQ== -1\n", "line 1"},
                                           {"YQ== 1\nYg== 1\n", "the id 1 stands twice"},
                                           {"YQ== 1\nYQ== 2\n", "stands twice"},
                                           {"YQ== 1\n", "the byte 0 is missing"},
                                           {"", "the byte 0 is missing"}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK(tokenizer_parse_tiktoken(&t, wrong[i][0], strlen(wrong[i][0]), NULL, 0, "f", &err) == MLA_ERR_CONFIG &&
                  !t && strstr(err.text, wrong[i][1]),
              "%s: %s", wrong[i][0], err.text);
    CHECK(tokenizer_parse_tiktoken(&t, NULL, 1, NULL, 0, "f", &err) == MLA_ERR_ARGUMENT && !t, "no ranks");
    text more = {NULL, 0, 0};
    static char many[1026];
    memset(many, 'a', sizeof many);
    put_bytes(&more, ranks.s, ranks.n), put_rank(&more, many, sizeof many, 263);
    CHECK(tokenizer_parse_tiktoken(&t, more.s, more.n, NULL, 0, "f", &err) == MLA_ERR_CONFIG && !t &&
              strstr(err.text, "line 264: expected a token of at most 512 bytes"),
          "a long token: %s", err.text);
    clear(&more);
    static const char *const configs[][2] = {
        {"{", "JSON"},
        {"{\"added_tokens_decoder\":[]}", "an object"},
        {"{\"added_tokens_decoder\":{\"7\":{}}}", "\"7\" is no id from 263 to 518"},
        {"{\"added_tokens_decoder\":{\"263\":{}}}", "contents"}};
    for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++)
        CHECK(tokenizer_parse_tiktoken(&t, ranks.s, ranks.n, configs[i][0], strlen(configs[i][0]), "f", &err) ==
                      MLA_ERR_CONFIG &&
                  !t && strstr(err.text, configs[i][1]),
              "%s: %s", configs[i][0], err.text);
    FILE *f = fopen("build/test_tiktoken.model", "wb");
    if (CHECK(f != NULL, "a file")) {
        CHECK(fwrite(ranks.s, 1, ranks.n, f) == ranks.n, "written");
        fclose(f);
        CHECK(!tokenizer_open(&t, "build/test_tiktoken.model", &err), "opened: %s", err.text);
        CHECK(t && !strcmp(encoded(t, "abc", 3, 0), "258"), "encodes");
        tokenizer_close(t);
        remove("build/test_tiktoken.model");
    }
    clear(&ranks);
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
    enum { TIMES = 16 }; /* quadratic: 256 times as long */
    const size_t SMALL = test_all() ? 1 << 16 : 1 << 14, LARGE = SMALL * TIMES;
    static const struct {
        const char *what, *unit, *pre;
    } cases[] = {{"one letter", "a", NULL},
                 {"spaces", " ", NULL},
                 {"spaces in V3's regex", " ", SEQUENCE(SPLIT("\\\\s?\\\\p{L}+") "," SPLIT("\\\\s+$"))},
                 {"spaces and letters", "  a", SEQUENCE(SPLIT("\\\\s+$"))},
                 {"line feeds and spaces", "\n \t ", SEQUENCE(SPLIT("\\\\s+$") "," SPLIT("\\\\s?[a-z]+"))},
                 {"beginnings of an added token", "<", NULL},
                 {"white space that a token takes on its right", "\n", NULL},
                 {"the same behind others", "[R]\n \n", NULL},
                 {"a pattern that fails everywhere", "a", SEQUENCE(SPLIT("a*b|a+$|[a-c]+?d"))},
                 {"the same, possessive", " ", SEQUENCE(SPLIT("\\\\s++$|\\\\s*x"))},
                 {"nested loops", "a", SEQUENCE(SPLIT("(?:a+a*)+b"))},
                 {"words with Kimi's pattern", "AbC", SEQUENCE(SPLIT("[A-Z]*[a-z]+|[A-Z]+[a-z]*"))},
                 {"bytes that are no UTF-8", "\xE4", NULL}};
    text file = {NULL, 0, 0}, added = {NULL, 0, 0};
    char *s = (char *)need(malloc(LARGE + 1));
    put(&added, "{\"id\":400,\"content\":\"");
    for (int i = 0; i < 255; i++) put(&added, "<");
    put(&added,
        ">\",\"single_word\":false,\"lstrip\":true,\"rstrip\":true,\"normalized\":false,\"special\":false}," ADDED(
            "401", "\\n", "false", "true", "false", "false"));
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
        CHECK(ids > 0 && large < 5 * TIMES * small + 0.5, "%s: %.3f s for %zu KiB, %.3f s for %zu", cases[i].what,
              small, SMALL >> 10, large, LARGE >> 10);
        tokenizer_close(t);
    }
    free(s);
    clear(&file);
    clear(&added);
}

int main(void) {
    test_rng r = {20240607};
    make_categories();
    test_unicode();
    test_regexes(&r);
    test_classes();
    test_merging(&r);
    test_pipeline(&r);
    test_added();
    test_streams(&r);
    test_wrong_files();
    test_damaged_files(&r);
    test_characters();
    test_growth();
    test_nfc();
    test_gguf_models(&r);
    test_gguf_wrong(&r);
    test_tiktoken();
    test_time();
    free(categories), free(han);
    return test_end();
}
