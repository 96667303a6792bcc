# Everything here works on a fresh machine with Python 3.11 or later: the first target makes .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# The tests' models are tiny: with more threads they wait for each other longer than they work.
export OMP_NUM_THREADS ?= 1
# Test files that run at a time; each has a process of its own.
TEST_JOBS ?= 2
HALF := .venv/.installing

.DEFAULT_GOAL := help
.PHONY: help demo test test-full lint docs bench clean

help:
	@echo "make demo       trace, edit and score three facts; ends with the path of the report"
	@echo "make test       the tests, without the slow ones"
	@echo "make test-full  all tests"
	@echo "make lint       ruff (rules and format) and mypy --strict"
	@echo "make docs       build the documentation; warnings are errors"
	@echo "make bench      speed against the textbook form, on all cores; rewrites benchmarks/RESULTS.md"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "mechstyle needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@if test -e $(HALF); then echo "the last installation was interrupted: starting again"; rm -rf .venv; fi
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	touch $(HALF)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	rm $(HALF)
	touch $@

demo: $(READY)
	$(BIN)/mechstyle study --out demo-report

test: $(READY)
	$(BIN)/python -m pytest -q -n $(TEST_JOBS) --dist loadfile -m "not slow"

test-full: $(READY)
	$(BIN)/python -m pytest -q -n $(TEST_JOBS) --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY)
	env -u OMP_NUM_THREADS $(BIN)/python benchmarks/run_all.py

clean:
	rm -rf .venv build dist site demo-report *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
