/* test_openai.c - requests in the form of OpenAI's API: what is refused, naming the field, and what becomes of the rest;
   answers as JSON that says what was put in. */
#include "openai.h"
#include "test.h"

static openai_how how;

/* Bodies without what all of a kind have; field: at fault. */
static const struct {
    openai_kind kind;
    const char *body, *field, *says;
    int status;
} wrong[] = {
    {OPENAI_CHAT, "{", "", "the body cannot be read as JSON", 400},
    {OPENAI_CHAT, "[]", "", "no object", 400},
    {OPENAI_CHAT, "{}", "messages", "it is missing", 400},
    {OPENAI_CHAT, "{\"messages\":[]}", "messages", "something in it", 400},
    {OPENAI_CHAT, "{\"messages\":\"x\"}", "messages", "not a list", 400},
    {OPENAI_CHAT, "{\"messages\":[7]}", "messages", "messages[0].role: it is missing", 400},
    {OPENAI_CHAT, "{\"messages\":[{\"content\":\"x\"}]}", "messages", "messages[0].role: it is missing", 400},
    {OPENAI_CHAT, "{\"messages\":[{\"role\":\"god\",\"content\":\"x\"}]}", "messages[0].role",
     "'god' is not known here", 400},
    {OPENAI_CHAT, "{\"messages\":[{\"role\":7,\"content\":\"x\"}]}", "messages[0].role", "not a string", 400},
    {OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content", "it is missing", 400},
    {OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":7}]}", "messages[0].content", "neither a text nor",
     400},
    {OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"text\":\"x\"}]}]}",
     "messages[0].content", "of type text", 400},
    {OPENAI_CHAT, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":7}]}", "messages[0].tool_calls", "not a list",
     400},
    {OPENAI_CHAT, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\"}}]}]}",
     "messages[0].tool_calls", "[0].function: it has no name", 400},
    {OPENAI_CHAT, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"arguments\":\"\"}}]}]}",
     "messages[0].tool_calls", "[0].function: it has no name", 400},
    {OPENAI_CHAT, "{\"model\":7}", "model", "not a string", 400},
    {OPENAI_CHAT, "{\"model\":\"other\"}", "model", "'other' is not here, but 'm' is", 404},
    {OPENAI_CHAT, "{\"temperature\":\"x\"}", "temperature", "not a number", 400},
    {OPENAI_CHAT, "{\"temperature\":-1}", "temperature", "is below 0", 400},
    {OPENAI_CHAT, "{\"presence_penalty\":2.5}", "presence_penalty", "is above 2", 400},
    {OPENAI_CHAT, "{\"n\":0}", "n", "0 is below 1", 400},
    {OPENAI_CHAT, "{\"n\":129}", "n", "129 is above 128", 400},
    {OPENAI_CHAT, "{\"n\":1.5}", "n", "not an integer", 400},
    {OPENAI_CHAT, "{\"stream\":1}", "stream", "neither true nor false", 400},
    {OPENAI_CHAT, "{\"max_tokens\":0}", "max_tokens", "below 1", 400},
    {OPENAI_CHAT, "{\"max_completion_tokens\":0,\"max_tokens\":5}", "max_completion_tokens", "below 1", 400},
    {OPENAI_CHAT, "{\"logit_bias\":[]}", "logit_bias", "not an object", 400},
    {OPENAI_CHAT, "{\"logit_bias\":{\"x\":1}}", "logit_bias", "'x' is no token", 400},
    {OPENAI_CHAT, "{\"logit_bias\":{\"\":1}}", "logit_bias", "'' is no token", 400},
    {OPENAI_CHAT, "{\"logit_bias\":{\"64\":1}}", "logit_bias", "'64' is no token", 400},
    {OPENAI_CHAT, "{\"logit_bias\":{\"-1\":1}}", "logit_bias", "'-1' is no token", 400},
    {OPENAI_CHAT, "{\"logit_bias\":{\" 1\":1}}", "logit_bias", "' 1' is no token", 400},
    {OPENAI_CHAT, "{\"logit_bias\":{\"+1\":1}}", "logit_bias", "'+1' is no token", 400},
    {OPENAI_CHAT, "{\"logit_bias\":{\"1.0\":1}}", "logit_bias", "'1.0' is no token", 400},
    {OPENAI_CHAT, "{\"logit_bias\":{\"5\":101}}", "logit_bias", "of token 5 is not in -100..100", 400},
    {OPENAI_CHAT, "{\"logit_bias\":{\"5\":\"1\"}}", "logit_bias", "of token 5", 400},
    {OPENAI_CHAT, "{\"stop\":7}", "stop", "not a string or a list of strings", 400},
    {OPENAI_CHAT, "{\"stop\":[\"a\",7]}", "stop", "not a string or a list of strings", 400},
    {OPENAI_CHAT, "{\"stop\":\"\"}", "stop", "an empty string", 400},
    {OPENAI_CHAT, "{\"stop\":[\"a\\u0000b\"]}", "stop", "with a NUL", 400},
    {OPENAI_CHAT, "{\"stop\":[\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\",\"\"]}",
     "stop", "17 strings", 400},
    {OPENAI_CHAT, "{\"logprobs\":3}", "logprobs", "neither true nor false", 400},
    {OPENAI_CHAT, "{\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs", "above 20", 400},
    {OPENAI_CHAT, "{\"top_logprobs\":2}", "top_logprobs", "logprobs is not true", 400},
    {OPENAI_COMPLETION, "{\"logprobs\":true}", "logprobs", "not an integer", 400},
    {OPENAI_CHAT, "{\"response_format\":{\"type\":\"poem\"}}", "response_format", "poem", 400},
    {OPENAI_COMPLETION, "{\"echo\":true}", "echo", "not given back", 400},
    {OPENAI_COMPLETION, "{\"echo\":7}", "echo", "neither", 400},
    {OPENAI_COMPLETION, "{\"best_of\":2}", "best_of", "only what n says", 400},
    {OPENAI_COMPLETION, "{\"suffix\":\"x\"}", "suffix", "nothing can be inserted", 400},
    {OPENAI_CHAT, "{\"functions\":[]}", "functions", "tools have taken", 400},
    {OPENAI_CHAT, "{\"stream_options\":7}", "stream_options", "not an object", 400},
    {OPENAI_CHAT, "{\"stream_options\":{\"include_usage\":1}}", "stream_options", "neither true nor false", 400},
    {OPENAI_CHAT, "{\"chat_template_kwargs\":7}", "chat_template_kwargs", "not an object", 400},
    {OPENAI_CHAT, "{\"chat_template_kwargs\":{\"tools\":1}}", "chat_template_kwargs.tools", "cannot be set", 400},
    {OPENAI_CHAT, "{\"tools\":7}", "tools", "not a list", 400},
    {OPENAI_CHAT, "{\"tools\":[7]}", "tools[0].type", "not function", 400},
    {OPENAI_CHAT, "{\"tools\":[{\"type\":\"code\"}]}", "tools[0].type", "not function", 400},
    {OPENAI_CHAT, "{\"tools\":[{\"type\":\"function\"}]}", "tools[0].function.name", "not 1 to 64", 400},
    {OPENAI_CHAT, "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"a b\"}}]}", "tools[0].function.name",
     "not 1 to 64", 400},
    {OPENAI_CHAT, "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"description\":7}}]}",
     "tools[0].function.description", "not a string", 400},
    {OPENAI_CHAT, "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":7}}]}",
     "tools[0].function.parameters", "not an object", 400},
    {OPENAI_CHAT, "{\"tool_choice\":\"sometimes\"}", "tool_choice", "'sometimes'", 400},
    {OPENAI_CHAT, "{\"tool_choice\":{}}", "tool_choice", "function.name: it is missing", 400},
    {OPENAI_CHAT, "{\"tool_choice\":\"required\"}", "tool_choice", "what is required is none of tools", 400},
    {OPENAI_CHAT,
     "{\"tool_choice\":{\"function\":{\"name\":\"g\"}},\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}"
     "]}",
     "tool_choice", "g is none of tools", 400},
    {OPENAI_CHAT,
     "{\"tool_choice\":\"required\",\"response_format\":{\"type\":\"json_object\"},\"tools\":[{\"type\":\"function\","
     "\"function\":{\"name\":\"f\"}}]}",
     "tool_choice", "leaves no room", 400},
    {OPENAI_CHAT,
     "{\"tool_choice\":\"required\",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"strict\":true,"
     "\"parameters\":{\"type\":\"nonsense\"}}}]}",
     "tools", "tools: f: parameters", 400},
    {OPENAI_EMBEDDING, "{\"encoding_format\":\"hex\"}", "encoding_format", "'hex'", 400},
    {OPENAI_EMBEDDING, "{\"pooling\":\"max\"}", "pooling", "'max'", 400},
    {OPENAI_EMBEDDING, "{\"dimensions\":4}", "dimensions", "4, and this model's embeddings have 8", 400},
    {OPENAI_EMBEDDING, "{\"model\":\"x\"}", "model", "not here", 404},
};

