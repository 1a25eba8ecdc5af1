/* test_checkpoint.c - examples/checkpoint.h: the fixtures field by field, then every hostile file we could think of.
   Run from the repository root. Every refusal must have the right code and a one-line message that names the thing at
   fault. */

#ifndef _XOPEN_SOURCE
#define _XOPEN_SOURCE 700 /* realpath */
#endif
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L /* mkdtemp, symlink */
#endif

#include <dirent.h>
#include <limits.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "mla.h"
#include "test.h"

/* The reader under test allocates through these, so that the k-th allocation can fail. */
static long alloc_countdown = -1; /* -1: never; 0: the next one fails, and all after it */
static int alloc_fails(void) { return alloc_countdown >= 0 && alloc_countdown-- == 0 && ++alloc_countdown == 0; }
static void *test_malloc(size_t n) { return alloc_fails() ? NULL : malloc(n); }
static void *test_calloc(size_t n, size_t size) { return alloc_fails() ? NULL : calloc(n, size); }
static void *test_realloc(void *p, size_t n) { return alloc_fails() ? NULL : realloc(p, n); }

#define malloc  test_malloc
#define calloc  test_calloc
#define realloc test_realloc
#define CHECKPOINT_IMPLEMENTATION
#include "checkpoint.h"
#undef malloc
#undef calloc
#undef realloc

#define FIXTURES "tests/fixtures/checkpoints/"
#define COUNT(a) (sizeof(a) / sizeof *(a))

/* ---- helpers ----------------------------------------------------------------------------------------------------- */

static char root[64], dir[96]; /* a temporary directory, and the checkpoint being made in it */

static void *need(void *p) {
    if (!p) printf("out of memory in the test\n"), exit(2);
    return p;
}

static const char *in_dir(const char *name) { /* valid until the call after the next three */
    static char path[4][400];
    static int turn;
    char *p = path[turn++ & 3];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static void write_file(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f)) printf("cannot write %s\n", path), exit(2);
}

static char *read_text(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) printf("cannot read %s: run this from the repository root\n", path), exit(2);
    char *text = (char *)need(malloc(1 << 16));
    size_t n = fread(text, 1, (1 << 16) - 1, f);
    fclose(f);
    text[n] = 0;
    return text;
}

static void link_file(const char *fixture, const char *name, const char *as) {
    char from[256], full[PATH_MAX];
    snprintf(from, sizeof from, FIXTURES "%s/%s", fixture, name);
    if (!realpath(from, full) || symlink(full, in_dir(as))) printf("cannot link %s\n", from), exit(2);
}

static void clear_dir(void) {
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.') unlink(in_dir(e->d_name));
    closedir(d);
    rmdir(dir);
}

static void new_dir(void) {
    clear_dir();
    if (mkdir(dir, 0700)) printf("cannot make %s\n", dir), exit(2);
}

/* A message is one line of printable text, not cut off, and contains word. */
static void check_error(mla_result rc, mla_result want, const mla_error *e, const char *word, const char *what) {
    int clean = rc == MLA_OK || (e->code == rc && strlen(e->text) > 8 && strlen(e->text) < sizeof e->text - 1);
    for (const char *c = e->text; clean && rc && *c; c++) clean = (unsigned char)*c >= 0x20;
    CHECK(rc == want, "%s: got %d, want %d (%s)", what, (int)rc, (int)want, rc ? e->text : "ok");
    CHECK(clean, "%s: bad message", what);
    if (rc) CHECK(strstr(e->text, word) != NULL, "%s: \"%s\" is not in: %s", what, word, e->text);
}

static void check_open(mla_result want, const char *word, const char *what) {
    mla_error e;
    checkpoint *c;
    memset(&e, 0, sizeof e);
    mla_result rc = checkpoint_open(&c, dir, &e);
    check_error(rc, want, &e, word, what);
    CHECK(!rc == !!c, "%s: *out", what);
    checkpoint_close(c);
}

/* The top-level "key" of a config.json gets another value, or is added, or with value NULL removed. */
static char *with_key(const char *text, const char *key, const char *value) {
    char quoted[80], *out = (char *)need(malloc(strlen(text) + strlen(key) + (value ? strlen(value) : 0) + 64));
    snprintf(quoted, sizeof quoted, "\n  \"%s\":", key);
    const char *at = strstr(text, quoted), *end;
    if (at) {
        int depth = 0;
        for (end = at + strlen(quoted); depth || (*end != ',' && *end != '}'); end++)
            depth += (*end == '{' || *end == '[') - (*end == '}' || *end == ']');
        end += *end == ','; /* the last key of no fixture is removed */
        sprintf(out, "%.*s", (int)(at - text), text);
        if (value) sprintf(out + strlen(out), "%s %s%s", quoted, value, end[-1] == ',' ? "," : "");
        strcat(out, end);
    } else sprintf(out, "{%s %s,%s", quoted, value ? value : "null", strchr(text, '{') + 1);
    return out;
}

/* Opens the fixture's weights with config.json changed in one or two keys. */
static void try_config2(const char *fixture, const char *key, const char *value, const char *key2, const char *value2,
                        mla_result want, const char *word) {
    char path[128], what[200];
    snprintf(path, sizeof path, FIXTURES "%s/config.json", fixture);
    char *text = read_text(path), *one = with_key(text, key, value), *two = key2 ? with_key(one, key2, value2) : NULL;
    write_file(in_dir("config.json"), two ? two : one, strlen(two ? two : one));
    snprintf(what, sizeof what, "%s, %s = %.60s", fixture, key, value ? value : "(absent)");
    check_open(want, word, what);
    free(text), free(one), free(two);
}

static void try_config(const char *fixture, const char *key, const char *value, mla_result want, const char *word) {
    try_config2(fixture, key, value, NULL, NULL, want, word);
}

/* A safetensors file as a list of tensors that can be edited and written. */
typedef struct item {
    char name[120], dtype[16];
    int n_dims;
    int64_t dims[8];
    const void *data;
    size_t bytes;
} item;

