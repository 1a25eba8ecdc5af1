/* quantize.h - converts the weights of an open checkpoint to Q8 or Q4 (checkpoint.h, mla.h).

USE
   Wherever checkpoint.h is included, include this after it or instead of it. In the file with
   CHECKPOINT_IMPLEMENTATION its code comes along, and calls mla_quantize of mla.h, whose implementation must be
   somewhere in the program.

   checkpoint_quant how; memset(&how, 0, sizeof how);
   how.form = CHECKPOINT_Q4;   how.classes[CHECKPOINT_HEAD] = CHECKPOINT_Q8;
   checkpoint_open(&c, "DeepSeek-V2-Lite", &error) || checkpoint_quantize(c, &how, &error) || mla_model_create(...)

WHAT           Matrices of F32, F16, BF16, or E4M3 and I8 with their scales, by class. Router, norms, biases and what
               has blocks already (GGUF's types) stay as they are; what was repacked while loading is interleaved, in
               place.
MEMORY         All converted weights lie in one block that belongs to the checkpoint, each tensor at a multiple of 64
               bytes. Rows go from the mapped file straight there, 1024 elements at a time; what was read of the file
               is given back to the system tensor by tensor, and huge pages are asked for (madvise, where declared: on
               Linux define _DEFAULT_SOURCE).
DETERMINISM    The result does not depend on the number of threads. A weight that is not finite makes its group NaN
               or 0.

CONTENTS       >>quantize (the API)   then >>quantize-strips >>quantize-tensors
   SPDX-License-Identifier: MIT */

#ifndef CHECKPOINT_QUANTIZE_H
#define CHECKPOINT_QUANTIZE_H

#include "checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- >>quantize -------------------------------------------------------------------------------------------------- */

typedef enum checkpoint_class {
    CHECKPOINT_ATTN = 0, /* q_proj, q_a_proj, q_b_proj, kv_a_proj_with_mqa, a gate, o_proj, an indexer's wq_b, wk */
    CHECKPOINT_KV_B,     /* kv_b_proj, or its two parts in GGUF files */
    CHECKPOINT_DENSE,    /* mlp.gate_proj, up_proj, down_proj of layers without experts; eh_proj of extra layers */
    CHECKPOINT_EXPERTS,  /* mlp.experts.* */
    CHECKPOINT_SHARED,   /* mlp.shared_experts.* */
    CHECKPOINT_HEAD,  /* lm_head; if tied to the embedding and of another form, a tensor of its own is made from that */
    CHECKPOINT_EMBED, /* model.embed_tokens; those of multi-token prediction that are others go with these two */
    CHECKPOINT_CLASS_COUNT
} checkpoint_class;

typedef enum checkpoint_form {
    CHECKPOINT_DEFAULT = 0,
    CHECKPOINT_KEEP,
    CHECKPOINT_Q8,
    CHECKPOINT_Q4,
    CHECKPOINT_Q4_K,
    CHECKPOINT_Q5_K,
    CHECKPOINT_Q6_K,
    CHECKPOINT_IQ4_NL,
    CHECKPOINT_FORM_COUNT
} checkpoint_form;

typedef struct checkpoint_quant {
    checkpoint_form
        form; /* of every class that has CHECKPOINT_DEFAULT, but kv_b and embed are then kept; itself 0: Q8 */
    checkpoint_form classes[CHECKPOINT_CLASS_COUNT];
    int repack;  /* what is converted gets interleaved rows (mla.h: MLA_LAYOUT_X16), and blocks that the checkpoint made
                    (of packed int4 and the like), too, whatever their form; but not kv_b, embed, or rows no multiple of
                    16 */
    int threads; /* tasks the work is cut into; 0: OpenMP's number if compiled in, else 1 */
    mla_run run; /* called once. NULL: OpenMP if compiled in, else one after the other */
    void *run_user;
    /* Called by task 0 between tensors with done < total, and by the caller's thread at the end with done = total:
       bytes of the tensors in the files. NULL: nobody is told. */
    void (*progress)(void *user, double done, double total);
    void *progress_user;
} checkpoint_quant;

CHECKPOINT_API const char *checkpoint_class_name(checkpoint_class k); /* "attn", "kv_b", ... */
CHECKPOINT_API const char *checkpoint_form_name(checkpoint_form f);   /* "default", "keep", "q8", "q4", "q4_k", ... */
CHECKPOINT_API mla_dtype checkpoint_form_dtype(checkpoint_form f);    /* MLA_Q8, ...; of "keep" MLA_F32 */

