"""Parameters, and tensors computed from parameters alone: what must act on them.

What acts on a parameter is found where it meets features: a scale must move like what it scales.
Between the parameter and that place it may be reshaped, looked up in a table, standardized. Which
of its entries each entry of the result comes from is kept beside the result, so that what must act
on the result is carried back to the parameter; whether it then does is tried on random values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from equireg.library.atoms import Lost
from equireg.library.blocks import factor, indices_of, product, pulled_back
from equireg.library.features import Action
from equireg.symmetry import spaces as symmetry
from equireg.symmetry.groups import Elements, Group
from equireg.symmetry.representations import Representation, trivial

Values = Mapping[int, Tensor]  # of parameters, by number


@dataclass(frozen=True)
class Space:
    """The action on a parameter: on ``parameter.view(action.shape)``."""

    layer: str
    module: nn.Module
    parameter: str
    action: symmetry.Space


class Owner(NamedTuple):
    """A module that holds a parameter or buffer, by its name."""

    layer: str
    module: nn.Module
    parameter: str


@dataclass(frozen=True, eq=False)
class Held:
    """A parameter or buffer of a model."""

    tensor: Tensor
    owners: list[Owner]


class _Numbers(Mapping[Held, "np.ndarray | None"]):
    """The entries of a parameter, each itself; numbered when they are asked for."""

    def __init__(self, held: Held) -> None:
        self._held = held

    def __getitem__(self, held: Held) -> np.ndarray:
        if held is not self._held:
            raise KeyError(held)
        return np.arange(held.tensor.numel()).reshape(held.tensor.shape)

    def __iter__(self) -> Iterator[Held]:
        return iter((self._held,))

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True, eq=False)
class Derived:
    """A tensor computed from parameters.

    sources: for each parameter, which of its entries each entry comes from, -1 for none; None if
    that is not known. replay: computes it anew from other values. exact: whether entries were only
    moved. opaque: whether layers ran on constants, such as positions, to compute it.
    """

    sources: Mapping[Held, np.ndarray | None]
    replay: Callable[[Mapping[Held, Tensor]], Tensor]
    exact: bool
    opaque: bool = False

    @classmethod
    def direct(cls, held: Held) -> Derived:
        """The parameter itself."""
        return cls(_Numbers(held), lambda values: values[held], True)


def holders(model: nn.Module) -> dict[int, Held]:
    """The parameters and buffers of a model, by the id of the tensor."""
    found: dict[int, Held] = {}
    for name, module in model.named_modules():
        tensors = (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        )
        for key, tensor in tensors:
            held = found.setdefault(id(tensor), Held(tensor, []))
            held.owners.append(Owner(name, module, key))
    return found


def required(derived: Derived, action: Action) -> dict[Held, symmetry.Space] | Held:
    """What must act on each parameter so that ``action`` moves what is computed from them.

    A parameter for which there is no such action is returned in place of all.
    """
    group, found = action.group, dict[Held, symmetry.Space]()
    if action.is_trivial:
        return {
            held: symmetry.Space(trivial(group, held.tensor.numel())) for held in derived.sources
        }
    for held, source in derived.sources.items():
        if source is None:  # nothing need act on it, if that holds when it is tried
            found[held] = symmetry.Space(trivial(group, held.tensor.numel()))
            continue
        pieces = _carried_back(held, source, action)
        if pieces is None:
            return held
        found[held] = symmetry.Space(*pieces)
    if not derived.exact and not _holds(derived, found, action):
        return next(iter(found))
    return found


def _carried_back(held: Held, source: np.ndarray, action: Action) -> list[Representation] | None:
    size = held.tensor.numel()
    entries = source.reshape(-1)
    try:
        if len(entries) == size and np.array_equal(entries, np.arange(size)):
            return action.pieces()
        rho = action.representation()
    except Lost:
        return None
    shape = tuple(held.tensor.shape)
    return _of_parts(held, rho, entries, shape) or _of_all(held, rho, entries, shape)


def _of_all(
    held: Held, rho: Representation, entries: np.ndarray, shape: tuple[int, ...]
) -> list[Representation] | None:
    whole = pulled_back(rho, entries, held.tensor.numel(), held.owners[0].parameter)
    return None if whole is None else pieces_of(whole, shape)


def _of_parts(
    held: Held, rho: Representation, entries: np.ndarray, shape: tuple[int, ...]
) -> list[Representation] | None:
    """The same where a part of some first axes is used, such as one head's: all of them alike."""
    if (entries < 0).any() or len(shape) < 2:
        return None
    indices = indices_of(entries, shape)
    used = [len(np.unique(index)) == n for index, n in zip(indices, shape, strict=True)]
    first = next((axis for axis, all_of_it in enumerate(used) if all_of_it), 0)
    if not first or not all(used[first:]):
        return None
    rest = shape[first:]
    inner = pulled_back(
        rho,
        np.ravel_multi_index(indices[first:], rest),
        int(np.prod(rest)),
        held.owners[0].parameter,
    )
    if inner is None:
        return None
    return [trivial(rho.group, int(np.prod(shape[:first]))), *pieces_of(inner, rest)]


def pieces_of(rho: Representation, shape: tuple[int, ...]) -> list[Representation]:
    """rho as representations on the axes of this shape, where it is their tensor product."""
    parts = factor(rho, shape) if shape else ()
    order = [place for places, _ in parts for place in places]
    if len(parts) < 2 or order != sorted(order):
        return [rho]
    return [
        part or trivial(rho.group, int(np.prod([shape[place] for place in places])))
        for places, part in parts
    ]


def _holds(derived: Derived, found: Mapping[Held, symmetry.Space], action: Action) -> bool:
    """Whether moved parameters give the moved result, for random ones."""
    generator = torch.Generator().manual_seed(0)
    plain = {
        held: torch.randn(held.tensor.shape, generator=generator, dtype=torch.float64).to(
            held.tensor
        )
        for held in found
    }
    group: Group = action.group
    before = derived.replay(plain)
    bound = 1e-4 * float(before.abs().max())
    for step in group.witnesses:
        moved = {held: product_act(found[held], step, value) for held, value in plain.items()}
        after = derived.replay(moved)
        if not torch.allclose(after, action.act(step, before), rtol=0, atol=bound):
            return False
    return True


def product_act(action: symmetry.Space, element: int | Elements, tensor: Tensor) -> Tensor:
    """rho(g) on a parameter of any shape."""
    return action.act(element, tensor.reshape(action.shape)).reshape(tensor.shape)


def combined(group: Group, pieces: list[Representation]) -> Representation:
    """What acts on a layer's input or output as one representation."""
    return pieces[0] if len(pieces) == 1 else product(group, pieces)
