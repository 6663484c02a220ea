"""How runs start: in E, with what the modes of a seed share, or moved off it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from equireg.randomness import generator
from equireg.settings import Mode, Unit
from equireg.symmetry.spaces import Space
from equireg.training.step import Runs

ROUNDING = 1e-5  # of the part off E of weights that are held in float32


def start_runs(
    spaces: Mapping[str, Space],
    weights: Mapping[str, Tensor],
    mode: Mode,
    seeds: Sequence[int],
    deviation: float,
    blocks: int = 1,
    unit: Unit = "absolute",
) -> Runs:
    """The runs of ``blocks`` blocks of the same seeds as they start: by block, then by seed.

    weights: (seeds, *shape) per parameter, in E; deviation, unit: as in ``perturbations``. In
    float64, so that the coordinates of a weight in E are exact, to be rounded to float32 once.
    """
    noise = None
    if mode != "equivariant":
        noise = perturbations(spaces, weights, mode, seeds, deviation, unit)
    runs = start(spaces, weights, noise)
    return Runs(
        {name: torch.cat([a] * blocks) for name, a in runs.equivariant.items()},
        {name: torch.cat([b] * blocks) for name, b in runs.complement.items()},
    )


def start(
    spaces: Mapping[str, Space],
    initial: Mapping[str, Tensor],
    noise: Mapping[str, Tensor] | None = None,
) -> Runs:
    """Runs that start at ``initial`` weights in E, moved off it by ``noise``'s part in E-perp.

    (runs, *shape) per parameter; noise None: they start in E. Raises ValueError if the initial
    weights do not lie in E.
    """
    equivariant, complement = {}, {}
    for name, space in spaces.items():
        inside, outside = coordinates(space, initial[name])
        if outside.norm() > ROUNDING * inside.norm():
            raise ValueError(
                f"the initial weights of {name} are {outside.norm() / inside.norm():.2g} of their "
                f"norm away from E of group {space.group.name}; draw them for this network"
            )
        equivariant[name] = inside
        complement[name] = (
            torch.zeros_like(outside) if noise is None else coordinates(space, noise[name])[1]
        )
    return Runs(equivariant, complement)


def coordinates(space: Space, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates of (runs, *shape), float64, run by run.

    The sums in a product of matrices may depend on how many rows there are.
    """
    each = [space.coordinates(weight) for weight in weights.double()]
    inside, outside = zip(*each, strict=True)
    return torch.stack(inside), torch.stack(outside)


def perturbations(
    spaces: Mapping[str, Space],
    weights: Mapping[str, Tensor],
    mode: Mode,
    seeds: Sequence[int],
    deviation: float,
    unit: Unit = "absolute",
) -> dict[str, Tensor]:
    """Gaussian noise on every entry of every layer, of its own for each mode and seed.

    (seeds, *shape) float64. unit: relative multiplies ``deviation`` by the root mean square of the
    layer's initial ``weights``; from 1 a run starts as one that knows of no symmetry.
    """
    noise = {}
    for name, space in spaces.items():
        draws = [
            generator(seed, "perturbation", mode, name).standard_normal(space.shape)
            for seed in seeds
        ]
        noise[name] = deviation * torch.from_numpy(np.stack(draws))
        if unit == "relative":
            size = weights[name].double().flatten(1).square().mean(1).sqrt()
            noise[name] *= size.view(-1, *[1] * len(space.shape))
    return noise
