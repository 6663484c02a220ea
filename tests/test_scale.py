"""How time and memory grow with an experiment. docs/reliability.md has what was measured."""

from __future__ import annotations

import itertools
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml

from checkout import copy_repository, snakemake
from equireg.plan import blocks, options
from equireg.settings import GridSettings, Mode
from equireg.tables import trajectory_table, write_table
from synthetic import binding, distances, write_ensembles, write_evaluation, write_function

GAMMAS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1, 1.0, 1e1, 1e2)
FREE: tuple[Mode, ...] = ("augmented", "nominal")
KINDS = 30  # runs of a mode and gamma that differ; the others repeat them, which parquet cannot see


def write_blocks(experiment: Path, grid: GridSettings, steps: int) -> None:
    """The files of every block of ``grid``, made up.

    The losses and distances are rounded to 11 bits, so that 100 times the paper's rows take 10 GB
    of disk and not 20: noise does not compress.
    """
    for (mode, gamma), group in itertools.groupby(blocks(grid), lambda b: (b.mode, b.gamma)):
        runs = [distances(mode, gamma, kind, steps) for kind in range(KINDS)]
        kinds = {name: _rounded(np.stack([run[name] for run in runs])) for name in runs[0]}
        for block in group:
            metrics = {n: k[[seed % KINDS for seed in block.seeds]] for n, k in kinds.items()}
            path = experiment / block.path.with_name(f"{block.name}.parquet")
            write_table(path, trajectory_table(mode, gamma, block.seeds, metrics), binding(block))
            write_evaluation(experiment, block, metrics["distance"][:, -1])
            write_function(experiment, block, steps)
    write_ensembles(experiment, grid)


def _rounded(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) & np.uint32(0xFFFFF000)).view(np.float32)


class Cost(NamedTuple):
    """What a process took: wall clock and processor seconds, and its most memory in MB."""

    wall: float
    processor: float
    memory: float


PEAK = """
import sys
from equireg.cli import app
try:
    app(sys.argv[1:], standalone_mode=False)
finally:
    (peak,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    print(peak.split()[1])
"""


def cost(words: Sequence[str]) -> Cost:
    """Run ``python -m equireg <words>``; the memory is the process's own, not its parent's."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *words], check=True, stdout=subprocess.PIPE, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = sum(getattr(after, n) - getattr(before, n) for n in ("ru_utime", "ru_stime"))
    return Cost(time.perf_counter() - began, spent, int(done.stdout.split()[-1]) / 1000)


def aggregation(experiment: Path, grid: GridSettings) -> Cost:
    return cost(["aggregate", "--experiment", str(experiment), *options(grid).split()])


@pytest.mark.slow
def test_aggregation_takes_the_memory_of_a_few_runs(tmp_path: Path) -> None:
    """Of 10 times the rows it takes the same; what is freed and not given back varies by a tenth.

    The smaller experiment fills what is held at a time: 60 seeds of 40,000 steps are more distances
    than ``aggregate.VALUES``, and more rows than ``aggregate.ROWS``.
    """
    costs = []
    for seeds in ("0-59", "0-599"):
        grid = GridSettings(modes=("nominal",), gammas=(1.0,), seeds=seeds)
        write_blocks(tmp_path / seeds, grid, steps=40_000)
        costs.append(aggregation(tmp_path / seeds, grid))
    assert costs[1].memory < 1.2 * costs[0].memory, costs


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("times", [1, 10, 100])
def test_aggregation_at_times_the_papers_rows(tmp_path: Path, times: int) -> None:
    """1: the paper's grid, 16 million rows. 100: 900 seeds and 15 gammas, 1.7 billion."""
    modes: tuple[Mode, ...] = ("equivariant", *FREE)
    seeds, gammas = {1: (30, GAMMAS[:4]), 10: (90, GAMMAS), 100: (900, GAMMAS)}[times]
    grid = GridSettings(modes=modes, gammas=gammas, seeds=f"0-{seeds - 1}", seeds_per_job=30)
    runs = seeds * (1 + len(FREE) * len(gammas))
    needed = runs * 60_000 * 16 + 2**30
    free = shutil.disk_usage(tmp_path).free
    if free < needed:
        pytest.skip(f"needs {needed / 1e9:.0f} GB of disk; {free / 1e9:.0f} GB are free")
    try:
        write_blocks(tmp_path, grid, steps=60_000)
        size = sum(path.stat().st_size for path in tmp_path.rglob("*.parquet"))
        found = aggregation(tmp_path, grid)
        print(f"\n{runs * 60_000 / 1e6:.0f} million rows, {size / 1e9:.2f} GB: {found}")
    finally:
        shutil.rmtree(tmp_path)
    assert found.memory < 400
    assert found.processor / (runs * 60_000) < 2e-6


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("seeds_per_job", [30, 1])
def test_the_dry_run_of_27000_runs(tmp_path: Path, seeds_per_job: int) -> None:
    """900 seeds, 15 gammas, two modes, and the equivariant one."""
    folder = copy_repository(tmp_path)
    grid = {"seeds": 900, "gammas": [*GAMMAS], "seeds_per_job": seeds_per_job}
    (folder / "large.yaml").write_text(yaml.safe_dump({"experiment": "large", "grid": grid}))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    words = ("--dry-run", "--quiet", "all", "--configfile", "large.yaml")
    done = snakemake(*words, cwd=folder, timeout=3600)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user = after.ru_utime - before.ru_utime
    print(f"\nblocks of {seeds_per_job}: {wall:.1f} s, of which {user:.1f} s of a processor")
    assert done.returncode == 0, done.stdout
    assert re.search(rf"^train +{27_900 // seeds_per_job}$", done.stdout, re.MULTILINE)
    assert user < (30 if seeds_per_job == 30 else 300)
