/* test_parts.c - what ranks need beside mla.h's hooks: which layers and bytes of a checkpoint are whose, a number by
   which they tell that they have the same files, plans; and models of random weights, which they are measured with. Run
   from the repository root. */

#define _DEFAULT_SOURCE
#include "mla.h"
#define PARTS_IMPLEMENTATION
#include "examples/parts.h"
#include "examples/synthetic.h"
#include "test.h"

#include <unistd.h>

#define FIXTURES "tests/fixtures/checkpoints/"

static const char *const names[] = {
    "deepseek_v2_lite", "deepseek_v3",    "longcat_flash",       "deepseek_v32", "glm_moe_dsa",
    "kimi_linear",      "bailing_hybrid", "longcat_flash_ngram", "axk2",         "hy_v4"};
enum { N_NAMES = sizeof names / sizeof *names };

static checkpoint *opened(const char *name) {
    char path[200];
    mla_error error;
    checkpoint *c = NULL;
    snprintf(path, sizeof path, FIXTURES "%s", name);
    CHECK(checkpoint_open(&c, path, &error) == MLA_OK, "%s", error.text);
    return c;
}
static parts_ranges ranges_of(const checkpoint *c, int begin, int end, int w, int W, int split, int head) {
    parts_ranges r;
    memset(&r, 0, sizeof r);
    parts_of(&r, c, begin, end, w, W, split, head);
    double bytes = 0;
    for (size_t i = 0; i < r.n; i++) bytes += (double)r.of[i].bytes;
    CHECK(!r.failed && r.n && bytes >= r.bytes && bytes <= r.bytes, "%g bytes in ranges of %g", bytes, r.bytes);
    return r;
}
static double bytes_of(const checkpoint *c, int begin, int end, int w, int W, int split, int head) {
    parts_ranges r = ranges_of(c, begin, end, w, W, split, head);
    free(r.of);
    return r.bytes;
}

/* Stages take all layers, in order, none none, of about the same size, and cut where they may. */
static void test_layers(const checkpoint *c, const char *name) {
    const int L = c->config.num_hidden_layers;
    int begin, end, before = 0, longest = 0;
    for (int i = 0; i < L; i++) /* runs of layers that stay together */
        longest += i == 0 || parts__apart(c, i);
    for (int depth = 1; depth <= L + 1; depth++) {
        const int ok = parts_layers(c, depth, 0, &begin, &end);
        CHECK(depth > 1 ? !ok || depth <= longest : ok, "%s: %d stages of %d that can be", name, depth, longest);
        before = 0;
        for (int s = 0; ok && s < depth; s++, before = end)
            CHECK(parts_layers(c, depth, s, &begin, &end) && begin == before && end > begin &&
                      (begin == 0 || parts__apart(c, begin)),
                  "%s: stage %d of %d is [%d, %d)", name, s, depth, begin, end);
        CHECK(!ok || before == L, "%s: %d stages end at %d of %d", name, depth, before, L);
    }
    CHECK(!parts_layers(c, L + 1, 0, &begin, &end), "%s: more stages than layers", name);
}

