/* test_gguf.c - examples/gguf.h: the fixtures written as GGUF give the same logits, bit for bit, as the same weights from
   their Hugging Face directories; then every malformed file we could think of. Run from the repository root.
   test_gguf --write NAME TYPE FORM FILE [SEED] writes the fixture NAME, or the checkpoint of the directory NAME, with
   matrices of TYPE (f32, f16, bf16, q8_0, q4_k, ..) as FILE, FORM being whole, split, both or ik: how kv_b is kept. Where
   FILE ends in -00001-of-00002.gguf it is written in two. With a SEED each weight of a matrix is first multiplied by a
   random number from 1 - 2^-11 to 1 + 2^-11. */

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L /* mkdtemp, symlink */
#endif

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MLA_IMPLEMENTATION
#include "mla.h"
#include "test.h"

/* The reader under test allocates through these, so that the k-th allocation can fail, and the largest is known. */
static long alloc_countdown = -1; /* -1: never; 0: the next one fails, and all after it */
static size_t alloc_largest;
static int alloc_fails(size_t n) {
    if (n > alloc_largest) alloc_largest = n;
    return alloc_countdown >= 0 && alloc_countdown-- == 0 && ++alloc_countdown == 0;
}
static void *test_malloc(size_t n) { return alloc_fails(n) ? NULL : malloc(n); }
static void *test_calloc(size_t n, size_t size) { return alloc_fails(n * size) ? NULL : calloc(n, size); }
static void *test_realloc(void *p, size_t n) { return alloc_fails(n) ? NULL : realloc(p, n); }

#define malloc  test_malloc
#define calloc  test_calloc
#define realloc test_realloc
#define CHECKPOINT_IMPLEMENTATION
#include "checkpoint.h"
#undef malloc
#undef calloc
#undef realloc
#define TOKENIZER_IMPLEMENTATION
#include "convert.h"

#include "logits.h"

#define FIXTURES "tests/fixtures/checkpoints/"
#define COUNT(a) (sizeof(a) / sizeof *(a))
enum { PROMPT = 48 };

/* ---- helpers ----------------------------------------------------------------------------------------------------- */

static char dir[64]; /* a temporary directory */

static const char *in_dir(const char *name) { /* valid until the call after the next three */
    static char path[4][400];
    static int turn;
    char *p = path[turn++ & 3];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static void clear_dir(void) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.') unlink(in_dir(e->d_name));
    if (d) closedir(d);
}

static void write_file(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    if (!f || (n && fwrite(data, 1, n, f) != n) || fclose(f)) printf("cannot write %s\n", path), exit(2);
}

static unsigned char *read_file(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END)) printf("cannot read %s\n", path), exit(2);
    *n = (size_t)ftell(f);
    rewind(f);
    unsigned char *data = (unsigned char *)need(malloc(*n + 1));
    if (fread(data, 1, *n, f) != *n) printf("cannot read %s\n", path), exit(2);
    fclose(f);
    return data;
}

/* A message is one line of printable text, not cut off, and contains word. */
static void check_error(mla_result rc, mla_result want, const mla_error *e, const char *word, const char *what) {
    int clean = rc == MLA_OK || (e->code == rc && strlen(e->text) > 8 && strlen(e->text) < sizeof e->text - 1);
    for (const char *c = e->text; clean && rc && *c; c++) clean = (unsigned char)*c >= 0x20;
    CHECK(rc == want, "%s: got %d, want %d (%s)", what, (int)rc, (int)want, rc ? e->text : "ok");
    CHECK(clean, "%s: bad message", what);
    if (rc) CHECK(strstr(e->text, word) != NULL, "%s: \"%s\" is not in: %s", what, word, e->text);
}

static void check_open(const char *path, mla_result want, const char *word, const char *what) {
    mla_error e;
    checkpoint *c;
    memset(&e, 0, sizeof e);
    mla_result rc = checkpoint_open(&c, path, &e);
    check_error(rc, want, &e, word, what);
    CHECK(!rc == !!c, "%s: *out", what);
    checkpoint_close(c);
}

/* ---- a model as lists of keys and tensors, which tests change and write ------------------------------------------- */

typedef struct kv {
    char name[80];
    gguf_type type; /* GGUF_ARRAY: of bools */
    int64_t integer;
    double number;
    char text[80];
    int count, strings; /* of an array's elements; they are generated strings */
    unsigned char bools[80];
    int32_t numbers[8]; /* with each, not integer for all */
    int each;
} kv;

typedef struct item {
    char name[80];
    int type, n_dims, mine; /* mine: data is to be freed */
    int64_t dims[4];
    unsigned char *data;
    size_t bytes;
} item;

typedef enum kvb_form { WHOLE = 0, SPLIT, BOTH, IK, KVB_FORMS } kvb_form;
static const char *const kvb_names[] = {"whole", "split", "both", "ik"};

enum { MAX_KEYS = 80, MAX_ITEMS = 2200 };
typedef struct file {
    const char *arch;
    kv keys[MAX_KEYS];
    int n_keys, n_items, fused;
    kvb_form form;
    mla_dtype dtype;  /* of matrices */
    test_rng *jitter; /* of their weights, or NULL */
    item *items;      /* [MAX_ITEMS] */
    void *kept[8];    /* memory that is no tensor's */
    int n_kept;
} file;

static kv *key(file *f, const char *name) { /* that key, new if there is none; with a point in front ARCH's */
    char full[80];
    snprintf(full, sizeof full, "%s%s", name[0] == '.' ? f->arch : "", name);
    for (int i = 0; i < f->n_keys; i++)
        if (!strcmp(f->keys[i].name, full)) return &f->keys[i];
    if (f->n_keys == MAX_KEYS) printf("too many keys\n"), exit(2);
    kv *k = &f->keys[f->n_keys++];
    memset(k, 0, sizeof *k);
    snprintf(k->name, sizeof k->name, "%s", full);
    return k;
}
static void put_int(file *f, const char *name, int64_t v) {
    kv *k = key(f, name);
    k->type = v < 0 || v > UINT32_MAX ? GGUF_I64 : GGUF_U32, k->integer = v;
}
static void put_float(file *f, const char *name, double v) {
    kv *k = key(f, name);
    k->type = GGUF_F32, k->number = v;
}
static void put_text(file *f, const char *name, const char *v) {
    kv *k = key(f, name);
    k->type = GGUF_STRING;
    snprintf(k->text, sizeof k->text, "%s", v);
}
static void put_bool(file *f, const char *name, int v) {
    kv *k = key(f, name);
    k->type = GGUF_BOOL, k->integer = v;
}
static void put_strings(file *f, const char *name, int count) { /* what write_key makes of them */
    kv *k = key(f, name);
    k->type = GGUF_STRING, k->strings = 1, k->count = count;
}
static void drop(file *f, const char *name) {
    kv *k = key(f, name);
    *k = f->keys[--f->n_keys];
}

/* A vocabulary of count tokens for texts: the id of a byte is the byte, written as GPT-2's letter for it, and each later
   token is a pair of these. between is "" for the token, " " for its merge. Returns its bytes. */
static size_t put_letter(char *to, unsigned byte) {
    const unsigned letter = byte <= 32                   ? 256 + byte
                            : byte >= 127 && byte <= 160 ? 162 + byte
                            : byte == 173                ? 323
                                                         : byte;
    const size_t n = letter < 128 ? 1 : 2;
    to[0] = (char)(n == 1 ? letter : 0xC0 | letter >> 6);
    if (n == 2) to[1] = (char)(0x80 | (letter & 63));
    return n;
}
static size_t put_token(char *to, unsigned id, const char *between) {
    if (id < 256) return put_letter(to, id);
    size_t n = put_letter(to, 'a' + (id - 256) / 256 % 26);
    memcpy(to + n, between, strlen(between));
    n += strlen(between);
    return n + put_letter(to + n, id % 256);
}

static void write_key(gguf_writer *w, const kv *k) {
    char text[16];
    if (k->type == GGUF_STRING && k->strings) {
        const int merges = !strcmp(k->name, "tokenizer.ggml.merges");
        gguf_put_strings(w, k->name, (size_t)k->count);
        for (int i = 0; i < k->count; i++)
            gguf_put_string(w, text, put_token(text, (unsigned)(merges ? 256 + i : i), merges ? " " : ""));
    } else if (k->type == GGUF_ARRAY) gguf_put_array(w, k->name, GGUF_BOOL, k->bools, (size_t)k->count);
    else if (k->type == GGUF_STRING) gguf_put_text(w, k->name, k->text);
    else if (k->type == GGUF_F32) gguf_put_number(w, k->name, k->number);
    else if (k->count) {
        int32_t *all = (int32_t *)need(malloc((size_t)k->count * sizeof *all));
        for (int i = 0; i < k->count; i++) all[i] = k->each ? k->numbers[i] : (int32_t)k->integer;
        gguf_put_array(w, k->name, GGUF_I32, all, (size_t)k->count);
        free(all);
    } else gguf_put_integer(w, k->name, k->type, k->integer);
}

/* Items from .. to - 1 with all keys, or as part no of count. */
static void write_part(const file *f, const char *path, int from, int to, int no, int count) {
    gguf_writer *w;
    mla_error e;
    if (gguf_create(&w, path, &e)) printf("%s\n", e.text), exit(2);
    for (int i = 0; i < f->n_keys && no == 0; i++) write_key(w, &f->keys[i]);
    if (count > 1) {
        gguf_put_integer(w, "split.no", GGUF_U16, no), gguf_put_integer(w, "split.count", GGUF_U16, count);
        gguf_put_integer(w, "split.tensors.count", GGUF_I32, f->n_items);
    }
    for (int i = from; i < to; i++)
        gguf_put_tensor(w, f->items[i].name, f->items[i].type, f->items[i].n_dims, f->items[i].dims);
    for (int i = from; i < to; i++) { /* in two pieces */
        const size_t half = f->items[i].bytes / 2;
        gguf_put_data(w, f->items[i].data, half);
        gguf_put_data(w, f->items[i].data + half, f->items[i].bytes - half);
    }
    if (gguf_finish(w, &e)) printf("%s\n", e.text), exit(2);
}

static void write_all(const file *f, const char *path) { write_part(f, path, 0, f->n_items, 0, 1); }

static item *find_item(file *f, const char *name) {
    for (int i = 0; i < f->n_items; i++)
        if (!strcmp(f->items[i].name, name)) return &f->items[i];
    printf("no tensor %s\n", name), exit(2);
}

static void drop_item(file *f, const char *name) {
    item *it = find_item(f, name);
    if (it->mine) free(it->data);
    *it = f->items[--f->n_items];
}

static file *file_new(const char *arch) {
    file *f = (file *)need(calloc(1, sizeof *f));
    f->arch = arch;
    f->items = (item *)need(calloc(MAX_ITEMS, sizeof *f->items));
    put_text(f, "general.architecture", arch);
    return f;
}

static void file_free(file *f) {
    if (!f) return;
    for (int i = 0; i < f->n_items; i++)
        if (f->items[i].mine) free(f->items[i].data);
    for (int i = 0; i < f->n_kept; i++) free(f->kept[i]);
    free(f->items);
    free(f);
}

/* A tensor of this type, with room for its data. */
static item *add_item(file *f, int layer, const char *name, mla_dtype dtype, int n_dims, int64_t a, int64_t b,
                      int64_t c) {
    item *it = &f->items[f->n_items++];
    if (f->n_items > MAX_ITEMS) printf("too many tensors\n"), exit(2);
    if (layer >= 0) snprintf(it->name, sizeof it->name, "blk.%d.%s", layer, name);
    else snprintf(it->name, sizeof it->name, "%s", name);
    it->type = gguf_type_of(dtype);
    it->n_dims = n_dims;
    it->dims[0] = a, it->dims[1] = b, it->dims[2] = c, it->dims[3] = 1;
    it->bytes = mla_dtype_bytes(dtype, (size_t)(a * b * c));
    it->data = (unsigned char *)need(calloc(1, it->bytes + 1));
    it->mine = 1;
    return it;
}

/* ---- a checkpoint as such a file ----------------------------------------------------------------------------------- */

/* What rows of cols weights become that are no multiple of a block of 256, or of 32. */
static mla_dtype fitting(mla_dtype want, int cols) {
    if (cols % mla_dtype_block(want) == 0) return want;
    return mla_dtype_block(want) == 256 && cols % 32 == 0 ? MLA_IQ4_NL : MLA_F16;
}

