/* model.h - synthetic models: a real forward pass through weights made in memory, decode and prefill at several
   depths. */

/* ---- random weights ---------------------------------------------------------------------------------------------- */
/* A pool of random atoms (a value, a block, or one of sixteen rows interleaved) for each dtype; tensors are copies of
   it from places that never line up, made by all threads. Weights are uniform, deviation 1/sqrt(2048), so that
   activations keep about their size. */

typedef struct pool {
    unsigned char *atoms;
    size_t n, size; /* a prime number of atoms, bytes of one */
    size_t values;  /* in one */
} pool;

static const float weight_deviation = 0.022f;
static const float fp8_scale = 0.00018f; /* uniform e4m3 codes have a deviation of about 120 */

/* Random codes and scales; then the f16 factors that give the weights their deviation, within a factor of 1.4, of both
   signs. This reaches into the library: its table says where they are. */
static void block_random(unsigned char *b, mla_dtype t, uint64_t *seed, float deviation) {
    const mla__format *f = &mla__formats[t];
    static const int of[][2] = {{-1, -1},  {0, -1},   {0, 2},  {0, 2},   {80, 82},
                                {108, -1}, {208, -1}, {0, -1}, {-1, -1}, {-1, -1}};
    float x[256], factor = deviation;
    double sum = 0, squares = 0;
    for (int i = 0; i < f->bytes; i++) b[i] = (unsigned char)random_u32(seed);
    if (f->scaling == MLA__SCALING_MX) b[0] = 120 + b[0] % 3;
    for (int i = 0; f->scaling == MLA__SCALING_NV && i < 4; i++) b[i] = 3 + b[i] % 4;
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < 2 && of[f->scaling][i] >= 0; i++) {
            const uint16_t half = mla_f32_to_f16(factor * (i && f->scaling == MLA__SCALING_DM ? -7.5f : 1.0f));
            memcpy(b + of[f->scaling][i], &half, 2);
        }
        mla_widen(x, t, b, (size_t)f->block);
        for (int i = 0; i < f->block && !pass; i++) sum += (double)x[i], squares += (double)x[i] * (double)x[i];
        const double mean = sum / f->block, is = sqrt(squares / f->block - mean * mean) + 1e-12;
        const float r = random_float(seed);
        factor *= (float)((double)deviation / is) * ((r < 0 ? -1.0f : 1.0f) + 0.2f * r);
    }
}

static void pool_open(pool *p, mla_dtype dtype, mla_layout layout, float deviation) {
    uint64_t seed = 1 + (uint64_t)dtype;
    const int block = mla_dtype_block(dtype), grouped = block > 1, rows = layout ? 16 : 1;
    p->values = (size_t)(rows * block);
    p->n = !grouped ? 1048573 : block == 256 ? (layout ? 509 : 8191) : layout ? 4093 : 65521;
    p->size = mla_dtype_bytes(dtype, p->values);
    p->atoms = need(p->n * p->size);
    for (size_t i = 0; i < p->n; i++) {
        unsigned char *atom = p->atoms + i * p->size, own[16 * 256];
        float f = random_float(&seed) * deviation;
        uint16_t half = dtype == MLA_BF16 ? mla_f32_to_bf16(f) : mla_f32_to_f16(f);
        unsigned char code = (unsigned char)random_u32(&seed);
        switch (dtype) {
        case MLA_F32: memcpy(atom, &f, 4); break;
        case MLA_E4M3: *atom = (code & 0x7f) == 0x7f ? code ^ 1 : code; break; /* no NaN */
        case MLA_F16:
        case MLA_BF16: memcpy(atom, &half, 2); break;
        default:
            for (int k = 0; k < rows; k++)
                block_random((layout ? own : atom) + (size_t)k * mla_dtype_bytes(dtype, (size_t)block), dtype, &seed,
                             deviation);
            const mla_tensor rows_of = mla_view(own, dtype, 16, block);
            if (layout && mla_repack(atom, &rows_of, NULL)) fail(1, "%s cannot be interleaved", mla_dtype_name(dtype));
        }
    }
}

typedef struct tally { /* of the linear layers of one part of a model, each used once */
    double bytes, params;
    double exact, of[MLA_DTYPE_COUNT]; /* multiply-adds for a token: always in f32, and with weights of each dtype */
} tally;

typedef struct maker { /* carves tensors out of one piece of memory; with base NULL it only counts */
    char *base;
    size_t used;
    size_t at;         /* in the pools, in atoms */
    mla_layout layout; /* of blocks */
    pool pools[MLA_DTYPE_COUNT], embed, kv_b;
} maker;

static void *carve(maker *m, size_t bytes) {
    char *p = m->base ? m->base + m->used : NULL;
    m->used += (bytes + 63) / 64 * 64;
    return p;
}

typedef struct copy_job {
    char *to;
    const pool *from;
    size_t start, n; /* atoms */
    int threads;
} copy_job;

static void copy_task(void *arg, int i) {
    const copy_job *j = arg;
    const pool *p = j->from;
    size_t done = j->n * (size_t)i / (size_t)j->threads, end = j->n * (size_t)(i + 1) / (size_t)j->threads;
    while (done < end) {
        size_t from = (j->start + done) % p->n, n = end - done < p->n - from ? end - done : p->n - from;
        memcpy(j->to + done * p->size, p->atoms + from * p->size, n * p->size);
        done += n;
    }
}

static mla_tensor tensor(maker *m, const pool *p, mla_dtype dtype, int rows, int cols) {
    copy_job job = {NULL, p, m->at, (size_t)rows * (size_t)cols / p->values, all_threads()};
    job.to = carve(m, job.n * p->size);
    m->at += job.n + 12345;
    if (job.to) run(job.threads, copy_task, &job);
    mla_tensor t = mla_view(job.to, dtype, rows, cols);
    t.layout = mla_dtype_block(dtype) > 1 ? m->layout : MLA_LAYOUT_ROWS;
    return t;
}

/* What quantisers take for rows that are no multiple of 256. */
static mla_dtype fallback(mla_dtype t) {
    return t == MLA_Q4_K ? MLA_Q5_0 : t == MLA_Q5_K ? MLA_Q5_1 : t == MLA_Q6_K ? MLA_Q8 : MLA_IQ4_NL;
}

/* [rows, cols] of a dtype, out of a pool, with a scale for each block of fp8. */
static mla_linear linear_of(maker *m, tally *t, const pool *p, mla_dtype dtype, int rows, int cols) {
    mla_linear w;
    double n = (double)rows * cols;
    memset(&w, 0, sizeof w);
    w.weight = tensor(m, p, dtype, rows, cols);
    t->params += n, t->bytes += (double)mla_dtype_bytes(dtype, (size_t)rows * (size_t)cols);
    t->of[dtype] += n;
    if (dtype == MLA_E4M3) {
        size_t blocks = (size_t)((rows + 127) / 128) * (size_t)((cols + 127) / 128);
        float *scale = carve(m, blocks * sizeof *scale);
        for (size_t i = 0; scale && i < blocks; i++) scale[i] = fp8_scale;
        w.weight.scale = scale, w.weight.scale_dtype = MLA_F32;
        t->bytes += (double)blocks * sizeof *scale;
    }
    return w;
}

