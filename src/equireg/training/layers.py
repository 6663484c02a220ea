"""The layers that networks are made of: what they compute, their spaces, how they start.

A layer is told apart by nothing but what it brings. A new kind is a class with these attributes;
where kernels cannot take it (``packing`` is None), the reference trains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from equireg.randomness import generator
from equireg.settings import Distribution, Support
from equireg.symmetry.groups import Group
from equireg.symmetry.representations import Representation, grid
from equireg.symmetry.spaces import Space, compatibility_defect

POOLING = 2


@dataclass(frozen=True)
class Packing:
    """How kernels hold a layer's weights, (rows, columns, *grid): grid entries outermost.

    operation: what the layer computes; innermost: which channels lie side by side, those of the
    rows or of the columns.
    """

    operation: Literal["pooled convolution", "linear"]
    innermost: Literal["rows", "columns"]


class Layer(Protocol):
    """One step of a network; every tensor has a leading axis of runs."""

    @property
    def spaces(self) -> Mapping[str, Space]:
        """TL = TE + TE-perp of each parameter, by its name, which no other layer has."""

    def initial(self, seed: int, law: Distribution) -> dict[str, Tensor]:
        """Random parameters in E for one run, (*shape) float64 each."""

    def forward(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """What the layer makes of x, (runs, count, ...), with parameters (runs, *shape)."""

    def packing(self) -> Packing | None:
        """How kernels hold it; None: they cannot."""


class PooledConvolution:
    """A padded convolution, 2 x 2 average pooling, tanh, and normalization over the pixels.

    rho_in, rho_out: how the group acts on the channels, by permutations, as tanh is taken entry by
    entry. Raises ValueError for filters that have no centre, and, unless ``incompatible``, for a
    support that violates the compatibility condition.
    """

    def __init__(
        self,
        name: str,
        rho_in: Representation,
        rho_out: Representation,
        kernel_size: int,
        support: Support = "full",
        incompatible: bool = False,
    ) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; accepted: odd numbers")
        if not incompatible:
            check_compatible(rho_in.group, support, kernel_size)
        self.name = name
        pixels = grid(rho_in.group, kernel_size)
        shape = (rho_out.size, rho_in.size, kernel_size, kernel_size)
        trained = support_mask(support, kernel_size)
        self.spaces = {name: Space(rho_out, rho_in, pixels, shape=shape, trained=trained)}

    def initial(self, seed: int, law: Distribution) -> dict[str, Tensor]:
        """Each orbit's entries alike, of variance 1 / (3 times the channels that come in).

        That is the variance of the authors' uniform entries; they count each orbit of a filter as
        a layer of its own.
        """
        space = self.spaces[self.name]
        fan_in = np.full(len(orbit_sizes(space)), space.axes[1].size)
        return {self.name: draw_orbits(space, fan_in, self.name, seed, law)}

    def forward(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """(runs, count, channels, height, width) -> the same, half as high and wide."""
        weight, runs = weights[self.name], len(x)
        x = x.transpose(0, 1).flatten(1, 2)  # runs side by side as channels: one convolution
        x = torch.tanh(pooled_convolution(x, weight.flatten(0, 1), groups=runs))
        if x.shape[-2:] == (1, 1):
            raise ValueError(
                f"{self.name} leaves a single pixel, which is always 0 after the normalization; "
                "accepted: larger images, or fewer layers"
            )
        x = F.layer_norm(x, x.shape[-2:])
        return x.view(len(x), runs, -1, *x.shape[2:]).transpose(0, 1)

    def packing(self) -> Packing:
        return Packing("pooled convolution", "rows")


class Linear:
    """A linear map from all channels and pixels to the outputs.

    rho_in: how the group acts on the channels; side: of the square of pixels that is left.
    """

    def __init__(
        self, name: str, rho_in: Representation, rho_out: Representation, side: int
    ) -> None:
        self.name = name
        pixels = grid(rho_in.group, side)
        shape = (rho_out.size, rho_in.size, side, side)
        self.spaces = {name: Space(rho_out, rho_in, pixels, shape=shape)}

    def initial(self, seed: int, law: Distribution) -> dict[str, Tensor]:
        """Each orbit's entries alike, of variance 1 / (3 fan_in).

        As the authors count: the orbits of one size together, fan_in = their number times the
        summands that come in, which are channels where the group leaves those as they are.
        """
        space = self.spaces[self.name]
        sizes = orbit_sizes(space)
        fan_in = space.blocks[0].copies[1] * (sizes[:, None] == sizes).sum(0)
        return {self.name: draw_orbits(space, fan_in, self.name, seed, law)}

    def forward(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """(runs, count, channels, side, side) -> (runs, count, outputs)."""
        return x.flatten(2) @ weights[self.name].flatten(2).mT

    def packing(self) -> Packing:
        return Packing("linear", "columns")


def pooled_convolution(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """A convolution that keeps the size, followed by 2x2 average pooling.

    Pooling commutes with the filter: this is the 2x2 mean at every place, then the filter at every
    second one, with a quarter of the multiplications.
    """
    padding = weight.shape[-1] // 2
    x = F.pad(x, (padding,) * 4)
    x = x[..., 1:, :] + x[..., :-1, :]
    x = (x[..., 1:] + x[..., :-1]) * (1 / POOLING**2)
    return F.conv2d(x, weight, stride=POOLING, groups=groups)


def orbit_sizes(space: Space) -> np.ndarray:
    """The sizes of the orbits that span E in one block.

    Raises ValueError where E is not spanned by orbits.
    """
    found = space.orbits()
    if found is None:
        names = " * ".join(axis.name for axis in space.axes)
        raise ValueError(f"{names} is not permuted in one kind of fields; accepted: permutations")
    return np.array([len(orbit) for orbit in found[0]], np.int64)


def draw_orbits(
    space: Space, fan_in: np.ndarray, name: str, seed: int, law: Distribution
) -> Tensor:
    """A random weight in E: one draw per choice of copies and orbit, of variance 1 / (3 fan_in).

    fan_in: per orbit of a block. float64, (*shape).
    """
    block, sizes = space.blocks[0], orbit_sizes(space)
    random = generator(seed, "initial weights", name)
    shape = (*block.copies, len(sizes))
    if law == "gaussian":
        draws = random.standard_normal(shape)
    else:
        draws = random.uniform(-np.sqrt(3), np.sqrt(3), shape)
    deviation = 1 / np.sqrt(3 * fan_in)
    # The orbit's normalized indicator has entries 1/sqrt(size), so its coordinate is sqrt(size) up.
    inside = torch.from_numpy(draws * deviation * np.sqrt(sizes)).flatten()
    return space.weight(inside, inside.new_zeros(space.dims[1]))


def support_mask(support: Support, size: int) -> np.ndarray:
    """Which entries of a size x size filter are trained; (size, size) of bool.

    full: all; cross: the middle row and column; lopsided: all but the last column, which
    every element but the identity moves.
    """
    mask = np.ones((size, size), bool)
    if support == "cross":
        middle = np.arange(size) == size // 2
        mask = middle[:, None] | middle[None, :]
    elif support == "lopsided":
        mask[:, -1] = False
    return mask


def check_compatible(group: Group, support: Support, size: int) -> None:
    """Raise ValueError if filters with this support violate the compatibility condition."""
    defect = compatibility_defect(Space(grid(group, size), trained=support_mask(support, size)))
    if defect > 1e-12:
        raise ValueError(
            f"support is {support!r}: the compatibility condition Pi_L Pi_G = Pi_G Pi_L is "
            f"violated (norm of the difference {defect:.3g}), because {group.name} moves entries "
            f"of the {size}x{size} filter out of its support; take a support that {group.name} "
            "maps to itself (full, cross), or set allow_incompatible_support: true"
        )
