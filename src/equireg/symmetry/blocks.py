"""The parts of a tensor on which E is found alone: a choice of summands on each axis."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equireg.symmetry.invariants import Invariants
from equireg.symmetry.representations import Representation


@dataclass(frozen=True, eq=False)
class Block:
    """The parts of a tensor whose axes carry the same kinds of summands.

    summands: one per axis, of d_1, d_2, ... entries; places: per axis, where their entries are,
    (copies_i, d_i), or None where the summand's copies fill the axis in order; inside: E and its
    complement among the d_1 d_2 ... entries of one choice of copies.
    """

    summands: tuple[Representation, ...]
    copies: tuple[int, ...]
    places: tuple[np.ndarray | None, ...]
    inside: Invariants

    @property
    def count(self) -> int:
        """How many choices of copies there are."""
        return math.prod(self.copies)

    def rows(self, x: Tensor) -> Tensor:
        """(..., *sizes) -> (..., *copies, d): the part that lies here, a row per choice."""
        axes = len(self.places)
        for axis, places in zip(range(-axes, 0), self.places, strict=True):
            if places is not None:
                index = torch.from_numpy(places.reshape(-1)).to(x.device)
                x = x.index_select(axis, index)
        lead = x.ndim - axes
        sizes = zip(self.copies, self.summands, strict=True)
        pairs = [n for copies, summand in sizes for n in (copies, summand.size)]
        x = x.reshape(*x.shape[:lead], *pairs)
        order = [*range(lead), *range(lead, x.ndim, 2), *range(lead + 1, x.ndim, 2)]
        return x.permute(order).flatten(-axes)

    def tensor(self, rows: Tensor) -> Tensor:
        """The inverse of ``rows``, with the entries of this block alone, (..., *sizes)."""
        axes = len(self.places)
        lead = rows.ndim - axes - 1
        x: Tensor = rows.unflatten(-1, [summand.size for summand in self.summands])
        order = [
            lead + i for pair in zip(range(axes), range(axes, 2 * axes), strict=True) for i in pair
        ]
        x = x.permute([*range(lead), *order])
        sizes = [
            copies * summand.size
            for copies, summand in zip(self.copies, self.summands, strict=True)
        ]
        return x.reshape(*x.shape[:lead], *sizes)

    def place_(self, whole: Tensor, part: Tensor) -> None:
        """Write the entries of this block into a tensor of the layer's size, in place."""
        index: list[Tensor | slice] = []
        axes = len(self.places)
        for i, places in enumerate(self.places):
            size = whole.shape[i - axes]
            flat = np.arange(size) if places is None else places.reshape(-1)
            shape = [1] * axes
            shape[i] = len(flat)
            index.append(torch.from_numpy(flat).view(shape).to(whole.device))
        whole[(..., *index)] = part
