# Every target sets up what it needs by itself. Overrides: PYTHON=python3.12 VENV=/tmp/venv DATA=file.parquet LABEL=label
PYTHON ?= python3
VENV ?= .venv
DATA ?=
LABEL ?= clicked
RECOMMENDER ?= dlrm
SPARSITY ?= 0.7
WORKERS ?= 2

BIN := $(VENV)/bin
RUNTIME_PYTHON ?= $(PYTHON)
WHEEL ?= ./runtime
FLOORS := .venv-floors
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev
READY_DOCS := $(VENV)/.ready-docs
DEMO := artifacts/demo
DEMO_DATA := $(if $(DATA),$(DATA),$(DEMO)/generated-clicks.parquet)
PIP := $(BIN)/python -m pip install --quiet -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test torchrec check slow floors runtime wheels bench lint types schema docs tutorials clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 10

demo: $(READY)  ## train, compress and verify, on generated rows or on DATA=file LABEL=column
	mkdir -p $(DEMO)
	$(if $(DATA),,$(BIN)/recprune-export generate -o $(DEMO_DATA))
	$(BIN)/recprune-export train --data $(DEMO_DATA) --label $(LABEL) --recommender $(RECOMMENDER) -o $(DEMO)/model.pt
	$(BIN)/recprune-export $(DEMO)/model.pt --sparsity $(SPARSITY) --data $(DEMO_DATA) -o $(DEMO)/bundle
	$(BIN)/recprune-export verify $(DEMO)/bundle

test: $(READY_DEV)  ## every test but the slow ones, and the examples in docstrings
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" -n $(WORKERS) --dist loadfile

slow: $(READY_DEV)  ## the slow tests: whole models, real data where it is there
	$(BIN)/python -m pytest -q -m slow

torchrec: $(READY_DEV)  ## the tests of models of TorchRec, after installing it
	$(PIP) --no-deps -r requirements-torchrec.txt
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/program/capture/test_torchrec.py tests/program/capture/passes/test_jagged_operators.py

floors: $(READY_DEV)  ## the tests of the runtime, with the lowest releases of all that it requires, in an environment of its own
	$(PIP) uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(FLOORS)
	$(BIN)/uv pip install --quiet --python $(FLOORS)/bin/python --resolution lowest-direct --all-extras -r runtime/pyproject.toml
	$(BIN)/uv pip install --quiet --python $(FLOORS)/bin/python --no-deps ./runtime
	$(BIN)/uv pip list --python $(FLOORS)/bin/python
	OMP_NUM_THREADS=1 RECPRUNE_RUNTIME_PYTHON=$(abspath $(FLOORS))/bin/python $(BIN)/python -m pytest -q tests/runtime

runtime: $(READY_DEV)  ## the same tests with the newest releases, on RUNTIME_PYTHON=python3.13, of WHEEL or of the tree
	$(RUNTIME_PYTHON) -m venv --clear $(FLOORS)
	$(FLOORS)/bin/python -m pip install --quiet '$(WHEEL)[predict,pack,sign]'
	OMP_NUM_THREADS=1 RECPRUNE_RUNTIME_PYTHON=$(abspath $(FLOORS))/bin/python $(BIN)/python -m pytest -q tests/runtime

wheels: $(READY)  ## both distributions in dist/, checked by twine
	$(PIP) build twine
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m build --outdir dist runtime
	$(BIN)/twine check --strict dist/*

check: lint types test  ## what a change must pass

lint: $(READY_DEV)  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY_DEV)  ## static types
	$(BIN)/mypy

bench: $(READY)  ## every benchmark, one after the other
	@set -e; for file in benchmarks/bench_*.py; do echo "$$file"; $(BIN)/python "$$file"; done

schema: $(READY)  ## write the JSON schemas in docs/ and the page on --json anew, from their models
	$(BIN)/python -m recprune_export.bundle.manifest.manifest_schema docs/manifest.schema.json
	$(BIN)/python -m recprune_export.bundle.encoding_schema docs/encoding.schema.json
	$(BIN)/python -m recprune_export.cli.json_output.output_schemas docs/json-output
	$(BIN)/python -m recprune_export.cli.json_output.reference_page docs/reference/json-output.md

docs: $(READY_DOCS)  ## the documentation site in build/docs; a broken link or a missing reference is an error
	$(BIN)/python -m pytest -q docs/_extensions
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx --builder html --nitpicky --fail-on-warning --keep-going --quiet docs build/docs

tutorials: $(READY_DOCS)  ## execute the notebooks of docs/tutorials and store their outputs
	OMP_NUM_THREADS=1 $(BIN)/python docs/tutorials/execute.py

clean:  ## remove what the other targets made, except data and models of yours
	rm -rf $(VENV) $(FLOORS) $(DEMO) build dist *.egg-info runtime/build runtime/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch first and by its pin: it is by far the largest, and a failure there should be the first thing that is seen.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) setuptools
	$(PIP) $$(grep '^torch==' constraints.txt)
	$(PIP) --no-build-isolation -e .
	touch $@

$(READY_DEV): $(READY)
	$(PIP) --no-build-isolation -e '.[dev]'
	touch $@

$(READY_DOCS): $(READY_DEV)
	$(PIP) --no-build-isolation -e '.[dev,docs]'
	touch $@