static mla_linear linear(maker *m, tally *t, mla_dtype dtype, int rows, int cols) {
    if (cols % mla_dtype_block(dtype)) dtype = fallback(dtype);
    return linear_of(m, t, &m->pools[dtype], dtype, rows, cols);
}

static mla_tensor exact(maker *m, tally *t, mla_dtype dtype, int rows, int cols) { /* router and the like */
    const mla_linear w = linear(m, t, dtype, rows, cols);
    t->of[dtype] -= (double)rows * cols, t->exact += (double)rows * cols;
    return w.weight;
}

static mla_norm_weights norm_of_ones(maker *m, tally *t, int n) {
    mla_norm_weights w;
    float *data = carve(m, (size_t)n * sizeof *data);
    memset(&w, 0, sizeof w);
    for (int i = 0; data && i < n; i++) data[i] = 1;
    w.weight = mla_view(data, MLA_F32, 1, n);
    t->params += n, t->bytes += 4.0 * n;
    return w;
}

static mla_mlp_weights mlp(maker *m, tally *t, mla_dtype dtype, int width, int hidden) {
    mla_mlp_weights w;
    w.gate = linear(m, t, dtype, width, hidden), w.up = linear(m, t, dtype, width, hidden);
    w.down = linear(m, t, dtype, hidden, width);
    return w;
}

/* ---- shapes ------------------------------------------------------------------------------------------------------ */

typedef struct shape {
    char name[64];
    mla_config config;
    int first_moe, moe_step, tied; /* layers first_moe, first_moe + moe_step, ... have experts */
    checkpoint file;               /* holds what config points to, if it came from a file */
    ck__plan plan;                 /* says which layers have an indexer, if it came from a file */
} shape;

static int has_experts(const shape *s, int layer) {
    return s->config.n_routed_experts > 0 && layer >= s->first_moe && layer % s->moe_step == 0;
}

/* Ling 3's: the last layer of each four has MLA. */
static int has_state(const shape *s, int layer) {
    return s->config.linear_num_heads > 0 && (s->file.recurrent ? s->file.recurrent[layer] : (layer + 1) % 4 != 0);
}

static int has_indexer(const shape *s, int layer) {
    return s->config.index_topk > 0 && (!s->plan.family || ck__has_indexer(&s->file, &s->plan, layer));
}

static mla_config attention_of_v2_and_v3(int hidden, int heads, int q_lora_rank, int inter, int layers) {
    mla_config c;
    memset(&c, 0, sizeof c);
    c.vocab_size = 32768, c.hidden_size = hidden, c.num_hidden_layers = layers, c.intermediate_size = inter;
    c.num_attention_heads = heads, c.q_lora_rank = q_lora_rank;
    c.kv_lora_rank = 512, c.qk_nope_head_dim = 128, c.qk_rope_head_dim = 64, c.v_head_dim = 128;
    c.rope.scaling = MLA_ROPE_YARN, c.rope.factor = 40, c.rope.original_max_position_embeddings = 4096;
    c.rope.max_position_embeddings = 163840, c.rope.mscale = c.rope.mscale_all_dim = q_lora_rank ? 1.0f : 0.707f;
    return c;
}

static void shape_from_file(shape *s, const char *name) { /* config.json, or the directory that it is in */
    char path[4096];
    mla_error error;
    json_value *json;
    char *text;
    size_t n;
    int missing;
    snprintf(path, sizeof path, "%s/config.json", name);
    mla_result rc = checkpoint_read(&text, &n, path, (size_t)1 << 20, &missing, &error);
    if (rc && missing) rc = checkpoint_read(&text, &n, name, (size_t)1 << 20, &missing, &error);
    if (rc)
        fail(2, "--shape: '%s' is none of lite6, kda6, v3, v3attn, v32attn, and no config.json can be read there%s%s",
             name, missing ? "" : ": ", missing ? "" : error.text);
    if (json_parse(text, n, &json, &error) || ck__read_config(&s->file, &s->plan, json, &error))
        fail(1, "%s: %s", name, error.text);
    json_free(json), free(text);
    s->config = s->file.config, s->tied = s->plan.tied, s->first_moe = s->plan.first_k_dense_replace,
    s->moe_step = s->plan.moe_layer_freq;
    size_t length = strlen(name);
    while (length > 1 && name[length - 1] == '/') length--;
    if (length > 12 && !strncmp(name + length - 12, "/config.json", 12)) length -= 12;
    size_t start = length;
    while (start > 0 && name[start - 1] != '/') start--;
    snprintf(s->name, sizeof s->name, "%.*s", (int)(length - start < 60 ? length - start : 60), name + start);
    for (char *c = s->name; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < 32) *c = '_'; /* it goes into JSON */
}

static void shape_open(shape *s, const char *name, int layers) { /* cut to so many layers, if not 0 */
    memset(s, 0, sizeof *s);
    s->moe_step = 1;
    snprintf(s->name, sizeof s->name, "%.60s", name);
    if (!strcmp(name, "lite6")) { /* DeepSeek-V2-Lite, 27 layers cut to 6 */
        s->config = attention_of_v2_and_v3(2048, 16, 0, 10944, 6), s->first_moe = 1;
        s->config.n_routed_experts = 64, s->config.num_experts_per_tok = 6, s->config.moe_intermediate_size = 1408;
        s->config.n_shared_experts = 2;
    } else if (!strcmp(name, "kda6")) { /* Ling-3.0-tiny, 24 layers cut to 8: 6 of KDA, 2 of MLA */
        s->config = attention_of_v2_and_v3(1536, 16, 256, 4608, 8), s->first_moe = 1;
        memset(&s->config.rope, 0, sizeof s->config.rope), s->config.rope.theta = 6e6f;
        s->config.n_routed_experts = 128, s->config.num_experts_per_tok = 8, s->config.moe_intermediate_size = 512;
        s->config.n_shared_experts = 1, s->config.n_group = 8, s->config.topk_group = 4, s->config.norm_topk_prob = 1;
        s->config.topk_method = MLA_TOPK_NOAUX_TC, s->config.scoring_func = MLA_SCORING_SIGMOID;
        s->config.routed_scaling_factor = 2.5f;
        s->config.linear_num_heads = 16, s->config.linear_head_dim = 128, s->config.kda_lower_bound = -5;
    } else if (!strcmp(name, "v3attn") || !strcmp(name, "v32attn")) {
        s->config = attention_of_v2_and_v3(7168, 128, 1536, 2048, 3);
        if (!strcmp(name, "v32attn"))
            s->config.index_n_heads = 64, s->config.index_head_dim = 128, s->config.index_topk = 2048;
        s->config.index_rope = MLA_ROPE_HALF;
    } else if (!strcmp(name, "v3")) { /* DeepSeek-V3's dense layers, and its vocabulary */
        s->config = attention_of_v2_and_v3(7168, 128, 1536, 18432, 3);
        s->config.vocab_size = 129280;
    } else shape_from_file(s, name);
    if (layers > s->config.num_hidden_layers)
        fail(2, "--layers: %d is more than the %d of %s", layers, s->config.num_hidden_layers, s->name);
    if (layers) s->config.num_hidden_layers = layers;
}

