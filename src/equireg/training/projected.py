"""Networks whose weights are projected onto E, with buffers that fit them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from equireg.training.modules import DRAWS
from equireg.training.step import Trainable, scaled

BATCH = 100  # images
IMAGES = 100 * BATCH  # of running means, with PyTorch's momentum, 0.9^100 of what was before stays


def projected(network: Trainable, held: Mapping[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """The part in E of some runs' weights; buffers as training images leave them beside it.

    held: weights and buffers, (runs, *shape). images: of training; the first 10,000 are gone
    through. The running statistics of batch normalization belong to the weights that they were
    taken with: beside others they can make of a good network one that guesses. A network without
    buffers needs no images.
    """
    found = dict(held)
    for name, space in network.spaces.items():
        found[name] = space.project(held[name].double()).to(held[name])
    kept = [name for name in network.buffers if name != DRAWS]
    if not any(held[name].is_floating_point() for name in kept):
        return found
    found |= {name: held[name].clone() for name in network.buffers}
    weights = {name: x.to(images.device) for name, x in found.items()}
    runs = len(next(iter(weights.values())))
    like = weights[next(iter(network.spaces))]
    every = images[:IMAGES]
    whole = max(len(every) // BATCH, 1) * BATCH  # a rest of one image has no variance
    with torch.no_grad():
        for some in every[:whole].split(BATCH):
            network.forward(weights, scaled(some, like).expand(runs, *some.shape), training=True)
    return {name: x.to(held[name].device) for name, x in weights.items()}
