"""The verdict's rule, fixed before the runs that it judges: arms against networks in E, by seed.

A gain is how much lower the test error is than that of the network in E with the same seed: the
same initial weights, the same training images. Per cell and arm: its median over seeds with the
90 % bootstrap interval, for which seeds and test images are drawn anew, and the signed-rank test of
Wilcoxon over seeds, two-sided, whose p-values are adjusted by Holm over all cells and arms of a
family. The margin of a cell is what counts as a gain: 0.2 points of error, or a tenth of the median
error in E, whichever is more.

- yes: one arm has, in two data sets or more, an adjusted p below 0.05 and a median gain of at least
  the margin;
- no: every interval of the family lies below the margin in every cell: no arm gains as much;
- undecided: anything else, and whatever fewer than ten seeds say.

Of one data set alone there is no yes: what gains in it is told by its comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from equireg.intervals import RESAMPLES, Interval, median_interval
from equireg.randomness import generator
from equireg.study.arms import REFERENCE, Arm
from equireg.study.choosing import Choice

POINTS = 0.002  # of error
SHARE = 0.1  # of the error in E
SIGNIFICANT = 0.05
LEVEL = 0.9
DATA_SETS = 2  # in which an arm has to gain
LEAST_SEEDS = 10  # of fewer, intervals and ranks say little
AT_ONCE = 101  # draws of images; bounds the memory

# Of each choice, which test images its runs get wrong: a row per seed, a column per image.
Mistakes = Mapping[Choice, pd.DataFrame]


@dataclass(frozen=True)
class Comparison:
    """An arm against networks in E in one cell. Errors and gains are shares of the test images."""

    cell: tuple[str, int]
    arm: str
    seeds: int
    error: float
    error_in_e: float
    gain: float
    low: float
    high: float
    margin: float
    p: float
    adjusted: float

    @property
    def gains(self) -> bool:
        """Whether the arm is better, by more than chance and by the margin."""
        return self.adjusted < SIGNIFICANT and self.gain >= self.margin

    @property
    def loses(self) -> bool:
        """The same the other way round; told, but no part of the verdict."""
        return self.adjusted < SIGNIFICANT and self.gain <= -self.margin


def compare(mistakes: Mistakes, arms: Sequence[Arm]) -> list[Comparison]:
    """Every arm of a family against networks in E, in every cell that has both.

    Raises ValueError where an arm has other seeds or images than the networks in E.
    """
    found = []
    for place in dict.fromkeys((choice.data, choice.images) for choice in mistakes):
        here = {c.arm: wrong for c, wrong in mistakes.items() if (c.data, c.images) == place}
        if REFERENCE.name not in here:
            continue
        inside = here[REFERENCE.name]
        margin = max(POINTS, SHARE * float(inside.mean(axis=1).median()))
        for name in (arm.name for arm in arms if arm.name in here):
            own = here[name]
            one = paired(place, name, own.mean(axis=1), inside.mean(axis=1), margin)
            if list(own.columns) != list(inside.columns):
                raise ValueError(f"{name} on {place[0]} has other test images; accepted: the same")
            differences = inside.to_numpy(np.float32) - own.loc[inside.index].to_numpy(np.float32)
            of_both = interval(differences, "verdict", name, *map(str, place))
            found.append(replace(one, low=of_both.low, high=of_both.high))
    adjusted = holm([comparison.p for comparison in found])
    return [replace(c, adjusted=p) for c, p in zip(found, adjusted, strict=True)]


def interval(differences: np.ndarray, *role: str) -> Interval:
    """Of the median over seeds of the mean over images, by a bootstrap that draws both anew.

    differences: (seeds, images). For means, to draw rows and columns each by itself is on the
    safe side: Owen, The pigeonhole bootstrap (2007).
    """
    random = generator(0, "bootstrap", *role)
    seeds, images = differences.shape
    medians = []
    for _ in range(RESAMPLES // AT_ONCE):
        drawn = random.integers(images, size=(AT_ONCE, images))
        drawn += images * np.arange(AT_ONCE)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        means = weights.astype(np.float32) @ differences.T / images  # sums of integers: exact
        rows = random.integers(seeds, size=(AT_ONCE, seeds))
        medians.append(np.median(np.take_along_axis(means, rows, 1), 1))
    low, high = np.quantile(np.concatenate(medians), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    middle = float(np.median(differences.mean(1, dtype=float)))
    return Interval(middle, float(low), float(high))


def paired(
    cell: tuple[str, int], arm: str, own: pd.Series, inside: pd.Series, margin: float
) -> Comparison:
    """Errors of an arm against those in E, both by seed; the p-value is not adjusted yet.

    The interval is over seeds alone.

    Raises ValueError for other seeds than those of the networks in E.
    """
    if set(own.index) != set(inside.index):
        raise ValueError(
            f"{arm} on {cell[0]}, {cell[1]} images, has other seeds than {REFERENCE.name}; "
            "accepted: the same, so that runs are paired"
        )
    # Rounded to much less than an image, so that equal gains have equal ranks.
    gains = (inside - own.loc[inside.index]).round(9).to_numpy()
    gained = median_interval(gains, "verdict", arm, *map(str, cell), level=LEVEL)
    p = float(wilcoxon(gains).pvalue) if gains.any() else 1.0
    both = float(own.median()), float(inside.median())
    gain = gained.median, gained.low, gained.high
    return Comparison(cell, arm, len(gains), *both, *gain, margin, p, p)


def holm(values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(values)
    steps = np.asarray(values)[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [float(round(p, 12)) for p in adjusted]


def verdict(comparisons: Sequence[Comparison]) -> str:
    """``yes``, ``no`` or ``undecided``, for a family."""
    if any(comparison.seeds < LEAST_SEEDS for comparison in comparisons):
        return "undecided"
    gained = {
        arm: {c.cell[0] for c in comparisons if c.arm == arm and c.gains}
        for arm in {c.arm for c in comparisons}
    }
    if any(len(names) >= DATA_SETS for names in gained.values()):
        return "yes"
    if comparisons and all(c.high < c.margin for c in comparisons):
        return "no"
    return "undecided"
