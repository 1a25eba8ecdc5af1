/* test_weights.c - checkpoints in the weight formats that people publish (tests/fixtures/quantized.py makes them and
   says what they mean): the same logits as the matrices computed back to F32, each tensor where it should be, and all
   that is malformed refused. Run from the repository root; without python3 it is left out. */

#ifndef _XOPEN_SOURCE
#define _XOPEN_SOURCE 700 /* mkdtemp, nftw */
#endif

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mla.h"
#include "test.h"
#define CHECKPOINT_IMPLEMENTATION
#include "quantize.h"

enum { PROMPT = 24, MAX_V = 256 };
static const float bound = 5e-5f; /* of the largest logit */

static char root[64];
static int reporting;

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *walk) {
    (void)s, (void)type, (void)walk;
    return remove(path);
}

static checkpoint *open_dir(const char *name) {
    char path[160];
    checkpoint *c;
    mla_error error;
    snprintf(path, sizeof path, "%s/%s", root, name);
    return CHECK(checkpoint_open(&c, path, &error) == MLA_OK, "%s: %s", name, error.text) ? c : NULL;
}

/* logits [PROMPT, V] of some tokens */
static void run_model(const checkpoint *c, mla_isa isa, mla_attn_path path, mla_activations activations, int chunk,
                      float *logits) {
    mla_model *model;
    mla_context *context;
    mla_cache *cache;
    mla_context_desc d;
    mla_cache_desc k;
    mla_outputs out;
    mla_sequence s;
    mla_error error;
    int tokens[PROMPT];
    memset(&d, 0, sizeof d), memset(&k, 0, sizeof k), memset(&out, 0, sizeof out), memset(&s, 0, sizeof s);
    d.max_tokens = PROMPT, d.threads = 1, d.isa = isa, d.attn = path, d.activations = activations, k.capacity = PROMPT;
    if (mla_model_create(&model, &c->config, &c->weights, NULL, &error) ||
        mla_context_create(&context, model, &d, &error) || mla_cache_create(&cache, model, &k, &error))
        printf("%s\n", error.text), exit(2);
    for (int i = 0; i < PROMPT; i++) tokens[i] = (i * 37 + 11) % 251;
    s.cache = cache;
    for (int i = 0; i < PROMPT; i += chunk) {
        s.n_tokens = s.n_logits = chunk, out.logits = logits + i * c->config.vocab_size;
        CHECK(mla_model_forward(context, &s, 1, tokens + i, &out) == MLA_OK, "%s", mla_context_error(context)->text);
    }
    mla_cache_destroy(cache), mla_context_destroy(context), mla_model_destroy(model);
}

typedef struct format {
    const char *name;
    mla_dtype gate, down; /* of an expert: rows of 64, and of 32 */
    mla_dtype scale;      /* of gate */
    int scale_rows, scale_cols, in_place;
    double bytes; /* of memory for a repacked weight, at most */
} format;

static const format formats[] = {
    {"int4_g32", MLA_Q4, MLA_Q4, MLA_F32, 0, 0, 0, 18 / 32.0},
    {"int4_g64_f16", MLA_Q4, MLA_Q4, MLA_F32, 0, 0, 0, 18 / 32.0},
    {"int4_g128", MLA_Q4, MLA_Q4, MLA_F32, 0, 0, 0, 18 / 32.0},
    {"int4_channel", MLA_Q4, MLA_Q4, MLA_F32, 0, 0, 0, 18 / 32.0},
    {"int4_g32_f32", MLA_I8, MLA_I8, MLA_F32, 1, 32, 0, 1},
    {"zeros_g32", MLA_Q5_0, MLA_Q5_0, MLA_F32, 0, 0, 0, 22 / 32.0},
    {"zeros_g64_f32", MLA_I8, MLA_I8, MLA_F32, 1, 64, 0, 1},
    {"zeros_g128_f16", MLA_Q5_0, MLA_Q5_0, MLA_F32, 0, 0, 0, 22 / 32.0},
    {"zeros_channel", MLA_Q5_0, MLA_Q5_0, MLA_F32, 0, 0, 0, 22 / 32.0},
    {"fp8_tensor", MLA_E4M3, MLA_E4M3, MLA_F32, 32, 64, 1, 0},
    {"fp8_channel", MLA_E4M3, MLA_E4M3, MLA_BF16, 1, 64, 1, 0},
    {"fp8_channel_f16", MLA_E4M3, MLA_E4M3, MLA_F32, 1, 64, 1, 0},
    {"fp8_block", MLA_E4M3, MLA_E4M3, MLA_BF16, 32, 64, 1, 0},
    {"int8_channel", MLA_I8, MLA_I8, MLA_BF16, 1, 64, 1, 0},
    {"nvfp4", MLA_I8, MLA_I8, MLA_F32, 1, 16, 0, 1.25},
    {"nvfp4_modelopt", MLA_I8, MLA_I8, MLA_F32, 1, 16, 0, 1.25},
    {"nvfp4_modelopt_config", MLA_I8, MLA_I8, MLA_F32, 1, 16, 0, 1.25},
    {"fp8_modelopt", MLA_E4M3, MLA_E4M3, MLA_F32, 32, 64, 1, 0},
    {"mxfp4", MLA_MXFP4, MLA_MXFP4, MLA_F32, 0, 0, 0, 17 / 32.0},
    {"deepseek_bf16", MLA_E4M3, MLA_E4M3, MLA_BF16, 128, 128, 1, 0},
    {"deepseek_f32", MLA_E4M3, MLA_E4M3, MLA_F32, 128, 128, 1, 0},
    {"deepseek_ue8m0", MLA_E4M3, MLA_E4M3, MLA_UE8M0, 128, 128, 1, 0},
    {"deepseek_u8", MLA_E4M3, MLA_E4M3, MLA_UE8M0, 128, 128, 1, 0},
    {"mistral_fp8", MLA_E4M3, MLA_E4M3, MLA_BF16, 32, 64, 1, 0},
    {"mistral_qscale", MLA_E4M3, MLA_E4M3, MLA_F32, 32, 64, 1, 0},
    {"mixed", MLA_Q4, MLA_Q4, MLA_F32, 0, 0, 0, 18 / 32.0},
    {"fused_fp8", MLA_E4M3, MLA_E4M3, MLA_BF16, 32, 64, 1, 0},
    {"fused_fp8_blocks", MLA_E4M3, MLA_E4M3, MLA_F32, 16, 32, 1, 0},
};
enum { N_FORMATS = sizeof formats / sizeof *formats };

