"""Unitary representations of finite groups, and the linear maps that are equivariant for them.

A representation rho of G on R^d assigns to each element an orthogonal matrix with
rho(g h) = rho(g) rho(h). The spaces of section II of the paper are built from them: a linear layer
lives in Hom(rho_in, rho_out), where g acts as A -> rho_out(g) A rho_in(g)^-1, and a convolution's
kernel is such a map from (input channels * grid of the kernel) to the output channels.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from equireg.symmetry.groups import Group, grid_permutations, permutation_matrices
from equireg.symmetry.projections import null_space_basis

TOLERANCE = 1e-8  # of orthogonality and of the homomorphism, per matrix entry
SMALL = 64  # up to this dimension, a product with a d x d matrix is faster than a gather
LARGE = 2**24  # up to this many numbers, a tensor product of representations is formed


@dataclass(frozen=True, eq=False)
class Representation:
    """rho: G -> O(d), which acts on vectors of ``size`` entries.

    Exactly one of the two is given: permutations, (order, d) indices with
    ``(rho(g) x) = x[permutations[g]]``, from which nothing of size d x d is formed; or dense, the
    matrices (order, d, d). ``rho + sigma`` is the direct sum, ``3 * rho`` three copies of rho, and
    ``rho * sigma`` the tensor product, on ``torch.outer(x, y).flatten()``.
    """

    group: Group
    name: str
    permutations: np.ndarray | None = None
    dense: np.ndarray | None = None
    _tensors: dict[Any, Tensor] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        """d, the number of entries of a vector."""
        held = self.dense if self.permutations is None else self.permutations
        assert held is not None
        return int(held.shape[-1])

    @functools.cached_property
    def is_trivial(self) -> bool:
        """Whether every element acts as the identity."""
        return self.permutations is not None and bool(
            (self.permutations == np.arange(self.size)).all()
        )

    @property
    def matrices(self) -> np.ndarray:
        """rho(g) for every element, (order, d, d) float64."""
        if self.permutations is None:
            assert self.dense is not None
            return self.dense
        return permutation_matrices(self.permutations)

    @property
    def generators(self) -> np.ndarray:
        """rho(s) for every generator s, (generators, d, d) float64."""
        if self.permutations is None:
            assert self.dense is not None
            return np.asarray(self.dense[self.group.cayley[:, 0]])
        return permutation_matrices(self.permutations[self.group.cayley[:, 0]])

    @functools.cached_property
    def characters(self) -> np.ndarray:
        """The traces of rho(g), (order,)."""
        if self.permutations is None:
            return np.asarray(np.trace(self.matrices, axis1=1, axis2=2))
        return np.asarray((self.permutations == np.arange(self.size)).sum(1), float)

    def tensor(self, like: Tensor) -> Tensor:
        """The permutations as int64, or the matrices in the type of ``like``, on its device.

        Raises ValueError for matrices and integers, which they would truncate.
        """
        if self.permutations is not None:
            return self._held("permutations", like.device, torch.int64)
        if not (like.is_floating_point() or like.is_complex()):
            raise ValueError(
                f"{self.name} acts by matrices, on a tensor of {like.dtype}; accepted: "
                "floating-point tensors"
            )
        return self._held("matrices", like.device, like.dtype)

    def _held(self, name: str, device: torch.device, dtype: torch.dtype) -> Tensor:
        """An attribute as a tensor, kept for the next call."""
        key = (name, device, dtype)
        held = self._tensors.get(key)
        if held is None:
            array = np.ascontiguousarray(getattr(self, name))
            with torch.inference_mode(False):  # what is kept must serve training, too
                held = self._tensors[key] = torch.from_numpy(array).to(device, dtype)
        return held

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """Pi_G, the mean of rho(g) over the group (section II-A), (d, d)."""
        return np.asarray(self.matrices.mean(0))

    @functools.cached_property
    def orbits(self) -> np.ndarray:
        """The number of the orbit of each entry, (d,)."""
        assert self.permutations is not None
        return np.unique(self.permutations.min(0), return_inverse=True)[1]

    @functools.cached_property
    def members(self) -> np.ndarray:
        """The entries of each orbit, one per element of the group, (orbits, order)."""
        assert self.permutations is not None
        return self.permutations[:, np.unique(self.orbits, return_index=True)[1]].T

    @functools.cached_property
    def shares(self) -> np.ndarray:
        """The length of each orbit, as a share of the group's order, (orbits,)."""
        return np.bincount(self.orbits) / self.group.order

    @functools.cached_property
    def away(self) -> np.ndarray:
        """I - Pi_G, (d, d)."""
        return np.asarray(np.eye(self.size) - self.mean)

    @functools.cached_property
    def complement(self) -> np.ndarray:
        """An orthonormal basis of the complement of the invariant vectors, (d, d - dim E)."""
        return np.asarray(scipy.linalg.null_space(TensorProduct(self).basis()))

    def act(self, element: int, x: Tensor, axis: int = -1) -> Tensor:
        """rho(g) x for the element with this number, along one axis of ``x``."""
        if x.shape[axis] != self.size:
            raise ValueError(
                f"{self.name} acts on {self.size} entries; axis {axis} of a tensor of shape "
                f"{tuple(x.shape)} has {x.shape[axis]}"
            )
        if self.is_trivial:
            return x
        if self.permutations is not None:
            return x.index_select(axis, self.tensor(x)[element])
        return (x.movedim(axis, -1) @ self.tensor(x)[element].mT).movedim(-1, axis)

    def act_each(self, elements: Tensor, x: Tensor) -> Tensor:
        """rho(g_i) x_i: row i of ``x``, (rows, ..., d), moved by the element ``elements[i]``."""
        if self.is_trivial:
            return x
        each = self.tensor(x)[elements]
        each = each.view(len(x), *(1,) * (x.ndim - 2), *each.shape[1:])
        if self.permutations is not None:
            return x.gather(-1, each.expand_as(x))
        return (each @ x.unsqueeze(-1)).squeeze(-1)

    def equals(self, other: Representation) -> bool:
        """Whether both act alike, whatever their names."""
        return self.size == other.size and all(
            np.array_equal(a, b) if a is not None and b is not None else a is b is None
            for a, b in ((self.permutations, other.permutations), (self.dense, other.dense))
        )

    def __add__(self, other: Representation) -> Representation:
        return direct_sum(self, other)

    def __rmul__(self, copies: int) -> Representation:
        if not isinstance(copies, int) or copies < 1:
            raise ValueError(f"{copies} copies of {self.name}; accepted: a number, 1 or more")
        if self.is_trivial:
            return trivial(self.group, copies * self.size)
        return direct_sum(*[self] * copies, name=f"{copies} * {self.name}")

    def __mul__(self, other: Representation) -> Representation:
        if not isinstance(other, Representation):
            return NotImplemented  # copies are written 3 * rho
        check_one_group(self.group, other.group)
        name = f"({self.name}) * ({other.name})"
        if self.permutations is not None and other.permutations is not None:
            joint = self.permutations[:, :, None] * other.size + other.permutations[:, None, :]
            return Representation(self.group, name, joint.reshape(self.group.order, -1))
        size = self.size * other.size
        joint = np.einsum("gab,gcd->gacbd", self.matrices, other.matrices)
        return Representation(self.group, name, dense=joint.reshape(-1, size, size))