/* Once for a checkpoint, before its models are made; how NULL: all defaults. A tensor whose rows are no multiple of
   the form's block is refused, unless its class is kept. A call that fails leaves the checkpoint as it was. Errors:
   ARGUMENT, WEIGHTS, MEMORY. */
CHECKPOINT_API mla_result checkpoint_quantize(checkpoint *c, const checkpoint_quant *how, mla_error *err);

#ifdef __cplusplus
}
#endif
#endif /* CHECKPOINT_QUANTIZE_H */

/* ================================================================================================================== */
#if defined CHECKPOINT_IMPLEMENTATION && !defined CHECKPOINT_QUANTIZE_IMPLEMENTED
#define CHECKPOINT_QUANTIZE_IMPLEMENTED

#ifdef _OPENMP
#include <omp.h>
#endif

/* ---- >>quantize-strips ------------------------------------------------------------------------------------------- */
/* Every task takes its strip of rows of every tensor, so that nobody waits for anybody. A row is widened to f32 in
 * pieces, on the stack. */

enum { CKQ__PIECE = 1024, CKQ__ALIGN = 64 }; /* a piece holds whole groups and blocks of scales */

typedef struct ckq__item {
    mla_tensor from;
    unsigned char *to; /* where from lies: blocks that are repacked in place */
    mla_dtype dtype;
    mla_layout layout;
} ckq__item;

typedef struct ckq__work {
    const ckq__item *items;
    size_t n_items;
    int tasks;
    double total;
    const checkpoint_quant *how;
    unsigned char *rows; /* [tasks, rows_bytes], if anything is repacked in place */
    size_t rows_bytes;
    const checkpoint *c;
    float e4m3[256];
} ckq__work;

static size_t ckq__bytes(const mla_tensor *t, int rows) {
    return mla_dtype_bytes(t->dtype, (size_t)rows * (size_t)t->cols);
}

static int ckq__block(int given) { return given > 0 ? given : 128; }
static float ckq__scale(const mla_tensor *t, int row, int col) {
    const size_t per_row =
        ((size_t)t->cols + (size_t)ckq__block(t->scale_cols) - 1) / (size_t)ckq__block(t->scale_cols);
    const size_t i = (size_t)(row / ckq__block(t->scale_rows)) * per_row + (size_t)(col / ckq__block(t->scale_cols));
    const unsigned char *scale = (const unsigned char *)t->scale;
    float f;
    if (!scale) return 1;
    mla_widen(&f, t->scale_dtype, scale + mla_dtype_bytes(t->scale_dtype, i), 1);
    return f;
}

/* x [n] = W[row, col..col+n), scales applied; col begins a block of scales. */
static void ckq__widen(float *x, const mla_tensor *t, const float *e4m3, int row, int col, int n) {
    const unsigned char *b =
        (const unsigned char *)t->data + ckq__bytes(t, row) + mla_dtype_bytes(t->dtype, (size_t)col);
    uint16_t h;
    switch (t->dtype) {
    case MLA_F16:
        for (int i = 0; i < n; i++) {
            memcpy(&h, b + 2 * i, sizeof h);
            x[i] = mla_f16_to_f32(h);
        }
        break;
    case MLA_BF16:
        for (int i = 0; i < n; i++) {
            memcpy(&h, b + 2 * i, sizeof h);
            x[i] = mla_bf16_to_f32(h);
        }
        break;
    case MLA_E4M3:
    case MLA_I8:
        for (int i = 0; i < n;) {
            const float scale = ckq__scale(t, row, col + i);
            const int step = ckq__block(t->scale_cols), rest = step - (col + i) % step,
                      end = n - i < rest ? n : i + rest;
            for (; i < end; i++) x[i] = (t->dtype == MLA_I8 ? (float)((b[i] ^ 128) - 128) : e4m3[b[i]]) * scale;
        }
        break;
    default: memcpy(x, b, (size_t)n * sizeof *x); break;
    }
}

/* Does it lie in memory of the checkpoint's own, as it was opened? */
static int ckq__own(const checkpoint *c, const mla_tensor *t) {
    return c->repacked && (uintptr_t)t->data - (uintptr_t)c->repacked < (uintptr_t)c->repacked_bytes + 64;
}

