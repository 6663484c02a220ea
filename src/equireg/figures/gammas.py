"""What the penalty does to trained networks: a figure of their quantities against gamma."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from equireg.figures.quantities import QUANTITIES, Quantity, quantities_of
from equireg.figures.style import COLOURS, DASHES, PAGE_WIDTH, SERIES
from equireg.intervals import median_interval
from equireg.spelling import spell_gamma

LEGEND = 110  # characters that a row of a legend has place for

Critical = Mapping[tuple[str, str], float]  # by mode and weights (start, trained)


def conditions(runs: pd.DataFrame) -> Iterator[tuple[str, str, float | None, pd.DataFrame]]:
    """Experiment, mode and gamma (None: equivariant) with their runs, in the tables' order."""
    keys = runs[["experiment", "mode", "gamma"]].astype(object)
    keys["gamma"] = keys["gamma"].where(runs["gamma"].notna(), None)
    for experiment, mode, gamma in dict.fromkeys(keys.itertuples(index=False, name=None)):
        some = runs["gamma"].isna() if gamma is None else runs["gamma"] == gamma
        here = (runs["experiment"] == experiment) & (runs["mode"] == mode) & some
        yield experiment, mode, gamma, runs[here]


def gamma_figure(runs: pd.DataFrame, critical: Critical | None = None) -> Figure:
    """Panels of every quantity against gamma; gamma = 0 stands left of a break in the axis.

    critical: as ``read_critical`` gives it; marked where the weights are trained.
    """
    experiments = list(dict.fromkeys(runs["experiment"]))
    own = set(runs.loc[runs["experiment"] == experiments[0], "mode"])
    modes = [mode for mode in ("nominal", "augmented") if mode in own]
    rows = [[mode] for mode in modes] if len(experiments) > 1 else [modes]
    figure = Figure(figsize=(PAGE_WIDTH, 0.6 + 1.9 * len(rows)), layout="constrained")
    quantities = quantities_of(runs)
    panels = figure.subplots(len(rows), len(quantities), sharex=True, sharey="col", squeeze=False)
    places = gamma_places(runs["gamma"].dropna())
    for row, shown in zip(panels, rows, strict=True):
        for panel, quantity in zip(row, quantities, strict=True):
            for i, experiment in enumerate(experiments):
                here = runs[runs["experiment"] == experiment]
                lone = len(experiments) == 1
                for mode in ("equivariant", *shown):
                    some = here[here["mode"] == mode]
                    colour = COLOURS[mode] if lone else SERIES[i % len(SERIES)]
                    label = mode if lone else experiment
                    _draw(panel, quantity, some, places, colour, mode, label)
            _mark(panel, critical or {}, shown)
            _set_axes(panel, quantity, places)
        if len(rows) > 1:
            row[0].set_ylabel(shown[0])
    for panel, quantity in zip(panels[0], quantities, strict=True):
        panel.set_title(quantity.label)
    figure.supxlabel(r"penalty $\gamma$", fontsize=8)
    handles: dict[str, Artist] = {}
    for panel in panels.flat:
        found, labels = panel.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    if len(experiments) > 1 and (runs["mode"] == "equivariant").any():
        style = {"color": "#777777", "linestyle": DASHES["equivariant"], "linewidth": 1}
        handles["equivariant"] = Line2D([], [], **style)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper center",
        ncols=max(1, min(len(handles), 5, LEGEND // (4 + max(map(len, handles))))),
    )
    return figure


def gamma_places(gammas: Iterable[float]) -> dict[float, float]:
    """Where each gamma stands: at its decimal logarithm, 0 a little left of the others."""
    present = sorted(set(gammas))
    places = {gamma: float(np.log10(gamma)) for gamma in present if gamma > 0}
    return {0.0: min(places.values(), default=0.0) - 1.5, **places} if 0 in present else places


def _draw(
    panel: Axes,
    quantity: Quantity,
    runs: pd.DataFrame,
    places: Mapping[float, float],
    colour: str,
    mode: str,
    label: str,
) -> None:
    """A mode's medians with their intervals; the equivariant ones as a band over all gammas."""
    if runs.empty or (mode == "equivariant" and quantity in QUANTITIES[:2]):
        return  # its distance and error are 0 up to rounding
    name, style = str(runs["experiment"].iloc[0]), DASHES[mode]
    groups = {gamma: some[quantity.column].to_numpy() for *_, gamma, some in conditions(runs)}
    found = [
        median_interval(values, quantity.column, name, mode, spell_gamma(gamma))
        for gamma, values in groups.items()
    ]
    medians = np.array([interval.median for interval in found])
    band = np.array([[interval.low, interval.high] for interval in found]).T
    if mode == "equivariant":
        panel.axhspan(*band[:, 0], color=colour, alpha=0.2, linewidth=0)
        legend = label if label == mode else None
        panel.axhline(medians[0], color=colour, linestyle=style, linewidth=1, label=legend)
        return
    x = np.array([places[gamma] for gamma in groups if gamma is not None])
    panel.fill_between(x, *band, color=colour, alpha=0.2, linewidth=0)
    panel.plot(
        x,
        medians,
        color=colour,
        linestyle=style,
        linewidth=1.2,
        marker="o",
        markersize=2.5,
        label=label,
    )


def _mark(panel: Axes, critical: Critical, modes: Sequence[str]) -> None:
    """A vertical line at each mode's critical gamma at trained weights, if it is not 0."""
    for mode in modes:
        gamma = critical.get((mode, "trained"), 0.0)
        if gamma > 0:
            panel.axvline(
                math.log10(gamma),
                color=COLOURS[mode],
                linestyle=":",
                linewidth=1,
                label=f"critical, {mode}",
            )


def _set_axes(panel: Axes, quantity: Quantity, places: Mapping[float, float]) -> None:
    if quantity.logarithmic:
        panel.set_yscale("log")
    powers = [place for gamma, place in places.items() if gamma] or [0.0]
    lowest, highest = math.ceil(min(powers)), math.floor(max(powers))
    step = max(1, math.ceil((highest - lowest) / 4))
    ticks = {float(power): f"$10^{{{power}}}$" for power in range(highest, lowest - 1, -step)}
    if 0.0 in places:
        ticks[places[0.0]] = "0"
    panel.set_xticks(sorted(ticks), [ticks[place] for place in sorted(ticks)])