/* t as dtype at to; t then is a view of that. */
static void convert(test_rng *jitter, mla_tensor *t, mla_dtype dtype, unsigned char *to) {
    float *row = (float *)need(malloc((size_t)t->cols * sizeof *row));
    const size_t bytes = mla_dtype_bytes(dtype, (size_t)t->cols);
    for (int r = 0; r < t->rows; r++) {
        for (int c = 0; c < t->cols; c++) {
            row[c] = mla_weight(t, r, c);
            if (jitter) row[c] *= 1 + (2 * test_uniform(jitter) - 1) / 2048;
        }
        if (mla_quantize(dtype, to + (size_t)r * bytes, row, (size_t)t->cols, NULL)) printf("no such type\n"), exit(2);
    }
    free(row);
    *t = mla_view(to, dtype, t->rows, t->cols);
}

/* A matrix; t becomes what the file has. */
static void add_matrix(file *f, int layer, const char *name, mla_tensor *t) {
    const mla_dtype dtype = fitting(f->dtype, t->cols);
    if (!t->data) return;
    convert(f->jitter, t, dtype, add_item(f, layer, name, dtype, 2, t->cols, t->rows, 1)->data);
}
static void add_again(file *f, int layer, const char *name, const mla_tensor *t) {
    if (!t->data) return;
    item *it = add_item(f, layer, name, t->dtype, 2, t->cols, t->rows, 1);
    memcpy(it->data, t->data, it->bytes);
}
static void add_f32(file *f, int n_dims, int layer, const char *name, mla_tensor *t) { /* 3: with a 1 between */
    const int b = n_dims == 3 ? 1 : t->rows, c = n_dims == 3 ? t->rows : 1;
    if (!t->data) return;
    convert(NULL, t, MLA_F32, add_item(f, layer, name, MLA_F32, n_dims, t->cols, b, c)->data);
}
/* One of gate, up and down of all experts as one tensor; gate and up may be one, with gate's rows first. */
static void add_experts(file *f, int layer, const char *name, mla_mlp_weights *w, int E, int which) {
    const int both = which == 3;
    for (int part = both ? 0 : which; part <= (both ? 1 : which); part++) {
        mla_tensor *first = part == 0 ? &w->gate.weight : part == 1 ? &w->up.weight : &w->down.weight;
        const mla_dtype dtype = fitting(f->dtype, first->cols);
        const size_t bytes = mla_dtype_bytes(dtype, (size_t)first->rows * (size_t)first->cols);
        const int step = both ? 2 : 1;
        if (!both || part == 0) add_item(f, layer, name, dtype, 3, first->cols, step * first->rows, E);
        unsigned char *to = f->items[f->n_items - 1].data + (both ? (size_t)part * bytes : 0);
        for (int e = 0; e < E; e++, to += (size_t)step * bytes) {
            mla_tensor *t = part == 0 ? &w[e].gate.weight : part == 1 ? &w[e].up.weight : &w[e].down.weight;
            convert(f->jitter, t, dtype, to);
        }
    }
}

/* kv_b whole, or as k_b and v_b. What is left in w is what the reader shall find. */
static void add_kv_b(file *f, const mla_config *c, int layer, mla_attn_weights *w) {
    const int H = c->num_attention_heads, N = c->qk_nope_head_dim, V = c->v_head_dim, R = c->kv_lora_rank;
    mla_tensor from = w->kv_b.weight;
    if (f->form == WHOLE || f->form == BOTH) add_matrix(f, layer, "attn_kv_b.weight", &w->kv_b.weight);
    if (f->form == WHOLE) return;
    float *k = (float *)need(malloc((size_t)H * (size_t)R * (size_t)N * sizeof *k));
    float *v = (float *)need(malloc((size_t)H * (size_t)R * (size_t)V * sizeof *v));
    for (int h = 0; h < H; h++)
        for (int r = 0; r < R; r++) {
            for (int n = 0; n < N; n++) k[(h * R + r) * N + n] = mla_weight(&from, h * (N + V) + n, r);
            for (int n = 0; n < V; n++) v[(h * V + n) * R + r] = mla_weight(&from, h * (N + V) + N + n, r);
        }
    mla_tensor k_b = mla_view(k, MLA_F32, H * R, N), v_b = mla_view(v, MLA_F32, H * V, R);
    const mla_dtype kt = fitting(f->dtype, N), vt = fitting(f->dtype, R);
    convert(f->jitter, &k_b, kt,
            (f->form == IK ? add_item(f, layer, "attn_k_b.weight", kt, 2, N, R * H, 1)
                           : add_item(f, layer, "attn_k_b.weight", kt, 3, N, R, H))
                ->data);
    convert(f->jitter, &v_b, vt,
            (f->form == IK ? add_item(f, layer, "attn_v_b.weight", vt, 2, R, V * H, 1)
                           : add_item(f, layer, "attn_v_b.weight", vt, 3, R, V, H))
                ->data);
    free(k), free(v);
    if (f->form == BOTH) return;
    w->kv_b.weight.data = NULL;
    w->k_b = k_b, w->v_b = v_b;
}

/* A of KDA's decay, of which a file has exp(A) times sign: the reader shall find what comes back out of that. */
static void add_decay(file *f, int layer, mla_tensor *t, float sign) {
    item *it = add_item(f, layer, "ssm_a", MLA_F32, 2, 1, t->cols, 1);
    item *back = add_item(f, 0, "back", MLA_F32, 1, t->cols, 1, 1); /* no tensor of the file: only its memory */
    for (int h = 0; h < t->cols; h++) {
        const float x = sign * expf(mla_weight(t, 0, h)), a = (float)log((double)(sign * x));
        memcpy(it->data + 4 * h, &x, 4), memcpy(back->data + 4 * h, &a, 4);
    }
    *t = mla_view(back->data, MLA_F32, 1, t->cols);
    f->n_items--, f->kept[f->n_kept++] = back->data;
}

/* The tensors of a plan, each with what it is made from as what the file has. */
static void add_tensors(file *f, checkpoint *c, const convert_plan *p) {
    for (size_t i = 0; i < p->n; i++) {
        const convert_tensor *t = &p->tensors[i];
        mla_tensor *from = (mla_tensor *)(uintptr_t)t->from;
        const char *name = strncmp(t->name, "blk.", 4) ? t->name : strchr(t->name + 4, '.') + 1;
        const int layer = name == t->name ? -1 : atoi(t->name + 4), E = c->config.n_routed_experts;
        mla_mlp_weights *experts = NULL;
        if (t->kind == CONVERT_EXPERTS) experts = c->experts + (c->layers[layer].moe.experts - c->experts);
        if (t->kind == CONVERT_K_B) add_kv_b(f, &c->config, layer, &c->layers[layer].attn);
        else if (t->kind == CONVERT_V_B) continue;
        else if (t->kind == CONVERT_DECAY) add_decay(f, layer, from, strcmp(f->arch, "kimi-linear") ? 1.0f : -1.0f);
        else if (experts && f->fused && strstr(name, "_gate_"))
            add_experts(f, layer, "ffn_gate_up_exps.weight", experts, E, 3);
        else if (experts && f->fused && strstr(name, "_up_")) continue;
        else if (experts)
            add_experts(f, layer, name, experts, E, strstr(name, "_gate_") ? 0 : strstr(name, "_up_") ? 1 : 2);
        else if (t->k == CHECKPOINT_CLASS_COUNT) add_f32(f, t->n_dims, layer, name, from);
        else add_matrix(f, layer, name, from);
    }
}

static void put_key(file *f, const gguf_key *k) {
    kv *to = key(f, k->name);
    size_t n = 0;
    const char *text = gguf_string(k, &n);
    to->type = k->is_array ? GGUF_ARRAY : k->type;
    if (text) snprintf(to->text, sizeof to->text, "%.*s", (int)n, text);
    else if (k->is_array && k->type == GGUF_I32)
        memcpy(to->numbers, k->data, k->bytes), to->type = k->type, to->count = (int)k->count, to->each = 1;
    else if (k->is_array) memcpy(to->bools, k->data, k->bytes), to->count = (int)k->count;
    else if (!gguf_integer(k, 0, &to->integer)) gguf_number(k, 0, &to->number);
}

/* The keys as convert.h writes them, by way of a file. */
static void put_config(file *f, const convert_plan *p) {
    gguf_writer *w;
    gguf *g;
    mla_error e;
    if (gguf_create(&w, in_dir("keys.gguf"), &e)) printf("%s\n", e.text), exit(2);
    convert_put_config(p, w);
    if (gguf_finish(w, &e) || gguf_open(&g, in_dir("keys.gguf"), &e)) printf("%s\n", e.text), exit(2);
    for (size_t i = 0; i < gguf_key_count(g); i++) put_key(f, gguf_key_at(g, i));
    gguf_close(g);
    unlink(in_dir("keys.gguf"));
    if (!p->c->config.n_routed_experts && strcmp(f->arch, "minicpm3")) /* what Youtu's converter writes for llama.cpp */
        put_int(f, ".expert_feed_forward_length", p->c->config.intermediate_size),
            put_int(f, ".expert_shared_count", 0);
    put_text(f, "tokenizer.ggml.model", "gpt2");
    put_text(f, "tokenizer.ggml.pre", "deepseek-v3");
    put_strings(f, "tokenizer.ggml.tokens", p->c->config.vocab_size);
    put_strings(f, "tokenizer.ggml.merges", p->c->config.vocab_size - 256);
    kv *types = key(f, "tokenizer.ggml.token_type");
    types->type = GGUF_I32, types->count = p->c->config.vocab_size, types->integer = 1;
    put_int(f, "tokenizer.ggml.bos_token_id", p->c->bos_token_id);
    put_int(f, "tokenizer.ggml.eos_token_id", p->c->eos_token_id[0]);
}

static const struct fixture {
    const char *name, *arch;
} fixtures[] = {{"deepseek_v2_lite", "deepseek2"}, {"deepseek_v2", "deepseek2"},     {"deepseek_v3", "deepseek2"},
                {"kimi_k2", "deepseek2"},          {"glm4_moe_lite", "deepseek2"},   {"youtu", "deepseek2"},
                {"deepseek_v32", "deepseek32"},    {"glm_moe_dsa", "glm-dsa"},       {"minicpm3", "minicpm3"},
                {"minicpm3_longrope", "minicpm3"}, {"mistral4", "mistral4"},         {"hy_v4", "hy_v4"},
                {"kimi_linear", "kimi-linear"},    {"bailing_hybrid", "bailingmoe3"}};

/* The fixture as a file, and *ref the same weights where its own config leaves them: what differs between the two ways
   to a model is only how it was opened. */
static file *from_fixture(checkpoint **ref, const char *name, const char *arch, mla_dtype dtype, kvb_form form,
                          test_rng *jitter) {
    char path[128];
    mla_error e;
    const checkpoint_options how = {.mtp = 1};
    int types[CHECKPOINT_CLASS_COUNT];
    convert_plan *p;
    file *f = file_new(arch);
    snprintf(path, sizeof path, "%s%s", strchr(name, '/') ? "" : FIXTURES, name);
    if (checkpoint_open_with(ref, path, &how, &e)) printf("%s\n", e.text), exit(2);
    checkpoint *c = *ref;
    mla_config *m = &c->config;
    f->dtype = dtype, f->form = form, f->jitter = jitter, f->fused = !strcmp(name, "mistral4");
    if (!strcmp(name, "youtu") || !strcmp(name, "hy_v4"))
        m->rope.layout = MLA_ROPE_PAIR; /* as the published one has it, and its GGUF */
    if (!strcmp(arch, "minicpm3")) m->logits_scale = 256.0f / (float)m->hidden_size;
    for (int i = 0; i < CHECKPOINT_CLASS_COUNT; i++) types[i] = CONVERT_KEEP;
    if (convert_begin(&p, c, types, &e)) printf("%s\n", e.text), exit(2);
    put_config(f, p);
    add_tensors(f, c, p);
    convert_end(p);
    for (int i = 0; i < m->num_nextn_predict_layers && form == SPLIT; i++) { /* again: to be left out */
        add_again(f, m->num_hidden_layers + i, "nextn.embed_tokens.weight", &c->weights.embed);
        add_again(f, m->num_hidden_layers + i, "nextn.shared_head_head.weight", &c->weights.head);
    }
    return f;
}

static st_file *expected_of(const char *name, int *tokens, const float **logits) {
    char path[128];
    st_file *f;
    mla_error e;
    snprintf(path, sizeof path, FIXTURES "%s/expected.safetensors", name);
    if (st_open(&f, path, &e)) printf("%s\n", e.text), exit(2);
    for (int i = 0; i < PROMPT; i++) {
        int64_t id;
        memcpy(&id, (const char *)st_find(f, "tokens")->data + 8 * i, 8);
        tokens[i] = (int)id;
    }
    *logits = (const float *)st_find(f, "logits")->data;
    return f;
}

