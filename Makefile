# Two commands for a newcomer: `make demo` and `make test`. Both need Python 3.11 or newer and nothing else.
# A variable can be given on the line, e.g. make demo PYTHON=python3.12 PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
FIT ?= --control

# Real data, where it lies beside the checkout; tests that need it skip with a word where it is absent.
ifneq ($(wildcard ../shared/data),)
export RESPROUT_DATA ?= $(abspath ../shared/data)
endif

.PHONY: demo test lint types test-slow bench docs clean

demo: $(VENV)/.demo  ## train a small network on digits, cut it past its cliff, regrow it to 8 KiB
	$(BIN)/resprout fit --out runs $(FIT)

test: lint types  ## lint, types, and the default suite
	$(BIN)/python -m pytest -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyright --pythonpath $(BIN)/python

test-slow: $(VENV)/.dev  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

bench: $(VENV)/.dev  ## every figure that we claim but those of hours (headline.py) and of studies.py; to benchmarks/results
	for file in $(filter-out benchmarks/shots.py benchmarks/headline.py benchmarks/studies.py,$(wildcard benchmarks/[!_]*.py)); do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

docs: $(VENV)/.dev  ## the pages that are made from the code
	$(BIN)/resprout list --markdown > docs/methods.md.part && mv docs/methods.md.part docs/methods.md
	$(BIN)/python benchmarks/tables.py
	$(BIN)/zensical build --strict

clean:  ## remove what the above made, but not runs/
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis

# Set-up happens once, and again when what is to be installed changes.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "resprout needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.demo
