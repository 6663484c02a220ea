"""The training step: one for every mode, in orthonormal coordinates of E and of its complement.

Gradient descent on the coordinates is the projected flow of the paper's section II-B, and the
penalty of Theorem 3 is gamma/2 times the squared norm of the complement's coordinates b:

    a <- a - lr scale grad_a R            in E
    b <- b - lr (scale grad_b R + gamma b)      in E-perp; stays 0 in the equivariant mode

The distance to E is |b|, exact also where b is tiny against the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from equireg.symmetry.projections import LayerSpace
from equireg.training.network import Network


@dataclass
class Runs:
    """The state of a block of runs; every tensor has a leading axis of runs.

    equivariant, complement: coordinates per layer (see ``LayerSpace``); gamma: (runs,) penalties;
    free: (runs,) 1 where the complement is trained, 0 where it is frozen (the equivariant mode).
    """

    equivariant: dict[str, Tensor]
    complement: dict[str, Tensor]
    gamma: Tensor
    free: Tensor

    def weights(self, network: Network) -> dict[str, Tensor]:
        """The layers A, (runs, *shape) each."""
        return {
            name: space.weight(self.equivariant[name], self.complement[name])
            for name, space in network.layers.items()
        }

    def to(self, *args: Any, **kwargs: Any) -> Runs:
        """The same runs, moved as by ``Tensor.to``."""
        return Runs(
            {name: a.to(*args, **kwargs) for name, a in self.equivariant.items()},
            {name: b.to(*args, **kwargs) for name, b in self.complement.items()},
            self.gamma.to(*args, **kwargs),
            self.free.to(*args, **kwargs),
        )

    def distances(self) -> Tensor:
        """|Pi_{E-perp} A|: in total, then per layer; (runs, 1 + layers)."""
        squares = torch.stack([b.square().sum((1, 2, 3)) for b in self.complement.values()], 1)
        return torch.cat([squares.sum(1, keepdim=True), squares], 1).sqrt()


def start(
    network: Network,
    initial: Mapping[str, Tensor],
    noise: Mapping[str, Tensor] | None,
    gamma: Sequence[float],
) -> Runs:
    """Runs that start at ``initial`` weights in E, moved off it by ``noise``'s part in E-perp.

    noise None: the equivariant mode, whose complement is frozen at 0. The runs take the dtype of
    the network's bases. Raises ValueError if the initial weights do not lie in E.
    """
    equivariant, complement = {}, {}

    def coordinates(space: LayerSpace, weights: Tensor) -> tuple[Tensor, Tensor]:
        # Run by run: the sums in a product of matrices may depend on how many rows there are.
        each = [space.coordinates(weight) for weight in weights.to(space.equivariant)]
        inside, outside = zip(*each, strict=True)
        return torch.stack(inside), torch.stack(outside)

    for name, space in network.layers.items():
        inside, outside = coordinates(space, initial[name])
        if outside.norm() > 1e-5 * inside.norm():
            raise ValueError(
                f"the initial weights of {name} are {outside.norm() / inside.norm():.2g} of their "
                f"norm away from E of group {network.group.name}; draw them for this network"
            )
        if noise is None:
            complement[name] = torch.zeros_like(outside)
        else:
            complement[name] = coordinates(space, noise[name])[1]
        equivariant[name] = inside
    like = next(iter(equivariant.values()))
    free = torch.full((len(gamma),), float(noise is not None)).to(like)
    return Runs(equivariant, complement, torch.tensor(gamma).to(like), free)


def training_step(
    network: Network,
    runs: Runs,
    images: Tensor,
    labels: Tensor,
    learning_rate: float,
    scale: float,
) -> Tensor:
    """One step of gradient descent on ``scale`` times the risk plus the penalty, in place.

    images: (runs, batch, side, side); labels: (runs, batch). Returns what is recorded, before the
    update: (runs, 2 + layers), the mean cross entropy of the batch, unscaled and without the
    penalty, and the distances to E.
    """
    leaves = [*runs.equivariant.values(), *runs.complement.values()]
    for leaf in leaves:
        leaf.requires_grad_(True)
    logits = network.forward(runs.weights(network), images)
    entropy = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    loss = entropy.view(labels.shape).mean(1)
    gradients = torch.autograd.grad(scale * loss.sum(), leaves)

    with torch.no_grad():
        recorded = torch.cat([loss.unsqueeze(1), runs.distances()], 1)
        half = len(gradients) // 2
        for a, gradient in zip(leaves[:half], gradients[:half], strict=True):
            a.requires_grad_(False).sub_(learning_rate * gradient)
        gamma, rate = (x.view(-1, 1, 1, 1) for x in (runs.gamma, learning_rate * runs.free))
        for b, gradient in zip(leaves[half:], gradients[half:], strict=True):
            b.requires_grad_(False).sub_(rate * (gradient + gamma * b))
    return recorded


class Trainer(Protocol):
    """Trains a block of runs; every tensor that it takes or gives has a leading axis of runs."""

    def advance(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Train one step per batch; return what was recorded, (runs, steps, 2 + layers).

        rows, labels: (runs, steps, batch), which images and their classes. What is recorded, and
        the state after it, depend to the bit on the batches alone, not on how many calls they come
        in.
        """

    def weights(self) -> dict[str, Tensor]:
        """The layers A as they are now, (runs, *shape) each."""

    def distances(self) -> Tensor:
        """|Pi_{E-perp} A| as it is now: in total, then per layer; (runs, 1 + layers)."""

    def state(self) -> dict[str, Tensor]:
        """All that the steps to come depend on, as it is held; on the CPU, (runs, ...) each.

        Not copied where it is not moved: read it before the next step.
        """

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a ``state``, to the bit."""


class Reference:
    """Trains a block of runs with ``training_step``, on any device: see ``Trainer`` for its calls.

    images: (count, side^2) of uint8, the rows that batches name; network, runs and images lie on
    one device. ``scale`` multiplies the risk.
    """

    def __init__(
        self, network: Network, runs: Runs, images: Tensor, learning_rate: float, scale: float
    ) -> None:
        self.network, self.runs, self.images = network, runs, images
        self.learning_rate, self.scale = learning_rate, scale

    def advance(self, rows: Tensor, labels: Tensor) -> Tensor:
        pairs = zip(rows.unbind(1), labels.unbind(1), strict=True)
        return torch.stack([self.step(*pair) for pair in pairs], 1)

    def step(self, rows: Tensor, labels: Tensor) -> Tensor:
        """Train one step; rows, labels: (runs, batch). Returns as ``training_step`` does."""
        side, like = self.network.settings.image_size, self.runs.gamma
        images = self.images[rows].view(*rows.shape, side, side).to(like) / 255.0
        return training_step(
            self.network, self.runs, images, labels, self.learning_rate, self.scale
        )

    def weights(self) -> dict[str, Tensor]:
        return self.runs.weights(self.network)

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