/* Pages of a mapped file that have been read. Should anybody look at them again, they are read again; what the
   checkpoint unpacked lies in no file, and would be lost. */
static void ckq__give_back(const checkpoint *c, const mla_tensor *t, int begin, int end) {
#if !defined CHECKPOINT_NO_MMAP && defined MADV_DONTNEED
    if (ckq__own(c, t)) return;
    const unsigned char *data = (const unsigned char *)t->data + ckq__bytes(t, begin);
    const size_t before = (size_t)((uintptr_t)data % (uintptr_t)sysconf(_SC_PAGESIZE));
    madvise((void *)(uintptr_t)(data - before), ckq__bytes(t, end) - ckq__bytes(t, begin) + before, MADV_DONTNEED);
#else
    (void)c, (void)t, (void)begin, (void)end;
#endif
}

static void ckq__strip(const ckq__work *w, const ckq__item *item, int begin, int end) {
    const mla_tensor *t = &item->from;
    const size_t row_bytes = mla_dtype_bytes(item->dtype, (size_t)t->cols);
    const int step = item->layout ? 16 : 1;
    float x[CKQ__PIECE];
    unsigned char rows[16 * CKQ__PIECE / MLA_GROUP * 34]; /* sixteen pieces, to be interleaved */
    for (int row = begin; row < end; row += step)
        for (int col = 0, n; col < t->cols; col += n) {
            n = t->cols - col < CKQ__PIECE ? t->cols - col : CKQ__PIECE;
            const size_t bytes = mla_dtype_bytes(item->dtype, (size_t)n);
            unsigned char *to =
                item->to + (size_t)row * row_bytes + (size_t)step * mla_dtype_bytes(item->dtype, (size_t)col);
            const mla_tensor piece = mla_view(rows, item->dtype, 16, n);
            for (int i = 0; i < step; i++) {
                ckq__widen(x, t, w->e4m3, row + i, col, n);
                mla_quantize(item->dtype, item->layout ? rows + (size_t)i * bytes : to, x, (size_t)n, NULL);
            }
            if (item->layout) mla_repack(to, &piece, NULL);
        }
    if (begin < end) ckq__give_back(w->c, t, begin, end);
}

/* Sixteen rows of blocks at a time, where they lie. */
static void ckq__in_place(const ckq__item *item, unsigned char *rows, int begin, int end) {
    const size_t bytes = ckq__bytes(&item->from, 16);
    const mla_tensor piece = mla_view(rows, item->dtype, 16, item->from.cols);
    for (int row = begin; row < end; row += 16) {
        unsigned char *to = item->to + (size_t)(row / 16) * bytes;
        memcpy(rows, to, bytes);
        mla_repack(to, &piece, NULL);
    }
}

static void ckq__task(void *arg, int task) {
    const ckq__work *w = (const ckq__work *)arg;
    double done = 0;
    for (size_t i = 0; i < w->n_items; i++) {
        const mla_tensor *t = &w->items[i].from;
        if (task == 0 && w->how->progress) w->how->progress(w->how->progress_user, done, w->total);
        const int unit = w->items[i].layout ? 16 : 1, units = t->rows / unit;
        const int begin = (int)((int64_t)units * task / w->tasks) * unit,
                  end = (int)((int64_t)units * (task + 1) / w->tasks) * unit;
        if (w->items[i].to == t->data) ckq__in_place(&w->items[i], w->rows + (size_t)task * w->rows_bytes, begin, end);
        else ckq__strip(w, &w->items[i], begin, end);
        done += (double)ckq__bytes(t, t->rows);
    }
}

static void ckq__convert(ckq__work *w) {
    const checkpoint_quant *how = w->how;
    for (int i = 0; i < 256; i++) w->e4m3[i] = mla_e4m3_to_f32((uint8_t)i);
    if (how->run) how->run(how->run_user, w->tasks, ckq__task, w);
    else {
#ifdef _OPENMP
#pragma omp parallel for num_threads(w->tasks) schedule(static, 1)
#endif
        for (int i = 0; i < w->tasks; i++) ckq__task(w, i);
    }
    if (how->progress) how->progress(how->progress_user, w->total, w->total);
}

/* ---- >>quantize-tensors ------------------------------------------------------------------------------------------ */
/* All tensors are visited twice: first without memory, to refuse and to measure, then to give each its place. */