static void write_items(const char *path, const item *items, size_t n) {
    size_t cap = n * 400 + 64, at = 8, offset = 0, total = 0;
    for (size_t i = 0; i < n; i++) total += items[i].bytes;
    char *b = (char *)need(calloc(1, cap + total));
    at += (size_t)sprintf(b + at, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < n; i++) {
        at += (size_t)sprintf(b + at, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", items[i].name, items[i].dtype);
        for (int d = 0; d < items[i].n_dims; d++)
            at += (size_t)sprintf(b + at, d ? ",%lld" : "%lld", (long long)items[i].dims[d]);
        at += (size_t)sprintf(b + at, "],\"data_offsets\":[%zu,%zu]}", offset, offset + items[i].bytes);
        offset += items[i].bytes;
    }
    b[at++] = '}';
    for (int i = 0; i < 8; i++) b[i] = (char)((uint64_t)(at - 8) >> (8 * i));
    for (size_t i = 0; i < n; at += items[i++].bytes)
        if (items[i].bytes) memcpy(b + at, items[i].data, items[i].bytes);
    write_file(path, b, at);
    free(b);
}

static size_t load_items(item *items, size_t capacity, const st_file *f) {
    size_t n = st_count(f);
    if (n > capacity) printf("fixture too large\n"), exit(2);
    for (size_t i = 0; i < n; i++) {
        const st_tensor *t = st_at(f, i);
        snprintf(items[i].name, sizeof items[i].name, "%s", t->name);
        snprintf(items[i].dtype, sizeof items[i].dtype, "%s", t->dtype);
        items[i].n_dims = t->n_dims;
        memcpy(items[i].dims, t->dims, sizeof t->dims);
        items[i].data = t->data;
        items[i].bytes = t->bytes;
    }
    return n;
}

static item *find_item(item *items, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (!strcmp(items[i].name, name)) return &items[i];
    printf("no tensor %s\n", name), exit(2);
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static mla_result parse(const char *text, size_t n, json_value **v,
                        mla_error *e) { /* from a block of exactly n bytes */
    char *copy = (char *)need(malloc(n ? n : 1));
    memcpy(copy, text, n);
    mla_result rc = json_parse(copy, n, v, e);
    free(copy);
    return rc;
}

static void test_json(void) {
    SECTION("JSON: values");
    static const char doc[] =
        " {\"a\\u0062\":[1,-2,3.5,1e3,1.0,-0,0,9223372036854775807,-9223372036854775808,9223372036854775808],\r\n"
        "\t\"s\":\"\\\"\\\\\\/"
        "\\b\\f\\n\\r\\t\\u00e9\\u20AC\\ud83d\\ude00\xc3\xa9\\u0000z\",\"t\":true,\"f\":false,\"n\":null,\"e\":{},"
        "\"l\":[]} ";
    json_value *v;
    mla_error e;
    int64_t i = 0;
    size_t length;
    if (CHECK(parse(doc, sizeof doc - 1, &v, &e) == MLA_OK, "parse: %s", e.text)) {
        const json_value *a = json_get(v, "ab"), *s = json_get(v, "s");
        static const double reals[] = {
            1, -2, 3.5, 1000, 1, 0, 0, 9223372036854775807.0, -9223372036854775808.0, 9223372036854775808.0};
        static const int exact[] = {1, 1, 0, 0, 0, 0, 1, 1, 1, 0};
        CHECK(json_count(v) == 7 && json_count(a) == 10, "counts");
        for (size_t k = 0; k < 10; k++) {
            CHECK(json_number(json_at(a, k)) == reals[k], "number %zu: %g", k, json_number(json_at(a, k)));
            CHECK(json_integer(json_at(a, k), &i) == exact[k], "number %zu exact", k);
        }
        json_integer(json_at(a, 7), &i);
        CHECK(i == INT64_MAX, "int64 max");
        json_integer(json_at(a, 8), &i);
        CHECK(i == INT64_MIN, "int64 min");
        static const char want[] = "\"\\/\b\f\n\r\t\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xc3\xa9\0z";
        const char *got = json_string(s, &length);
        CHECK(got && length == sizeof want - 1 && !memcmp(got, want, sizeof want), "string of %zu", length);
        CHECK(json_typeof(json_get(v, "t")) == JSON_BOOL && json_bool(json_get(v, "t")) && !json_bool(json_get(v, "f")),
              "booleans");
        CHECK(json_typeof(json_get(v, "f")) == JSON_BOOL && json_get(v, "n") &&
                  json_typeof(json_get(v, "n")) == JSON_NULL,
              "null");
        CHECK(json_typeof(json_get(v, "e")) == JSON_OBJECT && json_typeof(json_get(v, "l")) == JSON_ARRAY,
              "empty containers");
        CHECK(!json_get(v, "x") && !json_get(a, "x") && !json_get(NULL, "x") && !json_get(json_get(v, "e"), "x"),
              "absent keys");
        CHECK(!json_at(a, 10) && !json_at(s, 0) && !json_string(a, NULL) && !json_integer(s, &i) && json_number(s) == 0,
              "other types");
        CHECK(!strcmp(json_key(json_at(v, 0)), "ab") && !strcmp(json_key(json_at(v, 6)), "t"), "key order");
        static const char *const in_file[] = {"ab", "s", "t", "f", "n", "e", "l"};
        for (size_t k = 0; k < 7; k++) CHECK(json_place(json_get(v, in_file[k])) == k, "the place of %s", in_file[k]);
        CHECK(json_place(json_at(a, 9)) == 9 && json_place(v) == 0 && json_place(NULL) == 0, "places");
        json_free(v);
    }
    for (size_t n = 0; n < sizeof doc - 2; n++) {
        CHECK(parse(doc, n, &v, &e) == MLA_ERR_ARGUMENT && !v, "prefix of %zu", n);
        json_free(v);
    }
    static const struct {
        const char *text;
        double value;
    } numbers[] = {{"0.1", 0.1},
                   {"1e-06", 1e-6},
                   {"0.707", 0.707},
                   {"3.0999999999999996", 3.0999999999999996},
                   {"-1.5E+2", -150},
                   {"5e-324", 5e-324},
                   {"1e-999", 0},
                   {"1.7976931348623157e308", 1.7976931348623157e308},
                   {"123456789012345678901234567890", 123456789012345678901234567890.0}};
    for (int pass = 0; pass < 2;
         pass++) { /* also where the decimal point is a comma, if the machine has such a locale */
        if (pass && !setlocale(LC_NUMERIC, "de_DE.UTF-8") && !setlocale(LC_NUMERIC, "fr_FR.UTF-8")) break;
        for (size_t k = 0; k < COUNT(numbers); k++)
            if (CHECK(parse(numbers[k].text, strlen(numbers[k].text), &v, &e) == MLA_OK, "%s", numbers[k].text)) {
                CHECK(json_number(v) == numbers[k].value, "%s gives %.17g", numbers[k].text, json_number(v));
                json_free(v);
            }
    }
    setlocale(LC_NUMERIC, "C");
    CHECK(json_parse(NULL, 1, &v, &e) == MLA_ERR_ARGUMENT && json_parse("1", 1, NULL, &e) == MLA_ERR_ARGUMENT,
          "null pointers");
    CHECK(json_parse("x", 1, &v, NULL) == MLA_ERR_ARGUMENT, "no error struct");
    json_free(NULL);

    SECTION("JSON: refusals");
#define TEXT(s)                                                                                                        \
    { s, sizeof s - 1, "" }
    static const struct {
        const char *text;
        size_t n;
        const char *word;
    } bad[] = {TEXT(""),
               TEXT(" "),
               TEXT("nul"),
               TEXT("truee"),
               TEXT("NaN"),
               TEXT("Infinity"),
               TEXT("-Infinity"),
               TEXT("[NaN]"),
               TEXT("01"),
               TEXT("-"),
               TEXT("+1"),
               TEXT(".5"),
               TEXT("1."),
               TEXT("1.e3"),
               TEXT("1e"),
               TEXT("1e+"),
               TEXT("0x10"),
               TEXT("1e999"),
               TEXT("-1e999"),
               TEXT("--1"),
               TEXT("[1,]"),
               TEXT("[,1]"),
               TEXT("[1 2]"),
               TEXT("[1"),
               TEXT("[}"),
               TEXT("]"),
               TEXT("{\"a\":1,}"),
               TEXT("{a:1}"),
               TEXT("{'a':1}"),
               TEXT("{\"a\" 1}"),
               TEXT("{\"a\":}"),
               TEXT("{\"a\"}"),
               TEXT("{,}"),
               TEXT("{1:2}"),
               TEXT("1 2"),
               TEXT("{} {}"),
               TEXT("[] ]"),
               {"\xef\xbb\xbf{}", 5, "byte order mark"},
               {"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", 63, "Git LFS pointer"},
               {"\n <!DOCTYPE html><html>", 23, "web page"},
               {"<html>", 6, "web page"},
               {"<?xml version='1.0'?>", 21, "web page"},
               {"<", 1, "line 1"},
               TEXT("// c\n1"),
               TEXT("/**/1"),
               TEXT("\v1"),
               TEXT("1\0"),
               TEXT("\"a"),
               TEXT("\"\\\""),
               TEXT("\"\\x\""),
               TEXT("\"\\u12\""),
               TEXT("\"\\u12g4\""),
               TEXT("\"\\"),
               TEXT("\"\\\0\""),
               TEXT("\"a\nb\""),
               TEXT("\"a\tb\""),
               TEXT("\"\0\""),
               TEXT("\"\\u00\"00\""),
               TEXT("\"\\ud800\""),
               TEXT("\"\\ud800x\""),
               TEXT("\"\\udc00\""),
               TEXT("\"\\ud800\\ud800\""),
               TEXT("\"\\ud83d\\u0041\""),
               TEXT("\"\\ud83d\\"),
               TEXT("\"\\ud83d\\n12345\""),
               TEXT("\"\x80\""),
               TEXT("\"\xc0\x80\""),
               TEXT("\"\xc1\xbf\""),
               TEXT("\"\xc3\""),
               TEXT("\"\xc3(\""),
               TEXT("\"\xe0\x80\x80\""),
               TEXT("\"\xe2\x82\""),
               TEXT("\"\xed\xa0\x80\""),
               TEXT("\"\xf0\x80\x80\x80\""),
               TEXT("\"\xf4\x90\x80\x80\""),
               TEXT("\"\xf5\x80\x80\x80\""),
               TEXT("\"\xff\""),
               TEXT("\"\xf0\x9f\x98\""),
               {"{\"a\":1,\"a\":2}", 13, "\"a\""},
               {"{\"ab\":1,\"\\u0061b\":2}", 20, "\"ab\""},
               {"{\"x\":{\"q\":1,\"r\":2,\"q\":1}}", 25, "\"q\""},
               {"{\"key\":NaN}", 11, "\"key\""},
               {"{\"a\\u0000b\":1}", 14, "NUL"},
               {"\n\n [ 1, x ]", 11, "line 3, column 7"}};
    for (size_t k = 0; k < COUNT(bad); k++) {
        memset(&e, 0, sizeof e);
        mla_result rc = parse(bad[k].text, bad[k].n, &v, &e);
        check_error(rc, MLA_ERR_ARGUMENT, &e, bad[k].word, bad[k].text);
        json_free(v);
    }
    static const char *const opens[] = {"[", "{\"a\":", "[{\"a\":"};
    for (size_t k = 0; k < 3; k++) { /* 10^6 deep */
        size_t unit = strlen(opens[k]), n = unit * 1000000;
        char *deep = (char *)need(malloc(n));
        for (size_t at = 0; at < n; at += unit) memcpy(deep + at, opens[k], unit);
        memset(&e, 0, sizeof e);
        mla_result rc = json_parse(deep, n, &v, &e);
        check_error(rc, MLA_ERR_ARGUMENT, &e, "deep", "nesting 10^6");
        free(deep);
    }
    char nest[256];
    for (int depth = 63; depth < 67; depth++) {
        memset(nest, '[', (size_t)depth), memset(nest + depth, ']', (size_t)depth);
        mla_result rc = parse(nest, 2 * (size_t)depth, &v, &e);
        CHECK((rc == MLA_OK) == (depth <= 64), "depth %d", depth);
        json_free(v);
    }
    char digits[600];
    memset(digits, '1', sizeof digits);
    digits[1] = '.';
    CHECK(parse(digits, 256, &v, &e) == MLA_OK, "256 digits");
    json_free(v);
    CHECK(parse(digits, 257, &v, &e) == MLA_ERR_ARGUMENT, "257 digits");
}

/* ---- safetensors ------------------------------------------------------------------------------------------------- */

/* Header length, header, and n bytes of data, in a block of exactly that size. */
static unsigned char *blob(const char *header, size_t length, size_t n, size_t *size) {
    *size = 8 + length + n;
    unsigned char *b = (unsigned char *)need(malloc(*size));
    for (int i = 0; i < 8; i++) b[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(b + 8, header, length);
    for (size_t i = 0; i < n; i++) b[8 + length + i] = (unsigned char)i;
    return b;
}

static void try_header(const char *header, size_t length, size_t n, mla_result want, const char *word) {
    size_t size;
    unsigned char *b = blob(header, length, n, &size);
    st_file *f;
    mla_error e;
    memset(&e, 0, sizeof e);
    mla_result rc = st_parse(&f, b, size, "blob.safetensors", &e);
    check_error(rc, want, &e, word, header);
    if (rc) CHECK(strstr(e.text, "blob.safetensors") != NULL, "no file name in: %s", e.text);
    CHECK(!rc == !!f, "*out");
    st_close(f);
    free(b);
}

#define T1(dtype, shape, from, to)                                                                                     \
    "{\"tensor.x\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}}"

static const char small_header[] = "{\"__metadata__\":{\"format\":\"pt\",\"k\":\"v\"},\"b\":{\"dtype\":\"F32\","
                                   "\"shape\":[2,3],\"data_offsets\":[4,28]},"
                                   "\"a\":{\"shape\":[2],\"data_offsets\":[0,4],\"dtype\":\"BF16\"},\"z\":{\"dtype\":"
                                   "\"I64\",\"shape\":[0,7],\"data_offsets\":["
                                   "4,4]},"
                                   "\"s\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[28,29]}}   ";

static double open_many(size_t count, int reversed) { /* seconds */
    size_t cap = count * 110 + 64, at = 1;
    char *text = (char *)need(malloc(cap));
    text[0] = '{';
    for (size_t i = 0; i < count; i++) {
        size_t k = reversed ? count - 1 - i : i;
        at += (size_t)sprintf(
            text + at,
            "%s\"model.layers.%zu.mlp.experts.%zu.w\":{\"dtype\":\"BF16\",\"shape\":[1,2],\"data_offsets\":[%zu,%zu]}",
            i ? "," : "", k / 1000, k % 1000, 4 * i, 4 * i + 4);
    }
    text[at++] = '}';
    size_t size;
    unsigned char *b = blob(text, at, 4 * count, &size);
    free(text);
    st_file *f;
    mla_error e;
    clock_t start = clock();
    mla_result rc = st_parse(&f, b, size, "many", &e);
    char name[80];
    size_t found = 0;
    for (size_t i = 0; i < count && !rc; i++) {
        sprintf(name, "model.layers.%zu.mlp.experts.%zu.w", i / 1000, i % 1000);
        const st_tensor *t = st_find(f, name);
        found += t && t->bytes == 4 &&
                 (const unsigned char *)t->data == b + size - 4 * count + 4 * (reversed ? count - 1 - i : i);
    }
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    CHECK(rc == MLA_OK && st_count(f) == count && found == count, "%zu tensors, %zu found", count, found);
    st_close(f);
    free(b);
    return seconds;
}

/* What checkpoint_read reads, in the directory of the files before. */
static void plain_reads(void) {
    mla_error e;
    char *text = NULL;
    size_t n = 0;
    CHECK(checkpoint_read(&text, &n, in_dir("page.safetensors"), 15, NULL, &e) == MLA_OK && n == 15 &&
              !strcmp(text, "<!DOCTYPE html>"),
          "read: %s", e.text);
    free(text);
    CHECK(checkpoint_read(&text, &n, in_dir("page.safetensors"), 14, NULL, &e) == MLA_ERR_ARGUMENT && !text &&
              strstr(e.text, "page.safetensors: cannot be read: larger than"),
          "larger than may be: %s", e.text);
    CHECK(checkpoint_read(&text, &n, "/dev/zero", 1000, NULL, &e) == MLA_ERR_ARGUMENT && !text &&
              strstr(e.text, "not a regular file"),
          "a device: %s", e.text);
    CHECK(checkpoint_read(&text, &n, in_dir("empty.safetensors"), 9, NULL, &e) == MLA_OK && !n && text && !*text, "%s",
          e.text);
    free(text);
}

static void test_safetensors(void) {
    SECTION("safetensors: a good file");
    size_t size, length = sizeof small_header - 1;
    unsigned char *b = blob(small_header, length, 29, &size);
    st_file *f;
    mla_error e;
    if (CHECK(st_parse(&f, b, size, "good", &e) == MLA_OK, "%s", e.text)) {
        const st_tensor *t = st_find(f, "b");
        CHECK(st_count(f) == 4 && !strcmp(st_at(f, 0)->name, "a") && !strcmp(st_at(f, 3)->name, "z") && !st_at(f, 4),
              "order");
        CHECK(t && t->n_dims == 2 && t->dims[0] == 2 && t->dims[1] == 3 && t->bytes == 24 && !strcmp(t->dtype, "F32"),
              "b");
        CHECK(t && *(const unsigned char *)t->data == 4, "b's data");
        t = st_find(f, "s");
        CHECK(t && t->n_dims == 0 && t->bytes == 1 && *(const unsigned char *)t->data == 28, "scalar");
        CHECK(st_find(f, "z") && st_find(f, "z")->bytes == 0, "empty tensor");
        CHECK(!st_find(f, "c") && !st_find(f, "") && !st_find(f, "__metadata__") && !st_find(NULL, "a"), "absent");
        CHECK(st_metadata(f, "k") && !strcmp(st_metadata(f, "k"), "v") && !st_metadata(f, "q") &&
                  !st_metadata(NULL, "k"),
              "metadata");
        st_close(f);
    }
    try_header("{}", 2, 0, MLA_OK, "");
    static const struct {
        const char *name;
        int size;
    } dtypes[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1}, {"F8_E8M0", 1},
                  {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},     {"U32", 4},
                  {"F32", 4},  {"F64", 8}, {"I64", 8}, {"U64", 8}};
    for (size_t i = 0; i < COUNT(dtypes); i++)
        for (int delta = -1; delta <= 1; delta++) {
            char h[160];
            int n = sprintf(h, "{\"tensor.x\":{\"dtype\":\"%s\",\"shape\":[3,1],\"data_offsets\":[0,%d]}}",
                            dtypes[i].name, 3 * dtypes[i].size + delta);
            try_header(h, (size_t)n, (size_t)(3 * dtypes[i].size + delta), delta ? MLA_ERR_WEIGHTS : MLA_OK,
                       "tensor.x");
        }

    SECTION("safetensors: header length");
    uint64_t lengths[] = {0,          1,         7,         size - 8,          size - 7,          size,      length - 1,
                          length + 1, 100000000, 100000001, (uint64_t)1 << 31, (uint64_t)1 << 63, UINT64_MAX};
    for (size_t k = 0; k < COUNT(lengths); k++) {
        char what[64];
        sprintf(what, "header length %llu", (unsigned long long)lengths[k]);
        for (int i = 0; i < 8; i++) b[i] = (unsigned char)(lengths[k] >> (8 * i));
        memset(&e, 0, sizeof e);
        mla_result rc = st_parse(&f, b, size, "blob", &e);
        check_error(rc, MLA_ERR_WEIGHTS, &e, "blob", what);
        st_close(f);
    }
    free(b);
    try_header(" {}", 3, 0, MLA_ERR_WEIGHTS, "'{'");
    try_header("[]", 2, 0, MLA_ERR_WEIGHTS, "'{'");
    try_header("{", 1, 0, MLA_ERR_WEIGHTS, "line 1, column 2");
    CHECK(st_parse(NULL, "", 0, "x", &e) == MLA_ERR_ARGUMENT && st_parse(&f, NULL, 1, "x", &e) == MLA_ERR_ARGUMENT,
          "null pointers");
    CHECK(st_parse(&f, NULL, 0, NULL, NULL) == MLA_ERR_WEIGHTS && !f, "empty buffer");

    SECTION("safetensors: shapes, offsets, names");
    static const struct {
        const char *header;
        size_t n;
        const char *word;
    } bad[] = {
        {T1("F32", "[4194305,4194305,211106198978564]", 0, 16), 16, "tensor.x"}, /* wraps to 4 elements */
        {T1("U8", "[4294967296,4294967296]", 0, 0), 0, "tensor.x"},              /* wraps to 0 */
        {T1("F64", "[2305843009213693953]", 0, 8), 8, "tensor.x"},               /* times 8 wraps to 8 */
        {T1("U8", "[3,4294967296,4294967296]", 0, 0), 0, "tensor.x"},
        {T1("F32", "[9007199254740992,9007199254740992,0]", 0, 0), 0, "tensor.x"},
        {T1("F32", "[0,9007199254740993]", 0, 0), 0, "tensor.x"},
        {T1("F32", "[-1]", 0, 4), 4, "tensor.x"},
        {T1("F32", "[-1,-1]", 0, 4), 4, "tensor.x"},
        {T1("F32", "[1e0]", 0, 4), 4, "tensor.x"},
        {T1("U8", "[1e3]", 0, 1000), 1000, "tensor.x"},
        {T1("F32", "[1.0]", 0, 4), 4, "tensor.x"},
        {T1("F32", "[-0]", 0, 0), 0, "tensor.x"},
        {T1("F32", "[18446744073709551617]", 0, 4), 4, "tensor.x"},
        {T1("F32", "[\"1\"]", 0, 4), 4, "tensor.x"},
        {T1("F32", "[null]", 0, 4), 4, "tensor.x"},
        {T1("F32", "[[1]]", 0, 4), 4, "tensor.x"},
        {T1("F32", "1", 0, 4), 4, "tensor.x"},
        {T1("F32", "{}", 0, 4), 4, "tensor.x"},
        {T1("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4), 4, "tensor.x"},
        {T1("F32", "[1]", 4, 0), 4, "tensor.x"},
        {T1("F32", "[1]", 0, 8), 8, "tensor.x"},
        {T1("F32", "[1]", 0, 4), 3, "tensor.x"},
        {T1("F32", "[1]", 4, 8), 8, "tensor.x"},
        {T1("F32", "[1]", -4, 0), 4, "tensor.x"},
        {T1("F32", "[1]", 0, 4.0), 4, "tensor.x"},
        {T1("F32", "[1]", -0, 4), 4, "tensor.x"},
        {T1("F32", "[1]", 0, 18446744073709551620), 4, "tensor.x"},
        {T1("F32", "[1]", 9223372036854775807, 9223372036854775807), 4, "tensor.x"},
        {T1("F32", "[0]", 5, 5), 4, "tensor.x"},
        {T1("F32", "[1]", 0, "4"), 4, "tensor.x"},
        {T1("F32", "[1]", 0, null), 4, "tensor.x"},
        {T1("F32", "[1]", 0, 4), 5, "trailing"},
        {"{\"tensor.x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4]}}", 4, "tensor.x"},
        {"{\"tensor.x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4, "tensor.x"},
        {"{\"tensor.x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":{\"0\":0,\"1\":4}}}", 4, "tensor.x"},
        {"{\"tensor.x\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor.x"},
        {"{\"tensor.x\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "tensor.x"},
        {"{\"tensor.x\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor.x"},
        {"{\"tensor.x\":[]}", 0, "tensor.x"},
        {"{\"tensor.x\":null}", 0, "tensor.x"},
        {"{\"tensor.x\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "tensor.x"},
        {"{\"tensor.x\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"more\":1}}", 4, "tensor.x"},
        {T1("F4", "[1]", 0, 4), 4, "F4"},
        {T1("f32", "[1]", 0, 4), 4, "f32"},
        {T1("", "[1]", 0, 4), 4, "tensor.x"},
        {T1("F32\\u0000", "[1]", 0, 4), 4, "tensor.x"},
        {T1("Q4_0\\n\\u001b[31m", "[1]", 0, 4), 4, "Q4_0??"},
        {"{\"p\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"q\":{\"dtype\":\"U8\",\"shape\":[4],\"data_"
         "offsets\":[3,7]}}",
         7, "\"q\""},
        {"{\"p\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"q\":{\"dtype\":\"U8\",\"shape\":[4],\"data_"
         "offsets\":[0,4]}}",
         4, "overlapping"},
        {"{\"p\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"q\":{\"dtype\":\"U8\",\"shape\":[3],\"data_"
         "offsets\":[1,4]}}",
         4, "\"q\""},
        {"{\"p\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"q\":{\"dtype\":\"U8\",\"shape\":[4],\"data_"
         "offsets\":[5,9]}}",
         9, "hole"},
        {"{\"p\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"q\":{\"dtype\":\"U8\",\"shape\":[0],\"data_"
         "offsets\":[2,2]}}",
         4, "\"q\""},
        {"{\"p\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"p\":{\"dtype\":\"U8\",\"shape\":[0],\"data_"
         "offsets\":[0,0]}}",
         0, "\"p\""},
        {"{\"p\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"\\u0070\":{\"dtype\":\"U8\",\"shape\":[0],"
         "\"data_offsets\":[0,0]}}",
         0, "\"p\""},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__"},
        {"{\"__metadata__\":{\"num\":1}}", 0, "num"},
        {"{\"__metadata__\":[]}", 0, "__metadata__"},
        {"{\"__metadata__\":[1]}", 0, "__metadata__"},
        {"{\"__metadata__\":\"x\"}", 0, "__metadata__"},
        {"{\"__metadata__\":{\"nul\":\"a\\u0000\"}}", 0, "nul"},
        {"{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "NUL"},
        {"{\"\\ud800\":{}}", 0, "surrogate"},
        {"{\"\xff\":{}}", 0, "UTF-8"},
        {"{\"dup\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "dtype"},
        {"{} x", 0, "line 1, column 4"}};
    for (size_t k = 0; k < COUNT(bad); k++)
        try_header(bad[k].header, strlen(bad[k].header), bad[k].n, MLA_ERR_WEIGHTS, bad[k].word);
    char *deep = (char *)need(malloc(1000016));
    memset(deep, '[', 1000016), memcpy(deep, "{\"tensor.x\":", 12);
    try_header((deep[1000015] = 0, deep), 1000015, 0, MLA_ERR_WEIGHTS, "tensor.x");
    free(deep);
    char longest[700]; /* a very long name is clipped, and what follows it still said */
    int n = sprintf(longest, "{\"tensor.");
    memset(longest + n, 'y', 500), n += 500;
    n += sprintf(longest + n, "\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}");
    try_header(longest, (size_t)n, 4, MLA_ERR_WEIGHTS, "span 4 bytes, dtype and shape make 8");

    SECTION("safetensors: every truncation, every byte changed");
    unsigned char *good = blob(small_header, length, 29, &size);
    for (size_t cut = 0; cut < size; cut++) {
        unsigned char *copy =
            (unsigned char *)need(malloc(cut ? cut : 1)); /* exact, so that ASan sees a byte too many */
        memcpy(copy, good, cut);
        memset(&e, 0, sizeof e);
        mla_result rc = st_parse(&f, copy, cut, "cut", &e);
        check_error(rc, MLA_ERR_WEIGHTS, &e, "cut", "truncation");
        st_close(f);
        free(copy);
    }
    int refused = 0, accepted = 0;
    for (size_t at = 0; at < size; at++)
        for (int x = 1; x < 256; x++) {
            good[at] = (unsigned char)(good[at] ^ x);
            mla_result rc = st_parse(&f, good, size, "flip", &e);
            size_t sum = 0;
            for (size_t i = 0; i < st_count(f); i++) sum += st_at(f, i)->bytes;
            refused += rc == MLA_ERR_WEIGHTS && !f;
            accepted += rc == MLA_OK && sum == 29;
            st_close(f);
            good[at] = (unsigned char)(good[at] ^ x);
        }
    CHECK(refused + accepted == 255 * (int)size && refused > accepted, "%d refused, %d accepted of %zu", refused,
          accepted, 255 * size);
    free(good);

    SECTION("safetensors: 100000 tensors");
    double quarter = open_many(25000, 0), whole = open_many(100000, 0), reversed = open_many(100000, 1);
    CHECK(whole < 12 * quarter + 0.2 && reversed < 12 * quarter + 0.2, "%.2f s for 25000, %.2f s and %.2f s for 100000",
          quarter, whole, reversed);

    SECTION("safetensors: files");
    new_dir();
    CHECK(st_open(&f, in_dir("absent.safetensors"), &e) == MLA_ERR_ARGUMENT && strstr(e.text, "absent.safetensors") &&
              !f,
          "%s", e.text);
    CHECK(st_open(&f, dir, &e) == MLA_ERR_ARGUMENT && strstr(e.text, "directory"), "%s", e.text);
    CHECK(st_open(&f, NULL, &e) == MLA_ERR_ARGUMENT && st_open(NULL, "x", &e) == MLA_ERR_ARGUMENT, "null pointers");
    write_file(in_dir("empty.safetensors"), "", 0);
    CHECK(st_open(&f, in_dir("empty.safetensors"), &e) == MLA_ERR_WEIGHTS && strstr(e.text, "empty.safetensors"), "%s",
          e.text);
    write_file(in_dir("pointer.safetensors"), "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", 56);
    CHECK(st_open(&f, in_dir("pointer.safetensors"), &e) == MLA_ERR_WEIGHTS &&
              strstr(e.text, "pointer.safetensors: this is a Git LFS pointer"),
          "%s", e.text);
    write_file(in_dir("page.safetensors"), "<!DOCTYPE html>", 15);
    CHECK(st_open(&f, in_dir("page.safetensors"), &e) == MLA_ERR_WEIGHTS && strstr(e.text, "web page"), "%s", e.text);
    if (CHECK(mkfifo(in_dir("fifo"), 0600) == 0, "mkfifo"))
        CHECK(st_open(&f, in_dir("fifo"), &e) == MLA_ERR_ARGUMENT, "a FIFO does not hang");
    char endless[300];
    memset(endless, 'n', 299), endless[299] = 0;
    CHECK(st_open(&f, in_dir(endless), &e) == MLA_ERR_ARGUMENT &&
              strstr(e.text, "nnn: cannot be read: the name is too long ("),
          "%s", e.text);
    if (CHECK(symlink("circle", in_dir("circle")) == 0, "symlink"))
        CHECK(st_open(&f, in_dir("circle"), &e) == MLA_ERR_ARGUMENT &&
                  strstr(e.text, "circle: cannot be read: symbolic links that lead in a circle ("),
              "%s", e.text);
    CHECK(st_open(&f, "", &e) == MLA_ERR_ARGUMENT && !strncmp(e.text, "'': cannot be read", 18), "%s", e.text);
    plain_reads();
    good = blob(small_header, length, 29, &size);
    write_file(in_dir("good.safetensors"), good, size);
    if (CHECK(st_open(&f, in_dir("good.safetensors"), &e) == MLA_OK, "%s", e.text))
        CHECK(!memcmp(st_find(f, "b")->data, good + size - 25, 24), "data");
    st_close(f);
    free(good);
    st_close(NULL);
}

static void open_nothing(void) {
    checkpoint *c;
    mla_error e;
    CHECK(checkpoint_open(&c, "", &e) == MLA_ERR_ARGUMENT && !c && strstr(e.text, "empty"), "an empty path: %s",
          e.text);
}

/* Text that would become many times as much memory is refused for how many values it has, or bytes. */
static void many_values(void) {
    const size_t some = 1 << 18, most = 1 << 22;
    char *text = (char *)need(malloc(2 * most + 64)), *at = text + 8;
    json_value *json = NULL;
    mla_error e;
    st_file *f;
    memcpy(at, "{\"a\":[", 6);
    for (size_t i = 0; i < most; i++) at[6 + 2 * i] = '0', at[7 + 2 * i] = ',';
    write_file(in_dir("config.json"), at, 2 * some + 6);
    check_open(MLA_ERR_CONFIG, "config.json: line 1, column 524291, after key \"a\": more values than", "many values");
    CHECK(json_parse(at, 2 * most + 6, &json, &e) == MLA_ERR_ARGUMENT && strstr(e.text, "more values"), "%s", e.text);
    for (int i = 0; i < 8; i++) text[i] = (char)((2 * most + 6) >> (8 * i) & 255);
    CHECK(st_parse(&f, text, 2 * most + 14, "f", &e) == MLA_ERR_WEIGHTS && strstr(e.text, "more values"), "%s", e.text);
    at[0] = '[', at[1] = ' ', at[2] = ' ', at[3] = ' ', at[4] = ' ', at[5] = ' '; /* as many as there may be */
    at[2 * most + 2] = '0', at[2 * most + 3] = ']';
    CHECK(json_parse(at, 2 * most + 4, &json, &e) == MLA_OK && json_count(json) == most - 1, "%s", e.text);
    json_free(json);
    memset(text, ' ', 2 * most);
    text[0] = '{';
    FILE *large = fopen(in_dir("config.json"), "wb");
    for (int i = 0; i < 3 && large; i++) fwrite(text, 1, 2 * most, large);
    if (large) fclose(large);
    check_open(MLA_ERR_ARGUMENT, "config.json: cannot be read: larger than", "many bytes");
    unlink(in_dir("config.json"));
    free(text);
}

/* ---- the fixtures ------------------------------------------------------------------------------------------------ */

static void check_view(const mla_tensor *t, const st_file *f, const char *name, int rows, int cols, mla_dtype dtype) {
    const st_tensor *s = st_find(f, name);
    CHECK(t->data && t->rows == rows && t->cols == cols && t->dtype == dtype, "%s: %d x %d, dtype %d", name, t->rows,
          t->cols, (int)t->dtype);
    CHECK(s && t->data && !memcmp(t->data, s->data, s->bytes), "%s: data", name);
}

static void test_fixtures(void) {
    static const struct fixture {
        const char *name, *model_type;
        int L, D, q_lora_rank, R, n_experts, top_k, n_shared, moe_size, n_group, topk_group;
        mla_topk_method topk;
        mla_scoring_func scoring;
        int norm;
        float scale, theta, factor, mscale, eps;
    } fixtures[] = {{"deepseek_v2_lite", "deepseek_v2",       3, 64, 0,     48, 8,      3,    2, 32, 1, 1,
                     MLA_TOPK_GREEDY,    MLA_SCORING_SOFTMAX, 0, 1,  10000, 8,  0.707f, 1e-6f},
                    {"deepseek_v2",
                     "deepseek_v2",
                     3,
                     64,
                     48,
                     48,
                     12,
                     3,
                     2,
                     32,
                     4,
                     2,
                     MLA_TOPK_GROUP_LIMITED_GREEDY,
                     MLA_SCORING_SOFTMAX,
                     0,
                     16,
                     10000,
                     8,
                     0.707f,
                     1e-6f},
                    {"deepseek_v3",     "deepseek_v3",       4, 64,   48,    48, 12, 4,    1, 32, 4, 2,
                     MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID, 1, 2.5f, 10000, 4,  1,  1e-6f},
                    {"deepseek_v3_fp8", "deepseek_v3",       3, 192,  48,    136, 12, 4,    1, 144, 4, 2,
                     MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID, 1, 2.5f, 10000, 4,   1,  1e-6f},
                    {"kimi_k2",         "kimi_k2",           3, 64,     48,    48, 12, 4,    1, 32, 1, 1,
                     MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID, 1, 2.827f, 50000, 32, 1,  1e-2f}};
    for (size_t k = 0; k < COUNT(fixtures); k++) {
        const struct fixture *x = &fixtures[k];
        char path[128];
        SECTION(x->name);
        snprintf(path, sizeof path, FIXTURES "%s", x->name);
        checkpoint *c;
        mla_error e;
        if (!CHECK(checkpoint_open(&c, path, &e) == MLA_OK, "%s", e.text)) continue;
        const mla_config *m = &c->config;
#define SAME(field, value) CHECK(m->field == (value), #field " is %g, not %g", (double)m->field, (double)(value))
        SAME(vocab_size, 256), SAME(hidden_size, x->D), SAME(num_hidden_layers, x->L), SAME(intermediate_size, 128),
            SAME(num_attention_heads, 4);
        SAME(q_lora_rank, x->q_lora_rank), SAME(kv_lora_rank, x->R), SAME(qk_nope_head_dim, 32),
            SAME(qk_rope_head_dim, 16), SAME(v_head_dim, 32);
        SAME(softmax_scale, 0), SAME(mask, MLA_MASK_CAUSAL), SAME(rope.layout, MLA_ROPE_PAIR),
            SAME(rope.scaling, MLA_ROPE_YARN);
        SAME(rope.theta, x->theta), SAME(rope.factor, x->factor), SAME(rope.beta_fast, 32), SAME(rope.beta_slow, 1),
            SAME(rope.mscale, x->mscale);
        SAME(rope.mscale_all_dim, x->mscale), SAME(rope.attention_factor, 0), SAME(rope.no_truncate, 0),
            SAME(rope.max_position_embeddings, 256);
        SAME(rope.original_max_position_embeddings, 16), SAME(rope.length, 0);
        CHECK(!m->rope.short_factor && !m->rope.long_factor && !m->rope.inv_freq, "rope pointers");
        SAME(q_norm.kind, MLA_NORM_RMS), SAME(kv_norm.kind, MLA_NORM_RMS), SAME(block_norm.kind, MLA_NORM_RMS);
        SAME(q_norm.eps, 1e-6f), SAME(kv_norm.eps, 1e-6f), SAME(block_norm.eps, x->eps);
        SAME(n_routed_experts, x->n_experts), SAME(num_experts_per_tok, x->top_k),
            SAME(moe_intermediate_size, x->moe_size);
        SAME(n_shared_experts, x->n_shared), SAME(n_group, x->n_group), SAME(topk_group, x->topk_group),
            SAME(topk_method, x->topk);
        SAME(scoring_func, x->scoring), SAME(norm_topk_prob, x->norm), SAME(routed_scaling_factor, x->scale);
        CHECK(!strcmp(c->model_type, x->model_type), "model_type %s", c->model_type);
        CHECK(c->bos_token_id == 0 && c->n_eos == 1 && c->eos_token_id[0] == 1 && c->max_position_embeddings == 256,
              "token ids");

        /* the weights: against the same tensors found by name, and which kinds a layer has */
        for (int l = 0; l < x->L; l++) {
            const mla_layer_weights *w = &c->weights.layers[l];
            CHECK((w->mlp.gate.weight.data != NULL) == (l < 1) && (w->moe.experts != NULL) == (l >= 1),
                  "layer %d dense or not", l);
            CHECK((w->attn.q.weight.data != NULL) == !x->q_lora_rank &&
                      (w->attn.q_a.weight.data != NULL) == !!x->q_lora_rank,
                  "layer %d q", l);
            CHECK((w->moe.router_bias.data != NULL) == (l >= 1 && x->topk == MLA_TOPK_NOAUX_TC), "layer %d router bias",
                  l);
            CHECK(!w->attn.kv_a.bias.data && !w->attn.o.bias.data && !w->attn.q_a.bias.data, "layer %d biases", l);
        }
        if (k != 1) { /* not the sharded one */
            st_file *f;
            snprintf(path, sizeof path, FIXTURES "%s/model.safetensors", x->name);
            if (CHECK(st_open(&f, path, &e) == MLA_OK, "%s", e.text)) {
                const mla_layer_weights *w = &c->weights.layers[2];
                const mla_dtype q = k == 3 ? MLA_E4M3 : MLA_BF16;
                check_view(&c->weights.embed, f, "model.embed_tokens.weight", 256, x->D, MLA_BF16);
                check_view(&c->weights.head, f, "lm_head.weight", 256, x->D, MLA_BF16);
                check_view(&c->weights.norm.weight, f, "model.norm.weight", 1, x->D, MLA_BF16);
                check_view(&w->attn_norm.weight, f, "model.layers.2.input_layernorm.weight", 1, x->D, MLA_BF16);
                check_view(&w->ffn_norm.weight, f, "model.layers.2.post_attention_layernorm.weight", 1, x->D, MLA_BF16);
                check_view(&w->attn.kv_a.weight, f, "model.layers.2.self_attn.kv_a_proj_with_mqa.weight", x->R + 16,
                           x->D, q);
                check_view(&w->attn.kv_norm.weight, f, "model.layers.2.self_attn.kv_a_layernorm.weight", 1, x->R,
                           MLA_BF16);
                check_view(&w->attn.kv_b.weight, f, "model.layers.2.self_attn.kv_b_proj.weight", 4 * 64, x->R, q);
                check_view(&w->attn.o.weight, f, "model.layers.2.self_attn.o_proj.weight", x->D, 128, q);
                if (x->q_lora_rank) {
                    check_view(&w->attn.q_a.weight, f, "model.layers.2.self_attn.q_a_proj.weight", x->q_lora_rank, x->D,
                               q);
                    check_view(&w->attn.q_norm.weight, f, "model.layers.2.self_attn.q_a_layernorm.weight", 1,
                               x->q_lora_rank, MLA_BF16);
                    check_view(&w->attn.q_b.weight, f, "model.layers.2.self_attn.q_b_proj.weight", 4 * 48,
                               x->q_lora_rank, q);
                    check_view(&w->moe.router_bias, f, "model.layers.2.mlp.gate.e_score_correction_bias", 1, 12,
                               MLA_F32);
                } else check_view(&w->attn.q.weight, f, "model.layers.2.self_attn.q_proj.weight", 4 * 48, x->D, q);
                check_view(&w->moe.router, f, "model.layers.2.mlp.gate.weight", x->n_experts, x->D, MLA_BF16);
                check_view(&w->moe.experts[5].gate.weight, f, "model.layers.2.mlp.experts.5.gate_proj.weight",
                           x->moe_size, x->D, q);
                check_view(&w->moe.experts[5].up.weight, f, "model.layers.2.mlp.experts.5.up_proj.weight", x->moe_size,
                           x->D, q);
                check_view(&w->moe.experts[7].down.weight, f, "model.layers.2.mlp.experts.7.down_proj.weight", x->D,
                           x->moe_size, q);
                check_view(&w->moe.shared.up.weight, f, "model.layers.2.mlp.shared_experts.up_proj.weight",
                           x->n_shared * x->moe_size, x->D, q);
                check_view(&c->weights.layers[0].mlp.gate.weight, f, "model.layers.0.mlp.gate_proj.weight", 128, x->D,
                           q);
                check_view(&c->weights.layers[0].mlp.down.weight, f, "model.layers.0.mlp.down_proj.weight", x->D, 128,
                           q);
                if (k == 3) {
                    const st_tensor *s = st_find(f, "model.layers.2.mlp.experts.7.down_proj.weight_scale_inv");
                    const mla_tensor *t = &w->moe.experts[7].down.weight;
                    CHECK(s && t->scale && t->scale_dtype == MLA_F32 && !memcmp(t->scale, s->data, s->bytes),
                          "block scales");
                } else CHECK(!w->moe.experts[7].down.weight.scale, "no scale");
                st_close(f);
            }
        }
        checkpoint_close(c);
    }
    mla_error e;
    checkpoint *c;
    CHECK(checkpoint_open(NULL, "x", &e) == MLA_ERR_ARGUMENT && checkpoint_open(&c, NULL, &e) == MLA_ERR_ARGUMENT && !c,
          "null pointers");
    CHECK(checkpoint_open(&c, "no/such/dir", NULL) == MLA_ERR_ARGUMENT && !c, "no error struct");
    checkpoint_close(NULL);
}

/* ---- families ---------------------------------------------------------------------------------------------------- */

/* A.X K2: DeepSeek-V3.2 with gates. */
static void test_axk2(void) {
    static const struct {
        const char *fixture, *key, *value;
        mla_result want;
        const char *word;
    } cases[] = {
        {"axk2", "gated_norm_rank", NULL, MLA_ERR_CONFIG, "gated_norm_rank is missing"},
        {"axk2", "gated_norm_rank", "7", MLA_ERR_WEIGHTS, "input_layernorm.W_down.weight"},
        {"axk2", "topk_group", NULL, MLA_ERR_CONFIG, "topk_group is missing"},
        {"axk2", "n_group", "null", MLA_ERR_CONFIG, "topk_group"},
        {"axk2", "topk_method", "\"noaux_tc\"", MLA_OK, ""},
        {"axk2", "topk_method", "\"greedy\"", MLA_ERR_UNSUPPORTED, "topk_method"},
        {"axk2", "rope_interleave", "false", MLA_ERR_CONFIG, "rope_interleave"},
        {"axk2", "model_type", "\"deepseek_v32\"", MLA_ERR_WEIGHTS, "input_layernorm.weight"},
        {"axk2_light", "n_group", NULL, MLA_OK, ""},
        {"axk2_light", "n_group", "4", MLA_ERR_CONFIG, "topk_group is null"},
        {"deepseek_v32", "model_type", "\"axk2\"", MLA_ERR_CONFIG, "gated_norm_rank"},
    };
    checkpoint *c;
    mla_error e;
    st_file *f;
    SECTION("axk2");
    for (int light = 0; light < 2; light++) {
        const char *path = light ? FIXTURES "axk2_light" : FIXTURES "axk2";
        char name[128];
        if (!CHECK(checkpoint_open(&c, path, &e) == MLA_OK, "%s", e.text)) continue;
        const mla_config *m = &c->config;
        CHECK(m->q_gate == 1 && m->q_twice == 1 && m->norm_gate_rank == 8 && m->topk_method == MLA_TOPK_NOAUX_ZERO &&
                  m->n_group == (light ? 1 : 4) && m->topk_group == (light ? 1 : 2) && m->index_topk == 8 &&
                  m->index_rope == MLA_ROPE_HALF && m->rope.layout == MLA_ROPE_PAIR,
              "%s: config", path);
        snprintf(name, sizeof name, "%s/model.safetensors", path);
        if (!CHECK(st_open(&f, name, &e) == MLA_OK, "%s", e.text)) continue;
        for (int l = 0; l < 3; l++) {
            static const char *const norms[] = {"input_layernorm", "post_attention_layernorm"};
            const mla_layer_weights *w = &c->weights.layers[l];
            snprintf(name, sizeof name, "model.layers.%d.self_attn.q_b_proj.weight", l);
            check_view(&w->attn.q_b.weight, f, name, 4 * (48 + 32), 2 * 48, MLA_BF16);
            for (int i = 0; i < 2; i++) {
                const mla_norm_weights *n = i ? &w->ffn_norm : &w->attn_norm;
                const int gated = i == 0 || l > 0;
                CHECK((n->gate_down.data != NULL) == gated && (n->gate_up.data != NULL) == gated, "layer %d %s", l,
                      norms[i]);
                snprintf(name, sizeof name, "model.layers.%d.%s%s.weight", l, norms[i], gated ? ".norm" : "");
                check_view(&n->weight, f, name, 1, 64, MLA_BF16);
                if (!gated) continue;
                snprintf(name, sizeof name, "model.layers.%d.%s.W_down.weight", l, norms[i]);
                check_view(&n->gate_down, f, name, 8, 64, MLA_BF16);
                snprintf(name, sizeof name, "model.layers.%d.%s.W_up.weight", l, norms[i]);
                check_view(&n->gate_up, f, name, 64, 8, MLA_BF16);
            }
        }
        st_close(f);
        checkpoint_close(c);
    }
    for (size_t i = 0; i < COUNT(cases); i++) {
        new_dir();
        link_file(cases[i].fixture, "model.safetensors", "model.safetensors");
        try_config(cases[i].fixture, cases[i].key, cases[i].value, cases[i].want, cases[i].word);
    }
}

/* LongCat-Flash with n-gram embeddings. */
static void test_ngram(void) {
    static const struct {
        const char *key, *value;
        mla_result want;
        const char *word;
    } cases[] = {
        {"emb_neighbor_num", NULL, MLA_ERR_CONFIG, "emb_neighbor_num is missing"},
        {"emb_neighbor_num", "1", MLA_ERR_CONFIG, "emb_neighbor_num"},
        {"emb_split_num", NULL, MLA_ERR_CONFIG, "emb_split_num is missing"},
        {"emb_split_num", "3", MLA_ERR_CONFIG, "emb_split_num: 12 tables do not divide hidden_size 64"},
        {"emb_split_num", "4", MLA_ERR_WEIGHTS, "embedders.0.weight\": found shape [769, 8], expected [769, 4]"},
        {"ngram_vocab_size_ratio", "4", MLA_ERR_WEIGHTS,
         "embedders.0.weight\": found shape [769, 8], expected [1025, 8]"},
        {"ngram_vocab_size_ratio", NULL, MLA_ERR_CONFIG, "ngram_vocab_size_ratio is missing"},
        {"ngram_vocab_size_ratio", "2147483647", MLA_ERR_CONFIG, "too large"},
        {"model_type", "\"longcat_flash\"", MLA_ERR_WEIGHTS, "model.embed_tokens.weight"},
    };
    checkpoint *c;
    mla_error e;
    st_file *f;
    SECTION("longcat_flash_ngram");
    if (!CHECK(checkpoint_open(&c, FIXTURES "longcat_flash_ngram", &e) == MLA_OK, "%s", e.text)) return;
    CHECK(c->config.emb_neighbor_num == 5 && c->config.emb_split_num == 2 && c->config.num_hidden_layers == 4 &&
              c->weights.embed.rows == 256,
          "config");
    if (CHECK(st_open(&f, FIXTURES "longcat_flash_ngram/model.safetensors", &e) == MLA_OK, "%s", e.text)) {
        check_view(&c->weights.ngram[0].table, f, "model.ngram_embeddings.embedders.0.weight", 769, 8, MLA_BF16);
        check_view(&c->weights.ngram[7].table, f, "model.ngram_embeddings.embedders.7.weight", 783, 8, MLA_BF16);
        check_view(&c->weights.ngram[7].proj.weight, f, "model.ngram_embeddings.post_projs.7.weight", 64, 8, MLA_BF16);
        st_close(f);
    }
    checkpoint_close(c);
    for (size_t i = 0; i < COUNT(cases); i++) {
        new_dir();
        link_file("longcat_flash_ngram", "model.safetensors", "model.safetensors");
        try_config("longcat_flash_ngram", cases[i].key, cases[i].value, cases[i].want, cases[i].word);
    }
}

/* Hy4: names of its own, fused experts, two layers with an indexer, streams. */
static void test_hy(void) {
    static const struct {
        const char *key, *value;
        mla_result want;
        const char *word;
    } cases[] = {
        {"rope_interleave", "true", MLA_OK, ""}, /* as the published files are said to have it */
        {"indexer_types", NULL, MLA_OK, ""},     /* the first, and every fourth from the second on */
        {"index_topk_freq", "2", MLA_OK, ""},    /* which the list overrules */
        {"indexer_types", "[\"full\",\"shared\",\"shared\",\"shared\"]", MLA_ERR_WEIGHTS, "layers.1.self_attn.indexer"},
        {"hc_mult", NULL, MLA_ERR_CONFIG, "hc_mult is missing"},
        {"hc_mult", "3", MLA_ERR_WEIGHTS, "hc_pre.hc_head.hc_head_fn\": found shape [4, 256], expected [3, 192]"},
        {"hc_mult", "65", MLA_ERR_CONFIG, "hc_mult"},
        {"hc_magnitude", NULL, MLA_ERR_CONFIG, "hc_magnitude"},
        {"hc_magnitude", "0", MLA_ERR_CONFIG, "hc_magnitude"},
        {"hc_eps", "-1", MLA_ERR_CONFIG, "hc_eps"},
        {"hc_eps", NULL, MLA_OK, ""},
        {"swiglu_limit", "\"1\"", MLA_ERR_CONFIG, "swiglu_limit"},
        {"swiglu_limit", NULL, MLA_OK, ""},
        {"model_type", "\"glm_moe_dsa\"", MLA_ERR_WEIGHTS, "gate_proj"},
    };
    checkpoint *c;
    mla_error e;
    st_file *f;
    SECTION("hy_v4");
    if (!CHECK(checkpoint_open(&c, FIXTURES "hy_v4", &e) == MLA_OK, "%s", e.text)) return;
    const mla_config *m = &c->config;
    CHECK(m->hc_mult == 4 && m->hc_eps == 1e-6f && m->hc_magnitude == 2 && m->swiglu_limit == 1.5f &&
              m->index_rope == MLA_ROPE_HALF && m->index_rope_last == 1 && m->index_norm_eps == 1e-6f &&
              m->rope.layout == MLA_ROPE_HALF && m->topk_method == MLA_TOPK_NOAUX_TC && m->index_topk == 8,
          "config");
    if (!CHECK(st_open(&f, FIXTURES "hy_v4/model.safetensors", &e) == MLA_OK, "%s", e.text)) return;
    check_view(&c->weights.hc_head.fn, f, "model.hc_pre.hc_head.hc_head_fn", 4, 256, MLA_BF16);
    check_view(&c->weights.hc_head.scale, f, "model.hc_pre.hc_head.hc_head_scale", 1, 1, MLA_BF16);
    for (int l = 0; l < 4; l++) {
        const mla_layer_weights *w = &c->weights.layers[l];
        char name[96];
#define HY(tensor, rows, cols, ...)                                                                                    \
    (snprintf(name, sizeof name, __VA_ARGS__), check_view(&w->tensor, f, name, rows, cols, MLA_BF16))
        HY(attn_hc.fn, 8, 256, "model.layers.%d.hc_pre.hc_attn_layer.hc_fn", l);
        HY(attn_hc.scale, 1, 2, "model.layers.%d.hc_pre.hc_attn_layer.hc_scale", l);
        HY(ffn_hc.base, 1, 8, "model.layers.%d.hc_pre.hc_mlp_layer.hc_base", l);
        HY(attn.gate.weight, 128, 64, "model.layers.%d.self_attn.linear_gate.weight", l);
        HY(attn.sinks, 1, 4, "model.layers.%d.self_attn.learnable_sink_param", l);
        if (l == 0) HY(mlp.gate.weight, 128, 64, "model.layers.%d.mlp.linear_gate.weight", l);
        else HY(moe.shared.gate.weight, 32, 64, "model.layers.%d.mlp.shared_experts.linear_gate.weight", l);
        CHECK((w->attn.indexer.wk.weight.data != NULL) == (l < 2), "layer %d: indexer", l);
    }
    st_close(f);
    checkpoint_close(c);
    for (size_t i = 0; i < COUNT(cases); i++) {
        new_dir();
        link_file("hy_v4", "model.safetensors", "model.safetensors");
        try_config("hy_v4", cases[i].key, cases[i].value, cases[i].want, cases[i].word);
    }
}

static int close_to(float a, double b) { return fabs((double)a - b) <= 1e-6 * fabs(b); }

/* What each family makes of its config.json and its names of tensors, and what it refuses. */
/* The fixture with "from" in its config.json as "to" opens, with these keys in the two lists. */
static void note_keys(const char *fixture, const char *from, const char *to, const char *misspelt, const char *unread) {
    char path[128];
    mla_error e;
    checkpoint *c = NULL;
    snprintf(path, sizeof path, FIXTURES "%s/config.json", fixture);
    char *text = read_text(path), *at = from ? strstr(text, from) : text;
    char *changed = (char *)need(malloc(strlen(text) + strlen(to) + 1));
    if (!CHECK(at != NULL, "%s: %s", fixture, from)) exit(2);
    const size_t before = (size_t)(at - text);
    memcpy(changed, text, before);
    strcpy(changed + before, to);
    strcat(changed, at + (from ? strlen(from) : 0));
    write_file(in_dir("config.json"), changed, strlen(changed));
    CHECK(checkpoint_open(&c, dir, &e) == MLA_OK, "%s: %s", fixture, e.text);
    const char *got = c && c->misspelt ? c->misspelt : "", *others = c && c->unread ? c->unread : "";
    CHECK(!strcmp(got, misspelt) && !strcmp(others, unread), "%s: misspelt \"%s\", unread \"%s\"", fixture, got,
          others);
    checkpoint_close(c), free(text), free(changed);
}

static void test_keys(void) {
    SECTION("config.json: keys that are not known");
    DIR *all = opendir(FIXTURES);
    for (struct dirent *e; all && (e = readdir(all)) != NULL;) {
        char path[400];
        checkpoint *c;
        snprintf(path, sizeof path, FIXTURES "%s", e->d_name);
        if (e->d_name[0] == '.' || checkpoint_open(&c, path, NULL)) continue;
        CHECK(!c->misspelt && !c->unread, "%s: misspelt \"%s\", unread \"%s\"", path, c->misspelt ? c->misspelt : "",
              c->unread ? c->unread : "");
        checkpoint_close(c);
    }
    if (all) closedir(all);
    new_dir();
    link_file("deepseek_v3", "model.safetensors", "model.safetensors");
    note_keys("deepseek_v3", NULL, "", "", "");
    note_keys("deepseek_v3", "\"rope_scaling\"", "\"zope_scaling\"", "zope_scaling, is it rope_scaling?", "");
    note_keys("deepseek_v3", "\"rope_scaling\"", "\"ROPE_SCALING\"", "ROPE_SCALING, is it rope_scaling?", "");
    note_keys("deepseek_v3", "\"rope_scaling\"", "\"Rope_Scalings\"", "Rope_Scalings, is it rope_scaling?", "");
    note_keys("deepseek_v3", "\"mscale_all_dim\"", "\"mscale_al_dmi\"", "", "mscale_al_dmi");
    note_keys("deepseek_v3", "\"mscale_all_dim\"", "\"mscale_alldim\"", "mscale_alldim, is it mscale_all_dim?", "");
    note_keys("deepseek_v3", "\"attention_bias\"",
              "\"a\": 1, \"eos_tokens_ids\": [], \"b\\u001b\": 2, \"attention_bias\"",
              "eos_tokens_ids, is it eos_token_id?", "a, b?");
}

/* Which layers are KDA, and how. */
static void test_kda_keys(void) {
    SECTION("config.json: layers with states");
    new_dir();
    link_file("kimi_linear", "model.safetensors", "model.safetensors");
    static const char some[] = "{\"full_attn_layers\": [2, 4], \"kda_layers\": [1, %s], \"num_heads\": %s, "
                               "\"head_dim\": 16, \"short_conv_kernel_size\": 4}";
    static const struct kda {
        const char *last, *heads;
        mla_result want;
        const char *word;
    } kinds[] = {{"3", "4", MLA_OK, ""},
                 {"4", "4", MLA_ERR_CONFIG, "linear_attn_config.kda_layers"},
                 {"5", "4", MLA_ERR_CONFIG, "each layer from 1 to num_hidden_layers"},
                 {"3, 3", "4", MLA_ERR_CONFIG, "num_hidden_layers layers"},
                 {"3", "5", MLA_ERR_WEIGHTS, "model.layers.0.self_attn.q_proj.weight"},
                 {"3", "0", MLA_ERR_CONFIG, "linear_attn_config.num_heads"}};
    for (size_t i = 0; i < COUNT(kinds); i++) {
        char value[200];
        sprintf(value, some, kinds[i].last, kinds[i].heads);
        try_config("kimi_linear", "linear_attn_config", value, kinds[i].want, kinds[i].word);
    }
    try_config("kimi_linear", "linear_attn_config", NULL, MLA_ERR_CONFIG, "linear_attn_config is missing");
    try_config("kimi_linear", "linear_attn_config", "[]", MLA_ERR_CONFIG, "linear_attn_config");
    try_config("kimi_linear", "mla_use_nope", "false", MLA_ERR_CONFIG, "mla_use_nope");
    try_config("kimi_linear", "qk_rope_head_dim", "0", MLA_ERR_WEIGHTS, "q_proj.weight");
    clear_dir();
    new_dir();
    link_file("bailing_hybrid", "model.safetensors", "model.safetensors");
    try_config("bailing_hybrid", "layer_group_size", NULL, MLA_ERR_CONFIG, "layer_group_size");
    try_config("bailing_hybrid", "layer_group_size", "3", MLA_ERR_WEIGHTS, "model.layers.1.attention.");
    try_config("bailing_hybrid", "kda_lower_bound", "5", MLA_ERR_CONFIG, "kda_lower_bound");
    try_config("bailing_hybrid", "kda_lower_bound", "-1e300", MLA_ERR_CONFIG, "above -3.4e38");
    try_config("bailing_hybrid", "kda_lower_bound", NULL, MLA_OK, "");
    try_config("bailing_hybrid", "moe_shared_expert_intermediate_size", "64", MLA_ERR_CONFIG, "moe_shared_expert");
    try_config("bailing_hybrid", "head_dim", "31", MLA_ERR_WEIGHTS, "model.layers.0.attention.q_proj.weight");
    try_config("bailing_hybrid", "swiglu_limit", "7.0", MLA_ERR_CONFIG, "swiglu_limit");
    try_config("bailing_hybrid", "swiglu_limit", "null", MLA_OK, "");
    try_config("bailing_hybrid", "no_kda_lora", "false", MLA_ERR_WEIGHTS, "attention.f_a_proj.weight");
    try_config("bailing_hybrid", "no_kda_lora", NULL, MLA_OK, "");
    clear_dir();
}

static void test_families(void) {
    static const struct family {
        const char *name, *model_type;
        int L, E, Z, K, shared, n_group, topk_group;
        mla_topk_method topk;
        mla_scoring_func scoring;
        int norm, first_moe;
        double routed, q, latent, beta, embed, residual, logits, theta, eps;
        mla_rope_layout layout;
        mla_rope_scaling scaling;
        int tied, bias;
    } families[] = {
        /* clang-format off */
        {"axk1", "axk1", 3, 12, 0, 4, 1, 4, 2, MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID,
         1, 1, 2.5, 0, 0, 0, 0, 0, 0, 1e4, 1e-6, MLA_ROPE_PAIR, MLA_ROPE_YARN, 0, 1},
        {"glm4_moe_lite", "glm4_moe_lite", 3, 12, 0, 4, 1, 1, 1, MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID,
         1, 1, 1.8, 0, 0, 0, 0, 0, 0, 5e4, 1e-2, MLA_ROPE_PAIR, MLA_ROPE_DEFAULT, 0, 1},
        {"longcat_flash", "longcat_flash", 4, 10, 5, 4, 0, 1, 1, MLA_TOPK_GREEDY, MLA_SCORING_SOFTMAX,
         0, 0, 6, 1.1547005383792515, 1.1547005383792515, 0, 0, 0, 0, 5e4, 1e-6, MLA_ROPE_PAIR, MLA_ROPE_DEFAULT, 0, 1},
        {"minicpm3", "minicpm3", 3, 0, 0, 0, 0, 0, 0, MLA_TOPK_GREEDY, MLA_SCORING_SOFTMAX,
         0, 9, 0, 0, 0, 0, 12, 0.8082903768654761, 0.5, 5e4, 1e-6, MLA_ROPE_HALF, MLA_ROPE_DEFAULT, 1, 0},
        {"minicpm3_longrope", "minicpm3", 3, 0, 0, 0, 0, 0, 0, MLA_TOPK_GREEDY, MLA_SCORING_SOFTMAX,
         0, 9, 0, 0, 0, 0, 12, 0.8082903768654761, 0.5, 1e4, 1e-6, MLA_ROPE_HALF, MLA_ROPE_LONGROPE, 1, 0},
        {"mistral4", "mistral4", 3, 12, 0, 4, 1, 1, 1, MLA_TOPK_NOAUX_TC, MLA_SCORING_SOFTMAX,
         1, 0, 1, 0, 0, 0.1, 0, 0, 0, 1e4, 1e-6, MLA_ROPE_PAIR, MLA_ROPE_YARN, 0, 0},
        {"youtu", "youtu", 3, 0, 0, 0, 0, 0, 0, MLA_TOPK_GREEDY, MLA_SCORING_SOFTMAX,
         0, 9, 0, 0, 0, 0, 0, 0, 0, 5e4, 1e-6, MLA_ROPE_HALF, MLA_ROPE_DEFAULT, 1, 0},
        {"deepseek_v32", "deepseek_v32", 3, 12, 0, 4, 1, 4, 2, MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID,
         1, 1, 2.5, 0, 0, 0, 0, 0, 0, 1e4, 1e-6, MLA_ROPE_PAIR, MLA_ROPE_YARN, 0, 1},
        {"glm_moe_dsa", "glm_moe_dsa", 4, 12, 0, 4, 1, 1, 1, MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID,
         1, 1, 2.5, 0, 0, 0, 0, 0, 0, 5e4, 1e-6, MLA_ROPE_PAIR, MLA_ROPE_DEFAULT, 0, 1},
        /* clang-format on */
    };
    checkpoint *c;
    mla_error e;
    st_file *f;
    char path[128], name[128];
    SECTION("families");
    for (size_t k = 0; k < COUNT(families); k++) {
        const struct family *x = &families[k];
        snprintf(path, sizeof path, FIXTURES "%s", x->name);
        if (!CHECK(checkpoint_open(&c, path, &e) == MLA_OK, "%s: %s", x->name, e.text)) continue;
        const mla_config *m = &c->config;
#define IS(field, want) CHECK(m->field == x->want, "%s: " #field " is %g", x->name, (double)m->field)
        IS(num_hidden_layers, L), IS(n_routed_experts, E), IS(zero_expert_num, Z), IS(num_experts_per_tok, K),
            IS(n_shared_experts, shared);
        IS(n_group, n_group), IS(topk_group, topk_group), IS(topk_method, topk), IS(scoring_func, scoring),
            IS(norm_topk_prob, norm);
        IS(rope.layout, layout), IS(rope.scaling, scaling);
#define NEAR(field, want) CHECK(close_to(m->field, x->want), "%s: " #field " is %g", x->name, (double)m->field)
        NEAR(routed_scaling_factor, routed), NEAR(q_scale, q), NEAR(latent_scale, latent), NEAR(temperature_beta, beta),
            NEAR(embed_scale, embed);
        NEAR(residual_scale, residual), NEAR(logits_scale, logits), NEAR(rope.theta, theta), NEAR(block_norm.eps, eps);
        CHECK(m->temperature_period == (x->beta > 0 ? 16 : 0), "%s: temperature_period %d", x->name,
              m->temperature_period);
        CHECK(m->q_norm.eps == 1e-6f && m->kv_norm.eps == 1e-6f && m->vocab_size == 256 && m->hidden_size == 64 &&
                  m->intermediate_size == 128,
              "%s: sizes", x->name);
        CHECK((c->weights.head.data == NULL) == x->tied && !strcmp(c->model_type, x->model_type),
              "%s: head, model_type %s", x->name, c->model_type);
        const int v32 = !strcmp(x->name, "deepseek_v32"), glm = !strcmp(x->name, "glm_moe_dsa");
        CHECK(m->index_topk == (v32 || glm ? 8 : 0) && m->index_n_heads == (v32 || glm ? 16 : 0) &&
                  m->index_head_dim == (v32 || glm ? 32 : 0) && m->index_rope == (v32 ? MLA_ROPE_HALF : MLA_ROPE_PAIR),
              "%s: indexer %d, %d, %d, rope %d", x->name, m->index_topk, m->index_n_heads, m->index_head_dim,
              (int)m->index_rope);
        const int twin = x->Z > 0;
        for (int l = 0; l < x->L; l++) {
            const mla_layer_weights *w = &c->weights.layers[l];
            const int moe = twin ? l % 2 == 0 : l >= x->first_moe;
            CHECK((w->moe.experts != NULL) == moe && (w->mlp.gate.weight.data == NULL) == (moe && !twin),
                  "%s: layer %d dense or not", x->name, l);
            CHECK((w->moe.router_bias.data != NULL) == (moe && x->bias), "%s: layer %d router bias", x->name, l);
            CHECK((w->ffn_out_norm.weight.data != NULL) == (moe && !strcmp(x->name, "axk1")),
                  "%s: layer %d ffn_out_norm", x->name, l);
        }
        snprintf(path, sizeof path, FIXTURES "%s/model.safetensors", x->name);
        if (CHECK(st_open(&f, path, &e) == MLA_OK, "%s", e.text)) {
            for (int l = 0; l < x->L; l++) { /* every layer's names, LongCat's with two of ours in one */
                const mla_layer_weights *w = &c->weights.layers[l];
                char layer[32], which[4] = "";
                snprintf(layer, sizeof layer, "model.layers.%d", twin ? l / 2 : l);
                if (twin) snprintf(which, sizeof which, ".%d", l % 2);
#define VIEW(tensor, rows, cols, ...)                                                                                  \
    (snprintf(name, sizeof name, __VA_ARGS__), check_view(&w->tensor, f, name, rows, cols, MLA_BF16))
                VIEW(attn_norm.weight, 1, 64, "%s.input_layernorm%s.weight", layer, which);
                VIEW(ffn_norm.weight, 1, 64, "%s.post_attention_layernorm%s.weight", layer, which);
                VIEW(attn.q_b.weight, 192, 48, "%s.self_attn%s.q_b_proj.weight", layer, which);
                VIEW(attn.o.weight, 64, 128, "%s.self_attn%s.o_proj.weight", layer, which);
                const int indexer = v32 || (glm && l != 2);
                CHECK((w->attn.indexer.wk.weight.data != NULL) == indexer, "%s: layer %d indexer", x->name, l);
                if (indexer) {
                    VIEW(attn.indexer.wq_b.weight, 512, 48, "%s.self_attn.indexer.wq_b.weight", layer);
                    VIEW(attn.indexer.wk.weight, 32, 64, "%s.self_attn.indexer.wk.weight", layer);
                    VIEW(attn.indexer.k_norm.weight, 1, 32, "%s.self_attn.indexer.k_norm.weight", layer);
                    VIEW(attn.indexer.k_norm.bias, 1, 32, "%s.self_attn.indexer.k_norm.bias", layer);
                    VIEW(attn.indexer.weights_proj, 16, 64, "%s.self_attn.indexer.weights_proj.weight", layer);
                }
                if (w->mlp.up.weight.data)
                    VIEW(mlp.up.weight, 128, 64, "%s.mlp%s%s.up_proj.weight", layer, twin ? "s" : "", which);
                if (w->ffn_out_norm.weight.data)
                    VIEW(ffn_out_norm.weight, 1, 64, "%s.post_mlp_layernorm.weight", layer);
                if (!w->moe.experts) continue;
                VIEW(moe.router, x->E + x->Z, 64, "%s.mlp.%s.weight", layer, twin ? "router.classifier" : "gate");
                if (x->bias)
                    VIEW(moe.router_bias, 1, x->E + x->Z, "%s.mlp.%s.e_score_correction_bias", layer,
                         twin ? "router" : "gate");
                if (x->beta > 0) { /* fused: gate_up_proj [12, 64, 64], down_proj [12, 64, 32] of 16 bits */
                    snprintf(name, sizeof name, "%s.mlp.experts.gate_up_proj", layer);
                    const char *both = (const char *)st_find(f, name)->data;
                    snprintf(name, sizeof name, "%s.mlp.experts.down_proj", layer);
                    const char *down = (const char *)st_find(f, name)->data;
                    for (int i = 0; i < x->E; i++) {
                        const mla_mlp_weights *o = &w->moe.experts[i];
                        CHECK(o->gate.weight.rows == 32 && o->gate.weight.cols == 64 && o->up.weight.rows == 32 &&
                                  o->up.weight.cols == 64 && o->down.weight.rows == 64 && o->down.weight.cols == 32 &&
                                  o->down.weight.dtype == MLA_BF16,
                              "fused expert %d: shapes", i);
                        CHECK(!memcmp(o->gate.weight.data, both + i * 8192, 4096) &&
                                  !memcmp(o->up.weight.data, both + i * 8192 + 4096, 4096) &&
                                  !memcmp(o->down.weight.data, down + i * 4096, 4096),
                              "fused expert %d: data", i);
                    }
                } else
                    VIEW(moe.experts[x->E - 1].down.weight, 64, 32, "%s.mlp.experts.%d.down_proj.weight", layer,
                         x->E - 1);
            }
            st_close(f);
        }
        checkpoint_close(c);
    }

    SECTION("families: what they refuse");
    static const struct refusal {
        const char *fixture, *key, *value;
        mla_result want;
        const char *word;
    } refusals[] = {
        {"longcat_flash", "norm_topk_prob", "true", MLA_ERR_CONFIG, "norm_topk_prob"},
        {"longcat_flash", "norm_topk_prob", "false", MLA_OK, ""},
        {"minicpm3", "rope_interleave", "true", MLA_ERR_CONFIG, "rope_interleave"},
        {"longcat_flash", "num_layers", "1073741824", MLA_ERR_CONFIG, "num_layers"},
        {"longcat_flash", "num_layers", "0", MLA_ERR_CONFIG, "num_layers"},
        {"longcat_flash", "num_layers", NULL, MLA_ERR_CONFIG, "num_layers"},
        {"longcat_flash", "num_layers", "3", MLA_ERR_WEIGHTS, "model.layers.2."},
        {"longcat_flash", "num_layers", "1", MLA_ERR_WEIGHTS, "model.layers.1."},
        {"longcat_flash", "num_hidden_layers", NULL, MLA_OK, ""},
        {"longcat_flash", "ffn_hidden_size", NULL, MLA_ERR_CONFIG, "ffn_hidden_size"},
        {"longcat_flash", "ffn_hidden_size", "64", MLA_ERR_WEIGHTS, "model.layers.0.mlps.0.gate_proj.weight"},
        {"longcat_flash", "expert_ffn_hidden_size", "33", MLA_ERR_WEIGHTS,
         "model.layers.0.mlp.experts.0.gate_proj.weight"},
        {"longcat_flash", "zero_expert_num", "-1", MLA_ERR_CONFIG, "zero_expert_num"},
        {"longcat_flash", "zero_expert_num", "2147483647", MLA_ERR_CONFIG, "zero_expert_num"},
        {"longcat_flash", "zero_expert_num", "2147483637", MLA_ERR_WEIGHTS, "router.classifier.weight"},
        {"longcat_flash", "zero_expert_num", "4", MLA_ERR_WEIGHTS, "model.layers.0.mlp.router.classifier.weight"},
        {"longcat_flash", "zero_expert_num", "null", MLA_ERR_WEIGHTS, "router.classifier.weight"},
        {"longcat_flash", "n_routed_experts", "9", MLA_ERR_WEIGHTS, "model.layers.0.mlp.router.classifier.weight"},
        {"longcat_flash", "zero_expert_type", "\"identity\"", MLA_OK, ""},
        {"longcat_flash", "zero_expert_type", "\"drop\"", MLA_ERR_UNSUPPORTED, "zero_expert_type"},
        {"longcat_flash", "moe_topk", "16", MLA_ERR_CONFIG, "moe_topk"},
        {"longcat_flash", "moe_topk", "15", MLA_OK, ""},
        {"longcat_flash", "n_routed_experts", "2147483647", MLA_ERR_CONFIG, "zero_expert_num"},
        {"longcat_flash", "n_routed_experts", "2147483000", MLA_ERR_WEIGHTS, "n_routed_experts is 2147483000"},
        {"longcat_flash", "topk_method", "\"noaux_tc\"", MLA_ERR_UNSUPPORTED, "noaux_tc"},
        {"longcat_flash", "mla_scale_q_lora", "1", MLA_ERR_CONFIG, "mla_scale_q_lora"},
        {"longcat_flash", "mla_scale_kv_lora", "\"yes\"", MLA_ERR_CONFIG, "mla_scale_kv_lora"},
        {"kimi_linear", "layer_types", "[\"linear_attention\",\"full_attention\",\"linear_attention\"]", MLA_ERR_CONFIG,
         "layer_types"},
        {"kimi_linear", "layer_types",
         "[\"full_attention\",\"linear_attention\",\"full_attention\",\"linear_attention\"]", MLA_ERR_CONFIG,
         "layer_types: found the string \"full_attention\""},
        {"hy_v4", "layer_types",
         "[\"deepseek_sparse_attention\",\"sliding_attention\",\"deepseek_sparse_attention\",\"sliding_attention\"]",
         MLA_ERR_CONFIG, "sliding_attention"},
        {"hy_v4", "layer_types", "7", MLA_ERR_CONFIG, "layer_types"},
        {"hy_v4", "layer_types", NULL, MLA_OK, ""},
        {"minicpm3", "scale_emb", NULL, MLA_ERR_CONFIG, "scale_emb"},
        {"minicpm3", "scale_emb", "0", MLA_ERR_CONFIG, "scale_emb"},
        {"minicpm3", "scale_depth", "\"1.4\"", MLA_ERR_CONFIG, "scale_depth"},
        {"minicpm3", "dim_model_base", "-256", MLA_ERR_CONFIG, "dim_model_base"},
        {"minicpm3", "dim_model_base", "NaN", MLA_ERR_CONFIG, "dim_model_base"},
        {"minicpm3", "n_routed_experts", "4", MLA_ERR_CONFIG, "n_routed_experts"},
        {"minicpm3", "tie_word_embeddings", NULL, MLA_OK, ""},
        {"minicpm3", "tie_word_embeddings", "false", MLA_ERR_WEIGHTS, "lm_head.weight"},
        {"minicpm3", "v_head_dim", "0", MLA_ERR_CONFIG, "v_head_dim"},
        {"minicpm3", "rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":-1}", MLA_ERR_CONFIG, "rope_theta"},
        {"minicpm3_longrope", "rope_parameters", "{\"rope_type\":\"longrope\",\"long_factor\":[1]}", MLA_ERR_CONFIG,
         "short_factor"},
        {"mistral4", "n_routed_experts", "13", MLA_ERR_WEIGHTS, "model.layers.0.mlp.gate.weight"},
        {"mistral4", "n_routed_experts", "2147483647", MLA_ERR_WEIGHTS, "n_routed_experts"},
        {"mistral4", "moe_intermediate_size", "31", MLA_ERR_WEIGHTS,
         "model.layers.0.mlp.experts.gate_up_proj\": found shape [12, 64, 64], expected [12, 62, 64]"},
        {"mistral4", "moe_intermediate_size", "2147483647", MLA_ERR_CONFIG, "gate_up_proj"},
        {"mistral4", "first_k_dense_replace", "1", MLA_ERR_WEIGHTS, "model.layers.0.mlp.gate_proj.weight"},
        {"mistral4", "rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":1e4,\"llama_4_scaling_beta\":-0.1}",
         MLA_ERR_CONFIG, "rope_parameters.llama_4_scaling_beta"},
        {"mistral4", "rope_parameters", "{\"rope_type\":\"default\",\"rope_theta\":1e4,\"llama_4_scaling_beta\":null}",
         MLA_OK, ""},
        {"glm4_moe_lite", "mlp_layer_types", "[\"dense\",\"sparse\"]", MLA_ERR_CONFIG, "mlp_layer_types"},
        {"glm4_moe_lite", "mlp_layer_types", "[\"sparse\",\"dense\",\"sparse\"]", MLA_ERR_CONFIG, "mlp_layer_types"},
        {"glm4_moe_lite", "mlp_layer_types", "[\"dense\",\"sparse\",7]", MLA_ERR_CONFIG, "mlp_layer_types"},
        {"glm4_moe_lite", "mlp_layer_types", "[\"dense\",\"sparse\",\"moe\"]", MLA_ERR_CONFIG, "mlp_layer_types"},
        {"glm4_moe_lite", "mlp_layer_types", "\"sparse\"", MLA_ERR_CONFIG, "mlp_layer_types"},
        {"glm4_moe_lite", "mlp_layer_types", "[\"dense\",\"dense\",\"sparse\"]", MLA_ERR_WEIGHTS,
         "model.layers.1.mlp.gate_proj.weight"},
        {"glm4_moe_lite", "mlp_layer_types", NULL, MLA_ERR_CONFIG, "first_k_dense_replace"},
        {"glm4_moe_lite", "first_k_dense_replace", "2", MLA_ERR_CONFIG, "first_k_dense_replace is 2"},
        {"glm4_moe_lite", "first_k_dense_replace", "1", MLA_OK, ""},
        {"glm4_moe_lite", "moe_layer_freq", "2", MLA_ERR_CONFIG, "moe_layer_freq"},
        {"axk1", "model_type", "\"deepseek_v3\"", MLA_ERR_WEIGHTS, "post_mlp_layernorm.weight"},
        {"deepseek_v32", "index_topk", NULL, MLA_ERR_CONFIG, "index_topk is missing"},
        {"deepseek_v32", "index_topk", "0", MLA_ERR_CONFIG, "index_topk"},
        {"deepseek_v32", "index_topk", "8.0", MLA_ERR_CONFIG, "index_topk"},
        {"deepseek_v32", "index_n_heads", "0", MLA_ERR_CONFIG, "index_n_heads"},
        {"deepseek_v32", "index_n_heads", "8", MLA_ERR_WEIGHTS, "model.layers.0.self_attn.indexer.wq_b.weight"},
        {"deepseek_v32", "index_n_heads", "2147483647", MLA_ERR_CONFIG, "indexer.wq_b.weight"},
        {"deepseek_v32", "index_head_dim", "15", MLA_ERR_CONFIG, "index_head_dim"},
        {"deepseek_v32", "index_head_dim", "16", MLA_ERR_WEIGHTS, "indexer.wq_b.weight"},
        {"deepseek_v32", "q_lora_rank", "null", MLA_ERR_CONFIG, "q_lora_rank"},
        {"deepseek_v32", "indexer_rope_interleave", "true", MLA_OK, ""},
        {"deepseek_v32", "indexer_rope_interleave", "1", MLA_ERR_CONFIG, "indexer_rope_interleave"},
        {"deepseek_v32", "model_type", "\"deepseek_v3\"", MLA_ERR_WEIGHTS, "indexer"},
        {"glm_moe_dsa", "indexer_types", NULL, MLA_OK, ""},
        {"glm_moe_dsa", "indexer_types", "[\"full\",\"full\",\"shared\"]", MLA_ERR_CONFIG, "indexer_types"},
        {"glm_moe_dsa", "indexer_types", "[\"full\",\"full\",\"none\",\"full\"]", MLA_ERR_CONFIG, "indexer_types"},
        {"glm_moe_dsa", "indexer_types", "[\"full\",\"full\",1,\"full\"]", MLA_ERR_CONFIG, "indexer_types"},
        {"glm_moe_dsa", "indexer_types", "\"full\"", MLA_ERR_CONFIG, "indexer_types"},
        {"glm_moe_dsa", "indexer_types", "[\"shared\",\"full\",\"shared\",\"full\"]", MLA_ERR_CONFIG,
         "the first layer"},
        {"glm_moe_dsa", "indexer_types", "[\"full\",\"full\",\"full\",\"full\"]", MLA_ERR_WEIGHTS,
         "model.layers.2.self_attn.indexer.wq_b.weight"},
        {"glm_moe_dsa", "indexer_types", "[\"full\",\"shared\",\"shared\",\"full\"]", MLA_ERR_WEIGHTS,
         "model.layers.1.self_attn.indexer"},
        {"glm_moe_dsa", "index_topk_freq", "-1", MLA_ERR_CONFIG, "index_topk_freq"},
        {"youtu", "rope_interleave", "1", MLA_ERR_CONFIG, "rope_interleave"},
        {"youtu", "n_routed_experts", "1", MLA_ERR_CONFIG, "n_routed_experts"},
        {"youtu", "tie_word_embeddings", NULL, MLA_OK, ""},
        {"youtu", "model_type", "\"minicpm3\"", MLA_ERR_CONFIG, "scale_emb"}};
    for (size_t i = 0; i < COUNT(refusals); i++) {
        const struct refusal *x = &refusals[i];
        new_dir();
        link_file(x->fixture, "model.safetensors", "model.safetensors");
        try_config(x->fixture, x->key, x->value, x->want, x->word);
    }
    new_dir();
    link_file("longcat_flash", "model.safetensors", "model.safetensors");
    try_config2("longcat_flash", "mla_scale_q_lora", "false", "mla_scale_kv_lora", "false", MLA_OK, "");
    if (CHECK(checkpoint_open(&c, dir, &e) == MLA_OK, "no scales: %s", e.text))
        CHECK(c->config.q_scale == 0 && c->config.latent_scale == 0, "no scales");
    checkpoint_close(c);
    /* the other ways of saying which layers have an indexer, and how its rope is */
    static const char *const types[][3] = {
        {"index_topk_freq", "2", ""},
        {"index_topk_pattern", "\"FFSF\"", ""},
        {"index_topk_pattern", "[\"full\",\"full\",\"shared\",\"full\"]", ""},
        {"index_topk_freq", "1", "model.layers.2.self_attn.indexer.wq_b.weight"},
        {"index_skip_topk_offset", "3", "model.layers.2.self_attn.indexer.wq_b.weight"},
        {"index_skip_topk_offset", "0", "the first layer"},
        {"index_topk_pattern", "\"FFS\"", "index_topk_pattern"},
        {"index_topk_pattern", "\"FFXF\"", "index_topk_pattern"},
        {"index_topk_pattern", "\"SFSF\"", "the first layer"},
        {"index_topk_pattern", "4", "index_topk_pattern"}};
    for (size_t i = 0; i < COUNT(types); i++) {
        new_dir();
        link_file("glm_moe_dsa", "model.safetensors", "model.safetensors");
        const mla_result want = !types[i][2][0] ? MLA_OK : types[i][2][0] == 'm' ? MLA_ERR_WEIGHTS : MLA_ERR_CONFIG;
        try_config2("glm_moe_dsa", "indexer_types", NULL, types[i][0], types[i][1], want, types[i][2]);
    }
    new_dir();
    link_file("glm_moe_dsa", "model.safetensors", "model.safetensors");
    try_config("glm_moe_dsa", "indexer_rope_interleave", "false", MLA_OK, "");
    if (CHECK(checkpoint_open(&c, dir, &e) == MLA_OK, "indexer_rope_interleave: %s", e.text))
        CHECK(c->config.index_rope == MLA_ROPE_HALF && c->config.rope.layout == MLA_ROPE_PAIR,
              "indexer_rope_interleave false");
    checkpoint_close(c);
    /* what MiniCPM3's own config.json leaves out */
    new_dir();
    link_file("minicpm3", "model.safetensors", "model.safetensors");
    try_config2("minicpm3", "rope_parameters", NULL, "num_attention_heads", "4", MLA_OK, "");
    if (CHECK(checkpoint_open(&c, dir, &e) == MLA_OK, "no theta: %s", e.text))
        CHECK(c->config.rope.theta == 10000, "theta %g", (double)c->config.rope.theta);
    checkpoint_close(c);
    try_config("minicpm3", "v_head_dim", NULL, MLA_ERR_WEIGHTS, "[256, 48], expected [192, 48]"); /* 64 / 4 */

    SECTION("families: experts without weights");
    static item items[600], edited[600];
    if (!CHECK(st_open(&f, FIXTURES "longcat_flash/model.safetensors", &e) == MLA_OK, "%s", e.text)) return;
    const size_t n_longcat = load_items(items, COUNT(items) - 1, f);
    static const struct {
        const char *name;
        mla_result want;
    } extra[] = {{"model.layers.1.mlp.experts.14.down_proj.weight", MLA_OK},
                 {"model.layers.1.mlp.experts.15.down_proj.weight", MLA_ERR_WEIGHTS},
                 {"model.layers.1.mlp.experts.9.extra.weight", MLA_ERR_WEIGHTS},
                 {"model.layers.2.mlp.experts.14.down_proj.weight", MLA_ERR_WEIGHTS},
                 {"model.layers.2.eh_proj.weight", MLA_OK},
                 {"model.layers.1.eh_proj.weight", MLA_ERR_WEIGHTS},
                 {"model.mtp.norm.weight", MLA_OK},
                 {"model.layers.1.self_attn.2.o_proj.weight", MLA_ERR_WEIGHTS},
                 {"model.layers.1.mlp.experts.99999999999.x", MLA_ERR_WEIGHTS}};
    for (size_t i = 0; i < COUNT(extra); i++) {
        new_dir();
        link_file("longcat_flash", "config.json", "config.json");
        items[n_longcat] = items[0];
        strcpy(items[n_longcat].name, extra[i].name);
        write_items(in_dir("model.safetensors"), items, n_longcat + 1);
        check_open(extra[i].want, extra[i].name, extra[i].name);
    }
    st_close(f);

    SECTION("families: a language model beside others");
    if (!CHECK(st_open(&f, FIXTURES "kimi_k2/model.safetensors", &e) == MLA_OK, "%s", e.text)) return;
    const size_t n = load_items(items, COUNT(items) - 2, f);
    char *inner = read_text(FIXTURES "kimi_k2/config.json"), *outer = (char *)need(malloc(strlen(inner) + 200));
    sprintf(outer, "{\"model_type\":\"kimi_k25\",\"vision_config\":{},\"text_config\":%s}", inner);
    for (int prefixed = 0; prefixed < 2; prefixed++) {
        new_dir();
        write_file(in_dir("config.json"), outer, strlen(outer));
        memcpy(edited, items, sizeof edited);
        for (size_t i = 0; i < n && prefixed; i++)
            snprintf(edited[i].name, sizeof edited[i].name, "language_model.%.100s", items[i].name);
        edited[n] = edited[n + 1] = items[0];
        strcpy(edited[n].name, "vision_tower.patch_embed.weight");
        write_items(in_dir("model.safetensors"), edited, n + 1);
        check_open(MLA_OK, "", "nested");
        if (CHECK(checkpoint_open(&c, dir, &e) == MLA_OK, "nested: %s", e.text))
            CHECK(!strcmp(c->model_type, "kimi_k2") && c->config.n_routed_experts == 12 &&
                      c->weights.layers[2].moe.experts[11].down.weight.data,
                  "nested: %s", c->model_type);
        checkpoint_close(c);
        snprintf(edited[n + 1].name, sizeof edited[0].name, "%smodel.layers.0.extra.weight",
                 prefixed ? "language_model." : "");
        write_items(in_dir("model.safetensors"), edited, n + 2);
        check_open(MLA_ERR_WEIGHTS, "model.layers.0.extra.weight", "nested, a tensor too many");
        write_file(in_dir("config.json"), inner, strlen(inner));
        write_items(in_dir("model.safetensors"), edited, n + 1);
        check_open(MLA_ERR_WEIGHTS, prefixed ? "model.embed_tokens.weight" : "vision_tower", "not nested");
    }
    static const struct {
        const char *text;
        mla_result want;
        const char *word;
    } nested[] = {
        {"{\"text_config\":[]}", MLA_ERR_CONFIG, "text_config: found an array"},
        {"{\"text_config\":{}}", MLA_ERR_CONFIG, "text_config.model_type is missing"},
        {"{\"language_config\":7}", MLA_ERR_CONFIG, "language_config: found the number 7"},
        {"{\"language_config\":{}}", MLA_ERR_CONFIG, "language_config.model_type is missing"},
        {"{\"model_type\":\"mistral3\",\"text_config\":{}}", MLA_ERR_CONFIG, "text_config.model_type is missing"},
        {"{\"model_type\":\"kimi_vl\",\"text_config\":{}}", MLA_ERR_CONFIG, "text_config.vocab_size is missing"},
        {"{\"text_config\":{\"architectures\":[\"DeepseekV2ForCausalLM\"],\"use_mla\":false}}", MLA_ERR_CONFIG,
         "text_config.use_mla: found false"},
        {"{\"text_config\":{\"architectures\":[\"LlamaForCausalLM\"]}}", MLA_ERR_CONFIG, "text_config.model_type is"},
        {"{\"text_config\":{\"model_type\":\"deepseek_v4\"}}", MLA_ERR_UNSUPPORTED, "another attention"},
        {"{\"text_config\":{\"model_type\":\"glm5_next\"}}", MLA_ERR_UNSUPPORTED,
         "text_config.model_type \"glm5_next\""},
        {"{\"text_config\":{\"model_type\":\"llama\"}}", MLA_ERR_UNSUPPORTED, "text_config.model_type \"llama\""},
        {"{\"model_type\":\"kimi_k25\"}", MLA_ERR_UNSUPPORTED, "kimi_k25"}};
    for (size_t i = 0; i < COUNT(nested); i++) {
        write_file(in_dir("config.json"), nested[i].text, strlen(nested[i].text));
        check_open(nested[i].want, nested[i].word, nested[i].text);
    }
    free(inner);
    free(outer);
    st_close(f);

    SECTION("families: fused experts");
    if (!CHECK(st_open(&f, FIXTURES "mistral4/model.safetensors", &e) == MLA_OK, "%s", e.text)) return;
    const size_t count = load_items(items, COUNT(items), f);
    for (size_t i = 0; i < count; i++) {
        if (!strstr(items[i].name, ".experts.")) continue;
        new_dir();
        link_file("mistral4", "config.json", "config.json");
        memcpy(edited, items, count * sizeof *items);
        edited[i] = edited[count - 1];
        write_items(in_dir("model.safetensors"), edited, count - 1);
        check_open(MLA_ERR_WEIGHTS,
                   strstr(items[i].name, "gate_up") ? ".mlp.experts.0.gate_proj.weight" : items[i].name, "missing");
        edited[i] = items[i], edited[count - 1] = items[count - 1];
        edited[i].n_dims = 2, edited[i].dims[0] *= items[i].dims[1], edited[i].dims[1] = items[i].dims[2];
        write_items(in_dir("model.safetensors"), edited, count);
        check_open(MLA_ERR_WEIGHTS, items[i].name, "flat");
        edited[i] = items[i], edited[i].dims[0] = 0, edited[i].bytes = 0;
        write_items(in_dir("model.safetensors"), edited, count);
        check_open(MLA_ERR_WEIGHTS, strstr(items[i].name, "gate_up") ? "n_routed_experts" : items[i].name, "empty");
        edited[i] = items[i];
        strcpy(edited[i].dtype, "I16");
        write_items(in_dir("model.safetensors"), edited, count);
        check_open(MLA_ERR_WEIGHTS, items[i].name, "I16");
    }
    st_close(f);
}

/* openPangu: kimi_k2's fixture with a norm more behind attention and FFN of every layer. */
static void test_sandwich(void) {
    static item items[600];
    static const char *const names[] = {"post_attention_layernorm", "pre_mlp_layernorm", "post_mlp_layernorm"};
    st_file *f, *written;
    mla_error e;
    checkpoint *c;
    char name[96];
    SECTION("families: norms behind attention and FFN");
    if (!CHECK(st_open(&f, FIXTURES "kimi_k2/model.safetensors", &e) == MLA_OK, "%s", e.text)) return;
    const size_t n = load_items(items, COUNT(items) - 6, f);
    for (size_t l = 0; l < 3; l++)
        for (size_t k = 1; k < 3; k++) {
            item *x = &items[n + 2 * l + k - 1];
            *x = *find_item(items, n, k == 1 ? "model.norm.weight" : "model.layers.1.input_layernorm.weight");
            snprintf(x->name, sizeof x->name, "model.layers.%zu.%s.weight", l, names[k]);
        }
    new_dir();
    write_items(in_dir("model.safetensors"), items, n + 6);
    try_config2("kimi_k2", "model_type", "\"pangu_ultra_moe\"", "topk_method", "null", MLA_ERR_WEIGHTS,
                "_mlp_layernorm");
    try_config2("kimi_k2", "model_type", "\"pangu_ultra_moe\"", "topk_method", "\"noaux_tc\"", MLA_ERR_UNSUPPORTED,
                "noaux_tc");
    char *text = read_text(FIXTURES "kimi_k2/config.json"), *one = with_key(text, "model_type", "\"pangu_ultra_moe\""),
         *two = with_key(one, "topk_method", "null"), *three = with_key(two, "sandwich_norm", "true");
    write_file(in_dir("config.json"), three, strlen(three));
    if (CHECK(checkpoint_open(&c, dir, &e) == MLA_OK, "%s", e.text) &&
        CHECK(st_open(&written, in_dir("model.safetensors"), &e) == MLA_OK, "%s", e.text)) {
        const mla_config *m = &c->config;
        CHECK(m->topk_method == MLA_TOPK_GREEDY && m->scoring_func == MLA_SCORING_SIGMOID && m->norm_topk_prob &&
                  m->rope.layout == MLA_ROPE_PAIR && !m->num_nextn_predict_layers,
              "the router");
        CHECK(m->kv_norm.eps == 1e-2f && m->q_norm.eps == 1e-2f && m->block_norm.eps == 1e-2f, "eps %g",
              (double)m->kv_norm.eps);
        for (int l = 0; l < 3; l++) {
            const mla_layer_weights *w = &c->weights.layers[l];
            const mla_tensor *norms[] = {&w->attn_out_norm.weight, &w->ffn_norm.weight, &w->ffn_out_norm.weight};
            for (int k = 0; k < 3; k++) {
                snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, names[k]);
                check_view(norms[k], written, name, 1, 64, MLA_BF16);
            }
            CHECK((w->moe.router_bias.data != NULL) == (l > 0), "a bias if it is there");
        }
        st_close(written);
    }
    checkpoint_close(c);
    for (size_t l = 0; l < 3; l++) /* every layer has them, dense or not */
        for (size_t k = 0; k < 3; k++) {
            snprintf(name, sizeof name, "model.layers.%zu.%s.weight", l, names[k]);
            item *x = find_item(items, n + 6, name), was = *x;
            *x = items[n + 5];
            if (x == &items[n + 5]) strcpy(x->name, "model.layers.1.pre_mlp_layernorm.weights");
            write_items(in_dir("model.safetensors"), items, n + 5 + (x == &items[n + 5]));
            check_open(MLA_ERR_WEIGHTS, name, "a norm missing");
            *x = was;
        }
    free(text), free(one), free(two), free(three);
    st_close(f);
}

/* ---- config.json ------------------------------------------------------------------------------------------------- */

static void test_config(void) {
    SECTION("config.json: bad values of every key");
    static const char *const integers[] = {"vocab_size",
                                           "hidden_size",
                                           "num_hidden_layers",
                                           "intermediate_size",
                                           "num_attention_heads",
                                           "kv_lora_rank",
                                           "qk_nope_head_dim",
                                           "qk_rope_head_dim",
                                           "v_head_dim",
                                           "max_position_embeddings",
                                           "num_experts_per_tok",
                                           "moe_intermediate_size",
                                           "n_group",
                                           "topk_group",
                                           "moe_layer_freq",
                                           "q_lora_rank",
                                           "n_routed_experts",
                                           "n_shared_experts",
                                           "first_k_dense_replace",
                                           "bos_token_id",
                                           "eos_token_id"};
    static const char *const bad_integers[] = {"-1",     "1.0",  "6.4e1", "-0", "2147483648", "99999999999999999999",
                                               "\"64\"", "true", "[]",    "{}", "[64.0]",     "1e999"};
    static const char *const bad_reals[] = {"-1",   "\"1\"", "true",  "[]",  "{}",
                                            "1e39", "-1e-3", "1e999", "NaN", "Infinity"};
    static const char *const reals[] = {"rms_norm_eps", "rope_theta", "routed_scaling_factor"};
    static const char *const bools[] = {"attention_bias", "tie_word_embeddings", "norm_topk_prob", "rope_interleave"};
    static const char *const bad_bools[] = {"0", "1", "\"true\"", "[]", "{}", "1.0"};
    static const char *const names[] = {"model_type", "scoring_func", "topk_method", "hidden_act"};
    static const char *const bad_names[] = {"\"llama\"", "\"\"", "\"deepseek\"", "\"silu\\u0000\"", "7",
                                            "true",      "[]",   "{}",           "\"SILU\"",        "\"relu\""};
    new_dir();
    link_file("deepseek_v3", "model.safetensors", "model.safetensors");
    try_config("deepseek_v3", "rms_norm_eps", "1e308", MLA_ERR_CONFIG,
               "found the number 1e+308, expected a number up to");
    for (size_t i = 0; i < COUNT(integers); i++) {
        const int optional = i >= 14, zero_is_fine = i >= 15;
        for (size_t j = 0; j < COUNT(bad_integers); j++)
            if (strcmp(integers[i], "eos_token_id") || strcmp(bad_integers[j], "[]")) /* an empty list of ids is one */
                try_config("deepseek_v3", integers[i], bad_integers[j], MLA_ERR_CONFIG, integers[i]);
        if (!zero_is_fine) try_config("deepseek_v3", integers[i], "0", MLA_ERR_CONFIG, integers[i]);
        if (!optional) {
            try_config("deepseek_v3", integers[i], "null", MLA_ERR_CONFIG, integers[i]);
            try_config("deepseek_v3", integers[i], NULL, MLA_ERR_CONFIG, integers[i]);
        }
    }
    static const char *const sizes[] = {
        "vocab_size",   "hidden_size",      "num_hidden_layers", "intermediate_size", "num_attention_heads",
        "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",  "v_head_dim",        "moe_intermediate_size",
        "q_lora_rank",  "n_routed_experts", "n_shared_experts"};
    for (size_t i = 0; i < COUNT(sizes);
         i++) { /* INT_MAX changes a shape or a count: refused before anything is allocated for it */
        char *text = read_text(FIXTURES "deepseek_v3/config.json"), *one = with_key(text, sizes[i], "2147483647");
        write_file(in_dir("config.json"), one, strlen(one));
        checkpoint *c;
        mla_error e;
        mla_result rc = checkpoint_open(&c, dir, &e);
        CHECK(rc == MLA_ERR_CONFIG || rc == MLA_ERR_WEIGHTS, "%s = INT_MAX: %d", sizes[i], (int)rc);
        if (rc) CHECK(strstr(e.text, "tensor") != NULL, "%s = INT_MAX: %s", sizes[i], e.text);
        checkpoint_close(c);
        free(text), free(one);
    }
    for (size_t i = 0; i < COUNT(reals); i++) {
        for (size_t j = 0; j < COUNT(bad_reals); j++)
            try_config("deepseek_v3", reals[i], bad_reals[j], MLA_ERR_CONFIG, reals[i]);
        static const char *const more[] = {"0", "0.0", "1e-60", "null", NULL};
        for (size_t j = 0; j < COUNT(more); j++) try_config("deepseek_v3", reals[i], more[j], MLA_ERR_CONFIG, reals[i]);
    }
    for (size_t i = 0; i < COUNT(bools); i++)
        for (size_t j = 0; j < COUNT(bad_bools); j++)
            try_config("deepseek_v3", bools[i], bad_bools[j], MLA_ERR_CONFIG, bools[i]);
    for (size_t i = 0; i < COUNT(names); i++)
        for (size_t j = 0; j < COUNT(bad_names); j++) {
            const int is_text = bad_names[j][0] == '"' && !strstr(bad_names[j], "\\u");
            try_config("deepseek_v3", names[i], bad_names[j], is_text ? MLA_ERR_UNSUPPORTED : MLA_ERR_CONFIG, names[i]);
        }
    try_config("deepseek_v3", "model_type", NULL, MLA_ERR_CONFIG, "model_type");
    try_config("deepseek_v3", "model_type", "\"llama\"", MLA_ERR_UNSUPPORTED,
               "config.json: model_type \"llama\" is not supported (deepseek_v2, deepseek_v3, kimi_k2, glm4_moe_lite, "
               "longcat_flash, minicpm3, mistral4, youtu, axk1, deepseek_v32 and others are)");
    static const char *const refused[][2] = {{"deepseek_v4", "another attention"},
                                             {"glm5_next", "recurrent layers (Kimi Delta Attention)"},
                                             {"kimi_k3", "recurrent layers (Kimi Delta Attention)"},
                                             {"dots3_note", "a sliding window"},
                                             {"motif3", "what it has beside MLA"}};
    for (size_t i = 0; i < COUNT(refused); i++) {
        char quoted[40], word[200];
        sprintf(quoted, "\"%s\"", refused[i][0]);
        sprintf(word, "%s is not supported: it needs ", quoted);
        try_config("deepseek_v3", "model_type", quoted, MLA_ERR_UNSUPPORTED, word);
        try_config("deepseek_v3", "model_type", quoted, MLA_ERR_UNSUPPORTED, refused[i][1]);
    }
    /* known names, but of another family */
    try_config("deepseek_v3", "scoring_func", "\"softmax\"", MLA_ERR_UNSUPPORTED, "softmax");
    try_config("deepseek_v3", "topk_method", "\"greedy\"", MLA_ERR_UNSUPPORTED, "greedy");
    try_config("deepseek_v3", "num_experts_per_tok", "13", MLA_ERR_CONFIG, "num_experts_per_tok");
    try_config("deepseek_v3", "topk_group", "5", MLA_ERR_CONFIG, "topk_group");
    try_config("deepseek_v3", "n_group", "13", MLA_ERR_CONFIG, "n_group");
    try_config("deepseek_v3", "eos_token_id", "256", MLA_ERR_CONFIG, "eos_token_id");
    try_config("deepseek_v3", "eos_token_id", "[1,2,3,4,5,6,7,8,9]", MLA_ERR_CONFIG, "eos_token_id");
    try_config("deepseek_v3", "eos_token_id", "[1,null]", MLA_ERR_CONFIG, "eos_token_id");
    try_config("deepseek_v3", "bos_token_id", "256", MLA_ERR_CONFIG, "bos_token_id");
    /* sizes that do not fit the tensors */
    try_config("deepseek_v3", "hidden_size", "65", MLA_ERR_WEIGHTS, "[256, 65]");
    try_config("deepseek_v3", "vocab_size", "255", MLA_ERR_WEIGHTS, "model.embed_tokens.weight");
    try_config("deepseek_v3", "num_attention_heads", "5", MLA_ERR_WEIGHTS, "q_b_proj");
    try_config("deepseek_v3", "v_head_dim", "31", MLA_ERR_WEIGHTS, "kv_b_proj");
    try_config("deepseek_v3", "q_lora_rank", "null", MLA_ERR_WEIGHTS, "q_proj");
    try_config("deepseek_v3", "first_k_dense_replace", "2", MLA_ERR_WEIGHTS, "model.layers.1.mlp.gate_proj.weight");
    try_config("deepseek_v3", "first_k_dense_replace", "0", MLA_ERR_WEIGHTS, "model.layers.0.mlp.gate.weight");
    try_config("deepseek_v3", "moe_layer_freq", "2", MLA_ERR_WEIGHTS, "model.layers.1.mlp.gate_proj.weight");
    try_config("deepseek_v3", "n_routed_experts", "null", MLA_ERR_WEIGHTS, "model.layers.1.mlp.gate_proj.weight");
    try_config("deepseek_v3", "n_routed_experts", "11", MLA_ERR_WEIGHTS, "model.layers.1.mlp.gate.weight");
    try_config("deepseek_v3", "n_shared_experts", "2", MLA_ERR_WEIGHTS, "shared_experts");
    try_config("deepseek_v3", "n_shared_experts", "0", MLA_ERR_WEIGHTS, "shared_experts");
    try_config("deepseek_v3", "num_hidden_layers", "3", MLA_ERR_WEIGHTS,
               "model.layers.3."); /* not one of multi-token prediction */
    try_config("deepseek_v3", "num_hidden_layers", "6", MLA_ERR_WEIGHTS, "model.layers.5.");
    try_config("deepseek_v3", "num_nextn_predict_layers", "0", MLA_OK, "");
    try_config("deepseek_v3", "num_nextn_predict_layers", "\"1\"", MLA_ERR_CONFIG,
               "num_nextn_predict_layers: found the string \"1\", expected an integer");
    try_config("deepseek_v3", "attention_bias", "true", MLA_ERR_WEIGHTS, "q_a_proj.bias");
    try_config("deepseek_v3", "tie_word_embeddings", "true", MLA_ERR_WEIGHTS, "lm_head.weight");
    /* silence where silence is fine */
    static const char *const optional[] = {
        "scoring_func",        "topk_method",    "hidden_act",     "norm_topk_prob", "attention_bias",
        "tie_word_embeddings", "moe_layer_freq", "bos_token_id",   "eos_token_id",   "num_nextn_predict_layers",
        "num_key_value_heads", "torch_dtype",    "rope_interleave"};
    for (size_t i = 0; i < COUNT(optional); i++) {
        try_config("deepseek_v3", optional[i], NULL, MLA_OK, "");
        try_config("deepseek_v3", optional[i], "null", MLA_OK, "");
    }

    SECTION("config.json: the file itself");
    static const struct {
        const char *text, *word;
    } files[] = {{"", "config.json"},
                 {"{", "config.json"},
                 {"[]", "object"},
                 {"null", "object"},
                 {"\"x\"", "object"},
                 {"{}", "model_type"},
                 {"{\"a\":1,\"a\":1}", "\"a\""},
                 {"{\"rms_norm_eps\": NaN}", "rms_norm_eps"},
                 {"{\"rms_norm_eps\": -Infinity}", "rms_norm_eps"},
                 {"{} {}", "config.json"},
                 {"<!doctype html>", "config.json: this is a web page"},
                 {"\xef\xbb\xbf{}", "config.json: it begins with a byte order mark"},
                 {"version https://git-lfs.github.com/spec/v1\n", "config.json: this is a Git LFS pointer"}};
    for (size_t i = 0; i < COUNT(files); i++) {
        write_file(in_dir("config.json"), files[i].text, strlen(files[i].text));
        check_open(MLA_ERR_CONFIG, files[i].word, files[i].text);
    }
    unlink(in_dir("config.json"));
    check_open(MLA_ERR_ARGUMENT, "config.json", "no config.json");
    open_nothing();
    if (CHECK(!mkfifo(in_dir("config.json"), 0600), "mkfifo"))
        check_open(MLA_ERR_ARGUMENT, "config.json: cannot be read: not a regular file", "a FIFO");
    unlink(in_dir("config.json"));
    if (CHECK(!symlink("/dev/zero", in_dir("config.json")), "symlink"))
        check_open(MLA_ERR_ARGUMENT, "config.json: cannot be read: not a regular file", "a device");
    unlink(in_dir("config.json"));
    many_values();
    mkdir(in_dir("config.json"), 0700);
    check_open(MLA_ERR_ARGUMENT, "config.json", "config.json is a directory");
    rmdir(in_dir("config.json"));
    char *text = read_text(FIXTURES "deepseek_v3/config.json");
    for (size_t n = 0; n + 1 < strlen(text); n += 7) {
        write_file(in_dir("config.json"), text, n);
        check_open(MLA_ERR_CONFIG, "config.json", "truncated config.json");
    }
    free(text);

    SECTION("config.json: rope");
#define YARN(rest) "{\"type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":16" rest "}"
    static const struct {
        const char *dict;
        mla_result want;
        const char *word;
    } ropes[] = {{"{\"type\":\"ntk\",\"factor\":2}", MLA_ERR_UNSUPPORTED, "rope_scaling.type \"ntk\""},
                 {"{\"rope_type\":\"llama3\",\"factor\":2}", MLA_ERR_UNSUPPORTED, "llama3"},
                 {"{\"factor\":2}", MLA_ERR_CONFIG, "rope_scaling.type"},
                 {"{}", MLA_ERR_CONFIG, "rope_scaling.type"},
                 {"[]", MLA_ERR_CONFIG, "rope_scaling"},
                 {"\"yarn\"", MLA_ERR_CONFIG, "rope_scaling"},
                 {"{\"type\":\"yarn\",\"rope_type\":\"linear\",\"factor\":2}", MLA_ERR_CONFIG, "rope_scaling.type"},
                 {"{\"type\":7,\"factor\":2}", MLA_ERR_CONFIG, "rope_scaling.type"},
                 {"{\"type\":\"yarn\"}", MLA_ERR_CONFIG, "rope_scaling.factor"},
                 {"{\"type\":\"linear\"}", MLA_ERR_CONFIG, "rope_scaling.factor"},
                 {"{\"type\":\"dynamic\"}", MLA_ERR_CONFIG, "rope_scaling.factor"},
                 {"{\"type\":\"yarn\",\"factor\":0.5}", MLA_ERR_CONFIG, "rope_scaling.factor"},
                 {"{\"type\":\"yarn\",\"factor\":0}", MLA_ERR_CONFIG, "rope_scaling.factor"},
                 {"{\"type\":\"yarn\",\"factor\":\"4\"}", MLA_ERR_CONFIG, "rope_scaling.factor"},
                 {"{\"type\":\"yarn\",\"factor\":NaN}", MLA_ERR_CONFIG, "factor"},
                 {YARN(",\"beta_fast\":0"), MLA_ERR_CONFIG, "beta_fast"},
                 {YARN(",\"beta_slow\":-1"), MLA_ERR_CONFIG, "beta_slow"},
                 {YARN(",\"mscale\":-1"), MLA_ERR_CONFIG, "mscale"},
                 {YARN(",\"mscale_all_dim\":\"1\""), MLA_ERR_CONFIG, "mscale_all_dim"},
                 {YARN(",\"attention_factor\":0"), MLA_ERR_CONFIG, "attention_factor"},
                 {YARN(",\"truncate\":0"), MLA_ERR_CONFIG, "truncate"},
                 {"{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":0}", MLA_ERR_CONFIG,
                  "original_max_position_embeddings"},
                 {"{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":16.0}", MLA_ERR_CONFIG,
                  "original_max_position_embeddings"},
                 {YARN(",\"rope_theta\":5000.0"), MLA_ERR_CONFIG, "rope_scaling.rope_theta"},
                 {YARN(",\"rope_theta\":10000"), MLA_OK, ""},
                 {YARN(",\"rope_theta\":0"), MLA_ERR_CONFIG, "rope_theta"},
                 {"{\"type\":\"longrope\"}", MLA_ERR_CONFIG, "short_factor"},
                 {"{\"type\":\"longrope\",\"short_factor\":[1,1,1,1,1,1,1,1]}", MLA_ERR_CONFIG, "long_factor"},
                 {"{\"type\":\"longrope\",\"short_factor\":[1,1,1,1,1,1,1],\"long_factor\":[1,1,1,1,1,1,1,1]}",
                  MLA_ERR_CONFIG, "short_factor"},
                 {"{\"type\":\"longrope\",\"short_factor\":[1,1,1,1,1,1,1,1],\"long_factor\":[1,1,1,1,1,1,1,0]}",
                  MLA_ERR_CONFIG, "long_factor"},
                 {"{\"type\":\"longrope\",\"short_factor\":[1,1,1,1,1,1,1,1],\"long_factor\":[1,1,1,1,1,1,1,null]}",
                  MLA_ERR_CONFIG, "long_factor"},
                 {"{\"type\":\"longrope\",\"short_factor\":8,\"long_factor\":[1,1,1,1,1,1,1,1]}", MLA_ERR_CONFIG,
                  "short_factor"}};
    for (size_t i = 0; i < COUNT(ropes); i++)
        try_config("deepseek_v3", "rope_scaling", ropes[i].dict, ropes[i].want, ropes[i].word);
    try_config2("deepseek_v3", "rope_scaling", "null", "rope_parameters", "{\"rope_type\":\"su\",\"rope_theta\":1e4}",
                MLA_ERR_UNSUPPORTED, "rope_parameters.rope_type \"su\"");
    try_config2("deepseek_v3", "rope_theta", NULL, "rope_scaling", "null", MLA_ERR_CONFIG, "rope_theta");

    static const struct rope_case {
        const char *key, *dict, *theta, *interleave;
        mla_rope want;
    } good[] = {{"rope_scaling",
                 "null",
                 "10000",
                 "true",
                 {MLA_ROPE_PAIR, MLA_ROPE_DEFAULT, 10000, 0, 0, 0, 0, 0, 0, 0, 256, 256, 0, NULL, NULL, NULL}},
                {"rope_scaling",
                 "{\"rope_type\":\"yarn\",\"type\":\"yarn\",\"factor\":4,\"truncate\":false,\"attention_factor\":1.5}",
                 "10000",
                 "false",
                 {MLA_ROPE_HALF, MLA_ROPE_YARN, 10000, 4, 32, 1, 0, 0, 1.5f, 1, 256, 256, 0, NULL, NULL, NULL}},
                {"rope_scaling",
                 YARN(",\"beta_fast\":1.0,\"beta_slow\":1,\"mscale\":0.5,\"mscale_all_dim\":null"),
                 "50000.0",
                 "null",
                 {MLA_ROPE_PAIR, MLA_ROPE_YARN, 50000, 4, 1, 1, 0.5f, 0, 0, 0, 256, 16, 0, NULL, NULL, NULL}},
                {"rope_scaling",
                 "{\"type\":\"linear\",\"factor\":2}",
                 "10000",
                 "true",
                 {MLA_ROPE_PAIR, MLA_ROPE_LINEAR, 10000, 2, 0, 0, 0, 0, 0, 0, 256, 256, 0, NULL, NULL, NULL}},
                {"rope_scaling",
                 "{\"type\":\"dynamic\",\"factor\":2.5}",
                 "10000",
                 "true",
                 {MLA_ROPE_PAIR, MLA_ROPE_DYNAMIC, 10000, 2.5f, 0, 0, 0, 0, 0, 0, 256, 256, 0, NULL, NULL, NULL}},
                {"rope_parameters",
                 "{\"rope_type\":\"default\",\"rope_theta\":50000.0}",
                 NULL,
                 "false",
                 {MLA_ROPE_HALF, MLA_ROPE_DEFAULT, 50000, 0, 0, 0, 0, 0, 0, 0, 256, 256, 0, NULL, NULL, NULL}},
                {"rope_parameters",
                 "{\"rope_theta\":50000.0}",
                 NULL,
                 "true",
                 {MLA_ROPE_PAIR, MLA_ROPE_DEFAULT, 50000, 0, 0, 0, 0, 0, 0, 0, 256, 256, 0, NULL, NULL, NULL}},
                {"rope_parameters",
                 "{\"beta_fast\":32,\"beta_slow\":1,\"factor\":4.0,\"mscale\":1.2,\"mscale_all_dim\":0.6,\"original_"
                 "max_position_"
                 "embeddings\":16,\"rope_theta\":10000.0,"
                 "\"rope_type\":\"yarn\"}",
                 NULL,
                 "true",
                 {MLA_ROPE_PAIR, MLA_ROPE_YARN, 10000, 4, 32, 1, 1.2f, 0.6f, 0, 0, 256, 16, 0, NULL, NULL, NULL}},
                {"rope_parameters",
                 "{\"rope_type\":\"longrope\",\"rope_theta\":1e4,\"original_max_position_embeddings\":16,\"factor\":16."
                 "0,\"short_"
                 "factor\":[1,1.5,2,2.5,3,3.5,4,4.5],"
                 "\"long_factor\":[2,2,2,2,2,2,2,9]}",
                 NULL,
                 "true",
                 {MLA_ROPE_PAIR, MLA_ROPE_LONGROPE, 10000, 16, 0, 0, 0, 0, 0, 0, 256, 16, 0, NULL, NULL, NULL}}};
    for (size_t i = 0; i < COUNT(good); i++) {
        text = read_text(FIXTURES "deepseek_v3/config.json");
        const char *keys[] = {"rope_scaling", good[i].key, "rope_theta", "rope_interleave"},
                   *values[] = {"null", good[i].dict, good[i].theta, good[i].interleave};
        for (int k = 0; k < 4; k++) {
            char *next = with_key(text, keys[k], values[k]);
            free(text);
            text = next;
        }
        write_file(in_dir("config.json"), text, strlen(text));
        free(text);
        checkpoint *c;
        mla_error e;
        if (!CHECK(checkpoint_open(&c, dir, &e) == MLA_OK, "rope %zu: %s", i, e.text)) continue;
        const mla_rope *r = &c->config.rope, *x = &good[i].want;
        CHECK(r->layout == x->layout && r->scaling == x->scaling && r->theta == x->theta && r->factor == x->factor,
              "rope %zu: theta, factor", i);
        CHECK(r->beta_fast == x->beta_fast && r->beta_slow == x->beta_slow && r->mscale == x->mscale &&
                  r->mscale_all_dim == x->mscale_all_dim,
              "rope %zu: yarn", i);
        CHECK(r->attention_factor == x->attention_factor && r->no_truncate == x->no_truncate && r->length == 0,
              "rope %zu: more", i);
        CHECK(r->max_position_embeddings == 256 &&
                  r->original_max_position_embeddings == x->original_max_position_embeddings,
              "rope %zu: positions", i);
        if (r->scaling == MLA_ROPE_LONGROPE)
            CHECK(r->short_factor && r->short_factor[7] == 4.5f && r->long_factor[0] == 2 && r->long_factor[7] == 9,
                  "rope %zu: factors", i);
        checkpoint_close(c);
    }
    /* the top-level original length wins over the dictionary's */
    try_config("deepseek_v3", "original_max_position_embeddings", "32", MLA_OK, "");
    checkpoint *c;
    if (CHECK(checkpoint_open(&c, dir, NULL) == MLA_OK, "original length"))
        CHECK(c->config.rope.original_max_position_embeddings == 32, "original length");
    checkpoint_close(c);

    SECTION("config.json: token ids, generation_config.json");
    try_config("deepseek_v3", "eos_token_id", "[5, 6, 7]", MLA_OK, "");
    if (CHECK(checkpoint_open(&c, dir, NULL) == MLA_OK, "eos list"))
        CHECK(c->n_eos == 3 && c->eos_token_id[0] == 5 && c->eos_token_id[2] == 7, "eos list");
    checkpoint_close(c);
    try_config2("deepseek_v3", "eos_token_id", "null", "bos_token_id", "null", MLA_OK, "");
    if (CHECK(checkpoint_open(&c, dir, NULL) == MLA_OK, "no ids"))
        CHECK(c->n_eos == 0 && c->bos_token_id == -1, "no ids");
    checkpoint_close(c);
    try_config("deepseek_v3", "eos_token_id", "[5, 6, 7]", MLA_OK, "");
    static const struct {
        const char *text;
        mla_result want;
        int n_eos;
    } generation[] = {{"{\"eos_token_id\": 9}", MLA_OK, 1},
                      {"{\"eos_token_id\": [9, 10]}", MLA_OK, 2},
                      {"{\"do_sample\": true}", MLA_OK, 3},
                      {"{\"eos_token_id\": null}", MLA_OK, 3},
                      {"{\"eos_token_id\": 256}", MLA_ERR_CONFIG, 0},
                      {"{\"eos_token_id\": \"9\"}", MLA_ERR_CONFIG, 0},
                      {"{\"eos_token_id\": 9.0}", MLA_ERR_CONFIG, 0},
                      {"[]", MLA_ERR_CONFIG, 0},
                      {"{", MLA_ERR_CONFIG, 0}};
    for (size_t i = 0; i < COUNT(generation); i++) {
        write_file(in_dir("generation_config.json"), generation[i].text, strlen(generation[i].text));
        check_open(generation[i].want, "generation_config.json", generation[i].text);
        if (generation[i].want || !CHECK(checkpoint_open(&c, dir, NULL) == MLA_OK, "generation_config")) continue;
        CHECK(c->n_eos == generation[i].n_eos && c->eos_token_id[0] == (c->n_eos == 3 ? 5 : 9), "%s",
              generation[i].text);
        checkpoint_close(c);
    }

    SECTION("config.json: V2");
    new_dir();
    link_file("deepseek_v2_lite", "model.safetensors", "model.safetensors");
    static const char *const none[] = {"null", "0", NULL};
    for (int i = 0; i < 3; i++) try_config("deepseek_v2_lite", "q_lora_rank", none[i], MLA_OK, "");
    /* DeepSeek-VL2's way, whose bias is not in this one's files */
    try_config("deepseek_v2_lite", "topk_method", "\"noaux_tc\"", MLA_ERR_WEIGHTS, "gate.e_score_correction_bias");
    try_config("deepseek_v2_lite", "scoring_func", "\"sigmoid\"", MLA_OK, "");
    try_config("deepseek_v2_lite", "scoring_func", "\"tanh\"", MLA_ERR_UNSUPPORTED, "softmax, sigmoid are");
    try_config("deepseek_v2_lite", "topk_method", "\"random\"", MLA_ERR_UNSUPPORTED, "random");
    try_config("deepseek_v2_lite", "topk_method", NULL, MLA_OK, "");
    try_config("deepseek_v2_lite", "n_group", "null", MLA_OK, ""); /* greedy needs none */
    try_config2("deepseek_v2_lite", "n_group", "null", "topk_method", "\"group_limited_greedy\"", MLA_ERR_CONFIG,
                "n_group");
    try_config("deepseek_v2_lite", "norm_topk_prob", "true", MLA_OK, "");
    if (CHECK(checkpoint_open(&c, dir, NULL) == MLA_OK, "V2"))
        CHECK(c->config.norm_topk_prob && c->config.rope.layout == MLA_ROPE_PAIR, "V2 normalises, always PAIR");
    checkpoint_close(c);
    try_config("deepseek_v2_lite", "norm_topk_prob", NULL, MLA_OK, "");
    if (CHECK(checkpoint_open(&c, dir, NULL) == MLA_OK, "V2"))
        CHECK(!c->config.norm_topk_prob, "V2 does not normalise without being told");
    checkpoint_close(c);
    /* what would change the result and is not obeyed */
    try_config("deepseek_v2_lite", "rope_interleave", "false", MLA_ERR_CONFIG, "rope_interleave");
    try_config("deepseek_v2_lite", "rope_interleave", "true", MLA_OK, "");
    try_config("deepseek_v2_lite", "use_mla", "false", MLA_ERR_CONFIG, "use_mla");
    try_config("deepseek_v2_lite", "use_mla", "true", MLA_OK, "");
    try_config("deepseek_v2_lite", "mlp_bias", "true", MLA_ERR_CONFIG, "mlp_bias");
    try_config("deepseek_v2_lite", "model_type", "\"deepseek_v3\"", MLA_ERR_UNSUPPORTED, "softmax");
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

static void test_tensors(void) {
    static item items[600], edited[600];
    st_file *f;
    mla_error e;
    SECTION("tensors: each one missing, misshapen, of a wrong dtype");
    new_dir();
    link_file("deepseek_v2_lite", "config.json", "config.json");
    if (!CHECK(st_open(&f, FIXTURES "deepseek_v2_lite/model.safetensors", &e) == MLA_OK, "%s", e.text)) return;
    size_t n = load_items(items, COUNT(items), f);
    write_items(in_dir("model.safetensors"), items, n);
    check_open(MLA_OK, "", "rewritten as it was");
    for (size_t i = 0; i < n; i++) {
        memcpy(edited, items, n * sizeof *items);
        edited[i] = edited[n - 1]; /* gone */
        write_items(in_dir("model.safetensors"), edited, n - 1);
        check_open(MLA_ERR_WEIGHTS, items[i].name, "missing");
        edited[i] = items[i], edited[n - 1] = items[n - 1];
        if (items[i].n_dims == 2) {
            edited[i].dims[0] = items[i].dims[0] * 2, edited[i].dims[1] = items[i].dims[1] / 2;
        } else edited[i].n_dims = 2, edited[i].dims[0] = 1, edited[i].dims[1] = items[i].dims[0];
        write_items(in_dir("model.safetensors"), edited, n);
        check_open(MLA_ERR_WEIGHTS, items[i].name, "misshapen");
        edited[i] = items[i];
        strcpy(edited[i].dtype, "I16");
        write_items(in_dir("model.safetensors"), edited, n);
        check_open(MLA_ERR_WEIGHTS, items[i].name, "I16");
    }
    SECTION("tensors: extra ones");
    static const struct {
        const char *name;
        mla_result want;
    } extra[] = {{"model.layers.3.eh_proj.weight", MLA_OK},
                 {"model.layers.61.eh_proj.weight", MLA_OK},
                 {"model.layers.3.anything", MLA_ERR_WEIGHTS},
                 {"model.layers.99999999999999999999999.eh_proj.weight", MLA_ERR_WEIGHTS},
                 {"model.layers.2.eh_proj.weight", MLA_ERR_WEIGHTS},
                 {"model.layers.0.self_attn.rotary_emb.inv_freq", MLA_OK},
                 {"model.rotary_emb.inv_freq", MLA_OK},
                 {"model.layers.2.anything", MLA_ERR_WEIGHTS},
                 {"model.layers.0.self_attn.q_a_proj.weight", MLA_ERR_WEIGHTS},
                 {"model.layers.-1.x", MLA_ERR_WEIGHTS},
                 {"model.layers.1.mlp.experts.8.up_proj.weight", MLA_ERR_WEIGHTS},
                 {"model.layers.1.mlp.gate_proj.weight", MLA_ERR_WEIGHTS},
                 {"model.layers.x", MLA_ERR_WEIGHTS},
                 {"model.layers.1.mlp.gate.e_score_correction_bias", MLA_ERR_WEIGHTS},
                 {"model.layers.0.self_attn.o_proj.bias", MLA_ERR_WEIGHTS},
                 {"model.layers.0.self_attn.kv_b_proj.weight_scale_inv", MLA_ERR_WEIGHTS},
                 {"vision_tower.weight", MLA_ERR_WEIGHTS},
                 {"lm_head.bias", MLA_ERR_WEIGHTS}};
    for (size_t i = 0; i < COUNT(extra); i++) {
        memcpy(edited, items, n * sizeof *items);
        edited[n] = items[0];
        strcpy(edited[n].name, extra[i].name);
        write_items(in_dir("model.safetensors"), edited, n + 1);
        check_open(extra[i].want, extra[i].name, extra[i].name);
    }
    SECTION("tensors: biases, ties, dtypes");
    static float zeros[4096];
    static const struct {
        const char *name;
        int size;
    } biases[] = {{"kv_a_proj_with_mqa", 64}, {"o_proj", 64}};
    memcpy(edited, items, n * sizeof *items);
    size_t m = n;
    for (int l = 0; l < 3; l++)
        for (int k = 0; k < 2; k++, m++) {
            sprintf(edited[m].name, "model.layers.%d.self_attn.%s.bias", l, biases[k].name);
            strcpy(edited[m].dtype, "F32");
            edited[m].n_dims = 1, edited[m].dims[0] = biases[k].size, edited[m].data = zeros,
            edited[m].bytes = 4 * (size_t)biases[k].size;
        }
    write_items(in_dir("model.safetensors"), edited, m);
    unlink(in_dir("config.json"));
    try_config("deepseek_v2_lite", "attention_bias", "true", MLA_OK, "");
    checkpoint *c;
    if (CHECK(checkpoint_open(&c, dir, &e) == MLA_OK, "biases")) {
        const mla_attn_weights *a = &c->weights.layers[1].attn;
        CHECK(a->kv_a.bias.data && a->kv_a.bias.rows == 1 && a->kv_a.bias.cols == 64 && a->kv_a.bias.dtype == MLA_F32,
              "kv_a bias");
        CHECK(a->o.bias.data && !a->q.bias.data && !a->kv_b.bias.data, "only kv_a and o");
    }
    checkpoint_close(c);
    try_config("deepseek_v2_lite", "attention_bias", "false", MLA_ERR_WEIGHTS, ".bias");
    write_items(in_dir("model.safetensors"), edited, m - 1);
    try_config("deepseek_v2_lite", "attention_bias", "true", MLA_ERR_WEIGHTS, "model.layers.2.self_attn.o_proj.bias");

    memcpy(edited, items, n * sizeof *items);
    *find_item(edited, n, "lm_head.weight") = edited[n - 1];
    write_items(in_dir("model.safetensors"), edited, n - 1);
    try_config("deepseek_v2_lite", "tie_word_embeddings", "true", MLA_OK, "");
    if (CHECK(checkpoint_open(&c, dir, &e) == MLA_OK, "tied"))
        CHECK(!c->weights.head.data && c->weights.embed.data, "tied: no head");
    checkpoint_close(c);
    try_config("deepseek_v2_lite", "tie_word_embeddings", "false", MLA_ERR_WEIGHTS, "lm_head.weight");
    memcpy(edited, items, n * sizeof *items);
    find_item(edited, n, "lm_head.weight")->data = find_item(items, n, "model.embed_tokens.weight")->data;
    write_items(in_dir("model.safetensors"), edited, n);
    try_config("deepseek_v2_lite", "tie_word_embeddings", "true", MLA_OK, "");

    memcpy(edited, items, n * sizeof *items);
    strcpy(find_item(edited, n, "model.layers.1.self_attn.kv_b_proj.weight")->dtype, "F16");
    item *norm = find_item(edited, n, "model.norm.weight");
    strcpy(norm->dtype, "F32"), norm->data = zeros, norm->bytes = 256;
    write_items(in_dir("model.safetensors"), edited, n);
    unlink(in_dir("config.json"));
    link_file("deepseek_v2_lite", "config.json", "config.json");
    if (CHECK(checkpoint_open(&c, dir, &e) == MLA_OK, "mixed dtypes"))
        CHECK(c->weights.layers[1].attn.kv_b.weight.dtype == MLA_F16 && c->weights.norm.weight.dtype == MLA_F32,
              "mixed dtypes");
    checkpoint_close(c);
    st_close(f);

    SECTION("tensors: fp8");
    new_dir();
    link_file("deepseek_v3_fp8", "config.json", "config.json");
    if (!CHECK(st_open(&f, FIXTURES "deepseek_v3_fp8/model.safetensors", &e) == MLA_OK, "%s", e.text)) return;
    n = load_items(items, COUNT(items), f);
    for (size_t i = 0, done = 0; i < n && done < 8; i++) {
        char *at = strstr(items[i].name, "_scale_inv");
        if (!at || strstr(items[i].name, "layers.3.") || (i % 5 && !strstr(items[i].name, "shared")))
            continue; /* a few, of all kinds */
        done++;
        memcpy(edited, items, n * sizeof *items);
        edited[i] = edited[n - 1];
        write_items(in_dir("model.safetensors"), edited, n - 1);
        check_open(MLA_ERR_WEIGHTS, items[i].name, "scale missing");
        edited[i] = items[i], edited[n - 1] = items[n - 1];
        edited[i].n_dims = 1, edited[i].dims[0] = items[i].dims[0] * items[i].dims[1];
        write_items(in_dir("model.safetensors"), edited, n);
        check_open(MLA_ERR_WEIGHTS, items[i].name, "scale misshapen");
        edited[i] = items[i], edited[i].dims[0]++, edited[i].data = zeros,
        edited[i].bytes = 4 * (size_t)(edited[i].dims[0] * edited[i].dims[1]);
        write_items(in_dir("model.safetensors"), edited, n);
        check_open(MLA_ERR_WEIGHTS, items[i].name, "scale too large");
        edited[i] = items[i];
        strcpy(edited[i].dtype, "I32");
        write_items(in_dir("model.safetensors"), edited, n);
        check_open(MLA_ERR_WEIGHTS, items[i].name, "scale of I32");
    }
    static const char quantization[] =
        "{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"weight_block_size\":[128,128],\"scale_fmt\":"
        "\"ue8m0\",\"activation_scheme\":\"dynamic\"}";
    for (int kind = 0; kind < 3; kind++) { /* byte scales: F8_E8M0, U8; I8 never */
        static const char *const kinds[] = {"F8_E8M0", "U8", "I8"};
        static unsigned char bytes[64];
        memset(bytes, 127, sizeof bytes);
        memcpy(edited, items, n * sizeof *items);
        for (size_t i = 0; i < n; i++)
            if (strstr(edited[i].name, "_scale_inv"))
                strcpy(edited[i].dtype, kinds[kind]), edited[i].data = bytes, edited[i].bytes /= 4;
        write_items(in_dir("model.safetensors"), edited, n);
        unlink(in_dir("config.json"));
        try_config("deepseek_v3_fp8", "quantization_config", quantization, kind < 2 ? MLA_OK : MLA_ERR_WEIGHTS,
                   "weight_scale_inv");
        if (kind < 2 && CHECK(checkpoint_open(&c, dir, &e) == MLA_OK, "ue8m0")) {
            const mla_tensor *t = &c->weights.layers[1].attn.kv_b.weight;
            CHECK(t->dtype == MLA_E4M3 && t->scale_dtype == MLA_UE8M0 && t->scale &&
                      *(const unsigned char *)t->scale == 127,
                  "ue8m0");
            checkpoint_close(c);
        }
        unlink(in_dir("config.json"));
        link_file("deepseek_v3_fp8", "config.json", "config.json");
        check_open(MLA_ERR_WEIGHTS, "weight_scale_inv", "byte scales without scale_fmt");
    }
    memcpy(edited, items, n * sizeof *items);
    item *q = find_item(edited, n, "model.layers.0.self_attn.o_proj.weight");
    strcpy(q->dtype, "F8_E5M2");
    write_items(in_dir("model.safetensors"), edited, n);
    unlink(in_dir("config.json"));
    link_file("deepseek_v3_fp8", "config.json", "config.json");
    check_open(MLA_ERR_WEIGHTS, "model.layers.0.self_attn.o_proj.weight", "e5m2");
    strcpy(q->dtype, "F8_E4M3");
    q = find_item(edited, n, "model.embed_tokens.weight"); /* embeddings are never quantised */
    strcpy(q->dtype, "F8_E4M3"), q->bytes /= 2;
    write_items(in_dir("model.safetensors"), edited, n);
    check_open(MLA_ERR_WEIGHTS, "model.embed_tokens.weight", "e4m3 embedding");
    st_close(f);
    clear_dir();

    SECTION("config.json: quantization_config");
    new_dir();
    link_file("deepseek_v3_fp8", "model.safetensors", "model.safetensors");
    static const struct {
        const char *dict;
        mla_result want;
        const char *word;
    } quant[] = {
        {quantization, MLA_OK, ""},
        {NULL, MLA_ERR_WEIGHTS, "quantization_config"},
        {"null", MLA_ERR_WEIGHTS, "F8_E4M3"},
        {"[]", MLA_ERR_CONFIG, "quantization_config"},
        {"{}", MLA_ERR_CONFIG, "quant_method"},
        {"{\"quant_method\":\"gptq\",\"bits\":4}", MLA_ERR_UNSUPPORTED, "\"gptq\": GPTQ is not read here: llama.cpp's"},
        {"{\"quant_method\":\"awq\",\"bits\":4}", MLA_ERR_UNSUPPORTED, "\"awq\": AWQ is not read here: llm-compressor"},
        {"{\"quant_method\":\"mxfp8\"}", MLA_ERR_UNSUPPORTED, "\"mxfp8\": MXFP8 is not read here: llm-compressor"},
        {"{\"quant_method\":\"modelopt\",\"quant_algo\":\"MXFP8\"}", MLA_ERR_UNSUPPORTED, "\"MXFP8\": MXFP8 is not"},
        {"{\"quant_method\":\"modelopt\",\"quant_algo\":\"W4A8_AWQ\"}", MLA_ERR_UNSUPPORTED, "AWQ is not read here"},
        {"{\"quant_method\":\"modelopt\",\"quant_algo\":\"W4A8\"}", MLA_ERR_UNSUPPORTED, "quant_algo \"W4A8\""},
        {"{\"quant_method\":\"modelopt\"}", MLA_ERR_CONFIG, "quantization_config.quant_algo is missing"},
        {"{\"quant_method\":\"modelopt\",\"quant_algo\":\"NVFP4\",\"group_size\":32}", MLA_ERR_CONFIG, "group_size"},
        {"{\"quant_method\":\"bitsandbytes\"}", MLA_ERR_UNSUPPORTED, "bitsandbytes"},
        {"{\"quant_method\":\"fp8\"}", MLA_ERR_CONFIG, "weight_block_size"},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]}", MLA_OK, ""},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[64,64]}", MLA_ERR_WEIGHTS, "weight_scale_inv"},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[0,128]}", MLA_ERR_CONFIG, "weight_block_size"},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[128]}", MLA_ERR_CONFIG, "weight_block_size"},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[128.0,128]}", MLA_ERR_CONFIG, "weight_block_size"},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":null}", MLA_ERR_WEIGHTS, "weight_scale_inv"},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":128}", MLA_ERR_CONFIG, "weight_block_size"},
        {"{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\",\"weight_block_size\":[128,128]}", MLA_ERR_UNSUPPORTED, "e5m2"},
        {"{\"quant_method\":\"fp8\",\"scale_fmt\":\"e5m3\",\"weight_block_size\":[128,128]}", MLA_ERR_UNSUPPORTED,
         "e5m3"},
        {"{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\",\"weight_block_size\":[128,128]}", MLA_OK, ""},
        {"{\"quant_method\":\"fp8\",\"activation_scheme\":\"none\",\"weight_block_size\":[128,128]}",
         MLA_ERR_UNSUPPORTED, "none"}};
    for (size_t i = 0; i < COUNT(quant); i++)
        try_config("deepseek_v3_fp8", "quantization_config", quant[i].dict, quant[i].want, quant[i].word);
    new_dir();
    link_file("deepseek_v3", "model.safetensors", "model.safetensors");
    try_config("deepseek_v3", "quantization_config", quantization, MLA_ERR_WEIGHTS,
               "quantization_config"); /* but nothing is fp8 */
}

/* ---- int4 -------------------------------------------------------------------------------------------------------- */

static double half_value(const unsigned char *p) { /* f16 */
    const int h = p[0] | p[1] << 8, e = h >> 10 & 31, m = h & 1023;
    const double v = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h >> 15 ? -v : v;
}

/* kimi_k2 with its experts packed as compressed-tensors does it: every weight must come out as it went in. */
static void test_int4(void) {
    enum { PER = 2048, EXPERT_TENSORS = 72 };
    static item items[600], edited[600];
    static unsigned char packed[EXPERT_TENSORS][PER / 2], scales[EXPERT_TENSORS][PER / 16];
    static int64_t shapes[EXPERT_TENSORS][2];
    static int32_t small_shapes[EXPERT_TENSORS][2];
    static const char good[] =
        "{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\",\"kv_cache_scheme\":null,"
        "\"config_groups\":{\"group_0\":{"
        "\"input_activations\":null,\"targets\":[\"Linear\"],\"weights\":{\"num_bits\":4,\"group_size\":"
        "32,\"strategy\":\"group\","
        "\"symmetric\":true,\"type\":\"int\",\"dynamic\":false}}},\"ignore\":[\"lm_head\"]}";
    static const char *const parts[] = {"weight_packed", "weight_scale", "weight_shape"};
    test_rng r = {4};
    st_file *f;
    mla_error e;
    checkpoint *c;
    SECTION("int4");
    if (!CHECK(st_open(&f, FIXTURES "kimi_k2/model.safetensors", &e) == MLA_OK, "%s", e.text)) return;
    const size_t n = load_items(items, COUNT(items), f);
    size_t m = 0, k = 0;
    for (size_t i = 0; i < n; i++) {
        if (!strstr(items[i].name, ".experts.")) {
            edited[m++] = items[i];
            continue;
        }
        const int64_t rows = items[i].dims[0], cols = items[i].dims[1];
        for (int j = 0; j < PER / 2; j++) packed[k][j] = (unsigned char)test_int(&r, 256);
        for (int j = 0; j < PER / 32; j++) { /* bf16: 2^-17 to 2^14, of both signs, and 0 */
            const int bits = j == 5 ? 0 : (test_int(&r, 2) << 15) | (110 + test_int(&r, 32)) << 7 | test_int(&r, 128);
            scales[k][2 * j] = (unsigned char)(bits & 255), scales[k][2 * j + 1] = (unsigned char)(bits >> 8);
        }
        shapes[k][0] = rows, shapes[k][1] = cols, small_shapes[k][0] = (int32_t)rows,
        small_shapes[k][1] = (int32_t)cols;
        for (int part = 0; part < 3; part++, m++) {
            edited[m] = items[i];
            snprintf(edited[m].name, sizeof edited[m].name, "%.*s%s", (int)(strlen(items[i].name) - 6), items[i].name,
                     parts[part]);
            strcpy(edited[m].dtype, part == 0 ? "I32" : part == 1 ? "BF16" : "I64");
            edited[m].dims[1] = part ? cols / 32 : cols / 8;
            edited[m].data = part == 0   ? (const void *)packed[k]
                             : part == 1 ? (const void *)scales[k]
                                         : (const void *)shapes[k];
            edited[m].bytes = part == 0 ? PER / 2 : part == 1 ? PER / 16 : 16;
            if (part == 2) edited[m].n_dims = 1, edited[m].dims[0] = 2;
        }
        k++;
    }
    CHECK(k == EXPERT_TENSORS, "%zu tensors", k);
    for (int wide = 0; wide < 2; wide++) {
        size_t wrong = 0, at = 0;
        new_dir();
        for (size_t i = 0; i < m; i++)
            if (strstr(edited[i].name, "weight_shape") && !wide)
                strcpy(edited[i].dtype, "I32"), edited[i].data = small_shapes[at++], edited[i].bytes = 8;
            else if (strstr(edited[i].name, "weight_shape"))
                strcpy(edited[i].dtype, "I64"), edited[i].data = shapes[at++], edited[i].bytes = 16;
        write_items(in_dir("model.safetensors"), edited, m);
        try_config("kimi_k2", "quantization_config", good, MLA_OK, "");
        if (!CHECK(checkpoint_open(&c, dir, &e) == MLA_OK, "int4: %s", e.text)) continue;
        at = 0;
        for (size_t i = 0; i < m; i++) {
            int layer, expert, end = 0;
            if (sscanf(edited[i].name, "model.layers.%d.mlp.experts.%d.%n", &layer, &expert, &end) < 2 ||
                !strstr(edited[i].name, "packed"))
                continue;
            const mla_mlp_weights *w = &c->weights.layers[layer].moe.experts[expert];
            const mla_tensor *t = edited[i].name[end] == 'g'   ? &w->gate.weight
                                  : edited[i].name[end] == 'u' ? &w->up.weight
                                                               : &w->down.weight;
            const unsigned char *b = (const unsigned char *)t->data;
            if (!CHECK(t->dtype == MLA_Q4 && t->rows == edited[i].dims[0] && t->cols == edited[i].dims[1] * 8,
                       "%s: %d x %d, dtype %d", edited[i].name, t->rows, t->cols, (int)t->dtype))
                continue;
            for (int x = 0; x < PER; x++) {
                const int g = x / 32, j = x % 32, bits = scales[at][2 * g] | scales[at][2 * g + 1] << 8,
                          ex = bits >> 7 & 255, ma = bits & 127;
                const double s = (ex ? ldexp(128 + ma, ex - 134) : 0) * (bits >> 15 ? -1 : 1);
                const int q = packed[at][x / 2] >> (x % 2 * 4) & 15, got = b[g * 18 + 2 + j % 16] >> (j / 16 * 4) & 15;
                wrong += !(s * (q - 8) == half_value(b + g * 18) * (got - 8));
            }
            at++;
        }
        CHECK(at == EXPERT_TENSORS && wrong == 0, "%zu tensors, %zu weights are not what was packed", at, wrong);
        CHECK(c->weights.layers[1].moe.shared.up.weight.dtype == MLA_BF16 &&
                  c->weights.layers[0].mlp.up.weight.dtype == MLA_BF16,
              "the rest is bf16");
        checkpoint_close(c);
    }
    for (size_t i = 0; i < 3;
         i++) { /* of one expert: each tensor missing, misshapen, of another dtype; the wrong shape */
        item *x = find_item(edited, m,
                            i == 0   ? "model.layers.1.mlp.experts.7.up_proj.weight_packed"
                            : i == 1 ? "model.layers.1.mlp.experts.7.up_proj.weight_scale"
                                     : "model.layers.1.mlp.experts.7.up_proj.weight_shape"),
             was = *x;
        *x = edited[m - 1];
        write_items(in_dir("model.safetensors"), edited, m - 1);
        check_open(MLA_ERR_WEIGHTS, i ? was.name : "model.layers.1.mlp.experts.7.up_proj.weight", "missing");
        *x = was;
        if (x->n_dims == 2) x->dims[0] *= 2, x->dims[1] /= 2;
        else x->n_dims = 2, x->dims[0] = 1, x->dims[1] = 2;
        write_items(in_dir("model.safetensors"), edited, m);
        check_open(MLA_ERR_WEIGHTS, was.name, "misshapen");
        *x = was;
        strcpy(x->dtype, i == 0 ? "F32" : i == 1 ? "I16" : "U8");
        if (i == 2) x->bytes = 2;
        write_items(in_dir("model.safetensors"), edited, m);
        check_open(MLA_ERR_WEIGHTS, was.name, "dtype");
        *x = was;
    }
    shapes[0][1]++;
    write_items(in_dir("model.safetensors"), edited, m);
    check_open(MLA_ERR_WEIGHTS, "weight_shape", "shape");
    shapes[0][1]--;
    static const unsigned large[] = {0x7f80, 0x7fc0, 0x4780, 0xff80}; /* infinity, NaN, 65536, -infinity */
    for (size_t i = 0; i < COUNT(large); i++) {
        const unsigned char was[2] = {scales[3][8], scales[3][9]};
        scales[3][8] = (unsigned char)(large[i] & 255), scales[3][9] = (unsigned char)(large[i] >> 8);
        write_items(in_dir("model.safetensors"), edited, m);
        check_open(MLA_ERR_WEIGHTS, "scale 4 is not finite", "scale");
        scales[3][8] = was[0], scales[3][9] = was[1];
    }
    for (unsigned bits = 0; bits < 110 << 7; bits += 37) { /* scales so small that they are rounded */
        unsigned char h[2];
        const unsigned v = ck__half(bits);
        h[0] = (unsigned char)(v & 255), h[1] = (unsigned char)(v >> 8);
        const double s = ldexp(128 + (bits & 127), (int)(bits >> 7) - 134);
        CHECK(fabs(half_value(h) - (bits >> 7 ? s : 0)) <= ldexp(1, -25), "bf16 %04x became %g", bits, half_value(h));
    }
    write_items(in_dir("model.safetensors"), edited, m);
    static const char *const changes[][3] = {
        /* what, instead, and the word in the message */
        {"\"num_bits\":4", "\"num_bits\":8", "num_bits"},
        {"\"group_size\":32", "\"group_size\":128", "weight_scale"},
        {"\"group_size\":32", "\"group_size\":0", "group_size"},
        {"\"symmetric\":true", "\"symmetric\":false", "found packed int4, but"},
        {"\"strategy\":\"group\"", "\"strategy\":\"channel\"", "weight_scale"},
        {"\"strategy\":\"group\"", "\"strategy\":\"tensor\"", "strategy"},
        {"\"strategy\":\"group\"", "\"strategy\":\"columns\"", "columns"},
        {"\"type\":\"int\"", "\"type\":\"float\"", "float"},
        {"pack-quantized", "int-quantized", "num_bits"},
        {"pack-quantized", "marlin-24", "marlin-24"},
        {"pack-quantized", "mxfp8-quantized", "MXFP8 is not read here"},
        {"\"input_activations\":null", "\"input_activations\":{\"num_bits\":8}", "input_activations"},
        {"\"weights\":{", "\"weight\":{", "config_groups"},
        {"\"config_groups\":{\"group_0\":", "\"config_groups\":{\"group_1\":{},\"group_0\":", "config_groups"}};
    for (size_t i = 0; i < COUNT(changes); i++) {
        char text[1000];
        const char *at = strstr(good, changes[i][0]), *word = changes[i][2];
        snprintf(text, sizeof text, "%.*s%s%s", (int)(at - good), good, changes[i][1], at + strlen(changes[i][0]));
        try_config("kimi_k2", "quantization_config", text,
                   !strcmp(word, "weight_scale") || strstr(word, "found")           ? MLA_ERR_WEIGHTS
                   : strstr("columns float marlin-24 MXFP8 is not read here", word) ? MLA_ERR_UNSUPPORTED
                                                                                    : MLA_ERR_CONFIG,
                   word);
    }
    try_config("kimi_k2", "quantization_config", "null", MLA_ERR_WEIGHTS, "gate_proj.weight");
    new_dir();
    link_file("kimi_k2", "model.safetensors", "model.safetensors");
    try_config("kimi_k2", "quantization_config", good, MLA_ERR_WEIGHTS, "packed int4"); /* but nothing is */
    st_close(f);
}

/* ---- shards ------------------------------------------------------------------------------------------------------ */

static void replace_once(char *text, size_t capacity, const char *from, const char *to) {
    char *at = strstr(text, from);
    if (!at || strlen(text) + strlen(to) >= capacity) printf("no %s in the index\n", from), exit(2);
    memmove(at + strlen(to), at + strlen(from), strlen(at + strlen(from)) + 1);
    memcpy(at, to, strlen(to));
}

static void shard_dir(void) {
    new_dir();
    link_file("deepseek_v2", "config.json", "config.json");
    for (int i = 1; i <= 5; i++) {
        char name[64];
        sprintf(name, "model-0000%d-of-00005.safetensors", i);
        link_file("deepseek_v2", name, name);
    }
}

static void test_shards(void) {
    SECTION("index: bad ones");
    static const char entry[] = "\"model.norm.weight\": \"model-00005-of-00005.safetensors\"";
    static const struct {
        const char *from, *to;
        mla_result want;
        const char *word;
    } edits[] = {
        {"", "", MLA_OK, ""},
        {entry, "\"model.norm.weight\": \"/etc/passwd\"", MLA_ERR_WEIGHTS, "/etc/passwd"},
        {entry, "\"model.norm.weight\": \"../model-00005-of-00005.safetensors\"", MLA_ERR_WEIGHTS, "model.norm.weight"},
        {entry, "\"model.norm.weight\": \"..\"", MLA_ERR_WEIGHTS, "model.norm.weight"},
        {entry, "\"model.norm.weight\": \"a\\\\b\"", MLA_ERR_WEIGHTS, "model.norm.weight"},
        {entry, "\"model.norm.weight\": \"\"", MLA_ERR_WEIGHTS, "model.norm.weight"},
        {entry, "\"model.norm.weight\": 5", MLA_ERR_WEIGHTS, "model.norm.weight"},
        {entry, "\"model.norm.weight\": \"model-00005-of-00005.safetensors\\u0000\"", MLA_ERR_WEIGHTS,
         "model.norm.weight"},
        {entry, "\"model.norm.weight\": null", MLA_ERR_WEIGHTS, "model.norm.weight"},
        {entry, "\"model.norm.weight\": \"model-00006-of-00005.safetensors\"", MLA_ERR_ARGUMENT,
         "model-00006-of-00005.safetensors"}, /* a shard missing */
        {entry, "\"model.norm.weight\": \"model-00001-of-00005.safetensors\"", MLA_ERR_WEIGHTS,
         "model.norm.weight"}, /* the wrong shard */
        {entry, "\"model.norm.weights\": \"model-00005-of-00005.safetensors\"", MLA_ERR_WEIGHTS,
         "model.norm.weights"}, /* in none */
        {entry,
         "\"model.norm.weight\": \"model-00005-of-00005.safetensors\",\"model.extra\": "
         "\"model-00005-of-00005.safetensors\"",
         MLA_ERR_WEIGHTS, "model.extra"},
        {entry, "\"model.norm.weight\": \"config.json\"", MLA_ERR_WEIGHTS, "config.json"},
        {entry,
         "\"model.norm.weight\": \"model-00005-of-00005.safetensors\",\"model.norm.weight\": "
         "\"model-00005-of-00005.safetensors\"",
         MLA_ERR_WEIGHTS, "model.norm.weight"},
        {"\"lm_head.weight\": \"model-00001-of-00005.safetensors\",", "", MLA_ERR_WEIGHTS,
         "lm_head.weight"}, /* in a shard, not in the index */
        {"\"weight_map\"", "\"weight_maps\"", MLA_ERR_WEIGHTS, "weight_map"},
        {"{", "[", MLA_ERR_WEIGHTS, "model.safetensors.index.json"}};
    shard_dir();
    for (size_t i = 0; i < COUNT(edits); i++) {
        char *text = read_text(FIXTURES "deepseek_v2/model.safetensors.index.json");
        if (*edits[i].from) replace_once(text, 1 << 16, edits[i].from, edits[i].to);
        write_file(in_dir("model.safetensors.index.json"), text, strlen(text));
        check_open(edits[i].want, edits[i].word, edits[i].to);
        free(text);
    }
    static const char *const maps[] = {"{\"weight_map\":{}}", "{\"weight_map\":[]}", "{\"weight_map\":null}", "{}",
                                       "[]"};
    for (size_t i = 0; i < COUNT(maps); i++) {
        write_file(in_dir("model.safetensors.index.json"), maps[i], strlen(maps[i]));
        check_open(MLA_ERR_WEIGHTS, "weight_map", maps[i]);
    }
    unlink(in_dir("model.safetensors.index.json"));
    check_open(MLA_ERR_ARGUMENT, "model.safetensors.index.json", "no weights at all");

    SECTION("index: bad shards");
    link_file("deepseek_v2", "model.safetensors.index.json", "model.safetensors.index.json");
    check_open(MLA_OK, "", "as it was");
    for (int i = 1; i <= 5; i++) {
        char name[64];
        sprintf(name, "model-0000%d-of-00005.safetensors", i);
        unlink(in_dir(name));
        check_open(MLA_ERR_ARGUMENT, name, "a shard missing");
        link_file("deepseek_v2", "model-00003-of-00005.safetensors", name);
        if (i != 3) check_open(MLA_ERR_WEIGHTS, "two shards", "a shard twice");
        unlink(in_dir(name));
        write_file(in_dir(name), "\2\0\0\0\0\0\0\0{}", 10);
        check_open(MLA_ERR_WEIGHTS, name, "an empty shard");
        unlink(in_dir(name));
        link_file("deepseek_v2", name, name);
    }
    /* one tensor in two shards, with equal content */
    static item items[200];
    st_file *f;
    mla_error e;
    if (CHECK(st_open(&f, FIXTURES "deepseek_v2/model-00005-of-00005.safetensors", &e) == MLA_OK, "%s", e.text)) {
        size_t n = load_items(items, COUNT(items) - 1, f);
        items[n] = items[0];
        strcpy(items[n].name, "lm_head.weight");
        unlink(in_dir("model-00005-of-00005.safetensors"));
        write_items(in_dir("model-00005-of-00005.safetensors"), items, n + 1);
        check_open(MLA_ERR_WEIGHTS, "lm_head.weight", "in two shards");
        st_close(f);
    }
    /* a whole model in one file wins over the index */
    new_dir();
    link_file("deepseek_v2_lite", "config.json", "config.json");
    link_file("deepseek_v2_lite", "model.safetensors", "model.safetensors");
    write_file(in_dir("model.safetensors.index.json"), "{", 1);
    check_open(MLA_OK, "", "one file and an index");
}

