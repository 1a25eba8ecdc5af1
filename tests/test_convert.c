/* test_convert.c - examples/convert.h: every fixture as a GGUF file of several types gives, read back, the weights that
   checkpoint_quantize makes, bit for bit, and the logits of transformers; then what cannot be written, and tokenizers.
   Run from the repository root. test_convert --large FILE writes a model with rows of 256 as FILE. */

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L /* mkdtemp */
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MLA_IMPLEMENTATION
#include "mla.h"
#include "test.h"
#define CHECKPOINT_IMPLEMENTATION
#include "checkpoint.h"
#define TOKENIZER_IMPLEMENTATION
#include "convert.h"

#include "logits.h"

#define FIXTURES "tests/fixtures/checkpoints/"
#define COUNT(a) (sizeof(a) / sizeof *(a))
enum { PROMPT = 48 };

static char dir[64], path[128]; /* a temporary directory, and the file in it */

static checkpoint *open_model(const char *from) {
    checkpoint *c;
    mla_error e;
    const checkpoint_options how = {.mtp = 1};
    if (!CHECK(checkpoint_open_with(&c, from, &how, &e) == MLA_OK, "%s: %s", from, e.text)) return NULL;
    return c;
}

/* c as the file at path; pieces: of so many rows. */
static int write_model(const checkpoint *c, const int *types, int64_t pieces) {
    convert_plan *p;
    gguf_writer *w;
    mla_error e;
    if (!CHECK(convert_begin(&p, c, types, &e) == MLA_OK, "%s", e.text)) return 0;
    if (gguf_create(&w, path, &e)) printf("%s\n", e.text), exit(2);
    convert_put_config(p, w);
    for (size_t i = 0; i < p->n; i++)
        gguf_put_tensor(w, p->tensors[i].name, gguf_type_of(p->tensors[i].dtype), p->tensors[i].n_dims,
                        p->tensors[i].dims);
    for (size_t i = 0; i < p->n; i++) {
        const convert_tensor *t = &p->tensors[i];
        for (int64_t row = 0; row < t->rows; row += pieces) {
            const int64_t n = t->rows - row < pieces ? t->rows - row : pieces;
            const size_t bytes = mla_dtype_bytes(t->dtype, (size_t)(n * t->dims[0]));
            void *data = need(malloc(bytes)); /* so that a byte more is noticed by the sanitizers */
            convert_rows(p, t, row, n, data);
            gguf_put_data(w, data, bytes);
            free(data);
        }
    }
    convert_end(p);
    return CHECK(gguf_finish(w, &e) == MLA_OK, "%s", e.text);
}

/* b is a, within a part of the largest of the row. */
static void near_tensor(const mla_tensor *a, const mla_tensor *b, double part, const char *what, const char *name) {
    double worst = 0;
    if (!CHECK(!a->data == !b->data && a->rows == b->rows && a->cols == b->cols, "%s: %s", what, name)) return;
    for (int r = 0; r < a->rows && a->data; r++) {
        double top = 1e-30, off = 0;
        for (int c = 0; c < a->cols; c++) {
            const double x = (double)mla_weight(a, r, c);
            top = fmax(top, fabs(x)), off = fmax(off, fabs(x - (double)mla_weight(b, r, c)));
        }
        worst = fmax(worst, off / top);
    }
    CHECK(worst <= part, "%s: %s is off by %g of its rows", what, name, worst);
}
static void near_mlp(const mla_mlp_weights *a, const mla_mlp_weights *b, double part, const char *what) {
    near_tensor(&a->gate.weight, &b->gate.weight, part, what, "gate");
    near_tensor(&a->up.weight, &b->up.weight, part, what, "up");
    near_tensor(&a->down.weight, &b->down.weight, part, what, "down");
}

/* A comes back through exp and log of floats. What is small has its type: of F32's or the checkpoint's own, exactly. */
static void near_kda(const mla_kda_weights *a, const mla_kda_weights *b, double part, const char *what) {
    near_tensor(&a->q.weight, &b->q.weight, part, what, "q of KDA");
    near_tensor(&a->k.weight, &b->k.weight, part, what, "k of KDA");
    near_tensor(&a->v.weight, &b->v.weight, part, what, "v of KDA");
    near_tensor(&a->o.weight, &b->o.weight, part, what, "o of KDA");
    near_tensor(&a->f_a.weight, &b->f_a.weight, part, what, "f_a");
    near_tensor(&a->g_a.weight, &b->g_a.weight, part, what, "g_a");
    near_tensor(&a->f_b.weight, &b->f_b.weight, a->f_a.weight.data ? 0 : part, what, "f_b");
    near_tensor(&a->g_b.weight, &b->g_b.weight, a->g_a.weight.data ? 0 : part, what, "g_b");
    near_tensor(&a->b.weight, &b->b.weight, 0, what, "b");
    near_tensor(&a->q_conv, &b->q_conv, 0, what, "q_conv"), near_tensor(&a->k_conv, &b->k_conv, 0, what, "k_conv");
    near_tensor(&a->v_conv, &b->v_conv, 0, what, "v_conv"), near_tensor(&a->dt_bias, &b->dt_bias, 0, what, "dt_bias");
    near_tensor(&a->norm, &b->norm, 0, what, "o_norm"), near_tensor(&a->a_log, &b->a_log, 1e-6, what, "A_log");
}

/* All matrices but kv_b; those with rows of rope unless they have changed places. */
static void near_weights(const checkpoint *a, const checkpoint *b, double part, const char *what) {
    const mla_config *m = &a->config;
    const int moved = m->rope.layout != b->config.rope.layout;
    near_tensor(&a->weights.embed, &b->weights.embed, part, what, "embed");
    near_tensor(&a->weights.head, &b->weights.head, part, what, "head");
    for (int i = 0; i < m->num_hidden_layers + m->num_nextn_predict_layers; i++) {
        const mla_layer_weights *x = &a->layers[i], *y = &b->layers[i];
        if (!moved) {
            near_tensor(&x->attn.q.weight, &y->attn.q.weight, part, what, "q");
            near_tensor(&x->attn.q_b.weight, &y->attn.q_b.weight, part, what, "q_b");
            near_tensor(&x->attn.kv_a.weight, &y->attn.kv_a.weight, part, what, "kv_a");
        }
        near_tensor(&x->attn.q_a.weight, &y->attn.q_a.weight, part, what, "q_a");
        near_tensor(&x->attn.o.weight, &y->attn.o.weight, part, what, "o");
        near_tensor(&x->attn.gate.weight, &y->attn.gate.weight, part, what, "gate");
        near_kda(&x->kda, &y->kda, part, what);
        near_tensor(&x->attn.indexer.wq_b.weight, &y->attn.indexer.wq_b.weight, part, what, "wq_b");
        near_tensor(&x->attn.indexer.wk.weight, &y->attn.indexer.wk.weight, part, what, "wk");
        near_mlp(&x->mlp, &y->mlp, part, what), near_mlp(&x->moe.shared, &y->moe.shared, part, what);
        for (int e = 0; e < m->n_routed_experts && x->moe.experts; e++)
            near_mlp(&x->moe.experts[e], &y->moe.experts[e], part, what);
    }
}

