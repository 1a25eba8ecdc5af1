/* convert.h - an open checkpoint (checkpoint.h) as the keys and tensors of a GGUF file (gguf.h), of any types.

USE
   Wherever checkpoint.h is included, include this after it or instead of it. In the file with
   CHECKPOINT_IMPLEMENTATION its code comes along, and calls mla_quantize of mla.h and tokenizer_* of tokenizer.h, whose
   implementations must be somewhere in the program.

   for (int k = 0; k < CHECKPOINT_CLASS_COUNT; k++) types[k] = k == CHECKPOINT_KV_B ? MLA_Q8 : MLA_Q4_K;
   convert_begin(&p, c, types, &error) || gguf_create(&w, "new.gguf", &error);
   convert_put_config(p, w);   convert_put_tokenizer(w, json, config, NULL, c, &note, &error);
   for (i = 0; i < p->n; i++) gguf_put_tensor(w, p->tensors[i].name, gguf_type_of(p->tensors[i].dtype), ...);
   for (i = 0; i < p->n; i++) { convert_rows(p, &p->tensors[i], 0, p->tensors[i].rows, data); gguf_put_data(w, ...); }
   gguf_finish(w, &error);   convert_end(p);

MODELS         deepseek_v2, deepseek_v3, kimi_k2, glm4_moe_lite and youtu become deepseek2, deepseek_v32 deepseek32,
               glm_moe_dsa glm-dsa, kimi_linear kimi-linear, bailing_hybrid bailingmoe3, minicpm3, mistral4 and hy_v4
               themselves; what was a GGUF file stays what it was. Others, and what GGUF has no key for (biases of
               projections, cosines that are scaled, ...), are refused by name.
TENSORS        kv_b as k_b [N, R, H] and v_b [R, V, H], as llama.cpp takes it. Norms, router and biases F32. Where rows
               are no multiple of the type's block: Q8_0, and if they are none of 32 either, F16. (llama.cpp has
               Q5_0 and Q5_1 instead of Q8_0 for some.) If the model turns other pairs of dimensions than its
               architecture of GGUF, rows of q and kv_a change places: the same products, in another order.
DETERMINISM    Rows are independent: any number of threads may convert them, in any order, with the same result.
MEMORY         The list of tensors, some 150 bytes each. Pages of the files are given back when they have been read.

CONTENTS       >>convert (the API)   then >>convert-config >>convert-list >>convert-rows >>convert-tokenizer
               >>convert-sentencepiece >>convert-tiktoken >>convert-tokenizers
   SPDX-License-Identifier: MIT */

#ifndef CHECKPOINT_CONVERT_H
#define CHECKPOINT_CONVERT_H

#include "checkpoint.h" /* first, for its implementation includes gguf.h */
#include "gguf.h"
#include "quantize.h"
#include "tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- >>convert --------------------------------------------------------------------------------------------------- */

enum { CONVERT_KEEP = -1 }; /* a type: the tensor's own; BF16 for E4M3 and I8, which GGUF does not have with scales */

typedef enum convert_kind { /* where a row of a tensor of the new file comes from */
                            CONVERT_ROWS = 0,
                            CONVERT_EXPERTS, /* the rows of one expert after the other */
                            CONVERT_K_B,     /* the keys of a head of kv_b, transposed */
                            CONVERT_V_B,     /* the values of a head of kv_b */
                            CONVERT_DECAY    /* exp of A of KDA's heads, or -exp */
} convert_kind;

typedef struct convert_tensor {
    char name[64];
    int k;           /* its checkpoint_class; CHECKPOINT_CLASS_COUNT: norms, router, biases, which are F32 */
    mla_dtype dtype; /* in the new file */
    int fallback;    /* its rows did not allow the type that was asked for */
    int n_dims;
    int64_t dims[4]; /* the contiguous one first; 1 from n_dims on */
    int64_t rows;    /* the product of the others */
    convert_kind kind;
    const mla_tensor *from; /* in the checkpoint; CONVERT_EXPERTS: of the first expert */
    int head;               /* rows of a head, the last of which are turned and change places; 0: none do */
} convert_tensor;

typedef struct convert_plan {
    const checkpoint *c;
    const char *arch;        /* general.architecture */
    convert_tensor *tensors; /* [n], in the order of the file */
    size_t n;
    /* private */
    float e4m3[256];
    int32_t *heads; /* [num_hidden_layers]: of keys; NULL: no layer has a state */
} convert_plan;

/* types [CHECKPOINT_CLASS_COUNT]: an mla_dtype each (F32, F16, BF16, or one that mla_quantize makes) or CONVERT_KEEP. A
   head that is tied becomes a tensor of its own if its type is not the embedding's. c must outlive the plan. Errors:
   ARGUMENT (no such type), UNSUPPORTED (no architecture of GGUF can say what the model is), MEMORY. */
CHECKPOINT_API mla_result convert_begin(convert_plan **out, const checkpoint *c, const int *types, mla_error *err);
CHECKPOINT_API void convert_end(convert_plan *p);
/* general.architecture and all keys ARCH.*, and what the checkpoint says of begin and ends of texts. */
CHECKPOINT_API void convert_put_config(const convert_plan *p, gguf_writer *w);
/* Rows [first, first + count) of t to out, mla_dtype_bytes(t->dtype, count * t->dims[0]) bytes. */
CHECKPOINT_API void convert_rows(const convert_plan *p, const convert_tensor *t, int64_t first, int64_t count,
                                 void *out);

/* The keys tokenizer.ggml.* from tokenizer.json, which is byte-level BPE (kind "gpt2"), or SentencePiece's BPE with
   byte_fallback (kind "llama", whose scores say of its merges which goes first), and tokenizer_config.json (NULL: there
   is none). pre: tokenizer.ggml.pre; NULL: known by the patterns of the file. Ids that stand for nothing are called
   [PADn], as llama.cpp's converter does. *note: what the file says and GGUF has no key for, so that some texts become
   other tokens; NULL: nothing. Errors: CONFIG (damaged, more tokens than the model has), UNSUPPORTED (another kind of
   tokenizer, patterns that are not known, merges that no scores can put in order), MEMORY. */
CHECKPOINT_API mla_result convert_put_tokenizer(gguf_writer *w, const json_value *file, const json_value *config,
                                                const char *pre, const checkpoint *c, const char **note,
                                                mla_error *err);
/* The same of a tiktoken.model, open: kind "gpt2", pre "kimi-k2", with every way in which two tokens make a third. */
CHECKPOINT_API mla_result convert_put_tiktoken(gguf_writer *w, const tokenizer *t, const json_value *config,
                                               const checkpoint *c, mla_error *err);
/* tokenizer.chat_template, of tokenizer_config.json's chat_template: a text, or a list of names and texts. 1: there is
   one. */
CHECKPOINT_API int convert_put_template(gguf_writer *w, const json_value *config);

#ifdef __cplusplus
}
#endif
#endif /* CHECKPOINT_CONVERT_H */

/* ================================================================================================================== */
#if defined CHECKPOINT_IMPLEMENTATION && !defined CHECKPOINT_CONVERT_IMPLEMENTED
#define CHECKPOINT_CONVERT_IMPLEMENTED

/* ---- >>convert-config -------------------------------------------------------------------------------------------- */

static const struct cv__arch {
    const char *model_type, *arch;
} cv__archs[] = {{"deepseek_v2", "deepseek2"},   {"deepseek_v3", "deepseek2"},
                 {"kimi_k2", "deepseek2"},       {"glm4_moe_lite", "deepseek2"},
                 {"youtu", "deepseek2"},         {"deepseek_v32", "deepseek32"},
                 {"glm_moe_dsa", "glm-dsa"},     {"minicpm3", "minicpm3"},
                 {"mistral4", "mistral4"},       {"hy_v4", "hy_v4"},
                 {"kimi_linear", "kimi-linear"}, {"bailing_hybrid", "bailingmoe3"},
                 {"kimi-linear", "kimi-linear"}, {"bailingmoe3", "bailingmoe3"},
                 {"deepseek2", "deepseek2"},     {"deepseek32", "deepseek32"},
                 {"glm-dsa", "glm-dsa"}};

