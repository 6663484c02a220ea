"""The configuration: read from YAML and checked as a whole, before any job starts.

The sections and keys, their types, defaults and limits are the dataclasses of ``settings``. Here
they are read from files, and a mistake is answered by where its value came from.
"""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from equireg.config.messages import ConfigurationError, Mistake, line, show
from equireg.config.reading import merge, read
from equireg.config.sweeping import SWEPT, nested, wrong_folders, wrong_sweep
from equireg.config.types import SPELLINGS, Spelling, explain, model_of, values_of
from equireg.digest import network_digest
from equireg.settings import (
    ON_GRID,
    Accepted,
    DataSettings,
    GridSettings,
    InitializationSettings,
    NetworkSettings,
    Section,
    TrainingSettings,
    WorkflowJobSettings,
)
from equireg.spelling import build_file
from equireg.sweeps import combinations, path

__all__ = ["COMMAND_LINE", "Configuration", "ConfigurationError", "experiments", "load"]

COMMAND_LINE = "the command line (--config)"
MOST_LINES = 20  # of mistakes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAMED = Accepted(
    lambda name: _NAME.fullmatch(name) is not None,
    "up to 100 letters, digits, '.', '_' and '-', no '/'",
    {"pattern": f"^{_NAME.pattern}$"},
)


def _said(help: str, *accepted: Accepted) -> dict[str, Any]:
    return {"help": help, "accepted": accepted}


