/* Grammars of schemas against a plain validator that parses a whole text; masks against a test of each token; random texts from
   random schemas, and what random choices among the allowed tokens come to. With --times TOKENIZER: how long masks
   take. */
#define _POSIX_C_SOURCE 199309L /* clock_gettime, also under -std=c99 */
#define MLA_IMPLEMENTATION
#include "../mla.h"
#define SAMPLER_IMPLEMENTATION
#include "sampler.h"
#define TOKENIZER_IMPLEMENTATION
#include "tokenizer.h"
#include "test.h"
#include <float.h>
#include <time.h>

/* Grammars allocate through these, so that the k-th allocation can fail. */
static long alloc_countdown = -1; /* -1: never; 0: the next one fails, and all after it */
static int alloc_fails(void) { return alloc_countdown >= 0 && alloc_countdown-- == 0 && ++alloc_countdown == 0; }
static void *test_malloc(size_t n) { return alloc_fails() ? NULL : malloc(n); }
static void *test_calloc(size_t n, size_t size) { return alloc_fails() ? NULL : calloc(n, size); }
static void *test_realloc(void *p, size_t n) { return alloc_fails() ? NULL : realloc(p, n); }
#define malloc  test_malloc
#define calloc  test_calloc
#define realloc test_realloc
#define GRAMMAR_IMPLEMENTATION
#define JSON_SCHEMA_IMPLEMENTATION
#include "json_schema.h"
#undef malloc
#undef calloc
#undef realloc

static void *need(void *p) {
    if (!p) printf("out of memory\n"), exit(2);
    return p;
}

static json_value *parsed(const char *text) {
    json_value *v = NULL;
    mla_error e;
    if (json_parse(text, strlen(text), &v, &e)) printf("%s: %s\n", text, e.text), exit(2);
    return v;
}

static grammar *made(const char *schema) { /* NULL, with a failure counted: it is refused */
    grammar *g;
    mla_error e;
    json_value *v = parsed(schema);
    const mla_result rc = json_schema_grammar(&g, v, &e);
    CHECK(rc == MLA_OK, "%.300s: %s", schema, rc ? e.text : "");
    json_free(v);
    return g;
}

/* ---- the plain validator: a text becomes a tree, and that is compared with the schema ---------------------------- */

typedef struct tree {
    json_type type;
    const char *begin, *end; /* as written */
    char *text;              /* of a string (also the key): decoded */
    size_t n;
    struct tree *items; /* of a member: key and value in turns */
    size_t n_items;
} tree;

typedef struct reader {
    const char *at, *end;
    int plain_keys; /* no key is escaped but as it must be */
} reader;

static int read_tree(reader *r, tree *t, int depth);

static int is(reader *r, char c) { return r->at < r->end && *r->at == c; }
static int digits(reader *r, int most) {
    const char *from = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') r->at++;
    return r->at > from && r->at - from <= most;
}

static void white(reader *r, int depth) {
    int blanks = 0;
    if (is(r, ' ')) r->at++;
    else if (is(r, '\n'))
        for (r->at++; blanks < 4 * depth && (is(r, ' ') || is(r, '\t')); blanks++) r->at++;
}

static long hex4(reader *r) { /* -1: not four digits */
    char copy[5] = "", *end;
    if (r->end - r->at < 4) return -1;
    memcpy(copy, r->at, 4);
    for (int i = 0; i < 4; i++)
        if (!strchr("0123456789abcdefABCDEF", copy[i])) return -1;
    r->at += 4;
    return strtol(copy, &end, 16);
}

static size_t put_character(char *out, unsigned long c) {
    if (c < 0x80) return out[0] = (char)c, 1;
    if (c < 0x800) return out[0] = (char)(0xC0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000)
        return out[0] = (char)(0xE0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63)), out[2] = (char)(0x80 | (c & 63)),
               3;
    out[0] = (char)(0xF0 | c >> 18), out[1] = (char)(0x80 | (c >> 12 & 63));
    return out[2] = (char)(0x80 | (c >> 6 & 63)), out[3] = (char)(0x80 | (c & 63)), 4;
}

static int read_utf8(reader *r, unsigned long *c) {
    const unsigned char *s = (const unsigned char *)r->at;
    const int n = *s < 0x80 ? 1 : *s < 0xC2 ? 0 : *s < 0xE0 ? 2 : *s < 0xF0 ? 3 : *s < 0xF5 ? 4 : 0;
    if (!n || r->end - r->at < n) return 0;
    *c = n == 1 ? *s : *s & (0x7Fu >> n);
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) return 0;
        *c = *c << 6 | (s[i] & 63u);
    }
    r->at += n;
    return *c >= 0x20 && !(n == 3 && (*c < 0x800 || (*c >= 0xD800 && *c < 0xE000))) &&
           !(n == 4 && (*c < 0x10000 || *c > 0x10FFFF));
}

static int read_string(reader *r, tree *t, int key) {
    static const char from[] = "bfnrt\"\\/", to[] = "\b\f\n\r\t\"\\/";
    t->type = JSON_STRING, t->begin = r->at++;
    t->text = (char *)need(malloc((size_t)(r->end - r->at) + 8));
    for (unsigned long c; !is(r, '"');) {
        if (r->at == r->end) return 0;
        if (!is(r, '\\')) {
            if (!read_utf8(r, &c)) return 0;
        } else {
            if (++r->at == r->end) return 0;
            const char e = *r->at++, *known = e ? strchr(from, e) : NULL;
            if (known) {
                c = (unsigned char)to[known - from];
                if (e == '/' && key) r->plain_keys = 0;
            } else if (e == 'u') {
                const char *hex = r->at;
                long high = hex4(r), low;
                if (high < 0 || (high >= 0xDC00 && high < 0xE000)) return 0;
                c = (unsigned long)high;
                if (high >= 0xD800 && high < 0xE000) {
                    if (r->end - r->at < 6 || r->at[0] != '\\' || r->at[1] != 'u') return 0;
                    r->at += 2;
                    low = hex4(r);
                    if (low < 0xDC00 || low > 0xDFFF) return 0;
                    c = 0x10000 + ((unsigned long)(high - 0xD800) << 10) + (unsigned long)(low - 0xDC00);
                }
                if (key && (c >= 0x20 || strchr("\b\f\n\r\t", (int)c ? (int)c : 'x') || hex[3] < '0' ||
                            (hex[3] >= 'A' && hex[3] <= 'F')))
                    r->plain_keys = 0;
            } else return 0;
        }
        t->n += put_character(t->text + t->n, c);
    }
    r->at++;
    return 1;
}

static int read_list(reader *r, tree *t, int depth) {
    const char close = is(r, '{') ? '}' : ']';
    t->type = close == '}' ? JSON_OBJECT : JSON_ARRAY;
    if (depth > GRAMMAR_DEPTH) return 0;
    r->at++, white(r, depth);
    for (; !is(r, close); t->n_items++) {
        t->items = (tree *)need(realloc(t->items, (t->n_items + 2) * sizeof *t->items));
        memset(t->items + t->n_items, 0, 2 * sizeof *t->items);
        if (close == '}') {
            if (!is(r, '"') || !read_string(r, &t->items[t->n_items++], 1) || !is(r, ':')) return t->n_items++, 0;
            r->at++, white(r, depth);
        }
        if (!read_tree(r, &t->items[t->n_items], depth)) return t->n_items++, 0;
        if (is(r, ',')) {
            r->at++, white(r, depth);
            if (is(r, close)) return t->n_items++, 0;
        } else {
            white(r, depth);
            if (!is(r, close)) return t->n_items++, 0;
        }
    }
    r->at++;
    return 1;
}

static int read_tree(reader *r, tree *t, int depth) {
    static const char *const words[] = {"null", "true", "false"};
    int ok = 0;
    t->begin = r->at;
    for (int i = 0; i < 3; i++)
        if (!ok && (size_t)(r->end - r->at) >= strlen(words[i]) && !memcmp(r->at, words[i], strlen(words[i])))
            r->at += strlen(words[i]), t->type = i ? JSON_BOOL : JSON_NULL, ok = 1;
    if (ok) return t->end = r->at, 1;
    if (is(r, '{') || is(r, '[')) ok = read_list(r, t, depth + 1);
    else if (is(r, '"')) ok = read_string(r, t, 0);
    else {
        t->type = JSON_NUMBER;
        if (is(r, '-')) r->at++;
        ok = is(r, '0') ? (r->at++, 1) : digits(r, 18);
        if (ok && is(r, '.')) r->at++, ok = digits(r, 18);
        if (ok && (is(r, 'e') || is(r, 'E'))) {
            r->at++;
            if (is(r, '+') || is(r, '-')) r->at++;
            ok = digits(r, 2);
        }
    }
    t->end = r->at;
    return ok;
}

static void drop_tree(tree *t) {
    for (size_t i = 0; i < t->n_items; i++) drop_tree(&t->items[i]);
    free(t->items), free(t->text);
}

static const json_value *root_schema;

static const json_value *member(const json_value *schema, const char *key) { return json_get(schema, key); }

static size_t characters(const tree *t) {
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++) n += ((unsigned char)t->text[i] & 0xC0) != 0x80;
    return n;
}

