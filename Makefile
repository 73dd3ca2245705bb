SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Without bytecode, each of hundreds of processes compiles the project.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(firstword $(shell command -v python3.11 python3))
VENV := .venv
BIN := $(VENV)/bin
# What the demo needs, and what tests and checks need besides.
DEMO := $(VENV)/.installed-demo
INSTALLED := $(VENV)/.installed
# PEP 517 also for packages without a wheel, where old versions of pip print deprecation warnings.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 -c constraints.txt

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

$(DEMO): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV): 2 GB or more, a few minutes"
	@$(PIP) -e '.[demo]'
	@touch $@

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV): 3 GB or more, a few minutes"
	@$(PIP) -e '.[dev]'
	@touch $(DEMO) $@

# Extra arguments, for instance: make demo ARGS="--set seed=1"
ARGS ?=

# For `make crash-test`: number of kills, seed (default: random, and printed), a single kill to
# repeat, the first kill, whether to kill at the named points of the code instead, and the algorithm.
export KILLS SEED ONLY FROM POINTS ALGORITHM

# For `make fuzz`: seconds per target, and targets (default: all); SEED as above.
SECONDS ?= 60
TARGETS ?=

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.PHONY: install
install: $(INSTALLED) ## create .venv with the versions of constraints.txt

.PHONY: demo
demo: $(DEMO) ## run the whole pipeline on the pocket model; writes to .demo/ only
	@$(BIN)/advgrpo demo $(ARGS)

.PHONY: demo-ui
demo-ui: $(DEMO) ## serve the MLflow and S3 data of the demo
	@$(BIN)/advgrpo demo-ui $(ARGS)

# Tests of a file run in one process, because they share expensive fixtures. The session timeout is
# checked between tests, so that a machine that is far too slow still prints the durations.
.PHONY: test
test: $(INSTALLED) ## run the tests
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder \
		--max-worker-restart=0 --session-timeout=4500 --durations=20 $(ARGS)

.PHONY: check
check: lint types layers test ## run everything that CI runs; tests check that docs and pipeline are up to date

.PHONY: lint
lint: $(INSTALLED) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: $(INSTALLED) ## format, and apply automatic fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: types
types: $(INSTALLED) ## check types
	$(BIN)/mypy

.PHONY: layers
layers: $(INSTALLED) ## check the import contracts
	$(BIN)/lint-imports

.PHONY: pipeline
pipeline: $(INSTALLED) ## compile pipelines/adversarial_grpo.yaml
	$(BIN)/advgrpo pipeline compile

.PHONY: docs
docs: $(INSTALLED) ## generate docs/configuration.md and docs/scorers.md
	$(BIN)/python -m advgrpo.config.documentation docs/configuration.md
	$(BIN)/python -m advgrpo.models.scorers.documentation docs/scorers.md

.PHONY: site
site: $(DEMO) ## build docs/ as a site in dist/site
	@$(PIP) -e '.[site]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

.PHONY: bench
bench: $(INSTALLED) ## time updates of the pocket model, and of a loop structured as the released code
	@$(BIN)/python -m studies.bench $(ARGS)

.PHONY: bench-gpu
bench-gpu: ## benchmark SD3.5 medium on a GPU with random weights, in 8 minutes without internet
	@studies/bench/bare.sh $(ARGS)

.PHONY: bench-wheels
bench-wheels: $(INSTALLED) ## collect in .whl/ what a bare GPU machine needs for bench-gpu
	@studies/bench/wheels.sh $(BIN)/python

.PHONY: roofline
roofline: $(INSTALLED) ## estimate the time of full-size models on GPUs, for `advgrpo plan`
	@$(BIN)/python -m studies.roofline $(ARGS)

.PHONY: study
study: $(INSTALLED) ## reproduce docs/experiments.md (minutes to an hour)
	$(BIN)/python -m studies
	$(BIN)/python -m studies.algorithms .study/algorithms
	$(BIN)/python -m studies.fast_sampling .study/fast_sampling

.PHONY: audit
audit: $(INSTALLED) ## check all pins against the advisories of PyPI; needs the network
	@$(BIN)/python -m studies.audit

# Not installed in $(VENV): with one of its dependencies, importing kubernetes takes ten seconds.
.PHONY: sbom
sbom: $(INSTALLED) ## write the installed packages as CycloneDX to dist/sbom.cdx.json
	@mkdir -p dist
	@$(BIN)/python -m venv $(VENV)/sbom
	@$(VENV)/sbom/bin/pip install --quiet --disable-pip-version-check -c constraints.txt cyclonedx-bom
	@$(VENV)/sbom/bin/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
		--output-file dist/sbom.cdx.json $(VENV)
	@echo "wrote dist/sbom.cdx.json"

.PHONY: crash-test
crash-test: $(INSTALLED) ## kill the pocket job KILLS times (20) at random; its result must not change
	$(BIN)/python -m studies.crash

.PHONY: nightly
nightly: check crash-test ## run check and crash-test

.PHONY: fuzz
fuzz: $(INSTALLED) ## fuzz each of TARGETS (all) for SECONDS (60)
	@$(BIN)/python -m studies.fuzz --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(ARGS) $(TARGETS)

.PHONY: chart
chart: $(INSTALLED) ## generate the chart's README and schema, lint it, render its examples
	@$(BIN)/python -m helm.chart

.PHONY: images
images: ## build the container images with docker or buildah; see images/README.md
	@images/build.sh

.PHONY: package
package: $(INSTALLED) ## package the chart in dist/; with PUSH=yes REGISTRY=..., push chart and images
	@$(BIN)/python -m helm.package
	@if [[ -n "$${PUSH:-}" ]]; then images/build.sh; fi
