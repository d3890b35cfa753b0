# `make` lists the targets. One virtual environment serves them all; it is made on first use and
# brought up to date when a lock or pyproject.toml changes.

PYTHON ?= python3
# The developers' real data, where it lies beside the repository; else the demo fetches a clip.
SOURCE ?= $(firstword $(wildcard ../shared/data/pets09_s2l1/vtest.avi))
QUERY ?=
WEIGHTS ?=
SERVE ?=
OUT ?= demo
BACKBONE ?= download
ABLATION ?= runs/ablation
SMOKE ?= runs/benchmark-smoke
WORKERS ?= auto

VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev
MILVUS := .milvus/bin/milvus-server

# Through the environment, so that names with spaces and quotes reach the program as they are.
export SOURCE QUERY WEIGHTS OUT BACKBONE ABLATION SMOKE

# Whatever the user's shell says, bytecode is kept: without it each process compiles torch anew,
# which takes longer (4 to 10 s) than most tests.
unexport PYTHONDONTWRITEBYTECODE

GALLERY_TESTS = $(wildcard tests/indexer/test_gallery*.py) $(addprefix tests/indexer/test_,\
	crashes.py fast_tier.py filters.py index_commands.py indexing.py media.py reindexing.py \
	repairing.py sharing.py snapshot.py upkeep.py) $(addprefix tests/service/test_,cases.py \
	conditions.py jobs.py keys_and_audit.py search.py sharing.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo ablation benchmark-smoke test test-postgres nightly milvus lint types check docs lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' Makefile
	@echo
	@echo 'Variables: SOURCE=FILE, QUERY=CROP, WEIGHTS=FOLDER, OUT=FOLDER and SERVE=1 (demo),'
	@echo '           BACKBONE=FILE and ABLATION=FOLDER (ablation), SMOKE=FOLDER (benchmark-smoke),'
	@echo '           WORKERS=N (test, test-postgres, nightly), PYTHON=python3'

demo: $(RUN) ## Index a video, find a person again; SOURCE=FILE QUERY=CROP, results in OUT=demo; SERVE=1 goes on with the page
	@$(BIN)/binet demo --out "$$OUT" $(if $(QUERY),--query "$$QUERY") \
		$(if $(WEIGHTS),--weights "$$WEIGHTS") $(if $(SERVE),--serve) $(if $(SOURCE),-- "$$SOURCE")

ablation: $(DEV) ## Train the paper's systems on drawn worlds and compare them (hours; resumable)
	$(BIN)/binet ablation --out "$$ABLATION" --backbone "$$BACKBONE"

benchmark-smoke: $(DEV) ## Run the steps of the GPU benchmark's job on small drawn worlds
	BINET=$(BIN)/binet .ci/benchmark-smoke "$$SMOKE"

test: $(DEV) ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile \
		--no-loadscope-reorder

test-postgres: $(DEV) ## Run the gallery's tests with PostgreSQL in SQLite's place (needs its server)
	OMP_NUM_THREADS=1 BINET_TEST_DATABASE=postgres $(BIN)/pytest --numprocesses $(WORKERS) \
		--dist loadfile $(GALLERY_TESTS)

nightly: test-postgres ## Run the crash and damage tests ten times as long as `make test`
	OMP_NUM_THREADS=1 BINET_KILLS=200 BINET_DAMAGED=5000 BINET_CORRUPTIONS=1000 \
		BINET_PICTURES=10000 BINET_HOSTILE=10000 BINET_EXAMPLES=200 BINET_MILVUS_EXAMPLES=30 \
		$(BIN)/pytest \
		--numprocesses $(WORKERS) --dist loadfile tests/indexer/test_crashes.py \
		tests/indexer/test_hostile_files.py tests/indexer/test_repairing.py \
		tests/service/test_search.py tests/service/test_lifecycle.py \
		tests/service/test_schemathesis.py tests/indexer/test_milvus_machine.py

milvus: $(MILVUS) ## Set up a Milvus server in .milvus, for its tests: an environment of its own, 80 MB

lint: $(DEV) ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV) ## Check types
	$(BIN)/mypy

check: ## Everything that a change must pass: lint, types, test
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory types
	@$(MAKE) --no-print-directory test

docs: $(DEV) ## Build the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/mkdocs build --strict --quiet

COMPILE_NONE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --constraint constraints.in --extra service \
	--extra video --extra onnx
COMPILE = $(COMPILE_NONE) --extra cpu
# What the images hold beside that, in the versions of the other locks.
COMPILE_IMAGE = $(COMPILE_NONE) --extra postgres --extra milvus --extra cluster \
	--constraint requirements.lock --constraint requirements-dev.lock pyproject.toml

lock: $(DEV) ## Bring the locks up to date with pyproject.toml and constraints.in
	$(COMPILE) pyproject.toml --output-file requirements.lock
	$(COMPILE) --extra train --extra parquet --extra postgres --extra milvus \
		--extra cluster --extra docs --extra dev \
		--constraint requirements.lock pyproject.toml --output-file requirements-dev.lock
	$(COMPILE_IMAGE) --extra gpu --output-file docker/requirements-cuda.lock
	$(COMPILE_IMAGE) --extra cpu --output-file docker/requirements-cpu.lock
	@# The cpu image takes torch from PyTorch's own index, without the libraries for GPUs.
	sed -i -E '/^(torch|torchvision|triton|cuda|nvidia)[a-z0-9-]*==/,/[^\\]$$/d' \
		docker/requirements-cpu.lock

clean: ## Remove the virtual environment, caches and build outputs; results stay
	rm -rf $(VENV) build dist site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(if $(shell $(PYTHON) -c 'import sys; print(sys.version_info >= (3, 11) or "")' 2>&1 | grep -x True),,\
		$(error $(PYTHON) is not Python 3.11 or newer: install it, or name one with PYTHON=python3.12))
	$(PYTHON) -m venv --clear $(VENV)

PIP_INSTALL = $(BIN)/python -m pip --disable-pip-version-check install --no-compile

$(RUN): requirements.lock pyproject.toml $(BIN)/python
	@echo 'Setting up $(VENV): some minutes the first time.'
	$(PIP_INSTALL) --require-hashes -r requirements.lock
	$(PIP_INSTALL) --quiet --no-deps -e .
	@touch $@

# The second lock holds everything of the first, in the same versions.
$(DEV): requirements-dev.lock pyproject.toml $(BIN)/python
	@echo 'Setting up $(VENV) with the tools for development: some minutes the first time.'
	$(PIP_INSTALL) --require-hashes -r requirements-dev.lock
	$(PIP_INSTALL) --quiet --no-deps -e .
	@touch $@ $(RUN)

# The last version that PyPI has as a program for Linux; it is not to share an environment.
$(MILVUS): milvus.lock
	$(PYTHON) -m venv --clear .milvus
	.milvus/bin/python -m pip --disable-pip-version-check install --quiet --no-compile \
		--require-hashes --no-deps -r milvus.lock
	@touch $@