static int cv__is(const convert_plan *p, const char *arch) { return !strcmp(p->arch, arch); }

static mla_result cv__cannot(const convert_plan *p, const char *what, mla_error *err) {
    return ck__fail(err, MLA_ERR_UNSUPPORTED, "%s cannot be written as GGUF's %s: %s", p->c->model_type, p->arch, what);
}

/* f, or where it is 0 what that stands for, is x. */
static int cv__equals(float f, float standard, double x) {
    const double is = (double)(f != 0 ? f : standard);
    return fabs(is - x) <= 1e-6 * fabs(x);
}

static const char *cv__check_rope(const convert_plan *p) {
    const mla_rope *r = &p->c->config.rope;
    const double f = (double)r->factor, m = (double)r->mscale, all = (double)r->mscale_all_dim;
    const double g = 0.1 * log(f > 1 ? f : 1); /* yarn scales cosines by (g m + 1) / (g all + 1) */
    if (cv__is(p, "kimi-linear")) return r->layout == MLA_ROPE_NONE ? NULL : "it has no rope";
    if (r->layout == MLA_ROPE_NONE || r->inv_freq || r->scaling == MLA_ROPE_DYNAMIC)
        return "it has no key for such a rope";
    if (r->scaling != MLA_ROPE_YARN) return NULL;
    if (r->no_truncate) return "it has no key for a yarn range that is not rounded";
    const double amplitude = r->attention_factor != 0
                                 ? (double)r->attention_factor
                                 : (m != 0 && all != 0 ? g * m + 1 : g + 1) / (m != 0 && all != 0 ? g * all + 1 : 1);
    return fabs(amplitude - 1) > 1e-6 ? "it has no key for cosines that are scaled (mscale is not mscale_all_dim)"
                                      : NULL;
}

static const char *cv__check_layer(const checkpoint *c, int i) {
    const mla_layer_weights *w = &c->layers[i];
    const mla_attn_weights *a = &w->attn;
    const mla_kda_weights *k = &w->kda;
    const mla_linear *with[] = {&a->q,   &a->q_a,      &a->q_b,      &a->kv_a, &a->kv_b, &a->gate,
                                &a->o,   &w->mlp.gate, &w->mlp.down, &k->q,    &k->k,    &k->v,
                                &k->f_a, &k->f_b,      &k->b,        &k->g_a,  &k->g_b,  &k->o};
    for (size_t j = 0; j < sizeof with / sizeof *with; j++)
        if (with[j]->bias.data) return "it has no tensors for biases of projections";
    if (w->attn_out_norm.weight.data || w->ffn_out_norm.weight.data)
        return "it has no tensors for norms behind attention and FFN";
    if (w->moe.experts && w->mlp.gate.weight.data) return "it has no shortcut around experts";
    if (i && c->layers[i - 1].moe.experts && !w->moe.experts) return "its dense layers all come first";
    return NULL;
}

static const char *cv__check_linear(const convert_plan *p) {
    const mla_config *m = &p->c->config;
    const int kimi = cv__is(p, "kimi-linear");
    if (!kimi && !cv__is(p, "bailingmoe3")) return NULL;
    if (m->linear_num_heads != m->num_attention_heads) return "it has no key for the heads of layers with a state";
    if (kimi == (m->kda_lower_bound < 0)) return kimi ? "its decay has no lower bound" : "its decay has a lower bound";
    if (kimi && m->n_routed_experts && !m->norm_topk_prob) return "weights of its experts are divided by their sum";
    if (m->num_nextn_predict_layers) return "names of layers for guesses ahead are not known here";
    for (int i = 0; i < m->num_hidden_layers; i++) {
        const mla_kda_weights *w = &p->c->layers[i].kda;
        if (kimi && w->q.weight.data && !(w->f_a.weight.data && w->g_a.weight.data))
            return "decay and gate are of two matrices each";
        if (!w->q.weight.data && kimi == (p->c->layers[i].attn.gate.weight.data != NULL))
            return kimi ? "its attention has no gate" : "its attention has a gate";
    }
    return NULL;
}

/* What the reader of such a file takes for granted. */
static const char *cv__check_model(const convert_plan *p) {
    const checkpoint *c = p->c;
    const mla_config *m = &c->config;
    const int sigmoid = m->scoring_func == MLA_SCORING_SIGMOID, ungrouped = m->n_group <= 1;
    const char *wrong = cv__check_rope(p);
    if (!wrong) wrong = cv__check_linear(p);
    if (m->softmax_scale != 0 || !cv__equals(m->q_scale, 1, 1) || !cv__equals(m->latent_scale, 1, 1))
        wrong = "it has no key for scaled latents";
    if (!cv__equals(m->q_norm.eps, 1e-6f, 1e-6) || !cv__equals(m->kv_norm.eps, 1e-6f, 1e-6))
        wrong = "norms of latents with an eps of their own";
    if (!cv__is(p, "minicpm3") &&
        !(cv__equals(m->embed_scale, 1, 1) && cv__equals(m->residual_scale, 1, 1) && cv__equals(m->logits_scale, 1, 1)))
        wrong = "it has no key for a scaled residual stream";
    const int hy = cv__is(p, "hy_v4"), half = hy || cv__is(p, "deepseek32");
    if (m->index_topk && (m->index_rope != (half ? MLA_ROPE_HALF : MLA_ROPE_PAIR) || m->index_rope_last != hy))
        wrong = "its indexer turns other pairs of dimensions";
    for (int i = 0; i < m->num_hidden_layers + m->num_nextn_predict_layers && !wrong; i++) {
        wrong = cv__check_layer(c, i);
        if (c->layers[i].moe.router_bias.data && !sigmoid) wrong = "it has no softmax router with a bias";
    }
    if (m->n_routed_experts && !ungrouped &&
        m->topk_method != (sigmoid ? MLA_TOPK_NOAUX_TC : MLA_TOPK_GROUP_LIMITED_GREEDY))
        wrong = "it has no key for this choice of expert groups";
    return wrong;
}

static void cv__int(const convert_plan *p, gguf_writer *w, const char *name, int v) {
    char full[96];
    snprintf(full, sizeof full, "%s.%s", p->arch, name);
    gguf_put_integer(w, full, GGUF_U32, v);
}
static void cv__float(const convert_plan *p, gguf_writer *w, const char *name, double v) {
    char full[96];
    snprintf(full, sizeof full, "%s.%s", p->arch, name);
    gguf_put_number(w, full, v);
}
static void cv__key(char full[96], const convert_plan *p, const char *name) {
    snprintf(full, 96, "%s.%s", p->arch, name);
}

static void cv__put_rope(const convert_plan *p, gguf_writer *w) {
    static const char *const types[] = {NULL, "linear", NULL, "yarn", "longrope"};
    const mla_rope *r = &p->c->config.rope;
    char full[96];
    cv__int(p, w, "rope.dimension_count", p->c->config.qk_rope_head_dim);
    cv__float(p, w, "rope.freq_base", r->theta != 0 ? (double)r->theta : 1e4);
    if (!types[r->scaling]) return;
    cv__key(full, p, "rope.scaling.type");
    gguf_put_text(w, full, types[r->scaling]);
    if (r->factor != 0) cv__float(p, w, "rope.scaling.factor", (double)r->factor);
    if (r->scaling == MLA_ROPE_LINEAR) return;
    cv__int(p, w, "rope.scaling.original_context_length",
            r->original_max_position_embeddings ? r->original_max_position_embeddings : p->c->max_position_embeddings);
    if (r->scaling == MLA_ROPE_LONGROPE) {
        const double M = r->original_max_position_embeddings, f = (double)r->factor;
        if (r->attention_factor != 0) cv__float(p, w, "rope.scaling.attn_factor", (double)r->attention_factor);
        else if (f != 0 && !cv__equals((float)f, 1, p->c->max_position_embeddings / M)) /* which the reader takes */
            cv__float(p, w, "rope.scaling.attn_factor", f > 1 ? sqrt(1 + log(f) / log(M)) : 1);
        return;
    }
    cv__float(p, w, "rope.scaling.yarn_beta_fast", r->beta_fast != 0 ? (double)r->beta_fast : 32);
    cv__float(p, w, "rope.scaling.yarn_beta_slow", r->beta_slow != 0 ? (double)r->beta_slow : 1);
    cv__float(p, w, "rope.scaling.yarn_log_multiplier", 0.1 * (double)r->mscale_all_dim);
}

