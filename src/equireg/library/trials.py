"""Whether a function commutes with the group, tried on random tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from equireg.library.features import Action
from equireg.symmetry.groups import Group

ROUNDING = 1e-3  # relative to the largest output: more is none of rounding in single precision

Run = Callable[[list[Tensor]], Tensor]


def commutes(
    group: Group, run: Run, before: Sequence[Action], after: Action, like: Sequence[Tensor]
) -> bool:
    """Whether ``run`` takes what ``before`` moves to what ``after`` moves, for all witnesses.

    Tried on normal inputs, so of both signs. like: tensors whose types and devices they have;
    those of integers and truth values are tried as they are.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = [
        random(action, x, generator) if x.is_floating_point() else x
        for action, x in zip(before, like, strict=True)
    ]
    plain = run([x.clone() for x in inputs]).detach()
    if plain.shape != after.shape:
        return False
    bound = ROUNDING * float(plain.abs().max()) if plain.numel() else 0.0
    for step in group.witnesses:
        moved = [action.act(step, x) for action, x in zip(before, inputs, strict=True)]
        turned = run([x.clone() for x in moved]).detach()
        if not torch.allclose(turned * 1.0, after.act(step, plain) * 1.0, rtol=0, atol=bound):
            return False
    return True


def invariant(tensor: Tensor, action: Action) -> bool:
    """Whether a tensor is one that the group leaves as it is."""
    if action.is_trivial or not tensor.numel():
        return True
    x = tensor.detach()
    x = x if x.is_floating_point() else x.double()
    finite = x[torch.isfinite(x)] if x.is_floating_point() else x
    bound = 1e-5 * float(finite.abs().max()) if finite.numel() else 0.0
    for step in action.group.witnesses:
        moved = action.act(step, x)
        if not torch.allclose(moved, x, rtol=0, atol=bound, equal_nan=True):
            return False
    return True


def random(action: Action, like: Tensor, generator: torch.Generator) -> Tensor:
    """Normal entries of an action's shape, of the type and on the device of ``like``."""
    entries = torch.randn(action.shape, generator=generator, dtype=torch.float64)
    return entries.to(like.device, like.dtype if like.is_floating_point() else torch.float32)