static int is_own(const checkpoint *c, const void *data) {
    return c->repacked && (uintptr_t)data - (uintptr_t)c->repacked < c->repacked_bytes + 64;
}

/* What an expert has become, and where it lies. */
static void check_expert(const format *f, const checkpoint *c) {
    const mla_mlp_weights *w = &c->weights.layers[1].moe.experts[3];
    const mla_tensor *gate = &w->gate.weight, *down = &w->down.weight;
    CHECK(gate->dtype == f->gate && down->dtype == f->down && gate->rows == 32 && gate->cols == 64 &&
              down->rows == 64 && down->cols == 32,
          "%s: gate %s, down %s", f->name, mla_dtype_name(gate->dtype), mla_dtype_name(down->dtype));
    CHECK(is_own(c, gate->data) == !f->in_place && is_own(c, w->up.weight.data) == !f->in_place, "%s: where it lies",
          f->name);
    CHECK((gate->scale != NULL) == (f->scale_rows > 0), "%s: a scale", f->name);
    if (gate->scale)
        CHECK(gate->scale_dtype == f->scale && gate->scale_rows == f->scale_rows && gate->scale_cols == f->scale_cols,
              "%s: scales in %s of %d x %d", f->name, mla_dtype_name(gate->scale_dtype), gate->scale_rows,
              gate->scale_cols);
}

/* Bytes of memory for each weight that was repacked, but for the rounding up to 64 of each tensor. */
static void check_memory(const format *f, const checkpoint *c) {
    double weights = 0, tensors = 0;
    for (int i = 0; i < c->config.num_hidden_layers; i++) {
        const mla_layer_weights *l = &c->weights.layers[i];
        for (int e = 0; l->moe.experts && e < c->config.n_routed_experts; e++) {
            const mla_tensor *t[] = {&l->moe.experts[e].gate.weight, &l->moe.experts[e].up.weight,
                                     &l->moe.experts[e].down.weight};
            for (int k = 0; k < 3; k++)
                if (is_own(c, t[k]->data))
                    weights += (double)t[k]->rows * t[k]->cols, tensors += 1 + (t[k]->scale != 0);
        }
    }
    CHECK((weights > 0) == !f->in_place && (double)c->repacked_bytes >= weights * f->bytes, "%s: %zu bytes in memory",
          f->name, c->repacked_bytes);
    if (!strcmp(f->name, "mixed")) /* here nothing else is repacked */
        CHECK((double)c->repacked_bytes <= weights * f->bytes + 64 * tensors, "%s: %zu bytes for %g weights", f->name,
              c->repacked_bytes, weights);
}

