"""Unitary representations: how a group acts on vectors.

A representation rho of G on R^d assigns to each element an orthogonal matrix with
rho(g h) = rho(g) rho(h) (section II, Definition 1). ``spaces`` builds E from them: a linear layer
lives in Hom(rho_in, rho_out), where g acts as A -> rho_out(g) A rho_in(g)^-1, and a convolution's
kernel is such a map from (input channels * grid of the kernel) to the output channels. The module
is long because it is one notion: what a representation is, how it acts, and how one is made.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equireg.symmetry.groups import Elements, Group, grid_permutations, permutation_matrices
from equireg.symmetry.relations import (
    TOLERANCE,
    check_algebra,
    hold_to_relations,
    orthogonal,
    permutations_of,
)


@dataclass(frozen=True, eq=False)
class Representation:
    """rho: G -> O(d), which acts on vectors of ``size`` entries.

    Exactly one of three is given: permutations, (order, d) indices with
    ``(rho(g) x) = x[permutations[g]]``, from which nothing of size d x d is formed; dense, the
    matrices (order, d, d); or parts, whose direct sum it is. algebra: (k, d, d), the images of the
    group's Lie algebra, None where they are 0; degree: up to which ``Group.quadrature`` has to be
    exact for its matrix entries. ``rho + sigma`` is the direct sum, ``3 * rho`` three copies of
    rho, and ``rho * sigma`` the tensor product, on ``torch.outer(x, y).flatten()``.

    >>> from equireg.symmetry.groups import point_group
    >>> turn = regular(point_group("C4"))
    >>> turn.act(1, torch.tensor([1.0, 2.0, 3.0, 4.0]))  # f(g^-1 h): values move on by one element
    tensor([4., 1., 2., 3.])
    >>> (2 * turn + trivial(turn.group)).size, (turn * turn).size
    (9, 16)
    >>> turn.dimension, (turn * turn).dimension  # the constants; a circulant matrix has 4 entries
    (1, 4)
    """

    group: Group
    name: str
    permutations: np.ndarray | None = None
    dense: np.ndarray | None = None
    algebra: np.ndarray | None = None
    degree: int = 0
    parts: tuple[Representation, ...] = ()
    _tensors: dict[Any, Tensor] = field(default_factory=dict, repr=False)

    @functools.cached_property
    def size(self) -> int:
        """d, the number of entries of a vector."""
        if self.permutations is not None:
            return int(self.permutations.shape[-1])
        return sum(p.size for p in self.parts) if self.dense is None else len(self.dense[0])

    @functools.cached_property
    def is_trivial(self) -> bool:
        """Whether every element acts as the identity."""
        if self.parts:
            return all(part.is_trivial for part in {id(part): part for part in self.parts}.values())
        return (
            self.algebra is None
            and self.permutations is not None
            and bool((self.permutations == np.arange(self.size)).all())
        )

    @property
    def summands(self) -> tuple[Representation, ...]:
        """Those whose direct sum this is, in the order of the entries; itself if there are none."""
        return self.parts or (self,)

    @functools.cached_property
    def kinds(self) -> tuple[tuple[Representation, np.ndarray], ...]:
        """Each kind of summand, and where its copies' entries are, (copies, d)."""
        found: dict[int, tuple[Representation, list[int]]] = {}
        known: dict[int, int] = {}
        start = 0
        for part in self.summands:
            if id(part) not in known:
                alike = (key for key, (kind, _) in found.items() if kind.equals(part))
                known[id(part)] = next(alike, id(part))
            found.setdefault(known[id(part)], (part, []))[1].append(start)
            start += part.size
        return tuple(
            (kind, np.add.outer(starts, np.arange(kind.size))) for kind, starts in found.values()
        )

    @property
    def matrices(self) -> np.ndarray:
        """rho(g) for every one of ``Group.elements``, (order, d, d) float64."""
        if self.permutations is not None:
            return permutation_matrices(self.permutations)
        return self._blocks([p.matrices for p in self.parts]) if self.dense is None else self.dense

    @property
    def generators(self) -> np.ndarray:
        """rho(s) for every generator s, (generators, d, d) float64."""
        first = self.group.cayley[:, 0]
        if self.permutations is not None:
            return permutation_matrices(self.permutations[first])
        return np.asarray(self.matrices[first])

    @functools.cached_property
    def orbits(self) -> np.ndarray:
        """The number of the orbit of each entry that is permuted, (d,)."""
        if self.permutations is None:
            raise ValueError(f"{self.name} does not permute entries, which so have no orbits")
        return np.unique(self.permutations.min(0), return_inverse=True)[1].reshape(-1)

    @property
    def constraints(self) -> np.ndarray:
        """The maps whose common null space are the invariant vectors, (any, d, d) ([18])."""
        moved = self.generators - np.eye(self.size)
        return moved if self.algebra is None else np.concatenate([moved, self.algebra])

    @staticmethod
    def _blocks(each: Sequence[np.ndarray]) -> np.ndarray:
        """Block diagonal matrices, (n, d, d), from those of the parts."""
        ends = np.cumsum([matrices.shape[-1] for matrices in each])
        blocks = np.zeros((len(each[0]), ends[-1], ends[-1]))
        for matrices, end in zip(each, ends, strict=True):
            start = end - matrices.shape[-1]
            blocks[:, start:end, start:end] = matrices
        return blocks

    @functools.cached_property
    def characters(self) -> np.ndarray:
        """The traces of rho(g) for every one of ``Group.elements``, (order,)."""
        if self.permutations is not None:
            return np.asarray((self.permutations == np.arange(self.size)).sum(1), float)
        if self.dense is None:
            return np.asarray(sum(part.characters for part in self.parts))
        return np.asarray(np.trace(self.dense, axis1=1, axis2=2))

    @property
    def dimension(self) -> int:
        """The dimension of the invariant vectors: the mean of the characters, the trace of Pi_G."""
        if self.algebra is None:
            return round(float(self.characters.mean()))
        return round(float(np.trace(self.mean)))

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """Pi_G, the mean of rho(g) over the group (section II-A), (d, d).

        Over the components it is a sum. Over the identity's, which is normal, it is the projection
        onto the null space of the Lie algebra.
        """
        mean = self.matrices.mean(0)
        if self.algebra is not None:
            import scipy.linalg

            kept = scipy.linalg.null_space(np.concatenate(self.algebra))
            mean = kept @ kept.T @ mean
        return np.asarray(mean)

    def matrices_of(self, elements: Elements) -> np.ndarray:
        """rho(g) for these elements, (n, d, d) float64."""
        matrices: np.ndarray = self.matrices[elements.index]
        if self.algebra is None:
            return matrices
        exponents = np.einsum("nk,kij->nij", elements.algebra, self.algebra)
        return np.asarray(exponentials(exponents) @ matrices)

    def tensor(self, like: Tensor) -> Tensor:
        """The permutations as they are, or the matrices in the type of ``like``, on its device.

        Raises ValueError for matrices and integers, which they would truncate.
        """
        if self.permutations is not None:
            return self._held("permutations", like.device, None)
        if not (like.is_floating_point() or like.is_complex()):
            raise ValueError(
                f"{self.name} acts by matrices, on a tensor of {like.dtype}; accepted: "
                "floating-point tensors"
            )
        return self._held("matrices", like.device, like.dtype)

    def _held(self, name: str, device: torch.device, dtype: torch.dtype | None) -> Tensor:
        """An attribute as a tensor, kept for the next call."""
        key = (name, device, dtype)
        held = self._tensors.get(key)
        if held is None:
            array = np.ascontiguousarray(getattr(self, name))
            with torch.inference_mode(False):  # what is kept must serve training, too
                tensor = torch.from_numpy(array)
                held = self._tensors[key] = tensor.to(device, dtype or tensor.dtype)
        return held

    def act(self, element: int | Elements, x: Tensor, axis: int = -1) -> Tensor:
        """rho(g) x along one axis of ``x``, g one element or its number in ``Group.elements``."""
        if x.shape[axis] != self.size:
            raise ValueError(
                f"{self.name} acts on {self.size} entries; axis {axis} of a tensor of shape "
                f"{tuple(x.shape)} has {x.shape[axis]}"
            )
        number = int(element.index[0]) if isinstance(element, Elements) else element
        if self.is_trivial or (self.algebra is None and number == 0):
            return x
        if self.permutations is not None:
            return x.index_select(axis, self.tensor(x)[number])
        if self.dense is not None:
            matrix = self.tensor(x)[number]
            if isinstance(element, Elements) and self.algebra is not None:
                matrix = torch.from_numpy(self.matrices_of(element)[0]).to(x)
            return (x.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)
        moved = [
            part.act(element, piece.unflatten(axis, (copies, part.size)), axis % x.ndim + 1)
            for (part, copies), piece in zip(self._runs, self._split(x, axis), strict=True)
        ]
        return torch.cat([piece.flatten(axis % x.ndim, axis % x.ndim + 1) for piece in moved], axis)

    def act_each(self, elements: Tensor | Elements, x: Tensor) -> Tensor:
        """rho(g_i) x_i: row i of ``x``, (rows, ..., d), moved by element i, or by its number."""
        if self.is_trivial:
            return x
        if self.dense is None and self.permutations is None:
            pieces = zip(self._runs, self._split(x, -1), strict=True)
            return torch.cat(
                [
                    part.act_each(elements, piece.unflatten(-1, (copies, part.size))).flatten(-2)
                    for (part, copies), piece in pieces
                ],
                -1,
            )
        if isinstance(elements, Elements) and self.algebra is not None:
            self.tensor(x)  # refuses integers
            each = torch.from_numpy(self.matrices_of(elements)).to(x)
        else:
            index = torch.from_numpy(elements.index) if isinstance(elements, Elements) else elements
            each = self.tensor(x)[index.to(x.device)]
        each = each.view(len(x), *(1,) * (x.ndim - 2), *each.shape[1:])
        if self.permutations is not None:
            return x.gather(-1, each.expand_as(x).long())
        return (each @ x.unsqueeze(-1)).squeeze(-1)

    @functools.cached_property
    def _runs(self) -> list[tuple[Representation, int]]:
        """The parts, those that follow on each other and are the same taken together."""
        same = itertools.groupby(self.parts, id)
        return [(run[0], len(run)) for run in (list(group) for _, group in same)]

    def _split(self, x: Tensor, axis: int) -> tuple[Tensor, ...]:
        sizes = [part.size * copies for part, copies in self._runs]
        return tuple(x.split(sizes, axis))

    def equals(self, other: Representation) -> bool:
        """Whether both act alike, whatever their names."""
        if self is other:
            return True
        if self.size != other.size:
            return False
        if self.permutations is not None and other.permutations is not None:
            return self.algebra is other.algebra is None and np.array_equal(
                self.permutations, other.permutations
            )
        if self.parts and len(self.parts) == len(other.parts):
            return all(map(Representation.equals, self.parts, other.parts))
        mine, others = (
            np.zeros(0) if rho.algebra is None else rho.algebra for rho in (self, other)
        )
        return np.array_equal(self.matrices, other.matrices) and np.array_equal(mine, others)

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
        for one, two in ((self, other), (other, self)):
            if one.size == 1 and one.is_trivial:
                return two
        algebra = _kronecker_sum(self, other)
        if self.permutations is not None and other.permutations is not None:
            joint = self.permutations[:, :, None] * other.size + other.permutations[:, None, :]
            return Representation(self.group, name, joint.reshape(self.group.order, -1))
        size = self.size * other.size
        joint = np.einsum("gab,gcd->gacbd", self.matrices, other.matrices)
        return Representation(
            self.group,
            name,
            dense=joint.reshape(-1, size, size),
            algebra=algebra,
            degree=self.degree + other.degree,
        )


