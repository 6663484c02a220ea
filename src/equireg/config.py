"""The configuration: read from YAML and checked as a whole, before any job starts.

The sections and keys, their types and defaults are the dataclasses of ``settings``; this module
adds which values a key takes, and which values do not go together.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import reprlib
import typing
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model
from pydantic_core import ErrorDetails, PydanticCustomError

from equireg.settings import (
    LANES,
    DataSettings,
    GridSettings,
    InitializationSettings,
    NetworkSettings,
    TrainingSettings,
    WorkflowJobSettings,
    parse_seeds,
    spell_seeds,
)
from equireg.symmetry.groups import GENERATORS, point_group

COMMAND_LINE = "the command line (--config)"
DOWNLOADED = ("mnist", "fashion-mnist", "kmnist")  # the data sets that need no folder
# More is a slip of the keyboard.
MOST_SEEDS = 100_000
MOST_GAMMAS = 1000
MOST_LINES = 20  # of mistakes


@dataclass(frozen=True)
class Configuration:
    """A whole experiment: its name, and the settings of each section."""

    experiment: str = "paper"
    compare: tuple[str, ...] = ()
    mark_critical: bool = False
    overwrite: bool = False
    data: DataSettings = field(default_factory=DataSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    initialization: InitializationSettings = field(default_factory=InitializationSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    grid: GridSettings = field(default_factory=GridSettings)
    jobs: WorkflowJobSettings = field(default_factory=WorkflowJobSettings)


class ConfigurationError(ValueError):
    """What is wrong with a configuration, a line per mistake."""


@dataclass(frozen=True)
class Mistake:
    """A value that cannot be taken; ``remedy`` says what is accepted."""

    key: tuple[int | str, ...]
    value: Any
    remedy: str


def load(files: Sequence[str | Path], overrides: Mapping[str, Any] | None = None) -> Configuration:
    """The configuration in ``files``, each laid over the one before it, then ``overrides``.

    A key that none of them has keeps its default; allow_incompatible_support is false wherever it
    changes nothing, so that it trains nothing anew. Raises ConfigurationError with a line per
    mistake, which names the file, the key, the value and what is accepted.
    """
    layers = {os.path.relpath(file): read(Path(os.path.relpath(file))) for file in files}
    layers[COMMAND_LINE] = dict(overrides or {})
    merged: dict[str, Any] = {}
    for layer in layers.values():
        merged = merge(merged, layer)
    try:
        configuration: Configuration = _build(Configuration, _MODEL.model_validate(merged))
        checks = (_wrong_values, _misfits, _wrong_places)  # each relies on those before it
        mistakes = next(filter(None, (list(check(configuration)) for check in checks)), [])
        if files and not mistakes:
            mistakes = list(_replacements(configuration, next(iter(layers.values()))))
    except ValidationError as error:
        mistakes = [_explain(details) for details in error.errors(include_url=False)]
    if mistakes:
        lines = [_line(mistake, layers) for mistake in mistakes[:MOST_LINES]]
        if len(mistakes) > MOST_LINES:
            lines.append(f"and {len(mistakes) - MOST_LINES} more mistakes")
        raise ConfigurationError("\n".join(lines))
    network = configuration.network
    if network.allow_incompatible_support and not any(_incompatible(network)):
        network = dataclasses.replace(network, allow_incompatible_support=False)
    return dataclasses.replace(configuration, network=network)


def read(file: Path) -> dict[str, Any]:
    """The sections in a YAML file. Raises ConfigurationError where there are none."""
    try:
        with file.open(encoding="utf-8") as stream:
            content = yaml.load(stream, _Loader)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{file}: is not there; accepted: a path from the folder that holds the "
            "Snakefile, where commands are run"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{file}: is not YAML: {_one_line(str(error))}") from None
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{file}: holds {_show(content)}; accepted: sections of keys, as in config.yaml"
        )
    return content


def merge(base: Any, layer: Mapping[Any, Any]) -> dict[Any, Any]:
    """``layer`` laid over ``base`` key by key, as Snakemake lays --configfile over config.yaml."""
    merged = dict(base) if isinstance(base, Mapping) else {}
    for key, value in layer.items():
        merged[key] = merge(merged.get(key), value) if isinstance(value, Mapping) else value
    return merged


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which makes plain values and runs nothing, with three refusals more:

    a key that a section has twice, of which YAML would silently drop the first; a key that is no
    text; and a value that stands for another one, which could hold itself, or a million others.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            message = f"*{event.anchor} stands for another value; write the value itself"
            raise yaml.composer.ComposerError(None, None, message, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        repeated = [key for key, count in keys.items() if count > 1]
        if repeated:
            message = f"the key {repeated[0]!r} comes twice in one section"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        mapping = super().construct_mapping(node, deep)
        for key in mapping:
            if not isinstance(key, str):
                message = f"the key {key} is not a text"
                raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        return mapping


# --- Types: what pydantic checks, one model per section, made from its dataclass. ---------------


def _accept(remedy: str) -> PydanticCustomError:
    return PydanticCustomError("remedy", "{remedy}", {"remedy": f"accepted: {remedy}"})


def _number(value: Any) -> Any:
    """Text is a number where it spells one: to YAML, 1e-4 without a dot is text. true is not 1."""
    if isinstance(value, bool):
        raise _accept("a number")
    return value


def _truth(value: Any) -> Any:
    if not isinstance(value, bool) and value not in ("true", "True", "false", "False"):
        raise _accept("true or false")
    return value


def _list(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise _accept("a list, such as [1, 2]")
    return value


def _seeds(value: Any) -> str:
    """A number of seeds, a text of ranges or a list of seeds; in the one spelling of settings."""
    items = value if isinstance(value, list) else [value]
    text = ",".join(str(item) for item in items if type(item) in (int, str))
    if items is not value and re.fullmatch(r"\d+", text):  # a number; --config makes it a text
        text = f"0-{int(text) - 1}"
    parts = [re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part) for part in text.split(",")]
    counts = [int(m[2] or m[1]) - int(m[1]) + 1 if m else 0 for m in parts]
    if min(counts) < 1 or any(type(item) not in (int, str) for item in items):
        raise _accept("a number of seeds, ranges such as 0-29 or 0,3,7-9, or a list of seeds")
    if sum(counts) > MOST_SEEDS:
        raise _accept(f"at most {MOST_SEEDS} seeds")
    try:
        return spell_seeds(parse_seeds(text))
    except ValueError as error:
        raise _accept(f"each seed once ({error})") from None


_READERS: dict[Any, Callable[[Any], Any]] = {int: _number, float: _number, bool: _truth}


def _type(hint: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        item: Any = _type(typing.get_args(hint)[0])
        return Annotated[tuple[item, ...], BeforeValidator(_list)]
    if dataclasses.is_dataclass(hint):
        return _model(typing.cast(type, hint))
    return Annotated[hint, BeforeValidator(_READERS[hint])] if hint in _READERS else hint


def _model(section: type) -> type[BaseModel]:
    fields: dict[str, Any] = {
        name: (_type(hint), None) for name, hint in typing.get_type_hints(section).items()
    }
    if section is GridSettings:
        fields["seeds"] = (Annotated[str, BeforeValidator(_seeds)], None)
    return create_model(section.__name__, __config__=ConfigDict(extra="forbid"), **fields)


def _build(section: type, model: BaseModel) -> Any:
    """The dataclass with the values that are set in the model, and its own defaults otherwise."""
    hints = typing.get_type_hints(section)
    values = {name: getattr(model, name) for name in model.model_fields_set}
    return section(
        **{k: _build(hints[k], v) if isinstance(v, BaseModel) else v for k, v in values.items()}
    )


_MODEL = _model(Configuration)


def _explain(details: ErrorDetails) -> Mistake:
    """Pydantic's error in this program's words."""
    key, value, message = details["loc"], details["input"], details["msg"]
    kind = details["type"]
    if kind in ("extra_forbidden", "invalid_key"):
        section = Configuration
        for part in key[:-1]:
            section = typing.get_type_hints(section)[str(part)]
        names = [entry.name for entry in dataclasses.fields(section)]
        close = difflib.get_close_matches(str(key[-1]), names, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        return Mistake(key, value, f"there is no such key; {hint}accepted: {', '.join(names)}")
    if kind == "literal_error":
        accepted = str(details["ctx"]["expected"])
        close = difflib.get_close_matches(str(value), re.findall(r"'(.*?)'", accepted), 1)
        hint = f"did you mean {close[0]}? " if close else ""
        return Mistake(key, value, f"{hint}accepted: {accepted}")
    if kind in ("model_type", "model_attributes_type"):
        return Mistake(key, value, "accepted: a section, that is keys and values below it")
    types = {"string": "a text; write it in quotes", "int": "a whole number", "float": "a number"}
    if kind.split("_")[0] in types:
        return Mistake(key, value, f"accepted: {types[kind.split('_')[0]]}")
    return Mistake(key, value, message.replace("Input should be", "accepted:"))


# --- Values: what a key takes, and what does not go together. ------------------------------------


def _is_name(value: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value) is not None


def _is_folder(path: str) -> bool:
    try:
        return path != "" and "\0" not in path and Path(path).expanduser().is_dir()
    except (OSError, RuntimeError):  # a name too long; the home of nobody
        return False


def _is_amount(value: float) -> bool:
    return 0 <= value < math.inf


_Rule = tuple[str, Callable[[Any], bool], str]


def _between(key: str, least: int, most: int) -> _Rule:
    return key, lambda value: least <= value <= most, f"{least} to {most}"


# key, what must hold (of each value of a list), what is accepted; numbers that are larger than any
# machine's memory or patience end here, not in a job
_RULES: list[_Rule] = [
    ("experiment", _is_name, "up to 100 letters, digits, '.', '_' and '-', no '/'"),
    ("experiment", lambda name: name != "data", "other names; results/data/ holds the data sets"),
    ("compare", _is_name, "names of experiments"),
    ("data.name", _is_name, "up to 100 letters, digits, '.', '_' and '-', no '/'"),
    ("data.name", lambda name: name == name.lower(), "names in lower case"),
    # to Snakemake, what braces hold in the name of an input is a wildcard
    ("data.folder", lambda folder: not {*"{}"} & {*(folder or "")}, "folders without { and }"),
    ("network.group", lambda group: group in GENERATORS, ", ".join(GENERATORS)),
    _between("network.image_size", 1, 1024),
    _between("network.classes", 2, 256),  # a label is a byte
    _between("network.channels", 1, 4096),
    ("network.kernel_size", lambda size: size in range(1, 100, 2), "odd numbers, 1 to 99"),
    ("training.perturbation", _is_amount, "finite numbers, 0 and more"),
    _between("training.epochs", 1, 100_000),
    _between("training.batch_size", 1, 1_000_000),
    ("training.learning_rate", lambda rate: 0 < rate < math.inf, "finite numbers above 0"),
    ("grid.gammas", _is_amount, "finite numbers, 0 and more"),
    _between("grid.seeds_per_job", 1, MOST_SEEDS),
    _between("jobs.threads", 1, 1024),
]


def _wrong_values(configuration: Configuration) -> Iterator[Mistake]:
    answered: set[str] = set()  # a line is enough for a value
    for key, holds, accepted in _RULES:
        value: Any = configuration
        for part in key.split("."):
            value = getattr(value, part)
        for item in value if isinstance(value, tuple) else [value]:
            if key not in answered and not holds(item):
                yield Mistake(tuple(key.split(".")), item, f"accepted: {accepted}")
                answered.add(key)


def _misfits(configuration: Configuration) -> Iterator[Mistake]:
    data, network = configuration.data, configuration.network
    training, grid, jobs = configuration.training, configuration.grid, configuration.jobs
    if data.folder is None and data.name not in DOWNLOADED:
        known = ", ".join(DOWNLOADED)
        yield Mistake(("data", "name"), data.name, f"accepted without data.folder: {known}")
    if not network.channels:
        yield Mistake(("network", "channels"), [], "accepted: one convolution or more")
    pooled = 2 ** len(network.channels)
    if network.image_size % pooled or network.image_size == pooled:
        yield Mistake(
            ("network", "image_size"),
            network.image_size,
            f"accepted: multiples of {pooled} from {2 * pooled} on, as each of the "
            f"{len(network.channels)} convolutions halves the image by 2x2 pooling, and a single "
            "pixel is always 0 after the normalization",
        )
    if network.support == "lopsided" and network.kernel_size == 1:
        yield Mistake(
            ("network", "kernel_size"),
            1,
            "accepted with network.support lopsided: 3 and more, as no entry of a 1x1 filter would "
            "be trained",
        )
    elif not network.allow_incompatible_support:
        yield from _incompatible(network)
    trivial = network.group == "C1"
    if configuration.mark_critical and (trivial or "equivariant" not in grid.modes):
        without = "network.group C1" if trivial else f"grid.modes {_show(grid.modes)}"
        yield Mistake(("mark_critical",), True, f"accepted with {without}: false")
    if jobs.step == "compiled" and any(width % LANES for width in network.channels):
        yield Mistake(
            ("jobs", "step"),
            jobs.step,
            f"accepted with network.channels {_show(network.channels)}: auto or reference, as the "
            f"compiled step takes multiples of {LANES}",
        )
    if jobs.step == "compiled" and jobs.device == "cuda":
        yield Mistake(
            ("jobs", "step"),
            jobs.step,
            "accepted with jobs.device cuda: auto or reference, as the compiled step runs on CPUs",
        )
    if not grid.modes:
        yield Mistake(("grid", "modes"), [], "accepted: one mode or more")
    free = [mode for mode in grid.modes if mode != "equivariant"]
    if free and not grid.gammas:
        yield Mistake(("grid", "gammas"), [], f"accepted: one gamma or more, for mode {free[0]}")
    if configuration.experiment in configuration.compare:
        yield Mistake(
            ("compare",), configuration.experiment, "accepted: experiments other than this one"
        )
    for name in ("modes", "gammas"):
        values = getattr(grid, name)
        for value in sorted(value for value, count in Counter(values).items() if count > 1):
            yield Mistake(
                ("grid", name), values, f"accepted: each once; {_show(value)} is repeated"
            )
    if len(grid.gammas) > MOST_GAMMAS:
        yield Mistake(
            ("grid", "gammas"), len(grid.gammas), f"accepted: a list of at most {MOST_GAMMAS}"
        )
        return
    for gamma in grid.gammas:
        if training.learning_rate * gamma > 2:
            yield Mistake(
                ("grid", "gammas"),
                gamma,
                f"accepted with training.learning_rate {training.learning_rate:g}: at most "
                f"{2 / training.learning_rate:g}, as explicit steps are unstable where "
                "learning_rate * gamma > 2",
            )


def _incompatible(network: NetworkSettings) -> Iterator[Mistake]:
    if network.support == "full":
        return
    from equireg.symmetry.projections import check_compatible  # torch, for the unusual support only

    try:
        check_compatible(point_group(network.group), network.support, network.kernel_size)
    except ValueError as error:
        reason = str(error).partition(": ")[2]
        yield Mistake(("network", "support"), network.support, reason)


def _wrong_places(configuration: Configuration) -> Iterator[Mistake]:
    """Data and results that could not be read or written. Paths are relative to the repository."""
    data = configuration.data
    there = Path("results", "data", f"{data.name}.safetensors")  # what was read of it once suffices
    if data.folder is not None and not (_is_folder(data.folder) or there.is_file()):
        yield Mistake(("data", "folder"), data.folder, "accepted: a folder that exists")
    for name in configuration.compare:
        if not Path("results", name, "evaluation.parquet").exists():
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
        base = _build(Configuration, _MODEL.model_validate(first))
    except ValidationError:
        return  # the first file is no experiment by itself
    if configuration.experiment != base.experiment:
        return
    for name in ("data", "network", "initialization", "training"):
        section = getattr(configuration, name)
        for key in (entry.name for entry in dataclasses.fields(section)):
            value, before = getattr(section, key), getattr(getattr(base, name), key)
            if value != before:
                yield Mistake(
                    (name, key),
                    value,
                    f"accepted in experiment {base.experiment}: {_show(before)}; give it an "
                    "experiment of its own (experiment: a new name), as its runs would replace "
                    f"those of results/{base.experiment}",
                )


# --- Messages. ------------------------------------------------------------------------------------

_shorten = reprlib.Repr()
_shorten.maxstring = _shorten.maxother = _shorten.maxlong = 80


def _line(mistake: Mistake, layers: Mapping[str, Mapping[Any, Any]]) -> str:
    key = "".join(f".{part}" if isinstance(part, str) else f"[{part}]" for part in mistake.key)
    said = f"{key.lstrip('.')} is {_show(mistake.value)}; {mistake.remedy}"
    return _one_line(f"{_source(mistake.key, layers)}: {said}")


def _source(key: tuple[int | str, ...], layers: Mapping[str, Mapping[Any, Any]]) -> str:
    """The last layer that says something at this key or at a section that it is in."""
    for name, layer in list(layers.items())[::-1]:
        found: Any = layer
        for part in key:
            if not isinstance(found, Mapping):
                return name
            if part not in found:
                break
            found = found[part]
        else:
            return name
    return "the defaults"


def _show(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]  # as YAML writes them
    return _shorten.repr(list(value) if isinstance(value, tuple) else value)


def _one_line(text: str) -> str:
    return " ".join(text.split())
