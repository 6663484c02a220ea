"""The indices that a tensor's axes are made of, and the blocks of those that move together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from equireg.library.blocks import factor
from equireg.symmetry.representations import Representation


class Lost(ValueError):  # noqa: N818
    """An operation cuts through a block, so that nothing acts on its result."""


@dataclass(frozen=True, eq=False)
class Block:
    """Atoms of these sizes that move together by rho; a single one if rho is None: it stays.

    layer: the linear layer whose outputs these are, where nobody said how they move.
    """

    rho: Representation | None
    shape: tuple[int, ...]
    layer: str = ""


Atom = tuple[Block, int]  # and its place in the block
Axis = tuple[Atom, ...]


def size_of(atom: Atom) -> int:
    """The number of values of an index."""
    return atom[0].shape[atom[1]]


def still(size: int) -> Axis:
    """An axis of this size that does not move."""
    return () if size == 1 else ((Block(None, (size,)), 0),)


def moving(rho: Representation, shape: Sequence[int]) -> list[Axis]:
    """Axes of these sizes that rho moves, as blocks of as few axes as there can be."""
    result: list[Axis] = [()] * len(shape)
    kept = [axis for axis, size in enumerate(shape) if size > 1]
    for places, part in factor(rho, tuple(shape[axis] for axis in kept)):
        block = Block(part, tuple(shape[kept[place]] for place in places))
        for i, place in enumerate(places):
            result[kept[place]] = ((block, i),)
    return result


def joined(axis: Sequence[Atom]) -> Axis:
    """The axis with neighbours that do not move as one atom."""
    result: list[Atom] = []
    for atom in axis:
        if result and atom[0].rho is None and result[-1][0].rho is None:
            atom = (Block(None, (size_of(result.pop()) * size_of(atom),)), 0)
        result.append(atom)
    return tuple(result)


def split(
    atoms: list[Atom],
    axes: list[list[Atom]],
    axis: list[Atom],
    size: int,
    origin: dict[Block, Block],
) -> None:
    """Cut the first of ``atoms`` into ``size`` times the rest, in all lists that hold its block."""
    block, place = atoms[0]
    rest = block.shape[place] // size
    if block.rho is None:
        atoms[:1] = [(Block(None, (size,)), 0), (Block(None, (rest,)), 0)]
        return
    new = Block(block.rho, (*block.shape[:place], size, rest, *block.shape[place + 1 :]))
    origin[new] = origin.get(block, block)
    for held in (atoms, axis, *axes):
        held[:] = [(new, i + (i > place)) if b is block and i != place else (b, i) for b, i in held]
    atoms[:1] = [(new, place), (new, place + 1)]


def cuts(one: Axis, two: Axis) -> list[int]:
    """The sizes into which both axes can be cut. Raises Lost if there are none."""
    strides = {1}
    for axis in (one, two):
        stride = 1
        for atom in reversed(axis):
            stride *= size_of(atom)
            strides.add(stride)
    ordered = sorted(strides, reverse=True)
    if any(a % b for a, b in pairwise(ordered)):
        raise Lost
    return [a // b for a, b in pairwise(ordered)]


def name(atom: Atom) -> str:
    block, place = atom
    if block.rho is None:
        return str(block.shape[0])
    return block.rho.name + (f"/{place}" if len(block.shape) > 1 else "")
