#!/usr/bin/env python3
"""Makes small changes in mla.h, one at a time, and counts those that the C tests of `make test` catch.

    tests/mutate.py --count 300 --seed 1 --jobs 16 --out build/mutants.jsonl

A change is a constant, a comparison, a sign or a bound that is another, or a statement that is left out, in a line that this
machine's compiler sees and this machine's CPU can run; not in the manual, the API, preprocessor lines, texts and hints (prefetches,
what stays in a register); sizes of arrays stay, what is taken of an arena only becomes less, as more room changes nothing, and what is
true when it is returned becomes false. One that does not compile, or that makes the same object file, is no change: another is drawn in
its place. The order is the seed's alone.
The tests run until the first that fails; so do their checks. One that takes many times as long as it did has failed, too.
--out keeps what was done, so that a run that was stopped (--seconds) goes on where it was. --again FILE tries again those that survived.
"""
import argparse, ctypes, hashlib, json, os, random, re, resource, shutil, signal, subprocess, sys, threading, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# What survived of 711 changes of five seeds and is none that these tests could tell:
#   mla__mix `T <= FEW` -> `>`; mla__halve `T - t` -> `T + t`, `ranks == 1` -> `== 0`; mla__walk_steps `all - few` -> `all + few`;
#     mla__member spins from 1; mla__absorb_tokens `max(1, ..` -> `max(2, ..`; mla__layer_end goes on after a hook that failed; conv
#     without its way for four taps: the same results by the other way, in other parts or later
#   softmax `u0 + nu - 1 > least` -> `+ 1`, mla__index_offer `most = 0` -> 1: what all lanes see, or a first glance leaves open, is
#     looked at once more, and kept
#   q4_scale: the 24th of the scales that are tried, which is hardly ever the best, and never by much
#   mla__activations_work `1 : 2` parts -> `0 : 2`; mla__route `taken = 1` -> 2; mla__layer_end `mla__ffn(c, layer, 1,` -> 2;
#     mla__scales_avx2: nibbles as signed bytes; mla__check_fields `HEAT : 0` -> `: 1`; mla__linear_bytes one byte more: one number for
#     another that means the same
#   mla__kda_work, mla__naive_head, mla__absorbed_piece, mla__cut, mla__head_ref: a number that is set before it is read, or not read
#   mla__attn_run `gate > 0 && H > 0` -> `||`: a product without rows; mla__heads_slice with one head; mla__fields: a default number of
#     an indexer's heads where there is none; mla__mtp_keep: an indexer is the first in layer 0, which is no MTP layer
#   mla__rope_amplitude `f > 1` -> `> 0`: no factor is below 1, and of 1 the formula makes 1, too
#   mla__yarn_range `lo > 0 ? lo : 0` -> `>=`; mla__state_copy `< 0` -> `<= 0`: 0 is 0; no state is at 0
#   mla__expand `u < nu` -> `<=`; mla__states_put `i < n` -> `<=`; mla__absorbed `n_blocks` -> `+ 1`; mla__scores_amx `p + 1 < n` ->
#     `p + 0`: a step past an end inside of a larger piece of memory
#   mla__ask_isa without its check of a CPU that has less, or of a system that grants no AMX: for other machines
# Tests of what does not call mla.h, and one that compares a table of file names.
ELSEWHERE = {'test_calls', 'test_chat', 'test_grammar', 'test_http', 'test_jinja', 'test_sampler', 'test_tokenizer'}
# What needs more than the compiler: the ending of a function's name, and what /proc/cpuinfo calls it.
NEEDS = {'_amx': 'amx_tile', '_bf16': 'avx512_bf16', '_vnni': 'avx512_vnni', '_vbmi': 'avx512vbmi',
         '_avx512': 'avx512f', '_avx2': 'avx2'}
HINTS = {'mla__fetch', 'mla__ahead_of', 'fetch_rows'}  # functions that only say what is fetched ahead
# Sections that kernels are compiled from; after these the rest is compiled alone and linked with the kernels as they were.
REFERENCE, KERNELS = 'reference', ('platform', 'numbers', 'formats', 'cpu', 'vocabulary', 'table', 'integer', 'fp8', 'template',
                                   'bf16')


def code_of(lines):
    """The lines with comments, strings and characters blanked out, column by column."""
    text, out, i = '\n'.join(lines), [], 0
    token = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
    for m in token.finditer(text):
        out.append(text[i:m.start()])
        out.append(re.sub(r'[^\n]', '\x01', m.group()))
        i = m.end()
    out.append(text[i:])
    return ''.join(out).split('\n')