static int same_value(const tree *t, const json_value *v) { /* a constant, as it is written */
    size_t n;
    if (t->type != json_typeof(v)) return 0;
    if (t->type == JSON_NULL) return 1;
    if (t->type == JSON_BOOL) return json_bool(v) == (*t->begin == 't');
    if (t->type == JSON_NUMBER) return strtod(t->begin, NULL) == json_number(v);
    if (t->type == JSON_STRING) {
        const char *s = json_string(v, &n);
        return n == t->n && !memcmp(s, t->text, n);
    }
    const size_t step = t->type == JSON_OBJECT ? 2 : 1;
    if (t->n_items != step * json_count(v)) return 0;
    for (size_t i = 0; i < json_count(v); i++) {
        const json_value *item = json_at(v, i);
        const tree *got = &t->items[step * json_place(item)];
        if (step == 2 && (got->n != strlen(json_key(item)) || memcmp(got->text, json_key(item), got->n))) return 0;
        if (!same_value(got + step - 1, item)) return 0;
    }
    return 1;
}

/* Constants are written in one way: no space, no escape that need not be, 15 to 17 digits. */
static int written_plainly(const tree *t) {
    const char *s = t->begin;
    char number[40];
    if (t->type == JSON_NUMBER) {
        const double x = strtod(s, NULL);
        const size_t n = (size_t)(t->end - s);
        for (int d = 15; d < 18; d++) {
            snprintf(number, sizeof number, "%.*g", d, x == 0 ? 0.0 : x);
            if (strtod(number, NULL) == x) break;
        }
        if (x == floor(x) && fabs(x) < 9e15) snprintf(number, sizeof number, "%.0f", x == 0 ? 0.0 : x);
        return strlen(number) == n && !memcmp(number, s, n);
    }
    int quoted = 0;
    for (; s < t->end; s++) {
        if (!quoted && (*s == ' ' || *s == '\n' || *s == '\t')) return 0;
        if (*s == '"') quoted = !quoted;
        if (*s == '\\' && *++s == '/') return 0;
        if (quoted && *s == 'u' && s[-1] == '\\' && (s[1] != '0' || s[2] != '0' || (s[3] != '0' && s[3] != '1')))
            return 0;
    }
    return 1;
}

static int number_fits(const json_value *schema, const tree *t, int integer) {
    static const char *const bounds[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};
    const double x = strtod(t->begin, NULL);
    const char *s = t->begin, *point = NULL, *e = NULL;
    size_t before = 0, behind = 0;
    int bounded = integer;
    for (; s < t->end; s++) {
        if (*s == '.') point = s;
        else if (*s == 'e' || *s == 'E') e = s;
        else if (*s >= '0' && *s <= '9') ++*(point ? &behind : &before);
    }
    for (int i = 0; i < 4; i++) {
        const json_value *b = member(schema, bounds[i]);
        const double y = json_number(b);
        if (!b) continue;
        bounded = 1;
        if (i == 0 ? x < y : i == 1 ? x > y : i == 2 ? x <= y : x >= y) return 0;
    }
    if (integer && (point || e)) return 0;
    if (bounded && (e || behind > 6 || (*t->begin == '-' && x == 0))) return 0;
    return !bounded || integer || before <= 12;
}

static int fits(const json_value *schema, const tree *t);

static int object_fits(const json_value *schema, const tree *t) {
    const json_value *properties = member(schema, "properties"), *required = member(schema, "required"),
                     *other = member(schema, "additionalProperties");
    size_t last = 0, n_required = 0;
    for (size_t i = 0; i < t->n_items; i += 2) {
        const tree *key = &t->items[i];
        const json_value *known = NULL;
        size_t place = SIZE_MAX;
        for (size_t k = 0; k < json_count(properties); k++) {
            const char *name = json_key(json_at(properties, k));
            if (strlen(name) == key->n && !memcmp(name, key->text, key->n))
                known = json_at(properties, k), place = json_place(known);
        }
        for (size_t k = 0; k < json_count(required); k++) {
            size_t n;
            const char *name = json_string(json_at(required, k), &n);
            if (n != key->n || memcmp(name, key->text, n)) continue;
            n_required++;
            if (!known) place = json_count(properties) + k;
        }
        if (place < last) return 0;
        last = place == SIZE_MAX ? place : place + 1;
        if (known ? !fits(known, key + 1) : other ? !fits(other, key + 1) : properties && place == SIZE_MAX) return 0;
    }
    return n_required == json_count(required);
}

static int list_has(const json_value *list, const char *name) { /* type: a name or a list */
    if (json_typeof(list) == JSON_STRING) return !strcmp(json_string(list, NULL), name);
    for (size_t i = 0; i < json_count(list); i++)
        if (!strcmp(json_string(json_at(list, i), NULL), name)) return 1;
    return 0;
}

static int type_fits(const json_value *schema, const tree *t, int *integer) {
    static const char *const names[] = {"null", "boolean", "number", "string", "array", "object"};
    const json_value *type = member(schema, "type");
    *integer = 0;
    if (type) {
        if (list_has(type, names[t->type])) return 1;
        *integer = t->type == JSON_NUMBER && list_has(type, "integer");
        return *integer;
    }
    const int object =
        member(schema, "properties") || member(schema, "required") || member(schema, "additionalProperties");
    const int array = member(schema, "items") || member(schema, "minItems") || member(schema, "maxItems");
    const int string = member(schema, "minLength") || member(schema, "maxLength");
    const int number = member(schema, "minimum") || member(schema, "maximum") || member(schema, "exclusiveMinimum") ||
                       member(schema, "exclusiveMaximum");
    if (!object && !array && !string && !number) return 1;
    return t->type == JSON_OBJECT   ? object
           : t->type == JSON_ARRAY  ? array
           : t->type == JSON_STRING ? string
                                    : t->type == JSON_NUMBER && number;
}

static int limit_fits(const json_value *schema, const char *least, const char *most, size_t n) {
    const json_value *a = member(schema, least), *b = member(schema, most);
    return (!a || (double)n >= json_number(a)) && (!b || (double)n <= json_number(b));
}

static int fits(const json_value *schema, const tree *t) {
    const json_value *ref = member(schema, "$ref"), *any = member(schema, "anyOf"), *all = member(schema, "allOf");
    const json_value *constant = member(schema, "const"), *values = member(schema, "enum");
    int integer, found = 0;
    if (json_typeof(schema) == JSON_BOOL) return json_bool(schema);
    if (ref) {
        const char *where = json_string(ref, NULL);
        const char *name = strrchr(where, '/');
        return fits(name ? json_get(json_get(root_schema, "$defs"), name + 1) : root_schema, t);
    }
    if (!any) any = member(schema, "oneOf");
    for (size_t i = 0; i < json_count(any); i++) found |= fits(json_at(any, i), t);
    if (any) return found;
    if (all) return fits(json_at(all, 0), t);
    if (constant) return same_value(t, constant) && written_plainly(t);
    for (size_t i = 0; i < json_count(values); i++) found |= same_value(t, json_at(values, i));
    if (values && !(found && written_plainly(t))) return 0;
    if (values) return !member(schema, "type") || type_fits(schema, t, &integer);
    if (!type_fits(schema, t, &integer)) return 0;
    if (t->type == JSON_NUMBER) return number_fits(schema, t, integer);
    if (t->type == JSON_STRING) return limit_fits(schema, "minLength", "maxLength", characters(t));
    if (t->type == JSON_OBJECT) return object_fits(schema, t);
    if (t->type != JSON_ARRAY) return 1;
    for (size_t i = 0; i < t->n_items && member(schema, "items"); i++)
        if (!fits(member(schema, "items"), &t->items[i])) return 0;
    return limit_fits(schema, "minItems", "maxItems", t->n_items);
}

static int valid(const json_value *schema, const char *text, size_t n) {
    reader r;
    tree t;
    char *copy = (char *)need(malloc(n + 1)); /* strtod reads to a NUL */
    memcpy(copy, text, n), copy[n] = 0;
    r.at = copy, r.end = copy + n, r.plain_keys = 1;
    memset(&t, 0, sizeof t);
    root_schema = schema;
    const int ok = read_tree(&r, &t, 0) && r.at == r.end && r.plain_keys && fits(schema, &t);
    drop_tree(&t), free(copy);
    return ok;
}

/* Does the grammar take it, whole and byte by byte? -1: the two differ. */
static int accepted(const grammar *g, const char *text, size_t n) {
    grammar_state whole, bytes;
    grammar_begin(&whole, g), grammar_begin(&bytes, g);
    size_t at = 0;
    const int ok = grammar_accept(&whole, text, n);
    while (at < n && grammar_accept(&bytes, text + at, 1)) at++;
    if (ok != (at == n) || (ok && grammar_complete(&whole) != grammar_complete(&bytes))) return -1;
    return ok && grammar_complete(&whole) > 0;
}

/* ---- random schemas, and texts by them --------------------------------------------------------------------------- */

typedef struct writer {
    test_rng r;
    size_t n;
    char text[1 << 16];
} writer;

#if defined __GNUC__
__attribute__((format(printf, 2, 3)))
#endif
static void
put(writer *w, const char *format, ...) {
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(w->text + w->n, sizeof w->text - w->n, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof w->text - w->n) printf("a text is too long\n"), exit(2);
    w->n += (size_t)n;
}

static int some(writer *w, int n) { return test_int(&w->r, n); }

static void put_schema(writer *w, int depth, int loose);

