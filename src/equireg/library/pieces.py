"""What breaks the symmetry if it is used alone: parts of a tensor, products of vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from equireg.library.features import Action


@dataclass(frozen=True, eq=False)
class Loose(Action):
    """What acts on a tensor if it is used alone: then that breaks the symmetry, as is said.

    where, why: for the warning.
    """

    where: str
    why: str

    @property
    def alone(self) -> Action:
        """The same as any tensor's."""
        return Action(self.group, self.axes)


@dataclass(frozen=True, eq=False)
class Piece(Loose):
    """A part that was cut out of a tensor so that the group does not keep it.

    Side by side with the others it may be whole again: every other pixel, and those between. Alone
    it is taken for a grid of its size. whole: what acts on the tensor ``base``; source: which of
    its entries these are.
    """

    whole: Action
    base: Tensor
    source: np.ndarray


@dataclass(frozen=True, eq=False)
class Square(Loose):
    """Products, entry by entry, of vectors that matrices move; the sum of them is a number."""
