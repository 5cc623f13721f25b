# Every target does its own set-up; nothing needs to be installed first but Python 3.11+, git and make.
PYTHON ?= python3
# Processes of `make test`, each on one thread.
TEST_WORKERS ?= 2
VENV   := .venv
BIN    := $(CURDIR)/$(VENV)/bin
READY  := $(VENV)/.ready
# DVC runs the stages by name (`vigil stage ...`), so the environment's own commands come first.
export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: repro test fuzz check format bench bench-data up down status clean help
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (once; a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Vigil needs Python 3.11 or later: set PYTHON=...")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[ops,dev]'
	@touch $(READY)

repro: $(READY)  ## Rebuild everything that changed: raw images to registered model and report
	@dvc repro
	@vigil summary

# Files stay whole, so that no fixture of a file is made twice, and in their order, so that the long ones come early.
test: $(READY)  ## Run the tests, in two processes (TEST_WORKERS=N)
	@OMP_NUM_THREADS=1 pytest --numprocesses=$(TEST_WORKERS) --dist=loadfile --no-loadscope-reorder

fuzz: $(READY)  ## 5,000 damaged files of every kind through the readers (a few minutes; `make test` runs 300)
	@VIGIL_FUZZ_CASES=$${VIGIL_FUZZ_CASES:-5000} pytest tests/fuzz

check: $(READY)  ## Lint, format, types and dependencies, as CI runs them
	@ruff check .
	@ruff format --check .
	@mypy
	@pip check

format: $(READY)  ## Format the code and mend what ruff can
	@ruff check --fix .
	@ruff format .

bench: $(READY)  ## Speed of training and scoring, ratios side by side (docs/benchmarks)
	@python -m tests.benchmark

SIZES ?= 1000 10000 100000
bench-data: $(READY)  ## What data cost: speed, memory, bytes, for sets of SIZES images (half an hour, 30 GB of disk)
	@python -m tests.benchmark.speed
	@python -m tests.benchmark.scale $(SIZES)

up: $(READY)  ## Start Prefect, MLflow and the served flows on 127.0.0.1
	@python -m flows.services up

down: $(READY)  ## Stop what `make up` started
	@python -m flows.services down

status: $(READY)  ## Say what `make up` started
	@python -m flows.services status

clean:  ## Remove the environment and caches; keeps data, models and reports
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build src/*.egg-info
