"""Status: how far the runs of an experiment are, read from its files and logs alone."""

from __future__ import annotations

import re
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from equireg.config import Configuration
from equireg.plan import Block, blocks
from equireg.spelling import spell_gamma

State = Literal["done", "running", "stopped", "failed", "missing"]
STATES: tuple[State, ...] = get_args(State)

TRAINED = ("parquet", "safetensors", "json")  # what a finished training job leaves
EVERY = 2.0  # seconds between two looks
SILENT = 120  # seconds without a line or a file, after which a job no longer runs
PROGRESS = re.compile(r"step (\d+)/(\d+) .* (\d+) s left")  # of a training job's log


@dataclass(frozen=True)
class Progress:
    """How far a block is, what its last log said, and where that log is."""

    block: Block
    state: State
    share: float  # of its steps, 0 to 1
    seconds: float | None  # left of its training, as its log says
    said: str
    log: Path


def status(configuration: Configuration, results: Path, console: Console) -> None:
    """Print the grid as a table of runs per state, and the logs to read.

    results: the folder that holds ``<experiment>/``. Says nothing of whether a finished run is
    still what the code and the configuration would give: a dry run of the workflow does.
    """
    made, lines, _ = survey(configuration, results)
    console.print(made)
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def follow(configuration: Configuration, results: Path, console: Console) -> None:
    """Keep what ``status`` prints on the screen, until every run is done."""
    with Live(console=console, auto_refresh=False) as screen:
        done = False
        while not done:
            made, lines, done = survey(configuration, results)
            screen.update(Group(made, *map(Text, lines)), refresh=True)
            if not done:
                time.sleep(EVERY)


def survey(configuration: Configuration, results: Path) -> tuple[Table, list[str], bool]:
    """The table, the lines below it, and whether every run is done."""
    folder = results / configuration.experiment
    grid = [progress(folder, block) for block in blocks(configuration.grid)]
    runs = Counter[State]()
    for entry in grid:
        runs[entry.state] += len(entry.block.seeds)
    total = sum(runs.values())
    left = minutes_left(grid)
    soon = f", about {left:.0f} min of training left" if left is not None else ""
    lines = [f"{folder}: {runs['done']} of {total} runs done{soon}"]
    for entry in grid:
        if entry.state in ("failed", "stopped"):
            lines += [f"{entry.state}: {entry.said}", f"    see {entry.log}"]
    others = [results / "data" / "logs" / f"{configuration.data.name}.log"]
    others += [
        log
        for log in sorted(folder.glob("logs/**/*.log"))
        if log.relative_to(folder / "logs").parts[0] not in ("train", "evaluate")
    ]
    for log in others:
        if failure := failed(last_lines(log)):
            lines += [f"failed: {failure}", f"    see {log}"]
    return table(grid), lines, runs["done"] == total


def progress(folder: Path, block: Block) -> Progress:
    """The state of one block, from its files and from the logs of its two jobs."""
    base, logs = folder / block.path, folder / "logs"
    below = block.path.relative_to("runs")
    trained = all(base.with_name(f"{base.name}.{suffix}").is_file() for suffix in TRAINED)
    log = (logs / ("evaluate" if trained else "train") / below).with_suffix(".log")
    stacked = logs / "train" / block.mode / f"{block.name}.log"  # one job for all gammas
    if not trained and stacked.is_file() and not newer(log, stacked):
        log = stacked
    lines = last_lines(log)
    said = lines[-1] if lines else ""
    steps = None if trained else next(filter(None, map(PROGRESS.match, reversed(lines))), None)
    share = int(steps[1]) / int(steps[2]) if steps else float(trained)
    seconds = float(steps[3]) if steps else None
    if trained and base.with_name(f"{base.name}.evaluation.parquet").is_file():
        return Progress(block, "done", 1.0, None, said, log)
    if failure := failed(lines):
        return Progress(block, "failed", share, None, failure, log)
    if told_to_end(lines):
        return Progress(block, "stopped", share, None, said, log)
    if not log.is_file():
        return Progress(block, "missing", share, None, said, log)
    silent = time.time() - log.stat().st_mtime > SILENT
    said = said or "it said nothing"
    if silent:
        return Progress(block, "stopped", share, None, said, log)
    return Progress(block, "running", share, seconds, said, log)


def newer(one: Path, other: Path) -> bool:
    """Whether a file was written after another one, which is there."""
    return one.is_file() and one.stat().st_mtime > other.stat().st_mtime


def minutes_left(grid: Sequence[Progress]) -> float | None:
    """How long the training of all blocks takes if as many go on side by side as now.

    From the pace of those that run; None where none has told it yet.
    """
    running = [e for e in grid if e.seconds is not None and e.share < 1]
    if not running:
        return None
    whole = statistics.mean(e.seconds / (1 - e.share) for e in running if e.seconds is not None)
    return whole * sum(1 - entry.share for entry in grid) / len(running) / 60


def last_lines(log: Path) -> list[str]:
    """The end of a log, without empty lines; nothing where there is no log."""
    try:
        with open(log, "rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 10_000))
            text = stream.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()]


def failed(lines: list[str]) -> str:
    """What made a job fail, from the end of its log; empty where nothing did."""
    if not lines:
        return ""
    broken = any(line.startswith("Traceback (most recent call last)") for line in lines)
    return lines[-1] if broken or lines[-1].startswith("equireg: ") else ""


def told_to_end(lines: list[str]) -> bool:
    """Whether a job ended because a signal told it to, as the end of its log says."""
    return bool(lines) and re.match(r"SIG[A-Z0-9]+: ", lines[-1]) is not None


def table(grid: Iterable[Progress]) -> Table:
    """A row per mode and gamma: the runs in each state, and the share of the steps made."""
    rows: dict[tuple[str, str], list[Progress]] = {}
    for entry in grid:
        rows.setdefault((entry.block.mode, spell_gamma(entry.block.gamma)), []).append(entry)
    made = Table(box=SIMPLE)
    made.add_column("mode")
    for name in ("gamma", *STATES, "trained"):
        made.add_column(name, justify="right")
    for (mode, gamma), entries in rows.items():
        runs = Counter[State]()
        for entry in entries:
            runs[entry.state] += len(entry.block.seeds)
        steps = sum(entry.share * len(entry.block.seeds) for entry in entries)
        counts = [str(runs[state] or "") for state in STATES]
        made.add_row(mode, gamma, *counts, f"{100 * steps / sum(runs.values()):.0f} %")
    return made
