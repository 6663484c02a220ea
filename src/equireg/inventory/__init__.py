"""What an experiment's folder holds already, and whether the configuration would make the same.

By content alone: by what each file says of itself (``binding``) and by sums, whatever the times of
the files are and whoever put them there. What is right is kept; what other code made is to be made
anew; finished runs of other settings or data are not touched unless the configuration says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from equireg import binding
from equireg.config import Configuration, ConfigurationError
from equireg.files import parse_json, sha256, write_text
from equireg.inventory.blocks import (
    TRAINED,
    completed,
    digest_of,
    file_of,
    folder_of,
    last_step,
    of_block,
    runs_of,
    wanted,
)
from equireg.inventory.dates import redate
from equireg.inventory.tables import tables, tables_of_sweep
from equireg.plan import ENSEMBLES, Block, blocks, conditions, data_files
from equireg.settings import Mode

__all__ = [
    "Inventory",
    "begin",
    "check",
    "completed",
    "configuration_text",
    "file_of",
    "last_step",
    "of_block",
    "redate",
    "runs_of",
    "take",
    "take_sweep",
    "wanted",
    "written_seeds",
]


@dataclass
class Inventory:
    """What is there. Blocks and files that are in none of these are missing."""

    trained: set[Block] = field(default_factory=set)  # and by the code that there is
    # modes and gammas all of whose blocks are, and their ensembles
    evaluated: set[tuple[Mode, float | None]] = field(default_factory=set)
    data: bool = False  # the data set is that of the folder, or a download
    predicted: bool = False
    altered: str = ""  # why the data set's file is not the one that was fetched
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
    story = _story(data)
    if known and known != (fetched := story.get("sha256", known)):
        sums = f"{binding.spell(known)}, not {binding.spell(fetched)}"
        found.altered = f"{data}: its SHA-256 sum is {sums}"
    found.data = known is not None and unchanged(configuration, story)
    anew = known is not None and bool(story) and not found.data  # of other files
    if known:
        (found.current if found.data else found.outdated).append(data)
    folder = results / configuration.experiment
    own = binding.options(network=configuration.network).get("source", {})
    digests = {**own, **{job: digest_of(job) for job in ("initialize", "train", "evaluate")}}
    sources = {job: digests[job] for job in (*own, "initialize", "train")}
    for block in blocks(configuration.grid):
        if (made := of_block(folder, block)) is None:
            continue
        chosen = {**wanted(configuration, block, known), **runs_of(block)}
        other = binding.differences(made, chosen)
        if anew:
            other.append(("data", "the files that it was made of", "other files in data.folder"))
        if not made:
            other = [("", None, None)]
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
    for file, right in tables(configuration, results, known, digests):
        if file.name == "predictions.parquet":  # of data that are to be read anew, it is not
            found.predicted = right = right and not anew
        (found.current if right else found.outdated).append(file)
    return found


def take_sweep(configuration: Configuration, results: Path) -> Inventory:
    """The same of what a sweep makes of all its combinations, if there is one."""
    found = Inventory()
    if configuration.sweep:
        for file, right in tables_of_sweep(configuration, results / configuration.experiment):
            (found.current if right else found.outdated).append(file)
    return found


def check(configuration: Configuration, found: Inventory, results: Path) -> None:
    """Refuse to replace finished runs of other settings or data, but where the configuration may.

    A data set's file that is not the one that was fetched is refused always. Raises
    ConfigurationError: the first of them, the key, both values, and what can be done.
    """
    if found.altered:
        raise ConfigurationError(f"{found.altered} as when it was fetched; {binding.REMEDY}")
    if not found.unlike or configuration.overwrite:
        return
    folder = results / configuration.experiment
    block, key, made, value = found.unlike[0]
    more = f" and {len(found.unlike) - 1} more" if len(found.unlike) > 1 else ""
    if not key:
        raise ConfigurationError(
            f"{file_of(folder, block, 'json')}{more} does not say what made it, as files of an "
            f"older version and damaged ones do; {binding.REMEDY}"
        )
    if key.startswith(binding.OWN):
        raise ConfigurationError(
            f"{folder / block.path}{more}: its {key.partition('.')[2]} is {binding.spell(made)}, "
            f"not {binding.spell(value)}, as files were moved or a folder was renamed; move them "
            "back, or delete them and run the workflow again"
        )
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
    if not (file.is_file() and file.read_bytes() == text.encode()):
        write_text(file, text)


def configuration_text(configuration: Configuration) -> str:
    """The whole configuration as YAML; without ``overwrite``, which is said each time."""
    values = dataclasses.asdict(configuration)
    del values["overwrite"]
    if not configuration.sweep:
        del values["sweep"]
    values["grid"]["seeds"] = written_seeds(configuration.grid.seeds)
    file = f"results/{configuration.experiment}/configuration.yaml"
    return (
        f"# What made this folder. To go on with it: snakemake --configfile {file} --cores all\n"
        f"{yaml.safe_dump(_plain(values), sort_keys=False, default_flow_style=None, width=100)}"
    )


def written_seeds(seeds: str) -> str | list[int]:
    """Seeds in a configuration: one alone as a list, since a number is how many there are.

    >>> written_seeds("7"), written_seeds("0-9")
    ([7], '0-9')
    """
    return [int(seeds)] if seeds.isdigit() else seeds


def _plain(value: Any) -> Any:
    """Lists in the place of tuples, which YAML has not."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def unchanged(configuration: Configuration, story: Mapping[str, Any]) -> bool:
    """Whether the data set's file was made of the files in the folder of the configuration.

    story: what ``fetch`` wrote beside it. So too where it is a download, or where the folder is not
    on this machine.
    """
    files = data_files(configuration.data)
    if not files:
        return True
    return bool(story.get("files") == {Path(file).name: sha256(Path(file)) for file in files})


def _story(data: Path) -> Mapping[str, Any]:
    """What ``fetch`` says of a data set's file; empty where it cannot be read."""
    try:
        story = parse_json(data.with_suffix(".json").read_bytes())
    except (OSError, ValueError):
        return {}
    return story if isinstance(story, Mapping) else {}


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
