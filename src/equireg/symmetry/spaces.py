"""The subspace E of a layer, its complement, and the projections onto both: one E for all.

Notation of the paper, section II: L is the affine space of layers that the architecture allows,
TL its tangent space, H_G the space of equivariant layers, E their intersection. The weights of a
layer are a tensor whose axes the group moves, each by a representation of its own: the rows of a
linear map by rho_out, the columns by rho_in, which is A -> rho_out(g) A rho_in(g)^-1, the pixels of
a filter by turning the grid. E is what stays where it is.

Representations are direct sums, of one number per channel or one field of several channels, and so
the tensor falls into blocks, one for each choice of a summand per axis. Blocks of one kind share
their bases: those of a pair of fields of C4 and a 3 x 3 grid have 144 entries, and a layer of any
width needs no others.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from equireg.symmetry.blocks import Block
from equireg.symmetry.groups import Elements
from equireg.symmetry.invariants import (
    LONGEST,
    Invariants,
    invariants,
    null_space,
    whole_and_cut,
)
from equireg.symmetry.irreducible import irreducible
from equireg.symmetry.representations import Representation, check_one_group

FEW = 8  # kinds of blocks that are taken one by one; the index of more is larger than the weights


class Space:
    """TL = TE + TE-perp of one tensor of weights, in orthonormal coordinates.

    axes: what moves each axis; shape: of the weights, where it is not the axes' sizes: an axis of
    pixels may stand for several (a filter's two). trained: which entries of the last axis are
    trained, of bool, in its shape; all, if None. Weights may have leading axes (runs): weights
    (..., *shape), coordinates (..., dims[0]) and (..., dims[1]). Raises ValueError for axes of
    different groups.

    A 3 x 3 filter under quarter turns: the centre, the edges and the corners are what E has.

    >>> from equireg.symmetry.groups import point_group
    >>> from equireg.symmetry.representations import grid, regular, trivial
    >>> c4 = point_group("C4")
    >>> space = Space(trivial(c4), trivial(c4), grid(c4, 3), shape=(1, 1, 3, 3))
    >>> space.dims
    (3, 6)
    >>> filter = torch.arange(9.0).view(1, 1, 3, 3)
    >>> space.project(filter)[0, 0].round(decimals=4).tolist()
    [[4.0, 4.0, 4.0], [4.0, 4.0, 4.0], [4.0, 4.0, 4.0]]
    >>> round(space.distance(filter).item() ** 2, 3)  # 2 (16 + 9 + 4 + 1)
    60.0
    >>> Space(2 * regular(c4), 3 * regular(c4), grid(c4, 3)).dims  # 6 pairs of 144 entries
    (216, 648)
    """

    reduced = False  # whether the axes are sums of irreducible parts

    def __init__(
        self,
        *axes: Representation,
        shape: Sequence[int] | None = None,
        trained: np.ndarray | None = None,
    ) -> None:
        check_one_group(*(axis.group for axis in axes))
        self.axes, self.group = axes, axes[0].group
        self.sizes = tuple(axis.size for axis in axes)
        self.shape = self.sizes if shape is None else tuple(shape)
        self.trained = None if trained is None or trained.all() else trained.reshape(-1)
        self._held: dict[tuple[torch.device, bool], Tensor] = {}
        if math.prod(self.shape) != math.prod(self.sizes):
            raise ValueError(
                f"weights have shape {self.shape}; the group moves axes of {self.sizes} entries; "
                "accepted: as many entries"
            )

    @functools.cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The kinds of blocks that the tensor falls into."""
        found = []
        for kinds in itertools.product(*(axis.kinds for axis in self.axes)):
            summands = tuple(summand for summand, _ in kinds)
            places = tuple(
                None if places.size == axis.size and _in_order(places) else places
                for axis, (_, places) in zip(self.axes, kinds, strict=True)
            )
            copies = tuple(len(places) for _, places in kinds)
            inside = _shared(summands, self._mask(summands), self.reduced)
            found.append(Block(summands, copies, places, inside))
        return tuple(found)

    def _mask(self, summands: tuple[Representation, ...]) -> bytes | None:
        """Which entries of a block are trained: those of its last axis, of bool, as bytes."""
        if self.trained is None:
            return None
        sizes = [summand.size for summand in summands]
        if sizes[-1] != len(self.trained):
            raise ValueError(
                f"{len(self.trained)} entries are trained or not, on the last axis, "
                f"{self.axes[-1].name}; accepted: an axis that is no direct sum"
            )
        return np.broadcast_to(self.trained, sizes).tobytes()

    @functools.cached_property
    def dims(self) -> tuple[int, int]:
        """The dimensions of E and of its complement in TL."""
        each = [[block.count * n for n in block.inside.dims] for block in self.blocks]
        inside, outside = (sum(dims) for dims in zip(*each, strict=True))
        return inside, outside

    @property
    def is_trivial(self) -> bool:
        """Whether every element acts as the identity, so that E is all of L."""
        return all(axis.is_trivial for axis in self.axes)

    def equals(self, other: Space) -> bool:
        """Whether both act alike, axis by axis; those of a single trivial entry do not matter."""
        ones, twos = (
            [axis for axis in space.axes if axis.size > 1 or not axis.is_trivial]
            for space in (self, other)
        )
        return len(ones) == len(twos) and all(map(Representation.equals, ones, twos))

    def act(self, element: int | Elements, weight: Tensor) -> Tensor:
        """rho(g) A, (..., *shape); for a linear layer rho_out(g) A rho_in(g)^-1."""
        x = self._axes(weight)
        for i, axis in enumerate(self.axes):
            x = axis.act(element, x, i - len(self.axes))
        return x.reshape(weight.shape)

    def coordinates(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The coordinates of ``weight`` in E and in the complement, (..., dims[i]) each."""
        axes, each = len(self.axes), zip(self.blocks, self._rows(weight), strict=True)
        pairs = [block.inside.coordinates(rows) for block, rows in each]
        inside, outside = (
            torch.cat([side.flatten(-axes - 1) for side in sides], -1)
            for sides in zip(*pairs, strict=True)
        )
        return inside, outside

    def weight(self, inside: Tensor, outside: Tensor) -> Tensor:
        """The weight with these coordinates; the inverse of ``coordinates`` on TL."""
        if (inside.shape[-1], outside.shape[-1]) != self.dims:
            raise ValueError(
                f"there are {inside.shape[-1]} and {outside.shape[-1]} coordinates; accepted: "
                f"{self.dims[0]} and {self.dims[1]}"
            )
        rows = []
        for block in self.blocks:
            sizes = [block.count * n for n in block.inside.dims]
            a, inside = inside[..., : sizes[0]], inside[..., sizes[0] :]
            b, outside = outside[..., : sizes[1]], outside[..., sizes[1] :]
            pair = (  # a view also of no entries, so that they have a gradient
                x.reshape(*x.shape[:-1], *block.copies, n)
                for x, n in zip((a, b), block.inside.dims, strict=True)
            )
            rows.append(block.inside.combine(*pair))
        return self._joined(rows)

    def project(self, weight: Tensor) -> Tensor:
        """Pi_E of ``weight``."""
        each = zip(self.blocks, self._rows(weight), strict=True)
        return self._joined([block.inside.project(rows) for block, rows in each])

    def draw(self, generator: torch.Generator, runs: tuple[int, ...] = ()) -> Tensor:
        """Random weights in E, (*runs, *shape), of normal coordinates, in double precision."""
        return self._joined(
            [block.inside.draw((*runs, *block.copies), generator) for block in self.blocks]
        )

    def project_complement(self, weight: Tensor) -> Tensor:
        """Pi_{E-perp} of ``weight``: onto the complement of TE in TL."""
        kept = weight
        if self.trained is not None:
            mask = torch.from_numpy(self.trained).to(weight.device)
            kept = (self._axes(weight) * mask).reshape(weight.shape)
        return kept - self.project(weight)

    def squared_distance(self, weight: Tensor) -> Tensor:
        """|Pi_{E-perp} A|^2, a scalar; differentiable, with gradient 2 Pi_{E-perp} A."""
        each = zip(self.blocks, self._rows(weight), strict=True)
        terms = [block.inside.squared_distance(rows) for block, rows in each]
        return functools.reduce(torch.add, terms)

    def distance(self, weight: Tensor) -> Tensor:
        """|Pi_{E-perp} A|, a scalar."""
        return self.squared_distance(weight).sqrt()

    def add_complement_(self, total: Tensor, weight: Tensor, scale: float) -> None:
        """Add ``scale`` Pi_{E-perp} A to ``total``, of the same shape, in place."""
        x, whole = self._axes(weight), self._axes(total)
        (block,) = self.blocks if len(self.blocks) == 1 else (None,)
        if block and whole.data_ptr() == total.data_ptr():
            rows = block.rows(whole)
            if rows.data_ptr() == total.data_ptr() and rows.is_contiguous():  # a view
                block.inside.add_complement_(rows, block.rows(x), scale)
                return
        total.add_(self.project_complement(weight), alpha=scale)

    @property
    def dimension(self) -> int:
        """The dimension of E."""
        return self.dims[0]

    def basis(self) -> np.ndarray:
        """An orthonormal basis of E, (dimension, *shape)."""
        inside, outside = torch.eye(self.dims[0]).double(), torch.zeros(self.dims).double()
        return self.weight(inside, outside).numpy()

    def null_space(self) -> np.ndarray:
        """The same space from the constraints of generators and algebra alone, (dimension, *shape).

        Independent of ``basis``, of blocks and of any mean over the group ([18]); it forms matrices
        of the size of all weights.
        """
        joint = functools.reduce(Representation.__mul__, self.axes)
        mask = None if self.trained is None else np.broadcast_to(self.trained, self.sizes).ravel()
        return null_space(joint.constraints, mask).T.reshape(-1, *self.shape)

    def orbits(self) -> tuple[list[np.ndarray], np.ndarray] | None:
        """The orbits of a block's entries that span E, and the trained entries with no part in it.

        None where there is more than one kind of block, or the group does not permute: kernels
        refuse these.
        """
        if len(self.blocks) > 1:
            return None
        summands = self.blocks[0].summands
        joint = functools.reduce(Representation.__mul__, summands)
        if joint.permutations is None or joint.algebra is not None:
            return None
        mask = self._mask(summands)
        trained = None if mask is None else np.frombuffer(mask, bool)
        return whole_and_cut(joint.permutations, trained)

    def _axes(self, weight: Tensor) -> Tensor:
        """(..., *shape) -> (..., *sizes)."""
        if tuple(weight.shape[max(weight.ndim - len(self.shape), 0) :]) != self.shape:
            raise ValueError(
                f"weights have shape {tuple(weight.shape)}; accepted: {self.shape}, after axes of "
                "runs"
            )
        if self.shape == self.sizes:
            return weight
        lead = weight.shape[: weight.ndim - len(self.shape)]
        return weight.reshape(*lead, *self.sizes)

    @functools.cached_property
    def _order(self) -> Tensor:
        """Where the entries of all blocks, one after the other, are in the flat tensor."""
        entries = torch.arange(math.prod(self.sizes)).view(self.sizes)
        return torch.cat([block.rows(entries).flatten() for block in self.blocks])

    def _index(self, device: torch.device, *, back: bool = False) -> Tensor:
        """``_order``, or its inverse, kept for the next call."""
        key = device, back
        if key not in self._held:
            with torch.inference_mode(False):  # what is kept must serve training, too
                order = self._order.argsort() if back else self._order
                self._held[key] = order.to(device)
        return self._held[key]

    def _rows(self, weight: Tensor) -> list[Tensor]:
        """The rows of every block, (..., *copies, d) each."""
        x = self._axes(weight)
        if len(self.blocks) <= FEW:
            return [block.rows(x) for block in self.blocks]
        flat = x.flatten(-len(self.sizes)).index_select(-1, self._index(x.device))
        shapes = [(*b.copies, math.prod(s.size for s in b.summands)) for b in self.blocks]
        parts = flat.split([math.prod(shape) for shape in shapes], -1)
        return [part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True)]

    def _joined(self, rows: Sequence[Tensor]) -> Tensor:
        """The weights from the rows of every block."""
        axes = len(self.sizes)
        lead = rows[0].shape[: rows[0].ndim - axes - 1]
        if len(rows) == 1:
            return self.blocks[0].tensor(rows[0]).reshape(*lead, *self.shape)
        if len(rows) <= FEW:
            whole = rows[0].new_zeros(*lead, *self.sizes)
            for block, part in zip(self.blocks, rows, strict=True):
                block.place_(whole, block.tensor(part))
            return whole.reshape(*lead, *self.shape)
        flat = torch.cat([part.flatten(-axes - 1) for part in rows], -1)
        return flat.index_select(-1, self._index(flat.device, back=True)).view(*lead, *self.shape)


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


@functools.lru_cache(maxsize=256)
def _shared(summands: tuple[Representation, ...], mask: bytes | None, reduced: bool) -> Invariants:
    """E among the entries of one block: equal blocks of all layers share it.

    reduced: whether the summands are irreducible, so that long ones are not taken apart again.
    """
    size = math.prod(summand.size for summand in summands)
    permuted = all(summand.permutations is not None for summand in summands)
    if size > LONGEST and not permuted and mask is None and not reduced:
        return Schur(summands)
    joint = functools.reduce(Representation.__mul__, summands)
    return invariants(joint, None if mask is None else np.frombuffer(mask, bool))


def _in_order(places: np.ndarray) -> bool:
    return np.array_equal(places.reshape(-1), np.arange(places.size))


def hom(rho_in: Representation, rho_out: Representation) -> Space:
    """Hom(rho_in, rho_out), whose E are the equivariant maps A, (d_out, d_in).

    >>> from equireg.symmetry.groups import symmetric
    >>> from equireg.symmetry.representations import defining
    >>> s5 = defining(symmetric(5))
    >>> hom(s5, s5).dims  # a I + b (the matrix of ones): sets of 5, to sets
    (2, 23)
    """
    return Space(rho_out, rho_in)


def compatibility_defect(space: Space) -> float:
    """The Frobenius norm of Pi_L Pi_G - Pi_G Pi_L; 0 if the compatibility condition (b) holds.

    On one block of each kind: it is the same on every choice of copies.
    """
    if space.trained is None:
        return 0.0
    squares = 0.0
    for block in space.blocks:
        joint = functools.reduce(Representation.__mul__, block.summands)
        mask = np.frombuffer(space._mask(block.summands) or b"", bool)
        pi_l = np.diag(mask.astype(float))
        squares += float(np.square(pi_l @ joint.mean - joint.mean @ pi_l).sum())
    return math.sqrt(squares)