static void test_wrong(void) {
    SECTION("what is refused");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        openai_request r;
        text_buffer t = {NULL, 0, 0, 0};
        json_value *json = NULL;
        mla_error error;
        const int ok = openai_read(&r, wrong[i].kind, wrong[i].body, strlen(wrong[i].body), &how);
        CHECK(!ok && r.problem.status == wrong[i].status && !strcmp(r.problem.param, wrong[i].field) &&
                  strstr(r.problem.text, wrong[i].says),
              "%s: %d, '%s', %s", wrong[i].body, r.problem.status, r.problem.param, r.problem.text);
        openai_put_problem(&t, &r.problem);
        CHECK(!t.failed && !json_parse(t.data, t.n, &json, &error) &&
                  !strcmp(json_string(json_get(json_get(json, "error"), "message"), NULL), r.problem.text) &&
                  (*wrong[i].field != 0) == (json_string(json_get(json_get(json, "error"), "param"), NULL) != NULL),
              "%s: %s", wrong[i].body, t.data);
        json_free(json), text_clear(&t), openai_free(&r);
    }
    openai_request r;
    static const char tools[] =
        "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":\"required\"}";
    how.knows_tools = 0;
    CHECK(!openai_read(&r, OPENAI_CHAT, tools, sizeof tools - 1, &how) && strstr(r.problem.text, "knows no tools"),
          "%s", r.problem.text);
    openai_free(&r);
    how.knows_tools = 1, how.form = CALLS_NONE;
    CHECK(!openai_read(&r, OPENAI_CHAT, tools, sizeof tools - 1, &how) && strstr(r.problem.text, "is not known"), "%s",
          r.problem.text);
    openai_free(&r), how.form = CALLS_DEEPSEEK;
}

