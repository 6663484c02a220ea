"""Medians over seeds, with their bootstrap intervals."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

from equireg.randomness import generator

LEVEL = 0.95  # of the intervals
RESAMPLES = 9999


@dataclass(frozen=True)
class Interval:
    """A median over seeds and its bootstrap interval."""

    median: float
    low: float
    high: float


def median_interval(values: np.ndarray, *role: str, level: float = LEVEL) -> Interval:
    """The median and its percentile bootstrap interval, by a generator of its own for ``role``."""
    median = float(np.median(values))
    if len(values) < 2 or not np.ptp(values) > 0:  # also NaN, of what is not known
        return Interval(median, median, median)
    found = bootstrap(
        (values,),
        np.median,
        confidence_level=level,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=generator(0, "bootstrap", *role),
    ).confidence_interval
    return Interval(median, float(found.low), float(found.high))


def spell_interval(interval: Interval, form: str = ".3g") -> str:
    """``0.5 [0.4, 0.6]``."""
    median, low, high = (
        re.sub(r"^-(?=[0.]+$)", "+" if "+" in form else "", format(value, form))  # no -0.0000
        for value in (interval.median, interval.low, interval.high)
    )
    return f"{median} [{low}, {high}]"