/* ---- a model ----------------------------------------------------------------------------------------------------- */

typedef struct synthetic {
    shape shape;
    mla_dtype dtype, kv_b_dtype;
    maker maker;
    mla_layer_weights *layers;
    mla_weights weights;
    mla_model *model;
    int n_moe, a_moe_layer, n_indexers, n_states;
    double params;
    tally attn, kv_b, kda, ffn, router, shared, expert, head,
        norms; /* of all layers; ffn: dense ones; expert: one of one layer */
} synthetic;

static mla_tensor vector_of(maker *m, tally *t, int rows, int cols, float deviation) { /* of F32, not out of a pool */
    float *data = carve(m, (size_t)rows * (size_t)cols * sizeof *data);
    uint64_t seed = 7;
    for (int i = 0; data && i < rows * cols; i++) data[i] = deviation * random_float(&seed);
    t->params += (double)rows * cols, t->bytes += 4.0 * rows * cols;
    return mla_view(data, MLA_F32, rows, cols);
}

/* With one matrix for each of decay and gate, as Ling 3 has them. */
static void make_state(synthetic *s, mla_kda_weights *w) {
    const mla_config *c = &s->shape.config;
    maker *m = &s->maker;
    const int D = c->hidden_size, H = c->linear_num_heads, C = c->linear_head_dim, width = H * C;
    const mla_dtype t = s->dtype, plain = t == MLA_E4M3 || is_grouped(t) ? MLA_BF16 : t;
    mla_linear *const linears[] = {&w->q, &w->k, &w->v, &w->f_b, &w->g_b};
    mla_tensor *const convs[] = {&w->q_conv, &w->k_conv, &w->v_conv};
    for (int i = 0; i < 5; i++) *linears[i] = linear(m, &s->kda, t, width, D);
    for (int i = 0; i < 3; i++) *convs[i] = vector_of(m, &s->kda, width, 4, 0.5f);
    w->a_log = vector_of(m, &s->kda, 1, H, 0.5f), w->dt_bias = vector_of(m, &s->kda, 1, width, 1);
    w->b = linear(m, &s->kda, plain, H, D), w->o = linear(m, &s->kda, t, D, width);
    w->norm = norm_of_ones(m, &s->kda, C).weight;
    s->n_states++;
}

static void make_attention(synthetic *s, int i) {
    const mla_config *c = &s->shape.config;
    maker *m = &s->maker;
    mla_layer_weights *l = &s->layers[i];
    int D = c->hidden_size, H = c->num_attention_heads, Q = c->q_lora_rank, R = c->kv_lora_rank,
        N = c->qk_nope_head_dim, P = c->qk_rope_head_dim, V = c->v_head_dim;
    mla_dtype plain = s->dtype == MLA_E4M3 || is_grouped(s->dtype) ? MLA_BF16 : s->dtype;
    if (Q) {
        l->attn.q_a = linear(m, &s->attn, s->dtype, Q, D), l->attn.q_b = linear(m, &s->attn, s->dtype, H * (N + P), Q);
        l->attn.q_norm = norm_of_ones(m, &s->norms, Q);
    } else l->attn.q = linear(m, &s->attn, s->dtype, H * (N + P), D);
    l->attn.kv_a = linear(m, &s->attn, s->dtype, R + P, D), l->attn.kv_norm = norm_of_ones(m, &s->norms, R);
    const mla_layout layout = m->layout;
    m->layout = MLA_LAYOUT_ROWS; /* kv_b is not interleaved */
    l->attn.kv_b = linear_of(m, &s->kv_b, &m->kv_b, s->kv_b_dtype, H * (N + V), R);
    m->layout = layout;
    l->attn.o = linear(m, &s->attn, s->dtype, D, H * V);
    if (has_indexer(&s->shape, i)) {
        mla_indexer_weights *w = &l->attn.indexer;
        w->wq_b = linear(m, &s->attn, s->dtype, c->index_n_heads * c->index_head_dim, Q);
        w->wk = linear(m, &s->attn, s->dtype, c->index_head_dim, D),
        w->k_norm = norm_of_ones(m, &s->norms, c->index_head_dim);
        w->weights_proj = exact(m, &s->attn, plain, c->index_n_heads, D);
        s->n_indexers++;
    }
}

static void make_layer(synthetic *s, int i) {
    const mla_config *c = &s->shape.config;
    maker *m = &s->maker;
    mla_layer_weights *l = &s->layers[i];
    int D = c->hidden_size, E = c->n_routed_experts, I = c->moe_intermediate_size;
    mla_dtype plain = s->dtype == MLA_E4M3 || is_grouped(s->dtype) ? MLA_BF16 : s->dtype;
    memset(l, 0, sizeof *l);
    l->attn_norm = norm_of_ones(m, &s->norms, D), l->ffn_norm = norm_of_ones(m, &s->norms, D);
    if (has_state(&s->shape, i)) make_state(s, &l->kda);
    else make_attention(s, i);
    if (!has_experts(&s->shape, i)) {
        l->mlp = mlp(m, &s->ffn, s->dtype, c->intermediate_size, D);
        return;
    }
    l->moe.router = exact(m, &s->router, plain, E, D);
    if (c->n_shared_experts) l->moe.shared = mlp(m, &s->shared, s->dtype, c->n_shared_experts * I, D);
    mla_mlp_weights *experts = carve(m, (size_t)E * sizeof *experts), one;
    l->moe.experts = experts;
    for (int e = 0; e < E; e++) {
        memset(&s->expert, 0, sizeof s->expert);
        one = mlp(m, &s->expert, s->dtype, I, D);
        if (experts) experts[e] = one;
    }
    s->params += E * s->expert.params;
    s->n_moe++, s->a_moe_layer = i;
}

static void make_all(synthetic *s) {
    const mla_config *c = &s->shape.config;
    maker *m = &s->maker;
    mla_dtype plain = s->dtype == MLA_E4M3 || is_grouped(s->dtype) ? MLA_BF16 : s->dtype;
    tally *sums[] = {&s->attn, &s->kv_b, &s->kda, &s->ffn, &s->router, &s->shared, &s->head, &s->norms};
    m->used = m->at = 0, s->n_moe = s->n_indexers = s->n_states = 0, s->a_moe_layer = -1;
    memset(&s->expert, 0, sizeof s->expert);
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++) memset(sums[i], 0, sizeof *sums[i]);
    s->params = (double)c->vocab_size * c->hidden_size;
    s->weights.embed = tensor(m, &m->embed, plain, c->vocab_size, c->hidden_size);
    for (int i = 0; i < c->num_hidden_layers; i++) {
        if (m->base) progress("making weights: layer %d of %d", i + 1, c->num_hidden_layers);
        make_layer(s, i);
    }
    s->weights.norm = norm_of_ones(m, &s->norms, c->hidden_size);
    if (!s->shape.tied) s->weights.head = linear(m, &s->head, s->dtype, c->vocab_size, c->hidden_size).weight;
    else { /* the embeddings are the head */ double n = (double)c->vocab_size * c->hidden_size;
        s->head.bytes = n * (double)mla_dtype_bytes(plain, 1), s->head.of[plain] = n;
    }
    s->weights.layers = s->layers;
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++) s->params += sums[i]->params;
}

