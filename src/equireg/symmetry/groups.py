"""Groups: finite ones from generators, what a compact one has to bring, and how pixels move.

Everywhere else a group is asked for four things: its ``generators`` and its Lie ``algebra``, from
which representations are made and E follows; ``sample``, random elements by Haar measure; and
``quadrature``, elements with weights whose mean is exact. A finite group has no algebra, and its
quadrature is all of its elements. A compact group is a subclass that brings the two methods.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

Matrix = tuple[tuple[int, ...], ...]

QUARTER_TURN = ((0, -1), (1, 0))
HALF_TURN = ((-1, 0), (0, -1))
MIRROR = ((1, 0), (0, -1))

# The point groups that map a square grid to itself: rotations C_n, with reflections D_n.
GENERATORS: dict[str, tuple[Matrix, ...]] = {
    "C1": (),
    "C2": (HALF_TURN,),
    "C4": (QUARTER_TURN,),
    "D1": (MIRROR,),
    "D2": (HALF_TURN, MIRROR),
    "D4": (QUARTER_TURN, MIRROR),
}
CYCLE_OF_AXES = ((0, 0, 1), (1, 0, 0), (0, 1, 0))
INVERSION = ((-1, 0, 0), (0, -1, 0), (0, 0, -1))


def _beside_an_axis(matrix: Matrix) -> Matrix:
    return ((1, 0, 0), *((0, *row) for row in matrix))


# The same for a line and for a cube: there the groups above act on the last two axes, O is all
# rotations of the cube and Oh all its symmetries.
POINT_GROUPS: dict[int, dict[str, tuple[Matrix, ...]]] = {
    1: {"C1": (), "D1": (((-1,),),)},
    2: GENERATORS,
    3: {name: tuple(map(_beside_an_axis, steps)) for name, steps in GENERATORS.items()}
    | {
        "O": (_beside_an_axis(QUARTER_TURN), CYCLE_OF_AXES),
        "Oh": (_beside_an_axis(QUARTER_TURN), CYCLE_OF_AXES, INVERSION),
    },
}
WITNESSES = 3  # random elements of a compact group that something is tried on
COMPARED = 16  # elements of a compact group that something is compared over
LARGEST_ORDER = 100_000  # more may be infinite, and is not listed


@dataclass(frozen=True, eq=False)
class Elements:
    """Elements exp(sum_i algebra_i X_i) g of a group, a row each.

    index: (n,) int64, the number of g among ``Group.elements``; algebra: (n, k) float64, the
    coordinates of the factor in the identity's component. A finite group has k = 0.
    """

    index: np.ndarray
    algebra: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice) -> Elements:
        return Elements(self.index[rows], self.algebra[rows])


@dataclass(frozen=True, eq=False)
class Group:
    """A group, given by a faithful representation in matrices.

    elements: (order, d, d), the identity first: of a finite group all of them, in integers; of a
    compact one a finite subgroup with an element in every component. generators: (any, d, d), of
    ``elements``. moves_pixels: whether the group turns grids of d axes, as point groups do; others
    leave the pixels of images as they are. algebra: (k, d, d), a basis X_i of the Lie algebra;
    turns: (any, k), coordinates in it of full turns, whose exponentials are the identity: what is
    a representation of the algebra alone need not be one of the group.
    """

    name: str
    elements: np.ndarray
    generators: np.ndarray
    moves_pixels: bool = False
    algebra: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1)))
    turns: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def full_turns(self) -> np.ndarray:
        """``turns``, (any, k), none where they were not given."""
        return self.turns if self.turns.size else np.zeros((0, len(self.algebra)))

    @property
    def order(self) -> int:
        """The number of ``elements``."""
        return len(self.elements)

    def sample(self, count: int, random: np.random.Generator) -> Elements:
        """Elements drawn from Haar measure: of a finite group, all are as probable.

        >>> symmetric(3).sample(4, np.random.default_rng(0)).index.tolist()
        [5, 3, 3, 1]
        """
        self._finite("sample")
        return self.numbered(random.integers(self.order, size=count))

    def quadrature(self, degree: int) -> tuple[Elements, np.ndarray]:
        """Elements and weights (n,) float64, of sum 1, whose mean is the mean over the group.

        Exact for the matrix entries of representations up to this degree; of a finite group, for
        every function: all elements, alike.
        """
        self._finite("quadrature")
        return self.numbered(np.arange(self.order)), np.full(self.order, 1 / self.order)

    def numbered(self, index: np.ndarray) -> Elements:
        """The elements with these numbers among ``elements``."""
        return Elements(index, np.zeros((len(index), len(self.algebra))))

    @functools.cached_property
    def witnesses(self) -> tuple[int | Elements, ...]:
        """Elements to try, by their numbers or as they are.

        The generators of ``elements``, which imply all of a finite group, and of a compact one
        random elements too: what commutes with those but not with all is of measure zero.
        """
        numbers = tuple(self.cayley[:, 0].tolist())
        if not len(self.algebra):
            return numbers
        drawn = self.sample(WITNESSES, np.random.default_rng(0))
        return (*numbers, *(drawn[i : i + 1] for i in range(WITNESSES)))

    @functools.cached_property
    def compared(self) -> Elements:
        """The elements to compare outputs over, the identity first.

        All of a finite group; of a compact one the identity and 15 random ones, always the same.
        """
        if not len(self.algebra):
            return self.numbered(np.arange(self.order))
        drawn = self.sample(COMPARED - 1, np.random.default_rng(0))
        first = self.numbered(np.zeros(1, np.int64))
        return Elements(
            np.concatenate([first.index, drawn.index]),
            np.concatenate([first.algebra, drawn.algebra]),
        )

    def inverse(self, elements: Elements) -> Elements:
        """g^-1 for each of these.

        >>> three = symmetric(3)
        >>> turns = three.numbered(np.array([2]))
        >>> three.inverse(three.inverse(turns)).index.tolist()
        [2]
        """
        index = np.argmin(self.table[elements.index], axis=1)  # the identity is number 0
        if not len(self.algebra):
            return self.numbered(index)
        # (exp(X) g)^-1 = exp(-g^-1 X g) g^-1
        logarithms = np.tensordot(elements.algebra, self.algebra, 1)
        turned = self.elements[index] @ logarithms @ self.elements[elements.index]
        basis = self.algebra.reshape(len(self.algebra), -1).T
        found = np.linalg.lstsq(basis, -turned.reshape(len(index), -1).T, rcond=None)[0]
        return Elements(index, np.asarray(found.T))

    def _finite(self, method: str) -> None:
        if len(self.algebra):
            raise TypeError(
                f"group {self.name!r} has a Lie algebra; its class has to have {method}"
            )

    @functools.cached_property
    def cayley(self) -> np.ndarray:
        """The Cayley graph, (generators, order): ``elements[cayley[s, g]] = generators[s] g``."""
        index = {element.tobytes(): i for i, element in enumerate(self.elements)}
        rows = [[index[x.tobytes()] for x in step @ self.elements] for step in self.generators]
        return np.array(rows, np.int64).reshape(len(self.generators), self.order)

    @functools.cached_property
    def table(self) -> np.ndarray:
        """The multiplication table, (order, order): ``elements[table[g, h]] = g h``."""
        return self.extend(np.arange(self.order), self.cayley, lambda step, row: step[row])

    def extend(
        self,
        identity: np.ndarray,
        generators: Iterable[np.ndarray],
        product: Callable[[np.ndarray, np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """The images of all elements under the homomorphism with these images of the generators.

        Whether there is such a homomorphism is not checked.
        """
        steps, images = list(generators), {0: identity}
        for element in range(self.order):  # each is reached from one before it
            for step, reached in enumerate(self.cayley[:, element].tolist()):
                if reached not in images:
                    images[reached] = product(steps[step], images[element])
        return np.stack([images[element] for element in range(self.order)])


def generate(
    name: str,
    generators: Sequence[Sequence[Sequence[int]]],
    dimension: int,
    *,
    moves_pixels: bool = False,
) -> Group:
    """The group that these integer matrices generate, its elements in order of discovery.

    moves_pixels: whether the group turns grids of ``dimension`` axes. Raises ValueError if the
    matrices have no inverse in integers or generate too many elements.
    """
    steps = np.array(generators, np.int64).reshape(-1, dimension, dimension)
    if not np.allclose(np.abs(np.linalg.det(steps)), 1):
        raise ValueError(
            f"group {name!r}: the generators' determinants are "
            f"{np.linalg.det(steps).round(3).tolist()}; accepted: 1 and -1"
        )
    elements = [np.eye(dimension, dtype=np.int64)]
    known = {elements[0].tobytes()}
    for element in elements:  # grows while it is read
        for step in steps:
            product = step @ element
            if product.tobytes() not in known:
                known.add(product.tobytes())
                elements.append(product)
        if len(elements) > LARGEST_ORDER:
            raise ValueError(
                f"group {name!r}: the generators give more than {LARGEST_ORDER} elements; "
                f"accepted: finite groups of order {LARGEST_ORDER} at most"
            )
    return Group(name, np.stack(elements), steps, moves_pixels)


def point_group(name: str, dimension: int = 2) -> Group:
    """The group of this name that maps a line, a square or a cube of pixels to itself.

    Raises ValueError for a name that is not in ``POINT_GROUPS[dimension]``.
    """
    if dimension not in POINT_GROUPS:
        raise ValueError(f"a grid has {dimension} axes; accepted: {_list(POINT_GROUPS)}")
    if name not in POINT_GROUPS[dimension]:
        raise ValueError(f"group is {name!r}; accepted: {_list(POINT_GROUPS[dimension])}")
    return generate(name, POINT_GROUPS[dimension][name], dimension, moves_pixels=True)


def permutation_group(name: str, generators: Sequence[Sequence[int]]) -> Group:
    """The group that these permutations generate, as permutation matrices.

    generators: (any, n), each p moves entries as ``(rho(g) x) = x[p]``. Raises ValueError for
    rows that do not hold every number below n once.
    """
    rows = np.atleast_2d(np.array(generators, np.int64))
    for row in rows:
        if sorted(row) != list(range(len(row))):
            raise ValueError(
                f"group {name!r}: {row.tolist()} is no permutation; accepted: each of "
                f"0 to {len(row) - 1} once"
            )
    return generate(name, np.eye(rows.shape[1], dtype=np.int64)[rows].tolist(), rows.shape[1])


def cyclic(n: int) -> Group:
    """C_n, which shifts n entries in a circle."""
    _at_least(n, 1)
    return permutation_group(f"C{n}", [np.roll(np.arange(n), 1).tolist()])


def dihedral(n: int) -> Group:
    """D_n, the symmetries of the regular n-gon's corners, of order 2 n; n is 3 or more."""
    _at_least(n, 3)
    corners = np.arange(n)
    return permutation_group(f"D{n}", [np.roll(corners, 1).tolist(), corners[::-1].tolist()])


