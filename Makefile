# `make help` lists the targets. Everything runs in .venv/, which `make setup` makes.
# CONFIG=mine.yaml lays a preset over config.yaml, for figures, quick, report, theory, status, live.
# VENV=/scratch/me/venv puts the environment elsewhere.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
ENTER := . $(VENV)/bin/activate &&
CONFIG ?=
REPORT ?= html
ifneq ($(words $(VENV)),1)
$(error equireg: VENV is $(VENV); accepted: a path without spaces)
endif
QUOTED := '$(subst ','\'',$(CONFIG))'
ifneq ($(CONFIG),)
ifneq ($(shell test -f $(QUOTED) && echo there),there)
$(error equireg: CONFIG is $(CONFIG); no such file here)
endif
endif
PRESET := $(if $(CONFIG),--configfile $(QUOTED))
AGAIN := $(if $(CONFIG), CONFIG=$(QUOTED))
NAME = $$(python -m equireg status $(PRESET) --name)
# How every target ends: what was made, where to look, what to type next.
TELL = printf '\n%s\n%s\n%s\n'
# Each is compared with some before it.
NEARBY := gamma-sweep exact-augmentation group-d4 support-cross support-lopsided fashion-mnist
# In E for as long as networks of study-escape are before their release.
RELEASED := results/study-escape/training.epochs=24/training.gamma_schedule=constant/grid.modes=equivariant/grid.gammas=0
INERTIA := inertia-plain inertia inertia-axis-plain inertia-axis

.DEFAULT_GOAL := help
.PHONY: help setup figures quick report theory study nearby status schema live test bench lint format docs mutants clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1	\2/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(INSTALLED) ## make the environment .venv/ with every package pinned (PYTHON=python3.12 picks another)

figures: setup ## run config.yaml, or CONFIG=mine.yaml laid over it; the paper takes under twenty minutes, into results/paper/
	$(ENTER) name=$(NAME) && snakemake $(PRESET) --quiet reason --cores all && \
	$(TELL) "made: the runs, tables, figures and claims of $$name, in results/$$name/" \
	"look: open results/$$name/overview.html in a browser" \
	"next: make report$(AGAIN)    # or an experiment of your own: README.md"

quick: setup ## the same at reduced scale, about a minute, into results/quick/ (CONFIG=mine.yaml: results/mine-quick/)
	$(ENTER) name=$(if $(CONFIG),$(NAME)-quick,quick) && \
	snakemake --configfile $(if $(CONFIG),$(QUOTED)) workflow/presets/quick.yaml --config experiment=$$name --quiet reason --cores all && \
	$(TELL) "made: the whole pipeline at reduced scale, in results/$$name/" \
	"look: open results/$$name/overview.html in a browser" \
	"next: make figures$(AGAIN)    # at full scale; how far it is: make status$(AGAIN)"

report: figures ## run what is missing and write Snakemake's report into results/paper/report.html (REPORT=zip: a folder, where it is large)
	$(ENTER) name=$(NAME) && \
	snakemake $(PRESET) --report results/$$name/report.$(REPORT) --report-stylesheet workflow/report/style.css && \
	$(TELL) "made: Snakemake's report of $$name, one file" \
	"look: $(if $(filter zip,$(REPORT)),unpack results/$$name/report.zip and open report/report.html,open results/$$name/report.html) in a browser" \
	"next: make theory$(AGAIN)    # every statement of the paper, measured"

theory: setup ## measure every statement of the paper, with C4 and with D4, into results/paper/theory.md and results/group-d4/theory.md
ifeq ($(CONFIG),)
	$(ENTER) snakemake theory --cores all
	$(ENTER) snakemake theory --configfile workflow/presets/group-d4.yaml --config 'compare=[]' --cores all
else
	$(ENTER) snakemake theory $(PRESET) --cores all
endif
	@$(ENTER) name=$(NAME) && \
	$(TELL) "made: every statement of the paper, measured, in results/$$name/theory.md" \
	"look: results/$$name/theory.md, and figures/theory_*.png beside it" \
	"next: make figures$(AGAIN)    # the overview then has it too"

