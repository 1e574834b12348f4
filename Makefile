# TokenScope. `make app` opens it, `make test` tests it; both make the environment first.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PORT ?= 8501
# One thread a process: pytest runs two of them, and results do not depend on the machine.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1

.PHONY: app env dev test check bench demo-model gallery clean

app: env
	$(BIN)/python -m streamlit run asgi.py --server.port $(PORT)

env: .venv/.made

dev: .venv/.made-dev

KERNEL := ext/pyproject.toml ext/CMakeLists.txt $(wildcard ext/src/* ext/tokenkernel/*.py)

.venv/.made: requirements.txt $(KERNEL)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "TokenScope needs Python 3.11 or newer: make PYTHON=python3.11 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing PyTorch and the other packages into .venv (a few minutes, once)"
	@# torch first: whatever else asks for it is then content with this build
	$(PIP) install "$$(grep '^torch==' requirements.txt)"
	$(PIP) install -r requirements.txt
	@$(BIN)/python -c 'import tokenkernel as t; print("Statistics are computed by:", f"compiled kernel, {t.isa()}" if t.HAVE else "torch (there was no C++ compiler)")'
	@touch $@

.venv/.made-dev: requirements-dev.txt .venv/.made
	$(PIP) install -r requirements-dev.txt
	@touch $@

# Files in their own order: the browser's, few and slow, first, so that no worker waits at the end.
test: dev
	$(TEST_ENV) $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

check: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

bench: dev
	$(BIN)/python -m benchmarks $(BENCH)

# Retrains the bundled models (about 40 minutes each on two cores), then remakes the gallery.
demo-model: dev
	$(BIN)/python -m demo.build $(MODELS)
	$(MAKE) gallery

gallery: env
	$(BIN)/python -m demo.gallery

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
