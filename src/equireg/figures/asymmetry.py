"""The study's figure of a symmetry that holds in part: errors as less of the data has it."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from equireg.figures.style import PAGE_WIDTH, SERIES
from equireg.intervals import median_interval


def asymmetry_figure(by_share: Mapping[int, Mapping[str, pd.DataFrame]]) -> Figure:
    """Against the share of digits kept upright: left the test error, right 6 taken for 9.

    by_share: the runs of each arm, with ``test_accuracy`` and ``confused``.
    """
    figure = Figure(figsize=(PAGE_WIDTH, 2.7), layout="constrained")
    panels = figure.subplots(1, 2)
    names = list(next(iter(by_share.values())))
    for panel, column in zip(panels, ("test_accuracy", "confused"), strict=True):
        for name, colour in zip(names, SERIES, strict=False):
            found = []
            for share, arms in by_share.items():
                values = 100 * arms[name][column].to_numpy()
                error = 100 - values if column == "test_accuracy" else values
                found.append(median_interval(error, "figure", column, name, str(share)))
            medians = [one.median for one in found]
            panel.plot(list(by_share), medians, color=colour, marker="o", markersize=3, label=name)
            panel.fill_between(
                list(by_share),
                [one.low for one in found],
                [one.high for one in found],
                color=colour,
                alpha=0.2,
                linewidth=0,
            )
        panel.set_xlabel("digits kept upright, percent; a quarter of the others are")
        panel.set_xticks(list(by_share))
        panel.set_ylim(bottom=0)
    panels[0].set_title("test error, percent")
    panels[1].set_title("6 and 9 taken for each other, percent")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure
