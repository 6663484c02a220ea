"""A network is a list of layers on which a group acts; weights are passed in, not held.

``Network.of`` is the paper's: (convolution, 2x2 average pooling, tanh, normalization over the
pixels) once per entry of ``channels``, then one linear layer; no biases. Every tensor has a leading
axis of runs: each run is a network of its own with inputs of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

from equireg.settings import Distribution, NetworkSettings
from equireg.symmetry.groups import Group, point_group
from equireg.symmetry.representations import (
    Representation,
    check_one_group,
    regular,
    trivial,
)
from equireg.symmetry.spaces import Space
from equireg.training.batches import turned
from equireg.training.layers import POOLING, Layer, Linear, PooledConvolution


class Network:
    """An architecture L with a group G that acts on its inputs.

    group: it moves the pixels of the images, (channels, height, width) each, and leaves their
    channels as they are; layers: in order, the names of their parameters all different.
    """

    apart = False
    buffers: Mapping[str, Tensor] = {}

    def __init__(self, group: Group, layers: Sequence[Layer]) -> None:
        if len(group.algebra):
            raise ValueError(f"{group.name} is not finite; accepted: finite groups")
        self.group, self.layers = group, tuple(layers)
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
        group = point_group(settings.group)
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
        return cls(group, [*layers, Linear("linear", ends[-2], ends[-1], side)])

    def initial(self, seed: int, law: Distribution) -> dict[str, Tensor]:
        """Random weights in E, (*shape) float64 each: they depend on the seed alone."""
        found: dict[str, Tensor] = {}
        for layer in self.layers:
            found |= layer.initial(seed, law)
        return found

    def orbit(self, inputs: Tensor) -> Tensor:
        """Images (count, channels, height, width), each turned by every element."""
        return turned(inputs, self.group.elements)

    def target_orbit(self, targets: Tensor) -> None:
        """Classes stay as they are."""

    def back(self, outputs: Tensor) -> Tensor:
        """So do outputs."""
        return outputs

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


def features(group: Group, settings: NetworkSettings, width: int) -> Representation:
    """How the group acts on ``width`` channels: not at all, or on fields of as many as it has
    elements, each by the regular representation."""
    if settings.representation == "trivial":
        return trivial(group, width)
    field = regular(group)
    return field if width == group.order else (width // group.order) * field
