# From a data set to the paper's figure. config.yaml says what can be chosen, workflow/rules/ has
# the steps by stage, src/equireg/ does the work: every job is one call of `python -m equireg`.

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/place.smk"


HERE = folder_of(workflow.current_basedir)
MODULE = not workflow.modifier.is_main_snakefile()
SOURCES = str(Path(HERE, "src").absolute())
sys.path.insert(0, SOURCES)

from equireg.config import ConfigurationError, experiments, load
from equireg.digest import job_digest
from equireg.inventory import (
    Inventory,
    begin,
    check,
    configuration_text,
    redate,
    take,
    take_sweep,
)
from equireg.plan import (
    CRITICAL_SEEDS,
    ENSEMBLES,
    block_name,
    block_options,
    blocks,
    blocks_options,
    conditions,
    critical_block,
    data_files,
    folders_but_for,
    folders_but_for_conditions,
    options,
    predicted_seeds,
    runs_per_job,
    section,
    seed_blocks,
    seen_blocks,
    seeds_option,
    train_options,
)
from equireg.settings import MODES
from equireg.spelling import GAMMA, NO_PENALTY, build_file, spell_gamma, spell_seeds
from equireg.sweeps import spell_sweep

# Refused in a line per mistake; an exception would print a traceback.
try:
    files = [HERE / "config.yaml"]
    if MODULE:
        chosen = load(files, config, "the configuration of the module")
    else:
        if HERE != Path() and Path("config.yaml").is_file():  # of the folder of --directory
            files.append(Path("config.yaml"))
        chosen = load([*files, *workflow.overwrite_configfiles], workflow.config_settings.config)
except ConfigurationError as error:
    sys.exit(f"equireg: {error}")


if not MODULE:

    configfile: str(HERE / "config.yaml")


config["merged"] = configuration_text(chosen)  # the report shows it


report: "workflow/report/workflow.rst"


# A job finds this checkout's package, whatever environment it runs in: `--sdm conda` clears
# PYTHONPATH before this.
shell.prefix(f"export PYTHONPATH={shlex.quote(SOURCES)}; ")

# What is there already is kept if it says of itself that this configuration and this code made it,
# whatever its time: no rule has it as its output then. Only where jobs are to be run, and by the
# process that plans them: a report, say, is about all of them.
EVERYTHING = (
    r" --?(report|delete|force|touch|dag|rulegraph|filegraph|d3dag|summary|detailed|[FRft]\b)"
)
# The experiments by name: the one of the configuration, or each combination of its sweep.
POINTS = {point.experiment: point for point in experiments(chosen)}
found = {name: Inventory() for name in POINTS}
if workflow.is_main_process and not re.search(EVERYTHING, " ".join(["", *sys.argv[1:]])):
    try:
        for name, point in POINTS.items():
            found[name] = take(point, Path("results"))
            check(point, found[name], Path("results"))
            found[name].leave_to_rules(sys.argv, Path("results", name))
        every = [*found.values(), take_sweep(chosen, Path("results"))]
        for kept in every:
            redate(kept.outdated, kept.current)
    except ConfigurationError as error:
        sys.exit(f"equireg: {error}")
    if not workflow.output_settings.dryrun:
        begin(chosen, Path("results"))

# Where an experiment's results are. In a sweep the rules are the same ones, with the combination's
# folder as a wildcard.
RESULTS = "results/{experiment}" if chosen.sweep else f"results/{chosen.experiment}"
NAME = "{wildcards.experiment}" if chosen.sweep else chosen.experiment  # in messages
SWEEP = f"results/{chosen.experiment}"
RUN = "{mode}/gamma-{gamma}/seeds-{seeds}"  # a block of runs, as plan.Block spells it
BLOCK = f"results/{{experiment}}/runs/{RUN}"
DATA_SETS = sorted({point.data.name for point in POINTS.values()})
OUTDATED = {str(file) for kept in found.values() for file in kept.outdated}
# With --resources gpu=2, two of the jobs that use one at a time, each on a GPU of its own. SLURM
# gives out GPUs itself: there the profile says who gets one.
GPU = int("gpu" in workflow.global_resources and chosen.jobs.device != "cpu")
OWN_GPU = "--own-gpu" if GPU else "--no-own-gpu"


include: "workflow/rules/common.smk"


wildcard_constraints:
    experiment="|".join(map(re.escape, POINTS)),
    mode="|".join(MODES),
    gamma=GAMMA,
    seeds=r"\d+-\d+",


# On a cluster these run where Snakemake does: fetch needs the network, the others take seconds.
localrules:
    all,
    fetch,
    initialize,
    draw,
    check,
    score,
    compare,
    overview,


# Everything that README promises, so that a file deleted by hand is made anew. Of a sweep's
# experiments only what its table needs: whoever wants a figure of one asks for it by its path.
PROMISED = [
    *(f"results/data/{name}.safetensors" for name in DATA_SETS),
    *(
        f"results/{name}/{block.path}.{suffix}"
        for name, point in POINTS.items()
        for block in blocks(point.grid)
        for suffix in (
            "parquet",
            "safetensors",
            "json",
            "function.parquet",
            "evaluation.parquet",
        )
    ),
    *expand(
        "results/{name}/{table}.parquet",
        name=POINTS,
        table=["trajectories", "summary", "evaluation", "ensembles", "function"],
    ),
    *(f"results/{name}/network.md" for name in POINTS if POINTS[name].network.build),
]
if chosen.sweep:
    PROMISED += expand(
        f"{SWEEP}/{{file}}",
        file=[
            "sweep.parquet",
            "sweep.md",
            "overview.html",
            "figures/sweep.pdf",
            "figures/sweep.png",
        ],
    )
    if {"augmented", "nominal"} & {*chosen.grid.modes}:
        PROMISED += [f"{SWEEP}/figures/gammas.{suffix}" for suffix in ("pdf", "png")]
else:
    PROMISED += expand(
        f"{RESULTS}/{{file}}",
        file=["claims.md", "predictions.parquet", "predictions.md"],
    )
# Equivariant runs alone are at distance 0: tables say so, and there is nothing to draw.
if not chosen.sweep and {*chosen.grid.modes} != {"equivariant"}:
    PROMISED += expand(f"{RESULTS}/{{page}}", page=["comparison.md", "overview.html"])
    PROMISED += expand(
        f"{RESULTS}/figures/{{figure}}.{{suffix}}",
        figure=["figure2", "function", "comparison"],
        suffix=["pdf", "png"],
    )
    PROMISED.append(f"{RESULTS}/figures/figure2.html")


rule all:
    input:
        PROMISED,
    message:
        f"Everything of {chosen.experiment} is there"


include: "workflow/rules/data.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/predictions.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/sweep.smk"
include: "workflow/rules/theory.smk"
include: "workflow/rules/start.smk"
