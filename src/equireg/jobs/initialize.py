"""Draw the initial equivariant weights that the modes share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from equireg.settings import InitializationSettings, NetworkSettings
from equireg.training.network import Network
from equireg.weights import save_weights


def initialize(
    settings: NetworkSettings,
    initialization: InitializationSettings,
    seeds: Sequence[int],
    output: Path,
) -> None:
    """Write the initial weights of ``seeds``: (seeds, *shape) per layer, float32."""
    network = Network.of(settings)
    draws = [network.initial(seed, initialization.distribution) for seed in seeds]
    weights = {name: torch.stack([draw[name] for draw in draws]).float() for name in network.spaces}
    about = {**dataclasses.asdict(initialization), "network": dataclasses.asdict(settings)}
    save_weights(output, seeds, weights, about)
