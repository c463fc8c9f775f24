# `make` alone lists the targets. Every target sees to the environment first, so no step has to be made by hand.
# Needed: git, make, and Python 3.11.4 or later, 3.12 or 3.13 (tarfile is safe since 3.11.4). PYTHON names the candidates; the first that fits is taken.
PYTHON ?= python3 python3.13 python3.12 python3.11
MLFLOW_PORT ?= 5000
PREFECT_PORT ?= 4200
# More arguments for what a target runs: make test ARGS="-k docker"
ARGS ?=

SHELL := /bin/bash
.DELETE_ON_ERROR:

# uv lives apart from the environment: `uv pip sync` removes from .venv whatever the lock does not name.
UV := .uv/bin/uv
READY := .venv/.ready
fits = $(shell $(1) -c 'import sys; sys.exit(not (3, 11, 4) <= sys.version_info < (3, 14))' 2>/dev/null && echo $(1))
python = $(or $(firstword $(foreach candidate,$(PYTHON),$(call fits,$(candidate)))),\
	$(error Python 3.11 (from 3.11.4 on), 3.12 or 3.13 is needed, and none of these is one: $(PYTHON)))

export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Nothing phones home.
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export GX_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help setup run test check ui bench lock clean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## build the environment in .venv (about 6 GB); the other targets do it when needed
	@echo "The environment is in .venv"

run: $(READY) ## run every stage, then register and promote a champion
	python -m flows.training $(ARGS)

# Two workers on two cores: with more than one thread each they would wait for one another most of the time. Files in the
# order of their names: those with the fewest tests, which start servers, would all come last else.
test: $(READY) ## run the tests
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY) ## lint, formatting, types, import contracts
	ruff check .
	ruff format --check .
	mypy
	lint-imports

# Whatever ends one (Ctrl-C, a port that is taken) ends the other. Our own `connect` makes the store, because a kill
# while MLflow makes it leaves one that never opens again, and sees whether the project was moved. The address of the
# API is for Prefect's page.
ui: $(READY) ## MLflow at 127.0.0.1:5000 and Prefect at 127.0.0.1:4200, until Ctrl-C
	@test -n "$$MLFLOW_TRACKING_URI" || python -c 'from pipeline.tracking.server import connect; connect()'
	@echo "MLflow: http://127.0.0.1:$(MLFLOW_PORT)/#/experiments?workflowType=machine_learning"
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_BACKEND_STORE_URI="$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" \
		mlflow server --host 127.0.0.1 --port $(MLFLOW_PORT) --workers 1 & mlflow=$$!; \
	PREFECT_SERVER_UI_API_URL=http://127.0.0.1:$(PREFECT_PORT)/api \
		prefect server start --host 127.0.0.1 --port $(PREFECT_PORT) & prefect=$$!; \
	trap 'exit 0' INT TERM; trap 'kill $$mlflow $$prefect 2>/dev/null; wait' EXIT; \
	while kill -0 $$mlflow 2>/dev/null && kill -0 $$prefect 2>/dev/null; do sleep 1; done; \
	echo "one of the two has stopped; the reason stands above" >&2; exit 1

bench: $(READY) ## run every measurement in benchmarks/
	@for script in benchmarks/[!_]*.py; do \
		echo "== $$script"; PYTHONPATH=. python "$$script" $(ARGS) || exit 1; \
	done

lock: $(UV) ## write requirements.lock again from pyproject.toml (ARGS=--upgrade for newer versions)
	$(UV) pip compile pyproject.toml --extra dev --universal --generate-hashes \
		--no-emit-index-url --no-emit-find-links --quiet $(ARGS) -o requirements.lock

clean: ## remove the environment and the tools' caches; data, results and DVC's cache stay
	rm -rf .venv .uv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(UV): requirements-bootstrap.txt
	@echo "==> uv, which installs the rest"
	@$(python) -m venv .uv
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

# DVC asks git for the project's root; a downloaded zip has no git, and DVC must be told.
$(READY): requirements.lock $(UV)
	@echo "==> the environment: about 6 GB, some minutes on a first run"
	@test -x .venv/bin/python || $(python) -m venv .venv
	UV_COMPILE_BYTECODE=1 $(UV) pip sync --python .venv/bin/python --require-hashes $<
	@test -e .git || dvc config --local core.no_scm true
	@touch $@