static void same_tensor(const mla_tensor *a, const mla_tensor *b, const char *what) {
    CHECK(!a->data == !b->data &&
              (!a->data || (a->dtype == b->dtype && a->rows == b->rows && a->cols == b->cols &&
                            !memcmp(a->data, b->data, mla_dtype_bytes(a->dtype, (size_t)a->rows * (size_t)a->cols)))),
          "%s differs", what);
}

/* One way of writing a fixture. */
static void test_way(const struct fixture *x, mla_dtype dtype, kvb_form form) {
    int tokens[PROMPT];
    const float *published;
    char what[120];
    mla_error e;
    checkpoint *ref, *c;
    const checkpoint_options how = {.mtp = 1};
    file *f = from_fixture(&ref, x->name, x->arch, dtype, form, NULL);
    const char *path = in_dir("model.gguf");
    snprintf(what, sizeof what, "%s as %s, kv_b %s", x->name, mla_dtype_name(dtype), kvb_names[form]);
    write_all(f, path);
    st_file *expected = expected_of(x->name, tokens, &published);
    if (CHECK(checkpoint_open_with(&c, path, &how, &e) == MLA_OK, "%s: %s", what, e.text)) {
        const size_t n = (size_t)PROMPT * (size_t)ref->config.vocab_size;
        float *got = run(c, tokens, PROMPT, what), *want = run(ref, tokens, PROMPT, what);
        CHECK(!memcmp(got, want, n * sizeof *got), "%s: logits differ by %g", what, (double)test_rel_err(got, want, n));
        const int as_published =
            strcmp(x->name, "youtu") && strcmp(x->name, "hy_v4") && strncmp(x->name, "minicpm3", 8);
        if (as_published && dtype <= MLA_BF16)
            CHECK(test_rel_err(got, published, n) < 5e-5f, "%s: transformers' logits differ by %g", what,
                  (double)test_rel_err(got, published, n));
        CHECK(!strcmp(c->model_type, x->arch) && c->gguf && c->bos_token_id == 0 && c->n_eos == 1 &&
                  c->eos_token_id[0] == 1 && c->max_position_embeddings == ref->max_position_embeddings &&
                  !c->groups_assumed,
              "%s: the rest", what);
        const int M = ref->config.num_nextn_predict_layers, L = ref->config.num_hidden_layers;
        CHECK(c->config.num_nextn_predict_layers == M, "%s: layers ahead", what);
        for (int i = 0; i < M; i++) {
            CHECK(!c->mtp[i].embed.data && !c->mtp[i].head.data, "%s: a second embedding or head", what);
            same_tensor(&c->mtp[i].eh_proj.weight, &ref->mtp[i].eh_proj.weight, "eh_proj");
            same_tensor(&c->mtp[i].enorm.weight, &ref->mtp[i].enorm.weight, "enorm");
            same_tensor(&c->mtp[i].hnorm.weight, &ref->mtp[i].hnorm.weight, "hnorm");
            same_tensor(&c->mtp[i].norm.weight, &ref->mtp[i].norm.weight, "shared_head_norm");
            same_tensor(&c->layers[L + i].attn.q_a.weight, &ref->layers[L + i].attn.q_a.weight, "q_a of it");
            same_tensor(&c->layers[L + i].moe.experts[3].down.weight, &ref->layers[L + i].moe.experts[3].down.weight,
                        "an expert of it");
        }
        free(got), free(want);
        checkpoint_close(c);
    }
    st_close(expected);
    checkpoint_close(ref);
    file_free(f);
}

static void test_fixtures(void) {
    static const mla_dtype dtypes[] = {MLA_F32, MLA_F16, MLA_BF16, MLA_Q8, MLA_Q4, MLA_IQ4_NL};
    for (size_t i = 0; i < COUNT(fixtures); i++) {
        SECTION(fixtures[i].name);
        for (size_t d = 0; d < COUNT(dtypes); d++)
            for (int form = 0; form < KVB_FORMS; form++)
                if (form < 2 || d % 3 == 0) test_way(&fixtures[i], dtypes[d], (kvb_form)form);
    }
}

/* Old files have no key_length_mla. With two parts, three of which the first has no tensor, opened by any. Layers ahead
   that nobody wants; dead indexers; alignments of nothing. */
static void test_variants(void) {
    SECTION("variants");
    int tokens[PROMPT];
    const float *published;
    mla_error e;
    checkpoint *ref, *c;
    char what[64];
    file *f = from_fixture(&ref, "deepseek_v3", "deepseek2", MLA_F32, WHOLE, NULL);
    st_file *expected = expected_of("deepseek_v3", tokens, &published);
    const size_t n = (size_t)PROMPT * (size_t)ref->config.vocab_size;
    ref->config.num_nextn_predict_layers = 0;
    float *want = run(ref, tokens, PROMPT, "reference");

    drop(f, ".attention.key_length_mla"), drop(f, ".attention.value_length_mla");
    put_int(f, ".attention.key_length", 48), put_int(f, ".attention.value_length", 32);
    put_int(f, ".attention.head_count_kv", 4);
    drop(f, ".vocab_size"), drop(f, ".rope.freq_base");
    kv *heads = key(f, ".attention.head_count"), *inter = key(f, ".feed_forward_length");
    heads->type = inter->type = GGUF_I32, heads->count = inter->count = 5;
    find_item(f, "blk.2.exp_probs_b.bias")->name[17] = 0; /* exp_probs_b */
    memcpy(find_item(f, "blk.3.exp_probs_b.bias")->name, "blk.3.exp_probs_b.weight", 25);
    write_part(f, in_dir("m-00001-of-00003.gguf"), 0, 0, 0, 3);
    write_part(f, in_dir("m-00002-of-00003.gguf"), 0, 31, 1, 3);
    write_part(f, in_dir("m-00003-of-00003.gguf"), 31, f->n_items, 2, 3);
    write_file(in_dir("mmproj-F16.gguf"), "GGUF", 4);
    write_file(in_dir("config.json"), "{}", 2);
    for (int i = 0; i < 4; i++) {
        snprintf(what, sizeof what, i ? "m-%05d-of-00003.gguf" : ".", i);
        if (!CHECK(checkpoint_open(&c, in_dir(what), &e) == MLA_OK, "%s: %s", what, e.text)) continue;
        float *got = run(c, tokens, PROMPT, what);
        CHECK(!memcmp(got, want, n * sizeof *got), "%s: logits", what);
        CHECK(gguf_parts(c->gguf) == 3 && gguf_tensor_count(c->gguf) == (size_t)f->n_items, "%s: parts", what);
        CHECK(!c->config.num_nextn_predict_layers && !c->mtp[0].eh_proj.weight.data, "%s: layers ahead", what);
        free(got);
        checkpoint_close(c);
    }
    SECTION("split sets that are none");
    const char *second = in_dir("m-00002-of-00003.gguf");
    write_part(f, second, 0, 31, 2, 3);
    check_open(dir, MLA_ERR_WEIGHTS, "split.no", "a wrong split.no");
    check_open(second, MLA_ERR_WEIGHTS, "expected a name", "a wrong split.no, opened by it");
    write_part(f, second, 0, 31, 1, 4);
    check_open(dir, MLA_ERR_WEIGHTS, "split.count", "a wrong split.count");
    write_part(f, second, 0, 30, 1, 3);
    check_open(dir, MLA_ERR_WEIGHTS, "split.tensors.count", "a tensor less");
    write_part(f, second, 0, 31, 1, 3), write_part(f, in_dir("m-00003-of-00003.gguf"), 30, f->n_items - 1, 2, 3);
    check_open(dir, MLA_ERR_WEIGHTS, "is there twice", "a tensor in two parts");
    write_part(f, second, 0, 31, 0, 1);
    check_open(dir, MLA_ERR_WEIGHTS, "split.no", "a part without split keys");
    unlink(second);
    check_open(dir, MLA_ERR_ARGUMENT, "m-00002-of-00003.gguf", "a missing part");
    rename(in_dir("m-00001-of-00003.gguf"), in_dir("other.gguf"));
    check_open(in_dir("other.gguf"), MLA_ERR_WEIGHTS, "expected a name", "a part under another name");
    clear_dir();

    SECTION("directories");
    write_all(f, in_dir("a.gguf"));
    check_open(dir, MLA_OK, "", "a directory with one");
    rename(in_dir("a.gguf"), in_dir("sha256-0123"));
    check_open(in_dir("sha256-0123"), MLA_OK, "", "a file with any name");
    check_open(dir, MLA_ERR_ARGUMENT, "config.json", "a directory with none");
    write_all(f, in_dir("a.gguf")), write_all(f, in_dir("b.gguf"));
    check_open(dir, MLA_ERR_ARGUMENT, "more than one GGUF file", "a directory with two");
    write_file(in_dir("model.safetensors"), "", 0);
    check_open(dir, MLA_ERR_ARGUMENT, "config.json", "a directory of Hugging Face");
    check_open(in_dir("model.safetensors"), MLA_ERR_WEIGHTS, "not a GGUF file", "another file");
    check_open(in_dir("none.gguf"), MLA_ERR_ARGUMENT, "no such file", "no file");
    char *located;
    CHECK(gguf_locate(NULL, dir, &e) == MLA_ERR_ARGUMENT && gguf_locate(&located, NULL, &e) == MLA_ERR_ARGUMENT,
          "gguf_locate of nothing");
    clear_dir();
    free(want);
    st_close(expected), checkpoint_close(ref), file_free(f);
}

/* ---- what keys say ------------------------------------------------------------------------------------------------ */

/* A model without a thought: zeros of the right shapes. */
static file *tiny(const char *arch, int blocks, int ahead, int E, int sigmoid) {
    enum { D = 32, R = 32, N = 16, P = 16, V = 16, W = 32 };
    const int dsa = !strcmp(arch, "glm-dsa") || !strcmp(arch, "deepseek32"), q = dsa ? 32 : 0;
    file *f = file_new(arch);
    const struct {
        const char *name;
        int value;
    } ints[] = {{".block_count", blocks},
                {".context_length", 64},
                {".vocab_size", W},
                {".embedding_length", D},
                {".feed_forward_length", W},
                {".leading_dense_block_count", E ? 1 : blocks},
                {".attention.head_count", 1},
                {".attention.kv_lora_rank", R},
                {".attention.key_length_mla", N + P},
                {".attention.value_length_mla", V},
                {".rope.dimension_count", P}};
    for (size_t i = 0; i < COUNT(ints); i++) put_int(f, ints[i].name, ints[i].value);
    put_float(f, ".attention.layer_norm_rms_epsilon", 1e-6);
    if (ahead) put_int(f, ".nextn_predict_layers", ahead);
    if (q) put_int(f, ".attention.q_lora_rank", q);
    if (E) {
        put_int(f, ".expert_count", E), put_int(f, ".expert_used_count", 8);
        put_int(f, ".expert_feed_forward_length", 1);
        if (sigmoid >= 0) put_int(f, ".expert_gating_func", sigmoid ? 2 : 1);
    }
    if (dsa) {
        put_int(f, ".attention.indexer.head_count", 2), put_int(f, ".attention.indexer.key_length", P);
        put_int(f, ".attention.indexer.top_k", 4);
    }
    add_item(f, -1, "token_embd.weight", MLA_F16, 2, D, W, 1);
    add_item(f, -1, "output_norm.weight", MLA_F32, 1, D, 1, 1);
    for (int i = 0; i < blocks; i++) {
        add_item(f, i, "attn_norm.weight", MLA_F32, 1, D, 1, 1), add_item(f, i, "ffn_norm.weight", MLA_F32, 1, D, 1, 1);
        if (q) {
            add_item(f, i, "attn_q_a.weight", MLA_F16, 2, D, q, 1);
            add_item(f, i, "attn_q_a_norm.weight", MLA_F32, 1, q, 1, 1);
            add_item(f, i, "attn_q_b.weight", MLA_F16, 2, q, N + P, 1);
        } else add_item(f, i, "attn_q.weight", MLA_F16, 2, D, N + P, 1);
        add_item(f, i, "attn_kv_a_mqa.weight", MLA_F16, 2, D, R + P, 1);
        add_item(f, i, "attn_kv_a_norm.weight", MLA_F32, 1, R, 1, 1);
        add_item(f, i, "attn_kv_b.weight", MLA_F16, 2, R, N + V, 1);
        add_item(f, i, "attn_output.weight", MLA_F16, 2, V, D, 1);
        if (dsa) {
            add_item(f, i, "indexer.attn_q_b.weight", MLA_F16, 2, q, 2 * P, 1);
            add_item(f, i, "indexer.attn_k.weight", MLA_F16, 2, D, P, 1);
            add_item(f, i, "indexer.k_norm.weight", MLA_F32, 1, P, 1, 1);
            add_item(f, i, "indexer.k_norm.bias", MLA_F32, 1, P, 1, 1);
            add_item(f, i, "indexer.proj.weight", MLA_F32, 2, D, 2, 1);
        }
        if (E && i > 0) {
            add_item(f, i, "ffn_gate_inp.weight", MLA_F32, 2, D, E, 1);
            add_item(f, i, "ffn_gate_exps.weight", MLA_F16, 3, D, 1, E);
            add_item(f, i, "ffn_up_exps.weight", MLA_F16, 3, D, 1, E);
            add_item(f, i, "ffn_down_exps.weight", MLA_F16, 3, 1, D, E);
        } else {
            add_item(f, i, "ffn_gate.weight", MLA_F16, 2, D, W, 1),
                add_item(f, i, "ffn_up.weight", MLA_F16, 2, D, W, 1);
            add_item(f, i, "ffn_down.weight", MLA_F16, 2, W, D, 1);
        }
    }
    return f;
}

