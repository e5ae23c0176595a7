# make quickstart   install into .venv and run the quickstart recipe
# make test         install into .venv and run every test
# Both may be called again at any time: what is there is not made twice.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: quickstart test lint clean-venv

quickstart: .venv/.installed
	@echo "Running recipes/quickstart/recipe.yaml (what is stored under merged/ is reused)"
	@$(BIN)/recipe run recipes/quickstart/recipe.yaml

test: .venv/.installed-test
	@echo "Running every test, one thread a process"
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses=2 --dist=loadgroup

lint: .venv/.installed-test
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

.venv/bin/python:
	@echo "Creating .venv"
	@$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "Installing Chogo and what it stands on into .venv (a few minutes the first time)"
	@$(PIP) --editable .
	@touch $@

.venv/.installed-test: .venv/.installed
	@echo "Installing what the tests need"
	@$(PIP) --editable '.[test]'
	@touch $@

clean-venv:
	@rm -rf .venv