static void cv__put_attention(const convert_plan *p, gguf_writer *w) {
    const mla_config *m = &p->c->config;
    const int R = m->kv_lora_rank, P = m->qk_rope_head_dim, N = m->qk_nope_head_dim, V = m->v_head_dim;
    const int old = cv__is(p, "minicpm3"); /* whose converter never changed */
    char full[96];
    cv__int(p, w, "attention.head_count", m->num_attention_heads);
    if (!p->heads) cv__int(p, w, "attention.head_count_kv", old ? m->num_attention_heads : 1);
    if (m->q_lora_rank) cv__int(p, w, "attention.q_lora_rank", m->q_lora_rank);
    cv__int(p, w, "attention.kv_lora_rank", R);
    cv__int(p, w, "attention.key_length", old ? N + P : R + P);
    cv__int(p, w, "attention.value_length", old ? V : R);
    if (!old) cv__int(p, w, "attention.key_length_mla", N + P), cv__int(p, w, "attention.value_length_mla", V);
    cv__float(p, w, "attention.layer_norm_rms_epsilon", m->block_norm.eps != 0 ? (double)m->block_norm.eps : 1e-6);
    if (m->temperature_beta > 0) {
        cv__float(p, w, "attention.temperature_scale", (double)m->temperature_beta);
        cv__int(p, w, "attention.temperature_length", m->temperature_period);
    }
    if (!m->index_topk) return;
    cv__int(p, w, "attention.indexer.head_count", m->index_n_heads);
    cv__int(p, w, "attention.indexer.key_length", m->index_head_dim);
    cv__int(p, w, "attention.indexer.top_k", m->index_topk);
    cv__key(full, p, "attention.indexer.types");
    if (p->c->indexers) gguf_put_array(w, full, GGUF_BOOL, p->c->indexers, (size_t)m->num_hidden_layers);
}

/* Layers with a state are those without heads of keys. */
static void cv__put_linear(const convert_plan *p, gguf_writer *w) {
    const mla_config *m = &p->c->config;
    char full[96];
    if (!p->heads) return;
    cv__key(full, p, "attention.head_count_kv");
    gguf_put_array(w, full, GGUF_I32, p->heads, (size_t)m->num_hidden_layers);
    cv__int(p, w, "kda.head_dim", m->linear_head_dim);
    cv__int(p, w, "ssm.conv_kernel", m->linear_conv_kernel_dim ? m->linear_conv_kernel_dim : 4);
    if (!(m->kda_lower_bound < 0)) return;
    cv__float(p, w, "kda.gate_lower_bound", (double)m->kda_lower_bound);
    cv__key(full, p, "kda.safe_gate");
    gguf_put_integer(w, full, GGUF_BOOL, 1);
}

static void cv__put_streams(const convert_plan *p, gguf_writer *w) {
    const mla_config *m = &p->c->config;
    if (!cv__is(p, "hy_v4")) return;
    cv__int(p, w, "hyper_connection.count", m->hc_mult);
    cv__float(p, w, "hyper_connection.epsilon", (double)m->hc_eps);
    cv__float(p, w, "hyper_connection.magnitude", (double)m->hc_magnitude);
    if (m->swiglu_limit > 0) cv__float(p, w, "swiglu_clamp_exp", (double)m->swiglu_limit);
}

static void cv__put_experts(const convert_plan *p, gguf_writer *w) {
    const mla_config *m = &p->c->config;
    const int L = m->num_hidden_layers;
    char full[96];
    int dense = 0;
    while (dense < L && !p->c->layers[dense].moe.experts) dense++;
    cv__int(p, w, "leading_dense_block_count", dense);
    cv__int(p, w, "feed_forward_length", m->intermediate_size ? m->intermediate_size : m->moe_intermediate_size);
    if (!m->n_routed_experts) return;
    cv__int(p, w, "expert_count", m->n_routed_experts);
    cv__int(p, w, "expert_used_count", m->num_experts_per_tok);
    cv__int(p, w, "expert_shared_count", m->n_shared_experts);
    cv__int(p, w, "expert_feed_forward_length", m->moe_intermediate_size);
    cv__float(p, w, "expert_weights_scale", m->routed_scaling_factor != 0 ? (double)m->routed_scaling_factor : 1);
    cv__key(full, p, "expert_weights_norm");
    gguf_put_integer(w, full, GGUF_BOOL, m->norm_topk_prob != 0);
    cv__int(p, w, "expert_gating_func", m->scoring_func == MLA_SCORING_SIGMOID ? 2 : 1);
    cv__int(p, w, "expert_group_count", m->n_group ? m->n_group : 1);
    cv__int(p, w, "expert_group_used_count", m->topk_group ? m->topk_group : 1);
}

void convert_put_config(const convert_plan *p, gguf_writer *w) {
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    const checkpoint *c = p->c;
    const mla_config *m = &c->config;
    const double D = m->hidden_size, L = m->num_hidden_layers;
    gguf_put_text(w, "general.architecture", p->arch);
    cv__int(p, w, "block_count", m->num_hidden_layers + m->num_nextn_predict_layers);
    if (m->num_nextn_predict_layers) cv__int(p, w, "nextn_predict_layers", m->num_nextn_predict_layers);
    cv__int(p, w, "context_length", c->max_position_embeddings);
    cv__int(p, w, "vocab_size", m->vocab_size);
    cv__int(p, w, "embedding_length", m->hidden_size);
    cv__put_attention(p, w);
    cv__put_linear(p, w);
    cv__put_rope(p, w);
    cv__put_experts(p, w);
    cv__put_streams(p, w);
    if (cv__is(p, "minicpm3")) { /* only what is not built into the readers of such files */
        if (!cv__equals(m->embed_scale, 1, 12)) cv__float(p, w, "embedding_scale", (double)m->embed_scale);
        if (!cv__equals(m->residual_scale, 1, (double)1.4f / sqrt(L)))
            cv__float(p, w, "residual_scale", (double)m->residual_scale);
        if (!cv__equals(m->logits_scale, 1, 256 / D)) cv__float(p, w, "logit_scale", (double)m->logits_scale);
    }
    if (c->bos_token_id >= 0) gguf_put_integer(w, "tokenizer.ggml.bos_token_id", GGUF_U32, c->bos_token_id);
    for (int i = 0; i < c->n_eos && i < 3; i++) gguf_put_integer(w, ends[i], GGUF_U32, c->eos_token_id[i]);
}

/* ---- >>convert-list ---------------------------------------------------------------------------------------------- */
/* All tensors are visited twice: first to count them, then to list them. */

typedef struct cv__list {
    convert_plan *p;
    const int *types;
    int listing; /* 0: only count */
    mla_result rc;
    mla_error *err;
} cv__list;

/* What t can become if type is asked for. */
static mla_dtype cv__type(const mla_tensor *t, int type, int transposed, int64_t cols) {
    const int scaled = t->dtype == MLA_E4M3 || t->dtype == MLA_I8;
    if (type == CONVERT_KEEP && (scaled || (transposed && mla_dtype_block(t->dtype) > 1))) type = MLA_BF16;
    if (type == CONVERT_KEEP) type = (int)t->dtype;
    if (cols % mla_dtype_block((mla_dtype)type) == 0) return (mla_dtype)type;
    return cols % MLA_GROUP ? MLA_F16 : MLA_Q8;
}

