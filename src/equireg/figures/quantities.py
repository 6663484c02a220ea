"""What is shown of trained networks: columns of the evaluation, medians over seeds, intervals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from equireg.tables import open_parquet


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


def read(path: Path) -> pd.DataFrame:
    """The columns needed of an evaluation, a row per run."""
    columns = ["mode", "gamma", "seed", *(quantity.column for quantity in QUANTITIES)]
    with open_parquet(path, columns) as file:
        table: pd.DataFrame = file.read(columns=columns).to_pandas()
        for column in (loss.column for loss in LOSSES):
            if column in file.schema_arrow.names:
                table[column] = file.read(columns=[column]).to_pandas()
    return table.astype({"mode": str})
