# `make results` makes the environment and runs the main job; `make test` makes it and passes the tests.
.PHONY: results test check
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1

results: .venv/made
	snakemake --cores all
	python -m pipeline commit

test: .venv/made
	OMP_NUM_THREADS=1 pytest --numprocesses auto --dist loadfile  # a process a core, each with one thread

check: .venv/made
	ruff check . && ruff format --check . && mypy && lint-imports && snakefmt --check Snakefile workflow && snakemake --lint

.venv/made: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