static void put_scalar_schema(writer *w) {
    static const char *const constants[] = {
        "\"a\"", "\"ab\"", "\"\\u00e9\\n\\/\"",           "1",  "12", "-0.5", "1e30", "null",
        "true",  "\"\"",   "[1,{\"b\":2,\"a\":\"x y\"}]", "{}", "0.1"};
    const int a = some(w, 40) - 20, b = a + some(w, 4) * some(w, 300);
    switch (some(w, 6)) {
    case 0: put(w, "%s", some(w, 2) ? "true" : "{\"title\":\"anything\"}"); break;
    case 1:
        put(w, "{\"type\":\"string\"");
        if (some(w, 2)) put(w, ",\"minLength\":%d", some(w, 3));
        if (some(w, 2)) put(w, ",\"maxLength\":%d", 2 + some(w, 4));
        put(w, "}");
        break;
    case 2:
        put(w, "{\"type\":\"integer\"");
        if (some(w, 2)) put(w, some(w, 2) ? ",\"minimum\":%d" : ",\"exclusiveMinimum\":%d.5", a);
        if (some(w, 2)) put(w, ",\"maximum\":%d", b + 30);
        put(w, "}");
        break;
    case 3:
        put(w, "{\"type\":\"number\"");
        if (some(w, 2)) put(w, some(w, 2) ? ",\"minimum\":%d.25" : ",\"exclusiveMinimum\":%d", a);
        if (some(w, 2)) put(w, some(w, 2) ? ",\"maximum\":%d.5" : ",\"exclusiveMaximum\":%d", b + 30);
        put(w, "}");
        break;
    case 4:
        put(w, some(w, 2) ? "{\"type\":[\"boolean\",\"null\"]}" : "{\"type\":[\"string\",\"integer\",\"object\"]}");
        break;
    default:
        if (some(w, 3) == 0) put(w, "{\"const\":%s}", constants[some(w, 13)]);
        else {
            put(w, "{\"enum\":[");
            for (int i = 0, n = 1 + some(w, 4); i < n; i++) put(w, "%s%s", i ? "," : "", constants[some(w, 13)]);
            put(w, "]}");
        }
    }
}

static void put_object_schema(writer *w, int depth) {
    static const char *const names[] = {"p", "pq", "p\\\"", "\\u00e9", "longer name", "z\\n"};
    const int n = some(w, 5), begin = some(w, 6);
    put(w, "{\"type\":\"object\"");
    char required[200] = "";
    if (n || some(w, 2)) put(w, ",\"properties\":{");
    else {
        put(w, ",\"additionalProperties\":");
        put_schema(w, depth - 1, 1);
        put(w, "}");
        return;
    }
    for (int i = 0; i < n; i++) {
        const char *name = names[(begin + i) % 6];
        const int must = some(w, 3) == 0;
        put(w, "%s\"%s\":", i ? "," : "", name);
        put_schema(w, depth - 1, !must);
        if (must) strcat(strcat(strcat(strcat(required, *required ? "," : ""), "\""), name), "\"");
    }
    if (some(w, 4) == 0) strcat(strcat(required, *required ? "," : ""), "\"extra\"");
    put(w, "}");
    if (*required) put(w, ",\"required\":[%s]", required);
    if (some(w, 3) == 0) {
        put(w, ",\"additionalProperties\":");
        put_schema(w, depth - 1, 1);
    }
    put(w, "}");
}

/* loose: what has this schema can be left out, so that it may refer to what it stands in. */
static void put_schema(writer *w, int depth, int loose) {
    const int kind = depth <= 0 ? 9 : some(w, 10);
    if (kind < 3) put_object_schema(w, depth);
    else if (kind < 5) {
        const int least = some(w, 3) == 0;
        put(w, "{\"type\":\"array\",\"items\":");
        put_schema(w, depth - 1, !least);
        if (least) put(w, ",\"minItems\":%d", 1 + some(w, 2));
        if (some(w, 3) == 0) put(w, ",\"maxItems\":%d", 2 + some(w, 2));
        put(w, "}");
    } else if (kind == 5) {
        put(w, "{\"anyOf\":[");
        put_schema(w, depth - 1, 0), put(w, ",");
        put_schema(w, depth - 1, 0), put(w, ",");
        put_scalar_schema(w);
        put(w, "]}");
    } else if (kind == 6 && loose) put(w, some(w, 3) ? "{\"$ref\":\"#/$defs/d%d\"}" : "{\"$ref\":\"#\"}", some(w, 2));
    else if (kind == 7) {
        put(w, "{\"description\":\"x\",\"allOf\":[");
        put_schema(w, depth - 1, loose);
        put(w, "]}");
    } else put_scalar_schema(w);
}

static void put_root_schema(writer *w) {
    w->n = 0;
    put(w, "{\"$defs\":{\"d0\":");
    put_schema(w, 2, 0);
    put(w, ",\"d1\":");
    put_schema(w, 1, 0);
    put(w, "},");
    if (some(w, 3)) {
        put(w, "\"type\":\"array\",\"items\":");
        put_schema(w, 3, 1);
    } else {
        put(w, "\"anyOf\":[");
        put_schema(w, 3, 0), put(w, ",");
        put_schema(w, 1, 0);
        put(w, "]");
    }
    put(w, "}");
}

static void put_white(writer *w, int depth) {
    if (some(w, 4) == 0) put(w, " ");
    else if (some(w, 6) == 0) put(w, "\n%*s", some(w, 4 * depth + 1), "");
}

