# make            the examples and the bench, into build/
# make run        tells a small tale, by the DeepSeek-V3 in miniature of examples/tales
# make test       all tests; the last line is "N passed, N failed"
# make tokenizer  compares token ids with the reference implementation on 20,000 texts (make test does on fewer)
# make check      the tests again under sanitizers and valgrind, as far as they are installed
# make bench      how fast, as a fraction of what the machine can do
# make plots      draws the same with gnuplot, as bench/*.svg
# make install    the header and mla.pc, under PREFIX=/usr/local (and DESTDIR=)
# make clean
# Variables: CC=gcc or clang, CFLAGS=-O2, OPENMP= (empty builds without)

CC ?= cc
CFLAGS = -O2
WARNINGS = -Wall -Wextra -Wpedantic -Wconversion -Wshadow
PREFIX = /usr/local
# Found out once, and only when something is compiled.
OPENMP = $(eval OPENMP := $(shell $(call can,-fopenmp,omp.h)))$(OPENMP)

COMPILE = $(CC) -std=c99 $(WARNINGS) $(CFLAGS) $(CPPFLAGS) -I. -Iexamples
LINK = $(LDFLAGS) -lm -pthread
PROGRAMS = build/generate build/minimal build/threads build/bench
HEADERS = mla.h $(wildcard examples/*.h tests/*.h)
TESTS = $(sort $(patsubst tests/%.c,%,$(wildcard tests/test_*.c)))
SCRIPTS = $(sort $(wildcard tests/*/run.sh))

all: $(PROGRAMS)

# A shell command that prints the flags $(1) if $(or $(3),$(CC)) can build and run a program with them that includes $(2).
can = d=$$(mktemp -d) && printf '\#include <$(2)>\nint main(void) { return 0; }\n' >$$d/a.c && \
      $(or $(3),$(CC)) $(1) $$d/a.c -o $$d/a >/dev/null 2>&1 && $$d/a >/dev/null 2>&1 && echo "$(1)"; rm -rf $$d

# ---- programs and tests ------------------------------------------------------------------------------------------------

build/generate build/minimal build/threads: build/%: examples/%.c $(HEADERS) build/flags
	$(COMPILE) $(OPENMP) $< -o $@ $(LINK)
