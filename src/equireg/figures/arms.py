"""The study's figure: how much each way to train gains over networks in E, cell by cell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from equireg.figures.style import PAGE_WIDTH, SERIES
from equireg.study.verdicts import Comparison

BOUND = 6.0  # points of error that the panels show to both sides


def arms_figure(found: Mapping[str, Sequence[Comparison]]) -> Figure:
    """A panel per cell, a row of panels per family: median gains with their intervals.

    In points of test error, to the right: better than in E. The grey band is the margin, within
    which a difference counts as none. All panels have one scale; what lies beyond it is an arrow
    with its number.
    """
    every = [comparison for comparisons in found.values() for comparison in comparisons]
    cells = list(dict.fromkeys(comparison.cell for comparison in every))
    arms = [list(dict.fromkeys(c.arm for c in comparisons)) for comparisons in found.values()]
    heights = [len(names) for names in arms]
    figure = Figure(figsize=(PAGE_WIDTH, 1.1 + 0.26 * sum(heights)), layout="constrained")
    panels = figure.subplots(
        len(found), len(cells), sharey="row", sharex=True, squeeze=False, height_ratios=heights
    )
    for row, (name, comparisons), names in zip(panels, found.items(), arms, strict=True):
        for panel, cell in zip(row, cells, strict=True):
            for c in (c for c in comparisons if c.cell == cell):
                margin, place = 100 * c.margin, names.index(c.arm)
                panel.axvspan(-margin, margin, color="#E6E6E6", linewidth=0, zorder=0)
                colour = SERIES[1] if c.loses else SERIES[2] if c.gains else "#666666"
                gain, ends = 100 * c.gain, [[100 * (c.gain - c.low)], [100 * (c.high - c.gain)]]
                if abs(gain) > BOUND:
                    edge = math.copysign(BOUND, gain)
                    arrow = ">" if gain > 0 else "<"
                    panel.plot([edge], [place], arrow, color=colour, markersize=4)
                    side = "right" if gain > 0 else "left"
                    said = f"  {gain:+.0f}  ".replace("-", "\N{MINUS SIGN}")
                    panel.text(edge, place, said, ha=side, va="center", fontsize=6, color=colour)
                    continue
                panel.errorbar([gain], [place], xerr=ends, fmt="o", color=colour, markersize=2)
            panel.set_xlim(-1.1 * BOUND, 1.1 * BOUND)
            panel.axvline(0, color="black", linewidth=0.6)
            panel.set_yticks(range(len(names)), names)
            panel.set_ylim(len(names) - 0.5, -0.5)
            panel.grid(axis="y", visible=False)
        row[0].set_ylabel(name.replace(" ", "\n", 1), fontsize=7)
    for panel, (data, images) in zip(panels[0], cells, strict=True):
        panel.set_title(f"{data}\n{images:,} images", fontsize=7)
    figure.supxlabel("points of test error gained over networks in E", fontsize=8)
    return figure