/* ---- allocation -------------------------------------------------------------------------------------------------- */

static void test_allocation(void) {
    SECTION("the k-th allocation fails, for every k");
    static const char *const names[] = {"deepseek_v2", "deepseek_v3_fp8", "../formats/mixed_int4"};
    for (int i = 0; i < 3; i++) {
        char path[128];
        snprintf(path, sizeof path, FIXTURES "%s", names[i]);
        mla_result rc = MLA_ERR_MEMORY;
        long k = 0;
        for (; rc && k < 1000; k++) {
            checkpoint *c;
            mla_error e;
            alloc_countdown = k;
            rc = checkpoint_open(&c, path, &e);
            alloc_countdown = -1;
            if (rc)
                CHECK(rc == MLA_ERR_MEMORY && !c && strstr(e.text, "memory"), "allocation %ld: %d %s", k, (int)rc,
                      e.text);
            checkpoint_close(c);
        }
        CHECK(rc == MLA_OK && k > 10, "%s: %ld allocations", names[i], k);
    }
}

int main(void) {
    const char *tmp = getenv("TMPDIR");
    snprintf(root, sizeof root, "%.40s/mla-XXXXXX", tmp && *tmp && strlen(tmp) <= 40 ? tmp : "/tmp");
    if (!mkdtemp(root)) return printf("cannot make %s\n", root), 2;
    snprintf(dir, sizeof dir, "%s/model", root);
    test_json();
    test_safetensors();
    test_fixtures();
    test_axk2();
    test_hy();
    test_ngram();
    test_families();
    test_keys();
    test_kda_keys();
    test_sandwich();
    test_config();
    test_tensors();
    test_int4();
    test_shards();
    test_allocation();
    clear_dir();
    CHECK(rmdir(root) == 0, "%s is not empty", root);
    return test_end();
}
