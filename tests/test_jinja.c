/* The interpreter of chat templates. With --render CONVERSATIONS TEMPLATE... it shows what they
   become, for tests/jinja/run.sh. */
#define MLA_IMPLEMENTATION
#include "../mla.h"
#define JINJA_IMPLEMENTATION
#include "jinja.h"
#include "test.h"

/* ---- --render: a line for each template and conversation, = and the text, or ! and the error, as a string of JSON -- */

static void json_line(char sign, const char *text, size_t n) {
    printf("%c\"", sign);
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c < 0x20) printf("\\u%04x", c);
        else putchar(c);
    }
    printf("\"\n");
}

static char *read_all(const char *path, size_t *n) {
    FILE *file = fopen(path, "rb");
    char *text = (char *)malloc(4 << 20);
    *n = file && text ? fread(text, 1, 4 << 20, file) : 0;
    if (file) fclose(file);
    return text;
}

static struct tm a_day(void) { /* Friday, July 26, 2024, 9:05 */
    struct tm day;
    memset(&day, 0, sizeof day);
    day.tm_year = 124, day.tm_mon = 6, day.tm_mday = 26, day.tm_hour = 9, day.tm_min = 5, day.tm_wday = 5;
    day.tm_yday = 207;
    return day;
}

static void render_file(const char *path, const jinja_data *d, const jinja_value *conversations) {
    const struct tm day = a_day();
    jinja_options options;
    jinja_template *t = NULL;
    mla_error error;
    size_t n, length;
    char *source = read_all(path, &n), *text;
    memset(&options, 0, sizeof options);
    options.now = &day;
    if (jinja_parse(&t, source, n, "template", &error)) json_line('!', error.text, strlen(error.text));
    for (size_t i = 0; t && i < jinja_count(conversations); i++) {
        if (jinja_render(t, d, jinja_at(conversations, i), &options, &text, &length, &error))
            json_line('!', error.text, strlen(error.text));
        else json_line('=', text, length), free(text);
    }
    jinja_free(t), free(source);
}

static int render_files(int n, char **paths) { /* the first is the list of conversations */
    jinja_data *d = NULL;
    jinja_value *conversations = NULL;
    mla_error error;
    size_t length;
    char *text = read_all(paths[0], &length);
    if (jinja_data_create(&d, &error) || jinja_json(d, text, length, &conversations, &error)) puts(error.text);
    for (int i = 1; i < n && conversations; i++) render_file(paths[i], d, conversations);
    free(text), jinja_data_destroy(d);
    return conversations == NULL;
}

/* ---- what templates become; Python's jinja2 3.1.6, set up as transformers does, was asked what is right ----------- */

static const char variables[] =
    "{\"a\": 1, \"b\": \"Hello World\", \"l\": [3, 1, 2], \"d\": {\"x\": 1, \"y\": \"z\", \"items\": [1]}, \"n\": "
    "null, "
    "\"f\": 1.5, \"s\": \"  pad \\n\", \"u\": \"größe ЖУК ñ ß\", \"m\": [{\"r\": \"user\", \"c\": \"hi\", \"n\": 2}, "
    "{\"r\": \"bot\", \"c\": \"yo\", \"n\": 1}], \"t\": true, \"e\": [], \"q\": \"it's \\\"q\\\"\"}";

typedef struct example {
    const char *source, *result;
} example;

