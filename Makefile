# The chores of Isocenter, by name. `make` shows them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pacs inference web sample_dicom tests bench

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench lock clean

help: ## Show this help
	@echo "Isocenter: a DICOM imaging archive and AI inference node."
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## Send synthetic studies through a node and show what it found (ONCE=1: then stop)
	$(BIN)/isocenter demo $(if $(ONCE),--once)

test: $(VENV)/.dev ## Run the tests against real parts (ARGS="-k name" passes options to pytest)
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev ## Check format, lint, types and the floor plan
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/rules

format: $(VENV)/.dev ## Format the source and mend what can be mended
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: $(VENV)/.dev ## Measure, print a table, write bench/results
	$(BIN)/python -m bench $(ARGS)

lock: ## Pin all dependencies anew (needs the tool uv)
	uv pip compile pyproject.toml --group build $(LOCK) -o requirements.lock
	uv pip compile pyproject.toml --group build --group dev $(LOCK) -c requirements.lock -o requirements-dev.lock
LOCK := --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Isocenter needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
		|| { echo "python3 -m venv failed; on Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/.runtime: requirements.lock pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
