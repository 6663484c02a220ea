"""Gradients and Hessian-vector products outside E, at networks in E."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from equireg.symmetry.spaces import Space
from equireg.training.step import Gradient

DISPLACEMENT = 0.02  # |A - A_E| of the difference quotients; |A_E| is about 10


class Outside:
    """The coordinates of the complement of E, of all layers end to end: (runs, dimension)."""

    def __init__(self, spaces: Mapping[str, Space]) -> None:
        self.spaces = spaces

    def flatten(self, weights: Mapping[str, Tensor]) -> np.ndarray:
        """The coordinates of the weights' part outside E, float64."""
        parts = [
            space.coordinates(weights[name].double().cpu())[1]
            for name, space in self.spaces.items()
        ]
        return torch.cat(parts, 1).numpy()

    def weights(self, outside: np.ndarray) -> dict[str, Tensor]:
        """The weights with no part in E and these coordinates outside; float64."""
        parts = torch.from_numpy(outside).split([s.dims[1] for s in self.spaces.values()], 1)
        return {
            name: space.weight(part.new_zeros(len(part), space.dims[0]), part)
            for (name, space), part in zip(self.spaces.items(), parts, strict=True)
        }

    def gradient(
        self, gradient: Gradient, twin: Mapping[str, Tensor], rows: Tensor, labels: Tensor
    ) -> np.ndarray:
        """Pi_{E-perp} of the gradient of the mean cross entropy, (runs, dimension).

        twin: weights in E, (runs, *shape) each; rows, labels: (runs, images).
        """
        return self.flatten(gradient(twin, rows, labels))

    def curvature(
        self,
        gradient: Gradient,
        twin: Mapping[str, Tensor],
        directions: np.ndarray,
        rows: Tensor,
        labels: Tensor,
    ) -> np.ndarray:
        """H Y at ``twin`` for several Y each, (directions, runs, dimension), on the same images.

        The block of the Hessian outside E, by central differences of gradients.
        """
        norms = np.maximum(np.linalg.norm(directions, axis=-1, keepdims=True), 1e-300)
        steps = DISPLACEMENT * directions / norms
        moved = self.weights(np.concatenate(list(steps)))
        both = {}
        for name, weight in twin.items():
            here = torch.cat([weight.double().cpu()] * len(steps))
            both[name] = torch.cat([here + moved[name], here - moved[name]])
        count = 2 * len(directions)
        found = self.flatten(gradient(both, rows.repeat(count, 1), labels.repeat(count, 1)))
        plus, minus = found.reshape(2, *directions.shape)
        return np.asarray((plus - minus) / (2 * DISPLACEMENT) * norms)
