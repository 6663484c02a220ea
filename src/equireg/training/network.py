"""A network is a list of layers on which a group acts; weights are passed in, not held.

``Network.of`` is the paper's: (convolution, 2x2 average pooling, tanh, normalization over the
pixels) once per entry of ``channels``, then one linear layer; no biases. Every tensor has a leading
axis of runs: each run is a network of its own with inputs of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from equireg.settings import ON_GRID, Distribution, NetworkSettings
from equireg.symmetry.compact import orthogonal, rotations
from equireg.symmetry.groups import Elements, Group, cyclic, dihedral, point_group
from equireg.symmetry.representations import (
    Representation,
    check_one_group,
    defining,
    from_generators,
    regular,
    trivial,
)
from equireg.symmetry.spaces import Space
from equireg.training.batches import interpolated, turned
from equireg.training.layers import POOLING, Layer, Linear, PooledConvolution

AT_ONCE = 1000  # images that are turned at a time; bounds the memory


class Network:
    """An architecture L with a group G that acts on its inputs.

    group: it moves the pixels of the images, (channels, height, width) each, and leaves their
    channels as they are; layers: in order, the names of their parameters all different. plane: of a
    larger group, how its elements turn images about their centre, on (row, column): those that do
    not map the grid to itself by interpolation.
    """

    apart = False
    buffers: Mapping[str, Tensor] = {}

    def __init__(
        self, group: Group, layers: Sequence[Layer], plane: Representation | None = None
    ) -> None:
        if len(group.algebra):
            raise ValueError(f"{group.name} is not finite; accepted: finite groups")
        self.group, self.layers, self.plane = group, tuple(layers), plane
        self.acting = plane.group if plane else group
        self.turns, self.listed = len(self.acting.compared), not len(self.acting.algebra)
        self.spaces: dict[str, Space] = {}
        for layer in self.layers:
            if twice := self.spaces.keys() & layer.spaces.keys():
                raise ValueError(f"two layers have a parameter {min(twice)}; accepted: one each")
            check_one_group(group, *(space.group for space in layer.spaces.values()))
            self.spaces |= layer.spaces

    @classmethod
    def of(cls, settings: NetworkSettings) -> Network:
        """The paper's kind of network, of these settings.

        Raises ValueError if the support violates the compatibility condition.
        """
        group = point_group(ON_GRID.get(settings.group, settings.group))
        ends = [
            trivial(group, settings.image_channels),
            *(features(group, settings, width) for width in settings.channels),
            trivial(group, settings.classes),
        ]
        layers: list[Layer] = [
            PooledConvolution(
                f"conv{i}",
                rho_in,
                rho_out,
                settings.kernel_size,
                settings.support,
                settings.allow_incompatible_support,
            )
            for i, (rho_in, rho_out) in enumerate(itertools.pairwise(ends[:-1]), 1)
        ]
        side = settings.image_size // POOLING ** len(layers)
        layers.append(Linear("linear", ends[-2], ends[-1], side))
        return cls(group, layers, plane_of(settings.group))

    def initial(self, seed: int, law: Distribution) -> dict[str, Tensor]:
        """Random weights in E, (*shape) float64 each: they depend on the seed alone."""
        found: dict[str, Tensor] = {}
        for layer in self.layers:
            found |= layer.initial(seed, law)
        return found

    def orbit(self, inputs: Tensor) -> Tensor:
        """Images (count, channels, height, width), each turned by the elements compared."""
        if self.plane is None:
            return turned(inputs, self.group.elements)
        matrices = self.plane.matrices_of(self.acting.compared)
        parts = [
            interpolated(
                part.repeat_interleave(self.turns, 0), np.tile(matrices, (len(part), 1, 1))
            )
            for part in inputs.split(AT_ONCE)
        ]
        return torch.cat(parts)

    def target_orbit(self, targets: Tensor) -> None:
        """Classes stay as they are."""

    def back(self, outputs: Tensor) -> Tensor:
        """So do outputs."""
        return outputs

    def move(self, inputs: Tensor, targets: Tensor, elements: Elements) -> tuple[Tensor, Tensor]:
        """Images, each turned by its own element; their classes stay."""
        matrices = self.group.elements[elements.index]
        if self.plane is not None:
            matrices = self.plane.matrices_of(elements)
        return interpolated(inputs, matrices), targets

    def forward(
        self, weights: Mapping[str, Tensor], inputs: Tensor, training: bool = False
    ) -> Tensor:
        """The outputs Phi_A(x), (runs, count, outputs).

        weights: (runs, *shape) per parameter; inputs: (runs, count, channels, height, width), in
        [0, 1].
        """
        for layer in self.layers:
            inputs = layer.forward(weights, inputs)
        return inputs

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The cross entropy of each sample, (runs, count); targets: its class, (runs, count)."""
        entropy = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
        return entropy.view(targets.shape)


def plane_of(name: str) -> Representation | None:
    """How a group turns the plane, if it has turns that do not map a grid of pixels to itself.

    >>> plane_of("C8").matrices[1].round(3).tolist()
    [[0.707, -0.707], [0.707, 0.707]]
    """
    if name not in ON_GRID:
        return None
    if name in ("SO(2)", "O(2)"):
        return defining(rotations(2) if name == "SO(2)" else orthogonal(2))
    turn = math.pi / 4
    rotation = [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
    if name == "C8":
        return from_generators(cyclic(8), [rotation], "plane")
    return from_generators(dihedral(8), [rotation, [[1, 0], [0, -1]]], "plane")


def features(group: Group, settings: NetworkSettings, width: int) -> Representation:
    """How the group acts on ``width`` channels: not at all, or on fields of as many as it has
    elements, each by the regular representation."""
    if settings.representation == "trivial":
        return trivial(group, width)
    field = regular(group)
    return field if width == group.order else (width // group.order) * field
