"""The paper's figure 2: the distance to E along training, a panel per gamma."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from equireg.figures.curves import Curve
from equireg.figures.style import COLOURS, DASHES, PAGE_WIDTH
from equireg.plan import Condition
from equireg.settings import Mode
from equireg.spelling import spell_gamma

# In the order of drawing; the equivariant distance is always 0.
MODES: tuple[Mode, ...] = ("nominal", "augmented")
PREDICTED: dict[str, Any] = {"color": "black", "linestyle": (0, (3, 2)), "linewidth": 0.8}


def distance_figure(
    runs: Mapping[Condition, Sequence[Curve]],
    medians: Mapping[Condition, Curve],
    predicted: Mapping[Condition, Curve] | None = None,
) -> Figure:
    """The figure from its curves; one panel per gamma, in ascending order."""
    predicted = predicted or {}
    gammas = sorted({condition.gamma for condition in medians})
    columns = min(len(gammas), 2 if len(gammas) <= 4 else 3)
    rows = math.ceil(len(gammas) / columns)
    figure = Figure(figsize=(PAGE_WIDTH, 0.5 + 2.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for i, (panel, gamma) in enumerate(itertools.zip_longest(panels, gammas)):
        if gamma is None:
            panel.remove()
            continue
        panel.tick_params(labelbottom=i + columns >= len(gammas))  # nothing below it
        every = [Condition(mode, gamma) for mode in MODES]
        present = [condition for condition in every if condition in medians]
        for condition in present:
            _draw_runs(panel, condition, runs.get(condition, []))
        for condition in present:
            _draw_median(panel, condition, medians[condition])
        for condition in present:
            if condition in predicted:
                _draw_prediction(panel, condition, predicted[condition])
        panel.set_title(f"$\\gamma = {_tex(gamma)}$")
    everything = [*medians.values(), *itertools.chain.from_iterable(runs.values())]
    _set_axes(figure, everything)
    _set_legend(figure, runs, medians, bool(predicted))
    return figure


def _draw_runs(panel: Axes, condition: Condition, curves: Sequence[Curve]) -> None:
    lines = [np.column_stack([curve.steps, curve.distances]) for curve in curves]
    opacity = min(0.6, max(0.08, 10 / max(len(lines), 1)))
    colour = COLOURS[condition.mode]
    panel.add_collection(
        LineCollection(lines, colors=colour, linewidths=0.5, alpha=opacity), autolim=False
    )


def _draw_median(panel: Axes, condition: Condition, curve: Curve) -> None:
    panel.plot(
        curve.steps,
        curve.distances,
        color=COLOURS[condition.mode],
        linestyle=DASHES[condition.mode],
        linewidth=1.6,
        path_effects=[Stroke(linewidth=2.2, foreground="white"), Normal()],
    )


def _draw_prediction(panel: Axes, condition: Condition, curve: Curve) -> None:
    # Without effect on the limits: where first order fails it leaves the panel.
    label = f"{condition.mode}, predicted"
    panel.plot(curve.steps, curve.distances, label=label, **PREDICTED)


def _set_axes(figure: Figure, curves: Iterable[Curve]) -> None:
    """Shared scales, limits that hold every point, and labels."""
    curves = list(curves)
    shown = [c.distances[~np.isnan(c.distances)] for c in curves]
    lowest = min((float(d.min()) for d in shown if len(d)), default=1.0)
    highest = max((float(d.max()) for d in shown if len(d)), default=1.0)
    pad = max((highest / lowest) ** 0.04, 1.1)
    panel = figure.axes[0]
    panel.set_yscale("log")
    panel.set_ylim(lowest / pad, highest * pad)
    end = max(int(c.steps[-1]) + 1 for c in curves)
    panel.set_xlim(-0.012 * end, end)  # a steep fall at the start stays clear of the axis
    panel.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10], integer=True))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    figure.supxlabel("training step", fontsize=8)
    label = r"distance to $\mathcal{E}$,  $\|\Pi_{\mathcal{E}^\perp} A\|$"
    if any(np.isnan(c.distances).any() for c in curves):
        label += "  (where it is not 0)"
    figure.supylabel(label, fontsize=8)


def _set_legend(
    figure: Figure,
    runs: Mapping[Condition, Sequence[Curve]],
    medians: Mapping[Condition, Curve],
    predicted: bool,
) -> None:
    handles: list[Line2D] = []
    for mode in MODES:
        count = max(
            (len(some) for condition, some in runs.items() if condition.mode == mode), default=0
        )
        if any(condition.mode == mode for condition in medians):
            label = f"{mode}: median over {count} seeds" if count != 1 else f"{mode}: one seed"
            style = {"color": COLOURS[mode], "linestyle": DASHES[mode]}
            handles.append(Line2D([], [], linewidth=1.6, label=label, **style))
    handles.append(Line2D([], [], color="#777777", linewidth=0.5, label="faint: every run"))
    if predicted:
        handles.append(Line2D([], [], label="predicted", **PREDICTED))
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        handlelength=2.5,
        columnspacing=1.2,
    )


def _tex(gamma: float) -> str:
    """``1e-2`` -> ``10^{-2}``, ``2.5e1`` -> ``2.5 \\cdot 10^{1}``, as mathtext."""
    mantissa, _, exponent = spell_gamma(gamma).partition("e")
    if exponent in ("", "0"):
        return mantissa
    power = f"10^{{{exponent}}}"
    return power if mantissa == "1" else rf"{mantissa} \cdot {power}"