@dataclass(frozen=True)
class Configuration:
    """A whole experiment: its name, and the settings of each section."""

    experiment: str = field(
        default="paper",
        metadata=_said(
            "Name of the experiment, and of the folder in results/ that gets its results.", NAMED
        ),
    )
    compare: tuple[str, ...] = field(
        default=(),
        metadata=_said("Experiments, already run, to stand beside this one.", NAMED),
    )
    mark_critical: bool = field(
        default=False,
        metadata=_said("Mark the penalty above which E attracts, by the Hessian; takes minutes."),
    )
    overwrite: bool = field(
        default=False,
        metadata=_said("Train anew where the folder has runs of other settings or data."),
    )
    sweep: Mapping[str, tuple[Any, ...]] = field(
        default_factory=dict,
        metadata=_said("Values for keys of the sections; every combination is an experiment."),
    )
    data: DataSettings = field(default_factory=DataSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    initialization: InitializationSettings = field(default_factory=InitializationSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    grid: GridSettings = field(default_factory=GridSettings)
    jobs: WorkflowJobSettings = field(default_factory=WorkflowJobSettings)


SPELLINGS[Configuration, "sweep"] = Spelling(
    dict, SWEPT, {"type": "object", "additionalProperties": {"type": "array", "minItems": 1}}
)
_MODEL = model_of(Configuration)
_SECTIONS: dict[str, type[Section]] = {
    name: hint
    for name, hint in typing.get_type_hints(Configuration).items()
    if isinstance(hint, type) and issubclass(hint, Section)
}


def load(
    files: Sequence[str | Path],
    overrides: Mapping[str, Any] | None = None,
    called: str = COMMAND_LINE,
) -> Configuration:
    """The configuration in ``files``, each laid over the one before it, then ``overrides``.

    called: what a mistake in ``overrides`` is said to be in.

    A key that none of them has keeps its default; allow_incompatible_support is false wherever it
    changes nothing, so that it trains nothing anew. Raises ConfigurationError with a line per
    mistake, which names the file, the key, the value and what is accepted.
    """
    layers = {os.path.relpath(file): read(Path(os.path.relpath(file))) for file in files}
    layers[called] = dict(overrides or {})
    merged: dict[str, Any] = {}
    for layer in layers.values():
        merged = merge(merged, layer)
    if merged.get("sweep", {}) == {}:
        configuration, mistakes = _examine(merged)
        lines = [line(mistake, layers) for mistake in mistakes]
    else:
        configuration, lines = _examine_sweep(merged, layers)
    if files and configuration:
        replaced = _replacements(configuration, next(iter(layers.values())))
        lines = [line(mistake, layers) for mistake in replaced]
    if lines or configuration is None:
        more = [f"and {len(lines) - MOST_LINES} more mistakes"] if len(lines) > MOST_LINES else []
        raise ConfigurationError("\n".join([*lines[:MOST_LINES], *more]))
    return configuration if configuration.sweep else _canonical(configuration)


def experiments(configuration: Configuration) -> list[Configuration]:
    """The experiments of a configuration: itself, or one for every combination of its sweep.

    Each has a folder of its own below that of the sweep, and no sweep.
    """
    if not configuration.sweep:
        return [configuration]
    made = []
    for combination in combinations(configuration.sweep):
        sections = {
            name: dataclasses.replace(getattr(configuration, name), **values)
            for name, values in nested(combination).items()
        }
        name = f"{configuration.experiment}/{path(combination)}"
        changed = dataclasses.replace(configuration, experiment=name, sweep={}, **sections)
        made.append(_canonical(changed))
    return made


def _canonical(configuration: Configuration) -> Configuration:
    """With allow_incompatible_support false wherever it changes nothing."""
    network = configuration.network
    if network.allow_incompatible_support and not any(_incompatible(network)):
        network = dataclasses.replace(network, allow_incompatible_support=False)
    return dataclasses.replace(configuration, network=network)


def _examine(merged: Mapping[str, Any]) -> tuple[Configuration | None, list[Mistake]]:
    """The configuration that plain values make, or all that is wrong with them."""
    try:
        values = values_of(_MODEL.model_validate(merged))
    except ValidationError as error:
        return None, [explain(about, Configuration) for about in error.errors(include_url=False)]
    if mistakes := list(_wrong_values(values)):
        return None, mistakes
    configuration = _build(values)
    for check in (_misfits, _wrong_places):  # each relies on those before it
        if mistakes := list(check(configuration)):
            return None, mistakes
    return configuration, []


def _examine_sweep(
    merged: Mapping[str, Any], layers: Mapping[str, Mapping[Any, Any]]
) -> tuple[Configuration | None, list[str]]:
    """The same of a sweep, each combination by itself; the mistakes as lines.

    What is wrong in every combination alike, and is not swept, is said without one. The sections
    are those of the first combination.
    """
    if mistakes := list(wrong_sweep(merged["sweep"])):
        return None, [line(mistake, layers) for mistake in mistakes]
    sweep: Mapping[str, list[Any]] = merged["sweep"]
    rest = {name: section for name, section in merged.items() if name != "sweep"}
    every = combinations(sweep)
    examined = [_examine(merge(rest, nested(combination))) for combination in every]
    found: dict[str, list[tuple[Mistake, dict[str, Any]]]] = {}
    for combination, (_, mistakes) in zip(every, examined, strict=True):
        for mistake in mistakes:
            found.setdefault(str(mistake), []).append((mistake, combination))
    lines = []
    for where in found.values():
        mistake, combination = where[0]
        swept = ".".join(map(str, mistake.key[:2]))
        at = ", ".join(f"{key} {show(value)}" for key, value in combination.items())
        alike = len(where) == len(every) and swept not in sweep
        place = ("sweep", swept) if swept in sweep else ()
        lines.append(line(mistake, layers, "" if alike else at, place))
    made = [configuration for configuration, _ in examined if configuration]
    if lines:
        return None, lines
    chosen = {
        key: tuple(
            _value_at(next(m for m, raw in zip(made, every, strict=True) if raw[key] is value), key)
            for value in values
        )
        for key, values in sweep.items()
    }
    mistakes = list(wrong_folders(chosen))
    whole = None if mistakes else dataclasses.replace(made[0], sweep=chosen)
    return whole, [line(mistake, layers) for mistake in mistakes]


def _value_at(configuration: Configuration, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(configuration, section), name)


def _build(values: Mapping[str, Any]) -> Configuration:
    sections = {name: section(**values.get(name, {})) for name, section in _SECTIONS.items()}
    return Configuration(**{**values, **sections})


def _wrong_values(values: Mapping[str, Any]) -> Iterator[Mistake]:
    """Values beyond the limits of their section, and names that cannot be folders."""
    name = values.get("experiment", Configuration.experiment)
    if not NAMED.holds(name):
        yield Mistake(("experiment",), name, f"accepted: {NAMED.text}")
    if name == "data":
        remedy = "accepted: other names; results/data/ holds the data sets"
        yield Mistake(("experiment",), name, remedy)
    for other in values.get("compare", ()):
        if not NAMED.holds(other):
            yield Mistake(("compare",), other, "accepted: names of experiments")
    for key, section in _SECTIONS.items():
        for mistake in section.mistakes(values.get(key, {})):
            yield Mistake((key, mistake.name), mistake.value, mistake.remedy)


def _misfits(configuration: Configuration) -> Iterator[Mistake]:
    """Values of different sections that do not go together."""
    network, grid = configuration.network, configuration.grid
    if not network.allow_incompatible_support:
        yield from _incompatible(network)
    unfit = network.group == "C1" or network.group in ON_GRID
    if configuration.mark_critical and (unfit or "equivariant" not in grid.modes or network.build):
        without = f"network.group {network.group}" if unfit else f"grid.modes {show(grid.modes)}"
        without = "network.build" if network.build else without
        yield Mistake(("mark_critical",), True, f"accepted with {without}: false")
    if network.group in ("SO(2)", "O(2)") and configuration.training.augmentation == "exact":
        remedy = (
            f"accepted with network.group {network.group}, which has no end of elements: random"
        )
        yield Mistake(("training", "augmentation"), "exact", remedy)
    if configuration.experiment in configuration.compare:
        yield Mistake(
            ("compare",), configuration.experiment, "accepted: experiments other than this one"
        )
    for mistake in configuration.training.unstable(grid.gammas):
        yield Mistake(("grid", "gammas"), mistake.value, mistake.remedy)


def _incompatible(network: NetworkSettings) -> Iterator[Mistake]:
    if network.support == "full":
        return
    # torch, for the unusual support only
    from equireg.symmetry.groups import point_group
    from equireg.training.layers import check_compatible

    group = ON_GRID.get(network.group, network.group)
    try:
        check_compatible(point_group(group), network.support, network.kernel_size)
    except ValueError as error:
        reason = str(error).partition(": ")[2]
        yield Mistake(("network", "support"), network.support, reason)


def _is_folder(path: str) -> bool:
    try:
        return path != "" and "\0" not in path and Path(path).expanduser().is_dir()
    except (OSError, RuntimeError):  # a name too long; the home of nobody
        return False


def _is_file(path: str) -> bool:
    try:
        return "\0" not in path and Path(path).expanduser().is_file()
    except (OSError, RuntimeError):
        return False


def _wrong_places(configuration: Configuration) -> Iterator[Mistake]:
    """Data and results that could not be read or written. Paths are relative to the repository."""
    if file := build_file(configuration.network.build):
        try:
            network_digest(file)
        except ValueError as error:
            yield Mistake(("network", "build"), configuration.network.build, str(error))
    data = configuration.data
    there = Path("results", "data", f"{data.name}.safetensors")  # what was read of it once suffices
    if data.folder is not None and not (_is_folder(data.folder) or there.is_file()):
        yield Mistake(("data", "folder"), data.folder, "accepted: a folder that exists")
    if data.file is not None and not (_is_file(data.file) or there.is_file()):
        yield Mistake(("data", "file"), data.file, "accepted: a file that exists")
    for name in configuration.compare:
        run = [Path("results", name, file) for file in ("evaluation.parquet", "sweep.parquet")]
        if not any(file.exists() for file in run):
            yield Mistake(
                ("compare",), name, f"accepted: experiments that have been run, in results/{name}/"
            )
    for folder in (Path("results"), Path("results", configuration.experiment)):
        there = folder if os.path.lexists(folder) else folder.parent
        if os.path.lexists(there) and not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            yield Mistake(
                ("experiment",),
                configuration.experiment,
                f"{there} cannot be written; accepted: an experiment whose folder {folder} can",
            )
            return


def _replacements(configuration: Configuration, first: Mapping[Any, Any]) -> Iterator[Mistake]:
    """What changes the runs of the first file's experiment and leaves it its name.

    Its runs would be replaced one by one, and those of both kinds lie side by side until then.
    """
    try:
        base = _build(values_of(_MODEL.model_validate({**first, "sweep": {}})))
    except ValueError:
        return  # the first file is no experiment by itself
    if configuration.experiment != base.experiment:
        return
    if configuration.sweep:
        if not first.get("sweep"):
            remedy = "accepted with a sweep: a name of its own (experiment: a new name)"
            yield Mistake(("experiment",), configuration.experiment, remedy)
        return
    for name in ("data", "network", "initialization", "training"):
        section = getattr(configuration, name)
        for key in (entry.name for entry in dataclasses.fields(section)):
            value, before = getattr(section, key), getattr(getattr(base, name), key)
            if value != before:
                yield Mistake(
                    (name, key),
                    value,
                    f"accepted in experiment {base.experiment}: {show(before)}; give it an "
                    "experiment of its own (experiment: a new name), as its runs would replace "
                    f"those of results/{base.experiment}",
                )
