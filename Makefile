# Every target first makes the environment in .venv.
#   results   run the default study and record it
#   test      run the quick tests: every stage, minutes
#   test-all  run the slow tests too: whole studies, DVC, kills, browsers
#   check     run format, lint, type and import checks
.PHONY: results test test-all check
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1
# How often tests/chaos kills a run: each victim once. Without make, 20 times.
export CHAOS_KILLS ?= 5

results: .venv/made
	snakemake --cores all
	python -m pipeline commit

# One process for each core, one thread for each process. Files stay whole, so that their tests share fixtures, and run in
# order, so that the long ones start early.
PYTEST := OMP_NUM_THREADS=1 pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: .venv/made
	$(PYTEST) -m "not slow"

test-all: test
	$(PYTEST) -m slow

check: .venv/made
	ruff check . && ruff format --check . && mypy && lint-imports && snakefmt --check Snakefile workflow && snakemake --lint

.venv/made: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