/* What is cut is read once by all ranks together, the rest by each. */
static void test_ranges(const checkpoint *c, const char *name) {
    const int L = c->config.num_hidden_layers;
    const double all = bytes_of(c, 0, L, 0, 1, 0, 1), once = bytes_of(c, 0, L, 0, 1, 1, 1);
    CHECK(all >= once && all <= once, "%s: one rank has all, whatever is cut", name);
    for (int split = 0; split < 2; split++)
        for (int W = 2; W <= 4; W += 2) {
            double sum = 0, most = 0;
            for (int w = 0; w < W; w++) {
                const double of = bytes_of(c, 0, L, w, W, split, 1);
                sum += of, most = of > most ? of : most;
            }
            CHECK(sum > all && most < all && sum < W * all, "%s: %d ranks have %g bytes of %g, at most %g", name, W,
                  sum, all, most);
        }
    const double head = bytes_of(c, L - 1, L, 0, 2, 0, 1) - bytes_of(c, L - 1, L, 0, 2, 0, 0);
    const mla_tensor *t = c->weights.head.data ? &c->weights.head : &c->weights.embed;
    const double whole = (double)mla_dtype_bytes(t->dtype, (size_t)t->rows * (size_t)t->cols);
    CHECK(head >= (whole - 1) / 2 && head <= (whole + 1) / 2, "%s: half a head of %g bytes is %g", name, whole, head);
    parts_ranges r = ranges_of(c, 0, L, 0, 1, 0, 1);
    double touched = 0, some;
    int calls = 0;
    for (; (some = parts_touch(&r, 1 << 16)) > 0; touched += some, calls++) CHECK(some <= 1 << 16, "%g at once", some);
    CHECK(touched >= r.bytes && touched < r.bytes + 4096.0 * (double)r.n && calls >= (int)(touched / 65536),
          "%s: %g bytes touched of %g", name, touched, r.bytes);
    free(r.of);
    char line[120], want[120];
    int begin, end;
    parts_layers(c, 1, 0, &begin, &end);
    snprintf(want, sizeof want, "rank 1: part 2 of 2 of layers 0 to %d, %.3f GB of weights", L - 1,
             bytes_of(c, 0, L, 1, 2, 0, 1) * 1e-9);
    CHECK(!strcmp(parts_rank_line(line, c, 1, 2, 1, 0), want), "%s: %s, expected %s", name, line, want);
    parts_plan p;
    mla_config config;
    memset(&p, 0, sizeof p), memset(&config, 0, sizeof config);
    parts_plan_of(&p, &config, c);
    int plain = 0, kda = 0;
    for (int i = 0; i < L; i++)
        plain += !c->weights.layers[i].moe.experts, kda += c->weights.layers[i].kda.q.weight.data != NULL;
    CHECK(strstr(name, "fp8") ? p.bits > 8 && p.bits < 16 : fabs(p.bits - 16) < 1e-9, "%s: %g bits a weight", name,
          p.bits);
    CHECK(p.dense == plain && p.kda == kda && p.weight > 1.9 && p.weight < 4.5 && config.num_hidden_layers == L,
          "%s: %d dense layers, %d of KDA, %g bytes a weight", name, p.dense, p.kda, p.weight);
}

static void test_fingerprints(void) {
    uint64_t of[N_NAMES];
    for (int i = 0; i < N_NAMES; i++) {
        checkpoint *c = opened(names[i]), *again = opened(names[i]);
        if (!c || !again) return;
        of[i] = parts_fingerprint(c);
        CHECK(of[i] == parts_fingerprint(again), "%s: two numbers", names[i]);
        for (int j = 0; j < i; j++) CHECK(of[i] != of[j], "%s and %s: one number", names[i], names[j]);
        /* a byte of an expert, a shape, a dtype */
        mla_layer_weights *l = &again->layers[c->config.num_hidden_layers - 1];
        mla_tensor *t = l->moe.experts ? &l->moe.router : &l->mlp.gate.weight, was = *t;
        unsigned char *copy = (unsigned char *)malloc(mla_dtype_bytes(t->dtype, (size_t)t->rows * (size_t)t->cols));
        memcpy(copy, t->data, mla_dtype_bytes(t->dtype, (size_t)t->rows * (size_t)t->cols));
        copy[5] ^= 1, t->data = copy;
        CHECK(of[i] != parts_fingerprint(again), "%s: another byte", names[i]);
        *t = was, t->layout = (mla_layout)(t->layout + 1);
        CHECK(of[i] != parts_fingerprint(again), "%s: another layout", names[i]);
        *t = was;
        CHECK(of[i] == parts_fingerprint(again), "%s: as before", names[i]);
        free(copy), checkpoint_close(c), checkpoint_close(again);
    }
}

/* ---- plans ------------------------------------------------------------------------------------------------------- */

static int direct(double floats, int ranks) { return floats * ranks < 1000; }
static int near(double a, double b) { return fabs(a - b) <= 1e-9 * fabs(b); }

/* By numbers small enough to do by hand: D 4, H 2, R 3, N P V 1, a dense layer of 5 and one of 2 experts of 6 of which
   K 1 is chosen, one shared, vocabulary 10: every 4 (3+1) = 16, cut 4*2*2 + 2*2*3 + 2*4 = 36, dense 60, expert 72. */