static void put_text(writer *w, const json_value *schema) {
    static const char *const pieces[] = {"a",    "b c",          "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
                                         "\\n",  "\\\"",         "\\/",      "\\u00E9",      "\\ud83d\\uDE00",
                                         "\x7f", "\xed\x9f\xbf", "\\ud7ff"};
    static const int length[] = {1, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const json_value *most = member(schema, "maxLength");
    const int least = (int)json_number(member(schema, "minLength"));
    int n = 0, end = least + some(w, 4);
    if (most && end > (int)json_number(most)) end = (int)json_number(most);
    put(w, "\"");
    while (n < end) {
        const int i = some(w, 13);
        if (n + length[i] > end) continue;
        put(w, "%s", pieces[i]), n += length[i];
    }
    put(w, "\"");
}

static void put_number(writer *w, const json_value *schema, int integer) {
    const json_value *a = member(schema, "minimum"), *b = member(schema, "maximum"),
                     *c = member(schema, "exclusiveMinimum"), *d = member(schema, "exclusiveMaximum");
    static const char *const free_numbers[] = {
        "0", "-0", "-0.0", "1.5", "1e5", "1E-07", "-12.25e+30", "123456789012345678", "0.000000000000000001"};
    if (!integer && !a && !b && !c && !d) {
        put(w, "%s", free_numbers[some(w, 9)]);
        return;
    }
    const double low = a   ? json_number(a)
                       : c ? json_number(c)
                           : -1000,
                 high = b   ? json_number(b)
                        : d ? json_number(d)
                            : 1000;
    for (;;) {
        char text[60];
        double x = low + (high - low) * (double)test_uniform(&w->r);
        if (integer) x = floor(x);
        else x = floor(x * 100) / 100;
        if (some(w, 5) == 0) x = some(w, 2) ? low : high;
        snprintf(text, sizeof text, integer ? "%.0f" : some(w, 2) ? "%.2f" : "%.6f", x);
        x = strtod(text, NULL);
        if (x < low || x > high || (c && x <= low) || (d && x >= high) || (*text == '-' && x == 0)) continue;
        put(w, "%s", text);
        return;
    }
}

static void put_constant(writer *w, const json_value *v) {
    static const struct {
        const char *text;
        double x;
    } numbers[] = {{"1", 1}, {"12", 12}, {"-0.5", -0.5}, {"1e+30", 1e30}, {"0.1", 0.1}, {"2", 2}};
    const json_type type = json_typeof(v);
    if (type == JSON_NULL || type == JSON_BOOL)
        put(w, "%s", type == JSON_NULL ? "null" : json_bool(v) ? "true" : "false");
    for (int i = 0; i < 6; i++)
        if (type == JSON_NUMBER && numbers[i].x == json_number(v)) put(w, "%s", numbers[i].text);
    if (type == JSON_STRING) {
        put(w, "\"");
        for (const char *c = json_string(v, NULL); *c; c++) put(w, *c == '\n' ? "\\n" : "%c", *c);
        put(w, "\"");
    }
    if (type == JSON_ARRAY) put(w, "[1,{\"b\":2,\"a\":\"x y\"}]"); /* the only one there is */
    if (type == JSON_OBJECT) put(w, "{}");
}

static void put_value(writer *w, const json_value *schema, int depth);

static void put_any(writer *w, int depth) {
    static const char *const values[] = {
        "null", "true", "false", "-12", "3.25e2", "\"x\\u0041\"", "{}", "[]", "[ ]", "{ }", "[1, [2],\n{\"\": 3}]"};
    put(w, "%s", values[some(w, depth < 60 ? 11 : 6)]);
}

static void put_object(writer *w, const json_value *schema, int depth) {
    static const char *const others[] = {
        "\"zz\"", "\"pp\"", "\"\"", "\"\\\"\"", "\"\xc3\xaa\"", "\"z\\\\\"", "\"z\\u0001\\u001f\""};
    const json_value *properties = member(schema, "properties"), *required = member(schema, "required"),
                     *other = member(schema, "additionalProperties");
    int n = 0;
    put(w, "{"), put_white(w, depth);
    for (size_t i = 0; i < json_count(properties); i++)
        for (size_t k = 0; k < json_count(properties); k++) {
            const json_value *m = json_at(properties, k);
            if (json_place(m) != i) continue;
            if (!list_has(required, json_key(m)) && (depth > 12 || some(w, 2))) continue;
            if (n++) put(w, ","), put_white(w, depth);
            put(w, "\"");
            for (const char *c = json_key(m); *c; c++) put(w, *c == '"' ? "\\\"" : *c == '\n' ? "\\n" : "%c", *c);
            put(w, "\":"), put_white(w, depth);
            put_value(w, m, depth);
        }
    if (list_has(required, "extra")) {
        put(w, n++ ? ",\"extra\":" : "\"extra\":");
        if (other) put_value(w, other, depth);
        else put_any(w, depth);
    }
    while ((other || !properties) && depth < 12 && some(w, 2)) {
        if (n++) put(w, ","), put_white(w, depth);
        put(w, "%s:", others[some(w, 7)]), put_white(w, depth);
        if (other) put_value(w, other, depth);
        else put_any(w, depth);
    }
    if (n) put_white(w, depth);
    put(w, "}");
}

static void put_array(writer *w, const json_value *schema, int depth) {
    const json_value *items = member(schema, "items"), *most = member(schema, "maxItems");
    int n = (int)json_number(member(schema, "minItems"));
    if (depth < 12) n += some(w, 3);
    if (most && n > (int)json_number(most)) n = (int)json_number(most);
    put(w, "["), put_white(w, depth);
    for (int i = 0; i < n; i++) {
        if (i) put(w, ","), put_white(w, depth);
        if (items) put_value(w, items, depth);
        else put_any(w, depth);
    }
    if (n) put_white(w, depth);
    put(w, "]");
}

static void put_value(writer *w, const json_value *schema, int depth) {
    static const char *const names[] = {"null", "boolean", "number", "integer", "string", "array", "object"};
    const json_value *any = member(schema, "anyOf"), *all = member(schema, "allOf"), *ref = member(schema, "$ref"),
                     *type = member(schema, "type"), *values = member(schema, "enum");
    int kind;
    if (any)
        put_value(w, json_at(any, depth > 12 ? json_count(any) - 1 : (size_t)some(w, (int)json_count(any))), depth);
    else if (all) put_value(w, json_at(all, 0), depth);
    else if (ref) {
        const char *name = strrchr(json_string(ref, NULL), '/');
        put_value(w, name ? json_get(json_get(root_schema, "$defs"), name + 1) : root_schema, depth);
    } else if (member(schema, "const")) put_constant(w, member(schema, "const"));
    else if (values) put_constant(w, json_at(values, (size_t)some(w, (int)json_count(values))));
    else if (!type) put_any(w, depth);
    else {
        do kind = some(w, 7);
        while (!list_has(type, names[kind]));
        if (kind == 0) put(w, "null");
        else if (kind == 1) put(w, some(w, 2) ? "true" : "false");
        else if (kind < 4) put_number(w, schema, kind == 3);
        else if (kind == 4) put_text(w, schema);
        else if (kind == 5) put_array(w, schema, depth + 1);
        else put_object(w, schema, depth + 1);
    }
}

/* One to three bytes of text [n] go, come, change or repeat; its new length. */
static size_t mutate(writer *w, char *text, size_t n) {
    static const char bytes[] = "\"\"\\{}[]:,,0123456789-+.eE nultrfa \t\n\x7f\x01\xc3\xa9\xed\xa0\xf0\xff";
    for (int k = 1 + some(w, 3); k > 0; k--) {
        const size_t at = (size_t)some(w, (int)n + 1), rest = n - at;
        const char byte = bytes[some(w, (int)sizeof bytes - 1)];
        const int how = some(w, 4);
        if (how == 0 && rest) memmove(text + at, text + at + 1, rest - 1), n--;
        else if (how == 1 && rest) text[at] = byte;
        else if (how == 2) memmove(text + at + 1, text + at, rest), text[at] = byte, n++;
        else if (rest) { /* a piece of it once more */
            const size_t length = (size_t)some(w, rest < 6 ? (int)rest + 1 : 6);
            memmove(text + at + length, text + at, rest), n += length;
        }
    }
    return n;
}

static void test_random(void) {
    static writer schema, text;
    const int schemas = test_all() ? 4000 : 600;
    int n_valid = 0, n_mutants = 0;
    SECTION("random schemas: what is written by them, and that with errors");
    schema.r.state = 1, text.r.state = 2;
    for (int i = 0; i < schemas; i++) {
        put_root_schema(&schema);
        grammar *g = made(schema.text);
        json_value *v = parsed(schema.text);
        for (int k = 0; k < 6 && g; k++) {
            char copy[1 << 16];
            text.n = 0, root_schema = v;
            put_value(&text, v, 0);
            const int fine = valid(v, text.text, text.n), got = accepted(g, text.text, text.n);
            CHECK(fine && got == 1, "%s\n%.*s: valid %d, accepted %d", schema.text, (int)text.n, text.text, fine, got);
            for (int m = 0; m < 12 && text.n < sizeof copy - 64; m++) {
                memcpy(copy, text.text, text.n);
                const size_t n = mutate(&text, copy, text.n);
                const int is_valid = valid(v, copy, n), was = accepted(g, copy, n);
                CHECK(was == is_valid, "%s\n%.*s: valid %d, accepted %d", schema.text, (int)n, copy, is_valid, was);
                n_valid += is_valid, n_mutants++;
            }
        }
        grammar_destroy(g), json_free(v);
    }
    CHECK(n_valid > n_mutants / 50 && n_valid < n_mutants / 2, "%d of %d with errors are valid", n_valid, n_mutants);
}

/* ---- by hand ----------------------------------------------------------------------------------------------------- */

/* Texts, parted by ~, that are accepted, and others that are not. */
static const struct {
    const char *schema, *good, *bad;
} features[] = {
    {"{\"type\":\"string\"}", "\"\"~\"a\\u00e9\"~\"\\ud83d\\ude00\"",
     "~1~null~ \"a\"~\"a\" "
     "~\"a~\"\n\"~\"\\ud83d\"~\"\\ude00\"~\"\\ud83dx\"~\"\\x\"~\"\xc0\x80\"~\"\xed\xa0\x80\"~\"\xf4\x90\x80\x80\"~"
     "\"\xff\"~'a'"},
    {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
     "\"ab\"~\"abc\"~\"\xf0\x9f\x98\x80\xc3\xa9\"~\"\\ud83d\\ude00\\n\\u0041\"",
     "\"\"~\"a\"~\"abcd\"~\"\\n\"~\"\\ud83d\\ude00\""},
    {"{\"type\":\"integer\"}", "0~-1~12~999999999999999999", "-0~01~1.0~1e2~-~1000000000000000000~+1"},
    {"{\"type\":\"integer\",\"minimum\":-12,\"exclusiveMaximum\":105}", "-12~-1~0~9~99~100~104",
     "-13~-20~105~1000~11a"},
    {"{\"type\":\"integer\",\"minimum\":1234,\"maximum\":1240}", "1234~1239~1240", "1~12~123~1233~1241~12340~2~-1234"},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":-5.5,\"maximum\":-2.5}", "-5~-3", "-6~-2~0~5"},
    {"{\"type\":\"number\"}", "0~-0~1.5~-0.25~1e5~1E+05~12.5e-30", "1.~.5~1e~1e+~0x1~NaN~Infinity~1e100~--1~01.5"},
    {"{\"type\":\"number\",\"minimum\":-0.5,\"exclusiveMaximum\":2}", "-0.5~-0.499999~0~0.0~1.999999~1",
     "-0.500001~2~2.0~-0.6~-1~1e0~-0.0~1.9999999"},
    {"{\"type\":\"number\",\"minimum\":0.1,\"maximum\":1e300}", "0.1~0.100000~999999999999~7.5",
     "0~0.0~0.05~0.099999~-1~1000000000000"},
    {"{\"type\":\"number\",\"maximum\":100000000000000}", "100000000000000~99999999999999.999",
     "100000000000001~1.00001"},
    {"{\"type\":\"boolean\"}", "true~false", "null~True~tru~truefalse"},
    {"{\"type\":\"null\"}", "null", "nul~true"},
    {"{\"type\":[\"null\",\"integer\"]}", "null~3", "1.5~true"},
    {"{\"enum\":[\"a\",\"ab\",1,12,1.5,null,[1,\"x y\"],{\"b\":1,\"a\":[]},true]}",
     "\"a\"~\"ab\"~1~12~1.5~null~[1,\"x y\"]~{\"b\":1,\"a\":[]}~true",
     "\"abc\"~\"\"~2~1.0~121~[1]~[1, \"x y\"]~{\"a\":[],\"b\":1}~false~\"\\u0061\""},
    {"{\"type\":[\"string\",\"integer\"],\"enum\":[\"a\",1,1.5,null,2.0]}", "\"a\"~1~2", "1.5~null"},
    {"{\"const\":{\"k\\n\":\"\\u0001\\/\"}}", "{\"k\\n\":\"\\u0001/\"}", "{}~{\"k\\n\":\"\\u0001\\/\"}"},
    {"{\"const\":-0.0}", "0", "-0~0.0"},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1,\"maxItems\":3}",
     "[1]~[ 1, 2,\n    3 ]~[1,2,3\n]", "[]~[1,2,3,4]~[1,]~[,1]~[1 ,2]~[1  ]~[\n     1]~[1,\n\n2]~[1,\"a\"]~[1"},
    {"{\"type\":\"array\",\"maxItems\":0}", "[]~[ ]", "[1]"},
    {"{\"type\":\"array\",\"items\":false}", "[]", "[1]"},
    {"{\"type\":\"array\",\"uniqueItems\":false}", "[1,1]", "1"},
    {"{\"properties\":{\"b\":{\"type\":\"integer\"},\"a\":{\"const\":1},\"ab\":true},\"required\":[\"a\"]}",
     "{\"a\":1}~{\"b\":2,\"a\":1}~{\"b\":2,\"a\":1,\"ab\":[{}]}~{ \"a\": 1 }~{\n    \"a\": 1\n}",
     "{}~{\"b\":2}~{\"a\":1,\"b\":2}~{\"a\":1,\"a\":1}~{\"a\":1,\"c\":1}~{\"a\" "
     ":1}~{\"a\":1,}~{\"\\u0061\":1}~{\"a\":2}~{\"a\":1 ,\"ab\":1}~{\"b\":2 }"},
    {"{\"properties\":{\"a\":{\"const\":1}},\"additionalProperties\":{\"type\":\"null\"}}",
     "{}~{\"a\":1}~{\"b\":null}~{\"a\":1,\"b\":null,\"b\":null}~{\"\xc3\xa9\\\"\":null}~{\"\":null}~{\"aa\":null}",
     "{\"a\":null}~{\"b\":null,\"a\":1}~{\"b\":1}~{\"\\u0061\":null}~{\"b\":null,\"a\":null}~{\"\\/\":null}"},
    {"{\"properties\":{\"\xc3\xa9\":true},\"additionalProperties\":true}",
     "{\"\xc3\xa9\":1}~{\"\xc3\xa8\":1}~{\"\xc3\xa9\xc3\xa9\":1}~{\"\xe2\x82\xac\":1}",
     "{\"\xc3\":1}~{\"\xc3\x28\":1}~{\"\xc3\xa8\":1,\"\xc3\xa9\":1}"},
    {"{\"type\":\"object\"}", "{}~{\"a\":{\"b\":[1,\"x\"]}}", "[]~{\"a\"}~{a:1}"},
    {"{\"required\":[\"x\",\"y\"],\"additionalProperties\":{\"type\":\"integer\"}}",
     "{\"x\":1,\"y\":2}~{\"x\":1,\"y\":2,\"z\":3}", "{\"y\":2,\"x\":1}~{\"x\":1}~{\"z\":3,\"x\":1,\"y\":2}"},
    {"{\"properties\":{\"a\":{\"type\":\"object\",\"properties\":{\"n\":{\"$ref\":\"#/properties/a\"}}}}}",
     "{}~{\"a\":{\"n\":{\"n\":{}}}}", "{\"n\":{}}~{\"a\":{\"a\":{}}}"},
    {"{\"properties\":{\"a\":false,\"b\":true}}", "{}~{\"b\":1}", "{\"a\":1}"},
    {"{\"anyOf\":[{\"type\":\"integer\",\"maximum\":5},{\"type\":\"string\",\"maxLength\":1},{\"type\":\"string\","
     "\"minLength\":3},{\"enum\":[\"xx\",77]}]}",
     "5~-3~\"a\"~\"xx\"~\"abc\"~77", "6~\"ab\"~777~7"},
    {"{\"anyOf\":[{\"properties\":{\"t\":{\"const\":\"a\"},\"x\":{\"type\":\"integer\"}},\"required\":[\"t\",\"x\"]},{"
     "\"properties\":{\"t\":{\"const\":\"ab\"},\"x\":{\"type\":\"string\"}},\"required\":[\"t\"]}]}",
     "{\"t\":\"a\",\"x\":1}~{\"t\":\"ab\",\"x\":\"\"}~{\"t\":\"ab\"}",
     "{\"t\":\"a\"}~{\"t\":\"a\",\"x\":\"\"}~{\"t\":\"ab\",\"x\":1}"},
    {"{\"oneOf\":[{\"type\":\"string\"},{\"type\":[\"null\",\"number\"]},{\"type\":\"array\",\"items\":{\"oneOf\":[{"
     "\"const\":1},{\"const\":2}]}}]}",
     "\"a\"~null~1.5~[1,2]", "true~[3]"},
    {"{\"oneOf\":[{\"properties\":{\"z\":true,\"t\":{\"const\":\"a\"}},\"required\":[\"t\"]},{\"$ref\":\"#/$defs/"
     "b\"}],\"$defs\":{\"b\":{\"properties\":{\"t\":{\"enum\":[\"b\",\"c\"]}},\"required\":[\"t\"]}}}",
     "{\"t\":\"a\"}~{\"t\":\"c\"}~{\"z\":0,\"t\":\"a\"}", "{\"t\":\"d\"}~{\"z\":0,\"t\":\"b\"}~{}"},
    {"{\"allOf\":[{\"$ref\":\"#/definitions/a~1b~0\"}],\"title\":\"t\",\"definitions\":{\"a/"
     "b~\":{\"type\":\"integer\"}}}",
     "1", "\"a\""},
    {"{\"$defs\":{\"list\":{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"object\",\"properties\":{\"v\":{\"type\":"
     "\"integer\"},\"next\":{\"$ref\":\"#/$defs/list\"}},\"required\":[\"v\",\"next\"]}]}},\"$ref\":\"#/$defs/list\"}",
     "null~{\"v\":1,\"next\":null}~{\"v\":1,\"next\":{\"v\":2,\"next\":null}}", "{}~{\"v\":1}~{\"v\":1,\"next\":{}}"},
    {"{\"anyOf\":[{\"$ref\":\"#\"},{\"const\":7}]}", "7", "8"},
    {"{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}", "[]~[[],[[]]]", "[1]"},
    {"true", "1~{\"a\":[null]}~\"x\"", "~1 ~x"},
    {"{\"$schema\":\"s\",\"$id\":\"i\",\"$comment\":\"c\",\"title\":\"t\",\"description\":\"d\",\"default\":1,"
     "\"examples\":[],\"deprecated\":true,\"readOnly\":true,\"writeOnly\":false,\"type\":\"null\"}",
     "null", "1"},
    {"{\"minLength\":2,\"minimum\":3,\"exclusiveMaximum\":9}", "\"ab\"~3~8.5", "\"a\"~2~null~[]~9"}};

