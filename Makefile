# Everything runs in .venv, which `make venv` fills with exact versions.
# Any Python >= 3.11 will do:   make venv PYTHON=python3.12

PYTHON ?= python3
PYTEST_ARGS ?= -n 2 --dist worksteal
DEMO_DIR ?= demo
EXTRAS ?= dev,test,viewer

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

TAG := $(shell $(PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])' 2>/dev/null)
CONSTRAINTS := $(wildcard constraints/$(TAG).txt)
PIN := $(if $(CONSTRAINTS),-c $(CONSTRAINTS),)
SHELL_SCRIPTS := .ci/run $(wildcard hpc/*.sh) release/engines.sh

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow test-container test-cluster lint format docs derived release
.PHONY: resolve bench clean distclean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

venv: $(STAMP)  ## make .venv: exact versions and development tools

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'mslesseg needs Python 3.11 or newer: make venv PYTHON=python3.11' >&2; exit 1; }
	@test -n '$(CONSTRAINTS)' \
	  || echo 'constraints/$(TAG).txt does not exist: the newest versions that fit are taken'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade $(PIN) pip
	@echo 'Installing (one to five minutes, about 3 GB of disk with the CPU build of torch) ...'
	$(BIN)/python -m pip install -qq --progress-bar off $(PIN) -e '.[$(EXTRAS)]'
	@$(BIN)/python -m pip check
	@touch $@

demo: $(STAMP)  ## write DICOM files of a synthetic head, convert and segment them, say where the page is
	$(BIN)/mslesseg demo $(DEMO_DIR)
	@echo 'Reports:'; ls -1 $(abspath $(DEMO_DIR))/out/*.html

test: $(STAMP)  ## all tests but the slow ones; what cannot run here is skipped with a reason
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m 'not slow'

test-slow: $(STAMP)  ## the slow tests
	$(BIN)/python -m pytest $(PYTEST_ARGS) \
	  -m 'slow and not container and not apptainer and not cluster and not samseg' || [ $$? -eq 5 ]

test-container: $(STAMP)  ## build the image and the def file, run both (10 minutes or more)
	$(BIN)/python -m pytest -n 0 -m 'container or apptainer'

test-cluster: $(STAMP)  ## the tests on a SLURM of their own; needs root, slurm-wlm and munge
	$(BIN)/python -m pytest -m cluster

lint: $(STAMP)  ## style, types, spelling, module boundaries, container and shell files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/lint-imports --no-cache
	$(BIN)/check-jsonschema --builtin-schema vendor.circle-ci .circleci/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/bosh validate release/boutiques.json
	@if [ -x $(BIN)/shellcheck ]; then set -x; $(BIN)/shellcheck $(SHELL_SCRIPTS); fi
	@if [ -x $(BIN)/hadolint ]; then set -x; $(BIN)/hadolint Dockerfile; fi

format: $(STAMP)  ## let ruff rewrite the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## the documentation, warnings as errors, into docs/_build/html
	$(BIN)/python -m pip install -qq $(PIN) -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

derived: $(STAMP)  ## files that come from the code: drawings, Boutiques descriptor, table of licences
	$(BIN)/python -m release.make derived

release: $(STAMP)  ## wheel, sdist, manuals, completion, SBOM and licences, into dist
	$(BIN)/python -m release.make dist

resolve: $(STAMP)  ## do the versions in constraints/ and the ends of our ranges fit together?
	$(BIN)/python -m release.resolve

bench: $(STAMP)  ## the benchmarks; results in benchmarks/results
	@set -e; for script in benchmarks/[a-z]*.py; do \
	  [ -e "$$script" ] || { echo 'no benchmarks yet'; break; }; \
	  echo "== $$script"; $(BIN)/python "$$script"; done

clean:  ## remove what can be made again, but not .venv
	rm -rf $(DEMO_DIR) work build dist docs/_build benchmarks/results
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find mslesseg_app tests heuristics benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove .venv as well
	rm -rf $(VENV)
