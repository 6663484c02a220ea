"""Functions that only move data, found out by running them on numbered entries.

That shows where each output entry comes from. Where indices of the output follow indices of the
input block by block, what acts on the output follows block by block: from p on a block of the
input and the sources of its output, the q with p[source] = source[q].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from equireg.library.atoms import Atom, Axis, Lost, moving, size_of, still
from equireg.library.blocks import (
    acts_on_grids,
    agrees,
    components,
    indices_of,
    moved_along,
    on_grid,
    resized,
)
from equireg.library.call import Call
from equireg.library.features import Action
from equireg.library.functions.grids import not_symmetric
from equireg.symmetry.groups import Group
from equireg.symmetry.representations import Representation

LINES = 4  # indices per axis on which it is seen first along which axes an index varies


def sources(call: Call, tensor: Tensor, result: int) -> np.ndarray | None:
    """Which entry of ``tensor`` each entry of a result is, -1 for none; None: it is computed.

    Run on numbers, and on other numbers: an entry that is only moved changes as its number does.
    """
    numbers = torch.arange(tensor.numel(), dtype=torch.float64, device=tensor.device)
    labels = (numbers * 0.6180339887498949) % 1 - 0.5  # all different, of both signs
    try:
        one, two = (call.run({id(tensor): x.view(tensor.shape)}, result) for x in (numbers, labels))
    except Exception:  # not on numbers of this type
        return None
    if one.dtype != torch.float64 or not tensor.numel():
        return None
    inside = one.nan_to_num(-1).round().clamp(0, tensor.numel() - 1).long()
    moved = (labels[inside] == two) & (inside == one)
    if not (moved | (one == two) | (one.isnan() & two.isnan())).all() or not moved.any():
        return None
    return torch.where(moved, inside, -1).cpu().numpy()


def follow(call: Call, action: Action, source: np.ndarray, *, few: bool = False) -> Action:
    """What acts on a result that moves the entries of the one tensor in ``data``. Raises Lost.

    few: whether to give up where few lines of entries do not show it.
    """
    for lines in (LINES,) if few else (LINES, max(source.shape, default=1)):
        found = _by_blocks(call, action, source, lines)
        if found is not None:
            return found
    raise Lost


def _by_blocks(call: Call, action: Action, source: np.ndarray, lines: int) -> Action | None:
    """The same, from a few lines of entries along each axis; None if these were too few."""
    atoms = [atom for axis in action.axes for atom in axis]
    numbering = _Numbering([size_of(atom) for atom in atoms], not (source >= 0).all())
    owners: list[object] = [block for block, _ in atoms] + [None] * numbering.has_constants
    moving_atoms = [atom[0].rho is not None for atom in atoms] + [False] * numbering.has_constants
    shape, cuts, linked = list[int](), list[int](), list[np.ndarray]()
    for axis, size in enumerate(source.shape):
        line = numbering.indices(_lines(source, axis, lines))
        on = _varies(line, line[0].ndim - 1)
        parts = [size]
        crossed = {owners[i] for i in np.flatnonzero(on)} - {None}
        if len(crossed) > 1 and any(moving_atoms[i] for i in np.flatnonzero(on)):
            parts = _cut(line, owners, size) or parts
        halves = [index.reshape(*index.shape[:-1], *parts) for index in line]
        linked += [_varies(halves, axis - len(parts)) for axis in range(len(parts))]
        shape += parts
        cuts.append(len(parts))
    groups = _groups(np.array(linked).reshape(len(shape), len(owners)), owners)
    whole = source.reshape(shape)
    first = [int(i) for i in indices_of(np.array(np.argmax(source >= 0)), shape)]
    pieces = [_piece(whole, group, len(owners), first) for group in groups]
    if not numbering.agrees(whole, groups, pieces, len(owners)):
        return None
    axes: list[Axis] = [still(size) for size in shape]
    for group, piece in zip(groups, pieces, strict=True):
        held = [i for i in group if i < len(atoms)]
        if not any(moving_atoms[i] for i in held):
            continue
        along = [i - len(owners) for i in group if i >= len(owners)]
        one = piece.reshape([shape[axis] for axis in along])
        inside = numbering.indices(np.where(one < 0, 0, one))
        numbers = np.ravel_multi_index([inside[i] for i in held], [size_of(atoms[i]) for i in held])
        part = _part(action, [atoms[i] for i in held])
        for axis, new in zip(
            along, _moved(call, part, np.where(one < 0, -1, numbers)), strict=True
        ):
            axes[axis] = new
    merged, i = list[Axis](), 0
    for count in cuts:
        merged.append(tuple(atom for axis in axes[i : i + count] for atom in axis))
        i += count
    result = Action(action.group, tuple(merged))
    return result.reshape(result.shape)


class _Numbering:
    """The indices of numbered entries; where constants lie counts as one more."""

    def __init__(self, sizes: list[int], has_constants: bool) -> None:
        self.sizes, self.has_constants = sizes or [1], has_constants
        self.count = len(sizes)
        self.strides = np.cumprod([1, *self.sizes[:0:-1]])[::-1].tolist()

    def indices(self, numbers: np.ndarray) -> list[np.ndarray]:
        """One array per index, -1 for constants."""
        found = [np.where(numbers < 0, -1, index) for index in indices_of(numbers, self.sizes)]
        found = found[: self.count]
        return [*found, (numbers >= 0) + 0] if self.has_constants else found or [0 * numbers]

    def agrees(
        self, source: np.ndarray, groups: list[list[int]], pieces: list[np.ndarray], count: int
    ) -> bool:
        """Whether the pieces make up the whole."""
        total, kept = np.zeros((1,) * source.ndim, np.int64), np.ones((1,) * source.ndim, bool)
        for group, piece in zip(groups, pieces, strict=True):
            inside = self.indices(piece)
            for i in group:
                if i < self.count:
                    total = total + inside[i] * self.strides[i]
                elif i < count:
                    kept = piece >= 0
        return np.array_equal(np.where(np.broadcast_to(kept, source.shape), total, -1), source)


def _lines(source: np.ndarray, axis: int, lines: int) -> np.ndarray:
    """Entries along an axis, which becomes the last, at a few indices of the others."""
    kept = source
    for other, size in enumerate(source.shape):
        if other != axis and size > lines:
            kept = kept.take(np.unique(np.linspace(0, size - 1, lines).astype(int)), other)
    return np.moveaxis(kept, axis, -1)


def _varies(indices: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Which of the indices vary along an axis, constants apart."""
    result = []
    for index in indices:
        high = index.max(axis)
        low = np.where(index < 0, np.iinfo(np.int64).max, index).min(axis)
        result.append(bool(((high != low) & (high >= 0)).any()))
    return np.array(result)


