"""Gradients and Hessian-vector products outside E, taken with the training step.

A training step of size 1 without a penalty subtracts the gradient. So whatever trains a network
here, the compiled step above all, differentiates it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from equireg.symmetry.spaces import Space
from equireg.training.step import Runs, Trainer

DISPLACEMENT = 0.02  # |A - A_E| of the difference quotients; |A_E| is about 10

Stepper = Callable[[Runs], Trainer]  # trains on the mean cross entropy itself


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

    def runs(self, twin: Mapping[str, Tensor], outside: np.ndarray) -> Runs:
        """Runs at ``twin``'s part in E and these coordinates outside."""
        parts = torch.from_numpy(outside).split([s.dims[1] for s in self.spaces.values()], 1)
        inside = {
            name: space.coordinates(twin[name].double().cpu())[0]
            for name, space in self.spaces.items()
        }
        return Runs(inside, dict(zip(self.spaces, parts, strict=True)))

    def gradient(
        self,
        stepper: Stepper,
        twin: Mapping[str, Tensor],
        outside: np.ndarray,
        rows: Tensor,
        labels: Tensor,
    ) -> np.ndarray:
        """Pi_{E-perp} of the gradient of the mean cross entropy, (runs, dimension).

        twin: weights whose part in E is taken, (runs, *shape) each; outside: (runs, dimension);
        rows, labels: (runs, images).
        """
        trainer = stepper(self.runs(twin, outside))
        before = {name: weight.double() for name, weight in trainer.weights().items()}
        one = torch.ones(len(rows), 1, device=rows.device)
        trainer.advance(rows.unsqueeze(1), labels.unsqueeze(1), 0 * one, one)
        after = trainer.weights()
        return self.flatten({name: weight - after[name] for name, weight in before.items()})

    def curvature(
        self,
        stepper: Stepper,
        twin: Mapping[str, Tensor],
        directions: np.ndarray,
        rows: Tensor,
        labels: Tensor,
    ) -> np.ndarray:
        """H Y at ``twin`` for several Y each, (directions, runs, dimension), on the same images.

        The block of the Hessian outside E, by central differences of gradients.
        """
        count = 2 * len(directions)
        norms = np.maximum(np.linalg.norm(directions, axis=-1, keepdims=True), 1e-300)
        moved = DISPLACEMENT * directions / norms
        gradients = self.gradient(
            stepper,
            {name: torch.cat([weight] * count) for name, weight in twin.items()},
            np.concatenate([*moved, *-moved]),
            rows.repeat(count, 1),
            labels.repeat(count, 1),
        )
        plus, minus = gradients.reshape(2, *directions.shape)
        return np.asarray((plus - minus) / (2 * DISPLACEMENT) * norms)