static double memory_bytes(void) { return (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE); }

/* What kv_b [.., R] is: of block types, which hold most matrices, q8, as llama.cpp and examples/convert make it. */
static mla_dtype kv_b_of(const options *o, int R) {
    const int grouped = is_grouped(o->weights);
    const mla_dtype kept = grouped ? MLA_BF16 : o->weights;
    const mla_dtype t = o->kv_b >= 0 ? (mla_dtype)o->kv_b : o->kv_b == KV_B_DEFAULT && grouped ? MLA_Q8 : kept;
    if (R % mla_dtype_block(t) && o->kv_b >= 0)
        fail(2, "--kv-b: kv_lora_rank is %d, no multiple of the %d of %s", R, mla_dtype_block(t), mla_dtype_name(t));
    return R % mla_dtype_block(t) ? kept : t;
}

static void synthetic_open(synthetic *s, const options *o, const char *name) {
    mla_error error;
    memset(s, 0, sizeof *s);
    shape_open(&s->shape, name, o->layers);
    s->dtype = o->weights, s->maker.layout = o->layout;
    mla_dtype plain = o->weights <= MLA_BF16 ? o->weights : MLA_BF16;
    pool_open(&s->maker.pools[o->weights], o->weights, o->layout, weight_deviation);
    if (mla_dtype_block(o->weights) == 256)
        pool_open(&s->maker.pools[fallback(o->weights)], fallback(o->weights), o->layout, weight_deviation);
    if (plain != o->weights) pool_open(&s->maker.pools[plain], plain, MLA_LAYOUT_ROWS, weight_deviation);
    s->kv_b_dtype = kv_b_of(o, s->shape.config.kv_lora_rank);
    pool_open(&s->maker.kv_b, s->kv_b_dtype, MLA_LAYOUT_ROWS, weight_deviation);
    pool_open(&s->maker.embed, plain, MLA_LAYOUT_ROWS,
              1.0f); /* tokens must differ more than what attention adds to all of them */
    s->layers = need((size_t)s->shape.config.num_hidden_layers * sizeof *s->layers);
    make_all(s);
    if ((double)s->maker.used > 0.95 * memory_bytes())
        fail(1, "%s with %s weights takes %.1f GB, and this machine has %.1f GB", s->shape.name,
             weights_name(s->dtype, s->maker.layout), (double)s->maker.used * 1e-9, memory_bytes() * 1e-9);
    s->maker.base = need(s->maker.used);
    make_all(s);
    if (mla_model_create(&s->model, &s->shape.config, &s->weights, NULL, &error)) fail(1, "%s", error.text);
}

static void synthetic_close(synthetic *s) {
    mla_model_destroy(s->model);
    free(s->layers), free(s->maker.base), free(s->maker.embed.atoms), free(s->maker.kv_b.atoms),
        free(s->shape.file.rope_factors), free(s->shape.file.indexers), free(s->shape.file.recurrent);
    for (int i = 0; i < MLA_DTYPE_COUNT; i++) free(s->maker.pools[i].atoms);
}

/* ---- counting: the rules are at the top of bench.c --------------------------------------------------------------- */

typedef struct work { /* useful: flops, once each; then what runs for them, in f32, in int8 and in bf16 */
    double bytes, useful, flops, ops, halves;
} work;

static void add_work(work *to, const work *w, double times) {
    to->bytes += times * w->bytes, to->useful += times * w->useful, to->flops += times * w->flops;
    to->ops += times * w->ops, to->halves += times * w->halves;
}

/* So many flops of products with weights of a dtype that T tokens meet, by what the library makes of activations then
   (it is asked): f32, int8, bf16, or two parts of bf16, each of which is a product. */
static void add_product(work *w, const mla_context *c, mla_dtype dtype, mla_layout layout, double flops, double T) {
    mla_tensor of = mla_view(NULL, dtype, 16, 256);
    of.layout = is_grouped(dtype) ? layout : MLA_LAYOUT_ROWS;
    const int to = mla__wants(c, &of, T < 1 ? 1 : (int)T);
    w->useful += flops;
    if (to == MLA_ACT_INT8) w->ops += flops;
    else if (mla__packed(to)) w->halves += (to == MLA__ACT_SPLIT ? 2 : 1) * flops;
    else w->flops += flops;
}

/* Products of `times` tokens with all of a part's matrices, T at once. */
static void add_tally(work *w, const mla_context *c, const tally *t, mla_layout layout, double times, double T) {
    w->useful += 2 * times * t->exact, w->flops += 2 * times * t->exact;
    for (int d = 0; d < MLA_DTYPE_COUNT; d++)
        if (t->of[d] > 0) add_product(w, c, (mla_dtype)d, layout, 2 * times * t->of[d], T);
}

/* What a line shows of w, and what it is set against: the limits' samples. */
static void set_against(line *l, const work *w, samples *read, samples *fma, samples *int8, samples *bf16) {
    l->bytes = w->bytes, l->useful = w->useful, l->flops = w->flops, l->ops = w->ops, l->halves = w->halves;
    l->read = median(read), l->fma = w->flops > 0 ? median(fma) : 0;
    l->int8 = w->ops > 0 ? median(int8) : 0, l->bf16 = w->halves > 0 ? median(bf16) : 0;
}

/* Keys that T tokens after depth others attend to, in all, and those that any of them does: with sparse attention at
 * most. */
static double attended(const mla_config *c, double T, double depth, double *any) {
    double pairs = 0, most = c->index_topk > 0 ? c->index_topk : HUGE_VAL;
    for (double t = 1; t <= T; t++) pairs += fmin(depth + t, most);
    *any = fmin(depth + T, T * most);
    return pairs;
}

/* Flops of queries that meet keys: in bf16 if tiles do it. */
static void add_pairs(work *w, const options *o, const mla_context *c, double flops) {
    w->useful += flops;
    if (c->k.attend_tiles && o->cache == MLA_BF16) w->halves += flops;
    else w->flops += flops;
}

/* Attention of one layer, T tokens after depth others: the path with fewer flops. Keys are expanded a block at a time,
   in bf16 where that is what many tokens get: latents of a bf16 cache are one part, others two. */
static void add_attention(work *w, const synthetic *s, const options *o, const mla_context *context, double T,
                          double depth, double times) {
    const mla_config *c = &s->shape.config;
    double H = c->num_attention_heads, R = c->kv_lora_rank, N = c->qk_nope_head_dim, P = c->qk_rope_head_dim,
           V = c->v_head_dim;
    double keys, pairs = attended(c, T, depth, &keys);
    double naive = pairs * H * (N + P + V), expand = keys * H * R * (N + V);
    double absorbed = pairs * H * (2 * R + P), fold = T * H * R * (N + V);
    const mla_tensor kv_b = mla_view(NULL, s->kv_b_dtype, 16, 256);
    work one = {0, 0, 0, 0, 0};
    if (naive + expand < absorbed + fold) {
        add_pairs(&one, o, context, 2 * naive), one.useful += 2 * expand;
        if (context->k.attend_tiles || mla__packed(mla__wants(context, &kv_b, MLA__KEYS)))
            one.halves += 2 * expand * (o->cache == MLA_BF16 ? 1 : 2);
        else one.flops += 2 * expand;
    } else {
        add_pairs(&one, o, context, 2 * absorbed);
        one.useful += 2 * fold, one.flops += 2 * fold;
    }
    add_work(w, &one, times);
}

