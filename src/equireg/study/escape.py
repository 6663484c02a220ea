"""Whether networks that leave E in the middle of training come back to a better place on it.

The paper's question: can tuning gamma let a network avoid bad minima on E and still be attracted to
good ones? Networks in E all along are compared with networks that were in E, were released, drawn
back and put into E again, for as many steps, by seed: up to the release both are the same network.
At the end all are in E. Two quantities, each judged by itself: the error on test images, and the
training risk, which is the mean loss over the last epoch. Gains, intervals and p-values are those
of ``verdicts``, adjusted by Holm over the schedules:

- yes: one schedule has an adjusted p below 0.05 and a median gain of at least the margin, which is
  a tenth of what networks in E have (of errors 0.2 points at least);
- no: every interval lies below the margin;
- undecided: anything else, and whatever fewer than ten seeds say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from equireg.spelling import parse_knots
from equireg.study.verdicts import LEAST_SEEDS, POINTS, SHARE, Comparison, holm, paired

EPOCHS, SCHEDULE = "training.epochs", "training.gamma_schedule"
TEST, TRAINING = "error on test images", "training risk"


@dataclass(frozen=True)
class Course:
    """Networks of one schedule along training: (epochs,) each, medians over the seeds.

    risk: mean losses over an epoch; distance: to E, the largest of an epoch.
    """

    name: str
    risk: np.ndarray
    distance: np.ndarray


def name_of(schedule: str) -> str:
    """What a schedule of gamma is called here.

    >>> name_of("constant"), name_of("0:inf,0.4:0,0.8:inf")
    ('in E', 'released at 40 %')
    """
    out = [share for share, factor in parse_knots(schedule) if math.isfinite(factor)]
    return "in E" if schedule == "constant" else f"released at {100 * out[0]:g} %"


def by_epoch(values: np.ndarray, epochs: int) -> np.ndarray:
    """(seeds, steps) -> (seeds, epochs, steps of an epoch). Raises ValueError for a remainder."""
    seeds, steps = values.shape
    if steps % epochs:
        raise ValueError(f"steps are {steps}; accepted: a multiple of the {epochs} epochs")
    return values.reshape(seeds, epochs, -1)


def compare(
    cell: tuple[str, int],
    tests: Mapping[str, pd.Series],
    risks: Mapping[str, pd.Series],
) -> dict[str, list[Comparison]]:
    """Every schedule against networks in E, by quantity.

    tests: the share of wrong test images by seed, for each schedule's name; risks: the training
    risk. Raises ValueError where there are no networks in E, or no others.
    """
    found = {}
    for quantity, every, least in ((TEST, tests, POINTS), (TRAINING, risks, 0.0)):
        inside = every.get("in E")
        if inside is None or len(every) < 2:
            raise ValueError(
                f"schedules are {', '.join(every)}; accepted: constant and others, as many epochs"
            )
        margin = max(least, SHARE * float(inside.median()))
        some = [paired(cell, k, v, inside, margin) for k, v in every.items() if k != "in E"]
        adjusted = holm([c.p for c in some])
        found[quantity] = [replace(c, adjusted=p) for c, p in zip(some, adjusted, strict=True)]
    return found


def verdict(comparisons: Sequence[Comparison]) -> str:
    """``yes``, ``no`` or ``undecided``, for a quantity."""
    if any(c.seeds < LEAST_SEEDS for c in comparisons):
        return "undecided"
    if any(c.gains for c in comparisons):
        return "yes"
    return "no" if all(c.high < c.margin for c in comparisons) else "undecided"
