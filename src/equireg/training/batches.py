"""The batches of every run, in the order and with the turns that its seed says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from equireg.randomness import generator
from equireg.settings import Mode, TrainingSettings
from equireg.symmetry.groups import Elements, Group, grid_permutations

# (numbers of images, (count,), an element for each) -> the images moved, their targets
Move = Callable[[Tensor, Elements], tuple[Tensor, Tensor]]


def steps_per_epoch(images: int, training: TrainingSettings) -> int:
    """Whole batches in one pass; images that do not fill a last batch are left out.

    Raises ValueError where there are fewer images than a batch takes.
    """
    if training.batch_size > images:
        raise ValueError(
            f"batch_size is {training.batch_size}; accepted: at most {images}, the training images"
        )
    return images // training.batch_size


def steps_of(images: int, training: TrainingSettings) -> int:
    """The steps of a whole training: as many as are asked for, or those of its epochs.

    >>> steps_of(100, TrainingSettings(batch_size=20, epochs=3))
    15
    >>> steps_of(100, TrainingSettings(batch_size=20, steps=12))
    12
    """
    return training.steps or steps_per_epoch(images, training) * training.epochs


def batches(
    group: Group,
    mode: Mode,
    seeds: Sequence[int],
    labels: Tensor,
    training: TrainingSettings,
    chunk: int,
    first: int = 0,
    subset: int | None = None,
    move: Move | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of up to ``chunk`` consecutive steps, from step ``first`` to the last.

    group: what moves the images; labels: (count,), the classes of the training images. Yields rows
    of ``turned(images, elements(group, mode))`` and their classes, (runs, steps, batch) of int64 on
    the device of ``labels``. In the augmented mode each image is turned by its own random group
    element, or, with exact augmentation, each batch holds every image turned by every element. The
    draws are made on the CPU from the seed and the epoch. subset: so many images are a run's, see
    ``subsets``. move: of a group whose elements are too many for a table; then the images
    themselves come in the place of rows, (runs, steps, batch, ...). Raises ValueError for exact
    augmentation by such a group.
    """
    size, device = training.batch_size, labels.device
    one_by_one = mode == "augmented" and move is not None
    order_of_group = 1 if one_by_one else len(elements(group, mode))
    count = subset or len(labels)
    steps, total = steps_per_epoch(count, training), steps_of(count, training)
    own = subsets(seeds, len(labels), count) if subset else None
    exact = mode == "augmented" and training.augmentation == "exact"
    if exact and one_by_one:
        raise ValueError(
            f"augmentation is exact; {group.name} has infinitely many elements; accepted: random"
        )
    every = torch.arange(order_of_group, device=device)

    for epoch in range(first // steps, -(-total // steps)):
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
        drawn_elements = _drawn(group, seeds, epoch, steps, size) if one_by_one else None
        begin = first % steps if epoch == first // steps else 0
        end = min(steps, total - epoch * steps)
        for step in range(begin, end, chunk):
            here = slice(step, min(step + chunk, end))
            image, turn = images[:, here], turns[:, here]
            if drawn_elements is not None:
                assert move is not None
                some = Elements(*(x[:, here].reshape(-1, *x.shape[3:]) for x in drawn_elements))
                pair = move(image.flatten(), some)
                moved, truth = (x.reshape(*image.shape, *x.shape[1:]) for x in pair)
                yield moved, truth if truth.is_floating_point() else truth.long()
                continue
            if exact:
                pairs = torch.broadcast_tensors(image[..., None], every)
                image, turn = (x.flatten(-2) for x in pairs)
            truth = labels[image]
            yield (
                image * order_of_group + turn,
                truth if truth.is_floating_point() else truth.long(),
            )


def _drawn(
    group: Group, seeds: Sequence[int], epoch: int, steps: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Random elements of an epoch, ``Elements`` of shapes (seeds, steps, size, ...)."""
    drawn = [group.sample(steps * size, generator(seed, "augmentation", epoch)) for seed in seeds]
    index, algebra = np.stack([x.index for x in drawn]), np.stack([x.algebra for x in drawn])
    shape = len(seeds), steps, size
    return index.reshape(shape), algebra.reshape(*shape, -1)


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

    elements: those of a point group, in integers. The turns of an image lie side by side.
    """
    if len(elements) == 1:
        return images
    flat = images.flatten(2)
    permutations = torch.from_numpy(grid_permutations(elements, images.shape[-2:]))
    every = flat.index_select(2, permutations.flatten().to(flat.device))
    each = every.view(*flat.shape[:2], *permutations.shape).transpose(1, 2)
    return each.reshape(-1, *images.shape[1:])


def interpolated(images: Tensor, matrices: np.ndarray) -> Tensor:
    """Image i turned by matrix i about its centre, bilinear between its pixels and 0 outside.

    images: (count, channels, height, width) of uint8, to which the result is rounded, or numbers.
    matrices: (count, 2, 2), orthogonal, on (row, column): (rho(g) x)(v) = x(g^-1 v), with v from
    the centre. Turns that map the grid to itself are exact on bytes; others blur, and what leaves
    the image is lost.

    >>> line = torch.tensor([[0, 0, 0], [60, 60, 60], [0, 0, 0]], dtype=torch.uint8)
    >>> half = np.sqrt(0.5)
    >>> eighth = np.array([[[half, -half], [half, half]]])
    >>> interpolated(line.view(1, 1, 3, 3), eighth)[0, 0].tolist()
    [[0, 18, 35], [18, 60, 18], [35, 18, 0]]
    """
    height, width = images.shape[-2:]
    axes = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in (height, width)]
    pixels = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    # g^-1 v = g^T v, which for row vectors is v g; grid_sample counts halves of the image.
    sources = torch.einsum("hwi,nij->nhwj", pixels, torch.from_numpy(np.asarray(matrices, float)))
    scale = torch.tensor([2 / height, 2 / width], dtype=torch.float64)
    places = (sources * scale).flip(-1).to(images.device)
    dtype = images.dtype if images.is_floating_point() else torch.float32
    found = F.grid_sample(images.to(dtype), places.to(dtype), align_corners=False)
    return found if images.is_floating_point() else found.round().to(images.dtype)
