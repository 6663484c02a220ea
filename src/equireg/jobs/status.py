"""Status: how far the runs of an experiment are, by its files, checkpoints, locks and logs."""

from __future__ import annotations

import fcntl
import functools
import re
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from rich.box import SIMPLE
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from equireg.binding import REMEDY, Binding, differences, spell
from equireg.config import Configuration, experiments
from equireg.files import parse_json, sha256
from equireg.inventory import completed, file_of, last_step, of_block, runs_of, wanted
from equireg.plan import Block, blocks
from equireg.spelling import spell_gamma
from equireg.sweeps import combinations, keys, spell_value

State = Literal["done", "running", "stopped", "failed", "missing", "other"]
STATES: tuple[State, ...] = get_args(State)

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

    results: the folder that holds ``<experiment>/``. Finished runs of other settings are told
    apart; whether one is still what the code would give, a dry run of the workflow says.
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
    """The table, the lines below it, and whether every run is done.

    Of a sweep the table has a row per combination.
    """
    folder, chosen = results / configuration.experiment, experiments(configuration)
    grids = {
        point.experiment: [
            progress(point, results / point.experiment, block, data_sum(point, results))
            for block in blocks(point.grid)
        ]
        for point in chosen
    }
    grid = [entry for entries in grids.values() for entry in entries]
    runs = Counter[State]()
    for entry in grid:
        runs[entry.state] += len(entry.block.seeds)
    total = sum(runs.values())
    left = minutes_left(grid)
    soon = f", about {left:.0f} min of training left" if left is not None else ""
    lines = [f"{folder}: {runs['done']} of {total} runs done{soon}"]
    if unlike := [entry for entry in grid if entry.state == "other"]:
        lines += [f"of other settings: {unlike[0].said}", f"    see {unlike[0].log}"]
        lines.append("    kept, unless the configuration says overwrite: true")
    for entry in grid:
        if entry.state in ("failed", "stopped"):
            lines += [f"{entry.state}: {entry.said}", f"    see {entry.log}"]
    data = sorted({point.data.name for point in chosen})
    others = [results / "data" / "logs" / f"{name}.log" for name in data]
    for place in dict.fromkeys([folder, *(results / name for name in grids)]):
        others += [
            log
            for log in sorted(place.glob("logs/**/*.log"))
            if log.relative_to(place / "logs").parts[0] not in ("train", "evaluate")
        ]
    for log in others:
        if failure := failed(last_lines(log)):
            lines += [f"failed: {failure}", f"    see {log}"]
    for other in sorted(results.glob("*/configuration.yaml")):
        if other.parent != folder:
            lines.append(f"also there: {other.parent}; make status CONFIG={other}")
    names = tuple(keys(configuration.sweep)) or ("mode", "gamma")
    return table(names, by_row(configuration, grids)), lines, runs["done"] == total


def by_row(
    configuration: Configuration, grids: Mapping[str, Iterable[Progress]]
) -> dict[tuple[str, ...], list[Progress]]:
    """The blocks by mode and gamma; of a sweep, by the values of its keys."""
    rows: dict[tuple[str, ...], list[Progress]] = {}
    every = combinations(configuration.sweep)
    for place, grid in zip(every, grids.values(), strict=True):
        for entry in grid:
            own = (str(entry.block.mode), spell_gamma(entry.block.gamma))
            row = tuple(map(spell_value, place.values())) if place else own
            rows.setdefault(row, []).append(entry)
    return rows


def data_sum(configuration: Configuration, results: Path) -> str | None:
    """The SHA-256 sum of the data set, where it is there."""
    file = results / "data" / f"{configuration.data.name}.safetensors"
    return _sum(file, file.stat().st_mtime_ns) if file.is_file() else None


@functools.cache
def _sum(file: Path, _: int) -> str:
    """Once for each time of the file: it may have a gigabyte, and is asked for often."""
    return sha256(file)


