#!/usr/bin/env bash
# The style that a program can see: C files as clang-format would have them (where it is installed), no line over 120 columns in mla.h,
# examples/ and bench/, and in mla.h no function over 60 lines (which is shown, and counted with TEST_ALL=1). Ends with "N passed, N failed".
cd "$(dirname "$0")/../.." || exit 1
passed=0 failed=0
check() { # WHAT COMPLAINTS
    if [ -z "$2" ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && printf '%s:\n%s\n' "$1" "$2"; fi
}
if command -v clang-format >/dev/null; then
    files=(*.h */*.[ch] tests/*/*.[ch])
    wrong=$(clang-format --dry-run "${files[@]}" 2>&1 | grep 'warning:')
    for file in "${files[@]}"; do check "$file is not as clang-format has it" "$(grep -m 3 "^$file:" <<<"$wrong")"; done
else
    echo 'clang-format is not here: left out'
fi
check 'lines over 120 columns' "$(LC_ALL=C.UTF-8 grep -nE '^.{121}' mla.h examples/*.[ch] examples/web/*.c bench/*.[ch])"
long_functions="$(awk '/^[a-zA-Z].*\(/ && !/^typedef/ { begin = FNR; open = 0 }
    /{$/ { open = 1 }
    /\*\/$/ && !open { begin = 0 }
    /^}/ { if (begin && FNR - begin >= 60) print FILENAME ":" begin ": " FNR - begin + 1 " lines"; begin = 0 }' mla.h)"
if [ "${TEST_ALL:-}" ]; then
    check 'functions over 60 lines' "$long_functions"
else
    printf '%s\n' "$long_functions"
fi
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
