/* kernels.h - single products y [T, rows] = x [T, cols] W^T with the matrices of DeepSeek-V2-Lite and V3, as the
   library runs them (activations turned to int8 included where it does that), for each dtype and instruction set, and
   beside them what OpenBLAS and oneDNN make of the same product, where the Makefile found them. */

#ifdef BENCH_OPENBLAS
#include <cblas.h>
enum { has_openblas = 1 };
#else
enum { has_openblas = 0 };
#endif
#ifdef BENCH_ONEDNN
#include <dnnl.h>
enum { has_onednn = 1 };
#else
enum { has_onednn = 0 };
#endif

typedef struct matrix_shape {
    const char *shape, *name;
    int rows, cols;
} matrix_shape;

static const matrix_shape matrix_shapes[] = {
    {"lite6", "q", 3072, 2048},     {"lite6", "kv_a", 576, 2048},   {"lite6", "kv_b", 4096, 512},
    {"lite6", "o", 2048, 2048},     {"lite6", "gate", 1408, 2048},  {"lite6", "down", 2048, 1408},
    {"lite6", "head", 32768, 2048}, {"v3attn", "q_a", 1536, 7168},  {"v3attn", "q_b", 24576, 1536},
    {"v3attn", "kv_a", 576, 7168},  {"v3attn", "kv_b", 32768, 512}, {"v3attn", "o", 7168, 16384},
    {"v3attn", "gate", 2048, 7168}, {"v3attn", "down", 7168, 2048}, {"v3attn", "head", 32768, 7168},
};
enum { N_MATRICES = sizeof matrix_shapes / sizeof *matrix_shapes, N_TOKENS = 3 };
enum { MOST_TOKENS = 512, MOST_COLS = 16384, MOST_ROWS = 32768 };
static const int token_counts[N_TOKENS] = {1, 48, MOST_TOKENS};
enum { RIVAL_OPENBLAS, RIVAL_ONEDNN, RIVAL_ONEDNN_INT8, N_RIVALS, N_RUNNERS = MLA_ISA_COUNT + N_RIVALS };

typedef struct product { /* of one matrix with T tokens by one runner: an ISA of the library, or a rival */
    int T, rows, runner, steps;
    samples ms, read, fma, int8, bf16;
    double seconds;
} product;

typedef struct kernel_bench {
    const options *o;
    int threads;
    char *weights; /* many copies of a matrix side by side, each used in its turn, so that none lies in the last-level
                      cache */
    size_t weight_bytes; /* of it */
    float *x, *y;        /* [MOST_TOKENS, MOST_COLS], [MOST_TOKENS, MOST_ROWS] */
    uint8_t *x8;         /* the same numbers of values, for oneDNN's int8 */
    const float *scale;  /* of fp8 */
    mla_context *context[MLA_ISA_COUNT];
    mla_model *model;
    size_t next; /* copy */
} kernel_bench;

/* Reaches into the library: one product as a parallel region of its own. */
static void product_of_library(mla_context *c, float *y, const float *x, int T, const mla_linear *w) {
    mla__job_add(c, y, w->weight.rows, x, w->weight.cols, T, w);
    mla__jobs_run(c);
}

static void product_of_rival(const kernel_bench *b, int rival, int T, const matrix_shape *s, const char *w) {
    (void)b, (void)T, (void)s, (void)w;
#ifdef BENCH_OPENBLAS
    if (rival == RIVAL_OPENBLAS)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, T, s->rows, s->cols, 1, b->x, s->cols,
                    (const float *)(const void *)w, s->cols, 0, b->y, s->rows);
#endif
#ifdef BENCH_ONEDNN
    if (rival == RIVAL_ONEDNN)
        dnnl_sgemm('N', 'T', T, s->rows, s->cols, 1, b->x, s->cols, (const float *)(const void *)w, s->cols, 0, b->y,
                   s->rows);
    int32_t zero = 0;
    if (rival == RIVAL_ONEDNN_INT8)
        dnnl_gemm_u8s8s32('N', 'T', 'F', T, s->rows, s->cols, 1, b->x8, s->cols, 0, (const int8_t *)(const void *)w,
                          s->cols, 0, 0, (int32_t *)(void *)b->y, s->rows, &zero);
