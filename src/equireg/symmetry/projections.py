"""The equivariant subspace E of a layer, its complement, and the projections onto both.

Notation of the paper, section II: L is the affine space of layers that the architecture allows,
TL its tangent space, H_G the space of equivariant layers, E their intersection. A layer here is
many copies of one grid of trainable numbers: the filters of a convolution (one grid per pair of
channels), or the rows of a linear layer on an image (one grid per output and channel), with
channels and outputs carrying the trivial representation. Then rho_out(g) A rho_in(g)^-1 permutes
the entries of each grid alike, and everything below is said of one grid of p entries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from equireg.settings import Support
from equireg.symmetry.groups import Group, grid_permutations, permutation_matrices


def orbits(permutations: np.ndarray) -> list[np.ndarray]:
    """The orbits of the entries under the group, each sorted, ordered by their first entries."""
    return [np.array(orbit) for orbit in sorted({tuple(sorted(set(o))) for o in permutations.T})]


def average(permutations: np.ndarray) -> np.ndarray:
    """Pi_G, the mean of rho(g) over the group (section II-A); (p, p)."""
    return np.asarray(permutation_matrices(permutations).mean(0))


def support_mask(support: Support, size: int) -> np.ndarray:
    """Which entries of a size x size filter are trained; (size, size) of bool.

    full: all; cross: the middle row and column; lopsided: all but the last column, which
    every element but the identity moves.
    """
    mask = np.ones((size, size), bool)
    if support == "cross":
        middle = np.arange(size) == size // 2
        mask = middle[:, None] | middle[None, :]
    elif support == "lopsided":
        mask[:, -1] = False
    return mask


def compatibility_defect(permutations: np.ndarray, mask: np.ndarray) -> float:
    """The Frobenius norm of Pi_L Pi_G - Pi_G Pi_L; 0 if the compatibility condition (b) holds."""
    pi_l, pi_g = np.diag(mask.ravel().astype(float)), average(permutations)
    return float(np.linalg.norm(pi_l @ pi_g - pi_g @ pi_l))


def check_compatible(group: Group, support: Support, size: int) -> None:
    """Raise ValueError if filters with this support violate the compatibility condition."""
    mask = support_mask(support, size)
    defect = compatibility_defect(grid_permutations(group.elements, size), mask)
    if defect > 1e-12:
        raise ValueError(
            f"support is {support!r}: the compatibility condition Pi_L Pi_G = Pi_G Pi_L is "
            f"violated (norm of the difference {defect:.3g}), because {group.name} moves entries "
            f"of the {size}x{size} filter out of its support; take a support that {group.name} "
            "maps to itself (full, cross), or set allow_incompatible_support: true"
        )


def orbit_bases(permutations: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal bases of E and of its complement in TL, by averaging over orbits.

    Returns (p, dim E) and (p, dim TL - dim E). E is spanned by the normalized indicators of the
    orbits that lie within the support; within such an orbit the complement is spanned by the
    vectors that sum to zero (Helmert's basis), within an orbit cut by the support by its entries.
    """
    entries = np.eye(permutations.shape[-1])
    equivariant: list[np.ndarray] = []
    complement: list[np.ndarray] = []
    for orbit in orbits(permutations):
        inside = mask.ravel()[orbit]
        if inside.all():
            helmert = entries[:, orbit] @ scipy.linalg.helmert(len(orbit), full=True).T
            equivariant.append(helmert[:, :1])
            complement.append(helmert[:, 1:])
        else:
            complement.append(entries[:, orbit[inside]])
    none = entries[:, :0]
    return np.hstack([none, *equivariant]), np.hstack([none, *complement])


def null_space_basis(generators: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An orthonormal basis of E, (p, dim E), as the null space of its constraints ([18]).

    The constraints are (rho(h) - I) a = 0 for each generator h, (any, p, p), and (I - Pi_L) a = 0.
    Independent of ``orbit_bases``, and its oracle: it needs no orbits and no sum over the group.
    """
    identity = np.eye(mask.size)
    constraints = [identity[~mask.ravel()], *(generator - identity for generator in generators)]
    return np.asarray(scipy.linalg.null_space(np.vstack([np.zeros((1, mask.size)), *constraints])))


@dataclass(frozen=True)
class LayerSpace:
    """One layer's TL = TE + TE-perp in orthonormal coordinates, alike for each grid of the layer.

    shape: of the weights, (rows, columns, side, side), the grid last; permutations: (order, p)
    as of ``grid_permutations``; equivariant (p, e) and complement (p, c): the orthonormal bases.
    Weights and coordinates may have leading axes (runs): weights (..., *shape), coordinates
    (..., rows, columns, e) and (..., rows, columns, c).
    """

    shape: tuple[int, int, int, int]
    permutations: np.ndarray
    equivariant: Tensor
    complement: Tensor

    @classmethod
    def build(cls, shape: tuple[int, int, int, int], group: Group, support: Support) -> LayerSpace:
        """The space of layers of this shape whose grids are trained on ``support``."""
        permutations = grid_permutations(group.elements, shape[-1])
        bases = orbit_bases(permutations, support_mask(support, shape[-1]))
        return cls(shape, permutations, *map(torch.from_numpy, bases))

    def to(self, *args: Any, **kwargs: Any) -> LayerSpace:
        """The same space with its bases moved as by ``Tensor.to``."""
        return replace(
            self,
            equivariant=self.equivariant.to(*args, **kwargs),
            complement=self.complement.to(*args, **kwargs),
        )

    @property
    def dimensions(self) -> tuple[int, int]:
        """The dimensions of E and of its complement."""
        grids = self.shape[0] * self.shape[1]
        return grids * self.equivariant.shape[1], grids * self.complement.shape[1]

    def coordinates(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The coordinates of ``weight`` in E and in the complement."""
        grids = weight.flatten(-2)
        return grids @ self.equivariant, grids @ self.complement

    def weight(self, equivariant: Tensor, complement: Tensor) -> Tensor:
        """The weight with these coordinates; the inverse of ``coordinates`` on TL."""
        grids = equivariant @ self.equivariant.mT + complement @ self.complement.mT
        return grids.view(*grids.shape[:-1], *self.shape[-2:])

    def project_equivariant(self, weight: Tensor) -> Tensor:
        """Pi_E of ``weight``."""
        return ((weight.flatten(-2) @ self.equivariant) @ self.equivariant.mT).view_as(weight)

    def project_complement(self, weight: Tensor) -> Tensor:
        """Pi_{E-perp} of ``weight``: onto the complement of TE in TL."""
        return ((weight.flatten(-2) @ self.complement) @ self.complement.mT).view_as(weight)
