# `make help` lists the targets. Everything runs in .venv, which `make setup` makes.
.PHONY: help setup demo test test-fast format lint check serve bench audit wheel hooks dvc docs clean
.DEFAULT_GOAL := help

# The launcher itself starts TensorFlow, whose news nobody needs.
export TF_CPP_MIN_LOG_LEVEL ?= 3
VENV := .venv/bin
export PATH := $(CURDIR)/$(VENV):$(PATH)

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup:  ## make .venv with everything (skipped when it is up to date)
	@scripts/setup.sh

demo: setup  ## the whole pipeline on embedded data, ending in an answered request; TASK=image (default) or text
	@$(VENV)/python examples/demo.py $(or $(TASK),image)

test: setup  ## every test
	@scripts/triton_env.sh || echo "[triton] no environment for it: tests that ask Triton are left out"
	@scripts/weight_only_env.sh || echo "[weight-only] no environment for it: tests of 4-bit and 8-bit weights are left out"
	@scripts/deploy_env.sh || echo "[deploy] no environment for it: some checks of manifests, workflows and pins are left out"
	@scripts/dvc_env.sh || echo "[dvc] no environment for it: tests of data versions are left out"
	@scripts/mlflow_env.sh || echo "[mlflow] no environment for it: the test of the tracking server is left out"
	@$(VENV)/python -m compileall -q tfpipe serving tests  # for the many processes that tests start
	@$(VENV)/python -m pytest -n auto --maxprocesses 4 --no-loadscope-reorder

test-fast: setup  ## the tests that take seconds
	@$(VENV)/python -m pytest -m "not slow and not tensorflow and not horovod"

format: setup  ## rewrite the sources in the project's format
	@$(VENV)/ruff format . && $(VENV)/ruff check --fix .

lint: setup  ## format, style, types, and who may import whom
	@$(VENV)/ruff format --check . && $(VENV)/ruff check . && $(VENV)/mypy && $(VENV)/lint-imports

check: lint test  ## what CI runs

serve: setup  ## serve the champion on http://127.0.0.1:8000
	@$(VENV)/python -m serving

bench: setup  ## one benchmark: make bench NAME=conversion; the last line is its result as JSON
	@test -n "$(NAME)" || { echo "expected NAME=, one of: $$(grep -l "make bench NAME=" benchmarks/*.py | xargs -n 1 basename -s .py | xargs)"; exit 2; }
	@$(VENV)/python -m benchmarks.$(NAME)

audit: setup  ## an SBOM of the pins in build/sbom, and their known vulnerabilities; STRICT=1 fails where the database is away
	@scripts/deploy_env.sh
	@.venvs/deploy/bin/python scripts/audit.py $(if $(STRICT),--require-database)

wheel: setup  ## dist/tfpipe-VERSION-py3-none-any.whl
	@$$(command -v uv || echo .tools/bin/uv) build --quiet --wheel --out-dir dist

hooks: setup  ## what `git commit` runs first, from .pre-commit-config.yaml
	@scripts/deploy_env.sh
	@.venvs/deploy/bin/pre-commit install

dvc:  ## make .venvs/dvc, for the stages of dvc.yaml
	@scripts/dvc_env.sh

docs: setup  ## the documentation as a site: build/site; fails where a link is dead
	@$(VENV)/python -m sphinx --quiet -W --keep-going -b html -c docs -d build/site-cache . build/site
	@echo "build/site/index.html"

clean:  ## remove caches; environments, runs and the tracking store stay
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