static void test_plan(void) {
    mla_config c;
    parts_plan p;
    char line[120];
    memset(&c, 0, sizeof c), memset(&p, 0, sizeof p);
    c.hidden_size = 4, c.num_attention_heads = 2, c.kv_lora_rank = 3, c.qk_nope_head_dim = 1, c.qk_rope_head_dim = 1;
    c.v_head_dim = 1, c.intermediate_size = 5, c.moe_intermediate_size = 6, c.n_routed_experts = 2, c.vocab_size = 10;
    c.n_shared_experts = 1, c.num_experts_per_tok = 1, c.num_hidden_layers = 2;
    p.width = p.depth = 1, p.dense = 1, p.weight = 2, p.read = 100, p.link = 10, p.latency = 0.5, p.split = 1;
    parts_plan_make(&p, &c);
    const double every = 2 * (2 * 16 + 8), cut = 2 * (2 * 36 + 60 + 72), experts = 2 * 72, head = 2 * 40;
    CHECK(near(p.rank_bytes, every + cut + 2 * experts + 2 * head) && p.sent_bytes <= 0 && p.wire <= 0,
          "one rank: %g bytes, %g sent, %g s on the wire", p.rank_bytes, p.sent_bytes, p.wire);
    CHECK(near(p.reading, (every + cut + experts + head) / 100), "one rank reads for %g s", p.reading);
    p.width = 2, p.depth = 2, p.direct = 1;
    parts_plan_make(&p, &c);
    CHECK(near(p.rank_bytes, (every + cut / 2 + experts + 1.5 * head) / 2) &&
              near(p.reading, (every + (cut + experts + head) / 2) / 100) &&
              near(p.sent_bytes, (4 * 16 + 20 + 16) / 2.0) && near(p.wire, 4 * (1.6 + 0.5) + 2 + 0.5 + 1.6 + 0.5 + 0.5),
          "2 x 2: %g bytes, %g s reading, %g sent, %g s on the wire", p.rank_bytes, p.reading, p.sent_bytes, p.wire);
    p.width = 4, p.depth = 1, p.direct = 0;
    parts_plan_make(&p, &c);
    CHECK(near(p.wire, 4 * (2.4 + 1) + 3 + 0.5), "sums in two steps: %g s on the wire", p.wire);
    p.width = 2, p.split = 0; /* the busiest of two has the one expert that a token takes: twice the average */
    const double whole = (every + (cut + head) / 2) / 100;
    parts_plan_make(&p, &c);
    CHECK(near(p.reading, whole + experts / 100), "experts of ranks: %g s reading", p.reading);
    c.num_experts_per_tok = 8, c.n_routed_experts = 64; /* of 8 on two ranks the busiest has 4 + 1.09 on average */
    parts_plan_make(&p, &c);
    const double f = (p.reading - whole - 2 * 62 * 4 / 100.0) * 100 / experts / 4;
    CHECK(f > 1.25 && f < 1.3, "the busiest of 2 has %g of the average", f);
    p.rank_bytes = 2.5e9, p.sent_bytes = 1e6, p.reading = 0.01, p.wire = 0.03;
    CHECK(!strcmp(parts_plan_line(line, &p),
                  "    2 x 1             2.5             1.000        10.00            30.00     "
                  " 25.00"),
          "%s", line);
}

/* Two of three layers are KDA: of 2 heads of 4 channels, 3 taps; q, k, v, o 8*4 each and convolutions 8*3, b 2*4, decay
   and gate 4*4 + 8*4 each, 304 in all; 2 (2*4*4 + 3*2*8) floats of states. What they mix is whole and has no sum. */