/* What the indexers of all layers do: tokens that see no more keys than are chosen have no use for it. A first glance
   in 16-bit integers counts twice in int8. */
static work indexer_work(const synthetic *s, const options *o, const mla_context *context, double T, double depth) {
    const mla_config *c = &s->shape.config;
    double pairs = 0, n = s->n_indexers;
    for (double t = 1; t <= T && n > 0; t++) pairs += depth + t > c->index_topk ? depth + t : 0;
    work w = {0, 0, 0, 0, 0};
    if (pairs > 0) w.bytes = n * (depth + T) * (double)mla_dtype_bytes(o->index_cache, (size_t)c->index_head_dim);
    w.useful = 2 * n * pairs * c->index_n_heads * c->index_head_dim;
    if (n > 0 && mla__glance_panels(context)) w.ops = 2 * w.useful;
    else w.flops = w.useful;
    return w;
}

static double row_bytes(const synthetic *s, mla_dtype cache) {
    return (double)mla_dtype_bytes(cache, (size_t)(s->shape.config.kv_lora_rank + s->shape.config.qk_rope_head_dim));
}

static int mla_layers(const synthetic *s) { return s->shape.config.num_hidden_layers - s->n_states; }

/* What KDA adds to its products, in a layer: T tokens of a sequence, whose state is read and written. In chunks it
   takes a tenth more than this, which is what the recurrence does. */
static work state_work(const synthetic *s, double T) {
    const double C = s->shape.config.linear_head_dim, width = C * s->shape.config.linear_num_heads;
    work w = {2 * 4 * width * (C + 9), T * width * (6 * C + 24), T * width * (6 * C + 24), 0, 0};
    return w;
}

/* A layer of KDA, one sequence; its products alone. */
static work kda_work(const synthetic *s, const options *o, const mla_context *context, double T, int alone) {
    const work state = state_work(s, T);
    work w = {s->kda.bytes / s->n_states, 0, 0, 0, 0};
    add_tally(&w, context, &s->kda, o->layout, T / s->n_states, T);
    if (!alone) add_work(&w, &state, 1);
    return w;
}

/* A forward pass of B sequences, T tokens each, whose last ones get logits; hit: experts that got any, over all
 * layers. */
static work forward_work(const synthetic *s, const options *o, const mla_context *context, double B, double T,
                         double depth, double hit) {
    const mla_config *c = &s->shape.config;
    double L = mla_layers(s), n = B * T, chosen = (double)s->n_moe * c->num_experts_per_tok, rows;
    const work index = indexer_work(s, o, context, T, depth), state = state_work(s, T);
    work w = {0, 0, 0, 0, 0};
    attended(c, T, depth, &rows);
    w.bytes = s->attn.bytes + s->kv_b.bytes + s->kda.bytes + s->ffn.bytes + s->router.bytes + s->shared.bytes +
              s->head.bytes + s->norms.bytes;
    w.bytes += hit * s->expert.bytes + B * L * rows * row_bytes(s, o->cache);
    add_work(&w, &index, B), add_work(&w, &state, B * s->n_states);
    add_tally(&w, context, &s->kda, o->layout, n, n);
    add_tally(&w, context, &s->attn, o->layout, n, n), add_tally(&w, context, &s->ffn, o->layout, n, n);
    add_tally(&w, context, &s->router, o->layout, n, n), add_tally(&w, context, &s->shared, o->layout, n, n);
    add_tally(&w, context, &s->expert, o->layout, n * chosen, hit > 0 ? n * chosen / hit : 1);
    add_tally(&w, context, &s->head, o->layout, B, B);
    add_attention(&w, s, o, context, T, depth, B * L);
    return w;
}

/* Attention alone, one token: all heads meet depth + 1 keys, or those chosen. */
static work attention_work(const synthetic *s, const options *o, const mla_context *context, double depth) {
    const mla_config *c = &s->shape.config;
    double rows, keys = attended(c, 1, depth, &rows) * mla_layers(s);
    work w = {keys * row_bytes(s, o->cache), 0, 0, 0, 0};
    add_pairs(&w, o, context, 2 * keys * c->num_attention_heads * (2.0 * c->kv_lora_rank + c->qk_rope_head_dim));
    return w;
}

static work layer_work(const synthetic *s, const options *o, const mla_context *context, double T,
                       double depth) { /* one attention layer, with its weights */
    double L = mla_layers(s), n = s->n_indexers > 0 ? s->n_indexers : 1, rows;
    const work index = indexer_work(s, o, context, T, depth);
    attended(&s->shape.config, T, depth, &rows);
    work w = {(s->attn.bytes + s->kv_b.bytes) / L + rows * row_bytes(s, o->cache), 0, 0, 0, 0};
    add_work(&w, &index, 1 / n);
    add_tally(&w, context, &s->attn, o->layout, T / L, T);
    add_attention(&w, s, o, context, T, depth, 1);
    return w;
}

static work moe_work(const synthetic *s, const options *o, const mla_context *context, double T,
                     double hit) { /* one layer */
    double L = s->n_moe, K = s->shape.config.num_experts_per_tok;
    work w = {(s->router.bytes + s->shared.bytes) / L + hit * s->expert.bytes, 0, 0, 0, 0};
    add_tally(&w, context, &s->router, o->layout, T / L, T), add_tally(&w, context, &s->shared, o->layout, T / L, T);
    add_tally(&w, context, &s->expert, o->layout, T * K, hit > 0 ? T * K / hit : 1);
    return w;
}

/* ---- attention alone --------------------------------------------------------------------------------------------- */
/* The context times the shared steps of a forward pass: those that bring queries and keys together (scores, softmax,
   weighted sums, the merging of pieces of context; in the naive path also the expansion of keys) are the attention,
   measured inside a real decode, and those that score all keys and choose some the indexer. The products with the
   weights (q, kv_a, into and out of the latent, o, of the indexer) are other steps. */

static double clock_of_steps(void *user) { /* of mla_stats */
    (void)user;
    return now();
}

/* ---- measuring --------------------------------------------------------------------------------------------------- */

enum { N_INPUTS = 61, LAYER_STEPS = 8, MAX_STEPS = 16 };
static const double long_seconds = 10; /* what has taken so long in all is repeated 3 times only */

typedef struct measured {
    const char *what;
    int sequences, n; /* tokens of each */
    int depth;        /* which; the next two, too */
    int attn, threads;
    int steps;      /* calls in a sample */
    work work;      /* in the mean of all samples, as is the next */
    double experts; /* of a layer that got tokens */
    double hits, calls;
    samples ms, read, fma, int8, bf16;
    double seconds;  /* of all samples */
    mla_stats stats; /* of decode */
} measured;

