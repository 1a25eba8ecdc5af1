/* model.c - what a caller does: configs, weights and forward calls of tiny models; saved caches; sequences of calls on
   caches and pools, against a plain list of what each must hold. tests/fuzz/run.sh builds and runs it. */
#define MLA_IMPLEMENTATION
#include "mla.h"
#include "fuzz.h"

typedef struct input {
    const unsigned char *at, *end;
} input;
static int byte_of(input *in) { return in->at < in->end ? *in->at++ : 0; }

static const mla_allocator room = {fuzz_alloc, fuzz_free, NULL};

/* ---- config, weights, forward ------------------------------------------------------------------------------------ */

enum { POOL = 1 << 19, LAYERS = 3, EXPERTS = 6, VOCAB = 11, TOKENS = 8 };

static unsigned char pool_of_bytes[POOL + 64]; /* small numbers as f32, anything as others; no tensor is larger */
static mla_layer_weights layers[LAYERS + 1];
static mla_mlp_weights experts[EXPERTS];
static mla_mtp_weights ahead[1];

/* One of these, mostly the usual one. */
static int size_of(input *in, int usual) {
    static const int rare[] = {0, -1, 1, 3, 65, 127, 1 << 30, INT32_MAX, INT32_MIN};
    const int b = byte_of(in);
    return b < 200 ? usual : b < 240 ? 1 + b % 9 : rare[b % 9];
}

static mla_tensor tensor_of(input *in, int rows, int cols) {
    static const mla_dtype dtypes[] = {MLA_F32, MLA_F16, MLA_BF16, MLA_E4M3, MLA_I8,
                                       MLA_Q8,  MLA_Q4,  MLA_Q5_0, MLA_NVFP4};
    const int b = byte_of(in);
    mla_tensor t = mla_view(pool_of_bytes + b % 7, b < 128 ? MLA_F32 : dtypes[b % 9], rows, cols);
    if (b == 255) t.rows = byte_of(in) - 1, t.cols = byte_of(in) - 1;
    if (b == 254) t.data = NULL;
    if (b == 253) t.dtype = (mla_dtype)byte_of(in);
    if (b == 252) t.layout = (mla_layout)(byte_of(in) % 3);
    if (t.dtype == MLA_E4M3 && b & 1) t.scale = pool_of_bytes, t.scale_rows = 1 + b % 3, t.scale_cols = 1 + b % 5;
    return t;
}
static mla_norm_weights norm_of(input *in, int n) {
    mla_norm_weights w;
    memset(&w, 0, sizeof w);
    w.weight = tensor_of(in, 1, n);
    return w;
}
static mla_linear linear_of(input *in, int rows, int cols) {
    mla_linear l;
    memset(&l, 0, sizeof l);
    l.weight = tensor_of(in, rows, cols);
    if (byte_of(in) > 240) l.bias = tensor_of(in, 1, rows);
    return l;
}
static mla_mlp_weights mlp_of(input *in, int width, int D) {
    mla_mlp_weights w;
    w.gate = linear_of(in, width, D), w.up = linear_of(in, width, D), w.down = linear_of(in, D, width);
    return w;
}

