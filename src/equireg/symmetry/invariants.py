"""The vectors that a group leaves as they are, and their complement, for one representation.

Everything that the project calls E comes from here. ``spaces`` cuts the weights of a layer into
rows, each a vector of the small representation that is held here, so that nothing of the size of a
layer is ever formed.

Two ways, by what the representation is and how long its vectors are; ``spaces`` has a third, for
long vectors that are not permuted:

- ``Dense``: orthonormal bases as matrices. For permutations they are exact: the normalized
  indicators of the orbits span E, Helmert's contrasts within each orbit its complement. For other
  representations they are the eigenvectors of Pi_G.
- ``Orbitwise``: long vectors that are permuted. Each orbit is gathered and taken for itself.
"""

from __future__ import annotations

import functools
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from equireg.symmetry.representations import Representation

DENSE = 256  # up to this many entries, products with matrices are faster than gathers
LONGEST = 1024  # up to this many, a representation by matrices is taken whole, by its eigenvectors
INVARIANT = 1 - 1e-6  # eigenvalues of Pi_L Pi_G Pi_L from here on are 1: they are 1 or well below


class Invariants(Protocol):
    """E and its complement in TL, of vectors x of one representation; x: (..., d).

    dims: of E and of the complement, in TL, the vectors that are 0 on entries that are not trained.
    """

    dims: tuple[int, int]

    def coordinates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Orthonormal coordinates of x in E, (..., dims[0]), and in the complement."""

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        """The vector with these coordinates: the inverse of ``coordinates`` on TL."""

    def draw(self, copies: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Random vectors of E, (*copies, d), of normal coordinates, in double precision."""

    def project(self, x: Tensor) -> Tensor:
        """Pi_E x."""

    def squared_distance(self, x: Tensor) -> Tensor:
        """|Pi_{E-perp} x|^2 in all, a scalar; differentiable."""

    def add_complement_(self, total: Tensor, x: Tensor, scale: float) -> None:
        """Add ``scale`` Pi_{E-perp} x to ``total``, in place."""


def invariants(rho: Representation, trained: np.ndarray | None = None) -> Invariants:
    """The invariants of ``rho`` among the vectors that are 0 where ``trained`` is false, (d,)."""
    if rho.permutations is not None and rho.size > DENSE:
        return Orbitwise(rho, trained)
    if trained is not None and rho.size > LONGEST:
        raise ValueError(
            f"{rho.name} acts by matrices on {rho.size} entries, some of them not trained; "
            f"accepted: {LONGEST} entries at most"
        )
    return Dense(rho, trained)


def orbits(permutations: np.ndarray) -> list[np.ndarray]:
    """The orbits of the entries under the group, each sorted, ordered by their first entries.

    permutations: (order, d), of every element.

    >>> orbits(np.array([[0, 1, 2], [2, 1, 0]]))
    [array([0, 2]), array([1])]
    """
    number = np.unique(permutations.min(0), return_inverse=True)[1].reshape(-1)
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)


def whole_and_cut(
    permutations: np.ndarray, trained: np.ndarray | None
) -> tuple[list[np.ndarray], np.ndarray]:
    """The orbits whose entries are all trained, which span E, and the other trained entries."""
    every = orbits(permutations)
    if trained is None:
        return every, np.zeros(0, np.int64)
    cut = [orbit[trained[orbit]] for orbit in every if not trained[orbit].all()]
    whole = [orbit for orbit in every if trained[orbit].all()]
    return whole, np.sort(np.concatenate([np.zeros(0, np.int64), *cut]))


