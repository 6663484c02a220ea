"""A symmetry that holds in part: which way to train is best as less of the data has it?

A share of the digits is kept upright, in training and in testing; the others are turned by 0, 90,
180 or 270 degrees, so that a quarter of them are upright, too. Networks in E and augmented ones
ignore which way a digit stands; nominal ones may learn it, and the penalty says how much of that
they are let. Of nominal networks each share takes the gamma that does best on validation images.
Soft equivariance wins at a share if these test better, by the margin of ``verdicts`` and with a
p-value below 0.05, than networks in E and than augmented ones; p-values are adjusted by Holm over
all shares and both comparisons.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pandas as pd

from equireg.spelling import spell_gamma
from equireg.study.verdicts import POINTS, SHARE, Comparison, holm, paired

DATA = "data.name"
RIVALS = {"in E": "equivariant", "augmented": "augmented"}  # by their modes
BEST = "nominal, best gamma"


def share_of(data: str) -> int:
    """Percent of the images that are kept upright: of ``turned-mnist-25``, 25.

    Raises ValueError for other data.
    """
    match = re.fullmatch(r"turned-mnist-(\d+)", data)
    if not match:
        raise ValueError(f"{DATA} is {data}; accepted: turned-mnist-0, -25, -50, -75")
    return int(match[1])


def best_gamma(runs: pd.DataFrame) -> float:
    """Of nominal runs: the best median accuracy on validation images, of equal ones the smaller."""
    nominal = runs[runs["mode"] == "nominal"]
    if nominal.empty or nominal["validation_accuracy"].isna().any():
        raise ValueError(
            "runs have no nominal mode or no validation images; accepted: with both "
            "(data: validation)"
        )
    medians = nominal.groupby("gamma")["validation_accuracy"].median()
    return float(medians.index[medians == medians.max()].min())


def arms(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The runs of one share by arm, each indexed by seed."""
    nominal = runs[runs["mode"] == "nominal"]
    found = {name: runs[runs["mode"] == mode] for name, mode in RIVALS.items()}
    found["nominal, no penalty"] = nominal[nominal["gamma"] == 0]
    found[BEST] = nominal[nominal["gamma"] == best_gamma(runs)]
    for name, own in found.items():
        if own.empty or own["seed"].duplicated().any():
            raise ValueError(f"{name} has {len(own)} runs; accepted: one of each seed")
    return {name: own.set_index("seed").sort_index() for name, own in found.items()}


def compare(table: pd.DataFrame) -> dict[str, list[Comparison]]:
    """Nominal networks with the best gamma, against each rival, by share."""
    found: dict[str, list[Comparison]] = {name: [] for name in RIVALS}
    for data, runs in table.groupby(DATA):
        by_arm = arms(runs)
        errors = {name: 1 - own["test_accuracy"] for name, own in by_arm.items()}
        arm = f"nominal, gamma = {spell_gamma(float(by_arm[BEST]['gamma'].iloc[0]))}"
        for name, every in found.items():
            margin = max(POINTS, SHARE * float(errors[name].median()))
            cell = f"{data}, {name}", share_of(str(data))
            every.append(paired(cell, arm, errors[BEST], errors[name], margin))
    adjusted = iter(holm([c.p for every in found.values() for c in every]))
    return {k: [replace(c, adjusted=next(adjusted)) for c in v] for k, v in found.items()}


def wins(found: dict[str, list[Comparison]]) -> list[int]:
    """The shares, in percent, at which soft equivariance is better than every rival."""
    won = [{c.cell[1] for c in every if c.gains} for every in found.values()]
    return sorted(set.intersection(*won))