static void fill(int *types, int type, int kv_b, int attn) {
    for (int k = 0; k < CHECKPOINT_CLASS_COUNT; k++) types[k] = type;
    types[CHECKPOINT_KV_B] = kv_b, types[CHECKPOINT_ATTN] = attn;
}

static void same(const mla_tensor *a, const mla_tensor *b, const char *what, const char *name) {
    CHECK(!a->data == !b->data &&
              (!a->data || (a->dtype == b->dtype && a->rows == b->rows && a->cols == b->cols &&
                            !memcmp(a->data, b->data, mla_dtype_bytes(a->dtype, (size_t)a->rows * (size_t)a->cols)))),
          "%s: %s differs", what, name);
}
static void same_mlp(const mla_mlp_weights *a, const mla_mlp_weights *b, const char *what) {
    same(&a->gate.weight, &b->gate.weight, what, "gate"), same(&a->up.weight, &b->up.weight, what, "up");
    same(&a->down.weight, &b->down.weight, what, "down");
}

/* Matrices that have no rows of rope, and are not kv_b. */
static void same_weights(const checkpoint *a, const checkpoint *b, const char *what) {
    const mla_config *m = &a->config;
    same(&a->weights.embed, &b->weights.embed, what, "embed"), same(&a->weights.head, &b->weights.head, what, "head");
    for (int i = 0; i < m->num_hidden_layers + m->num_nextn_predict_layers; i++) {
        const mla_layer_weights *x = &a->layers[i], *y = &b->layers[i];
        same(&x->attn.q_a.weight, &y->attn.q_a.weight, what, "q_a");
        same(&x->attn.o.weight, &y->attn.o.weight, what, "o");
        same(&x->attn.indexer.wq_b.weight, &y->attn.indexer.wq_b.weight, what, "wq_b");
        same_mlp(&x->mlp, &y->mlp, what), same_mlp(&x->moe.shared, &y->moe.shared, what);
        for (int e = 0; e < m->n_routed_experts && x->moe.experts; e++)
            same_mlp(&x->moe.experts[e], &y->moe.experts[e], what);
    }
    for (int i = 0; i < m->num_nextn_predict_layers; i++)
        same(&a->mtp[i].eh_proj.weight, &b->mtp[i].eh_proj.weight, what, "eh_proj");
}

/* kv_b's rows are those of k_b, transposed, and of v_b; within what their type rounds. */
static void same_kv_b(const checkpoint *a, const checkpoint *b, double within, const char *what) {
    const mla_config *m = &a->config;
    const int H = m->num_attention_heads, N = m->qk_nope_head_dim, V = m->v_head_dim, R = m->kv_lora_rank;
    double worst = 0;
    for (int i = 0; i < m->num_hidden_layers; i++) {
        const mla_tensor *from = &a->layers[i].attn.kv_b.weight;
        const mla_attn_weights *to = &b->layers[i].attn;
        if (!from->data && a->layers[i].kda.q.weight.data) continue;
        if (!CHECK(to->k_b.data && to->v_b.data && !to->kv_b.weight.data, "%s: kv_b", what)) return;
        for (int h = 0; h < H; h++)
            for (int r = 0; r < R; r++) {
                for (int n = 0; n < N; n++)
                    worst = fmax(worst, fabs((double)mla_weight(from, h * (N + V) + n, r) -
                                             (double)mla_weight(&to->k_b, h * R + r, n)));
                for (int n = 0; n < V; n++)
                    worst = fmax(worst, fabs((double)mla_weight(from, h * (N + V) + N + n, r) -
                                             (double)mla_weight(&to->v_b, h * V + n, r)));
            }
    }
    CHECK(worst <= within, "%s: kv_b is off by %g", what, worst);
}

static st_file *expected_of(const char *name, int *tokens, const float **logits) {
    char file[128];
    st_file *f;
    mla_error e;
    snprintf(file, sizeof file, FIXTURES "%s/expected.safetensors", name);
    if (st_open(&f, file, &e)) printf("%s\n", e.text), exit(2);
    for (int i = 0; i < PROMPT; i++) {
        int64_t id;
        memcpy(&id, (const char *)st_find(f, "tokens")->data + 8 * i, 8);
        tokens[i] = (int)id;
    }
    *logits = (const float *)st_find(f, "logits")->data;
    return f;
}

/* Every class of type, but kv_b and attention's projections. With form the weights are those of checkpoint_quantize, bit
   for bit, and the logits, too, within the other order of what kv_b gives; else weights are within part of the
   checkpoint's own. Where nothing was rounded, logits are those published. (Rounding sends tokens to other experts, so
   that logits say little.) */
