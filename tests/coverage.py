#!/usr/bin/env python3
"""Which lines and branches of mla.h and of the examples' headers `make test` runs, by gcc's gcov: its C tests and those of programs.

    make coverage                              runs them and prints the table; build/coverage has it, and a list for each header
    tests/coverage.py --merge A.json B.json    the same of runs on several machines (each leaves build/coverage/counts.json), which
                                               must have had the same headers: what ran on one of them has run

What is compiled several times, as kernels for each instruction set, counts once: a line's branches are those of the copy in which the
compiler left most of them, and have been taken if they were in any copy that has as many. examples/wire.h is left out, which needs MPI.
"""
import argparse, concurrent.futures, glob, hashlib, json, os, re, subprocess, sys, time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OUT = os.path.join(ROOT, 'build', 'coverage')


def headers():
    found = ['mla.h'] + sorted('examples/' + f for f in os.listdir(os.path.join(ROOT, 'examples')) if f.endswith('.h'))
    return [f for f in found if f not in ('examples/wire.h',)]


def sha(path):
    with open(os.path.join(ROOT, path), 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()


def run_test(name, seconds):
    """What went wrong, for one that failed. Where memory is out is seen only if every allocation fails; and half a gigabyte is more than
    make test takes for random weights. Threads that count the same lines wait for each other's caches: one alone is faster."""
    env = dict(os.environ, OMP_WAIT_POLICY='passive', PROGRAMS='build/cov', TEST_FEW='1')
    if name in ('test_fail', 'test_parts'):
        env['TEST_ALL'] = '1'
    if name not in ('test_api', 'test_threads'):
        env['OMP_THREAD_LIMIT'] = '1'
    command = ['build/cov/' + name] if name.startswith('test_') else ['tests/%s/run.sh' % name] + ['build/cov'] * (name == 'fail')
    if seconds:  # what is no C test, or says nothing for a while, is cut harder
        env['TEST_SECONDS'] = str(seconds)
        command = ['timeout', str(seconds + 60)] + command
    log = os.path.join(OUT, name + '.log')
    begin = time.monotonic()
    with open(log, 'w') as f:
        code = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=f, stderr=f, env=env).returncode
    with open(log) as f:
        late = f.read().count(': the time is up')
    print('%-20s %4.0f s%s' % (name, time.monotonic() - begin, ', the time was up' if late else ''), flush=True)
    return None if code == 0 else '%s failed (exit status %d): %s' % (name, code, log)


def counts_of(gcov, jobs):
    """{file: {'sha', 'lines': {line: times}, 'branches': {line: {how many: [times]}}}} of all objects."""
    counts = {}
    wanted = set(headers())
    def read(note):
        return subprocess.run([gcov, '--json-format', '--stdout', '--branch-probabilities', os.path.relpath(note, ROOT)], cwd=ROOT,
                              capture_output=True, text=True).stdout

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        outputs = list(pool.map(read, sorted(glob.glob(os.path.join(ROOT, 'build/cov/*.gcno')))))
    for out in outputs:
        for text in out.split('\n'):
            if not text.startswith('{'):
                continue
            for file in json.loads(text)['files']:
                path = os.path.relpath(os.path.join(ROOT, file['file']), ROOT)
                if path not in wanted:
                    continue
                to = counts.setdefault(path, {'sha': sha(path), 'lines': {}, 'branches': {}})
                for line in file['lines']:
                    add(to, str(line['line_number']), line['count'], [b['count'] for b in line['branches']])
    return counts


def add(to, n, times, branches):
    to['lines'][n] = to['lines'].get(n, 0) + times
    if branches:
        groups = to['branches'].setdefault(n, {})
        old = groups.get(str(len(branches)), [0] * len(branches))
        groups[str(len(branches))] = [a + b for a, b in zip(old, branches)]


def most(groups):
    """The counts of the copy with most branches."""
    return groups[max(groups, key=int)] if groups else []


def merged(paths):
    counts = {}
    for path in paths:
        with open(path) as f:
            for name, file in json.load(f).items():
                to = counts.setdefault(name, {'sha': file['sha'], 'lines': {}, 'branches': {}})
                if to['sha'] != file['sha']:
                    sys.exit('%s: %s is another one than in %s' % (path, name, paths[0]))
                for n, times in file['lines'].items():
                    add(to, n, times, [])
                for n, groups in file['branches'].items():
                    for branches in groups.values():
                        add(to, n, 0, branches)
    return counts


def report(counts):
    table = ['%-26s %7s %7s %7s   %8s %7s %7s' % ('', 'lines', 'run', '%', 'branches', 'taken', '%')]
    for name in headers():
        if name not in counts:
            continue
        c = counts[name]
        run = sum(times > 0 for times in c['lines'].values())
        branches = [b for groups in c['branches'].values() for b in most(groups)]
        taken = sum(b > 0 for b in branches)
        table.append('%-26s %7d %7d %7.2f   %8d %7d %7.2f' % (name, len(c['lines']), run, 100 * run / max(len(c['lines']), 1), len(branches),
                                                               taken, 100 * taken / max(len(branches), 1)))
        with open(os.path.join(ROOT, name), encoding='utf-8') as f:
            source = f.read().split('\n')
        with open(os.path.join(OUT, re.sub(r'.*/', '', name) + '.txt'), 'w', encoding='utf-8') as f:
            for n in sorted(set(map(int, c['lines'])) | set(map(int, c['branches']))):
                branches = most(c['branches'].get(str(n), {}))
                if c['lines'].get(str(n), 1) == 0:
                    f.write('%s:%d: never run: %s\n' % (name, n, source[n - 1].strip()))
                elif 0 in branches:
                    f.write('%s:%d: %d of %d branches never taken: %s\n' % (name, n, branches.count(0), len(branches), source[n - 1].strip()))
    text = '\n'.join(table)
    with open(os.path.join(OUT, 'table.txt'), 'w') as f:
        f.write(text + '\n')
    print(text)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--run', nargs='*', default=None, help='the tests, by programs in build/cov; what they run is added to what was run before')
    p.add_argument('--merge', nargs='+', default=None)
    p.add_argument('--gcov', default='gcov')
    p.add_argument('--jobs', type=int, default=os.cpu_count())
    p.add_argument('--seconds', type=int, default=0, help='a C test ends after so many, where it is; 0: with its last line')
    args = p.parse_args()
    os.makedirs(OUT, exist_ok=True)
    if args.merge:
        report(merged(args.merge))
        return
    failed = []
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        failed = [f for f in pool.map(lambda name: run_test(name, args.seconds), args.run or []) if f]
    counts = counts_of(args.gcov, args.jobs)
    with open(os.path.join(OUT, 'counts.json'), 'w') as f:
        json.dump(counts, f)
    report(counts)
    if failed:
        sys.exit('\n'.join(failed))


if __name__ == '__main__':
    main()