static void test_features(void) {
    SECTION("what each keyword lets be written");
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        grammar *g = made(features[i].schema);
        json_value *v = parsed(features[i].schema);
        for (int good = 1; good >= 0 && g; good--)
            for (const char *at = good ? features[i].good : features[i].bad, *end;; at = end + 1) {
                end = at + strcspn(at, "~");
                const int was = accepted(g, at, (size_t)(end - at));
                CHECK(was == good, "%.100s: %.*s: %d", features[i].schema, (int)(end - at), at, was);
                if (!*end) break;
            }
        grammar_destroy(g), json_free(v);
    }
}

static const struct {
    const char *schema;
    mla_result code;
    const char *says;
} refusals[] = {
    {"{\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"x\"}}}", MLA_ERR_UNSUPPORTED,
     "#/properties/a/pattern: not supported"},
    {"{\"anyOf\":[true,{\"format\":\"date\"}]}", MLA_ERR_UNSUPPORTED, "#/anyOf/1/format: not"},
    {"{\"items\":{\"not\":{}}}", MLA_ERR_UNSUPPORTED, "#/items/not: not"},
    {"{\"additionalProperties\":{\"if\":{}}}", MLA_ERR_UNSUPPORTED, "#/additionalProperties/if: not"},
    {"{\"$ref\":\"#/$defs/x\",\"$defs\":{\"x\":{\"multipleOf\":2}}}", MLA_ERR_UNSUPPORTED, "#/$defs/x/multipleOf: not"},
    {"{\"patternProperties\":{}}", MLA_ERR_UNSUPPORTED, "#/patternProperties: not"},
    {"{\"minProperties\":1}", MLA_ERR_UNSUPPORTED, "#/minProperties"},
    {"{\"prefixItems\":[]}", MLA_ERR_UNSUPPORTED, "#/prefixItems"},
    {"{\"contains\":{}}", MLA_ERR_UNSUPPORTED, "#/contains"},
    {"{\"uniqueItems\":true}", MLA_ERR_UNSUPPORTED, "#/uniqueItems"},
    {"{\"anyOf\":[true],\"properties\":{}}", MLA_ERR_UNSUPPORTED, "#/properties: not supported beside anyOf"},
    {"{\"$ref\":\"#\",\"type\":\"null\"}", MLA_ERR_UNSUPPORTED, "#/type: not supported beside $ref"},
    {"{\"enum\":[1],\"minimum\":0}", MLA_ERR_UNSUPPORTED, "#/minimum: not supported beside enum"},
    {"{\"enum\":[1],\"const\":1}", MLA_ERR_UNSUPPORTED, "beside"},
    {"{\"allOf\":[true,true]}", MLA_ERR_UNSUPPORTED, "#/allOf"},
    {"{\"allOf\":[]}", MLA_ERR_CONFIG, "#/allOf"},
    {"{\"anyOf\":[]}", MLA_ERR_CONFIG, "#/anyOf"},
    {"{\"anyOf\":{}}", MLA_ERR_CONFIG, "#/anyOf"},
    {"{\"oneOf\":[{\"type\":\"number\"},{\"type\":\"integer\"}]}", MLA_ERR_UNSUPPORTED, "#/oneOf"},
    {"{\"oneOf\":[{\"const\":1},{\"enum\":[2,1]}]}", MLA_ERR_UNSUPPORTED, "#/oneOf"},
    {"{\"oneOf\":[{\"properties\":{\"a\":{\"const\":1}}},{\"properties\":{\"a\":{\"const\":2}},\"required\":[\"a\"]}]}",
     MLA_ERR_UNSUPPORTED, "#/oneOf"},
    {"{\"$ref\":\"http://x\"}", MLA_ERR_UNSUPPORTED, "#/$ref"},
    {"{\"$ref\":[0,7]}", MLA_ERR_UNSUPPORTED, "#/$ref"},
    {"{\"$ref\":\"#/nothing\"}", MLA_ERR_UNSUPPORTED, "#/$ref: not a place in this schema: #/nothing"},
    {"{\"$ref\":1}", MLA_ERR_UNSUPPORTED, "#/$ref"},
    {"{\"type\":\"text\"}", MLA_ERR_CONFIG, "#/type: not one of JSON schema's: text"},
    {"{\"type\":[]}", MLA_ERR_CONFIG, "#/type"},
    {"{\"type\":[1]}", MLA_ERR_CONFIG, "#/type"},
    {"{\"enum\":[]}", MLA_ERR_CONFIG, "#/enum"},
    {"{\"enum\":1}", MLA_ERR_CONFIG, "#/enum"},
    {"{\"type\":\"string\",\"enum\":[1]}", MLA_ERR_CONFIG, "#/enum: no value of that type"},
    {"{\"type\":\"integer\",\"const\":1.5}", MLA_ERR_CONFIG, "#/const"},
    {"{\"properties\":[]}", MLA_ERR_CONFIG, "#/properties"},
    {"{\"properties\":{\"a\":3}}", MLA_ERR_CONFIG, "#/properties/a: not a schema"},
    {"{\"items\":[true]}", MLA_ERR_CONFIG, "#/items: not a schema"},
    {"{\"required\":\"a\"}", MLA_ERR_CONFIG, "#/required"},
    {"{\"required\":[1]}", MLA_ERR_CONFIG, "#/required"},
    {"{\"required\":[\"a\"],\"additionalProperties\":false}", MLA_ERR_CONFIG,
     "#/required: additionalProperties forbids a"},
    {"{\"minItems\":3,\"maxItems\":2}", MLA_ERR_CONFIG, "#/minItems"},
    {"{\"minLength\":3,\"maxLength\":2}", MLA_ERR_CONFIG, "#/minLength"},
    {"{\"minItems\":-1}", MLA_ERR_CONFIG, "#/minItems"},
    {"{\"maxLength\":1.5}", MLA_ERR_CONFIG, "#/maxLength"},
    {"{\"maxItems\":2147483648}", MLA_ERR_CONFIG, "#/maxItems"},
    {"{\"minimum\":\"1\"}", MLA_ERR_CONFIG, "#/minimum"},
    {"{\"exclusiveMinimum\":true}", MLA_ERR_CONFIG, "#/exclusiveMinimum"},
    {"{\"type\":\"integer\",\"minimum\":1.2,\"maximum\":1.8}", MLA_ERR_CONFIG, "no number"},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":1,\"exclusiveMaximum\":2}", MLA_ERR_CONFIG, "no number"},
    {"{\"minimum\":1e19}", MLA_ERR_CONFIG, "no number"},
    {"false", MLA_ERR_CONFIG, "nothing fits"},
    {"1", MLA_ERR_CONFIG, "#: not a schema"},
    {"{\"$ref\":\"#\"}", MLA_ERR_CONFIG, "nothing fits"},
    {"{\"type\":\"array\",\"minItems\":1,\"items\":{\"$ref\":\"#\"}}", MLA_ERR_CONFIG, "nothing fits"},
    {"{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", MLA_ERR_CONFIG, "nothing fits"},
    {"{\"properties\":{\"a\":false},\"required\":[\"a\"]}", MLA_ERR_CONFIG, "nothing fits"},
    {"{\"properties\":{\"a\\n\":{\"x\\ny\":1}}}", MLA_ERR_UNSUPPORTED, "a?/x?y"}};

