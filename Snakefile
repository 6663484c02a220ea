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


def folder_of(place):
    """Where this file is, from where commands are run: ".", or another folder.

    Another one with --directory, and for a workflow of somebody else's that has this one as a
    module. Links lead to the same files. Of a repository elsewhere, as snakedeploy names it,
    Snakemake reads file by file; jobs need them all, so its commit is unpacked below .snakemake/.
    """
    if not hasattr(place, "ref"):
        return Path(os.path.relpath(os.path.realpath(place.get_path_or_uri(secret_free=True))))
    clone = place.hosted_repo.repo_clone if hasattr(place, "hosted_repo") else place.repo_path
    git = ["git", "-C", str(clone)]
    commit = subprocess.check_output([*git, "rev-parse", f"{place.ref}^{{commit}}"], text=True)
    folder = Path(".snakemake", "equireg", commit.strip())
    if not folder.is_dir():
        unpacked = folder.with_name(f"{folder.name}.{os.getpid()}")
        unpacked.mkdir(parents=True)
        packed = subprocess.check_output([*git, "archive", folder.name])
        subprocess.run(["tar", "-x", "-C", str(unpacked)], input=packed, check=True)
        unpacked.rename(folder)
    return folder / place.path


HERE = folder_of(workflow.current_basedir)
MODULE = not workflow.modifier.is_main_snakefile()
SOURCES = str(Path(HERE, "src").absolute())
sys.path.insert(0, SOURCES)

from equireg.config import ConfigurationError, load
from equireg.digest import job_digest
from equireg.inventory import Inventory, begin, check, configuration_text, redate, take
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
    modes_but_for,
    modes_but_for_conditions,
    options,
    predicted_seeds,
    runs_per_job,
    seed_blocks,
    seen_blocks,
    seeds_option,
    train_options,
)
from equireg.settings import MODES, SelectionSettings, SourceSettings, part
from equireg.spelling import GAMMA, NO_PENALTY, build_file, spell_gamma, spell_seeds

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
found = Inventory()
if workflow.is_main_process and not re.search(EVERYTHING, " ".join(["", *sys.argv[1:]])):
    try:
        found = take(chosen, Path("results"))
        check(chosen, found, Path("results"))
        found.leave_to_rules(sys.argv, Path("results", chosen.experiment))
    except ConfigurationError as error:
        sys.exit(f"equireg: {error}")
    redate(found)
    if not workflow.output_settings.dryrun:
        begin(chosen, Path("results"))

RESULTS = f"results/{chosen.experiment}"
DATA = f"results/data/{chosen.data.name}.safetensors"
SELECTION = part(SelectionSettings, chosen.data)
RUN = "{mode}/gamma-{gamma}/seeds-{seeds}"  # a block of runs, as plan.Block spells it
BLOCK = f"{RESULTS}/runs/{RUN}"
BLOCKS = [f"{RESULTS}/{block.path}" for block in blocks(chosen.grid)]
OUTDATED = {str(file) for file in found.outdated}
# With --resources gpu=2, two of the jobs that use one at a time, each on a GPU of its own. SLURM
# gives out GPUs itself: there the profile says who gets one.
GPU = int("gpu" in workflow.global_resources and chosen.jobs.device != "cpu")
OWN_GPU = "--own-gpu" if GPU else "--no-own-gpu"


wildcard_constraints:
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


# Everything that README promises, so that a file deleted by hand is made anew.
rule all:
    input:
        data=DATA,
        blocks=[
            f"{block}.{suffix}"
            for block in BLOCKS
            for suffix in (
                "parquet",
                "safetensors",
                "json",
                "function.parquet",
                "evaluation.parquet",
            )
        ],
        tables=expand(
            f"{RESULTS}/{{table}}.parquet",
            table=["trajectories", "summary", "evaluation", "ensembles", "function"],
        ),
        figures=expand(
            f"{RESULTS}/figures/{{figure}}.{{suffix}}",
            figure=["figure2", "function", "comparison"],
            suffix=["pdf", "png"],
        ),
        page=f"{RESULTS}/figures/figure2.html",
        claims=f"{RESULTS}/claims.md",
        predictions=expand(f"{RESULTS}/predictions.{{suffix}}", suffix=["parquet", "md"]),
        comparison=f"{RESULTS}/comparison.md",
        overview=f"{RESULTS}/overview.html",
        network=[f"{RESULTS}/network.md"] if chosen.network.build else [],


include: "workflow/rules/data.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/predictions.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/theory.smk"
include: "workflow/rules/start.smk"
