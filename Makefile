# Every target first makes the environment in .venv; all but `results` add the packages that tests and checks need.
#   results   run the default study and record it
#   test      run the quick tests: every stage, minutes
#   test-ci   run the slow tests too, without the exhaustive ones: whole studies, DVC, kills, browsers
#   test-all  run everything; this takes about two hours on 2 cores
#   check     run format, lint, type and import checks, and build the documentation as a site
.PHONY: results test test-ci test-all check
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export HF_HUB_DISABLE_TELEMETRY := 1

results: .venv/made
	snakemake --cores all
	python -m pipeline commit

# One process for each core, one thread for each process. Files stay whole, so that their tests share fixtures, and run in
# order, so that the long ones start early.
PYTEST := OMP_NUM_THREADS=1 pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: .venv/made-dev
	$(PYTEST) -m "not slow"

# CI has 90 minutes on 2 cores: it kills a run twice instead of twenty times.
test-ci: test
	CHAOS_KILLS=2 $(PYTEST) -m "slow and not exhaustive"

test-all: test
	$(PYTEST) -m slow

check: .venv/made-dev
	ruff check . && ruff format --check . && mypy && lint-imports && snakefmt --check Snakefile workflow && snakemake --lint
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet --site-dir .venv/site

.venv/made: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/made-dev: .venv/made
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