typedef struct ckq__job {
    checkpoint *c;
    checkpoint_quant how; /* no class is CHECKPOINT_DEFAULT */
    ckq__item *items;
    size_t n_items;
    int placing; /* 0: only measure */
    unsigned char *memory;
    size_t used, rows_bytes; /* of converted weights; of sixteen rows that are repacked in place, at most */
    double total;            /* bytes in the files */
    mla_result rc;
    mla_error *err;
} ckq__job;

static const char *ckq__file_of(const checkpoint *c, const char *tensor) {
    for (size_t i = 0; i < c->n_files; i++)
        if (st_find(c->files[i], tensor)) return c->files[i]->name;
    return "checkpoint";
}

mla_dtype checkpoint_form_dtype(checkpoint_form f) {
    static const mla_dtype dtypes[] = {MLA_Q8, MLA_Q4, MLA_Q4_K, MLA_Q5_K, MLA_Q6_K, MLA_IQ4_NL};
    return f >= CHECKPOINT_Q8 && f < CHECKPOINT_FORM_COUNT ? dtypes[f - CHECKPOINT_Q8] : MLA_F32;
}

static void ckq__tensor(ckq__job *j, checkpoint_class k, const char *prefix, const char *name, mla_tensor *t) {
    const checkpoint_form form = j->how.classes[k];
    const int blocks = mla_dtype_block(t->dtype) > 1;
    const int repack = j->how.repack && k != CHECKPOINT_KV_B && k != CHECKPOINT_EMBED && t->rows % 16 == 0;
    const mla_dtype dtype = checkpoint_form_dtype(form);
    const mla_layout layout = repack ? MLA_LAYOUT_X16 : MLA_LAYOUT_ROWS;
    char full[160];
    if (j->rc || !t->data) return;
    if (blocks && !t->layout && repack && ckq__own(j->c, t)) {
        if (j->placing) {
            ckq__item *item = &j->items[j->n_items];
            item->from = *t;
            item->to = (unsigned char *)(uintptr_t)t->data;
            item->dtype = t->dtype, t->layout = item->layout = MLA_LAYOUT_X16;
        } else {
            j->total += (double)ckq__bytes(t, t->rows);
            if (ckq__bytes(t, 16) > j->rows_bytes) j->rows_bytes = ckq__bytes(t, 16);
        }
        j->n_items++;
        return;
    }
    if (form == CHECKPOINT_KEEP || blocks) return;
    if (t->cols % mla_dtype_block(dtype)) {
        snprintf(full, sizeof full, "%s%s.weight", prefix, name);
        j->rc = ck__fail(j->err, MLA_ERR_WEIGHTS,
                         "%s: tensor \"%.99s\": found rows of %d, expected a multiple of %d for %s (or keep %s)",
                         ckq__file_of(j->c, full), full, t->cols, mla_dtype_block(dtype), checkpoint_form_name(form),
                         checkpoint_class_name(k));
        return;
    }
    const size_t bytes = mla_dtype_bytes(dtype, (size_t)t->rows * (size_t)t->cols),
                 step = (bytes + CKQ__ALIGN - 1) / CKQ__ALIGN * CKQ__ALIGN;
    if (step > SIZE_MAX / 2 - j->used) {
        j->rc = ck__no_memory(j->err, "checkpoint_quantize");
        return;
    }
    if (j->placing) {
        ckq__item *item = &j->items[j->n_items];
        item->from = *t;
        item->to = j->memory + j->used;
        item->dtype = dtype, item->layout = layout;
        *t = mla_view(item->to, dtype, t->rows, t->cols), t->layout = layout;
    } else j->total += (double)ckq__bytes(t, t->rows);
    j->n_items++;
    j->used += step;
}

static void ckq__mlp(ckq__job *j, checkpoint_class k, const char *prefix, mla_mlp_weights *w) {
    ckq__tensor(j, k, prefix, "gate_proj", &w->gate.weight);
    ckq__tensor(j, k, prefix, "up_proj", &w->up.weight);
    ckq__tensor(j, k, prefix, "down_proj", &w->down.weight);
}

