/* bits.c - what a revision of mla.h gives, as a line for each way of computing: its name, a tab and a hash of every bit
   that came out (logits, hidden states, cached rows, probabilities, counts). compare.sh builds it against two revisions
   and compares the lines; what has another name or shape in one of them stands in the section of differences. Where a
   revision refuses a way, the hash is "refused"; where it cannot be asked for it, "no counterpart". Run from the
   repository root. bits [TEXT]: only lines that contain it.
 */

#define _DEFAULT_SOURCE
#define MLA_IMPLEMENTATION
#include "mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "examples/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>

typedef enum form {
    KEEP, /* as the checkpoint has it */
    F32,
    F16,
    BF16,
    E4M3,  /* scales in F32 */
    E4M3U, /* in UE8M0 */
    Q8,
    Q4,
    Q8X16,
    Q4X16,
    MIXED, /* one tensor after the other takes F32, Q8, BF16, E4M3, Q4, F16 */
    FORMS
} form;
static const char *const form_names[FORMS] = {"kept", "f32", "f16",   "bf16",  "e4m3", "e4m3u",
                                              "q8",   "q4",  "q8x16", "q4x16", "mixed"};

typedef enum rounding { ROUND_DEFAULT, ROUND_NOT, ROUND_FP8 } rounding; /* of activations */
static const char *const rounding_names[] = {"rounded", "exact", "fp8"};

/* ---- differences between revisions (compare.sh finds out which the header has) ----------------------------------- */

static void set_rounding(mla_context_desc *d, rounding r) {
#ifdef BITS_ACTIVATIONS
    const int wide = d->isa == MLA_ISA_BF16 || d->isa == MLA_ISA_AMX; /* which once rounded by themselves */
    d->activations = r == ROUND_NOT ? MLA_ACT_F32 : r == ROUND_FP8 ? MLA_ACT_E4M3 : wide ? MLA_ACT_BF16 : MLA_ACT_AUTO;
#else
    d->exact = r == ROUND_NOT, d->fp8_activations = r == ROUND_FP8;
#endif
}
/* A context once rounded to e4m3 before E4M3 weights and to bf16 before BF16 weights at the same time; now it is one.
 */
static int has_counterpart(mla_isa isa, rounding r, int both) {
#ifdef BITS_ACTIVATIONS
    return !(both && r == ROUND_FP8 && (isa == MLA_ISA_BF16 || isa == MLA_ISA_AMX));
#else
    (void)isa, (void)r, (void)both;
    return 1;
#endif
}
static mla_result new_pool(mla_pool **out, const mla_model *m, int pages, mla_dtype t, mla_dtype index, mla_error *e) {
#ifdef BITS_POOL_DESC
    mla_pool_desc d;
    memset(&d, 0, sizeof d);
    d.n_pages = pages, d.dtype = t, d.index_dtype = index;
    return mla_pool_create(out, m, &d, e);
#else
    return mla_pool_create(out, m, pages, t, index, NULL, e);
#endif
}
static mla_result open_checkpoint(checkpoint **out, const char *dir, int mtp, mla_error *e) {
#ifdef BITS_OPTIONS
    checkpoint_options how;
    memset(&how, 0, sizeof how);
    how.mtp = mtp;
    return checkpoint_open_with(out, dir, &how, e);
#else
    return (mtp ? checkpoint_open_mtp : checkpoint_open)(out, dir, e);
#endif
}
static mla_tensor interleaved(const void *data, mla_dtype plain, int rows, int cols) {
#ifdef BITS_LAYOUT
    mla_tensor t = mla_view(data, plain, rows, cols);
    t.layout = MLA_LAYOUT_X16;
    return t;
#else
    return mla_view(data, plain == MLA_Q8 ? MLA_Q8X16 : MLA_Q4X16, rows, cols);
#endif
}

/* ---- memory, random numbers, hashes ------------------------------------------------------------------------------ */

static void *bag[1 << 16];
static int bag_n;

static void *hold(double bytes) {
    void *p = bag_n < (int)(sizeof bag / sizeof *bag) ? malloc((size_t)bytes + 1) : NULL;
    if (!p) puts("no memory"), exit(2);
    memset(p, 0xee, (size_t)bytes + 1); /* what is not written is the same everywhere */
    return bag[bag_n++] = p;
}
static void drop_to(int n) {
    while (bag_n > n) free(bag[--bag_n]);
}

