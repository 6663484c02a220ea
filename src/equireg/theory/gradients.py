"""Gradients and Hessian-vector products outside E, taken with the training step.

A training step of size 1 without a penalty subtracts the gradient. So whatever trains a network
here, the compiled step above all, differentiates it too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from equireg.training.network import Network
from equireg.training.step import Runs, Trainer

DISPLACEMENT = 0.02  # |A - A_E| of the difference quotients; |A_E| is about 10

Stepper = Callable[[Runs], Trainer]  # trains with step size 1 and scale 1


class Outside:
    """The coordinates of the complement of E, of all layers end to end: (runs, dimension)."""

    def __init__(self, network: Network) -> None:
        self.network = network.to("cpu", torch.float64)

    def flatten(self, weights: Mapping[str, Tensor]) -> np.ndarray:
        """The coordinates of the weights' part outside E, float64."""
        parts = [
            space.coordinates(weights[name].double().cpu())[1].flatten(1)
            for name, space in self.network.layers.items()
        ]
        return torch.cat(parts, 1).numpy()

    def runs(self, twin: Mapping[str, Tensor], outside: np.ndarray) -> Runs:
        """Runs without a penalty at ``twin``'s part in E and these coordinates outside."""
        spaces = self.network.layers
        parts = torch.from_numpy(outside).split(
            [space.dimensions[1] for space in spaces.values()], 1
        )
        inside = {
            name: space.coordinates(twin[name].double().cpu())[0] for name, space in spaces.items()
        }
        complement = {
            name: part.reshape(len(part), *space.shape[:2], -1)
            for (name, space), part in zip(spaces.items(), parts, strict=True)
        }
        count = len(outside)
        return Runs(inside, complement, torch.zeros(count), torch.ones(count))

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
        trainer.advance(rows.unsqueeze(1), labels.unsqueeze(1))
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
            {name: weight.repeat(count, 1, 1, 1, 1) for name, weight in twin.items()},
            np.concatenate([*moved, *-moved]),
            rows.repeat(count, 1),
            labels.repeat(count, 1),
        )
        plus, minus = gradients.reshape(2, *directions.shape)
        return np.asarray((plus - minus) / (2 * DISPLACEMENT) * norms)