def _kronecker_sum(one: Representation, two: Representation) -> np.ndarray | None:
    """The Lie algebra's images in the tensor product: X x 1 + 1 x X."""
    if one.algebra is None and two.algebra is None:
        return None
    shape = len(one.group.algebra)
    first, second = (
        np.zeros((shape, rho.size, rho.size)) if rho.algebra is None else rho.algebra
        for rho in (one, two)
    )
    pairs = zip(first, second, strict=True)
    identities = np.eye(one.size), np.eye(two.size)
    return np.stack([np.kron(x, identities[1]) + np.kron(identities[0], y) for x, y in pairs])


def trivial(group: Group, size: int = 1) -> Representation:
    """rho(g) = identity on ``size`` entries."""
    indices = np.broadcast_to(np.arange(size), (group.order, size))
    parts = (_one(group),) * size if size > 1 else ()
    return Representation(group, f"trivial({size})", indices, parts=parts)


@functools.lru_cache(maxsize=64)
def _one(group: Group) -> Representation:
    return trivial(group)


def regular(group: Group) -> Representation:
    """G on functions on G: (rho(g) f)(h) = f(g^-1 h), with entries in the order of the elements."""
    if len(group.algebra):
        raise ValueError(
            f"{group.name} has infinitely many elements, and functions on them have no end; "
            "accepted: finite groups"
        )
    if not len(group.generators):
        return trivial(group)
    steps = np.argsort(group.cayley, axis=1)
    return from_generators(group, steps.tolist(), "regular")


