"""What an experiment's folder holds already, and whether the configuration would make the same.

By content alone: by what each file says of itself (``binding``) and by sums, whatever the times of
the files are and whoever put them there. What is right is kept; what other code made is to be made
anew; finished runs of other settings or data are not touched unless the configuration says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from equireg import binding
from equireg.binding import Binding
from equireg.config import Configuration, ConfigurationError
from equireg.digest import job_digest
from equireg.files import parse_json, sha256, write_text
from equireg.plan import ENSEMBLES, Block, blocks, conditions, data_files, predicted_seeds
from equireg.settings import (
    UNREAD,
    Mode,
    NetworkSettings,
    SelectionSettings,
    TrainingSettings,
    part,
)
from equireg.spelling import parse_seeds, spell_gamma, spell_seeds
from equireg.sweeps import spell_sweep

SHIFT = 10**18  # nanoseconds, since 1970 until 2001 and by which files are dated back
# what a finished training job leaves of a block
TRAINED = ("parquet", "safetensors", "json", "function.parquet")


@dataclass
class Inventory:
    """What is there. Blocks and files that are in none of these are missing."""

    trained: set[Block] = field(default_factory=set)  # and by the code that there is
    # modes and gammas all of whose blocks are, and their ensembles
    evaluated: set[tuple[Mode, float | None]] = field(default_factory=set)
    data: bool = False  # the data set is that of the folder, or a download
    predicted: bool = False
    outdated: list[Path] = field(default_factory=list)  # made by other code, or of another grid
    current: list[Path] = field(default_factory=list)  # the other files
    unlike: list[tuple[Block, str, Any, Any]] = field(default_factory=list)  # key, made, wanted

    def leave_to_rules(self, named: Sequence[str], folder: Path) -> None:
        """Take out the blocks whose files are asked for by name: a target has to have a rule."""
        asked = set(named)
        self.evaluated -= {
            condition
            for condition in self.evaluated
            for name in asked
            if Path(name).parent == folder_of(folder, condition)
            and Path(name).name.endswith(("evaluation.parquet", ENSEMBLES))
        }
        self.trained = {
            b for b in self.trained if not {str(file_of(folder, b, s)) for s in TRAINED} & asked
        }


def take(configuration: Configuration, results: Path) -> Inventory:
    """Look through ``results``; reads headers, and sums the data set and the weights."""
    found = Inventory()
    data = results / "data" / f"{configuration.data.name}.safetensors"
    known = sha256(data) if data.is_file() else None
    found.data = known is not None and unchanged(configuration, data)
    if known:
        (found.current if found.data else found.outdated).append(data)
    folder = results / configuration.experiment
    own = binding.options(network=configuration.network).get("source", {})
    digests = {**own, **{job: job_digest(job) for job in ("initialize", "train", "evaluate")}}
    sources = {job: digests[job] for job in (*own, "initialize", "train")}
    for block in blocks(configuration.grid):
        if (made := of_block(folder, block)) is None:
            continue
        other = binding.differences(made, wanted(configuration, block, known))
        if known and not found.data:
            other.append(("data", "the files that it was made of", "other files in data.folder"))
        if other:
            found.unlike.append((block, *other[0]))
        files = [file_of(folder, block, suffix) for suffix in TRAINED]
        if other or made.get("source") != sources:
            found.outdated += files
        else:
            found.trained.add(block)
            found.current += files
    for seeds in {block.name for block in blocks(configuration.grid)}:
        initial = folder / "initial" / f"{seeds}.safetensors"
        if initial.is_file():
            right = _initial(configuration, initial, sources)
            (found.current if right else found.outdated).append(initial)
    for condition, group in conditions(configuration.grid).items():
        held_by = {file_of(folder, b, "evaluation.parquet"): [b] for b in group}
        held_by[folder_of(folder, condition) / ENSEMBLES] = group
        sound = {
            file: found.trained.issuperset(held)
            and _evaluated(folder, file, held, configuration, digests)
            for file, held in held_by.items()
        }
        if all(sound.values()):
            found.evaluated.add(condition)
        for file in filter(Path.is_file, held_by):
            (found.current if sound[file] else found.outdated).append(file)
    _tables(found, configuration, folder, known, digests)
    return found


def take_sweep(configuration: Configuration, results: Path) -> Inventory:
    """What is there of a sweep beside its combinations: outdated if of other code or values."""
    found = Inventory()
    folder = results / configuration.experiment
    over = parse_json(spell_sweep(configuration.sweep))
    for job, name in (
        ("sweep", "sweep.parquet"),
        ("sweep", "sweep.md"),
        ("sweep", "figures/sweep.png"),
        ("overview", "overview.html"),
    ):
        file = folder / name
        if file.is_file() and configuration.sweep:
            wanted: Binding = {"source": {job: job_digest(job)}}
            if job == "sweep":
                wanted = {**wanted, binding.OWN: {"sweep": over}}
            try:
                other = binding.differences(binding.read(file), wanted)
            except ValueError:
                other = [("", None, None)]
            (found.outdated if other else found.current).append(file)
    return found


def check(configuration: Configuration, found: Inventory, results: Path) -> None:
    """Refuse to replace finished runs of other settings or data, but where the configuration may.

    Raises ConfigurationError: the first of them, the key, both values, and what can be done.
    """
    if not found.unlike or configuration.overwrite:
        return
    folder = results / configuration.experiment
    block, key, made, value = found.unlike[0]
    more = f" and {len(found.unlike) - 1} more" if len(found.unlike) > 1 else ""
    own = folder / "configuration.yaml"
    again = f"take its own settings (snakemake --configfile {own} --cores all), "
    raise ConfigurationError(
        f"{folder / block.path}{more}: trained with {key} {binding.spell(made)}, not "
        f"{binding.spell(value)}; give the new runs a name of their own (experiment: another "
        f"name), {again if own.is_file() else ''}or say overwrite: true, and they are trained anew "
        "in the place of the old ones"
    )


def begin(configuration: Configuration, results: Path) -> None:
    """Write the merged configuration into the experiment's folder, if it is not there yet.

    With it the folder says what it is, wherever it is copied to, and can be gone on with.
    """
    file = results / configuration.experiment / "configuration.yaml"
    text = configuration_text(configuration)
    if not (file.is_file() and file.read_text(encoding="utf-8") == text):
        write_text(file, text)


def configuration_text(configuration: Configuration) -> str:
    """The whole configuration as YAML; without ``overwrite``, which is said each time."""
    values = dataclasses.asdict(configuration)
    del values["overwrite"]
    if not configuration.sweep:
        del values["sweep"]
    file = f"results/{configuration.experiment}/configuration.yaml"
    return (
        f"# What made this folder. To go on with it: snakemake --configfile {file} --cores all\n"
        f"{yaml.safe_dump(_plain(values), sort_keys=False, default_flow_style=None, width=100)}"
    )


def _plain(value: Any) -> Any:
    """Lists in the place of tuples, which YAML has not."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def redate(found: Inventory) -> None:
    """Date outdated files back by decades, so that whoever compares times makes them anew.

    A file that was dated back, by a dry run say, and is right after all gets its time back. One
    that is dated ahead, by a clock that was set back since, is dated now: whatever is made of it
    would be older than it, which Snakemake takes for a broken clock, and deletes.
    """
    now = time.time_ns()
    for file in found.outdated:
        _date(file, lambda dated: dated - SHIFT if dated > SHIFT else dated)
    for file in found.current:
        _date(file, lambda dated: min(now, dated + SHIFT if dated < SHIFT else dated))


