# Every target sets up its environment. Overrides: PYTHON=python3.12 VENV=/tmp/venv DATA=file.parquet LABEL=label
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

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 10

demo: $(READY)  ## train, compress and verify, on generated rows or on DATA=file LABEL=column
	mkdir -p $(DEMO)
	$(if $(DATA),,$(BIN)/recprune-export generate -o $(DEMO_DATA))
	$(BIN)/recprune-export train --data $(DEMO_DATA) $(if $(filter sasrec,$(RECOMMENDER)),,--label $(LABEL)) --recommender $(RECOMMENDER) -o $(DEMO)/model.pt
	$(BIN)/recprune-export $(DEMO)/model.pt --sparsity $(SPARSITY) --data $(DEMO_DATA) -o $(DEMO)/bundle
	$(BIN)/recprune-export verify $(DEMO)/bundle

test: $(READY_DEV)  ## run all tests except the slow ones, and the examples in docstrings
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow" -n $(WORKERS) --dist loadfile

slow: $(READY_DEV)  ## run the slow tests: whole models, and real data if it is available
	$(BIN)/python -m pytest -q -m slow

torchrec: $(READY_DEV)  ## install TorchRec and run the tests of its models
	$(PIP) --no-deps -r requirements-torchrec.txt
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/program/capture/test_torchrec.py tests/program/capture/passes/test_jagged_operators.py

floors: $(READY_DEV)  ## test the runtime with the lowest supported releases of its requirements, in a separate environment
	$(PIP) uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(FLOORS)
	$(BIN)/uv pip install --quiet --python $(FLOORS)/bin/python --resolution lowest-direct --all-extras -r runtime/pyproject.toml
	$(BIN)/uv pip install --quiet --python $(FLOORS)/bin/python --no-deps ./runtime
	$(BIN)/uv pip list --python $(FLOORS)/bin/python
	OMP_NUM_THREADS=1 RECPRUNE_RUNTIME_PYTHON=$(abspath $(FLOORS))/bin/python $(BIN)/python -m pytest -q tests/runtime

runtime: $(READY_DEV)  ## test the runtime with the newest releases; RUNTIME_PYTHON=python3.13 selects Python, WHEEL a wheel instead of the source
	$(RUNTIME_PYTHON) -m venv --clear $(FLOORS)
	$(FLOORS)/bin/python -m pip install --quiet '$(WHEEL)[predict,pack,sign]'
	OMP_NUM_THREADS=1 RECPRUNE_RUNTIME_PYTHON=$(abspath $(FLOORS))/bin/python $(BIN)/python -m pytest -q tests/runtime

wheels: $(READY)  ## build both distributions in dist/ and check them with twine
	$(PIP) build twine
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m build --outdir dist runtime
	$(BIN)/twine check --strict dist/*

check: lint types test  ## run the checks that every change must pass

lint: $(READY_DEV)  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY_DEV)  ## check static types
	$(BIN)/mypy

bench: $(READY)  ## run every benchmark, one after the other
	@set -e; for file in benchmarks/bench_*.py; do echo "$$file"; $(BIN)/python "$$file"; done

schema: $(READY)  ## regenerate the JSON schemas in docs/ and the page on --json from their models
	$(BIN)/python -m recprune_export.bundle.manifest.manifest_schema docs/manifest.schema.json
	$(BIN)/python -m recprune_export.bundle.encoding_schema docs/encoding.schema.json
	$(BIN)/python -m recprune_export.cli.json_output.output_schemas docs/json-output
	$(BIN)/python -m recprune_export.cli.json_output.reference_page docs/reference/json-output.md

docs: $(READY_DOCS)  ## build the documentation site in build/docs; a broken link or a missing reference is an error
	$(BIN)/python -m pytest -q docs/_extensions
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx --builder html --nitpicky --fail-on-warning --keep-going --quiet docs build/docs

tutorials: $(READY_DOCS)  ## execute the notebooks of docs/tutorials and store their outputs
	OMP_NUM_THREADS=1 $(BIN)/python docs/tutorials/execute.py

clean:  ## remove the files that the other targets made, except your data and models
	rm -rf $(VENV) $(FLOORS) $(DEMO) build dist *.egg-info runtime/build runtime/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch is installed first and pinned: it is by far the largest, so that a failure there appears first.
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