#endif
    if (rival < 0) fail(1, "no such rival");
}

/* Which runners there are for a dtype. oneDNN's int8 has no scales for groups; it stands beside q8. */
static int has_runner(const options *o, int runner, mla_dtype dtype) {
    if (runner < MLA_ISA_COUNT)
        return runner > 0 && (o->isa ? runner == (int)o->isa : mla_isa_available((mla_isa)runner));
    if (runner == MLA_ISA_COUNT + RIVAL_OPENBLAS) return has_openblas && dtype == MLA_F32;
    if (runner == MLA_ISA_COUNT + RIVAL_ONEDNN) return has_onednn && dtype == MLA_F32;
    return has_onednn && dtype == MLA_Q8 && o->activations != MLA_ACT_F32;
}

static const char *runner_name(int runner) {
    static const char *const rivals[N_RIVALS] = {"openblas", "onednn", "onednn"};
    return runner < MLA_ISA_COUNT ? mla_isa_name((mla_isa)runner) : rivals[runner - MLA_ISA_COUNT];
}

static size_t matrix_bytes(const product *p, const matrix_shape *s, mla_dtype dtype) {
    size_t n = (size_t)p->rows * (size_t)s->cols;
    return p->runner == MLA_ISA_COUNT + RIVAL_ONEDNN_INT8 ? n : mla_dtype_bytes(dtype, n);
}

static double product_seconds(kernel_bench *b, const product *p, const matrix_shape *s, mla_dtype dtype) {
    size_t bytes = matrix_bytes(p, s, dtype), copies = b->weight_bytes / bytes;
    mla_linear w;
    matrix_shape cut = *s;
    double start = now();
    cut.rows = p->rows;
    for (int i = 0; i < p->steps; i++) {
        const char *data = b->weights + (b->next++ % copies) * bytes;
        memset(&w, 0, sizeof w);
        w.weight = mla_view(data, dtype, p->rows, s->cols), w.weight.layout = b->o->layout;
        if (dtype == MLA_E4M3) w.weight.scale = b->scale, w.weight.scale_dtype = MLA_F32;
        if (p->runner < MLA_ISA_COUNT) product_of_library(b->context[p->runner], b->y, b->x, p->T, &w);
        else product_of_rival(b, p->runner - MLA_ISA_COUNT, p->T, &cut, data);
    }
    double seconds = (now() - start) / p->steps;
    if (p->runner != MLA_ISA_COUNT + RIVAL_ONEDNN_INT8) check_numbers(b->y, (size_t)p->T * (size_t)p->rows);
    return seconds;
}

static void print_product(const kernel_bench *b, product *p, const matrix_shape *s, mla_dtype dtype) {
    const options *o = b->o;
    double madds = (double)p->T * p->rows * s->cols;
    int rival_int8 = p->runner == MLA_ISA_COUNT + RIVAL_ONEDNN_INT8;
    line l = {.what = "kernel",
              .part = s->name,
              .shape = s->shape,
              .weights = rival_int8 ? "int8" : weights_name(dtype, o->layout)};
    l.isa = runner_name(p->runner), l.threads = b->threads, l.n = p->T, l.rows = p->rows, l.cols = s->cols,
    l.exact = o->activations == MLA_ACT_F32;
    l.bytes = (double)matrix_bytes(p, s, dtype);
    if (dtype == MLA_E4M3) l.bytes += 4.0 * ((p->rows + 127) / 128) * ((s->cols + 127) / 128);
    work w = {.bytes = l.bytes};
    if (p->runner < MLA_ISA_COUNT) add_product(&w, b->context[p->runner], dtype, o->layout, 2 * madds, p->T);
    else if (rival_int8) w.useful = w.ops = 2 * madds;
    else w.useful = w.flops = 2 * madds;
    set_against(&l, &w, &p->read, &p->fma, &p->int8, &p->bf16);
    print_line(o, &l, &p->ms);
}

