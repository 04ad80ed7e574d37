# Two commands do everything on a fresh machine: `make train` and `make test`. The others are for developers.
# Set-up runs once and leaves stamps in the virtual environment, so that the next call starts at once.

VENV ?= .venv
# Linux machines without a GPU save gigabytes with TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt \
       $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: train test setup setup-test libero lint types wheel clean help

train: setup
	@$(BIN)/acceerl train experiment=tabletop_first $(ARGS)

test: lint types
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

setup: $(VENV)/.ready
setup-test: $(VENV)/.ready-test
libero: $(VENV)/.ready-libero

lint: setup-test
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .

types: setup-test
	@$(BIN)/mypy

wheel: setup-test
	@$(BIN)/python -m build --no-isolation --outdir dist .

clean:
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache

help:
	@echo "make train   set up, then train on the embedded suite from the shipped starting policy"
	@echo "make test    set up with LIBERO and the tests' tools, then ruff, mypy and pytest"
	@echo "make libero  add the LIBERO simulator to the environment"
	@echo "make lint | types | wheel | clean"

$(BIN)/python:
	@bash .ci/setup.sh venv $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt | $(BIN)/python
	@echo "acceerl: installing into $(VENV) (some minutes the first time)"
	@$(PIP) -e .
	@bash .ci/setup.sh render $(BIN)/python
	@touch $@

# These three declare training stacks and notebooks that the environments never import: hence --no-deps.
LIBERO := hf-libero robosuite bddl

$(VENV)/.ready-libero: pyproject.toml constraints.txt | $(BIN)/python
	@echo "acceerl: installing into $(VENV) with LIBERO (some minutes the first time)"
	@$(PIP) -e '.[libero]'
	@$(PIP) --no-deps $(LIBERO)
	@bash .ci/setup.sh render $(BIN)/python
	@touch $@ $(VENV)/.ready

$(VENV)/.ready-test: pyproject.toml constraints.txt | $(BIN)/python
	@echo "acceerl: installing into $(VENV) with LIBERO and the tests' tools (some minutes the first time)"
	@$(PIP) -e '.[libero,lerobot,openvla,dev]'
	@$(PIP) --no-deps $(LIBERO)
	@bash .ci/setup.sh render $(BIN)/python
	@bash .ci/setup.sh slurm
	@touch $@ $(VENV)/.ready $(VENV)/.ready-libero
