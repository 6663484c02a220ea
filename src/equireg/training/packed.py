"""The state of a block of runs in the layout of the compiled steps.

A layer's weights lie in lines of numbers side by side, entry by entry of its grid, so that the
group permutes lines as a whole. Channels that are fields of a representation are sorted by the
field's entry first, by the field second: then a line runs over the fields.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from equireg.native import UnavailableError
from equireg.symmetry.spaces import Space
from equireg.training.layers import POOLING, Layer, Packing
from equireg.training.network import Network
from equireg.training.step import Runs


class Sizes(NamedTuple):
    """A network that the compiled steps take: what their source is compiled for."""

    channels: tuple[int, ...]
    side: int
    kernel: int
    classes: int

    @classmethod
    def of(cls, network: Network) -> Sizes:
        """The sizes of a network; UnavailableError, saying why, if it is of another kind."""
        kinds = [packing_of(layer).operation for layer in network.layers]
        if kinds != ["pooled convolution"] * (len(kinds) - 1) + ["linear"] or len(kinds) < 2:
            raise UnavailableError(
                f"the layers are {', '.join(kinds)}, not pooled convolutions and a linear one"
            )
        *filters, last = (space.shape for space in network.spaces.values())
        if len({shape[-1] for shape in filters}) > 1:
            raise UnavailableError(f"filters have sides {[shape[-1] for shape in filters]}")
        if filters[0][1] != 1:
            raise UnavailableError(f"images have {filters[0][1]} channels, not 1")
        fields = [(_fields(space, 0), _fields(space, 1)) for space in network.spaces.values()]
        if any(rows != columns for (rows, _), (_, columns) in itertools.pairwise(fields)):
            raise UnavailableError("the channels of its layers do not follow on each other")
        if fields[-1][0][1] != 1:
            raise UnavailableError("its outputs are fields of several numbers")
        side = last[-1] * POOLING ** len(filters)
        return cls(tuple(shape[0] for shape in filters), side, filters[0][-1], last[0])


def check_images(images: Tensor, network: Sizes) -> None:
    """Raise UnavailableError for images that a compiled step would read as something else."""
    wanted = 1, network.side, network.side
    if images.shape[1:] != wanted or images.dtype != torch.uint8:
        raise UnavailableError(
            f"images are {tuple(images.shape[1:])} of {images.dtype}, not {wanted} of torch.uint8"
        )


def _fields(space: Space, axis: int) -> tuple[int, int]:
    """How the channels of an axis are sorted: so many fields of so many channels each."""
    if len(space.blocks) > 1:
        raise UnavailableError("E is not spanned by orbits of the weights")
    block = space.blocks[0]
    return block.copies[axis], block.summands[axis].size


def packing_of(layer: Layer) -> Packing:
    """How kernels hold a layer. Raises UnavailableError for one that they do not take."""
    packing = layer.packing()
    if packing is None or len(layer.spaces) != 1:
        raise UnavailableError(f"{', '.join(layer.spaces)} is a layer that it does not know")
    return packing


@dataclass(frozen=True, eq=False)
class Lines:
    """How a layer's weights lie in lines, and which of them the group permutes.

    count lines of width numbers; orbits: the lines of each, those that span E first, in the order
    of their coordinates; inside: how many span E. The others are cut by the support.
    """

    space: Space
    packing: Packing
    count: int
    width: int
    orbits: list[np.ndarray]
    inside: int

    @classmethod
    def of(cls, space: Space, packing: Packing) -> Lines:
        """The lines of a space whose channels are fields of one kind, which the group permutes.

        Raises UnavailableError for any other.
        """
        found = space.orbits()
        if found is None or any(places is not None for places in space.blocks[0].places):
            raise UnavailableError("E is not spanned by orbits of the weights")
        whole, cut = found
        (rows, columns, _), sizes = space.blocks[0].copies, space.blocks[0].summands
        shape = tuple(summand.size for summand in sizes)
        row, column, entry = np.unravel_index(np.arange(math.prod(shape)), shape)
        outer, inner, fields, width = column, row, columns, rows
        entries = shape[1], shape[0]
        if packing.innermost == "columns":
            outer, inner, fields, width = row, column, rows, columns
            entries = shape[0], shape[1]
        if entries[1] == 1:  # a line runs over the outer fields, too
            fields, width = 1, fields * width
        first = (entry * entries[0] + outer) * fields * entries[1] + inner
        lines = first + np.arange(fields)[:, None] * entries[1]  # of each outer field
        each = [lines[field, orbit] for orbit in whole for field in range(fields)]
        left = [lines[field, cut] for field in range(fields)]
        count = math.prod(shape) * fields
        return cls(space, packing, count, width, [*each, *left], len(each))

    def pack(self, weights: Tensor) -> Tensor:
        """(runs, *shape) -> (runs, count * width), float32."""
        (rows, columns, _), summands = self.space.blocks[0].copies, self.space.blocks[0].summands
        parts = rows, summands[0].size, columns, summands[1].size, -1
        x = weights.reshape(len(weights), *parts)
        return x.permute(0, 5, *self._order).flatten(1).float()

    def unpack(self, packed: Tensor) -> Tensor:
        """The weights from ``pack``."""
        (rows, columns, _), summands = self.space.blocks[0].copies, self.space.blocks[0].summands
        parts = rows, summands[0].size, columns, summands[1].size
        order = self._order
        x = packed.view(len(packed), -1, *(parts[axis - 1] for axis in order))
        back = [2 + order.index(axis) for axis in (1, 2, 3, 4)]
        return x.permute(0, *back, 1).reshape(len(packed), *self.space.shape)

    @property
    def _order(self) -> tuple[int, int, int, int]:
        """The axes of channels, of (fields, entries) of rows and columns, outermost first."""
        return (4, 3, 2, 1) if self.packing.innermost == "rows" else (2, 1, 4, 3)

    def pack_inside(self, coordinates: Tensor) -> Tensor:
        """Coordinates in E, (runs, dims[0]) -> (runs, len(orbits) * width), float32.

        One coordinate more per choice of fields is of the entries that have no part in E.
        """
        rows, columns, _ = self.space.blocks[0].copies
        x = F.pad(coordinates.reshape(len(coordinates), rows, columns, -1), (0, 1))
        order = (3, 2, 1) if self.packing.innermost == "rows" else (3, 1, 2)
        return x.permute(0, *order).flatten(1).float()


class Packed:
    """What the compiled trainers hold, float32: see ``step.Trainer`` for the calls.

    inside: coordinates in E; outside: the part outside E itself; whole: the weights; (runs, any)
    each; squares: (runs, parameters), the squared distances to E; scale: of the risk.
    """

    def __init__(self, network: Network, runs: Runs, images: Tensor, scale: float) -> None:
        self.sizes = Sizes.of(network)
        check_images(images, self.sizes)
        self.images, self.scale = images.contiguous(), scale
        self.network, self.lines = network, lines_of(network)
        whole, outside, inside = [], [], []
        for name, lines in self.lines.items():
            a, b = runs.equivariant[name], runs.complement[name]
            # run by run, as in start.coordinates
            pairs = list(zip(a, b, strict=True))
            beside = torch.stack([lines.space.weight(torch.zeros_like(x), y) for x, y in pairs])
            within = torch.stack([lines.space.weight(x, torch.zeros_like(y)) for x, y in pairs])
            outside.append(lines.pack(beside))
            whole.append(lines.pack(within + beside))
            inside.append(lines.pack_inside(a))
        self.outside, self.whole, self.inside = (
            torch.cat(parts, 1).contiguous() for parts in (outside, whole, inside)
        )
        self.squares = runs.distances()[:, 1:].square().float().contiguous()

    def scale_of_an_image(self, batch: int) -> float:
        """By which an image's gradient counts: the batch's mean, times the scale of the risk."""
        return float(np.float32(self.scale) / np.float32(batch))

    def weights(self) -> dict[str, Tensor]:
        return unpacked_weights(self.lines, self.whole)

    def distances(self) -> Tensor:
        return with_total(self.squares)

    def state(self) -> dict[str, Tensor]:
        return {name: held.cpu() for name, held in self._held().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, held in self._held().items():
            held.copy_(state[name])

    def _held(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("inside", "outside", "whole", "squares")}


def lines_of(network: Network) -> dict[str, Lines]:
    """How each parameter lies in lines. Raises UnavailableError for a layer that kernels refuse."""
    return {
        name: Lines.of(space, packing_of(layer))
        for layer in network.layers
        for name, space in layer.spaces.items()
    }


def packed_weights(lines: Mapping[str, Lines], weights: Mapping[str, Tensor]) -> Tensor:
    """The order of the compiled steps: (runs, *shape) per parameter -> (runs, all of it)."""
    return torch.cat([held.pack(weights[name]) for name, held in lines.items()], 1).contiguous()


def unpacked_weights(lines: Mapping[str, Lines], packed: Tensor) -> dict[str, Tensor]:
    """The weights from ``packed_weights``."""
    parts = packed.split([held.count * held.width for held in lines.values()], 1)
    return {
        name: held.unpack(part) for (name, held), part in zip(lines.items(), parts, strict=True)
    }


def with_total(squares: Tensor) -> Tensor:
    """Distances, in total and per layer, (..., 1 + layers), from their squares per layer."""
    return torch.cat([squares.sum(-1, keepdim=True), squares], -1).sqrt()
