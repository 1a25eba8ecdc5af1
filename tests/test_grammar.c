/* Grammars against a plain validator that parses a whole text; masks against a test of each token; random texts from
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
#include "grammar.h"
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
    const mla_result rc = grammar_create(&g, v, &e);
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
        if (quoted && *s == 'u' && s[-1] == '\\' && (s[1] != '0' || s[2] != '0' || (s[3] != '0' && s[3] != '1'))) return 0;
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
    const int object = member(schema, "properties") || member(schema, "required") || member(schema, "additionalProperties");
    const int array = member(schema, "items") || member(schema, "minItems") || member(schema, "maxItems");
    const int string = member(schema, "minLength") || member(schema, "maxLength");
    const int number = member(schema, "minimum") || member(schema, "maximum") || member(schema, "exclusiveMinimum") || member(schema, "exclusiveMaximum");
    if (!object && !array && !string && !number) return 1;
    return t->type == JSON_OBJECT ? object : t->type == JSON_ARRAY ? array : t->type == JSON_STRING ? string : t->type == JSON_NUMBER && number;
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
    static const char *const constants[] = {"\"a\"", "\"ab\"", "\"\\u00e9\\n\\/\"", "1", "12", "-0.5", "1e30", "null", "true",
                                            "\"\"", "[1,{\"b\":2,\"a\":\"x y\"}]", "{}", "0.1"};
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
    case 4: put(w, some(w, 2) ? "{\"type\":[\"boolean\",\"null\"]}" : "{\"type\":[\"string\",\"integer\",\"object\"]}"); break;
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
    static const char *const pieces[] = {"a", "b c", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\\n", "\\\"", "\\/", "\\u00E9", "\\ud83d\\uDE00", "\x7f", "\xed\x9f\xbf", "\\ud7ff"};
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
    const json_value *a = member(schema, "minimum"), *b = member(schema, "maximum"), *c = member(schema, "exclusiveMinimum"), *d = member(schema, "exclusiveMaximum");
    static const char *const free_numbers[] = {"0", "-0", "-0.0", "1.5", "1e5", "1E-07", "-12.25e+30", "123456789012345678", "0.000000000000000001"};
    if (!integer && !a && !b && !c && !d) {
        put(w, "%s", free_numbers[some(w, 9)]);
        return;
    }
    const double low = a ? json_number(a) : c ? json_number(c) : -1000, high = b ? json_number(b) : d ? json_number(d) : 1000;
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
    static const struct { const char *text; double x; } numbers[] = {{"1", 1}, {"12", 12}, {"-0.5", -0.5}, {"1e+30", 1e30}, {"0.1", 0.1}, {"2", 2}};
    const json_type type = json_typeof(v);
    if (type == JSON_NULL || type == JSON_BOOL) put(w, "%s", type == JSON_NULL ? "null" : json_bool(v) ? "true" : "false");
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
    static const char *const values[] = {"null", "true", "false", "-12", "3.25e2", "\"x\\u0041\"", "{}", "[]", "[ ]", "{ }", "[1, [2],\n{\"\": 3}]"};
    put(w, "%s", values[some(w, depth < 60 ? 11 : 6)]);
}

static void put_object(writer *w, const json_value *schema, int depth) {
    static const char *const others[] = {"\"zz\"", "\"pp\"", "\"\"", "\"\\\"\"", "\"\xc3\xaa\"", "\"z\\\\\"", "\"z\\u0001\\u001f\""};
    const json_value *properties = member(schema, "properties"), *required = member(schema, "required"), *other = member(schema, "additionalProperties");
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
    const json_value *any = member(schema, "anyOf"), *all = member(schema, "allOf"), *ref = member(schema, "$ref"), *type = member(schema, "type"), *values = member(schema, "enum");
    int kind;
    if (any) put_value(w, json_at(any, depth > 12 ? json_count(any) - 1 : (size_t)some(w, (int)json_count(any))), depth);
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

int main(int argc, char **argv) {
    (void)argc, (void)argv;
    test_random();
    return test_end();
}