static void ckq__attention(ckq__job *j, const char *prefix, mla_attn_weights *w) {
    ckq__tensor(j, CHECKPOINT_ATTN, prefix, "q_proj", &w->q.weight);
    ckq__tensor(j, CHECKPOINT_ATTN, prefix, "q_a_proj", &w->q_a.weight);
    ckq__tensor(j, CHECKPOINT_ATTN, prefix, "q_b_proj", &w->q_b.weight);
    ckq__tensor(j, CHECKPOINT_ATTN, prefix, "kv_a_proj_with_mqa", &w->kv_a.weight);
    ckq__tensor(j, CHECKPOINT_KV_B, prefix, "kv_b_proj", &w->kv_b.weight);
    ckq__tensor(j, CHECKPOINT_KV_B, prefix, "k_b", &w->k_b);
    ckq__tensor(j, CHECKPOINT_KV_B, prefix, "v_b", &w->v_b);
    ckq__tensor(j, CHECKPOINT_ATTN, prefix, "gate", &w->gate.weight);
    ckq__tensor(j, CHECKPOINT_ATTN, prefix, "o_proj", &w->o.weight);
    ckq__tensor(j, CHECKPOINT_ATTN, prefix, "indexer.wq_b", &w->indexer.wq_b.weight);
    ckq__tensor(j, CHECKPOINT_ATTN, prefix, "indexer.wk", &w->indexer.wk.weight);
}

/* What is small stays as it is: b_proj, and the second ones of pairs. */
static void ckq__kda(ckq__job *j, const char *prefix, mla_kda_weights *w) {
    const int f = w->f_a.weight.data != NULL, g = w->g_a.weight.data != NULL;
    ckq__tensor(j, CHECKPOINT_ATTN, prefix, "q_proj", &w->q.weight);
    ckq__tensor(j, CHECKPOINT_ATTN, prefix, "k_proj", &w->k.weight);
    ckq__tensor(j, CHECKPOINT_ATTN, prefix, "v_proj", &w->v.weight);
    ckq__tensor(j, CHECKPOINT_ATTN, prefix, f ? "f_a_proj" : "f_proj", f ? &w->f_a.weight : &w->f_b.weight);
    ckq__tensor(j, CHECKPOINT_ATTN, prefix, g ? "g_a_proj" : "g_proj", g ? &w->g_a.weight : &w->g_b.weight);
    ckq__tensor(j, CHECKPOINT_ATTN, prefix, "o_proj", &w->o.weight);
}

static void ckq__visit(ckq__job *j) {
    checkpoint *c = j->c;
    const mla_tensor embed = c->weights.embed;
    const int untie = !c->weights.head.data && j->how.classes[CHECKPOINT_HEAD] != j->how.classes[CHECKPOINT_EMBED];
    mla_tensor head = untie ? embed : c->weights.head;
    mla_mlp_weights *experts = c->experts;
    char prefix[96];
    ckq__tensor(j, CHECKPOINT_EMBED, "", "model.embed_tokens", &c->weights.embed);
    for (int i = 0; i < c->config.num_nextn_predict_layers; i++) {
        mla_mtp_weights *w = &c->mtp[i];
        snprintf(prefix, sizeof prefix, "model.layers.%d.", c->config.num_hidden_layers + i);
        ckq__tensor(j, CHECKPOINT_DENSE, prefix, "eh_proj", &w->eh_proj.weight);
        ckq__tensor(j, CHECKPOINT_EMBED, prefix, "embed_tokens", &w->embed);
        ckq__tensor(j, CHECKPOINT_HEAD, prefix, "shared_head.head", &w->head);
    }
    for (int i = 0; i < c->config.num_hidden_layers + c->config.num_nextn_predict_layers; i++) {
        mla_layer_weights *w = &c->layers[i];
        snprintf(prefix, sizeof prefix, "model.layers.%d.self_attn.", i);
        ckq__attention(j, prefix, &w->attn);
        ckq__kda(j, prefix, &w->kda);
        snprintf(prefix, sizeof prefix, "model.layers.%d.mlp.", i);
        ckq__mlp(j, CHECKPOINT_DENSE, prefix, &w->mlp);
        if (!w->moe.experts) continue;
        for (int e = 0; e < c->config.n_routed_experts; e++) {
            snprintf(prefix, sizeof prefix, "model.layers.%d.mlp.experts.%d.", i, e);
            ckq__mlp(j, CHECKPOINT_EXPERTS, prefix, experts++);
        }
        snprintf(prefix, sizeof prefix, "model.layers.%d.mlp.shared_experts.", i);
        ckq__mlp(j, CHECKPOINT_SHARED, prefix, &w->moe.shared);
    }
    ckq__tensor(j, CHECKPOINT_HEAD, "", untie ? "model.embed_tokens" : "lm_head", &head);
    if (j->placing) c->weights.head = head;
}

