"""The study's figure of networks that leave E and come back: risk and distance along training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from equireg.figures.style import PAGE_WIDTH, SERIES
from equireg.study.escape import Course


def escape_figure(courses: Sequence[Course]) -> Figure:
    """Medians over the seeds against the epoch: left the training risk, right the distance to E."""
    figure = Figure(figsize=(PAGE_WIDTH, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for course, colour in zip(courses, SERIES, strict=False):
        epochs = np.arange(1, len(course.risk) + 1)
        left.semilogy(epochs, course.risk, color=colour, label=course.name, linewidth=1)
        right.plot(epochs, course.distance, color=colour, linewidth=1)
    left.set_title("training risk, mean over an epoch")
    right.set_title("distance to $\\mathcal{E}$, the largest of an epoch")
    for panel in (left, right):
        panel.set_xlabel("epoch")
    left.legend()
    return figure