static void config_of(input *in, mla_config *f) {
    memset(f, 0, sizeof *f);
    f->vocab_size = VOCAB, f->hidden_size = size_of(in, byte_of(in) % 2 ? 32 : 8);
    f->num_hidden_layers = size_of(in, 2), f->num_nextn_predict_layers = byte_of(in) > 200;
    f->intermediate_size = size_of(in, 32), f->num_attention_heads = size_of(in, 2);
    f->q_lora_rank = byte_of(in) % 2 ? size_of(in, 8) : 0, f->kv_lora_rank = size_of(in, 28);
    f->qk_nope_head_dim = size_of(in, 4), f->qk_rope_head_dim = size_of(in, 4), f->v_head_dim = size_of(in, 4);
    f->mask = (mla_mask)(byte_of(in) > 250);
    f->rope.layout = (mla_rope_layout)(byte_of(in) % 4), f->rope.scaling = (mla_rope_scaling)(byte_of(in) % 6);
    f->rope.max_position_embeddings = byte_of(in), f->rope.original_max_position_embeddings = byte_of(in) / 8;
    f->rope.factor = (float)byte_of(in) / 8, f->rope.mscale_all_dim = byte_of(in) > 250 ? 3e38f : 0;
    const int b = byte_of(in);
    f->block_norm.kind = (mla_norm_kind)(b % 16 == 15 ? 3 : 0);
    f->temperature_beta = b > 240 ? 0.5f : 0, f->temperature_period = b & 3;
    f->index_topk = b % 5 == 4 ? 3 : 0, f->index_n_heads = 2, f->index_head_dim = size_of(in, 32);
    f->index_rope = (mla_rope_layout)(byte_of(in) % 3);
    f->n_routed_experts = byte_of(in) % 2 ? size_of(in, 4) : 0, f->zero_expert_num = byte_of(in) > 230;
    f->num_experts_per_tok = size_of(in, 2), f->moe_intermediate_size = size_of(in, 32);
    f->n_shared_experts = byte_of(in) % 2, f->n_group = byte_of(in) % 3, f->topk_group = byte_of(in) % 3;
    f->topk_method = (mla_topk_method)(byte_of(in) % 4), f->scoring_func = (mla_scoring_func)(byte_of(in) % 3);
    f->norm_topk_prob = byte_of(in) % 2;
}

static int small_config(const mla_config *f) {
    const int all[] = {f->hidden_size,    f->intermediate_size,   f->num_attention_heads,  f->q_lora_rank,
                       f->kv_lora_rank,   f->qk_nope_head_dim,    f->qk_rope_head_dim,     f->v_head_dim,
                       f->index_head_dim, f->num_experts_per_tok, f->moe_intermediate_size};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i] < 0 || all[i] > 40) return 0;
    return f->num_hidden_layers >= 0 && f->num_hidden_layers <= LAYERS && f->n_routed_experts >= 0 &&
           f->n_routed_experts <= EXPERTS && f->num_attention_heads <= 9;
}

static void weights_of(input *in, const mla_config *f, mla_weights *w) {
    const int D = f->hidden_size, H = f->num_attention_heads, N = f->qk_nope_head_dim, P = f->qk_rope_head_dim,
              V = f->v_head_dim, Q = f->q_lora_rank, R = f->kv_lora_rank, E = f->n_routed_experts;
    memset(layers, 0, sizeof layers), memset(ahead, 0, sizeof ahead), memset(w, 0, sizeof *w);
    w->embed = tensor_of(in, VOCAB, D), w->norm = norm_of(in, D), w->layers = layers, w->mtp = ahead;
    if (byte_of(in) % 2) w->head = tensor_of(in, VOCAB, D);
    for (int e = 0; e < E; e++) experts[e] = mlp_of(in, f->moe_intermediate_size, D);
    for (int i = 0; i < f->num_hidden_layers + f->num_nextn_predict_layers; i++) {
        mla_layer_weights *l = &layers[i];
        const int b = byte_of(in);
        l->attn_norm = norm_of(in, D), l->ffn_norm = norm_of(in, D);
        if (Q) {
            l->attn.q_a = linear_of(in, Q, D), l->attn.q_norm = norm_of(in, Q);
            l->attn.q_b = linear_of(in, H * (N + P), Q);
        } else l->attn.q = linear_of(in, H * (N + P), D);
        l->attn.kv_a = linear_of(in, R + P, D), l->attn.kv_norm = norm_of(in, R);
        if (b & 1) l->attn.k_b = tensor_of(in, H * R, N), l->attn.v_b = tensor_of(in, H * V, R);
        else l->attn.kv_b = linear_of(in, H * (N + V), R);
        l->attn.o = linear_of(in, D, H * V);
        if (f->index_topk && (i == 0 || b & 2)) {
            l->attn.indexer.wq_b = linear_of(in, 2 * f->index_head_dim, Q);
            l->attn.indexer.wk = linear_of(in, f->index_head_dim, D);
            l->attn.indexer.k_norm = norm_of(in, f->index_head_dim);
            l->attn.indexer.k_norm.bias = tensor_of(in, 1, f->index_head_dim);
            l->attn.indexer.weights_proj = tensor_of(in, 2, D);
        }
        if (E && b & 4) {
            l->moe.router = tensor_of(in, E + f->zero_expert_num, D), l->moe.experts = experts;
            if (b & 8) l->moe.router_bias = tensor_of(in, 1, E + f->zero_expert_num);
            if (f->n_shared_experts) l->moe.shared = mlp_of(in, f->moe_intermediate_size * f->n_shared_experts, D);
        }
        if (!(E && b & 4) || b & 16) l->mlp = mlp_of(in, f->intermediate_size, D);
    }
    ahead[0].enorm = norm_of(in, D), ahead[0].hnorm = norm_of(in, D), ahead[0].norm = norm_of(in, D);
    ahead[0].eh_proj = linear_of(in, D, 2 * D);
}