static void test_way(const char *name, int type, int kv_b, int attn, checkpoint_form form, double part) {
    char what[96], from[128];
    int tokens[PROMPT], types[CHECKPOINT_CLASS_COUNT];
    const float *published;
    mla_error e;
    checkpoint_quant how = {.form = form, .threads = 1};
    how.classes[CHECKPOINT_KV_B] = how.classes[CHECKPOINT_ATTN] = CHECKPOINT_KEEP;
    how.classes[CHECKPOINT_EMBED] = form;
    snprintf(what, sizeof what, "%s to %s", name, type < 0 ? "keep" : mla_dtype_name((mla_dtype)type));
    snprintf(from, sizeof from, FIXTURES "%s", name);
    st_file *expected = expected_of(name, tokens, &published);
    checkpoint *ref = open_model(from), *c = NULL;
    fill(types, type, kv_b, attn);
    if (ref && write_model(ref, types, type == MLA_Q8 ? 7 : 1 << 20)) c = open_model(path);
    if (c) {
        const size_t n = (size_t)PROMPT * (size_t)ref->config.vocab_size;
        same_kv_b(ref, c, kv_b == MLA_Q8 ? 0.02 : kv_b == MLA_F16 ? 1e-7 : 0, what);
        if (form != CHECKPOINT_KEEP) {
            CHECK(checkpoint_quantize(ref, &how, &e) == MLA_OK, "%s: %s", what, e.text);
            same_weights(ref, c, what);
        } else near_weights(ref, c, part, what);
        CHECK(c->config.num_nextn_predict_layers == ref->config.num_nextn_predict_layers, "%s: layers ahead", what);
        CHECK(c->bos_token_id == 0 && c->n_eos == 1 && c->eos_token_id[0] == 1 &&
                  c->max_position_embeddings == ref->max_position_embeddings,
              "%s: the rest", what);
        float *got = run(c, tokens, PROMPT, what), *want = run(ref, tokens, PROMPT, what);
        const double off = (double)test_rel_err(got, want, n), far = (double)test_rel_err(got, published, n);
        CHECK(off <= 5e-5 || (form == CHECKPOINT_KEEP && part > 0), "%s: logits differ by %g", what, off);
        CHECK(far <= (part < 1e-3 ? 5e-4 : 2), "%s: transformers' logits differ by %g", what, far);
        CHECK(far <= 5e-5 || part > 0 || form != CHECKPOINT_KEEP, "%s: transformers' logits differ by %g", what, far);
        free(got), free(want);
    }
    checkpoint_close(c), checkpoint_close(ref);
    st_close(expected);
}

static void test_fixtures(void) {
    static const char *const names[] = {
        "deepseek_v2_lite", "deepseek_v2",   "deepseek_v3", "kimi_k2",           "glm4_moe_lite", "youtu",
        "deepseek_v32",     "glm_moe_dsa",   "minicpm3",    "minicpm3_longrope", "mistral4",      "hy_v4",
        "kimi_linear",      "bailing_hybrid"};
    for (size_t i = 0; i < COUNT(names); i++) {
        SECTION(names[i]);
        test_way(names[i], CONVERT_KEEP, CONVERT_KEEP, CONVERT_KEEP, CHECKPOINT_KEEP, 0);
        test_way(names[i], MLA_F16, MLA_F16, MLA_F16, CHECKPOINT_KEEP, 1e-6);
        test_way(names[i], MLA_Q8, CONVERT_KEEP, CONVERT_KEEP, CHECKPOINT_Q8, 4.5e-3);
        test_way(names[i], MLA_Q8, MLA_Q8, MLA_Q8, CHECKPOINT_KEEP, 4.5e-3);
        test_way(names[i], MLA_Q4_K, MLA_Q8, MLA_Q4_K, CHECKPOINT_KEEP, 4.5e-3); /* whose rows make it Q8 */
    }
}

/* t becomes its rows of which `head` at a time begin with `kept`; or, with zeros, all of them with the others zero. */
static float *cut_rows(mla_tensor *t, int head, int kept, int zeros) {
    const int rows = zeros ? t->rows : t->rows / head * kept;
    float *to = (float *)need(calloc((size_t)rows * (size_t)t->cols, sizeof *to));
    for (int r = 0; r < t->rows; r++) {
        const int at = zeros ? r : r / head * kept + r % head;
        for (int c = 0; c < t->cols && r % head < kept; c++) to[at * t->cols + c] = mla_weight(t, r, c);
    }
    *t = mla_view(to, MLA_F32, rows, t->cols);
    return to;
}

/* A model with no channels of rope (P = 0) is the one whose queries have zeros there, but for the scale of scores: in
   memory, and as a file. */
static void test_no_rope(void) {
    SECTION("without channels of rope");
    int types[CHECKPOINT_CLASS_COUNT], tokens[PROMPT], n_held = 0;
    float *held[16];
    checkpoint *with = open_model(FIXTURES "kimi_linear"), *ref = open_model(FIXTURES "kimi_linear"), *c;
    if (!with || !ref) return;
    mla_config *m = &ref->config;
    const int N = m->qk_nope_head_dim, P = m->qk_rope_head_dim, R = m->kv_lora_rank;
    const size_t n = (size_t)PROMPT * (size_t)m->vocab_size;
    for (int i = 0; i < PROMPT; i++) tokens[i] = (i * i * 31 + 7) % m->vocab_size;
    for (int l = 0; l < m->num_hidden_layers; l++) {
        if (!ref->layers[l].attn.q.weight.data) continue;
        held[n_held++] = cut_rows(&with->layers[l].attn.q.weight, N + P, N, 1);
        held[n_held++] = cut_rows(&ref->layers[l].attn.q.weight, N + P, N, 0);
        held[n_held++] = cut_rows(&ref->layers[l].attn.kv_a.weight, R + P, R, 0);
    }
    CHECK(n_held == 6, "layers of MLA");
    ref->memory = need(malloc(1)); /* weights are no longer the mapped file's, whose pages would be given back */
    with->config.softmax_scale = 1 / sqrtf((float)N), m->qk_rope_head_dim = 0;
    fill(types, CONVERT_KEEP, CONVERT_KEEP, CONVERT_KEEP);
    float *want = run(with, tokens, PROMPT, "zeros"), *got = run(ref, tokens, PROMPT, "none");
    CHECK(test_rel_err(got, want, n) < 1e-5f, "logits differ by %g", (double)test_rel_err(got, want, n));
    free(got);
    if (write_model(ref, types, 7) && (c = open_model(path)) != NULL) {
        CHECK(c->config.qk_rope_head_dim == 0 && c->config.rope.layout == MLA_ROPE_NONE, "config");
        got = run(c, tokens, PROMPT, "as a file");
        CHECK(test_rel_err(got, want, n) < 1e-5f, "a file: logits differ by %g", (double)test_rel_err(got, want, n));
        free(got);
        checkpoint_close(c);
    }
    free(want);
    checkpoint_close(with), checkpoint_close(ref);
    while (n_held > 0) free(held[--n_held]);
}