typedef struct bench {
    const options *o;
    synthetic s;
    int_list threads;
    int batch, max_tokens;                                /* most sequences of a call, most tokens */
    mla_context *context;                                 /* the one in use */
    mla_context *contexts[MAX_LIST][MLA_ATTN_PATH_COUNT]; /* for each number of threads one of each path wanted */
    mla_stats stats;                                      /* of the last call of the model */
    int n_measured, moe_layer, attn_layer;
    measured *measured;
    mla_cache **caches[MAX_LIST]; /* of each depth [batch] */
    mla_sequence *sequences;      /* [batch] */
    float *x, *y, *logits;        /* [max(N_INPUTS, pp), D] twice, [batch, vocabulary] */
    int64_t *counts;              /* [layers, E] */
    int *tokens;                  /* [max_tokens] */
    uint64_t seed;
} bench;

static void check(mla_result result, const mla_context *context) {
    if (result) fail(1, "%s", mla_context_error(context)->text);
}

static void check_numbers(const float *y, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(y[i])) fail(1, "the output is not finite");
}

static void back_to_depth(bench *b, int depth, int sequences) {
    mla_error error;
    for (int i = 0; i < sequences; i++)
        if (mla_cache_truncate(b->caches[depth][i], b->o->depths.of[depth], &error)) fail(1, "%s", error.text);
}

/* One forward pass; returns seconds, and how many experts got tokens. The tokens, and so what experts they go to, are
   others in each sequence and each time. */
static double forward(bench *b, const measured *m, double *hit) {
    const mla_config *c = &b->s.shape.config;
    size_t counts = (size_t)c->num_hidden_layers * (size_t)c->n_routed_experts;
    mla_outputs out = {.logits = b->logits, .expert_counts = b->counts};
    memset(b->counts, 0, counts * sizeof *b->counts);
    for (int i = 0; i < m->sequences; i++)
        b->sequences[i] = (mla_sequence){.cache = b->caches[m->depth][i], .n_tokens = m->n, .n_logits = 1};
    for (int i = 0; i < m->sequences * m->n; i++) b->tokens[i] = (int)(random_u32(&b->seed) % (uint32_t)c->vocab_size);
    b->stats = (mla_stats){.clock = clock_of_steps};
    double start = now();
    check(mla_model_forward(b->context, b->sequences, m->sequences, b->tokens, &out), b->context);
    double seconds = now() - start;
    check_numbers(b->logits, (size_t)m->sequences * (size_t)c->vocab_size);
    back_to_depth(b, m->depth, m->sequences);
    *hit = 0;
    for (size_t i = 0; i < counts; i++) *hit += b->counts[i] > 0;
    return seconds;
}

static double layer(bench *b, const measured *m) { /* attention, another layer each time */
    size_t D = (size_t)b->s.shape.config.hidden_size;
    const int n = m->n;
    mla_sequence sequence = {.cache = b->caches[m->depth][0], .n_tokens = n};
    do b->attn_layer = (b->attn_layer + 1) % b->s.shape.config.num_hidden_layers;
    while (has_state(&b->s.shape, b->attn_layer) != !strcmp(m->what, "kda") ||
           (b->s.n_indexers > 0 && !has_indexer(&b->s.shape, b->attn_layer))); /* which need what another layer chose */
    const float *x = b->x + (n == 1 ? random_u32(&b->seed) % N_INPUTS * D : 0);
    b->stats = (mla_stats){.clock = clock_of_steps};
    double start = now();
    check(mla_attn_forward(b->context, b->attn_layer, b->y, x, &sequence, 1), b->context);
    double seconds = now() - start;
    check_numbers(b->y, (size_t)n * D);
    back_to_depth(b, m->depth, 1);
    return seconds;
}

static double moe(bench *b, int n, double *hit) { /* one layer, another each time */
    const mla_config *c = &b->s.shape.config;
    mla_routing routing = {.counts = b->counts};
    memset(b->counts, 0, (size_t)c->n_routed_experts * sizeof *b->counts);
    do b->moe_layer = (b->moe_layer + 1) % c->num_hidden_layers;
    while (!has_experts(&b->s.shape, b->moe_layer));
    const float *x = b->x + (n == 1 ? random_u32(&b->seed) % N_INPUTS * (size_t)c->hidden_size : 0);
    double start = now();
    check(mla_moe_forward(b->context, b->moe_layer, b->y, x, n, &routing), b->context);
    double seconds = now() - start;
    check_numbers(b->y, (size_t)n * (size_t)c->hidden_size);
    *hit = 0;
    for (int e = 0; e < c->n_routed_experts; e++) *hit += b->counts[e] > 0;
    return seconds;
}

static void add_stats(mla_stats *to, const mla_stats *s) {
    to->calls += s->calls, to->steps += s->steps, to->alone += s->alone, to->taken += s->taken;
    to->seconds += s->seconds, to->kernels += s->kernels, to->imbalance += s->imbalance;
    to->barriers += s->barriers, to->serial += s->serial;
}

/* A sample: seconds of a call, the mean of m->steps; of decode's attention and indexers too. */
static double sample(bench *b, measured *m, mla_stats *parts) {
    const int is_moe = !strcmp(m->what, "moe"), is_kda = !strcmp(m->what, "kda"),
              is_layer = is_kda || !strcmp(m->what, "layer"), depth = b->o->depths.of[m->depth];
    double seconds = 0, hits = 0;
    b->context = b->contexts[m->threads][m->attn];
    parts->attention = parts->indexer = 0;
    for (int i = 0; i < m->steps; i++) {
        double hit = 0;
        seconds += is_moe ? moe(b, m->n, &hit) : is_layer ? layer(b, m) : forward(b, m, &hit);
        hits += hit, parts->attention += b->stats.attention, parts->indexer += b->stats.indexer;
        if (!strcmp(m->what, "decode")) add_stats(&m->stats, &b->stats);
    }
    m->hits += hits, m->calls += m->steps, hits = m->hits / m->calls;
    parts->attention /= m->steps, parts->indexer /= m->steps;
    m->work = is_kda     ? kda_work(&b->s, b->o, b->context, m->n, 0)
              : is_moe   ? moe_work(&b->s, b->o, b->context, m->n, hits)
              : is_layer ? layer_work(&b->s, b->o, b->context, m->n, depth)
                         : forward_work(&b->s, b->o, b->context, m->sequences, m->n, depth, hits);
    m->experts = is_moe ? hits : b->s.n_moe ? hits / b->s.n_moe : 0;
    return seconds / m->steps;
}

static void keep(measured *m, double seconds, const double *most) {
    double ms = 1e3 * seconds;
    add(&m->ms, ms), add(&m->read, most[LIMIT_READ] * ms), add(&m->fma, most[LIMIT_FMA] * ms);
    add(&m->int8, most[LIMIT_INT8] * ms), add(&m->bf16, most[LIMIT_BF16] * ms);
}

static void plan_one(bench *b, measured m) {
    const char *with = !strcmp(m.what, "products") ? "kda"
                       : strcmp(m.what, "attention") && strcmp(m.what, "indexer")
                           ? m.what
                           : "decode"; /* they are measured in there */
    if (b->o->only ? !listed(b->o->only, with) : !strcmp(with, "batch")) return;
    b->measured = realloc(b->measured, ((size_t)b->n_measured + 1) * sizeof *b->measured);
    if (!b->measured) fail(1, "out of memory");
    b->measured[b->n_measured++] = m;
}

