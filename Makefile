# Both commands do all their set-up themselves, on a machine that has Python 3.11+ and make.
PYTHON ?= python3
VENV   ?= .venv
DEMO   ?= runs/demo
JOBS   ?= 2
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ALONE  := $(VENV)/.installed-without-tools

.PHONY: demo test lint format bench docs clean

demo: $(ALONE)                       ## pre-train a small ViT on real photographs and write its report
	$(BIN)/pmae demo --out $(DEMO)

test: lint                           ## lint, format check, types, then the tests
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)                      ## the figures this project promises, as JSON
	$(BIN)/python -m benchmarks

docs: $(STAMP)                       ## the documentation site, in site/; every warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir site

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "perceptual-mae needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(ALONE): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(STAMP): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(ALONE) $@

clean:
	rm -rf $(VENV) runs site .pytest_cache .ruff_cache .mypy_cache