/* Old files do not say in which groups their experts are, nor some how they are scored. */
static void test_silence(void) {
    SECTION("what files do not say");
    static const struct {
        const char *arch;
        int blocks, ahead, E, sigmoid, n_group, topk_group; /* sigmoid -1: not said */
        mla_topk_method method;
        mla_scoring_func scoring;
        const char *assumed;
    } cases[] = {
        {"deepseek2", 61, 0, 256, 1, 8, 4, MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID, "DeepSeek-V3"},
        {"deepseek2", 62, 1, 256, 1, 8, 4, MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID, "DeepSeek-V3"},
        {"deepseek32", 62, 1, 256, 1, 8, 4, MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID, "DeepSeek-V3"},
        {"deepseek2", 60, 0, 256, 1, 1, 1, MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID, NULL},
        {"deepseek2", 61, 0, 384, 1, 1, 1, MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID, NULL}, /* K2 */
        {"deepseek2", 60, 0, 160, -1, 8, 3, MLA_TOPK_GROUP_LIMITED_GREEDY, MLA_SCORING_SOFTMAX, "DeepSeek-V2"},
        {"deepseek2", 27, 0, 64, -1, 1, 1, MLA_TOPK_GREEDY, MLA_SCORING_SOFTMAX, NULL},
        {"deepseek2", 47, 0, 64, -1, 1, 1, MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID, NULL}, /* GLM-4.7-Flash */
        {"deepseek2", 48, 1, 64, -1, 1, 1, MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID, NULL},
        {"glm-dsa", 9, 1, 256, -1, 1, 1, MLA_TOPK_NOAUX_TC, MLA_SCORING_SIGMOID, NULL},
    };
    const char *path = in_dir("model.gguf");
    for (size_t i = 0; i < COUNT(cases); i++)
        for (int how = 0; how < CHECKPOINT_GROUPS_COUNT; how++) {
            const checkpoint_options o = {.groups = (checkpoint_groups)how};
            const int model = how == CHECKPOINT_GROUPS_MODEL;
            checkpoint *c;
            mla_model *m;
            mla_error e;
            file *f = tiny(cases[i].arch, cases[i].blocks, cases[i].ahead, cases[i].E, cases[i].sigmoid);
            write_all(f, path);
            file_free(f);
            if (!CHECK(checkpoint_open_with(&c, path, &o, &e) == MLA_OK, "%zu: %s", i, e.text)) continue;
            const mla_config *g = &c->config;
            const char *assumed = !cases[i].assumed ? NULL : model ? cases[i].assumed : "none";
            CHECK(g->n_group == (model ? cases[i].n_group : 1) && g->topk_group == (model ? cases[i].topk_group : 1),
                  "%zu: %d of %d groups", i, g->topk_group, g->n_group);
            CHECK(g->scoring_func == cases[i].scoring, "%zu: scoring", i);
            if (model) CHECK(g->topk_method == cases[i].method, "%zu: method", i);
            CHECK(!assumed == !c->groups_assumed && (!assumed || !strcmp(assumed, c->groups_assumed)), "%zu: assumed",
                  i);
            CHECK(g->num_hidden_layers == cases[i].blocks - cases[i].ahead && g->routed_scaling_factor == 1 &&
                      !g->norm_topk_prob && g->rope.theta == 10000 && g->q_norm.eps == 1e-6f,
                  "%zu: defaults", i);
            CHECK(mla_model_create(&m, &c->config, &c->weights, NULL, &e) == MLA_OK, "%zu: %s", i, e.text);
            mla_model_destroy(m);
            checkpoint_close(c);
        }
    const checkpoint_options wrong = {.groups = CHECKPOINT_GROUPS_COUNT};
    checkpoint *c;
    CHECK(checkpoint_open_with(&c, path, &wrong, NULL) == MLA_ERR_ARGUMENT && !c, "no such groups");

    /* heads of minicpm3 divide the embedding; its scales are in no file */
    file *small = tiny("minicpm3", 2, 0, 0, 0);
    drop(small, ".attention.value_length_mla"), drop(small, ".attention.key_length_mla");
    put_int(small, ".attention.key_length", 32);
    for (int i = 0; i < 2; i++) {
        item *kv_b = find_item(small, i ? "blk.1.attn_kv_b.weight" : "blk.0.attn_kv_b.weight");
        item *o = find_item(small, i ? "blk.1.attn_output.weight" : "blk.0.attn_output.weight");
        kv_b->dims[1] = 48, o->dims[0] = 32;
        kv_b->data = (unsigned char *)need(realloc(kv_b->data, kv_b->bytes = 32 * 48 * 2));
        o->data = (unsigned char *)need(realloc(o->data, o->bytes = 32 * 32 * 2));
        memset(kv_b->data, 0, kv_b->bytes), memset(o->data, 0, o->bytes);
    }
    write_all(small, path);
    file_free(small);
    if (CHECK(checkpoint_open(&c, path, NULL) == MLA_OK, "minicpm3")) {
        const mla_config *g = &c->config;
        CHECK(g->v_head_dim == 32 && g->rope.layout == MLA_ROPE_HALF && g->embed_scale == 12 && g->logits_scale == 8 &&
                  fabsf(g->residual_scale - 1.4f / sqrtf(2)) < 1e-7f,
              "minicpm3: what its file does not say");
        checkpoint_close(c);
    }

    /* which layers of GLM-5 have an indexer, with weights for one in each */
    for (int large = 0; large < 2; large++) {
        file *f = tiny("glm-dsa", 9, 0, 0, 0);
        put_int(f, ".context_length", large ? 1 << 20 : (1 << 20) - 1);
        write_all(f, path);
        file_free(f);
        if (!CHECK(checkpoint_open(&c, path, NULL) == MLA_OK, "glm-dsa")) continue;
        for (int i = 0; i < 9; i++)
            CHECK(!c->layers[i].attn.indexer.wk.weight.data == (large && i > 1 && i % 4 != 2), "indexer of layer %d",
                  i);
        checkpoint_close(c);
    }
}

typedef struct edit {
    const char *name;
    char type; /* of the new value: i, f, s, b, a (an array of integers), x (no such key) */
    double value;
    const char *text;
    mla_result want;
    const char *word;
} edit;

static void try_edit(const char *arch, const edit *x) {
    file *f = tiny(arch, 3, 0, 16, 0);
    const char *path = in_dir("model.gguf");
    char what[120];
    switch (x->type) {
    case 'i': put_int(f, x->name, (int64_t)x->value); break;
    case 'f': put_float(f, x->name, x->value); break;
    case 's': put_text(f, x->name, x->text); break;
    case 'b': put_bool(f, x->name, (int)x->value); break;
    case 'a': {
        kv *k = key(f, x->name);
        k->type = GGUF_I32, k->integer = (int64_t)x->value, k->count = 2;
    } break;
    default: drop(f, x->name); break;
    }
    snprintf(what, sizeof what, "%s %s %c %g", arch, x->name, x->type, x->value);
    write_all(f, path);
    check_open(path, x->want, x->word, what);
    file_free(f);
}

static void test_keys(void) {
    SECTION("keys: bad values");
    static const char *const needed[] = {".block_count",
                                         ".context_length",
                                         ".vocab_size",
                                         ".embedding_length",
                                         ".feed_forward_length",
                                         ".attention.head_count",
                                         ".attention.kv_lora_rank",
                                         ".attention.key_length_mla",
                                         ".attention.value_length_mla",
                                         ".rope.dimension_count",
                                         ".expert_used_count",
                                         ".expert_feed_forward_length",
                                         ".attention.layer_norm_rms_epsilon"};
    for (size_t i = 0; i < COUNT(needed); i++) {
        const int real = i + 1 == COUNT(needed);
        const edit edits[] = {{needed[i], 'x', 0, NULL, MLA_ERR_CONFIG,
                               i == 7   ? "key_length"
                               : i == 8 ? "value_length_mla"
                                        : needed[i]},
                              {needed[i], 'i', 0, NULL, MLA_ERR_CONFIG, needed[i]},
                              {needed[i], 'i', -1, NULL, MLA_ERR_CONFIG, needed[i]},
                              {needed[i], 's', 0, "3", MLA_ERR_CONFIG, needed[i]},
                              {needed[i], 'a', 3, NULL, MLA_ERR_CONFIG, needed[i]},
                              {needed[i], real ? 's' : 'f', 3, "3", MLA_ERR_CONFIG, needed[i]},
                              {needed[i], 'b', 1, NULL, MLA_ERR_CONFIG, needed[i]}};
        for (size_t k = 0; k < COUNT(edits); k++)
            if (i != 4 || edits[k].type != 'a') try_edit("deepseek2", &edits[k]); /* dense layers may have one each */
    }
    static const edit edits[] = {
        {"general.architecture", 'x', 0, NULL, MLA_ERR_CONFIG, "general.architecture"},
        {"general.architecture", 'i', 1, NULL, MLA_ERR_CONFIG, "general.architecture"},
        {"general.architecture", 's', 0, "llama", MLA_ERR_UNSUPPORTED, "\"llama\""},
        {"general.architecture", 's', 0, "kimi-k3", MLA_ERR_UNSUPPORTED, "Kimi Delta Attention"},
        {"general.architecture", 's', 0, "deepseek2\n", MLA_ERR_UNSUPPORTED, "\"deepseek2?\""},
        {"general.architecture", 's', 0, "glm-dsa", MLA_ERR_CONFIG, "missing"},
        {".block_count", 'i', 4, NULL, MLA_ERR_WEIGHTS, "blk.3."},
        {".block_count", 'i', 2, NULL, MLA_ERR_WEIGHTS, "blk.2."},
        {".block_count", 'i', 1000000, NULL, MLA_ERR_CONFIG, "block_count"},
        {".nextn_predict_layers", 'i', 3, NULL, MLA_ERR_CONFIG, "nextn_predict_layers"},
        {".nextn_predict_layers", 'i', 1, NULL, MLA_OK, ""},
        {".vocab_size", 'i', 33, NULL, MLA_ERR_WEIGHTS, "token_embd.weight"},
        {".attention.key_length_mla", 'i', 16, NULL, MLA_ERR_CONFIG, "key_length_mla"},
        {".attention.key_length_mla", 'i', 33, NULL, MLA_ERR_WEIGHTS, "attn_q.weight"},
        {".attention.q_lora_rank", 'i', 0, NULL, MLA_OK, ""},
        {".attention.q_lora_rank", 'i', 16, NULL, MLA_ERR_WEIGHTS, "attn_q_a.weight"},
        {".attention.layer_norm_rms_epsilon", 'f', HUGE_VAL, NULL, MLA_ERR_CONFIG, "epsilon"},
        {".rope.freq_base", 'f', -1, NULL, MLA_ERR_CONFIG, "rope.freq_base"},
        {".rope.freq_base", 'f', NAN, NULL, MLA_ERR_CONFIG, "rope.freq_base"},
        {".rope.scaling.type", 's', 0, "none", MLA_OK, ""},
        {".rope.scaling.type", 's', 0, "su", MLA_ERR_CONFIG, "rope.scaling.type"},
        {".rope.scaling.type", 'i', 0, NULL, MLA_ERR_CONFIG, "rope.scaling.type"},
        {".rope.scaling.type", 's', 0, "yarn", MLA_ERR_CONFIG, "rope.scaling.factor"},
        {".rope.scaling.type", 's', 0, "longrope", MLA_ERR_WEIGHTS, "rope_factors_long.weight"},
        {".rope.scaling.factor", 'f', 4, NULL, MLA_ERR_CONFIG, "rope.scaling.type"},
        {".rope.scaling.yarn_ext_factor", 'f', 0.5, NULL, MLA_ERR_UNSUPPORTED, "yarn_ext_factor"},
        {".rope.scaling.yarn_ext_factor", 'f', 1, NULL, MLA_OK, ""},
        {".attention.sliding_window", 'i', 512, NULL, MLA_ERR_UNSUPPORTED, "sliding_window"},
        {".final_logit_softcapping", 'f', 30, NULL, MLA_ERR_UNSUPPORTED, "final_logit_softcapping"},
        {".expert_count", 'i', 17, NULL, MLA_ERR_WEIGHTS, "ffn_down_exps.weight"},
        {".expert_count", 'i', 65537, NULL, MLA_ERR_CONFIG, "expert_count"},
        {".expert_used_count", 'i', 17, NULL, MLA_ERR_CONFIG, "expert_used_count"},
        {".expert_gating_func", 'i', 3, NULL, MLA_ERR_UNSUPPORTED, "expert_gating_func"},
        {".expert_group_count", 'i', 17, NULL, MLA_ERR_CONFIG, "expert_group_count"},
        {".expert_shared_count", 'i', 1, NULL, MLA_ERR_WEIGHTS, "ffn_gate_shexp.weight"},
        {".expert_weights_norm", 'i', 1, NULL, MLA_ERR_CONFIG, "expert_weights_norm"},
        {".expert_weights_scale", 'f', -1, NULL, MLA_ERR_CONFIG, "expert_weights_scale"},
        {".leading_dense_block_count", 'i', 0, NULL, MLA_ERR_WEIGHTS, "blk.0.ffn_down_exps.weight"},
        {".leading_dense_block_count", 'i', 9, NULL, MLA_ERR_WEIGHTS, "blk.1.ffn_gate.weight"},
        {".attention.temperature_scale", 'f', 0.1, NULL, MLA_ERR_CONFIG, "temperature_length"},
        {"tokenizer.ggml.eos_token_id", 'i', 32, NULL, MLA_ERR_CONFIG, "eos_token_id"},
        {"tokenizer.ggml.bos_token_id", 's', 0, "x", MLA_ERR_CONFIG, "bos_token_id"},
        {"general.alignment", 'i', 32, NULL, MLA_OK, ""},
    };
    for (size_t i = 0; i < COUNT(edits); i++) try_edit("deepseek2", &edits[i]);
    static const edit sparse[] = {
        {".attention.indexer.top_k", 'x', 0, NULL, MLA_ERR_CONFIG, "indexer.top_k"},
        {".attention.indexer.key_length", 'i', 8, NULL, MLA_ERR_CONFIG, "indexer.key_length"},
        {".attention.q_lora_rank", 'x', 0, NULL, MLA_ERR_CONFIG, "q_lora_rank"},
        {".attention.indexer.types", 'a', 1, NULL, MLA_ERR_CONFIG, "indexer.types"}, /* two for three layers */
        {".attention.indexer.types", 'i', 1, NULL, MLA_ERR_CONFIG, "indexer.types"}};
    for (size_t i = 0; i < COUNT(sparse); i++) try_edit("glm-dsa", &sparse[i]);

    /* every end of a text, once */
    file *f = tiny("deepseek2", 1, 0, 0, 0);
    checkpoint *c;
    put_int(f, "tokenizer.ggml.eos_token_id", 3), put_int(f, "tokenizer.ggml.eot_token_id", 5);
    put_int(f, "tokenizer.ggml.eom_token_id", 3), put_int(f, "tokenizer.ggml.bos_token_id", 2);
    write_all(f, in_dir("model.gguf"));
    if (CHECK(checkpoint_open(&c, in_dir("model.gguf"), NULL) == MLA_OK, "ids"))
        CHECK(c->bos_token_id == 2 && c->n_eos == 2 && c->eos_token_id[0] == 3 && c->eos_token_id[1] == 5, "ids");
    checkpoint_close(c);
    file_free(f);
}