static void in_turn(void *user, int n, void (*task)(void *arg, int i), void *arg) {
    (void)user;
    for (int i = n; i--;) task(arg, i);
}

/* The same call by one thread and by some, and by an allocator's and the caller's memory: the same bits. */
static void forward_of(input *in, const mla_model *m) {
    static const mla_isa isas[] = {MLA_ISA_AUTO, MLA_ISA_SCALAR, MLA_ISA_AVX2, MLA_ISA_VNNI};
    static const mla_dtype kept[] = {MLA_F32, MLA_F16, MLA_BF16, MLA_Q8};
    static float logits[2][TOKENS * VOCAB], state[TOKENS * 40];
    mla_context_desc d;
    mla_cache_desc k;
    mla_error e;
    int tokens[TOKENS], done[2] = {0, 0};
    memset(&d, 0, sizeof d), memset(&k, 0, sizeof k);
    d.alloc = k.alloc = room;
    d.max_tokens = TOKENS, d.threads = 1, d.isa = isas[byte_of(in) % 4], d.attn = (mla_attn_path)(byte_of(in) % 3);
    d.activations = (mla_activations)(byte_of(in) % 5), d.invariant = byte_of(in) % 2;
    k.capacity = 2 * TOKENS, k.dtype = kept[byte_of(in) % 4], k.index_dtype = kept[byte_of(in) % 4];
    const int n = 1 + byte_of(in) % TOKENS, more = byte_of(in) % 4, wide = byte_of(in) % 8 == 0;
    for (int i = 0; i < n; i++) tokens[i] = byte_of(in) % (VOCAB + (byte_of(in) > 250));
    for (int side = 0; side < 1 + wide; side++) {
        mla_context *c = NULL;
        mla_cache *cache = NULL;
        if (side) d.threads = 3, d.run = in_turn;
        memset(logits[side], 0, sizeof logits[side]);
        const mla_result made = mla_context_create(&c, m, &d, &e), kept_too = mla_cache_create(&cache, m, &k, &e);
        if (!made && !kept_too) {
            mla_sequence q;
            mla_outputs out;
            float *hidden[LAYERS + 1] = {NULL, NULL, NULL, NULL};
            memset(&q, 0, sizeof q), memset(&out, 0, sizeof out);
            q.cache = cache, q.n_tokens = n, q.n_logits = n, out.logits = logits[side];
            hidden[mla_model_config(m)->num_hidden_layers] = state, out.hidden = hidden;
            mla_result r = mla_model_forward(c, &q, 1, tokens, &out);
            FUZZ_HOLDS(mla_cache_length(cache) == (r ? 0 : n));
            FUZZ_HOLDS(!r || mla_context_error(c)->text[0]);
            if (!r && mla_model_config(m)->num_nextn_predict_layers) mla_mtp_forward(c, 0, &q, 1, tokens, state, NULL);
            q.n_tokens = q.n_logits = 1, out.hidden = NULL;
            for (int i = 0; i < more && !r && n + i < TOKENS; i++, done[side]++)
                r = mla_model_forward(c, &q, 1, tokens, &out);
            done[side] = done[side] * 16 + (int)r;
        }
        mla_cache_destroy(cache), mla_context_destroy(c);
    }
    if (wide) FUZZ_HOLDS(done[0] == done[1] && !memcmp(logits[0], logits[1], sizeof logits[0]));
}

