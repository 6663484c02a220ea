"""The ways to train that the study compares, and their runs in a sweep's table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from equireg.settings import Mode

Form = Literal["trained", "projected", "averaged"]

CELL = ["data.name", "data.train_images"]  # the keys of a sweep that say what is learned
RATE = "training.learning_rate"
# The keys that an arm is told by, besides mode and gamma.
SCHEDULE, PERTURBATION = "training.gamma_schedule", "training.perturbation"
NEAR, FREE = 0.01, 1.0  # noise, in a layer's initial weights in E: beside it, and far from it
RAMPS = (1.0, 10.0)  # gammas of the rising and the falling schedule


@dataclass(frozen=True)
class Arm:
    """A way to train, and the form in which its networks are tested.

    gammas: of which each cell takes the best on validation images; form: as trained, the weights
    projected onto E, or the outputs averaged over the group. The last two are invariant, as a
    network in E is.
    """

    name: str
    mode: Mode
    form: Form
    gammas: tuple[float, ...] = (0.0,)
    schedule: str = "constant"
    perturbation: float = NEAR

    def of(self, table: pd.DataFrame) -> pd.DataFrame:
        """Its runs in a table over a sweep, with every gamma and learning rate."""
        own = table[table["mode"] == self.mode]
        if self.mode == "equivariant":
            return own
        for key, value in ((SCHEDULE, self.schedule), (PERTURBATION, self.perturbation)):
            own = own[own[key] == value]
        return own[own["gamma"].isin(self.gammas)]

    def column(self, part: str, quantity: str = "accuracy") -> str:
        """The evaluation's column of a part of the data, ``test`` or ``validation``.

        >>> ARMS["in E"].column("test"), ARMS["augmented"].column("test")
        ('test_accuracy', 'test_projected_accuracy')
        """
        return f"{part}_{quantity}" if self.form == "trained" else f"{part}_{self.form}_{quantity}"


_EVERY = (
    Arm("in E", "equivariant", "trained"),
    Arm("augmented", "augmented", "projected"),
    Arm("penalized", "augmented", "projected", (0.01, 0.1, 1.0, 10.0)),
    Arm("rising", "augmented", "projected", RAMPS, "rising"),
    Arm("falling", "augmented", "projected", RAMPS, "falling"),
    Arm("nominal, averaged", "nominal", "averaged", (0.0, 0.1)),
    Arm("augmented, averaged", "augmented", "averaged", (0.0, 0.01, 0.1, 1.0, 10.0)),
    Arm("unconstrained, averaged", "augmented", "averaged", (0.0,), perturbation=FREE),
)
ARMS = {arm.name: arm for arm in _EVERY}
REFERENCE = ARMS["in E"]
# Only in the first is the network's hypothesis class that of the networks in E: a gain there is one
# of training. In the second only the symmetry of the function is.
FAMILIES = {
    "same hypothesis class": [a for a in _EVERY if a.form == "projected"],
    "same symmetry of the function": [a for a in _EVERY if a.form == "averaged"],
}


def cells(table: pd.DataFrame) -> Iterator[tuple[tuple[str, int], pd.DataFrame]]:
    """Data set and number of training images, with their runs, in the table's order."""
    for _, runs in table.groupby(CELL, sort=False):
        name, count = (runs[key].iloc[0] for key in CELL)
        yield (str(name), int(count)), runs