def symmetric(n: int) -> Group:
    """S_n, all permutations of n entries, of order n!."""
    _at_least(n, 1)
    cycle, swap = np.roll(np.arange(n), 1).tolist(), [1, 0, *range(2, n)][:n]
    return permutation_group(f"S{n}", [swap, cycle] if n > 1 else [cycle])


def _at_least(n: int, least: int) -> None:
    if n < least:
        raise ValueError(f"n is {n}; accepted: {least} or more")


def _list(accepted: Iterable[object]) -> str:
    return ", ".join(map(str, accepted))


def grid_permutations(elements: np.ndarray, size: int | Sequence[int]) -> np.ndarray:
    """How point group elements move the pixels of a grid.

    size: pixels per axis, or the side of a square or a cube. Returns (len(elements), pixels)
    indices ``p`` such that ``(rho(g) x).flat = x.flat[p[g]]``, that is (rho(g) x)(v) = x(g^-1 v),
    with pixels v counted from the centre of the grid. Raises ValueError if an element does not map
    the grid to itself.
    """
    axes = elements.shape[-1]
    sides = np.array((size,) * axes if isinstance(size, int) else size)
    shape = " x ".join(map(str, sides))
    if len(sides) != axes:
        raise ValueError(f"a grid of {shape} pixels: accepted: {axes} axes")
    pixels = np.stack(np.meshgrid(*(2 * np.arange(n) - (n - 1) for n in sides), indexing="ij"), -1)
    # An orthogonal g has g^-1 v = g^T v, which for row vectors is v g.
    moved = pixels.reshape(-1, axes) @ elements + (sides - 1)
    sources = moved // 2
    orthogonal = (elements @ elements.mT == np.eye(axes)).all()
    if not orthogonal or (moved % 2).any() or (sources < 0).any() or (sources >= sides).any():
        raise ValueError(
            f"a grid of {shape} pixels is not mapped to itself; accepted: the same number of "
            "pixels along axes that the group exchanges"
        )
    strides = np.cumprod([1, *sides[:0:-1]])[::-1]
    return np.asarray(sources @ strides)


def permutation_matrices(permutations: np.ndarray) -> np.ndarray:
    """rho(g) as matrices, (order, d, d) float64, from ``(rho(g) x) = x[permutations[g]]``."""
    return np.asarray(np.eye(permutations.shape[-1])[permutations])
