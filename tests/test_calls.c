/* Answers taken apart: thoughts, text and calls in each form, whole and cut at every byte; and chats as OpenAI's API has
   them, rendered by a template. */
#define MLA_IMPLEMENTATION
#include "../mla.h"
#define CHECKPOINT_IMPLEMENTATION
#define TOKENIZER_IMPLEMENTATION
#define JINJA_IMPLEMENTATION
#define CHAT_IMPLEMENTATION
#include "chat.h"
#define TEXT_IMPLEMENTATION
#include "text.h"
#define CALLS_IMPLEMENTATION
#include "calls.h"
#include "test.h"

static text_buffer seen; /* |T text|R thoughts|C name arguments ... */
static calls_kind last;

static void part(void *user, const calls_part *p) {
    (void)user;
    if (p->kind == CALLS_CALL) text_print(&seen, "|C%d %s ", p->index, p->name);
    else if (!seen.n || last != p->kind) text_put(&seen, p->kind == CALLS_TEXT ? "|T" : "|R");
    text_add(&seen, p->text, p->n);
    last = p->kind;
}

static json_value *tools;

/* The answer in pieces of so many bytes. */
static const char *taken(calls_form form, int thinking, const char *answer, size_t step) {
    calls_reader *r;
    const size_t n = strlen(answer);
    text_clear(&seen);
    if (calls_create(&r, form, tools, thinking, part, NULL, NULL)) return "no memory";
    for (size_t i = 0; i < n; i += step) calls_push(r, answer + i, n - i < step ? n - i : step);
    calls_end(r), calls_destroy(r);
    return seen.data ? seen.data : "";
}

static void same(calls_form form, int thinking, const char *answer, const char *want) {
    for (size_t step = 1; step <= strlen(answer) + 1; step++) {
        const char *got = taken(form, thinking, answer, step);
        if (!CHECK(!strcmp(got, want), "form %d, '%s' in pieces of %d: got '%s', expected '%s'", (int)form, answer,
                   (int)step, got, want))
            return;
    }
}

#define BAR      "\xef\xbd\x9c"
#define GAP      "\xe2\x96\x81"
#define DS(a, b) "<" BAR "tool" GAP a GAP b BAR ">"
#define SEP      "<" BAR "tool" GAP "sep" BAR ">"
#define DSML(x)  BAR "DSML" BAR x
#define KIMI(x)  "<|tool_call" x "|>"

static void test_text(void) {
    SECTION("text and thoughts");
    same(CALLS_NONE, 0, "Hello, <b> you\n", "|THello, <b> you\n");
    same(CALLS_NONE, 0, "  two  ", "|T  two  ");
    same(CALLS_NONE, 0, "", "");
    same(CALLS_NONE, 0, "<think>\nhm\n</think>\n\nYes", "|Rhm|TYes");
    same(CALLS_NONE, 0, "\n<think></think>Yes", "|TYes");
    same(CALLS_NONE, 0, "No <think> in the middle </think>", "|TNo <think> in the middle </think>");
    same(CALLS_NONE, 1, "hm, a < b </thin k </think> Yes <think>", "|Rhm, a < b </thin k|TYes <think>");
    same(CALLS_NONE, 1, "never ends \n", "|Rnever ends");
    same(CALLS_NONE, 0, "<think>a</think>b<think>c", "|Ra|Tb<think>c");
    same(CALLS_NONE, 0, "<tool_call>f</tool_call>", "|T<tool_call>f</tool_call>");
}

