/* bench.c - how fast mla.h is, as a fraction of what this machine can do, measured in the same run.
   cc -O2 -fopenmp bench.c -lm; without OpenMP everything is measured with one thread.

   WHAT IS COUNTED
   bytes   Each weight that the call uses once, in its stored size with scales (of the experts those that the tokens
           were routed to, as the router counted them; of the embeddings nothing), and the cached rows that each
           sequence attends to once, the new ones included. Activations are left out.
   flops   2 per multiply-add of the matrix products; norms, rope, softmax and silu are left out. Logits are of the
           last token of each sequence.
             linear      T * weights of q, kv_a, o, the router, the dense or shared and the K chosen experts; the head
                         once for each sequence
             attention   the cheaper of, with n keys and s = sum over queries of the keys they see:
                           naive      H * (n * R * (N + V) + s * (N + P + V))      each key expanded once
                           absorbed   H * (T * R * (N + V) + s * (2 * R + P))      into and out of the latent, for each
                                                                                   query
           With sparse attention a query sees at most index_topk keys, and n is at most what all queries see together;
           what indexers do comes to it: all index keys, and Hi * d for each that a query scores, counted and measured
           apart as "indexer". A layer with a state (KDA) reads and writes it once, and takes 6 * C * C flops a head and
           token for it, chunks or not; "products" are what a layer of "kda" takes without, measured in there. The
           same work is counted whichever path runs. What "attention" measures alone:
           H * n * (2 * R + P), without the weights; "layer" is one attention layer with its weights, "moe" one layer's
           experts. gflop_per_s counts each flop once, whatever it is made of.
   of_read, of_fma, of_int8, of_bf16   bytes, f32 flops, integer operations and bf16 flops over what the limits would
   have
           done in the same time. What a product is made of is what the library's own rule says for its weights and the
           number of its tokens: f32; int8 operations; bf16 flops (AVX512_BF16, tiles); where activations are two parts
           in bf16, twice as many of these, half of the peak being the most there is. Keys that are expanded for many
           tokens and queries that meet keys are bf16 where tiles do it, else f32. An indexer's first glance at keys, 16
           bits by 16, is twice as many int8 operations.
   batch   one call that decodes a token for each of so many sequences, tokens being all of theirs; each has a cache of
           its own, of the depth, and a token of its own, so that each is routed its own way. "experts" are those of a
           layer that got tokens, in the mean.
   read ms, arith. ms, of limit   how long the bytes take at the read limit, and the arithmetic each kind at its own
           limit, one after the other; and the longer of the two over the time measured.
   overhead  What mla_stats counts in decode: of the time of calls, the fractions of shared steps' work (mean of the
           threads), of its imbalance, of barriers and of what one thread does between them.
   limits  A plain streaming read of a buffer far larger than the last-level cache, in one and in four streams per
           thread; multiply-adds in registers, f32 and int8 (peaks.h says how). Of each kind the fastest counts that the
           ISA of the kernels has, with the same number of threads, started the same way, right before what is set
           against them; the fraction is of the median of the rounds, because on a shared machine the limits themselves
           change during a run.
   Weights, buffer, caches and contexts lie in memory for which huge pages are advised. What is timed touches more
   memory from one call to the next than the last-level cache holds (other experts, layers, copies of a matrix), and
   tokens and inputs are random. */
#define _GNU_SOURCE /* POSIX, madvise and syscall, also under -std=c99 */
#define MLA_IMPLEMENTATION
#include "../mla.h"
#define CHECKPOINT_IMPLEMENTATION
#include "../examples/checkpoint.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>
#define BENCH_X86   1
#define TARGET(isa) __attribute__((target(isa)))
#if (defined(__clang__) && __clang_major__ >= 13) || (!defined(__clang__) && __GNUC__ >= 11)
#define BENCH_AVX_VNNI 1
#define BENCH_BF16     1
#define BENCH_AMX      1
#endif
#elif defined(__aarch64__)
#include <arm_neon.h>
#define BENCH_NEON 1
#endif

#define THREADS_IMPLEMENTATION
#include "threads.h"

#include "common.h"
#include "peaks.h"
#include "model.h"
#include "kernels.h"
#include "barriers.h"

