# Every target sets up what it needs; `make help` lists them.
# The first use needs the network, later ones do not. Nothing is read or written outside the
# repository, except the caches of pip, uv and Maven in the home directory.

.DEFAULT_GOAL := help
SHELL := /bin/sh
.SHELLFLAGS := -eu -c

# Containers often run without a home directory, or with one that cannot be written.
ifneq ($(shell test -n "$${HOME:-}" && test -w "$$HOME" && echo writable),writable)
export HOME := $(CURDIR)/.cache/home
endif

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CHECK := import sys; sys.exit(sys.version_info < (3, 11))
# Recursive on purpose: looked up only where an environment has to be made.
FIND_PYTHON = for candidate in $${PYTHON:-} python3 python3.11 python3.12 python3.13 python; do \
	if $$candidate -c '$(CHECK)' 2>/dev/null; then echo $$candidate; break; fi; done

# Parameters of the targets below, as in `make faults RUNS=100 SEED=7`.
RUNS ?= 20
SEED ?= 0
ARGS ?=
ENGINE ?= all
SEEDS ?=

.PHONY: help setup check test run faults sim bench bench-consensus clean

help: ## show this help
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' \
		$(MAKEFILE_LIST)

setup: $(INSTALLED) ## make .venv and install the locked dependencies; instant the second time

# The stamp is newer than both files exactly when what they say is installed.
$(INSTALLED): pyproject.toml requirements.lock
	@mkdir -p "$$HOME"
	@if command -v uv >/dev/null 2>&1; then $(INSTALL_UV); else $(INSTALL_PIP); fi
	@touch $@

define INSTALL_UV
echo "setup: installing with uv into $(VENV)"; \
test -x $(BIN)/python || uv venv --quiet --python '>=3.11' $(VENV); \
uv pip sync --quiet --require-hashes --python $(BIN)/python requirements.lock; \
uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
endef

define INSTALL_PIP
python=$$($(FIND_PYTHON)); \
if test -z "$$python"; then \
	echo "setup: no Python 3.11 or later on PATH. Install one (Debian: apt-get install python3" \
		"python3-venv), or name it: make setup PYTHON=/path/to/python3" >&2; exit 2; fi; \
if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	echo "setup: $$python has no venv module. Install it (Debian: apt-get install python3-venv)," \
		"or put uv on PATH." >&2; exit 2; fi; \
echo "setup: installing with pip into $(VENV); the first time takes a few minutes"; \
test -x $(BIN)/python || $$python -m venv $(VENV); \
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	-r requirements.lock; \
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	--no-build-isolation --editable .
endef

check: $(INSTALLED) ## formatter, linter, layers, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/basedpyright

test: check ## everything above, then all tests; the last line counts passed and skipped
	$(BIN)/python -m pytest -q -rs $(ARGS)

run: $(INSTALLED) ## the main job: real data, a real Kafka, killed workers, a verdict
	$(BIN)/onceflow demo $(ARGS)

faults: $(INSTALLED) ## RUNS=n random kills and stops from SEED=s, repeatable
	$(BIN)/python -m pytest -q -m faults tests/faults --fault-runs=$(RUNS) --fault-seed=$(SEED) \
		$(ARGS)

# A failure prints its seed, and what led to it. ARGS=--mutations puts known bugs in and looks for
# them. ENGINE=epochs is workers with two-phase sinks, the others are the replicated group.
SIMULATE_GROUP = $(BIN)/python -m onceflow_consensus.testing.simulator --engine $(ENGINE)
SIMULATE_SINKS = $(BIN)/python tests/simulation/epochs.py
SIMULATED = --first $(SEED) $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)
sim: $(INSTALLED) ## simulate SEEDS=n lives from SEED=s on; ENGINE=raft|paxos|epochs|all
	$(if $(filter-out epochs,$(ENGINE)),$(SIMULATE_GROUP) $(SIMULATED))
	$(if $(filter epochs all,$(ENGINE)),$(SIMULATE_SINKS) $(SIMULATED))

bench: $(INSTALLED) ## side-by-side benchmarks: a table, and JSON lines; ARGS=--quick for a short one
	$(BIN)/python tests/bench $(ARGS)

bench-consensus: $(INSTALLED) ## the replicated group against etcd, the same way; ARGS=--quick as well
	$(BIN)/python tests/bench_consensus $(ARGS)

clean: ## remove the environment, caches and local data
	rm -rf $(VENV) .cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build data
	find app consensus tests -name __pycache__ -type d -prune -exec rm -rf {} +
