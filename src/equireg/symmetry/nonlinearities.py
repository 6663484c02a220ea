"""Functions between layers that commute with any representation, not with permutations alone.

A function of single entries (tanh, ReLU) commutes with permutations. Where the group mixes entries,
a summand may be multiplied by a number that the group leaves fixed: a function of its norm, or a
gate. And products of entries make new representations, from which the next layer takes its part.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from equireg.symmetry.representations import (
    Representation,
    check_one_group,
    direct_sum,
    trivial,
)

Function = Callable[[Tensor], Tensor]
SHORT = 1e-12  # added to squared norms: those of 0 have a gradient


class Norms(nn.Module):
    """x -> x f(|x|) / |x| on each summand of ``rho``; f(x) itself on entries that do not move.

    function: f, of lengths; f(0) = 0, or summands jump at 0. The last axis of x are the entries.

    >>> from equireg.symmetry.compact import frequency, rotations
    >>> two = trivial(rotations(2)) + frequency(rotations(2), 1)
    >>> Norms(two, torch.relu)(torch.tensor([-1.0, 3.0, 4.0])).round(decimals=4).tolist()
    [0.0, 3.0, 4.0]
    """

    def __init__(self, rho: Representation, function: Function = torch.tanh) -> None:
        super().__init__()
        self.rho, self.function, self._parts = rho, function, _Parts(rho)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        scalars, moving = self._parts.split(x)
        lengths = [part.square().sum(-1, keepdim=True).add(SHORT).sqrt() for part in moving]
        scaled = [
            part * (self.function(length) / length)
            for part, length in zip(moving, lengths, strict=True)
        ]
        return self._parts.join(self.function(scalars), scaled)


class Gates(nn.Module):
    """x -> x gate(s) on each summand of ``rho`` that moves, by a number s of its own.

    The numbers are further inputs: ``input`` is ``rho`` and one trivial entry per moving summand,
    which come last; the output is moved by ``rho``. function: of the entries that do not move.

    >>> from equireg.symmetry.compact import frequency, rotations
    >>> gates = Gates(2 * frequency(rotations(2), 1))
    >>> gates.input.size, gates(torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0, 100.0])).tolist()
    (6, [0.5, 1.0, 3.0, 4.0])
    """

    def __init__(
        self,
        rho: Representation,
        function: Function = torch.tanh,
        gate: Function = torch.sigmoid,
    ) -> None:
        super().__init__()
        self.rho, self.function, self.gate, self._parts = rho, function, gate, _Parts(rho)
        if not self._parts.moving:
            raise ValueError(f"{rho.name} moves nothing; accepted: a summand that the group moves")
        self.input = direct_sum(rho, trivial(rho.group, self._parts.moving))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d + moving summands) -> (..., d)."""
        if x.shape[-1] != self.input.size:
            raise ValueError(
                f"x has {x.shape[-1]} entries; accepted: {self.input.size}, the last "
                f"{self._parts.moving} of them gates"
            )
        scalars, moving = self._parts.split(x[..., : self.rho.size])
        gates = self._parts.each(self.gate(x[..., self.rho.size :]))
        scaled = [part * gate for part, gate in zip(moving, gates, strict=True)]
        return self._parts.join(self.function(scalars), scaled)


