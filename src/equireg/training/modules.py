"""Any PyTorch module as a network to be trained: its weights and buffers are passed in, not held.

Which spaces its parameters have is found by others, and handed over. Runs are trained one after
another: stacked by ``vmap`` they took three times as long on a CPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from equireg.randomness import generator
from equireg.settings import Distribution
from equireg.symmetry.groups import Elements, Group
from equireg.symmetry.spaces import Space

# How often a run has drawn random numbers (dropout), beginning with one of its seed. With a blank,
# which no name of a module's own has.
DRAWS = "random draws"

Loss = Callable[[Tensor, Tensor], Tensor]  # (outputs, targets) of a batch -> (count,)


class Motion(NamedTuple):
    """How the group moves what goes in and what comes out: see ``step.Trainable``."""

    orbit: Callable[[Tensor], Tensor]
    target_orbit: Callable[[Tensor], Tensor | None]
    back: Callable[[Tensor], Tensor]
    move: Callable[[Tensor, Tensor, Elements], tuple[Tensor, Tensor]]


class ModuleNetwork:
    """A module whose parameters have these spaces: see ``step.Trainable`` for its calls.

    module: one instance, in which weights are put for a call; make: a seed's own instance; spaces:
    of every parameter that is trained; motion: of inputs and outputs; loss: of each sample of a
    batch. Buffers that are saved and parameters without a gradient are a run's own.
    """

    apart = True

    def __init__(
        self,
        module: nn.Module,
        make: Callable[[int], nn.Module],
        group: Group,
        spaces: Mapping[str, Space],
        motion: Motion,
        loss: Loss,
    ) -> None:
        self.module, self.make, self.spaces = module, make, dict(spaces)
        self.group = self.acting = group
        self.turns, self.listed = len(group.compared), not len(group.algebra)
        self.orbit, self.target_orbit, self.back, self.move = motion
        self._loss = loss
        self.buffers = {**_kept(module, self.spaces), DRAWS: torch.zeros((), dtype=torch.int64)}

    def initial(self, seed: int, law: Distribution) -> dict[str, Tensor]:
        """The module's own weights, projected onto E, float64; and its buffers.

        law: is not asked. Raises ValueError if this seed's module has other parameters.
        """
        module = self.make(seed)
        own = {name: p.detach() for name, p in module.named_parameters()}
        kept = _kept(module, self.spaces)
        shapes = {name: tuple(space.shape) for name, space in self.spaces.items()}
        found = {name: tuple(own[name].shape) for name in self.spaces if name in own}
        if found != shapes or kept.keys() != self.buffers.keys() - {DRAWS}:
            raise ValueError(
                f"the module made for seed {seed} has other parameters or buffers than the one "
                "before; accepted: the same for each call"
            )
        first = torch.tensor(generator(seed, "module").integers(2**62))
        weights = {name: space.project(own[name].double()) for name, space in self.spaces.items()}
        return {**weights, **kept, DRAWS: first}

    def forward(
        self, weights: Mapping[str, Tensor], inputs: Tensor, training: bool = False
    ) -> Tensor:
        """The outputs (runs, count, ...), run by run; in training the buffers change in place."""
        if next(self.module.buffers(), inputs).device != inputs.device:
            self.module.to(inputs.device)  # what is not saved stays with it
        self.module.train(training)
        held = [*self.spaces, *self.buffers]
        return torch.stack(
            [
                self._one({name: weights[name][i] for name in held}, x, training)
                for i, x in enumerate(inputs)
            ]
        )

    def _one(self, held: dict[str, Tensor], x: Tensor, training: bool) -> Tensor:
        draws = held.pop(DRAWS)
        before = dict(held)
        with _seeded(int(draws), x.device):
            output: Tensor = functional_call(self.module, held, (x,))
        if training:
            draws.add_(1)
            for name, buffer in before.items():
                if held[name] is not buffer and name in self.buffers:  # replaced, not changed
                    buffer.copy_(held[name])
        return output

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(runs, count), from outputs (runs, count, ...) and targets (runs, count, ...)."""
        return torch.stack([self._loss(*pair) for pair in zip(outputs, targets, strict=True)])


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The usual generators of these devices from a seed; then as before.

    On a CPU its generator alone: to look for others takes longer than a small network.
    """
    if device.type == "cuda":
        with torch.random.fork_rng(devices=[device]):
            torch.manual_seed(seed)
            yield
        return
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


def usual_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy for classes, (count, ...) of whole numbers; else the mean squared error."""
    if targets.is_floating_point():
        each = (outputs - targets).square()
    else:
        each = F.cross_entropy(outputs, targets.long(), reduction="none")
    return each.flatten(1).mean(1) if each.ndim > 1 else each


def _kept(module: nn.Module, spaces: Mapping[str, Space]) -> dict[str, Tensor]:
    """What a module keeps beside the parameters that are trained."""
    saved = module.state_dict(keep_vars=True)
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in saved}
    fixed = {name: p.detach() for name, p in module.named_parameters() if name not in spaces}
    return {name: value.clone() for name, value in {**buffers, **fixed}.items()}
