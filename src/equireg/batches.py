"""The batches of every run, in the order and with the turns that its seed says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from equireg.groups import Group, grid_permutations
from equireg.randomness import generator
from equireg.settings import Mode, TrainingSettings


def steps_per_epoch(images: int, training: TrainingSettings) -> int:
    """Whole batches in one pass; images that do not fill a last batch are left out."""
    return images // training.batch_size


def batches(
    group: Group,
    mode: Mode,
    seeds: Sequence[int],
    images: Tensor,
    labels: Tensor,
    training: TrainingSettings,
    chunk: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of up to ``chunk`` consecutive steps, on the device of ``images``.

    images: (count, side, side) of uint8; labels: (count,). Yields images (runs, steps, batch, side,
    side) of uint8 and labels (runs, steps, batch) of int64. In the augmented mode each image is
    turned by its own random group element, or, with exact augmentation, each batch holds every
    image turned by every element. The draws are made on the CPU from the seed and the epoch.
    """
    size, device = training.batch_size, images.device
    steps = steps_per_epoch(len(images), training)
    elements = group.elements if mode == "augmented" else group.elements[:1]
    rows = turned(images, elements)
    exact = mode == "augmented" and training.augmentation == "exact"
    every = torch.arange(len(elements), device=device)

    for epoch in range(training.epochs):
        order = torch.arange(steps * size).expand(len(seeds), -1)
        if training.order == "shuffled":
            draws = [generator(seed, "order", epoch).permutation(len(images)) for seed in seeds]
            order = torch.from_numpy(np.stack(draws))[:, : steps * size]
        turns = torch.zeros_like(order)
        if len(elements) > 1 and not exact:
            drawn = [
                generator(seed, "augmentation", epoch).integers(len(elements), size=steps * size)
                for seed in seeds
            ]
            turns = torch.from_numpy(np.stack(drawn))
        order, turns = (x.view(len(seeds), steps, size).to(device) for x in (order, turns))
        for first in range(0, steps, chunk):
            image, turn = (x[:, first : first + chunk] for x in (order, turns))
            if exact:
                image, turn = (
                    x.flatten(-2) for x in torch.broadcast_tensors(image[..., None], every)
                )
            batch = rows[image * len(elements) + turn]
            yield batch.unflatten(-1, images.shape[1:]), labels[image].long()


def turned(images: Tensor, elements: np.ndarray) -> Tensor:
    """Every image turned by every element, (count * elements, side^2); element by element within
    an image, so that a turned image is one contiguous row."""
    permutations = torch.from_numpy(grid_permutations(elements, images.shape[-1]))
    flat = images.flatten(1)
    rows = torch.stack([flat[:, p] for p in permutations.to(images.device)], 1)
    return rows.flatten(0, 1)