static void test_format(const format *f) {
    static float want[PROMPT * MAX_V], got[PROMPT * MAX_V];
    char name[64];
    snprintf(name, sizeof name, "%s.f32", f->name);
    checkpoint *c = open_dir(f->name), *plain = open_dir(name);
    if (c && plain) {
        const size_t n = (size_t)PROMPT * (size_t)c->config.vocab_size;
        float worst = 0;
        CHECK(c->config.vocab_size <= MAX_V && plain->weights.layers[1].moe.experts[3].gate.weight.dtype == MLA_F32,
              "%s: the plain one is F32", f->name);
        check_expert(f, c);
        check_memory(f, c);
        for (mla_isa isa = MLA_ISA_SCALAR; isa < MLA_ISA_COUNT; isa = (mla_isa)(isa + 1))
            for (int path = 0; path < MLA_ATTN_PATH_COUNT && TEST_ISA(isa); path++)
                for (int chunk = 1; chunk <= PROMPT; chunk += PROMPT - 1) {
                    run_model(plain, isa, (mla_attn_path)path, MLA_ACT_F32, chunk, want);
                    run_model(c, isa, (mla_attn_path)path, MLA_ACT_F32, chunk, got);
                    const float e = test_rel_err(got, want, n);
                    CHECK(e <= bound, "%s, %s, path %d, chunks of %d: %g off", f->name, mla_isa_name(isa), path, chunk,
                          (double)e);
                    worst = e > worst ? e : worst;
                }
        if (reporting)
            printf("  %-22s %.1e of the largest logit; %zu bytes repacked\n", f->name, (double)worst,
                   c->repacked_bytes);
    }
    checkpoint_close(c), checkpoint_close(plain);
}

/* What quantize.h makes of these: int8 is converted by its scales, blocks stay and are interleaved where they lie. */
static void test_convert(void) {
    static const char *const names[] = {"int8_channel", "nvfp4", "zeros_g32", "int4_g32", "mxfp4"};
    static float want[PROMPT * MAX_V], got[PROMPT * MAX_V];
    SECTION("converted and interleaved");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        checkpoint *c = open_dir(names[i]), *before = open_dir(names[i]);
        checkpoint_quant how;
        mla_error error;
        if (!c || !before) return;
        memset(&how, 0, sizeof how);
        how.form = CHECKPOINT_KEEP, how.classes[CHECKPOINT_EXPERTS] = CHECKPOINT_Q8, how.repack = 1, how.threads = 2;
        CHECK(checkpoint_quantize(c, &how, &error) == MLA_OK, "%s: %s", names[i], error.text);
        const mla_tensor *t = &c->weights.layers[1].moe.experts[3].gate.weight;
        const mla_tensor *was = &before->weights.layers[1].moe.experts[3].gate.weight;
        const int stays = mla_dtype_block(was->dtype) > 1;
        double worst = 0, top = 0;
        CHECK(t->dtype == (stays ? was->dtype : MLA_Q8) && t->layout == MLA_LAYOUT_X16, "%s: %s", names[i],
              mla_dtype_name(t->dtype));
        for (int row = 0; row < t->rows; row++)
            for (int col = 0; col < t->cols; col++) {
                const double is = (double)mla_weight(t, row, col), w = (double)mla_weight(was, row, col);
                worst = fabs(is - w) > worst ? fabs(is - w) : worst, top = fabs(w) > top ? fabs(w) : top;
            }
        CHECK(stays ? worst == 0 : worst < top / 127, "%s: %g off", names[i], worst);
        run_model(before, MLA_ISA_AUTO, MLA_ATTN_AUTO, MLA_ACT_F32, PROMPT, want);
        run_model(c, MLA_ISA_AUTO, MLA_ATTN_AUTO, MLA_ACT_F32, PROMPT, got);
        const float e = test_rel_err(got, want, (size_t)PROMPT * (size_t)c->config.vocab_size);
        CHECK(e < (stays ? bound : 0.2f), "%s: %g off", names[i], (double)e);
        checkpoint_close(c), checkpoint_close(before);
    }
}

/* Nested, by other names, with less said: the same logits, bit for bit, and what is of other models left alone. */
static void test_same(void) {
    static float want[PROMPT * MAX_V], got[PROMPT * MAX_V];
    char path[160], line[600];
    int n = 0;
    SECTION("the same in other words");
    snprintf(path, sizeof path, "%s/same.txt", root);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        char *other = strchr(line, '\t'), *left = other ? strchr(other + 1, '\t') : NULL;
        checkpoint *c, *d;
        mla_error error;
        if (!CHECK(left != NULL, "same.txt: %s", line)) continue;
        *other++ = 0, *left++ = 0;
        const int opened = CHECK(checkpoint_open(&d, other, &error) == MLA_OK, "%s: %s", other, error.text);
        if (CHECK(checkpoint_open(&c, line, &error) == MLA_OK, "%s: %s", line, error.text) && opened) {
            const size_t bytes = (size_t)PROMPT * (size_t)d->config.vocab_size * sizeof(float);
            run_model(d, MLA_ISA_AUTO, MLA_ATTN_AUTO, MLA_ACT_F32, PROMPT, want);
            run_model(c, MLA_ISA_AUTO, MLA_ATTN_AUTO, MLA_ACT_F32, PROMPT, got);
            CHECK(!memcmp(got, want, bytes), "%s: the logits of %s are others", line, other);
            CHECK(c->n_others == atoi(left) && c->other_bytes == 8 * c->n_others, "%s: %d tensors left alone", line,
                  c->n_others);
            CHECK(c->bos_token_id == d->bos_token_id && c->n_eos == d->n_eos &&
                      c->eos_token_id[0] == d->eos_token_id[0],
                  "%s: special tokens", line);
        }
        checkpoint_close(c), checkpoint_close(d);
        n++;
    }
    if (f) fclose(f);
    CHECK(n >= 12, "%d of them", n);
}