def trivial(group: Group, size: int = 1) -> Representation:
    """rho(g) = identity on ``size`` entries."""
    indices = np.broadcast_to(np.arange(size), (group.order, size))
    return Representation(group, f"trivial({size})", indices)


def regular(group: Group) -> Representation:
    """G on functions on G: (rho(g) f)(h) = f(g^-1 h), with entries in the order of the elements."""
    if not len(group.generators):
        return trivial(group)
    steps = np.argsort(group.cayley, axis=1)
    return from_generators(group, steps.tolist(), "regular")


def defining(group: Group) -> Representation:
    """The group's own matrices: S_n, C_n and D_n on n entries, point groups on coordinates."""
    if not len(group.generators):
        return trivial(group, group.elements.shape[-1])
    return from_generators(group, group.generators.tolist(), "defining")


def grid(group: Group, shape: int | Sequence[int]) -> Representation:
    """A point group on the pixels of a grid: (rho(g) x)(v) = x(g^-1 v), v from the centre.

    shape: pixels per axis, or the side of a square or a cube. Entries in row-major order. Raises
    ValueError if the group does not map this grid to itself.
    """
    axes = group.elements.shape[-1]
    sides = tuple(np.atleast_1d(shape).tolist()) * (1 if np.ndim(shape) else axes)
    name = f"grid {' x '.join(map(str, sides))}"
    try:
        return Representation(group, name, grid_permutations(group.elements, sides))
    except ValueError as error:
        raise ValueError(f"{group.name}: {error}") from None