static void matrix_run(kernel_bench *b, const limits *l, const matrix_shape *s, mla_dtype dtype) {
    static product products[N_TOKENS * N_RUNNERS];
    int n = 0, is_head = !strcmp(s->name, "head");
    for (int t = 0; t < N_TOKENS; t++)
        for (int r = 0; r < N_RUNNERS; r++) {
            product *p = &products[n];
            if (!has_runner(b->o, r, dtype) || (is_head && token_counts[t] > 64))
                continue; /* logits are wanted of few tokens */
            memset(p, 0, sizeof *p);
            p->T = token_counts[t], p->runner = r, p->rows = s->rows, p->steps = 1;
            while (r == MLA_ISA_SCALAR && p->rows > 32 && (double)p->T * p->rows * s->cols > 1e8)
                p->rows = p->rows / 2 / 16 * 16;
            double seconds = product_seconds(b, p, s, dtype); /* warms up, too */
            p->steps = seconds > 0.01 ? 1 : (int)(0.01 / seconds) + 1;
            n++;
        }
    for (int rep = 0; rep < b->o->reps; rep++) {
        fastest f = measure_limits(l, NULL, N_LIMIT_KINDS, b->threads);
        for (int i = 0; i < n; i++) {
            product *p = &products[i];
            if (rep >= 3 && p->seconds > 1) continue;
            progress("%s %s %s: round %d of %d, %d tokens, %s", s->shape, s->name, weights_name(dtype, b->o->layout),
                     rep + 1, b->o->reps, p->T, runner_name(p->runner));
            double seconds = product_seconds(b, p, s, dtype), ms = 1e3 * seconds;
            /* rivals use what they like */
            const double *most = f.of[p->runner < MLA_ISA_COUNT ? isa_tier((mla_isa)p->runner) : l->tier];
            p->seconds += seconds * p->steps;
            add(&p->ms, ms), add(&p->read, most[LIMIT_READ] * ms), add(&p->fma, most[LIMIT_FMA] * ms);
            add(&p->int8, most[LIMIT_INT8] * ms), add(&p->bf16, most[LIMIT_BF16] * ms);
        }
    }
    progress(NULL);
    for (int i = 0; i < n; i++) print_product(b, &products[i], s, dtype);
}

/* A model with one small part, in q8 and bf16: its contexts have scratch for products of the sizes here, with rounded
 * activations too. */
static void contexts_open(kernel_bench *b) {
    static mla_layer_weights layer;
    static mla_weights weights;
    mla_config c;
    mla_error error;
    memset(&c, 0, sizeof c);
    c.hidden_size = MOST_COLS, c.num_hidden_layers = 1, c.intermediate_size = 32;
    layer.mlp.gate.weight = layer.mlp.up.weight = mla_view(b->weights, MLA_Q8, 32, MOST_COLS);
    layer.mlp.down.weight = mla_view(b->weights, MLA_BF16, MOST_COLS, 32);
    weights.layers = &layer;
    if (mla_model_create(&b->model, &c, &weights, NULL, &error)) fail(1, "%s", error.text);
    for (int i = 1; i < MLA_ISA_COUNT; i++) {
        mla_context_desc desc = {
            .max_tokens = MOST_TOKENS, .threads = b->threads, .isa = (mla_isa)i, .alloc = checkpoint_huge_pages};
        desc.activations = b->o->activations;
        if (has_runner(b->o, i, MLA_F32) && mla_context_create(&b->context[i], b->model, &desc, &error))
            fail(1, "%s", error.text);
    }
}

