# `make demo` and `make test` are all a newcomer needs: each creates .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check install clean
.DELETE_ON_ERROR:

install: .venv/installed

# Rebuilt when what is installed changes; the code itself is installed in place.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "irr needs Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv: about two minutes, the first time only"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[offline,dev]'
	touch $@

demo: install
	$(BIN)/python -m irr.predict --labels icd10cm --input eval/demo/notes.jsonl --top-k 5 --format table

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
