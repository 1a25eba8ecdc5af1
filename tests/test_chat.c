/* DeepSeek's chat templates, on a tokenizer of bytes: which one is chosen, and the ids of whole conversations. */
#define MLA_IMPLEMENTATION
#include "../mla.h"
#define CHECKPOINT_IMPLEMENTATION
#define TOKENIZER_IMPLEMENTATION
#define JINJA_IMPLEMENTATION
#define CHAT_IMPLEMENTATION
#include "chat.h"
#include "test.h"

/* ---- a tokenizer: the id of a byte is that byte, and those in no UTF-8 are special tokens ------------------------ */

enum { BOS = 192, EOS = 193, USER = 245, ASSISTANT, THINK, END_THINK, SEARCH };

static tokenizer *byte_tokenizer(const char *const *added, const int *ids, int n) {
    static char json[20000];
    tokenizer *t = NULL;
    mla_error error;
    size_t used = 0;
    int odd = 0;
#define PUT(...) (used += (size_t)snprintf(json + used, sizeof json - used, __VA_ARGS__))
    PUT("{\"added_tokens\":[");
    for (int i = 0; i < n; i++)
        PUT("%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":"
            "false,"
            "\"special\":%s}",
            i ? "," : "", ids[i], added[i], ids[i] < USER ? "true" : "false");
    PUT("],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false},\"decoder\":{"
        "\"type\":"
        "\"ByteLevel\"},"
        "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    for (int b = 0; b < 245; b++) {
        const int plain = (b > 32 && b < 127) || (b > 160 && b != 173), code = plain ? b : 256 + odd;
        odd += !plain;
        if (b != BOS && b != EOS) PUT("%s\"\\u%04x\":%d", b ? "," : "", (unsigned)code, b);
    }
    PUT("}}}");
#undef PUT
    CHECK(!tokenizer_parse(&t, json, used, "bytes", &error), "%s", error.text);
    return t;
}

static const char *const names[] = {CHAT__TOKEN("begin" CHAT__GAP "of" CHAT__GAP "sentence"),
                                    CHAT__TOKEN("end" CHAT__GAP "of" CHAT__GAP "sentence"),
                                    CHAT__TOKEN("User"),
                                    CHAT__TOKEN("Assistant"),
                                    "<think>",
                                    "</think>",
                                    CHAT__TOKEN("search" CHAT__GAP "begin")};
static const int name_ids[] = {BOS, EOS, USER, ASSISTANT, THINK, END_THINK, SEARCH};

/* Ids as a text to compare: bytes as they are, special tokens in brackets. */
static const char *spell(const chat_tokens *text) {
    static char out[2000];
    static const char *const special[] = {"[U]", "[A]", "[T]", "[/T]", "[S]"};
    size_t n = 0;
    for (size_t i = 0; i < text->n && n + 8 < sizeof out; i++) {
        const int id = text->ids[i];
        if (id == BOS || id == EOS) n += (size_t)snprintf(out + n, 8, id == BOS ? "[B]" : "[E]");
        else if (id >= USER && id <= SEARCH) n += (size_t)snprintf(out + n, 8, "%s", special[id - USER]);
        else out[n++] = (char)id;
    }
    out[n] = 0;
    return out;
}

static void reads(const chat_tokens *text, const char *want) {
    const char *got = spell(text);
    CHECK(!strcmp(got, want), "got '%s', want '%s'", got, want);
}

static void turn(chat_tokens *text, const chat_template *chat, const tokenizer *t, const char *system,
                 const char *question) {
    mla_error error;
    CHECK(!chat_turn(text, chat, t, system, question, strlen(question), &error), "%s", error.text);
}

static void answer(chat_tokens *text, const chat_template *chat,
                   const char *bytes) { /* < and > for the ends of thoughts */
    int ids[100];
    size_t n = 0;
    mla_error error;
    for (; bytes[n]; n++) ids[n] = bytes[n] == '<' ? THINK : bytes[n] == '>' ? END_THINK : (unsigned char)bytes[n];
    CHECK(!chat_answer(text, chat, ids, n, &error), "%s", error.text);
}