def from_generators(
    group: Group, generators: Sequence[Any], name: str = "representation"
) -> Representation:
    """The representation with these images of ``group.generators``, one each.

    generators: index arrays p, (any, d), for permutations ``(rho(s) x) = x[p]``, or orthogonal
    matrices, (any, d, d). Raises ValueError if they are not orthogonal or do not satisfy the
    relations of the generators, so that rho(g h) = rho(g) rho(h) cannot hold.
    """
    steps = np.asarray(generators)
    if len(steps) != len(group.generators) or steps.ndim not in (2, 3) or not steps.size:
        raise ValueError(
            f"{name}: generators of shape {steps.shape}; accepted: one permutation or square "
            f"matrix for each of the {len(group.generators)} generators of {group.name}"
        )
    if steps.ndim == 3:
        steps = _orthogonal(steps, name)
    if steps.ndim == 2:
        return Representation(group, name, _permutations(group, steps, name))
    matrices = group.extend(np.eye(steps.shape[-1]), steps, np.matmul)
    for s, step in enumerate(steps):
        defect = np.abs(step @ matrices - matrices[group.cayley[s]]).max((1, 2))
        _homomorphism(group, name, s, defect > TOLERANCE * len(step))
    return Representation(group, name, dense=matrices)


def direct_sum(*parts: Representation, name: str = "") -> Representation:
    """rho_1 + rho_2 + ..., which acts on the parts' entries side by side."""
    if not parts:
        raise ValueError("direct sum of 0 representations; accepted: 1 or more")
    check_one_group(*(part.group for part in parts))
    name = name or " + ".join(part.name for part in parts)
    group, starts = parts[0].group, np.cumsum([0, *(part.size for part in parts)])
    if all(part.permutations is not None for part in parts):
        moved = [p.permutations + start for p, start in zip(parts, starts, strict=False)]
        return Representation(group, name, np.hstack(moved))
    blocks = np.zeros((group.order, starts[-1], starts[-1]))
    for part, start in zip(parts, starts, strict=False):
        end = start + part.size
        blocks[:, start:end, start:end] = part.matrices
    return Representation(group, name, dense=blocks)


