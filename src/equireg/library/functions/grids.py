"""Functions that change the grid of pixels: whether they keep its symmetry, and at which sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equireg.library.blocks import on_grid
from equireg.library.call import Call
from equireg.library.features import Action
from equireg.library.trials import commutes


def not_symmetric(
    call: Call, before: Sequence[int], after: Sequence[int], works: list[int] | None = None
) -> str:
    """That these pixels do not become those, with sizes near by for which they would."""
    found = call.of(call.data[0])
    features = found.features() if isinstance(found, Action) else None
    if works is None:
        works = []
    if not works and len(call.data) == 1 and features and features.space == tuple(before):
        works = call.sizes_that_work(
            lambda side: pixels_commute(call, (side,) * len(before)), max(before)
        )
    return (
        f"{times(before)} to {times(after) or 'no'} pixels is not symmetric under "
        f"{call.group.name}" + (f"; here {', '.join(map(str, works))} would be" if works else "")
    )


def pixels_commute(call: Call, space: tuple[int, ...], channels: int | None = None) -> bool:
    """Whether the function commutes with the group on images of so many pixels.

    channels: how many of them; as many as its input has if None.
    """
    group, source = call.group, call.data[0]
    images = torch.empty(1, channels or source.shape[1], *space, device=source.device)
    axes = tuple(range(2, source.ndim))
    before = Action.on(group, images.shape, {axes: on_grid(group, space)})

    def run(inputs: list[Tensor]) -> Tensor:
        return call.run({id(source): inputs[0]})

    out = run([images.zero_()])
    after = Action.trivial(group, out.shape)
    if out.ndim == source.ndim:
        after = Action.on(group, out.shape, {axes: on_grid(group, tuple(out.shape[2:]))})
    return commutes(group, run, [before], after, [images])


def pools_commute(call: Call, action: Action, after: Action) -> bool:
    """Whether a pooling, of each channel by itself, commutes with the group.

    Tried on one channel where they are permuted; entries of vectors have no maximum of their own.
    """
    before, rest = action.features(), after.features()
    images = before and rest and call.data[0].ndim == 2 + len(before.space)
    if not images or not action.permutes:
        return call.commutes(0, after)
    return pixels_commute(call, action.shape[2:], 1)


def times(space: Sequence[int]) -> str:
    """A grid in words."""
    return " x ".join(map(str, space))
