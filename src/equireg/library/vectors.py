"""Vectors on a pixel grid, with their components in an order that is said."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from equireg.symmetry.groups import Group
from equireg.symmetry.representations import Representation, from_generators

Order = Literal["ij", "xy", "xy up"]


def vectors(group: Group, order: Order) -> Representation:
    """A point group on the components of vectors of its grid, in this order.

    order: "ij", along the pixels' axes, (row, column) in images and (depth, row, column) in
    volumes; "xy", the reverse, (x, y) with y downwards as in optical flow, (x, y, z); "xy up", (x,
    y) with y upwards, for images. A field of vectors is turned with its grid: its components move
    as this says, and its pixels as those of any image. Raises ValueError for other orders, and for
    groups that move no pixels.

    >>> from equireg.groups import point_group
    >>> quarter_turn = vectors(point_group("C4"), "xy up").generators[0]
    >>> quarter_turn.astype(int).tolist()  # (x, y) to (-y, x), counterclockwise as ``rot90``
    [[0, -1], [1, 0]]
    """
    axes = group.elements.shape[-1]
    if not group.moves_pixels:
        raise ValueError(f"{group.name} moves no pixels; accepted: point groups, such as C4")
    if order not in get_args(Order) or (order == "xy up" and axes != 2):
        raise ValueError(f"order is {order!r} in {axes} axes; accepted: ij, xy, xy up for images")
    to_order = np.eye(axes)
    if order != "ij":
        to_order = to_order[::-1].copy()
    if order == "xy up":
        to_order[1] *= -1
    name = f"vectors {order}"
    if not len(group.generators):
        return from_generators(group, [], name)
    steps = to_order @ group.generators @ to_order.T
    return from_generators(group, np.rint(steps).astype(int).tolist(), name)
