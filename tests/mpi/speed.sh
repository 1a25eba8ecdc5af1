#!/usr/bin/env bash
# How fast ranks are together: RANKSxTHREADS... against the first of them, on a model of random weights (lite6, q4); with build/mpi.
#     tests/mpi/speed.sh 1x2 2x1          tests/mpi/speed.sh 1x16 2x8 4x4        ROUNDS=3 of each, by turns: medians, and the best
# PROMPT=256 tokens, TOKENS=49, CHUNK=256. Options after -- go to build/mpi, as in: tests/mpi/speed.sh 1x2 2x1 -- --experts range
cd "$(dirname "$0")/../.." || exit 1
shapes=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do shapes+=("$1") && shift; done
[ "${1:-}" != -- ] || shift
[ ${#shapes[@]} -gt 0 ] || shapes=(1x2 2x1)
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_hwloc_base_binding_policy=none
for _ in $(seq "${ROUNDS:-3}"); do
    for shape in "${shapes[@]}"; do
        mpirun -n "${shape%x*}" "${MPI:-build/mpi}" --threads "${shape#*x}" --synthetic lite6 --bench "${PROMPT:-256}" -n "${TOKENS:-49}" \
            --chunk "${CHUNK:-256}" --ignore-eos --print-tokens "$@" 2>&1 >/dev/null |
            sed -n "s/^prompt: [0-9]* tokens, \\([0-9.]*\\) tokens.s; generation: [0-9]* tokens, \\([0-9.]*\\) .*/$shape \\1 \\2/p"
    done
done | awk -v first="${shapes[0]}" -v all="${shapes[*]}" '
    { n[$1]++; p[$1, n[$1]] = $2; d[$1, n[$1]] = $3 }
    function sorted(x, s,    i, j, t) {
        for (i = 2; i <= n[s]; i++)
            for (j = i; j > 1 && x[s, j] + 0 < x[s, j - 1] + 0; j--) { t = x[s, j]; x[s, j] = x[s, j - 1]; x[s, j - 1] = t }
    }
    function middle(x, s) { return (x[s, int((n[s] + 1) / 2)] + x[s, int(n[s] / 2) + 1]) / 2 }
    END {
        for (i = split(all, shapes, " "); i > 0; i--) { sorted(p, shapes[i]); sorted(d, shapes[i]) }
        for (i = 1; shapes[i] != ""; i++) {
            s = shapes[i]
            if (!n[s] || !n[first]) { print s ": did not run"; exit 1 }
            printf "%s: prompt %.1f tokens/s (best %.1f), %.3f of %s (%.3f); generation %.2f (%.2f), %.3f of %s (%.3f)\n", s,
                middle(p, s), p[s, n[s]], middle(p, s) / middle(p, first), first, p[s, n[s]] / p[first, n[first]],
                middle(d, s), d[s, n[s]], middle(d, s) / middle(d, first), first, d[s, n[s]] / d[first, n[first]]
        }
    }'