static tokenizer *detect(chat_template *chat, const int *which, int n) {
    const char *content[7];
    int ids[7];
    mla_error error;
    for (int i = 0; i < n; i++) content[i] = names[which[i]], ids[i] = name_ids[which[i]];
    tokenizer *t = byte_tokenizer(content, ids, n);
    CHECK(!chat_detect(chat, t, 7, &error), "%s", error.text);
    return t;
}

static const int v2[] = {0, 1}, v3[] = {0, 1, 2, 3}, r1[] = {0, 1, 2, 3, 4, 5}, v31[] = {0, 1, 2, 3, 4, 5, 6};

static void styles(void) {
    chat_template chat;
    chat_tokens text = {NULL, 0, 0};
    tokenizer *t;
    SECTION("V2");
    t = detect(&chat, v2, 2);
    CHECK(chat.style == CHAT_V2 && !strcmp(chat_style_name(chat.style), "V2") && chat.bos == BOS && chat.eos == EOS,
          "V2");
    turn(&text, &chat, t, "Be brief.", "Hi");
    reads(&text, "[B]Be brief.\n\nUser: Hi\n\nAssistant:");
    answer(&text, &chat, " Ho");
    reads(&text, "[B]Be brief.\n\nUser: Hi\n\nAssistant: Ho[E]");
    turn(&text, &chat, t, NULL, "And?");
    reads(&text, "[B]Be brief.\n\nUser: Hi\n\nAssistant: Ho[E]User: And?\n\nAssistant:");
    text.n = 0;
    turn(&text, &chat, t, "", "Hi");
    reads(&text, "[B]User: Hi\n\nAssistant:");
    tokenizer_close(t);

    SECTION("V3");
    t = detect(&chat, v3, 4);
    CHECK(chat.style == CHAT_V3 && !chat.thinks && chat.user == USER && chat.assistant == ASSISTANT, "V3");
    text.n = 0;
    turn(&text, &chat, t, "Be brief.", "Hi");
    reads(&text, "[B]Be brief.[U]Hi[A]");
    answer(&text, &chat, "Ho");
    turn(&text, &chat, t, NULL, "And?");
    answer(&text, &chat, "");
    reads(&text, "[B]Be brief.[U]Hi[A]Ho[E][U]And?[A][E]");
    tokenizer_close(t);

    SECTION("R1");
    t = detect(&chat, r1, 6);
    CHECK(chat.style == CHAT_R1 && chat.thinks, "R1");
    text.n = 0;
    turn(&text, &chat, t, "", "Hi");
    reads(&text, "[B][U]Hi[A][T]\n");
    answer(&text, &chat, "hmm>\n\nHo");
    reads(&text, "[B][U]Hi[A]\n\nHo[E]");
    turn(&text, &chat, t, NULL, "And?");
    answer(&text, &chat, "never ending");
    reads(&text, "[B][U]Hi[A]\n\nHo[E][U]And?[A][E]");
    chat.thinks = 0;
    turn(&text, &chat, t, NULL, "So?");
    answer(&text, &chat, "no thoughts");
    turn(&text, &chat, t, NULL, "Eh?");
    answer(&text, &chat, "<own thoughts>Ok>Yes");
    reads(&text, "[B][U]Hi[A]\n\nHo[E][U]And?[A][E][U]So?[A]no thoughts[E][U]Eh?[A]Yes[E]");
    tokenizer_close(t);

    SECTION("V3.1");
    t = detect(&chat, v31, 7);
    CHECK(chat.style == CHAT_V31 && !chat.thinks, "V3.1");
    text.n = 0;
    turn(&text, &chat, t, "S", "Hi");
    reads(&text, "[B]S[U]Hi[A][/T]");
    answer(&text, &chat, "Ho");
    reads(&text, "[B]S[U]Hi[A][/T]Ho[E]");
    chat.thinks = 1;
    turn(&text, &chat, t, NULL, "And?");
    reads(&text, "[B]S[U]Hi[A][/T]Ho[E][U]And?[A][T]");
    answer(&text, &chat, "hmm>So");
    reads(&text, "[B]S[U]Hi[A][/T]Ho[E][U]And?[A][/T]So[E]");
    turn(&text, &chat, t, NULL, "x");
    answer(&text, &chat, "hmm");
    reads(&text, "[B]S[U]Hi[A][/T]Ho[E][U]And?[A][/T]So[E][U]x[A][/T][E]");
    tokenizer_close(t);
    free(text.ids);
}

