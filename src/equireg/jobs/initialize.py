"""Draw the initial equivariant weights that the modes share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equireg.binding import options, with_source
from equireg.digest import job_digest
from equireg.randomness import generator
from equireg.settings import Distribution, InitializationSettings, NetworkSettings
from equireg.symmetry.projections import LayerSpace
from equireg.training.network import Network
from equireg.weights import save_weights


def initialize(
    settings: NetworkSettings,
    initialization: InitializationSettings,
    seeds: Sequence[int],
    output: Path,
) -> None:
    """Write the initial weights of ``seeds``: (seeds, *shape) per layer, float32."""
    network = Network(settings)
    weights = {
        name: torch.stack(
            [draw_equivariant(space, name, seed, initialization.distribution) for seed in seeds]
        ).float()
        for name, space in network.layers.items()
    }
    made = options(initialization=initialization, network=settings)
    save_weights(output, seeds, weights, with_source(made, "initialize", job_digest("initialize")))


def draw_equivariant(
    space: LayerSpace, layer: str, seed: int, distribution: Distribution
) -> Tensor:
    """A random weight in E: one draw per orbit, row and column, with variance 1 / (3 fan_in).

    The variance is that of the authors' uniform entries on +-1/sqrt(fan_in), orbit by orbit. They
    count each orbit of a filter as a layer of its own, fan_in = columns; and in the linear layer
    the orbits of one size together, fan_in = columns times their number.
    """
    rows, columns = space.shape[:2]
    sizes = (space.equivariant != 0).sum(0).numpy()
    alike = (sizes[:, None] == sizes).sum(0) if layer == "linear" else np.ones_like(sizes)
    deviation = 1 / np.sqrt(3 * columns * alike)

    random = generator(seed, "initial weights", layer)
    shape = (rows, columns, len(sizes))
    if distribution == "gaussian":
        draws = random.standard_normal(shape)
    else:
        draws = random.uniform(-np.sqrt(3), np.sqrt(3), shape)
    # The orbit's normalized indicator has entries 1/sqrt(size), so its coordinate is sqrt(size) up.
    coordinates = torch.from_numpy(draws * deviation * np.sqrt(sizes))
    return (coordinates @ space.equivariant.mT).view(space.shape)