def progress(
    configuration: Configuration, folder: Path, block: Block, data: str | None = None
) -> Progress:
    """The state of one block, from what its files, its checkpoint and its lock say of themselves.

    data: the data set's sum, where it is known.
    A log is read for why a job failed, and for the time that a running one has left.
    """
    made, chosen = of_block(folder, block), wanted(configuration, block, data)
    log = log_of(folder, block, trained=made is not None)
    lines = last_lines(log)
    said = lines[-1] if lines else ""
    if made is not None:
        share, seconds = 1.0, None
        if not made:
            said = f"the block does not say what made it; {REMEDY}"
            return Progress(block, "failed", 0.0, None, said, file_of(folder, block, "json"))
        if other := differences(made, {**chosen, **runs_of(block)}):
            key, have, value = other[0]
            said = f"{key} is {spell(have)}, the configuration says {spell(value)}"
            return Progress(block, "other", 0.0, None, said, file_of(folder, block, "json"))
        if file_of(folder, block, "evaluation.parquet").is_file():
            return Progress(block, "done", share, None, said, log)
    else:
        share = saved(file_of(folder, block, "checkpoint"), chosen)
        steps = next(filter(None, map(PROGRESS.match, reversed(lines))), None)
        seconds = float(steps[3]) if steps else None
        share = max(share, int(steps[1]) / int(steps[2])) if steps else share
    if held(file_of(folder, block, "lock")):
        return Progress(block, "running", share, seconds, said or "it said nothing", log)
    if failure := failed(lines):
        return Progress(block, "failed", share, None, failure, log)
    if told_to_end(lines):
        return Progress(block, "stopped", share, None, said, log)
    if not log.is_file():
        return Progress(block, "stopped" if share else "missing", share, None, said, log)
    state: State = "stopped" if time.time() - log.stat().st_mtime > SILENT else "running"
    left = seconds if state == "running" else None
    return Progress(block, state, share, left, said or "it said nothing", log)


def log_of(folder: Path, block: Block, trained: bool) -> Path:
    """The log of the block's last job."""
    logs, below = folder / "logs", block.path.relative_to("runs")
    if trained:  # one job for all seeds of a mode and gamma
        return logs / "evaluate" / block.mode / f"{below.parent.name}.log"
    log = (logs / "train" / below).with_suffix(".log")
    stacked = logs / "train" / block.mode / f"{block.name}.log"  # one job for all gammas
    return stacked if stacked.is_file() and not newer(log, stacked) else log


def saved(checkpoint: Path, chosen: Binding) -> float:
    """The share of the steps that a checkpoint holds; 0 where it is of other settings."""
    try:
        about = parse_json((checkpoint / "made.json").read_bytes())
        if differences(completed(about["made"]), chosen):
            return 0.0
        return float(
            max(map(last_step, checkpoint.glob("*.safetensors")), default=0) / about["steps"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def held(lock: Path) -> bool:
    """Whether a process holds the lock: the block is being trained."""
    try:
        with open(lock, "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # not there, or no locks
        return False
    return False


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


def table(names: Sequence[str], rows: Mapping[tuple[str, ...], Sequence[Progress]]) -> Table:
    """The runs of each row in each state that some are in, and the share of the steps.

    rows: by their first cells, which names are the headings of. States that no run is in have no
    column: a terminal of 80 columns would cut their names off.
    """
    runs = {row: Counter[State]() for row in rows}
    for row, entries in rows.items():
        for entry in entries:
            runs[row][entry.state] += len(entry.block.seeds)
    states = [state for state in STATES if any(count[state] for count in runs.values())]
    made = Table(box=SIMPLE)
    made.add_column(names[0], no_wrap=True)
    for name in (*names[1:], *states, "trained"):
        made.add_column(name, justify="right", no_wrap=True)
    for row, entries in rows.items():
        steps = sum(entry.share * len(entry.block.seeds) for entry in entries)
        counts = [str(runs[row][state] or "") for state in states]
        made.add_row(*row, *counts, f"{100 * steps / sum(runs[row].values()):.0f} %")
    return made