static uint64_t seed;

static uint64_t next(void) { /* splitmix64 */
    uint64_t z = seed += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}
static float number(void) { /* mean 0, deviation 1, no call of libm */
    float s = 0;
    for (int i = 0; i < 4; i++) s += (float)(next() >> 40) * (1.0f / 16777216.0f) - 0.5f;
    return s * 1.7320508f;
}
static float *numbers(double n, float deviation) {
    float *x = (float *)hold(n * 4);
    for (size_t i = 0; i < (size_t)n; i++) x[i] = deviation * number();
    return x;
}

static uint64_t hash;

static void add(const void *p, double bytes) { /* FNV-1a by words of four bytes */
    const unsigned char *b = (const unsigned char *)p;
    for (size_t i = 0; i < (size_t)bytes; i += 4) {
        uint32_t u = 0;
        memcpy(&u, b + i, (size_t)bytes - i < 4 ? (size_t)bytes - i : 4);
        hash = (hash ^ u) * 0x100000001b3u;
    }
}
static void start(void) { hash = 0xcbf29ce484222325u; }

static const char *only;
static char name[256];
static int lines;

static int wanted(void) { return !only || strstr(name, only); }
static void say(int ok) {
    if (ok) printf("%s\t%016llx\n", name, (unsigned long long)hash);
    else printf("%s\trefused\n", name);
    lines++;
}

static void run_backwards(void *user, int n, void (*task)(void *arg, int i), void *arg) {
    (void)user;
    while (n-- > 0) task(arg, n);
}

/* ---- weights in another form ------------------------------------------------------------------------------------- */

static float element(const mla_tensor *t, size_t i) {
    const unsigned char *b = (const unsigned char *)t->data;
    const size_t blocks = ((size_t)t->cols + 127) / 128;
    uint16_t h;
    float f, scale = 1;
    switch (t->dtype) {
    case MLA_F16: memcpy(&h, b + 2 * i, 2); return mla_f16_to_f32(h);
    case MLA_BF16: memcpy(&h, b + 2 * i, 2); return mla_bf16_to_f32(h);
    case MLA_E4M3: {
        const size_t k = i / (size_t)t->cols / 128 * blocks + i % (size_t)t->cols / 128;
        if (t->scale && t->scale_dtype == MLA_UE8M0) scale = mla_ue8m0_to_f32(((const uint8_t *)t->scale)[k]);
        if (t->scale && t->scale_dtype == MLA_F32) memcpy(&scale, (const char *)t->scale + 4 * k, 4);
        return mla_e4m3_to_f32(b[i]) * scale;
    }
    case MLA_Q4:
        b += i / 32 * 18;
        memcpy(&h, b, 2);
        return mla_f16_to_f32(h) * (float)((b[2 + i % 16] >> (i % 32 >= 16 ? 4 : 0) & 15) - 8);
    default: memcpy(&f, b + 4 * i, 4); return f;
    }
}

static mla_tensor to_e4m3(const float *x, int rows, int cols, int ue8m0) {
    const int across = (cols + 127) / 128, down = (rows + 127) / 128;
    uint8_t *code = (uint8_t *)hold((double)rows * cols), *byte = (uint8_t *)hold((double)across * down);
    float *scale = (float *)hold(4.0 * across * down);
    mla_tensor t = mla_view(code, MLA_E4M3, rows, cols);
    for (int r = 0; r < rows; r += 128)
        for (int c = 0; c < cols; c += 128) {
            const int k = r / 128 * across + c / 128;
            float top = 1e-6f;
            for (int i = r; i < rows && i < r + 128; i++)
                for (int j = c; j < cols && j < c + 128; j++)
                    top = fabsf(x[i * cols + j]) > top ? fabsf(x[i * cols + j]) : top;
            scale[k] = top / 448;
            for (byte[k] = 100; mla_ue8m0_to_f32(byte[k]) < scale[k];) byte[k]++;
            if (ue8m0) scale[k] = mla_ue8m0_to_f32(byte[k]);
            for (int i = r; i < rows && i < r + 128; i++)
                for (int j = c; j < cols && j < c + 128; j++)
                    code[i * cols + j] = mla_f32_to_e4m3(x[i * cols + j] / scale[k]);
        }
    t.scale = ue8m0 ? (void *)byte : (void *)scale, t.scale_dtype = ue8m0 ? MLA_UE8M0 : MLA_F32;
    return t;
}