static void plan_depth(bench *b, measured m) { /* by one path, with one number of threads */
    const options *o = b->o;
    m.what = "decode", m.sequences = m.n = m.steps = 1, plan_one(b, m);
    /* attention comes out of the decode before it; over nothing but the token itself there is none to speak of */
    m.what = "attention", m.steps = 0, plan_one(b, m);
    m.what = "indexer", plan_one(b, m);
    m.what = "layer", m.steps = LAYER_STEPS, plan_one(b, m);
    m.what = "batch", m.steps = 1;
    for (int i = 0; i < o->batches.n; i++) m.sequences = o->batches.of[i], plan_one(b, m);
    m.sequences = 1, m.n = o->pp;
    if (o->pp >= 1) m.what = "prefill", plan_one(b, m);
    if (o->pp > 1) m.what = "layer", plan_one(b, m);
}

static void plan_kda(bench *b, measured m) { /* and of this time what its products take */
    m.steps = m.n == 1 ? LAYER_STEPS : 1;
    m.what = "kda", plan_one(b, m);
    m.what = "products", m.steps = 0, plan_one(b, m);
}

static void plan(bench *b) {
    const options *o = b->o;
    const int first = o->attn % MLA_ATTN_PATH_COUNT;
    for (int t = 0; t < b->threads.n; t++) {
        for (int i = 0; i < o->depths.n; i++)
            for (int path = 0; path < MLA_ATTN_PATH_COUNT; path++)
                if (b->contexts[t][path]) plan_depth(b, (measured){.attn = path, .threads = t, .depth = i});
        measured m = {.what = "moe", .attn = first, .threads = t, .sequences = 1, .n = 1, .steps = LAYER_STEPS};
        if (b->s.n_moe) plan_one(b, m);
        if (b->s.n_states) plan_kda(b, m);
        m.n = o->pp, m.steps = 1;
        if (b->s.n_moe && o->pp > 1) plan_one(b, m);
        if (b->s.n_states && o->pp > 1) plan_kda(b, m);
    }
}

/* With states, as if so many tokens had been run; this reaches into the library. */
static void fill_states(bench *b, mla_cache *cache, int depth) {
    const mla_pool *p = cache->pool;
    mla_error error;
    float row[1024];
    if (mla__reserve(cache, depth, "the bench", &error)) fail(1, "%s", error.text);
    for (int l = 0; l < p->n_layers; l++) {
        const int state = p->states.of[l];
        for (int u = 0; u < depth && state < 0; u++) {
            for (int i = 0; i < p->width; i++) row[i] = random_float(&b->seed);
            mla__narrow(p->dtype, mla__row(cache, l, u), row, p->width);
        }
        float *values = state < 0 ? NULL : (float *)(void *)mla__state_in(cache, cache->states[0], state);
        for (mla__sz i = 0; values && i < p->states.size.values + p->states.size.inputs; i++)
            values[i] = 0.1f * random_float(&b->seed);
        if (values) *mla__state_at(cache->states[0], state) = depth;
        cache->written[l] = depth;
    }
    cache->length = depth;
}

/* Rows such as attention writes: normed latents and keys, deviation 1. */
static void fill_cache(bench *b, mla_cache *cache, int depth) {
    enum { STEP = 256 };
    const mla_config *c = &b->s.shape.config;
    size_t latents = (size_t)c->num_hidden_layers * (size_t)(c->kv_lora_rank + c->qk_rope_head_dim);
    size_t values = latents + (size_t)b->s.n_indexers * (size_t)c->index_head_dim;
    mla_error error;
    if (b->s.n_states) {
        if (depth > 0) fill_states(b, cache, depth);
        return;
    }
    float *rows = need(STEP * values * sizeof *rows);
    for (int done = 0; done < depth; done += STEP) {
        int n = depth - done < STEP ? depth - done : STEP;
        progress("filling a cache: %d of %d tokens", done, depth);
        for (size_t i = 0; i < values * (size_t)n; i++) rows[i] = random_float(&b->seed);
        if (mla_cache_append(cache, n, rows, &error)) fail(1, "%s", error.text);
    }
    free(rows);
}

static void caches_open(bench *b) { /* the first of each depth has room for a prefill */
    const options *o = b->o;
    double bytes = (double)b->s.maker.used;
    for (int pass = 0; pass < 2; pass++)
        for (int d = 0; d < o->depths.n; d++) {
            if (pass) b->caches[d] = need((size_t)b->batch * sizeof(mla_cache *));
            for (int i = 0; i < b->batch; i++) {
                const int room = i || o->pp < 1 ? 1 : o->pp;
                const mla_cache_desc desc = {.capacity = o->depths.of[d] + room,
                                             .dtype = o->cache,
                                             .index_dtype = o->index_cache,
                                             .alloc = checkpoint_huge_pages};
                mla_error error;
                if (!pass) bytes += (double)mla_cache_size(b->s.model, &desc);
                else if (mla_cache_create(&b->caches[d][i], b->s.model, &desc, &error)) fail(1, "%s", error.text);
                else fill_cache(b, b->caches[d][i], o->depths.of[d]);
            }
            if (bytes > 0.95 * memory_bytes())
                fail(1, "--batch %d, --depth %d: with the weights, caches take more than the %.1f GB of this machine",
                     b->batch, o->depths.of[d], memory_bytes() * 1e-9);
        }
}

/* Short calls warm up, and are put together until a sample takes 50 ms. */
static void warm_up(bench *b) {
    mla_stats parts;
    for (int i = 0; i < b->n_measured; i++) {
        measured *m = &b->measured[i];
        const int depth = b->o->depths.of[m->depth];
        if (!m->steps || (m->n > 1 && depth > 0)) continue;
        progress("warming up: %s, %d tokens at depth %d", m->what, m->n * m->sequences, depth);
        double seconds = sample(b, m, &parts);
        memset(&m->stats, 0, sizeof m->stats);
        if (m->n == 1) {
            m->steps = (int)(0.05 / seconds) + 1;
            if (m->steps > MAX_STEPS) m->steps = MAX_STEPS;
        }
    }
}

static void measure(bench *b, const limits *l) {
    for (int r = 0; r < b->o->reps; r++)
        for (int i = 0; i < b->n_measured; i++) {
            measured *m = &b->measured[i];
            mla_stats parts;
            const int depth = b->o->depths.of[m->depth];
            if (!m->steps || (r >= 3 && m->seconds > long_seconds)) continue;
            progress("round %d of %d: %s, %d tokens at depth %d", r + 1, b->o->reps, m->what, m->n * m->sequences,
                     depth);
            fastest f = {{{0}}};
            if (!b->o->no_limits) f = measure_limits(l, NULL, N_LIMIT_KINDS, b->threads.of[m->threads]);
            const double *most = f.of[l->tier];
            double seconds = sample(b, m, &parts);
            m->seconds += seconds * m->steps;
            keep(m, seconds, most);
            if (!strcmp(m->what, "kda")) {
                m[1].work = kda_work(&b->s, b->o, b->context, m->n, 1);
                keep(&m[1], seconds - parts.attention, most);
            }
            if (!strcmp(m->what, "decode") && depth > 0 && parts.attention > 0) {
                m[1].work = attention_work(&b->s, b->o, b->context, depth);
                keep(&m[1], parts.attention, most);
            }
            if (!strcmp(m->what, "decode") && parts.indexer > 0) {
                m[2].work = indexer_work(&b->s, b->o, b->context, 1, depth);
                keep(&m[2], parts.indexer, most);
            }
        }
}

