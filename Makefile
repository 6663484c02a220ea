# `make help` lists the targets. Everything runs in .venv/, which `make setup` makes.
# CONFIG=mine.yaml lays a preset over config.yaml, for figures, report, theory, status and live.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
ENTER := . $(VENV)/bin/activate &&
CONFIG ?=
ifneq ($(CONFIG),$(wildcard $(CONFIG)))
$(error equireg: CONFIG is $(CONFIG); no such file here)
endif
PRESET := $(if $(CONFIG),--configfile $(CONFIG))
# Each is compared with some before it.
STUDY := gamma-sweep exact-augmentation group-d4 support-cross support-lopsided fashion-mnist \
	start-1e-4 start-1e-2 start-1e-1 start-1e0

.DEFAULT_GOAL := help
.PHONY: help setup figures quick report theory study status live test bench lint format clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1	\2/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(INSTALLED) ## make the environment .venv/ with every package pinned (PYTHON=python3.12 picks another)

figures: setup ## run config.yaml, or CONFIG=mine.yaml laid over it; the paper takes under twenty minutes, into results/paper/
	$(ENTER) python -m equireg status $(PRESET) --name > /dev/null && snakemake $(PRESET) --cores all

quick: setup ## the same at reduced scale, about a minute, into results/quick/
	$(ENTER) snakemake --configfile workflow/presets/quick.yaml --cores all

report: figures ## run what is missing and write Snakemake's report, one HTML file, into results/paper/report.html
	$(ENTER) name=$$(python -m equireg status $(PRESET) --name) && \
	snakemake $(PRESET) --report results/$$name/report.html --report-stylesheet workflow/report/style.css

theory: setup ## measure every statement of the paper, with C4 and with D4, into results/paper/theory.md and results/group-d4/theory.md
ifeq ($(CONFIG),)
	$(ENTER) snakemake theory --cores all
	$(ENTER) snakemake theory --configfile workflow/presets/group-d4.yaml --config 'compare=[]' --cores all
else
	$(ENTER) snakemake theory $(PRESET) --cores all
endif

study: setup ## run the experiments of docs/study.md and compare them, an hour and a quarter, into results/*/comparison.md
	$(ENTER) for name in $(STUDY); do \
	snakemake --configfile workflow/presets/$$name.yaml --cores all --until compare || exit 1; done

status: setup ## print which runs are done, running, stopped, failed or missing, and the logs to read
	$(ENTER) python -m equireg status $(PRESET)

live: setup ## the same, kept on the screen until every run is done
	$(ENTER) python -m equireg status --live $(PRESET)

test: lint ## check the code and run every test
	$(ENTER) pytest -n 2 --dist loadfile

bench: setup ## time the training loop beside the plain step and a usual script
	$(ENTER) python -m equireg bench

lint: setup ## check style, types and the workflow
	$(ENTER) ruff check
	$(ENTER) ruff format --check
	$(ENTER) mypy
	$(ENTER) snakefmt --check Snakefile workflow
	$(ENTER) snakemake --lint

format: setup ## put code and workflow into shape
	$(ENTER) ruff check --fix
	$(ENTER) ruff format
	$(ENTER) snakefmt Snakefile workflow

clean: ## remove the environment and caches; results/ stays, and what Snakemake knows of it
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Once, and again when the lock file or the package's metadata changed.
$(INSTALLED): envs/requirements.lock pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "equireg: $(PYTHON) is not installed; Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("equireg: needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null || { echo "equireg: $(PYTHON) cannot make environments: install its venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement envs/requirements.lock \
		|| { echo "equireg: not every package could be installed, for the reason above; they need a way to a package index and 6 GB here; then the same command again goes on" >&2; exit 1; }
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
