"""What acts on the pixels of a convolution's kernel."""

from __future__ import annotations

import functools
import itertools

import numpy as np

from equireg.library.blocks import Turn, turned
from equireg.symmetry.groups import Group
from equireg.symmetry.representations import Representation, from_generators


def on_kernel(group: Group, kernel: tuple[int, ...], turn: Turn | None = None) -> Representation:
    """The representation on a kernel's pixels whose invariants are the equivariant kernels.

    That on a grid, where the group maps the kernel to itself. Otherwise, as for 1 x 7 pixels under
    quarter turns, E is what is zero but on the pixels that stay within the kernel, and is moved on
    those as on a grid: the others are given a sign that is no invariant. This holds for channels
    that do not move. Raises ValueError for kernels that no pixel stays in, such as 1 x 2, and for
    those that the group does not map to themselves on a grid after a turn.

    >>> from equireg.symmetry.groups import point_group
    >>> from equireg.symmetry.spaces import Space
    >>> Space(on_kernel(point_group("C4"), (1, 3))).basis().tolist()
    [[0.0, 1.0, 0.0]]
    """
    try:
        return turned(group, kernel, turn)
    except ValueError:
        found = None if turn else _middle(group, kernel)
        if found is None:
            raise
        return found


def middle(group: Group, kernel: tuple[int, ...]) -> int:
    """The number of pixels of a kernel that can be other than zero in E."""
    return int(_kept(group, kernel)[0].sum())


def _kept(group: Group, kernel: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels all elements map to pixels of the kernel, and to which, (order, pixels)."""
    sides = np.array(kernel)
    centred = [2 * np.arange(side) - (side - 1) for side in kernel]
    pixels = np.stack(np.meshgrid(*centred, indexing="ij"), -1).reshape(-1, len(kernel))
    moved = pixels @ group.elements + (sides - 1)  # as in grid_permutations
    inside = ((moved >= 0) & (moved <= 2 * (sides - 1)) & (moved % 2 == 0)).all(-1)
    strides = np.cumprod([1, *kernel[:0:-1]])[::-1]
    return inside.all(0), moved // 2 @ strides


@functools.lru_cache(maxsize=256)
def _middle(group: Group, kernel: tuple[int, ...]) -> Representation | None:
    if group.elements.shape[-1] != len(kernel):
        return None
    kept, sources = _kept(group, kernel)
    if not kept.any():
        return None
    steps = group.cayley[:, 0]
    moved = np.zeros((len(steps), len(kept), len(kept)))
    for matrix, element in zip(moved, steps, strict=True):
        matrix[np.flatnonzero(kept), sources[element][kept]] = 1
    rest = np.flatnonzero(~kept)
    name = f"middle of {' x '.join(map(str, kernel))}"
    for signs in itertools.product((-1.0, 1.0), repeat=len(steps)):
        moved[:, rest, rest] = np.array(signs)[:, None]
        if min(signs) > 0:
            break
        try:
            return from_generators(group, moved, name)
        except ValueError:  # not a character of this group
            continue
    return None
