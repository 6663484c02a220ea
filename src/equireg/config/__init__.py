"""The configuration: read from YAML and checked as a whole, before any job starts.

The sections and keys, their types, defaults and limits are the dataclasses of ``settings``. Here
they are read from files, and a mistake is answered by where its value came from.
"""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from equireg.config.messages import ConfigurationError, Mistake, line, show
from equireg.config.places import wrong_places
from equireg.config.reading import merge, read
from equireg.config.sweeping import SWEPT, nested, wrong_folders, wrong_sweep
from equireg.config.types import SPELLINGS, Spelling, explain, model_of, values_of
from equireg.plan import seed_blocks
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
from equireg.sweeps import Product, Sweep, combinations, keys, path, products

__all__ = ["COMMAND_LINE", "Configuration", "ConfigurationError", "experiments", "load"]

OF_RESULTS = "configuration.yaml"  # in each experiment's folder: what made it
COMMAND_LINE = "the command line (--config)"
MOST_LINES = 20  # of mistakes
MOST_BLOCKS = 50_000  # more take Snakemake minutes and gigabytes to plan
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
    sweep: Sweep = field(
        default_factory=dict,
        metadata=_said("Values for keys of the sections; every combination is an experiment."),
    )
    data: DataSettings = field(default_factory=DataSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    initialization: InitializationSettings = field(default_factory=InitializationSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    grid: GridSettings = field(default_factory=GridSettings)
    jobs: WorkflowJobSettings = field(default_factory=WorkflowJobSettings)


_PRODUCT = {"type": "object", "additionalProperties": {"type": "array", "minItems": 1}}
SPELLINGS[Configuration, "sweep"] = Spelling(
    lambda sweep: sweep, SWEPT, {"anyOf": [_PRODUCT, {"type": "array", "items": _PRODUCT}]}
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
    if renamed := list(_renamed(layers)):
        raise ConfigurationError(
            "\n".join(line(mistake, {name: layers[name]}) for name, mistake in renamed)
        )
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


def _renamed(layers: Mapping[str, Mapping[Any, Any]]) -> Iterator[tuple[str, Mistake]]:
    """What says of a folder of results that it is another one: the folder was renamed or copied.

    Its runs would be trained anew, under the old name.
    """
    for name, layer in layers.items():
        folder = Path(name).absolute().parent
        said = layer.get("experiment")
        if (
            Path(name).name == OF_RESULTS
            and folder.parent.name == "results"
            and said != folder.name
        ):
            remedy = f"accepted in this folder, which was renamed or copied: {show(folder.name)}"
            yield name, Mistake(("experiment",), said, remedy)


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


def _examine(
    merged: Mapping[str, Any], compared: str = "evaluation.parquet"
) -> tuple[Configuration | None, list[Mistake]]:
    """The configuration that plain values make, or all that is wrong with them.

    compared: the table of other experiments that stands beside this one's.
    """
    try:
        values = values_of(_MODEL.model_validate(merged))
    except ValidationError as error:
        return None, [explain(about, Configuration) for about in error.errors(include_url=False)]
    if mistakes := list(_wrong_values(values)):
        return None, mistakes
    configuration = _build(values)
    if mistakes := list(_misfits(configuration)):
        return None, mistakes
    places = wrong_places(
        configuration.experiment,
        [Path("results", name, compared) for name in configuration.compare],
        configuration.data,
        configuration.network.build,
    )
    mistakes = list(places)
    return (None if mistakes else configuration), mistakes


def _examine_sweep(
    merged: Mapping[str, Any], layers: Mapping[str, Mapping[Any, Any]]
) -> tuple[Configuration | None, list[str]]:
    """The same of a sweep, each combination by itself; the mistakes as lines.

    What is wrong in every combination alike, and is not swept, is said without one. The sections
    are those of the first combination.
    """
    if mistakes := list(wrong_sweep(merged["sweep"])):
        return None, [line(mistake, layers) for mistake in mistakes]
    sweep: Sweep = merged["sweep"]
    rest = {name: section for name, section in merged.items() if name != "sweep"}
    every = combinations(sweep)
    examined = [
        _examine(merge(rest, nested(combination)), "sweep.parquet") for combination in every
    ]
    found: dict[str, list[tuple[Mistake, dict[str, Any]]]] = {}
    for combination, (_, mistakes) in zip(every, examined, strict=True):
        for mistake in mistakes:
            found.setdefault(str(mistake), []).append((mistake, combination))
    lines = []
    for where in found.values():
        mistake, combination = where[0]
        names, swept = keys(sweep), ".".join(map(str, mistake.key[:2]))
        at = ", ".join(f"{key} {show(value)}" for key, value in combination.items())
        alike = len(where) == len(every) and swept not in names
        place = ("sweep", swept) if swept in names else ()
        lines.append(line(mistake, layers, "" if alike else at, place))
    made = [configuration for configuration, _ in examined if configuration]
    if lines:
        return None, lines
    read = list(zip(every, made, strict=True))
    chosen = [_values(product, read) for product in products(sweep)]
    whole = chosen[0] if isinstance(sweep, Mapping) else tuple(chosen)
    mistakes = [*wrong_folders(whole), *_wrong_jobs(made, whole)]
    lines = [line(mistake, layers) for mistake in mistakes]
    return (None if lines else dataclasses.replace(made[0], sweep=whole)), lines


def _values(
    product: Product, read: Sequence[tuple[Mapping[str, Any], Configuration]]
) -> dict[str, tuple[Any, ...]]:
    """The values of a product as settings have them, from what its combinations were read as."""
    return {
        key: tuple(
            _value_at(next(made for raw, made in read if raw[key] is value), key)
            for value in values
        )
        for key, values in product.items()
    }


def _wrong_jobs(made: Sequence[Configuration], sweep: Sweep) -> Iterator[Mistake]:
    """Too many jobs; or a job that takes all gammas at once, which are not the same everywhere."""
    if made[0].jobs.stack_gammas and "grid.gammas" in keys(sweep):
        remedy = "accepted with a sweep over grid.gammas: false"
        yield Mistake(("jobs", "stack_gammas"), True, remedy)
    if (jobs := sum(_jobs(point.grid) for point in made)) > MOST_BLOCKS:
        remedy = f"accepted: fewer, as there would be {jobs} training jobs; {MOST_BLOCKS} at most"
        yield Mistake(("sweep",), sweep, remedy)


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
    if repeated := [n for n, count in Counter(configuration.compare).items() if count > 1]:
        remedy = f"accepted: each once; {repeated[0]} is repeated"
        yield Mistake(("compare",), configuration.compare, remedy)
    if (jobs := _jobs(grid)) > MOST_BLOCKS:
        remedy = f"accepted: more, as there would be {jobs} training jobs; {MOST_BLOCKS} at most"
        yield Mistake(("grid", "seeds_per_job"), grid.seeds_per_job, remedy)
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


def _jobs(grid: GridSettings) -> int:
    """How many training jobs there are, without making them."""
    penalties = sum(1 if mode == "equivariant" else len(grid.gammas) for mode in grid.modes)
    return penalties * len(seed_blocks(grid))


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
