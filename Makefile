# Two commands on a fresh machine: `make demo` and `make test`. They need Python 3.11-3.13 and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test check env env-dev clean

demo: env
	$(BIN)/keylm run recipes/nano.toml

test: env-dev check
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: env-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

env: $(VENV)/.keylm
env-dev: $(VENV)/.keylm-dev

# On Linux the package index's torch brings CUDA; a machine without a GPU is spared that by a CPU index:
# make demo TORCH="torch --index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch
INSTALL := $(PIP) install -q -c constraints.txt
$(VENV)/.torch: constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "keylm needs Python 3.11-3.13, this is %s: make PYTHON=python3.12 ..." % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) $(TORCH)
	touch $@

$(VENV)/.keylm: $(VENV)/.torch pyproject.toml
	$(INSTALL) -e .
	touch $@

$(VENV)/.keylm-dev: $(VENV)/.torch pyproject.toml
	$(INSTALL) -e '.[dev,hub,curate,ray,eval,post,export,serve,docs,demo]'
	touch $(VENV)/.keylm $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