static void test_plan_kda(void) {
    mla_config c;
    parts_plan p;
    memset(&c, 0, sizeof c), memset(&p, 0, sizeof p);
    c.hidden_size = 4, c.num_attention_heads = 2, c.kv_lora_rank = 3, c.qk_nope_head_dim = 1, c.qk_rope_head_dim = 1;
    c.v_head_dim = 1, c.intermediate_size = 5, c.vocab_size = 10, c.num_hidden_layers = 3;
    c.linear_num_heads = 2, c.linear_head_dim = 4, c.linear_conv_kernel_dim = 3;
    p.weight = 2, p.dense = 3, p.split = 1, p.read = 100, p.link = 10, p.latency = 0.5, p.direct = 1;
    parts_plan_of(&p, &c, NULL);
    CHECK(p.kda == 2 && near(p.kda_weights, 304) && p.dense == 3, "%d layers of KDA of %g weights", p.kda,
          p.kda_weights);
    p.width = 2, p.depth = 1;
    parts_plan_make(&p, &c);
    const double every = 2 * (16 + 2 * 304), cut = 2 * (36 + 3 * 60), head = 2 * 40;
    CHECK(near(p.state_bytes, 2 * 2 * 4 * (2 * 4 * 4 + 3 * 2 * 8)), "states of %g bytes", p.state_bytes);
    CHECK(near(p.rank_bytes, every + cut / 2 + 1.5 * head) &&
              near(p.reading, (every + (cut + head) / 2 + p.state_bytes) / 100) && near(p.sent_bytes, 4 * 16 + 20) &&
              near(p.wire, 4 * (1.6 + 0.5) + 2 + 0.5),
          "KDA: %g bytes, %g s reading, %g sent, %g s on the wire", p.rank_bytes, p.reading, p.sent_bytes, p.wire);
    CHECK(mla_config_preset(&c, "kimi-linear", NULL) == MLA_OK, "preset");
    parts_plan_of(&p, &c, NULL);
    CHECK(p.kda == 20, "%d of kimi-linear's layers are KDA", p.kda);
    checkpoint *files = opened("kimi_linear");
    mla_model *m;
    mla_error error;
    if (!files || !CHECK(!mla_model_create(&m, &files->config, &files->weights, NULL, &error), "%s", error.text))
        return;
    mla_cache_desc d;
    memset(&d, 0, sizeof d);
    d.capacity = 8;
    const double none = (double)mla_cache_size(m, &d);
    d.snapshots = 1;
    const double one = (double)mla_cache_size(m, &d) - none; /* of states there are two without */
    parts_plan_of(&p, &c, files);
    parts_plan_make(&p, &c);
    CHECK(p.state_bytes / 2 <= one && one < p.state_bytes / 2 + 512, "a state of %g bytes, not %g", p.state_bytes / 2,
          one);
    mla_model_destroy(m), checkpoint_close(files);
}

static void test_printed(void) {
    static const struct {
        int N, width, depth, lines;
        const char *has;
    } all[] = {{4, 0, 0, 5, "    4 x 1  "},
               {4, 2, 0, 3, "    2 x 2  "},
               {4, 0, 4, 3, "    1 x 4  "},
               {4, 4, 4, 2, ""},
               {6, 3, 2, 3, "    3 x 2  "}};
    mla_config c;
    CHECK(mla_config_preset(&c, "deepseek-v2-lite", NULL) == MLA_OK, "preset");
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char text[4000];
        parts_plan p;
        FILE *file = tmpfile();
        if (!CHECK(file != NULL, "no file")) return;
        memset(&p, 0, sizeof p);
        p.dense = 1, p.weight = 0.5, p.read = 1e10, p.link = 1e9, p.latency = 1e-5, p.direct_of = direct;
        fflush(stdout);
        const int out = dup(1);
        dup2(fileno(file), 1);
        parts_plan_print(&p, &c, "a model", all[i].N, all[i].width, all[i].depth);
        fflush(stdout);
        dup2(out, 1), close(out);
        rewind(file);
        text[fread(text, 1, sizeof text - 1, file)] = 0;
        fclose(file);
        int lines = 0;
        for (const char *at = text; *at; at++) lines += *at == '\n';
        CHECK(lines == all[i].lines && strstr(text, all[i].has) &&
                  !strncmp(text, "a model, 4.00 bits a weight\nwidth x", 35),
              "%d machines, %d x %d: %s", all[i].N, all[i].width, all[i].depth, text);
    }
}

/* ---- random weights ---------------------------------------------------------------------------------------------- */

static double deviation(const mla_tensor *t) {
    double sum = 0, squares = 0;
    const int rows = t->rows < 32 ? t->rows : 32;
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < t->cols; c++) {
            const double w = (double)mla_weight(t, r, c);
            sum += w, squares += w * w;
        }
    const double n = (double)rows * t->cols;
    CHECK(fabs(sum / n) < 0.05 * sqrt(squares / n), "weights have the mean %g", sum / n);
    return sqrt(squares / n);
}

