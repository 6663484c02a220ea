"""Sweeps: every combination of values for some keys of the configuration, and its folder.

Standard library and ``spelling`` only: the workflow imports it each time it is parsed, and a table
can be found through it without Snakemake.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from equireg.spelling import spell_gamma

Product = Mapping[str, Sequence[Any]]  # values by key, such as training.learning_rate
Sweep = Product | Sequence[Product]  # one, or several of the same keys, one after the other
Combination = Mapping[str, Any]  # a value for each of its keys

MOST_COMBINATIONS = 1000  # more is a slip of the keyboard
MOST_CHARACTERS = 200  # of a spelled value: the name of a folder has 255 at most


def products(sweep: Sweep) -> list[Product]:
    """The products that a sweep is the sum of."""
    return [sweep] if isinstance(sweep, Mapping) else list(sweep)


def keys(sweep: Sweep) -> list[str]:
    """The keys that are swept, in the order of the first product."""
    return list(products(sweep)[0]) if sweep else []


def size(sweep: Sweep) -> int:
    """How many combinations there are."""
    return sum(math.prod(map(len, product.values())) for product in products(sweep))


def combinations(sweep: Sweep) -> list[dict[str, Any]]:
    """Every combination, the last key's values changing fastest; of an empty sweep, an empty one.

    >>> combinations({"training.epochs": [1, 2], "network.group": ["C4"]})
    [{'training.epochs': 1, 'network.group': 'C4'}, {'training.epochs': 2, 'network.group': 'C4'}]
    >>> combinations([{"a.b": [1, 2]}, {"a.b": [5]}])
    [{'a.b': 1}, {'a.b': 2}, {'a.b': 5}]
    """
    names = keys(sweep)
    return [
        dict(zip(names, values, strict=True))
        for product in products(sweep) or [{}]
        for values in itertools.product(*(product[name] for name in names))
    ]


def spell_sweep(sweep: Sweep) -> str:
    """A sweep on the command line: its keys and values as JSON."""
    return json.dumps(sweep if isinstance(sweep, Mapping) else list(sweep))


def parse_sweep(text: str) -> Sweep:
    """Inverse of ``spell_sweep``. Raises ValueError for anything but lists of values by key."""
    try:
        sweep: Sweep = json.loads(text)
    except ValueError:
        sweep = {}
    each = products(sweep) if isinstance(sweep, dict | list) else []
    lists = [value for p in each for value in (p.values() if isinstance(p, dict) and p else [None])]
    alike = all(p.keys() == each[0].keys() for p in each) if None not in lists else False
    if not (each and alike and all(isinstance(values, list) and values for values in lists)):
        raise ValueError(
            f'over is {text!r}; accepted: lists of values by key, {{"training.epochs": [1, 2]}}, '
            "or a list of such, of the same keys"
        )
    return sweep


def path(combination: Combination) -> Path:
    """Where a combination's results are within the experiment: a folder per key.

    As data sets partitioned by folders are spelled, which pyarrow, polars and DuckDB read.

    >>> str(path({"training.learning_rate": 0.01, "data.train_images": None}))
    'training.learning_rate=1e-2/data.train_images=null'
    """
    return Path(*(f"{key}={spell_value(value)}" for key, value in combination.items()))


def spell_value(value: Any) -> str:
    """The one spelling of a value in paths: numbers as gammas are, texts without a slash.

    >>> spell_value(2.5), spell_value((16, 16)), spell_value("my/own.py:net")
    ('2.5e0', '16,16', 'my%2Fown.py:net')
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return spell_gamma(value)
    if isinstance(value, list | tuple):
        return ",".join(map(spell_value, value))
    return quote(str(value), safe=":,+")


def label(combination: Combination) -> str:
    """A combination in texts: ``training.learning_rate 1e-2, data.train_images 500``.

    Of a path the last part is enough.
    """
    return ", ".join(
        f"{key} {spell_value(value).rpartition('%2F')[2]}" for key, value in combination.items()
    )


def cell(value: Any) -> Any:
    """A value in its column of a table, where lists are texts."""
    return spell_value(value) if isinstance(value, list | tuple) else value
