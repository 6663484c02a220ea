"""The function beside figure 2: how far from symmetric it is, where the weights are near E."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from equireg.figures.figure2 import MODES
from equireg.figures.style import PAGE_WIDTH
from equireg.plan import Condition
from equireg.spelling import spell_gamma

QUANTITIES = {
    "equivariance_error": "equivariance error",
    "prediction_change": "predictions that a turn changes",
}
MOST_NAMED = 8  # gammas in the legend

# By quantity and condition: steps, and values (seeds, steps).
Seen = Mapping[str, Mapping[Condition, tuple[np.ndarray, np.ndarray]]]


def function_figure(seen: Seen) -> Figure:
    """A row per quantity, a column per mode; per gamma the median over seeds, and 5 to 95 %.

    A quantity that nothing was seen of has no row, such as predictions of a regression.
    """
    conditions = sorted({condition for curves in seen.values() for condition in curves})
    modes = [mode for mode in MODES if mode in {condition.mode for condition in conditions}]
    gammas = sorted({condition.gamma for condition in conditions})
    shades = colormaps["viridis"](np.linspace(0, 0.88, len(gammas)))
    colours = dict(zip(gammas, shades, strict=True))
    height = 0.6 + 2 * sum(bool(curves) for curves in seen.values())
    figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
    shown = {quantity: label for quantity, label in QUANTITIES.items() if seen[quantity]}
    panels = figure.subplots(len(shown), len(modes), sharex=True, sharey="row", squeeze=False)
    for row, (quantity, label) in zip(panels, shown.items(), strict=True):
        for panel, mode in zip(row, modes, strict=True):
            for gamma in gammas:
                if (mode, gamma) not in seen[quantity]:
                    continue
                steps, values = seen[quantity][Condition(mode, gamma)]
                low, median, high = np.quantile(values, [0.05, 0.5, 0.95], axis=0)
                colour = colours[gamma]
                panel.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
                panel.plot(steps, median, color=colour, linewidth=1.4, marker="o", markersize=2)
        row[0].set_ylabel(label)
    for panel, mode in zip(panels[0], modes, strict=True):
        panel.set_title(mode)
    if any((values > 0).any() for _, values in seen["equivariance_error"].values()):
        panels[0, 0].set_yscale("log")
    if len(shown) > 1:
        panels[1, 0].set_ylim(bottom=0)
        panels[1, 0].yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    panels[0, 0].xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10], integer=True))
    panels[0, 0].xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    figure.supxlabel("training step", fontsize=8)
    named = gammas
    if len(gammas) > MOST_NAMED:
        named = [gammas[i] for i in np.linspace(0, len(gammas) - 1, MOST_NAMED).round().astype(int)]
    handles = [
        Line2D([], [], color=colours[gamma], label=rf"$\gamma$ = {spell_gamma(gamma)}")
        for gamma in named
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure
