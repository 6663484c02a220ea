"""The training step: one for every mode, in orthonormal coordinates of E and of its complement.

Gradient descent on the coordinates is the projected flow of the paper's section II-B, and the
penalty of Theorem 3 is gamma/2 times the squared norm of the complement's coordinates b:

    a <- a - rate scale grad_a R                   in E
    b <- b - rate (scale grad_b R + gamma b)       in E-perp

A gamma of infinity means in E: b is 0 and stays so. It is a mask, never arithmetic, and it is what
the equivariant mode is. The distance to E is |b|, exact also where b is tiny against the weights.

Another optimizer puts its direction in the place of scale grad R, and leaves the penalty as it is:
decoupled from the optimizer. It works on entries; in E, on those of the projected gradient.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from equireg.symmetry.groups import Elements, Group
from equireg.symmetry.spaces import Space
from equireg.training.optimizers import COUNT, PLAIN, Optimizer, moments_of


class Trainable(Protocol):
    """A network as training sees it; every tensor has a leading axis of runs.

    group: of which E is; acting: what moves inputs, the same but for images under angles that are
    none of their grid; turns: by how many of its elements ``orbit`` moves them
    (``Group.compared``); listed: whether these are all. buffers: what changes in training beside
    the parameters, by name, as for one run; apart: whether runs are trained one after another.
    """

    group: Group
    acting: Group
    turns: int
    listed: bool
    apart: bool

    @property
    def spaces(self) -> Mapping[str, Space]:
        """TL = TE + TE-perp of each parameter."""

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        """See above."""

    def orbit(self, inputs: Tensor) -> Tensor:
        """Inputs (count, ...), each moved by the elements compared: (count * turns, ...)."""

    def target_orbit(self, targets: Tensor) -> Tensor | None:
        """The same of targets; None where the group leaves them as they are."""

    def back(self, outputs: Tensor) -> Tensor:
        """Outputs on inputs moved by each element, (turns, ...), moved back: alike if equivariant.

        (turns, runs, count, ...).
        """

    def move(self, inputs: Tensor, targets: Tensor, elements: Elements) -> tuple[Tensor, Tensor]:
        """Inputs (count, ...) and their targets, each moved by its own element."""

    def forward(
        self, weights: Mapping[str, Tensor], inputs: Tensor, training: bool = False
    ) -> Tensor:
        """The outputs, (runs, count, ...), for (runs, count, ...) inputs.

        weights: (runs, *shape) per parameter and buffer; training: buffers are changed in place.
        """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample, (runs, count)."""


@dataclass
class Runs:
    """The state of a block of runs: coordinates in E and in its complement.

    By parameter, (runs, dims[0]) and (runs, dims[1]): see ``Space.coordinates``. moments: what the
    optimizer keeps; buffers: what the network does, by name; (runs, ...) each.
    """

    equivariant: dict[str, Tensor]
    complement: dict[str, Tensor]
    moments: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)

    def weights(self, spaces: Mapping[str, Space]) -> dict[str, Tensor]:
        """The layers A, (runs, *shape) each."""
        return {
            name: space.weight(self.equivariant[name], self.complement[name])
            for name, space in spaces.items()
        }

    @property
    def parts(self) -> dict[str, dict[str, Tensor]]:
        """All that the runs hold, by kind and name."""
        return {
            "equivariant": self.equivariant,
            "complement": self.complement,
            "moments": self.moments,
            "buffers": self.buffers,
        }

    def to(self, *args: Any, **kwargs: Any) -> Runs:
        """The same runs, moved as by ``Tensor.to``; whole numbers stay such."""

        def moved(x: Tensor) -> Tensor:
            there = x.to(*args, **kwargs)
            return there if x.is_floating_point() else there.to(x.dtype)

        parts = self.parts.values()
        return Runs(*({name: moved(x) for name, x in held.items()} for held in parts))

    def run(self, i: int) -> Runs:
        """One of them, alone: views of what it holds, (1, ...) each."""
        parts = self.parts.values()
        return Runs(*({name: x[i : i + 1] for name, x in held.items()} for held in parts))

    def distances(self) -> Tensor:
        """|Pi_{E-perp} A|: in total, then per parameter; (runs, 1 + parameters)."""
        squares = torch.stack([b.square().sum(1) for b in self.complement.values()], 1)
        return torch.cat([squares.sum(1, keepdim=True), squares], 1).sqrt()


def training_step(
    network: Trainable,
    runs: Runs,
    inputs: Tensor,
    targets: Tensor,
    gamma: Tensor,
    rate: Tensor,
    scale: float,
    optimizer: Optimizer = PLAIN,
) -> Tensor:
    """One step of descent on ``scale`` times the risk plus the penalty, in place.

    inputs: (runs, batch, channels, height, width); targets: (runs, batch); gamma, rate: (runs,).
    Returns what is recorded, before the update: (runs, 2 + parameters), the mean loss of the batch,
    unscaled and without the penalty, and the distances to E.
    """
    weights = {name: w.detach() for name, w in runs.weights(network.spaces).items()}
    leaves = [weight.requires_grad_() for weight in weights.values()]
    outputs = network.forward({**weights, **runs.buffers}, inputs, training=True)
    loss = network.loss(outputs, targets).mean(1)
    gradients = torch.autograd.grad(scale * loss.sum(), leaves, materialize_grads=True)

    with torch.no_grad():
        recorded = torch.cat([loss.unsqueeze(1), runs.distances()], 1)
        count = runs.moments[COUNT].add_(1) if optimizer.parts else torch.empty(0)
        in_e, rate = gamma.isposinf().unsqueeze(1), rate.unsqueeze(1)
        # So that the moments of runs in E are in E; a graph of several runs asks no questions.
        projects = bool(optimizer.parts) and (not network.apart or bool(in_e.any()))
        pull = gamma.unsqueeze(1).masked_fill(in_e, 0) + optimizer.decay
        for (name, space), gradient in zip(network.spaces.items(), gradients, strict=True):
            if projects:
                masked = in_e.view(-1, *[1] * (gradient.ndim - 1))
                gradient = torch.where(masked, space.project(gradient), gradient)
            moments = {part: runs.moments[f"{part}.{name}"] for part in optimizer.parts}
            inside, outside = space.coordinates(optimizer.direction(gradient, moments, count))
            a, b = runs.equivariant[name], runs.complement[name]
            a.sub_(rate * (inside + optimizer.decay * a))
            b.sub_(rate * (outside + pull * b)).masked_fill_(in_e, 0)
    return recorded