build/bench: bench/bench.c $(wildcard bench/*.h) $(HEADERS) build/flags
	$(COMPILE) $(OPENMP) $(BENCH_RIVALS) $< -o $@ $(LINK) $(BENCH_RIVALS)
build/test_%: tests/test_%.c $(HEADERS) build/flags
	$(COMPILE) $(OPENMP) $< -o $@ $(LINK)

# What the bench compares with where Debian's libopenblas-dev and libdnnl-dev are installed; nothing else uses them.
BENCH_RIVALS = $(eval BENCH_RIVALS := $(if $(shell $(call can,-lopenblas,cblas.h)),-DBENCH_OPENBLAS -lopenblas) \
                                      $(if $(shell $(call can,-ldnnl,dnnl.h)),-DBENCH_ONEDNN -ldnnl))$(BENCH_RIVALS)

# Another compiler or other flags: everything is built again.
build/flags: FORCE
	@mkdir -p build
	@echo '$(COMPILE) $(OPENMP) $(LINK)' | cmp -s - $@ || echo '$(COMPILE) $(OPENMP) $(LINK)' >$@

# $(call add_up,COMMAND...): runs each command, shows what it says, and adds up the lines "N passed, N failed" they end with. A
# command that ends without such a line, or with an exit status above 0 and no failure counted, is a failure.
add_up = passed=0; failed=0; for t in $(1); do \
	    echo "== $$t"; \
	    { $(2) $$t 2>&1; echo $$? >build/status; } | tee build/log; \
	    read -r status <build/status; \
	    set -- $$(sed -n 's/^\([0-9][0-9]*\) passed, \([0-9][0-9]*\) failed$$/\1 \2/p' build/log | tail -n 1); \
	    if [ $$\# -ne 2 ]; then echo "$$t: no result, exit status $$status"; set -- 0 1; \
	    elif [ $$status -ne 0 ] && [ $$2 -eq 0 ]; then echo "$$t: exit status $$status"; set -- $$1 1; fi; \
	    passed=$$((passed + $$1)); failed=$$((failed + $$2)); \
	done; rm -f build/log build/status

test: $(PROGRAMS) $(addprefix build/,$(TESTS))
	@$(call add_up,$(addprefix ./build/,$(TESTS)) $(SCRIPTS)); \
	echo; echo "$$passed passed, $$failed failed"; [ $$failed -eq 0 ] && [ $$passed -gt 0 ]

# ---- make run ----------------------------------------------------------------------------------------------------------

run: build/generate
	./build/generate --model examples/tales --prompt "Once upon a time the Rat said to the Mole, “" -n 145 --temp 0.7 --min-p 0.1 \
	    --repeat-penalty 1.05 --repeat-last 128 --seed 301346

# ---- make check --------------------------------------------------------------------------------------------------------
# Built without OpenMP, whose runtimes the tools do not understand; the threads example brings its own threads.

check: check-asan check-tsan check-msan check-valgrind
CLANG = clang
VALGRIND_TESTS = $(filter test_api test_checkpoint,$(TESTS))
TSAN_TESTS = $(filter test_api,$(TESTS))
ASAN = $(shell $(call can,-fsanitize=address$(comma)undefined,stdio.h))
TSAN = $(shell $(call can,-fsanitize=thread,stdio.h))
MSAN = $(shell $(call can,-fsanitize=memory,stdio.h,$(CLANG)))
comma := ,
# Which tests check-asan and check-msan run.
CHECK_TESTS = $(TESTS)
CHECKED = $(CHECK_TESTS) minimal threads generate
INSPECT = -O1 -g -fno-omit-frame-pointer -I. -Iexamples -std=c99

# $(call inspect,NAME,COMPILER,FLAGS): the rules for build/NAME/PROGRAM
define inspect
build/$(1)/%: tests/%.c $(HEADERS)
	@mkdir -p build/$(1)
	$(2) $(INSPECT) $(3) $$< -o $$@ $$(LINK)
build/$(1)/%: examples/%.c $(HEADERS)
	@mkdir -p build/$(1)
	$(2) $(INSPECT) $(3) $$< -o $$@ $$(LINK)
endef
$(eval $(call inspect,asan,$(CC),-fsanitize=address$(comma)undefined -fno-sanitize-recover=all))
$(eval $(call inspect,tsan,$(CC),-fsanitize=thread))
$(eval $(call inspect,msan,$(CLANG),-fsanitize=memory))
$(eval $(call inspect,plain,$(CC),))

# The examples are no tests: they pass with exit status 0. $(call examples,DIRECTORY,WRAPPER,PROGRAM...)
FEW_TOKENS = --model tests/fixtures/checkpoints/deepseek_v3 --tokens "1 2 3 4 5" -n 3 --chunk 2 --temp 1
examples = for p in $(3) "generate $(subst ",\",$(FEW_TOKENS))"; do \
	    echo "== $(2) $(1)$$p"; if eval "$(2) $(1)$$p"; then passed=$$((passed + 1)); else failed=$$((failed + 1)); fi; done
verdict = echo; echo "$$passed passed, $$failed failed"; [ $$failed -eq 0 ]

check-asan:
	@if [ -z "$(ASAN)" ]; then echo "$(CC) has no address sanitizer here: left out"; else $(MAKE) --no-print-directory asan; fi
check-tsan:
	@if [ -z "$(TSAN)" ]; then echo "$(CC) has no thread sanitizer here: left out"; else $(MAKE) --no-print-directory tsan; fi
check-msan:
	@if [ -z "$(MSAN)" ]; then echo "$(CLANG) with a memory sanitizer is not here: left out"; else $(MAKE) --no-print-directory msan; fi
check-valgrind:
	@if ! command -v valgrind >/dev/null; then echo "valgrind is not here: left out"; else $(MAKE) --no-print-directory valgrind; fi
asan: $(addprefix build/asan/,$(CHECKED))
	@$(call add_up,$(addprefix ./build/asan/,$(CHECK_TESTS))); $(call examples,./build/asan/,,threads minimal); $(verdict)
msan: $(addprefix build/msan/,$(CHECKED))
	@$(call add_up,$(addprefix ./build/msan/,$(CHECK_TESTS))); $(call examples,./build/msan/,,threads minimal); $(verdict)
tsan: $(addprefix build/tsan/,$(TSAN_TESTS) threads)
	@$(call add_up,$(addprefix ./build/tsan/,$(TSAN_TESTS))); echo "== ./build/tsan/threads"; \
	if ./build/tsan/threads; then passed=$$((passed + 1)); else failed=$$((failed + 1)); fi; $(verdict)
valgrind: $(addprefix build/plain/,$(VALGRIND_TESTS) minimal generate)
	@$(call add_up,$(addprefix ./build/plain/,$(VALGRIND_TESTS)),$(MEMCHECK)); $(call examples,./build/plain/,$(MEMCHECK),minimal); $(verdict)
MEMCHECK = valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite

# ---- the rest ----------------------------------------------------------------------------------------------------------

# A set that takes less than five minutes on two cores; build/bench --help says what else there is.
bench: build/bench
	./build/bench limits
	./build/bench model --weights bf16 --depth 0,4096,16384 --reps 3
	./build/bench model --weights q8x16 --depth 0 --reps 3
	./build/bench model --weights q4x16 --depth 0 --reps 3
	./build/bench model --weights fp8 --depth 0 --pp 0
	./build/bench model --shape v3attn --depth 0,16384 --pp 0
	./build/bench kernels --shape lite6 --weights f32 --reps 3
	./build/bench kernels --shape lite6 --weights q4x16 --reps 3

# The README's plots, bench/*.svg, of what is measured for them (KEEP=1: of what was measured last time).
plots: build/bench
	@KEEP=$(KEEP) sh bench/plots.sh build/bench build/plots

VERSION = $(shell sed -n 's/^\#define MLA_VERSION "\(.*\)"/\1/p' mla.h)
install:
	install -d "$(DESTDIR)$(PREFIX)/include" "$(DESTDIR)$(PREFIX)/lib/pkgconfig"
	install -m 644 mla.h "$(DESTDIR)$(PREFIX)/include/mla.h"
	printf '%s\n' 'prefix=$(PREFIX)' 'includedir=$${prefix}/include' '' 'Name: mla' \
	    'Description: Multi-head Latent Attention and DeepSeekMoE for CPUs in one C header' 'Version: $(VERSION)' \
	    'Cflags: -I$${includedir}' 'Libs: -lm' >"$(DESTDIR)$(PREFIX)/lib/pkgconfig/mla.pc"

clean:
	rm -rf build

# Token ids against the reference implementation, on ten times the texts of `make test` (npm's packages come from its registry).
tokenizer: build/generate
	TEXTS=20000 tests/tokenizer/run.sh

.PHONY: all test run tokenizer check check-asan check-tsan check-msan check-valgrind asan tsan msan valgrind bench plots install clean FORCE
