#!/bin/sh
# Runs tests, as many at once as there are processors (or JOBS=n), and says of each what passed and failed and how long it took;
# shows the output of those that failed. The last line is "N passed, N failed"; the exit status is above 0 if anything failed.
#     tests/run.sh NAME...     test_api: build/test_api     generate: tests/generate/run.sh
#                              asan/test_api, valgrind/test_api and so on: the same built for that tool
# Each test says "N passed, N failed" itself; one that does not has failed. Whatever it prints is kept as build/log/NAME.
# With TEST_ALL=1 the tests do all they can; else what makes sense in less than two minutes.
cd "$(dirname "$0")/.." || exit 1

if [ "$1" != --one ]; then
    [ $# -gt 0 ] || echo 'no such test'
    mkdir -p build/log && : >build/log/results || exit 1
    # The tests share the processors: threads with nothing to do must not spin.
    export OMP_WAIT_POLICY=passive
    # Memory that was freed stays with the process (glibc): a tenth of the time would go into getting it anew.
    export MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TOP_PAD_=16777216
    for name; do printf '%s\0' "$name"; done | xargs -0 -r -n 1 -P "${JOBS:-$(getconf _NPROCESSORS_ONLN)}" sh tests/run.sh --one
    awk '{ passed += $2; failed += $3 } END { printf "%d passed, %d failed\n", passed, failed; exit failed > 0 || passed == 0 }' build/log/results
    exit
fi

name=$2 tool='' log=build/log/$2
case $name in
valgrind/*) tool='valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite' ;;
esac
case $name in
*test_*) command="$tool ./build/$name" ;;
examples | */examples) command="tests/examples/run.sh build/${name%examples} $tool" ;;
fail | */fail) command="tests/fail/run.sh build/${name%fail}" ;;
*) command="tests/$name/run.sh" ;;
esac
mkdir -p "$(dirname "$log")"
begin=$(date +%s)
$command >"$log" 2>&1 </dev/null
status=$?
seconds=$(($(date +%s) - begin))
# shellcheck disable=SC2046
set -- $(sed -n 's/^\([0-9][0-9]*\) passed, \([0-9][0-9]*\) failed$/\1 \2/p' "$log" | tail -n 1)
why=
if [ $# -ne 2 ]; then
    set -- 0 1
    why=", no result, exit status $status"
elif [ $status -ne 0 ] && [ "$2" -eq 0 ]; then
    set -- "$1" 1
    why=", exit status $status"
fi
echo "$name $1 $2" >>build/log/results
line=$(printf '%-24s %7d passed, %d failed, %4d s%s' "$name" "$1" "$2" "$seconds" "$why")
if [ "$2" -gt 0 ]; then more=$(tail -n 200 "$log"); else more=$(grep 'left out' "$log"); fi
printf '%s\n' "$line${more:+
$(echo "$more" | sed 's/^/    /')}"