static const example texts[] = {
    {"{{ a }}", "1"},
    {"{{ a + 1 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1 - -1 }} {{ "
     "-a|abs }}",
     "2 3 -4 2 3.5 1024 0.5 2 1"},
    {"{{ 1.0 }} {{ 1e20 }} {{ 0.1 + 0.2 }} {{ 1e-5 }} {{ 123456789.125 }} {{ 1e16 }} {{ 100000.0 }} {{ -0.5 }} {{ "
     "1_000 }} {{ 0.0001 }}",
     "1.0 1e+20 0.30000000000000004 1e-05 123456789.125 1e+16 100000.0 -0.5 1000 0.0001"},
    {"{{ l }} {{ d }} {{ (1,) }} {{ (1,2) }} {{ n }} {{ t }} {{ [n, t, 'a\\'b', \"x\\n\", 1.5] }} {{ () }}",
     "[3, 1, 2] {'x': 1, 'y': 'z', 'items': [1]} (1,) (1, 2) None True [None, True, \"a'b\", 'x\\n', 1.5] ()"},
    {"{{ q }} {{ [q] }} {{ ['\"'] }}", "it's \"q\" ['it\\'s \"q\"'] ['\"']"},
    {"{{ missing }}|{{ missing|default('x') }}|{{ n|default('x') }}|{{ n|default('x', true) }}|{{ ''|d('y', "
     "boolean=true) }}",
     "|x|None|x|y"},
    {"{{ n.foo }}|{{ n['foo'] }}|{{ a.b }}|{{ d.zzz }}", "|||"},
    {"{{ d['items'] }} {{ d.x }} {{ d['y'] }} {{ d.get('q', 5) }} {{ d.get('q') }}", "[1] 1 z 5 None"},
    {"{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "x=1;y=z;items=[1];"},
    {"{% for k in d %}{{ k }}{% if not loop.last %},{% endif %}{% endfor %}", "x,y,items"},
    {"{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ "
     "loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }}{{ loop.depth0 }} {% endfor "
     "%}",
     "1032TrueFalse3110 2121FalseFalse33210 3210FalseTrue3110 "},
    {"{% for x in l if x > 1 %}{{ x }}{{ loop.index }}{% else %}none{% endfor %}", "3122"},
    {"{% for x in l if x > 9 %}{{ x }}{% else %}none{% endfor %}", "none"},
    {"{% for x in missing %}x{% else %}empty{% endfor %}", "empty"},
    {"{% for c in b %}{{ c }}-{% endfor %}", "H-e-l-l-o- -W-o-r-l-d-"},
    {"{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "32"},
    {"{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}", "3"},
    {"{% for x in l %}{{ loop.cycle('a','b') }}{{ loop.changed(x > 1) }}{% endfor %}", "aTruebTrueaTrue"},
    {"{% for x in range(3) %}{% if y is defined %}Y{% endif %}{% set y = 1 %}{% endfor %}{{ y is defined }}", "False"},
    {"{% set x = 1 %}{% for i in [1,2] %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}", "221"},
    {"{% set ns = namespace(k=0) %}{% for i in [1,2] %}{% set ns.k = ns.k + i %}{% endfor %}{{ ns.k }}", "3"},
    {"{% set ns = namespace() %}{% set ns.a = 'x' %}{{ ns.a }}{{ ns.b is defined }}", "xFalse"},
    {"{% set ns = namespace({'q': 1}, z=2) %}{{ ns.q }}{{ ns.z }}", "12"},
    {"{% set a, c = 1, 2 %}{{ a }}{{ c }}", "12"},
    {"{% set z %}  block {{ a }} {% endset %}[{{ z }}]", "[  block 1 ]"},
    {"{% set z | upper | trim %} block {% endset %}[{{ z }}]", "[BLOCK]"},
    {"{% if a == 1 and b %}yes{% elif a %}no{% else %}else{% endif %}", "yes"},
    {"{% if a != 1 %}yes{% elif a == 1 %}elif{% else %}else{% endif %}", "elif"},
    {"{% if n %}a{% elif missing %}b{% else %}c{% endif %}", "c"},
    {"{% if not a is defined %}u{% else %}d{% endif %}", "d"},
    {"{{ 'x' if a else 'y' }} {{ 'x' if n }} {{ 'x' if n else 'y' if a else 'z' }}", "x  y"},
    {"{{ 1 < 2 < 3 }} {{ 1 < 2 > 3 }} {{ 1 in l }} {{ 9 not in l }} {{ 'lo' in b }} {{ 'x' in d }} {{ a in missing }}",
     "True False True True True True False"},
    {"{{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1,2] < [1,3] }} {{ n == none }} {{ l == [3,1,2] }} {{ {'a':1} "
     "== {'a':1.0} }}",
     "True True True True True True True"},
    {"{{ '' * 555555555554 }}{{ ([] * 555555555554)|length }}", "0"}, /* nothing, however often, at once */
    {"{{ 'a' ~ 1 ~ n ~ true ~ l }} {{ 'a' + 'b' }} {{ [1] + [2] }} {{ 'ab' * 3 }} {{ [0] * 2 }}",
     "a1NoneTrue[3, 1, 2] ab [1, 2] ababab [0, 0]"},
    {"{{ b|upper }} {{ b|lower }} {{ u|upper }} {{ u|lower }} {{ 'hello wORLD-foo (bar'|title }} {{ 'hELLO "
     "x'|capitalize }} {{ \"they're\".title() }}",
     "HELLO WORLD hello world GRÖSSE ЖУК Ñ SS größe жук ñ ß Hello World-Foo (Bar Hello x They'Re"},
    {"[{{ s|trim }}] [{{ s.strip() }}] [{{ s.lstrip() }}] [{{ s.rstrip() }}] [{{ 'xxaxx'.strip('x') }}] [{{ "
     "'\\n\\na\\n'.lstrip('\\n') }}] [{{ 'xyax'|trim('xy') }}]",
     "[pad] [pad] [pad \n] [  pad] [a] [a\n] [a]"},
    {"{{ b|length }} {{ u|length }} {{ l|length }} {{ d|length }} {{ l|count }} {{ missing|length }}", "11 13 3 3 3 0"},
    {"{{ b[0] }} {{ b[-1] }} {{ u[2] }} {{ b[1:3] }} {{ b[:-1] }} {{ b[::-1] }} {{ u[::-1] }} {{ u[1:5] }} {{ l[::-1] "
     "}} {{ l[1:] }} {{ l[-2:] }} {{ l[5:] }} {{ l[9] }} {{ b[::2] }} {{ b[8:2:-2] }} {{ l[-9:9] }} {{ l[9:-9:-1] }}",
     "H d ö el Hello Worl dlroW olleH ß ñ КУЖ eßörg röße [2, 1, 3] [1, 2] [1, 2] []  HloWrd rWo [3, 1, 2] [2, 1, 3]"},
    {"{{ b.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ ' a  b '.split() }} {{ ' a  b c "
     "'.split(none, 1) }} {{ 'a.b.c'.rsplit('.', 1) }} {{ 'a\\nb\\r\\nc'.splitlines() }} {{ ''.split() }} {{ "
     "''.split(',') }} {{ 'a<t>b'.split('<t>')[-1] }}",
     "['Hello', 'World'] ['a', 'b', '', 'c'] ['a', 'b,c'] ['a', 'b'] ['a', 'b c '] ['a.b', 'c'] ['a', 'b', 'c'] [] "
     "[''] b"},
    {"{{ b.startswith('He') }} {{ b.endswith('ld') }} {{ b.startswith(('x','H')) }} {{ b.replace('l','L') }} {{ "
     "b.replace('l','L',1) }} {{ b|replace('o','0') }} {{ 'ab'.replace('','-') }} {{ b.find('o') }} {{ b.rfind('o') }} "
     "{{ b.count('l') }} {{ b.find('zz') }} {{ b.upper().lower() }}",
     "True True True HeLLo WorLd HeLlo World Hell0 W0rld -a-b- 4 7 3 -1 hello world"},
    {"{{ l|first }} {{ l|last }} {{ l|sort }} {{ l|sort(reverse=true) }} {{ l|reverse|list }} {{ l|join(', ') }} {{ "
     "m|join('|', attribute='c') }} {{ l|sum }} {{ l|min }} {{ l|max }} {{ e|first }} {{ m|sum(attribute='n') }} {{ "
     "b|first }} {{ b|reverse }}",
     "3 2 [1, 2, 3] [3, 2, 1] [2, 1, 3] 3, 1, 2 hi|yo 6 1 3  3 H dlroW olleH"},
    {"{{ m|map(attribute='c')|list }} {{ l|map('string')|list }} {{ ['a','b']|map('upper')|join }} {{ "
     "['ab','b']|map('replace','a','x')|list }} {{ m|map(attribute='zz', default='q')|list }}",
     "['hi', 'yo'] ['3', '1', '2'] AB ['xb', 'b'] ['q', 'q']"},
    {"{{ m|selectattr('r','equalto','user')|list|length }} {{ m|selectattr('r')|list|length }} {{ "
     "m|rejectattr('r','eq','user')|map(attribute='c')|first }} {{ l|select('gt', 1)|list }} {{ l|reject('odd')|list "
     "}} {{ m|selectattr('zz','undefined')|list|length }} {{ m|selectattr('n','in',[1])|map(attribute='r')|list }} {{ "
     "m|selectattr('r','==','bot')|list|length }} {{ [0,1]|select|list }}",
     "1 2 yo [3, 2] [2] 2 ['bot'] 1 [1]"},
    {"{{ [1,1,2,'a','A']|unique|list }} {{ ['b','A','c']|sort }} {{ ['b','A','c']|sort(case_sensitive=true) }} {{ "
     "m|sort(attribute='n')|map(attribute='c')|list }} {{ d|dictsort|map('first')|list }} {{ {'b':1,'a':2}|dictsort }} "
     "{{ {'b':1,'a':2}|dictsort(by='value') }} {{ {'b':1,'A':2}|dictsort(true) }} {{ {'b':1,'a':2}|dictsort(false, "
     "'value', true) }}",
     "[1, 2, 'a'] ['A', 'b', 'c'] ['A', 'b', 'c'] ['yo', 'hi'] ['items', 'x', 'y'] [('a', 2), ('b', 1)] [('b', 1), "
     "('a', 2)] [('A', 2), ('b', 1)] [('a', 2), ('b', 1)]"},
    {"{{ 'x\\ny\\n\\nz'|indent }} {{ 'x\\ny\\n\\nz'|indent(2, true) }} {{ 'x\\ny\\n\\nz'|indent(2, blank=true) }} {{ "
     "'x\\ny'|indent('> ') }} {{ 'x\\n'|indent(first=true) }}",
     "x\n    y\n\n    z   x\n  y\n\n  z x\n  y\n  \n  z x\n> y     x\n"},
    {"{{ '12'|int }} {{ 'x'|int }} {{ '3.7'|int }} {{ 3.9|int }} {{ 'ff'|int(0, 16) }} {{ '1.5'|float }} {{ 'x'|float "
     "}} {{ 2|float }} {{ ' 7 '|int }} {{ 'x'|int(default=4) }}",
     "12 0 3 3 255 1.5 0.0 2.0 7 4"},
    {"{{ 2.567|round }} {{ 2.567|round(2) }} {{ 2.5|round }} {{ 3.5|round }} {{ 2.1|round(0,'ceil') }} {{ "
     "2.9|round(method='floor') }} {{ 42|round }} {{ -3|abs }} {{ -3.5|abs }}",
     "3.0 2.57 2.0 4.0 3.0 2.0 42 3 3.5"},
    {"{{ l|batch(2)|list }} {{ l|batch(2, 0)|list }} {{ '<a&\"\\'>'|e }} {{ 'a b  c'|wordcount }} {{ b|safe }} {{ "
     "'%s-%d'|format('x', 3) }} {{ '%s%%' % 'x' }} {{ '%s %s' % ('a', 1) }} {{ '{} {} {{}}'.format(1, 'b') }} {{ '{0} "
     "{k}'.format(1, k=2) }} {{ 3|string + 'x' }} {{ l|string }}",
     "[[3, 1], [2]] [[3, 1], [2, 0]] &lt;a&amp;&#34;&#39;&gt; 3 Hello World x-3 x% a 1 1 b {} 1 2 3x [3, 1, 2]"},
    {"{{ d|tojson }} {{ u|tojson }} {{ u|tojson(ensure_ascii=true) }} {{ '😀\\x7f\\x01'|tojson(ensure_ascii=true) }} {{ "
     "d|tojson(indent=2) }} {{ d|tojson(indent=0) }} {{ []|tojson(indent=2) }} {{ {}|tojson }} {{ "
     "d|tojson(separators=(',',':')) }} {{ {'b':1,'a':[1,{'z':none,'y':true}]}|tojson(sort_keys=true) }} {{ "
     "'/\"\\\\\\b\\f\\n\\r\\t<>&\\''|tojson }} {{ 1.0|tojson }} {{ [1.5, none, true]|tojson }} {{ 'a'|tojson }} {{ "
     "d|tojson(4) }} {{ {'a':{'b':[1,2]}}|tojson(indent=4, separators=(', ',':')) }}",
     "{\"x\": 1, \"y\": \"z\", \"items\": [1]} \"größe ЖУК ñ ß\" \"gr\\u00f6\\u00dfe \\u0416\\u0423\\u041a \\u00f1 "
     "\\u00df\" \"\\ud83d\\ude00\\u007f\\u0001\" {\n  \"x\": 1,\n  \"y\": \"z\",\n  \"items\": [\n    1\n  ]\n} "
     "{\n\"x\": 1,\n\"y\": \"z\",\n\"items\": [\n1\n]\n} [] {} {\"x\":1,\"y\":\"z\",\"items\":[1]} {\"a\": [1, {\"y\": "
     "true, \"z\": null}], \"b\": 1} \"/\\\"\\\\\\b\\f\\n\\r\\t<>&'\" 1.0 [1.5, null, true] \"a\" {\"x\": 1, \"y\": "
     "\"z\", \"items\": [1]} {\n    \"a\":{\n        \"b\":[\n            1, \n            2\n        ]\n    }\n}"},
    {"{{ a is number }} {{ a is integer }} {{ f is float }} {{ f is number }} {{ t is boolean }} {{ t is number }} {{ "
     "b is string }} {{ d is mapping }} {{ l is sequence }} {{ l is iterable }} {{ b is iterable }} {{ d is sequence "
     "}} {{ n is none }} {{ a is not none }} {{ t is true }} {{ t is false }} {{ 4 is even }} {{ 4 is odd }} {{ 4 is "
     "divisibleby 2 }} {{ 4 is divisibleby(3) }} {{ a is in [1] }} {{ a is not in l }} {{ a is eq 1 }} {{ 'a' is lower "
     "}} {{ 'A' is upper }} {{ missing is defined }} {{ d.zz is undefined }} {{ a is equalto(1) }} {{ 3 is ge 2 }} {{ "
     "range is callable }} {{ missing is iterable }} {{ n is iterable }}",
     "True True True True True True True True True True True True True True True False True False True False True "
     "False True True True False True True True True True False"},
    {"{% macro f(x, y='d', z=x) %}[{{ x }}{{ y }}{{ z }}]{% endmacro %}{{ f(1) }}{{ f(1,2) }}{{ f(y=3,x=4) }}{{ f() }}",
     "[1d1][121][434][d]"},
    {"{% macro f(x) %}{% if x > 0 %}{{ x }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(4) }}", "4321"},
    {"{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, k=3) }}", "(1, 2){'k': 3}"},
    {"{% macro w(t) %}<{{ t }}>{{ caller() }}</{{ t }}>{% endmacro %}{% call w('b') %}in {{ a }}{% endcall %}",
     "<b>in 1</b>"},
    {"{% macro w(t) %}{{ caller(1, y=2) }}{% endmacro %}{% call(x, y) w('b') %}{{ x }}{{ y }}{% endcall %}", "12"},
    {"{% macro f(x) -%} a {{ x }} {%- endmacro %}[{{ f('q') ~ 'z' }}]{{ f(1)|upper }}", "[a qz]A 1"},
    {"{% set v = 1 %}{% macro f() %}{{ v }}{% endmacro %}{% set v = 2 %}{{ f() }}", "2"},
    {"{% for v in [5] %}{% macro f() %}{{ v }}{% endmacro %}{{ f() }}{% endfor %}", "5"},
    {"{% macro f() %}{{ v }}{% endmacro %}{% for v in [5] %}{{ f() }}{% endfor %}", ""},
    {"{% filter upper %}abc {{ b }}{% endfilter %}", "ABC HELLO WORLD"},
    {"{% with x = 1, y = 2 %}{{ x }}{{ y }}{% endwith %}{{ x }}", "12"},
    {"{% generation %}gen {{ a }}{% set inner = 1 %}{% endgeneration %}{{ inner is defined }}", "gen 1False"},
    {"{% raw %}{{ raw }} {% x %}{% endraw %}after", "{{ raw }} {% x %}after"},
    {"a {%- raw -%} {{ x }} {%- endraw -%} b", "a{{ x }}b"},
    {"{# comment #}x{#- c -#} y", "xy"},
    {"{{ range(3)|list }} {{ range(1,4)|list }} {{ range(5,0,-2)|list }} {{ range(0)|list }}",
     "[0, 1, 2] [1, 2, 3] [5, 3, 1] []"},
    {"{{ dict(a=1, b='x') }} {{ dict({'q':1}, r=2) }}", "{'a': 1, 'b': 'x'} {'q': 1, 'r': 2}"},
    {"{{ strftime_now('%d %b %Y %H:%M %B %A %%') }}", "26 Jul 2024 09:05 July Friday %"},
    {"{{ {'a': {'b': 1}} }} {{ {'a': 1, } }} {{ [1, 2, ] }} {{ {'a':1}['a'] }}", "{'a': {'b': 1}} {'a': 1} [1, 2] 1"},
    {"{{ \"a\" \"b\" 'c' }} {{ '\\x41\\u00e9\\101\\q' }}", "abc AéA\\q"},
    {"{{ 'a' is string and not 'b' is number or false }} {{ not true }} {{ not not 1 }}", "True False True"},
    {"{{ (1, 2)[0] }} {{ [[1,2],[3]][0][1] }} {{ l.0 }} {{ m.0.c }} {{ m[0].c }} {{ m[0]['c'] }}", "1 2 3 hi hi hi"},
    {"{{ 1 if true }}{{ -1 }}{{ +1 }}{{ - 1 }}{{ 2-1 }}{{ a-1 }}{{ (2)*3 }}{{ 2*3+4 }}{{ 2+3*4 }}{{ 2**3**2 }}{{ -2**2 "
     "}}",
     "1-11-11061014644"},
    {"{% set q = [1] %}{{ q.index(1) }}{{ q.count(1) }}", "01"},
    {"{{ 'a'.isdigit() }} {{ '12'.isdigit() }} {{ ' '.isspace() }} {{ 'ab'.isalpha() }} {{ 'a1'.isalnum() }} {{ "
     "'a'.islower() }} {{ 'A'.isupper() }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ "
     "'-'.join(['a','b']) }}",
     "False True True True True True True bc ab a-b"},
    {"{{ d.keys()|list }} {{ d.values()|list }} {{ d|items|list }}",
     "['x', 'y', 'items'] [1, 'z', [1]] [('x', 1), ('y', 'z'), ('items', [1])]"},
    {"{{ a, b }}", "(1, 'Hello World')"},
    {"{% for (k, v) in d.items() %}{{ k }}{% endfor %}", "xyitems"},
    {"{% for x in 1, 2 %}{{ x }}{% endfor %}", "12"},
    {"{% for x in (l if a else m) %}{{ x }}{% endfor %}", "312"},
    {"b' }}", "b' }}"},
    {"{{ 'ß'|upper }} {{ 'ẞ'|lower }} {{ 'ÿ'|upper }} {{ 'Ÿ'|lower }} {{ 'Жѳ'|upper }} {{ 'K'|lower }}",
     "SS ß Ÿ ÿ ЖѲ k"},
    {"a\n{% if a %}\n  b\n{% endif %}\nc\n", "a\n  b\nc"},
    {"  {% if a %}  x\n  {% endif %}  y", "  x\n  y"},
    {"  {%- if a -%}  x  {%- endif -%}  y", "xy"},
    {"  {%+ if a %}x{% endif +%}\ny", "  x\ny"},
    {"{{ a }}\n\n", "1\n"},
    {"x\n", "x"},
    {"x\n\n", "x\n"},
    {" {{- a -}} \n b", "1b"},
    {"\t{# c #}\n\tx", "\tx"},
    {"{% if a %}\r\nx\r\n{% endif %}\ry", "x\ny"},
    {"  {{ a }}\n  {#- c #}\n z", "  1 z"},
    {"{% for x in l %}\n    {{ x }}\n{% endfor %}\n", "    3\n    1\n    2\n"},
    {"{% for x in l -%}\n    {{ x }}\n{%- endfor %}\n", "312"},
    {"a {% set x %}\n q\n {% endset %}\n{{ x }}", "a  q\n"},
    {"{% raw %}\n  x\n  {% endraw %}\n y", "\n  x\n y"},
    {"  {% raw %}x{% endraw %}\n", "x"},
    {"{% if a %}\n\n\n x{% endif %}", "\n\n x"},
    {"{{ 'a' }}  {%- if a %}\n  b {% endif %}", "a  b "},
    {"x  {%+ if a %} y {%+ endif %}\n", "x   y "},
    {"{{ a -}}\n  {% if a %}z{% endif %}", "1z"},
    {"{% if a -%}\n\n  {% if a %}z{% endif %}{% endif %}", "z"},
    {"\n{% if a %}x{% endif %}", "\nx"},
    {"{#- x -#}\n  {% if a %}q{% endif %}", "q"},
    {"a{#+ x +#}\nb", "a\nb"},
    {"{{ 7.5 % 2 }} {{ -7.5 % 2 }} {{ 7.5 // 2 }} {{ 1.5 - 1 }} {{ 1.5 * 2 }} {{ 2.0 ** 3 }} {{ 3 / 1.5 }} {{ -4 // -1 "
     "}} {{ 5 % -1 }} {{ 3 * 'ab' }} {{ 2 * [1] }} {{ 0 ** 0 }} {{ (-1) ** 2 }} {{ (-1) ** 3 }}",
     "1.5 0.5 3.0 0.5 3.0 8.0 2.0 4 0 ababab [1, 1] 1 1 -1"},
    {"{{ 1.5 < 2 }} {{ 2 <= 1.5 }} {{ 1 <= 1 }} {{ 'a' <= 'b' }} {{ [1] < [1, 2] }} {{ (1, 2) > (1, 1) }} {{ 'ab' > "
     "'a' }} {{ 3 is ne 4 }} {{ 3 is le 3 }} {{ 3 is lt 3 }} {{ 3 is ge 4 }}",
     "True False True True True True True True True False False"},
    {"{% if 0.0 %}a{% endif %}{% if f %}b{% endif %}{% if d %}c{% endif %}{% if {} %}d{% endif %}{% if (1,) %}e{% "
     "endif %}{% if b.upper %}f{% endif %}{% if [] or () %}g{% endif %}",
     "bcef"},
    {"{% macro f(x, y=0) %}{{ x }}{{ y }};{% endmacro %}{{ f(*l[:2]) }}{{ f(*[1], **{'y': 5}) }}{{ f(**{'x': 7}) }}{{ "
     "[3, 4]|join(*['-']) }}",
     "31;15;70;3-4"},
    {"{{ ['a\\x01\\x7f\\t\\\\'] }}", "['a\\x01\\x7f\\t\\\\']"},
    {"{{ 1e308 * 10 }} {{ -1e308 * 10 }} {{ 1e308 * 10 - 1e308 * 10 }}", "inf -inf nan"},
    {"{{ 'āőў'|upper }} {{ 'ĀŐЎ'|lower }}", "ĀŐЎ āőў"},
    {"{{ m|map(attribute='c.0')|join }} {{ m|map(attribute='c')|map('length')|list }} {{ [[1, 2], [3, "
     "4]]|map(attribute=1)|list }}",
     "hy [2, 2] [2, 4]"},
    {"{{ d|tojson(separators=(',', ':')) }} {{ [1, {'b': 2, 'a': 1}]|tojson(indent=2, sort_keys=true) }}",
     "{\"x\":1,\"y\":\"z\",\"items\":[1]} [\n  1,\n  {\n    \"a\": 1,\n    \"b\": 2\n  }\n]"},
    {"{{ 2.5|round(method='floor') }} {{ 7|round(1, 'ceil') }} {{ 7|round }} {{ 1.005|round(2) }}", "2.0 7.0 7 1.0"},
    {"{{ missing|items|list }} {{ missing|first is defined }} {{ ''|first is defined }} {{ [1.5, 2]|sum }} {{ [[1], "
     "[2]]|sum(start=[]) }} {{ m|sum(attribute='n') }}",
     "[] False False 3.5 [1, 2] 3"},
    {"{{ 'x' in {'x': 1} }} {{ 1 in {'x': 1} }} {{ 1.0 in l }} {{ none in [none] }} {{ (1, 2) == (1, 2) }} {{ {'a': 1} "
     "== {'a': 1.0} }} {{ {'a': 1} == {'b': 1} }} {{ [1] == (1,) }}",
     "True False True True True True False False"},
    {"{{ -f }} {{ +f }} {{ -true }} {{ -(-3) }} {{ --2 }}", "-1.5 1.5 -1 3 2"},
    {"{{ l[1:] }} {{ l[::2] }} {{ (1, 2, 3)[::-1] }} {{ l[5:] }} {{ l[-2:9] }} {{ b[::3] }} {{ l[none:2] }}",
     "[1, 2] [3, 2] (3, 2, 1) [] [1, 2] HlWl [3, 1]"},
    {"{{ 'a-b-c'.rsplit('-', 1) }} {{ 'a-b-c'.rsplit('-') }} {{ 'a b'.rsplit() }}",
     "['a-b', 'c'] ['a', 'b', 'c'] ['a', 'b']"},
    {"{{ 'abc'[1] }}{{ 'abc'[-1] }}{{ 'abc'[9] is defined }}{{ l[9] is defined }}{{ d[0] is defined }}{{ (1, 2)['x'] "
     "is defined }}",
     "bcFalseFalseFalseFalse"},
    /* what Python's sandbox forbids, and other interpreters of templates allow */
    {"{% set x = [1] %}{% set _ = x.append('y') %}{{ x }}", "[1, 'y']"},
    {"{{ '\\ud83d\\ude00' }}{{ '\\ud83d' }}", "\xf0\x9f\x98\x80\xef\xbf\xbd"},
};

/* where a template is refused, and why */
static const example refusals[] = {
    {"{{ missing.foo }}", "template:1:4: 'missing' is undefined"},
    {"{{ missing + 'a' }}", "template:1:4: 'missing' is undefined"},
    {"{% for x in 5 %}{% endfor %}", "template:1:13: an integer has no items to go over"},
    {"{% set d.x = 1 %}", "template:1:8: 'd' is no namespace"},
    {"{% set a, c = [1] %}", "template:1:8: 2 names for 1 items"},
    {"{{ 1 < 'a' }}", "template:1:6: an integer and a string have no order"},
    {"{{ 'a' ~ 1 + 2 }}", "template:1:4: a string + an integer has no meaning"},
    {"{{ 'a' + 1 }}", "template:1:4: a string + an integer has no meaning"},
    {"{{ a|length }}", "template:1:6: an integer has no length"},
    {"{{ missing|tojson }}", "template:1:12: tojson: something undefined is no JSON"},
    {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "template:1:34: f: 2 arguments, at most 1 are taken"},
    {"{% macro f(a) %}{% endmacro %}{{ f(b=2) }}", "template:1:34: f: no argument 'b' is known"},
    {"{{ raise_exception('bad thing') }}", "template:1:4: bad thing"},
    {"{{ foo() }}", "template:1:4: 'foo' is undefined"},
    {"{{ b.nope() }}", "template:1:4: no method 'nope' is known"},
    {"{{ b|nope }}", "template:1:6: no filter 'nope' is known"},
    {"{{ b is nope }}", "template:1:9: no test 'nope' is known"},
    {"{% include 'x' %}", "template:1:4: no statement 'include' is known"},
    {"{% endif %}", "template:1:4: 'endif', expected something else before it"},
    {"{% if a %}", "template:1:11: the template ends, expected elif else endif"},
    {"{% for x in l %}", "template:1:17: the template ends, expected endfor else"},
    {"{{ 'abc }}", "template:1:4: the string does not end"},
    {"{{ a b }}", "template:1:6: 'b', expected }}"},
    {"{{ }}", "template:1:4: '}}', expected an expression"},
    {"{{ a | }}", "template:1:8: '}}', expected the name of a filter"},
    {"{{ a. }}", "template:1:7: '}}', expected a name"},
    {"{% set 1 = 2 %}", "template:1:8: '1', expected a name to assign to"},
    {"{% set true = 2 %}", "template:1:8: 'true', expected a name to assign to"},
    {"{{ [1, 2 }}", "template:1:11: unexpected '}'"},
    {"{{ 1 // 0 }}", "template:1:4: division by zero"},
    {"{{ 1 % 0 }}", "template:1:4: division by zero"},
    {"{{ l.append(1) }}", "template:1:4: append: to a list that the template has not made"},
    {"{% for a, b in [[1,2],[3]] %}{{ a }}{% endfor %}", "template:1:8: 2 names for 1 items"},
    {"{{ l|map('nope')|list }}", "template:1:6: map: no 'nope' is known"},
    {"{{ f|nope }}", "template:1:6: no filter 'nope' is known"},
    {"{{ x.y.z }}", "template:1:4: 'x' is undefined"},
    {"a\n  {{ d.q.z }}", "template:2:6: 'q' is undefined"},
    {"\n\nä {{ 'x' | trim | oops }}", "template:3:19: no filter 'oops' is known"},
    {"{% for x in l recursive %}{% endfor %}", "template:1:15: recursive loops are not known"},
    {"{% break %}", "template:1:4: 'break' is in no loop"},
    {"{% for x in l %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}", "template:1:35: 'break' is in no loop"},
    {"{# x", "template:1:1: the comment does not end"},
    {"{% raw %}{{ x }}", "template:1:1: {% raw %} has no {% endraw %}"},
    {"{{ a", "template:1:1: {{ has no end"},
    {"{{ a ? b }}", "template:1:6: unexpected character '?'"},
    {"{{ '\\xzz' }}", "template:1:5: an escape that is not known"},
    {"{{ 9223372036854775807 + 1 }}", "template:1:4: a number of more than 64 bits"},
    {"{{ -9223372036854775807 - 2 }}", "template:1:4: a number of more than 64 bits"},
    {"{{ 4294967296 * 4294967296 }}", "template:1:4: a number of more than 64 bits"},
    {"{{ 99999999999999999999 }}", "template:1:4: a number of more than 64 bits"},
    {"{{ 3 ** 99 }}", "template:1:4: a number of more than 64 bits"},
    {"{{ {1: 2} }}", "template:1:5: a key that is an integer, not a string"},
    {"{{ b.format }}", "template:1:4: a function cannot be printed"},
    {"{{ b() }}", "template:1:4: a string cannot be called"},
    {"{{ b|join(1) }}", "template:1:6: join: d is an integer, not a string"},
    {"{{ b|replace('a') }}", "template:1:6: replace: 1 arguments are too few"},
    {"{{ b|trim('a', 'b') }}", "template:1:6: trim: 2 arguments are too many"},
    {"{{ l|join(separator=',') }}", "template:1:6: join: no argument 'separator' is known"},
    {"{{ l|sort|map(x='y')|list }}", "template:1:11: map: neither a filter nor an attribute"},
    {"{{ [1, 'a']|sort }}", "template:1:13: an integer and a string have no order"},
    {"{{ '{:>4}'.format(a) }}", "template:1:4: format: '{:>4}' is not known"},
    {"{{ '%5d' % a }}", "template:1:4: format: only %s and %d are known"},
    {"{{ strftime_now('%Q') }}", "template:1:4: strftime_now: %Q is not known"},
    {"{{ raise_exception('two\nlines \x1b[0m') }}", "template:1:4: two lines ?[0m"},
    {"{% macro f(x) %}{{ x.y }}{% endmacro %}{{ f() }}", "template:1:20: 'x' is undefined"},
    {"{% extends 'x' %}", "template:1:4: no statement 'extends' is known"},
    {"{{ f(*5) }}", "template:1:6: an integer has no items to go over"},
    {"{% call a %}x{% endcall %}", "template:1:9: expected a call"},
    {"{{ 1 in 5 }}", "template:1:6: an integer in an integer has no meaning"},
    {"{{ (-9223372036854775807 - 1) // -1 }}", "template:1:5: a number of more than 64 bits"},
    {"{{ (-8.0) ** 0.5 }}", "template:1:5: the power is not a number"},
    {"{{ 1.5 / 0 }}", "template:1:4: division by zero"},
    {"{{ 1.5 % 0.0 }}", "template:1:4: division by zero"},
    {"{{ 0 ** -1 }}", "template:1:4: division by zero"},
    {"{{ missing[1] }}", "template:1:4: 'missing' is undefined"},
    {"{{ (none).x.y }}", "template:1:5: 'x' is undefined"},
    {"{{ l['a':] }}", "template:1:4: a bound of a slice is no integer"},
    {"{{ dict(**5) }}", "template:1:9: ** of an integer"},
    {"{% macro f(x) %}{% endmacro %}{{ f(1, x=2) }}", "template:1:34: f: argument 'x' is given twice"},
    {"{{ -b }}", "template:1:4: a sign before a string"},
    {"{{ b|indent('x', first=1.5)|center(none) }}", "template:1:29: no filter 'center' is known"},
    {"{{ l|batch('x') }}", "template:1:6: batch: linecount is a string, not an integer"},
    {"{{ m|map(attribute=1.5)|list }}", "template:1:6: map: an attribute that is a float"},
    {"{{ d|tojson(indent='x') }}", "template:1:6: tojson: indent is a string"},
    {"{{ d|tojson(separators=',') }}", "template:1:6: tojson: separators are not two strings"},
    {"{{ b|round }}", "template:1:6: round: a string, to 0 digits"},
    {"{{ f|round(99) }}", "template:1:6: round: a float, to 99 digits"},
    {"{{ f|round(1, 'near') }}", "template:1:6: round: the method is not common, ceil or floor"},
    {"{{ a|items }}", "template:1:6: items of an integer"},
    {"{{ '%d' % b }}", "template:1:4: format: %d of a string"},
    {"{{ '%s' % (1, 2) }}", "template:1:4: format: too many arguments"},
    {"{{ '%s %s' % 1 }}", "template:1:4: format: too few arguments"},
    {"{{ 'a' is in 5 }}", "template:1:11: a string in an integer has no meaning"},
    {"{{ 'a b'.rsplit(none, 1) }}", "template:1:4: rsplit: at spaces, with a number of splits"},
    {"{{ 'ab'.split('') }}", "template:1:4: split: the separator is no string, or empty"},
    {"{{ b.split(1) }}", "template:1:4: split: the separator is no string, or empty"},
    {"{{ [1]|join({}) }}", "template:1:8: join: d is a dict, not a string"},
    {"{{ 5|join }}", "template:1:6: an integer has no items to go over"},
    {"{{ l.index(9) }}", "template:1:4: index: the value is not in the list"},
    {"{{ range(999999999) }}", "template:1:4: range: more than 100000 numbers"},
    {"{{ dict([1]) }}", "template:1:4: dict: of what are no pairs of a string and a value"},
    {"{{ dict([[1, 2]]) }}", "template:1:4: dict: of what are no pairs of a string and a value"},
    {"{{ strftime_now('%Y' * 99) }}", "template:1:4: strftime_now: a format of more than 126 bytes"},
    {"{{ strftime_now('a\\x00') }}", "template:1:4: strftime_now: a format with a NUL"},
    {"{{ f() }}", "template:1:4: a float cannot be called"},
    {"{{ [1, 2]|sum(start='a') }}", "template:1:11: a string + an integer has no meaning"},
    {"{{ 1|first }}", "template:1:6: an integer has no items to go over"},
    {"{{ 5|sort }}", "template:1:6: an integer has no items to go over"},
    {"{{ 'a'.startswith(1) }}", "template:1:4: startswith: of an integer"},
    {"{{ 'a'.replace(1, 2) }}", "template:1:4: replace: old is an integer, not a string"},
    {"{{ 'a'|replace(1, 2) }}", "template:1:8: replace: old is an integer, not a string"},
    {"{{ namespace(1) }}", "template:1:4: an integer has no items to go over"},
    {"{{ d.get() }}", "template:1:4: get: 0 arguments are too few"},
    {"{{ l.append() }}", "template:1:4: append: 0 arguments are too few"},
    {"{% for a in l %}{{ loop.cycle() }}{% endfor %}", "template:1:20: cycle: 0 arguments are too few"},
    {"{{ range() }}", "template:1:4: range: 0 arguments are too few"},
    {"{{ range(1, 2, 0) }}", "template:1:4: range: the step is 0"},
    {"{{ range('a') }}", "template:1:4: range: stop is a string, not an integer"},
    {"{{ l|unique(attribute=1.5)|list }}", "template:1:6: unique: an attribute that is a float"},
    {"{{ 'a'|int(base=99) }}", "template:1:8: int: a base that is not in 2..36"},
    {"{{ {'a': 1}|sort }}{{ [d, d]|sort }}", "template:1:30: a dict and a dict have no order"},
};

static jinja_data *data;
static jinja_value *known;

/* NULL: the message is in error. */
static char *render(const char *source, size_t length, const jinja_options *options, mla_error *error) {
    const struct tm day = a_day();
    jinja_options o;
    jinja_template *t;
    char *text;
    size_t n;
    memset(&o, 0, sizeof o);
    if (options) o = *options;
    o.now = &day;
    error->code = MLA_OK;
    if (jinja_parse(&t, source, length, "template", error)) return NULL;
    const mla_result rc = jinja_render(t, data, known, &o, &text, &n, error);
    CHECK(rc == error->code && (rc ? text == NULL : text[n] == 0), "%.60s: result %d, message %d", source, (int)rc,
          (int)error->code);
    jinja_free(t);
    return text;
}

static void test_texts(void) {
    mla_error error;
    SECTION("what templates become");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char *got = render(texts[i].source, strlen(texts[i].source), NULL, &error);
        CHECK(got && !strcmp(got, texts[i].result), "%s\ngot      %s\nexpected %s", texts[i].source,
              got ? got : error.text, texts[i].result);
        free(got);
    }
}

static void test_refusals(void) {
    mla_error error;
    SECTION("what is refused");
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        char *got = render(refusals[i].source, strlen(refusals[i].source), NULL, &error);
        CHECK(!got && !strcmp(error.text, refusals[i].result), "%s\ngot      %s\nexpected %s", refusals[i].source,
              got ? got : error.text, refusals[i].result);
        free(got);
    }
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */

/* Templates that would run for ever, or take memory or stack without end. */
static const char *const greedy[] = {
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{% set x = 'aaaaaaaaaaaaaaaa' %}{% for i in range(100) %}{% set ns = namespace(x=x) %}{% endfor %}"
    "{% set ns = namespace(x=x) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "{{ 'abc' * 9000000000000 }}",
    "{{ [1, 2] * 9000000000000 }}",
    "{{ ('x' * 1000000)|replace('x', 'y' * 1000000) }}",
    "{{ ('x' * 100000)|indent(9000000000000, true) }}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{{ i }}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}{{ ('a' * 99999) in ('b' * 99999) }}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"
    "{{ ns.x|tojson }}",
    "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}"
    "{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
    "{% set x = [] %}{% set _ = x.append(x) %}{{ x }}",
    "{% set x = [] %}{% set _ = x.append(x) %}{{ x|tojson }}",
    "{% set x = [] %}{% set _ = x.append(x) %}{{ x == [x] }}{{ x < [x] }}",
    "{% set x = [1] %}{% for i in x %}{% set _ = x.append(i) %}{% endfor %}",
    "{% set x = [1] %}{% for i in range(99) %}{% for k in x * 1 %}{% set _ = x.append(k) %}{% endfor %}{% endfor %}",
    "{{ range(100001) }}",
    "{{ 9 ** 9 ** 9 }}",
    "{{ range(100000)|map('string')|join('x' * 100000) }}",
    "{{ {'a': range(100000)|list}|tojson(indent=32)|length }}{% for i in range(9999) %}{{ range(100000)|tojson }}"
    "{% endfor %}",
    "{% for i in range(100000) %}{{ range(100000)|sort(reverse=true)|first }}{% endfor %}",
    "{% for i in range(100000) %}{{ range(100000)|unique|first }}{% endfor %}",
    "{% for i in range(100000) %}{{ ('a' * 100000)[::-1]|first }}{{ 'ä' * 1000 }}{% endfor %}",
    "{% for i in range(100000) %}{{ ('ä' * 100000)[::-7]|first }}{% endfor %}",
    "{% for i in range(100000) %}{{ ('a ' * 50000).split()|length }}{% endfor %}",
    "{% for i in range(100000) %}{% set x %}{{ 'a' * 100000 }}{% endset %}{% endfor %}",
    "{% filter replace('a', 'aaaaaaaaaa') %}{% filter replace('a', 'aaaaaaaaaa') %}{% filter replace('a', "
    "'aaaaaaaaaa') %}{{ 'a' * 1000000 }}{% endfilter %}{% endfilter %}{% endfilter %}",
};

/* n times a text, between two others */
static char *repeated(const char *before, const char *text, size_t n, const char *after) {
    const size_t length = strlen(text);
    char *out = (char *)malloc(strlen(before) + n * length + strlen(after) + 1), *at = out;
    at += sprintf(at, "%s", before);
    for (size_t i = 0; i < n; i++, at += length) memcpy(at, text, length);
    sprintf(at, "%s", after);
    return out;
}

/* All letters of the first plane in the other case; the sums are of Python's (Unicode 14), where one letter becomes one:
   ''.join(s.lower() if len(s.lower()) == 1 else s for s in map(chr, ...)), and U+DF becomes SS. */
static void test_cases(void) {
    static const struct {
        const char *filter;
        uint64_t sum;
    } all[] = {{"lower", 9800458419366798277ull}, {"upper", 1887255951565894462ull}};
    char *source = (char *)malloc(1 << 18);
    SECTION("cases");
    for (size_t i = 0; i < 2; i++) {
        size_t n = 4;
        mla_error error;
        memset(&error, 0, sizeof error);
        memcpy(source, "{{ '", n);
        for (unsigned c = 0xA0; c < 0x10000; c++) {
            if (c >= 0xD800 && c < 0xE000) continue;
            if (c >= 0x800) source[n++] = (char)(0xE0 | c >> 12);
            source[n++] = (char)(c >= 0x800 ? 0x80 | (c >> 6 & 0x3F) : 0xC0 | c >> 6),
            source[n++] = (char)(0x80 | (c & 0x3F));
        }
        n += (size_t)snprintf(source + n, 40, "'|%s }}", all[i].filter);
        char *text = render(source, n, NULL, &error);
        uint64_t sum = 14695981039346656037u;
        for (const char *at = text; at && *at; at++) sum = (sum ^ (unsigned char)*at) * 1099511628211u;
        CHECK(text && sum == all[i].sum, "%s: %s", all[i].filter, text ? "other letters than Python's" : error.text);
        free(text);
    }
    free(source);
}

static void test_limits(void) {
    static const struct {
        const char *before, *text;
        size_t n;
        const char *after;
    } deep[] = {{"{{ ", "(", 100000, " }}"},
                {"{{ ", "[", 100000, " }}"},
                {"{{ ", "{'a':", 100000, " }}"},
                {"{{ ", "-", 100000, "1 }}"},
                {"{{ ", "not ", 100000, "1 }}"},
                {"{{ ", "1 if ", 100000, "1 }}"},
                {"{{ ", "1 if 1 else ", 50000, "1 }}"},
                {"{{ ", "1+", 100000, "1 }}"},
                {"{{ a", "|trim", 100000, " }}"},
                {"{{ a", ".a", 100000, " }}"},
                {"{{ a", "[0]", 100000, " }}"},
                {"{{ a", "()", 100000, " }}"},
                {"{{ 1", " and 1", 100000, " }}"},
                {"{{ 2", "**2", 100000, " }}"},
                {"", "{% if 1 %}", 50000, ""},
                {"", "{% for x in l %}", 50000, ""},
                {"", "{% filter upper %}", 50000, ""},
                {"", "{{", 100000, ""},
                {"", "{% raw ", 100000, ""},
                {"", "{#", 100000, ""},
                {"{{ '", "a", 1100000, "' }}"}};
    jinja_options small;
    mla_error error;
    SECTION("limits");
    memset(&small, 0, sizeof small);
    small.steps = 3000000, small.bytes = 8 << 20;
    for (size_t i = 0; i < sizeof greedy / sizeof *greedy; i++) {
        char *got = render(greedy[i], strlen(greedy[i]), &small, &error);
        CHECK(!got && (error.code == MLA_ERR_FULL || error.code == MLA_ERR_CONFIG), "%s: %s", greedy[i],
              got ? "was rendered" : error.text);
        free(got);
    }
    for (size_t i = 0; i < sizeof deep / sizeof *deep; i++) {
        char *source = repeated(deep[i].before, deep[i].text, deep[i].n, deep[i].after);
        char *got = render(source, strlen(source), &small, &error);
        CHECK(!got && error.code, "%s%s... was rendered", deep[i].before, deep[i].text);
        free(got), free(source);
    }
    char *elif = repeated("{% if 0 %}", "{% elif 0 %}", 20000, "{% else %}x{% endif %}");
    char *got = render(elif, strlen(elif), NULL, &error); /* long, but not deep */
    CHECK(got && !strcmp(got, "x"), "20000 elif: %s", got ? got : error.text);
    free(got), free(elif);
    char *sum = repeated("{% set ns = namespace(x='') %}{% for i in range(50000) %}{% set ns.x = ns.x + 'abcdefgh' %}",
                         "", 0, "{% endfor %}{{ ns.x|length }}");
    small.steps = 0;
    got = render(sum, strlen(sum), &small, &error); /* a text that grows is not copied each time */
    CHECK(got && !strcmp(got, "400000"), "a growing text: %s", got ? got : error.text);
    free(got), free(sum);
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

static void test_values(void) {
    static const char *const wrong[] = {"",          "{",
                                        "[1,]",      "{\"a\":1,}",
                                        "{\"a\" 1}", "{a:1}",
                                        "[1 2]",     "01",
                                        "1.",        "+1",
                                        ".5",        "1e",
                                        "-",         "nul",
                                        "\"a",       "\"\\x\"",
                                        "\"\\u12\"", "\"\xff\"",
                                        "\"\n\"",    "1 2",
                                        "NaN",       "99999999999999999999",
                                        "1e999",     "'a'"};
    static const char fine[] =
        " {\"b\": [1, -2.5, 1e3, true, false, null, \"\\u00e9\\ud83d\\ude00\\/\\n\"], \"a\": {}, \"b\": [0]} ";
    mla_error error;
    jinja_value *v;
    jinja_data *d;
    size_t n;
    SECTION("values");
    CHECK(!jinja_data_create(&d, &error), "%s", error.text);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(jinja_json(d, wrong[i], strlen(wrong[i]), &v, &error) == MLA_ERR_CONFIG && !v &&
                  !strncmp(error.text, "JSON, byte ", 11),
              "%s is JSON", wrong[i]);
    char *deep = repeated("", "[", 100000, "");
    CHECK(jinja_json(d, deep, 100000, &v, &error) == MLA_ERR_CONFIG, "100000 lists in lists");
    free(deep);
    for (n = 0; n < sizeof fine - 3; n++)
        CHECK(jinja_json(d, fine, n, &v, &error) == MLA_ERR_CONFIG, "%zu bytes of JSON", n);
    CHECK(!jinja_json(d, fine, sizeof fine - 1, &v, &error), "%s", error.text);
    CHECK(jinja_is_dict(v) && jinja_count(v) == 2 && jinja_count(jinja_get(v, "b")) == 1,
          "the last of two members counts");
    jinja_value *all = jinja_dict(d), *list = jinja_list(d), *dict = jinja_dict(d);
    jinja_put(d, dict, "z", jinja_integer(d, -7)), jinja_put(d, dict, "a", jinja_bool(d, 1));
    jinja_put(d, dict, "z", jinja_none(d)); /* in its place */
    jinja_append(d, list, dict), jinja_append(d, list, jinja_string(d, "t\0x", 3));
    jinja_put(d, all, "x", list);
    CHECK(jinja_is_list(list) && jinja_count(list) == 2 && jinja_at(list, 2) == NULL && jinja_at(dict, 0) == NULL,
          "items of a list");
    CHECK(jinja_text(jinja_at(list, 1), &n) && n == 3 && !jinja_text(dict, &n), "the text of a string");
    jinja_template *t;
    char *text;
    CHECK(!jinja_parse(&t, "{{ x|tojson }}{{ x[1] }}", 24, "t", &error), "%s", error.text);
    CHECK(jinja_mentions(t, "x") && !jinja_mentions(t, "tojson") && !jinja_mentions(t, "y"), "what it mentions");
    CHECK(!jinja_render(t, d, all, NULL, &text, &n, &error), "%s", error.text);
    static const char want[] = "[{\"z\": null, \"a\": true}, \"t\\u0000x\"]t\0x";
    CHECK(n == sizeof want - 1 && !memcmp(text, want, n), "members in order: %s", text);
    free(text);
    jinja_append(d, list, NULL); /* as if there had been no memory for it */
    CHECK(jinja_render(t, d, all, NULL, &text, &n, &error) == MLA_ERR_MEMORY && !text, "a value that is missing");
    jinja_data_destroy(d);
    CHECK(jinja_parse(NULL, "", 0, "t", &error) == MLA_ERR_ARGUMENT &&
              jinja_render(t, data, NULL, NULL, &text, &n, &error) == MLA_ERR_ARGUMENT,
          "null pointers");
    jinja_free(t), jinja_free(NULL), jinja_data_destroy(NULL);
}

/* ---- damage ------------------------------------------------------------------------------------------------------ */

static const char *const files[] = {"deepseek-v3-0324", "deepseek-v3.1",   "deepseek-v3.2", "kimi-k2-thinking",
                                    "glm-4.5",          "mistral-large-3", "minicpm3",      "youtu"};

/* Templates with bytes changed, left out, doubled, and cut short: each is rendered or refused, and nothing else happens
   (a sanitizer would say so). */
static void test_damage(void) {
    static const char pieces[] = "{}%-+#|.()[]'\"\\,:=~ \n0a\xff";
    test_rng random = {7};
    jinja_options small;
    mla_error error;
    jinja_value *conversations;
    size_t n, length, rendered = 0, refused = 0;
    char *text = read_all("tests/jinja/conversations.json", &length);
    SECTION("damaged templates");
    memset(&small, 0, sizeof small);
    small.steps = 200000, small.bytes = 4 << 20;
    CHECK(!jinja_json(data, text, length, &conversations, &error), "%s", error.text);
    free(text);
    jinja_value *const before = known;
    known = jinja_at(conversations, 4);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[80];
        snprintf(path, sizeof path, "tests/jinja/%s.jinja", files[i]);
        char *source = read_all(path, &n), *copy = (char *)malloc(n + 1);
        CHECK(n > 100, "%s is missing", path);
        for (int k = 0; k < (test_all() ? 2500 : 400); k++) {
            size_t m = n;
            memcpy(copy, source, n);
            for (int c = 1 + test_int(&random, 4); c > 0; c--) {
                const size_t at = (size_t)test_int(&random, (int)m);
                const int how = test_int(&random, 8);
                if (how == 0 && m > 1) memmove(copy + at, copy + at + 1, --m - at);
                else if (how == 1) m = at + 1;
                else if (how < 6) copy[at] = pieces[test_int(&random, (int)sizeof pieces - 1)];
                else copy[at] = copy[test_int(&random, (int)m)];
            }
            char *exact = (char *)malloc(m); /* a byte read behind it is seen */
            memcpy(exact, copy, m);
            char *got = render(exact, m, &small, &error);
            if (got) rendered++;
            else refused += error.code != MLA_OK && error.text[0] && !strchr(error.text, '\n');
            free(got), free(exact);
        }
        free(source), free(copy);
    }
    known = before;
    CHECK(rendered + refused == (sizeof files / sizeof *files) * (test_all() ? 2500 : 400), "%zu rendered, %zu refused",
          rendered, refused);
    CHECK(rendered > 100 && refused > 100, "%zu rendered, %zu refused: the test says little", rendered, refused);
}

int main(int argc, char **argv) {
    mla_error error;
    if (argc > 2 && !strcmp(argv[1], "--render")) return render_files(argc - 2, argv + 2);
    CHECK(!jinja_data_create(&data, &error) && !jinja_json(data, variables, sizeof variables - 1, &known, &error), "%s",
          error.text);
    test_texts();
    test_refusals();
    test_cases();
    test_limits();
    test_values();
    test_damage();
    jinja_data_destroy(data);
    return test_end();
}