enum { PLAIN = 1 }; /* not to be interleaved */

static mla_tensor narrowed(const float *x, int rows, int cols, form f, int how) {
    const int x16 = (f == Q8X16 || f == Q4X16) && rows % 16 == 0 && !(how & PLAIN);
    mla_dtype t = f == F16 ? MLA_F16 : f == BF16 ? MLA_BF16 : MLA_F32;
    mla_error err;
    if (f == E4M3 || f == E4M3U) return to_e4m3(x, rows, cols, f == E4M3U);
    if (f == Q8 || f == Q8X16) t = MLA_Q8;
    if (f == Q4 || f == Q4X16) t = MLA_Q4;
    const double bytes = (double)mla_dtype_bytes(t, (size_t)rows * (size_t)cols);
    void *data = hold(bytes), *other = x16 ? hold(bytes) : NULL;
    const mla_tensor out = mla_view(data, t, rows, cols);
    if (mla_quantize(t, data, x, (size_t)rows * (size_t)cols, &err) || (x16 && mla_repack(other, &out, &err)))
        printf("%s\n", err.text), exit(2);
    return x16 ? interleaved(other, t, rows, cols) : out;
}

static int tensors;

static void convert(mla_tensor *t, form f, int how) {
    static const form turns[] = {F32, Q8, BF16, E4M3, Q4, F16};
    if (!t->data || f == KEEP) return;
    if (f == MIXED) f = turns[tensors++ % 6];
    if (f >= Q8 && t->cols % MLA_GROUP) return;
    float *x = (float *)hold(4.0 * t->rows * t->cols);
    for (size_t i = 0; i < (size_t)t->rows * (size_t)t->cols; i++) x[i] = element(t, i);
    *t = narrowed(x, t->rows, t->cols, f, how);
}
static void convert_mlp(mla_mlp_weights *w, form f) {
    convert(&w->gate.weight, f, 0), convert(&w->up.weight, f, 0), convert(&w->down.weight, f, 0);
}
static void convert_layer(mla_layer_weights *l, const mla_config *c, form f) {
    mla_attn_weights *a = &l->attn;
    convert(&a->q.weight, f, 0), convert(&a->q_a.weight, f, 0), convert(&a->q_b.weight, f, 0);
    convert(&a->kv_a.weight, f, 0), convert(&a->kv_b.weight, f, PLAIN), convert(&a->o.weight, f, 0);
    convert(&a->indexer.wq_b.weight, f, 0), convert(&a->indexer.wk.weight, f, 0);
    convert(&a->indexer.weights_proj, f, PLAIN), convert(&l->moe.router, f, PLAIN);
    convert_mlp(&l->mlp, f);
    if (!l->moe.experts) return;
    mla_mlp_weights *experts = (mla_mlp_weights *)hold(sizeof *experts * (double)c->n_routed_experts);
    memcpy(experts, l->moe.experts, sizeof *experts * (size_t)c->n_routed_experts);
    for (int e = 0; e < c->n_routed_experts; e++) convert_mlp(&experts[e], f);
    l->moe.experts = experts;
    convert_mlp(&l->moe.shared, f);
}
static void convert_model(mla_weights *w, const mla_config *c, form f) {
    const int n = c->num_hidden_layers + c->num_nextn_predict_layers;
    mla_layer_weights *layers = (mla_layer_weights *)hold(sizeof *layers * (double)n);
    mla_mtp_weights *mtp = (mla_mtp_weights *)hold(sizeof *mtp * (double)c->num_nextn_predict_layers);
    tensors = 0;
    convert(&w->embed, f, PLAIN), convert(&w->head, f, 0);
    for (int i = 0; i < n; i++) layers[i] = w->layers[i], convert_layer(&layers[i], c, f);
    for (int i = 0; i < c->num_nextn_predict_layers; i++) {
        mtp[i] = w->mtp[i];
        convert(&mtp[i].embed, f, PLAIN), convert(&mtp[i].head, f, 0), convert(&mtp[i].eh_proj.weight, f, 0);
    }
    w->layers = layers, w->mtp = c->num_nextn_predict_layers ? mtp : NULL;
}

