/* barriers.h - what a step costs that is shared among threads, besides the work: telling or waking them, and waiting
   for the last; by OpenMP and by the pool of threads.h, a run of its own or within a team. Each thread has the same
   work of some microseconds, because members of a team take what others are late to begin; what is not worked on at
   the same time counts as cost. */

enum { BARRIER_STEPS = 2000, BARRIER_WORK = 1500 };

static void some_work(mla_context *c, void *arg, const mla__share *my) { /* a share */
    volatile double sum = 0;
    (void)c, (void)arg;
    for (int i = 0; i < BARRIER_WORK * (my->to - my->from); i++) sum = sum + 1;
}

static void like_steps(mla_context *c, void *arg) { /* an mla__body: seconds of a step besides a share's */
    const mla__share one = {0, 0, 1, 0};
    double *seconds = arg, start = now();
    for (int i = 0; i < BARRIER_STEPS; i++) some_work(c, NULL, &one);
    double alone = now() - start;
    start = now();
    for (int i = 0; i < BARRIER_STEPS; i++) mla__parallel_even(c, some_work, NULL, c->threads, 2 * MLA__ALONE);
    *seconds = (now() - start - alone) / BARRIER_STEPS;
}

static void run_openmp(void *user, int n, void (*task)(void *arg, int i), void *arg) { /* an mla_run, and no team */
    (void)user;
    run(n, task, arg);
}

static void barriers_of(const options *o, const mla_model *model, int threads, const char *what,
                        mla_context_desc desc) {
    samples us = {{0}, 0};
    mla_context *context;
    mla_error error;
    desc.threads = threads, desc.max_tokens = 1;
    if (mla_context_create(&context, model, &desc, &error)) fail(1, "%s", error.text);
    for (int i = 0; i < o->reps; i++) {
        double seconds;
        mla__forward(context, like_steps, &seconds);
        if (i > 0 || o->reps == 1) add(&us, 1e6 * seconds);
    }
    double middle = median(&us);
    printf(o->json ? "{\"what\":\"barrier\",\"threads\":%d,\"by\":\"%s\",\"us\":%.3f,\"least\":%.3f,\"most\":%.3f}\n"
                   : " %4d  %-14s %8.3f %8.3f..%.3f\n",
           threads, what, middle, us.v[0], us.v[us.n - 1]);
    mla_context_destroy(context);
}

static void barriers_with(const options *o, const mla_model *model, int threads) {
    thread_pool *p;
    mla_context_desc desc;
    memset(&desc, 0, sizeof desc);
#ifdef _OPENMP
    barriers_of(o, model, threads, "OpenMP, team", desc);
    desc.run = run_openmp;
    barriers_of(o, model, threads, "OpenMP", desc);
#endif
    if (!threads_create(&p, threads)) fail(1, "%d threads are not to be had", threads);
    desc.run = threads_run, desc.run_user = p;
    barriers_of(o, model, threads, "pool", desc);
    desc.team = 1, desc.wait = threads_wait, desc.wake = threads_wake;
    barriers_of(o, model, threads, "pool, team", desc);
    threads_destroy(p);
}

static int run_barriers(const options *o) {
    static const mla_config config = {.vocab_size = 32,
                                      .hidden_size = 32,
                                      .num_hidden_layers = 1,
                                      .num_attention_heads = 1,
                                      .kv_lora_rank = 32,
                                      .qk_nope_head_dim = 32,
                                      .qk_rope_head_dim = 32,
                                      .v_head_dim = 32,
                                      .intermediate_size = 32};
    int all = threads_available();
    mla_layer_weights layer;
    mla_weights weights;
    mla_model *model;
    mla_error error;
    memset(&layer, 0, sizeof layer), memset(&weights, 0, sizeof weights);
    weights.layers = &layer;
    if (mla_model_create(&model, &config, &weights, NULL, &error)) fail(1, "%s", error.text);
    if (!o->json)
        printf("A step besides its work, microseconds. Medians of %d rounds of %d steps.\n", o->reps, BARRIER_STEPS);
    for (int i = 0; i < o->threads.n; i++) barriers_with(o, model, o->threads.of[i]);
    for (int n = 2, next; !o->threads.n && all > 1 && n > 0; n = next) { /* 2, 3, 4, 6, 8, 12, 16, .. all */
        next = n + (n & (n - 1) ? n / 3 : n / 2);
        next = n >= all ? 0 : next > all ? all : next;
        barriers_with(o, model, n);
    }
    mla_model_destroy(model);
    return 0;
}