static void refused(const char *schema, mla_result code, const char *says) {
    grammar *g = NULL;
    mla_error e;
    json_value *v = parsed(schema);
    const mla_result rc = json_schema_grammar(&g, v, &e);
    CHECK(rc == code && !g && strstr(e.text, says), "%.200s: %d %s", schema, (int)rc, rc ? e.text : "");
    CHECK(json_schema_grammar(&g, v, NULL) == code, "without an error struct");
    grammar_destroy(g), json_free(v);
}

static void test_refusals(void) {
    SECTION("what is refused, by name");
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++)
        refused(refusals[i].schema, refusals[i].code, refusals[i].says);
    CHECK(json_schema_grammar(NULL, NULL, NULL) == MLA_ERR_ARGUMENT, "out NULL");
    CHECK(grammar_create(NULL, 1, 0, NULL) == MLA_ERR_ARGUMENT, "out NULL");
    grammar_destroy(NULL), grammar_vocab_destroy(NULL);
}

/* Rules filled in by hand: a list of numbers 0.5 to 2.5, or one of two words. */
static void test_rules(void) {
    static const grammar_text words[] = {{"\"few\"", 5, 0, 0, 0, 0}, {"\"none\"", 6, 0, 0, 0, 0}};
    static const char *const good[] = {"\"few\"", "\"none\"", "[]", "[0.5]", "[ 2, 1.25]"}, *const bad[] = {
                                                                                                "\"all\"", "{}", "[3]",
                                                                                                "[0.4", "1"};
    grammar *g;
    mla_error e;
    SECTION("rules by hand");
    CHECK(grammar_create(&g, 0, 0, &e) == MLA_ERR_ARGUMENT && !g && strstr(e.text, "rules: 0"), "no rules");
    if (!CHECK(grammar_create(&g, 5, 2, &e) == MLA_OK, "%s", e.text)) return;
    for (int i = 1; i < 5; i++) g->rules[i] = g->rules[0];
    g->root = 1, g->leaves = (uint32_t *)need(malloc(2 * sizeof *g->leaves)), g->leaves[0] = 2, g->leaves[1] = 3;
    g->rules[1].leaves = g->leaves, g->rules[1].n_leaves = 2;
    g->rules[2].types = GRAMMAR_ARRAY, g->rules[2].items = 4;
    g->rules[3].types = GRAMMAR_STRING, g->rules[3].literal = 1, g->rules[3].text = 3, g->rules[3].n_texts = 2;
    memcpy(g->texts + 3, words, sizeof words);
    g->rules[4].types = GRAMMAR_NUMBER, g->rules[4].bounded = 1, g->rules[4].low = 500000, g->rules[4].high = 2500000;
    for (int i = 0; i < 5; i++) {
        CHECK(accepted(g, good[i], strlen(good[i])) == 1, "%s", good[i]);
        CHECK(accepted(g, bad[i], strlen(bad[i])) == 0, "%s", bad[i]);
    }
    grammar_destroy(g);
}

/* A reference may lead into a constant, whose parts are then constants again: 30 times the same text. */
static void test_constants_in_constants(void) {
    enum { DEEP = 30, LONG = 3000 };
    writer *w = (writer *)need(calloc(1, sizeof *w));
    char value[LONG + 3];
    SECTION("constants in constants");
    memset(value, 'a', sizeof value), value[0] = value[LONG + 1] = '"', value[LONG + 2] = 0;
    put(w, "{\"$defs\":{\"x\":");
    for (int i = 0; i < DEEP; i++) put(w, "{\"const\":");
    put(w, "%s", value);
    for (int i = 0; i < DEEP; i++) put(w, "}");
    put(w, "},\"anyOf\":[");
    for (int i = 0; i < DEEP; i++) {
        put(w, "%s{\"$ref\":\"#/$defs/x", i ? "," : "");
        for (int k = 0; k < i; k++) put(w, "/const");
        put(w, "\"}");
    }
    put(w, "]}");
    grammar *g = made(w->text);
    if (g) CHECK(accepted(g, value, LONG + 2) == 1 && accepted(g, value, LONG) == 0, "the innermost");
    w->n = 0, put(w, "{\"const\":%s}", value);
    if (g) CHECK(accepted(g, w->text, w->n) == 1, "the one around it");
    grammar_destroy(g), free(w);
}

static void test_formats(void) {
    static const struct {
        const char *format;
        mla_result code;
        const char *good, *says;
    } formats[] = {
        {"{\"type\":\"text\"}", MLA_OK, NULL, ""},
        {"{\"type\":\"json_object\"}", MLA_OK, "{\"a\": [1]}", ""},
        {"{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"n\",\"strict\":true,\"schema\":{\"type\":\"null\"}}}",
         MLA_OK, "null", ""},
        {"{\"type\":\"json_schema\"}", MLA_ERR_CONFIG, NULL, "response_format.json_schema.schema"},
        {"{\"type\":\"xml\"}", MLA_ERR_CONFIG, NULL, "response_format.type"},
        {"{}", MLA_ERR_CONFIG, NULL, "response_format.type"},
        {"3", MLA_ERR_CONFIG, NULL, "response_format.type"}};
    SECTION("response_format");
    grammar *g = NULL;
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        mla_error e = {MLA_OK, "", -1};
        json_value *v = parsed(formats[i].format);
        CHECK(json_schema_of_format(&g, v, &e) == formats[i].code && strstr(e.text, formats[i].says), "%s: %s",
              formats[i].format, e.text);
        CHECK(!g == !formats[i].good, "%s: a grammar", formats[i].format);
        if (g)
            CHECK(accepted(g, formats[i].good, strlen(formats[i].good)) == 1 && accepted(g, "1", 1) == 0, "%s",
                  formats[i].good);
        grammar_destroy(g), json_free(v);
    }
    CHECK(json_schema_of_format(&g, NULL, NULL) == MLA_OK && !g, "none");
}

/* ---- vocabularies ------------------------------------------------------------------------------------------------ */

enum { SIZE = 3000, EOS = 5 };

typedef struct words {
    char bytes[SIZE][24];
    size_t n[SIZE];
} words;

static const char *word(const void *user, int id, size_t *n) {
    const words *w = (const words *)user;
    *n = w->n[id];
    return w->n[id] ? w->bytes[id] : NULL;
}

