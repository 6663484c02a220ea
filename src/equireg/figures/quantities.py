"""What is shown of trained networks: columns of the evaluation, medians over seeds, intervals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from equireg.randomness import generator
from equireg.tables import open_parquet

LEVEL = 0.95  # of the intervals
RESAMPLES = 9999


@dataclass(frozen=True)
class Quantity:
    """A column of the evaluation, as a panel."""

    column: str
    label: str
    logarithmic: bool = False


QUANTITIES = (
    Quantity("final_distance", r"distance to $\mathcal{E}$", logarithmic=True),
    Quantity("equivariance_error", "equivariance error", logarithmic=True),
    Quantity("test_accuracy", "accuracy, upright"),
    Quantity("test_accuracy_turned", "accuracy, turned"),
)

# Where there is no accuracy: of the network, and of the mean of its outputs over the group.
LOSSES = (
    Quantity("test_loss", "test loss", logarithmic=True),
    Quantity("test_averaged_loss", "test loss, averaged", logarithmic=True),
)


def quantities_of(runs: pd.DataFrame) -> list[Quantity]:
    """What is compared: of a regression the losses in place of accuracies."""
    known = [q for q in QUANTITIES if runs[q.column].notna().any()]
    if len(known) == len(QUANTITIES):
        return known
    return [*known, *(q for q in LOSSES if q.column in runs)]


@dataclass(frozen=True)
class Interval:
    """A median over seeds and its bootstrap interval."""

    median: float
    low: float
    high: float


def read(path: Path) -> pd.DataFrame:
    """The columns needed of an evaluation, a row per run."""
    columns = ["mode", "gamma", "seed", *(quantity.column for quantity in QUANTITIES)]
    with open_parquet(path, columns) as file:
        table: pd.DataFrame = file.read(columns=columns).to_pandas()
        for column in (loss.column for loss in LOSSES):
            if column in file.schema_arrow.names:
                table[column] = file.read(columns=[column]).to_pandas()
    return table.astype({"mode": str})


def median_interval(values: np.ndarray, *role: str) -> Interval:
    """The median and its percentile bootstrap interval, by a generator of its own for ``role``."""
    median = float(np.median(values))
    if len(values) < 2 or not np.ptp(values) > 0:  # also NaN, of what is not known
        return Interval(median, median, median)
    found = bootstrap(
        (values,),
        np.median,
        confidence_level=LEVEL,
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