/* ---- whole models ------------------------------------------------------------------------------------------------ */

enum { PROMPT = 48, CAPACITY = 80, BATCH = 3, MAX_LAYERS = 8 };

typedef enum shape { WHOLE, SEVENS, SIXTEENS, SINGLES, RAGGED, MASKED, SHAPES } shape;
static const char *const shape_names[SHAPES] = {"48,1..", "7s", "16s", "1s", "ragged", "masked"};

typedef struct subject {
    const char *name;
    mla_config c;
    mla_weights w;
    mla_model *model;
    int tokens[PROMPT];
} subject;

typedef struct way {
    mla_isa isa;
    mla_attn_path path;
    mla_dtype cache;
    int paged, threads;
    rounding round;
    shape shape;
} way;

static const char *const path_names[] = {"auto", "naive", "absorbed"};

typedef struct session {
    mla_context *context;
    mla_pool *pool;
    mla_cache *cache[BATCH];
} session;

static void session_close(session *s) {
    for (int i = 0; i < BATCH; i++) mla_cache_destroy(s->cache[i]);
    mla_pool_destroy(s->pool), mla_context_destroy(s->context);
}
static int session_open(session *s, const subject *f, const way *w) {
    mla_context_desc d;
    mla_error err;
    memset(&d, 0, sizeof d), memset(s, 0, sizeof *s);
    d.max_tokens = 64, d.threads = w->threads, d.run = run_backwards, d.isa = w->isa, d.attn = w->path;
    set_rounding(&d, w->round);
    const mla_dtype index = w->cache;
    int ok = mla_context_create(&s->context, f->model, &d, &err) == MLA_OK;
    if (ok && w->paged) ok = new_pool(&s->pool, f->model, 2 * BATCH, w->cache, index, &err) == MLA_OK;
    for (int i = 0; ok && i < BATCH; i++) {
        mla_cache_desc k;
        memset(&k, 0, sizeof k);
        k.capacity = CAPACITY, k.dtype = w->cache, k.index_dtype = index, k.pool = s->pool;
        ok = mla_cache_create(&s->cache[i], f->model, &k, &err) == MLA_OK;
    }
    if (!ok) session_close(s);
    return ok;
}

/* One call; all that comes out goes into the hash. */
static int call(const session *s, const subject *f, const int *count, int n, const int *tokens, int masked, int ahead) {
    const mla_config *c = &f->c;
    const int D = c->hidden_size, L = c->num_hidden_layers, mark = bag_n;
    const int E = c->n_routed_experts + c->zero_expert_num;
    float *hidden[MAX_LAYERS + 1];
    double size[BATCH];
    mla_sequence q[BATCH];
    mla_outputs out;
    int T = 0, ok;
    memset(q, 0, sizeof q), memset(&out, 0, sizeof out);
    for (int i = 0; i < n; i++) {
        const int keys = mla_cache_length(s->cache[i]) + count[i];
        float *mask = (float *)hold(4.0 * count[i] * keys);
        size[i] = 4.0 * L * count[i] * c->num_attention_heads * keys;
        for (int u = 0; u < count[i] * keys; u++) mask[u] = next() % 4 == 0 ? -INFINITY : number();
        for (int u = 0; u < keys; u++) mask[u] = i ? mask[u] : -INFINITY; /* the first token sees nothing */
        q[i].cache = s->cache[i], q[i].n_tokens = count[i], q[i].probs = (float *)hold(size[i]);
        q[i].mask = masked && i != 1 ? mask : NULL;
        memset(q[i].probs, 0, (size_t)size[i]);
        T += count[i];
    }
    for (int i = 0; i <= L; i++) hidden[i] = (float *)hold(4.0 * T * D);
    out.logits = (float *)hold(4.0 * T * c->vocab_size), out.all_logits = 1, out.hidden = hidden;
    out.expert_counts = (int64_t *)hold(8.0 * L * E);
    memset(out.expert_counts, 0, 8 * (size_t)(L * E));
    ok = mla_model_forward(s->context, q, n, tokens, &out) == MLA_OK;
    add(out.logits, 4.0 * T * c->vocab_size), add(out.expert_counts, 8.0 * L * E);
    for (int i = 0; i <= L; i++) add(hidden[i], 4.0 * T * D);
    for (int i = 0; i < n; i++) add(q[i].probs, size[i]);
    if (ok && ahead) { /* multi-token prediction on the same positions */
        mla_outputs next_out;
        float *states[2] = {(float *)hold(4.0 * T * D), (float *)hold(4.0 * T * D)};
        memset(&next_out, 0, sizeof next_out);
        next_out.logits = (float *)hold(4.0 * T * c->vocab_size), next_out.all_logits = 1, next_out.hidden = states;
        for (int i = 0; i < n; i++) q[i].probs = NULL, q[i].mask = NULL;
        ok = mla_mtp_forward(s->context, 0, q, n, tokens + 1, hidden[L], &next_out) == MLA_OK;
        add(next_out.logits, 4.0 * T * c->vocab_size), add(states[0], 4.0 * T * D), add(states[1], 4.0 * T * D);
    }
    drop_to(mark);
    return ok;
}