def defining(group: Group, degree: int | None = None) -> Representation:
    """The group's own matrices: S_n, C_n and D_n on n entries, the others on coordinates.

    degree: as ``from_generators`` takes it.
    """
    if len(group.algebra):
        return from_generators(group, group.generators, "defining", group.algebra, degree)
    if not len(group.generators):
        return trivial(group, group.elements.shape[-1])
    return from_generators(group, group.generators.tolist(), "defining")


def grid(group: Group, shape: int | Sequence[int]) -> Representation:
    """A point group on the pixels of a grid: (rho(g) x)(v) = x(g^-1 v), v from the centre.

    shape: pixels per axis, or the side of a square or a cube. Entries in row-major order. Raises
    ValueError if the group does not map this grid to itself.
    """
    if len(group.algebra):
        raise ValueError(f"{group.name} does not map grids to themselves; accepted: finite groups")
    axes = group.elements.shape[-1]
    sides = tuple(np.atleast_1d(shape).tolist()) * (1 if np.ndim(shape) else axes)
    name = f"grid {' x '.join(map(str, sides))}"
    try:
        permutations = grid_permutations(group.elements, sides)
    except ValueError as error:
        raise ValueError(f"{group.name}: {error}") from None
    if not group.moves_pixels:
        raise ValueError(
            f"{group.name} leaves pixels as they are; accepted: groups of point_group, or of "
            "generate with moves_pixels"
        )
    return Representation(group, name, permutations)


