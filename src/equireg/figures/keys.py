"""A sweep's figure: what becomes of trained networks along each of its keys."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from equireg.figures.quantities import QUANTITIES, Quantity, quantities_of
from equireg.figures.style import COLOURS, DASHES, PAGE_WIDTH
from equireg.intervals import median_interval
from equireg.spelling import spell_gamma
from equireg.sweeps import Combination, Sweep, combinations, keys, label, spell_value

MOST_ROWS = 24  # of panels; the table has them all
MARKERS = "osD^vP*X<>"

Runs = Sequence[tuple[Combination, pd.DataFrame]]  # of each combination


def groups(runs: pd.DataFrame) -> list[tuple[str, float | None, pd.DataFrame]]:
    """Mode and gamma (None: equivariant) with their runs, in the table's order."""
    every = [some for _, some in runs.groupby(["mode", "gamma"], dropna=False, sort=False)]
    first = [(str(some["mode"].iloc[0]), float(some["gamma"].iloc[0])) for some in every]
    return [
        (mode, None if math.isnan(gamma) else gamma, some)
        for (mode, gamma), some in zip(first, every, strict=True)
    ]


def rows(sweep: Sweep) -> list[tuple[str, list[dict[str, Any]]]]:
    """A key along which a row of panels goes, and its combinations, alike in all other keys.

    Keys of one value have no row, unless all are such.
    """
    every = combinations(sweep)
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key in keys(sweep):
        for combination in every:
            others = label({k: value for k, value in combination.items() if k != key})
            found.setdefault((key, others), []).append(combination)
    several = [(key, alike) for (key, _), alike in found.items() if len(alike) > 1]
    return (several or [(keys(sweep)[0], every)])[:MOST_ROWS]


def sweep_figure(sweep: Sweep, runs: Runs) -> Figure:
    """Panels of every quantity along a key, its values evenly spaced in the order of the sweep.

    A row for each key and each combination of the others, a line for each mode and gamma: medians
    over seeds, with their intervals as bands.
    """
    shown, quantities = rows(sweep), quantities_of(pd.concat([table for _, table in runs]))
    figure = Figure(figsize=(PAGE_WIDTH, 0.9 + 1.75 * len(shown)), layout="constrained")
    panels = figure.subplots(len(shown), len(quantities), sharey="col", squeeze=False)
    gammas = sorted({gamma for _, table in runs for gamma in table["gamma"].dropna()})
    for row, (key, alike) in zip(panels, shown, strict=True):
        along = [next(table for combination, table in runs if combination == one) for one in alike]
        others = {name: value for name, value in alike[0].items() if name != key}
        for panel, quantity in zip(row, quantities, strict=True):
            _draw(panel, quantity, along, gammas)
            names = [spell_value(one[key]) for one in alike]
            panel.set_xticks(range(len(names)), names)
            panel.margins(x=0.15)
            panel.set_xlabel(key, fontsize=7)
        row[0].set_ylabel(label(others).replace(", ", "\n"), fontsize=7)
    for panel, quantity in zip(panels[0], quantities, strict=True):
        panel.set_title(quantity.label)
    handles: dict[str, Artist] = {}
    for panel in panels.flat:
        found, labels = panel.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    figure.legend(
        [handles[name] for name in sorted(handles)],
        sorted(handles),
        loc="outside upper center",
        ncols=min(len(handles), 4),
    )
    return figure


def _draw(
    panel: Axes, quantity: Quantity, along: Sequence[pd.DataFrame], gammas: Sequence[float]
) -> None:
    """A line for each mode and gamma over the tables along a key."""
    if quantity.logarithmic:
        panel.set_yscale("log")
    lines: dict[tuple[str, float | None], dict[int, pd.DataFrame]] = {}
    for place, table in enumerate(along):
        for mode, gamma, some in groups(table):
            lines.setdefault((mode, gamma), {})[place] = some
    for (mode, gamma), tables in lines.items():
        if mode == "equivariant" and quantity in QUANTITIES[:2]:
            continue  # its distance and error are 0 up to rounding
        name = mode if gamma is None else f"{mode}, gamma {spell_gamma(gamma)}"
        values = [table[quantity.column].to_numpy() for table in tables.values()]
        found = [median_interval(value, quantity.column, name) for value in values]
        style = {
            "color": COLOURS[mode],
            "linestyle": DASHES[mode],
            "marker": "" if gamma is None else MARKERS[gammas.index(gamma) % len(MARKERS)],
        }
        medians = [interval.median for interval in found]
        panel.plot(list(tables), medians, label=name, linewidth=1, markersize=3.5, **style)
        band = [i.low for i in found], [i.high for i in found]
        panel.fill_between(list(tables), *band, color=COLOURS[mode], alpha=0.15, linewidth=0)
