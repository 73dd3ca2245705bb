SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(firstword $(shell command -v python3.11 python3))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Installing into $(VENV): 2 GB or more, a few minutes"
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@

# Further arguments, for instance: make demo ARGS="--set seed=1"
ARGS ?=

# How many kills `make crash-test` makes, from which seed (else one is drawn and printed), which one
# of them alone or to begin with, and whether at the named points of the code instead.
export KILLS SEED ONLY FROM POINTS

# How long `make fuzz` searches in each kind of input, and in which ones; SEED as above.
SECONDS ?= 60
TARGETS ?=

.PHONY: help
help: ## list what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.PHONY: install
install: $(INSTALLED) ## make .venv from the pins of constraints.txt

.PHONY: demo
demo: $(INSTALLED) ## post-train the pocket model end to end; all it writes is under .demo/
	@$(BIN)/advgrpo demo $(ARGS)

.PHONY: demo-ui
demo-ui: $(INSTALLED) ## serve MLflow and the S3 store over what the demo left
	@$(BIN)/advgrpo demo-ui $(ARGS)

# Tests of a file stay together, as they share what is costly to make. The time between tests is
# looked at, so that a machine that is far too slow still says what took how long.
.PHONY: test
test: $(INSTALLED) ## run the tests
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder \
		--max-worker-restart=0 --session-timeout=4500 --durations=20 $(ARGS)

.PHONY: check
check: lint types layers test ## everything CI runs; the tests see that docs and pipeline are up to date

.PHONY: lint
lint: $(INSTALLED) ## look for faults and unformatted files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: $(INSTALLED) ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: types
types: $(INSTALLED) ## check types
	$(BIN)/mypy

.PHONY: layers
layers: $(INSTALLED) ## check who imports whom
	$(BIN)/lint-imports

.PHONY: pipeline
pipeline: $(INSTALLED) ## compile the pipeline to the YAML beside it
	$(BIN)/advgrpo pipeline compile

.PHONY: docs
docs: $(INSTALLED) ## write docs/configuration.md and docs/scorers.md from the code
	$(BIN)/python -m advgrpo.config.documentation docs/configuration.md
	$(BIN)/python -m advgrpo.models.scorers.documentation docs/scorers.md

.PHONY: bench
bench: $(INSTALLED) ## time updates of the pocket models, beside a loop of the released structure
	@$(BIN)/python -m studies.bench $(ARGS)

.PHONY: bench-gpu
bench-gpu: $(INSTALLED) ## the same at the shapes of SD3.5 medium, on a GPU, with random weights
	@$(BIN)/python -m studies.bench --size sd35_medium $(ARGS)

.PHONY: study
study: $(INSTALLED) ## repeat the experiments of docs/experiments.md (minutes to an hour)
	$(BIN)/python -m studies

.PHONY: audit
audit: $(INSTALLED) ## ask the advisories of PyPI about every pin; needs the network
	@$(BIN)/python -m studies.audit

.PHONY: sbom
sbom: $(INSTALLED) ## list what is installed as a CycloneDX file, dist/sbom.cdx.json
	@mkdir -p dist
	@$(BIN)/cyclonedx-py environment --output-reproducible --pyproject pyproject.toml \
		--output-file dist/sbom.cdx.json $(VENV)
	@echo "wrote dist/sbom.cdx.json"

.PHONY: crash-test
crash-test: $(INSTALLED) ## kill the pocket job KILLS times (20) at random instants; it must end as undisturbed
	$(BIN)/python -m studies.crash

.PHONY: nightly
nightly: check crash-test ## what CI runs, and 20 kills

.PHONY: fuzz
fuzz: $(INSTALLED) ## search SECONDS (60) for inputs of each of TARGETS (all) that are neither read nor refused
	@$(BIN)/python -m studies.fuzz --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(ARGS) $(TARGETS)

.PHONY: chart
chart: $(INSTALLED) ## write the chart's README and schema, lint it, render its examples
	@$(BIN)/python -m helm.chart

.PHONY: images
images: ## build the container images with docker or buildah; images/README.md has its settings
	@images/build.sh