/* What layers with a state need, each left out or wrong, and what may be otherwise. */
static void test_kda(void) {
    static const char *const archs[][2] = {{"kimi_linear", "kimi-linear"}, {"bailing_hybrid", "bailingmoe3"}};
    static const struct {
        int of; /* 0, 1: of that arch, 2: of both */
        const char *key;
        char type; /* x: dropped, b: a bool, f: a number, i: an integer, a: its last element, t: the tensor dropped */
        double value;
        mla_result want;
        const char *word;
    } edits[] = {
        {2, ".kda.head_dim", 'x', 0, MLA_ERR_CONFIG, "kda.head_dim"},
        {2, ".ssm.conv_kernel", 'x', 0, MLA_ERR_CONFIG, "ssm.conv_kernel"},
        {2, ".ssm.conv_kernel", 'i', 3, MLA_ERR_WEIGHTS, "blk.0.ssm_conv1d_q.weight"},
        {2, ".attention.head_count_kv", 'x', 0, MLA_ERR_CONFIG, "head_count_kv"},
        {2, ".attention.head_count_kv", 'i', 1, MLA_ERR_CONFIG, "head_count_kv"},
        {2, ".attention.head_count_kv", 'a', -1, MLA_ERR_CONFIG, "head_count_kv"},
        {2, ".attention.head_count_kv", 'a', 0, MLA_ERR_WEIGHTS, ".attn_"},
        {2, ".expert_gating_func", 'x', 0, MLA_ERR_CONFIG, "expert_gating_func"},
        {2, ".expert_gating_func", 'i', 0, MLA_ERR_CONFIG, "expert_gating_func"},
        {2, ".expert_shared_feed_forward_length", 'i', 17, MLA_ERR_CONFIG, "a multiple of expert_feed_forward_length"},
        {2, ".swiglu_clamp_exp", 'f', 7, MLA_ERR_UNSUPPORTED, "swiglu_clamp_exp"},
        {2, ".swiglu_clamp_shexp", 'f', 7, MLA_ERR_UNSUPPORTED, "swiglu_clamp_shexp"},
        {2, ".swiglu_clamp_shexp", 'f', 0, MLA_OK, ""},
        {0, ".kda.safe_gate", 'b', 1, MLA_ERR_CONFIG, "kda.safe_gate"},
        {0, ".kda.safe_gate", 'b', 0, MLA_OK, ""},
        {0, ".expert_weights_norm", 'x', 0, MLA_OK, ""},
        {1, ".kda.safe_gate", 'b', 0, MLA_ERR_CONFIG, "kda.safe_gate"},
        {1, ".kda.safe_gate", 'x', 0, MLA_OK, ""},
        {1, ".kda.gate_lower_bound", 'x', 0, MLA_ERR_CONFIG, "kda.gate_lower_bound"},
        {1, ".kda.gate_lower_bound", 'f', 0, MLA_ERR_CONFIG, "kda.gate_lower_bound"},
        {2, "blk.0.ssm_a", 't', 0, MLA_ERR_WEIGHTS, "blk.0.ssm_a"},
        {2, "blk.2.ssm_dt.bias", 't', 0, MLA_ERR_WEIGHTS, "blk.2.ssm_dt.bias"},
        {2, "blk.0.ssm_beta.weight", 't', 0, MLA_ERR_WEIGHTS, "blk.0.ssm_beta.weight"},
        {2, "blk.0.ssm_f_a.weight", 't', 0, MLA_ERR_WEIGHTS, "blk.0.ssm_f_a.weight"},
        {0, "blk.2.ssm_g_b.weight", 't', 0, MLA_ERR_WEIGHTS, "blk.2.ssm_g_b.weight"},
        {1, "blk.3.attn_gate.weight", 't', 0, MLA_ERR_WEIGHTS, "blk.3.attn_gate.weight"},
        {2, "blk.0.ssm_a", 'n', 0, MLA_ERR_WEIGHTS, "blk.0.ssm_a"}, /* its sign */
    };
    SECTION("Kimi Delta Attention");
    for (size_t i = 0; i < 2 * COUNT(edits); i++) {
        const int of = (int)(i % 2), x = (int)(i / 2);
        checkpoint *ref, *c = NULL;
        mla_error e;
        if (edits[x].of != 2 && edits[x].of != of) continue;
        file *f = from_fixture(&ref, archs[of][0], archs[of][1], MLA_BF16, SPLIT, NULL);
        kv *k = strchr("bfia", edits[x].type) ? key(f, edits[x].key) : NULL;
        if (edits[x].type == 'x') drop(f, edits[x].key);
        else if (edits[x].type == 't') drop_item(f, edits[x].key);
        else if (edits[x].type == 'n') find_item(f, edits[x].key)->data[7] ^= 0x80;
        else if (edits[x].type == 'f') put_float(f, edits[x].key, edits[x].value);
        else if (edits[x].type == 'b') put_bool(f, edits[x].key, edits[x].value != 0);
        else if (edits[x].type == 'a') k->numbers[k->count - 1] = (int32_t)edits[x].value;
        else k->type = GGUF_U32, k->count = 0, k->integer = (int64_t)edits[x].value;
        write_all(f, in_dir("model.gguf"));
        const mla_result rc = checkpoint_open(&c, in_dir("model.gguf"), &e);
        check_error(rc, edits[x].want, &e, edits[x].word, edits[x].key);
        if (!rc)
            CHECK(c->config.norm_topk_prob && c->config.kda_lower_bound == (of ? -5.0f : 0.0f) &&
                      c->config.rope.layout == (of ? MLA_ROPE_PAIR : MLA_ROPE_NONE) && c->layers[0].kda.q.weight.data &&
                      !c->layers[1].kda.q.weight.data,
                  "%s: config", edits[x].key);
        checkpoint_close(c), checkpoint_close(ref);
        file_free(f);
    }
    clear_dir();
}

/* A limit of activations: one number, or one for each layer, of which those with experts must agree. */
static void test_limits(void) {
    static const struct {
        int count; /* 0: a number */
        int32_t each[5];
        double value;
        mla_result want;
    } limits[] = {{0, {0}, 5, MLA_OK},
                  {0, {0}, -1, MLA_ERR_CONFIG},
                  {4, {0, 7, 7, 7}, 7, MLA_OK},
                  {4, {7, 7, 7, 6}, 0, MLA_ERR_CONFIG},
                  {4, {7, 7, 6, 7}, 0, MLA_ERR_CONFIG},
                  {4, {-1, -1, -1, -1}, 0, MLA_ERR_CONFIG},
                  {3, {7, 7, 7}, 0, MLA_ERR_CONFIG},
                  {1, {7}, 0, MLA_ERR_CONFIG}};
    checkpoint *ref, *c;
    mla_error e;
    SECTION("a limit for each layer");
    for (size_t i = 0; i < COUNT(limits); i++) {
        file *f = from_fixture(&ref, "hy_v4", "hy_v4", MLA_BF16, SPLIT, NULL);
        put_float(f, ".swiglu_clamp_exp", limits[i].value);
        kv *k = key(f, ".swiglu_clamp_exp");
        if (limits[i].count) k->type = GGUF_I32, k->count = limits[i].count, k->each = 1;
        memcpy(k->numbers, limits[i].each, sizeof limits[i].each);
        write_all(f, in_dir("model.gguf"));
        const mla_result rc = checkpoint_open(&c, in_dir("model.gguf"), &e);
        check_error(rc, limits[i].want, &e,
                    limits[i].count ? "a number from 0 on, the same for all layers" : "a number from 0 on",
                    "swiglu_clamp_exp");
        if (!rc) CHECK(c->config.swiglu_limit == (float)limits[i].value, "%g", (double)c->config.swiglu_limit);
        checkpoint_close(c), checkpoint_close(ref);
        file_free(f);
    }
    clear_dir();
}

