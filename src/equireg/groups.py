"""Finite groups from generators, and how they permute the pixels of a square grid."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

QUARTER_TURN = ((0, -1), (1, 0))
HALF_TURN = ((-1, 0), (0, -1))
MIRROR = ((1, 0), (0, -1))

# The point groups that map a square grid to itself: rotations C_n, with reflections D_n.
GENERATORS: dict[str, tuple[tuple[tuple[int, ...], ...], ...]] = {
    "C1": (),
    "C2": (HALF_TURN,),
    "C4": (QUARTER_TURN,),
    "D1": (MIRROR,),
    "D2": (HALF_TURN, MIRROR),
    "D4": (QUARTER_TURN, MIRROR),
}


@dataclass(frozen=True, eq=False)
class Group:
    """A finite group, given by a faithful representation in integer matrices.

    elements: (order, d, d), the identity first; generators: (any, d, d).
    """

    name: str
    elements: np.ndarray
    generators: np.ndarray

    @property
    def order(self) -> int:
        """The number of elements."""
        return len(self.elements)

    @functools.cached_property
    def table(self) -> np.ndarray:
        """The multiplication table, (order, order): ``elements[table[g, h]] = g h``."""
        index = {element.tobytes(): i for i, element in enumerate(self.elements)}
        products = self.elements[:, None] @ self.elements[None, :]
        return np.array([[index[product.tobytes()] for product in row] for row in products])


def generate(name: str, generators: Sequence[Sequence[Sequence[int]]], dimension: int) -> Group:
    """The group that these integer matrices generate, its elements in order of discovery."""
    steps = np.array(generators, np.int64).reshape(-1, dimension, dimension)
    elements = [np.eye(dimension, dtype=np.int64)]
    known = {elements[0].tobytes()}
    for element in elements:  # grows while it is read
        for step in steps:
            product = step @ element
            if product.tobytes() not in known:
                known.add(product.tobytes())
                elements.append(product)
    return Group(name, np.stack(elements), steps)


def point_group(name: str) -> Group:
    """The group of this name that maps a square grid to itself.

    Raises ValueError for a name that is not in ``GENERATORS``.
    """
    if name not in GENERATORS:
        raise ValueError(f"group is {name!r}; accepted: {', '.join(GENERATORS)}")
    return generate(name, GENERATORS[name], 2)


def grid_permutations(elements: np.ndarray, size: int) -> np.ndarray:
    """How point group elements move the pixels of a size x size grid.

    Returns (len(elements), size^2) indices ``p`` such that ``(rho(g) x).flat = x.flat[p[g]]``, that
    is (rho(g) x)(v) = x(g^-1 v), with pixels v counted from the centre of the grid.
    """
    centred = 2 * np.arange(size) - (size - 1)
    pixels = np.stack(np.meshgrid(centred, centred, indexing="ij"), -1).reshape(-1, 2)
    # An orthogonal g has g^-1 v = g^T v, which for row vectors is v g.
    sources = (pixels @ elements + size - 1) // 2
    return np.asarray(sources[..., 0] * size + sources[..., 1])


def permutation_matrices(permutations: np.ndarray) -> np.ndarray:
    """rho(g) as matrices, (order, d, d) float64, from ``(rho(g) x) = x[permutations[g]]``."""
    return np.asarray(np.eye(permutations.shape[-1])[permutations])