const char *checkpoint_class_name(checkpoint_class k) {
    static const char *const names[CHECKPOINT_CLASS_COUNT] = {"attn",   "kv_b", "dense", "experts",
                                                              "shared", "head", "embed"};
    return (unsigned)k < CHECKPOINT_CLASS_COUNT ? names[k] : "?";
}

const char *checkpoint_form_name(checkpoint_form f) {
    static const char *const names[] = {"default", "keep"};
    return (unsigned)f >= CHECKPOINT_FORM_COUNT ? "?"
           : f <= CHECKPOINT_KEEP               ? names[f]
                                                : mla_dtype_name(checkpoint_form_dtype(f));
}

mla_result checkpoint_quantize(checkpoint *c, const checkpoint_quant *how, mla_error *err) {
    ckq__job j;
    memset(&j, 0, sizeof j);
    if (!c) return ck__fail(err, MLA_ERR_ARGUMENT, "checkpoint_quantize: the checkpoint is NULL");
    if (c->memory)
        return ck__fail(err, MLA_ERR_ARGUMENT, "checkpoint_quantize: this checkpoint has been converted before");
    if (how) j.how = *how;
    if (j.how.threads < 0)
        return ck__fail(err, MLA_ERR_ARGUMENT, "checkpoint_quant.threads: %d is negative", j.how.threads);
    if ((unsigned)j.how.form >= CHECKPOINT_FORM_COUNT)
        return ck__fail(err, MLA_ERR_ARGUMENT, "checkpoint_quant.form: %d is no form", (int)j.how.form);
    if (j.how.form == CHECKPOINT_DEFAULT) j.how.form = CHECKPOINT_Q8;
    for (int k = 0; k < CHECKPOINT_CLASS_COUNT; k++) {
        checkpoint_form *f = &j.how.classes[k];
        if ((unsigned)*f >= CHECKPOINT_FORM_COUNT)
            return ck__fail(err, MLA_ERR_ARGUMENT, "checkpoint_quant.classes: %d is no form, for %s", (int)*f,
                            checkpoint_class_name((checkpoint_class)k));
        if (*f == CHECKPOINT_DEFAULT) *f = k == CHECKPOINT_KV_B || k == CHECKPOINT_EMBED ? CHECKPOINT_KEEP : j.how.form;
    }
    j.c = c;
    j.err = err;
    ckq__visit(&j);
    if (j.rc || !j.n_items) return j.rc;

    const size_t bytes = j.used;
    ckq__work w;
    memset(&w, 0, sizeof w);
    w.tasks = j.how.threads > 0 ? j.how.threads : 1;
#ifdef _OPENMP
    if (j.how.threads <= 0) w.tasks = omp_get_max_threads();
#endif
    w.rows_bytes = j.rows_bytes;
    if (w.rows_bytes && w.rows_bytes <= SIZE_MAX / (size_t)w.tasks)
        w.rows = (unsigned char *)malloc((size_t)w.tasks * w.rows_bytes);
    if (bytes) c->memory = ck__huge(NULL, bytes + CKQ__ALIGN);
    j.items = (ckq__item *)calloc(j.n_items, sizeof *j.items);
    if ((bytes && !c->memory) || (w.rows_bytes && !w.rows) || !j.items) {
        free(c->memory);
        free(w.rows);
        free(j.items);
        c->memory = NULL;
        return ck__fail(err, MLA_ERR_MEMORY, "checkpoint_quantize: no memory for %zu bytes of converted weights",
                        bytes);
    }
    if (bytes) j.memory = (unsigned char *)c->memory + (CKQ__ALIGN - (uintptr_t)c->memory % CKQ__ALIGN) % CKQ__ALIGN;
    j.n_items = j.used = 0;
    j.placing = 1;
    ckq__visit(&j);

    w.items = j.items;
    w.n_items = j.n_items;
    w.total = j.total;
    w.how = &j.how;
    w.c = c;
    ckq__convert(&w);
    free(j.items);
    free(w.rows);
    return MLA_OK;
}

#endif /* CHECKPOINT_IMPLEMENTATION */