def changed_integer(text, rng):
    digits, suffix = re.fullmatch(r'(0[xX][0-9a-fA-F]+|\d+)([uUlL]*)', text).groups()
    n = int(digits, 0) if digits[:2].lower() == '0x' else int(digits)
    n += 1 if n == 0 else rng.choice((-1, 1))
    return (hex(n) if digits[:2].lower() == '0x' else str(n)) + suffix


def changed_float(text, by):
    number, suffix = re.fullmatch(r'([\d.]+(?:[eE][-+]?\d+)?)([fF]?)', text).groups()
    value = float(number)
    return ('1.0' if value == 0 else repr(value * by)) + suffix


INTEGER = re.compile(r'(?<![\w.])(?:0[xX][0-9a-fA-F]+|\d+)[uUlL]*(?![\w.])')
FLOAT = re.compile(r'(?<![\w.])(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?[fF]?(?![\w.])')
SWAPS = {'comparison': {'<': ('<=', '>='), '<=': ('<', '>'), '>': ('>=', '<='), '>=': ('>', '<'), '==': ('!=',), '!=': ('==',)},
         'sign': {'+': ('-',), '-': ('+',), '+=': ('-=',), '-=': ('+=',)},
         'logic': {'&&': ('||',), '||': ('&&',), '<<': ('>>',), '>>': ('<<',), '&': ('|',), '|': ('&',)}}
OPERATOR = re.compile(r'(?<= )(<=|>=|==|!=|<<|>>|&&|\|\||\+=|-=|[-+<>&|])(?= )')
# What is no statement by itself, or says nothing.
NO_STATEMENT = re.compile(r'(?:return|break|continue|goto|case|default|else|for|while|do|const|static|typedef|struct|enum|union|extern|int|'
                          r'float|double|char|unsigned|void|size_t|u?int\d+_t)\b|(?:mla|MLA)\w* +\**\w+ *[=;,\[]|__m\d+i? |\(void\)|[}{#]')
DECLARATION = re.compile(r'\s*(?!return|goto|else|case)(?:static |const |unsigned )*[A-Za-z]\w* (?:const )?\**(?:const )?\w+(?:\[| = |,|;)')
ARRAY = re.compile(r'(?:^|,)[^,=]*?\w((?:\[[^]]*\])+)(?= =|[,;]|$)')


def array_sizes(line):
    """Columns of the sizes of arrays that a line declares."""
    if not DECLARATION.match(line):
        return set()
    n = 1
    while n:  # what initializes them is not looked at
        line, n = re.subn(r'\([^()]*\)|{[^{}]*}', lambda m: '\x01' * len(m.group()), line)
    return {i for m in ARRAY.finditer(line) for i in range(*m.span(1))}


def takes_less(line, kind, column, old, new):
    """Whether a change of what is taken of an arena can be one to less of it."""
    if kind == 'constant':
        return line[:column].rstrip()[-1:] not in '/<>=' and float(new.strip('fFuUlL')) < float(old.strip('fFuUlL'))
    return kind == 'off by one' or (kind == 'sign' and new == '-')


def changes_of(line, before, rng):
    """[(kind, column, old, new)]: one for each place of a line (its code), before: the code before it."""
    found = []
    sizes, takes = array_sizes(line), ' MLA__TAKE(' in line
    for m in INTEGER.finditer(line):
        new = changed_integer(m.group(), rng)
        found.append(('constant', m.start(), m.group(), '0' if line[:m.end()].endswith('return 1') else new))
    for m in FLOAT.finditer(line):
        found.append(('constant', m.start(), m.group(), changed_float(m.group(), 0.5 if takes else 2)))
    for m in OPERATOR.finditer(line):
        for kind, swaps in SWAPS.items():
            if m.group(1) in swaps:
                found.append((kind, m.start(), m.group(1), rng.choice(swaps[m.group(1)])))
    for m in re.finditer(r'(?<=[(=,?:!] )-(?=[\w(])|(?<=[([])-(?=[\w(])', line):
        found.append(('sign', m.start(), '-', ''))
    for m in re.finditer(r'(?<=[( ])!(?=[\w(])', line):
        found.append(('logic', m.start(), '!', ''))
    for m in re.finditer(r'[<>]=? ([\w.>()-]+)(?=; \S+\))', line):
        found.append(('off by one', m.start(1), m.group(1), m.group(1) + rng.choice((' - 1', ' + 1'))))
    for m in re.finditer(r'(?<=\w\[)([a-z]\w*)(?=\])', line):
        found.append(('off by one', m.start(1), m.group(1), m.group(1) + rng.choice((' - 1', ' + 1'))))
    text = line.strip()
    if text.endswith(';') and '\x01' not in text[:1] and text.count('(') == text.count(')') and before[-1:] in (';', '{', '}', ':') \
            and not NO_STATEMENT.match(text):
        found.append(('dropped', line.index(text), text, ';'))
    return [f for f in found if f[1] not in sizes and (not takes or f[0] == 'dropped' or takes_less(line, *f))]


