"""Tensors of which only some last axes move, as the pixels of a grid of any size; or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from equireg.library.blocks import on_grid
from equireg.library.features import Action
from equireg.symmetry.groups import Group


@dataclass(frozen=True)
class Pixels:
    """The last axes of a tensor are pixels, of a grid of any size; the others stay.

    axes: how many; 0 for a tensor that stays as it is, whatever its shape.
    """

    group: Group
    axes: int

    def action(self, shape: Sequence[int]) -> Action:
        """The same for this shape. Raises ValueError if the group does not map it to itself."""
        space = tuple(shape[len(shape) - self.axes :])
        places = tuple(range(len(shape) - self.axes, len(shape)))
        return Action.on(self.group, shape, {places: on_grid(self.group, space)} if space else {})
