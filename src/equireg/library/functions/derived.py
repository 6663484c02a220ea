"""Functions of parameters alone: where the entries of the result come from."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from equireg.library.call import Call
from equireg.library.functions.numbered import sources
from equireg.library.functions.pointwise import COPIES, POINTWISE
from equireg.library.parameters import Derived, Held

LAYERS = ("linear", "conv1d", "conv2d", "conv3d")


def derive(call: Call) -> list[Derived]:
    """For each result, from which entries of which parameters it is computed."""
    return [_derived(call, number, result) for number, result in enumerate(call.results)]


def _derived(call: Call, number: int, result: Tensor) -> Derived:
    tags = [(x, tag) for x in call.parameters if isinstance(tag := call.of(x), Derived)]

    def replay(values: Mapping[Held, Tensor]) -> Tensor:
        return call.run({id(x): tag.replay(values) for x, tag in tags}, number)

    found: dict[Held, np.ndarray | None] = {}
    exact = all(tag.exact for _, tag in tags)
    for x, tag in tags:
        came: np.ndarray | None
        if call.name in COPIES and result.shape == x.shape:
            came = np.arange(x.numel()).reshape(x.shape)
        elif call.name not in POINTWISE and (moved := sources(call, x, number)) is not None:
            came = moved
        else:
            exact, came = False, _spread(x, result)
        for held, source in tag.sources.items():
            new = None
            if came is not None and source is not None:
                new = np.where(came < 0, -1, source.reshape(-1)[came]) if source.size else came
            if found.get(held) is None:
                found[held] = new
    opaque = call.name in LAYERS or any(tag.opaque for _, tag in tags)
    return Derived(found, replay, exact, opaque)


def _spread(x: Tensor, result: Tensor) -> np.ndarray | None:
    """The entries of a tensor where it is spread to the shape of a result; None: it cannot be."""
    numbers = np.arange(x.numel()).reshape(tuple(x.shape))
    try:
        return np.broadcast_to(numbers, tuple(result.shape))
    except ValueError:
        return None
