"""Networks, runs and batches that several tests share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from equireg.settings import Mode, NetworkSettings
from equireg.training.network import Network
from equireg.training.start import start_runs
from equireg.training.step import Runs

SMALL = NetworkSettings(image_size=8, channels=(3, 4), classes=5)
REGULAR = NetworkSettings(image_size=8, channels=(4, 8), classes=5, representation="regular")


def initial(network: Network, seeds: Sequence[int]) -> dict[str, Tensor]:
    """The seeds' weights in E, (seeds, *shape) float64."""
    draws = [network.initial(seed, "gaussian") for seed in seeds]
    return {name: torch.stack([draw[name] for draw in draws]) for name in network.spaces}


def runs_of(
    network: Network,
    mode: Mode,
    seeds: Sequence[int],
    deviation: float = 1e-1,
    blocks: int = 1,
) -> Runs:
    """The seeds' runs as they start, float64; ``blocks`` times, one after the other."""
    weights = initial(network, seeds)
    return start_runs(network.spaces, weights, mode, seeds, deviation, blocks)


def images(count: int, side: int, channels: int = 1) -> Tensor:
    """Random images of bytes, (count, channels, side, side)."""
    random = np.random.default_rng(0)
    return torch.from_numpy(
        random.integers(256, size=(count, channels, side, side), dtype=np.uint8)
    )


def steady(rows: Tensor, gammas: Sequence[float], rate: float) -> tuple[Tensor, Tensor]:
    """A gamma per run and one rate, the same at all steps of ``rows``: (runs, steps) each."""
    shape = rows.shape[:2]
    each = torch.tensor([float(gamma) for gamma in gammas])
    return each.unsqueeze(1).expand(shape), torch.full(shape, rate)
