"""Score: how far the predicted distances to E are from the measured ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from equireg import binding
from equireg.binding import together, with_source, write_document
from equireg.digest import job_digest
from equireg.markdown import rows_of
from equireg.spelling import spell_gamma
from equireg.tables import open_parquet

POINTS = 60  # steps compared, about equally spaced on a logarithmic scale
FACTOR = 2.0  # how far off a prediction may be to count as near


@dataclass(frozen=True)
class Score:
    """A predicted curve beside the measured one, at compared ``steps``; (steps,) each.

    predicted, low, high: quantiles over the predicted seeds; measured: the median over all seeds.
    """

    steps: np.ndarray
    predicted: np.ndarray
    low: np.ndarray
    high: np.ndarray
    measured: np.ndarray

    @property
    def factors(self) -> np.ndarray:
        """max(predicted / measured, measured / predicted), 1 where they agree."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.exp(np.abs(np.log(self.predicted / self.measured))))

    @property
    def near_until(self) -> int:
        """The last compared step before the factor first exceeds ``FACTOR``; -1: at once."""
        far = np.flatnonzero(~(self.factors <= FACTOR))
        return int(([-1, *self.steps])[far[0] if len(far) else len(self.steps)])

    @property
    def inside(self) -> float:
        """The share of the compared steps at which low <= measured <= high."""
        return float(np.mean((self.low <= self.measured) & (self.measured <= self.high)))


def score(predictions: Path, summary: Path, output: Path) -> None:
    """Write a table with a row per mode and gamma: predicted and measured medians, and how far off.

    Raises ValueError where a table lacks a column, or the measured one a predicted curve.
    """
    predicted = read(predictions, ["mode", "gamma", "step", "seeds", "low", "median", "high"])
    measured = read(summary, ["mode", "gamma", "step", "seeds", "median"])
    joined = predicted.merge(
        measured, on=["mode", "gamma", "step"], suffixes=("", "_measured"), validate="1:1"
    )
    if len(joined) < len(predicted):
        raise ValueError(
            f"{summary} lacks runs or steps that {predictions} predicts; they are of different "
            "experiments"
        )
    made = with_source(together(predictions, summary), "score", job_digest("score"))
    why = binding.read(predictions).get("runs", {}).get("not_applicable", "")
    write_document(output, report(joined, why), made)


def read(path: Path, columns: list[str]) -> pd.DataFrame:
    """These columns of a table, its modes as text."""
    with open_parquet(path, columns) as file:
        frame: pd.DataFrame = file.read(columns=columns).to_pandas()
    return frame.astype({"mode": str})


def compared(curve: pd.DataFrame) -> Score:
    """The curve at about ``POINTS`` steps, evenly spaced on a log scale from 1 to the last."""
    curve = curve.sort_values("step")
    steps = curve["step"].to_numpy()
    wanted = np.geomspace(1, max(steps[-1], 1), POINTS)
    nearest = np.unique(np.abs(np.subtract.outer(wanted, steps)).argmin(1))
    kept = curve.iloc[nearest]
    return Score(
        steps[nearest],
        *(kept[name].to_numpy(float) for name in ("median", "low", "high", "median_measured")),
    )


def report(joined: pd.DataFrame, why: str = "") -> str:
    """The report, as Markdown; joined: a row per mode, gamma and step; why: there is none."""
    lines = ["# Figure 2, predicted from the equivariant runs", ""]
    if why:
        return "\n".join([*lines, f"Not applicable: {why}."]) + "\n"
    if joined.empty:
        return "\n".join([*lines, "Neither nominal nor augmented runs were predicted."]) + "\n"
    seeds, measured = int(joined["seeds"].max()), int(joined["seeds_measured"].max())
    lines += [
        f"Predicted: median and 10 to 90 % of the distance to E over {seeds} seeds. Measured: "
        f"median over {measured} seeds of the trained networks. A factor is the larger of the two "
        f"medians over the smaller, at {POINTS} steps or fewer, evenly spaced on a logarithmic "
        "scale from step 1 to the last.",
        "",
    ]
    head = ["gamma", "mode", "measured at the last step", "predicted", "10 to 90 %"]
    head += ["factor: median", "worst", f"within a factor {FACTOR:g} until step"]
    head += ["measured within 10 to 90 %"]
    rows = []
    for _, curve in joined.groupby(["gamma", "mode"]):
        one = compared(curve)
        cells = [
            spell_gamma(float(curve["gamma"].iloc[0])),
            str(curve["mode"].iloc[0]),
            f"{one.measured[-1]:.3g}",
            f"{one.predicted[-1]:.3g}",
            f"{one.low[-1]:.3g} to {one.high[-1]:.3g}",
            f"{np.median(one.factors):.3g}",
            f"{one.factors.max():.3g}",
            f"{one.near_until:,}" if one.near_until < one.steps[-1] else "the end",
            f"{one.inside:.0%}",
        ]
        rows.append(cells)
    return "\n".join([*lines, *rows_of(head, rows)])
