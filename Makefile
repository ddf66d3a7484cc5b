# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := dev,video,log,sfm,masks,mesh,viewer

.PHONY: demo test lint bench slow clean

# The environment: torch first, at the pinned version, so that nothing else decides which build is taken.
$(BIN)/rayprior: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

demo: $(BIN)/rayprior
	$(BIN)/rayprior demo

test: lint
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(BIN)/rayprior
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

slow: $(BIN)/rayprior
	$(BIN)/python -m pytest -m slow

bench: $(BIN)/rayprior
	$(BIN)/python bench/speed.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
