#!/usr/bin/env bash
# The rules of CONTRIBUTING.md that a machine can check. One line per finding; the exit status says whether there was one.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

each() { sed "s#^#$1: #"; }         # stdin: one finding a line
sources() { git ls-files -- 'src/*.c' 'src/*.h' 'src/*.cu' 'src/*.cuh' 'include/*.h' 'cli/*.c' 'cli/*.h' 'bench/*.c' 'bench/*.cu' 'tests/*.c' 'tests/*.h'; }
# What includes CUDA's headers is looked at where they are.
without_cuda() { if gcc -E -x c - <<<'#include <cuda.h>' >/dev/null 2>&1; then cat; else grep -vE '^src/compute/cuda/|/exchange_gpus'; fi; }
texts() { sources; git ls-files -- run .ci/run Makefile CMakeLists.txt '*/CMakeLists.txt' '*.cmake' '*.sh' '*.md'; }

# ---- form: .clang-format is for new code; hand-made columns and one-line structs stay as they were written ----

check_form() {
    local file
    sources | xargs -r grep -nP '\t' | each 'tab'
    texts | xargs -r grep -nE '[ 	]+$' | each 'trailing blank'
    texts | xargs -r grep -nP '\r' | each 'carriage return'
    sources | xargs -r grep -nE '^.{161}' | cut -c 1-100 | each 'line over 160 columns'
    texts | while IFS= read -r file; do [ ! -s "$file" ] || [ -z "$(tail -c 1 "$file")" ] || echo "$file"; done | each 'no newline at the end'
}

# ---- headers: each compiles alone, the public ones also as C++; a *_body.h is a text that several files compile in their own way ----

check_headers() {
    local header
    local -a mpi warn=(-Wall -Wextra -Werror -fsyntax-only -Iinclude -D_GNU_SOURCE)
    read -ra mpi < <(mpicc --showme:compile 2>/dev/null)
    while IFS= read -r header; do
        gcc -std=c11 "${warn[@]}" -Wno-unused-function -Isrc "${mpi[@]}" -x c "$header" 2>&1 | grep -E 'error' | head -n 3 | each 'as C11'
    done < <(git ls-files -- 'include/*.h' 'src/*.h' | grep -v '_body\.h$' | without_cuda)
    while IFS= read -r header; do
        g++ -std=c++17 "${warn[@]}" -x c++ "$header" 2>&1 | grep -E 'error' | head -n 3 | each 'as C++'
        grep -nE '#include "' "$header" | grep -v '#include "grace/' | sed "s#^#$header:#" | each 'public header includes an internal one'
    done < <(git ls-files -- 'include/*.h')
}

# ---- layers: which modules a module may include ----

may_include() {  # MODULE ALLOWED...
    local module=$1 allowed
    allowed=$(IFS='|'; echo "$*")
    git grep -nE '^#include "' -- "src/$module" | grep -vE ":#include \"($allowed|grace)/" | each "layer: $module may include only $allowed and grace"
}

check_layers() {
    may_include base
    for module in model text plan comm report fetch; do may_include $module base; done
    may_include compute base model      # declarations of tensors
    may_include interop base plan
    may_include run base model text plan comm compute
    may_include sim base plan comm run
    may_include serve base run
    git grep -nE '<jansson.h>' -- src cli bench tests | grep -v '^src/base/json\.c:' | each 'jansson is behind base/json.h'
    git grep -nE '<(curl|openssl)/' -- src cli bench tests | grep -vE '^src/fetch/(http|digest)\.c:' | each 'libcurl and libcrypto are behind fetch/http.h and fetch/digest.h'
    git grep -nE '<mpi.h>' -- src cli bench | grep -v '^src/comm/' | each 'MPI is behind comm/comm.h'
    git grep -nE '\b(exit|abort)\(' -- src | grep -v '^src/base/status\.c:' | grep -vE '(_|->)(exit|abort)\(' | each 'the library does not end the process'
    git grep -nE '\b(printf|puts|putchar)\(' -- src | each 'the library prints nothing'
}

# ---- tests: a source file NAME.c or NAME_PART.c has a test of its name, or one that includes its header or names it ----

has_test() {  # MODULE NAME
    compgen -G "tests/$1/test_$2.c" >/dev/null || grep -rqE --include='*.[ch]' "\\b$1/(.*/)?$2\.[ch]\\b" tests
}

check_tests() {
    local file name module
    while IFS= read -r file; do
        name=$(basename "$file" .c) module=$(cut -d/ -f2 <<<"$file")
        has_test "$module" "$name" || has_test "$module" "${name%_*}" || echo "$file"
    done < <(git ls-files -- 'src/*.c') | each 'no test'
    while IFS= read -r file; do
        name=$(basename "$file" .c)
        [ -n "$(git ls-files -- "tests/fuzz/corpus/${name#fuzz_}")" ] || echo "$file: expected inputs in tests/fuzz/corpus/${name#fuzz_}"
    done < <(git ls-files -- 'tests/fuzz/fuzz_*.c') | each 'no corpus'
}

# ---- tools ----

check_tools() {
    git ls-files -- run .ci/run '*.sh' | xargs -r shellcheck -f gcc | each shellcheck
    cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=0 -D_GNU_SOURCE -DGRACE_HAVE_MPI \
        --suppress=missingIncludeSystem --suppress=normalCheckLevelMaxBranches --suppress=unknownMacro --suppress=arrayIndexThenCheck --suppress=zerodiv --library=posix -Iinclude -Isrc -j 2 \
        -i src/compute/cuda --template='{file}:{line}: {severity}: {message} [{id}]' src cli bench 2>&1 | each cppcheck
    git ls-files -- 'src/*.c' 'cli/*.c' 'bench/*.c' | without_cuda | xargs -r -P "$(nproc)" -n 1 clang-tidy -p build/release --quiet 2>/dev/null |
        grep -E '^/.*(warning|error): ' | sed "s#^$PWD/##" | sort -u | each clang-tidy
}

findings=$(check_form; check_headers; check_layers; check_tests; check_tools)
[ -n "$findings" ] || { echo "lint: no findings"; exit 0; }
printf '%s\n' "$findings"
echo "lint: $(wc -l <<<"$findings") findings"
exit 1