static void test_right(void) {
    static const char body[] = "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{"
                               "\"text\":\"b\"}]},{\"role\":\"assistant\","
                               "\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}"
                               ",{\"role\":\"tool\",\"content\":\"c\"}],"
                               "\"model\":\"m\",\"temperature\":0.5,\"top_p\":0,\"top_k\":-1,\"seed\":-5,\"n\":3,\"max_"
                               "completion_tokens\":7,\"max_tokens\":9,\"stream\":true,"
                               "\"stream_options\":{\"include_usage\":true},\"stop\":[\"x\",\"yy\"],\"logit_bias\":{"
                               "\"5\":-1.5,\"7\":100},\"logprobs\":true,"
                               "\"top_logprobs\":4,\"presence_penalty\":-2,\"frequency_penalty\":null,\"tools\":[{"
                               "\"type\":\"function\",\"function\":{\"name\":\"f\","
                               "\"parameters\":{\"type\":\"object\"}}}],\"tool_choice\":\"required\"}";
    openai_request r;
    char text[8];
    char *want = calls_prefix(CALLS_DEEPSEEK, "f");
    SECTION("what is taken");
    if (CHECK(openai_read(&r, OPENAI_CHAT, body, sizeof body - 1, &how), "%s", r.problem.text)) {
        CHECK(r.sampling.temperature == 0.5 && r.sampling.top_p == 1e-9 && r.sampling.top_k == 0 &&
                  r.sampling.seed == (uint64_t)-5,
              "sampling");
        CHECK(r.n == 3 && r.max_tokens == 7 && r.streams && r.usage && r.logprobs && r.n_top == 4 && r.presence == -2 &&
                  r.frequency == 0,
              "numbers");
        CHECK(r.n_stops == 2 && !strcmp(r.stops[0], "x") && !strcmp(r.stops[1], "yy"), "stop");
        CHECK(r.n_bias == 2 && r.bias_of[0] == 5 && r.bias[0] == -1.5f && r.bias_of[1] == 7 && r.bias[1] == 100,
              "bias");
        CHECK(want && r.prefix && !strcmp(r.prefix, want) && r.g && !r.calls_nothing, "a call that must come: %s",
              r.prefix);
        const json_value *first = json_at(json_get(r.body, "messages"), 0);
        CHECK(openai_content(NULL, json_get(first, "content")) == 2 &&
                  openai_content(text, json_get(first, "content")) == 2 && !memcmp(text, "ab", 2),
              "parts");
    }
    openai_free(&r);
    CHECK(openai_read(&r, OPENAI_COMPLETION, "{\"prompt\":\"x\",\"logprobs\":0}", 27, &how) && r.max_tokens == 16 &&
              r.logprobs && r.n_top == 0 && r.n == 1 && r.sampling.temperature == how.sampling.temperature,
          "a completion: %s", r.problem.text);
    openai_free(&r);
    CHECK(openai_read(&r, OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"\"}],\"tool_choice\":\"none\"}",
                      64, &how) &&
              r.calls_nothing && r.max_tokens == 0,
          "none: %s", r.problem.text);
    openai_free(&r);
    CHECK(openai_read(&r, OPENAI_EMBEDDING, "{\"encoding_format\":\"base64\",\"pooling\":\"last\",\"dimensions\":8}",
                      60, &how) &&
              r.base64 && r.last_state,
          "an embedding: %s", r.problem.text);
    openai_free(&r), free(want);
}