static void run_model(const unsigned char *data, size_t n) {
    static double memory[1 << 14];
    input at = {data, data + n}, *in = &at;
    mla_config f;
    mla_weights w;
    mla_model *m = NULL, *placed = NULL;
    mla_error e;
    for (int i = 0; i < POOL + 64 && pool_of_bytes[0] == 0; i += 4) {
        const float v = (float)((i * 37) % 101 - 50) * 0.01f;
        memcpy(pool_of_bytes + i, &v, 4);
    }
    pool_of_bytes[0] |= 1;
    config_of(in, &f);
    const size_t bytes = mla_model_size(&f);
    memset(&w, 0, sizeof w);
    if (!small_config(&f)) {
        if (f.num_hidden_layers > LAYERS) return; /* it would read more layers than there are */
        memset(layers, 0, sizeof layers), w.layers = layers, w.mtp = ahead;
    } else weights_of(in, &f, &w);
    const mla_result r = mla_model_create(&m, &f, &w, &room, &e);
    FUZZ_HOLDS(!r == !!m && (!r || (e.text[0] && strlen(e.text) < sizeof e.text)));
    FUZZ_HOLDS(bytes || r);
    if (bytes && bytes <= sizeof memory) FUZZ_HOLDS(mla_model_init(&placed, memory, sizeof memory, &f, &w, &e) == r);
    if (m && small_config(&f)) forward_of(in, m);
    mla_model_destroy(m);
    FUZZ_HOLDS(fuzz_open == 0);
}

/* ---- caches and pools -------------------------------------------------------------------------------------------- */

enum { CACHES = 6, PAGED = 4, PAGES = 5, ROOM = 3 * MLA_PAGE, R = 4, P = 2, L = 2 };

static const mla_model *cache_model(void) {
    static mla_model *m;
    static mla_layer_weights empty[L];
    mla_config f;
    mla_weights w;
    memset(&f, 0, sizeof f), memset(&w, 0, sizeof w);
    f.vocab_size = 4, f.hidden_size = 4, f.num_hidden_layers = L, f.num_attention_heads = 1, f.kv_lora_rank = R;
    f.qk_nope_head_dim = 2, f.qk_rope_head_dim = P, f.v_head_dim = 2, w.layers = empty;
    if (!m && mla_model_create(&m, &f, &w, NULL, NULL)) abort();
    return m;
}

static float value_of(int id, int layer, int i) { return (float)(id * 16 + layer * 8 + i); }

typedef struct shadow { /* what a cache must hold: of each position the number that its rows were made of */
    mla_cache *cache;
    int ids[ROOM], n, capacity, paged;
} shadow;

FUZZ_PLAIN static int append_ids(shadow *s, int n, int *next) {
    static float rows[L * ROOM * (R + P)];
    mla_error e;
    for (int l = 0; l < L; l++)
        for (int t = 0; t < n; t++)
            for (int i = 0; i < R + P; i++) rows[(l * n + t) * (R + P) + i] = value_of(*next + t, l, i);
    const mla_result r = mla_cache_append(s->cache, n, rows, &e);
    if (n > s->capacity - s->n) FUZZ_HOLDS(r == MLA_ERR_FULL);
    if (r == MLA_OK)
        for (int t = 0; t < n; t++) s->ids[s->n++] = (*next + t) & 0xffff;
    else FUZZ_HOLDS(r == MLA_ERR_FULL && n > 0);
    *next = (*next + n) & 0xffff;
    return r == MLA_OK;
}