class TensorProduct:
    """rho_1 * rho_2 * ..., acting on the last axes of a tensor without being formed.

    A tensor's axis k, of ``shape[k]`` entries, is moved by ``axes[k]``. Hom(rho_in, rho_out) is the
    tensor product of rho_out and rho_in, as rho_out(g) A rho_in(g)^-1 moves the rows of A by
    rho_out and the columns by rho_in.
    """

    def __init__(self, *axes: Representation) -> None:
        check_one_group(*(axis.group for axis in axes))
        self.axes, self.group = axes, axes[0].group
        self.shape = tuple(axis.size for axis in axes)
        self._moved = [(i - len(axes), a) for i, a in enumerate(axes) if not a.is_trivial]

    @functools.cached_property
    def _joint(self) -> Representation | None:
        """The tensor product of the axes that are moved, where forming it pays."""
        moved = [axis for _, axis in self._moved]
        size = math.prod(axis.size for axis in moved)
        dense = any(axis.permutations is None for axis in moved)
        entries = self.group.order * (size**2 if dense else size)
        if not moved or (len(moved) > 1 and entries > LARGE):
            return None
        return functools.reduce(Representation.__mul__, moved)

    @property
    def _by_matrix(self) -> bool:
        joint = self._joint
        return joint is not None and (joint.size <= SMALL or joint.permutations is None)

    def _rows(self, x: Tensor) -> Tensor:
        """The axes that are moved, flattened into the last one; (..., d)."""
        axes = [axis for axis, _ in self._moved]
        return x.movedim(axes, list(range(-len(axes), 0))).flatten(-len(axes))

    def _tensor(self, rows: Tensor, like: Tensor) -> Tensor:
        """The inverse of ``_rows``."""
        axes = [axis for axis, _ in self._moved]
        shape = (*rows.shape[:-1], *(like.shape[axis] for axis in axes))
        return rows.reshape(shape).movedim(list(range(-len(axes), 0)), axes)

    @property
    def is_trivial(self) -> bool:
        """Whether every element acts as the identity."""
        return not self._moved

    def equals(self, other: TensorProduct) -> bool:
        """Whether both act alike, axis by axis; those of a single trivial entry do not matter."""
        ones, twos = (
            [axis for axis in product.axes if axis.size > 1 or not axis.is_trivial]
            for product in (self, other)
        )
        return len(ones) == len(twos) and all(map(Representation.equals, ones, twos))

    @property
    def dimension(self) -> int:
        """The dimension of the space of invariant tensors, the mean of the characters."""
        return round(float(np.mean(math.prod(axis.characters for axis in self.axes))))

    def act(self, element: int, x: Tensor) -> Tensor:
        """rho(g) x, (..., *shape); for Hom: rho_out(g) A rho_in(g)^-1."""
        for axis, representation in self._moved:
            x = representation.act(element, x, axis)
        return x

    def project(self, x: Tensor) -> Tensor:
        """Pi_G x, the mean of rho(g) x over the group (section II-A); (..., *shape)."""
        if self.is_trivial:
            return x.clone()
        if self._joint is None:
            total = x.clone()
            for element in range(1, self.group.order):
                total = total + self.act(element, x)
            return total / self.group.order
        rows = self._rows(x)
        if self._by_matrix:
            return self._tensor(rows @ self._joint._held("mean", x.device, x.dtype), x)
        orbits = self._joint._held("orbits", x.device, torch.int64)
        return self._tensor(self._members(rows).mean(-1).index_select(-1, orbits), x)

    def squared_distance(self, x: Tensor) -> Tensor:
        """|x - Pi_G x|^2, the squared distance to the invariant tensors; differentiable."""
        if self._joint is None:
            return (x - self.project(x)).square().sum()
        rows = self._rows(x)
        if self._by_matrix:
            basis = self._joint._held("complement", x.device, x.dtype)
            return torch.as_tensor(_SquaredNorm.apply(rows, basis))
        members = self._members(rows)
        squares = (members - members.mean(-1, keepdim=True)).square().sum(-1)
        return (squares * self._joint._held("shares", x.device, x.dtype)).sum()

    def _members(self, rows: Tensor) -> Tensor:
        """The entries of each orbit, (..., orbits, order)."""
        assert self._joint is not None
        members = self._joint._held("members", rows.device, torch.int64)
        shape = (*rows.shape[:-1], *members.shape)
        return rows.index_select(-1, members.flatten()).reshape(shape)

    def add_complement_(self, total: Tensor, x: Tensor, scale: float) -> None:
        """Add ``scale`` (x - Pi_G x) to ``total``, in place."""
        last = [axis for axis, _ in self._moved] == [-1]
        if self._joint and self._by_matrix and last and total.is_contiguous():
            away = self._joint._held("away", x.device, x.dtype)
            rows = total.view(-1, len(away))
            rows.addmm_(x.reshape(rows.shape), away, alpha=scale)
            return
        total.add_(x - self.project(x), alpha=scale)

    def basis(self) -> np.ndarray:
        """An orthonormal basis of the invariant tensors, (dimension, *shape), by averaging.

        For permutations, the normalized indicators of the orbits of the entries.
        """
        size = math.prod(self.shape)
        if all(axis.permutations is not None for axis in self.axes):
            moved = functools.reduce(Representation.__mul__, self.axes).permutations
            assert moved is not None
            first, orbit = np.unique(moved.min(0), return_inverse=True)
            basis = np.zeros((len(first), size))
            basis[orbit, np.arange(size)] = 1 / np.sqrt(np.bincount(orbit))[orbit]
        else:
            entries = torch.eye(size, dtype=torch.float64).view(size, *self.shape)
            values, vectors = np.linalg.eigh(self.project(entries).reshape(size, size).numpy())
            basis = vectors[:, values > 0.5].T
        return basis.reshape(-1, *self.shape)

    def null_space(self) -> np.ndarray:
        """The same space from the generators' constraints (rho(s) - I) x = 0 ([18]).

        Independent of ``basis`` and of any sum over the group; forms matrices of the product's
        dimension.
        """
        size = math.prod(self.shape)
        steps = [axis.generators for axis in self.axes]
        products = [functools.reduce(np.kron, step) for step in zip(*steps, strict=True)]
        basis = null_space_basis(np.array(products), np.ones(size, bool))
        return basis.T.reshape(-1, *self.shape)


