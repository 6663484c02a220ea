"""Representations on entries that are numbered by several indices: factored, reordered, cut.

The only part of the tracer that looks into a ``Representation``. A function that only moves data
sends entry ``source[i]`` to entry i; what acts on its output follows from what acts on its input by
y = x[source], so that with (rho(g) x) = x[p] the output is moved by the q with p[source] =
source[q].
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from equireg.symmetry.groups import Group
from equireg.symmetry.representations import Representation, from_generators, grid, trivial

Places = tuple[int, ...]
Turn = tuple[Places, Places]  # axes of a grid in another order, and then flipped along some


@functools.lru_cache(maxsize=256)
def on_grid(group: Group, space: tuple[int, ...]) -> Representation:
    """The representation on the pixels of a grid, trivial if the group moves no such grid."""
    if acts_on_grids(group, space):
        return grid(group, space)
    return trivial(group, math.prod(space))


def acts_on_grids(group: Group, space: tuple[int, ...]) -> bool:
    """Whether the group moves the pixels of grids with so many axes."""
    return group.moves_pixels and bool(group.elements.shape[-1] == len(space))


@functools.lru_cache(maxsize=256)
def turned(group: Group, space: tuple[int, ...], turn: Turn | None) -> Representation:
    """What acts on a grid that was an image before this turn: g is as h g h^-1 there.

    turn: None for none. Raises ValueError if the group does not map the image to itself.
    """
    if turn in (None, (tuple(range(len(space))), ())) or not acts_on_grids(group, space):
        return on_grid(group, space)
    before, source = _before(space, turn)
    rho = on_grid(group, before)
    found = moved_along(rho, source, f"{rho.name} turned")
    assert found is not None
    return found


def turn_of(rho: Representation, space: tuple[int, ...]) -> Turn | None:
    """The turn after which rho acts on a grid of this shape; None if there is none.

    Such as a flip before a convolution: it makes of each turn of the image its inverse.
    """
    if rho.permutations is None or not acts_on_grids(rho.group, space):
        return None
    moved, count = steps(rho), len(space)
    for order in itertools.permutations(range(count)):
        for flips in itertools.product((False, True), repeat=count):
            turn = order, tuple(itertools.compress(range(count), flips))
            before, source = _before(space, turn)
            place = np.argsort(source)
            try:
                held = steps(on_grid(rho.group, before))
            except ValueError:
                continue
            if held.shape == moved.shape and np.array_equal(place[held[:, source]], moved):
                return turn
    return None


def _before(space: tuple[int, ...], turn: Turn) -> tuple[tuple[int, ...], np.ndarray]:
    """The shape before a turn, and which of its pixels each pixel is."""
    order, flips = turn
    before = tuple(space[order.index(axis)] for axis in range(len(space)))
    pixels = np.arange(math.prod(space)).reshape(before).transpose(order)
    return before, np.flip(pixels, flips).reshape(-1)


def resized(
    rho: Representation, before: Sequence[int], after: Sequence[int]
) -> Representation | None:
    """What acts on axes of the sizes ``after`` as rho does on those of a grid, ``before``.

    Of a grid as it is, or turned. None if rho is not what acts on such axes, or if there is no such
    grid of the sizes ``after``.
    """
    group = rho.group
    if not group.moves_pixels or len(before) != len(after):
        return None
    count = group.elements.shape[-1]
    for places in itertools.combinations(range(count), len(before)):
        one, two = ([1] * count for _ in range(2))
        for place, a, b in zip(places, before, after, strict=True):
            one[place], two[place] = a, b
        turn = turn_of(rho, tuple(one))
        try:
            if turn is not None:
                return turned(group, tuple(two), turn)
        except ValueError:
            continue
    return None


def indices_of(numbers: np.ndarray, shape: Sequence[int]) -> list[np.ndarray]:
    """The index along each axis of entries that are numbered in row-major order.

    Not by ``np.unravel_index``, seen to be wrong on some arrays of several axes (numpy 2.4.6).
    """
    strides = np.cumprod([1, *shape[:0:-1]])[::-1].tolist()[: len(shape)]
    return [numbers // stride % size for stride, size in zip(strides, shape, strict=True)]


def steps(rho: Representation) -> np.ndarray:
    """The permutations of the generators, (generators, size)."""
    assert rho.permutations is not None
    return np.asarray(rho.permutations[rho.group.cayley[:, 0]])


@functools.lru_cache(maxsize=1024)
def factor(
    rho: Representation, shape: tuple[int, ...]
) -> tuple[tuple[Places, Representation | None], ...]:
    """rho, on entries of this shape, as a tensor product over disjoint sets of axes.

    The sets are the smallest there are; None stands for an axis that does not move. A permutation
    factors if where an entry comes from along one axis depends on its index along few axes alone.
    """
    if rho.is_trivial:
        return tuple(((axis,), None) for axis in range(len(shape)))
    if rho.permutations is None:
        return _factor_matrices(rho, shape)
    count = len(shape)
    linked = np.eye(count, dtype=bool)
    for step in steps(rho):
        for axis, index in enumerate(indices_of(step.reshape(shape), shape)):
            for along in range(count):
                linked[axis, along] |= bool((np.diff(index, axis=along) != 0).any())
    parts = components(linked)
    if len(parts) == 1 and parts[0] == tuple(range(count)):
        return ((parts[0], rho),)
    entries = np.arange(rho.size).reshape(shape)
    result = []
    for part in parts:
        rest = tuple(slice(None) if axis in part else 0 for axis in range(count))
        kept = entries[rest].reshape(-1)
        moved = indices_of(rho.permutations[:, kept], shape)
        inner = np.ravel_multi_index(
            tuple(moved[axis] for axis in part), tuple(shape[axis] for axis in part)
        )
        name = f"{rho.name} [{', '.join(map(str, part))}]"
        one = Representation(rho.group, name, inner)
        result.append((part, None if one.is_trivial else one))
    return tuple(result)


def _factor_matrices(
    rho: Representation, shape: tuple[int, ...]
) -> tuple[tuple[Places, Representation | None], ...]:
    """The same for matrices: copies, I * sigma or sigma * I, are told apart."""
    count = len(shape)
    both = rho.matrices if rho.algebra is None else np.concatenate([rho.matrices, rho.algebra])
    matrices = both.reshape(-1, *shape, *shape)
    fixed = list[int]()
    for axis in range(count):
        moved = np.moveaxis(matrices, (1 + axis, 1 + count + axis), (1, 2))
        off = moved * (1 - np.eye(shape[axis])).reshape(
            1, *(shape[axis],) * 2, *(1,) * (moved.ndim - 3)
        )
        same = np.einsum("gii...->gi...", moved)
        if not np.abs(off).any() and np.allclose(same, same[:, :1], rtol=0, atol=1e-12):
            fixed.append(axis)
    kept = tuple(axis for axis in range(count) if axis not in fixed)
    if not fixed or not kept:
        return ((tuple(range(count)), rho),)
    rest = tuple(0 if axis in fixed else slice(None) for axis in range(count))
    size = math.prod(shape[axis] for axis in kept)
    inner = matrices[(slice(None), *rest, *rest)].reshape(-1, size, size)
    dense, algebra = np.split(inner, [rho.group.order])
    one = Representation(
        rho.group,
        f"{rho.name} [{', '.join(map(str, kept))}]",
        dense=dense,
        algebra=algebra if len(algebra) else None,
        degree=rho.degree,
    )
    return (*(((axis,), None) for axis in fixed), (kept, one))


def components(linked: np.ndarray) -> list[Places]:
    """The connected sets of a relation, each sorted, in the order of their first members."""
    reach = linked | linked.T | np.eye(len(linked), dtype=bool)
    for _ in range(len(reach)):
        reach = reach @ reach
    return list(dict.fromkeys(tuple(np.flatnonzero(row).tolist()) for row in reach))


@functools.lru_cache(maxsize=1024)
def reordered(rho: Representation, shape: tuple[int, ...], order: Places) -> Representation:
    """rho on the same entries with the axes of ``shape`` in this order."""
    if order == tuple(range(len(shape))) or rho.is_trivial:
        return rho
    source = np.arange(rho.size).reshape(shape).transpose(order).reshape(-1)
    found = moved_along(rho, source)
    assert found is not None
    return found


def moved_along(
    rho: Representation, source: np.ndarray, name: str | None = None
) -> Representation | None:
    """What acts on y = x[source] where x is moved by rho; None if that is not determined.

    source: (entries,), each entry of x once at most; -1 for constants, which stay where they are.
    None if the entries that are kept do not move among themselves.
    """
    kept = source >= 0
    place = np.full(rho.size, -1)
    place[source[kept]] = np.flatnonzero(kept)
    if (place[source[kept]] != np.flatnonzero(kept)).any():
        return None
    if rho.permutations is None:
        if not kept.all() or len(source) != rho.size:
            return None
        matrices, algebra = (
            None if x is None else x[:, source][:, :, source] for x in (rho.matrices, rho.algebra)
        )
        return Representation(
            rho.group, name or rho.name, dense=matrices, algebra=algebra, degree=rho.degree
        )
    moved = np.broadcast_to(np.arange(len(source)), (rho.group.order, len(source))).copy()
    moved[:, kept] = place[rho.permutations[:, source[kept]]]
    if (moved < 0).any():
        return None
    return Representation(rho.group, name or rho.name, moved)


def agrees(rho: Representation, source: np.ndarray, other: Representation) -> bool:
    """Whether y = x[source] is moved by ``other`` where rho moves x; -1 stands for one value."""
    if rho.permutations is None or other.permutations is None:
        return False
    for p, q in zip(steps(rho), steps(other), strict=True):
        if not np.array_equal(np.where(source < 0, -1, p[source]), source[q]):
            return False
    return True


def pulled_back(
    rho: Representation, source: np.ndarray, size: int, name: str
) -> Representation | None:
    """What must act on ``size`` entries x so that rho acts on y = x[source]; None: nothing can.

    source: (rho.size,), any entry of x any number of times; -1 for constants, which must then be
    moved to constants. Entries that are not used stay where they are.
    """
    if rho.permutations is None:
        return rho if np.array_equal(source, np.arange(size)) else None
    found = []
    for q in steps(rho):
        moved = source[q]
        if ((moved < 0) != (source < 0)).any():
            return None
        kept = source >= 0
        p = np.arange(size)
        p[source[kept]] = moved[kept]
        if (p[source[kept]] != moved[kept]).any() or len(np.unique(p)) != size:
            return None
        found.append(p)
    try:
        return from_generators(rho.group, np.array(found).tolist(), name)
    except ValueError:
        return None


def product(group: Group, pieces: Sequence[Representation]) -> Representation:
    """Their tensor product; trivial on one entry if there are none."""
    if not pieces:
        return trivial(group, 1)
    if all(piece.is_trivial for piece in pieces):
        return trivial(group, math.prod(piece.size for piece in pieces))
    return functools.reduce(Representation.__mul__, pieces)