FUZZ_PLAIN static void check_rows(const shadow *s, int from, int to) {
    float row[R + P];
    FUZZ_HOLDS(mla_cache_length(s->cache) == s->n && mla_cache_capacity(s->cache) == s->capacity);
    for (int t = from; t < to; t++)
        for (int l = 0; l < L; l++) {
            FUZZ_HOLDS(!mla_cache_read(s->cache, l, t, row, NULL));
            for (int i = 0; i < R + P; i++) {
                const float want = value_of(s->ids[t], l, i);
                FUZZ_HOLDS(!memcmp(&row[i], &want, sizeof want));
            }
        }
    FUZZ_HOLDS(mla_cache_read(s->cache, 0, s->n, row, NULL) == MLA_ERR_ARGUMENT);
}

/* Saved and loaded, in pieces of any size. */
static void copy_by_bytes(shadow *to, const shadow *from, int step) {
    static unsigned char bytes[1 << 16];
    mla_cache_stream save, load;
    size_t n = 0, got;
    mla_result r = MLA_OK;
    memset(&save, 0, sizeof save), memset(&load, 0, sizeof load);
    while ((got = mla_cache_save(&save, from->cache, bytes + n, (size_t)step)) > 0) n += got;
    FUZZ_HOLDS(n == mla_cache_saved_bytes(from->cache) && n < sizeof bytes - 256);
    mla_cache_reset(to->cache), to->n = 0;
    for (size_t at = 0; at < n && !r; at += (size_t)step)
        r = mla_cache_load(&load, to->cache, bytes + at, n - at < (size_t)step ? n - at : (size_t)step, NULL);
    FUZZ_HOLDS(r == MLA_OK || r == MLA_ERR_FULL);
    if (r) {
        mla_cache_reset(to->cache);
        FUZZ_HOLDS(to->capacity < from->n || to->paged);
        return;
    }
    memcpy(to->ids, from->ids, sizeof to->ids), to->n = from->n;
}

static void open_cache(shadow *s, mla_pool *pool, int capacity) {
    mla_cache_desc d;
    memset(&d, 0, sizeof d);
    d.capacity = capacity, d.pool = pool, d.alloc = room;
    FUZZ_HOLDS(!mla_cache_create(&s->cache, cache_model(), &d, NULL));
    s->n = 0, s->capacity = capacity, s->paged = pool != NULL;
}

static void run_caches(const unsigned char *data, size_t n) {
    input at = {data, data + n}, *in = &at;
    shadow all[CACHES];
    mla_pool *pool = NULL;
    mla_pool_desc d;
    int next = 0;
    memset(&d, 0, sizeof d);
    d.n_pages = PAGES, d.alloc = room;
    FUZZ_HOLDS(!mla_pool_create(&pool, cache_model(), &d, NULL));
    for (int i = 0; i < CACHES; i++) open_cache(&all[i], i < PAGED ? pool : NULL, i % 2 ? ROOM : MLA_PAGE);
    for (int steps = 0; in->at < in->end && steps < 200; steps++) {
        const int what = byte_of(in), arg = byte_of(in), before = mla_pool_free_pages(pool);
        shadow *s = &all[what / 8 % CACHES], *other = &all[arg % CACHES];
        int expected = -1, same;
        mla_sequence q;
        memset(&q, 0, sizeof q);
        switch (what % 8) {
        case 0:
        case 1:
            q.cache = s->cache, q.n_tokens = arg % 70;
            if (q.n_tokens <= s->capacity - s->n) expected = mla_pool_pages_needed(pool, &q, 1, 0);
            same = append_ids(s, arg % 70, &next);
            if (expected >= 0 && s->paged) {
                FUZZ_HOLDS(same == (expected <= before));
                FUZZ_HOLDS(mla_pool_free_pages(pool) == before - (same ? expected : 0));
            } else FUZZ_HOLDS(expected >= 0 ? expected == 0 && same : !same);
            break;
        case 2:
            same = !mla_cache_truncate(s->cache, arg, NULL);
            FUZZ_HOLDS(same == (arg <= s->n));
            if (same) s->n = arg;
            break;
        case 3: mla_cache_reset(s->cache), s->n = 0; break;
        case 4:
        case 5: {
            const mla_result r = mla_cache_fork(s->cache, other->cache, NULL);
            FUZZ_HOLDS(!r || r == MLA_ERR_FULL || r == MLA_ERR_ARGUMENT);
            if (other->n > s->capacity) FUZZ_HOLDS(r);
            if (!r && s != other) memcpy(s->ids, other->ids, sizeof s->ids), s->n = other->n;
            break;
        }
        case 6:
            if (s != other) copy_by_bytes(s, other, 1 + arg);
            break;
        default:
            mla_cache_destroy(s->cache);
            open_cache(s, s < all + PAGED ? pool : NULL, arg % 2 ? ROOM : 1 + arg / 2);
            break;
        }
        for (int i = 0; i < CACHES; i++) check_rows(&all[i], all[i].n > 2 ? all[i].n - 2 : 0, all[i].n);
    }
    for (int i = 0; i < CACHES; i++) check_rows(&all[i], 0, all[i].n), mla_cache_destroy(all[i].cache);
    FUZZ_HOLDS(mla_pool_free_pages(pool) == PAGES);
    mla_pool_destroy(pool);
    FUZZ_HOLDS(fuzz_open == 0);
}

