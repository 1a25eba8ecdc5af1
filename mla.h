/* mla.h - Multi-head Latent Attention, DeepSeekMoE and the decoder around them, for CPUs, in one C99 header.

USE
   In exactly one file:      #define MLA_IMPLEMENTATION
                             #include "mla.h"
   In all others:            #include "mla.h"
   Build:                    cc -O2 app.c -lm            (add -fopenmp for threads, or give your own: >>threads)
   No other flag is needed: the kernels of every instruction set are compiled in and chosen when a context is made.

QUICK START    a model from weights that lie in memory, one prompt, the logits of the next token
   mla_config config;   memset(&config, 0, sizeof config);      (zero means default; fill in the sizes)
   mla_weights weights; memset(&weights, 0, sizeof weights);    (views of your memory, nothing is copied)
   mla_model_create(&model, &config, &weights, NULL, &error);
   mla_context_create(&context, model, NULL, &error);
   mla_cache_create(&cache, model, &(mla_cache_desc){.capacity = 4096}, &error);
   mla_sequence prompt = {.cache = cache, .n_tokens = 3, .n_logits = 1};
   mla_outputs out = {.logits = logits};
   mla_model_forward(context, &prompt, 1, (int[]){11, 22, 33}, &out);
   examples/checkpoint.h fills config and weights from a Hugging Face directory; examples/minimal.c runs one layer.

LETTERS        T tokens, D hidden_size, H num_attention_heads, R kv_lora_rank, Q q_lora_rank, N qk_nope_head_dim,
               P qk_rope_head_dim, V v_head_dim, E n_routed_experts, Z zero_expert_num, K num_experts_per_tok,
               I moe_intermediate_size, Hi index_n_heads, d index_head_dim, Hl linear_num_heads, C linear_head_dim
LOCALS         one letter, one meaning, from >>parallel on
   c context   f config   m model   w weights of a layer or a part of it   s a part's scratch, or a sequence
   a what the work of a parallel region is given   b block of queries   l lanes of a panel   j job
   t token, i anything else   h head   u key   e expert   p panel or piece   r result; row of a result
   n how many   t0, t1 and the like: from, to (not included)   d desc; channels of an index key   k a key
   x, y rows in and rows out, xn normed   q, kva, o as in MATHS; qa, ol absorbed   ldx floats from row to row of x
   my scratch or share of one worker   batch sequences of a call   walk, visit see >>walk   worker its number

   All matrices are row-major [out, in], as PyTorch keeps them: W [n,k] @ x [k] -> y [n].

MATHS          (DeepSeek-V2, arXiv 2405.04434; DeepSeek-V3, arXiv 2412.19437; DeepSeek-V3.2, arXiv 2512.02556)
   attention   c_q = norm(Wqa x); q = Wqb c_q  (or q = Wq x);  [c, kr] = Wkva x;  c = norm(c)
               cached: [c, rope(kr)]
               [k_h, v_h] = Wkvb_h c;  s(t,u) = scale * (qn.k_h(u) + rope(qr).kr(u))
               out = Wo concat_h(softmax(s) v_h)
   absorbed    qa_h = Wk_h^T qn_h;  s(t,u) = scale * (qa_h.c(u) + qr.kr(u));  o_h = Wv_h (softmax(s) c)
               the same function
   sparse      a token attends to the index_topk keys u of highest I(t,u) = sum_h w_h(x_t) relu(q_h(c_q).k(u)),
               all heads to the same
   delta       q, k, v = silu(conv(Wq x)), silu(conv(Wk x)), silu(conv(Wv x)); q = q/|q| C^-1/2; k = k/|k|, a head
               g = -exp(A) softplus(Wf x + bf); beta = sig(Wb x)
               S = diag(exp(g)) S; S += k beta (v - S^T k)^T; o = S^T q;  y = Wo (norm(o) * sig(Wz x))
               (Kimi Delta Attention, arXiv 2510.26692: a state S [C, C] a head in place of keys and values)
   gates       o_h *= sigmoid(Wg x)  (or sigmoid of further rows of q);  norm(x) *= sigmoid(Wu silu(Wd norm(x)))
   sinks       softmax(s) = e^s / (e^sink_h + sum e^s)
   experts     y = sum_{e in top-K} w_e down_e(silu(gate_e x) * up_e x) + shared(x)
   block       x += attn(norm1 x);  x += ffn(norm2 x);   logits = head(norm(x))
   n-grams     x = (E(t) + sum_i P_i T_i(hash_i of the last tokens)) / (1 + tables)    (mla_ngram_weights)
   streams     x = sum_j pre_j X_j;  X_j += post_j attn(norm1 x);  the same for ffn; at the end x alone (mla_hc_weights)
   shortcut    x += attn(norm1 x);  h = norm2 x;  m = experts(h);  x += mlp(h);  the next block;  x += m
               (a layer with mlp and moe)
   ahead       x = Weh [norm_e E(t_{i+1}); norm_h h_i];  y = norm(block(x));  logits of t_{i+2} = head(y)
               (multi-token prediction)

CONTENTS       search for the anchor
   the API     >>results >>dtypes >>config >>weights >>model >>threads >>isa >>cache >>forward
   the rest    >>stop-here >>reference >>platform >>numbers >>formats >>cpu >>vocabulary >>table >>integer >>fp8
               >>template >>bf16 >>quantize >>memory >>presets >>config-check >>weights-check >>model-object
               >>cache-object >>parallel >>shard >>linear >>norm >>rope >>call >>sparse >>walk >>attention >>kda
               >>mixer >>moe >>block >>mtp >>context >>licence

MEMORY         Every object is made either by X_create (allocator hook, default malloc) or in memory of yours: X_size,
               then X_init. Weights are used where they lie and are read-only. A forward call never allocates.
ERRORS         Every entry point returns an mla_result and leaves a message that names the field or tensor at fault.
               A failed call leaves its caches as they were. Nothing here prints, exits, aborts or does I/O.
DETERMINISM    Output is bit-identical for any number of threads, any thread pool and any team; with
               mla_context_desc.invariant also whatever else is in a call. Different ISAs, paths and ways of cutting a
               prompt into calls agree to rounding.
ARITHMETIC     Little-endian, and floats rounded as floats: -ffast-math, its parts, and x87 are errors of compilation
               (x86 of 32 bits: -msse2 -mfpmath=sse). clang does not say that it was given -funsafe-math-optimizations,
               -fassociative-math or -freciprocal-math: do not. No context is made where rounding has come to harm.
SHARING        One model may be used by any number of contexts at once; a context, and a cache (with all caches of its
               pool), by one call at a time. There is no global state, but for what the CPU said when first asked.

PROMISES       Sources that use 0.N may need changes for 0.N+1, which are listed here, but none for another 0.N.P; there
               is no binary compatibility, and numbers may come out rounded otherwise. Saved caches are read by every
               later version, or refused by name.
FAILURE        Whatever failed, all objects may be used as before and be destroyed: a call may be tried again, or
               another be made. Caches and pools are as before, outputs perhaps written in part; what could not be made
               need not be destroyed. What no call can see it does not refuse: arrays that are too small, memory that
               has gone, objects that two threads use at once.
FORK           A child of fork() may use its copies of all objects, if none was in use at that moment. The parent's
               threads are not there: contexts whose run needs these, as with OpenMP, are of no use to it, but others
               are, such as one with threads 1.
STACK          A task takes at most MLA_STACK bytes; calls take no more of the caller's stack.

CHANGES
   0.2.0       mla_pool_create, _size and _init take an mla_pool_desc. MLA_VERSION_NUMBER. The header may stand behind
               windows.h and complex.h, and under another name. A model without rotation needs no factors of longrope.
               Blocks of GGUF (Q4_1 .. NVFP4) and I8 for any matrix, scales of blocks of any size, mla_widen,
               mla_weight, mla_dtype_block. mla_tensor.layout in place of the dtypes Q8X16 and Q4X16, served by f32
               activations, too. mla_activations in place of exact, fp8_activations and of instruction sets that round.
               MLA_REFERENCE. mla_context_desc has invariant, and team, wait, wake: a forward call is one run, which
               OpenMP has by itself; and stats: where the time of calls goes. mla_attn_weights has k_b and v_b, which
               may take the place of kv_b. mla_layer_weights has attn_out_norm. MLA_ISA_AUTO takes AMX, with which
               MLA_ACT_AUTO means bf16 for blocks and many tokens.
               mla_sequence.n_logits in place of mla_outputs.all_logits: without it no logits are written.
               mla_layers_forward, mla_cache_extend, mla_sequence.embeddings. mla_outputs has expert_index and
               expert_weight. mla_context_desc.watch ends calls, with MLA_ERR_ABORTED. mla_stats has phases.
               mla_error.sequence, mla_pool_pages_needed. mla_cache_save, mla_cache_load.
               mla_norm_forward. MLA_STACK. mla_context_desc.shard: several contexts share a model's work.
               MLA_ISA_SIMD128. MLA_NO_SCALAR. MLA_SMALL.
               mla_kda_weights: layers with a state. mla_cache_desc and mla_pool_desc have state_dtype and snapshots;
               mla_cache_cut, mla_cache_snapshot, mla_cache_snapshots, mla_cache_forget, mla_cache_read_state.
               Gates and sinks of attention, norms with gates: mla_attn_weights has gate and sinks, mla_norm_weights
               gate_down and gate_up, mla_config q_gate, q_twice and norm_gate_rank. MLA_TOPK_NOAUX_ZERO.
               Several residual streams: hc_mult, hc_eps, hc_magnitude, mla_hc_weights, mla_hc_forward. swiglu_limit.
               index_rope_last, index_norm_eps. N-gram embeddings: emb_neighbor_num, emb_split_num, mla_ngram_weights.
   0.1.0       the first version */

#ifndef MLA_H
#define MLA_H

#include <stddef.h>
#include <stdint.h>

#define MLA_VERSION "0.2.0"

#define MLA_VERSION_NUMBER 200 /* 10000 * major + 100 * minor + patch; MLA__TEMPLATE_VERSION is the same */

#ifndef MLA_API
#define MLA_API extern /* define as `static` for a private copy */
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- >>results --------------------------------------------------------------------------------------------------- */

#define MLA_RESULTS(X)                                                                                                 \
    X(MLA_OK, "ok")                                                                                                    \
    X(MLA_ERR_ARGUMENT, "bad argument")     /* a null pointer, a negative count, a token or layer out of range */      \
    X(MLA_ERR_CONFIG, "bad config")         /* a field of mla_config that no model can have */                         \
    X(MLA_ERR_WEIGHTS, "bad weights")       /* a tensor missing, misshapen or of a dtype that cannot stand there */    \
    X(MLA_ERR_MEMORY, "out of memory")      /* the allocator gave nothing, or the memory given is too small */         \
    X(MLA_ERR_FULL, "cache full")           /* capacity or pool exhausted; nothing was appended */                     \
    X(MLA_ERR_UNSUPPORTED, "not supported") /* this CPU or this build cannot do what was asked */                      \
    X(MLA_ERR_ABORTED, "aborted")           /* watch or a hook of mla_context_desc.shard ended the call */             \
    X(MLA_ERR_DATA, "bad data")             /* a saved cache that is damaged, cut off or of another model */

typedef enum mla_result {
#define MLA_X(name, text) name,
    MLA_RESULTS(MLA_X)
#undef MLA_X
} mla_result;

/* Filled by every call that fails; text is one line, e.g. "config.topk_group: 5 is more than n_group 4". */
typedef struct mla_error {
    mla_result code;
    char text[240];
    int sequence; /* of a call on a list of them, which one is at fault; -1: none by itself */
} mla_error;

MLA_API const char *mla_result_name(mla_result r); /* "MLA_OK", ... */

/* ---- >>dtypes ---------------------------------------------------------------------------------------------------- */

typedef enum mla_dtype {
    MLA_F32 = 0,
    MLA_F16,
    MLA_BF16,
    MLA_E4M3, /* fp8 e4m3fn, one scale for a block of rows and columns (mla_tensor.scale): W = code * scale */
    MLA_I8,   /* int8 with such scales */
    MLA_Q8,   /* from here on blocks along a row with scales of their own, byte for byte as GGUF has them: Q8_0 */
    MLA_Q4,   /* Q4_0 */
    MLA_Q4_1, /* the 32s with a minimum, and of five bits */
    MLA_Q5_0,
    MLA_Q5_1,
    MLA_Q2_K, /* the K types: 256 weights, whose groups of 16 or 32 have small scales of their own */
    MLA_Q3_K,
    MLA_Q4_K,
    MLA_Q5_K,
    MLA_Q6_K,
    MLA_IQ4_NL, /* four bits that choose from a list */
    MLA_IQ4_XS,
    MLA_MXFP4, /* fp4 e2m1, a power of two for 32 */
    MLA_NVFP4, /* fp4 e2m1, an fp8 scale for 16 */
    MLA_UE8M0, /* a power-of-two scale in a byte, 2^(b-127), 255 = NaN; only as mla_tensor.scale_dtype */
    MLA_DTYPE_COUNT
} mla_dtype;

MLA_API const char *mla_dtype_name(mla_dtype t);
MLA_API float mla_f16_to_f32(uint16_t h);
MLA_API float mla_bf16_to_f32(uint16_t b);
MLA_API float mla_e4m3_to_f32(uint8_t e);
MLA_API float mla_ue8m0_to_f32(uint8_t e);
MLA_API uint16_t mla_f32_to_f16(float f);  /* round to nearest even; overflow to infinity */
MLA_API uint16_t mla_f32_to_bf16(float f); /* round to nearest even; NaN stays NaN */
MLA_API uint8_t mla_f32_to_e4m3(float f);  /* round to nearest even; beyond 448, infinity too, to 448; NaN stays NaN */

#define MLA_GROUP 32 /* weights in a block of Q8 and Q4, and activations that are rounded to int8 with one scale */

/* Weights in a block: rows have a multiple of it; 1 for dtypes without blocks. */
MLA_API int mla_dtype_block(mla_dtype t);
/* Bytes of n elements without mla_tensor.scale; n is a multiple of mla_dtype_block(t). */
MLA_API size_t mla_dtype_bytes(mla_dtype t, size_t n);
/* y [n] = n elements of dtype t from a block's first on; n is a multiple of mla_dtype_block(t). E4M3, I8: the codes. */
MLA_API void mla_widen(float *y, mla_dtype t, const void *x, size_t n);
/* x [n] -> n elements of dtype t (F32, F16, BF16, Q8, Q4, Q4_K, Q5_K, Q6_K, IQ4_NL), rounded to nearest; the caller's
   memory, mla_dtype_bytes(t, n) of it. All of less than eight bits try scales around the plain one and keep that of
   least squared error. ARGUMENT: another dtype, or n no multiple of mla_dtype_block(t). */
MLA_API mla_result mla_quantize(mla_dtype t, void *out, const float *x, size_t n, mla_error *err);

typedef enum mla_layout {
    MLA_LAYOUT_ROWS = 0,
    MLA_LAYOUT_X16, /* rows of each sixteen interleaved for the kernels, as mla_repack makes them */
    MLA_LAYOUT_COUNT
} mla_layout;

/* A view of a tensor: rows x cols, row-major, without gaps; a vector has rows 1. data NULL means absent. Data may lie
   at any address, aligned or not. scale is used by E4M3 and I8: [ceil(rows/scale_rows), ceil(cols/scale_cols)] of
   scale_dtype (F32, BF16 or UE8M0), one for each block of so many rows and columns (1, cols: a row's; rows, cols: the
   tensor's); scale NULL means 1, scale_rows or scale_cols 0 means 128. */
typedef struct mla_tensor {
    const void *data;
    const void *scale;
    int rows, cols;
    mla_dtype dtype, scale_dtype;
    mla_layout layout;
    int scale_rows, scale_cols;
} mla_tensor;

MLA_API mla_tensor mla_view(const void *data, mla_dtype dtype, int rows, int cols);
MLA_API float mla_weight(const mla_tensor *w, int row, int col); /* W[row, col], whatever its format and layout */

/* w [rows, cols] -> the same weights with layout X16, as many bytes, in the caller's memory, not overlapping: same
   results but for the order of sums, faster where unpacking is the limit. Blocks of 4 bits a weight or more, rows a
   multiple of 16; parts of 16 rows may be repacked apart. ARGUMENT: another tensor. */
MLA_API mla_result mla_repack(void *out, const mla_tensor *w, mla_error *err);

/* y = weight x + bias; the bias [out], F32, F16 or BF16, may be absent. */
typedef struct mla_linear {
    mla_tensor weight, bias;
} mla_linear;

/* ---- >>config ---------------------------------------------------------------------------------------------------- */
/* Field names are the keys of DeepSeek's config.json, where it has them. Zero means the default in the comment. */

typedef enum mla_norm_kind {
    MLA_NORM_RMS = 0, /* w*x*rsqrt(mean(x^2)+eps) */
    MLA_NORM_LAYER,   /* w*(x-mean)*rsqrt(var+eps)+b */
    MLA_NORM_DYT,     /* w*tanh(alpha*x)+b  (arXiv 2503.10622) */
    MLA_NORM_NONE     /* x */
} mla_norm_kind;

typedef struct mla_norm {
    mla_norm_kind kind;
    float eps; /* 0: 1e-6 */
} mla_norm;

typedef enum mla_rope_layout {
    MLA_ROPE_PAIR = 0, /* interleaved: (x[2i], x[2i+1]) turn together; DeepSeek */
    MLA_ROPE_HALF,     /* half-split: (x[i], x[i+P/2]); GPT-NeoX, MiniCPM3 */
    MLA_ROPE_NONE      /* no rotation, P may still be above 0 */
} mla_rope_layout;

/* M: original_max_position_embeddings. */
typedef enum mla_rope_scaling {
    MLA_ROPE_DEFAULT = 0, /* inv[i] = theta^(-2i/P) */
    MLA_ROPE_LINEAR,      /* inv/factor */
    MLA_ROPE_DYNAMIC,     /* theta *= (factor*n/M - (factor-1))^(P/(P-2)), n = max(length, M) */
    MLA_ROPE_YARN,        /* arXiv 2309.00071, with DeepSeek's mscale rules */
    MLA_ROPE_LONGROPE     /* arXiv 2402.13753: inv/long_factor if length > M, else inv/short_factor */
} mla_rope_scaling;

typedef struct mla_rope {
    mla_rope_layout layout;
    mla_rope_scaling scaling;
    float theta;                  /* 0: 10000 */
    float factor;                 /* 0: 1, for longrope max_position_embeddings / original_max_position_embeddings */
    float beta_fast, beta_slow;   /* yarn; 0: 32 and 1 */
    float mscale, mscale_all_dim; /* yarn; 0: absent */
    float attention_factor;       /* yarn, longrope: overrides the cos/sin amplitude; 0: computed */
    int no_truncate;              /* yarn: the correction range is not rounded to whole dimensions */
    int max_position_embeddings;  /* dynamic, longrope: what the model was made for */
    int original_max_position_embeddings; /* dynamic, yarn, longrope; 0: max_position_embeddings */
    /* dynamic, longrope: longest sequence to be run, chosen once so that cached keys stay valid;
       0: max_position_embeddings */
    int length;
    const float *short_factor, *long_factor; /* longrope [P/2] */
    /* the caller's own inverse frequencies [P/2] in place of all but layout; they and softmax_scale are not scaled */
    const float *inv_freq;
} mla_rope;

typedef enum mla_mask {
    MLA_MASK_CAUSAL = 0, /* a token sees the cached tokens, those before it in the call, and itself */
    MLA_MASK_NONE        /* a token sees the cached tokens and all of its sequence in the call */
} mla_mask;

typedef enum mla_topk_method {
    MLA_TOPK_GREEDY = 0,           /* top-K over all experts (V2-Lite) */
    MLA_TOPK_GROUP_LIMITED_GREEDY, /* topk_group groups by their best score, others count 0.0, then top-K (V2) */
    MLA_TOPK_NOAUX_TC,             /* groups by the sum of their two best biased scores, others -inf, then top-K (V3) */
    MLA_TOPK_NOAUX_ZERO            /* the same, but others count 0.0 (A.X K2) */
} mla_topk_method;

typedef enum mla_scoring_func { MLA_SCORING_SOFTMAX = 0, MLA_SCORING_SIGMOID } mla_scoring_func;

typedef struct mla_config {
    int vocab_size, hidden_size, num_hidden_layers;
    int num_nextn_predict_layers; /* more layers behind those, for mla_mtp_forward; 0: none */
    int intermediate_size;        /* of dense layers */
    /* attention */
    int num_attention_heads;
    int q_lora_rank; /* 0: q is one matrix */
    int kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
    float softmax_scale; /* 0: (N+P)^-0.5, times yarn's (0.1*mscale_all_dim*ln(factor)+1)^2 */
    mla_mask mask;
    mla_rope rope;
    mla_norm q_norm, kv_norm; /* of the latents; DeepSeek: RMS, 1e-6 whatever rms_norm_eps says */
    mla_norm block_norm;      /* before attention, before the FFN, before the head: rms_norm_eps */
    float q_scale;            /* 0: 1; all of q is multiplied by it; LongCat-Flash (arXiv 2509.01322): sqrt(D/Q) */
    float latent_scale;       /* 0: 1; the normed latent is, not the rope key; LongCat-Flash: sqrt(D/R) */
    int q_twice;              /* 1: q_b takes the latent twice, [normed, as it was], and has 2Q columns; A.X K2 */
    int q_gate;         /* 1: the rows of q (q_b) for a head are [nope | rope | gate V]: see mla_attn_weights.gate */
    int norm_gate_rank; /* of gated norms: see mla_norm_weights; 0: none has a gate */
    /* q at position i is multiplied by 1 + beta*ln(1 + floor(i/period)); Llama 4, Mistral 4; 0: it is not */
    float temperature_beta;
    int temperature_period; /* in positions */
    /* sparse attention (DSA, arXiv 2512.02556): a layer's indexer scores all keys that a token sees, and its heads
       attend to the best index_topk of them; ties go to the lowest position. A token that sees no more keys is served
       as without an indexer, bit for bit */
    int index_topk; /* 0: dense, indexers are left alone; a context takes 4 * max_tokens * index_topk bytes for it */
    int index_n_heads, index_head_dim; /* heads of d values, and one key of d values for all of them; d >= P */
    mla_rope_layout index_rope;        /* of the FIRST P of these; NONE if rope.layout is */
    int index_rope_last;               /* 1: of the LAST P of them; Hy4 */
    float index_norm_eps;              /* of the keys' LayerNorm; 0: 1e-6 */
    /* layers that have mla_kda_weights in place of mla_attn_weights */
    int linear_num_heads, linear_head_dim; /* heads of C channels, for keys and values */
    int linear_conv_kernel_dim;            /* 0: 4; inputs that a channel's convolution sees, its own the last */
    /* below 0: g = kda_lower_bound * sig(exp(A) (Wf x + bf)); 0: g = -exp(A) softplus(Wf x + bf) */
    float kda_lower_bound;
    /* the residual stream, as MiniCPM scales it (arXiv 2404.06395) */
    float embed_scale; /* 0: 1; embeddings are multiplied by it: scale_emb */
    /* n-gram embeddings, as LongCat-Flash-Lite has them: see mla_ngram_weights */
    int emb_neighbor_num, emb_split_num; /* N, the longest (0: none); k, tables for each length */
    float residual_scale;                /* 0: 1; what attention and FFN add is: scale_depth/sqrt(num_hidden_layers) */
    float logits_scale;                  /* 0: 1; the head's input is: dim_model_base/D */
    /* several of them, by hyper-connections (arXiv 2409.19606) as Hy4 has them: see mla_hc_weights. Layers with a
       shortcut and multi-token prediction have one alone */
    int hc_mult; /* m; 0: 1 */
    float hc_eps, hc_magnitude;
    /* experts */
    int n_routed_experts; /* 0: no layer has experts */
    int zero_expert_num;  /* experts behind those that give x itself, and have no weights; LongCat-Flash */
    int num_experts_per_tok, moe_intermediate_size;
    int n_shared_experts;    /* the shared expert has width n_shared_experts * moe_intermediate_size */
    int n_group, topk_group; /* 0: 1 */
    mla_topk_method topk_method;
    mla_scoring_func scoring_func;
    int norm_topk_prob;          /* divide the chosen weights by their sum */
    float routed_scaling_factor; /* 0: 1 */
    float swiglu_limit;          /* L, of routed experts: silu(min(gate x, L)) * (up x within -L and L); 0: without */
} mla_config;

/* The published dimensions of "deepseek-v2-lite", "deepseek-v2", "deepseek-v3" (R1 too), "kimi-k2", "longcat-flash",
   "minicpm3", "deepseek-v32", "glm4-moe-lite", "glm-moe-dsa", "mistral4", "youtu", "axk1", "kimi-linear". Not in them:
   rope.short_factor and rope.long_factor of minicpm3, which the caller sets; which layers are dense, which is up to the
   weights (first_k_dense_replace is 1, for deepseek-v3, deepseek-v32 and glm-moe-dsa 3, for mistral4 0), and so is
   which have KDA (20 of kimi-linear's 27). Of the second six, what the papers do not state is the default of
   transformers' configuration classes; in doubt is rope of glm4-moe-lite, glm-moe-dsa, youtu and axk1, for which these
   classes have no theta of their own (10000 is all configurations') and no scaling: take it from the checkpoint's
   config.json. Error: UNSUPPORTED, another name. */
MLA_API mla_result mla_config_preset(mla_config *out, const char *name, mla_error *err);

/* ---- >>weights --------------------------------------------------------------------------------------------------- */
/* Presence is a fact, not a flag: a layer with moe.experts is an MoE layer, one with mlp.gate a dense one; a bias that
   is there is added. A layer with both has a shortcut (ScMoE, arXiv 2404.05019): its experts see what its mlp sees, and
   what they give is added after the next layer; a block of LongCat-Flash is such a layer and a dense one. A model may
   be partial (one attention layer, one MoE layer): a call asks only for what it uses. Any matrix may have
   any dtype but UE8M0 (blocks if its rows have a multiple of the block's length), and layout X16 if it has a multiple
   of 16 rows; norms and biases F32, F16 or BF16. */

typedef struct mla_norm_weights {
    mla_tensor weight; /* [n] */
    mla_tensor bias;   /* [n], LayerNorm and DyT; may be absent */
    mla_tensor alpha;  /* [1], DyT */
    /* [r, n], [n, r], r = norm_gate_rank; may be absent: what the norm gives, y, becomes y * sigmoid(gate_up silu(
       gate_down y)), as in A.X K2. Norms of D alone have them, not those of latents and index keys. */
    mla_tensor gate_down, gate_up;
} mla_norm_weights;

/* Scores sum_h (weights_proj x)_h (Hi d)^-0.5 relu(q_h . k(u)), q = rope(wq_b c_q) with the normed latent c_q of the
   query, k = rope(LayerNorm(wk x)), eps 1e-6. With index_topk above 0, a layer without indexer takes the keys that the
   nearest layer before it with one has chosen in this call (arXiv 2603.12201); the first must have one. */
typedef struct mla_indexer_weights {
    mla_linear wq_b;         /* [Hi*d, Q] */
    mla_linear wk;           /* [d, D] */
    mla_norm_weights k_norm; /* [d], weight and bias */
    mla_tensor weights_proj; /* [Hi, D]; computed in f32 */
} mla_indexer_weights;

typedef struct mla_attn_weights {
    mla_linear q;        /* [H*(N+P), D], if q_lora_rank is 0; a head's rows are [nope | rope]; see q_gate */
    mla_linear q_a, q_b; /* [Q, D], [H*(N+P), Q]; see q_twice */
    mla_linear kv_a;     /* [R+P, D]: [latent | k_rope] (kv_a_proj_with_mqa) */
    mla_linear kv_b;     /* [H*(N+V), R]; a head's rows are [k_nope | v] */
    mla_tensor k_b, v_b; /* [H*R, N], [H*V, R]: kv_b as GGUF has it, a head's keys transposed; unused beside kv_b */
    mla_linear o;        /* [D, H*V] */
    /* [H*V, D] or [H, D], of a channel or a head; may be absent: what heads give is multiplied by sigmoid(gate x)
       before o (arXiv 2505.06708). Or with q_gate by that of what q (q_b) gives for it */
    mla_linear gate;
    mla_tensor sinks; /* [H]; may be absent: e^sinks[h] is added to the sum by which a head's softmax divides */
    mla_norm_weights q_norm, kv_norm; /* [Q], [R] */
    mla_indexer_weights indexer;      /* sparse attention; may be absent */
} mla_attn_weights;

/* Kimi Delta Attention (arXiv 2510.26692), a layer's mixer in place of attention: it keeps a state of a sequence,
   however long, and no rows. It sees the tokens of a sequence in their order, so that mla_sequence.mask and
   MLA_MASK_NONE are refused with such a layer; its probabilities are 0. */
typedef struct mla_kda_weights {
    mla_linear q, k, v;                /* [Hl*C, D] */
    mla_tensor q_conv, k_conv, v_conv; /* [Hl*C, linear_conv_kernel_dim], the oldest input first; F32, F16 or BF16 */
    mla_linear f_a, f_b;               /* decay: [C, D] and [Hl*C, C]; or, f_a absent, f_b alone: [Hl*C, D] */
    mla_tensor a_log, dt_bias;         /* A [Hl] and bf [Hl*C] of it */
    mla_linear b;                      /* [Hl, D] */
    mla_linear g_a, g_b;               /* what its output is gated by: as f_a and f_b */
    mla_tensor norm;                   /* [C], RMS with block_norm.eps, of a head's output */
    mla_linear o;                      /* [D, Hl*C] */
} mla_kda_weights;

typedef struct mla_mlp_weights { /* SwiGLU: down(silu(gate x) * up x) */
    mla_linear gate, up;         /* [I, D] */
    mla_linear down;             /* [D, I] */
} mla_mlp_weights;

typedef struct mla_moe_weights {
    mla_tensor router;              /* [E+Z, D]; computed in f32 */
    mla_tensor router_bias;         /* [E+Z], added to the scores for selection only; may be absent */
    const mla_mlp_weights *experts; /* [E] */
    mla_mlp_weights shared;         /* absent if n_shared_experts is 0 */
} mla_moe_weights;

/* With hc_mult m above 1 a token has m residual streams X [m, D], at first m times its embedding. Attention and FFN of
   a layer see one x, and what they give is added to all:
     z = fn flat(X) / sqrt(mean(flat(X)^2) + block_norm.eps)
     pre_j = sigmoid(scale_0 z_j + base_j) + hc_eps
     post_j = hc_magnitude sigmoid(scale_1 z_{m+j} + base_{m+j}) + hc_eps
     x = sum_j pre_j X_j;  y = out_norm(layer(norm(x)));  X_j += residual_scale post_j y
   and the final norm sees such an x, with the model's hc_head. */
typedef struct mla_hc_weights {
    mla_tensor fn;    /* [2m, m*D], hc_head's [m, m*D]; computed in f32 */
    mla_tensor base;  /* [2m], [m] */
    mla_tensor scale; /* [2], [1] */
} mla_hc_weights;

typedef struct mla_layer_weights {
    mla_hc_weights attn_hc, ffn_hc;       /* if hc_mult is above 1 */
    mla_norm_weights attn_norm, ffn_norm; /* input_layernorm, post_attention_layernorm: [D] */
    mla_norm_weights attn_out_norm;       /* of what attention adds, [D]; may be absent */
    mla_norm_weights ffn_out_norm;        /* of what the FFN adds: post_mlp_layernorm, [D]; may be absent */
    mla_attn_weights attn;
    mla_mlp_weights mlp; /* dense layer */
    mla_moe_weights moe; /* or MoE layer; or both, see above */
    mla_kda_weights kda; /* in place of attn */
} mla_layer_weights;

typedef struct mla_mtp_weights {   /* what a layer of multi-token prediction has around its block */
    mla_norm_weights enorm, hnorm; /* of the embedding and of the state: [D] */
    mla_linear eh_proj;            /* [D, 2D], the embedding's columns first */
    mla_norm_weights norm;         /* shared_head.norm: [D] */
    mla_tensor embed, head;        /* [vocab_size, D]; absent: the model's own */
} mla_mtp_weights;

/* A token's embedding becomes (E[t] + sum over i of P_i T_i[number(i) mod rows of T_i]) / (1 + k (N-1)): of the tables
   i = 0 .. k (N-1) - 1 each k count n-grams of one length, from 2 on, by the ids of the last n tokens:
   number = sum over s < n of id[t-s] vocab_size^s; those before the first token are 0, and so are those of positions
   that came as mla_sequence.embeddings, which are taken as they are. Tables are used where they lie, row by row. */
typedef struct mla_ngram_weights {
    mla_tensor table; /* T_i: [rows, D / (k (N-1))], of as many rows as it has */
    mla_linear proj;  /* P_i: [D, D / (k (N-1))] */
} mla_ngram_weights;

typedef struct mla_weights {
    mla_tensor embed;                /* [vocab_size, D] */
    mla_tensor head;                 /* [vocab_size, D]; absent: tied to embed */
    mla_hc_weights hc_head;          /* if hc_mult is above 1 */
    mla_norm_weights norm;           /* [D] */
    const mla_layer_weights *layers; /* [num_hidden_layers + num_nextn_predict_layers] */
    const mla_mtp_weights *mtp;      /* [num_nextn_predict_layers] */
    const mla_ngram_weights *ngram;  /* [emb_split_num * (emb_neighbor_num - 1)] */
} mla_weights;

/* ---- >>model ----------------------------------------------------------------------------------------------------- */

typedef struct mla_allocator {
    void *(*alloc)(void *user, size_t bytes); /* NULL: malloc and free */
    void (*free)(void *user, void *memory);
    void *user;
} mla_allocator;

typedef struct mla_model mla_model;

/* Checks every field and every tensor that is present, resolves defaults, keeps copies of the structs (not of the
   weights, which must outlive the model). Errors: CONFIG, WEIGHTS, MEMORY. err may be NULL, alloc too. */
MLA_API mla_result mla_model_create(mla_model **out, const mla_config *config, const mla_weights *weights,
                                    const mla_allocator *alloc, mla_error *err);
MLA_API void mla_model_destroy(mla_model *model);
MLA_API size_t mla_model_size(const mla_config *config); /* bytes for mla_model_init; 0: the config is not valid */
MLA_API mla_result mla_model_init(mla_model **out, void *memory, size_t bytes, const mla_config *config,
                                  const mla_weights *weights, mla_error *err);

/* With defaults resolved: softmax_scale, rope.factor, ... */
MLA_API const mla_config *mla_model_config(const mla_model *model);
MLA_API const float *mla_model_inv_freq(const mla_model *model); /* [P/2]; zeros if nothing rotates */
MLA_API float mla_model_rope_amplitude(const mla_model *model);  /* cos and sin are multiplied by it */
/* Bytes of weights that mla_model_forward on n_tokens reads at least once: everything but embedding rows, with the
   experts that n_tokens tokens hit if they spread evenly. n_tokens 0: all weights, those for mla_mtp_forward too. */
MLA_API double mla_model_bytes(const mla_model *model, int n_tokens);
MLA_API double mla_mtp_bytes(const mla_model *model, int depth, int n_tokens); /* the same of mla_mtp_forward */

/* ---- >>threads --------------------------------------------------------------------------------------------------- */

typedef enum mla_isa {
    MLA_ISA_AUTO = 0,
    MLA_ISA_SCALAR,
    MLA_ISA_AVX2,    /* AVX2, FMA, F16C */
    MLA_ISA_AVX512,  /* AVX-512 F, BW, DQ, VL */
    MLA_ISA_VNNI,    /* the same, and VNNI for blocks */
    MLA_ISA_BF16,    /* the same, and AVX512_BF16 for activations in bf16; AUTO takes it for these alone */
    MLA_ISA_AMX,     /* the same with tiles, for bf16 activations; AUTO takes it where the system grants them */
    MLA_ISA_NEON,    /* aarch64; with the dot product instructions where compiled for them */
    MLA_ISA_SIMD128, /* WebAssembly, where compiled with -msimd128; with -mrelaxed-simd, too, an engine's fused
                        multiply-add and dot products: other engines may then round otherwise */
    MLA_ISA_COUNT
} mla_isa;
typedef enum mla_attn_path { MLA_ATTN_AUTO = 0, MLA_ATTN_NAIVE, MLA_ATTN_ABSORBED, MLA_ATTN_PATH_COUNT } mla_attn_path;

/* What activations become before they meet weights; sums stay f32. Norms, softmax, router, indexer weights and kv_b
   (k_b, v_b), which is folded into the queries, have f32; so have gate and up that want different things. */
typedef enum mla_activations {
    MLA_ACT_AUTO =
        0,        /* INT8; with AMX and many tokens bf16 with blocks, which is nearer to f32 than int8, and faster */
    MLA_ACT_F32,  /* f32 whatever the weights are */
    MLA_ACT_INT8, /* with blocks (Q8 .. NVFP4) int8 in groups of 32, which is much faster; f32 with all others, which
                     AMX, but for F32, makes of two parts in bf16: to 2^-16 f32 */
    MLA_ACT_BF16, /* as AUTO; bf16 with BF16 weights and in attention over a BF16 cache; needs AVX512_BF16 or AMX */
    MLA_ACT_E4M3, /* as AUTO; e4m3 with E4M3 weights, by largest/448 of each 128 of a token (arXiv 2412.19437, 3.3) */
    MLA_ACT_COUNT
} mla_activations;

#define MLA_STACK 65536 /* bytes that a task may take of its thread's stack; without optimization three times as many */

/* Call task(arg, i) for i = 0..n-1, in any order and on any threads, and return when all have returned. */
typedef void (*mla_run)(void *user, int n, void (*task)(void *arg, int i), void *arg);

/* How threads of a team sleep. mla_wait returns when *word (read it with an atomic load) is not value, or sooner, for
   any reason or none; mla_wake makes all return that wait for the word. Any thread calls them, at any time. */
typedef void (*mla_wait)(void *user, const uint32_t *word, uint32_t value);
typedef void (*mla_wake)(void *user, const uint32_t *word);

typedef struct mla_context mla_context;

/* A forward call is some hundred steps one after the other, most of which are shared among threads. Without a team each
   of these is a run of its own. With one the whole call is a single run, of tasks that stay to its end and meet at the
   library's own barrier after each step: one of them leads (task 0 if it comes in time) and does what is not shared;
   the others look for the next step for some microseconds, then yield, then sleep if wait and wake are given.
   What a team promises is that run begins its n tasks at once, each on a thread of its own. Where that does not hold
   nothing hangs and nothing else comes out, it takes longer: the shares of threads that come late, or never, are taken
   by the others, so that of tasks that run one after the other the first does everything. OpenMP as built in (run
   NULL) is a team. Compilers other than gcc and clang have none, and team is ignored. */

/* What a call does with each layer, and then once. */
typedef enum mla_phase {
    MLA_PHASE_ATTENTION = 0, /* norm and attention; of mla_mtp_forward what comes before, too; bytes of n-grams */
    MLA_PHASE_EXPERTS,       /* norm and experts, or a dense FFN */
    MLA_PHASE_HEAD,          /* norm and logits */
    MLA_PHASE_COUNT
} mla_phase;

/* mla_model_forward and mla_layers_forward call it before each phase: of layer 0 .. layers-1, and of layer == layers
   for the head (layers: where the call ends), with invariant for short and long sequences apart; mla_mtp_forward once,
   before its layer. Non-zero ends the call, which then fails with ABORTED and leaves its caches as they were, but in
   its outputs what has been written by then. It runs on one of the call's threads while the others wait, and must not
   use the call's context and caches. */
typedef int (*mla_watch)(void *user, int layer, int layers, mla_phase phase);

/* How the time of calls was spent; calls add to it. The seconds are those of the four below them together; waiting is
   imbalance and barriers. */
typedef struct mla_stats {
    double (*clock)(void *user); /* seconds since anything, for any thread; NULL: steps are counted, but not timed */
    void *clock_user;
    int64_t calls, steps;      /* forward calls; steps that were shared, or would be with more threads than one */
    int64_t alone, taken;      /* steps too small to be shared; shares that another thread of a team took */
    double seconds;            /* of calls */
    double kernels;            /* of shared steps: what the threads worked, on average */
    double imbalance;          /* what the one that worked longest worked longer */
    double barriers;           /* what the step took besides; beginning and ending a team */
    double serial;             /* between shared steps */
    double attention, indexer; /* of shared steps, those that bring queries and keys together; that choose keys */
    double phase_seconds[MLA_PHASE_COUNT]; /* seconds once more, by phase; embedding tokens is in none */
    double phase_bytes[MLA_PHASE_COUNT]; /* of weights that were read at least once, of experts those that got tokens */
} mla_stats;

/* One model shared by several contexts, the ranks: processes on one machine or many, or threads. All make the same
   calls, each on its own caches, and get the same results, bit for bit; a number of ranks always gives the same bits,
   another number the same to rounding: 5e-5 of the largest logit with activations in f32. Where they are rounded, a
   rank rounds as one alone does, and a layer differs by the order of its sums (3e-7); but the next layers round what
   differs, some of it to the other side, so that logits end 4e-3 to 6e-2 apart. Same bits need the same program on the
   same instruction set.
   A rank computes its range of heads, of the columns of dense FFNs and shared experts, of experts (neighbours, with
   about as many bytes as any rank's), of the rows of head and eh_proj, from these weights where they lie, and touches
   no others. Norms, latents, routers, indexers and KDA are every rank's, so that each has the whole cache. Ranges end
   where blocks of formats do: where there are fewer blocks than ranks, some ranks have none.
   A layer takes two sums of T * D floats each, and one more for a shortcut's experts; a call takes one gathering. A
   hook that fails (non-zero) ends the call with ABORTED, caches as they were. It should then fail on all ranks, as
   watch should answer all alike. Hooks are called by one of the call's threads while the others wait; stats has their
   time in serial. */
typedef struct mla_shard {
    int rank, ranks; /* 0 .. ranks-1; ranks 0: one, and hooks are not called */
    /* 1: experts are cut by columns, too, so that all ranks work alike whatever experts are chosen. Each page of down
       has columns of all ranks; and in calls of many tokens ranks divide experts by the work there is (but not with
       invariant), so that each reads any of them: this is for ranks that share memory */
    int split_experts;
    /* x [n] becomes the sum of all ranks' x, the same bits for all. Ranks call it in the same order */
    int (*all_reduce)(void *user, float *x, size_t n);
    /* x [n, ldx]: of each row a rank has made columns begin[rank] .. begin[rank+1], and gets the others. Not while a
       sum is under way */
    int (*all_gather)(void *user, float *x, size_t ldx, int n, const int *begin);
    /* NULL; or all_reduce only begins, and this returns when the first sum that is under way is made. A call on several
       sequences of many tokens is then run as two halves, of which one computes while the other is summed up */
    int (*wait)(void *user);
    void *user;
} mla_shard;

typedef struct mla_context_desc {
    int max_tokens; /* most tokens in one call, all sequences together; 0: 512. Scratch grows with it */
    int threads;    /* tasks the work is cut into; 0: OpenMP's number if compiled in, else 1 */
    mla_run run;    /* NULL: OpenMP if compiled in, else one after the other */
    int team;       /* 1: run begins all tasks at once, and a call is one run; see above */
    mla_wait wait;  /* of a team; NULL, both: threads that wait yield and do not sleep */
    mla_wake wake;
    void *run_user;              /* of run, wait and wake */
    mla_stats *stats;            /* NULL, or what calls add to; by one context at a time */
    mla_isa isa;                 /* MLA_ISA_AUTO: the best of this CPU; of AVX512_BF16 where activations want it */
    mla_attn_path attn;          /* MLA_ATTN_AUTO: by cost, for each sequence of each call */
    mla_activations activations; /* MLA_ACT_AUTO: int8 for blocks, else f32 */
    /* 1: what else is in a call changes no bit of a sequence's results: they depend on its own tokens, on how these
       were cut into calls, on the model, the isa and this desc but for its threads. Sequences of up to 16 tokens in
       a call then go one way, with a causal mask as if their tokens came one by one; longer ones go another,
       neighbours of one kind together: list them so. mla_moe_forward takes its tokens for one sequence */
    int invariant;
    mla_allocator alloc;
    mla_watch watch; /* NULL, or what may end calls */
    void *watch_user;
    mla_shard shard; /* this context is one of several that share the work */
} mla_context_desc;

/* Runs calls on one model and owns all scratch. desc NULL: all defaults. Errors: ARGUMENT, MEMORY, UNSUPPORTED. */
MLA_API mla_result mla_context_create(mla_context **out, const mla_model *model, const mla_context_desc *desc,
                                      mla_error *err);
MLA_API void mla_context_destroy(mla_context *context);
MLA_API size_t mla_context_size(const mla_model *model, const mla_context_desc *desc); /* 0: desc is not valid */
MLA_API mla_result mla_context_init(mla_context **out, void *memory, size_t bytes, const mla_model *model,
                                    const mla_context_desc *desc, mla_error *err);
MLA_API const mla_error *mla_context_error(const mla_context *context); /* of the last call that failed */
MLA_API mla_isa mla_context_isa(const mla_context *context);
MLA_API int mla_context_threads(const mla_context *context);

/* ---- >>isa ------------------------------------------------------------------------------------------------------- */

/* Compiled in, and this CPU and its OS can run it; for AMX, Linux is asked for leave. -DMLA_NO_SCALAR leaves SCALAR out
   where others are sure to be there (AArch64, WebAssembly with SIMD128): programs become smaller. So they do with
   -DMLA_SMALL, of the same results: most formats of weights share kernels, which are slower, the most with several
   tokens and with blocks other than Q8, Q4_K and Q6_K; f32 and bf16 of one token are as fast as ever. */
MLA_API int mla_isa_available(mla_isa isa);
/* "auto", "scalar", "avx2", "avx512", "vnni", "bf16", "amx", "neon", "simd128" */
MLA_API const char *mla_isa_name(mla_isa isa);

/* ---- >>cache ----------------------------------------------------------------------------------------------------- */
/* One cache holds one sequence: for each layer and token a row [latent R | rope key P], in layers with an indexer in
   use [latent R | rope key P | index key d], the index key kept in a dtype of its own. Either contiguous, or in pages
   of 64 tokens out of a pool that many sequences share. Layers are all of the model's, multi-token prediction last.
   Layers with mla_kda_weights have no rows: they keep a state of the sequence, of the same size however long it is,
   which cannot be cut back; see mla_cache_snapshot. A cache has its states twice, before and after the last call.
   States and slots are part of a cache's memory, or a pool's: of the caller's own after mla_cache_init and
   mla_pool_init. */

#define MLA_PAGE 64

typedef struct mla_cache mla_cache;
typedef struct mla_pool mla_pool;

typedef struct mla_cache_desc {
    int capacity;    /* tokens */
    mla_dtype dtype; /* F32, F16, BF16, or Q8 if R+P is a multiple of 32; with a pool, the pool's is used */
    mla_pool *pool;  /* NULL: contiguous */
    mla_allocator alloc;
    mla_dtype index_dtype; /* of index keys: F32, F16, BF16, or Q8 if d is a multiple of 32; with a pool, the pool's */
    mla_dtype state_dtype; /* of states between calls: F32 or BF16, half as large; with a pool, the pool's */
    int snapshots;         /* slots for mla_cache_snapshot; with a pool, the pool's */
} mla_cache_desc;

typedef struct mla_pool_desc {
    int n_pages;
    mla_dtype dtype, index_dtype; /* as in mla_cache_desc */
    mla_allocator alloc;
    mla_dtype state_dtype; /* as in mla_cache_desc */
    int snapshots;         /* slots that all its caches share */
} mla_pool_desc;

/* Errors: ARGUMENT, MEMORY. */
MLA_API mla_result mla_pool_create(mla_pool **out, const mla_model *model, const mla_pool_desc *desc, mla_error *err);
MLA_API void mla_pool_destroy(mla_pool *pool);                                   /* after all its caches */
MLA_API size_t mla_pool_size(const mla_model *model, const mla_pool_desc *desc); /* 0: desc is not valid */
MLA_API mla_result mla_pool_init(mla_pool **out, void *memory, size_t bytes, const mla_model *model,
                                 const mla_pool_desc *desc, mla_error *err);
MLA_API int mla_pool_free_pages(const mla_pool *pool);
MLA_API int mla_pool_free_slots(const mla_pool *pool);

MLA_API mla_result mla_cache_create(mla_cache **out, const mla_model *model, const mla_cache_desc *desc,
                                    mla_error *err);
/* Gives its pages back; of one made by mla_cache_init: call it before the memory goes. */
MLA_API void mla_cache_destroy(mla_cache *cache);
MLA_API size_t mla_cache_size(const mla_model *model, const mla_cache_desc *desc);
MLA_API mla_result mla_cache_init(mla_cache **out, void *memory, size_t bytes, const mla_model *model,
                                  const mla_cache_desc *desc, mla_error *err);

MLA_API int mla_cache_length(const mla_cache *cache);
MLA_API int mla_cache_capacity(const mla_cache *cache);
/* Forget the tokens from position length on. ARGUMENT if length is negative or more than the current one, or if layers
   have states and none are kept at this position: mla_cache_cut gives the nearest one. */
MLA_API mla_result mla_cache_truncate(mla_cache *cache, int length, mla_error *err);
MLA_API void mla_cache_reset(mla_cache *cache); /* truncate to 0 */
/* The nearest position, not above length, that mla_cache_truncate can go to: length itself where layers have no states;
   else 0, the current one, the one before the last call, or that of a snapshot. -1: a negative length, or NULL. */
MLA_API int mla_cache_cut(const mla_cache *cache, int length);
/* Keeps the states as they are, so that mla_cache_truncate can come back to this position: in a slot, of the pool or of
   the cache's own, until the position is cut off or forgotten; caches that are forked share them with a pool, and copy
   them without, the latest ones first. Where no layer has a state there is nothing to keep. Errors: FULL, no slot. */
MLA_API mla_result mla_cache_snapshot(mla_cache *cache, mla_error *err);
/* The positions of the first `most` snapshots, ascending, which may be NULL; gives the number of all. */
MLA_API int mla_cache_snapshots(const mla_cache *cache, int *positions, int most);
MLA_API void mla_cache_forget(mla_cache *cache, int position); /* the snapshot there, if there is one */
/* The cache of some of the layers, whose last is not the model's, grows by n tokens that mla_layers_forward has run
   there. ARGUMENT: more than it has written, or with states fewer. */
MLA_API mla_result mla_cache_extend(mla_cache *cache, int n, mla_error *err);
/* dst becomes src. Both paged in one pool: pages are shared and copied when one side writes to them; else rows are
   copied; states always are. Either may then be changed or destroyed first. Errors: ARGUMENT (shapes or dtypes differ),
   FULL. */
MLA_API mla_result mla_cache_fork(mla_cache *dst, const mla_cache *src, mla_error *err);
/* Append n tokens' rows: for each layer n of them [latent R | rope key P], in layers that have an indexer of their own
   n of [R | P | index key d]. Latents normed, keys rotated, as the cache keeps them. Errors: FULL; ARGUMENT, a layer
   has a state, which is not made of rows. */
MLA_API mla_result mla_cache_append(mla_cache *cache, int n, const float *rows, mla_error *err);
/* One row [R+P, or R+P+d], as f32. Error: ARGUMENT, also for a row that no call has written. */
MLA_API mla_result mla_cache_read(const mla_cache *cache, int layer, int position, float *row, mla_error *err);
/* The state of a layer that has one: [Hl, C keys, C values], and of q, k and v the last linear_conv_kernel_dim - 1
   inputs of their convolutions, [3, kernel - 1, Hl*C]. Errors: ARGUMENT, also where the layer has not been run. */
MLA_API mla_result mla_cache_read_state(const mla_cache *cache, int layer, float *state, float *inputs, mla_error *err);

/* A cache as bytes, to and from the caller's memory in pieces of any size. In a file, all numbers little-endian:
     words of 32 bits: "MLAC"; the version: 1, and 1 more with states, 2 more with ids; words before the sum;
       num_hidden_layers, num_nextn_predict_layers (M), kv_lora_rank, qk_rope_head_dim, index_head_dim (0: no
       indexers); model, low word first; dtype, index_dtype (as mla_dtype has them); length
     [layers] words: positions for which each has its rows
     [layers] words: 1 for one that has index keys, 2 for one that has a state, else 0
     with states, three words: state_dtype, values of a state, inputs of its convolutions (see mla_cache_read_state)
     with n-gram embeddings [length] words: the ids of all tokens
     the sum of all bytes before it, 64 bits: FNV-1a
     of each layer its rows [latent R | rope key P], then its index keys [d], position by position, as dtypes have them;
       or its state as state_dtype has it, and the inputs in f32
     the sum of all bytes before it
   What a stream begins with is zeros, but for model; the rest of it is the library's. */
typedef struct mla_cache_stream {
    uint64_t model; /* the caller's, to tell models of one shape apart, such as a hash; load refuses another one */
    uint64_t at;    /* bytes so far */
    uint64_t sum, unit_sum;
    uint32_t words, length, dtype, index_dtype, state_dtype, bad, bad_word;
    int state, layer, index, row, n_part;
    size_t byte;
    unsigned char part[4 * MLA_GROUP];
} mla_cache_stream;

MLA_API uint64_t mla_cache_saved_bytes(const mla_cache *cache); /* of all pieces together; of NULL 0 */
/* The next bytes, at most so many, of a cache that does not change in the meantime: gives their number, 0 behind the
   last one. */
MLA_API size_t mla_cache_save(mla_cache_stream *stream, const mla_cache *cache, void *out, size_t bytes);
/* The next bytes into a cache that was empty at first, of whatever dtypes and pool: it stays empty until the last one,
   and if anything fails. A final call with 0 bytes says that there are no more. To give up: mla_cache_reset. Errors:
   DATA; ARGUMENT (not empty); FULL. */
MLA_API mla_result mla_cache_load(mla_cache_stream *stream, mla_cache *cache, const void *in, size_t bytes,
                                  mla_error *err);

/* ---- >>forward --------------------------------------------------------------------------------------------------- */

/* One sequence's part in a call. A call takes a list of them: prompts, chunks of prompts and single decoded tokens in
   any mixture; the rows of x, y, tokens and logits follow each other in list order. keys = cached tokens + n_tokens. */
typedef struct mla_sequence {
    mla_cache *cache; /* n_tokens rows are appended; no cache may stand twice in one call */
    int n_tokens;
    int n_logits; /* the last so many of its tokens have logits in mla_outputs.logits, if that is there; 0: none */
    /* [n_tokens, D] in place of its tokens: as mla_outputs.hidden[0] has them, with embed_scale; for mla_layers_forward
       from another layer than 0 on the state before it, hc_mult times as wide; NULL: tokens */
    const float *embeddings;
    const float *mask; /* [n_tokens, keys], added to the scores, and to an indexer's, instead of config.mask
                          (-INFINITY hides a key; a token that sees no key gets 0); NULL: config.mask */
    float *probs;      /* out: attention probabilities [n_tokens, H, keys], for mla_model_forward [num_hidden_layers]
                          of these; 0 for keys not chosen; or NULL */
} mla_sequence;

/* Pages that the pool must have free for a call on these sequences, copies of shared ones among them; again: for
   mla_mtp_forward, which writes to positions that are there. Caches of another pool, or NULL, count for nothing. */
MLA_API int mla_pool_pages_needed(const mla_pool *pool, const mla_sequence *sequences, int n_sequences, int again);

/* What mla_model_forward shall write; every pointer may be NULL. T = tokens in the call. */
typedef struct mla_outputs {
    float *logits; /* [sum of n_logits, vocab_size]: of those tokens that the sequences say, in list order */
    /* [num_hidden_layers+1] pointers, each NULL or [T, D]: hidden[0] the embeddings, hidden[i] the residual stream
       after i blocks (several: [T, hc_mult, D]), the last one after the final norm (as transformers numbers them) */
    float *const *hidden;
    int64_t *expert_counts; /* [num_hidden_layers, E+Z]: tokens routed to each expert are added to it */
    int *expert_index;      /* [num_hidden_layers, T, K]: each token's experts, best first; of layers that have some */
    float *expert_weight;   /* the same: their weights */
} mla_outputs;

/* The whole model on tokens [T]; those of sequences with embeddings are not read, and tokens may be NULL if all have
   them. Errors: ARGUMENT, WEIGHTS (of a partial model), FULL, MEMORY (T > max_tokens), ABORTED. */
MLA_API mla_result mla_model_forward(mla_context *context, const mla_sequence *sequences, int n_sequences,
                                     const int *tokens, const mla_outputs *out);

/* Layers [begin, end) of it: from the state before them, which sequences.embeddings give unless begin is 0, to the one
   after them, hidden[end] (which may be the same memory). Rows are appended to these layers' parts of the caches, which
   grow when the last layer (num_hidden_layers-1) has run; so ranges one after the other are the whole, bit for bit.
   A cache that meets no last layer, in a model run in parts that do not share memory, grows by mla_cache_extend. A
   layer that has not run for all tokens of a cache is refused until the cache is cut back to those it has.
   Only to the end num_hidden_layers belong the final norm and the logits. Where begin is end no layer runs and caches
   stay: at 0 tokens become embeddings, at num_hidden_layers the state is normed and logits come from it. Only the
   weights of what runs need to be there. Errors: as above; ARGUMENT, too, for a cut behind a layer with a shortcut, and
   one before a layer that uses another's choice of keys, unless this context's last call chose them for the same
   sequences. */
MLA_API mla_result mla_layers_forward(mla_context *context, int begin, int end, const mla_sequence *sequences,
                                      int n_sequences, const int *tokens, const mla_outputs *out);

/* Multi-token prediction (DeepSeek-V3, section 2.2): layer num_hidden_layers + depth looks one token further ahead than
   depth - 1 did, and the model itself for depth 0. It runs on the last n_tokens positions that each cache holds, and
   writes its own rows for them; lengths stay. tokens [T]: of position i, the one at i + 1 + depth. hidden [T, D]: of
   position i, the state one depth before: hidden[num_hidden_layers] of mla_model_forward, or hidden[1] of this call for
   depth - 1. So the logits of position i are those of the token at i + 2 + depth. Rows may be written again, with other
   tokens; positions before these must have theirs, written with the tokens that came. out as of a model of one layer:
   hidden [2], what eh_proj gives, and the state after shared_head.norm, which may take the place of the argument;
   expert_counts [E+Z], expert_index and expert_weight [T, K]; and so sequences.probs. embed_scale and logits_scale hold
   as for the model. Errors: ARGUMENT, WEIGHTS, MEMORY, FULL (a pool has no page for a copy of one that is shared),
   ABORTED. DeepSeek's description has the state's columns of eh_proj first and does not say whether the state is
   normed; in the published weights the embedding's are first, and the state comes after the last norm, to depth 1
   after shared_head.norm: so transformers 5.17 (MtpLayer), vLLM and SGLang. transformers rotates by i + 1 + depth and
   not by i: the same function, for only differences of positions count (they alone would not with a temperature_beta,
   which no published model with such a layer has). */
MLA_API mla_result mla_mtp_forward(mla_context *context, int depth, const mla_sequence *sequences, int n_sequences,
                                   const int *tokens, const float *hidden, const mla_outputs *out);

/* One layer's attention, or KDA, without norm and residual: x [T, D] -> y [T, D]. Rows are appended to the layer's part
   of each cache; the caches grow when the last layer (num_hidden_layers-1) has run, so that one after the other all
   layers see the same length. A layer that uses another's choice of keys runs after it, on the same sequences: else
   ARGUMENT. */
MLA_API mla_result mla_attn_forward(mla_context *context, int layer, float *y, const float *x,
                                    const mla_sequence *sequences, int n_sequences);

typedef struct mla_routing { /* each NULL, or what the router did */
    int *index;              /* [T, K] experts, best first */
    float *weight;           /* [T, K] */
    int64_t *counts;         /* [E+Z], added to */
} mla_routing;

/* One layer's experts, without norm and residual: x [n_tokens, D] -> y [n_tokens, D], not x. A dense layer is run as
   what it is, one expert that takes every token; routing is then left alone. routing may be NULL. */
MLA_API mla_result mla_moe_forward(mla_context *context, int layer, float *y, const float *x, int n_tokens,
                                   const mla_routing *routing);

/* One of the norms of D that blocks have, attn_norm and the like, by config.block_norm: x [n_tokens, D] -> y
   [n_tokens, D], which may be x. With invariant they are one sequence's, as in mla_moe_forward. So that a program can
   go through a block step by step:
     norm attn_norm, mla_attn_forward, norm attn_out_norm if there; x[i] += residual_scale * y[i];
     norm ffn_norm, mla_moe_forward, norm ffn_out_norm if there; x[i] += residual_scale * y[i];
   which with mla_layers_forward from layer 0 to 0 before and from num_hidden_layers to there behind is the model, bit
   for bit but for layers with a shortcut. With several streams mla_hc_forward comes before each norm of the two, and
   x[i, j] += residual_scale * post[i, j] * y[i]. Errors: ARGUMENT, WEIGHTS. */
MLA_API mla_result mla_norm_forward(mla_context *context, const mla_norm_weights *norm, float *y, const float *x,
                                    int n_tokens);

/* What the next part of a layer sees of hc_mult streams, and by how much they take what it gives, by attn_hc, ffn_hc or
   hc_head: x [n_tokens, hc_mult, D] -> y [n_tokens, D], post [n_tokens, hc_mult] (NULL: not asked for; hc_head has
   none). Errors: ARGUMENT (hc_mult is 1), WEIGHTS. */
MLA_API mla_result mla_hc_forward(mla_context *context, const mla_hc_weights *hc, float *y, float *post, const float *x,
                                  int n_tokens);

#ifdef __cplusplus
}
#endif
#endif /* MLA_H */

/* >>stop-here: this was the API; the rest is how it works. ========== */

/* ---- >>reference ------------------------------------------------------------------------------------------------- */
/* MATHS once more, in plain loops and in double, for one token: what is computed, and nothing of how the library does
   it. The tests hold the library against this, and this against the models' own code. It needs the API alone, and is
   compiled where MLA_REFERENCE is defined. m gives the config with its defaults; t is the token's position. */
#if defined(MLA_REFERENCE) && !defined(MLA__REFERENCED)
#define MLA__REFERENCED
#include <math.h>
#include <stdlib.h>
static inline double *mla__room_ref(double n) { return (double *)calloc(n > 1 ? (size_t)n : 1, sizeof(double)); }
static inline double mla__weight_ref(const mla_tensor *w, int row, int col) { /* W[row, col], 0 of an absent W */
    return w->data ? (double)mla_weight(w, row, col) : 0;
}
static inline double mla__dot_ref(const double *a, const double *b, int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}
/* y [out] = W [out, in] x + b */
static inline void mla__linear_ref(double *y, const mla_linear *l, const double *x) {
    for (int i = 0; i < l->weight.rows; i++) {
        y[i] = mla__weight_ref(&l->bias, 0, i);
        for (int j = 0; j < l->weight.cols; j++) y[i] += mla__weight_ref(&l->weight, i, j) * x[j];
    }
}

static inline double mla__sigmoid_ref(double x) { return 1 / (1 + exp(-x)); }
/* x [n] = norm(x) */
static inline void mla__norm_ref(double *x, int n, const mla_norm *norm, const mla_norm_weights *w) {
    double mean = 0, var = 0;
    for (int i = 0; i < n && norm->kind == MLA_NORM_LAYER; i++) mean += x[i] / n;
    for (int i = 0; i < n; i++) var += (x[i] - mean) * (x[i] - mean) / n;
    for (int i = 0; i < n && norm->kind != MLA_NORM_NONE; i++) {
        x[i] = norm->kind == MLA_NORM_DYT ? tanh(mla__weight_ref(&w->alpha, 0, 0) * x[i])
                                          : (x[i] - mean) / sqrt(var + (double)norm->eps);
        x[i] = mla__weight_ref(&w->weight, 0, i) * x[i] + mla__weight_ref(&w->bias, 0, i);
    }
    if (!w->gate_down.data || norm->kind == MLA_NORM_NONE) return;
    const mla_linear down = {w->gate_down, mla_view(NULL, MLA_F32, 0, 0)}, up = {w->gate_up, down.bias};
    double *z = mla__room_ref(down.weight.rows), *gate = mla__room_ref(n);
    mla__linear_ref(z, &down, x);
    for (int i = 0; i < down.weight.rows; i++) z[i] *= mla__sigmoid_ref(z[i]);
    mla__linear_ref(gate, &up, z);
    for (int i = 0; i < n; i++) x[i] *= mla__sigmoid_ref(gate[i]);
    free(z), free(gate);
}

/* x [P] = rope(x): pairs turn by t * inv_freq, which is an f32 in the models' own code. */
static inline void mla__rope_ref(double *x, const mla_model *m, mla_rope_layout layout, int t) {
    const int P = mla_model_config(m)->qk_rope_head_dim, pair = layout == MLA_ROPE_PAIR;
    for (int i = 0; i < P / 2 && layout != MLA_ROPE_NONE; i++) {
        const float angle = (float)t * mla_model_inv_freq(m)[i];
        double *a = x + (pair ? 2 * i : i), *b = pair ? a + 1 : a + P / 2, was = *a;
        *a = (was * cos((double)angle) - *b * sin((double)angle)) * (double)mla_model_rope_amplitude(m);
        *b = (*b * cos((double)angle) + was * sin((double)angle)) * (double)mla_model_rope_amplitude(m);
    }
}

/* [c, kr] = Wkva x;  row [R+P] = [norm(c), rope(kr)], what is cached */
static inline void mla__row_ref(double *row, const mla_model *m, const mla_attn_weights *w, const double *x, int t) {
    const mla_config *f = mla_model_config(m);
    mla__linear_ref(row, &w->kv_a, x);
    mla__norm_ref(row, f->kv_lora_rank, &f->kv_norm, &w->kv_norm);
    for (int r = 0; r < f->kv_lora_rank; r++) row[r] *= (double)f->latent_scale;
    mla__rope_ref(row + f->kv_lora_rank, m, f->rope.layout, t);
}

/* Head h: q = [qn, qr], rows [T, R+P] = [c, kr], mask [T], -INFINITY hides a key -> p [T], and o [V], zero before
     [k, v] = Wkvb c;  s(u) = scale * (qn.k(u) + qr.kr(u)) + mask(u);  p = softmax(s);  o = sum_u p(u) v(u)
     absorbed: qa = Wk^T qn;  qn.k(u) = qa.c(u);  o = Wv sum_u p(u) c(u).    A bias is a column of W that meets a 1. */
static inline void mla__head_ref(double *o, double *p, const mla_model *m, const mla_attn_weights *l, int h,
                                 const double *q, const double *rows, const double *mask, int T, int absorbed) {
    const mla_config *f = mla_model_config(m);
    const int R = f->kv_lora_rank, P = f->qk_rope_head_dim, N = f->qk_nope_head_dim, V = f->v_head_dim, C = R + 1;
    double *w = mla__room_ref((double)(N + V) * C), *kv = mla__room_ref((double)(N + V) * T), *qa = mla__room_ref(C),
           *c = mla__room_ref((double)C * T), *pc = mla__room_ref(C), max = -(double)INFINITY, sum = 0;
    for (int i = 0; i < N + V; i++) {
        for (int r = 0; r < R; r++) /* Wkvb, or its halves, of which that of the keys is transposed */
            w[i * C + r] = l->kv_b.weight.data ? mla__weight_ref(&l->kv_b.weight, h * (N + V) + i, r)
                           : i < N             ? mla__weight_ref(&l->k_b, h * R + r, i)
                                               : mla__weight_ref(&l->v_b, h * V + i - N, r);
        w[i * C + R] = mla__weight_ref(&l->kv_b.bias, 0, h * (N + V) + i);
        for (int r = 0; r < C && i < N; r++) qa[r] += w[i * C + r] * q[i];
    }
    for (int u = 0; u < T; u++) {
        double *k = kv + u * (N + V), *cu = c + u * C;
        for (int r = 0; r < C; r++) cu[r] = r < R ? rows[u * (R + P) + r] : 1;
        for (int i = 0; i < N + V && !absorbed; i++) k[i] = mla__dot_ref(w + i * C, cu, C);
        p[u] = absorbed ? mla__dot_ref(qa, cu, C) : mla__dot_ref(q, k, N);
        p[u] = (double)f->softmax_scale * (p[u] + mla__dot_ref(q + N, rows + u * (R + P) + R, P)) + mask[u];
        max = p[u] > max ? p[u] : max;
    }
    for (int u = 0; u < T; u++) sum += p[u] = max > -(double)INFINITY ? exp(p[u] - max) : 0;
    if (l->sinks.data && sum > 0) sum += exp(mla__weight_ref(&l->sinks, 0, h) - max);
    for (int u = 0; u < T && sum > 0; u++) { /* a token that sees no key gets 0 */
        p[u] /= sum;
        for (int r = 0; r < C; r++) pc[r] += p[u] * c[u * C + r];
        for (int i = 0; i < V && !absorbed; i++) o[i] += p[u] * kv[u * (N + V) + N + i];
    }
    for (int i = 0; i < V && absorbed; i++) o[i] = mla__dot_ref(w + (N + i) * C, pc, C);
    free(w), free(kv), free(c), free(qa), free(pc);
}

/* How many of x [n] stand before the i-th: larger ones, and equal ones of lower index. */
static inline int mla__rank_ref(const double *x, int n, int i) {
    int rank = 0;
    for (int j = 0; j < n; j++) rank += x[j] > x[i] || (!(x[j] < x[i]) && j < i);
    return rank;
}

/* k [d] = rope(norm(Wk x)) of an indexer, what is cached */
static inline void mla__key_ref(double *k, const mla_model *m, const mla_indexer_weights *w, const double *x, int t) {
    const mla_config *f = mla_model_config(m);
    const mla_norm norm = {MLA_NORM_LAYER, f->index_norm_eps};
    mla__linear_ref(k, &w->wk, x);
    mla__norm_ref(k, w->wk.weight.rows, &norm, &w->k_norm);
    mla__rope_ref(k + (f->index_rope_last ? f->index_head_dim - f->qk_rope_head_dim : 0), m, f->index_rope, t);
}
/* I(t,u) = sum_h w_h(x) relu(q_h(c_q).k(u)) -> score [T], over keys [T, d];  mask hides all but the index_topk best */
static inline void mla__choose_ref(double *mask, double *score, const mla_model *m, const mla_indexer_weights *w,
                                   const double *x, const double *cq, const double *keys, int t, int T) {
    const mla_config *f = mla_model_config(m);
    const int Hi = f->index_n_heads, d = f->index_head_dim, turned = f->index_rope_last ? d - f->qk_rope_head_dim : 0;
    const mla_linear proj = {w->weights_proj, mla_view(NULL, MLA_F32, 0, 0)};
    double *q = mla__room_ref((double)Hi * d), *wh = mla__room_ref(Hi);
    mla__linear_ref(q, &w->wq_b, cq), mla__linear_ref(wh, &proj, x);
    for (int h = 0; h < Hi; h++) mla__rope_ref(q + h * d + turned, m, f->index_rope, t), wh[h] /= sqrt((double)Hi * d);
    for (int u = 0; u < T; u++) {
        score[u] = mask[u];
        for (int h = 0; h < Hi; h++) score[u] += wh[h] * fmax(mla__dot_ref(q + h * d, keys + u * d, d), 0);
    }
    for (int u = 0; u < T; u++) mask[u] = mla__rank_ref(score, T, u) < f->index_topk ? mask[u] : -(double)INFINITY;
    free(q), free(wh);
}

/* attention: c_q = norm(Wqa x);  q = Wqb c_q  (or q = Wq x);  y [D] = Wo concat_h(o_h). rows [T, R+P] and, where there
   is an indexer, keys [T, d] of all that mask [T] may show; mask then hides those not chosen. p [H, T], score [T] */
static inline void mla__attention_ref(double *y, double *p, double *score, const mla_model *m,
                                      const mla_attn_weights *w, const double *x, const double *rows,
                                      const double *keys, double *mask, int t, int T, int absorbed) {
    const mla_config *f = mla_model_config(m);
    const int Q = f->q_lora_rank, H = f->num_attention_heads, N = f->qk_nope_head_dim, V = f->v_head_dim;
    const int qk = N + f->qk_rope_head_dim, row = qk + (f->q_gate ? V : 0),
              G = w->gate.weight.data ? w->gate.weight.rows : 0;
    double *cq = mla__room_ref(2.0 * Q), *q = mla__room_ref((double)H * row), *o = mla__room_ref((double)H * V);
    double *gate = mla__room_ref(G), scale = (double)f->q_scale;
    if (f->temperature_beta > 0) scale *= 1 + (double)f->temperature_beta * log(1 + t / f->temperature_period);
    if (Q > 0) mla__linear_ref(cq, &w->q_a, x);
    for (int i = 0; i < Q; i++) cq[Q + i] = cq[i]; /* for q_twice */
    if (Q > 0) mla__norm_ref(cq, Q, &f->q_norm, &w->q_norm);
    if (G > 0) mla__linear_ref(gate, &w->gate, x);
    mla__linear_ref(q, Q > 0 ? &w->q_b : &w->q, Q > 0 ? cq : x);
    if (f->index_topk > 0 && w->indexer.wk.weight.data) mla__choose_ref(mask, score, m, &w->indexer, x, cq, keys, t, T);
    for (int h = 0; h < H; h++) {
        mla__rope_ref(q + h * row + N, m, f->rope.layout, t);
        for (int i = 0; i < qk; i++) q[h * row + i] *= scale;
        mla__head_ref(o + h * V, p + h * T, m, w, h, q + h * row, rows, mask, T, absorbed);
        for (int i = 0; i < V && (f->q_gate || G > 0); i++)
            o[h * V + i] *= mla__sigmoid_ref(f->q_gate ? q[h * row + qk + i] : gate[G > H ? h * V + i : h]);
    }
    mla__linear_ref(y, &w->o, o);
    free(cq), free(q), free(o), free(gate);
}

/* delta, head h, of q, k, v, f, z [C] each: state S [C, C] goes on by a token, and z becomes norm(o) * sig(z). */
static inline void mla__delta_ref(double *S, double *const qkv[3], const double *f, double beta, double *z,
                                  const mla_model *m, const mla_kda_weights *w, int h) {
    const mla_config *c = mla_model_config(m);
    const int C = c->linear_head_dim;
    const double A = exp(mla__weight_ref(&w->a_log, 0, h)), bound = (double)c->kda_lower_bound;
    double *q = qkv[0], *k = qkv[1], *v = qkv[2], mean = 0;
    const double q_length = sqrt(mla__dot_ref(q, q, C) + 1e-6) * sqrt((double)C),
                 k_length = sqrt(mla__dot_ref(k, k, C) + 1e-6);
    for (int i = 0; i < C; i++) {
        const double x = f[i] + mla__weight_ref(&w->dt_bias, 0, h * C + i);
        const double g = bound < 0 ? bound / (1 + exp(-A * x)) : -A * (fmax(x, 0) + log1p(exp(-fabs(x))));
        q[i] /= q_length, k[i] /= k_length;
        for (int j = 0; j < C; j++) S[i * C + j] *= exp(g);
    }
    for (int j = 0; j < C; j++) {
        double u = v[j], o = 0;
        for (int i = 0; i < C; i++) u -= S[i * C + j] * k[i];
        for (int i = 0; i < C; i++) S[i * C + j] += k[i] * beta * u, o += S[i * C + j] * q[i];
        v[j] = o, mean += o * o / C;
    }
    for (int j = 0; j < C; j++)
        z[j] = v[j] / sqrt(mean + (double)c->block_norm.eps) * mla__weight_ref(&w->norm, 0, j) / (1 + exp(-z[j]));
}
/* y = B A x, or without A: B x */
static inline void mla__pair_ref(double *y, const mla_linear *a, const mla_linear *b, const double *x) {
    double *between = mla__room_ref(a->weight.rows);
    if (a->weight.data) mla__linear_ref(between, a, x);
    mla__linear_ref(y, b, a->weight.data ? between : x);
    free(between);
}
/* The token after those that made state [Hl, C, C] and inputs [3, taps - 1, Hl*C] of q, k and v's convolutions, which
   go on by it; zeros before the first one. */
static inline void mla__kda_ref(double *y, double *state, double *inputs, const mla_model *m, const mla_kda_weights *w,
                                const double *x) {
    const mla_config *c = mla_model_config(m);
    const int H = c->linear_num_heads, C = c->linear_head_dim, n = H * C, taps = c->linear_conv_kernel_dim;
    const mla_linear *linear[3] = {&w->q, &w->k, &w->v};
    const mla_tensor *conv[3] = {&w->q_conv, &w->k_conv, &w->v_conv};
    double *in = mla__room_ref(n), *f = mla__room_ref(n), *z = mla__room_ref(n), *beta = mla__room_ref(H),
           *qkv = mla__room_ref(3.0 * n);
    mla__pair_ref(f, &w->f_a, &w->f_b, x), mla__pair_ref(z, &w->g_a, &w->g_b, x), mla__linear_ref(beta, &w->b, x);
    for (int i = 0; i < 3; i++) {
        double *before = inputs + i * (taps - 1) * n, *to = qkv + i * n;
        mla__linear_ref(in, linear[i], x);
        for (int j = 0; j < n; j++) {
            for (int t = 0; t < taps; t++)
                to[j] += mla__weight_ref(conv[i], j, t) * (t < taps - 1 ? before[t * n + j] : in[j]);
            to[j] /= 1 + exp(-to[j]);
            for (int t = 0; t < taps - 1; t++) before[t * n + j] = t < taps - 2 ? before[(t + 1) * n + j] : in[j];
        }
    }
    for (int h = 0; h < H; h++) {
        double *const one[3] = {qkv + h * C, qkv + n + h * C, qkv + 2 * n + h * C};
        mla__delta_ref(state + h * C * C, one, f + h * C, 1 / (1 + exp(-beta[h])), z + h * C, m, w, h);
    }
    mla__linear_ref(y, &w->o, z);
    free(in), free(f), free(z), free(beta), free(qkv);
}

/* y = down(silu(gate x) * up x), with limit above 0 clamped */
static inline void mla__mlp_ref(double *y, const mla_mlp_weights *w, double limit, const double *x) {
    double *g = mla__room_ref(w->gate.weight.rows), *up = mla__room_ref(w->up.weight.rows);
    mla__linear_ref(g, &w->gate, x), mla__linear_ref(up, &w->up, x);
    for (int i = 0; i < w->gate.weight.rows; i++) {
        if (limit > 0) g[i] = fmin(g[i], limit), up[i] = fmax(fmin(up[i], limit), -limit);
        g[i] *= up[i] * mla__sigmoid_ref(g[i]);
    }
    mla__linear_ref(y, &w->down, g);
    free(g), free(up);
}

/* Logits z [E+Z] -> the top-K, best first, and their w_e; by [2, E+Z] is what chose them and their scores, group
   [n_group] their groups. */
static inline void mla__route_ref(int *expert, double *we, double *by, double *group, const mla_config *f,
                                  const mla_tensor *bias, const double *z) {
    const int E = f->n_routed_experts + f->zero_expert_num, G = f->n_group, per = E / G, K = f->num_experts_per_tok;
    const int v3 = f->topk_method >= MLA_TOPK_NOAUX_TC, grouped = f->topk_method != MLA_TOPK_GREEDY && G > 1;
    const double others = f->topk_method == MLA_TOPK_NOAUX_TC ? -(double)INFINITY : 0;
    double *s = by + E, sum = 0, chosen = 0;
    for (int e = 0; e < E; e++) sum += exp(z[e]);
    for (int e = 0; e < E; e++) {
        s[e] = f->scoring_func == MLA_SCORING_SOFTMAX ? exp(z[e]) / sum : 1 / (1 + exp(-z[e]));
        by[e] = s[e] + mla__weight_ref(bias, 0, e);
    }
    for (int g = 0; g < G; g++) group[g] = 0;
    for (int e = 0; e < E; e++) /* V3: the sum of the two best of a group; V2: the best */
        if (mla__rank_ref(by + e / per * per, per, e % per) < (v3 ? 2 : 1)) group[e / per] += by[e];
    for (int e = 0; e < E && grouped; e++) /* V2 takes w_e, too, from the masked scores */
        if (mla__rank_ref(group, G, e / per) >= f->topk_group) by[e] = others, s[e] = v3 ? s[e] : 0;
    for (int e = 0; e < E; e++) {
        const int k = mla__rank_ref(by, E, e);
        if (k < K) expert[k] = e, we[k] = s[e], chosen += s[e];
    }
    for (int k = 0; k < K; k++) we[k] *= (double)f->routed_scaling_factor / (f->norm_topk_prob ? chosen + 1e-20 : 1);
}

/* experts: y = sum_{e in top-K} w_e e(x) + shared(x); those behind E give x itself. */
static inline void mla__moe_ref(double *y, int *expert, double *we, const mla_config *f, const mla_moe_weights *w,
                                const double *x) {
    const int E = f->n_routed_experts, D = f->hidden_size, n = w->router.rows;
    const mla_linear router = {w->router, mla_view(NULL, MLA_F32, 0, 0)};
    double *z = mla__room_ref(4.0 * n), *ye = mla__room_ref(D);
    mla__linear_ref(z, &router, x);
    mla__route_ref(expert, we, z + n, z + 3 * n, f, &w->router_bias, z);
    for (int i = 0; i < D; i++) y[i] = 0;
    if (f->n_shared_experts > 0) mla__mlp_ref(y, &w->shared, 0, x);
    for (int k = 0; k < f->num_experts_per_tok; k++) {
        if (expert[k] < E) mla__mlp_ref(ye, &w->experts[expert[k]], (double)f->swiglu_limit, x);
        for (int i = 0; i < D; i++) y[i] += we[k] * (expert[k] < E ? ye[i] : x[i]);
    }
    free(z), free(ye);
}

/* streams X [m, D] -> x [D], and post [m] if the maps give one */
static inline void mla__hc_ref(double *x, double *post, const mla_config *f, const mla_hc_weights *w, const double *X) {
    const int m = f->hc_mult, D = f->hidden_size, n = w->fn.rows;
    const double r = 1 / sqrt(mla__dot_ref(X, X, m * D) / (m * D) + (double)f->block_norm.eps);
    const mla_linear fn = {w->fn, mla_view(NULL, MLA_F32, 0, 0)};
    double *z = mla__room_ref(n);
    mla__linear_ref(z, &fn, X);
    for (int j = 0; j < n; j++)
        z[j] = mla__sigmoid_ref(z[j] * r * mla__weight_ref(&w->scale, 0, j / m) + mla__weight_ref(&w->base, 0, j));
    for (int i = 0; i < D; i++) x[i] = 0;
    for (int j = 0; j < m; j++)
        for (int i = 0; i < D; i++) x[i] += (z[j] + (double)f->hc_eps) * X[j * D + i];
    for (int j = m; j < n; j++) post[j - m] = (double)f->hc_magnitude * z[j] + (double)f->hc_eps;
    free(z);
}
#endif

#if defined(MLA_IMPLEMENTATION) && !defined(MLA__IMPLEMENTED)
#define MLA__IMPLEMENTED

/* ---- >>platform -------------------------------------------------------------------------------------------------- */

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) ||                         \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0)
#error "mla.h needs infinities, NaN and arithmetic as written: compile it without -ffast-math and parts of that"
#endif
#if defined(__BYTE_ORDER__) && defined(__ORDER_LITTLE_ENDIAN__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "mla.h is for little-endian machines: weights are used as the files have them"
#endif
#include <float.h>
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16 /* 16: only f16 has more */
#error "mla.h needs floats rounded as floats: compile it for x86 of 32 bits with -msse2 -mfpmath=sse"
#endif

#include <math.h>
#include <stdarg.h>
#include <stdio.h> /* vsnprintf only: messages go to memory */
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* The file includes itself to instantiate its kernels. __FILE__ alone would break under -ffile-prefix-map. */
#ifndef MLA_FILE
#define MLA_FILE "mla.h"
#ifdef __has_include
#if !__has_include("mla.h") && __has_include(__FILE__)
#undef MLA_FILE
#define MLA_FILE __FILE__
#endif
#endif
#endif
#ifdef __has_include
#if !__has_include(MLA_FILE)
#error                                                                                                                 \
    "mla.h includes itself and does not find itself: define MLA_FILE as this copy's name, as in -DMLA_FILE='\"copy.h\"'"
#endif
#endif

#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
#define MLA__X86 1
#include <cpuid.h>
#if !defined(__clang__) /* gcc 12 warns about its own headers (bug 105593) */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#elif defined(_M_X64) && defined(_MSC_VER)
#define MLA__X86 1
#include <immintrin.h>
#include <intrin.h>
#else
#define MLA__X86 0
#endif

/* AVX512_BF16 and AMX: where the compiler knows them, and on Linux, which must grant the tiles. */
#if MLA__X86 && defined(__x86_64__) && defined(__linux__) &&                                                           \
    (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define MLA__AMX 1
#else
#define MLA__AMX 0
#endif

#if defined(__aarch64__) && defined(__GNUC__)
#define MLA__NEON 1
#include <arm_neon.h>
#else
#define MLA__NEON 0
#endif

#if defined(__wasm_simd128__)
#define MLA__WASM 1
#include <wasm_simd128.h>
#else
#define MLA__WASM 0
#endif

#if defined(MLA_NO_SCALAR) && (MLA__NEON || MLA__WASM)
#define MLA__SCALAR 0
#else
#define MLA__SCALAR 1
#endif

/* With MLA_SMALL formats share the kernels of f32, to which their weights are widened, tokens come one by one, and what
   is SELDOM the most of a call is built for size. */
#if defined(MLA_SMALL) && defined(__GNUC__)
#define MLA__SMALL  1
#define MLA__SELDOM __attribute__((cold))
#elif defined(MLA_SMALL)
#define MLA__SMALL 1
#define MLA__SELDOM
#else
#define MLA__SMALL 0
#define MLA__SELDOM
#endif

#if defined(__GNUC__)
#ifndef MLA__INLINE /* make coverage has none inlined, so that a branch counts once */
#define MLA__INLINE static inline __attribute__((always_inline, unused))
#endif
#define MLA__LEVEL4         "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"
#define MLA__TARGET_AVX2    __attribute__((target("avx2,fma,f16c")))
#define MLA__TARGET_AVX512  __attribute__((target(MLA__LEVEL4)))
#define MLA__TARGET_VNNI    __attribute__((target(MLA__LEVEL4 ",avx512vnni")))
#define MLA__TARGET_VBMI    __attribute__((target(MLA__LEVEL4 ",avx512vbmi")))
#define MLA__TARGET_BF16    __attribute__((target(MLA__LEVEL4 ",avx512vnni,avx512bf16")))
#define MLA__TARGET_AMX     __attribute__((target(MLA__LEVEL4 ",avx512vnni,avx512bf16,amx-tile,amx-int8,amx-bf16")))
#define MLA__PRINTF(f, a)   __attribute__((format(printf, f, a)))
#define MLA__PREFETCH(p)    __builtin_prefetch(p)
#define MLA__PREFETCH_L2(p) __builtin_prefetch(p, 0, 2)
#else
#define MLA__INLINE static inline
#define MLA__TARGET_AVX2
#define MLA__TARGET_AVX512
#define MLA__TARGET_VNNI
#define MLA__TARGET_VBMI
#define MLA__PRINTF(f, a)
#define MLA__PREFETCH(p)    ((void)(p))
#define MLA__PREFETCH_L2(p) ((void)(p))
#endif

/* Register tiles are small arrays indexed by loops of constant length (once inlined): these must be unrolled, also at
   -O2, to live in registers. MLA__EACH is such a loop, for i from 0 to n - 1. */
#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wpass-failed" /* said, too, of loops that an instance of the template has not */
#define MLA__UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define MLA__UNROLL _Pragma("GCC unroll 32")
#else
#define MLA__UNROLL
#endif
#define MLA__EACH(i, n)                                                                                                \
    MLA__UNROLL                                                                                                        \
    for (int i = 0; i < (n); i++)

/* Initializes a struct with zeros. */
#ifdef __cplusplus
#define MLA__ZERO                                                                                                      \
    {}
#else
#define MLA__ZERO                                                                                                      \
    { 0 }
#endif

/* Teams of threads need atomic operations, and something to do while waiting. */
#if defined(__GNUC__) && defined(__GCC_ATOMIC_LLONG_LOCK_FREE) && __GCC_ATOMIC_LLONG_LOCK_FREE == 2
#define MLA__TEAMS 1
#if defined(_WIN32)
#ifdef __cplusplus
extern "C"
#else
extern
#endif
    __declspec(dllimport) int __stdcall SwitchToThread(void); /* as in windows.h, whose names nobody wants here */
#elif defined(__unix__) || defined(__APPLE__)
#include <sched.h>
#endif
static void mla__yield(void) {
#if defined(_WIN32)
    SwitchToThread();
#elif defined(__unix__) || defined(__APPLE__)
    sched_yield();
#endif
}
static void mla__pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}
#else
#define MLA__TEAMS 0
#endif

typedef ptrdiff_t mla__sz; /* strides and counts of elements: signed, as wide as an address */

static int mla__max(int a, int b) { return a > b ? a : b; }
static int mla__min(int a, int b) { return a < b ? a : b; }
static int mla__up_to(int n, int step) { return (n + step - 1) / step * step; }

static mla_result mla__fail(mla_error *err, mla_result code, const char *format, ...) MLA__PRINTF(3, 4);
static mla_result mla__fail(mla_error *err, mla_result code, const char *format, ...) {
    if (err) {
        va_list ap;
        va_start(ap, format);
        err->code = code, err->sequence = -1;
        vsnprintf(err->text, sizeof err->text, format, ap);
        va_end(ap);
    }
    return code;
}
/* The failure is sequence i's. */
static mla_result mla__blame(mla_error *err, int i, mla_result r) {
    if (r != MLA_OK) err->sequence = i;
    return r;
}
#define MLA__REFUSE(err, ...)       mla__fail(err, MLA_ERR_ARGUMENT, __VA_ARGS__)
#define MLA__REFUSE_OF(err, i, ...) mla__blame(err, i, MLA__REFUSE(err, __VA_ARGS__))

#define MLA__TRY(call)                                                                                                 \
    do {                                                                                                               \
        const mla_result mla__r = (call);                                                                              \
        if (mla__r != MLA_OK) return mla__r;                                                                           \
    } while (0)

const char *mla_result_name(mla_result r) {
    switch (r) {
#define MLA_X(name, text)                                                                                              \
    case name: return #name;
        MLA_RESULTS(MLA_X)
#undef MLA_X
    }
    return "?";
}

/* ---- >>numbers --------------------------------------------------------------------------------------------------- */

MLA__INLINE uint32_t mla__bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}
MLA__INLINE float mla__float(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Subnormal codes are built from integers (mantissa times a power of two): flush-to-zero modes do not touch them. */
float mla_f16_to_f32(uint16_t h) {
    const uint32_t sign = (uint32_t)(h >> 15) << 31, e = (h >> 10) & 31u, m = h & 1023u;
    if (e == 0) {
        const float f = (float)m * (1.0f / 16777216.0f);
        return sign ? -f : f;
    }
    if (e == 31) return mla__float(sign | 0x7f800000u | m << 13);
    return mla__float(sign | (e + 112u) << 23 | m << 13);
}
float mla_bf16_to_f32(uint16_t b) { return mla__float((uint32_t)b << 16); }
float mla_e4m3_to_f32(uint8_t x) {
    const uint32_t sign = (uint32_t)(x >> 7) << 31, e = (x >> 3) & 15u, m = x & 7u;
    if ((x & 127) == 127) return mla__float(sign | 0x7fc00000u);
    if (e == 0) {
        const float f = (float)m * (1.0f / 512.0f);
        return sign ? -f : f;
    }
    return mla__float(sign | (e + 120u) << 23 | m << 20);
}
float mla_ue8m0_to_f32(uint8_t x) {
    return x == 255 ? mla__float(0x7fc00000u) : x == 0 ? mla__float(0x00400000u) : mla__float((uint32_t)x << 23);
}
uint16_t mla_f32_to_f16(float f) {
    const uint32_t u = mla__bits(f), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x1ffu));
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and up */
    if (a < 0x38800000u) {                                   /* subnormal: a is m * 2^(e-23), the unit is 2^-24 */
        const uint32_t e = a >> 23, m = (a & 0x7fffffu) | 0x800000u, shift = 126u - e;
        if (shift > 24) return (uint16_t)sign;
        const uint32_t half = 1u << (shift - 1), q = m >> shift, rest = m & ((1u << shift) - 1);
        return (uint16_t)(sign | (q + (rest > half || (rest == half && (q & 1)))));
    }
    return (uint16_t)(sign | (((a + 0xfffu + (a >> 13 & 1u)) >> 13) - (112u << 10)));
}
uint16_t mla_f32_to_bf16(float f) {
    const uint32_t u = mla__bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}
uint8_t mla_f32_to_e4m3(float f) {
    const uint32_t u = mla__bits(f), sign = u >> 24 & 128u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint8_t)(sign | 127u);
    if (a >= 0x43e00000u) return (uint8_t)(sign | 126u); /* 448 and up */
    if (a < 0x3c800000u) /* subnormal, the unit is 2^-9: the sum's last bits are the code, or that of 2^-6 */
        return (uint8_t)(sign | (mla__bits(mla__float(a) + 16384.0f) & 15u));
    return (uint8_t)(sign | (((a + 0x7ffffu + (a >> 20 & 1u)) >> 20) - (120u << 3)));
}

/* ---- >>formats --------------------------------------------------------------------------------------------------- */
/* A format is a row of this table. Blocks of weights have their codes in one or two planes of bits and their scales
   somewhere beside: w = scale * code - min, where scale and min are those of a group of the block. */

/* Of weight i, `bits` bits lie in byte at + i / (run * 8/bits) * run + i % run: a run of bytes holds the first bits of
   `run` weights, then the next bits those of the `run` weights behind. The planes of one bit with run 1 are words.
   Vector kernels know runs of 1 (one bit), of 8 and 16 (four bits) and from 32 on; others need a case in theirs. Codes
   of MLA__CODE_UINT have at most five bits, so that sums of their products fit in 16. */
typedef struct mla__plane {
    short at, run, bits;
} mla__plane;

typedef enum mla__code {                 /* what the bits u of a weight mean */
                         MLA__CODE_UINT, /* u - offset: products take u as it is and the offset by way of the minimum */
                         MLA__CODE_SHIFTED, /* u - offset, taken off at once */
                         MLA__CODE_INT8,
                         MLA__CODE_NL, /* that of a list */
                         MLA__CODE_FP4
} mla__code;

typedef enum mla__scaling { /* how scales are kept; what follows "of" is how many groups they are for */
                            MLA__SCALING_NONE,
                            MLA__SCALING_D,  /* one f16 */
                            MLA__SCALING_DM, /* one f16, and one for -min */
                            MLA__SCALING_K,  /* six bits each of 8 scales and minima in 12 bytes, times an f16 each */
                            MLA__SCALING_Q2, /* four bits each of 16 scales and minima, times an f16 each */
                            MLA__SCALING_Q3, /* six bits, less 32, of 16 scales in 12 bytes, times an f16 */
                            MLA__SCALING_Q6, /* int8 of 16 scales, times an f16 */
                            MLA__SCALING_XS, /* six bits, less 32, of 8 scales in 6 bytes, times an f16 */
                            MLA__SCALING_MX, /* a power of two */
                            MLA__SCALING_NV  /* e4m3 of 4 scales, without sign */
} mla__scaling;

typedef struct mla__format {
    const char *name;
    short block, bytes, group; /* weights, their bytes, weights that share a scale */
    mla__plane low, high;
    short offset;
    mla__code code;
    mla__scaling scaling;
    short head; /* interleaved, bytes before the words: halves, or a byte if it is one */
} mla__format;

static const mla__format mla__formats[MLA_DTYPE_COUNT] = {
    {"f32", 1, 4, 1, {0, 0, 0}, {0, 0, 0}, 0, MLA__CODE_UINT, MLA__SCALING_NONE, 0},
    {"f16", 1, 2, 1, {0, 0, 0}, {0, 0, 0}, 0, MLA__CODE_UINT, MLA__SCALING_NONE, 0},
    {"bf16", 1, 2, 1, {0, 0, 0}, {0, 0, 0}, 0, MLA__CODE_UINT, MLA__SCALING_NONE, 0},
    {"e4m3", 1, 1, 1, {0, 0, 0}, {0, 0, 0}, 0, MLA__CODE_UINT, MLA__SCALING_NONE, 0},
    {"i8", 1, 1, 1, {0, 0, 0}, {0, 0, 0}, 0, MLA__CODE_UINT, MLA__SCALING_NONE, 0},
    {"q8", 32, 34, 32, {2, 32, 8}, {0, 0, 0}, 0, MLA__CODE_INT8, MLA__SCALING_D, 2},
    {"q4", 32, 18, 32, {2, 16, 4}, {0, 0, 0}, 8, MLA__CODE_UINT, MLA__SCALING_D, 2},
    {"q4_1", 32, 20, 32, {4, 16, 4}, {0, 0, 0}, 0, MLA__CODE_UINT, MLA__SCALING_DM, 4},
    {"q5_0", 32, 22, 32, {6, 16, 4}, {2, 1, 1}, 16, MLA__CODE_UINT, MLA__SCALING_D, 2},
    {"q5_1", 32, 24, 32, {8, 16, 4}, {4, 1, 1}, 0, MLA__CODE_UINT, MLA__SCALING_DM, 4},
    {"q2_k", 256, 84, 16, {16, 32, 2}, {0, 0, 0}, 0, MLA__CODE_UINT, MLA__SCALING_Q2, 0},
    {"q3_k", 256, 110, 16, {32, 32, 2}, {0, 32, 1}, 4, MLA__CODE_SHIFTED, MLA__SCALING_Q3, 0},
    {"q4_k", 256, 144, 32, {16, 32, 4}, {0, 0, 0}, 0, MLA__CODE_UINT, MLA__SCALING_K, 4},
    {"q5_k", 256, 176, 32, {48, 32, 4}, {16, 32, 1}, 0, MLA__CODE_UINT, MLA__SCALING_K, 4},
    {"q6_k", 256, 210, 16, {0, 64, 4}, {128, 32, 2}, 32, MLA__CODE_SHIFTED, MLA__SCALING_Q6, 0},
    {"iq4_nl", 32, 18, 32, {2, 16, 4}, {0, 0, 0}, 0, MLA__CODE_NL, MLA__SCALING_D, 2},
    {"iq4_xs", 256, 136, 32, {8, 16, 4}, {0, 0, 0}, 0, MLA__CODE_NL, MLA__SCALING_XS, 4},
    {"mxfp4", 32, 17, 32, {1, 16, 4}, {0, 0, 0}, 0, MLA__CODE_FP4, MLA__SCALING_MX, 1},
    {"nvfp4", 64, 36, 16, {4, 8, 4}, {0, 0, 0}, 0, MLA__CODE_FP4, MLA__SCALING_NV, 0},
    {"ue8m0", 1, 1, 1, {0, 0, 0}, {0, 0, 0}, 0, MLA__CODE_UINT, MLA__SCALING_NONE, 0},
};
/* Block formats in their order, with rows as they lie alone, or interleaved as well. */
#define MLA__FORMATS(BOTH, ROWS)                                                                                       \
    BOTH(MLA_Q8, q8)                                                                                                   \
    BOTH(MLA_Q4, q4)                                                                                                   \
    BOTH(MLA_Q4_1, q4_1)                                                                                               \
    BOTH(MLA_Q5_0, q5_0)                                                                                               \
    BOTH(MLA_Q5_1, q5_1)                                                                                               \
    ROWS(MLA_Q2_K, q2_k)                                                                                               \
    ROWS(MLA_Q3_K, q3_k)                                                                                               \
    BOTH(MLA_Q4_K, q4_k)                                                                                               \
    BOTH(MLA_Q5_K, q5_k)                                                                                               \
    BOTH(MLA_Q6_K, q6_k)                                                                                               \
    BOTH(MLA_IQ4_NL, iq4_nl)                                                                                           \
    BOTH(MLA_IQ4_XS, iq4_xs)                                                                                           \
    BOTH(MLA_MXFP4, mxfp4)                                                                                             \
    BOTH(MLA_NVFP4, nvfp4)
static const int8_t mla__lists[2][16] = {
    {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}, /* NL */
    {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}};                 /* FP4, times two */

const char *mla_dtype_name(mla_dtype t) { return (unsigned)t < MLA_DTYPE_COUNT ? mla__formats[t].name : "?"; }
int mla_dtype_block(mla_dtype t) { return (unsigned)t < MLA_DTYPE_COUNT ? mla__formats[t].block : 1; }
/* Bytes up to element n; of blocks n is a multiple. */
MLA__INLINE mla__sz mla__bytes(mla_dtype t, mla__sz n) { return n / mla__formats[t].block * mla__formats[t].bytes; }
size_t mla_dtype_bytes(mla_dtype t, size_t n) {
    return (unsigned)t < MLA_DTYPE_COUNT ? n / (size_t)mla__formats[t].block * (size_t)mla__formats[t].bytes : 0;
}
MLA__INLINE int mla__blocked(mla_dtype t) { return mla__formats[t].block > 1; }
/* Where x stays f32 such a row becomes f32 before it is used. */
MLA__INLINE int mla__widened(mla_dtype t) { return mla__blocked(t) || t == MLA_I8; }
/* May a format's rows be interleaved? Words hold four weights each: not if these have less than four bits. */
MLA__INLINE int mla__interleaves(mla_dtype t) { return mla__formats[t].low.bits + mla__formats[t].high.bits >= 4; }
/* Do products have a minimum to take off? */
MLA__INLINE int mla__has_min(const mla__format *f) {
    return f->code == MLA__CODE_UINT && (f->offset || f->scaling == MLA__SCALING_DM || f->scaling == MLA__SCALING_K ||
                                         f->scaling == MLA__SCALING_Q2);
}

/* Interleaved, sixteen rows' blocks have their heads side by side in halves (or a byte), then words of four bytes side
   by side, and at the end what is left in halves: the unit from byte `at` of a row's block on is 16 * at + unit *
   row. */
MLA__INLINE int mla__unit(const mla__format *f, int at) {
    const int words = (f->bytes - f->head) / 4 * 4;
    return at >= f->head && at < f->head + words ? 4 : f->head == 1 ? 1 : 2;
}

MLA__INLINE int mla__bits_of(const mla__plane *p, const unsigned char *b, int i) {
    const int per = 8 / p->bits;
    return b[p->at + i / (p->run * per) * p->run + i % p->run] >> (i / p->run % per * p->bits) & ((1 << p->bits) - 1);
}
/* The code of weight i of a block, as it is multiplied by the scale. */
MLA__INLINE int mla__code_of(const mla__format *f, const unsigned char *b, int i) {
    const int u = mla__bits_of(&f->low, b, i) | (f->high.bits ? mla__bits_of(&f->high, b, i) << f->low.bits : 0);
    return f->code >= MLA__CODE_NL     ? mla__lists[f->code - MLA__CODE_NL][u]
           : f->code == MLA__CODE_INT8 ? (u ^ 128) - 128
                                       : u - f->offset;
}
MLA__INLINE float mla__f16_at(const unsigned char *b) {
    uint16_t h;
    memcpy(&h, b, 2);
    return mla_f16_to_f32(h);
}
MLA__INLINE float mla__power(int e) { /* 2^(e-128) */
    return mla__float(e > 1 ? (uint32_t)(e - 1) << 23 : 0x00200000u << e);
}
/* Scale and minimum of group j of a block; the offset is the code's. */
MLA__INLINE float mla__group_scale(const mla__format *f, const unsigned char *b, int j, float *min) {
    const unsigned char *s = b + 4;
    *min = 0;
    switch (f->scaling) {
    case MLA__SCALING_DM: *min = -mla__f16_at(b + 2); return mla__f16_at(b);
    case MLA__SCALING_K:
        *min = mla__f16_at(b + 2) * (float)(j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4);
        return mla__f16_at(b) * (float)(j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
    case MLA__SCALING_Q2:
        *min = mla__f16_at(b + 82) * (float)(b[j] >> 4);
        return mla__f16_at(b + 80) * (float)(b[j] & 15);
    case MLA__SCALING_Q3:
        s = b + 96;
        return mla__f16_at(b + 108) *
               (float)(((s[j % 8] >> (j / 8 * 4) & 15) | (s[8 + j % 4] >> (j / 4 * 2) & 3) << 4) - 32);
    case MLA__SCALING_Q6: return mla__f16_at(b + 208) * (float)((b[192 + j] ^ 128) - 128);
    case MLA__SCALING_XS:
        return mla__f16_at(b) *
               (float)(((s[j / 2] >> (j % 2 * 4) & 15) | ((b[2] | b[3] << 8) >> (2 * j) & 3) << 4) - 32);
    case MLA__SCALING_MX: return mla__power(b[0]);
    case MLA__SCALING_NV: return (b[j] & 127) == 127 ? 0 : mla_e4m3_to_f32((uint8_t)(b[j] & 127)) * 0.5f;
    default: return mla__f16_at(b);
    }
}

/* Element i of an array that may be misaligned. */
MLA__INLINE float mla__get(mla_dtype t, const void *p, mla__sz i) {
    const unsigned char *b = (const unsigned char *)p;
    const mla__format *f = &mla__formats[t];
    uint16_t h;
    float v, min;
    switch (t) {
    case MLA_F32: memcpy(&v, b + 4 * i, 4); return v;
    case MLA_F16: memcpy(&h, b + 2 * i, 2); return mla_f16_to_f32(h);
    case MLA_BF16: memcpy(&h, b + 2 * i, 2); return mla_bf16_to_f32(h);
    case MLA_E4M3: return mla_e4m3_to_f32(b[i]);
    case MLA_I8: return (float)((b[i] ^ 128) - 128);
    case MLA_UE8M0: return mla_ue8m0_to_f32(b[i]);
    default:
        b += i / f->block * f->bytes, i %= f->block;
        v = mla__group_scale(f, b, (int)i / f->group, &min);
        return v * (float)mla__code_of(f, b, (int)i) - min;
    }
}
/* The same where t is no constant: once, as it is long. */
static float mla__value(mla_dtype t, const void *p, mla__sz i) { return mla__get(t, p, i); }
MLA__INLINE void mla__put(mla_dtype t, void *p, mla__sz i, float f) {
    unsigned char *b = (unsigned char *)p;
    const uint16_t h = t == MLA_F16 ? mla_f32_to_f16(f) : mla_f32_to_bf16(f);
    if (t == MLA_F32) memcpy(b + 4 * i, &f, 4);
    else memcpy(b + 2 * i, &h, 2);
}

/* The block of a row that begins at column col. An interleaved one is put together in `own`, which holds one. */
#define MLA__BLOCK_BYTES 256
static const unsigned char *mla__block_at(const mla_tensor *w, int row, int col, unsigned char *own) {
    const mla__format *f = &mla__formats[w->dtype];
    const mla__sz blocks = w->cols / f->block, at = col / f->block;
    const unsigned char *b = (const unsigned char *)w->data;
    if (w->layout == MLA_LAYOUT_ROWS) return b + (row * blocks + at) * f->bytes;
    b += (row / 16 * blocks + at) * 16 * f->bytes;
    for (int i = 0, unit; i < f->bytes; i += unit) {
        unit = mla__unit(f, i);
        if (unit == 4) memcpy(own + i, b + 16 * i + 4 * (row % 16), 4);
        else memcpy(own + i, b + 16 * i + unit * (row % 16), 2); /* of one byte, the next is written next */
    }
    return own;
}

#define MLA__SCALE_BLOCK 128
MLA__INLINE int mla__scaled(const mla_tensor *w) { return (w->dtype == MLA_E4M3 || w->dtype == MLA_I8) && w->scale; }
MLA__INLINE int mla__scale_rows(const mla_tensor *w) { return w->scale_rows > 0 ? w->scale_rows : MLA__SCALE_BLOCK; }
MLA__INLINE int mla__scale_cols(const mla_tensor *w) { return w->scale_cols > 0 ? w->scale_cols : MLA__SCALE_BLOCK; }
/* Where the scale of W[row, col] stands among all; W = code * scale. */
MLA__INLINE mla__sz mla__scale_index(const mla_tensor *w, int row, int col) {
    const mla__sz step = mla__scale_cols(w), per_row = (w->cols + step - 1) / step;
    return row / mla__scale_rows(w) * per_row + col / step;
}
MLA__INLINE float mla__scale_at(const mla_tensor *w, mla__sz i) {
    return w->scale_dtype == MLA_F32    ? mla__get(MLA_F32, w->scale, i)
           : w->scale_dtype == MLA_BF16 ? mla__get(MLA_BF16, w->scale, i)
                                        : mla__get(MLA_UE8M0, w->scale, i);
}
MLA__INLINE float mla__scale(const mla_tensor *w, int row, int col) {
    return mla__scale_at(w, mla__scale_index(w, row, col));
}
/* W[row, col] */
float mla_weight(const mla_tensor *w, int row, int col) {
    const int block = mla__formats[w->dtype].block;
    unsigned char own[MLA__BLOCK_BYTES];
    if (mla__blocked(w->dtype)) return mla__value(w->dtype, mla__block_at(w, row, col, own), col % block);
    const float v = mla__value(w->dtype, w->data, row * (mla__sz)w->cols + col);
    return mla__scaled(w) ? v * mla__scale(w, row, col) : v;
}
/* 0 of a tensor that is absent, or of no known dtype: it has no place in the model. */
MLA__INLINE double mla__tensor_bytes(const mla_tensor *w) {
    const int r = mla__scale_rows(w), c = mla__scale_cols(w);
    if (!w->data || (unsigned)w->dtype >= MLA_DTYPE_COUNT || (unsigned)w->scale_dtype >= MLA_DTYPE_COUNT) return 0;
    double n = (double)w->rows * (double)mla__bytes(w->dtype, w->cols);
    if (mla__scaled(w))
        n += (double)((w->rows - 1) / r + 1) * ((w->cols - 1) / c + 1) * (double)mla__bytes(w->scale_dtype, 1);
    return n;
}

/* y [n] = x, each 128 of them rounded to e4m3 times d = largest/448, as by mla_f32_to_e4m3: DeepSeek's act_quant. 0
   where d is no normal number. */
static void mla__round_e4m3(float *y, const float *x, mla__sz n) {
    for (mla__sz b = 0; b < n; b += MLA__SCALE_BLOCK) {
        const mla__sz end = n - b < MLA__SCALE_BLOCK ? n : b + MLA__SCALE_BLOCK;
        float top = 0;
        for (mla__sz i = b; i < end; i++) top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
        const float d = top / 448, some = d >= 1.17549435e-38f ? d : 1;
        /* the sum with 1.5 * 2^20 times v's power of two, from 2^-6 on, keeps three bits after v's first */
        for (mla__sz i = b; i < end; i++) {
            const float v = x[i] / some;
            const uint32_t power = mla__bits(v) & 0x7f800000u;
            const float big = mla__float((power > 0x3c800000u ? power : 0x3c800000u) + 0x0a400000u);
            y[i] = (v + big - big) * d;
        }
    }
}

/* A group of 32 with scale d, rounded to f16. */
static void mla__quantize_group(mla_dtype t, unsigned char *b, const float *x, float d) {
    const uint16_t h = mla_f32_to_f16(d);
    const float inverse = mla_f16_to_f32(h) != 0 ? 1 / mla_f16_to_f32(h) : 0;
    const float most = t == MLA_Q4 ? 7 : 127, least = t == MLA_Q4 ? -8 : -127;
    int codes[MLA_GROUP];
    memcpy(b, &h, 2);
    for (int i = 0; i < MLA_GROUP; i++) {
        float q = x[i] * inverse;
        q = q > most ? most : q;
        q = q >= least ? q : least;                        /* NaN gives least */
        codes[i] = (int)((q + 12582912.0f) - 12582912.0f); /* rounds to the nearest integer, without a call */
    }
    if (t == MLA_Q8)
        for (int i = 0; i < MLA_GROUP; i++) b[2 + i] = (unsigned char)(codes[i] & 255);
    else
        for (int i = 0; i < 16; i++) b[2 + i] = (unsigned char)((codes[i] + 8) | (codes[i + 16] + 8) << 4);
}
/* n elements rounded to a dtype; of Q8 a multiple of the group. */
static void mla__narrow(mla_dtype t, void *out, const float *x, mla__sz n) {
    for (mla__sz i = 0; i < n && t != MLA_Q8; i++) mla__put(t, out, i, x[i]);
    for (mla__sz i = 0; i < n && t == MLA_Q8; i += MLA_GROUP) {
        float top = 0;
        for (int j = 0; j < MLA_GROUP; j++) top = fabsf(x[i + j]) > top ? fabsf(x[i + j]) : top;
        mla__quantize_group(t, (unsigned char *)out + mla__bytes(t, i), x + i, top / 127);
    }
}
static void mla__narrow_q8(void *out, const float *x, mla__sz n) { mla__narrow(MLA_Q8, out, x, n); }

mla_tensor mla_view(const void *data, mla_dtype dtype, int rows, int cols) {
    mla_tensor t = MLA__ZERO;
    t.data = data, t.dtype = dtype, t.rows = rows, t.cols = cols;
    return t;
}

/* ---- >>cpu ------------------------------------------------------------------------------------------------------- */

#if MLA__X86
static void mla__cpuid(int leaf, int subleaf, unsigned r[4]) {
#if defined(_MSC_VER)
    __cpuidex((int *)r, leaf, subleaf);
#else
    r[0] = r[1] = r[2] = r[3] = 0;
    __get_cpuid_count((unsigned)leaf, (unsigned)subleaf, &r[0], &r[1], &r[2], &r[3]);
#endif
}
static uint64_t mla__xgetbv(void) {
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
#endif
}
/* The best instruction set of this CPU that its OS saves the registers of. */
static mla_isa mla__ask_isa(void) {
    unsigned r[4];
    mla__cpuid(1, 0, r);
    const unsigned need = 1u << 27 | 1u << 28 | 1u << 12 | 1u << 29; /* OSXSAVE, AVX, FMA, F16C */
    if ((r[2] & need) != need) return MLA_ISA_SCALAR;
    const uint64_t saved = mla__xgetbv();
    mla__cpuid(7, 0, r);
    if ((saved & 6) != 6 || !(r[1] >> 5 & 1)) return MLA_ISA_SCALAR;
    const unsigned wide = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    if ((saved & 0xe6) != 0xe6 || (r[1] & wide) != wide) return MLA_ISA_AVX2;
    if (!(r[2] >> 11 & 1)) return MLA_ISA_AVX512;
#if MLA__AMX
    const unsigned tiles = 1u << 22 | 1u << 24 | 1u << 25; /* BF16, TILE, INT8 */
    const int amx = (saved & 0x60000) == 0x60000 && (r[3] & tiles) == tiles;
    mla__cpuid(7, 1, r);
    if (r[0] >> 5 & 1) return amx ? MLA_ISA_AMX : MLA_ISA_BF16;
#endif
    return MLA_ISA_VNNI;
}
/* An mla_isa, and flags for what an instruction set does not say. */
enum { MLA__CPU_ISA = 15, MLA__CPU_VBMI = 16, MLA__CPU_INTEL = 32 };
static int mla__ask_cpu(void) {
    unsigned max[4], r[4];
    mla__cpuid(0, 0, max);
    mla__cpuid(7, 0, r);
    return (int)mla__ask_isa() | (r[2] >> 1 & 1 ? MLA__CPU_VBMI : 0) | (max[1] == 0x756e6547u ? MLA__CPU_INTEL : 0);
}
/* Linux saves the tiles of processes that asked for it: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA). */
static int mla__amx_granted(void) {
#if MLA__AMX
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(158L), "D"(0x1023L), "S"(18L) : "rcx", "r11", "memory");
    return r == 0;
#else
    return 0;
#endif
}
#else
enum { MLA__CPU_ISA = 15 };
static int mla__ask_cpu(void) { return MLA__NEON ? MLA_ISA_NEON : MLA__WASM ? MLA_ISA_SIMD128 : MLA_ISA_SCALAR; }
static int mla__amx_granted(void) { return 0; }
#endif

/* What the CPU says takes microseconds in a virtual machine and never changes: it is asked once. Threads that ask at
   the same time write the same number. */
static int mla__cpu(void) {
#if defined(__GNUC__)
    static int known;
    int cpu = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (cpu == 0) __atomic_store_n(&known, cpu = mla__ask_cpu(), __ATOMIC_RELAXED);
    return cpu;
#else
    static volatile int known;
    if (known == 0) known = mla__ask_cpu();
    return known;
#endif
}
static mla_isa mla__cpu_isa(void) { return (mla_isa)(mla__cpu() & MLA__CPU_ISA); }

int mla_isa_available(mla_isa isa) {
    const mla_isa best = mla__cpu_isa();
    if (isa == MLA_ISA_AMX) return best == isa && mla__amx_granted();
    if (isa == MLA_ISA_AUTO || isa == best) return 1;
    if (isa == MLA_ISA_SCALAR) return MLA__SCALAR;
    return best < MLA_ISA_NEON && (unsigned)isa < MLA_ISA_COUNT && isa < best; /* those of x86 include each other */
}
const char *mla_isa_name(mla_isa isa) {
    static const char *const names[MLA_ISA_COUNT] = {"auto", "scalar", "avx2", "avx512", "vnni",
                                                     "bf16", "amx",    "neon", "simd128"};
    return (unsigned)isa < MLA_ISA_COUNT ? names[isa] : "?";
}

/* ---- >>vocabulary ------------------------------------------------------------------------------------------------ */
/* What the kernel template (>>template) is written in: one set of small functions for each ISA on a
   vector of VL floats.
     ld st set1 zero add mul fma(a*b+c) max sum   as they say; ld and st take any address
     exp                                          within 2 ulp; exactly 0 below -87.3
     same(a, b)                                   all lanes equal
     keep(s, limit, u)                            lane i: limit[i] >= u ? s : -infinity
     get(dtype, p, i) / put(dtype, p, i, v)       VL elements from element i of an array of dtype, exactly / rounded
                                                  to nearest even
     fp8(p, i, v[4], top)                         4 VL elements of E4M3, times 2^-8; NaN is not seen in v, but by
                                                  fp8_nan(top), when all are done
     transpose(r[VL])                             of a VL x VL block in registers
     even(v), odd(v)                              lanes hold pairs of bf16: the first, the second of each as f32 */

typedef float mla__v_scalar;
MLA__INLINE float mla__ld_scalar(const float *p) { return *p; }
MLA__INLINE void mla__st_scalar(float *p, float v) { *p = v; }
MLA__INLINE float mla__set1_scalar(float x) { return x; }
MLA__INLINE float mla__zero_scalar(void) { return 0; }
MLA__INLINE float mla__add_scalar(float a, float b) { return a + b; }
MLA__INLINE float mla__mul_scalar(float a, float b) { return a * b; }
MLA__INLINE float mla__fma_scalar(float a, float b, float c) { return a * b + c; }
MLA__INLINE float mla__max_scalar(float a, float b) { return a > b ? a : b; }
MLA__INLINE float mla__sum_scalar(float a) { return a; }
MLA__INLINE float mla__div_scalar(float a, float b) { return a / b; }
MLA__INLINE float mla__exp_scalar(float x) { return x < -87.33654f ? 0.0f : expf(x); }
MLA__INLINE int mla__same_scalar(float a, float b) { return a == b; }
MLA__INLINE float mla__keep_scalar(float s, const int *limit, int u) { return *limit >= u ? s : -INFINITY; }
MLA__INLINE float mla__get_scalar(mla_dtype t, const void *p, mla__sz i) { return mla__get(t, p, i); }
MLA__INLINE void mla__put_scalar(mla_dtype t, void *p, mla__sz i, float v) { mla__put(t, p, i, v); }
MLA__INLINE void mla__fp8_scalar(const void *p, mla__sz i, float *v, float *top) {
    for (int j = 0; j < 4; j++) {
        v[j] = mla__get(MLA_E4M3, p, i + j) * (1.0f / 256);
        *top = v[j] != v[j] ? v[j] : *top;
    }
}
MLA__INLINE int mla__fp8_nan_scalar(float top) { return top != top; }
MLA__INLINE void mla__transpose_scalar(float *r) { (void)r; }
MLA__INLINE float mla__even_scalar(float v) { return mla__float(mla__bits(v) << 16); }
MLA__INLINE float mla__odd_scalar(float v) { return mla__float(mla__bits(v) & 0xffff0000u); }

#if MLA__X86
#define MLA__AVX2 MLA__INLINE MLA__TARGET_AVX2
typedef __m256 mla__v_avx2;
MLA__AVX2 __m128i mla__m128i(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
MLA__AVX2 __m256i mla__m256i(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }
MLA__AVX2 __m256 mla__ld_avx2(const float *p) { return _mm256_loadu_ps(p); }
MLA__AVX2 void mla__st_avx2(float *p, __m256 v) { _mm256_storeu_ps(p, v); }
MLA__AVX2 __m256 mla__set1_avx2(float x) { return _mm256_set1_ps(x); }
MLA__AVX2 __m256 mla__zero_avx2(void) { return _mm256_setzero_ps(); }
MLA__AVX2 __m256 mla__add_avx2(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
MLA__AVX2 __m256 mla__mul_avx2(__m256 a, __m256 b) { return _mm256_mul_ps(a, b); }
MLA__AVX2 __m256 mla__fma_avx2(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
MLA__AVX2 __m256 mla__max_avx2(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
MLA__AVX2 __m256 mla__div_avx2(__m256 a, __m256 b) { return _mm256_div_ps(a, b); }
MLA__AVX2 float mla__sum_avx2(__m256 a) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
/* exp(x) = 2^n exp(r), r = x - n ln 2 in [-ln2/2, ln2/2]; the polynomial is that of Cephes' expf. */
MLA__AVX2 __m256 mla__exp_avx2(__m256 x) {
    const __m256 low = _mm256_set1_ps(-87.33654f), gone = _mm256_cmp_ps(x, low, _CMP_LT_OQ);
    x = _mm256_max_ps(low, _mm256_min_ps(_mm256_set1_ps(88.37626f), x)); /* this order of operands lets NaN through */
    const __m256 n =
        _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);
    __m256 p = _mm256_set1_ps(1.9875691500e-4f);
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1f));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1f));
    p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
    const __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_andnot_ps(gone, _mm256_mul_ps(p, _mm256_castsi256_ps(e)));
}
MLA__AVX2 int mla__same_avx2(__m256 a, __m256 b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)) == 255; }
MLA__AVX2 __m256 mla__keep_avx2(__m256 s, const int *limit, int u) {
    const __m256i hidden = _mm256_cmpgt_epi32(_mm256_set1_epi32(u), mla__m256i(limit));
    return _mm256_blendv_ps(s, _mm256_set1_ps(-INFINITY), _mm256_castsi256_ps(hidden));
}
/* An e4m3 code, shifted, is an f16 of 2^-8 the value (its conversion knows subnormals); code 127 is NaN. */
MLA__AVX2 void mla__fp8_avx2(const void *p, mla__sz i, __m256 *v,
                             __m256 *top) { /* by way of f16; the sign is extended and cut back */
    const __m256i x = mla__m256i((const unsigned char *)p + i), keep = _mm256_set1_epi16((short)0xbf80);
    const __m256i a = _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm256_castsi256_si128(x)), 7), keep);
    const __m256i b =
        _mm256_and_si256(_mm256_slli_epi16(_mm256_cvtepi8_epi16(_mm256_extracti128_si256(x, 1)), 7), keep);
    v[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(a)), v[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1));
    v[2] = _mm256_cvtph_ps(_mm256_castsi256_si128(b)), v[3] = _mm256_cvtph_ps(_mm256_extracti128_si256(b, 1));
    *top = _mm256_castsi256_ps(_mm256_max_epu8(_mm256_castps_si256(*top), _mm256_or_si256(x, _mm256_set1_epi8(-128))));
}
MLA__AVX2 int mla__fp8_nan_avx2(__m256 top) {
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_castps_si256(top), _mm256_set1_epi8(-1))) != 0;
}
MLA__AVX2 __m256 mla__half_avx2(const unsigned char *b) { /* eight times */
    int16_t h;
    memcpy(&h, b, 2);
    return _mm256_cvtph_ps(_mm_set1_epi16(h));
}
MLA__AVX2 __m256 mla__get_avx2(mla_dtype t, const void *p, mla__sz i) {
    const unsigned char *b = (const unsigned char *)p;
    switch (t) {
    case MLA_F16: return _mm256_cvtph_ps(mla__m128i(b + 2 * i));
    case MLA_BF16: return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(mla__m128i(b + 2 * i)), 16));
    case MLA_E4M3: { /* as above */
        const __m128i x = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)(const void *)(b + i)));
        const __m128i a = _mm_slli_epi16(_mm_and_si128(x, _mm_set1_epi16(127)), 7);
        const __m128i s = _mm_slli_epi16(_mm_and_si128(x, _mm_set1_epi16(128)), 8);
        const __m128i nan = _mm_cmpeq_epi16(a, _mm_set1_epi16(127 << 7));
        return _mm256_mul_ps(_mm256_cvtph_ps(_mm_or_si128(_mm_or_si128(a, s), nan)), _mm256_set1_ps(256.0f));
    }
    case MLA_I8:
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(b + i))));
    case MLA_Q8: {
        b += (size_t)i / 32 * 34;
        const __m128i q = _mm_loadl_epi64((const __m128i *)(const void *)(b + 2 + i % 32));
        return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)), mla__half_avx2(b));
    }
    default: return _mm256_loadu_ps((const float *)(const void *)(b + 4 * i));
    }
}
MLA__AVX2 void mla__put_avx2(mla_dtype t, void *p, mla__sz i, __m256 v) {
    unsigned char *b = (unsigned char *)p;
    if (t == MLA_F16) {
        _mm_storeu_si128((__m128i *)(void *)(b + 2 * i), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    } else if (t == MLA_BF16) {
        const __m256i u = _mm256_castps_si256(v),
                      odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
        const __m256i even = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
        /* not _mm256_blendv_epi8, of which gcc with -funsigned-char makes its first argument */
        const __m256 some =
            _mm256_blendv_ps(_mm256_castsi256_ps(even), _mm256_castsi256_ps(quiet), _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        const __m256i w = _mm256_srli_epi32(_mm256_castps_si256(some), 16);
        _mm_storeu_si128((__m128i *)(void *)(b + 2 * i),
                         _mm_packus_epi32(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
    } else {
        _mm256_storeu_ps((float *)(void *)(b + 4 * i), v);
    }
}
MLA__AVX2 __m256 mla__even_avx2(__m256 v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v), 16)); }
MLA__AVX2 __m256 mla__odd_avx2(__m256 v) { return _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(-65536))); }
MLA__AVX2 void mla__transpose_avx2(__m256 *r) {
    const __m256 a0 = _mm256_unpacklo_ps(r[0], r[1]), a1 = _mm256_unpackhi_ps(r[0], r[1]),
                 a2 = _mm256_unpacklo_ps(r[2], r[3]), a3 = _mm256_unpackhi_ps(r[2], r[3]),
                 a4 = _mm256_unpacklo_ps(r[4], r[5]), a5 = _mm256_unpackhi_ps(r[4], r[5]),
                 a6 = _mm256_unpacklo_ps(r[6], r[7]), a7 = _mm256_unpackhi_ps(r[6], r[7]);
    const __m256 b0 = _mm256_shuffle_ps(a0, a2, 0x44), b1 = _mm256_shuffle_ps(a0, a2, 0xee),
                 b2 = _mm256_shuffle_ps(a1, a3, 0x44), b3 = _mm256_shuffle_ps(a1, a3, 0xee),
                 b4 = _mm256_shuffle_ps(a4, a6, 0x44), b5 = _mm256_shuffle_ps(a4, a6, 0xee),
                 b6 = _mm256_shuffle_ps(a5, a7, 0x44), b7 = _mm256_shuffle_ps(a5, a7, 0xee);
    r[0] = _mm256_permute2f128_ps(b0, b4, 0x20), r[1] = _mm256_permute2f128_ps(b1, b5, 0x20);
    r[2] = _mm256_permute2f128_ps(b2, b6, 0x20), r[3] = _mm256_permute2f128_ps(b3, b7, 0x20);
    r[4] = _mm256_permute2f128_ps(b0, b4, 0x31), r[5] = _mm256_permute2f128_ps(b1, b5, 0x31);
    r[6] = _mm256_permute2f128_ps(b2, b6, 0x31), r[7] = _mm256_permute2f128_ps(b3, b7, 0x31);
}

#define MLA__AVX512 MLA__INLINE MLA__TARGET_AVX512
typedef __m512 mla__v_avx512;
MLA__AVX512 __m512 mla__ld_avx512(const float *p) { return _mm512_loadu_ps(p); }
MLA__AVX512 void mla__st_avx512(float *p, __m512 v) { _mm512_storeu_ps(p, v); }
MLA__AVX512 __m512 mla__set1_avx512(float x) { return _mm512_set1_ps(x); }
MLA__AVX512 __m512 mla__zero_avx512(void) { return _mm512_setzero_ps(); }
MLA__AVX512 __m512 mla__add_avx512(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
MLA__AVX512 __m512 mla__mul_avx512(__m512 a, __m512 b) { return _mm512_mul_ps(a, b); }
MLA__AVX512 __m512 mla__fma_avx512(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
MLA__AVX512 __m512 mla__max_avx512(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
MLA__AVX512 __m512 mla__div_avx512(__m512 a, __m512 b) { return _mm512_div_ps(a, b); }
MLA__AVX512 float mla__sum_avx512(__m512 a) {
    return mla__sum_avx2(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)));
}
MLA__AVX512 __m512 mla__exp_avx512(__m512 x) { /* as for AVX2 */
    const __m512 low = _mm512_set1_ps(-87.33654f);
    const __mmask16 gone = _mm512_cmp_ps_mask(x, low, _CMP_LT_OQ);
    x = _mm512_max_ps(low, _mm512_min_ps(_mm512_set1_ps(88.37626f), x));
    const __m512i i = _mm512_cvtps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)));
    const __m512 n = _mm512_cvtepi32_ps(i);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_set1_ps(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
    const __m512i e = _mm512_slli_epi32(_mm512_add_epi32(i, _mm512_set1_epi32(127)), 23);
    return _mm512_mask_blend_ps(gone, _mm512_mul_ps(p, _mm512_castsi512_ps(e)), _mm512_setzero_ps());
}
MLA__AVX512 int mla__same_avx512(__m512 a, __m512 b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ) == 0xffff; }
MLA__AVX512 __m512 mla__keep_avx512(__m512 s, const int *limit, int u) {
    const __mmask16 hidden = _mm512_cmpgt_epi32_mask(_mm512_set1_epi32(u), _mm512_loadu_si512(limit));
    return _mm512_mask_blend_ps(hidden, s, _mm512_set1_ps(-INFINITY));
}
MLA__AVX512 void mla__fp8_avx512(const void *p, mla__sz i, __m512 *v, __m512 *top) { /* as for AVX2 */
    const __m512i x = _mm512_loadu_si512((const unsigned char *)p + i), keep = _mm512_set1_epi16((short)0xbf80);
    const __m512i a = _mm512_and_si512(_mm512_slli_epi16(_mm512_cvtepi8_epi16(_mm512_castsi512_si256(x)), 7), keep);
    const __m512i b =
        _mm512_and_si512(_mm512_slli_epi16(_mm512_cvtepi8_epi16(_mm512_extracti64x4_epi64(x, 1)), 7), keep);
    v[0] = _mm512_cvtph_ps(_mm512_castsi512_si256(a)), v[1] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(a, 1));
    v[2] = _mm512_cvtph_ps(_mm512_castsi512_si256(b)), v[3] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(b, 1));
    *top = _mm512_castsi512_ps(_mm512_max_epu8(_mm512_castps_si512(*top), _mm512_or_si512(x, _mm512_set1_epi8(-128))));
}
MLA__AVX512 int mla__fp8_nan_avx512(__m512 top) {
    return _mm512_cmpeq_epi8_mask(_mm512_castps_si512(top), _mm512_set1_epi8(-1)) != 0;
}
MLA__AVX512 __m512 mla__get_avx512(mla_dtype t, const void *p, mla__sz i) {
    const unsigned char *b = (const unsigned char *)p;
    switch (t) {
    case MLA_F16: return _mm512_cvtph_ps(mla__m256i(b + 2 * i));
    case MLA_BF16: return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(mla__m256i(b + 2 * i)), 16));
    case MLA_E4M3: {
        const __m256i x = _mm256_cvtepu8_epi16(mla__m128i(b + i));
        const __m256i a = _mm256_slli_epi16(_mm256_and_si256(x, _mm256_set1_epi16(127)), 7);
        const __m256i s = _mm256_slli_epi16(_mm256_and_si256(x, _mm256_set1_epi16(128)), 8);
        const __m256i nan = _mm256_cmpeq_epi16(a, _mm256_set1_epi16(127 << 7));
        return _mm512_mul_ps(_mm512_cvtph_ps(_mm256_or_si256(_mm256_or_si256(a, s), nan)), _mm512_set1_ps(256.0f));
    }
    case MLA_I8: return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(mla__m128i(b + i)));
    case MLA_Q8: {
        b += (size_t)i / 32 * 34;
        int16_t h;
        memcpy(&h, b, 2);
        const __m512i q = _mm512_cvtepi8_epi32(mla__m128i(b + 2 + i % 32));
        return _mm512_mul_ps(_mm512_cvtepi32_ps(q), _mm512_cvtph_ps(_mm256_set1_epi16(h)));
    }
    default: return _mm512_loadu_ps((const float *)(const void *)(b + 4 * i));
    }
}
MLA__AVX512 void mla__put_avx512(mla_dtype t, void *p, mla__sz i, __m512 v) {
    unsigned char *b = (unsigned char *)p;
    if (t == MLA_F16) {
        _mm256_storeu_si256((__m256i *)(void *)(b + 2 * i),
                            _mm512_maskz_cvtps_ph((__mmask16)0xffff, v, _MM_FROUND_TO_NEAREST_INT));
    } else if (t == MLA_BF16) {
        const __m512i u = _mm512_castps_si512(v),
                      odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
        const __m512i even = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        const __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
        const __m512i w =
            _mm512_srli_epi32(_mm512_mask_blend_epi32(_mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), even, quiet), 16);
        _mm256_storeu_si256((__m256i *)(void *)(b + 2 * i), _mm512_cvtepi32_epi16(w));
    } else {
        _mm512_storeu_ps((float *)(void *)(b + 4 * i), v);
    }
}
MLA__AVX512 __m512 mla__even_avx512(__m512 v) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v), 16));
}
MLA__AVX512 __m512 mla__odd_avx512(__m512 v) {
    return _mm512_and_ps(v, _mm512_castsi512_ps(_mm512_set1_epi32(-65536)));
}
/* Within 128-bit quarters as for AVX2, then the 4 x 4 quarters. */
MLA__AVX512 void mla__transpose_avx512(__m512 *r) {
    __m512 b[16];
    MLA__EACH(i, 4) { /* b[4i + j], quarter q: column 4q + j of rows 4i .. 4i+3 */
        const __m512 a0 = _mm512_unpacklo_ps(r[4 * i], r[4 * i + 1]), a1 = _mm512_unpackhi_ps(r[4 * i], r[4 * i + 1]);
        const __m512 a2 = _mm512_unpacklo_ps(r[4 * i + 2], r[4 * i + 3]),
                     a3 = _mm512_unpackhi_ps(r[4 * i + 2], r[4 * i + 3]);
        b[4 * i] = _mm512_shuffle_ps(a0, a2, 0x44), b[4 * i + 1] = _mm512_shuffle_ps(a0, a2, 0xee);
        b[4 * i + 2] = _mm512_shuffle_ps(a1, a3, 0x44), b[4 * i + 3] = _mm512_shuffle_ps(a1, a3, 0xee);
    }
    MLA__EACH(j, 4) {
        const __m512 c0 = _mm512_shuffle_f32x4(b[j], b[4 + j], 0x44),
                     c1 = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0x44);
        const __m512 c2 = _mm512_shuffle_f32x4(b[j], b[4 + j], 0xee),
                     c3 = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0xee);
        r[j] = _mm512_shuffle_f32x4(c0, c1, 0x88), r[4 + j] = _mm512_shuffle_f32x4(c0, c1, 0xdd);
        r[8 + j] = _mm512_shuffle_f32x4(c2, c3, 0x88), r[12 + j] = _mm512_shuffle_f32x4(c2, c3, 0xdd);
    }
}
#endif

#if MLA__NEON
typedef float32x4_t mla__v_neon;
MLA__INLINE float32x4_t mla__ld_neon(const float *p) { return vld1q_f32(p); }
MLA__INLINE void mla__st_neon(float *p, float32x4_t v) { vst1q_f32(p, v); }
MLA__INLINE float32x4_t mla__set1_neon(float x) { return vdupq_n_f32(x); }
MLA__INLINE float32x4_t mla__zero_neon(void) { return vdupq_n_f32(0); }
MLA__INLINE float32x4_t mla__add_neon(float32x4_t a, float32x4_t b) { return vaddq_f32(a, b); }
MLA__INLINE float32x4_t mla__mul_neon(float32x4_t a, float32x4_t b) { return vmulq_f32(a, b); }
MLA__INLINE float32x4_t mla__fma_neon(float32x4_t a, float32x4_t b, float32x4_t c) { return vfmaq_f32(c, a, b); }
MLA__INLINE float32x4_t mla__max_neon(float32x4_t a, float32x4_t b) { return vmaxq_f32(a, b); }
MLA__INLINE float32x4_t mla__div_neon(float32x4_t a, float32x4_t b) { return vdivq_f32(a, b); }
MLA__INLINE float mla__sum_neon(float32x4_t a) { return vaddvq_f32(a); }
MLA__INLINE float32x4_t mla__exp_neon(float32x4_t x) { /* as for AVX2; minimum and maximum let NaN through */
    const float32x4_t low = vdupq_n_f32(-87.33654f);
    const uint32x4_t gone = vcltq_f32(x, low);
    x = vmaxq_f32(low, vminq_f32(vdupq_n_f32(88.37626f), x));
    const float32x4_t n = vrndnq_f32(vmulq_f32(x, vdupq_n_f32(1.44269504f)));
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(0.693359375f));
    r = vfmsq_f32(r, n, vdupq_n_f32(-2.12194440e-4f));
    float32x4_t p = vdupq_n_f32(1.9875691500e-4f);
    p = vfmaq_f32(vdupq_n_f32(1.3981999507e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(8.3334519073e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(4.1665795894e-2f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.6666665459e-1f), p, r);
    p = vfmaq_f32(vdupq_n_f32(5.0000001201e-1f), p, r);
    p = vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0f));
    const int32x4_t e = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)), 23);
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(vmulq_f32(p, vreinterpretq_f32_s32(e))), gone));
}
MLA__INLINE int mla__same_neon(float32x4_t a, float32x4_t b) { return vminvq_u32(vceqq_f32(a, b)) != 0; }
MLA__INLINE float32x4_t mla__keep_neon(float32x4_t s, const int *limit, int u) {
    return vbslq_f32(vcgeq_s32(vld1q_s32(limit), vdupq_n_s32(u)), s, vdupq_n_f32(-INFINITY));
}
MLA__INLINE void mla__fp8_neon(const void *p, mla__sz i, float32x4_t *v, float32x4_t *top) { /* as for AVX2 */
    const uint8x16_t x = vld1q_u8((const unsigned char *)p + i);
    const int8x16_t y = vreinterpretq_s8_u8(x);
    const uint16x8_t keep = vdupq_n_u16(0xbf80);
    const float16x8_t a = vreinterpretq_f16_u16(vandq_u16(vreinterpretq_u16_s16(vshll_n_s8(vget_low_s8(y), 7)), keep));
    const float16x8_t b = vreinterpretq_f16_u16(vandq_u16(vreinterpretq_u16_s16(vshll_n_s8(vget_high_s8(y), 7)), keep));
    v[0] = vcvt_f32_f16(vget_low_f16(a)), v[1] = vcvt_f32_f16(vget_high_f16(a));
    v[2] = vcvt_f32_f16(vget_low_f16(b)), v[3] = vcvt_f32_f16(vget_high_f16(b));
    *top = vreinterpretq_f32_u8(vmaxq_u8(vreinterpretq_u8_f32(*top), vorrq_u8(x, vdupq_n_u8(128))));
}
MLA__INLINE int mla__fp8_nan_neon(float32x4_t top) { return vmaxvq_u8(vreinterpretq_u8_f32(top)) == 255; }
MLA__INLINE float32x4_t mla__get_neon(mla_dtype t, const void *p, mla__sz i) {
    const unsigned char *b = (const unsigned char *)p;
    uint16_t h[4];
    uint32_t four;
    switch (t) {
    case MLA_F16: memcpy(h, b + 2 * i, 8); return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(h)));
    case MLA_BF16: memcpy(h, b + 2 * i, 8); return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(h)), 16));
    case MLA_E4M3: {
        memcpy(&four, b + i, 4);
        const uint16x4_t x = vget_low_u16(vmovl_u8(vcreate_u8(four))), a = vshl_n_u16(vand_u16(x, vdup_n_u16(127)), 7);
        const uint16x4_t s = vshl_n_u16(vand_u16(x, vdup_n_u16(128)), 8), nan = vceq_u16(a, vdup_n_u16(127 << 7));
        return vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u16(vorr_u16(vorr_u16(a, s), nan))), 256.0f);
    }
    case MLA_I8: memcpy(&four, b + i, 4); return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four)))));
    default: return vreinterpretq_f32_u8(vld1q_u8(b + 4 * i));
    }
}
MLA__INLINE void mla__put_neon(mla_dtype t, void *p, mla__sz i, float32x4_t v) {
    for (int j = 0; j < 4; j++) {
        float f[4];
        vst1q_f32(f, v);
        mla__put(t, p, i + j, f[j]);
    }
}
MLA__INLINE float32x4_t mla__even_neon(float32x4_t v) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(v), 16));
}
MLA__INLINE float32x4_t mla__odd_neon(float32x4_t v) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), vdupq_n_u32(0xffff0000u)));
}
MLA__INLINE void mla__transpose_neon(float32x4_t *r) {
    const float32x4_t a = vzip1q_f32(r[0], r[2]), b = vzip2q_f32(r[0], r[2]), c = vzip1q_f32(r[1], r[3]),
                      d = vzip2q_f32(r[1], r[3]);
    r[0] = vzip1q_f32(a, c), r[1] = vzip2q_f32(a, c), r[2] = vzip1q_f32(b, d), r[3] = vzip2q_f32(b, d);
}
#endif

#if MLA__WASM
typedef v128_t mla__v_wasm;
MLA__INLINE v128_t mla__ld_wasm(const float *p) { return wasm_v128_load(p); }
MLA__INLINE void mla__st_wasm(float *p, v128_t v) { wasm_v128_store(p, v); }
MLA__INLINE v128_t mla__set1_wasm(float x) { return wasm_f32x4_splat(x); }
MLA__INLINE v128_t mla__zero_wasm(void) { return wasm_f32x4_splat(0); }
MLA__INLINE v128_t mla__add_wasm(v128_t a, v128_t b) { return wasm_f32x4_add(a, b); }
MLA__INLINE v128_t mla__mul_wasm(v128_t a, v128_t b) { return wasm_f32x4_mul(a, b); }
#ifdef __wasm_relaxed_simd__
MLA__INLINE v128_t mla__fma_wasm(v128_t a, v128_t b, v128_t c) { return wasm_f32x4_relaxed_madd(a, b, c); }
#else
MLA__INLINE v128_t mla__fma_wasm(v128_t a, v128_t b, v128_t c) { return wasm_f32x4_add(wasm_f32x4_mul(a, b), c); }
#endif
MLA__INLINE v128_t mla__max_wasm(v128_t a, v128_t b) { return wasm_f32x4_pmax(b, a); } /* one instruction of x86 */
MLA__INLINE v128_t mla__div_wasm(v128_t a, v128_t b) { return wasm_f32x4_div(a, b); }
MLA__INLINE float mla__sum_wasm(v128_t a) {
    const v128_t s = wasm_f32x4_add(a, wasm_i32x4_shuffle(a, a, 2, 3, 2, 3));
    return wasm_f32x4_extract_lane(s, 0) + wasm_f32x4_extract_lane(s, 1);
}
MLA__INLINE v128_t mla__exp_wasm(v128_t x) { /* as for AVX2; minimum and maximum let NaN through */
    const v128_t low = wasm_f32x4_splat(-87.33654f), gone = wasm_f32x4_lt(x, low);
    x = wasm_f32x4_pmax(wasm_f32x4_pmin(x, wasm_f32x4_splat(88.37626f)), low);
    const v128_t n = wasm_f32x4_nearest(wasm_f32x4_mul(x, wasm_f32x4_splat(1.44269504f)));
    v128_t r = mla__fma_wasm(n, wasm_f32x4_splat(-0.693359375f), x);
    r = mla__fma_wasm(n, wasm_f32x4_splat(2.12194440e-4f), r);
    v128_t p = wasm_f32x4_splat(1.9875691500e-4f);
    p = mla__fma_wasm(p, r, wasm_f32x4_splat(1.3981999507e-3f));
    p = mla__fma_wasm(p, r, wasm_f32x4_splat(8.3334519073e-3f));
    p = mla__fma_wasm(p, r, wasm_f32x4_splat(4.1665795894e-2f));
    p = mla__fma_wasm(p, r, wasm_f32x4_splat(1.6666665459e-1f));
    p = mla__fma_wasm(p, r, wasm_f32x4_splat(5.0000001201e-1f));
    p = wasm_f32x4_add(mla__fma_wasm(p, wasm_f32x4_mul(r, r), r), wasm_f32x4_splat(1.0f));
    const v128_t e = wasm_i32x4_add(wasm_i32x4_trunc_sat_f32x4(n), wasm_i32x4_splat(127));
    return wasm_v128_andnot(wasm_f32x4_mul(p, wasm_i32x4_shl(e, 23)), gone);
}
MLA__INLINE int mla__same_wasm(v128_t a, v128_t b) { return wasm_i32x4_all_true(wasm_f32x4_eq(a, b)); }
MLA__INLINE v128_t mla__keep_wasm(v128_t s, const int *limit, int u) {
    return wasm_v128_bitselect(s, wasm_f32x4_splat(-INFINITY),
                               wasm_i32x4_ge(wasm_v128_load(limit), wasm_i32x4_splat(u)));
}
/* Codes as words, sign, exponent and mantissa where those of f32 are, are 2^-120 of what they stand for. */
MLA__INLINE v128_t mla__fp8_word_wasm(v128_t x, float scale) {
    const v128_t f = wasm_v128_and(wasm_i32x4_shl(x, 20), wasm_i32x4_splat((int)0x87f00000u));
    return wasm_f32x4_mul(f, wasm_f32x4_splat(scale));
}
MLA__INLINE void mla__fp8_wasm(const void *p, mla__sz i, v128_t *v, v128_t *top) {
    const v128_t x = wasm_v128_load((const unsigned char *)p + i);
    const v128_t low = wasm_i16x8_extend_low_i8x16(x), high = wasm_i16x8_extend_high_i8x16(x);
    const float scale = 5.192296858534828e33f; /* 2^112 */
    v[0] = mla__fp8_word_wasm(wasm_i32x4_extend_low_i16x8(low), scale);
    v[1] = mla__fp8_word_wasm(wasm_i32x4_extend_high_i16x8(low), scale);
    v[2] = mla__fp8_word_wasm(wasm_i32x4_extend_low_i16x8(high), scale);
    v[3] = mla__fp8_word_wasm(wasm_i32x4_extend_high_i16x8(high), scale);
    *top = wasm_u8x16_max(*top, wasm_v128_or(x, wasm_i8x16_splat(-128)));
}
MLA__INLINE int mla__fp8_nan_wasm(v128_t top) { return wasm_v128_any_true(wasm_i8x16_eq(top, wasm_i8x16_splat(-1))); }
MLA__INLINE v128_t mla__get_wasm(mla_dtype t, const void *p, mla__sz i) {
    const unsigned char *b = (const unsigned char *)p;
    switch (t) {
    case MLA_F16: { /* the same with halves, and infinity and NaN, whose exponent is all ones */
        const v128_t x = wasm_i32x4_load16x4(b + 2 * i),
                     a = wasm_v128_and(wasm_i32x4_shl(x, 13), wasm_i32x4_splat(0x0fffe000));
        const v128_t f = wasm_f32x4_mul(a, wasm_f32x4_splat(5.192296858534828e33f));
        const v128_t most = wasm_v128_and(wasm_i32x4_ge(a, wasm_i32x4_splat(0x0f800000)), wasm_i32x4_splat(0x7f800000));
        return wasm_v128_or(wasm_v128_or(f, most), wasm_v128_and(x, wasm_i32x4_splat((int)0x80000000u)));
    }
    case MLA_BF16: return wasm_i32x4_shl(wasm_u32x4_load16x4(b + 2 * i), 16);
    case MLA_E4M3: {
        const v128_t x = wasm_i32x4_extend_low_i16x8(wasm_i16x8_extend_low_i8x16(wasm_v128_load32_zero(b + i)));
        const v128_t nan = wasm_i32x4_eq(wasm_v128_and(x, wasm_i32x4_splat(127)), wasm_i32x4_splat(127));
        return wasm_v128_or(mla__fp8_word_wasm(x, 1.329227995784916e36f), /* 2^120 */
                            wasm_v128_and(nan, wasm_i32x4_splat(0x7fc00000)));
    }
    case MLA_I8:
        return wasm_f32x4_convert_i32x4(
            wasm_i32x4_extend_low_i16x8(wasm_i16x8_extend_low_i8x16(wasm_v128_load32_zero(b + i))));
    default: return wasm_v128_load(b + 4 * i);
    }
}
MLA__INLINE void mla__put_wasm(mla_dtype t, void *p, mla__sz i, v128_t v) {
    float f[4];
    wasm_v128_store(f, v);
    for (int j = 0; j < 4; j++) mla__put(t, p, i + j, f[j]);
}
MLA__INLINE v128_t mla__even_wasm(v128_t v) { return wasm_i32x4_shl(v, 16); }
MLA__INLINE v128_t mla__odd_wasm(v128_t v) { return wasm_v128_and(v, wasm_i32x4_splat((int)0xffff0000u)); }
MLA__INLINE void mla__transpose_wasm(v128_t *r) {
    const v128_t a = wasm_i32x4_shuffle(r[0], r[1], 0, 4, 1, 5), b = wasm_i32x4_shuffle(r[0], r[1], 2, 6, 3, 7),
                 c = wasm_i32x4_shuffle(r[2], r[3], 0, 4, 1, 5), d = wasm_i32x4_shuffle(r[2], r[3], 2, 6, 3, 7);
    r[0] = wasm_i64x2_shuffle(a, c, 0, 2), r[1] = wasm_i64x2_shuffle(a, c, 1, 3);
    r[2] = wasm_i64x2_shuffle(b, d, 0, 2), r[3] = wasm_i64x2_shuffle(b, d, 1, 3);
}
#endif

/* ---- >>table ----------------------------------------------------------------------------------------------------- */

#define MLA__NR_MAX 32   /* most columns of a panel in any ISA */
#define MLA__NL_MAX 16   /* most lanes of queries */
#define MLA__AK     192  /* channels of a key that attention takes at a time */
#define MLA__AR_MAX 16   /* most rows of a register tile of attention */
#define MLA__KC     512  /* most depth of a packed panel: half of KC * NR floats stay in the first-level cache */
#define MLA__MC     256  /* tokens per pass over a packed panel: MC * KC floats stay in the second-level cache */
#define MLA__FAR    2048 /* bytes ahead of their use that streaming weights are fetched, where they are */
#define MLA__NEAR   1024 /* the same of rows of blocks of 32, where others are not */
#define MLA__FEW    2    /* up to so many tokens a product is bound by memory, and weights are used as they stream by */
#define MLA__STRIP                                                                                                     \
    16 /* rows of weights that are never split between workers, so that no result depends on their number */
#define MLA__GROUP 64  /* rows handled at a time when their results need a second look (SwiGLU, scatter) */
#define MLA__KEYS  128 /* most keys in a block of attention */

/* Lanes of queries (rows of q, from one or several heads and tokens) that walk over blocks of keys together: flash
   attention (arXiv 2205.14135) with the queries in the vector lanes, so that maxima and sums need no shuffles. */
typedef struct mla__lanes {
    float *q;     /* [dk, NL], scaled; unused lanes zero */
    float *o;     /* [NL, dv], sum of p v so far */
    float *m, *l; /* [NL], maximum and sum so far */
    int *limit;   /* [NL], last key each lane may see */
    int n, started;
    const float *mask[MLA__NL_MAX]; /* added to the scores, a row for each lane; NULL in lane 0: no lane has one */
    float *probs[MLA__NL_MAX];      /* raw scores go here, a row for each lane; NULL in lane 0: nowhere */
} mla__lanes;

/* The keys and values that panels of queries meet at a time. */
typedef struct mla__visit {
    const void *k, *v; /* [nu, ldk] and [nu, ldv]; rows of v are read up to the next multiple of NR */
    const void *ahead; /* the next visit's keys, which are fetched meanwhile */
    mla__sz ldk, ldv;
    int dk, dv, u0, nu; /* channels of a key and of a value; position of the first key; keys */
    float *s, *wide;    /* scratch: scores [n, nu, NL] of n panels; keys as f32, [AR, AK] */
} mla__visit;

/* One token and one head of KDA: S = diag(exp(g)) S; S += k u^T with u = beta (v - S^T k); o = S^T q. All have C
   channels, S [C keys, C values]; to may be from, else they are apart. */
typedef struct mla__recur {
    const float *q, *k, *v, *g, *from;
    float *to, *o;
    float *e; /* scratch [3, C] */
    float beta;
    int C;
} mla__recur;

#define MLA__CHUNK       32 /* tokens of one head that meet in matrix products, at most */
#define MLA__CHUNK_BLOCK 16 /* of these, those whose decay is taken from one of them on */
#define MLA__CHUNK_RANGE 80 /* of its logarithm: e to this, and its inverse, are floats */
/* The same for n tokens at once. Rows are ld floats apart, a multiple of NR_MAX, and 0 from channel C on. With G the
   sum of g up to a token, and those of one chunk, i and j:
     A(i,j) = sum_c k(i) k(j) e^(G(i) - G(j)), B the same with q(i)
     u(i) = beta(i) (v(i) - S^T k(i) e^G(i) - sum_(j<i) A(i,j) u(j));  o(i) = S^T q(i) e^G(i) + sum_(j<=i) B(i,j) u(j)
     S = diag(e^G(n)) S + sum_j k(j) e^(G(n) - G(j)) u(j)^T
   No e^-G is ever made, which overflows: k(j) of earlier blocks is kept times e^(G(first of this block) - G(j)). */
typedef struct mla__chunk {
    int n, C;
    mla__sz ld;
    float *q, *k, *v, *g;  /* [n, ld], used up */
    const float *beta;     /* [n] */
    float *s;              /* [C, ld] the state */
    float *w;              /* [2 n, ld]: out: u, and o from row n on */
    float *x, *kt, *a, *e; /* scratch: [2 n, ld] [ld, CHUNK] [2 CHUNK, CHUNK] [2 + CHUNK_BLOCK, ld] */
} mla__chunk;

/* What an indexer's first glance takes: queries and keys in 16 bits, each of length GLANCE, or less, so that no sum of
   their products, of however many channels, leaves 32 bits. Times its scale each channel is what it was, to half a
   scale. */
#define MLA__GLANCE       32000.0f
#define MLA__GLANCE_LEAST 1e-15f /* shorter vectors are taken for as long */
#define MLA__GLANCE_KEYS  6      /* at a time */
typedef struct mla__glance {
    int16_t *q;            /* [panels, d/2, NL, 2], of panels an even number */
    float *scale, *weight; /* [panels, NL]; weight: of heads, times scale */
    int16_t *k;            /* scratch [GLANCE_KEYS, d] */
    float *wide;           /* the same as f32 */
    void (*widen)(float *y, const void *x, mla__sz n);
    mla__sz bytes; /* of a key */
} mla__glance;

/* A group of activations in int8: x = d * q. A cache line, so that no load of it crosses one. */
typedef struct mla__act {
    float d, sum, half[2]; /* sum = d * (q[0] + .. + q[31]), and of the first and the last 16 of them */
    int16_t halves[2];     /* the sums of q themselves */
    int32_t start[2]; /* -8 and -128 times that of all q: where sums of products begin whose codes have an offset */
    int32_t unused;
    int8_t q[MLA_GROUP];
} mla__act;

/* Activations that meet weights: T rows, all of x or those that idx picks. q: the same rounded, if the weights want
   that, ldq bytes a row: mla__act, or with parts above 0 bf16 in so many parts, what meets weights in w_parts. Rows of
   x have K values, which meet columns k0 .. k0+K of the weights; K 0: all of them. */
typedef struct mla__in {
    const float *x;
    const unsigned char *q;
    mla__sz ldx, ldq;
    const int *idx;
    int T, parts, w_parts, k0, K;
} mla__in;
MLA__INLINE const mla__act *mla__act_of(const mla__in *in, int t) {
    return (const mla__act *)(const void *)(in->q + (in->idx ? in->idx[t] : t) * in->ldq);
}
MLA__INLINE const float *mla__x_of(const mla__in *in, int t) { return in->x + (in->idx ? in->idx[t] : t) * in->ldx; }
/* Tokens t0 .. t0+T of it. */
static mla__in mla__in_part(const mla__in *in, int t0, int T) {
    mla__in p = *in;
    if (p.idx) p.idx += t0;
    else {
        p.x += t0 * p.ldx;
        if (p.q) p.q += t0 * p.ldq;
    }
    p.T = T;
    return p;
}

/* What activations become, beside mla_activations: two parts in bf16, whose sum is f32 to 2^-16. */
#define MLA__ACT_SPLIT (MLA_ACT_COUNT + 0)
#define MLA__ACT_COUNT (MLA_ACT_COUNT + 1)
/* Bytes of a token's rounded activations: an odd number of lines, or tokens would share few places of a cache. */
static mla__sz mla__act_bytes(int to, int cols) {
    if (to == MLA_ACT_E4M3) return cols * (mla__sz)sizeof(float);
    const mla__sz lines = mla__up_to(cols, MLA_GROUP) / MLA_GROUP; /* of int8, and of a part in bf16 */
    return ((to == MLA__ACT_SPLIT ? 2 : 1) * lines | 1) * (mla__sz)sizeof(mla__act);
}

/* y [T, n0..n1) = x [T, K] . W[row0 + n, 0..K), y indexed from n0; or mix, the transposed use of W: y [T, cols] = x [T,
   n1-n0] . W[row0 + n, :]. */
typedef struct mla__product {
    float *y;
    mla__sz ldy;
    mla__in in;
    const mla_tensor *w;
    int row0, n0, n1, K;    /* K: at most the columns of w */
    int few;                /* mix: rows of weights are used as they stream by */
    float *panel;           /* scratch: [KC, NR_MAX] */
    int fetch;              /* so many bytes ahead streaming weights are fetched; 0: not */
    const mla_tensor *next; /* NULL, or whose rows meet activations next, from next_row on */
    int next_row;
    void (*widen)(float *y, const void *x, mla__sz n); /* of the weights' dtype */
} mla__product;
typedef void (*mla__kernel)(const mla__product *p);
/* Some of the rows of a product, one behind the other: where they end, and how far from there those are that the same
   part of the next product begins with. */
typedef struct mla__flow {
    uintptr_t end, jump;
} mla__flow;
/* Part i of those that are so many units apart, each of so many bytes and `rows` rows; n in all. */
MLA__INLINE mla__flow mla__flow_of(const mla__product *p, const unsigned char *b, int i, int apart, int n, int rows,
                                   mla__sz bytes) {
    const int to = (i + 1) * apart < n ? (i + 1) * apart : n;
    mla__flow s = {(uintptr_t)(b + to * bytes), 0};
    if (p->next) {
        const mla__sz row = mla__bytes(p->next->dtype, p->next->cols);
        const unsigned char *next = (const unsigned char *)p->next->data + (p->next_row + i * apart * rows) * row;
        s.jump = (uintptr_t)next - s.end;
    }
    return s;
}
/* What is `ahead` bytes behind `at`, to be fetched. */
MLA__INLINE const void *mla__flow_at(const mla__flow *s, const unsigned char *at, mla__sz ahead) {
    const uintptr_t to = (uintptr_t)at + (uintptr_t)ahead;
    return (const void *)(to < s->end ? to : to + s->jump);
}

typedef struct mla__kernels {
    mla_isa isa;
    int nl;  /* lanes of queries in a panel */
    int few; /* up to so many tokens meet interleaved rows in int8 without packing them, at least FEW; where it is more,
                  sums are those of packed rows, bit for bit */
    int fetch; /* of products */
    mla__kernel dot[MLA_DTYPE_COUNT], gemm[MLA_DTYPE_COUNT],
        mix[MLA_DTYPE_COUNT];                                                    /* few tokens, many; f32 activations */
    mla__kernel idot[MLA_DTYPE_COUNT][MLA_LAYOUT_COUNT], igemm[MLA_DTYPE_COUNT]; /* blocks, int8 activations */
    mla__kernel bgemm; /* bf16 activations, any weights, more than FEW tokens; NULL: the ISA has none */
    int tiles;         /* it is by far the fastest, so that all weights take it whose results it does not change */
    void (*quantize)(mla__act *y, const float *x, mla__sz n);
    void (*split)(uint16_t *y, const float *x, int n, int parts); /* for bgemm: y [parts, up_to(n, 32)] */
    /* panel [n, NR] = the transpose of nb <= NR rows of n floats, ld apart; other lanes zero */
    float (*q4_scale)(const float *x); /* of a group */
    void (*transpose)(float *panel, const float *rows, int ld, int nb, int n);
    void (*widen[MLA_DTYPE_COUNT])(float *y, const void *x, mla__sz n);
    void (*narrow[MLA_DTYPE_COUNT])(void *y, const float *x, mla__sz n);
    void (*swiglu)(float *h, const float *gate, const float *up, int n); /* h = silu(gate) * up; h may be gate */
    void (*accumulate)(float *y, const float *x, float by, int n);       /* y += by * x */
    /* y = x / sqrt(mean(x^2) + eps) * w, w [n] of dtype t: F32, F16 or BF16; y may be x */
    void (*norm)(float *y, const float *x, float eps, mla_dtype t, const void *w, int n);
    /* of >>kda: y [n] = silu(sum over j of w[j, n] x[j][n]), of n channels and so many taps */
    void (*conv)(float *y, const float *const *x, const float *w, int taps, int n);
    void (*unit)(float *y, const float *x, float length, int n); /* y = x * length / |x|; y may be x */
    /* g = bound * sig(a (f + bias)), with bound 0 -a * softplus(f + bias) */
    void (*decay)(float *g, const float *f, const float *bias, float a, float bound, int n);
    void (*recur)(const mla__recur *r);
    void (*chunk)(const mla__chunk *p);
    /* z = x / sqrt(mean(x^2) + eps) * w * sig(z) */
    void (*gated_norm)(float *z, const float *x, const float *w, float eps, int n);
    void (*gate)(float *y, const float *g, int n);        /* y *= sigmoid(g); y may be g: silu */
    void (*probs)(float *y, float max, float sum, int n); /* y = e^(y - max) / sum */
    /* n panels of queries meet the keys and values of a visit, all of one dtype: F32, F16 or BF16 */
    void (*attend[MLA_DTYPE_COUNT])(mla__lanes *panels, int n, const mla__visit *visit);
    /* score [nu] = sum over the lanes of n panels of weight [n, NL] * relu(q . k); the visit has no values */
    void (*index[MLA_DTYPE_COUNT])(float *score, const mla__lanes *panels, const float *weight, int n,
                                   const mla__visit *visit);
    /* nearly the same much faster (>>sparse), and the scale [nu] of keys; NULL: the ISA has none */
    void (*glance)(float *score, float *scale, const mla__glance *glance, int n, const mla__visit *visit);
    void (*glance_lanes)(mla__glance *glance, int p, const float *q, int d); /* panel p of it from q [d, NL] */
    /* attend for BF16 with dk and dv multiples of 32, which also rounds queries and probabilities to bf16; scratch s
       [n, max(nu, 16), NL], wide [8, dk]; NULL: the ISA has none */
    void (*attend_tiles)(mla__lanes *panels, int n, const mla__visit *visit);
} mla__kernels;

/* ---- >>integer --------------------------------------------------------------------------------------------------- */
/* Blocks of weights times activations in int8, 32 at a time: y = sum over groups of d_w d_x (q_w . q_x) - min_w sum(x),
   the sum in brackets exact. So codes are used as they lie, and their offset is a minimum, too. */

MLA__INLINE void mla__act_sums(mla__act *y, float d, int first, int second) {
    const int sum = first + second;
    y->d = d, y->sum = d * (float)sum, y->half[0] = d * (float)first, y->half[1] = d * (float)second;
    y->halves[0] = (int16_t)first, y->halves[1] = (int16_t)second;
    y->start[0] = -8 * sum, y->start[1] = -128 * sum, y->unused = 0;
}
#define MLA__BYTES 0x0101010101010101u
#if MLA__SCALAR || MLA__NEON
static void mla__quantize_scalar(mla__act *y, const float *x, mla__sz n) {
    for (mla__sz g = 0; g < n / MLA_GROUP; g++, x += MLA_GROUP) {
        uint32_t top = 0; /* as bits, absolute values keep their order, and NaN is above all */
        int sum[2] = {0, 0};
        for (int i = 0; i < MLA_GROUP; i++)
            top = (mla__bits(x[i]) & 0x7fffffffu) > top ? mla__bits(x[i]) & 0x7fffffffu : top;
        const float d = top < 0x7f800000u ? mla__float(top) / 127 : mla__float(0x7fc00000u),
                    inverse = d > 0 ? 1 / d : 0;
        for (int i = 0; i < MLA_GROUP; i++) {
            const float q = d == d ? rintf(x[i] * inverse) : 0;
            y[g].q[i] = (int8_t)(q > 127 ? 127 : q < -127 ? -127 : q);
            sum[i / 16] += y[g].q[i];
        }
        mla__act_sums(&y[g], d, sum[0], sum[1]);
    }
}
#endif

/* Eight weights from i on of a block, a byte each; only planes of single bits have runs shorter than that. */
static uint64_t mla__eight(const mla__plane *p, const unsigned char *b, int i) {
    const int per = 8 / p->bits;
    uint64_t u;
    unsigned char eight[8];
    if (p->run >= 8) {
        memcpy(&u, b + p->at + i / (p->run * per) * p->run + i % p->run, 8);
        return u >> (i / p->run % per * p->bits) & MLA__BYTES * (uint64_t)((1 << p->bits) - 1);
    }
    for (int j = 0; j < 8; j++) eight[j] = (unsigned char)mla__bits_of(p, b, i + j);
    memcpy(&u, eight, 8);
    return u;
}
/* The codes of a block, eight bytes at a time: less the offset, without a borrow from byte to byte. */
static void mla__codes_scalar(const mla__format *f, const unsigned char *b, int8_t *q) {
    for (int i = 0; i < f->block; i += 8) {
        uint64_t u = mla__eight(&f->low, b, i);
        if (f->high.bits) u |= mla__eight(&f->high, b, i) << f->low.bits;
        if (f->offset) u = ((u | MLA__BYTES * 128) - MLA__BYTES * (uint64_t)f->offset) ^ MLA__BYTES * 128;
        memcpy(q + i, &u, 8);
    }
    for (int i = 0; i < f->block && f->code >= MLA__CODE_NL; i++) q[i] = mla__lists[f->code - MLA__CODE_NL][q[i]];
}
static int mla__dot16(const int8_t *a, const int8_t *b) {
    int dot = 0;
    for (int i = 0; i < 16; i++) dot += a[i] * b[i];
    return dot;
}

/* One block of a row times a token's activations from `a` on. */
static float mla__block_dot(const mla__format *f, const int8_t *q, const float *d, const float *min,
                            const mla__act *a) {
    float sum = 0;
    for (int j = 0; j < f->block / f->group; j++) {
        const mla__act *x = a + j * f->group / MLA_GROUP;
        const int from = j * f->group % MLA_GROUP;
        int dot = mla__dot16(x->q + from, q + j * f->group);
        if (f->group > 16) dot += mla__dot16(x->q + 16, q + j * f->group + 16);
        sum += d[j] * x->d * (float)dot;
        if (min[j] != 0) sum -= min[j] * (f->group < MLA_GROUP ? x->half[from / 16] : x->sum);
    }
    return sum;
}
MLA__SELDOM static void mla__idot_scalar(const mla__product *p) {
    const mla__format *f = &mla__formats[p->w->dtype];
    const int groups = f->block / f->group;
    unsigned char own[MLA__BLOCK_BYTES];
    for (int n = p->n0; n < p->n1; n++)
        for (int k = 0; k < p->K; k += f->block) {
            const unsigned char *b = mla__block_at(p->w, p->row0 + n, k, own);
            int8_t q[256];
            float d[16], min[16];
            mla__codes_scalar(f, b, q);
            for (int j = 0; j < groups; j++) d[j] = mla__group_scale(f, b, j, &min[j]);
            for (int t = 0; t < p->in.T; t++) {
                float *y = p->y + t * p->ldy + (n - p->n0);
                const float dot = mla__block_dot(f, q, d, min, mla__act_of(&p->in, t) + k / MLA_GROUP);
                *y = k ? *y + dot : dot;
            }
        }
}

#if MLA__SCALAR || (MLA__NEON && !defined(__ARM_FEATURE_DOTPROD))
static void mla__unpack_scalar(mla_dtype t, float *y, const void *x, mla__sz n) {
    const mla__format *f = &mla__formats[t];
    const unsigned char *b = (const unsigned char *)x;
    int8_t q[256];
    for (; n > 0; n -= f->block, b += f->bytes, y += f->block) {
        mla__codes_scalar(f, b, q);
        for (int j = 0; j < f->block / f->group; j++) {
            float min;
            const float d = mla__group_scale(f, b, j, &min);
            for (int i = j * f->group; i < (j + 1) * f->group; i++) y[i] = d * (float)q[i] - min;
        }
    }
}
#define MLA__ROWS(D, d)                                                                                                \
    static void mla__unpack_##d##_scalar(float *y, const void *x, mla__sz n) { mla__unpack_scalar(D, y, x, n); }
MLA__FORMATS(MLA__ROWS, MLA__ROWS)
#undef MLA__ROWS
static void mla__integer_scalar(mla__kernels *k) {
    k->quantize = mla__quantize_scalar;
    for (int t = MLA_Q8; t < MLA_UE8M0; t++)
        k->idot[t][MLA_LAYOUT_ROWS] = k->idot[t][MLA_LAYOUT_X16] = k->igemm[t] = mla__idot_scalar;
}
#endif

#if MLA__NEON && defined(__ARM_FEATURE_DOTPROD)
static void mla__quantize_128(mla__act *y, const float *x, mla__sz n) { mla__quantize_scalar(y, x, n); }

/* The 32 weights of group g of a block; of planes whose runs are short, one after the other. */
MLA__INLINE uint8x16x2_t mla__plane_neon(const mla__plane *p, const unsigned char *b, int g) {
    const int per = 8 / p->bits, i = 32 * g, at = p->at + i / (p->run * per) * p->run + i % p->run;
    const uint8x16_t mask = vdupq_n_u8((unsigned char)((1 << p->bits) - 1));
    uint8x16x2_t r;
    if (p->run >= 16) {
        const int next = p->run >= 32 ? 16 : 0;
        const int8x16_t s0 = vdupq_n_s8((int8_t)(-(i / p->run % per) * p->bits));
        const int8x16_t s1 = vdupq_n_s8((int8_t)(-((i + 16) / p->run % per) * p->bits));
        r.val[0] = vandq_u8(vshlq_u8(vld1q_u8(b + at), s0), mask);
        r.val[1] = vandq_u8(vshlq_u8(vld1q_u8(b + at + next), s1), mask);
    } else {
        unsigned char u[32];
        for (int j = 0; j < 32; j++) u[j] = (unsigned char)mla__bits_of(p, b, i + j);
        r.val[0] = vld1q_u8(u), r.val[1] = vld1q_u8(u + 16);
    }
    return r;
}
MLA__INLINE void mla__codes_128(int8x16_t *r, const mla_dtype t, const unsigned char *b, int g) {
    const mla__format *f = &mla__formats[t];
    const uint8x16x2_t low = mla__plane_neon(&f->low, b, g);
    MLA__EACH(h, 2) {
        uint8x16_t u = low.val[h];
        if (f->high.bits)
            u = vorrq_u8(u, vshlq_u8(mla__plane_neon(&f->high, b, g).val[h], vdupq_n_s8((int8_t)f->low.bits)));
        r[h] = vreinterpretq_s8_u8(u);
        if (f->code == MLA__CODE_SHIFTED) r[h] = vsubq_s8(r[h], vdupq_n_s8((int8_t)f->offset));
        if (f->code >= MLA__CODE_NL) r[h] = vqtbl1q_s8(vld1q_s8(mla__lists[f->code - MLA__CODE_NL]), u);
    }
}

typedef int8x16_t mla__i8_128;
typedef int32x4_t mla__i32_128;
typedef struct mla__group_128 {
    int8x16_t q[2];
} mla__group_128;
#define MLA__128(name) mla__##name##_neon
MLA__INLINE mla__group_128 mla__group_of_128(const int8_t *q) {
    const mla__group_128 x = {{vld1q_s8(q), vld1q_s8(q + 16)}};
    return x;
}
MLA__INLINE int32x4_t mla__dot_128(const mla__format *f, int32x4_t sum, int8x16_t u, const mla__group_128 *x, int h) {
    (void)f;
    return vdotq_s32(sum, u, x->q[h]);
}
MLA__INLINE int32x4_t mla__none_128(void) { return vdupq_n_s32(0); }
MLA__INLINE float32x4_t mla__float_128(int32x4_t x) { return vcvtq_f32_s32(x); }
MLA__INLINE int8x16_t mla__less_128(int8x16_t u, int offset) { return vsubq_s8(u, vdupq_n_s8((int8_t)offset)); }
MLA__INLINE float32x4_t mla__four_128(int8x16_t u, int i) {
    const int16x8_t w = vmovl_s8(i < 2 ? vget_low_s8(u) : vget_high_s8(u));
    return vcvtq_f32_s32(vmovl_s16(i % 2 ? vget_high_s16(w) : vget_low_s16(w)));
}
#endif

#if MLA__WASM
static void mla__quantize_128(mla__act *y, const float *x, mla__sz n) {
    const v128_t magnitude = wasm_i32x4_splat(0x7fffffff), ones = wasm_i16x8_splat(1);
    for (mla__sz g = 0; g < n / MLA_GROUP; g++, x += MLA_GROUP) {
        v128_t m = wasm_i32x4_splat(0), q[8];
        MLA__EACH(i, 8) m = wasm_i32x4_max(m, wasm_v128_and(magnitude, wasm_v128_load(x + 4 * i)));
        m = wasm_i32x4_max(m, wasm_i32x4_shuffle(m, m, 2, 3, 2, 3));
        m = wasm_i32x4_max(m, wasm_i32x4_shuffle(m, m, 1, 1, 1, 1));
        const uint32_t top = (uint32_t)wasm_i32x4_extract_lane(m, 0);
        const float d = top < 0x7f800000u ? mla__float(top) / 127 : mla__float(0x7fc00000u);
        const v128_t inverse = wasm_f32x4_splat(d > 0 ? 1 / d : 0);
        MLA__EACH(i, 8) /* infinity saturates, and NaN gives 0 */
            q[i] = wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(wasm_f32x4_mul(wasm_v128_load(x + 4 * i), inverse)));
        int sum[2];
        MLA__EACH(h, 2) {
            const v128_t a = wasm_i16x8_narrow_i32x4(q[4 * h], q[4 * h + 1]),
                         b = wasm_i16x8_narrow_i32x4(q[4 * h + 2], q[4 * h + 3]);
            const v128_t c = wasm_i8x16_max(wasm_i8x16_narrow_i16x8(a, b), wasm_i8x16_splat(-127));
            wasm_v128_store(y[g].q + 16 * h, c);
            v128_t s = wasm_i32x4_dot_i16x8(wasm_i16x8_extadd_pairwise_i8x16(c), ones);
            s = wasm_i32x4_add(s, wasm_i32x4_shuffle(s, s, 2, 3, 2, 3));
            sum[h] = wasm_i32x4_extract_lane(s, 0) + wasm_i32x4_extract_lane(s, 1);
        }
        mla__act_sums(&y[g], d, sum[0], sum[1]);
    }
}

/* r: the 32 weights of group g of a block */
MLA__INLINE void mla__plane_wasm(v128_t *r, const mla__plane *p, const unsigned char *b, int g) {
    const int per = 8 / p->bits, i = 32 * g, shift = i / p->run % per * p->bits;
    const unsigned char *at = b + p->at + i / (p->run * per) * p->run + i % p->run;
    const v128_t mask = wasm_i8x16_splat((int8_t)((1 << p->bits) - 1));
    if (p->run == 1) { /* a word of bits: each byte looks at its own */
        const v128_t word = wasm_v128_load32_splat(b + p->at), bit = wasm_i64x2_splat((int64_t)0x8040201008040201u);
        const v128_t low = wasm_i8x16_shuffle(word, word, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
        const v128_t high = wasm_i8x16_shuffle(word, word, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
        r[0] = wasm_v128_and(wasm_i8x16_eq(wasm_v128_and(low, bit), bit), mask);
        r[1] = wasm_v128_and(wasm_i8x16_eq(wasm_v128_and(high, bit), bit), mask);
        return;
    }
    const v128_t x = wasm_v128_load(at), low = wasm_v128_and(wasm_u16x8_shr(x, (uint32_t)shift), mask);
    if (p->run >= 32) {
        r[0] = p->bits == 8 ? x : low, r[1] = wasm_v128_load(at + 16);
        if (p->bits < 8) r[1] = wasm_v128_and(wasm_u16x8_shr(r[1], (uint32_t)shift), mask);
        return;
    }
    const v128_t high = wasm_v128_and(wasm_u16x8_shr(x, 4), mask); /* of 16 bytes both parts, all or each eight */
    r[0] = p->run == 8 ? wasm_i64x2_shuffle(low, high, 0, 2) : low;
    r[1] = p->run == 8 ? wasm_i64x2_shuffle(low, high, 1, 3) : high;
}
MLA__INLINE void mla__codes_128(v128_t *r, const mla_dtype t, const unsigned char *b, int g) {
    const mla__format *f = &mla__formats[t];
    v128_t high[2];
    mla__plane_wasm(r, &f->low, b, g);
    if (f->high.bits) mla__plane_wasm(high, &f->high, b, g);
    MLA__EACH(h, 2) {
        if (f->high.bits) r[h] = wasm_v128_or(r[h], wasm_i16x8_shl(high[h], (uint32_t)f->low.bits));
        if (f->code == MLA__CODE_SHIFTED) r[h] = wasm_i8x16_sub(r[h], wasm_i8x16_splat((int8_t)f->offset));
        if (f->code >= MLA__CODE_NL)
            r[h] = wasm_i8x16_swizzle(wasm_v128_load(mla__lists[f->code - MLA__CODE_NL]), r[h]);
    }
}

typedef v128_t mla__i8_128;
typedef v128_t mla__i32_128;
typedef struct mla__group_128 {
    v128_t q[2], wide[4]; /* the same as halves */
} mla__group_128;
#define MLA__128(name) mla__##name##_wasm
MLA__INLINE mla__group_128 mla__group_of_128(const int8_t *q) {
    mla__group_128 x;
    MLA__EACH(h, 2) {
        x.q[h] = wasm_v128_load(q + 16 * h);
        x.wide[2 * h] = wasm_i16x8_extend_low_i8x16(x.q[h]);
        x.wide[2 * h + 1] = wasm_i16x8_extend_high_i8x16(x.q[h]);
    }
    return x;
}
MLA__INLINE v128_t mla__dot_128(const mla__format *f, v128_t sum, v128_t u, const mla__group_128 *x, int h) {
#ifdef __wasm_relaxed_simd__
    if (f->code == MLA__CODE_UINT) return wasm_i32x4_relaxed_dot_i8x16_i7x16_add(x->q[h], u, sum);
#endif
    (void)f;
    const v128_t low = wasm_i32x4_dot_i16x8(wasm_i16x8_extend_low_i8x16(u), x->wide[2 * h]),
                 high = wasm_i32x4_dot_i16x8(wasm_i16x8_extend_high_i8x16(u), x->wide[2 * h + 1]);
    return wasm_i32x4_add(sum, wasm_i32x4_add(low, high));
}
MLA__INLINE v128_t mla__none_128(void) { return wasm_i32x4_splat(0); }
MLA__INLINE v128_t mla__float_128(v128_t x) { return wasm_f32x4_convert_i32x4(x); }
MLA__INLINE v128_t mla__less_128(v128_t u, int offset) { return wasm_i8x16_sub(u, wasm_i8x16_splat((int8_t)offset)); }
MLA__INLINE v128_t mla__four_128(v128_t u, int i) {
    const v128_t w = i < 2 ? wasm_i16x8_extend_low_i8x16(u) : wasm_i16x8_extend_high_i8x16(u);
    return wasm_f32x4_convert_i32x4(i % 2 ? wasm_i32x4_extend_high_i16x8(w) : wasm_i32x4_extend_low_i16x8(w));
}
#endif

/* And what both sets of 128 bits do with these words:
     codes(u[2], dtype, block, g)    the codes of its group g of 32
     group_of(q)                     32 activations, as dot takes them
     dot(f, sum, u, x, h)            sum, and those of four products each of 16 codes and half h of the activations
     none, float(sum)                no sum; as floats
     less(u, offset), four(u, i)     codes less an offset; four of them from 4 i on, as floats */
#if MLA__WASM || (MLA__NEON && defined(__ARM_FEATURE_DOTPROD))
/* R rows of weights times one token; the weights of four rows keep the dot products apart from each other's latency. */
MLA__INLINE void mla__idot_rows_128(const mla_dtype t, const int R, float *y, const mla__act *x, const unsigned char *b,
                                    mla__sz row, int groups) {
    const mla__format *f = &mla__formats[t];
    const int each = f->block / MLA_GROUP, halves = MLA_GROUP / f->group, plain = f->scaling == MLA__SCALING_D;
    MLA__128(v) acc[4];
    float low[4];
    MLA__EACH(i, R) acc[i] = MLA__128(zero)(), low[i] = 0;
    for (int g = 0; g < groups; g++) {
        const mla__group_128 q = mla__group_of_128(x[g].q);
        MLA__EACH(i, R) {
            const unsigned char *w = b + i * row + (mla__sz)(g / each) * f->bytes;
            float m, m1 = 0;
            const float d = mla__group_scale(f, w, g % each * halves, &m);
            const float d1 = halves > 1 ? mla__group_scale(f, w, g % each * halves + 1, &m1) : d;
            mla__i8_128 u[2];
            mla__codes_128(u, t, w, g % each);
            const mla__i32_128 first = mla__dot_128(f, mla__none_128(), u[0], &q, 0),
                               second = mla__dot_128(f, halves > 1 ? mla__none_128() : first, u[1], &q, 1);
            if (halves > 1) acc[i] = MLA__128(fma)(mla__float_128(first), MLA__128(set1)(d * x[g].d), acc[i]);
            acc[i] = MLA__128(fma)(mla__float_128(second), MLA__128(set1)(d1 * x[g].d), acc[i]);
            if (mla__has_min(f))
                low[i] += halves > 1 ? m * x[g].half[0] + m1 * x[g].half[1] : (plain ? d : m) * x[g].sum;
        }
    }
    MLA__EACH(i, R) y[i] = MLA__128(sum)(acc[i]) - (plain ? (float)f->offset : 1) * low[i];
}
MLA__INLINE void mla__unpack_128(const mla_dtype t, float *y, const void *x, mla__sz n) {
    const mla__format *f = &mla__formats[t];
    const unsigned char *b = (const unsigned char *)x;
    for (; n > 0; n -= f->block, b += f->bytes)
        for (int g = 0; g < f->block / MLA_GROUP; g++) {
            mla__i8_128 u[2];
            mla__codes_128(u, t, b, g);
            for (int h = 0; h < 2; h++, y += 16) {
                float min;
                const float d = mla__group_scale(f, b, (32 * g + 16 * h) / f->group, &min);
                if (f->code == MLA__CODE_UINT) u[h] = mla__less_128(u[h], f->offset);
                MLA__EACH(i, 4) {
                    const MLA__128(v) v = MLA__128(mul)(mla__four_128(u[h], i), MLA__128(set1)(d));
                    MLA__128(st)(y + 4 * i, MLA__128(add)(v, MLA__128(set1)(-min)));
                }
            }
        }
}
MLA__INLINE void mla__idot_128(const mla_dtype t, const int R, const mla__product *p) {
    const mla__sz row = mla__bytes(t, p->w->cols);
    if (p->w->layout != MLA_LAYOUT_ROWS) {
        mla__idot_scalar(p);
        return;
    }
    for (int n = p->n0; n < p->n1; n += R)
        for (int i = 0; i < p->in.T; i++) {
            const unsigned char *b = (const unsigned char *)p->w->data + (p->row0 + n) * row;
            const mla__act *a = mla__act_of(&p->in, i);
            float *y = p->y + i * p->ldy + (n - p->n0);
            const int rest = p->n1 - n, groups = p->K / MLA_GROUP;
            if (rest >= R) mla__idot_rows_128(t, R, y, a, b, row, groups);
            for (int r = 0; rest < R && r < rest; r++) mla__idot_rows_128(t, 1, y + r, a, b + r * row, row, groups);
        }
}
/* With MLA_SMALL those of all formats but the most usual. */
MLA__SELDOM static void mla__idot_shared_128(const mla__product *p) { mla__idot_128(p->w->dtype, 1, p); }
MLA__SELDOM static void mla__unpack_shared_128(mla_dtype t, float *y, const void *x, mla__sz n) {
    mla__unpack_128(t, y, x, n);
}
#define MLA__ROWS(D, d)                                                                                                \
    static void mla__idot_##d##_128(const mla__product *p) {                                                           \
        if (MLA__SMALL && D != MLA_Q8 && D != MLA_Q4_K && D != MLA_Q6_K) mla__idot_shared_128(p);                      \
        else mla__idot_128(D, MLA__SMALL ? 2 : 4, p);                                                                  \
    }                                                                                                                  \
    static void mla__unpack_##d##_128(float *y, const void *x, mla__sz n) {                                            \
        if (MLA__SMALL) mla__unpack_shared_128(D, y, x, n);                                                            \
        else mla__unpack_128(D, y, x, n);                                                                              \
    }
MLA__FORMATS(MLA__ROWS, MLA__ROWS)
#undef MLA__ROWS
static void mla__integer_128(mla__kernels *k) {
    k->quantize = mla__quantize_128;
#define MLA__ROWS(D, d) k->idot[D][MLA_LAYOUT_ROWS] = k->idot[D][MLA_LAYOUT_X16] = k->igemm[D] = mla__idot_##d##_128;
    MLA__FORMATS(MLA__ROWS, MLA__ROWS)
#undef MLA__ROWS
}
#endif

#if MLA__X86
static MLA__TARGET_AVX2 void mla__quantize_avx2(mla__act *y, const float *x, mla__sz n) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    for (mla__sz g = 0; g < n / MLA_GROUP; g++, x += MLA_GROUP) {
        const __m256 x0 = _mm256_loadu_ps(x), x1 = _mm256_loadu_ps(x + 8), x2 = _mm256_loadu_ps(x + 16),
                     x3 = _mm256_loadu_ps(x + 24);
        const __m256i m0 = _mm256_max_epi32(_mm256_and_si256(magnitude, _mm256_castps_si256(x0)),
                                            _mm256_and_si256(magnitude, _mm256_castps_si256(x1)));
        const __m256i m1 = _mm256_max_epi32(_mm256_and_si256(magnitude, _mm256_castps_si256(x2)),
                                            _mm256_and_si256(magnitude, _mm256_castps_si256(x3)));
        const __m256i m = _mm256_max_epi32(m0, m1);
        __m128i h = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
        h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
        h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1));
        const uint32_t top = (uint32_t)_mm_cvtsi128_si32(h);
        const float d = top < 0x7f800000u ? mla__float(top) / 127 : mla__float(0x7fc00000u);
        const __m256 inverse = _mm256_set1_ps(d > 0 ? 1 / d : 0);
        const __m256i q0 = _mm256_cvtps_epi32(_mm256_mul_ps(x0, inverse)),
                      q1 = _mm256_cvtps_epi32(_mm256_mul_ps(x1, inverse));
        const __m256i q2 = _mm256_cvtps_epi32(_mm256_mul_ps(x2, inverse)),
                      q3 = _mm256_cvtps_epi32(_mm256_mul_ps(x3, inverse));
        /* packing interleaves the 128-bit halves; the permutation puts the groups of four back in order */
        __m256i q = _mm256_packs_epi16(_mm256_packs_epi32(q0, q1), _mm256_packs_epi32(q2, q3));
        q = _mm256_permutevar8x32_epi32(q, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        q = _mm256_max_epi8(q, _mm256_set1_epi8(-127));
        _mm256_storeu_si256((__m256i *)(void *)y[g].q, q);
        const __m256i s = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), q), _mm256_set1_epi16(1));
        __m256i t = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0x4e)); /* each half's sum in all its lanes */
        t = _mm256_add_epi32(t, _mm256_shuffle_epi32(t, 0xb1));
        const int first = _mm_cvtsi128_si32(_mm256_castsi256_si128(t));
        const int second = _mm_cvtsi128_si32(_mm256_extracti128_si256(t, 1));
        mla__act_sums(&y[g], d, first, second);
    }
}

/* Codes of rows as they lie: the 32 bytes of group g of a block. */
MLA__AVX2 __m256i mla__plane_avx2(const mla__plane *p, const unsigned char *b, int g) {
    const int per = 8 / p->bits, i = 32 * g, shift = i / p->run % per * p->bits;
    const unsigned char *at = b + p->at + i / (p->run * per) * p->run + i % p->run;
    const __m256i mask = _mm256_set1_epi8((char)((1 << p->bits) - 1));
    if (p->run == 1) { /* a word of bits: each byte looks at its own */
        int word;
        memcpy(&word, b + p->at, 4);
        const __m256i of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
        const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
        const __m256i x = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), of), bit);
        return _mm256_and_si256(_mm256_cmpeq_epi8(x, bit), mask);
    }
    if (p->run < 32) { /* 16 bytes; both their parts are wanted, of all or of each eight */
        __m256i x = _mm256_broadcastsi128_si256(mla__m128i(at));
        if (p->run == 8) x = _mm256_permute4x64_epi64(x, 0x50);
        const __m256i s = p->run == 8 ? _mm256_setr_epi64x(0, 4, 0, 4) : _mm256_setr_epi64x(0, 0, 4, 4);
        return _mm256_and_si256(_mm256_srlv_epi64(x, s), mask);
    }
    const __m256i x = mla__m256i(at);
    return p->bits == 8 ? x : _mm256_and_si256(_mm256_srl_epi16(x, _mm_cvtsi32_si128(shift)), mask);
}
/* And of sixteen rows interleaved: weights i .. i+3 of rows 8 half .. 8 half + 7. */
MLA__AVX2 __m256i mla__plane16_avx2(const mla__plane *p, const unsigned char *b, int i, int half) {
    const int per = 8 / p->bits, at = p->at + i / (p->run * per) * p->run + i % p->run;
    if (p->run == 1) {
        const __m256i x = mla__m256i(b + 16 * p->at + 32 * half);
        const __m256i four = _mm256_and_si256(_mm256_srl_epi32(x, _mm_cvtsi32_si128(i)), _mm256_set1_epi32(15));
        return _mm256_and_si256(_mm256_mullo_epi32(four, _mm256_set1_epi32(0x00204081)), _mm256_set1_epi8(1));
    }
    const __m256i x = mla__m256i(b + 16 * at + 32 * half);
    if (p->bits == 8) return x;
    return _mm256_and_si256(_mm256_srl_epi16(x, _mm_cvtsi32_si128(i / p->run % per * p->bits)),
                            _mm256_set1_epi8((char)((1 << p->bits) - 1)));
}
MLA__AVX2 __m256i mla__join_avx2(const mla__format *f, __m256i low, __m256i high) {
    const __m256i u = f->high.bits ? _mm256_or_si256(low, _mm256_slli_epi16(high, f->low.bits)) : low;
    if (f->code == MLA__CODE_SHIFTED) return _mm256_sub_epi8(u, _mm256_set1_epi8((char)f->offset));
    if (f->code < MLA__CODE_NL) return u;
    const void *list = mla__lists[f->code - MLA__CODE_NL];
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)list)), u);
}
MLA__AVX2 __m256i mla__codes_avx2(const mla_dtype t, const unsigned char *b, int g) {
    const mla__format *f = &mla__formats[t];
    const __m256i low = mla__plane_avx2(&f->low, b, g);
    return mla__join_avx2(f, low, f->high.bits ? mla__plane_avx2(&f->high, b, g) : low);
}
MLA__AVX2 __m256i mla__codes16_avx2(const mla_dtype t, const unsigned char *b, int i, int half) {
    const mla__format *f = &mla__formats[t];
    const __m256i low = mla__plane16_avx2(&f->low, b, i, half);
    return mla__join_avx2(f, low, f->high.bits ? mla__plane16_avx2(&f->high, b, i, half) : low);
}

/* Scales: a call of baseline code amid vectors costs Intel's cores hundreds of cycles, so halves are converted here. */
MLA__AVX2 __m256 mla__halves_avx2(const unsigned char *b) { return _mm256_cvtph_ps(mla__m128i(b)); }
/* y [n], n 8 or 16, = a half at h times the bytes of x */
MLA__AVX2 void mla__bytes_times(float *y, int n, const unsigned char *h, __m128i x, int is_signed) {
    for (int i = 0; i < n; i += 8, x = _mm_unpackhi_epi64(x, x)) {
        const __m256i wide = is_signed ? _mm256_cvtepi8_epi32(x) : _mm256_cvtepu8_epi32(x);
        _mm256_storeu_ps(y + i, _mm256_mul_ps(mla__half_avx2(h), _mm256_cvtepi32_ps(wide)));
    }
}
MLA__AVX2 __m256 mla__nv_avx2(__m128i x) { /* eight e4m3 codes of 16 bits: shifted they are f16 of 2^-8 the value */
    x = _mm_and_si128(x, _mm_set1_epi16(127));
    const __m128i some = _mm_andnot_si128(_mm_cmpeq_epi16(x, _mm_set1_epi16(127)), _mm_slli_epi16(x, 7));
    return _mm256_mul_ps(_mm256_cvtph_ps(some), _mm256_set1_ps(128));
}
/* The scales of all groups of a block, and what is to be taken off for each 1 of the sum of its activations. */
MLA__AVX2 void mla__scales_avx2(const mla_dtype t, const unsigned char *b, float *d, float *min) {
    const __m128i nibble = _mm_set1_epi8(15);
    uint32_t s[3], u[4];
    switch (mla__formats[t].scaling) {
    case MLA__SCALING_K: /* six bits each of 8 scales and 8 minima */
        memcpy(s, b + 4, 12);
        u[0] = s[0] & 0x3f3f3f3f, u[1] = (s[2] & 0x0f0f0f0f) | (s[0] >> 2 & 0x30303030);
        u[2] = s[1] & 0x3f3f3f3f, u[3] = (s[2] >> 4 & 0x0f0f0f0f) | (s[1] >> 2 & 0x30303030);
        mla__bytes_times(d, 8, b, _mm_setr_epi32((int)u[0], (int)u[1], 0, 0), 0);
        mla__bytes_times(min, 8, b + 2, _mm_setr_epi32((int)u[2], (int)u[3], 0, 0), 0);
        return;
    case MLA__SCALING_Q2:
        mla__bytes_times(d, 16, b + 80, _mm_and_si128(mla__m128i(b), nibble), 0);
        mla__bytes_times(min, 16, b + 82, _mm_and_si128(_mm_srli_epi16(mla__m128i(b), 4), nibble), 0);
        return;
    case MLA__SCALING_Q3: { /* six bits of 16 scales, less 32 */
        memcpy(s, b + 96, 12);
        const __m128i low = _mm_setr_epi32((int)s[0], (int)s[1], (int)(s[0] >> 4), (int)(s[1] >> 4));
        const __m128i high = _mm_setr_epi32((int)s[2], (int)(s[2] >> 2), (int)(s[2] >> 4), (int)(s[2] >> 6));
        const __m128i two = _mm_slli_epi16(_mm_and_si128(high, _mm_set1_epi8(3)), 4);
        const __m128i six = _mm_or_si128(_mm_and_si128(low, nibble), two);
        mla__bytes_times(d, 16, b + 108, _mm_sub_epi8(six, _mm_set1_epi8(32)), 1);
        return;
    }
    case MLA__SCALING_Q6: mla__bytes_times(d, 16, b + 208, mla__m128i(b + 192), 1); return;
    case MLA__SCALING_XS: {
        const __m256i two = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
        memcpy(s, b, 8);
        __m256i high = _mm256_srlv_epi32(_mm256_set1_epi32((int)(s[0] >> 16)), two);
        high = _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(3)), 4);
        __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32((int)s[1]), _mm256_slli_epi32(two, 1));
        low = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)), high);
        low = _mm256_sub_epi32(low, _mm256_set1_epi32(32));
        _mm256_storeu_ps(d, _mm256_mul_ps(mla__half_avx2(b), _mm256_cvtepi32_ps(low)));
        return;
    }
    case MLA__SCALING_NV: {
        int four;
        memcpy(&four, b, 4);
        _mm_storeu_ps(d, _mm256_castps256_ps128(mla__nv_avx2(_mm_cvtepu8_epi16(_mm_cvtsi32_si128(four)))));
        return;
    }
    case MLA__SCALING_MX: d[0] = mla__power(b[0]); return;
    case MLA__SCALING_DM: min[0] = -_mm256_cvtss_f32(mla__half_avx2(b + 2)); /* fall through */
    default: d[0] = _mm256_cvtss_f32(mla__half_avx2(b));
    }
    if (mla__formats[t].scaling == MLA__SCALING_D && mla__formats[t].code == MLA__CODE_UINT)
        min[0] = (float)mla__formats[t].offset * d[0];
}
MLA__AVX2 __m256 mla__powers_avx2(__m128i x) { /* mla__power of eight bytes; of 0 and 1 they are no normals */
    const __m256i e = _mm256_cvtepu8_epi32(x), low = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    const __m256i powers = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    const __m256 normal = _mm256_castsi256_ps(_mm256_cmpgt_epi32(e, _mm256_set1_epi32(1)));
    return _mm256_blendv_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(powers), normal);
}
/* The same of group j of sixteen rows interleaved, rows 8 half and up. */
MLA__AVX2 __m256 mla__scales16_avx2(const mla_dtype t, const unsigned char *b, int j, int half, __m256 *min) {
    const __m256i low6 = _mm256_set1_epi32(63), low4 = _mm256_set1_epi32(15), low2 = _mm256_set1_epi32(3);
    const __m128i by8 = _mm_cvtsi32_si128(8 * (j % 4)), by4 = _mm_cvtsi32_si128(4 * j), by2 = _mm_cvtsi32_si128(2 * j);
    __m256 d = mla__halves_avx2(b + 16 * half);
    switch (mla__formats[t].scaling) {
    case MLA__SCALING_DM: *min = _mm256_sub_ps(_mm256_setzero_ps(), mla__halves_avx2(b + 32 + 16 * half)); return d;
    case MLA__SCALING_K: {
        const __m256i s = _mm256_srl_epi32(mla__m256i(b + 64 + 32 * half), by8);
        const __m256i m = _mm256_srl_epi32(mla__m256i(b + 128 + 32 * half), by8);
        const __m256 dmin = mla__halves_avx2(b + 32 + 16 * half);
        __m256i ds = _mm256_and_si256(s, low6), ms = _mm256_and_si256(m, low6);
        if (j >= 4) {
            const __m256i x = _mm256_srl_epi32(mla__m256i(b + 192 + 32 * half), by8);
            ds = _mm256_slli_epi32(_mm256_and_si256(_mm256_srli_epi32(s, 6), low2), 4);
            ms = _mm256_slli_epi32(_mm256_and_si256(_mm256_srli_epi32(m, 6), low2), 4);
            ds = _mm256_or_si256(ds, _mm256_and_si256(x, low4));
            ms = _mm256_or_si256(ms, _mm256_and_si256(_mm256_srli_epi32(x, 4), low4));
        }
        *min = _mm256_mul_ps(dmin, _mm256_cvtepi32_ps(ms));
        return _mm256_mul_ps(d, _mm256_cvtepi32_ps(ds));
    }
    case MLA__SCALING_Q6: {
        const __m256i x = mla__m256i(b + 16 * 192 + j / 4 * 64 + 32 * half);
        const __m256i s = _mm256_srai_epi32(_mm256_sll_epi32(x, _mm_cvtsi32_si128(24 - 8 * (j % 4))), 24);
        return _mm256_mul_ps(mla__halves_avx2(b + 16 * 208 + 16 * half), _mm256_cvtepi32_ps(s));
    }
    case MLA__SCALING_XS: {
        const __m128i h = mla__m128i(b + 32 + 16 * half);
        __m256i s = _mm256_and_si256(_mm256_srl_epi32(_mm256_cvtepu16_epi32(h), by2), low2);
        const __m256i x = _mm256_and_si256(_mm256_srl_epi32(mla__m256i(b + 64 + 32 * half), by4), low4);
        s = _mm256_sub_epi32(_mm256_or_si256(_mm256_slli_epi32(s, 4), x), _mm256_set1_epi32(32));
        return _mm256_mul_ps(d, _mm256_cvtepi32_ps(s));
    }
    case MLA__SCALING_MX: return mla__powers_avx2(_mm_loadl_epi64((const __m128i *)(const void *)(b + 8 * half)));
    case MLA__SCALING_NV: {
        const __m256i x = _mm256_and_si256(_mm256_srl_epi32(mla__m256i(b + 32 * half), by8), _mm256_set1_epi32(127));
        return mla__nv_avx2(_mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1)));
    }
    default: *min = _mm256_mul_ps(_mm256_set1_ps((float)mla__formats[t].offset), d); return d;
    }
}

/* Blocks from a block's beginning on, as f32. */
MLA__AVX2 void mla__unpack_avx2(const mla_dtype t, float *y, const void *x, mla__sz n) {
    const mla__format *f = &mla__formats[t];
    const unsigned char *b = (const unsigned char *)x;
    float d[16], min[16];
    for (; n > 0; n -= f->block, b += f->bytes) {
        mla__scales_avx2(t, b, d, min);
        for (int g = 0; g < f->block / MLA_GROUP; g++, y += MLA_GROUP) {
            __m256i q = mla__codes_avx2(t, b, g);
            if (f->offset && f->code == MLA__CODE_UINT) q = _mm256_sub_epi8(q, _mm256_set1_epi8((char)f->offset));
            MLA__EACH(i, 4) {
                const int j = (32 * g + 8 * i) / f->group;
                __m128i eight = i < 2 ? _mm256_castsi256_si128(q) : _mm256_extracti128_si256(q, 1);
                if (i % 2) eight = _mm_unpackhi_epi64(eight, eight);
                __m256 v = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight)), _mm256_set1_ps(d[j]));
                if (mla__has_min(f) && !f->offset) v = _mm256_sub_ps(v, _mm256_set1_ps(min[j]));
                _mm256_storeu_ps(y + 8 * i, v);
            }
        }
    }
}

MLA__AVX2 __m256i mla__pairs_avx2(const int is_signed, __m256i w, __m256i q) { /* pairs, in 16 bits */
    return is_signed ? _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w)) : _mm256_maddubs_epi16(w, q);
}
MLA__AVX2 __m256 mla__broadcast_avx2(const float *d, const int halves) { /* of each half of a group */
    return halves == 1 ? _mm256_broadcast_ss(d)
                       : _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_broadcast_ss(d)), _mm_broadcast_ss(d + 1), 1);
}

/* One token and two rows far apart (as mla__strips), or two tokens and one row: pair i is of token i % TB and row
   i / TB. Two chains of sums hide their latency; blocks of 32 are taken by twos. */
MLA__AVX2 void mla__idot_row_avx2(const mla_dtype t, const int TB, int fetch, float *const *y, const mla__act *const *x,
                                  const unsigned char *const *rows, int groups) {
    const mla__format *f = &mla__formats[t];
    const int each = f->block / MLA_GROUP, step = each > 2 ? each : 2, halves = MLA_GROUP / f->group;
    const int plain = each == 1 && f->scaling != MLA__SCALING_MX, is_signed = f->code != MLA__CODE_UINT;
    const int offset = plain && f->scaling == MLA__SCALING_D; /* the minimum is so many scales */
    const __m256i ones = _mm256_set1_epi16(1);
    const unsigned char *b[2];
    __m256 acc[2][2], low[2];
    float d[2][16], min[2][16];
    MLA__EACH(i, 2) acc[i][0] = acc[i][1] = low[i] = _mm256_setzero_ps();
    MLA__EACH(r, 2 / TB) b[r] = rows[r];
    for (int g = 0; g < groups; g += step) {
        MLA__EACH(r, 2 / TB) {
            if (fetch) MLA__PREFETCH_L2(b[r] + fetch);
            if (!plain && each > 1) mla__scales_avx2(t, b[r], d[r], min[r]);
        }
        MLA__EACH(u, step) {
            if (each == 1 && g + u >= groups) break;
            MLA__EACH(r, 2 / TB) {
                const __m256i w = mla__codes_avx2(t, b[r], u % each);
                if (!plain && each == 1) d[r][u] = mla__power(b[r][0]);
                const __m256 dv = plain ? mla__half_avx2(b[r]) : mla__broadcast_avx2(d[r] + u * halves, halves);
                MLA__EACH(j, TB) {
                    const int i = r * TB + j;
                    const mla__act *a = x[j] + g + u;
                    const __m256i q = mla__m256i(a->q);
                    const __m256i p = _mm256_madd_epi16(mla__pairs_avx2(is_signed, w, q), ones);
                    acc[i][u & 1] =
                        _mm256_fmadd_ps(_mm256_cvtepi32_ps(p), _mm256_mul_ps(dv, _mm256_set1_ps(a->d)), acc[i][u & 1]);
                    if (!mla__has_min(f)) continue;
                    const __m256 m = offset  ? dv
                                     : plain ? mla__half_avx2(b[r] + 2)
                                             : _mm256_broadcast_ss(min[r] + u * halves);
                    low[i] = _mm256_fmadd_ps(m, _mm256_set1_ps(halves == 1 ? a->sum : a->half[0]), low[i]);
                    if (halves > 1)
                        low[i] = _mm256_fmadd_ps(_mm256_broadcast_ss(min[r] + 2 * u + 1), _mm256_set1_ps(a->half[1]),
                                                 low[i]);
                }
                if ((u + 1) % each == 0) b[r] += f->bytes;
            }
        }
    }
    const float times = offset ? (float)f->offset : plain ? -1.0f : 1.0f; /* DM keeps -min */
    MLA__EACH(i, 2) *y[i] = mla__sum_avx2(_mm256_add_ps(acc[i][0], acc[i][1])) - times * _mm256_cvtss_f32(low[i]);
}
/* Strips of sixteen rows interleaved, far apart, that are walked side by side, and some tokens: a core's prefetchers
   follow several streams at once, and one alone does not fill the way to memory. They know streams by their
   instruction, too, so that each strip has its own. */
#define MLA__IMR_MAX 6      /* tokens of a register tile */
#define MLA__IN_L2   524288 /* bytes that surely stay in the second-level cache */
typedef struct mla__strips {
    float *y[4]; /* of the first token */
    mla__sz ldy;
    const unsigned char *b[4];
    const mla__act *x[MLA__IMR_MAX];
    int groups, T;  /* tokens to be stored */
    int ahead;      /* so many blocks of 32 ahead weights are fetched where nothing else is */
    int add;        /* to y */
    int begin, end; /* of which groups those of the next strip are fetched, which is so many bytes behind: */
    mla__sz next[4];
    mla__flow flow[4];
} mla__strips;

/* One token and 16 rows interleaved: the rows are the lanes, so that nothing is shuffled. Sums of products stay
   in 16 bits as long as they fit: 8 * 2 * 15 * 127 = 30480, and of five bits 4 * 2 * 31 * 127 = 31496. */
MLA__AVX2 void mla__idot_strip_avx2(const mla_dtype t, const mla__strips *a) {
    const mla__format *f = &mla__formats[t];
    const mla__act *x = a->x[0];
    const unsigned char *b = a->b[0];
    const int groups = a->groups;
    float *y = a->y[0];
    const int each = f->block / MLA_GROUP, halves = MLA_GROUP / f->group, is_signed = f->code != MLA__CODE_UINT;
    const int fold = is_signed ? 1 : f->high.bits ? 4 : 8;
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int g = 0; g < groups; g++) {
        const int u = g % each; /* group of the block */
        const __m256 xd = _mm256_set1_ps(x[g].d), sum = _mm256_set1_ps(x[g].sum);
        MLA__EACH(h, 2) {
            MLA__EACH(part, halves) {
                __m256 min = _mm256_setzero_ps();
                const __m256 d = mla__scales16_avx2(t, b, u * halves + part, h, &min);
                __m256i s = _mm256_setzero_si256(), few = s;
                MLA__EACH(j, 8 / halves) {
                    const int k = 8 / halves * part + j;
                    const __m256i w = mla__codes16_avx2(t, b, 32 * u + 4 * k, h);
                    int four;
                    memcpy(&four, x[g].q + 4 * k, 4);
                    const __m256i p = mla__pairs_avx2(is_signed, w, _mm256_set1_epi32(four));
                    few = k % fold ? _mm256_add_epi16(few, p) : p;
                    if (k % fold == fold - 1) s = _mm256_add_epi32(s, _mm256_madd_epi16(few, ones));
                }
                const __m256 p = _mm256_cvtepi32_ps(s);
                if (f->offset && !is_signed) {
                    const __m256 low = _mm256_mul_ps(_mm256_set1_ps((float)f->offset), sum);
                    acc[h] = _mm256_fmadd_ps(_mm256_fmsub_ps(p, xd, low), d, acc[h]);
                    continue;
                }
                acc[h] = _mm256_fmadd_ps(_mm256_mul_ps(p, xd), d, acc[h]);
                if (mla__has_min(f)) acc[h] = _mm256_fnmadd_ps(min, sum, acc[h]);
            }
        }
        if (u == each - 1) b += 16 * f->bytes;
    }
    _mm256_storeu_ps(y, acc[0]), _mm256_storeu_ps(y + 8, acc[1]);
}
MLA__AVX2 void mla__idot_avx2(const mla_dtype t, const mla__product *p) {
    const int groups = p->K / MLA_GROUP, rows = p->n1 - p->n0, T = p->in.T, apart = (rows + 2 - T) / (3 - T);
    const mla__sz row = mla__bytes(t, p->w->cols);
    const unsigned char *b = (const unsigned char *)p->w->data + (p->row0 + p->n0) * row;
    const mla__act *x[MLA__FEW];
    for (int i = 0; i < T; i++) x[i] = mla__act_of(&p->in, i);
    for (int n = 0; n < apart; n++) {
        const int other = T == 1 ? mla__min(n + apart, rows - 1) : n; /* of an odd number one row twice */
        const unsigned char *const two[2] = {b + n * row, b + other * row};
        float *const y[2] = {p->y + n, T == 1 ? p->y + other : p->y + p->ldy + n};
        if (T == 1) mla__idot_row_avx2(t, 1, p->fetch, y, x, two, groups);
        else mla__idot_row_avx2(t, 2, p->fetch, y, x, two, groups);
    }
}

typedef void (*mla__strip)(const mla__strips *a);
/* to = so many blocks of sixteen rows as they lie, interleaved. */
typedef void (*mla__interleave)(unsigned char *to, const unsigned char *rows, mla__sz row_bytes, int blocks);
/* All strips of a product, S at a time; of[i] is for i tokens, of which there are at most `most` at a time, as evenly
   as can be. More than that many leave time to fetch the next strip, a part with each; x stays in the second cache.
   Rows as they lie are interleaved before, in as many pieces as the scratch makes of them. */
static void mla__strips_run(const mla__strip *of, int S, int most, mla__interleave interleave, const mla__product *p) {
    const mla__sz row = mla__bytes(p->w->dtype, p->w->cols), bytes = 16 * row,
                  block = mla__bytes(p->w->dtype, MLA_GROUP);
    const unsigned char *b = (const unsigned char *)p->w->data + (p->row0 + p->n0) * row;
    const int strips = (p->n1 - p->n0) / 16, apart = (strips + S - 1) / S, groups = p->K / MLA_GROUP;
    const int at_once = mla__max(16 * most, (int)(MLA__IN_L2 / p->in.ldq)), parts = (p->in.T + at_once - 1) / at_once;
    const int fit = interleave ? (int)(MLA__KC * MLA__NR_MAX * sizeof *p->panel / (size_t)(16 * S * block)) : groups;
    const int pieces = (groups + fit - 1) / fit, piece = (groups + pieces - 1) / pieces;
    mla__strips a;
    a.ldy = p->ldy;
    for (int i = 0; i < S; i++) a.flow[i] = mla__flow_of(p, b, i, apart, strips, 16, bytes);
    for (int part = 0; part < parts; part++) {
        const int t0 = (int)((int64_t)p->in.T * part / parts), t1 = (int)((int64_t)p->in.T * (part + 1) / parts);
        const int T = t1 - t0, times = (T + most - 1) / most, fetch = times > 1 || interleave;
        a.ahead = fetch ? 0 : T > 1 ? 8 : p->fetch ? 0 : 4;
        for (int n = 0; n < apart * pieces; n++) {
            const int g = n % pieces * piece;
            int at[4];
            a.groups = mla__min(piece, groups - g), a.add = g > 0;
            for (int i = 0; i < S; i++) {
                at[i] = mla__min(n / pieces + i * apart, strips - 1); /* of what is less some are done twice */
                a.b[i] = b + at[i] * bytes, a.next[i] = bytes;
                if (!interleave) continue;
                unsigned char *to = (unsigned char *)p->panel + i * a.groups * 16 * block;
                interleave(to, a.b[i] + g * block, row, a.groups);
                a.next[i] += (mla__sz)((uintptr_t)(a.b[i] + g * 16 * block) - (uintptr_t)to), a.b[i] = to;
            }
            for (int u = 0; u < times; u++) {
                const int t = t0 + T * u / times;
                a.T = t0 + T * (u + 1) / times - t;
                a.begin = fetch ? a.groups * u / times : 0, a.end = fetch ? a.groups * (u + 1) / times : 0;
                for (int i = 0; i < most; i++) a.x[i] = mla__act_of(&p->in, i < a.T ? t + i : t) + g;
                for (int i = 0; i < S; i++) a.y[i] = p->y + t * p->ldy + at[i] * 16;
                of[a.T](&a);
            }
        }
    }
}

/* A packed group of 16 rows: four columns of each row side by side. Of groups with one scale d[0] and min[0] are
   used. */
typedef struct mla__ipanel {
    int8_t w[8][64];
    float d[2][16], min[2][16];
} mla__ipanel;
#define MLA__IGROUPS  8 /* groups packed at a time, a multiple of those of a block */
#define MLA__IMR      4 /* tokens of a register tile */
#define MLA__IMR_VNNI 6
#define MLA__IFEW     16

/* Scales of a group of eight rows of blocks that are one group with one scale, those from nb on 0. */
MLA__AVX2 void mla__ipack_scales_avx2(const mla_dtype t, mla__ipanel *panel, const unsigned char *const *b, int r0,
                                      int nb) {
    const mla__format *f = &mla__formats[t];
    uint16_t halves[8];
    MLA__EACH(i, 8) memcpy(&halves[i], b[i], 2);
    __m256 d = _mm256_cvtph_ps(mla__m128i(halves));
    const __m256i row = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(r0));
    d = _mm256_and_ps(d, _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(nb), row)));
    _mm256_storeu_ps(panel->d[0] + r0, d);
    if (mla__has_min(f)) _mm256_storeu_ps(panel->min[0] + r0, _mm256_mul_ps(d, _mm256_set1_ps((float)f->offset)));
}
/* nb <= 16 rows as they lie; bias is added to the codes. */
MLA__AVX2 void mla__ipack_avx2(const mla_dtype t, mla__ipanel *panel, const mla_tensor *w, int row, int nb, int g0,
                               int gn, int bias) {
    const mla__format *f = &mla__formats[t];
    const int each = f->block / MLA_GROUP, halves = MLA_GROUP / f->group;
    const mla__sz bytes = mla__bytes(t, w->cols);
    for (int r0 = 0; r0 < 16; r0 += 8) {
        const unsigned char *b[8];
        for (int i = 0; i < 8; i++)
            b[i] = (const unsigned char *)w->data + (row + (r0 + i < nb ? r0 + i : 0)) * bytes +
                   (mla__sz)(g0 / each) * f->bytes;
        for (int g = 0; g < gn; g += each) {
            if (f->scaling == MLA__SCALING_D && each * halves == 1) mla__ipack_scales_avx2(t, panel + g, b, r0, nb);
            else
                for (int i = 0; i < 8; i++) {
                    const int n = r0 + i;
                    float d[16], min[16] = {0};
                    mla__scales_avx2(t, b[i], d, min);
                    for (int j = 0; j < each * halves; j++) {
                        panel[g + j / halves].d[j % halves][n] = n < nb ? d[j] : 0;
                        if (mla__has_min(f)) panel[g + j / halves].min[j % halves][n] = n < nb ? min[j] : 0;
                    }
                }
            for (int u = 0; u < each; u++) {
                __m256 r[8];
                MLA__EACH(i, 8)
                    r[i] =
                        _mm256_castsi256_ps(_mm256_add_epi8(mla__codes_avx2(t, b[i], u), _mm256_set1_epi8((char)bias)));
                mla__transpose_avx2(r);
                MLA__EACH(i, 8) _mm256_storeu_ps((float *)(void *)(panel[g + u].w[i] + 4 * r0), r[i]);
            }
            MLA__EACH(i, 8) b[i] += f->bytes;
        }
    }
}
MLA__AVX2 void mla__ipack16_avx2(const mla_dtype t, mla__ipanel *panel, const mla_tensor *w, int row, int g0, int gn) {
    const mla__format *f = &mla__formats[t];
    const int each = f->block / MLA_GROUP, halves = MLA_GROUP / f->group;
    const unsigned char *b =
        (const unsigned char *)w->data + row * mla__bytes(t, w->cols) + (mla__sz)(g0 / each) * 16 * f->bytes;
    for (int g = 0; g < gn; g += each, b += 16 * f->bytes)
        for (int i = 0; i < 2 * each; i++) {
            const int u = i / 2, h = i % 2;
            for (int j = 0; j < halves; j++) {
                __m256 min = _mm256_setzero_ps();
                _mm256_storeu_ps(panel[g + u].d[j] + 8 * h, mla__scales16_avx2(t, b, u * halves + j, h, &min));
                if (mla__has_min(f)) _mm256_storeu_ps(panel[g + u].min[j] + 8 * h, min);
            }
            MLA__EACH(k, 8) {
                const __m256i codes = mla__codes16_avx2(t, b, 32 * u + 4 * k, h);
                _mm256_storeu_si256((__m256i *)(void *)(panel[g + u].w[k] + 32 * h), codes);
            }
        }
}

/* What a tile must know of a format: are codes signed, has a group one scale or two, are there four bits or five? */
typedef enum mla__shape { MLA__SIGNED, MLA__SIGNED_16, MLA__UNSIGNED, MLA__UNSIGNED_16, MLA__UNSIGNED_5 } mla__shape;
MLA__INLINE mla__shape mla__shape_of(mla_dtype t) {
    const mla__format *f = &mla__formats[t];
    if (f->code != MLA__CODE_UINT) return f->group < MLA_GROUP ? MLA__SIGNED_16 : MLA__SIGNED;
    return f->group < MLA_GROUP ? MLA__UNSIGNED_16 : f->high.bits ? MLA__UNSIGNED_5 : MLA__UNSIGNED;
}
MLA__INLINE int mla__is_signed(mla__shape s) { return s <= MLA__SIGNED_16; }
MLA__INLINE int mla__halves(mla__shape s) { return s == MLA__SIGNED_16 || s == MLA__UNSIGNED_16 ? 2 : 1; }
/* Tokens that meet a panel of gn groups; y [m, 16] or [m, 32] (+)= theirs. */
typedef struct mla__imeet {
    float *y;
    mla__sz ldy;
    const mla__act *x[MLA__IMR_MAX];
    const mla__ipanel *panel;
    int gn, add, offset; /* what codes are too high by, where products begin with that taken off */
} mla__imeet;

/* y [M, 16] (+)= gn groups of M tokens and a panel. */
MLA__AVX2 void mla__itile_avx2(const mla__shape shape, const int M, const mla__imeet *a) {
    const mla__act *const *x = a->x;
    const mla__ipanel *panel = a->panel;
    float *y = a->y;
    const mla__sz ldy = a->ldy;
    const int gn = a->gn, add = a->add;
    /* sums of products fit 16 bits: 8 * 2 * 15 * 127 = 30480, and of five bits half as many */
    const int halves = mla__halves(shape), in32 = mla__is_signed(shape), parts = shape == MLA__UNSIGNED_5 ? 2 : halves;
    const __m256i ones = _mm256_set1_epi16(1);
    __m256 acc[MLA__IMR][2];
    MLA__EACH(i, M) {
        MLA__EACH(j, 2) acc[i][j] = add ? _mm256_loadu_ps(y + i * ldy + 8 * j) : _mm256_setzero_ps();
    }
    for (int g = 0; g < gn; g++)
        for (int part = 0; part < parts; part++) {
            __m256i s[MLA__IMR][2];
            MLA__EACH(i, M) s[i][0] = s[i][1] = _mm256_setzero_si256();
            for (int k = 8 / parts * part; k < 8 / parts * (part + 1); k++) {
                MLA__EACH(j, 2) {
                    const __m256i w = mla__m256i(panel[g].w[k] + 32 * j);
                    MLA__EACH(i, M) {
                        int four;
                        memcpy(&four, x[i][g].q + 4 * k, 4);
                        const __m256i p = mla__pairs_avx2(mla__is_signed(shape), w, _mm256_set1_epi32(four));
                        if (in32) s[i][j] = _mm256_add_epi32(s[i][j], _mm256_madd_epi16(p, ones));
                        else s[i][j] = _mm256_add_epi16(s[i][j], p);
                    }
                }
            }
            MLA__EACH(j, 2) {
                const __m256 d = _mm256_loadu_ps(panel[g].d[halves == 1 ? 0 : part] + 8 * j);
                MLA__EACH(i, M) {
                    const float sum = halves > 1 ? x[i][g].half[part] : part == 0 ? x[i][g].sum : 0;
                    const __m256i p = in32 ? s[i][j] : _mm256_madd_epi16(s[i][j], ones);
                    acc[i][j] =
                        _mm256_fmadd_ps(_mm256_cvtepi32_ps(p), _mm256_mul_ps(d, _mm256_set1_ps(x[i][g].d)), acc[i][j]);
                    if (!mla__is_signed(shape))
                        acc[i][j] = _mm256_fnmadd_ps(_mm256_loadu_ps(panel[g].min[halves == 1 ? 0 : part] + 8 * j),
                                                     _mm256_set1_ps(sum), acc[i][j]);
                }
            }
        }
    MLA__EACH(i, M) {
        MLA__EACH(j, 2) _mm256_storeu_ps(y + i * ldy + 8 * j, acc[i][j]);
    }
}

/* VNNI multiplies unsigned by signed bytes and adds four products to an int32: codes are the unsigned ones, with an
   offset if need be, and sums begin with what that is too much. Few tokens meet rows by it, too, but those of nvfp4 as
   they lie by the AVX2 kernel. */
#define MLA__VNNI MLA__INLINE MLA__TARGET_VNNI

/* So much higher than what they mean are the codes that VNNI is given. */
MLA__INLINE int mla__offset(const mla__format *f) {
    return f->code == MLA__CODE_INT8 || f->code >= MLA__CODE_NL ? 128 : f->offset;
}
/* Where that is taken off: by a minimum, as all others are; from where sums begin, which is known of two offsets; or
   with groups of 16 from a product of the offset and their sums. */
typedef enum mla__off { MLA__OFF_MIN, MLA__OFF_START, MLA__OFF_HALF } mla__off;
MLA__INLINE mla__off mla__off_of(const mla__format *f) {
    const int offset = mla__offset(f);
    if (f->group < MLA_GROUP) return offset ? MLA__OFF_HALF : MLA__OFF_MIN;
    return offset == 8 || offset == 128 ? MLA__OFF_START : MLA__OFF_MIN;
}
MLA__VNNI __m512i mla__begin_vnni(const mla__off off, const mla__act *x, int offset, const int half) {
    if (off == MLA__OFF_START) return _mm512_set1_epi32(x->start[offset == 128]);
    if (off == MLA__OFF_MIN) return _mm512_setzero_si512();
    int pair;
    memcpy(&pair, x->halves, 4);
    return _mm512_dpwssd_epi32(_mm512_setzero_si512(), _mm512_set1_epi32(half ? -offset * 65536 : -offset & 0xffff),
                               _mm512_set1_epi32(pair));
}
/* acc += d_w d_x (sum of products) - min_w sum(x): all kernels of VNNI with rows as lanes add in this order. */
MLA__VNNI __m512 mla__scaled_vnni(__m512 acc, __m512i s, __m512 d, const mla__act *x) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), _mm512_mul_ps(d, _mm512_set1_ps(x->d)), acc);
}

/* gcc would load a vector again for each of its uses. */
#if defined(__GNUC__)
#define MLA__HOLD(vector) __asm__("" : "+v"(vector))
#else
#define MLA__HOLD(vector) (void)(vector)
#endif

/* M tokens by 32 rows, of two panels one behind the other. */
MLA__VNNI void mla__itile_vnni(const mla__off off, const int halves, const int M, const mla__imeet *a) {
    const mla__ipanel *p = a->panel, *const end = p + a->gn;
    const mla__act *x[MLA__IMR_VNNI];
    __m512 acc[MLA__IMR_VNNI][2];
    MLA__EACH(i, M) {
        x[i] = a->x[i];
        MLA__EACH(j, 2) acc[i][j] = a->add ? _mm512_loadu_ps(a->y + i * a->ldy + 16 * j) : _mm512_setzero_ps();
    }
    for (mla__sz g = 0; p < end; g++, p++) {
        MLA__EACH(part, halves) {
            __m512i s[MLA__IMR_VNNI][2];
            MLA__EACH(i, M) s[i][0] = s[i][1] = mla__begin_vnni(off, x[i] + g, a->offset, part);
            MLA__UNROLL
            for (int k = 8 / halves * part; k < 8 / halves * (part + 1); k++) {
                __m512i w0 = _mm512_loadu_si512(p->w[k]), w1 = _mm512_loadu_si512(p[MLA__IGROUPS].w[k]);
                MLA__HOLD(w0);
                MLA__HOLD(w1);
                MLA__EACH(i, M) {
                    int four;
                    memcpy(&four, x[i][g].q + 4 * k, 4);
                    s[i][0] = _mm512_dpbusd_epi32(s[i][0], w0, _mm512_set1_epi32(four));
                    s[i][1] = _mm512_dpbusd_epi32(s[i][1], w1, _mm512_set1_epi32(four));
                }
            }
            MLA__EACH(j, 2) {
                const mla__ipanel *of = p + j * MLA__IGROUPS;
                const __m512 d = _mm512_loadu_ps(of->d[part]);
                MLA__EACH(i, M) {
                    acc[i][j] = mla__scaled_vnni(acc[i][j], s[i][j], d, x[i] + g);
                    const float sum = halves == 1 ? x[i][g].sum : x[i][g].half[part];
                    if (off == MLA__OFF_MIN)
                        acc[i][j] = _mm512_fnmadd_ps(_mm512_loadu_ps(of->min[part]), _mm512_set1_ps(sum), acc[i][j]);
                }
            }
        }
    }
    MLA__EACH(i, M) {
        MLA__EACH(j, 2) _mm512_storeu_ps(a->y + i * a->ldy + 16 * j, acc[i][j]);
    }
}

/* The strip of AVX2 with all sixteen rows in a register. */
MLA__VNNI __m512i mla__plane16_vnni(const mla__plane *p, const unsigned char *b, int i) {
    const int per = 8 / p->bits, at = p->run == 1 ? p->at : p->at + i / (p->run * per) * p->run + i % p->run;
    const __m512i x = _mm512_loadu_si512(b + 16 * at);
    if (p->run == 1) {
        const __m512i four = _mm512_and_si512(_mm512_srl_epi32(x, _mm_cvtsi32_si128(i)), _mm512_set1_epi32(15));
        return _mm512_and_si512(_mm512_mullo_epi32(four, _mm512_set1_epi32(0x00204081)), _mm512_set1_epi8(1));
    }
    if (p->bits == 8) return x;
    return _mm512_and_si512(_mm512_srl_epi16(x, _mm_cvtsi32_si128(i / p->run % per * p->bits)),
                            _mm512_set1_epi8((char)((1 << p->bits) - 1)));
}
MLA__VNNI __m512i mla__codes16_vnni(const mla_dtype t, const unsigned char *b, int i) {
    const mla__format *f = &mla__formats[t];
    __m512i u = mla__plane16_vnni(&f->low, b, i);
    if (f->high.bits)
        u = _mm512_or_si512(u, _mm512_slli_epi16(mla__plane16_vnni(&f->high, b, i), (unsigned)f->low.bits));
    if (f->code == MLA__CODE_INT8) return _mm512_xor_si512(u, _mm512_set1_epi8(-128));
    if (f->code < MLA__CODE_NL) return u;
    const void *list = mla__lists[f->code - MLA__CODE_NL];
    return _mm512_shuffle_epi8(_mm512_xor_si512(_mm512_broadcast_i32x4(mla__m128i(list)), _mm512_set1_epi8(-128)), u);
}
/* As mla__scales16_avx2, of all rows. */
MLA__VNNI __m512 mla__scales16_vnni(const mla_dtype t, const unsigned char *b, int j, __m512 *min) {
    const __m512i low6 = _mm512_set1_epi32(63), low4 = _mm512_set1_epi32(15), high2 = _mm512_set1_epi32(48);
    const __m128i by8 = _mm_cvtsi32_si128(8 * (j % 4));
    switch (mla__formats[t].scaling) {
    case MLA__SCALING_K: {
        const __m512i s = _mm512_srl_epi32(_mm512_loadu_si512(b + 64), by8);
        const __m512i m = _mm512_srl_epi32(_mm512_loadu_si512(b + 128), by8);
        __m512i ds = _mm512_and_si512(s, low6), ms = _mm512_and_si512(m, low6);
        if (j >= 4) {
            const __m512i x = _mm512_srl_epi32(_mm512_loadu_si512(b + 192), by8);
            ds = _mm512_or_si512(_mm512_and_si512(x, low4), _mm512_and_si512(_mm512_srli_epi32(s, 2), high2));
            ms = _mm512_and_si512(_mm512_srli_epi32(x, 4), low4);
            ms = _mm512_or_si512(ms, _mm512_and_si512(_mm512_srli_epi32(m, 2), high2));
        }
        *min = _mm512_mul_ps(_mm512_cvtph_ps(mla__m256i(b + 32)), _mm512_cvtepi32_ps(ms));
        return _mm512_mul_ps(_mm512_cvtph_ps(mla__m256i(b)), _mm512_cvtepi32_ps(ds));
    }
    case MLA__SCALING_Q6: {
        const __m512i x = _mm512_loadu_si512(b + 16 * 192 + j / 4 * 64);
        const __m512i s = _mm512_srai_epi32(_mm512_sll_epi32(x, _mm_cvtsi32_si128(24 - 8 * (j % 4))), 24);
        return _mm512_mul_ps(_mm512_cvtph_ps(mla__m256i(b + 16 * 208)), _mm512_cvtepi32_ps(s));
    }
    default: {
        __m256 m[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        const __m256 d0 = mla__scales16_avx2(t, b, j, 0, &m[0]), d1 = mla__scales16_avx2(t, b, j, 1, &m[1]);
        *min = _mm512_insertf32x8(_mm512_castps256_ps512(m[0]), m[1], 1);
        return _mm512_insertf32x8(_mm512_castps256_ps512(d0), d1, 1);
    }
    }
}
MLA__VNNI void mla__idot_strips_vnni(const mla_dtype t, const int S, const int M, const mla__strips *a) {
    const mla__format *f = &mla__formats[t];
    const int each = f->block / MLA_GROUP, halves = MLA_GROUP / f->group, one = 16 * f->bytes / each;
    const mla__off off = mla__off_of(f);
    const unsigned char *b[4];
    const mla__act *x[MLA__IMR_MAX];
    __m512 acc[4][MLA__IMR_MAX];
    MLA__EACH(j, S) b[j] = a->b[j];
    MLA__EACH(i, M) x[i] = a->x[i];
    MLA__EACH(j, S) {
        MLA__EACH(i, M)
            acc[j][i] = a->add ? _mm512_loadu_ps(a->y[j] + (i < a->T ? i : 0) * a->ldy) : _mm512_setzero_ps();
    }
    for (int g = 0; g < a->groups; g++) {
        const int u = g % each;
        /* within blocks of many groups the reads jump, which no hardware foresees; AMD's begins anew at each strip */
        const int ahead = each > 1 ? 16 * f->bytes + u * one : a->ahead * one;
        MLA__EACH(j, S) {
            const unsigned char *at = (const unsigned char *)mla__flow_at(&a->flow[j], b[j], ahead);
            for (int i = 0; ahead && i < one; i += 64) MLA__PREFETCH(at + i);
        }
        if (M > 1 && g >= a->begin && g < a->end)
            MLA__EACH(j, S) {
                const unsigned char *at = (const unsigned char *)mla__flow_at(&a->flow[j], b[j], a->next[j] + u * one);
                for (int i = 0; i < one; i += 64) MLA__PREFETCH_L2(at + i);
            }
        MLA__EACH(part, halves) {
            __m512i s[4][MLA__IMR_MAX];
            MLA__EACH(i, M) s[0][i] = mla__begin_vnni(off, x[i] + g, mla__offset(f), part);
            for (int j = 1; j < S; j++)
                MLA__EACH(i, M) s[j][i] = s[0][i];
            MLA__UNROLL
            for (int k = 8 / halves * part; k < 8 / halves * (part + 1); k++) {
                __m512i w[4];
                MLA__EACH(j, S) {
                    w[j] = mla__codes16_vnni(t, b[j], 32 * u + 4 * k);
                    MLA__HOLD(w[j]);
                }
                MLA__EACH(i, M) {
                    int four;
                    memcpy(&four, x[i][g].q + 4 * k, 4);
                    MLA__EACH(j, S) s[j][i] = _mm512_dpbusd_epi32(s[j][i], w[j], _mm512_set1_epi32(four));
                }
            }
            MLA__EACH(j, S) {
                __m512 min = _mm512_setzero_ps();
                const __m512 d = mla__scales16_vnni(t, b[j], u * halves + part, &min);
                MLA__EACH(i, M) {
                    acc[j][i] = mla__scaled_vnni(acc[j][i], s[j][i], d, x[i] + g);
                    const float sum = halves == 1 ? x[i][g].sum : x[i][g].half[part];
                    if (off == MLA__OFF_MIN) acc[j][i] = _mm512_fnmadd_ps(min, _mm512_set1_ps(sum), acc[j][i]);
                }
            }
        }
        MLA__EACH(j, S) b[j] += u == each - 1 ? 16 * f->bytes : 0;
    }
    MLA__EACH(i, M)
        MLA__EACH(j, S)
            if (i < a->T) _mm512_storeu_ps(a->y[j] + i * a->ldy, acc[j][i]);
}
MLA__VNNI void mla__ipack16_vnni(const mla_dtype t, mla__ipanel *panel, const mla_tensor *w, int row, int g0, int gn) {
    const mla__format *f = &mla__formats[t];
    const int each = f->block / MLA_GROUP, halves = MLA_GROUP / f->group;
    const unsigned char *b =
        (const unsigned char *)w->data + row * mla__bytes(t, w->cols) + (mla__sz)(g0 / each) * 16 * f->bytes;
    for (int g = 0; g < gn; g++, panel++) {
        const int u = g % each;
        MLA__EACH(part, halves) {
            __m512 min = _mm512_setzero_ps();
            _mm512_storeu_ps(panel->d[part], mla__scales16_vnni(t, b, u * halves + part, &min));
            if (mla__off_of(f) == MLA__OFF_MIN) _mm512_storeu_ps(panel->min[part], min);
        }
        MLA__EACH(k, 8) _mm512_storeu_si512(panel->w[k], mla__codes16_vnni(t, b, 32 * u + 4 * k));
        if (u == each - 1) b += 16 * f->bytes;
    }
}

/* Blocks of 32 with a scale and codes of four or eight bits: a lane of vector i has row i of four, and becomes four
   bytes of each of these. */
MLA__VNNI void mla__interleave_vnni(const mla_dtype t, unsigned char *to, const unsigned char *b, mla__sz bytes,
                                    int blocks) {
    const mla__format *f = &mla__formats[t];
    for (int n = 0; n < blocks; n++, to += 16 * f->bytes, b += f->bytes) {
        MLA__EACH(i, 16) memcpy(to + 2 * i, b + i * bytes, 2);
        MLA__EACH(h, f->low.bits / 4) {
            __m512i x[4];
            MLA__EACH(i, 4) {
                const unsigned char *at = b + i * bytes + f->low.at + 16 * h;
                x[i] = _mm512_castsi128_si512(mla__m128i(at));
                x[i] = _mm512_inserti32x4(x[i], mla__m128i(at + 4 * bytes), 1);
                x[i] = _mm512_inserti32x4(x[i], mla__m128i(at + 8 * bytes), 2);
                x[i] = _mm512_inserti32x4(x[i], mla__m128i(at + 12 * bytes), 3);
            }
            const __m512i a0 = _mm512_unpacklo_epi32(x[0], x[1]), a1 = _mm512_unpackhi_epi32(x[0], x[1]),
                          b0 = _mm512_unpacklo_epi32(x[2], x[3]), b1 = _mm512_unpackhi_epi32(x[2], x[3]);
            const __m512i v[4] = {_mm512_unpacklo_epi64(a0, b0), _mm512_unpackhi_epi64(a0, b0),
                                  _mm512_unpacklo_epi64(a1, b1), _mm512_unpackhi_epi64(a1, b1)};
            MLA__EACH(k, 4) _mm512_storeu_si512(to + 16 * f->low.at + 64 * (4 * h + k), v[k]);
        }
    }
}

/* Rows of blocks of 256 as they lie, 64 weights at a time. Weights i .. i+63 of a plane, a byte each: */
MLA__VNNI __m512i mla__plane64_vnni(const mla__plane *p, const unsigned char *b, int i) {
    const int per = 8 / p->bits, shift = i / p->run % per * p->bits;
    const unsigned char *at = b + p->at + i / (p->run * per) * p->run;
    const __m512i mask = _mm512_set1_epi8((char)((1 << p->bits) - 1));
    if (p->run >= 64) return _mm512_and_si512(_mm512_srl_epi16(_mm512_loadu_si512(at), _mm_cvtsi32_si128(shift)), mask);
    /* each half, or with runs of 16 each quarter, shifts what it shares with its neighbour by its own */
    const __m512i low = _mm512_set1_epi16((short)shift), high = _mm512_set1_epi16((short)(shift + p->bits));
    const __m512i quarters = _mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3);
    __m512i x = _mm512_broadcast_i64x4(mla__m256i(at));
    if (p->run == 16) x = _mm512_permutexvar_epi64(quarters, x);
    const __mmask32 others = p->run == 16 ? 0xff00ff00u : 0xffff0000u;
    return _mm512_and_si512(_mm512_srlv_epi16(x, _mm512_mask_blend_epi16(others, low, high)), mask);
}
/* Eight or sixteen scales as two of AVX2 stored them: loaded as one, they would wait for both stores to end. */
MLA__VNNI __m512 mla__scales_vnni(const float *d, const int halves) {
    const __m256 low = _mm256_loadu_ps(d), high = halves > 1 ? _mm256_loadu_ps(d + 8) : _mm256_setzero_ps();
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}
/* One token and two rows, far apart (as mla__strips): d_x of a block's groups lies in xd, d_x times their sums in xs
   [16 floats a block each]. Codes that are signed become unsigned by adding an offset, which is taken off again as that
   times the sum of x. */
MLA__VNNI void mla__idot_two_vnni(const mla_dtype t, int fetch, float *const *y, const mla__act *x, const float *xd,
                                  const float *xs, const unsigned char *const *rows, int blocks) {
    const mla__format *f = &mla__formats[t];
    const int halves = MLA_GROUP / f->group, is_list = f->code >= MLA__CODE_NL;
    const __m512i offset = _mm512_set1_epi8((char)(is_list ? 128 : f->offset)), zero = _mm512_setzero_si512();
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i group = _mm512_srli_epi32(lane, halves > 1 ? 2 : 3);
    const __m512i list = _mm512_xor_si512(
        _mm512_broadcast_i32x4(mla__m128i(mla__lists[is_list ? f->code - MLA__CODE_NL : 0])), _mm512_set1_epi8(-128));
    __m512 acc[2][2], low[2];
    MLA__EACH(r, 2) acc[r][0] = acc[r][1] = low[r] = _mm512_setzero_ps();
    for (int n = 0; n < blocks; n++, x += 8, xd += 16, xs += 16) {
        __m512 scale[2];
        MLA__EACH(r, 2) {
            const unsigned char *b = rows[r] + n * f->bytes;
            float d[16], min[16];
            for (int i = 0; fetch && i < f->bytes; i += 64) MLA__PREFETCH_L2(b + fetch + i);
            mla__scales_avx2(t, b, d, min);
            scale[r] = _mm512_mul_ps(mla__scales_vnni(d, halves), _mm512_loadu_ps(xd));
            if (mla__has_min(f)) low[r] = _mm512_fmadd_ps(mla__scales_vnni(min, halves), _mm512_loadu_ps(xs), low[r]);
        }
        MLA__EACH(u, 4) {
            const __m512i q =
                _mm512_inserti64x4(_mm512_castsi256_si512(mla__m256i(x[2 * u].q)), mla__m256i(x[2 * u + 1].q), 1);
            const __m512i of = _mm512_add_epi32(group, _mm512_set1_epi32(2 * halves * u));
            const __m512i sum = is_list || f->offset ? _mm512_dpbusd_epi32(zero, offset, q) : zero;
            MLA__EACH(r, 2) {
                const unsigned char *b = rows[r] + n * f->bytes;
                __m512i w = mla__plane64_vnni(&f->low, b, 64 * u);
                if (f->high.bits)
                    w = _mm512_or_si512(
                        w, _mm512_slli_epi16(mla__plane64_vnni(&f->high, b, 64 * u), (unsigned)f->low.bits));
                if (is_list) w = _mm512_shuffle_epi8(list, w);
                const __m512i s = _mm512_sub_epi32(_mm512_dpbusd_epi32(zero, w, q), sum);
                acc[r][u & 1] =
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(s), _mm512_permutexvar_ps(of, scale[r]), acc[r][u & 1]);
            }
        }
    }
    MLA__EACH(r, 2) *y[r] = mla__sum_avx512(_mm512_sub_ps(_mm512_add_ps(acc[r][0], acc[r][1]), low[r]));
}
#define MLA__ROWS_MOST (MLA__KC * MLA__NR_MAX / MLA__FEW * 8) /* columns whose scales fit the panel */
MLA__VNNI void mla__idot_long_vnni(const mla_dtype t, const mla__product *p) {
    const int blocks = p->K / 256, halves = MLA_GROUP / mla__formats[t].group;
    const mla__sz row = mla__bytes(t, p->w->cols);
    const unsigned char *b = (const unsigned char *)p->w->data + (p->row0 + p->n0) * row;
    float *scales = p->panel; /* [T][xd, xs] */
    for (int i = 0; i < p->in.T; i++) {
        const mla__act *x = mla__act_of(&p->in, i);
        float *xd = scales + i * 32 * blocks, *xs = xd + 16 * blocks;
        memset(xd, 0, 32 * (size_t)blocks * sizeof *xd);
        for (int g = 0; g < 8 * blocks; g++)
            for (int h = 0; h < halves; h++) {
                const int at = g / 8 * 16 + g % 8 * halves + h;
                xd[at] = x[g].d, xs[at] = halves > 1 ? x[g].half[h] : x[g].sum;
            }
    }
    const int rows = p->n1 - p->n0, apart = (rows + 1) / 2;
    for (int n = 0; n < apart; n++)
        for (int i = 0; i < p->in.T; i++) {
            const int other = mla__min(n + apart, rows - 1); /* of an odd number one row twice */
            const unsigned char *const two[2] = {b + n * row, b + other * row};
            float *const y[2] = {p->y + i * p->ldy + n, p->y + i * p->ldy + other};
            const float *xd = scales + i * 32 * blocks;
            mla__idot_two_vnni(t, p->fetch, y, mla__act_of(&p->in, i), xd, xd + 16 * blocks, two, blocks);
        }
}

/* Rows of blocks of 32 as they lie, two blocks at a time. Their codes, a byte each, from where b points and `next`
   bytes behind that; of four bits that nothing is added to, the second half's stay where they are and count
   sixteenfold. */
MLA__INLINE int mla__sixteenfold(const mla__format *f) { return f->code == MLA__CODE_UINT && !f->high.bits; }
MLA__VNNI __m512i mla__codes32_vnni(const mla_dtype t, const unsigned char *b, mla__sz next) {
    const mla__format *f = &mla__formats[t];
    const unsigned char *at = b + f->low.at;
    if (f->low.bits == 8) {
        const __m512i x = _mm512_inserti64x4(_mm512_castsi256_si512(mla__m256i(at)), mla__m256i(at + next), 1);
        return _mm512_xor_si512(x, _mm512_set1_epi8(-128));
    }
    const __m512i low = _mm512_set1_epi8(15);
    __m512i u = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(mla__m128i(at)), 0xff00, mla__m128i(at + next));
    if (mla__sixteenfold(f)) return _mm512_and_si512(u, _mm512_mask_blend_epi64(0xcc, low, _mm512_slli_epi16(low, 4)));
    u = _mm512_and_si512(_mm512_srlv_epi64(u, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4)), low);
    if (f->high.bits) {
        uint32_t high[2];
        memcpy(&high[0], b + f->high.at, 4), memcpy(&high[1], b + next + f->high.at, 4);
        return _mm512_mask_add_epi8(u, high[0] | (uint64_t)high[1] << 32, u, _mm512_set1_epi8(16));
    }
    const void *list = mla__lists[f->code - MLA__CODE_NL];
    return _mm512_shuffle_epi8(_mm512_xor_si512(_mm512_broadcast_i32x4(mla__m128i(list)), _mm512_set1_epi8(-128)), u);
}
/* Of n <= 8 blocks the half where b points, side by side, others 0. */
MLA__VNNI __m128i mla__eight_vnni(const mla__format *f, const unsigned char *b, int n) {
    int16_t u[8] = {0};
    MLA__EACH(i, 8)
        if (i < n) memcpy(&u[i], b + i * f->bytes, 2);
    return _mm_setr_epi16(u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7]);
}
/* The scales of n <= 8 blocks, others 0, and their minima. */
MLA__VNNI __m256 mla__scales32_vnni(const mla_dtype t, const unsigned char *b, const int whole, int n, __m256 *min) {
    const mla__format *f = &mla__formats[t];
    if (f->scaling == MLA__SCALING_MX) {
        const __m128i x = _mm_and_si128(mla__eight_vnni(f, b, n), _mm_set1_epi16(255));
        return _mm256_maskz_mov_ps((__mmask8)((1 << n) - 1), mla__powers_avx2(_mm_packus_epi16(x, x)));
    }
    __m128i d, m = _mm_setzero_si128();
    if (whole && f->bytes <= 20) { /* those of four blocks lie in 64 bytes */
        const short s = f->bytes / 2, s2 = f->bytes, s3 = (short)(f->bytes + s), o = 32;
        const __m256i at = _mm256_setr_epi16(0, s, s2, s3, o, (short)(o + s), (short)(o + s2), (short)(o + s3), 1,
                                             (short)(1 + s), (short)(1 + s2), (short)(1 + s3), o + 1,
                                             (short)(o + 1 + s), (short)(o + 1 + s2), (short)(o + 1 + s3));
        const __m512i both = _mm512_permutex2var_epi16(_mm512_loadu_si512(b), _mm512_castsi256_si512(at),
                                                       _mm512_loadu_si512(b + 4 * f->bytes));
        d = _mm512_castsi512_si128(both), m = _mm256_extracti128_si256(_mm512_castsi512_si256(both), 1);
    } else {
        d = mla__eight_vnni(f, b, n);
        if (f->scaling == MLA__SCALING_DM) m = mla__eight_vnni(f, b + 2, n);
    }
    const __m256 scale = _mm256_cvtph_ps(d);
    *min = f->scaling == MLA__SCALING_DM ? _mm256_sub_ps(_mm256_setzero_ps(), _mm256_cvtph_ps(m))
                                         : _mm256_mul_ps(scale, _mm256_set1_ps((float)f->offset));
    return scale;
}
/* A token and four rows that are walked side by side. */
typedef struct mla__four {
    const unsigned char *b[4];
    const mla__act *x;
    const float *xd; /* of each eight groups d_x, the same for the second halves of blocks, and the sums */
    mla__flow flow[4];
    __m512 acc[4][2];
    __m256 low[4];
} mla__four;
/* Groups 2u and 2u+1 of n; sums are added to acc[.][to]. */
MLA__VNNI void mla__idot_pair_vnni(const mla_dtype t, mla__four *a, const __m512 *scale, const int to, int u, int n) {
    const mla__format *f = &mla__formats[t];
    const mla__act *x = a->x + 2 * u, *other = 2 * u + 1 < n ? x + 1 : x; /* of an odd number one twice, by 0 */
    const __m512i q = _mm512_inserti64x4(_mm512_castsi256_si512(mla__m256i(x->q)), mla__m256i(other->q), 1);
    const __m512i of =
        _mm512_add_epi32(_mm512_setr_epi32(0, 0, 0, 0, 8, 8, 8, 8, 1, 1, 1, 1, 9, 9, 9, 9), _mm512_set1_epi32(2 * u));
    __m512i begin = _mm512_setzero_si512();
    if (mla__off_of(f) == MLA__OFF_START) {
        const int s = mla__offset(f) == 128;
        begin = _mm512_mask_set1_epi32(_mm512_maskz_set1_epi32(1, x->start[s]), 1 << 8, other->start[s]);
    }
    MLA__EACH(r, 4) {
        const __m512i w = mla__codes32_vnni(t, a->b[r] + 2 * u * f->bytes, (other - x) * f->bytes);
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(begin, w, q));
        a->acc[r][to] = _mm512_fmadd_ps(sum, _mm512_permutexvar_ps(of, scale[r]), a->acc[r][to]);
    }
}
MLA__VNNI void mla__idot_eight_vnni(const mla_dtype t, int fetch, mla__four *a, const int whole, int n) {
    const mla__format *f = &mla__formats[t];
    __m512 scale[4];
    MLA__EACH(r, 4) {
        __m256 min = _mm256_setzero_ps();
        const unsigned char *at = (const unsigned char *)mla__flow_at(&a->flow[r], a->b[r], fetch);
        for (int i = 0; i < n * f->bytes; i += 64) MLA__PREFETCH(at + i);
        const __m256 d = mla__scales32_vnni(t, a->b[r], whole, n, &min);
        scale[r] = _mm512_mul_ps(_mm512_broadcast_f32x8(d), _mm512_loadu_ps(a->xd));
        if (mla__off_of(f) == MLA__OFF_MIN) a->low[r] = _mm256_fmadd_ps(min, _mm256_loadu_ps(a->xd + 16), a->low[r]);
    }
    if (whole)
        MLA__EACH(u, 4) mla__idot_pair_vnni(t, a, scale, u & 1, u, 8);
    else
        for (int u = 0; u < (n + 1) / 2; u++) mla__idot_pair_vnni(t, a, scale, 0, u, n);
    MLA__EACH(r, 4) a->b[r] += n * f->bytes;
    a->x += n, a->xd += 24;
}
MLA__VNNI void mla__idot_four_vnni(const mla_dtype t, int fetch, float *const *y, mla__four *a, int groups) {
    MLA__EACH(r, 4) a->acc[r][0] = a->acc[r][1] = _mm512_setzero_ps(), a->low[r] = _mm256_setzero_ps();
    for (; groups >= 8; groups -= 8) mla__idot_eight_vnni(t, fetch, a, 1, 8);
    if (groups > 0) mla__idot_eight_vnni(t, fetch, a, 0, groups);
    MLA__EACH(r, 4) {
        const __m512 low = _mm512_zextps256_ps512(a->low[r]);
        *y[r] = mla__sum_avx512(_mm512_sub_ps(_mm512_add_ps(a->acc[r][0], a->acc[r][1]), low));
    }
}
MLA__VNNI void mla__idot_short_vnni(const mla_dtype t, const mla__product *p) {
    const mla__format *f = &mla__formats[t];
    const int groups = p->K / MLA_GROUP, eights = (groups + 7) / 8, rows = p->n1 - p->n0, apart = (rows + 3) / 4;
    const mla__sz row = mla__bytes(t, p->w->cols);
    const unsigned char *b = (const unsigned char *)p->w->data + (p->row0 + p->n0) * row;
    const float second = mla__sixteenfold(f) ? 0.0625f : 1;
    float *scales = p->panel; /* [T][eights] of xd */
    memset(scales, 0, 24 * (size_t)p->in.T * (size_t)eights * sizeof *scales);
    for (int i = 0; i < p->in.T; i++) {
        const mla__act *x = mla__act_of(&p->in, i);
        for (int g = 0; g < groups; g++) {
            float *xd = scales + 24 * (i * eights + g / 8) + g % 8;
            xd[0] = x[g].d, xd[8] = second * x[g].d, xd[16] = x[g].sum;
        }
    }
    mla__four a;
    MLA__EACH(r, 4) a.flow[r] = mla__flow_of(p, b, r, apart, rows, 1, row);
    for (int n = 0; n < apart; n++)
        for (int i = 0; i < p->in.T; i++) {
            float *y[4];
            a.x = mla__act_of(&p->in, i), a.xd = scales + 24 * i * eights;
            MLA__EACH(r, 4) {
                const int at = mla__min(n + r * apart, rows - 1); /* what is less than four is made full */
                y[r] = p->y + i * p->ldy + at, a.b[r] = b + at * row;
            }
            mla__idot_four_vnni(t, p->fetch ? p->fetch : MLA__NEAR, y, &a, groups);
        }
}

typedef void (*mla__itile)(int m, const mla__imeet *a);
#define MLA__TILE(name, ...)                                                                                           \
    static MLA__TARGET_AVX2 void mla__itile_##name##_avx2(int m, const mla__imeet *a) {                                \
        switch (m) {                                                                                                   \
        case 1: mla__itile_avx2(__VA_ARGS__, 1, a); break;                                                             \
        case 2: mla__itile_avx2(__VA_ARGS__, 2, a); break;                                                             \
        case 3: mla__itile_avx2(__VA_ARGS__, 3, a); break;                                                             \
        default: mla__itile_avx2(__VA_ARGS__, 4, a);                                                                   \
        }                                                                                                              \
    }
MLA__TILE(signed, MLA__SIGNED)
MLA__TILE(signed_16, MLA__SIGNED_16)
MLA__TILE(unsigned, MLA__UNSIGNED)
MLA__TILE(unsigned_16, MLA__UNSIGNED_16)
MLA__TILE(unsigned_5, MLA__UNSIGNED_5)
#undef MLA__TILE
#define MLA__TILE(name, ...)                                                                                           \
    static MLA__TARGET_VNNI void mla__itile_##name##_vnni(int m, const mla__imeet *a) {                                \
        switch (m) {                                                                                                   \
        case 1: mla__itile_vnni(__VA_ARGS__, 1, a); break;                                                             \
        case 2: mla__itile_vnni(__VA_ARGS__, 2, a); break;                                                             \
        case 3: mla__itile_vnni(__VA_ARGS__, 3, a); break;                                                             \
        case 4: mla__itile_vnni(__VA_ARGS__, 4, a); break;                                                             \
        case 5: mla__itile_vnni(__VA_ARGS__, 5, a); break;                                                             \
        default: mla__itile_vnni(__VA_ARGS__, 6, a);                                                                   \
        }                                                                                                              \
    }
MLA__TILE(min, MLA__OFF_MIN, 1)
MLA__TILE(min_16, MLA__OFF_MIN, 2)
MLA__TILE(start, MLA__OFF_START, 1)
MLA__TILE(half, MLA__OFF_HALF, 2)
#undef MLA__TILE
static const mla__itile mla__itiles_avx2[] = {mla__itile_signed_avx2, mla__itile_signed_16_avx2,
                                              mla__itile_unsigned_avx2, mla__itile_unsigned_16_avx2,
                                              mla__itile_unsigned_5_avx2};
static const mla__itile mla__itiles_vnni[][2] = {
    {mla__itile_min_vnni, mla__itile_min_16_vnni}, {mla__itile_start_vnni, NULL}, {NULL, mla__itile_half_vnni}};

/* Each format's packer, product of few tokens and unpacker, with rows as they lie and interleaved. */
typedef void (*mla__ipack)(mla__ipanel *panel, const mla_tensor *w, int row, int nb, int g0, int gn, int bias);
typedef struct mla__iformat {
    mla__ipack pack;
    mla__kernel few;
} mla__iformat;
#define MLA__ROWS(D, d)                                                                                                \
    static MLA__TARGET_AVX2 void mla__ipack_##d##_avx2(mla__ipanel *to, const mla_tensor *w, int row, int nb, int g0,  \
                                                       int gn, int bias) {                                             \
        mla__ipack_avx2(D, to, w, row, nb, g0, gn, bias);                                                              \
    }                                                                                                                  \
    static MLA__TARGET_AVX2 void mla__idot_##d##_avx2(const mla__product *p) { mla__idot_avx2(D, p); }                 \
    static MLA__TARGET_AVX2 void mla__unpack_##d##_avx2(float *y, const void *x, mla__sz n) {                          \
        mla__unpack_avx2(D, y, x, n);                                                                                  \
    }
#define MLA__STRIPS(D, d)                                                                                              \
    static MLA__TARGET_AVX2 void mla__ipack_##d##x16_avx2(mla__ipanel *to, const mla_tensor *w, int row, int nb,       \
                                                          int g0, int gn, int bias) {                                  \
        (void)nb, (void)bias;                                                                                          \
        mla__ipack16_avx2(D, to, w, row, g0, gn);                                                                      \
    }                                                                                                                  \
    static MLA__TARGET_VNNI void mla__ipack_##d##x16_vnni(mla__ipanel *to, const mla_tensor *w, int row, int nb,       \
                                                          int g0, int gn, int bias) {                                  \
        (void)nb, (void)bias;                                                                                          \
        mla__ipack16_vnni(D, to, w, row, g0, gn);                                                                      \
    }                                                                                                                  \
    static MLA__TARGET_AVX2 void mla__strip_##d##_avx2(const mla__strips *a) { mla__idot_strip_avx2(D, a); }           \
    static void mla__idot_##d##x16_avx2(const mla__product *p) {                                                       \
        static const mla__strip of[] = {NULL, mla__strip_##d##_avx2};                                                  \
        mla__strips_run(of, 1, 1, NULL, p);                                                                            \
    }                                                                                                                  \
    static MLA__TARGET_VNNI void mla__strips1_##d##_vnni(const mla__strips *a) { mla__idot_strips_vnni(D, 4, 1, a); }  \
    static MLA__TARGET_VNNI void mla__strips4_##d##_vnni(const mla__strips *a) { mla__idot_strips_vnni(D, 2, 4, a); }  \
    static MLA__TARGET_VNNI void mla__strips5_##d##_vnni(const mla__strips *a) { mla__idot_strips_vnni(D, 2, 5, a); }  \
    static MLA__TARGET_VNNI void mla__strips6_##d##_vnni(const mla__strips *a) { mla__idot_strips_vnni(D, 2, 6, a); }  \
    static void mla__strips_##d##_vnni(mla__interleave interleave, const mla__product *p) {                            \
        static const mla__strip of[] = {NULL,                                                                          \
                                        mla__strips1_##d##_vnni,                                                       \
                                        mla__strips4_##d##_vnni,                                                       \
                                        mla__strips4_##d##_vnni,                                                       \
                                        mla__strips4_##d##_vnni,                                                       \
                                        mla__strips5_##d##_vnni,                                                       \
                                        mla__strips6_##d##_vnni};                                                      \
        mla__strips_run(of, p->in.T == 1 ? 4 : 2, 6, interleave, p);                                                   \
    }                                                                                                                  \
    static void mla__idot_##d##x16_vnni(const mla__product *p) { mla__strips_##d##_vnni(NULL, p); }
#define MLA__BOTH(D, d) MLA__ROWS(D, d) MLA__STRIPS(D, d)
MLA__FORMATS(MLA__BOTH, MLA__ROWS)
#undef MLA__ROWS
#undef MLA__STRIPS
#undef MLA__BOTH
#define MLA__ROWS(D, d) {{mla__ipack_##d##_avx2, mla__idot_##d##_avx2}, {NULL, NULL}},
#define MLA__BOTH(D, d)                                                                                                \
    {{mla__ipack_##d##_avx2, mla__idot_##d##_avx2}, {mla__ipack_##d##x16_avx2, mla__idot_##d##x16_avx2}},
static const mla__iformat mla__iformats_avx2[][MLA_LAYOUT_COUNT] = {MLA__FORMATS(MLA__BOTH, MLA__ROWS)};
#undef MLA__ROWS
#undef MLA__BOTH
#define MLA__ROWS(D, d) NULL,
#define MLA__BOTH(D, d) mla__ipack_##d##x16_vnni,
static const mla__ipack mla__ipacks_vnni[] = {MLA__FORMATS(MLA__BOTH, MLA__ROWS)};
#undef MLA__ROWS
#undef MLA__BOTH

/* Memory that is to be fetched: `runs` runs of so many bytes, ld apart. */
typedef struct mla__ahead {
    const unsigned char *from;
    mla__sz ld, bytes, at;
    int runs;
} mla__ahead;
static void mla__fetch(mla__ahead *a, int lines) {
    for (; lines > 0 && a->runs > 0; lines--) {
        MLA__PREFETCH(a->from + a->at);
        a->at += 64;
        if (a->at >= a->bytes) a->at = 0, a->from += a->ld, a->runs--;
    }
}
/* Of nb rows from row on the columns k0 .. k0+kn, kn 0 or less: nothing. */
static mla__ahead mla__ahead_of(const mla_tensor *w, int row, int nb, int k0, int kn) {
    const int each = w->layout ? 16 : 1;
    const mla__sz ld = each * mla__bytes(w->dtype, w->cols), before = each * mla__bytes(w->dtype, k0);
    const mla__ahead a = {(const unsigned char *)w->data + row / each * ld + before, ld,
                          each * mla__bytes(w->dtype, kn), 0, kn > 0 ? (nb + each - 1) / each : 0};
    return a;
}
/* A panel of nb rows meets m tokens; of fewer rows than it could have, sums are kept aside. */
static void mla__imeet_rows(mla__itile tile, int m, mla__imeet *a, int nb, int wide) {
    float edge[MLA__IMR_MAX * 32], *to = a->y;
    const mla__sz ld = a->ldy;
    if (nb == wide) {
        tile(m, a);
        return;
    }
    memset(edge, 0, sizeof edge);
    a->y = edge, a->ldy = wide;
    for (int i = 0; i < m && a->add; i++) memcpy(edge + wide * i, to + i * ld, (size_t)nb * sizeof *to);
    tile(m, a);
    for (int i = 0; i < m; i++) memcpy(to + i * ld, edge + wide * i, (size_t)nb * sizeof *to);
}
/* Weights are packed `wide` rows, 16 or 32, and IGROUPS groups at a time, and meet MC tokens, `most` in each register
   tile. Meanwhile the next ones are fetched, some with each tile. With few tokens these stay in the cache, and rows are
   walked to their end, since memory likes that. */
static MLA__TARGET_AVX2 void mla__igemm_x86(mla__itile tile, mla__ipack pack, int most, int wide, int offset,
                                            const mla__product *p) {
    const int groups = p->K / MLA_GROUP, T = p->in.T;
    const int along = (groups + MLA__IGROUPS - 1) / MLA__IGROUPS, down = (p->n1 - p->n0 + wide - 1) / wide;
    mla__ipanel *panel = (mla__ipanel *)(void *)p->panel;
    for (int t0 = 0; t0 < T; t0 += MLA__MC) {
        const int t1 = T - t0 < MLA__MC ? T : t0 + MLA__MC, few = t1 - t0 <= MLA__IFEW;
        for (int i = 0; i < along * down; i++) {
            const int n = p->n0 + (few ? i / along : i % down) * wide, nb = mla__min(wide, p->n1 - n);
            const int g0 = (few ? i % along : i / down) * MLA__IGROUPS, gn = mla__min(MLA__IGROUPS, groups - g0);
            const int n1 = p->n0 + (few ? (i + 1) / along : (i + 1) % down) * wide;
            const int g1 = (few ? (i + 1) % along : (i + 1) / down) * MLA__IGROUPS;
            for (int r = 0; r < nb; r += 16)
                pack(panel + r / 16 * MLA__IGROUPS, p->w, p->row0 + n + r, mla__min(16, nb - r), g0, gn, offset);
            mla__ahead ahead = mla__ahead_of(p->w, p->row0 + n1, mla__min(wide, p->n1 - n1), g1 * MLA_GROUP,
                                             mla__min(gn, groups - g1) * MLA_GROUP);
            const int lines = (int)((ahead.bytes + 63) / 64) * ahead.runs * most / (t1 - t0) + 1;
            for (int u = t0, left = (t1 - t0 + most - 1) / most, m; u < t1; u += m, left--) {
                m = (t1 - u + left - 1) / left;
                mla__imeet a = {p->y + u * p->ldy + (n - p->n0), p->ldy, {NULL}, panel, gn, g0 > 0, offset};
                for (int r = 0; r < m; r++) a.x[r] = mla__act_of(&p->in, u + r) + g0;
                mla__fetch(&ahead, lines);
                mla__imeet_rows(tile, m, &a, nb, wide);
            }
        }
    }
}
static void mla__igemm_avx2(const mla__product *p) {
    const mla_dtype t = p->w->dtype;
    mla__igemm_x86(mla__itiles_avx2[mla__shape_of(t)], mla__iformats_avx2[t - MLA_Q8][p->w->layout].pack, MLA__IMR, 16,
                   0, p);
}
/* VNNI's packer of a tensor, and what it is to add to codes that come signed. */
static mla__ipack mla__ipack_of(const mla_tensor *w) {
    const int of = (int)w->dtype - MLA_Q8;
    return w->layout ? mla__ipacks_vnni[of] : mla__iformats_avx2[of][0].pack;
}
static int mla__bias(const mla__format *f) { return f->code == MLA__CODE_UINT ? 0 : mla__offset(f); }
static void mla__igemm_vnni(const mla__product *p) {
    const mla__format *f = &mla__formats[p->w->dtype];
    mla__igemm_x86(mla__itiles_vnni[mla__off_of(f)][f->group < MLA_GROUP], mla__ipack_of(p->w), MLA__IMR_VNNI, 32,
                   mla__bias(f), p);
}
/* Blocks of 32 with nothing but a scale meet any number of tokens in strips, faster than by panels; of rows as they
   lie what is less than a strip is packed. */
#define MLA__STRIPS(D, d)                                                                                              \
    static MLA__TARGET_VNNI void mla__interleave_##d##_vnni(unsigned char *to, const unsigned char *rows,              \
                                                            mla__sz row_bytes, int blocks) {                           \
        mla__interleave_vnni(D, to, rows, row_bytes, blocks);                                                          \
    }                                                                                                                  \
    static void mla__igemm_##d##_vnni(const mla__product *p) {                                                         \
        const int whole = (p->n1 - p->n0) / 16 * 16;                                                                   \
        mla__product part = *p;                                                                                        \
        part.n1 = p->n0 + whole;                                                                                       \
        if (whole) mla__strips_##d##_vnni(p->w->layout ? NULL : mla__interleave_##d##_vnni, &part);                    \
        part.y += whole, part.n0 = part.n1, part.n1 = p->n1;                                                           \
        if (part.n0 < part.n1) mla__igemm_vnni(&part);                                                                 \
    }
MLA__STRIPS(MLA_Q8, q8)
MLA__STRIPS(MLA_Q4, q4)
#undef MLA__STRIPS
/* Formats with blocks of 32 and of 256. */
#define MLA__BLOCKS(SHORT, LONG)                                                                                       \
    SHORT(MLA_Q8, q8)                                                                                                  \
    SHORT(MLA_Q4, q4)                                                                                                  \
    SHORT(MLA_Q4_1, q4_1)                                                                                              \
    SHORT(MLA_Q5_0, q5_0)                                                                                              \
    SHORT(MLA_Q5_1, q5_1)                                                                                              \
    SHORT(MLA_IQ4_NL, iq4_nl)                                                                                          \
    SHORT(MLA_MXFP4, mxfp4)                                                                                            \
    LONG(MLA_Q2_K, q2_k)                                                                                               \
    LONG(MLA_Q3_K, q3_k) LONG(MLA_Q4_K, q4_k) LONG(MLA_Q5_K, q5_k) LONG(MLA_Q6_K, q6_k) LONG(MLA_IQ4_XS, iq4_xs)
#define MLA__ROWS(run, D, d)                                                                                           \
    static MLA__TARGET_VNNI void mla__idot_##d##_vnni(const mla__product *p) {                                         \
        if (p->K <= MLA__ROWS_MOST) run(D, p);                                                                         \
        else mla__idot_##d##_avx2(p);                                                                                  \
    }
#define MLA__SHORT_ROWS(D, d) MLA__ROWS(mla__idot_short_vnni, D, d)
#define MLA__LONG_ROWS(D, d)  MLA__ROWS(mla__idot_long_vnni, D, d)
MLA__BLOCKS(MLA__SHORT_ROWS, MLA__LONG_ROWS)
#undef MLA__ROWS
#undef MLA__SHORT_ROWS
#undef MLA__LONG_ROWS

/* Of keys as f32 [GLANCE_KEYS, d] what is multiplied, and their scales [16]: no finite numbers of keys with such. */
MLA__VNNI void mla__glance_keys_vnni(const mla__glance *glance, float *scale, int d) {
    const __m512 least = _mm512_set1_ps(MLA__GLANCE_LEAST), whole = _mm512_set1_ps(MLA__GLANCE);
    const float *x = glance->wide;
    float by[16] = {0};
    __m512 sum[MLA__GLANCE_KEYS];
    MLA__EACH(i, MLA__GLANCE_KEYS) sum[i] = _mm512_setzero_ps();
    for (int j = 0; j < d; j += 16)
        MLA__EACH(i, MLA__GLANCE_KEYS) {
            const __m512 v = _mm512_loadu_ps(x + i * d + j);
            sum[i] = _mm512_fmadd_ps(v, v, sum[i]);
        }
    MLA__EACH(i, MLA__GLANCE_KEYS) by[i] = _mm512_reduce_add_ps(sum[i]);
    const __m512 length = _mm512_max_ps(least, _mm512_sqrt_ps(_mm512_loadu_ps(by))); /* NaN stays */
    _mm512_storeu_ps(scale, _mm512_div_ps(length, whole));
    _mm512_storeu_ps(by, _mm512_div_ps(whole, length));
    for (int j = 0; j < d; j += 16)
        MLA__EACH(i, MLA__GLANCE_KEYS) {
            const __m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + i * d + j), _mm512_set1_ps(by[i]));
            _mm256_storeu_si256((__m256i *)(void *)(glance->k + i * d + j),
                                _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(v)));
        }
}
static MLA__TARGET_VNNI void mla__glance_lanes_vnni(mla__glance *glance, int p, const float *q, int d) {
    const __m512 least = _mm512_set1_ps(MLA__GLANCE_LEAST), whole = _mm512_set1_ps(MLA__GLANCE);
    int16_t *y = glance->q + (mla__sz)p * 16 * d;
    __m512 sum = _mm512_setzero_ps();
    for (int i = 0; i < d; i++) sum = _mm512_fmadd_ps(_mm512_loadu_ps(q + i * 16), _mm512_loadu_ps(q + i * 16), sum);
    const __m512 length = _mm512_max_ps(least, _mm512_sqrt_ps(sum)), by = _mm512_div_ps(whole, length); /* NaN stays */
    _mm512_storeu_ps(glance->scale + p * 16, _mm512_div_ps(length, whole));
    for (int i = 0; i < d; i += 2) {
        const __m512i even = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(q + i * 16), by)),
                      odd = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(q + i * 16 + 16), by));
        _mm512_storeu_si512(y + i * 16, _mm512_mask_mov_epi16(_mm512_slli_epi32(odd, 16), 0x55555555, even));
    }
}
/* Two panels of heads and six keys at a time: keys are broadcast, heads are the lanes. */
static MLA__TARGET_VNNI void mla__glance_vnni(float *score, float *scale, const mla__glance *glance, int n,
                                              const mla__visit *visit) {
    const int d = visit->dk, nu = visit->nu, step = (int)(2 * MLA__GLANCE_KEYS * glance->bytes / d);
    for (int u = 0; u < nu; u += MLA__GLANCE_KEYS) {
        const int keys = mla__min(MLA__GLANCE_KEYS, nu - u);
        const char *k = (const char *)visit->k + u * glance->bytes, *ahead = k + 2 * MLA__GLANCE_KEYS * glance->bytes;
        float scales[16];
        __m512 sum[MLA__GLANCE_KEYS];
        MLA__EACH(i, MLA__GLANCE_KEYS) sum[i] = _mm512_setzero_ps();
        glance->widen(glance->wide, k, keys * (mla__sz)d);
        mla__glance_keys_vnni(glance, scales, d);
        for (int i = 0; i < keys; i++) scale[u + i] = scales[i];
        for (int p = 0; p < n; p += 2) {
            const int16_t *q = glance->q + (mla__sz)p * 16 * d;
            __m512i s[MLA__GLANCE_KEYS][2];
            MLA__EACH(i, MLA__GLANCE_KEYS) s[i][0] = s[i][1] = _mm512_setzero_si512();
            for (int j = 0; j < d; j += 2) {
                if (p == 0) _mm_prefetch(ahead + j / 2 * step, _MM_HINT_T0);
                __m512i a = _mm512_loadu_si512(q + j * 16), b = _mm512_loadu_si512(q + (j + d) * 16);
                MLA__HOLD(a);
                MLA__HOLD(b);
                MLA__EACH(i, MLA__GLANCE_KEYS) {
                    int pair;
                    memcpy(&pair, glance->k + i * d + j, 4);
                    const __m512i both = _mm512_set1_epi32(pair);
                    s[i][0] = _mm512_dpwssd_epi32(s[i][0], a, both), s[i][1] = _mm512_dpwssd_epi32(s[i][1], b, both);
                    MLA__HOLD(s[i][0]);
                    MLA__HOLD(s[i][1]);
                }
            }
            MLA__EACH(i, MLA__GLANCE_KEYS)
                MLA__EACH(h, 2) {
                    const __m512 dot = _mm512_cvtepi32_ps(_mm512_max_epi32(s[i][h], _mm512_setzero_si512()));
                    sum[i] = _mm512_fmadd_ps(dot, _mm512_loadu_ps(glance->weight + (p + h) * 16), sum[i]);
                }
        }
        for (int i = 0; i < keys; i++) score[u + i] = _mm512_reduce_add_ps(sum[i]) * scale[u + i];
    }
}

/* kv_b is mostly Q8, and decoding reads all of it as f32. */
static MLA__TARGET_VNNI void mla__unpack_q8_vnni(float *y, const void *x, mla__sz n) {
    const unsigned char *b = (const unsigned char *)x;
    for (mla__sz i = 0; i < n; i += MLA_GROUP, b += 34) {
        const __m512 d = _mm512_broadcastss_ps(_mm256_castps256_ps128(mla__half_avx2(b)));
        MLA__EACH(h, 2) {
            const __m512i q = _mm512_cvtepi8_epi32(mla__m128i(b + 2 + 16 * h));
            _mm512_storeu_ps(y + i + 16 * h, _mm512_mul_ps(_mm512_cvtepi32_ps(q), d));
        }
    }
}

static void mla__integer_vnni(mla__kernels *k) {
    k->few = 16, k->glance = mla__glance_vnni, k->glance_lanes = mla__glance_lanes_vnni;
    k->widen[MLA_Q8] = mla__unpack_q8_vnni;
#define MLA__ROWS(D, d) k->igemm[D] = mla__igemm_vnni;
#define MLA__BOTH(D, d) k->igemm[D] = mla__igemm_vnni, k->idot[D][MLA_LAYOUT_X16] = mla__idot_##d##x16_vnni;
    MLA__FORMATS(MLA__BOTH, MLA__ROWS)
#undef MLA__ROWS
#undef MLA__BOTH
#define MLA__ROWS(D, d) k->idot[D][MLA_LAYOUT_ROWS] = mla__idot_##d##_vnni;
    MLA__BLOCKS(MLA__ROWS, MLA__ROWS)
#undef MLA__ROWS
    k->igemm[MLA_Q8] = mla__igemm_q8_vnni, k->igemm[MLA_Q4] = mla__igemm_q4_vnni;
#undef MLA__BLOCKS
}
static void mla__integer_avx2(mla__kernels *k) {
    k->quantize = mla__quantize_avx2;
    for (int t = MLA_Q8; t < MLA_UE8M0; t++) {
        for (int l = 0; l < MLA_LAYOUT_COUNT; l++) k->idot[t][l] = mla__iformats_avx2[t - MLA_Q8][l].few;
        k->igemm[t] = mla__igemm_avx2;
    }
}
#endif

/* ---- >>fp8 ------------------------------------------------------------------------------------------------------- */
#if MLA__X86
/* E4M3 times few tokens where bytes can be looked up (AVX512_VBMI): both bytes of a code's bf16 come from tables of
   128, which also knows subnormals and NaN; the sign is put in; what two 16-bit halves of 32 bits hold are then f32 by
   a shift and a mask. A first permutation sees to it that they come out in the order of x. A block's scale is met by
   its sums. */
#define MLA__FP8_BF16(c) /* of code c, below 128 */                                                                    \
    ((c) == 0     ? 0                                                                                                  \
     : (c) == 1   ? 0x3b00                                                                                             \
     : (c) < 4    ? 0x3b00 + 64 * (c)                                                                                  \
     : (c) < 8    ? 0x3b80 + 32 * (c)                                                                                  \
     : (c) == 127 ? 0x7fc0                                                                                             \
                  : 0x3c00 + 16 * (c))
#define MLA__FP8_ORDER(i)  (16 * ((i) % 16 / 8 * 2 + (i) % 2) + (i) / 16 * 4 + (i) % 8 / 2)
#define MLA__FP8_LOW(c)    (MLA__FP8_BF16(c) & 255)
#define MLA__FP8_HIGH(c)   (MLA__FP8_BF16(c) >> 8)
#define MLA__FOUR(f, i)    f((i)), f((i) + 1), f((i) + 2), f((i) + 3)
#define MLA__SIXTEEN(f, i) MLA__FOUR(f, i), MLA__FOUR(f, (i) + 4), MLA__FOUR(f, (i) + 8), MLA__FOUR(f, (i) + 12)
#define MLA__SIXTY_FOUR(f, i)                                                                                          \
    MLA__SIXTEEN(f, i), MLA__SIXTEEN(f, (i) + 16), MLA__SIXTEEN(f, (i) + 32), MLA__SIXTEEN(f, (i) + 48)
static const unsigned char mla__fp8_tables[5][64] = {{MLA__SIXTY_FOUR(MLA__FP8_ORDER, 0)},
                                                     {MLA__SIXTY_FOUR(MLA__FP8_LOW, 0)},
                                                     {MLA__SIXTY_FOUR(MLA__FP8_LOW, 64)},
                                                     {MLA__SIXTY_FOUR(MLA__FP8_HIGH, 0)},
                                                     {MLA__SIXTY_FOUR(MLA__FP8_HIGH, 64)}};
#undef MLA__FP8_BF16
#undef MLA__FP8_ORDER
#undef MLA__FP8_LOW
#undef MLA__FP8_HIGH
#undef MLA__FOUR
#undef MLA__SIXTEEN
#undef MLA__SIXTY_FOUR
MLA__INLINE MLA__TARGET_VBMI void mla__fp8_part(const int T, const int n, __m512 (*sum)[2], const float *const *x,
                                                mla__sz k, const unsigned char *from, const __m512i *table) {
    const uint64_t some = n < 64 ? ((uint64_t)1 << n) - 1 : ~(uint64_t)0;
    const __m512i code = _mm512_permutexvar_epi8(table[0], n < 64 ? _mm512_maskz_loadu_epi8(some, from + k)
                                                                  : _mm512_loadu_si512(from + k));
    const __m512i low = _mm512_permutex2var_epi8(table[1], code, table[2]),
                  bits = _mm512_permutex2var_epi8(table[3], code, table[4]);
    const __m512i high = _mm512_ternarylogic_epi32(bits, code, _mm512_set1_epi8(-128), 0xf8); /* bits | (code & 0x80) */
    const __m512i p = _mm512_unpacklo_epi8(low, high), q = _mm512_unpackhi_epi8(low, high),
                  odd = _mm512_set1_epi32(-65536);
    const __m512 v[4] = {_mm512_castsi512_ps(_mm512_slli_epi32(p, 16)), _mm512_castsi512_ps(_mm512_and_si512(p, odd)),
                         _mm512_castsi512_ps(_mm512_slli_epi32(q, 16)), _mm512_castsi512_ps(_mm512_and_si512(q, odd))};
    MLA__EACH(j, 4) {
        MLA__EACH(i, T) {
            const float *at = x[i] + k + 16 * j;
            sum[i][j % 2] = _mm512_fmadd_ps(
                v[j], n < 64 ? _mm512_maskz_loadu_ps((__mmask16)(some >> 16 * j), at) : _mm512_loadu_ps(at),
                sum[i][j % 2]);
        }
    }
}
/* T tokens and 4 / T rows far apart: so many streams are followed at once (as by mla__strips). */
MLA__INLINE MLA__TARGET_VBMI void mla__fp8_rows(const int T, float *const *y, mla__sz ldy, const float *const *x,
                                                const mla__product *p, const int *rows, const __m512i *table) {
    const mla_tensor *w = p->w;
    const int R = 4 / T, K = p->K, step = mla__scaled(w) ? mla__scale_cols(w) : K;
    const unsigned char *from[4];
    mla__sz at[4];
    __m512 acc[4];
    MLA__EACH(r, R) {
        from[r] = (const unsigned char *)w->data + rows[r] * (mla__sz)w->cols;
        at[r] = mla__scaled(w) ? mla__scale_index(w, rows[r], 0) : 0;
    }
    MLA__EACH(i, 4) acc[i] = _mm512_setzero_ps();
    for (int kb = 0; kb < K; kb += step) {
        const int end = K - kb < step ? K : kb + step;
        int k = kb;
        __m512 sum[4][2];
        MLA__EACH(i, 4) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
        for (; k + 64 <= end; k += 64)
            MLA__EACH(r, R) mla__fp8_part(T, 64, sum + r * T, x, k, from[r], table);
        if (k < end)
            MLA__EACH(r, R) mla__fp8_part(T, end - k, sum + r * T, x, k, from[r], table);
        MLA__EACH(i, 4) {
            const __m512 scale = _mm512_set1_ps(mla__scaled(w) ? mla__scale_at(w, at[i / T]) : 1.0f);
            acc[i] = _mm512_fmadd_ps(_mm512_add_ps(sum[i][0], sum[i][1]), scale, acc[i]);
        }
        MLA__EACH(r, R) at[r]++;
    }
    MLA__EACH(i, 4) y[i / T][i % T * ldy] = _mm512_reduce_add_ps(acc[i]);
}
/* What is less than so many rows is made full by doing some twice. */
static MLA__TARGET_VBMI void mla__dot_e4m3_vbmi(const mla__product *p) {
    const int T = p->in.T, R = 4 / T, n = p->n1 - p->n0, apart = (n + R - 1) / R;
    const float *x[MLA__FEW];
    __m512i table[5];
    for (int i = 0; i < 5; i++) table[i] = _mm512_loadu_si512(mla__fp8_tables[i]);
    for (int i = 0; i < T; i++) x[i] = mla__x_of(&p->in, i);
    for (int i = 0; i < apart; i++) {
        float *y[4];
        int rows[4];
        for (int r = 0; r < R; r++) {
            const int row = mla__min(i + r * apart, n - 1);
            y[r] = p->y + row, rows[r] = p->row0 + p->n0 + row;
        }
        if (T == 1) mla__fp8_rows(1, y, p->ldy, x, p, rows, table);
        else mla__fp8_rows(2, y, p->ldy, x, p, rows, table);
    }
}
#endif

#endif /* MLA_IMPLEMENTATION: to here it is what the template is written in */

#ifdef MLA__TEMPLATE
/* ---- >>template -------------------------------------------------------------------------------------------------- */
/* Included once per ISA from the end of this section. Parameters:
     MLA__ISA       suffix of the names      MLA__TARGET  function attribute      MLA__ISA_ENUM
     MLA__VL        floats in a vector       MLA__NV      vectors in a panel of weights, NR = VL * NV columns
     MLA__MR        rows of a register tile  MLA__LV      vectors in a panel of queries, NL = VL * LV lanes
     MLA__AR        and of one of attention  MLA__AV      vectors of values in that one
                                                          (NL is a multiple of AR, or AR is MR)
     MLA__INTEGER   whose integer products and unpackers are used (>>integer) */

/* MLA_VERSION_NUMBER of this file, which another may have included. */
#undef MLA__TEMPLATE_VERSION
#define MLA__TEMPLATE_VERSION 200

#define MLA__WIDENED MLA_Q4 /* of a product's dtypes, stands for all that are widened before their use */
#define MLA__F(name) MLA__CAT(mla__##name, MLA__ISA)
#define MLA__V       MLA__F(v)
#define MLA__NR      (MLA__VL * MLA__NV)
#define MLA__NL      (MLA__VL * MLA__LV)
#define MLA__ABREAST                                                                                                   \
    (MLA__SMALL ? 1 : MLA__VL == 16 ? 4 : MLA__FEW) /* tokens that a row meets together: what the registers hold */
#define MLA__FN   static MLA__TARGET
#define MLA__RARE static MLA__SELDOM MLA__TARGET
#define MLA__IN   MLA__INLINE MLA__TARGET

/* c [M, NR] (+)= sum_k a[i][k*ak] b[k*bk .. +NR): the one loop in which nearly all arithmetic of prefill and attention
   happens. M and the dtype of b are constants in each use, and so is `stride`: if not 0, the rows of a lie so many
   floats apart, which takes one register to address where pointers take M. Meanwhile the memory from `ahead` on is
   fetched, `step` bytes for each k: spread out like this, it hides behind the arithmetic. */
MLA__IN void MLA__F(tile_m)(const int M, const int NV, const mla_dtype t, const int stride, float *c, mla__sz ldc,
                            const float *const *rows, mla__sz ak, const void *b, mla__sz bk, int K, int add,
                            const char *ahead, int step) {
    MLA__V acc[MLA__AR][MLA__NV > MLA__LV ? MLA__NV : MLA__LV];
    const float *a[MLA__AR];
    MLA__EACH(i, M) {
        a[i] = stride ? rows[0] + i * stride : rows[i];
        MLA__EACH(j, NV) acc[i][j] = add ? MLA__F(ld)(c + i * ldc + j * MLA__VL) : MLA__F(zero)();
    }
    mla__sz at = 0, from = 0;
    for (int k = 0; k < K; k++, at += ak, from += bk, ahead += step) {
        MLA__V w[MLA__NV > MLA__LV ? MLA__NV : MLA__LV];
        MLA__PREFETCH(ahead);
        MLA__EACH(j, NV) w[j] = MLA__F(get)(t, b, from + j * MLA__VL);
        MLA__EACH(i, M) {
            const MLA__V x = MLA__F(set1)(a[i][at]);
            MLA__EACH(j, NV) acc[i][j] = MLA__F(fma)(x, w[j], acc[i][j]);
        }
    }
    MLA__EACH(i, M) {
        MLA__EACH(j, NV) MLA__F(st)(c + i * ldc + j * MLA__VL, acc[i][j]);
    }
}

/* The same for m <= MR rows and n <= NR columns. */
MLA__IN void MLA__F(tile_t)(const int NV, const mla_dtype t, int m, int n, float *c, mla__sz ldc, const float *const *a,
                            mla__sz ak, const void *b, mla__sz bk, int K, int add, const void *ahead, int step) {
    enum { MOST = MLA__VL * (MLA__NV > MLA__LV ? MLA__NV : MLA__LV) };
    const int NR = MLA__VL * NV;
    float edge[MLA__MR * MOST], *to = c;
    const mla__sz ld = ldc;
    if (n < NR) {
        to = edge, ldc = NR;
        memset(edge, 0, sizeof edge);
        for (int i = 0; add && i < m; i++) memcpy(edge + i * NR, c + i * ld, (size_t)n * sizeof *c);
    }
    switch (m) {
#define MLA__CASE(M)                                                                                                   \
    case M: MLA__F(tile_m)(M, NV, t, 0, to, ldc, a, ak, b, bk, K, add, (const char *)ahead, step); break;
        MLA__CASE(1)
        MLA__CASE(2)
        MLA__CASE(3)
#if MLA__MR > 4
        MLA__CASE(4)
        MLA__CASE(5)
#endif
#if MLA__MR > 6
        MLA__CASE(6)
        MLA__CASE(7)
#endif
    default: MLA__F(tile_m)(MLA__MR, NV, t, 0, to, ldc, a, ak, b, bk, K, add, (const char *)ahead, step); break;
#undef MLA__CASE
    }
    for (int i = 0; to == edge && i < m; i++) memcpy(c + i * ld, edge + i * NR, (size_t)n * sizeof *c);
}
#define MLA__TILE(name, NV, D)                                                                                         \
    MLA__FN void MLA__F(name)(int m, int n, float *c, mla__sz ldc, const float *const *a, mla__sz ak, const void *b,   \
                              mla__sz bk, int K, int add, const void *ahead, int step) {                               \
        MLA__F(tile_t)(NV, D, m, n, c, ldc, a, ak, b, bk, K, add, ahead, step);                                        \
    }
MLA__TILE(tile_f32, MLA__NV, MLA_F32)
MLA__TILE(tile_f16, MLA__NV, MLA_F16)
MLA__TILE(tile_bf16, MLA__NV, MLA_BF16)
MLA__TILE(tile_lanes, MLA__LV, MLA_F32)
#undef MLA__TILE
/* The tiles of attention: AR keys by all lanes, and AR lanes by AV vectors of values. */
#define MLA__TILE(name, NV, D, NEAR)                                                                                   \
    MLA__FN void MLA__F(name)(float *c, mla__sz ldc, const float *a, mla__sz ak, const void *b, mla__sz bk, int K,     \
                              int add, const void *ahead, int step) {                                                  \
        MLA__F(tile_m)(MLA__AR, NV, D, NEAR, c, ldc, &a, ak, b, bk, K, add, (const char *)ahead, step);                \
    }
MLA__TILE(keys_f32, MLA__LV, MLA_F32, MLA__AK)
MLA__TILE(values_f32, MLA__AV, MLA_F32, 1)
MLA__TILE(values_f16, MLA__AV, MLA_F16, 1)
MLA__TILE(values_bf16, MLA__AV, MLA_BF16, 1)
#undef MLA__TILE

/* The n weights of a row from column k on: as they lie, or (WIDENED) widened into own, times their scales. */
MLA__IN const void *MLA__F(part)(const mla_dtype t, const mla__product *p, int row, int k, int n, float *own) {
    const mla_tensor *w = p->w;
    const mla__format *f = &mla__formats[w->dtype];
    const int step = mla__scale_cols(w);
    unsigned char block[MLA__BLOCK_BYTES];
    if (t != MLA__WIDENED) return (const char *)w->data + mla__bytes(t, row * (mla__sz)w->cols + k);
    if (w->layout == MLA_LAYOUT_ROWS) p->widen(own, mla__block_at(w, row, k, NULL), n);
    for (int i = 0; i < n && w->layout != MLA_LAYOUT_ROWS; i += f->block)
        p->widen(own + i, mla__block_at(w, row, k + i, block), f->block);
    if (!mla__scaled(w)) return own;
    for (int i = 0, end; i < n; i = end) {
        const float scale = mla__scale(w, row, k + i);
        end = step - (k + i) % step < n - i ? i + step - (k + i) % step : n;
        for (int j = i; j < end; j++) own[j] *= scale;
    }
    return own;
}
#define MLA__SPAN 256 /* columns of a row of blocks that are widened at a time, a multiple of those of a block */

/* panel [kc, VL of NR] = the transpose of W[row .. row+nb, k0 .. k0+kc), times its scales; lanes from nb on are
   zero. */
MLA__IN void MLA__F(pack_lanes)(const mla_dtype t, const int NR, float *panel, const mla_tensor *w, int row, int nb,
                                int k0, int kc) {
    const int coded = t == MLA_E4M3, step = coded && mla__scaled(w) ? mla__scale_cols(w) : 0;
    for (int kb = 0, end; kb < kc; kb = end) {
        float scale[MLA__VL];
        int k = kb;
        end = step && ((k0 + kb) / step + 1) * (mla__sz)step < k0 + kc ? ((k0 + kb) / step + 1) * step - k0 : kc;
        for (int i = 0; i < MLA__VL; i++) scale[i] = step && i < nb ? mla__scale(w, row + i, k0 + kb) : 1.0f;
        const MLA__V sv = MLA__F(ld)(scale);
        if (t == MLA_BF16 && MLA__VL > 1 && MLA__VL <= nb) /* half the shuffles: pairs are transposed, then widened */
            for (; k + 2 * MLA__VL <= end; k += 2 * MLA__VL) {
                MLA__V r[MLA__VL];
                const unsigned char *at = (const unsigned char *)w->data + 2 * ((mla__sz)row * w->cols + k0 + k);
                MLA__EACH(i, MLA__VL) r[i] = MLA__F(get)(MLA_F32, at + 2 * (mla__sz)i * w->cols, 0);
                MLA__F(transpose)(r);
                MLA__EACH(i, MLA__VL) {
                    MLA__F(st)(panel + (mla__sz)(k + 2 * i) * NR, MLA__F(even)(r[i]));
                    MLA__F(st)(panel + (mla__sz)(k + 2 * i + 1) * NR, MLA__F(odd)(r[i]));
                }
            }
        for (; k + MLA__VL <= end; k += MLA__VL) {
            MLA__V r[MLA__VL];
            const mla__sz at = (mla__sz)row * w->cols + k0 + k;
            if (MLA__VL <= nb) {
                MLA__EACH(i, MLA__VL) r[i] = MLA__F(get)(t, w->data, at + (mla__sz)i * w->cols);
            } else {
                MLA__EACH(i, MLA__VL)
                    r[i] = i < nb ? MLA__F(get)(t, w->data, at + (mla__sz)i * w->cols) : MLA__F(zero)();
            }
            MLA__F(transpose)(r);
            MLA__EACH(i, MLA__VL) MLA__F(st)(panel + (mla__sz)(k + i) * NR, coded ? MLA__F(mul)(r[i], sv) : r[i]);
        }
        for (; k < end; k++)
            for (int i = 0; i < MLA__VL; i++)
                panel[(mla__sz)k * NR + i] =
                    i < nb ? mla__get(t, w->data, (mla__sz)(row + i) * w->cols + k0 + k) * scale[i] : 0;
    }
}
MLA__IN void MLA__F(pack)(const mla_dtype t, float *panel, const mla__product *p, int row, int nb, int k0, int kc) {
    float own[MLA__VL][MLA__SPAN];
    for (int g = 0; g < MLA__NR; g += MLA__VL) {
        if (t != MLA__WIDENED) {
            MLA__F(pack_lanes)(t, MLA__NR, panel + g, p->w, row + g, nb - g, k0, kc);
            continue;
        }
        for (int k = 0; k < kc; k += MLA__SPAN) {
            const int n = kc - k < MLA__SPAN ? kc - k : MLA__SPAN;
            const mla_tensor rows = mla_view(own, MLA_F32, MLA__VL, MLA__SPAN);
            for (int i = 0; i < MLA__VL && g + i < nb; i++)
                MLA__F(part)(MLA__WIDENED, p, row + g + i, k0 + k, n, own[i]);
            MLA__F(pack_lanes)(MLA_F32, MLA__NR, panel + (mla__sz)k * MLA__NR + g, &rows, 0, nb - g, 0, n);
        }
    }
}

MLA__FN void MLA__F(transpose_rows)(float *panel, const float *rows, int ld, int nb, int n) {
    const mla_tensor t = mla_view(rows, MLA_F32, nb, ld);
    for (int g = 0; g < MLA__NL; g += MLA__VL) MLA__F(pack_lanes)(MLA_F32, MLA__NL, panel + g, &t, g, nb - g, 0, n);
}

/* With a tile of T tokens: some of the next n rows of w from row0 on, of which r are there; r afterwards. */
MLA__IN int MLA__F(fetch_rows)(const mla_tensor *w, mla__sz row0, int n, int r, int T, int from, int len, mla__sz row) {
    const int next = n < MLA__NR ? n : MLA__NR, each = (next * MLA__MR + T - 1) / T;
    for (const int end = r + each < next ? r + each : next; r < end; r++)
        for (int b = 0; b < len; b += 64) MLA__PREFETCH_L2((const char *)w->data + (row0 + r) * row + from + b);
    return r;
}
/* Many tokens: weights are packed a panel at a time and meet MC tokens before they leave the caches. */
MLA__IN void MLA__F(gemm)(const mla_dtype t, const mla__product *p) {
    const mla_tensor *w = p->w;
    const mla_dtype as = t == MLA__WIDENED ? w->dtype : t; /* a constant unless they are widened */
    const int T = p->in.T, bytes = mla__formats[as].bytes, block = mla__formats[as].block;
    for (int t0 = 0; t0 < T; t0 += MLA__MC) {
        const int t1 = T - t0 < MLA__MC ? T : t0 + MLA__MC;
        /* of many tokens the sums leave the caches, too: fewer passes */
        const int depth = t1 - t0 > MLA__MC / 2 ? MLA__KC : MLA__KC / 2;
        for (int k0 = 0; k0 < p->K; k0 += depth) {
            const int kc = p->K - k0 < depth ? p->K - k0 : depth;
            for (int n = p->n0; n < p->n1; n += MLA__NR) {
                const int nb = p->n1 - n < MLA__NR ? p->n1 - n : MLA__NR;
                MLA__F(pack)(t, p->panel, p, p->row0 + n, nb, k0, kc);
                int r = 0; /* while these weights are used, the next come into the cache, a few rows with each tile */
                for (int u = t0; u < t1; u += MLA__MR) {
                    const int m = t1 - u < MLA__MR ? t1 - u : MLA__MR;
                    const float *a[MLA__MR];
                    r = MLA__F(fetch_rows)(w, p->row0 + n + nb, p->n1 - n - nb, r, t1 - t0, k0 / block * bytes,
                                           kc / block * bytes, w->cols / block * bytes);
                    for (int i = 0; i < m; i++) a[i] = mla__x_of(&p->in, u + i) + k0;
                    MLA__F(tile_f32)
                    (m, nb, p->y + u * p->ldy + (n - p->n0), p->ldy, a, 1, p->panel, MLA__NR, kc, k0 > 0, p->panel, 0);
                }
            }
        }
    }
}

/* One row of weights times TB <= ABREAST tokens. Rows follow each other in memory, so that all weights are one linear
   stream: on DRAM this beats sharing the loads of x between several rows by far. U chains hide the latency of the
   additions; a token has as many alone as with another. */
MLA__IN void MLA__F(dot_row)(const mla_dtype t, const int TB, const mla__product *p, float *y, const float *const *x,
                             int row) {
    enum { U = 4 };
    const mla_tensor *w = p->w;
    const mla_dtype as = t == MLA__WIDENED ? MLA_F32 : t;
    const int coded = t == MLA_E4M3, scaled = coded && mla__scaled(w), K = p->K;
    const int step = t == MLA__WIDENED ? MLA__SPAN : scaled ? mla__scale_cols(w) : K;
    const int fetch = MLA__VL > 1 && as == t ? p->fetch : 0;
    mla__sz scales = scaled ? mla__scale_index(w, row, 0) : 0;
    float own[MLA__SPAN], tail[MLA__ABREAST];
    MLA__V acc[MLA__ABREAST][U], top = MLA__F(zero)();
    MLA__EACH(i, TB) {
        tail[i] = 0;
        MLA__EACH(j, U) acc[i][j] = MLA__F(zero)();
    }
    for (int kb = 0; kb < K; kb += step) {
        const int n = K - kb < step ? K - kb : step;
        const char *from = (const char *)MLA__F(part)(t, p, row, kb, n, own);
        const float scale = scaled ? mla__scale_at(w, scales++) : 1.0f;
        const int wide = t != MLA_E4M3 || scale < 1e36f; /* 256 times the scale is finite */
        const MLA__V sv = MLA__F(set1)(t == MLA_E4M3 ? scale * 256 : scale), sv1 = MLA__F(set1)(scale);
        int k = 0;
        for (; wide && k + U * MLA__VL <= n; k += U * MLA__VL) {
            for (mla__sz i = 0; fetch && i < mla__bytes(as, U * MLA__VL); i += 64)
                MLA__PREFETCH_L2(from + mla__bytes(as, k) + fetch + i);
            MLA__V v[U];
            if (t == MLA_E4M3) MLA__F(fp8)(from, k, v, &top);
            MLA__EACH(j, U) {
                if (t != MLA_E4M3) v[j] = MLA__F(get)(as, from + mla__bytes(as, k), j * MLA__VL);
                if (coded) v[j] = MLA__F(mul)(v[j], sv);
                MLA__EACH(i, TB) acc[i][j] = MLA__F(fma)(v[j], MLA__F(ld)(x[i] + kb + k + j * MLA__VL), acc[i][j]);
            }
        }
        for (; k + MLA__VL <= n; k += MLA__VL) {
            MLA__V v = MLA__F(get)(as, from, k);
            if (coded) v = MLA__F(mul)(v, sv1);
            MLA__EACH(i, TB) acc[i][0] = MLA__F(fma)(v, MLA__F(ld)(x[i] + kb + k), acc[i][0]);
        }
        for (; k < n; k++) {
            const float v = mla__get(as, from, k) * scale;
            for (int i = 0; i < TB; i++) tail[i] += v * x[i][kb + k];
        }
    }
    MLA__EACH(i, TB) {
        const MLA__V a = MLA__F(add)(MLA__F(add)(acc[i][0], acc[i][1]), MLA__F(add)(acc[i][2], acc[i][3]));
        y[i * p->ldy] = MLA__F(sum)(a) + tail[i];
        if (t == MLA_E4M3 && MLA__F(fp8_nan)(top)) y[i * p->ldy] = NAN;
    }
}

/* TB <= FEW tokens and four rows, or two, far apart, of weights that need no scale: so many streams are followed at
   once (as by mla__strips). */
MLA__IN void MLA__F(dot_rows)(const mla_dtype t, const int TB, float *const *y, mla__sz ldy, const float *const *x,
                              const char *const *w, int K) {
    const int rows = 4 / TB;
    MLA__V acc[4][2];
    int k = 0;
    MLA__EACH(j, 4) acc[j][0] = acc[j][1] = MLA__F(zero)();
    for (; k + 4 * MLA__VL <= K; k += 4 * MLA__VL) {
        MLA__V v[MLA__FEW][4];
        MLA__EACH(b, TB) {
            MLA__EACH(i, 4) v[b][i] = MLA__F(ld)(x[b] + k + i * MLA__VL);
        }
        MLA__EACH(j, rows) {
            MLA__EACH(i, 4) {
                const MLA__V wv = MLA__F(get)(t, w[j], k + i * MLA__VL);
                MLA__EACH(b, TB) acc[j * TB + b][i % 2] = MLA__F(fma)(wv, v[b][i], acc[j * TB + b][i % 2]);
            }
        }
    }
    for (; k + MLA__VL <= K; k += MLA__VL)
        MLA__EACH(j, 4) acc[j][0] = MLA__F(fma)(MLA__F(get)(t, w[j / TB], k), MLA__F(ld)(x[j % TB] + k), acc[j][0]);
    for (int j = 0; j < 4; j++) {
        float tail = 0;
        for (int i = k; i < K; i++) tail += mla__get(t, w[j / TB], i) * x[j % TB][i];
        y[j / TB][j % TB * ldy] = MLA__F(sum)(MLA__F(add)(acc[j][0], acc[j][1])) + tail;
    }
}
/* All rows; what is less than so many rows is made full by doing some twice. */
MLA__IN void MLA__F(dot_apart)(const mla_dtype t, const int TB, const mla__product *p, float *to,
                               const float *const *x) {
    const int each = 4 / TB, rows = p->n1 - p->n0, apart = (rows + each - 1) / each;
    const mla__sz ld = p->w->cols;
    const char *from = (const char *)p->w->data + mla__bytes(t, (p->row0 + p->n0) * ld);
    for (int n = 0; n < apart; n++) {
        float *y[4];
        const char *w[4];
        for (int j = 0; j < each; j++) {
            const int at = n + j * apart < rows ? n + j * apart : rows - 1;
            y[j] = to + at, w[j] = from + mla__bytes(t, at * ld);
        }
        MLA__F(dot_rows)(t, TB, y, p->ldy, x, w, p->K);
    }
}

/* More tokens than FEW, of weights in blocks: a row is widened once, into the panel, if it fits there. */
MLA__IN void MLA__F(dot_wide)(const mla__product *p) {
    const int whole = p->K <= MLA__KC * MLA__NR_MAX;
    const mla_tensor row = mla_view(p->panel, MLA_F32, 1, p->K);
    mla__product wide = *p;
    if (whole) wide.w = &row, wide.fetch = 0;
    for (int n = p->n0; n < p->n1; n++) {
        const int at = whole ? 0 : p->row0 + n;
        if (whole) MLA__F(part)(MLA__WIDENED, p, p->row0 + n, 0, p->K, p->panel);
        for (int t = 0, some; t < p->in.T; t += some) {
            const float *x[MLA__ABREAST];
            float *y = p->y + t * p->ldy + (n - p->n0);
            some = p->in.T - t >= MLA__ABREAST ? MLA__ABREAST : 1;
            for (int i = 0; i < some; i++) x[i] = mla__x_of(&p->in, t + i);
            if (!whole) MLA__F(dot_row)(MLA__WIDENED, 1, p, y, x, at);
            else if (some > 1) MLA__F(dot_row)(MLA_F32, MLA__ABREAST, &wide, y, x, at);
            else MLA__F(dot_row)(MLA_F32, 1, &wide, y, x, at);
        }
    }
}

/* Few tokens; of weights in blocks any number. */
MLA__IN void MLA__F(dot)(const mla_dtype t, const mla__product *p) {
    const int apart = MLA__VL > 1 && (t == MLA_F32 || t == MLA_F16 || t == MLA_BF16);
    if (mla__blocked(t) && p->in.T > MLA__FEW && !MLA__SMALL) {
        MLA__F(dot_wide)(p);
        return;
    }
    for (int i = 0, some; i < p->in.T; i += some) {
        const float *x[MLA__FEW];
        float *y = p->y + i * p->ldy;
        some = MLA__ABREAST > 1 && p->in.T - i > 1 ? 2 : 1;
        for (int j = 0; j < some; j++) x[j] = mla__x_of(&p->in, i + j);
        if (apart && some == 1) MLA__F(dot_apart)(t, 1, p, y, x);
        else if (apart) MLA__F(dot_apart)(t, 2, p, y, x);
        else if (some == 1)
            for (int n = p->n0; n < p->n1; n++) MLA__F(dot_row)(t, 1, p, y + (n - p->n0), x, p->row0 + n);
        else
            for (int n = p->n0; n < p->n1; n++) MLA__F(dot_row)(t, 2, p, y + (n - p->n0), x, p->row0 + n);
    }
}

/* Few tokens, the transposed use: whole rows stream by, four at a time; y stays in the first-level cache. Whole vectors
   are summed up as the tiles of mix do it, to the bit. */
MLA__IN void MLA__F(mix_few)(const mla_dtype t, const mla__product *p) {
    const mla_tensor *w = p->w;
    const mla_dtype as = t == MLA__WIDENED ? MLA_F32 : t;
    const int C = w->cols, n = p->n1 - p->n0, scaled = t == MLA_E4M3 && mla__scaled(w);
    const int step = t == MLA__WIDENED ? MLA__SPAN : scaled ? mla__scale_cols(w) : C;
    float own[4][MLA__SPAN];
    for (int i = 0; i < p->in.T; i++) memset(p->y + i * p->ldy, 0, (size_t)C * sizeof *p->y);
    for (int r = 0; r < n; r += 4)
        for (int cb = 0; cb < C; cb += step) {
            const int m = n - r < 4 ? n - r : 4, width = C - cb < step ? C - cb : step, row = p->row0 + p->n0 + r;
            const void *from[4];
            for (int j = 0; j < m; j++) {
                from[j] = MLA__F(part)(t, p, row + j, cb, width, own[j]);
                const char *next = (const char *)from[j] + 4 * mla__bytes(t, C); /* which no hardware foresees */
                for (mla__sz b = 0; t != MLA__WIDENED && b < mla__bytes(t, width); b += 64) MLA__PREFETCH(next + b);
            }
            for (int i = 0; i < p->in.T; i++) {
                float f[4], *const to = p->y + i * p->ldy + cb;
                MLA__V by[4];
                int c = 0;
                for (int j = 0; j < m; j++) {
                    f[j] = mla__x_of(&p->in, i)[r + j] * (scaled ? mla__scale(w, row + j, cb) : 1.0f);
                    by[j] = MLA__F(set1)(f[j]);
                }
                for (; c + MLA__VL <= width; c += MLA__VL) {
                    MLA__V sum = MLA__F(ld)(to + c);
                    if (m == 4) {
                        MLA__EACH(j, 4) sum = MLA__F(fma)(by[j], MLA__F(get)(as, from[j], c), sum);
                    } else
                        for (int j = 0; j < m; j++) sum = MLA__F(fma)(by[j], MLA__F(get)(as, from[j], c), sum);
                    MLA__F(st)(to + c, sum);
                }
                for (; c < width; c++)
                    for (int j = 0; j < m; j++) to[c] += f[j] * mla__get(as, from[j], c);
            }
        }
}
/* to [nb, then zeros up to the next multiple of NR] = W[row, c ..), times its scales */
MLA__IN void MLA__F(mix_row)(const mla_dtype t, float *to, const mla__product *p, int row, int c, int nb) {
    const mla_tensor *w = p->w;
    const int coded = t == MLA_E4M3, step = coded && mla__scaled(w) ? mla__scale_cols(w) : 0;
    const void *from = MLA__F(part)(t, p, row, c, nb, to);
    int j = t == MLA__WIDENED ? nb : 0;
    while (j < nb) {
        const int rest = step ? step - (c + j) % step : nb, end = nb - j < rest ? nb : j + rest;
        const float scale = step ? mla__scale(w, row, c + j) : 1.0f;
        for (; j + MLA__VL <= end; j += MLA__VL) {
            const MLA__V v = MLA__F(get)(t, from, j);
            MLA__F(st)(to + j, coded ? MLA__F(mul)(v, MLA__F(set1)(scale)) : v);
        }
        for (; j < end; j++) to[j] = mla__get(t, from, j) * scale;
    }
    for (; j % MLA__NR; j++) to[j] = 0;
}
/* The transposed use of W, for W_UK^T q in the absorbed path. Blocks are unpacked SPAN columns at a time. */
MLA__IN void MLA__F(mix)(const mla_dtype t, const mla__product *p) {
    enum { ROWS = MLA__KC * MLA__NR_MAX / MLA__SPAN };
    const int C = p->w->cols, T = p->in.T, n = p->n1 - p->n0;
    const int span = t == MLA__WIDENED ? MLA__SPAN : MLA__NR, rows = t == MLA__WIDENED ? ROWS : MLA__KC;
    if (p->few) {
        MLA__F(mix_few)(t, p);
        return;
    }
    for (int r0 = 0; r0 < n; r0 += rows) {
        const int rc = n - r0 < rows ? n - r0 : rows;
        for (int c = 0; c < C; c += span) {
            const int nb = C - c < span ? C - c : span;
            for (int r = 0; r < rc; r++)
                MLA__F(mix_row)(t, p->panel + (mla__sz)r * span, p, p->row0 + p->n0 + r0 + r, c, nb);
            for (int u = 0; u < T; u += MLA__MR) {
                const int m = T - u < MLA__MR ? T - u : MLA__MR;
                const float *a[MLA__MR];
                for (int i = 0; i < m; i++) a[i] = mla__x_of(&p->in, u + i) + r0;
                for (int j = 0; j < nb; j += MLA__NR) MLA__F(tile_f32)
                (m, nb - j < MLA__NR ? nb - j : MLA__NR, p->y + u * p->ldy + c + j, p->ldy, a, 1, p->panel + j, span,
                 rc, r0 > 0, p->panel, 0);
            }
        }
    }
}

MLA__IN void MLA__F(widen)(const mla_dtype t, float *y, const void *x, mla__sz n) {
    mla__sz i = 0;
    if (mla__blocked(t)) { /* Q8, of caches */
        MLA__CAT(mla__unpack_q8, MLA__INTEGER)(y, x, n);
        return;
    }
    for (; i < n - n % MLA__VL; i += MLA__VL) MLA__F(st)(y + i, MLA__F(get)(t, x, i)); /* so gcc sees the rest's end */
    for (; i < n; i++) y[i] = mla__get(t, x, i);
}
#define MLA__DTYPE(D, d)                                                                                               \
    MLA__FN void MLA__F(widen_##d)(float *y, const void *x, mla__sz n) { MLA__F(widen)(D, y, x, n); }
MLA__DTYPE(MLA_F32, f32)
MLA__DTYPE(MLA_F16, f16)
MLA__DTYPE(MLA_BF16, bf16)
MLA__DTYPE(MLA_E4M3, e4m3)
MLA__DTYPE(MLA_I8, i8)
#undef MLA__DTYPE
/* Of caches. With MLA_SMALL t is no constant. */
MLA__IN void MLA__F(widen_cached)(const mla_dtype t, float *y, const void *x, mla__sz n) {
    if (!MLA__SMALL) MLA__F(widen)(t, y, x, n);
    else if (t == MLA_F16) MLA__F(widen_f16)(y, x, n);
    else if (t == MLA_BF16) MLA__F(widen_bf16)(y, x, n);
    else MLA__F(widen)(MLA_Q8, y, x, n);
}
MLA__IN void MLA__F(narrow)(const mla_dtype t, void *y, const float *x, mla__sz n) {
    mla__sz i = 0;
    for (; i + MLA__VL <= n; i += MLA__VL) MLA__F(put)(t, y, i, MLA__F(ld)(x + i));
    for (; i < n; i++) mla__put(t, y, i, x[i]);
}

/* The scale of a group of Q4, q = x / d within -8..7. The plain one maps the largest x to -8; one around it, of either
   sign, can do better. For given q the best d is xq / qq, and the squared error then xx - xq^2 / qq. A lane is a scale
   that is tried, so that nothing is summed across lanes. */
MLA__RARE float MLA__F(q4_scale)(const float *x) {
    static const float tried[48] = {-6.5f,  -6.625f, -6.75f, -6.875f, -7.0f,  -7.125f, -7.25f, -7.375f, -7.5f,  -7.625f,
                                    -7.75f, -7.875f, -8.0f,  -8.125f, -8.25f, -8.375f, -8.5f,  -8.625f, -8.75f, -8.875f,
                                    -9.0f,  -9.125f, -9.25f, -9.375f, 6.5f,   6.625f,  6.75f,  6.875f,  7.0f,   7.125f,
                                    7.25f,  7.375f,  7.5f,   7.625f,  7.75f,  7.875f,  8.0f,   8.125f,  8.25f,  8.375f,
                                    8.5f,   8.625f,  8.75f,  8.875f,  9.0f,   9.125f,  9.25f,  9.375f};
    const MLA__V magic = MLA__F(set1)(12582912.0f), least = MLA__F(set1)(12582912.0f - 8), minus = MLA__F(set1)(-1.0f),
                 most = MLA__F(set1)(-7.0f);
    float high[MLA__VL], top = 0, best = 0, a[48], b[48], gain[48];
    MLA__V all = MLA__F(zero)(), most_gain = MLA__F(zero)();
    int first = 0;
    for (int i = 0; i < MLA_GROUP; i += MLA__VL) {
        const MLA__V v = MLA__F(ld)(x + i);
        all = MLA__F(max)(MLA__F(max)(v, MLA__F(mul)(v, minus)), all);
    }
    MLA__F(st)(high, all);
    for (int i = 0; i < MLA__VL; i++) top = high[i] > top ? high[i] : top;
    while (first < MLA_GROUP && fabsf(x[first]) < top) first++;
    if (!(top > 0) || first == MLA_GROUP) return 0;
    const MLA__V largest = MLA__F(set1)(x[first]);
    for (int at = 0; at < 48; at += 3 * MLA__VL) {
        MLA__V inverse[3], xq[3], qq[3];
        MLA__EACH(j, 3) {
            inverse[j] = MLA__F(div)(MLA__F(ld)(tried + at + j * MLA__VL), largest);
            xq[j] = qq[j] = MLA__F(zero)();
        }
        for (int i = 0; i < MLA_GROUP; i++) {
            const MLA__V v = MLA__F(set1)(x[i]);
            MLA__EACH(j, 3) { /* -q: rounded by magic, and kept within -8..7 */
                const MLA__V r = MLA__F(max)(least, MLA__F(fma)(v, inverse[j], magic));
                const MLA__V q = MLA__F(max)(most, MLA__F(fma)(r, minus, magic));
                xq[j] = MLA__F(fma)(v, q, xq[j]), qq[j] = MLA__F(fma)(q, q, qq[j]);
            }
        }
        MLA__EACH(j, 3) {
            const int lane = at + j * MLA__VL;
            const MLA__V g = MLA__F(div)(MLA__F(mul)(xq[j], xq[j]), qq[j]);
            MLA__F(st)(a + lane, xq[j]), MLA__F(st)(b + lane, qq[j]), MLA__F(st)(gain + lane, g);
            most_gain = MLA__F(max)(g, most_gain);
        }
    }
    MLA__F(st)(high, most_gain);
    for (int i = 0; i < MLA__VL; i++) best = high[i] > best ? high[i] : best;
    for (int i = 0; i < 48; i++)
        if (gain[i] >= best) return -a[i] / b[i];
    return 0;
}

MLA__FN void MLA__F(swiglu)(float *h, const float *gate, const float *up, int n) {
    const MLA__V one = MLA__F(set1)(1.0f), minus = MLA__F(set1)(-1.0f);
    int i = 0;
    for (; i + MLA__VL <= n; i += MLA__VL) {
        const MLA__V g = MLA__F(ld)(gate + i);
        const MLA__V silu = MLA__F(div)(g, MLA__F(add)(one, MLA__F(exp)(MLA__F(mul)(g, minus))));
        MLA__F(st)(h + i, MLA__F(mul)(silu, MLA__F(ld)(up + i)));
    }
    for (; i < n; i++) h[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

MLA__FN void MLA__F(accumulate)(float *y, const float *x, float by, int n) {
    int i = 0;
    for (; i + MLA__VL <= n; i += MLA__VL)
        MLA__F(st)(y + i, MLA__F(add)(MLA__F(ld)(y + i), MLA__F(mul)(MLA__F(ld)(x + i), MLA__F(set1)(by))));
    for (; i < n; i++) {
        const float more = by * x[i]; /* its own statement: one expression may be contracted to an fma */
        y[i] += more;
    }
}
MLA__IN MLA__V MLA__F(sigmoid)(MLA__V x) {
    const MLA__V one = MLA__F(set1)(1.0f);
    return MLA__F(div)(one, MLA__F(add)(one, MLA__F(exp)(MLA__F(mul)(x, MLA__F(set1)(-1.0f)))));
}
MLA__IN void MLA__F(conv_of)(const int taps, float *y, const float *const *x, const float *w, int n) {
    int i = 0;
    for (; i + MLA__VL <= n; i += MLA__VL) {
        MLA__V sum = MLA__F(zero)();
        MLA__EACH(j, taps) sum = MLA__F(fma)(MLA__F(ld)(w + j * n + i), MLA__F(ld)(x[j] + i), sum);
        MLA__F(st)(y + i, MLA__F(mul)(sum, MLA__F(sigmoid)(sum)));
    }
    for (; i < n; i++) {
        float sum = 0;
        for (int j = 0; j < taps; j++) sum += w[j * n + i] * x[j][i];
        y[i] = sum / (1.0f + expf(-sum));
    }
}
MLA__RARE void MLA__F(conv)(float *y, const float *const *x, const float *w, int taps, int n) {
    const float *const four[4] = {x[0], x[taps > 1], x[taps > 2 ? 2 : 0], x[taps > 3 ? 3 : 0]};
    if (taps == 4 && !MLA__SMALL) MLA__F(conv_of)(4, y, four, w, n);
    else MLA__F(conv_of)(taps, y, x, w, n);
}
MLA__IN float MLA__F(squares)(const float *x, int n) {
    MLA__V sum = MLA__F(zero)();
    float rest = 0;
    int i = 0;
    for (; i + MLA__VL <= n; i += MLA__VL) sum = MLA__F(fma)(MLA__F(ld)(x + i), MLA__F(ld)(x + i), sum);
    for (; i < n; i++) rest += x[i] * x[i];
    return MLA__F(sum)(sum) + rest;
}
MLA__IN void MLA__F(scaled)(const mla_dtype t, float *y, const float *x, float by, const void *w, int n) {
    int i = 0;
    for (; i + MLA__VL <= n; i += MLA__VL)
        MLA__F(st)(y + i, MLA__F(mul)(MLA__F(mul)(MLA__F(ld)(x + i), MLA__F(set1)(by)), MLA__F(get)(t, w, i)));
    for (; i < n; i++) y[i] = x[i] * by * mla__get(t, w, i);
}
/* Squares are summed in floats, some at a time, and in double where these are too large or too small for them. */
MLA__RARE void MLA__F(norm)(float *y, const float *x, float eps, mla_dtype t, const void *w, int n) {
    double sum = 0;
    for (int i = 0; i < n; i += 512) sum += (double)MLA__F(squares)(x + i, n - i < 512 ? n - i : 512);
    if (!(sum > 1e-25 && sum < 1e38)) {
        sum = 0;
        for (int i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    }
    const float by = (float)(1.0 / sqrt(sum / n + (double)eps));
    if (t == MLA_F32) MLA__F(scaled)(MLA_F32, y, x, by, w, n);
    else if (t == MLA_F16) MLA__F(scaled)(MLA_F16, y, x, by, w, n);
    else MLA__F(scaled)(MLA_BF16, y, x, by, w, n);
}
MLA__RARE void MLA__F(unit)(float *y, const float *x, float length, int n) {
    const float by = length / sqrtf(MLA__F(squares)(x, n) + 1e-6f);
    int i = 0;
    for (; i + MLA__VL <= n; i += MLA__VL) MLA__F(st)(y + i, MLA__F(mul)(MLA__F(ld)(x + i), MLA__F(set1)(by)));
    for (; i < n; i++) y[i] = x[i] * by;
}
/* ln(1 + e^x) = max(x, 0) + ln(1 + z), z = e^-|x|, where ln(1 + z) = 2 artanh(z / (2 + z)), as a series. */
MLA__IN MLA__V MLA__F(softplus)(MLA__V x) {
    const MLA__V minus = MLA__F(mul)(x, MLA__F(set1)(-1.0f));
    const MLA__V z = MLA__F(exp)(MLA__F(mul)(MLA__F(max)(x, minus), MLA__F(set1)(-1.0f)));
    const MLA__V s = MLA__F(div)(z, MLA__F(add)(z, MLA__F(set1)(2.0f))), s2 = MLA__F(mul)(s, s);
    MLA__V sum = MLA__F(set1)(2.0f / 15);
    for (int i = 13; i > 0; i -= 2) sum = MLA__F(fma)(sum, s2, MLA__F(set1)(2.0f / (float)i));
    return MLA__F(fma)(sum, s, MLA__F(max)(x, MLA__F(zero)()));
}
MLA__RARE void MLA__F(decay)(float *g, const float *f, const float *bias, float a, float bound, int n) {
    int i = 0;
    for (; i + MLA__VL <= n; i += MLA__VL) {
        const MLA__V x = MLA__F(add)(MLA__F(ld)(f + i), MLA__F(ld)(bias + i));
        const MLA__V y = bound < 0 ? MLA__F(sigmoid)(MLA__F(mul)(x, MLA__F(set1)(a))) : MLA__F(softplus)(x);
        MLA__F(st)(g + i, MLA__F(mul)(y, MLA__F(set1)(bound < 0 ? bound : -a)));
    }
    for (; i < n; i++) {
        const float x = f[i] + bias[i];
        g[i] = bound < 0 ? bound / (1.0f + expf(-a * x)) : -a * (x > 0 ? x + log1pf(expf(-x)) : log1pf(expf(x)));
    }
}
/* The columns of S from j on that are NV vectors; qk is q . k. */
MLA__IN void MLA__F(recur_columns)(const int NV, const mla__recur *r, float qk, int j) {
    const int C = r->C;
    const float *eg = r->e, *ek = eg + C, *eq = ek + C, *from = r->from + j;
    float *to = r->to + j;
    MLA__V u[8], o[8];
    MLA__EACH(i, NV) u[i] = o[i] = MLA__F(zero)();
    for (mla__sz c = 0; c < C; c++) {
        const MLA__V k = MLA__F(set1)(ek[c]), q = MLA__F(set1)(eq[c]);
        MLA__EACH(i, NV) { /* what is to be written is fetched, too */
            const MLA__V s = MLA__F(ld)(from + c * C + i * MLA__VL);
            MLA__PREFETCH(from + (c + 8) * C + i * MLA__VL);
            MLA__PREFETCH(to + c * C + i * MLA__VL);
            u[i] = MLA__F(fma)(k, s, u[i]), o[i] = MLA__F(fma)(q, s, o[i]);
        }
    }
    MLA__EACH(i, NV) {
        const MLA__V v = MLA__F(ld)(r->v + j + i * MLA__VL), less = MLA__F(mul)(u[i], MLA__F(set1)(-1.0f));
        u[i] = MLA__F(mul)(MLA__F(add)(v, less), MLA__F(set1)(r->beta));
        MLA__F(st)(r->o + j + i * MLA__VL, MLA__F(fma)(MLA__F(set1)(qk), u[i], o[i]));
    }
    for (mla__sz c = 0; c < C; c++) {
        const MLA__V g = MLA__F(set1)(eg[c]), k = MLA__F(set1)(r->k[c]);
        MLA__EACH(i, NV) {
            const MLA__V s = MLA__F(mul)(g, MLA__F(ld)(from + c * C + i * MLA__VL));
            MLA__F(st)(to + c * C + i * MLA__VL, MLA__F(fma)(k, u[i], s));
        }
    }
}
MLA__RARE void MLA__F(recur)(const mla__recur *r) {
    const int C = r->C;
    float *eg = r->e, *ek = eg + C, *eq = ek + C, qk = 0;
    int j = 0;
    for (; j + MLA__VL <= C; j += MLA__VL) MLA__F(st)(eg + j, MLA__F(exp)(MLA__F(ld)(r->g + j)));
    for (; j < C; j++) eg[j] = expf(r->g[j]);
    for (j = 0; j < C; j++) ek[j] = eg[j] * r->k[j], eq[j] = eg[j] * r->q[j], qk += r->q[j] * r->k[j];
    j = 0;
    for (; MLA__VL == 16 && j + 8 * MLA__VL <= C; j += 8 * MLA__VL) MLA__F(recur_columns)(8, r, qk, j);
    for (; j + 4 * MLA__VL <= C; j += 4 * MLA__VL) MLA__F(recur_columns)(4, r, qk, j);
    for (; j + MLA__VL <= C; j += MLA__VL) MLA__F(recur_columns)(1, r, qk, j);
    for (; j < C; j++) {
        float u = 0, o = 0;
        for (int c = 0; c < C; c++) u += ek[c] * r->from[c * C + j], o += eq[c] * r->from[c * C + j];
        u = (r->v[j] - u) * r->beta;
        r->o[j] = o + qk * u;
        for (int c = 0; c < C; c++) r->to[c * C + j] = eg[c] * r->from[c * C + j] + r->k[c] * u;
    }
}
/* e = e^(to - from) */
MLA__IN void MLA__F(decay_between)(float *e, const float *to, const float *from, mla__sz n) {
    for (mla__sz c = 0; c < n; c += MLA__VL) {
        const MLA__V minus = MLA__F(mul)(MLA__F(ld)(from + c), MLA__F(set1)(-1.0f));
        MLA__F(st)(e + c, MLA__F(exp)(MLA__F(add)(MLA__F(ld)(to + c), minus)));
    }
}
/* A and B [BLOCK, BLOCK] within a block whose decay has no room in floats, pair by pair. */
MLA__RARE void MLA__F(chunk_pairs)(const mla__chunk *p, float *a, float *b, int i0, int nb) {
    for (int i = i0; i < i0 + nb; i++)
        for (int j = i0; j <= i; j++) {
            MLA__V ka = MLA__F(zero)(), qa = MLA__F(zero)();
            MLA__F(decay_between)(p->e, p->g + i * p->ld, p->g + j * p->ld, p->ld);
            for (mla__sz c = 0; c < p->ld; c += MLA__VL) {
                const MLA__V k = MLA__F(mul)(MLA__F(ld)(p->e + c), MLA__F(ld)(p->k + j * p->ld + c));
                ka = MLA__F(fma)(k, MLA__F(ld)(p->k + i * p->ld + c), ka);
                qa = MLA__F(fma)(k, MLA__F(ld)(p->q + i * p->ld + c), qa);
            }
            a[(i - i0) * MLA__CHUNK_BLOCK + j - i0] = MLA__F(sum)(ka);
            b[(i - i0) * MLA__CHUNK_BLOCK + j - i0] = MLA__F(sum)(qa);
        }
}
/* The rows of a block, as they meet its own columns, and the state; columns of k e^(G(first) - G), or with to, which
   has no bounds, of k e^(to - G). */
MLA__RARE void MLA__F(chunk_rows)(const mla__chunk *p, int i0, int nb, const float *to) {
    const mla__sz ld = p->ld;
    const float *first = p->g + i0 * ld;
    float *before = p->e, *columns = p->e + 2 * ld;
    for (mla__sz c = 0; c < ld; c += MLA__VL) MLA__F(st)(before + c, MLA__F(exp)(MLA__F(ld)(first + c)));
    for (int i = 0; i < nb; i++) {
        const mla__sz at = (i0 + i) * ld;
        float *k = p->k + at, *q = p->q + at, *xk = p->x + at, *xq = xk + p->n * ld, *column = columns + i * ld;
        if (to) MLA__F(decay_between)(column, to, p->g + at, ld);
        for (mla__sz c = 0; c < ld; c += MLA__VL) {
            const MLA__V less = MLA__F(mul)(MLA__F(ld)(first + c), MLA__F(set1)(-1.0f));
            const MLA__V e = MLA__F(exp)(MLA__F(add)(MLA__F(ld)(p->g + at + c), less)), kc = MLA__F(ld)(k + c);
            const MLA__V ek = MLA__F(mul)(e, kc), eq = MLA__F(mul)(e, MLA__F(ld)(q + c)), b = MLA__F(ld)(before + c);
            MLA__F(st)(column + c, to ? MLA__F(mul)(MLA__F(ld)(column + c), kc) : MLA__F(div)(kc, e));
            MLA__F(st)(k + c, ek), MLA__F(st)(q + c, eq);
            MLA__F(st)(xk + c, MLA__F(mul)(ek, b)), MLA__F(st)(xq + c, MLA__F(mul)(eq, b));
        }
    }
    const mla_tensor t = mla_view(columns, MLA_F32, nb, (int)ld);
    for (int i = 0; i < nb; i += MLA__VL) MLA__F(pack_lanes)
    (MLA_F32, MLA__CHUNK, p->kt + i0 + i, &t, i, nb - i, 0, p->C);
}
/* c [m, n of NR] (+)= rows of a, ld apart, times b. */
MLA__IN void MLA__F(chunk_product)(float *c, mla__sz ldc, const float *a, mla__sz lda, int m, const float *b,
                                   mla__sz ldb, int n, int K, int add) {
    for (int j = 0; j < n; j += MLA__NR)
        for (int i = 0; i < m; i += MLA__MR) {
            const float *rows[MLA__MR];
            const int some = m - i < MLA__MR ? m - i : MLA__MR;
            for (int r = 0; r < some; r++) rows[r] = a + (i + r) * lda;
            MLA__F(tile_f32)(some, MLA__NR, c + i * ldc + j, ldc, rows, 1, b + j, ldb, K, add, b, 0);
        }
}
MLA__RARE void MLA__F(chunk_block)(const mla__chunk *p, int i0) {
    const int nb = p->n - i0 < MLA__CHUNK_BLOCK ? p->n - i0 : MLA__CHUNK_BLOCK, last = i0 + nb - 1;
    const mla__sz ld = p->ld;
    const float *first = p->g + i0 * ld, *next = p->g + (last + 1 < p->n ? last + 1 : last) * ld;
    float *e = p->e + ld, pairs[2][MLA__CHUNK_BLOCK * MLA__CHUNK_BLOCK];
    int narrow = 1;
    for (mla__sz c = 0; c < ld; c++) narrow &= first[c] - p->g[last * ld + c] < MLA__CHUNK_RANGE;
    if (!narrow) MLA__F(chunk_pairs)(p, pairs[0], pairs[1], i0, nb);
    MLA__F(chunk_rows)(p, i0, nb, narrow ? NULL : next);
    const int columns = narrow ? i0 + nb : i0;
    for (int i = 0; i < 2; i++) {
        float *to = p->a + (i * MLA__CHUNK + i0) * MLA__CHUNK;
        MLA__F(chunk_product)(to, MLA__CHUNK, (i ? p->q : p->k) + i0 * ld, ld, nb, p->kt, MLA__CHUNK, columns, p->C, 0);
        for (int r = 0; r < nb && !narrow; r++)
            memcpy(to + r * MLA__CHUNK + i0, pairs[i] + r * MLA__CHUNK_BLOCK, (size_t)nb * sizeof *to);
    }
    MLA__F(decay_between)(e, next, first, ld);
    for (int c = 0; c < p->C; c++)
        for (int j = 0; j < columns; j += MLA__VL) {
            float *at = p->kt + c * MLA__CHUNK + j;
            MLA__F(st)(at, MLA__F(mul)(MLA__F(ld)(at), MLA__F(set1)(e[c])));
        }
}
/* u and o, from what the state gives, of NV vectors of columns from c on. */
MLA__IN void MLA__F(chunk_solve)(const int NV, const mla__chunk *p, mla__sz c) {
    const mla__sz ld = p->ld;
    for (int i = 0; i < p->n; i++) {
        const float *a = p->a + i * MLA__CHUNK, *b = a + MLA__CHUNK * MLA__CHUNK;
        float *ui = p->w + i * ld + c, *oi = ui + p->n * ld;
        MLA__V u[4], o[4];
        MLA__EACH(v, NV) u[v] = MLA__F(ld)(ui + v * MLA__VL), o[v] = MLA__F(ld)(oi + v * MLA__VL);
        for (int j = 0; j < i; j++) {
            const MLA__V aj = MLA__F(set1)(a[j]), bj = MLA__F(set1)(b[j]);
            MLA__EACH(v, NV) {
                const MLA__V uj = MLA__F(ld)(p->w + j * ld + c + v * MLA__VL);
                u[v] = MLA__F(fma)(aj, uj, u[v]), o[v] = MLA__F(fma)(bj, uj, o[v]);
            }
        }
        const MLA__V beta = MLA__F(set1)(p->beta[i]), bi = MLA__F(set1)(b[i]), minus = MLA__F(set1)(-1.0f);
        MLA__EACH(v, NV) {
            const MLA__V vi = MLA__F(ld)(p->v + i * ld + c + v * MLA__VL);
            u[v] = MLA__F(mul)(beta, MLA__F(fma)(u[v], minus, vi));
            MLA__F(st)(ui + v * MLA__VL, u[v]), MLA__F(st)(oi + v * MLA__VL, MLA__F(fma)(bi, u[v], o[v]));
        }
    }
}
MLA__RARE void MLA__F(chunk)(const mla__chunk *p) {
    const mla__sz ld = p->ld;
    const int cols = (int)ld;
    mla__sz c = 0;
    for (mla__sz i = ld; i < p->n * ld; i += MLA__VL)
        MLA__F(st)(p->g + i, MLA__F(add)(MLA__F(ld)(p->g + i), MLA__F(ld)(p->g + i - ld)));
    for (int i = 0; i < p->n; i += MLA__CHUNK_BLOCK) MLA__F(chunk_block)(p, i);
    MLA__F(chunk_product)(p->w, ld, p->x, ld, 2 * p->n, p->s, ld, cols, p->C, 0);
    for (; c + 4 * MLA__VL <= ld; c += 4 * MLA__VL) MLA__F(chunk_solve)(4, p, c);
    for (; c < ld; c += MLA__VL) MLA__F(chunk_solve)(1, p, c);
    for (c = 0; c < ld; c += MLA__VL) MLA__F(st)(p->e + c, MLA__F(exp)(MLA__F(ld)(p->g + (p->n - 1) * ld + c)));
    for (int i = 0; i < p->C; i++)
        for (c = 0; c < ld; c += MLA__VL) {
            float *at = p->s + i * ld + c;
            MLA__F(st)(at, MLA__F(mul)(MLA__F(set1)(p->e[i]), MLA__F(ld)(at)));
        }
    MLA__F(chunk_product)(p->s, ld, p->kt, MLA__CHUNK, p->C, p->w, ld, cols, p->n, 1);
}
MLA__RARE void MLA__F(gated_norm)(float *z, const float *x, const float *w, float eps, int n) {
    const float by = 1.0f / sqrtf(MLA__F(squares)(x, n) / (float)n + eps);
    int i = 0;
    for (; i + MLA__VL <= n; i += MLA__VL) {
        const MLA__V y = MLA__F(mul)(MLA__F(mul)(MLA__F(ld)(x + i), MLA__F(set1)(by)), MLA__F(ld)(w + i));
        MLA__F(st)(z + i, MLA__F(mul)(y, MLA__F(sigmoid)(MLA__F(ld)(z + i))));
    }
    for (; i < n; i++) z[i] = x[i] * by * w[i] / (1.0f + expf(-z[i]));
}

MLA__RARE void MLA__F(gate)(float *y, const float *g, int n) {
    int i = 0;
    for (; i + MLA__VL <= n; i += MLA__VL)
        MLA__F(st)(y + i, MLA__F(mul)(MLA__F(ld)(y + i), MLA__F(sigmoid)(MLA__F(ld)(g + i))));
    for (; i < n; i++) y[i] /= 1.0f + expf(-g[i]);
}

MLA__FN void MLA__F(probs)(float *y, float max, float sum, int n) {
    int i = 0;
    for (; i + MLA__VL <= n; i += MLA__VL) {
        const MLA__V e = MLA__F(exp)(MLA__F(add)(MLA__F(ld)(y + i), MLA__F(set1)(-max)));
        MLA__F(st)(y + i, MLA__F(div)(e, MLA__F(set1)(sum)));
    }
    for (; i < n; i++) y[i] = expf(y[i] - max) / sum;
}

/* Softmax of one panel's scores s [nu, NL], online, and what it does to the sums so far. */
MLA__FN void MLA__F(softmax)(mla__lanes *l, const mla__visit *visit, float *s) {
    const int u0 = visit->u0, nu = visit->nu, dv = visit->dv;
    int u, i, least = l->limit[0];
    for (i = 1; i < MLA__NL; i++) least = l->limit[i] < least ? l->limit[i] : least;
    if (u0 + nu - 1 > least)
        for (u = 0; u < nu; u++)
            for (i = 0; i < MLA__NL; i += MLA__VL)
                MLA__F(st)(s + u * MLA__NL + i, MLA__F(keep)(MLA__F(ld)(s + u * MLA__NL + i), l->limit + i, u0 + u));
    if (l->mask[0])
        for (u = 0; u < nu; u++)
            for (i = 0; i < l->n; i++) s[u * MLA__NL + i] += l->mask[i][u0 + u];
    if (l->probs[0])
        for (u = 0; u < nu; u++)
            for (i = 0; i < l->n; i++) l->probs[i][u0 + u] = s[u * MLA__NL + i];
    float shrink[MLA__NL];
    int rescale = 0;
    for (i = 0; i < MLA__NL; i += MLA__VL) { /* a lane that has seen no key yet has m = -inf and counts from 0 */
        const MLA__V lowest = MLA__F(set1)(-3.402823466e38f), old = MLA__F(ld)(l->m + i), minus = MLA__F(set1)(-1.0f);
        MLA__V m = old, sum = MLA__F(zero)();
        for (u = 0; u < nu; u++) m = MLA__F(max)(m, MLA__F(ld)(s + u * MLA__NL + i));
        const MLA__V neg = MLA__F(mul)(MLA__F(max)(m, lowest), minus);
        for (u = 0; u < nu; u++) {
            const MLA__V e = MLA__F(exp)(MLA__F(add)(MLA__F(ld)(s + u * MLA__NL + i), neg));
            sum = MLA__F(add)(sum, e);
            MLA__F(st)(s + u * MLA__NL + i, e);
        }
        const MLA__V f = MLA__F(exp)(MLA__F(add)(old, neg));
        MLA__F(st)(shrink + i, f);
        MLA__F(st)(l->l + i, MLA__F(fma)(MLA__F(ld)(l->l + i), f, sum));
        MLA__F(st)(l->m + i, m);
        rescale |= !MLA__F(same)(old, m);
    }
    if (!l->started || !rescale) return;
    for (int r = 0; r < l->n; r++) {
        const MLA__V f = MLA__F(set1)(shrink[r]);
        float *o = l->o + r * (mla__sz)dv;
        for (i = 0; i + MLA__VL <= dv; i += MLA__VL) MLA__F(st)(o + i, MLA__F(mul)(MLA__F(ld)(o + i), f));
        for (; i < dv; i++) o[i] *= shrink[r];
    }
}

/* Scores of n panels with the keys of a visit, of dtype t: keys are broadcast, queries are the lanes. AK channels of
   the queries stay in the first-level cache while all keys pass by, widened AR at a time (f32 as they lie). The next
   visit's are fetched meanwhile. */
MLA__IN void MLA__F(scores)(const mla_dtype t, const mla__lanes *panels, int n, const mla__visit *visit) {
    const int dk = visit->dk, nu = visit->nu;
    const mla__sz ldk = visit->ldk;
    const unsigned char *k = (const unsigned char *)visit->k, *ahead = (const unsigned char *)visit->ahead;
    const float *a[MLA__MR];
    float *s = visit->s, *wide = visit->wide;
    const int step = (int)(mla__bytes(t, MLA__AR * ldk) / dk) + 1;
    for (int k0 = 0; k0 < dk; k0 += MLA__AK)
        for (int u = 0, m; u < nu; u += m) {
            const int kc = dk - k0 < MLA__AK ? dk - k0 : MLA__AK, tall = t != MLA_F32 && nu - u >= MLA__AR;
            m = tall ? MLA__AR : nu - u < MLA__MR ? nu - u : MLA__MR;
            for (int i = 0; i < m; i++) {
                const unsigned char *row = k + mla__bytes(t, (u + i) * ldk + k0);
                if (t != MLA_F32) MLA__F(widen_cached)(t, wide + i * MLA__AK, row, kc);
                if (!tall) a[i] = t == MLA_F32 ? (const float *)(const void *)row : wide + i * MLA__AK;
            }
            for (int p = 0; p < n; p++) {
                float *to = s + (p * (mla__sz)nu + u) * MLA__NL;
                const float *q = panels[p].q + k0 * MLA__NL;
                if (!tall) {
                    MLA__F(tile_lanes)(m, MLA__NL, to, MLA__NL, a, 1, q, MLA__NL, kc, k0 > 0, to, 0);
                    continue;
                }
                const void *fetch = p ? to : (const void *)ahead; /* by the first panel */
                MLA__F(keys_f32)(to, MLA__NL, wide, 1, q, MLA__NL, kc, k0 > 0, fetch, p ? 0 : step);
            }
            ahead += tall ? step * kc : 0;
        }
}
/* Panels of queries meet a visit: scores, softmax, and the sums of values, where lanes are broadcast and channels are
   the vectors. Values are widened in registers: a widened copy would cost more memory traffic than they do, though with
   MLA_SMALL there is one of some columns at a time. */
MLA__IN void MLA__F(attend)(const mla_dtype t, mla__lanes *panels, int n, const mla__visit *visit) {
    enum { COLS = MLA__VL * (MLA__AV > MLA__NV ? MLA__AV : MLA__NV) };
    const int dv = visit->dv, nu = visit->nu, copied = MLA__SMALL && t != MLA_F32;
    const mla_dtype as = MLA__SMALL ? MLA_F32 : t;
    const float *a[MLA__MR];
    float own[MLA__SMALL ? MLA__KEYS * COLS : 1];
    int i, m;
    MLA__F(scores)(t, panels, n, visit);
    for (int p = 0; p < n; p++) {
        mla__lanes *l = &panels[p];
        float *probs = visit->s + p * (mla__sz)nu * MLA__NL;
        const int tall = l->n >= MLA__AR && dv % (MLA__VL * MLA__AV) == 0, cols = tall ? MLA__VL * MLA__AV : MLA__NR;
        const mla__sz ldv = copied ? cols : visit->ldv;
        MLA__F(softmax)(l, visit, probs);
        for (int c = 0; c < dv; c += cols) {
            const unsigned char *at = (const unsigned char *)visit->v + mla__bytes(t, c);
            const void *from = copied ? (const void *)own : at;
            for (i = 0; i < nu && copied; i++)
                MLA__F(widen_cached)(t, own + i * cols, at + mla__bytes(t, i * visit->ldv), cols);
            for (int r = 0; r < l->n; r += m) {
                float *o = l->o + r * (mla__sz)dv + c;
                m = tall && l->n - r >= MLA__AR ? MLA__AR : l->n - r < MLA__MR ? l->n - r : MLA__MR;
                if (tall && m == MLA__AR) {
                    (as == MLA_BF16  ? MLA__F(values_bf16)
                     : as == MLA_F16 ? MLA__F(values_f16)
                                     : MLA__F(values_f32))(o, dv, probs + r, MLA__NL, from, ldv, nu, l->started, o, 0);
                    continue;
                }
                for (i = 0; i < m; i++) a[i] = probs + r + i;
                (as == MLA_BF16  ? MLA__F(tile_bf16)
                 : as == MLA_F16 ? MLA__F(tile_f16)
                                 : MLA__F(tile_f32))(m, dv - c < cols ? dv - c : cols, o, dv, a, MLA__NL, from, ldv, nu,
                                                     l->started, o, 0);
            }
        }
        l->started = 1;
    }
}

/* An indexer's scores: the heads of one token are the lanes. relu lets NaN through. */
MLA__IN void MLA__F(index)(const mla_dtype t, float *score, const mla__lanes *panels, const float *weight, int n,
                           const mla__visit *visit) {
    const float *s = visit->s;
    MLA__F(scores)(t, panels, n, visit);
    for (int u = 0; u < visit->nu; u++) {
        MLA__V sum = MLA__F(zero)();
        for (int p = 0; p < n; p++)
            for (int i = 0; i < MLA__NL; i += MLA__VL) {
                const MLA__V dot =
                    MLA__F(max)(MLA__F(zero)(), MLA__F(ld)(s + (p * (mla__sz)visit->nu + u) * MLA__NL + i));
                sum = MLA__F(fma)(dot, MLA__F(ld)(weight + p * MLA__NL + i), sum);
            }
        score[u] = MLA__F(sum)(sum);
    }
}

/* For all dtypes, with MLA_SMALL. */
MLA__FN void MLA__F(attend_any)(mla_dtype t, mla__lanes *panels, int n, const mla__visit *visit) {
    MLA__F(attend)(t, panels, n, visit);
}
MLA__RARE void MLA__F(index_any)(mla_dtype t, float *score, const mla__lanes *panels, const float *weight, int n,
                                 const mla__visit *visit) {
    MLA__F(index)(t, score, panels, weight, n, visit);
}
#define MLA__ATTEND(D, d)                                                                                              \
    MLA__FN void MLA__F(attend_##d)(mla__lanes * panels, int n, const mla__visit *visit) {                             \
        if (MLA__SMALL) MLA__F(attend_any)(D, panels, n, visit);                                                       \
        else MLA__F(attend)(D, panels, n, visit);                                                                      \
    }
MLA__ATTEND(MLA_F32, f32)
MLA__ATTEND(MLA_F16, f16)
MLA__ATTEND(MLA_BF16, bf16)
#undef MLA__ATTEND
#define MLA__INDEX(D, d)                                                                                               \
    MLA__FN void MLA__F(index_##d)(float *score, const mla__lanes *panels, const float *weight, int n,                 \
                                   const mla__visit *visit) {                                                          \
        if (MLA__SMALL) MLA__F(index_any)(D, score, panels, weight, n, visit);                                         \
        else MLA__F(index)(D, score, panels, weight, n, visit);                                                        \
    }
MLA__INDEX(MLA_F32, f32)
MLA__INDEX(MLA_F16, f16)
MLA__INDEX(MLA_BF16, bf16)
MLA__INDEX(MLA_Q8, q8)
#undef MLA__INDEX

MLA__RARE void MLA__F(gemm_widened)(const mla__product *p) { MLA__F(gemm)(MLA__WIDENED, p); }
MLA__RARE void MLA__F(dot_widened)(const mla__product *p) { MLA__F(dot)(MLA__WIDENED, p); }
MLA__RARE void MLA__F(mix_widened)(const mla__product *p) { MLA__F(mix)(MLA__WIDENED, p); }
#if MLA__VL >= 8 /* few tokens meet kv_b, which is mostly Q8, in f32: without a copy of it */
MLA__FN void MLA__F(dot_q8)(const mla__product *p) {
    if (p->w->layout == MLA_LAYOUT_ROWS) MLA__F(dot)(MLA_Q8, p);
    else MLA__F(dot_widened)(p);
}
MLA__FN void MLA__F(mix_q8)(const mla__product *p) {
    if (p->w->layout == MLA_LAYOUT_ROWS && p->few) MLA__F(mix_few)(MLA_Q8, p);
    else MLA__F(mix_widened)(p);
}
#endif
/* D: a dtype, or for all that are widened one of them */
#define MLA__PRODUCT(name, D, d)                                                                                       \
    MLA__FN void MLA__F(name##_##d)(const mla__product *p) {                                                           \
        if (MLA__SMALL) MLA__F(name##_widened)(p);                                                                     \
        else MLA__F(name)(D, p);                                                                                       \
    }
#define MLA__DTYPE(D, d)                                                                                               \
    MLA__PRODUCT(gemm, D, d)                                                                                           \
    MLA__PRODUCT(mix, D, d)
MLA__DTYPE(MLA_F32, f32)
MLA__DTYPE(MLA_F16, f16)
MLA__DTYPE(MLA_BF16, bf16)
MLA__DTYPE(MLA_E4M3, e4m3)
#undef MLA__DTYPE
#ifdef MLA__DOT
/* Fewer than four tokens meet weights that need no scale by MLA__DOT; four are in the registers here, with two rows.
   A vector is two of MLA__DOT's, one for each of its two sums, so that the bits are the same. */
MLA__IN void MLA__F(dot_fours)(const mla_dtype t, const mla__product *p, mla__kernel fewer) {
    const int fours = p->K % (2 * MLA__VL) == 0 ? p->in.T / 4 * 4 : 0;
    const mla__sz row = mla__bytes(t, p->w->cols);
    const char *const from = (const char *)p->w->data + (p->row0 + p->n0) * row;
    for (int i = 0; i < fours; i += 4)
        for (int n = 0; n < p->n1 - p->n0; n += 2) {
            const int second = mla__min(n + 1, p->n1 - p->n0 - 1);
            const char *const w[2] = {from + n * row, from + second * row};
            const float *x[4];
            MLA__V acc[2][4];
            MLA__EACH(b, 4) x[b] = mla__x_of(&p->in, i + b), acc[0][b] = acc[1][b] = MLA__F(zero)();
            for (int k = 0; k < p->K; k += MLA__VL) {
                MLA__V v[4];
                MLA__EACH(b, 4) v[b] = MLA__F(ld)(x[b] + k);
                MLA__EACH(j, 2) {
                    const MLA__V wv = MLA__F(get)(t, w[j], k);
                    MLA__EACH(b, 4) acc[j][b] = MLA__F(fma)(wv, v[b], acc[j][b]);
                }
            }
            MLA__EACH(b, 4) {
                float *const y = p->y + (i + b) * p->ldy;
                MLA__EACH(j, 2) y[j ? second : n] = MLA__F(sum)(acc[j][b]) + 0.0f; /* MLA__DOT's rest of none */
            }
        }
    mla__product rest = *p;
    rest.y += fours * p->ldy, rest.in = mla__in_part(&p->in, fours, p->in.T - fours);
    if (rest.in.T > 0) fewer(&rest);
}
#define MLA__FOURS(D, d)                                                                                               \
    MLA__FN void MLA__F(dot_##d)(const mla__product *p) { MLA__F(dot_fours)(D, p, MLA__CAT(mla__dot_##d, MLA__DOT)); }
MLA__FOURS(MLA_F32, f32)
MLA__FOURS(MLA_F16, f16)
MLA__FOURS(MLA_BF16, bf16)
#undef MLA__FOURS
#else
MLA__FN void MLA__F(dot_f32)(const mla__product *p) { MLA__F(dot)(MLA_F32, p); }
MLA__PRODUCT(dot, MLA_F16, f16)
MLA__FN void MLA__F(dot_bf16)(const mla__product *p) { MLA__F(dot)(MLA_BF16, p); }
#endif
MLA__PRODUCT(dot, MLA_E4M3, e4m3)
#undef MLA__PRODUCT
MLA__FN void MLA__F(narrow_f32)(void *y, const float *x, mla__sz n) { MLA__F(narrow)(MLA_F32, y, x, n); }
MLA__RARE void MLA__F(narrow_f16)(void *y, const float *x, mla__sz n) { MLA__F(narrow)(MLA_F16, y, x, n); }
MLA__RARE void MLA__F(narrow_bf16)(void *y, const float *x, mla__sz n) { MLA__F(narrow)(MLA_BF16, y, x, n); }

static void MLA__F(table)(mla__kernels *k) {
    memset(k, 0, sizeof *k);
    k->isa = MLA__ISA_ENUM, k->nl = MLA__NL, k->few = MLA__FEW;
#define MLA__DTYPE(D, d)                                                                                               \
    k->dot[D] = MLA__F(dot_##d), k->gemm[D] = MLA__F(gemm_##d), k->mix[D] = MLA__F(mix_##d),                           \
    k->widen[D] = MLA__F(widen_##d);
    MLA__DTYPE(MLA_F32, f32)
    MLA__DTYPE(MLA_F16, f16)
    MLA__DTYPE(MLA_BF16, bf16)
    MLA__DTYPE(MLA_E4M3, e4m3)
#undef MLA__DTYPE
#define MLA__DTYPE(D, d)                                                                                               \
    k->dot[D] = MLA__F(dot_widened), k->gemm[D] = MLA__F(gemm_widened), k->mix[D] = MLA__F(mix_widened);               \
    k->widen[D] = MLA__CAT(mla__unpack_##d, MLA__INTEGER);
    MLA__FORMATS(MLA__DTYPE, MLA__DTYPE)
#undef MLA__DTYPE
    k->dot[MLA_I8] = k->dot[MLA_Q8], k->gemm[MLA_I8] = k->gemm[MLA_Q8], k->mix[MLA_I8] = k->mix[MLA_Q8];
    k->widen[MLA_I8] = MLA__F(widen_i8);
#if MLA__VL >= 8
    k->dot[MLA_Q8] = MLA__F(dot_q8), k->mix[MLA_Q8] = MLA__F(mix_q8);
#endif
    MLA__CAT(mla__integer, MLA__INTEGER)(k);
    k->narrow[MLA_F32] = MLA__F(narrow_f32), k->narrow[MLA_F16] = MLA__F(narrow_f16),
    k->narrow[MLA_BF16] = MLA__F(narrow_bf16);
    k->narrow[MLA_Q8] = mla__narrow_q8;
    k->attend[MLA_F32] = MLA__F(attend_f32), k->attend[MLA_F16] = MLA__F(attend_f16),
    k->attend[MLA_BF16] = MLA__F(attend_bf16);
    k->index[MLA_F32] = MLA__F(index_f32), k->index[MLA_F16] = MLA__F(index_f16),
    k->index[MLA_BF16] = MLA__F(index_bf16);
    k->index[MLA_Q8] = MLA__F(index_q8);
    k->conv = MLA__F(conv), k->unit = MLA__F(unit), k->decay = MLA__F(decay), k->recur = MLA__F(recur);
    k->chunk = MLA__F(chunk), k->gated_norm = MLA__F(gated_norm);
    k->q4_scale = MLA__F(q4_scale), k->transpose = MLA__F(transpose_rows), k->swiglu = MLA__F(swiglu);
    k->gate = MLA__F(gate), k->probs = MLA__F(probs), k->accumulate = MLA__F(accumulate), k->norm = MLA__F(norm);
}

#undef MLA__F
#undef MLA__V
#undef MLA__NR
#undef MLA__NL
#undef MLA__FN
#undef MLA__RARE
#undef MLA__IN
#undef MLA__ISA
#undef MLA__ISA_ENUM
#undef MLA__TARGET
#undef MLA__VL
#undef MLA__NV
#undef MLA__LV
#undef MLA__DOT
#undef MLA__INTEGER
#undef MLA__MR
#undef MLA__AR
#undef MLA__AV
#endif /* MLA__TEMPLATE */

#if defined(MLA__IMPLEMENTED) && !defined(MLA__INSTANTIATED)
#define MLA__INSTANTIATED

/* Of the kernels the rest knows this function alone. Where it is extern, another object that is built with
   MLA__SELECTED has no kernels of its own: they take long to compile. */
#ifndef MLA__SELECT
#define MLA__SELECT static
#endif
MLA__SELECT void mla__select(mla__kernels *k, mla_isa isa);

#ifndef MLA__SELECTED
#define MLA__CAT2(a, b) a##b
#define MLA__CAT(a, b)  MLA__CAT2(a, b)
#define MLA__TEMPLATE

#if MLA__SCALAR
#define MLA__ISA      _scalar
#define MLA__ISA_ENUM MLA_ISA_SCALAR
#define MLA__TARGET
#define MLA__INTEGER _scalar
#define MLA__VL      1
#define MLA__NV      4
#define MLA__LV      4
#define MLA__MR      4
#define MLA__AR      4
#define MLA__AV      4
#include MLA_FILE
#if !defined(MLA__TEMPLATE_VERSION) || MLA__TEMPLATE_VERSION != MLA_VERSION_NUMBER
#error "mla.h includes itself and finds another version: define MLA_FILE, as in -DMLA_FILE='\"copy.h\"'"
#endif
#endif

#if MLA__NEON
#define MLA__ISA      _neon
#define MLA__ISA_ENUM MLA_ISA_NEON
#define MLA__TARGET
#ifdef __ARM_FEATURE_DOTPROD
#define MLA__INTEGER _128
#else
#define MLA__INTEGER _scalar
#endif
#define MLA__VL 4
#define MLA__NV 4
#define MLA__LV 4
#define MLA__MR 6
#define MLA__AR 6
#define MLA__AV 4
#include MLA_FILE
#endif

#if MLA__WASM
#define MLA__ISA      _wasm
#define MLA__ISA_ENUM MLA_ISA_SIMD128
#define MLA__TARGET
#define MLA__INTEGER _128
#define MLA__VL      4
#define MLA__NV      2
#define MLA__LV      2
#define MLA__MR      4
#define MLA__AR      4
#define MLA__AV      2
#include MLA_FILE
#endif

#if MLA__X86
#define MLA__ISA      _avx2
#define MLA__ISA_ENUM MLA_ISA_AVX2
#define MLA__TARGET   MLA__TARGET_AVX2
#define MLA__INTEGER  _avx2
#define MLA__VL       8
#define MLA__NV       2
#define MLA__LV       2
#define MLA__MR       6
#define MLA__AR       6
#define MLA__AV       2
#include MLA_FILE

#define MLA__DOT      _avx2 /* few tokens wait for memory, and loads of 256 bits were faster */
#define MLA__ISA      _avx512
#define MLA__ISA_ENUM MLA_ISA_AVX512
#define MLA__TARGET   MLA__TARGET_AVX512
#define MLA__INTEGER  _avx2
#define MLA__VL       16
#define MLA__NV       2
#define MLA__LV       1
#define MLA__MR       8
#define MLA__AR       16
#define MLA__AV       1
#include MLA_FILE
#endif

#undef MLA__TEMPLATE

/* ---- >>bf16 ------------------------------------------------------------------------------------------------------ */
/* Products in bf16, summed in f32: two multiply-adds a lane (AVX512_BF16), or 16 x 16 x 32 of them at a time (AMX).
   Activations are rounded to bf16, or split into two parts whose sum they are to 2^-16; weights of every format become
   panels of bf16, exact if they are bf16, else rounded or split as well. */

#if MLA__AMX

#define MLA__BK  256 /* columns of a panel at a time: panels of a part stay in the first-level cache */
#define MLA__BN  32  /* and rows, in two strips of sixteen */
#define MLA__BMR 12  /* tokens of a register tile */

/* Two times sixteen f32 as bf16, in the order of their lanes; `rest` is what is lost. */
MLA__INLINE MLA__TARGET_BF16 __m512i mla__bf16_of(__m512 a, __m512 b) { return (__m512i)_mm512_cvtne2ps_pbh(b, a); }
MLA__INLINE MLA__TARGET_BF16 __m512 mla__rest_bf16(__m512 a, __m256i high) { /* of infinity and NaN nothing */
    const __m512 h = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
    return _mm512_maskz_sub_ps((__mmask16)~_mm512_fpclass_ps_mask(h, 0x99), a, h);
}
MLA__INLINE MLA__TARGET_BF16 __m512i mla__rests_bf16(__m512 a, __m512 b, __m512i high) {
    return mla__bf16_of(mla__rest_bf16(a, _mm512_castsi512_si256(high)),
                        mla__rest_bf16(b, _mm512_extracti64x4_epi64(high, 1)));
}
/* y [parts, up_to(n, 32)] = x [n] in bf16, with zeros behind it. */
static MLA__TARGET_BF16 void mla__split_bf16(uint16_t *y, const float *x, int n, int parts) {
    for (int k = 0; k < n; k += 32) {
        const int left = n - k;
        const __m512 a = _mm512_maskz_loadu_ps(left < 16 ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff, x + k);
        const __mmask16 more = left >= 32 ? (__mmask16)0xffff : left > 16 ? (__mmask16)((1u << (left - 16)) - 1) : 0;
        const __m512 b = more ? _mm512_maskz_loadu_ps(more, x + k + 16) : _mm512_setzero_ps();
        const __m512i high = mla__bf16_of(a, b);
        _mm512_storeu_si512(y + k, high);
        if (parts > 1) _mm512_storeu_si512(y + mla__up_to(n, 32) + k, mla__rests_bf16(a, b, high));
    }
}

/* Panels: [part][strip][columns / 2, 16 rows, 2]. */
#define MLA__BSTRIP (MLA__BK * 16)
#define MLA__BPART  (2 * MLA__BSTRIP)

/* Columns k0 .. k0+kn of nb <= 16 rows as they lie, transposed by pairs; of other formats than bf16 by way of f32. */
MLA__INLINE MLA__TARGET_BF16 void mla__bpack_rows(const int exact, uint16_t *to, const mla__product *p, int row, int nb,
                                                  int k0, int kn) {
    float own[16][MLA__SPAN];
    const mla__sz K = p->w->cols;
    for (int k = 0; k < kn; k += MLA__SPAN) {
        const int n = kn - k < MLA__SPAN ? kn - k : MLA__SPAN;
        for (int i = 0; i < nb && !exact; i++) {
            mla__part_avx512(MLA__WIDENED, p, row + i, k0 + k, n, own[i]);
            for (int j = n; j < mla__up_to(n, 32); j++) own[i][j] = 0;
        }
        for (int c = 0; c < n; c += 32, to += 512) {
            const __mmask32 have = n - c < 32 ? (__mmask32)((1ull << (n - c)) - 1) : 0xffffffffu;
            __m512 r[16], rest[16];
            MLA__EACH(i, 16) {
                r[i] = rest[i] = _mm512_setzero_ps();
                if (i < nb && exact) {
                    const uint16_t *from = (const uint16_t *)p->w->data + (row + i) * K + k0 + k + c;
                    r[i] = _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(have, from));
                } else if (i < nb) {
                    const __m512 a = _mm512_loadu_ps(own[i] + c), b = _mm512_loadu_ps(own[i] + c + 16);
                    const __m512i high = mla__bf16_of(a, b);
                    r[i] = _mm512_castsi512_ps(high);
                    if (p->in.w_parts > 1) rest[i] = _mm512_castsi512_ps(mla__rests_bf16(a, b, high));
                }
            }
            mla__transpose_avx512(r);
            MLA__EACH(i, 16) _mm512_storeu_ps((float *)(void *)(to + 32 * i), r[i]);
            if (exact || p->in.w_parts < 2) continue;
            mla__transpose_avx512(rest);
            MLA__EACH(i, 16) _mm512_storeu_ps((float *)(void *)(to + MLA__BPART + 32 * i), rest[i]);
        }
    }
}
static MLA__TARGET_BF16 void mla__bpack_bf16(uint16_t *to, const mla__product *p, int row, int nb, int k0, int kn) {
    mla__bpack_rows(1, to, p, row, nb, k0, kn);
}
static MLA__TARGET_BF16 void mla__bpack_widened(uint16_t *to, const mla__product *p, int row, int nb, int k0, int kn) {
    mla__bpack_rows(0, to, p, row, nb, k0, kn);
}
/* Blocks by way of the panels of integer products. */
static MLA__TARGET_BF16 void mla__bpack_blocks(uint16_t *to, const mla__product *p, int row, int nb, int k0, int kn) {
    const mla__format *f = &mla__formats[p->w->dtype];
    const int halves = MLA_GROUP / f->group, groups = kn / MLA_GROUP, has_min = mla__off_of(f) == MLA__OFF_MIN;
    const __m512 offset = _mm512_set1_ps(has_min ? 0 : (float)mla__offset(f));
    int16_t order[32];
    mla__ipanel panel[MLA__IGROUPS];
    for (int i = 0; i < 16; i++) order[2 * i] = (int16_t)i, order[2 * i + 1] = (int16_t)(16 + i);
    const __m512i mixed = _mm512_loadu_si512(order), byte = _mm512_set1_epi32(255);
    for (int g = 0; g < groups; g++) {
        if (g % MLA__IGROUPS == 0)
            mla__ipack_of(p->w)(panel, p->w, row, nb, k0 / MLA_GROUP + g, mla__min(MLA__IGROUPS, groups - g),
                                mla__bias(f));
        const mla__ipanel *of = &panel[g % MLA__IGROUPS];
        for (int k = 0; k < 8; k++, to += 64) {
            const __m512i u = _mm512_loadu_si512(of->w[k]);
            const __m512 d = _mm512_loadu_ps(of->d[k * halves / 8]);
            const __m512 min = has_min ? _mm512_loadu_ps(of->min[k * halves / 8]) : _mm512_setzero_ps();
            __m512 v[4];
            MLA__EACH(i, 4) {
                const __m512 q = _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(u, (unsigned)(8 * i)), byte));
                v[i] = _mm512_fmsub_ps(_mm512_sub_ps(q, offset), d, min);
            }
            MLA__EACH(i, 2) {
                const __m512i high = mla__bf16_of(v[2 * i], v[2 * i + 1]);
                _mm512_storeu_si512(to + 32 * i, _mm512_permutexvar_epi16(mixed, high));
                if (p->in.w_parts > 1)
                    _mm512_storeu_si512(to + MLA__BPART + 32 * i,
                                        _mm512_permutexvar_epi16(mixed, mla__rests_bf16(v[2 * i], v[2 * i + 1], high)));
            }
        }
    }
}

typedef void (*mla__bpack)(uint16_t *to, const mla__product *p, int row, int nb, int k0, int kn);

/* y [m, 32] (+)= m tokens, x [parts, columns] each, ldx apart, times a panel of steps * 32 columns. */
typedef struct mla__bmeet {
    float *y;
    mla__sz ldy;
    const uint16_t *x, *panel;
    mla__sz ldx, x_part;
    int x_parts, w_parts, steps, add;
    mla__ahead *ahead; /* meanwhile so many lines a step are fetched of what comes then */
    int lines;
} mla__bmeet;
typedef void (*mla__btile)(int m, const mla__bmeet *a);

MLA__INLINE MLA__TARGET_BF16 void mla__btile_m(const int M, int m, const mla__bmeet *a) {
    __m512 acc[MLA__BMR][2];
    MLA__EACH(i, M) {
        MLA__EACH(j, 2) acc[i][j] = a->add && i < m ? _mm512_loadu_ps(a->y + i * a->ldy + 16 * j) : _mm512_setzero_ps();
    }
    for (int product = 0; product < 4; product++) {
        const int xp = product % 2, wp = product / 2;
        if (xp >= a->x_parts || wp >= a->w_parts) continue;
        const uint16_t *w = a->panel + wp * MLA__BPART, *x[MLA__BMR / 4];
        MLA__EACH(i, M / 4) x[i] = a->x + xp * a->x_part + 4 * i * a->ldx;
        for (int k = 0; k < 16 * a->steps; k++, w += 32) {
            if (k % 16 == 0 && product == 0) mla__fetch(a->ahead, a->lines);
            __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + MLA__BSTRIP);
            MLA__HOLD(w0);
            MLA__HOLD(w1);
            MLA__EACH(i, M) {
                int pair;
                memcpy(&pair, x[i / 4] + i % 4 * a->ldx, 4);
                const __m512bh v = (__m512bh)_mm512_set1_epi32(pair);
                acc[i][0] = _mm512_dpbf16_ps(acc[i][0], v, (__m512bh)w0);
                acc[i][1] = _mm512_dpbf16_ps(acc[i][1], v, (__m512bh)w1);
            }
            MLA__EACH(i, M / 4) x[i] += 2;
        }
    }
    MLA__EACH(i, M) {
        MLA__EACH(j, 2)
            if (i < m) _mm512_storeu_ps(a->y + i * a->ldy + 16 * j, acc[i][j]);
    }
}
static MLA__TARGET_BF16 void mla__btile_bf16(int m, const mla__bmeet *a) {
    if (m <= 4) mla__btile_m(4, m, a);
    else if (m <= 8) mla__btile_m(8, m, a);
    else mla__btile_m(12, m, a);
}

/* The compiler does not know what the tile instructions read and write. */
#define MLA__FENCE() __asm__ volatile("" ::: "memory")

/* Eight tiles of 16 rows of 64 bytes. */
static MLA__TARGET_AMX void mla__tiles_begin(void) {
    unsigned char config[64];
    memset(config, 0, sizeof config);
    config[0] = 1;
    for (int i = 0; i < 8; i++) {
        config[16 + 2 * i] = 64;
        config[48 + i] = 16;
    }
    MLA__FENCE();
    _tile_loadconfig(config);
}
static MLA__TARGET_AMX void mla__tiles_end(void) { _tile_release(); }

/* 16 or 32 tokens; sums are tiles 0 to 3. */
static MLA__TARGET_AMX void mla__btile_amx(int m, const mla__bmeet *a) {
    const int two = m > 16;
    const mla__sz ldy = a->ldy * 4, ldx = a->ldx * 2;
    float *y = a->y, *y1 = y + 16 * a->ldy;
    MLA__FENCE();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    if (a->add) {
        _tile_loadd(0, y, ldy);
        _tile_loadd(1, y + 16, ldy);
    }
    if (a->add && two) {
        _tile_loadd(2, y1, ldy);
        _tile_loadd(3, y1 + 16, ldy);
    }
    for (int product = 0; product < 4; product++) {
        const int xp = product % 2, wp = product / 2;
        if (xp >= a->x_parts || wp >= a->w_parts) continue;
        const uint16_t *x = a->x + xp * a->x_part, *w = a->panel + wp * MLA__BPART;
        for (int s = 0; s < a->steps; s++, x += 32, w += 512) {
            if (product == 0) mla__fetch(a->ahead, a->lines);
            _tile_loadd(4, x, ldx);
            _tile_loadd(6, w, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, w + MLA__BSTRIP, 64);
            _tile_dpbf16ps(1, 4, 7);
            if (!two) continue;
            _tile_loadd(5, x + 16 * a->ldx, ldx);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, y, ldy);
    _tile_stored(1, y + 16, ldy);
    if (two) {
        _tile_stored(2, y1, ldy);
        _tile_stored(3, y1 + 16, ldy);
    }
    MLA__FENCE();
}

/* A panel of nb rows meets m tokens, of which tiles want `whole` at a time; else sums are kept aside. */
static void mla__bmeet_rows(mla__btile tile, int m, mla__bmeet *a, int nb, int whole) {
    float edge[32 * MLA__BN], *to = a->y;
    const mla__sz ld = a->ldy;
    if (nb == MLA__BN && m % whole == 0) {
        tile(m, a);
        return;
    }
    memset(edge, 0, sizeof edge);
    a->y = edge, a->ldy = MLA__BN;
    for (int i = 0; i < m && a->add; i++) memcpy(edge + MLA__BN * i, to + i * ld, (size_t)nb * sizeof *to);
    tile(m, a);
    for (int i = 0; i < m; i++) memcpy(to + i * ld, edge + MLA__BN * i, (size_t)nb * sizeof *to);
}
/* As mla__igemm_x86. */
static MLA__TARGET_BF16 void mla__bgemm(mla__btile tile, int most, int whole, const mla__product *p) {
    const mla_tensor *w = p->w;
    const int K = p->K, along = (K + MLA__BK - 1) / MLA__BK, down = (p->n1 - p->n0 + MLA__BN - 1) / MLA__BN;
    const mla__bpack pack = mla__blocked(w->dtype) ? mla__bpack_blocks
                            : w->dtype == MLA_BF16 ? mla__bpack_bf16
                                                   : mla__bpack_widened;
    const int w_parts = w->dtype == MLA_BF16 ? 1 : p->in.w_parts;
    uint16_t *panel = (uint16_t *)(void *)p->panel;
    for (int t0 = 0; t0 < p->in.T; t0 += MLA__MC) {
        const int t1 = mla__min(p->in.T, t0 + MLA__MC), few = t1 - t0 <= 64;
        for (int i = 0; i < along * down; i++) {
            const int n = p->n0 + (few ? i / along : i % down) * MLA__BN, nb = mla__min(MLA__BN, p->n1 - n);
            const int k0 = (few ? i % along : i / down) * MLA__BK, kn = mla__min(MLA__BK, K - k0);
            const int n1 = p->n0 + (few ? (i + 1) / along : (i + 1) % down) * MLA__BN;
            const int k1 = (few ? (i + 1) % along : (i + 1) / down) * MLA__BK;
            for (int r = 0; r < nb; r += 16)
                pack(panel + r / 16 * MLA__BSTRIP, p, p->row0 + n + r, mla__min(16, nb - r), k0, kn);
            mla__ahead ahead =
                mla__ahead_of(w, p->row0 + n1, mla__min(MLA__BN, p->n1 - n1), k1, mla__min(MLA__BK, K - k1));
            const int steps = (kn + 31) / 32, calls = (t1 - t0 + most - 1) / most * steps;
            const int lines = ((int)((ahead.bytes + 63) / 64) * ahead.runs + calls - 1) / calls;
            for (int u = t0; u < t1; u += most) {
                const uint16_t *x = (const uint16_t *)(const void *)(p->in.q + u * p->in.ldq) + k0;
                mla__bmeet a = {NULL,        p->ldy,  x,     panel, p->in.ldq / 2, mla__up_to(K, 32),
                                p->in.parts, w_parts, steps, 0,     &ahead,        lines};
                a.y = p->y + u * p->ldy + (n - p->n0), a.add = k0 > 0;
                mla__bmeet_rows(tile, mla__min(most, t1 - u), &a, nb, whole);
            }
        }
    }
}
static void mla__bgemm_bf16(const mla__product *p) { mla__bgemm(mla__btile_bf16, MLA__BMR, 1, p); }
static MLA__TARGET_AMX void mla__bgemm_amx(const mla__product *p) {
    mla__tiles_begin();
    mla__bgemm(mla__btile_amx, 32, 16, p);
    mla__tiles_end();
}

/* Attention by tiles: as attend of the template, with queries, probabilities, keys and values in bf16. A panel's
   scores, and the probabilities that are packed over them, take so many floats. */
static mla__sz mla__scores_size_amx(const mla__visit *visit) { return visit->nu < 16 ? 256 : visit->nu * 16; }

/* When a panel meets its first keys, its queries are packed in their place. */
static MLA__TARGET_AMX void mla__queries_amx(mla__lanes *panels, int n, int dk) {
    int16_t order[32];
    for (int i = 0; i < 16; i++) order[2 * i] = (int16_t)i, order[2 * i + 1] = (int16_t)(16 + i);
    const __m512i mixed = _mm512_loadu_si512(order);
    for (int p = 0; p < n; p++) {
        if (panels[p].started) continue;
        for (int d = 0; d < dk; d += 2) {
            const float *q = panels[p].q + 16 * (mla__sz)d;
            const __m512i two = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(q + 16), _mm512_loadu_ps(q));
            _mm512_storeu_si512((uint16_t *)(void *)panels[p].q + 16 * (mla__sz)d,
                                _mm512_permutexvar_epi16(mixed, two));
        }
    }
}

/* s [n, keys, lanes]: sixteen keys meet two panels at a time. */
static MLA__TARGET_AMX void mla__scores_amx(const mla__lanes *panels, int n, const mla__visit *visit) {
    const int steps = visit->dk / 32, nu = visit->nu;
    const mla__sz lds = mla__scores_size_amx(visit);
    for (int u = 0; u < nu; u += 16) {
        const int rows = nu - u < 16 ? nu - u : 16;
        const uint16_t *a = (const uint16_t *)visit->k + u * visit->ldk;
        mla__sz lda = visit->ldk * 2;
        if (rows < 16) { /* the last ones are copied, with zeros behind them */
            lda = visit->dk * 2;
            memset(visit->wide, 0, 16 * (size_t)lda);
            for (int i = 0; i < rows; i++) memcpy((char *)visit->wide + i * lda, a + i * visit->ldk, (size_t)lda);
            a = (const uint16_t *)(const void *)visit->wide;
        }
        for (int p = 0; p < n; p += 2) {
            const uint16_t *b = (const uint16_t *)(const void *)panels[p].q,
                           *b1 = (const uint16_t *)(const void *)panels[p + 1 < n ? p + 1 : p].q;
            float *to[2], edge[2][256];
            for (int i = 0; i < 2; i++) to[i] = rows < 16 ? edge[i] : visit->s + (p + i) * lds + u * 16;
            MLA__FENCE();
            _tile_zero(0);
            _tile_zero(1);
            for (int i = 0; i < steps; i++) {
                _tile_loadd(4, a + 32 * i, lda);
                _tile_loadd(6, b + 512 * i, 64);
                _tile_dpbf16ps(0, 4, 6);
                if (p + 1 >= n) continue;
                _tile_loadd(7, b1 + 512 * i, 64);
                _tile_dpbf16ps(1, 4, 7);
            }
            _tile_stored(0, to[0], 64);
            if (p + 1 < n) _tile_stored(1, to[1], 64);
            MLA__FENCE();
            if (rows == 16) continue;
            for (int i = 0; i < 2 && p + i < n; i++)
                memcpy(visit->s + (p + i) * lds + u * 16, edge[i], (size_t)rows * 16 * sizeof(float));
        }
    }
}

/* Scores of a panel become probabilities, packed over them: [keys / 32, lanes, 32 keys]. */
static MLA__TARGET_AMX void mla__softmax_amx(mla__lanes *l, const mla__visit *visit, float *s) {
    uint16_t *packed = (uint16_t *)(void *)s;
    mla__softmax_avx512(l, visit, s);
    for (int u = 0; u < visit->nu; u += 32, packed += 512) {
        __m512 r[2][16];
        MLA__EACH(h, 2) {
            MLA__EACH(i, 16)
                r[h][i] = u + 16 * h + i < visit->nu ? _mm512_loadu_ps(s + (u + 16 * h + i) * 16) : _mm512_setzero_ps();
            mla__transpose_avx512(r[h]);
        }
        MLA__EACH(i, 16) _mm512_storeu_si512(packed + 32 * i, (__m512i)_mm512_cvtne2ps_pbh(r[1][i], r[0][i]));
    }
}

/* o [lanes, dv] += probabilities [lanes, keys] . v [keys, dv], 64 keys and 32 channels at a time. The keys of the next
   visit are fetched while these are worked on. */
static MLA__TARGET_AMX void mla__values_amx(mla__lanes *panels, int n, const mla__visit *visit) {
    const int nu = visit->nu, dv = visit->dv;
    const mla__sz ldv = visit->ldv, lds = mla__scores_size_amx(visit);
    const char *ahead = (const char *)visit->ahead;
    const int bytes = (int)(64 * nu * visit->ldk / dv) + 64;
    int16_t pairs[2][32];
    for (int i = 0; i < 16; i++)
        for (int h = 0; h < 2; h++)
            pairs[h][2 * i] = (int16_t)(16 * h + i), pairs[h][2 * i + 1] = (int16_t)(32 + 16 * h + i);
    const __m512i low = _mm512_loadu_si512(pairs[0]), high = _mm512_loadu_si512(pairs[1]);
    for (int u = 0; u < nu; u += 64) {
        const int halves = nu - u > 32 ? 2 : 1;
        for (int c = 0; c < dv; c += 32, ahead += bytes) {
            uint16_t b[2][2][512]; /* [keys / 32][channels / 16][16 pairs of keys][16 channels][2] */
            if (u == 0)
                for (int i = 0; i < bytes; i += 64) MLA__PREFETCH(ahead + i);
            for (int i = 0; i < 32 * halves; i += 2) {
                const uint16_t *row = (const uint16_t *)visit->v + (u + i) * ldv + c;
                const __m512i x = u + i < nu ? _mm512_loadu_si512(row) : _mm512_setzero_si512();
                const __m512i y = u + i + 1 < nu ? _mm512_loadu_si512(row + ldv) : _mm512_setzero_si512();
                _mm512_storeu_si512(b[i / 32][0] + i % 32 * 16, _mm512_permutex2var_epi16(x, low, y));
                _mm512_storeu_si512(b[i / 32][1] + i % 32 * 16, _mm512_permutex2var_epi16(x, high, y));
            }
            MLA__FENCE();
            _tile_loadd(4, b[0][0], 64);
            _tile_loadd(5, b[0][1], 64);
            if (halves > 1) {
                _tile_loadd(6, b[1][0], 64);
                _tile_loadd(7, b[1][1], 64);
            }
            for (int p = 0; p < n; p++) {
                const uint16_t *a = (const uint16_t *)(const void *)(visit->s + p * lds) + u / 32 * 512;
                float *o = panels[p].o + c;
                if (panels[p].started || u) {
                    _tile_loadd(0, o, dv * 4);
                    _tile_loadd(1, o + 16, dv * 4);
                } else {
                    _tile_zero(0);
                    _tile_zero(1);
                }
                _tile_loadd(2, a, 64);
                _tile_dpbf16ps(0, 2, 4);
                _tile_dpbf16ps(1, 2, 5);
                if (halves > 1) {
                    _tile_loadd(3, a + 512, 64);
                    _tile_dpbf16ps(0, 3, 6);
                    _tile_dpbf16ps(1, 3, 7);
                }
                _tile_stored(0, o, dv * 4);
                _tile_stored(1, o + 16, dv * 4);
            }
            MLA__FENCE();
        }
    }
}

static MLA__TARGET_AMX void mla__attend_amx(mla__lanes *panels, int n, const mla__visit *visit) {
    mla__queries_amx(panels, n, visit->dk);
    mla__tiles_begin();
    mla__scores_amx(panels, n, visit);
    for (int p = 0; p < n; p++) mla__softmax_amx(&panels[p], visit, visit->s + p * mla__scores_size_amx(visit));
    mla__values_amx(panels, n, visit);
    mla__tiles_end();
    for (int p = 0; p < n; p++) panels[p].started = 1;
}
#endif

/* The one place that decides which kernels an ISA has: newest first. AUTO has no more than VNNI: tiles are asked of the
   system, and BF16 is for activations that are rounded to it. */
MLA__SELECT void mla__select(mla__kernels *k, mla_isa isa) {
    if (isa == MLA_ISA_AUTO)
        isa = mla__cpu_isa() == MLA_ISA_BF16 || mla__cpu_isa() == MLA_ISA_AMX ? MLA_ISA_VNNI : mla__cpu_isa();
    switch (isa) {
#if MLA__AMX
    case MLA_ISA_AMX:
        mla__select(k, MLA_ISA_BF16);
        k->attend_tiles = mla__attend_amx, k->bgemm = mla__bgemm_amx, k->tiles = 1;
        break;
    case MLA_ISA_BF16:
        mla__select(k, MLA_ISA_VNNI);
        k->split = mla__split_bf16, k->bgemm = mla__bgemm_bf16;
        break;
#endif
#if MLA__X86
    case MLA_ISA_VNNI:
        mla__select(k, MLA_ISA_AVX512);
        if (mla__cpu() & MLA__CPU_VBMI) k->dot[MLA_E4M3] = mla__dot_e4m3_vbmi;
        mla__integer_vnni(k);
        break;
    case MLA_ISA_AVX512:
        mla__table_avx512(k);
        /* decode is bound by memory: software prefetch gains a third on Intel's servers and loses on AMD's */
        k->fetch = mla__cpu() & MLA__CPU_INTEL ? MLA__FAR : 0;
        break;
    case MLA_ISA_AVX2: mla__table_avx2(k); break;
#endif
#if MLA__NEON
    case MLA_ISA_NEON: mla__table_neon(k); break;
#endif
#if MLA__WASM
    case MLA_ISA_SIMD128: mla__table_wasm(k); break;
#endif
#if MLA__SCALAR
    case MLA_ISA_SCALAR: mla__table_scalar(k); break;
#endif
    default: break;
    }
    k->isa = isa;
}
#endif /* MLA__SELECTED */

void mla_widen(float *y, mla_dtype t, const void *x, size_t n) {
    mla__kernels k;
    memset(&k, 0, sizeof k);
    if ((unsigned)t >= MLA_DTYPE_COUNT) return;
    if (n >= 256) mla__select(&k, MLA_ISA_AUTO); /* which takes longer than a few elements */
    if (k.widen[t]) k.widen[t](y, x, (mla__sz)n);
    else
        for (size_t i = 0; i < n; i++) y[i] = mla__value(t, x, (mla__sz)i);
}

/* ---- >>quantize -------------------------------------------------------------------------------------------------- */
/* Scales are searched: for given codes q the best is xq / qq, with the squared error xx - xq^2 / qq, so that it is
   enough to try some inverses around the plain one. */

enum { MLA__TRIES = 24 }; /* inverses that are tried at once, each in a lane of its own; the last ones may be alike */

/* The loops over lanes are left to the compiler. Without fma, so that a CPU that has it rounds as others do. */
#if MLA__X86 && defined(__GNUC__)
#define MLA__WIDE __attribute__((target("avx2")))
#else
#define MLA__WIDE
#endif

MLA__INLINE float mla__whole(float v) { return (v + 12582912.0f) - 12582912.0f; } /* rintf, for |v| below 2^22 */
/* The place in a list of 16, ascending, that is nearest to v; NaN gives the first. */
MLA__INLINE int mla__nearest(const int8_t *list, float v) {
    int i = 0;
    for (int j = 0; j < 15; j++) i += v > 0.5f * (float)(list[j] + list[j + 1]);
    return i;
}
/* x [n] = d * q with -most <= q < most, or q of the list NL: the best d; 0 if all are. */
MLA__INLINE float mla__try_scales(const float *x, int n, int most, int list) {
    const int8_t *nl = mla__lists[0];
    float top = 0, best = 0, scale = 0, inverse[MLA__TRIES], q[MLA__TRIES], xq[MLA__TRIES], qq[MLA__TRIES];
    for (int i = 0; i < n; i++) top = fabsf(x[i]) > fabsf(top) ? x[i] : top;
    if (!(fabsf(top) > 0)) return 0;
    for (int k = 0; k < MLA__TRIES; k++) {
        const int step = k < 18 ? k - 9 : 9;
        inverse[k] = -((list ? 120.0f : (float)most) + (list ? 2.0f : 0.1f) * (float)step) / top;
        xq[k] = qq[k] = 0;
    }
    for (int i = 0; i < n; i++) {
        if (list) {
            for (int k = 0; k < MLA__TRIES; k++) q[k] = (float)nl[0];
            for (int j = 0; j < 15; j++) {
                const float middle = 0.5f * (float)(nl[j] + nl[j + 1]), more = (float)(nl[j + 1] - nl[j]);
                for (int k = 0; k < MLA__TRIES; k++) q[k] += x[i] * inverse[k] > middle ? more : 0;
            }
        } else {
            const float low = (float)-most, high = (float)(most - 1);
            for (int k = 0; k < MLA__TRIES; k++) {
                const float v = mla__whole(x[i] * inverse[k]), above = v < low ? low : v;
                q[k] = above > high ? high : above;
            }
        }
        for (int k = 0; k < MLA__TRIES; k++) xq[k] += x[i] * q[k], qq[k] += q[k] * q[k];
    }
    for (int k = 0; k < MLA__TRIES; k++)
        if (qq[k] > 0 && xq[k] * xq[k] > best * qq[k]) best = xq[k] * xq[k] / qq[k], scale = xq[k] / qq[k];
    return scale;
}
/* x [32] = d * q - min with 0 <= q <= most, d and min at least 0: the best of some d, and its min by least squares. */
MLA__INLINE float mla__try_ranges(const float *x, int most, float *min) {
    float low = 0, high = x[0], least = INFINITY, scale = 0, sx = 0, q[MLA_GROUP][MLA__TRIES];
    float inverse[MLA__TRIES], sq[MLA__TRIES], qq[MLA__TRIES], xq[MLA__TRIES];
    float det[MLA__TRIES], d[MLA__TRIES], m[MLA__TRIES], error[MLA__TRIES];
    for (int i = 0; i < MLA_GROUP; i++) low = x[i] < low ? x[i] : low, high = x[i] > high ? x[i] : high, sx += x[i];
    *min = -low;
    if (!(high > low)) return 0;
    for (int k = 0; k < MLA__TRIES; k++) {
        const int step = k < 20 ? k - 5 : 15;
        inverse[k] = ((float)most + 0.1f * (float)step) / (high - low);
        sq[k] = qq[k] = xq[k] = error[k] = 0;
    }
    for (int i = 0; i < MLA_GROUP; i++)
        for (int k = 0; k < MLA__TRIES; k++) {
            const float v = mla__whole((x[i] - low) * inverse[k]), above = v < 0 ? 0 : v;
            const float code = above > (float)most ? (float)most : above;
            q[i][k] = code;
            sq[k] += code, qq[k] += code * code, xq[k] += x[i] * code;
        }
    for (int k = 0; k < MLA__TRIES; k++) {
        det[k] = MLA_GROUP * qq[k] - sq[k] * sq[k];
        const float shift = (sq[k] * xq[k] - qq[k] * sx) / det[k], best = (MLA_GROUP * xq[k] - sx * sq[k]) / det[k];
        const float straight = xq[k] / qq[k];
        const int lower = det[k] > 0 && shift >= 0; /* else all codes are the same, or 0 is the best minimum */
        m[k] = lower ? shift : 0, d[k] = lower ? best : straight;
    }
    for (int i = 0; i < MLA_GROUP; i++)
        for (int k = 0; k < MLA__TRIES; k++) {
            const float e = d[k] * q[i][k] - m[k] - x[i];
            error[k] += e * e;
        }
    for (int k = 0; k < MLA__TRIES; k++)
        if (qq[k] > 0 && error[k] < least) least = error[k], scale = d[k], *min = m[k];
    return scale;
}

static float mla__search_scale_any(const float *x, int n) { return mla__try_scales(x, n, 32, 0); }
static float mla__search_list_any(const float *x, int n) { return mla__try_scales(x, n, 0, 1); }
static float mla__search_range_any(const float *x, int most, float *min) { return mla__try_ranges(x, most, min); }
static MLA__WIDE float mla__search_scale_wide(const float *x, int n) { return mla__try_scales(x, n, 32, 0); }
static MLA__WIDE float mla__search_list_wide(const float *x, int n) { return mla__try_scales(x, n, 0, 1); }
static MLA__WIDE float mla__search_range_wide(const float *x, int most, float *min) {
    return mla__try_ranges(x, most, min);
}
static int mla__is_wide(void) { return MLA__X86 && mla__cpu_isa() != MLA_ISA_SCALAR; }

static int mla__nearest_int(float v, int least, int most) { /* NaN gives least */
    return v > (float)most ? most : v >= (float)least ? (int)mla__whole(v) : least;
}
static float mla__put_half(unsigned char *b, float f) { /* and what it has become */
    const uint16_t h = mla_f32_to_f16(f);
    memcpy(b, &h, 2);
    return mla_f16_to_f32(h);
}
/* The bits of all codes of a block, into a block of zeros. */
static void mla__put_codes(const mla__format *f, unsigned char *b, const unsigned char *codes) {
    for (int plane = 0; plane < 2; plane++) {
        const mla__plane *p = plane ? &f->high : &f->low;
        const int per = p->bits ? 8 / p->bits : 0, down = plane ? f->low.bits : 0, mask = (1 << p->bits) - 1;
        for (int from = 0; per && from < f->block; from += per * p->run)
            for (int part = 0; part < per; part++) {
                const unsigned char *u = codes + from + part * p->run;
                unsigned char *to = b + p->at + from / per;
                for (int i = 0; i < p->run; i++)
                    to[i] = (unsigned char)(to[i] | (u[i] >> down & mask) << (part * p->bits));
            }
    }
}
/* Q4_K and Q5_K */
static void mla__quantize_k(mla_dtype t, unsigned char *b, const float *x) {
    const mla__format *f = &mla__formats[t];
    const int most = t == MLA_Q4_K ? 15 : 31, wide = mla__is_wide();
    unsigned char codes[256];
    float d[8], min[8], top = 0, top_min = 0;
    memset(b, 0, (size_t)f->bytes);
    for (int j = 0; j < 8; j++) {
        d[j] = (wide ? mla__search_range_wide : mla__search_range_any)(x + 32 * j, most, &min[j]);
        top = d[j] > top ? d[j] : top, top_min = min[j] > top_min ? min[j] : top_min;
    }
    const float unit = mla__put_half(b, top / 63), unit_min = mla__put_half(b + 2, top_min / 63);
    for (int j = 0; j < 8; j++) {
        const int s = unit > 0 ? mla__nearest_int(d[j] / unit, 0, 63) : 0;
        const int m = unit_min > 0 ? mla__nearest_int(min[j] / unit_min, 0, 63) : 0;
        const float scale = unit * (float)s, low = unit_min * (float)m;
        unsigned char *at = b + 4 + j;
        if (j < 4) at[0] = (unsigned char)(at[0] | s), at[4] = (unsigned char)(at[4] | m);
        else {
            at[4] = (unsigned char)((s & 15) | (m & 15) << 4);
            at[-4] = (unsigned char)(at[-4] | s >> 4 << 6), at[0] = (unsigned char)(at[0] | m >> 4 << 6);
        }
        for (int i = 32 * j; i < 32 * (j + 1); i++)
            codes[i] = (unsigned char)(scale > 0 ? mla__nearest_int((x[i] + low) / scale, 0, most) : 0);
    }
    mla__put_codes(f, b, codes);
}
static void mla__quantize_q6_k(unsigned char *b, const float *x) {
    const mla__format *f = &mla__formats[MLA_Q6_K];
    const int wide = mla__is_wide();
    unsigned char codes[256];
    float d[16], top = 0;
    memset(b, 0, (size_t)f->bytes);
    for (int j = 0; j < 16; j++) {
        d[j] = (wide ? mla__search_scale_wide : mla__search_scale_any)(x + 16 * j, 16);
        top = fabsf(d[j]) > fabsf(top) ? d[j] : top;
    }
    const float unit = mla__put_half(b + 208, top / -128);
    for (int j = 0; j < 16; j++) {
        const int s = unit != 0 ? mla__nearest_int(d[j] / unit, -128, 127) : 0;
        const float scale = unit * (float)s;
        b[192 + j] = (unsigned char)(s & 255);
        for (int i = 16 * j; i < 16 * (j + 1); i++)
            codes[i] = (unsigned char)(scale != 0 ? mla__nearest_int(x[i] / scale, -32, 31) + 32 : 32);
    }
    mla__put_codes(f, b, codes);
}
static void mla__quantize_iq4_nl(unsigned char *b, const float *x) {
    unsigned char codes[MLA_GROUP];
    memset(b, 0, 18);
    const float d = mla__put_half(b, (mla__is_wide() ? mla__search_list_wide : mla__search_list_any)(x, MLA_GROUP));
    for (int i = 0; i < MLA_GROUP; i++) codes[i] = (unsigned char)mla__nearest(mla__lists[0], d != 0 ? x[i] / d : 0);
    mla__put_codes(&mla__formats[MLA_IQ4_NL], b, codes);
}

mla_result mla_quantize(mla_dtype t, void *out, const float *x, size_t n, mla_error *err) {
    unsigned char *to = (unsigned char *)out;
    if (!out || !x) return MLA__REFUSE(err, "mla_quantize: %s is NULL", out ? "x" : "out");
    if (n % (size_t)mla_dtype_block(t))
        return MLA__REFUSE(err, "mla_quantize: %.0f elements, %s needs a multiple of %d", (double)n, mla_dtype_name(t),
                           mla_dtype_block(t));
    const size_t block = (size_t)mla_dtype_block(t), bytes = mla_dtype_bytes(t, block);
    mla__kernels k;
    mla__select(&k, MLA_ISA_AUTO);
    switch (t) {
    case MLA_F32:
    case MLA_F16:
    case MLA_BF16:
    case MLA_Q8: mla__narrow(t, out, x, (mla__sz)n); return MLA_OK;
    case MLA_Q4:
    case MLA_Q4_K:
    case MLA_Q5_K:
    case MLA_Q6_K:
    case MLA_IQ4_NL: break;
    default: return MLA__REFUSE(err, "mla_quantize: to %s is not offered", mla_dtype_name(t));
    }
    for (size_t i = 0; i < n; i += block, to += bytes) {
        if (t == MLA_Q4) mla__quantize_group(t, to, x + i, k.q4_scale(x + i));
        else if (t == MLA_Q6_K) mla__quantize_q6_k(to, x + i);
        else if (t == MLA_IQ4_NL) mla__quantize_iq4_nl(to, x + i);
        else mla__quantize_k(t, to, x + i);
    }
    return MLA_OK;
}

mla_result mla_repack(void *out, const mla_tensor *w, mla_error *err) {
    if (!out || !w || !w->data) return MLA__REFUSE(err, "mla_repack: %s is NULL", out ? "the tensor" : "out");
    const mla_dtype t = (unsigned)w->dtype < MLA_DTYPE_COUNT ? w->dtype : MLA_F32;
    const mla__format *f = &mla__formats[t];
    if (!mla__interleaves(t) || w->layout != MLA_LAYOUT_ROWS || w->rows < 1 || w->rows % 16 || w->cols < 1 ||
        w->cols % f->block)
        return MLA__REFUSE(err,
                           "mla_repack: %s [%d, %d], expected blocks of 4 bits or more a weight, rows a multiple of 16 "
                           "and columns of %d",
                           mla_dtype_name(w->dtype), w->rows, w->cols, f->block);
    const mla__sz blocks = w->cols / f->block;
    unsigned char *to = (unsigned char *)out;
    for (int row = 0; row < w->rows; row += 16)
        for (mla__sz j = 0; j < blocks; j++, to += 16 * f->bytes)
            for (int i = 0, unit; i < f->bytes; i += unit) {
                const unsigned char *from = (const unsigned char *)w->data + (row * blocks + j) * f->bytes + i;
                unit = mla__unit(f, i);
                for (int r = 0; r < 16; r++) memcpy(to + 16 * i + unit * r, from + r * blocks * f->bytes, (size_t)unit);
            }
    return MLA_OK;
}

/* ---- >>memory ---------------------------------------------------------------------------------------------------- */
/* Each object has one layout function that runs twice: with a null base it measures, then it carves. */

typedef struct mla__arena {
    char *base;
    size_t used;
} mla__arena;
#define MLA__ALIGN     64u
#define MLA__TOO_LARGE (SIZE_MAX / 4)
static void *mla__take(mla__arena *a, double count, size_t size) {
    const size_t at = a->used;
    if (count * (double)size > (double)(MLA__TOO_LARGE - MLA__ALIGN) - (double)a->used) {
        a->used = MLA__TOO_LARGE;
        return NULL;
    }
    a->used += ((size_t)count * size + MLA__ALIGN - 1) / MLA__ALIGN * MLA__ALIGN;
    return a->base ? a->base + at : NULL;
}
#define MLA__TAKE(arena, type, count) ((type *)mla__take((arena), (double)(count), sizeof(type)))

/* The object itself stands first in its memory. */
static void *mla__begin(mla__arena *a, void *memory, size_t size) {
    a->base = memory ? (char *)memory + (MLA__ALIGN - (size_t)((uintptr_t)memory % MLA__ALIGN)) % MLA__ALIGN : NULL;
    a->used = 0;
    return mla__take(a, 1, size);
}
static size_t mla__total(const mla__arena *a) { return a->used >= MLA__TOO_LARGE ? SIZE_MAX : a->used + MLA__ALIGN; }

/* Stands first in every object. */
typedef struct mla__object {
    mla_allocator alloc;
    void *memory; /* what destroy gives back; NULL: it is the caller's */
} mla__object;

/* How objects of a kind are made from a model (a model: from nothing but its desc) and a desc. */
typedef struct mla__kind {
    const char *name;
    mla_result (*check)(const mla_model *m, const void *desc, mla_error *err);
    void *(*layout)(const mla_model *m, const void *desc, void *memory, size_t *bytes); /* of what has been checked */
} mla__kind;

static size_t mla__object_size(const mla__kind *kind, const mla_model *m, const void *desc) {
    size_t bytes;
    if (kind->check(m, desc, NULL) != MLA_OK) return 0;
    kind->layout(m, desc, NULL, &bytes);
    return bytes;
}
/* *out = object; out points to a pointer of the object's own type. */
static void mla__object_give(void *out, void *object) { memcpy(out, &object, sizeof object); }
static mla_result mla__object_check(const mla__kind *kind, void *out, size_t *need, const mla_model *m,
                                    const void *desc, mla_error *err) {
    if (!out) return MLA__REFUSE(err, "%s: out is NULL", kind->name);
    mla__object_give(out, NULL);
    MLA__TRY(kind->check(m, desc, err));
    kind->layout(m, desc, NULL, need);
    return MLA_OK;
}
static mla_result mla__object_init(const mla__kind *kind, void *out, void *memory, size_t bytes, const mla_model *m,
                                   const void *desc, mla_error *err) {
    size_t need;
    MLA__TRY(mla__object_check(kind, out, &need, m, desc, err));
    if (!memory) return MLA__REFUSE(err, "mla_%s_init: memory is NULL", kind->name);
    if (bytes < need)
        return mla__fail(err, MLA_ERR_MEMORY, "mla_%s_init: %.0f bytes given, %.0f needed", kind->name, (double)bytes,
                         (double)need);
    mla__object_give(out, kind->layout(m, desc, memory, &need));
    return MLA_OK;
}
static mla_result mla__object_create(const mla__kind *kind, void *out, const mla_allocator *alloc, const mla_model *m,
                                     const void *desc, mla_error *err) {
    size_t bytes;
    void *memory = NULL;
    MLA__TRY(mla__object_check(kind, out, &bytes, m, desc, err));
    if (bytes != SIZE_MAX) memory = alloc && alloc->alloc ? alloc->alloc(alloc->user, bytes) : malloc(bytes);
    if (!memory) return mla__fail(err, MLA_ERR_MEMORY, "%s: no memory for %.0f bytes", kind->name, (double)bytes);
    mla__object *object = (mla__object *)kind->layout(m, desc, memory, &bytes);
    if (alloc) object->alloc = *alloc;
    object->memory = memory;
    mla__object_give(out, object);
    return MLA_OK;
}
static void mla__object_destroy(void *object) {
    if (!object) return;
    const mla__object o = *(const mla__object *)object; /* it lies in the memory that goes */
    if (o.memory && o.alloc.alloc) o.alloc.free(o.alloc.user, o.memory);
    else free(o.memory);
}

/* mla_X_size, _init and _create of what is made from a model and a desc. */
#define MLA__OBJECT(X)                                                                                                 \
    static const mla__kind mla__##X##_kind = {#X, mla__##X##_check, mla__##X##_layout};                                \
    size_t mla_##X##_size(const mla_model *m, const mla_##X##_desc *d) {                                               \
        return mla__object_size(&mla__##X##_kind, m, d);                                                               \
    }                                                                                                                  \
    mla_result mla_##X##_init(mla_##X **out, void *memory, size_t bytes, const mla_model *m, const mla_##X##_desc *d,  \
                              mla_error *err) {                                                                        \
        return mla__object_init(&mla__##X##_kind, out, memory, bytes, m, d, err);                                      \
    }                                                                                                                  \
    mla_result mla_##X##_create(mla_##X **out, const mla_model *m, const mla_##X##_desc *d, mla_error *err) {          \
        return mla__object_create(&mla__##X##_kind, out, d ? &d->alloc : NULL, m, d, err);                             \
    }

/* ---- >>presets --------------------------------------------------------------------------------------------------- */
/* The sizes of a model are a row of a table; the rest is what it has in another way than DeepSeek-V3. */

static void mla__as_v3(mla_config *c) {
    c->block_norm.eps = 1e-6f;
    c->rope.scaling = MLA_ROPE_YARN, c->rope.theta = 1e4f, c->rope.factor = 40, c->rope.beta_fast = 32;
    c->rope.mscale = c->rope.mscale_all_dim = 1;
    c->rope.max_position_embeddings = 163840, c->rope.original_max_position_embeddings = 4096;
    if (c->n_routed_experts == 0) return;
    c->n_group = 8, c->topk_group = 4, c->norm_topk_prob = 1;
    c->topk_method = MLA_TOPK_NOAUX_TC, c->scoring_func = MLA_SCORING_SIGMOID;
}
static void mla__preset_unscaled(mla_config *c, float theta, int max_positions) {
    memset(&c->rope, 0, sizeof c->rope);
    c->rope.theta = theta, c->rope.max_position_embeddings = max_positions;
}
static void mla__preset_sparse(mla_config *c, int heads, mla_rope_layout layout) {
    c->index_topk = 2048, c->index_n_heads = heads, c->index_head_dim = 128, c->index_rope = layout;
}
static void mla__as_v2(mla_config *c) {
    c->rope.mscale = c->rope.mscale_all_dim = 0.707f;
    c->topk_group = 3, c->norm_topk_prob = 0;
    c->topk_method = MLA_TOPK_GROUP_LIMITED_GREEDY, c->scoring_func = MLA_SCORING_SOFTMAX;
}
static void mla__as_v2_lite(mla_config *c) {
    mla__as_v2(c);
    c->n_group = c->topk_group = 1, c->topk_method = MLA_TOPK_GREEDY;
}
static void mla__as_kimi(mla_config *c) {
    c->n_group = c->topk_group = 1;
    c->rope.theta = 5e4f, c->rope.factor = 32, c->rope.beta_fast = 1, c->rope.max_position_embeddings = 131072;
}
static void mla__as_longcat(mla_config *c) {
    mla__preset_unscaled(c, 1e7f, 131072);
    c->block_norm.eps = 1e-5f, c->q_scale = 2, c->latent_scale = 3.46410162f;
    c->n_group = c->topk_group = 1, c->norm_topk_prob = 0, c->zero_expert_num = 256;
    c->topk_method = MLA_TOPK_GREEDY, c->scoring_func = MLA_SCORING_SOFTMAX;
}
static void mla__as_minicpm(mla_config *c) {
    mla__preset_unscaled(c, 1e4f, 32768);
    c->rope.layout = MLA_ROPE_HALF, c->rope.scaling = MLA_ROPE_LONGROPE;
    c->rope.original_max_position_embeddings = 32768, c->block_norm.eps = 1e-5f;
    c->embed_scale = 12, c->residual_scale = 0.177800178f, c->logits_scale = 0.1f; /* 1.4 / sqrt(62), 256 / 2560 */
}
static void mla__as_v32(mla_config *c) { mla__preset_sparse(c, 64, MLA_ROPE_HALF); }
static void mla__as_glm(mla_config *c) {
    mla__preset_unscaled(c, 1e4f, 202752);
    c->n_group = c->topk_group = 1, c->block_norm.eps = 1e-5f;
}
static void mla__as_dsa(mla_config *c) {
    mla__as_glm(c);
    mla__preset_sparse(c, 32, MLA_ROPE_PAIR);
}
static void mla__as_mistral(mla_config *c) {
    c->n_group = c->topk_group = 1, c->scoring_func = MLA_SCORING_SOFTMAX;
    c->rope.factor = 128, c->rope.max_position_embeddings = 1048576, c->rope.original_max_position_embeddings = 8192;
    c->temperature_beta = 0.1f, c->temperature_period = 8192;
}
static void mla__as_youtu(mla_config *c) { mla__preset_unscaled(c, 1e4f, 131072); }
static void mla__as_axk1(mla_config *c) { mla__preset_unscaled(c, 1e4f, 32768); }
static void mla__as_kda(mla_config *c) {
    mla__preset_unscaled(c, 1e4f, 0);
    c->rope.layout = MLA_ROPE_NONE, c->n_group = c->topk_group = 1, c->block_norm.eps = 1e-5f;
    c->linear_num_heads = 32, c->linear_head_dim = 128;
}

typedef struct mla__preset {
    const char *name;
    int vocab, D, layers, dense, H, Q, R, N, P, V, E, K, inter, shared; /* widths: of dense layers, of experts */
    float scale;                                                        /* of what experts give */
    void (*as)(mla_config *c);
} mla__preset;

/* clang-format off */
static const mla__preset mla__presets[] = {
    /* name               vocab     D   L  dense    H     Q    R    N   P    V    E   K inter + scale */
    {"deepseek-v2-lite", 102400, 2048, 27, 10944,  16,    0, 512, 128, 64, 128,  64,  6, 1408, 2, 1, mla__as_v2_lite},
    {"deepseek-v2",      102400, 5120, 60, 12288, 128, 1536, 512, 128, 64, 128, 160,  6, 1536, 2, 16, mla__as_v2},
    {"deepseek-v3",      129280, 7168, 61, 18432, 128, 1536, 512, 128, 64, 128, 256,  8, 2048, 1, 2.5f, mla__as_v3},
    {"kimi-k2",          163840, 7168, 61, 18432,  64, 1536, 512, 128, 64, 128, 384,  8, 2048, 1, 2.827f, mla__as_kimi},
    {"longcat-flash",    131072, 6144, 56, 12288,  64, 1536, 512, 128, 64, 128, 512, 12, 2048, 0, 6, mla__as_longcat},
    {"minicpm3",          73448, 2560, 62,  6400,  40,  768, 256,  64, 32,  64,   0,  0,    0, 0, 0, mla__as_minicpm},
    {"deepseek-v32",     129280, 7168, 61, 18432, 128, 1536, 512, 128, 64, 128, 256,  8, 2048, 1, 2.5f, mla__as_v32},
    {"glm4-moe-lite",    154880, 2048, 47, 10240,  20,  768, 512, 192, 64, 256,  64,  4, 1536, 1, 1.8f, mla__as_glm},
    {"glm-moe-dsa",      154880, 6144, 78, 12288,  64, 2048, 512, 192, 64, 256, 256,  8, 2048, 1, 2.5f, mla__as_dsa},
    {"mistral4",         131072, 4096, 36, 12288,  32, 1024, 256,  64, 64, 128, 128,  4, 2048, 1, 1, mla__as_mistral},
    {"youtu",            128256, 2048, 32,  6144,  16, 1536, 512, 128, 64, 128,   0,  0,    0, 0, 0, mla__as_youtu},
    {"axk1",             163840, 7168, 61, 18432,  64, 1536, 512, 128, 64, 128, 192,  8, 2048, 1, 2.5f, mla__as_axk1},
    {"kimi-linear",      163840, 2304, 27,  9216,  32,    0, 512, 128, 64, 128, 256,  8, 1024, 1, 2.446f, mla__as_kda},
};
/* clang-format on */

static void mla__preset_fill(mla_config *c, const mla__preset *p) {
    c->vocab_size = p->vocab, c->hidden_size = p->D, c->num_hidden_layers = p->layers;
    c->intermediate_size = p->dense, c->num_attention_heads = p->H, c->q_lora_rank = p->Q, c->kv_lora_rank = p->R;
    c->qk_nope_head_dim = p->N, c->qk_rope_head_dim = p->P, c->v_head_dim = p->V;
    c->n_routed_experts = p->E, c->num_experts_per_tok = p->K, c->moe_intermediate_size = p->inter;
    c->n_shared_experts = p->shared, c->routed_scaling_factor = p->scale;
    mla__as_v3(c);
    p->as(c);
}

mla_result mla_config_preset(mla_config *out, const char *name, mla_error *err) {
    char known[160] = "";
    if (!out || !name) return MLA__REFUSE(err, "mla_config_preset: %s is NULL", out ? "name" : "out");
    memset(out, 0, sizeof *out);
    for (size_t i = 0; i < sizeof mla__presets / sizeof *mla__presets; i++) {
        const mla__preset *p = &mla__presets[i];
        if (!strcmp(p->name, name)) {
            mla__preset_fill(out, p);
            return MLA_OK;
        }
        snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", p->name);
    }
    return mla__fail(err, MLA_ERR_UNSUPPORTED, "mla_config_preset: no \"%.40s\", only %s", name, known);
}

/* ---- >>config-check ---------------------------------------------------------------------------------------------- */
/* Everything is checked here and in >>weights-check, so that nothing after it can fail. */

#define MLA__DIM_MAX (1 << 24)
/* What a config has; a size must be above 0 if it belongs to one of these. */
enum {
    MLA__WITHOUT = 0,
    MLA__ALWAYS = 1,
    MLA__ATTN = 2,
    MLA__MOE = 4,
    MLA__SPARSE = 8,
    MLA__HEAT = 16,
    MLA__LINEAR = 32,
    MLA__NGRAM = 64
};

typedef struct mla__field {
    size_t at; /* in mla_config */
    const char *name;
    int of, real; /* real: a float, else an int or an enumeration, which are read as ints */
    double most, standard;
} mla__field;
typedef char mla__enums_are_ints[sizeof(mla_norm_kind) == sizeof(int) ? 1 : -1];

#define MLA__INT(field, of, most, standard)                                                                            \
    { offsetof(mla_config, field), #field, of, 0, most, standard }
#define MLA__SIZE(field, of)            MLA__INT(field, of, MLA__DIM_MAX, 0)
#define MLA__COUNT(field, of, standard) MLA__INT(field, of, 65536, standard)
#define MLA__ENUM(field, last)          MLA__INT(field, 0, last, 0)
#define MLA__POSITION(field, of)        MLA__INT(field, of, INT32_MAX, 0)
#define MLA__REAL(field, standard)                                                                                     \
    { offsetof(mla_config, field), #field, 0, 1, 3.0e38, standard }

/* clang-format off */
static const mla__field mla__fields[] = {
    MLA__SIZE(hidden_size, MLA__ALWAYS), MLA__COUNT(num_hidden_layers, MLA__ALWAYS, 0),
    MLA__COUNT(num_nextn_predict_layers, 0, 0), MLA__SIZE(vocab_size, 0), MLA__SIZE(intermediate_size, 0),
    MLA__COUNT(num_attention_heads, 0, 0), MLA__SIZE(q_lora_rank, 0), MLA__SIZE(kv_lora_rank, MLA__ATTN),
    MLA__SIZE(qk_nope_head_dim, MLA__ATTN), MLA__SIZE(qk_rope_head_dim, 0), MLA__SIZE(v_head_dim, MLA__ATTN),
    MLA__ENUM(mask, MLA_MASK_NONE), MLA__REAL(softmax_scale, 0), MLA__REAL(q_scale, 1), MLA__REAL(latent_scale, 1),
    MLA__ENUM(q_twice, 1), MLA__ENUM(q_gate, 1), MLA__SIZE(norm_gate_rank, 0),
    MLA__REAL(temperature_beta, 0), MLA__POSITION(temperature_period, MLA__HEAT),
    MLA__REAL(embed_scale, 1), MLA__REAL(residual_scale, 1), MLA__REAL(logits_scale, 1),
    MLA__COUNT(emb_neighbor_num, 0, 0), MLA__COUNT(emb_split_num, MLA__NGRAM, 0),
    MLA__INT(hc_mult, 0, 64, 1), MLA__REAL(hc_eps, 0), MLA__REAL(hc_magnitude, 0), MLA__REAL(swiglu_limit, 0),
    MLA__COUNT(n_routed_experts, 0, 0), MLA__COUNT(zero_expert_num, 0, 0), MLA__SIZE(num_experts_per_tok, MLA__MOE),
    MLA__SIZE(moe_intermediate_size, MLA__MOE), MLA__COUNT(n_shared_experts, 0, 0),
    MLA__COUNT(n_group, 0, 1), MLA__COUNT(topk_group, 0, 1), MLA__ENUM(topk_method, MLA_TOPK_NOAUX_ZERO),
    MLA__ENUM(scoring_func, MLA_SCORING_SIGMOID), MLA__REAL(routed_scaling_factor, 1),
    MLA__ENUM(q_norm.kind, MLA_NORM_NONE), MLA__REAL(q_norm.eps, 1e-6),
    MLA__ENUM(kv_norm.kind, MLA_NORM_NONE), MLA__REAL(kv_norm.eps, 1e-6),
    MLA__ENUM(block_norm.kind, MLA_NORM_NONE), MLA__REAL(block_norm.eps, 1e-6),
    MLA__ENUM(rope.layout, MLA_ROPE_NONE), MLA__ENUM(rope.scaling, MLA_ROPE_LONGROPE),
    MLA__POSITION(rope.max_position_embeddings, 0), MLA__POSITION(rope.original_max_position_embeddings, 0),
    MLA__POSITION(rope.length, 0), MLA__REAL(rope.theta, 10000), MLA__REAL(rope.factor, 0),
    MLA__REAL(rope.beta_fast, 32), MLA__REAL(rope.beta_slow, 1), MLA__REAL(rope.mscale, 0),
    MLA__REAL(rope.mscale_all_dim, 0), MLA__REAL(rope.attention_factor, 0),
    MLA__SIZE(index_topk, 0), MLA__ENUM(index_rope, MLA_ROPE_NONE), MLA__COUNT(index_n_heads, MLA__SPARSE, 0),
    MLA__SIZE(index_head_dim, MLA__SPARSE), MLA__ENUM(index_rope_last, 1), MLA__REAL(index_norm_eps, 1e-6),
    MLA__COUNT(linear_num_heads, 0, 0), MLA__COUNT(linear_head_dim, MLA__LINEAR, 0),
    MLA__INT(linear_conv_kernel_dim, 0, 64, 4),
};
/* clang-format on */

#define MLA__BAD_FIELD(err, ...) mla__fail(err, MLA_ERR_CONFIG, "config." __VA_ARGS__)
static mla_result mla__in_range(mla_error *err, const char *name, int v, int least, int most) {
    if (v >= least && v <= most) return MLA_OK;
    return MLA__BAD_FIELD(err, "%s: %d, must be %d to %d", name, v, least, most);
}
static mla_result mla__at_least(mla_error *err, const char *name, float v, float least) {
    if (v >= least && v <= 3.0e38f) return MLA_OK;
    return MLA__BAD_FIELD(err, "%s: %g, must be a finite number not below %g", name, (double)v, (double)least);
}
/* Each field by itself; then defaults take the place of zeros. */
static mla_result mla__check_fields(mla_config *c, mla_error *err) {
    const int has = MLA__ALWAYS | (c->num_attention_heads ? MLA__ATTN : 0) | (c->n_routed_experts ? MLA__MOE : 0) |
                    (c->index_topk > 0 ? MLA__SPARSE : 0) | (c->temperature_beta > 0 ? MLA__HEAT : 0) |
                    (c->emb_neighbor_num > 0 ? MLA__NGRAM : 0) | (c->linear_num_heads ? MLA__LINEAR : 0);
    for (size_t i = 0; i < sizeof mla__fields / sizeof *mla__fields; i++) {
        const mla__field *f = &mla__fields[i];
        char *at = (char *)c + f->at;
        float real;
        int v;
        memcpy(&real, at, sizeof real), memcpy(&v, at, sizeof v);
        MLA__TRY(f->real ? mla__at_least(err, f->name, real, 0)
                         : mla__in_range(err, f->name, v, (f->of & has) != 0, (int)f->most));
        if (f->real ? real != 0 : v != 0) continue;
        real = (float)f->standard, v = (int)f->standard;
        memcpy(at, f->real ? (const void *)&real : (const void *)&v, sizeof v);
    }
    return MLA_OK;
}

/* Yarn's g (arXiv 2309.00071, section 3.4, as DeepSeek uses it). */
static double mla__yarn_g(double factor, double m) { return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1; }
static int mla__rotates(const mla_rope *r, int P) { return P > 0 && r->layout != MLA_ROPE_NONE; }
static float mla__rope_amplitude(const mla_rope *r, int P) {
    const double f = (double)r->factor, M = r->original_max_position_embeddings;
    const double m = (double)r->mscale, all = (double)r->mscale_all_dim;
    if (r->inv_freq || !mla__rotates(r, P) || (r->scaling != MLA_ROPE_YARN && r->scaling != MLA_ROPE_LONGROPE))
        return 1;
    if (r->attention_factor != 0) return r->attention_factor;
    if (r->scaling == MLA_ROPE_YARN)
        return (float)(m != 0 && all != 0 ? mla__yarn_g(f, m) / mla__yarn_g(f, all) : mla__yarn_g(f, 1));
    return f > 1 ? (float)sqrt(1 + log(f) / log(M)) : 1;
}

/* The dimensions between which yarn goes over from the frequencies as they are to scaled ones. */
static void mla__yarn_range(const mla_rope *r, int P, double *from, double *to) {
    const double M = r->original_max_position_embeddings, theta = (double)r->theta;
    const double pi = 3.14159265358979323846, a = (double)r->beta_fast, b = (double)r->beta_slow;
    double lo = P * log(M / (a * 2 * pi)) / (2 * log(theta)), hi = P * log(M / (b * 2 * pi)) / (2 * log(theta));
    if (!r->no_truncate) lo = floor(lo), hi = ceil(hi);
    lo = lo > 0 ? lo : 0, hi = hi < P - 1 ? hi : P - 1;
    *from = lo, *to = lo == hi ? hi + 0.001 : hi;
}

/* The inverse frequency of pair i; defaults are resolved. */
static float mla__rope_inv(const mla_rope *r, int P, int i) {
    const int M = r->original_max_position_embeddings, n = r->length > M ? r->length : M;
    const double f = (double)r->factor;
    double theta = (double)r->theta;
    if (r->inv_freq) return r->inv_freq[i];
    if (!mla__rotates(r, P)) return 0;
    if (r->scaling == MLA_ROPE_DYNAMIC && P > 2) theta *= pow(f * n / M - (f - 1), (double)P / (P - 2));
    const double v = pow(theta, -2.0 * i / P);
    if (r->scaling == MLA_ROPE_LINEAR) return (float)(v / f);
    if (r->scaling == MLA_ROPE_LONGROPE)
        return (float)(v / (double)(r->length > M ? r->long_factor : r->short_factor)[i]);
    if (r->scaling == MLA_ROPE_YARN) {
        double lo, hi;
        mla__yarn_range(r, P, &lo, &hi);
        const double ramp = (i - lo) / (hi - lo), part = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        return (float)(v / f * part + v * (1 - part));
    }
    return (float)v;
}

/* What the scaling of a rope that rotates needs. */
static mla_result mla__check_scaling(const mla_rope *r, int P, mla_error *err) {
    const int M = r->original_max_position_embeddings;
    if (r->scaling == MLA_ROPE_DEFAULT) return MLA_OK;
    MLA__TRY(mla__at_least(err, "rope.factor", r->factor, 1));
    if (r->scaling == MLA_ROPE_LINEAR) return MLA_OK;
    MLA__TRY(mla__in_range(err, "rope.original_max_position_embeddings", M, 1, INT32_MAX));
    if (r->scaling == MLA_ROPE_YARN && !(r->theta > 1))
        return MLA__BAD_FIELD(err, "rope.theta: %g, yarn needs more than 1", (double)r->theta);
    if (r->scaling != MLA_ROPE_LONGROPE) return MLA_OK;
    const int longer = r->length > M;
    const float *f = longer ? r->long_factor : r->short_factor;
    const char *name = longer ? "long_factor" : "short_factor";
    if (!f) return MLA__BAD_FIELD(err, "rope.%s: missing, longrope needs it at length %d", name, r->length);
    for (int i = 0; i < P / 2; i++)
        if (!(f[i] > 0 && f[i] < 3.0e38f))
            return MLA__BAD_FIELD(err, "rope.%s[%d]: %g, must be finite and above 0", name, i, (double)f[i]);
    return MLA_OK;
}

static mla_result mla__check_rope(mla_rope *r, int P, mla_error *err) {
    const int most = r->max_position_embeddings;
    if (P % 2 && r->layout != MLA_ROPE_NONE)
        return MLA__BAD_FIELD(err, "qk_rope_head_dim: %d is odd, rotation needs pairs", P);
    if (r->original_max_position_embeddings == 0) r->original_max_position_embeddings = most;
    if (r->length == 0) r->length = most;
    if (r->factor == 0 && r->scaling == MLA_ROPE_LONGROPE && r->original_max_position_embeddings > 0)
        r->factor = (float)fmax(1, (double)most / r->original_max_position_embeddings);
    if (r->factor == 0) r->factor = 1;
    if (r->inv_freq) r->scaling = MLA_ROPE_DEFAULT; /* they are final: neither they nor the softmax are scaled */
    if (!mla__rotates(r, P)) return MLA_OK;
    if (!r->inv_freq) MLA__TRY(mla__check_scaling(r, P, err));
    const float amplitude = mla__rope_amplitude(r, P);
    for (int i = 0; i < P / 2; i++) {
        const float inv = mla__rope_inv(r, P, i);
        if (!(fabsf(inv) < 3.0e38f) || !(amplitude < 3.0e38f))
            return MLA__BAD_FIELD(err, "rope: inverse frequency %d is %g, amplitude %g", i, (double)inv,
                                  (double)amplitude);
    }
    return MLA_OK;
}
static mla_result mla__check_indexer(mla_config *c, mla_error *err) {
    const int P = c->qk_rope_head_dim;
    if (c->rope.layout == MLA_ROPE_NONE) c->index_rope = MLA_ROPE_NONE;
    if (c->index_topk == 0) return MLA_OK;
    MLA__TRY(mla__in_range(err, "index_head_dim", c->index_head_dim, mla__max(1, P), MLA__DIM_MAX));
    if (c->q_lora_rank > 0) return MLA_OK;
    return MLA__BAD_FIELD(err, "q_lora_rank: 0, but with index_topk %d an indexer takes its queries from that latent",
                          c->index_topk);
}

static mla_result mla__check_linear(const mla_config *c, mla_error *err) {
    if (!(c->kda_lower_bound <= 0 && c->kda_lower_bound >= -3.0e38f))
        return MLA__BAD_FIELD(err, "kda_lower_bound: %g, must be a finite number not above 0",
                              (double)c->kda_lower_bound);
    return MLA_OK;
}

/* What the router chooses from. */
static int mla__choices(const mla_config *c) { return c->n_routed_experts + c->zero_expert_num; }
static mla_result mla__check_experts(const mla_config *c, mla_error *err) {
    const int n = mla__choices(c), per = n / c->n_group, K = c->num_experts_per_tok;
    if (c->n_routed_experts == 0) return mla__in_range(err, "zero_expert_num", c->zero_expert_num, 0, 0);
    MLA__TRY(mla__in_range(err, "num_experts_per_tok", K, 1, n));
    if (n % c->n_group)
        return MLA__BAD_FIELD(err, "n_group: %d does not divide n_routed_experts%s %d", c->n_group,
                              c->zero_expert_num ? " + zero_expert_num" : "", n);
    if (c->topk_group > c->n_group)
        return MLA__BAD_FIELD(err, "topk_group: %d is more than n_group %d", c->topk_group, c->n_group);
    if (c->topk_method != MLA_TOPK_GREEDY && K > (double)c->topk_group * per)
        return MLA__BAD_FIELD(err, "num_experts_per_tok: %d, but topk_group %d of n_group %d leave %d experts", K,
                              c->topk_group, c->n_group, c->topk_group * per);
    if (c->topk_method >= MLA_TOPK_NOAUX_TC && c->n_group > 1 && per < 2)
        return MLA__BAD_FIELD(err, "n_group: %d leaves groups of one expert, noaux_tc adds the best two of each",
                              c->n_group);
    return MLA_OK;
}

static mla_result mla__check_products(const mla_config *c, mla_error *err) {
    const double H = c->num_attention_heads, N = c->qk_nope_head_dim, inter = c->moe_intermediate_size;
    const struct {
        const char *name;
        double value;
    } products[] = {{"num_attention_heads * (qk_nope_head_dim + qk_rope_head_dim + v_head_dim)",
                     H * (N + c->qk_rope_head_dim + c->v_head_dim)},
                    {"num_attention_heads * kv_lora_rank", H * c->kv_lora_rank},
                    {"hc_mult * hidden_size", (double)c->hc_mult * c->hidden_size},
                    {"n_shared_experts * moe_intermediate_size", c->n_shared_experts * inter},
                    {"(num_experts_per_tok + n_shared_experts) * moe_intermediate_size",
                     ((double)c->num_experts_per_tok + c->n_shared_experts) * inter},
                    {"index_n_heads * index_head_dim", (double)c->index_n_heads * c->index_head_dim},
                    {"linear_num_heads * linear_head_dim * (linear_head_dim + 3 * linear_conv_kernel_dim)",
                     (double)c->linear_num_heads * c->linear_head_dim *
                         ((double)c->linear_head_dim + 3.0 * c->linear_conv_kernel_dim)}};
    for (int i = 0; i < 6; i++)
        if (products[i].value > INT32_MAX)
            return mla__fail(err, MLA_ERR_CONFIG, "config: %s = %.0f does not fit in 31 bits", products[i].name,
                             products[i].value);
    return MLA_OK;
}
static mla_result mla__check_softmax(mla_config *c, mla_error *err) {
    const double all = (double)c->rope.mscale_all_dim, dim = (double)c->qk_nope_head_dim + c->qk_rope_head_dim;
    const double g = c->rope.scaling == MLA_ROPE_YARN && all != 0 ? mla__yarn_g((double)c->rope.factor, all) : 1;
    const double scale = g * g / sqrt(dim);
    if (c->num_attention_heads == 0 || c->softmax_scale != 0) return MLA_OK;
    if (!(scale < 3.0e38)) return MLA__BAD_FIELD(err, "rope.mscale_all_dim: %g makes softmax_scale %g", all, scale);
    c->softmax_scale = (float)scale;
    return MLA_OK;
}

static mla_result mla__check_query(const mla_config *c, mla_error *err) {
    if (!c->q_twice || c->q_lora_rank > 0) return MLA_OK;
    return MLA__BAD_FIELD(err, "q_twice: 1, but q_lora_rank is 0: there is no latent of queries");
}

/* Tables of n-gram embeddings, and their columns. */
static int mla__ngrams(const mla_config *c) {
    return c->emb_neighbor_num > 0 ? c->emb_split_num * (c->emb_neighbor_num - 1) : 0;
}
static int mla__ngram_width(const mla_config *c) { return mla__ngrams(c) ? c->hidden_size / mla__ngrams(c) : 0; }
static mla_result mla__check_ngrams(const mla_config *c, mla_error *err) {
    if (c->emb_neighbor_num == 0) return MLA_OK;
    MLA__TRY(mla__in_range(err, "emb_neighbor_num", c->emb_neighbor_num, 2, 64));
    MLA__TRY(mla__in_range(err, "vocab_size", c->vocab_size, 1, MLA__DIM_MAX));
    MLA__TRY(mla__in_range(err, "emb_split_num", c->emb_split_num, 1, c->hidden_size));
    if (c->hidden_size % mla__ngrams(c))
        return MLA__BAD_FIELD(err, "emb_split_num: %d tables, no divisor of hidden_size %d", mla__ngrams(c),
                              c->hidden_size);
    if (c->num_nextn_predict_layers == 0) return MLA_OK;
    return MLA__BAD_FIELD(err,
                          "num_nextn_predict_layers: %d, but with n-gram embeddings there is no way to predict ahead",
                          c->num_nextn_predict_layers);
}
static mla_result mla__check_streams(const mla_config *c, mla_error *err) {
    if (c->hc_mult == 1) return MLA_OK;
    if (c->num_nextn_predict_layers > 0)
        return MLA__BAD_FIELD(err, "num_nextn_predict_layers: %d, but with hc_mult %d there is no way to predict ahead",
                              c->num_nextn_predict_layers, c->hc_mult);
    return mla__at_least(err, "hc_magnitude", c->hc_magnitude, 1e-37f);
}

/* Checks c and resolves its defaults in place. */
static mla_result mla__check_config(mla_config *c, mla_error *err) {
    MLA__TRY(mla__check_fields(c, err));
    MLA__TRY(mla__check_products(c, err));
    MLA__TRY(mla__check_rope(&c->rope, c->qk_rope_head_dim, err));
    MLA__TRY(mla__check_query(c, err));
    MLA__TRY(mla__check_ngrams(c, err));
    MLA__TRY(mla__check_streams(c, err));
    MLA__TRY(mla__check_indexer(c, err));
    MLA__TRY(mla__check_linear(c, err));
    MLA__TRY(mla__check_experts(c, err));
    return mla__check_softmax(c, err);
}

/* ---- >>weights-check --------------------------------------------------------------------------------------------- */

/* Of a head, what q_b (q) gives: [nope | rope], and a gate; and what q_b takes. */
static int mla__query_width(const mla_config *c) {
    return c->qk_nope_head_dim + c->qk_rope_head_dim + (c->q_gate ? c->v_head_dim : 0);
}
static int mla__latents(const mla_config *c) { return c->q_lora_rank * (c->q_twice ? 2 : 1); }

/* Sizes that tensors have. A tensor with a size of 0 has no place in this model. */
typedef struct mla__sizes {
    int one, vocab, D, two_D, N, R, Q, query, whole_query, latents; /* whole_query: of a query made by one matrix */
    int kv_a, kv_b, k_b, v_b, o, heads, gate, inner, choices; /* kv_b or k_b and v_b, gate, inner: of what is looked
                                                                 at */
    int index_query, index_heads, index_key;
    int lin, lin_heads, lin_key, conv, f_rank, f_in, g_rank, g_in; /* f_rank on: of what is looked at */
    int hc_rows, hc_cols, hc_scales; /* of what is looked at: 2m, mD, 2, or for the head m, mD, 1 */
    int ngram_rows, ngram;           /* the first of what is looked at */
} mla__sizes;
/* The struct that a tensor lies in. */
enum {
    MLA__IN_MODEL,
    MLA__IN_MTP,
    MLA__IN_LAYER,
    MLA__IN_ATTN,
    MLA__IN_INDEXER,
    MLA__IN_KDA,
    MLA__IN_MLP,
    MLA__IN_MOE,
    MLA__IN_HC,
    MLA__IN_NGRAM
};
/* A matrix (HEAD: one that meets activations; PLAIN: without blocks and scales), a vector, an mla_linear, or an
   mla_norm_weights by its config. */
enum { MLA__IS_MATRIX, MLA__IS_HEAD, MLA__IS_PLAIN, MLA__IS_VECTOR, MLA__IS_LINEAR, MLA__IS_NORM };
enum { MLA__IS_Q_NORM = MLA__IS_NORM + 1, MLA__IS_KV_NORM, MLA__IS_K_NORM };
enum { MLA__FREE, MLA__CALLED, MLA__NEEDED }; /* CALLED: may be absent, but calls on the layer ask for it */

typedef struct mla__entry {
    size_t at; /* in its struct */
    const char *name;
    int in, is, need;
    size_t rows, cols; /* in mla__sizes */
} mla__entry;

#define MLA__TENSOR(in, type, field, is, need, rows, cols)                                                             \
    {                                                                                                                  \
        offsetof(type, field), #field, MLA__IN_##in, MLA__IS_##is, MLA__##need, offsetof(mla__sizes, rows),            \
            offsetof(mla__sizes, cols)                                                                                 \
    }

static const mla__entry mla__tensors[] = {
    MLA__TENSOR(MODEL, mla_weights, embed, MATRIX, FREE, vocab, D),
    MLA__TENSOR(MODEL, mla_weights, head, HEAD, FREE, vocab, D),
    MLA__TENSOR(MODEL, mla_weights, norm, NORM, FREE, one, D),
    MLA__TENSOR(MTP, mla_mtp_weights, eh_proj, LINEAR, CALLED, D, two_D),
    MLA__TENSOR(MTP, mla_mtp_weights, embed, MATRIX, CALLED, vocab, D),
    MLA__TENSOR(MTP, mla_mtp_weights, enorm, NORM, CALLED, one, D),
    MLA__TENSOR(MTP, mla_mtp_weights, hnorm, NORM, CALLED, one, D),
    MLA__TENSOR(MTP, mla_mtp_weights, norm, NORM, CALLED, one, D),
    MLA__TENSOR(MTP, mla_mtp_weights, head, HEAD, FREE, vocab, D),
    MLA__TENSOR(LAYER, mla_layer_weights, attn_norm, NORM, CALLED, one, D),
    MLA__TENSOR(LAYER, mla_layer_weights, ffn_norm, NORM, CALLED, one, D),
    MLA__TENSOR(LAYER, mla_layer_weights, attn_out_norm, NORM, FREE, one, D),
    MLA__TENSOR(LAYER, mla_layer_weights, ffn_out_norm, NORM, FREE, one, D),
    MLA__TENSOR(ATTN, mla_attn_weights, q, LINEAR, NEEDED, whole_query, D),
    MLA__TENSOR(ATTN, mla_attn_weights, q_a, LINEAR, NEEDED, Q, D),
    MLA__TENSOR(ATTN, mla_attn_weights, q_b, LINEAR, NEEDED, query, latents),
    MLA__TENSOR(ATTN, mla_attn_weights, q_norm, Q_NORM, NEEDED, one, Q),
    MLA__TENSOR(ATTN, mla_attn_weights, kv_a, LINEAR, NEEDED, kv_a, D),
    MLA__TENSOR(ATTN, mla_attn_weights, kv_b, LINEAR, NEEDED, kv_b, R),
    MLA__TENSOR(ATTN, mla_attn_weights, k_b, MATRIX, NEEDED, k_b, N),
    MLA__TENSOR(ATTN, mla_attn_weights, v_b, MATRIX, NEEDED, v_b, R),
    MLA__TENSOR(ATTN, mla_attn_weights, o, LINEAR, NEEDED, D, o),
    MLA__TENSOR(ATTN, mla_attn_weights, gate, LINEAR, FREE, gate, D),
    MLA__TENSOR(ATTN, mla_attn_weights, sinks, VECTOR, FREE, one, heads),
    MLA__TENSOR(ATTN, mla_attn_weights, kv_norm, KV_NORM, NEEDED, one, R),
    MLA__TENSOR(INDEXER, mla_indexer_weights, wq_b, LINEAR, NEEDED, index_query, Q),
    MLA__TENSOR(INDEXER, mla_indexer_weights, wk, LINEAR, NEEDED, index_key, D),
    MLA__TENSOR(INDEXER, mla_indexer_weights, k_norm, K_NORM, NEEDED, one, index_key),
    MLA__TENSOR(INDEXER, mla_indexer_weights, weights_proj, MATRIX, NEEDED, index_heads, D),
    MLA__TENSOR(KDA, mla_kda_weights, q, LINEAR, NEEDED, lin, D),
    MLA__TENSOR(KDA, mla_kda_weights, k, LINEAR, NEEDED, lin, D),
    MLA__TENSOR(KDA, mla_kda_weights, v, LINEAR, NEEDED, lin, D),
    MLA__TENSOR(KDA, mla_kda_weights, q_conv, PLAIN, NEEDED, lin, conv),
    MLA__TENSOR(KDA, mla_kda_weights, k_conv, PLAIN, NEEDED, lin, conv),
    MLA__TENSOR(KDA, mla_kda_weights, v_conv, PLAIN, NEEDED, lin, conv),
    MLA__TENSOR(KDA, mla_kda_weights, f_a, LINEAR, NEEDED, f_rank, D),
    MLA__TENSOR(KDA, mla_kda_weights, f_b, LINEAR, NEEDED, lin, f_in),
    MLA__TENSOR(KDA, mla_kda_weights, a_log, VECTOR, NEEDED, one, lin_heads),
    MLA__TENSOR(KDA, mla_kda_weights, dt_bias, VECTOR, NEEDED, one, lin),
    MLA__TENSOR(KDA, mla_kda_weights, b, LINEAR, NEEDED, lin_heads, D),
    MLA__TENSOR(KDA, mla_kda_weights, g_a, LINEAR, NEEDED, g_rank, D),
    MLA__TENSOR(KDA, mla_kda_weights, g_b, LINEAR, NEEDED, lin, g_in),
    MLA__TENSOR(KDA, mla_kda_weights, norm, VECTOR, NEEDED, one, lin_key),
    MLA__TENSOR(KDA, mla_kda_weights, o, LINEAR, NEEDED, D, lin),
    MLA__TENSOR(MLP, mla_mlp_weights, gate, LINEAR, NEEDED, inner, D),
    MLA__TENSOR(MLP, mla_mlp_weights, up, LINEAR, NEEDED, inner, D),
    MLA__TENSOR(MLP, mla_mlp_weights, down, LINEAR, NEEDED, D, inner),
    MLA__TENSOR(MOE, mla_moe_weights, router, MATRIX, NEEDED, choices, D),
    MLA__TENSOR(MOE, mla_moe_weights, router_bias, VECTOR, FREE, one, choices),
    MLA__TENSOR(HC, mla_hc_weights, fn, MATRIX, NEEDED, hc_rows, hc_cols),
    MLA__TENSOR(HC, mla_hc_weights, base, VECTOR, NEEDED, one, hc_rows),
    MLA__TENSOR(HC, mla_hc_weights, scale, VECTOR, NEEDED, one, hc_scales),
    MLA__TENSOR(NGRAM, mla_ngram_weights, table, MATRIX, CALLED, ngram_rows, ngram),
    MLA__TENSOR(NGRAM, mla_ngram_weights, proj, LINEAR, CALLED, D, ngram),
    {0, NULL, 0, 0, 0, 0, 0}};

/* The next entry of a struct after e, the first one after NULL; NULL: no more. */
static const mla__entry *mla__next_tensor(int in, const mla__entry *e) {
    for (e = e ? e + 1 : mla__tensors; e->name; e++)
        if (e->in == in) return e;
    return NULL;
}
/* The tensor of an entry, or its weight; the bias of a linear and of a norm lies behind that. */
static const mla_tensor *mla__tensor_at(const mla__entry *e, const void *weights) {
    return (const mla_tensor *)(const void *)((const char *)weights + e->at);
}
static int mla__is_norm(const mla__entry *e) { return e->is >= MLA__IS_NORM; }
/* Whether a struct is there: it has a matrix. */
static int mla__has(int in, const void *weights) {
    for (const mla__entry *e = NULL; (e = mla__next_tensor(in, e)) != NULL;)
        if (mla__tensor_at(e, weights)->data && !mla__is_norm(e)) return 1;
    return 0;
}
static int mla__shortcut(const mla_layer_weights *l) { return l->moe.experts && mla__has(MLA__IN_MLP, &l->mlp); }

static double mla__gate_bytes(const mla_norm_weights *w) {
    return mla__tensor_bytes(&w->gate_down) + mla__tensor_bytes(&w->gate_up);
}
static double mla__bytes_of(int in, const void *weights) {
    double sum = 0;
    for (const mla__entry *e = NULL; (e = mla__next_tensor(in, e)) != NULL;) {
        const mla_tensor *t = mla__tensor_at(e, weights);
        sum += mla__tensor_bytes(t) + (e->is >= MLA__IS_LINEAR ? mla__tensor_bytes(t + 1) : 0);
        if (mla__is_norm(e)) sum += mla__gate_bytes((const mla_norm_weights *)(const void *)t);
    }
    return sum;
}

static mla_norm mla__index_norm(const mla_config *c) {
    const mla_norm norm = {MLA_NORM_LAYER, c->index_norm_eps};
    return norm;
}
/* The model's own, and those of multi-token prediction behind them. */
static int mla__all_layers(const mla_config *c) { return c->num_hidden_layers + c->num_nextn_predict_layers; }

typedef struct mla__check {
    const mla_config *c;
    mla__sizes n;
    char at[48];       /* where the tensors being looked at are */
    int indexers;      /* of the layers so far */
    unsigned dtypes;   /* of the linears, a bit each */
    mla_result result; /* of the first tensor at fault */
    mla_error *err;
} mla__check;

/* The first complaint is the result. */
static void mla__complain(mla__check *k, const char *name, const char *part, const char *format, ...) MLA__PRINTF(4, 5);
static void mla__complain(mla__check *k, const char *name, const char *part, const char *format, ...) {
    char text[160];
    va_list ap;
    if (k->result != MLA_OK) return;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    k->result = mla__fail(k->err, MLA_ERR_WEIGHTS, "weights.%s%s%s: %s", k->at, name, part, text);
}
static void mla__check_at(mla__check *k, const char *format, int i, int e) {
    if (k->result == MLA_OK) snprintf(k->at, sizeof k->at, format, i, e);
}

enum { MLA__REQUIRED = 1, MLA__ONE_ROW = 2, MLA__AS_IT_LIES = 4 };

static void mla__want(mla__check *k, const char *name, const char *part, const mla_tensor *t, int rows, int cols,
                      int how) {
    char shape[40];
    const int vector = (how & MLA__ONE_ROW) != 0, plain = (how & MLA__AS_IT_LIES) != 0,
              block = mla_dtype_block(t->dtype);
    const char *dtype = mla_dtype_name(t->dtype);
    if (k->result != MLA_OK || (!t->data && !(how & MLA__REQUIRED))) return;
    if (vector) snprintf(shape, sizeof shape, "[%d]", cols);
    else snprintf(shape, sizeof shape, "[%d, %d]", rows, cols);
    if (!t->data) mla__complain(k, name, part, "missing, expected %s", shape);
    else if ((unsigned)t->dtype >= (unsigned)(vector || plain ? MLA_E4M3 : MLA_UE8M0))
        mla__complain(k, name, part, "dtype %s (%d) cannot stand here", dtype, (int)t->dtype);
    else if (t->rows != rows || t->cols != cols)
        mla__complain(k, name, part, "[%d, %d], expected %s", t->rows, t->cols, shape);
    else if (t->cols % block)
        mla__complain(k, name, part, "rows of %d, %s needs a multiple of %d", t->cols, dtype, block);
    else if ((unsigned)t->layout >= MLA_LAYOUT_COUNT || (t->layout && !mla__interleaves(t->dtype)))
        mla__complain(k, name, part, "layout %d, which %s does not have", (int)t->layout, dtype);
    else if (t->layout && t->rows % 16)
        mla__complain(k, name, part, "%d rows, %sx16 needs a multiple of 16", t->rows, dtype);
    else if (mla__scaled(t) && t->scale_dtype != MLA_F32 && t->scale_dtype != MLA_BF16 && t->scale_dtype != MLA_UE8M0)
        mla__complain(k, name, part, "scale of dtype %s, expected f32, bf16 or ue8m0", mla_dtype_name(t->scale_dtype));
    else if (mla__scaled(t) && (t->scale_rows < 0 || t->scale_cols < 0))
        mla__complain(k, name, part, "scales of blocks of %d x %d", t->scale_rows, t->scale_cols);
}
static void mla__want_linear(mla__check *k, const mla__entry *e, const mla_linear *l, int out, int in) {
    mla__want(k, e->name, ".weight", &l->weight, out, in, MLA__REQUIRED);
    if (k->result == MLA_OK) k->dtypes |= 1u << l->weight.dtype;
    mla__want(k, e->name, ".bias", &l->bias, 1, out, MLA__ONE_ROW);
}
static void mla__want_norm_gate(mla__check *k, const mla__entry *e, const mla_norm_weights *w, int n) {
    const int r = k->c->norm_gate_rank;
    if (!w->gate_down.data && !w->gate_up.data) return;
    if (e->is != MLA__IS_NORM)
        mla__complain(k, e->name, ".gate_down", "there, but only norms of hidden_size have gates");
    if (k->result == MLA_OK && r == 0)
        k->result = mla__fail(k->err, MLA_ERR_CONFIG, "config.norm_gate_rank: 0, but weights.%s%s.gate_down is there",
                              k->at, e->name);
    mla__want(k, e->name, ".gate_down", &w->gate_down, r, n, MLA__REQUIRED);
    mla__want(k, e->name, ".gate_up", &w->gate_up, n, r, MLA__REQUIRED);
    if (k->result == MLA_OK) k->dtypes |= 1u << w->gate_down.dtype | 1u << w->gate_up.dtype;
}
static void mla__want_norm(mla__check *k, const mla__entry *e, const mla_norm_weights *w, int n) {
    const mla_norm index = mla__index_norm(k->c);
    const mla_norm *norm = e->is == MLA__IS_Q_NORM    ? &k->c->q_norm
                           : e->is == MLA__IS_KV_NORM ? &k->c->kv_norm
                           : e->is == MLA__IS_K_NORM  ? &index
                                                      : &k->c->block_norm;
    if (norm->kind == MLA_NORM_NONE) return;
    mla__want(k, e->name, ".weight", &w->weight, 1, n, MLA__ONE_ROW | MLA__REQUIRED);
    mla__want(k, e->name, ".bias", &w->bias, 1, n, MLA__ONE_ROW);
    if (norm->kind == MLA_NORM_DYT) mla__want(k, e->name, ".alpha", &w->alpha, 1, 1, MLA__ONE_ROW | MLA__REQUIRED);
    mla__want_norm_gate(k, e, w, n);
}
/* All tensors of the struct at this place. */
static void mla__want_all(mla__check *k, int in, const void *weights, const char *at, int i, int expert) {
    mla__check_at(k, at, i, expert);
    for (const mla__entry *e = NULL; (e = mla__next_tensor(in, e)) != NULL;) {
        const mla_tensor *t = mla__tensor_at(e, weights);
        int rows, cols;
        memcpy(&rows, (const char *)&k->n + e->rows, sizeof rows);
        memcpy(&cols, (const char *)&k->n + e->cols, sizeof cols);
        if (e->need == MLA__NEEDED ? rows == 0 || cols == 0 : !t->data) continue;
        if (mla__is_norm(e)) mla__want_norm(k, e, (const mla_norm_weights *)(const void *)t, cols);
        else if (e->is == MLA__IS_LINEAR) mla__want_linear(k, e, (const mla_linear *)(const void *)t, rows, cols);
        else
            mla__want(k, e->name, "", t, rows, cols,
                      MLA__REQUIRED | (e->is == MLA__IS_VECTOR  ? MLA__ONE_ROW
                                       : e->is == MLA__IS_PLAIN ? MLA__AS_IT_LIES
                                                                : 0));
        if (e->is == MLA__IS_HEAD && k->result == MLA_OK) k->dtypes |= 1u << t->dtype;
    }
}
static void mla__want_mlp(mla__check *k, const mla_mlp_weights *w, int inner, const char *at, int i, int expert) {
    k->n.inner = inner;
    mla__want_all(k, MLA__IN_MLP, w, at, i, expert);
}
/* A size that tensors which are there have no use without. */
static void mla__want_size(mla__check *k, const char *field, int size, const char *what, int i) {
    mla__check_at(k, what, i, 0);
    if (k->result == MLA_OK && size == 0)
        k->result = mla__fail(k->err, MLA_ERR_CONFIG, "config.%s: 0, but weights.%s is there", field, k->at);
}

/* Keys and values come out of one matrix, or out of two. */
static int mla__splits(const mla_attn_weights *a) { return !a->kv_b.weight.data && (a->k_b.data || a->v_b.data); }
static void mla__check_attn(mla__check *k, const mla_attn_weights *a, int i) {
    const mla_config *c = k->c;
    const int attn = mla__has(MLA__IN_ATTN, a), splits = mla__splits(a);
    const int H = c->num_attention_heads, N = c->qk_nope_head_dim, V = c->v_head_dim;
    if (attn) {
        mla__want_size(k, "num_attention_heads", H, "layers[%d].attn", i);
        k->n.kv_b = splits ? 0 : H * (N + V), k->n.k_b = splits ? H * k->n.R : 0, k->n.v_b = splits ? H * V : 0;
        k->n.gate = a->gate.weight.rows == H ? H : H * V;
        mla__want_all(k, MLA__IN_ATTN, a, "layers[%d].attn.", i, 0);
        if (splits && a->kv_b.bias.data) mla__complain(k, "kv_b", ".bias", "there, but kv_b.weight is not");
        if (c->q_gate && a->gate.weight.data) mla__complain(k, "gate", "", "there, but with q_gate that of q is taken");
        if (a->sinks.data && a->kv_b.bias.data) /* scores and values would both be off by what softmax now keeps */
            mla__complain(k, "sinks", "", "there, but not supported together with kv_b.bias");
    }
    if (c->index_topk == 0) return;
    mla__check_at(k, "layers[%d].attn.indexer", i, 0);
    if (mla__has(MLA__IN_INDEXER, &a->indexer)) {
        if (!attn) mla__complain(k, "", "", "there, but the attention it belongs to is not");
        mla__want_all(k, MLA__IN_INDEXER, &a->indexer, "layers[%d].attn.indexer.", i, 0);
        k->indexers++;
    } else if (attn && (!k->indexers || i >= c->num_hidden_layers)) {
        mla__complain(k, "", "", "missing, and no layer before it %s (index_topk is %d)",
                      k->indexers ? "is run in the same call" : "has one", c->index_topk);
    }
}
/* A layer's mixer is a state. */
static int mla__is_kda(const mla_layer_weights *l) { return l->kda.q.weight.data != NULL; }
static void mla__check_kda(mla__check *k, const mla_layer_weights *l, int i) {
    const mla_config *c = k->c;
    const mla_kda_weights *w = &l->kda;
    if (!mla__has(MLA__IN_KDA, w)) return;
    mla__want_size(k, "linear_num_heads", c->linear_num_heads, "layers[%d].kda", i);
    k->n.f_rank = w->f_a.weight.data ? c->linear_head_dim : 0, k->n.f_in = k->n.f_rank ? k->n.f_rank : k->n.D;
    k->n.g_rank = w->g_a.weight.data ? c->linear_head_dim : 0, k->n.g_in = k->n.g_rank ? k->n.g_rank : k->n.D;
    if (mla__has(MLA__IN_ATTN, &l->attn)) mla__complain(k, "", "", "there, and so is attn");
    if (i >= c->num_hidden_layers) mla__complain(k, "", "", "there, but rows of multi-token prediction may come again");
    if (c->mask != MLA_MASK_CAUSAL) mla__complain(k, "", "", "there, which sees no token behind one: mask is none");
    mla__want_all(k, MLA__IN_KDA, w, "layers[%d].kda.", i, 0);
}
static void mla__check_moe(mla__check *k, const mla_moe_weights *w, int i) {
    const int n = k->c->n_routed_experts, inner = k->c->moe_intermediate_size;
    mla__want_size(k, "n_routed_experts", n, "layers[%d].moe", i);
    mla__want_all(k, MLA__IN_MOE, w, "layers[%d].moe.", i, 0);
    for (int e = 0; e < n && k->result == MLA_OK; e++)
        mla__want_mlp(k, &w->experts[e], inner, "layers[%d].moe.experts[%d].", i, e);
    mla__want_mlp(k, &w->shared, k->c->n_shared_experts * inner, "layers[%d].moe.shared.", i, 0);
}
/* The maps of streams, n of them, if they are there; a call asks for them (mla__complete). */
static void mla__check_hc(mla__check *k, const mla_hc_weights *w, int n, const char *at, int i) {
    const int m = k->c->hc_mult;
    k->n.hc_rows = n * m, k->n.hc_cols = m * k->c->hidden_size, k->n.hc_scales = n;
    if (m > 1 && mla__has(MLA__IN_HC, w)) mla__want_all(k, MLA__IN_HC, w, at, i, 0);
}
static void mla__check_layer(mla__check *k, const mla_layer_weights *l, int i) {
    const mla_config *c = k->c;
    mla__want_all(k, MLA__IN_LAYER, l, "layers[%d].", i, 0);
    mla__check_hc(k, &l->attn_hc, 2, "layers[%d].attn_hc.", i);
    mla__check_hc(k, &l->ffn_hc, 2, "layers[%d].ffn_hc.", i);
    mla__check_attn(k, &l->attn, i);
    mla__check_kda(k, l, i);
    mla__check_at(k, "layers[%d]", i, 0);
    if (mla__shortcut(l) && i >= c->num_hidden_layers - 1)
        mla__complain(k, "", "", "both mlp and moe are there, but no layer follows to add the experts after");
    if (mla__shortcut(l) && c->hc_mult > 1)
        mla__complain(k, "", "", "both mlp and moe are there, which is not supported with hc_mult above 1");
    if (mla__has(MLA__IN_MLP, &l->mlp)) {
        mla__want_size(k, "intermediate_size", c->intermediate_size, "layers[%d].mlp", i);
        mla__want_mlp(k, &l->mlp, c->intermediate_size, "layers[%d].mlp.", i, 0);
    }
    mla__check_at(k, "layers[%d].moe.", i, 0);
    if (l->moe.experts) mla__check_moe(k, &l->moe, i);
    else if (l->moe.router.data) mla__complain(k, "experts", "", "NULL, but moe.router is there");
}

static void mla__check_begin(mla__check *k, const mla_config *c, mla_error *err) {
    const int H = c->num_attention_heads, query = H * mla__query_width(c);
    memset(k, 0, sizeof *k);
    k->c = c, k->err = err;
    k->n.one = 1, k->n.vocab = c->vocab_size, k->n.D = c->hidden_size, k->n.two_D = 2 * c->hidden_size;
    k->n.N = c->qk_nope_head_dim, k->n.R = c->kv_lora_rank, k->n.kv_a = c->kv_lora_rank + c->qk_rope_head_dim;
    k->n.Q = c->q_lora_rank, k->n.query = query, k->n.whole_query = k->n.Q ? 0 : query;
    k->n.latents = mla__latents(c), k->n.heads = H, k->n.o = H * c->v_head_dim, k->n.choices = mla__choices(c);
    k->n.index_query = c->index_n_heads * c->index_head_dim;
    k->n.index_heads = c->index_n_heads, k->n.index_key = c->index_head_dim;
    k->n.lin = c->linear_num_heads * c->linear_head_dim, k->n.lin_heads = c->linear_num_heads;
    k->n.lin_key = c->linear_head_dim, k->n.conv = c->linear_conv_kernel_dim;
}
/* dtypes: of the linears, a bit each. */
static mla_result mla__check_weights(const mla_config *c, const mla_weights *w, unsigned *dtypes, mla_error *err) {
    mla__check k;
    mla__check_begin(&k, c, err);
    if (w->embed.data) mla__want_size(&k, "vocab_size", c->vocab_size, "embed", 0);
    mla__want_all(&k, MLA__IN_MODEL, w, "", 0, 0);
    if (!w->ngram && mla__ngrams(c)) mla__complain(&k, "ngram", "", "NULL, expected %d", mla__ngrams(c));
    for (int i = 0; i < mla__ngrams(c) && k.result == MLA_OK; i++) {
        k.n.ngram_rows = mla__max(1, w->ngram[i].table.rows), k.n.ngram = mla__ngram_width(c);
        mla__want_all(&k, MLA__IN_NGRAM, &w->ngram[i], "ngram[%d].", i, 0);
    }
    mla__check_hc(&k, &w->hc_head, 1, "hc_head.", 0);
    mla__check_at(&k, "", 0, 0);
    if (!w->layers) mla__complain(&k, "layers", "", "NULL, expected %d layers", mla__all_layers(c));
    if (!w->mtp && c->num_nextn_predict_layers)
        mla__complain(&k, "mtp", "", "NULL, expected %d", c->num_nextn_predict_layers);
    for (int i = 0; i < c->num_nextn_predict_layers && k.result == MLA_OK; i++) {
        if (w->mtp[i].embed.data) mla__want_size(&k, "vocab_size", c->vocab_size, "mtp[%d].embed", i);
        mla__want_all(&k, MLA__IN_MTP, &w->mtp[i], "mtp[%d].", i, 0);
    }
    for (int i = 0; i < mla__all_layers(c) && k.result == MLA_OK; i++) mla__check_layer(&k, &w->layers[i], i);
    if (k.result == MLA_OK)
        *dtypes = k.dtypes | (w->embed.data ? 1u << w->embed.dtype : 0); /* the head, if there is no other */
    return k.result;
}

/* ---- >>model-object --------------------------------------------------------------------------------------------- */

struct mla_model {
    mla__object object;
    mla_config c;
    mla_weights w;
    mla_layer_weights *layers;
    mla_mtp_weights *mtp;
    mla_ngram_weights *ngram;
    mla_mlp_weights *experts;
    float *inv, amp;
    int *indexer, n_indexers; /* [layers]: which of the indexers in use is a layer's own, -1: none */
    unsigned dtypes;          /* of the linears, a bit each */
};

typedef struct mla__model_desc {
    const mla_config *config;
    const mla_weights *weights;
    int only_size; /* weights are not asked for */
} mla__model_desc;

static mla_result mla__model_check(const mla_model *none, const void *desc, mla_error *err) {
    const mla__model_desc *d = (const mla__model_desc *)desc;
    mla_config c;
    unsigned dtypes;
    (void)none;
    if (!d->config || (!d->weights && !d->only_size))
        return MLA__REFUSE(err, "model: %s is NULL", d->config ? "weights" : "config");
    c = *d->config;
    MLA__TRY(mla__check_config(&c, err));
    return d->only_size ? MLA_OK : mla__check_weights(&c, d->weights, &dtypes, err);
}

/* m's copy of w, with what is absent replaced by what stands in for it, and without what has no place. */
static void mla__model_fill(mla_model *m, const mla_weights *w) {
    const mla_config *c = &m->c;
    m->w = *w;
    if (!m->w.head.data) m->w.head = m->w.embed;
    if (c->hc_mult == 1) memset(&m->w.hc_head, 0, sizeof m->w.hc_head);
    for (int i = 0; i < c->num_nextn_predict_layers; i++) {
        m->mtp[i] = w->mtp[i];
        if (!m->mtp[i].embed.data) m->mtp[i].embed = m->w.embed;
        if (!m->mtp[i].head.data) m->mtp[i].head = m->w.head;
    }
    for (int i = 0; i < mla__all_layers(c); i++) {
        mla_attn_weights *a = &m->layers[i].attn;
        m->layers[i] = w->layers[i];
        if (c->hc_mult == 1)
            memset(&m->layers[i].attn_hc, 0, sizeof m->layers[i].attn_hc),
                memset(&m->layers[i].ffn_hc, 0, sizeof m->layers[i].ffn_hc);
        if (!mla__splits(a)) a->k_b.data = a->v_b.data = NULL;
        if (!a->gate.weight.data) memset(&a->gate, 0, sizeof a->gate);
        if (c->q_lora_rank > 0) memset(&a->q, 0, sizeof a->q);
        else
            memset(&a->q_a, 0, sizeof a->q_a), memset(&a->q_b, 0, sizeof a->q_b),
                memset(&a->q_norm, 0, sizeof a->q_norm);
        if (c->n_shared_experts == 0) memset(&m->layers[i].moe.shared, 0, sizeof m->layers[i].moe.shared);
        m->indexer[i] =
            c->index_topk > 0 && mla__has(MLA__IN_INDEXER, &m->layers[i].attn.indexer) ? m->n_indexers++ : -1;
        if (!m->layers[i].moe.experts) continue;
        mla_mlp_weights *to = m->experts + (mla__sz)i * c->n_routed_experts;
        memcpy(to, m->layers[i].moe.experts, (size_t)c->n_routed_experts * sizeof *to);
        m->layers[i].moe.experts = to;
    }
    for (int i = 0; i < mla__ngrams(c); i++) m->ngram[i] = w->ngram[i];
    m->w.layers = m->layers, m->w.mtp = m->mtp, m->w.ngram = m->ngram;
}

static void *mla__model_layout(const mla_model *none, const void *desc, void *memory, size_t *bytes) {
    const mla__model_desc *d = (const mla__model_desc *)desc;
    mla__arena a;
    mla_model *at = (mla_model *)mla__begin(&a, memory, sizeof *at), m = MLA__ZERO;
    (void)none;
    m.c = *d->config;
    mla__check_config(&m.c, NULL);
    m.layers = MLA__TAKE(&a, mla_layer_weights, mla__all_layers(&m.c));
    m.mtp = MLA__TAKE(&a, mla_mtp_weights, m.c.num_nextn_predict_layers);
    m.ngram = MLA__TAKE(&a, mla_ngram_weights, mla__ngrams(&m.c));
    m.experts = MLA__TAKE(&a, mla_mlp_weights, (double)mla__all_layers(&m.c) * m.c.n_routed_experts);
    m.inv = MLA__TAKE(&a, float, m.c.qk_rope_head_dim / 2);
    m.indexer = MLA__TAKE(&a, int, mla__all_layers(&m.c));
    *bytes = mla__total(&a);
    if (!at) return NULL;
    *at = m;
    mla__check_weights(&at->c, d->weights, &at->dtypes, NULL);
    mla__model_fill(at, d->weights);
    mla_rope *rope = &at->c.rope;
    at->amp = mla__rope_amplitude(rope, at->c.qk_rope_head_dim);
    for (int i = 0; i < at->c.qk_rope_head_dim / 2; i++) at->inv[i] = mla__rope_inv(rope, at->c.qk_rope_head_dim, i);
    rope->inv_freq = rope->short_factor = rope->long_factor = NULL; /* used up; the caller's arrays may go */
    return at;
}

static const mla__kind mla__model_kind = {"model", mla__model_check, mla__model_layout};
mla_result mla_model_create(mla_model **out, const mla_config *config, const mla_weights *weights,
                            const mla_allocator *alloc, mla_error *err) {
    const mla__model_desc d = {config, weights, 0};
    return mla__object_create(&mla__model_kind, out, alloc, NULL, &d, err);
}
mla_result mla_model_init(mla_model **out, void *memory, size_t bytes, const mla_config *config,
                          const mla_weights *weights, mla_error *err) {
    const mla__model_desc d = {config, weights, 0};
    return mla__object_init(&mla__model_kind, out, memory, bytes, NULL, &d, err);
}
size_t mla_model_size(const mla_config *config) {
    const mla__model_desc d = {config, NULL, 1};
    return mla__object_size(&mla__model_kind, NULL, &d);
}
void mla_model_destroy(mla_model *m) { mla__object_destroy(m); }

const mla_config *mla_model_config(const mla_model *m) { return &m->c; }
const float *mla_model_inv_freq(const mla_model *m) { return m->inv; }
float mla_model_rope_amplitude(const mla_model *m) { return m->amp; }

/* A layer's norms and attention. */
static double mla__mixer_bytes(const mla_model *m, int layer) {
    const mla_layer_weights *l = &m->layers[layer];
    return mla__bytes_of(MLA__IN_LAYER, l) + mla__bytes_of(MLA__IN_ATTN, &l->attn) +
           mla__bytes_of(MLA__IN_KDA, &l->kda) + mla__bytes_of(MLA__IN_HC, &l->attn_hc) +
           mla__bytes_of(MLA__IN_HC, &l->ffn_hc) +
           (m->indexer[layer] >= 0 ? mla__bytes_of(MLA__IN_INDEXER, &l->attn.indexer) : 0);
}
static double mla__layer_bytes(const mla_model *m, int layer, int n_tokens) {
    const mla_layer_weights *l = &m->layers[layer];
    double sum = mla__mixer_bytes(m, layer) + mla__bytes_of(MLA__IN_MLP, &l->mlp);
    if (!l->moe.experts) return sum;
    const double chance = (double)m->c.num_experts_per_tok / mla__choices(&m->c); /* a token's, to hit an expert */
    const double hit = n_tokens > 0 ? 1 - pow(1 - chance, n_tokens) : 1;
    sum += mla__bytes_of(MLA__IN_MOE, &l->moe) + mla__bytes_of(MLA__IN_MLP, &l->moe.shared);
    for (int e = 0; e < m->c.n_routed_experts; e++) sum += hit * mla__bytes_of(MLA__IN_MLP, &l->moe.experts[e]);
    return sum;
}
double mla_mtp_bytes(const mla_model *m, int depth, int n_tokens) {
    if (depth < 0 || depth >= m->c.num_nextn_predict_layers) return 0;
    return mla__bytes_of(MLA__IN_MTP, &m->mtp[depth]) - mla__tensor_bytes(&m->mtp[depth].embed) +
           mla__layer_bytes(m, m->c.num_hidden_layers + depth, n_tokens);
}
/* Of n-gram embeddings: the projections, and the tables. */
static double mla__ngram_bytes(const mla_model *m, int tables) {
    double sum = 0;
    for (int i = 0; i < mla__ngrams(&m->c); i++)
        sum += mla__bytes_of(MLA__IN_NGRAM, &m->ngram[i]) - (tables ? 0 : mla__tensor_bytes(&m->ngram[i].table));
    return sum;
}
double mla_model_bytes(const mla_model *m, int n_tokens) {
    const int tied = m->w.head.data == m->w.embed.data;
    double sum = mla__bytes_of(MLA__IN_MODEL, &m->w) + mla__bytes_of(MLA__IN_HC, &m->w.hc_head);
    if (n_tokens > 0 || tied) sum -= mla__tensor_bytes(&m->w.embed);
    sum += mla__ngram_bytes(m, n_tokens <= 0);
    for (int i = 0; i < m->c.num_hidden_layers; i++) sum += mla__layer_bytes(m, i, n_tokens);
    for (int i = 0; i < m->c.num_nextn_predict_layers && n_tokens <= 0; i++) {
        const mla_mtp_weights *x = &m->mtp[i]; /* what is the model's own has been counted */
        sum += mla_mtp_bytes(m, i, 0) - (x->head.data == m->w.head.data ? mla__tensor_bytes(&x->head) : 0);
        if (x->embed.data != m->w.embed.data && x->embed.data != x->head.data) sum += mla__tensor_bytes(&x->embed);
    }
    return sum;
}

/* ---- >>cache-object --------------------------------------------------------------------------------------------- */

/* What a layer keeps of a token, and of a sequence however long, is for its mixer to say, which uses caches itself. */
static mla__sz mla__row_bytes(const mla_model *m, int layer, mla_dtype t);
/* Values that are kept in a dtype, and inputs, in f32; none: 0. */
typedef struct mla__state {
    mla__sz values, inputs;
} mla__state;
static mla__state mla__state_of(const mla_model *m, int layer);

/* The states of a sequence, of all layers that keep one; all have the same size. Twice in a cache, for a call reads
   those of one position and writes those of another: what it was called with stays until a later call. A slot has
   `n` positions, and one of each state. */
typedef struct mla__states {
    int n;
    mla__state size;
    mla_dtype dtype;
    mla__sz inputs_at, bytes; /* of a state: where its inputs lie, and all of it */
    mla__sz first, slot;      /* of a slot: where states begin, and all of it */
    int *of;                  /* [n_layers]: which of the states is a layer's, -1: none */
} mla__states;

typedef struct mla__layer_rows {
    mla__sz at, bytes; /* where a page has them, and what one takes */
} mla__layer_rows;
struct mla_pool {
    mla__object object;
    int n_layers, width, n_indexers, index_width; /* width: values in a row; index: layers with an index key */
    int latent;                                   /* of a row, the values that are not rotated */
    mla_dtype dtype, index_dtype;
    int *refs, *free_pages, n_free, tokens; /* tokens of a page */
    mla__sz index_at, page_bytes;
    mla__layer_rows *layers; /* [n_layers] */
    mla__states states;
    int *slot_refs, *free_slots, n_slots, n_free_slots;
    unsigned char *slots;
    unsigned char *rows; /* pages of [tokens] rows of each layer and, at index_at, [n_indexers, tokens, index_width] */
};

/* Where a cache can be cut back to. */
typedef struct mla__snapshot {
    int position, slot;
} mla__snapshot;

struct mla_cache {
    mla__object object;
    mla_pool *pool, own; /* own: that of a contiguous cache, one page for all of its tokens */
    int capacity, length;
    int in_call;  /* marks the sequences of a call, to find doubles */
    int *indexer; /* [n_layers], as the model has it */
    int *ids;     /* [capacity]: those of tokens, for n-gram embeddings; NULL: without */
    int *written; /* [n_layers]: positions for which each layer has its rows, perhaps beyond length; ~: once loaded */
    int n_ahead;  /* num_nextn_predict_layers, the last of them */
    int *table, n_pages; /* pages held, by position; during a call they may reach beyond length */
    int had_pages, *had; /* undo record of the last reservation: pages held before, and which, from that of length on */
    unsigned char *states[2]; /* slots; a position is that of the next token, -1: nothing is there */
    mla__snapshot *snapshots; /* [slots of the pool], ascending */
    int n_snapshots;
};

static int mla__index_width(const mla_model *m) { return m->n_indexers ? m->c.index_head_dim : 0; }
static mla_result mla__row_dtype(mla_dtype t, int width, const char *what, const char *field, const char *of,
                                 mla_error *err) {
    if (t != MLA_F32 && t != MLA_F16 && t != MLA_BF16 && t != MLA_Q8)
        return MLA__REFUSE(err, "%s.%s: %s, must be f32, f16, bf16 or q8", what, field, mla_dtype_name(t));
    if (t == MLA_Q8 && width % MLA_GROUP)
        return MLA__REFUSE(err, "%s.%s: rows of %s = %d, q8 needs a multiple of %d", what, field, of, width, MLA_GROUP);
    return MLA_OK;
}
static mla_result mla__cache_dtypes(const mla_model *m, mla_dtype dtype, mla_dtype index_dtype, mla_dtype state_dtype,
                                    int snapshots, const char *what, mla_error *err) {
    if (state_dtype != MLA_F32 && state_dtype != MLA_BF16)
        return MLA__REFUSE(err, "%s.state_dtype: %s, must be f32 or bf16", what, mla_dtype_name(state_dtype));
    if (snapshots < 0) return MLA__REFUSE(err, "%s.snapshots: %d is negative", what, snapshots);
    MLA__TRY(mla__row_dtype(dtype, m->c.kv_lora_rank + m->c.qk_rope_head_dim, what, "dtype",
                            "kv_lora_rank + qk_rope_head_dim", err));
    return mla__row_dtype(index_dtype, mla__index_width(m), what, "index_dtype", "index_head_dim", err);
}

/* Positions up to the cache's end for which a layer has its rows. */
static int mla__written(const mla_cache *k, int layer) { return mla__min(k->written[layer], k->length); }
/* Row at position, of those that begin at `first` in each page: those after it in its page follow without gaps. */
static unsigned char *mla__row_at(const mla_cache *k, int position, mla__sz first, mla__sz bytes) {
    const mla_pool *p = k->pool;
    const int page = p == &k->own ? 0 : position / MLA_PAGE;
    return p->rows + k->table[page] * p->page_bytes + first + (position - (mla__sz)page * p->tokens) * bytes;
}
static unsigned char *mla__row(const mla_cache *k, int layer, int position) {
    return mla__row_at(k, position, k->pool->layers[layer].at, k->pool->layers[layer].bytes);
}
/* The same for the index keys of a layer that has them. */
static unsigned char *mla__index_row(const mla_cache *k, int layer, int position) {
    const mla__sz bytes = mla__bytes(k->pool->index_dtype, k->pool->index_width);
    return mla__row_at(k, position, k->pool->index_at + k->indexer[layer] * k->pool->tokens * bytes, bytes);
}

static mla_result mla__pool_check(const mla_model *m, const void *desc, mla_error *err) {
    const mla_pool_desc *d = (const mla_pool_desc *)desc;
    if (!m || !d) return MLA__REFUSE(err, "pool: %s is NULL", m ? "desc" : "model");
    if (d->n_pages < 1) return MLA__REFUSE(err, "pool.n_pages: %d, must be at least 1", d->n_pages);
    return mla__cache_dtypes(m, d->dtype, d->index_dtype, d->state_dtype, d->snapshots, "pool", err);
}
static mla__states mla__states_of(mla__arena *a, const mla_model *m, mla_dtype t) {
    const int n_layers = mla__all_layers(&m->c);
    mla__states s = MLA__ZERO;
    s.of = MLA__TAKE(a, int, n_layers);
    s.dtype = t;
    for (int i = 0; i < n_layers; i++) {
        const mla__state size = mla__state_of(m, i);
        if (a->base) s.of[i] = size.values ? s.n : -1;
        if (size.values) s.n++, s.size = size;
    }
    s.inputs_at = mla__bytes(t, s.size.values);
    s.bytes = (s.inputs_at + 4 * s.size.inputs + (mla__sz)MLA__ALIGN - 1) / (mla__sz)MLA__ALIGN * (mla__sz)MLA__ALIGN;
    s.first = mla__up_to(s.n * (int)sizeof(int), MLA__ALIGN), s.slot = s.first + s.n * s.bytes;
    return s;
}
/* A pool of n pages of so many tokens and of slots, in memory where there is some. */
static mla_pool mla__pool_of(mla__arena *a, const mla_model *m, const mla_pool_desc *d, int tokens) {
    const int n = d->n_pages;
    const mla_dtype t = d->dtype, index_t = d->index_dtype;
    mla_pool p = MLA__ZERO;
    p.n_layers = mla__all_layers(&m->c), p.latent = m->c.kv_lora_rank, p.width = p.latent + m->c.qk_rope_head_dim;
    p.n_indexers = m->n_indexers, p.index_width = mla__index_width(m);
    p.dtype = t, p.index_dtype = index_t, p.tokens = tokens, p.n_free = n;
    double rows = 0;
    p.layers = MLA__TAKE(a, mla__layer_rows, p.n_layers);
    for (int i = 0; i < p.n_layers; i++) {
        const mla__layer_rows l = {(mla__sz)rows, mla__row_bytes(m, i, t)};
        if (a->base) p.layers[i] = l;
        rows += (double)tokens * (double)l.bytes;
    }
    const double index_at = ceil(rows / MLA__ALIGN) * MLA__ALIGN;
    const double page_bytes = index_at + (double)p.n_indexers * tokens * (double)mla__bytes(index_t, p.index_width);
    p.refs = MLA__TAKE(a, int, n);
    p.free_pages = MLA__TAKE(a, int, n);
    p.rows = MLA__TAKE(a, unsigned char, n *page_bytes);
    p.states = mla__states_of(a, m, d->state_dtype);
    p.n_slots = p.n_free_slots = p.states.n ? d->snapshots : 0;
    p.slot_refs = MLA__TAKE(a, int, p.n_slots);
    p.free_slots = MLA__TAKE(a, int, p.n_slots);
    p.slots = MLA__TAKE(a, unsigned char, p.n_slots *(double)p.states.slot);
    if (!a->base) return p;
    for (int i = 0; i < p.n_slots; i++) p.slot_refs[i] = 0, p.free_slots[i] = p.n_slots - 1 - i;
    p.index_at = (mla__sz)index_at, p.page_bytes = (mla__sz)page_bytes;
    for (int i = 0; i < n; i++) p.refs[i] = 0, p.free_pages[i] = n - 1 - i;
    return p;
}
static void *mla__pool_layout(const mla_model *m, const void *desc, void *memory, size_t *bytes) {
    const mla_pool_desc *d = (const mla_pool_desc *)desc;
    mla__arena a;
    mla_pool *at = (mla_pool *)mla__begin(&a, memory, sizeof *at);
    const mla_pool p = mla__pool_of(&a, m, d, MLA_PAGE);
    *bytes = mla__total(&a);
    if (at) *at = p;
    return at;
}
MLA__OBJECT(pool)
void mla_pool_destroy(mla_pool *p) { mla__object_destroy(p); }
int mla_pool_free_pages(const mla_pool *p) { return p->n_free; }
int mla_pool_free_slots(const mla_pool *p) { return p->n_free_slots; }
static void mla__page_drop(mla_pool *p, int page) {
    if (--p->refs[page] == 0) p->free_pages[p->n_free++] = page;
}
static int mla__pages(const mla_pool *p, int64_t tokens) { return (int)((tokens + p->tokens - 1) / p->tokens); }

/* Pages it takes to write n rows from position `from` on: new ones, and copies of those that are shared (one at most,
   unless rows are written again), but not with calls on `before`, which have their own by then. */
static int mla__pages_to_write(const mla_cache *k, int from, int n, const mla_sequence *before, int n_before,
                               int again) {
    const mla_pool *p = k->pool;
    int taken = mla__max(mla__pages(p, (int64_t)from + n) - k->n_pages, 0);
    for (int i = from / p->tokens; i < k->n_pages; i++) {
        int refs = p->refs[k->table[i]];
        for (int j = 0; j < n_before && refs > 1; j++) {
            const mla_cache *o = before[j].cache;
            const int first = (o->length - (again ? before[j].n_tokens : 0)) / p->tokens;
            refs -= o->pool == p && i >= first && i < o->n_pages && o->table[i] == k->table[i];
        }
        taken += refs > 1;
    }
    return taken;
}
int mla_pool_pages_needed(const mla_pool *p, const mla_sequence *seqs, int n_seqs, int again) {
    int n = 0;
    for (int i = 0; i < n_seqs; i++) {
        const mla_cache *k = seqs[i].cache;
        if (!k || k->pool != p || seqs[i].n_tokens <= 0) continue;
        const int from = k->length - (again ? seqs[i].n_tokens : 0);
        n += mla__pages_to_write(k, mla__max(from, 0), seqs[i].n_tokens, seqs, i, again);
    }
    return n;
}
/* Make rows up to length + n writable: pages taken from the pool, a shared one copied. FULL leaves all as it was. */
static mla_result mla__reserve(mla_cache *k, int n, const char *who, mla_error *err) {
    mla_pool *p = k->pool;
    if (n > k->capacity - k->length)
        return mla__fail(err, MLA_ERR_FULL, "%s: cache holds %d of %d tokens, %d more do not fit", who, k->length,
                         k->capacity, n);
    k->had_pages = k->n_pages;
    const int first = k->length / p->tokens, pages = mla__pages(p, (int64_t)k->length + n);
    const int taken = mla__pages_to_write(k, k->length, n, NULL, 0, 0);
    if (taken > p->n_free)
        return mla__fail(err, MLA_ERR_FULL, "%s: %d pages needed, the pool has %d free", who, taken, p->n_free);
    for (int i = first; i < k->had_pages; i++) {
        const int from = k->had[i] = k->table[i];
        if (p->refs[from] == 1) continue;
        const int to = p->free_pages[--p->n_free];
        memcpy(p->rows + to * p->page_bytes, p->rows + from * p->page_bytes, (size_t)p->page_bytes);
        p->refs[to] = 1;
        mla__page_drop(p, from); /* others hold it still */
        k->table[i] = to;
    }
    while (k->n_pages < pages) {
        const int page = p->free_pages[--p->n_free];
        p->refs[page] = 1;
        k->table[k->n_pages++] = page;
    }
    return MLA_OK;
}
/* Hold `pages` pages and no more. */
static void mla__trim(mla_cache *k, int pages) {
    while (k->n_pages > pages) mla__page_drop(k->pool, k->table[--k->n_pages]);
}

/* Position of state i in a slot, and the state. */
static int *mla__state_at(unsigned char *slot, int i) { return (int *)(void *)slot + i; }
static unsigned char *mla__state_in(const mla_cache *k, unsigned char *slot, int i) {
    return slot + k->pool->states.first + i * k->pool->states.bytes;
}
/* Which of the two is state i at a position; -1: none. */
static int mla__state_find(const mla_cache *k, int i, int position) {
    for (int b = 0; b < 2; b++)
        if (*mla__state_at(k->states[b], i) == position) return b;
    return -1;
}
static void mla__states_cut_all(mla_cache *k) {
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < k->pool->states.n; i++) *mla__state_at(k->states[b], i) = -1;
}
/* What a layer has behind the cache's end is gone. */
static void mla__unwrite(mla_cache *k, int layer) {
    const int state = k->pool->states.of[layer];
    k->written[layer] = mla__max(0, mla__min(k->written[layer], k->length));
    for (int b = 0; b < 2 && state >= 0; b++) {
        int *at = mla__state_at(k->states[b], state);
        if (*at > k->length) *at = -1;
    }
}
/* Take the last reservation back. */
static void mla__unreserve(mla_cache *k) {
    mla__trim(k, k->had_pages);
    for (int i = k->length / k->pool->tokens; i < k->had_pages; i++) {
        if (k->table[i] == k->had[i]) continue;
        mla__page_drop(k->pool, k->table[i]);
        k->pool->refs[k->table[i] = k->had[i]]++;
    }
}

/* The first layer that has another state in the model, or only one of both; -1: none. */
static int mla__other_state(const mla_pool *p, const mla_model *m) {
    for (int i = 0; i < p->n_layers; i++) {
        const mla__state s = mla__state_of(m, i);
        const int has = p->states.of[i] >= 0;
        if (has != (s.values > 0) || (has && (s.values != p->states.size.values || s.inputs != p->states.size.inputs)))
            return i;
    }
    return -1;
}
static mla_result mla__cache_check(const mla_model *m, const void *desc, mla_error *err) {
    const mla_cache_desc *d = (const mla_cache_desc *)desc;
    if (!m || !d) return MLA__REFUSE(err, "cache: %s is NULL", m ? "desc" : "model");
    const int layers = mla__all_layers(&m->c), width = m->c.kv_lora_rank + m->c.qk_rope_head_dim;
    const mla_pool *p = d->pool;
    if (m->c.num_attention_heads == 0 && m->c.linear_num_heads == 0)
        return MLA__REFUSE(err, "cache: the model has no attention (num_attention_heads is 0)");
    if (d->capacity < 1) return MLA__REFUSE(err, "cache.capacity: %d, must be at least 1", d->capacity);
    if (!p) return mla__cache_dtypes(m, d->dtype, d->index_dtype, d->state_dtype, d->snapshots, "cache", err);
    if (p->n_layers != layers || p->width != width)
        return MLA__REFUSE(err, "cache.pool: made for %d layers of width %d, the model has %d of %d", p->n_layers,
                           p->width, layers, width);
    if (p->n_indexers != m->n_indexers || p->index_width != mla__index_width(m))
        return MLA__REFUSE(err, "cache.pool: made for %d indexers with keys of %d, the model has %d of %d",
                           p->n_indexers, p->index_width, m->n_indexers, mla__index_width(m));
    const int other = mla__other_state(p, m);
    if (other >= 0) return MLA__REFUSE(err, "cache.pool: made for another model: layer %d keeps something else", other);
    return MLA_OK;
}
static void *mla__cache_layout(const mla_model *m, const void *desc, void *memory, size_t *bytes) {
    const mla_cache_desc *d = (const mla_cache_desc *)desc;
    const int n_layers = mla__all_layers(&m->c), pages = d->pool ? d->capacity / MLA_PAGE + 1 : 1;
    mla__arena a;
    mla_cache *at = (mla_cache *)mla__begin(&a, memory, sizeof *at), k = MLA__ZERO;
    k.capacity = d->capacity, k.n_ahead = m->c.num_nextn_predict_layers;
    k.table = MLA__TAKE(&a, int, pages);
    k.had = MLA__TAKE(&a, int, pages);
    k.indexer = MLA__TAKE(&a, int, n_layers);
    k.written = MLA__TAKE(&a, int, n_layers);
    k.ids = m->c.emb_neighbor_num > 0 ? MLA__TAKE(&a, int, d->capacity) : NULL;
    mla_pool_desc own = MLA__ZERO;
    own.n_pages = 1, own.dtype = d->dtype, own.index_dtype = d->index_dtype;
    own.state_dtype = d->state_dtype, own.snapshots = d->snapshots;
    if (!d->pool) k.own = mla__pool_of(&a, m, &own, d->capacity);
    const mla_pool *p = d->pool ? d->pool : &k.own;
    k.snapshots = MLA__TAKE(&a, mla__snapshot, p->n_slots);
    for (int b = 0; b < 2; b++) k.states[b] = MLA__TAKE(&a, unsigned char, p->states.slot);
    *bytes = mla__total(&a);
    if (!at) return NULL;
    memset(k.written, 0, (size_t)n_layers * sizeof *k.written);
    memcpy(k.indexer, m->indexer, (size_t)n_layers * sizeof *k.indexer);
    *at = k;
    at->pool = d->pool ? d->pool : &at->own;
    mla__states_cut_all(at);
    return at;
}
MLA__OBJECT(cache)
void mla_cache_destroy(mla_cache *k) {
    if (k) mla_cache_reset(k);
    mla__object_destroy(k);
}

int mla_cache_length(const mla_cache *k) { return k->length; }
int mla_cache_capacity(const mla_cache *k) { return k->capacity; }

/* The layer of state i. */
static int mla__state_layer(const mla_cache *k, int i) {
    int l = 0;
    while (k->pool->states.of[l] != i) l++;
    return l;
}
/* Whether all states are there at a position, but those of layers that have not come so far. */
static int mla__states_at(const mla_cache *k, int position) {
    for (int i = 0; i < k->pool->states.n; i++)
        if (position > 0 && k->written[mla__state_layer(k, i)] >= position && mla__state_find(k, i, position) < 0)
            return 0;
    return 1;
}
/* One state and its position from one slot to another. */
static void mla__state_copy(const mla_cache *k, unsigned char *to, unsigned char *from, int i) {
    *mla__state_at(to, i) = *mla__state_at(from, i);
    if (*mla__state_at(from, i) < 0) return;
    memcpy(mla__state_in(k, to, i), mla__state_in(k, from, i), (size_t)k->pool->states.bytes);
}
/* Those that k has now, into a slot, */
static void mla__states_take(const mla_cache *k, unsigned char *slot) {
    for (int i = 0; i < k->pool->states.n; i++) {
        const int b = mla__state_find(k, i, mla__written(k, mla__state_layer(k, i)));
        if (b < 0) *mla__state_at(slot, i) = -1;
        else mla__state_copy(k, slot, k->states[b], i);
    }
}
/* and back. */
static void mla__states_put(mla_cache *k, unsigned char *slot) {
    mla__states_cut_all(k);
    for (int i = 0; i < k->pool->states.n; i++) {
        mla__state_copy(k, k->states[0], slot, i);
        k->written[mla__state_layer(k, i)] = mla__max(0, *mla__state_at(slot, i));
    }
}
static unsigned char *mla__slot(const mla_pool *p, int slot) { return p->slots + slot * p->states.slot; }
static void mla__slot_drop(mla_pool *p, int slot) {
    if (--p->slot_refs[slot] == 0) p->free_slots[p->n_free_slots++] = slot;
}
/* How many snapshots are at or before a position. */
static int mla__snapshots_to(const mla_cache *k, int position) {
    int n = 0;
    while (n < k->n_snapshots && k->snapshots[n].position <= position) n++;
    return n;
}
int mla_cache_cut(const mla_cache *k, int length) {
    if (!k || length < 0) return -1;
    length = mla__min(length, k->length);
    if (k->pool->states.n == 0 || mla__states_at(k, length)) return length;
    const int n = mla__snapshots_to(k, length);
    int best = n > 0 ? k->snapshots[n - 1].position : 0;
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < k->pool->states.n; i++) {
            const int at = *mla__state_at(k->states[b], i);
            if (at > best && at <= length && mla__states_at(k, at)) best = at;
        }
    return best;
}
/* Rows and states behind a position go. */
static void mla__cut_back(mla_cache *k, int length) {
    k->length = length;
    for (int i = 0; i < k->pool->n_layers; i++) mla__unwrite(k, i);
    mla__trim(k, mla__pages(k->pool, length));
    while (k->n_snapshots > 0 && k->snapshots[k->n_snapshots - 1].position > length)
        mla__slot_drop(k->pool, k->snapshots[--k->n_snapshots].slot);
}
mla_result mla_cache_truncate(mla_cache *k, int length, mla_error *err) {
    if (!k) return MLA__REFUSE(err, "mla_cache_truncate: cache is NULL");
    if (length < 0 || length > k->length)
        return MLA__REFUSE(err, "mla_cache_truncate: length %d, the cache holds %d", length, k->length);
    const int cut = mla_cache_cut(k, length);
    if (cut != length)
        return MLA__REFUSE(err, "mla_cache_truncate: length %d, but layers have states, and the nearest are kept at %d",
                           length, cut);
    if (!mla__states_at(k, length))
        mla__states_put(k, mla__slot(k->pool, k->snapshots[mla__snapshots_to(k, length) - 1].slot));
    mla__cut_back(k, length);
    return MLA_OK;
}
void mla_cache_reset(mla_cache *k) { mla_cache_truncate(k, 0, NULL); }
mla_result mla_cache_extend(mla_cache *k, int n, mla_error *err) {
    if (!k) return MLA__REFUSE(err, "mla_cache_extend: cache is NULL");
    int reach = k->length;
    for (int i = 0; i < k->pool->n_layers - k->n_ahead; i++) reach = mla__max(reach, k->written[i]);
    if (n < 0 || n > reach - k->length)
        return MLA__REFUSE(err, "mla_cache_extend: %d tokens, calls have run layers on %d", n, reach - k->length);
    if (!mla__states_at(k, k->length + n))
        return MLA__REFUSE(err, "mla_cache_extend: %d tokens, but layers have states, of all %d", n, reach - k->length);
    k->length += n;
    return MLA_OK;
}

mla_result mla_cache_snapshot(mla_cache *k, mla_error *err) {
    if (!k) return MLA__REFUSE(err, "mla_cache_snapshot: cache is NULL");
    mla_pool *p = k->pool;
    const int n = k->n_snapshots;
    if (p->states.n == 0 || k->length == 0 || (n > 0 && k->snapshots[n - 1].position == k->length)) return MLA_OK;
    if (p->n_free_slots == 0)
        return mla__fail(err, MLA_ERR_FULL, "mla_cache_snapshot: all %d slots are taken", p->n_slots);
    const mla__snapshot s = {k->length, p->free_slots[--p->n_free_slots]};
    p->slot_refs[s.slot] = 1;
    mla__states_take(k, mla__slot(p, s.slot));
    k->snapshots[k->n_snapshots++] = s;
    return MLA_OK;
}
int mla_cache_snapshots(const mla_cache *k, int *positions, int most) {
    for (int i = 0; k && positions && i < most && i < k->n_snapshots; i++) positions[i] = k->snapshots[i].position;
    return k ? k->n_snapshots : 0;
}
void mla_cache_forget(mla_cache *k, int position) {
    const int i = k ? mla__snapshots_to(k, position) - 1 : -1;
    if (i < 0 || k->snapshots[i].position != position) return;
    mla__slot_drop(k->pool, k->snapshots[i].slot);
    memmove(k->snapshots + i, k->snapshots + i + 1, (size_t)(--k->n_snapshots - i) * sizeof *k->snapshots);
}

/* The first layer for which k and `indexer` disagree about whether it has index keys; -1: none. */
static int mla__other_indexer(const mla_cache *k, const int *indexer) {
    for (int i = 0; i < k->pool->n_layers; i++)
        if ((k->indexer[i] >= 0) != (indexer[i] >= 0)) return i;
    return -1;
}

static mla_result mla__fork_states(const mla_cache *dst, const mla_cache *src, mla_error *err) {
    const mla__states *to = &dst->pool->states, *from = &src->pool->states;
    for (int i = 0; i < src->pool->n_layers; i++)
        if ((to->of[i] >= 0) != (from->of[i] >= 0))
            return MLA__REFUSE(err, "mla_cache_fork: layer %d has a state in %s only", i,
                               to->of[i] < 0 ? "src" : "dst");
    if (from->n &&
        (to->dtype != from->dtype || to->size.values != from->size.values || to->size.inputs != from->size.inputs))
        return MLA__REFUSE(err,
                           "mla_cache_fork: states of %.0f values in %s and %.0f inputs cannot become %.0f in %s "
                           "and %.0f",
                           (double)from->size.values, mla_dtype_name(from->dtype), (double)from->size.inputs,
                           (double)to->size.values, mla_dtype_name(to->dtype), (double)to->size.inputs);
    return MLA_OK;
}
static mla_result mla__fork_check(const mla_cache *dst, const mla_cache *src, mla_error *err) {
    if (!dst || !src) return MLA__REFUSE(err, "mla_cache_fork: %s is NULL", dst ? "src" : "dst");
    const mla_pool *to = dst->pool, *from = src->pool;
    if (to->n_layers != from->n_layers || dst->n_ahead != src->n_ahead || to->width != from->width ||
        to->dtype != from->dtype)
        return MLA__REFUSE(
            err, "mla_cache_fork: %d layers (%d to predict ahead) of width %d in %s cannot become %d (%d) of %d in %s",
            from->n_layers, src->n_ahead, from->width, mla_dtype_name(from->dtype), to->n_layers, dst->n_ahead,
            to->width, mla_dtype_name(to->dtype));
    if (!dst->ids != !src->ids)
        return MLA__REFUSE(err, "mla_cache_fork: only %s is for a model with n-gram embeddings",
                           src->ids ? "src" : "dst");
    const int other = mla__other_indexer(dst, src->indexer);
    if (other >= 0)
        return MLA__REFUSE(err, "mla_cache_fork: layer %d has index keys in %s only", other,
                           src->indexer[other] >= 0 ? "src" : "dst");
    if (to->index_width != from->index_width || (from->n_indexers && to->index_dtype != from->index_dtype))
        return MLA__REFUSE(
            err, "mla_cache_fork: index keys of %d layers, %d values in %s, cannot become those of %d, %d in %s",
            from->n_indexers, from->index_width, mla_dtype_name(from->index_dtype), to->n_indexers, to->index_width,
            mla_dtype_name(to->index_dtype));
    MLA__TRY(mla__fork_states(dst, src, err));
    if (dst->capacity < src->length)
        return mla__fail(err, MLA_ERR_FULL, "mla_cache_fork: %d tokens, the capacity of dst is %d", src->length,
                         dst->capacity);
    if (to == from) return MLA_OK;
    int pages = to->n_free; /* what dst can have: the free ones and those it alone holds */
    for (int i = 0; i < dst->n_pages; i++) pages += to->refs[dst->table[i]] == 1;
    if (mla__pages(to, src->length) > pages)
        return mla__fail(err, MLA_ERR_FULL, "mla_cache_fork: %d tokens, the pool has %d pages for dst", src->length,
                         pages);
    return MLA_OK;
}
/* Shared, or the latest of them copied, as far as slots are free. */
static void mla__fork_snapshots(mla_cache *dst, const mla_cache *src) {
    mla_pool *p = dst->pool;
    const int shared = p == src->pool, n = src->n_snapshots, first = shared ? 0 : mla__max(n - p->n_free_slots, 0);
    for (int i = first; i < n; i++) {
        mla__snapshot s = src->snapshots[i];
        if (!shared) {
            s.slot = p->free_slots[--p->n_free_slots];
            memcpy(mla__slot(p, s.slot), mla__slot(src->pool, src->snapshots[i].slot), (size_t)p->states.slot);
        }
        p->slot_refs[s.slot] += 1;
        dst->snapshots[dst->n_snapshots++] = s;
    }
}
static void mla__copy_rows(mla_cache *dst, const mla_cache *src) {
    const mla_pool *p = src->pool;
    const size_t bytes = (size_t)mla__bytes(p->dtype, p->width),
                 index_bytes = (size_t)mla__bytes(p->index_dtype, p->index_width);
    for (int l = 0; l < p->n_layers; l++)
        for (int u = 0; u < src->length && p->states.of[l] < 0; u++) {
            memcpy(mla__row(dst, l, u), mla__row(src, l, u), bytes);
            if (src->indexer[l] >= 0) memcpy(mla__index_row(dst, l, u), mla__index_row(src, l, u), index_bytes);
        }
}

mla_result mla_cache_fork(mla_cache *dst, const mla_cache *src, mla_error *err) {
    if (dst && dst == src) return MLA_OK;
    MLA__TRY(mla__fork_check(dst, src, err));
    mla_cache_reset(dst);
    if (dst->pool == src->pool) {
        dst->n_pages = mla__pages(dst->pool, src->length);
        for (int i = 0; i < dst->n_pages; i++) dst->pool->refs[dst->table[i] = src->table[i]]++;
    } else {
        MLA__TRY(mla__reserve(dst, src->length, "mla_cache_fork", err));
        mla__copy_rows(dst, src);
    }
    dst->length = src->length;
    mla__states_take(src, dst->states[0]);
    mla__fork_snapshots(dst, src);
    if (dst->ids) memcpy(dst->ids, src->ids, (size_t)src->length * sizeof *dst->ids);
    for (int i = 0; i < dst->pool->n_layers; i++) dst->written[i] = mla__written(src, i);
    return MLA_OK;
}

mla_result mla_cache_append(mla_cache *k, int n, const float *rows, mla_error *err) {
    const char *bad = !k ? "cache is NULL" : !rows ? "rows is NULL" : n < 0 ? "n is negative" : NULL;
    if (bad) return MLA__REFUSE(err, "mla_cache_append: %s", bad);
    const mla_pool *p = k->pool;
    for (int l = 0; l < p->n_layers; l++)
        if (p->states.of[l] >= 0)
            return MLA__REFUSE(err, "mla_cache_append: layer %d has a state, which no rows can make", l);
    if (k->ids) return MLA__REFUSE(err, "mla_cache_append: n-gram embeddings need tokens, and rows come without");
    if (n == 0) return MLA_OK; /* and no copy of a shared page */
    MLA__TRY(mla__reserve(k, n, "mla_cache_append", err));
    for (int l = 0; l < p->n_layers; l++)
        for (int u = k->length; u < k->length + n; u++, rows += p->width) {
            mla__narrow(p->dtype, mla__row(k, l, u), rows, p->width);
            if (k->indexer[l] < 0) continue;
            mla__narrow(p->index_dtype, mla__index_row(k, l, u), rows + p->width, p->index_width);
            rows += p->index_width;
        }
    for (int i = 0; i < p->n_layers; i++) k->written[i] = k->written[i] < k->length ? k->written[i] : k->length + n;
    k->length += n;
    return MLA_OK;
}

mla_result mla_cache_read(const mla_cache *k, int layer, int position, float *row, mla_error *err) {
    if (!k || !row) return MLA__REFUSE(err, "mla_cache_read: %s is NULL", k ? "row" : "cache");
    const mla_pool *p = k->pool;
    if (layer < 0 || layer >= p->n_layers)
        return MLA__REFUSE(err, "mla_cache_read: layer %d of %d", layer, p->n_layers);
    if (position < 0 || position >= k->length)
        return MLA__REFUSE(err, "mla_cache_read: position %d of %d", position, k->length);
    if (p->states.of[layer] >= 0)
        return MLA__REFUSE(err, "mla_cache_read: layer %d has a state and no rows: mla_cache_read_state", layer);
    if (position >= k->written[layer])
        return MLA__REFUSE(err, "mla_cache_read: position %d of layer %d, which has rows for %d", position, layer,
                           k->written[layer]);
    for (int i = 0; i < p->width; i++) row[i] = mla__value(p->dtype, mla__row(k, layer, position), i);
    for (int i = 0; k->indexer[layer] >= 0 && i < p->index_width; i++)
        row[p->width + i] = mla__value(p->index_dtype, mla__index_row(k, layer, position), i);
    return MLA_OK;
}

mla_result mla_cache_read_state(const mla_cache *k, int layer, float *state, float *inputs, mla_error *err) {
    const char *null = !k ? "cache" : !state ? "state" : !inputs ? "inputs" : NULL;
    if (null) return MLA__REFUSE(err, "mla_cache_read_state: %s is NULL", null);
    const mla__states *s = &k->pool->states;
    if (layer < 0 || layer >= k->pool->n_layers || s->of[layer] < 0)
        return MLA__REFUSE(err, "mla_cache_read_state: layer %d has no state", layer);
    const int b = mla__state_find(k, s->of[layer], k->length);
    if (b < 0) return MLA__REFUSE(err, "mla_cache_read_state: layer %d has not been run to %d", layer, k->length);
    const unsigned char *from = mla__state_in(k, k->states[b], s->of[layer]);
    mla_widen(state, s->dtype, from, (size_t)s->size.values);
    memcpy(inputs, from + s->inputs_at, (size_t)s->size.inputs * sizeof *inputs);
    return MLA_OK;
}

/* Words of a saved cache's header; of those that must be the cache's own, what they say. */
enum { MLA__SAVED_WORDS = 2, MLA__SAVED_LAYERS, MLA__SAVED_DTYPE = 10, MLA__SAVED_INDEX_DTYPE, MLA__SAVED_LENGTH };
enum { MLA__SAVED_FIXED = MLA__SAVED_LENGTH + 1 };
static const char *const mla__saved_names[] = {"num_hidden_layers", "num_nextn_predict_layers", "kv_lora_rank",
                                               "qk_rope_head_dim",  "index_head_dim",           "model (low word)",
                                               "model (high word)"};
/* States of a stream. */
enum { MLA__AT_HEADER, MLA__AT_HEADER_SUM, MLA__AT_ROWS, MLA__AT_SUM, MLA__AT_END, MLA__AT_FAILURE };

/* Words about states stand behind those of layers, and then, if they are kept, the ids of tokens, of so many. */
enum { MLA__SAVED_STATE_DTYPE, MLA__SAVED_VALUES, MLA__SAVED_INPUTS, MLA__SAVED_STATES };
static uint32_t mla__saved_id(const mla_cache *k) {
    return (uint32_t)(MLA__SAVED_FIXED + 2 * k->pool->n_layers + (k->pool->states.n ? MLA__SAVED_STATES : 0));
}
static uint32_t mla__saved_words(const mla_cache *k, uint32_t length) {
    return mla__saved_id(k) + (k->ids ? length : 0);
}
static uint32_t mla__saved_word(const mla_cache *k, uint64_t model, uint32_t i) {
    const mla_pool *p = k->pool;
    const uint32_t fixed[MLA__SAVED_FIXED] = {0x43414c4d,
                                              (p->states.n ? 2u : 1u) + (k->ids ? 2u : 0u),
                                              mla__saved_words(k, (uint32_t)k->length),
                                              (uint32_t)(p->n_layers - k->n_ahead),
                                              (uint32_t)k->n_ahead,
                                              (uint32_t)p->latent,
                                              (uint32_t)(p->width - p->latent),
                                              (uint32_t)p->index_width,
                                              (uint32_t)model,
                                              (uint32_t)(model >> 32),
                                              (uint32_t)p->dtype,
                                              (uint32_t)p->index_dtype,
                                              (uint32_t)k->length};
    const uint32_t n_layers = (uint32_t)p->n_layers, layer = i - MLA__SAVED_FIXED;
    if (i < MLA__SAVED_FIXED) return fixed[i];
    const uint32_t kind = layer - n_layers, state = kind - n_layers;
    const uint32_t states[MLA__SAVED_STATES] = {(uint32_t)p->states.dtype, (uint32_t)p->states.size.values,
                                                (uint32_t)p->states.size.inputs};
    if (i >= mla__saved_id(k))
        return k->ids && i < mla__saved_words(k, (uint32_t)k->length) ? (uint32_t)k->ids[i - mla__saved_id(k)] : 0;
    if (layer < n_layers) return (uint32_t)mla__written(k, (int)layer);
    if (kind < n_layers) return p->states.of[kind] >= 0 ? 2 : k->indexer[kind] >= 0;
    return state < MLA__SAVED_STATES ? states[state] : 0;
}

/* What a stream goes through of each layer: s->index says which. */
enum { MLA__OF_ROWS, MLA__OF_INDEX, MLA__OF_STATE, MLA__OF_INPUTS, MLA__OF_ALL };
/* How many of them, in a cache of that length; values in each. */
static int mla__stream_rows(const mla_cache *k, int layer, int of, int length) {
    const int n = mla__min(k->written[layer] < 0 ? ~k->written[layer] : k->written[layer], length);
    if (k->pool->states.of[layer] >= 0) return of >= MLA__OF_STATE && n > 0;
    return of == MLA__OF_ROWS || (of == MLA__OF_INDEX && k->indexer[layer] >= 0) ? n : 0;
}
static int mla__stream_width(const mla_cache *k, int of) {
    const mla_pool *p = k->pool;
    return of == MLA__OF_ROWS    ? p->width
           : of == MLA__OF_INDEX ? p->index_width
           : of == MLA__OF_STATE ? (int)p->states.size.values
                                 : (int)p->states.size.inputs;
}
static mla_dtype mla__stream_dtype(const mla_cache *k, int of) {
    const mla_pool *p = k->pool;
    return of == MLA__OF_ROWS    ? p->dtype
           : of == MLA__OF_INDEX ? p->index_dtype
           : of == MLA__OF_STATE ? p->states.dtype
                                 : MLA_F32;
}
static mla__sz mla__stream_bytes(const mla_cache *k, int of) {
    return mla__bytes(mla__stream_dtype(k, of), mla__stream_width(k, of));
}

/* Bytes are part of the sum. */
static void mla__stream_sum(mla_cache_stream *s, const unsigned char *b, size_t n) {
    uint64_t sum = s->at ? s->sum : 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) sum = (sum ^ b[i]) * 0x100000001b3u;
    s->sum = sum, s->at += n;
}
/* Whether there is another row, of a cache of that length. */
static int mla__stream_row(mla_cache_stream *s, const mla_cache *k, int length) {
    while (s->layer < k->pool->n_layers && s->row >= mla__stream_rows(k, s->layer, s->index, length)) {
        s->row = 0, s->index = (s->index + 1) % MLA__OF_ALL;
        if (s->index == 0) s->layer++;
    }
    return s->layer < k->pool->n_layers;
}
static unsigned char *mla__stream_at(const mla_cache_stream *s, const mla_cache *k, int length) {
    const mla__states *states = &k->pool->states;
    if (s->index < MLA__OF_STATE) return s->index ? mla__index_row(k, s->layer, s->row) : mla__row(k, s->layer, s->row);
    const int i = states->of[s->layer];
    const int loads = k->written[s->layer] < 0; /* into the first of two */
    const int b = loads ? 0 : mla__state_find(k, i, mla__min(k->written[s->layer], length));
    return mla__state_in(k, k->states[b], i) + (s->index == MLA__OF_INPUTS ? states->inputs_at : 0);
}
/* After n more bytes of a row of so many. */
static void mla__stream_on(mla_cache_stream *s, size_t n, size_t row_bytes) {
    s->byte += n;
    if (s->byte == row_bytes) s->byte = 0, s->row++;
}

uint64_t mla_cache_saved_bytes(const mla_cache *k) {
    const mla_pool *p = k ? k->pool : NULL;
    if (!p) return 0;
    uint64_t sum = 4 * (uint64_t)mla__saved_words(k, (uint32_t)k->length) + 16;
    for (int i = 0; i < p->n_layers * MLA__OF_ALL; i++)
        sum += (uint64_t)mla__stream_bytes(k, i % MLA__OF_ALL) *
               (uint64_t)mla__stream_rows(k, i / MLA__OF_ALL, i % MLA__OF_ALL, k->length);
    return sum;
}
/* Some of the next bytes, of what the stream is at; 0: it is over. */
static size_t mla__save_some(mla_cache_stream *s, const mla_cache *k, unsigned char *out, size_t bytes) {
    if (s->state == MLA__AT_HEADER) {
        *out = (unsigned char)(mla__saved_word(k, s->model, (uint32_t)(s->at / 4)) >> 8 * (s->at % 4));
        s->state += s->at + 1 == 4 * (uint64_t)mla__saved_words(k, (uint32_t)k->length);
        return 1;
    }
    if (s->state == MLA__AT_ROWS) {
        if (!mla__stream_row(s, k, k->length)) return s->state++, 0;
        const size_t row = (size_t)mla__stream_bytes(k, s->index);
        const size_t n = row - s->byte < bytes ? row - s->byte : bytes;
        memcpy(out, mla__stream_at(s, k, k->length) + s->byte, n);
        mla__stream_on(s, n, row);
        return n;
    }
    if (s->n_part == 0) s->unit_sum = s->sum;
    *out = (unsigned char)(s->unit_sum >> 8 * s->n_part);
    s->n_part = (s->n_part + 1) % 8, s->state += s->n_part == 0;
    return 1;
}
size_t mla_cache_save(mla_cache_stream *s, const mla_cache *k, void *out, size_t bytes) {
    unsigned char *to = (unsigned char *)out;
    size_t done = 0;
    while (s && k && done < bytes && s->state < MLA__AT_END) {
        const size_t n = mla__save_some(s, k, to + done, bytes - done);
        mla__stream_sum(s, to + done, n);
        done += n;
    }
    return done;
}

/* Bytes that belong together gather in s->part; 1: all n are there. */
static int mla__gather(mla_cache_stream *s, const unsigned char **in, size_t *bytes, int n) {
    const size_t some = (size_t)(n - s->n_part) < *bytes ? (size_t)(n - s->n_part) : *bytes;
    if (s->n_part == 0) s->unit_sum = s->sum;
    memcpy(s->part + s->n_part, *in, some);
    mla__stream_sum(s, *in, some);
    *in += some, *bytes -= some, s->n_part += (int)some;
    if (s->n_part < n) return 0;
    s->n_part = 0;
    return 1;
}
/* What a word says is kept, or held against what the cache has; the first that differs is complained of when the sum
   has shown that it was meant. */
static mla_result mla__load_word(mla_cache_stream *s, mla_cache *k, uint32_t i, uint32_t word, mla_error *err) {
    const uint32_t n_layers = (uint32_t)k->pool->n_layers, layer = i - MLA__SAVED_FIXED;
    if (i < MLA__SAVED_WORDS && word != mla__saved_word(k, s->model, i))
        return i == 0 ? mla__fail(err, MLA_ERR_DATA, "mla_cache_load: this is no saved cache")
               : word >= 1 && word <= 4
                   ? mla__fail(err, MLA_ERR_DATA,
                               "mla_cache_load: version %lu: only one of the saved cache and this has %s",
                               (unsigned long)word,
                               ((word - 1) ^ (mla__saved_word(k, 0, 1) - 1)) & 1 ? "states" : "ids of tokens")
                   : mla__fail(err, MLA_ERR_DATA, "mla_cache_load: version %lu, this is 4 or less",
                               (unsigned long)word);
    if (i == MLA__SAVED_WORDS) s->words = word > MLA__SAVED_FIXED ? word : (uint32_t)MLA__SAVED_FIXED;
    else if (i == MLA__SAVED_DTYPE) s->dtype = word;
    else if (i == MLA__SAVED_INDEX_DTYPE) s->index_dtype = word;
    else if (i == MLA__SAVED_LENGTH) s->length = word;
    else if (i > MLA__SAVED_LENGTH && layer < n_layers) k->written[layer] = ~(word < INT32_MAX ? (int)word : INT32_MAX);
    else if (k->pool->states.n && layer == 2 * n_layers + MLA__SAVED_STATE_DTYPE) s->state_dtype = word;
    else if (i >= mla__saved_id(k)) {
        if (k->ids && i - mla__saved_id(k) < (uint32_t)k->capacity)
            k->ids[i - mla__saved_id(k)] = (int)(word & INT32_MAX);
    } else if (word != mla__saved_word(k, s->model, i) && !s->bad) s->bad = i, s->bad_word = word;
    if (i + 1 == s->words) s->state++;
    return MLA_OK;
}
/* The header is as it was written: does the cache take what follows? */
static mla_result mla__load_begin(mla_cache_stream *s, mla_cache *k, mla_error *err) {
    const mla_pool *p = k->pool;
    const unsigned long layer = (unsigned long)(s->bad - MLA__SAVED_FIXED) - (unsigned long)p->n_layers;
    if (s->bad >= MLA__SAVED_FIXED && layer >= (unsigned long)p->n_layers)
        return mla__fail(err, MLA_ERR_DATA, "mla_cache_load: the states are of another size");
    if (s->bad >= MLA__SAVED_FIXED)
        return mla__fail(err, MLA_ERR_DATA,
                         "mla_cache_load: only one of the saved cache and this one has %s in layer %lu",
                         s->bad_word > 1 || p->states.of[layer] >= 0 ? "a state" : "index keys", layer);
    if (s->bad)
        return mla__fail(err, MLA_ERR_DATA, "mla_cache_load: %s of the saved cache is %lu, of this one %lu",
                         mla__saved_names[s->bad - MLA__SAVED_LAYERS], (unsigned long)s->bad_word,
                         (unsigned long)mla__saved_word(k, s->model, s->bad));
    int wrong = s->words != mla__saved_words(k, s->length) || s->length > INT32_MAX ||
                mla__row_dtype((mla_dtype)s->dtype, p->width, "", "", "", NULL) ||
                (p->n_indexers && mla__row_dtype((mla_dtype)s->index_dtype, p->index_width, "", "", "", NULL)) ||
                (p->states.n && s->state_dtype != MLA_F32 && s->state_dtype != MLA_BF16);
    for (int i = 0; i < p->n_layers; i++) wrong = wrong || (uint32_t)~k->written[i] > s->length;
    if (wrong) return mla__fail(err, MLA_ERR_DATA, "mla_cache_load: no cache has such a dtype or length");
    return mla__reserve(k, (int)s->length, "mla_cache_load", err);
}
/* Some of the rows, as they are or converted. */
static void mla__load_rows(mla_cache_stream *s, mla_cache *k, const unsigned char **in, size_t *bytes) {
    const uint32_t dtypes[MLA__OF_ALL] = {s->dtype, s->index_dtype, s->state_dtype, MLA_F32};
    const mla_dtype from = (mla_dtype)dtypes[s->index], to = mla__stream_dtype(k, s->index);
    const int width = mla__stream_width(k, s->index);
    const size_t row = (size_t)mla__bytes(from, width);
    float x[MLA_GROUP];
    if (from == to) {
        const size_t n = row - s->byte < *bytes ? row - s->byte : *bytes;
        memcpy(mla__stream_at(s, k, (int)s->length) + s->byte, *in, n);
        mla__stream_sum(s, *in, n);
        *in += n, *bytes -= n;
        mla__stream_on(s, n, row);
        return;
    }
    const int i = (int)(s->byte / (size_t)mla__bytes(from, MLA_GROUP)) * MLA_GROUP, n = mla__min(MLA_GROUP, width - i);
    if (!mla__gather(s, in, bytes, (int)mla__bytes(from, n))) return;
    mla_widen(x, from, s->part, (size_t)n);
    mla__narrow(to, mla__stream_at(s, k, (int)s->length) + mla__bytes(to, i), x, n);
    mla__stream_on(s, (size_t)mla__bytes(from, n), row);
}
static mla_result mla__load_some(mla_cache_stream *s, mla_cache *k, const unsigned char **in, size_t *bytes,
                                 mla_error *err) {
    if (s->state == MLA__AT_ROWS) {
        if (mla__stream_row(s, k, (int)s->length)) mla__load_rows(s, k, in, bytes);
        else s->state++;
        return MLA_OK;
    }
    if (s->state == MLA__AT_END)
        return mla__fail(err, MLA_ERR_DATA, "mla_cache_load: more than the %.0f bytes of the saved cache",
                         (double)s->at);
    const int size = s->state == MLA__AT_HEADER ? 4 : 8;
    uint64_t word = 0;
    if (!mla__gather(s, in, bytes, size)) return MLA_OK;
    for (int i = size - 1; i >= 0; i--) word = word << 8 | s->part[i];
    if (s->state == MLA__AT_HEADER) return mla__load_word(s, k, (uint32_t)(s->at / 4 - 1), (uint32_t)word, err);
    if (word != s->unit_sum)
        return mla__fail(err, MLA_ERR_DATA, "mla_cache_load: the saved cache is damaged: the sum of its %s is wrong",
                         s->state == MLA__AT_HEADER_SUM ? "header" : "bytes");
    if (s->state++ == MLA__AT_HEADER_SUM) return mla__load_begin(s, k, err);
    k->length = (int)s->length;
    for (int i = 0; i < k->pool->n_layers; i++) {
        const int state = k->pool->states.of[i], written = k->written[i] = ~k->written[i];
        if (state >= 0) *mla__state_at(k->states[0], state) = written > 0 ? written : -1;
    }
    return MLA_OK;
}
mla_result mla_cache_load(mla_cache_stream *s, mla_cache *k, const void *in, size_t bytes, mla_error *err) {
    const unsigned char *from = (const unsigned char *)in;
    mla_result r = MLA_OK;
    if (!s || !k || (!in && bytes > 0))
        return MLA__REFUSE(err, "mla_cache_load: %s is NULL", !s ? "stream" : !k ? "cache" : "in");
    if (s->state == MLA__AT_FAILURE) return mla__fail(err, MLA_ERR_DATA, "mla_cache_load: the stream has failed");
    if (s->state < MLA__AT_END && k->length > 0)
        return MLA__REFUSE(err, "mla_cache_load: the cache holds %d tokens, must be empty", k->length);
    if (bytes == 0 && s->state < MLA__AT_END)
        r = mla__fail(err, MLA_ERR_DATA, "mla_cache_load: the saved cache is cut off after %.0f bytes", (double)s->at);
    while (bytes > 0 && r == MLA_OK) r = mla__load_some(s, k, &from, &bytes, err);
    if (r == MLA_OK) return MLA_OK;
    s->state = MLA__AT_FAILURE;
    mla_cache_reset(k);
    return r;
}

/* ---- >>parallel -------------------------------------------------------------------------------------------------- */

#define MLA__ALONE  65536 /* multiply-adds that are not worth a second thread */
#define MLA__SPINS  2000  /* looks of a thread that waits, some 30 to 100 microseconds, before it yields */
#define MLA__YIELDS 8     /* before it sleeps */
#define MLA__SHARES 4     /* most shares of a step that a member has, so that others can take some if it is slow; */
#define MLA__HEAVY  6.7e7 /* from so many multiply-adds of a member on twice as many */
#define MLA__SHARE  2e6   /* multiply-adds that are worth a share of their own: streams begin anew with each */
#define MLA__LATE   64    /* looks after which a thread asks whether others have left shares */
#define MLA__LINE   128   /* bytes: what threads write must not lie in, or next to, a cache line that others write */

/* Work is a list of loads, each of so many units of equal weight, cut into contiguous shares of the whole. No unit's
   result depends on where the cuts fall, nor on the worker, who gives a share nothing but scratch. */
typedef struct mla__load {
    int units;
    int64_t weight;
} mla__load;
typedef struct mla__share { /* of a load: the units [from, to) */
    int load, from, to, worker;
} mla__share;
typedef void (*mla__work)(mla_context *c, void *arg, const mla__share *my);
typedef struct mla__call {
    mla_context *c;
    mla__work work;
    void *arg;
    int n_loads, n_shares;
    int64_t total; /* weight of all units */
} mla__call;
typedef void (*mla__body)(mla_context *c, void *arg); /* of a forward call, when everything has been checked */

/* A team at work. Its leader publishes a step by its call and a new turn; each member has a deck of shares, which it
   takes one by one; who has done his own takes what is left in others' decks, if they are late; the step is over when
   all shares are done. */
typedef struct mla__team {
    uint64_t turn;  /* the number of the step under way in the upper half; << 16: shares in a deck; MLA__OVER */
    mla__call call; /* of the step */
    char line0[MLA__LINE - sizeof(uint64_t) - sizeof(mla__call)];
    uint32_t bell, sleepers;       /* rung for a new turn if members sleep, so many */
    uint32_t end_bell, end_sleeps; /* rung for the leader when a share is done, if it sleeps */
    uint32_t led;                  /* there is a leader */
    uint32_t dealt;                /* shares that each deck has had in all steps */
    char line1[MLA__LINE - 6 * sizeof(uint32_t)];
} mla__team;
typedef struct mla__deck {
    uint64_t ticket; /* a step's number in the upper half, and how many of its shares have been taken */
    char line0[MLA__LINE - sizeof(uint64_t)];
    uint32_t done, taken; /* shares done in all steps; shares that the member took from others in this one */
    double busy;          /* seconds that it has worked in this step */
    char line1[MLA__LINE - 2 * sizeof(uint32_t) - sizeof(double)];
} mla__deck;

/* y = x W^T for some tokens; jobs that run side by side form one parallel region. */
typedef struct mla__job {
    mla__in in;
    float *y;
    mla__sz ldy;
    int row0, rows;
    const mla_linear *w, *up; /* up: y = silu(x W^T) * (x up^T) */
    const int *scatter;       /* down projections of experts: y[scatter[t]] += weight[t] * x[t] W^T */
    const float *weight;
    int exact;   /* activations stay f32, whatever the weights are */
    int x_rows;  /* rows of x in all */
    float limit; /* of up: swiglu_limit, or 0 */
} mla__job;

typedef struct mla__worker {
    float *panel; /* [KC, NR], or as the ISA's own products want it */
    float *group; /* [MC, GROUP] */
} mla__worker;

/* Of the sequences whose tokens meet weights together. With invariant, how they meet them must depend on nothing else,
   so that short and long ones are apart. */
typedef enum mla__manner { MLA__ANY = 0, MLA__SHORT, MLA__LONG } mla__manner;

/* Some of what is cut among ranks: from, to (not included). */
typedef struct mla__slice {
    int from, to;
} mla__slice;

/* What all parts of a context share, and the scratch of each, which a part's own section describes and lays out. */
struct mla_context {
    mla__object object;
    const mla_model *m;
    const mla_config *f;            /* the model's */
    int D, H, R, Q, N, P, V, Hl, C; /* and its sizes, by the LETTERS */
    mla__kernels k;
    mla_error err;
    int threads, max_tokens;
    mla_activations activations;
    mla_attn_path path;
    int invariant;
    mla__manner manner; /* of the part of a call under way */
    int row0;           /* its first row in the call */
    mla_run run;
    mla_wait wait;
    mla_wake wake;
    void *run_user;
    mla_stats *stats;
    double shared; /* seconds of the call under way that were shared steps */
    double *phase; /* where those of the phase under way go; NULL: it is in none */
    double phase_begin;
    mla_watch watch;
    void *watch_user;
    int aborted;         /* the call under way, by watch or a hook of shard */
    mla_shard shard;     /* ranks at least 1 */
    int head0;           /* H heads from this one on are this rank's */
    int begun, ended;    /* sums over the ranks in the call under way */
    int *begin;          /* [ranks+1] what is gathered */
    mla__slice *experts; /* [layers] this rank's */
    unsigned char *kept; /* rows that a call of multi-token prediction writes again */
    int teams, leads;    /* calls are run by teams; one is under way */
    int leader;          /* whose scratch has what one does alone */
    mla__team *team;
    mla__deck *decks; /* [threads] */
    mla__body body;   /* of the call under way */
    void *body_arg;
    mla__load *loads;     /* of the parallel region under way */
    mla__worker *workers; /* [threads] */
    /* linear layers */
    mla__job *jobs; /* of the parallel region to come */
    int n_jobs;
    unsigned char *act; /* rounded activations of the jobs under way */
    /* the others; for each worker [threads] */
    struct mla__call_scratch *call;
    struct mla__sparse_scratch *sparse;
    struct mla__index_scratch *index;
    struct mla__index_worker *index_workers;
    struct mla__walker *walkers;
    struct mla__attn_scratch *attn;
    struct mla__kda_scratch *kda;
    struct mla__kda_worker *kda_workers;
    struct mla__moe_scratch *moe;
    struct mla__block_scratch *block;
};

/* Share s of a call: its part of each load, in their order. */
static void mla__share_work(const mla__call *call, int s, int worker) {
    mla_context *c = call->c;
    int64_t lo = call->total * s / call->n_shares, hi = call->total * (s + 1) / call->n_shares; /* from this load on */
    for (int i = 0; i < call->n_loads && hi > 0; i++) {
        const int64_t w = c->loads[i].weight, end = c->loads[i].units * w;
        const int64_t from = lo < 0 ? 0 : lo > end ? end : lo, to = hi > end ? end : hi;
        const mla__share my = {i, (int)((from + w - 1) / w), (int)((to + w - 1) / w), worker};
        if (my.from < my.to) call->work(c, call->arg, &my);
        lo -= end, hi -= end;
    }
}
static double mla__now(const mla_context *c) {
    return c->stats && c->stats->clock ? c->stats->clock(c->stats->clock_user) : 0;
}
static void mla__share_timed(const mla__call *call, int s, int worker) {
    const double start = mla__now(call->c);
    mla__share_work(call, s, worker);
    call->c->decks[worker].busy += mla__now(call->c) - start;
}
static void mla__task(void *arg, int i) { mla__share_timed((const mla__call *)arg, i, i); }
static void mla__run_default(void *user, int n, void (*task)(void *arg, int i), void *arg) {
    (void)user;
#ifdef _OPENMP
#pragma omp parallel for num_threads(n) schedule(static, 1)
#endif
    for (int i = 0; i < n; i++) task(arg, i);
}

#if MLA__TEAMS
#define MLA__OVER 1u /* in a turn: the call is done, and members go */

/* Takes a share of the step out of a deck; -1: there is none, or the step is over. */
static int mla__take_share(mla__deck *deck, uint64_t turn) {
    const uint64_t number = turn >> 32, n = turn >> 16 & 0xffff;
    uint64_t now = __atomic_load_n(&deck->ticket, __ATOMIC_ACQUIRE), next;
    do {
        if ((int32_t)((uint32_t)number - (uint32_t)(now >> 32)) < 0) return -1;
        next = now >> 32 == number ? now : number << 32; /* every step takes from all decks, so that this one is new */
        if ((next++ & 0xffff) >= n) return -1;
    } while (!__atomic_compare_exchange_n(&deck->ticket, &now, next, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE));
    return (int)(next & 0xffff) - 1;
}
static void mla__ring(const mla_context *c, uint32_t *bell) {
    __atomic_fetch_add(bell, 1, __ATOMIC_SEQ_CST);
    c->wake(c->run_user, bell);
}
/* A member works off what is left in a deck. The call is its turn's: while a share is not done, no other comes. */
static void mla__work_off(mla_context *c, uint64_t turn, int deck, int me) {
    mla__team *team = c->team;
    for (int s; (s = mla__take_share(&c->decks[deck], turn)) >= 0;) {
        mla__share_timed(&team->call, deck * (int)(turn >> 16 & 0xffff) + s, me);
        c->decks[me].taken += deck != me;
        __atomic_fetch_add(&c->decks[deck].done, 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&team->end_sleeps, __ATOMIC_SEQ_CST)) mla__ring(c, &team->end_bell);
    }
}
static void mla__work_off_others(mla_context *c, uint64_t turn, int me) {
    for (int i = 1; i < c->threads; i++) mla__work_off(c, turn, (me + i) % c->threads, me);
}
/* After so many looks: is it time to sleep? */
static int mla__look(const mla_context *c, unsigned looks) {
    if (looks >= MLA__SPINS + MLA__YIELDS && c->wait) return 1;
    if (looks < MLA__SPINS) mla__pause();
    else mla__yield();
    return 0;
}

static void mla__turn_to(const mla_context *c, uint64_t turn) {
    mla__team *team = c->team;
    __atomic_store_n(&team->turn, turn, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&team->sleepers, __ATOMIC_SEQ_CST)) mla__ring(c, &team->bell);
}
static int mla__done(const mla_context *c, int deck) {
    return __atomic_load_n(&c->decks[deck].done, __ATOMIC_SEQ_CST) == c->team->dealt;
}
/* The leader waits until all shares in a deck are done. */
static void mla__meet(mla_context *c, int deck, uint64_t turn) {
    mla__team *team = c->team;
    for (unsigned looks = 0; !mla__done(c, deck); looks++) {
        if (looks == MLA__LATE) mla__work_off_others(c, turn, c->leader);
        if (!mla__look(c, looks)) continue;
        const uint32_t bell = __atomic_load_n(&team->end_bell, __ATOMIC_SEQ_CST);
        __atomic_store_n(&team->end_sleeps, 1, __ATOMIC_SEQ_CST);
        if (!mla__done(c, deck)) c->wait(c->run_user, &team->end_bell, bell);
        __atomic_store_n(&team->end_sleeps, 0, __ATOMIC_SEQ_CST);
    }
}
static void mla__team_step(mla_context *c, const mla__call *call) {
    mla__team *team = c->team;
    const uint32_t number = (uint32_t)(team->turn >> 32) + 1, n = (uint32_t)(call->n_shares / c->threads);
    const uint64_t turn = (uint64_t)number << 32 | n << 16;
    team->call = *call, team->dealt += n;
    mla__turn_to(c, turn);
    mla__work_off(c, turn, c->leader, c->leader);
    for (int i = 0; i < c->threads; i++) mla__meet(c, i, turn);
}

/* The other members, until the call is over. */
static void mla__follow(mla_context *c, int me) {
    mla__team *team = c->team;
    uint64_t seen = 0;
    for (unsigned looks = 0;; looks++) {
        const uint64_t turn = __atomic_load_n(&team->turn, __ATOMIC_ACQUIRE);
        if (turn & MLA__OVER) return;
        if (turn != seen) {
            seen = turn, looks = 0;
            mla__work_off(c, turn, me, me);
        }
        if (looks == MLA__LATE) mla__work_off_others(c, turn, me);
        if (mla__look(c, looks)) {
            const uint32_t bell = __atomic_load_n(&team->bell, __ATOMIC_SEQ_CST);
            __atomic_fetch_add(&team->sleepers, 1, __ATOMIC_SEQ_CST);
            if (__atomic_load_n(&team->turn, __ATOMIC_SEQ_CST) == turn) c->wait(c->run_user, &team->bell, bell);
            __atomic_fetch_sub(&team->sleepers, 1, __ATOMIC_SEQ_CST);
        }
    }
}
/* Whoever comes first leads; the others give task 0 a little time, which most pools run on the caller's thread. */
static void mla__member(void *arg, int me) {
    mla_context *c = (mla_context *)arg;
    mla__team *team = c->team;
    uint32_t none = 0;
    for (int i = 0; me > 0 && i < MLA__SPINS && !__atomic_load_n(&team->led, __ATOMIC_RELAXED); i++) mla__pause();
    if (!__atomic_compare_exchange_n(&team->led, &none, 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
        mla__follow(c, me);
        return;
    }
    const double start = mla__now(c);
    c->leads = 1, c->leader = me;
    c->body(c, c->body_arg);
    c->leads = 0, c->leader = 0;
    if (c->stats) c->stats->serial += mla__now(c) - start - c->shared;
    mla__turn_to(c, (team->turn >> 32) << 32 | MLA__OVER);
}
#endif

/* Of a shared step that took so long. */
static void mla__step_stats(mla_context *c, double seconds) {
    double sum = 0, most = 0;
    for (int i = 0; i < c->threads; i++) {
        mla__deck *d = &c->decks[i];
        sum += d->busy, most = d->busy > most ? d->busy : most;
        c->stats->taken += d->taken;
        d->busy = 0, d->taken = 0;
    }
    sum /= c->threads;
    c->shared += seconds;
    c->stats->steps++, c->stats->kernels += sum, c->stats->imbalance += most - sum,
        c->stats->barriers += seconds - most;
}
/* The first n of c->loads. cost: about how many multiply-adds they are; for few, waking threads takes longer. part:
   NULL, or where the step's seconds are added, too. */
static void mla__parallel_timed(mla_context *c, double *part, mla__work work, void *arg, int n, double cost) {
    mla__call call = {c, work, arg, n, 1, 0};
    int64_t units = 0;
    for (int i = 0; i < n; i++) units += c->loads[i].units, call.total += c->loads[i].units * c->loads[i].weight;
    if (cost <= MLA__ALONE) {
        mla__share_work(&call, 0, c->leader);
        if (c->stats) c->stats->alone++;
        return;
    }
    const double start = mla__now(c);
    const int most = cost > MLA__HEAVY * c->threads ? 2 * MLA__SHARES : MLA__SHARES;
    call.n_shares = c->threads;
    /* not of less than two units: panels are made of two strips */
    for (int i = 2; i <= most && i * 2 * (int64_t)c->threads <= units && c->leads; i++)
        if (i * c->threads * MLA__SHARE <= cost) call.n_shares += c->threads;
    if (c->threads == 1) mla__task(&call, 0);
#if MLA__TEAMS
    else if (c->leads) mla__team_step(c, &call);
#endif
    else c->run(c->run_user, c->threads, mla__task, &call);
    if (!c->stats) return;
    const double seconds = mla__now(c) - start;
    if (part) *part += seconds;
    mla__step_stats(c, seconds);
}
static void mla__parallel(mla_context *c, mla__work work, void *arg, int n, double cost) {
    mla__parallel_timed(c, NULL, work, arg, n, cost);
}
/* One load of n units. */
static void mla__parallel_even(mla_context *c, mla__work work, void *arg, int n, double cost) {
    c->loads[0].units = n, c->loads[0].weight = 1;
    mla__parallel(c, work, arg, 1, cost);
}

/* The phase under way is over, and perhaps another one begins, whose seconds go there. */
static void mla__phase(mla_context *c, double *seconds) {
    const double now = mla__now(c);
    if (c->phase) *c->phase += now - c->phase_begin;
    c->phase = seconds, c->phase_begin = now;
}
/* One that reads so many bytes of weights. */
static void mla__phase_of(mla_context *c, mla_phase phase, double bytes) {
    if (!c->stats) return;
    mla__phase(c, &c->stats->phase_seconds[phase]);
    c->stats->phase_bytes[phase] += bytes;
}
/* Whether the call goes on to a phase. */
static int mla__go_on(mla_context *c, int layer, int layers, mla_phase phase) {
    if (!c->watch || !c->watch(c->watch_user, layer, layers, phase)) return 1;
    if (phase == MLA_PHASE_HEAD) mla__fail(&c->err, MLA_ERR_ABORTED, "context.watch ended the call before the head");
    else
        mla__fail(&c->err, MLA_ERR_ABORTED, "context.watch ended the call before the %s of layer %d",
                  phase == MLA_PHASE_ATTENTION ? "attention" : "experts", layer);
    c->aborted = 1;
    return 0;
}

/* A forward call. */
static void mla__forward(mla_context *c, mla__body body, void *arg) {
    const double start = mla__now(c), serial = c->stats ? c->stats->serial : 0;
    c->shared = 0, c->aborted = 0, c->begun = c->ended = 0, c->phase = NULL;
#if MLA__TEAMS
    if (c->teams) {
        c->body = body, c->body_arg = arg, c->team->led = 0, c->team->turn &= ~(uint64_t)MLA__OVER;
        c->run(c->run_user, c->threads, mla__member, c);
    } else
#endif
        body(c, arg);
    if (!c->stats) return;
    mla__phase(c, NULL);
    const double seconds = mla__now(c) - start;
    c->stats->calls++, c->stats->seconds += seconds;
    if (c->teams) c->stats->barriers += seconds - c->shared - (c->stats->serial - serial);
    else c->stats->serial += seconds - c->shared;
}
static void mla__parallel_layout(mla_context *c, mla__arena *arena) {
    char *lines = MLA__TAKE(arena, char, sizeof *c->team + c->threads * (double)sizeof *c->decks + MLA__LINE);
    if (!lines) return;
    lines += (MLA__LINE - (size_t)((uintptr_t)lines % MLA__LINE)) % MLA__LINE;
    c->team = (mla__team *)(void *)lines, c->decks = (mla__deck *)(void *)(lines + sizeof *c->team);
    memset(lines, 0, sizeof *c->team + (size_t)c->threads * sizeof *c->decks);
}

/* ---- >>shard ----------------------------------------------------------------------------------------------------- */
/* What of a model is this rank's, and what the ranks do together. Blocks of weights along a row are not cut, nor rows
   interleaved: where there are fewer such units than ranks, some have none. */

/* The least that is a multiple of both, or more than any size. */
static int mla__multiple(int a, int b) {
    int x = a, y = b;
    while (y > 0) {
        const int rest = x % y;
        x = y, y = rest;
    }
    return (int)fmin((double)(a / x) * b, MLA__DIM_MAX + 1.0);
}
/* Columns of w, or none, must be cut at multiples of it. */
static int mla__columns_unit(const mla_tensor *w) {
    if (!w->data) return 1;
    const int step = mla__scaled(w) && mla__scale_cols(w) < w->cols ? mla__scale_cols(w) : 1;
    return mla__multiple(mla__formats[w->dtype].block, step);
}
/* A rank's of n, cut at multiples of unit. */
static mla__slice mla__slice_at(int n, int unit, int rank, int ranks) {
    const int64_t units = ((int64_t)n + unit - 1) / unit;
    const int64_t from = units * rank / ranks * unit, to = units * (rank + 1) / ranks * unit;
    const mla__slice s = {from < n ? (int)from : n, to < n ? (int)to : n};
    return s;
}
static mla__slice mla__slice_of(const mla_context *c, int n, int unit) {
    return mla__slice_at(n, unit, c->shard.rank, c->shard.ranks);
}
/* Of rows whose results are gathered. */
static mla__slice mla__gathered(const mla_context *c, int n) { return mla__slice_of(c, n, MLA__STRIP); }
/* Of what lies between gate, up and down; and where about part / whole of it end. */
static int mla__inner_unit(const mla_mlp_weights *w) {
    return mla__multiple(MLA__STRIP, mla__columns_unit(&w->down.weight));
}
static mla__slice mla__inner_of(const mla_context *c, const mla_mlp_weights *w) {
    return mla__slice_of(c, w->gate.weight.rows, mla__inner_unit(w));
}
static int mla__inner_at(const mla_mlp_weights *w, mla__sz part, mla__sz whole) {
    const int n = w->gate.weight.rows, unit = mla__inner_unit(w);
    const double share = fmin(fmax((double)part / (double)whole, 0), 1);
    return mla__min(n, (int)(share * ((n + unit - 1) / unit) + 0.5) * unit);
}
static double mla__share_of(mla__slice s, int n) { return n > 0 ? (s.to - s.from) / (double)n : 0; }

/* Heads are the same in all layers. */
static mla__slice mla__heads_slice(const mla_context *c) {
    const mla_model *m = c->m;
    const int n = m->c.num_attention_heads, query = mla__query_width(&m->c);
    int unit = 1;
    for (int i = 0; i < mla__all_layers(&m->c) && n > 0; i++) {
        const mla_attn_weights *w = &m->layers[i].attn;
        const int gate = w->gate.weight.rows / n;
        unit = mla__multiple(unit, mla__multiple(mla__columns_unit(&w->o.weight), c->V) / c->V);
        if (w->q.weight.layout || w->q_b.weight.layout) unit = mla__multiple(unit, mla__multiple(16, query) / query);
        if (w->gate.weight.layout) unit = mla__multiple(unit, mla__multiple(16, gate) / gate);
    }
    return mla__slice_of(c, n, unit);
}
/* Of a layer's experts, neighbours with about as many bytes as every rank's. */
static mla__slice mla__experts_slice(const mla_context *c, const mla_moe_weights *w) {
    const int E = c->f->n_routed_experts, rank = c->shard.rank, ranks = c->shard.ranks;
    mla__slice s = {0, E};
    double sum = 0, at = 0;
    if (ranks == 1 || !w->experts) return s;
    for (int e = 0; e < E; e++) sum += mla__bytes_of(MLA__IN_MLP, &w->experts[e]);
    for (int e = 0; e < E; e++) {
        const double bytes = mla__bytes_of(MLA__IN_MLP, &w->experts[e]), middle = (at + bytes / 2) * ranks;
        s.from += middle < sum * rank, s.to -= rank + 1 < ranks && middle >= sum * (rank + 1);
        at += bytes;
    }
    return s;
}
static void mla__shard_layout(mla_context *c, mla__arena *arena) {
    const int n = mla__all_layers(c->f);
    const mla__slice heads = mla__heads_slice(c);
    c->head0 = heads.from, c->H = heads.to - heads.from;
    c->begin = MLA__TAKE(arena, int, c->shard.ranks + 1.0);
    c->experts = MLA__TAKE(arena, mla__slice, n);
    const double row = c->R + c->P + mla__index_width(c->m), again = n > c->f->num_hidden_layers ? c->max_tokens : 0;
    c->kept = MLA__TAKE(arena, unsigned char, c->shard.ranks > 1 ? again * row * (double)sizeof(float) : 0);
    for (int i = 0; i < n && c->experts; i++) c->experts[i] = mla__experts_slice(c, &c->m->layers[i].moe);
}

static void mla__hook_failed(mla_context *c, const char *name) {
    if (!c->aborted) mla__fail(&c->err, MLA_ERR_ABORTED, "context.shard.%s of rank %d failed", name, c->shard.rank);
    c->aborted = 1;
}
/* x [n] becomes the sum of all ranks' x, when mla__settle has been called with what this gives. */
static int mla__reduce(mla_context *c, float *x, mla__sz n) {
    const mla_shard *s = &c->shard;
    if (s->ranks == 1 || c->aborted) return c->begun;
    if (s->all_reduce(s->user, x, (size_t)n)) mla__hook_failed(c, "all_reduce");
    else c->begun++;
    return c->begun;
}
/* Gives 0 if the call has come to an end. */
static int mla__settle(mla_context *c, int begun) {
    for (const mla_shard *s = &c->shard; c->ended < begun; c->ended++)
        if (s->wait && s->wait(s->user)) mla__hook_failed(c, "wait");
    return !c->aborted;
}
/* Of n rows of x, `cols` values each, every rank has made those of mla__gathered. */
static void mla__collect(mla_context *c, float *x, mla__sz ldx, int n, int cols) {
    const mla_shard *s = &c->shard;
    if (s->ranks == 1 || c->aborted) return;
    for (int r = 0; r < s->ranks; r++) c->begin[r] = mla__slice_at(cols, MLA__STRIP, r, s->ranks).from;
    c->begin[s->ranks] = cols;
    if (s->all_gather(s->user, x, (size_t)ldx, n, c->begin)) mla__hook_failed(c, "all_gather");
}

/* ---- >>linear ---------------------------------------------------------------------------------------------------- */

static mla__in mla__in_of(const float *x, mla__sz ldx, int T) {
    const mla__in in = {x, NULL, ldx, 0, NULL, T, 0, 0, 0, 0};
    return in;
}
/* Tokens meet the weights of w (NULL: not in int8) as these stream by, and not in panels: by their number, or as all
   of their kind do. */
static int mla__few(const mla_context *c, const mla_tensor *w, int T) {
    if (c->manner != MLA__ANY) return c->manner == MLA__SHORT;
    return T <= (w && w->layout && mla__blocked(w->dtype) ? c->k.few : MLA__FEW);
}
/* How many columns of w x meets. */
static int mla__in_cols(const mla__in *in, const mla_tensor *w) { return in->K > 0 ? in->K : w->cols; }
/* w from column k on, where blocks begin and scales do: rows are as far apart as ever. */
static mla_tensor mla__columns(const mla_tensor *w, int k) {
    mla_tensor t = *w;
    t.data = (const char *)w->data + (w->layout ? 16 : 1) * mla__bytes(w->dtype, k);
    if (mla__scaled(w)) t.scale = (const char *)w->scale + k / mla__scale_cols(w) * mla__bytes(w->scale_dtype, 1);
    return t;
}
/* y [T, n0..n1) = x W^T + bias, y indexed from n0. Of columns, the first ones bring the bias. next: NULL, or whose rows
   from next_row on come then. */
static void mla__rows_then(mla_context *c, float *y, mla__sz ldy, const mla__in *in, const mla_linear *w, int row0,
                           int n0, int n1, float *panel, const mla_linear *next, int next_row) {
    const mla_tensor *b = &w->bias;
    const mla_dtype d = w->weight.dtype;
    const int strips = in->q && w->weight.layout && !in->parts;
    const int few = strips && c->k.few > MLA__FEW ? in->T <= c->k.few : mla__few(c, NULL, in->T);
    const mla__kernel run = in->parts ? c->k.bgemm
                            : !in->q  ? (few ? c->k.dot : c->k.gemm)[d]
                            : few     ? c->k.idot[d][w->weight.layout]
                                      : c->k.igemm[d];
    const mla_tensor part = mla__columns(&w->weight, in->k0);
    mla__product p = {y, ldy, *in, &part, row0, n0, n1, 0, 0, panel, c->k.fetch, NULL, next_row, c->k.widen[d]};
    p.K = mla__in_cols(in, &part);
    if (next) p.next = &next->weight;
    /* more tokens, for some of which weights stream by once more each time: from near caches, if they are a strip */
    const int some = in->q || d == MLA_E4M3 ? MLA__FEW : 4;
    const int once = in->parts || !few || strips || in->T <= MLA__FEW || (!in->q && mla__widened(d));
    for (int n = n0; n < n1; n = p.n1)
        for (int t = 0; t < in->T; t += p.in.T) {
            p.n0 = n, p.n1 = once ? n1 : mla__min(n + MLA__STRIP, n1);
            p.in = mla__in_part(in, t, once ? in->T : mla__min(some, in->T - t));
            p.y = y + t * ldy + n - n0;
            run(&p);
        }
    for (int t = 0; b->data && in->k0 == 0 && t < in->T; t++)
        for (int n = n0; n < n1; n++) y[t * ldy + n - n0] += mla__value(b->dtype, b->data, row0 + n);
}

static void mla__rows(mla_context *c, float *y, mla__sz ldy, const mla__in *in, const mla_linear *w, int row0, int n0,
                      int n1, float *panel) {
    mla__rows_then(c, y, ldy, in, w, row0, n0, n1, panel, NULL, 0);
}

/* y [T, cols] = x [T, n] . W[row0 .. row0+n, :]. Where both ways give the same bits their number decides. */
static void mla__mix(mla_context *c, float *y, mla__sz ldy, const mla__in *in, const mla_tensor *w, int row0, int n,
                     float *panel) {
    const int same = w->cols % MLA__NL_MAX == 0 && w->dtype != MLA_E4M3;
    const int few = same ? in->T <= MLA__FEW : mla__few(c, NULL, in->T);
    const mla__product p = {y, ldy, *in, w, row0, 0, n, w->cols, few, panel, 0, NULL, 0, c->k.widen[w->dtype]};
    c->k.mix[w->dtype](&p);
}
static mla_linear mla__linear_of(const mla_tensor *w) {
    mla_linear l = MLA__ZERO;
    l.weight = *w;
    return l;
}

/* Puts y [T, rows of w] = x W^T on the list of jobs. */
static mla__job *mla__job_add(mla_context *c, float *y, mla__sz ldy, const float *x, mla__sz ldx, int T,
                              const mla_linear *w) {
    const mla__job j = {mla__in_of(x, ldx, T), y, ldy, 0, w->weight.rows, w, NULL, NULL, NULL, 0, T, 0};
    c->jobs[c->n_jobs] = j;
    return &c->jobs[c->n_jobs++];
}

/* A job takes these rows of the weights, or their columns. */
static void mla__job_of_rows(mla__job *j, mla__slice of) { j->row0 = of.from, j->rows = of.to - of.from; }
static void mla__job_of_columns(mla__job *j, mla__slice of) { j->in.k0 = of.from, j->in.K = of.to - of.from; }

static void mla__clamp(float *gate, float *up, int n, float limit) {
    for (int i = 0; i < n; i++) gate[i] = gate[i] > limit ? limit : gate[i]; /* NaN stays */
    for (int i = 0; i < n; i++) up[i] = up[i] > limit ? limit : up[i] < -limit ? -limit : up[i];
}
/* Rows [n0, n1) of W of a job; then come those of the next one from then on, or it is NULL. */
static void mla__job_rows(mla_context *c, const mla__job *j, int n0, int n1, const mla__worker *my,
                          const mla__job *next, int then) {
    const mla_linear *next_w = next ? next->w : NULL;
    const int next_row = next ? next->row0 + then : 0;
    if (!j->up && !j->scatter) {
        mla__rows_then(c, j->y + n0, j->ldy, &j->in, j->w, j->row0, n0, n1, my->panel, next_w, next_row);
        return;
    }
    /* Results are kept aside of so many rows at a time: as many whole strips as the scratch holds. */
    const int group = MLA__MC * MLA__GROUP / mla__min(j->in.T, MLA__MC) / MLA__STRIP * MLA__STRIP;
    for (int t0 = 0; t0 < j->in.T; t0 += MLA__MC)
        for (int n = n0; n < n1; n += group) {
            const mla__in in = mla__in_part(&j->in, t0, mla__min(MLA__MC, j->in.T - t0));
            const int end = mla__min(n + group, n1);
            float *y = j->y + t0 * j->ldy + n;
            if (j->up) mla__rows_then(c, y, j->ldy, &in, j->w, j->row0, n, end, my->panel, j->up, j->row0 + n);
            mla__rows_then(c, my->group, group, &in, j->up ? j->up : j->w, j->row0, n, end, my->panel, next_w,
                           next_row);
            for (int t = 0; t < in.T; t++) {
                float *aside = my->group + t * group;
                if (j->limit > 0) mla__clamp(y + t * j->ldy, aside, end - n, j->limit);
                if (j->up) {
                    c->k.swiglu(y + t * j->ldy, y + t * j->ldy, aside, end - n);
                    continue;
                }
                float *to = j->y + j->scatter[t0 + t] * j->ldy;
                c->k.accumulate(to + n, aside, j->weight[t0 + t], end - n);
            }
        }
}
static void mla__jobs_work(mla_context *c, void *none, const mla__share *my) {
    const mla__job *j = &c->jobs[my->load];
    (void)none;
    const int n0 = my->from * MLA__STRIP, n1 = mla__min(my->to * MLA__STRIP, j->rows);
    /* a worker's shares lie one behind the other */
    const mla__job *next = n1 < j->rows ? j : my->load + 1 < c->n_jobs ? j + 1 : NULL;
    mla__job_rows(c, j, n0, n1, &c->workers[my->worker], next, n1 < j->rows ? n1 : 0);
}

/* What a tensor wants its activations rounded to. With tiles those of blocks become bf16, which is nearer than int8. */
static int mla__wants(const mla_context *c, const mla_tensor *w, int T) {
    const int few = mla__few(c, w, T), to = (int)c->activations;
    if (to == MLA_ACT_F32) return MLA_ACT_F32;
    if (mla__blocked(w->dtype)) return c->k.tiles && !few && to != MLA_ACT_INT8 ? MLA_ACT_BF16 : MLA_ACT_INT8;
    if (w->dtype == MLA_E4M3 && to == MLA_ACT_E4M3) return MLA_ACT_E4M3;
    if (w->dtype == MLA_BF16 && to == MLA_ACT_BF16 && !few) return MLA_ACT_BF16;
    return c->k.tiles && !few && w->dtype != MLA_F32 ? MLA__ACT_SPLIT : MLA_ACT_F32;
}
/* Of gate and up that want different things, both meet f32. */
static int mla__rounds_to(const mla_context *c, const mla__job *j) {
    const int to = j->exact ? MLA_ACT_F32 : mla__wants(c, &j->w->weight, j->in.T);
    return j->up && mla__wants(c, &j->up->weight, j->in.T) != to ? MLA_ACT_F32 : to;
}
static int mla__packed(int to) { return to == MLA_ACT_BF16 || to == MLA__ACT_SPLIT; }
static void mla__activations_work(mla_context *c, void *none, const mla__share *my) {
    const mla__job *j = &c->jobs[my->load];
    const mla__in *in = &j->in;
    const int cols = mla__in_cols(in, &j->w->weight), to = mla__rounds_to(c, j);
    unsigned char *q = c->act + (in->q - c->act);
    (void)none;
    for (int t = my->from; t < my->to; t++) {
        unsigned char *y = q + t * in->ldq;
        const float *x = mla__packed(to) && t < in->T ? mla__x_of(in, t) : in->x + t * in->ldx;
        if (to == MLA_ACT_INT8) c->k.quantize((mla__act *)(void *)y, x, cols);
        else if (to == MLA_ACT_E4M3) mla__round_e4m3((float *)(void *)y, x, cols);
        else if (t >= in->T) memset(y, 0, (size_t)in->ldq);
        else c->k.split((uint16_t *)(void *)y, x, cols, to == MLA_ACT_BF16 ? 1 : 2);
    }
}
/* Activations are rounded for weights that want it: to int8 or e4m3, once for jobs that share x, or to bf16, where
   tokens that are picked are put in a row, in multiples of sixteen. */
static void mla__activations(mla_context *c) {
    double cost = 0;
    mla__sz used = 0;
    /* that was rounded to each: experts may be of several dtypes, and all have the same x */
    const mla__in *last[MLA__ACT_COUNT] = {0};
    for (int i = 0; i < c->n_jobs; i++) {
        mla__job *j = &c->jobs[i];
        const int to = mla__rounds_to(c, j), packed = mla__packed(to), cols = mla__in_cols(&j->in, &j->w->weight);
        const mla__in *same = last[to];
        c->loads[i].units = 0, c->loads[i].weight = 1;
        if (to == MLA_ACT_F32) continue;
        j->in.ldq = mla__act_bytes(to, cols);
        if (same && same->x == j->in.x && same->ldq == j->in.ldq && (!packed || (!same->idx && !j->in.idx))) {
            j->in.q = same->q;
            continue;
        }
        last[to] = &j->in;
        j->in.q = c->act + used;
        c->loads[i].units = packed ? mla__up_to(j->in.T, 16) : j->x_rows, c->loads[i].weight = cols;
        used += c->loads[i].units * j->in.ldq;
        cost += 2.0 * c->loads[i].units * (double)c->loads[i].weight;
    }
    if (used) mla__parallel(c, mla__activations_work, NULL, c->n_jobs, cost);
    for (int i = 0; i < c->n_jobs; i++) {
        mla__in *in = &c->jobs[i].in;
        if (!in->q) continue;
        const int to = mla__rounds_to(c, &c->jobs[i]);
        if (mla__packed(to)) in->idx = NULL, in->ldx = 0, in->parts = in->w_parts = to == MLA_ACT_BF16 ? 1 : 2;
        if (to == MLA_ACT_E4M3) { /* f32 in form */
            in->x = (const float *)(const void *)in->q, in->ldx = mla__in_cols(in, &c->jobs[i].w->weight);
            in->q = NULL;
        }
    }
}

/* What a row of weights takes, in tokens: to read and unpack it costs, too; to make panels for tiles much more. */
static int mla__row_work(int T, int tiles) { return tiles ? mla__up_to(T, 16) + 48 : T + 4; }
/* All jobs of the list, which then is empty. */
static void mla__jobs_run(mla_context *c) {
    double cost = 0;
    mla__activations(c);
    for (int i = 0; i < c->n_jobs; i++) {
        const mla__job *j = &c->jobs[i];
        cost += (double)j->in.T * j->rows * mla__in_cols(&j->in, &j->w->weight);
        c->loads[i].units = (j->rows + MLA__STRIP - 1) / MLA__STRIP;
        c->loads[i].weight = mla__row_work(j->in.T, j->in.parts > 0) * (j->up ? 2 : 1);
    }
    mla__parallel(c, mla__jobs_work, NULL, c->n_jobs, cost);
    c->n_jobs = 0;
}

/* The most bytes that activations take which are rounded at a time. In bf16 a token stands once for each of its
   experts, and each expert's tokens are padded to 16. */
static double mla__linear_bytes(const mla_context *c, int widest) {
    const mla_config *f = c->f;
    const int T = c->max_tokens, D = c->D, E = f->n_routed_experts, K = f->num_experts_per_tok,
              inter = f->moe_intermediate_size, shared = f->n_shared_experts * inter;
    const unsigned has = c->m->dtypes, blocks = (1u << MLA_UE8M0) - (1u << MLA_Q8);
    const double slots = (double)T * K + 15.0 * fmin(E, (double)T * K);
    const int fp8 = c->activations == MLA_ACT_E4M3 && has & 1u << MLA_E4M3, most = MLA__ACT_SPLIT;
    double bytes = fp8 ? T * (double)mla__act_bytes(MLA_ACT_E4M3, widest) : 0;
    const double ngrams = mla__ngrams(f), narrow = mla__ngram_width(f);
    if (c->activations == MLA_ACT_F32) return 0;
    if (has & blocks)
        bytes += (T + 1) *
                 fmax(fmax((double)mla__act_bytes(MLA_ACT_INT8, widest),
                           ngrams * (double)mla__act_bytes(MLA_ACT_INT8, (int)narrow)),
                      K * (double)mla__act_bytes(MLA_ACT_INT8, inter) + (double)mla__act_bytes(MLA_ACT_INT8, shared));
    if (c->k.bgemm && (c->k.tiles || (c->activations == MLA_ACT_BF16 && has & 1u << MLA_BF16)))
        bytes += fmax(
            (T + 15.0) * fmax((double)mla__act_bytes(most, widest), ngrams * (double)mla__act_bytes(most, (int)narrow)),
            slots * (double)mla__act_bytes(most, mla__max(D, inter)) +
                (T + 15.0) * (double)mla__act_bytes(most, mla__max(D, shared)));
    return bytes;
}
static void mla__linear_layout(mla_context *c, mla__arena *arena) {
    const mla_config *f = c->f;
    const int T = c->max_tokens, H = f->num_attention_heads, D = f->hidden_size, E = f->n_routed_experts,
              K = f->num_experts_per_tok, inter = f->moe_intermediate_size, shared = f->n_shared_experts * inter;
    const int inner = mla__max(f->intermediate_size, K * inter + shared),
              pair = f->num_nextn_predict_layers ? 2 * D : 0;
    /* of KDA: its output, or what is between two pairs of matrices, side by side */
    const int linear = c->Hl > 0 ? mla__max(c->Hl * c->C, 2 * c->C + 2 * MLA_GROUP) : 0;
    /* with q_twice an indexer's queries take one of the two at the same time */
    const int latents = mla__max(f->q_twice ? 3 * f->q_lora_rank + 3 * MLA_GROUP : f->q_lora_rank, f->norm_gate_rank);
    const int widest =
        mla__max(mla__max(mla__max(D, pair), mla__max(latents, linear)), mla__max(H * f->v_head_dim, inner));
    const int max_jobs = mla__max(mla__max(H, E + 2), mla__max(mla__ngrams(f), 6));
    c->jobs = MLA__TAKE(arena, mla__job, max_jobs);
    c->loads = MLA__TAKE(arena, mla__load, (double)max_jobs + T);
    c->act = MLA__TAKE(arena, unsigned char, mla__linear_bytes(c, widest));
    c->workers = MLA__TAKE(arena, mla__worker, c->threads);
    for (int i = 0; i < c->threads; i++) {
        mla__worker my;
        my.panel = MLA__TAKE(arena, float, MLA__KC *MLA__NR_MAX);
        my.group = MLA__TAKE(arena, float, MLA__MC *MLA__GROUP);
        if (c->workers) c->workers[i] = my;
    }
}

/* ---- >>norm ------------------------------------------------------------------------------------------------------ */

/* y [n] = norm(x [n]); y may be x. */
static void mla__norm(const mla_context *c, float *y, const float *x, int n, const mla_norm *norm,
                      const mla_norm_weights *w) {
    double mean = 0, squares = 0;
    if (norm->kind == MLA_NORM_NONE) {
        memmove(y, x, (size_t)n * sizeof *x);
        return;
    }
    if (norm->kind == MLA_NORM_RMS && !w->bias.data) {
        c->k.norm(y, x, norm->eps, w->weight.dtype, w->weight.data, n);
        return;
    }
    for (int i = 0; i < n && norm->kind == MLA_NORM_LAYER; i++) mean += (double)x[i] / n;
    for (int i = 0; i < n; i++) squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    const float alpha = norm->kind == MLA_NORM_DYT ? mla__value(w->alpha.dtype, w->alpha.data, 0) : 0, mf = (float)mean,
                r = (float)(1.0 / sqrt(squares / n + (double)norm->eps));
    for (int i = 0; i < n; i++) {
        const float g = mla__value(w->weight.dtype, w->weight.data, i),
                    z = norm->kind == MLA_NORM_DYT ? tanhf(alpha * x[i]) : (x[i] - mf) * r;
        y[i] = w->bias.data ? z * g + mla__value(w->bias.dtype, w->bias.data, i) : z * g;
    }
}

/* ---- >>rope ------------------------------------------------------------------------------------------------------ */

/* x [P] turned by the angles with these cosines and sines [P/2]. */
static void mla__rotate(float *x, const float *cosine, const float *sine, int P, mla_rope_layout layout) {
    const int half = P / 2, step = layout == MLA_ROPE_PAIR ? 2 : 1, other = layout == MLA_ROPE_PAIR ? 1 : half;
    if (layout == MLA_ROPE_NONE) return;
    for (int i = 0; i < half; i++) {
        const float u = x[i * step], v = x[i * step + other];
        x[i * step] = u * cosine[i] - v * sine[i];
        x[i * step + other] = v * cosine[i] + u * sine[i];
    }
}

/* ---- >>call ------------------------------------------------------------------------------------------------------ */

#define MLA__PIECES     32  /* most pieces of context that are worked on apart and merged */
#define MLA__PIECE_KEYS 512 /* fewest keys in such a piece that an indexer looks at */
#define MLA__SHORT_MOST 16  /* tokens of a short sequence */

/* The sequences of a call, or of a part of it that is run apart; their tokens are rows 0 .. T of it, one sequence after
   the other. */
typedef struct mla__batch {
    const mla_sequence *seqs;
    int n, T;
    int first, row0; /* of a part: sequences and rows of the call before it */
} mla__batch;

/* Queries of one sequence that meet its keys together. */
typedef struct mla__block {
    const mla_sequence *seq;
    int token, first, n;     /* row of the first token in the call and within the sequence; tokens */
    int pieces, pages, slot; /* pieces that its pages of keys are cut into; tokens' pieces before these */
} mla__block;

typedef struct mla__call_scratch {
    int *position;      /* [T] */
    float *cos, *sin;   /* [T, P/2] */
    mla__block *blocks; /* [T] */
} mla__call_scratch;
static void mla__call_layout(mla_context *c, mla__arena *arena) {
    const double T = c->max_tokens, half = c->P / 2;
    mla__call_scratch s;
    s.position = MLA__TAKE(arena, int, T);
    s.cos = MLA__TAKE(arena, float, T *half);
    s.sin = MLA__TAKE(arena, float, T *half);
    s.blocks = MLA__TAKE(arena, mla__block, T);
    if (c->call) *c->call = s;
}

static mla_result mla__check_cache(mla_context *c, const mla_cache *cache, int i) {
    const mla_pool *p = cache->pool;
    if (p->n_layers != mla__all_layers(c->f) || cache->n_ahead != c->f->num_nextn_predict_layers ||
        p->width != c->R + c->P)
        return MLA__REFUSE_OF(
            &c->err, i, "sequences[%d].cache: made for another model (%d layers of width %d, %d to predict ahead)", i,
            p->n_layers, p->width, cache->n_ahead);
    const int other = mla__other_indexer(cache, c->m->indexer);
    if (p->index_width != mla__index_width(c->m) || other >= 0)
        return MLA__REFUSE_OF(
            &c->err, i,
            "sequences[%d].cache: made for another model (%d indexers with keys of %d; that of layer %d differs)", i,
            p->n_indexers, p->index_width, mla__max(other, 0));
    if (!cache->ids != !mla__ngrams(c->f))
        return MLA__REFUSE_OF(&c->err, i, "sequences[%d].cache: made for another model (n-gram embeddings)", i);
    const int state = mla__other_state(p, c->m);
    if (state >= 0)
        return MLA__REFUSE_OF(&c->err, i, "sequences[%d].cache: made for another model (layer %d keeps something else)",
                              i, state);
    return MLA_OK;
}

/* Check the sequences of a call and count their tokens. */
static mla_result mla__check_sequences(mla_context *c, mla__batch *batch, const mla_sequence *seqs, int n_seqs) {
    int64_t T = 0;
    if (!seqs || n_seqs < 1)
        return MLA__REFUSE(&c->err, "n_sequences: %d, must be at least 1, with sequences not NULL", n_seqs);
    for (int i = 0; i < n_seqs; i++) {
        if (!seqs[i].cache) return MLA__REFUSE_OF(&c->err, i, "sequences[%d].cache is NULL", i);
        if (seqs[i].n_tokens < 1)
            return MLA__REFUSE_OF(&c->err, i, "sequences[%d].n_tokens: %d, must be at least 1", i, seqs[i].n_tokens);
        if (seqs[i].n_logits < 0 || seqs[i].n_logits > seqs[i].n_tokens)
            return MLA__REFUSE_OF(&c->err, i, "sequences[%d].n_logits: %d, must be 0 to n_tokens, %d", i,
                                  seqs[i].n_logits, seqs[i].n_tokens);
        MLA__TRY(mla__check_cache(c, seqs[i].cache, i));
        T += seqs[i].n_tokens;
    }
    if (T > c->max_tokens)
        return mla__fail(&c->err, MLA_ERR_MEMORY, "%lld tokens in one call, context.max_tokens is %d", (long long)T,
                         c->max_tokens);
    for (int i = 0; i < n_seqs; i++) seqs[i].cache->in_call = 0;
    for (int i = 0; i < n_seqs; i++)
        if (seqs[i].cache->in_call++)
            return MLA__REFUSE_OF(&c->err, i, "sequences[%d].cache stands twice in the call", i);
    batch->seqs = seqs, batch->n = n_seqs, batch->T = (int)T, batch->first = batch->row0 = 0;
    return MLA_OK;
}

/* Cosines and sines of the call's positions. The angle is an f32 product, as in the models' own code. */
static void mla__angles(mla_context *c, int T) {
    const mla__call_scratch *s = c->call;
    const int half = c->P / 2;
    if (c->f->rope.layout == MLA_ROPE_NONE) return;
    for (int t = 0; t < T; t++)
        for (int i = 0; i < half; i++) {
            const float angle = (float)s->position[t] * c->m->inv[i];
            s->cos[t * (mla__sz)half + i] = (float)cos((double)angle) * c->m->amp;
            s->sin[t * (mla__sz)half + i] = (float)sin((double)angle) * c->m->amp;
        }
}
/* x [P] turned by the angles of the token in row t. */
static void mla__turn(const mla_context *c, float *x, int t, mla_rope_layout layout) {
    const int P = c->P;
    mla__rotate(x, c->call->cos + t * (mla__sz)(P / 2), c->call->sin + t * (mla__sz)(P / 2), P, layout);
}

static void mla__unreserve_all(const mla__batch *batch, int n) {
    while (n > 0) mla__unreserve(batch->seqs[--n].cache);
}
/* Room in the caches for the call's tokens. */
static mla_result mla__reserve_all(mla_context *c, const mla__batch *batch) {
    for (int i = 0; i < batch->n; i++) {
        char who[32];
        snprintf(who, sizeof who, "sequences[%d]", i);
        const mla_result r = mla__reserve(batch->seqs[i].cache, batch->seqs[i].n_tokens, who, &c->err);
        if (r == MLA_OK) continue;
        mla__unreserve_all(batch, i);
        return mla__blame(&c->err, i, r);
    }
    return MLA_OK;
}
static mla__manner mla__manner_of(const mla_context *c, int n_tokens) {
    return !c->invariant ? MLA__ANY : n_tokens <= MLA__SHORT_MOST ? MLA__SHORT : MLA__LONG;
}
/* The next part of a call, from nothing on: neighbours of one kind; their positions and angles. 0: there is none. */
static int mla__next_part(mla_context *c, const mla__batch *call, mla__batch *part) {
    part->first += part->n, part->row0 += part->T, part->n = part->T = 0;
    part->seqs = call->seqs + part->first;
    if (part->first == call->n) return 0;
    c->manner = mla__manner_of(c, part->seqs->n_tokens), c->row0 = part->row0;
    for (const mla_sequence *s = part->seqs; s < call->seqs + call->n; s++) {
        if (mla__manner_of(c, s->n_tokens) != c->manner) break;
        for (int j = 0; j < s->n_tokens; j++) c->call->position[part->T++] = s->cache->length + j;
        part->n++;
    }
    mla__angles(c, part->T);
    return 1;
}
/* The tokens are in the caches. */
static void mla__advance(const mla__batch *batch) {
    for (int i = 0; i < batch->n; i++) batch->seqs[i].cache->length += batch->seqs[i].n_tokens;
}
/* Layers [begin, end) have the rows of the call. */
static void mla__wrote(const mla__batch *batch, int begin, int end) {
    for (int i = 0; i < batch->n; i++)
        for (int l = begin; l < end; l++)
            batch->seqs[i].cache->written[l] = batch->seqs[i].cache->length + batch->seqs[i].n_tokens;
}
/* The states of layers [begin, end) are where the caches end, and see what the call asks them to. */
static mla_result mla__check_states(mla_context *c, const mla__batch *batch, int begin, int end) {
    for (int i = 0; i < batch->n; i++)
        for (int l = begin; l < end; l++) {
            const mla_cache *k = batch->seqs[i].cache;
            const int state = k->pool->states.of[l];
            if (state < 0) continue;
            if (k->length > 0 && mla__state_find(k, state, k->length) < 0)
                return MLA__REFUSE_OF(&c->err, i,
                                      "sequences[%d].cache: holds %d tokens, but layer %d has its state behind %d", i,
                                      k->length, l, k->written[l]);
            if (batch->seqs[i].mask)
                return MLA__REFUSE_OF(
                    &c->err, i, "sequences[%d].mask: layer %d has a state, which sees all tokens in their order", i, l);
        }
    return MLA_OK;
}
/* They have the rows before it. */
static mla_result mla__check_rows(mla_context *c, const mla__batch *batch, int begin, int end) {
    for (int i = 0; i < batch->n; i++)
        for (int l = begin; l < end; l++)
            if (batch->seqs[i].cache->written[l] < batch->seqs[i].cache->length)
                return MLA__REFUSE_OF(&c->err, i, "sequences[%d].cache: layer %d has rows for %d of its %d tokens", i,
                                      l, batch->seqs[i].cache->written[l], batch->seqs[i].cache->length);
    return mla__check_states(c, batch, begin, end);
}

static int mla__keys(const mla_sequence *s) { return s->cache->length + s->n_tokens; }
/* How many tokens of a sequence attend together: all; but those of a short one alone, each as if it had come alone, if
   results are not to depend on company: there the next tokens are company, too. */
static int mla__together(const mla_context *c, const mla_sequence *s) {
    return c->manner == MLA__SHORT && c->f->mask == MLA_MASK_CAUSAL && !s->mask ? 1 : s->n_tokens;
}
/* Keys that the token in row t of the call may see, hidden ones of the caller's mask counted. */
static int mla__seen(const mla_context *c, const mla_sequence *s, int t) {
    return c->f->mask == MLA_MASK_CAUSAL && !s->mask ? c->call->position[t] + 1 : mla__keys(s);
}

/* Cut n tokens of a sequence, from row `token` of the call and row `first` of the sequence on, into blocks of at most
   `most`, which go behind the n_blocks that are there. */
static int mla__cut(const mla_context *c, int n_blocks, const mla_sequence *s, int token, int first, int n, int most) {
    for (int i = 0; i < n; i += most) {
        const mla__block b = {s, token + i, first + i, mla__min(most, n - i), 1, 0, 0};
        c->call->blocks[n_blocks++] = b;
    }
    return n_blocks;
}
/* Cut the keys of a block into at most `most` pieces: by the shape of the call alone, so not by threads. */
static void mla__pieces(mla__block *b, int keys, int most, int fewest, int *slots) {
    b->pages = (keys + MLA_PAGE - 1) / MLA_PAGE;
    b->pieces = mla__max(1, mla__min(most, keys / fewest));
    b->slot = *slots, *slots += b->pieces > 1 ? b->pieces * b->n : 0;
}
/* The key where a piece begins. */
static int mla__piece_at(const mla__block *b, int piece) {
    return b->pieces > 1 ? (int)((mla__sz)b->pages * piece / b->pieces) * MLA_PAGE : 0;
}

/* What makes the keys, or the values, of heads: of head h, n rows of w from first + h * step on. */
typedef struct mla__heads {
    mla_linear w;
    int first, step, n;
    int transposed; /* k_b */
} mla__heads;
static mla__heads mla__heads_of(const mla_tensor *w, int first, int step, int n) {
    const mla__heads heads = {mla__linear_of(w), first, step, n, 0};
    return heads;
}
static int mla__head_row(const mla__heads *heads, int h) { return heads->first + h * heads->step; }
/* Interleaved rows are unpacked for bgemm by whole strips, in which every head has to begin. */
static int mla__heads_whole(const mla__heads *heads) {
    return !heads->w.weight.layout || (heads->first % 16 == 0 && heads->step % 16 == 0);
}

/* One layer's attention in a call. */
typedef struct mla__attn {
    const mla__batch *batch;
    const mla_attn_weights *w;
    const mla_indexer_weights *index; /* NULL: the layer has none of its own */
    mla__heads keys, values;
    int layer, probs_layer; /* probs_layer: which of the caller's probabilities are this layer's */
    int n_blocks;           /* of the step under way */
    int glance;             /* an indexer's first glance is what is under way */
    int token0, n_tokens;   /* absorbed: the tokens of the step under way */
} mla__attn;

/* ---- >>sparse ---------------------------------------------------------------------------------------------------- */
/* An indexer chooses the keys that a token attends to. Its scores are not stored: every piece of context has a list of
   candidates, and a list that is full is cut to its best index_topk.
   Where the ISA has glance, most keys only get a first one, in integers. How far off its scores are at most is known,
   and candidates are all that could be among the best: those which these scores cannot tell apart are scored in f32. So
   the choice is the same, key by key. Tokens for which that comes to too many, or to something that is no number, are
   served once more without. */

#define MLA__BEST_SPARE 1024 /* least room for candidates beside the best ones so far */
#define MLA__UNDECIDED  (-2) /* in place of a number of keys: a first glance was not enough */
typedef struct mla__choice {
    const mla_cache *cache;
    int position; /* of the token in it */
    int n;        /* keys that it has chosen; -1: it attends to all that it sees */
} mla__choice;
/* Kept from layer to layer. */
typedef struct mla__sparse_scratch {
    mla__choice *choice; /* [T] */
    int *chosen;         /* [T, index_topk] positions, ascending */
    int layer, tokens;   /* whose indexer made these choices (-1: there are none), for so many tokens */
} mla__sparse_scratch;
typedef struct mla__index_worker {
    mla__lanes *lanes; /* [panels] of one token's heads */
    float *q, *weight; /* [panels, d, NL] and [panels, NL] */
    float *s, *wide;
    uint32_t *best_key; /* candidates: what their scores are sorted by, and positions */
    int *best_at;
    mla__glance glance;
    unsigned char *rows; /* for a second glance: PAGE keys */
    float off;           /* of the glance's scores, for a key with scale 1 */
} mla__index_worker;
typedef struct mla__index_scratch {
    float *q, *k, *w;    /* [T, Hi, d] [T, d] [T, Hi] */
    uint32_t *piece_key; /* the candidates of each piece: [PIECES, top_kept(index_topk)], and how many, or UNDECIDED */
    int *piece_at, *piece_n;
    float *piece_slack;
} mla__index_scratch;

static int mla__top_room(int most) { return most + mla__max(most, MLA__BEST_SPARE); }
static int mla__top_kept(int most) { return most + mla__max(most, MLA__BEST_SPARE) / 2; } /* by a cut, at most */
/* Rows of a multiple of 32 values, and heads for which it pays to round keys; in panels of the glance, two by two. */
static int mla__glance_panels(const mla_context *c) {
    const int panels = (c->f->index_n_heads + c->k.nl - 1) / c->k.nl;
    return c->k.glance && c->f->index_head_dim % 32 == 0 && panels > 1 ? mla__up_to(panels, 2) : 0;
}
static void mla__sparse_layout(mla_context *c, mla__arena *arena) {
    mla__sparse_scratch s;
    if (c->m->n_indexers == 0) return;
    s.choice = MLA__TAKE(arena, mla__choice, c->max_tokens);
    s.chosen = MLA__TAKE(arena, int, (double)c->max_tokens * c->f->index_topk);
    s.layer = -1, s.tokens = 0;
    if (c->sparse) *c->sparse = s;
}
static void mla__index_layout(mla_context *c, mla__arena *arena) {
    const mla_config *f = c->f;
    const int Hi = f->index_n_heads, d = f->index_head_dim, topk = f->index_topk, panels = (Hi + c->k.nl - 1) / c->k.nl;
    const double T = c->max_tokens, lanes = (double)panels * c->k.nl, looked = (double)mla__glance_panels(c) * c->k.nl;
    mla__index_scratch s;
    if (c->m->n_indexers == 0) return;
    s.q = MLA__TAKE(arena, float, T *Hi *d);
    s.k = MLA__TAKE(arena, float, T *d);
    s.w = MLA__TAKE(arena, float, T *Hi);
    s.piece_key = MLA__TAKE(arena, uint32_t, (double)MLA__PIECES * mla__top_kept(topk));
    s.piece_at = MLA__TAKE(arena, int, (double)MLA__PIECES *mla__top_kept(topk));
    s.piece_n = MLA__TAKE(arena, int, MLA__PIECES);
    s.piece_slack = MLA__TAKE(arena, float, MLA__PIECES);
    for (int i = 0; i < c->threads; i++) {
        mla__index_worker my;
        my.lanes = MLA__TAKE(arena, mla__lanes, panels);
        my.q = MLA__TAKE(arena, float, lanes *d);
        my.weight = MLA__TAKE(arena, float, lanes);
        my.s = MLA__TAKE(arena, float, lanes *MLA_PAGE);
        my.wide = MLA__TAKE(arena, float, MLA__AR_MAX *MLA__AK);
        my.best_key = MLA__TAKE(arena, uint32_t, mla__top_room(topk));
        my.best_at = MLA__TAKE(arena, int, mla__top_room(topk));
        memset(&my.glance, 0, sizeof my.glance), my.off = 0;
        my.glance.q = MLA__TAKE(arena, int16_t, looked * d);
        my.glance.scale = MLA__TAKE(arena, float, looked);
        my.glance.weight = MLA__TAKE(arena, float, looked);
        my.glance.k = MLA__TAKE(arena, int16_t, MLA__GLANCE_KEYS * d);
        my.glance.wide = MLA__TAKE(arena, float, MLA__GLANCE_KEYS *d);
        my.rows = MLA__TAKE(arena, unsigned char, looked > 0 ? 4.0 * MLA_PAGE * d : 0);
        if (c->index_workers) c->index_workers[i] = my;
    }
    if (c->index) *c->index = s;
}

/* The keys with the highest scores, of those offered in the order of their positions; of equal ones the first. Where
   scores are off, by up to half of slack, all stay that may be among them. */
typedef struct mla__top {
    uint32_t *key, least; /* least: what a new one must be above, if full */
    int *at;
    int n, most, room, full;
    float last, slack; /* last: score of the most-th, if full */
    int over;          /* more stay than there is room for, or slack is no number: the list is worth nothing */
} mla__top;

/* Keys are in the order of their scores; -0 is 0, and what is not a number comes last. */
static uint32_t mla__top_key(float score) {
    const uint32_t u = mla__bits(score + 0.0f);
    return score != score ? 0 : u >> 31 ? ~u : u | 0x80000000u;
}
static float mla__top_score(uint32_t key) { return mla__float(key >> 31 ? key & 0x7fffffffu : ~key); }
/* key, at: room for mla__top_room(most) of them. */
static mla__top mla__top_begin(uint32_t *key, int *at, int most) {
    const mla__top top = {key, 0, at, 0, most, mla__top_room(most), 0, 0, 0, 0};
    return top;
}
/* From here on scores are off by half of slack, or less. */
static void mla__top_slack(mla__top *top, float slack) {
    if (!(slack > 1e-30f && slack < 1e30f)) top->over = 1;
    if (top->over || slack <= top->slack) return;
    top->slack = slack;
    if (top->full) top->least = mla__top_key(top->last - slack) - 1;
}
/* All but the best `most` go. Radix select: the key of the last one that stays is found byte by byte, from the highest
   on, by counting; then the smaller ones are dropped. */
static void mla__top_cut(mla__top *top) {
    uint32_t key = 0, known = 0;
    int left = top->most, n = 0;
    if (top->n <= top->most || top->over) return;
    for (int shift = 24; shift >= 0; shift -= 8) {
        int count[256] = {0}, digit = 255;
        for (int i = 0; i < top->n; i++) count[top->key[i] >> shift & 255] += (top->key[i] & known) == key;
        for (; count[digit] < left; digit--) left -= count[digit];
        key |= (uint32_t)digit << shift, known |= (uint32_t)255 << shift;
    }
    top->last = mla__top_score(key), top->least = key, top->full = 1;
    if (top->slack > 0) top->least = mla__top_key(top->last - top->slack) - 1, left = 0, key = top->least;
    for (int i = 0; i < top->n; i++) {
        if (top->key[i] < key || (top->key[i] == key && left-- <= 0)) continue;
        top->key[n] = top->key[i], top->at[n++] = top->at[i];
    }
    top->n = n, top->over = n > mla__top_kept(top->most);
}
static void mla__top_offer(mla__top *top, uint32_t key, int at) {
    if (top->over || (top->full && key <= top->least)) return;
    if (top->n == top->room) {
        mla__top_cut(top);
        if (top->over || key <= top->least) return;
    }
    top->key[top->n] = key, top->at[top->n++] = at;
}

/* Of a layer's indexer: from x [T, D] its keys and the weights of its heads, from the normed latent its queries. */
static void mla__index_keys(mla_context *c, const mla__attn *a, const float *x) {
    const int D = c->D, T = a->batch->T;
    const mla_linear weights = mla__linear_of(&a->index->weights_proj);
    mla__job_add(c, c->index->k, c->f->index_head_dim, x, D, T, &a->index->wk);
    mla__job_add(c, c->index->w, c->f->index_n_heads, x, D, T, &weights)->exact = 1;
    mla__jobs_run(c);
}
static void mla__index_queries(mla_context *c, const mla__attn *a, const float *latent) {
    const mla__sz width = (mla__sz)c->f->index_n_heads * c->f->index_head_dim;
    mla__job_add(c, c->index->q, width, latent, mla__latents(c->f), a->batch->T, &a->index->wq_b);
}

/* The first of a head's channels that turn. */
static int mla__index_turned(const mla_config *f) {
    return f->index_rope_last ? f->index_head_dim - f->qk_rope_head_dim : 0;
}
/* What is left to do on the row of token t: norm and rotation of the key, which goes into the cache, ... */
static void mla__index_key(mla_context *c, const mla__attn *a, const mla_cache *cache, int t) {
    const int d = c->f->index_head_dim;
    const mla_norm norm = mla__index_norm(c->f);
    float *row = c->index->k + t * (mla__sz)d;
    mla__norm(c, row, row, d, &norm, &a->index->k_norm);
    mla__turn(c, row + mla__index_turned(c->f), t, c->f->index_rope);
    c->k.narrow[cache->pool->index_dtype](mla__index_row(cache, a->layer, c->call->position[t]), row, d);
}
/* ... and rotation of the queries and the scale of their weights. */
static void mla__index_query(mla_context *c, int t) {
    const int Hi = c->f->index_n_heads, d = c->f->index_head_dim, turned = mla__index_turned(c->f);
    for (int h = 0; h < Hi; h++) {
        mla__turn(c, c->index->q + (t * (mla__sz)Hi + h) * d + turned, t, c->f->index_rope);
        c->index->w[t * (mla__sz)Hi + h] *= (float)(1 / sqrt((double)Hi * d));
    }
}
/* The heads of token t become the lanes, ... */
static int mla__index_lanes(const mla_context *c, int t, mla__index_worker *my) {
    const int Hi = c->f->index_n_heads, d = c->f->index_head_dim, nl = c->k.nl, panels = (Hi + nl - 1) / nl;
    const float *q = c->index->q + t * (mla__sz)Hi * d;
    for (int p = 0; p < panels; p++) {
        my->lanes[p].q = my->q + (mla__sz)p * nl * d;
        c->k.transpose(my->lanes[p].q, q + (mla__sz)p * nl * d, d, mla__min(nl, Hi - p * nl), d);
    }
    for (int h = 0; h < panels * nl; h++) my->weight[h] = h < Hi ? c->index->w[t * (mla__sz)Hi + h] : 0;
    return panels;
}
/* ... and those of a first glance. Its products are off by what rounding does to two vectors of length GLANCE, to each
   channel half a unit; sums in f32, of these or of what they stand for, by 2^-24 for each addition, of what absolute
   values add up to. */
static void mla__glance_begin(const mla_context *c, const mla__block *b, mla__index_worker *my) {
    const int d = c->f->index_head_dim, nl = c->k.nl, panels = mla__index_lanes(c, b->token, my),
              n = mla__glance_panels(c);
    const double by = 0.53 * sqrt((double)d), length = 1.001 * (double)MLA__GLANCE + by;
    const double sums = (d + 2.0 * c->f->index_n_heads + 32) / (1 << 23);
    const mla_dtype t = b->seq->cache->pool->index_dtype;
    double weights = 0;
    for (int p = 0; p < panels; p++) c->k.glance_lanes(&my->glance, p, my->lanes[p].q, d);
    memset(my->glance.q + (mla__sz)panels * nl * d, 0, (size_t)((n - panels) * nl * d) * sizeof *my->glance.q);
    for (int h = 0; h < n * nl; h++) {
        my->glance.weight[h] = h < panels * nl ? my->weight[h] * my->glance.scale[h] : 0;
        weights += fabs((double)my->glance.weight[h]);
    }
    my->glance.widen = c->k.widen[t], my->glance.bytes = mla__bytes(t, d);
    my->off = (float)(weights * (by * (2 * length + by) + length * length * sums));
}

/* At most a page of a token's keys, from u0 on, become candidates. */
static void mla__index_offer(mla_context *c, const mla__attn *a, const mla__block *b, int u0, int n,
                             mla__index_worker *my, mla__top *best) {
    const mla_sequence *s = b->seq;
    const mla_dtype t = s->cache->pool->index_dtype;
    const int nl = c->k.nl, panels = (c->f->index_n_heads + nl - 1) / nl, d = c->f->index_head_dim;
    const float *mask = s->mask ? s->mask + b->first * (mla__sz)mla__keys(s) + u0 : NULL;
    const unsigned char *const keys = mla__index_row(s->cache, a->layer, u0);
    const mla__visit visit = {keys, NULL, keys + n * mla__bytes(t, d), d, 0, d, 0, 0, n, my->s, my->wide};
    float score[MLA_PAGE], scale[MLA_PAGE], most = 0;
    if (a->glance) {
        c->k.glance(score, scale, &my->glance, mla__glance_panels(c), &visit);
        for (int u = 0; u < n; u++) most = scale[u] > most || scale[u] != scale[u] ? scale[u] : most; /* NaN stays */
        mla__top_slack(best, 2.002f * my->off * most);
    } else c->k.index[t](score, my->lanes, my->weight, panels, &visit);
    for (int u = 0; u < n; u++)
        if (!mask || mask[u] != -INFINITY)
            mla__top_offer(best, mla__top_key(mask ? score[u] + mask[u] : score[u]), u0 + u);
}
/* Of candidates after a first glance those that are surely among the best come before all others, which are scored. */
static void mla__glance_again(mla_context *c, const mla__attn *a, const mla__block *b, mla__top *best,
                              mla__index_worker *my) {
    const mla_cache *cache = b->seq->cache;
    const mla_dtype t = cache->pool->index_dtype;
    const int d = c->f->index_head_dim, panels = mla__index_lanes(c, b->token, my);
    const size_t bytes = (size_t)mla__bytes(t, d);
    const uint32_t sure = mla__top_key(best->last + best->slack);
    mla__visit visit = {my->rows, NULL, my->rows, d, 0, d, 0, 0, 0, my->s, my->wide};
    float score[MLA_PAGE];
    int which[MLA_PAGE];
    for (int i = 0; i < best->n; i++) {
        if (best->key[i] > sure) best->key[i] = UINT32_MAX;
        else {
            memcpy(my->rows + (size_t)visit.nu * bytes, mla__index_row(cache, a->layer, best->at[i]), bytes);
            which[visit.nu++] = i;
        }
        if (visit.nu == 0 || (visit.nu < MLA_PAGE && i + 1 < best->n)) continue;
        c->k.index[t](score, my->lanes, my->weight, panels, &visit);
        for (int u = 0; u < visit.nu; u++) best->key[which[u]] = mla__top_key(score[u]);
        visit.nu = 0;
    }
    best->slack = 0;
}
/* The choice of the token of a block, from all its candidates. */
static void mla__chosen_set(mla_context *c, const mla__attn *a, const mla__block *b, mla__top *best,
                            mla__index_worker *my) {
    mla__top_cut(best);
    if (best->slack > 0 && best->n > best->most && !best->over) {
        mla__glance_again(c, a, b, best, my);
        mla__top_cut(best);
    }
    const int row = c->row0 + b->token;
    c->sparse->choice[row].n = best->over ? MLA__UNDECIDED : best->n;
    if (best->over) return;
    memcpy(c->sparse->chosen + row * (mla__sz)best->most, best->at, (size_t)best->n * sizeof *best->at);
}

/* One token and one piece of context. */
static void mla__index_piece(mla_context *c, const mla__attn *a, const mla__block *b, int piece,
                             mla__index_worker *my) {
    const int seen = mla__seen(c, b->seq, b->token);
    const int end = b->pieces > 1 ? mla__min(seen, mla__piece_at(b, piece + 1)) : seen;
    const mla__index_scratch *s = c->index;
    mla__top best = mla__top_begin(my->best_key, my->best_at, c->f->index_topk);
    best.over = a->glance && b->seq->mask; /* which may be of any size */
    /* MLA_PAGE keys from a multiple of it lie together, paged or not */
    for (int u0 = mla__piece_at(b, piece); u0 < end && !best.over; u0 += MLA_PAGE)
        mla__index_offer(c, a, b, u0, mla__min(MLA_PAGE, end - u0), my, &best);
    if (b->pieces == 1) {
        mla__chosen_set(c, a, b, &best, my);
        return;
    }
    const int slot = b->slot + piece;
    const mla__sz at = slot * (mla__sz)mla__top_kept(best.most);
    mla__top_cut(&best);
    s->piece_n[slot] = best.over ? MLA__UNDECIDED : best.n, s->piece_slack[slot] = best.slack;
    if (best.over) return;
    memcpy(s->piece_key + at, best.key, (size_t)best.n * sizeof *best.key);
    memcpy(s->piece_at + at, best.at, (size_t)best.n * sizeof *best.at);
}
static void mla__index_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__attn *a = (const mla__attn *)arg;
    const mla__block *b = &c->call->blocks[my->load];
    mla__index_worker *worker = &c->index_workers[my->worker];
    if (a->glance) mla__glance_begin(c, b, worker);
    else mla__index_lanes(c, b->token, worker);
    for (int p = my->from; p < my->to; p++) mla__index_piece(c, a, b, p, worker);
}
static void mla__index_merge_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__attn *a = (const mla__attn *)arg;
    const mla__index_scratch *s = c->index;
    mla__index_worker *room = &c->index_workers[my->worker];
    const int most = c->f->index_topk;
    for (int i = my->from; i < my->to; i++) {
        const mla__block *b = &c->call->blocks[i];
        if (b->pieces == 1) continue;
        mla__top best = mla__top_begin(room->best_key, room->best_at, most);
        for (int slot = b->slot; slot < b->slot + b->pieces; slot++) {
            const mla__sz at = slot * (mla__sz)mla__top_kept(most);
            if (s->piece_n[slot] < 0) best.over = 1;
            else if (a->glance) mla__top_slack(&best, s->piece_slack[slot]);
            for (int j = 0; j < s->piece_n[slot]; j++) mla__top_offer(&best, s->piece_key[at + j], s->piece_at[at + j]);
        }
        mla__chosen_set(c, a, b, &best, room);
    }
}

/* The tokens of a's blocks choose, or are left undecided. */
static void mla__choose_blocks(mla_context *c, mla__attn *a) {
    double cost = 0, *part = c->stats ? &c->stats->indexer : NULL;
    int slots = 0;
    for (int i = 0; i < a->n_blocks; i++) {
        mla__block *b = &c->call->blocks[i];
        const int keys = mla__seen(c, b->seq, b->token);
        mla__pieces(b, keys, mla__max(1, MLA__PIECES / a->n_blocks), MLA__PIECE_KEYS, &slots);
        c->loads[i].units = b->pieces, c->loads[i].weight = keys / b->pieces + 1;
        cost += (double)keys * c->f->index_n_heads * c->f->index_head_dim;
    }
    mla__parallel_timed(c, part, mla__index_work, a, a->n_blocks, cost);
    c->loads[0].units = a->n_blocks, c->loads[0].weight = 1;
    if (slots) mla__parallel_timed(c, part, mla__index_merge_work, a, 1, (double)slots * c->f->index_topk * 16);
}
/* Every token that sees more than index_topk keys chooses among them, in a layer that has an indexer. */
static void mla__choose(mla_context *c, mla__attn *a) {
    a->n_blocks = 0;
    for (int i = 0, t = 0; i < a->batch->n; t += a->batch->seqs[i++].n_tokens) {
        const mla_sequence *s = &a->batch->seqs[i];
        int all = s->n_tokens;
        for (int j = s->n_tokens - 1; j >= 0; j--) {
            mla__choice *choice = &c->sparse->choice[c->row0 + t + j];
            choice->cache = s->cache, choice->position = c->call->position[t + j], choice->n = -1;
            if (mla__seen(c, s, t + j) > c->f->index_topk) all = j; /* later tokens see no less */
        }
        a->n_blocks = mla__cut(c, a->n_blocks, s, t + all, all, s->n_tokens - all, 1);
    }
    c->sparse->layer = a->layer, c->sparse->tokens = c->row0 + a->batch->T;
    for (a->glance = mla__glance_panels(c) > 0; a->n_blocks > 0; a->glance = 0) {
        mla__choose_blocks(c, a);
        int left = 0;
        for (int i = 0; i < a->n_blocks; i++)
            if (c->sparse->choice[c->row0 + c->call->blocks[i].token].n == MLA__UNDECIDED)
                c->call->blocks[left++] = c->call->blocks[i];
        a->n_blocks = left;
    }
}
/* A layer without indexer needs the choices of another for these very tokens. */
static mla_result mla__choose_check(mla_context *c, int layer, const mla__batch *batch) {
    int from = layer, t = 0;
    while (from >= 0 && c->m->indexer[from] < 0) from--;
    if (c->m->n_indexers == 0 || from == layer) return MLA_OK;
    int same = c->sparse->layer == from && c->sparse->tokens == batch->T;
    for (int i = 0; i < batch->n; i++)
        for (int j = 0; j < batch->seqs[i].n_tokens; j++, t++)
            same = same && c->sparse->choice[t].cache == batch->seqs[i].cache &&
                   c->sparse->choice[t].position == batch->seqs[i].cache->length + j;
    if (same) return MLA_OK;
    return MLA__REFUSE(&c->err,
                       "layer %d uses the keys that layer %d chooses, which has not run before it on these sequences",
                       layer, from);
}
/* Room for the tokens of a call that begins with this layer. */
static mla_result mla__reserve_for(mla_context *c, const mla__batch *batch, int layer) {
    MLA__TRY(mla__reserve_all(c, batch));
    const mla_result r = mla__choose_check(c, layer, batch);
    if (r != MLA_OK) mla__unreserve_all(batch, batch->n);
    return r;
}
/* A call on layers [begin, end) that began with room was ended: caches become what they were, but for rows behind their
   ends that calls on these layers had written, and its choices are nobody's. */
static mla_result mla__abort(mla_context *c, const mla__batch *batch, int begin, int end) {
    mla__unreserve_all(batch, batch->n);
    for (int i = 0; i < batch->n; i++)
        for (int l = begin; l < end; l++) mla__unwrite(batch->seqs[i].cache, l);
    if (c->m->n_indexers) c->sparse->layer = -1;
    return MLA_ERR_ABORTED;
}
/* The keys that the token in row t of the call has chosen, *n of them; NULL: it attends to all that it sees. */
static const int *mla__chosen(const mla_context *c, int t, int *n) {
    const int row = c->row0 + t;
    if (c->m->n_indexers == 0 || c->sparse->choice[row].n < 0) return NULL;
    *n = c->sparse->choice[row].n;
    return c->sparse->chosen + row * (mla__sz)c->f->index_topk;
}
/* Of n tokens from row t of the call on, the first so many attend to all that they see. */
static int mla__dense(const mla_context *c, int t, int n) {
    int keys, i = 0;
    while (i < n && !mla__chosen(c, t + i, &keys)) i++;
    return i;
}

/* ---- >>walk ------------------------------------------------------------------------------------------------------ */
/* A block of queries walks over its keys, one visit after another. A visit is a run of the context, or keys that tokens
   of the block have chosen: of a block of one token its own list, of several the positions that any of them has chosen,
   with masks that hide from each what it has not. Nothing after this section knows which. */

#define MLA__PIECE_WALKED 256 /* fewest keys in a piece of what is walked over */
#define MLA__LANE_ROWS    128 /* rows (heads x tokens) that walk over a block of latents together */
#define MLA__QUERIES      512 /* tokens for which the naive path expands keys once */

typedef struct mla__walker {
    mla__lanes *lanes;
    float *lane_memory;
    float *rows; /* [KEYS, R+P] of a visit, as the cache has them or as f32 */
    /* for chosen keys */
    int *before, *next;  /* [QUERIES] how far each token's list has been walked, before and after this visit */
    int *at;             /* [KEYS] positions of a visit */
    float *mask, *probs; /* of a visit: [NL, KEYS] and [max(H, NL), KEYS] */
    /* for >>attention */
    float *k, *v;              /* naive: [KEYS, N+P] and [KEYS, V] of a visit, */
    uint16_t *c16, *k16, *v16; /* and in bf16: the latents for bgemm; keys and values for attend_tiles */
    float *s, *wide;
} mla__walker;

/* The queries of a block: row i, ldq floats after the one before it, is of token i / heads and head head0 + i % heads.
   They walk over keys of dk channels and values of dv, `most` keys in a visit. */
typedef struct mla__queries {
    const float *q;
    mla__sz ldq;
    int heads, head0, dk, dv, most;
} mla__queries;
typedef struct mla__walk {
    mla_context *c;
    const mla__attn *a;
    const mla__block *b;
    mla__walker *my;
    mla__queries q;
    int panels, end; /* where runs and lists end */
    const int *list; /* the token's own choice; or NULL, and */
    int shared;      /* 1: the choices of all tokens of the block */
    int u0, n;       /* the visit: keys u0 .. u0+n of the context or of the list */
    const int *at;   /* their positions; NULL: they are u0 and up */
} mla__walk;

/* Tokens in a block whose heads walk together. */
static int mla__lane_tokens(const mla_context *c) {
    return mla__min(c->max_tokens, mla__max(1, MLA__LANE_ROWS / mla__max(c->H, 1)));
}

/* Walkers go over latents with all heads of a few tokens, or over expanded keys with one head of many. */
static void mla__walk_layout(mla_context *c, mla__arena *arena) {
    const int H = c->H, N = c->N, P = c->P, V = c->V, R = c->R, nl = c->k.nl, sparse = c->m->n_indexers > 0;
    const int all_heads = (mla__lane_tokens(c) * H + nl - 1) / nl, tiles = c->k.attend_tiles ? MLA__KEYS : 0,
              one_head = (mla__min(c->max_tokens, MLA__QUERIES) + nl - 1) / nl;
    const double floats = fmax(all_heads * (2.0 * R + P + 3), one_head * (N + P + V + 3.0)) * nl;
    for (int i = 0; i < c->threads; i++) {
        mla__walker my;
        my.lanes = MLA__TAKE(arena, mla__lanes, mla__max(all_heads, one_head));
        my.lane_memory = MLA__TAKE(arena, float, floats);
        my.rows = MLA__TAKE(arena, float, (double)MLA__KEYS *mla__up_to(R + P, MLA__NR_MAX));
        my.before = MLA__TAKE(arena, int, sparse ? MLA__QUERIES : 0);
        my.next = MLA__TAKE(arena, int, sparse ? MLA__QUERIES : 0);
        my.at = MLA__TAKE(arena, int, sparse ? MLA__KEYS : 0);
        my.mask = MLA__TAKE(arena, float, sparse ? MLA__NL_MAX *MLA__KEYS : 0);
        my.probs = MLA__TAKE(arena, float, sparse ? (double)mla__max(H, MLA__NL_MAX) * MLA__KEYS : 0);
        my.k = MLA__TAKE(arena, float, (double)MLA__KEYS *(N + P));
        my.v = MLA__TAKE(arena, float, (double)MLA__KEYS *mla__up_to(V, MLA__NR_MAX));
        my.c16 = MLA__TAKE(arena, uint16_t, c->k.bgemm ? MLA__KEYS * (double)mla__act_bytes(MLA__ACT_SPLIT, R) / 2 : 0);
        my.k16 = MLA__TAKE(arena, uint16_t, (double)tiles * (N + P));
        my.v16 = MLA__TAKE(arena, uint16_t, (double)tiles * V);
        my.s = MLA__TAKE(arena, float, (double)mla__max(MLA__KEYS, MLA_PAGE * all_heads) * nl);
        my.wide = MLA__TAKE(arena, float, fmax(tiles ? 8.0 * mla__max(R + P, N + P) : 0, MLA__AR_MAX * MLA__AK));
        if (c->walkers) c->walkers[i] = my;
    }
}

/* Cut n tokens into blocks that walk together, of at most `most` tokens, where they choose of at most most_choosing. */
static int mla__walk_cut(const mla_context *c, int n_blocks, const mla_sequence *s, int token, int first, int n,
                         int most, int most_choosing) {
    const int dense = mla__dense(c, token, n), all = mla__together(c, s);
    n_blocks = mla__cut(c, n_blocks, s, token, first, dense, mla__min(most, all));
    return mla__cut(c, n_blocks, s, token + dense, first + dense, n - dense, mla__min(most_choosing, all));
}
/* Cut the keys of a block into pieces that are walked over apart; how many keys there are. */
static int mla__walk_pieces(const mla_context *c, mla__block *b, int most, int *slots) {
    int keys = mla__seen(c, b->seq, b->token + b->n - 1);
    mla__chosen(c, b->token, &keys);
    keys = mla__max(keys, 1); /* a mask may leave none to be chosen */
    mla__pieces(b, keys, most, MLA__PIECE_WALKED, slots);
    return keys;
}

/* Pairs of query and key of n tokens from row t on: if each query walks alone; if blocks of QUERIES do, over all that
   any of their tokens has chosen, at worst other keys for each; and the keys that these blocks walk over. */
typedef struct mla__steps {
    double alone, together, keys;
} mla__steps;
static mla__steps mla__walk_steps(const mla_context *c, const mla_sequence *s, int t, int n_tokens) {
    const int dense = mla__dense(c, t, n_tokens), causal = c->f->mask == MLA_MASK_CAUSAL && !s->mask;
    const double n = dense, few = n_tokens - dense, all = mla__seen(c, s, t + n_tokens - 1),
                 keys = causal ? all - few : all;
    const double pairs = causal ? n * (keys - (n - 1) / 2) : n * keys;
    const double own = fmin(c->f->index_topk, all), any = fmin(all, few * own);
    const mla__steps steps = {pairs + few * own, pairs + few * any,
                              keys * ceil(n / MLA__QUERIES) + any * ceil(few / MLA__QUERIES)};
    return steps;
}

/* Row i of a panel: its token in the block. */
static int mla__walk_token(const mla__walk *walk, int p, int i) { return (p * walk->c->k.nl + i) / walk->q.heads; }
/* The caller's mask of token t of the block, or NULL. */
static const float *mla__walk_mask(const mla__walk *walk, int t) {
    const mla_sequence *s = walk->b->seq;
    return s->mask ? s->mask + (walk->b->first + t) * (mla__sz)mla__keys(s) : NULL;
}
/* Where the caller wants the probabilities of a row. */
static float *mla__walk_probs(const mla__walk *walk, int p, int i) {
    const mla_sequence *s = walk->b->seq;
    const mla__sz token = (mla__sz)walk->a->probs_layer * s->n_tokens + walk->b->first + mla__walk_token(walk, p, i);
    const int head = walk->q.head0 + (p * walk->c->k.nl + i) % walk->q.heads;
    return s->probs + (token * walk->c->f->num_attention_heads + walk->c->head0 + head) * (mla__sz)mla__keys(s);
}

/* Masks and probabilities of lane i of panel p. Those of lists are of a visit: one token has one mask for all heads. */
static void mla__lane_begin(const mla__walk *walk, int p, int i) {
    const mla_sequence *s = walk->b->seq;
    const int row = mla__min(i, walk->my->lanes[p].n - 1), t = mla__walk_token(walk, p, row), keys = mla__keys(s);
    const int listed = walk->list || walk->shared, alone = walk->b->n == 1;
    mla__lanes *l = &walk->my->lanes[p];
    l->m[i] = -INFINITY, l->l[i] = 0;
    if (!listed) {
        l->limit[i] = mla__seen(walk->c, s, walk->b->token + t) - 1;
        l->mask[i] = mla__walk_mask(walk, t);
        l->probs[i] = s->probs ? mla__walk_probs(walk, p, row) : NULL;
        return;
    }
    l->limit[i] = keys - 1;
    l->mask[i] = s->mask || !alone ? walk->my->mask + (alone ? 0 : i) * MLA__KEYS : NULL;
    l->probs[i] = NULL;
    if (!s->probs) return;
    float *probs = mla__walk_probs(walk, p, row);
    for (int u = 0; u < keys; u++) probs[u] = -INFINITY; /* until a score is known */
    l->probs[i] = walk->my->probs + (alone ? p * walk->c->k.nl + row : i) * MLA__KEYS;
}
static void mla__lanes_begin(const mla__walk *walk) {
    const mla_context *c = walk->c;
    const mla__queries *q = &walk->q;
    const int rows = walk->b->n * q->heads, nl = c->k.nl;
    float *memory = walk->my->lane_memory;
    for (int p = 0; p < walk->panels; p++) {
        mla__lanes *l = &walk->my->lanes[p];
        l->q = memory, memory += (mla__sz)q->dk * nl;
        l->o = memory, memory += (mla__sz)q->dv * nl;
        l->m = memory, memory += nl;
        l->l = memory, memory += nl;
        l->limit = (int *)(void *)memory, memory += nl;
        l->n = mla__min(nl, rows - p * nl);
        l->started = 0;
        for (int i = 0; i < nl; i++) mla__lane_begin(walk, p, i);
        c->k.transpose(l->q, q->q + p * nl * q->ldq, (int)q->ldq, l->n, q->dk);
    }
}
static int mla__lanes_last(const mla__lanes *l) {
    int last = 0;
    for (int i = 0; i < l->n; i++) last = mla__max(last, l->limit[i]);
    return last;
}

static mla__walk mla__walk_of(mla_context *c, const mla__attn *a, const mla__block *b, int piece, int worker,
                              const mla__queries *q) {
    mla__walk walk = MLA__ZERO;
    walk.c = c, walk.a = a, walk.b = b, walk.my = &c->walkers[worker], walk.q = *q;
    walk.panels = (b->n * q->heads + c->k.nl - 1) / c->k.nl;
    walk.list = mla__chosen(c, b->token, &walk.end);
    if (walk.list && b->n > 1) {
        walk.list = NULL, walk.shared = 1;
        memset(walk.my->next, 0, (size_t)b->n * sizeof *walk.my->next);
    }
    mla__lanes_begin(&walk);
    if (!walk.list) walk.end = mla__lanes_last(&walk.my->lanes[walk.panels - 1]) + 1; /* later tokens see no less */
    walk.u0 = mla__piece_at(b, piece);
    if (b->pieces > 1) walk.end = mla__min(walk.end, mla__piece_at(b, piece + 1));
    return walk;
}

/* Of the positions from + 0 .. from + KEYS, those that some token of the block has chosen become the keys n and up of
   the visit, as long as there is room; how many there are then. The lists advance behind them. */
static int mla__chosen_window(const mla__walk *walk, int from, int n) {
    mla__walker *my = walk->my;
    unsigned char some[MLA__KEYS] = {0};
    int width = 0, keys = 0;
    for (int t = 0; t < walk->b->n; t++) {
        const int *chosen = mla__chosen(walk->c, walk->b->token + t, &keys);
        for (int i = my->next[t]; i < keys && chosen[i] - from < MLA__KEYS; i++) some[chosen[i] - from] = 1;
    }
    for (; width < MLA__KEYS; width++) {
        if (!some[width]) continue;
        if (n == MLA__KEYS) break;
        my->at[n++] = from + width;
    }
    for (int t = 0; t < walk->b->n; t++) {
        const int *chosen = mla__chosen(walk->c, walk->b->token + t, &keys);
        while (my->next[t] < keys && chosen[my->next[t]] - from < width) my->next[t]++;
    }
    return n;
}
/* The next positions, at most KEYS of them, that some token of the block has chosen. */
static int mla__chosen_next(const mla__walk *walk) {
    mla__walker *my = walk->my;
    int n = 0, keys = 0;
    memcpy(my->before, my->next, (size_t)walk->b->n * sizeof *my->next);
    while (n < MLA__KEYS) {
        int from = INT32_MAX;
        for (int t = 0; t < walk->b->n; t++) {
            const int *chosen = mla__chosen(walk->c, walk->b->token + t, &keys);
            if (my->next[t] < keys) from = mla__min(from, chosen[my->next[t]]);
        }
        if (from == INT32_MAX) break;
        n = mla__chosen_window(walk, from, n);
    }
    return n;
}

/* The mask of lane i for the visit: what token t of the block has not chosen, or the caller hides from it. */
static void mla__chosen_mask(const mla__walk *walk, int i, int t) {
    const float *mask = mla__walk_mask(walk, t);
    float *to = walk->my->mask + i * MLA__KEYS;
    int keys = 0, next = walk->shared ? walk->my->before[t] : walk->u0;
    const int *chosen = mla__chosen(walk->c, walk->b->token + t, &keys);
    const int end = walk->shared ? walk->my->next[t] : walk->u0 + walk->n;
    for (int j = 0; j < walk->n; j++) {
        const int mine = next < end && chosen[next] == walk->at[j];
        to[j] = !mine ? -INFINITY : mask ? mask[walk->at[j]] : 0;
        next += mine;
    }
}
/* Go on to the next visit, whose positions kernels count from u0 or, if they are listed, from 0; 0: there is none. */
static int mla__walk_next(mla__walk *walk, mla__visit *visit) {
    walk->u0 += walk->n;
    walk->n = walk->shared ? mla__chosen_next(walk) : mla__min(walk->q.most, walk->end - walk->u0);
    walk->at = walk->shared ? walk->my->at : walk->list ? walk->list + walk->u0 : NULL;
    if (walk->n <= 0) return 0;
    if (walk->list && walk->b->seq->mask) mla__chosen_mask(walk, 0, 0);
    visit->u0 = walk->at ? 0 : walk->u0, visit->nu = walk->n;
    return 1;
}

/* The cached rows of a visit, as they are or as f32 with stride ld. Runs are taken where they lie if they may stay as
   they are: MLA_PAGE rows from a multiple of it lie together, paged or not. */
static const void *mla__walk_rows(const mla__walk *walk, int as_they_are, mla__sz ld) {
    const mla_cache *cache = walk->b->seq->cache;
    const mla_pool *pool = cache->pool;
    const mla__sz bytes = mla__bytes(pool->dtype, pool->width);
    const int layer = walk->a->layer;
    float *rows = walk->my->rows;
    if (as_they_are && !walk->at) return mla__row(cache, layer, walk->u0);
    for (int i = 0; i < walk->n; i++) {
        const unsigned char *row = mla__row(cache, layer, walk->at ? walk->at[i] : walk->u0 + i);
        if (walk->at) { /* they lie anywhere, so that only we know which is next */
            const unsigned char *next = mla__row(cache, layer, walk->at[mla__min(i + 3, walk->n - 1)]);
            for (mla__sz j = 0; j < bytes; j += 64) MLA__PREFETCH(next + j);
        }
        if (as_they_are) memcpy((unsigned char *)(void *)rows + i * bytes, row, (size_t)bytes);
        else walk->c->k.widen[pool->dtype](rows + i * ld, row, pool->width);
    }
    return rows;
}
/* Where the rows of the visit after this one lie, which is perhaps of the next piece, or block. */
static const void *mla__walk_ahead(const mla__walk *walk, int piece) {
    const mla__block *b = walk->b, *end = walk->c->call->blocks + walk->a->n_blocks;
    const int more = walk->u0 + walk->n < walk->end || piece + 1 < b->pieces, next = !more && b + 1 < end;
    return mla__row(b[next].seq->cache, walk->a->layer, next ? 0 : more ? walk->u0 + walk->n : walk->u0);
}
/* How many keys of the visit panel p sees; if tokens share it, the panel's masks are made for it. */
static int mla__walk_seen(const mla__walk *walk, int p) {
    const mla__lanes *l = &walk->my->lanes[p];
    if (!walk->at) return mla__min(walk->n, mla__lanes_last(l) + 1 - walk->u0);
    if (!walk->shared) return walk->n;
    for (int i = 0; i < l->n; i++) mla__chosen_mask(walk, i, mla__walk_token(walk, p, i));
    return walk->n;
}

/* Where the caller wants probabilities, the scores of a visit go to their places, */
static void mla__walk_scores(const mla__walk *walk, int p) {
    const mla__lanes *l = &walk->my->lanes[p];
    if (!walk->at || !l->probs[0]) return;
    for (int i = 0; i < l->n; i++) {
        float *to = mla__walk_probs(walk, p, i);
        for (int j = 0; j < walk->n; j++) to[walk->at[j]] = l->probs[i][j];
    }
}
/* and when all are there, become probabilities. */
static void mla__walk_end(const mla__walk *walk, int p) {
    const mla__lanes *l = &walk->my->lanes[p];
    const int keys = mla__keys(walk->b->seq);
    if (!l->probs[0]) return;
    for (int i = 0; i < l->n; i++) {
        float *to = mla__walk_probs(walk, p, i);
        const int seen = l->l[i] == 0 ? 0 : l->limit[i] < keys ? l->limit[i] + 1 : keys;
        walk->c->k.probs(to, l->m[i], l->l[i], seen);
        for (int u = seen; u < keys; u++) to[u] = 0;
    }
}

/* ---- >>attention ------------------------------------------------------------------------------------------------- */

#define MLA__ABSORB_ROWS 4096 /* rows (heads x tokens) that the absorbed path has scratch for */
typedef struct mla__attn_scratch {
    float *cq, *q, *kva, *o;            /* [T, Q] [T, H, N+P] [T, R+P] [T, H, V]; cq and q wider with q_twice, q_gate */
    float *gate;                        /* [T, H] or [T, H, V] */
    float *qa, *ol;                     /* [absorb_tokens, H, R+P], [absorb_tokens, H, R] */
    unsigned char *sees;                /* [absorb_tokens, H]: 0 if there is no key that the query sees */
    float *piece_o, *piece_m, *piece_l; /* [PIECES * lane_tokens, H, R] and [PIECES * lane_tokens, H] */
} mla__attn_scratch;
static int mla__absorb_tokens(const mla_context *c) {
    return mla__min(c->max_tokens, mla__max(1, MLA__ABSORB_ROWS / mla__max(c->H, 1)));
}
static void mla__attn_layout(mla_context *c, mla__arena *arena) {
    const int P = c->P, V = c->V, R = c->R;
    const double T = c->max_tokens, H = c->H;
    int gates = 0;
    if (c->f->num_attention_heads == 0) return;
    const double rows = mla__lane_tokens(c) * H, absorb_rows = mla__absorb_tokens(c) * H;
    mla__attn_scratch s;
    for (int i = 0; i < mla__all_layers(c->f); i++) gates = mla__max(gates, c->m->layers[i].attn.gate.weight.rows);
    s.cq = MLA__TAKE(arena, float, T *mla__latents(c->f));
    s.q = MLA__TAKE(arena, float, T *H *mla__query_width(c->f));
    s.gate = MLA__TAKE(arena, float, T *gates);
    s.kva = MLA__TAKE(arena, float, T *(R + P));
    s.o = MLA__TAKE(arena, float, T *H *V);
    s.qa = MLA__TAKE(arena, float, absorb_rows *(R + P));
    s.ol = MLA__TAKE(arena, float, absorb_rows *R);
    s.sees = MLA__TAKE(arena, unsigned char, absorb_rows);
    s.piece_o = MLA__TAKE(arena, float, MLA__PIECES *rows *R);
    s.piece_m = MLA__TAKE(arena, float, MLA__PIECES *rows);
    s.piece_l = MLA__TAKE(arena, float, MLA__PIECES *rows);
    mla__index_layout(c, arena);
    mla__walk_layout(c, arena);
    if (c->attn) *c->attn = s;
}

/* Latent norms, rotation of the key, and the new rows of the caches. */
static void mla__latent_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__attn *a = (const mla__attn *)arg;
    const mla_config *f = c->f;
    const mla_sequence *s = a->batch->seqs;
    const int R = c->R, P = c->P, Q = c->Q, latents = mla__latents(f);
    int first = 0;
    for (int t = my->from; t < my->to; t++) {
        float *row = c->attn->kva + t * (mla__sz)(R + P), *cq = c->attn->cq + t * (mla__sz)latents;
        while (t >= first + s->n_tokens) first += s++->n_tokens;
        if (Q > 0) mla__norm(c, cq, cq + latents - Q, Q, &f->q_norm, &a->w->q_norm);
        mla__norm(c, row, row, R, &f->kv_norm, &a->w->kv_norm);
        if (f->latent_scale != 1)
            for (int i = 0; i < R; i++) row[i] *= f->latent_scale;
        mla__turn(c, row + R, t, f->rope.layout);
        c->k.narrow[s->cache->pool->dtype](mla__row(s->cache, a->layer, c->call->position[t]), row, R + P);
        if (a->index) mla__index_key(c, a, s->cache, t);
    }
}

/* Rotation of the queries; softmax_scale and all other factors of theirs go into them. */
static void mla__query_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__attn *a = (const mla__attn *)arg;
    const mla_config *f = c->f;
    const int P = c->P, N = c->N, H = c->H, width = mla__query_width(f);
    for (int t = my->from; t < my->to; t++) {
        float scale = f->softmax_scale * f->q_scale;
        if (f->temperature_beta != 0)
            scale *= 1 + f->temperature_beta * logf((float)(1 + c->call->position[t] / f->temperature_period));
        for (int h = 0; h < H; h++) {
            float *q = c->attn->q + (t * (mla__sz)H + h) * width;
            mla__turn(c, q + N, t, f->rope.layout);
            for (int i = 0; i < N + P; i++) q[i] *= scale;
        }
        if (a->index) mla__index_query(c, t);
    }
}

/* What heads give, times their gates. */
static void mla__gate_work(mla_context *c, void *arg, const mla__share *my) {
    const int H = c->H, V = c->V, width = mla__query_width(c->f);
    const int rows = ((const mla__attn *)arg)->w->gate.weight.rows;
    for (mla__sz t = my->from; t < my->to; t++)
        for (int h = 0; h < H; h++) {
            float *o = c->attn->o + (t * H + h) * V;
            const float *own = c->attn->q + (t * H + h) * width + c->N + c->P; /* of q_gate */
            if (c->f->q_gate || rows > c->f->num_attention_heads)
                c->k.gate(o, c->f->q_gate ? own : c->attn->gate + (t * H + h) * V, V);
            else {
                const float by = 1.0f / (1.0f + expf(-c->attn->gate[t * H + h]));
                for (int i = 0; i < V; i++) o[i] *= by;
            }
        }
}

/* The sinks of panel p's heads join its sums, where there is any key. */
static void mla__walk_sinks(const mla__walk *walk, int p) {
    const mla_tensor *sinks = &walk->a->w->sinks;
    const mla__lanes *l = &walk->my->lanes[p];
    for (int i = 0; i < l->n && sinks->data; i++) {
        const int head = walk->q.head0 + (p * walk->c->k.nl + i) % walk->q.heads;
        if (l->l[i] != 0) l->l[i] += expf(mla__value(sinks->dtype, sinks->data, walk->c->head0 + head) - l->m[i]);
    }
}
/* y [n] = what lane i has summed, over the sum of its weights. */
static void mla__lane_result(float *y, const mla__lanes *l, int i, int n) {
    const float *o = l->o + i * (mla__sz)n, z = l->l[i] != 0 ? 1.0f / l->l[i] : 0;
    for (int j = 0; j < n; j++) y[j] = z != 0 ? o[j] * z : 0;
}
/* Absorbed, what has been summed for row i of panel p, with o [R]: the result, or that of a piece. */
static void mla__absorbed_row(const mla_context *c, const mla__attn *a, const mla__block *b, int piece,
                              const mla__lanes *l, int p, int i) {
    const mla__attn_scratch *s = c->attn;
    const int H = c->H, R = c->R, row = p * c->k.nl + i;
    const mla__sz to = (mla__sz)(b->token - a->token0) * H + row;
    if (b->pieces == 1) {
        s->sees[to] = l->l[i] != 0;
        mla__lane_result(s->ol + to * R, l, i, R);
        return;
    }
    const mla__sz slot = (mla__sz)b->slot * H + row * (mla__sz)b->pieces + piece;
    s->piece_m[slot] = l->m[i], s->piece_l[slot] = l->l[i];
    if (l->started) memcpy(s->piece_o + slot * R, l->o + i * (mla__sz)R, (size_t)R * sizeof(float));
    else memset(s->piece_o + slot * R, 0, (size_t)R * sizeof(float));
}

/* Absorbed, one block of tokens and one piece of context: all heads walk over the latents, each widened once. */
static void mla__absorbed_piece(mla_context *c, const mla__attn *a, const mla__block *b, int piece, int worker) {
    const mla__walker *my = &c->walkers[worker];
    const mla_dtype dtype = b->seq->cache->pool->dtype;
    const int H = c->H, R = c->R, dk = R + c->P;
    const int in_place = c->k.attend[dtype] != NULL && R % MLA__NR_MAX == 0;
    const mla_dtype t = in_place ? dtype : MLA_F32;
    const int tiles = c->k.attend_tiles && t == MLA_BF16 && dk % 32 == 0;
    const mla__sz ld = in_place ? dk : mla__up_to(dk, MLA__NR_MAX);
    const mla__queries q = {c->attn->qa + (mla__sz)(b->token - a->token0) * H * dk, dk, H, 0, dk, R, MLA_PAGE};
    mla__visit visit = {NULL, NULL, NULL, ld, ld, dk, R, 0, 0, my->s, my->wide};
    mla__walk walk = mla__walk_of(c, a, b, piece, worker, &q);
    mla__lanes *lanes = walk.my->lanes;
    while (mla__walk_next(&walk, &visit)) {
        visit.k = visit.v = mla__walk_rows(&walk, in_place, ld);
        visit.ahead = in_place && !walk.at && !MLA__SMALL ? mla__walk_ahead(&walk, piece) : visit.k;
        (tiles ? c->k.attend_tiles : c->k.attend[t])(lanes, walk.panels, &visit);
        for (int p = 0; p < walk.panels; p++) mla__walk_scores(&walk, p);
    }
    for (int p = 0; p < walk.panels; p++) {
        if (b->pieces == 1) mla__walk_sinks(&walk, p);
        mla__walk_end(&walk, p);
        for (int i = 0; i < lanes[p].n; i++) mla__absorbed_row(c, a, b, piece, &lanes[p], p, i);
    }
}

/* W_UK and W_UV, in kv_b or apart. A bias on keys adds the same to all scores of a query: softmax cancels it. */
static void mla__attn_heads(const mla_context *c, mla__attn *a) {
    const int N = c->N, V = c->V, R = c->R, at = c->head0, splits = mla__splits(a->w);
    const mla_tensor *both = &a->w->kv_b.weight;
    a->keys = splits ? mla__heads_of(&a->w->k_b, at * R, R, R) : mla__heads_of(both, at * (N + V), N + V, N);
    a->values = splits ? mla__heads_of(&a->w->v_b, at * V, V, V) : mla__heads_of(both, at * (N + V) + N, N + V, V);
    a->keys.transposed = splits;
    if (!splits) a->values.w.bias = a->w->kv_b.bias;
}
/* y [T, N] = W_UK c of head h; back: y [T, R] = W_UK^T q. */
static void mla__head_keys(mla_context *c, float *y, mla__sz ldy, const mla__in *in, const mla__attn *a, int h,
                           int back, float *panel) {
    const mla__heads *k = &a->keys;
    if (back == k->transposed) mla__rows(c, y, ldy, in, &k->w, mla__head_row(k, h), 0, k->n, panel);
    else mla__mix(c, y, ldy, in, &k->w.weight, mla__head_row(k, h), k->n, panel);
}
/* y [T, V] = W_UV c + b_v of head h */
static void mla__head_values(mla_context *c, float *y, mla__sz ldy, const mla__in *in, const mla__attn *a, int h,
                             float *panel) {
    mla__rows(c, y, ldy, in, &a->values.w, mla__head_row(&a->values, h), 0, a->values.n, panel);
}

/* A visit's keys [n, N+P] and values [n, V] of head h, expanded from the latents, by bgemm where that is the fastest;
   in bf16 for attend_tiles. */
static void mla__expand(mla_context *c, const mla__attn *a, const mla__walk *walk, int h, int tiles, int worker) {
    const mla__walker *my = &c->walkers[worker];
    const int N = c->N, P = c->P, V = c->V, R = c->R, nu = walk->n;
    const mla__sz ld = mla__up_to(R + P, MLA__NR_MAX), ldk = N + P, ldv = mla__up_to(V, MLA__NR_MAX);
    const float *latent = (const float *)mla__walk_rows(walk, 0, ld);
    float *panel = c->workers[worker].panel;
    mla__in in = mla__in_of(latent, ld, nu);
    const int whole = (a->keys.transposed || mla__heads_whole(&a->keys)) && mla__heads_whole(&a->values);
    if (tiles || (whole && mla__packed(mla__wants(c, &a->keys.w.weight, nu)))) {
        const int exact = walk->b->seq->cache->pool->dtype == MLA_BF16; /* one part is all */
        in.q = (const unsigned char *)my->c16, in.ldq = mla__act_bytes(exact ? MLA_ACT_BF16 : MLA__ACT_SPLIT, R);
        in.parts = exact ? 1 : 2, in.w_parts = 2;
        for (int u = 0; u < nu; u++) c->k.split(my->c16 + u * in.ldq / 2, latent + u * ld, R, in.parts);
        for (int u = nu; u < mla__up_to(nu, 16); u++) memset(my->c16 + u * in.ldq / 2, 0, (size_t)in.ldq);
    }
    mla__head_keys(c, my->k, ldk, &in, a, h, 0, panel);
    for (int u = 0; u < nu; u++) memcpy(my->k + u * ldk + N, latent + u * ld + R, (size_t)P * sizeof *latent);
    mla__head_values(c, my->v, ldv, &in, a, h, panel);
    if (!tiles) return;
    for (int u = 0; u < nu; u++) {
        c->k.narrow[MLA_BF16](my->k16 + u * ldk, my->k + u * ldk, ldk);
        c->k.narrow[MLA_BF16](my->v16 + u * (mla__sz)V, my->v + u * ldv, V);
    }
}

/* Naive, one head of one block of tokens: keys and values are expanded a visit at a time. */
static void mla__naive_head(mla_context *c, const mla__attn *a, const mla__block *b, int h, int worker) {
    const mla__walker *my = &c->walkers[worker];
    const int H = c->H, N = c->N, P = c->P, V = c->V;
    const int tiles = c->k.attend_tiles && !a->keys.transposed && a->keys.w.weight.dtype == MLA_BF16 &&
                      (N + P) % 32 == 0 && V % 32 == 0 && c->R % 32 == 0;
    const mla__sz width = mla__query_width(c->f);
    const float *first = c->attn->q + ((mla__sz)b->token * H + h) * width;
    const mla__queries q = {first, H * width, 1, h, N + P, V, MLA__KEYS};
    mla__visit visit = {my->k, my->v, my->k, N + P, mla__up_to(V, MLA__NR_MAX), N + P, V, 0, 0, my->s, my->wide};
    if (tiles) visit.k = visit.ahead = my->k16, visit.v = my->v16, visit.ldv = V;
    mla__walk walk = mla__walk_of(c, a, b, 0, worker, &q);
    mla__lanes *lanes = walk.my->lanes;
    while (mla__walk_next(&walk, &visit)) {
        mla__expand(c, a, &walk, h, tiles, worker);
        for (int p = 0; p < walk.panels; p++) {
            visit.nu = mla__walk_seen(&walk, p);
            if (visit.nu <= 0) continue;
            (tiles ? c->k.attend_tiles : c->k.attend[MLA_F32])(&lanes[p], 1, &visit);
            mla__walk_scores(&walk, p);
        }
    }
    for (int p = 0; p < walk.panels; p++) {
        const mla__lanes *l = &lanes[p];
        mla__walk_sinks(&walk, p);
        mla__walk_end(&walk, p);
        for (int i = 0; i < l->n; i++)
            mla__lane_result(c->attn->o + ((mla__sz)(b->token + p * c->k.nl + i) * H + h) * V, l, i, V);
    }
}

static void mla__naive_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__block *b = &c->call->blocks[my->load];
    for (int h = my->from; h < my->to; h++) mla__naive_head(c, (const mla__attn *)arg, b, h, my->worker);
}
static void mla__absorbed_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__block *b = &c->call->blocks[my->load];
    for (int p = my->from; p < my->to; p++) mla__absorbed_piece(c, (const mla__attn *)arg, b, p, my->worker);
}
/* Pieces of context are merged in their order. */
static void mla__merge_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__attn *a = (const mla__attn *)arg;
    const mla__attn_scratch *s = c->attn;
    const mla__block *b = &c->call->blocks[my->load];
    const mla_tensor *sinks = &a->w->sinks;
    const int H = c->H, R = c->R, n = b->pieces;
    for (int row = my->from; row < my->to; row++) {
        const mla__sz slot = (mla__sz)b->slot * H + row * (mla__sz)n;
        const mla__sz to = (mla__sz)(b->token - a->token0) * H + row;
        const float *m = s->piece_m + slot, *l = s->piece_l + slot;
        const mla_tensor o = mla_view(s->piece_o + slot * R, MLA_F32, n, R);
        float share[MLA__PIECES], max = -INFINITY, sum = 0;
        const mla__in in = mla__in_of(share, n, 1);
        for (int p = 0; p < n; p++) max = m[p] > max ? m[p] : max;
        for (int p = 0; p < n; p++) {
            share[p] = l[p] != 0 ? expf(m[p] - max) : 0;
            sum += share[p] * l[p];
        }
        if (sinks->data && sum != 0) sum += expf(mla__value(sinks->dtype, sinks->data, c->head0 + row % H) - max);
        for (int p = 0; p < n; p++) share[p] = sum != 0 ? share[p] / sum : 0;
        s->sees[to] = sum != 0;
        mla__mix(c, s->ol + to * R, R, &in, &o, 0, n, c->workers[my->worker].panel);
    }
}
/* qa [n, H, R+P] = [W_UK^T q_nope | q_rope], a head at a time. */
static void mla__absorb_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__attn *a = (const mla__attn *)arg;
    const int H = c->H, N = c->N, P = c->P, R = c->R;
    const mla__sz width = mla__query_width(c->f);
    for (int h = my->from; h < my->to; h++) {
        const float *q = c->attn->q + ((mla__sz)a->token0 * H + h) * width;
        float *qa = c->attn->qa + h * (mla__sz)(R + P);
        const mla__in in = mla__in_of(q, H * width, a->n_tokens);
        mla__head_keys(c, qa, (mla__sz)H * (R + P), &in, a, h, 1, c->workers[my->worker].panel);
        for (int t = 0; t < a->n_tokens; t++)
            memcpy(qa + t * (mla__sz)H * (R + P) + R, q + t * H * width + N, (size_t)P * sizeof *q);
    }
}

/* o_h = W_UV_h ol_h + b_v: probabilities add up to 1, so the bias is added once; a query that sees no key gets 0. */
static void mla__unabsorb(mla_context *c, const mla__attn *a) {
    const int H = c->H, V = c->V, R = c->R;
    float *o = c->attn->o + (mla__sz)a->token0 * H * V;
    for (int h = 0; h < H; h++) {
        mla__job *j = mla__job_add(c, o + h * (mla__sz)V, (mla__sz)H * V, c->attn->ol + h * (mla__sz)R, (mla__sz)H * R,
                                   a->n_tokens, &a->values.w);
        j->row0 = mla__head_row(&a->values, h), j->rows = V, j->exact = 1;
    }
    mla__jobs_run(c);
    for (mla__sz i = 0; i < (mla__sz)a->n_tokens * H; i++)
        if (!c->attn->sees[i]) memset(o + i * V, 0, (size_t)V * sizeof *o);
}

static double *mla__attention_time(const mla_context *c) { return c->stats ? &c->stats->attention : NULL; }
/* Most pieces of a block's context, if n_blocks are worked on at a time; with invariant as if it was alone. */
static int mla__most_pieces(const mla_context *c, const mla__block *b, int n_blocks) {
    const int n = mla__together(c, b->seq), most = mla__lane_tokens(c);
    int keys;
    if (c->invariant) n_blocks = mla__chosen(c, b->token, &keys) ? n : (n + most - 1) / most;
    return b->seq->probs ? 1 : mla__max(1, MLA__PIECES / n_blocks);
}
/* The absorbed path of up to n_tokens tokens from row `token` on, which is row `first` of sequence i; of several, too.
   How many it were: as many as there is room for the results of pieces. */
static int mla__absorbed(mla_context *c, mla__attn *a, int i, int token, int first, int n_tokens) {
    const double H = c->H, N = c->N, R = c->R, P = c->P;
    double cost = 0;
    int slots = 0, n_blocks = 0;
    for (int at = 0, n; at < n_tokens; at += n, first = 0, i++) {
        const mla_sequence *s = &a->batch->seqs[i];
        n = mla__min(n_tokens - at, s->n_tokens - first);
        n_blocks = mla__walk_cut(c, n_blocks, s, token + at, first, n, mla__lane_tokens(c), 1);
    }
    a->token0 = token, a->n_tokens = 0;
    for (a->n_blocks = 0; a->n_blocks < n_blocks; a->n_blocks++) {
        mla__block *b = &c->call->blocks[a->n_blocks];
        int used = slots;
        const int keys = mla__walk_pieces(c, b, mla__most_pieces(c, b, n_blocks), &used);
        if (used > MLA__PIECES * mla__lane_tokens(c)) break;
        slots = used, a->n_tokens += b->n;
        cost += b->n * H * keys * (2 * R + P);
    }
    mla__parallel_even(c, mla__absorb_work, a, c->H, a->n_tokens * H * N * R);
    for (int j = 0; j < a->n_blocks; j++) {
        const mla__block *b = &c->call->blocks[j];
        c->loads[j].units = b->pieces, c->loads[j].weight = (int64_t)b->n * (b->pages / b->pieces + 1);
    }
    mla__parallel_timed(c, mla__attention_time(c), mla__absorbed_work, a, a->n_blocks, cost);
    for (int j = 0; j < a->n_blocks; j++) {
        const mla__block *b = &c->call->blocks[j];
        c->loads[j].units = b->pieces > 1 ? b->n * c->H : 0, c->loads[j].weight = b->pieces;
    }
    if (slots)
        mla__parallel_timed(c, mla__attention_time(c), mla__merge_work, a, a->n_blocks,
                            a->n_tokens * H * R * MLA__PIECES);
    mla__unabsorb(c, a);
    return a->n_tokens;
}
/* The naive path of n tokens of a sequence from row `token` of the call on, which is its row `first`. */
static void mla__naive(mla_context *c, mla__attn *a, const mla_sequence *s, int token, int first, int n) {
    a->n_blocks = mla__walk_cut(c, 0, s, token, first, n, MLA__QUERIES, MLA__QUERIES);
    for (int i = 0; i < a->n_blocks; i++) c->loads[i].units = c->H, c->loads[i].weight = c->call->blocks[i].n + 1;
    mla__parallel_timed(c, mla__attention_time(c), mla__naive_work, a, a->n_blocks,
                        (double)mla__keys(s) * c->H * (c->R + n) * c->V);
}

/* Multiplications of both paths. Naive: N+P+V for each pair of query and key, and R(N+V) to expand each key that a
   block walks over; absorbed: 2R+P for each pair, and R(N+V) into and out of the latent for each query. */
static int mla__prefer_naive(const mla_context *c, const mla_sequence *s, int token) {
    const double R = c->R, N = c->N, P = c->P, V = c->V, n = mla__together(c, s);
    const mla__steps steps = mla__walk_steps(c, s, token, (int)n);
    const double naive = steps.together * (N + P + V) + R * (N + V) * steps.keys;
    const double absorbed = steps.alone * (2 * R + P) + n * R * (N + V);
    return c->path == MLA_ATTN_NAIVE || (c->path == MLA_ATTN_AUTO && naive < absorbed);
}

/* Row *first of sequence *i, n tokens further. */
static void mla__pass(const mla__batch *batch, int *i, int *first, int n) {
    for (*first += n; *i < batch->n && *first >= batch->seqs[*i].n_tokens;) *first -= batch->seqs[(*i)++].n_tokens;
}
/* o [T, H, V] of all sequences. Neighbours that take the absorbed path share the products with W_UK and W_UV. */
static void mla__attend_all(mla_context *c, mla__attn *a) {
    const mla__batch *batch = a->batch;
    for (int i = 0, first = 0, token = 0, step; i < batch->n;) {
        const mla_sequence *s = &batch->seqs[i];
        if (mla__prefer_naive(c, s, token)) {
            mla__naive(c, a, s, token, first, step = mla__together(c, s));
            token += step, mla__pass(batch, &i, &first, step);
            continue;
        }
        int n = 0;
        for (int end = i, at = first; end < batch->n && !mla__prefer_naive(c, &batch->seqs[end], token + n); n += step)
            mla__pass(batch, &end, &at, step = mla__together(c, &batch->seqs[end]));
        for (; n > 0; n -= step) {
            step = mla__absorbed(c, a, i, token, first, mla__min(n, mla__absorb_tokens(c)));
            token += step, mla__pass(batch, &i, &first, step);
        }
    }
}

/* The bytes of weights that are read for it. */
static double mla__attn_bytes(const mla_context *c, int layer) {
    const mla_attn_weights *w = &c->m->layers[layer].attn;
    const mla_tensor *const by_heads[] = {&w->q.weight, &w->q_b.weight, &w->kv_b.weight, &w->k_b,
                                          &w->v_b,      &w->o.weight,   &w->gate.weight};
    double others = 0;
    for (size_t i = 0; i < sizeof by_heads / sizeof *by_heads; i++) others += mla__tensor_bytes(by_heads[i]);
    others *= 1 - c->H / (double)mla__max(c->f->num_attention_heads, 1);
    return mla__mixer_bytes(c->m, layer) - others;
}
/* Every rank gets the probabilities of all heads. */
static void mla__probs_of_all(mla_context *c, const mla__batch *batch, int probs_layer) {
    const mla__slice own = {c->head0, c->head0 + c->H};
    for (const mla_sequence *s = batch->seqs; s < batch->seqs + batch->n && c->shard.ranks > 1; s++) {
        const mla__sz heads = c->f->num_attention_heads, keys = mla__keys(s), n = s->n_tokens * heads;
        float *probs = s->probs + probs_layer * n * keys;
        if (!s->probs) continue;
        for (mla__sz i = 0; i < n; i++)
            if (i % heads < own.from || i % heads >= own.to) memset(probs + i * keys, 0, (size_t)keys * sizeof *probs);
        mla__reduce(c, probs, n * keys);
    }
}
/* y [T, D] = attention of x [T, D], by this rank's heads. Everything has been checked, pages are reserved. */
static void mla__attn_run(mla_context *c, const mla__batch *batch, int layer, int probs_layer, float *y,
                          const float *x) {
    const mla_attn_weights *w = &c->m->layers[layer].attn;
    const mla__attn_scratch *s = c->attn;
    const int D = c->D, H = c->H, Q = c->Q, R = c->R, P = c->P, V = c->V, T = batch->T, at = c->head0;
    const int head = mla__query_width(c->f), width = H * head, latents = mla__latents(c->f);
    const int gate = w->gate.weight.rows > c->f->num_attention_heads ? V : w->gate.weight.data ? 1 : 0; /* of a head */
    const mla__slice queries = {at * head, at * head + width}, values = {at * V, (at + H) * V},
                     gates = {at * gate, (at + H) * gate};
    mla__attn a = MLA__ZERO;
    a.batch = batch, a.w = w, a.layer = layer, a.probs_layer = probs_layer;
    a.index = c->m->indexer[layer] >= 0 ? &w->indexer : NULL;
    mla__attn_heads(c, &a);
    if (Q > 0) mla__job_add(c, s->cq + latents - Q, latents, x, D, T, &w->q_a);
    else if (H > 0) mla__job_of_rows(mla__job_add(c, s->q, width, x, D, T, &w->q), queries);
    mla__job_add(c, s->kva, R + P, x, D, T, &w->kv_a);
    if (gate > 0 && H > 0) mla__job_of_rows(mla__job_add(c, s->gate, H * gate, x, D, T, &w->gate), gates);
    mla__jobs_run(c);
    if (a.index) mla__index_keys(c, &a, x);
    mla__parallel_even(c, mla__latent_work, &a, T, (double)T * (Q + R + P) * 8);
    if (Q > 0) {
        if (H > 0) mla__job_of_rows(mla__job_add(c, s->q, width, s->cq, latents, T, &w->q_b), queries);
        if (a.index) mla__index_queries(c, &a, s->cq);
        mla__jobs_run(c);
    }
    mla__parallel_even(c, mla__query_work, &a, T, (double)T * width * 4);
    if (a.index) mla__choose(c, &a);
    if (H > 0) {
        mla__attend_all(c, &a);
        if (c->f->q_gate || gate > 0) mla__parallel_even(c, mla__gate_work, &a, T, (double)T * H * V * 8);
        mla__job_of_columns(mla__job_add(c, y, D, s->o, (mla__sz)H * V, T, &w->o), values);
        mla__jobs_run(c);
    } else memset(y, 0, (size_t)T * (size_t)D * sizeof *y);
    mla__probs_of_all(c, batch, probs_layer);
}
static mla_result mla__attn_check(mla_context *c, int layer) {
    if (mla__has(MLA__IN_ATTN, &c->m->layers[layer].attn)) return MLA_OK;
    return mla__fail(&c->err, MLA_ERR_WEIGHTS, "weights.layers[%d].attn: missing", layer);
}

/* ---- >>kda ------------------------------------------------------------------------------------------------------- */
/* Each head of each sequence is worked on alone: convolutions, decay and the recurrence, or for many tokens the same in
   chunks, from the state where the cache ends to that behind the call's tokens, which lies beside it. */

#define MLA__CHUNK_LEAST 8 /* tokens of a sequence that are worth chunks */

typedef struct mla__kda_scratch {
    float *qkv;     /* [3, T, Hl*C], before the convolutions */
    float *f, *z;   /* [T, Hl*C] decay, and the gate, which becomes what is gated */
    float *fa, *za; /* [T, C] on the way to them */
    float *beta;    /* [T, Hl] */
} mla__kda_scratch;
typedef struct mla__kda_worker {
    float *w;           /* [3, taps, C] of convolutions */
    float *bias, *norm; /* [C] */
    float *none;        /* [C] zeros: what was before the first token */
    float *o;           /* [C] */
    float *beta;        /* [CHUNK] */
    mla__chunk chunk;
    const float **x; /* [3, taps - 1 + T] inputs of convolutions */
} mla__kda_worker;

static mla__chunk mla__chunk_layout(mla__arena *arena, int C) {
    mla__chunk p = MLA__ZERO;
    p.C = C, p.ld = mla__up_to(C, MLA__NR_MAX);
    const double row = (double)p.ld;
    p.q = MLA__TAKE(arena, float, MLA__CHUNK *row);
    p.k = MLA__TAKE(arena, float, MLA__CHUNK *row);
    p.v = MLA__TAKE(arena, float, MLA__CHUNK *row);
    p.g = MLA__TAKE(arena, float, MLA__CHUNK *row);
    p.s = MLA__TAKE(arena, float, row *row);
    p.w = MLA__TAKE(arena, float, 2 * MLA__CHUNK * row);
    p.x = MLA__TAKE(arena, float, 2 * MLA__CHUNK * row);
    p.kt = MLA__TAKE(arena, float, row *MLA__CHUNK);
    p.a = MLA__TAKE(arena, float, 2.0 * MLA__CHUNK * MLA__CHUNK);
    p.e = MLA__TAKE(arena, float, (2 + MLA__CHUNK_BLOCK) * row);
    return p;
}
static void mla__kda_layout(mla_context *c, mla__arena *arena) {
    const double T = c->max_tokens, C = c->C, width = c->Hl * C, taps = c->f->linear_conv_kernel_dim;
    mla__kda_scratch s;
    if (c->Hl == 0) return;
    s.qkv = MLA__TAKE(arena, float, 3 * T * width);
    s.f = MLA__TAKE(arena, float, T *width);
    s.z = MLA__TAKE(arena, float, T *width);
    s.fa = MLA__TAKE(arena, float, T *C);
    s.za = MLA__TAKE(arena, float, T *C);
    s.beta = MLA__TAKE(arena, float, T * c->Hl);
    for (int i = 0; i < c->threads; i++) {
        mla__kda_worker my;
        my.w = MLA__TAKE(arena, float, 3 * taps * C);
        my.bias = MLA__TAKE(arena, float, C);
        my.norm = MLA__TAKE(arena, float, C);
        my.none = MLA__TAKE(arena, float, C);
        my.o = MLA__TAKE(arena, float, C);
        my.beta = MLA__TAKE(arena, float, MLA__CHUNK);
        my.chunk = mla__chunk_layout(arena, c->C);
        my.x = MLA__TAKE(arena, const float *, 3 * (taps - 1 + T));
        if (c->kda_workers) c->kda_workers[i] = my;
    }
    if (c->kda) *c->kda = s;
}

/* One layer's KDA in a call. */
typedef struct mla__kda {
    const mla__batch *batch;
    const mla_kda_weights *w;
    int layer;
} mla__kda;
/* A head of a sequence: its tokens are rows t0 .. t0+n of the call. */
typedef struct mla__kda_head {
    const mla__kda *a;
    mla__kda_worker *my;
    int h, t0, n;
    const unsigned char *from; /* the states before and after; NULL: the sequence begins */
    unsigned char *to;
    const mla__states *states;
} mla__kda_head;

/* y [n] = elements of a tensor from `first` on. */
static void mla__kda_get(const mla_context *c, float *y, const mla_tensor *w, mla__sz first, mla__sz n) {
    c->k.widen[w->dtype](y, (const char *)w->data + mla__bytes(w->dtype, first), n);
}
/* to [taps, C], a head's rows of a convolution's weights transposed. */
static void mla__kda_taps(const mla_context *c, const mla__kda_head *j, float *to, const mla_tensor *conv) {
    const int C = c->C, taps = c->f->linear_conv_kernel_dim;
    float *rows = j->my->chunk.x; /* which has room for 64 taps, the most there are */
    mla__kda_get(c, rows, conv, j->h * (mla__sz)C * taps, (mla__sz)C * taps);
    if (taps == 4)
        for (int i = 0; i < C; i++)
            for (int tap = 0; tap < 4; tap++) to[tap * C + i] = rows[i * 4 + tap];
    else
        for (int i = 0; i < C; i++)
            for (int tap = 0; tap < taps; tap++) to[tap * C + i] = rows[i * taps + tap];
}
/* The inputs of convolution i, of q, k or v, of a head in a state. */
static mla__sz mla__kda_inputs(const mla_context *c, const mla__kda_head *j, int i, int tap) {
    const mla__sz width = (mla__sz)c->Hl * c->C;
    return j->states->inputs_at + 4 * ((i * (mla__sz)(c->f->linear_conv_kernel_dim - 1) + tap) * width + j->h * c->C);
}
/* Weights of the head, and where the inputs of its convolutions are: those behind the last token are kept. */
static void mla__kda_begin(mla_context *c, const mla__kda_head *j) {
    const int C = c->C, taps = c->f->linear_conv_kernel_dim;
    const mla__sz width = (mla__sz)c->Hl * C, first = j->h * (mla__sz)C;
    const mla_tensor *conv[3] = {&j->a->w->q_conv, &j->a->w->k_conv, &j->a->w->v_conv};
    mla__kda_worker *my = j->my;
    memset(my->none, 0, (size_t)C * sizeof *my->none);
    mla__kda_get(c, my->bias, &j->a->w->dt_bias, first, C);
    mla__kda_get(c, my->norm, &j->a->w->norm, 0, C);
    for (int i = 0; i < 3; i++) {
        const float **x = my->x + i * (taps - 1 + c->max_tokens);
        mla__kda_taps(c, j, my->w + i * taps * C, conv[i]);
        for (int tap = 0; tap < taps - 1; tap++)
            x[tap] = j->from ? (const float *)(const void *)(j->from + mla__kda_inputs(c, j, i, tap)) : my->none;
        for (int t = 0; t < j->n; t++)
            x[taps - 1 + t] = c->kda->qkv + (i * (mla__sz)c->max_tokens + j->t0 + t) * width + first;
        for (int tap = 0; tap < taps - 1; tap++)
            memcpy(j->to + mla__kda_inputs(c, j, i, tap), x[j->n + tap], (size_t)C * sizeof **x);
    }
}
#define MLA__KDA_AHEAD 3 /* tokens whose inputs are fetched early: a head's lie far from each other */

/* q, k, v and g [C] of the head's token t; its beta. */
static float mla__kda_token(mla_context *c, const mla__kda_head *j, int t, float *q, float *k, float *v, float *g) {
    const int C = c->C, taps = c->f->linear_conv_kernel_dim;
    const mla__kda_worker *my = j->my;
    const mla__sz row = (j->t0 + t) * (mla__sz)c->Hl + j->h, ahead = (row + MLA__KDA_AHEAD * (mla__sz)c->Hl) * C;
    for (int i = 0; i < C && t + MLA__KDA_AHEAD < j->n; i += 16) {
        for (int m = 0; m < 3; m++) MLA__PREFETCH(c->kda->qkv + m * (mla__sz)c->max_tokens * c->Hl * C + ahead + i);
        MLA__PREFETCH(c->kda->f + ahead + i);
        MLA__PREFETCH(c->kda->z + ahead + i);
    }
    const float a = expf(mla__value(j->a->w->a_log.dtype, j->a->w->a_log.data, j->h));
    float *const to[3] = {q, k, v};
    for (int i = 0; i < 3; i++)
        c->k.conv(to[i], my->x + i * (taps - 1 + c->max_tokens) + t, my->w + i * taps * C, taps, C);
    c->k.unit(q, q, 1.0f / sqrtf((float)C), C);
    c->k.unit(k, k, 1, C);
    c->k.decay(g, c->kda->f + row * C, my->bias, a, c->f->kda_lower_bound, C);
    return 1.0f / (1.0f + expf(-c->kda->beta[row]));
}
/* The gate of token t becomes what is gated, o. */
static void mla__kda_gate(mla_context *c, const mla__kda_head *j, int t, const float *o) {
    float *z = c->kda->z + ((j->t0 + t) * (mla__sz)c->Hl + j->h) * c->C;
    c->k.gated_norm(z, o, j->my->norm, c->f->block_norm.eps, c->C);
}
/* One token after the other; values of the state are in t. */
static void mla__kda_recur(mla_context *c, const mla__kda_head *j, mla__sz at, mla_dtype t) {
    const mla__chunk *my = &j->my->chunk;
    const mla__sz values = (mla__sz)c->C * c->C;
    float *s = t == MLA_F32 ? (float *)(void *)(j->to + at) : my->s;
    mla__recur r = {my->q, my->k, my->v, my->g, s, s, j->my->o, my->e, 0, c->C};
    if (!j->from) memset(s, 0, (size_t)values * sizeof *s);
    else if (t != MLA_F32) c->k.widen[t](s, j->from + at, values);
    else r.from = (const float *)(const void *)(j->from + at);
    for (int i = 0; i < j->n; i++) {
        r.beta = mla__kda_token(c, j, i, my->q, my->k, my->v, my->g);
        c->k.recur(&r);
        mla__kda_gate(c, j, i, j->my->o);
        r.from = s;
    }
    if (t != MLA_F32) c->k.narrow[t](j->to + at, s, values);
}
#if MLA__X86
/* Decay makes floats so small that they lose digits, and Intel's cores take a hundred times as long for each. Nothing
   that shows comes of them: they are zero until the mode that this gives is set again. */
static MLA__TARGET_AVX2 unsigned mla__tiny_zero(void) {
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);
    return mode;
}
static MLA__TARGET_AVX2 void mla__tiny_again(unsigned mode) { _mm_setcsr(mode); }
#else
static unsigned mla__tiny_zero(void) { return 0; }
static void mla__tiny_again(unsigned mode) { (void)mode; }
#endif
/* As mla__kda_recur, in chunks. */
static void mla__kda_chunks(mla_context *c, const mla__kda_head *j, mla__sz at, mla_dtype t) {
    mla__chunk p = j->my->chunk;
    const int C = c->C;
    const mla__sz ld = p.ld, row = mla__bytes(t, C), all = MLA__CHUNK * ld * (mla__sz)sizeof(float);
    const int vectors = c->k.isa != MLA_ISA_SCALAR;
    const unsigned mode = vectors ? mla__tiny_zero() : 0;
    p.beta = j->my->beta;
    memset(p.q, 0, (size_t)all), memset(p.k, 0, (size_t)all), memset(p.v, 0, (size_t)all);
    memset(p.g, 0, (size_t)all), memset(p.kt, 0, (size_t)all), memset(p.s, 0, (size_t)(ld * ld) * sizeof *p.s);
    for (int i = 0; i < C && j->from; i++) c->k.widen[t](p.s + i * ld, j->from + at + i * row, C);
    for (int t0 = 0; t0 < j->n; t0 += p.n) {
        p.n = mla__min(MLA__CHUNK, j->n - t0);
        for (mla__sz i = 0; i < p.n; i++)
            j->my->beta[i] = mla__kda_token(c, j, t0 + (int)i, p.q + i * ld, p.k + i * ld, p.v + i * ld, p.g + i * ld);
        c->k.chunk(&p);
        for (int i = 0; i < p.n; i++) mla__kda_gate(c, j, t0 + i, p.w + (p.n + i) * ld);
    }
    for (int i = 0; i < C; i++) c->k.narrow[t](j->to + at + i * row, p.s + i * ld, C);
    if (vectors) mla__tiny_again(mode);
}
static void mla__kda_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__kda *a = (const mla__kda *)arg;
    const mla_cache *k = a->batch->seqs[my->load].cache;
    const int state = k->pool->states.of[a->layer], now = mla__state_find(k, state, k->length);
    const mla__sz values = (mla__sz)c->C * c->C;
    mla__kda_head j = {a, &c->kda_workers[my->worker], 0, 0, a->batch->seqs[my->load].n_tokens, NULL, NULL, NULL};
    for (int i = 0; i < my->load; i++) j.t0 += a->batch->seqs[i].n_tokens;
    const int in_turn = j.n < MLA__CHUNK_LEAST || c->manner == MLA__SHORT;
    j.states = &k->pool->states;
    j.to = mla__state_in(k, k->states[now == 0], state);
    j.from = k->length > 0 ? mla__state_in(k, k->states[now], state) : NULL;
    for (j.h = my->from; j.h < my->to; j.h++) {
        mla__kda_begin(c, &j);
        (in_turn ? mla__kda_recur : mla__kda_chunks)(c, &j, mla__bytes(j.states->dtype, j.h * values), j.states->dtype);
    }
}

/* No head looks at keys: the caller's probabilities are 0. */
static void mla__kda_probs(const mla_context *c, const mla__batch *batch, int layer) {
    for (int i = 0; i < batch->n; i++) {
        const mla_sequence *s = &batch->seqs[i];
        const mla__sz n = (mla__sz)s->n_tokens * c->f->num_attention_heads * mla__keys(s);
        if (s->probs) memset(s->probs + layer * n, 0, (size_t)n * sizeof *s->probs);
    }
}
/* y [T, D] = KDA of x [T, D]. */
static void mla__kda_run(mla_context *c, const mla__batch *batch, int layer, int probs_layer, float *y,
                         const float *x) {
    const mla_kda_weights *w = &c->m->layers[layer].kda;
    const mla__kda_scratch *s = c->kda;
    const int D = c->D, C = c->C, T = batch->T;
    const mla__sz width = (mla__sz)c->Hl * C, plane = c->max_tokens * width;
    const mla__kda a = {batch, w, layer};
    mla__job_add(c, s->qkv, width, x, D, T, &w->q);
    mla__job_add(c, s->qkv + plane, width, x, D, T, &w->k);
    mla__job_add(c, s->qkv + 2 * plane, width, x, D, T, &w->v);
    mla__job_add(c, s->beta, c->Hl, x, D, T, &w->b);
    if (w->f_a.weight.data) mla__job_add(c, s->fa, C, x, D, T, &w->f_a);
    else mla__job_add(c, s->f, width, x, D, T, &w->f_b);
    if (w->g_a.weight.data) mla__job_add(c, s->za, C, x, D, T, &w->g_a);
    else mla__job_add(c, s->z, width, x, D, T, &w->g_b);
    mla__jobs_run(c);
    if (w->f_a.weight.data) mla__job_add(c, s->f, width, s->fa, C, T, &w->f_b);
    if (w->g_a.weight.data) mla__job_add(c, s->z, width, s->za, C, T, &w->g_b);
    if (c->n_jobs) mla__jobs_run(c);
    for (int i = 0; i < batch->n; i++) c->loads[i].units = c->Hl, c->loads[i].weight = batch->seqs[i].n_tokens;
    mla__parallel_timed(c, mla__attention_time(c), mla__kda_work, (void *)(uintptr_t)&a, batch->n,
                        T * (double)width * (4 * C + 64));
    for (int i = 0; i < batch->n; i++) {
        mla_cache *k = batch->seqs[i].cache;
        const int state = k->pool->states.of[layer], now = mla__state_find(k, state, k->length);
        *mla__state_at(k->states[now == 0], state) = mla__keys(&batch->seqs[i]);
    }
    mla__kda_probs(c, batch, probs_layer);
    mla__job_add(c, y, D, s->z, width, T, &w->o);
    mla__jobs_run(c);
}
static mla_result mla__kda_check(mla_context *c, int layer) {
    (void)c, (void)layer; /* all of it is there, or nothing */
    return MLA_OK;
}

/* ---- >>mixer ----------------------------------------------------------------------------------------------------- */
/* A mixer lets a token of a layer see those before it. Its entry here is all that contexts, caches and blocks know of
   it. */
typedef struct mla__mixer {
    mla_result (*check)(mla_context *c, int layer);    /* that a partial model has what a call on the layer needs */
    void (*layout)(mla_context *c, mla__arena *arena); /* of its scratch, where nothing is kept from layer to layer */
    mla__sz (*row_bytes)(const mla_model *m, mla_dtype t); /* of a cached token */
    mla__state (*state)(const mla_model *m);               /* of a sequence */
    void (*run)(mla_context *c, const mla__batch *batch, int layer, int probs_layer, float *y, const float *x);
    int partial; /* what that gives is this rank's, to be summed up; else every rank's */
} mla__mixer;

static mla__sz mla__attn_row_bytes(const mla_model *m, mla_dtype t) {
    return mla__bytes(t, m->c.kv_lora_rank + m->c.qk_rope_head_dim);
}
static mla__state mla__attn_state(const mla_model *m) {
    const mla__state none = MLA__ZERO;
    (void)m;
    return none;
}
static mla__sz mla__kda_row_bytes(const mla_model *m, mla_dtype t) {
    (void)m, (void)t;
    return 0;
}
static mla__state mla__kda_state(const mla_model *m) {
    const mla__sz C = m->c.linear_head_dim, width = m->c.linear_num_heads * C;
    const mla__state s = {width * C, 3 * (m->c.linear_conv_kernel_dim - 1) * width};
    return s;
}
static const mla__mixer mla__mixers[] = {
    {mla__attn_check, mla__attn_layout, mla__attn_row_bytes, mla__attn_state, mla__attn_run, 1},
    {mla__kda_check, mla__kda_layout, mla__kda_row_bytes, mla__kda_state, mla__kda_run, 0},
};
static const mla__mixer *mla__mixer_of(const mla_model *m, int layer) {
    return &mla__mixers[mla__is_kda(&m->layers[layer])];
}
static mla__sz mla__row_bytes(const mla_model *m, int layer, mla_dtype t) {
    return mla__mixer_of(m, layer)->row_bytes(m, t);
}
static mla__state mla__state_of(const mla_model *m, int layer) { return mla__mixer_of(m, layer)->state(m); }

/* y [T, D], when mla__settle has been called with what this gives. */
static int mla__mixer_run(mla_context *c, const mla__batch *batch, int layer, int probs_layer, float *y,
                          const float *x) {
    const mla__mixer *m = mla__mixer_of(c->m, layer);
    m->run(c, batch, layer, probs_layer, y, x);
    return m->partial ? mla__reduce(c, y, batch->T * (mla__sz)c->D) : c->begun;
}

typedef struct mla__attn_call {
    const mla__batch *batch;
    int layer;
    float *y;
    const float *x;
} mla__attn_call;
static void mla__attn_body(mla_context *c, void *arg) {
    const mla__attn_call *a = (const mla__attn_call *)arg;
    if (c->stats) mla__phase_of(c, MLA_PHASE_ATTENTION, mla__attn_bytes(c, a->layer));
    mla__batch part = MLA__ZERO;
    while (!c->aborted && mla__next_part(c, a->batch, &part)) {
        const mla__sz at = part.row0 * (mla__sz)c->D;
        mla__mixer_run(c, &part, a->layer, 0, a->y + at, a->x + at);
        mla__settle(c, c->begun);
    }
}
mla_result mla_attn_forward(mla_context *c, int layer, float *y, const float *x, const mla_sequence *seqs, int n_seqs) {
    mla__batch batch;
    mla__attn_call call = {&batch, layer, y, x};
    if (!c) return MLA_ERR_ARGUMENT;
    if (!x || !y) return MLA__REFUSE(&c->err, "mla_attn_forward: %s is NULL", x ? "y" : "x");
    if (layer < 0 || layer >= c->f->num_hidden_layers)
        return MLA__REFUSE(&c->err, "mla_attn_forward: layer %d, num_hidden_layers is %d", layer,
                           c->f->num_hidden_layers);
    MLA__TRY(mla__mixer_of(c->m, layer)->check(c, layer));
    MLA__TRY(mla__check_sequences(c, &batch, seqs, n_seqs));
    MLA__TRY(mla__check_rows(c, &batch, layer, layer + 1));
    MLA__TRY(mla__reserve_for(c, &batch, layer));
    mla__forward(c, mla__attn_body, &call);
    if (c->aborted) return mla__abort(c, &batch, layer, layer + 1);
    mla__wrote(&batch, layer, layer + 1);
    if (layer == c->f->num_hidden_layers - 1) mla__advance(&batch);
    return MLA_OK;
}

/* ---- >>moe ------------------------------------------------------------------------------------------------------- */

/* index: where the k best of score [n] are, the best first, the lowest index among equals, NaN last. */
static void mla__best(int *index, int k, const float *score, int n) {
    int have = 0;
    for (int i = 0; i < n; i++) {
        int at = have;
        for (; at > 0; at--) {
            const float other = score[index[at - 1]];
            if (!(score[i] > other || (other != other && score[i] == score[i]))) break;
        }
        if (at == k) continue;
        have += have < k;
        for (int j = have - 1; j > at; j--) index[j] = index[j - 1];
        index[at] = i;
    }
}

/* One token: logits z [E+Z], overwritten by the scores -> index, weight [K]. Scratch: biased [2(E+Z)], taken
   [topk_group]. */
static void mla__route(const mla_config *f, const float *bias, float *z, float *biased, int *taken, int *index,
                       float *weight) {
    const int E = mla__choices(f), K = f->num_experts_per_tok, G = f->n_group, per = E / G;
    float *score = z, sum = 0, max = z[0];
    int e, g, k;
    if (f->scoring_func == MLA_SCORING_SOFTMAX) {
        for (e = 1; e < E; e++) max = z[e] > max ? z[e] : max;
        for (e = 0; e < E; e++) sum += score[e] = expf(z[e] - max);
        for (e = 0; e < E; e++) score[e] /= sum;
    } else {
        for (e = 0; e < E; e++) score[e] = 1.0f / (1.0f + expf(-z[e]));
    }
    for (e = 0; e < E; e++) biased[e] = score[e] + bias[e];
    if (f->topk_method != MLA_TOPK_GREEDY && G > 1) {
        const int top2 = f->topk_method >= MLA_TOPK_NOAUX_TC;
        for (g = 0; g < G; g++) {
            float a = -INFINITY, b = -INFINITY;
            for (e = g * per; e < (g + 1) * per; e++) {
                if (biased[e] > a) b = a, a = biased[e];
                else if (biased[e] > b) b = biased[e];
            }
            biased[E + g] = top2 ? a + b : a;
        }
        mla__best(taken, f->topk_group, biased + E, G);
        for (g = 0; g < G; g++) {
            for (k = 0; k < f->topk_group && taken[k] != g;) k++;
            for (e = g * per; k == f->topk_group && e < (g + 1) * per; e++) {
                biased[e] = f->topk_method == MLA_TOPK_NOAUX_TC ? -INFINITY : 0.0f;
                if (!top2) score[e] = 0; /* V2 reads its weights, too, from the masked scores */
            }
        }
    }
    mla__best(index, K, biased, E);
    sum = 0;
    for (k = 0; k < K; k++) sum += weight[k] = score[index[k]];
    for (k = 0; k < K; k++) {
        if (f->norm_topk_prob) weight[k] /= sum + 1e-20f;
        weight[k] *= f->routed_scaling_factor;
    }
}

typedef struct mla__moe_scratch {
    float *score, *weight;    /* [T, E+Z] [T, K] */
    int *index;               /* [T, K] */
    int *slot_token, *offset; /* [T*K] tokens sorted by expert, and [E+Z+1] where those of each begin */
    float *slot_weight;       /* [T*K] */
    float *h;                 /* [T, I] of a dense layer, or [T*K, I] and the shared expert's */
    float *biased;            /* [threads, 3 * (E+Z)] for the router, as is */
    int *taken;               /* [threads, n_group] */
    mla__slice *inner;        /* [E] this rank's columns of each expert */
} mla__moe_scratch;
static void mla__moe_layout(mla_context *c, mla__arena *arena) {
    const double T = c->max_tokens, K = c->f->num_experts_per_tok, inter = c->f->moe_intermediate_size;
    const int n_choices = mla__choices(c->f);
    mla__moe_scratch s;
    s.score = MLA__TAKE(arena, float, T *n_choices);
    s.index = MLA__TAKE(arena, int, T *K);
    s.weight = MLA__TAKE(arena, float, T *K);
    s.slot_token = MLA__TAKE(arena, int, T *K);
    s.slot_weight = MLA__TAKE(arena, float, T *K);
    s.offset = MLA__TAKE(arena, int, n_choices + 1);
    s.h = MLA__TAKE(arena, float, T *fmax(c->f->intermediate_size, (K + c->f->n_shared_experts) * inter));
    s.biased = MLA__TAKE(arena, float, 3.0 * n_choices * c->threads);
    s.taken = MLA__TAKE(arena, int, (double)c->f->n_group * c->threads);
    s.inner = MLA__TAKE(arena, mla__slice, c->f->n_routed_experts);
    if (c->moe) *c->moe = s;
}

/* A layer's FFN: experts, or one MLP that takes every token. */
typedef struct mla__moe {
    const mla_moe_weights *w;     /* NULL: no experts but */
    const mla_mlp_weights *dense; /* the shared one, or the MLP of a dense layer; or NULL */
    const float *x;
    float *y, *h;     /* h [T, inner] of the dense one */
    int T, E;         /* E: experts, or 0 */
    mla__slice inner; /* this rank's of the dense one */
} mla__moe;
#define MLA__DEAL 4 /* tokens of an expert, on average, from which ranks that share memory divide experts by work */
static mla__sz mla__expert_work(const mla_context *c, int e) {
    const int n = c->moe->offset[e + 1] - c->moe->offset[e];
    return n > 0 ? mla__row_work(n, c->k.tiles) : 0;
}
/* What this rank has of each expert: all or nothing, or, where ranks share memory, a range of columns. Of many tokens
   the columns of all experts lie in a row there, of which a rank has a piece, all of as much work: so that it is nearly
   always one of them that writes what an expert gives to a token. */
static void mla__deal(mla_context *c, int layer, const mla__moe *a) {
    const mla__slice own = c->experts[layer], all = {0, c->f->moe_intermediate_size}, none = {0, 0};
    const int in_a_row = !c->invariant && a->T * (mla__sz)c->f->num_experts_per_tok >= a->E * (mla__sz)MLA__DEAL;
    const mla__sz rank = c->shard.rank, ranks = c->shard.ranks;
    mla__sz sum = 0, at = 0;
    for (int e = 0; e < a->E; e++) sum += mla__expert_work(c, e);
    for (int e = 0; e < a->E; e++) {
        const mla_mlp_weights *w = &a->w->experts[e];
        const mla__sz work = mla__expert_work(c, e);
        mla__slice *inner = &c->moe->inner[e];
        if (!c->shard.split_experts) *inner = e >= own.from && e < own.to ? all : none;
        else if (!in_a_row || work == 0) *inner = mla__inner_of(c, w);
        else
            inner->from = mla__inner_at(w, sum * rank - at * ranks, work * ranks),
            inner->to = mla__inner_at(w, sum * (rank + 1) - at * ranks, work * ranks);
        at += work;
    }
}

static void mla__route_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__moe *a = (const mla__moe *)arg;
    const mla__moe_scratch *s = c->moe;
    const int E = mla__choices(c->f), K = c->f->num_experts_per_tok;
    const mla_tensor *b = &a->w->router_bias;
    float *biased = s->biased + my->worker * (mla__sz)(3 * E), *bias = biased + 2 * E;
    int *taken = s->taken + my->worker * (mla__sz)c->f->n_group;
    for (int e = 0; e < E; e++) bias[e] = b->data ? mla__value(b->dtype, b->data, e) : 0;
    for (int t = my->from; t < my->to; t++)
        mla__route(c->f, bias, s->score + t * (mla__sz)E, biased, taken, s->index + t * (mla__sz)K,
                   s->weight + t * (mla__sz)K);
}
/* Each token's experts and their weights. */
static void mla__route_all(mla_context *c, mla__moe *a) {
    const int n_choices = mla__choices(c->f);
    const mla_linear router = mla__linear_of(&a->w->router);
    mla__job_add(c, c->moe->score, n_choices, a->x, c->D, a->T, &router)->exact = 1;
    mla__jobs_run(c);
    mla__parallel_even(c, mla__route_work, a, a->T, (double)a->T * n_choices * (c->f->num_experts_per_tok + 8));
}

/* Tokens are sorted by expert, by counting. */
static void mla__sort(mla_context *c, int T, const mla_routing *out) {
    const mla__moe_scratch *s = c->moe;
    const int n_choices = mla__choices(&c->m->c), K = c->f->num_experts_per_tok;
    memset(s->offset, 0, (size_t)(n_choices + 1) * sizeof *s->offset);
    for (int i = 0; i < T * K; i++) s->offset[s->index[i] + 1]++;
    for (int e = 0; e < n_choices; e++) {
        if (out && out->counts) out->counts[e] += s->offset[e + 1];
        s->offset[e + 1] += s->offset[e];
    }
    for (int i = 0; i < T * K; i++) {
        const int slot = s->offset[s->index[i]]++;
        s->slot_token[slot] = i / K, s->slot_weight[slot] = s->weight[i];
    }
    /* each offset has advanced to where the next expert begins: shift them back by one */
    for (int e = n_choices; e > 0; e--) s->offset[e] = s->offset[e - 1];
    s->offset[0] = 0;
    if (out && out->index) memcpy(out->index, s->index, (size_t)T * (size_t)K * sizeof *s->index);
    if (out && out->weight) memcpy(out->weight, s->weight, (size_t)T * (size_t)K * sizeof *s->weight);
}

/* h = silu(gate x) * up x, of all experts at once. */
static void mla__gate(mla_context *c, const mla__moe *a) {
    const mla__moe_scratch *s = c->moe;
    const int D = c->D, inter = c->f->moe_intermediate_size;
    if (a->dense) {
        mla__job *j = mla__job_add(c, a->h, a->inner.to - a->inner.from, a->x, D, a->T, &a->dense->gate);
        mla__job_of_rows(j, a->inner), j->up = &a->dense->up;
    }
    for (int e = 0; e < a->E; e++) {
        const int first = s->offset[e], n = s->offset[e + 1] - first;
        const mla_mlp_weights *w = &a->w->experts[e];
        const mla__slice inner = s->inner[e];
        if (n == 0 || inner.from == inner.to) continue;
        mla__job *j = mla__job_add(c, s->h + first * (mla__sz)inter, inter, a->x, D, n, &w->gate);
        mla__job_of_rows(j, inner), j->up = &w->up, j->in.idx = s->slot_token + first, j->x_rows = a->T;
        j->limit = c->f->swiglu_limit;
    }
    mla__jobs_run(c);
}

/* Some rows of y: each worker goes through all jobs in their order, so that y is summed in one order. */
static void mla__down_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__moe *a = (const mla__moe *)arg;
    const mla__moe_scratch *s = c->moe;
    const int D = c->D, n0 = my->from * MLA__STRIP, n1 = mla__min(my->to * MLA__STRIP, D);
    if (!a->dense) /* which comes first and is not added but stored */
        for (int t = 0; t < a->T; t++) memset(a->y + t * (mla__sz)D + n0, 0, (size_t)(n1 - n0) * sizeof *a->y);
    for (int i = 0; i < c->n_jobs; i++) {
        const mla__job *j = &c->jobs[i], *next = i + 1 < c->n_jobs ? j + 1 : n1 < D ? c->jobs : NULL;
        mla__job_rows(c, j, n0, n1, &c->workers[my->worker], next, i + 1 < c->n_jobs ? n0 : n1);
    }
    if (!a->w || c->shard.rank > 0) return;
    for (int slot = s->offset[c->f->n_routed_experts]; slot < s->offset[mla__choices(&c->m->c)];
         slot++) { /* without weights */
        const mla__sz row = s->slot_token[slot] * (mla__sz)D;
        c->k.accumulate(a->y + row + n0, a->x + row + n0, s->slot_weight[slot], n1 - n0);
    }
}
/* y = sum of the down projections. */
static void mla__down(mla_context *c, mla__moe *a) {
    const mla__moe_scratch *s = c->moe;
    const int D = c->D, inter = c->f->moe_intermediate_size;
    const double inner = a->w ? c->f->num_experts_per_tok * (double)inter : (double)c->f->intermediate_size;
    if (a->dense)
        mla__job_of_columns(mla__job_add(c, a->y, D, a->h, a->inner.to - a->inner.from, a->T, &a->dense->down),
                            a->inner);
    for (int e = 0; e < a->E; e++) {
        const int first = s->offset[e], n = s->offset[e + 1] - first;
        const mla_mlp_weights *w = &a->w->experts[e];
        const mla__slice own = s->inner[e];
        if (n == 0 || own.from == own.to) continue;
        mla__job *j = mla__job_add(c, a->y, D, s->h + first * (mla__sz)inter, inter, n, &w->down);
        mla__job_of_columns(j, own), j->scatter = s->slot_token + first, j->weight = s->slot_weight + first;
    }
    mla__activations(c);
    mla__parallel_even(c, mla__down_work, a, (D + MLA__STRIP - 1) / MLA__STRIP, (double)a->T * D * inner);
    c->n_jobs = 0;
}

/* Bytes of weights that are read for it. */
static double mla__ffn_bytes(const mla_context *c, const mla__moe *a) {
    double sum =
        a->dense ? mla__share_of(a->inner, a->dense->gate.weight.rows) * mla__bytes_of(MLA__IN_MLP, a->dense) : 0;
    if (a->w) sum += mla__bytes_of(MLA__IN_MOE, a->w);
    for (int e = 0; e < a->E; e++) {
        const mla_mlp_weights *w = &a->w->experts[e];
        if (c->moe->offset[e + 1] == c->moe->offset[e]) continue;
        sum += mla__share_of(c->moe->inner[e], w->gate.weight.rows) * mla__bytes_of(MLA__IN_MLP, w);
    }
    return sum;
}
/* y [T, D] = experts (moe) or mlp of x [T, D]: what this rank has of them. */
static void mla__ffn(mla_context *c, int layer, int moe, float *y, const float *x, int T, const mla_routing *out) {
    const mla_layer_weights *w = &c->m->layers[layer];
    mla__moe a = {NULL, &w->mlp, x, y, c->moe->h, T, 0, {0, 0}};
    if (moe) {
        a.w = &w->moe, a.E = c->f->n_routed_experts;
        a.dense = c->f->n_shared_experts > 0 ? &w->moe.shared : NULL;
        a.h += T * (mla__sz)c->f->num_experts_per_tok * c->f->moe_intermediate_size;
        mla__route_all(c, &a);
        mla__sort(c, T, out);
        mla__deal(c, layer, &a);
    }
    if (a.dense) a.inner = mla__inner_of(c, a.dense);
    if (a.inner.from == a.inner.to) a.dense = NULL;
    if (c->stats) c->stats->phase_bytes[MLA_PHASE_EXPERTS] += mla__ffn_bytes(c, &a);
    mla__gate(c, &a);
    mla__down(c, &a);
}
static int mla__has_ffn(const mla_layer_weights *l) { return l->moe.experts || mla__has(MLA__IN_MLP, &l->mlp); }

typedef struct mla__moe_call {
    int layer, T;
    float *y;
    const float *x;
    const mla_routing *routing;
} mla__moe_call;
static void mla__moe_body(mla_context *c, void *arg) {
    const mla__moe_call *a = (const mla__moe_call *)arg;
    c->manner = mla__manner_of(c, a->T);
    mla__phase_of(c, MLA_PHASE_EXPERTS, 0);
    mla__ffn(c, a->layer, c->m->layers[a->layer].moe.experts != NULL, a->y, a->x, a->T, a->routing);
    mla__settle(c, mla__reduce(c, a->y, a->T * (mla__sz)c->D));
}
mla_result mla_moe_forward(mla_context *c, int layer, float *y, const float *x, int n_tokens,
                           const mla_routing *routing) {
    mla__moe_call call = {layer, n_tokens, y, x, routing};
    if (!c) return MLA_ERR_ARGUMENT;
    if (!x || !y) return MLA__REFUSE(&c->err, "mla_moe_forward: %s is NULL", x ? "y" : "x");
    if (layer < 0 || layer >= c->f->num_hidden_layers)
        return MLA__REFUSE(&c->err, "mla_moe_forward: layer %d, num_hidden_layers is %d", layer,
                           c->f->num_hidden_layers);
    if (!mla__has_ffn(&c->m->layers[layer]))
        return mla__fail(&c->err, MLA_ERR_WEIGHTS, "weights.layers[%d]: neither mlp nor moe is there", layer);
    if (n_tokens < 1) return MLA__REFUSE(&c->err, "mla_moe_forward: n_tokens %d, must be at least 1", n_tokens);
    if (n_tokens > c->max_tokens)
        return mla__fail(&c->err, MLA_ERR_MEMORY, "mla_moe_forward: %d tokens, context.max_tokens is %d", n_tokens,
                         c->max_tokens);
    mla__forward(c, mla__moe_body, &call);
    return c->aborted ? MLA_ERR_ABORTED : MLA_OK;
}

/* ---- >>block ----------------------------------------------------------------------------------------------------- */

typedef struct mla__block_scratch {
    float *x, *xn, *y; /* [T, D] the residual stream ([T, m, D] if several), normed, and what is added to it next */
    float *maps;       /* [T, 2m] how much the next part sees of each stream, and gives to it */
    float *late;       /* [T, D] what experts gave and the next layer adds, if there are shortcuts */
    float *pair;       /* [T, 2D] normed embedding and state, for multi-token prediction */
    float *down, *up;  /* [T, norm_gate_rank], [T, D] of gated norms */
    float *rows; /* [tables, T, D / tables] of n-gram embeddings; which token each row is of, and what it counts */
    int *row_token;
    float *row_weight;
} mla__block_scratch;
static void mla__block_layout(mla_context *c, mla__arena *arena) {
    const mla_model *m = c->m;
    const double size = (double)c->max_tokens * m->c.hidden_size;
    int shortcuts = 0;
    mla__block_scratch s;
    for (int i = 0; i < m->c.num_hidden_layers; i++) shortcuts += mla__shortcut(&m->layers[i]);
    s.x = MLA__TAKE(arena, float, size * m->c.hc_mult);
    s.maps = MLA__TAKE(arena, float, m->c.hc_mult > 1 ? 2.0 * c->max_tokens * m->c.hc_mult : 0);
    s.xn = MLA__TAKE(arena, float, size);
    s.y = MLA__TAKE(arena, float, size);
    s.late = MLA__TAKE(arena, float, shortcuts ? size : 0);
    s.pair = MLA__TAKE(arena, float, m->c.num_nextn_predict_layers ? 2 * size : 0);
    s.rows = MLA__TAKE(arena, float, mla__ngrams(&m->c) ? size : 0);
    s.row_token = MLA__TAKE(arena, int, mla__ngrams(&m->c) ? c->max_tokens : 0);
    s.row_weight = MLA__TAKE(arena, float, mla__ngrams(&m->c) ? c->max_tokens : 0);
    s.down = MLA__TAKE(arena, float, (double)c->max_tokens * m->c.norm_gate_rank);
    s.up = MLA__TAKE(arena, float, m->c.norm_gate_rank ? size : 0);
    if (c->block) *c->block = s;
}

typedef struct mla__rows_norm {
    float *y;
    const float *x;
    const mla_norm_weights *w;
} mla__rows_norm;
static void mla__norm_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__rows_norm *a = (const mla__rows_norm *)arg;
    for (int t = my->from; t < my->to; t++)
        mla__norm(c, a->y + t * (mla__sz)c->D, a->x + t * (mla__sz)c->D, c->D, &c->f->block_norm, a->w);
}
/* Rows y [T, n] times sigmoid of z [T, n], which may be y. */
typedef struct mla__gated {
    float *y;
    const float *z;
    int n;
} mla__gated;
static void mla__gated_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__gated *a = (const mla__gated *)arg;
    for (mla__sz t = my->from; t < my->to; t++) c->k.gate(a->y + t * a->n, a->z + t * a->n, a->n);
}
/* What a norm has given, y [T, D], times its gate, if it has one. */
static void mla__norm_gate(mla_context *c, float *y, int T, const mla_norm_weights *w) {
    const mla__block_scratch *s = c->block;
    const int D = c->D, r = c->f->norm_gate_rank;
    if (!w->gate_down.data || c->f->block_norm.kind == MLA_NORM_NONE) return;
    const mla_linear down = mla__linear_of(&w->gate_down), up = mla__linear_of(&w->gate_up);
    mla__gated silu = {s->down, s->down, r}, gate = {y, s->up, D};
    /* For weights of a caller's that are of no type of the model's there is no room to round what meets them. */
    const unsigned others = ~c->m->dtypes;
    mla__job_add(c, s->down, r, y, D, T, &down)->exact = (int)(others >> w->gate_down.dtype & 1);
    mla__jobs_run(c);
    mla__parallel_even(c, mla__gated_work, &silu, T, (double)T * r * 8);
    mla__job_add(c, s->up, D, s->down, r, T, &up)->exact = (int)(others >> w->gate_up.dtype & 1);
    mla__jobs_run(c);
    mla__parallel_even(c, mla__gated_work, &gate, T, (double)T * D * 8);
}
static void mla__norm_rows(mla_context *c, float *y, const float *x, int T, const mla_norm_weights *w) {
    mla__rows_norm a = {y, x, w};
    mla__parallel_even(c, mla__norm_work, &a, T, (double)T * c->D * 8);
    mla__norm_gate(c, y, T, w);
}
typedef struct mla__norm_call {
    const mla_norm_weights *w;
    float *y;
    const float *x;
    int T;
} mla__norm_call;
static void mla__norm_body(mla_context *c, void *arg) {
    const mla__norm_call *a = (const mla__norm_call *)arg;
    c->manner = mla__manner_of(c, a->T);
    for (int t = 0; t < a->T; t += c->max_tokens) {
        const mla__sz at = t * (mla__sz)c->D;
        mla__norm_rows(c, a->y + at, a->x + at, mla__min(c->max_tokens, a->T - t), a->w);
    }
}
mla_result mla_norm_forward(mla_context *c, const mla_norm_weights *norm, float *y, const float *x, int n_tokens) {
    const mla__entry entry = {0, "norm", MLA__IN_LAYER, MLA__IS_NORM, MLA__CALLED, 0, 0};
    mla__norm_call call = {norm, y, x, n_tokens};
    mla__check check;
    if (!c) return MLA_ERR_ARGUMENT;
    if (!norm || !x || !y) return MLA__REFUSE(&c->err, "mla_norm_forward: %s is NULL", !norm ? "norm" : x ? "y" : "x");
    if (n_tokens < 1) return MLA__REFUSE(&c->err, "mla_norm_forward: n_tokens %d, must be at least 1", n_tokens);
    mla__check_begin(&check, c->f, &c->err);
    mla__want_norm(&check, &entry, norm, c->D);
    if (check.result == MLA_OK) mla__forward(c, mla__norm_body, &call);
    return check.result;
}

/* Several streams meet in one, y [T, D]; how, and what they take afterwards, say maps [T, 2m]. */

#define MLA__HC_TOKENS 16 /* that meet the maps' weights together */
typedef struct mla__hc_rows {
    const mla_hc_weights *w;
    const float *x; /* [T, m, D] */
    float *y, *maps;
    int T;
} mla__hc_rows;
/* One token, whose row of maps holds products: m, or 2m of them. */
static void mla__hc_one(const mla_context *c, const mla_hc_weights *w, float *y, float *maps, const float *x) {
    const mla_config *f = c->f;
    const int m = f->hc_mult, D = c->D;
    double s[4] = {0, 0, 0, 0};
    for (int i = 0; i < m * D; i++) s[i & 3] += (double)x[i] * (double)x[i];
    const float r = (float)(1 / sqrt(((s[0] + s[1]) + (s[2] + s[3])) / (m * (double)D) + (double)f->block_norm.eps));
    for (int j = 0; j < w->fn.rows; j++) {
        const float scale = mla__value(w->scale.dtype, w->scale.data, j / m);
        const float z = maps[j] * r * scale + mla__value(w->base.dtype, w->base.data, j);
        maps[j] = (j < m ? 1 : f->hc_magnitude) / (1.0f + expf(-z)) + f->hc_eps;
    }
    for (int i = 0; i < D; i++) y[i] = maps[0] * x[i];
    for (int j = 1; j < m; j++)
        for (int i = 0; i < D; i++) y[i] += maps[j] * x[j * (mla__sz)D + i];
}
static void mla__hc_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__hc_rows *a = (const mla__hc_rows *)arg;
    const mla__sz m = c->f->hc_mult, wide = m * c->D;
    const mla_linear fn = mla__linear_of(&a->w->fn);
    for (int i = my->from; i < my->to; i++) {
        const int t0 = i * MLA__HC_TOKENS, n = mla__min(MLA__HC_TOKENS, a->T - t0);
        const mla__in in = mla__in_of(a->x + t0 * wide, wide, n);
        float *maps = a->maps + t0 * 2 * m;
        mla__rows(c, maps, 2 * m, &in, &fn, 0, 0, fn.weight.rows, c->workers[my->worker].panel);
        for (int t = 0; t < n; t++)
            mla__hc_one(c, a->w, a->y + (t0 + t) * (mla__sz)c->D, maps + t * 2 * m, in.x + t * wide);
    }
}
static void mla__hc_gather(mla_context *c, float *y, const float *x, int T, const mla_hc_weights *w) {
    mla__hc_rows a = {w, x, y, c->block->maps, T};
    mla__parallel_even(c, mla__hc_work, &a, (T + MLA__HC_TOKENS - 1) / MLA__HC_TOKENS,
                       (double)T * c->f->hc_mult * c->D * (w->fn.rows + 2));
}
typedef struct mla__hc_call {
    const mla_hc_weights *w;
    float *y, *post;
    const float *x;
    int T;
} mla__hc_call;
static void mla__hc_body(mla_context *c, void *arg) {
    const mla__hc_call *a = (const mla__hc_call *)arg;
    const int m = c->f->hc_mult;
    c->manner = mla__manner_of(c, a->T);
    for (int t = 0, n; t < a->T; t += n) {
        n = mla__min(c->max_tokens, a->T - t);
        mla__hc_gather(c, a->y + t * (mla__sz)c->D, a->x + t * (mla__sz)c->D * m, n, a->w);
        for (mla__sz i = 0; i < (mla__sz)n * m && a->post; i++)
            a->post[t * (mla__sz)m + i] = c->block->maps[i / m * 2 * m + m + i % m];
    }
}
mla_result mla_hc_forward(mla_context *c, const mla_hc_weights *hc, float *y, float *post, const float *x,
                          int n_tokens) {
    mla__hc_call call = {hc, y, post, x, n_tokens};
    mla__check check;
    if (!c) return MLA_ERR_ARGUMENT;
    if (!hc || !x || !y) return MLA__REFUSE(&c->err, "mla_hc_forward: %s is NULL", !hc ? "hc" : x ? "y" : "x");
    if (n_tokens < 1) return MLA__REFUSE(&c->err, "mla_hc_forward: n_tokens %d, must be at least 1", n_tokens);
    if (c->f->hc_mult == 1) return MLA__REFUSE(&c->err, "mla_hc_forward: config.hc_mult is 1");
    mla__check_begin(&check, c->f, &c->err);
    mla__check_hc(&check, hc, hc->fn.rows == c->f->hc_mult ? 1 : 2, "hc.", 0);
    if (!mla__has(MLA__IN_HC, hc)) mla__complain(&check, "hc.fn", "", "missing");
    if (check.result == MLA_OK && post && hc->fn.rows == c->f->hc_mult)
        return MLA__REFUSE(&c->err, "mla_hc_forward: post is there, but these maps have none");
    if (check.result == MLA_OK) mla__forward(c, mla__hc_body, &call);
    return check.result;
}

/* xn [T, D]: what the next part of a layer sees. */
static void mla__part_in(mla_context *c, int T, const mla_hc_weights *hc, const mla_norm_weights *w) {
    const mla__block_scratch *s = c->block;
    const int several = c->f->hc_mult > 1;
    if (several) mla__hc_gather(c, s->xn, s->x, T, hc);
    mla__norm_rows(c, s->xn, several ? s->xn : s->x, T, w);
}

/* What a part of a layer gives is added to the residual stream, or by its map to each of several; one is normed for the
   next part (w NULL: not). */
typedef struct mla__sum {
    const float *y;
    const mla_norm_weights *w;
} mla__sum;
static void mla__sum_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__sum *a = (const mla__sum *)arg;
    const mla__sz D = c->D, m = c->f->hc_mult;
    for (int t = my->from; t < my->to; t++) {
        float *x = c->block->x + t * m * D;
        for (int j = 0; j < m; j++) {
            const float by = c->f->residual_scale * (m > 1 ? c->block->maps[(2 * t + 1) * m + j] : 1);
            c->k.accumulate(x + j * D, a->y + t * D, by, c->D);
        }
        if (a->w) mla__norm(c, c->block->xn + t * D, x, c->D, &c->f->block_norm, a->w);
    }
}
static void mla__add(mla_context *c, const float *y, int T, const mla_norm_weights *w) {
    mla__sum a = {y, w};
    mla__parallel_even(c, mla__sum_work, &a, T, (double)T * c->D * (w ? 9 : c->f->hc_mult));
    if (w) mla__norm_gate(c, c->block->xn, T, w);
}

/* The tensors that calls ask for are there. */
static mla_result mla__require(mla_context *c, int in, const void *weights, const char *place, int i) {
    for (const mla__entry *e = NULL; (e = mla__next_tensor(in, e)) != NULL;) {
        const int none = mla__is_norm(e) && c->f->block_norm.kind == MLA_NORM_NONE;
        char at[32];
        if (e->need != MLA__CALLED || mla__tensor_at(e, weights)->data || none) continue;
        snprintf(at, sizeof at, place, i);
        return mla__fail(&c->err, MLA_ERR_WEIGHTS, "weights.%s%s%s: missing", at, e->name,
                         mla__is_norm(e) ? ".weight" : "");
    }
    return MLA_OK;
}
/* What a call on layers [begin, end) needs and a partial model may lack. */
static mla_result mla__complete(mla_context *c, int begin, int end) {
    for (int i = begin; i < end; i++) {
        const mla_layer_weights *w = &c->m->layers[i];
        MLA__TRY(mla__mixer_of(c->m, i)->check(c, i));
        if (!mla__has_ffn(w)) return mla__fail(&c->err, MLA_ERR_WEIGHTS, "weights.layers[%d].mlp (or moe): missing", i);
        MLA__TRY(mla__require(c, MLA__IN_LAYER, w, "layers[%d].", i));
        if (c->f->hc_mult > 1 && !(w->attn_hc.fn.data && w->ffn_hc.fn.data))
            return mla__fail(&c->err, MLA_ERR_WEIGHTS, "weights.layers[%d].%s.fn: missing", i,
                             w->attn_hc.fn.data ? "ffn_hc" : "attn_hc");
    }
    return MLA_OK;
}
/* Each sequence has what a call that begins with this layer begins with; *embeds: for some that is tokens. */
static mla_result mla__check_tokens(mla_context *c, const mla__batch *batch, int begin, const int *tokens,
                                    int *embeds) {
    *embeds = 0;
    for (int i = 0, t = 0; i < batch->n; t += batch->seqs[i++].n_tokens) {
        if (batch->seqs[i].embeddings) continue;
        if (begin > 0 || !tokens)
            return MLA__REFUSE_OF(&c->err, i, "sequences[%d].embeddings is NULL, %s", i,
                                  tokens ? "but only layer 0 begins with tokens" : "and tokens is NULL, too");
        for (int u = t; u < t + batch->seqs[i].n_tokens; u++)
            if (tokens[u] < 0 || tokens[u] >= c->f->vocab_size)
                return MLA__REFUSE_OF(&c->err, i, "tokens[%d]: %d, vocab_size is %d", u, tokens[u], c->f->vocab_size);
        *embeds = 1;
    }
    return MLA_OK;
}

/* x [n] = a row of e [rows, n] times by. */
static void mla__embed_row(const mla_context *c, const mla_tensor *e, float *x, int row, float by) {
    const int n = e->cols, block = mla__formats[e->dtype].block;
    unsigned char own[MLA__BLOCK_BYTES];
    for (int i = 0; i < n && block > 1; i += block) c->k.widen[e->dtype](x + i, mla__block_at(e, row, i, own), block);
    for (int i = 0; i < n; i++) {
        const float scale = mla__scaled(e) ? mla__scale(e, row, i) * by : by;
        x[i] = (block > 1 ? x[i] : mla__value(e->dtype, e->data, row * (mla__sz)n + i)) * scale;
    }
}

typedef struct mla__embedding {
    const mla__batch *batch;
    const int *tokens;
    int n; /* of its tokens, those that have n-grams */
} mla__embedding;
/* The id of the token at `position` of a sequence whose first token is in row t of the call's part. */
static int mla__id_at(const mla_context *c, const mla__embedding *a, const mla_sequence *s, int t, int position) {
    const int i = position - s->cache->length;
    if (i < 0) return position < 0 ? 0 : s->cache->ids[position];
    return s->embeddings ? 0 : a->tokens[c->row0 + t + i];
}
/* Rows of the tables: of one n-gram of each length and table for some tokens. */
static void mla__ngram_work(mla_context *c, void *arg, const mla__share *my) {
    const mla__embedding *a = (const mla__embedding *)arg;
    const int split = c->f->emb_split_num, n = mla__ngrams(c->f), width = mla__ngram_width(c->f);
    const mla_sequence *s = a->batch->seqs;
    int first = 0;
    for (int r = my->from; r < my->to; r++) {
        const int t = c->block->row_token[r];
        while (t >= first + s->n_tokens) first += s++->n_tokens;
        for (int i = 0; i < n; i++) {
            const mla_tensor *table = &c->m->ngram[i].table;
            uint64_t hash = 0;
            for (int back = i / split + 1; back >= 0; back--)
                hash = (hash * (uint64_t)c->f->vocab_size +
                        (uint64_t)mla__id_at(c, a, s, first, c->call->position[t] - back)) %
                       (uint64_t)table->rows;
            mla__embed_row(c, table, c->block->rows + (i * (mla__sz)a->n + r) * width, (int)hash, 1);
        }
    }
}
/* Some columns of x: each worker goes through all tables in their order. */
static void mla__ngram_add_work(mla_context *c, void *none, const mla__share *my) {
    (void)none;
    for (int i = 0; i < c->n_jobs; i++)
        mla__job_rows(c, &c->jobs[i], my->from * MLA__STRIP, mla__min(my->to * MLA__STRIP, c->D),
                      &c->workers[my->worker], NULL, 0);
}
/* x has the embeddings of tokens, already scaled, and those that were given: what n-grams add to the first. The caches
   take note of ids. */
static void mla__ngram_embed(mla_context *c, const mla__batch *batch, const int *tokens, float by) {
    const mla__block_scratch *s = c->block;
    const int D = c->D, n = mla__ngrams(c->f), width = mla__ngram_width(c->f);
    mla__embedding a = {batch, tokens, 0};
    for (int i = 0, t = 0; i < batch->n; t += batch->seqs[i++].n_tokens) {
        const mla_sequence *q = &batch->seqs[i];
        for (int u = 0; u < q->n_tokens; u++) {
            const int at = q->cache->length + u; /* without a layer to run there may be no room */
            if (at < q->cache->capacity) q->cache->ids[at] = mla__id_at(c, &a, q, t, at);
            if (!q->embeddings) s->row_weight[a.n] = by, s->row_token[a.n++] = t + u;
        }
    }
    if (a.n == 0) return;
    if (c->stats) c->stats->phase_bytes[MLA_PHASE_ATTENTION] += mla__ngram_bytes(c->m, 0);
    mla__parallel_even(c, mla__ngram_work, &a, a.n, (double)a.n * D * 8);
    for (int i = 0; i < n; i++) {
        mla__job *j = mla__job_add(c, s->x, (mla__sz)c->f->hc_mult * D, s->rows + i * (mla__sz)a.n * width, width, a.n,
                                   &c->m->ngram[i].proj);
        j->scatter = s->row_token, j->weight = s->row_weight;
    }
    mla__activations(c);
    mla__parallel_even(c, mla__ngram_add_work, NULL, (D + MLA__STRIP - 1) / MLA__STRIP, (double)a.n * D * D);
    c->n_jobs = 0;
}
/* x [T, D], or m times that for several streams: of tokens, or as given; all that width, of states, or copies. */
static void mla__embed(mla_context *c, const mla_tensor *e, const mla__batch *batch, const int *tokens, int states) {
    const mla__sz D = c->D, m = c->f->hc_mult, given = states ? m * D : D;
    const float by = c->f->embed_scale / (float)(1 + mla__ngrams(c->f));
    for (int i = 0, t = 0; i < batch->n; t += batch->seqs[i++].n_tokens) {
        const mla_sequence *s = &batch->seqs[i];
        for (int u = 0; u < s->n_tokens; u++) {
            float *x = c->block->x + (t + u) * m * D;
            if (s->embeddings) memcpy(x, s->embeddings + u * given, (size_t)given * sizeof *x);
            else mla__embed_row(c, e, x, tokens[c->row0 + t + u], by);
        }
    }
    if (mla__ngrams(c->f) && !states) mla__ngram_embed(c, batch, tokens, by);
    for (int t = 0; t < batch->T && !states; t++)
        for (int j = 1; j < m; j++)
            memcpy(c->block->x + (t * m + j) * D, c->block->x + t * m * D, (size_t)D * sizeof(float));
}

/* What the caller wants of the router of a layer: row i of it, in a call on T tokens. */
static mla_routing mla__routing_of(const mla_context *c, const mla_outputs *out, int layer, int i, int T) {
    mla_routing r = MLA__ZERO;
    const mla__sz chosen = (i * (mla__sz)T + c->row0) * c->f->num_experts_per_tok;
    if (!c->m->layers[layer].moe.experts) return r;
    if (out->expert_counts) r.counts = out->expert_counts + i * (mla__sz)mla__choices(&c->m->c);
    if (out->expert_index) r.index = out->expert_index + chosen;
    if (out->expert_weight) r.weight = out->expert_weight + chosen;
    return r;
}
/* The caller gets state i, the first n of each row of x [T, ldx], if it wants it. */
static void mla__give_state(const mla_context *c, const mla_outputs *out, int i, const float *x, mla__sz ldx, mla__sz n,
                            int T) {
    if (!out->hidden || !out->hidden[i]) return;
    for (int t = 0; t < T; t++) memcpy(out->hidden[i] + (c->row0 + t) * n, x + t * ldx, (size_t)n * sizeof *x);
}
/* That before layer i: of embeddings one stream is enough. */
static void mla__give_streams(const mla_context *c, const mla_outputs *out, int i, int T) {
    const mla__sz wide = (mla__sz)c->f->hc_mult * c->D;
    mla__give_state(c, out, i, c->block->x, wide, i > 0 ? wide : c->D, T);
}

/* A part of a call, or one of its halves: while the ranks sum up what one of them has made, the other computes. */
typedef struct mla__half {
    mla__batch batch;
    mla__call_scratch call;
    mla__block_scratch block;
    int sum; /* that it waits for, as of mla__reduce */
} mla__half;
#define MLA__HALF 64 /* fewest tokens: both halves read all weights */

/* half[0], and half[1] if it is worth it, of a part that is begun; gives their number. */
static int mla__halve(const mla_context *c, const mla__batch *part, mla__half *half) {
    const mla__half all = {*part, *c->call, *c->block, 0};
    int n = 0, t = 0;
    half[0] = half[1] = all;
    if (c->shard.ranks == 1 || !c->shard.wait) return 1;
    while (2 * t + part->seqs[n].n_tokens < part->T) t += part->seqs[n++].n_tokens;
    if (t < MLA__HALF || part->T - t < MLA__HALF) return 1;
    mla__half *b = &half[1];
    const mla__sz x = t * (mla__sz)c->D, angles = t * (mla__sz)(c->P / 2);
    half[0].batch.n = n, half[0].batch.T = t;
    b->batch.seqs += n, b->batch.first += n, b->batch.n -= n, b->batch.row0 += t, b->batch.T -= t;
    b->call.position += t, b->call.cos += angles, b->call.sin += angles;
    b->block.x += x * c->f->hc_mult, b->block.xn += x, b->block.y += x, b->block.late += x;
    b->block.maps += t * 2 * (mla__sz)c->f->hc_mult;
    return 2;
}
/* It is what follows works on. */
static void mla__enter(mla_context *c, const mla__half *half) {
    *c->call = half->call, *c->block = half->block, c->row0 = half->batch.row0;
}

/* x [T, D] through the block of a layer: up to attention, on to the FFN, and to the end. Of the last two each begins
   with the ranks' sum of what the one before it has made; 0: the call has come to an end. */
static void mla__layer_begin(mla_context *c, mla__half *half, int layer, int probs_layer) {
    const mla__block_scratch *s = c->block;
    const mla__batch *batch = &half->batch;
    if (c->stats) mla__phase_of(c, MLA_PHASE_ATTENTION, mla__attn_bytes(c, layer));
    mla__part_in(c, batch->T, &c->m->layers[layer].attn_hc, &c->m->layers[layer].attn_norm);
    half->sum = mla__mixer_run(c, batch, layer, probs_layer, s->y, s->xn);
}
static int mla__layer_ffn(mla_context *c, mla__half *half, int layer, const mla_routing *routing) {
    const mla__block_scratch *s = c->block;
    const mla_layer_weights *w = &c->m->layers[layer];
    const int T = half->batch.T;
    if (!mla__settle(c, half->sum)) return 0;
    if (w->attn_out_norm.weight.data) mla__norm_rows(c, s->y, s->y, T, &w->attn_out_norm);
    mla__add(c, s->y, T, c->f->hc_mult == 1 ? &w->ffn_norm : NULL);
    if (c->f->hc_mult > 1) mla__part_in(c, T, &w->ffn_hc, &w->ffn_norm);
    mla__phase_of(c, MLA_PHASE_EXPERTS, 0);
    mla__ffn(c, layer, w->moe.experts && !mla__shortcut(w), s->y, s->xn, T, routing);
    half->sum = mla__reduce(c, s->y, T * (mla__sz)c->D);
    return 1;
}
static int mla__layer_end(mla_context *c, mla__half *half, int layer, const mla_routing *routing) {
    const mla__block_scratch *s = c->block;
    const mla_layer_weights *w = &c->m->layers[layer];
    const int T = half->batch.T;
    if (!mla__settle(c, half->sum)) return 0;
    if (w->ffn_out_norm.weight.data) mla__norm_rows(c, s->y, s->y, T, &w->ffn_out_norm);
    mla__add(c, s->y, T, NULL);
    if (layer > 0 && mla__shortcut(w - 1)) mla__add(c, s->late, T, NULL); /* summed before what has been waited for */
    if (!mla__shortcut(w)) return 1;
    mla__ffn(c, layer, 1, s->late, s->xn, T, routing);
    mla__reduce(c, s->late, T * (mla__sz)c->D);
    return 1;
}

/* Logits of those rows of xn [T, D] that the sequences want; it is used up. */
static void mla__logits(mla_context *c, const mla__batch *batch, const mla_tensor *head_weights, float *logits) {
    const int D = c->D;
    float *xn = c->block->xn;
    const mla_linear head = mla__linear_of(head_weights);
    int n = 0;
    for (int i = 0, end = 0; i < batch->n; i++) { /* they move to the front */
        const int wanted = batch->seqs[i].n_logits;
        end += batch->seqs[i].n_tokens;
        memmove(xn + n * (mla__sz)D, xn + (end - wanted) * (mla__sz)D, (size_t)wanted * (size_t)D * sizeof *xn);
        n += wanted;
    }
    if (n == 0) return;
    const int vocab = c->f->vocab_size;
    const mla__slice own = mla__gathered(c, vocab);
    if (c->stats) c->stats->phase_bytes[MLA_PHASE_HEAD] += mla__share_of(own, vocab) * mla__tensor_bytes(head_weights);
    if (c->f->logits_scale != 1)
        for (mla__sz i = 0; i < n * (mla__sz)D; i++) xn[i] *= c->f->logits_scale;
    mla__sz before = 0; /* rows of the call's earlier parts */
    for (int i = -batch->first; i < 0; i++) before += batch->seqs[i].n_logits;
    logits += before * vocab;
    if (own.from < own.to) mla__job_of_rows(mla__job_add(c, logits + own.from, vocab, xn, D, n, &head), own);
    mla__jobs_run(c);
    mla__collect(c, logits, vocab, n, vocab);
}
/* After the last block: state i is the normed one, and the logits come from it. */
static void mla__finish(mla_context *c, const mla__batch *batch, const mla_norm_weights *norm, const mla_tensor *head,
                        int i, const mla_outputs *out) {
    const mla_hc_weights *hc = &c->m->w.hc_head;
    mla__phase_of(c, MLA_PHASE_HEAD,
                  mla__tensor_bytes(&norm->weight) + mla__tensor_bytes(&norm->bias) + mla__bytes_of(MLA__IN_HC, hc));
    mla__part_in(c, batch->T, hc, norm);
    mla__give_state(c, out, i, c->block->xn, c->D, c->D, batch->T);
    if (out->logits) mla__logits(c, batch, head, out->logits);
}

typedef struct mla__model_call {
    const mla__batch *batch;
    int begin, end; /* layers */
    const int *tokens;
    const mla_outputs *out;
    int row0; /* of the part under way */
} mla__model_call;
/* A half through the end of layer i - 1 and the begin of layer i, as far as these are in the call; and through the rest
   of it. 0: the call has come to an end. */
static int mla__half_begin(mla_context *c, const mla__model_call *a, mla__half *half, int i) {
    mla__enter(c, half);
    if (i > a->begin) {
        const mla_routing routing = mla__routing_of(c, a->out, i - 1, i - 1, a->batch->T);
        if (!mla__layer_end(c, half, i - 1, &routing)) return 0;
    }
    if (i == a->end) return 1;
    mla__give_streams(c, a->out, i, half->batch.T);
    if (half->batch.row0 == a->row0 && !mla__go_on(c, i, a->end, MLA_PHASE_ATTENTION)) return 0;
    mla__layer_begin(c, half, i, i);
    return 1;
}
static int mla__half_ffn(mla_context *c, const mla__model_call *a, mla__half *half, int i) {
    mla__enter(c, half);
    const mla_routing routing = mla__routing_of(c, a->out, i, i, a->batch->T);
    if (half->batch.row0 == a->row0 && !mla__go_on(c, i, a->end, MLA_PHASE_EXPERTS)) return 0;
    return mla__layer_ffn(c, half, i, &routing);
}
static int mla__half_finish(mla_context *c, const mla__model_call *a, mla__half *half) {
    const mla_model *m = c->m;
    mla__enter(c, half);
    if (a->end < m->c.num_hidden_layers) mla__give_streams(c, a->out, a->end, half->batch.T);
    else if (half->batch.row0 != a->row0 || mla__go_on(c, a->end, a->end, MLA_PHASE_HEAD))
        mla__finish(c, &half->batch, &m->w.norm, &m->w.head, a->end, a->out);
    return !c->aborted;
}
static int mla__model_part(mla_context *c, const mla__model_call *a, mla__half *half, int halves) {
    for (int i = a->begin; i <= a->end; i++) {
        for (int h = 0; h < halves; h++)
            if (!mla__half_begin(c, a, &half[h], i)) return 0;
        for (int h = 0; h < halves && i < a->end; h++)
            if (!mla__half_ffn(c, a, &half[h], i)) return 0;
    }
    for (int h = 0; h < halves; h++)
        if (!mla__half_finish(c, a, &half[h])) return 0;
    return 1;
}
static void mla__model_body(mla_context *c, void *arg) {
    mla__model_call *a = (mla__model_call *)arg;
    mla__batch part = MLA__ZERO;
    mla__half half[2];
    while (!c->aborted && mla__next_part(c, a->batch, &part)) {
        mla__embed(c, &c->m->w.embed, &part, a->tokens, a->begin > 0);
        a->row0 = part.row0;
        mla__model_part(c, a, half, mla__halve(c, &part, half));
        mla__settle(c, c->begun); /* also of a call that has come to an end: nothing is under way after it */
        mla__enter(c, &half[0]);
    }
}
/* That layers [begin, end) can be run apart from the others, and that the weights for them are there. */
static mla_result mla__check_range(mla_context *c, int begin, int end, int embeds, int logits) {
    const mla_weights *w = &c->m->w;
    const int L = c->f->num_hidden_layers, norms = c->f->block_norm.kind != MLA_NORM_NONE;
    const char *missing = embeds && !w->embed.data                               ? "embed"
                          : end == L && norms && !w->norm.weight.data            ? "norm.weight"
                          : end == L && logits && !w->head.data                  ? "head (or embed)"
                          : end == L && c->f->hc_mult > 1 && !w->hc_head.fn.data ? "hc_head.fn"
                                                                                 : NULL;
    if (missing) return mla__fail(&c->err, MLA_ERR_WEIGHTS, "weights.%s: missing", missing);
    for (int i = 0; i < mla__ngrams(c->f) && embeds; i++)
        MLA__TRY(mla__require(c, MLA__IN_NGRAM, &w->ngram[i], "ngram[%d].", i));
    for (int i = 0; i < 2; i++) {
        const int cut = i ? end : begin;
        if (cut > 0 && cut < L && mla__shortcut(&w->layers[cut - 1]))
            return MLA__REFUSE(&c->err, "layers [%d, %d): what the experts of layer %d give is added after layer %d",
                               begin, end, cut - 1, cut);
    }
    return mla__complete(c, begin, end);
}
mla_result mla_layers_forward(mla_context *c, int begin, int end, const mla_sequence *seqs, int n_seqs,
                              const int *tokens, const mla_outputs *out) {
    const mla_outputs nothing = MLA__ZERO;
    mla__batch batch;
    mla__model_call call = {&batch, begin, end, tokens, out ? out : &nothing, 0};
    int embeds;
    if (!c) return MLA_ERR_ARGUMENT;
    if (begin < 0 || begin > end || end > c->f->num_hidden_layers)
        return MLA__REFUSE(&c->err, "mla_layers_forward: layers [%d, %d), num_hidden_layers is %d", begin, end,
                           c->f->num_hidden_layers);
    MLA__TRY(mla__check_sequences(c, &batch, seqs, n_seqs));
    MLA__TRY(mla__check_tokens(c, &batch, begin, tokens, &embeds));
    MLA__TRY(mla__check_range(c, begin, end, embeds, call.out->logits != NULL));
    MLA__TRY(mla__check_rows(c, &batch, begin, end));
    if (begin < end) MLA__TRY(mla__reserve_for(c, &batch, begin));
    mla__forward(c, mla__model_body, &call);
    if (c->aborted) return begin < end ? mla__abort(c, &batch, begin, end) : MLA_ERR_ABORTED;
    mla__wrote(&batch, begin, end);
    if (begin < end && end == c->f->num_hidden_layers) mla__advance(&batch);
    return MLA_OK;
}
mla_result mla_model_forward(mla_context *c, const mla_sequence *seqs, int n_seqs, const int *tokens,
                             const mla_outputs *out) {
    return c ? mla_layers_forward(c, 0, c->f->num_hidden_layers, seqs, n_seqs, tokens, out) : MLA_ERR_ARGUMENT;
}

/* ---- >>mtp ------------------------------------------------------------------------------------------------------- */

/* The caches hold the call's positions, and the rows of this depth before them. */
static mla_result mla__mtp_check(mla_context *c, int depth, const mla__batch *batch) {
    for (int i = 0; i < batch->n; i++) {
        const mla_cache *cache = batch->seqs[i].cache;
        const int n = batch->seqs[i].n_tokens;
        if (n > cache->length)
            return MLA__REFUSE_OF(&c->err, i, "sequences[%d].n_tokens: %d, the cache holds %d", i, n, cache->length);
        const int written = cache->written[c->f->num_hidden_layers + depth];
        if (written < cache->length - n)
            return MLA__REFUSE_OF(
                &c->err, i, "sequences[%d].n_tokens: %d, but depth %d has run for %d of the %d positions before these",
                i, n, depth, written, cache->length - n);
    }
    return MLA_OK;
}
/* Room for the rows once more: for the time of the call the caches end before them. */
static mla_result mla__mtp_reserve(mla_context *c, const mla__batch *batch) {
    for (int i = 0; i < batch->n; i++) batch->seqs[i].cache->length -= batch->seqs[i].n_tokens;
    const mla_result r = mla__reserve_all(c, batch);
    if (r != MLA_OK) mla__advance(batch);
    return r;
}

/* The rows that a call writes again are kept, and put back if a hook fails halfway. */
static void mla__mtp_keep(mla_context *c, const mla__batch *batch, int layer, int back) {
    unsigned char *kept = c->kept;
    for (int i = 0; i < batch->n && c->shard.ranks > 1; i++) {
        const mla_cache *k = batch->seqs[i].cache;
        const size_t bytes = (size_t)k->pool->layers[layer].bytes;
        const size_t index_bytes =
            k->indexer[layer] >= 0 ? (size_t)mla__bytes(k->pool->index_dtype, k->pool->index_width) : 0;
        for (int u = k->length; u < mla__keys(&batch->seqs[i]); u++, kept += bytes + index_bytes) {
            unsigned char *row = mla__row(k, layer, u), *index = index_bytes ? mla__index_row(k, layer, u) : row;
            memcpy(back ? row : kept, back ? kept : row, bytes);
            memcpy(back ? index : kept + bytes, back ? kept + bytes : index, index_bytes);
        }
    }
}

/* x [T, D] = eh_proj [norm(embedding), norm(hidden)] */
static void mla__mtp_embed(mla_context *c, const mla_mtp_weights *w, const mla__batch *batch, const int *tokens,
                           const float *hidden) {
    const mla__block_scratch *s = c->block;
    const int D = c->D, T = batch->T;
    float *pair = s->pair;
    mla__embed(c, &w->embed, batch, tokens, 0);
    mla__norm_rows(c, s->xn, s->x, T, &w->enorm);
    mla__norm_rows(c, s->y, hidden, T, &w->hnorm);
    for (int t = 0; t < T; t++) {
        memcpy(pair + 2 * t * (mla__sz)D, s->xn + t * (mla__sz)D, (size_t)D * sizeof *pair);
        memcpy(pair + (2 * t + 1) * (mla__sz)D, s->y + t * (mla__sz)D, (size_t)D * sizeof *pair);
    }
    const mla__slice own = mla__gathered(c, D);
    if (own.from < own.to) mla__job_of_rows(mla__job_add(c, s->x + own.from, D, pair, 2 * D, T, &w->eh_proj), own);
    mla__jobs_run(c);
    mla__collect(c, s->x, D, T, D);
}

typedef struct mla__mtp_call {
    const mla__batch *batch;
    int depth;
    const int *tokens;
    const float *hidden;
    const mla_outputs *out;
} mla__mtp_call;
static void mla__mtp_body(mla_context *c, void *arg) {
    const mla__mtp_call *a = (const mla__mtp_call *)arg;
    const mla_mtp_weights *w = &c->m->mtp[a->depth];
    const int layer = c->f->num_hidden_layers + a->depth;
    if (!mla__go_on(c, layer, layer + 1, MLA_PHASE_ATTENTION)) return; /* rows may be written again: so not later */
    mla__batch part = MLA__ZERO;
    while (!c->aborted && mla__next_part(c, a->batch, &part)) {
        mla__phase_of(c, MLA_PHASE_ATTENTION,
                      mla__bytes_of(MLA__IN_MTP, w) - mla__tensor_bytes(&w->embed) - mla__tensor_bytes(&w->head) -
                          mla__tensor_bytes(&w->norm.weight) - mla__tensor_bytes(&w->norm.bias));
        mla__mtp_embed(c, w, &part, a->tokens, a->hidden + part.row0 * (mla__sz)c->D);
        mla__give_state(c, a->out, 0, c->block->x, c->D, c->D, part.T);
        const mla_routing routing = mla__routing_of(c, a->out, layer, 0, a->batch->T);
        mla__half all = {part, *c->call, *c->block, 0};
        mla__layer_begin(c, &all, layer, 0);
        if (!mla__layer_ffn(c, &all, layer, &routing) || !mla__layer_end(c, &all, layer, &routing)) return;
        mla__finish(c, &part, &w->norm, &w->head, 1, a->out);
    }
}
mla_result mla_mtp_forward(mla_context *c, int depth, const mla_sequence *seqs, int n_seqs, const int *tokens,
                           const float *hidden, const mla_outputs *out) {
    const mla_outputs nothing = MLA__ZERO;
    mla__batch batch;
    mla__mtp_call call = {&batch, depth, tokens, hidden, out ? out : &nothing};
    int embeds;
    if (!c) return MLA_ERR_ARGUMENT;
    if (!hidden) return MLA__REFUSE(&c->err, "mla_mtp_forward: hidden is NULL");
    if (depth < 0 || depth >= c->f->num_nextn_predict_layers)
        return MLA__REFUSE(&c->err, "mla_mtp_forward: depth %d, num_nextn_predict_layers is %d", depth,
                           c->f->num_nextn_predict_layers);
    const int layer = c->f->num_hidden_layers + depth;
    MLA__TRY(mla__require(c, MLA__IN_MTP, &c->m->mtp[depth], "mtp[%d].", depth));
    MLA__TRY(mla__complete(c, layer, layer + 1));
    MLA__TRY(mla__check_sequences(c, &batch, seqs, n_seqs));
    MLA__TRY(mla__mtp_check(c, depth, &batch));
    MLA__TRY(mla__check_tokens(c, &batch, 0, tokens, &embeds));
    MLA__TRY(mla__mtp_reserve(c, &batch));
    mla__mtp_keep(c, &batch, layer, 0);
    mla__forward(c, mla__mtp_body, &call);
    if (c->aborted) mla__mtp_keep(c, &batch, layer, 1);
    const mla_result r = c->aborted ? mla__abort(c, &batch, layer, layer) : MLA_OK; /* it wrote nothing that stays */
    if (r == MLA_OK) mla__wrote(&batch, layer, layer + 1);
    mla__advance(&batch); /* to where they were */
    return r;
}

/* ---- >>context --------------------------------------------------------------------------------------------------- */

/* NULL: all defaults. */
static mla_context_desc mla__context_desc_of(const void *desc) {
    const mla_context_desc d = MLA__ZERO;
    return desc ? *(const mla_context_desc *)desc : d;
}
/* AUTO is tiles if there are any; with bf16 activations the best that has instructions for them. */
static mla_isa mla__isa_of(const mla_context_desc *d) {
    if (d->isa != MLA_ISA_AUTO) return d->isa;
    if (mla_isa_available(MLA_ISA_AMX)) return MLA_ISA_AMX;
    return d->activations == MLA_ACT_BF16 ? MLA_ISA_BF16 : MLA_ISA_AUTO;
}

static void *mla__context_layout(const mla_model *m, const void *desc, void *memory, size_t *bytes) {
    const mla_context_desc d = mla__context_desc_of(desc);
    mla__arena arena;
    mla_context *out = (mla_context *)mla__begin(&arena, memory, sizeof *out), c = MLA__ZERO;
    c.D = m->c.hidden_size, c.H = m->c.num_attention_heads, c.R = m->c.kv_lora_rank, c.Q = m->c.q_lora_rank;
    c.N = m->c.qk_nope_head_dim, c.P = m->c.qk_rope_head_dim, c.V = m->c.v_head_dim;
    c.Hl = m->c.linear_num_heads, c.C = m->c.linear_head_dim;
    c.m = m, c.f = &m->c, c.max_tokens = d.max_tokens > 0 ? d.max_tokens : 512, c.threads = d.threads;
    c.path = d.attn, c.invariant = d.invariant, c.activations = d.activations, c.run = d.run ? d.run : mla__run_default,
    c.run_user = d.run_user;
    c.wait = d.wait, c.wake = d.wake, c.stats = d.stats, c.teams = d.run && d.team;
    c.watch = d.watch, c.watch_user = d.watch_user;
    c.shard = d.shard, c.shard.ranks = mla__max(d.shard.ranks, 1);
#ifdef _OPENMP
    if (c.threads <= 0) c.threads = omp_get_max_threads();
    c.teams = c.teams || !d.run;
#endif
    if (c.threads <= 0) c.threads = 1;
    c.teams = MLA__TEAMS && c.teams && c.threads > 1;
    mla__select(&c.k, mla__isa_of(&d));
    if (d.activations != MLA_ACT_BF16) c.k.attend_tiles = NULL;
    mla__shard_layout(&c, &arena);
    c.call = MLA__TAKE(&arena, mla__call_scratch, 1);
    c.sparse = MLA__TAKE(&arena, mla__sparse_scratch, 1);
    c.index = MLA__TAKE(&arena, mla__index_scratch, 1);
    c.index_workers = MLA__TAKE(&arena, mla__index_worker, c.threads);
    c.walkers = MLA__TAKE(&arena, mla__walker, c.threads);
    c.attn = MLA__TAKE(&arena, mla__attn_scratch, 1);
    c.kda = MLA__TAKE(&arena, mla__kda_scratch, 1);
    c.kda_workers = MLA__TAKE(&arena, mla__kda_worker, c.threads);
    c.moe = MLA__TAKE(&arena, mla__moe_scratch, 1);
    c.block = MLA__TAKE(&arena, mla__block_scratch, 1);
    mla__parallel_layout(&c, &arena);
    mla__linear_layout(&c, &arena);
    mla__call_layout(&c, &arena);
    mla__sparse_layout(&c, &arena);
    mla__block_layout(&c, &arena);
    /* mixers and experts take turns in the same memory */
    mla__arena turn = arena;
    mla__moe_layout(&c, &turn);
    size_t most = turn.used;
    for (size_t i = 0; i < sizeof mla__mixers / sizeof *mla__mixers; i++) {
        turn = arena;
        mla__mixers[i].layout(&c, &turn);
        if (turn.used > most) most = turn.used;
    }
    arena.used = most;
    *bytes = mla__total(&arena);
    if (out) *out = c;
    return out;
}

static mla_result mla__shard_check(const mla_shard *s, mla_error *err) {
    if (s->ranks < 0 || s->ranks > MLA__DIM_MAX || s->rank < 0 || s->rank >= mla__max(s->ranks, 1))
        return MLA__REFUSE(err, "context.shard.rank: %d of %d ranks", s->rank, s->ranks);
    if ((unsigned)s->split_experts > 1)
        return MLA__REFUSE(err, "context.shard.split_experts: %d, must be 0 or 1", s->split_experts);
    if (s->ranks > 1 && (!s->all_reduce || !s->all_gather))
        return MLA__REFUSE(err, "context.shard.%s: NULL, with %d ranks", s->all_reduce ? "all_gather" : "all_reduce",
                           s->ranks);
    return MLA_OK;
}
static mla_result mla__context_check(const mla_model *m, const void *desc, mla_error *err) {
    const mla_context_desc d = mla__context_desc_of(desc);
    const volatile float v = 1.375f;
    if (mla__whole(v) != 1)
        return mla__fail(err, MLA_ERR_UNSUPPORTED, "context: compiled so that rounding is broken: see ARITHMETIC");
    if (!m) return MLA__REFUSE(err, "context: model is NULL");
    if (d.max_tokens < 0 || d.max_tokens > MLA__DIM_MAX)
        return MLA__REFUSE(err, "context.max_tokens: %d", d.max_tokens);
    if (d.threads < 0 || d.threads > 4096) return MLA__REFUSE(err, "context.threads: %d, must be 0 to 4096", d.threads);
    if ((unsigned)d.team > 1) return MLA__REFUSE(err, "context.team: %d, must be 0 or 1", d.team);
    if ((unsigned)d.invariant > 1) return MLA__REFUSE(err, "context.invariant: %d, must be 0 or 1", d.invariant);
    if (d.team && !d.run) return MLA__REFUSE(err, "context.team: 1, but context.run is NULL");
    if (!d.wait != !d.wake || (d.wait && !d.team))
        return MLA__REFUSE(err, "context.wait, context.wake: both, and context.team 1, or neither");
    if ((unsigned)d.attn >= MLA_ATTN_PATH_COUNT) return MLA__REFUSE(err, "context.attn: %d is no path", (int)d.attn);
    if ((unsigned)d.isa >= MLA_ISA_COUNT) return MLA__REFUSE(err, "context.isa: %d is no instruction set", (int)d.isa);
    if ((unsigned)d.activations >= MLA_ACT_COUNT)
        return MLA__REFUSE(err, "context.activations: %d is no kind of them", (int)d.activations);
    MLA__TRY(mla__shard_check(&d.shard, err));
    const mla_isa isa = mla__isa_of(&d);
    if (d.activations == MLA_ACT_BF16 && isa != MLA_ISA_AMX && isa != MLA_ISA_BF16)
        return mla__fail(err, MLA_ERR_UNSUPPORTED,
                         "context.activations: bf16 needs the instructions of bf16 or amx, not %s", mla_isa_name(isa));
    if (!mla_isa_available(isa))
        return mla__fail(err, MLA_ERR_UNSUPPORTED, "context.isa: this machine has no %s", mla_isa_name(isa));
    return MLA_OK;
}
MLA__OBJECT(context)
void mla_context_destroy(mla_context *c) { mla__object_destroy(c); }
const mla_error *mla_context_error(const mla_context *c) { return &c->err; }
mla_isa mla_context_isa(const mla_context *c) { return c->k.isa; }
int mla_context_threads(const mla_context *c) { return c->threads; }

#if defined(__clang__)
#pragma clang diagnostic pop
#endif
#endif /* MLA_IMPLEMENTATION */

/* >>licence
MIT License. Copyright (c) 2026 the mla.h authors.

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE. */