class Source:
    """mla.h: its lines, sections, functions, and which of its lines count here."""

    def __init__(self, cc):
        with open(os.path.join(ROOT, 'mla.h'), encoding='utf-8') as f:
            self.text = f.read()
        self.sha = hashlib.sha256(self.text.encode()).hexdigest()[:12]
        self.lines = self.text.split('\n')
        self.code = code_of(self.lines)
        self.section, self.function = [], []
        section, function, begun = '', '', 0
        for n, line in enumerate(self.lines):
            m = re.match(r'/\* (?:---- )?>>([\w-]+)', line)
            section = m.group(1) if m else section
            m = re.match(r'[A-Za-z].*?(\w+)\(', self.code[n])
            if m and not self.code[n].startswith('typedef'):
                function = re.search(r'MLA__\w+\((\w+)\)\(|(\w+)\(', self.code[n])
                function = function.group(1) or function.group(2)
            self.section.append(section)
            self.function.append(function)
        self.live = self.live_lines(cc)
        self.not_here = set()  # instruction sets that the CPU has and the system does not grant, as AMX in some containers

    def live_lines(self, cc):
        cpu = set()
        try:
            with open('/proc/cpuinfo') as f:
                cpu = set(re.search(r'^flags\s*:(.*)$', f.read(), re.M).group(1).split())
        except (OSError, AttributeError):
            pass
        seen = set()
        for flags in (['-DMLA_IMPLEMENTATION'], ['-DMLA_REFERENCE']):
            out = subprocess.run([cc, '-std=c99', '-fopenmp', '-E', '-x', 'c', *flags, 'mla.h'], cwd=ROOT, capture_output=True,
                                 text=True, check=True).stdout
            at = None
            for line in out.split('\n'):
                m = re.match(r'# (\d+) "(.*?)"', line)
                if m:
                    at = int(m.group(1)) - 1 if m.group(2) == 'mla.h' else None
                elif at is not None:
                    if line.strip():
                        seen.add(at)
                    at += 1
        begin = self.lines.index(next(x for x in self.lines if x.startswith('/* >>stop-here')))
        continued = False
        live = []
        for n, line in enumerate(self.code):
            skip = continued or line.startswith('#')
            continued = skip and line.endswith('\\')
            if skip or n not in seen or n <= begin or 'PREFETCH' in line or 'MLA__HOLD(' in line or self.function[n] in HINTS:
                continue
            if any(self.function[n].endswith(e) and flag not in cpu for e, flag in NEEDS.items()):
                continue
            live.append(n)
        return live

    def before(self, n):
        n -= 1
        while n > 0 and not self.code[n].replace('\x01', '').strip():
            n -= 1
        return self.code[n].replace('\x01', '').strip()

    def wanted(self, only):
        if not only:
            return self.live
        m = re.fullmatch(r'(\d+)-(\d+)', only)
        if m:
            return [n for n in self.live if int(m.group(1)) <= n + 1 <= int(m.group(2))]
        return [n for n in self.live if self.section[n] in only.split(',')]

    def drawn(self, seed, only):
        """All changes in the order in which they are drawn: in every round one of each line."""
        rng = random.Random(seed)
        left = []
        for n in self.wanted(only):
            found = [(kind, column, self.lines[n][column:column + len(old)], new)
                     for kind, column, old, new in changes_of(self.code[n], self.before(n), rng)]
            rng.shuffle(found)
            if found:
                left.append((n, found))
        while left:
            rng.shuffle(left)
            for n, found in left:
                change = found.pop()
                if not any(self.function[n].endswith('_' + isa) for isa in self.not_here):
                    yield (n,) + change
            left = [(n, found) for n, found in left if found]

    def with_change(self, n, column, old, new):
        line = self.lines[n]
        assert line[column:column + len(old)] == old
        lines = list(self.lines)
        lines[n] = line[:column] + new + line[column + len(old):]
        return '\n'.join(lines), lines[n]