def _date(file: Path, anew: Callable[[int], int]) -> None:
    with contextlib.suppress(OSError):
        dated = file.stat().st_mtime_ns
        if anew(dated) != dated:
            os.utime(file, ns=(anew(dated), anew(dated)))


def file_of(folder: Path, block: Block, suffix: str) -> Path:
    """A file of a block below the experiment's folder."""
    return folder / block.path.with_name(f"{block.name}.{suffix}")


def folder_of(folder: Path, condition: tuple[Mode, float | None]) -> Path:
    """Where the blocks of a mode and gamma are, below the experiment's folder."""
    mode, gamma = condition
    return folder / "runs" / mode / f"gamma-{spell_gamma(gamma)}"


def of_block(folder: Path, block: Block) -> dict[str, Any] | None:
    """The binding of a block whose training has finished, empty if it has none; None otherwise."""
    if not all(file_of(folder, block, suffix).is_file() for suffix in TRAINED):
        return None
    try:
        return completed(binding.read(file_of(folder, block, "json")))
    except ValueError:
        return {}


def last_step(segment: Path) -> int:
    """The step after those that a segment of a checkpoint holds, from its header."""
    return int(binding.header(segment)["last"])


def wanted(configuration: Configuration, block: Block, data: str | None) -> dict[str, Any]:
    """The settings, and the data's sum where it is known, that the configuration gives a block."""
    training = dataclasses.asdict(configuration.training)
    made = binding.options(
        network=configuration.network, initialization=configuration.initialization
    )
    made.pop("source", None)
    made["training"] = {k: v for k, v in training.items() if k not in UNREAD[block.mode]}
    made["data"] = dataclasses.asdict(part(SelectionSettings, configuration.data))
    if data:
        made["data"]["sha256"] = data
    return made


