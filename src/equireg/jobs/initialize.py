"""Draw the initial equivariant weights that the modes share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from equireg.binding import options, with_source
from equireg.built import network_of
from equireg.digest import job_digest
from equireg.settings import InitializationSettings, NetworkSettings
from equireg.weights import save_weights


def initialize(
    settings: NetworkSettings,
    initialization: InitializationSettings,
    seeds: Sequence[int],
    output: Path,
) -> None:
    """Write the initial weights of ``seeds``: (seeds, *shape) per layer, float32.

    And the buffers of a network of the user's own, as they are.
    """
    network = network_of(settings)
    draws = [network.initial(seed, initialization.distribution) for seed in seeds]
    names = [*network.spaces, *network.buffers]
    weights = {name: torch.stack([draw[name] for draw in draws]) for name in names}
    weights |= {name: weights[name].float() for name in network.spaces}
    made = options(initialization=initialization, network=settings)
    save_weights(output, seeds, weights, with_source(made, "initialize", job_digest("initialize")))