static uint64_t fnv(const unsigned char *p, size_t n) {
    uint64_t sum = 14695981039346656037u;
    for (size_t i = 0; i < n; i++) sum = (sum ^ p[i]) * 1099511628211u;
    return sum;
}

/* Bytes that were saved, or not; the first says whether their sums are made right, and how they are cut. */
static void run_load(const unsigned char *data, size_t n) {
    mla_cache *cache;
    mla_cache_desc d;
    mla_cache_stream load;
    mla_error e;
    mla_result r = MLA_OK;
    unsigned char *bytes = (unsigned char *)malloc(n + 16);
    if (n < 2 || !bytes) {
        free(bytes);
        return;
    }
    memcpy(bytes, data + 1, --n);
    const size_t step = 1 + data[0] / 2, words = n > 12 ? bytes[8] | (size_t)bytes[9] << 8 : 0;
    if (data[0] & 1 && 4 * words + 16 <= n) {
        uint64_t sum = fnv(bytes, 4 * words);
        for (int i = 0; i < 8; i++) bytes[4 * words + (size_t)i] = (unsigned char)(sum >> (8 * i));
        sum = fnv(bytes, n - 8);
        for (int i = 0; i < 8; i++) bytes[n - 8 + (size_t)i] = (unsigned char)(sum >> (8 * i));
    }
    memset(&d, 0, sizeof d), memset(&load, 0, sizeof load);
    d.capacity = ROOM, d.alloc = room;
    FUZZ_HOLDS(!mla_cache_create(&cache, cache_model(), &d, NULL));
    for (size_t at = 0; at < n && !r; at += step)
        r = mla_cache_load(&load, cache, bytes + at, n - at < step ? n - at : step, &e);
    if (!r) r = mla_cache_load(&load, cache, bytes, 0, &e);
    FUZZ_HOLDS(!r || ((r == MLA_ERR_DATA || r == MLA_ERR_FULL) && e.text[0]));
    if (r) FUZZ_HOLDS(mla_cache_length(cache) == 0);
    else { /* what was taken is saved as it was */ mla_cache_stream save;
        memset(&save, 0, sizeof save);
        FUZZ_HOLDS(mla_cache_saved_bytes(cache) > 0 && mla_cache_length(cache) <= ROOM);
    }
    mla_cache_destroy(cache), free(bytes);
    FUZZ_HOLDS(fuzz_open == 0);
}

const fuzz_target fuzz_targets[] = {{"model", run_model}, {"caches", run_caches}, {"load", run_load}, {NULL, NULL}};