static int run_kernels(const options *o) {
    static kernel_bench b;
    limits l;
    uint64_t seed = 5;
    int tier = has_openblas || has_onednn ? N_TIERS : 1, only = o->shape != NULL;
    if (only && strcmp(o->shape, "lite6") && strcmp(o->shape, "v3attn"))
        fail(2, "--shape: kernels has lite6 and v3attn, not '%s'", o->shape);
    if (o->threads.n > 1) fail(2, "--threads: kernels measures with one number of threads, not with %d", o->threads.n);
    b.o = o, b.threads = o->threads.n ? o->threads.of[0] : all_threads();
    for (int i = 1; i < MLA_ISA_COUNT; i++)
        if (has_runner(o, i, MLA_F32) && isa_tier((mla_isa)i) > tier) tier = isa_tier((mla_isa)i);
    size_t x = (size_t)MOST_TOKENS * MOST_COLS, y = (size_t)MOST_TOKENS * MOST_ROWS;
    size_t blocks = (size_t)MOST_ROWS * MOST_COLS / 128 / 128;
    float *scale = need(blocks * sizeof *scale);
    b.x = need(x * sizeof *b.x), b.y = need(y * sizeof *b.y), b.x8 = need(x), b.scale = scale;
    for (size_t i = 0; i < x; i++) b.x[i] = random_float(&seed), b.x8[i] = (uint8_t)(random_u32(&seed) >> 8);
    for (size_t i = 0; i < blocks; i++) scale[i] = fp8_scale;
    b.weight_bytes = much_memory();
    for (int i = 0; i < N_MATRICES; i++) {
        const matrix_shape *s = &matrix_shapes[i];
        size_t bytes = mla_dtype_bytes(o->any_weights ? MLA_F32 : o->weights, (size_t)s->rows * (size_t)s->cols);
        if ((!only || !strcmp(s->shape, o->shape)) && bytes > b.weight_bytes) b.weight_bytes = bytes;
    }
    b.weights = need(b.weight_bytes);
#ifdef BENCH_OPENBLAS
    openblas_set_num_threads(b.threads);
#endif
#if defined(BENCH_ONEDNN) && defined(_OPENMP)
    omp_set_num_threads(b.threads);
#endif
    contexts_open(&b);
    limits_open(&l, tier);
    if (!o->json) {
        printf("Single products with random weights, %s. Medians of %d rounds.\n",
               o->activations == MLA_ACT_F32 ? "activations in f32" : "blocks with activations in int8", o->reps);
        if (!has_openblas || !has_onednn)
            printf("Not compared with%s%s: libopenblas-dev and libdnnl-dev of Debian were not found when the bench was "
                   "built.\n",
                   has_openblas ? "" : " OpenBLAS", has_onednn ? "" : " oneDNN");
    }
    for (int d = 0; d < MLA_UE8M0; d++) {
        pool p;
        if (d == MLA_I8 || (!o->any_weights && d != (int)o->weights)) continue;
        pool_open(&p, (mla_dtype)d, o->layout, weight_deviation);
        copy_job job = {b.weights, &p, 0, b.weight_bytes / p.size, all_threads()};
        run(job.threads, copy_task, &job);
        for (int i = 0; i < N_MATRICES; i++) {
            const matrix_shape *s = &matrix_shapes[i];
            if (only && strcmp(s->shape, o->shape)) continue;
            if (!o->json && (i == 0 || strcmp(s->shape, s[-1].shape)))
                printf("\n%s, %s weights\n", s->shape, weights_name((mla_dtype)d, o->layout)), print_head();
            if (s->cols % mla_dtype_block((mla_dtype)d) == 0) matrix_run(&b, &l, s, (mla_dtype)d);
        }
        free(p.atoms);
    }
    for (int i = 1; i < MLA_ISA_COUNT; i++) mla_context_destroy(b.context[i]);
    mla_model_destroy(b.model);
    free(b.x), free(b.y), free(b.x8), free(scale), free(b.weights), free(l.buffer);
    return 0;
}