static int run_shape(const session *s, const subject *f, shape how) {
    static const int ragged[][BATCH] = {{20, 1, 9}, {1, 5, 1}, {1, 1, 1}, {3, 17, 2}}, chunk[] = {48, 7, 16, 1};
    const int ahead = f->c.num_nextn_predict_layers > 0;
    int ok = 1, end = ahead ? PROMPT - 1 : PROMPT; /* a token must follow */
    if (how == WHOLE) {
        const int first = end - 8, one = 1;
        ok = call(s, f, &first, 1, f->tokens, 0, ahead);
        for (int t = first; ok && t < end; t++) ok = call(s, f, &one, 1, f->tokens + t, 0, ahead);
    } else if (how < RAGGED) {
        if (how == SINGLES) end = 12;
        for (int t = 0, n; ok && t < end; t += n) {
            n = end - t < chunk[how] ? end - t : chunk[how];
            ok = call(s, f, &n, 1, f->tokens + t, 0, ahead);
        }
    } else {
        for (int i = 0; ok && i < 4; i++) ok = call(s, f, ragged[i], BATCH, f->tokens + i, how == MASKED, ahead);
    }
    return ok;
}

/* Rows that the layers wrote, read back. */
static int rows_back(const session *s, const subject *f) {
    float row[1024];
    mla_error err;
    for (int i = 0; i < BATCH; i++)
        for (int p = 0; p < mla_cache_length(s->cache[i]); p++)
            for (int l = 0; l < f->c.num_hidden_layers + f->c.num_nextn_predict_layers; l++) {
                memset(row, 0, sizeof row);
                if (mla_cache_read(s->cache[i], l, p, row, &err) != MLA_OK) return 0;
                add(row, sizeof row);
            }
    return 1;
}

static void run_way(const subject *f, const char *kept, const way *w) {
    session s;
    snprintf(name, sizeof name, "%s %s %s %s %s %s%s %d %s", f->name, kept, mla_isa_name(w->isa), path_names[w->path],
             rounding_names[w->round], mla_dtype_name(w->cache), w->paged ? "/paged" : "", w->threads,
             shape_names[w->shape]);
    if (!wanted()) return;
    if (!has_counterpart(w->isa, w->round, !strcmp(kept, "kept"))) {
        printf("%s\tno counterpart\n", name);
        return;
    }
    start(), seed = 5;
    if (!session_open(&s, f, w)) {
        say(0);
        return;
    }
    const int ok = run_shape(&s, f, w->shape) && rows_back(&s, f);
    session_close(&s);
    say(ok);
}

/* Every instruction set, path and rounding; cache, pages, threads and shape of the calls take turns, so that all pairs
   of any two meet; of the model `all`, all combinations of them. */