/* Hy4's own keys, and tensors whose names may end with .weight. */
static void test_hy(void) {
    static const struct {
        const char *drop, *word;
    } keys[] = {{".hyper_connection.count", "hy_v4.hyper_connection.count"},
                {".hyper_connection.magnitude", "hy_v4.hyper_connection.magnitude"},
                {".attention.indexer.top_k", "hy_v4.attention.indexer.top_k"}};
    static const char *const tensors[] = {"blk.0.attn_sinks.weight", "blk.1.hc_ffn_base.weight",
                                          "blk.2.hc_attn_fn.weight", "output_hc_scale.weight",
                                          "blk.3.hc_attn_scale.weight"};
    checkpoint *ref, *c;
    mla_error e;
    SECTION("hy_v4");
    for (size_t i = 0; i < COUNT(keys) + COUNT(tensors) + 1; i++) {
        file *f = from_fixture(&ref, "hy_v4", "hy_v4", MLA_BF16, SPLIT, NULL);
        const size_t n = i < COUNT(keys) ? 0 : i - COUNT(keys);
        if (i < COUNT(keys)) drop(f, keys[i].drop);
        else if (n < COUNT(tensors)) drop_item(f, tensors[n]);
        else {
            drop(f, ".hyper_connection.epsilon"), drop(f, ".swiglu_clamp_exp"), drop(f, ".attention.indexer.types");
            for (size_t k = 0; k < COUNT(tensors); k++) {
                item *it = find_item(f, tensors[k]);
                it->name[strlen(it->name) - strlen(".weight")] = 0;
            }
            snprintf(find_item(f, "output_hc_scale")->name, sizeof f->items->name, "hc_head_scale");
            snprintf(find_item(f, "output_hc_base.weight")->name, sizeof f->items->name, "hc_head_base.weight");
            snprintf(find_item(f, "output_hc_fn.weight")->name, sizeof f->items->name, "hc_head_fn.weight");
        }
        write_all(f, in_dir("model.gguf"));
        if (n < COUNT(tensors))
            check_open(in_dir("model.gguf"), i < COUNT(keys) ? MLA_ERR_CONFIG : MLA_ERR_WEIGHTS,
                       i < COUNT(keys) ? keys[i].word : tensors[n], "without");
        else if (CHECK(checkpoint_open(&c, in_dir("model.gguf"), &e) == MLA_OK, "%s", e.text)) {
            const mla_config *m = &c->config;
            CHECK(m->hc_mult == 4 && m->hc_eps == 1e-6f && m->hc_magnitude == 2 && m->swiglu_limit == 0 &&
                      m->index_rope_last == 1 && m->index_rope == MLA_ROPE_HALF && m->rope.layout == MLA_ROPE_PAIR,
                  "config");
            for (int l = 0; l < 4; l++)
                CHECK((c->layers[l].attn.indexer.wk.weight.data != NULL) == (l < 2) && c->layers[l].attn.sinks.data &&
                          c->layers[l].ffn_hc.base.data,
                      "layer %d", l);
            checkpoint_close(c);
        }
        checkpoint_close(ref);
        file_free(f);
    }
    clear_dir();
}

static void test_tensors(void) {
    SECTION("tensors: missing, misshapen, unexpected, of a wrong type");
    file *f = tiny("glm-dsa", 2, 0, 8, 1);
    const char *path = in_dir("model.gguf");
    for (int i = 0; i < f->n_items; i++) {
        item *it = &f->items[i], was = *it;
        snprintf(it->name, sizeof it->name, "blk.1.another");
        write_all(f, path), check_open(path, MLA_ERR_WEIGHTS, "", was.name);
        *it = was;
        it->dims[it->n_dims - 1]--; /* the file then has less of it */
        it->bytes = it->dims[it->n_dims - 1] ? mla_dtype_bytes(it->type ? MLA_F16 : MLA_F32,
                                                               (size_t)(it->dims[0] * it->dims[1] * it->dims[2]))
                                             : 0;
        if (it->bytes) write_all(f, path), check_open(path, MLA_ERR_WEIGHTS, was.name, was.name);
        *it = was;
        it->type = it->type ? 25 : 26; /* I16, I32 */
        write_all(f, path), check_open(path, MLA_ERR_UNSUPPORTED, was.name, was.name);
        *it = was;
        if (it->n_dims == 1) { /* as if it had been quantised */
            it->type = gguf_type_of(MLA_Q8), it->dims[0] = it->dims[0] / 32 * 32;
            it->bytes = mla_dtype_bytes(MLA_Q8, (size_t)it->dims[0]);
            if (it->dims[0] == was.dims[0])
                write_all(f, path), check_open(path, MLA_ERR_WEIGHTS, "found type Q8_0", was.name);
        }
        *it = was;
    }
    add_item(f, 0, "attn_q_a.bias", MLA_F32, 1, 32, 1, 1);
    write_all(f, path), check_open(path, MLA_ERR_WEIGHTS, "attn_q_a.bias\" is unexpected", "a bias");
    drop_item(f, "blk.0.attn_q_a.bias");
    add_item(f, 0, "attn_v_b.weight", MLA_F32, 3, 32, 16, 1);
    write_all(f, path), check_open(path, MLA_ERR_WEIGHTS, "attn_k_b.weight\" is missing", "a half of kv_b");
    drop_item(f, "blk.0.attn_v_b.weight");
    add_item(f, -1, "rope_freqs.weight", MLA_F16, 1, 8, 1, 1);
    write_all(f, path), check_open(path, MLA_ERR_WEIGHTS, "rope_freqs.weight", "rope_freqs in f16");
    drop_item(f, "rope_freqs.weight");
    item *freqs = add_item(f, -1, "rope_freqs.weight", MLA_F32, 1, 8, 1, 1);
    write_all(f, path), check_open(path, MLA_ERR_WEIGHTS, "above 0", "rope_freqs of 0");
    for (int i = 0; i < 8; i++) {
        const float two = 2;
        memcpy(freqs->data + 4 * i, &two, 4);
    }
    write_all(f, path);
    checkpoint *c;
    mla_model *m, *plain;
    if (CHECK(checkpoint_open(&c, path, NULL) == MLA_OK, "rope_freqs")) {
        CHECK(mla_model_create(&m, &c->config, &c->weights, NULL, NULL) == MLA_OK, "rope_freqs: model");
        c->config.rope.scaling = MLA_ROPE_DEFAULT;
        CHECK(mla_model_create(&plain, &c->config, &c->weights, NULL, NULL) == MLA_OK, "rope_freqs: model");
        for (int i = 0; i < 8; i++)
            CHECK(2 * mla_model_inv_freq(m)[i] == mla_model_inv_freq(plain)[i], "rope_freqs: frequency %d", i);
        CHECK(mla_model_rope_amplitude(m) == 1, "rope_freqs: amplitude");
        mla_model_destroy(m), mla_model_destroy(plain), checkpoint_close(c);
    }
    file_free(f);
}

/* ---- damaged files ------------------------------------------------------------------------------------------------ */

typedef struct bytes {
    unsigned char data[4096];
    size_t n;
} bytes;

static void add(bytes *b, const void *data, size_t n) { memcpy(b->data + b->n, data, n), b->n += n; }
static void add_int(bytes *b, uint64_t v, int n) {
    for (int i = 0; i < n; i++) b->data[b->n++] = (unsigned char)(v >> (8 * i));
}
static void add_str(bytes *b, const char *s) { add_int(b, strlen(s), 8), add(b, s, strlen(s)); }
static void add_head(bytes *b, uint32_t version, uint64_t tensors, uint64_t keys) {
    b->n = 0;
    add(b, "GGUF", 4), add_int(b, version, 4), add_int(b, tensors, 8), add_int(b, keys, 8);
}
static void add_info(bytes *b, const char *name, int n_dims, uint64_t d0, uint64_t d1, uint32_t type, uint64_t offset) {
    const uint64_t dims[2] = {d0, d1};
    add_str(b, name), add_int(b, (uint64_t)n_dims, 4);
    for (int i = 0; i < n_dims; i++) add_int(b, i < 2 ? dims[i] : 1, 8);
    add_int(b, type, 4), add_int(b, offset, 8);
}
static void add_data(bytes *b, size_t n) { /* behind padding */
    while (b->n % 32) b->data[b->n++] = 0;
    memset(b->data + b->n, 1, n), b->n += n;
}

static void try_bytes(const bytes *b, mla_result want, const char *word, const char *what) {
    mla_error e;
    gguf *g;
    unsigned char *exact = (unsigned char *)need(malloc(b->n + !b->n)); /* the sanitizer sees its end */
    memcpy(exact, b->data, b->n);
    memset(&e, 0, sizeof e);
    mla_result rc = gguf_parse(&g, exact, b->n, "x.gguf", &e);
    check_error(rc, want, &e, word, what);
    CHECK(!rc == !!g, "%s: *out", what);
    gguf_close(g);
    free(exact);
}

/* One tensor of 64 f32 after a change to its description. */
static void try_info(int n_dims, uint64_t d0, uint64_t d1, uint32_t type, uint64_t offset, mla_result want,
                     const char *word) {
    bytes b;
    char what[120];
    snprintf(what, sizeof what, "tensor of %d dimensions %llu, %llu of type %u at %llu", n_dims, (unsigned long long)d0,
             (unsigned long long)d1, (unsigned)type, (unsigned long long)offset);
    add_head(&b, 3, 1, 0), add_info(&b, "t", n_dims, d0, d1, type, offset), add_data(&b, 256);
    try_bytes(&b, want, word, what);
}

static void try_key(mla_result want, const char *word, const char *name, uint32_t type, const void *value, size_t n) {
    bytes b;
    char what[120];
    snprintf(what, sizeof what, "key %.20s of type %u", name, (unsigned)type);
    add_head(&b, 3, 0, 1), add_str(&b, name), add_int(&b, type, 4), add(&b, value, n);
    try_bytes(&b, want, word, what);
}

