"""rho(g) on batches: on a network's inputs and outputs, on masks and maps of classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equireg.library.features import Action
from equireg.library.tracing import Features, Known, Pixels, acts_on_grids, on_grid
from equireg.library.trees import check_tensors, mapped
from equireg.symmetry.groups import Elements, Group
from equireg.symmetry.representations import trivial

Moving = Tensor | int | Elements  # numbers of elements, or elements; one for all, or one per sample


def act(
    features: Mapping[str, Known],
    elements: Moving,
    batch: Any,
    *,
    targets: bool = False,
) -> Any:
    """rho(g) x for a tensor, or each tensor of a dict, tuple, list or dataclass.

    features: what acts on each, by its name in ``leaves(batch)``. targets: whether labels, maps of
    classes and masks may stand for them, see ``act_on_targets``. Raises ValueError for a tensor
    that is none of those.
    """

    def one(path: str, tensor: Tensor) -> Tensor:
        if path not in features:
            raise ValueError(
                f"batch: it is not known what acts on {path or 'a tensor alone'!r}; accepted: "
                f"{', '.join(map(repr, features)) or 'none'}"
            )
        if targets:
            return act_on_targets(features[path], elements, tensor)
        what = f"batch {path}".rstrip()
        return move(features[path], elements, shaped(features[path], tensor, what))

    check_tensors(batch)
    return mapped(one, batch)


def act_on_targets(features: Known, elements: Moving, batch: Tensor) -> Tensor:
    """rho_out(g) y, also on class labels, maps of classes and masks of one channel.

    These stand for channels that the group leaves as they are: labels (samples,), maps (samples,
    *pixels) and masks (samples, 1, *pixels). Raises ValueError for other shapes.
    """
    if isinstance(features, Action):
        if batch.ndim == 1 and features.is_trivial:
            return batch.clone()
    elif isinstance(features, Features) and features.channels.is_trivial:
        if batch.ndim == 1 and not features.space:
            return batch.clone()
        axes = batch.ndim - len(features.space)
        if features.space and (axes == 1 or (axes == 2 and batch.shape[1] == 1)):
            return act_on_pixels(features.channels.group, elements, batch, len(features.space))
    batch_of = shaped(features, batch, "batch", flattened=True)
    return move(features, elements, batch_of).reshape(batch.shape)


def act_on_pixels(group: Group, elements: Moving, batch: Tensor, axes: int) -> Tensor:
    """The pixels, on the last ``axes`` axes, moved; channels, if there are any, left as they are.

    batch: (samples, *pixels) or (samples, channels, *pixels). Raises ValueError for other shapes,
    or if the group moves no grid with so many axes.
    """
    check_tensors(batch)
    if not axes or not acts_on_grids(group, (1,) * axes):
        raise ValueError(f"{group.name} moves no pixels of grids with {axes} axes")
    if batch.ndim not in (axes + 1, axes + 2):
        raise ValueError(
            f"batch has shape {tuple(batch.shape)}; accepted: (samples"
            + ", pixels" * axes
            + ") or (samples, channels"
            + ", pixels" * axes
            + ")"
        )
    return move(Pixels(group, axes), elements, batch)


def move(features: Known, elements: Moving, batch: Tensor) -> Tensor:
    """rho(g) x on what ``shaped`` returns, each sample by its element or all by one."""
    if isinstance(features, Pixels):
        return _move_pixels(features, elements, batch)
    group, count = features.group, len(batch)
    each = _one_or_each(group, elements, batch)
    if isinstance(features, Action):
        if isinstance(each, Tensor) and (count == 1 or not each.ndim):
            return features.of_samples(count).act(int(each.reshape(-1)[0]), batch)
        return features.of_samples(count).act(each, batch)
    channels, pixels = features.channels, on_grid(group, tuple(batch.shape[2:]))
    moved = batch.flatten(2) if features.space else batch.unsqueeze(2)
    if isinstance(each, Elements) and len(each) == 1:  # one for all: it is made once
        return channels.act(each, pixels.act(each, moved), 1).reshape(batch.shape)
    if isinstance(each, Tensor):
        each = each.expand(count)
    moved = pixels.act_each(each, moved)
    return channels.act_each(each, moved.mT).mT.reshape(batch.shape)


def _move_pixels(pixels: Pixels, elements: Moving, batch: Tensor) -> Tensor:
    if not pixels.axes:
        return batch.clone()
    space = tuple(batch.shape[batch.ndim - pixels.axes :])
    others = batch.reshape(len(batch), math.prod(batch.shape[1 : batch.ndim - pixels.axes]), *space)
    features = Features(trivial(pixels.group, others.shape[1]), space)
    return move(features, elements, others).reshape(batch.shape)


def _one_or_each(group: Group, elements: Moving, batch: Tensor) -> Tensor | Elements:
    """Numbers on the device of the batch, or elements. Raises ValueError for what are none."""
    count = len(batch)
    if isinstance(elements, Elements):
        if len(elements) not in (1, count) or elements.algebra.shape[1] != len(group.algebra):
            raise ValueError(
                f"there are {len(elements)} elements with {elements.algebra.shape[1]} coordinates; "
                f"accepted: 1, or one for each of the {count} samples, with the "
                f"{len(group.algebra)} coordinates of {group.name}"
            )
        return elements
    try:
        numbers = torch.as_tensor(elements, device=batch.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"elements are {elements!r}; accepted: numbers of elements, or elements"
        ) from None
    if numbers.is_floating_point() or numbers.shape not in ((), (count,)):
        raise ValueError(
            f"elements are {numbers.dtype} of shape {tuple(numbers.shape)}; accepted: one number, "
            f"or one for each of the {count} samples"
        )
    if numbers.is_cpu and bool(((numbers < 0) | (numbers >= group.order)).any()):
        raise ValueError(
            f"elements are from {int(numbers.min())} to {int(numbers.max())}; accepted: 0 to "
            f"{group.order - 1}, the elements of {group.name}"
        )
    return numbers


def shaped(features: Known, batch: Tensor, what: str, *, flattened: bool = False) -> Tensor:
    """The batch as (samples, channels, *pixels), of any number of pixels.

    For an ``Action``, of the example's shape but for the number of samples; for ``Pixels``, as it
    is. flattened: whether (samples, channels * pixels) and such are accepted, of the known number.
    """
    if isinstance(features, Pixels):
        if batch.ndim > features.axes or not features.axes:
            return batch
        raise ValueError(
            f"{what} has shape {tuple(batch.shape)}; accepted: (samples"
            + ", pixels" * features.axes
            + ")"
        )
    if isinstance(features, Action):
        rest = features.shape[1:]
        if batch.ndim and tuple(batch.shape[1:]) == rest:
            return batch
        raise ValueError(
            f"{what} has shape {tuple(batch.shape)}; accepted: (samples, "
            f"{', '.join(map(str, rest))})"
        )
    size, space = features.channels.size, features.space
    if batch.ndim == 2 + len(space) and batch.shape[1] == size:
        return batch
    if (
        flattened
        and batch.ndim
        and batch[:1].numel() == min(len(batch), 1) * size * math.prod(space)
    ):
        return batch.reshape(len(batch), size, *space)
    raise ValueError(
        f"{what} has shape {tuple(batch.shape)}; accepted: (samples, {size}"
        + ", pixels" * len(space)
        + ")"
    )


def inverse(group: Group, element: int | Elements) -> int | Elements:
    """g^-1, as a number or as an element, as g is given."""
    if isinstance(element, Elements):
        return group.inverse(element)
    return int(group.inverse(group.numbered(np.array([element]))).index[0])