/* Where the time of a decode step went that was not kernels. */
static void print_overhead(const options *o, const measured *m) {
    const mla_stats *s = &m->stats;
    double calls = (double)s->calls, all = s->seconds;
    printf(o->json
               ? "{\"what\":\"overhead\",\"depth\":%d,\"steps\":%.1f,\"alone\":%.1f,\"taken\":%.2f,\"kernels\":%.4f,"
                 "\"imbalance\":%.4f,\"barriers\":%.4f,\"serial\":%.4f}\n"
               : "  at depth %d: %.0f shared steps, %.0f alone, %.1f shares taken over; kernels %.3f, imbalance %.3f, "
                 "barriers %.3f, serial %.3f of the time\n",
           o->depths.of[m->depth], (double)s->steps / calls, (double)s->alone / calls, (double)s->taken / calls,
           s->kernels / all, s->imbalance / all, s->barriers / all, s->serial / all);
}

static void print_measured(bench *b) {
    const options *o = b->o;
    const synthetic *s = &b->s;
    for (int i = 0; i < b->n_measured; i++) {
        measured *m = &b->measured[i];
        if (!m->ms.n) continue; /* attention over so few keys that it is no parallel region */
        line l = {.what = m->what,
                  .shape = s->shape.name,
                  .weights = weights_name(o->weights, o->layout),
                  .cache = mla_dtype_name(o->cache)};
        l.attn = attn_names[m->attn], l.isa = mla_isa_name(mla_context_isa(b->context));
        l.threads = b->threads.of[m->threads], l.depth = o->depths.of[m->depth], l.n = m->n * m->sequences;
        l.experts = m->experts, l.exact = o->activations == MLA_ACT_F32;
        if (!strcmp(m->what, "indexer")) l.cache = mla_dtype_name(o->index_cache);
        l.tokens = strcmp(m->what, "attention") && strcmp(m->what, "indexer") ? l.n : 0;
        set_against(&l, &m->work, &m->read, &m->fma, &m->int8, &m->bf16);
        print_line(o, &l, &m->ms);
        if (o->overhead && m->stats.calls) print_overhead(o, m);
    }
}

static mla_context_desc context_desc(bench *b, int threads, int path) {
    mla_context_desc desc = {.threads = threads, .stats = &b->stats, .alloc = checkpoint_huge_pages};
    desc.max_tokens = b->max_tokens, desc.isa = b->o->isa, desc.activations = b->o->activations;
    desc.invariant = b->o->invariant;
    desc.attn = (mla_attn_path)path;
    return desc;
}

static void contexts_of_model(bench *b) {
    mla_error error;
    for (int t = 0; t < b->threads.n; t++)
        for (int path = 0; path < MLA_ATTN_PATH_COUNT; path++) {
            const mla_context_desc desc = context_desc(b, b->threads.of[t], path);
            if (b->o->attn != path && b->o->attn != MLA_ATTN_PATH_COUNT) continue;
            if (mla_context_create(&b->contexts[t][path], b->s.model, &desc, &error)) fail(1, "%s", error.text);
            b->context = b->contexts[t][path];
        }
}

static void bench_open(bench *b, const options *o) {
    memset(b, 0, sizeof *b);
    b->o = o, b->threads = o->threads, b->seed = 2;
    if (!b->threads.n) b->threads.of[b->threads.n++] = all_threads();
    b->batch = o->batches.n ? greatest(&o->batches) : 1;
    b->max_tokens = o->pp > b->batch ? o->pp : b->batch;
    synthetic_open(&b->s, o, o->shape ? o->shape : "lite6");
    const mla_config *c = &b->s.shape.config;
    contexts_of_model(b);
    caches_open(b);
    size_t values = (size_t)(o->pp > N_INPUTS ? o->pp : N_INPUTS) * (size_t)c->hidden_size;
    b->x = need(values * sizeof *b->x), b->y = need(values * sizeof *b->y),
    b->logits = need((size_t)b->batch * (size_t)c->vocab_size * sizeof *b->logits);
    b->counts = need(((size_t)c->num_hidden_layers * (size_t)c->n_routed_experts + 1) * sizeof *b->counts);
    b->tokens = need((size_t)b->max_tokens * sizeof *b->tokens);
    b->sequences = need((size_t)b->batch * sizeof *b->sequences);
    for (size_t i = 0; i < values; i++) b->x[i] = random_float(&b->seed);
}

static void bench_close(bench *b) {
    for (int d = 0; d < b->o->depths.n; d++) {
        for (int i = 0; i < b->batch; i++) mla_cache_destroy(b->caches[d][i]);
        free(b->caches[d]);
    }
    for (int t = 0; t < b->threads.n; t++)
        for (int path = 0; path < MLA_ATTN_PATH_COUNT; path++) mla_context_destroy(b->contexts[t][path]);
    synthetic_close(&b->s);
    free(b->x), free(b->y), free(b->logits), free(b->counts), free(b->tokens), free(b->sequences), free(b->measured);
}

static void print_title(bench *b) {
    const options *o = b->o;
    const synthetic *s = &b->s;
    const mla_config *c = &s->shape.config;
    const mla_context_desc desc = context_desc(b, b->threads.of[0], o->attn % MLA_ATTN_PATH_COUNT);
    work token = forward_work(s, o, b->context, 1, 1, 0, (double)s->n_moe * c->num_experts_per_tok);
    double active = s->attn.params + s->kv_b.params + s->ffn.params + s->router.params + s->shared.params +
                    s->head.params + s->norms.params + s->kda.params +
                    (double)s->n_moe * c->num_experts_per_tok * s->expert.params;
    printf("%s, %s weights%s, %s cache, %s attention: %.2f billion parameters (%.2f GB), %.0f million for a token "
           "(%.0f MB).\n",
           s->shape.name, weights_name(o->weights, o->layout),
           o->activations == MLA_ACT_F32 ? " (f32 activations)" : "", mla_dtype_name(o->cache), attn_names[o->attn],
           s->params * 1e-9, (double)s->maker.used * 1e-9, active * 1e-6, token.bytes * 1e-6);
    printf("Scratch of the context %.1f MB (%d tokens in a call), cache %.0f bytes for a token. Medians of %d "
           "rounds.\n",
           (double)mla_context_size(s->model, &desc) * 1e-6, desc.max_tokens,
           mla_layers(s) * row_bytes(s, o->cache) +
               s->n_indexers * (double)mla_dtype_bytes(o->index_cache, (size_t)c->index_head_dim),
           o->reps);
    print_head();
}

static int run_model(const options *o) {
    static bench b;
    limits l;
    bench_open(&b, o);
    memset(&l, 0, sizeof l);
    if (!o->no_limits) limits_open(&l, isa_tier(mla_context_isa(b.context)));
    plan(&b);
    warm_up(&b);
    measure(&b, &l);
    progress(NULL);
    if (!o->json) print_title(&b);
    print_measured(&b);
    bench_close(&b);
    free(l.buffer);
    return 0;
}
