#!/usr/bin/env bash
# How fast ranks are together: RANKSxTHREADS... against the first of them, on a model of random weights (lite6, q4); with build/mpi.
#     tests/mpi/speed.sh 1x2 2x1          tests/mpi/speed.sh 1x16 2x8 4x4        ROUNDS=3 of each, by turns; the best counts
# Options after -- go to build/mpi, as in: tests/mpi/speed.sh 1x2 2x1 -- --experts range
cd "$(dirname "$0")/../.." || exit 1
shapes=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do shapes+=("$1") && shift; done
[ "${1:-}" != -- ] || shift
[ ${#shapes[@]} -gt 0 ] || shapes=(1x2 2x1)
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_hwloc_base_binding_policy=none
declare -A prompt decode
best() { awk -v a="${1:-0}" -v b="$2" 'BEGIN { print (a > b ? a : b) }'; }
for _ in $(seq "${ROUNDS:-3}"); do
    for shape in "${shapes[@]}"; do
        line=$(mpirun -n "${shape%x*}" "${MPI:-build/mpi}" --threads "${shape#*x}" --synthetic lite6 --bench "${PROMPT:-256}" -n "${TOKENS:-49}" \
            --chunk 256 --ignore-eos --print-tokens "$@" 2>&1 >/dev/null | grep '^prompt:')
        read -r p d < <(sed 's/^prompt: [0-9]* tokens, \([0-9.]*\) tokens.s; generation: [0-9]* tokens, \([0-9.]*\) .*/\1 \2/' <<<"$line")
        prompt[$shape]=$(best "${prompt[$shape]:-0}" "$p") decode[$shape]=$(best "${decode[$shape]:-0}" "$d")
    done
done
for shape in "${shapes[@]}"; do
    awk -v s="$shape" -v p="${prompt[$shape]}" -v d="${decode[$shape]}" -v p0="${prompt[${shapes[0]}]}" -v d0="${decode[${shapes[0]}]}" -v f="${shapes[0]}" 'BEGIN {
        printf "%s: prompt %.1f tokens/s, %.3f of %s; generation %.2f tokens/s, %.3f of %s\n", s, p, p / p0, f, d, d / d0, f }'
done