class Build:
    """The tree as it is, compiled; and the commands that compile and link a copy."""

    def __init__(self, work, cc, jobs, tests):
        self.dir, self.cc = os.path.join(work, 'base'), cc
        self.tests = sorted(f[:-2] for f in os.listdir(os.path.join(ROOT, 'tests')) if re.fullmatch(r'test_\w+\.c', f))
        self.tests = [t for t in self.tests if (t in tests.split(',') if tests else t not in ELSEWHERE)]
        tree(self.dir, link_header=True)
        make = ['make', 'CC=' + cc, 'CFLAGS=-O1', 'WARNINGS=']
        programs = ['build/' + t for t in self.tests]
        run(make + ['-j%d' % jobs] + programs, self.dir)
        commands = run(make + ['-n', '-B'] + programs, self.dir).split('\n')
        self.command = {}
        for line in commands:
            m = re.search(r' -o (build/\S+)', line)
            if m and line.startswith(cc + ' '):
                self.command[m.group(1)] = line
        # a test with an implementation of its own, and those that look at the reference
        self.own = {t for t in self.tests if '-DMLA__IMPLEMENTED ' not in self.command['build/%s.o' % t] + ' '}
        self.reference = set()
        for t in self.tests:
            with open(os.path.join(ROOT, 'tests', t + '.c'), encoding='utf-8') as f:
                if 'MLA_REFERENCE' in f.read():
                    self.reference.add(t)
        # the kernels alone, for changes in what is not compiled into them
        whole = self.command['build/mla.o']
        self.command['build/rest.o'] = whole.replace('-o build/mla.o', '-DMLA__SELECTED -o build/rest.o')
        run(['sh', '-c', self.command['build/rest.o']], self.dir)
        run(['objcopy', '--keep-global-symbol=mla__select', 'build/mla.o', 'build/kernels.o'], self.dir)

    def isas_not_here(self):
        with open(os.path.join(self.dir, 'isas.c'), 'w') as f:
            f.write('#include "mla.h"\n#include <stdio.h>\nint main(void) {\nfor (int i = MLA_ISA_SCALAR; i <= MLA_ISA_AMX; i++)\n'
                    'if (!mla_isa_available((mla_isa)i)) puts(mla_isa_name((mla_isa)i));\nreturn 0; }\n')
        run([self.cc, '-fopenmp', '-I.', 'isas.c', 'build/mla.o', '-o', 'isas', '-lm'], self.dir)
        return set(run(['./isas'], self.dir).split())

    def same(self, where, name):
        with open(os.path.join(self.dir, name), 'rb') as a, open(os.path.join(where, name), 'rb') as b:
            return a.read() == b.read()


def run(command, where):
    done = subprocess.run(command, cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit('%s: %s' % (' '.join(command), (done.stderr or done.stdout)[-2000:]))
    return done.stdout


def tree(where, link_header):
    """A copy of the tree: links, but for build/ and perhaps mla.h."""
    os.makedirs(os.path.join(where, 'build'), exist_ok=True)
    for name in sorted(os.listdir(ROOT)):
        to = os.path.join(where, name)
        if name not in ('build', '.git') and (link_header or name != 'mla.h') and not os.path.lexists(to):
            os.symlink(os.path.join(ROOT, name), to)


def limits():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # dies with its parent
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 30, 2 << 30))


