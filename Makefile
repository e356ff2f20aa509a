# The commands for developers and CI. Requires Python 3.11 or newer, make and git; installs everything else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test proof proof-long check bench docs lint types imports clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(READY) ## create the virtual environment and install the project with its development tools

# The editable install is a folder of links to the source files, which type checkers can follow. It is
# recreated when pyproject.toml or the list of source files changes.
FILES := $(shell find streaming integrations examples/demo -type f ! -path '*/__pycache__/*' | LC_ALL=C sort)
LISTING := $(VENV)/files

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is required, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@echo "creating the virtual environment in $(VENV)"
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

demo: $(READY) ## run the demonstration: a shop that fails now and then, its logs, alerts and live page
	@$(BIN)/codomyrmex-streaming demo $(DEMO)

# One process for each core; the tests of a file run in the same process. `make check` runs those of all stores.
STORE_KINDS ?= sqlite,postgres
test: $(READY) ## run the tests
	@STORE_KINDS=$(STORE_KINDS) $(BIN)/python -m pytest --numprocesses auto --dist loadfile --ignore tests/peers $(COVERAGE)

# FUZZ_SECONDS are for all fuzzers together. They come first, because nothing else takes so long. Valkey's
# tests are only here.
FUZZ_SECONDS ?= 60
proof: $(READY) ## run the tests against real servers, browsers and killed processes, and a minute of fuzzing
	@FUZZ_SECONDS=$(FUZZ_SECONDS) STORE_KINDS=valkey $(BIN)/python -m pytest --numprocesses auto --dist loadfile \
		tests/fuzz tests/peers $(wildcard tests/durable/test_store_*.py)

# All can be set in the environment, such as for a short trial of this target.
proof-long: FUZZ_SECONDS := $(if $(filter environment,$(origin FUZZ_SECONDS)),$(FUZZ_SECONDS),3600)
proof-long: export ALERT_KILLS ?= 500
proof-long: export ALERT_HOLDER_KILLS ?= 200
proof-long: export STORE_KILLS ?= 300
proof-long: export STREAM_KILLS ?= 300
proof-long: export STREAM_EVENTS ?= 1000000
proof-long: proof ## the same with an hour of fuzzing and ten times as many killed processes

# Runs the tests once, by the rule above, with coverage.
check: COVERAGE := --cov --cov-report=
check: STORE_KINDS := sqlite,postgres,redis,nats
check: lint types imports test ## run what CI runs: lint, types, import contracts, tests with coverage
	@$(BIN)/python -m coverage report --include='*/streaming/*' --fail-under=98
	@$(BIN)/python -m coverage report --include='*/integrations/*' --fail-under=95

lint: $(READY) ## run ruff, lint and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY) ## run mypy and pyright
	@$(BIN)/mypy -p codomyrmex.streaming -p codomyrmex.integrations
	@$(BIN)/mypy tests/typing examples benchmarks
	@$(BIN)/pyright

imports: $(READY) ## check the import contracts
	@$(BIN)/lint-imports

bench: $(READY) ## measure speed and memory against other libraries; writes benchmarks/results.md
	@$(BIN)/python benchmarks/run.py $(BENCH)

# The variable silences an advertisement that Material for MkDocs prints with each build.
docs: $(READY) ## build the documentation into build/site; every warning is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean: ## remove everything that these targets create
	rm -rf $(VENV) build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