/* layer -1: none. dims a, b, c; those behind the last above 1 are none, but b of a matrix. */
static convert_tensor *cv__add(cv__list *l, int k, int layer, const char *name, const mla_tensor *t, int n_dims,
                               int64_t a, int64_t b, int64_t c) {
    convert_plan *p = l->p;
    const int plain = k == CHECKPOINT_CLASS_COUNT, transposed = t->cols != a;
    convert_tensor *to = l->listing ? &p->tensors[p->n] : NULL;
    if (l->rc || !t->data) return NULL;
    p->n++;
    if (!to) return NULL;
    if (layer >= 0) snprintf(to->name, sizeof to->name, "blk.%d.%s", layer, name);
    else snprintf(to->name, sizeof to->name, "%s", name);
    to->k = k;
    to->dtype = plain ? MLA_F32 : cv__type(t, l->types[k], transposed, a);
    to->fallback = !plain && l->types[k] != CONVERT_KEEP && (int)to->dtype != l->types[k];
    to->n_dims = n_dims;
    to->dims[0] = a, to->dims[1] = b, to->dims[2] = c, to->dims[3] = 1;
    to->rows = b * c;
    to->from = t;
    return to;
}

static convert_tensor *cv__matrix(cv__list *l, int k, int layer, const char *name, const mla_tensor *t) {
    return cv__add(l, k, layer, name, t, 2, t->cols, t->rows, 1);
}
static void cv__vector(cv__list *l, int layer, const char *name, const mla_tensor *t) {
    cv__add(l, CHECKPOINT_CLASS_COUNT, layer, name, t, 1, t->cols, 1, 1);
}
static void cv__router(cv__list *l, int layer, const char *name, const mla_tensor *t) {
    cv__matrix(l, CHECKPOINT_CLASS_COUNT, layer, name, t);
}

/* A matrix with rows that are turned, the last of each head. */
static void cv__turned(cv__list *l, int layer, const char *name, const mla_tensor *t, int head) {
    const mla_rope_layout want = cv__is(l->p, "minicpm3") ? MLA_ROPE_HALF : MLA_ROPE_PAIR;
    convert_tensor *to = cv__matrix(l, CHECKPOINT_ATTN, layer, name, t);
    const mla_rope_layout is = l->p->c->config.rope.layout;
    if (to && is != want && is != MLA_ROPE_NONE) to->head = head;
}

static void cv__mlp(cv__list *l, int k, int layer, const char *form, const mla_mlp_weights *w, int64_t E) {
    static const char *const parts[] = {"gate", "up", "down"};
    const mla_tensor *t[] = {&w->gate.weight, &w->up.weight, &w->down.weight};
    char name[48];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, form, parts[i]);
        convert_tensor *to =
            E ? cv__add(l, k, layer, name, t[i], 3, t[i]->cols, t[i]->rows, E) : cv__matrix(l, k, layer, name, t[i]);
        if (!to || !E) continue;
        to->kind = CONVERT_EXPERTS;
        for (int64_t e = 1; e < E && l->types[k] == CONVERT_KEEP; e++) {
            const mla_tensor *other = (const mla_tensor *)(const void *)((const char *)t[i] + (size_t)e * sizeof *w);
            if (other->dtype != t[i]->dtype && !l->rc)
                l->rc = ck__fail(l->err, MLA_ERR_UNSUPPORTED, "%s: experts of several types cannot be kept", to->name);
        }
    }
}

static void cv__attention(cv__list *l, int i, const mla_attn_weights *a) {
    const mla_config *m = &l->p->c->config;
    const int H = m->num_attention_heads, N = m->qk_nope_head_dim, V = m->v_head_dim, R = m->kv_lora_rank,
              P = m->qk_rope_head_dim, whole = a->kv_b.weight.data != NULL;
    cv__turned(l, i, "attn_q.weight", &a->q.weight, N + P);
    cv__matrix(l, CHECKPOINT_ATTN, i, "attn_q_a.weight", &a->q_a.weight);
    cv__vector(l, i, "attn_q_a_norm.weight", &a->q_norm.weight);
    cv__turned(l, i, "attn_q_b.weight", &a->q_b.weight, N + P);
    cv__turned(l, i, "attn_kv_a_mqa.weight", &a->kv_a.weight, R + P);
    cv__vector(l, i, "attn_kv_a_norm.weight", &a->kv_norm.weight);
    convert_tensor *k =
        cv__add(l, CHECKPOINT_KV_B, i, "attn_k_b.weight", whole ? &a->kv_b.weight : &a->k_b, 3, N, R, H);
    if (k && whole) k->kind = CONVERT_K_B, k->dtype = cv__type(k->from, l->types[CHECKPOINT_KV_B], 1, N);
    convert_tensor *v =
        cv__add(l, CHECKPOINT_KV_B, i, "attn_v_b.weight", whole ? &a->kv_b.weight : &a->v_b, 3, R, V, H);
    if (v && whole) v->kind = CONVERT_V_B;
    cv__matrix(l, CHECKPOINT_ATTN, i, "attn_output.weight", &a->o.weight);
    cv__matrix(l, CHECKPOINT_ATTN, i, "attn_gate.weight", &a->gate.weight);
    cv__vector(l, i, "attn_sinks.weight", &a->sinks);
    cv__matrix(l, CHECKPOINT_ATTN, i, "indexer.attn_q_b.weight", &a->indexer.wq_b.weight);
    cv__matrix(l, CHECKPOINT_ATTN, i, "indexer.attn_k.weight", &a->indexer.wk.weight);
    cv__vector(l, i, "indexer.k_norm.weight", &a->indexer.k_norm.weight);
    cv__vector(l, i, "indexer.k_norm.bias", &a->indexer.k_norm.bias);
    cv__router(l, i, "indexer.proj.weight", &a->indexer.weights_proj);
}

/* A matrix that stays as it is, as quantize.h leaves it. */
static void cv__small(cv__list *l, int i, const char *name, const mla_tensor *t) {
    convert_tensor *to = cv__matrix(l, CHECKPOINT_ATTN, i, name, t);
    if (to) to->dtype = cv__type(t, CONVERT_KEEP, 0, t->cols), to->fallback = 0;
}

static void cv__kda(cv__list *l, int i, const mla_kda_weights *w) {
    const mla_tensor *conv[] = {&w->q_conv, &w->k_conv, &w->v_conv};
    const int plain = CHECKPOINT_CLASS_COUNT;
    char name[32];
    for (int j = 0; j < 3; j++) {
        snprintf(name, sizeof name, "ssm_conv1d_%c.weight", "qkv"[j]);
        cv__add(l, plain, i, name, conv[j], 3, conv[j]->cols, 1, conv[j]->rows);
    }
    cv__matrix(l, CHECKPOINT_ATTN, i, "attn_q.weight", &w->q.weight);
    cv__matrix(l, CHECKPOINT_ATTN, i, "attn_k.weight", &w->k.weight);
    cv__matrix(l, CHECKPOINT_ATTN, i, "attn_v.weight", &w->v.weight);
    cv__matrix(l, CHECKPOINT_ATTN, i, "ssm_f_a.weight", w->f_a.weight.data ? &w->f_a.weight : &w->f_b.weight);
    cv__matrix(l, CHECKPOINT_ATTN, i, "ssm_g_a.weight", w->g_a.weight.data ? &w->g_a.weight : &w->g_b.weight);
    if (w->f_a.weight.data) cv__small(l, i, "ssm_f_b.weight", &w->f_b.weight);
    if (w->g_a.weight.data) cv__small(l, i, "ssm_g_b.weight", &w->g_b.weight);
    convert_tensor *a = cv__add(l, plain, i, "ssm_a", &w->a_log, 2, 1, w->a_log.cols, 1);
    if (a) a->kind = CONVERT_DECAY;
    cv__vector(l, i, "ssm_dt.bias", &w->dt_bias);
    cv__small(l, i, "ssm_beta.weight", &w->b.weight);
    cv__vector(l, i, "ssm_norm.weight", &w->norm);
    cv__matrix(l, CHECKPOINT_ATTN, i, "attn_output.weight", &w->o.weight);
}

