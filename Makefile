# The verbs of this repository. Each sets up what it needs: a fresh clone with python3.11 and make is enough.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.upshift-setup
PORT ?= 8000
ONCE ?=
WORK ?= .cache/train-demo
WORKERS ?= 2
ARGS ?=

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help setup demo notebook recording train-demo test test-long check audit format bench

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv with everything needed to serve, train, demo and test

$(STAMP): pyproject.toml requirements/constraints.txt deploy/install_torch.sh
	@test -n "$(PYTHON)" || { echo "Upshift needs Python 3.11 or newer; pass PYTHON=/path/to/python"; exit 1; }
	@echo "setting up $(VENV) (once, a few minutes)"
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@deploy/install_torch.sh $(RUN)
	@$(RUN) -m pip install -qq --constraint requirements/constraints.txt --editable '.[train,demo,notebook,openai,postgres,ray,redis,otel,dev]'
	@touch $@

demo: $(STAMP) ## the proxy in front of the two embedded models (PORT=8000, ONCE=1 to stop after the table)
	@$(RUN) -m demo --port $(PORT) $(if $(ONCE),--once) $(ARGS)

notebook: $(STAMP) ## run demo/upshift.ipynb from top to bottom and store what it shows
	@$(RUN) -m demo.notebook $(ARGS)

recording: $(STAMP) ## record `make demo` in a terminal and draw it (docs/images/demo.cast, demo.svg)
	@$(RUN) -m demo.recording $(ARGS)

train-demo: $(STAMP) ## every training stage on the embedded pair, prompts to published bundle (WORK=folder)
	@$(RUN) -m demo.twin --work $(WORK) $(ARGS)

test: $(STAMP) ## every test but the long ones (ARGS="-k word tests/proxy" narrows it; WORKERS=0: in one process)
	@$(RUN) -m pytest -m "not long" -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(ARGS)

test-long: $(STAMP) ## soak, fuzz, kill-and-resume, coverage draws at full size
	@$(RUN) -m pytest -m long --timeout 0 $(ARGS)

check: $(STAMP) ## format, lint, types, layers
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

audit: $(STAMP) ## known vulnerabilities of the pinned dependencies, where PyPI's advisories can be had
	@PYTHON=$(RUN) deploy/audit.sh

format: $(STAMP) ## rewrite the code in the project's format, fix what ruff can fix
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

bench: $(STAMP) ## the benchmarks, ending in tables with ratios
	@$(RUN) -m bench $(ARGS)
