"""The state of a block of runs in the layout of the compiled steps."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from equireg.native import UnavailableError as UnavailableError
from equireg.network import Network
from equireg.projections import LayerSpace
from equireg.step import Runs


class Packed:
    """What the compiled trainers hold, float32: see ``step.Trainer`` for the calls.

    inside: coordinates in E; outside: the part outside E itself; whole: the weights; (runs, any)
    each; squares: (runs, layers), the squared distances to E.
    """

    def __init__(self, network: Network, runs: Runs) -> None:
        self.network, self.gamma, self.free = network, runs.gamma.float(), runs.free.float()
        outside, inside = {}, {}
        for name, space in network.layers.items():  # run by run, as in step.start
            outside[name] = torch.stack([b @ space.complement.mT for b in runs.complement[name]])
            inside[name] = torch.stack([a @ space.equivariant.mT for a in runs.equivariant[name]])
        self.outside = pack(outside)
        self.whole = pack({name: inside[name] + outside[name] for name in inside})
        # One more coordinate per grid, of the group of entries that have no part in E.
        self.inside = pack({name: F.pad(a, (0, 1)) for name, a in runs.equivariant.items()})
        self.squares = runs.distances()[:, 1:].square().float().contiguous()

    def weights(self) -> dict[str, Tensor]:
        layers = self.network.layers.items()
        sizes = [math.prod(space.shape) for _, space in layers]
        parts = self.whole.split(sizes, 1)
        return {
            name: unpack(part, name, space.shape)
            for part, (name, space) in zip(parts, layers, strict=True)
        }

    def distances(self) -> Tensor:
        return with_total(self.squares)

    def state(self) -> dict[str, Tensor]:
        return {name: held.cpu() for name, held in self._held().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, held in self._held().items():
            held.copy_(state[name])

    def _held(self) -> dict[str, Tensor]:
        names = "inside", "outside", "whole", "squares"  # the order of ``train`` in compiled.cpp
        return {name: getattr(self, name) for name in names}


def with_total(squares: Tensor) -> Tensor:
    """Distances, in total and per layer, (..., 1 + layers), from their squares per layer."""
    return torch.cat([squares.sum(-1, keepdim=True), squares], -1).sqrt()


def pack(layers: Mapping[str, Tensor]) -> Tensor:
    """The order of the compiled steps: (runs, rows, columns, n) per layer -> (runs, all of it)."""
    flat = [x.permute(0, 3, *_inner(name)).flatten(1).float() for name, x in layers.items()]
    return torch.cat(flat, 1).contiguous()


def unpack(packed: Tensor, name: str, shape: tuple[int, ...]) -> Tensor:
    """A layer's weights from their part of ``pack``."""
    first, second = _inner(name)
    inner = shape[first - 1], shape[second - 1]
    grids = packed.view(len(packed), math.prod(shape[2:]), *inner)
    axes = (2, 3) if first == 1 else (3, 2)
    return grids.permute(0, *axes, 1).reshape(len(packed), *shape)


def _inner(name: str) -> tuple[int, int]:
    """The axes of the weights that lie innermost: channels of the output last, or of the input."""
    return (1, 2) if name == "linear" else (2, 1)


def orbits_of(space: LayerSpace) -> tuple[list[np.ndarray], np.ndarray]:
    """The orbits that span E, and the trained entries that have no part in it.

    Raises UnavailableError if E is not spanned by indicators of orbits.
    """
    indicators = space.equivariant.double().cpu().numpy()
    groups = [np.flatnonzero(column) for column in indicators.T]
    expected = [len(group) ** -0.5 for group in groups]
    if not np.allclose(indicators.sum(0) * expected, 1):
        raise UnavailableError("E is not spanned by orbits of the weights")
    trained = np.flatnonzero((space.complement != 0).any(1).cpu().numpy())
    return groups, np.setdiff1d(trained, np.concatenate([trained[:0], *groups]))