study: setup ## answer the paper's open question: docs/study.md; into results/study-*/
	$(ENTER) set -e; run() { snakemake --configfile workflow/presets/$$1.yaml --cores all; }; \
	choose() { test -f workflow/presets/$$2.yaml && return; run $$1; \
	python -m equireg choose --first results/$$1 \
	--experiment $$2 --seeds $$3 --test-images 10000 --images 10000=12000 \
	--output workflow/presets/$$2.yaml --choices workflow/presets/$$2.json; }; \
	judge() { python -m equireg verdict --experiment results/$$1 --data results/data --threads 2 \
	--choices workflow/presets/$$1.json $$2 --output results/$$1/verdict.md \
	--figure results/$$1/figures/verdict.pdf --figure results/$$1/figures/verdict.png; }; \
	choose study-1 study-2 100-119; run study-2; judge study-2; \
	choose study-confirm-1 study-confirm-2 100-109; \
	run study-confirm-2; judge study-confirm-2 --gate=0.04; run study-escape; \
	at='$(RELEASED)'; python -m equireg critical --mode augmented --seeds 200-204 --threads 2 \
	--data results/data/rotated-mnist.safetensors --initial "$$at/initial/seeds-200-209.safetensors" \
	--trained "$$at/runs/equivariant/gamma-none/seeds-200-209.safetensors" \
	--representation regular --channels 32 --channels 32 --risk-scale mean \
	--output results/study-escape/critical.parquet; \
	python -m equireg escape --experiment results/study-escape \
	--critical results/study-escape/critical.parquet --output results/study-escape/escape.md \
	--figure results/study-escape/figures/escape.pdf --figure results/study-escape/figures/escape.png; \
	run study-asymmetry; \
	python -m equireg asymmetry --experiment results/study-asymmetry --data results/data \
	--output results/study-asymmetry/asymmetry.md \
	--figure results/study-asymmetry/figures/asymmetry.pdf \
	--figure results/study-asymmetry/figures/asymmetry.png; \
	$(TELL) "made: the study's stages, in results/study-*/" \
	"look: results/study-2/verdict.md, and figures/verdict.png beside it" \
	"next: docs/study.md, which says what was found"

nearby: setup ## run the experiments near E and those of inertia, an hour and three quarters, into results/*/comparison.md and sweep.md
	$(ENTER) for name in $(NEARBY); do \
	snakemake --configfile workflow/presets/$$name.yaml --cores all --until compare || exit 1; done && \
	python examples/networks/inertia.py && for name in starts $(INERTIA); do \
	snakemake --configfile workflow/presets/$$name.yaml --cores all || exit 1; done && \
	$(TELL) "made: the experiments near E of docs/study.md and those of inertia, in results/" \
	"look: results/*/comparison.md and sweep.md, and figures/comparison.png and gammas.png beside them" \
	"next: make status CONFIG=results/gamma-sweep/configuration.yaml    # or another one's"

status: setup ## print which runs are done, running, stopped, failed or missing, and the logs to read
	$(ENTER) python -m equireg status $(PRESET)

schema: setup ## write workflow/config.schema.json and docs/config.md from the code that reads config.yaml
	$(ENTER) python -m equireg schema --output workflow/config.schema.json --page docs/config.md

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

docs: setup ## build the documentation site from docs/ and the docstrings, into site/
	$(ENTER) NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --strict && \
	$(TELL) "made: the documentation site, in site/" \
	"look: open site/index.html in a browser" \
	"next: make help    # the other targets"

mutants: setup ## change the code a little, 303 times, and see which changes no test sees; half an hour and more
	$(ENTER) OMP_NUM_THREADS=1 python tests/mutants.py && \
	$(TELL) "made: nothing; each line above with an arrow is a change that no test saw" \
	"look: docs/reliability.md, which has those that are known" \
	"next: a test that sees it, or a reason there"

clean: ## remove the environment and caches; results/ stays, and what Snakemake knows of it
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Once, and again when the lock file or the package's metadata changed, or this folder was moved:
# the commands of an environment have its place in them.
ifneq ($(wildcard $(INSTALLED)),)
ifneq ($(shell cat $(INSTALLED)),$(CURDIR))
.PHONY: $(INSTALLED)
MOVED := --clear
endif
endif
$(INSTALLED): envs/requirements.lock pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "equireg: $(PYTHON) is not installed; Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("equireg: needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null || { echo "equireg: $(PYTHON) cannot make environments: install its venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@mkdir -p "$$(readlink -m '$(VENV)')" # where it is a link, too
	@echo 'equireg: putting every package, pinned, into $(VENV)/: a minute or two, 6 GB'
	$(PYTHON) -m venv $(MOVED) $(VENV)
	PIP_USER=0 $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement envs/requirements.lock \
		|| { echo "equireg: not every package could be installed, for the reason above; they need a way to a package index and 6 GB here; then the same command again goes on" >&2; exit 1; }
	PIP_USER=0 $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@printf %s '$(CURDIR)' > $@
