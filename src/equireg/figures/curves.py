"""Curves of the distance along training: read from the tables, thinned for drawing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from equireg.binding import REMEDY
from equireg.tables import open_parquet


@dataclass(frozen=True)
class Curve:
    """A polyline, (points,) each; NaN where the distance is 0, which a log scale cannot show."""

    steps: np.ndarray
    distances: np.ndarray


def series(
    path: Path, keys: list[str], value: str, missing: bool = False
) -> Iterator[tuple[tuple[Any, ...], np.ndarray, np.ndarray]]:
    """Consecutive rows of the table with equal ``keys``: the keys, the steps, the values.

    Reads one row group at a time and only the columns it needs. Raises ValueError, naming the
    file, where a step is missing, or a value; with ``missing`` such a value is NaN.
    """
    current: tuple[Any, ...] | None = None
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    needed = [*keys, "step", value]
    with open_parquet(path, needed) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=needed)
            for name in ("step",) if missing else ("step", value):
                if table[name].null_count:
                    raise ValueError(f"{path}: a {name} is null; expected a number; {REMEDY}")
            if not len(table):
                continue
            steps, values = table["step"].to_numpy(), table[value].to_numpy()
            bounds = [0, *_changes(table.select(keys)), len(steps)]
            for start, stop in itertools.pairwise(bounds):
                key = tuple(table[name][start].as_py() for name in keys)
                if key != current and current is not None:
                    yield current, *_joined(parts)
                    parts = []
                current = key
                parts.append((steps[start:stop], values[start:stop]))
    if current is not None:
        yield current, *_joined(parts)


def _changes(table: pa.Table) -> list[int]:
    """The rows, but the first, that differ from the row above."""
    changed = np.zeros(max(table.num_rows - 1, 0), bool)
    for column in table.columns:
        array = column.combine_chunks()
        if pa.types.is_string(array.type):
            array = array.dictionary_encode().indices
        numbers = array.fill_null(-1).to_numpy(zero_copy_only=False)
        changed |= numbers[1:] != numbers[:-1]
    return (np.flatnonzero(changed) + 1).tolist()


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def decimate(steps: np.ndarray, values: np.ndarray, bins: int) -> Curve:
    """Thin a curve to two points per bin: its smallest and its largest value, in their order.

    No extreme is lost, and the first and the last point stay. Values of 0 become NaN.
    """
    values = np.where(values > 0, values, np.nan)
    edges = np.unique(np.linspace(0, len(values), bins + 1).astype(int))
    if len(values) <= 2 * bins:
        return Curve(steps, values)
    lowest = np.where(np.isnan(values), np.inf, values)
    highest = np.where(np.isnan(values), -np.inf, values)
    kept = {0, len(values) - 1}
    for start, stop in itertools.pairwise(edges.tolist()):
        kept |= {
            start + int(lowest[start:stop].argmin()),
            start + int(highest[start:stop].argmax()),
        }
    index = np.array(sorted(kept))
    return Curve(steps[index], values[index])


def thin(steps: np.ndarray, values: np.ndarray, bins: int) -> Curve:
    """Thin a median to one point per bin, the middle of its values; the faint runs show the rest.

    The first and the last point stay. Values of 0 become NaN.
    """
    values = np.where(values > 0, values, np.nan)
    if len(values) <= bins:
        return Curve(steps, values)
    edges = np.unique(np.linspace(1, len(values) - 1, bins - 1).astype(int))
    middles = [
        (steps[(start + stop) // 2], np.median(values[start:stop]))
        for start, stop in itertools.pairwise(edges.tolist())
    ]
    ends = [(steps[i], values[i]) for i in (0, -1)]
    index, thinned = np.array([ends[0], *middles, ends[1]]).T
    return Curve(index.astype(steps.dtype), thinned)