class Products(nn.Module):
    """(x, y) -> all products of an entry of x and one of y, moved by ``output``.

    That is rho * sigma as a direct sum: the products of each pair of summands lie side by side. A
    linear layer behind it takes what it needs: of two vectors in space their inner product, their
    cross product and the symmetric rest. With one argument, x itself is y.

    >>> from equireg.symmetry.compact import rotations
    >>> from equireg.symmetry.representations import defining
    >>> vectors = defining(rotations(3))
    >>> len(Products(2 * vectors, 2 * vectors).output.summands)
    4
    """

    def __init__(self, rho: Representation, sigma: Representation) -> None:
        super().__init__()
        check_one_group(rho.group, sigma.group)
        self.rho, self.sigma = rho, sigma
        found: dict[tuple[int, int], Representation] = {}  # equal ones are one, and share a basis
        parts, order = [], []
        entries = np.arange(rho.size * sigma.size).reshape(rho.size, sigma.size)
        for one, rows in zip(rho.summands, _places(rho), strict=True):
            for two, columns in zip(sigma.summands, _places(sigma), strict=True):
                parts.append(found.setdefault((id(one), id(two)), one * two))
                order.append(entries[rows, columns].reshape(-1))
        self.output = direct_sum(*parts, name=f"products of {rho.name} and {sigma.name}")
        self.register_buffer("order", torch.from_numpy(np.concatenate(order)), persistent=False)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """(..., d), (..., e) -> (..., d e)."""
        if y is None and not self.rho.equals(self.sigma):
            raise ValueError(
                f"one argument, and rho is {self.rho.name}, sigma {self.sigma.name}; accepted: two"
            )
        y = x if y is None else y
        for name, given, own in (("x", x, self.rho), ("y", y, self.sigma)):
            if given.shape[-1] != own.size:
                raise ValueError(f"{name} has {given.shape[-1]} entries; accepted: {own.size}")
        outer = (x.unsqueeze(-1) * y.unsqueeze(-2)).flatten(-2)
        return outer.index_select(-1, self.get_buffer("order"))


def _places(rho: Representation) -> list[slice]:
    """Where the entries of each summand are."""
    ends = np.cumsum([part.size for part in rho.summands]).tolist()
    pairs = zip(rho.summands, ends, strict=True)
    return [slice(end - part.size, end) for part, end in pairs]


class _Parts(nn.Module):
    """The entries of a representation that do not move, and its other summands by their kinds."""

    def __init__(self, rho: Representation) -> None:
        super().__init__()
        still = [places for kind, places in rho.kinds if kind.is_trivial]
        self._places = [places for kind, places in rho.kinds if not kind.is_trivial]
        scalars = np.concatenate([np.zeros(0, np.int64), *(p.reshape(-1) for p in still)])
        order = np.concatenate([scalars, *(p.reshape(-1) for p in self._places)])
        firsts = np.concatenate([np.zeros(0, np.int64), *(p[:, 0] for p in self._places)])
        self.moving, self._still = len(firsts), len(scalars)
        # Gates come in the order of the summands, parts in that of their kinds.
        ranks = torch.from_numpy(np.argsort(np.argsort(firsts)))
        for name, index in (
            ("order", torch.from_numpy(order)),
            ("back", torch.from_numpy(np.argsort(order))),
            ("ranks", ranks),
        ):
            self.register_buffer(name, index, persistent=False)

    def split(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Entries that do not move, (..., any), and of each other kind (..., copies, d)."""
        if x.shape[-1] != len(self.get_buffer("order")):
            raise ValueError(
                f"x has {x.shape[-1]} entries; accepted: {len(self.get_buffer('order'))}"
            )
        sizes = [self._still, *(places.size for places in self._places)]
        scalars, *rest = x.index_select(-1, self.get_buffer("order")).split(sizes, -1)
        pairs = zip(rest, self._places, strict=True)
        return scalars, [part.unflatten(-1, places.shape) for part, places in pairs]

    def each(self, numbers: Tensor) -> list[Tensor]:
        """A number per moving summand, as (..., copies, 1) of each kind."""
        sorted_ = numbers.index_select(-1, self.get_buffer("ranks"))
        return [part.unsqueeze(-1) for part in sorted_.split([len(p) for p in self._places], -1)]

    def join(self, scalars: Tensor, moving: list[Tensor]) -> Tensor:
        """The inverse of ``split``."""
        flat = torch.cat([scalars, *(part.flatten(-2) for part in moving)], -1)
        return flat.index_select(-1, self.get_buffer("back"))
