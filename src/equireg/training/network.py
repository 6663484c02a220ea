"""The paper's network, for many runs at once, and the spaces of its layers.

(convolution, 2x2 average pooling, tanh, normalization over the pixels) once per entry of
``channels``, then one linear layer; no biases. Every tensor has a leading axis of runs: each run is
a network of its own with images of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from equireg.settings import NetworkSettings
from equireg.symmetry.groups import point_group
from equireg.symmetry.projections import LayerSpace, check_compatible

POOLING = 2


class Network:
    """An architecture L with a group G acting on its images; weights are passed in, not held.

    Raises ValueError if the pooling does not divide the image evenly (the grid would not be
    symmetric), if filters have no centre, or if the support violates the compatibility condition.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        self.settings = settings
        self.group = point_group(settings.group)
        if settings.kernel_size < 1 or settings.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {settings.kernel_size}; accepted: odd numbers")
        if not settings.channels or min(settings.channels) < 1:
            raise ValueError(
                f"channels are {list(settings.channels)}; accepted: one or more, positive"
            )
        shrink = POOLING ** len(settings.channels)
        if settings.image_size < shrink or settings.image_size % shrink:
            raise ValueError(
                f"image_size is {settings.image_size}; accepted: multiples of {shrink}, which "
                f"{len(settings.channels)} times {POOLING}x{POOLING} pooling divides evenly"
            )
        if not settings.allow_incompatible_support:
            check_compatible(self.group, settings.support, settings.kernel_size)

        kernel, side = settings.kernel_size, settings.image_size // shrink
        channels = (1, *settings.channels)
        self.layers: dict[str, LayerSpace] = {}
        for i, (fan_in, fan_out) in enumerate(zip(channels, settings.channels, strict=False), 1):
            shape = (fan_out, fan_in, kernel, kernel)
            self.layers[f"conv{i}"] = LayerSpace.build(shape, self.group, settings.support)
        shape = (settings.classes, channels[-1], side, side)
        self.layers["linear"] = LayerSpace.build(shape, self.group, "full")

    def to(self, *args: Any, **kwargs: Any) -> Network:
        """The same network with its bases moved as by ``Tensor.to``."""
        moved = object.__new__(Network)
        moved.settings, moved.group = self.settings, self.group
        moved.layers = {name: space.to(*args, **kwargs) for name, space in self.layers.items()}
        return moved

    def forward(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """The logits Phi_A(x), (runs, images, classes).

        weights: (runs, *layer.shape) per layer; images: (runs, images, side, side) in [0, 1].
        """
        runs, count = images.shape[:2]
        x = images.transpose(0, 1)  # runs side by side as channels: one grouped convolution
        for name in self.layers:
            if name == "linear":
                break
            x = torch.tanh(pooled_convolution(x, weights[name].flatten(0, 1), groups=runs))
            x = F.layer_norm(x, x.shape[-2:])
        features = x.reshape(count, runs, -1).transpose(0, 1)
        return features @ weights["linear"].flatten(2).mT


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
