"""How a configuration becomes jobs, files and command lines.

Standard library and ``settings`` only: the workflow imports this each time it is parsed, in every
job, and ``aggregate`` finds the files of an experiment through it.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from equireg.settings import (
    ALL_IMAGES,
    MODES,
    UNREAD,
    GridSettings,
    Mode,
    NetworkSettings,
    Section,
    SelectionSettings,
    SourceSettings,
    TrainingSettings,
    part,
)
from equireg.spelling import NO_PENALTY, consecutive, parse_seeds, spell_gamma, spell_seeds

# The files of a data set; a folder may hold them gzipped instead.
DATA_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
# Its arrays, in the same order: in one file, or as .npy files in the folder.
ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")

ENSEMBLES = "ensembles.parquet"  # beside the blocks of a mode and gamma, and of the experiment

PREDICTED_SEEDS = 10  # a prediction takes about four times as long as a run
CRITICAL_SEEDS = 3  # a Hessian's smallest eigenvalue takes longer than a run


class Condition(NamedTuple):
    """What a curve of figure 2 belongs to: all seeds of a mode and a gamma."""

    mode: Mode
    gamma: float

    def __str__(self) -> str:
        return f"{self.mode} at gamma {spell_gamma(self.gamma)}"


@dataclass(frozen=True)
class Block:
    """The runs of one training job: one mode, one gamma (None: equivariant), consecutive seeds."""

    mode: Mode
    gamma: float | None
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """``seeds-000-009``: the first and the last seed."""
        return block_name(self.seeds)

    @property
    def path(self) -> Path:
        """``runs/augmented/gamma-1e-2/seeds-000-009``: within an experiment, without a suffix."""
        return Path("runs", self.mode, f"gamma-{spell_gamma(self.gamma)}", self.name)


def blocks(grid: GridSettings) -> list[Block]:
    """Every block of the grid, sorted as the tables are: by mode (alphabetically), gamma, seed.

    The equivariant mode does not depend on gamma, so it comes once.
    """
    seeds = seed_blocks(grid)
    gammas: list[float | None] = [*sorted(set(grid.gammas))]
    return [
        Block(mode, gamma, block)
        for mode in sorted(set(grid.modes))
        for gamma in ([None] if mode == "equivariant" else gammas)
        for block in seeds
    ]


def conditions(grid: GridSettings) -> dict[tuple[Mode, float | None], list[Block]]:
    """The blocks of each mode and gamma, sorted as ``blocks`` is."""
    groups = itertools.groupby(blocks(grid), lambda block: (block.mode, block.gamma))
    return {condition: list(group) for condition, group in groups}


def seed_blocks(grid: GridSettings) -> list[tuple[int, ...]]:
    """The seeds in blocks aligned to multiples of ``seeds_per_job``, cut where a seed is missing.

    Aligned, so that more seeds asked for later leave the full blocks as they are.
    """
    aligned = itertools.groupby(parse_seeds(grid.seeds), lambda seed: seed // grid.seeds_per_job)
    return [tuple(run) for _, group in aligned for run in consecutive(list(group))]


def runs_per_job(grid: GridSettings, stacked: bool) -> int:
    """How many runs a training job takes at most: a block's, or a block's for each gamma."""
    return grid.seeds_per_job * (len(grid.gammas) if stacked else 1)


def seen_blocks(grid: GridSettings) -> list[Block]:
    """The blocks of the first seeds, at the smallest gamma: trained points for the theory."""
    every = blocks(grid)
    lowest = min(grid.gammas, default=None)
    first = every[0].seeds if every else ()
    return sorted(
        (b for b in every if b.seeds == first and b.gamma in (None, lowest)),
        key=lambda block: MODES.index(block.mode),
    )


def predicted_seeds(grid: GridSettings) -> tuple[int, ...]:
    """The seeds from which figure 2 is predicted: the first consecutive ones, at most ten."""
    return tuple(consecutive(parse_seeds(grid.seeds))[0][:PREDICTED_SEEDS])


def critical_block(grid: GridSettings) -> Block:
    """The first equivariant runs, at whose weights the critical gamma is taken.

    Raises ValueError where the grid has none.
    """
    for block in blocks(grid):
        if block.mode == "equivariant":
            return block
    raise ValueError(f"modes are {', '.join(grid.modes)}; accepted: with the equivariant one")


def block_name(seeds: tuple[int, ...]) -> str:
    """``(0, ..., 9)`` -> ``seeds-000-009``."""
    return f"seeds-{seeds[0]:03d}-{seeds[-1]:03d}"


def folders_but_for_conditions(kept: Mapping[str, Collection[tuple[Mode, float | None]]]) -> str:
    """The same for paths that begin with a mode and a gamma of which all is kept."""
    made = []
    for experiment, every in kept.items():
        paths = sorted(rf"{mode}/gamma-{re.escape(spell_gamma(gamma))}/" for mode, gamma in every)
        own = re.escape(experiment)
        made.append(rf"(?!{own}/runs/(?:{'|'.join(paths)})){own}" if paths else own)
    return "|".join(made)


def block_options(files: Sequence[str]) -> str:
    """``--block`` for each of the files."""
    return _spell({"block": tuple(files)})


def folders_but_for(kept: Mapping[str, Collection[Block]], gammas: int = 1) -> str:
    """What the wildcard ``experiment`` of a block's path may be, so that it is none of ``kept``.

    kept: blocks by the experiment's name. As a regular expression, which looks ahead at the whole
    path. gammas: how many blocks of a mode and seeds one job makes; they are left out once so many
    are kept.
    """
    return "|".join(_but_for(name, blocks, gammas) for name, blocks in kept.items())


def _but_for(experiment: str, kept: Collection[Block], gammas: int) -> str:
    every: dict[tuple[str, str], list[str]] = {}
    if gammas == 1:
        for block in kept:
            gamma = re.escape(spell_gamma(block.gamma))
            every.setdefault((block.mode, gamma), []).append(block.name)
    else:
        counts = Counter((block.mode, block.name) for block in kept)
        for (mode, name), count in counts.items():
            if count >= gammas:
                every.setdefault((mode, "[^/]+"), []).append(name)
    paths = [
        rf"{mode}/gamma-{gamma}/(?:{'|'.join(sorted(names))})\."
        for (mode, gamma), names in sorted(every.items())
    ]
    own = re.escape(experiment)
    return rf"(?!{own}/runs/(?:{'|'.join(paths)})){own}" if paths else own


def section(configuration: Any, name: str) -> Section:
    """A section of the configuration, or of its data ``source`` or ``selection`` alone.

    configuration: ``config.Configuration``.
    """
    if name in ("source", "selection"):
        kind = SourceSettings if name == "source" else SelectionSettings
        return part(kind, configuration.data)
    found: Section = getattr(configuration, name)
    return found


def seeds_option(seeds: str) -> str:
    """The option for a block's seeds as its path spells them: ``000-009`` -> ``--seeds 0-9``."""
    return _spell({"seeds": spell_seeds(parse_seeds(seeds))})