/* A call, thoughts and text, in a stream and whole. */
static void test_answers(void) {
    static const char body[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"stream\":true}";
    const calls_part parts[] = {
        {CALLS_THOUGHTS, "hm \"", 4, NULL, 0}, {CALLS_TEXT, "so\n", 3, NULL, 0}, {CALLS_CALL, "{\"a\":1}", 7, "f", 0}};
    SECTION("answers");
    for (int streams = 0; streams < 2; streams++) {
        openai_request r;
        openai_choice c;
        openai_reply a;
        text_buffer t = {NULL, 0, 0, 0};
        json_value *json = NULL;
        mla_error error;
        memset(&c, 0, sizeof c), memset(&a, 0, sizeof a);
        CHECK(openai_read(&r, OPENAI_CHAT, body, sizeof body - 1, &how), "%s", r.problem.text);
        r.streams = streams;
        a.r = &r, a.id = "chatcmpl-1", a.choices = &c, a.n = 1, a.n_prompt = 3, a.n_generated = 5, a.created = 7;
        for (int i = 0; i < 3; i++) openai_take_part(&a, &c, &parts[i]);
        CHECK(c.n_calls == 1, "%d calls", c.n_calls);
        c.finish = "tool_calls";
        if (streams) openai_put_chunk(&t, &a, &c, 0);
        else openai_put_whole(&t, &a);
        const size_t skip = streams ? 6 : 0; /* data: */
        if (CHECK(!t.failed && t.n > 8 &&
                      (!streams || (!memcmp(t.data, "data: ", 6) && !memcmp(t.data + t.n - 2, "\n\n", 2))) &&
                      !json_parse(t.data + skip, t.n - skip, &json, &error),
                  "%s", t.data)) {
            const json_value *choice = json_at(json_get(json, "choices"), 0),
                             *m = json_get(choice, streams ? "delta" : "message"),
                             *call = json_at(json_get(m, "tool_calls"), 0), *f = json_get(call, "function");
            CHECK(!strcmp(json_string(json_get(m, "content"), NULL), "so\n") &&
                      !strcmp(json_string(json_get(m, "reasoning_content"), NULL), "hm \"") &&
                      !strcmp(json_string(json_get(f, "name"), NULL), "f") &&
                      !strcmp(json_string(json_get(f, "arguments"), NULL), "{\"a\":1}") &&
                      (json_typeof(json_get(call, "index")) == JSON_NUMBER) == streams &&
                      !strcmp(json_string(json_get(choice, "finish_reason"), NULL), "tool_calls"),
                  "%s", t.data);
            CHECK(streams || json_number(json_get(json_get(json, "usage"), "total_tokens")) == 8, "%s", t.data);
        }
        json_free(json), text_clear(&t), openai_clear(&c), openai_free(&r);
    }
}

int main(void) {
    memset(&how, 0, sizeof how);
    how.model = "m", how.vocab_size = 64, how.hidden_size = 8, how.form = CALLS_DEEPSEEK, how.knows_tools = 1;
    how.sampling.temperature = 0.75;
    test_wrong(), test_right(), test_answers();
    return test_end();
}