def from_generators(
    group: Group,
    generators: Sequence[Any] | np.ndarray,
    name: str = "representation",
    algebra: Sequence[Any] | np.ndarray | None = None,
    degree: int | None = None,
) -> Representation:
    """The representation with these images of ``group.generators``, one each.

    generators: index arrays p, (any, d), for permutations ``(rho(s) x) = x[p]``, or orthogonal
    matrices, (any, d, d). algebra: of a compact group, the images d rho(X) of its Lie algebra,
    (k, d, d), skew-symmetric; degree: up to which means over it have to be exact, where the group
    has no full turns that say so. Raises ValueError if they are not orthogonal or do not satisfy
    the relations of the generators, so that rho(g h) = rho(g) rho(h) cannot hold.

    A turn of the plane by twice the angle is a representation of SO(2), by half of it is none:

    >>> from equireg.symmetry.compact import PLANE, rotations
    >>> from_generators(rotations(2), [], "frequency 2", 2 * PLANE).degree
    2
    >>> from_generators(rotations(2), [], "frequency 1/2", PLANE / 2)
    Traceback (most recent call last):
    ValueError: frequency 1/2 is no representation of SO(2): a full turn is not the identity
    """
    if len(group.algebra):
        return _with_algebra(group, generators, name, algebra, degree)
    if algebra is not None:
        raise ValueError(f"{name}: {group.name} is finite and has no Lie algebra; accepted: None")
    steps = np.asarray(generators)
    if len(steps) != len(group.generators) or steps.ndim not in (2, 3) or not steps.size:
        raise ValueError(
            f"{name}: generators of shape {steps.shape}; accepted: one permutation or square "
            f"matrix for each of the {len(group.generators)} generators of {group.name}"
        )
    if steps.ndim == 3:
        steps = orthogonal(steps, name)
    if steps.ndim == 2:
        return Representation(group, name, permutations_of(group, steps, name))
    matrices = group.extend(np.eye(steps.shape[-1]), steps, np.matmul)
    for s, step in enumerate(steps):
        defect = np.abs(step @ matrices - matrices[group.cayley[s]]).max((1, 2))
        hold_to_relations(group, name, s, defect > TOLERANCE * len(step))
    return Representation(group, name, dense=matrices)


