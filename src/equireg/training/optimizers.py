"""What makes a step of a gradient: gradient descent, with momentum or without, and Adam.

An optimizer works entry by entry on the gradient of a parameter, (runs, *shape), and what it keeps
between steps, its moments, is a part of the runs. What it does not see is the penalty: that is
decoupled, as weight decay is in AdamW. For plain gradient descent the two are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from equireg.settings import TrainingSettings

COUNT = "count"  # of the steps that were taken, (runs,)


class Optimizer(Protocol):
    """See the module; ``parts`` names the moments that are kept of each parameter."""

    parts: tuple[str, ...]
    decay: float  # of all weights, decoupled

    def direction(self, gradient: Tensor, moments: Mapping[str, Tensor], count: Tensor) -> Tensor:
        """What is subtracted, times the rate, from a parameter; changes its moments in place.

        gradient, moments: (runs, *shape); count: (runs,), the steps taken, this one included.
        """


class Descent:
    """Gradient descent: m <- momentum m + gradient; the direction is m."""

    decay = 0.0

    def __init__(self, momentum: float = 0.0) -> None:
        self.momentum = momentum
        self.parts: tuple[str, ...] = ("momentum",) if momentum else ()

    def direction(self, gradient: Tensor, moments: Mapping[str, Tensor], count: Tensor) -> Tensor:
        if not self.momentum:
            return gradient
        return moments["momentum"].mul_(self.momentum).add_(gradient)


class Adam:
    """Adam, with the constants that PyTorch has: the mean of gradients over the root of squares."""

    parts: tuple[str, ...] = ("mean", "square")
    keep_mean, keep_square, epsilon = 0.9, 0.999, 1e-8

    def __init__(self, decay: float = 0.0) -> None:
        self.decay = decay

    def direction(self, gradient: Tensor, moments: Mapping[str, Tensor], count: Tensor) -> Tensor:
        mean, square = moments["mean"], moments["square"]
        mean.lerp_(gradient, 1 - self.keep_mean)
        square.mul_(self.keep_square).addcmul_(gradient, gradient, value=1 - self.keep_square)
        taken = count.double().view(-1, *[1] * (gradient.ndim - 1))
        unbiased = (square / (1 - self.keep_square**taken).to(square)).sqrt_()
        return mean / (1 - self.keep_mean**taken).to(mean) / unbiased.add_(self.epsilon)


PLAIN = Descent()


def optimizer_of(training: TrainingSettings) -> Optimizer:
    """The optimizer that a training names."""
    if training.optimizer == "sgd":
        return Descent(training.momentum)
    return Adam(training.weight_decay)


def moments_of(optimizer: Optimizer, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The moments before the first step, for weights (runs, *shape); none where none are kept."""
    if not optimizer.parts:
        return {}
    found = {
        f"{part}.{name}": torch.zeros_like(weight)
        for part in optimizer.parts
        for name, weight in weights.items()
    }
    like = next(iter(weights.values()))
    return {COUNT: torch.zeros(len(like), dtype=torch.int64, device=like.device), **found}
