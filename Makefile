# Everything a fresh machine needs: Python 3.11+, a C compiler and make.
#
#   make demo     build, start a node, import a real data set, print totals, stop
#   make test     build, lint, C tests under sanitizers, Python tests (a minute of chaos among them), the simulator
#   make chaos    five minutes of chaos on three real nodes
#
# `make build` makes .venv with the `unimeter` command in it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CC ?= cc
MAKEFLAGS += --no-print-directory

KERNEL_SOURCES := $(wildcard csrc/kernels/*.c)
KERNEL_HEADERS := $(wildcard csrc/kernels/*.h)
SYSIO_SOURCES := $(wildcard csrc/sysio/*.c)
SYSIO_HEADERS := $(wildcard csrc/sysio/*.h)
C_TESTS := $(patsubst csrc/tests/%.c,build/ctests/%,$(wildcard csrc/tests/test_*.c))
C_FUZZERS := $(patsubst csrc/fuzz/%.c,build/fuzz/%,$(wildcard csrc/fuzz/fuzz_*.c))
ARCH_FLAGS := $(if $(filter x86_64,$(shell uname -m)),-msse4.2)
STRICT := -std=gnu11 -O1 -g $(ARCH_FLAGS) -Wall -Wextra -Wconversion -Werror
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
FUZZ_ITERATIONS ?= 200000
SIM_SEEDS ?= 10000
CHAOS_SECONDS ?= 300
CHAOS_SEED ?= 1

.PHONY: build native demo test lint ctest fuzz pytest sim chaos bench bench-tools clean help

help:
	@sed -n 's/^#   //p' Makefile

build: $(STAMP) native

$(STAMP): pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(STAMP)

native: $(STAMP)
	@$(BIN)/python tools/build_native.py
	@$(BIN)/python tools/build_compiled.py

demo: build
	@$(BIN)/unimeter demo

test: build lint ctest fuzz pytest sim

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ctest: $(C_TESTS)
	@for test in $(C_TESTS); do echo "$$test"; $$test || exit 1; done

build/ctests/%: csrc/tests/%.c $(KERNEL_SOURCES) $(KERNEL_HEADERS) $(SYSIO_SOURCES) $(SYSIO_HEADERS)
	@mkdir -p build/ctests
	$(CC) $(STRICT) $(SANITIZE) -Icsrc/kernels -Icsrc/sysio -o $@ $< $(KERNEL_SOURCES) $(SYSIO_SOURCES) -lpthread

fuzz: $(C_FUZZERS)
	@for fuzzer in $(C_FUZZERS); do echo "$$fuzzer $(FUZZ_ITERATIONS)"; $$fuzzer $(FUZZ_ITERATIONS) || exit 1; done

build/fuzz/%: csrc/fuzz/%.c $(KERNEL_SOURCES) $(KERNEL_HEADERS)
	@mkdir -p build/fuzz
	$(CC) $(STRICT) $(SANITIZE) -Icsrc/kernels -o $@ $< $(KERNEL_SOURCES)

pytest: build
	$(BIN)/python -m pytest -n 2

sim: build
	$(BIN)/unimeter sim --seeds $(SIM_SEEDS) --jobs 2

# three real nodes, something bad every second, a recorded workload that is judged afterwards
chaos: build
	$(BIN)/python -m tests.chaos --seconds $(CHAOS_SECONDS) --seed $(CHAOS_SEED)

# every question of bench/ in short, one table of targets, plots; some eight minutes. BENCH_ARGS="--only nodes --dir DIR"
bench: build bench-tools
	@$(BIN)/python -c 'import matplotlib, psycopg, redis' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[dev,bench]' \
		|| echo "the bench extra cannot be installed here: no plots, no rivals"
	$(BIN)/python -m bench $(BENCH_ARGS)

bench-tools: build/bench/floor build/bench/kernel_steps build/bench/bench_apply

BENCH_CC := $(CC) -std=gnu11 -O3 $(ARCH_FLAGS) -Wall -Wextra -Wconversion -Werror -Icsrc/kernels

build/bench/floor: bench/floor.c csrc/kernels/crc32c.c $(KERNEL_HEADERS)
	@mkdir -p build/bench
	$(BENCH_CC) -o $@ $< csrc/kernels/crc32c.c

build/bench/bench_apply: bench/bench_apply.c $(KERNEL_SOURCES) $(KERNEL_HEADERS)
	@mkdir -p build/bench
	$(BENCH_CC) -flto -o $@ $< $(KERNEL_SOURCES)

# without -flto: a kernel that is inlined has no entry to count from
build/bench/kernel_steps: bench/kernel_steps.c csrc/tests/split_fixture.h $(KERNEL_SOURCES) $(KERNEL_HEADERS)
	@mkdir -p build/bench
	$(BENCH_CC) -Icsrc/tests -o $@ $< $(KERNEL_SOURCES)

clean:
	rm -rf build dist *.egg-info $(VENV)
	find . -name __pycache__ -prune -exec rm -rf {} +
	rm -f unimeter/kernels/native/*.so unimeter/io/real/*.so unimeter/commands/*.so
	rm -rf unimeter/_compiled
