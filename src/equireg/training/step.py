"""The training step: one for every mode, in orthonormal coordinates of E and of its complement.

Gradient descent on the coordinates is the projected flow of the paper's section II-B, and the
penalty of Theorem 3 is gamma/2 times the squared norm of the complement's coordinates b:

    a <- a - rate scale grad_a R                   in E
    b <- b - rate (scale grad_b R + gamma b)       in E-perp

A gamma of infinity means in E: b is 0 and stays so. It is a mask, never arithmetic, and it is what
the equivariant mode is. The distance to E is |b|, exact also where b is tiny against the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from equireg.symmetry.spaces import Space
from equireg.training.network import Network


@dataclass
class Runs:
    """The state of a block of runs: coordinates in E and in its complement.

    By parameter, (runs, dims[0]) and (runs, dims[1]): see ``Space.coordinates``.
    """

    equivariant: dict[str, Tensor]
    complement: dict[str, Tensor]

    def weights(self, spaces: Mapping[str, Space]) -> dict[str, Tensor]:
        """The layers A, (runs, *shape) each."""
        return {
            name: space.weight(self.equivariant[name], self.complement[name])
            for name, space in spaces.items()
        }

    def to(self, *args: Any, **kwargs: Any) -> Runs:
        """The same runs, moved as by ``Tensor.to``."""
        return Runs(
            {name: a.to(*args, **kwargs) for name, a in self.equivariant.items()},
            {name: b.to(*args, **kwargs) for name, b in self.complement.items()},
        )

    def distances(self) -> Tensor:
        """|Pi_{E-perp} A|: in total, then per parameter; (runs, 1 + parameters)."""
        squares = torch.stack([b.square().sum(1) for b in self.complement.values()], 1)
        return torch.cat([squares.sum(1, keepdim=True), squares], 1).sqrt()


def training_step(
    network: Network,
    runs: Runs,
    inputs: Tensor,
    targets: Tensor,
    gamma: Tensor,
    rate: Tensor,
    scale: float,
) -> Tensor:
    """One step of gradient descent on ``scale`` times the risk plus the penalty, in place.

    inputs: (runs, batch, channels, height, width); targets: (runs, batch); gamma, rate: (runs,).
    Returns what is recorded, before the update: (runs, 2 + parameters), the mean loss of the batch,
    unscaled and without the penalty, and the distances to E.
    """
    leaves = [*runs.equivariant.values(), *runs.complement.values()]
    for leaf in leaves:
        leaf.requires_grad_(True)
    loss = network.loss(network.forward(runs.weights(network.spaces), inputs), targets).mean(1)
    gradients = torch.autograd.grad(scale * loss.sum(), leaves)

    with torch.no_grad():
        recorded = torch.cat([loss.unsqueeze(1), runs.distances()], 1)
        half = len(gradients) // 2
        in_e, rate = gamma.isposinf().unsqueeze(1), rate.unsqueeze(1)
        gamma = gamma.unsqueeze(1).masked_fill(in_e, 0)
        for a, gradient in zip(leaves[:half], gradients[:half], strict=True):
            a.requires_grad_(False).sub_(rate * gradient)
        for b, gradient in zip(leaves[half:], gradients[half:], strict=True):
            b.requires_grad_(False).sub_(rate * (gradient + gamma * b)).masked_fill_(in_e, 0)
    return recorded


class Trainer(Protocol):
    """Trains a block of runs; every tensor that it takes or gives has a leading axis of runs."""

    def advance(self, rows: Tensor, targets: Tensor, gammas: Tensor, rates: Tensor) -> Tensor:
        """Train one step per batch; return what was recorded, (runs, steps, 2 + parameters).

        rows, targets: (runs, steps, batch), which inputs and their classes; gammas, rates:
        (runs, steps), the penalty and the learning rate of each step. What is recorded, and the
        state after it, depend to the bit on these alone, not on how many calls they come in.
        """

    def weights(self) -> dict[str, Tensor]:
        """The layers A as they are now, (runs, *shape) each."""

    def distances(self) -> Tensor:
        """|Pi_{E-perp} A| as it is now: in total, then per parameter; (runs, 1 + parameters)."""

    def state(self) -> dict[str, Tensor]:
        """All that the steps to come depend on, as it is held; on the CPU, (runs, ...) each.

        Not copied where it is not moved: read it before the next step.
        """

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a ``state``, to the bit."""


class Gradient(Protocol):
    """The gradients of the mean cross entropies of a block of networks."""

    def __call__(
        self, weights: Mapping[str, Tensor], rows: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        """At ``weights``, (runs, *shape) per parameter, and of these shapes.

        rows, targets: (runs, count), which images and their classes.
        """


class Reference:
    """Trains a block of runs with ``training_step``, on any device: see ``Trainer`` for its calls.

    images: (count, channels, height, width) of uint8, which the rows of batches name; runs and
    images lie on one device. ``scale`` multiplies the risk.
    """

    def __init__(self, network: Network, runs: Runs, images: Tensor, scale: float) -> None:
        self.network, self.runs, self.images, self.scale = network, runs, images, scale

    def advance(self, rows: Tensor, targets: Tensor, gammas: Tensor, rates: Tensor) -> Tensor:
        steps = zip(*(x.unbind(1) for x in (rows, targets, gammas, rates)), strict=True)
        return torch.stack([self.step(*step) for step in steps], 1)

    def step(self, rows: Tensor, targets: Tensor, gamma: Tensor, rate: Tensor) -> Tensor:
        """Train one step; rows, targets: (runs, batch). Returns as ``training_step`` does."""
        like = next(iter(self.runs.equivariant.values()))
        inputs = self.images[rows].to(like) / 255.0
        gamma, rate = gamma.to(like), rate.to(like)
        return training_step(self.network, self.runs, inputs, targets, gamma, rate, self.scale)

    def weights(self) -> dict[str, Tensor]:
        return self.runs.weights(self.network.spaces)

    def distances(self) -> Tensor:
        return self.runs.distances()

    def state(self) -> dict[str, Tensor]:
        return {name: held.cpu() for name, held in self._held().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, held in self._held().items():
            held.copy_(state[name])

    def _held(self) -> dict[str, Tensor]:
        parts = {"equivariant": self.runs.equivariant, "complement": self.runs.complement}
        return {f"{part}.{name}": x for part, held in parts.items() for name, x in held.items()}


class ReferenceGradient:
    """See ``Gradient``; images: (count, channels, height, width) of uint8, on any device."""

    def __init__(self, network: Network, images: Tensor) -> None:
        self.network, self.images = network, images

    def __call__(
        self, weights: Mapping[str, Tensor], rows: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        held = {
            name: weight.to(self.images.device, torch.float32).requires_grad_(True)
            for name, weight in weights.items()
        }
        outputs = self.network.forward(held, self.images[rows] / 255.0)
        loss = self.network.loss(outputs, targets).mean(1).sum()
        found = torch.autograd.grad(loss, list(held.values()))
        return dict(zip(held, found, strict=True))