/* fp8 with its scales: BF16 if kept. */
static void test_fp8(void) {
    SECTION("fp8");
    int types[CHECKPOINT_CLASS_COUNT], tokens[PROMPT];
    const float *published;
    st_file *expected = expected_of("deepseek_v3_fp8", tokens, &published);
    checkpoint *ref = open_model(FIXTURES "deepseek_v3_fp8"), *c = NULL;
    for (int keep = 0; keep < 2 && ref; keep++) {
        fill(types, keep ? CONVERT_KEEP : MLA_F32, keep ? CONVERT_KEEP : MLA_F32, keep ? CONVERT_KEEP : MLA_F32);
        if (write_model(ref, types, 5)) c = open_model(path);
        if (!c) continue;
        float *got = run(c, tokens, PROMPT, "fp8");
        const double far = (double)test_rel_err(got, published, (size_t)PROMPT * (size_t)ref->config.vocab_size);
        CHECK(keep || far < 5e-5, "logits differ by %g", far);
        near_weights(ref, c, keep ? 4e-3 : 0, "fp8");
        CHECK(c->layers[0].attn.o.weight.dtype == (keep ? MLA_BF16 : MLA_F32), "type of what was E4M3");
        free(got);
        checkpoint_close(c), c = NULL;
    }
    checkpoint_close(ref);
    st_close(expected);
}

/* A model of one layer with rows of 256 and more, random, as a GGUF file in F16. */
static void write_large(const char *to) {
    static const struct {
        const char *name;
        int64_t dims[3];
    } tensors[] = {{"token_embd.weight", {256, 40, 1}},
                   {"output_norm.weight", {256, 1, 1}},
                   {"blk.0.attn_norm.weight", {256, 1, 1}},
                   {"blk.0.attn_q.weight", {256, 2 * 160, 1}},
                   {"blk.0.attn_kv_a_mqa.weight", {256, 256 + 32, 1}},
                   {"blk.0.attn_kv_a_norm.weight", {256, 1, 1}},
                   {"blk.0.attn_k_b.weight", {128, 256, 2}},
                   {"blk.0.attn_v_b.weight", {256, 128, 2}},
                   {"blk.0.attn_output.weight", {256, 256, 1}},
                   {"blk.0.ffn_norm.weight", {256, 1, 1}},
                   {"blk.0.ffn_gate.weight", {256, 1280, 1}},
                   {"blk.0.ffn_up.weight", {256, 1280, 1}},
                   {"blk.0.ffn_down.weight", {1280, 256, 1}}};
    static const struct {
        const char *name;
        int value;
    } keys[] = {{"block_count", 1},
                {"context_length", 64},
                {"vocab_size", 40},
                {"embedding_length", 256},
                {"feed_forward_length", 1280},
                {"attention.head_count", 2},
                {"attention.kv_lora_rank", 256},
                {"attention.key_length_mla", 160},
                {"attention.value_length_mla", 128},
                {"rope.dimension_count", 32}};
    gguf_writer *w;
    mla_error e;
    test_rng rng = {11};
    char name[64];
    if (gguf_create(&w, to, &e)) printf("%s\n", e.text), exit(2);
    gguf_put_text(w, "general.architecture", "deepseek2"), gguf_put_text(w, "general.author", "nobody");
    gguf_put_number(w, "deepseek2.attention.layer_norm_rms_epsilon", 1e-6);
    gguf_put_strings(w, "tokenizer.ggml.tokens", 1), gguf_put_string(w, "one", 3);
    gguf_put_text(w, "tokenizer.ggml.model", "gpt2");
    for (size_t i = 0; i < COUNT(keys); i++) {
        snprintf(name, sizeof name, "deepseek2.%s", keys[i].name);
        gguf_put_integer(w, name, GGUF_U32, keys[i].value);
    }
    for (size_t i = 0; i < COUNT(tensors); i++)
        gguf_put_tensor(w, tensors[i].name, tensors[i].dims[1] == 1 ? 0 : 1,
                        tensors[i].dims[1] == 1   ? 1
                        : tensors[i].dims[2] == 1 ? 2
                                                  : 3,
                        tensors[i].dims);
    for (size_t i = 0; i < COUNT(tensors); i++) {
        const int norm = tensors[i].dims[1] == 1;
        for (int64_t k = 0; k < tensors[i].dims[0] * tensors[i].dims[1] * tensors[i].dims[2]; k++) {
            const float f = norm ? 1 : 0.16f * test_uniform(&rng) - 0.08f;
            const uint16_t h = mla_f32_to_f16(f);
            gguf_put_data(w, norm ? (const void *)&f : (const void *)&h, norm ? 4 : 2);
        }
    }
    if (gguf_finish(w, &e)) printf("%s\n", e.text), exit(2);
}

/* From a GGUF file to the types with blocks of 256, and from these to others. */
static void test_large(void) {
    static const struct {
        int type;
        checkpoint_form form;
        double within; /* of the source's logits */
    } ways[] = {{MLA_Q4_K, CHECKPOINT_Q4_K, 0.3}, {MLA_Q5_K, CHECKPOINT_Q5_K, 0.15},
                {MLA_Q6_K, CHECKPOINT_Q6_K, 0.1}, {MLA_Q4, CHECKPOINT_Q4, 0.3},
                {MLA_Q8, CHECKPOINT_Q8, 0.03},    {MLA_IQ4_NL, CHECKPOINT_IQ4_NL, 0.3}};
    char source[128];
    int types[CHECKPOINT_CLASS_COUNT], tokens[16];
    SECTION("rows of 256");
    snprintf(source, sizeof source, "%s/large.gguf", dir);
    write_large(source);
    for (int i = 0; i < 16; i++) tokens[i] = (7 * i + 3) % 40;
    checkpoint *c = open_model(source);
    float *want = c ? run(c, tokens, 16, "source") : NULL;
    for (size_t i = 0; i < COUNT(ways) && c; i++) {
        const char *what = mla_dtype_name((mla_dtype)ways[i].type);
        fill(types, ways[i].type, ways[i].type, ways[i].type);
        if (!write_model(c, types, 3)) continue;
        checkpoint *made = open_model(path), *ref = open_model(source);
        if (!made || !ref) continue;
        checkpoint_quant how = {.form = ways[i].form, .threads = 1};
        mla_error e;
        how.classes[CHECKPOINT_KV_B] = CHECKPOINT_KEEP;
        how.classes[CHECKPOINT_EMBED] = ways[i].form;
        CHECK(checkpoint_quantize(ref, &how, &e) == MLA_OK, "%s: %s", what, e.text);
        same_weights(ref, made, what);
        same(&ref->layers[0].attn.q.weight, &made->layers[0].attn.q.weight, what, "q");
        same(&ref->layers[0].attn.kv_a.weight, &made->layers[0].attn.kv_a.weight, what, "kv_a");
        const int k256 = mla_dtype_block((mla_dtype)ways[i].type) == 256;
        CHECK((int)made->layers[0].attn.k_b.dtype == (k256 ? MLA_Q8 : ways[i].type), "%s: k_b, rows of 128", what);
        CHECK((int)made->layers[0].attn.v_b.dtype == ways[i].type, "%s: v_b", what);
        float *got = run(made, tokens, 16, what);
        const double off = (double)test_rel_err(got, want, 16 * 40);
        CHECK(off < ways[i].within, "%s: logits differ by %g", what, off);
        free(got);
        checkpoint_close(ref);

        /* what has this type already is copied, and then nothing changes */
        snprintf(path, sizeof path, "%s/again.gguf", dir);
        if (write_model(made, types, 1000)) {
            checkpoint *again = open_model(path);
            if (again) same_weights(made, again, what);
            checkpoint_close(again);
        }
        snprintf(path, sizeof path, "%s/model.gguf", dir);
        checkpoint_close(made);
    }
    free(want);
    checkpoint_close(c);
}