def _cut(line: Sequence[np.ndarray], owners: Sequence[object], size: int) -> list[int] | None:
    """Two sizes to cut an axis into so that no two blocks depend on one, or None."""
    for fast in range(2, size):
        if size % fast:
            continue
        parts = [size // fast, fast]
        halves = [index.reshape(*index.shape[:-1], *parts) for index in line]
        on = [_varies(halves, axis) for axis in (-2, -1)]
        if all(len({owners[int(i)] for i in np.flatnonzero(half)} - {None}) < 2 for half in on):
            return parts
    return None


def _groups(linked: np.ndarray, owners: Sequence[object]) -> list[list[int]]:
    """Indices, and axes numbered after them, that depend on one another; a block is kept whole."""
    axes, count = linked.shape
    relation = np.eye(count + axes, dtype=bool)
    relation[count:, :count] = linked
    for i in range(count):
        for j in range(i):
            relation[i, j] = owners[i] is owners[j]
    return [list(part) for part in components(relation)]


def _piece(
    source: np.ndarray, group: Sequence[int], count: int, first: Sequence[int]
) -> np.ndarray:
    """The sources along the axes of a group, the others at those of one entry."""
    along = {i - count for i in group if i >= count}
    cut = tuple(
        slice(None) if axis in along else slice(int(first[axis]), int(first[axis]) + 1)
        for axis in range(source.ndim)
    )
    return source[cut]


def _part(action: Action, held: Sequence[Atom]) -> Action:
    """These atoms alone, on the axes of the action if they fill them."""
    chosen = set(held)
    axes = [axis for axis in action.axes if any(atom in chosen for atom in axis)]
    if sum(map(len, axes)) > len(held):
        axes = [(atom,) for atom in held]
    return Action(action.group, tuple(axes))


def _moved(call: Call, part: Action, numbers: np.ndarray) -> list[Axis]:
    """Axes of numbers.shape for y = x[numbers], where ``part`` acts on x. Raises Lost."""
    group, shape, entries = call.group, numbers.shape, numbers.reshape(-1)
    size = math.prod(part.shape)
    if len(entries) == size and np.array_equal(entries, np.arange(size)):
        return list(part.reshape(shape).axes)
    rho = part.representation()
    standard = resized(rho, part.shape, shape)
    if standard is not None and agrees(rho, entries, standard):
        return moving(standard, shape)
    is_grid = resized(rho, part.shape, part.shape) is not None
    if standard is not None and shape != part.shape:
        call.broken(not_symmetric(call, part.shape, shape))
        return moving(standard, shape)
    if is_grid and not shape:
        assert rho.permutations is not None
        if not (rho.permutations[:, entries] == entries).all():
            call.broken(not_symmetric(call, part.shape, ()))
        return []
    if is_grid and shape == part.shape and "bent" in call.memory:
        return list(part.axes)  # windows were shifted, which is said, and are shifted back
    found = moved_along(rho, entries)
    if found is not None:
        return moving(found, shape)
    if is_grid and shape == part.shape:
        call.broken(not_symmetric(call, part.shape, shape))
        return list(part.axes)
    guesses = _guesses(group, shape) if is_grid else []
    for guess in guesses:
        if not agrees(rho, entries, guess):
            call.broken(not_symmetric(call, part.shape, shape))
        return moving(guess, shape)
    raise Lost


def _guesses(group: Group, shape: Sequence[int]) -> list[Representation]:
    """Two grids: in axes of the sizes of squares, or in pairs of axes, such as windows of an image.

    Those of an image that overlap, which are no windows of a grid as it is.
    """
    if len(shape) == 4:
        pairs = [tuple(shape[:2]), tuple(shape[2:])]
        if not all(a == b and acts_on_grids(group, (a, b)) for a, b in pairs):
            return []
        return [on_grid(group, pairs[0]) * on_grid(group, pairs[1])]
    sides = [math.isqrt(n) for n in shape]
    if len(shape) != 2 or any(a * a != n for a, n in zip(sides, shape, strict=True)):
        return []
    grids = [(side, side) for side in sides]
    if not all(acts_on_grids(group, space) for space in grids):
        return []
    return [on_grid(group, grids[0]) * on_grid(group, grids[1])]
