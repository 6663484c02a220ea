"""Networks whose weights are projected onto E, with batch statistics that fit them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from equireg.randomness import generator
from equireg.training.modules import ModuleNetwork
from equireg.training.step import Trainable, scaled

BATCH = 100  # images
IMAGES = 10_000  # that statistics are taken on at most


def projected(
    network: Trainable,
    held: Mapping[str, Tensor],
    seeds: Sequence[int],
    images: Tensor,
    count: int | None = None,
) -> dict[str, Tensor]:
    """The part in E of some runs' weights; statistics of batch normalization taken anew beside it.

    held: weights and buffers, (runs, *shape), of these seeds. images: of training, of which each
    run has ``count`` of its own (None: all); it goes through 10,000 of these at most, once, in
    batches of up to 100, in training mode. Running statistics belong to the weights that they were
    taken with: beside others they can make of a good network one that guesses. All other buffers
    stay.
    """
    found = dict(held)
    for name, space in network.spaces.items():
        found[name] = space.project(held[name].double()).to(held[name])
    norms = dict(_norms(network))
    if not norms:
        return found
    names = [f"{name}.{part}" for name in norms for part in ("running_mean", "running_var")]
    counts = [f"{name}.num_batches_tracked" for name in norms]
    taken = {name: found[name].to(images.device).clone() for name in held}
    for name in [*names, *counts]:
        taken[name].fill_(1 if name.endswith("var") else 0)
    before = {name: norm.momentum for name, norm in norms.items()}
    like = taken[next(iter(network.spaces))]
    try:
        for norm in norms.values():
            norm.momentum = None  # the mean over all batches
        with torch.no_grad():
            rows = _rows(seeds, len(images), count).to(images.device)
            # Batches alike in size, as each counts as much; a rest of one image had no variance.
            for some in rows.tensor_split(math.ceil(rows.shape[1] / BATCH), 1):
                network.forward(taken, scaled(images[some], like), training=True)
    finally:
        for name, norm in norms.items():
            norm.momentum = before[name]
    return found | {name: taken[name].to(held[name].device) for name in names}


def _norms(network: Trainable) -> Iterator[tuple[str, _BatchNorm]]:
    """The layers that keep statistics of batches, by name."""
    if isinstance(network, ModuleNetwork):
        for name, module in network.module.named_modules():
            if isinstance(module, _BatchNorm) and f"{name}.running_mean" in network.buffers:
                yield name, module


def _rows(seeds: Sequence[int], images: int, count: int | None) -> Tensor:
    """Images of each run's own, (runs, n), in random order: see ``batches.subsets``."""
    most = min(images if count is None else count, IMAGES)
    draws = [generator(seed, "images").permutation(images)[:most] for seed in seeds]
    return torch.from_numpy(np.stack(draws))