static void refused(const checkpoint *c, const int *types, mla_result code, const char *word) {
    convert_plan *p;
    mla_error e;
    const mla_result rc = convert_begin(&p, c, types, &e);
    CHECK(rc == code && !p && strstr(e.text, word), "%s: %d (%s)", word, (int)rc, rc ? e.text : "ok");
    if (!rc) convert_end(p);
}

static void test_refusals(void) {
    static const char *const foreign[] = {"axk1", "longcat_flash", "axk2"};
    int types[CHECKPOINT_CLASS_COUNT];
    convert_plan *p;
    mla_error e;
    SECTION("refusals");
    fill(types, MLA_Q8, MLA_Q8, MLA_Q8);
    for (size_t i = 0; i < COUNT(foreign); i++) {
        char from[128];
        snprintf(from, sizeof from, FIXTURES "%s", foreign[i]);
        checkpoint *c = open_model(from);
        if (c) refused(c, types, MLA_ERR_UNSUPPORTED, foreign[i]);
        checkpoint_close(c);
    }
    checkpoint *c = open_model(FIXTURES "deepseek_v3");
    if (!c) return;
    mla_config was = c->config;
    mla_layer_weights *layer = &c->layers[1];
    c->config.rope.mscale = 2, refused(c, types, MLA_ERR_UNSUPPORTED, "cosines"), c->config = was;
    c->config.rope.scaling = MLA_ROPE_DYNAMIC, refused(c, types, MLA_ERR_UNSUPPORTED, "rope"), c->config = was;
    c->config.rope.no_truncate = 1, refused(c, types, MLA_ERR_UNSUPPORTED, "rounded"), c->config = was;
    c->config.q_scale = 2, refused(c, types, MLA_ERR_UNSUPPORTED, "scaled latents"), c->config = was;
    c->config.embed_scale = 2, refused(c, types, MLA_ERR_UNSUPPORTED, "residual"), c->config = was;
    c->config.kv_norm.eps = 0.1f, refused(c, types, MLA_ERR_UNSUPPORTED, "eps"), c->config = was;
    c->config.topk_method = MLA_TOPK_GREEDY, refused(c, types, MLA_ERR_UNSUPPORTED, "groups"), c->config = was;
    c->config.n_group = 1, c->config.scoring_func = MLA_SCORING_SOFTMAX,
    refused(c, types, MLA_ERR_UNSUPPORTED, "softmax"), c->config = was;
    layer->attn.o.bias = layer->attn_norm.weight, refused(c, types, MLA_ERR_UNSUPPORTED, "biases");
    layer->attn.o.bias.data = NULL;
    layer->ffn_out_norm = layer->attn_norm, refused(c, types, MLA_ERR_UNSUPPORTED, "norms behind");
    layer->ffn_out_norm.weight.data = NULL;
    types[0] = MLA_Q2_K, refused(c, types, MLA_ERR_ARGUMENT, "no type for attn"), types[0] = MLA_Q8;
    CHECK(convert_begin(NULL, c, types, &e) == MLA_ERR_ARGUMENT && convert_begin(&p, NULL, types, &e) && !p &&
              convert_begin(&p, c, NULL, NULL) && !p,
          "NULL");
    convert_end(NULL);
    checkpoint_close(c);
    if ((c = open_model(FIXTURES "kimi_linear")) == NULL) return;
    was = c->config, layer = c->layers;
    c->config.linear_num_heads = 2, refused(c, types, MLA_ERR_UNSUPPORTED, "heads of layers"), c->config = was;
    c->config.kda_lower_bound = -5, refused(c, types, MLA_ERR_UNSUPPORTED, "no lower bound"), c->config = was;
    c->config.norm_topk_prob = 0, refused(c, types, MLA_ERR_UNSUPPORTED, "by their sum"), c->config = was;
    c->config.rope.layout = MLA_ROPE_PAIR, refused(c, types, MLA_ERR_UNSUPPORTED, "no rope"), c->config = was;
    layer[1].attn.gate = layer->kda.b, refused(c, types, MLA_ERR_UNSUPPORTED, "no gate");
    layer[1].attn.gate.weight.data = NULL;
    layer->kda.b.bias = layer->kda.norm, refused(c, types, MLA_ERR_UNSUPPORTED, "biases");
    layer->kda.b.bias.data = NULL;
    layer->kda.f_a.weight.data = NULL, refused(c, types, MLA_ERR_UNSUPPORTED, "two matrices");
    checkpoint_close(c);
    if ((c = open_model(FIXTURES "bailing_hybrid")) == NULL) return;
    was = c->config;
    c->config.kda_lower_bound = 0, refused(c, types, MLA_ERR_UNSUPPORTED, "a lower bound"), c->config = was;
    c->config.num_nextn_predict_layers = 1, refused(c, types, MLA_ERR_UNSUPPORTED, "ahead"), c->config = was;
    checkpoint_close(c);
}

static mla_result try_tokenizer(const checkpoint *c, const char *text, const char *pre, mla_error *e) {
    gguf_writer *w;
    json_value *json;
    if (json_parse(text, strlen(text), &json, e)) printf("%s\n", e->text), exit(2);
    if (gguf_create(&w, path, e)) printf("%s\n", e->text), exit(2);
    const mla_result rc = convert_put_tokenizer(w, json, NULL, pre, c, NULL, e);
    json_free(json);
    if (rc) gguf_abandon(w);
    else CHECK(gguf_finish(w, e) == MLA_OK, "%s", e->text);
    return rc;
}

