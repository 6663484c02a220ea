"""What acts on a tensor: an action per block of axes.

Each axis of a tensor is a list of *atoms*, indices that together number its entries, the slowest
first; atoms that move together form a *block*, on which one representation acts. An image
(samples, channels, height, width) has the block (height, width) that a rotation moves, and axes
that do not move; its tokens (samples, height * width, channels) have the same two atoms, on one
axis. So a permutation of axes reorders the lists, a reshape concatenates them and splits atoms, and
a block whose atoms were split is factored where its representation is a tensor product: windows of
an image, say, into what moves the windows and what moves the pixels within one.

Why blocks, and neither a table of cases nor one permutation of all entries? A layer needs what
acts on its channels alone, which a permutation of all entries does not say where sizes coincide;
blocks cost no more than their own entries; and matrices, which permute nothing, are followed alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from equireg.library.atoms import (
    Atom,
    Axis,
    Block,
    Lost,
    cuts,
    joined,
    moving,
    name,
    size_of,
    split,
    still,
)
from equireg.library.blocks import acts_on_grids, components, factor, on_grid, product, reordered
from equireg.symmetry.groups import Elements, Group
from equireg.symmetry.representations import Representation, check_one_group, trivial


@dataclass(frozen=True)
class Features:
    """What acts on a tensor (samples, channels, *space), or on the same flattened."""

    channels: Representation
    space: tuple[int, ...]

    @property
    def group(self) -> Group:
        """The group that acts."""
        return self.channels.group

    @property
    def pixels(self) -> Representation:
        """The representation on the grid; trivial for a group that does not act on such grids."""
        return on_grid(self.channels.group, self.space)


@dataclass(frozen=True)
class Unknown:
    """A tensor of which it is not known what acts on it, since this function was called."""

    function: str


@dataclass(frozen=True, eq=False)
class Action:
    """What acts on a tensor, a list of atoms per axis."""

    group: Group
    axes: tuple[Axis, ...]

    @classmethod
    def trivial(cls, group: Group, shape: Sequence[int]) -> Action:
        """Nothing moves."""
        return cls(group, tuple(still(size) for size in shape))

    @classmethod
    def on(
        cls,
        group: Group,
        shape: Sequence[int],
        moved: Mapping[int | tuple[int, ...], Representation],
    ) -> Action:
        """Each representation moves the axis, or the axes together, that it is given for.

        >>> from equireg.groups import cyclic
        >>> from equireg.representations import defining
        >>> shift = cyclic(3)
        >>> print(Action.on(shift, (8, 20, 3), {-1: defining(shift)}))
        (8, 20, defining)

        Raises ValueError if a representation acts on another number of entries.
        """
        axes = [still(size) for size in shape]
        for key, rho in moved.items():
            places = [axis % len(shape) for axis in (key if isinstance(key, tuple) else (key,))]
            check_one_group(group, rho.group)
            sizes = [shape[axis] for axis in places]
            if rho.size != math.prod(sizes):
                raise ValueError(
                    f"{rho.name} acts on {rho.size} entries; axes {key} of shape {tuple(shape)} "
                    f"have {math.prod(sizes)}"
                )
            for place, axis in zip(places, moving(rho, sizes), strict=True):
                axes[place] = axis
        return cls(group, tuple(axes))

    @classmethod
    def of(cls, features: Features, shape: Sequence[int]) -> Action:
        """The same for a tensor (samples, channels, *space), or flattened to this shape."""
        group = features.channels.group
        whole = (shape[0], features.channels.size, *features.space)
        moved: dict[int | tuple[int, ...], Representation] = {1: features.channels}
        if features.space:
            moved[tuple(range(2, len(whole)))] = features.pixels
        action = cls.on(group, whole, moved)
        return action if tuple(shape) == whole else action.reshape(shape)

    def __str__(self) -> str:
        names = []
        for i, axis in enumerate(self.axes):
            if all(block.rho is None for block, _ in axis):
                names.append(str(self.shape[i]))
            else:
                names.append(" * ".join(name(atom) for atom in axis))
        return f"({', '.join(names)})"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return tuple(math.prod(map(size_of, axis)) for axis in self.axes)

    @property
    def is_trivial(self) -> bool:
        """Whether nothing moves."""
        return all(block.rho is None for axis in self.axes for block, _ in axis)

    @property
    def permutes(self) -> bool:
        """Whether all blocks are permuted, so that functions of single entries commute."""
        return all(rho is None or rho.permutations is not None for rho in self.representations())

    def representations(self) -> list[Representation | None]:
        """What acts on each block."""
        return [block.rho for block in dict.fromkeys(b for axis in self.axes for b, _ in axis)]

    def closed(self, axes: Sequence[int]) -> bool:
        """Whether no block has atoms on these axes and on others."""
        chosen = {axis % len(self.axes) for axis in axes}
        within = {b for i, axis in enumerate(self.axes) for b, _ in axis if i in chosen}
        return not any(
            block in within
            for i, axis in enumerate(self.axes)
            if i not in chosen
            for block, _ in axis
        )

    def fresh(self) -> Action:
        """The same, with blocks of its own."""
        new = {block: replace(block) for axis in self.axes for block, _ in axis}
        return replace(self, axes=tuple(tuple((new[b], i) for b, i in axis) for axis in self.axes))

    def of_samples(self, count: int) -> Action:
        """The same for another number of samples, on the first axis. Raises Lost if that moves."""
        return self.replaced({0: still(count)})

    def take(self, axes: Sequence[int]) -> Action:
        """These axes alone, in this order. Raises Lost if that cuts through a block."""
        if not self.closed(axes):
            raise Lost
        return replace(self, axes=tuple(self.axes[axis] for axis in axes))

    def replaced(self, new: Mapping[int, Axis]) -> Action:
        """Other atoms on these axes. Raises Lost if that cuts through a block."""
        if not self.closed([*new]):
            raise Lost
        places = {axis % len(self.axes): atoms for axis, atoms in new.items()}
        return replace(self, axes=tuple(places.get(i, axis) for i, axis in enumerate(self.axes)))

    def pieces(self) -> list[Representation]:
        """The representations whose tensor product acts on the entries in row-major order.

        Raises Lost for matrices whose atoms lie apart.
        """
        result: list[Representation] = []
        atoms = [atom for axis in self.axes for atom in axis]
        while atoms:
            count, seen = 0, set[Block]()
            while True:  # the fewest first atoms that hold whole blocks
                seen.add(atoms[count][0])
                count += 1
                if all(block not in seen for block, _ in atoms[count:]):
                    break
            head, atoms = atoms[:count], atoms[count:]
            result.append(self._piece(head))
        return result or [trivial(self.group, 1)]

    def _piece(self, atoms: Sequence[Atom]) -> Representation:
        """What acts on whole blocks, whose atoms may be mixed."""
        block = atoms[0][0]
        if block.rho is None:
            return trivial(self.group, size_of(atoms[0]))
        if all(other is block for other, _ in atoms):
            return reordered(block.rho, block.shape, tuple(place for _, place in atoms))
        blocks = list(dict.fromkeys(b for b, _ in atoms))
        parts = [b.rho or trivial(self.group, b.shape[0]) for b in blocks]
        if any(part.permutations is None for part in parts):
            raise Lost
        starts = np.cumsum([0, *(len(b.shape) for b in blocks)])
        first = dict(zip(blocks, starts.tolist(), strict=False))
        shape = tuple(size for b in blocks for size in b.shape)
        order = tuple(first[b] + place for b, place in atoms)
        return reordered(product(self.group, parts), shape, order)

    def representation(self) -> Representation:
        """What acts on all entries in row-major order. Raises Lost as ``pieces`` does."""
        pieces = self.pieces()
        return pieces[0] if len(pieces) == 1 else product(self.group, pieces)

    def permute(self, order: Sequence[int]) -> Action:
        """The axes in another order."""
        return replace(self, axes=tuple(self.axes[axis] for axis in order))

    def reshape(
        self, shape: Sequence[int], bent: Callable[[Representation], None] | None = None
    ) -> Action:
        """The same entries in another shape. Raises Lost if atoms that move would be cut unevenly.

        bent: called where a block is no grid that can be split in this way, although a grid of its
        sizes could be; it is then taken for that grid.
        """
        try:
            return self._reshape(shape, bent)
        except Lost:
            return self.coalesced()._reshape(shape, bent)

    def coalesced(self) -> Action:
        """The same with one atom per axis that moves: blocks that share an axis become one."""
        count = len(self.axes)
        linked = np.zeros((count, count), bool)
        held = [{block for block, _ in axis if block.rho is not None} for axis in self.axes]
        for i in range(count):
            for j in range(count):
                linked[i, j] = bool(held[i] & held[j])
        axes = list(self.axes)
        for places in components(linked):
            if any(held[place] for place in places):
                part = self.take(places)
                new = moving(part.representation(), part.shape)
                for place, axis in zip(places, new, strict=True):
                    axes[place] = axis
        return replace(self, axes=tuple(axes))

    def _reshape(
        self, shape: Sequence[int], bent: Callable[[Representation], None] | None
    ) -> Action:
        atoms = list(joined([atom for axis in self.axes for atom in axis]))
        origin: dict[Block, Block] = {}
        axes: list[list[Atom]] = []
        for size in shape:
            axis: list[Atom] = []
            while size > 1:
                one = size_of(atoms[0])
                if size % one:
                    if one % size:
                        raise Lost
                    split(atoms, axes, axis, size, origin)
                    one = size
                axis.append(atoms.pop(0))
                size //= one
            axes.append(axis)
        new: dict[Atom, Axis] = {}
        for block in {b: None for axis in axes for b, _ in axis}:
            if block not in origin or block.rho is None:
                continue
            rho, first = block.rho, origin[block].shape
            if bent and len(factor(rho, block.shape)) == 1:
                straight = _grid(self.group, first)
                if straight is not None and len(factor(straight, block.shape)) > 1:
                    bent(rho)
                    rho = straight
            for place, atom_axis in enumerate(moving(rho, block.shape)):
                new[block, place] = atom_axis
        return replace(
            self,
            axes=tuple(
                joined([a for atom in axis for a in new.get(atom, (atom,))]) for axis in axes
            ),
        )

    def equals(self, other: Action) -> bool:
        """Whether both act alike on tensors of the same shape."""
        if self.shape != other.shape:
            return False
        if self.is_trivial or other.is_trivial:
            return self.is_trivial and other.is_trivial
        try:
            sizes = [
                size for pair in zip(self.axes, other.axes, strict=True) for size in cuts(*pair)
            ]
            one, two = self.reshape(sizes), other.reshape(sizes)
            return one._blocks() == two._blocks() and all(
                a.equals(b) for a, b in zip(one._ordered(), two._ordered(), strict=True)
            )
        except Lost:
            pass
        try:
            return self.representation().equals(other.representation())
        except Lost:
            return False

    def _blocks(self) -> set[tuple[int, ...]]:
        """The axes of each block, where every axis has one atom."""
        held: dict[Block, list[int]] = {}
        for i, axis in enumerate(self.axes):
            for block, _ in axis:
                if block.rho is not None:
                    held.setdefault(block, []).append(i)
        return {tuple(axes) for axes in held.values()}

    def _ordered(self) -> list[Representation]:
        """The representations of the same blocks, with their atoms in the order of the axes."""
        held: dict[Block, list[int]] = {}
        for axis in self.axes:
            for block, place in axis:
                if block.rho is not None:
                    held.setdefault(block, []).append(place)
        return [reordered(b.rho, b.shape, tuple(p)) for b, p in held.items() if b.rho is not None]

    def act(self, elements: Tensor | int | Elements, x: Tensor) -> Tensor:
        """rho(g) x for a tensor of this shape; elements: one for all, or one per sample, axis 0."""
        one = isinstance(elements, int) or (isinstance(elements, Elements) and len(elements) == 1)
        atoms = [atom for axis in self.axes for atom in axis]
        result = x.reshape([size_of(atom) for atom in atoms])
        for block in dict.fromkeys(block for block, _ in atoms):
            if block.rho is None:
                continue
            places = [atoms.index((block, i)) for i in range(len(block.shape))]
            last = list(range(-len(places), 0))
            moved = result.movedim(places, last).flatten(-len(places))
            if one:
                assert not isinstance(elements, Tensor)
                moved = block.rho.act(elements, moved)
            else:
                assert not isinstance(elements, int)
                if len(elements) != len(moved) or not self.closed([0]):
                    raise ValueError("samples do not lie on axis 0; accepted: one element for all")
                moved = block.rho.act_each(elements, moved)
            result = moved.unflatten(-1, block.shape).movedim(last, places)
        return result.reshape(x.shape)

    def features(self) -> Features | None:
        """The same as (samples, channels, *space), or flattened; None if it is none of these."""
        if len(self.axes) < 2 or any(block.rho is not None for block, _ in self.axes[0]):
            return None
        try:
            whole = self.take(range(1, len(self.axes)))
            if len(self.axes) == 2:
                return _flat(whole)
            channels, space = self.take([1]).representation(), self.shape[2:]
            pixels = whole.take(range(1, len(whole.axes)))
        except Lost:
            return None
        try:
            standard = Action.on(
                self.group, space, {tuple(range(len(space))): on_grid(self.group, space)}
            )
        except ValueError:
            return None
        return Features(channels, space) if pixels.equals(standard) else None


def _grid(group: Group, space: tuple[int, ...]) -> Representation | None:
    """What acts on the pixels of a grid that the group moves, if there is such a grid."""
    try:
        return on_grid(group, space) if acts_on_grids(group, space) else None
    except ValueError:
        return None


def _flat(whole: Action) -> Features | None:
    """Of a tensor (samples, entries): channels and a grid if there is one, else channels alone."""
    pieces = whole.pieces()
    blocks = list(dict.fromkeys(block for axis in whole.axes for block, _ in axis))
    last = blocks[-1] if blocks else None
    grid = None if last is None or last.rho is None else _grid(whole.group, last.shape)
    if last is not None and grid is not None and pieces[-1].equals(grid):
        return Features(product(whole.group, pieces[:-1]), last.shape)
    return Features(product(whole.group, pieces), ())
