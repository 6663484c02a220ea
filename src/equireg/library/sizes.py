"""Sizes of images at which no layer breaks the symmetry of the grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

NEAR = 8  # how far from the example's, sizes that work are looked for


def working_size(example: Tensor, works: Callable[[Tensor], bool]) -> int | None:
    """The side nearest the example's for which ``works`` is true of such a batch; None if none.

    Tried on two samples, as some layers refuse one, and on no side below half of the example's: in
    the end a network has one pixel left, which every group leaves where it is.
    """
    for side in sides_near(max(example.shape[2:])):
        space = (side,) * (example.ndim - 2)
        try:
            if works(example.new_zeros(2, example.shape[1], *space)):
                return side
        except Exception:  # the network takes no images of this size
            continue
    return None


def sides_near(side: int) -> Iterator[int]:
    """The sides around this one, the nearest first."""
    for distance in range(1, NEAR + 1):
        for near in (side + distance, side - distance):
            if near > side // 2:
                yield near