/* All bytes, and pieces of JSON and of other text put together; some are twice there, some nothing. */
static void make_words(words *w) {
    static const char *const pieces[] = {
        "\"",   "{",    "}",  "[",  "]",  ":",  ",",  " ",   "\n",   "    ", "a",    "p",        "pq",   "extra",
        "true", "null", "1",  "00", ".5", "e3", "\\", "\\u", "00e9", "\xc3", "\xa9", "\xe2\x82", "\xac", "\xf0\x9f\x98",
        "\x80", "word", "\t", "-"};
    test_rng r = {3};
    memset(w, 0, sizeof *w);
    for (int id = 0; id < SIZE; id++) {
        if (id % 7 == 3 && id < 1000) continue;
        const int single = id < 1000 ? id / 3 : 256;
        if (single < 256 && id % 3 == 1) w->bytes[id][0] = (char)single, w->n[id] = 1;
        for (int k = 0, n = id < 1000 ? 0 : 1 + test_int(&r, 4); k < n; k++) {
            const char *piece = pieces[test_int(&r, 32)];
            if (w->n[id] + strlen(piece) > 23) break;
            memcpy(w->bytes[id] + w->n[id], piece, strlen(piece)), w->n[id] += strlen(piece);
        }
    }
    for (int byte = 0, id = 3; byte < 256; id += 7) { /* so that none is missing */
        w->bytes[id][0] = (char)byte++, w->n[id] = 1;
    }
    w->n[EOS] = 0;
}

static const char *token_bytes(const void *user, int id, size_t *n) {
    const tokenizer *t = (const tokenizer *)user;
    return tokenizer_is_added(t, id) ? NULL : tokenizer_bytes(t, id, n);
}

/* Every token, by the mask and by itself. */
static int mask_is_right(const grammar_state *s, const grammar_vocab *v, int size, int eos, grammar_bytes *bytes,
                         const void *user) {
    static uint32_t mask[1 << 13];
    int wrong = 0, any = 0;
    const int some_may = grammar_allow(s, v, mask);
    for (int id = 0; id < size; id++) {
        size_t n = 0;
        const char *b = bytes(user, id, &n);
        const int want = id == eos ? grammar_complete(s) > 0 : b && n && n <= GRAMMAR_TOKEN && grammar_test(s, b, n);
        wrong += want != (int)(mask[id / 32] >> id % 32 & 1), any |= want;
    }
    return CHECK(!wrong && any == some_may && any, "%d of %d tokens are wrong, %d %d", wrong, size, any, some_may);
}

static void test_masks(const grammar_vocab *v, int size, int eos, grammar_bytes *bytes, const void *user, int schemas) {
    static writer schema, text;
    SECTION("masks against every token by itself");
    schema.r.state = 5, text.r.state = 6;
    for (int i = 0; i < schemas; i++) {
        put_root_schema(&schema);
        grammar *g = made(schema.text);
        json_value *j = parsed(schema.text);
        grammar_state s;
        if (!g) continue;
        grammar_begin(&s, g);
        text.n = 0, root_schema = j, put_value(&text, j, 0);
        for (size_t at = 0; at < text.n; at++) {
            if (some(&text, (int)text.n + 1) < 4 && !mask_is_right(&s, v, size, eos, bytes, user))
                printf("%s\n%.*s\n", schema.text, (int)at, text.text);
            if (!CHECK(grammar_accept(&s, text.text + at, 1), "what was accepted whole")) break;
        }
        mask_is_right(&s, v, size, eos, bytes, user);
        grammar_destroy(g), json_free(j);
    }
}

/* Where a text shall end: of what is allowed, what closes, or else what leads there. */
static int closing(const uint32_t *mask, const int *single, int eos) {
    static const char order[] = "\"}],:10nt5a[{\\ f-";
    if (mask[eos / 32] >> eos % 32 & 1) return eos;
    for (const char *c = order; *c; c++)
        if (mask[single[(unsigned char)*c] / 32] >> single[(unsigned char)*c] % 32 & 1)
            return single[(unsigned char)*c];
    for (int b = 0; b < 256; b++)
        if (mask[single[b] / 32] >> single[b] % 32 & 1) return single[b];
    return -1;
}

static void test_sampling(const grammar_vocab *v, const words *w, int texts) {
    static writer schema;
    static uint32_t mask[(SIZE + 31) / 32];
    static float logits[SIZE];
    static char text[1 << 16];
    static int single[256];
    sampler *sampling = NULL;
    mla_error e;
    sampler_desc how;
    SECTION("random choices among the allowed tokens come to what is valid");
    for (int id = 0; id < SIZE; id++)
        if (w->n[id] == 1) single[(unsigned char)w->bytes[id][0]] = id;
    memset(&how, 0, sizeof how), how.temperature = 1, how.seed = 9;
    if (!CHECK(sampler_create(&sampling, SIZE, &how, &e) == MLA_OK, "%s", e.text)) return;
    schema.r.state = 7;
    for (int i = 0; i < texts; i++) {
        put_root_schema(&schema);
        grammar *g = made(schema.text);
        json_value *j = parsed(schema.text);
        grammar_state s;
        size_t n = 0;
        int tokens = 0, token = 0;
        if (!g) continue;
        grammar_begin(&s, g);
        for (; tokens < 4000 && n < sizeof text - 300; tokens++) {
            if (!CHECK(grammar_allow(&s, v, mask), "a dead end: %s\n%.*s", schema.text, (int)n, text)) break;
            for (int id = 0; id < SIZE; id++) logits[id] = 0;
            grammar_mask(logits, mask, SIZE);
            token = tokens > 30 ? closing(mask, single, EOS) : sampler_next(sampling, logits, &e);
            if (token < 0 || token == EOS) break;
            if (!CHECK(grammar_accept(&s, w->bytes[token], w->n[token]), "token %d was allowed", token)) break;
            memcpy(text + n, w->bytes[token], w->n[token]), n += w->n[token];
        }
        CHECK(token == EOS && valid(j, text, n), "%s\n%.*s: %d tokens", schema.text, (int)n, text, tokens);
        grammar_destroy(g), json_free(j);
    }
    sampler_destroy(sampling);
}

/* ---- what is hostile --------------------------------------------------------------------------------------------- */

static void test_hostile(void) {
    enum { LARGE = 1 << 20 };
    char *text = (char *)need(malloc(2 * LARGE)), *at = text;
    grammar *g;
    grammar_state s;
    SECTION("what is large or deep");
    at += sprintf(at, "{\"enum\":[");
    for (int i = 0; at < text + LARGE; i++) at += sprintf(at, "%s\"v%d\"", i ? "," : "", i);
    strcpy(at, "]}");
    if ((g = made(text))) CHECK(accepted(g, "\"v77777\"", 8) == 1 && accepted(g, "\"w\"", 3) == 0, "a large enum");
    grammar_destroy(g);
    at = text + sprintf(text, "{\"properties\":{");
    for (int i = 0; i < 4097; i++) at += sprintf(at, "%s\"v%d\":{\"type\":\"null\"}", i ? "," : "", i);
    strcpy(at, "}}");
    refused(text, MLA_ERR_UNSUPPORTED, "more than 4096 members");
    at = text + sprintf(text, "{\"$defs\":{");
    for (int i = 0; i < 30000; i++) at += sprintf(at, "%s\"%d\":{\"$ref\":\"#/$defs/%d\"}", i ? "," : "", i, i + 1);
    sprintf(at, ",\"30000\":true},\"$ref\":\"#/$defs/0\"}");
    g = made(text), grammar_destroy(g); /* a long way, and from its other end */
    at = text + sprintf(text, "{\"$defs\":{\"0\":true");
    for (int i = 1; i < 3000; i++) at += sprintf(at, ",\"%d\":{\"$ref\":\"#/$defs/%d\"}", i, i - 1);
    at += sprintf(at, "},\"properties\":{");
    for (int i = 0; i < 3000; i++) at += sprintf(at, "%s\"%d\":{\"$ref\":\"#/$defs/%d\"}", i ? "," : "", i, i);
    sprintf(at, "}}");
    refused(text, MLA_ERR_UNSUPPORTED, "too many references");
    at = text + sprintf(text, "{\"anyOf\":[true");
    for (int i = 0; i < 64; i++) at += sprintf(at, ",{\"type\":\"string\"}");
    strcpy(at, "]}");
    refused(text, MLA_ERR_UNSUPPORTED, "#/anyOf: more entries");
    at = text;
    for (int i = 0; i < 66000; i++) at += sprintf(at, "%s", i ? ",{\"title\":0}" : "{\"anyOf\":[{\"anyOf\":[true");
    strcpy(at, "]}]}");
    refused(text, MLA_ERR_UNSUPPORTED, "anyOf");
    for (int i = 0; i < 62; i++) memcpy(text + 9 * i, "{\"items\":", 9);
    strcpy(text + 9 * 62, "true");
    for (int i = 0; i < 62; i++) text[9 * 62 + 4 + i] = '}', text[9 * 62 + 5 + i] = 0;
    g = made(text), grammar_destroy(g);
    if ((g = made("{\"type\":\"array\",\"minItems\":1000000000,\"items\":{\"const\":1}}"))) {
        grammar_begin(&s, g);
        CHECK(grammar_accept(&s, "[", 1), "[");
        for (int i = 0; i < 3000; i++) CHECK(grammar_accept(&s, "1,", 2) && !grammar_test(&s, "]", 1), "an item more");
        CHECK(s.n_frames < 10, "%d frames", s.n_frames);
    }
    grammar_destroy(g);
    if ((g = made("true"))) { /* 64 deep, not 65; and what is then begun can be closed */
        grammar_begin(&s, g);
        for (int i = 0; i < GRAMMAR_DEPTH; i++)
            CHECK(grammar_accept(&s, i % 2 ? "[" : "{\"a\":", i % 2 ? 1 : 5), "%d deep", i);
        CHECK(!grammar_test(&s, "[", 1) && !grammar_test(&s, "{", 1) && grammar_test(&s, "1", 1), "too deep");
        CHECK(grammar_accept(&s, "1", 1), "a value");
        for (int i = GRAMMAR_DEPTH; i-- > 0;) CHECK(grammar_accept(&s, i % 2 ? "]" : "}", 1), "closed");
        CHECK(grammar_complete(&s) == 2, "complete");
    }
    grammar_destroy(g);
    free(text);
}