def orbit_bases(
    permutations: np.ndarray, trained: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases of E, (d, dim E), and of its complement in TL, from the orbits.

    E is spanned by the normalized indicators of the orbits that are trained as a whole; within
    such an orbit the complement is spanned by the vectors that sum to zero (Helmert's contrasts),
    within one that the support cuts by its entries.

    Swapping the first and the last of three numbers leaves two dimensions and takes one:

    >>> inside, outside = orbit_bases(np.array([[0, 1, 2], [2, 1, 0]]))
    >>> (inside**2).round(3)
    array([[0.5, 0. ],
           [0. , 1. ],
           [0.5, 0. ]])
    >>> (outside**2).round(3).tolist()
    [[0.5], [0.0], [0.5]]
    """
    import scipy.linalg

    entries = np.eye(permutations.shape[-1])
    equivariant, complement = [entries[:, :0]], [entries[:, :0]]
    for orbit in orbits(permutations):
        inside = np.ones(len(orbit), bool) if trained is None else trained[orbit]
        if inside.all():
            helmert = entries[:, orbit] @ scipy.linalg.helmert(len(orbit), full=True).T
            equivariant.append(helmert[:, :1])
            complement.append(helmert[:, 1:])
        else:
            complement.append(entries[:, orbit[inside]])
    return np.hstack(equivariant), np.hstack(complement)


def eigen_bases(
    mean: np.ndarray, trained: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The same from Pi_G, (d, d): the eigenvectors of Pi_L Pi_G Pi_L on TL, of eigenvalue 1.

    Those of a smaller eigenvalue span the complement; it is between 0 and 1 only where the
    support cuts what the group moves.
    """
    kept = np.arange(len(mean)) if trained is None else np.flatnonzero(trained)
    values, vectors = np.linalg.eigh((mean + mean.T)[np.ix_(kept, kept)] / 2)
    whole = np.zeros((len(mean), len(kept)))
    whole[kept] = vectors
    inside = values > INVARIANT
    return whole[:, inside], whole[:, ~inside]


def null_space(constraints: np.ndarray, trained: np.ndarray | None = None) -> np.ndarray:
    """An orthonormal basis of E, (d, dim E), as the null space of its constraints ([18]).

    constraints: (any, d, d), rho(s) - I for generators s of the group, or d rho(X) for those of its
    Lie algebra. Independent of orbits and of any mean over the group, and so their oracle.
    """
    import scipy.linalg

    identity = np.eye(constraints.shape[-1])
    fixed = identity[:0] if trained is None else identity[~trained]
    rows = [np.zeros((1, len(identity))), fixed, *constraints]
    return np.asarray(scipy.linalg.null_space(np.vstack(rows)))


class _Held:
    """Arrays as tensors, in the type and on the device that they are asked for, kept."""

    def __init__(self) -> None:
        self._tensors: dict[Any, Tensor] = {}

    def held(self, name: str, like: Tensor) -> Tensor:
        """An attribute, floating or of indices, as a tensor beside ``like``.

        Raises ValueError for integers, which projections would truncate.
        """
        if not like.is_floating_point() and not like.is_complex():
            raise ValueError(f"weights are of {like.dtype}; accepted: floating-point tensors")
        key = (name, like.device, like.dtype)
        found = self._tensors.get(key)
        if found is None:
            array = getattr(self, name)
            dtype = torch.int64 if array.dtype.kind == "i" else like.dtype
            with torch.inference_mode(False):  # what is kept must serve training, too
                found = torch.from_numpy(np.ascontiguousarray(array)).to(like.device, dtype)
            self._tensors[key] = found
        return found


class Dense(_Held):
    """By matrices, each (d, any): ``equivariant`` and ``complement``, the orthonormal bases."""

    def __init__(self, rho: Representation, trained: np.ndarray | None = None) -> None:
        super().__init__()
        if rho.permutations is not None:
            self.equivariant, self.complement = orbit_bases(rho.permutations, trained)
        else:
            self.equivariant, self.complement = eigen_bases(rho.mean, trained)
        self.dims = self.equivariant.shape[1], self.complement.shape[1]

    @functools.cached_property
    def inside(self) -> np.ndarray:
        """Pi_E, (d, d)."""
        return np.asarray(self.equivariant @ self.equivariant.T)

    @functools.cached_property
    def outside(self) -> np.ndarray:
        """Pi_{E-perp}, (d, d)."""
        return np.asarray(self.complement @ self.complement.T)

    def coordinates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # One product of matrices; of a gradient that lies otherwise there were many.
        x = x.contiguous()
        return x @ self.held("equivariant", x), x @ self.held("complement", x)

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ self.held("equivariant", a).mT + b @ self.held("complement", b).mT

    def draw(self, copies: tuple[int, ...], generator: torch.Generator) -> Tensor:
        a = torch.randn(*copies, self.dims[0], generator=generator, dtype=torch.float64)
        return a @ self.held("equivariant", a).mT

    def project(self, x: Tensor) -> Tensor:
        return x @ self.held("inside", x)

    def squared_distance(self, x: Tensor) -> Tensor:
        basis, outside = self.held("complement", x), self.held("outside", x)
        return torch.as_tensor(_SquaredNorm.apply(x, basis, outside))

    def add_complement_(self, total: Tensor, x: Tensor, scale: float) -> None:
        outside = self.held("outside", x)
        if total.is_contiguous():
            rows = total.view(-1, len(outside))
            rows.addmm_(x.reshape(rows.shape), outside, alpha=scale)
        else:
            total.add_(x @ outside, alpha=scale)


class Orbitwise(_Held):
    """By orbits of permuted entries, those of one length together, each in turn.

    Coordinates run over the lengths; within one, over its orbits.
    """

    def __init__(self, rho: Representation, trained: np.ndarray | None = None) -> None:
        super().__init__()
        assert rho.permutations is not None
        self.size = rho.size
        whole, self.cut = whole_and_cut(rho.permutations, trained)
        self.lengths = sorted({len(orbit) for orbit in whole})
        for length in self.lengths:
            members = np.array([orbit for orbit in whole if len(orbit) == length])
            setattr(self, f"members{length}", members)
            setattr(self, f"contrasts{length}", _helmert(length))
        entries = sum(len(orbit) for orbit in whole) + len(self.cut)
        self.dims = len(whole), entries - len(whole)

    def _members(self, x: Tensor, length: int) -> Tensor:
        """The entries of the orbits of this length, (..., orbits, length)."""
        members = self.held(f"members{length}", x)
        return x.index_select(-1, members.flatten()).view(*x.shape[:-1], *members.shape)

    def coordinates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = [x[..., :0]], list[Tensor]()
        for length in self.lengths:
            turned = self._members(x, length) @ self.held(f"contrasts{length}", x).mT
            a.append(turned[..., 0])
            b.append(turned[..., 1:].flatten(-2))
        return torch.cat(a, -1), torch.cat([*b, x.index_select(-1, self.held("cut", x))], -1)

    def combine(self, a: Tensor, b: Tensor) -> Tensor:
        x = a.new_zeros(*a.shape[:-1], self.size)
        for length in self.lengths:
            members = self.held(f"members{length}", a)
            count = len(members)
            mine, a = a[..., :count, None], a[..., count:]
            other, b = b[..., : count * (length - 1)], b[..., count * (length - 1) :]
            both = torch.cat([mine, other.unflatten(-1, (count, length - 1))], -1)
            entries = both @ self.held(f"contrasts{length}", both)
            x = x.index_copy(-1, members.flatten(), entries.flatten(-2))
        return x.index_copy(-1, self.held("cut", a), b)

    def draw(self, copies: tuple[int, ...], generator: torch.Generator) -> Tensor:
        a, b = (
            torch.randn(*copies, self.dims[0], generator=generator, dtype=torch.float64),
            torch.zeros(*copies, self.dims[1], dtype=torch.float64),
        )
        return self.combine(a, b)

    def project(self, x: Tensor) -> Tensor:
        mean = torch.zeros_like(x)
        for length in self.lengths:
            members = self._members(x, length)
            means = members.mean(-1, keepdim=True).expand_as(members).flatten(-2)
            mean = mean.index_copy(-1, self.held(f"members{length}", x).flatten(), means)
        return mean

    def squared_distance(self, x: Tensor) -> Tensor:
        total = x.index_select(-1, self.held("cut", x)).square().sum()
        for length in self.lengths:
            members = self._members(x, length)
            total = total + (members - members.mean(-1, keepdim=True)).square().sum()
        return total

    def add_complement_(self, total: Tensor, x: Tensor, scale: float) -> None:
        for length in self.lengths:
            members = self._members(x, length)
            beside = (members - members.mean(-1, keepdim=True)).flatten(-2)
            index = self.held(f"members{length}", x).flatten()
            total.index_add_(-1, index, beside, alpha=scale)
        cut = self.held("cut", x)
        total.index_add_(-1, cut, x.index_select(-1, cut), alpha=scale)


def _helmert(length: int) -> np.ndarray:
    """Helmert's orthogonal matrix, (length, length): the mean first, then the contrasts."""
    import scipy.linalg

    return np.asarray(scipy.linalg.helmert(length, full=True))


class _SquaredNorm(torch.autograd.Function):
    """|x B|^2 for rows x, with gradient 2 x B B^T in one product.

    It keeps no coordinates between the two: on a CPU, fresh memory costs more than the products.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, basis: Tensor, outside: Tensor) -> Tensor:
        return (rows @ basis).square_().sum()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0], inputs[2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        rows, outside = ctx.saved_tensors
        return rows @ (outside * (2 * gradient)), None, None