static void run_model(const subject *f, const char *kept, int all, int fp8) {
    static const mla_dtype caches[] = {MLA_F32, MLA_F16, MLA_BF16, MLA_Q8};
    static unsigned turn;
    way w;
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++)
        for (int path = 0; path < MLA_ATTN_PATH_COUNT && mla_isa_available((mla_isa)isa); path++)
            for (int round = 0; round < 2 + fp8; round++) {
                w.isa = (mla_isa)isa, w.path = (mla_attn_path)path, w.round = (rounding)round;
                for (unsigned i = 0; i < (all && round == 0 ? 4 * 2 * 2 * SHAPES : 2); i++) {
                    const unsigned k = all && round == 0 ? i : turn++;
                    w.shape = (shape)(k % SHAPES), w.cache = caches[k / SHAPES % 4];
                    w.paged = (int)(k / SHAPES / 4 % 2), w.threads = k / SHAPES / 8 % 2 ? 3 : 1;
                    if (!all) turn += 28; /* no divisor of the number of combinations but 4 */
                    run_way(f, kept, &w);
                }
            }
}

static int read_tokens(const char *dir, int *tokens) {
    char path[256];
    mla_error err;
    st_file *file;
    snprintf(path, sizeof path, "%s/expected.safetensors", dir);
    if (st_open(&file, path, &err) != MLA_OK) return 0;
    const st_tensor *t = st_find(file, "tokens");
    for (int i = 0; t && i < PROMPT; i++) {
        int64_t id;
        memcpy(&id, (const char *)t->data + 8 * i, 8);
        tokens[i] = (int)id;
    }
    st_close(file);
    return t != NULL;
}

static void run_fixture(const char *fixture) {
    char dir[200], label[80];
    mla_error err;
    checkpoint *files;
    snprintf(dir, sizeof dir, "tests/fixtures/checkpoints/%s", fixture);
    const int mtp = !strcmp(fixture, "deepseek_v3");
    if (open_checkpoint(&files, dir, mtp, &err) != MLA_OK) printf("%s\n", err.text), exit(2);
    for (int f = KEEP; f < FORMS; f++)
        for (int none = 0; none < (f == KEEP ? 2 : 1); none++) {
            subject s;
            const int all = (mtp && f == Q8) || (f == KEEP && !none && !strcmp(fixture, "deepseek_v32"));
            memset(&s, 0, sizeof s);
            snprintf(label, sizeof label, "%s%s", fixture, none ? "/bidirectional" : "");
            s.name = label, s.c = files->config, s.w = files->weights;
            if (none) s.c.mask = MLA_MASK_NONE;
            convert_model(&s.w, &s.c, (form)f);
            if (!read_tokens(dir, s.tokens) || mla_model_create(&s.model, &s.c, &s.w, NULL, &err) != MLA_OK)
                printf("%s %s\trefused\n", label, form_names[f]);
            else run_model(&s, form_names[f], all, f == E4M3 || f == E4M3U || (f == KEEP && strstr(fixture, "fp8")));
            mla_model_destroy(s.model);
            drop_to(0);
        }
    checkpoint_close(files);
}

/* ---- single layers ----------------------------------------------------------------------------------------------- */

typedef struct layer_shape {
    const char *what;
    int D, I, E, H, Q, R, N, P, V, topk;
} layer_shape;

/* Odd numbers where the form allows: all are rounded up to multiples of 32 for those with groups. */
static const layer_shape layer_shapes[] = {
    {"dense", 389, 515, 0, 0, 0, 0, 0, 0, 0, 0},         {"wide", 512, 256, 0, 0, 0, 0, 0, 0, 0, 0},
    {"experts", 289, 161, 7, 0, 0, 0, 0, 0, 0, 0},       {"attention", 257, 0, 0, 5, 0, 97, 35, 18, 41, 0},
    {"latent q", 320, 0, 0, 3, 131, 192, 64, 32, 64, 0}, {"sparse", 257, 0, 0, 3, 97, 66, 31, 16, 33, 12}};

static mla_tensor random_tensor(int rows, int cols, form f, int how) {
    static const form turns[] = {Q8, F32, BF16, E4M3, Q4, F16};
    const int mark = bag_n;
    if (f == MIXED) f = turns[tensors++ % 6];
    const float *x = numbers((double)rows * cols, 1 / sqrtf((float)cols));
    mla_tensor t = narrowed(x, rows, cols, f, how);
    free(bag[mark]), bag[mark] = malloc(1); /* x */
    return t;
}
static mla_linear random_linear(int rows, int cols, form f, int how) {
    mla_linear l;
    memset(&l, 0, sizeof l);
    l.weight = random_tensor(rows, cols, f, how);
    if (rows % 3 == 0) l.bias = random_tensor(1, rows, F32, PLAIN);
    return l;
}
static mla_mlp_weights random_mlp(int I, int D, form f) {
    mla_mlp_weights w;
    w.gate = random_linear(I, D, f, 0), w.up = random_linear(I, D, f, 0), w.down = random_linear(D, I, f, 0);
    return w;
}