/* Readings multiply: those beyond what is kept are given up, but the text can always be completed. */
static void test_readings(const grammar_vocab *v) {
    static const char many[] = "{\"type\":\"array\",\"items\":{\"anyOf\":[{\"type\":\"array\",\"maxItems\":2,\"items\":"
                               "{\"$ref\":\"#\"}},{\"type\":\"array\",\"maxItems\":3,\"items\":{\"$ref\":\"#\"}},{"
                               "\"type\":\"array\",\"maxItems\":4,\"items\":{\"$ref\":\"#\"}}]}}";
    static uint32_t mask[(SIZE + 31) / 32];
    grammar *g = made(many);
    grammar_state s;
    int i;
    SECTION("more readings than are kept");
    if (!g) return;
    grammar_begin(&s, g);
    for (i = 0; i < 60; i++) CHECK(grammar_accept(&s, "[", 1) && grammar_allow(&s, v, mask), "%d deep", i);
    CHECK(s.n_tops <= GRAMMAR_READINGS && s.n_frames <= GRAMMAR_FRAMES, "%d, %d", s.n_tops, s.n_frames);
    for (; i > 0; i--) CHECK(grammar_accept(&s, "]", 1), "closing %d", i);
    CHECK(grammar_complete(&s) == 2, "complete: %d, %d readings", grammar_complete(&s), s.n_tops);
    grammar_destroy(g);
}

static void test_states(void) {
    grammar *g = made("{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"number\"}}}");
    grammar_state s, copy;
    char text[2000];
    SECTION("states");
    if (!g) return;
    grammar_begin(&s, g), copy = s;
    CHECK(!grammar_complete(&s) && grammar_accept(&s, "{\"a\":1", 6) && !grammar_complete(&s), "open");
    CHECK(!grammar_accept(&s, "2}x", 3) && !grammar_test(&s, "2}x", 3) && grammar_test(&s, "2}", 2), "all or nothing");
    CHECK(grammar_accept(&s, "", 0) && grammar_accept(&s, "}", 1) && grammar_complete(&s) == 2, "complete");
    CHECK(!grammar_accept(&s, " ", 1) && !grammar_accept(&s, "}", 1), "nothing behind it");
    CHECK(grammar_accept(&copy, "{ }", 3) && grammar_complete(&copy) == 2, "the copy goes its own way");
    grammar_destroy(g);
    if (!(g = made("{\"type\":\"number\"}"))) return;
    grammar_begin(&s, g);
    CHECK(grammar_accept(&s, "1", 1) && grammar_complete(&s) == 1 && grammar_accept(&s, ".", 1) &&
              !grammar_complete(&s),
          "a number may go on");
    grammar_destroy(g);
    if (!(g = made("{\"type\":\"string\",\"maxLength\":1999}"))) return;
    grammar_begin(&s, g);
    memset(text, 'a', sizeof text), text[0] = '"';
    CHECK(grammar_accept(&s, text, sizeof text) && !grammar_test(&s, "a", 1) && grammar_test(&s, "\"", 1),
          "a long text");
    grammar_destroy(g);
}

static void test_allocation(const words *w) {
    static const char schema[] =
        "{\"$defs\":{\"a\":{\"enum\":[\"x\",{\"y\":[1.5]}]}},\"properties\":{\"k\":{\"$ref\":\"#/$defs/"
        "a\"},\"l\":{\"oneOf\":[{\"type\":\"null\"},{\"items\":true}]}},\"required\":[\"k\",\"m\"]}";
    json_value *j = parsed(schema);
    mla_error e;
    int failed = 0;
    SECTION("the k-th allocation fails, for every k");
    for (int kind = 0; kind < 3; kind++) {
        failed = 0;
        for (long k = 0; k < 1000; k++) {
            grammar *g = NULL;
            grammar_vocab *v = NULL;
            const int eos = EOS;
            alloc_countdown = k;
            const mla_result rc = kind == 2 ? grammar_vocab_create(&v, SIZE, word, w, &eos, 1, &e)
                                            : json_schema_grammar(&g, kind ? j : NULL, &e);
            alloc_countdown = -1;
            grammar_destroy(g), grammar_vocab_destroy(v);
            if (rc == MLA_OK) break;
            failed++;
            CHECK(rc == MLA_ERR_MEMORY && !g && !v && strstr(e.text, "memory"), "allocation %ld: %d %s", k, (int)rc,
                  e.text);
        }
        CHECK(failed > (kind == 2 ? 2 : 3), "%d, of kind %d", failed, kind);
    }
    json_free(j);
}

static void test_vocabularies(const words *w) {
    grammar_vocab *v = NULL;
    mla_error e;
    const int bad = SIZE;
    SECTION("vocabularies that cannot be");
    CHECK(grammar_vocab_create(&v, 0, word, w, NULL, 0, &e) == MLA_ERR_ARGUMENT && !v, "size 0");
    CHECK(grammar_vocab_create(&v, SIZE, NULL, w, NULL, 0, &e) == MLA_ERR_ARGUMENT, "no bytes");
    CHECK(grammar_vocab_create(&v, SIZE, word, w, NULL, 1, &e) == MLA_ERR_ARGUMENT, "no eos");
    CHECK(grammar_vocab_create(&v, SIZE, word, w, &bad, 1, &e) == MLA_ERR_ARGUMENT && strstr(e.text, "eos 3000"),
          "eos");
    CHECK(grammar_vocab_create(NULL, SIZE, word, w, NULL, 0, NULL) == MLA_ERR_ARGUMENT, "out");
    CHECK(grammar_vocab_create(&v, 4, word, w, NULL, 0, &e) == MLA_OK, "four tokens"); /* of which one has bytes: NUL */
    uint32_t mask = 7;
    grammar *g = made("true");
    grammar_state s;
    if (g && v) grammar_begin(&s, g), CHECK(!grammar_allow(&s, v, &mask) && mask == 0, "none may come");
    grammar_destroy(g), grammar_vocab_destroy(v);
}

/* ---- --times ----------------------------------------------------------------------------------------------------- */

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The slowest and the mean mask along the good texts of each feature, and of some others; the best of five. */
static int times(const char *path) {
    tokenizer *t = NULL;
    grammar_vocab *v = NULL;
    mla_error e;
    if (tokenizer_open(&t, path, &e)) return printf("%s\n", e.text), 1;
    const double begin = seconds();
    const int size = tokenizer_size(t), eos = 1;
    if (grammar_vocab_create(&v, size, token_bytes, t, &eos, 1, &e)) return printf("%s\n", e.text), 1;
    printf("%d tokens: the tree in %.0f ms\n", size, 1e3 * (seconds() - begin));
    uint32_t *mask = (uint32_t *)need(malloc((size_t)size / 8 + 8));
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        grammar *g = made(features[i].schema);
        double worst = 0, sum = 0;
        int n = 0;
        grammar_state s;
        grammar_begin(&s, g);
        for (const char *at = features[i].good; *at; at++) {
            double best = 1;
            if (*at == '~') {
                grammar_begin(&s, g);
                continue;
            }
            for (int k = 0; k < 5; k++) {
                const double start = seconds();
                grammar_allow(&s, v, mask);
                const double took = seconds() - start;
                if (took < best) best = took;
            }
            if (best > worst) worst = best;
            sum += best, n++;
            grammar_accept(&s, at, 1);
        }
        printf("%6.0f us the slowest, %6.1f us the mean of %3d: %.90s\n", 1e6 * worst, 1e6 * sum / n, n,
               features[i].schema);
        grammar_destroy(g);
    }
    free(mask), grammar_vocab_destroy(v), tokenizer_close(t);
    return 0;
}

int main(int argc, char **argv) {
    static words w;
    grammar_vocab *v = NULL, *tales = NULL;
    tokenizer *t = NULL;
    mla_error e;
    const int eos = EOS, one = 1;
    if (argc == 3 && !strcmp(argv[1], "--times")) return times(argv[2]);
    make_words(&w);
    test_features();
    test_refusals();
    test_rules();
    test_constants_in_constants();
    test_formats();
    test_states();
    test_random();
    test_hostile();
    test_allocation(&w);
    test_vocabularies(&w);
    if (CHECK(grammar_vocab_create(&v, SIZE, word, &w, &eos, 1, &e) == MLA_OK, "%s", e.text)) {
        test_masks(v, SIZE, EOS, word, &w, test_all() ? 500 : 40);
        test_sampling(v, &w, test_all() ? 20000 : 2000);
        test_readings(v);
    }
    if (CHECK(tokenizer_open(&t, "examples/tales/tokenizer.json", &e) == MLA_OK, "%s", e.text) &&
        CHECK(grammar_vocab_create(&tales, tokenizer_size(t), token_bytes, t, &one, 1, &e) == MLA_OK, "%s", e.text))
        test_masks(tales, tokenizer_size(t), one, token_bytes, t, test_all() ? 300 : 20);
    grammar_vocab_destroy(v), grammar_vocab_destroy(tales), tokenizer_close(t);
    return test_end();
}
