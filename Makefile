# make train   set up .venv and train vgg-small on the data that ships with the package
# make test    set up what tests need and run them
# make lint    ruff and pyright
# make compile-check   compile the GPU kernels for several GPUs and compare with the tables
# make clean   remove .venv and what was built

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet
SOURCE := pyproject.toml $(wildcard setup.py kernels/native/*.c kernels/native/*.h)

.PHONY: train test lint compile-check clean

train: $(VENV)/installed
	$(BIN)/cnnengine train --arch vgg-small --device auto

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto -q -m "not slow"

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

compile-check: $(VENV)/installed-test
	$(BIN)/python -m cnnengine.bench.compile_check
	$(BIN)/python -c 'import cupy' 2>/dev/null || $(PIP) --editable ".[compile]"
	$(BIN)/python -m cnnengine.bench.compile_cupy

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cnnengine needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python $(SOURCE)
	@echo "setting up $(VENV): fetching packages, compiling the C kernels; a minute or two"
	$(PIP) --editable ".$$($(PYTHON) scripts/gpu_extra.py)"
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP) --editable ".[test]"
	$(BIN)/python scripts/install_torch.py
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed-test
	$(PIP) --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
	find kernels/native -name '*.so' -delete
