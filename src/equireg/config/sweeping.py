"""What a sweep may be, before its combinations are examined one by one."""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from equireg.config.messages import Mistake
from equireg.settings import (
    DataSettings,
    GridSettings,
    InitializationSettings,
    NetworkSettings,
    TrainingSettings,
)
from equireg.sweeps import (
    MOST_CHARACTERS,
    MOST_COMBINATIONS,
    Sweep,
    combinations,
    label,
    path,
    products,
    size,
    spell_value,
)

SWEPT = (
    "lists of values by key, such as {training.learning_rate: [1e-3, 1e-2]}, or a list of such, of "
    "the same keys"
)
# How jobs run changes no result; seeds are the same everywhere, so that runs can be paired.
SECTIONS = {
    "data": DataSettings,
    "network": NetworkSettings,
    "initialization": InitializationSettings,
    "training": TrainingSettings,
    "grid": GridSettings,
}
NEVER = ("data.folder", "data.file", "grid.seeds", "grid.seeds_per_job")


def wrong_sweep(sweep: Any) -> Iterator[Mistake]:
    """What cannot be expanded: no lists, keys that there are not or that cannot be swept."""
    each = sweep if isinstance(sweep, list | tuple) else [sweep]
    if not (each and all(isinstance(product, Mapping) and product for product in each)):
        yield Mistake(("sweep",), sweep, f"accepted: {SWEPT}")
        return
    for product in each:
        yield from _wrong_product(product)
        if product.keys() != each[0].keys():
            remedy = f"accepted: the keys of the first one in each, {', '.join(each[0])}"
            yield Mistake(("sweep",), dict(product), remedy)
    lists = [
        {key: values for key, values in product.items() if isinstance(values, list | tuple)}
        for product in each
    ]
    if size(lists) > MOST_COMBINATIONS:
        remedy = f"accepted: at most {MOST_COMBINATIONS} combinations"
        yield Mistake(("sweep",), sweep, remedy)


def _wrong_product(product: Mapping[Any, Any]) -> Iterator[Mistake]:
    known = [
        f"{name}.{entry.name}"
        for name, section in SECTIONS.items()
        for entry in dataclasses.fields(section)
        if f"{name}.{entry.name}" not in NEVER
    ]
    for key, values in product.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            remedy = f"did you mean {close[0]}? " if close else ""
            remedy += (
                "accepted: keys of data (but for folder and file), network, initialization and "
                "training, such as training.learning_rate, grid.modes and grid.gammas"
            )
            yield Mistake(("sweep", str(key)), values, remedy)
        elif not isinstance(values, list | tuple) or not values:
            yield Mistake(("sweep", key), values, "accepted: a list of one value or more")


def wrong_folders(sweep: Sweep) -> Iterator[Mistake]:
    """Values that are repeated, however they were spelled, or too long for a folder's name."""
    repeated = False
    for product in products(sweep):
        for key, values in product.items():
            spelled = [spell_value(value) for value in values]
            for value in sorted({value for value in spelled if spelled.count(value) > 1}):
                repeated = True
                yield Mistake(("sweep", key), values, f"accepted: each once; {value} is repeated")
            for value in spelled:
                if len(value) > MOST_CHARACTERS:
                    remedy = f"accepted: values that are spelled in {MOST_CHARACTERS} characters"
                    yield Mistake(("sweep", key), value, remedy)
    places = Counter(path(combination) for combination in combinations(sweep))
    for combination in [] if repeated else combinations(sweep):
        if places.pop(path(combination), 1) > 1:
            remedy = "accepted: each combination in one product only"
            yield Mistake(("sweep",), label(combination), remedy)


def nested(combination: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections in the place of dotted keys."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in combination.items():
        name, _, entry = key.partition(".")
        sections.setdefault(name, {})[entry] = value
    return sections