static int up(int n, form f) { return f >= Q8 && n ? (n + 31) / 32 * 32 : n; }

static void random_layer(mla_layer_weights *l, mla_config *c, const layer_shape *s, form f) {
    mla_attn_weights *a = &l->attn;
    memset(l, 0, sizeof *l), memset(c, 0, sizeof *c);
    const int D = up(s->D, f), Q = up(s->Q, f), R = up(s->R, f), V = up(s->V, f), d = 32, Hi = 4;
    c->hidden_size = D, c->num_hidden_layers = 1;
    if (s->E) {
        mla_mlp_weights *experts = (mla_mlp_weights *)hold(sizeof *experts * (double)s->E);
        c->n_routed_experts = s->E, c->num_experts_per_tok = 3, c->moe_intermediate_size = up(s->I, f);
        c->n_shared_experts = 2;
        for (int e = 0; e < s->E; e++) experts[e] = random_mlp(c->moe_intermediate_size, D, f);
        l->moe.experts = experts, l->moe.shared = random_mlp(2 * c->moe_intermediate_size, D, f);
        l->moe.router = random_tensor(s->E, D, f, PLAIN);
    } else if (s->I) {
        c->intermediate_size = up(s->I, f);
        l->mlp = random_mlp(c->intermediate_size, D, f);
    }
    if (!s->H) return;
    const int qk = s->N + s->P;
    c->num_attention_heads = s->H, c->q_lora_rank = Q, c->kv_lora_rank = R, c->qk_nope_head_dim = s->N;
    c->qk_rope_head_dim = s->P, c->v_head_dim = V;
    if (Q) {
        a->q_a = random_linear(Q, D, f, 0), a->q_b = random_linear(s->H * qk, Q, f, 0);
        a->q_norm.weight = random_tensor(1, Q, F32, PLAIN);
    } else a->q = random_linear(s->H * qk, D, f, 0);
    a->kv_a = random_linear(R + s->P, D, f, 0), a->kv_b = random_linear(s->H * (s->N + V), R, f, PLAIN);
    a->o = random_linear(D, s->H * V, f, 0), a->kv_norm.weight = random_tensor(1, R, F32, PLAIN);
    if (!s->topk) return;
    c->index_topk = s->topk, c->index_n_heads = Hi, c->index_head_dim = d;
    a->indexer.wq_b = random_linear(Hi * d, Q, f, 0), a->indexer.wk = random_linear(d, D, f, 0);
    a->indexer.weights_proj = random_tensor(Hi, D, f, PLAIN);
    a->indexer.k_norm.weight = random_tensor(1, d, F32, PLAIN),
    a->indexer.k_norm.bias = random_tensor(1, d, F32, PLAIN);
}

/* T tokens behind others: a mlp or experts once, attention in two calls, whose second is a token and T - 1. */
static int run_layer(mla_context *k, const mla_model *m, const layer_shape *s, int D, int T) {
    const int mark = bag_n;
    float *x = numbers((double)T * D, 1), *y = (float *)hold(4.0 * T * D);
    int ok;
    if (!s->H) {
        mla_routing r;
        memset(&r, 0, sizeof r);
        r.weight = (float *)hold(4.0 * T * 3), r.index = (int *)hold(4.0 * T * 3);
        ok = mla_moe_forward(k, 0, y, x, T, &r) == MLA_OK;
        add(y, 4.0 * T * D), add(r.weight, 12.0 * T), add(r.index, 12.0 * T);
    } else {
        mla_cache_desc d;
        mla_cache *cache[2];
        mla_sequence q[2];
        mla_error err;
        memset(&d, 0, sizeof d), memset(q, 0, sizeof q);
        d.capacity = 2 * T + 1;
        for (int i = 0; i < 2; i++) {
            if (mla_cache_create(&cache[i], m, &d, &err) != MLA_OK) return 0;
            q[i].cache = cache[i];
        }
        q[0].n_tokens = T;
        ok = mla_attn_forward(k, 0, y, x, q, 1) == MLA_OK;
        add(y, 4.0 * T * D);
        q[0].n_tokens = 1, q[1].n_tokens = T - 1;
        ok = ok && mla_attn_forward(k, 0, y, x, q, T > 1 ? 2 : 1) == MLA_OK;
        add(y, 4.0 * T * D);
        mla_cache_destroy(cache[0]), mla_cache_destroy(cache[1]);
    }
    drop_to(mark);
    return ok;
}

