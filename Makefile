# What people type and what CI runs are the same targets, so the two cannot differ.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint format types clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## Create .venv and install everything, once

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"needs Python 3.11 or newer, found " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --quiet \
		-c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## Train six small networks, measure and draw them, write results/demo/report.html
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash docs/demo.sh results/demo

test: $(STAMP) ## Run the tests that take minutes at most
	$(BIN)/python -m pytest -m "not slow" -n 2

test-all: $(STAMP) ## Run every test, the slow ones too
	$(BIN)/python -m pytest -n 2

lint: $(STAMP) types ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## Rewrite the sources in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## Check the types of landscape/
	$(BIN)/mypy

clean: ## Remove .venv and caches; results stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
