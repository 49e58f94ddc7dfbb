# What a newcomer runs: `make demo` and `make test`; both install what is missing first, into .venv alone.
SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# the first Python on the path that is new enough; `make PYTHON=… demo` takes another
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && { echo $$p; exit; }; done; echo python3)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet -c tests/constraints.txt
INSTALLED := $(VENV)/.installed
INSTALLED_TESTS := $(VENV)/.installed-with-tests

# idle OpenMP threads must sleep, not spin: with a second process on the machine small tensor operations get 10 times slower otherwise
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help install demo test lint bench results pictures doctor clean

help:
	@echo 'make demo     install what is missing and open the demo scene, training (without a display: headless)'
	@echo 'make test     install what is missing and run the tests'
	@echo 'make lint     ruff and the layer contracts'
	@echo 'make bench    speed and memory, as ratios measured in one run'
	@echo 'make results  fit MESHES="…" and two scenes, and write the results page'
	@echo 'make pictures draw the pictures of the README and its tour anew'
	@echo 'make doctor   what works on this machine, and what mends the rest'
	@echo 'make clean    remove .venv and caches'

demo: install
	@$(BIN)/python -m workbench demo

test: $(INSTALLED_TESTS)
	@$(PYTHON) -I workbench/system_check.py --tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(INSTALLED_TESTS)
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports

bench: $(INSTALLED_TESTS)
	@$(BIN)/python -m workbench bench

# MESHES="a.obj b.obj": fits each and writes the table and pictures of workbench/docs/results.md
results: $(INSTALLED_TESTS)
	@$(BIN)/python tests/benchmarks/results.py --scenes $(MESHES)

pictures: $(INSTALLED_TESTS)
	@xvfb-run -a -s '-screen 0 1920x1080x24 +extension GLX' $(BIN)/python tests/benchmarks/window_picture.py
	@xvfb-run -a -s '-screen 0 1920x1080x24 +extension GLX' $(BIN)/python tests/benchmarks/why_pictures.py
	@$(BIN)/python tests/benchmarks/figure_examples.py

doctor: install
	@$(BIN)/python -m workbench doctor

install: $(INSTALLED)
	@$(PYTHON) -I workbench/system_check.py

$(BIN)/python:
	@$(PYTHON) -I workbench/system_check.py
	@echo 'making $(VENV)'
	@$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml tests/constraints.txt | $(BIN)/python
	@echo 'installing into $(VENV): takes some minutes the first time'
	@$(PIP) -e .
	@touch $@

$(INSTALLED_TESTS): pyproject.toml tests/constraints.txt | $(BIN)/python
	@$(PYTHON) -I workbench/system_check.py --tests
	@echo 'installing into $(VENV): takes some minutes the first time'
	@$(PIP) -e '.[test]'
	@touch $(INSTALLED) $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find sparseflex workbench tests -name __pycache__ -type d -prune -exec rm -rf {} +