def completed(made: Binding) -> dict[str, Any]:
    """A binding with the defaults of keys that were not there yet when the file was made."""
    defaults = binding.options(
        network=NetworkSettings(), training=TrainingSettings(), data=SelectionSettings()
    )
    whole = {name: {**defaults[name], **made[name]} for name in defaults if name in made}
    return {**made, **whole}


def unchanged(configuration: Configuration, data: Path) -> bool:
    """Whether the data set's file was made of the files in the folder of the configuration.

    So too where it is a download, or where the folder is not on this machine.
    """
    files = data_files(configuration.data)
    if not files:
        return True
    try:
        made = parse_json(data.with_suffix(".json").read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(made == {Path(file).name: sha256(Path(file)) for file in files})


def _initial(configuration: Configuration, file: Path, sources: Mapping[str, str]) -> bool:
    try:
        made = binding.read(file)
    except ValueError:
        return False
    chosen = binding.options(
        network=configuration.network, initialization=configuration.initialization
    )
    source = {**chosen.get("source", {}), "initialize": sources["initialize"]}
    return not binding.differences(completed(made), {**chosen, "source": source})


def _evaluated(
    folder: Path,
    file: Path,
    held: Sequence[Block],
    configuration: Configuration,
    digests: Mapping[str, str],
) -> bool:
    """Whether a file is of the weights of these blocks, by today's code.

    An evaluation, of one block, is of its twins, too; the other files are ensembles.
    """
    if not file.is_file():
        return False
    weights = [sha256(file_of(folder, block, "safetensors")) for block in held]
    sums: dict[str, Any] = {"weights": weights}
    if file.name != ENSEMBLES:
        sums = {"weights": weights[0], "twin": None}
        twin = file_of(folder, Block("equivariant", None, held[0].seeds), "safetensors")
        if "equivariant" in configuration.grid.modes:
            sums["twin"] = sha256(twin) if twin.is_file() else "missing"
    try:
        made = binding.read(file)
    except ValueError:
        return False
    return not binding.differences(made, {"source": digests, "runs": sums})


def _tables(
    found: Inventory,
    configuration: Configuration,
    folder: Path,
    data: str | None,
    digests: Mapping[str, str],
) -> None:
    """Tables, figures and pages: those that other code made, or of another grid, are outdated."""
    grid = configuration.grid
    seeds = spell_seeds(parse_seeds(grid.seeds))
    of_grid = {"modes": sorted(grid.modes), "gammas": sorted(grid.gammas), "seeds": seeds}
    free = [mode for mode in sorted(grid.modes) if mode != "equivariant"]
    few = {"modes": free, "gammas": sorted(grid.gammas)}
    few["seeds"] = spell_seeds(list(predicted_seeds(grid)))
    common: Binding = {
        **binding.options(
            network=configuration.network,
            initialization=configuration.initialization,
            training=configuration.training,
        ),
        "data": {
            **dataclasses.asdict(part(SelectionSettings, configuration.data)),
            **({"sha256": data} if data else {}),
        },
    }
    for job, name, more in (
        ("aggregate", "trajectories.parquet", {"grid": of_grid}),
        ("aggregate", "summary.parquet", {"grid": of_grid}),
        ("aggregate", "evaluation.parquet", {"grid": of_grid}),
        ("aggregate", ENSEMBLES, {"grid": of_grid}),
        ("aggregate", "function.parquet", {"grid": of_grid}),
        ("predict", "predictions.parquet", {**common, "runs": few}),
        ("check", "claims.md", {}),
        ("score", "predictions.md", {}),
        ("compare", "comparison.md", {}),
        ("draw", "figures/figure2.png", {}),
        ("draw", "figures/function.png", {}),
        ("overview", "overview.html", {}),
    ):
        file = folder / name
        if not file.is_file():
            continue
        sources = {job: job_digest(job)}
        if job == "predict":
            own = {name: digests[name] for name in ("network", "initialize") if name in digests}
            sources |= own
        try:
            other = binding.differences(completed(binding.read(file)), {**more, "source": sources})
        except ValueError:
            other = [("", None, None)]
        if job == "predict" and data and not found.data:  # it is of data that are to be read anew
            other.append(("data", None, None))
        (found.outdated if other else found.current).append(file)
        found.predicted = found.predicted or (job == "predict" and not other)
