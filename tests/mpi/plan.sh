#!/usr/bin/env bash
# Tokens/s of two ranks of one thread over a network that delay.c makes of this machine, against what --plan says from what was measured, by
# width and by depth (lite6, q4; build/mpi; a quiet machine). READ1 and READ2: GB/s of weights that a rank of one thread reads alone, and
# beside another one; measured, where they are not given.
#     tests/mpi/plan.sh [US...]        microseconds of latency [100 1000]; GBS=1 of the link; MPIRUN="mpirun -n 2" is how ranks are begun
cd "$(dirname "$0")/../.." || exit 1
[ $# -gt 0 ] || set -- 100 1000
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_hwloc_base_binding_policy=none
mpicc -O2 -shared -fPIC tests/mpi/delay.c -o build/delay.so || exit 1
alone() {
    mpirun -n 1 build/mpi --synthetic lite6 --bench 8 -n "${TOKENS:-65}" --ignore-eos --threads 1 2>&1 >/dev/null |
        sed -n 's/.*generation: [0-9]* tokens, \([0-9.]*\) .*/\1/p'
}
if [ ! "${READ1:-}" ]; then
    per_gb=$(build/mpi --plan 1 --synthetic lite6 --read 100 | awk 'END { print $NF / 100 }') # tokens/s of 1 GB/s
    READ1=$(alone | awk -v g="$per_gb" '{ print $1 / g }')
    READ2=$({ alone & alone; wait; } | awk -v g="$per_gb" '{ s += $1 } END { print s / NR / g }')
fi
echo "a rank reads $READ1 GB/s, each of two $READ2"
for us; do
    read -ra over <<<"${MPIRUN:-mpirun -n 2}"
    over+=(-x "LD_PRELOAD=$PWD/build/delay.so" -x "MPI_DELAY_US=$us" -x "MPI_DELAY_GBS=${GBS:-1}" build/mpi)
    read -ra link < <("${over[@]}" --measure)
    for cut in width depth; do
        read=$READ2 && [ $cut = depth ] && read=$READ1
        says=$(build/mpi --plan 2 --$cut 2 --synthetic lite6 --read "$read" "${link[@]}" | awk 'END { print $NF }')
        does=$("${over[@]}" --$cut 2 --synthetic lite6 --bench 8 -n "${TOKENS:-65}" --ignore-eos --threads 1 2>&1 >/dev/null |
            sed -n 's/.*generation: [0-9]* tokens, \([0-9.]*\) .*/\1/p')
        awk -v u="$us" -v c="$cut" -v l="${link[*]}" -v s="$says" -v d="$does" 'BEGIN {
            printf "%s us, by %s (%s): %.2f tokens/s, the plan says %.2f: %.3f of it\n", u, c, l, d, s, d / s }'
    done
done