class _SquaredNorm(torch.autograd.Function):
    """|x B|^2 for rows x, with gradient 2 x B B^T in one product.

    It keeps no coordinates between the two: on a CPU, fresh memory costs more than the products.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, basis: Tensor) -> Tensor:
        return (rows @ basis).square_().sum()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        rows, basis = ctx.saved_tensors
        return rows @ (basis @ basis.mT * (2 * gradient)), None


def hom(rho_in: Representation, rho_out: Representation) -> TensorProduct:
    """Hom(rho_in, rho_out), whose invariants are the equivariant maps A, (d_out, d_in)."""
    return TensorProduct(rho_out, rho_in)


def check_one_group(*groups: Group) -> None:
    """Raise ValueError unless all of these have the same elements and act alike on pixels."""
    for group in groups[1:]:
        if group is not groups[0] and not (
            np.array_equal(group.elements, groups[0].elements)
            and group.moves_pixels == groups[0].moves_pixels
        ):
            one, two = (
                f"{g.name} ({g.order} matrices of size {g.elements.shape[-1]}"
                + (", which move pixels)" if g.moves_pixels else ")")
                for g in (groups[0], group)
            )
            raise ValueError(
                f"representations of {one} and of {two} meet; accepted: those of one group: make "
                "all of them from the same Group, which the group= of Equivariance takes too"
            )


def _orthogonal(steps: np.ndarray, name: str) -> np.ndarray:
    """The matrices, checked; as index arrays if all of them are permutation matrices."""
    if steps.shape[1] != steps.shape[2]:
        raise ValueError(f"{name}: matrices of shape {steps.shape[1:]}; accepted: square ones")
    for s, step in enumerate(steps):
        defect = np.abs(step @ step.T - np.eye(len(step))).max()
        if not defect < TOLERANCE:
            raise ValueError(
                f"{name}: the matrix of generator {s} is not orthogonal (rho rho^T differs from "
                f"the identity by {defect:.3g})"
            )
    return steps.argmax(2) if np.isin(steps, (0, 1)).all() else steps


def _permutations(group: Group, steps: np.ndarray, name: str) -> np.ndarray:
    """The index arrays of all elements, (order, d), from those of the generators."""
    identity = np.arange(steps.shape[1])
    for s, step in enumerate(steps):
        if not (np.sort(step) == identity).all():
            raise ValueError(
                f"{name}: {step.tolist()}, of generator {s}, is no permutation; accepted: each of "
                f"0 to {len(step) - 1} once"
            )
    permutations = group.extend(identity, steps, lambda step, p: p[step])
    for s, step in enumerate(steps):
        differs = permutations[:, step] != permutations[group.cayley[s]]
        _homomorphism(group, name, s, differs.any(1))
    return permutations


def _homomorphism(group: Group, name: str, step: int, differs: np.ndarray) -> None:
    if differs.any():
        raise ValueError(
            f"{name} is no representation of {group.name}: rho(s) rho(g) is not rho(s g) for "
            f"generator {step} and element {int(differs.argmax())}; accepted: matrices that "
            "satisfy the relations of the group's generators"
        )