def blocks_options(mode: str, gammas: Sequence[str], seeds: str, outputs: Sequence[str]) -> str:
    """The options of a training job: its mode, a gamma and a parquet per block, its seeds.

    gammas, seeds: as paths spell them; ``none`` is the equivariant mode's, which has no penalty.

    >>> blocks_options("augmented", ["1e-2"], "000-009", ["runs/x.parquet"])
    '--mode augmented --gamma 1e-2 --seeds 0-9 --output runs/x.parquet'
    """
    penalties = tuple(gamma for gamma in gammas if gamma != NO_PENALTY)
    first = _spell({"mode": mode, "gamma": penalties})
    return " ".join([first, seeds_option(seeds), _spell({"output": tuple(outputs)})])


def data_files(data: SourceSettings) -> list[str]:
    """The files of a user's own data set that ``fetch`` reads; empty for a download.

    In a folder: IDX files, raw, or gzipped where not raw; where there is none of them, NumPy's. A
    file that is missing is left out: ``fetch`` says so better.
    """
    if data.file is not None:
        file = Path(data.file).expanduser()
        return [str(file)] if file.is_file() else []
    if data.folder is None:
        return []
    folder = Path(data.folder).expanduser()
    choices = [(folder / name, folder / f"{name}.gz") for name in DATA_FILES]
    found = [next((path for path in paths if path.is_file()), None) for paths in choices]
    if not any(found):
        found = [folder / f"{name}.npy" for name in ARRAYS if (folder / f"{name}.npy").is_file()]
    return [str(path) for path in found if path]


def holds_arrays(data: SourceSettings) -> bool:
    """Whether the data set is arrays of a user's own, and no IDX files."""
    return data.file is not None or any(file.endswith(".npy") for file in data_files(data))


def train_options(
    network: NetworkSettings,
    training: TrainingSettings,
    mode: Mode,
    selection: SelectionSettings = ALL_IMAGES,
) -> str:
    """``options`` without those that the mode does not read: they must not train its runs anew."""
    return options(network, training, selection, without=UNREAD[mode])


def options(*sections: Any, without: Collection[str] = ()) -> str:
    """The command line's options for sections of the configuration, quoted for a shell.

    ``--group C4 --image-size 28 --channels 16 --channels 16 ...``: every field, so that a pasted
    command does not depend on defaults; numbers in one spelling, so that 0.01 and 1e-2 are the same
    job; a field that is None or in ``without`` is left out.
    """
    fields = [
        (section, field.name) for section in sections for field in dataclasses.fields(section)
    ]
    return _spell({name: getattr(section, name) for section, name in fields if name not in without})


def _spell(fields: dict[str, Any]) -> str:
    words: list[str] = []
    for name, value in fields.items():
        flag = f"--{name.replace('_', '-')}"
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, bool):
                words.append(flag if item else f"--no-{flag[2:]}")
            elif item is not None:
                words += [flag, spell_gamma(item) if isinstance(item, float) else str(item)]
    return shlex.join(words)