static void test_container(void) {
    bytes b;
    SECTION("container: the head");
    b.n = 0, try_bytes(&b, MLA_ERR_WEIGHTS, "not a GGUF file", "nothing");
    add(&b, "GGU", 3), try_bytes(&b, MLA_ERR_WEIGHTS, "not a GGUF file", "three bytes");
    add(&b, "X", 1), try_bytes(&b, MLA_ERR_WEIGHTS, "not a GGUF file", "another magic");
    add_head(&b, 1, 0, 0), try_bytes(&b, MLA_ERR_UNSUPPORTED, "version 1", "version 1");
    add_head(&b, 0, 0, 0), try_bytes(&b, MLA_ERR_UNSUPPORTED, "version 0", "version 0");
    add_head(&b, 4, 0, 0), try_bytes(&b, MLA_ERR_UNSUPPORTED, "version 4", "version 4");
    add_head(&b, 0x03000000, 0, 0), try_bytes(&b, MLA_ERR_UNSUPPORTED, "big-endian", "big-endian");
    add_head(&b, 2, 0, 0), try_bytes(&b, MLA_OK, "", "version 2 with nothing");
    static const uint64_t counts[] = {1, 1000, (uint64_t)1 << 32, (uint64_t)1 << 60, (uint64_t)1 << 63, UINT64_MAX};
    for (size_t i = 0; i < COUNT(counts); i++) {
        add_head(&b, 3, counts[i], 0), try_bytes(&b, MLA_ERR_WEIGHTS, "more than its 24 bytes", "many tensors");
        add_head(&b, 3, 0, counts[i]), try_bytes(&b, MLA_ERR_WEIGHTS, "more than its 24 bytes", "many keys");
    }

    SECTION("container: keys");
    static const unsigned char zeros[64] = {0};
    for (uint32_t type = 0; type < 14; type++)
        try_key(type < 8 || (type > 9 && type < 13) || type == 8 || type == 9 ? MLA_OK : MLA_ERR_WEIGHTS, "not known",
                "k", type, zeros, 12);
    try_key(MLA_ERR_WEIGHTS, "not known", "k", UINT32_MAX, zeros, 12);
    try_key(MLA_ERR_WEIGHTS, "the file ends", "k", GGUF_ARRAY, zeros, 11);
    try_key(MLA_ERR_WEIGHTS, "but 7 bytes are left", "k", GGUF_U64, zeros, 7);
    try_key(MLA_ERR_WEIGHTS, "is empty", "", GGUF_U64, zeros, 8);
    try_key(MLA_ERR_WEIGHTS, "not UTF-8", "\xff\xfe", GGUF_U64, zeros, 8);
    try_key(MLA_ERR_WEIGHTS, "not UTF-8", "k\xc3", GGUF_U64, zeros, 8);
    try_key(MLA_ERR_WEIGHTS, "neither 0 nor 1", "k", GGUF_BOOL, "\2", 1);
    try_key(MLA_ERR_WEIGHTS, "neither 0 nor 1", "k", GGUF_ARRAY, "\7\0\0\0\2\0\0\0\0\0\0\0\1\2", 14);
    try_key(MLA_ERR_WEIGHTS, "array of arrays", "k", GGUF_ARRAY, "\11\0\0\0\0\0\0\0\0\0\0\0", 12);
    try_key(MLA_ERR_WEIGHTS, "not known", "k", GGUF_ARRAY, "\15\0\0\0\0\0\0\0\0\0\0\0", 12);
    for (int s = 0; s < 2; s++)
        for (size_t i = 0; i < COUNT(counts); i++) {
            unsigned char value[12];
            memcpy(value, s ? "\10\0\0\0" : "\4\0\0\0", 4);
            for (int k = 0; k < 8; k++) value[4 + k] = (unsigned char)(counts[i] >> (8 * k));
            try_key(MLA_ERR_WEIGHTS, "elements, but 0 bytes are left", "k", GGUF_ARRAY, value, 12);
            try_key(MLA_ERR_WEIGHTS, i ? "more than there are" : "more than there are", "k", GGUF_STRING, value + 4, 8);
        }
    try_key(MLA_ERR_WEIGHTS, "NUL", "k", GGUF_STRING, "\2\0\0\0\0\0\0\0a\0", 10);
    try_key(MLA_ERR_WEIGHTS, "not UTF-8", "k", GGUF_ARRAY, "\10\0\0\0\1\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\200", 21);
    add_head(&b, 3, 0, 1), add_int(&b, UINT64_MAX - 7, 8), add_int(&b, 0, 8);
    try_bytes(&b, MLA_ERR_WEIGHTS, "more than there are", "a name of 2^64 - 8 bytes");
    add_head(&b, 3, 0, 1), add_int(&b, 2, 8), add(&b, "a\0", 2), add_int(&b, 0, 8);
    try_bytes(&b, MLA_ERR_WEIGHTS, "NUL", "a name with a NUL");
    add_head(&b, 3, 0, 2), add_str(&b, "twice"), add_int(&b, 0, 4), add_int(&b, 1, 1);
    add_str(&b, "twice"), add_int(&b, 0, 4), add_int(&b, 1, 1);
    try_bytes(&b, MLA_ERR_WEIGHTS, "\"twice\" is there twice", "a key twice");
    static const struct {
        uint32_t type;
        int64_t value;
        int good;
    } aligned[] = {{4, 0, 0},   {4, 3, 0},   {4, 48, 0}, {4, 1, 1},        {4, 64, 1},
                   {10, 32, 1}, {5, -32, 0}, {7, 1, 0},  {4, 1u << 31, 0}, {6, 32, 0}};
    for (size_t i = 0; i < COUNT(aligned); i++) {
        add_head(&b, 3, 0, 1), add_str(&b, "general.alignment"), add_int(&b, aligned[i].type, 4);
        add_int(&b, (uint64_t)aligned[i].value, 8);
        try_bytes(&b, aligned[i].good ? MLA_OK : MLA_ERR_WEIGHTS, "general.alignment", "alignment");
    }
    add_head(&b, 3, 0, 1), add_str(&b, "split.count"), add_int(&b, GGUF_U16, 4), add_int(&b, 2, 2);
    try_bytes(&b, MLA_ERR_WEIGHTS, "split set", "a part in a buffer");

    SECTION("container: tensors");
    try_info(1, 64, 1, 0, 0, MLA_OK, "");
    try_info(2, 8, 8, 0, 0, MLA_OK, "");
    try_info(4, 64, 1, 0, 0, MLA_OK, "");
    try_info(1, 32, 1, 8, 32, MLA_OK, "");
    try_info(0, 64, 1, 0, 0, MLA_ERR_WEIGHTS, "0 dimensions");
    try_info(5, 64, 1, 0, 0, MLA_ERR_WEIGHTS, "5 dimensions");
    try_info(1, 0, 1, 0, 0, MLA_ERR_WEIGHTS, "are none");
    try_info(2, 64, 0, 0, 0, MLA_ERR_WEIGHTS, "are none");
    try_info(1, UINT64_MAX, 1, 0, 0, MLA_ERR_WEIGHTS, "are none");
    try_info(2, (uint64_t)1 << 32, (uint64_t)1 << 32, 0, 0, MLA_ERR_WEIGHTS, "are none");
    try_info(2, (uint64_t)1 << 31, (uint64_t)1 << 31, 0, 0, MLA_ERR_WEIGHTS, "are none");
    try_info(2, (uint64_t)1 << 62, 4, 0, 0, MLA_ERR_WEIGHTS, "are none");
    try_info(2, (uint64_t)1 << 40, 1, 0, 0, MLA_ERR_WEIGHTS, "but the file has 256 bytes");
    try_info(1, 33, 1, 8, 0, MLA_ERR_WEIGHTS, "a multiple of 32");
    try_info(1, 64, 1, 12, 0, MLA_ERR_WEIGHTS, "a multiple of 256");
    try_info(1, 64, 1, 0, 32, MLA_ERR_WEIGHTS, "but the file has 256 bytes");
    try_info(1, 1, 1, 0, 16, MLA_ERR_WEIGHTS, "no multiple of the alignment 32");
    try_info(1, 1, 1, 0, 256, MLA_ERR_WEIGHTS, "but the file has 256 bytes");
    try_info(1, 1, 1, 0, UINT64_MAX - 31, MLA_ERR_WEIGHTS, "but the file has 256 bytes");
    static const uint32_t foreign[] = {4, 5, 31, 33, 36, 38, 9, 15, 41, 42, 133, 158, 202, 230, 77, UINT32_MAX};
    static const char *const why[] = {"removed",      "removed",      "removed",      "removed",
                                      "removed",      "removed",      "activations",  "activations",
                                      "Q1_0",         "Q2_0",         "ik_llama.cpp", "ik_llama.cpp",
                                      "ik_llama.cpp", "ik_llama.cpp", "not known",    "not known"};
    for (size_t i = 0; i < COUNT(foreign); i++) try_info(1, 32, 1, foreign[i], 0, MLA_ERR_UNSUPPORTED, why[i]);
    add_head(&b, 3, 2, 0), add_info(&b, "a", 1, 9, 1, 0, 0), add_info(&b, "b", 1, 8, 1, 0, 32), add_data(&b, 64);
    try_bytes(&b, MLA_ERR_WEIGHTS, "overlap", "tensors that overlap");
    add_head(&b, 3, 2, 0), add_info(&b, "a", 1, 8, 1, 0, 32), add_info(&b, "a", 1, 8, 1, 0, 0), add_data(&b, 64);
    try_bytes(&b, MLA_ERR_WEIGHTS, "\"a\" is there twice", "a tensor twice");
    add_head(&b, 3, 2, 0), add_info(&b, "b", 1, 8, 1, 0, 32), add_info(&b, "a", 1, 7, 1, 0, 0), add_data(&b, 64);
    try_bytes(&b, MLA_OK, "", "tensors in another order");
    gguf *g;
    CHECK(gguf_parse(NULL, "x", 1, NULL, NULL) == MLA_ERR_ARGUMENT &&
              gguf_parse(&g, NULL, 1, NULL, NULL) == MLA_ERR_ARGUMENT,
          "gguf_parse of nothing");
    CHECK(gguf_open(NULL, "x", NULL) == MLA_ERR_ARGUMENT && gguf_open(&g, NULL, NULL) == MLA_ERR_ARGUMENT && !g,
          "gguf_open of nothing");
    gguf_close(NULL);
}

/* Values of every type, as they were put. */
static void test_values(void) {
    SECTION("values");
    gguf_writer *w;
    gguf *g;
    mla_error e;
    int64_t v;
    double x;
    size_t n = 0, count = 0;
    static const int64_t least[] = {0, -128, 0, -32768, 0, INT32_MIN, 0, 0, 0, 0, 0, INT64_MIN},
                         most[] = {255, 127, 65535, 32767, UINT32_MAX, INT32_MAX, 0, 1, 0, 0, INT64_MAX, INT64_MAX};
    const float floats[3] = {1.5f, -2, 0};
    const double doubles[2] = {1e300, -1};
    char name[16];
    if (gguf_create(&w, in_dir("v.gguf"), &e)) printf("%s\n", e.text), exit(2);
    for (int t = 0; t < 12; t++)
        if (t != GGUF_F32 && t != GGUF_STRING && t != GGUF_ARRAY) {
            snprintf(name, sizeof name, "least%d", t), gguf_put_integer(w, name, (gguf_type)t, least[t]);
            snprintf(name, sizeof name, "most%d", t), gguf_put_integer(w, name, (gguf_type)t, most[t]);
        }
    gguf_put_number(w, "number", 0.1), gguf_put_text(w, "text", "hello \xe2\x96\x81");
    gguf_put_array(w, "floats", GGUF_F32, floats, 3), gguf_put_array(w, "doubles", GGUF_F64, doubles, 2);
    gguf_put_strings(w, "strings", 3), gguf_put_string(w, "a", 1), gguf_put_string(w, "", 0),
        gguf_put_string(w, "bc", 2);
    gguf_put_strings(w, "none", 0);
    CHECK(access(in_dir("v.gguf"), F_OK) != 0, "there before its time");
    CHECK(gguf_finish(w, &e) == MLA_OK, "%s", e.text);
    CHECK(access(in_dir("v.gguf.partial"), F_OK) != 0, "the temporary name stays");
    if (!CHECK(gguf_open(&g, in_dir("v.gguf"), &e) == MLA_OK, "%s", e.text)) return;
    for (int t = 0; t < 12; t++)
        if (t != GGUF_F32 && t != GGUF_STRING && t != GGUF_ARRAY) {
            snprintf(name, sizeof name, "least%d", t);
            CHECK(gguf_integer(gguf_find_key(g, name), 0, &v) && v == least[t], "%s", name);
            snprintf(name, sizeof name, "most%d", t);
            CHECK(gguf_integer(gguf_find_key(g, name), 0, &v) && v == most[t], "%s", name);
            CHECK(gguf_number(gguf_find_key(g, name), 0, &x) == (t != GGUF_BOOL), "%s as a number", name);
        }
    CHECK(gguf_number(gguf_find_key(g, "number"), 0, &x) && x == (double)0.1f, "number");
    CHECK(!gguf_integer(gguf_find_key(g, "number"), 0, &v) && !gguf_integer(NULL, 0, &v) && !gguf_number(NULL, 0, &x),
          "no integer");
    CHECK(gguf_number(gguf_find_key(g, "floats"), 1, &x) && x == -2 && !gguf_number(gguf_find_key(g, "floats"), 3, &x),
          "floats");
    CHECK(gguf_number(gguf_find_key(g, "doubles"), 0, &x) && x == 1e300, "doubles");
    const char *text = gguf_string(gguf_find_key(g, "text"), &n);
    CHECK(text && n == 9 && !memcmp(text, "hello \xe2\x96\x81", 9), "text");
    CHECK(!gguf_string(gguf_find_key(g, "strings"), &n) && !gguf_string(NULL, &n), "no string");
    static const char *const strings[] = {"a", "", "bc"};
    gguf_strings s = gguf_strings_of(gguf_find_key(g, "strings"));
    for (; (text = gguf_next(&s, &n)) != NULL; count++)
        CHECK(count < 3 && n == strlen(strings[count]) && !memcmp(text, strings[count], n), "string %zu", count);
    CHECK(count == 3, "%zu strings", count);
    s = gguf_strings_of(gguf_find_key(g, "none"));
    CHECK(!gguf_next(&s, &n), "no strings");
    s = gguf_strings_of(gguf_find_key(g, "floats"));
    CHECK(!gguf_next(&s, &n), "floats are no strings");
    CHECK(!gguf_find_key(g, "nothing") && !gguf_find_tensor(g, "nothing") && !gguf_key_at(g, 99) &&
              !gguf_tensor_at(g, 0),
          "what is not there");
    CHECK(!strcmp(gguf_type_name(12), "Q4_K") && !strcmp(gguf_type_name(-1), "?") && gguf_type_of(MLA_E4M3) == -1,
          "types");
    for (size_t i = 1; i < gguf_key_count(g); i++)
        CHECK(strcmp(gguf_key_at(g, i - 1)->name, gguf_key_at(g, i)->name) < 0, "order of keys");

    /* and copied into another file */
    if (gguf_create(&w, in_dir("w.gguf"), &e)) printf("%s\n", e.text), exit(2);
    for (size_t i = 0; i < gguf_key_count(g); i++) gguf_put_key(w, gguf_key_at(g, i));
    CHECK(gguf_finish(w, &e) == MLA_OK, "%s", e.text);
    gguf *h;
    if (CHECK(gguf_open(&h, in_dir("w.gguf"), &e) == MLA_OK, "%s", e.text))
        for (size_t i = 0; i < gguf_key_count(g); i++) {
            const gguf_key *a = gguf_key_at(g, i), *c = gguf_key_at(h, i);
            CHECK(c && !strcmp(a->name, c->name) && a->bytes == c->bytes && !memcmp(a->data, c->data, a->bytes),
                  "copy");
        }
    gguf_close(g), gguf_close(h);
}