static int key_is(const gguf *g, const char *name, const char *want) {
    size_t n;
    const char *s = gguf_string(gguf_find_key(g, name), &n);
    return s && n == strlen(want) && !memcmp(s, want, n);
}

static void test_tokenizers(void) {
    static const struct {
        const char *pattern, *pre;
    } known[] = {{"[!]|\\\\p{Han}+", "kimi-k2"},
                 {"[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x83\xbf]+", "deepseek-v3"},
                 {"[\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-\xe4\xb8\x80]+", "deepseek-coder"},
                 {"\\\\s?[A-Za-z\xc2\xb5]+", "deepseek-llm"},
                 {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?", "glm4"},
                 {"'(?i:[sdmt]|ll|ve|re)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?+\\\\p{L}+|\\\\p{N}| ?", "bailingmoe2"}};
    static const char *const wrong[][2] = {
        {"{\"model\":{\"type\":\"Unigram\"}}", "\"Unigram\""},
        {"{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true}}", "byte_fallback"},
        {"{}", "model.type"},
        {"[]", "model.type"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":9999}}}", "vocab_size is 256"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1}}}", "has no id"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":[1]}}", "has no id"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{}},\"added_tokens\":[3]}", "has no id"},
        {"{\"model\":{\"type\":\"BPE\",\"merges\":[1]}}", "merges[0]"},
        {"{\"model\":{\"type\":\"BPE\",\"merges\":[[\"a\"]]}}", "merges[0]"}};
    char text[1024];
    mla_error e;
    gguf *g;
    size_t n = 0;
    SECTION("tokenizers");
    checkpoint *c = open_model(FIXTURES "deepseek_v3");
    if (!c) return;
    for (size_t i = 0; i < COUNT(wrong); i++)
        CHECK(try_tokenizer(c, wrong[i][0], "x", &e) && strstr(e.text, wrong[i][1]), "%s: %s", wrong[i][0], e.text);
    CHECK(try_tokenizer(c, "{\"model\":{\"type\":\"BPE\"},\"pre_tokenizer\":{\"pretokenizers\":[1]}}", NULL, &e) ==
                  MLA_ERR_UNSUPPORTED &&
              strstr(e.text, "pre_tokenizer"),
          "patterns that are not known: %s", e.text);
    for (size_t i = 0; i < COUNT(known); i++) {
        snprintf(
            text, sizeof text,
            "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[[\"a\",\"b\"],\"c d\"]},"
            "\"added_tokens\":[{\"id\":5,\"content\":\"<|x|>\"},{\"id\":6,\"content\":\"u\"},"
            "{\"id\":7,\"content\":\"s\",\"special\":true}],\"pre_tokenizer\":{\"type\":\"Sequence\","
            "\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"}}]},\"post_processor\":"
            "{\"processors\":[{},{\"single\":[{\"SpecialToken\":{\"id\":\"s\"}}]}]}}",
            known[i].pattern);
        if (!CHECK(!try_tokenizer(c, text, NULL, &e) && !gguf_open(&g, path, &e), "%s: %s", known[i].pre, e.text))
            continue;
        CHECK(key_is(g, "tokenizer.ggml.pre", known[i].pre), "%s is not known", known[i].pre);
        static const char *const tokens[] = {"a", "b", "ab", "[PAD3]", "[PAD4]", "<|x|>", "u", "s", "[PAD8]"};
        static const int kinds[] = {1, 1, 1, 5, 5, 3, 4, 3, 5};
        gguf_strings s = gguf_strings_of(gguf_find_key(g, "tokenizer.ggml.tokens"));
        for (size_t k = 0; k < COUNT(tokens); k++) {
            int64_t kind = 0;
            const char *t = gguf_next(&s, &n);
            CHECK(t && n == strlen(tokens[k]) && !memcmp(t, tokens[k], n), "token %zu", k);
            CHECK(gguf_integer(gguf_find_key(g, "tokenizer.ggml.token_type"), k, &kind) && kind == kinds[k], "type %zu",
                  k);
        }
        s = gguf_strings_of(gguf_find_key(g, "tokenizer.ggml.merges"));
        const char *t = gguf_next(&s, &n);
        CHECK(t && n == 3 && !memcmp(t, "a b", 3) && gguf_next(&s, &n) && !gguf_next(&s, &n), "merges");
        int64_t bos = 0;
        CHECK(gguf_integer(gguf_find_key(g, "tokenizer.ggml.add_bos_token"), 0, &bos) && bos == 1, "add_bos_token");
        CHECK(gguf_find_key(g, "tokenizer.ggml.tokens")->count == 256, "tokens");
        gguf_close(g);
    }
    checkpoint_close(c);
}

/* Text that grows. */
typedef struct text {
    char s[65536];
    size_t n;
} text;

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static void
put(text *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    t->n += (size_t)vsnprintf(t->s + t->n, sizeof t->s - t->n, format, args);
    va_end(args);
    if (t->n >= sizeof t->s) printf("a text is too long\n"), exit(2);
}

