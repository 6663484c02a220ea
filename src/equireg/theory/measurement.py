"""A measured statement: what was measured, and whether it held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from equireg.theory.models import Model

Relation = Literal["<", ">"]

SCHEMA = pa.schema(
    [
        *(
            pa.field(name, pa.string(), nullable=False)
            for name in ("statement", "place", "network", "group", "support", "mode", "point")
        ),
        pa.field("gamma", pa.float64()),  # null: the statement has none
        pa.field("quantity", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("relation", pa.string(), nullable=False),
        pa.field("tolerance", pa.float64(), nullable=False),
        pa.field("held", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Measurement:
    """A row of the table: ``value`` is below or above ``tolerance``, or the statement fails."""

    statement: str
    place: str
    model: Model
    mode: str
    point: str
    quantity: str
    value: float
    relation: Relation
    tolerance: float
    gamma: float | None = None

    @property
    def held(self) -> bool:
        """Whether the value is on the side that the statement says; a NaN is on none."""
        if self.relation == "<":
            return self.value < self.tolerance
        return self.value > self.tolerance

    def row(self) -> dict[str, object]:
        """The row, by ``SCHEMA``."""
        return {
            "statement": self.statement,
            "place": self.place,
            "network": self.model.network,
            "group": self.model.group.name,
            "support": self.model.support,
            "mode": self.mode,
            "point": self.point,
            "gamma": self.gamma,
            "quantity": self.quantity,
            "value": self.value,
            "relation": self.relation,
            "tolerance": self.tolerance,
            "held": self.held,
        }


def table(measurements: list[Measurement]) -> pa.Table:
    """A row per measurement."""
    return pa.Table.from_pylist([m.row() for m in measurements], schema=SCHEMA)
