"""The batches of every run, in the order and with the turns that its seed says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from equireg.randomness import generator
from equireg.settings import Mode, TrainingSettings
from equireg.symmetry.groups import Group, grid_permutations


def steps_per_epoch(images: int, training: TrainingSettings) -> int:
    """Whole batches in one pass; images that do not fill a last batch are left out.

    Raises ValueError where there are fewer images than a batch takes.
    """
    if training.batch_size > images:
        raise ValueError(
            f"batch_size is {training.batch_size}; accepted: at most {images}, the training images"
        )
    return images // training.batch_size


def batches(
    group: Group,
    mode: Mode,
    seeds: Sequence[int],
    labels: Tensor,
    training: TrainingSettings,
    chunk: int,
    first: int = 0,
    subset: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of up to ``chunk`` consecutive steps, from step ``first`` to the last.

    labels: (count,), the classes of the training images. Yields rows of ``turned(images,
    elements(group, mode))`` and their classes, (runs, steps, batch) of int64 on the device of
    ``labels``. In the augmented mode each image is turned by its own random group element, or, with
    exact augmentation, each batch holds every image turned by every element. The draws are made on
    the CPU from the seed and the epoch. subset: so many images are a run's, see ``subsets``.
    """
    size, device, order_of_group = training.batch_size, labels.device, len(elements(group, mode))
    count = subset or len(labels)
    steps = steps_per_epoch(count, training)
    own = subsets(seeds, len(labels), count) if subset else None
    exact = mode == "augmented" and training.augmentation == "exact"
    every = torch.arange(order_of_group, device=device)

    for epoch in range(first // steps, training.epochs):
        images = torch.arange(steps * size).expand(len(seeds), -1)
        if training.order == "shuffled":
            draws = [generator(seed, "order", epoch).permutation(count) for seed in seeds]
            images = torch.from_numpy(np.stack(draws))[:, : steps * size]
        if own is not None:
            images = own.gather(1, images)
        turns = torch.zeros_like(images)
        if order_of_group > 1 and not exact:
            drawn = [
                generator(seed, "augmentation", epoch).integers(order_of_group, size=steps * size)
                for seed in seeds
            ]
            turns = torch.from_numpy(np.stack(drawn))
        images, turns = (x.view(len(seeds), steps, size).to(device) for x in (images, turns))
        for step in range(first % steps if epoch == first // steps else 0, steps, chunk):
            image, turn = (x[:, step : step + chunk] for x in (images, turns))
            if exact:
                pairs = torch.broadcast_tensors(image[..., None], every)
                image, turn = (x.flatten(-2) for x in pairs)
            truth = labels[image]
            yield (
                image * order_of_group + turn,
                truth if truth.is_floating_point() else truth.long(),
            )


def subsets(seeds: Sequence[int], images: int, count: int) -> Tensor:
    """The images that each seed trains on, ``count`` of all, (seeds, count): in their order.

    Drawn from the seed alone, so that the modes and penalties of a seed share them.
    """
    draws = [generator(seed, "images").permutation(images)[:count] for seed in seeds]
    return torch.from_numpy(np.sort(draws))


def elements(group: Group, mode: Mode) -> np.ndarray:
    """The group elements by which a mode turns its images: all, or the identity alone."""
    return group.elements if mode == "augmented" else group.elements[:1]


def turned(images: Tensor, elements: np.ndarray) -> Tensor:
    """Every image turned by every element, (count * elements, channels, height, width).

    The turns of an image lie side by side.
    """
    if len(elements) == 1:
        return images
    flat = images.flatten(2)
    permutations = torch.from_numpy(grid_permutations(elements, images.shape[-2:]))
    every = flat.index_select(2, permutations.flatten().to(flat.device))
    each = every.view(*flat.shape[:2], *permutations.shape).transpose(1, 2)
    return each.reshape(-1, *images.shape[1:])