static void run_layers(const layer_shape *s, form f) {
    static const int counts[] = {1, 2, 3, 5, 16, 33, 130, 300};
    mla_config c;
    mla_layer_weights l;
    mla_weights w;
    mla_model *m;
    mla_error err;
    seed = 1000 + (uint64_t)f, tensors = 0;
    random_layer(&l, &c, s, f);
    memset(&w, 0, sizeof w), w.layers = &l;
    snprintf(name, sizeof name, "layer %s %s", s->what, form_names[f]);
    if (mla_model_create(&m, &c, &w, NULL, &err) != MLA_OK) {
        say(0);
        return;
    }
    for (int isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa++)
        for (int path = 0; path < (s->H ? MLA_ATTN_PATH_COUNT : 1) && mla_isa_available((mla_isa)isa); path++)
            for (int round = 0; round < (f == E4M3 || f == E4M3U ? 3 : f == F32 || f == F16 ? 1 : 2); round++) {
                mla_context_desc d;
                mla_context *k;
                memset(&d, 0, sizeof d);
                d.max_tokens = 300, d.threads = 1 + (isa + path) % 3, d.run = run_backwards, d.isa = (mla_isa)isa;
                d.attn = (mla_attn_path)path;
                set_rounding(&d, (rounding)round);
                const int made = mla_context_create(&k, m, &d, &err) == MLA_OK;
                /* plain loops and long calls on every path take their time */
                const int n = isa == MLA_ISA_SCALAR || path == MLA_ATTN_AUTO ? 6 : 8, n_tokens = s->H ? n : 8;
                for (int i = 0; i < (isa == MLA_ISA_SCALAR && !s->H ? 7 : n_tokens); i++) {
                    snprintf(name, sizeof name, "layer %s %s %s %s %s %d", s->what, form_names[f],
                             mla_isa_name((mla_isa)isa), path_names[path], rounding_names[round], counts[i]);
                    if (!wanted()) continue;
                    start(), seed = 77;
                    say(made && run_layer(k, m, s, c.hidden_size, counts[i]));
                }
                if (made) mla_context_destroy(k);
            }
    mla_model_destroy(m);
    drop_to(0);
}

/* ---- conversion -------------------------------------------------------------------------------------------------- */

static void run_quantize(void) {
    for (int f = F32; f <= Q4X16; f++)
        for (int i = 0; i < 3; i++) {
            snprintf(name, sizeof name, "quantize %s %d", form_names[f], i);
            if (!wanted()) continue;
            start(), seed = 3;
            const mla_tensor t = narrowed(numbers(48 * 1024, i == 0 ? 1e-3f : i == 1 ? 1 : 1e4f), 48, 1024, (form)f, 0);
            add(t.data, (double)mla_dtype_bytes(t.dtype, 48 * 1024));
            drop_to(0);
            say(1);
        }
}

int main(int argc, char **argv) {
    static const char *const fixtures[] = {
        "deepseek_v3",   "deepseek_v32",  "deepseek_v2_lite", "deepseek_v2", "deepseek_v3_fp8",   "kimi_k2",  "axk1",
        "glm4_moe_lite", "longcat_flash", "minicpm3",         "glm_moe_dsa", "minicpm3_longrope", "mistral4", "youtu"};
    only = argc > 1 ? argv[1] : NULL;
    run_quantize();
    for (size_t s = 0; s < sizeof layer_shapes / sizeof *layer_shapes; s++)
        for (int f = F32; f < FORMS; f++) run_layers(&layer_shapes[s], (form)f);
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) run_fixture(fixtures[i]);
    return lines == 0;
}
