"""What the second stage runs: of each arm, in each cell, what did best on validation images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from equireg.study.arms import ARMS, CELL, PERTURBATION, RATE, SCHEDULE, cells
from equireg.sweeps import cell


@dataclass(frozen=True)
class Choice:
    """The learning rate and the gamma of an arm in a cell: a data set, and how many images of it.

    accuracy: the median on validation images that chose them.
    """

    data: str
    images: int
    arm: str
    rate: float
    gamma: float | None
    accuracy: float

    def runs(self, table: pd.DataFrame) -> pd.DataFrame:
        """Those of a table over a sweep that were trained so, by seed."""
        own = ARMS[self.arm].of(table)
        keys = {**dict(zip(CELL, (self.data, self.images), strict=True)), RATE: self.rate}
        for key, value in keys.items():
            own = own[own[key] == value]
        if self.gamma is not None:
            own = own[own["gamma"] == self.gamma]
        return own.set_index("seed").sort_index()


def choose(table: pd.DataFrame) -> list[Choice]:
    """Of every cell and every arm that the table has runs of.

    The median over seeds of the accuracy on validation images, in the arm's form; of equal ones the
    smaller gamma, then the smaller rate. Raises ValueError for a table without validation images.
    """
    found = []
    for place, runs in cells(table):
        for arm in ARMS.values():
            own, column = arm.of(runs), arm.column("validation")
            if own.empty:
                continue
            if own[column].isna().any():
                raise ValueError(
                    f"{column} of {arm.name} on {place[0]} is null; accepted: a sweep with "
                    "validation images (data: validation)"
                )
            groups = own.groupby(["gamma", RATE], dropna=False)[[column]]
            medians = groups.median().reset_index()
            best = medians.sort_values([column, "gamma", RATE], ascending=[False, True, True])
            rate, gamma, accuracy = (float(best[key].iloc[0]) for key in (RATE, "gamma", column))
            chosen = None if math.isnan(gamma) else gamma
            found.append(Choice(*place, arm.name, rate, chosen, accuracy))
    return found


def products(
    choices: list[Choice], beside: Mapping[int, Mapping[str, Any]]
) -> Iterator[dict[str, list[Any]]]:
    """A sweep's products that train what was chosen; what two arms share comes once.

    beside: by the number of training images, keys whose value goes with it, such as the epochs.
    """
    seen = set()
    for choice in choices:
        arm = ARMS[choice.arm]
        values = {
            **dict(zip(CELL, (choice.data, choice.images), strict=True)),
            **beside[choice.images],
            RATE: choice.rate,
            SCHEDULE: arm.schedule,
            PERTURBATION: arm.perturbation,
            "grid.modes": [arm.mode],
            "grid.gammas": [0.0 if choice.gamma is None else choice.gamma],
        }
        told = tuple(cell(value) for value in values.values())
        if told not in seen:
            seen.add(told)
            yield {key: [value] for key, value in values.items()}