static void try_synthetic(const char *name) {
    mla_error error;
    checkpoint *c;
    tokenizer *t;
    mla_model *m;
    mla_context *context;
    mla_cache *cache;
    const int mtp = !strcmp(name, "lite1-mtp");
    if (!CHECK(!synthetic_open(&c, &t, name, MLA_Q4, &error), "%s", error.text)) return;
    const double embed = deviation(&c->weights.embed), plain = deviation(&c->layers[0].attn.kv_b.weight);
    const double gate = deviation(&c->layers[0].mlp.gate.weight),
                 last = deviation(mtp ? &c->experts[63].down.weight : &c->layers[0].mlp.down.weight);
    CHECK(fabs(embed - 1) < 0.02 && fabs(plain - 0.022) < 0.001 && fabs(gate - 0.022) < 0.002 &&
              fabs(last - 0.022) < 0.002,
          "deviations of %g, %g, %g, %g", embed, plain, gate, last);
    CHECK(c->config.num_hidden_layers == 1 && !strcmp(c->model_type + 10, name) &&
              tokenizer_size(t) == c->config.vocab_size,
          "%d layers of %s", c->config.num_hidden_layers, c->model_type);
    int ids[8];
    size_t n = 0;
    const int64_t got = tokenizer_encode(t, "a w256\xc3\xa4", 8, 0, ids, 8);
    CHECK(got == 8 && ids[0] == 'a' && ids[6] == 0xc3, "bytes are tokens: %d, %d, %d", (int)got, ids[0], ids[6]);
    const char *word = tokenizer_bytes(t, 4711, &n);
    CHECK(n == 6 && !memcmp(word, " w4711", 6), "token 4711 is %.*s", (int)n, word ? word : "");
    mla_cache_desc d;
    memset(&d, 0, sizeof d);
    d.capacity = 8;
    if (CHECK(!mla_model_create(&m, &c->config, &c->weights, NULL, &error) &&
                  !mla_context_create(&context, m, NULL, &error) && !mla_cache_create(&cache, m, &d, &error),
              "%s", error.text)) {
        static float logits[32768];
        const int some[] = {97, 4711, 32767};
        mla_sequence s;
        mla_outputs out;
        memset(&s, 0, sizeof s), memset(&out, 0, sizeof out);
        s.cache = cache, s.n_tokens = 3, s.n_logits = 1, out.logits = logits;
        CHECK(!mla_model_forward(context, &s, 1, some, &out), "%s", mla_context_error(context)->text);
        const float largest = test_max_abs(logits, 32768);
        CHECK(largest > 0.1f && largest < 50, "logits up to %g", (double)largest);
        mla_cache_destroy(cache), mla_context_destroy(context), mla_model_destroy(m);
    }
    tokenizer_close(t), checkpoint_close(c);
}

static void test_synthetic(void) {
    static const char *const wrong[] = {"",           "lite",   "lite0",  "lite28", "lite6x",
                                        "lite6-mtpx", "lite06", "lite-1", "v3"};
    mla_error error;
    checkpoint *c;
    tokenizer *t;
    SECTION("random weights");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(synthetic_open(&c, &t, wrong[i], MLA_Q4, &error) == MLA_ERR_UNSUPPORTED && !c && !t &&
                  strstr(error.text, "the synthetic models are lite6 and lite6-mtp"),
              "%s: %s", wrong[i], error.text);
    CHECK(synthetic_open(&c, &t, "lite6", MLA_F32, NULL) == MLA_ERR_UNSUPPORTED && !c && !t, "in f32");
    CHECK(synthetic_open(&c, &t, "lite6", MLA_F32, &error) && strstr(error.text, "bf16, q8 or q4, not f32"), "%s",
          error.text);
    try_synthetic("lite1");
    if (test_all()) try_synthetic("lite1-mtp"); /* with experts: half a gigabyte */
}

int main(void) {
    for (int i = 0; i < N_NAMES; i++) {
        checkpoint *c = opened(names[i]);
        if (!c) continue;
        SECTION(names[i]);
        test_layers(c, names[i]);
        test_ranges(c, names[i]);
        checkpoint_close(c);
    }
    SECTION("fingerprints");
    test_fingerprints();
    SECTION("plans");
    test_plan();
    test_plan_kda();
    test_printed();
    test_synthetic();
    return test_end();
}