static void cv__hc(cv__list *l, int i, const char *form, const mla_hc_weights *w) {
    static const char *const parts[] = {"fn", "base", "scale"};
    const mla_tensor *t[] = {&w->fn, &w->base, &w->scale};
    char name[48];
    for (int k = 0; k < 3; k++) {
        snprintf(name, sizeof name, form, parts[k]);
        if (k) cv__vector(l, i, name, t[k]);
        else cv__router(l, i, name, t[k]);
    }
}

static void cv__visit(cv__list *l) {
    const checkpoint *c = l->p->c;
    const mla_config *m = &c->config;
    const int tied = !c->weights.head.data && l->types[CHECKPOINT_HEAD] == l->types[CHECKPOINT_EMBED];
    l->p->n = 0;
    cv__matrix(l, CHECKPOINT_EMBED, -1, "token_embd.weight", &c->weights.embed);
    cv__vector(l, -1, "output_norm.weight", &c->weights.norm.weight);
    cv__hc(l, -1, "output_hc_%s.weight", &c->weights.hc_head);
    if (!tied)
        cv__matrix(l, CHECKPOINT_HEAD, -1, "output.weight",
                   c->weights.head.data ? &c->weights.head : &c->weights.embed);
    for (int i = 0; i < m->num_hidden_layers + m->num_nextn_predict_layers; i++) {
        const mla_layer_weights *w = &c->layers[i];
        cv__vector(l, i, "attn_norm.weight", &w->attn_norm.weight);
        if (w->kda.q.weight.data) cv__kda(l, i, &w->kda);
        else cv__attention(l, i, &w->attn);
        cv__hc(l, i, "hc_attn_%s.weight", &w->attn_hc);
        cv__hc(l, i, "hc_ffn_%s.weight", &w->ffn_hc);
        cv__vector(l, i, "ffn_norm.weight", &w->ffn_norm.weight);
        cv__mlp(l, CHECKPOINT_DENSE, i, "ffn_%s.weight", &w->mlp, 0);
        if (w->moe.experts) {
            cv__router(l, i, "ffn_gate_inp.weight", &w->moe.router);
            cv__vector(l, i, "exp_probs_b.bias", &w->moe.router_bias);
            cv__mlp(l, CHECKPOINT_EXPERTS, i, "ffn_%s_exps.weight", w->moe.experts, m->n_routed_experts);
            cv__mlp(l, CHECKPOINT_SHARED, i, "ffn_%s_shexp.weight", &w->moe.shared, 0);
        }
        if (i < m->num_hidden_layers) continue;
        const mla_mtp_weights *x = &c->mtp[i - m->num_hidden_layers];
        cv__matrix(l, CHECKPOINT_DENSE, i, "nextn.eh_proj.weight", &x->eh_proj.weight);
        cv__vector(l, i, "nextn.enorm.weight", &x->enorm.weight);
        cv__vector(l, i, "nextn.hnorm.weight", &x->hnorm.weight);
        cv__matrix(l, CHECKPOINT_EMBED, i, "nextn.embed_tokens.weight", &x->embed);
        cv__matrix(l, CHECKPOINT_HEAD, i, "nextn.shared_head_head.weight", &x->head);
        cv__vector(l, i, "nextn.shared_head_norm.weight", &x->norm.weight);
    }
}

/* longrope's factors, which are no tensors of the checkpoint: they get views at the end of the list's memory. */
static void cv__factors(cv__list *l, mla_tensor *views) {
    const mla_config *m = &l->p->c->config;
    if (m->rope.scaling != MLA_ROPE_LONGROPE) return;
    for (int i = 0; i < 2; i++) {
        views[i] = mla_view(i ? m->rope.long_factor : m->rope.short_factor, MLA_F32, 1, m->qk_rope_head_dim / 2);
        cv__vector(l, -1, i ? "rope_factors_long.weight" : "rope_factors_short.weight", &views[i]);
    }
}

static mla_result cv__check(convert_plan *p, const int *types, mla_error *err) {
    for (size_t i = 0; i < sizeof cv__archs / sizeof *cv__archs; i++)
        if (!strcmp(p->c->model_type, cv__archs[i].model_type)) p->arch = cv__archs[i].arch;
    if (!p->arch)
        return ck__fail(err, MLA_ERR_UNSUPPORTED, "%s: no architecture of GGUF that is known here is such a model",
                        p->c->model_type);
    for (int k = 0; k < CHECKPOINT_CLASS_COUNT; k++)
        if (types[k] != CONVERT_KEEP && types[k] != MLA_F32 && types[k] != MLA_F16 && types[k] != MLA_BF16 &&
            types[k] != MLA_Q8 && types[k] != MLA_Q4 && types[k] != MLA_Q4_K && types[k] != MLA_Q5_K &&
            types[k] != MLA_Q6_K && types[k] != MLA_IQ4_NL)
            return ck__fail(err, MLA_ERR_ARGUMENT, "convert_begin: %d is no type for %s", types[k],
                            checkpoint_class_name((checkpoint_class)k));
    const char *wrong = cv__check_model(p);
    return wrong ? cv__cannot(p, wrong, err) : MLA_OK;
}

static mla_result cv__heads(convert_plan *p, mla_error *err) {
    const int L = p->c->config.num_hidden_layers;
    p->heads = (int32_t *)calloc((size_t)L, sizeof *p->heads);
    if (!p->heads) return ck__no_memory(err, "convert_begin");
    for (int i = 0; i < L; i++) p->heads[i] = !p->c->recurrent[i];
    return MLA_OK;
}

mla_result convert_begin(convert_plan **out, const checkpoint *c, const int *types, mla_error *err) {
    cv__list l;
    convert_plan *p;
    if (out) *out = NULL;
    if (!out || !c || !types) return ck__fail(err, MLA_ERR_ARGUMENT, "convert_begin: out, c or types is NULL");
    memset(&l, 0, sizeof l);
    p = (convert_plan *)calloc(1, sizeof *p);
    if (!p) return ck__no_memory(err, "convert_begin");
    p->c = c;
    for (int i = 0; i < 256; i++) p->e4m3[i] = mla_e4m3_to_f32((uint8_t)i);
    l.p = p;
    l.types = types;
    l.err = err;
    l.rc = cv__check(p, types, err);
    if (!l.rc && c->recurrent) l.rc = cv__heads(p, err);
    if (!l.rc) {
        cv__visit(&l);
        /* two more, and two views behind them */
        p->tensors = (convert_tensor *)calloc(p->n + 4, sizeof *p->tensors);
        if (!p->tensors) l.rc = ck__no_memory(err, "convert_begin");
    }
    if (!l.rc) {
        mla_tensor *views = (mla_tensor *)(void *)(p->tensors + p->n + 2);
        l.listing = 1;
        cv__visit(&l);
        cv__factors(&l, views);
    }
    if (l.rc) convert_end(p);
    else *out = p;
    return l.rc;
}

void convert_end(convert_plan *p) {
    if (!p) return;
    free(p->tensors);
    free(p->heads);
    free(p);
}

/* ---- >>convert-rows ---------------------------------------------------------------------------------------------- */

/* Which row of which tensor of the checkpoint is row i of t. */
static const mla_tensor *cv__source(const convert_plan *p, const convert_tensor *t, int64_t i, int *row) {
    const mla_config *m = &p->c->config;
    const int N = m->qk_nope_head_dim, V = m->v_head_dim, P = m->qk_rope_head_dim;
    const mla_tensor *from = t->from;
    if (t->kind == CONVERT_EXPERTS) {
        from =
            (const mla_tensor *)(const void *)((const char *)from + (size_t)(i / t->dims[1]) * sizeof(mla_mlp_weights));
        i %= t->dims[1];
    } else if (t->kind == CONVERT_V_B) i = i / V * (N + V) + N + i % V;
    const int64_t at = t->head ? i % t->head - (t->head - P) : -1; /* among those of a head that are turned */
    if (at >= 0 && m->rope.layout == MLA_ROPE_HALF) i += at / 2 + at % 2 * (P / 2) - at;
    else if (at >= 0) i += (at < P / 2 ? 2 * at : 2 * at - P + 1) - at;
    *row = (int)i;
    return from;
}