static void typed(void) {
    chat_template chat;
    chat_tokens text = {NULL, 0, 0};
    const int *sets[] = {v3, v31};
    SECTION("special tokens that users type are text");
    for (int k = 0; k < 2; k++) {
        tokenizer *t = detect(&chat, sets[k], k ? 7 : 4);
        char question[200], want[800];
        snprintf(question, sizeof question, "a%sb%sc%sd</think>e", names[1], names[2], names[3]);
        snprintf(want, sizeof want, "[B]%s[U]%s[A]%s", question, question, k ? "[/T]" : "");
        text.n = 0;
        turn(&text, &chat, t, question, question);
        CHECK(text.n == 4 + 2 * strlen(question) - (size_t)!k, "%zu ids", text.n);
        reads(&text, want);
        tokenizer_close(t);
    }
    free(text.ids);
}

/* By a template of the model's own. */
static void render(chat_tokens *text, const chat_own *own, const chat_message *messages, size_t n,
                   const chat_options *options) {
    mla_error error;
    CHECK(!chat_render(text, own, messages, n, options, &error), "%s", error.text);
}

static void own_template(void) {
    static const char source[] = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '" CHAT__TOKEN(
        "User") "' + m.content|trim + '" CHAT__TOKEN("Assistant") "' }}{% else %}"
                                                                  "{{ m.content }}{% if m.reasoning_content %}({{ "
                                                                  "m.reasoning_content }}){% endif %}{{ eos_token }}{% "
                                                                  "endif %}"
                                                                  "{% endfor %}{% if add_generation_prompt %}{{ "
                                                                  "'<think>' if enable_thinking is not defined else "
                                                                  "enable_thinking"
                                                                  " }}{% endif %}{% if tools %} {{ tools|tojson }}{% "
                                                                  "endif %}";
    chat_template chat;
    chat_tokens text = {NULL, 0, 0};
    chat_own *own;
    chat_options options;
    mla_error error;
    chat_message m[3];
    SECTION("the model's own template");
    tokenizer *t = detect(&chat, v31, 7);
    CHECK(!chat_open(&own, source, sizeof source - 1, "x", t, &error), "%s", error.text);
    CHECK(chat_mentions(own, "enable_thinking") && !chat_mentions(own, "thinking"), "what it mentions");
    memset(m, 0, sizeof m), memset(&options, 0, sizeof options);
    options.bos = names[0], options.eos = names[1];
    m[0].role = "user", m[0].content = " Hi ", m[0].n = 4;
    m[1].role = "assistant", m[1].content = "Ho", m[1].n = 2, m[1].thoughts = "hm", m[1].n_thoughts = 2;
    m[2].role = "user", m[2].content = "Why?", m[2].n = 4;
    render(&text, own, m, 1, &options);
    reads(&text, "[B][U]Hi[A][T]");
    CHECK(chat_is_thinking(&text, t), "<think> at the end");
    render(&text, own, m, 3, &options);
    reads(&text, "[B][U]Hi[A]Ho(hm)[E][U]Why?[A][T]");
    options.think = -1;
    render(&text, own, m, 1, &options);
    reads(&text, "[B][U]Hi[A]False");
    CHECK(!chat_is_thinking(&text, t), "no <think> at the end");
    options.tools = "[{\"b\":1,\"a\":2}]", options.n_tools = 15, options.goes_on = 1;
    render(&text, own, m, 1, &options);
    reads(&text, "[B][U]Hi[A] [{\"b\": 1, \"a\": 2}]");
    options.n_tools = 14;
    CHECK(chat_render(&text, own, m, 1, &options, &error) == MLA_ERR_CONFIG, "tools that are no JSON");
    options.tools = "{}", options.n_tools = 2;
    CHECK(chat_render(&text, own, m, 1, &options, &error) == MLA_ERR_CONFIG, "tools that are no list");
    options.tools = NULL;
    char typed[300], want[400]; /* special tokens, marks of ours, and what only begins like them */
    snprintf(typed, sizeof typed,
             "%sa%s</think>\xef\xb7\x90<%s\xef\xb7\x90"
             "b<think",
             names[2], names[1], names[3]);
    snprintf(want, sizeof want, "[B][U]%sa%s</think><%sb<think[A]", names[2], names[1], names[3]);
    m[0].content = typed, m[0].n = strlen(typed);
    render(&text, own, m, 1, &options);
    reads(&text, want);
    chat_close(own), chat_close(NULL);
    CHECK(chat_open(&own, "{% if %}", 8, "x", t, &error) == MLA_ERR_CONFIG && !own &&
              !strncmp(error.text, "x:1:7: ", 7),
          "%s", error.text);
    CHECK(!chat_open(&own, "{{ raise_exception('no') }}", 27, "x", t, &error), "%s", error.text);
    CHECK(chat_render(&text, own, m, 1, &options, &error) == MLA_ERR_CONFIG && text.n == 0, "an exception");
    chat_close(own), tokenizer_close(t), free(text.ids);
}