static void test_writer(void) {
    SECTION("writer: misuse and failures");
    const int64_t four = 4, none = 0;
    const float data[4] = {0};
    for (int k = 0; k < 14; k++) {
        gguf_writer *w;
        mla_error e;
        if (gguf_create(&w, in_dir("w.gguf"), &e)) printf("%s\n", e.text), exit(2);
        gguf_put_tensor(w, "t", 0, 1, &four);
        switch (k) {
        case 0: break; /* data too short */
        case 1: gguf_put_data(w, data, 17); break;
        case 2: gguf_put_integer(w, "k", GGUF_U8, 256); break;
        case 3: gguf_put_integer(w, "k", GGUF_STRING, 1); break;
        case 4: gguf_put_integer(w, "", GGUF_U8, 1); break;
        case 5: gguf_put_text(w, "k", "\xff"); break;
        case 6: gguf_put_strings(w, "k", 2), gguf_put_string(w, "a", 1); break;
        case 7: gguf_put_string(w, "a", 1); break;
        case 8: gguf_put_array(w, "k", GGUF_STRING, data, 1); break;
        case 9: gguf_put_tensor(w, "u", 0, 1, &none); break;
        case 10: gguf_put_tensor(w, "u", 8, 1, &four); break;
        case 11: gguf_put_tensor(w, "u", 99, 1, &four); break;
        case 12: gguf_put_data(w, data, 16), gguf_put_text(w, "late", "x"); break;
        default: gguf_put_integer(w, "k", GGUF_BOOL, 2); break;
        }
        if (k > 1 && k != 12) gguf_put_data(w, data, 16);
        e.text[0] = 0;
        CHECK(gguf_finish(w, &e) == MLA_ERR_ARGUMENT && strstr(e.text, "w.gguf"), "misuse %d: %s", k, e.text);
        CHECK(access(in_dir("w.gguf"), F_OK) && access(in_dir("w.gguf.partial"), F_OK), "misuse %d leaves a file", k);
    }
    gguf_writer *w;
    mla_error e;
    CHECK(gguf_create(&w, in_dir("no/such.gguf"), &e) == MLA_ERR_ARGUMENT && !w &&
              strstr(e.text, "no/such.gguf.partial"),
          "a directory that is not there: %s", e.text);
    CHECK(gguf_create(NULL, "x", NULL) == MLA_ERR_ARGUMENT && gguf_finish(NULL, NULL) == MLA_ERR_ARGUMENT, "NULL");
    CHECK(gguf_create(&w, in_dir("w.gguf"), NULL) == MLA_OK, "create");
    gguf_put_text(w, "k", "x");
    gguf_abandon(w), gguf_abandon(NULL);
    CHECK(access(in_dir("w.gguf"), F_OK) && access(in_dir("w.gguf.partial"), F_OK), "an abandoned file stays");

    if (access("/dev/full", W_OK) == 0 && !symlink("/dev/full", in_dir("w.gguf.partial"))) { /* a full disk */
        CHECK(gguf_create(&w, in_dir("w.gguf"), NULL) == MLA_OK, "create");
        gguf_put_tensor(w, "t", 0, 1, &four), gguf_put_data(w, data, 16);
        CHECK(gguf_finish(w, &e) == MLA_ERR_ARGUMENT && strstr(e.text, "the disk is full"), "a full disk: %s", e.text);
        CHECK(access(in_dir("w.gguf"), F_OK) && access(in_dir("w.gguf.partial"), F_OK), "a full disk leaves a file");
    }
    for (long k = 0; k < 12; k++) {
        alloc_countdown = k;
        mla_result rc = gguf_create(&w, in_dir("w.gguf"), NULL);
        if (!rc) gguf_put_text(w, "k", "x"), gguf_put_tensor(w, "t", 0, 1, &four), gguf_put_data(w, data, 16);
        if (!rc) rc = gguf_finish(w, NULL);
        alloc_countdown = -1;
        CHECK(rc == MLA_OK || rc == MLA_ERR_MEMORY, "allocation %ld: %d", k, (int)rc);
        if (rc) CHECK(access(in_dir("w.gguf"), F_OK) && access(in_dir("w.gguf.partial"), F_OK), "allocation %ld", k);
        unlink(in_dir("w.gguf"));
    }
}

/* A file cut short anywhere within what it needs is refused; so is, or is not, one with a byte changed: no crash, one
   line, no more memory than the file is large by some factor, and no time. */
static void test_damage(void) {
    SECTION("every truncation");
    file *f = tiny("glm-dsa", 3, 1, 8, 1);
    const char *path = in_dir("model.gguf");
    mla_error e;
    gguf *g;
    size_t n;
    put_strings(f, "tokenizer.ggml.tokens", 32);
    add_item(f, 2, "nextn.enorm.weight", MLA_F32, 1, 32, 1, 1),
        add_item(f, 2, "nextn.hnorm.weight", MLA_F32, 1, 32, 1, 1);
    add_item(f, 2, "nextn.eh_proj.weight", MLA_F16, 2, 64, 32, 1);
    write_all(f, path);
    file_free(f);
    check_open(path, MLA_OK, "", "the file itself");
    unsigned char *data = read_file(path, &n);
    for (size_t i = 0; i < n; i++) {
        if (i > 8192 && i + 64 < n && i % 61) continue; /* most of the data needs no test of its own */
        unsigned char *cut = (unsigned char *)need(malloc(i + !i));
        memcpy(cut, data, i);
        const mla_result rc = gguf_parse(&g, cut, i, "cut.gguf", &e);
        CHECK(rc == MLA_ERR_WEIGHTS && !g && strstr(e.text, "cut.gguf"), "cut to %zu bytes: %d", i, (int)rc);
        free(cut);
    }
    CHECK(!truncate(path, (off_t)n / 2), "truncate");
    check_open(path, MLA_ERR_WEIGHTS, "model.gguf", "half a file");

    SECTION("changed bytes");
    const int changes = test_all() ? 20000 : 4000;
    test_rng rng = {7};
    const clock_t begin = clock();
    size_t head = 0;
    for (size_t i = 0; i + 20 < n; i++)
        if (!memcmp(data + i, "nextn.eh_proj.weight", 20)) head = i + 64;
    write_file(path, data, n);
    const int fd = open(path, O_WRONLY);
    int opened = 0;
    alloc_largest = 0;
    for (int i = 0; i < changes; i++) {
        const size_t at = (size_t)test_int(&rng, (int)(i % 8 ? head : n));
        const unsigned char was = data[at],
                            is = (unsigned char)(i % 3 ? test_u64(&rng) : was ^ 1u << test_int(&rng, 8));
        checkpoint *c;
        mla_model *m = NULL;
        const checkpoint_options how = {.mtp = i & 1};
        if (pwrite(fd, &is, 1, (off_t)at) != 1) printf("cannot write\n"), exit(2);
        e.text[0] = 0;
        mla_result rc = checkpoint_open_with(&c, path, &how, &e);
        if (!rc) {
            opened++;
            rc = mla_model_create(&m, &c->config, &c->weights, NULL, &e);
        }
        int clean = !rc || (e.text[0] && strlen(e.text) < sizeof e.text - 1);
        for (const char *t = e.text; rc && *t; t++) clean = clean && (unsigned char)*t >= 0x20;
        if (!clean) CHECK(0, "byte %zu, %d: a bad message", at, is);
        mla_model_destroy(m);
        checkpoint_close(c);
        if (pwrite(fd, &was, 1, (off_t)at) != 1) printf("cannot write\n"), exit(2);
    }
    close(fd);
    CHECK(alloc_largest < 64 * n, "%zu bytes at once for a file of %zu", alloc_largest, n);
    CHECK((double)(clock() - begin) / CLOCKS_PER_SEC < 120, "too slow");
    printf("%d of %d opened\n", opened, changes);
    check_open(path, MLA_OK, "", "the file as it was");
    free(data);
}

/* Files of which the head alone is large: many keys, tensors and strings, in time that grows no faster. */
static double open_many(size_t count) { /* seconds */
    gguf_writer *w;
    gguf *g;
    mla_error e;
    char name[32];
    const int64_t one = 1;
    const float zero = 0;
    if (gguf_create(&w, in_dir("many.gguf"), &e)) printf("%s\n", e.text), exit(2);
    for (size_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "k%zu", (i * 7919) % count);
        gguf_put_integer(w, name, GGUF_U32, 1);
    }
    gguf_put_strings(w, "strings", count);
    for (size_t i = 0; i < count; i++) gguf_put_string(w, name, strlen(name));
    for (size_t i = 0; i < count; i++) {
        snprintf(name, sizeof name, "t%zu", (i * 7919) % count);
        gguf_put_tensor(w, name, 0, 1, &one);
    }
    for (size_t i = 0; i < count; i++) gguf_put_data(w, &zero, 4);
    CHECK(gguf_finish(w, &e) == MLA_OK, "%s", e.text);
    const clock_t begin = clock();
    CHECK(gguf_open(&g, in_dir("many.gguf"), &e) == MLA_OK, "%s", e.text);
    const double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
    CHECK(gguf_key_count(g) == count + 1 && gguf_tensor_count(g) == count, "counts");
    gguf_close(g);
    return seconds;
}

static void test_allocation(void) {
    SECTION("the k-th allocation fails, for every k");
    file *f = tiny("glm-dsa", 3, 1, 8, 1);
    write_all(f, in_dir("model.gguf"));
    write_part(f, in_dir("m-00001-of-00002.gguf"), 0, 20, 0, 2);
    write_part(f, in_dir("m-00002-of-00002.gguf"), 20, f->n_items, 1, 2);
    file_free(f);
    for (int split = 0; split < 2; split++) {
        const char *path = in_dir(split ? "m-00002-of-00002.gguf" : "model.gguf");
        mla_result rc = MLA_ERR_MEMORY;
        long k = 0;
        for (; rc && k < 1000; k++) {
            checkpoint *c;
            mla_error e;
            alloc_countdown = k;
            rc = checkpoint_open(&c, path, &e);
            alloc_countdown = -1;
            CHECK(rc == MLA_OK || (rc == MLA_ERR_MEMORY && !c && strstr(e.text, "memory")), "allocation %ld: %d", k,
                  (int)rc);
            checkpoint_close(c);
        }
        CHECK(!rc && k > 8, "%ld allocations", k);
    }
}

static int write_fixture(char **argv) { /* NAME TYPE FORM FILE, SEED or NULL */
    const char *arch = strchr(argv[0], '/') ? "deepseek2" : NULL, *two = strstr(argv[3], "-00001-of-00002.gguf");
    mla_dtype dtype = MLA_DTYPE_COUNT;
    int form = 0;
    for (size_t i = 0; i < COUNT(fixtures); i++)
        if (!strcmp(argv[0], fixtures[i].name)) arch = fixtures[i].arch;
    for (int t = 0; t <= 30; t++)
        if (!strcasecmp(argv[1], gguf_type_name(t))) dtype = (mla_dtype)gguf__format_of((uint32_t)t)->dtype;
    while (form < KVB_FORMS && strcmp(argv[2], kvb_names[form])) form++;
    if (!arch || dtype == MLA_DTYPE_COUNT || form == KVB_FORMS) return printf("no such fixture, type or form\n"), 2;
    test_rng rng = {argv[4] ? strtoull(argv[4], NULL, 10) : 0};
    checkpoint *ref;
    file *f = from_fixture(&ref, argv[0], arch, dtype, (kvb_form)form, argv[4] ? &rng : NULL);
    if (two) {
        char second[400];
        snprintf(second, sizeof second, "%.*s-00002-of-00002.gguf", (int)(two - argv[3]), argv[3]);
        write_part(f, argv[3], 0, f->n_items / 2, 0, 2);
        write_part(f, second, f->n_items / 2, f->n_items, 1, 2);
    } else write_all(f, argv[3]);
    file_free(f), checkpoint_close(ref);
    return 0;
}

int main(int argc, char **argv) {
    snprintf(dir, sizeof dir, "/tmp/test_gguf.XXXXXX");
    if (!mkdtemp(dir)) printf("cannot make %s\n", dir), exit(2);
    if ((argc == 6 || argc == 7) && !strcmp(argv[1], "--write")) {
        const int rc = write_fixture(argv + 2);
        rmdir(dir);
        return rc;
    }
    test_fixtures(), clear_dir();
    test_variants(), clear_dir();
    test_silence();
    test_hy(), test_limits(), test_kda(), test_keys();
    test_tensors(), clear_dir();
    test_container();
    test_values(), clear_dir();
    test_writer(), clear_dir();
    test_damage(), clear_dir();
    SECTION("many keys, tensors and strings");
    const double few = open_many(20000), many = open_many(200000);
    CHECK(many < 2 + 40 * few, "%g s for 20000, %g s for 200000", few, many);
    clear_dir();
    test_allocation();
    clear_dir(), rmdir(dir);
    return test_end();
}