/* The tokenizer in the file at path. pre: instead of the file's. */
static tokenizer *read_tokenizer(gguf *g, const char *pre) {
    static const char *const lists[] = {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"};
    static const char *const ids[] = {"bos_token_id",  "eos_token_id",  "unknown_token_id",
                                      "add_bos_token", "add_eos_token", "add_space_prefix"};
    tokenizer_gguf k;
    tokenizer *t = NULL;
    mla_error e;
    memset(&k, 0, sizeof k);
    tokenizer_strings *const to[] = {&k.tokens, &k.merges};
    int *const numbers[] = {&k.bos, &k.eos, &k.unk, &k.add_bos, &k.add_eos, &k.add_space_prefix};
    for (int i = 0; i < 2; i++) {
        const gguf_key *key = gguf_find_key(g, lists[i]);
        if (key) to[i]->data = key->data, to[i]->bytes = key->bytes, to[i]->count = key->count;
    }
    for (int i = 0; i < 6; i++) {
        char name[64];
        int64_t v = -1;
        snprintf(name, sizeof name, "tokenizer.ggml.%s", ids[i]);
        gguf_integer(gguf_find_key(g, name), 0, &v);
        *numbers[i] = (int)v;
    }
    const gguf_key *scores = gguf_find_key(g, "tokenizer.ggml.scores");
    k.scores = scores ? scores->data : NULL;
    k.types = gguf_find_key(g, "tokenizer.ggml.token_type")->data;
    k.model = scores ? "llama" : "gpt2";
    k.pre = pre;
    CHECK(tokenizer_from_gguf(&t, &k, "made", &e) == MLA_OK, "%s", e.text);
    return t;
}

/* Both give the same ids for texts of these parts. */
static void same_ids(const tokenizer *a, const tokenizer *b, const char *const *parts, int n_parts, const char *what) {
    test_rng rng = {77};
    int x[512], y[512], differ = 0;
    for (int round = 0; round < 2000 && a && b; round++) {
        char s[512];
        size_t n = 0;
        for (int i = test_int(&rng, 24); i > 0; i--) {
            const char *part = parts[test_int(&rng, n_parts)];
            memcpy(s + n, part, strlen(part)), n += strlen(part);
        }
        const unsigned flags = round % 2 ? TOKENIZER_SPECIAL : round % 3 ? TOKENIZER_PLAIN : 0;
        const int64_t p = tokenizer_encode(a, s, n, flags, x, 512), q = tokenizer_encode(b, s, n, flags, y, 512);
        differ += p != q || p < 0 || memcmp(x, y, (size_t)p * sizeof *x);
    }
    CHECK(a && b && !differ, "%s: %d of 2000 texts have other ids", what, differ);
}

#define GAP "\xe2\x96\x81"

/* A file as it is made of SentencePiece's models: pieces in the order of their scores, each with all its merges. What
   stands in place of a part of it: from, to. */
static void put_pieces(text *f, const char *from, const char *to) {
    static const char *const pieces[] = {"ab",
                                         GAP "a",
                                         "aa",
                                         "aba",
                                         "ba",
                                         GAP "ab",
                                         "bab",
                                         "\xc3\xa9"
                                         "a"};
    static const char *const letters[] = {GAP, "a", "b", "\xc3\xa9", "c"};
    static text merges;
    const char *known[16];
    int n = 0, id = 3;
    f->n = merges.n = 0;
    put(f,
        "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},"
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}]},\"pre_tokenizer\":null,"
        "\"added_tokens\":[");
    for (int i = 0; i < 4; i++)
        put(f,
            "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
            "\"normalized\":false,\"special\":%s}",
            i ? "," : "", i < 3 ? i : 280,
            i == 0   ? "<unk>"
            : i == 1 ? "<s>"
            : i == 2 ? "</s>"
                     : "<u>",
            i < 3 ? "true" : "false");
    put(f,
        "],\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"
        "\"\xe2\x96\x81\"},"
        "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" "
        "\",\"start\":1,\"stop\":0}]},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{"
        "\"SpecialToken\":{\"id\":\"<s>\"}},"
        "{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<s>\":{\"ids\":[1]}}},\"model\":{\"type\":\"BPE\","
        "\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2");
    for (int b = 0; b < 256; b++) put(f, ",\"<0x%02X>\":%d", (unsigned)b, id++);
    for (size_t i = 0; i < COUNT(letters); i++) put(f, ",\"%s\":%d", known[n++] = letters[i], id++);
    for (size_t i = 0; i < COUNT(pieces); i++) put(f, ",\"%s\":%d", known[n++] = pieces[i], id++);
    for (size_t i = 0; i < COUNT(pieces); i++)
        for (int a = 0; a < n; a++)
            for (int b = 0; b < n; b++) {
                char both[32];
                snprintf(both, sizeof both, "%s%s", known[a], known[b]);
                if (!strcmp(both, pieces[i])) put(&merges, "%s\"%s %s\"", merges.n ? "," : "", known[a], known[b]);
            }
    put(f, "},\"merges\":[%s]}}", merges.s);
    char *at = from ? strstr(f->s, from) : NULL;
    if (!from) return;
    if (!at) printf("no %s\n", from), exit(2);
    memmove(at + strlen(to), at + strlen(from), f->n - (size_t)(at - f->s) - strlen(from) + 1);
    memcpy(at, to, strlen(to));
}

/* Kind "llama": scores for merges. */
static void test_pieces(void) {
    static const char *const parts[] = {
        "a",  "a",   "b",    "b",   "ab",    " ",      "  ",           "c", "\xc3\xa9", "\xf0\x9f\x98\x80",
        "\n", "<s>", "</s>", "<u>", "<unk>", "<0x41>", "\xe2\x96\x81", "x", "\xff"};
    static const struct {
        const char *from, *to, *word;
    } wrong[] = {
        {"\"<0x7F>\":130,", "", "<0x7F> is missing"},
        {"\"type\":\"Replace\"", "\"type\":\"NFKC\"", "\"NFKC\""},
        {",{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}", "", "stay spaces"},
        {"\"fuse_unk\"", "\"ignore_merges\":true,\"fuse_unk\"", "ignore_merges"},
        {"\"ab a\",", "", "no merge makes \"aba\" of \"ab\" and \"a\""},
        {"\"pre_tokenizer\":null", "\"pre_tokenizer\":{\"type\":\"Digits\",\"individual_digits\":true}", "\"Digits\""}};
    static const struct {
        const char *from, *to, *word;
    } notes[] = {
        {NULL, NULL, NULL},
        {"\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":false",
         "\"lstrip\":true,\"rstrip\":false,\"normalized\":false,\"special\":false", "lstrip"},
        {"\"normalized\":false", "\"normalized\":true", "normalized text"},
        {"\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},"
         "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}]},\"pre_tokenizer\":null",
         "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"first\","
         "\"split\":false}",
         "behind a special token"}};
    static text f;
    mla_error e;
    SECTION("pieces with scores");
    checkpoint *c = open_model(FIXTURES "deepseek_v3");
    if (!c) return;
    c->config.vocab_size = 300;
    c->bos_token_id = 1;
    for (size_t i = 0; i < COUNT(notes); i++) {
        const char *note = "";
        gguf_writer *w;
        gguf *g = NULL;
        json_value *json;
        tokenizer *t = NULL, *made = NULL;
        put_pieces(&f, notes[i].from, notes[i].to);
        if (json_parse(f.s, strlen(f.s), &json, &e) || gguf_create(&w, path, &e)) printf("%s\n", e.text), exit(2);
        convert_put_config(&(convert_plan){.c = c, .arch = "deepseek2"}, w);
        if (!CHECK(!convert_put_tokenizer(w, json, NULL, NULL, c, &note, &e), "%s", e.text)) continue;
        CHECK(!note == !notes[i].word && (!note || strstr(note, notes[i].word)), "note %zu: %s", i, note ? note : "");
        CHECK(!tokenizer_from_json(&t, json, "t", &e) && !gguf_finish(w, &e) && !gguf_open(&g, path, &e), "%s", e.text);
        json_free(json);
        made = g ? read_tokenizer(g, NULL) : NULL;
        if (i == 0) same_ids(t, made, parts, COUNT(parts), "pieces");
        CHECK(tokenizer_strips_space(made), "a space before a text");
        tokenizer_close(t), tokenizer_close(made), gguf_close(g);
    }
    for (size_t i = 0; i < COUNT(wrong); i++) {
        put_pieces(&f, wrong[i].from, wrong[i].to);
        CHECK(try_tokenizer(c, f.s, NULL, &e) == MLA_ERR_UNSUPPORTED && strstr(e.text, wrong[i].word), "%s: %s",
              wrong[i].word, e.text);
    }
    checkpoint_close(c);
}