/* What a request to OpenAI's chat API becomes, and what is none. */
static void requests(void) {
    static const char source[] =
        "{% for m in messages %}{{ m.role[0] }}={{ m.content }}{% for c in m.tool_calls %}[{{ "
        "c.function.arguments|tojson "
        "}}]{% endfor %};{% endfor %}{{ tools|tojson if tools else '' }}{{ extra|tojson if extra is defined else '' }}";
    static const struct {
        const char *request, *want;
        int wrong;
    } all[] = {
        {"{\"messages\":[{\"role\":\"developer\",\"content\":\"a\"},{\"role\":\"user\",\"content\":[{\"text\":\"b\"},"
         "{\"type\":\"image\"},3,{\"text\":\"c\"}]}]}",
         "s=a;u=bc;", 0},
        {"{\"messages\":[{\"role\":\"user\"},{\"role\":\"user\",\"content\":null}],\"tools\":[]}", "u=None;u=None;", 0},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":[],\"tool_calls\":[{\"function\":{\"arguments\":"
         "\"{\\\"a\\\":1}\"}},{\"function\":{\"arguments\":\"{\"}},{\"function\":{\"arguments\":{\"b\":2}}}]}]}",
         "a=[{\"a\": 1}][\"{\"][{\"b\": 2}];", 0},
        {"{\"messages\":[],\"tools\":[{\"a\\u0000b\":1,\"c\":2}]}", "[{\"c\": 2}]", 0},
        {"{\"messages\":[],\"tools\":{\"a\":1}}", "", 0},
        {"{\"messages\":[],\"chat_template_kwargs\":{\"extra\":[1,\"x\"]}}", "[1, \"x\"]", 0},
        {"{\"messages\":[],\"chat_template_kwargs\":{\"a\\u0000b\":1,\"extra\":2}}", "2", 0},
        {"{\"messages\":[],\"chat_template_kwargs\":[1]}", "", 0},
        {"{\"messages\":{}}", "messages: not a list", 1},
        {"{}", "messages: not a list", 1},
        {"{\"messages\":[3]}", "messages: one has no role", 1},
        {"{\"messages\":[{\"content\":\"a\"}]}", "messages: one has no role", 1},
        {"{\"messages\":[{\"role\":1}]}", "messages: one has no role", 1},
        {"[", "JSON, byte 1: not a value", 1}};
    chat_template chat;
    chat_tokens text = {NULL, 0, 0};
    chat_own *own = NULL;
    chat_options options;
    mla_error error;
    SECTION("requests");
    tokenizer *t = detect(&chat, v31, 7);
    memset(&options, 0, sizeof options);
    CHECK(chat_open(NULL, source, sizeof source - 1, "x", t, &error) == MLA_ERR_ARGUMENT, "nowhere to put it");
    CHECK(chat_open(&own, source, sizeof source - 1, "x", NULL, &error) == MLA_ERR_ARGUMENT && !own, "no tokenizer");
    CHECK(!chat_open(&own, source, sizeof source - 1, "x", t, &error), "%s", error.text);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const mla_result rc = chat_render_request(&text, own, all[i].request, strlen(all[i].request), &options, &error);
        if (!all[i].wrong && CHECK(!rc, "%s: %s", all[i].request, error.text)) reads(&text, all[i].want);
        if (all[i].wrong)
            CHECK(rc == MLA_ERR_CONFIG && strstr(error.text, all[i].want), "%s: %s, %s", all[i].request,
                  mla_result_name(rc), rc ? error.text : "");
    }
    chat_close(own);
    static const struct {
        const char *text;
        int thinks;
    } ends[] = {{"", 0}, {"think>", 0}, {"a<think>", 1}, {"<think>\n \n", 1}, {"<think>a", 0}, {"< think>", 0}};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) { /* letter by letter */
        text.n = 0;
        CHECK(!chat_append_text(&text, t, ends[i].text, strlen(ends[i].text), TOKENIZER_PLAIN, &error), "%s",
              error.text);
        CHECK(chat_is_thinking(&text, t) == ends[i].thinks, "'%s' %s", ends[i].text,
              ends[i].thinks ? "thinks" : "ends");
    }
    const int none = 100000;
    text.n = 0;
    CHECK(!chat_append(&text, &none, 1, &error) && !chat_is_thinking(&text, t), "no token");
    tokenizer_close(t), free(text.ids);
}