static void test_forms(void) {
    mla_error error;
    const char *json =
        "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":{\"s\":{\"type\":"
        "\"string\"},\"n\":{\"type\":\"integer\"}}}}}]";
    CHECK(!json_parse(json, strlen(json), &tools, &error), "%s", error.text);
    SECTION("DeepSeek V3.1, R1");
    same(CALLS_DEEPSEEK, 0,
         "I look.\n" DS("calls", "begin") DS("call", "begin") "f" SEP "{\"a\": 1}" DS("call", "end")
             DS("call", "begin") "g" SEP "{}" DS("call", "end") DS("calls", "end"),
         "|TI look.|C0 f {\"a\": 1}|C1 g {}");
    same(CALLS_DEEPSEEK, 1,
         "hm</think>" DS("calls", "begin") "\n" DS(
             "call", "begin") "function" SEP "f\n```json\n{\"a\": \"```\"}\n```" DS("call", "end")
             DS("calls", "end") " ",
         "|Rhm|C0 f {\"a\": \"```\"}");
    same(CALLS_DEEPSEEK, 0, "a " DS("call", "begin") "f" SEP "{\"a\"", "|Ta");
    SECTION("DeepSeek V3.2");
    same(
        CALLS_DSML, 0,
        "So:\n\n<" DSML("function_calls>") "\n<" DSML("invoke name=\"f\">") "\n<" DSML(
            "parameter name=\"s\" "
            "string=\"true\">") "a "
                                "\"b\"\nc<"
                                "/" DSML(
                                    "pa"
                                    "ra"
                                    "me"
                                    "te"
                                    "r"
                                    ">") "\n<" DSML("parameter name=\"n\" string=\"false\">") "[1, {\"x\": "
                                                                                              "2}]</" DSML(
                                                                                                  "param"
                                                                                                  "eter"
                                                                                                  ">") "\n</" DSML("inv"
                                                                                                                   "oke"
                                                                                                                   ">") "\n"
                                                                                                                        "<" DSML("invoke name=\"g\">") "\n</" DSML(
                                                                                                                            "invoke>") "\n</" DSML("function_calls>"),
        "|TSo:|C0 f {\"s\": \"a \\\"b\\\"\\nc\", \"n\": [1, {\"x\": 2}]}|C1 g {}");
}

static void test_others(void) {
    SECTION("Kimi K2");
    same(CALLS_KIMI, 0,
         "<|tool_calls_section_begin|>" KIMI("_begin") "functions.get.it:0" KIMI("_argument_begin") "{\"a\": 1}" KIMI(
             "_end")
             KIMI("_begin") "functions.f:12" KIMI("_argument_begin") "{}" KIMI("_end") "<|tool_calls_section_end|>",
         "|C0 get.it {\"a\": 1}|C1 f {}");
    SECTION("GLM");
    same(CALLS_GLM, 0,
         "<think></think>\nLet me "
         "see.\n<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>12</arg_value>\n<arg_key>n</arg_key>"
         "<arg_value>12</arg_value><arg_key>t</arg_key><arg_value>free "
         "text</arg_value>\n</tool_call>\n<tool_call>g</tool_call>",
         "|TLet me see.|C0 f {\"s\": \"12\", \"n\": 12, \"t\": \"free text\"}|C1 g {}");
    SECTION("what a call begins with");
    const char *const args[] = {"", "{\"a\": 1}" DS("call", "end"), "</" DSML("invoke>"), "{\"a\": 1}" KIMI("_end"),
                                "<arg_key>n</arg_key><arg_value>1</arg_value></tool_call>"};
    const char *const want[] = {"", "|C0 f {\"a\": 1}", "|C0 f {}", "|C0 f {\"a\": 1}", "|C0 f {\"n\": 1}"};
    for (int form = 1; form < CALLS_FORM_COUNT; form++) {
        char *begin = calls_prefix((calls_form)form, "f"), all[400];
        snprintf(all, sizeof all, "%s%s", begin, args[form]);
        same((calls_form)form, 0, all, want[form]);
        all[strlen(begin) + strlen(args[form]) - 1] = 0; /* half a call */
        same((calls_form)form, 0, all, "");
        same((calls_form)form, 0, begin, "");
        free(begin);
    }
    json_free(tools), tools = NULL;
}

/* What a template shows of its form; marks and their beginnings; calls that are not as their form has them. */
static void test_odd(void) {
    static const char *const templates[] = {"{{ x }}", DS("call", "begin"), DS("call", "begin") DSML("invoke"),
                                            KIMI("_begin"), "<tool_call><arg_key>"};
    static const char *const marks[] = {"", DS("calls", "begin"), "<" DSML("invoke name=\""), KIMI("_argument_begin"),
                                        "<tool_call>"};
    SECTION("forms of templates");
    CHECK(calls_form_of(NULL) == CALLS_NONE, "no template");
    for (int form = 0; form < CALLS_FORM_COUNT; form++)
        CHECK(calls_form_of(templates[form]) == (calls_form)form, "%s is not form %d", templates[form], form);
    SECTION("marks");
    for (int form = 0; form < CALLS_FORM_COUNT; form++) {
        const calls_form f = (calls_form)form;
        CHECK(calls_is_mark(f, "</think>", 8) && calls_is_mark(f, "<th", 3) && !calls_is_mark(f, "", 0), "%d: thoughts",
              f);
        CHECK(!calls_is_mark(f, "<thin ", 6) && !calls_is_mark(f, "think", 5), "form %d: a word is no mark", form);
        CHECK(!form || calls_is_mark(f, marks[form], strlen(marks[form])), "form %d: its mark", form);
        CHECK(!calls_is_mark(f, marks[form % 4 + 1], strlen(marks[form % 4 + 1])), "form %d: another's mark", form);
        CHECK(calls_is_mark(f, DSML(""), strlen(DSML(""))) == (f == CALLS_DSML), "form %d: DSML", form);
    }
    SECTION("calls out of form");
    same(CALLS_KIMI, 0, KIMI("_begin") "f:" KIMI("_argument_begin") "{}" KIMI("_end"), "|C0 f: {}");
    same(CALLS_KIMI, 0, KIMI("_begin") "7" KIMI("_argument_begin") "{}" KIMI("_end"), "|C0 7 {}");
    same(CALLS_KIMI, 0, KIMI("_begin") "functions.f9" KIMI("_end"), "|C0 f9 {}");
    same(CALLS_KIMI, 0, KIMI("_begin") "not.ours.f:3" KIMI("_argument_begin") " " KIMI("_end"), "|C0 not.ours.f {}");
    same(CALLS_DEEPSEEK, 0, DS("call", "begin") "function" SEP "f" DS("call", "end"), "|C0 f {}");
    same(CALLS_DEEPSEEK, 0, DS("call", "begin") "function" SEP "f\n{\"a\": 1}" DS("call", "end"), "|C0 f {\"a\": 1}");
    same(CALLS_DEEPSEEK, 0, DS("call", "begin") "tools" SEP "f" DS("call", "end"), "|C0 tools f");
    const char *const cut[] = {"<" DSML("parameter name=\"s"), "<" DSML("parameter name=\"s\""),
                               "<" DSML("parameter name=\"s\">") "a"};
    for (int i = 0; i < 3; i++) {
        char all[200];
        snprintf(all, sizeof all, "<%s%s</%s", DSML("invoke name=\"f\">"), cut[i], DSML("invoke>"));
        same(CALLS_DSML, 0, all, "|C0 f {}");
    }
    same(CALLS_GLM, 0, "<tool_call>f<arg_key>s</tool_call>", "|C0 f {}");
    same(CALLS_GLM, 0, "<tool_call>f<arg_key>s</arg_key></tool_call>", "|C0 f {}");
    same(CALLS_GLM, 0, "<tool_call>f<arg_key>s</arg_key><arg_value>1</tool_call>", "|C0 f {}");
    same(CALLS_GLM, 0, "<tool_call>f<arg_key> s </arg_key><arg_value>\t1\r</arg_value></tool_call>",
         "|C0 f {\"s\": \t1\r}");
    char *open = calls_prefix(CALLS_GLM, NULL), *begin = calls_prefix(CALLS_KIMI, NULL);
    CHECK(!strcmp(open, "<tool_call>") && !strcmp(begin, "<|tool_calls_section_begin|><|tool_call_begin|>"), "%s %s",
          open, begin);
    free(open), free(begin);
    CHECK(!strcmp(calls_suffix(CALLS_KIMI), KIMI("_end")), "the end of a call");
}

/* ---- requests ---------------------------------------------------------------------------------------------------- */

static tokenizer *bytes_and_marks(void) { /* the id of a byte is that byte; 256.. are <|a|>, <|b|> and </think> */
    static char json[20000];
    tokenizer *t = NULL;
    size_t used = 0;
    int odd = 0;
#define PUT(...) (used += (size_t)snprintf(json + used, sizeof json - used, __VA_ARGS__))
    PUT("{\"added_tokens\":[");
    for (int i = 0; i < 2; i++)
        PUT("%s{\"id\":%d,\"content\":\"<|%c|>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
            "\"normalized\":false,"
            "\"special\":true}",
            i ? "," : "", 256 + i, 'a' + i);
    PUT("],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false},\"decoder\":{"
        "\"type\":"
        "\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    for (int b = 0; b < 256; b++) {
        const int plain = (b > 32 && b < 127) || (b > 160 && b != 173), code = plain ? b : 256 + odd;
        odd += !plain;
        PUT("%s\"\\u%04x\":%d", b ? "," : "", (unsigned)code, b);
    }
    PUT("}}}");
#undef PUT
    mla_error error;
    CHECK(!tokenizer_parse(&t, json, used, "bytes", &error), "%s", error.text);
    return t;
}

static void rendered(const tokenizer *t, const char *source, const char *request, const char *want) {
    chat_own *own;
    chat_tokens ids = {NULL, 0, 0};
    chat_options how;
    mla_error error;
    text_buffer got = {NULL, 0, 0, 0};
    memset(&how, 0, sizeof how);
    if (!CHECK(!chat_open(&own, source, strlen(source), "test", t, &error), "%s", error.text)) return;
    const mla_result rc = chat_render_request(&ids, own, request, strlen(request), &how, &error);
    for (size_t i = 0; !rc && i < ids.n; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(t, ids.ids[i], &n);
        if (ids.ids[i] >= 256) text_print(&got, "[%d]", ids.ids[i]);
        else text_add(&got, bytes, n);
    }
    CHECK(!strcmp(rc         ? error.text
                  : got.data ? got.data
                             : "",
                  want),
          "%s: got '%s', expected '%s'", request, rc ? error.text : got.data, want);
    text_clear(&got), free(ids.ids), chat_close(own);
}

static void test_requests(void) {
    tokenizer *t = bytes_and_marks();
    const char *lines = "{% for m in messages %}<|a|>{{ m.role }}:{{ m.content }}{% endfor %}<|b|>";
    SECTION("requests");
    rendered(t, lines, "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}", "[256]user:hi[257]");
    rendered(t, lines,
             "{\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":"
             "\"text\",\"text\":\"b\"}]}]}",
             "[256]system:ab[257]");
    rendered(t, lines, "{\"messages\":[{\"role\":\"user\",\"content\":\"<|b|> \\u003c|a|>\"}]}",
             "[256]user:<|b|> <|a|>[257]");
    rendered(t, lines, "{\"messages\":[{\"role\":\"user\"}]}", "[256]user:None[257]");
    rendered(t, lines, "{\"messages\":3}", "messages: not a list");
    SECTION("tools");
    const char *calls = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.name }}:{% for k, v in "
                        "c.function.arguments.items() %}{{ k }}={{ v }};{% endfor %}"
                        "{% endfor %}{% endfor %}{% for t in tools %}{{ t | tojson }}{% endfor %}";
    rendered(t, calls,
             "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\","
             "\"arguments\":\"{\\\"z\\\":1,\\\"a\\\":\\\"<|a|>\\\"}\"}}]}],"
             "\"tools\":[{\"z\":1,\"a\":\"\\u003c|b|>\"}]}",
             "f:z=1;a=<|a|>;{\"z\": 1, \"a\": \"<|b|>\"}");
    rendered(t, "{{ messages[0].tool_calls[0].function.arguments + '!' }}",
             "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"{"
             "\\\"a\\\": 1}\"}}]}]}",
             "{\"a\": 1}!");
    rendered(t, "{{ x }}{{ enable_thinking }}",
             "{\"messages\":[],\"chat_template_kwargs\":{\"x\":\"<|a|>\",\"enable_thinking\":true}}", "<|a|>True");
    tokenizer_close(t);
}

int main(void) {
    test_text();
    test_forms();
    test_others();
    test_odd();
    test_requests();
    text_clear(&seen);
    return test_end();
}