/* x [n] = row i of t from column col on. */
static void cv__widen(const convert_plan *p, const convert_tensor *t, int64_t i, int col, int n, float *x) {
    const mla_config *m = &p->c->config;
    const int N = m->qk_nope_head_dim, V = m->v_head_dim, R = m->kv_lora_rank;
    int row;
    if (t->kind == CONVERT_DECAY) {
        x[0] = expf(mla_weight(t->from, 0, (int)i)) * (cv__is(p, "kimi-linear") ? -1.0f : 1.0f);
        return;
    }
    if (t->kind == CONVERT_K_B) {
        for (int j = 0; j < n; j++) x[j] = mla_weight(t->from, (int)(i / R) * (N + V) + col + j, (int)(i % R));
        return;
    }
    const mla_tensor *from = cv__source(p, t, i, &row);
    if (from->dtype == MLA_E4M3 || from->dtype == MLA_I8) ckq__widen(x, from, p->e4m3, row, col, n);
    else
        mla_widen(x, from->dtype,
                  (const char *)from->data + ckq__bytes(from, row) + mla_dtype_bytes(from->dtype, (size_t)col),
                  (size_t)n);
}

/* Pages of a mapped file, after rows first to last of one tensor have been read. */
static void cv__give_back(const convert_plan *p, const convert_tensor *t, int64_t first, int64_t last) {
    int from = 0, to = 0;
    if (t->kind == CONVERT_K_B || t->k == CHECKPOINT_CLASS_COUNT || t->head || last < first || p->c->memory) return;
    const mla_tensor *a = cv__source(p, t, first, &from), *b = cv__source(p, t, last, &to);
    if (a == b) ckq__give_back(p->c, a, from, to + 1);
}

void convert_rows(const convert_plan *p, const convert_tensor *t, int64_t first, int64_t count, void *out) {
    const int cols = (int)t->dims[0], made = t->kind == CONVERT_K_B || t->kind == CONVERT_DECAY;
    const size_t row_bytes = mla_dtype_bytes(t->dtype, (size_t)cols);
    unsigned char *to = (unsigned char *)out;
    float x[CKQ__PIECE];
    int row;
    for (int64_t i = first; i < first + count; i++, to += row_bytes) {
        const mla_tensor *from = made ? t->from : cv__source(p, t, i, &row);
        if (!made && from->dtype == t->dtype) { /* never with scales: such a dtype is not written */
            memcpy(to, (const char *)from->data + ckq__bytes(from, row), row_bytes);
        } else {
            for (int col = 0, n; col < cols; col += n) {
                n = cols - col < CKQ__PIECE ? cols - col : CKQ__PIECE;
                cv__widen(p, t, i, col, n, x);
                mla_quantize(t->dtype, to + mla_dtype_bytes(t->dtype, (size_t)col), x, (size_t)n, NULL);
            }
        }
    }
    cv__give_back(p, t, first, first + count - 1);
}

/* ---- >>convert-tokenizer ----------------------------------------------------------------------------------------- */

typedef struct cv__token {
    const char *text;
    size_t length;
    int32_t type;
} cv__token;

enum { CV__NORMAL = 1, CV__UNKNOWN, CV__CONTROL, CV__USER_DEFINED, CV__UNUSED, CV__BYTE }; /* token_type */

/* What the patterns of a pre-tokenizer must have for a name; the first that fits. They are told apart by what only one
   has: kana, letters of Chinese, Korean or Bopomofo, classes. */
static const struct cv__pre {
    const char *part, *name;
} cv__pres[] = {
    {"\\p{Han}", "kimi-k2"},
    {"\xe3\x84\x85-", "youtu"},                                 /* Bopomofo */
    {"[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-", "deepseek-v3"}, /* Han and kana */
    {"A-Za-z\xc2\xb5", "deepseek-llm"},
    {"[\xe4\xb8\x80-\xe9\xbe\xa5\xe0\xa0\x80-", "deepseek-coder"},
    {"[\\r\\n/]*", "tekken"},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ", "glm4"},
    {"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| ",
     "bailingmoe2"}, /* means what glm4's does, of one digit */
};

static int cv__has_pattern(const json_value *pre, const char *part) {
    const json_value *list = json_get(pre, "pretokenizers");
    const char *regex = json_string(json_get(json_get(pre, "pattern"), "Regex"), NULL);
    if (regex && strstr(regex, part)) return 1;
    for (size_t i = 0; i < json_count(list); i++)
        if (json_typeof(json_at(list, i)) == JSON_OBJECT && !json_get(json_at(list, i), "pretokenizers") &&
            cv__has_pattern(json_at(list, i), part))
            return 1;
    return 0;
}

static const char *cv__pre_of(const json_value *pre) {
    for (size_t i = 0; i < sizeof cv__pres / sizeof *cv__pres; i++)
        if (cv__has_pattern(pre, cv__pres[i].part)) return cv__pres[i].name;
    return NULL;
}

/* Written as <|...|> or with the wide bars of DeepSeek's: special, though some files do not mark it so. */
static int cv__looks_special(const char *s, size_t n) {
    static const char wide[] = "\xef\xbd\x9c";
    return (n > 4 && !strncmp(s, "<|", 2) && !strncmp(s + n - 2, "|>", 2)) ||
           (n > 8 && s[0] == '<' && !strncmp(s + 1, wide, 3) && !strncmp(s + n - 4, wide, 3) && s[n - 1] == '>');
}

static mla_result cv__token_at(cv__token *tokens, int n, const json_value *id, const char *text, size_t length,
                               int32_t type, mla_error *err) {
    int64_t at;
    if (!text || !json_integer(id, &at) || at < 0)
        return ck__fail(err, MLA_ERR_CONFIG, "tokenizer.json: token \"%.60s\" has no id", text ? text : "");
    if (at >= n)
        return ck__fail(err, MLA_ERR_CONFIG, "tokenizer.json: token \"%.60s\" has id %lld, but vocab_size is %d", text,
                        (long long)at, n);
    tokens[at].text = text;
    tokens[at].length = length;
    tokens[at].type = type;
    return MLA_OK;
}

static mla_result cv__read_tokens(cv__token *tokens, int n, const json_value *file, mla_error *err) {
    const json_value *vocab = json_get(json_get(file, "model"), "vocab"), *added = json_get(file, "added_tokens");
    mla_result rc = MLA_OK;
    for (size_t i = 0; i < json_count(vocab) && !rc; i++) {
        const json_value *v = json_at(vocab, i);
        rc = cv__token_at(tokens, n, v, json_key(v), json_key(v) ? strlen(json_key(v)) : 0, CV__NORMAL, err);
    }
    for (size_t i = 0; i < json_count(added) && !rc; i++) {
        const json_value *v = json_at(added, i);
        size_t length = 0;
        const char *text = json_string(json_get(v, "content"), &length);
        const int special = json_bool(json_get(v, "special")) || (text && cv__looks_special(text, length));
        rc = cv__token_at(tokens, n, json_get(v, "id"), text, length, special ? CV__CONTROL : CV__USER_DEFINED, err);
    }
    return rc;
}

static mla_result cv__put_tokens(gguf_writer *w, const cv__token *tokens, int n, mla_error *err) {
    int32_t *types = (int32_t *)calloc((size_t)n, sizeof *types);
    char name[32];
    if (!types) return ck__no_memory(err, "tokenizer.json");
    gguf_put_strings(w, "tokenizer.ggml.tokens", (size_t)n);
    for (int i = 0; i < n; i++) {
        snprintf(name, sizeof name, "[PAD%d]", i);
        if (tokens[i].text) gguf_put_string(w, tokens[i].text, tokens[i].length);
        else gguf_put_string(w, name, strlen(name));
        types[i] = tokens[i].text ? tokens[i].type : CV__UNUSED;
    }
    gguf_put_array(w, "tokenizer.ggml.token_type", GGUF_I32, types, (size_t)n);
    free(types);
    return MLA_OK;
}