/* tiktoken.model: kind "gpt2", with all merges. */
static void test_tiktoken(void) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static const char *const more[] = {"ab", "bc", "abc", "bcd", "aa", "aaa", "aab", "cab", " a", "\xc3\xa9", "abcd"};
    static const char *const parts[] = {"a", "b", "c", "d", "ab", "aa"};
    static const char *const others[] = {
        "a", "b", "c", " ", "\xc3\xa9", "\n", "12", "<|im_end|>", "<think>", "\xe4\xbd\xa0", "A"};
    const char config[] = "{\"added_tokens_decoder\":{\"267\":{\"content\":\"<|im_end|>\",\"special\":true},"
                          "\"268\":{\"content\":\"<think>\",\"special\":false}},\"add_bos_token\":false}";
    static text f;
    mla_error e;
    gguf_writer *w;
    gguf *g = NULL;
    json_value *json;
    tokenizer *t = NULL;
    SECTION("tiktoken");
    f.n = 0;
    for (int i = 0; i < 256 + (int)COUNT(more); i++) {
        const char single[2] = {(char)i, 0};
        const char *s = i < 256 ? single : more[i - 256];
        const size_t n = i < 256 ? 1 : strlen(s);
        for (size_t k = 0; k < n; k += 3) {
            const unsigned a = (unsigned char)s[k], b = k + 1 < n ? (unsigned char)s[k + 1] : 0,
                           d = k + 2 < n ? (unsigned char)s[k + 2] : 0, all = a << 16 | b << 8 | d;
            put(&f, "%c%c%c%c", letters[all >> 18], letters[all >> 12 & 63], k + 1 < n ? letters[all >> 6 & 63] : '=',
                k + 2 < n ? letters[all & 63] : '=');
        }
        put(&f, " %d\n", i);
    }
    checkpoint *c = open_model(FIXTURES "deepseek_v3");
    if (!c) return;
    if (tokenizer_parse_tiktoken(&t, f.s, f.n, config, sizeof config - 1, "t", &e) ||
        json_parse(config, sizeof config - 1, &json, &e) || gguf_create(&w, path, &e))
        printf("%s\n", e.text), exit(2);
    CHECK(convert_put_tiktoken(w, t, json, c, &e) == MLA_ERR_CONFIG && strstr(e.text, "vocab_size is 256"),
          "too many ids");
    c->config.vocab_size = 530;
    CHECK(!convert_put_tiktoken(w, t, json, c, &e) && !gguf_finish(w, &e) && !gguf_open(&g, path, &e), "%s", e.text);
    json_free(json);
    checkpoint_close(c);
    if (!g) return;
    CHECK(key_is(g, "tokenizer.ggml.pre", "kimi-k2") && key_is(g, "tokenizer.ggml.model", "gpt2"), "kind");
    tokenizer *made = read_tokenizer(g, "kimi-k2"), *merged = read_tokenizer(g, "glm4");
    same_ids(t, made, others, COUNT(others), "by ranks");
    same_ids(t, merged, parts, COUNT(parts), "by merges");
    CHECK(!tokenizer_is_special(made, 268) && tokenizer_is_added(made, 268) && tokenizer_is_special(made, 267),
          "kinds of tokens");
    tokenizer_close(t), tokenizer_close(made), tokenizer_close(merged);
    gguf_close(g);
}

static void test_templates(void) {
    static const struct {
        const char *config, *key, *text; /* text NULL: there is none */
    } cases[] = {{"{\"chat_template\":\"{{a}}\"}", "tokenizer.chat_template", "{{a}}"},
                 {"{\"chat_template\":[{\"name\":\"default\",\"template\":\"x\"}]}", "tokenizer.chat_template", "x"},
                 {"{\"chat_template\":[{\"name\":\"rag\",\"template\":\"y\"},{}]}", "tokenizer.chat_template.rag", "y"},
                 {"{\"chat_template\":7}", "tokenizer.chat_template", NULL},
                 {"{}", "tokenizer.chat_template", NULL}};
    gguf_writer *w;
    gguf *g;
    json_value *json;
    mla_error e;
    SECTION("templates");
    for (size_t i = 0; i < COUNT(cases); i++) {
        if (json_parse(cases[i].config, strlen(cases[i].config), &json, &e) || gguf_create(&w, path, &e))
            printf("%s\n", e.text), exit(2);
        CHECK(convert_put_template(w, json) == (cases[i].text != NULL), "%s", cases[i].config);
        json_free(json);
        if (!CHECK(!gguf_finish(w, &e) && !gguf_open(&g, path, &e), "%s", e.text)) continue;
        if (cases[i].text) CHECK(key_is(g, cases[i].key, cases[i].text), "%s", cases[i].config);
        else CHECK(!gguf_key_count(g), "%s", cases[i].config);
        gguf_close(g);
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "--large")) {
        write_large(argv[2]);
        return 0;
    }
    snprintf(dir, sizeof dir, "/tmp/test_convert.XXXXXX");
    if (!mkdtemp(dir)) printf("cannot make %s\n", dir), exit(2);
    snprintf(path, sizeof path, "%s/model.gguf", dir);
    test_fixtures();
    test_fp8();
    test_no_rope();
    test_large();
    test_refusals();
    test_tokenizers();
    test_pieces();
    test_tiktoken();
    test_templates();
    unlink(path);
    snprintf(path, sizeof path, "%s/large.gguf", dir), unlink(path);
    snprintf(path, sizeof path, "%s/again.gguf", dir), unlink(path);
    CHECK(!rmdir(dir), "something is left in %s", dir);
    return test_end();
}
