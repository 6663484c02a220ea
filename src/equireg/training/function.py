"""What networks do to images: their loss and accuracy, and what a turn of an image changes.

Runs are told apart by a leading axis; a tally adds up image by image, so that any number fits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from equireg.native import UnavailableError
from equireg.settings import JobSettings
from equireg.training.compiled import CompiledForward
from equireg.training.network import Network
from equireg.training.step import Trainable
from equireg.training.trainers import choose

# images (count, ...) as they are stored -> outputs (runs, count, ...)
Forward = Callable[[Tensor], Tensor]


def forward_of(
    network: Trainable, weights: Mapping[str, Tensor], images: Tensor, jobs: JobSettings
) -> Forward:
    """The networks of some runs, compiled where they can be.

    weights: (runs, *shape) per parameter and buffer, on the device of ``images``.
    """

    def compiled() -> Forward:
        if not isinstance(network, Network):
            raise UnavailableError("the network is a module of its own (network: build)")
        return CompiledForward(network, weights, images, jobs.threads)

    step = jobs.step if images.device.type == "cpu" else "reference"
    return choose(step, compiled, lambda: reference_forward(network, weights))


def reference_forward(network: Trainable, weights: Mapping[str, Tensor]) -> Forward:
    """The networks of the runs, on the device of their weights."""
    runs = len(next(iter(weights.values())))

    def forward(images: Tensor) -> Tensor:
        inputs = images / 255.0 if images.dtype == torch.uint8 else images
        with torch.no_grad():
            return network.forward(weights, inputs.expand(runs, *images.shape))

    return forward


def turned_outputs(network: Trainable, forward: Forward, images: Tensor) -> Tensor:
    """rho(g)^-1 Phi(g x) of the elements g compared, (elements, runs, count, ...), e first."""
    turns = network.orbit(images).view(len(images), network.turns, *images.shape[1:])
    return network.back(torch.stack([forward(some) for some in turns.unbind(1)]))


class Tally:
    """Sums over images of what some networks' outputs are like."""

    def __init__(self, network: Trainable) -> None:
        self.network, self.count = network, 0
        self.parts: dict[str, list[Tensor]] = {}

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Some more images: outputs (elements, runs, count, ...) as ``turned_outputs`` gives them.

        Of the identity alone for what is invariant. targets: (count,) classes, or (count, ...)
        numbers, of which there is no accuracy.
        """
        upright, classes = outputs[0], not targets.is_floating_point()
        truth = (targets.long() if classes else targets).expand(len(upright), *targets.shape)
        each, others = range(2, outputs.ndim), max(self.network.turns - 1, 1)
        found = {
            "loss": self.network.loss(upright, truth).double().sum(1),
            "spread": (outputs[1:] - upright).square().double().sum((0, *each)),
            "size": upright.square().double().sum([axis - 1 for axis in each]) * others,
        }
        if classes:
            predicted = outputs.argmax(-1)  # (elements, runs, images)
            found["right"] = (predicted == truth).sum(2)
            found["changed"] = (predicted[1:] != predicted[0]).sum((0, 2))
        for name, value in found.items():
            self.parts.setdefault(name, []).append(value)
        self.count += len(targets)

    def results(self) -> dict[str, Tensor | None]:
        """Per run, (runs,) float64 each, on the CPU; None for what regressions have not.

        loss and accuracy on the upright images; accuracy_turned over all turns by the group;
        prediction_change, the share of (image, element other than the identity) whose predicted
        class is not the upright image's; equivariance_error, the root of the mean of
        |Phi(g x) - Phi(x)|^2 over these pairs, over that of |Phi(x)|^2 (``Equivariance.error``).
        """
        sums = {
            name: torch.stack(parts).sum(0).double().cpu() for name, parts in self.parts.items()
        }
        others = max(self.network.turns - 1, 1)
        rights = sums["right"] / self.count if "right" in sums else None
        return {
            "loss": sums["loss"] / self.count,
            "accuracy": None if rights is None else rights[0],
            "accuracy_turned": None if rights is None else rights.mean(0),
            "prediction_change": None
            if rights is None
            else sums["changed"] / (self.count * others),
            "equivariance_error": (sums["spread"] / sums["size"]).sqrt(),
        }