/* "LEFT RIGHT", or [LEFT, RIGHT]. */
static mla_result cv__put_merges(gguf_writer *w, const json_value *merges, mla_error *err) {
    gguf_put_strings(w, "tokenizer.ggml.merges", json_count(merges));
    for (size_t i = 0; i < json_count(merges); i++) {
        const json_value *v = json_at(merges, i);
        size_t a = 0, b = 0;
        const char *whole = json_string(v, &a);
        if (whole) {
            gguf_put_string(w, whole, a);
            continue;
        }
        const char *left = json_string(json_at(v, 0), &a), *right = json_string(json_at(v, 1), &b);
        char *both = left && right ? (char *)malloc(a + b + 2) : NULL;
        if (!left || !right)
            return ck__fail(err, MLA_ERR_CONFIG, "tokenizer.json: model.merges[%zu] is no pair of texts", i);
        if (!both) return ck__no_memory(err, "tokenizer.json");
        memcpy(both, left, a);
        both[a] = ' ';
        memcpy(both + a + 1, right, b);
        gguf_put_string(w, both, a + b + 1);
        free(both);
    }
    return MLA_OK;
}

/* Does the file itself put a token before a text? */
static int cv__begins_texts(const json_value *post) {
    const json_value *list = json_get(post, "processors");
    if (json_get(json_at(json_get(post, "single"), 0), "SpecialToken")) return 1;
    for (size_t i = 0; i < json_count(list); i++)
        if (json_get(json_at(json_get(json_at(list, i), "single"), 0), "SpecialToken")) return 1;
    return 0;
}

static mla_result cv__put_gpt2(gguf_writer *w, const json_value *file, const char *pre, cv__token *tokens, int n,
                               mla_error *err) {
    if (!pre) pre = cv__pre_of(json_get(file, "pre_tokenizer"));
    if (!pre)
        return ck__fail(
            err, MLA_ERR_UNSUPPORTED,
            "tokenizer.json: the patterns of pre_tokenizer have no name (tokenizer.ggml.pre) that is known");
    mla_result rc = cv__read_tokens(tokens, n, file, err);
    if (rc) return rc;
    gguf_put_text(w, "tokenizer.ggml.model", "gpt2");
    gguf_put_text(w, "tokenizer.ggml.pre", pre);
    rc = cv__put_tokens(w, tokens, n, err);
    return rc ? rc : cv__put_merges(w, json_get(json_get(file, "model"), "merges"), err);
}

/* ---- >>convert-sentencepiece ------------------------------------------------------------------------------------- */
/* SentencePiece scores its pieces: of two neighbours that make a piece, those of the highest score are merged first. A
   tokenizer.json made of such a model lists every way to make a piece as a merge, those of a piece side by side. */

#define CV__GAP "\xe2\x96\x81" /* U+2581, which stands for a space */

typedef struct cv__spaces { /* what normalizer and pre_tokenizer do with them */
    int prepended, replaced;
    const char *note;
} cv__spaces;

static int cv__text_is(const json_value *v, const char *text) {
    const char *s = json_string(v, NULL);
    return s && !strcmp(s, text);
}

/* One of them, or those of a Sequence. */
static mla_result cv__read_spaces(cv__spaces *s, const json_value *v, mla_error *err) {
    const json_value *list = json_get(v, "normalizers"), *pattern = json_get(json_get(v, "pattern"), "String");
    const char *type = json_string(json_get(v, "type"), NULL);
    mla_result rc = MLA_OK;
    if (!list) list = json_get(v, "pretokenizers");
    if (list || json_typeof(v) == JSON_NULL) {
        for (size_t i = 0; i < json_count(list) && !rc; i++) rc = cv__read_spaces(s, json_at(list, i), err);
        return rc;
    }
    if (!type) type = "";
    const int metaspace = !strcmp(type, "Metaspace");
    if (!strcmp(type, "Prepend") && cv__text_is(json_get(v, "prepend"), CV__GAP)) s->prepended = 1;
    else if (!strcmp(type, "Replace") && cv__text_is(pattern, " ") && cv__text_is(json_get(v, "content"), CV__GAP))
        s->replaced = 1;
    else if (metaspace && cv__text_is(json_get(v, "replacement"), CV__GAP)) {
        const int never = cv__text_is(json_get(v, "prepend_scheme"), "never"), split = json_bool(json_get(v, "split"));
        s->replaced = 1;
        if (!never) s->prepended = 1;
        if (split || !json_get(v, "split")) s->note = "no token may reach over a space there";
        if (!never)
            s->note = "no space is put before a text that begins with one, or that goes on behind a special token";
    } else if (strcmp(type, "Split") || !cv__text_is(pattern, " ") || !s->replaced) /* there are no spaces any more */
        return ck__fail(err, MLA_ERR_UNSUPPORTED, "tokenizer.json: a \"%.40s\" like this is not in GGUF's llama", type);
    return MLA_OK;
}

/* The rank of a merge, or -1. */
static int cv__rank(const tokenizer *t, int left, int right) {
    size_t low = 0, high;
    const tokenizer_merge *m = tokenizer_merges(t, &high);
    const size_t n = high;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (m[middle].left < left || (m[middle].left == left && m[middle].right < right)) low = middle + 1;
        else high = middle;
    }
    return low < n && m[low].left == left && m[low].right == right ? m[low].rank : -1;
}

/* Any two tokens that make this one are a merge, since scores say nothing of pairs. */
static mla_result cv__check_piece(const tokenizer *t, const char *text, size_t n, mla_error *err) {
    char left[1024];
    if (n >= sizeof left)
        return ck__fail(err, MLA_ERR_UNSUPPORTED, "tokenizer.json: the token \"%.40s...\" has %zu bytes", text, n);
    for (size_t i = 1; i < n; i++) {
        memcpy(left, text, i);
        left[i] = 0;
        const int a = ((unsigned char)text[i] & 0xC0) == 0x80 ? -1 : tokenizer_find(t, left);
        const int b = a < 0 ? -1 : tokenizer_find(t, text + i);
        if (b >= 0 && cv__rank(t, a, b) < 0)
            return ck__fail(err, MLA_ERR_UNSUPPORTED,
                            "tokenizer.json: no merge makes \"%.40s\" of \"%.40s\" and \"%.40s\": GGUF's llama has one",
                            text, left, text + i);
    }
    return MLA_OK;
}

static mla_result cv__put_scores(gguf_writer *w, const tokenizer *t, const cv__token *tokens, int n, mla_error *err) {
    size_t n_merges;
    const tokenizer_merge *m = tokenizer_merges(t, &n_merges);
    float *scores = (float *)malloc(sizeof *scores * (size_t)n);
    mla_result rc = scores ? MLA_OK : ck__no_memory(err, "tokenizer.json");
    for (int id = 0; id < n && !rc; id++) {
        scores[id] = -(float)n_merges;
        if (tokens[id].text) rc = cv__check_piece(t, tokens[id].text, tokens[id].length, err);
    }
    for (size_t i = 0; i < n_merges && !rc; i++) /* of its merges the first */
        if (-(float)m[i].rank > scores[m[i].id]) scores[m[i].id] = -(float)m[i].rank;
    if (!rc) gguf_put_array(w, "tokenizer.ggml.scores", GGUF_F32, scores, (size_t)n);
    free(scores);
    return rc;
}

static mla_result cv__put_pieces(gguf_writer *w, const json_value *file, const tokenizer *t, cv__token *tokens, int n,
                                 mla_error *err) {
    const char *name = json_string(json_get(json_get(file, "model"), "unk_token"), NULL);
    const int unk = name ? tokenizer_find(t, name) : -1;
    char byte[8];
    mla_result rc = cv__read_tokens(tokens, n, file, err);
    for (int i = 0; i < 256 && !rc; i++) {
        snprintf(byte, sizeof byte, "<0x%02X>", (unsigned)i);
        const int id = tokenizer_find(t, byte);
        if (id < 0) rc = ck__fail(err, MLA_ERR_UNSUPPORTED, "tokenizer.json: the token %s is missing", byte);
        else tokens[id].type = CV__BYTE;
    }
    if (rc) return rc;
    if (unk >= 0) tokens[unk].type = CV__UNKNOWN, gguf_put_integer(w, "tokenizer.ggml.unknown_token_id", GGUF_U32, unk);
    rc = cv__put_tokens(w, tokens, n, err);
    return rc ? rc : cv__put_scores(w, t, tokens, n, err);
}

