"""What a sweep may be, before its combinations are examined one by one."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from equireg.config.messages import Mistake
from equireg.settings import (
    DataSettings,
    InitializationSettings,
    NetworkSettings,
    TrainingSettings,
)
from equireg.sweeps import MOST_CHARACTERS, MOST_COMBINATIONS, size, spell_value

SWEPT = "lists of values by key, such as {training.learning_rate: [1e-3, 1e-2]}"
# The grid is a product already, and how jobs run changes no result.
SECTIONS = {
    "data": DataSettings,
    "network": NetworkSettings,
    "initialization": InitializationSettings,
    "training": TrainingSettings,
}


def wrong_sweep(sweep: Any) -> Iterator[Mistake]:
    """What cannot be expanded: no lists, keys that there are not or that cannot be swept."""
    if not isinstance(sweep, Mapping):
        yield Mistake(("sweep",), sweep, f"accepted: {SWEPT}")
        return
    keys = [
        f"{name}.{entry.name}"
        for name, section in SECTIONS.items()
        for entry in dataclasses.fields(section)
        if f"{name}.{entry.name}" not in ("data.folder", "data.file")
    ]
    for key, values in sweep.items():
        if key not in keys:
            close = difflib.get_close_matches(str(key), keys, 1)
            remedy = f"did you mean {close[0]}? " if close else ""
            remedy += (
                "accepted: keys of data (but for folder and file), network, initialization and "
                "training, such as training.learning_rate; modes, gammas and seeds are the grid's"
            )
            yield Mistake(("sweep", str(key)), values, remedy)
        elif not isinstance(values, list | tuple) or not values:
            yield Mistake(("sweep", key), values, "accepted: a list of one value or more")
    lists = [values for values in sweep.values() if isinstance(values, list | tuple)]
    if size(dict(enumerate(lists))) > MOST_COMBINATIONS:  # type: ignore[arg-type]
        remedy = f"accepted: at most {MOST_COMBINATIONS} combinations"
        yield Mistake(("sweep",), dict(sweep), remedy)


def wrong_folders(sweep: Mapping[str, tuple[Any, ...]]) -> Iterator[Mistake]:
    """Values that are repeated, however they were spelled, or too long for a folder's name."""
    for key, values in sweep.items():
        spelled = [spell_value(value) for value in values]
        for value in sorted({value for value in spelled if spelled.count(value) > 1}):
            yield Mistake(("sweep", key), values, f"accepted: each once; {value} is repeated")
        for value in spelled:
            if len(value) > MOST_CHARACTERS:
                remedy = f"accepted: values that are spelled in {MOST_CHARACTERS} characters"
                yield Mistake(("sweep", key), value, remedy)


def nested(combination: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections in the place of dotted keys."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in combination.items():
        name, _, entry = key.partition(".")
        sections.setdefault(name, {})[entry] = value
    return sections