def _with_algebra(
    group: Group,
    generators: Sequence[Any] | np.ndarray,
    name: str,
    algebra: Sequence[Any] | np.ndarray | None,
    degree: int | None,
) -> Representation:
    """The representation of a compact group, checked: components, brackets, full turns."""
    images = np.zeros(0) if algebra is None else np.asarray(algebra, float)
    size = images.shape[-1]
    if images.shape != (len(group.algebra), size, size):
        raise ValueError(
            f"{name}: images of the Lie algebra of shape {images.shape}; accepted: one square "
            f"matrix for each of the {len(group.algebra)} elements of the basis of {group.name}"
        )
    if not np.allclose(images, -images.mT, atol=TOLERANCE):
        raise ValueError(f"{name}: the images of the Lie algebra are not skew-symmetric")
    steps = np.asarray(generators, float).reshape(-1, size, size)
    if len(steps) != len(group.generators):
        raise ValueError(
            f"{name}: {len(steps)} images of generators; accepted: one for each of the "
            f"{len(group.generators)} generators of {group.name}"
        )
    components = Group(group.name, group.elements, group.generators)
    dense = np.eye(size)[None]
    if len(steps):
        dense = from_generators(components, steps, name).matrices
    check_algebra(group, steps, images, name)
    turns = np.tensordot(group.full_turns, images, 1)
    if np.abs(exponentials(turns) - np.eye(size)).max(initial=0) > TOLERANCE * size:
        raise ValueError(
            f"{name} is no representation of {group.name}: a full turn is not the identity"
        )
    frequencies = np.abs(np.linalg.eigvals(turns)).max(initial=0) / (2 * np.pi)
    moving = images if np.abs(images).max(initial=0) > TOLERANCE else None
    if moving is not None and not len(turns) and degree is None:
        raise ValueError(
            f"{name}: {group.name} says no full turns, of which the degree would be read; "
            "accepted: with degree, up to which means have to be exact, or a group with turns"
        )
    if moving is None and np.allclose(dense, np.eye(size), atol=TOLERANCE):
        return Representation(group, name, trivial(group, size).permutations)
    return Representation(group, name, None, dense, moving, degree or round(float(frequencies)))


def exponentials(skew: np.ndarray) -> np.ndarray:
    """exp(X) of skew-symmetric matrices, (n, d, d): orthogonal ones, exact to rounding.

    By the eigenvectors of i X, one matrix at a time, so that its bits do not depend on the others.
    General exponentials are off by up to 6e-13 (SciPy's) and 2e-10 (torch's, of small matrices).

    >>> exponentials(np.pi / 2 * np.array([[[0.0, -1.0], [1.0, 0.0]]])).round(15).tolist()
    [[[0.0, -1.0], [1.0, 0.0]]]
    """
    values, vectors = np.linalg.eigh(1j * skew)
    turned = vectors * np.exp(-1j * values)[..., None, :]
    return np.ascontiguousarray((turned @ vectors.conj().mT).real)


def direct_sum(*parts: Representation, name: str = "") -> Representation:
    """rho_1 + rho_2 + ..., which acts on the parts' entries side by side."""
    if not parts:
        raise ValueError("direct sum of 0 representations; accepted: 1 or more")
    check_one_group(*(part.group for part in parts))
    name = name or " + ".join(part.name for part in parts)
    group, starts = parts[0].group, np.cumsum([0, *(part.size for part in parts)])
    every = tuple(summand for part in parts for summand in part.summands)
    if all(part.permutations is not None for part in parts):
        moved = [p.permutations + start for p, start in zip(parts, starts, strict=False)]
        return Representation(group, name, np.hstack(moved).astype(np.int32), parts=every)
    degree, algebra = max(part.degree for part in parts), None
    if any(part.algebra is not None for part in parts):
        k = len(group.algebra)
        each = (np.zeros((k, p.size, p.size)) if p.algebra is None else p.algebra for p in parts)
        algebra = Representation._blocks(list(each))
    return Representation(group, name, algebra=algebra, degree=degree, parts=every)


def check_one_group(*groups: Group) -> None:
    """Raise ValueError unless all of these have the same elements and act alike on pixels."""
    for group in groups[1:]:
        if group is not groups[0] and not (
            np.array_equal(group.elements, groups[0].elements)
            and np.array_equal(group.algebra, groups[0].algebra)
            and np.array_equal(group.full_turns, groups[0].full_turns)
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
