"""E among the entries of one long block, by the irreducible parts of its axes (Schur's lemma)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equireg.symmetry.irreducible import irreducible
from equireg.symmetry.representations import Representation
from equireg.symmetry.spaces import Space


class Schur:
    """E and its complement among the entries of one long block: see ``Invariants`` for its calls.

    By the irreducible parts of each axis: in their bases the block falls into blocks of its own,
    short enough for dense bases (Schur's lemma).
    """

    def __init__(self, summands: Sequence[Representation]) -> None:
        pairs = [irreducible(summand) for summand in summands]
        self.space = Space(*(parts for parts, _ in pairs))
        self.space.reduced = True
        self.bases = [torch.from_numpy(basis.copy()) for _, basis in pairs]
        self.dims = self.space.dims

    def _turned(self, x: Tensor, *, back: bool) -> Tensor:
        """A tensor (..., *sizes) in the bases of the parts, or from them."""
        for i, basis in enumerate(self.bases):
            axis, turn = i - len(self.bases), basis.to(x)
            x = (x.movedim(axis, -1) @ (turn.mT if back else turn)).movedim(-1, axis)
        return x

    def coordinates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.space.coordinates(self._turned(x.unflatten(-1, self.space.sizes), back=False))

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        return self._turned(self.space.weight(a, b), back=True).flatten(-len(self.bases))

    def draw(self, copies: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return self._turned(self.space.draw(generator, copies), back=True).flatten(-len(self.bases))

    def project(self, x: Tensor) -> Tensor:
        turned = self._turned(x.unflatten(-1, self.space.sizes), back=False)
        return self._turned(self.space.project(turned), back=True).flatten(-len(self.bases))

    def squared_distance(self, x: Tensor) -> Tensor:
        return (x - self.project(x)).square().sum()

    def add_complement_(self, total: Tensor, x: Tensor, scale: float) -> None:
        total.add_(x - self.project(x), alpha=scale)
