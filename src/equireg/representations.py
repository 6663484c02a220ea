"""How a group acts on features; see ``equireg.symmetry.representations``."""

from equireg.library.vectors import vectors
from equireg.symmetry.compact import angular_momentum, frequency, lifted
from equireg.symmetry.representations import (
    Representation,
    defining,
    direct_sum,
    from_generators,
    grid,
    regular,
    trivial,
)

__all__ = [
    "Representation",
    "angular_momentum",
    "defining",
    "direct_sum",
    "frequency",
    "from_generators",
    "grid",
    "lifted",
    "regular",
    "trivial",
    "vectors",
]
