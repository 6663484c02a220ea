"""Functions that only move data.

Reshapes and permutations of axes act on the lists of atoms. All others (slices, roll, flip, pad,
unfold, repeat, pixel shuffle, indexing) go one way: the function runs on numbered entries, which
shows where each output entry comes from. Where indices of the output follow indices of the input
block by block, what acts on the output follows block by block.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from equireg.library.blocks import (
    agrees,
    components,
    moved_along,
    on_grid,
    resized,
)
from equireg.library.call import Call
from equireg.library.features import (
    Action,
    Atom,
    Axis,
    Lost,
    Unknown,
    moving,
    size_of,
    still,
)
from equireg.library.registry import follows
from equireg.symmetry.representations import Representation, direct_sum

Found = Action | Unknown


@follows(
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"),
    *("ravel", "_reshape_alias", "squeeze_", "atleast_2d", "atleast_3d"),
)
def reshaped(call: Call) -> Found:
    """The same entries in row-major order."""
    found = call.of(call.data[0])
    if not isinstance(found, Action):
        return _unknown(found)
    if call.results[0].dtype != call.data[0].dtype:  # a view of other bits
        return Unknown(call.name)

    def bent(rho: Representation) -> None:
        call.asymmetric(
            f"to {tuple(call.results[0].shape)}: windows that the group does not map to windows"
        )

    return found.reshape(call.results[0].shape, bent)


@follows(
    *("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "T", "mT"),
    *("adjoint", "H", "mH", "channels_last", "numpy_T"),
)
def permuted(call: Call) -> Found:
    """The axes in another order, read off the strides of what it makes of a contiguous tensor."""
    found = call.of(call.data[0])
    if not isinstance(found, Action):
        return _unknown(found)
    # Sizes of two and more, so that no strides coincide.
    probe = torch.empty([2] * call.data[0].ndim, device="meta")
    strides = probe.stride()
    moved = _probed(call, probe)
    return found.permute([strides.index(stride) for stride in moved.stride()])


def _probed(call: Call, probe: Tensor) -> Tensor:
    source = call.data[0]

    def swap(x: Tensor) -> Tensor:
        return probe if x is source else x

    from equireg.library.call import swapped

    return call._function(*swapped(swap, call.args), **swapped(swap, call.kwargs))  # type: ignore[no-any-return]


@follows("cat", "concat", "concatenate")
def joined(call: Call) -> Found | None:
    """Side by side along one axis: the direct sum there, the same on the other axes."""
    parts = list(call.argument(0, "tensors"))
    axis = call.argument(1, "dim", "axis", default=0)
    if call.unknown:
        return call.unknown
    parts = [x for x in parts if x.numel() or x.ndim > 1]
    axis %= call.results[0].ndim
    rest = [i for i in range(call.results[0].ndim) if i != axis]
    others = call.joined([(x, _labels(x, axis, k)) for k, x in enumerate(parts)])
    if isinstance(others, Unknown):
        return others
    shape = call.results[0].shape
    along = list[Representation]()
    for k, x in enumerate(parts):
        tag = call.of(x)
        if not isinstance(tag, Action):
            sizes = [n if i != axis else 1 for i, n in enumerate(x.shape)]
            one = Action(call.group, tuple(
                others.get(i, still(n)) if i != axis else still(x.shape[axis])
                for i, n in enumerate(sizes)
            ))
            call.place(x, one)
            tag = one
        if not tag.closed([axis]):
            return None  # such as rows of an image
        along.append(tag.take([axis]).representation())
    if all(rho.is_trivial for rho in along):
        new: Axis = still(shape[axis])
    else:
        new = moving(direct_sum(*along), [shape[axis]])[0]
    axes = [others.get(i, still(shape[i])) for i in range(len(shape))]
    axes[axis] = new
    assert rest is not None
    return Action(call.group, tuple(axes))


def _labels(x: Tensor, axis: int, part: int) -> list[object]:
    return [("part", part) if i == axis else i for i in range(x.ndim)]


@follows("stack")
def stacked(call: Call) -> Found:
    """Along a new axis, which does not move."""
    parts = list(call.argument(0, "tensors"))
    axis = call.argument(1, "dim", default=0) % call.results[0].ndim
    found = call.contract([(x, range(x.ndim)) for x in parts], range(parts[0].ndim))
    if isinstance(found, Unknown):
        return found
    return Action(call.group, (*found.axes[:axis], still(len(parts)), *found.axes[axis:]))


def sources(call: Call, tensor: Tensor, result: int) -> np.ndarray | None:
    """Which entry of ``tensor`` each entry of a result is, -1 for none; None: it is computed.

    Run on numbers, and on other numbers: an entry that is only moved changes as its number does.
    """
    numbers = torch.arange(tensor.numel(), dtype=torch.float64, device=tensor.device)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randn(tensor.numel(), generator=generator, dtype=torch.float64)
    labels = labels.to(tensor.device)
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


def follow(call: Call, action: Action, source: np.ndarray) -> Found:
    """What acts on a result that moves the entries of the one tensor in ``data``."""
    atoms = [atom for axis in action.axes for atom in axis]
    sizes = [size_of(atom) for atom in atoms]
    kept = source >= 0
    flat = np.where(kept, source, 0)
    indices = list(np.unravel_index(flat, sizes)) if sizes else []
    if not kept.all():  # where constants lie is an index too
        atoms.append((_PATTERN, 0))
        indices.append(kept.astype(np.int64))
    shape, cuts = _uncrossed(indices, kept, atoms)
    indices = [index.reshape(shape) for index in indices]
    kept = kept.reshape(shape)
    axes: list[Axis] = [still(size) for size in shape]
    for group in _groups(indices, kept, atoms):
        chosen = [i for i in group if i < len(atoms)]
        along = [i - len(atoms) for i in group if i >= len(atoms)]
        held = [i for i in chosen if atoms[i][0] is not _PATTERN]
        if all(atoms[i][0].rho is None for i in held):
            continue
        part = Action(action.group, tuple((atoms[i],) for i in held))
        first = [int(i[0]) for i in np.nonzero(kept)]
        cut = tuple(slice(None) if axis in along else first[axis] for axis in range(len(shape)))
        numbers = np.ravel_multi_index(
            [indices[i][cut] for i in held], [size_of(atoms[i]) for i in held]
        )
        numbers = np.where(kept[cut], numbers, -1)
        for axis, new in zip(along, _moved(call, part, numbers), strict=True):
            axes[axis] = new
    merged, i = list[Axis](), 0
    for count in cuts:
        merged.append(tuple(atom for axis in axes[i : i + count] for atom in axis))
        i += count
    joined_axes = Action(action.group, tuple(merged))
    return joined_axes.reshape(joined_axes.shape)


class _Pattern:
    """Stands for the index that tells constants from entries."""

    rho = None
    shape = (2,)


_PATTERN: object = _Pattern()


def _depends(index: np.ndarray, kept: np.ndarray, axis: int) -> bool:
    """Whether an index varies along an axis, where it is one."""
    high = np.where(kept, index, -1).max(axis)
    low = np.where(kept, index, np.iinfo(np.int64).max).min(axis)
    return bool(((high != low) & (high >= 0)).any())


def _groups(indices: list[np.ndarray], kept: np.ndarray, atoms: Sequence[Atom]) -> list[list[int]]:
    """Atoms and axes (numbered after them) that depend on one another."""
    count, ndim = len(atoms), kept.ndim
    linked = np.eye(count + ndim, dtype=bool)
    everywhere = np.ones_like(kept)
    for i, index in enumerate(indices):
        mask = everywhere if atoms[i][0] is _PATTERN else kept
        for axis in range(ndim):
            linked[i, count + axis] = _depends(index, mask, axis)
        for j in range(i):
            linked[i, j] = atoms[i][0] is atoms[j][0]
    return [list(part) for part in components(linked)]


def _uncrossed(
    indices: list[np.ndarray], kept: np.ndarray, atoms: Sequence[Atom]
) -> tuple[list[int], list[int]]:
    """A shape in which axes on which several blocks depend are cut, and the cuts of each axis."""
    shape, cuts = list[int](), list[int]()
    everywhere = np.ones_like(kept)
    for axis, size in enumerate(kept.shape):
        on = [
            i
            for i, index in enumerate(indices)
            if _depends(index, everywhere if atoms[i][0] is _PATTERN else kept, axis)
        ]
        parts = [size]
        if len({atoms[i][0] for i in on}) > 1 and any(atoms[i][0].rho is not None for i in on):
            parts = _cut([indices[i] for i in on], [atoms[i] for i in on], kept, axis) or parts
        shape += parts
        cuts.append(len(parts))
    return shape, cuts


def _cut(
    indices: list[np.ndarray], atoms: Sequence[Atom], kept: np.ndarray, axis: int
) -> list[int] | None:
    """Two sizes into which to cut an axis so that no two blocks depend on one; None: there are none."""
    size = kept.shape[axis]
    for fast in range(2, size):
        if size % fast:
            continue
        parts = [size // fast, fast]
        shape = [*kept.shape[:axis], *parts, *kept.shape[axis + 1 :]]
        on: list[set[object]] = [set(), set()]
        for index, atom in zip(indices, atoms, strict=True):
            mask = np.ones_like(kept) if atom[0] is _PATTERN else kept
            for half in (0, 1):
                if _depends(index.reshape(shape), mask.reshape(shape), axis + half):
                    on[half].add(atom[0])
        if all(len(blocks) < 2 for blocks in on):
            return parts
    return None


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
        _note(call, part.shape, shape)
        return moving(standard, shape)
    if is_grid and not shape:
        assert rho.permutations is not None
        if not (rho.permutations[:, entries] == entries).all():
            _note(call, part.shape, ())
        return []
    found = moved_along(rho, entries)
    if found is not None:
        return moving(found, shape)
    for guess in _guesses(group, shape):
        if agrees(rho, entries, guess):
            return moving(guess, shape)
    raise Lost


def _guesses(group: object, shape: Sequence[int]) -> list[Representation]:
    """Grids in axes that have the sizes of squares, such as overlapping patches of an image."""
    sides = [math.isqrt(n) for n in shape]
    if len(shape) != 2 or any(a * a != n for a, n in zip(sides, shape, strict=True)):
        return []
    pairs = itertools.product(*([(a, a)] for a in sides))
    return [on_grid(group, one) * on_grid(group, two) for one, two in pairs]  # type: ignore[arg-type]


def _note(call: Call, before: Sequence[int], after: Sequence[int]) -> None:
    from equireg.library.functions.defaults import not_symmetric

    call.broken(not_symmetric(call, before, after))


def _unknown(found: object) -> Unknown:
    return found if isinstance(found, Unknown) else Unknown("a function of parameters")
