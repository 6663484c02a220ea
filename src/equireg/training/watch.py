"""How far from symmetric the runs' functions are along training, on a few test images.

Near in weights is not near in function. A look costs less than 2 % of the steps between two.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from equireg.training.compiled import Compiled, CompiledForward
from equireg.training.function import Tally, reference_forward, turned_outputs
from equireg.training.network import Network
from equireg.training.step import Trainable, Trainer

IMAGES = 1200  # of a look, in all turns together
SPACING = 40_000  # images that are trained on between two looks, at least
AT_ONCE = 250  # images; bounds the memory
KEY = "function"  # in a checkpoint
COLUMNS = ("step", "equivariance_error", "prediction_change")


class Watch:
    """Looks at the runs' functions: at the start, after epochs, and at the end.

    images, targets: the test images, of which ``IMAGES`` over the number of turns are taken, evenly
    from all; epoch: steps of one; steps: of the training; batch: images of a step.
    """

    def __init__(
        self,
        network: Trainable,
        images: Tensor,
        targets: Tensor,
        epoch: int,
        steps: int,
        batch: int,
    ) -> None:
        count = min(max(1, IMAGES // network.turns), len(targets))
        chosen = torch.linspace(0, len(targets) - 1, count).round().long()
        self.network, self.images, self.targets = network, images[chosen], targets[chosen]
        between = epoch * max(1, -(-SPACING // (epoch * batch)))
        self.due = {*range(0, steps, between), steps}
        self.looks: list[Tensor] = []  # (runs, columns) float64 each

    def look(self, step: int, trainer: Trainer, threads: int) -> None:
        """Record the functions before ``step``, if it is one at which to look."""
        seen = {int(look[0, 0]) for look in self.looks}
        if step not in self.due or step in seen:
            return
        weights = trainer.weights()
        device = next(iter(weights.values())).device
        images, targets = self.images.to(device), self.targets.to(device)
        if isinstance(trainer, Compiled) and isinstance(self.network, Network):
            forward = CompiledForward(self.network, weights, images, threads)
        else:
            forward = reference_forward(self.network, weights)  # type: ignore[assignment]
        tally = Tally(self.network)
        for some, truth in zip(images.split(AT_ONCE), targets.split(AT_ONCE), strict=True):
            tally.add(turned_outputs(self.network, forward, some), truth)
        results = tally.results()
        error = results["equivariance_error"]
        assert error is not None
        change = results["prediction_change"]
        change = torch.full_like(error, torch.nan) if change is None else change
        self.looks.append(torch.stack([torch.full_like(error, step), error, change], 1))

    def state(self) -> dict[str, Tensor]:
        """What was seen so far, for a checkpoint: (runs, looks, columns)."""
        return {KEY: torch.stack(self.looks, 1)} if self.looks else {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what a checkpoint has."""
        self.looks = list(state[KEY].unbind(1)) if KEY in state else []