static mla_result cv__put_llama(gguf_writer *w, const json_value *file, cv__token *tokens, int n, const char **note,
                                mla_error *err) {
    tokenizer *t = NULL;
    cv__spaces s = {0, 0, NULL};
    mla_result rc = cv__read_spaces(&s, json_get(file, "normalizer"), err);
    if (!rc) rc = cv__read_spaces(&s, json_get(file, "pre_tokenizer"), err);
    if (!rc && !s.replaced)
        rc = ck__fail(err, MLA_ERR_UNSUPPORTED, "tokenizer.json: with byte_fallback, but spaces stay spaces");
    if (!rc && json_bool(json_get(json_get(file, "model"), "ignore_merges")))
        rc = ck__fail(err, MLA_ERR_UNSUPPORTED, "tokenizer.json: ignore_merges with byte_fallback");
    if (rc) return rc;
    gguf_put_text(w, "tokenizer.ggml.model", "llama");
    gguf_put_text(w, "tokenizer.ggml.pre", "default");
    gguf_put_integer(w, "tokenizer.ggml.add_space_prefix", GGUF_BOOL, s.prepended);
    if (s.note) *note = s.note;
    rc = tokenizer_from_json(&t, file, "tokenizer.json", err);
    if (!rc) rc = cv__put_pieces(w, file, t, tokens, n, err);
    tokenizer_close(t);
    return rc;
}

/* ---- >>convert-tiktoken ------------------------------------------------------------------------------------------ */

static int cv__by_rank(const void *a, const void *b) {
    const tokenizer_merge *x = (const tokenizer_merge *)a, *y = (const tokenizer_merge *)b;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    return x->left < y->left ? -1 : x->left > y->left;
}

static mla_result cv__put_all_merges(gguf_writer *w, const tokenizer *t, mla_error *err) {
    char both[4 * 512 + 2];
    size_t n, a, b;
    const tokenizer_merge *from = tokenizer_merges(t, &n);
    tokenizer_merge *m = (tokenizer_merge *)malloc((n + 1) * sizeof *m);
    if (!m) return ck__no_memory(err, "tiktoken.model");
    if (n) memcpy(m, from, n * sizeof *m);
    qsort(m, n, sizeof *m, cv__by_rank);
    gguf_put_strings(w, "tokenizer.ggml.merges", n);
    for (size_t i = 0; i < n;
         i++) { /* spelled in letters, of which a byte takes two bytes: no token has more than 512 */
        const char *left = tokenizer_spelling(t, m[i].left, &a), *right = tokenizer_spelling(t, m[i].right, &b);
        memcpy(both, left, a);
        both[a] = ' ';
        memcpy(both + a + 1, right, b);
        gguf_put_string(w, both, a + 1 + b);
    }
    free(m);
    return MLA_OK;
}

/* ---- >>convert-tokenizers ---------------------------------------------------------------------------------------- */

static void cv__put_bounds(gguf_writer *w, const json_value *config, int begins) {
    gguf_put_integer(w, "tokenizer.ggml.add_bos_token", GGUF_BOOL,
                     json_bool(json_get(config, "add_bos_token")) || begins);
    gguf_put_integer(w, "tokenizer.ggml.add_eos_token", GGUF_BOOL, json_bool(json_get(config, "add_eos_token")));
}

mla_result convert_put_tiktoken(gguf_writer *w, const tokenizer *t, const json_value *config, const checkpoint *c,
                                mla_error *err) {
    const int size = tokenizer_size(t), n = c->config.vocab_size;
    if (size > n)
        return ck__fail(err, MLA_ERR_CONFIG, "tiktoken.model: it has ids up to %d, but vocab_size is %d", size - 1, n);
    cv__token *tokens = (cv__token *)calloc((size_t)n + 1, sizeof *tokens);
    if (!tokens) return ck__no_memory(err, "tiktoken.model");
    for (int id = 0; id < size; id++) {
        cv__token *to = &tokens[id];
        to->text = tokenizer_spelling(t, id, &to->length);
        to->type = CV__NORMAL;
        if (tokenizer_is_added(t, id))
            to->type =
                tokenizer_is_special(t, id) || cv__looks_special(to->text, to->length) ? CV__CONTROL : CV__USER_DEFINED;
    }
    gguf_put_text(w, "tokenizer.ggml.model", "gpt2");
    gguf_put_text(w, "tokenizer.ggml.pre", "kimi-k2");
    mla_result rc = cv__put_tokens(w, tokens, n, err);
    free(tokens);
    if (!rc) rc = cv__put_all_merges(w, t, err);
    if (!rc) cv__put_bounds(w, config, 0);
    return rc;
}

/* 1: there is a step in a normalizer. */
static int cv__normalizes(const json_value *v) {
    const json_value *list = json_get(v, "normalizers");
    for (size_t i = 0; i < json_count(list); i++)
        if (cv__normalizes(json_at(list, i))) return 1;
    return !list && json_typeof(v) == JSON_OBJECT;
}

static const char *cv__lost(const json_value *file, int llama) {
    const json_value *added = json_get(file, "added_tokens");
    const int normalizes = cv__normalizes(json_get(file, "normalizer"));
    for (size_t i = 0; i < json_count(added); i++) {
        const json_value *v = json_at(added, i);
        if (json_bool(json_get(v, "lstrip")) || json_bool(json_get(v, "rstrip")))
            return "an added token takes the spaces beside it along (lstrip, rstrip)";
        if (normalizes && json_bool(json_get(v, "normalized"))) return "added tokens are found in normalized text";
    }
    return normalizes && !llama ? "a normalizer changes texts" : NULL;
}

mla_result convert_put_tokenizer(gguf_writer *w, const json_value *file, const json_value *config, const char *pre,
                                 const checkpoint *c, const char **note, mla_error *err) {
    const json_value *model = json_get(file, "model");
    const char *type = json_string(json_get(model, "type"), NULL), *lost = NULL;
    const int n = c->config.vocab_size, llama = json_bool(json_get(model, "byte_fallback"));
    if (note) *note = NULL;
    if (!type || strcmp(type, "BPE"))
        return ck__fail(err, MLA_ERR_UNSUPPORTED, "tokenizer.json: model.type \"%.40s\" is not supported (BPE is)",
                        type ? type : "");
    cv__token *tokens = (cv__token *)calloc((size_t)n + 1, sizeof *tokens);
    if (!tokens) return ck__no_memory(err, "tokenizer.json");
    mla_result rc = llama ? cv__put_llama(w, file, tokens, n, &lost, err) : cv__put_gpt2(w, file, pre, tokens, n, err);
    free(tokens);
    if (rc) return rc;
    cv__put_bounds(w, config, cv__begins_texts(json_get(file, "post_processor")));
    if (!lost) lost = cv__lost(file, llama);
    if (note) *note = lost;
    return MLA_OK;
}

int convert_put_template(gguf_writer *w, const json_value *config) {
    const json_value *t = json_get(config, "chat_template");
    const char *text = json_string(t, NULL);
    int found = text != NULL;
    char key[96];
    if (text) gguf_put_text(w, "tokenizer.chat_template", text);
    for (size_t i = 0; !text && i < json_count(t); i++) {
        const char *name = json_string(json_get(json_at(t, i), "name"), NULL);
        const char *one = json_string(json_get(json_at(t, i), "template"), NULL);
        if (!name || !one) continue;
        found = 1;
        if (strcmp(name, "default")) snprintf(key, sizeof key, "tokenizer.chat_template.%.60s", name);
        else snprintf(key, sizeof key, "tokenizer.chat_template");
        gguf_put_text(w, key, one);
    }
    return found;
}

#endif /* CHECKPOINT_IMPLEMENTATION */
