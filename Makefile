# What a person and CI call. Only Python >= 3.11, make and git have to be there; the rest is set up here.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test proof check bench lint types imports clean

help: ## show what there is to call
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(READY) ## make the virtual environment and install everything into it

# The editable install is made of links to the files there are, so that type checkers can follow it. It is
# made again when the description of the package or the list of its files changes.
FILES := $(shell find streaming integrations examples/demo -type f ! -path '*/__pycache__/*' | LC_ALL=C sort)
LISTING := $(VENV)/files

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "making the virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

.PHONY: listing
listing: $(VENV)/bin/python
	@echo '$(FILES)' | cmp -s - $(LISTING) || echo '$(FILES)' > $(LISTING)
$(LISTING): listing ;

$(READY): pyproject.toml $(LISTING) $(VENV)/bin/python
	@echo "installing the package and its development tools (about a minute the first time)"
	@rm -rf build/__editable__*
	@$(BIN)/python -m pip install -qq --disable-pip-version-check \
		--config-settings editable_mode=strict --editable '.[dev]'
	@touch $@

demo: $(READY) ## run the demonstration: a shop that fails now and then, and what is told of it
	@$(BIN)/codomyrmex-streaming demo $(DEMO)

# As many processes as there are cores; the tests of a file stay together.
test: $(READY) ## run the tests
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile --ignore tests/peers $(COVERAGE)

proof: $(READY) ## run the tests against real servers, browsers and killed processes (at most ten minutes)
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile tests/peers

# The tests once, by the rule above, with coverage this time.
check: COVERAGE := --cov --cov-report=
check: lint types imports test ## run what CI runs: lint, types, import contracts, tests with coverage
	@$(BIN)/python -m coverage report --include='*/streaming/*' --fail-under=98
	@$(BIN)/python -m coverage report --include='*/integrations/*' --fail-under=95

lint: $(READY) ## ruff, lint and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY) ## mypy and pyright
	@$(BIN)/mypy -p codomyrmex.streaming -p codomyrmex.integrations
	@$(BIN)/mypy tests/typing examples benchmarks
	@$(BIN)/pyright

imports: $(READY) ## who may import whom
	@$(BIN)/lint-imports

bench: $(READY) ## measure speed and memory against other libraries; writes benchmarks/results.md
	@$(BIN)/python benchmarks/run.py $(BENCH)

clean: ## remove what was made
	rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