/* Bytes of headers and configurations changed: opened, or refused in one line. */
static void test_changes(void) {
    static const char *const names[] = {"int4_g32", "zeros_g64_f32", "fp8_channel_f16", "nvfp4",    "nvfp4_modelopt",
                                        "mxfp4",    "deepseek_u8",   "mixed",           "fused_fp8"};
    static const char *const files[] = {"model.safetensors", "config.json"};
    const int times = test_all() ? 600 : 60;
    test_rng r = {8};
    int opened = 0, refused = 0, bad = 0;
    char path[160];
    SECTION("bytes changed");
    for (size_t i = 0; i < 2 * sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s/%s", root, names[i / 2], files[i % 2]);
        FILE *f = fopen(path, "r+b");
        if (!CHECK(f && setvbuf(f, NULL, _IONBF, 0) == 0 && fseek(f, 0, SEEK_END) == 0, "%s", path)) return;
        const long size = ftell(f), most = i % 2 || size < 20000 ? size : 20000;
        snprintf(path, sizeof path, "%s/%s", root, names[i / 2]);
        for (int k = 0; k < times; k++) {
            const long at = test_int(&r, (int)most);
            const int digit = test_int(&r, 3), to = digit ? '0' + test_int(&r, 10) : test_int(&r, 256);
            checkpoint *c;
            mla_error error;
            fseek(f, at, SEEK_SET);
            const int was = fgetc(f);
            fseek(f, at, SEEK_SET), fputc(to, f);
            const mla_result rc = checkpoint_open(&c, path, &error);
            opened += !rc, refused += rc != MLA_OK;
            bad += rc && (strchr(error.text, '\n') || !error.text[0]);
            checkpoint_close(c);
            fseek(f, at, SEEK_SET), fputc(was, f);
        }
        fclose(f);
    }
    CHECK(opened && refused && !bad, "%d opened, %d refused, %d without a line", opened, refused, bad);
}

static void test_bad(void) {
    char path[600], line[400];
    int n = 0;
    SECTION("malformed");
    snprintf(path, sizeof path, "%s/bad.txt", root);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        char *word = strchr(line, '\t'), *what = word ? strchr(word + 1, '\t') : NULL;
        checkpoint *c;
        mla_error error;
        if (!CHECK(what != NULL, "bad.txt: %s", line)) continue;
        *word++ = 0, *what++ = 0, what[strcspn(what, "\n")] = 0;
        snprintf(path, sizeof path, "%s/bad.%s", root, line);
        const mla_result rc = checkpoint_open(&c, path, &error);
        CHECK(rc != MLA_OK && !c, "%s: was opened", what);
        if (rc)
            CHECK(strstr(error.text, word) && !strchr(error.text, '\n') && strlen(error.text) < sizeof error.text - 1,
                  "%s: \"%s\" is not in: %s", what, word, error.text);
        checkpoint_close(c);
        n++;
    }
    if (f) fclose(f);
    CHECK(n > 70, "%d of them", n);
}

int main(int argc, char **argv) {
    char command[160];
    const char *tmp = getenv("TMPDIR");
    reporting = argc > 1 && !strcmp(argv[1], "--report");
    if (system("command -v python3 >/dev/null"))
        return puts("python3 is not here: left out"), CHECK(1, "nothing to do"), test_end();
    snprintf(root, sizeof root, "%.40s/mla-XXXXXX", tmp && *tmp && strlen(tmp) <= 40 ? tmp : "/tmp");
    if (!mkdtemp(root)) return printf("cannot make %s\n", root), 2;
    snprintf(command, sizeof command, "python3 tests/fixtures/quantized.py %s", root);
    if (CHECK(system(command) == 0, "%s", command)) {
        SECTION("logits");
        for (int i = 0; i < N_FORMATS; i++) test_format(&formats[i]);
        test_convert();
        test_same();
        test_bad();
        test_changes();
    }
    CHECK(nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS) == 0, "%s is not empty", root);
    return test_end();
}
