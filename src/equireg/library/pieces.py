"""Parts of a tensor that the group does not keep, but maps to one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from equireg.library.features import Action


@dataclass(frozen=True, eq=False)
class Piece(Action):
    """A part that was cut out of a tensor so that the group does not keep it.

    Side by side with the others it may be whole again: every other pixel, and those between. Alone
    it is taken for a grid of its size, which breaks the symmetry: where and why, for a warning.
    whole: what acts on the tensor ``base``; source: which of its entries these are.
    """

    whole: Action
    base: Tensor
    source: np.ndarray
    where: str
    why: str

    @property
    def alone(self) -> Action:
        """The same as any tensor's."""
        return Action(self.group, self.axes)