def timed(command, where, seconds, tmp, stop=None):
    """(how it ended: 'ok', 'exit N', 'signal N', 'time', 'stopped'; the time it took)"""
    env = dict(os.environ, OMP_WAIT_POLICY='passive', OMP_NUM_THREADS='2', TEST_FIRST='1', TMPDIR=tmp)
    env.pop('TEST_ALL', None)
    begin, spent, last = time.monotonic(), 0, time.monotonic()
    with open(os.devnull, 'r+b') as null:
        p = subprocess.Popen(command, cwd=where, shell=isinstance(command, str), stdin=null, stdout=null, stderr=null, env=env,
                             start_new_session=True, preexec_fn=limits)
    how = None
    while p.poll() is None:
        spent, last = spent + min(time.monotonic() - last, 1), time.monotonic()  # a time in which all were stopped does not count
        if spent > seconds or (stop and stop()):
            how = 'time' if spent > seconds else 'stopped'
            try:
                os.killpg(p.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            p.wait()
            break
        time.sleep(0.005 if spent < 0.2 else 0.03)
    if not how:
        how = 'ok' if p.returncode == 0 else 'exit %d' % p.returncode if p.returncode > 0 else 'signal %d' % -p.returncode
    return how, time.monotonic() - begin


class Mutant:
    def __init__(self, change, text, where, build):
        self.change, self.text, self.dir, self.build = change, text, where, build
        self.left, self.running, self.by, self.how, self.passed = [], 0, None, None, []
        self.tmp = os.path.join(where, 'tmp')

    def compile(self):
        """False: it does not compile, or is no change."""
        shutil.rmtree(self.dir, ignore_errors=True)
        tree(self.dir, link_header=False)
        os.mkdir(self.tmp)
        with open(os.path.join(self.dir, 'mla.h'), 'w', encoding='utf-8') as f:
            f.write(self.text)
        base = os.path.join(self.build.dir, 'build')
        for name in os.listdir(base):
            if name.endswith(('.o', '.a', '.inc')) and name not in ('mla.o', 'rest.o'):
                os.symlink(os.path.join(base, name), os.path.join(self.dir, 'build', name))
        section = self.change['section']
        self.again = self.build.own | (self.build.reference if section == REFERENCE else set())
        self.objects = 'build/mla.o' if section in KERNELS else 'build/rest.o build/kernels.o'
        if section == REFERENCE:
            os.symlink(os.path.join(base, 'mla.o'), os.path.join(self.dir, 'build', 'mla.o'))
            self.objects = 'build/mla.o'
            objects = ['build/%s.o' % t for t in sorted(self.build.reference)]
            for name in objects:
                os.unlink(os.path.join(self.dir, name))
                if timed(self.build.command[name], self.dir, 600, self.tmp)[0] != 'ok':
                    return False
            self.again = set()
            return not all(self.build.same(self.dir, name) for name in objects)
        name = self.objects.split()[0]
        return timed(self.build.command[name], self.dir, 600, self.tmp)[0] == 'ok' and not self.build.same(self.dir, name)

    def test(self, name, seconds, stop=None):
        """How a test ended; it is linked first."""
        if name in self.again:
            object = 'build/%s.o' % name
            os.unlink(os.path.join(self.dir, object))
            if timed(self.build.command[object], self.dir, 600, self.tmp)[0] != 'ok':
                return 'does not compile', 0
        link = self.build.command['build/' + name].replace('build/mla.o', self.objects)
        how, _ = timed(link, self.dir, 600, self.tmp)
        if how != 'ok':
            return 'does not link', 0
        return timed(['build/' + name], self.dir, seconds, self.tmp, stop)


class Runner:
    """Workers take changes; those without one help with the tests of others."""

    def __init__(self, args, source, build, work):
        self.args, self.source, self.build, self.work = args, source, build, work
        self.lock = threading.Lock()
        self.done, self.active, self.valid, self.pending = {}, [], 0, 0
        self.kills, self.time, self.passed = {}, {}, {}
        self.deadline = time.monotonic() + args.seconds if args.seconds else None
        self.kept = open(args.out, 'a') if args.out else None
        self.number = 0

    def late(self):
        return self.deadline is not None and time.monotonic() > self.deadline

    def baseline(self):
        """Times of the tests as they are, all processors busy; they must pass. A run that goes on knows them."""
        if self.time:
            return
        unchanged = Mutant({'section': ''}, self.source.text, os.path.join(self.work, 'unchanged'), self.build)
        unchanged.compile()
        unchanged.again = set()
        left = list(self.build.tests)

        def worker():
            while True:
                with self.lock:
                    if not left or self.late():
                        return
                    name = left.pop(0)
                how, seconds = unchanged.test(name, 900)
                if how != 'ok':
                    print('%s fails as it is (%s): left out' % (name, how), flush=True)
                else:
                    self.time[name] = max(seconds, 0.05)
        pool(worker, self.args.jobs)
        if self.kept and not self.late():
            self.kept.write(json.dumps({'sha': self.source.sha, 'times': self.time}) + '\n')
            self.kept.flush()

    def order(self, section):
        """What catches most of a section in least time goes first."""
        def worth(name):
            here, all = self.kills.get((section, name), 0), self.kills.get(name, 0)
            return -(here + 0.1 * all + 0.2) / (self.time[name] + 0.5)
        return sorted(self.time, key=worth)

    def known(self, path):
        """Takes over what an earlier run of the same file found."""
        if path and os.path.exists(path):
            with open(path) as f:
                for line in f:
                    try:
                        record = json.loads(line)
                    except ValueError:
                        continue
                    if record.get('sha') != self.source.sha:
                        continue
                    if 'times' in record:
                        self.time = record['times']
                    elif record['result'] == 'stopped':
                        self.passed[self.key(record)] = record['passed']
                    else:
                        self.done[self.key(record)] = record
                        self.count_kill(record['section'], record['by'])

    def count_kill(self, section, name):
        if name:
            self.kills[name] = self.kills.get(name, 0) + 1
            self.kills[(section, name)] = self.kills.get((section, name), 0) + 1

    @staticmethod
    def key(r):
        return r['line'], r['column'], r['from'], r['to']

    def changes(self):
        if self.args.again:
            with open(self.args.again) as f:
                old = [json.loads(line) for line in f if line.strip()]
            for r in old:
                if r.get('result') != 'survived':
                    continue
                at = [n for n in self.source.live if self.source.lines[n].strip() == r['old']]
                if at:
                    n = min(at, key=lambda n: abs(n + 1 - r['line']))
                    shift = len(self.source.lines[n]) - len(self.source.lines[n].lstrip()) - r.get('indent', 0)
                    yield n, r['kind'], r['column'] - 1 + shift, r['from'], r['to']
                else:
                    print('no longer there: %s' % r['old'], flush=True)
        else:
            yield from self.source.drawn(self.args.seed, self.args.only)

    def next(self):
        """The next change to try; None: there is none for now. Called with the lock held."""
        if self.late() or self.valid + self.pending >= self.args.count:
            return None
        for n, kind, column, old, new in self.sequence:
            text, line = self.source.with_change(n, column, old, new)
            change = {'sha': self.source.sha, 'line': n + 1, 'column': column + 1, 'section': self.source.section[n],
                      'function': self.source.function[n], 'kind': kind, 'from': old, 'to': new, 'old': self.source.lines[n].strip(),
                      'new': line.strip(), 'indent': len(self.source.lines[n]) - len(self.source.lines[n].lstrip())}
            if self.key(change) in self.done:
                self.valid += self.done[self.key(change)]['result'] != 'none'
                if self.valid + self.pending >= self.args.count:
                    return None
                continue
            self.number += 1
            self.pending += 1
            return Mutant(change, text, os.path.join(self.work, 'm%d' % self.number), self.build)
        return None

    def finish(self, mutant, result):
        """With the lock held."""
        change = dict(mutant.change, result=result, by=mutant.by, how=mutant.how)
        self.pending -= 1
        if result == 'stopped':
            change['passed'] = mutant.passed
        if self.kept and (result != 'stopped' or mutant.passed):
            self.kept.write(json.dumps(change) + '\n')
            self.kept.flush()
        if result != 'stopped':
            self.done[self.key(change)] = change
            self.valid += result != 'none'
            if result != 'none':
                print('%4d %-8s %5d %-10s %-12s %s  ->  %s%s' % (self.valid, result, change['line'], change['section'], change['kind'],
                      change['old'][:90], change['new'][:90], '' if result != 'caught' else '   (%s: %s)' % (mutant.by, mutant.how)),
                      flush=True)
        shutil.rmtree(mutant.dir, ignore_errors=True)

    def one_test(self, mutant):
        """Runs one of a mutant's tests. False: there was none to take."""
        with self.lock:
            if not mutant.left or mutant.by or self.late():
                return False
            name = mutant.left.pop(0)
            mutant.running += 1
        seconds = max(self.time[name] * 6, 10) + 10
        how, _ = mutant.test(name, seconds, lambda: mutant.by is not None or self.late())
        with self.lock:
            mutant.running -= 1
            mutant.passed += [name] if how == 'ok' else []
            if how not in ('ok', 'stopped') and not mutant.by:
                mutant.by, mutant.how = name, how
                self.count_kill(mutant.change['section'], name)
            if mutant.running == 0 and mutant in self.active and (mutant.by or not mutant.left or self.late()):
                self.active.remove(mutant)
                self.finish(mutant, 'caught' if mutant.by else 'stopped' if mutant.left or how == 'stopped' else 'survived')
        return True

    def worker(self):
        while not self.late():
            with self.lock:
                mutant = self.next()
            if mutant:
                good = mutant.compile()
                with self.lock:
                    if not good:
                        self.finish(mutant, 'none')
                        continue
                    mutant.passed = list(self.passed.get(self.key(mutant.change), []))
                    mutant.left = [t for t in self.order(mutant.change['section']) if t not in mutant.passed]
                    self.active.append(mutant)
            else:
                with self.lock:
                    helped = [m for m in self.active if m.left and not m.by]
                    if not helped and not self.active and not self.pending:
                        return
                mutant = helped[0] if helped else None
                if not mutant:
                    time.sleep(0.2)
                    continue
                self.one_test(mutant)
                continue
            while self.one_test(mutant):
                pass

    def run(self):
        self.sequence = self.changes()
        if self.args.again:
            self.args.count = 1 << 30
        pool(self.worker, self.args.jobs)
        with self.lock:
            for m in list(self.active):
                self.finish(m, 'stopped')


def pool(worker, n):
    threads = [threading.Thread(target=worker) for _ in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def report(runner, args):
    """Of the first --count changes in the order of the seed."""
    records = []
    for n, kind, column, old, new in runner.changes():
        r = runner.done.get((n + 1, column + 1, old, new))
        if r and r['result'] != 'none':
            records.append(r)
        if len(records) >= args.count:
            break
    caught = sum(r['result'] == 'caught' for r in records)
    for what in ('kind', 'section'):
        print('\n%-14s changes  caught' % what)
        for name in sorted({r[what] for r in records}):
            some = [r for r in records if r[what] == name]
            print('%-14s %7d %7d' % (name, len(some), sum(r['result'] == 'caught' for r in some)))
    print('\nsurvivors:')
    for r in sorted((r for r in records if r['result'] == 'survived'), key=lambda r: r['line']):
        print('mla.h:%d %s (%s)\n    - %s\n    + %s' % (r['line'], r['function'], r['kind'], r['old'], r['new']))
    print('\n%d changes, %d caught: %.1f %%' % (len(records), caught, 100 * caught / max(len(records), 1)))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--count', type=int, default=300)
    p.add_argument('--seed', type=int, default=1)
    p.add_argument('--jobs', type=int, default=os.cpu_count())
    p.add_argument('--seconds', type=float, default=0, help='stop after so many; 0: when all is done')
    p.add_argument('--only', default='', help='lines, as 7000-7500, or sections, as kda,moe')
    p.add_argument('--out', default='', help='what was done, a line of JSON each; a further run goes on from there')
    p.add_argument('--again', default='', help='such a file: its survivors are tried again, whatever the seed')
    p.add_argument('--tests', default='', help='by these alone, as test_api,test_kernels')
    p.add_argument('--work', default=os.path.join(ROOT, 'build', 'mutants'), help='for the copies')
    p.add_argument('--list', type=int, default=0, help='only prints the first so many changes')
    p.add_argument('--cc', default='gcc')
    args = p.parse_args()
    for name in ('out', 'again', 'work'):
        setattr(args, name, getattr(args, name) and os.path.abspath(getattr(args, name)))
    begin = time.monotonic()
    source = Source(args.cc)
    if args.list:
        for i, (n, kind, column, old, new) in enumerate(source.drawn(args.seed, args.only)):
            if i == args.list:
                break
            print('%d %s: %s -> %s' % (n + 1, kind, source.lines[n].strip(), source.with_change(n, column, old, new)[1].strip()))
        return
    build = Build(args.work, args.cc, args.jobs, args.tests)
    source.not_here = build.isas_not_here()
    runner = Runner(args, source, build, args.work)
    print('%d lines of mla.h (%s); built after %.0f s' % (len(source.live), source.sha, time.monotonic() - begin), flush=True)
    if args.seconds:
        runner.deadline = begin + args.seconds
    runner.known(args.out)
    runner.baseline()
    print('tests as they are: ' + ', '.join('%s %.1f s' % (t, runner.time[t]) for t in sorted(runner.time, key=runner.time.get)) +
          '; after %.0f s' % (time.monotonic() - begin), flush=True)
    runner.run()
    report(runner, args)
    print('%.0f s' % (time.monotonic() - begin))


if __name__ == '__main__':
    main()