/* ---- main -------------------------------------------------------------------------------------------------------- */

static void help(void) {
    printf("usage: bench limits|model|kernels|barriers [options]\n"
           "  limits            what the machine can do: streaming read, multiply-adds in f32, int8, bf16; [1, 2, 4, "
           ".. all threads]\n"
           "  model             decode, prefill, attention and experts of a model with random weights\n"
           "  kernels           single matrix products of DeepSeek-V2-Lite and V3\n"
           "  barriers          what a step costs that is shared among threads, besides its work; [2, 3, 4, 6, 8, .. "
           "all threads]\n"
           "  --threads N,N,..  numbers of threads, each in turn; kernels: one [all]\n"
           "  --reps N          rounds, of which medians are taken [5]\n"
           "  --json            a line of JSON for each measurement\n"
           "for model and kernels:\n"
           "  --shape SHAPE     lite6: DeepSeek-V2-Lite cut to 6 layers; v3attn: 3 dense layers with DeepSeek-V3's "
           "attention; for model\n"
           "                    only v32attn, the same with V3.2's indexer, v3: DeepSeek-V3's first 3 layers and its "
           "vocabulary,\n"
           "                    kda6: Ling-3.0-tiny cut to 8 layers, 6 with states, or a config.json [lite6; kernels: "
           "lite6 and v3attn]\n"
           "  --weights TYPE    f32, f16, bf16, fp8, q8, q4, q4_1 .. nvfp4, and with x16 behind it interleaved [bf16; "
           "kernels: all]\n"
           "  --activations TO  auto, f32, int8 (with blocks), bf16 (with bf16, too), e4m3 (with fp8, too) [auto]\n"
           "  --isa ISA         ");
    for (int i = 0; i < MLA_ISA_COUNT; i++) printf("%s%s", i ? ", " : "", mla_isa_name((mla_isa)i));
    printf(" [auto; kernels: all that are here]\n"
           "for model:\n"
           "  --cache TYPE      f32, f16, bf16 or q8 [bf16]\n"
           "  --kv-b TYPE       keep (as --weights, bf16 beside blocks) or a type [q8 beside blocks, else keep]\n"
           "  --index-cache TYPE  the same for the index keys of sparse attention [bf16]\n"
           "  --depth N,N,..    tokens in the cache [0,4096,16384]\n"
           "  --pp N            tokens of a prefill, 0: none [512]\n"
           "  --batch N,N,..    so many sequences at once, each of which decodes a token at each depth\n"
           "  --layers N        the first N of the shape [all of them]\n"
           "  --attn PATH       auto, naive, absorbed, or all: each of them in turn [auto]\n"
           "  --only LIST       of decode (with its attention), prefill, layer, moe, kda, batch [batch if there is "
           "--batch, "
           "else "
           "all others]\n"
           "  --invariant       results that do not depend on what else is in a call\n"
           "  --overhead        with decode: the part of its time that is not kernels, and why\n"
           "  --no-limits       do not measure the limits; the fractions are left out\n"
           "What is counted as bytes and flops is said at the top of bench.c.\n");
}

static void flush(void) {
    if (fflush(stdout) || ferror(stdout)) fail(1, "cannot write to stdout: %s", strerror(errno));
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        int (*run)(const options *o);
    } parts[] = {{"limits", run_limits}, {"model", run_model}, {"kernels", run_kernels}, {"barriers", run_barriers}};
    options o;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) return help(), flush(), 0;
    if (argc < 2) fail(2, "say what to measure: limits, model, kernels or barriers");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strcmp(argv[1], parts[i].name)) {
            parse(&o, argc - 2, argv + 2);
            if (i != 1 && o.batches.n) fail(2, "--batch: %s decodes nothing; model does", argv[1]);
            if (i != 1 && o.layers) fail(2, "--layers: %s has none; model does", argv[1]);
            if (i != 1 && o.kv_b != KV_B_DEFAULT) fail(2, "--kv-b: %s has none; model does", argv[1]);
            int status = parts[i].run(&o);
            flush();
            return status;
        }
    fail(2, "'%s' is none of limits, model, kernels, barriers", argv[1]);
}
