# `make fit` trains on the embedded demo data, `make test` runs every check: both from nothing.
# PYTHON chooses the interpreter (3.10 to 3.13), ARGS adds to the command line.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=

.PHONY: fit test quick lint clean

fit: $(VENV)/installed
	$(VENV)/bin/python -m lightning_melanoma fit $(ARGS)

test: lint
	$(VENV)/bin/python -m pytest $(ARGS)

# Without what takes more than a few seconds.
quick: $(VENV)/installed-dev
	$(VENV)/bin/python -m pytest -m "not slow" $(ARGS)

lint: $(VENV)/installed-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.cfg constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-dev: setup.cfg constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@ $(VENV)/installed

clean:
	rm -rf $(VENV)
