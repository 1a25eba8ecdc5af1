#!/usr/bin/env bash
# The headers after those of others, whose macros are many, and under another name. The last line is "N passed, N failed".
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
CC=${CC:-gcc}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

# check WHAT COMMAND...: the command succeeds
check() {
    local what=$1
    shift
    if "$@" >"$tmp/log" 2>&1; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAILED: $what"
        head -n 12 "$tmp/log" | sed 's/^/    /'
    fi
}

# after FILE HEADER...: a program that includes these headers and then all of the project's, mla.h as FILE
after() {
    local mla=$1
    shift
    printf '#include %s\n' "$@"
    echo '#define MLA_IMPLEMENTATION'
    echo "#include \"$mla\""
    for header in "$root"/examples/*.h; do
        name=$(basename "$header" .h)
        [ "$name" != wire ] && [ "$name" != ranks ] || continue # which need MPI
        echo "#define $(echo "$name" | tr a-z A-Z)_IMPLEMENTATION"
        echo "#include \"$name.h\""
    done
    echo 'int main(void) { return 0; }'
}

# a copy under another name finds itself, or is told where it is; where it cannot, one sentence says what to define
mkdir "$tmp/copy"
cp "$root/mla.h" "$tmp/copy/copy.h"
after copy.h '<complex.h>' >"$tmp/complex.c"
after mla.h "\"$here/hostile.h\"" >"$tmp/hostile.c"
check "after complex.h, as a copy of another name, by MLA_FILE" $CC -std=c99 -fsyntax-only -DMLA_FILE='"copy.h"' -I"$tmp/copy" -I"$root/examples" "$tmp/complex.c"
check "after macros of other headers" $CC -std=c99 -fsyntax-only -I"$root" -I"$root/examples" "$tmp/hostile.c"
if command -v x86_64-w64-mingw32-gcc >/dev/null; then
    after mla.h '<windows.h>' >"$tmp/windows.c"
    check "after windows.h" x86_64-w64-mingw32-gcc -std=c99 -fsyntax-only -I"$root" -I"$root/examples" "$tmp/windows.c"
else
    echo "no compiler for Windows here: left out"
fi

printf '#define MLA_IMPLEMENTATION\n#include "copy.h"\n' >"$tmp/copy/a.c"
how=-E # which finds the copy; all of it is translated above
[ "${TEST_ALL:-}" ] && how=-fsyntax-only
check "a copy of another name" $CC -std=c99 $how -I"$tmp/copy" "$tmp/copy/a.c"
$CC -std=c99 -fsyntax-only -Wfatal-errors -ffile-prefix-map="$tmp"=/elsewhere -I"$tmp/copy" "$tmp/copy/a.c" >"$tmp/mapped" 2>&1 ||
    check "a copy that cannot find itself says so" grep -q '#error.*define MLA_FILE' "$tmp/mapped" # some compilers find it all the same
mkdir "$tmp/other"
sed 's/^#define MLA__TEMPLATE_VERSION .*/#define MLA__TEMPLATE_VERSION 1/' "$root/mla.h" >"$tmp/other/mla.h"
$CC -std=c99 -fsyntax-only -Wfatal-errors -I"$tmp/copy" -I"$tmp/other" "$tmp/copy/a.c" >"$tmp/another" 2>&1
check "a copy that finds another version says so" grep -q '#error.*another version.*define MLA_FILE' "$tmp/another"

# the manual's contents are the anchors of the file, in order
sed -n '/^CONTENTS/,/^MEMORY/p' "$root/mla.h" | grep -o '>>[a-z0-9-]*' >"$tmp/contents"
grep -o '^/\* \(---- \)\?>>[a-z0-9-]*' "$root/mla.h" | grep -o '>>.*' >"$tmp/anchors"
check "CONTENTS lists every anchor in the order of the file" diff "$tmp/contents" "$tmp/anchors"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