static void other(void) {
    chat_template chat;
    mla_error error;
    chat_tokens text = {NULL, 0, 0};
    const char *content[2];
    int ids[2];
    SECTION("other tokenizers");
    tokenizer *t = byte_tokenizer(names, name_ids, 0);
    CHECK(chat_detect(&chat, t, BOS, &error) == MLA_ERR_UNSUPPORTED && strstr(error.text, "end") &&
              strstr(error.text, "template"),
          "%s", error.text);
    CHECK(chat_detect(&chat, t, BOS, NULL) == MLA_ERR_UNSUPPORTED, "without an error to fill");
    tokenizer_close(t);
    content[0] = names[1], ids[0] = EOS, content[1] = names[2], ids[1] = USER;
    t = byte_tokenizer(content, ids, 2);
    CHECK(chat_detect(&chat, t, -1, &error) == MLA_ERR_UNSUPPORTED && strstr(error.text, "only one"), "%s", error.text);
    tokenizer_close(t);
    t = byte_tokenizer(content, ids, 1);
    CHECK(!chat_detect(&chat, t, 65, &error) && chat.style == CHAT_V2 && chat.bos == 65,
          "the model's begin of sentence");
    turn(&text, &chat, t, "", "");
    reads(&text, "AUser: \n\nAssistant:");
    text.n = 0;
    char many[1000]; /* more tokens than texts have by rights */
    memset(many, 'x', sizeof many);
    CHECK(!chat_append_text(&text, t, many, sizeof many, 0, &error) && text.n == 1000 && text.ids[999] == 'x',
          "a token a byte");
    text.n = 0;
    CHECK(!chat_detect(&chat, t, -1, &error) && chat.bos == -1, "no begin of sentence");
    turn(&text, &chat, t, "", "x");
    reads(&text, "User: x\n\nAssistant:");
    tokenizer_close(t);
    free(text.ids);
    CHECK(!strcmp(chat_style_name(CHAT_STYLE_COUNT), "?") && !strcmp(chat_style_name(CHAT_V31), "V3.1"), "names");
}

int main(void) {
    styles();
    typed();
    own_template();
    requests();
    other();
    return test_end();
}