def scaled(inputs: Tensor, like: Tensor) -> Tensor:
    """Pixels of bytes as numbers from 0 to 1; other inputs as they are."""
    return inputs.to(like) / 255.0 if inputs.dtype == torch.uint8 else inputs.to(like)


class Trainer(Protocol):
    """Trains a block of runs; every tensor that it takes or gives has a leading axis of runs."""

    def advance(self, rows: Tensor, targets: Tensor, gammas: Tensor, rates: Tensor) -> Tensor:
        """Train one step per batch; return what was recorded, (runs, steps, 2 + parameters).

        rows, targets: (runs, steps, batch), which inputs and their classes; in the place of rows
        inputs of their own, (runs, steps, batch, ...). gammas, rates: (runs, steps), the penalty
        and the learning rate of each step. What is recorded, and the state after it, depend to the
        bit on these alone, not on how many calls they come in.
        """

    def weights(self) -> dict[str, Tensor]:
        """The layers A, and the network's buffers, as they are now, (runs, *shape) each."""

    def distances(self) -> Tensor:
        """|Pi_{E-perp} A| as it is now: in total, then per parameter; (runs, 1 + parameters)."""

    def state(self) -> dict[str, Tensor]:
        """All that the steps to come depend on, as it is held; on the CPU, (runs, ...) each.

        Not copied where it is not moved: read it before the next step.
        """

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to a ``state``, to the bit."""


def named(images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The images and which of them batches have, (runs, steps, batch), for ``advance``."""
    if rows.ndim == 3:
        return images, rows
    count = rows.shape[:3]
    return rows.flatten(0, 2), torch.arange(math.prod(count), device=rows.device).view(count)


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

    def __init__(
        self,
        network: Trainable,
        runs: Runs,
        images: Tensor,
        scale: float,
        optimizer: Optimizer = PLAIN,
    ) -> None:
        self.network, self.runs, self.images, self.scale = network, runs, images, scale
        self.optimizer = optimizer
        if optimizer.parts and not runs.moments:
            runs.moments = moments_of(optimizer, runs.weights(network.spaces))
        count = len(next(iter(runs.equivariant.values())))
        self.each = [runs.run(i) for i in range(count)] if network.apart else []

    def advance(self, rows: Tensor, targets: Tensor, gammas: Tensor, rates: Tensor) -> Tensor:
        steps = zip(*(x.unbind(1) for x in (rows, targets, gammas, rates)), strict=True)
        return torch.stack([self.step(*step) for step in steps], 1)

    def step(self, rows: Tensor, targets: Tensor, gamma: Tensor, rate: Tensor) -> Tensor:
        """Train one step; rows, targets: (runs, batch). Returns as ``training_step`` does."""
        given = rows, targets, gamma, rate
        if not self.network.apart:
            return self._train(self.runs, *given)
        one = (x.split(1) for x in given)
        return torch.cat([self._train(*run) for run in zip(self.each, *one, strict=True)])

    def _train(
        self, runs: Runs, rows: Tensor, targets: Tensor, gamma: Tensor, rate: Tensor
    ) -> Tensor:
        """The same for some of the runs."""
        like = next(iter(runs.equivariant.values()))
        inputs = scaled(self.images[rows] if rows.ndim == 2 else rows, like)
        gamma, rate = gamma.to(like), rate.to(like)
        return training_step(
            self.network, runs, inputs, targets, gamma, rate, self.scale, self.optimizer
        )

    def weights(self) -> dict[str, Tensor]:
        return {**self.runs.weights(self.network.spaces), **self.runs.buffers}

    def distances(self) -> Tensor:
        return self.runs.distances()

    def state(self) -> dict[str, Tensor]:
        return {name: held.cpu() for name, held in self._held().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, held in self._held().items():
            held.copy_(state[name])

    def _held(self) -> dict[str, Tensor]:
        return {
            f"{part}.{name}": x
            for part, held in self.runs.parts.items()
            for name, x in held.items()
        }


class ReferenceGradient:
    """See ``Gradient``; images: (count, channels, height, width) of uint8, on any device."""

    def __init__(self, network: Trainable, images: Tensor) -> None:
        self.network, self.images = network, images

    def __call__(
        self, weights: Mapping[str, Tensor], rows: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        held = {
            name: weight.to(self.images.device, torch.float32).requires_grad_(True)
            for name, weight in weights.items()
        }
        outputs = self.network.forward(held, scaled(self.images[rows], next(iter(held.values()))))
        loss = self.network.loss(outputs, targets).mean(1).sum()
        found = torch.autograd.grad(loss, list(held.values()))
        return dict(zip(held, found, strict=True))
